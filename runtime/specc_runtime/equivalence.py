"""`assert_equivalent`: a spec against a program that specc did not make, with the part where they begin to differ."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected, Size
from specc.dims import Dim
from specc.elaborate.names import available, closest
from specc_runtime.compare import Figures, compare, tolerance
from specc_runtime.foreign_program import Different, Foreign, built, foreign
from specc_runtime.inputs import NUMPY, Input, Interface, Masks, draw
from specc_runtime.module import Build, tied_names
from specc_runtime.programs import Crash, as_numpy, run_torch
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
    inputs: Mapping[str, Any] | None = None,
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
    (`{"B": 2, "T": 7}`, or a list of these), or `inputs` themselves (arrays, tensors, lists of numbers); masks are
    drawn for all but transformers' models, whose rows without padding alone are specified. A module runs in eval mode,
    in the dtype of its weights and where they are; it takes inputs by name if it has the spec's names, else in order.
    Outputs are compared by name where both sides have names, else in order: |spec - other| <= `within` * max(1,
    max|other|), by default what a build's certificate allows.

    Weights: a transformers model's are read through the spec's `weights` section; those of another `nn.Module` or ONNX
    file are taken by name (`rename` gives a name of theirs the spec's), unless `share_weights=False`: then each side
    keeps its own.

    Raises TypeError for what is no spec or no program, `Different`, an AssertionError, with sizes, the largest
    difference, and the first part of the model whose result the other side does not have.
    """
    __tracebackhide__ = True
    if not isinstance(spec, (str, Path, Build)):
        raise TypeError(f'the spec comes first, assert_equivalent("model.spec", module): {type(spec).__name__} is none')
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


def _renaming(missing: Sequence[str], strange: Sequence[str]) -> str:
    """How names of theirs could become the spec's: without a prefix, or one by one; "" if they have no others."""
    wanted = set(missing)
    prefixes = (
        name[: at + 1] for name in strange for at, c in enumerate(name) if c == "." and name[at + 1 :] in wanted
    )
    (prefix, times), *_ = Counter(prefixes).most_common(1) or [("", 0)]
    if 2 * times > len(missing):
        return f'rename=lambda name: name.removeprefix("{prefix}")'
    guess = closest(missing[0], strange) or next(iter(strange), "")
    return f'rename={{"{guess}": "{missing[0]}", ..}}' if guess else ""


@dataclass(frozen=True)
class _Case:
    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]


def _cases(
    of: Interface,
    at: Mapping[str, int] | Sequence[Mapping[str, int]] | None,
    inputs: Mapping[str, Any] | None,
    masks: Masks,
) -> list[_Case]:
    """The inputs that both sides run on."""
    if inputs is not None:
        return [_given(of, inputs)]
    if at is None:
        chosen = [case.sizes for case in plan(of) if not case.skipped and not case.at_bound]
    else:
        chosen = [at] if isinstance(at, Mapping) else list(at)
    if not chosen:
        raise _failed("there are no sizes to compare at", wanted=", ".join(of.dims))
    for sizes in chosen:
        if set(sizes) != set(of.dims):
            raise _failed(f"sizes are given for {', '.join(sizes) or 'nothing'}", wanted=", ".join(of.dims))
        _check(of, sizes)
    return [_Case(sizes, draw(of, sizes, masks=masks)) for sizes in chosen]


def _check(of: Interface, sizes: Mapping[str, int]) -> None:
    broken = of.facts.satisfied_by(sizes)
    if broken is not None:
        raise _failed(f"these sizes do not fit the model: it needs {broken}", sizes=str(dict(sizes)))


def _given(of: Interface, inputs: Mapping[str, Any]) -> _Case:
    """Arrays, tensors or lists of numbers as the spec takes them, and the sizes that they have."""
    known = ", ".join(i.name for i in of.inputs)
    missing = next((i.name for i in of.inputs if i.name not in inputs), None)
    if missing is not None:
        raise _failed(f"`inputs` has no `{missing}`", available=known)
    strange = next((name for name in inputs if name not in {i.name for i in of.inputs}), None)
    if strange is not None:
        raise _failed(f"the spec has no input `{strange}`", available=known)
    feeds = {i.name: _array(i, inputs[i.name]) for i in of.inputs}
    sizes: dict[str, int] = {}
    for i in of.inputs:
        for dim, size in zip(i.shape, feeds[i.name].shape, strict=True):
            if len(dim.symbols) == 1 and dim == Dim.symbol(dim.symbols[0]):
                sizes.setdefault(dim.symbols[0], size)
    for i in of.inputs:
        found = feeds[i.name].shape
        known_sizes = zip(i.shape, found, strict=True)
        if any(set(d.symbols) <= set(sizes) and d.evaluate(sizes) != size for d, size in known_sizes):
            shapes = {"given": str(list(found)), "the spec": f"[{', '.join(map(str, i.shape))}]"}
            raise _failed(f"the input `{i.name}` has another shape", **shapes)
    if set(sizes) == set(of.dims):
        _check(of, sizes)
    return _Case(sizes, feeds)


def _array(item: Input, value: Any) -> Array:
    """Raises `Rejected` for what are no numbers of the kind that the input has, or have another rank."""
    import numpy as np
    import torch

    array = as_numpy(value.detach()) if isinstance(value, torch.Tensor) else np.asarray(value)
    wanted = np.dtype(NUMPY.get(item.dtype, "float32"))
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and wanted.kind != "f"):
        raise _failed(f"the input `{item.name}` takes {wanted}, not {array.dtype}")
    if array.ndim != len(item.shape):
        shape = f"[{', '.join(map(str, item.shape))}]"
        raise _failed(f"the input `{item.name}` has {array.ndim} axes", the_spec=shape)
    return array.astype(wanted)


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
        ties, ours = tied_names(module), module.state_dict()
        theirs = self._untied(theirs, ties)
        wanted = [name for name in ours if name not in ties]
        missing = [name for name in wanted if name not in theirs]
        if missing:
            strange = [name for name in theirs if name not in ours]
            help = _renaming(missing, strange) or "share_weights=False compares each with its own"
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

    def _untied(self, theirs: Mapping[str, Array], ties: Mapping[str, str]) -> dict[str, Array]:
        """By the first name of each tensor, where the other side has it by any; two that the spec ties are equal."""
        import numpy as np

        found = dict(theirs)
        for alias, name in ties.items():
            if alias in found and name in found and not np.array_equal(found[alias], found[name], equal_nan=True):
                message = f"the spec ties `{alias}` to `{name}`, which have other values in {self.theirs.label}"
                raise _failed(message)
            if alias in found:
                found.setdefault(name, found[alias])
        return found

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
            if not pairs and len(theirs) == len(ours):  # of other names
                pairs = dict(zip(ours, theirs.values(), strict=True))
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
        if self.theirs.rounds:
            notes["computed in"] = f"f32 by the spec, {self.theirs.rounds} by {self.theirs.label}: see `within`"
        problem = figures.problem.replace("in torch", f"in {self.theirs.label}")
        return self._said(f"the spec and {self.theirs.label} differ: {output}: {problem}", case, **notes)

    def _said(self, message: str, case: _Case, **notes: str) -> Diagnostic:
        sizes = tuple(Size(name, str(size)) for name, size in case.sizes.items())
        return Diagnostic("B631", message, sizes=sizes, notes=tuple((k.replace("_", " "), v) for k, v in notes.items()))
