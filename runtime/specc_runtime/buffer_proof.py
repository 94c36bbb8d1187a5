"""The proof of a graph whose attention writes into buffers (`--target genai`).

Prompts of a batch are padded on the right and each row goes on where its own text ends, so the columns of a batch hold
gaps; the reference is what the plain entry gives of each row's text alone. `GroupQueryAttention` takes several new
positions of a batch at the beginning only: texts in chunks go in alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from specc_runtime import programs
from specc_runtime.cached_proof import FIRST, PADDING, TORCH, CachedProof, Text, shown, within
from specc_runtime.inputs import Output
from specc_runtime.programs import Outputs
from specc_runtime.steps import BufferSteps, Steps

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import torch

    Array = np.ndarray[Any, Any]

_THEN = (1, 1, 1, 1, 1)


class BufferProof(CachedProof):
    """Holds the graph of `--target genai` against the plain entry."""

    def _steps(
        self, session: onnxruntime.InferenceSession, program: str, once: onnxruntime.InferenceSession | None
    ) -> Steps:
        return BufferSteps(session, self.cache, self.of, program)

    def _candidates(self) -> list[Text]:
        """Those of one row as they are; batches go on position by position."""
        found = [text for text in super()._candidates() if len(text.padding) == 1]
        room = self.cache.room or 0
        for first in FIRST:
            parts = within((first, *_THEN), room)
            padding = tuple(min(count, parts[0] - 1) if self._pads else 0 for count in PADDING)
            how = "padded on the right, " if any(padding) else ""
            found.append(Text(parts, padding, f"a batch of texts {how}in parts of {shown(parts)}"))
        return found

    def _is_text(self, text: Text, row: int, column: int) -> bool:
        return not text.parts[0] - text.padding[row] <= column < text.parts[0]

    def _is_read(self, text: Text, row: int, column: int, output: Output) -> bool:
        """A result of the last position only is that of the end of a prompt, wherever its padding ends."""
        is_end = output.name in self.cache.last and column == text.parts[0] - 1
        return is_end or super()._is_read(text, row, column, output)

    def _reference(self, module: torch.nn.Module, feeds: Mapping[str, Array], text: Text) -> Outputs:
        """Each row alone, without its gap; its results lie in the columns of its text."""
        import numpy as np

        if not any(text.padding):
            return super()._reference(module, feeds, text)
        whole: Outputs = {}
        for row in range(len(text.padding)):
            columns, alone = self._alone(feeds, text, row)
            for name, value in programs.run_torch(module, self.plain, alone).items():
                shape = (len(text.padding), text.length, *value.shape[2:])
                found = whole.setdefault(name, np.zeros(shape, value.dtype))[row]
                found[columns] = value[0]
                found[text.parts[0] - 1] = value[0, text.parts[0] - 1 - text.padding[row]]
        return whole

    def _see(self, module: torch.nn.Module, feeds: Mapping[str, Array], text: Text, whole: Outputs) -> None:
        """The reference is each row alone."""

    def _able(self, steps: Mapping[str, Steps], text: Text) -> Mapping[str, Steps]:
        """The emitted module goes by columns: a window would count those of a gap."""
        if not any(text.padding):
            return steps
        return {program: runner for program, runner in steps.items() if program != TORCH}
