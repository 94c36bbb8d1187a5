"""Config sections: hyper-parameters of a config.json, the keys that are accounted for; which section is taken."""

from __future__ import annotations

from typing import Any

import pytest
from weight_plans import section

from specc import report
from specc.diagnostics import Collector, Diagnostic
from specc.elaborate.values import FnValue
from specc.source import Source
from specc.syntax import ast
from specc.syntax.parser import parse
from specc.weights.activations import ACTIVATIONS
from specc.weights.config import Setting, builtin_functions, read_config
from specc.weights.config_writer import write_config
from specc.weights.sections import choose

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
        ("x = a; require b == len(c)", {"a": 1, "c": [2]}, "x: int = 1", "W334", "says `c = [2]`, and has no `b`"),
        ("x = a; require (b or d) == c", {"a": 1, "c": 2}, "x: int = 1", "W334", "`c = 2`, and has no `b` or `d`"),
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


# ---- written ---------------------------------------------------------------------------------------------------------

CHOICE = '"half" if flag == false else "whole"'


@pytest.mark.parametrize(
    ("expression", "value", "before", "after"),
    [
        (CHOICE, "half", {}, {"flag": False}),
        (CHOICE, "whole", {}, {"flag": True}),
        (CHOICE, "whole", {"flag": False}, {"flag": True}),
        (CHOICE, "other", {}, {}),
        ('"half" if flag != true else "whole"', "half", {}, {"flag": False}),
        ('"half" if false == flag else "whole"', "whole", {}, {"flag": True}),
        ('1 if kind == "a" else 2', 1, {"kind": "b"}, {"kind": "a"}),
        ('1 if kind == "a" else 2', 2, {}, {}),  # whatever the family has if nothing is said
        ('1 if kind == "a" else 2', 2, {"kind": "b"}, {"kind": "b"}),
        ('1 if kind == "a" else 2', 2, {"kind": "a"}, {}),
        ('1 if part.kind == "a" else 2', 2, {"part": {"kind": "a", "n": 3}}, {"part": {"n": 3}}),
        ('1 if kind == "a" else 2 if kind == "b"', 2, {"kind": "a"}, {"kind": "b"}),
        ("1 if flag else n", 5, {"flag": True}, {"flag": False, "n": 5}),
        ("n if flag else 1", 5, {}, {"flag": True, "n": 5}),
        ("n if flag else 1", 1, {"flag": True, "n": 5}, {"flag": False, "n": 5}),
        ("1 if key == none else 2", 2, {}, {}),  # nothing tells which value
        ("n or 4", 5, {}, {"n": 5}),
        ("n", None, {"n": 3}, {"n": None}),
        ("activation(name)", "mine", {"name": "silu"}, {"name": "silu"}),
    ],
)
def test_an_expression_is_turned_around(expression: str, value: Any, before: Any, after: Any) -> None:
    node = section(f"config {{ x = {expression} }}")
    assert write_config(node, before, {"x": value}, {"x"}, names=builtin_functions) == after
