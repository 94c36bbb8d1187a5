"""`specc new`: a spec to start from, which checks and builds as it is."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import click

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.cli.common import reporting

TEMPLATES = {
    "empty": "one linear layer",
    "linear": "logistic regression",
    "mlp": "a classifier on flat inputs",
    "cnn": "an image classifier",
    "gpt": "a small GPT",
    "transformer": "an encoder-decoder",
}
PLACEHOLDER = "MyModel"
_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@click.command("new", epilog="\b\nTemplates:\n" + "\n".join(f"  {name:<12} {what}" for name, what in TEMPLATES.items()))
@click.argument("name")
@click.option(
    "--template", type=click.Choice(list(TEMPLATES)), default="mlp", show_default=True, help="What to start from."
)
def command(name: str, template: str) -> None:
    """Write NAME.spec from a template. An existing file is never overwritten."""
    path = Path(name if name.endswith(".spec") else f"{name}.spec")
    if not _STEM.fullmatch(path.stem):
        raise click.UsageError(f"`{path.stem}` is no file name for a spec: use letters, digits, `_` and `-`")
    text = (resources.files("specc") / "templates" / f"{template}.spec").read_text(encoding="utf-8")
    model = class_name(path.stem, text)
    with reporting():
        write_new(path, re.sub(rf"\b{PLACEHOLDER}\b", model, text).replace("FILE", path.name))
    click.echo(f"wrote {path}: model {model}, {TEMPLATES[template]}\n\n  specc check {path}\n  specc build {path}")


def class_name(stem: str, text: str) -> str:
    """`my-net` -> `MyNet`; with `Model` at the end where the template or the language has that name already."""
    from specc.types import TYPE_NAMES

    words = re.findall(r"[A-Za-z0-9]+", stem)
    name = "".join(word[:1].upper() + word[1:] for word in words)
    if not name or name[0].isdigit():
        name = f"Model{name}"
    taken = set(re.findall(r"\w+", text)) | TYPE_NAMES.keys()
    while name in taken:
        name += "Model"
    return name


def write_new(path: Path, text: str) -> None:
    """Create a file; raises `Rejected` (B660) if it exists or can't be made."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        help = "choose another name; nothing was changed"
        raise Rejected([Diagnostic("B660", f"`{path}` exists", help=help)]) from None
    except OSError as error:
        raise Rejected([Diagnostic("B660", f"cannot write `{path}`: {error.strerror or error}")]) from None
