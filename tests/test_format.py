"""`specc fmt`: tree and comments stay, a second time changes nothing, the project's own specs have its layout."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.diagnostics import Collector, Rejected
from specc.source import Source
from specc.syntax import ast
from specc.syntax.format import TOLERATED, WIDTH, format_text, same_tree
from specc.syntax.parser import parse

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "compiler" / "specc"
HELD = [
    *sorted((ROOT / "specs").glob("*.spec")),
    *sorted((PACKAGE / "std").glob("*.spec")),
    *sorted((PACKAGE / "templates").glob("*.spec")),
]
ALL = sorted({*HELD, *(ROOT / "tests" / "errors").rglob("*.spec")})
MAIN = [sys.executable, "-c", "import sys; from specc_runtime.cli import main; sys.argv[0] = 'specc'; sys.exit(main())"]


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def tree(text: str) -> ast.File | None:
    return parse(Source("t.spec", text), Collector())


def fmt(text: str) -> str:
    return format_text(Source("t.spec", text))


def held_by(text: str) -> str:
    """The layout of a text, after the promises that hold for every text."""
    done = fmt(text)
    assert same_tree(tree(text), tree(done))
    assert comments(text) == comments(done)
    assert fmt(done) == done
    assert not re.search(r"[ \t]\r?$", done, re.MULTILINE)
    assert done == "" or (done.endswith("\n") and not done.startswith("\n"))
    assert not re.search(r"\n\r?\n\r?\n", done)
    return done


def comments(text: str) -> list[str]:
    found = re.findall(r'"(?:\\.|[^"\\\n])*"|(#[^\n]*)', text)
    return [comment.rstrip() for comment in found if comment]


@pytest.mark.parametrize("path", HELD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_specs_of_the_project_have_the_layout(path: Path) -> None:
    text = text_of(path)
    assert fmt(text) == text, f"specc fmt {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_second_time_changes_nothing(path: Path) -> None:
    text = text_of(path)
    if tree(text) is None:
        with pytest.raises(Rejected):
            fmt(text)
    else:
        held_by(text)


def test_same_tree_sees_a_difference() -> None:
    assert same_tree(tree("## a  \nlet x = 1"), tree("## a\nlet  x = 1 # b"))
    for other in ("let x = 2", "let x = 1.0", "let x = true", "let y = 1", "let x = (1)", "let x = 1; let y = 1", ""):
        assert not same_tree(tree("## a\nlet x = 1"), tree(f"## a\n{other}"))
    assert not same_tree(tree("## a\nlet x = 1"), tree("## b\nlet x = 1"))
    assert not same_tree(tree("## a\nlet x = 1"), tree("let x = 1"))


# ---- examples --------------------------------------------------------------------------------------------------------

EXAMPLES = {
    "blanks": ("let  x=3 *dim+ [1,2 ][ 0 ]", "let x = 3 * dim + [1, 2][0]"),
    "products are the author's": ("let x = a*b + a * b + a**2 + a ** 2", "let x = a*b + a * b + a**2 + a ** 2"),
    "division": ("let x = a/b//c%d", "let x = a / b // c % d"),
    "signs": ("let x = f(- a,-1)[ -1 ]- -b", "let x = f(-a, -1)[-1] - -b"),
    "semicolons": ("let x = 1 ;let y = 2;", "let x = 1; let y = 2"),
    "types": (
        'model M(a:[int]? =none,k:"x"|"y"="x"){}',
        'model M(a: [int]? = none, k: "x" | "y" = "x") { }',
    ),
    "indexing": (
        "fn f(x:Tensor[...,4])->f32[ ] =x[..., 1 :2,:, ::2]",
        "fn f(x: Tensor[..., 4]) -> f32[] = x[..., 1:2, :, ::2]",
    ),
    "decorator": ('@ torch( "x" )\n  block A {}', '@torch("x")\nblock A { }'),
    "keywords": (
        "block A {\nrequire (a)<b\nrequire(a)\ninit: L( * ,b = 1)\n}",
        "block A {\n  require (a) < b\n  require(a)\n  init: L(*, b = 1)\n}",
    ),
    "indentation": ("block A {\na: {\nb: C()\n}\n      }", "block A {\n  a: {\n    b: C()\n  }\n}"),
    "a brace that ends a block": ("block A {\na: B() }", "block A {\n  a: B()\n}"),
    "blank lines": (
        "\n\nlet a = 1\n\n\n\nblock A {\n\n  a: B()\n\n\n  b: B()\n\n}\n\n",
        "let a = 1\n\nblock A {\n  a: B()\n\n  b: B()\n}",
    ),
    "columns": (
        "block A {\n  a:   B()\n  bb:  [C()]\n  ccc: C()\n  dddddd: C()\n  e:  B()\n}",
        "block A {\n  a:   B()\n  bb:  [C()]\n  ccc: C()\n  dddddd: C()\n  e: B()\n}",
    ),
    "columns close up": ('preset "a"   =  M()\npreset "bb"  =  M()', 'preset "a"  = M()\npreset "bb" = M()'),
    "columns of rules": (
        'weights M from "a" {\n"a.b"   = "c"      |> transpose\n"a"     = "longer" |> transpose\n}',
        'weights M from "a" {\n  "a.b" = "c"      |> transpose\n  "a"   = "longer" |> transpose\n}',
    ),
    "a blank line ends columns": ("let a   = 1\n\nlet bbb = 2", "let a = 1\n\nlet bbb = 2"),
    "comments": (
        "# a\nlet a = 1 # b\n  # c\nlet b = 2      #d\nblock A { # e\n# f\na: B()   # g\n# h\n}\n   # i",
        "# a\nlet a = 1  # b\n# c\nlet b = 2      #d\nblock A {  # e\n  # f\n  a: B()   # g\n  # h\n}\n# i",
    ),
    "a comment that goes on": ("let a=1    # b\n           # c\n# d", "let a = 1  # b\n           # c\n# d"),
    "comments in a chain": (
        "fn f(x: Tensor[4]) -> Tensor[4] {\n    y = x # a\n    # b\n     |> g # c\n\n    # d\n      |> h\nreturn y\n}",
        "fn f(x: Tensor[4]) -> Tensor[4] {\n  y = x  # a\n    # b\n    |> g  # c\n\n    # d\n    |> h\n  return y\n}",
    ),
    "comments in a list": (
        "let a = [\n1, # one\n# more\n2,\n# end\n]\nlet b = [1, # one\n2]",
        "let a = [\n  1,  # one\n  # more\n  2,\n  # end\n]\nlet b = [1,  # one\n         2]",
    ),
    "arguments stand under each other": (
        "model M(a: int,\n  b: int = f(1,\n2)) {\nx: L()\n}",
        "model M(a: int,\n        b: int = f(1,\n                   2)) {\n  x: L()\n}",
    ),
    "a list of groups": (
        "block A {\nx: [{ a: B(); b: C()\nc: D() }, {\na: B()\n}]\n}",
        "block A {\n  x: [{ a: B(); b: C()\n        c: D() }, {\n          a: B()\n        }]\n}",
    ),
    "closing brackets": (
        "block A {\nx: [{\na: B()\n    }]\ny: C([\n1,\n2,\n    ])\n}",
        "block A {\n  x: [{\n    a: B()\n  }]\n  y: C([\n    1,\n    2,\n  ])\n}",
    ),
    "results": (
        "fn f(x: Tensor[4])\n->Tensor[4] {\nreturn x\n}",
        "fn f(x: Tensor[4])\n    -> Tensor[4] {\n  return x\n}",
    ),
    "branches": (
        "fn f(x: f32) -> f32 {\nif a { return x }\nelse if b {\nreturn y\n}else{\nx = z\n}\n}",
        "fn f(x: f32) -> f32 {\n  if a { return x }\n  else if b {\n    return y\n  } else {\n    x = z\n  }\n}",
    ),
    "values that go on": (
        "let a = b or\n        c\nlet d = b or\n  c",
        "let a = b or\n        c\nlet d = b or\n    c",
    ),
    "strings": ('let a = "#  no  comment \\" (" # "x"', 'let a = "#  no  comment \\" ("  # "x"'),
    "nothing": ("  \n\n", ""),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    before, after = EXAMPLES[name]
    assert held_by(before) == (after + "\n" if after else "")


def test_long_lines_break_after_commas() -> None:
    arguments = ", ".join(f"argument_{i} = {i}" for i in range(20))
    done = held_by(f'preset "a" = M({arguments})  # c')
    lines = done.splitlines()
    assert len(lines) > 2 and all(len(line) <= WIDTH for line in lines)
    assert all(line.startswith(" " * len('preset "a" = M(') + "argument_") for line in lines[1:])
    assert lines[-1].endswith(")  # c")
    fits = "let a = [" + "1, " * ((TOLERATED - 11) // 3) + "1]"
    assert len(fits) <= TOLERATED and fmt(fits) == fits + "\n"
    assert len(held_by(fits.replace("]", ", 1]")).splitlines()) == 2
    unbreakable = "let a = " + " or ".join(["name"] * 40)
    assert fmt(unbreakable) == unbreakable + "\n"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends(end: str) -> None:
    assert held_by(end.join(["## d  ", "let  a = 1 # b ", "let b = [1,", "2]"])) == end.join(
        ["## d", "let a = 1  # b", "let b = [1,", "         2]", ""]
    )


def test_a_byte_order_mark_goes() -> None:
    assert fmt("\ufeffdim  B") == "dim B\n"


def test_a_text_with_errors_is_refused() -> None:
    with pytest.raises(Rejected) as refused:
        fmt("let a = (1\nlet b = 2")
    assert refused.value.diagnostics


# ---- other layouts of the same text ----------------------------------------------------------------------------------


def disturb(text: str, seed: int) -> str:
    """Change blanks, blank lines, indentation and comments in ways that change no token."""
    chance = random.Random(seed)
    lines: list[str] = []
    for line in text.splitlines():
        code = re.sub(
            r'("(?:\\.|[^"\\\n])*"|#.*)|([,(\[]|(?<=\w)[)\]]) ?', lambda m: m[1] or around(m[2], chance), line
        )
        if chance.random() < 0.5:
            code = re.sub(
                r'("(?:\\.|[^"\\\n])*"|#.*)|(?<=[^ ]) +(?=[^ ])', lambda m: m[1] or " " * chance.randint(1, 5), code
            )
        indent = chance.choice(["", " ", "\t", " " * 9, "  "])
        if chance.random() < 0.1 and lines[-1:] != [""]:
            lines.append(chance.choice(["", "   ", "\n\n", "# between", "   #  deep\n"]))
        if chance.random() < 0.1 and "#" not in code:
            code += chance.choice([" # behind", "#tight", "          # far", "  "])
        lines.append(indent + code.lstrip() if chance.random() < 0.6 else code)
    return "\n".join(lines) + chance.choice(["", "\n", "\n\n\n"])


def around(bracket: str, chance: random.Random) -> str:
    newline = "\n" if bracket in "([," and chance.random() < 0.2 else ""
    return bracket + chance.choice(["", " ", "  ", newline])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(HELD), st.integers(0, 1 << 30))
def test_any_layout_of_a_spec(path: Path, seed: int) -> None:
    text = disturb(text_of(path), seed)
    assert tree(text) is not None
    held_by(text)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def specc(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        done = subprocess.run([*MAIN, "fmt", *arguments], input=stdin, capture_output=True, cwd=tmp_path, timeout=60)
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err and "internal error" not in err, err
        return done.returncode, out, err

    return run


UGLY, PRETTY = b"let  a=1 # x", b"let a = 1  # x\n"


def test_command_writes(specc: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    ugly, pretty = tmp_path / "ugly.spec", tmp_path / "pretty.spec"
    ugly.write_bytes(UGLY)
    ugly.chmod(0o640)
    pretty.write_bytes(PRETTY)
    stamp = pretty.stat().st_mtime_ns
    assert specc("ugly.spec", "pretty.spec") == (0, "", "formatted ugly.spec\n")
    assert ugly.read_bytes() == PRETTY and ugly.stat().st_mode & 0o777 == 0o640
    assert pretty.stat().st_mtime_ns == stamp, "a file that has the layout is not written"
    assert specc("ugly.spec", "pretty.spec") == (0, "", "")
    assert sorted(os.listdir(tmp_path)) == ["pretty.spec", "ugly.spec"]


def test_command_check_and_diff_write_nothing(specc: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "ugly.spec").write_bytes(UGLY)
    (tmp_path / "pretty.spec").write_bytes(PRETTY)
    assert specc("--check", "ugly.spec", "pretty.spec") == (1, "", "would format ugly.spec\n")
    patch = (
        "--- ugly.spec\n+++ ugly.spec (formatted)\n@@ -1 +1 @@\n-let  a=1 # x\n\\ No newline at end of file\n"
        "+let a = 1  # x\n"
    )
    assert specc("--diff", "ugly.spec", "pretty.spec") == (1, patch, "")
    assert specc("--check", "--diff", "ugly.spec") == (1, patch, "would format ugly.spec\n")
    assert specc("--check", "--diff", "pretty.spec") == (0, "", "")
    assert (tmp_path / "ugly.spec").read_bytes() == UGLY


def test_command_leaves_files_with_errors_alone(specc: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "wrong.spec").write_bytes(b"let  a = = 1")
    (tmp_path / "ugly.spec").write_bytes(UGLY)
    (tmp_path / "latin.spec").write_bytes(b"# \xe9")
    code, out, err = specc("wrong.spec", "missing.spec", "latin.spec", "ugly.spec")
    assert (code, out) == (1, "") and "wrong.spec:1:" in err and "`missing.spec` does not exist" in err
    assert "`latin.spec` is not UTF-8" in err and err.endswith("formatted ugly.spec\n")
    assert (tmp_path / "wrong.spec").read_bytes() == b"let  a = = 1"
    assert (tmp_path / "ugly.spec").read_bytes() == PRETTY
    assert specc()[0] == 2


def test_command_standard_input(specc: Callable[..., tuple[int, str, str]]) -> None:
    assert specc("-", stdin=UGLY.replace(b"#", b"\r\n#")) == (0, "let a = 1\r\n# x\r\n", "")
    assert specc("-", "--check", stdin=UGLY) == (1, "", "would format -\n")
    code, out, err = specc("-", stdin=b"let a = (")
    assert (code, out) == (1, "") and "--> stdin:1:" in err
    code, out, err = specc("-", stdin=b"\xff")
    assert (code, out) == (1, "") and "standard input is not UTF-8" in err
