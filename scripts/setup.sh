#!/bin/sh
# Creates .venv and installs specc, editable, with its development tools at the versions of constraints.txt.
# PYTHON=... chooses the interpreter; otherwise the first Python 3.11 or newer on PATH is taken.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

missing=''   # one line per missing piece
packages=''  # the Debian packages that bring them
need() {
    missing="$missing  $1 (Debian package: $2)
"
    packages="$packages $2"
}

give_up_if_missing() {
    [ -n "$missing" ] || return 0
    say "specc cannot be set up yet. Missing:"
    printf '%s' "$missing" >&2
    if [ "$(id -u)" -eq 0 ]; then become=''; else become='sudo '; fi
    say "On Debian: ${become}apt-get update && ${become}apt-get install -y$packages"
    exit 1
}

python=''
older=''
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    version=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
    older=${older:-$version}
done

if [ -n "$python" ]; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null || need "venv: $python cannot make virtual environments" python3-venv
elif [ -n "$older" ]; then
    need "python3: 3.11 or newer, found $older" python3
else
    need "python3: 3.11 or newer, none found${PYTHON:+ as $PYTHON}" python3
fi
command -v git >/dev/null 2>&1 || need "git" git
give_up_if_missing

# A .venv that another folder, an older Python or half a run made is made anew.
rm -f .venv/.ready
if [ -e .venv ] && ! { [ -x .venv/bin/python ] && grep -qsF "$PWD/.venv" .venv/bin/activate &&
    .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; then
    say "==> removing a .venv that does not work here"
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    say "==> creating .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
.venv/bin/python -m pip --version >/dev/null 2>&1 || need "pip: none came into .venv" python3-pip
give_up_if_missing

say "==> installing specc, torch, onnxruntime and the tools (a few minutes and about 2 GB the first time)"
if ! .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[dev]'; then
    say "specc could not be installed; pip says why above. 'make setup' tries again."
    exit 1
fi
printf '%s\n' "$PWD" > .venv/.ready
