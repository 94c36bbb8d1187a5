"""The server behind `specc view`: real requests, and the page in a real browser."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from specc_runtime import browser, render
from specc_runtime.browser import RenderUnavailable
from specc_runtime.view import Server, serve

MODEL = helper.make_model(
    helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="act")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
    ),
    opset_imports=[helper.make_opsetid("", 23)],
    ir_version=11,
).SerializeToString()
AWKWARD = '"><script>alert(1)</script>&.onnx'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with something beside it that is nobody's business."""
    (tmp_path / ".env").write_text("SECRET=1")
    (tmp_path / "other.onnx").write_bytes(MODEL)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(MODEL)
    return path


@pytest.fixture
def server(model: Path) -> Iterator[Server]:
    with Server(model) as running:
        yield running


def get(url: str, **headers: str) -> tuple[int, bytes, Message]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def raw(server: Server, request: str) -> bytes:
    """For what a well-behaved client would not send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request.encode())
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


class Meta(HTMLParser):
    """The <meta name> of a page, in order, and how many scripts it has."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.named: list[tuple[str, str]] = []
        self.scripts = 0
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.scripts += tag == "script"
        if tag == "meta" and given.get("name"):
            self.named.append((str(given["name"]), str(given["content"])))


def test_the_page_and_its_model(server: Server) -> None:
    status, page, headers = get(server.url)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    meta = dict(Meta(page).named)
    assert meta["name"] == "tiny.onnx"
    assert get(server.url + meta["file"].lstrip("/"))[:2] == (200, MODEL)
    assert get(server.url + "grapher.js")[2]["Content-Type"] == "text/javascript; charset=utf-8"
    assert get(server.url + "onnx-metadata.json")[0] == 200


def test_only_this_machine_can_reach_it(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert server._http.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_a_foreign_host_is_refused(server: Server, host: str) -> None:
    status, body, _ = get(server.url, Host=host.format(port=server.port))
    assert status == 403 and b"Netron" not in body


def test_its_own_hosts_are_served_and_two_are_not(server: Server) -> None:
    assert get(server.url, Host=f"localhost:{server.port}")[0] == 200
    path, own = server.url.removeprefix(f"http://127.0.0.1:{server.port}"), f"Host: 127.0.0.1:{server.port}\r\n"
    assert b" 200 " in raw(server, f"GET {path} HTTP/1.1\r\n{own}\r\n").splitlines()[0]
    assert b" 403 " in raw(server, f"GET {path} HTTP/1.1\r\n{own}Host: evil.example\r\n\r\n").splitlines()[0]
    assert b" 403 " in raw(server, f"GET {path} HTTP/1.0\r\n\r\n").splitlines()[0]


def test_every_path_needs_the_token(server: Server) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    token = server.url.split("/")[3]
    assert len(token) >= 32
    for path in ("/", "/index.html", "/data/model.onnx", "/view.js", f"/{token[:-1]}/", "/x" + token, "/%00/", "/ü/"):
        answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n")
        assert b" 403 " in answer.splitlines()[0], path
        assert token.encode() not in answer
    assert get(f"{origin}/{token}")[0] == 404, "without the slash, the page's files would be looked for elsewhere"
    assert get(f"{origin}/{token}/?url=https://evil.example/m.onnx")[0] == 200
    with Server(Path(__file__)) as another:
        assert another.url.split("/")[3] != token


@pytest.mark.parametrize(
    "path",
    [
        "data/.env",
        "data/other.onnx",
        "data/tiny.onnx",
        "data/",
        "data/../data/model.onnx",
        "data/%2e%2e/server.py",
        "../tiny.onnx",
        "..%2ftiny.onnx",
        "..\\tiny.onnx",
        "/etc/passwd",
        "server.py",
        "__init__.py",
        "data/model.onnx/",
        "data/model.onnx%00.js",
        "~",
    ],
)
def test_nothing_but_the_model_is_offered(server: Server, path: str) -> None:
    path = server.url.removeprefix(f"http://127.0.0.1:{server.port}") + path
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n")
    assert b" 404 " in answer.splitlines()[0]
    assert b"SECRET" not in answer and MODEL not in answer


def test_other_methods_do_nothing(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        request = urllib.request.Request(server.url, method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=5)
        assert refused.value.code == 501
        refused.value.close()
    with urllib.request.urlopen(urllib.request.Request(server.url, method="HEAD"), timeout=5) as answer:
        assert answer.status == 200 and answer.read() == b""


def test_the_page_may_talk_to_this_server_alone(server: Server) -> None:
    for path in ("", "index.html", "view.js", "worker.js", "absent", "data/model.onnx"):
        headers = get(server.url + path)[2]
        policy = {key: rest for key, *rest in (part.split() for part in headers["Content-Security-Policy"].split(";"))}
        assert policy["default-src"] == ["'none'"]
        assert policy["connect-src"] == policy["script-src"] == ["'self'"]
        assert policy["frame-ancestors"] == policy["form-action"] == ["'none'"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer", "the address holds the token"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


def test_netron_takes_itself_for_a_build_that_reports_nothing_and_never_expires(server: Server) -> None:
    for path in ("", "index.html"):
        named = Meta(get(server.url + path)[1]).named
        assert ("version", "0.0.0") in named
        assert [name for name, _ in named].count("version") == 1
        assert "date" not in dict(named)
    consent = get(server.url)[2]["Set-Cookie"]
    assert consent == f"consent=1; Path=/{server.url.split('/')[3]}/; SameSite=Strict"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_a_file_name_is_text_in_the_page(tmp_path: Path) -> None:
    plain = tmp_path / "plain.onnx"
    awkward = tmp_path / AWKWARD.replace("/", "\u2215")
    broken = tmp_path / os.fsdecode(b"\xff\xfe.onnx")
    for path in (plain, awkward, broken):
        path.write_bytes(MODEL)
    with Server(plain) as server:
        scripts = Meta(get(server.url)[1]).scripts
    with Server(awkward) as server:
        meta = Meta(get(server.url)[1])
        assert meta.scripts == scripts
        assert dict(meta.named)["name"] == awkward.name
        assert dict(meta.named)["file"] == "/data/model.onnx"
    with Server(broken) as server:
        assert dict(Meta(get(server.url)[1]).named)["name"] == "??.onnx"


def test_an_odd_suffix_stays_out_of_the_address(tmp_path: Path) -> None:
    path = tmp_path / "model.o'x"
    path.write_bytes(MODEL)
    with Server(path) as server:
        assert get(server.url + "data/model.onnx")[:2] == (200, MODEL)


def test_what_is_served_is_what_was_opened(server: Server, model: Path) -> None:
    model.unlink()
    model.symlink_to("/etc/passwd")
    assert get(server.url + "data/model.onnx")[1] == MODEL


def test_close_frees_the_port_and_can_be_repeated(model: Path) -> None:
    first = Server(model)
    first.close()
    first.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(first.url, timeout=5)
    with Server(model, port=first.port) as again:
        assert get(again.url)[0] == 200
        with pytest.raises(OSError):
            Server(model, port=first.port)


def test_a_model_that_cannot_be_read_opens_no_port(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        serve(tmp_path / "absent.onnx", open_browser=False)
    with pytest.raises(OSError):
        serve(tmp_path, open_browser=False)


def test_the_users_browser_is_opened_with_the_token(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with serve(model) as server:
        assert opened == [server.url]
    with serve(model, open_browser=False):
        assert len(opened) == 1


def test_without_netron_a_sentence_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RenderUnavailable, match="pip install netron"):
        serve(model, open_browser=False)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_it_cleanly(model: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from specc_runtime.view import serve\n"
        "server = serve(Path(sys.argv[1]), open_browser=False)\n"
        "print(server.url, flush=True); server.wait(); print('closed')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert get(child.stdout.readline().strip())[0] == 200
        child.send_signal(signal.SIGINT)
        output, error = child.communicate(timeout=10)
    assert (child.returncode, output, error) == (0, "closed\n", "")


@pytest.mark.render
@pytest.mark.skipif(browser.find_browser() is None, reason=browser.no_browser())
def test_the_page_in_a_real_browser(model: Path) -> None:
    """It draws the graph, shows the file's name, and asks for nothing beyond the server, even when told to."""
    with Server(model) as server:
        seen = asyncio.run(visit(server.url))
        origin = server.url.rsplit("/", 2)[0]
    assert seen["title"] == "tiny.onnx"
    assert {"x", "Relu", "y", "B×3"} <= set(seen["text"])
    assert seen["message"] == ""
    assert seen["fetched"] == "refused"
    outside = [url for url in seen["requests"] if not url.startswith((origin, "data:", "blob:"))]
    assert outside == []
    assert seen["errors"] == []


@pytest.mark.render
@pytest.mark.skipif(browser.find_browser() is None, reason=browser.no_browser())
def test_nodes_are_coloured_by_what_they_take(tmp_path: Path) -> None:
    """In the graph and in a function that is opened; the figures are in Netron's own sidebar."""
    inner = [helper.make_node("Relu", ["v"], ["w"], name="own/a"), helper.make_node("Neg", ["w"], ["r"], name="own/b")]
    own = helper.make_function("own", "Own", ["v"], ["r"], inner, [helper.make_opsetid("", 23)])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Own", ["x"], ["y"], name="own", domain="own")], "g", info[:1], info[1:]
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("own", 1)]
    model = tmp_path / "m.onnx"
    model.write_bytes(
        helper.make_model(graph, functions=[own], opset_imports=opsets, ir_version=11).SerializeToString()
    )
    costs = {
        "signature": "netron:attachment",
        "metrics": [{"kind": "node", "target": "own", "name": "FLOPs", "value": "3 M (100.0%)"}],
        "specc": {"title": "FLOPs: shares of 3 M", "shares": {"own": 1.0, "own/a": 0.02, "own/b": 0.0004}},
    }
    with Server(model, attachment=json.dumps(costs).encode()) as server:
        assert json.loads(get(server.url + "data/costs.json")[1]) == costs
        assert b"specc-heat-4" in get(server.url + "grapher.css")[1]
        seen = asyncio.run(opened(server.url))
    assert seen["whole"] == [["specc-heat-4"] * 2, ["100%"]]
    assert seen["inside"] == [["specc-heat-1"], ["specc-heat-0"], ["2.0%", "<0.1%"]]
    assert seen["legend"] == "FLOPs: shares of 3 M" and seen["errors"] == []
    assert "METRICS" in seen["sidebar"] and "3 M (100.0%)" in seen["sidebar"]


async def opened(url: str) -> dict[str, Any]:
    """Classes and shares of the graph's nodes, then the sidebar of the first, then what is in its function."""
    from playwright.async_api import async_playwright

    look = """JSON.stringify([
      ...Array.from(document.querySelectorAll('#nodes > .node[id^="node-name-"]'),
        (node) => Array.from(node.querySelectorAll('.node-item-type'), (item) => [...item.classList].pop())),
      Array.from(document.querySelectorAll('.specc-share'), (share) => share.textContent)])"""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=browser.find_browser(), args=render._FLAGS, chromium_sandbox=not render._is_root()
        )
        page = await chromium.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        devtools = await page.context.new_cdp_session(page)
        await page.goto(url)
        await page.wait_for_selector(".specc-legend")
        seen: dict[str, Any] = {"whole": json.loads(await render._evaluate(devtools, look))}
        seen["legend"] = await page.text_content(".specc-legend > text")
        await page.click("#node-name-own .node-item-type >> nth=0")
        await page.wait_for_selector(".sidebar-section >> text=Metrics")
        seen["sidebar"] = await page.inner_text("#sidebar-content")
        await page.keyboard.press("Escape")
        await page.click("#node-name-own .node-item-type >> nth=1")
        await page.wait_for_selector('[id="node-name-own/a"] .specc-share')
        seen["inside"] = json.loads(await render._evaluate(devtools, look))
        await chromium.close()
    return {**seen, "errors": errors}


async def visit(url: str) -> dict[str, Any]:
    """What a browser with nothing blocked makes of the page."""
    from playwright.async_api import async_playwright

    look = """(async () => JSON.stringify({
      title: document.title,
      text: Array.from(document.querySelectorAll('#canvas text')).map((element) => element.textContent),
      message: document.getElementById('message-text').innerText,
      fetched: await fetch('https://analytics.example/').then(() => 'allowed', () => 'refused'),
    }))()"""
    async with async_playwright() as playwright:
        program = browser.find_browser()
        chromium = await playwright.chromium.launch(
            executable_path=program, args=render._FLAGS, chromium_sandbox=not render._is_root()
        )
        page = await chromium.new_page()
        requests: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        devtools = await page.context.new_cdp_session(page)
        await page.goto(url)
        async with asyncio.timeout(30):
            while not await render._is_ready(devtools, render._Progress()):
                await asyncio.sleep(0.05)
        seen: dict[str, Any] = json.loads(await render._evaluate(devtools, look))
        await chromium.close()
    return {**seen, "requests": [r for r in requests if "analytics.example" not in r], "errors": errors}
