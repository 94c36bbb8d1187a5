"""Steps of training: the emitted GPT-2 against one written by hand and transformers', and Lightning's Trainer as
`specc train` sets it up against a plain loop.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from benchmarks.measuring import GPT2, SPECC, Record, interleaved, run

from specc_runtime.threads import yielding

yielding()

Cells = Callable[[str, str, str, float | str], None]
SIZES = {
    "10M": {"vocab": 65, "context": 256, "dim": 384, "layers": 6, "heads": 6},
    "124M": {"vocab": 50_257, "context": 1024, "dim": 768, "layers": 12, "heads": 12},
    "tiny": {"vocab": 65, "context": 256, "dim": 64, "layers": 2, "heads": 4},
}
BATCHES = {"10M": (4, 128), "124M": (1, 128), "tiny": (2, 32)}
ROUNDS = {"10M": 40, "124M": 9, "tiny": 5}


def built(folder: Path, sizes: dict[str, int]) -> Any:
    """The emitted module, without dropout."""
    from specc_runtime import open_build

    sets = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
    options = ["--without", "attention_mask", "--emit", "torch", "--no-verify", "--no-render", "-o", folder]
    run([SPECC, "build", GPT2, *sets, "--set", "dropout=0.0", *options])
    return open_build(folder).module()


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("name", ["10M", "124M"])
def test_step(
    name: str, how: str, benchmark: Any, record: Record, cell: Cells, quick: bool, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Forward, loss, backward and AdamW, of one batch over and over; the same weights in all three."""
    import torch
    from benchmarks.trainingside import ByHand, step, transformers_gpt2

    if quick and name == "124M":
        pytest.skip("of small models only, with --quick")
    if how == "compiled" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    name = "tiny" if request.config.getoption("--tiny") else name
    sizes, (batch, length) = SIZES[name], BATCHES[name]
    torch.manual_seed(0)
    mine = built(tmp_path / "gpt2", sizes)
    weights = {key: tensor.clone() for key, tensor in mine.state_dict().items()}
    hand = ByHand(sizes["vocab"], sizes["context"], sizes["dim"], sizes["layers"], sizes["heads"])
    hand.load_state_dict(weights)
    modules = {"specc": mine, "by hand": hand, "transformers": transformers_gpt2(weights, sizes)}
    ids = torch.randint(0, sizes["vocab"], (batch, length))
    works = {}
    for peer, module in modules.items():
        called = torch.compile(module) if how == "compiled" else module
        logits = (lambda x, f=called: f(x, use_cache=False).logits) if peer == "transformers" else called
        works[peer] = step(logits, module.train(), repeat(ids))
    first = [work() for work in works.values()]
    np.testing.assert_allclose(first, first[0], rtol=1e-4)  # the same model, and all are warm
    interleaved(2, *works.values())
    taken = interleaved(ROUNDS[name], *works.values())
    benchmark.pedantic(works["specc"], rounds=3)
    for peer, seconds in zip(works, taken, strict=True):
        cell(f"Training GPT-2 {name} at {batch}x{length}, fp32, tokens/s", peer, how, batch * length / seconds)
    record(f"a training step of GPT-2 {name}, {how}", taken[0], unit="s")
    record("  the best of by hand and transformers / specc", min(taken[1:]) / taken[0], unit="x", at_least=1.0)


SECTION = """
train GPT2 "measured" {
  data  = npz("ids.npz", input_ids = "ids")
  loss  = cross_entropy(logits[:, :-1], input_ids[:, 1:])
  optim = adamw(lr = 6e-4, betas = (0.9, 0.95), weight_decay = 0.1)
  batch = BATCH
  steps = STEPS
  seed  = 0
}
"""


def turns(plain: Callable[[Any], Callable[[], object]]) -> Any:
    """A callback that lets a step of a plain loop follow each step of the Trainer, and takes the time of both."""
    from lightning.pytorch.callbacks import Callback

    class Turns(Callback):
        def __init__(self) -> None:
            self.trainer: list[float] = []
            self.plain: list[float] = []

        def on_train_start(self, trainer: Any, fit: Any) -> None:
            self.work = plain(fit)
            self.since = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, fit: Any, outputs: Any, batch: Any, index: int) -> None:
            between = time.perf_counter()
            self.trainer.append(between - self.since)
            self.work()
            self.since = time.perf_counter()
            self.plain.append(self.since - between)

    return Turns()


def test_trainer(
    benchmark: Any, record: Record, quick: bool, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`specc train` with its defaults: loss and rate are logged, states kept, every loss is looked at."""
    from benchmarks.trainingside import step

    from specc_runtime.training import loop
    from specc_runtime.training.batches import loader
    from specc_runtime.training.run import Request, train

    name, steps = ("tiny" if request.config.getoption("--tiny") else "10M"), 30 if quick else 100
    sizes, (batch, length) = SIZES[name], BATCHES[name]
    rows = np.random.default_rng(0).integers(0, sizes["vocab"], (batch * (steps + 1), length))
    np.savez(tmp_path / "ids.npz", ids=rows)
    section = SECTION.replace("BATCH", str(batch)).replace("STEPS", str(steps))
    text = GPT2.read_text("utf-8").partition("\ntrain ")[0] + section
    (tmp_path / "gpt2.spec").write_text(text, "utf-8")

    def plain(fit: Any) -> Callable[[], object]:
        """The same model, batches and optimiser, by hand."""
        module = copy.deepcopy(fit.model)
        return step(module, module, (given["input_ids"] for given in loader(fit.plan.train, batch, 1)))

    found = turns(plain)
    monkeypatch.setattr(loop, "averaging", lambda section: [found])  # a further callback, the first of them
    sets = {key: str(value) for key, value in sizes.items()} | {"dropout": "0.0"}
    benchmark.pedantic(
        lambda: train(Request(str(tmp_path / "gpt2.spec"), "measured", sets, tmp_path / "run")), rounds=1
    )
    ours, theirs = found.trainer[3:], found.plain[3:]
    assert len(ours) == steps - 3
    record(f"a step of `specc train`, GPT-2 {name}", median(ours), unit="s")
    record("  / a plain loop", median(a / b for a, b in zip(ours, theirs, strict=True)), unit="x", at_most=1.05)
