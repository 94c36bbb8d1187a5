"""Weights sections: patterns, plans in both directions, config mapping, and what is said of what does not fit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import chdir
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specc import driver, report
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.values import FnValue
from specc.source import Source
from specc.syntax import ast
from specc.syntax.parser import parse
from specc.weights.activations import ACTIVATIONS
from specc.weights.config import Setting, read_config
from specc.weights.layout import Concat, Expr, Permute, Read, Reshape, Slice, TensorInfo
from specc.weights.mapping import Plan, plan_export, plan_import
from specc.weights.names import fold, generalize
from specc.weights.patterns import STAR, PatternError, pattern
from specc.weights.sections import choose, model_tensors, sections
from specc_runtime.build import Request, build

# ---- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "captures"),
    [
        ("wte.weight", "wte.weight", {}),
        ("wte.weight", "wte.weights", None),
        ("h.{i}.attn.*", "h.11.attn.c_attn.bias", {"i": 11, STAR: "c_attn.bias"}),
        ("h.{i}.x", "h.01.x", None),
        ("h.{i}.x", "h..x", None),
        ("layer{s+1}.{i}.conv{k+1}.w", "layer1.0.conv3.w", {"s": 0, "i": 0, "k": 2}),
        ("layer{s+1}.w", "layer0.w", None),
        ("a.{i}.b.{i}", "a.2.b.2", {"i": 2}),
        ("a.{i}.b.{i}", "a.2.b.3", None),
        ("*.LayerNorm.gamma", "bert.LayerNorm.gamma", {STAR: "bert"}),
        ("*.x", "a.x.y", None),
        ("w_l{i}", "w_l" + "9" * 5000, None),
    ],
)
def test_pattern(text: str, name: str, captures: dict[str, Any] | None) -> None:
    assert pattern(text).match(name) == captures


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a*b*",
        "{i}{j}",
        "{i}0",
        "l0{i}",
        "*{i}",
        "{i}*",
        "h.{i",
        "h.i}",
        "h.{i*2}",
        "h.{}",
        ".".join(f"{{a{i}}}" for i in range(9)),
    ],
)
def test_bad_pattern(text: str) -> None:
    with pytest.raises(PatternError):
        pattern(text)


@given(
    st.lists(st.one_of(st.sampled_from(["{i}", "{j+1}", "{k}", "*", ".", "a", "b.", "x_"])), min_size=1, max_size=9),
    st.data(),
)
def test_render_and_match_are_inverse(pieces: list[str], data: st.DataObject) -> None:
    try:
        found = pattern("".join(pieces))
    except PatternError:
        return
    captures: dict[str, Any] = {
        name: data.draw(st.text("ab.0", max_size=5) if name == STAR else st.integers(0, 99))
        for name in sorted(found.captures)
    }
    assert found.match(found.render(captures)) == captures


# ---- names -----------------------------------------------------------------------------------------------------------


def test_repetitions_fold() -> None:
    names = [f"h.{i}.attn.bias" for i in range(12)]
    assert fold([*names, "wte.weight"]) == ["h.{0..11}.attn.bias", "wte.weight"]
    assert fold(["e.0.w1", "e.1.w1", "e.3.w1"]) == ["e.{0,1,3}.w1"]
    assert fold([f"layer{s}.{i}.w" for s in (1, 2) for i in range(2 + s)]) == ["layer1.{0..2}.w", "layer2.{0..3}.w"]
    assert generalize(names) == "h.{i}.attn.bias"
    assert generalize([f"l.{s}.{i}.w" for s in (1, 2) for i in range(3)]) == "l.{i}.{j}.w"
    assert generalize(["l.0.0", "l.1.1"]) is None


# ---- plans, carried out with numpy -----------------------------------------------------------------------------------

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


def evaluate(expr: ast.Expr) -> Any:
    """Sizes of the tests' rules: ints and lists of ints."""
    if isinstance(expr, ast.ListExpr):
        return tuple(evaluate(e) for e in expr.elements if isinstance(e, ast.Expr))
    assert isinstance(expr, ast.Int)
    return expr.value


def carry_out(expr: Expr, tensors: Arrays) -> np.ndarray[Any, Any]:
    if isinstance(expr, Read):
        found: np.ndarray[Any, Any] = tensors[expr.name]
    elif isinstance(expr, Permute):
        found = carry_out(expr.x, tensors).transpose(expr.axes)
    elif isinstance(expr, Reshape):
        found = carry_out(expr.x, tensors).reshape(expr.shape)
    elif isinstance(expr, Slice):
        found = carry_out(expr.x, tensors).take(range(expr.start, expr.start + expr.size), expr.axis)
    else:
        assert isinstance(expr, Concat)
        found = np.concatenate([carry_out(p, tensors) for p in expr.parts], axis=expr.axis)
    assert found.shape == expr.shape
    return found


def section(rules: str, source: str = "hf:m") -> ast.Weights:
    collector = Collector()
    tree = parse(Source("m.spec", f'weights M from "{source}" {{\n{rules}\n}}\n'), collector)
    assert tree is not None, report.full(collector.found)
    [node] = tree.items
    assert isinstance(node, ast.Weights)
    return node


def infos(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {name.replace("__", "."): TensorInfo(shape, "F32") for name, shape in shapes.items()}


def random(tensors: Mapping[str, TensorInfo]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.arange(prod(t.shape)).reshape(t.shape) + 1000 * i for i, (name, t) in enumerate(tensors.items())}


def imported(
    node: ast.Weights, model: Mapping[str, TensorInfo], file: Mapping[str, TensorInfo], **tied: str
) -> tuple[Plan | None, list[Diagnostic]]:
    collector = Collector()
    ties = {name.replace("__", "."): target for name, target in tied.items()}
    plan = plan_import(node, model, ties, file, evaluate, collector, file_name="model.safetensors")
    return plan, collector.found


ROUND_TRIPS = {
    "identity": ("", infos(a=(2, 3)), infos(a=(2, 3))),
    "rename": ('"m.{i}.*" = "f.{i}.*"', infos(m__0__w=(2,), m__1__w=(3,)), infos(f__0__w=(2,), f__1__w=(3,))),
    "shift": ('"l{s+1}.w" = "s.{s}.w"', infos(l1__w=(2,), l2__w=(3,)), infos(s__0__w=(2,), s__1__w=(3,))),
    "transpose": ('"w" = "w" |> transpose', infos(w=(2, 3)), infos(w=(3, 2))),
    "permute": ('"w" = permute("f", [2, 0, 1])', infos(w=(4, 2, 3)), infos(f=(2, 3, 4))),
    "reshape": ('"w" = "f" |> reshape([6] -> [2, 3])', infos(w=(2, 3)), infos(f=(6,))),
    "concat": ('"w" = concat("q", "k", "v", axis = 0)', infos(w=(6, 2)), infos(q=(2, 2), k=(2, 2), v=(2, 2))),
    "concat of sizes": ('"w" = concat("q", "k", axis = 1, sizes = [1, 4])', infos(w=(2, 5)), infos(q=(2, 1), k=(2, 4))),
    "split": ('["q", "k", "v"] = split("qkv", 3, axis = 0)', infos(q=(2, 2), k=(2, 2), v=(2, 2)), infos(qkv=(6, 2))),
    "split of sizes": (
        '["q", "k"] = split("qk" |> transpose, [1, 3], axis = 0)',
        infos(q=(1, 2), k=(3, 2)),
        infos(qk=(2, 4)),
    ),
    "stack": (
        '"e" = stack("e.{x}.w", over = "x", axis = 1)',
        infos(e=(2, 3, 4)),
        infos(e__0__w=(2, 4), e__1__w=(2, 4), e__2__w=(2, 4)),
    ),
    "stack per layer": (
        '"l.{i}.e" = stack("l.{i}.{x}.w", over = "x") |> permute([0, 2, 1])',
        infos(l__0__e=(2, 3, 2), l__1__e=(2, 3, 2)),
        {f"l.{i}.{x}.w": TensorInfo((2, 3), "F32") for i in range(2) for x in range(2)},
    ),
    "rope": ('"q" = "q" |> rope_half_from_interleaved(2)', infos(q=(8, 3)), infos(q=(8, 3))),
    "concat of operations": (
        '"w" = concat("q" |> transpose, "k" |> transpose, axis = 0) |> rope_half_from_interleaved(2) |> transpose',
        infos(w=(3, 8)),
        infos(q=(3, 4), k=(3, 4)),
    ),
    "strip": ('strip "p." except "head.*"', infos(a=(2,), head__w=(3,)), infos(p__a=(2,), head__w=(3,))),
    "add": ('add "model."', infos(model__a=(2,), model__b=(3,)), infos(a=(2,), b=(3,))),
    "strip and rules": ('strip "p."\n"x.*" = "y.*"', infos(x__a=(2,)), infos(p__y__a=(2,))),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trip(name: str) -> None:
    """Export undoes import and import undoes export, element by element."""
    rules, model, file = ROUND_TRIPS[name]
    node = section(rules)
    plan, found = imported(node, model, file)
    assert plan is not None, report.full(found)
    assert not found
    collector = Collector()
    back = plan_export(node, model, {}, evaluate, collector)
    assert back is not None, report.full(collector.found)
    assert set(back.sources) == set(file)
    assert list(plan.sources) == list(model)

    stored = random(file)
    ours = {name: carry_out(expr, stored) for name, expr in plan.sources.items()}
    assert {name: array.shape for name, array in ours.items()} == {name: t.shape for name, t in model.items()}
    for name, expr in back.sources.items():
        np.testing.assert_array_equal(carry_out(expr, ours), stored[name])
    ours = random(model)
    stored = {name: carry_out(expr, ours) for name, expr in back.sources.items()}
    for name, expr in plan.sources.items():
        np.testing.assert_array_equal(carry_out(expr, stored), ours[name])


def test_transpose_is_a_transpose() -> None:
    plan, _ = imported(section('"w" = "w" |> transpose'), infos(w=(2, 3)), infos(w=(3, 2)))
    assert plan is not None
    stored = random(infos(w=(3, 2)))
    np.testing.assert_array_equal(carry_out(plan.sources["w"], stored), stored["w"].T)


def test_rope_rows() -> None:
    """Row 2i + j of a head goes to row j*n/2 + i, as in the conversion scripts of Llama."""
    plan, _ = imported(section('"q" = "q" |> rope_half_from_interleaved(2)'), infos(q=(8, 1)), infos(q=(8, 1)))
    assert plan is not None
    assert carry_out(plan.sources["q"], random(infos(q=(8, 1))))[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_prefix_is_stripped_if_needed() -> None:
    node = section('strip "transformer." except "lm_head.*"')
    for file in (infos(transformer__a=(2,), lm_head__w=(3,)), infos(a=(2,), lm_head__w=(3,))):
        plan, found = imported(node, infos(a=(2,), lm_head__w=(3,)), file)
        assert plan is not None, report.full(found)


def test_rename_ignore_fresh() -> None:
    node = section('rename "*.gamma" -> "*.weight"\nignore "cls.*"\nfresh "head.*"')
    plan, found = imported(node, infos(ln__weight=(2,), head__w=(3,)), infos(ln__gamma=(2,), cls__x=(4,)))
    assert plan is not None, report.full(found)
    assert plan.fresh == ("head.w",)
    assert plan.ignored == ("cls.x",)
    assert list(plan.sources) == ["ln.weight"]


def test_a_tied_tensor_needs_no_source() -> None:
    model = infos(wte=(4, 2), head=(4, 2))
    plan, found = imported(section(""), model, infos(wte=(4, 2)), head="wte")
    assert plan is not None, report.full(found)
    assert list(plan.sources) == ["wte"]
    plan, found = imported(section(""), model, infos(head=(4, 2)), head="wte")
    assert plan is not None, report.full(found)
    assert plan.sources == {"wte": Read("head", (4, 2), "F32")}
    plan, found = imported(section(""), model, infos(wte=(4, 2), head=(4, 2)), head="wte")
    assert plan is not None, report.full(found)
    assert [(d.name, d.target) for d in plan.duplicates] == [("head", "wte")]


def test_without_a_section_names_are_equal() -> None:
    collector = Collector()
    assert plan_import(None, infos(a=(2,)), {}, infos(a=(2,)), evaluate, collector) is not None
    assert plan_import(None, infos(a=(2,)), {}, infos(b=(2,)), evaluate, collector) is None
    assert {d.code for d in collector.found} == {"W311"}


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


# ---- gpt2.spec -------------------------------------------------------------------------------------------------------


def gpt2(**sets: str) -> driver.Checked:
    return driver.load("gpt2", sets={"vocab": "99", "context": "16", "dim": "16", "layers": "3", "heads": "2", **sets})


def gpt2_file(prefix: str = "transformer.") -> dict[str, TensorInfo]:
    """Tensors of a Hugging Face GPT-2 of that size; matrices of the layers are [in, out]."""
    layer = {
        "ln_1.weight": (16,),
        "ln_1.bias": (16,),
        "attn.c_attn.weight": (16, 48),
        "attn.c_attn.bias": (48,),
        "attn.c_proj.weight": (16, 16),
        "attn.c_proj.bias": (16,),
        "ln_2.weight": (16,),
        "ln_2.bias": (16,),
        "mlp.c_fc.weight": (16, 64),
        "mlp.c_fc.bias": (64,),
        "mlp.c_proj.weight": (64, 16),
        "mlp.c_proj.bias": (16,),
    }
    shapes = {"wte.weight": (99, 16), "wpe.weight": (16, 16), "ln_f.weight": (16,), "ln_f.bias": (16,)}
    shapes |= {f"h.{i}.{name}": shape for i in range(3) for name, shape in layer.items()}
    return {f"{prefix}{name}": TensorInfo(shape, "F32") for name, shape in shapes.items()}


def test_gpt2_maps_whole() -> None:
    checked = gpt2()
    model = model_tensors(checked.model.module)
    [node] = sections(checked.file.tree, "GPT2")
    assert model["h.0.attn.c_attn.weight"].formula == "[3*dim, dim]"
    for prefix in ("transformer.", ""):
        file = gpt2_file(prefix) | {f"{prefix}h.{i}.attn.bias": TensorInfo((1, 1, 16, 16), "F32") for i in range(3)}
        collector = Collector()
        plan = plan_import(node, model, {"lm_head.weight": "wte.weight"}, file, evaluate, collector)
        assert plan is not None, report.full(collector.found)
        assert not collector.found
        assert set(plan.sources) == set(model) - {"lm_head.weight"}
        assert len(plan.ignored) == 3
        assert plan.sources["h.1.mlp.c_fc.weight"] == Permute(
            Read(f"{prefix}h.1.mlp.c_fc.weight", (16, 64), "F32"), (1, 0)
        )
    collector = Collector()
    back = plan_export(node, model, {"lm_head.weight": "wte.weight"}, evaluate, collector)
    assert back is not None
    assert set(back.sources) == set(gpt2_file())


# ---- config ----------------------------------------------------------------------------------------------------------


def params(text: str) -> tuple[ast.Param, ...]:
    tree = parse(Source("p.spec", f"model M({text}) {{ }}\n"), Collector())
    assert tree is not None
    [model] = tree.items
    assert isinstance(model, ast.BlockDef)
    return model.params


def config(text: str, json: dict[str, Any], hypers: str = "x: int = 1") -> tuple[dict[str, Setting], list[Diagnostic]]:
    collector = Collector()
    found = read_config(section(f"config {{ {text} }}"), params(hypers), json, collector)
    return found, collector.found


@pytest.mark.parametrize(
    ("expression", "json", "value"),
    [
        ("n", {"n": 3}, 3),
        ("n", {}, None),
        ("n", {"n": None}, None),
        ("a.b", {"a": {"b": 2}}, 2),
        ("a.b", {"a": {"c": None}}, None),
        ("n_inner or 4*n", {"n_inner": None, "n": 5}, 20),
        ("n_inner or 4*n", {"n_inner": 7, "n": 5}, 7),
        ("n_inner or 4*n", {}, None),
        ("a or b or true", {"a": False}, False),
        ("a or 1", {"a": 0}, 0),
        ("a or 1.5", {"a": 0.0}, 0.0),
        ('a or "x"', {"a": ""}, ""),
        ("dim / heads", {"dim": 12, "heads": 4}, 3),
        ("dim / heads", {"dim": 12}, None),
        ("len(id2label or [0, 1])", {"id2label": {"0": "a", "1": "b", "2": "c"}}, 3),
        ("len(id2label or [0, 1])", {}, 2),
        ('startswith(p, "gated-")', {"p": "gated-gelu"}, True),
        ('model_type == "qwen3"', {"model_type": "qwen3"}, True),
        ('model_type == "qwen3"', {}, False),
        ("w if (u or true) else none", {"w": 5, "u": False}, None),
        ('["s" if i % 2 == 0 else "f" for i in range(n)]', {"n": 3}, ("s", "f", "s")),
        ("list[0]", {"list": [4, 5]}, 4),
        ("layers", {"layers": [1, [2, 3]]}, (1, (2, 3))),
        ("a > 3", {"a": 4}, True),
        ("a > 3", {}, None),
        ("not a", {"a": True}, False),
        ("-a", {"a": 2}, -2),
        ("2**n", {"n": 3}, 8),
        ("4 in xs", {"xs": [4]}, True),
        ("w if has(w) else 5", {"w": None}, None),
        ("r.n", {"b": {"n": 3}}, 3),
        ("r.n", {"a": {"n": 4}, "b": {"n": 3}}, 3),
        ("r.n or m", {"a": {}, "m": 5}, 5),
        ("2*twice if has(r.n) else r.k.n", {"b": {"n": 3}}, 12),
        ("2*twice if has(r.n) else r.k.n", {"a": {"k": {"n": 7}}}, 7),
        ("[r for r in [twice, 4]][1]", {"b": {"n": 3}}, 4),
        ("w if has(w) else 5", {}, 5),
        ("w.a if has(w.a) else 5", {"w": {"a": 3}}, 3),
        ("w.a if has(w.a) else 5", {"w": None}, 5),
    ],
)
def test_config_expression(expression: str, json: dict[str, Any], value: Any) -> None:
    lets = "let r = a if b == none else b; let twice = r.n * 2"
    found, errors = config(f"{lets}; x = {expression}", json, "x: int? = 1")
    assert not errors, report.full(errors)
    assert found["x"].value == value
    assert type(found["x"].value) is type(value)


def test_config_origin_names_the_keys() -> None:
    found, _ = config("x = n_inner or 4*n", {"n": 5})
    assert found["x"] == Setting(20, "config.json n")


def test_config_none_keeps_the_default() -> None:
    found, errors = config("x = n", {})
    assert not found
    assert not errors


def test_config_functions() -> None:
    hypers = "act: fn = gelu, dropout: float = 0.1"
    found, errors = config(
        'act = gelu_tanh if p == "gated" else activation(p); dropout = dropout', {"p": "gated"}, hypers
    )
    assert not errors, report.full(errors)
    assert isinstance(found["act"].value, FnValue)
    assert found["act"].value.name == "gelu_tanh"
    assert "dropout" not in found  # a missing key is none, although a function is called so
    found, _ = config("act = activation(p)", {"p": "gelu_new"}, hypers)
    assert found["act"].value.name == "gelu_tanh"
    assert found["act"].origin == "config.json p"


@pytest.mark.parametrize(
    ("text", "json", "hypers", "code", "shown"),
    [
        ("x = activation(a)", {"a": "geluu"}, "x: fn = gelu", "W330", 'did the file mean "gelu"?'),
        ("x = theta", {"rope": {"theta": 10.0}}, "x: float", "W331", "rope.theta = 10.0"),
        ("y = a", {}, "x: int = 1", "E120", "no hyper-parameter `y`"),
        ("x = a; x = b", {"a": 1}, "x: int = 1", "E121", "given twice"),
        ("x = a / b", {"a": 7, "b": 2}, "x: int = 1", "E110", "7 / 2 is not a whole number"),
        ("x = a // b", {"a": 7, "b": 0}, "x: int = 1", "E110", "division by zero"),
        ("x = 4*a", {"a": "s"}, "x: int = 1", "E125", "takes numbers"),
        ("x = a", {"a": 2**70}, "x: int = 1", "E191", "64 bits"),
        ("x = a", {"a": float("nan")}, "x: float = 1.0", "E191", "finite"),
        ("x = 10**a", {"a": 10**9}, "x: int = 1", "E191", "64 bits"),
        ("x = [i for i in range(a)]", {"a": 10**9}, "x: [int] = []", "E190", "limit"),
        ("x = [len([j for j in range(a)]) for i in range(a)]", {"a": 60_000}, "x: [int] = []", "E192", "steps"),
        ("x = 1 if a else 2", {"a": 3}, "x: int = 1", "E106", "true or false"),
        ("x = frobnicate(a)", {}, "x: int = 1", "E103", "unknown function"),
        ("x = a[5]", {"a": [1]}, "x: int = 1", "E105", "outside"),
        ("x = f(a).b", {}, "x: int = 1", "E107", "not a key"),
        ("x = a; require b == 2", {"a": 1, "b": 3}, "x: int = 1", "W334", "`b = 3`"),
        ("x = a; require b", {"a": 1, "b": "s"}, "x: int = 1", "E106", "true or false"),
        ("x = a; require b == 1 and c == 1", {"a": 1, "c": 2}, "x: int = 1", "W334", "says `c = 2`"),
        ("x = a; require b == none", {"a": 1, "b": {"c": 2}}, "x: int = 1", "W334", 'says `b = {"c": 2}`'),
        ("x = a; ignore b", {"a": 1, "b": 3, "c": 3}, "x: int = 1", "W333", "`c = 3`"),
        ("x = a.b", {"a": {"b": 1, "c": 2}}, "x: int = 1", "W333", "`a.c = 2`"),
        ("x = a.b", {"a": 2}, "x: int = 1", "W333", "`a = 2`"),
        ("x = 1 if has(a + 1) else 2", {}, "x: int = 1", "E125", "not a key"),
        ("let r = a or b; x = r.n", {"b": {"n": 1, "m": 2}}, "x: int = 1", "W333", "`b.m = 2`"),
        ("let r = a; let r = b; x = r", {}, "x: int = 1", "E121", "`r` is given twice"),
        ("let r = a + 1; x = r.n", {"a": 1}, "x: int = 1", "E107", "not a key"),
        ("; ".join(f"let r{i + 1} = r{i} + r{i}" for i in range(40)), {}, "x: int = 1", "E192", "put in its places"),
    ],
)  # fmt: skip
def test_config_finding(text: str, json: dict[str, Any], hypers: str, code: str, shown: str) -> None:
    _, errors = config(text, json, hypers)
    printed = report.full(errors)
    assert [d.code for d in errors] == [code], printed
    assert shown in printed


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("x = n; require b == 2", {"b": None}),
        ("x = n; require b == 2; require a < 3", {"b": 2, "a": None}),
        ("x = n; require not b and not a", {"b": False, "a": False}),
        ("x = n; require (a == 1 and b.c == 2) and d == none", {"b": {"c": 2}}),
        ("let r = b or a; x = n; require r.c == 2", {"a": {"c": 2}}),
        ("x = n; ignore b, c.d", {"b": [1], "c": {"d": 1}}),
        ("x = n; ignore c", {"c": {"d": 1, "e": {"f": 2}}}),
        ("x = len(labels or [i for i in range(n)])", {"labels": {"0": "a"}}),
        ("x = n", {"model_type": "m", "dtype": "float16", "is_decoder": False, "b": None, "pruned_heads": {}}),
        ("x = c.n", {"c": {"n": 1, "torch_dtype": "float16", "use_cache": True}}),
    ],
)
def test_keys_that_are_accounted_for(text: str, json: dict[str, Any]) -> None:
    _, errors = config(text, json)
    assert not errors, report.full(errors)


def test_activation_names_mean_the_same_functions() -> None:
    """Every pair of the table computes the same values in transformers and here."""
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    ours = {
        "gelu": torch.nn.GELU(),
        "gelu_tanh": torch.nn.GELU(approximate="tanh"),
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "hardswish": torch.nn.Hardswish(),
        "leaky_relu": torch.nn.LeakyReLU(0.01),
        "identity": torch.nn.Identity(),
        "mish": torch.nn.Mish(),
        "relu": torch.nn.ReLU(),
        "sigmoid": torch.nn.Sigmoid(),
        "silu": torch.nn.SiLU(),
        "tanh": torch.nn.Tanh(),
    }
    x = torch.linspace(-6, 6, 1001)
    for theirs, name in ACTIVATIONS.items():
        torch.testing.assert_close(activations.ACT2FN[theirs](x), ours[name](x), atol=1e-6, rtol=1e-6, msg=theirs)


# ---- choice of a section ---------------------------------------------------------------------------------------------


def test_choice() -> None:
    found = [section("", "hf:gpt2"), section("", "torchvision:resnet*")]
    collector = Collector()
    assert choose(found, collector, model_type="gpt2") is found[0]
    assert choose(found, collector, format="gpt2") is found[0]
    assert choose(found, collector, format="torchvision:resnet50") is found[1]
    assert choose(found, collector) is None
    assert not collector.found
    assert choose(found, collector, model_type="llama", path="dir") is None
    assert [d.code for d in collector.found] == ["W350"]
    assert '"hf:gpt2", "torchvision:resnet*"' in report.full(collector.found)


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
