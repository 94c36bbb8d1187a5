"""`specc explain CODE`: every code has an example and its mend, and both are what they say.

The blocks of a section of `explanations.md`, by what stands behind their fence:

    spec fails        a spec whose first finding has the code
    spec              its mend: without an error, and without the code
    spec NAME         a file beside the spec before it
    spec section      a mend too: a `weights` section for the checkpoint of the message above it
    text              what is printed: it stands in a golden file
    sh                commands
    python fails, python, toml
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import textwrap
import tomllib
from contextlib import chdir
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from test_errors import ERRORS, asked
from test_weights_findings import CHECKPOINTS, write_checkpoint

from specc import codes, driver, report
from specc_runtime.build import Request, build
from specc_runtime.cli import cli

SECTIONS = {
    code: (title, body)
    for code, title, body in re.findall(
        r"^## ([A-Z]\d+) (.*)\n((?:(?!## [A-Z]\d).*\n)*)", codes.EXPLANATIONS.read_text(encoding="utf-8"), re.MULTILINE
    )
}
BLOCKS = {
    code: re.findall(r"^```([\w ./]+)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    for code, (_, body) in SECTIONS.items()
}
FAILS = ("spec fails", "python fails", "text")
MENDS = ("spec", "spec section", "sh", "python", "toml")


def having(kind: str) -> list[str]:
    return [code for code, blocks in BLOCKS.items() if any(name == kind for name, _ in blocks)]


def test_every_code_is_explained() -> None:
    assert list(SECTIONS) == list(codes.CODES)
    for code, (title, body) in SECTIONS.items():
        assert title == codes.title(code)
        assert len(body.strip()) > 40
        explained = codes.explain(code.lower())
        assert explained is not None and explained.startswith(f"# {code}: {title}\n")
    assert codes.explain("P999") is None and codes.title("P999") == ""
    severities = [codes.severity(code) for code in ("W305", "N204", "S201")]
    assert severities == ["warning", "note", "error"]


@pytest.mark.parametrize("code", SECTIONS)
def test_an_example_and_its_mend(code: str) -> None:
    kinds = [kind for kind, _ in BLOCKS[code]]
    assert SECTIONS[code][1].count("```") == 2 * len(kinds), "a fence of no known form"
    assert all(kind in (*FAILS, *MENDS) or re.fullmatch(r"spec \w+\.spec", kind) for kind in kinds)
    assert kinds and kinds[0] in FAILS, "it starts with no example"
    assert any(kind in MENDS for kind in kinds), "it has no mend"
    last = max(i for i, kind in enumerate(kinds) if kind in FAILS)
    assert any(kind in MENDS for kind in kinds[last:]), "what fails last has no mend"


@pytest.mark.parametrize("code", sorted({*having("spec"), *having("spec fails")}))
def test_examples(code: str, tmp_path: Path) -> None:
    blocks = BLOCKS[code]
    for at, (kind, text) in enumerate(blocks):
        if kind not in ("spec", "spec fails"):
            continue
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "example.spec").write_text(text, encoding="utf-8")
        for name, beside in blocks[at + 1 :]:
            if not name.endswith(".spec"):
                break
            (folder / name.removeprefix("spec ")).write_text(beside, encoding="utf-8")
        with chdir(folder):
            found = driver.check("example.spec", all_presets=True, **asked(code))
        if kind == "spec fails":
            assert [d.code for d in found][:1] == [code], report.full(found)
        else:
            assert not [d for d in found if d.severity == "error" or d.code == code], report.full(found)


def golden(text: str) -> Path | None:
    """The golden file that holds a text, on lines of its own."""
    for folder in (ERRORS, ERRORS.with_name("golden")):
        for path in sorted(folder.rglob("*.txt")):
            if f"\n{text}" in f"\n{path.read_text(encoding='utf-8').rstrip()}\n":
                return path
    return None


@pytest.mark.parametrize("code", having("text"))
def test_what_is_printed(code: str) -> None:
    for kind, text in BLOCKS[code]:
        if kind == "text":
            assert f"[{code}]: " in text
            assert golden(text), f"no golden file says:\n{text}"


@pytest.mark.parametrize("code", having("spec section"))
def test_weights_sections(code: str, tmp_path: Path) -> None:
    """The mended section, in the place of the one that failed, reads the same checkpoint."""
    (example, section) = (text for kind, text in BLOCKS[code] if kind in ("text", "spec section"))
    failed = golden(example)
    assert failed is not None and failed.parent == CHECKPOINTS
    write_checkpoint(tmp_path / "hf", json.loads(failed.with_suffix(".json").read_text()))
    model = failed.with_suffix(".spec").read_text().partition("weights M from")[0]
    (tmp_path / "m.spec").write_text(model + section)
    request = Request("m.spec", weights="hf", verify=False, render=False, emit=frozenset(), out=Path("out"))
    with chdir(tmp_path):
        assert code not in {d.code for d in build(request).warnings}


@pytest.mark.parametrize("code", having("sh"))
def test_commands(code: str) -> None:
    """Commands and options that there are."""
    for kind, text in BLOCKS[code]:
        for line in text.splitlines() if kind == "sh" else ():
            program, *words = shlex.split(line, comments=True)
            if program == "specc":
                context = click.Context(cli)
                name, command, rest = cli.resolve_command(context, words)
                assert command is not None
                command.make_parser(click.Context(command, info_name=name)).parse_args(rest)


@pytest.mark.parametrize("code", sorted({*having("python"), *having("toml")}))
def test_other_texts(code: str) -> None:
    for kind, text in BLOCKS[code]:
        if kind.startswith("python"):
            ast.parse(text)
        elif kind == "toml":
            tomllib.loads(text)


@pytest.mark.parametrize("code", SECTIONS)
def test_layout(code: str) -> None:
    """For a terminal: no Markdown, prose in lines that fit, every word of it, and the blocks as they are."""
    done = CliRunner().invoke(cli, ["explain", code], env={"COLUMNS": "80"})
    assert done.exit_code == 0 and done.stdout.startswith(f"{code}: {codes.title(code)}\n\n")
    assert "```" not in done.stdout and "\0" not in done.stdout
    prose = [line for line in done.stdout.splitlines() if not line.startswith("    ")]
    assert max(map(len, prose)) <= 80
    for kind, text in BLOCKS[code]:
        assert textwrap.indent(text, "    ") in done.stdout, kind
    words = re.sub(r"^```.*?^```$", "", SECTIONS[code][1], flags=re.MULTILINE | re.DOTALL).split()
    shown = iter(" ".join(prose).split())
    assert all(word in shown for word in words), "in their order"
