"""Every operator's docstring examples, as one-operator models: torch, onnxruntime and ONNX's reference agree on them.

An example is a line `example: softmax(x: Tensor[B, 8], axis = -1) -> Tensor[B, 8]`. Arguments written `name: Type` are
the model's inputs, the rest is text of the language. `-> error S201` states a refusal. Dims need no declaration; K is
the length of a cache, past(T) + T.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from specc import driver
from specc.backends.onnx.export import build
from specc.backends.onnx.target import Target
from specc.backends.torch.export import emit
from specc.diagnostics import Rejected
from specc.op import Op, operators
from specc.types import DType

SIZES: tuple[dict[str, int], ...] = ({}, {"B": 2, "T": 5, "S": 7, "N": 3, "H": 2, "X": 6, "Y": 4, "Z": 3})
"""Two choices of the dims: all 1, and these."""
OPSETS = range(17, 27)
TOLERANCE = 1e-5

_TYPED = re.compile(r"(\w+): ((?:Tensor|Int|Bool|[fiu]\d+|bf16)\[[^\]]*\])")
_PARTS = re.compile(r"(\w+): (\[[\w(), ]*\])")  # `experts: [Identity(), Identity()]`: the model's own
_SYMBOL = re.compile(r"\b[A-Z]\b")


@dataclass(frozen=True)
class Example:
    op: str
    text: str

    def __str__(self) -> str:
        return f"{self.op}: {self.text}"

    @property
    def call(self) -> str:
        """The expression, or `names = expression`, as a spec writes it."""
        return _PARTS.sub(r"\1", _TYPED.sub(r"\1", self.text.rpartition(" -> ")[0]))

    @property
    def inputs(self) -> dict[str, str]:
        return dict(_TYPED.findall(self.text.rpartition(" -> ")[0]))

    @property
    def parts(self) -> dict[str, str]:
        return dict(_PARTS.findall(_TYPED.sub("", self.text.rpartition(" -> ")[0])))

    @property
    def outcome(self) -> str:
        return self.text.rpartition(" -> ")[2].strip()

    @property
    def refusal(self) -> str | None:
        return self.outcome.removeprefix("error ") if self.outcome.startswith("error ") else None

    @property
    def results(self) -> list[str]:
        return re.findall(r"\w+\[[^\]]*\]", self.outcome)

    @property
    def symbols(self) -> list[str]:
        used = set(_SYMBOL.findall(" ".join([*self.inputs.values(), self.call, *self.results])))
        return sorted(used | ({"T"} if "K" in used else set()))


def examples_of(op: type[Op]) -> list[Example]:
    """A line that is indented below its example continues it."""
    found = re.findall(r"^example: (.*(?:\n +\S.*)*)", inspect.cleandoc(op.__doc__ or ""), re.MULTILINE)
    return [Example(op.name, re.sub(r"\n +", " ", text)) for text in found]


EXAMPLES = [example for op in operators().values() for example in examples_of(op)]
ACCEPTED = [e for e in EXAMPLES if e.refusal is None]
REFUSED = [e for e in EXAMPLES if e.refusal is not None]


def spec_of(example: Example) -> str:
    """A model of the one call. Sizes that no input has as an axis get an input that does."""
    bound = {s for t in example.inputs.values() for s in re.findall(r"(?<=[\[ ])([A-Z])(?=[,\]])", t)}
    arguments = dict(example.inputs)
    arguments |= {f"size_{s}": f"Int[{s}]" for s in example.symbols if s not in bound and s != "K"}
    names = [f"r{i}" for i in range(len(example.results))] or ["r0"]
    statement = example.call
    if not re.match(r"\w+(, \w+)* = (?!=)", statement):
        statement = f"{', '.join(names)} = {statement}"
    else:
        names = statement.partition(" = ")[0].split(", ")
    if operators()[example.op].for_training:  # draws are for training
        arguments |= {f"{n}_before": t for n, t in zip(names, example.results or ["Tensor[]"], strict=True)}
        befores = "; ".join(f"{n} = {n}_before" for n in names)
        statement = f"{befores}\n    when train {{ {statement} }}"
    results = example.results or ["Tensor[]"]
    outcome = results[0] if len(results) == 1 else f"({', '.join(results)})"
    signature = ", ".join(f"{name}: {type_}" for name, type_ in arguments.items())
    members = "".join(f"  {name}: {value}\n" for name, value in example.parts.items())
    return (
        ("from std.nn import Identity\n" if members else "")
        + f"dim {', '.join(s for s in example.symbols if s != 'K') or 'B'}\n"
        + ("dim K = past(T) + T\n" if "K" in example.symbols else "")
        + f"model One {{\n{members}  forward({signature}) -> {outcome} {{\n"
        + f"    {statement}\n    return {', '.join(names)}\n  }}\n}}\n"
    )


@cache
def _checked(text: str, folder: str) -> driver.Checked:
    path = Path(folder) / "one.spec"
    path.write_text(text)
    return driver.load(path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("ops"))


def module_of(checked: driver.Checked) -> torch.nn.Module:
    namespace: dict[str, Any] = {}
    exec(compile(emit(checked.model), "one.py", "exec"), namespace)
    module = namespace["One"]().eval()
    assert isinstance(module, torch.nn.Module)
    return module


def shape_of(type_: str, sizes: dict[str, int]) -> tuple[int, ...]:
    inner = type_[type_.index("[") + 1 : -1]
    env = {s: sizes.get(s, 1) for s in _SYMBOL.findall(inner)}
    if "K" in env:
        env["K"] = sizes.get("T", 1)
    return tuple(eval(f"({inner},)", env)) if inner.strip() else ()


def data_of(name: str, type_: str, sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """Numbers of both signs; indices are small, masks show every query a key, variances are positive."""
    shape, kind = shape_of(type_, sizes), type_[: type_.index("[")]
    if kind == "Bool":
        values = np.asarray(rng.random(shape) > 0.4)
        if name == "mask" and shape:
            values[..., 0] = True
        return values
    if kind in ("Tensor", "f32"):
        values = rng.standard_normal(shape).astype(np.float32)
        return np.abs(values) + np.float32(0.1) if name == "var" else np.asarray(values * 2)
    low = 0 if name in ("ids", "idx", "pos", "count", "target") else -9
    dtype = {"Int": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8, "u8": np.uint8}[kind]
    return np.asarray(rng.integers(low, 3 if low == 0 else 10, shape)).astype(dtype)


def feed_of(model: onnx.ModelProto, example: Example, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    feed = {name: data_of(name, type_, sizes, rng) for name, type_ in example.inputs.items()}
    for value in model.graph.input:
        if value.name not in feed:  # size_B, or what a draw replaces
            dims = [d.dim_value or sizes.get(d.dim_param, 1) for d in value.type.tensor_type.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feed[value.name] = np.zeros(dims, dtype)
    return feed


def run_torch(module: torch.nn.Module, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        result = module(**{name: torch.from_numpy(np.array(value)) for name, value in feed.items()})
    return [r.numpy() for r in (result if isinstance(result, tuple) else (result,))]


def run_onnxruntime(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(r) for r in session.run(None, feed)]


def run_reference(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in ReferenceEvaluator(model).run(None, feed)]


def assert_same(expected: list[np.ndarray], found: list[np.ndarray], what: str) -> None:
    assert len(expected) == len(found), what
    for want, have in zip(expected, found, strict=True):
        assert have.shape == want.shape, f"{what}: shape {have.shape}, torch has {want.shape}"
        assert have.dtype == want.dtype, f"{what}: {have.dtype}, torch has {want.dtype}"
        if want.dtype.kind != "f":
            np.testing.assert_array_equal(have, want, err_msg=what)
            continue
        finite = want[np.isfinite(want)]
        scale = max(1.0, float(np.abs(finite).max(initial=0.0)))
        np.testing.assert_allclose(have, want, rtol=0, atol=TOLERANCE * scale, equal_nan=True, err_msg=what)


def check(example: Example, folder: str, opset: int) -> None:
    checked = _checked(spec_of(example), folder)
    module = module_of(checked)
    model = build(checked.model, Target(opset=opset))
    onnx.checker.check_model(model, full_check=True)
    for sizes in SIZES:
        feed = feed_of(model, example, sizes)
        expected = run_torch(module, feed)
        assert [e.shape for e in expected] == [shape_of(t, sizes) for t in example.results]
        assert_same(expected, run_onnxruntime(model, feed), f"onnxruntime at {sizes or 'all 1'}")
        assert_same(expected, run_reference(model, feed), f"reference evaluator at {sizes or 'all 1'}")
        if operators()[example.op].for_training:
            draws = run_torch(module.train(), feed)
            assert [d.shape for d in draws] == [e.shape for e in expected]
            assert all(d.dtype == e.dtype for d, e in zip(draws, expected, strict=True))
            module.eval()


# ---- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", operators().values(), ids=operators().keys())
def test_every_operator_is_documented_with_an_example(op: type[Op]) -> None:
    assert op.__doc__ and op.__doc__.strip()
    assert any(e.refusal is None for e in examples_of(op)), f"{op.name}: no `example:` line that is accepted"


@pytest.mark.parametrize("example", ACCEPTED, ids=str)
def test_example(example: Example, folder: str) -> None:
    check(example, folder, opset=23)


@pytest.mark.parametrize("example", REFUSED, ids=str)
def test_refusal(example: Example, folder: str) -> None:
    with pytest.raises(Rejected) as caught:
        _checked(spec_of(example), folder)
    assert example.refusal in [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize("example", ACCEPTED, ids=str)
def test_compute_dtype(example: Example, folder: str) -> None:
    """`Tensor` is any floating type: in bf16 torch's results are bf16 again, in f16 the graph's types fit together."""
    checked = _checked(spec_of(example), folder)
    for opset in (17, 23):
        onnx.checker.check_model(build(checked.model, Target(opset=opset, compute=DType.F16)), full_check=True)
    feed = feed_of(build(checked.model), example, SIZES[1])
    narrow = [n for n in feed if example.inputs.get(n, "Tensor" if n.endswith("_before") else "").startswith("Tensor")]
    if not narrow:
        return  # without a tensor to follow, torch's default dtype is taken
    inputs = {n: torch.from_numpy(np.array(v)).to(torch.bfloat16 if n in narrow else None) for n, v in feed.items()}
    with torch.no_grad():
        result = module_of(checked).train(operators()[example.op].for_training)(**inputs)
    results = result if isinstance(result, tuple) else (result,)
    assert [r.dtype is torch.bfloat16 for r in results] == [t.startswith("Tensor") for t in example.results]


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("example", ACCEPTED, ids=str)
def test_example_at_every_opset(example: Example, folder: str, opset: int) -> None:
    check(example, folder, opset)
