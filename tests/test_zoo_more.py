"""Further families of the zoo against transformers: GPT-NeoX, RoBERTa, DistilBERT and Phi-3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_zoo_decoders import (  # noqa: E402 - it needs the two above
    DECODER,
    Family,
    assert_clean,
    assert_counts,
    assert_decoder,
    checkpoint,
    pair,
    refusal,
    rope,
)

# ---- gpt_neox --------------------------------------------------------------------------------------------------------

NEOX = Family(
    "gpt_neox",
    transformers.GPTNeoXConfig,
    transformers.GPTNeoXForCausalLM,
    {**{k: v for k, v in DECODER.items() if k != "num_key_value_heads"}, "hidden_size": 64},
)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="gpt_neox"),
        pytest.param({"use_parallel_residual": False, "hidden_act": "gelu_fast"}, id="sequential"),
        pytest.param({"attention_bias": False, "tie_word_embeddings": True}, id="tied"),
        pytest.param(rope("default", partial_rotary_factor=1.0), id="full-rotary"),
        pytest.param(rope("linear", factor=4.0, partial_rotary_factor=0.65), id="linear"),
    ],
)
def test_gpt_neox(config: dict[str, Any], tmp_path: Path) -> None:
    made = pair(NEOX, tmp_path, verify=not config, **config)
    assert_decoder(made, (1, 1), (3, 9), (1, 31))
    if not config:
        assert_clean(made, torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool))


def test_gpt_neox_of_transformers_4(tmp_path: Path) -> None:
    """`rotary_pct` and `rotary_emb_base`, as in config.json before version 5, and buffers of older files."""
    from safetensors.torch import load_file, save_file

    checkpoint(NEOX, tmp_path / "checkpoint", **rope("default", partial_rotary_factor=0.5))
    folder = tmp_path / "checkpoint"
    found = json.loads((folder / "config.json").read_text())
    request = Request("gpt_neox", weights=str(folder), verify=False, render=False, out=tmp_path / "out")
    first = build(request).manifest["hyperparameters"]
    scaling = found.pop("rope_parameters")
    old = {"rotary_pct": scaling["partial_rotary_factor"], "rotary_emb_base": scaling["rope_theta"]}
    (folder / "config.json").write_text(json.dumps({**found, **old}))
    tensors = load_file(folder / "model.safetensors")
    assert "embed_out.weight" in tensors
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    tensors["gpt_neox.layers.1.attention.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors")
    assert build(request).manifest["hyperparameters"] == first
    assert (first["rotary_dim"], first["theta"]) == (8, 100.0)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (rope("dynamic", factor=4.0), "dynamic"),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        (rope("default", partial_rotary_factor=0.2), "must be even and at least 2, found 3"),
        ({"hidden_act": "xielu"}, "xielu"),
    ],
)
def test_gpt_neox_refuses(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    assert shown in refusal(NEOX, tmp_path, **changes)


def pythia(dim: int, layers: int, heads: int, vocab: int = 50_304) -> dict[str, Any]:
    sizes = {"hidden_size": dim, "intermediate_size": 4 * dim, "num_hidden_layers": layers}
    return {"vocab_size": vocab, "num_attention_heads": heads, **sizes}


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("gpt-neox-20b", {}),
        ("pythia-70m", pythia(512, 6, 8)),
        ("pythia-160m", pythia(768, 12, 12)),
        ("pythia-410m", pythia(1024, 24, 16)),
        ("pythia-1.4b", pythia(2048, 24, 16)),
        ("pythia-6.9b", pythia(4096, 32, 32, 50_432)),
        ("pythia-12b", pythia(5120, 36, 40, 50_688)),
    ],
)
def test_gpt_neox_sizes(preset: str, config: dict[str, Any]) -> None:
    assert_counts("gpt_neox", preset, NEOX.model, NEOX.config(**config))
