"""Decoders of the zoo against transformers: the same checkpoint, the same outputs, in torch and in onnxruntime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from families import (  # noqa: E402 - it needs the two above
    EXACT_YARN,
    GEMMA,
    GEMMA2,
    LLAMA,
    LLAMA3,
    MISTRAL,
    QWEN2,
    QWEN3,
    SLIDING,
    YARN,
    Family,
    assert_clean,
    assert_counts,
    assert_decoder,
    checkpoint,
    pair,
    refusal,
    rope,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- llama, mistral, qwen2, qwen3 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "config"),
    [
        pytest.param(LLAMA, {}, id="llama"),
        pytest.param(LLAMA, {"tie_word_embeddings": True, "head_dim": 6, "num_key_value_heads": 1}, id="llama-tied"),
        pytest.param(LLAMA, {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}, id="llama-biases"),
        pytest.param(LLAMA, rope("linear", factor=4.0), id="llama-linear"),
        pytest.param(LLAMA, LLAMA3, id="llama3"),
        pytest.param(LLAMA, {**YARN, "head_dim": 64}, id="llama-yarn"),
        pytest.param(LLAMA, {**EXACT_YARN, "head_dim": 24}, id="llama-exact-yarn"),
        pytest.param(MISTRAL, {"sliding_window": 4}, id="mistral"),
        pytest.param(MISTRAL, {"sliding_window": None, "num_key_value_heads": 4}, id="mistral-full"),
        pytest.param(QWEN2, {"tie_word_embeddings": True}, id="qwen2"),
        pytest.param(QWEN2, SLIDING, id="qwen2-sliding"),
        pytest.param(QWEN2, rope("yarn", factor=2.0, attention_factor=1.25, beta_fast=2, beta_slow=1), id="qwen2-yarn"),
        pytest.param(QWEN3, {}, id="qwen3"),
        pytest.param(QWEN3, {**YARN, "tie_word_embeddings": True}, id="qwen3-yarn"),
        pytest.param(QWEN3, {**SLIDING, "attention_bias": True}, id="qwen3-sliding"),
    ],
)
def test_llama(family: Family, config: dict[str, Any], tmp_path: Path) -> None:
    made = pair(family, tmp_path, **config)
    assert_decoder(made, (1, 1), (3, 9), (1, 31))
    if not config or "truncate" in config.get("rope_parameters", {}):
        assert_clean(made, torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (rope("dynamic", factor=4.0), '"dynamic"   (config.json rope_parameters.rope_type)'),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "longrope"}},
            '"longrope"   (config.json rope_scaling.type)',
        ),
        (rope("default", partial_rotary_factor=0.5), "config.json says `rope_parameters.partial_rotary_factor = 0.5`"),
        ({"hidden_act": "xielu"}, "xielu"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "(config.json layer_types)"),
    ],
)
def test_llama_refuses(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    assert shown in refusal(LLAMA, tmp_path, **changes)


@pytest.mark.parametrize(
    ("preset", "family", "config"),
    [
        ("llama-3-8b", LLAMA, {"vocab_size": 128_256, "intermediate_size": 14_336, "num_key_value_heads": 8}),
        (
            "llama-3-70b",
            LLAMA,
            {
                "vocab_size": 128_256, "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80,
                "num_attention_heads": 64, "num_key_value_heads": 8,
            },
        ),
        (
            "llama-3.1-405b",
            LLAMA,
            {
                "vocab_size": 128_256, "hidden_size": 16_384, "intermediate_size": 53_248, "num_hidden_layers": 126,
                "num_attention_heads": 128, "num_key_value_heads": 8,
            },
        ),
        ("llama-2-7b", LLAMA, {}),
        (
            "smollm2-135m",
            LLAMA,
            {
                "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
            },
        ),
        ("mistral-7b", MISTRAL, {}),
        (
            "qwen2.5-0.5b",
            QWEN2,
            {
                "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                "num_key_value_heads": 2, "tie_word_embeddings": True,
            },
        ),
        (
            "qwen3-0.6b",
            QWEN3,
            {
                "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
                "num_key_value_heads": 8, "tie_word_embeddings": True,
            },
        ),
    ],
)  # fmt: skip
def test_llama_sizes(preset: str, family: Family, config: dict[str, Any]) -> None:
    assert_counts("llama", preset, family.model, family.config(**config))


# ---- gemma -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="gemma"),
        pytest.param({"attention_bias": True, "tie_word_embeddings": False, **rope("default")}, id="untied"),
        pytest.param({"num_key_value_heads": 1, "hidden_act": "relu", "hidden_size": 36}, id="one-key"),
    ],
)
def test_gemma(config: dict[str, Any], tmp_path: Path) -> None:
    made = pair(GEMMA, tmp_path, **config)
    assert_decoder(made, (1, 1), (3, 9), (1, 31))
    if not config:
        assert_clean(made, torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool))


def test_gemma_of_transformers_4(tmp_path: Path) -> None:
    """The published files say that the activation is gelu, and mean its approximation by tanh."""
    checkpoint(GEMMA, tmp_path / "checkpoint", **rope("default"))
    path = tmp_path / "checkpoint" / "config.json"
    request = Request("gemma", weights=str(path.parent), verify=False, render=False, out=tmp_path / "out")
    first = build(request).manifest["hyperparameters"]
    found = json.loads(path.read_text())
    del found["rope_parameters"], found["tie_word_embeddings"], found["use_bidirectional_attention"]
    old = {"rope_theta": 100.0, "rope_scaling": None, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}
    path.write_text(json.dumps({**found, **old}))
    assert build(request).manifest["hyperparameters"] == first
    assert (first["act"], first["theta"], first["tied"]) == ("gelu_tanh", 100.0, True)


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("gemma-2b", {
            "hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1,
            "intermediate_size": 16_384,
        }),
        ("gemma-7b", {}),
    ],
)  # fmt: skip
def test_gemma_sizes(preset: str, config: dict[str, Any]) -> None:
    assert_counts("gemma", preset, GEMMA.model, GEMMA.config(**config))


# ---- gemma2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0}, id="capped"),
        pytest.param({"attn_logit_softcapping": None, "final_logit_softcapping": None}, id="uncapped"),
        pytest.param({"layer_types": ["full_attention", "sliding_attention"], "hidden_activation": "relu"}, id="order"),
        pytest.param({"attention_bias": True, "tie_word_embeddings": False, **rope("default")}, id="untied"),
    ],
)
def test_gemma2(config: dict[str, Any], tmp_path: Path) -> None:
    made = pair(GEMMA2, tmp_path, **config)
    assert_decoder(made, (1, 1), (3, 9), (1, 31))
    if "final_logit_softcapping" in config:
        assert_clean(made, torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (rope("linear", factor=2.0), 'config.json says `rope_parameters.rope_type = "linear"`'),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"hidden_activation": "xielu"}, "xielu"),
    ],
)
def test_gemma2_refuses(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    assert shown in refusal(GEMMA2, tmp_path, **changes)


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("gemma-2-2b", {}),
        (
            "gemma-2-9b",
            {
                "hidden_size": 3584, "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
                "intermediate_size": 14_336,
            },
        ),
        (
            "gemma-2-27b",
            {
                "hidden_size": 4608, "num_hidden_layers": 46, "num_attention_heads": 32, "num_key_value_heads": 16,
                "head_dim": 128, "intermediate_size": 36_864,
            },
        ),
    ],
)  # fmt: skip
def test_gemma2_sizes(preset: str, config: dict[str, Any]) -> None:
    assert_counts("gemma2", preset, GEMMA2.model, GEMMA2.config(**config))


# ---- older config.json files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "config"),
    [
        pytest.param(LLAMA, LLAMA3, id="llama"),
        pytest.param(MISTRAL, {"sliding_window": 4}, id="mistral"),
        pytest.param(QWEN2, SLIDING, id="qwen2"),
        pytest.param(QWEN3, {}, id="qwen3"),
        pytest.param(GEMMA2, rope("default"), id="gemma2"),
    ],
)
def test_transformers_4(family: Family, config: dict[str, Any], tmp_path: Path) -> None:
    """Before version 5: `rope_theta`, `rope_scaling` if there is any, and no `layer_types`."""
    checkpoint(family, tmp_path / "checkpoint", **config)
    path = tmp_path / "checkpoint" / "config.json"
    request = Request(family.spec, weights=str(path.parent), emit=frozenset(), verify=False, render=False)
    first = build(replace(request, out=tmp_path / "new")).manifest["hyperparameters"]
    found = json.loads(path.read_text())
    scaling = found.pop("rope_parameters")
    found["rope_theta"] = scaling.pop("rope_theta")
    found["rope_scaling"] = scaling if len(scaling) > 1 else None
    found.pop("layer_types", None)
    path.write_text(json.dumps(found))
    assert build(replace(request, out=tmp_path / "old")).manifest["hyperparameters"] == first
