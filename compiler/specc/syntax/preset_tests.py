"""`preset "name" = Model(..) expect cond`: what a preset is to fulfil, as the `test` section that says the same."""

from __future__ import annotations

from collections.abc import Mapping

from specc.syntax import ast


def _roots(presets: Mapping[str, ast.Preset]) -> dict[str, ast.Ident | None]:
    """Preset -> the model at the root of what it derives from, None if there is none. A chain is walked once."""
    found: dict[str, ast.Ident | None] = {}
    for name in presets:
        chain: dict[str, None] = {}
        at: ast.Ident | ast.Str | None = presets[name].name
        while isinstance(at, ast.Str) and at.value in presets and at.value not in chain and at.value not in found:
            chain[at.value] = None
            at = presets[at.value].base
        root = found.get(at.value) if isinstance(at, ast.Str) else at
        found |= dict.fromkeys(chain, root)
    return found


def tests_of(file: ast.File) -> list[ast.Test]:
    """The test sections of a file, and those that its presets stand for."""
    tests = [item for item in file.items if isinstance(item, ast.Test)]
    presets = [item for item in file.items if isinstance(item, ast.Preset)]
    expecting = [preset for preset in presets if preset.expect is not None]
    if not expecting:
        return tests
    roots = _roots({preset.name.value: preset for preset in presets})
    for preset in expecting:
        model = roots[preset.name.value]
        if model is not None and preset.expect is not None:  # else what it derives from is reported
            chosen = ast.Setting(preset.name.span, ast.Ident(preset.name.span, "preset"), preset.name)
            expected = ast.Expect(preset.expect.span, preset.expect, ())
            tests.append(ast.Test(preset.span, model, preset.name, (), (chosen, expected)))
    return tests
