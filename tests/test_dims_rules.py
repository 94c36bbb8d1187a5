"""Symbolic sizes by example: the language's own, texts, facts and what follows from them, failures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from specc.dims import Dim, DimError, Fact, Facts, Proved, Refuted, Unknown

B, T, Y, H, PAST = (Dim.symbol(name) for name in ("B", "T", "Y", "h", "past(T)"))


# ---- the examples of the language's definition -----------------------------------------------------------------------


def test_a_convolution_that_keeps_the_length() -> None:
    assert (Y + 2 * 1 - 3) // 1 + 1 == Y


def test_five_strided_convolutions() -> None:
    size = Y
    for _ in range(5):
        size = (size + 2 * 1 - 3) // 2 + 1
    assert size == (Y - 1) // 32 + 1
    assert str(size) == "(Y - 1)//32 + 1"


@pytest.mark.parametrize("halve", [lambda n: (n - 2) // 2 + 1, lambda n: n // 2, lambda n: (n - 1) // 2 + 1])
def test_halving_and_doubling_twice(halve: Callable[[Dim], Dim]) -> None:
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


# ---- writing ---------------------------------------------------------------------------------------------------------


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


# ---- units, labels, constants ----------------------------------------------------------------------------------------


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


# ---- facts -----------------------------------------------------------------------------------------------------------


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


# ---- failures --------------------------------------------------------------------------------------------------------


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
def test_failures_are_dim_errors(fails: Callable[[], object]) -> None:
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
