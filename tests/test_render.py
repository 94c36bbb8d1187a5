"""Pictures: what Netron draws of a model, and how it ends when it can't."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from specc_runtime import browser, render
from specc_runtime.render import Picture, Renderer, RenderFailed, RenderUnavailable

np = pytest.importorskip("numpy")
needs_browser = pytest.mark.skipif(browser.find_browser() is None, reason=browser.no_browser())
OPSET = helper.make_opsetid("", 23)


def value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def flat_mlp() -> onnx.ModelProto:
    """Two layers with symbolic shapes on the edges."""
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["hidden"], name="fc1"),
            helper.make_node("Relu", ["hidden"], ["active"], name="act"),
            helper.make_node("Gemm", ["active", "fc2.weight"], ["logits"], name="fc2"),
        ],
        "mlp",
        [value("x", "B", 768)],
        [value("logits", "B", 10)],
        [
            weight("fc1.weight", 768, 256),
            weight("fc1.bias", 256),
            weight("fc2.weight", 256, 10),
            weight("fc2.bias", 10),
        ],
        value_info=[value("hidden", "B", 256), value("active", "B", 256)],
    )
    return helper.make_model(graph, opset_imports=[OPSET], ir_version=11)


def nested_functions() -> onnx.ModelProto:
    """A stack of three blocks; a block is a function that calls another one."""
    ours = helper.make_opsetid("specc", 1)
    linear = helper.make_function(
        "specc",
        "Linear",
        ["x", "weight", "bias"],
        ["y"],
        [helper.make_node("MatMul", ["x", "weight"], ["xw"]), helper.make_node("Add", ["xw", "bias"], ["y"])],
        [OPSET],
    )
    formals = ["up.weight", "up.bias", "down.weight", "down.bias"]
    block = helper.make_function(
        "specc",
        "Block",
        ["x", *formals],
        ["y"],
        [
            helper.make_node("Linear", ["x", "up.weight", "up.bias"], ["up"], name="up", domain="specc"),
            helper.make_node("Gelu", ["up"], ["act"], name="act"),
            helper.make_node("Linear", ["act", "down.weight", "down.bias"], ["down"], name="down", domain="specc"),
            helper.make_node("Add", ["x", "down"], ["y"], name="residual"),
        ],
        [OPSET, ours],
    )
    shapes = [(64, 256), (256,), (256, 64), (64,)]
    values = ["x", "blocks.0", "blocks.1", "y"]
    graph = helper.make_graph(
        [
            helper.make_node(
                "Block",
                [values[i], *(f"blocks.{i}.{name}" for name in formals)],
                [values[i + 1]],
                name=f"blocks.{i}",
                domain="specc",
            )
            for i in range(3)
        ],
        "nested",
        [value("x", "B", "T", 64)],
        [value("y", "B", "T", 64)],
        [weight(f"blocks.{i}.{name}", *shape) for i in range(3) for name, shape in zip(formals, shapes, strict=True)],
        value_info=[value(name, "B", "T", 64) for name in values[1:3]],
    )
    return helper.make_model(graph, opset_imports=[OPSET, ours], functions=[linear, block], ir_version=11)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def drawn(renderer: Renderer, model: Path, name: str = "picture") -> Picture:
    return renderer.export(model, model.with_name(f"{name}.svg"), model.with_name(f"{name}.png"))


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    """One browser for the tests of this file, as for the pictures of one build."""
    with Renderer() as started:
        yield started


# ---- what is drawn --------------------------------------------------------------------------------------------------


@needs_browser
@pytest.mark.render
def test_a_flat_model(renderer: Renderer, tmp_path: Path) -> None:
    model = save(flat_mlp(), tmp_path / "mlp.onnx")
    picture = drawn(renderer, model)
    assert picture == Picture(model, tmp_path / "picture.svg", tmp_path / "picture.png")
    svg = picture.svg.read_text(encoding="utf-8")
    for text in ("Gemm", "Relu", "B×768", "B×256", "B×10", "⟨768×256⟩", "logits"):
        assert f">{text}<" in svg, text
    assert "\u3008" not in svg and "\u3009" not in svg, "brackets that most fonts lack"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlp.onnx", "picture.png", "picture.svg"]


@needs_browser
@pytest.mark.render
def test_the_png_is_the_svg_at_twice_the_size(renderer: Renderer, tmp_path: Path) -> None:
    picture = drawn(renderer, save(flat_mlp(), tmp_path / "mlp.onnx"))
    width, height = png_size(picture.png)
    assert 100 < width < 400 and 500 < height < 1500
    assert f'<svg viewBox="0 0 {width // 2} {height // 2}"' in picture.svg.read_text(encoding="utf-8")


@needs_browser
@pytest.mark.render
def test_functions_stay_closed_blocks(renderer: Renderer, tmp_path: Path) -> None:
    svg = drawn(renderer, save(nested_functions(), tmp_path / "nested.onnx")).svg.read_text(encoding="utf-8")
    assert svg.count(">Block<") == 3
    assert svg.count("up.weight") == 3 and "⟨64×256⟩" in svg and "B×T×64" in svg
    assert "Gelu" not in svg, "the body is opened on demand"


@needs_browser
@pytest.mark.render
def test_the_same_model_gives_the_same_bytes(renderer: Renderer, tmp_path: Path) -> None:
    model = save(nested_functions(), tmp_path / "nested.onnx")
    first = drawn(renderer, model, "first")
    drawn(renderer, save(flat_mlp(), tmp_path / "other.onnx"), "between")
    with Renderer() as another:
        second = drawn(another, model, "second")
    assert first.svg.read_bytes() == second.svg.read_bytes()
    assert first.png.read_bytes() == second.png.read_bytes()


@needs_browser
@pytest.mark.render
def test_weights_need_not_be_there(renderer: Renderer, tmp_path: Path) -> None:
    model = flat_mlp()
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="absent.safetensors")
    onnx.save(model, tmp_path / "mlp.onnx")
    assert "⟨768×256⟩" in drawn(renderer, tmp_path / "mlp.onnx").svg.read_text(encoding="utf-8")


@needs_browser
@pytest.mark.render
def test_a_caller_inside_an_event_loop(tmp_path: Path) -> None:
    """A notebook's cell runs in one."""
    model = save(flat_mlp(), tmp_path / "mlp.onnx")

    async def cell() -> list[Picture]:
        return render.render([(model, tmp_path / "a.svg", tmp_path / "a.png")])

    [picture] = asyncio.run(cell())
    assert png_size(picture.png)[0] > 100


def test_nothing_to_draw_starts_no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECC_BROWSER", "/no/such/browser")
    assert render.render([]) == []


# ---- when it fails --------------------------------------------------------------------------------------------------


@needs_browser
@pytest.mark.render
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a model at all", "Unsupported file content"),
        (b"", "no content"),
        (flat_mlp().SerializeToString()[:500], "not onnx.ModelProto"),
        (helper.make_model(helper.make_graph([], "void", [], [])).SerializeToString(), "nothing to draw"),
    ],
    ids=["junk", "empty", "cut short", "no graph"],
)
def test_netrons_message_is_the_error(renderer: Renderer, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(RenderFailed, match=message):
        drawn(renderer, tmp_path / "bad.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"], "no half picture"


@needs_browser
@pytest.mark.render
def test_a_picture_that_cannot_be_written_leaves_nothing(renderer: Renderer, tmp_path: Path) -> None:
    model = save(flat_mlp(), tmp_path / "mlp.onnx")
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(OSError):
        drawn(renderer, model, "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlp.onnx", "taken.svg"]


@needs_browser
@pytest.mark.render
def test_a_page_that_computes_for_ever_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(flat_mlp(), tmp_path / "mlp.onnx")
    with Renderer() as renderer:
        with monkeypatch.context() as patch:
            patch.setattr(render, "_STATE", "for (;;) {}")
            started = time.monotonic()
            with pytest.raises(RenderFailed, match=r"did not finish drawing mlp\.onnx in 0\.5 s"):
                renderer.export(model, tmp_path / "a.svg", tmp_path / "a.png", timeout=0.5)
            assert time.monotonic() - started < 15
        assert not list(tmp_path.glob("*a.*"))
        drawn(renderer, model)  # the next picture gets another browser


@needs_browser
@pytest.mark.render
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_no_browser_is_left_behind(tmp_path: Path, stop: signal.Signals) -> None:
    """The page computes for ever; whether asked to stop or killed, the browser and its folders go with the caller."""
    model = save(flat_mlp(), tmp_path / "mlp.onnx")
    program = (
        "import sys; from pathlib import Path; from specc_runtime import render\n"
        "render._STATE = 'for (;;) {}'\n"
        "model = Path(sys.argv[1])\n"
        "with render.Renderer() as renderer:\n"
        "    print('started', flush=True)\n"
        "    renderer.export(model, model.with_suffix('.svg'), model.with_suffix('.png'))\n"
    )
    temporary = Path(tempfile.mkdtemp(prefix="specc-"))  # short: the browser's socket goes there too
    mark = f"SPECC_TEST_MARK={tmp_path}"
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its own group, as a terminal's foreground job: Ctrl-C goes to all of it
        env={**os.environ, "SPECC_TEST_MARK": str(tmp_path), "TMPDIR": str(temporary)},
    )
    assert child.stdout is not None and child.stdout.readline() == "started\n"
    time.sleep(1)
    assert len(processes(mark)) > 2, "the caller, the driver and the browser"
    if stop == signal.SIGINT:
        os.killpg(child.pid, stop)
    else:
        child.send_signal(stop)
    _, error = child.communicate(timeout=20)
    assert child.returncode != 0
    assert "KeyboardInterrupt" in error or stop == signal.SIGKILL
    deadline = time.monotonic() + 10
    while (processes(mark) or any(temporary.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes(mark) == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mlp.onnx"]


def processes(mark: str) -> list[str]:
    """The command lines of the processes whose environment holds `mark` (a dead one's is empty)."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except (OSError, ProcessLookupError):
                continue  # gone meanwhile, or another user's
    return found


# ---- which browser --------------------------------------------------------------------------------------------------


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def test_chromium_before_chrome_before_playwrights_own(tmp_path: Path) -> None:
    cache = tmp_path / ".cache/ms-playwright"
    own = [
        program(cache / "chromium-1200/chrome-linux64/chrome"),
        program(cache / "chromium_headless_shell-1200/chrome-headless-shell-linux64/chrome-headless-shell"),
        program(cache / "chromium-999/chrome-linux/chrome"),
    ]
    program(cache / "firefox-1300/firefox/firefox")
    chrome, chromium = program(tmp_path / "a/google-chrome"), program(tmp_path / "b/chromium")
    (tmp_path / "a/chromium").write_text("not a program")
    environ = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/a{os.pathsep}{tmp_path}/b"}
    installed = [path for path in browser.find_browsers(environ, "linux") if path.is_relative_to(tmp_path)]
    assert installed == [chromium, chrome, *own]


def test_a_named_browser_is_the_only_one(tmp_path: Path) -> None:
    mine = program(tmp_path / "mine")
    assert browser.find_browsers({**os.environ, "SPECC_BROWSER": str(mine)}) == [mine]
    environ = {**os.environ, "SPECC_BROWSER": str(tmp_path / "absent")}
    assert browser.find_browser(environ) is None
    assert "SPECC_BROWSER names" in browser.no_browser(environ)


def test_windows_places_come_from_its_variables(tmp_path: Path) -> None:
    edge = program(tmp_path / "Microsoft/Edge/Application/msedge.exe")
    assert browser.find_browsers({"PROGRAMFILES(X86)": str(tmp_path)}, "win32") == [edge]


def test_without_a_browser_one_sentence_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "find_browsers", list)
    with pytest.raises(RenderUnavailable) as raised, Renderer():
        pass
    message = str(raised.value)
    assert "playwright install chromium" in message and "\n" not in message
    assert "apt install chromium" in browser.no_browser({}, "linux")
    assert "apt" not in browser.no_browser({}, "darwin")


def test_a_browser_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = program(tmp_path / "broken")
    monkeypatch.setenv("SPECC_BROWSER", str(broken))
    with pytest.raises(RenderUnavailable, match="the browser does not start") as raised, Renderer():
        pass
    assert str(broken) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="runs a shell script")
def test_a_browser_says_itself_why_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = program(tmp_path / "chrome")
    broken.write_text("#!/bin/sh\necho noise >&2\necho '[1:1:1/2:FATAL:zygote.cc(1)] No usable sandbox!' >&2\nexit 1\n")
    monkeypatch.setenv("SPECC_BROWSER", str(broken))
    with pytest.raises(RenderUnavailable) as raised, Renderer():
        pass
    assert str(raised.value) == f"the browser does not start: {broken}: No usable sandbox!"


@needs_browser
@pytest.mark.render
@pytest.mark.skipif(os.name != "posix", reason="sockets with paths")
def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chromium aborts where the path of its socket is too long."""
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    with Renderer() as renderer:
        drawn(renderer, save(flat_mlp(), tmp_path / "mlp.onnx"))
    assert list(folder.iterdir()) == []


@needs_browser
@pytest.mark.render
def test_the_next_browser_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [program(tmp_path / "broken"), *browser.find_browsers()]
    monkeypatch.setattr(render, "find_browsers", lambda: found)
    with Renderer() as renderer:
        drawn(renderer, save(flat_mlp(), tmp_path / "mlp.onnx"))
