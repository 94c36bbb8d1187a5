"""The command line: every command's help and usage, exit codes, formats, streams.

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
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import GOOD, MAIN, Done, running

from specc.elaborate.builtins import COMPILE_TIME
from specc_runtime.cli import COMMANDS, topics
from specc_runtime.cli.new import TEMPLATES

SPECS = Path(__file__).resolve().parents[1] / "specs"


@pytest.fixture
def specc(tmp_path: Path) -> Callable[..., Done]:
    return running(tmp_path)


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
    assert specc(name).code == {"runs": 1, "explain": 0}.get(name, 2)  # these list; others need to be told something


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
    assert (
        specc("explain", "sdpa").out.startswith("sdpa(q, k, v, mask = none, ")
        and "example: " in specc("explain", "sdpa").out
    )
    assert "ceil_div(a, b): a / b rounded up" in specc("explain", "ceil_div").out
    assert "the largest of numbers" in specc("explain", "max").out  # an operator and a function of numbers


def test_explain_lists_what_there_is(specc: Callable[..., Done]) -> None:
    found = specc("explain").out
    assert {*topics.NUMBERS} == {*COMPILE_TIME} and {*COMPILE_TIME, "sdpa", "BatchNorm1d", "CrossAttention"} <= {
        *found.split()
    }
    done = specc("explain", "layernorm")
    assert done.code == 1 and done.err.endswith(
        "it knows no `layernorm`: near it are layer_norm, std.nn.LayerNorm, std.nn.LayerNorm2d\n"
    )
    assert specc("explain", "frobnicate").err.endswith("`specc explain` lists all\n")


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
    assert done.code == 0 and "warning[B660]: `build/gpt2-tiny` was built from `mine.spec`, which isn't" in done.err
    assert "h.{0..2}" in done.out and "parameters" in done.out  # what its graph tells
    done = specc("inspect", "build/gpt2-tiny", "--fit", "1GB", "--at", "B=1")
    assert done.code == 1 and "error[B660]: `build/gpt2-tiny` was built from `mine.spec`, which isn't" in done.err
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
