"""Weights sections: patterns, names, plans in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weight_plans import evaluate, imported, infos, section

from specc import driver, report
from specc.diagnostics import Collector
from specc.weights.layout import Concat, Expr, Permute, Read, Reshape, Slice, TensorInfo
from specc.weights.mapping import plan_export, plan_import
from specc.weights.names import fold, generalize
from specc.weights.patterns import STAR, PatternError, pattern
from specc.weights.sections import model_tensors, sections

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


def random(tensors: Mapping[str, TensorInfo]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.arange(prod(t.shape)).reshape(t.shape) + 1000 * i for i, (name, t) in enumerate(tensors.items())}


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
