"""Generating text: sampling as transformers does it, text as it comes, what is refused, where it runs."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import command, make, specc
from families import LLAMA, Family, checkpoint
from prompts import BACKENDS, CONCAT, PROMPTS
from test_cached import GPT2, LONG
from test_sampling import found
from test_tokens import TEXT, bpe

from specc.types import DType
from specc_runtime import Generator, Sampling, open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.companions import SpecialTokens
from specc_runtime.device_steps import DeviceSteps
from specc_runtime.quantised import parse
from specc_runtime.steps import OnnxSteps

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- one small build with a tokenizer --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its tokenizer, as transformers saves it."""
    folder = tmp_path_factory.mktemp("generate") / "checkpoint"
    checkpoint(GPT2, folder, vocab_size=320, bos_token_id=0, eos_token_id=0)
    bpe(320).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def built(saved: Path) -> Path:
    out = saved.parent / "out"
    build(Request("gpt2", weights=str(saved), render=False, verify=False, out=out, cache=CONCAT))
    return out


@pytest.fixture(scope="module")
def generator(built: Path) -> Generator:
    return Generator(built)


def test_a_build_takes_along_what_generating_needs(saved: Path, built: Path) -> None:
    content = open_build(built).manifest
    assert content["special_tokens"] == {"bos": 0, "eos": [0], "pad": None, "decoder_start": None}
    for name in ("tokenizer.json", "generation_config.json"):
        assert (built / name).read_bytes() == (saved / name).read_bytes()
        assert len(content["files"][name]["sha256"]) == 64


@pytest.mark.parametrize("seed", [1, 2])
def test_what_streams_is_the_whole_text(generator: Generator, seed: int) -> None:
    """Random tokens: bytes of half characters, spaces, characters of three and four bytes."""
    tokenizer = generator.tokenizer
    assert tokenizer is not None
    prompt = tokenizer.encode(TEXT).ids[:9]
    run = generator.stream(prompt, 60, sampling=Sampling(temperature=5.0, seed=seed))
    pieces = list(run)
    whole = tokenizer.decode([*prompt, *run.generation.tokens])[len(tokenizer.decode(prompt)) :]
    assert "".join(piece.text for piece in pieces) == run.generation.text == whole
    assert tuple(piece.token for piece in pieces) == run.generation.tokens


def test_generation_ends_at_a_stop_string(generator: Generator) -> None:
    free = generator.generate(PROMPTS[0], 30)
    at = len(free.text) // 2
    stop = free.text[at : at + 3]
    held = generator.generate(PROMPTS[0], 30, stop=[stop])
    assert held.text == free.text[: free.text.index(stop)] and held.rows[0].reason == "stop"
    assert len(held.tokens) < 30 and free.rows[0].reason == "length"


def test_generation_ends_with_the_ending_token(built: Path) -> None:
    """Rows of a batch end by themselves; what the others give is what they give alone."""
    generator = Generator(built)
    generator.special = SpecialTokens()
    alone = [generator.generate(prompt, 40).rows[0] for prompt in PROMPTS]
    ending = alone[0].tokens[10]
    generator.special = SpecialTokens(eos=(ending,))
    rows = generator.generate(PROMPTS, 40).rows
    for row, free in zip(rows, alone, strict=True):
        ends = ending in free.tokens
        kept = free.tokens[: free.tokens.index(ending) + 1] if ends else free.tokens
        assert (row.tokens, row.reason) == (kept, "eos" if ends else "length")
    assert rows[0].reason == "eos"


def test_the_context_ends_a_generation(generator: Generator) -> None:
    last = generator.generate([5] * 94, 60)
    assert len(last.tokens) == 3 and last.rows[0].reason == "context"
    assert len(generator.generate([5] * 96, 60).tokens) == 1
    refused = found(generator.generate, [5] * 97)
    assert refused.code == "G701" and refused.message == "the prompt has 97 tokens, the context room for 96"


# ---- sampling --------------------------------------------------------------------------------------------------------


def test_repetition_penalty_counts_for_greedy_decoding(generator: Generator) -> None:
    free, held = (
        generator.generate(PROMPTS[0], 40, sampling=Sampling(repetition_penalty=penalty)).tokens for penalty in (1, 50)
    )
    assert len(set(held)) == 40 > len(set(free)) and not set(held) & set(PROMPTS[0])


def test_a_seed_gives_the_same_tokens(built: Path, generator: Generator) -> None:
    def sample(seed: int | None, on: Generator = generator, top_k: int = 40) -> Any:
        return on.generate(PROMPTS[:2], 30, sampling=Sampling(temperature=1.5, top_k=top_k, top_p=0.95, seed=seed))

    first, again, other = sample(7), sample(7), sample(8)
    assert [row.tokens for row in first.rows] == [row.tokens for row in again.rows] != [r.tokens for r in other.rows]
    assert [row.tokens for row in sample(7, Generator(built, "torch")).rows] == [row.tokens for row in first.rows]
    drawn = sample(None)
    assert [row.tokens for row in sample(drawn.seed).rows] == [row.tokens for row in drawn.rows]
    greedy = generator.generate(PROMPTS[:2], 30)
    assert [row.tokens for row in sample(7, top_k=1).rows] == [row.tokens for row in greedy.rows]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_prompts_that_cannot_be_continued(generator: Generator, tmp_path: Path) -> None:
    assert found(generator.generate, [5, 320]).message == "token 320 of the prompt is none of the model's 320: 0 to 319"
    assert found(generator.generate, [-1]).code == "G703"
    assert found(generator.generate, "half \udce9").message == r"the prompt is not text: '\udce9' is half a character"
    assert found(generator.generate, [5], 0).code == "G707"
    plain = Generator(make("gpt2", tmp_path / "plain", cache=CONCAT, without=frozenset({"attention_mask"})).folder)
    assert found(plain.generate, "text").code == "G702"
    assert found(plain.generate, [1], stop=["x"]).code == "G702"
    assert found(plain.generate, []).code == "G704"
    unequal = found(plain.generate, [[1, 2], [3]])
    assert unequal.code == "G704" and "prompts of 1 to 2 tokens in one batch: the build has no mask" in unequal.message
    assert len(plain.generate([[1, 2], [3, 4]], 5).rows) == 2
    assert plain.generate([1, 2], 5).text == ""


def test_an_empty_prompt_begins_a_text(generator: Generator) -> None:
    assert generator.generate("", 10).tokens == generator.generate([0], 10).tokens


def test_a_tokenizer_of_another_model(built: Path, tmp_path: Path) -> None:
    tokenizer = bpe(320)
    tokenizer.add_tokens([f"more{n}" for n in range(325 - tokenizer.get_vocab_size())])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    refused = found(Generator, built, tokenizer=tmp_path)
    assert refused.code == "G703" and "is token 324, the model has 320 tokens" in refused.message
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    assert found(Generator, built, tokenizer=tmp_path).code == "G702"
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    assert found(Generator, built, tokenizer=tmp_path).code == "G702"
    assert found(Generator, built, tokenizer=tmp_path / "none").code == "G702"


def test_builds_that_do_not_generate(tmp_path: Path) -> None:
    refused = found(Generator, make("gpt2", tmp_path / "plain").folder)
    assert refused.code == "B620" and "--cache concat" in refused.help


def test_token_numbers_of_a_checkpoint_are_checked(saved: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    refused = found(
        build, Request("gpt2", weights=str(folder), render=False, verify=False, out=tmp_path / "out", cache=CONCAT)
    )
    assert refused.code == "E006" and "`eos_token_id` is '</s>': expected an int or a list of ints" in refused.message


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_streams_text_alone_to_stdout(built: Path, generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("The quick")
    expected = generator.generate("The quick", 12)
    for words in (["--prompt", "The quick"], ["--prompt-file", "prompt.txt"]):
        done = specc("generate", built, *words, "--max-tokens", 12, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, expected.text + "\n"), done.stderr
        assert "tokens/s; ended by: --max-tokens" in done.stderr
    done = specc("generate", built, "--prompt", "The quick", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.endswith("ended by: the end of the context, 96 positions\n")


def test_the_command_gives_tokens_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    out = make("gpt2", tmp_path / "plain", cache=CONCAT).folder
    tokens = Generator(out).generate([1, 2, 3], 6).tokens
    done = specc("generate", out, "--ids", "1,2,3", "--max-tokens", 6, "--no-stats", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (",".join(map(str, tokens)) + "\n", "")
    done = specc("generate", out, "--prompt", "text", cwd=tmp_path)
    assert done.returncode == 1 and "error[G702]" in done.stderr and "--ids" in done.stderr and done.stdout == ""


def test_the_command_tells_of_tokens_without_text(built: Path, tmp_path: Path) -> None:
    """As those of another model's smaller tokenizer: what is left out of the text is told."""
    bpe(260).save(str(tmp_path / "tokenizer.json"))
    words = ["--tokenizer", "tokenizer.json", "--ids", "1,2,3", "--no-stats", "--temperature", 9, "--seed", 0]
    done = specc("generate", built, *words, cwd=tmp_path)
    assert done.returncode == 0 and "the tokenizer knows 260 of the model's" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        ([], 2, "give one of --prompt TEXT, --prompt-file FILE and --ids 1,2,3"),
        (["--ids", "1,x"], 2, "expected token numbers"),
        (["--ids", "1", "--prompt", "a"], 2, "give one of"),
        (["--ids", "1", "--greedy", "--top-k", "3"], 2, "--greedy samples nothing"),
        (["--ids", "1", "--load", "instant", "--backend", "torch"], 2, "is of onnxruntime"),
        (["--ids", "1", "--top-p", "7"], 1, "error[G707]"),
        (["--prompt-file", "none.txt"], 1, "cannot read none.txt: No such file"),
        (["--prompt-file", "binary"], 1, "binary is not text: byte 1 is not UTF-8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(built: Path, words: list[str], code: int, shown: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from specc_runtime.cli import cli

    (tmp_path / "binary").write_bytes(b"a\xff\x00")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(cli, ["generate", str(built), *words])
    assert done.exit_code == code and shown in done.stderr and done.stdout == ""


def test_ctrl_c_ends_a_generation_with_its_statistics(tmp_path: Path) -> None:
    """A recurrent model has no context that would end it."""
    sets = {"vocab": "40", "dim": "8"}
    out = tmp_path / "out"
    build(Request("lstm", sets=sets, render=False, verify=False, out=out, cache=CONCAT))
    words = command("generate", out, "--ids", "1,2", "--max-tokens", 10**9)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        shown = running.stdout.read(20)
        running.send_signal(signal.SIGINT)
        rest, errors = running.stdout.read(), running.stderr.read()
    assert running.returncode == 130, errors
    text = shown + rest
    assert text.endswith("\n") and all(part.isdecimal() for part in text.strip().split(","))
    assert errors.endswith("ended by: interrupted\n") and "Traceback" not in errors


def test_a_closed_pipe_ends_a_generation(built: Path) -> None:
    words = command("generate", built, "--prompt", "The", "--max-tokens", 90)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        errors = running.stderr.read()
    assert running.returncode == 1 and errors == ""


# ---- where it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "opset"), [(GPT2, 24), (LLAMA, 23)], ids=["gpt2", "llama"])
def test_a_cache_of_fixed_length_is_one_buffer(family: Family, opset: int, tmp_path: Path) -> None:
    """It gives what a growing one gives, up to its last position, and again; kept on a device, too."""
    checkpoint(family, tmp_path / "checkpoint", **LONG if family is LLAMA else {})
    request = Request(family.spec, weights=str(tmp_path / "checkpoint"), render=False, verify=False, opset=opset)
    for name, cache in (("grows", CONCAT), ("fixed", Cache(40))):
        build(replace(request, out=tmp_path / name, cache=cache))
    grows, fixed = Generator(tmp_path / "grows"), Generator(tmp_path / "fixed")
    for generator in (grows, fixed):
        generator.special = SpecialTokens()
    for prompts in (PROMPTS, PROMPTS[:1]):
        expected = [row.tokens[: 40 - len(prompts[0]) + 1] for row in grows.generate(prompts, 60).rows]
        rows = fixed.generate(prompts, 60).rows
        assert [row.tokens for row in rows] == expected and {row.reason for row in rows} == {"context"}
    for generator in (grows, fixed):
        plain = generator.generate(PROMPTS, 20)
        steps = generator.steps
        assert isinstance(steps, OnnxSteps)
        generator.steps = DeviceSteps(steps.session, steps.cache, steps.of, steps.once, "cpu")
        assert generator.generate(PROMPTS, 20).rows == plain.rows
        generator.steps.reorder([1, 1, 0])
        mask = np.ones((3, generator.steps.position + 1), bool)
        logits = generator.steps.step({"input_ids": np.full((3, 1), 5), "attention_mask": mask})["logits"]
        np.testing.assert_array_equal(logits[0], logits[1])
        assert (logits[0] != logits[2]).any()
    refused = found(fixed.generate, [2] * 41)
    assert "the cache room for 40" in refused.message and "--cache static=41" in refused.help


@pytest.mark.parametrize("family", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_build_for_genai_generates(family: Family, tmp_path: Path) -> None:
    """Its short prompts are padded on the right, and go on where they end."""
    checkpoint(family, tmp_path / "checkpoint", **LONG if family is LLAMA else {})
    request = Request(family.spec, weights=str(tmp_path / "checkpoint"), render=False, verify=False)
    for name, cache in (("grows", CONCAT), ("genai", Cache(genai=True))):
        build(replace(request, out=tmp_path / name, cache=cache))
    for backend in BACKENDS:
        grows, genai = Generator(tmp_path / "grows", backend), Generator(tmp_path / "genai", backend)
        for generator in (grows, genai):
            generator.special = SpecialTokens()
        for prompts in (PROMPTS, PROMPTS[:1]):
            assert genai.generate(prompts, 60).rows == grows.generate(prompts, 60).rows


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_runs_of_one_generator(built: Path, backend: Any) -> None:
    """Each keeps its own state, whatever begins while it is under way; one stop string is one."""
    generator = Generator(built, backend)
    alone = [generator.generate(prompt, 6).tokens for prompt in PROMPTS[:2]]
    first, second = (generator.stream(prompt, 6) for prompt in PROMPTS[:2])
    pieces = [(next(first).token, next(second).token) for _ in alone[0]]
    assert [tuple(tokens) for tokens in zip(*pieces, strict=True)] == alone
    text = generator.generate("The quick", 6).text
    assert generator.generate("The quick", 6, stop=text[-2:]).text == text[: text.index(text[-2:])]


@pytest.mark.parametrize(
    ("settings", "limit"), [({"backend": "tensorflow"}, 1), ({"device": "tpu"}, 1), ({}, 2.5), ({}, 0)]
)
def test_settings_that_there_are_not(built: Path, settings: dict[str, Any], limit: Any) -> None:
    assert found(lambda: Generator(built, **settings).generate([1], limit)).code == "G707"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_device_that_is_not_there(built: Path, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = found(Generator, built, backend, "cuda")
    assert refused.code == "G706" and "--device cpu" in refused.help


def test_a_provider_that_does_not_load(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime would go on with the CPU and say nothing that a program sees."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    session = onnxruntime.InferenceSession
    without = lambda file, providers, **more: session(file, providers=providers[-1:], **more)  # noqa: E731
    monkeypatch.setattr(onnxruntime, "InferenceSession", without)
    assert found(Generator, built, device="cuda").code == "G706"


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_builds_in_narrow_types_generate(dtype: DType, tmp_path: Path) -> None:
    out = make("gpt2", tmp_path / "out", cache=CONCAT, dtype=dtype).folder
    tokens = Generator(out, "torch").generate([1, 2, 3], 5).tokens
    assert len(tokens) == 5
    if dtype is DType.F16:
        assert Generator(out).generate([1, 2, 3], 5).tokens == tokens
    else:
        refused = found(Generator, out)
        assert refused.code == "B660" and "does not run on cpu" in refused.message and "torch" in refused.help


def test_a_graph_that_is_damaged_or_not_there_has_the_way_out(tmp_path: Path) -> None:
    """A damaged file is no matter of dtypes."""
    out = make("gpt2", tmp_path / "out", cache=CONCAT).folder
    graph = out / "model.forward_cached.onnx"
    graph.write_bytes(graph.read_bytes()[:3000])
    refused = found(Generator, out)
    assert refused.code == "B660" and "build it again" in refused.help
    refused = found(Generator, graph)
    assert "is a file" in refused.message and str(out) in refused.help
    torch_only = make("gpt2", tmp_path / "torch", cache=CONCAT, emit=frozenset({"torch"}), verify=False).folder
    assert "--emit torch,onnx" in found(Generator, torch_only).help
    next(torch_only.glob("*.py")).unlink()
    assert ".py is missing" in found(Generator, torch_only, "torch").message
    bare = make("gpt2", tmp_path / "bare", cache=CONCAT, no_weights=True).folder
    for backend in BACKENDS:  # torch would draw its own
        assert "no weights to run with" in found(Generator, bare, backend).message


def without_fp32(out: Path) -> None:
    """Graphs in few bits and their weights are all that running them takes."""
    for file in [*out.glob("*.onnx"), *out.glob("*.safetensors")]:
        if ".int8." not in file.name:
            file.unlink()


@pytest.mark.parametrize("fuse", [None, "encode"])
def test_an_encoder_in_few_bits_generates(fuse: str | None, tmp_path: Path) -> None:
    """What is computed once is, too."""
    more: dict[str, Any] = {"quant": parse("int8"), "entries": ("encode", "decode")}
    out = make("transformer", tmp_path / "out", cache=Cache(fuse_once=fuse), **more).folder
    without_fp32(out)
    generator = Generator(out, quantized=True)
    generator.special = SpecialTokens(start=1)
    assert [len(row.tokens) for row in generator.generate([[5, 6, 7], [8]], 4).rows] == [4, 4]


def test_weights_in_few_bits_generate(tmp_path: Path) -> None:
    """The graph in int8 decodes as its whole text does; a build without one says so."""
    out = make("gpt2", tmp_path / "out", cache=CONCAT, quant=parse("int8")).folder
    text = [1, 2, 3]
    for _ in range(5):
        [logits] = (
            open_build(out)
            .session(quantized=True)
            .run(None, {"input_ids": np.array([text]), "attention_mask": np.ones((1, len(text)), bool)})
        )
        text.append(int(logits[0, -1].argmax()))
    assert list(Generator(out, quantized=True).generate([1, 2, 3], 5).tokens) == text[3:]
    without_fp32(out)
    assert list(Generator(out, quantized=True).generate([1, 2, 3], 5).tokens) == text[3:]
    refused = found(Generator, make("gpt2", tmp_path / "plain", cache=CONCAT).folder, quantized=True)
    assert refused.code == "B660" and "--quant" in refused.help
