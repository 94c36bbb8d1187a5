"""Checkpoints in and weights out: real files from transformers, hostile files, and what writing them costs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh import loaded
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from specc import driver, report
from specc.diagnostics import Collector, Rejected
from specc.elaborate.models import Given, Options
from specc.ir.declared import Initializer
from specc.ir.members import aliases
from specc.weights import layout
from specc.weights.config import read_config
from specc.weights.layout import Expr, Permute, Read, TensorInfo
from specc.weights.mapping import Duplicate, Plan, plan_import
from specc.weights.sections import choose, model_tensors, sections
from specc_runtime import elements, weights_writer
from specc_runtime.checkpoint import INDEX, WEIGHTS, Checkpoint
from specc_runtime.tensor_file import ITEM_SIZES, read_header
from specc_runtime.weights_writer import NewTensor, Writing, check_duplicates, new_tensors, write_safetensors

CONFIG = {"vocab_size": 99, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}


def rejected(call: Any, *args: Any) -> str:
    """The messages of a refusal, as printed."""
    with pytest.raises(Rejected) as refusal:
        call(*args)
    return report.full(refusal.value.diagnostics)


# ---- a GPT-2 of transformers, mapped by specs/gpt2.spec --------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2() -> Any:
    """A GPT-2 with random weights, biases and norms included."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CONFIG, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def converted(folder: Path, out: Path) -> tuple[dict[str, Any], Plan, set[str]]:
    """What `specc build specs/gpt2.spec --weights FOLDER` writes: (tensors, plan, tied names)."""
    from safetensors.numpy import load_file

    with Checkpoint.open(folder) as checkpoint:
        project = driver.open_project("gpt2")
        collector = Collector()
        node = choose(sections(project.file.tree, "GPT2"), collector, model_type=checkpoint.model_type)
        assert node is not None
        [decl] = project.file.models()
        settings = read_config(node, decl.node.params, checkpoint.config or {}, collector)
        checked = project.check(Options(config={k: Given(None, s.value, s.origin) for k, s in settings.items()}))
        model, tied = model_tensors(checked.model.module), aliases(checked.model.module)
        plan = plan_import(node, model, tied, checkpoint.header(), lambda _: None, collector)
        assert plan is not None, report.full(collector.found)
        assert not collector.found
        places = write_safetensors(out, new_tensors(model, tied, {}, plan), checkpoint)
    assert set(places) == set(model) - set(tied)
    return load_file(out), plan, set(tied)


def assert_same(tensors: dict[str, Any], gpt2: Any) -> None:
    """Our tensors are the live model's, the layers' matrices transposed."""
    state = {name.removeprefix("transformer."): t.detach().numpy() for name, t in gpt2.state_dict().items()}
    del state["lm_head.weight"]
    assert set(tensors) == set(state)
    for name, theirs in state.items():
        turned = name.startswith("h.") and theirs.ndim == 2
        np.testing.assert_array_equal(tensors[name], theirs.T if turned else theirs, err_msg=name)


def test_gpt2(gpt2: Any, tmp_path: Path) -> None:
    gpt2.save_pretrained(tmp_path / "hf")
    tensors, plan, tied = converted(tmp_path / "hf", tmp_path / "out.safetensors")
    assert tied == {"lm_head.weight"}
    assert sum(isinstance(source, Permute) for source in plan.sources.values()) == 8
    assert_same(tensors, gpt2)


def test_shards(gpt2: Any, tmp_path: Path) -> None:
    gpt2.save_pretrained(tmp_path / "hf", max_shard_size="40KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    tensors, _, _ = converted(tmp_path / "hf", tmp_path / "out.safetensors")
    assert_same(tensors, gpt2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_becomes_f32(gpt2: Any, tmp_path: Path, dtype: str) -> None:
    import copy

    import torch

    half = copy.deepcopy(gpt2).to(getattr(torch, dtype))
    half.save_pretrained(tmp_path / "hf")
    tensors, _, _ = converted(tmp_path / "hf", tmp_path / "out.safetensors")
    assert {t.dtype for t in tensors.values()} == {np.dtype("float32")}
    assert_same(tensors, half.float())


def test_opening_needs_neither_torch_nor_onnx(gpt2: Any, tmp_path: Path) -> None:
    gpt2.save_pretrained(tmp_path / "hf")
    code = (
        "import specc_runtime.weights_writer; from specc_runtime.checkpoint import Checkpoint\n"
        f"Checkpoint.open({str(tmp_path / 'hf')!r})"
    )
    assert loaded(code, "torch", "onnx", "onnxruntime", "numpy", "transformers") == []


# ---- the writer ------------------------------------------------------------------------------------------------------


def save(path: Path, tensors: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, path)


def written(
    path: Path, source: Expr | Initializer, info: TensorInfo, checkpoint: Checkpoint | None = None, seed: int = 0
) -> Any:
    from safetensors.numpy import load_file

    write_safetensors(path, [NewTensor("t", info, source)], checkpoint, seed=seed)
    return load_file(path)["t"]


@settings(deadline=None)
@given(
    x=hnp.arrays("float32", hnp.array_shapes(min_dims=2, max_dims=3, max_side=40), elements=st.floats(-9, 9, width=32)),
    data=st.data(),
)
def test_rearranged(x: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Blocks of any expression, however small a block is, are the tensor in row-major order."""
    folder = tmp_path_factory.mktemp("x")
    save(folder / WEIGHTS, {"x": x, "pad": np.zeros(3, "float32")})
    read: Expr = Read("x", x.shape, "F32")
    axes = data.draw(st.permutations(range(x.ndim)))
    axis = data.draw(st.integers(0, x.ndim - 1))
    expected = {
        "permute": (layout.permute(read, axes), x.transpose(axes)),
        "part": (
            layout.part(read, axis, 0, max(1, x.shape[axis] // 2)),
            x.take(range(max(1, x.shape[axis] // 2)), axis),
        ),
        "concat": (layout.concat([read, read], axis), np.concatenate([x, x], axis)),
        "last of the first": (layout.reshape(layout.unstack(read, 0)[-1], (x[0].size,)), x[-1].reshape(-1)),
        "part of a concat": (
            layout.part(layout.concat([read, read], 0), 0, x.shape[0] - 1, 2),
            np.concatenate([x, x])[x.shape[0] - 1 :][:2],
        ),
        "reshape": (layout.reshape(layout.permute(read, axes), (x.size,)), x.transpose(axes).reshape(-1)),
        "turned concat": (
            layout.permute(layout.concat([read, read], axis), axes),
            np.concatenate([x, x], axis).transpose(axes),
        ),
    }
    block = data.draw(st.integers(1, 200))
    with Checkpoint.open(folder) as checkpoint, pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "BLOCK", block)
        for name, (expr, want) in expected.items():
            got = np.concatenate([b.reshape(-1) for b in elements.blocks(expr, checkpoint)])
            np.testing.assert_array_equal(got.reshape(want.shape), want, err_msg=name)


def test_copies_without_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).random((700, 900), "float32")
    save(tmp_path / WEIGHTS, {"x": x})

    def refuse(*_: Any) -> int:
        raise OSError(errno.EXDEV, "not here")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(weights_writer, "_CHUNK", 4096 + 13)
    with Checkpoint.open(tmp_path) as checkpoint:
        out = written(tmp_path / "out", Read("x", x.shape, "F32"), TensorInfo(x.shape, "F32"), checkpoint)
    np.testing.assert_array_equal(out, x)


def test_experts_of_one_tensor_are_copied_by_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).random((4, 30, 20), "float32")
    save(tmp_path / WEIGHTS, {"x": x})
    monkeypatch.setattr(elements, "blocks", lambda *_: pytest.fail("read, not copied"))
    parts = layout.unstack(Read("x", x.shape, "F32"), 0)
    with Checkpoint.open(tmp_path) as checkpoint:
        for expected, part in zip(x, parts, strict=True):
            out = written(tmp_path / "out", part, TensorInfo((30, 20), "F32"), checkpoint)
            np.testing.assert_array_equal(out, expected)
        joined = layout.concat(parts[::-1], 0)
        out = written(tmp_path / "out", joined, TensorInfo((120, 20), "F32"), checkpoint)
    np.testing.assert_array_equal(out, x[::-1].reshape(120, 20))


def test_an_error_frees_the_room_of_mapped_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while one tensor is turned: those that wait for its room end too."""
    x = np.ones((64, 32), "float32")
    save(tmp_path / WEIGHTS, {"x": x})
    monkeypatch.setattr(weights_writer, "MAPPED", 1)  # one at a time
    turned = layout.transpose(Read("x", x.shape, "F32"))
    tensors = [NewTensor(f"t{i}", TensorInfo((32, 64), "F32"), turned) for i in range(6)]
    with Checkpoint.open(tmp_path) as checkpoint:
        write_safetensors(tmp_path / "out", tensors, checkpoint)
        with pytest.raises(OSError, match="space"):
            write_safetensors(Path("/dev/full"), tensors, checkpoint)


def test_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the number of threads nor the other tensors change what is written."""
    normal = Initializer("normal", {"std": 0.02, "mean": 0.0, "zero_row": None})
    tensors = [NewTensor(f"h.{i}.w", TensorInfo((300, 50), "F32"), normal) for i in range(6)]
    write_safetensors(tmp_path / "a", tensors)
    monkeypatch.setattr(weights_writer, "THREADS", 1)
    write_safetensors(tmp_path / "b", tensors)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    alone = written(tmp_path / "c", normal, TensorInfo((300, 50), "F32"))
    entries = read_header(tmp_path / "a")[0]
    data = [(tmp_path / "a").read_bytes()[e.offset : e.offset + e.nbytes] for e in entries.values()]
    assert len(set(data)) == 6
    assert 0.019 < alone.std() < 0.021
    assert (written(tmp_path / "d", normal, TensorInfo((300, 50), "F32"), seed=1) != alone).any()


def test_layout_of_the_file(tmp_path: Path) -> None:
    """Data starts aligned, larger elements lie first, the header keeps the order given, and torch reads it."""
    torch_file = pytest.importorskip("safetensors.torch")
    ones = Initializer("ones", {})
    types = {"flag": "BOOL", "half": "BF16", "count": "I64", "w": "F32"}
    tensors = [NewTensor(name, TensorInfo((3,), dtype), ones) for name, dtype in types.items()]
    places = write_safetensors(tmp_path / "x.safetensors", tensors)
    entries, metadata = read_header(tmp_path / "x.safetensors")
    assert metadata == {"format": "pt"}
    assert list(entries) == list(types)
    assert min(p.offset for p in places.values()) % 64 == 0
    assert all(p.offset % ITEM_SIZES[types[n]] == 0 for n, p in places.items())
    assert {n: (e.offset, e.nbytes) for n, e in entries.items()} == {n: (p.offset, p.nbytes) for n, p in places.items()}
    loaded = torch_file.load_file(tmp_path / "x.safetensors")
    assert all(t.float().tolist() == [1.0, 1.0, 1.0] for t in loaded.values())


def test_bf16_rounds_as_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 3.3e38, 1e-40, 0.0, np.inf, np.nan], "float32")
    ours = elements.converted(x, "F32", "BF16")
    theirs = torch.from_numpy(x).bfloat16()
    np.testing.assert_array_equal(elements.converted(ours, "BF16", "F32"), theirs.float().numpy())


def test_a_tie_that_is_none_is_refused(tmp_path: Path) -> None:
    x = np.ones((4, 2), "float32")
    save(tmp_path / WEIGHTS, {"wte": x, "same": x, "head": x * 2})
    read = {name: Read(name, (4, 2), "F32") for name in ("wte", "same", "head")}
    with Checkpoint.open(tmp_path) as checkpoint:
        check_duplicates(Plan({}, duplicates=(Duplicate("same", read["same"], "wte", read["wte"]),)), checkpoint)
        text = rejected(
            check_duplicates, Plan({}, duplicates=(Duplicate("head", read["head"], "wte", read["wte"]),)), checkpoint
        )
    assert "error[W312]: head and wte are one tensor of the model, but differ in the file" in text


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="space"):
        write_safetensors(Path("/dev/full"), [NewTensor("t", TensorInfo((4,), "F32"), Initializer("ones", {}))])


def test_writing_can_be_given_up(tmp_path: Path) -> None:
    """After `stop` no thread touches the file, and `finish` and `stop` may follow each other."""
    ones = Initializer("ones", {})
    tensors = [NewTensor(f"t{i}", TensorInfo((1 << 20,), "F32"), ones) for i in range(20)]
    writing = Writing(tmp_path / "a", tensors)
    assert list(writing.places) == [t.name for t in tensors]
    writing.stop()
    size = (tmp_path / "a").stat().st_size
    assert size <= 8 + 4096 + 20 * 4 * 2**20
    writing = Writing(tmp_path / "b", tensors)
    assert writing.finish() == writing.places
    writing.stop()
    assert len(read_header(tmp_path / "b")[0]) == 20


_MEASURE = """
import os, sys, threading
from pathlib import Path
from specc.weights.layout import *
from specc_runtime import elements
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.weights_writer import NewTensor, write_safetensors

def figure(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

before, most, done = figure("RssAnon"), 0.0, threading.Event()
def watch():
    global most
    while not done.wait(0.002):
        most = max(most, figure("RssAnon"))
thread = threading.Thread(target=watch); thread.start()
with Checkpoint.open(sys.argv[1]) as checkpoint:
    tensors = []
    for name, info in checkpoint.header().items():
        read = Read(name, info.shape, info.dtype)
        turned = permute(read, (1, 0)) if name.startswith("turn") else read
        tensors.append(NewTensor(name, TensorInfo(turned.shape, "F32"), turned))
    write_safetensors(Path(sys.argv[2]), tensors, checkpoint)
done.set(); thread.join()
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Copying and transposing 240 MB takes a few blocks of memory of its own, not the tensors."""
    big = np.zeros((5000, 3000), "float32")
    save(tmp_path / WEIGHTS, {"copy": big, "turn1": big, "turn2": big, "half": big.astype("float16"), "small": big[:9]})
    command = [sys.executable, "-c", _MEASURE, str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60, f"{done.stdout} MiB of anonymous memory"


# ---- hostile and unsuitable files ------------------------------------------------------------------------------------


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: float, end: float, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


HOSTILE = {
    "empty": (b"", "0 bytes are no safetensors file"),
    "text": (b"this is not a weights file at all", "it is not a safetensors file"),
    "header beyond the file": (file_of({}, length=2**63), "its header has 9,223,372,036,854,775,808 bytes"),
    "header cut short": (file_of({"a": entry(0, 8)})[:20], "its header has"),
    "data cut short": (file_of({"a": entry(0, 8)}, b"1234"), "'a' ends at byte"),
    "not UTF-8": (file_of(b'{"a\xff": 1}'), "not UTF-8"),
    "not JSON": (file_of(b"{nonsense}"), "not JSON"),
    "deep JSON": (file_of(b'{"a":' + b"[" * 100_000), "not JSON"),
    "huge number": (file_of(b'{"a":' + b"9" * 10_000 + b"}"), "not JSON"),
    "not an entry": (file_of({"a": 3}), "says nothing of 'a'"),
    "same name twice": (
        file_of(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"1234",
        ),
        "'a' twice",
    ),
    "unknown type": (file_of({"a": entry(0, 8, dtype="F31")}, b"12345678"), "unknown element type 'F31'"),
    "type is a list": (file_of({"a": entry(0, 8, dtype=[])}, b"12345678"), "unknown element type"),
    "negative shape": (file_of({"a": entry(0, 8, shape=(-1, -2))}, b"12345678"), "no proper shape"),
    "shape of bools": (file_of({"a": entry(0, 4, shape=(True,))}, b"1234"), "no proper shape"),
    "shape is a number": (file_of({"a": entry(0, 8, shape=2)}, b"12345678"), "no proper shape"),
    "lying shape": (file_of({"a": entry(0, 8, shape=(3,))}, b"12345678"), "has 8 bytes, its shape [3] in F32 needs 12"),
    "enormous shape": (file_of({"a": entry(0, 8, shape=(2**62,) * 60)}, b"12345678"), "needs"),
    "backward offsets": (file_of({"a": entry(8, 0)}, b"12345678"), "no proper place"),
    "float offsets": (file_of({"a": entry(0.0, 8.0)}, b"12345678"), "no proper place"),
    "overlap": (file_of({"a": entry(0, 8), "b": entry(4, 12)}, b"123456789012"), "'b' and 'a' overlap"),
    "gap": (file_of({"a": entry(4, 12)}, b"123456789012"), "4 bytes before 'a'"),
    "trailing bytes": (file_of({"a": entry(0, 8)}, b"123456789012"), "4 bytes at its end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name: str, tmp_path: Path) -> None:
    data, text = HOSTILE[name]
    (tmp_path / WEIGHTS).write_bytes(data)
    message = rejected(Checkpoint.open, tmp_path)
    assert message.startswith("error[W352]"), message
    assert text in message


@settings(deadline=None)
@given(data=st.binary(max_size=60), at=st.integers(0, 200))
def test_any_bytes_are_refused_or_read(data: bytes, at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is in a file, opening it gives tensors inside the file or a message."""
    good = file_of({"a": entry(0, 8), "b": entry(8, 12, (4,), "U8")}, b"123456789012")
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    for content in (data, good[:at] + data + good[at + len(data) :]):
        path.write_bytes(content)
        try:
            found = Checkpoint.open(path).tensors
        except Rejected as refusal:
            assert {d.code for d in refusal.diagnostics} <= {"W351", "W352"}
        else:
            assert all(e.offset + e.nbytes <= len(content) for e in found.values())


def test_a_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    save(tmp_path / WEIGHTS, {"x": np.ones((100, 50), "float32")})
    checkpoint = Checkpoint.open(tmp_path)
    os.truncate(tmp_path / WEIGHTS, 2000)
    read = Read("x", (100, 50), "F32")
    for source in (read, layout.transpose(read)):
        text = rejected(
            write_safetensors, tmp_path / "o", [NewTensor("x", TensorInfo(source.shape, "F32"), source)], checkpoint
        )
        assert "error[W352]" in text
        assert "it became shorter" in text


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickles_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 whatever")
    for place in (tmp_path, tmp_path / name):
        text = rejected(Checkpoint.open, place)
        assert text.startswith("error[W351]")
        assert f'AutoModel.from_pretrained("{tmp_path}").save_pretrained("{tmp_path}", safe_serialization=True)' in text


def test_a_pickle_in_disguise_is_refused(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"\x80\x02}q\x00.  and more")
    assert rejected(Checkpoint.open, tmp_path).startswith("error[W351]")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path, length: int) -> None:
    """640 is 80 02 in little-endian, as a pickle begins."""
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = length.to_bytes(8, "little") + header.ljust(length) + np.ones(1, "float32").tobytes()
    (tmp_path / WEIGHTS).write_bytes(data)
    assert list(Checkpoint.open(tmp_path).tensors) == ["x"]


def test_nothing_there(tmp_path: Path) -> None:
    assert "there is no checkpoint" in rejected(Checkpoint.open, tmp_path / "nowhere")
    assert "hf download" in rejected(Checkpoint.open, "hf:nobody/nothing")
    assert "there are no weights in" in rejected(Checkpoint.open, tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save(tmp_path / name, {"x": np.ones(1, "float32")})
    assert "has 2 safetensors files" in rejected(Checkpoint.open, tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert list(Checkpoint.open(tmp_path).tensors) == ["x"]
    assert list(Checkpoint.open(f"hf:{tmp_path}").tensors) == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON, line 1"),
        ("[1]", "is not a JSON object"),
        ("{" * 50_000, "is not JSON"),
        ('{"a": \n nope}', "is not JSON, line 2"),
    ],
)
def test_bad_config(text: str, message: str, tmp_path: Path) -> None:
    save(tmp_path / WEIGHTS, {"x": np.ones(1, "float32")})
    (tmp_path / "config.json").write_text(text)
    found = rejected(Checkpoint.open, tmp_path)
    assert found.startswith("error[E006]")
    assert message in found


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "no `weight_map`"),
        ({"weight_map": {"x": 3}}, "no `weight_map`"),
        ({"weight_map": {"x": "../../etc/passwd"}}, "is not a file of its folder"),
        ({"weight_map": {"x": "/etc/passwd"}}, "is not a file of its folder"),
        ({"weight_map": {"x": ".."}}, "is not a file of its folder"),
        ({"weight_map": {"x": "b.safetensors"}}, "the shard b.safetensors is missing"),
        ({"weight_map": {"y": "a.safetensors"}}, "a.safetensors does not have 'y'"),
    ],
)
def test_bad_index(index: Any, message: str, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"x": np.ones(1, "float32")})
    (tmp_path / INDEX).write_text(json.dumps(index))
    found = rejected(Checkpoint.open, tmp_path)
    assert found.startswith("error[W352]")
    assert message in found
