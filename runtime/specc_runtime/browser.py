"""Find a browser that can draw without a screen: Chromium, Chrome or Edge, else the one Playwright installed."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# Names on PATH, the distribution's own first. /snap/bin is left to the end: a snap sees no file outside its own home,
# so it may be unable to open the profile folder it is given.
_COMMANDS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "microsoft-edge-stable",
    "msedge",
)
_USUAL_PLACES = {
    "linux": (
        "/usr/lib/chromium/chromium",
        "/usr/lib/chromium-browser/chromium-browser",
        "/opt/google/chrome/chrome",
        "/opt/microsoft/msedge/msedge",
        "/snap/bin/chromium",
    ),
    "darwin": (
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
        "~/Applications/Chromium.app/Contents/MacOS/Chromium",
        "~/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ),
    "win32": (
        "{PROGRAMFILES}/Google/Chrome/Application/chrome.exe",
        "{PROGRAMFILES(X86)}/Google/Chrome/Application/chrome.exe",
        "{LOCALAPPDATA}/Google/Chrome/Application/chrome.exe",
        "{PROGRAMFILES(X86)}/Microsoft/Edge/Application/msedge.exe",
        "{PROGRAMFILES}/Microsoft/Edge/Application/msedge.exe",
    ),
}
# Where `playwright install` puts its browsers, unless PLAYWRIGHT_BROWSERS_PATH says otherwise.
_PLAYWRIGHT_CACHE = {
    "linux": "~/.cache/ms-playwright",
    "darwin": "~/Library/Caches/ms-playwright",
    "win32": "{LOCALAPPDATA}/ms-playwright",
}
_PLAYWRIGHT_FOLDER = re.compile(r"chromium(?P<shell>_headless_shell)?-(?P<revision>\d+)")
_PLAYWRIGHT_PROGRAMS = (
    "chrome-*/chrome",
    "chrome-*/chrome.exe",
    "chrome-*/*.app/Contents/MacOS/*",
    "chrome-*/headless_shell*",
    "chrome-headless-shell-*/chrome-headless-shell*",
)


class RenderUnavailable(Exception):
    """Nothing on this machine can draw a picture; the message says what is missing and how to get it."""


def find_browser(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path | None:
    """The browser that would be tried first, or None where there is none."""
    return next(iter(find_browsers(environ, platform)), None)


def find_browsers(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> list[Path]:
    """Every usable browser, the best first: SPECC_BROWSER alone if set, else PATH, the usual places, Playwright's own.

    Looks at files only; starts nothing.
    """
    chosen = environ.get("SPECC_BROWSER")
    if chosen:
        return [Path(chosen)] if _runs(Path(chosen)) else []
    places = [*_on_path(environ), *_usual_places(environ, platform)]
    places.sort(key=lambda place: place.parts[:2] == ("/", "snap"))  # stable: the order within each half is kept
    found: dict[Path, None] = {}
    for place in [*places, *_from_playwright(environ, platform)]:
        if _runs(place):
            found.setdefault(place)
    return list(found)


def no_browser(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """The sentence for a user whose machine has no browser."""
    chosen = environ.get("SPECC_BROWSER")
    if chosen:
        return f"SPECC_BROWSER names {chosen}, which is not a program that can be run"
    package = " (on Debian or Ubuntu: apt install chromium)" if platform == "linux" else ""
    return (
        "no browser to draw with: Netron draws in a page, which takes Chromium, Chrome or Edge. "
        f"Install one{package}, or run: {sys.executable} -m playwright install chromium"
    )


def _on_path(environ: Mapping[str, str]) -> Iterator[Path]:
    for command in _COMMANDS:
        program = shutil.which(command, path=environ.get("PATH", ""))
        if program:
            yield Path(program)


def _usual_places(environ: Mapping[str, str], platform: str) -> Iterator[Path]:
    for place in _USUAL_PLACES.get(platform, ()):
        path = _expand(place, environ)
        if path is not None:
            yield path


def _from_playwright(environ: Mapping[str, str], platform: str) -> Iterator[Path]:
    """The newest revision first, the whole browser before the one that only runs headless."""
    cache = environ.get("PLAYWRIGHT_BROWSERS_PATH") or _PLAYWRIGHT_CACHE.get(platform, "")
    root = _expand(cache, environ) if cache else None
    if root is None or not os.path.isdir(root) or not os.access(root, os.R_OK):  # a home that cannot be read has none
        return
    folders = [(match, folder) for folder in root.iterdir() if (match := _PLAYWRIGHT_FOLDER.fullmatch(folder.name))]
    folders.sort(key=lambda entry: (-int(entry[0]["revision"]), entry[0]["shell"] or ""))
    for _, folder in folders:
        for pattern in _PLAYWRIGHT_PROGRAMS:
            yield from sorted(folder.glob(pattern))


def _expand(place: str, environ: Mapping[str, str]) -> Path | None:
    """`~` and `{VARIABLE}` filled in; None where the variable is not set."""
    if place.startswith("~/"):
        home = environ.get("HOME")
        return Path(home, place[2:]) if home else None
    variable = re.match(r"\{(.+?)\}", place)
    if variable is None:
        return Path(place)
    value = environ.get(variable[1])
    return Path(value + place[variable.end() :]) if value else None


def _runs(program: Path) -> bool:
    return os.path.isfile(program) and os.access(program, os.X_OK)
