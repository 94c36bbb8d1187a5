"""`specc explain CODE | std.nn.Linear`."""

from __future__ import annotations

import click

from specc_runtime.cli.common import stop


@click.command("explain")
@click.argument("what", metavar="CODE|NAME")
def command(what: str) -> None:
    """Explain a diagnostic code (`S201`), an operator (`sdpa`), or print a block of the standard library
    (`std.nn.Linear`).
    """
    from specc import codes, reading
    from specc.op import operators
    from specc.syntax import ast

    text = codes.explain(what.upper())
    if text is not None:
        click.echo(text)
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

        click.echo(getdoc(op) or "")
        return
    click.echo(f"specc explains diagnostic codes, operators and std blocks; it knows no `{what}`", err=True)
    stop(1)
