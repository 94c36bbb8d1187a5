"""Static checks of `train`, `test` and `weights` sections: names, settings, shapes. Nothing is run here (LANGUAGE 16, 17)."""

from __future__ import annotations

from specc.elaborate.elaborator import Elaborator
from specc.elaborate.files import FileScope


def check_sections(file: FileScope, elab: Elaborator, checked: object) -> None:
    """Add the findings about sections to the elaborator's collector."""
