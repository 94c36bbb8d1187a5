"""Symbolic sizes: the rules of the algebra, the soundness of every answer, and the language's own examples."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specc.dims import Dim, DimError, Fact, Facts, Proved, Refuted, Unknown
from specc.dims.congruence import case_split

NAMES = ("T", "Y", "h", "past(T)")
PYTHON = {"T": "t", "Y": "y", "h": "hh", "past(T)": "p"}
B, T, Y, H, PAST = (Dim.symbol(name) for name in ("B", "T", "Y", "h", "past(T)"))

environments = st.fixed_dictionaries({name: st.integers(0 if name.startswith("past") else 1, 40) for name in NAMES})


class Tree:
    """An expression as written, evaluated by Python itself: what the normal form is held against."""

    def __init__(self, dim: Dim, source: str) -> None:
        self.dim = dim
        self.source = source

    def __repr__(self) -> str:
        return self.source

    def value(self, env: Mapping[str, int]) -> int:
        return int(eval(self.source, {}, {PYTHON[name]: value for name, value in env.items()}))


def _combine(parts: tuple[str, Tree, Tree]) -> Tree:
    op, left, right = parts
    dim = {"+": left.dim + right.dim, "-": left.dim - right.dim, "*": left.dim * right.dim}[op]
    return Tree(dim, f"({left.source} {op} {right.source})")


def _divide(parts: tuple[str, Tree, int]) -> Tree:
    op, left, n = parts
    return Tree(left.dim // n if op == "//" else left.dim % n, f"({left.source} {op} {n})")


def _divide_by_symbol(parts: tuple[Tree, str, int]) -> Tree:
    left, name, n = parts
    return Tree(left.dim // (Dim.symbol(name) * n), f"({left.source} // ({n} * {PYTHON[name]}))")


leaves = st.one_of(
    st.sampled_from(NAMES).map(lambda name: Tree(Dim.symbol(name), PYTHON[name])),
    st.integers(-9, 9).map(lambda n: Tree(Dim.const(n), f"({n})")),
)


def _linear(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.tuples(st.sampled_from("+-*"), children, children).map(_combine),
        st.tuples(st.sampled_from(["//", "//", "%"]), children, st.integers(1, 6)).map(_divide),
    )


def _any(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    by_symbol = st.tuples(children, st.sampled_from(["T", "Y", "h"]), st.integers(1, 3)).map(_divide_by_symbol)
    return st.one_of(_linear(children), by_symbol)


trees = st.recursive(leaves, _any, max_leaves=7)
simple_trees = st.recursive(leaves, _linear, max_leaves=5)

polynomials = st.recursive(
    leaves, lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner).map(_combine), max_leaves=6
)

statements = st.lists(
    st.tuples(
        st.sampled_from(["ge", "le", "div"]),
        st.sampled_from([T, Y, H, PAST, PAST + T, T + Y, 2 * Y, Y - T, Y + 1, Y // 2]),
        st.integers(1, 12),
    ),
    max_size=3,
)


def _facts(stated: list[tuple[str, Dim, int]]) -> Facts:
    facts = Facts.EMPTY
    for kind, dim, n in stated:
        if kind == "div":
            facts = facts.divisible(dim, n)
        else:
            facts = facts.bound(dim, n, None) if kind == "ge" else facts.bound(dim, None, n + 8)
    return facts


@st.composite
def situations(draw: st.DrawFn) -> tuple[Facts, dict[str, int]]:
    """Facts with sizes that satisfy them, near the least ones or anywhere."""
    facts = _facts(draw(statements))
    env = draw(environments)
    if facts.satisfied_by(env) is not None:
        found = list(facts.sample(NAMES, limit=200))
        assume(found)
        env = draw(st.sampled_from(found))
    assert facts.satisfied_by(env) is None
    return facts, env


# The normal form -----------------------------------------------------------------------------------------------------


@given(trees, environments)
def test_every_way_to_compute_a_size_gives_the_same_value(tree: Tree, env: dict[str, int]) -> None:
    expected = tree.value(env)
    renamed = {PYTHON[name]: value for name, value in env.items()}
    assert tree.dim.evaluate(env) == expected
    assert eval(tree.dim.python(PYTHON), {}, renamed) == expected
    text = str(tree.dim).replace("past(T)", "p").replace("T", "t").replace("Y", "y").replace("h", "hh")
    assert eval(text, {}, renamed) == expected


@given(trees)
def test_json_and_pickle_give_the_size_back(tree: Tree) -> None:
    assert Dim.from_json(json.loads(json.dumps(tree.dim.to_json()))) == tree.dim
    assert pickle.loads(pickle.dumps(tree.dim)) == tree.dim == copy.deepcopy(tree.dim)


@given(trees, trees, trees)
def test_ring_identities(left: Tree, middle: Tree, right: Tree) -> None:
    a, b, c = left.dim, middle.dim, right.dim
    assert a + b == b + a and a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0 and a + 0 == a == a * 1 and a * 0 == 0
    assert hash(a + b) == hash(b + a) and str(a + b) == str(b + a)


@given(polynomials, trees, st.integers(1, 12), st.integers(1, 12))
def test_division_rules(polynomial: Tree, other: Tree, n: int, m: int) -> None:
    a, q = polynomial.dim, other.dim
    assert (n * q + a) // n == q + a // n
    assert (a // m) // n == a // (m * n)
    assert (a // m + 5) // n == (a + 5 * m) // (m * n)
    assert (m * a) // (m * n) == a // n
    assert q % n == q - n * (q // n)
    assert (q * H) // H == q


@settings(deadline=None)
@given(simple_trees, st.integers(1, 12), st.integers(1, 12))
def test_division_rules_of_nested_quotients_are_never_refuted(tree: Tree, n: int, m: int) -> None:
    a = tree.dim
    assert not isinstance(Facts.EMPTY.equal((a // m) // n, a // (m * n)), Refuted)
    assert not isinstance(Facts.EMPTY.equal((a // m + 5) // n, (a + 5 * m) // (m * n)), Refuted)
    assert not isinstance(Facts.EMPTY.equal((a % (n * m)) % n, a % n), Refuted)


@given(simple_trees, simple_trees, environments)
def test_substitution_commutes_with_evaluation(tree: Tree, inner: Tree, env: dict[str, int]) -> None:
    replaced = tree.dim.substitute({"T": inner.dim})
    assert replaced.evaluate(env) == tree.dim.evaluate({**env, "T": inner.dim.evaluate(env)})
    assert tree.dim.substitute(env) == tree.dim.evaluate(env)


def test_substitution_is_simultaneous() -> None:
    assert (T - 2 * Y).substitute({"T": Y, "Y": T}) == Y - 2 * T


# Soundness of the answers --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(simple_trees, simple_trees, situations())
def test_equal_is_sound(left: Tree, right: Tree, situation: tuple[Facts, dict[str, int]]) -> None:
    facts, env = situation
    answer = facts.equal(left.dim, right.dim)
    if isinstance(answer, Refuted):
        full = {**dict.fromkeys(NAMES, 1), **answer.env}
        assert facts.satisfied_by(answer.env) is None
        assert (left.value(full), right.value(full)) == (answer.left, answer.right)
        assert answer.left != answer.right
    assert not answer or left.value(env) == right.value(env)


@settings(deadline=None)
@given(simple_trees, situations())
def test_what_the_facts_make_equal_is_equal(tree: Tree, situation: tuple[Facts, dict[str, int]]) -> None:
    facts, env = situation
    for other in (facts.normal(tree.dim), tree.dim // 2 * 2, tree.dim % 3, tree.dim.substitute({"Y": T})):
        assert not facts.equal(tree.dim, other) or tree.value(env) == other.evaluate(env)


@settings(deadline=None)
@given(simple_trees, situations())
def test_bounds_and_normal_forms_are_sound(tree: Tree, situation: tuple[Facts, dict[str, int]]) -> None:
    facts, env = situation
    value = tree.value(env)
    low, high = facts.interval(tree.dim)
    assert (low is None or low <= value) and (high is None or value <= high)
    assert facts.normal(tree.dim).evaluate(env) == value
    assert facts.normal(facts.normal(tree.dim)) == facts.normal(tree.dim)
    for name in NAMES:
        least, most = facts.bounds_of(name)
        assert least <= env[name] and (most is None or env[name] <= most)
    assert facts.contradiction is None


@settings(deadline=None)
@given(simple_trees, situations(), st.integers(-5, 20))
def test_comparisons_are_sound(tree: Tree, situation: tuple[Facts, dict[str, int]], n: int) -> None:
    facts, env = situation
    value = tree.value(env)
    for answer, holds in (
        (facts.at_least(tree.dim, n), value >= n),
        (facts.at_most(tree.dim, n), value <= n),
        (facts.divides(max(n, 1), tree.dim), value % max(n, 1) == 0),
    ):
        assert holds or not answer
        if isinstance(answer, Refuted):
            assert facts.satisfied_by(answer.env) is None
    refuted = facts.at_least(tree.dim, n)
    if isinstance(refuted, Refuted):
        assert refuted.left < n and tree.dim.evaluate(refuted.env) == refuted.left and refuted.right == n


@settings(deadline=None)
@given(simple_trees, st.integers(-2, 6), st.integers(2, 4), st.integers(0, 3))
def test_the_case_split_is_sound_without_the_search_before_it(tree: Tree, n: int, modulus: int, r: int) -> None:
    assume(r < modulus)
    proved = case_split(
        tree.dim - n,
        {"Y": (r, modulus)},
        lambda name: (1, 12) if name == "T" else (0, 20),
        lambda gap: gap[0] is not None and gap[0] >= 0,
    )
    if proved:
        for t in range(1, 13):
            for y in range(r, 21, modulus):
                assert tree.value({"T": t, "Y": y, "h": 3, "past(T)": 0}) >= n


def test_the_case_split_uses_the_bounds() -> None:
    # Y//2 + (Y + 1)//2 is Y: at least 1, and every class of Y modulo 2 has to show it.
    gap = Y // 2 + (Y + 1) // 2 - 1
    assert case_split(gap, {}, lambda _: (1, None), lambda found: found[0] is not None and found[0] >= 0)
    assert not case_split(gap, {}, lambda _: (0, None), lambda found: found[0] is not None and found[0] >= 0)
    assert not case_split(Y % 7 % 5 - 4, {}, lambda _: (1, None), lambda found: found[1] is not None and found[1] < 0)


@settings(deadline=None)
@given(statements, st.sets(st.sampled_from(NAMES), min_size=1))
def test_samples_satisfy_the_facts_and_come_once(stated: list[tuple[str, Dim, int]], names: set[str]) -> None:
    facts = _facts(stated)
    sampled = list(facts.sample(sorted(names), limit=400))
    assert all(facts.satisfied_by(env) is None and names <= env.keys() for env in sampled)
    assert len({tuple(env.items()) for env in sampled}) == len(sampled)
    assert sampled == list(facts.sample(sorted(names), limit=400))


# The examples of the language's definition ---------------------------------------------------------------------------


def test_a_convolution_that_keeps_the_length() -> None:
    assert (Y + 2 * 1 - 3) // 1 + 1 == Y


def test_five_strided_convolutions() -> None:
    size = Y
    for _ in range(5):
        size = (size + 2 * 1 - 3) // 2 + 1
    assert size == (Y - 1) // 32 + 1
    assert str(size) == "(Y - 1)//32 + 1"


@pytest.mark.parametrize("halve", [lambda n: (n - 2) // 2 + 1, lambda n: n // 2, lambda n: (n - 1) // 2 + 1])
def test_halving_and_doubling_twice(halve) -> None:  # type: ignore[no-untyped-def]
    size = halve(halve(Y)) * 2 * 2
    divisible = Facts.EMPTY.divisible(Y, 4)
    assert divisible.equal(size, Y) == Proved()
    assert divisible.normal(size) == Y
    answer = Facts.EMPTY.equal(size, Y)
    assert isinstance(answer, Refuted) and answer.env == {"Y": 2}
    assert Facts.EMPTY.divisible(Y, 2).equal(size, Y) != Proved()
    assert Facts.EMPTY.suggestion(size, Y) == Fact("div", Y, 4)


def test_the_skip_connection_of_a_unet() -> None:
    up = 2 * ((Y - 1) // 2 + 1)
    assert str(up) == "2*((Y - 1)//2 + 1)"
    assert str(Facts.EMPTY.equal(up, Y)) == "Y = 3 gives 4 and 3"


def test_the_key_length_is_bounded_as_a_whole() -> None:
    length = PAST + T
    facts = Facts.EMPTY.bound(length.with_label("S"), None, 1024)
    assert facts.at_most(length, 1024) == Proved()
    assert facts.at_most(2 * length + 1, 2049) == Proved()
    assert facts.bounds_of("T") == (1, 1024) and facts.bounds_of("past(T)") == (0, 1023)
    answer = facts.at_most(length, 1023)
    assert isinstance(answer, Refuted) and answer.left == 1024
    assert facts.satisfied_by({"T": 1000, "past(T)": 25}) == "S <= 1024"
    assert facts.satisfied_by({"T": 1000, "past(T)": 24}) is None


# Writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (Dim.const(768), "768"),
        (Dim.const(-3), "-3"),
        (T - T, "0"),
        (B, "B"),
        (3 * T + 1, "3*T + 1"),
        (4 - T, "4 - T"),
        (-T - 2, "-T - 2"),
        (T * B * 2 - 1, "2*B*T - 1"),
        (T**2 + T, "T**2 + T"),
        (PAST + T, "T + past(T)"),
        (Y % 4, "Y - 4*(Y//4)"),
        (-(Y // 2), "-(Y//2)"),
        ((T + 1) // 3, "(T + 1)//3"),
        ((T + 2) // 3, "(T - 1)//3 + 1"),
        (T * ((Y + 1) // 2), "T*((Y - 1)//2 + 1)"),
        (2 * T * H // H, "2*T"),
        (6 * T * H // (4 * H), "T + T//2"),
        (T // H // 2, "T//(2*h)"),
        ((Y - 1) // 2 + (T - 1) // 2, "(T - 1)//2 + (Y - 1)//2"),
    ],
)
def test_text(dim: Dim, text: str) -> None:
    assert str(dim) == text


def test_python_source_spaces_operators_and_renames() -> None:
    assert (2 * ((Y - 1) // 2 + 1)).python({"Y": "x.shape[2]"}) == "2 * ((x.shape[2] - 1) // 2 + 1)"
    with pytest.raises(DimError, match="no Python name for the size Y"):
        Y.python({})


def test_statements_as_text() -> None:
    facts = Facts.EMPTY.bound(T, 2, 512).divisible(Y, 32).divisible(PAST + T, 8)
    assert [str(s) for s in facts.statements()] == ["T >= 2", "T <= 512", "Y % 32 == 0", "(T + past(T)) % 8 == 0"]


# Units, labels, constants --------------------------------------------------------------------------------------------


def test_marks_do_not_take_part_in_equality_and_are_dropped() -> None:
    labelled = (T * 3).with_label("3*dim")
    assert labelled == 3 * T and hash(labelled) == hash(3 * T) and labelled.label == "3*dim"
    for result in (labelled + 0, labelled * 1, labelled - 0, labelled // 1, labelled**1, labelled.plain()):
        assert result == labelled and result.label is None
    assert Dim.UNIT.unit and Dim.UNIT == 1 and not Dim.const(1).unit
    assert not (Dim.UNIT * 1).unit and not (Dim.UNIT + 0).unit and not Dim.UNIT.plain().unit
    assert T.substitute({"T": Dim.UNIT}).unit
    with pytest.raises(DimError):
        Dim.const(2).as_unit()


def test_constants_equal_integers() -> None:
    assert Dim.const(5) == 5 and hash(Dim.const(5)) == hash(5) and Dim.of(5) is Dim.of(Dim.of(5))
    assert Dim.const(7) // 2 == 3 and Dim.const(-7) % 4 == 1 and Dim.const(2) ** 10 == 1024
    assert Dim.const(5).value == 5 and T.value is None and (T - T).value == 0
    assert (T + Y * PAST // 2).symbols == ("T", "Y", "past(T)")


# Facts ---------------------------------------------------------------------------------------------------------------


def test_equalities_that_only_residue_classes_show() -> None:
    assert Facts.EMPTY.equal(Y // 2 + (Y + 1) // 2, Y) == Proved()
    assert Facts.EMPTY.equal((Y % 6) % 3, Y % 3) == Proved()
    assert Facts.EMPTY.divides(2, Y * (Y + 1)) == Proved()


def test_ranges_keep_the_link_between_a_size_and_its_quotient() -> None:
    assert Facts.EMPTY.interval(Y - 2 * (Y // 2)) == (0, 1)
    assert Facts.EMPTY.interval(T % 5) == (0, 4)
    assert Facts.EMPTY.interval(T**2 - T) == (0, None)
    assert Facts.EMPTY.at_least((T - 1) // 2 + 1, 1) == Proved()
    assert Facts.EMPTY.interval(-T) == (None, -1)


def test_convolution_output_needs_enough_input() -> None:
    answer = Facts.EMPTY.at_least((T - 5) // 2 + 1, 0)
    assert isinstance(answer, Refuted) and answer.env == {"T": 2}
    assert Facts.EMPTY.bound(T, 3, None).at_least((T - 5) // 2 + 1, 0) == Proved()


def test_divisibility_in_its_forms() -> None:
    assert Facts.EMPTY.divisible(Y, 4).divisible(Y, 6).divides(12, Y) == Proved()
    assert Facts.EMPTY.divisible(3 * Y, 4).divides(4, Y) == Proved()
    assert Facts.EMPTY.divisible(Y + 1, 4).bounds_of("Y") == (3, None)
    assert Facts.EMPTY.divisible(PAST + T, 8).equal((PAST + T) // 8 * 8, T + PAST) == Proved()
    assert Facts.EMPTY.divisible(Y * T, 4).divides(2, 3 * Y * T) == Proved()
    assert Facts.EMPTY.divisible(Y, 32).bounds_of("Y") == (32, None)
    answer = Facts.EMPTY.divisible(Y, 2).divides(4, Y)
    assert isinstance(answer, Refuted) and answer.env == {"Y": 2} and answer.left == 2


def test_normal_forms_under_a_shifted_congruence() -> None:
    facts = Facts.EMPTY.divisible(Y + 1, 4)
    assert facts.normal(Y) == Y and facts.normal(Y % 4) == 3 and facts.normal((Y + 3) // 2 * 2) == Y + 3
    assert facts.normal((Y + 5) // 4) == (Y - 3) // 4 + 2


def test_a_point_without_a_value_proves_nothing() -> None:
    # Everywhere else T // past(T) >= 0 holds, and the range is small enough to look at every point.
    facts = Facts.EMPTY.bound(T, None, 3).bound(PAST, None, 2)
    assert facts.at_least(T // PAST, 0) == Unknown()
    assert facts.bound(PAST, 1, None).at_least(T // PAST, 0) == Proved()


def test_contradictory_facts_are_seen() -> None:
    assert Facts.EMPTY.divisible(2 * Y + 1, 4).contradiction == "(2*Y + 1) % 4 == 0"
    assert Facts.EMPTY.bound(T, 5, 4).contradiction == "T is at least 5 and at most 4"
    assert Facts.EMPTY.divisible(Y, 2).divisible(Y + 1, 2).contradiction is not None
    assert Facts.EMPTY.divisible(Y, 32).bound(Y, None, 31).contradiction is not None
    assert list(Facts.EMPTY.bound(T, 5, 4).sample(["T"])) == []


def test_obligations_at_a_call() -> None:
    block = Facts.EMPTY.bound(T, None, 1024).divisible(Y, 4)
    duties = block.rename({"T": PAST + T, "Y": 8 * H}).statements()
    caller = Facts.EMPTY.bound(PAST + T, None, 512)
    assert [bool(caller.holds(duty)) for duty in duties] == [True, True]
    assert isinstance(Facts.EMPTY.holds(duties[0]), Refuted)


def test_a_finite_range_is_examined_whole() -> None:
    facts = Facts.EMPTY.bound(T, None, 30).bound(H, 2, 3)
    assert facts.equal(T // (H * 16), Dim.const(0)) == Proved()
    assert facts.at_most(T // H, 15) == Proved()


def test_nothing_found_is_unknown() -> None:
    # True, as the square root of 2 is irrational, but beyond ranges and residues.
    assert Facts.EMPTY.at_least((T**2 - 2 * Y**2) ** 2, 1) == Unknown()


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fails",
    [
        lambda: T // 0,
        lambda: T % 0,
        lambda: T // (Y - Y),
        lambda: T**-1,
        lambda: T**1000,
        lambda: (T + Y + H + PAST + 1) ** 40,
        lambda: Dim.const(10**30) ** 10**9,
        lambda: (T // Y).evaluate({"T": 3, "Y": 0}),
        lambda: (T + Y).evaluate({"T": 3}),
        lambda: Facts.EMPTY.divisible(T, 0),
        lambda: Facts.EMPTY.divides(-2, T),
        lambda: Dim.from_json(["+", "T"]),
        lambda: Dim.from_json(["/", "T", 2]),
        lambda: Dim.from_json({"T": 1}),
        lambda: Dim.from_json([["+"], 1, 2]),
        lambda: Dim.from_json(True),
    ],
)
def test_failures_are_dim_errors(fails) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DimError):
        fails()


def test_an_unbound_symbol_is_named() -> None:
    with pytest.raises(ValueError, match="the size Y has no value"):
        (T + Y).evaluate({"T": 3})


def test_expressions_cannot_grow_without_end() -> None:
    size = T
    with pytest.raises(DimError, match="too large"):
        for _ in range(2_000):
            size = size * 2 + size // 3


def test_nested_halvings_stay_flat() -> None:
    size = T
    for _ in range(2_000):
        size = (size + 1) // 2
    assert size == (T + 2**2_000 - 1) // 2**2_000


def test_huge_numbers() -> None:
    huge = 10**30
    facts = Facts.EMPTY.bound(T, huge, 10 * huge).divisible(T, 7)
    assert facts.at_least(T, huge) == Proved()
    assert isinstance(facts.at_least(T, 2 * huge), Refuted)
    assert facts.equal(T // 7 * 7, T) == Proved()
    assert facts.equal((T + huge) // huge, T) != Proved()
    assert isinstance(Facts.EMPTY.at_most(3 * T, huge), Refuted)
    assert str(T * huge) == f"{huge}*T"


def test_importing_is_light() -> None:
    root = Path(__file__).parent.parent / "compiler"
    code = (
        "import sys; before = set(sys.modules); import specc.dims;"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(loaded - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}
    )
    assert done.stdout.strip() == "['specc']"
