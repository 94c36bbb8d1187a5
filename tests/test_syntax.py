"""The parser: it reads what Lark reads, its spans are exact, and no input makes it throw or take long."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.diagnostics import Collector, Diagnostic
from specc.source import Source, Span
from specc.syntax import ast, habits, tables
from specc.syntax.layout import scan
from specc.syntax.parser import parse
from specc.syntax.unparse import unparse

ROOT = Path(__file__).parent.parent
STD = ROOT / "compiler" / "specc" / "std"
SPECS = sorted([*(ROOT / "specs").glob("*.spec"), *STD.glob("*.spec")])


def read(text: str) -> tuple[ast.File | None, list[Diagnostic]]:
    collector = Collector()
    return parse(Source("t.spec", text), collector), collector.found


def good(text: str) -> ast.File:
    file, found = read(text)
    assert file is not None and not found, found
    return file


def codes(text: str) -> list[str]:
    return [d.code for d in read(text)[1]]


def expression(text: str) -> ast.Expr:
    item = good(f"let value = {text}\n").items[0]
    assert isinstance(item, ast.Let)
    return item.value


def nodes(value: object) -> Iterator[ast.Node]:
    """A node and all below it."""
    if isinstance(value, ast.Node):
        yield value
        for field in fields(value):
            yield from nodes(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from nodes(item)


def shape(value: object) -> object:
    """A tree without spans and parentheses, for comparison."""
    if isinstance(value, ast.Paren):
        return shape(value.inner)
    if isinstance(value, ast.Node):
        members = {f.name: shape(getattr(value, f.name)) for f in fields(value)}
        return (type(value).__name__, *((k, v) for k, v in members.items() if k not in ("span", "op_span")))
    if isinstance(value, tuple):
        return tuple(shape(item) for item in value)
    return None if isinstance(value, Span) else value


@pytest.mark.parametrize("path", SPECS, ids=[path.name for path in SPECS])
def test_specs_parse_with_exact_spans(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    file = good(text)
    for node in nodes(file):
        span = node.span
        assert 0 <= span.start <= span.end <= len(text)
        assert span.text == span.text.strip() or isinstance(node, ast.File), span.text
        for below in (b for f in fields(node) for b in _direct(getattr(node, f.name))):
            assert span.start <= below.span.start and below.span.end <= span.end, (type(node), span.text)
        if isinstance(node, ast.Name | ast.Ident):
            assert span.text == node.id
        if isinstance(node, ast.Binary):
            assert node.op_span.text == node.op


def _direct(value: object) -> Iterator[ast.Node]:
    if isinstance(value, ast.Node):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _direct(item)


def test_expressions_come_back_from_their_text() -> None:
    seen = 0
    for path in SPECS:
        for node in nodes(good(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr) and not isinstance(node, ast.Axes | ast.EllipsisLit | ast.Scan):
                assert shape(expression(unparse(node))) == shape(node), unparse(node)
                seen += 1
    assert seen > 500


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("3 * dim", "3*dim"),
        ("dim/heads", "dim / heads"),
        ("4*dim+1", "4*dim + 1"),
        ("(Y+2*padding-reach)//stride+1", "(Y + 2*padding - reach) // stride + 1"),
        ("dilation * (kernel_size - 1)", "dilation*(kernel_size - 1)"),
        ("((a))", "a"),
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("(-a) ** 2", "(-a)**2"),
        ("-a ** -b", "-a**-b"),
        ("(a ** b) ** c", "(a**b)**c"),
        ("a if b else c if d else e", "a if b else c if d else e"),
        ("(a if b else c) |> f( x,*,k=1 )", "(a if b else c) |> f(x, *, k = 1)"),
        ("not (a and b) or c", "not (a and b) or c"),
        ("0<=x<1", "0 <= x < 1"),
        ("a not  in [1,2]", "a not in [1, 2]"),
        ("x[:,none,...,1:-1:2]", "x[:, none, ..., 1:-1:2]"),
        ('"a\\n\\"b\\""', '"a\\n\\"b\\""'),
        ("[f(i) for i,j in zip(a,b)]", "[f(i) for i, j in zip(a, b)]"),
        ("[i*j for i in a for j in range(i)]", "[i*j for i in a for j in range(i)]"),
        ("[[i for j in b] for i in a]", "[[i for j in b] for i in a]"),
        ("50_257 * 1e-5", "50_257*1e-5"),
        ("1.5G+130M//2k", "1.5G + 130M // 2k"),
        ("a.b[0].c(1)", "a.b[0].c(1)"),
    ],
)
def test_unparse(text: str, canonical: str) -> None:
    assert unparse(expression(text)) == canonical
    assert shape(expression(canonical)) == shape(expression(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("130M", 130_000_000),
        ("1.5G", 1_500_000_000),
        ("2_0k", 20_000),
        ("0.1234567T", 123_456_700_000),
        ("1.2345k", 1234.5),
    ],
)
def test_scaled_numbers(text: str, value: float) -> None:
    found = expression(text)
    assert isinstance(found, ast.Int if isinstance(value, int) else ast.Float) and found.value == value


@pytest.mark.parametrize(
    "text", ["1" + " + 1" * 255, "-" * 255 + "x", "f" + "()" * 255, "x" + "\n|> f" * 255, "(" * 63 + "x" + ")" * 63]
)
def test_the_deepest_expressions_have_a_text(text: str) -> None:
    assert shape(expression(unparse(expression(text)))) == shape(expression(text))


def test_precedence() -> None:
    assert shape(expression("x + y |> f")) == shape(expression("(x + y) |> f"))
    assert shape(expression("-x**2")) == shape(expression("-(x**2)"))
    assert shape(expression("a or b and not c == d")) == shape(expression("a or (b and (not (c == d)))"))


def test_the_tree_is_what_lark_reads() -> None:
    """Lark's own parser of the same grammar reduces the same rules in the same order."""
    from lark import Lark

    lark = Lark(
        tables.GRAMMAR.read_text(encoding="utf-8"), parser="lalr", maybe_placeholders=True, propagate_positions=True
    )
    for path in SPECS:
        source = Source(path.name, path.read_text(encoding="utf-8"))
        layout = scan(source, Collector())
        assert layout is not None
        tree = lark.parse(layout.text)
        theirs = sorted(
            (rule, node.meta.start_pos)
            for node in tree.iter_subtrees()
            for rule in ["method" if node.data == "fn_def" else str(node.data)]  # one class for both
            if rule in _SAME and not node.meta.empty
        )
        ours = sorted(
            (
                _SAME_NAMES[type(node).__name__, getattr(node, "op", None) if isinstance(node, ast.Unary) else None],
                node.span.start,
            )
            for node in nodes(good(source.text))
            if (type(node).__name__, getattr(node, "op", None) if isinstance(node, ast.Unary) else None) in _SAME_NAMES
            and not (isinstance(node, ast.Comprehension) and node.flat)  # several generators are one reduction
        )
        assert ours == theirs


_SAME_NAMES = {
    ("Call", None): "call", ("Compare", None): "compare", ("Pipe", None): "pipe", ("Ternary", None): "ternary",
    ("Part", None): "part", ("Method", None): "method", ("Param", None): "param", ("Unary", "-"): "neg",
    ("Assign", None): "assign", ("Comprehension", None): "comp", ("BlockDef", None): "definition",
}  # fmt: skip
_SAME = set(_SAME_NAMES.values())


def test_newlines_that_do_not_end_a_statement() -> None:
    file = good(
        "let a = [1,\n  2]\nlet b = a +  # why\n\n  # not here\n  3\n"
        "let c = a\n  # comment\n\n  |> f\nlet d = 1 if x\n else 2\n"
    )
    assert [item.name.id for item in file.items if isinstance(item, ast.Let)] == ["a", "b", "c", "d"]


def test_soft_keywords_are_names() -> None:
    text = """
block M(dim: int, block: int = 3, with: int = 4) {
  dim: Linear(dim, dim)
  block: [Linear(dim, dim)]
  init: Linear(dim, dim)
  scan: Linear(dim, dim)
  train: Linear(dim, dim); test: Linear(dim, dim)
  forward(x: Tensor[B], from: Tensor[B]) -> Tensor[B] {
    init = 3
    emit = scan + train
    x = f(along = x, import = from)
    return init
  }
}
"""
    block = good(text).items[0]
    assert isinstance(block, ast.BlockDef) and len(block.members) == 7


def test_documentation() -> None:
    file = good(
        "## About\n## it.\nblock A { }\n\n## not this\n\n"
        'block B { }\n## C\n@torch("x")\nblock C { }\n  ## f\nfn f(x: Int[]) -> Int[] = x\n'
    )
    docs = [item.doc for item in file.items if isinstance(item, ast.BlockDef | ast.Method)]
    assert docs == ["About\nit.", "", "C", "f"]


def test_strings() -> None:
    value = expression(r'"a\"b\\n\n\tc # { é"')
    assert isinstance(value, ast.Str) and value.value == 'a"b\\n\n\tc # { é'


def test_carriage_returns_tabs_and_byte_order_mark() -> None:
    assert good("dim B\r\n\r\nblock M(dim: int) {\r\n\ta: Linear(dim,\r\n\tdim)\r\n}\r\n").items
    file, found = read("\ufeffdim B\n")
    assert file is not None and [(d.code, d.severity) for d in found] == [("P093", "note")]
    assert good("").items == () and good("\n\n# only a comment").items == ()


def test_independent_errors_are_all_reported() -> None:
    text = "let a = 1 2\nblock M(dim: int) {\n  fc = Linear(1, 2)\n"
    text += "  forward(x: Int[]) -> Int[] {\n    y = x y\n    return x\n  }\n}\nlet b = (3 4)\nlet c =\n"
    assert codes(text) == ["P000", "P000", "P000", "P022", "P000"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[" * 10_000, "P091"),
        ("let a = " + "[\n" * 10_000 + "]\n" * 10_000, "P092"),
        ("let a = " + "(\n" * 10_000, "P092"),
        ("let a = " + "- \n" * 10_000 + "1", "P092"),
        ("let a = 1" + " +\n1" * 10_000, "P092"),
        ("let a = 1" + " **\n1" * 10_000, "P092"),
        ("let a = x" + "[0]\n" * 300, "P000"),
        ("let a = f" + "(1)" * 300, "P092"),
        ("let a = 1" + "\n|> f" * 10_000, "P092"),
        ("block M { forward() -> Int[] { if a { x = 1 }" + "\nelse if a { x = 1 }" * 10_000 + " } }", "P092"),
        ("a" * 1_000_000, "P091"),
        ("x\n" * 500_000, "P000"),
        ("(" * 1_000_000, "P091"),
        ("x" * (1 << 20) + "y", "P090"),
        ("dim B\n\0\0\0", "P093"),
        ("\x7fELF\x02\x01\x01\0", "P093"),
        ("let a = 9" + "9" * 4000, None),
        ('let a = "' + "\\" * 4001 + '"', "P012"),
        ("#" * 4000, None),
        ("let a = 1\rlet b = 2", "P093"),
        ("\ud800", "P093"),
        ("dim B" + "\n" * 900_000, None),
        ("dim B\n" + "# c\n" * 200_000, None),
        ("}" * 4000, "P021"),
    ],
)
def test_hostile_input(text: str, code: str | None) -> None:
    start = time.perf_counter()
    file, found = read(text)
    assert time.perf_counter() - start < 30  # far above what it takes; a quadratic scan would take minutes
    assert (found[0].code if found else None) == code
    assert (file is None) == any(d.severity == "error" for d in found)


def test_junk_is_quick_and_never_throws() -> None:
    random.seed(0)
    words = [
        "block",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "x",
        "=",
        ":",
        "\n",
        ",",
        "|>",
        "12",
        '"s"',
        "if",
        "for",
        "in",
        "model",
        "->",
        "fn",
    ]
    for _ in range(200):
        read(" ".join(random.choices(words, k=random.randint(1, 120))))
    start = time.perf_counter()
    read("".join(random.choices("abc{}()[]=:;,.|>\n \"'#+-*/0123456789", k=1_000_000)))
    assert time.perf_counter() - start < 30


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_specs_never_throw(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    at = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.integers(0, 12))
    new = data.draw(
        st.text(max_size=6)
        | st.sampled_from(["def ", "self.", "}", "{", "(", "'", '"', ":\n", "..", " is none", "lambda x:"])
    )
    file, found = read(text[:at] + new + text[at + gone :])
    assert file is not None or found
    for d in found:
        assert d.span is not None and 0 <= d.span.start <= d.span.end <= len(text) + 12


TEXTS = [path.read_text(encoding="utf-8") for path in SPECS]


def test_standard_library_names_of_fixes() -> None:
    for module, names in habits.STD.items():
        file = good((STD / f"{module}.spec").read_text(encoding="utf-8"))
        assert set(names.split()) == {item.name.id for item in file.items if isinstance(item, ast.BlockDef)}


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_tables_are_the_same_bytes_for_the_same_grammar() -> None:
    grammar = tables.GRAMMAR.read_text(encoding="utf-8")
    program = (
        "import sys; from specc.syntax import tables; sys.stdout.buffer.write(tables.build(open(sys.argv[1]).read()))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, str(tables.GRAMMAR)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == tables.build(grammar)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder and no packaged tables."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tables, "PACKAGED", tmp_path / "absent.json")
    tables.load.cache_clear()
    yield tmp_path / "specc"
    tables.load.cache_clear()


def test_tables_are_cached_in_private(cache: Path) -> None:
    first = tables.load()
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o077 == 0 and cache.stat().st_mode & 0o077 == 0
    tables.load.cache_clear()
    assert tables.load().actions == first.actions


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x80\x04junk", b'{"format": 1}', b"[1, 2]", b"null"])
def test_damaged_cache_is_built_again(cache: Path, damage: bytes) -> None:
    tables.load()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    tables.load.cache_clear()
    assert tables.load().rules
    assert file.read_bytes() == whole


def test_unusable_cache_folder(cache: Path) -> None:
    cache.parent.joinpath("specc").write_text("a file where the folder should be")
    assert tables.load().rules


def test_parsing_imports_no_lark_when_tables_are_there() -> None:
    tables.load()
    program = "import sys; from specc.syntax.parser import parse; from specc.syntax import tables"
    program += "; tables.load(); print('lark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
