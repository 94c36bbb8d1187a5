"""What is told of weights sections and of checkpoints that do not fit."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weight_plans import evaluate, imported, infos, section

from specc import report
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.source import Source
from specc.syntax import ast
from specc.syntax.parser import parse
from specc.weights.layout import TensorInfo
from specc.weights.mapping import plan_export
from specc_runtime.build import Request, build

# ---- findings --------------------------------------------------------------------------------------------------------

FINDINGS = {
    "wrong shape": ("", infos(a=(2, 3)), infos(a=(2, 4)), ["W301"], "model [2, 3];  file [2, 4]"),
    "transposed": (
        '"h.{i}.w" = "h.{i}.w"',
        infos(h__0__w=(2, 3), h__1__w=(2, 3)),
        infos(h__0__w=(3, 2), h__1__w=(3, 2)),
        ["W301"],
        "append  |> transpose      (fixable)",
    ),
    "wrong type": ("", infos(a=(2,)), {"a": TensorInfo((2,), "I64")}, ["W301"], "the file has I64, the model F32"),
    "square": (
        '"a.q" = "a.q" |> transpose',
        infos(a__q=(2, 3), a__o=(3, 3)),
        infos(a__q=(3, 2), a__o=(3, 3)),
        ["W305"],
        "1 neighbouring rule is transposed",
    ),
    "unused": (
        "",
        infos(a=(2,)),
        {"a": TensorInfo((2,), "F32")} | infos(h__0__b=(1, 4), h__1__b=(1, 4)),
        ["W310"],
        'ignore "h.{i}.b"      (fixable)',
    ),
    "no source": ("", infos(a=(2,), x=(3,)), infos(a=(2,), y=(3,)), ["W311"], '"x" = "y"'),
    "rule without its tensor": (
        '"x.{i}" = "y.{i}"',
        infos(x__0=(2,), x__1=(2,)),
        infos(y__0=(2,)),
        ["W311"],
        "the file has no y.1",
    ),
    "mapped twice": (
        '"x.*" = "a.*"\n"x.{i}" = "b.{i}"',
        infos(x__0=(2,)),
        infos(a__0=(2,)),
        ["W312"],
        "mapped here first",
    ),
    "used twice": (
        '"x" = "a"\n"y" = "a"',
        infos(x=(2,), y=(2,)),
        infos(a=(2,)),
        ["W312"],
        "the file's a is used twice: for x and y",
    ),
    "one name twice": ('strip "p."', infos(a=(2,)), infos(a=(2,), p__a=(2,)), ["W312"], "a and p.a are both a here"),
    "bad pattern": ('"x{i}0" = "y{i}0"', infos(a=(2,)), infos(a=(2,)), ["W340", "W340"], "{i} touches the digit 0"),
    "one-sided capture": ('"x.{i}" = "y"', infos(a=(2,)), infos(a=(2,)), ["W340"], "{i} stands on one side only"),
    "unknown operation": ('"x" = "y" |> flip(0)', infos(x=(2,)), infos(y=(2,)), ["W341"], "unknown operation `flip`"),
    "no permutation": ('"x" = "y" |> permute([0, 0])', infos(x=(2, 2)), infos(y=(2, 2)), ["W341"], "not a permutation"),
    "names for one tensor": (
        '["x", "z"] = "y"',
        infos(x=(2,)),
        infos(y=(2,)),
        ["W341"],
        "the rule gives 1 tensor to 2 names",
    ),
    "uneven split": (
        '["x", "y"] = split("f", 2)',
        infos(x=(2,), y=(3,)),
        infos(f=(5,)),
        ["W301"],
        "does not divide into 2 equal parts",
    ),
    "transpose of a vector": (
        '"x" = "f" |> transpose',
        infos(x=(2,)),
        infos(f=(2,)),
        ["W301"],
        "swaps the axes of a matrix",
    ),
    "not a tensor": ('"x" = 3', infos(x=(2,)), infos(x=(2,)), ["W341"], "a file tensor, or an operation"),
    "missing argument": ('"x" = split("f")', infos(x=(2,)), infos(f=(2,)), ["W341"], "missing `sizes`"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_finding(name: str) -> None:
    rules, model, file, codes, text = FINDINGS[name]
    plan, found = imported(section(rules), model, file)
    printed = report.full(found)
    assert sorted(d.code for d in found) == codes, printed
    assert text in printed
    assert (plan is None) == any(d.severity == "error" for d in found)
    assert all(d.span is not None for d in found)


@pytest.mark.parametrize("name", ["transposed", "unused"])
def test_fix(name: str) -> None:
    """What is called fixable is: after the edit the plan is whole."""
    rules, model, file, _, _ = FINDINGS[name]
    node = section(rules)
    _, found = imported(node, model, file)
    text = report.apply_edits(node.span.source.text, found)
    collector = Collector()
    tree = parse(Source("m.spec", text), collector)
    assert tree is not None, text
    [fixed] = tree.items
    assert isinstance(fixed, ast.Weights)
    plan, found = imported(fixed, model, file)
    assert plan is not None, text + report.full(found)


def test_one_way_reshape_is_refused_on_export() -> None:
    node, model, file = section('"w" = "f" |> reshape([2, 3])'), infos(w=(2, 3)), infos(f=(6,))
    assert imported(node, model, file)[0] is not None
    collector = Collector()
    assert plan_export(node, model, {}, evaluate, collector) is None
    assert [d.code for d in collector.found] == ["W341"]


def test_many_kinds_are_counted() -> None:
    file = {f"x{'abcdefghijklmnop'[i]}": TensorInfo((i + 1,), "F32") for i in range(16)}
    _, found = imported(section(""), {}, file)
    assert len(found) == 9
    assert found[-1].message == "8 more file tensors have no use, of 8 other kinds"


# ---- messages about checkpoints, as `specc build` prints them --------------------------------------------------------

CHECKPOINTS = Path(__file__).with_name("errors") / "checkpoints"


def write_checkpoint(folder: Path, made: dict[str, Any]) -> None:
    """`tensors`: name -> shape; values differ. `files`: others by name. `cut`: keep that many bytes."""
    from safetensors.numpy import save_file

    folder.mkdir()
    if "config" in made:
        (folder / "config.json").write_text(json.dumps(made["config"]))
    for name, text in made.get("files", {}).items():
        (folder / name).write_text(text)
    if made["tensors"]:
        tensors = {n: np.full(s, i, "float32") for i, (n, s) in enumerate(made["tensors"].items())}
        save_file(tensors, folder / "model.safetensors")
    if "cut" in made:
        os.truncate(folder / "model.safetensors", made["cut"])


@pytest.mark.parametrize("spec", sorted(CHECKPOINTS.glob("*.spec")), ids=lambda path: path.stem)
def test_message(spec: Path, golden: Any, tmp_path: Path) -> None:
    """`errors/checkpoints/NAME.spec` built from the checkpoint that NAME.json describes says NAME.txt."""
    write_checkpoint(tmp_path / "hf", json.loads(spec.with_suffix(".json").read_text()))
    shutil.copy(spec, tmp_path)
    request = Request(spec.name, weights="hf", verify=False, render=False, emit=frozenset(), out=Path("out"))
    found: tuple[Diagnostic, ...]
    with chdir(tmp_path):
        try:
            found = build(request).warnings
        except Rejected as rejected:
            found = rejected.diagnostics
            assert not Path("out").exists()
    assert spec.stem.partition("_")[0] in {d.code for d in found}
    golden(spec.with_suffix(".txt"), report.full(found))
