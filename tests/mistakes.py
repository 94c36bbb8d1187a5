"""Twenty ways in which a spec goes wrong while it is written, applied to real ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A wrong spec: its text, the line (from 1) where somebody went wrong, and what they did."""

    kind: str
    line: int
    text: str
    was: str
    now: str


Edit = Callable[[str], Iterator[tuple[int, int, str]]]
"""Places (start, end) and what somebody wrote there."""


def pattern(regex: str, replace: Callable[[re.Match[str]], str | None], where: str | None = None) -> Edit:
    compiled = re.compile(regex, re.M)

    def edits(text: str) -> Iterator[tuple[int, int, str]]:
        for match in compiled.finditer(text):
            new = replace(match)
            if new is not None and not _comment(text, match.start()):
                yield match.start(), match.end(), new

    return edits


def _comment(text: str, at: int) -> bool:
    start = text.rfind("\n", 0, at) + 1
    return "#" in text[start:at]


def typo(name: str) -> str:
    """Two letters swapped, as fingers do."""
    i = max(1, len(name) // 2)
    swapped = name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :] if i < len(name) else name + "x"
    return swapped if swapped != name else name + "s"


KINDS: dict[str, Edit] = {
    # names
    "part misspelt where it is called": pattern(r"(?<=\|> )([a-z_][a-z_0-9]{3,})\b(?!\s*\()", lambda m: typo(m[1])),
    "part misspelt where it is declared": pattern(r"^  ([a-z_0-9]{3,})(?=:\s+[A-Z]\w+\()", lambda m: "  " + typo(m[1])),
    "block misspelt": pattern(r"(?<=: )([A-Z]\w+)(?=\()", lambda m: typo(m[1])),
    "import forgotten": pattern(r"^from std\.nn import (\w+), ", lambda m: "from std.nn import "),
    "import line forgotten": pattern(r"^from [^\n]+\n", lambda m: "\n"),
    "hyper-parameter misspelt": pattern(r"(?<=[(,] )(dim|hidden|heads|eps)(?=[,)])", lambda m: typo(m[1])),
    "argument of a function misspelt": pattern(r"\b(causal|mask|axis|scale)(?= = )", lambda m: typo(m[1])),
    "dim undeclared": pattern(r"^dim (\w+), ", lambda m: "dim "),
    "dim misspelt in a signature": pattern(r"(?<=Tensor\[B, )(T|dim|S)(?=[,\]])", lambda m: m[1] + "x"),
    # shapes
    "sizes swapped": pattern(
        r"Linear\((\w+), (\w+)([,)])", lambda m: f"Linear({m[2]}, {m[1]}{m[3]}" if m[1] != m[2] else None
    ),
    "wrong size": pattern(r"(?<=Linear\()(\w+), ", lambda m: f"2*{m[1]}, "),
    "result declared too wide": pattern(r"-> (Tensor\[B, T, )(\w+)\](?= [{=])", lambda m: f"-> {m[1]}2*{m[2]}]"),
    "axis pattern reordered": pattern(r"rearrange\(\[B, T, ", lambda m: "rearrange([T, B, "),
    # syntax
    "closing brace forgotten": pattern(r"\n}\n", lambda m: "\n\n"),
    "opening brace forgotten": pattern(r"(?<=\)) \{\n", lambda m: "\n"),
    "closing parenthesis forgotten": pattern(r"\)(?=\n)", lambda m: ""),
    "comma forgotten": pattern(r"(?<=\w), (?=\w+[,)])", lambda m: " "),
    "Python's True": pattern(r"= (true|false)\b", lambda m: f"= {m[1].title()}"),
    "Python's None": pattern(r"!= none\b", lambda m: "is not None"),
    "self": pattern(r"(?<=\|> )([a-z_][a-z_0-9.]+)\b", lambda m: f"self.{m[1]}"),
    "single quotes": pattern(r'"([a-z-]+)"', lambda m: f"'{m[1]}'"),
    "colon for a brace": pattern(r" \{$", lambda m: ":"),
    "def": pattern(r"^  forward\(", lambda m: "  def forward("),
    "assignment for a declaration": pattern(r"^  ([a-z_0-9]+): +(?=[A-Z]\w+\()", lambda m: f"  {m[1]} = "),
    "return forgotten": pattern(r"^    return ", lambda m: "    "),
    # hyper-parameters and presets
    "preset sets what is not there": pattern(r"(?<=[( ])(dim|layers|heads)(?= = \d)", lambda m: "n_" + m[1]),
    "preset of another type": pattern(r"(?<=^preset )(.* = )(\d+)(?=[,)])", lambda m: f'{m[1]}"{m[2]}"'),
    "heads that do not divide": pattern(r"\bheads = (\d+)", lambda m: f"heads = {int(m[1]) + 1}"),
    "an argument left out": pattern(r"Linear\((\w+), (\w+)\)", lambda m: f"Linear({m[1]})"),
    "an argument too many": pattern(
        r"(LayerNorm|RMSNorm)\((\w+)\)", lambda m: f"{m[1]}({m[2]}, 1e-5, true, true, true)"
    ),
    # weights
    "stale name of the model": pattern(
        r'^  "([\w.{}+]+)\.(\w+)(?=\.?[\w*{}]*" =)', lambda m: f'  "{m[1]}.{typo(m[2])}'
    ),
    "config key of no hyper-parameter": pattern(r"^    (\w{3,}) = (?=\w+)", lambda m: f"    {typo(m[1])} = "),
    "transpose of nothing": pattern(r"\|> transpose\b", lambda m: "|> transposed"),
    "init rule of a stale name": pattern(r"(Linear|Embedding|LayerNorm)\.weight(?= = )", lambda m: f"{m[1]}.weights"),
    "tie to nothing": pattern(r"(?<=^  tie )([\w.]+)\.weight", lambda m: f"{m[1]}.wieght"),
    "unknown operation": pattern(r"\b(softmax|sdpa|concat|split|rearrange|gelu|silu|relu)(?=\()", lambda m: typo(m[1])),
    "method of torch": pattern(r"= (\w+)\((\w+)\)$", lambda m: f"= {m[1]}.apply({m[2]})"),
}


def mistakes(text: str, per_kind: int = 1) -> Iterator[Mistake]:
    """Each kind at up to `per_kind` places, spread over the text."""
    for kind, edits in KINDS.items():
        found = list(edits(text))
        if len(found) > per_kind:
            found = [found[len(found) * (2 * i + 1) // (2 * per_kind)] for i in range(per_kind)]
        for start, end, new in found:
            was = text[start:end]
            line = text.count("\n", 0, start + len(was) - len(was.lstrip("\n"))) + 1
            yield Mistake(kind, line, text[:start] + new + text[end:], was, new)
