"""`specc view`: Netron's page on this machine, serving one model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.cli.common import configuration, reporting

DRAWN = ("model.view.onnx", "model.onnx")
"""What of a build is shown: the drawing with its hierarchy, else the flat graph that runs."""


@click.command("view")
@configuration
@click.option("--entry", default="forward", show_default=True, metavar="NAME", help="The entry of a spec to show.")
@click.option("--without", multiple=True, metavar="INPUT", help="Leave an optional input of a spec out (repeatable).")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port on 127.0.0.1.  [default: a free one]")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def command(
    file: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    entry: str,
    without: tuple[str, ...],
    port: int,
    no_browser: bool,
) -> None:
    """Open a model in Netron: a build's folder, an .onnx file, or a spec (which is not built for it).

    Only this machine can reach the page, and only the model is served. Ctrl-C ends it.
    """
    from specc_runtime.browser import RenderUnavailable
    from specc_runtime.view import serve

    with reporting(), _model(file, preset, sets, model, entry, frozenset(without)) as found:
        try:
            server = serve(found, port=port, open_browser=not no_browser)  # the model is read here, once
        except OSError as error:
            raise click.ClickException(f"cannot show {found}: {error.strerror or error}") from None
        except RenderUnavailable as error:
            raise click.ClickException(str(error)) from None
    try:
        click.echo(f"{found.name}: {server.url}   (Ctrl-C ends it)")
        server.wait()
    except KeyboardInterrupt:
        server.close()


@contextmanager
def _model(
    target: str, preset: str | None, sets: dict[str, str], model: str | None, entry: str, without: frozenset[str]
) -> Iterator[Path]:
    """The file to show. The drawing of a spec is in a folder that only this user can read, and is gone afterwards."""
    path = Path(target)
    if path.is_dir():
        yield _of_build(path, target)
    elif path.suffix.lower() == ".onnx":
        if not path.is_file():
            raise Rejected([Diagnostic("E006", f"`{target}` does not exist")])
        yield path
    else:
        with tempfile.TemporaryDirectory(prefix="specc-view-") as folder:
            yield _draw(Path(folder), target, preset, sets, model, entry, without)


def _of_build(folder: Path, shown: str) -> Path:
    for name in DRAWN:
        if (folder / name).is_file():
            return folder / name
    help = "name a build's folder (build/NAME), an .onnx file or a spec"
    raise Rejected([Diagnostic("B660", f"`{shown}` holds no {DRAWN[1]}", help=help)])


def _draw(
    folder: Path,
    target: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    entry: str,
    without: frozenset[str],
) -> Path:
    """Check a spec and write the drawing of an entry."""
    from specc import driver
    from specc.inspect import chosen_graph

    checked = driver.load(target, preset=preset, model=model, sets=sets).model
    chosen_graph(checked, entry, without)  # says what is wrong with the names
    from specc.backends.onnx.functions import view
    from specc_runtime.module import python_name

    drawing, _ = view(checked, entry, without=without)
    path = folder / f"{python_name(checked.name)}.onnx"
    path.write_bytes(drawing.SerializeToString(deterministic=True))
    return path
