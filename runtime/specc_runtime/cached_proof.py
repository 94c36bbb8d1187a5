"""The proof that a cached entry continues: steps give what the plain entry gives of the whole text at once.

The reference is the plain method of the emitted module in eager mode; held against it are the module's own cached
method and the cached graph in onnxruntime, with all optimisations and with none. A text goes in as a first part of 1,
2, 7 or 64 positions and then one by one and in chunks, alone and in batches that are padded on the left, up to the last
position of the context; one more has to be refused. Whether padding is seen is a matter of the model, and recorded: a
row of a padded batch is held against what the plain entry gives of it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Rejected
from specc.dims import Dim
from specc.elaborate.positions import POSITION_IDS
from specc_runtime import programs
from specc_runtime.cache import CachedEntry
from specc_runtime.certificate import Run, Skipped
from specc_runtime.compare import Figures, compare, tolerance
from specc_runtime.divergence import Mismatch
from specc_runtime.fused import given, given_sizes
from specc_runtime.inputs import Input, Output, draw, positions_of
from specc_runtime.programs import PROGRAMS, Outputs
from specc_runtime.sizes import MEMORY_BUDGET, admissible, too_large
from specc_runtime.steps import OnnxSteps, Steps, TorchSteps, in_parts, part_of

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import torch

    Array = np.ndarray[Any, Any]

TORCH = "torch, cached"
FIRST = (1, 2, 7, 64)
_THEN = (1, 1, 1, 3, 2)
PADDING = (0, 2, 5)
_LONGEST = 2048
"""The longest text that the proof runs: a whole forward of it in three programs takes seconds, not minutes."""


@dataclass(frozen=True)
class Text:
    """How a text goes in: the parts one after the other; `padding`: for each row of the batch, positions that are no
    text."""

    parts: tuple[int, ...]
    padding: tuple[int, ...]
    purpose: str

    @property
    def length(self) -> int:
        return sum(self.parts)


@dataclass
class CachedProof:
    """Holds one cached entry of a build folder against the plain one."""

    folder: Path
    entry: CachedEntry
    seed: int
    progress: Callable[[str], None]
    skipped: list[Skipped] = field(default_factory=list)
    padded: dict[str, Figures] = field(default_factory=dict)  # output -> a padded row against what it gives alone

    def __post_init__(self) -> None:
        self.file, self.plain, self.of, self.cache = (
            self.entry.file,
            self.entry.plain,
            self.entry.of,
            self.entry.cache,
        )

    def run(self, module: torch.nn.Module, weights: str) -> Iterator[Run]:
        """Every text with the build's weights, one with others; raises `Mismatch` at the first difference."""
        texts = self._texts()
        if weights != "build":
            self.skipped.clear()
            texts = texts[-1:]
        path = self.folder / self.file
        steps: dict[str, Steps] = {TORCH: TorchSteps(module, self.cache, self.of)}
        for program in PROGRAMS:
            given = None if weights == "build" else module
            try:
                session = programs.session_on(program, path, given)
                first = self.cache.once
                once = programs.session_on(program, self.folder / first.file, given) if first is not None else None
            except programs.Crash as crash:
                known = Mismatch(self.of.method, self.of, {}, {}, weights, module, self.file)
                known.crash = crash
                raise known from crash
            steps[program] = self._steps(session, program, once)
        for text in texts:
            yield self._one(module, steps, text, weights)

    def _steps(
        self, session: onnxruntime.InferenceSession, program: str, once: onnxruntime.InferenceSession | None
    ) -> Steps:
        return OnnxSteps(session, self.cache, self.of, program, once)

    def _texts(self) -> list[Text]:
        found = {(text.parts, text.padding): text for text in self._candidates()}
        return [text for text in found.values() if not self._too_large(text)]

    def _candidates(self) -> list[Text]:
        room = self.cache.room or _LONGEST
        found = []
        for first in FIRST:
            parts = within((first, *_THEN), room)
            found.append(Text(parts, (0,), f"a text in parts of {shown(parts)}"))
            if self._pads and sum(parts) > max(PADDING):
                found.append(Text(parts, PADDING, f"texts padded on the left, in parts of {shown(parts)}"))
        end = self.cache.room
        if end is not None and end > 2:
            found.insert(0, Text((end - 2, 1, 1), (0,), f"up to position {end}, the last that there is room for"))
        return found

    @property
    def _pads(self) -> bool:
        return any(map(self._is_padding, self.plain.inputs))

    def _is_padding(self, item: Input) -> bool:
        """A mask that says which positions are text."""
        if item.dtype != "bool" or len(item.shape) != 2:
            return False
        return item.name in self.cache.wide or item.shape[1] == Dim.symbol(self.cache.step)

    def _sizes(self, text: Text) -> dict[str, int] | None:
        """The sizes of the whole text in the plain entry."""
        wanted = dict.fromkeys(self.plain.dims, 2) | {self.cache.step: text.length}
        wanted |= given_sizes(self.cache.once, self.plain, len(text.padding))
        batch = self._batch
        if batch is not None:
            wanted[batch] = len(text.padding)
        sizes = admissible(self.plain, wanted)
        return sizes if sizes is not None and sizes[self.cache.step] == text.length else None

    @property
    def _batch(self) -> str | None:
        dims = [state.before[0] for state in self.cache.flat]
        return dims[0].symbols[0] if dims[0].is_symbol() else None

    def _too_large(self, text: Text) -> bool:
        sizes = self._sizes(text)
        reason = "no sizes like these satisfy the model's facts" if sizes is None else ""
        if sizes is not None and text.length > _LONGEST:
            reason = f"the proof runs texts of up to {_LONGEST:,} positions"
        elif sizes is not None:
            reason = too_large(self.plain, sizes, MEMORY_BUDGET)
        if reason:
            self.skipped.append(Skipped(sizes or {self.cache.step: text.length}, text.purpose, reason))
        return bool(reason)

    # ---- one text ------------------------------------------------------------------------------------------------

    def _one(self, module: torch.nn.Module, steps: Mapping[str, Steps], text: Text, weights: str) -> Run:
        sizes = self._sizes(text)
        assert sizes is not None
        self.progress(f"comparing {self.of.method}: {text.purpose}")
        feeds = self._feeds(text, sizes)
        known = Mismatch(self.of.method, self.of, sizes, feeds, weights, module, self.file)
        try:
            feeds |= given(self.cache.once, module, len(text.padding), self.seed)
            reference = self._reference(module, feeds, text)
            if any(text.padding):
                self._see(module, feeds, text, reference)
            figures, able = {}, self._able(steps, text)
            for program, runner in able.items():
                found = in_parts(runner, self.plain, feeds, text.parts)
                figures[program] = self._compare(reference, found, text, known, program)
            if text.length == self.cache.room:
                for program, runner in able.items():
                    self._refuses(runner, feeds, known, program)
        except programs.Crash as crash:
            known.crash = crash
            raise known from crash
        return Run(sizes, text.purpose, "all true" if not any(text.padding) else "padded", weights, figures)

    def _feeds(self, text: Text, sizes: Mapping[str, int]) -> dict[str, Array]:
        import numpy as np

        feeds = draw(self.plain, sizes, seed=self.seed, masks="all true")
        for item in self.plain.inputs:
            if self._is_padding(item):
                for row in range(len(text.padding)):
                    feeds[item.name][row] = [self._is_text(text, row, i) for i in range(text.length)]
        for item in self.plain.inputs:
            if item.name == POSITION_IDS:  # of each text, as they are where nobody gives them
                rows = [[self._is_text(text, row, i) for i in range(text.length)] for row in range(len(text.padding))]
                given = positions_of(np.array(rows))
                feeds[item.name] = np.array(np.broadcast_to(given, feeds[item.name].shape))
        return feeds

    def _is_text(self, text: Text, row: int, column: int) -> bool:
        """Whether a position is one of a row's text, rather than padding."""
        return column >= text.padding[row]

    def _is_read(self, text: Text, row: int, column: int, output: Output) -> bool:
        """Whether the result at a position is of a row's text."""
        return self._is_text(text, row, column)

    def _reference(self, module: torch.nn.Module, feeds: Mapping[str, Array], text: Text) -> Outputs:
        """What the plain entry gives of the whole."""
        return programs.run_torch(module, self.plain, feeds)

    def _see(self, module: torch.nn.Module, feeds: Mapping[str, Array], text: Text, whole: Outputs) -> None:
        """Record how far the row with the most padding is from what it gives alone, where that is possible and more
        than was found before."""
        row = text.padding.index(max(text.padding))
        columns, given = self._alone(feeds, text, row)
        try:
            alone = programs.run_torch(module, self.plain, given)
        except programs.Crash:  # sizes of the text alone are none of the model's
            return
        for output in self.plain.outputs:
            if len(output.shape) < 2 or output.shape[1] != Dim.symbol(self.cache.step):
                continue
            found = compare(alone[output.name], whole[output.name][row : row + 1, columns], tolerance(self.plain.depth))
            known = self.padded.get(output.name)
            if known is None or (found.problem and found.max_abs > known.max_abs):
                self.padded[output.name] = found

    def _alone(self, feeds: Mapping[str, Array], text: Text, row: int) -> tuple[list[int], dict[str, Array]]:
        """The columns of a row's text, and the inputs of the plain entry for it without its padding."""
        import numpy as np

        columns = [i for i in range(text.length) if self._is_text(text, row, i)]
        alone = {}
        for item in self.plain.inputs:
            value = feeds[item.name]
            for axis, dim in enumerate(item.shape):
                if self.cache.step in dim.symbols:
                    value = value.take(columns, axis)
                elif axis == 0 and str(dim) == self._batch:
                    value = value[row : row + 1]
            alone[item.name] = np.ascontiguousarray(value)
        return columns, alone

    def _able(self, steps: Mapping[str, Steps], text: Text) -> Mapping[str, Steps]:
        """The programs that take a text in this way."""
        return steps

    def _compare(
        self, reference: Outputs, found: Outputs, text: Text, known: Mismatch, program: str
    ) -> dict[str, Figures]:
        figures = {}
        for output in self.plain.outputs:
            axes = [axis for axis, dim in enumerate(output.shape) if self.cache.step in dim.symbols]
            value, expected = found[output.name], reference[output.name]
            columns = list(range(text.length))
            if output.name in self.cache.last:
                columns = [sum(text.parts[: i + 1]) - 1 for i in range(len(text.parts))]
                expected = expected.take(columns, axes[0])
            if axes == [1] and self._batch is not None and value.shape == expected.shape:
                for row in range(len(text.padding)):  # what padding gives is of no text, and unspecified
                    unread = [i for i, column in enumerate(columns) if not self._is_read(text, row, column, output)]
                    value[row, unread] = expected[row, unread]
            result = compare(expected, value, tolerance(self.plain.depth))
            if result.problem:
                known.output, known.figures, known.program = output.name, result, program
                raise known
            figures[output.name] = result
        return figures

    def _refuses(self, runner: Steps, feeds: Mapping[str, Array], known: Mismatch, program: str) -> None:
        """One position beyond the last is an error, not an answer."""
        more = part_of(runner, self.plain, feeds, runner.position - 1, 1)
        try:
            runner.step(more)
        except Rejected:
            return
        known.output, known.program = "", program
        known.figures = Figures(problem=f"position {runner.position} is beyond the context and was answered")
        raise known


def within(parts: Sequence[int], room: int) -> tuple[int, ...]:
    """The parts that fit, the last of them cut."""
    kept: list[int] = []
    for part in parts:
        part = min(part, room - sum(kept))
        if part > 0:
            kept.append(part)
    return tuple(kept)


def shown(parts: Sequence[int]) -> str:
    return ", ".join(map(str, parts))
