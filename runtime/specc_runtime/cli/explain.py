"""`specc explain CODE | std.nn.Linear`."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from shutil import get_terminal_size

import click

from specc_runtime.cli.common import stop, use_color

_WIDEST = 100  # characters of a line of prose; a wider terminal makes it no easier to read

_LABELS = {
    "spec fails": "This fails:",
    "python fails": "This fails:",
    "text": "This is printed:",
    "spec": "This is right:",
    "spec section": "This is right:",
    "python": "This is right:",
    "toml": "This is right:",
    "sh": "This mends it:",
}
"""What stands above a block of an explanation, by the words behind its fence. Others name a file."""


@click.command("explain")
@click.argument("what", metavar="CODE|NAME", required=False)
def command(what: str | None) -> None:
    """Explain a diagnostic code (`S201`), an operator (`sdpa`), or print a block of the standard library
    (`std.nn.Linear`). Without a name, list them.
    """
    from specc import codes, reading
    from specc.elaborate.attributes import signature_text
    from specc.op import operators
    from specc.syntax import ast
    from specc_runtime.cli import topics

    if what is None:
        click.echo(topics.overview(_width()))
        return
    text = codes.explain(what.upper())
    if text is not None:
        click.echo(_laid_out(text, use_color(sys.stdout)))
        return
    head, _, rest = what.partition(".")
    module, _, name = rest.partition(".")
    if head == "std" and module in reading.std_names():
        source, tree = reading.std_module(module)
        if not name:
            click.echo(source.text.rstrip())
            return
        for item in tree.items if tree is not None else ():
            if isinstance(item, (ast.BlockDef, ast.Method)) and item.name.id == name:
                doc = "".join(f"## {line}\n" for line in item.doc.splitlines())
                click.echo(f"{doc}{item.span.text}")
                return
    op = operators().get(what)
    if op is not None:
        from inspect import getdoc

        numbers = f"\n\nOf numbers, at compile time: {topics.NUMBERS[what]}" if what in topics.NUMBERS else ""
        click.echo(f"{signature_text(op)}\n\n{getdoc(op) or ''}{numbers}")
        return
    if what in topics.NUMBERS:
        click.echo(topics.NUMBERS[what])
        return
    near = topics.like(what)
    hint = f"near it are {', '.join(near)}" if near else "`specc explain` lists all"
    click.echo(f"specc explains diagnostic codes, operators and std blocks; it knows no `{what}`: {hint}", err=True)
    stop(1)


def _width() -> int:
    """Characters of a line of prose."""
    return min(get_terminal_size((_WIDEST, 0)).columns, _WIDEST)


def _laid_out(explanation: str, color: bool) -> str:
    """The Markdown of an explanation for a terminal: prose in lines that fit, blocks indented below what they are."""
    from specc import codes

    title, _, body = explanation.partition("\n")
    heading = title.removeprefix("# ")
    paragraphs = _paragraphs(body, _width(), color)
    text = "\n\n".join([click.style(heading, bold=True) if color else heading, *paragraphs])
    return text if codes.severity(heading[:4]) == "error" else text.replace("This fails:", "This is flagged:")


def _paragraphs(body: str, width: int, color: bool) -> Iterator[str]:
    introduced = False  # by prose that ends with a colon
    for prose, kind, block in re.findall(r"(.*?)(?:^```([^\n]+)\n(.*?)^```$|\Z)", body, re.MULTILINE | re.DOTALL):
        for paragraph in filter(None, prose.strip().split("\n\n")):
            words = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", "\0"), " ".join(paragraph.split()))
            filled = textwrap.fill(words, width, break_on_hyphens=False, break_long_words=False)
            yield filled.replace("\0", " ")
            introduced = paragraph.endswith(":")
        if kind:
            label = _LABELS.get(kind) or f"{kind.removeprefix('spec ')}:"
            if not introduced or kind not in _LABELS:
                yield click.style(label, fg="red" if kind == "text" or "fails" in kind else "green") if color else label
            yield textwrap.indent(block.rstrip(), "    ")
            introduced = False
