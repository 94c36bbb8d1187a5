"""`specc inspect`: neither torch nor onnx is imported."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.cli.common import configuration, print_diagnostics, reporting

if TYPE_CHECKING:
    from specc.inspect import Report
    from specc.inspect.fit import Fit, Setup
    from specc.inspect.roofline import Estimate
    from specc.ir.graph import Graph, Model
    from specc.quantisation import Scheme

FORMATS = ("tree", "json", "csv", "markdown", "mermaid")
SORTS = ("params", "flops", "activation", "name")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "lion", "rmsprop", "adagrad")
COLUMNS = "result params weights flops products training activation live moved intensity formula".split()


def parse_at(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, int] | None:
    """`B=1,T=1024` as a mapping."""
    if value is None:
        return None
    sizes: dict[str, int] = {}
    for part in value.split(","):
        name, sign, number = (text.strip() for text in part.partition("="))
        if not (sign and name and number.isascii() and number.replace("_", "").isdigit()):
            raise click.BadParameter(f"`{part}` is not NAME=SIZE, as in B=1,T=1024", ctx, param)
        if name in sizes:
            raise click.BadParameter(f"`{name}` is given twice", ctx, param)
        if len(number) > MAX_DIGITS:
            raise click.BadParameter(f"`{name}`: sizes have at most {MAX_DIGITS} digits", ctx, param)
        sizes[name] = int(number.replace("_", ""))
    return sizes


MAX_DIGITS = 18


def parse_columns(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """`params,flops` as names of columns."""
    names = tuple(name.strip() for name in value.split(",")) if value else ()
    for name in names:
        if name not in COLUMNS:
            raise click.BadParameter(f"there is no column `{name}`; there are {', '.join(COLUMNS)}", ctx, param)
    return names


@click.command("inspect")
@configuration
@click.option("--entry", default="forward", show_default=True, metavar="NAME", help="The entry to show.")
@click.option("--without", multiple=True, metavar="INPUT", help="Leave an optional input out (repeatable).")
@click.option("--at", callback=parse_at, metavar="B=1,T=1024", help="Numbers for these sizes beside the formulas.")
@click.option("--depth", type=click.IntRange(0), metavar="N", help="Show N levels of blocks.  [default: all]")
@click.option("--sort", type=click.Choice(SORTS), help="Order blocks side by side.  [default: as they run]")
@click.option("--columns", callback=parse_columns, metavar="NAME,NAME", help="Columns of the table.  [see above]")
@click.option("--dtype", type=click.Choice(["f32", "f16", "bf16"]), default="f32", show_default=True)
@click.option("--quant", multiple=True, metavar="SCHEME", help="Weights in few bits, as of build --quant (repeatable).")
@click.option("--explain", metavar="PATH", help="Where the shape of a value comes from, as of h.0.attn.k.")
@click.option("--fit", metavar="MEMORY", help="The largest size that fits, as into 24GiB; --at gives all others.")
@click.option("--train", is_flag=True, help="--fit: of training.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="adamw", show_default=True, help="--fit --train.")
@click.option("--checkpointing", is_flag=True, help="--fit --train: repeated blocks are computed again.")
@click.option("--lora", type=click.IntRange(1), metavar="RANK", help="--fit --train: adapters alone are trained.")
@click.option("--fsdp", type=click.IntRange(1), default=1, metavar="N", help="--fit --train: shared by N devices.")
@click.option("--device", metavar="NAME", help="How fast at most: h100, rtx4090, measured, or 900GB/s,125TFLOP/s.")
@click.option("--format", type=click.Choice(FORMATS), default="tree", show_default=True)
def command(
    file: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    entry: str,
    without: tuple[str, ...],
    at: dict[str, int] | None,
    depth: int | None,
    sort: str | None,
    columns: tuple[str, ...],
    dtype: str,
    quant: tuple[str, ...],
    explain: str | None,
    fit: str | None,
    device: str | None,
    format: str,
    **training: Any,
) -> None:
    """Show what a spec or a build is made of and what it costs, as formulas over the entry's dims.

    A repeated block is shown once: `h.{0..11}  12 x Block`. A multiply-add is two FLOPs. --explain, --fit and --device
    answer a question instead. Of an ONNX graph, a safetensors file or a folder of them, what it tells.

    Columns: result params weights flops products training activation live moved intensity formula.
    """
    _answered({"--explain": explain, "--fit": fit, "--device": device}, training, format)
    from specc import driver
    from specc.inspect import chosen_graph, report
    from specc.inspect.examples import example
    from specc.passes.plain import entry_facts
    from specc_runtime import foreign
    from specc_runtime.quantised import parse

    with reporting():
        asked = {"--explain": explain, "--fit": fit, "--device": device, "--set": sets, "--quant": quant}
        if foreign.is_foreign(Path(file)):
            _only_of_specs(file, asked)
            click.echo(foreign.shown(Path(file), at=at, depth=depth, sort=sort, format=format), nl=False)
            return
        omitted, position_ids = frozenset(without), False
        if (Path(file) / "manifest.json").is_file():
            from specc_runtime.origin import origin_of

            try:
                origin = origin_of(Path(file))
            except Rejected as rejected:
                graph_file = _graph_of(Path(file), entry)
                if graph_file is None or any(asked.values()) or preset or model or without:
                    raise
                print_diagnostics([_less(d, graph_file) for d in rejected.diagnostics])
                click.echo(foreign.shown(graph_file, at=at, depth=depth, sort=sort, format=format), nl=False)
                return
            file, preset, model = str(origin.file), preset or origin.preset, origin.model
            sets = origin.sets | sets
            omitted, position_ids = omitted or origin.without.get(entry, omitted), origin.position_ids
        checked = driver.load(file, preset=preset, model=model, sets=sets, position_ids=position_ids)
        schemes = [parse(text) for text in quant]
        graph = chosen_graph(checked.model, entry, omitted)
        answer: Answer
        if explain is not None:
            from specc.inspect.provenance import explain as traced

            answer = traced(graph, explain)
        elif fit is not None:
            setup = _setup(dtype, schemes, training)
            answer = _fitted(checked.model, entry, graph, fit, at or {}, setup, omitted)
        else:
            more: dict[str, Any] = {"schemes": schemes} if schemes else {}
            found = report(checked.model, entry, without=omitted, at=at, depth=depth, dtype=dtype, sort=sort, **more)
            if device is None:
                print_diagnostics(checked.warnings)
                click.echo(shown(found, format, columns), nl=False)
                return
            help = example(found.dims, entry_facts(checked.model, graph))
            answer = _estimated(checked.model, graph, found, device, next(iter(schemes), None), help)
    print_diagnostics(checked.warnings)
    click.echo(json.dumps(answer.to_json(), indent=1) if format == "json" else str(answer))


def _answered(questions: Mapping[str, str | None], training: Mapping[str, Any], format: str) -> None:
    """Raises UsageError for options that nothing would come of."""
    asked = [name for name, given in questions.items() if given is not None]
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(asked)} are questions of their own: ask one at a time")
    if asked and format not in ("tree", "json"):
        raise click.UsageError(f"{asked[0]} is answered as text, or with --format json")
    of_training = [name for name, given in training.items() if name != "train" and given not in (None, False)]
    context = click.get_current_context()
    given = [n for n in of_training if context.get_parameter_source(n) is not click.core.ParameterSource.DEFAULT]
    if training["train"] and "--fit" not in asked:
        raise click.UsageError("--train is of --fit:  --fit 24GiB --train")
    if given and not training["train"]:
        raise click.UsageError(f"--{given[0]} is of training:  --fit 24GiB --train --{given[0]}")


def _graph_of(build: Path, entry: str) -> Path | None:
    """The graph of an entry of a build, if it has one."""
    from specc_runtime import manifest

    made = manifest.read(build, "manifest.json")["entries"].get(entry)
    return build / made["onnx"] if made is not None and made["onnx"] else None


def _less(why: Diagnostic, shown: Path) -> Diagnostic:
    """That a spec is not found, where its build tells some of what it would."""
    return replace(why, severity="warning", notes=(*why.notes, ("shown", f"what {shown} tells")))


def _only_of_specs(file: str, given: Mapping[str, Any]) -> None:
    """Raises `Rejected` (E009) for what a file that specc did not write cannot tell."""
    for option, value in given.items():
        if value:
            message = f"{option}: {file} does not say enough for that"
            raise Rejected([Diagnostic("E009", message, help=f"{option} is of specs and of builds")])


class Answer(Protocol):
    """What answers a question of its own: text, or plain data."""

    def to_json(self) -> dict[str, Any]: ...


def _setup(dtype: str, schemes: Sequence[Scheme], training: Mapping[str, Any]) -> Setup:
    from specc.inspect.fit import Setup

    if not training["train"]:
        return Setup(dtype, next(iter(schemes), None))
    return Setup(
        dtype,
        optimizer=training["optimizer"],
        checkpointing=training["checkpointing"],
        lora=training["lora"],
        devices=training["fsdp"],
    )


def _fitted(
    model: Model, entry: str, graph: Graph, text: str, at: Mapping[str, int], setup: Setup, without: frozenset[str]
) -> Fit:
    from specc.inspect.fit import fit, parse_bytes

    return fit(model, entry, graph, parse_bytes(text), at, setup, without)


def _estimated(model: Model, graph: Graph, found: Report, name: str, scheme: Scheme | None, help: str) -> Estimate:
    """`help`: sizes that could be given."""
    from specc.inspect.devices import device
    from specc.inspect.roofline import estimate

    if name == "measured":
        from specc_runtime.measured_device import measured

        chosen = measured()
    else:
        chosen = device(name)
    if found.at is None:
        raise Rejected([Diagnostic("E009", f"--device {name}: an estimate is for given sizes", help=help)])
    return estimate(chosen, model, graph, found, found.at, scheme)


def shown(found: Report, format: str, columns: tuple[str, ...]) -> str:
    """The report in one of `FORMATS`, a table as wide as the terminal."""
    from specc.inspect import formats
    from specc.inspect.text import table

    if format == "json":
        return json.dumps(found.to_json(), indent=1) + "\n"
    if format == "csv":
        return formats.as_csv(found)
    if format == "markdown":
        return formats.as_markdown(found, columns)
    if format == "mermaid":
        return formats.as_mermaid(found)
    return table(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None, columns)
