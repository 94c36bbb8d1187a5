"""`assert_equivalent`: a spec against a program that specc did not make, with the part where they begin to differ."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected, Size
from specc.elaborate.names import available, closest
from specc_runtime.compare import Figures, compare, tolerance
from specc_runtime.foreign_program import Different, Foreign, built, foreign
from specc_runtime.inputs import Interface, Masks, draw
from specc_runtime.module import Build
from specc_runtime.programs import Crash, run_torch
from specc_runtime.sizes import plan

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

Rename = Mapping[str, str] | Callable[[str], str]


def assert_equivalent(
    spec: str | Path | Build,
    other: Any,
    *,
    within: float | None = None,
    at: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
    inputs: Mapping[str, Array] | None = None,
    entry: str = "forward",
    share_weights: bool = True,
    rename: Rename | None = None,
    **request: Any,
) -> None:
    """Assert that a spec computes what another program computes.

    `spec` is a spec (a path, or a model of the zoo, with `preset`, `sets` and whatever else a build takes in
    `request`), or a build. `other` is an `nn.Module`, the path of an ONNX file, a transformers model, another spec or
    another build.

    Both run on the same inputs: drawn ones of several sizes (every size 1, distinct primes, ..), those of `at`
    (`{"B": 2, "T": 7}`, or a list of these), or `inputs` themselves; masks are drawn for all but transformers' models,
    whose rows without padding alone are specified. Outputs are compared by name where both sides have names, else in
    order: |spec - other| <= `within` * max(1, max|other|), by default what a build's certificate allows.

    Weights: a transformers model's are read through the spec's `weights` section; those of another `nn.Module` or ONNX
    file are taken by name (`rename` gives a name of theirs the spec's), unless `share_weights=False`: then each side
    keeps its own.

    Raises `Different`, an AssertionError, with sizes, the largest difference, and the first part of
    the model whose result the other side does not have.
    """
    __tracebackhide__ = True
    with tempfile.TemporaryDirectory(prefix="specc-equivalent-") as work:
        theirs = foreign(other, Path(work))
        if isinstance(spec, Build):
            made = spec
        else:
            if share_weights and theirs.checkpoint is not None:
                request.setdefault("weights", str(theirs.checkpoint))
            entries = {"entries": (entry,)} if entry != "forward" else {}
            made = built(str(spec), Path(work) / "build", **entries, **request)
        try:
            _Comparison(made, theirs, entry, within).run(
                _cases(made.interface(entry), at, inputs, theirs.masks), share_weights, rename
            )
        except Rejected as rejected:
            raise Different(rejected.diagnostics) from None


@dataclass(frozen=True)
class _Case:
    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]


def _cases(
    of: Interface,
    at: Mapping[str, int] | Sequence[Mapping[str, int]] | None,
    inputs: Mapping[str, Array] | None,
    masks: Masks,
) -> list[_Case]:
    """The inputs that both sides run on."""
    if inputs is not None:
        missing = [i.name for i in of.inputs if i.name not in inputs]
        if missing:
            raise _failed(f"`inputs` has no `{missing[0]}`", available=", ".join(i.name for i in of.inputs))
        return [_Case({}, {i.name: inputs[i.name] for i in of.inputs})]
    if at is None:
        chosen = [case.sizes for case in plan(of) if not case.skipped and not case.at_bound]
    else:
        chosen = [at] if isinstance(at, Mapping) else list(at)
    for sizes in chosen:
        if set(sizes) != set(of.dims):
            raise _failed(f"sizes are given for {', '.join(sizes) or 'nothing'}", wanted=", ".join(of.dims))
        broken = of.facts.satisfied_by(sizes)
        if broken is not None:
            raise _failed(f"these sizes do not fit the model: it needs {broken}", sizes=str(dict(sizes)))
    return [_Case(sizes, draw(of, sizes, masks=masks)) for sizes in chosen]


def _failed(message: str, **notes: str) -> Rejected:
    return Rejected([Diagnostic("B631", message, notes=tuple(notes.items()))])


class _Comparison:
    """One spec against one program."""

    def __init__(self, made: Build, theirs: Foreign, entry: str, within: float | None) -> None:
        self.made, self.theirs = made, theirs
        self.of = made.interface(entry)
        self.within = tolerance(self.of.depth) if within is None else within

    def run(self, cases: Sequence[_Case], share_weights: bool, rename: Rename | None) -> None:
        module = self.made.module()
        if share_weights and self.theirs.checkpoint is None:
            self._share(module, rename)
        for case in cases:
            try:
                ours = run_torch(module, self.of, case.feeds)
                theirs = self.theirs.run(self.of, case.feeds)
            except Crash as crash:
                raise Rejected([self._said(str(crash), case)]) from None
            self._compare(module, case, ours, theirs)

    def _share(self, module: torch.nn.Module, rename: Rename | None) -> None:
        """Give the spec's module the other side's weights, by name."""
        import torch

        theirs = self.theirs.weights()
        if theirs is None:
            return
        if rename is not None:
            to = rename if callable(rename) else lambda name: rename.get(name, name)
            theirs = {to(name): value for name, value in theirs.items()}
        stored = set(self.made.manifest["weights"]["ties"]) if self.made.manifest["weights"] else set()
        ours = module.state_dict()
        wanted = [name for name in ours if name not in stored]
        missing = [name for name in wanted if name not in theirs]
        if missing:
            strange = [name for name in theirs if name not in ours]
            guess = closest(missing[0], strange) or (strange[0] if strange else "")
            help = (
                f'rename={{"{guess}": "{missing[0]}", ..}}'
                if guess
                else "share_weights=False compares each with its own"
            )
            notes = (("not in the spec", available(strange) or "none"),)
            message = f"{self.theirs.label} has no weight `{missing[0]}`"
            message += f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise Rejected([Diagnostic("B631", message, help=help, notes=notes)])
        for name in wanted:
            found, own = torch.from_numpy(copy.copy(theirs[name])), ours[name]
            if found.shape != own.shape:
                sides = {"spec": str(list(own.shape)), self.theirs.label: str(list(found.shape))}
                raise _failed(f"the weight `{name}` has another shape", **sides)
            with torch.no_grad():
                own.copy_(found)

    def _compare(
        self, module: torch.nn.Module, case: _Case, ours: Mapping[str, Array], theirs: Mapping[str, Array] | list[Array]
    ) -> None:
        if isinstance(theirs, list):
            if len(theirs) != len(ours):
                message = f"{self.theirs.label} returns {len(theirs)} results, the spec {len(ours)}"
                raise Rejected([self._said(message, case)])
            pairs = dict(zip(ours, theirs, strict=True))
        else:
            pairs = {name: theirs[name] for name in ours if name in theirs}
            if not pairs:
                message = f"{self.theirs.label} has no output of the spec's names"
                raise Rejected([self._said(message, case, spec=", ".join(ours), other=", ".join(theirs))])
        for name, reference in pairs.items():
            found = ours[name]
            figures = compare(reference.astype(found.dtype, copy=False), found, self.within)
            if figures.problem:
                raise Rejected([self._differs(module, case, name, figures)])

    def _differs(self, module: torch.nn.Module, case: _Case, output: str, figures: Figures) -> Diagnostic:
        from specc_runtime.first_difference import first_difference

        notes = {}
        if figures.worst is not None:
            index, reference, found = figures.worst
            notes = {"at": f"{output}{list(index)}", "spec": f"{found:.8g}", "other": f"{reference:.8g}"}
        notes |= first_difference(module, self.of, self.theirs, case.feeds, self.within)
        problem = figures.problem.replace("in torch", f"in {self.theirs.label}")
        return self._said(f"the spec and {self.theirs.label} differ: {output}: {problem}", case, **notes)

    def _said(self, message: str, case: _Case, **notes: str) -> Diagnostic:
        sizes = tuple(Size(name, str(size)) for name, size in case.sizes.items())
        return Diagnostic("B631", message, sizes=sizes, notes=tuple((k.replace("_", " "), v) for k, v in notes.items()))
