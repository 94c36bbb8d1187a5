"""Further families of the zoo against transformers: GPT-NeoX, RoBERTa, DistilBERT and Phi-3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from families import (  # noqa: E402 - it needs the two above
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
from test_zoo_encoders import LENGTHS, ids, outputs, right_padded  # noqa: E402

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


# ---- roberta, distilbert ---------------------------------------------------------------------------------------------

ROBERTA = Family(
    "roberta",
    transformers.RobertaConfig,
    transformers.RobertaForSequenceClassification,
    {
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "max_position_embeddings": 16, "type_vocab_size": 3, "num_labels": 5, "hidden_dropout_prob": 0.2,
        "classifier_dropout": 0.3,
    },
)  # fmt: skip
DISTILBERT = Family(
    "distilbert",
    transformers.DistilBertConfig,
    transformers.DistilBertForSequenceClassification,
    {
        "vocab_size": 61, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 16,
        "num_labels": 5,
    },
)  # fmt: skip


def left_padded(batch: int, length: int) -> np.ndarray:
    return right_padded(batch, length)[:, ::-1].copy()


@pytest.mark.parametrize(
    ("family", "config"),
    [
        pytest.param(ROBERTA, {}, id="roberta"),
        pytest.param(ROBERTA, {"hidden_act": "relu", "layer_norm_eps": 1e-3, "pad_token_id": 4}, id="roberta-pad"),
        pytest.param(DISTILBERT, {}, id="distilbert"),
        pytest.param(DISTILBERT, {"activation": "relu", "pad_token_id": None}, id="distilbert-relu"),
    ],
)
def test_encoder(family: Family, config: dict[str, Any], tmp_path: Path) -> None:
    """With and without padding, which RoBERTa's positions find in the ids themselves: some rows hold the padding id."""
    model = family.model(family.config(**{**family.small, **config}))
    case = parity.built(family.spec, parity.randomised(model), tmp_path)
    typed = family is ROBERTA
    for batch, length in LENGTHS:
        given = {"input_ids": ids(batch, length, 61)}
        given["input_ids"][-1, length // 2] = model.config.pad_token_id or 0
        right = {**given, "attention_mask": right_padded(batch, length)}
        padded = np.where(left_padded(batch, length), given["input_ids"], model.config.pad_token_id or 0)
        left = {"input_ids": padded, "attention_mask": left_padded(batch, length)}
        if typed:
            left["token_type_ids"] = ids(batch, length, 3)
        for feeds in (given, right, left):
            result = outputs(case.model, feeds, output_hidden_states=True)
            expected = {"logits": result.logits.numpy(), "hidden": result.hidden_states[-1].numpy()}
            mask = feeds.get("attention_mask", np.ones((batch, length), bool))
            case.check(feeds, expected, {"hidden": mask, "logits": mask[:, 0]})  # the head reads position 0
    if not config:
        case.check_gradients(right, "logits")
        case.check_compiles(right)


@pytest.mark.parametrize(
    ("family", "pretrained", "fresh"),
    [
        (ROBERTA, transformers.RobertaForMaskedLM, ["dense", "out_proj"]),
        (DISTILBERT, transformers.DistilBertForMaskedLM, ["pre_classifier", "classifier"]),
    ],
)
def test_encoder_from_its_pretraining(family: Family, pretrained: Any, fresh: list[str], tmp_path: Path) -> None:
    """The published files: the language-model head is left out, the classifier is new."""
    pretrained(family.config(**family.small)).save_pretrained(tmp_path / "checkpoint")
    request = Request(
        family.spec, weights=str(tmp_path / "checkpoint"), verify=False, out=tmp_path / "out", render=False
    )
    found = build(request).manifest["weights"]["fresh"]
    prefix = "classifier." if family is ROBERTA else ""
    assert found == [f"{prefix}{part}.{name}" for part in fresh for name in ("weight", "bias")]


@pytest.mark.parametrize(
    ("family", "changes", "shown"),
    [
        (ROBERTA, {"is_decoder": True}, "is_decoder"),
        (ROBERTA, {"position_embedding_type": "relative_key"}, "relative_key"),
        (ROBERTA, {"hidden_act": "xielu"}, "xielu"),
        (DISTILBERT, {"activation": "xielu"}, "xielu"),
    ],
)
def test_encoder_refuses(family: Family, changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    assert shown in refusal(family, tmp_path, **changes)


@pytest.mark.parametrize(
    ("family", "preset", "config"),
    [
        (ROBERTA, "roberta-base", {"max_position_embeddings": 514, "type_vocab_size": 1}),
        (
            ROBERTA,
            "roberta-large",
            {
                "max_position_embeddings": 514, "type_vocab_size": 1, "hidden_size": 1024, "num_hidden_layers": 24,
                "num_attention_heads": 16, "intermediate_size": 4096,
            },
        ),
        (DISTILBERT, "distilbert-base-uncased", {}),
        (DISTILBERT, "distilbert-base-multilingual-cased", {"vocab_size": 119_547}),
    ],
)  # fmt: skip
def test_encoder_sizes(family: Family, preset: str, config: dict[str, Any]) -> None:
    assert_counts(family.spec, preset, family.model, family.config(**config))


# ---- phi3 ------------------------------------------------------------------------------------------------------------

PHI3 = Family(
    "phi3", transformers.Phi3Config, transformers.Phi3ForCausalLM, {**DECODER, "hidden_size": 64, "pad_token_id": 2}
)
LONG = {
    "short_factor": [1.0, 1.05, 1.1, 1.3, 1.4, 1.5, 1.75, 2.0],
    "long_factor": [1.0, 1.5, 2.25, 4.0, 7.5, 16.0, 31.0, 64.0],
}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="phi3"),
        pytest.param({"sliding_window": 4, "num_key_value_heads": 1, "pad_token_id": None}, id="sliding"),
        pytest.param({"num_key_value_heads": None, "tie_word_embeddings": True, "hidden_act": "gelu"}, id="tied"),
        pytest.param(rope("default", partial_rotary_factor=0.75), id="partial-rotary"),
        pytest.param({**rope("longrope", **LONG), "original_max_position_embeddings": 8}, id="longrope"),
        pytest.param(
            {**rope("longrope", attention_factor=1.5, **LONG), "original_max_position_embeddings": 5},
            id="scaled-longrope",
        ),
    ],
)
def test_phi3(config: dict[str, Any], tmp_path: Path) -> None:
    """LongRoPE changes its factors with the longest text of a batch: lengths about that bound, and padded ones."""
    made = pair(PHI3, tmp_path, verify=not config, **config)
    assert_decoder(made, (1, 1), (3, 5), (2, 8), (3, 9), (1, 31))
    if not config or "original_max_position_embeddings" in config:
        assert_clean(made, torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool))


def test_phi3_of_transformers_4(tmp_path: Path) -> None:
    """`rope_theta` and `partial_rotary_factor`, as config.json had them before version 5."""
    checkpoint(PHI3, tmp_path / "checkpoint", **rope("default", partial_rotary_factor=0.5))
    path = tmp_path / "checkpoint" / "config.json"
    request = Request("phi3", weights=str(path.parent), verify=False, render=False, out=tmp_path / "out")
    first = build(request).manifest["hyperparameters"]
    found = json.loads(path.read_text())
    scaling = found.pop("rope_parameters")
    del scaling["rope_type"]
    path.write_text(json.dumps({**found, **scaling, "rope_scaling": None}))
    assert build(request).manifest["hyperparameters"] == first
    assert (first["rotary_dim"], first["theta"]) == (8, 100.0)
    path.write_text(json.dumps({**found, "rope_theta": 100.0, "rope_scaling": {"type": "su", **LONG}}))
    second = build(request).manifest["hyperparameters"]
    assert (second["rope"], second["long"], second["theta"]) == ("longrope", LONG["long_factor"], 100.0)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (rope("linear", factor=2.0), '"linear"   (config.json rope_parameters.rope_type)'),
        (rope("default", attention_factor=2.0), "only LongRoPE scales"),
        ({"hidden_act": "xielu"}, '"xielu"'),
    ],
)
def test_phi3_refuses(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    assert shown in refusal(PHI3, tmp_path, **changes)


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("phi-3-mini-4k", {}),
        ("phi-3-medium-4k", {"vocab_size": 32_064}),
        ("phi-4", {"vocab_size": 100_352}),
    ],
)
def test_phi3_sizes(preset: str, config: dict[str, Any]) -> None:
    large = {
        "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 10,
        "intermediate_size": 17_920, "pad_token_id": None,
    }  # fmt: skip
    assert_counts("phi3", preset, PHI3.model, PHI3.config(**{**config, **large} if config else {}))
