"""The pictures of a page: the whole, coloured by what nodes take, and every block."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from specc_runtime.browser import RenderUnavailable
from specc_runtime.drawn.figures import Wanted, attachment
from specc_runtime.drawn.output import saved
from specc_runtime.drawn.parts import find
from specc_runtime.render import Renderer, RenderFailed
from specc_runtime.report.page import Pictures

if TYPE_CHECKING:
    from specc_runtime.drawn.subject import Chosen


def pictures(chosen: Chosen, wanted: Wanted | None) -> Pictures:
    """Drawn with one browser; without one, or where Netron fails, the reason takes their place. Raises `Rejected`.

    `wanted`: what nodes are coloured by, None for none.
    """
    drawing, blocks = chosen.drawn_anew()
    parts = {name: find(drawing, name) for name in blocks}
    figures = attachment(chosen, drawing, wanted) if wanted is not None else None
    try:
        with tempfile.TemporaryDirectory(prefix="specc-view-") as folder, Renderer() as renderer:
            place = Path(folder)
            whole = renderer.draw(saved(drawing, place, chosen.name), ("svg",), attachment=figures)
            drawn = {}
            for name, part in parts.items():
                file = saved(part.drawn(drawing, blocks), place, name)
                drawn[name] = renderer.draw(file, ("svg",), attachment=figures)["svg"]
            return Pictures(whole["svg"], drawn)
    except (RenderUnavailable, RenderFailed) as error:
        return Pictures(missing=str(error))
