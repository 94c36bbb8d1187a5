"""`--target genai`: onnxruntime-genai loads the folder and generates what transformers generates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import specc
from families import GEMMA2, LLAMA, MISTRAL, QWEN2, QWEN3, SLIDING, Family, checkpoint
from test_cached import GPT2, LONG
from test_zoo_moe import MIXTRAL
from test_zoo_more import NEOX, PHI3

from specc.diagnostics import Rejected
from specc.lowered import lowered
from specc.ops.index import Index
from specc.types import DType
from specc_runtime import open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.certificate import schema
from specc_runtime.half_proof import repeat_half
from specc_runtime.quantised import parse as parse_quant
from specc_runtime.steps import open_steps
from specc_runtime.verify import repeat

genai = pytest.importorskip("onnxruntime_genai")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("one_thread")

GENAI = Cache(genai=True)
PAD = 60  # ends a text and pads one: in no prompt, and not chosen before the least length
COUNT = 36


def expected(model: Any, prompt: Any) -> list[int]:
    """What transformers continues one prompt by."""
    ids = torch.from_numpy(prompt)[None]
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=COUNT,
            min_new_tokens=COUNT,
            eos_token_id=None,
            bad_words_ids=[[PAD]],
        )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens


def generated(folder: Path, prompts: list[Any], **options: Any) -> list[list[int]]:
    """What genai continues a batch by, its shorter prompts padded on the right as its own tokenizer pads them."""
    model = genai.Model(str(folder))
    longest = max(map(len, prompts))
    parameters = genai.GeneratorParams(model)
    length = longest + COUNT
    parameters.set_search_options(batch_size=len(prompts), max_length=length, min_length=length, **options)
    generator = genai.Generator(model, parameters)
    batch = np.full((len(prompts), longest), PAD, np.int32)
    for row, prompt in zip(batch, prompts, strict=True):
        row[: len(prompt)] = prompt
    generator.append_tokens(batch if len(prompts) > 1 else batch[0])
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(row)[longest:].tolist() for row in range(len(prompts))]


def prompts_of(*lengths: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, PAD, n) for n in lengths]


@pytest.mark.parametrize(
    ("family", "config", "opset"),
    [
        pytest.param(LLAMA, LONG, 23, id="llama"),
        pytest.param(LLAMA, LONG, 17, id="llama-opset17"),
        pytest.param(MISTRAL, {**LONG, "sliding_window": 4}, 23, id="mistral"),
        pytest.param(QWEN2, {**LONG, **SLIDING}, 23, id="qwen2-sliding"),
        pytest.param(QWEN3, LONG, 23, id="qwen3"),
        pytest.param(
            GEMMA2, {**LONG, "head_dim": 16, "sliding_window": 6, "attn_logit_softcapping": 0.5}, 23, id="gemma2"
        ),
        pytest.param(PHI3, {**LONG, "original_max_position_embeddings": 96}, 23, id="phi3"),
        pytest.param(MIXTRAL, LONG, 23, id="mixtral"),
        pytest.param(NEOX, LONG, 23, id="gpt_neox"),
        pytest.param(GPT2, {}, 23, id="gpt2"),
    ],
)
def test_genai_gives_the_tokens_of_transformers(
    family: Family, config: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    """A prompt alone, and three of unequal length; the proof of the build holds, padding on the right included."""
    small = {**family.small, "pad_token_id": PAD, "eos_token_id": PAD}
    model = checkpoint(replace(family, small=small), tmp_path / "checkpoint", **config)
    out = tmp_path / "out"
    made = build(
        Request(family.spec, weights=str(tmp_path / "checkpoint"), render=False, out=out, cache=GENAI, opset=opset)
    )
    runs = made.manifest["certificate"]["entries"]["forward_cached"]["runs"]
    assert len(runs) >= 9 and {run["masks"] for run in runs} == {"all true", "padded"}
    for lengths in ((9,), (5, 9, 7)):
        prompts = prompts_of(*lengths)
        assert generated(out, prompts) == [expected(model, prompt) for prompt in prompts]


# ---- one small build -------------------------------------------------------------------------------------------------

LM = """
from std.nn import Embedding
dim B, T, S = past(T) + T
model LM(vocab: int = 16, width: int = 8) {
  dim S <= 20
  embed: Embedding(vocab, 2*width)
  forward(input_ids: Int[B, T], attention_mask: Bool[B, S]? = none) -> logits: Tensor[B, T, vocab] {
    x = embed(input_ids) |> rearrange([B, T, 2*width] -> [B, 2, T, width])
    pos = positions(T, mask = attention_mask)
    q = rotary(x, pos, rope_freqs(width, 10_000.0), style = "interleaved")
    k, v = cached(q, x, along = T)
    y = sdpa(q, k, v, mask = attention_mask, causal = true)
    return rearrange(y, [B, 2, T, width] -> [B, T, 2*width]) @ transpose(embed.weight, 0, 1)
  }
}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genai")
    (folder / "lm.spec").write_text(LM)
    return build(Request(str(folder / "lm.spec"), render=False, out=folder / "out", cache=GENAI)).folder


def test_the_graph_is_what_genai_feeds(built: Path) -> None:
    """An integer mask, buffers of any length, one operator of attention that takes the projections as they are."""
    session = open_build(built).session("forward_cached")
    assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
        "input_ids": ("tensor(int64)", ["B", "T"]),
        "attention_mask": ("tensor(int64)", ["B", "total_sequence_length"]),
        "past_key_values.0.key": ("tensor(float)", ["B", 2, "max_sequence_length", 8]),
        "past_key_values.0.value": ("tensor(float)", ["B", 2, "max_sequence_length", 8]),
    }
    assert [o.name for o in session.get_outputs()] == ["logits", "present.0.key", "present.0.value"]
    assert session.get_outputs()[0].shape == ["B", 1, 16]  # of where each row's text ends
    proto = onnx.load(built / "model.forward_cached.onnx", load_external_data=False)
    onnx.checker.check_model(str(built / "model.forward_cached.onnx"))
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("GroupQueryAttention") == 1 and "Attention" not in kinds
    moved = [list(a.ints) for node in proto.graph.node if node.op_type == "Transpose" for a in node.attribute]
    assert [0, 2, 1, 3] not in moved  # no heads
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", 23), ("com.microsoft", 1)}


def test_the_manifest_and_the_certificate_say_what_was_proved(built: Path) -> None:
    record = open_build(built).manifest
    cache = record["entries"]["forward_cached"]["cache"]
    assert [cache[key] for key in ("kind", "length", "context", "mask", "last")] == [
        "genai", None, 20, "attention_mask", ["logits"]
    ]  # fmt: skip
    mask = record["entries"]["forward_cached"]["interface"]["inputs"][1]
    assert (mask["name"], mask["dtype"]) == ("attention_mask", "i64")
    certificate = repeat(built)
    import jsonschema

    jsonschema.validate(certificate.to_json(), schema())
    runs = certificate.entries["forward_cached"].runs
    assert any("position 20" in run.purpose for run in runs)
    assert any("padded on the right" in run.purpose for run in runs)
    assert any("parts of 7, 1, 1, 1, 3, 2" in run.purpose for run in runs)


def test_the_configuration(built: Path) -> None:
    config = json.loads((built / "genai_config.json").read_text())
    assert config["model"]["type"] == "decoder" and config["model"]["context_length"] == 20
    assert (config["model"]["decoder"]["filename"], config["model"]["vocab_size"]) == ("model.forward_cached.onnx", 16)
    assert config["search"] == {"max_length": 20, "past_present_share_buffer": True}
    assert not {"eos_token_id", "pad_token_id"} & config["model"].keys()


def test_both_kinds_of_buffers(built: Path) -> None:
    """genai may also give out keys and values in new memory every time."""
    prompts = prompts_of(4)[0] % 16
    model = genai.Model(str(built))
    found = []
    for shared in (True, False):
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=20, min_length=20, past_present_share_buffer=shared)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(prompts.astype(np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        found.append(generator.get_sequence(0).tolist())
    assert found[0] == found[1] and len(found[0]) == 20


def test_logits_of_every_position(built: Path, tmp_path: Path) -> None:
    """As --logits all: genai picks the last of each row itself."""
    request = Request(str(built.parent / "lm.spec"), render=False, out=tmp_path / "out")
    build(replace(request, cache=Cache(genai=True, logits="all")))
    assert open_build(tmp_path / "out").session("forward_cached").get_outputs()[0].shape == ["B", "T", 16]
    feeds = {"input_ids": np.array([[3, 4, 5], [6, 7, 0]]), "attention_mask": np.array([[1, 1, 1], [1, 1, 0]]) > 0}
    every, ends = (open_steps(open_build(folder)).step(feeds)["logits"] for folder in (tmp_path / "out", built))
    np.testing.assert_allclose(ends[:, 0], every[[0, 1], [2, 1]], atol=1e-6)


def test_the_end_of_a_row_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of the last column, which padding has, are no answer."""
    monkeypatch.setattr(Index, "onnx_step", lambda self, emit, step, x: self.onnx(emit, x))
    (tmp_path / "lm.spec").write_text(LM)
    with pytest.raises(Rejected, match="B630: forward_cached differs from forward of the whole text"):
        build(Request(str(tmp_path / "lm.spec"), render=False, out=tmp_path / "out", cache=GENAI))


def test_steps_refuse_what_the_operator_cannot_do(built: Path) -> None:
    steps = open_steps(open_build(built))
    ids, mask = np.ones((2, 3), np.int64), np.ones((2, 3), bool)
    mask[0, 0] = False
    with pytest.raises(Rejected, match="B621: texts of one batch are padded on the left"):
        steps.step({"input_ids": ids, "attention_mask": mask})
    mask[0] = True, True, False
    steps.step({"input_ids": ids, "attention_mask": mask})
    more = np.concatenate((mask, np.ones((2, 2), bool)), 1)
    with pytest.raises(Rejected, match="B621: 2 new positions of 2 texts at once"):
        steps.step({"input_ids": ids[:, :2], "attention_mask": more})
    alone = open_build(built).module()(torch.ones(1, 3, dtype=torch.long)).detach().numpy()[0, -1]
    found = steps.step({"input_ids": ids[:, :1], "attention_mask": more[:, :4]})["logits"]
    np.testing.assert_allclose(found[0, 0], alone, atol=1e-5)


def test_a_text_goes_through_the_tokenizer_of_the_checkpoint(tmp_path: Path) -> None:
    """Text in, text out: the tokenizer's files and the defaults of the search come along."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = checkpoint(GPT2, tmp_path / "checkpoint")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<a>", "<b>"], show_progress=False)
    tokenizer.train_from_iterator(["to be or not to be that is the question"], trainer)
    tokenizer.save(str(tmp_path / "checkpoint" / "tokenizer.json"))
    (tmp_path / "checkpoint" / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    generation = {"do_sample": False, "top_k": 7, "temperature": 0.5, "eos_token_id": [60, 1], "bos_token_id": 0}
    (tmp_path / "checkpoint" / "generation_config.json").write_text(json.dumps(generation))
    out = tmp_path / "out"
    build(Request("gpt2", weights=str(tmp_path / "checkpoint"), verify=False, render=False, out=out, cache=GENAI))
    config = json.loads((out / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == [60, 1] and config["model"]["pad_token_id"] == 60
    assert (config["search"]["top_k"], config["search"]["temperature"]) == (7, 0.5)
    loaded = genai.Model(str(out))
    tokens = genai.Tokenizer(loaded).encode("to be or not")
    assert tokens.tolist() == tokenizer.encode("to be or not").ids
    assert genai.Tokenizer(loaded).decode(tokens) == "to be or not"
    assert model.config.vocab_size == config["model"]["vocab_size"]


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        pytest.param("causal = true", "bias = zeros([2, T, S]), causal = true", "a bias is added", id="bias"),
        pytest.param("width: int = 8", "width: int = 12", "12 channels, no multiple of 8", id="width"),
        pytest.param("dim S <= 20", "dim S >= 1", "nothing limits how long a text may be", id="context"),
        pytest.param("cached(q, x, along = T)", "cached(q, x, along = T); v = v * 1.5", "D406", id="outside"),
        pytest.param(
            "causal = true)",
            "causal = true) + sdpa(q, k, v, causal = true, window = 2)",
            "not those of one `cached` alone",
            id="twice",
        ),
        pytest.param(
            "input_ids: Int[B, T],", "input_ids: Int[B, T], kinds: Int[B, T],", "be given `kinds`", id="input"
        ),
        pytest.param("mask = attention_mask, causal", "mask = pad, causal", "is not the input", id="mask"),
    ],
)
def test_a_model_that_genai_cannot_run_is_refused(old: str, new: str, shown: str, tmp_path: Path) -> None:
    text = LM.replace(old, new)
    text = text.replace("x = embed(input_ids)", "x = embed(input_ids + kinds)") if "kinds" in new else text
    text = text.replace("pos = ", "pad = not attention_mask\n    pos = ") if "pad" in new else text
    text = text.replace("Bool[B, S]? = none", "Bool[B, S]") if "pad" in new else text
    (tmp_path / "lm.spec").write_text(text)
    with pytest.raises(Rejected) as refused:
        build(Request(str(tmp_path / "lm.spec"), render=False, out=tmp_path / "out", cache=GENAI))
    [found] = refused.value.diagnostics
    assert shown in f"{found.code}: {found.message}" and found.code in ("B621", "D406")


def test_check_tells_what_the_operators_become() -> None:
    """Before anything is built: one operator of attention, or why not."""
    [told] = lowered("gpt2", target="genai", preset="gpt2")
    [attention] = told.of("sdpa")
    assert (attention.form, attention.nodes, attention.calls) == ("fused", ("com.microsoft.GroupQueryAttention",), 12)
    assert told.problems == () and told.target == "genai"
    [told] = lowered("t5", target="genai", preset="t5-small")
    assert [d.code for d in told.problems] == ["B621"] and told.entry == "decode"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--cache", "concat"), "--target genai has a cache of its own"),
        (("--emit", "torch"), "--target genai needs the ONNX graph"),
        (("--target", "tvm"), "'tvm' is not one of 'onnxruntime', 'genai'"),
    ],
)
def test_options_that_contradict_the_target(words: tuple[str, ...], shown: str, tmp_path: Path) -> None:
    done = specc("build", "gpt2", "--target", "genai", *words, cwd=tmp_path)
    assert done.returncode == 2 and shown in done.stderr


def test_a_model_that_keeps_states_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"B621: .* keeps other things than keys and values"):
        build(Request("mamba", preset="mamba-tiny", no_weights=True, out=tmp_path / "out", cache=GENAI))


def test_half_precision(tmp_path: Path) -> None:
    """genai generates from a folder in f16, too; what the CPU provider cannot run is for other devices."""
    (tmp_path / "lm.spec").write_text(LM.replace("dim S <= 20", "dim S <= 64"))
    request = Request(str(tmp_path / "lm.spec"), render=False, out=tmp_path / "out", cache=GENAI)
    told = {}
    for dtype in (DType.F16, DType.BF16):
        made = build(replace(request, dtype=dtype, out=tmp_path / dtype.value))
        told[dtype] = made.manifest["certificate"]["half"]["direct"]["model.forward_cached.onnx"]["runs"]
        assert repeat_half(made.folder).half is not None
    assert told == {DType.F16: True, DType.BF16: False}
    build(request)
    prompts = [np.array([3, 5, 2, 7])]
    assert generated(tmp_path / "f16", prompts) == generated(tmp_path / "out", prompts)


def test_a_graph_in_few_bits(tmp_path: Path) -> None:
    """With --quant genai is given the quantised graph, and the certificate says how far it is."""
    (tmp_path / "lm.spec").write_text(LM.replace("width: int = 8", "width: int = 16"))
    scheme = parse_quant("int4:block=32,embed,head")
    out = tmp_path / "out"
    build(Request(str(tmp_path / "lm.spec"), render=False, out=out, cache=GENAI, quant=scheme))
    config = json.loads((out / "genai_config.json").read_text())
    assert config["model"]["decoder"]["filename"] == "model.forward_cached.int4.onnx"
    model = genai.Model(str(out))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=12, min_length=12)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array([3, 4, 5], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    assert len(generator.get_sequence(0)) == 12
