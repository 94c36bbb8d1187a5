"""Models of the zoo with an encoder and a decoder against transformers: T5 and Whisper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from families import (  # noqa: E402 - it needs the two above
    GATED,
    T5,
    WHISPER,
    Arrays,
    Pair,
    assert_clean,
    assert_counts,
    checkpoint,
    masks,
    pair,
    refusal,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- t5 --------------------------------------------------------------------------------------------------------------


def assert_encoder_decoder(made: Pair, *shapes: tuple[int, int, int]) -> None:
    """Logits for texts of N and of T tokens; masks of both sides in turn."""
    rng = np.random.default_rng(0)
    for batch, source, target in shapes:
        ids = {"input_ids": (batch, source), "decoder_input_ids": (batch, target)}
        feeds = {name: rng.integers(0, made.reference.config.vocab_size, shape) for name, shape in ids.items()}
        for mask, target_mask in zip(masks(batch, source), masks(batch, target), strict=False):
            given: Arrays = {**feeds}
            if mask is not None and target_mask is not None:
                given |= {"attention_mask": mask, "decoder_attention_mask": target_mask}
            theirs = {name: torch.from_numpy(v).long() for name, v in given.items()}
            made.compare(given, theirs, ... if target_mask is None else target_mask)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="t5"),
        pytest.param(GATED, id="flan-t5"),
        pytest.param({"num_decoder_layers": 1, "relative_attention_num_buckets": 8}, id="short-decoder"),
        pytest.param({"feed_forward_proj": "gated-silu", "relative_attention_max_distance": 20}, id="gated-silu"),
    ],
)
def test_t5(config: dict[str, Any], tmp_path: Path) -> None:
    made = pair(T5, tmp_path, **config)
    assert_encoder_decoder(made, (1, 1, 1), (3, 9, 7), (1, 5, 150), (1, 150, 1))
    if not config:
        assert_clean(made, torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64))


def test_t5_of_transformers_4(tmp_path: Path) -> None:
    """A config.json that says itself that the head is not tied, and files with copies of the shared embedding."""
    from safetensors.torch import load_file, save_file

    checkpoint(T5, tmp_path / "checkpoint", **GATED)
    folder = tmp_path / "checkpoint"
    found = json.loads((folder / "config.json").read_text())
    del found["scale_decoder_outputs"], found["dense_act_fn"]
    request = Request("t5", weights=str(folder), verify=False, render=False, out=tmp_path / "a")
    first = build(request).manifest["hyperparameters"]
    (folder / "config.json").write_text(json.dumps({**found, "tie_word_embeddings": False}))
    tensors = load_file(folder / "model.safetensors")
    for side in ("encoder", "decoder"):
        tensors[f"{side}.embed_tokens.weight"] = tensors["shared.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert build(request).manifest["hyperparameters"] == first
    assert (first["tied"], first["scale_outputs"], first["act"], first["gated"]) == (False, False, "gelu_tanh", True)


def test_t5_refuses(tmp_path: Path) -> None:
    assert "xielu" in refusal(T5, tmp_path, feed_forward_proj="gated-xielu", dense_act_fn="xielu")


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("t5-small", {}),
        ("t5-base", {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072}),
        ("t5-large", {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096}),
        ("flan-t5-small", {"num_layers": 8, "num_heads": 6, "d_ff": 1024, "feed_forward_proj": "gated-gelu"}),
        (
            "flan-t5-base",
            {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048, "feed_forward_proj": "gated-gelu"},
        ),
    ],
)
def test_t5_sizes(preset: str, config: dict[str, Any]) -> None:
    full = T5.config(**config)
    own_head = full.vocab_size * full.d_model if preset.startswith("flan") else 0
    assert_counts("t5", preset, T5.model, full, own_head)


# ---- whisper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="whisper"),
        pytest.param({"tie_word_embeddings": False, "activation_function": "relu", "dropout": 0.1}, id="untied"),
    ],
)
def test_whisper(config: dict[str, Any], tmp_path: Path) -> None:
    made = pair(WHISPER, tmp_path, **config)
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (3, 9), (1, 16)):
        ids = rng.integers(0, 53, (batch, length))
        features = rng.standard_normal((batch, 5, 22), np.float32)
        for mask in masks(batch, length):
            feeds = {"input_features": features, "decoder_input_ids": ids}
            theirs: Arrays = {name: torch.from_numpy(value) for name, value in feeds.items()}
            where: Any = ...
            if mask is not None:
                feeds["decoder_attention_mask"], where = mask, mask
                theirs["decoder_attention_mask"] = torch.from_numpy(mask).long()
                theirs["decoder_position_ids"] = torch.from_numpy(np.maximum(mask.cumsum(-1) - 1, 0))
            made.compare(feeds, theirs, where)
    if not config:
        assert_clean(made, torch.ones(2, 5, 22), torch.ones(2, 7, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"decoder_layerdrop": 0.1}, "decoder_layerdrop"),
        ({"apply_spec_augment": True}, "apply_spec_augment"),
        ({"activation_function": "xielu"}, "xielu"),
    ],
)
def test_whisper_refuses(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    assert shown in refusal(WHISPER, tmp_path, **changes)


def published(dim: int, layers: int, heads: int, **more: int) -> dict[str, int]:
    """Both sides of a published whisper alike."""
    sides = {f"{s}_{k}": v for s in ("encoder", "decoder") for k, v in (("layers", layers), ("attention_heads", heads))}
    return {"d_model": dim, **sides, "encoder_ffn_dim": 4 * dim, "decoder_ffn_dim": 4 * dim, **more}


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("whisper-tiny", {}),
        ("whisper-base", published(512, 6, 8)),
        ("whisper-small", published(768, 12, 12)),
        ("whisper-large-v3", published(1280, 32, 20, vocab_size=51_866, num_mel_bins=128)),
        ("whisper-large-v3-turbo", published(1280, 32, 20, vocab_size=51_866, num_mel_bins=128, decoder_layers=4)),
    ],
)
def test_whisper_sizes(preset: str, config: dict[str, Any]) -> None:
    assert_counts("whisper", preset, WHISPER.model, WHISPER.config(**config))
