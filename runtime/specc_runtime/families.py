"""Which spec of the zoo describes a checkpoint, told by the `model_type` of its config.json."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.names import closest
from specc.reading import read_text, zoo_folders
from specc_runtime.checkpoint import Checkpoint

_SECTION = re.compile(r'^weights\s+(\w+)\s+from\s+("[^"\n]*"(?:\s*,\s*"[^"\n]*")*)\s*\{', re.MULTILINE)
_BUILD = "specc build FILE --weights DIR"


@dataclass(frozen=True)
class Family:
    """A model of the zoo that has a `weights` section for a source (`hf:llama`)."""

    spec: Path
    model: str
    source: str


def families() -> list[Family]:
    """Every Hugging Face source of the zoo's sections, by source.

    The head of a section is found as text: parsing every spec would take longer than reading most checkpoints.
    """
    found: dict[tuple[str, str, str], Family] = {}
    for folder in zoo_folders():
        for path in sorted(folder.glob("*.spec")):
            for model, sources in _SECTION.findall(read_text(path, str(path))):
                for source in re.findall(r'"(hf:[^"]*)"', sources):
                    found.setdefault((path.name, model, source), Family(path, model, source))
    return sorted(found.values(), key=lambda f: (f.source, f.spec.name, f.model))


def family_of(where: str) -> Family:
    """The zoo's model for a checkpoint folder (`hf:DIR` or `DIR`).

    Raises `Rejected`: W350 where no spec or more than one is for its `model_type`, or it has none; what
    `Checkpoint.open` raises.
    """
    with Checkpoint.open(where) as checkpoint:
        wanted, has_config = checkpoint.model_type, checkpoint.config is not None
    known = families()
    types = sorted({f.source.removeprefix("hf:") for f in known})
    available = ", ".join(types) or "none"
    if wanted is None:
        lack = "its config.json has no `model_type`" if has_config else "it has no config.json"
        raise _unknown(f"nothing tells what architecture `{where}` is: {lack}", available, _BUILD)
    found = [f for f in known if f.source == f"hf:{wanted}"]
    if not found:
        guess = closest(wanted, types)
        why = f"config.json of {where} says model_type = {wanted}"
        help = f'{_BUILD}   with a spec that has  weights MODEL from "hf:{wanted}" {{ .. }}'
        if guess:
            help += f"   (the nearest name is `{guess}`)"
        raise _unknown(f"no spec of the zoo reads `{wanted}`", available, help, why)
    if len(found) > 1:
        names = ", ".join(f"{f.spec.stem} ({f.model})" for f in found)
        help = f"specc build {found[0].spec.stem} --model {found[0].model} --weights {where}"
        raise _unknown(f"several specs of the zoo read `{wanted}`", names, help)
    return found[0]


def _unknown(message: str, available: str, help: str, why: str = "") -> Rejected:
    notes = (("why", why),) if why else ()
    return Rejected([Diagnostic("W350", message, notes=(*notes, ("available", available)), help=help)])
