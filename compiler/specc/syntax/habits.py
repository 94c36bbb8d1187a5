"""Habits of Python in a spec: each has its own message and, where the rewriting is certain, its fix (P001 to P011)."""

from __future__ import annotations

import re
from collections.abc import Callable

from specc.diagnostics import Diagnostic, Edit
from specc.source import Source, Span
from specc.syntax import ast, literals
from specc.syntax.place import Finding, Place

STD = {
    "nn": "Linear Embedding LayerNorm LayerNorm2d RMSNorm GroupNorm BatchNorm1d BatchNorm2d Conv1d Conv2d "
    "ConvTranspose2d CausalConv1d WeightNormConv1d Identity",
    "mlp": "MLP GatedMLP",
    "attn": "SelfAttention CrossAttention MultiheadAttention",
    "rnn": "LSTM GRU",
    "augment": "Spans SpecAugment",
}
"""Blocks of the standard library by module, for imports that a fix adds."""

_KEYWORDS = {
    "lambda": "name the function with `fn`, or pass a built-in one: act = gelu",
    "while": "loops are unrolled at compile time: for i in range(n) { .. }",
    "try": "nothing is thrown at run time; state requirements with `require`",
    "except": "nothing is thrown at run time; state requirements with `require`",
    "finally": "nothing is thrown at run time; state requirements with `require`",
    "raise": 'require cond, "message"',
    "assert": 'require cond, "message"     (in a block, above its methods)',
    "pass": "leave the braces empty",
    "break": "choose the range of the loop",
    "continue": "if cond { .. }",
    "yield": "return a list, or use scan .. emit",
    "global": "parts, parameters and hyper-parameters are in scope by name",
    "nonlocal": "parts, parameters and hyper-parameters are in scope by name",
    "del": "a name that is not used costs nothing",
    "async": "forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] { ... }",
    "await": "call the function: y = f(x)",
    "elif": "else if",
    "match": 'if kind == "a" { .. } else if kind == "b" { .. }',
    "switch": 'if kind == "a" { .. } else if kind == "b" { .. }',
    "function": "fn name(x: Tensor[..]) -> Tensor[..] = ..",
    "func": "fn name(x: Tensor[..]) -> Tensor[..] = ..",
    "const": "let name = ..",
    "var": "let name = ..",
}
_HEADER = r"[ \t]*(?:(elif)\b|else\b|if\b|for\b|when\b|forward\b|fn\b|block\b|model\b)"
_PYTHON_LINE = r"[^\n]*:[ \t]*\Z"


def comprehension_filter(iterable: ast.Ternary) -> Diagnostic:
    """E132 for `[.. for i in xs if cond]`, which the grammar reads as an iterable without `else`."""
    start = iterable.then.span.end
    gap = iterable.span.source.text[start : iterable.span.end]
    span = Span(iterable.span.source, start + len(gap) - len(gap.lstrip()), iterable.span.end)
    whole, every = iterable.then.span.text, re.fullmatch(r"if (\w+) % (\d+) == 0", span.text)
    plain = re.fullmatch(r"range\((\w+)\)", whole)
    help_text = (
        f"range(0, {plain[1]}, {every[2]})"
        if every and plain
        else "choose the elements with range(a, b, step), or list them"
    )
    return Diagnostic("E132", "comprehensions have no filter", span, help=help_text)


def suite_end(text: str, offset: int) -> int:
    """The end of the lines below that of `offset` that are indented deeper than it: the Python block that it heads."""
    start = text.rfind("\n", 0, offset) + 1
    indent = len(text[start:]) - len(text[start:].lstrip(" \t"))
    end = at = _end_of_line(text, offset)
    while at < len(text):
        stop = _end_of_line(text, at + 1)
        line = text[at + 1 : stop]
        if line.strip():
            if len(line) - len(line.lstrip(" \t")) <= indent:
                break
            end = stop
        at = stop
    return end


def _end_of_line(text: str, offset: int) -> int:
    end = text.find("\n", offset)
    return len(text) if end < 0 else end


def _python_header(place: Place) -> int | None:
    """Where the suite ends if the statement is a Python header (`..:` at the end of its line)."""
    end = place.text.find("\n", place.at)  # newlines inside brackets are blank
    end = len(place.text) if end < 0 else end
    return (
        suite_end(place.source.text, end)
        if re.compile(_PYTHON_LINE).match(place.text[place.start : end].rstrip())
        else None
    )


def _def(place: Place) -> Finding | None:
    """P001"""
    match = re.match(r"(?:async +)?def\b", place.statement)
    if not match:
        return None
    name = re.match(r"(?:async +)?def +(\w+)", place.statement)
    head = "forward" if not name or name[1] in ("forward", "__call__", "__init__") else f"fn {name[1]}"
    help_text = f"{head}(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {{ ... }}"
    if name and name[1] == "__init__":
        help_text = "hyper-parameters follow the block's name: block Name(dim: int, heads: int) { ... }"
    note = ""
    if place.kind == "block":
        note = "here a block expects a part (`name: Block(..)`), param, buffer, let, dim, require, tie, init, "
        note += "forward or fn"
    span = place.span(place.start + match.end() - 3, place.start + match.end())
    return place.finding("P001", "specc has no `def`", span, help=help_text, note=note, resume=_python_header(place))


def _class(place: Place) -> Finding | None:
    """P002"""
    match = re.match(r"class +(\w+)", place.statement)
    if not match or place.statement[match.end() :].lstrip().startswith(("=", ",")):
        return None
    help_text = f"block {match[1]}(dim: int) {{ ... }}      or  model {match[1]}(..) for what is built"
    span = place.span(place.start, place.start + 5)
    return place.finding("P002", "specc has no `class`", span, help=help_text, resume=_python_header(place))


def _self_parameter(place: Place) -> Finding | None:
    """P004"""
    if (
        place.previous != "self"
        or place.token not in (",", ")")
        or not re.match(r"(?:forward|fn +\w+) *\(", place.statement)
    ):
        return None
    start = place.before - 4
    end = place.end if place.token == "," else place.at
    end += len(place.text[end:]) - len(place.text[end:].lstrip(" ")) if place.token == "," else 0
    edit = place.edit(start, end, "")
    return place.finding(
        "P004",
        "methods have no `self` parameter",
        place.span(start, start + 4),
        help=place.line_text(start, edit),
        edits=(edit,),
    )


def _self_member(place: Place) -> Finding | None:
    """P003: `self.fc = nn.Linear(..)` in a block, `self.h = ..` in a body."""
    match = re.match(r"self\.(\w+)([ \t]*)(:[^=\n]*)?=[ \t]*", place.statement)
    if not match or place.kind not in ("block", "body", "group"):
        return None
    start, end = place.line(place.start)
    name_start, value = place.start + 5, place.start + match.end()
    edits: list[Edit] = [place.edit(place.start, name_start, "")]
    help_tail = ""
    if place.kind != "body":
        edits.append(place.edit(place.start + match.end(1), value, ": "))
        constructor = re.match(r"((?:torch\.)?nn\.)(\w+)", place.text[value:end])
        if constructor:
            edits.append(place.edit(value, value + constructor.end(1), ""))
            module = next((module for module, names in STD.items() if constructor[2] in names.split()), None)
            line = f"from std.{module} import {constructor[2]}"
            if module and not re.search(
                rf"^from std\.\w+ import .*\b{constructor[2]}\b", place.source.text, re.MULTILINE
            ):
                help_tail = f"      with  {line}"
                first = len(place.source.text) - len(place.source.text.lstrip("\ufeff"))
                edits.append(place.edit(first, first, line + "\n"))
    fixed = place.line_text(place.start, *(e for e in edits if e.span.start >= start))
    return place.finding(
        "P003",
        "there is no `self`; parts and parameters are in scope by name",
        place.span(place.start, place.start + 4),
        help=fixed + help_tail,
        edits=tuple(edits),
    )


def _keyword(place: Place) -> Finding | None:
    """P006"""
    found = None
    for start, end in ((place.at, place.end), (place.before - len(place.previous), place.before), (place.start, 0)):
        match = re.compile(r"[a-z]+\b").match(place.text, start)
        if match and match.group() in _KEYWORDS and (not end or match.end() == end):
            found = match
            break
    if found is None:
        return None
    word = found.group()
    after = place.text[found.end() : found.end() + 40].lstrip(" \t")
    if re.match(r"[:=](?!$|\n)", after) and word not in ("try", "finally", "lambda") and not after.startswith("=="):
        return None  # an ordinary use as a name
    span = place.span(*found.span())
    edits: tuple[Edit, ...] = ()
    if word == "elif" and "{" in place.rest_of_line(found.end()):
        edits = (place.edit(*found.span(), "else if"),)
    if word in ("var", "const") and place.kind in ("file", "block"):
        edits = (place.edit(*found.span(), "let"),)
    message = f"specc has no `{word}`"
    return place.finding("P006", message, span, help=_KEYWORDS[word], edits=edits, resume=_python_header(place))


def _star_arguments(place: Place) -> Finding | None:
    """P007"""
    if place.innermost != "(":
        return None
    if place.previous == "*" and place.token == "*":
        start = place.before - 1  # the first star was read as the `*` of specc
    elif place.token in ("*", "**"):
        start = place.at
    elif place.previous == "*" and re.match(r"\w", place.token):
        start = place.before - 1
    else:
        return None
    match = re.compile(r"\*{1,2}[ \t]*[A-Za-z_][\w.]*").match(place.text, start)
    if not match or not place.text[:start].rstrip().endswith(("(", ",")):
        return None
    declared = re.match(r"(?:block|model|forward|fn|def|extern)\b", place.statement)
    help_text = (
        "declare each parameter with its type: dim: int, heads: int"
        if declared
        else "a bare `*` passes every hyper-parameter of the same name on"
    )
    return place.finding("P007", "there are no `*args` and `**kwargs`", place.span(*match.span()), help=help_text)


def _is_none(place: Place) -> Finding | None:
    """P008"""
    if place.token == "is":
        start = place.at
    elif place.previous == "is":
        start = place.before - 2
    else:
        return None
    operand = re.search(r"(\S+)[ \t]*\Z", place.text[max(place.start, start - 200) : start])
    if not operand or re.match(r"(?:\w+[ \t]+)?is\b", place.statement):
        return None  # not in an expression
    match = re.compile(r"is([ \t]+not)?\b([ \t]+(?:none|None)\b)?").match(place.text, start)
    if not match:
        return None
    instead = "!=" if match[1] else "=="
    tail = " none" if match[2] else ""
    return place.finding(
        "P008",
        f"write `{instead}{tail}`",
        place.span(*match.span()),
        help=f"{operand[1]} {instead}{tail}",
        edits=(place.edit(*match.span(), instead + tail),),
    )


def _colon(place: Place) -> Finding | None:
    """P009"""
    if place.token != ":" or place.rest_of_line(place.end) or place.innermost in ("(", "["):
        return None
    text = place.source.text
    region_end = suite_end(text, place.at)
    following = re.compile(r"\n(?:[ \t]*(?:#[^\n]*)?\n)*([ \t]*)(?:else|elif)\b[^\n]*:")
    indent = re.match(r"[ \t]*", text[place.line(place.start)[0] :])
    while True:  # the branches that belong to an `if`
        match = following.match(text, region_end)
        if not match or not indent or match[1] != indent.group():
            break
        region_end = suite_end(text, match.end() - 1)
    edits = _braces(place.source, place.text, place.line(place.at)[0], region_end)
    fixed = ""
    body = [line.strip() for line in place.text[place.end : region_end].split("\n") if line.strip()]
    head = place.text[place.start : place.at].strip()
    if len(body) == 1 and edits:
        fixed = f"{head} {{ {body[0]} }}"
    else:
        fixed = f"{head} {{ .. }}"
    return place.finding(
        "P009", "blocks are in braces, not `:` and indentation", place.here, help=fixed, edits=edits, resume=region_end
    )


def _braces(source: Source, text: str, start: int, end: int) -> tuple[Edit, ...]:
    """Edits that put every indented suite between two offsets in braces; none if a header has no suite."""
    edits: list[Edit] = []
    closing: dict[int, list[str]] = {}  # where suites end -> the closing lines, innermost first
    at = start
    while at < end:
        stop = _end_of_line(source.text, at)
        line = text[at:stop].rstrip()
        header = re.compile(_HEADER).match(line)
        if header and line.endswith(":"):
            last = suite_end(source.text, at)
            if last == stop:
                return ()
            colon = at + len(line) - 1
            edits.append(Edit(Span(source, colon, colon + 1), " {"))
            if header[1]:
                edits.append(Edit(Span(source, at + header.start(1), at + header.end(1)), "else if"))
            indent = line[: len(line) - len(line.lstrip())]
            closing.setdefault(last, []).insert(0, f"\n{indent}}}")
        at = stop + 1
    edits += [Edit(Span(source, offset, offset), "".join(lines)) for offset, lines in closing.items()]
    return tuple(edits)


def _import(place: Place) -> Finding | None:
    """P011"""
    star = re.match(r"from +([\w.]+|\"[^\"]*\") +import +(\*)", place.statement)
    if star:
        return place.finding(
            "P011",
            "imports name what they take",
            place.span(place.start + star.start(2), place.start + star.end(2)),
            help=f"from {star[1]} import {'Linear, LayerNorm' if star[1].startswith('std') else 'Name'}",
        )
    match = re.match(r"import\b *([\w.]*)(?: +as +\w+)?", place.statement)
    if not match or place.kind != "file":
        return None
    torch = match[1].split(".")[0] in ("torch", "numpy", "math", "einops", "transformers", "typing")
    help_text = (
        "from std.nn import Linear      (operations are built in)" if torch else 'from "./other.spec" import Name'
    )
    edits: tuple[Edit, ...] = ()
    if torch and not place.rest_of_line(place.start + match.end()):
        start, end = place.line(place.start)
        edits = (place.edit(start, min(end + 1, len(place.text)), ""),)
        help_text = "delete the line: operations are built in, layers come  from std.nn import Linear"
    return place.finding(
        "P011", "imports name what they take", place.span(place.start, place.start + 6), help=help_text, edits=edits
    )


RECOGNISERS: tuple[Callable[[Place], Finding | None], ...] = (
    _def,
    _class,
    _import,
    _self_parameter,
    _self_member,
    _colon,
    *literals.RECOGNISERS,
    _is_none,
    _keyword,
    _star_arguments,
)
