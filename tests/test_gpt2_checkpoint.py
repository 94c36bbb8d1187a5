"""A GPT-2 checkpoint folder as Hugging Face writes it, through `specc build --weights`, against transformers itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
from building import content, specc

from specc import report
from specc.diagnostics import Rejected
from specc_runtime import manifest, open_build
from specc_runtime.build import Request, Result, build

SMALL: dict[str, Any] = {"vocab_size": 97, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
REQUEST = Request("gpt2", verify=False, render=False)


def reference(**config: Any) -> Any:
    """transformers' GPT-2 with values in every tensor that no mistake leaves unseen: biases and norms included."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    full = transformers.GPT2Config(**config, bos_token_id=0, eos_token_id=0, attn_implementation="eager")
    model = transformers.GPT2LMHeadModel(full).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                parameter.copy_(1 + 0.2 * values)
            else:
                parameter.copy_(values * (0.1 if parameter.dim() == 1 else 0.5 * parameter.shape[0] ** -0.5))
    return model


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return reference(**SMALL)


@pytest.fixture
def folder(gpt2: Any, tmp_path: Path) -> Path:
    """The checkpoint of the small model."""
    gpt2.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a checkpoint."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def configured(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def make(folder: Path, **changes: Any) -> Result:
    return build(replace(REQUEST, weights=str(folder), out=folder.parent / "out", **changes))


def refusal(folder: Path, **changes: Any) -> str:
    """The messages of a refused build, as printed; nothing may be left of it."""
    with pytest.raises(Rejected) as refused:
        make(folder, **changes)
    assert [p.name for p in folder.parent.iterdir() if "out" in p.name] == []
    return report.full(refused.value.diagnostics)


# ---- parity ----------------------------------------------------------------------------------------------------------


def masks(batch: int, length: int) -> dict[str, Any]:
    """No mask, no padding, padding on the right, on the left, both."""
    found: dict[str, Any] = {"none": None, "all": np.ones((batch, length), bool)}
    for name, left, right in (("right", 0, 3), ("left", 4, 0), ("both", 2, 1)):
        mask = np.ones((batch, length), bool)
        mask[0, :left] = False  # the last row has no padding: rows differ
        mask[0, length - right :] = False
        found[name] = mask
    return found


def assert_parity(model: Any, out: Path, batch: int, length: int) -> None:
    """Logits of torch and onnxruntime are transformers' own, in the rows that a mask leaves visible."""
    import torch

    opened = open_build(out)
    module, session = opened.module(), opened.session()
    rng = np.random.default_rng(0)
    ids = rng.integers(0, model.config.vocab_size, (batch, length))
    for name, mask in masks(batch, length).items():
        given = {"input_ids": torch.from_numpy(ids)}
        visible = np.ones((batch, length), bool) if mask is None else mask
        extra = {}
        if mask is not None:
            positions = np.maximum(mask.cumsum(-1) - 1, 0)
            given["attention_mask"] = torch.from_numpy(mask)
            extra = {"position_ids": torch.from_numpy(positions), "attention_mask": given["attention_mask"].long()}
        with torch.no_grad():
            expected = model(given["input_ids"], **extra).logits.numpy()[visible]
            ours = module(**given).numpy()[visible]
        feeds = {"input_ids": ids, "attention_mask": np.ones((batch, length), bool) if mask is None else mask}
        [theirs] = session.run(None, feeds)
        parity.assert_close(ours, expected, "gpt2", "torch", f"logits with mask {name}")
        parity.assert_close(theirs[visible], expected, "gpt2", "onnxruntime", f"logits with mask {name}")


def test_parity(gpt2: Any, folder: Path) -> None:
    made = make(folder, verify=True)
    assert made.warnings == () and "agree" in made.proof
    assert made.manifest["name"] == "gpt2" and made.manifest["weights"]["source"] == "checkpoint"
    assert made.manifest["hyperparameters"] == {
        "vocab": 97, "context": 24, "dim": 32, "layers": 2, "heads": 4, "hidden": 128,
        "act": "gelu_tanh", "eps": 1e-5, "dropout": 0.1,
    }  # fmt: skip
    assert made.manifest["weights"]["fresh"] == []
    assert_parity(gpt2, made.folder, 2, 11)
    assert_parity(gpt2, made.folder, 1, SMALL["n_positions"])


def test_every_tensor_is_there_once(gpt2: Any, folder: Path) -> None:
    """All tensors mapped, the Conv1D ones transposed, the tied embedding stored once and used twice."""
    import onnx
    from safetensors.torch import load_file

    made = make(folder)
    stored = load_file(made.folder / "model.safetensors")
    theirs = {name.removeprefix("transformer."): p for name, p in gpt2.named_parameters()}
    assert set(stored) == set(theirs) and "lm_head.weight" not in stored
    for name, parameter in theirs.items():
        turned = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        assert bool((stored[name] == (parameter.T if turned else parameter)).all()), name
    assert made.manifest["weights"]["tensors"] == len(theirs)
    assert made.manifest["weights"]["ties"] == {"lm_head.weight": "wte.weight"}
    graph = onnx.load(made.folder / "model.onnx", load_external_data=False).graph
    assert set(theirs) <= {t.name for t in graph.initializer}
    assert "lm_head.weight" not in {t.name for t in graph.initializer}
    size = sum(p.numel() * 4 for p in gpt2.parameters())
    assert size < (made.folder / "model.safetensors").stat().st_size < size + 10_000
    module: Any = open_build(made.folder).module()
    assert module.lm_head.weight is module.wte.weight


@pytest.mark.parametrize(
    "config",
    [
        {"n_inner": 48},
        {"activation_function": "relu"},
        {"activation_function": "gelu"},
        {"layer_norm_epsilon": 1e-3},
        {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0},
    ],
)
def test_configs(config: dict[str, Any], tmp_path: Path) -> None:
    model = reference(**{**SMALL, **config})
    model.save_pretrained(tmp_path / "checkpoint")
    made = make(tmp_path / "checkpoint")
    assert_parity(model, made.folder, 2, 9)


def test_shards(gpt2: Any, tmp_path: Path) -> None:
    gpt2.save_pretrained(tmp_path / "checkpoint", max_shard_size="20kB")
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 2
    assert_parity(gpt2, make(tmp_path / "checkpoint").folder, 2, 7)


def test_other_layouts_of_the_same_weights(gpt2: Any, folder: Path) -> None:
    """Older files: the tied head present too, mask buffers, no prefix; half precision is widened. All one build."""
    import torch

    first = content(make(folder).folder)["model.safetensors"]

    def with_head(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()

    def with_buffers(tensors: dict[str, Any]) -> None:
        for i in range(2):
            tensors[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 24, 24, dtype=torch.uint8)
            tensors[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)

    def without_prefix(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    for change in (with_head, with_buffers, without_prefix):
        edited(folder, change)
        made = make(folder)
        assert made.warnings == ()
        assert content(made.folder)["model.safetensors"] == first


def test_a_single_file_and_dot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is named by its file or its folder, wherever one stands; the build is called after the spec."""
    monkeypatch.chdir(folder)
    for where, source in ((".", "checkpoint"), ("model.safetensors", "model"), ("../checkpoint/", "checkpoint")):
        made = build(replace(REQUEST, weights=where, out=None))
        assert made.folder == folder / "build" / "gpt2"
        assert made.manifest["weights"]["source"] == source
    assert str(folder.parent) not in (made.folder / "manifest.json").read_text()


def test_precedence(folder: Path) -> None:
    """Defaults < config.json < preset < --set."""
    made = make(folder, sets={"dropout": "0.5", "eps": "1e-3"})
    found = made.manifest["hyperparameters"]
    assert (found["dropout"], found["eps"], found["dim"]) == (0.5, 1e-3, 32)
    assert "W301" in refusal_of_sizes(folder)


def refusal_of_sizes(folder: Path) -> str:
    with pytest.raises(Rejected) as refused:
        build(replace(REQUEST, weights=str(folder), preset="gpt2-tiny", out=folder.parent / "other"))
    return report.full(refused.value.diagnostics)


# ---- what is refused -------------------------------------------------------------------------------------------------


def extra(tensors: dict[str, Any]) -> None:
    tensors["transformer.h.0.attn.rotary"] = tensors["transformer.ln_f.bias"].clone()


def missing(tensors: dict[str, Any]) -> None:
    del tensors["transformer.h.1.mlp.c_fc.bias"]


def wrong_shape(tensors: dict[str, Any]) -> None:
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"][:20].clone()


def other_head(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (extra, ["W310", "h.0.attn.rotary [32]"]),
        (missing, ["W311", "h.1.mlp.c_fc.bias [128]"]),
        (wrong_shape, ["W301", "wpe.weight", "[24, 32]", "[20, 32]"]),
        (other_head, ["W312", "lm_head.weight", "wte.weight"]),
    ],
)
def test_tensors_that_do_not_fit(change: Callable[[dict[str, Any]], None], shown: list[str], folder: Path) -> None:
    edited(folder, change)
    text = refusal(folder)
    for part in shown:
        assert part in text


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"activation_function": "swoosh"}, ["W330", "swoosh"]),
        ({"n_embd": "wide"}, ["n_embd"]),
        ({"n_head": 5}, ["head"]),
        ({"model_type": "llama"}, ["W350", "llama"]),
        ({"resid_pdrop": 0.0}, ["W334", "`attn_pdrop = 0.1`", "`resid_pdrop = 0.0`: one dropout"]),
        ({"scale_attn_by_inverse_layer_idx": True}, ["W334", "scale_attn_by_inverse_layer_idx = true"]),
        ({"add_cross_attention": True}, ["W333", "add_cross_attention"]),
        ({"window_size": 256}, ["W333", "window_size", "256"]),
    ],
)
def test_configs_that_do_not_fit(changes: dict[str, Any], shown: list[str], folder: Path) -> None:
    configured(folder, **changes)
    text = refusal(folder)
    for part in shown:
        assert part in text


def test_pickles_are_refused(folder: Path) -> None:
    import torch

    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    text = refusal(folder)
    assert "W351" in text and "pytorch_model.bin" in text and "help:" in text


@pytest.mark.parametrize("kind", ["cut short", "cut in the header", "lying length", "lying shape", "empty"])
def test_damaged_files(kind: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    match kind:
        case "cut short":
            data = data[:-1000]
        case "cut in the header":
            data = data[:100]
        case "lying length":
            data = (2**40).to_bytes(8, "little") + data[8:]
        case "lying shape":
            data = data.replace(b'"shape":[24,32]', b'"shape":[32,32]')
        case "empty":
            data = b""
    assert data != path.read_bytes()
    path.write_bytes(data)
    assert "W352" in refusal(folder)


def test_nothing_there(tmp_path: Path) -> None:
    assert "E006" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "E006" in refusal(tmp_path / "empty")


# ---- the full size ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """GPT-2 of 124M parameters."""
    folder = tmp_path_factory.mktemp("full")
    model = reference()
    model.save_pretrained(folder / "checkpoint")
    return model, folder / "checkpoint"


@pytest.mark.slow
def test_full_parity(full: tuple[Any, Path]) -> None:
    model, folder = full
    made = make(folder)
    assert made.manifest["parameters"] == 124_439_808
    assert_parity(model, made.folder, 2, 33)


@pytest.mark.slow
def test_full_is_proved(full: tuple[Any, Path]) -> None:
    assert "agree" in make(full[1], verify=True).proof


# The same imports as the build's own, then nothing, or the build; both read their own peak before they end.
MEASURED = """
import sys
import click, jsonschema, numpy, onnx
import specc.driver, specc.backends.onnx.export, specc_runtime.build, specc_runtime.cli.build, specc_runtime.elements
import specc_runtime.record
from specc_runtime.cli import main
import threading, time

def figures():
    with open("/proc/self/status") as status:
        return {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmHWM", "RssAnon"))}

worst, ended = [0], threading.Event()
def watch():
    while not ended.is_set():
        worst[0] = max(worst[0], figures()["RssAnon"])
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
code = main() if len(sys.argv) > 1 else 0
ended.set()
thread.join()
print(code, figures()["VmHWM"], worst[0], file=sys.stderr)
"""


def memory(*words: object, cwd: Path) -> tuple[int, int]:
    """Peak resident memory and peak memory that is no file's, in kB."""
    line = [sys.executable, "-c", MEASURED, *map(str, words)]
    run = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=True, env=dict(os.environ))
    code, resident, anonymous = map(int, run.stderr.split())
    assert code == 0
    return resident, anonymous


@pytest.mark.slow
def test_full_memory(full: tuple[Any, Path], tmp_path: Path) -> None:
    """Compiling 500 MB of weights needs less than 100 MB above the imports, mapped pages of the checkpoint counted."""
    words = ("build", "gpt2", "--weights", full[1], "--emit", "onnx", "--no-verify", "--no-render")
    resident, anonymous = memory(*words, cwd=tmp_path)
    resident_before, anonymous_before = memory(cwd=tmp_path)
    assert resident - resident_before < 100_000
    assert anonymous - anonymous_before < 100_000
    record = manifest.read(tmp_path / "build" / "gpt2", "manifest.json")
    assert record["weights"]["bytes"] == 124_439_808 * 4


def test_command_line(folder: Path) -> None:
    run = specc("build", "gpt2", "--weights", "checkpoint", "--no-verify", "--no-render", cwd=folder.parent)
    assert run.returncode == 0 and run.stderr == ""
    assert "build/gpt2/model.safetensors" in run.stdout
