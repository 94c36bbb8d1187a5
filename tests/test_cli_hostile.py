"""Files and arguments that are no specs, or that try something: a message and an exit code, never a traceback."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import GOOD, Done, running


@pytest.fixture
def specc(tmp_path: Path) -> Callable[..., Done]:
    return running(tmp_path)


def hostile(tmp_path: Path) -> None:
    """Files that are no specs, or that try something."""

    def write(name: str, content: str | bytes) -> None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    write("binary.spec", bytes(range(256)) * 16)
    write("nul.spec", GOOD.replace("Good", "Go\0od"))
    write("utf16.spec", GOOD.encode("utf-16"))
    write("bom.spec", "\ufeff" + GOOD)
    write("crlf.spec", GOOD.replace("\n", "\r\n"))
    write("tabs.spec", GOOD.replace("  ", "\t"))
    write("empty.spec", "")
    write("junk.spec", os.urandom(1 << 19).hex()[: 1 << 20])
    write("lines.spec", "({[" * 300_000)
    write("large.spec", "# " + "x" * (1 << 20))
    write("brackets.spec", GOOD.replace("(dim, dim)", "(" * 10_000 + "dim" + ")" * 10_000))
    write("minus.spec", GOOD.replace("= 4", "= " + "-" * 10_000 + "4"))
    write("braces.spec", "model M {" * 10_000)
    write("range.spec", GOOD.replace("head: Linear(dim, dim)", "head: [Linear(dim, dim) for i in range(10**9)]"))
    write("huge.spec", GOOD.replace("= 4", "= 10**30"))
    write("power.spec", GOOD.replace("= 4", "= 10**10**10"))
    write("shift.spec", GOOD.replace("= 4", "= " + "9" * 100_000))
    write("escape.spec", GOOD.replace("Good", "G\x1b[31mood"))
    write("passwd.spec", 'from "../../../../../../etc/passwd" import root\n' + GOOD)
    write("absolute.spec", 'from "/etc/passwd.spec" import root\n' + GOOD)
    write("itself.spec", 'from "./itself.spec" import Good\n' + GOOD)
    write("a.spec", 'from "./b.spec" import B\n' + GOOD)
    write("b.spec", 'from "./a.spec" import A\n' + GOOD)
    write("recursive.spec", GOOD.replace("head: Linear(dim, dim)", "head: Good(dim)"))
    write("surrogate.spec", GOOD.replace("Good", "\udce9ood").encode("utf-8", errors="surrogatepass"))
    (tmp_path / "folder.spec").mkdir()
    (tmp_path / "dangling.spec").symlink_to(tmp_path / "nowhere.spec")
    (tmp_path / "loop.spec").symlink_to(tmp_path / "loop.spec")


EXPECTED = {
    "binary.spec": (1, "not UTF-8"),
    "nul.spec": (1, "P09"),
    "utf16.spec": (1, "not UTF-8"),
    "bom.spec": (0, ""),
    "crlf.spec": (0, ""),
    "tabs.spec": (0, ""),
    "empty.spec": (0, ""),  # a file to be imported from
    "junk.spec": (1, "P0"),
    "lines.spec": (1, "P0"),
    "large.spec": (1, "P090"),
    "brackets.spec": (1, "P09"),
    "minus.spec": (1, "P09"),
    "braces.spec": (1, "P0"),
    "range.spec": (1, "E19"),
    "huge.spec": (1, "error["),
    "power.spec": (1, "error["),
    "shift.spec": (1, "error["),
    "escape.spec": (1, "<U+001B>"),
    "passwd.spec": (1, "E003"),
    "absolute.spec": (1, "E003"),
    "itself.spec": (1, "E005"),
    "a.spec": (1, "E005"),
    "recursive.spec": (1, "E150"),
    "surrogate.spec": (1, "not UTF-8"),
    "folder.spec": (1, "there is no .spec file in `folder.spec`"),
    "dangling.spec": (1, "does not exist"),
    "loop.spec": (1, "E006"),
    "missing.spec": (1, "does not exist"),
    "missing": (1, "models of the zoo: "),
    ".": (1, " files ok"),
    "/dev/null": (1, "is not a regular file"),
    "": (1, "E006"),
    "x" * 5000: (1, "E006"),
}


def test_check_of_folders(specc: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "models" / "deep").mkdir(parents=True)
    (tmp_path / "models" / ".hidden").mkdir()
    (tmp_path / "models" / "build").mkdir()
    (tmp_path / "good.spec").replace(tmp_path / "models" / "deep" / "good.spec")
    for folder in (".hidden", "build"):
        (tmp_path / "models" / folder / "wrong.spec").write_text("}")
    (tmp_path / "models" / "more.spec").write_text('from "./deep/good.spec" import Good\n')
    done = specc("check", "models", "--all-presets")
    assert (done.code, done.out) == (0, "2 of 2 files ok\n"), done.err
    (tmp_path / "models" / "deep" / "good.spec").write_text("block Good {")
    done = specc("check", "models/", "wrong.spec", "--format", "concise")
    assert done.code == 1
    found = done.out.splitlines()
    assert len(found) == len(set(found)), "a file's findings are told once, however often it is imported"
    assert {line.split(":")[0] for line in found} >= {"models/deep/good.spec", "wrong.spec"}
    done = specc("fmt", "--check", "models")
    assert done.code == 1
    assert "deep/good.spec" in done.err


@pytest.mark.parametrize("name", EXPECTED, ids=[name[:20] or "nothing" for name in EXPECTED])
def test_check_of_anything(name: str, specc: Callable[..., Done], tmp_path: Path) -> None:
    hostile(tmp_path)
    code, text = EXPECTED[name]
    start = time.monotonic()
    done = specc("check", name)
    assert time.monotonic() - start < 20
    assert done.code == code, done.err
    assert text in done.err
    assert len(done.err) < 100_000
    assert "root:" not in done.err


HOSTILE: list[list[str | bytes]] = [
    ["check", b"\xff\xfe.spec"],
    ["check", "good.spec", "--set", "dim=10**10**10"],
    ["check", "good.spec", "--set", "dim=" + "(" * 10_000],
    ["check", "good.spec", "--set", "dim=$(ls)"],
    ["check", "good.spec", "--set", "dim=-1"],
    ["check", "good.spec", "--set", "dim=1\nmodel X {}"],
    ["check", "good.spec", "--set", "d\u202em=1"],
    ["check", "good.spec", "--preset", "\x1b[2J"],
    ["check", "good.spec", "--model", ""],
    ["inspect", "wrong.spec"],
    ["inspect", "missing.spec", "--at", "B=1"],
    ["inspect", "good.spec", "--entry", "\x1b[2J"],
    ["inspect", "good.spec", "--without", "x"],
    ["inspect", "good.spec", "--at", "B=0"],
    ["inspect", "empty.spec"],
    ["inspect", "."],
    ["view", "missing.onnx", "--no-browser"],
    ["view", ".", "--no-browser"],
    ["view", "wrong.spec", "--no-browser"],
    ["view", "good.spec", "--no-browser", "--entry", "x"],
    ["view", "missing/", "--no-browser"],
    ["verify", "."],
    ["verify", "missing"],
    ["explain", "S999"],
    ["explain", "../../etc/passwd"],
    ["explain", "std."],
    ["explain", "std.nn.Nothing"],
    ["explain", "std.../../x"],
    ["new", "good"],
    ["new", "missing/folder/x"],
    ["new", "a/../../" + "b" * 300],
    ["new", b"\xff"],
    ["train", "good.spec"],
    ["train", "--anything"],
    ["build", "missing.spec"],
    ["build", "wrong.spec"],
    ["build", "good.spec", "--cache", "concat"],
    ["build", "good.spec", "--entry", "x"],
    ["build", "good.spec", "--without", "x"],
    ["build", "good.spec", "--weights", "missing"],
    ["build", "good.spec", "-o", "good.spec"],
    ["test", "missing.spec"],
]


@pytest.mark.parametrize("arguments", HOSTILE, ids=[" ".join(map(str, a))[:40] for a in HOSTILE])
def test_nothing_gives_a_traceback(arguments: list[str | bytes], specc: Callable[..., Done], tmp_path: Path) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    done = specc(*arguments)
    assert done.code in (1, 2), done.out
    assert done.err.strip()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "build") == before


def test_arguments_that_no_terminal_shows(specc: Callable[..., Done]) -> None:
    for encoding in ("ascii", "utf-8"):
        done = specc("check", b"caf\xc3\xa9-\xff.spec", PYTHONIOENCODING=encoding)
        assert done.code == 1 and "E006" in done.err
