"""`specc build`, end to end: what a build holds, where it goes, what it refuses, that it is the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from building import SMALL, arguments, assert_equal, content, make, refusal, specc

from specc import driver
from specc.ir.json import to_json
from specc.ir.members import aliases, parameter_count
from specc.weights.sections import model_tensors
from specc_runtime import certificate, manifest, open_build
from specc_runtime.build import Request, build
from specc_runtime.destination import folder_name
from specc_runtime.module import python_name

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
