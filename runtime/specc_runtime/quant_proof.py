"""The proof of quantised graphs: that they compute what their bits say, and how far that is from the fp32 model.

Rounding activations is the only thing that a quantised graph may do beside the fp32 graph with the weights that its
bits stand for. So the two are compared with that rounding taken out (`unrounded`), and have to agree as closely as
torch and onnxruntime do: a nibble, a scale, a transpose or a name in the wrong place cannot hide behind the loss of
precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.quantisation import Scheme, whole
from specc_runtime import manifest, programs, quant_kernels
from specc_runtime.certificate import Certificate
from specc_runtime.checkpoint import WEIGHTS, Checkpoint
from specc_runtime.compare import Figures, compare, tolerance
from specc_runtime.inputs import Interface, draw
from specc_runtime.loss import Deviation, Loss
from specc_runtime.perplexity import perplexity, predicts
from specc_runtime.programs import OPTIMISED, PLAIN, Crash, open_session, run_session
from specc_runtime.quantised import PackedFile, external, graph_file, weights_file
from specc_runtime.sizes import Case, plan

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    Array = np.ndarray[Any, Any]

Say = Callable[[str], None]
LOOKED_UP = "looked up"
"""Part of the name of a table's second copy, where one use of it is packed and another is not."""


def certified(
    certificate: Certificate,
    folder: Path,
    entries: Sequence[tuple[str, Interface]],
    scheme: Scheme,
    text: Path | None = None,
    progress: Say = lambda _: None,
) -> Certificate:
    """The certificate with what holds of the quantised graphs; `entries` are (file of the fp32 graph, interface).

    Raises `Rejected` (B630) where one does not compute what its bits say.
    """
    losses = {}
    with PackedFile(folder / weights_file(scheme)) as packed, Checkpoint.open(folder / WEIGHTS) as source:
        widths = [source.tensors[name].shape[1] for name in packed.names()]
    quant_kernels.check(scheme, widths, weights_file(scheme))
    for file, of in entries:
        progress(f"comparing {graph_file(file, scheme)}")
        try:
            losses[graph_file(file, scheme)] = _loss(folder, file, of, scheme, certificate.seed, text)
        except Crash as crash:
            raise Rejected([_defect(graph_file(file, scheme), str(crash))]) from crash
    if text is not None and not any(loss.perplexity for loss in losses.values()):
        message = f"no entry gives a distribution of next tokens: {text} has no perplexity"
        raise Rejected([Diagnostic("B670", message, help="leave the text out")])
    names = [*losses, weights_file(scheme)]
    files = {**certificate.files, **{name: manifest.sha256(folder / name) for name in names}}
    return replace(certificate, files=files, quantised=losses)


def _loss(folder: Path, file: str, of: Interface, scheme: Scheme, seed: int, text: Path | None) -> Loss:
    import onnx

    found = Loss(scheme.text)
    cases = _cases(of)
    fp32 = onnx.load(folder / file, load_external_data=False)
    packed = onnx.load(folder / graph_file(file, scheme), load_external_data=False)
    names = sorted({whole(t.name)[0] for t in external(packed) if whole(t.name)[1]})
    if not names:
        return found
    exact = _Pair(*_exact_pair(folder, fp32, packed, names, scheme))
    for case in cases[:2]:
        feeds = draw(of, case.sizes, seed=seed, masks="all true")
        for name, (reference, value) in exact.outputs(of, feeds).items():
            figures = compare(reference, value, tolerance(of.depth))
            if figures.problem:
                raise Rejected([_defect(graph_file(file, scheme), f"`{name}`: {figures.problem}")])
            found.exact[name] = max(found.exact.get(name, Figures()), figures, key=lambda f: f.max_abs)
    real = _Pair(open_session(OPTIMISED, folder / file), open_session(OPTIMISED, folder / graph_file(file, scheme)))
    for case in cases:
        feeds = draw(of, case.sizes, seed=seed, masks="all true")
        for name, (reference, value) in real.outputs(of, feeds).items():
            if reference.dtype.kind == "f":
                deviation = found.outputs.setdefault(name, Deviation())
                deviation.add(reference, value, is_distribution=is_distribution(of, name))
        found.runs += 1
    if text is not None and predicts(of) is not None:
        found.perplexity = perplexity(of, (real.reference, real.found), text, folder)
    return found


def _cases(of: Interface) -> list[Case]:
    return [case for case in plan(of) if not case.skipped and not case.at_bound]


class _Pair:
    """Two sessions that take the same inputs."""

    def __init__(self, reference: Any, found: Any) -> None:
        self.reference, self.found = reference, found

    def outputs(self, of: Interface, feeds: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        names = [output.name for output in of.outputs]
        expected = run_session(self.reference, OPTIMISED, feeds, names)
        values = run_session(self.found, OPTIMISED, feeds, names)
        return {name: (expected[name], values[name]) for name in names}


def is_distribution(of: Interface, name: str) -> bool:
    """Whether an output has as many numbers at its last axis as there are tokens that an input may be."""
    shape = next(output.shape for output in of.outputs if output.name == name)
    tokens = [high for item in of.inputs if item.dtype == "i64" for high in item.high]
    return len(shape) > 1 and shape[-1].value is not None and shape[-1] in tokens


# ---- the same without rounded activations ----------------------------------------------------------------------------


def _exact_pair(
    folder: Path, fp32: ModelProto, packed: ModelProto, names: Sequence[str], scheme: Scheme
) -> tuple[Any, Any]:
    """Sessions: the fp32 graph with the weights that the bits say, and the quantised graph without rounding."""
    kept = {t.name for t in external(packed)} & set(names)
    split_uses(fp32, kept)
    shapes = {t.name: tuple(t.dims) for t in fp32.graph.initializer}
    stored = programs.stored_weights(fp32, folder, {t.name: None for t in external(fp32)})
    with PackedFile(folder / weights_file(scheme)) as file:
        for name in names:
            both = f"{name}:{LOOKED_UP}"
            target = both if both in shapes and scheme.embed else name
            stored[target] = file.unpacked(name, shapes[name][1])
    unrounded(packed)
    own = programs.stored_weights(packed, folder, {t.name: None for t in external(packed)})
    reference = open_session(PLAIN, fp32.SerializeToString(), stored)
    return reference, open_session(PLAIN, packed.SerializeToString(), own)


def split_uses(proto: ModelProto, names: set[str]) -> None:
    """Give the look-ups of tables that are also multiplied with an initializer of their own."""
    for tensor in [t for t in external(proto) if t.name in names]:
        copy = proto.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = f"{tensor.name}:{LOOKED_UP}"
        for node in _nodes(proto):
            if node.op_type == "Gather" and node.input[0] == tensor.name:
                node.input[0] = copy.name


def unrounded(proto: ModelProto) -> None:
    """Take the rounding of activations out of a quantised graph, and nothing else.

    `DynamicQuantizeLinear` gives its input with the step 1, `MatMulInteger` multiplies what it then gets, and
    `MatMulNBits` computes in fp32.
    """
    from onnx import NodeProto, TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    for graph in [proto.graph]:
        nodes: list[NodeProto] = []
        for node in graph.node:
            if node.op_type == "DynamicQuantizeLinear":
                value, step, _ = node.output
                nodes.append(helper.make_node("Identity", [node.input[0]], [value]))
                nodes.append(helper.make_node("Constant", [], [step], value=one))
            elif node.op_type == "MatMulInteger":
                wide = f"{node.output[0]}:wide"
                nodes.append(helper.make_node("Cast", [node.input[1]], [wide], to=TensorProto.FLOAT))
                nodes.append(helper.make_node("MatMul", [node.input[0], wide], [node.output[0]]))
            else:
                if node.op_type == "MatMulNBits":
                    level = next(a for a in node.attribute if a.name == "accuracy_level")
                    level.i = 1
                nodes.append(node)
        changed = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(changed)
        del graph.value_info[:]  # of values that are no longer integers


def _nodes(proto: ModelProto) -> Iterator[Any]:
    yield from proto.graph.node


def _defect(file: str, problem: str) -> Diagnostic:
    return Diagnostic(
        "B630",
        f"{file} does not compute what its packed weights say: {problem}",
        note="it is a defect of specc or of onnxruntime on this machine, not of the model",
        help="leave --quant out, and report it",
    )
