"""Data of train sections, tables, images and sounds: every source gives its rows, mistakes are told before training."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from fresh import loaded
from PIL import Image
from training_data import IMAGES, LM, ROWS, data_of, refused, section, trained, values
from transformers import WhisperFeatureExtractor

from specc.diagnostics import Rejected
from specc_runtime.training.batches import loader
from specc_runtime.training.data import columns
from specc_runtime.training.data.loading import Rows
from specc_runtime.training.sources import read, validation

pytestmark = pytest.mark.usefixtures("one_thread", "offline")

UNLABELLED = ROWS.replace("cross_entropy(logits, data.label)", "mean(logits)")


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
    assert loaded("import specc_runtime.training.run", "PIL", "pyarrow", "datasets") == []


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
