"""Generated tokens are those of transformers, in both backends, alone and in batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import GEMMA2, LLAMA, MISTRAL, QWEN2, QWEN3, SLIDING, T5, WHISPER, Family, checkpoint
from parity import randomised
from prompts import BACKENDS, CONCAT, PROMPTS
from test_cached import BART, GPT2, LONG
from test_sampling import found
from test_zoo_mamba import MAMBA
from test_zoo_moe import MIXTRAL
from test_zoo_more import NEOX, PHI3

from specc_runtime import Generator
from specc_runtime.build import Request, build
from specc_runtime.companions import SpecialTokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = [
    pytest.param(GPT2, {}, id="gpt2"),
    pytest.param(LLAMA, LONG, id="llama"),
    pytest.param(MISTRAL, {**LONG, "sliding_window": 4}, id="mistral"),
    pytest.param(QWEN2, {**LONG, **SLIDING}, id="qwen2"),
    pytest.param(QWEN3, LONG, id="qwen3"),
    pytest.param(GEMMA2, LONG, id="gemma2"),
    pytest.param(MIXTRAL, LONG, id="mixtral"),
    pytest.param(NEOX, LONG, id="gpt_neox"),
    pytest.param(PHI3, {**LONG, "original_max_position_embeddings": 96}, id="phi3"),
]


def assert_continues(out: Path, expected: list[tuple[int, ...]]) -> None:
    """Both backends, the first prompt alone, and all in a batch."""
    for backend in BACKENDS:
        generator = Generator(out, backend)
        generator.special = SpecialTokens()
        assert generator.generate(PROMPTS[0], 64).tokens == expected[0], backend
        assert [row.tokens for row in generator.generate(PROMPTS, 64).rows] == expected, backend


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_greedy_gives_the_tokens_of_transformers(family: Family, config: dict[str, Any], tmp_path: Path) -> None:
    """64 tokens for a prompt alone, and for prompts of unequal length in a batch, in both programs."""
    model = checkpoint(family, tmp_path / "checkpoint", **config)
    weights, out = str(tmp_path / "checkpoint"), tmp_path / "out"
    build(Request(family.spec, weights=weights, render=False, verify=False, out=out, cache=CONCAT))
    with torch.no_grad():
        expected = [
            tuple(
                model.generate(
                    input_ids=torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=64,
                    eos_token_id=None,
                    pad_token_id=0,
                )[0, len(prompt) :].tolist()
            )
            for prompt in PROMPTS
        ]
    assert_continues(out, expected)


def test_a_state_space_goes_on_from_its_states(tmp_path: Path) -> None:
    """Padding puts nothing into them: a row of a batch is as it is alone."""
    model = randomised(MAMBA.model(MAMBA.config(**{**MAMBA.small, "use_cache": True})))
    model.save_pretrained(tmp_path / "checkpoint")
    out, weights = tmp_path / "out", str(tmp_path / "checkpoint")
    build(Request("mamba", weights=weights, render=False, verify=False, out=out, cache=CONCAT))
    with torch.no_grad():
        expected = [
            tuple(
                model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=64, eos_token_id=None)[
                    0, len(prompt) :
                ].tolist()
            )
            for prompt in PROMPTS
        ]
    assert_continues(out, expected)


@pytest.mark.parametrize("family", [pytest.param(T5, id="t5"), pytest.param(BART, id="bart")])
def test_an_encoder_decoder_gives_the_tokens_of_transformers(family: Family, tmp_path: Path) -> None:
    """The prompts go to the encoder, padded on the right; the text begins with the decoder's own token."""
    start = {"decoder_start_token_id": 2, "pad_token_id": 0}
    model = checkpoint(replace(family, small={**family.small, **start}), tmp_path / "checkpoint")
    weights, out = str(tmp_path / "checkpoint"), tmp_path / "out"
    built = Request(family.spec, weights=weights, render=False, verify=False, out=out, cache=CONCAT)
    build(replace(built, entries=("encode", "decode")))
    settings = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": None, "forced_eos_token_id": None}
    with torch.no_grad():
        expected = [
            tuple(model.generate(input_ids=torch.tensor([[x % 53 for x in p]]), **settings)[0, 1:].tolist())
            for p in PROMPTS
        ]
    for backend in BACKENDS:
        generator = Generator(out, backend)
        assert generator.special.start == 2
        generator.special = replace(generator.special, eos=())
        prompts = [[x % 53 for x in prompt] for prompt in PROMPTS]
        assert generator.generate(prompts[0], 40).tokens == expected[0], backend
        assert [row.tokens for row in generator.generate(prompts, 40).rows] == expected, backend
    build(replace(built, out=tmp_path / "half", entries=("decode",)))
    refused = found(Generator, tmp_path / "half")
    assert refused.code == "G705" and "which no entry of the build gives" in refused.message


def test_an_encoder_of_sounds_is_given_them(tmp_path: Path) -> None:
    """What no prompt can be goes in beside it; the prompt is what the decoder begins with."""
    model = checkpoint(WHISPER, tmp_path / "checkpoint")
    out, weights = tmp_path / "out", str(tmp_path / "checkpoint")
    request = Request("whisper", weights=weights, render=False, verify=False, out=out, cache=CONCAT)
    build(replace(request, entries=("encode", "decode")))
    sound = np.random.default_rng(0).standard_normal((1, 5, 22)).astype(np.float32)
    text = [1, 5]
    for _ in range(12):
        with torch.no_grad():
            whole = model(input_features=torch.from_numpy(sound), decoder_input_ids=torch.tensor([text])).logits
        text.append(int(whole[0, -1].argmax()))
    for backend in BACKENDS:
        generator = Generator(out, backend)
        generator.special = SpecialTokens()
        assert generator.generate([1, 5], 12, inputs={"input_features": sound}).tokens == tuple(text[2:]), backend
        refused = found(generator.generate, [1, 5])
        assert refused.code == "G704" and "the model reads `input_features`" in refused.message
        for given, shown in (
            ({"input_features": sound[..., :3]}, "has another shape"),
            ({"input_features": sound[0]}, "has another shape"),
            ({"input_features": np.repeat(sound, 2, 0)}, "has another shape"),
            ({"input_features": "a song"}, "is not an array of numbers"),
            ({"input_features": sound, "sound": sound}, "`encode` reads no `sound`"),
        ):
            refused = found(generator.generate, [1, 5], inputs=given)
            assert refused.code == "G704" and shown in refused.message
