"""`resolved.spec`: the spec of a run with every override in its place, so that it says all of what was run."""

from __future__ import annotations

from specc.source import Source
from specc.syntax import ast
from specc.syntax.format import format_text
from specc.syntax.unparse import unparse
from specc_runtime.training.section import Section

FILE = "resolved.spec"
PRESET = "resolved"


def resolved(section: Section) -> str:
    """The spec's text: settings that were overridden are the section's own, hyper-parameters are a preset's.

    Paths in it stay relative to the spec that it was made of.
    """
    source, node = section.project.file.source, section.node
    settings = dict(section.settings)
    end = node.span.end
    made = ""
    if section.sets:
        name = _free(section)
        base = f'"{section.preset}"' if section.preset is not None else section.model
        made = f'\n\npreset "{name}" = {base}({", ".join(f"{k} = {v}" for k, v in section.sets.items())})'
    edits: list[tuple[int, int, str]] = [(end, end, made)] if made else []
    given = {item.name.id: item for item in node.items if isinstance(item, ast.Setting)}
    texts = {key: unparse(value) for key, value in settings.items()}
    if made:
        texts["preset"] = f'"{name}"'
    new = [f"{key} = {text}" for key, text in texts.items() if key not in given]
    for key, item in given.items():
        if (
            key not in texts
        ):  # `epochs` where `--set steps` was given: one takes the place of the other; or it is `none`
            edits.append((item.span.start, item.span.end, new.pop() if new else f"{key} = none"))
        elif (key == "preset" and made) or settings[key] is not item.value:
            edits.append((item.value.span.start, item.value.span.end, texts[key]))
    if new:
        lead = "" if source.text.endswith("\n", 0, end - 1) else "\n"
        edits.append((end - 1, end - 1, lead + "".join(f"  {line}\n" for line in new)))
    text = source.text
    for start, stop, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[stop:]
    return format_text(Source(FILE, text))


def _free(section: Section) -> str:
    """A name that no preset of the file has."""
    taken = {item.name.value for item in section.project.file.tree.items if isinstance(item, ast.Preset)}
    name, number = PRESET, 1
    while name in taken:
        number += 1
        name = f"{PRESET}-{number}"
    return name
