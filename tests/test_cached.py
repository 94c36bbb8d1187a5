"""Cached entries: decoding step by step gives what the whole text gives, in torch, in onnxruntime, in transformers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import make, specc
from families import GEMMA, GEMMA2, LLAMA, MISTRAL, QWEN2, QWEN3, SLIDING, T5, WHISPER, Family, checkpoint
from parity import randomised
from test_zoo_mamba import MAMBA
from test_zoo_moe import MIXTRAL, QWEN3_MOE
from test_zoo_more import NEOX, PHI3

from specc.diagnostics import Rejected
from specc_runtime import open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.certificate import schema
from specc_runtime.spectest import run_tests
from specc_runtime.steps import Steps, open_steps
from specc_runtime.verify import repeat

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

GPT2 = Family(
    "gpt2",
    transformers.GPT2Config,
    transformers.GPT2LMHeadModel,
    {
        "vocab_size": 61,
        "n_positions": 96,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
)
BART = Family(
    "bart",
    transformers.BartConfig,
    transformers.BartForConditionalGeneration,
    {
        "vocab_size": 53, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
        "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 32, "max_position_embeddings": 48,
    },
)  # fmt: skip
LONG: dict[str, Any] = {"max_position_embeddings": 96}
CONCAT, STATIC = Cache(), Cache(80)


def greedy(steps: Steps, ids: Any, mask: Any, count: int) -> Any:
    """The next `count` tokens of each row of a batch that is padded on the left, each the most likely one."""
    fed, chosen = ids, []
    for _ in range(count):
        given = {"input_ids": fed, "attention_mask": mask}
        logits = steps.step(given)["logits"][:, -1]
        fed = logits.argmax(-1, keepdims=True)
        chosen.append(fed)
        mask = np.concatenate((mask, np.ones_like(fed, bool)), 1)
    return np.concatenate(chosen, 1)


@pytest.mark.parametrize(
    ("family", "config", "cache", "opset"),
    [
        pytest.param(GPT2, {}, CONCAT, 23, id="gpt2"),
        pytest.param(GPT2, {}, STATIC, 24, id="gpt2-static"),
        pytest.param(LLAMA, LONG, CONCAT, 23, id="llama"),
        pytest.param(LLAMA, LONG, STATIC, 23, id="llama-static"),
        pytest.param(LLAMA, LONG, CONCAT, 17, id="llama-opset17"),
        pytest.param(MISTRAL, {**LONG, "sliding_window": 4}, CONCAT, 23, id="mistral"),
        pytest.param(QWEN2, {**LONG, **SLIDING}, CONCAT, 23, id="qwen2-sliding"),
        pytest.param(QWEN3, LONG, CONCAT, 23, id="qwen3"),
        pytest.param(GEMMA2, {**LONG, "attn_logit_softcapping": 0.5}, CONCAT, 23, id="gemma2"),
        pytest.param(GEMMA2, {**LONG, "sliding_window": 90}, STATIC, 24, id="gemma2-static"),
        pytest.param(GEMMA, LONG, CONCAT, 23, id="gemma"),
        pytest.param(MIXTRAL, LONG, CONCAT, 23, id="mixtral"),
        pytest.param(QWEN3_MOE, LONG, CONCAT, 23, id="qwen3_moe"),
        pytest.param(NEOX, LONG, CONCAT, 23, id="gpt_neox"),
        pytest.param(PHI3, {**LONG, "original_max_position_embeddings": 96}, CONCAT, 23, id="phi3"),
    ],
)
def test_greedy_decoding_gives_the_tokens_of_transformers(
    family: Family, config: dict[str, Any], cache: Cache, opset: int, tmp_path: Path
) -> None:
    """64 tokens for two prompts of unequal length, in both programs; and the proof of the build holds."""
    model = checkpoint(family, tmp_path / "checkpoint", **config)
    weights = str(tmp_path / "checkpoint")
    out = tmp_path / "out"
    made = build(Request(family.spec, weights=weights, render=False, out=out, cache=cache, opset=opset))
    runs = made.manifest["certificate"]["entries"]["forward_cached"]["runs"]
    assert len(runs) >= 10 and {run["masks"] for run in runs} == {"all true", "padded"}
    ids = np.random.default_rng(0).integers(2, 61, (2, 9))
    mask = np.ones((2, 9), bool)
    mask[0, :4] = False
    model.generation_config.pad_token_id = 0
    with torch.no_grad():
        expected = model.generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask).long(),
            do_sample=False,
            max_new_tokens=64,
            min_new_tokens=64,
            eos_token_id=None,
        )[:, 9:].numpy()
    for engine in ("onnxruntime", "torch"):
        assert (greedy(open_steps(open_build(out), engine), ids, mask, 64) == expected).all(), engine


# ---- recurrences -----------------------------------------------------------------------------------------------------


def test_mamba_gives_the_tokens_of_transformers(tmp_path: Path) -> None:
    """States and the frames of causal convolutions go from step to step; padding on the left puts nothing into them."""
    model = randomised(MAMBA.model(MAMBA.config(**{**MAMBA.small, "use_cache": True})))
    model.save_pretrained(tmp_path / "checkpoint")
    out, weights = tmp_path / "out", str(tmp_path / "checkpoint")
    build(Request("mamba", weights=weights, render=False, out=out, cache=CONCAT))
    kept = open_build(out).manifest["entries"]["forward_cached"]["cache"]["states"]
    assert [[one["input"] for one in group] for group in kept] == [
        [f"past_states.{i}.{name}"] for i, name in enumerate(("conv", "h") * 2)
    ]
    ids = np.random.default_rng(0).integers(2, 61, (2, 9))
    with torch.no_grad():
        expected = model.generate(
            input_ids=torch.from_numpy(ids), do_sample=False, max_new_tokens=64, min_new_tokens=64, eos_token_id=None
        )[:, 9:].numpy()
    for engine in ("onnxruntime", "torch"):
        steps, fed, chosen = open_steps(open_build(out), engine), ids, []
        for _ in range(64):
            logits = steps.step({"input_ids": fed, "attention_mask": np.ones(fed.shape, bool)})["logits"][:, -1]
            fed = logits.argmax(-1, keepdims=True)
            chosen.append(fed)
        assert (np.concatenate(chosen, 1) == expected).all(), engine


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_recurrent_layers_go_on_from_their_states(cell: str, tmp_path: Path) -> None:
    sets = {"vocab": "40", "dim": "8", "cell": cell}
    made = build(Request("lstm", sets=sets, render=False, out=tmp_path / "out", cache=CONCAT))
    assert len(made.manifest["certificate"]["entries"]["forward_cached"]["runs"]) >= 5
    kept = made.manifest["entries"]["forward_cached"]["cache"]["states"]
    assert [len(group) for group in kept] == [2 if cell == "LSTM" else 1] * 2
    with pytest.raises(Rejected) as refused:
        build(Request("lstm", sets=sets, render=False, out=tmp_path / "static", cache=STATIC))
    assert "keeps states of one size" in refused.value.diagnostics[0].message


SEQUENCES = """
from std.nn import Linear, Embedding
from std.rnn import LSTM
dim B, T, N
model S2S(vocab: int = 30, dim: int = 8) {
  embed: Embedding(vocab, dim)
  encoder: LSTM(dim, dim)
  decoder: LSTM(dim, dim)
  head: Linear(dim, vocab)
  forward(source: Int[B, N], ids: Int[B, T]) -> logits: Tensor[B, T, vocab] {
    m = encoder(embed(source))[:, -1]
    return head(decoder(embed(ids) + m[:, none]))
  }
}
"""


def test_a_layer_along_the_source_is_not_carried(tmp_path: Path) -> None:
    """Encoder and decoder are one block with the same sizes: only what goes along the step has states."""
    path = tmp_path / "s2s.spec"
    path.write_text(SEQUENCES)
    made = build(Request(str(path), render=False, out=tmp_path / "out", cache=CONCAT))
    kept = made.manifest["entries"]["forward_cached"]["cache"]["states"]
    assert [[one["input"] for one in group] for group in kept] == [["past_states.0.h", "past_states.0.c"]]


# ---- one small build -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cached") / "out"
    return make("gpt2", out, cache=CONCAT, verify=True).folder


def test_the_manifest_says_how_to_decode(built: Path) -> None:
    """Everything that a program which decodes has to know, without the spec."""
    entry = open_build(built).manifest["entries"]["forward_cached"]
    assert entry["onnx"] == "model.forward_cached.onnx"
    cache = entry["cache"]
    assert [cache[key] for key in ("of", "kind", "length", "context", "wide")] == [
        "forward",
        "concat",
        None,
        12,
        {"attention_mask": 1},
    ]
    names = [(kept["input"], kept["output"]) for group in cache["states"] for kept in group]
    assert names == [
        (f"past_key_values.{i}.{kind}", f"present.{i}.{kind}") for i in range(2) for kind in ("key", "value")
    ]
    session = open_build(built).session("forward_cached")
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask", *(name for name, _ in names)]
    assert session.get_inputs()[2].shape == ["B", 4, "past_sequence_length", 4]
    assert session.get_inputs()[1].shape == ["B", "total_sequence_length"]


def test_attention_takes_past_keys_itself(built: Path) -> None:
    """No Concat of keys, no transposed heads: one operator appends, and gives out what is kept."""
    import onnx

    graph = onnx.load(built / "model.forward_cached.onnx", load_external_data=False).graph
    attention = [node for node in graph.node if node.op_type == "Attention"]
    assert len(attention) == 2 and all(len(node.input) == 6 and len(node.output) == 3 for node in attention)
    assert all({a.name for a in node.attribute} >= {"q_num_heads", "kv_num_heads"} for node in attention)
    assert sum(output.name.startswith("present.") for output in graph.output) == 4


def test_a_cached_build_is_verified_again_from_its_folder(built: Path) -> None:
    certificate = repeat(built)
    [first, *_] = certificate.entries["forward_cached"].runs
    assert set(first.figures) == {"torch, cached", "onnxruntime", "onnxruntime, no optimisations"}
    import jsonschema

    jsonschema.validate(certificate.to_json(), schema())


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_the_context_ends_with_an_error(built: Path, engine: str) -> None:
    steps = open_steps(open_build(built), engine)
    steps.step({"input_ids": np.zeros((1, 12), np.int64), "attention_mask": np.ones((1, 12), bool)})
    with pytest.raises(Rejected) as refused:
        steps.step({"input_ids": np.zeros((1, 1), np.int64), "attention_mask": np.ones((1, 13), bool)})
    [found] = refused.value.diagnostics
    assert found.code == "S223" and "13 positions are more than the context has room for: 12" in found.message


def test_the_emitted_module_refuses_a_text_that_is_too_long(built: Path) -> None:
    module: Any = open_build(built).module()
    _, past = module.forward_cached(torch.zeros(1, 12, dtype=torch.long))
    with pytest.raises(ValueError, match="must be at most 12, found 13"):
        module.forward_cached(torch.zeros(1, 1, dtype=torch.long), past=past)


def test_the_emitted_module_reads_well_and_compiles(built: Path) -> None:
    source = str(next(built.glob("*.py")))
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--no-cache", "--line-length", "100", "--target-version", "py311", source]
    for command in (["check", "--select", "E4,E7,E9,F,I,UP,B"], ["format", "--diff"]):
        done = subprocess.run([*ruff, *command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    module = open_build(built).module()
    compiled = torch.compile(module.forward_cached, fullgraph=True, backend="eager")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        _, past = compiled(ids[:, :5])
        for at in (5, 6, 7):
            logits, past = compiled(ids[:, at : at + 1], past=past)
        torch.testing.assert_close(logits, module(ids)[:, -1:], rtol=0, atol=1e-5)


def test_beams_are_reordered(built: Path) -> None:
    for engine in ("onnxruntime", "torch"):
        steps = open_steps(open_build(built), engine)
        ids = np.array([[3, 4, 5], [6, 7, 8]])
        steps.step({"input_ids": ids, "attention_mask": np.ones((2, 3), bool)})
        steps.reorder([1, 1])
        logits = steps.step({"input_ids": np.array([[9], [9]]), "attention_mask": np.ones((2, 4), bool)})["logits"]
        whole = open_build(built).module()(torch.tensor([[6, 7, 8, 9]])).detach().numpy()[:, -1:]
        np.testing.assert_allclose(logits, np.repeat(whole, 2, 0), atol=1e-5)


SPEC = """
from std.nn import Linear, Embedding
dim B, T, S = past(T) + T
model LM(vocab: int = 20, dim: int = 8) {
  dim S <= 32
  wte: Embedding(vocab, dim)
  wpe: Embedding(32, dim)
  qkv: Linear(dim, 3*dim)
  forward(input_ids: Int[B, T], attention_mask: Bool[B, S]? = none) -> logits: Tensor[B, T, vocab] {
    x = wte(input_ids) + wpe(POSITIONS)
    q, k, v = qkv(x) |> rearrange([B, T, 3*dim] -> [3, B, 1, T, dim])
    k, v = cached(k, v, along = T)
    y = sdpa(q, k, v, mask = attention_mask, causal = true) |> rearrange([B, 1, T, dim] -> [B, T, dim])
    return y @ transpose(wte.weight, 0, 1)
  }
}
test LM "steps" with B = 2, T = 9 { expect incremental ~= forward within (atol = 1e-5) }
"""


def test_an_expectation_compares_steps_with_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "lm.spec"
    path.write_text(SPEC.replace("POSITIONS", "positions(T, mask = attention_mask)"))
    [report] = run_tests(str(path))
    assert [o.status for o in report.outcomes] == ["passed"]
    path.write_text(SPEC.replace("POSITIONS", "arange(T)"))
    [report] = run_tests(str(path))
    assert [o.diagnostic.code for o in report.outcomes if o.diagnostic] == ["D401"]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_wrong_step_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that begin at 0 in every step: exactly what the proof is for."""
    from specc.ops.positions import Positions

    monkeypatch.setattr(Positions, "onnx_step", lambda self, emit, step, mask: self.onnx(emit, None))
    with pytest.raises(Rejected) as refused:
        make("gpt2", tmp_path / "out", cache=CONCAT, verify=True, without=frozenset({"attention_mask"}))
    [found] = refused.value.diagnostics
    assert found.code == "B630" and "forward_cached differs from forward of the whole text" in found.message


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("specs/bert.spec", "--cache", "concat"), "`forward` of Bert has no cache"),
        (
            ("specs/gpt2.spec", "--preset", "gpt2-tiny", "--cache", "static=2000"),
            "longer than the context of GPT2: 1024",
        ),
        (("specs/gpt2.spec", "--cache", "static=0"), "expected concat, or static=N"),
        (("specs/gpt2.spec", "--cache", "rolling"), "expected concat, or static=N"),
    ],
)
def test_a_cache_that_cannot_be_is_an_error_with_the_way_out(
    words: tuple[str, ...], shown: str, tmp_path: Path
) -> None:
    root = Path(__file__).parents[1]
    done = specc("build", *words, "--no-weights", "--no-render", "-o", tmp_path / "out", cwd=root)
    assert done.returncode in (1, 2) and shown in done.stderr and "Traceback" not in done.stderr


ONE = """
from std.nn import Linear, Embedding
dim B, T, N, S = past(T) + T
model One(vocab: int = 50, dim: int = 16) {
  emb: Embedding(vocab, dim)
  q:   Linear(dim, dim)
  forward(input_ids: Int[B, T], memory: Tensor[B, N, dim]) -> y: Tensor[B, T, dim] {
    x = emb(input_ids)
    m = once(q(memory))
    k = cached(x, along = T)
    y = sdpa(q(x)[:, none], k[:, none], k[:, none], causal = true)[:, 0]
    return y + sdpa(q(y)[:, none], m[:, none], m[:, none])[:, 0]
  }
}
"""


def test_values_that_are_kept_alone(tmp_path: Path) -> None:
    """One value, not a pair of keys and values."""
    (tmp_path / "one.spec").write_text(ONE)
    made = build(Request(str(tmp_path / "one.spec"), cache=CONCAT, render=False, out=tmp_path / "out"))
    assert "agree" in made.proof
    names = [one["name"] for one in made.manifest["entries"]["forward_cached"]["interface"]["inputs"]]
    assert sorted(names) == ["input_ids", "past_key_values.0.k", "past_key_values.0.m"]


def test_a_static_cache_is_read_by_attention_alone(tmp_path: Path) -> None:
    """Rows that hold nothing yet would go into a sum; the growing cache has none (D406)."""
    path = tmp_path / "lm.spec"
    path.write_text(
        SPEC.replace("POSITIONS", "positions(T)").replace("    y = sdpa(q, k, v,", "    y = sdpa(q, k * 0.5, v,")
    )
    request = Request(str(path), render=False, out=tmp_path / "out")
    with pytest.raises(Rejected) as refused:
        build(replace(request, cache=Cache(16)))
    [found] = refused.value.diagnostics
    assert found.code == "D406" and found.help == "--cache concat" and found.span is not None
    assert found.span.text == "k * 0.5"
    assert "agree" in build(replace(request, cache=CONCAT)).proof


def test_a_build_without_a_cache_says_so(tmp_path: Path) -> None:
    plain = open_build(make("gpt2", tmp_path / "out").folder)
    with pytest.raises(Rejected) as refused:
        open_steps(plain)
    assert refused.value.diagnostics[0].code == "B620" and "--cache concat" in refused.value.diagnostics[0].help


@pytest.mark.parametrize("name", ["gpt", "transformer"])
def test_models_without_published_checkpoints_go_on_too(name: str, tmp_path: Path) -> None:
    made = make(name, tmp_path / "out", cache=CONCAT, verify=True)
    [cached] = [entry for entry in made.manifest["entries"] if entry.endswith("_cached")]
    assert len(made.manifest["certificate"]["entries"][cached]["runs"]) >= 5


# ---- encoder-decoders ------------------------------------------------------------------------------------------------


def small(family: Family) -> Family:
    return replace(family, small={**family.small, "decoder_start_token_id": 0, "pad_token_id": 0})


@pytest.mark.parametrize("family", [pytest.param(T5, id="t5"), pytest.param(BART, id="bart")])
def test_an_encoder_decoder_gives_the_tokens_of_transformers(family: Family, tmp_path: Path) -> None:
    """Keys of the encoder's output are computed once, those of the text step by step."""
    model = checkpoint(small(family), tmp_path / "checkpoint")
    out, weights = tmp_path / "out", str(tmp_path / "checkpoint")
    build(Request(family.spec, weights=weights, render=False, out=out, cache=CONCAT, entries=("encode", "decode")))
    ids = np.random.default_rng(0).integers(2, 53, (2, 9))
    mask = np.ones((2, 9), bool)
    mask[0, 5:] = False
    with torch.no_grad():
        expected = model.generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask).long(),
            do_sample=False,
            num_beams=1,
            max_new_tokens=24,
            min_new_tokens=24,
            eos_token_id=None,
            forced_eos_token_id=None,
            forced_bos_token_id=None,
        )[:, 1:].numpy()
    opened = open_build(out)
    once = opened.manifest["entries"]["decode_cached"]["cache"]["once"]
    assert once["onnx"] == "model.decode_once.onnx" and once["inputs"] == ["encoder_hidden_states"]
    assert once["states"][0][0]["input"] == "past_key_values.0.encoder.key"
    assert "encoder_hidden_states" not in [i.name for i in opened.session("decode_cached").get_inputs()]
    [memory] = opened.session("encode").run(None, {"input_ids": ids, "attention_mask": mask})
    for engine in ("onnxruntime", "torch"):
        steps = open_steps(opened, engine)
        fed, chosen = np.zeros((2, 1), np.int64), []
        for _ in range(24):
            visible = np.ones((2, steps.position + 1), bool)
            given = {"decoder_input_ids": fed, "encoder_attention_mask": mask, "decoder_attention_mask": visible}
            if steps.position == 0:
                given["encoder_hidden_states"] = memory
            fed = steps.step(given)["logits"][:, -1].argmax(-1, keepdims=True)
            chosen.append(fed)
        assert (np.concatenate(chosen, 1) == expected).all(), engine


def test_whisper_goes_on_from_its_cache(tmp_path: Path) -> None:
    """Cross-attention to sounds: token by token what transformers' model gives of the whole text so far."""
    model = checkpoint(WHISPER, tmp_path / "checkpoint")
    out, weights = tmp_path / "out", str(tmp_path / "checkpoint")
    build(Request("whisper", weights=weights, render=False, out=out, cache=CONCAT, entries=("encode", "decode")))
    sound = np.random.default_rng(0).standard_normal((2, 5, 22)).astype(np.float32)
    opened = open_build(out)
    [memory] = opened.session("encode").run(None, {"input_features": sound})
    steps = open_steps(opened)
    text, fed = np.ones((2, 1), np.int64), np.ones((2, 1), np.int64)
    for _ in range(15):
        visible = np.ones(text.shape, bool)
        given = {"decoder_input_ids": fed, "encoder_hidden_states": memory, "decoder_attention_mask": visible}
        fed = steps.step(given)["logits"][:, -1].argmax(-1, keepdims=True)
        with torch.no_grad():
            whole = model(input_features=torch.from_numpy(sound), decoder_input_ids=torch.from_numpy(text)).logits
        assert (fed[:, 0] == whole[:, -1].argmax(-1).numpy()).all()
        text = np.concatenate((text, fed), 1)
