#!/bin/sh
# Every check runs, whichever fails first; prints one line per check that passes and the findings of those that do not.
set -u
cd "$(dirname "$0")/.."

status=0
check() {
    name=$1
    shift
    if output=$("$@" 2>&1); then
        printf '==> %-15s ok\n' "$name"
    else
        printf '==> %-15s FAILED\n%s\n' "$name" "$output"
        status=1
    fi
}

check "ruff check" .venv/bin/ruff check .
check "ruff format" .venv/bin/ruff format --check .
check "mypy --strict" .venv/bin/mypy
check "import layers" .venv/bin/lint-imports --no-logo
check "import cycles" .venv/bin/lint-imports --no-logo --config scripts/cycles.toml
exit $status
