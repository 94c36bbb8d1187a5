"""Mistakes in train sections and their data: each is told before anything is trained or written."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from specc import driver, report
from specc.diagnostics import Rejected
from specc.syntax.unparse import unparse
from specc_runtime.training.evaluation import Request as Evaluation
from specc_runtime.training.evaluation import evaluate
from specc_runtime.training.run import Request, train
from specc_runtime.training.section import open_section
from specc_runtime.training.sources import read

pytestmark = pytest.mark.usefixtures("one_thread")

POINTS = "x,y,class\n" + "".join(f"{i % 7},{i % 5},{i % 3}\n" for i in range(20))
NET = """\
from std.nn import Linear
dim B
model Net {
  first: Linear(2, 8)
  head: Linear(8, 3)
  forward(x: Tensor[B, 2]) -> logits: Tensor[B, 3] = first(x) |> relu |> head
}
train Net {
  data  = csv("points.csv", x = ["x", "y"], label = "class")
  loss  = cross_entropy(logits, data.label)
  optim = adam(lr = 0.05)
  batch = 8
  epochs = 1
}
"""
DATA = 'csv("points.csv", x = ["x", "y"], label = "class")'


def told(folder: Path, spec: str, *edits: tuple[str, str], files: Mapping[str, str | bytes] | None = None) -> str:
    """The diagnostic of a section that is refused, after its text was edited; nothing is written."""
    for before, after in edits:
        assert before in spec
        spec = spec.replace(before, after)
    folder.mkdir(exist_ok=True)
    (folder / "net.spec").write_text(spec)
    for name, content in {"points.csv": POINTS, **(files or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Rejected) as caught:
        train(Request(str(folder / "net.spec"), out=folder / "run"))
    assert not (folder / "run").exists()
    return report.full(caught.value.diagnostics)


SETTINGS = {
    "one beta": ("lr = 0.05", "betas = 0.9", "E125", "adam: `betas` is 2 numbers, found 0.9"),
    "three betas": ("lr = 0.05", "betas = (0.9, 0.9, 0.9)", "E125", "`betas` is 2 numbers, found [0.9, 0.9, 0.9]"),
    "a text in betas": ("lr = 0.05", 'betas = (0.9, "a")', "E125", "`betas` is 2 numbers"),
    "a number for a flag": ("lr = 0.05", "fused = 1", "E125", "adam: `fused` is true or false, found 1"),
    "a flag for a number": ("lr = 0.05", "lr = true", "E125", "adam: `lr` is a number, found true"),
    "one eps of adafactor": ("adam(lr = 0.05", "adafactor(eps = 1e-3", "E125", "adafactor: `eps` is 2 numbers"),
    "torch's name of lr": ("lr = 0.05", "learning_rate = 0.05", "E120", "did you mean `lr`?"),
    "torch's name of a loss": ("cross_entropy(", "CrossEntropyLoss(", "E103", "did you mean `cross_entropy`?"),
    "noam of nothing": (
        "batch = 8",
        "batch = 8; sched = noam(dim = 0, warmup = 4)",
        "E125",
        "noam: `dim` is at least 1",
    ),
    "plateau of nothing": ("batch = 8", "batch = 8; sched = plateau()", "E103", "nothing is measured: give `val`"),
    "torch's name of a schedule": ("batch = 8", "batch = 8; sched = StepLR(3)", "E103", "did you mean `step`?"),
    "short name of a metric": ("batch = 8", "batch = 8; metrics = [acc(logits, data.label)]", "E103", "`accuracy`?"),
    "the best none": (
        "batch = 8",
        "batch = 8; metrics = [accuracy(logits, data.label, top_k = 0)]",
        "E125",
        "accuracy: `top_k` is a whole number of at least 1",
    ),
    "classes for scores": (
        "batch = 8",
        "batch = 8; metrics = [accuracy(argmax(logits, -1), data.label)]",
        "E125",
        "accuracy: predictions of several classes are [.., C], a number for each class",
    ),
    "more to a step than there are": ("batch = 8", "batch = 8; accumulate = 4", "E125", "is 4 batches, an epoch has 3"),
    "more processes than rows": ("batch = 8", "batch = 8; devices = 21", "E125", "there are 20 rows to train on"),
    "validating nothing": ("batch = 8", "batch = 8; val_every = 2", "E124", "`val_every` is given, but no `val`"),
    "arithmetic that fails": (
        'label = "class"',
        'label = column("class") / 0',
        "T531",
        "points.csv, line 2: `label` is",
    ),
    "a field twice": ('label = "class"', 'label = "class", label = "x"', "E121", "csv: `label` is given twice"),
    "a loss of nothing": ("data.label)", "data.label) + log(0 * mean(logits))", "T532", "not finite before any step"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting(tmp_path: Path, name: str) -> None:
    before, after, code, message = SETTINGS[name]
    found = told(tmp_path, NET, (before, after))
    assert f"error[{code}]" in found and message in found


def test_an_empty_sound_an_underscore_and_a_name_with_spaces(tmp_path: Path) -> None:
    found = told(tmp_path, NET, files={"points.csv": POINTS + "1_0,2,0\n"})
    assert 'points.csv, line 22, column `x`: expected a number, found "1_0"' in found
    found = told(tmp_path, NET, files={"points.csv": POINTS.replace("x,y", "x, y")})
    assert 'no column `y`, but one with spaces around it: " y"' in found


def test_a_last_batch_that_is_too_small(tmp_path: Path) -> None:
    """It would be met at the end of an epoch."""
    normal = (NET.replace("Linear\n", "Linear, BatchNorm1d\n", 1)).replace("  head:", "  norm: BatchNorm1d(8)\n  head:")
    normal = normal.replace("first(x) |> relu", "first(x) |> norm |> relu")
    found = told(tmp_path, normal, ("batch = 8", "batch = 19"))
    assert "error[E125]: an epoch ends with a batch of 1 row, which cannot be trained on" in found
    assert "help: batch = 20" in found
    train(Request(str(tmp_path / "net.spec"), sets={"batch": "20"}, out=tmp_path / "whole"))
    alone = told(tmp_path / "alone", normal, files={"points.csv": "x,y,class\n1,2,0\n"})
    assert "ends with a batch of 1 row" in alone and "help:" not in alone


def test_one_array_is_no_archive(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 2)))
    found = told(tmp_path, NET, (DATA, 'npz("a.npy", x = "x", label = "y")'), files={"a.npy": file.getvalue()})
    assert "a.npy is one array without a name (numpy.save)" in found and "numpy.savez(" in found
    file = io.BytesIO()
    np.savez(file, x=np.zeros((3, 2)), y=np.array(["a", "b", "a"]), z=np.array(1))
    found = told(tmp_path, NET, (DATA, 'npz("a.npz", x = "x", label = "y")'), files={"a.npz": file.getvalue()})
    assert 'classes("y")  numbers texts' in found
    found = told(tmp_path, NET, (DATA, 'npz("a.npz", x = "x", label = "z")'), files={"a.npz": file.getvalue()})
    assert "found int64 without axes" in found


@pytest.mark.parametrize(
    "loss",
    [
        "binary_cross_entropy(sigmoid(logits), data.p)",
        "binary_cross_entropy_with_logits(logits, data.p)",
        "kl_div(softmax(logits, -1), data.p)",
        "cross_entropy(logits, data.p)",
    ],
)
def test_labels_that_are_no_probabilities(tmp_path: Path, loss: str) -> None:
    """Whatever row they are in."""
    lines = "x,y,a,b,c\n" + "1,2,0,1,0\n" * 18 + "1,2,0,2,0\n"
    data = 'csv("points.csv", x = ["x", "y"], p = ["a", "b", "c"])'
    found = told(tmp_path, NET, (DATA, data), ("cross_entropy(logits, data.label)", loss), files={"points.csv": lines})
    assert "points.csv, line 20, `p`[1]: the label is 2, expected 0 to 1" in found


# ---- what --set says -------------------------------------------------------------------------------------------------

MORE = "batch = 8; clip = 1.0; val = split(0.2); val_every = 1; sched = cosine(warmup = 1)"
GIVEN = {
    "a setting that is nearly called so": ({"epocs": "1"}, "T501", "--set epochs=1"),
    "an argument of nothing": ({"lora.rank": "2"}, "T501", "--set lora.rank: the section has no `lora`"),
    "an argument that there is not": ({"sched.warmpu": "2"}, "E120", "cosine has no argument `warmpu`"),
    "no data": ({"data": "none"}, "E125", "`data` cannot be none"),
    "a word": ({"precision": "bf16"}, "E125", '`precision` cannot be "bf16"'),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_on_the_command_line(tmp_path: Path, name: str) -> None:
    sets, code, message = GIVEN[name]
    (tmp_path / "net.spec").write_text(NET.replace("batch = 8", MORE))
    with pytest.raises(Rejected) as caught:
        open_section(str(tmp_path / "net.spec"), None, sets)
    found = report.full(caught.value.diagnostics)
    assert f"error[{code}]" in found and message in found


def test_words_without_quotes_arguments_and_settings_that_are_taken_out(tmp_path: Path) -> None:
    """A shell takes quotes away; `none` is as if the setting were not there, for what is measured later, too."""
    (tmp_path / "net.spec").write_text(NET.replace("batch = 8", MORE))
    (tmp_path / "points.csv").write_text(POINTS)
    path = str(tmp_path / "net.spec")
    found = open_section(
        path, None, {"precision": "bf16-mixed", "sched.warmup": "3", "save_every": "epoch", "log": "csv"}
    )
    texts = {name: unparse(value) for name, value in found.settings.items()}
    assert texts["precision"] == '"bf16-mixed"' and texts["save_every"] == '"epoch"' and texts["log"] == '"csv"'
    assert texts["sched"] == "cosine(warmup = 3)"
    sets = {"clip": "none", "val": "none", "sched": "none"}
    assert not {"clip", "val", "val_every", "sched"} & open_section(path, None, sets).settings.keys()
    train(Request(path, sets=sets, out=tmp_path / "run"))
    assert not evaluate(Evaluation(tmp_path / "run")).held
    (tmp_path / "run/points.csv").write_text(POINTS)
    again = open_section(str(tmp_path / "run/resolved.spec"), None, {})
    assert again.without == ("clip", "val", "val_every", "sched")
    assert not [d for d in driver.check(str(tmp_path / "run/resolved.spec")) if d.severity == "error"]


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "net.spec").write_text(NET)
    with pytest.raises(Rejected, match=r"is not a run: no run\.json"):
        train(Request(resume=tmp_path / "net.spec"))


# ---- images, sounds --------------------------------------------------------------------------------------------------

SEEN = """\
from std.nn import Linear
dim B
model Seen {
  head: Linear(12, 2)
  forward(image: Tensor[B, 3, 2, 2]) -> logits: Tensor[B, 2] = head(flatten(image, 1))
}
train Seen {
  data  = image_folder("seen", image = pixels(size = 2))
  loss  = cross_entropy(logits, data.label)
  optim = adam(lr = 0.05)
  batch = 4
  epochs = 1
}
"""
TABLE = 'csv("list.csv", image = pixels("file", size = 2), label = "class")'


def picture(values: np.ndarray, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format)
    return file.getvalue()


def test_images_in_no_folders_have_no_classes(tmp_path: Path) -> None:
    image = picture(np.zeros((2, 2, 3), np.uint8))
    found = told(tmp_path, SEEN, files={"seen/a.png": image, "seen/b.png": image})
    assert "error[E107]: the data has no field `label`" in found and "available: image" in found


def test_images_of_sixteen_bits(tmp_path: Path) -> None:
    """They have the range of those of eight; Pillow would cut them off at 255."""
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    for name in ("yes/a.png", "no/b.png"):
        (tmp_path / "seen" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "seen" / name).write_bytes(picture(values))
    (tmp_path / "net.spec").write_text(SEEN.replace("pixels(size = 2)", "pixels(range = (0.0, 255.0))"))
    image = read(open_section(str(tmp_path / "net.spec"), None, {}), "data").fields["image"].array()
    np.testing.assert_allclose(image[0], np.broadcast_to([[0, 100], [200, 255]], (3, 2, 2)), rtol=1e-6)
    found = told(tmp_path, SEEN, files={"seen/no/c.tiff": picture(np.ones((2, 2), np.float32), "TIFF")})
    assert "no/c.tiff: the image has fractions, pixels takes those of 8 or 16 bits" in found


def test_files_that_a_column_names(tmp_path: Path) -> None:
    """Their paths are relative to the table's folder."""
    grey = {f"data/{i}.png": picture(np.full((2, 2, 3), 51 * i, np.uint8)) for i in range(3)}
    lines = "file,class\n" + "".join(f"{i}.png,{i % 2}\n" for i in (2, 0, 1))
    spec = (SEEN.replace('image_folder("seen", image = pixels(size = 2))', TABLE)).replace("list.csv", "data/list.csv")
    found = told(tmp_path, spec, files={**grey, "data/list.csv": lines + "9.png,1\n"})
    assert "data/list.csv, line 5, column `file`: there is no file 9.png" in found
    found = told(tmp_path, spec, ('"file"', '"class"'), files={"data/list.csv": lines})
    assert "line 2, column `class`: there is no file 0" in found
    (tmp_path / "net.spec").write_text(spec)
    (tmp_path / "data/list.csv").write_text(lines)
    image = read(open_section(str(tmp_path / "net.spec"), None, {}), "data").fields["image"].array()
    np.testing.assert_allclose(image[:, 0, 0, 0], [0.4, 0.0, 0.2], rtol=1e-6)
    assert train(Request(str(tmp_path / "net.spec"), sets={"workers": "1"}, out=tmp_path / "run")) is not None


HEARD = """\
dim B, T
model Heard {
  param w: Tensor[1] = ones()
  forward(audio: Tensor[B, 4, T]) -> y: Tensor[B, 4, T] = audio * w
}
train Heard {
  data  = audio_folder("heard", audio = log_mel(mels = 4, sample_rate = 800))
  loss  = mean(y)
  optim = adam(lr = 0.05)
  batch = 4
  epochs = 1
}
"""


def test_sounds_without_samples_or_sense(tmp_path: Path) -> None:
    def wave(count: int) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, np.zeros(count), 800, format="WAV")
        return file.getvalue()

    found = told(tmp_path, HEARD, files={"heard/a/1.wav": wave(80), "heard/a/2.wav": wave(0)})
    assert "a/2.wav: the sound has no samples" in found
    found = told(tmp_path, HEARD, files={"heard/a/2.wav": b"no sound"})
    assert "a/2.wav: the sound cannot be decoded: Format not recognised\n" in found
    found = told(tmp_path, HEARD, ("mels = 4", "mels = 4, window = 0.02"))
    assert "`window` is a whole number of samples of at least 1" in found


# ---- texts, data sets ------------------------------------------------------------------------------------------------

READ = """\
from std.nn import Linear, Embedding
dim B, T
model Read {
  table: Embedding(256, 4)
  head: Linear(4, 2)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, 2] = head(mean(table(input_ids), 1))
}
train Read {
  data  = csv("texts.csv", text = "text", label = "class", tokenizer = "bytes")
  loss  = cross_entropy(logits, data.label)
  optim = adam(lr = 0.05)
  batch = 1
  epochs = 1
}
"""


def test_rows_filled_up_with_what_the_model_does_not_take(tmp_path: Path) -> None:
    """Whatever rows the first batches have."""
    texts = {"texts.csv": "text,class\naa,0\nbb,1\nccc,0\n"}
    found = told(tmp_path, READ, ('"bytes")', '"bytes", pad = 300)'), files=texts)
    assert "short rows of `input_ids` are filled up with 300, the model takes 0 to 255" in found


def test_fields_of_ids_keep_their_names(tmp_path: Path) -> None:
    """`text = "a"` is `input_ids`; `text = tokens("a")` is the field `text`."""
    rows = '[{"a": [5, 6, 7], "b": [8]}, {"a": [9], "b": [10, 11]}]'
    both = 'json("rows.json", input_ids = tokens("a"), text = tokens("b"))'
    texts = READ.replace('csv("texts.csv", text = "text", label = "class", tokenizer = "bytes")', both)
    texts = texts.replace(
        "cross_entropy(logits, data.label)", "mean(logits) + 0 * mean(data.text * data.text_attention_mask)"
    )
    (tmp_path / "rows.json").write_text(rows)
    (tmp_path / "net.spec").write_text(texts)
    fields = read(open_section(str(tmp_path / "net.spec"), None, {}), "data").fields
    assert fields["input_ids"].array().tolist() == [[5, 6, 7], [9, 0, 0]]
    assert fields["text"].array().tolist() == [[8, 0], [10, 11]]
    twice = 'text = "text", input_ids = tokens("text")'
    found = told(tmp_path, READ, ('text = "text"', twice), files={"texts.csv": "text,class\naa,0\nbb,1\n"})
    assert "error[E121]: `input_ids` is given twice: `text` has these ids, too" in found


SAID = """\
from std.nn import Linear, Embedding
dim B, T
model Said {
  table: Embedding(256, 4)
  head: Linear(4, 6)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, 6] = head(table(input_ids))
}
train Said {
  data  = json("said.json", input_ids = tokens("heard"), said = tokens("said"))
  loss  = ctc(logits, data.said, blank = 0, ignore_index = 0)
  optim = adam(lr = 0.05)
  batch = 2
  epochs = 1
}
"""


def test_texts_of_classes_that_ctc_does_not_have(tmp_path: Path) -> None:
    """torch reads outside of its tensors with them, and may end the process."""
    rows = [{"heard": [1, 2, 3, 4, 5], "said": [1, 2]}] * 4 + [{"heard": [1, 2, 3, 4, 5], "said": [3, 9]}]
    found = told(tmp_path, SAID, files={"said.json": json.dumps(rows)})
    assert "said.json, row 4, `said`[1]: the label is 9, the classes are 0 to 5, 0 is the blank" in found
    found = told(
        tmp_path,
        SAID,
        (", ignore_index = 0", ""),
        files={"said.json": json.dumps([*rows[:4], {"heard": [1], "said": [1]}])},
    )
    assert "short rows of `said` are filled up with 0, which ctc counts as text" in found
    found = told(tmp_path, SAID, ("blank = 0", "blank = 2"), files={"said.json": json.dumps(rows[:4])})
    assert "said.json, row 0, `said`[1]: the label is 2, the classes are 0 to 5, 2 is the blank" in found
    found = told(tmp_path, SAID, ("blank = 0", "blank = 6"), files={"said.json": json.dumps(rows[:4])})
    assert "error[E125]" in found and "`blank` is one of the classes, found 6" in found
    computed = ("ctc(logits, data.said,", "ctc(logits, data.said + 5,")
    found = told(tmp_path, SAID, computed, files={"said.json": json.dumps(rows[:4])})
    assert "error[T531]" in found and "a class of the texts is not within 0 .. 5" in found


def test_splits_that_a_data_set_does_not_have(tmp_path: Path) -> None:
    source = 'csv("texts.csv"'
    datasets.Dataset.from_dict({"text": ["a", "b"], "class": [0, 1]}).save_to_disk(str(tmp_path / "texts"))
    found = told(tmp_path, READ, (source, 'hf_dataset("texts", split = "test"'))
    assert "texts has no split `test`: it has none" in found
    found = told(tmp_path, READ, (source, 'hf_dataset("papers"'), files={"papers/read.me": "nothing"})
    assert "papers has no file of data in it" in found
