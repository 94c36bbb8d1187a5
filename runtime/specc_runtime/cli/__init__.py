"""The `specc` command. Only click is imported here; each command imports what it needs when it is called."""

from __future__ import annotations

import io
import keyword
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

import click

# Name -> (module, one line for --help). The modules are imported when the command runs, so --help stays instant.
COMMANDS = {
    "build": "Compile a spec to torch and ONNX, prove them equal, draw the graph.",
    "check": "Check a spec: names, shapes, dtypes, weights, tests.",
    "import": "Build the spec of the zoo that a Hugging Face checkpoint is of.",
    "export": "Write a build as a Hugging Face folder.",
    "inspect": "Show what a model is made of and what it costs, what fits into memory, where shapes come from.",
    "diff": "Compare two models: structure, shapes, cost, what becomes of a checkpoint.",
    "bench": "Measure how fast a build runs, and which lines of its spec take the time.",
    "view": "See a model in Netron, in pictures, or on one page with its source, cost and proof.",
    "verify": "Repeat the proof that a build's torch and ONNX programs are equal.",
    "generate": "Continue a prompt with a build that has a cache.",
    "test": "Run the `test` sections of a spec.",
    "trust": "Let builds run a Python file of extern functions.",
    "fmt": "Give specs one layout; comments and meaning are kept.",
    "explain": "Explain a diagnostic code, or print a block of the standard library.",
    "new": "Start a spec from a template.",
    "train": "Train or fine-tune a model as its spec says.",
    "eval": "Measure the weights of a run on its validation rows, or on other data.",
    "runs": "List runs of training, or set them side by side.",
    "merge": "Fold the adapters of a run into its weights.",
}


class Commands(click.Group):
    """Commands by name, each in its own module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = f"{name}_" if keyword.iskeyword(name) else name
        command: click.Command = import_module(f"specc_runtime.cli.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from specc.elaborate.names import closest

            guess = closest(name, COMMANDS)
            hint = f" Did you mean `{guess}`?" if guess else f" Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f"there is no command `{name}`.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="specc-ml", prog_name="specc")
def cli() -> None:
    """Compile model specs to torch and ONNX.

    A spec is a file (`model.spec`) or the name of a model that comes with specc (`gpt2`).
    """


def main() -> Any:
    """Entry point: exit 0 clean, 1 findings, 2 usage or internal error, 130 Ctrl-C.

    Nothing that a user typed gives a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or comment may hold what a terminal can't show
            stream.reconfigure(errors="backslashreplace")
    pressed: list[int] = []
    try:
        with noticing(pressed):
            code = cli.main(standalone_mode=False) or 0
            sys.stdout.flush()
            return code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return interrupted()
    except BrokenPipeError:  # whoever read the output has seen enough; nothing is left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if pressed:  # a library that Ctrl-C catches while it is imported or called may raise an error of its own
            return interrupted()
        if isinstance(error, OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"error: {error}", file=sys.stderr)
            return 1
        return internal(error)


@contextmanager
def noticing(pressed: list[int]) -> Iterator[None]:
    """Remember that Ctrl-C was pressed, besides raising KeyboardInterrupt."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, nor somebody else's
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return

    def remember(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if importing(frame):  # an extension module that is interrupted while it sets itself up may abort the process
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        raise KeyboardInterrupt

    later = signal.signal(signal.SIGALRM, remember)
    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, later)


def importing(frame: FrameType | None) -> bool:
    """Whether an import is under way in this frame or one that called it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 130


def internal(error: Exception) -> int:
    """A defect of specc: say where, and how to see all of it. With SPECC_TRACEBACK set it is raised as it is."""
    if os.environ.get("SPECC_TRACEBACK"):
        raise error
    place = traceback.extract_tb(error.__traceback__)[-1]
    file = "/".join(place.filename.split("/")[-2:])
    print(f"internal error: {type(error).__name__}: {error}   ({file}:{place.lineno})", file=sys.stderr)
    print("  = note: this is a defect of specc, not of your spec: please report it with the output of", file=sys.stderr)
    print(f"          SPECC_TRACEBACK=1 specc {' '.join(sys.argv[1:])}", file=sys.stderr)
    return 2
