"""Decoders of the zoo against transformers: the same checkpoint, the same outputs, in torch and in onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
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

pytestmark = pytest.mark.usefixtures("one_thread")
Arrays = dict[str, Any]


# ---- a model of transformers and its build ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """How a family is made small: its spec, transformers' classes, and a configuration."""

    spec: str
    config: type[Any]
    model: type[Any]
    small: dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """transformers' model and what specc built from its checkpoint."""

    reference: Any
    module: Any
    session: Any
    source: Path

    def compare(self, feeds: Arrays, theirs: Arrays, where: Any = ...) -> None:
        """Both programs give transformers' logits at `where`. An input of the graph that is not fed is all true."""
        given = {name: torch.from_numpy(value) for name, value in feeds.items()}
        with torch.no_grad():
            expected = self.reference(**theirs, use_cache=False).logits.numpy()[where]
            ours = self.module(**given).numpy()[where]
        [found] = self.session.run(None, {**self.unmasked(feeds), **feeds})
        family = self.reference.config.model_type
        parity.assert_close(ours, expected, family, "torch")
        parity.assert_close(found[where], expected, family, "onnxruntime")

    def unmasked(self, feeds: Arrays) -> Arrays:
        source = next(v for n, v in feeds.items() if "mask" not in n)
        ids = {"encoder": source, "decoder": feeds.get("decoder_input_ids", source)}
        return {
            node.name: np.ones(ids["decoder" if "decoder" in node.name else "encoder"].shape, bool)
            for node in self.session.get_inputs()
            if "mask" in node.name
        }


def checkpoint(family: Family, folder: Path, untied: bool = False, **config: Any) -> Any:
    """transformers' model, saved: values in every tensor that no mistake leaves unseen, biases and norms included."""
    torch.manual_seed(1)
    full = family.config(**{**family.small, **config}, attn_implementation="eager")
    model = family.model(full).eval()
    if untied:  # transformers 5 loads T5 1.1's own head, but does not make one
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            values = torch.randn_like(tensor)
            if tensor.dim() == 1:
                tensor.copy_(0.2 * values + (0.9 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                tensor.copy_(values * tensor[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return model


def pair(family: Family, tmp_path: Path, verify: bool = True, **config: Any) -> Pair:
    """Build the checkpoint of a configuration: every tensor is mapped, and nothing is left over."""
    model = checkpoint(family, tmp_path / "checkpoint", **config)
    weights = str(tmp_path / "checkpoint")
    made = build(Request(family.spec, weights=weights, verify=verify, render=False, out=tmp_path / "out"))
    assert made.warnings == () and ("agree" in made.proof or not verify)
    assert made.manifest["weights"]["fresh"] == []
    assert made.manifest["weights"]["tensors"] == len(dict(model.named_parameters()))
    opened = open_build(made.folder)
    [source] = made.folder.glob("*.py")
    return Pair(model, opened.module(), opened.session(), source)


def refusal(family: Family, tmp_path: Path, **changes: Any) -> str:
    """What is said of a checkpoint whose config.json asks for more than the spec implements."""
    checkpoint(family, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(Rejected) as refused:
        build(Request(family.spec, weights=str(path.parent), verify=False, render=False, out=tmp_path / "out"))
    return report.full(refused.value.diagnostics)


def masks(batch: int, length: int) -> Iterator[np.ndarray[Any, Any] | None]:
    """None, padding on the right, on the left, on both sides with a gap within; rows differ."""
    yield None
    for left, right in ((0, length // 3), (length // 2, 0), (length // 4, 2)) if length > 4 else ():
        mask = np.ones((batch, length), bool)
        mask[0, :left] = False
        mask[0, length - right :] = False
        mask[-1, :1] = False
        if left and right:
            mask[:, length // 2] = False
        yield mask


def assert_decoder(made: Pair, *shapes: tuple[int, int]) -> None:
    """A decoder-only model's logits, in the rows that a mask leaves visible."""
    rng = np.random.default_rng(0)
    for batch, length in shapes:
        ids = rng.integers(0, made.reference.config.vocab_size, (batch, length))
        for mask in masks(batch, length):
            feeds, theirs = {"input_ids": ids}, {"input_ids": torch.from_numpy(ids)}
            where: Any = ...
            if mask is not None:
                feeds["attention_mask"], where = mask, mask
                theirs["attention_mask"] = torch.from_numpy(mask).long()
                theirs["position_ids"] = torch.from_numpy(np.maximum(mask.cumsum(-1) - 1, 0))
            made.compare(feeds, theirs, where)


def assert_clean(made: Pair, *feeds: Any) -> None:
    """The emitted module is one graph to torch.compile, and linters have nothing to say about its source."""
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--no-cache", "--line-length", "100", "--target-version", "py311", str(made.source)]
    for command in (["check", "--select", "E4,E7,E9,F,I,UP,B"], ["format", "--diff"]):
        done = subprocess.run([*ruff, *command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    torch.compiler.reset()
    compiled = torch.compile(made.module, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert bool((compiled(*feeds) == made.module(*feeds)).all())


def assert_counts(spec: str, preset: str, model: type[Any], config: Any, more: int = 0) -> None:
    """A preset has as many parameters as transformers' model of the published configuration."""
    with torch.device("meta"):
        published = sum(p.numel() for p in model(config).parameters())
    assert specc.load(spec, preset=preset).parameters == published + more


# ---- llama, mistral, qwen2, qwen3 ------------------------------------------------------------------------------------

DECODER = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA = Family("llama", transformers.LlamaConfig, transformers.LlamaForCausalLM, DECODER)
MISTRAL = Family("llama", transformers.MistralConfig, transformers.MistralForCausalLM, DECODER)
QWEN2 = Family("llama", transformers.Qwen2Config, transformers.Qwen2ForCausalLM, DECODER)
QWEN3 = Family("llama", transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {**DECODER, "head_dim": 16})
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **more}}


YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
EXACT_YARN = rope(
    "yarn", factor=3.0, original_max_position_embeddings=8, beta_fast=4.0, beta_slow=0.5, truncate=False, mscale=0.7,
    mscale_all_dim=1.3,
)  # fmt: skip
LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=0.5, high_freq_factor=3.0, original_max_position_embeddings=16)


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

GEMMA = Family(
    "gemma", transformers.GemmaConfig, transformers.GemmaForCausalLM, {**DECODER, "pad_token_id": 0, "head_dim": 10}
)


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

GEMMA2 = Family(
    "gemma2",
    transformers.Gemma2Config,
    transformers.Gemma2ForCausalLM,
    {**DECODER, "pad_token_id": 0, "head_dim": 10, "query_pre_attn_scalar": 7, "sliding_window": 4},
)


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


# ---- t5 --------------------------------------------------------------------------------------------------------------

T5 = Family(
    "t5",
    transformers.T5Config,
    transformers.T5ForConditionalGeneration,
    {"vocab_size": 53, "d_model": 24, "d_kv": 10, "d_ff": 40, "num_layers": 2, "num_heads": 3},
)
GATED: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "untied": True}


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

WHISPER = Family(
    "whisper",
    transformers.WhisperConfig,
    transformers.WhisperForConditionalGeneration,
    {
        "vocab_size": 53, "num_mel_bins": 5, "d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 4,
        "encoder_ffn_dim": 40, "decoder_layers": 1, "decoder_attention_heads": 3, "decoder_ffn_dim": 32,
        "max_source_positions": 11, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 0,
        "eos_token_id": 0, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
    },
)  # fmt: skip


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
