"""The train sections of the zoo run on data of the form that they ask for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from training_data import SENTENCES

from specc_runtime.training.run import Request, train

pytestmark = pytest.mark.usefixtures("one_thread", "offline")

ROOT = Path(__file__).parent.parent

PAIRS = {
    "en": ["the cat sat", "a dog ran away now", "no"] * 6,
    "de": ["die katze saß", "ein hund lief jetzt weg", "nein"] * 6,
}
SMALL = {"dim": "16", "heads": "2", "layers": "1", "batch": "4"}
ZOO: dict[str, tuple[str, str, dict[str, str]]] = {
    "mlp": ("mnist", 'hf_dataset("mnist", image = flatten(column("image") / 255), label = column("label"))', {}),
    "keyword": ("speech_commands", "",
                {"batch": "4", "val": "split(0.5)", "classes": "2", "channels": "8", "hidden": "8"}),
    "unet": ("", 'image_folder("images/", image = pixels(size = 8, range = (-1.0, 1.0)))',
             {"base": "8", "mults": "[1, 2]", "batch": "2"}),
    "transformer": ("wmt14",
                    'hf_dataset("wmt14/", "de-en", input_ids = tokens("en"), decoder_input_ids = tokens("de"), '
                    "tokenizer = bpe(vocab))", {**SMALL, "batch": "tokens(60)", "vocab": "300", "hidden": "16",
                    "metrics": "[]", "devices": "1", "strategy": '"auto"', "precision": '"32"'}),
    "bert": ("sst2", 'hf_dataset("sst2/", text = "sentence", label = "label", tokenizer = "hf:bert")',
             {**SMALL, "vocab": "90", "hidden": "16", "context": "32", "weights": "none", "lora": "none"}),
    "gpt": ("pretrain", "", {**SMALL, "vocab": "300", "hidden": "16", "context": "16", "val_every": "2",
                     "sched": "cosine(warmup = 1)"}),
    "gpt2": ("", 'text("data/*.txt", tokenizer = "hf:bert", length = context)',
             {**SMALL, "vocab": "90", "context": "16", "accumulate": "2", "precision": '"32"'}),
    "dit": ("", "", {"dim": "16", "heads": "2", "layers": "1", "batch": "2"}),
    "lstm": ("", 'text("data/*.txt", tokenizer = "bytes", length = 35)', {"dim": "8", "batch": "4", "vocab": "256"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_sections_of_the_zoo_run_on_data_of_their_form(name: str, sentences: Path, sounds: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)) for _ in range(20)]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    rows = {"image": images, "label": [i % 10 for i in range(20)]}
    made = {
        "mnist": datasets.Dataset.from_dict(rows, features=kinds),
        "wmt14": datasets.DatasetDict({"train": datasets.Dataset.from_dict(PAIRS)}),
        "sst2": datasets.Dataset.from_dict({"sentence": list(SENTENCES) * 2, "label": [0, 1] * 4}),
    }
    for key, found in made.items():
        found.save_to_disk(sentences / key)
    (sentences / "images").mkdir()
    images[0].save(sentences / "images/0.png")
    images[1].resize((20, 30)).save(sentences / "images/1.png")
    (sounds / "words").rename(sentences / "speech_commands")
    latent = rng.standard_normal((6, 4, 8, 8)).astype(np.float32)
    np.savez(sentences / "latents.npz", latent=latent, label=rng.integers(0, 10, 6))
    (sentences / "data").mkdir()
    (sentences / "data/a.txt").write_text("the cat sat on the mat, a dog ran away. " * 40)
    shutil.copy(ROOT / f"specs/{name}.spec", sentences)
    section_name, data, sets = ZOO[name]
    sets = {**sets, "data": data} if data else sets
    said: list[str] = []
    target = str(sentences / f"{name}.spec")
    train(Request(target, section_name or None, sets, out=sentences / "run", max_steps=2), said.append)
    record = json.loads((sentences / "run/run.json").read_text())
    assert record["status"] == "finished" and np.isfinite(record["metrics"]["loss"])
    assert (sentences / "run/tokenizer.json").exists() == ("tokenizer" in record["settings"]["data"])
