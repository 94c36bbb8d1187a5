"""What a model is made of and what it costs, as formulas over the entry's dims. Nothing is run or loaded for it."""

from __future__ import annotations

from specc.inspect.reports import Report, chosen_graph, report
from specc.inspect.tree import Block

__all__ = ["Block", "Report", "chosen_graph", "report"]
