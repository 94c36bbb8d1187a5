"""Mamba of the zoo against transformers: the same checkpoint, the same logits, in torch and in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import Parity, built, published, randomised

import specc

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import test_zoo_decoders as decoders  # noqa: E402 - it needs the two above

MAMBA = decoders.Family(
    "mamba",
    transformers.MambaConfig,
    transformers.MambaForCausalLM,
    {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 5, "use_cache": False},
)


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
        for mask in decoders.masks(batch, length):
            compare(made, batch, length, mask)
    given = {"input_ids": np.arange(14).reshape(2, 7)}
    made.check_gradients(given, "logits")
    made.check_compiles(given)
    given["attention_mask"] = given["input_ids"] % 7 > 1
    made.check_compiles(given)
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    sizes = dict(enumerate(map(torch.export.Dim, "BT")))
    program = torch.export.export(made.module, (), tensors, dynamic_shapes=dict.fromkeys(tensors, sizes))
    longer = {name: torch.cat([tensor, tensor], 1)[:1] for name, tensor in tensors.items()}
    torch.testing.assert_close(program.module()(**longer), made.module(**longer))


PRESETS = {"mamba-130m": (768, 24), "mamba-370m": (1024, 48), "mamba-790m": (1536, 48), "mamba-1.4b": (2048, 48)}
PRESETS["mamba-2.8b"] = 2560, 64


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes(preset: str) -> None:
    dim, layers = PRESETS[preset]
    config = MAMBA.config(hidden_size=dim, num_hidden_layers=layers)
    assert specc.load("mamba", preset=preset).parameters == published(MAMBA.model, config)
