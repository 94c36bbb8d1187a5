"""`specc view --report`: what is on the page, that nothing in it is taken for HTML, and how it is in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from specc.diagnostics import Rejected
from specc.quantisation import Scheme
from specc_runtime import browser, render
from specc_runtime.build import Request, build
from specc_runtime.cli import cli
from specc_runtime.drawn.subject import Chosen
from specc_runtime.report.page import Pictures, page
from specc_runtime.report.svg import inlined

SPEC = """\
from std.nn import Linear, LayerNorm
from "./blocks.spec" import Mlp
dim B, T

## A layer </script><img src=x onerror=alert(1)>
block Layer(dim: int) {
  ln: LayerNorm(dim)
  mlp: Mlp(dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = x + mlp(ln(x))
}

## A model </script><script>alert(1)</script> & "more"
model Net(dim: int = 8, layers: int = 3, title: str = "</script><b>bold</b>") {
  h: [Layer(dim) for i in range(layers)]    # </pre></style><script>alert(2)</script>
  head: Linear(dim, 5, bias = false)
  forward(x: Tensor[B, T, dim]) -> y: Tensor[B, T, 5] = x |> h |> head
}
"""
BLOCKS = """\
from std.nn import Linear

block Mlp(dim: int) {
  up: Linear(dim, 2*dim)
  down: Linear(2*dim, dim)
  forward(x: Tensor[..., dim]) -> Tensor[..., dim] = x |> up |> relu |> down
}
"""
SVG = b"""<svg viewBox="0 0 80 40" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
 width="80" height="40" onload="alert(1)"><rect id="background" fill="#fff" width="80" height="40"/>
<script>alert(1)</script><defs><marker id="arrow" style="fill: rgb(0, 0, 0);"/></defs><a xlink:href="https://example.org"><text>out</text></a>
<path id="e" d="M0 0" style="marker-end: url(&quot;#arrow&quot;); stroke: rgb(0, 0, 0); fill: rgb(189, 43, 43);"/>
<foreignObject><p>x</p></foreignObject><text onclick="x()">&lt;/svg&gt;&lt;script&gt;</text></svg>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    (place / "net.spec").write_text(SPEC, "utf-8")
    (place / "blocks.spec").write_text(BLOCKS, "utf-8")
    return place


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    """A build with its proof and weights in few bits."""
    request = Request(str(folder / "net.spec"), sets={"dim": "32"}, render=False, quant=Scheme(8), out=folder / "net")
    return build(request).folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a training."""
    place = tmp_path / "run"
    place.mkdir()
    rows = "".join(f"0,{2 / (step + 1)},0.1,{step},\n" for step in range(5))
    (place / "metrics.csv").write_text(f"epoch,loss,lr,step,val_loss\n{rows}0,,,4,0.75\n")
    record = {
        "format": "specc-run/1", "model": "Net", "section": "points <b>", "preset": None, "sets": {"dim": "32"},
        "settings": {"optim": "adam(lr = 0.1)"}, "status": "finished", "step": 5, "steps": 5,
    }  # fmt: skip
    (place / "run.json").write_text(json.dumps(record))
    return place


class Outline(HTMLParser):
    """What a page is made of; open elements must close in order."""

    VOID = frozenset({"meta", "img", "br", "path", "rect"})

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(content.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


def view(*words: object) -> Result:
    return CliRunner().invoke(cli, ["view", *map(str, words)])


def test_nothing_in_a_spec_is_taken_for_html(made: Path, run: Path) -> None:
    found = Outline(page(Chosen(str(made)), {"B": 1, "T": 4}, Pictures(SVG, {"<Block>": SVG}), run))
    assert len(found.all("script")) == 1 and "alert" not in "".join(found.said("script"))
    assert len(found.all("img")) == 1 and {e["class"] for e in found.all("img")} == {"curves"}
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    shown = "".join(text for _, text in found.texts)
    assert 'A model </script><script>alert(1)</script> & "more"' in shown
    assert "</pre></style><script>alert(2)</script>" in shown and '"</script><b>bold</b>"' in shown
    assert {e.get("http-equiv") for e in found.all("meta")} >= {"Content-Security-Policy"}


def test_the_page_refers_to_nothing_outside(made: Path, run: Path) -> None:
    content = page(Chosen(str(made)), {}, Pictures(SVG), run)
    found = Outline(content)
    links = [str(value) for _, a in found.elements for name, value in a.items() if name in ("href", "src")]
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert links and all(link.startswith("data:") or link[1:] in ids for link in links)
    outside = set(re.findall(rb"https?://[^\s\"'<)]+", content))
    assert outside <= {b"http://www.w3.org/2000/svg"}
    assert content == page(Chosen(str(made)), {}, Pictures(SVG), run), "the same input gives the same bytes"


def test_headings_make_an_outline(made: Path, run: Path) -> None:
    found = Outline(page(Chosen(str(made)), {}, Pictures(SVG), run))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert found.said("h2") == ["Source and blocks", "Picture", "Cost", "Proof", "Training", "Graph and files"]


def test_rows_of_the_tree_know_their_lines(folder: Path) -> None:
    found = Outline(page(Chosen(str(folder / "net.spec")), {}, Pictures(missing="no browser")))
    lines: dict[tuple[int, ...], list[str]] = {}
    for (_, attributes), after in pairwise(found.elements):
        if "data-file" in attributes:
            assert attributes["href"] == f"#s{attributes['data-file']}-{attributes['data-first']}"
            key = tuple(int(str(attributes[f"data-{name}"])) for name in ("file", "first", "last"))
            lines.setdefault(key, []).append(after[0])
    assert set(lines) == {(0, 13, 17), (0, 6, 10), (0, 7, 7), (1, 3, 7), (1, 4, 4), (1, 5, 5), (0, 15, 15)}
    assert found.said("h2") == ["Source and blocks", "Picture", "Cost"], "a spec has no proof and no files"
    assert "Not drawn: no browser" in found.said("p")


def test_what_is_known_of_a_build(made: Path, run: Path) -> None:
    found = Outline(page(Chosen(str(made)), {"B": 2, "T": 4}, Pictures(SVG), run))
    record = json.loads((made / "manifest.json").read_bytes())
    shown = "".join(text for _, text in found.texts)
    assert f"{record['parameters']:,}" in found.said("dd") and "Numbers are for B = 2, T = 4" in shown
    runs = record["certificate"]["entries"]["forward"]["runs"]
    assert f"torch and onnxruntime agree in {len(runs)} runs." in shown
    assert "int8, packed exactly" in shown and "off by" in shown
    for name, file in record["files"].items():
        assert name in found.said("th") and (file["sha256"] is None or file["sha256"] in shown)
    assert {"Gemm", "LayerNormalization"} <= set(found.said("li"))
    assert 'Net "points <b>"' in shown and "val_loss" in found.said("th") and "0.75" in found.said("td")


def test_a_build_without_a_proof_says_so(folder: Path) -> None:
    request = Request(str(folder / "net.spec"), verify=False, render=False, out=folder / "unproved")
    found = Outline(page(Chosen(str(build(request).folder)), {}, Pictures()))
    assert "not proved" in found.said("strong") and "Source and blocks" in found.said("h2")
    assert any("torch and onnxruntime were not compared" in text for text in found.said("p"))


def test_a_build_whose_spec_is_lost(made: Path, tmp_path: Path) -> None:
    """It was moved away from it: what the build knows itself is told."""
    moved = tmp_path / "far" / "off" / "net"
    shutil.copytree(made, moved)
    found = Outline(page(Chosen(str(moved)), {}, Pictures(SVG)))
    assert found.said("h2") == ["Picture", "Cost", "Proof", "Graph and files"]
    assert any("which isn't found as it was" in text for text in found.said("dd")) and "32" in found.said("dd")


def test_a_foreign_file(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info("x<b>", TensorProto.FLOAT, ["B", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x<b>"], ["y"], name="act")], "g", [info], [result])
    made = helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 23)])
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    found = Outline(page(Chosen(str(path)), {}, Pictures(SVG)))
    assert found.said("h2") == ["Picture", "Cost", "Graph"] and "Relu" in found.said("li")
    assert "ai.onnx 23" in found.said("dd") and any("x<b>" in text for text in found.said("dd"))


def test_pictures_are_shapes_and_text_alone() -> None:
    text = inlined(SVG, "p-", 'a "name"')
    found = Outline(text.encode())
    assert {tag for tag, _ in found.elements} == {"svg", "rect", "defs", "marker", "path", "text"}
    assert {a["id"] for _, a in found.elements if "id" in a} == {"p-background", "p-arrow", "p-e"}
    (path,) = found.all("path")
    assert path["style"] == "marker-end: url(#p-arrow); stroke: var(--edge); fill: rgb(189, 43, 43);"
    cold = b'<svg xmlns="http://www.w3.org/2000/svg"><g class="node specc-heat-0"><path style="fill: rgb(1, 2, 3);"/>'
    cold += b'<text style="font-size: 9px; fill: rgb(3, 2, 1);">Add</text></g></svg>'
    quiet = Outline(inlined(cold, "q-", "cold").encode())
    assert [quiet.all(tag)[0]["style"] for tag in ("path", "text")] == [
        "fill: var(--cold);", "font-size: 9px; fill: var(--ink);"
    ]  # fmt: skip
    assert found.said("text") == ["</svg><script>"] and found.all("rect")[0]["fill"] == "none"
    assert found.all("svg")[0]["aria-label"] == 'a "name"'


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--run", "x"], 2, "--run is of a page"),
        (["--report", "x.html", "--block", "h"], 2, "--report is of the whole model"),
        (["--report", "missing/x.html"], 1, "there is no folder"),
        (["--report", "x.html", "--run", "none"], 1, "there is no folder `none`"),
    ],
)
def test_options_that_do_not_fit(folder: Path, words: list[str], code: int, message: str) -> None:
    done = view(folder / "net.spec", *words)
    assert done.exit_code == code and message in done.output


def test_a_run_of_another_model(folder: Path, run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps({**record, "model": "Other"}))
    done = view(folder / "net.spec", "--report", tmp_path / "a.html", "--run", run)
    assert done.exit_code == 1 and "trained Other, this is Net" in done.output
    assert not (tmp_path / "a.html").exists()


def test_sizes_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(Rejected, match="has no dim"):
        page(Chosen(str(folder / "net.spec")), {"Q": 1}, Pictures())


def test_without_a_browser_there_is_a_page_without_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECC_BROWSER", "/nowhere")
    done = view(folder / "net.spec", "--report", tmp_path / "a.html")
    assert done.exit_code == 0, done.output
    assert b"Not drawn: SPECC_BROWSER names /nowhere" in (tmp_path / "a.html").read_bytes()


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = browser.find_browser()
        chromium = playwright.chromium.launch(
            executable_path=program, args=list(render._FLAGS), chromium_sandbox=not render._is_root()
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as the command writes it, with real pictures."""
    path = tmp_path_factory.mktemp("file") / "net.html"
    done = view(made, "--report", path, "--at", "B=1,T=4")
    assert done.exit_code == 0, done.output
    return path


@pytest.mark.render
@pytest.mark.skipif(browser.find_browser() is None, reason=browser.no_browser())
class TestInABrowser:
    @pytest.mark.parametrize("width", [320, 390, 800, 1400])
    def test_no_width_scrolls_the_page_sideways(self, chromium: Any, file: Path, width: int) -> None:
        page = chromium.new_page(viewport={"width": width, "height": 844})
        page.goto(file.as_uri())
        for details in page.query_selector_all("summary"):
            details.click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("document.querySelector('.frame svg').getBoundingClientRect().width") > 100
        page.close()

    def test_light_and_dark(self, chromium: Any, file: Path) -> None:
        grounds = {}
        for scheme in ("light", "dark"):
            page = chromium.new_page(color_scheme=scheme)
            page.goto(file.as_uri())
            look = (
                "(e) => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
                ".map((color) => color.match(/\\d+/g).map(Number))"
            )
            grounds[scheme] = page.eval_on_selector("body", look)
            picture = page.eval_on_selector(
                ".frame svg text", "(e) => getComputedStyle(e).fill.match(/\\d+/g).map(Number)"
            )
            assert abs(sum(picture) - sum(grounds[scheme][0])) > 250, "text of the picture is seen on its ground"
            page.close()
        assert sum(grounds["light"][0]) > 700 > sum(grounds["light"][1]) + 500
        assert sum(grounds["dark"][0]) < 120 and sum(grounds["dark"][1]) > 600

    def test_no_request_leaves_and_no_script_of_the_spec_runs(self, chromium: Any, file: Path) -> None:
        page = chromium.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto(file.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()] and errors == []
        assert page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')") == "refused"
        page.close()

    def test_a_block_lights_its_lines_up(self, chromium: Any, file: Path) -> None:
        page = chromium.new_page(viewport={"width": 1400, "height": 500})
        page.goto(file.as_uri())
        part = page.locator("a[data-file]", has_text="h.{0..2}")
        part.hover()
        page.wait_for_selector(".near")
        numbers = "(lines) => lines.map((line) => line.id)"
        wanted = [f"s0-{number}" for number in range(6, 11)]
        assert page.eval_on_selector_all(".near", numbers) == wanted
        part.click()
        page.mouse.move(0, 0)
        page.wait_for_selector(".lit")
        page.wait_for_selector(".near", state="detached")
        assert page.eval_on_selector_all(".lit", numbers) == wanted and page.locator(".near").count() == 0
        assert part.get_attribute("aria-current") == "true"
        inside = page.locator("a[data-file]", has_text="mlp")
        inside.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#s1-3.lit")
        assert page.eval_on_selector_all(".lit", numbers) == [f"s1-{number}" for number in range(3, 8)]
        assert page.locator("a[aria-current]").count() == 1
        page.close()

    def test_pictures_grow(self, chromium: Any, file: Path) -> None:
        from playwright.sync_api import expect

        page = chromium.new_page()
        page.goto(file.as_uri())
        width = "document.querySelector('.frame svg').getBoundingClientRect().width"
        before = page.evaluate(width)
        page.click("button[value=larger] >> nth=0")
        told = page.locator("output").first
        expect(told).to_have_text("125%")
        assert page.evaluate(width) == pytest.approx(1.25 * before, rel=0.01)
        page.click("button[value=width] >> nth=0")
        expect(told).not_to_have_text("125%")
        box = page.evaluate("document.querySelector('.frame').clientWidth")
        assert box - 40 < page.evaluate(width) <= box
        page.close()

    def test_without_javascript_all_can_be_read(self, chromium: Any, file: Path) -> None:
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(file.as_uri())
        assert page.locator(".line").count() == len(SPEC.splitlines()) + len(BLOCKS.splitlines())
        assert page.locator(".frame svg").first.is_visible() and not page.locator(".tools").first.is_visible()
        page.locator("a[data-file]", has_text="h.{0..2}").click()
        assert page.url.endswith("#s0-6") and page.locator("#s0-6").is_visible()
        context.close()
