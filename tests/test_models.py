"""The models of `specs/`: published sizes, equality with torch.nn and transformers, and what one does with a model."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import building
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import references
import torch
from torch import nn

import specc

ROOT = Path(__file__).resolve().parents[1]
SPECS = ROOT / "specs"

# The smallest preset of each model, smaller still where its vocabulary or context makes it slow.
TINY: Mapping[str, tuple[str | None, dict[str, Any]]] = {
    "linear": (None, {}),
    "mlp": ("small", {"inputs": 20, "hidden": [12, 8]}),
    "gpt": ("tiny", {}),
    "gpt2": ("gpt2-tiny", {"vocab": 97, "context": 32}),
    "transformer": ("tiny", {}),
}
SIZES = ({"B": 2, "T": 7, "N": 5}, {"B": 1, "T": 1, "N": 1}, {"B": 3, "T": 4, "N": 9}, {"B": 1, "T": 6, "N": 1})


@cache
def tiny(name: str, **overrides: Any) -> specc.Model:
    preset, small = TINY[name]
    return specc.load(SPECS / f"{name}.spec", preset=preset, **{**small, **overrides})


def emitted(model: specc.Model, **overrides: Any) -> nn.Module:
    """The emitted module as its own constructor draws it."""
    namespace: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(model.torch_source(), f"{model.name}.py", "exec"), namespace)
    last = [value for value in namespace.values() if isinstance(value, type) and value.__module__ == "emitted"][-1]
    module = last(**overrides)
    assert isinstance(module, nn.Module)
    return module


def live(name: str, **overrides: Any) -> nn.Module:
    """The tiny model in eval mode, every parameter drawn anew: fresh biases are 0 and fresh norms 1."""
    module = emitted(tiny(name), **overrides)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


def feeds(name: str, sizes: Mapping[str, int], *, masked: bool = True) -> dict[str, torch.Tensor]:
    """Inputs by name. A mask hides the beginning of the first row, as left padding does."""
    torch.manual_seed(sum(sizes.values()))
    batch, length, source = sizes["B"], sizes["T"], sizes["N"]
    if name == "linear":
        return {"x": torch.randn(batch, 1)}
    if name == "mlp":
        return {"image": torch.randn(batch, 20)}
    if name == "transformer":
        ids, mask = torch.randint(0, 97, (batch, source)), torch.ones(batch, source, dtype=torch.bool)
        mask[0, : source // 3] = False
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": torch.randint(0, 97, (batch, length))}
    given = {"input_ids": torch.randint(0, 97, (batch, length))}
    if masked:
        given["attention_mask"] = torch.ones(batch, length, dtype=torch.bool)
        given["attention_mask"][0, : length // 3] = False
    return given


def visible(name: str, given: Mapping[str, torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """The rows that have something to attend to; what others hold is not specified."""
    mask = given.get("attention_mask")
    return logits[mask] if mask is not None and name != "transformer" else logits


# ---- sizes and names -------------------------------------------------------------------------------------------------

PUBLISHED = {
    ("linear", None): 2,
    ("mlp", "mnist"): 535_818,
    ("gpt2", "gpt2"): 124_439_808,
    ("gpt2", "gpt2-medium"): 354_823_168,
    ("gpt2", "gpt2-large"): 774_030_080,
    ("gpt2", "gpt2-xl"): 1_557_611_200,
}

LAYERS: Mapping[tuple[str, str], Callable[[], nn.Module]] = {
    ("mlp", "mnist"): lambda: references.MLP(784, [512, 256], 10),
    ("mlp", "small"): lambda: references.MLP(784, [64], 10),
    ("gpt", "seed"): lambda: references.GPT(10_000, 512, 6, 8, 2048),
    ("gpt", "tiny"): lambda: references.GPT(256, 32, 2, 4, 64),
    ("transformer", "base"): lambda: references.Transformer(37_000, 512, 6, 8, 2048),
    ("transformer", "big"): lambda: references.Transformer(37_000, 1024, 6, 16, 4096),
    ("transformer", "tiny"): lambda: references.Transformer(256, 32, 2, 4, 64),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "preset"), PUBLISHED)
def test_published_parameter_counts(name: str, preset: str | None) -> None:
    model = specc.load(SPECS / f"{name}.spec", preset=preset)
    assert model.parameters == PUBLISHED[name, preset]
    with torch.device("meta"):
        assert count(emitted(model)) == PUBLISHED[name, preset]


@pytest.mark.parametrize(("name", "preset"), LAYERS)
def test_parameters_are_those_of_the_same_layers_of_torch(name: str, preset: str) -> None:
    """Counts, names and shapes."""
    model = specc.load(SPECS / f"{name}.spec", preset=preset)
    with torch.device("meta"):
        ours, theirs = emitted(model), LAYERS[name, preset]()
    assert model.parameters == count(ours) == count(theirs)
    assert shapes(ours) == shapes(theirs)


def test_gpt2_has_the_names_of_its_checkpoints() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config())
        ours = emitted(specc.load(SPECS / "gpt2.spec", preset="gpt2"))
    assert {name.removeprefix("transformer.") for name in theirs.state_dict()} == ours.state_dict().keys()


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


# ---- numbers: torch.nn and transformers ------------------------------------------------------------------------------


def reference(name: str, module: nn.Module) -> nn.Module:
    """The same model from torch.nn's layers, with the same weights."""
    theirs: nn.Module
    if name == "linear":
        theirs = nn.Sequential()
        theirs.add_module("linear", nn.Linear(1, 1))
        theirs.append(nn.Sigmoid())
    elif name == "mlp":
        theirs = references.MLP(20, [12, 8], 10)
    elif name == "gpt":
        theirs = references.GPT(256, 32, 2, 4, 64)
    else:
        theirs = references.Transformer(256, 32, 2, 4, 64)
    theirs.load_state_dict(module.state_dict(), strict=True)
    return theirs.eval()


@pytest.fixture
def plain_attention() -> Any:
    """torch.nn's layers as they compute in training, not the fused kernel they take in eval mode."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def assert_same_outputs(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The criterion of verification: 1e-5 of the largest value, or of 1."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.detach().abs().max())))


@pytest.mark.usefixtures("plain_attention")
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("name", ["linear", "mlp", "gpt", "transformer"])
def test_equals_torch_nn(name: str, masked: bool) -> None:
    """Outputs at several sizes, and the gradient of every parameter."""
    ours = live(name)
    theirs = reference(name, ours)
    for sizes in SIZES:
        given = feeds(name, sizes, masked=masked)
        results = [visible(name, given, model(*given.values())) for model in (ours, theirs)]
        assert_same_outputs(*results)
        assert_same_gradients(ours, theirs, *results)


def test_equals_transformers() -> None:
    """GPT-2 with a checkpoint's weights: logits and gradients, with and without padding."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=97, n_positions=32, n_embd=64, n_layer=2, n_head=4)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = live("gpt2")
    conv1d = {"c_attn", "c_proj", "c_fc"}  # stored [in, out]
    renamed = {}
    for name, tensor in ours.state_dict().items():
        turn = name.endswith(".weight") and name.split(".")[-2] in conv1d
        renamed[name if name.startswith("lm_head") else f"transformer.{name}"] = tensor.t() if turn else tensor
    theirs.load_state_dict(renamed, strict=True)
    for sizes in SIZES:
        for masked in (True, False):
            given = feeds("gpt2", sizes, masked=masked)
            extra = {"position_ids": references.positions_of(given["attention_mask"])} if masked else {}
            results = [visible("gpt2", given, r) for r in (ours(**given), theirs(**given, **extra).logits)]
            assert_same_outputs(*results)
            ours.zero_grad()
            theirs.zero_grad()
            for result in results:
                result.square().mean().backward()
            want = {name.removeprefix("transformer."): p.grad for name, p in theirs.named_parameters()}
            for name, parameter in ours.named_parameters():
                turn = name.endswith(".weight") and name.split(".")[-2] in conv1d
                assert_close_gradient(name, parameter.grad, want[name].t() if turn else want[name])


def assert_same_gradients(ours: nn.Module, theirs: nn.Module, *results: torch.Tensor) -> None:
    for module, result in zip((ours, theirs), results, strict=True):
        module.zero_grad()
        result.square().mean().backward()
    want = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_close_gradient(name, parameter.grad, want[name].grad)


def assert_close_gradient(name: str, ours: torch.Tensor | None, theirs: torch.Tensor | None) -> None:
    """Within 1e-4 of the reference, measured against its norm."""
    assert ours is not None and theirs is not None, name
    error = (ours - theirs).norm() / theirs.norm().clamp(min=1e-3)
    assert error < 1e-4, f"{name}: the gradient is {error:.1e} off"


# ---- modes, compilers, half precision --------------------------------------------------------------------------------

HEADERS = Path(sysconfig.get_paths()["include"], "Python.h")
COMPILER = (shutil.which("g++") or shutil.which("clang++")) and HEADERS.exists()


@pytest.mark.parametrize("name", ["mlp", "gpt", "gpt2", "transformer"])
def test_training_differs_by_dropout_alone(name: str) -> None:
    given = feeds(name, SIZES[0])
    module = live(name, dropout=0.5)
    without = live(name, dropout=0.0)
    quiet = module(**given)
    assert torch.equal(quiet, module(**given))
    assert torch.equal(quiet, without(**given))
    # The kernels of attention differ between modes, so the last bits may.
    torch.testing.assert_close(without.train()(**given), quiet)
    assert not torch.allclose(module.train()(**given), quiet, atol=1e-3)


@pytest.mark.parametrize("name", TINY)
def test_compiles_as_one_graph(name: str) -> None:
    compare_compiled(name, backend="eager")


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="inductor needs a C++ compiler and Python's headers")
@pytest.mark.parametrize("name", TINY)
def test_inductor_computes_the_same(name: str) -> None:
    compare_compiled(name, backend="inductor")


def compare_compiled(name: str, backend: str) -> None:
    torch._dynamo.reset()
    module = live(name)
    whole = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for sizes in (SIZES[0], SIZES[2]):
            given = feeds(name, sizes)
            assert_same_outputs(visible(name, given, whole(**given)), visible(name, given, module(**given)))


@pytest.mark.parametrize("name", TINY)
def test_exports_with_dynamic_sizes(name: str) -> None:
    module = live(name)
    given = feeds(name, SIZES[0])
    dims = {"input_ids": ("B", "N" if name == "transformer" else "T"), "decoder_input_ids": ("B", "T")}
    dims["attention_mask"] = dims["input_ids"]
    auto = torch.export.Dim.DYNAMIC
    dynamic = {key: dict.fromkeys(range(len(dims.get(key, ("B",)))), auto) for key in given}
    exported = torch.export.export(module, (), given, dynamic_shapes=dynamic).module()
    for sizes in (SIZES[0], SIZES[2]):
        given = feeds(name, sizes)
        torch.testing.assert_close(visible(name, given, exported(**given)), visible(name, given, module(**given)))


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_runs(name: str) -> None:
    """In bf16 throughout, from the embedding to the logits, and close to float32."""
    given = feeds(name, SIZES[0])
    module = live(name)
    with torch.no_grad():
        exact = visible(name, given, module(**given))
        half = {key: value.bfloat16() if value.is_floating_point() else value for key, value in given.items()}
        result = visible(name, given, module.bfloat16()(**half))
    assert result.dtype == torch.bfloat16
    assert (result.float() - exact).abs().mean() < 0.03 * exact.abs().mean().clamp(min=1.0)


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def onnx_of(name: str, module: nn.Module, **options: Any) -> onnx.ModelProto:
    weights = {key: tensor.detach().numpy().tobytes() for key, tensor in module.state_dict().items()}
    return tiny(name).onnx(weights=weights, **options)


def assert_computes_the_same(name: str, module: nn.Module, proto: onnx.ModelProto, *, masked: bool = True) -> None:
    """onnxruntime gives what torch does, at every size."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for sizes in SIZES:
        given = feeds(name, sizes, masked=masked)
        with torch.no_grad():
            want = module(**given)
        (result,) = session.run(None, {key: value.numpy() for key, value in given.items()})
        assert result.shape == tuple(want.shape)
        found, want = visible(name, given, torch.from_numpy(result)), visible(name, given, want)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5 * max(1.0, float(want.abs().max())))


@pytest.mark.parametrize("name", TINY)
def test_onnx_is_valid_and_computes_the_same(name: str) -> None:
    module = live(name)
    proto = onnx_of(name, module)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    assert_computes_the_same(name, module, proto)


@pytest.mark.parametrize("name", ["gpt", "gpt2"])
def test_onnx_without_a_mask(name: str) -> None:
    module = live(name)
    proto = onnx_of(name, module, without=["attention_mask"])
    assert [value.name for value in proto.graph.input] == ["input_ids"]
    assert_computes_the_same(name, module, proto, masked=False)


@pytest.mark.parametrize(
    "opset", [pytest.param(o, marks=[] if o in (17, 24, 26) else pytest.mark.slow) for o in range(17, 27)]
)
@pytest.mark.parametrize("name", ["gpt2", "transformer"])
def test_onnx_at_every_opset(name: str, opset: int) -> None:
    module = live(name)
    proto = onnx_of(name, module, opset=opset)
    onnx.checker.check_model(proto, full_check=True)
    assert [o.version for o in proto.opset_import if not o.domain] == [opset]
    assert_computes_the_same(name, module, proto)


# ---- from a model to a trained build ---------------------------------------------------------------------------------


def test_a_trained_model_becomes_a_build(tmp_path: Path) -> None:
    """Train the emitted module, save its weights, build with them: onnxruntime tells the points apart."""
    from safetensors.torch import save_file

    from specc_runtime import open_build

    torch.manual_seed(0)
    x = torch.randn(256, 1)
    label = (x > 0.3).float()
    model = emitted(tiny("linear"))
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy(model(x), label).backward()
        optimizer.step()
    with torch.no_grad():
        trained = model(x)
    assert ((trained > 0.5) == (label > 0.5)).float().mean() > 0.95

    save_file(model.state_dict(), tmp_path / "trained.safetensors")
    done = building.specc(
        "build", SPECS / "linear.spec", "--weights", "trained.safetensors", "--no-render", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    build = open_build(tmp_path / "out")
    (p,) = build.session().run(["p"], {"x": x.numpy()})
    np.testing.assert_allclose(p, trained.numpy(), rtol=0, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(build.module()(x=x), trained)
