"""The wheel's build hook: the grammar's parse tables are made once, here, and travel beside the grammar.

A checkout (editable install) gets none: there the grammar changes, so the tables are built on first use into the
user's own cache folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ParseTables(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `specc/syntax/grammar.tables.json`, built from the grammar beside it, to a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        compiler = Path(self.root, "compiler")
        sys.path.insert(0, str(compiler))
        try:
            from specc.syntax import tables
        finally:
            sys.path.remove(str(compiler))
        self._scratch = TemporaryDirectory(prefix="specc-tables-")
        built = Path(self._scratch.name, tables.PACKAGED.name)
        built.write_bytes(tables.build(tables.GRAMMAR.read_text("utf-8")))
        build_data["force_include"][str(built)] = tables.PACKAGED.relative_to(compiler).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._scratch.cleanup()
