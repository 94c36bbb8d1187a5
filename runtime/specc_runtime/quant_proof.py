"""The proof of quantised graphs: that they compute what their bits say, and how far that is from the fp32 model.

Rounding activations is the only thing that a quantised graph may do beside the fp32 graph with the weights that its
bits stand for. So the two are compared with that rounding taken out (`unrounded`), and have to agree as closely as
torch and onnxruntime do: a nibble, a scale, a transpose or a name in the wrong place cannot hide behind the loss of
precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specc.diagnostics import Diagnostic, Rejected
from specc.quantisation import Scheme, members, whole
from specc_runtime import manifest, programs, quant_kernels
from specc_runtime.cache import CachedEntry
from specc_runtime.certificate import Certificate
from specc_runtime.checkpoint import WEIGHTS, Checkpoint
from specc_runtime.compare import Figures, compare, tolerance
from specc_runtime.fused import first_feeds, given_sizes
from specc_runtime.inputs import Interface, draw
from specc_runtime.loss import Deviation, Loss
from specc_runtime.perplexity import perplexity, predicts
from specc_runtime.programs import OPTIMISED, PLAIN, Crash, Outputs, open_session, run_session
from specc_runtime.quantised import PackedFile, external, graph_file, uses, weights_file
from specc_runtime.saying import Say, silent
from specc_runtime.sizes import admissible, plan
from specc_runtime.steps import BufferSteps, OnnxSteps, in_parts

if TYPE_CHECKING:
    from onnx import ModelProto

Session = Any
Feeds = dict[str, np.ndarray[Any, Any]]
Make = Callable[[str], Session]
Runner = Callable[[Mapping[str, Any]], Outputs]
_PARTS: tuple[tuple[int, ...], ...] = (4, 1, 1, 2), (1, 1, 1), (9, 3)
"""Positions of the steps that texts are given in."""
_SPLIT = "#parts"
"""Among the inputs of a text: its parts."""
LOOKED_UP = "looked up"
"""Part of the name of a table's second copy, where one use of it is packed and another is not."""


@dataclass(frozen=True)
class Plain:
    """An entry that begins anew with every call: its fp32 graph's file, its interface."""

    file: str
    of: Interface

    @property
    def plain(self) -> Interface:
        return self.of

    def feeds(self, seed: int) -> Iterator[Feeds]:
        for case in plan(self.of):
            if not case.skipped and not case.at_bound:
                yield draw(self.of, case.sizes, seed=seed, masks="all true")

    def runner(self, make: Make) -> Runner:
        session, names = make(self.file), [output.name for output in self.of.outputs]
        return lambda feeds: run_session(session, OPTIMISED, feeds, names)


@dataclass(frozen=True)
class Stepping:
    """An entry that goes on from its earlier calls; its graphs are given texts in parts."""

    entry: CachedEntry

    @property
    def file(self) -> str:
        return self.entry.file

    @property
    def plain(self) -> Interface:
        return self.entry.plain

    def feeds(self, seed: int) -> Iterator[Feeds]:
        step, room, once = self.entry.cache.step, self.entry.cache.room, self.entry.cache.once
        for parts in _PARTS:
            if self.entry.cache.mask is not None:
                parts = (parts[0], *(1 for _ in parts[1:]))  # a buffer goes on by one position, in a batch
            length = sum(parts)
            wanted = dict.fromkeys(self.plain.dims, 2) | given_sizes(once, self.plain, 2) | {step: length}
            sizes = admissible(self.plain, wanted)
            if sizes is not None and sizes[step] == length and (room is None or length <= room):
                feeds = draw(self.plain, sizes, seed=seed, masks="all true") | first_feeds(once, 2, seed)
                yield feeds | {_SPLIT: np.array(parts)}

    def runner(self, make: Make) -> Runner:
        cache = self.entry.cache
        once = make(cache.once.file) if cache.once is not None else None
        kind = OnnxSteps if cache.mask is None else BufferSteps
        steps = kind(make(self.file), cache, self.entry.of, OPTIMISED, once)
        return lambda feeds: in_parts(steps, self.plain, feeds, feeds[_SPLIT].tolist())


def certified(
    certificate: Certificate,
    folder: Path,
    entries: Sequence[Plain | Stepping],
    scheme: Scheme,
    text: Path | None = None,
    progress: Say = silent,
) -> Certificate:
    """The certificate with what holds of the quantised graphs.

    Raises `Rejected`: B630 where one does not compute what its bits say, B670 where a text has no perplexity, and what
    reading the text may raise.
    """
    losses = {}
    with PackedFile(folder / weights_file(scheme)) as packed, Checkpoint.open(folder / WEIGHTS) as source:
        widths = [source.tensors[name].shape[1] for name in packed.names()]
    quant_kernels.check(scheme, widths, weights_file(scheme))
    for entry in entries:
        file = graph_file(entry.file, scheme)
        progress(f"comparing {file}")
        try:
            losses[file] = _loss(folder, entry, scheme, certificate.seed, text)
        except Crash as crash:
            raise Rejected([_defect(file, str(crash))]) from crash
    if text is not None and not any(loss.perplexity for loss in losses.values()):
        message = f"no entry gives a distribution of next tokens: {text} has no perplexity"
        raise Rejected([Diagnostic("B670", message, help="leave the text out")])
    names = [*losses, *(graph_file(name, scheme) for name in _once(entries)), weights_file(scheme)]
    files = {**certificate.files, **{name: manifest.sha256(folder / name) for name in names}}
    return replace(certificate, files=files, quantised=losses)


def _once(entries: Sequence[Plain | Stepping]) -> Iterator[str]:
    caches = [entry.entry.cache for entry in entries if isinstance(entry, Stepping)]
    yield from (cache.once.file for cache in caches if cache.once is not None)


def _loss(folder: Path, entry: Plain | Stepping, scheme: Scheme, seed: int, text: Path | None) -> Loss:
    found = Loss(scheme.text)
    feeds = list(entry.feeds(seed))
    exact = entry.runner(_Exact(folder, scheme).reference), entry.runner(_Exact(folder, scheme).unrounded)
    for given in feeds[:2]:
        reference, values = (run(given) for run in exact)
        for name, value in values.items():
            figures = compare(reference[name], value, tolerance(entry.plain.depth))
            if figures.problem:
                raise Rejected([_defect(graph_file(entry.file, scheme), f"`{name}`: {figures.problem}")])
            found.exact[name] = max(found.exact.get(name, Figures()), figures, key=lambda f: f.max_abs)
    del exact

    def session(file: str) -> Session:
        return open_session(OPTIMISED, folder / file)

    real = entry.runner(session), entry.runner(lambda file: session(graph_file(file, scheme)))
    for given in feeds:
        reference, values = (run(given) for run in real)
        for name, value in values.items():
            if value.dtype.kind == "f":
                deviation = found.outputs.setdefault(name, Deviation())
                deviation.add(reference[name], value, is_distribution=is_distribution(entry.plain, name))
        found.runs += 1
    if text is not None and isinstance(entry, Plain) and predicts(entry.of) is not None:
        found.perplexity = perplexity(entry.of, real, text, folder)
    return found


def is_distribution(of: Interface, name: str) -> bool:
    """Whether an output has as many numbers at its last axis as there are tokens that an input may be."""
    shape = next(output.shape for output in of.outputs if output.name == name)
    tokens = [high for item in of.inputs if item.dtype == "i64" for high in item.high]
    return len(shape) > 1 and shape[-1].value is not None and shape[-1] in tokens


# ---- the same without rounded activations ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Exact:
    """Sessions on two forms of a graph, given by the file of its fp32 form, that have to agree."""

    folder: Path
    scheme: Scheme

    def reference(self, file: str) -> Session:
        """The fp32 graph with the weights that the bits say."""
        proto, packed = self._load(file), self._load(graph_file(file, self.scheme))
        parts = [whole(t.name) for t in external(packed)]
        names = {one for name, what in parts if what for one in members(name)}
        tables = uses(packed)[1]
        split_uses(proto, names & {name for name, what in parts if not what})
        shapes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
        weights = programs.stored_weights(proto, self.folder, {t.name: None for t in external(proto)})
        with PackedFile(self.folder / weights_file(self.scheme)) as stored:
            for name in names:
                table = f"{name}:{LOOKED_UP}"
                target = table if table in shapes and name in tables else name
                weights[target] = stored.unpacked(name, shapes[name][1])
        if programs.is_external(proto):
            return open_session(PLAIN, proto.SerializeToString(), weights)
        return open_session(PLAIN, programs.embedded(proto, weights))

    def unrounded(self, file: str) -> Session:
        """The quantised graph without rounded activations."""
        proto = self._load(graph_file(file, self.scheme))
        unrounded(proto)
        weights = programs.stored_weights(proto, self.folder, {t.name: None for t in external(proto)})
        return open_session(PLAIN, proto.SerializeToString(), weights)

    def _load(self, file: str) -> ModelProto:
        import onnx

        proto: ModelProto = onnx.load(self.folder / file, load_external_data=False)
        return proto


def split_uses(proto: ModelProto, names: set[str]) -> None:
    """Give whatever reads tensors otherwise than linear layers do, look-ups above all, an initializer of its own."""
    for tensor in [t for t in proto.graph.initializer if t.name in names]:
        others = [
            (node, place)
            for node in _nodes(proto)
            for place, name in enumerate(node.input)
            if name == tensor.name and node.op_type != "Transpose" and (node.op_type, place) != ("Gemm", 1)
        ]
        if others:
            copy = proto.graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = f"{tensor.name}:{LOOKED_UP}"
        for node, place in others:
            node.input[place] = f"{tensor.name}:{LOOKED_UP}"


def unrounded(proto: ModelProto) -> None:
    """Take the rounding of activations out of a quantised graph, and nothing else.

    `DynamicQuantizeLinear` gives its input with the step 1, `MatMulInteger` multiplies what it then gets, and
    `MatMulNBits` computes in fp32.
    """
    from onnx import NodeProto, TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    integers: set[str] = set()
    for graph in [proto.graph]:
        nodes: list[NodeProto] = []
        for node in graph.node:
            if node.op_type == "DynamicQuantizeLinear":
                value, step, _ = node.output
                nodes.append(helper.make_node("Identity", [node.input[0]], [value]))
                nodes.append(helper.make_node("Constant", [], [step], value=one))
                integers.add(value)
            elif node.op_type == "MatMulInteger":
                wide = f"{node.output[0]}:wide"
                nodes.append(helper.make_node("Cast", [node.input[1]], [wide], to=TensorProto.FLOAT))
                nodes.append(helper.make_node("MatMul", [node.input[0], wide], [node.output[0]]))
                integers.add(node.output[0])
            else:
                if node.op_type == "MatMulNBits":
                    level = next(a for a in node.attribute if a.name == "accuracy_level")
                    level.i = 1
                nodes.append(node)
        changed = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(changed)
        for at in reversed(range(len(graph.value_info))):  # the others stay: onnxruntime does not infer all of them
            if graph.value_info[at].name in integers:
                del graph.value_info[at]


def _nodes(proto: ModelProto) -> Iterator[Any]:
    yield from proto.graph.node


def _defect(file: str, problem: str) -> Diagnostic:
    return Diagnostic(
        "B630",
        f"{file} does not compute what its packed weights say: {problem}",
        note="it is a defect of specc or of onnxruntime on this machine, not of the model",
        help="leave --quant out, and report it",
    )
