"""Families of transformers' models at a small size: a checkpoint of one, its build, both held against each other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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


# ---- small configurations --------------------------------------------------------------------------------------------

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
GEMMA = Family(
    "gemma", transformers.GemmaConfig, transformers.GemmaForCausalLM, {**DECODER, "pad_token_id": 0, "head_dim": 10}
)
GEMMA2 = Family(
    "gemma2",
    transformers.Gemma2Config,
    transformers.Gemma2ForCausalLM,
    {**DECODER, "pad_token_id": 0, "head_dim": 10, "query_pre_attn_scalar": 7, "sliding_window": 4},
)
T5 = Family(
    "t5",
    transformers.T5Config,
    transformers.T5ForConditionalGeneration,
    {"vocab_size": 53, "d_model": 24, "d_kv": 10, "d_ff": 40, "num_layers": 2, "num_heads": 3},
)
GATED: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "untied": True}
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
