"""`specc generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.names import counted
from specc_runtime.cli.common import reporting, stop

if TYPE_CHECKING:
    from specc_runtime.generator import Generator, Prompt, Run

_ENDINGS = {
    "eos": "the model ended the text",
    "stop": "a stop string",
    "length": "--max-tokens",
    "context": "the end of the {limit}, {room} positions",
    "": "interrupted",
}


def parse_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(part) for part in value.replace(",", " ").split()]
    except ValueError:
        raise click.BadParameter(f"`{value}`: expected token numbers, as 1,2,3", ctx, param) from None


@click.command("generate")
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.option("--prompt", metavar="TEXT", help="The text to continue.")
@click.option("--prompt-file", metavar="FILE", type=click.Path(path_type=Path), help="A file with it; - is stdin.")
@click.option("--ids", metavar="1,2,3", callback=parse_ids, help="The tokens to continue, in place of a text.")
@click.option("--max-tokens", metavar="N", type=int, default=128, show_default=True, help="New tokens at most.")
@click.option("--greedy", is_flag=True, help="Take the most likely token; so it is when nothing is sampled by.")
@click.option("--temperature", metavar="X", type=float, help="Sample; below 1 likely tokens become likelier.")
@click.option("--top-k", metavar="K", type=int, help="Sample among the K most likely tokens.")
@click.option("--top-p", metavar="P", type=float, help="Sample among the likely tokens that sum to P.")
@click.option("--repetition-penalty", metavar="X", type=float, default=1.0, help="Above 1: avoid what the text has.")
@click.option("--seed", metavar="N", type=int, help="Of sampling; the same one gives the same text.")
@click.option("--stop", "stops", metavar="TEXT", multiple=True, help="End before this text (repeatable).")
@click.option("--tokenizer", metavar="DIR|FILE", type=click.Path(path_type=Path), help="Another tokenizer.json.")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "torch"]),
    default="onnxruntime",
    show_default=True,
    help="What runs it.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="What it runs on.")
@click.option(
    "--load",
    type=click.Choice(["full", "instant"]),
    default="full",
    show_default=True,
    help="Prepare the weights, or start at once on the mapped file (onnxruntime).",
)
@click.option("--quantized", is_flag=True, help="With the weights in few bits of a build with --quant.")
@click.option("--stats/--no-stats", default=True, help="Tokens per second, on stderr at the end.  [default: --stats]")
def command(build: Path, stats: bool, **given: Any) -> None:
    """Continue a prompt with a build that has a cache (`specc build FILE --cache concat`).

    The new text goes to stdout as it comes, everything else to stderr. Without a tokenizer the tokens themselves are
    printed.
    """
    with reporting():
        from specc_runtime.generator import Generator
        from specc_runtime.module import open_build
        from specc_runtime.sampling import Sampling

        _check_usage(given)
        sampling = Sampling(*(given[name] for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed")))
        opened = open_build(build, given["load"])
        more = {name: given[name] for name in ("tokenizer", "quantized")}
        generator = Generator(opened, given["backend"], given["device"], **more)
        run = generator.stream(_prompt(given), given["max_tokens"], sampling=sampling, stop=given["stops"])
        interrupted = _show(generator, run)
    note = unknown_tokens(run)
    if note:
        click.echo(note, err=True)
    if stats:
        click.echo(summary(run, interrupted, sampled=not sampling.greedy), err=True)
    if interrupted:
        stop(130)


def _check_usage(given: dict[str, Any]) -> None:
    prompts = [name for name in ("prompt", "prompt_file", "ids") if given[name] is not None]
    if len(prompts) != 1:
        raise click.UsageError("give one of --prompt TEXT, --prompt-file FILE and --ids 1,2,3")
    if given["greedy"] and any(given[name] is not None for name in ("temperature", "top_k", "top_p")):
        raise click.UsageError("--greedy samples nothing: leave out --temperature, --top-k and --top-p")
    if given["load"] == "instant" and given["backend"] == "torch":
        raise click.UsageError("--load instant is of onnxruntime: torch maps the file anyway")


def _prompt(given: dict[str, Any]) -> Prompt:
    if given["ids"] is not None:
        return list(given["ids"])
    if given["prompt"] is not None:
        return str(given["prompt"])
    file: Path = given["prompt_file"]
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        raise Rejected([Diagnostic("G704", f"cannot read {file}: {error.strerror or error}")]) from None
    except UnicodeDecodeError as error:
        message = f"{file} is not text: byte {error.start} is not UTF-8"
        raise Rejected([Diagnostic("G704", message, help="save it as UTF-8")]) from None


def _show(generator: Generator, run: Run) -> bool:
    """Print what comes as it comes; True if Ctrl-C ended it."""
    interrupted = False
    first = True
    try:
        for piece in run:
            text = piece.text if generator.tokenizer is not None else f"{'' if first else ','}{piece.token}"
            first = False
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        interrupted = True
    sys.stdout.write("\n")
    sys.stdout.flush()
    return interrupted


def unknown_tokens(run: Run) -> str:
    """A note of new tokens that the tokenizer has no text for. A few more rows than it has tokens are usual; a model
    that was trained with it chooses none of them."""
    tokenizer, [row] = run.generator.tokenizer, run.generation.rows
    if tokenizer is None:
        return ""
    unknown = [token for token in row.tokens if tokenizer.id_to_token(token) is None]
    if not unknown:
        return ""
    known, rows = tokenizer.get_vocab_size(), run.generator.decoder.rows
    of = f"{known:,} of the model's {rows:,} tokens" if rows is not None else f"{known:,} tokens"
    told = f"{counted(len(unknown), 'new token')}, as {unknown[0]}, {'has' if len(unknown) == 1 else 'have'} no text"
    return f"note: {told}: the tokenizer knows {of}; is it another model's?"


def summary(run: Run, interrupted: bool, sampled: bool) -> str:
    """How fast it went, and why it ended."""
    found, [row] = run.statistics, run.generation.rows
    cache = run.generator.cache
    limit = "cache" if cache.length is not None and cache.length != cache.context else "context"
    ending = _ENDINGS["" if interrupted else row.reason].format(limit=limit, room=cache.room)
    parts = [
        f"prompt {counted(found.prompt, 'token')}, {found.prefill_rate:.1f} tokens/s",
        f"new {counted(len(row.tokens), 'token')}" + (f", {found.decode_rate:.1f} tokens/s" if found.steps else ""),
        *([f"seed {run.seed}"] if sampled else []),
        f"ended by: {ending}",
    ]
    return "; ".join(parts)
