"""Swin of the zoo against transformers: windows that divide the image and that do not, moved and not moved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

import specc
from specc import report
from specc.diagnostics import Rejected
from specc_runtime import open_build
from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SPECS = Path(__file__).resolve().parents[1] / "specs"
RNG = np.random.default_rng(0)


def swin(**changes: Any) -> Any:
    config = {
        "embed_dim": 12, "depths": [2, 3], "num_heads": [2, 3], "window_size": 3, "image_size": 12, "patch_size": 2,
        "num_labels": 5,
    }  # fmt: skip
    return transformers.SwinForImageClassification(transformers.SwinConfig(**{**config, **changes}))


def logits(model: Any, given: dict[str, np.ndarray]) -> np.ndarray:
    """Of a copy: a layer of transformers' that once saw an image as small as a window never moves its windows again."""
    with torch.no_grad():
        result: np.ndarray = copy.deepcopy(model)(torch.from_numpy(given["pixel_values"])).logits.numpy()
    return result


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        # A window alone; the same along one side; moved windows, of which all, none and some are whole.
        ({}, [(1, 12, 12), (3, 9, 40), (3, 24, 36), (1, 16, 15), (2, 13, 31)]),
        (
            {
                "depths": [1, 2, 1], "num_heads": [2, 2, 4], "window_size": 4, "patch_size": 3, "num_channels": 1,
                "qkv_bias": False, "mlp_ratio": 2.5, "hidden_act": "relu", "layer_norm_eps": 1e-3,
                "drop_path_rate": 0.0, "hidden_dropout_prob": 0.1,
            },
            [(1, 48, 48), (3, 49, 74), (2, 96, 37)],
        ),
    ],
    ids=["base", "three-stages"],
)  # fmt: skip
def test_swin(changes: dict[str, Any], sizes: list[tuple[int, int, int]], tmp_path: Path) -> None:
    model = parity.randomised(swin(**changes))
    case = parity.built("swin", model, tmp_path)
    for batch, height, width in sizes:
        shape = (batch, model.config.num_channels, height, width)
        given = {"pixel_values": RNG.standard_normal(shape).astype(np.float32)}
        case.check(given, {"logits": logits(model, given)})
    case.check_gradients(given, "logits")
    case.check_compiles(given)


def test_swin_of_an_older_file(tmp_path: Path) -> None:
    """Files of transformers 4 also hold the numbers of relative positions, which the window size says."""
    from safetensors.torch import load_file, save_file

    model = parity.randomised(swin())
    model.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    for name in [n for n in tensors if n.endswith("relative_position_bias_table")]:
        tensors[name.replace("bias_table", "index")] = torch.zeros(9, 9, dtype=torch.int64)
    save_file(tensors, path)
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({**config, "path_norm": True}))
    made = build(Request("swin", weights=str(tmp_path / "checkpoint"), render=False, out=tmp_path / "out"))
    given = {"pixel_values": RNG.standard_normal((1, 3, 20, 20)).astype(np.float32)}
    opened = open_build(made.folder)
    parity.Parity(model, made, opened.module(), opened.session()).check(given, {"logits": logits(model, given)})


def test_swin_refuses(tmp_path: Path) -> None:
    swin(use_absolute_embeddings=True).save_pretrained(tmp_path)
    with pytest.raises(Rejected) as refused:
        build(Request("swin", weights=str(tmp_path), verify=False, render=False, out=tmp_path / "out"))
    assert "use_absolute_embeddings" in report.full(refused.value.diagnostics)


def test_swin_exported_and_in_half_precision(tmp_path: Path) -> None:
    """`torch.export` with any batch; it has no guards for what depends on whether a size is a multiple of another."""
    sets = {"dim": "12", "depths": "[1, 2]", "heads": "[2, 3]", "window": "3", "patch": "2", "classes": "5"}
    request = Request("swin", sets=sets, verify=False, render=False, emit=frozenset({"torch"}), out=tmp_path / "out")
    module = open_build(build(request).folder).module()
    image, other = torch.randn(2, 3, 26, 31), torch.randn(5, 3, 26, 31)
    batch = {"pixel_values": {0: torch.export.Dim("B")}}
    program = torch.export.export(module, (image,), dynamic_shapes=batch).module()
    with torch.no_grad():
        torch.testing.assert_close(program(other), module(other), rtol=0, atol=0)
        expected = module(other)
        half = module.to(torch.bfloat16)(other.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)  # 8 bits of mantissa


def test_swin_needs_a_window_in_its_last_stage(tmp_path: Path) -> None:
    """As transformers does, which fails there at an addition."""
    model = swin()
    model.save_pretrained(tmp_path / "checkpoint")
    request = Request("swin", weights=str(tmp_path / "checkpoint"), verify=False, render=False, out=tmp_path / "out")
    module = open_build(build(request).folder).module()
    module(torch.zeros(1, 3, 9, 9))
    for shape, name in (((1, 3, 8, 9), "Y"), ((1, 3, 9, 8), "X")):
        with pytest.raises(ValueError, match=f"{name} must be at least 9, found 8"):
            module(torch.zeros(shape))
        with pytest.raises(RuntimeError, match="must match"):
            model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("preset", "count", "changes"),
    [
        ("tiny", 28_288_354, {}),
        ("small", 49_606_258, {"depths": [2, 2, 18, 2]}),
        ("base", 87_768_224, {"depths": [2, 2, 18, 2], "embed_dim": 128, "num_heads": [4, 8, 16, 32]}),
    ],
)
def test_swin_sizes(preset: str, count: int, changes: dict[str, Any]) -> None:
    config = transformers.SwinConfig(num_labels=1000, **changes)
    assert parity.published(transformers.SwinForImageClassification, config) == count
    assert specc.load(SPECS / "swin.spec", preset=f"swin-{preset}-patch4-window7-224").parameters == count
