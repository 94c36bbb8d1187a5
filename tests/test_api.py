"""The public API: `specc.load` and what a checked model offers; importing specc costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fresh import loaded

import specc

SPECS = Path(__file__).resolve().parents[1] / "specs"
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "rich", "netron", "lark", "click")


def loaded_after(code: str) -> list[str]:
    """Which heavy libraries a fresh Python has imported after `code`."""
    return loaded(code, *HEAVY, cwd=SPECS)


def test_import_loads_nothing() -> None:
    assert loaded_after("import specc") == []
    assert loaded_after("import specc\nassert 'importlib.metadata' not in sys.modules\nspecc.__version__") == []
    assert loaded_after("import specc\nassert not any(m.startswith('specc.') for m in sys.modules)") == []


def test_checking_and_source_need_neither_torch_nor_onnx() -> None:
    code = "import specc\nm = specc.load('gpt2.spec')\nm.torch_source(), str(m.inspect()), m.ir(), m.parameters"
    assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(loaded_after(code))
    graph = loaded_after("import specc\nspecc.load('linear.spec').onnx()")
    assert "torch" not in graph and "onnxruntime" not in graph


def test_public_names() -> None:
    assert set(specc.__all__) <= set(dir(specc))
    for name in specc.__all__:
        assert getattr(specc, name) is not None
    assert specc.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="nothing"):
        specc.nothing  # noqa: B018


def test_a_model() -> None:
    model = specc.load(SPECS / "gpt2.spec", preset="gpt2-tiny")
    assert (model.name, model.preset, model.entries) == ("gpt2-tiny", "gpt2-tiny", ("forward",))
    assert model.parameters == 3_382_080
    assert model.hyperparameters == {
        "vocab": 50257,
        "context": 1024,
        "dim": 64,
        "layers": 2,
        "heads": 4,
        "hidden": 256,
        "act": "gelu_tanh",
        "eps": 1e-5,
        "dropout": 0.1,
    }
    assert "GPT2" in repr(model) and "3,382,080" in repr(model)
    assert "class GPT2(nn.Module)" in model.torch_source()
    assert model.ir().startswith('model GPT2, preset "gpt2-tiny": 3,382,080 parameters')


def test_a_model_of_the_zoo_by_name() -> None:
    assert specc.load("linear").parameters == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", 0.0), ("act", "relu"), ("layers", 1), ("eps", 1e-12), ("vocab", 11)],
)
def test_overrides(name: str, value: object) -> None:
    model = specc.load(SPECS / "gpt2.spec", preset="gpt2-tiny", **{name: value})  # type: ignore[arg-type]
    assert model.hyperparameters[name] == value
    assert type(model.hyperparameters[name]) is type(value)


def test_overrides_of_every_type(tmp_path: Path) -> None:
    (tmp_path / "types.spec").write_text(
        "from std.nn import Linear\ndim B\n"
        'model Types(n: int = 1, x: float = 0.5, yes: bool = true, text: str = "a", sizes: [int] = [1], '
        "maybe: int? = 3, act: fn = relu) {\n"
        "  head: Linear(sizes[0], n)\n"
        "  forward(v: Tensor[B, sizes[0]]) -> Tensor[B, n] = act(head(v))\n}\n",
        encoding="utf-8",
    )
    given = {"n": 2, "x": 2.0, "yes": False, "sizes": [3, 4], "maybe": None, "act": "silu"}
    for text in ("b", "two words", 'a "quote"', "true", "5", "back\\slash"):
        model = specc.load(tmp_path / "types.spec", text=text, **given)  # type: ignore[arg-type]
        values = model.hyperparameters
        assert values["text"] == text
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if k != "text"} == given
    for wrong in (object(), float("nan"), float("inf"), {1: 2}, b"x"):
        with pytest.raises(TypeError):
            specc.load(tmp_path / "types.spec", n=wrong)


def test_errors_are_reports() -> None:
    with pytest.raises(specc.SpecError) as caught:
        specc.load(SPECS / "gpt2.spec", heads=7)
    assert "error[E110]" in str(caught.value) and "gpt2.spec:" in str(caught.value)
    assert isinstance(caught.value.diagnostics[0], specc.Diagnostic)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"preset": "gpt3"}, "E008"),
        ({"model": "GPT3"}, "E010"),
        ({"n_head": 4}, "E009"),
        ({"heads": "many"}, "E009"),
    ]
    for arguments, code in wrong:
        with pytest.raises(specc.SpecError, match=rf"error\[{code}"):
            specc.load(SPECS / "gpt2.spec", **arguments)
    with pytest.raises(specc.SpecError, match="E006"):
        specc.load("no_such_model")


def test_onnx() -> None:
    model = specc.load(SPECS / "gpt2.spec", preset="gpt2-tiny")
    proto = model.onnx()
    assert [i.name for i in proto.graph.input] == ["input_ids", "attention_mask"]
    assert [i.name for i in model.onnx(without=["attention_mask"]).graph.input] == ["input_ids"]
    assert model.onnx(opset=18).opset_import[0].version == 18
    assert proto.SerializeToString(deterministic=True) == model.onnx().SerializeToString(deterministic=True)
    with pytest.raises(specc.SpecError, match="no entry `decode`"):
        model.onnx("decode")
    with pytest.raises(specc.SpecError, match="no optional input `mask`"):
        model.onnx(without=["mask"])
    with pytest.raises(ValueError, match="opset 3"):
        model.onnx(opset=3)


def test_files_of_extern_functions_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("raise SystemExit('this was run')\n", encoding="utf-8")
    text = """
dim B
extern fn twice(x: Tensor[B, 4]) -> Tensor[B, 4] from "twice.py"
model M() { forward(x: Tensor[B, 4]) -> Tensor[B, 4] = twice(x) }
"""
    (tmp_path / "m.spec").write_text(text, encoding="utf-8")
    with pytest.raises(specc.SpecError, match="X901"):
        specc.load(tmp_path / "m.spec").onnx()


def test_onnx_with_weights_runs() -> None:
    import numpy as np
    import onnxruntime

    model = specc.load("linear")
    weights = {"linear.weight": np.array([[2.0]], np.float32), "linear.bias": np.array([1.0], np.float32)}
    proto = model.onnx(weights={name: array.tobytes() for name, array in weights.items()})
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (p,) = session.run(None, {"x": np.array([[0.5], [-0.5]], np.float32)})
    np.testing.assert_allclose(p, 1 / (1 + np.exp([[-2.0], [0.0]])), rtol=1e-6)


def test_weights_that_do_not_fit() -> None:
    model = specc.load("linear")
    with pytest.raises(specc.SpecError) as caught:
        model.onnx(weights={"linear.weight": b"12345"})
    assert [d.code for d in caught.value.diagnostics] == ["W301", "W311"]


def test_inspect() -> None:
    model = specc.load(SPECS / "gpt2.spec")
    found = model.inspect(at={"B": 1, "T": 8})
    assert found.parameters == model.parameters
    assert "124,439,808" in str(found)
    with pytest.raises(specc.SpecError, match="T <= 1024"):
        model.inspect(at={"B": 1, "T": 2048})
