"""Mamba of the zoo against transformers: the same checkpoint, the same logits, in torch and in onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import Parity, built, published, randomised

import specc
from specc import report
from specc.diagnostics import Rejected
from specc_runtime import open_build
from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import families  # noqa: E402 - it needs the two above

pytestmark = pytest.mark.usefixtures("one_thread")
MAMBA = families.Family(
    "mamba",
    transformers.MambaConfig,
    transformers.MambaForCausalLM,
    {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 5, "use_cache": False},
)


QUICK: dict[str, Any] = {"verify": False, "render": False}


def mamba(**config: Any) -> Any:
    return randomised(MAMBA.model(MAMBA.config(**{**MAMBA.small, **config})))


def compare(made: Parity, batch: int, length: int, mask: np.ndarray[Any, Any] | None) -> None:
    """All logits, those of padding too: what a mask hides puts nothing into a state."""
    ids = np.random.default_rng(length).integers(0, 61, (batch, length))
    given = {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})
    with torch.no_grad():
        theirs = made.model(**{name: torch.from_numpy(array) for name, array in given.items()})
    made.check(given, {"logits": theirs.logits.numpy()})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {
            "time_step_rank": 3, "use_bias": True, "use_conv_bias": False, "conv_kernel": 3, "expand": 3,
            "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False, "hidden_act": "gelu",
        },
    ],
    ids=["defaults", "options"],
)  # fmt: skip
def test_mamba(config: dict[str, Any], tmp_path: Path) -> None:
    made = built("mamba", mamba(**config), tmp_path)
    for batch, length in ((1, 1), (3, 1), (1, 2), (3, 17), (1, 64)):
        for mask in families.masks(batch, length):
            compare(made, batch, length, mask)
    given = {"input_ids": np.arange(14).reshape(2, 7)}
    made.check_gradients(given, "logits")
    made.check_compiles(given)
    made.check_compiles({**given, "attention_mask": given["input_ids"] % 7 > 1})


def test_older_files(tmp_path: Path) -> None:
    """The authors' spelling of the embedding, the head stored beside it, a rank that follows from the width."""
    from safetensors.torch import load_file, save_file

    model = mamba()
    model.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"].clone()
    save_file(tensors, path)
    config = tmp_path / "checkpoint" / "config.json"
    older = {"d_model": 24, "n_layer": 2, "rms_norm": True, "fused_add_norm": True, "time_step_rank": "auto"}
    known = json.loads(config.read_text())
    del known["tie_word_embeddings"], known["expand"]
    config.write_text(json.dumps({**known, **older, "intermediate_size": 48}))
    builds = [
        open_build(build(Request("mamba", weights=str(tmp_path / name), out=tmp_path / f"{name}-out", **QUICK)).folder)
        for name in ("saved", "checkpoint")
    ]
    ids = torch.arange(10).reshape(2, 5)
    ours, theirs = (opened.module()(ids) for opened in builds)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"hidden_act": "xielu"}, "xielu"),
        ({"time_step_limit": [0.0, 1.0]}, "time_step_limit"),
        ({"layer_norm_epsilon": "small"}, "config.json layer_norm_epsilon"),
    ],
)
def test_refused(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    """A config.json that asks for more than the spec says."""
    mamba().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(Rejected) as refused:
        build(Request("mamba", weights=str(tmp_path), out=tmp_path / "out", **QUICK))
    assert shown in report.full(refused.value.diagnostics)


PRESETS = {"mamba-130m": (768, 24), "mamba-370m": (1024, 48), "mamba-790m": (1536, 48), "mamba-1.4b": (2048, 48)}
PRESETS["mamba-2.8b"] = 2560, 64


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes(preset: str) -> None:
    dim, layers = PRESETS[preset]
    config = MAMBA.config(hidden_size=dim, num_hidden_layers=layers)
    assert specc.load("mamba", preset=preset).parameters == published(MAMBA.model, config)
