"""Gemma 3, ModernBERT and DeepSeek of the zoo against transformers: the same checkpoint, the same outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from families import (  # noqa: E402 - they need the two above
    DECODER,
    Family,
    assert_clean,
    assert_counts,
    assert_decoder,
    masks,
    pair,
    rope,
)
from test_zoo_moe import Family as Mixture  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def hyper_parameters(spec: str, folder: Path) -> Any:
    """What a build of a checkpoint's config.json has."""
    request = Request(spec, weights=str(folder), emit=frozenset(), verify=False, render=False, out=folder / "out")
    return build(request).manifest["hyperparameters"]


# ---- gemma3 ----------------------------------------------------------------------------------------------------------

GEMMA3 = Family(
    "gemma3",
    transformers.Gemma3TextConfig,
    transformers.Gemma3ForCausalLM,
    {
        **DECODER, "pad_token_id": 0, "head_dim": 10, "query_pre_attn_scalar": 7, "sliding_window": 4,
        "num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
)  # fmt: skip
SLOW = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
}


@pytest.mark.parametrize("config", [{}, SLOW, {"final_logit_softcapping": 2.0, "attention_bias": True}], ids=str)
def test_gemma3(config: dict[str, Any], tmp_path: Path) -> None:
    made = pair(GEMMA3, tmp_path, **config)
    assert_decoder(made, (1, 1), (3, 9), (1, 31))
    if not config:
        assert_clean(made, torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool))


def test_gemma3_of_transformers_4(tmp_path: Path) -> None:
    """Published files have `rope_theta`, `rope_local_base_freq` and `sliding_window_pattern`."""
    model = GEMMA3.model(GEMMA3.config(**{**GEMMA3.small, **SLOW, "layer_types": None}))
    model.save_pretrained(tmp_path)
    first = hyper_parameters("gemma3", tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())
    del found["rope_parameters"], found["layer_types"], found["_sliding_window_pattern"]
    found |= {"rope_theta": 1e5, "rope_local_base_freq": 500.0, "sliding_window_pattern": 6}
    found |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "cache_implementation": "hybrid"}
    (tmp_path / "config.json").write_text(json.dumps(found))
    assert hyper_parameters("gemma3", tmp_path) == first


# ---- modernbert ------------------------------------------------------------------------------------------------------


def modernbert(attention: str = "eager", **changes: Any) -> Any:
    config = {
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40,
        "max_position_embeddings": 48, "local_attention": 6, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
        "cls_token_id": 0, "sep_token_id": 1,
    }  # fmt: skip
    full = transformers.ModernBertConfig(**{**config, **changes}, attn_implementation=attention)
    return transformers.ModernBertForMaskedLM(full)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
            "hidden_activation": "relu",
        },
        {"decoder_bias": False, "tie_word_embeddings": False, "num_hidden_layers": 2, "local_attention": 1},
    ],
    ids=["base", "biases", "narrow"],
)
def test_modernbert(changes: dict[str, Any], tmp_path: Path) -> None:
    case = parity.built("modernbert", parity.randomised(modernbert(**changes)), tmp_path)
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (3, 9), (1, 31)):
        for mask in masks(batch, length):
            given = {"input_ids": rng.integers(0, 61, (batch, length))}
            theirs = {"input_ids": torch.from_numpy(given["input_ids"])}
            if mask is not None:
                mask[:, ::3] = True  # every position has one that it sees
                given["attention_mask"], theirs["attention_mask"] = mask, torch.from_numpy(mask).long()
            with torch.no_grad():
                expected = case.model(**theirs).logits.numpy()
            case.check(given, {"logits": expected}, {} if mask is None else {"logits": mask})
    if not changes:
        case.check_gradients(given, "logits")
        case.check_compiles(given)


def test_modernbert_of_transformers_4(tmp_path: Path) -> None:
    modernbert().save_pretrained(tmp_path)
    first = hyper_parameters("modernbert", tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())
    del found["rope_parameters"], found["layer_types"]
    found |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, "global_attn_every_n_layers": 3}
    found |= {"layer_norm_eps": 1e-5, "position_embedding_type": "absolute", "gradient_checkpointing": False}
    (tmp_path / "config.json").write_text(json.dumps(found))
    assert hyper_parameters("modernbert", tmp_path) == first


# ---- deepseek --------------------------------------------------------------------------------------------------------

LATENT = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4,
    "topk_group": 2, "n_shared_experts": 2, "first_k_dense_replace": 1, "kv_lora_rank": 12, "q_lora_rank": 20,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 10, "v_head_dim": 6, "max_position_embeddings": 64, "bos_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
V3 = Mixture("deepseek", transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM, LATENT)
V2 = Mixture("deepseek", transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM, LATENT)
YARN = {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1}


@pytest.mark.parametrize(
    ("family", "config"),
    [
        pytest.param(V3, {}, id="v3"),
        pytest.param(V3, rope("yarn", **YARN, mscale=0.7, mscale_all_dim=1.0), id="v3-mscale"),
        pytest.param(V3, {"q_lora_rank": None, "rope_interleave": False, "attention_bias": True}, id="v3-halves"),
        pytest.param(V2, {"topk_method": "group_limited_greedy", **rope("yarn", **YARN)}, id="v2"),
        pytest.param(V2, {"n_group": None, "topk_group": None, "q_lora_rank": None, "mlp_bias": True}, id="v2-lite"),
    ],
)  # fmt: skip
def test_deepseek(family: Mixture, config: dict[str, Any], tmp_path: Path) -> None:
    case = parity.built("deepseek", family.made(**config), tmp_path)
    for batch, length in ((1, 1), (2, 9)):
        for given, expected, rows in decoded(case, batch, length):
            case.check(given, expected, {"logits": rows})
    if not config:
        case.check_compiles(given)


def decoded(case: parity.Parity, batch: int, length: int) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
    """Inputs, transformers' logits, and the rows to compare."""
    ids = np.random.default_rng(batch).integers(0, 61, (batch, length))
    for mask in masks(batch, length):
        given, theirs = {"input_ids": ids}, {"input_ids": torch.from_numpy(ids)}
        if mask is not None:
            given["attention_mask"], theirs["attention_mask"] = mask, torch.from_numpy(mask).long()
            theirs["position_ids"] = torch.from_numpy(np.maximum(mask.cumsum(-1) - 1, 0))
        with torch.no_grad():
            logits = case.model(**theirs, use_cache=False).logits.numpy()
        yield given, {"logits": logits}, ... if mask is None else mask


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "preset", "model", "config"),
    [
        (
            "gemma3", "gemma-3-1b", GEMMA3.model,
            GEMMA3.config(vocab_size=262_144, hidden_size=1152, num_attention_heads=4, num_key_value_heads=1,
                          intermediate_size=6912),
        ),
        ("modernbert", "modernbert-base", transformers.ModernBertForMaskedLM, transformers.ModernBertConfig()),
        ("deepseek", "deepseek-v3", V3.model, V3.config()),
    ],
    ids=["gemma3", "modernbert", "deepseek"],
)  # fmt: skip
def test_sizes(spec: str, preset: str, model: type[Any], config: Any) -> None:
    assert_counts(spec, preset, model, config)
