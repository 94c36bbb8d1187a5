"""The core is pure: what it imports, what it may touch, and that nothing depends on the order of a set."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import command

ROOT = Path(__file__).resolve().parents[1]
COMPILER = ROOT / "compiler" / "specc"

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "transformers", "safetensors", "jsonschema", "netron")


# ---- what is imported ------------------------------------------------------------------------------------------------


def imported(*line: str) -> set[str]:
    """Top-level packages that a fresh Python loads for a program, as `-X importtime` lists them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *line], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    lines = [text for text in done.stderr.splitlines() if text.startswith("import time:")]
    assert len(lines) > 20
    return {text.rpartition("|")[2].strip().partition(".")[0] for text in lines}


@pytest.mark.parametrize(
    "words",
    [["--help"], ["check", "specs/gpt2.spec"], ["check", "--all-presets", "specs/gpt2.spec"], ["explain", "S220"]],
)
def test_commands_that_load_nothing_heavy(words: list[str]) -> None:
    loaded = imported(*command(*words)[1:])
    assert "specc_runtime" in loaded
    assert not loaded & set(HEAVY)


def test_importing_specc_loads_the_standard_library_alone() -> None:
    bare, loaded = imported("-c", "pass"), imported("-c", "import specc")
    assert loaded - bare - sys.stdlib_module_names == {"specc"}


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.parametrize("name", ["check", "inspect"])
def test_memory_of_the_largest_model(name: str) -> None:
    """405 billion parameters are shapes: 300 MB are plenty for what is known of them before they exist."""
    words = command(name, "specs/llama.spec", "--preset", "llama-3.1-405b")
    done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(done.stderr.split()[-1]) < 300_000  # kB


# ---- what the core may touch -----------------------------------------------------------------------------------------

# The edge of the compiler: files are found and read here, and nowhere below.
EDGE = {
    "__init__.py",
    "api.py",
    "driver.py",
    "reading.py",
    "version.py",  # asks the installed distribution
    "syntax/tables.py",  # the grammar and its tables, which come with the package
    "codes.py",  # the explanations of `specc explain`, likewise
}
MODULES = {"os", "time", "datetime", "random", "secrets", "uuid", "socket", "urllib", "http", "subprocess", "tempfile"}
MODULES |= {"shutil", "glob", "locale", "getpass", "platform", "threading", "multiprocessing", "pickle", "io"}
CALLS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}
ORDERED = {"list", "tuple", "enumerate", "next", "iter", "zip", "join", "extend", "fromkeys"}
METHODS = {"read_text", "write_text", "read_bytes", "write_bytes", "getenv", "environ", "urandom", "perf_counter"}


def core() -> Iterator[Path]:
    for path in sorted(COMPILER.rglob("*.py")):
        if path.relative_to(COMPILER).as_posix() not in EDGE:
            yield path


def impurities(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Places where a module reaches for the world around it, or iterates over a set in the order of its hashes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            names = {module.partition(".")[0] for module in modules}
            yield from ((node.lineno, f"import {name}") for name in sorted(names & MODULES))
            if modules == ["pathlib"] and [alias.name for alias in node.names] != ["PurePath"]:
                yield node.lineno, "paths that can be opened"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield node.lineno, f"{node.func.id}()"
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield node.lineno, f".{node.attr}"
        for iterated in iterations(node):
            if is_set(iterated):
                yield iterated.lineno, "the order of a set"


def iterations(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions whose order becomes the order of something else."""
    if isinstance(node, (ast.For, ast.comprehension)):
        yield node.iter
    elif isinstance(node, ast.Starred):
        yield node.value
    elif isinstance(node, ast.Call) and node.args:
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if name in ORDERED:
            yield node.args[0]


def is_set(node: ast.expr) -> bool:
    """As far as syntax tells."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)):
        return is_set(node.left) or is_set(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("set", "frozenset")
    return isinstance(node, (ast.Set, ast.SetComp))


def test_the_core_touches_nothing_outside_itself() -> None:
    paths = list(core())
    assert len(paths) > 60
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in paths
        for line, what in impurities(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_contract_sees_what_it_forbids() -> None:
    text = (
        "import os\nopen('x')\np.read_text()\nfor a in {1, 2}: pass\nb = [*set(c) - d]\nsorted({1})\nfor a in [1]: pass"
    )
    assert [line for line, _ in sorted(impurities(ast.parse(text)))] == [1, 2, 3, 4, 5]


# ---- same input, same bytes ------------------------------------------------------------------------------------------

DIGESTS = """
import hashlib, json, sys
import specc
from specc.diagnostics import Rejected
from specc import driver, report
from specc.ir.json import to_json

def show(name, data):
    print(name, hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest())

MODELS = {"linear": None, "mlp": "mnist", "gpt": "tiny", "gpt2": "gpt2-tiny", "transformer": "tiny"}
for file, preset in MODELS.items():
    model = specc.load(f"specs/{file}.spec", preset=preset)
    show(f"{file} ir.txt", model.ir())
    show(f"{file} model.py", model.torch_source())
    show(f"{file} onnx", model.onnx().SerializeToString(deterministic=True))
    show(f"{file} onnx 17", model.onnx(opset=17).SerializeToString(deterministic=True))
    show(f"{file} inspect", str(model.inspect()))
    show(f"{file} ir.json", json.dumps(to_json(driver.load(f"specs/{file}.spec", preset=preset).model)))
for file in sys.argv[1:]:
    show(file, report.full(driver.check(file)))
"""


def test_nothing_depends_on_hashes() -> None:
    errors = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "errors").glob("*.spec"))][::3]
    seen = {
        seed: subprocess.run(
            [sys.executable, "-c", DIGESTS, *errors],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            check=True,
        ).stdout.splitlines()
        for seed in ("0", "1", "4242")
    }
    assert len(seen["0"]) == 30 + len(errors)
    assert seen["0"] == seen["1"] == seen["4242"]
