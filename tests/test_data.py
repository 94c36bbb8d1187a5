"""Data of train sections: every source gives the rows it holds, mistakes are told before training."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import WhisperFeatureExtractor

from specc import report
from specc.diagnostics import Rejected
from specc_runtime.training.batches import loader
from specc_runtime.training.data import columns
from specc_runtime.training.data import text as running
from specc_runtime.training.data.columns import Column, Data, Mask, Ragged
from specc_runtime.training.data.loading import ByTokens, Rows
from specc_runtime.training.data.order import batches_by_tokens
from specc_runtime.training.data.vocabulary import generation_config
from specc_runtime.training.data.vocabulary import trained as trained_bpe
from specc_runtime.training.plan import plan
from specc_runtime.training.run import Request, train
from specc_runtime.training.section import Section, open_section
from specc_runtime.training.sources import read, validation

ROOT = Path(__file__).parent.parent
SPEC = """\
dim B
model Net(vocab: int = 300, context: int = 16, mels: int = 8) {
  param w: Tensor[1] = zeros()
  forward(x: Tensor[B, ...]) -> y: Tensor[B, ...] = x * w
}
train Net { data = DATA; loss = mean(y); optim = sgd(lr = 0.1); batch = 4; epochs = 1 }
"""


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Caches of its own, no way to the hub, one thread."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache/datasets"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LM = """\
from std.nn import Embedding
dim B, T
model LM(vocab: int = 300, context: int = 16) {
  dim T <= context
  table: Embedding(vocab, vocab)
  forward(input_ids: Int[B, T], attention_mask: Bool[B, T]? = none, token_type_ids: Int[B, T]? = none)
      -> logits: Tensor[B, T, vocab] = table(input_ids)
}
train LM {
  data  = DATA
  loss  = cross_entropy(logits[:, :-1], input_ids[:, 1:], ignore_index = 0)
  optim = adam(lr = 0.1)
  batch = 4
  epochs = 1
}
"""
IMAGES = """\
dim B, Y, X
model Net(channels: int = 3, classes: int = 3) {
  dim Y % 4 == 0
  param w: Tensor[channels, classes] = zeros()
  forward(image: Tensor[B, channels, Y, X]) -> logits: Tensor[B, classes] = mean(mean(image, axis = 3), axis = 2) @ w
}
train Net { data = DATA; loss = cross_entropy(logits, data.label); optim = sgd(lr = 0.1); batch = 2; epochs = 2 }
"""
ROWS = """\
from std.nn import Linear
dim B
model Net(inputs: int = 2, classes: int = 3) {
  head: Linear(inputs, classes)
  forward(x: Tensor[B, inputs]) -> logits: Tensor[B, classes] = head(x)
}
train Net { data = DATA; loss = cross_entropy(logits, data.label); optim = sgd(lr = 0.1); batch = 2; epochs = 2 }
"""

UNLABELLED = ROWS.replace("cross_entropy(logits, data.label)", "mean(logits)")


def section(folder: Path, spec: str, data: str, **sets: str) -> Section:
    (folder / "net.spec").write_text(spec.replace("DATA", data))
    return open_section(str(folder / "net.spec"), None, sets)


def data_of(folder: Path, spec: str, data: str, **sets: str) -> Data:
    return read(section(folder, spec, data, **sets), "data")


def values(data: Data, name: str) -> Any:
    return data.fields[name].array()


def refused(folder: Path, spec: str, data: str, **sets: str) -> str:
    """What is told before training."""
    (folder / "net.spec").write_text(spec.replace("DATA", data))
    with pytest.raises(Rejected) as caught:
        train(Request(str(folder / "net.spec"), sets=sets, dry_run=True))
    return report.full(caught.value.diagnostics)


def trained(folder: Path, spec: str, data: str, **sets: str) -> dict[str, Any]:
    (folder / "net.spec").write_text(spec.replace("DATA", data))
    train(Request(str(folder / "net.spec"), sets=sets, out=folder / "run", max_steps=2))
    record: dict[str, Any] = json.loads((folder / "run/run.json").read_text())
    assert record["status"] == "finished" and record["step"] == 2
    return record


# ---- tables ----------------------------------------------------------------------------------------------------------

TABLE: dict[str, list[Any]] = {
    "a": [0.5, 1.5, -2.0, 4.0],
    "b": [1.0, 2.0, 3.0, 4.0],
    "kind": ["low", "high", "high", "low"],
    "n": [2, 0, 1, 0],
}


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """One table in every form."""
    rows = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    lines = [",".join(TABLE), *(",".join(map(str, row.values())) for row in rows)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.json").write_text(json.dumps(rows, indent=1))
    arrays: dict[str, Any] = {name: np.array(column) for name, column in TABLE.items()}
    np.savez(tmp_path / "t.npz", **arrays)
    table = pa.table(TABLE)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    for i in range(2):
        pq.write_table(table.slice(2 * i, 2), tmp_path / f"part-{i}.parquet")
    found = datasets.Dataset(table)
    found.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": found, "test": found.select([3, 0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "folder").mkdir()
    pq.write_table(table, tmp_path / "folder/train.parquet")
    pq.write_table(table.slice(0, 1), tmp_path / "folder/validation.parquet")
    return tmp_path


FORMS = (
    'csv("t.csv", ', 'jsonl("t.jsonl", ', 'json("t.json", ', 'npz("t.npz", ', 'parquet("t.parquet", ',
    'parquet("part-*.parquet", ', 'hf_dataset("saved", ', 'hf_dataset("splits", split = "train", ',
    'hf_dataset("folder/", ',
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_gives_its_rows(form: str, tables: Path) -> None:
    fields = 'x = ["a", "b"], y = column("a") * 2 - 1, label = "n", kind = classes("kind"))'
    data = data_of(tables, ROWS, form + fields)
    assert values(data, "x").tolist() == [list(pair) for pair in zip(TABLE["a"], TABLE["b"], strict=True)]
    assert values(data, "x").dtype == np.float32 and values(data, "y").tolist() == [0.0, 2.0, -5.0, 7.0]
    assert values(data, "label").tolist() == TABLE["n"] and values(data, "label").dtype == np.int64
    assert values(data, "kind").tolist() == [1, 0, 0, 1] and list(data.classes["kind"]) == ["high", "low"]


@pytest.mark.parametrize("form", [f for f in FORMS if "npz" not in f])
def test_mistakes_in_every_form(form: str, tables: Path) -> None:
    assert "did you mean `kind`?" in refused(tables, ROWS, form + 'x = ["a", "b"], label = "kinds")')
    assert 'classes("kind")  numbers texts' in refused(tables, ROWS, form + 'x = ["a", "b"], label = "kind")') or (
        "json" in form
    )


def test_splits_of_a_data_set(tables: Path) -> None:
    fields = 'x = ["a", "b"], label = "n", kind = classes("kind"))'
    of = section(tables, ROWS, f'hf_dataset("splits", {fields}', val='split("test")')
    data = read(of, "data")
    rows, held = validation(of, data, 0)
    assert held is not None and rows is data
    assert values(held, "label").tolist() == [0, 2] and values(held, "kind").tolist() == [1, 1]
    assert "did you mean `test`?" in refused(tables, ROWS, f'hf_dataset("splits", {fields}', val='split("tst")')
    assert "csv has no split" in refused(tables, ROWS, f'csv("t.csv", {fields}', val='split("test")')


def test_a_part_of_the_rows_is_drawn_by_the_seed(tables: Path) -> None:
    of = section(tables, ROWS, 'csv("t.csv", x = ["a", "b"], label = "n")', val="split(0.5)")
    first, again, other = (validation(of, read(of, "data"), seed) for seed in (0, 0, 3))
    assert first[1] is not None and again[1] is not None and other[1] is not None
    assert values(first[1], "label").tolist() == values(again[1], "label").tolist()
    assert values(first[1], "x").tolist() != values(other[1], "x").tolist()
    both = sorted([*values(first[0], "b").tolist(), *values(first[1], "b").tolist()]) if "b" in first[0].fields else []
    assert not both
    assert sorted(values(first[0], "x")[:, 1].tolist() + values(first[1], "x")[:, 1].tolist()) == TABLE["b"]
    assert first[1].place(0).startswith("t.csv, line ")


def test_data_to_validate_on_has_the_classes_of_the_data_to_train_on(tables: Path) -> None:
    (tables / "v.csv").write_text("a,b,kind\n1,1,low\n1,1,middle\n")
    val = 'csv("v.csv", x = ["a", "b"], label = classes("kind"))'
    text = refused(tables, ROWS, 'csv("t.csv", x = ["a", "b"], label = classes("kind"))', val=val)
    assert 'v.csv, line 3, `kind`: the class "middle" is not in the data to train on' in text


def test_columns_of_arrays_and_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 4, 6), np.uint8)
    kinds = datasets.Features({
        "image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]),
        "grid": datasets.Array2D((2, 2), "float32"),
    })  # fmt: skip
    grid = np.arange(20, dtype=np.float32).reshape(5, 2, 2)
    rows = {"image": [Image.fromarray(p) for p in pixels], "label": [0, 1, 1, 0, 1], "grid": list(grid)}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "d")
    fields = 'x = flatten(column("image") / 255), label = column("label"), whole = "image", grid = "grid")'
    data = data_of(tmp_path, ROWS, f'hf_dataset("d", {fields}')
    assert np.allclose(values(data, "x"), pixels.reshape(5, 24) / 255, atol=1e-7)
    assert values(data, "x").dtype == np.float32 and np.array_equal(values(data, "whole"), pixels)
    assert np.array_equal(values(data, "grid"), grid)
    assert list(data.classes["label"]) == ["cat", "dog"]


def test_ragged_and_missing_values(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [[1.0, 2.0], [3.0]], "y": [1, None], "z": [[1, 2], [3]]}), tmp_path / "t.parquet")
    assert "row 1, `x`: 1 values, before there were 2" in refused(tmp_path, UNLABELLED, 'parquet("t.parquet", x = "x")')
    assert "row 1, `y`: there is no value" in refused(tmp_path, UNLABELLED, 'parquet("t.parquet", x = ["y"])')
    data = data_of(tmp_path, LM, 'parquet("t.parquet", input_ids = tokens("z"))')
    assert values(data, "input_ids").tolist() == [[1, 2], [3, 0]] and data.padded == {"input_ids": 0}


def test_odd_tables(tables: Path) -> None:
    np.savez(tables / "odd.npz", empty=np.zeros((0, 2)), large=np.array([[1, 2**63]], np.uint64))
    assert "the field `x` of odd.npz has no rows" in refused(tables, UNLABELLED, 'npz("odd.npz", x = "empty")')
    assert "a number of more than 63 bits" in refused(tables, UNLABELLED, 'npz("odd.npz", x = "large")')
    assert "t.csv is a file" in refused(tables, ROWS, 'hf_dataset("t.csv", x = ["a", "b"], label = "n")')
    assert "cannot load the data set /" in refused(tables, ROWS, 'hf_dataset("/", x = ["a", "b"], label = "n")')
    assert "No such file" in refused(tables, ROWS, 'parquet("u.parquet", x = ["a", "b"], label = "n")')
    (tables / "lists.jsonl").write_text('{"ids": [1, 2]}\n{"ids": []}\n')
    assert "lists.jsonl, line 2: `input_ids` has no ids" in refused(
        tables, LM, 'jsonl("lists.jsonl", input_ids = tokens("ids"))'
    )
    np.savez(tables / "huge.npz", x=np.array([[1.0, 1e300]]))
    assert "huge.npz, `x`[0, 1]: more than single" in refused(tables, UNLABELLED, 'npz("huge.npz", x = "x")')
    (tables / "huge.jsonl").write_text('{"x": [1, 2]}\n{"x": [1, -1e300]}\n')
    assert "huge.jsonl, line 2, `x`: [1, -1e+300] is more than" in refused(
        tables, UNLABELLED, 'jsonl("huge.jsonl", x = "x")'
    )
    (tables / "nul.csv").write_bytes(b"a,b\n\0,1\n")
    assert 'found "\\u0000"' in refused(tables, ROWS, 'csv("nul.csv", x = ["a", "b"], label = "b")')


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("validation", 1)):
        for kind in ("square", "circle", "star"):
            folder = tmp_path / "shapes" / split / kind
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path


FOLDER = 'image_folder("shapes", split = "train", image = pixels(size = 8, range = (-1.0, 1.0)), label = "folder")'


def test_folders_of_images(images: Path) -> None:
    of = section(images, IMAGES, FOLDER, val='split("validation")')
    data, held = validation(of, read(of, "data"), 0)
    assert held is not None and len(data) == 9 and len(held) == 3
    assert list(data.classes["label"]) == ["circle", "square", "star"]
    assert values(data, "label").tolist() == [0] * 3 + [1] * 3 + [2] * 3
    first = np.asarray(Image.open(images / "shapes/train/circle/0.png"), np.float32)
    assert np.allclose(values(data, "image")[0], np.moveaxis(first / 127.5 - 1, -1, 0), atol=1e-6)
    assert data.place(4) == "square/1.png"
    record = trained(images, IMAGES, FOLDER, val='split("validation")')
    assert record["classes"] == {"label": ["circle", "square", "star"]}


def test_libraries_are_named_with_their_command(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specc_runtime.libraries.installed", lambda name: name != "PIL")
    text = refused(images, IMAGES, FOLDER)
    assert "this data needs PIL, which is not installed" in text and "specc-ml[train]" in text
    code = (
        "import sys, specc_runtime.training.run\nprint([m for m in ('PIL', 'pyarrow', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_a_folder_gives_without_being_asked(images: Path) -> None:
    data = data_of(images, IMAGES, 'image_folder("shapes/train")')
    assert values(data, "image").shape == (9, 3, 8, 8) and values(data, "image").max() <= 1.0
    assert values(data, "label").tolist() == [0] * 3 + [1] * 3 + [2] * 3
    grey = data_of(images, IMAGES, 'image_folder("shapes/train", image = pixels(size = 4, channels = 1))', channels="1")
    assert values(grey, "image").shape == (9, 1, 4, 4)


def test_images_that_do_not_fit_in_memory_are_decoded_by_workers(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = values(data_of(images, IMAGES, FOLDER), "image")
    monkeypatch.setattr(columns, "IN_MEMORY", 0)
    data = data_of(images, IMAGES, FOLDER)
    assert data.fields["image"].decoded and len(pickle.loads(pickle.dumps(Rows(data)))) == 9
    batches = list(loader(data, 4, None, workers=2))
    assert np.array_equal(torch.cat([b["image"] for b in batches]).numpy(), kept)
    (images / "shapes/train/square/1.png").write_bytes(b"no image")
    with pytest.raises(Rejected, match=r"square/1\.png is not an image"):
        list(loader(data, 4, None, workers=1))
    trained(images, IMAGES, FOLDER.replace("train", "validation"), workers="1")


def test_mistakes_in_folders_of_images(images: Path) -> None:
    (images / "empty").mkdir()
    assert "there is no folder shape" in refused(images, IMAGES, 'image_folder("shape")')
    assert "empty has no image in it" in refused(images, IMAGES, 'image_folder("empty")')
    assert "the splits are its folders: train, validation" in refused(images, IMAGES, FOLDER.replace('"train"', '"tr"'))
    assert "has no `split` beside" in refused(images, IMAGES, 'image_folder("shapes/train")', val='split("validation")')
    odd = FOLDER.replace("size = 8", "size = 6")
    assert "the model takes multiples of 4 as Y" in refused(images, IMAGES, odd)
    Image.new("RGB", (9, 8)).save(images / "shapes/train/star/1.png")
    assert "star/1.png: the image is [3, 8, 9], the first one [3, 8, 8]" in refused(
        images, IMAGES, 'image_folder("shapes/train")'
    )
    (images / "shapes/train/star/1.png").write_bytes((images / "shapes/train/star/0.png").read_bytes()[:60])
    assert "star/1.png: the image cannot be decoded" in refused(images, IMAGES, FOLDER)
    (images / "shapes/train/star/1.png").unlink()
    (images / "shapes/validation/star").rename(images / "shapes/validation/moon")
    text = refused(images, IMAGES, FOLDER, val='split("validation")')
    assert "moon/0.png: the class `moon` is not in the data to train on" in text


# ---- sounds ----------------------------------------------------------------------------------------------------------

SOUNDS = """\
dim B, T
model Net(mels: int = 80, classes: int = 2) {
  param w: Tensor[mels, classes] = zeros()
  forward(log_mel: Tensor[B, mels, T]) -> logits: Tensor[B, classes] = mean(log_mel, axis = 2) @ w
}
train Net { data = DATA; loss = cross_entropy(logits, data.label); optim = sgd(lr = 0.1); batch = 2; epochs = 2 }
"""
LOG_MEL = 'log_mel = log_mel("audio", mels = mels, sample_rate = 16_000)'


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("no", "yes"):
        (tmp_path / "words" / kind).mkdir(parents=True)
        for i, samples in enumerate((8000, 7100)):
            wave = (0.1 * rng.normal(size=samples)).astype(np.float32)
            soundfile.write(tmp_path / "words" / kind / f"{i}.wav", wave, 16_000, subtype="FLOAT")
    (tmp_path / "words/_noise").mkdir()
    (tmp_path / "words/_noise/0.wav").write_bytes(b"of no class")
    return tmp_path


def test_log_mel_features_are_those_of_whisper(sounds: Path) -> None:
    data = data_of(sounds, SOUNDS, f'audio_folder("words", {LOG_MEL}, label = "folder")')
    assert values(data, "log_mel").shape == (4, 80, 50) and values(data, "label").tolist() == [0, 0, 1, 1]
    whisper = WhisperFeatureExtractor(chunk_length=1)
    whisper.n_samples = 8000
    for row, name in enumerate(("no/0", "no/1", "yes/0", "yes/1")):
        wave, rate = soundfile.read(sounds / f"words/{name}.wav", dtype="float32")
        given = whisper(wave, sampling_rate=rate, max_length=8000, device="cpu", return_tensors="np")
        theirs = given.input_features[0][:, :50]
        assert np.allclose(values(data, "log_mel")[row], theirs, atol=1e-5)
    trained(sounds, SOUNDS, f'audio_folder("words", {LOG_MEL}, label = "folder")')


def test_sounds_of_a_data_set(sounds: Path) -> None:
    """Both as features and as samples."""
    files = [str(sounds / f"words/{name}.wav") for name in ("no/0", "yes/1")]
    found = datasets.Dataset.from_dict({"sound": files, "label": [0, 1]})
    found.cast_column("sound", datasets.Audio()).save_to_disk(sounds / "d")
    fields = f'{LOG_MEL.replace("audio", "sound")}, wave = column("sound"), label = "label"'
    data = data_of(sounds, SOUNDS, f'hf_dataset("d", {fields})')
    folder = data_of(sounds, SOUNDS, f'audio_folder("words", {LOG_MEL}, audio = "audio")')
    assert np.array_equal(values(data, "log_mel"), values(folder, "log_mel")[[0, 3]])
    assert np.array_equal(values(data, "wave"), values(folder, "audio")[[0, 3]])
    assert values(folder, "audio").shape == (4, 8000) and list(folder.fields) == ["log_mel", "audio", "label"]
    assert np.array_equal(values(folder, "audio")[1, :7100], soundfile.read(sounds / "words/no/1.wav")[0].astype("f4"))


def test_length_of_sounds(sounds: Path) -> None:
    of = f'audio_folder("words", {LOG_MEL.replace("16_000", "16_000, seconds = 0.25")}, label = "folder")'
    assert values(data_of(sounds, SOUNDS, of), "log_mel").shape == (4, 80, 25)


def test_mistakes_in_folders_of_sounds(sounds: Path) -> None:
    of = f'audio_folder("words", {LOG_MEL}, label = "folder")'
    soundfile.write(sounds / "words/no/2.wav", np.zeros(8000), 22_050)
    text = refused(sounds, SOUNDS, of)
    assert "no/2.wav has 22,050 samples per second, expected 16,000" in text and "ffmpeg" in text
    (sounds / "words/no/2.wav").write_bytes(b"RIFF")
    assert "no/2.wav: the sound cannot be decoded" in refused(sounds, SOUNDS, of)
    assert "log_mel needs `sample_rate`" in refused(sounds, SOUNDS, of.replace(", sample_rate = 16_000", ""))


# ---- rows of text ----------------------------------------------------------------------------------------------------

SENTENCES = ("a fine film", "dull", "so good and so long", "no")


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A csv, a jsonl of pairs, a tokenizer such as BERT's."""
    rows = "".join(f"{text},{i % 2}\n" for i, text in enumerate(SENTENCES))
    (tmp_path / "s.csv").write_text("sentence,label\n" + rows)
    pairs = [{"a": text, "b": text[::-1]} for text in SENTENCES]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=80, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    (tmp_path / "bert").mkdir()
    made.save(str(tmp_path / "bert/tokenizer.json"))
    return tmp_path


def rows_of(data: Data, name: str = "input_ids") -> list[list[int]]:
    found = data.fields[name]
    assert isinstance(found, Ragged)
    return [found.take(np.array([i]))[0].tolist() for i in range(len(found))]


@pytest.mark.parametrize("tokenizer", ['"hf:bert"', '"bert/tokenizer.json"', '"bert"'])
def test_sentences_with_a_tokenizer_of_a_file(tokenizer: str, sentences: Path) -> None:
    data = data_of(sentences, LM, f'csv("s.csv", text = "sentence", label = "label", tokenizer = {tokenizer})')
    theirs = Tokenizer.from_file(str(sentences / "bert/tokenizer.json"))
    assert rows_of(data) == [theirs.encode(text).ids for text in SENTENCES]
    batch = next(iter(loader(data, 4, None)))
    lengths = [len(row) for row in rows_of(data)]
    assert batch["input_ids"].shape == (4, max(lengths)) and batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"].sum(1).tolist() == lengths and not batch["token_type_ids"].any()
    assert (batch["input_ids"][~batch["attention_mask"]] == 0).all()
    assert data.padded == {"input_ids": 0} and "[CLS]" in str(data.tokenizer)


def test_sentences_with_the_tokenizer_of_the_weights(sentences: Path) -> None:
    of = 'csv("s.csv", text = "sentence", label = "label", tokenizer = "bert")'
    (sentences / "net.spec").write_text(LM.replace("DATA", of))
    train(Request(str(sentences / "net.spec"), out=sentences / "run", max_steps=1))
    (sentences / "net.spec").write_text(LM.replace("DATA", of.replace('"bert"', '"weights"')))
    for weights in ("run", "run/model.safetensors"):
        section = open_section(str(sentences / "net.spec"), None, {}, str(sentences / weights))
        theirs = Tokenizer.from_file(str(sentences / "bert/tokenizer.json"))
        assert Tokenizer.from_str(str(read(section, "data").tokenizer)).get_vocab() == theirs.get_vocab()


def test_sentences_to_validate_on_have_the_same_tokenizer(sentences: Path) -> None:
    of = 'csv("s.csv", text = "sentence", label = "label", tokenizer = bpe(300))'
    for val in (of, of.replace(", tokenizer = bpe(300)", "")):
        data = read(section(sentences, LM, of, val=val, context="64"), "data")
        held = validation(section(sentences, LM, of, val=val, context="64"), data, 0)[1]
        assert held is not None and held.tokenizer == data.tokenizer and rows_of(held) == rows_of(data)
    other = of.replace("bpe(300)", '"bytes"')
    assert "`val` has another tokenizer than `data`" in refused(sentences, LM, of, val=other, context="64")


def test_pairs(sentences: Path) -> None:
    data = data_of(sentences, LM, 'jsonl("s.jsonl", text = ["a", "b"], tokenizer = "hf:bert")', context="64")
    theirs = Tokenizer.from_file(str(sentences / "bert/tokenizer.json"))
    batch = next(iter(loader(data, 4, None)))
    for row, text in enumerate(SENTENCES):
        encoded = theirs.encode(text, text[::-1])
        size = len(encoded.ids)
        assert batch["input_ids"][row, :size].tolist() == encoded.ids
        assert batch["token_type_ids"][row, :size].tolist() == encoded.type_ids and 1 in encoded.type_ids


def test_bytes_and_pieces_of_columns(sentences: Path) -> None:
    two = 'jsonl("s.jsonl", input_ids = tokens("a"), decoder_input_ids = tokens("b"), tokenizer = TOKENIZER)'
    data = data_of(sentences, LM, two.replace("TOKENIZER", '"bytes"'), context="64")
    assert rows_of(data) == [[2, *text.encode(), 3] for text in SENTENCES]
    assert rows_of(data, "decoder_input_ids") == [[2, *text[::-1].encode(), 3] for text in SENTENCES]
    assert Tokenizer.from_str(str(data.tokenizer)).encode("no").ids == [2, *b"no", 3]
    assert isinstance(data.fields["decoder_attention_mask"], Mask)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    assert generation_config(data) == {**ends, "decoder_start_token_id": 2}
    data = data_of(sentences, LM, two.replace("TOKENIZER", "bpe(vocab)"), context="64")
    made = Tokenizer.from_str(str(data.tokenizer))
    assert [made.decode(row) for row in rows_of(data)] == list(SENTENCES)
    assert {row[0] for row in rows_of(data)} == {1} and {row[-1] for row in rows_of(data)} == {2}
    assert made.token_to_id("<pad>") == 0 == data.padded["input_ids"]


def test_rows_that_are_too_long(sentences: Path) -> None:
    of = 'csv("s.csv", text = "sentence", label = "label", tokenizer = "bytes")'
    text = refused(sentences, LM, of)
    assert "s.csv, line 4: `input_ids` has 21 ids, the model takes at most 16" in text and "truncate = true" in text
    cut = data_of(sentences, LM, of.replace(")", ", truncate = true)"))
    assert max(map(len, rows_of(cut))) == 16 and rows_of(cut)[2] == [2, *b"so good and so", 3]
    short = of.replace(")", ", truncate = true, length = 6)")
    assert [len(row) for row in rows_of(data_of(sentences, LM, short))] == [6, 6, 6, 4]
    assert "`length` is 6" in refused(sentences, LM, of.replace(")", ", length = 6)"))


def test_mistakes_in_rows_of_text(sentences: Path) -> None:
    of = 'csv("s.csv", text = "sentence", label = "label", tokenizer = "hf:bert")'
    assert "the tokenizer has" in refused(sentences, LM, of, vocab="10")
    bare = LM.replace(", ignore_index = 0", "")
    text = refused(sentences, bare, of)
    assert "short rows of `input_ids` are filled up with 0" in text and "ignore_index = 0" in text
    assert "takes the name of a column" in refused(sentences, LM, 'csv("s.csv", input_ids = tokens(3))')
    assert "needs a `tokenizer`" in refused(sentences, LM, 'csv("s.csv", input_ids = tokens("sentence"))')
    assert "no field is text" in refused(sentences, LM, 'csv("s.csv", input_ids = ["label"], tokenizer = "bytes")')
    (sentences / "odd.json").write_text("{}")
    assert "odd.json is not a tokenizer" in refused(sentences, LM, of.replace("hf:bert", "odd.json"))
    assert "there is no tokenizer bart" in refused(sentences, LM, of.replace("hf:bert", "bart"))
    assert "which the run begins with" in refused(sentences, LM, of.replace("hf:bert", "weights"))
    away = refused(sentences, LM, of.replace("hf:bert", "hf:someone/something"))
    assert "cannot reach the tokenizer of someone/something" in away and "save_pretrained" in away
    gpt2 = Tokenizer.from_file(str(sentences / "bert/tokenizer.json")).to_str().replace("[PAD]", "[pad]")
    (sentences / "none.json").write_text(gpt2.replace("[UNK]", "[unk]"))
    text = refused(sentences, LM, of.replace("hf:bert", "none.json"))
    assert "no token to fill them up" in text
    assert data_of(sentences, LM, of.replace('"hf:bert"', '"none.json", pad = "[pad]"')).padded == {"input_ids": 0}


def test_a_data_set_that_cannot_be_reached(tmp_path: Path) -> None:
    text = refused(tmp_path, ROWS, 'hf_dataset("someone/something", "small", x = ["a"], label = "b")')
    assert "cannot reach the data set someone/something on the hub" in text
    assert 'datasets.load_dataset("someone/something", "small").save_to_disk("something")' in text
    assert "there is no such folder" in refused(tmp_path, ROWS, 'hf_dataset("./here/", x = ["a"], label = "b")')


# ---- batches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lengths(Column):
    """Nothing but lengths."""

    sizes: np.ndarray[Any, Any]
    dtype = np.dtype(np.int64)
    row = (None,)

    def __len__(self) -> int:
        return len(self.sizes)

    def lengths(self) -> np.ndarray[Any, Any]:
        return self.sizes

    def take(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return rows[:, None]


def test_batches_by_tokens() -> None:
    sizes = np.random.default_rng(0).integers(1, 40, 500)
    data = Data("made", {"ids": Lengths(sizes)}, str)
    made = loader(data, 1, 7, tokens=200)
    orders = []
    for epoch in (0, 1, 0):
        made.order.set_epoch(epoch)
        batches = [b["ids"][:, 0].tolist() for b in made]
        assert len(batches) == len(batches_by_tokens(data, 200)) == len(made)
        assert sorted(row for batch in batches for row in batch) == list(range(500))
        assert max(len(batch) * sizes[batch].max() for batch in batches) <= 200
        orders.append(batches)
    assert orders[0] == orders[2] != orders[1]
    made.load_state_dict({"epoch": 1, "batches": 5})
    assert [b["ids"][:, 0].tolist() for b in made] == orders[1][5:]
    parts = [list(ByTokens(data, 200, 7, (own, 3))) for own in range(3)]
    assert len({len(part) for part in parts}) == 1
    shared = [row for turn in zip(*parts, strict=True) for batch in turn for row in batch]
    assert shared[:500] == [row for batch in orders[0] for row in batch]
    padding = sum(len(b) * sizes[b].max() for b in orders[0]) / sizes.sum()
    assert padding < 1.1
    assert [b["ids"][:, 0].tolist() for b in loader(data, 1, 8, tokens=200)] != orders[0]


def test_a_section_in_batches_of_tokens(sentences: Path) -> None:
    of = 'csv("s.csv", text = "sentence", label = "label", tokenizer = "bytes")'
    counts = plan(section(sentences, LM, of, batch="tokens(30)", context="32"), None)
    assert (counts.tokens, counts.batches, counts.steps) == (30, 3, 3)
    trained(sentences, LM, of, batch="tokens(30)", context="32")
    text = refused(sentences, LM, of, batch="tokens(20)", context="32")
    assert "s.csv, line 4 has 21 ids, more than the 20 of a batch" in text


def test_a_run_in_batches_of_tokens_goes_on_where_it_stopped(sentences: Path) -> None:
    """Stopped amid the second epoch, against one that was not."""
    of = 'csv("s.csv", text = "sentence", label = "label", tokenizer = "bytes")'
    (sentences / "net.spec").write_text(LM.replace("DATA", of))
    sets = {"batch": "tokens(30)", "context": "32", "epochs": "3", "seed": "5"}
    target = str(sentences / "net.spec")
    train(Request(target, sets=sets, out=sentences / "whole"))
    train(Request(target, sets=sets, out=sentences / "part", max_steps=4))
    train(Request(resume=sentences / "part", max_steps=9))
    whole, part = (load_file(sentences / run / "model.safetensors") for run in ("whole", "part"))
    assert all(np.array_equal(whole[name], part[name]) for name in whole)


# ---- running text ----------------------------------------------------------------------------------------------------


def test_text_is_the_same_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = "Zwölf Boxkämpfer jagen\n\nViktor quer über den Sylter Deich. " * 40 + "\n" + "é" * 300
    (tmp_path / "a.txt").write_text(written, "utf-8")
    (tmp_path / "b.txt").write_text("\ufeffmore")
    of = 'text("?.txt", tokenizer = TOKENIZER, length = 8)'
    found = []
    for size in (2**16, 64, 7):
        monkeypatch.setattr(running, "BLOCK", size)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(size)))
        data = data_of(tmp_path, LM, of.replace("TOKENIZER", '"bytes"'))
        whole = f"{written}\nmore".encode()
        assert bytes(values(data, "input_ids").reshape(-1).tolist()) == whole[: len(whole) // 8 * 8]
        data = data_of(tmp_path, LM, of.replace("TOKENIZER", "bpe(vocab)"))
        made = Tokenizer.from_str(str(data.tokenizer))
        ids = values(data, "input_ids").reshape(-1).tolist()
        assert f"{written}\nmore".startswith(made.decode(ids).rstrip("\N{REPLACEMENT CHARACTER}"))
        found.append(ids)
    assert len(list((tmp_path / "7/specc/tokens").iterdir())) == 3  # the ids of both, one tokenizer, nothing unfinished


def test_ids_of_a_text_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 100)
    of = 'text("a.txt", tokenizer = bpe(vocab), length = 8)'
    data = data_of(tmp_path, LM, of)
    first = values(data, "input_ids")
    assert generation_config(data) == {}
    with monkeypatch.context() as patched:
        patched.setattr(running, "_encoded", lambda *_: pytest.fail("encoded again"))
        patched.setattr("specc_runtime.training.data.vocabulary.trained", lambda *_: pytest.fail("trained again"))
        assert np.array_equal(values(data_of(tmp_path, LM, of), "input_ids"), first)
    (tmp_path / "a.txt").write_text("the dog sat on the mat\n" * 100)
    assert not np.array_equal(values(data_of(tmp_path, LM, of), "input_ids")[:9], first[:9])
    monkeypatch.setattr(running, "cache_folder", lambda: None)
    assert len(data_of(tmp_path, LM, of)) > 0


def test_a_disk_without_room_for_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n")

    def full(*_: object) -> Iterator[Any]:
        yield np.zeros(3, np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running, "_encoded", full)
    told = refused(tmp_path, LM, 'text("a.txt", tokenizer = "bytes", length = 8)')
    assert "B640" in told and "cannot write the ids of a text: No space left on device" in told
    assert not list((tmp_path / "cache/specc/tokens").iterdir())


def test_mistakes_in_text(tmp_path: Path) -> None:
    of = 'text("*.txt", tokenizer = "bytes", length = 8)'
    assert "no file matches *.txt" in refused(tmp_path, LM, of)
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/a.txt").write_text("as deep as it is")
    assert len(data_of(tmp_path, LM, of.replace("*", "**/*"))) == 2
    (tmp_path / "a.txt").write_text("short")
    assert "has 5 ids, fewer than one row of 8" in refused(tmp_path, LM, of)
    (tmp_path / "b.txt").write_bytes(b"fine\n\xff\xfe")
    assert "b.txt, line 2: the text is not UTF-8" in refused(tmp_path, LM, of.replace('"bytes"', "bpe(vocab)"))
    assert "the field `input_ids`" in refused(
        tmp_path, LM, 'text("a.txt", tokenizer = "bytes", length = 5)', context="4"
    )


STREAMED = """\
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_data import LM, data_of
from specc_runtime.training.batches import loader
folder = Path({folder!r})
small = data_of(folder, LM, 'text("small.txt", tokenizer = "{tokenizer}", length = 128)', context="128")
next(iter(loader(small, 32, 0)))
begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = data_of(folder, LM, 'text("large.txt", tokenizer = "{tokenizer}", length = 128)', context="128")
assert sum(1 for _ in zip(loader(data, 32, 0), range(20))) == 20
print(len(data), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun)
"""


@pytest.mark.parametrize("tokenizer", ["bytes", pytest.param("hf:tok", marks=pytest.mark.slow)])
def test_text_larger_than_memory(tokenizer: str, tmp_path: Path) -> None:
    """Peak memory of reading 30 MB, beyond that of reading 1 MB: less than half of the text."""
    line = "the quick brown fox jumps over the lazy dog, number {:08d}\n"
    (tmp_path / "small.txt").write_text("".join(line.format(i % 1000) for i in range(18_000)))
    (tmp_path / "large.txt").write_text("".join(line.format(i % 1000) for i in range(530_000)))
    made = trained_bpe([line.format(i) for i in range(500)], 300, rows=False)
    (tmp_path / "tok").mkdir()
    made.save(str(tmp_path / "tok/tokenizer.json"))
    code = STREAMED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), tokenizer=tokenizer)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    size = (tmp_path / "large.txt").stat().st_size
    assert size > 30e6 and rows * 128 > 5e6
    assert grown * 1024 < size / 2, f"{grown / 1024:.0f} MB more"


# ---- the zoo ---------------------------------------------------------------------------------------------------------

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
