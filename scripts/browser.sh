#!/bin/sh
# Finds a Chromium for the pictures, else installs one: Debian's package as root, else Playwright's own.
# Without one specc builds all the same, only without pictures, so this never fails.
set -u
cd "$(dirname "$0")/.."

python=.venv/bin/python
log=.venv/browser.log # stays after a failure, which is not tried again; a new .venv tries again

say() { printf '%s\n' "$*" >&2; }

found() { $python -c 'import sys, specc_runtime.browser as b; sys.exit(b.find_browser() is None)'; }

# Playwright steers the browser with a Node of its own, which needs a library that a bare Debian lacks.
steered() { $python -m playwright --version >/dev/null 2>&1; }

from_debian() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    packages=''
    found || packages=chromium
    steered || packages="$packages libatomic1"
    say "==> installing what the pictures need (Debian packages:" $packages")"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y $packages; } >>"$log" 2>&1 </dev/null
}

from_playwright() {
    found && return 1
    say "==> installing Chromium for the pictures (Playwright's own)"
    timeout 600 $python -m playwright install chromium >>"$log" 2>&1 </dev/null
}

found && steered && exit 0
if [ -z "${SPECC_BROWSER:-}" ] && [ ! -e "$log" ]; then
    from_debian || from_playwright
    if found && steered; then
        rm -f "$log"
        exit 0
    fi
fi
if found; then
    say "Models are built without pictures: Playwright, which steers the browser, does not start here:" \
        "$($python -m playwright --version 2>&1 | head -n 1) (on Debian or Ubuntu: apt install libatomic1)"
else
    say "Models are built without pictures: $($python -c 'import specc_runtime.browser as b; print(b.no_browser())')"
fi
[ ! -e "$log" ] || say "What was tried is in $log."
