"""`specc build`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from specc_runtime.cli.common import configuration, print_diagnostics, reporting, trusting, use_color
from specc_runtime.threads import yielding
from specc_runtime.units import size

if TYPE_CHECKING:
    from specc.quantisation import Scheme
    from specc_runtime.build import Result
    from specc_runtime.cache import Request


def parse_emit(ctx: click.Context, param: click.Parameter, value: str) -> frozenset[str]:
    kinds = frozenset(part.strip() for part in value.split(",") if part.strip())
    unknown = sorted(kinds - {"torch", "onnx"})
    if unknown or not kinds:
        raise click.BadParameter(f"`{', '.join(unknown) or value}`: choose from torch, onnx", ctx, param)
    return kinds


def parse_cache(ctx: click.Context, param: click.Parameter, value: str | None) -> Request | None:
    if value is None:
        return None
    from specc_runtime.cache import parse

    found = parse(value)
    if found is None:
        raise click.BadParameter(f"`{value}`: expected concat, or static=N with 1 to {2**31 - 1} positions", ctx, param)
    return found


def parse_quant(ctx: click.Context, param: click.Parameter, value: str | None) -> Scheme | None:
    if value is None:
        return None
    from specc_runtime.quantised import parse

    with reporting():
        return parse(value)


def making(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that make a build."""
    for option in reversed(_MAKING):
        command = option(command)
    return command


_MAKING = (
    click.option("--emit", callback=parse_emit, default="torch,onnx", show_default=True, help="What to make."),
    click.option("--no-verify", is_flag=True, help="Skip the proof that torch and onnxruntime agree."),
    click.option("--no-render", is_flag=True, help="Draw no pictures."),
    click.option(
        "-o",
        "--out",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="The build's folder.  [default: build/<name>]",
    ),
    click.option("--opset", type=click.IntRange(17, 26), default=23, show_default=True, help="The ONNX operator set."),
    click.option(
        "--dtype",
        type=click.Choice(["f32", "f16", "bf16"]),
        default="f32",
        show_default=True,
        help="What `Tensor` is: of the weights, and of all but what the language keeps in f32.",
    ),
    click.option(
        "--without", multiple=True, metavar="INPUT", help="Leave an optional input out of the graph (repeatable)."
    ),
    click.option("--entry", "entries", multiple=True, metavar="NAME", help="The entries to build.  [default: forward]"),
    click.option("--all-entries", is_flag=True, help="Build every entry."),
    click.option(
        "--position-ids",
        is_flag=True,
        help="Positions are an input, position_ids [B, T], in the place of every positions(T).",
    ),
    click.option(
        "--cache",
        metavar="concat|static=N",
        callback=parse_cache,
        help="Also build entries that go on: keys and values come in and go out, growing or in room for N positions.",
    ),
    click.option(
        "--fuse-once",
        metavar="ENTRY",
        help="What such an entry computes once a sequence is given by this one: an encoder's keys and values.",
    ),
    click.option(
        "--logits",
        type=click.Choice(["all", "last"]),
        help="Of which new positions such an entry gives results.  [default: last, of tokens; all, of anything else]",
    ),
    click.option(
        "--quant",
        metavar="int8|int4[:OPTIONS]",
        callback=parse_quant,
        help="Also make graphs with weights in few bits. OPTIONS: embed, head; of int4 also block=N, sym, asym.",
    ),
    click.option(
        "--quant-text",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A text whose perplexity is told with these weights and without.",
    ),
    click.option(
        "--target",
        type=click.Choice(["onnxruntime", "genai"]),
        default="onnxruntime",
        show_default=True,
        help="What graphs are for: standard operators, or a folder that onnxruntime-genai loads.",
    ),
    click.option("--self-contained", is_flag=True, help="Put the weights inside the .onnx file."),
    trusting,
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random weights."),
)


@click.command("build")
@configuration
@click.option("--weights", metavar="DIR|FILE", help="A checkpoint: a Hugging Face folder or a safetensors file.")
@click.option(
    "--weights-format", metavar="NAME", help="The `weights` section to read it by, when nothing tells (`hf:gpt2`)."
)
@click.option(
    "--link",
    is_flag=True,
    help="Copy no weights: a hard link to the checkpoint's file, which has to be one with nothing to change.",
)
@click.option("--no-weights", is_flag=True, help="Structure only: no weights file.")
@making
def command(file: str, **given: Any) -> None:
    """Compile a spec to torch and ONNX, prove the two equal in onnxruntime, draw the graph with Netron."""
    with reporting(), terminable():
        make(file, **given)


def make(
    file: str, *, no_verify: bool, no_render: bool, without: Sequence[str], entries: Sequence[str], **given: Any
) -> None:
    """Make a build as the options say, and tell what was made; raises `Rejected`."""
    yielding()
    from specc.types import DType
    from specc_runtime.build import Request, build

    if given["all_entries"] and entries:
        raise click.UsageError("--all-entries builds each of them: leave --entry out")
    wanted = None if given.pop("all_entries") else tuple(entries) or ("forward",)
    given["dtype"] = DType(given["dtype"])
    if given.pop("target") == "genai":
        given["cache"] = for_genai(given)
    fuse_once = given.pop("fuse_once")
    if fuse_once is not None:
        if given["cache"] is None:
            raise click.UsageError("--fuse-once is about entries that go on from earlier calls: add --cache concat")
        given["cache"] = replace(given["cache"], fuse_once=fuse_once)
    logits = given.pop("logits")
    if logits is not None:
        if given["cache"] is None:
            raise click.UsageError("--logits is about entries that go on from earlier calls: add --cache concat")
        given["cache"] = replace(given["cache"], logits=logits)
    if given["quant_text"] is not None and given["quant"] is None:
        raise click.UsageError("--quant-text is about weights in few bits: add --quant int8")
    if given["quant_text"] is not None and (no_verify or given["emit"] != {"torch", "onnx"}):
        raise click.UsageError("--quant-text is told by the proof: leave out --no-verify and --emit")
    request = Request(
        file, verify=not no_verify, render=not no_render, without=frozenset(without), entries=wanted, **given
    )
    with progress() as say:
        result = build(request, say)
    print_diagnostics(result.warnings)
    if result.no_pictures:
        click.echo(f"note: no pictures: {result.no_pictures}", err=True)
    click.echo(summary(result))


def for_genai(given: Mapping[str, Any]) -> Request:
    """The cache of `--target genai`; raises `UsageError` for options that say otherwise."""
    from specc_runtime.cache import Request

    if given["cache"] is not None:
        raise click.UsageError("--target genai has a cache of its own: leave --cache out")
    if "onnx" not in given["emit"]:
        raise click.UsageError("--target genai needs the ONNX graph: leave --emit out")
    return Request(genai=True)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does: nothing is left behind. Exit code: 128 + the signal."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Says the stage at hand on a terminal; silent when piped."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True, no_color=not use_color(sys.stderr)).status("") as status:
        yield lambda stage: status.update(stage)


def summary(result: Result) -> str:
    """What was made, and where."""
    record = result.manifest
    lines = [f"{record['name']}: {record['parameters']:,} parameters, {sum(record['timings'].values()):.1f} s"]
    folder = relative(result.folder)
    rows = [(f"{folder}/{name}", size(entry["bytes"])) for name, entry in record["files"].items()]
    width = max((len(name) for name, _ in rows), default=0)
    lines += [f"  {name:<{width}}  {amount:>9}" for name, amount in rows]
    lines += [f"  {line}" for line in (result.proof or "not verified").splitlines()]
    return "\n".join(lines)


def relative(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
