"""Steps in onnxruntime whose keys and values stay in the memory of a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specc_runtime.cache import Cache
from specc_runtime.devices import Device
from specc_runtime.inputs import Interface
from specc_runtime.module import Build
from specc_runtime.steps import OnnxSteps, Steps, open_steps

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

    Array = np.ndarray[Any, Any]
    Values = dict[str, onnxruntime.OrtValue]


class DeviceSteps(OnnxSteps):
    """What a step keeps comes out in memory of `device` and goes into the next step from there; results come to the
    CPU."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        cache: Cache,
        of: Interface,
        once: onnxruntime.InferenceSession | None = None,
        device: Device = "cuda",
    ) -> None:
        super().__init__(session, cache, of, once=once)
        self.device = device

    def reorder(self, rows: Sequence[int]) -> None:
        super().reorder(rows)
        self.kept, self.constant = self._moved(self.kept), self._moved(self.constant)

    def _called(self, values: Mapping[str, onnxruntime.OrtValue]) -> Values:
        binding = self.session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        kept = {state.output: values[state.input] for state in self.cache.flat}
        written = kept if self.cache.length is not None else {}  # where it lies
        for name in self.names:
            if name in written:
                binding.bind_ortvalue_output(name, written[name])
            else:
                binding.bind_output(name, self.device if name in kept else "cpu")
        self.session.run_with_iobinding(binding)
        return dict(zip(self.names, binding.get_outputs(), strict=True)) | written

    def _empty(self, feeds: Mapping[str, Array]) -> Values:
        return self._moved(super()._empty(feeds))

    def _computed_once(self, given: Mapping[str, Array]) -> Values:
        return self._moved(super()._computed_once(given))

    def _moved(self, values: Mapping[str, onnxruntime.OrtValue]) -> Values:
        """The values in the memory of the device."""
        import onnxruntime as ort

        if self.device == "cpu":
            return dict(values)
        return {name: ort.OrtValue.ortvalue_from_numpy(v.numpy(), self.device, 0) for name, v in values.items()}


def open_on(device: Device, build: Build, engine: str, entry: str | None = None, *, quantized: bool = False) -> Steps:
    """As `open_steps`, on a device. Raises `Rejected`: B620, B660, G706."""
    steps = open_steps(build, engine, entry, device, quantized=quantized)
    if device == "cpu" or type(steps) is not OnnxSteps:
        return steps
    return DeviceSteps(steps.session, steps.cache, steps.of, steps.once, device)
