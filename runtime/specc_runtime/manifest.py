"""`manifest.json` and `ir.json`: checked against their published schemas whenever they are written or read."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime import certificate

Json = dict[str, Any]

SCHEMAS = {"manifest.json": ("specc_runtime", "manifest"), "ir.json": ("specc", "ir")}
"""File of a build -> (package, name) of its schema."""


@cache
def schema(name: str) -> Json:
    """The published JSON Schema of a file of a build (`manifest.json`, `ir.json`)."""
    package, stem = SCHEMAS[name]
    loaded: Json = json.loads((resources.files(package) / "schemas" / f"{stem}.schema.json").read_text("utf-8"))
    if name == "manifest.json":  # a certificate is published as a schema of its own, and checked as a part of the whole
        loaded["properties"]["certificate"] = {"anyOf": [{"type": "null"}, certificate.schema()]}
    return loaded


def problem(name: str, content: Any) -> str | None:
    """Why the content does not fit its schema, or None."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(_spelled_out(name)).iter_errors(content))
    if error is None:
        return None
    place = "/".join(str(step) for step in error.absolute_path)
    return f"{place or 'the document'}: {error.message[:200]}"


@cache
def _spelled_out(name: str) -> Json:
    """The schema with definitions in place of references to them, but where one refers back to itself: jsonschema looks
    a reference up each time it meets it, which took a quarter of a check."""
    whole = schema(name)
    definitions = whole["$defs"]

    def put(part: Any, inside: frozenset[str]) -> Any:
        if isinstance(part, list):
            return [put(item, inside) for item in part]
        if not isinstance(part, dict) or "$id" in part:  # a schema in the schema has definitions of its own
            return part
        wanted = part.get("$ref", "").rpartition("/")[2]
        if wanted and wanted not in inside:
            return put(definitions[wanted], inside | {wanted})
        return {key: put(value, inside) for key, value in part.items()}

    return {**{key: put(value, frozenset()) for key, value in whole.items() if key != "$defs"}, "$defs": definitions}


def write(folder: Path, name: str, content: Json) -> None:
    """Write a file of a build. Content that does not fit the schema is a defect of specc, not of the input."""
    wrong = problem(name, content)
    if wrong is not None:
        raise AssertionError(f"{name} does not fit its schema: {wrong}")
    (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path, name: str) -> Json:
    """Read a file of a build; raises `Rejected` (B660) if it is missing, damaged or of another version."""
    help = "build it again:  specc build FILE" if folder.is_dir() else "specc build FILE      makes one"
    try:
        content: Json = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        what = "is not a build" if folder.is_dir() else "does not exist"
        raise Rejected([Diagnostic("B660", f"`{folder}` {what}: no {name}", help=help)]) from None
    except NotADirectoryError:
        message = f"`{folder}` is a file, not the folder of a build"
        if (folder.parent / name).is_file():
            help = f"name its folder:  {folder.parent}"
        elif folder.suffix == ".spec":
            help = f"build it, and name what comes of it:  specc build {folder}"
        raise Rejected([Diagnostic("B660", message, help=help)]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise Rejected([Diagnostic("B660", f"cannot read {folder / name}: {error}", help=help)]) from None
    wrong = problem(name, content)
    if wrong is not None:
        raise Rejected(
            [Diagnostic("B660", f"{folder / name} is damaged or from another version of specc: {wrong}", help=help)]
        )
    return content


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """What took part in a build: distribution -> version. Read from metadata, so nothing heavy is imported."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("specc-ml", "torch", "onnx", "onnxruntime", "numpy", "netron"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
