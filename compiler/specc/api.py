"""The public API: `load` a spec as a checked `Model`, then ask it for source, graph, costs or IR."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import driver, report
from specc.diagnostics import Diagnostic, Rejected
from specc.inspect import Report, chosen_graph
from specc.inspect import report as inspect_model
from specc.ir.members import parameter_count
from specc.ir.text import model_text
from specc.lowering import OPSETS
from specc.version import version

if TYPE_CHECKING:
    from onnx import ModelProto


class SpecError(Rejected):
    """A spec cannot be compiled as asked. `str(error)` is the full report, `error.diagnostics` the findings as data."""

    def __str__(self) -> str:
        return report.full(self.diagnostics).rstrip("\n")


class Model:
    """A checked model in one configuration; made by `load`. `warnings`: what the check found beside errors."""

    def __init__(self, checked: driver.Checked) -> None:
        self._model = checked.model
        self.warnings: tuple[Diagnostic, ...] = checked.warnings

    def __repr__(self) -> str:
        preset = f", preset={self.preset!r}" if self.preset else ""
        return f"<specc.Model {self._model.module.name} {self._model.file!r}{preset}: {self.parameters:,} parameters>"

    @property
    def name(self) -> str:
        """What a build of it is called: the preset's name, else the file's."""
        return self._model.name

    @property
    def preset(self) -> str | None:
        """The preset that was chosen, if any."""
        return self._model.preset

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Name -> value in force; a function or block appears as its name."""
        return {h.name: h.value for h in self._model.module.hypers if not h.is_let}

    @property
    def parameters(self) -> int:
        """Trainable elements, tied ones counted once."""
        return parameter_count(self._model.module)

    @property
    def entries(self) -> tuple[str, ...]:
        """Methods that can be built each by itself: "forward" and the model's public `fn`s."""
        return tuple(self._model.entries)

    def torch_source(self) -> str:
        """The complete text of a Python file with the model as `torch.nn.Module`; it needs torch alone."""
        from specc.backends.torch.export import emit

        return emit(self._model, version=version())

    def onnx(
        self,
        entry: str = "forward",
        *,
        opset: int = 23,
        without: Iterable[str] = (),
        weights: Mapping[str, bytes] | None = None,
    ) -> ModelProto:
        """The flat graph of an entry, with every optional input but those in `without`.

        `weights`: state_dict name -> little-endian bytes in torch's layout, copied into the model; None leaves them
        out, which gives the structure alone. Inputs and outputs have the signature's names and symbolic sizes; floats
        are fp32. Raises `SpecError` for an entry or input that the model does not have, for weights that do not fit it,
        and for extern functions, whose files only `specc build` runs (X901); ValueError for an opset outside 17 to 26.
        """
        from specc.backends.onnx.export import build
        from specc.backends.onnx.proto import Embedded
        from specc.backends.onnx.target import Target

        if opset not in OPSETS:
            raise ValueError(f"opset {opset}: specc writes {OPSETS.start} to {OPSETS.stop - 1}")
        omitted = frozenset(without)
        try:
            chosen_graph(self._model, entry, omitted)
            data = None if weights is None else Embedded(self._fitting(weights))
            target = Target(opset=opset, weights=data, version=version())
            return build(self._model, target, entry=entry, without=omitted)
        except Rejected as rejected:
            raise SpecError(rejected.diagnostics) from None

    def inspect(
        self,
        entry: str = "forward",
        *,
        at: Mapping[str, int] | None = None,
        without: Iterable[str] = (),
        depth: int | None = None,
    ) -> Report:
        """The tree of blocks with shapes, parameters and FLOPs as formulas; `at` adds numbers for these sizes.

        `str` of it is the table that `specc inspect` prints. Raises `SpecError` for an entry, input or size that the
        model does not have.
        """
        try:
            return inspect_model(self._model, entry, without=frozenset(without), at=at, depth=depth)
        except Rejected as rejected:
            raise SpecError(rejected.diagnostics) from None

    def ir(self) -> str:
        """The typed IR as text."""
        return model_text(self._model)

    def _fitting(self, weights: Mapping[str, bytes]) -> dict[str, bytes]:
        """The weights of this model, checked for presence and length; those of tied names are left out."""
        from specc.inspect.counts import BYTES
        from specc.ir.members import aliases, element_count, parameters

        tied = aliases(self._model.module)
        found: list[Diagnostic] = []
        chosen: dict[str, bytes] = {}
        for name, parameter in parameters(self._model.module).items():
            if name in tied:
                continue
            size = element_count(parameter.type) * BYTES[parameter.type.dtype]
            if name not in weights:
                expected = (("expected", str(parameter.type)),)
                found.append(Diagnostic("W311", f"no weights are given for `{name}`", notes=expected))
            elif len(weights[name]) != size:
                have = f"{len(weights[name]):,} bytes, {parameter.type} takes {size:,}"
                found.append(Diagnostic("W301", f"the weights of `{name}` do not fit: {have}"))
            else:
                chosen[name] = bytes(weights[name])
        if found:
            raise SpecError(found)
        return chosen


def load(path: str | Path, preset: str | None = None, model: str | None = None, **overrides: Any) -> Model:
    """Read, parse and check a spec: a file, or the name of a model that comes with specc (`"gpt2"`).

    `preset` and `model` choose from those of the file; `overrides` are hyper-parameters as Python values: int, float,
    bool, None, lists of those, and str, which also names functions (`act="relu"`). Raises `SpecError` if there is
    anything wrong, TypeError for a value of another type.
    """
    sets = {name: written(value) for name, value in overrides.items()}
    try:
        return Model(driver.load(path, preset=preset, model=model, sets=sets))
    except Rejected as rejected:
        raise SpecError(rejected.diagnostics) from None


def written(value: object) -> str:
    """A Python value as a spec writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, str):
        # A bare name may be that of a function; where the parameter is a str, it is taken as one.
        bare = value.isidentifier() and value not in ("true", "false", "none")
        return value if bare else json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        quoted = (json.dumps(v, ensure_ascii=False) if isinstance(v, str) else written(v) for v in value)
        return f"[{', '.join(quoted)}]"  # lists hold strings, no functions
    raise TypeError(f"a hyper-parameter cannot be {value!r}")
