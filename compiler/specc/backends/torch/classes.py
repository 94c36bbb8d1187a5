"""Classes and functions before they have names: everything two modules must agree on to be one class."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from specc.backends.torch.fit import fit
from specc.backends.torch.layout import WIDTH, lay_out, signature
from specc.backends.torch.statements import Block, Line, Statement, all_names, rename_in, without_comments


@dataclass(frozen=True)
class Param:
    name: str
    annotation: str
    default: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.annotation}" + (f" = {self.default}" if self.default else "")


@dataclass(frozen=True)
class FunctionDraft:
    """A method, or (`is_method` false) a function of the file. `fixed`: locals that stay what they are."""

    name: str
    params: tuple[Param, ...]
    returns: str
    doc: str
    remarks: tuple[str, ...]
    body: tuple[Statement, ...]
    fixed: frozenset[str] = frozenset()
    is_method: bool = True

    def lines(self, names: Mapping[str, str], indent: int) -> list[str]:
        pad = " " * (indent + 4)
        params = [*(["self"] if self.is_method else []), *map(str, self.params)]
        body = rename_in(self.body, {old: new for old, new in names.items() if old != self.name})
        fixed = self.fixed | _loop_variables(body)
        arguments = frozenset(p.name for p in self.params)
        body = fit(body, indent + 4, taken=frozenset(names.values()), fixed=fixed, arguments=arguments)
        lines = signature(names.get(self.name, self.name), params, self.returns, indent)
        return [
            *lines,
            *docstring(self.doc, indent + 4),
            *(f"{pad}# {r}" for r in self.remarks),
            *lay_out(body, indent + 4),
        ]


@dataclass(frozen=True)
class ClassDraft:
    """`params` of the constructor are without defaults, unless the class is the model's."""

    block: str
    doc: str
    params: tuple[Param, ...]
    body: tuple[Statement, ...]
    methods: tuple[FunctionDraft, ...]

    def bare(self) -> ClassDraft:
        """Without comments and names of sizes that nothing reads: what two modules must agree on to be one class."""
        methods = tuple(
            replace(m, remarks=(), body=without_comments(m.body), fixed=m.fixed & frozenset(all_names(m.body)))
            for m in self.methods
        )
        return replace(self, methods=methods)

    def general(self, other: ClassDraft) -> ClassDraft:
        """The same class with comments that are right for `other` too: a size in which they differ becomes `_`."""
        pairs = zip(self.methods, other.methods, strict=True)
        methods = [
            replace(a, remarks=_common(a.remarks, b.remarks), body=_common_body(a.body, b.body)) for a, b in pairs
        ]
        return replace(self, methods=tuple(methods))

    def with_defaults(self, defaults: Mapping[str, str]) -> ClassDraft:
        return replace(self, params=tuple(replace(p, default=defaults[p.name]) for p in self.params))

    def lines(self, name: str, names: Mapping[str, str]) -> list[str]:
        lines = [f"class {name}(nn.Module):", *docstring(self.doc, 4)]
        if not (self.body or self.params or self.methods):  # a part that holds nothing and that nothing calls
            return lines if self.doc else [*lines, "    pass"]
        if self.doc:
            lines.append("")
        if self.body or self.params:
            lines += signature("__init__", ["self", *map(str, self.params)], "None", 4)
            lines += [" " * 8 + "super().__init__()", *lay_out(rename_in(self.body, names), 8)]
        for method in self.methods:
            lines += [*([""] if lines[-1] != "" and len(lines) > 1 else []), *method.lines(names, 4)]
        return lines


def _loop_variables(statements: Sequence[Statement]) -> frozenset[str]:
    found: set[str] = set()
    for statement in statements:
        if isinstance(statement, Block):
            if statement.header.startswith("for "):
                found.update(n.strip() for n in statement.header[4:].partition(" in ")[0].split(","))
            found |= _loop_variables((*statement.body, *statement.orelse))
    return frozenset(found)


def _common_body(ours: tuple[Statement, ...], theirs: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The same statements with comments that hold for both."""
    done: list[Statement] = []
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Line) and isinstance(b, Line) and a.comment != b.comment:
            a = replace(a, comment=next(iter(_common((a.comment,), (b.comment,))), ""))
        elif isinstance(a, Block) and isinstance(b, Block):
            a = replace(a, body=_common_body(a.body, b.body), orelse=_common_body(a.orelse, b.orelse))
        done.append(a)
    return tuple(done)


def _common(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """Shape comments that hold for both; none if more than sizes differ."""
    if ours == theirs:
        return ours
    merged = []
    for a, b in zip(ours, theirs, strict=False):
        left, right = re.split(r"([\[\],])", a), re.split(r"([\[\],])", b)
        if len(left) != len(right) or len(ours) != len(theirs):
            return ()
        same = [x if x == y else re.sub(r"\S.*", "_", x) for x, y in zip(left, right, strict=True)]
        merged.append("".join(same))
    return tuple(merged)


def docstring(doc: str, indent: int) -> list[str]:
    """The documentation as a docstring, wrapped; nothing for none."""
    text = doc.strip().replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if not text:
        return []
    text += "." if text[-1].isalnum() or text[-1] == ")" else ""
    pad = " " * indent
    paragraphs = [" ".join(p.split()) for p in text.split("\n\n")]
    paragraphs[-1] += " " if text.endswith('"') else ""  # a quote before the closing ones would be one of them
    if len(paragraphs) == 1 and indent + len(paragraphs[0]) + 6 <= WIDTH:
        return [f'{pad}"""{paragraphs[0]}"""']
    # Text that fits one line but for the closing quotes becomes two lines: formatters would join the quotes to one.
    crowded = len(paragraphs) == 1 and indent + len(paragraphs[0]) + 3 <= WIDTH
    lines: list[str] = []
    for i, paragraph in enumerate(paragraphs):
        lines += [""] * bool(i)
        lines += textwrap.wrap(
            paragraph,
            WIDTH - 3 if crowded else WIDTH,
            initial_indent=pad + ("" if i else '"""'),
            subsequent_indent=pad,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return [*lines, f'{pad}"""']
