"""`--fuse-once`: an encoder's graph gives the keys and values of cross-attention itself; decoding is what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import T5, WHISPER, Family, checkpoint

from specc.types import DType
from specc_runtime import Generator, open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.companions import SpecialTokens
from specc_runtime.quantised import parse
from specc_runtime.steps import open_steps
from specc_runtime.verify import repeat

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[5, 9, 2, 33, 41], [3, 11, 20], [7]]
FUSED = Cache(fuse_once="encode")
TINY = {"vocab": "40", "dim": "16", "heads": "2", "layers": "1", "hidden": "16"}
SOUNDS = Request("whisper", sets={**TINY, "mels": "4", "source": "6", "context": "12"}, render=False)
TEXTS = Request("t5", sets={**TINY, "head_dim": "4"}, render=False)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
@pytest.mark.parametrize("family", [pytest.param(T5, id="t5"), pytest.param(WHISPER, id="whisper")])
def test_generation_gives_the_same_tokens(family: Family, backend: str, tmp_path: Path) -> None:
    """Of texts of unequal length, whose mask goes to the decoder in every step, and of a sound."""
    start = {"decoder_start_token_id": 2, "pad_token_id": 0} if family is T5 else {}
    checkpoint(replace(family, small={**family.small, **start}), tmp_path / "checkpoint")
    request = Request(family.spec, weights=str(tmp_path / "checkpoint"), render=False, verify=False)
    sound = np.random.default_rng(0).standard_normal((1, 5, 22)).astype(np.float32)
    found = []
    for cache in (Cache(), FUSED):
        out = tmp_path / f"{cache.fuse_once}"
        build(replace(request, entries=("encode", "decode"), cache=cache, out=out))
        generator = Generator(out, backend)  # type: ignore[arg-type]
        if family is T5:
            found.append(generator.generate(PROMPTS, 12))
        else:
            generator.special = SpecialTokens()
            found.append(generator.generate([1, 5], 12, inputs={"input_features": sound}))
    assert [row.tokens for row in found[0].rows] == [row.tokens for row in found[1].rows]


@pytest.mark.parametrize(
    ("request_", "cache"),
    [pytest.param(SOUNDS, FUSED, id="whisper"), pytest.param(TEXTS, Cache(16, fuse_once="encode"), id="t5-static")],
)
def test_the_graph_gives_the_keys_and_values_and_is_proved(request_: Request, cache: Cache, tmp_path: Path) -> None:
    """The other entry is built unasked; there is no graph of its own for what is computed once."""
    out = tmp_path / "out"
    made = build(replace(request_, entries=("decode",), cache=cache, out=out)).manifest
    assert sorted(path.name for path in out.glob("*.onnx")) == [
        "model.decode.onnx", "model.decode_cached.onnx", "model.encode.onnx",
    ]  # fmt: skip
    graph = onnx.load(out / "model.encode.onnx", load_external_data=False).graph
    states = [f"present.0.encoder.{name}" for name in ("key", "value")]
    assert [o.name for o in graph.output] == ["encoder_hidden_states", *states]
    entries = made["certificate"]["entries"]
    assert entries["decode_cached"]["runs"] and entries["encode"]["runs"]
    repeat(out)


def test_keys_are_those_of_the_graph_that_was_alone(tmp_path: Path) -> None:
    """The same nodes after the same encoder, under the sizes of the encoder."""
    import onnxruntime as ort

    for name, cache in (("apart", Cache()), ("fused", FUSED)):
        build(replace(SOUNDS, entries=("decode", "encode"), cache=cache, verify=False, out=tmp_path / name))
    sound = np.random.default_rng(1).standard_normal((2, 4, 12)).astype(np.float32)

    def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = ort.InferenceSession(path)
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))

    fused = run(tmp_path / "fused" / "model.encode.onnx", {"input_features": sound})
    hidden = run(tmp_path / "apart" / "model.encode.onnx", {"input_features": sound})
    alone = run(tmp_path / "apart" / "model.decode_once.onnx", hidden)
    for name, value in (hidden | alone).items():
        np.testing.assert_allclose(fused[name], value, rtol=0, atol=1e-6)


def test_in_f16_and_in_few_bits(tmp_path: Path) -> None:
    narrow = build(replace(SOUNDS, entries=("decode",), cache=FUSED, dtype=DType.F16, out=tmp_path / "half")).manifest
    assert "decode_cached" in narrow["certificate"]["entries"]
    wide = replace(SOUNDS, sets={**SOUNDS.sets, "dim": "64"}, entries=("decode",), cache=FUSED, out=tmp_path / "int8")
    packed = build(replace(wide, quant=parse("int8"))).manifest
    assert "model.encode.int8.onnx" in packed["files"] and "model.decode_once.int8.onnx" not in packed["files"]
    steps = open_steps(open_build(tmp_path / "int8"), quantized=True)
    sound = np.random.default_rng(1).standard_normal((1, 4, 12)).astype(np.float32)
    mask = np.ones((1, 3), bool)
    given = {"decoder_input_ids": np.array([[3, 4]]), "decoder_attention_mask": mask[:, :2]}
    first = steps.step(given | {"input_features": sound})
    again = steps.step({"decoder_input_ids": np.array([[5]]), "decoder_attention_mask": mask})
    assert first["logits"].shape == again["logits"].shape == (1, 1, 40)
