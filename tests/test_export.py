"""`specc export`: what transformers saved, built and exported, is what transformers loads again, byte for byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import parity
import pytest
from click.testing import CliRunner

from specc_runtime.build import Request, build
from specc_runtime.cli import cli
from specc_runtime.export import export
from specc_runtime.families import families, family_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import families as decoders  # noqa: E402 - they need the two above
import test_zoo_encoders as encoders  # noqa: E402
import test_zoo_images as images  # noqa: E402
import test_zoo_mamba as states  # noqa: E402
import test_zoo_moe as moe  # noqa: E402
import test_zoo_more as more  # noqa: E402
import test_zoo_others as further  # noqa: E402
import test_zoo_recent as recent  # noqa: E402
import test_zoo_swin as windows  # noqa: E402
import test_zoo_wav2vec2 as sounds  # noqa: E402

RESNET = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [2, 1, 2, 1], "num_labels": 5}
VIT = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 12,
    "patch_size": 4, "num_labels": 5, "qkv_bias": False,
}  # fmt: skip

TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}


def small(family: Any, **config: Any) -> Any:
    return family.model(family.config(**{**family.small, **config}))


MODELS = {
    "bart": lambda: further.bart(),
    "bert": lambda: encoders.bert(hidden_act="relu"),
    "clip": lambda: encoders.clip(),
    "convnext": lambda: transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5)
    ),
    "deepseek_v2": lambda: small(recent.V2, topk_method="group_limited_greedy"),
    "deepseek_v3": lambda: small(recent.V3, **decoders.rope("yarn", **recent.YARN, mscale=0.7, mscale_all_dim=1.0)),
    "distilbert": lambda: small(more.DISTILBERT),
    "efficientnet": lambda: images.efficientnet(image_size=32, depthwise_padding=[4]),
    "gemma": lambda: small(decoders.GEMMA),
    "gemma2": lambda: small(decoders.GEMMA2, attn_logit_softcapping=None),
    "gemma3_text": lambda: small(recent.GEMMA3, **recent.SLOW),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=3)
    ),
    "gpt_neox": lambda: small(more.NEOX),
    "llama": lambda: small(decoders.LLAMA, **decoders.LLAMA3),
    "mamba": lambda: states.mamba(use_bias=True, time_step_rank=3),
    "mistral": lambda: small(decoders.MISTRAL, sliding_window=4, tie_word_embeddings=True),
    "mixtral": lambda: small(moe.MIXTRAL, sliding_window=4),
    "modernbert": lambda: recent.modernbert("sdpa", norm_bias=True),
    "phi3": lambda: small(more.PHI3),
    "qwen2": lambda: small(decoders.QWEN2, **decoders.SLIDING),
    "qwen3": lambda: small(decoders.QWEN3),
    "qwen3_moe": lambda: small(moe.QWEN3_MOE, norm_topk_prob=True, mlp_only_layers=[0]),
    "resnet": lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig(**RESNET)),
    "roberta": lambda: small(more.ROBERTA),
    "swin": lambda: windows.swin(image_size=32, mlp_ratio=2.5),
    "t5": lambda: small(decoders.T5),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)),
    "wav2vec2": lambda: sounds.wav2vec2(mask_feature_prob=0.1),
    "whisper": lambda: small(decoders.WHISPER),
}


def test_every_family_is_tried() -> None:
    assert {f.source.removeprefix("hf:") for f in families()} == MODELS.keys()


def inputs(model: Any) -> dict[str, Any]:
    """Some input of the model, by the names that it takes."""
    ids = torch.arange(6).reshape(2, 3) + 4
    config = model.config
    if config.model_type == "whisper":
        sound = torch.linspace(-1, 1, 2 * 5 * 22).reshape(2, 5, 22)
        return {"input_features": sound, "decoder_input_ids": ids}
    if config.model_type == "wav2vec2":
        return {"input_values": torch.linspace(-1, 1, 2 * 50).reshape(2, 50)}
    side = getattr(config, "vision_config", config)
    image = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    if hasattr(side, "image_size"):
        image = image[..., : side.image_size, : side.image_size]
    if config.model_type == "clip":
        return {"input_ids": ids, "pixel_values": image}
    if model.main_input_name == "pixel_values":
        return {"pixel_values": image}
    return {"input_ids": ids, "decoder_input_ids": ids} if config.model_type == "t5" else {"input_ids": ids}


def first_output(model: Any) -> Any:
    with torch.no_grad():
        result = model(**inputs(model))
    return result["logits_per_image" if model.config.model_type == "clip" else "logits"]


def stored(folder: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    return {name: t.numpy().tobytes() for name, t in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize("kind", MODELS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    """With the checkpoint's config as the base, and with a config written from nothing."""
    model = parity.randomised(MODELS[kind]())
    source = tmp_path / "checkpoint"
    model.save_pretrained(source)
    spec = str(family_of(str(source)).spec)
    request = Request(spec, weights=str(source), verify=False, render=False, emit=frozenset({"torch"}))
    made = build(replace(request, out=tmp_path / "out"))
    expected = first_output(model)
    for name, config in (("based", str(source)), ("alone", None)):
        target = tmp_path / name
        exported = export(made.folder, f"hf:{target}", config=config)
        assert exported.source == f"hf:{kind}" and not exported.warnings
        assert sorted(p.name for p in target.iterdir()) == ["config.json", "model.safetensors"]
        assert stored(target) == stored(source)
        tokens = TOKENS if kind == "whisper" and config is None else {}  # no spec speaks of them
        loaded, info = type(model).from_pretrained(target, output_loading_info=True, **tokens)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        ours, theirs = loaded.state_dict(), model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
        limit = 1e-5 if config is None else 0.0  # an activation may be written by another of its names
        torch.testing.assert_close(first_output(loaded.eval()), expected, rtol=limit, atol=limit, msg=name)
    assert json.loads((tmp_path / "based" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )


WRITTEN = {
    "exact-yarn": lambda: small(decoders.LLAMA, **{**decoders.EXACT_YARN, "head_dim": 24}),
    "longrope": lambda: small(
        more.PHI3, **decoders.rope("longrope", attention_factor=1.5, **more.LONG), original_max_position_embeddings=2
    ),
    "halves": lambda: small(recent.V3, rope_interleave=False, **decoders.rope("yarn", **recent.YARN)),
    "basic": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(**RESNET, layer_type="basic", downsample_in_first_stage=True)
    ),
    "gated-silu": lambda: small(decoders.T5, feed_forward_proj="gated-silu"),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_config_written_from_nothing(kind: str, tmp_path: Path) -> None:
    """It says what is not the family's default: how frequencies are scaled, which block, which activation."""
    model = parity.randomised(WRITTEN[kind]())
    model.save_pretrained(tmp_path / "checkpoint")
    spec = str(family_of(str(tmp_path / "checkpoint")).spec)
    assert_same(model, export(structure(spec, tmp_path), str(tmp_path / "alone")).folder)


def structure(spec: str, place: Path) -> Path:
    """A build of `place/checkpoint`."""
    request = Request(spec, weights=str(place / "checkpoint"), verify=False, render=False, out=place / "out")
    return build(replace(request, emit=frozenset({"torch"}))).folder


def assert_same(model: Any, folder: Path) -> None:
    loaded = type(model).from_pretrained(folder).eval()
    torch.testing.assert_close(first_output(loaded), first_output(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rope", [{}, decoders.rope("yarn", **recent.YARN)], ids=["default", "yarn"])
@pytest.mark.parametrize("interleaved", [True, False])
def test_a_choice_of_two_by_a_flag(interleaved: bool, rope: dict[str, Any], tmp_path: Path) -> None:
    """`style` is not the flag itself: its value decides the condition, and null would be taken for false."""
    model = parity.randomised(small(recent.V3, rope_interleave=interleaved, **rope))
    model.save_pretrained(tmp_path / "checkpoint")
    text = Path(family_of(str(tmp_path / "checkpoint")).spec).read_text()
    for old, new in (
        ("interleaved: bool = true", 'style: "half" | "interleaved" = "interleaved"'),
        ('  let style = "interleaved" if interleaved else "half"\n', ""),
        ("interleaved = rope_interleave", 'style = "half" if rope_interleave == false else "interleaved"'),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "chosen.spec").write_text(text)
    folder = export(structure(str(tmp_path / "chosen.spec"), tmp_path), str(tmp_path / "alone")).folder
    assert json.loads((folder / "config.json").read_text())["rope_interleave"] is interleaved
    assert_same(model, folder)


def test_shards_and_a_head_of_its_own(tmp_path: Path) -> None:
    """T5 1.1, whose config keeps in one text how its layers compute."""
    from safetensors.torch import load_file, save_file

    source = tmp_path / "checkpoint"
    model = decoders.checkpoint(decoders.T5, source, **decoders.GATED)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    where = {name: f"{name.partition('.')[0]}.safetensors" for name in tensors}
    for shard in set(where.values()):
        save_file({name: tensors[name] for name in where if where[name] == shard}, source / shard)
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    out = structure("t5", tmp_path)
    for name, config in (("alone", None), ("based", str(source))):
        folder = export(out, str(tmp_path / name), config=config).folder
        assert stored(folder) == {name: t.numpy().tobytes() for name, t in tensors.items()}
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
        assert_same(model, folder)


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(*words: str) -> str:
    done = CliRunner().invoke(cli, ["export", *words])
    assert done.exit_code == 1, done.output
    return done.output


def test_the_command(tmp_path: Path) -> None:
    sets = {"vocab": "31", "dim": "16", "layers": "1", "heads": "4", "kv_heads": "2", "hidden": "24"}
    request = Request("llama", sets=sets, render=False, verify=False, emit=frozenset({"torch"}), out=tmp_path / "out")
    build(request)
    out, target = str(tmp_path / "out"), tmp_path / "llama"
    done = CliRunner().invoke(cli, ["export", out, "--to", f"hf:{target}"])
    assert done.exit_code == 0 and "hf:llama, 12 tensors" in done.output, done.output
    config = json.loads((target / "config.json").read_text())
    assert config["model_type"] == "llama" and config["hidden_act"] == "silu" and config["num_key_value_heads"] == 2
    assert "exists already: nothing was written" in refused(out, "--to", str(target))
    assert "error[W350]" in (text := refused(out, "--to", f"{target}2", "--format", "gpt2")) and "hf:qwen3" in text
    text = refused(out, "--to", f"{target}2", "--format", "qwen3")
    assert "error[W332]" in text and "qk_norm = false" in text
    assert "is not a build" in refused(str(tmp_path), "--to", f"{target}2")
    assert not (tmp_path / "llama2").exists()
    build(replace(request, no_weights=True, out=tmp_path / "structure"))
    assert "has no weights" in refused(str(tmp_path / "structure"), "--to", f"{target}2")
