"""Symbolic sizes: the rules of the algebra and the soundness of every answer, held against Python's own arithmetic."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specc.dims import Dim, Facts, Refuted
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


# ---- the normal form -------------------------------------------------------------------------------------------------


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


# ---- soundness of the answers ----------------------------------------------------------------------------------------


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
