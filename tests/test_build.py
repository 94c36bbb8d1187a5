"""`specc build`, end to end: what a build holds, where it goes, what it refuses, that it is the same every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import SMALL, arguments, content, make, specc

from specc import driver, report
from specc.diagnostics import Rejected
from specc.ir.json import to_json
from specc.ir.members import aliases, parameter_count
from specc.weights.sections import model_tensors
from specc_runtime import certificate, manifest, open_build, pictures, weights
from specc_runtime.build import Request, build
from specc_runtime.destination import folder_name
from specc_runtime.inputs import Interface, draw
from specc_runtime.module import python_name
from specc_runtime.render import RenderFailed


def refusal(call: Any, *args: Any, **options: Any) -> str:
    """The messages of a refusal, as printed."""
    with pytest.raises(Rejected) as refused:
        call(*args, **options)
    return report.full(refused.value.diagnostics)


def results(folder: Path, entry: str = "forward", **sizes: int) -> tuple[list[Any], list[Any]]:
    """Outputs of torch and of onnxruntime for the same random inputs."""
    import torch

    build = open_build(folder)
    of = Interface.from_json(build.manifest["entries"][entry]["interface"])
    feeds = draw(of, {name: sizes.get(name, 3) for name in of.dims}, masks="all true")
    module = build.module()
    method = module if entry == "forward" else getattr(module, entry)
    with torch.no_grad():
        expected = method(**{i.argument: torch.from_numpy(feeds[i.name]) for i in of.inputs})
    expected = expected if isinstance(expected, tuple) else (expected,)
    return [e.numpy() for e in expected], build.session(entry).run(None, feeds)


def assert_equal(folder: Path, entry: str = "forward") -> None:
    expected, found = results(folder, entry)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(a).max())


# ---- what a build holds ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(SMALL))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Each model of the zoo, with its proof."""
    folder = tmp_path_factory.mktemp("built") / "out"
    make(request.param, folder, verify=True)
    return request.param, folder


def test_files(built: tuple[str, Path]) -> None:
    name, folder = built
    record = manifest.read(folder, "manifest.json")
    source = f"{python_name(record['name'])}.py"
    assert set(content(folder)) == {source, "ir.json", "manifest.json", "model.onnx", "model.safetensors"}
    assert set(record["files"]) == set(content(folder)) - {"manifest.json"}
    for file, entry in record["files"].items():
        assert (folder / file).stat().st_size == entry["bytes"]
        assert manifest.sha256(folder / file) == entry["sha256"]
    assert manifest.problem("ir.json", manifest.read(folder, "ir.json")) is None
    assert record["name"] == (SMALL[name].preset or name)


def test_proof_is_recorded(built: tuple[str, Path]) -> None:
    from jsonschema import Draft202012Validator

    _, folder = built
    record = manifest.read(folder, "manifest.json")
    Draft202012Validator(certificate.schema()).validate(record["certificate"])
    for file, digest in record["certificate"]["files"].items():
        assert record["files"][file]["sha256"] == digest
    assert record["certificate"]["entries"]["forward"]["runs"]


def test_names_and_count(built: tuple[str, Path]) -> None:
    from safetensors import safe_open

    name, folder = built
    request = SMALL[name]
    model = driver.load(request.target, preset=request.preset, sets=request.sets).model
    module = open_build(folder).module()
    state = module.state_dict()
    paths, tied = model_tensors(model.module), aliases(model.module)
    assert set(state) == set(paths)
    assert {n: tuple(t.shape) for n, t in state.items()} == {n: tuple(t.shape) for n, t in paths.items()}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(paths) - set(tied)
    count = sum(p.numel() for p in module.parameters())
    assert count == parameter_count(model.module) == manifest.read(folder, "manifest.json")["parameters"]


def test_no_absolute_path(built: tuple[str, Path]) -> None:
    _, folder = built
    for file, data in content(folder).items():
        for path in (folder, Path.cwd(), Path.home(), Path(__file__).parents[1]):
            assert len(path.parts) < 3 or bytes(path) not in data, file


def test_both_programs_run(built: tuple[str, Path]) -> None:
    assert_equal(built[1])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("manifest.json", lambda text: text[: len(text) // 2]),
        ("manifest.json", lambda text: text.replace('"specc-build/1"', '"specc-build/9"')),
        ("manifest.json", lambda text: text.replace('"parameters": ', '"parameters": -')),
        ("manifest.json", lambda text: "[]"),
        ("manifest.json", lambda text: "[" * 100_000),
        ("ir.json", lambda text: text.replace('"root"', '"toor"')),
        ("ir.json", lambda text: ""),
    ],
)
def test_damaged_record_is_refused(file: str, damage: Any, tmp_path: Path) -> None:
    make("linear", tmp_path / "out")
    path = tmp_path / "out" / file
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    shown = refusal(manifest.read, tmp_path / "out", file)
    assert "B660" in shown and file in shown and "build it again" in shown


def damages() -> dict[str, Any]:
    """What is done to the first operator's node, module or type of an ir.json."""
    return {
        "a key too many": lambda ir, node: node.update(more=1),
        "a key of another kind": lambda ir, node: node.update(path=[]),
        "a key too few": lambda ir, node: node.pop("inputs"),
        "a kind that there is not": lambda ir, node: node.update(kind="goto"),
        "a size that is none": lambda ir, node: node["outputs"][0]["type"]["shape"].append(1.5),
        "an operator that sizes do not have": lambda ir, node: node["outputs"][0]["type"]["shape"].append(["-", 1, 2]),
        "a value before the first": lambda ir, node: node["inputs"].append(-1),
        "a number that is not written out": lambda ir, node: node["inputs"].append({"scalar": 1}),
        "a member of no kind": lambda ir, node: ir["modules"][0]["members"].update(x={"kind": "op"}),
    }


@pytest.mark.parametrize("what", damages())
def test_schema_of_the_ir(what: str) -> None:
    """References that are spelled out change nothing of what the published schema says."""
    from jsonschema import Draft202012Validator

    content = json.loads(json.dumps(to_json(driver.load("specs/gpt2.spec", preset="gpt2-tiny").model)))
    published = Draft202012Validator(manifest.schema("ir.json"))
    assert manifest.problem("ir.json", content) is None and published.is_valid(content)
    nodes = (n for module in content["modules"] for graph in module["graphs"] for n in graph["nodes"])
    damages()[what](content, next(n for n in nodes if n["kind"] == "op"))
    assert manifest.problem("ir.json", content) is not None and not published.is_valid(content)


def test_no_build() -> None:
    assert "B660" in refusal(open_build, "/nowhere/at/all")


# ---- the same every time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "transformer"])
def test_same_bytes(name: str, tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed / ("deeper" * int(seed))
        folder.mkdir(parents=True)
        run = specc(
            "build", *arguments(name), "--all-entries", "--no-verify", "--no-render", cwd=folder, PYTHONHASHSEED=seed
        )
        assert run.returncode == 0, run.stderr
        assert run.stderr == ""
        [made] = (folder / "build").iterdir()
        found.append(content(made))
    one, two = found
    records = [json.loads(files.pop("manifest.json")) for files in found]
    assert one == two
    for record in records:
        del record["timings"]
    assert records[0] == records[1]


@pytest.mark.slow
@pytest.mark.render
def test_same_pictures(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        run = specc("build", *arguments("gpt2"), "--no-verify", cwd=tmp_path / seed, PYTHONHASHSEED=seed)
        assert run.returncode == 0, run.stderr
        if "no pictures" in run.stderr:
            pytest.skip(run.stderr.strip())
        files = content(tmp_path / seed / "build" / "gpt2-tiny")
        del files["manifest.json"]
        found.append(files)
    assert {"model.svg", "model.png", "model.view.onnx", "blocks/GPT2Block.svg"} <= set(found[0])
    assert found[0] == found[1]


def test_seed(tmp_path: Path) -> None:
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        make("mlp", tmp_path / out, seed=seed)
    a, b, c = ((tmp_path / out / "model.safetensors").read_bytes() for out in "abc")
    assert a == b and a != c


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


def test_presets_do_not_overwrite_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for preset in ("mnist", "small"):
        build(Request("mlp", preset=preset, verify=False, render=False))
    assert sorted(p.name for p in (tmp_path / "build").iterdir()) == ["mnist", "small"]


HOSTILE = [
    "../../x",
    "a/b",
    "a-b",
    "/etc/x",
    ".hidden",
    "..",
    ".",
    "",
    "torch",
    "class",
    "2b",
    "x" * 300,
    "ü",
    "a\nb",
    "-o",
]


def test_names_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset's name is whatever its author wrote."""
    monkeypatch.chdir(tmp_path)
    names = [name for name in HOSTILE if "\n" not in name and name]
    text = "dim B\nmodel M { forward(x: Tensor[B, 2]) -> y: Tensor[B, 2] = relu(x) }\n"
    (tmp_path / "m.spec").write_text(text + "".join(f'preset "{name}" = M()\n' for name in names))
    for name in names:
        made = build(Request("m.spec", preset=name, verify=False, render=False))
        assert made.folder.parent == tmp_path / "build"
        assert open_build(made.folder).module() is not None
    assert len(list((tmp_path / "build").iterdir())) == len(names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["build", "m.spec"]


def test_folder_names() -> None:
    for name in ("gpt2", "gpt2-medium", "v1.5", "my model", "ü"):
        assert folder_name(name) == name
    found = [folder_name(name) for name in HOSTILE]
    assert len({*found}) == len(found)
    for name in found:
        assert Path(name).name == name and name[0] not in ".- " and len(name.encode()) < 255
    assert len({python_name(name) for name in HOSTILE} & {"torch", "class"}) == 0
    assert all(python_name(name).isidentifier() for name in HOSTILE)


def prepared(folder: Path, kind: str) -> Path:
    """Something that is where a build should go."""
    out = folder / "out"
    match kind:
        case "a folder of something else":
            out.mkdir()
            (out / "thesis.tex").write_text("ten years of work")
        case "another manifest.json":
            out.mkdir()
            (out / "manifest.json").write_text('{"name": "web app", "icons": []}')
        case "a build with a file of mine":
            make("linear", out)
            (out / "notes.md").write_text("mine")
        case "a file":
            out.write_text("a file")
        case "a file above":
            out.write_text("a file")
            out = out / "deeper" / "out"
        case "a folder above the current":
            out = Path("..")
        case "the current folder":
            out = Path(".")
        case "a link to a folder of something else":
            (folder / "real").mkdir()
            (folder / "real" / "x").write_text("x")
            out.symlink_to(folder / "real")
        case "too long a name":
            out = folder / ("x" * 300)
    return out


REFUSED = [
    "a folder of something else",
    "another manifest.json",
    "a build with a file of mine",
    "a file",
    "a file above",
    "a folder above the current",
    "the current folder",
    "a link to a folder of something else",
    "too long a name",
]


@pytest.mark.parametrize("kind", REFUSED)
def test_place_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    out = prepared(tmp_path, kind)
    before = content(tmp_path)
    shown = refusal(make, "linear", out)
    assert ("B640" if kind == "too long a name" else "B660") in shown
    assert content(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_place_is_taken(tmp_path: Path) -> None:
    """An empty folder, an earlier build (with Python's own cache in it), a link to one, folders that do not exist."""
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        make("linear", out)
        (out / "__pycache__").mkdir()
        (out / "__pycache__" / "linear.pyc").write_bytes(b"")
        make("mlp", out)
        assert "mlp.py" in content(out) and "linear.py" not in content(out)
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    make("linear", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and "linear.py" in content(tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "empty", "link"]


def test_a_certificate_that_does_not_fit_its_schema_is_refused(tmp_path: Path) -> None:
    """The certificate's own schema holds inside the manifest, when it is written and when it is read."""
    folder = make("linear", tmp_path / "linear", verify=True).folder
    record = json.loads((folder / "manifest.json").read_text())
    record["certificate"]["entries"]["forward"]["runs"][0]["sizes"] = "several"
    (folder / "manifest.json").write_text(json.dumps(record))
    assert "error[B660]" in refusal(manifest.read, folder, "manifest.json")


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
