"""Train sections over files that a test writes: their rows, what is told of them, a run of two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from specc import report
from specc.diagnostics import Rejected
from specc_runtime.training.data.columns import Data
from specc_runtime.training.run import Request, train
from specc_runtime.training.section import Section, open_section
from specc_runtime.training.sources import read

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


def write_sounds(folder: Path) -> None:
    """A folder of waves for each of two classes, and one that is no class."""
    rng = np.random.default_rng(0)
    for kind in ("no", "yes"):
        (folder / "words" / kind).mkdir(parents=True)
        for i, samples in enumerate((8000, 7100)):
            wave = (0.1 * rng.normal(size=samples)).astype(np.float32)
            soundfile.write(folder / "words" / kind / f"{i}.wav", wave, 16_000, subtype="FLOAT")
    (folder / "words/_noise").mkdir()
    (folder / "words/_noise/0.wav").write_bytes(b"of no class")


SENTENCES = ("a fine film", "dull", "so good and so long", "no")


def write_sentences(folder: Path) -> None:
    """A csv, a jsonl of pairs, a tokenizer such as BERT's."""
    rows = "".join(f"{text},{i % 2}\n" for i, text in enumerate(SENTENCES))
    (folder / "s.csv").write_text("sentence,label\n" + rows)
    pairs = [{"a": text, "b": text[::-1]} for text in SENTENCES]
    (folder / "s.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=80, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    (folder / "bert").mkdir()
    made.save(str(folder / "bert/tokenizer.json"))
