"""Calling a decoder's graph, whoever exported it: its inputs are fed by name, its cache by the form that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SEED = 0


def session(file: Path, *, instant: bool = False) -> Any:
    """`instant`: weights stay as they are in the mapped file, which makes loading quick and running slower."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    # Several sessions live in this process: threads that spin for the next call would slow the others down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if instant:
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4  # what goes wrong is raised, too
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class Decoder:
    """A graph with keys and values: `call` computes new positions after cached ones, in onnxruntime's own memory.

    A cache of a fixed length, and one of `room` positions that `buffer` asks for, is one buffer that comes in and goes
    out; otherwise what goes out is longer, and new.
    """

    def __init__(self, graph: Any, *, width: int, room: int, buffer: bool = False, vocab: int) -> None:
        """`width`: channels of a head; `room`: positions of a buffer."""
        self.graph, self.width, self.room, self.vocab = graph, width, room, vocab
        self.inputs = {i.name: i for i in graph.get_inputs()}
        self.outputs = [o.name for o in graph.get_outputs()]
        self.states = [name for name, i in self.inputs.items() if i.type.startswith("tensor(float")]
        self.kept = dict(zip(self.states, [_output(name, self.outputs) for name in self.states], strict=True))
        fixed = [isinstance(axis, int) for name in self.states for axis in self.inputs[name].shape[1:]]
        self.in_place = bool(self.states) and (buffer or all(fixed))

    def prefill(self, batch: int, length: int) -> Any:
        """A function that computes a whole text."""
        return self.prepared(ids(batch, length, self.vocab), 0)

    def decode(self, past: int) -> Any:
        """A function that computes one position after `past`."""
        return self.prepared(ids(1, 1, self.vocab), past)

    def prepared(self, given: Array, past: int, states: dict[str, Any] | None = None) -> Any:
        """A function without arguments that calls the graph with everything bound before."""
        import onnxruntime as ort

        batch = given.shape[0]
        held = states if states is not None else self._states(batch, past)
        binding = self.graph.io_binding()
        for name, item in self.inputs.items():
            if name in held:
                binding.bind_ortvalue_input(name, held[name])
            else:
                value = _fed(name, given, past)
                value = value.astype(np.int32 if item.type == "tensor(int32)" else np.int64)
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        back = {output: name for name, output in self.kept.items()}
        for name in self.outputs:
            if self.in_place and name in back:
                binding.bind_ortvalue_output(name, held[back[name]])
            else:
                binding.bind_output(name, "cpu")

        def run() -> dict[str, Any]:
            self.graph.run_with_iobinding(binding)
            return dict(zip(self.outputs, binding.get_outputs(), strict=True))

        return run

    def continued(self, given: Array) -> tuple[Array, Array]:
        """Logits [vocab] of the last position but one from prefill, and of the last from decoding after it."""
        held = self._states(1, 0)
        before = self.prepared(given[:, :-1], 0, held)()
        if not self.in_place:
            held = {name: before[output] for name, output in self.kept.items()}
        first = before[self.outputs[0]].numpy()[0, -1]
        after = self.prepared(given[:, -1:], given.shape[1] - 1, held)()
        return first, after[self.outputs[0]].numpy()[0, -1]

    def _states(self, batch: int, past: int) -> dict[str, Any]:
        import onnxruntime as ort

        noise = np.random.default_rng(SEED)
        held = {}
        for name in self.states:
            shape = [
                axis if isinstance(axis, int) else self._extent(place, axis, batch, past)
                for place, axis in enumerate(self.inputs[name].shape)
            ]
            values = noise.standard_normal(shape, dtype=np.float32)
            held[name] = ort.OrtValue.ortvalue_from_numpy(values)
        return held

    def _extent(self, place: int, axis: str, batch: int, past: int) -> int:
        if place == 0:
            return batch
        if place == 3:  # [batch, heads, positions, width]; the builder of genai gives the width a name
            return self.width
        return self.room if self.in_place else past


def ids(batch: int, length: int, vocab: int) -> Array:
    return np.random.default_rng(SEED).integers(0, vocab, (batch, length))


def _fed(name: str, given: Array, past: int) -> Array:
    batch, length = given.shape
    if name == "input_ids":
        return given
    if name == "attention_mask":
        return np.ones((batch, past + length))
    if name == "position_ids":
        return np.broadcast_to(np.arange(past, past + length), (batch, length)).copy()
    if name == "past_length":
        return np.array(past)
    if name == "write_indices":
        return np.full(batch, past)
    if name == "nonpad_kv_seqlen":
        return np.full(batch, past + length)
    raise AssertionError(f"an input {name} that no exporter had when this was written")


def _output(name: str, outputs: list[str]) -> str:
    """What takes the place of a state: the exporters' ways of naming it."""
    candidates = (name.replace("past_key_values", "present"), f"updated_{name}")
    return next(output for output in candidates if output in outputs)
