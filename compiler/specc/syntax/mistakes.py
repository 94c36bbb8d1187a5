"""Malformed input to messages: a mistake is recognised by the line it is on and told as such, never as parser state.

Each recogniser looks at the place of an error and answers with a finding or None; the first answer is reported. Habits
of Python are in `habits.py` and `literals.py`, statements that are none in `bodies.py`, other slips within specc here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from specc.diagnostics import Collector, Edit
from specc.syntax import bodies, habits
from specc.syntax.place import Finding, Place

_OPERAND_END = r'[\w"\])]\Z'
_BLANK = r"[\n; \t]*"
_OPERAND = r'[A-Za-z_0-9"(\[]'
_RESERVED = frozenset("and or not if else for in return true false none".split())
_EXPECTED = {
    "file": "a file has from .. import, dim, let, block, model, fn, extern fn, preset, weights, train and test",
    "block": "a block expects a part (`name: Block(..)`), param, buffer, let, dim, require, tie, moved, init, "
    "forward or fn",
    "group": "a group expects parts (`name: Block(..)`), param and buffer",
    "body": "a body expects statements: x = .., x += .., return, if, for, when, emit or aux",
    "init": 'an init section expects rules: Linear.weight = normal(0.02), or "*.bias" = zeros()',
    "weights": 'a weights section expects config { }, strip, add, rename, ignore, fresh, or "model.path" = "file.path"',
    "config": "a config section expects settings: dim = n_embd, let, require and ignore",
    "train": "a train section expects settings: loss = cross_entropy(logits, data.label)",
    "test": 'a test section expects settings (preset = "tiny") and expect',
}


def report(place: Place, collector: Collector) -> int | None:
    """Report one error. The offset up to which the text belongs to the same mistake; None if that is the statement."""
    for recognise in (*habits.RECOGNISERS, *_RECOGNISERS, _unexpected):
        finding = recognise(place)
        if finding:
            collector.add(finding.diagnostic)
            return finding.resume
    raise AssertionError("the last one always answers")


def _expected(place: Place) -> str:
    expected = _EXPECTED.get(place.kind, "")
    return f"here {expected}" if expected else ""


def _unexpected(place: Place) -> Finding:
    before = place.span(place.before - 1, place.before)
    if place.at >= len(place.text):
        return place.finding("P000", "the file ends in the middle of a statement", before)
    if place.token in ("\n", ";"):
        message = f"the statement is not complete after `{place.previous}`"
        return place.finding("P000", message, before, note=_expected(place))
    note = _expected(place) if place.at == place.start else ""
    return place.finding("P000", f"unexpected `{place.token}`", place.here, note=note)


def _line_start_operator(place: Place) -> Finding | None:
    """P014: an operator begins a line."""
    token = place.token
    if token == "//" and place.first_on_line:
        return place.finding(
            "P000", "comments start with `#`", place.here, help="#", edits=(place.edit(place.at, place.end, "#"),)
        )
    if place.at != place.start or not place.first_on_line or place.before == 0:
        return None
    if not re.fullmatch(r"[-+*/%@.]|\*\*|//|[<>=!~]=|[<>]|and|or|in|if", token):
        return None
    if token in ("if", "in") and place.kind != "file":
        return None
    above = place.source.position(place.before)[0]
    after = place.end + (place.text[place.end : place.end + 1] == " ")
    join = "" if token == "." else " "
    edits: tuple[Edit, ...] = (place.edit(place.before, place.before, join + token), place.edit(place.at, after, ""))
    help_text = f"end line {above} with `{token}`, or put the expression in parentheses; only `|>` may start a line"
    if token == ".":
        help_text = f"put the call on line {above}"
        start = place.text.rfind("\n", 0, place.at) + 1
        between = place.source.text[place.before : start]
        edits = (place.edit(place.before, place.at, ""),) if "#" not in between else ()
    return place.finding(
        "P014",
        "a line cannot start with an operator",
        place.here,
        label="the statement above ended at its newline",
        help=help_text,
        edits=edits,
    )


def _other_languages(place: Place) -> Finding | None:
    """P000: operators of other languages."""
    two = place.text[place.at : place.at + 2]
    for found, instead in (("&&", "and"), ("||", "or"), ("++", "+= 1"), ("--", "-= 1"), ("=>", "->"), ("<>", "!=")):
        if two == found:
            certain = instead[0].isalpha() or found in ("=>", "<>")
            span = place.span(place.at, place.at + 2)
            edits: tuple[Edit, ...] = (place.edit(place.at, place.at + 2, instead),) if certain else ()
            return place.finding("P000", f"there is no `{found}`", span, help=f"write `{instead}`", edits=edits)
    if place.token in ("&", "|", "!", "^", "~") and two[1:] != "=":
        instead = {"&": "and", "|": "or", "!": "not "}.get(place.token, "")
        help_text = f"write `{instead.strip()}`; on Bool tensors it works on each element" if instead else ""
        edits = (place.edit(place.at, place.end, instead),) if instead else ()
        return place.finding("P000", f"there is no `{place.token}`", place.here, help=help_text, edits=edits)
    return None


def _part_with_equals(place: Place) -> Finding | None:
    """P000: `fc = Linear(4, 5)` in a block."""
    if (
        place.kind not in ("block", "group")
        or place.token != "="
        or not re.fullmatch(r"\w+", place.statement[: place.at - place.start].strip())
    ):
        return None
    name = place.previous
    rest = place.rest_of_line(place.end)
    start = place.before
    if name in ("forward", "init") or not rest:
        return None
    is_part = re.match(r"[A-Z]\w*\(|\[|nn\.", rest) is not None
    fixed = f"{name}: {rest}" if is_part else f"let {name} = {rest}"
    edits = (place.edit(start, place.end, ":"),) if is_part else (place.edit(place.start, place.start, "let "),)
    message = "a part is declared with `:`" if is_part else "a value in a block is named with `let`"
    return place.finding("P000", message, place.here, help=fixed, edits=edits)


def _comparison(place: Place) -> Finding | None:
    """P000: `=` where a condition stands."""
    if place.token != "=" or not re.match(r"(?:else )?(?:if|require|expect)\b", place.statement):
        return None
    edit = place.edit(place.at, place.end, "==")
    return place.finding("P000", "a comparison is written `==`", place.here, help="==", edits=(edit,))


def _untyped(place: Place) -> Finding | None:
    """P000: a parameter or result without its type."""
    token = place.token
    name = place.previous
    head = re.match(r"(block|model|forward|fn|extern)\b", place.statement)
    if not head:
        return None
    if token in (",", ")", "=") and re.fullmatch(r"[A-Za-z_]\w*", name) and place.innermost == "(":
        example = "int" if head[1] in ("block", "model") else "Tensor[..]"
        if token == "=":
            example = _literal_type(place.rest_of_line(place.end)) or example
        insert = place.edit(place.before, place.before, f": {example}")
        certain = token == "=" and example != "Tensor[..]"
        return place.finding(
            "P000",
            f"`{name}` has no type",
            place.span(place.before - len(name), place.before),
            help=f"{name}: {example}",
            edits=(insert,) if certain else (),
        )
    if head[1] in ("forward", "fn") and token in ("{", "=") and name == ")":
        return place.finding(
            "P000",
            "the result has no type",
            place.span(place.before - 1, place.before),
            label="expected `->` and a type",
            help="-> Tensor[B, T, dim]",
        )
    return None


def _literal_type(text: str) -> str:
    for pattern, name in (
        (r"\d[\d_]*(?![\d_.e])", "int"),
        (r"\d", "float"),
        (r'"', "str"),
        (r"(?:true|false)\b", "bool"),
    ):
        if re.match(pattern, text):
            return name
    return ""


def _scan_without_states(place: Place) -> Finding | None:
    """P000: `scan x in xs along T {` without `with`."""
    found = re.search(r"\bscan\s+[\w, ]+ in .*\balong\s+\w+\s*\Z", place.text[place.start : place.at])
    if place.token != "{" or found is None:
        return None
    return place.finding(
        "P000",
        "`scan` hands states from step to step: `with` names them and what they begin with",
        place.here,
        help="with h = zeros([B, dim]) {",
        note="what every step computes by itself needs no scan: operators work on all steps at once",
    )


def _nameless_test(place: Place) -> Finding | None:
    """P000: `test Model with B = 2 {` without a name."""
    found = re.fullmatch(r"test[ \t]+(\w+)[ \t]*", place.text[place.start : place.at])
    if found is None or place.token not in ("with", "{"):
        return None
    edit = place.edit(place.at, place.at, '"default" ')
    return place.finding(
        "P000",
        "a test has a name, by which it is reported and chosen",
        place.here,
        help=f'test {found[1]} "default" {place.token} ..',
        edits=(edit,),
    )


def _section_of_no_model(place: Place) -> Finding | None:
    """P000: `test "small" {`, `train {`: a file may have several models."""
    if place.token not in ("test", "train", "weights") or place.at != place.start or place.innermost:
        return None
    rest = place.rest_of_line(place.end)
    models = re.findall(r"^model[ \t]+(\w+)", place.text, re.MULTILINE)
    if not rest.startswith(('"', "{")) or not models:
        return None
    edits = (place.edit(place.end, place.end, f" {models[0]}"),) if len(models) == 1 else ()
    message = f"a {place.token} section names its model"
    return place.finding("P000", message, place.here, help=f"{place.token} {models[0]} {rest}", edits=edits)


def _brace_below(place: Place) -> Finding | None:
    """P000: the `{` of a block on a line of its own."""
    if place.token != "\n" and not (place.token == "{" and place.at == place.start):
        return None
    at = re.compile(_BLANK).match(place.text, place.at).end()  # type: ignore[union-attr]
    if place.text[at : at + 1] != "{" or not place.first_on_line_at(at):
        return None
    edit = place.edit(place.before, at + 1, " {")
    clean = "#" not in place.source.text[place.before : at]
    return place.finding(
        "P000",
        "`{` stands at the end of the line it belongs to",
        place.span(at, at + 1),
        help="move it up",
        edits=(edit,) if clean else (),
    )


def _expect_below(place: Place) -> Finding | None:
    """P000: what a preset is to fulfil, on a line of its own."""
    if place.token != "expect" or place.kind not in ("", "file") or not place.first_on_line:
        return None
    help_text = 'preset ".." = Model(..) expect ..'
    return place.finding("P000", "`expect` stands on the line that its preset ends on", place.here, help=help_text)


def _reserved_name(place: Place) -> Finding | None:
    """P000: a reserved word where a name is declared."""
    if place.token not in _RESERVED or not re.match(r"[ \t]*(?::|=(?!=))", place.text[place.end :]):
        return None
    if place.at != place.start and place.previous not in ("(", ",", "let", "param", "buffer"):
        return None
    return place.finding(
        "P000",
        f"`{place.token}` is a reserved word",
        place.here,
        help=f"{place.token}_",
        note="reserved: and or not if else for in return true false none",
    )


def _missing_comma(place: Place) -> Finding | None:
    """P022: two values beside each other in brackets, two names in an import."""
    edit = place.edit(place.before, place.before, ",")
    listed = re.match(r"from .*\bimport [\w, ]*\Z", place.text[place.start : place.at]) is not None
    if listed and re.match(r"\w", place.token) and place.previous not in ("import", "as", ","):
        return _comma(place, place.line_text(place.at, edit), edit)
    if place.innermost not in ("(", "[") or not re.compile(_OPERAND).match(place.token) or place.before == place.at:
        return None
    if (
        not re.compile(_OPERAND_END).search(place.text[max(place.before - 1, 0) : place.before])
        or place.previous in _RESERVED
        or place.token in _RESERVED
    ):
        return None
    return _comma(place, re.sub(r"^\w+: (?=\w+\()", "", place.line_text(place.at, edit)), edit)


def _comma(place: Place, fixed: str, edit: Edit) -> Finding:
    return place.finding("P022", f"missing comma before `{place.token}`", place.here, help=fixed, edits=(edit,))


def _missing_operand(place: Place) -> Finding | None:
    """P000: an operator without a value on its right."""
    if place.at == place.start or place.before == 0:
        return None
    if not re.fullmatch(r"[-+*/%@=,<>]|\*\*|//|[<>=!~]=|\|>|->|and|or|not", place.previous):
        return None
    next_statement = place.first_on_line and place.token in ("return", "if", "for", "when", "in")
    if re.match(r"[-\w\"(\[]", place.token) and not next_statement:
        return None
    span = place.span(place.before - len(place.previous), place.before)
    return place.finding("P000", f"nothing stands on the right of `{place.previous}`", span)


def _two_statements(place: Place) -> Finding | None:
    """P000: a statement goes on where it should have ended."""
    if place.innermost in ("(", "[") or place.at == place.start or not re.match(r"[A-Za-z_]", place.token):
        return None
    if (
        not re.compile(_OPERAND_END).search(place.text[max(place.before - 1, 0) : place.before])
        and place.previous != "}"
    ):
        return None
    return place.finding(
        "P000",
        f"unexpected `{place.token}` after `{place.previous}`",
        place.here,
        help="one statement a line, or `;` between two",
        note=_expected(place) if place.previous == place.statement.split()[0] else "",
    )


def _ignored(place: Place) -> Finding | None:
    """P000: `ignore` takes keys in `config`, and patterns of tensors in a weights section."""
    if place.previous != "ignore" or place.kind not in ("config", "weights"):
        return None
    bare = place.token.strip('"')
    if place.kind == "weights" and re.match(r"[A-Za-z_]", bare):
        note = "keys of config.json are ignored inside config { }"
        return place.finding(
            "P000", "file tensors are named by strings", place.here, help=f'ignore "{bare}"', note=note
        )
    if place.token.startswith('"') and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", bare):
        edit = place.edit(place.at, place.end, bare)
        message = "keys of config.json are names, not strings"
        return place.finding("P000", message, place.here, help=place.line_text(place.at, edit), edits=(edit,))
    return None


_RECOGNISERS: tuple[Callable[[Place], Finding | None], ...] = (
    _ignored,
    _reserved_name,
    _line_start_operator,
    _other_languages,
    _part_with_equals,
    _comparison,
    _untyped,
    _scan_without_states,
    _nameless_test,
    _expect_below,
    _section_of_no_model,
    _brace_below,
    *bodies.RECOGNISERS,
    _missing_comma,
    _missing_operand,
    _two_statements,
)
