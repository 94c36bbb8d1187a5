"""Steps in onnxruntime whose keys and values stay where they are: on the device, and in one buffer where they have a
fixed length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specc_runtime import programs
from specc_runtime.cache import PAST_LENGTH, Cache
from specc_runtime.devices import Device
from specc_runtime.inputs import Interface
from specc_runtime.module import Build
from specc_runtime.programs import Outputs
from specc_runtime.steps import OnnxSteps, Steps, open_steps

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

    Array = np.ndarray[Any, Any]


class BoundSteps(OnnxSteps):
    """Inputs and outputs are bound to memory of `device`.

    A cache of fixed length is bound as past and as present: the operators that write new rows into it copy nothing
    else. One that grows comes out of each step in new memory, and goes into the next from there.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        cache: Cache,
        of: Interface,
        once: onnxruntime.InferenceSession | None = None,
        device: Device = "cpu",
    ) -> None:
        super().__init__(session, cache, of, once=once)
        self.device = device
        self.taken = {i.name for i in session.get_inputs()}

    def reorder(self, rows: Sequence[int]) -> None:
        super().reorder(rows)
        self.kept, self.constant = self._moved(self.kept), self._moved(self.constant)

    def _run(self, feeds: Mapping[str, Array], count: int) -> Outputs:
        import numpy as np
        import onnxruntime as ort

        given = {name: self._filled(name, np.ascontiguousarray(value)) for name, value in feeds.items()}
        if self.cache.length is not None:
            given[PAST_LENGTH] = np.array(self.position, dtype=np.int64)
        if not self.kept:
            self.kept = self._moved(self._empty(feeds))
            self.constant = self._moved(self._computed_once(given))
        binding = self.session.io_binding()
        for name in self.taken & given.keys():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(given[name]))
        for name, value in {**self.kept, **self.constant}.items():
            binding.bind_ortvalue_input(name, value)
        states = {state.output: state.input for state in self.cache.flat}
        for name in self.names:
            if name in states and self.cache.length is not None:
                binding.bind_ortvalue_output(name, self.kept[states[name]])
            else:
                binding.bind_output(name, self.device if name in states else "cpu")
        with programs.crashing(self.program):
            self.session.run_with_iobinding(binding)
        found = dict(zip(self.names, binding.get_outputs(), strict=True))
        if self.cache.length is None:
            self.kept = {taken: found[name] for name, taken in states.items()}
        return {name: value.numpy() for name, value in found.items() if name not in states}

    def _moved(self, values: Mapping[str, onnxruntime.OrtValue]) -> dict[str, onnxruntime.OrtValue]:
        """The values in the memory of the device."""
        import onnxruntime as ort

        if self.device == "cpu":
            return dict(values)
        return {name: ort.OrtValue.ortvalue_from_numpy(v.numpy(), self.device, 0) for name, v in values.items()}


def open_bound(build: Build, engine: str, entry: str | None, device: Device) -> Steps:
    """As `open_steps`, bound where that is quicker: on the CPU what grows comes out in memory that nothing copies."""
    steps = open_steps(build, engine, entry, device)
    if type(steps) is not OnnxSteps or (device == "cpu" and steps.cache.length is None):
        return steps
    return BoundSteps(steps.session, steps.cache, steps.of, steps.once, device)
