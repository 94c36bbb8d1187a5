"""Pictures of ONNX models, drawn by Netron in a browser without a screen.

Netron has no command line of its own. Its page is served to a browser on this machine (`view.Server`), which
Playwright drives; the page's own exporter makes the SVG and the PNG, the ones its menu offers. No request leaves the
machine.

The same model gives the same bytes on one machine: Netron's layout has no clock and no chance in it. Text is measured
in the fonts of the machine, so that another machine may differ by pixels.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from specc_runtime.atomic import write_atomically
from specc_runtime.browser import RenderUnavailable, find_browsers, no_browser
from specc_runtime.view import Server

if TYPE_CHECKING:
    from playwright.async_api import Browser, CDPSession, Playwright

__all__ = ["Picture", "RenderFailed", "RenderUnavailable", "Renderer", "render"]

_Result = TypeVar("_Result")

_FLAGS = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but the loopback address has a name: also not for what the browser itself would fetch.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# A line of the browser's own, in the log of Playwright's error, that says why it does not start.
_DYING_WORDS = re.compile(
    r"\[err\] (?:\[[^\]]*FATAL:[^\]]*\] (?P<fatal>.+)|(?P<other>.*(?:[Ss]andbox|shared libraries|ermission denied).*))"
)
_POLL = 0.02  # seconds between two looks at the page
_LONGEST_PAGE = 19_000  # pixels; a PDF's page has 200 inches at most
_CLOSE = 5.0  # seconds for a page or a browser to close before it is left to be killed

# Netron's page is ready when its body is in the class `default` and the graph is laid out. A message box is an error,
# or a question ("Accept", "Update"), except the one with "Cancel": that one says that the layout takes long.
_STATE = """(() => {
  const shown = document.body ? document.body.className.split(' ') : [];
  const text = document.getElementById('message-text'), button = document.getElementById('message-button');
  const boxed = ['alert', 'message', 'notification'].some((name) => shown.includes(name));
  return JSON.stringify({
    ready: shown.includes('default') && Boolean(window.__view__ && window.__view__.target),
    message: boxed && text ? text.innerText.trim() : '',
    waits: shown.includes('notification') && Boolean(button) && button.innerText === 'Cancel',
  });
})()"""
# The exporter hands its result to the page's host, which would start a download; the bytes are wanted here instead.
# Nodes are coloured first, if there are figures (`drawn/costs.js`).
_EXPORT = """(async () => {
  const view = window.__view__;
  if (window.__specc__) { await window.__specc__(); }
  let picture = null;
  view.host.export = async (name, blob) => { picture = blob; };
  await view.export('model.%s');
  if (picture === null) { throw new Error('Netron exported nothing.'); }
  const reader = new FileReader();
  return await new Promise((resolve, reject) => {
    reader.onload = () => resolve(reader.result.split(',')[1]);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(picture);
  });
})()"""


@dataclass(frozen=True)
class Picture:
    """One model and its two pictures, as files."""

    source: Path
    svg: Path
    png: Path


class RenderFailed(Exception):
    """Netron could not draw this model; the message is Netron's own."""


class Renderer:
    """One browser for all pictures of a build, started on entering and gone on leaving.

    The browser is driven from a thread with an event loop of its own: Ctrl-C reaches only the caller, a limit on time
    holds even while the page computes, and the caller may itself be inside an event loop (a notebook).
    """

    def __enter__(self) -> Self:
        """Raises RenderUnavailable where no browser, no Playwright or no Netron is installed, or none would start."""
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="specc-render", daemon=True)
        self._thread.start()
        try:
            self._run(self._launch())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def export(self, model: Path, svg: Path, png: Path, *, timeout: float = 60) -> Picture:
        """Draw `model` into the files `svg` and `png`; each appears whole or not at all.

        `timeout` is in seconds, for the one model. Raises RenderFailed with Netron's message (the browser stays usable
        for the next model), OSError if the model can't be read or a picture can't be written.
        """
        drawn = self.draw(model, ("svg", "png"), timeout=timeout)
        write_atomically(svg, drawn["svg"])
        write_atomically(png, drawn["png"])
        return Picture(model, svg, png)

    def draw(
        self, model: Path, formats: Collection[str], *, attachment: bytes | None = None, timeout: float = 60
    ) -> dict[str, bytes]:
        """The pictures of `model` in `formats`: `svg`, `png`, `pdf` (one page of the picture's own size).

        `attachment`: what its nodes cost (`view.Server`), which colours them. Errors as `export`'s.
        """
        with Server(model, attachment=attachment) as server:
            exported = ["svg", "png"] if "png" in formats else ["svg"]
            found = self._run(self._draw(server.url, model.name, timeout, exported))
            if b"0" in _size(found["svg"]):
                raise RenderFailed(f"{model.name} has no node, no input and no output: nothing to draw")
            found["svg"] = _scalable(found["svg"])
            if "pdf" in formats:
                found["pdf"] = self._run(self._print(found["svg"], model.name, timeout))
        return {name: found[name] for name in formats}

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do `work` in the browser's thread; whatever interrupts the wait (Ctrl-C) also cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        try:
            self._run(self._quit())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _launch(self) -> Browser:
        """The running browser, started if there is none or it died."""
        if self._browser is not None and self._browser.is_connected():
            return self._browser
        try:
            from playwright.async_api import Error, async_playwright
        except ImportError:
            raise RenderUnavailable("Playwright is not installed: pip install playwright") from None
        browsers = find_browsers()
        if not browsers:
            raise RenderUnavailable(no_browser())
        if self._playwright is None:
            try:
                self._playwright = await async_playwright().start()
            except Exception as error:  # it raises just that when its own Node does not run
                needs = "; on Debian or Ubuntu it needs: apt install libatomic1" if sys.platform == "linux" else ""
                raise RenderUnavailable(f"Playwright does not start: {error}{needs}") from None
        reasons = []
        for program in browsers:
            try:
                self._browser = await self._playwright.chromium.launch(
                    executable_path=program,
                    args=_FLAGS,
                    env=_environment(),
                    chromium_sandbox=not _is_root(),  # the sandbox refuses root
                    handle_sigint=False,  # leaving the `with` closes it, in order
                    timeout=30_000,
                )
                return self._browser
            except Error as error:
                reasons.append(f"{program}: {_reason(error)}")
        raise RenderUnavailable("the browser does not start: " + "; ".join(reasons))

    async def _quit(self) -> None:
        browser, self._browser = self._browser, None
        playwright, self._playwright = self._playwright, None
        if browser is not None:
            await _within(_CLOSE, browser.close())
        if playwright is not None:
            await playwright.stop()  # the driver ends, and kills a browser that did not close

    async def _draw(self, url: str, name: str, timeout: float, formats: Sequence[str]) -> dict[str, bytes]:
        progress = _Progress()
        return await self._timed(timeout, name, lambda browser: _draw(browser, url, progress, formats), progress)

    async def _print(self, svg: bytes, name: str, timeout: float) -> bytes:
        return await self._timed(timeout, name, lambda browser: _print(browser, svg), _Progress())

    async def _timed(
        self, timeout: float, name: str, work: Callable[[Browser], Coroutine[Any, Any, _Result]], progress: _Progress
    ) -> _Result:
        from playwright.async_api import Error

        browser = await self._launch()
        try:
            async with asyncio.timeout(timeout):
                return await work(browser)
        except TimeoutError:
            # A page that computes cannot be asked to stop: this browser goes, the next picture starts another.
            self._browser = None
            await _within(_CLOSE, browser.close())
            said = f' (its page says: "{progress.message}")' if progress.message else ""
            raise RenderFailed(f"Netron did not finish drawing {name} in {timeout:g} s{said}") from None
        except Error as error:
            raise RenderFailed(f"the browser stopped while drawing {name}: {_reason(error)}") from None


def render(models: Sequence[tuple[Path, Path, Path]]) -> list[Picture]:
    """Draw each (model, svg, png) with one browser; errors as `Renderer`'s."""
    if not models:
        return []
    with Renderer() as renderer:
        return [renderer.export(model, svg, png) for model, svg, png in models]


@dataclass
class _Progress:
    message: str = ""  # the last box the page showed


async def _draw(browser: Browser, url: str, progress: _Progress, formats: Sequence[str]) -> dict[str, bytes]:
    """The pictures of the model whose page is at `url`, as Netron exports them."""
    context = await browser.new_context(
        color_scheme="light",
        device_scale_factor=1,
        locale="en-US",
        reduced_motion="reduce",
        service_workers="block",
        viewport={"width": 1280, "height": 800},
    )
    try:
        await context.route(_elsewhere(url), lambda route: route.abort("blockedbyclient"))
        page = await context.new_page()
        # The page's content policy forbids code from text, which Playwright's own evaluate needs.
        devtools = await context.new_cdp_session(page)
        await page.goto(url, wait_until="commit")
        while not await _is_ready(devtools, progress):
            await asyncio.sleep(_POLL)
        return {format: await _exported(devtools, format) for format in formats}
    finally:
        await _within(_CLOSE, context.close())


async def _print(browser: Browser, svg: bytes) -> bytes:
    """A PDF of one page with the picture, at its own size unless that is beyond what a page can be."""
    width, height = (float(size) for size in _size(svg))
    scale = min(1.0, _LONGEST_PAGE / max(width, height))
    wide, high = math.ceil(width * scale), math.ceil(height * scale)
    context = await browser.new_context(java_script_enabled=False, offline=True, service_workers="block")
    try:
        page = await context.new_page()
        style = (
            f"@page{{size:{wide}px {high}px;margin:0}}body{{margin:0}}svg{{display:block;width:{wide}px;height:auto}}"
        )
        await page.set_content(f"<!DOCTYPE html><style>{style}</style>{svg.decode()}")
        return await page.pdf(prefer_css_page_size=True, print_background=True, page_ranges="1")
    finally:
        await _within(_CLOSE, context.close())


def _size(svg: bytes) -> tuple[bytes, bytes]:
    """Width and height that an SVG begins with."""
    found = re.search(rb'<svg\b(?=[^>]*\bwidth="([\d.]+)")(?=[^>]*\bheight="([\d.]+)")', svg)
    if found is None:
        raise RenderFailed("Netron's picture has no size")
    return found[1], found[2]


async def _is_ready(devtools: CDPSession, progress: _Progress) -> bool:
    """Whether the graph is on the page. Raises RenderFailed with the text of a box that will not go away."""
    state = json.loads(await _evaluate(devtools, _STATE))
    progress.message = state["message"]
    if state["message"] and not state["waits"]:
        raise RenderFailed(state["message"])
    return bool(state["ready"])


async def _exported(devtools: CDPSession, format: str) -> bytes:
    return base64.b64decode(await _evaluate(devtools, _EXPORT % format))


async def _evaluate(devtools: CDPSession, expression: str) -> str:
    """The string that `expression` gives in the page; RenderFailed with the page's error if it throws."""
    answer = await devtools.send(
        "Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True}
    )
    if "exceptionDetails" in answer:
        details = answer["exceptionDetails"]
        description = details.get("exception", {}).get("description") or details["text"]
        raise RenderFailed(description.splitlines()[0])
    return str(answer["result"]["value"])


def _elsewhere(url: str) -> re.Pattern[str]:
    """Every address that goes over a network and is not the server's."""
    origin = re.escape("/".join(url.split("/", 3)[:3]))
    return re.compile(rf"^(?!{origin}/)(?!data:|blob:)")


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Give `work` its time, then leave it: for closing what may already be gone."""
    from playwright.async_api import Error

    with contextlib.suppress(TimeoutError, Error):
        await asyncio.wait_for(work, seconds)


def _reason(error: Exception) -> str:
    """What the browser itself said before it died, else the first line of Playwright's error, without its log."""
    text = str(error)
    said = _DYING_WORDS.search(text)
    if said is not None:
        return str(said["fatal"] or said["other"]).strip()
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def _environment() -> dict[str, str | float | bool] | None:
    """The browser's, if it is not this process's: its socket goes to TMPDIR, and a socket's path has 104 bytes or so.

    Chromium adds 45 of its own and aborts where that is too long.
    """
    if os.name != "posix" or len(os.fsencode(tempfile.gettempdir())) < 56:
        return None
    return {**os.environ, "TMPDIR": "/tmp"}


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _scalable(svg: bytes) -> bytes:
    """Netron's SVG with a viewBox: without one, a page that shows it at another width cuts it off."""
    size = re.match(rb'<svg\b(?=[^>]*\bwidth="(\d+)")(?=[^>]*\bheight="(\d+)")(?![^>]*\bviewBox=)', svg)
    if size is None:
        return svg
    return b'<svg viewBox="0 0 %b %b"' % (size[1], size[2]) + svg[len("<svg") :] + b"\n"
