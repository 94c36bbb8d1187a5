"""`specc view`: a model in Netron, as a page on this machine or as pictures, coloured by what it costs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specc_runtime.cli.common import configuration, reporting
from specc_runtime.cli.inspect import parse_at

if TYPE_CHECKING:
    from onnx import ModelProto

    from specc_runtime.drawn.costs import Measure
    from specc_runtime.drawn.subject import Chosen

FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Colouring:
    """What nodes are coloured by, if they are. `attachment`: where to write the figures."""

    metrics: Measure | None
    at: Mapping[str, int]
    profile: Path | None
    attachment: Path | None


@click.command("view")
@configuration
@click.option("--entry", default="forward", show_default=True, metavar="NAME", help="The entry of a spec to show.")
@click.option("--without", multiple=True, metavar="INPUT", help="Leave an optional input of a spec out (repeatable).")
@click.option("--block", metavar="PATH", help="Show one part: its path (h.0.attn), or the name of a block.")
@click.option("--svg", type=FILE, metavar="OUT", help="Write the picture instead of opening it.")
@click.option("--png", type=FILE, metavar="OUT", help="The same, in pixels.")
@click.option("--pdf", type=FILE, metavar="OUT", help="The same, as one page of its own size.")
@click.option("--report", type=FILE, metavar="OUT.html", help="Write one page about the model, which opens offline.")
@click.option("--run", type=FILE, metavar="RUN", help="--report: a run of training, with its curves.")
@click.option(
    "--metrics", type=click.Choice(["parameters", "flops", "time"]), help="Colour nodes by what they take of the whole."
)
@click.option("--at", callback=parse_at, metavar="B=1,T=128", help="Sizes that FLOPs and times are for.")
@click.option("--profile", type=FILE, metavar="FILE", help="Times of an earlier --attachment; nothing is measured.")
@click.option("--attachment", type=FILE, metavar="OUT", help="Write the figures for Netron, the drawing beside them.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port on 127.0.0.1.  [default: a free one]")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def command(
    file: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    entry: str,
    without: tuple[str, ...],
    block: str | None,
    svg: Path | None,
    png: Path | None,
    pdf: Path | None,
    report: Path | None,
    run: Path | None,
    metrics: Measure | None,
    at: dict[str, int] | None,
    profile: Path | None,
    attachment: Path | None,
    port: int,
    no_browser: bool,
) -> None:
    """Open a model in Netron: a build's folder, an .onnx file, or a spec (which is not built for it).

    Only this machine can reach the page, and only the model is served. Ctrl-C ends it. With --svg, --png or --pdf
    pictures are written instead, with --report a page of our own: source beside blocks, picture, cost, proof, training.
    """
    from specc_runtime.drawn.subject import Chosen

    colouring = Colouring("time" if profile is not None else metrics, at or {}, profile, attachment)
    if profile is not None and metrics not in (None, "time"):
        raise click.UsageError("--profile is of times: leave --metrics out")
    _check(colouring, at is not None, report, run, block)
    formats = {name: path for name, path in (("svg", svg), ("png", png), ("pdf", pdf)) if path is not None}
    chosen = Chosen(file, preset, sets, model, entry, frozenset(without))
    with reporting(), _drawing_errors():
        if report is not None:
            _report(chosen, colouring, report, run)
        if formats:
            _write(chosen, block, colouring, formats)
        if formats or report is not None:
            return
        _open(chosen, block, colouring, port, no_browser)


def _check(colouring: Colouring, sized: bool, report: Path | None, run: Path | None, block: str | None) -> None:
    """Options that would say nothing are errors of usage."""
    figures = "figures: --metrics flops, parameters or time"
    if colouring.metrics is None and colouring.attachment is not None:
        raise click.UsageError(f"--attachment is of {figures}")
    if colouring.metrics is None and sized and report is None:
        raise click.UsageError(f"--at is of {figures}")
    if run is not None and report is None:
        raise click.UsageError("--run is of a page: --report OUT.html")
    if report is not None and block is not None:
        raise click.UsageError("--report is of the whole model: leave --block out")


def _report(chosen: Chosen, colouring: Colouring, place: Path, run: Path | None) -> None:
    from specc_runtime.drawn import output
    from specc_runtime.drawn.figures import Wanted
    from specc_runtime.report.drawing import pictures
    from specc_runtime.report.page import page
    from specc_runtime.report.training import training

    output.check(place)
    if run is not None:
        training(run, chosen.model_name)  # what is wrong with it is told before anything is drawn
    wanted = None
    if (chosen.file is None and not chosen.lost) or colouring.metrics is not None:
        wanted = Wanted(colouring.metrics or "flops", colouring.at, colouring.profile)
    output.put(place, page(chosen, colouring.at, pictures(chosen, wanted), run))
    click.echo(f"wrote {place}")


@contextmanager
def _drawing_errors() -> Iterator[None]:
    """Without a browser there is no picture; Netron may not be able to draw one."""
    from specc_runtime.browser import RenderUnavailable
    from specc_runtime.render import RenderFailed

    try:
        yield
    except (RenderUnavailable, RenderFailed) as error:
        raise click.ClickException(str(error)) from None


def _write(chosen: Chosen, block: str | None, colouring: Colouring, formats: Mapping[str, Path]) -> None:
    from specc_runtime.drawn import output

    for path in formats.values():
        output.check(path)
    with _model(chosen, block, colouring) as (path, figures):
        from specc_runtime.render import Renderer

        with Renderer() as renderer:
            drawn = renderer.draw(path, tuple(formats), attachment=figures)
    for name, place in formats.items():
        output.put(place, drawn[name])
        click.echo(f"wrote {place}")


def _open(chosen: Chosen, block: str | None, colouring: Colouring, port: int, no_browser: bool) -> None:
    """Serve until Ctrl-C."""
    from specc_runtime.view import serve

    with _model(chosen, block, colouring) as (found, figures):
        try:  # the model is read here, once
            server = serve(found, port=port, open_browser=not no_browser, attachment=figures)
        except OSError as error:
            help = " (--port 0 takes a free one)" if port else ""
            raise click.ClickException(f"cannot show {found}: {error.strerror or error}{help}") from None
    try:
        click.echo(f"{found.name}: {server.url}   (Ctrl-C ends it)")
        server.wait()
    except KeyboardInterrupt:
        server.close()


@contextmanager
def _model(chosen: Chosen, block: str | None, colouring: Colouring) -> Iterator[tuple[Path, bytes | None]]:
    """The file to show, with figures for its nodes.

    What is drawn for it is in a folder that only this user can read, and is gone afterwards. A file that is shown as
    it is stays where it is.
    """
    from specc_runtime.drawn.output import saved

    if block is None and colouring.metrics is None and (found := chosen.as_it_is()) is not None:
        yield found, None
        return
    with tempfile.TemporaryDirectory(prefix="specc-view-") as folder:
        drawing, figures, name = _drawn(chosen, block, colouring)
        yield saved(drawing, Path(folder), name), figures


def _drawn(chosen: Chosen, block: str | None, colouring: Colouring) -> tuple[ModelProto, bytes | None, str]:
    """The drawing, its figures, and what it is called."""
    from specc_runtime.drawn.parts import find

    drawing, blocks = chosen.drawn_anew() if block is not None or colouring.metrics is not None else chosen.shown()
    found = find(drawing, block) if block is not None else None
    figures = _figures(chosen, drawing, colouring)
    if found is None:
        return drawing, figures, chosen.name
    return found.drawn(drawing, blocks), figures, found.name


def _figures(chosen: Chosen, drawing: ModelProto, colouring: Colouring) -> bytes | None:
    """The attachment, also written where it was asked for, with the drawing that it is of."""
    if colouring.metrics is None:
        return None
    from specc_runtime.drawn import output
    from specc_runtime.drawn.figures import Wanted, attachment

    if colouring.attachment is not None:
        beside = colouring.attachment.with_suffix(".onnx")
        output.check(colouring.attachment)
        output.check(beside)
    found = attachment(chosen, drawing, Wanted(colouring.metrics, colouring.at, colouring.profile))
    if colouring.attachment is not None:
        output.put(colouring.attachment, found)
        output.put(beside, drawing.SerializeToString(deterministic=True))
        click.echo(f"wrote {colouring.attachment} and {beside}: open the second in Netron, then the first")
    return found
