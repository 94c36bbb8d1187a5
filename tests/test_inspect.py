"""The tree of an entry: what is in it, what it costs, what is said of sizes that do not fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fresh import loaded

from specc import driver
from specc.diagnostics import Rejected
from specc.dims import Dim
from specc.inspect import Block, Report, report
from specc.inspect.counts import Counts
from specc.inspect.numbers import formula, rounded
from specc.inspect.text import table
from specc.ir.graph import Model
from specc.ir.members import parameter_count

SPECS = Path(__file__).resolve().parents[1] / "specs"


def model(name: str, text: str = "", tmp_path: Path | None = None, **sets: str) -> Model:
    if tmp_path is not None:
        (tmp_path / f"{name}.spec").write_text(text, encoding="utf-8")
        return driver.load(tmp_path / f"{name}.spec", sets=sets).model
    return driver.load(SPECS / f"{name}.spec", sets=sets).model


def rows(block: Block, depth: int = 0) -> list[tuple[int, str, str, int]]:
    found = [(depth, block.path, block.name, block.count)]
    for child in block.children:
        found += rows(child, depth + 1)
    return found


def find(block: Block, path: str) -> Block:
    """A row by its full path; rows without a block of their own are passed through."""
    waiting = [("", block)]
    while waiting:
        prefix, row = waiting.pop()
        here = ".".join(part for part in (prefix, row.path) if part)
        if here == path:
            return row
        waiting += [(here, child) for child in row.children]
    raise AssertionError(f"no row {path}")


def test_gpt2_is_a_tree_of_formulas() -> None:
    found = report(model("gpt2"))
    assert rows(found.root) == [
        (0, "", "GPT2", 1),
        (1, "wte", "Embedding", 1),
        (1, "wpe", "Embedding", 1),
        (1, "h.{0..11}", "GPT2Block", 12),
        (2, "ln_1", "LayerNorm", 1),
        (2, "attn", "GPT2Attention", 1),
        (3, "c_attn", "Linear", 1),
        (3, "c_proj", "Linear", 1),
        (2, "ln_2", "LayerNorm", 1),
        (2, "mlp", "GPT2MLP", 1),
        (3, "c_fc", "Linear", 1),
        (3, "c_proj", "Linear", 1),
        (1, "ln_f", "LayerNorm", 1),
        (1, "lm_head", "Linear", 1),
    ]
    assert found.parameters == 124_439_808
    assert found.weight_bytes == 4 * 124_439_808
    assert found.ties == (("lm_head.weight", "wte.weight"),)
    assert found.dims == ("B", "T") and found.facts == ("T <= 1024",)


def test_shapes_are_over_the_entrys_dims_deep_inside() -> None:
    found = report(model("gpt2"))
    assert str(find(found.root, "h.{0..11}.mlp.c_fc").results[0][1]) == "Tensor[B, T, 3072]"
    # the encoder's own dims are N and B, MultiheadAttention's are T and B: the tree speaks of the entry's
    transformer = report(model("transformer"))
    assert str(find(transformer.root, "encoder.layers.{0..5}.self_attn").results[0][1]) == "Tensor[B, N, 512]"
    assert str(find(transformer.root, "decoder.layers.{0..5}.self_attn").results[0][1]) == "Tensor[B, T, 512]"


def test_past_is_zero_in_the_plain_entry() -> None:
    assert "past" not in json.dumps(report(model("gpt2")).to_json())


def test_flops_are_those_of_the_operators() -> None:
    b, t = Dim.symbol("B"), Dim.symbol("T")
    found = report(model("gpt2"))
    assert find(found.root, "h.{0..11}.attn.c_attn").flops == b * t * (2 * 768 * 2304)
    assert find(found.root, "lm_head").flops == b * t * (2 * 768 * 50257)
    total = found.root.flops
    assert total is not None
    parts = sum((c.flops * c.count for c in found.root.children if c.flops is not None), Dim.const(0))
    # what is left are the model's own operators: an addition of embeddings, and positions that count
    own = total - parts
    assert own.evaluate({"B": 1, "T": 1}) < 10 * 768
    # 2 x parameters x tokens is the usual estimate without attention
    assert total.evaluate({"B": 1, "T": 1}) == pytest.approx(2 * 124_439_808, rel=0.02)


def test_without_an_optional_input_the_graph_differs() -> None:
    given, left_out = report(model("gpt2")), report(model("gpt2"), without=frozenset({"attention_mask"}))
    assert [name for name, _ in left_out.inputs] == ["input_ids"]
    assert str(find(given.root, "wpe").results[0][1]) == "Tensor[B, T, 768]"
    assert str(find(left_out.root, "wpe").results[0][1]) == "Tensor[T, 768]"


@pytest.mark.parametrize("name", ["linear", "mlp", "gpt", "gpt2", "transformer"])
def test_counts_equal_those_of_the_expanded_tree(name: str) -> None:
    m = model(name)
    found = report(m)
    assert found.parameters == found.root.parameters == parameter_count(m.module)

    def own(block: Block) -> int:
        return block.parameters * block.parts

    assert sum(map(own, (*found.root.children, *found.unused))) == found.parameters


def test_an_entry_names_what_it_does_not_reach() -> None:
    encode = report(model("transformer"), "encode")
    assert [(b.path, b.count, b.use) for b in encode.unused] == [
        ("decoder.layers.{0..5}", 6, "unused"),
        ("generator", 1, "unused"),
    ]
    assert encode.dims == ("B", "N")
    assert report(model("transformer")).unused == ()


def test_a_part_that_runs_twice_is_counted_once() -> None:
    found = report(model("transformer"))
    first, second = (c for c in found.root.children if c.path == "embed")
    assert (first.use, first.parameters) == ("called", 37_000 * 512)
    assert (second.use, second.parameters) == ("again", 0)


LOOPS = """from std.nn import Linear
dim B
block Pair(dim: int) {
  a: Linear(dim, dim)
  b: Linear(dim, dim, bias = false)
  tie b.weight = a.weight
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = b(relu(a(x)))
}
model Loops(dim: int = 8, layers: int = 4) {
  groups: [{ one: Linear(dim, dim); two: Pair(dim) } for i in range(layers)]
  shared: Linear(dim, dim)
  last: [Linear(dim, dim) for i in range(3)]
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] {
    for g in groups { x += g.two(g.one(x)) }
    for i in range(layers) { x = shared(x) }
    for i in range(2) { x = last[i](x) }
    return x
  }
}
"""


def test_a_call_inside_a_function_of_two_meanings_runs_once(tmp_path: Path) -> None:
    """`sum` and `max` are compile-time functions too: their arguments are looked at to tell which is meant."""
    text = """from std.nn import Linear
dim B
model M {
  fc: Linear(4, 3)
  forward(x: Tensor[B, 4]) -> Tensor[B] = sum(fc(x), axis = 1)
}
"""
    found = report(model("m", text, tmp_path))
    assert rows(found.root) == [(0, "", "M", 1), (1, "fc", "Linear", 1)]


def test_loops_are_shown_once(tmp_path: Path) -> None:
    m = model("loops", LOOPS, tmp_path)
    found = report(m)
    assert rows(found.root) == [
        (0, "", "Loops", 1),
        (1, "groups.{0..3}", "", 4),
        (2, "one", "Linear", 1),
        (2, "two", "Pair", 1),
        (3, "a", "Linear", 1),
        (3, "b", "Linear", 1),
        (1, "shared", "Linear", 4),
        (1, "last.{0..1}", "Linear", 2),
    ]
    assert [(b.path, b.parameters) for b in found.unused] == [("last.2", 72)]
    assert found.parameters == parameter_count(m.module) == 4 * (72 + 72) + 72 + 3 * 72
    assert found.ties == tuple((f"groups.{i}.two.b.weight", f"groups.{i}.two.a.weight") for i in range(4))
    assert find(found.root, "groups.{0..3}.two.b").tied == ("weight",)
    shared = find(found.root, "shared")
    assert (shared.count, shared.parts, shared.parameters) == (4, 1, 72)
    assert "(tied)" in table(found) and "4 x loop of 2" in table(found)


def test_a_tie_from_outside_is_marked_where_the_parameter_is(tmp_path: Path) -> None:
    tie = "  tie groups.2.one.weight = last.0.weight\n"
    header = "  forward(x: Tensor[B, dim]) -> y"
    m = model("tied", LOOPS.replace(header, tie + header), tmp_path)
    found = report(m)
    assert [(r[1], r[3]) for r in rows(found.root) if r[1].startswith("groups")] == [
        ("groups.{0..1}", 2),
        ("groups.2.one", 1),
        ("groups.2.two", 1),
        ("groups.3.one", 1),
        ("groups.3.two", 1),
    ]
    assert find(found.root, "groups.2.one").tied == ("weight",)
    assert find(found.root, "groups.2.one").parameters == 8
    assert found.parameters == parameter_count(m.module)


def test_reaching_into_a_block_counts_its_parameters_once(tmp_path: Path) -> None:
    text = LOOPS.replace("    for g in groups", "    x = groups[1].two.a(x)\n    for g in groups")
    m = model("inside", text, tmp_path)
    found = report(m)
    inside = found.root.children[0]
    assert (inside.path, inside.use, inside.parameters) == ("groups.1.two.a", "inside", 0)
    assert "(part)" in table(found)
    assert sum(c.parameters * c.parts for c in (*found.root.children, *found.unused)) == found.parameters
    assert found.parameters == parameter_count(m.module)


def test_a_promise_of_another_entry_is_not_asked_for(tmp_path: Path) -> None:
    text = """dim B, T, N
model Two {
  dim T <= 8
  forward(x: Tensor[B, T]) -> Tensor[B, T] = relu(x)
  fn other(y: Tensor[B, N]) -> Tensor[B, N] = relu(y)
}
"""
    m = model("two", text, tmp_path)
    assert report(m).facts == ("T <= 8",)
    assert report(m, "other", at={"B": 1, "N": 99}).facts == ()


def test_numbers_at_sizes() -> None:
    found = report(model("gpt2"), at={"T": 1024, "B": 2})
    data = found.to_json()
    assert found.at == {"B": 2, "T": 1024}
    assert data["tree"]["results"][0]["shape_at"] == [2, 1024, 50257]
    assert found.root.flops is not None
    assert data["tree"]["flops_at"] == found.root.flops.evaluate({"B": 2, "T": 1024})
    assert "[2, 1024, 768]" in table(found)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"B": 1, "T": 2048}, "B = 1, T = 2048: forward needs T <= 1024"),
        ({"B": 0, "T": 1}, "B = 0, T = 1: forward needs B >= 1"),
        ({"B": 1}, "no size is given for `T`"),
        ({}, "no size is given for `B`, `T`"),
        ({"B": 1, "T": 1, "S": 1}, "forward has no dim `S`"),
    ],
)
def test_sizes_that_do_not_fit(at: dict[str, int], message: str) -> None:
    with pytest.raises(Rejected) as caught:
        report(model("gpt2"), at=at)
    assert [d.message for d in caught.value.diagnostics] == [message]


def test_names_that_do_not_exist() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"entry": "encode"}, "GPT2 has no entry `encode`"),
        ({"without": frozenset({"mask"})}, "forward has no optional input `mask`"),
    ]
    for keywords, message in wrong:
        with pytest.raises(Rejected) as caught:
            report(model("gpt2"), **keywords)
        assert [(d.code, d.message) for d in caught.value.diagnostics] == [("E103", message)]


def test_depth() -> None:
    found = report(model("gpt2"), depth=1)
    assert max(depth for depth, *_ in rows(found.root)) == 1
    assert found.root.parameters == 124_439_808


def test_70b() -> None:
    m = model("gpt2", dim="8192", layers="80", heads="64", vocab="128_000", context="8192")
    found = report(m, at={"B": 1, "T": 8192})
    assert found.parameters > 64e9
    assert find(found.root, "h.{0..79}").count == 80


def test_every_module_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    m = model("gpt2")
    counted: list[object] = []
    original = Counts._member

    def spy(self: Counts, member: object) -> object:
        counted.append(member)
        return original(self, member)  # type: ignore[arg-type]

    monkeypatch.setattr(Counts, "_member", spy)
    assert Counts().of(m.module).parameters == 124_439_808
    assert len(counted) < 60  # 12 blocks of 12 parameters each would be more than twice that


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (Dim.const(0), "0"),
        (Dim.const(1_234_567), "1,234,567"),
        (Dim.symbol("B") * 5000, "5,000*B"),
        (Dim.symbol("B") * Dim.symbol("T") ** 2 * 3132 + Dim.symbol("B") * Dim.symbol("T") * 7, "B*T*(3,132*T + 7)"),
        (Dim.symbol("B") ** 2 * 3 + Dim.symbol("B") ** 3, "B**2*(B + 3)"),
        (Dim.symbol("B") + 1, "B + 1"),
        (Dim.symbol("x1000") * 1000 + Dim.symbol("x1000") * Dim.symbol("B"), "x1000*(B + 1,000)"),
        (None, "(too long to write)"),
    ],
)
def test_formula(dim: Dim | None, text: str) -> None:
    assert formula(dim) == text


@pytest.mark.parametrize("name", ["gpt2", "transformer", "mlp"])
def test_a_written_formula_means_the_same(name: str) -> None:
    found = report(model(name))
    assert found.root.flops is not None
    env = {"B": 3, "T": 5, "N": 7}
    assert eval(formula(found.root.flops).replace(",", ""), {}, env) == found.root.flops.evaluate(env)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (292_619_551_744, "292.6 G"), (10**18, "1,000 P"), (10**21, "1,000,000 P")],
)
def test_rounded(number: int, text: str) -> None:
    assert rounded(number) == text


@pytest.mark.parametrize("width", [None, 100, 40])
def test_columns_are_aligned_and_nothing_is_cut(width: int | None) -> None:
    found = report(model("transformer"))
    text = table(found, width)
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("block "))
    right = head.index("parameters") + len("parameters")
    for line in lines[lines.index(head) + 1 :]:
        if " Linear  " in line:
            assert line[right : right + 2].strip() == "" and line[right - 1] != " "
    assert all(line == line.rstrip() for line in lines)
    written = re.sub(r"\s+", "", "".join(line[right:] for line in lines[: lines.index("", 2)]))
    assert formula(found.root.flops).replace(" ", "") in written
    for part in (
        "encoder.layers.{0..5}  6 x EncoderLayer",
        "multihead_attn  MultiheadAttention.attend",
        "6 x 3,152,384",
    ):
        assert part in text


def test_folded_formulas_stay_within_the_screen() -> None:
    found = report(model("transformer"))
    lines = table(found, 110).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("block "))
    end = lines.index("", start)
    assert max(len(line) for line in lines[start:end]) <= 110
    assert end - start > len(rows(found.root))  # at least one formula was folded


def test_str_is_the_table() -> None:
    found: Report = report(model("mlp"))
    assert str(found) == table(found).rstrip("\n")


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from specc_runtime.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=SPECS, timeout=60)


def test_command_prints_json() -> None:
    done = run("inspect", "gpt2.spec", "--format", "json", "--at", "B=1,T=1_024", "--preset", "gpt2-tiny")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data["parameters"] == 3_382_080 and data["at"] == {"B": 1, "T": 1024}


def test_command_imports_nothing_heavy() -> None:
    code = (
        "from specc_runtime.cli import cli\n"
        "cli.main(['inspect', 'gpt2.spec', '--at', 'B=1,T=2'], standalone_mode=False)"
    )
    heavy = ("torch", "onnx", "onnxruntime", "numpy", "netron", "rich")
    assert loaded(code, *heavy, cwd=SPECS) == []
