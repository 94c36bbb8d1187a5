"""Serve one model to Netron's page on this machine, and nothing else: what `specc view` opens and `render` draws in.

Netron's own server offers every file beside the model to any Host, puts the file's name into the page unescaped, and
its page reports to an analytics host. This one keeps Netron's page and replaces the rest:

- it listens on 127.0.0.1 and refuses a Host header that is not its own (a page elsewhere cannot rebind a name to it);
- every path starts with a random token. The token is in the path and not in a cookie because a browser sends a cookie
  of 127.0.0.1 to every port of it, so that another local server would be told the secret;
- a request is looked up in a table made at the start, so that no request becomes a path on this disk;
- a content security policy lets the page talk to this server alone.
"""

from __future__ import annotations

import html
import http.server
import importlib.resources
import importlib.util
import re
import secrets
import socketserver
import threading
import webbrowser
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import urlsplit

from specc_runtime.browser import RenderUnavailable

_MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_OUR_META = re.compile(r'<meta name="(?:type|version|date|file|name|identifier)"[^>]*>\s*')
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,16}")


class Server:
    """One model on a port of 127.0.0.1, in a thread of its own until `close`; also a context manager.

    The model is read once, at the start: what is served does not change under the page. `attachment`: JSON in Netron's
    form of what nodes cost, by which they are coloured (`specc_runtime.drawn.costs`).
    Raises OSError if the model can't be read or the port is taken, RenderUnavailable if Netron is not installed.
    """

    def __init__(self, model: Path, *, port: int = 0, attachment: bytes | None = None) -> None:
        assets = _assets()
        token = secrets.token_urlsafe(24)
        # The address of the model never carries the user's file name; the suffix stays, Netron goes by it.
        suffix = model.suffix if _SUFFIX.fullmatch(model.suffix) else ".onnx"
        address = f"data/model{suffix}"
        pages = {address: ("application/octet-stream", model.read_bytes())}
        pages[""] = pages["index.html"] = (_MIME_TYPES[".html"], _index(assets["index.html"], address, model.name))
        if attachment is not None:
            pages |= _colours(attachment, assets["grapher.css"].read_bytes(), pages[""][1])
        pages["view.js"] = (_MIME_TYPES[".js"], _with_common_brackets(assets["view.js"].read_bytes()))
        self._http = _HTTPServer(("127.0.0.1", port), _Handler)
        self._http.offer(token, pages, assets)
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/{token}/"
        # A short poll: `close` waits for one turn of it.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="specc-view", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until Ctrl-C, which closes the server and returns, or until another thread closes it."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)  # without a limit, Windows does not deliver Ctrl-C
        except KeyboardInterrupt:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening. Calling it again does nothing."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(model: Path, *, port: int = 0, open_browser: bool = True, attachment: bytes | None = None) -> Server:
    """Offer `model` to Netron's page on 127.0.0.1 and open it in the user's browser; port 0 takes a free one.

    Raises OSError if the model can't be read or the port is taken, RenderUnavailable if Netron is not installed.
    """
    server = Server(model, port=port, attachment=attachment)
    if open_browser:
        webbrowser.open(server.url)
    return server


def _assets() -> dict[str, Path]:
    """Netron's web files by name, found without importing it."""
    spec = importlib.util.find_spec("netron")
    if spec is None or not spec.submodule_search_locations:
        raise RenderUnavailable("Netron is not installed: pip install netron")
    folder = Path(spec.submodule_search_locations[0])
    assets = {path.name: path for path in folder.iterdir() if path.suffix in _MIME_TYPES and path.is_file()}
    lacking = {"index.html", "view.js", "grapher.css"} - assets.keys()
    if lacking:
        raise RenderUnavailable(
            f"the installed Netron lacks {' and '.join(sorted(lacking))}: pip install netron==9.3.3"
        )
    return assets


def _index(page: Path, address: str, name: str) -> bytes:
    """Netron's page, told which model to open.

    The version 0.0.0 is how Netron marks a build from source: its telemetry never starts, and its error box has no
    button that leaves for the network. Without the release date it does not refuse to work when it is 180 days old.
    """
    meta = {"type": "Python", "version": "0.0.0", "file": f"/{address}", "name": name, "identifier": Path(address).name}
    lines = "".join(f'<meta name="{key}" content="{html.escape(value)}">\n' for key, value in meta.items())
    head, tag, rest = _OUR_META.sub("", page.read_text(encoding="utf-8")).partition("<head>\n")
    if not tag:
        raise RenderUnavailable("the installed Netron's page is not one that specc knows: pip install netron==9.3.3")
    # A file name may hold bytes that are no text (surrogates): shown as "?", not a crash.
    return f"{head}{tag}{lines}{rest}".encode(errors="replace")


def _colours(attachment: bytes, stylesheet: bytes, index: bytes) -> dict[str, tuple[str, bytes]]:
    """Netron's page with a script of ours, which gives nodes of the drawing their costs and a class by their share.

    The colours of the classes are in Netron's own stylesheet because its exporter copies from there into pictures.
    """
    ours = importlib.resources.files("specc_runtime") / "drawn"
    page = index.replace(b"</head>", b'<script defer src="specc-costs.js"></script>\n</head>', 1)
    html_page = (_MIME_TYPES[".html"], page)
    return {
        "": html_page,
        "index.html": html_page,
        "grapher.css": (_MIME_TYPES[".css"], stylesheet + (ours / "costs.css").read_bytes()),
        "specc-costs.js": (_MIME_TYPES[".js"], (ours / "costs.js").read_bytes()),
        "data/costs.json": (_MIME_TYPES[".json"], attachment),
    }


def _with_common_brackets(script: bytes) -> bytes:
    """Shapes in ⟨⟩ (U+27E8, in DejaVu) instead of U+3008, which a machine without East Asian fonts draws as boxes.

    Done in the script, so that Netron measures and lays out the text it shows.
    """
    return script.replace(rb"\u3008", rb"\u27e8").replace(rb"\u3009", rb"\u27e9")


class _HTTPServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for this machine's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def offer(self, token: str, pages: dict[str, tuple[str, bytes]], assets: dict[str, Path]) -> None:
        """The whole of what can be asked for: pages from memory before Netron's files, both by exact name."""
        self.token, self.pages, self.assets = token, pages, assets
        self.hosts = {f"{host}:{self.server_port}" for host in ("127.0.0.1", "localhost")}

    def find(self, name: str) -> tuple[str, bytes] | None:
        """Content type and bytes of `name`, or None."""
        if name in self.pages:
            return self.pages[name]
        asset = self.assets.get(name)
        return None if asset is None else (_MIME_TYPES[asset.suffix], asset.read_bytes())

    def handle_error(self, request: object, client_address: object) -> None:
        """A page that was closed in the middle of an answer is not worth a traceback on the user's terminal."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _HTTPServer
    server_version = "specc"
    sys_version = ""
    timeout: ClassVar[float] = 30.0  # seconds; a connection that asks for nothing does not hold its thread

    def do_GET(self) -> None:
        if not self._hosts_match():
            return self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"This Host is not served here.\n")
        token, slash, name = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            return self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"Open the address that specc printed.\n")
        found = self.server.find(name) if slash else None
        if found is None:
            return self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"Not found.\n")
        self._answer(HTTPStatus.OK, *found)

    do_HEAD = do_GET

    def _hosts_match(self) -> bool:
        hosts = self.headers.get_all("Host", [])
        return len(hosts) == 1 and hosts[0].lower() in self.server.hosts

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if content_type.startswith("text/html"):
            # Netron asks for consent to its cookies and reports; it sets and sends none here.
            self.send_header("Set-Cookie", f"consent=1; Path=/{self.server.token}/; SameSite=Strict")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not the user's business."""
