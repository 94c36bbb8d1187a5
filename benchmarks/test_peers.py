"""GPT-2 124M and a Llama of 110M against other exporters' graphs of the same checkpoint, in the same run.

Graphs are taken in turns, so that what else the machine does hits all alike; figures are medians. A peer that is
not there, or fails, has the reason in its place.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from benchmarks import exports
from benchmarks.driving import Decoder, ids, session
from benchmarks.exports import (
    CONCAT,
    FORWARD,
    GENAI,
    LINK,
    LINKED,
    OTHERS,
    OURS,
    QUANTISED,
    STATIC,
    TORCH_CACHE,
    Exports,
    Model,
)
from benchmarks.measuring import ZOO, Record, interleaved, run
from benchmarks.torchside import Torch

Cells = Callable[[str, str, str, float | str], None]
EAGER, COMPILED = "torch eager", "torch.compile"


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A checkpoint as Hugging Face writes it, of random weights, and a tokenizer, which genai's builder asks for."""
    import torch
    import transformers

    name, keep = request.param, request.config.getoption("--keep")
    is_tiny = bool(request.config.getoption("--tiny"))
    title = {"gpt2": "GPT-2 124M", "llama": "Llama 110M"}[name] + (" (two layers)" if is_tiny else "")
    context, vocab = (1024, 50_257) if name == "gpt2" else (2048, 32_000)
    root = Path(keep) if keep else tmp_path_factory.mktemp("peers")
    checkpoint = root / f"{name}{'-tiny' if is_tiny else ''}" / "checkpoint"
    if not (checkpoint / "model.safetensors").exists():
        torch.manual_seed(0)
        layers = 2 if is_tiny else 12
        made: Any
        if name == "gpt2":
            made = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers))
        else:
            config = transformers.LlamaConfig(
                vocab_size=vocab,
                hidden_size=768,
                intermediate_size=2048,
                num_hidden_layers=layers,
                num_attention_heads=12,
                num_key_value_heads=4,
                max_position_embeddings=context,
            )
            made = transformers.LlamaForCausalLM(config)
        made.save_pretrained(checkpoint)
        _tokenizer(checkpoint, vocab)
    yield Model(title, ZOO / f"{name}.spec", checkpoint, context, vocab, width=64, linkable=name != "gpt2")
    gc.collect()


def _tokenizer(folder: Path, vocab: int) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="t0"))
    make: Any = PreTrainedTokenizerFast
    make(tokenizer_object=words, unk_token="t0", eos_token="t1").save_pretrained(folder)


@pytest.fixture(scope="module")
def made(model: Model) -> Exports:
    """The fp32 graphs of all exporters."""
    found = Exports(model, model.checkpoint.parent)
    found.make(OURS)
    found.make(OTHERS)
    if CONCAT in found.graphs:  # the same build has the graph without a cache, which gives logits of all positions
        kept = found.graphs[CONCAT]
        forward = {**vars(kept), "name": FORWARD, "file": kept.file.with_name("model.onnx")}
        found.graphs[FORWARD] = exports.Graph(**forward)
    return found


@pytest.fixture(scope="module")
def drivers(model: Model, made: Exports, quick: bool) -> dict[str, Any]:
    """Everything that computes logits, by name."""
    found: dict[str, Any] = {name: _open(model, made, name) for name in made.graphs}
    found[EAGER] = Torch(model.checkpoint, vocab=model.vocab)
    return found


def _open(model: Model, made: Exports, name: str) -> Decoder:
    return Decoder(
        session(made.graphs[name].file),
        width=model.width,
        room=model.context,
        buffer=name.startswith(GENAI),
        vocab=model.vocab,
    )


def test_export(benchmark: Any, record: Record, cell: Cells, model: Model, made: Exports, tmp_path: Path) -> None:
    benchmark.pedantic(lambda: run(exports.whole_build(model, tmp_path / "out")), rounds=3)
    table = f"{model.name}: export, fp32"
    linked = Exports(model, made.folder)  # of its own: its graph is that of the other
    linked.make(LINKED)
    for name, graph in {**made.graphs, **linked.graphs}.items():
        if name == FORWARD:
            continue
        cell(table, name, "process, s", graph.seconds)
        cell(table, name, "without imports, s", graph.inside)
        cell(table, name, "peak memory, MB", graph.rss / 1e6)
        cell(table, name, "on disk, MB", graph.bytes() / 1e6)
        cell(table, name, "nodes", graph.nodes())
    _say_missing(cell, table, made, "process, s")
    for name, why in linked.missing.items():
        cell(table, name, "process, s", why)
    if CONCAT not in made.graphs:
        pytest.fail(f"{CONCAT}: {made.missing[CONCAT]}")
    mine = linked.graphs.get(LINK, made.graphs[CONCAT])
    for peer, inside, whole in ((TORCH_CACHE, 0.01, 0.1), (GENAI, 0.02, 0.2)):
        if peer in made.graphs:
            theirs = made.graphs[peer]
            what = f"{model.name}: export, {mine.name} / {peer}"
            record(f"{what}, without imports", mine.inside / theirs.inside, unit="x", at_most=inside)
            record(f"{what}, whole process", mine.seconds / theirs.seconds, unit="x", at_most=whole)
    record(f"{model.name}: export, peak memory of {mine.name}", mine.rss / 1e6, unit="MB", at_most=100.0)
    fewest, count = min(
        ((n, g.nodes()) for n, g in made.graphs.items() if not n.startswith("specc")), key=lambda p: p[1]
    )
    record(f"{model.name}: nodes, specc / {fewest}", mine.nodes() / count, unit="x", at_most=0.5)


def test_load(benchmark: Any, record: Record, cell: Cells, model: Model, made: Exports, quick: bool) -> None:
    table = f"{model.name}: session load, fp32, s"
    names = [*made.graphs]
    works = [lambda f=made.graphs[name].file: session(f) for name in names]
    interleaved(1, *works)  # the files are in memory now
    taken = dict(zip(names, interleaved(2 if quick else 5, *works), strict=True))
    instant = interleaved(2 if quick else 5, lambda: session(made.graphs[CONCAT].file, instant=True))[0]
    benchmark.pedantic(works[names.index(CONCAT)], rounds=1)
    for name, figure in {**taken, f"{CONCAT}, without prepacking": instant}.items():
        cell(table, name, "load", figure)
    _say_missing(cell, table, made, "load")
    _ratio(record, f"{model.name}: session load", taken, (CONCAT, STATIC), None, at_most=1.0)
    record(f"{model.name}: session load without prepacking", instant, unit="s", at_most=0.1)


def test_same_logits(benchmark: Any, cell: Cells, model: Model, made: Exports, drivers: dict[str, Any]) -> None:
    """What is compared computes the same thing: prefill, then one position more, against transformers."""
    given = ids(1, 24, model.vocab)
    expected = drivers[EAGER].logits(given)[0]
    table = f"{model.name}: largest difference from transformers' logits"
    for name in made.graphs:
        driver = drivers[name]
        if driver.states:
            before, after = driver.continued(given)
            cell(table, name, "prefill", float(np.abs(before - expected[-2]).max()))
            cell(table, name, "decode", float(np.abs(after - expected[-1]).max()))
            if name.startswith("specc"):
                np.testing.assert_allclose(before, expected[-2], rtol=0, atol=1e-4)
                np.testing.assert_allclose(after, expected[-1], rtol=0, atol=1e-4)
        else:
            found = driver.prepared(given, 0)()["logits"].numpy()[0]
            cell(table, name, "prefill", float(np.abs(found - expected).max()))
    benchmark.pedantic(lambda: drivers[CONCAT].continued(given), rounds=1)


@pytest.mark.parametrize("batch", [1, 8], ids=["1x128", "8x128"])
def test_prefill(
    benchmark: Any,
    record: Record,
    cell: Cells,
    model: Model,
    made: Exports,
    drivers: dict[str, Any],
    quick: bool,
    batch: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Graphs without a cache and peers' give logits of all positions, ours with one those of the last position."""
    size, table = f"{batch}x128", f"{model.name}: prefill, fp32, ms"
    taken_part = dict(drivers)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # another run may have left half a file
    if batch == 1 or not quick:
        taken_part[COMPILED] = Torch(model.checkpoint, vocab=model.vocab, is_compiled=True)
    works = {name: driver.prefill(batch, 128) for name, driver in taken_part.items()}
    try:
        works.get(COMPILED, lambda: None)()
    except RuntimeError as error:  # the compiler of C++ that it needs may be missing, for instance
        del works[COMPILED]
        cell(table, COMPILED, size, f"failed: {str(error).splitlines()[0][:90]}")
    taken = _taken(works, {1: 7, 8: 2}[batch] if quick else {1: 21, 8: 7}[batch])
    benchmark.pedantic(works[CONCAT], rounds=1)
    _fill(cell, table, made, taken, size)
    whole = {name: t for name, t in taken.items() if name not in (CONCAT, STATIC)}
    _ratio(record, f"{model.name}: all logits of {size}", whole, (FORWARD,), None, at_most=1.0)
    _ratio(record, f"{model.name}: prefill for generation {size}", taken, (CONCAT, STATIC), None, at_most=0.78)


@pytest.mark.parametrize("past", [128, 1000, 2000])
def test_decode(
    benchmark: Any,
    record: Record,
    cell: Cells,
    model: Model,
    made: Exports,
    drivers: dict[str, Any],
    quick: bool,
    past: int,
) -> None:
    if past >= model.context:
        pytest.skip(f"{model.name} reads {model.context} positions")
    rounds = 24 if quick else 80
    graphs = [name for name, driver in drivers.items() if not isinstance(driver, Torch) and driver.states]
    taken = _taken_anew(lambda name: _open(model, made, name).decode(past), graphs, rounds)
    taken |= _taken({EAGER: drivers[EAGER].decode(past)}, rounds)
    benchmark.pedantic(drivers[CONCAT].decode(past), rounds=3)
    _fill(cell, f"{model.name}: decode, fp32, ms a token", made, taken, f"after {past}")
    _fill(cell, f"{model.name}: decode, fp32, tokens a second", made, taken, f"after {past}", lambda t: 1 / t)
    goal = 0.75 if past == 128 else 0.6
    _ratio(record, f"{model.name}: decode after {past}", taken, (CONCAT, STATIC), TORCH_CACHE, at_most=goal)
    _ratio(record, f"{model.name}: decode after {past}", taken, (CONCAT, STATIC), GENAI, at_most=1.0)


def test_chunk(benchmark: Any, cell: Cells, model: Model, made: Exports, drivers: dict[str, Any], quick: bool) -> None:
    """Sixteen positions more of four texts at once, after 128 each."""
    column, table = "4 x 16 after 128", f"{model.name}: chunked prefill, fp32, ms"
    given, works = ids(4, 16, model.vocab), {}
    for name, driver in drivers.items():
        if isinstance(driver, Torch) or not driver.states:
            continue
        work = driver.prepared(given, 128)
        try:
            work()
        except RuntimeError as error:
            cell(table, name, column, "refused: " + str(error).rpartition("Message: ")[2].splitlines()[0][:90])
        else:
            works[name] = work
    taken = _taken(works, 4 if quick else 15)
    benchmark.pedantic(works[CONCAT], rounds=1)
    _fill(cell, table, made, taken, column)


def test_quantised(benchmark: Any, record: Record, cell: Cells, model: Model, made: Exports, quick: bool) -> None:
    """int8 and int4 against one another and against fp32: time, size, and how far off the logits are."""
    made.make(QUANTISED)
    names = [exporter.name for exporter in QUANTISED if exporter.name in made.graphs]
    table = f"{model.name}: int8 and int4"
    drivers = {name: _open(model, made, name) for name in names}
    given = ids(1, 64, model.vocab)
    expected = Torch(model.checkpoint, vocab=model.vocab).logits(given)[0, -1]
    errors = {}
    for name in names:
        after = drivers[name].continued(given)[1]
        errors[name] = float(np.sqrt(np.mean((after - expected) ** 2) / np.mean(expected**2)))
    prefill = _taken({n: d.prefill(1, 128) for n, d in drivers.items()}, 5 if quick else 15)
    rounds = 24 if quick else 80
    near = _taken_anew(lambda name: _open(model, made, name).decode(128), names, rounds)
    far = _taken_anew(lambda name: _open(model, made, name).decode(1000), names, rounds)
    for name in names:
        graph = made.graphs[name]
        cell(table, name, "prefill 1x128, ms", prefill[name] * 1e3)
        cell(table, name, "decode after 128, ms", near[name] * 1e3)
        cell(table, name, "after 1000, ms", far[name] * 1e3)
        cell(table, name, "RMS error of logits", errors[name])
        cell(table, name, "on disk, MB", graph.bytes() / 1e6)
        cell(table, name, "export process, s", graph.seconds)
    for exporter in QUANTISED:
        if exporter.name in made.missing:
            cell(table, exporter.name, "prefill 1x128, ms", made.missing[exporter.name])
    benchmark.pedantic(lambda: None, rounds=1)
    ours8, ours4 = (exports.OURS_INT8, exports.OURS_INT8_STATIC), (exports.OURS_INT4,)
    what = f"{model.name}, int8"
    _ratio(record, f"{what}: prefill", prefill, ours8, exports.TORCH_INT8, at_most=0.5)
    _ratio(record, f"{what}: decode after 128", near, ours8, exports.TORCH_INT8, at_most=0.6)
    _ratio(record, f"{what}: decode after 1000", far, ours8, exports.TORCH_INT8, at_most=0.4)
    _ratio(record, f"{what}: prefill", prefill, ours8, exports.GENAI_INT4, at_most=0.33)
    _ratio(record, f"{what}: error", errors, ours8, exports.GENAI_INT4, at_most=0.2)
    what = f"{model.name}, int4"
    _ratio(record, f"{what}: prefill", prefill, ours4, exports.GENAI_INT4, at_most=0.75)
    _ratio(record, f"{what}: decode after 128", near, ours4, exports.GENAI_INT4, at_most=0.9)


# ---- filling tables --------------------------------------------------------------------------------------------------


def _taken(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each: graphs in turns, then torch in turns, whose threads wait actively after each call and
    would take the processor from what comes next."""
    found: dict[str, float] = {}
    for is_torch in (False, True):
        group = {name: work for name, work in works.items() if (name in (EAGER, COMPILED)) is is_torch}
        interleaved(1, *group.values())  # warm
        found |= zip(group, interleaved(rounds, *group.values()), strict=True)
    return found


def _taken_anew(
    opened: Callable[[str], Callable[[], object]], names: Sequence[str], rounds: int, loads: int = 4
) -> dict[str, float]:
    """Median seconds of each, a part of the rounds with sessions opened in this order, the next in another.

    A step is bound by memory, and where in it weights came to lie decides up to 15% of it: two sessions of one file
    differ by that much, and those opened first are the slower ones."""
    medians: dict[str, list[float]] = {name: [] for name in names}
    for load in range(loads):
        first = load * len(names) // loads
        works = {name: opened(name) for name in (*names[first:], *names[:first])}
        interleaved(1, *works.values())  # warm
        for name, figure in zip(works, interleaved(rounds // loads, *works.values()), strict=True):
            medians[name].append(figure)
        works.clear()  # the memory is free before the next ones ask for it
        gc.collect()
    return {name: median(figures) for name, figures in medians.items()}


def _fill(
    cell: Cells,
    table: str,
    made: Exports,
    taken: Mapping[str, float],
    column: str,
    scale: Callable[[float], float] = lambda t: t * 1e3,
) -> None:
    for name, figure in taken.items():
        cell(table, name, column, scale(figure))
    _say_missing(cell, table, made, column)


def _say_missing(cell: Cells, table: str, made: Exports, column: str) -> None:
    for exporter in (*OURS, *OTHERS):
        if exporter.name in made.missing:
            cell(table, exporter.name, column, made.missing[exporter.name])


def _ratio(
    record: Record, what: str, taken: Mapping[str, float], ours: tuple[str, ...], peer: str | None, *, at_most: float
) -> None:
    """The better one of our forms to a peer, or to the best one."""
    mine = {name: taken[name] for name in ours if name in taken}
    others = {name: figure for name, figure in taken.items() if not name.startswith("specc") and peer in (None, name)}
    if mine and others:
        best, theirs = min(mine, key=mine.__getitem__), min(others, key=others.__getitem__)
        record(f"{what}, {best} / {theirs}", mine[best] / others[theirs], unit="x", at_most=at_most)
