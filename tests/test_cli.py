"""The command line: every command's help and usage, exit codes, formats; nothing a user can type gives a traceback.

build, verify and test are tried on real builds elsewhere.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from specc_runtime.cli import COMMANDS
from specc_runtime.cli.new import TEMPLATES

SPECS = Path(__file__).resolve().parents[1] / "specs"
MAIN = [sys.executable, "-c", "import sys; from specc_runtime.cli import main; sys.argv[0] = 'specc'; sys.exit(main())"]

GOOD = """from std.nn import Linear
dim B
model Good(dim: int = 4) {
  head: Linear(dim, dim)
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = head(x)
}
"""
WRONG = GOOD.replace("= head(x)", "= haed(x)")


class Done:
    """What a run printed and how it ended."""

    def __init__(self, process: subprocess.CompletedProcess[bytes]) -> None:
        self.code = process.returncode
        self.out = process.stdout.decode("utf-8", errors="replace")
        self.err = process.stderr.decode("utf-8", errors="replace")
        assert "Traceback" not in self.err + self.out, self.err
        assert "internal error" not in self.err, self.err
        assert "\x1b" not in self.err + self.out, "escape codes in a pipe"


@pytest.fixture
def specc(tmp_path: Path) -> Callable[..., Done]:
    """Runs `specc` in an empty folder, its output piped."""

    def run(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> Done:
        env = {**os.environ, **environment}
        done = subprocess.run([*MAIN, *arguments], input=stdin, capture_output=True, cwd=tmp_path, env=env, timeout=120)
        return Done(done)

    (tmp_path / "good.spec").write_text(GOOD, encoding="utf-8")
    (tmp_path / "wrong.spec").write_text(WRONG, encoding="utf-8")
    return run


# ---- help and usage --------------------------------------------------------------------------------------------------


def test_help_lists_every_command(specc: Callable[..., Done]) -> None:
    done = specc("--help")
    assert done.code == 0
    assert re.findall(r"^  (\w+)  ", done.out.partition("Commands:")[2], re.MULTILINE) == list(COMMANDS)
    assert specc("-h").out == done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, specc: Callable[..., Done]) -> None:
    done = specc(name, "--help")
    assert done.code == 0 and done.out.startswith(f"Usage: specc {name} ")
    assert max(map(len, done.out.splitlines())) <= 100
    assert specc(name).code == (1 if name == "runs" else 2)  # that lists runs/; others need to be told something


def test_version(specc: Callable[..., Done]) -> None:
    done = specc("--version")
    assert done.code == 0 and re.fullmatch(r"specc, version \d+\.\d+\.\d+\n", done.out)


def test_help_imports_no_compiler() -> None:
    code = (
        "import sys; from specc_runtime.cli import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('specc.') or m in ('torch', 'onnx', 'numpy', 'lark', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chekc", "good.spec"], "there is no command `chekc`. Did you mean `check`?"),
        (["frobnicate"], "there is no command `frobnicate`. Commands: build, check,"),
        (["check"], "Missing argument 'PATH...'"),
        (["check", "good.spec", "--fromat", "json"], "No such option"),
        (["check", "good.spec", "--format", "xml"], "'xml' is not one of"),
        (["build", "good.spec", "more.spec"], "unexpected extra argument"),
        (["check", "good.spec", "wrong.spec", "--preset", "big"], "a configuration of one file; there are several"),
        (["check", "good.spec", "--set", "dim"], "`dim` is not K=V"),
        (["check", "good.spec", "--set", "=4"], "`=4` is not K=V"),
        (["build", "good.spec", "--opset", "5"], "5 is not in the range 17<=x<=26"),
        (["build", "good.spec", "--emit", "tensorflow"], "`tensorflow`: choose from torch, onnx"),
        (["inspect", "good.spec", "--at", "B"], "`B` is not NAME=SIZE"),
        (["inspect", "good.spec", "--at", "B=x"], "`B=x` is not NAME=SIZE"),
        (["inspect", "good.spec", "--at", "B=-1"], "`B=-1` is not NAME=SIZE"),
        (["inspect", "good.spec", "--at", "B=²"], "is not NAME=SIZE"),
        (["inspect", "good.spec", "--at", "B=1,B=2"], "`B` is given twice"),
        (["inspect", "good.spec", "--at", f"B={'9' * 5000}"], "sizes have at most 18 digits"),
        (["inspect", "good.spec", "--depth", "-1"], "-1 is not in the range"),
        (["view", "good.spec", "--port", "70000"], "70000 is not in the range"),
        (["new", "x", "--template", "resnet"], "'resnet' is not one of"),
        (["new", "..", "--template", "mlp"], "no file name for a spec"),
        (["explain"], "Missing argument"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, specc: Callable[..., Done]) -> None:
    done = specc(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.split())


# ---- check -----------------------------------------------------------------------------------------------------------


def test_check_is_clean_or_finds(specc: Callable[..., Done]) -> None:
    done = specc("check", "good.spec")
    assert (done.code, done.out, done.err) == (0, "good.spec: ok\n", "")
    done = specc("check", "wrong.spec")
    assert done.code == 1 and done.out == ""
    assert "error[E103]: unknown function or part `haed`" in done.err and "--> wrong.spec:5:" in done.err
    assert "did you mean `head`?" in done.err


def test_formats(specc: Callable[..., Done]) -> None:
    data = json.loads(specc("check", "wrong.spec", "--format", "json").out)
    assert [(d["code"], d["file"], d["range"]["start"]["line"]) for d in data] == [("E103", "wrong.spec", 5)]
    assert json.loads(specc("check", "good.spec", "--format", "json").out) == []
    assert specc("check", "wrong.spec", "--format", "concise").out.startswith("wrong.spec:5:")
    assert specc("check", "wrong.spec", "--format", "github").out.startswith("::error file=wrong.spec,line=5,")
    assert json.loads(specc("check", "wrong.spec", "--format", "sarif").out)["version"] == "2.1.0"
    assert json.loads(specc("check", "missing.spec", "--format", "json").out)[0]["code"] == "E006"


def test_zoo_models_check(specc: Callable[..., Done]) -> None:
    done = specc("check", "gpt2", "--all-presets")
    assert (done.code, done.err) == (0, "")


def test_settings_and_presets(specc: Callable[..., Done]) -> None:
    assert specc("check", "good.spec", "--set", "dim=8").code == 0
    done = specc("check", "good.spec", "--set", "dimm=8")
    assert done.code == 1 and "E009" in done.err and "did you mean `dim`?" in done.err
    assert "E008" in specc("check", "good.spec", "--preset", "big").err
    assert "E010" in specc("check", "good.spec", "--model", "Bad").err


FIXABLE = GOOD.replace("bias", "bias").replace("head: Linear(dim, dim)", "head: Linear(dim, dim, bias = True)")


def test_fix(specc: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "fixable.spec"
    # the second fix is uncovered by the first
    path.write_text("\ufeff" + FIXABLE.replace("= head(x)", "= head(x) if x != None else head(x)"), encoding="utf-8")
    path.chmod(0o640)
    done = specc("check", "fixable.spec", "--fix")
    text = path.read_text(encoding="utf-8")
    assert "True" not in text and "bias = true" in text and "None" not in text
    assert "fixed fixable.spec: " in done.err
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir() if "fixable" in p.name] == ["fixable.spec"]


def test_fix_keeps_line_ends_and_links(specc: Callable[..., Done], tmp_path: Path) -> None:
    real = tmp_path / "real.spec"
    real.write_bytes(FIXABLE.replace("\n", "\r\n").encode())
    (tmp_path / "link.spec").symlink_to(real)
    done = specc("check", "link.spec", "--fix")
    assert done.code == 0, done.err
    assert real.read_bytes() == FIXABLE.replace("True", "true").replace("\n", "\r\n").encode()
    assert (tmp_path / "link.spec").is_symlink()


def test_fix_leaves_a_clean_file_alone(specc: Callable[..., Done], tmp_path: Path) -> None:
    before = (tmp_path / "good.spec").stat()
    assert specc("check", "good.spec", "--fix").out == "good.spec: ok\n"
    assert (tmp_path / "good.spec").stat().st_ino == before.st_ino
    out = specc("check", "wrong.spec", "--fix", "--format", "json").out
    assert json.loads(out) is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_fix_of_a_file_that_cannot_be_written(specc: Callable[..., Done], tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "a.spec").write_text(FIXABLE, encoding="utf-8")
    folder.chmod(0o500)
    done = specc("check", "locked/a.spec", "--fix")
    folder.chmod(0o700)
    assert done.code == 1 and "B640" in done.err


# ---- hostile input ---------------------------------------------------------------------------------------------------


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


# ---- streams ---------------------------------------------------------------------------------------------------------


def on_terminal(tmp_path: Path, *arguments: str, **environment: str) -> str:
    """What a run prints to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    env = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "COLUMNS": "100", "TERM": "xterm", **environment}
    command = [*MAIN, *arguments]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, cwd=tmp_path, env=env)
    os.close(follower)
    out = b""
    while True:
        ready, _, _ = select.select([leader], [], [], 60)
        assert ready, "no output within a minute"
        try:
            data = os.read(leader, 65_536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        out += data
    os.close(leader)
    process.wait(60)
    return out.decode()


def test_colour_on_terminals_unless_refused(specc: Callable[..., Done], tmp_path: Path) -> None:
    assert "\x1b[" in on_terminal(tmp_path, "check", "wrong.spec")
    assert "\x1b[" not in on_terminal(tmp_path, "check", "wrong.spec", NO_COLOR="1")
    assert "\x1b[" not in specc("check", "wrong.spec", FORCE_COLOR="1").err


def test_inspect_fits_the_terminal(tmp_path: Path) -> None:
    shutil.copy(SPECS / "transformer.spec", tmp_path)
    lines = on_terminal(tmp_path, "inspect", "transformer.spec").replace("\r", "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("block "))
    assert max(len(line) for line in lines[start : lines.index("", start)]) <= 100


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    command = [*MAIN, "inspect", "gpt2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        err = process.stderr.read().decode()
    assert err == "" and process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_on_a_full_disk(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*MAIN, "inspect", "gpt2"], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("error: ") and b"Traceback" not in done.stderr


# ---- explain, inspect ------------------------------------------------------------------------------------------------


def test_explain(specc: Callable[..., Done]) -> None:
    assert "S201" in specc("explain", "s201").out
    assert "block Linear(" in specc("explain", "std.nn.Linear").out
    assert "example: " in specc("explain", "sdpa").out


def test_inspect(specc: Callable[..., Done]) -> None:
    done = specc("inspect", "gpt2", "--preset", "gpt2", "--at", "B=1,T=1024")
    assert (done.code, done.err) == (0, "")
    assert "h.{0..11}  12 x GPT2Block" in done.out and "124,439,808" in done.out and "497.8 MB in f32" in done.out
    done = specc("inspect", "gpt2", "--at", "B=1,T=2048")
    assert done.code == 1 and "forward needs T <= 1024" in done.err
    assert "GPT2Block" in specc("inspect", "gpt2", "--depth", "1").out
    assert "GPT2Block" not in specc("inspect", "gpt2", "--depth", "0").out


def test_inspect_of_a_build(specc: Callable[..., Done], tmp_path: Path) -> None:
    shutil.copy(SPECS / "gpt2.spec", tmp_path)
    options = ["--preset", "gpt2-tiny", "--set", "layers=3", "--without", "attention_mask"]
    done = specc("build", "gpt2.spec", *options, "--no-verify", "--no-render", "--no-weights")
    assert done.code == 0, done.err
    done = specc("inspect", "build/gpt2-tiny")
    assert (done.code, done.err) == (0, "")
    assert (
        'GPT2 preset "gpt2-tiny"  forward(input_ids: Int[B, T])' in done.out and "h.{0..2}  3 x GPT2Block" in done.out
    )
    (tmp_path / "gpt2.spec").write_text(GOOD, encoding="utf-8")
    manifest = tmp_path / "build" / "gpt2-tiny" / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"gpt2.spec"', '"mine.spec"'), encoding="utf-8")
    done = specc("inspect", "build/gpt2-tiny")
    assert done.code == 1 and "was built from `mine.spec`, which isn't found" in done.err
    (tmp_path / "mine.spec").write_text(GOOD, encoding="utf-8")
    assert "is another version of it" in specc("inspect", "build/gpt2-tiny").err
    manifest.write_text("{}", encoding="utf-8")
    assert "B660" in specc("inspect", "build/gpt2-tiny").err


# ---- new -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
def test_new_checks_at_once(template: str, specc: Callable[..., Done], tmp_path: Path) -> None:
    done = specc("new", "my-net_2", "--template", template)
    assert done.code == 0 and done.err == ""
    assert done.out.splitlines()[-2:] == ["  specc check my-net_2.spec", "  specc build my-net_2.spec"]
    text = (tmp_path / "my-net_2.spec").read_text(encoding="utf-8")
    assert "model MyNet2" in text and "MyModel" not in text and "FILE" not in text
    done = specc("check", "my-net_2.spec", "--all-presets", "--deny", "warnings")
    assert (done.code, done.out, done.err) == (0, "my-net_2.spec: ok\n", "")


@pytest.mark.parametrize("name", ["linear", "Layer", "class", "42", "int", "tensor", "Module", "stage", "none"])
def test_new_avoids_names_that_are_taken(name: str, specc: Callable[..., Done]) -> None:
    for template in TEMPLATES:
        assert specc("new", f"{template}/../{name}", "--template", template).code == 1  # no such folder
    template = {"Layer": "gpt", "stage": "cnn"}.get(name, "linear")
    assert specc("new", name, "--template", template).code == 0
    assert specc("check", f"{name}.spec", "--all-presets").code == 0


def test_new_never_overwrites(specc: Callable[..., Done], tmp_path: Path) -> None:
    done = specc("new", "good.spec")
    assert done.code == 1 and "`good.spec` exists" in done.err
    assert (tmp_path / "good.spec").read_text(encoding="utf-8") == GOOD


# ---- view ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGINT])
@pytest.mark.parametrize("target", ["good.spec", "good.onnx", "built"])
def test_view_serves_until_interrupted(target: str, end: int, specc: Callable[..., Done], tmp_path: Path) -> None:
    import specc as api

    model = api.load(tmp_path / "good.spec").onnx().SerializeToString()
    (tmp_path / "good.onnx").write_bytes(model)
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "model.view.onnx").write_bytes(model)
    command = [*MAIN, "view", target, "--no-browser"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    both = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=both, stderr=both) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline().decode()
        url = re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)
        assert url is not None, line + process.stderr.read().decode()
        with urllib.request.urlopen(url.group()) as page:
            assert b"Netron" in page.read()
        process.send_signal(end)
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert not list(tmp_path.glob("specc-view-*"))


def test_view_of_a_port_that_is_taken(specc: Callable[..., Done]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        done = specc("view", "good.spec", "--no-browser", "--port", str(server.getsockname()[1]))
    assert done.code == 1 and "Address already in use" in done.err
