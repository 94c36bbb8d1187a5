"""Emitted modules: made from a spec, held against the IR's own evaluation, and as linters see them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from specc.backends.torch.export import emit
from specc.backends.torch.layout import WIDTH
from specc.driver import load
from specc.ir.graph import Graph, Model
from specc.ir.members import parameter_count, parameters
from specc.ir.taps import walk
from specc_runtime.taps import run


def spec(tmp_path: Path, text: str) -> Model:
    path = tmp_path / "case.spec"
    path.write_text(text)
    return load(path).model


def live(model: Model) -> torch.nn.Module:
    """The emitted module, every parameter drawn anew so that no zero or one hides a mistake."""
    namespace: dict[str, Any] = {}
    exec(compile(emit(model), f"{model.name}.py", "exec"), namespace)
    module: torch.nn.Module = namespace[model.module.name]()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


def inputs_of(graph: Graph, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Numbers for the inputs that a graph is for; masks hide something, but no row entirely."""
    torch.manual_seed(1)
    given: dict[str, torch.Tensor] = {}
    for argument in graph.inputs:
        if argument.value is None:
            continue
        env = {s: 0 if s.startswith("past(") else sizes.get(s, 3) for d in argument.type.shape for s in d.symbols}
        shape = [d.evaluate(env) for d in argument.type.shape]
        kind = argument.type.dtype.value
        if kind == "bool":
            given[argument.name] = torch.ones(shape, dtype=torch.bool)
            given[argument.name][0, : shape[1] // 2] = False
        else:
            given[argument.name] = torch.randint(0, 61, shape) if kind == "i64" else torch.randn(shape)
    return given


def entries(model: Model) -> Iterator[tuple[str, Graph]]:
    for entry in model.entries.values():
        for graph in entry.graphs.values():
            yield entry.name, graph


def as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_faithful(model: Model, sizes: Mapping[str, int]) -> torch.nn.Module:
    """Every entry, for every set of given inputs, equals the IR evaluated operator by operator."""
    module = live(model)
    declared = parameters(model.module)
    state = module.state_dict()
    assert sorted(state) == sorted(declared)
    assert {n: tuple(t.shape) for n, t in state.items()} == {
        n: tuple(d.value for d in p.type.shape) for n, p in declared.items()
    }
    assert sum(p.numel() for p in module.parameters()) == parameter_count(model.module)
    for name, graph in entries(model):
        given = inputs_of(graph, sizes)
        expected, taps = run(graph, module, given)
        with torch.no_grad():
            results = as_tuple(getattr(module, name)(**given))
        for value, want in zip(results, expected.values(), strict=True):
            torch.testing.assert_close(value, want, rtol=1e-6, atol=1e-6)
        assert list(taps) == [tap.key for tap in walk(graph)]
    return module


def assert_formatted(text: str, tmp_path: Path) -> None:
    """What a person's linters say: nothing."""
    path = tmp_path / "emitted.py"
    path.write_text(text)
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--no-cache", "--line-length", "100", "--target-version", "py311"]
    for command in (["check", "--select", "E4,E7,E9,F,I,UP,B"], ["format", "--diff"]):
        done = subprocess.run([*ruff, *command, *options, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, text.splitlines())) <= WIDTH
