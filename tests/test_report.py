"""The printer: the layout of messages, what programs read, and fixes."""

from __future__ import annotations

import json
import re

import pytest

from specc import report
from specc.diagnostics import Collector, Diagnostic, Edit, Label, Size
from specc.source import Source, Span
from specc.syntax.parser import parse


def place(source: Source, text: str, nth: int = 0) -> Span:
    """The nth occurrence of a text in a source."""
    at = -1
    for _ in range(nth + 1):
        at = source.text.index(text, at + 1)
    return Span(source, at, at + len(text))


GPT2 = Source("gpt2.spec", "\n" * 27 + "    a\n    x += x |> ln_2 |> mlp.c_fc\n    y = 1\n")


def residual() -> Diagnostic:
    return Diagnostic(
        "S200",
        "cannot add Tensor[B, T, 3072] to Tensor[B, T, 768]",
        place(GPT2, "x |> ln_2 |> mlp.c_fc"),
        label="Tensor[B, T, hidden]",
        others=(Label(place(GPT2, "x"), "Tensor[B, T, dim]"),),
        path="in GPT2 > h.0: GPT2Block",
        sizes=(Size("dim", "768", "default of GPT2 (gpt2.spec:35)"), Size("hidden", "3072", "4*dim (gpt2.spec:36)")),
        help="project back before the residual:  x += x |> ln_2 |> mlp",
    )


def test_labels_on_one_line_and_aligned_sizes() -> None:
    assert report.full([residual()]) == (
        "error[S200]: cannot add Tensor[B, T, 3072] to Tensor[B, T, 768]\n"
        "  --> gpt2.spec:29:10   (in GPT2 > h.0: GPT2Block)\n"
        "29 |     x += x |> ln_2 |> mlp.c_fc\n"
        "   |     -    ^^^^^^^^^^^^^^^^^^^^^ Tensor[B, T, hidden]\n"
        "   |     Tensor[B, T, dim]\n"
        "   = dim    = 768    default of GPT2 (gpt2.spec:35)\n"
        "   = hidden = 3072   4*dim (gpt2.spec:36)\n"
        "   = help: project back before the residual:  x += x |> ln_2 |> mlp\n"
    )


def test_labels_on_several_lines_and_notes() -> None:
    source = Source("m.spec", "\n" * 8 + "k, v = cached(k, v, along = T)\ny = sdpa(q, k, v, mask = mask)\n")
    text = report.full([
        Diagnostic(
            "S241",
            "the mask covers T keys, there are S",
            place(source, "mask = mask"),
            others=(Label(place(source, "cached"), "keys now have length S"),),
            notes=(("why", "first line\nsecond line"), ("found", "Bool[B, T]")),
            help="mask: Bool[B, S]",
            edits=(Edit(place(source, "mask"), "m"),),
            note="masks cover past and current positions",
        )
    ])  # fmt: skip
    assert text == (
        "error[S241]: the mask covers T keys, there are S\n"
        "  --> m.spec:10:19\n"
        " 9 | k, v = cached(k, v, along = T)\n"
        "   |        ------ keys now have length S\n"
        "10 | y = sdpa(q, k, v, mask = mask)\n"
        "   |                   ^^^^^^^^^^^\n"
        "   = why: first line\n"
        "          second line\n"
        "   = found: Bool[B, T]\n"
        "   = help: mask: Bool[B, S]      (fixable)\n"
        "   = note: masks cover past and current positions\n"
    )


def test_a_place_in_another_file_and_none_at_all() -> None:
    other = Source("std/nn.spec", "block Linear { }\n")
    source = Source("m.spec", "fc: Linear(1)\n")
    found = Diagnostic(
        "E124", "missing", place(source, "Linear"), others=(Label(place(other, "Linear"), "declared here"),)
    )
    assert report.full([found]).endswith("  |     ^^^^^^\n  = see: std/nn.spec:1: declared here\n")
    assert report.full([Diagnostic("B640", "the disk is full", path="in build/x")]) == (
        "error[B640]: the disk is full\n  (in build/x)\n"
    )


def test_file_order_and_at_most_twenty_errors() -> None:
    source = Source("m.spec", "x\n" * 100)
    many = [Diagnostic("P000", f"error {n}", Span(source, 2 * n, 2 * n + 1)) for n in range(30)]
    text = report.full(reversed(many))
    assert re.findall(r"error (\d+)", text) == [str(n) for n in range(20)]
    assert text.endswith("10 more errors\n")
    assert report.full([]) == report.concise([]) == report.github([]) == ""


def test_source_text_cannot_disturb_a_terminal() -> None:
    source = Source("a\x1b[2J.spec", 'let a = "\x1b[31m\u202e"\t# \x07\n')
    for color in (False, True):
        text = report.full(
            [Diagnostic("P093", "bad \x1b[0m \u2066", place(source, "\u202e"), label="\x9b")], color=color
        )
        plain = re.sub(r"\x1b\[[\d;]*m", "", text) if color else text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066]", plain)
    assert "<U+001B>[31m<U+202E>" in text
    for render in (report.concise, report.github, report.as_json, report.sarif):
        assert "\u202e" not in render([Diagnostic("P093", "x", place(source, "\u202e"))])


@pytest.mark.parametrize("at", [0, 80, 150, 1000, 2900, 2999])
def test_long_lines_are_cut_around_the_caret(at: int) -> None:
    line = "".join(chr(97 + n % 26) for n in range(3000))
    source = Source("m.spec", line)
    rows = report.full([Diagnostic("P000", "here", Span(source, at, at + 1))]).splitlines()
    assert all(len(row) <= report.WIDTH + 4 for row in rows)
    assert rows[2][rows[3].index("^")] == line[at]


def test_carets_stay_inside_their_line() -> None:
    source = Source("m.spec", "block M {\n  a\n}\nlet b = 1\n")
    rows = report.full([Diagnostic("E104", "twice", Span(source, 0, 16))]).splitlines()
    assert rows[2:] == ["1 | block M {", "  | ^^^^^^^^^"]
    assert (
        report.full([Diagnostic("P000", "end", Span(source, len(source.text), len(source.text)))]).splitlines()[-1]
        == "  | ^"
    )


def test_colours_only_when_asked() -> None:
    assert "\x1b" not in report.full([residual()])
    coloured = report.full([residual()], color=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == report.full([residual()])


def test_the_path_that_the_user_gave_is_printed() -> None:
    source = Source("m.spec", "x\n", "../models/m.spec")
    found = [Diagnostic("P000", "here", place(source, "x"))]
    assert " --> ../models/m.spec:1:1\n" in report.full(found)
    assert report.concise(found).startswith("../models/m.spec:1:1: ")


def test_concise() -> None:
    assert report.concise([residual()]) == (
        "gpt2.spec:29:10: error[S200]: cannot add Tensor[B, T, 3072] to Tensor[B, T, 768]\n"
    )


def test_json() -> None:
    (data,) = json.loads(report.as_json([residual()]))
    assert data["code"] == "S200" and data["severity"] == "error" and data["file"] == "gpt2.spec"
    assert data["range"]["start"] == {"line": 29, "column": 10, "offset": place(GPT2, "x |>").start}
    assert data["sizes"][1] == {"name": "hidden", "value": "3072", "origin": "4*dim (gpt2.spec:36)"}
    assert data["related"][0]["text"] == "Tensor[B, T, dim]"


def test_github() -> None:
    source = Source("a,b:c.spec", "x\n")
    text = report.github([Diagnostic("W305", "50% sure\nreally", place(source, "x"), help="h", severity="warning")])
    assert text == (
        "::warning file=a%2Cb%3Ac.spec,line=1,col=1,endLine=1,endColumn=2,"
        "title=specc W305::50%25 sure%0Areally%0Ahelp: h\n"
    )


def test_sarif() -> None:
    source = Source("m.spec", "let a = None\n")
    collector = Collector()
    parse(source, collector)
    log = json.loads(report.sarif([*collector.found, Diagnostic("B640", "full")]))
    run = log["runs"][0]
    first = run["results"][0]
    assert log["version"] == "2.1.0"
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == "P005"
    region = first["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 9, "endLine": 1, "endColumn": 13}
    assert first["fixes"][0]["artifactChanges"][0]["replacements"][0]["insertedContent"]["text"] == "none"
    assert "locations" not in run["results"][1]


def test_fixes() -> None:
    source = Source("m.spec", "abcdef")
    other = Source("n.spec", "other")

    def fix(*edits: tuple[int, int, str], where: Source = source) -> Diagnostic:
        return Diagnostic("P000", f"{edits}", None, edits=tuple(Edit(Span(where, a, b), t) for a, b, t in edits))

    assert report.apply_edits("abcdef", [fix((4, 5, "X")), fix((0, 1, ""), (2, 2, "-"))]) == "b-cdXf"
    assert report.apply_edits("abcdef", [fix((0, 3, "1")), fix((2, 4, "2"), (5, 6, "3"))]) == "1def"
    assert report.apply_edits("abcdef", [fix((0, 1, "X"), where=other)]) == "abcdef"
    assert report.apply_edits("abcdef", [fix((0, 0, "from a\n")), fix((0, 0, "from a\n"))]) == "from a\nabcdef"


def test_ignored_warnings() -> None:
    source = Source("m.spec", "a = b  # specc: ignore[W305, N204]\nc = d\n")
    here, there = place(source, "a"), place(source, "c = d")
    warning = Diagnostic("W305", "w", here, severity="warning")
    assert report.suppressed(warning)
    assert report.full([warning, Diagnostic("N204", "n", here, severity="note")]) == ""
    for kept in (
        Diagnostic("W305", "w", here),
        Diagnostic("T510", "w", here, severity="warning"),
        Diagnostic("W305", "w", there, severity="warning"),
        Diagnostic("W305", "w", severity="warning"),
    ):
        assert not report.suppressed(kept) and report.concise([kept])
