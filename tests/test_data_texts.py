"""Data of train sections that is text: rows of it, running text, batches of so many tokens."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from training_data import LM, ROWS, SENTENCES, data_of, refused, section, trained, values

from specc_runtime.training.batches import loader
from specc_runtime.training.data import text as running
from specc_runtime.training.data.columns import Column, Data, Mask, Ragged
from specc_runtime.training.data.loading import ByTokens
from specc_runtime.training.data.order import batches_by_tokens
from specc_runtime.training.data.vocabulary import generation_config
from specc_runtime.training.data.vocabulary import trained as trained_bpe
from specc_runtime.training.plan import plan
from specc_runtime.training.run import Request, train
from specc_runtime.training.section import open_section
from specc_runtime.training.sources import read, validation

pytestmark = pytest.mark.usefixtures("one_thread", "offline")


# ---- rows of text ----------------------------------------------------------------------------------------------------


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
from training_data import LM, data_of
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
