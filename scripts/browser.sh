#!/bin/sh
# Finds a Chromium for the pictures, else installs one: Debian's package as root, else Playwright's own.
# Without one specc builds all the same, only without pictures, so this never fails.
set -u
cd "$(dirname "$0")/.."

log=.venv/browser.log # kept after a failure, which is not tried twice

say() { printf '%s\n' "$*" >&2; }

found() {
    for name in chromium chromium-browser google-chrome google-chrome-stable microsoft-edge microsoft-edge-stable msedge; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    for path in /snap/bin/chromium /opt/google/chrome/chrome /opt/microsoft/msedge/msedge \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" \
        "/Applications/Chromium.app/Contents/MacOS/Chromium" \
        "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge"; do
        [ -x "$path" ] && return 0
    done
    .venv/bin/python - <<'PY' 2>/dev/null
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    sys.exit(not Path(playwright.chromium.executable_path).exists())
PY
}

from_debian() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    say "==> installing Chromium for the pictures (Debian package chromium)"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y chromium; } >>"$log" 2>&1 </dev/null
}

from_playwright() {
    say "==> installing Chromium for the pictures (Playwright's own)"
    timeout 600 .venv/bin/playwright install chromium >>"$log" 2>&1 </dev/null
}

if found; then
    rm -f "$log"
    exit 0
fi
if [ ! -e "$log" ]; then
    from_debian || from_playwright
    if found; then
        rm -f "$log"
        exit 0
    fi
fi
say "No Chromium could be found or installed, so models are built without pictures: install the package 'chromium'" \
    "(or run '.venv/bin/playwright install chromium') to get them; $log says what was tried."
