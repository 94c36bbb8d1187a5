"""What must hold for every valid spec: it checks, is laid out stably, and its programs agree."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import torch

from specc import driver
from specc.backends.onnx.export import build
from specc.backends.onnx.proto import Embedded
from specc.backends.onnx.target import Target
from specc.backends.torch.export import emit
from specc.diagnostics import Collector
from specc.ir import graph as ir
from specc.ir.json import to_json
from specc.source import Source
from specc.syntax.format import format_text, same_tree
from specc.syntax.parser import parse
from specc_runtime import programs
from specc_runtime.inputs import Interface, draw, interface
from specc_runtime.sizes import plan

ABSOLUTE, RELATIVE = 1e-5, 1e-4
"""onnxruntime's own tolerances for its kernels in fp32."""
CASES = 2
"""Sizes at which the programs are compared: the smallest that are admissible, and distinct primes."""


class Fault(AssertionError):
    """A spec for which something does not hold."""


@dataclass
class Examined:
    """`ops`: operator -> how often it stands in the elaborated model, blocks once per instance.

    `worst`: the largest difference as a part of what is allowed. `excused`: outputs that float32 itself does not hold.
    """

    ops: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    excused: int = 0


def examine(text: str, folder: Path) -> Examined:
    """Check and build a spec and compare its programs; raises `Fault` (or what the compiler or a program raised)."""
    stable_layout(text)
    path = folder / "random.spec"
    path.write_text(text, encoding="utf-8")
    model = driver.load(path).model
    found = Examined()
    for graph in {id(g): g for e in model.entries.values() for g in e.graphs.values()}.values():
        count(graph.nodes, found.ops)
    validator().validate(json.loads(json.dumps(to_json(model))))
    module = torch_module(model)
    for present in model.entries["forward"].graphs:
        without = model.entries["forward"].full.present - present
        if len(without) in (0, len(model.entries["forward"].full.present)):
            compare(model, module, without, found)
    return found


def stable_layout(text: str) -> None:
    """`specc fmt` keeps the tree, and a second time changes nothing."""
    done = format_text(Source("random.spec", text))
    if format_text(Source("random.spec", done)) != done:
        raise Fault("the layout of specc fmt is not a fixed point")
    trees = [parse(Source("random.spec", t), Collector()) for t in (text, done)]
    if not same_tree(*trees):
        raise Fault("specc fmt changes the syntax tree")


@cache
def validator() -> Any:
    """Of the published schema of ir.json."""
    file = Path(driver.__file__).parent / "schemas" / "ir.schema.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text(encoding="utf-8")))


def count(nodes: Sequence[ir.Node], ops: Counter[str]) -> None:
    """Every operator below these nodes."""
    for node in nodes:
        if isinstance(node, ir.Apply):
            ops[node.op.name] += 1
        elif isinstance(node, ir.Call):
            count(node.graph.nodes, ops)
        elif isinstance(node, ir.When):
            count(node.nodes, ops)
        elif isinstance(node, ir.Loop):
            for iteration in node.iterations:
                count(iteration.nodes, ops)


def torch_module(model: ir.Model) -> torch.nn.Module:
    """The emitted module in eval mode, its parameters drawn anew (fresh biases are 0, fresh norms 1)."""
    namespace: dict[str, Any] = {}
    exec(compile(emit(model), "random.py", "exec"), namespace)
    torch.manual_seed(0)
    module: torch.nn.Module = namespace[model.module.name]().eval()
    programs.perturb(module, 0)
    return module


def compare(model: ir.Model, module: torch.nn.Module, without: frozenset[str], found: Examined) -> None:
    """Torch against onnxruntime with and without optimisations, at two sizes."""
    weights = {name: value.tobytes() for name, value in programs.state(module).items()}
    proto = build(model, Target(weights=Embedded(weights)), without=without)
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString()
    sessions = {program: programs.open_session(program, content) for program in programs.PROGRAMS}
    of = interface(model, without=without)
    for case in [case for case in plan(of) if not case.skipped][:CASES]:
        feeds = draw(of, case.sizes)
        expected = programs.run_torch(module, of, feeds)
        for output in of.outputs:
            shape = tuple(dim.evaluate(case.sizes) for dim in output.shape)
            if expected[output.name].shape != shape:
                raise Fault(
                    f"{output.name} at {case.sizes}: torch {expected[output.name].shape}, the spec says {shape}"
                )
        for program, session in sessions.items():
            results = programs.run_session(session, program, feeds)
            for name, error in differences(expected, results):
                where = f"{name} at {dict(case.sizes)} in {program}"
                if isinstance(error, str):
                    raise Fault(f"{where}: {error}")
                if error > 1 and not excusable(module, of, feeds, name, expected[name], results[name]):
                    raise Fault(f"{where}: {error:.3g} times the tolerance")
                found.excused += error > 1
                found.worst = max(found.worst, error if error <= 1 else 0)
    trains(copy.deepcopy(module), of, feeds)


def differences(expected: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[tuple[str, float | str]]:
    """Per output the largest difference as a part of the tolerance, or in what else it differs."""
    for name, want in expected.items():
        have = results[name]
        if have.dtype != want.dtype or have.shape != want.shape:
            yield name, f"{have.dtype}{list(have.shape)}, torch has {want.dtype}{list(want.shape)}"
        elif want.dtype.kind != "f":
            wrong = int((want != have).sum())
            yield name, f"{wrong} of {want.size} values differ" if wrong else 0.0
        elif not (np.isfinite(want).all() and np.isfinite(have).all()):
            yield name, "a value that is not finite"
        else:
            yield name, float((np.abs(have - want) / (ABSOLUTE + RELATIVE * np.abs(want))).max(initial=0.0))


def excusable(
    module: torch.nn.Module, of: Interface, feeds: Mapping[str, Any], name: str, want: Any, have: Any
) -> bool:
    """Whether torch in float32 is itself further from torch in float64 than the two programs are from each other."""
    rounding = programs.rounding(module, of, feeds, name)
    return rounding is not None and float(np.abs(have - want).max()) <= 2 * rounding


def trains(module: torch.nn.Module, of: Interface, feeds: Mapping[str, Any]) -> None:
    """`when train` regions and random operators run, and keep every shape."""
    quiet = programs.run_torch(module, of, feeds)
    try:
        drawn = programs.run_torch(module.train(), of, feeds)
    except programs.Crash as crash:
        if "more than 1 value per channel" in str(crash):  # what torch.nn's BatchNorm says of a batch of one value
            return
        raise
    for name, value in drawn.items():
        if value.shape != quiet[name].shape or value.dtype != quiet[name].dtype:
            raise Fault(f"{name}: {value.dtype}{value.shape} in training, else {quiet[name].dtype}{quiet[name].shape}")
