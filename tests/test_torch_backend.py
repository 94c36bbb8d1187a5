"""Emitted torch source: equals the IR's own evaluation, keeps the spec's names, is formatted, compiles whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from emitted import as_tuple, assert_faithful, assert_formatted, entries, inputs_of, live, spec

from specc.backends.torch.classes import docstring
from specc.backends.torch.export import emit
from specc.backends.torch.fit import fit
from specc.backends.torch.layout import WIDTH, lay_out
from specc.backends.torch.merge import merge
from specc.backends.torch.printer import tidy
from specc.backends.torch.statements import Block, Line, assign
from specc.driver import load
from specc.ir.graph import Model
from specc_runtime.taps import run

SPECS = Path(__file__).parent.parent / "specs"
SMALL: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"hidden": "[24, 16]"},
    "gpt": {"vocab": 61, "dim": 32, "heads": 4, "layers": 2, "hidden": 48},
    "gpt2": {"vocab": 61, "dim": 32, "heads": 4, "layers": 2},
    "transformer": {"vocab": 61, "dim": 32, "heads": 4, "layers": 2, "hidden": 48},
}


def small(name: str) -> Model:
    return load(SPECS / f"{name}.spec", sets={k: str(v) for k, v in SMALL[name].items()}).model


# ---- the zoo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_equals_the_ir(name: str) -> None:
    assert_faithful(small(name), {"B": 2, "T": 7, "N": 5})


@pytest.mark.parametrize("name", SMALL)
def test_sizes_of_one(name: str) -> None:
    model = small(name)
    module = live(model)
    for entry, graph in entries(model):
        given = {k: torch.ones_like(v) for k, v in inputs_of(graph, {"B": 1, "T": 1, "N": 1}).items()}
        expected, _ = run(graph, module, given)
        for value, want in zip(as_tuple(getattr(module, entry)(**given)), expected.values(), strict=True):
            torch.testing.assert_close(value, want)


@pytest.mark.parametrize("name", SMALL)
def test_formatted(name: str, tmp_path: Path) -> None:
    text = emit(small(name))
    assert_formatted(text, tmp_path)
    assert text == emit(small(name))


@pytest.mark.parametrize("name", ["gpt2", "transformer"])
def test_compiles_whole(name: str) -> None:
    model = small(name)
    module = live(model)
    for entry, graph in entries(model):
        torch._dynamo.reset()
        whole: Any = torch.compile(getattr(module, entry), fullgraph=True, backend="eager", dynamic=True)
        for size in (3, 6):
            given = inputs_of(graph, {"B": 2, "T": size, "N": size})
            for a, b in zip(as_tuple(whole(**given)), as_tuple(getattr(module, entry)(**given)), strict=True):
                torch.testing.assert_close(a, b)


def test_training_mode() -> None:
    """Dropout acts in training only, and gradients reach every parameter."""
    model = small("gpt2")
    module = live(model)
    given = inputs_of(model.entries["forward"].full, {"B": 2, "T": 7})
    quiet = module(**given)
    module.train()
    assert not torch.equal(module(**given), quiet)
    module(**given).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_gpt2_reads_like_nanogpt() -> None:
    """Four classes and no more lines than nanoGPT's model has for the same parts."""
    text = emit(load(SPECS / "gpt2.spec", preset="gpt2").model)
    assert [line.split("(")[0] for line in text.splitlines() if line.startswith("class ")] == [
        "class GPT2Attention",
        "class GPT2MLP",
        "class GPT2Block",
        "class GPT2",
    ]
    assert len(text.splitlines()) < 150
    for line in (
        "self.c_attn = nn.Linear(dim, 3 * dim)",
        "self.head_dim = dim // heads",
        "self.h = nn.ModuleList([GPT2Block(dim, heads, hidden, eps, dropout) for _ in range(layers)])",
        "self.lm_head.weight = self.wte.weight  # tied",
        "q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0",
        "x = x + self.attn(self.ln_1(x), mask)",
        'x = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))',
        "y = y.transpose(1, 2).flatten(2)  # [B, T, heads*head_dim]",
        "for block in self.h:",
        "x = block(x, attention_mask)",
        "nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)",
    ):
        assert any(line == shown.strip() for shown in text.splitlines()), line


def test_published_gpt2_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=61)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = live(small("gpt2"))
    source = theirs.state_dict()
    conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    names = {name: name if name.startswith("lm_head") else f"transformer.{name}" for name in ours.state_dict()}
    ours.load_state_dict({n: source[f].t() if n.endswith(conv1d) else source[f] for n, f in names.items()})
    ids = torch.randint(0, 61, (2, 16))
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[0, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-5)
        masked = theirs(ids, attention_mask=mask, position_ids=positions).logits
        torch.testing.assert_close(ours(ids, mask.bool())[mask.bool()], masked[mask.bool()], rtol=0, atol=1e-5)


def test_facts_are_checked() -> None:
    module = live(small("gpt2"))
    with pytest.raises(ValueError, match="T must be at most 1024, found 1025"):
        module(torch.zeros(1, 1025, dtype=torch.int64))


def test_initial_values() -> None:
    """`init` sections: a block's rule, a pattern that overrides it, a tie that keeps its right side's values."""
    namespace: dict[str, Any] = {}
    model = load(SPECS / "gpt2.spec", sets={"dim": "256", "heads": "4", "layers": "2", "vocab": "4000"}).model
    exec(emit(model), namespace)
    torch.manual_seed(0)
    module = namespace["GPT2"]()
    assert module.lm_head.weight is module.wte.weight
    assert module.h[0].attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert module.h[1].mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4**0.5, rel=0.05)
    assert module.h[0].attn.c_attn.bias.abs().max().item() == 0.0
    exec(emit(load(SPECS / "transformer.spec", sets={"layers": "1"}).model), namespace)
    module = namespace["Transformer"]()
    assert module.generator.weight is module.embed.weight
    assert module.embed.weight.std().item() == pytest.approx(512**-0.5, rel=0.05)


# ---- the pieces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("((a + b)) * (c)", "(a + b) * c"),
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("-(n**-0.5)", "-(n**-0.5)"),
        ("(2*n) ** 0.5", "(2 * n) ** 0.5"),
        ("self.dim ** 0.5", "self.dim**0.5"),
        ("x[:, self.a:, 1:-1, ::2]", "x[:, self.a :, 1:-1, ::2]"),
        ("x[(slice(1)), ..., None]", "x[slice(1), ..., None]"),
        ("f('a', b=(1,), *c)", 'f("a", *c, b=(1,))'),
        ("not (a and b) or c", "not (a and b) or c"),
        ("(a if b else c) + 1", "(a if b else c) + 1"),
        ("torch.zeros((()))", "torch.zeros(())"),
        ("1e-05 + 1e16", "1e-5 + 1e16"),
        ("~(a & b) | c", "~(a & b) | c"),
        ("[f(i) for i in (range(3))]", "[f(i) for i in range(3)]"),
    ],
)
def test_tidy(text: str, tidied: str) -> None:
    assert tidy(text) == tidied


def test_merge_tests_each_input_once() -> None:
    start, end = assign("x", "f(x)"), Line("return", (), "x")
    masked, added = assign("x", "x * mask"), assign("x", "x + bias")
    variants = {
        frozenset({"mask", "bias"}): (start, masked, added, end),
        frozenset({"mask"}): (start, masked, end),
        frozenset({"bias"}): (start, added, end),
        frozenset[str](): (start, end),
    }
    assert merge(variants, ["mask", "bias"]) == (
        start,
        Block("if mask is not None", (masked,)),
        Block("if bias is not None", (added,)),
        end,
    )


def test_fit_never_reuses_a_name_that_is_still_read() -> None:
    long = ", ".join(f"argument_number_{i}" for i in range(4))
    body = (
        assign("x", f"f(g(a, {long}), h(a, {long}), x)"),
        Line("return", (), "f(x, a)"),
    )
    fitted = fit(body, 8, taken=frozenset(), fixed=frozenset(), arguments=frozenset({"a", "x"}))
    lines = lay_out(fitted, 8)
    assert max(map(len, lines)) <= WIDTH
    bound = [s.targets[0] for s in fitted if isinstance(s, Line) and s.keyword == "="]
    assert "a" not in bound and bound[-1] == "x" and len(set(bound)) == len(bound)


def test_long_tuples_read_as_a_person_writes_them(tmp_path: Path) -> None:
    """A default that repeats is a product, else it has a line per element; no comment names a loop's variable."""
    spec = tmp_path / "lists.spec"
    sizes = ", ".join(map(str, [8, *range(9, 35), 8]))
    spec.write_text(
        f"from std.nn import Linear\ndim B\nmodel M(sizes: [int] = [{sizes}], same: [int] = [8, 8, 8, 8, 8, 8]) {{\n"
        "  net: [Linear(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1)]\n"
        "  more: [Linear(r, r) for r in same]\n"
        "  forward(x: Tensor[B, 8]) -> Tensor[B, 8] = x |> net |> more\n}\n"
    )
    source = emit(load(spec).model)
    assert "same: tuple[int, ...] = (8,) * 6,\n" in source
    assert "sizes: tuple[int, ...] = (\n            8,\n            9,\n" in source
    assert "# x [B, 8] -> [B, 8]\n" in source
    assert max(map(len, source.splitlines())) <= 100


@pytest.mark.parametrize("length", range(88, 98))
def test_documentation_of_any_length(length: int, tmp_path: Path) -> None:
    doc = "A sentence of words " * 4 + "x" * (length - 81) + "."
    source = emit(spec(tmp_path, f"dim B\n## {doc}\nmodel M {{ forward(x: Tensor[B]) -> Tensor[B] = -x }}\n"))
    assert " ".join(source.split()).count(doc) == 2  # of the file and of the class
    assert_formatted(source, tmp_path)


@pytest.mark.parametrize(
    "doc", ['says "yes"', 'a "quote" ' + "in a line that is too long for one " * 4 + '"end"', '"""', "a\\"]
)
def test_a_docstring_that_ends_with_a_quote(doc: str) -> None:
    lines = docstring(doc, 4)
    assert [line[4:].rstrip() for line in lines if line] == [line.strip() for line in lines if line]
    scope: dict[str, Any] = {}
    exec("\n".join(["class A:", *lines]), scope)
    assert " ".join(scope["A"].__doc__.split()) == " ".join(doc.split())
