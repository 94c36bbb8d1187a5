"""Trains six small systems from their specs, ships each as ONNX, and holds what the shipped graph does against a goal.

`make articles` prints the table, `python scripts/articles.py reverse tones` some of its rows; tests/test_articles.py
runs the same commands.
"""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SPECS = ROOT / "specs"
OUT = Path("runs/articles")
PROMPT = "Hugo the miller had a blue violin and three old barrels. One day Hugo went to the"


@dataclass(frozen=True)
class Found:
    """What a system reached, in words, and whether that is enough."""

    text: str
    met: bool


@dataclass(frozen=True)
class System:
    """`commands` are those of a user, with {out} for a folder; `measure` looks at what they left there."""

    name: str
    commands: tuple[str, ...]
    measure: Callable[[Path], Found]
    goal: str


# ---- what was shipped, on rows that it was not trained on ------------------------------------------------------------


def held_out(spec: str, name: str | None, run: Path, weights: Path | None = None) -> Any:
    """The rows that a section validates on, as they are fed to what `run` was built into."""
    from specc_runtime import open_build
    from specc_runtime.training.plan import check_data, plan
    from specc_runtime.training.section import open_section

    section = open_section(str(SPECS / spec), name, {}, str(weights) if weights is not None else None)
    counts = plan(section, None)
    assert counts.val is not None, f"{spec}: the section has no data to validate on"
    return check_data(section, counts.val, open_build(built(run)).interface("forward"))


def built(run: Path) -> Path:
    return run.with_name(f"{run.name}-onnx")


def answers(run: Path, rows: Any) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The logits that onnxruntime gives for each batch, and the batch."""
    from specc_runtime import open_build
    from specc_runtime.training.batches import loader

    session = open_build(built(run)).session()
    inputs = [one.name for one in session.get_inputs()]
    for batch in loader(rows, 50, None):
        arrays = {name: values.numpy() for name, values in batch.items()}
        if "attention_mask" in inputs and "attention_mask" not in arrays:  # running text has no padding
            arrays["attention_mask"] = np.ones(arrays["input_ids"].shape, np.bool_)
        yield session.run(["logits"], {name: arrays[name] for name in inputs})[0], arrays


def accuracy(run: Path, rows: Any, goal: float) -> Found:
    """Of the shipped graph."""
    right = [logits.argmax(-1) == batch["label"] for logits, batch in answers(run, rows)]
    found = float(np.concatenate(right).mean())
    return Found(f"{found:.1%} of {len(rows)} held-out rows", found >= goal)


def line(out: Path) -> Found:
    """Whether the loss falls and the boundary separates the three points."""
    from safetensors.numpy import load_file

    losses = [float(row["loss"]) for row in csv.DictReader((out / "line/metrics.csv").open()) if row["loss"]]
    weights = load_file(out / "line/model.safetensors")
    boundary = -weights["linear.bias"].item() / weights["linear.weight"].item()
    found = f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, boundary at {boundary:.2f}"
    return Found(found, losses[-1] < losses[0] / 2 and 0.5 < boundary < 2)


def bigrams(train: np.ndarray, rows: np.ndarray, vocab: int) -> float:
    """The perplexity of `rows` by counts of pairs in `train`, add-k smoothed with the k that is best for `rows`."""
    pairs = np.zeros((vocab, vocab))
    np.add.at(pairs, (train[:, :-1], train[:, 1:]), 1)
    seen, firsts = pairs[rows[:, :-1], rows[:, 1:]], pairs.sum(1)[rows[:, :-1]]
    smoothing = 10.0 ** np.arange(-4, 1)
    return float(min(np.exp(-np.log((seen + k) / (firsts + k * vocab)).mean()) for k in smoothing))


def stories(out: Path) -> Found:
    """The perplexity that the shipped graph has on held-out rows, and that of the bigram model of the same rows."""
    from specc_runtime.training.plan import plan
    from specc_runtime.training.section import open_section

    rows = held_out("gpt.spec", "stories", out / "stories")
    counts = plan(open_section(str(SPECS / "gpt.spec"), "stories", {}), None)
    assert counts.val is not None
    losses = []
    for logits, batch in answers(out / "stories", rows):
        targets, scores = batch["input_ids"][:, 1:, None], logits[:, :-1].astype(np.float64)
        losses.append(np.log(np.exp(scores).sum(-1)) - np.take_along_axis(scores, targets, -1)[..., 0])
    found = float(np.exp(np.concatenate(losses).mean()))
    train, held = (data.fields["input_ids"].array() for data in (counts.train, counts.val))
    pairs = bigrams(train, held, counts.train.vocabulary)
    return Found(f"perplexity {found:.2f}, that of bigrams {pairs:.2f}", found < pairs)


def reviews(out: Path) -> Found:
    """Held-out accuracy, the same in the shipped graph and in transformers, which loads the merged checkpoint."""
    import torch
    from transformers import BertForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    theirs = BertForSequenceClassification.from_pretrained(out / "reviews-hf").eval()
    rows = held_out("bert.spec", "reviews", out / "reviews", out / "ratings")
    right, apart = [], 0.0
    for logits, batch in answers(out / "reviews", rows):
        given = {name: torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad():
            reference = theirs(**given).logits.numpy()
        apart = max(apart, float(np.abs(logits - reference).max() / max(1.0, np.abs(reference).max())))
        right.append((logits.argmax(-1) == batch["label"]) & (reference.argmax(-1) == batch["label"]))
    found = float(np.concatenate(right).mean())
    text = f"{found:.1%} of {len(rows)} held-out rows; transformers agrees within {apart:.0e}"
    return Found(text, found > 0.9 and apart <= 1e-5)


def reverse(out: Path) -> Found:
    """Held-out words that encoder and decoder, as shipped, turn around: greedily, letter by letter, with the cache."""
    import json

    from specc_runtime import Generator

    generator = Generator(built(out / "reverse"))
    rows = [json.loads(row) for row in (SPECS / "data/reversals_test.jsonl").read_text("utf-8").splitlines()]
    found = generator.generate([row["word"] for row in rows], 12).rows
    right = np.mean([ours.text == row["back"] for ours, row in zip(found, rows, strict=True)])
    return Found(f"{right:.1%} of {len(rows)} held-out words", bool(right >= 0.99))


def shapes(out: Path) -> Found:
    return accuracy(out / "shapes", held_out("resnet.spec", "shapes", out / "shapes"), 0.95)


def tones(out: Path) -> Found:
    return accuracy(out / "tones", held_out("keyword.spec", "tones", out / "tones"), 0.95)


SYSTEMS = (
    System(
        "line",
        (
            "specc train specs/linear.spec --out {out}/line",
            "specc build specs/linear.spec --weights {out}/line -o {out}/line-onnx",
        ),
        line,
        "the loss falls, the boundary separates the points",
    ),
    System(
        "stories",
        (
            "specc train specs/gpt.spec stories --out {out}/stories",
            "specc build specs/gpt.spec --weights {out}/stories --cache concat -o {out}/stories-onnx",
            f'specc generate {{out}}/stories-onnx --prompt "{PROMPT}" --max-tokens 60',
        ),
        stories,
        "perplexity below that of bigrams",
    ),
    System(
        "reviews",
        (
            "specc train specs/bert.spec ratings --out {out}/ratings",
            "specc train specs/bert.spec reviews --weights {out}/ratings --out {out}/reviews",
            "specc build specs/bert.spec --weights {out}/reviews -o {out}/reviews-onnx",
            "specc export {out}/reviews-onnx --to hf:{out}/reviews-hf",
        ),
        reviews,
        "> 90%, the same in transformers",
    ),
    System(
        "reverse",
        (
            "specc train specs/transformer.spec reverse --out {out}/reverse",
            "specc build specs/transformer.spec --weights {out}/reverse --entry encode --entry decode --cache concat"
            " -o {out}/reverse-onnx",
            "specc generate {out}/reverse-onnx --prompt pickle --max-tokens 12",
        ),
        reverse,
        ">= 99%",
    ),
    System(
        "shapes",
        (
            "specc train specs/resnet.spec shapes --out {out}/shapes",
            "specc build specs/resnet.spec --weights {out}/shapes -o {out}/shapes-onnx",
        ),
        shapes,
        ">= 95%",
    ),
    System(
        "tones",
        (
            "specc train specs/keyword.spec tones --out {out}/tones",
            "specc build specs/keyword.spec --weights {out}/tones -o {out}/tones-onnx",
        ),
        tones,
        ">= 95%",
    ),
)


# ---- the table -------------------------------------------------------------------------------------------------------


def run(command: str) -> None:
    """A command of the table, as a user gives it; what it prints is shown."""
    print(f"\n$ {command}", flush=True)
    words = [str(Path(sys.executable).with_name("specc")), *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"articles: the command above ended with {done.returncode}")


def main(names: list[str]) -> int:
    """Run the systems, all if none is named; 1 if one missed its goal."""
    import shutil

    unknown = set(names) - {system.name for system in SYSTEMS}
    if unknown:
        sys.exit(f"articles: there is no {', '.join(sorted(unknown))}: {', '.join(s.name for s in SYSTEMS)}")
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    rows = []
    for system in SYSTEMS:
        if names and system.name not in names:
            continue
        began = time.monotonic()
        for command in system.commands:
            run(command.format(out=OUT))
        seconds = time.monotonic() - began
        found = system.measure(ROOT / OUT)
        rows.append((system.name, f"{seconds:.0f} s", found.text, system.goal, "met" if found.met else "MISSED"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for picture in sorted((ROOT / OUT).glob("*-onnx/model.svg")):
        print(f"  {picture.relative_to(ROOT)}")
    return int(any(row[-1] != "met" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
