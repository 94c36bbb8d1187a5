"""Messages about characters, strings, brackets and size: what the layout scan refuses (P012, P020, P021, P090-P094)."""

from __future__ import annotations

import re
import unicodedata

from specc.diagnostics import Collector, Diagnostic, Edit, Label
from specc.source import Source, Span
from specc.syntax.indentation import Unclosed, Unopened, misplaced

MAX_SIZE = 1 << 20  # bytes
MAX_LINE = 4096  # characters

# Patterns are compiled when a text is refused: that takes longer than reading one that is not.
# Control characters (a carriage return only before a newline), zero-width and bidirectional-format ones.
_INVISIBLE = (
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]|\r(?!\n)"
)
_LONG_LINE = rf"[^\n]{{{MAX_LINE + 1}}}"
_NON_ASCII = r"[A-Za-z0-9_]*[^\x00-\x7f][\w\u0080-\U0010ffff]*"
_BIDI = "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_LOOKALIKES = {
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\u00d7": "*",
    "\u2212": "-",
    "\u2013": "-",
    "\u2014": "-",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2260": "!=",
    "\u2192": "->",
    "\u2026": "...",
    "\u00a0": " ",
    "\u3000": " ",
    "\u2003": " ",
    "\u2009": " ",
    "\uff08": "(",
    "\uff09": ")",
    "\uff0c": ",",
    "\uff1a": ":",
    "\u00f7": "/",
    "\u00b7": "*",
    "\u2248": "~=",
}
_TOP_LEVEL = (
    r"(?:(block|model|fn|extern|preset|weights|train|test|dim|let)[ \t]+[A-Za-z_\"]|(from|import)[ \t]+[A-Za-z_\"])"
)


def admit(source: Source, collector: Collector) -> bool:
    """Whether a text may be scanned: size, line length, invisible characters. A byte order mark gives a note."""
    text = source.text
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_SIZE:
        collector.add(
            Diagnostic(
                "P090",
                f"{source.name} has {size:,} bytes (limit {MAX_SIZE:,})",
                Span(source, 0, 0),
                help='split the file: from "./other.spec" import Name',
            )
        )
        return False
    long = re.search(_LONG_LINE, text)
    invisible = re.compile(_INVISIBLE).search(text, 1 if text.startswith("\ufeff") else 0)
    # A binary file has both; the one that comes first is the one to show.
    if long and (invisible is None or long.start() <= invisible.start()):
        end = text.find("\n", long.end())
        length = (len(text) if end < 0 else end) - long.start()
        line = source.position(long.start())[0]
        collector.add(
            Diagnostic(
                "P091",
                f"line {line} has {length:,} characters (limit {MAX_LINE:,})",
                Span(source, long.start() + MAX_LINE, long.start() + MAX_LINE + 1),
                help="break the line: a newline ends no statement inside ( ) and [ ], or after an operator or comma",
            )
        )
        return False
    if invisible:
        for count, match in enumerate(re.compile(_INVISIBLE).finditer(text, 1 if text.startswith("\ufeff") else 0)):
            if count == 20:
                break
            _invisible(source, match, collector)
        return False
    if text.startswith("\ufeff"):
        collector.add(
            Diagnostic(
                "P093",
                "the file starts with a byte order mark; it is ignored",
                Span(source, 0, 1),
                help="save the file as UTF-8 without a byte order mark",
                edits=(Edit(Span(source, 0, 1), ""),),
                severity="note",
            )
        )
    return True


def _invisible(source: Source, match: re.Match[str], collector: Collector) -> None:
    char = match.group()
    name = unicodedata.name(char, "").lower() or "control character"
    if re.match(_BIDI, char):
        why = "text would be displayed in another order than it is read"
    elif ord(char) < 32 or 127 <= ord(char) < 160:
        why = "a spec is text; this character has no meaning in one"
    else:
        why = "two texts that look the same would not be the same"
    span = Span(source, match.start(), match.end())
    collector.add(
        Diagnostic(
            "P093",
            f"invisible character U+{ord(char):04X} ({name})",
            span,
            notes=(("why", why),),
            help="delete the character",
            edits=(Edit(span, "\n" if char in "\r\u2028\u2029" else ""),),
        )
    )


def non_ascii(source: Source, start: int, end: int, collector: Collector) -> None:
    """Report characters outside ASCII in code."""
    for match in re.compile(_NON_ASCII).finditer(source.text, start, end):
        if match.group() == "\ufeff":
            continue
        found = match.group()
        char = next(c for c in found if ord(c) > 127)
        replacement = _LOOKALIKES.get(char)
        if replacement is not None:
            at = match.start() + found.index(char)
            span = Span(source, at, at + 1)
            collector.add(
                Diagnostic(
                    "P094",
                    f"`{char}` (U+{ord(char):04X}) is not `{replacement.strip() or 'a space'}`",
                    span,
                    help=f"write {replacement}" if replacement.strip() else "a plain space",
                    edits=(Edit(span, replacement),),
                )
            )
        else:
            collector.add(
                Diagnostic(
                    "P094",
                    f"`{found}` is not in ASCII",
                    Span(source, match.start(), match.end()),
                    notes=(
                        ("why", "names become Python attributes and file keys; letters outside ASCII can look alike"),
                    ),
                    help="use A-Z, a-z, 0-9 and _; any character is fine in comments and strings",
                )
            )


def open_string(source: Source, start: int, end: int, collector: Collector) -> None:
    """Report a string that its line does not close."""
    if source.text[start - 2 : start + 1] == '"""':
        words = source.text[start + 1 : end].strip() or "What it is."
        collector.add(
            Diagnostic(
                "P012",
                "documentation stands in `##` lines above a declaration",
                Span(source, start - 2, start + 1),
                help=f"## {words}",
            )
        )
        return
    text = source.text[start:end].rstrip("\r \t")
    stop = start + len(text)
    closer = re.search(r"[)\]},;\s]*\Z", text)
    at = start + (closer.start() if closer else len(text))
    edits = (Edit(Span(source, at, at), '"'),) if at > start + 1 else ()
    line = source.line(source.position(start)[0])
    fixed = line[: len(line.rstrip())].strip()
    column = at - start + fixed.find(text)
    shown = fixed[:column] + '"' + fixed[column:] if edits else ""
    collector.add(
        Diagnostic(
            "P012",
            "the string is not closed on its line",
            Span(source, start, max(stop, start + 1)),
            help=shown or 'close it with `"`',
            edits=edits,
            note="a string is one line; write a line break in it as \\n",
        )
    )


def too_deep(source: Source, at: int, limit: int, collector: Collector) -> None:
    collector.add(
        Diagnostic(
            "P092",
            f"brackets are nested more than {limit} deep",
            Span(source, at, at + 1),
            help="name inner parts with `let` or a block",
        )
    )


def unopened(source: Source, at: int, collector: Collector) -> None:
    """Report a closing bracket where none is open: at the line that forgot to open it, if indentation tells."""
    found = misplaced(source) if source.text[at] == "}" else None
    if isinstance(found, Unopened):
        _unbraced(source, found, collector)
        return
    span = Span(source, at, at + 1)
    line_start = source.text.rfind("\n", 0, at) + 1
    alone = source.text[line_start:at].strip() == ""
    collector.add(
        Diagnostic(
            "P021",
            f"`{source.text[at]}` closes nothing",
            span,
            label="no bracket is open here",
            help="delete it, or open it earlier"
            if not alone
            else "delete this line, or look for a bracket closed too early above",
        )
    )


def _unbraced(source: Source, found: Unopened, collector: Collector) -> None:
    """Report a header without its brace."""
    colon = source.text[found.end - 1] == ":"
    place = Span(source, found.end - 1, found.end)
    line, column = source.position(found.closed)
    head = source.text[source.text.rfind("\n", 0, found.end) + 1 : found.end].strip().removesuffix(":")
    collector.add(
        Diagnostic(
            "P009" if colon else "P021",
            "blocks are in braces, not `:` and indentation" if colon else "`{` is missing at the end of this line",
            place,
            notes=(("why", f"`}}` at {line}:{column} closes it"),),
            help=f"{head} {{",
            edits=(Edit(place, " {") if colon else Edit(Span(source, found.end, found.end), " {"),),
        )
    )


CLOSING = {"(": ")", "[": "]", "{": "}"}


def mismatched(source: Source, opened: int, closed: int, collector: Collector) -> None:
    """Report a closing bracket of another kind than the innermost open one."""
    want, got = CLOSING[source.text[opened]], source.text[closed]
    line, column = source.position(opened)
    if got == "}":  # the bracket was forgotten lines ago; a person looks at where it opens
        end_line, end_column = source.position(closed)
        collector.add(
            Diagnostic(
                "P020",
                f"`{source.text[opened]}` opened at {line}:{column} is never closed",
                Span(source, opened, opened + 1),
                notes=(("why", f"`}}` at {end_line}:{end_column} ends the block around it"),),
                help=f"close it with `{want}`",
            )
        )
        return
    collector.add(
        Diagnostic(
            "P020",
            f"`{source.text[opened]}` opened at {line}:{column} is closed by `{got}`",
            Span(source, closed, closed + 1),
            label=f"expected `{want}`",
            others=(Label(Span(source, opened, opened + 1), "opened here"),),
            help=f"close it with `{want}` before `{got}`, or remove one of the two",
        )
    )


def unclosed(source: Source, stack: list[int], collector: Collector) -> None:
    """Report the brackets that are still open at the end, at the one a person would look at.

    That is the innermost one that was open when a declaration started at column 1, which only the top level does.
    """
    found = misplaced(source)
    if isinstance(found, Unclosed):
        what = _owner(source.text, found.opened)
        end_line, end_column = source.position(found.closed)
        why = f"`}}` at {end_line}:{end_column} stands for something further out"
        _never_closed(source, found.opened, why, f"close {what or 'it with `}`'} before line {end_line}", collector)
        return
    opened, number, verb = _declared_inside(source, stack)
    what, closing = _owner(source.text, opened), CLOSING[source.text[opened]]
    if not number:
        _never_closed(source, opened, "", f"close it with `{closing}`", collector)
        return
    others = any(at < opened for at in stack)
    subject = f"{what} and its block" if what and others else what or f"it with `{closing}`"
    why = f"line {number} {verb} at column 1, while {what or 'it'} is still open"
    _never_closed(source, opened, why, f"close {subject} before line {number}", collector)


def _declared_inside(source: Source, stack: list[int]) -> tuple[int, int, str]:
    """The bracket that was open where a declaration starts at column 1, the declaration's line, and how it starts.

    Line 0 where there is no such declaration.
    """
    for number in range(source.position(stack[0])[0] + 1, len(source.line_starts) + 1):
        start = source.line_starts[number - 1]
        item = re.compile(_TOP_LEVEL).match(source.text, start)
        if item:
            kind = item.group(1) or item.group(2)
            article = "an" if kind[0] in "aeiou" else "a"
            verb = f"starts {article} {kind}" if kind not in ("from", "import") else f"starts with `{kind}`"
            return max((at for at in stack if at < start), default=stack[-1]), number, verb
    return stack[-1], 0, ""


def _never_closed(source: Source, opened: int, why: str, help: str, collector: Collector) -> None:
    line, column = source.position(opened)
    collector.add(
        Diagnostic(
            "P020",
            f"`{source.text[opened]}` opened at {line}:{column} is never closed",
            Span(source, opened, opened + 1),
            notes=(("why", why),) if why else (),
            help=help,
        )
    )


def _owner(text: str, brace: int) -> str:
    """The name of what a brace belongs to: `forward`, the name of a block or function; empty for another bracket."""
    if text[brace] != "{":
        return ""
    start, depth = brace, 0
    for found in re.finditer(r"[()\n]", text[:brace][::-1]):  # the line where its parentheses open
        depth += {"(": -1, ")": 1, "\n": 0}[found.group()]
        start = brace - found.end()
        if found.group() == "\n" and depth == 0:
            break
    else:
        start = 0
    line = text[start:brace].strip()
    match = re.match(r"(?:(?:block|model|fn|weights|train|test)[ \t]+)?([A-Za-z_]\w*)", line)
    return match.group(1) if match and match.group(1) not in ("if", "for", "when", "else") else ""
