"""`specc build`: options, pictures, the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from building import SMALL, arguments, assert_equal, content, make, refusal, results, specc

from specc.diagnostics import Rejected
from specc_runtime import manifest, open_build, pictures, weights
from specc_runtime.inputs import Interface, draw
from specc_runtime.render import RenderFailed

# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(17, 27))
def test_opset(opset: int, tmp_path: Path) -> None:
    import onnx

    make("gpt2", tmp_path / "out", opset=opset)
    path = tmp_path / "out" / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert_equal(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(17, 27))
@pytest.mark.parametrize("name", list(SMALL))
def test_opset_is_proved(name: str, opset: int, tmp_path: Path) -> None:
    assert "agree" in make(name, tmp_path / "out", opset=opset, verify=True, entries=None).proof


def test_self_contained(tmp_path: Path) -> None:
    make("gpt2", tmp_path / "out", self_contained=True, verify=True)
    expected, found = results(tmp_path / "out")
    moved = tmp_path / "moved.onnx"
    (tmp_path / "out" / "model.onnx").rename(moved)
    import onnxruntime

    build = open_build(tmp_path / "out")
    of = Interface.from_json(build.manifest["entries"]["forward"]["interface"])
    feeds = draw(of, dict.fromkeys(of.dims, 3), masks="all true")
    again = onnxruntime.InferenceSession(moved, providers=["CPUExecutionProvider"]).run(None, feeds)
    assert np.array_equal(again[0], found[0]) and np.allclose(again[0], expected[0], atol=1e-5)


def test_self_contained_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into a protocol buffer lies beside the graph."""
    monkeypatch.setattr(weights, "MAX_EMBEDDED", 1000)
    make("transformer", tmp_path / "out", self_contained=True, entries=None)
    expected = [results(tmp_path / "out", entry)[1][0] for entry in ("forward", "encode", "decode")]
    (tmp_path / "out" / "model.safetensors").rename(tmp_path / "gone")
    import onnxruntime

    build = open_build(tmp_path / "out")
    for entry, value in zip(("forward", "encode", "decode"), expected, strict=True):
        of = Interface.from_json(build.manifest["entries"][entry]["interface"])
        path = build.folder / build.manifest["entries"][entry]["onnx"]
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feeds = draw(of, dict.fromkeys(of.dims, 3), masks="all true")
        assert np.array_equal(session.run(None, feeds)[0], value)


def test_entries(tmp_path: Path) -> None:
    make("transformer", tmp_path / "one", entries=("encode", "encode"))
    assert set(manifest.read(tmp_path / "one", "manifest.json")["entries"]) == {"encode"}
    assert "model.encode.onnx" in content(tmp_path / "one") and "model.onnx" not in content(tmp_path / "one")
    assert_equal(tmp_path / "one", "encode")
    made = make("transformer", tmp_path / "all", entries=None, verify=True)
    assert set(made.manifest["entries"]) == set(made.manifest["certificate"]["entries"])
    assert {"model.onnx", "model.encode.onnx", "model.decode.onnx"} <= set(content(tmp_path / "all"))
    shown = refusal(make, "transformer", tmp_path / "none", entries=("encoder",))
    assert "E103" in shown and "did you mean `encode`?" in shown and not (tmp_path / "none").exists()
    with pytest.raises(Rejected, match="no ONNX graph"):
        open_build(tmp_path / "one").session()


def test_without(tmp_path: Path) -> None:
    import onnx

    made = make("gpt2", tmp_path / "out", without=frozenset({"attention_mask"}), verify=True)
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    assert [i.name for i in graph.input] == ["input_ids"]
    assert made.manifest["entries"]["forward"]["without"] == ["attention_mask"]
    assert [i["name"] for i in made.manifest["entries"]["forward"]["interface"]["inputs"]] == ["input_ids"]
    assert_equal(tmp_path / "out")
    shown = refusal(make, "gpt2", tmp_path / "none", without=frozenset({"mask"}))
    assert "E103" in shown and "attention_mask" in shown


def test_emit(tmp_path: Path) -> None:
    made = make("gpt2", tmp_path / "torch", emit=frozenset({"torch"}), verify=True, render=True)
    assert set(content(tmp_path / "torch")) == {"gpt2_tiny.py", "ir.json", "manifest.json", "model.safetensors"}
    assert made.proof == "" and made.manifest["certificate"] is None
    assert open_build(tmp_path / "torch").module() is not None
    assert "no ONNX graph" in refusal(open_build(tmp_path / "torch").session)
    make("gpt2", tmp_path / "onnx", emit=frozenset({"onnx"}), verify=True)
    assert set(content(tmp_path / "onnx")) == {"model.onnx", "ir.json", "manifest.json", "model.safetensors"}
    assert open_build(tmp_path / "onnx").session() is not None
    assert "no torch source" in refusal(open_build(tmp_path / "onnx").module)


def test_no_weights(tmp_path: Path) -> None:
    import onnx

    made = make("gpt2", tmp_path / "out", no_weights=True, verify=True)
    assert made.manifest["weights"] is None and made.manifest["certificate"] is None
    assert set(content(tmp_path / "out")) == {"gpt2_tiny.py", "model.onnx", "ir.json", "manifest.json"}
    onnx.checker.check_model(onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False))
    assert sum(p.numel() for p in open_build(tmp_path / "out").module().parameters()) == made.manifest["parameters"]
    assert "no weights" in refusal(open_build(tmp_path / "out").session)


# ---- pictures --------------------------------------------------------------------------------------------------------


class Pen:
    """A renderer that writes what it is given to draw, up to a number of pictures."""

    limit = 100

    def __enter__(self) -> Pen:
        self.drawn = 0
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def export(self, model: Path, svg: Path, png: Path) -> None:
        if self.drawn == self.limit:
            raise RenderFailed("the model is too large for this pen")
        self.drawn += 1
        svg.write_bytes(model.read_bytes())
        png.write_bytes(model.read_bytes())


def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    monkeypatch.setattr(pictures, "Renderer", Pen)
    made = make("gpt2", tmp_path / "out", render=True, without=frozenset({"attention_mask"}))
    blocks = [f"blocks/{name}.svg" for name in ("GPT2Attention", "GPT2Block", "GPT2MLP")]
    assert set(content(tmp_path / "out")) == {
        *("gpt2_tiny.py", "ir.json", "manifest.json", "model.onnx", "model.safetensors"),
        *("model.view.onnx", "model.svg", "model.png", *blocks),
    }
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in made.pictures) == [*blocks, "model.png", "model.svg"]
    assert made.no_pictures == ""
    drawn = onnx.load(tmp_path / "out" / "model.view.onnx", load_external_data=False)
    assert [i.name for i in drawn.graph.input] == ["input_ids"] and {f.name for f in drawn.functions}
    assert (tmp_path / "out" / "model.svg").read_bytes() == drawn.SerializeToString(deterministic=True)


@pytest.mark.parametrize("limit", [0, 2])
def test_no_pictures(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that fails leaves none, and the build goes on."""
    monkeypatch.setattr(pictures, "Renderer", Pen)
    monkeypatch.setattr(Pen, "limit", limit)
    made = make("gpt2", tmp_path / "out", render=True)
    assert made.no_pictures == "the model is too large for this pen" and made.pictures == ()
    left = {"gpt2_tiny.py", "ir.json", "manifest.json", "model.onnx", "model.safetensors", "model.view.onnx"}
    assert set(content(tmp_path / "out")) == left
    assert not (tmp_path / "out" / "blocks").exists()


def test_no_browser(tmp_path: Path) -> None:
    """Without a browser: a note that says so, and exit code 0."""
    code = (
        "import sys; from specc_runtime import cli, pictures, render\n"
        "def none(self): raise render.RenderUnavailable('no browser was found')\n"
        "pictures.Renderer.__enter__ = none; sys.argv[0] = 'specc'; sys.exit(cli.main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "build", "linear", "--no-verify"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stderr == "note: no pictures: no browser was found\n"
    assert "model.view.onnx" in run.stdout and "model.svg" not in run.stdout


# ---- the command line ------------------------------------------------------------------------------------------------

QUICK = ("--no-verify", "--no-render")


def test_summary_and_exit_code(tmp_path: Path) -> None:
    run = specc("build", *arguments("linear"), "--no-render", cwd=tmp_path)
    assert run.returncode == 0 and run.stderr == ""
    first, *files, last = run.stdout.splitlines()
    assert first.startswith("linear: 2 parameters, ")
    assert [line.split()[0] for line in files] == [
        f"build/linear/{name}" for name in ("ir.json", "linear.py", "model.onnx", "model.safetensors")
    ]
    assert last.startswith("  torch and onnxruntime agree in ")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nowhere.spec"], 1, "E006"),
        (["linear", "--preset", "x"], 1, "E008"),
        (["linear", "--model", "LinearModel", "--preset", "x"], 1, "E008"),
        (["linear", "--model", "x"], 1, "E010"),
        (["gpt2", "--model", "GPT2", "--preset", "x", "--weights", "."], 1, "E008"),
        (["linear", "--weights", "nowhere"], 1, "E006"),
        (["linear", "--cache", "concat"], 1, "B620"),
        (["linear", "--emit", "tensorrt"], 2, "tensorrt"),
        (["linear", "--opset", "16"], 2, "opset"),
        (["linear", "--set", "x"], 2, "K=V"),
        ([], 2, "FILE"),
    ],
)
def test_refused(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    if "." in words:
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
        header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    run = specc("build", *words, *QUICK, cwd=tmp_path)
    assert run.returncode == code
    assert text in run.stderr and "Traceback" not in run.stderr and run.stdout == ""
    assert not (tmp_path / "build").exists()


def test_warnings_are_printed(tmp_path: Path) -> None:
    text = 'dim B\nmodel M {\n  param w: Tensor[2] = zeros()\n  init { "nothing" = zeros() }\n'
    (tmp_path / "m.spec").write_text(text + "  forward(x: Tensor[B, 2]) -> y: Tensor[B, 2] = x * w\n}\n")
    run = specc("build", "m.spec", *QUICK, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "warning[E251]" in run.stderr and "m: 2 parameters" in run.stdout


# ---- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--all-entries", "--entry", "forward"), "--all-entries builds each of them: leave --entry out"),
        (("--cache", "static=99999999999"), "static=N with 1 to 2147483647 positions"),
    ],
)
def test_options_that_say_too_much(words: tuple[str, ...], shown: str, tmp_path: Path) -> None:
    done = specc("build", "gpt2", *words, cwd=tmp_path)
    assert done.returncode == 2 and shown in done.stderr
