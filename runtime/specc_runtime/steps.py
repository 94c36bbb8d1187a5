"""Calling a cached entry again and again: what a call keeps is what the next one continues from.

`OnnxSteps` and `TorchSteps` do the same thing with the two programs of a build. Inputs of the new positions (`T`) are
given for these alone, inputs of all positions (`S`, an attention mask) for all so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specc.backends.torch.labels import python_name
from specc.diagnostics import Diagnostic, Rejected
from specc_runtime import programs
from specc_runtime.cache import PAST_LENGTH, Cache
from specc_runtime.devices import Device, check_torch
from specc_runtime.inputs import NUMPY, Interface
from specc_runtime.programs import Outputs

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import torch

    from specc_runtime.module import Build

    Array = np.ndarray[Any, Any]


_ROOM = 64
"""Positions that a buffer has room for at first."""


class Steps:
    """`position`: how many positions have been given so far."""

    def __init__(self, cache: Cache, of: Interface) -> None:
        """`of`: the interface of the cached entry."""
        self.cache, self.of = cache, of
        self.position = 0

    def reset(self) -> None:
        """Begin a new sequence."""
        self.position = 0

    def step(self, feeds: Mapping[str, Array]) -> Outputs:
        """The outputs of the entry for the positions that follow; raises `Rejected` (S223) if they do not fit."""
        count = self._count(feeds)
        room = self.cache.room
        if room is not None and self.position + count > room:
            limit = "the cache" if self.cache.length == room else "the context"
            message = f"{self.position + count} positions are more than {limit} has room for: {room}"
            help = "build with a longer --cache static=N" if self.cache.length == room else "a shorter prompt or text"
            raise Rejected([Diagnostic("S223", message, help=help)])
        outputs = self._run(feeds, count)
        self.position += count
        return outputs

    def reorder(self, rows: Sequence[int]) -> None:
        """Continue with these rows of the batch (beam search)."""
        raise NotImplementedError

    def _run(self, feeds: Mapping[str, Array], count: int) -> Outputs:
        raise NotImplementedError

    def _count(self, feeds: Mapping[str, Array]) -> int:
        """How many new positions the inputs are of."""
        for item in self.of.inputs:
            for axis, dim in enumerate(item.shape):
                if dim.is_symbol() and dim.symbols[0] == self.cache.step and item.name in feeds:
                    return int(feeds[item.name].shape[axis])
        raise AssertionError(f"no input has an axis {self.cache.step}")


class TorchSteps(Steps):
    """The emitted module's `<entry>_cached`."""

    def __init__(self, module: torch.nn.Module, cache: Cache, of: Interface) -> None:
        import torch

        super().__init__(cache, of)
        self.module = module
        self.device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self.past: list[tuple[torch.Tensor, ...]] | None = None
        self.constant: dict[str, torch.Tensor] = {}  # what the first step gave for all

    def reset(self) -> None:
        super().reset()
        self.past, self.constant = None, {}

    def reorder(self, rows: Sequence[int]) -> None:
        self.past = [tuple(x[list(rows)] for x in group) for group in self.past or ()]

    def _run(self, feeds: Mapping[str, Array], count: int) -> Outputs:
        import torch

        fed = {name: torch.from_numpy(value).to(self.device) for name, value in feeds.items()}
        try:
            with torch.inference_mode():
                fed = self._with_constant(fed)
                given = {python_name(name): value for name, value in fed.items()}
                *results, self.past = getattr(self.module, f"{self.cache.of}_cached")(**given, past=self.past)
        except programs.TORCH_ERRORS as error:
            raise programs.Crash("torch", error) from error
        kept = {state.output for state in self.cache.flat}
        names = [o.name for o in self.of.outputs if o.name not in kept]
        return {name: programs.as_numpy(value) for name, value in zip(names, results, strict=True)}

    def _with_constant(self, fed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The arguments of a step: what the first step was given for all is with each."""
        once = self.cache.once
        if once is None:
            return fed
        if once.of is None:
            self.constant |= {name: fed[name] for name in once.inputs if name in fed}
            return {**self.constant, **fed}
        if self.past is None:
            found = programs.called(self.module, once.of, fed)
            self.constant = {name: found[name] for name in once.inputs}
        return {name: value for name, value in fed.items() if name not in once.fed} | self.constant


class OnnxSteps(Steps):
    """The cached graph in onnxruntime. What is kept stays in its memory: a step copies nothing of it to numpy."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        cache: Cache,
        of: Interface,
        program: str = programs.OPTIMISED,
        once: onnxruntime.InferenceSession | None = None,
    ) -> None:
        """`once`: the session of the graph that runs in the first step, for a cache that has one."""
        super().__init__(cache, of)
        self.session, self.program, self.once = session, program, once
        self.names = [o.name for o in session.get_outputs()]
        self.kept: dict[str, onnxruntime.OrtValue] = {}
        self.constant: dict[str, onnxruntime.OrtValue] = {}

    def reset(self) -> None:
        super().reset()
        self.kept, self.constant = {}, {}

    def reorder(self, rows: Sequence[int]) -> None:
        import onnxruntime as ort

        self.kept, self.constant = (
            {name: ort.OrtValue.ortvalue_from_numpy(value.numpy()[list(rows)]) for name, value in values.items()}
            for values in (self.kept, self.constant)
        )

    def _run(self, feeds: Mapping[str, Array], count: int) -> Outputs:
        import numpy as np
        import onnxruntime as ort

        given = {name: self._filled(name, np.ascontiguousarray(value)) for name, value in feeds.items()}
        if self.cache.length is not None:
            given[PAST_LENGTH] = np.array(self.position, dtype=np.int64)
        taken = {i.name for i in self.session.get_inputs()}
        values = {name: ort.OrtValue.ortvalue_from_numpy(v) for name, v in given.items() if name in taken}
        if not self.kept:
            self.kept, self.constant = self._empty(feeds), self._computed_once(given)
            self.kept.update((name, self.constant.pop(name)) for name in self.kept.keys() & self.constant.keys())
        values |= self.kept | self.constant
        with programs.crashing(self.program):
            found = self._called(values)
        self.kept = {state.input: found.pop(state.output) for state in self.cache.flat}
        return {name: value.numpy() for name, value in found.items()}

    def _called(self, values: Mapping[str, onnxruntime.OrtValue]) -> dict[str, onnxruntime.OrtValue]:
        """The results of a step by name. What has room for more is written where it lies: nothing of it is copied."""
        if self.cache.length is None and self.cache.mask is None:
            return dict(zip(self.names, self.session.run_with_ort_values(self.names, values), strict=True))
        binding = self.session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        kept = {state.output: values[state.input] for state in self.cache.flat}
        for name in self.names:
            if name in kept:
                binding.bind_ortvalue_output(name, kept[name])
            else:
                binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        return dict(zip(self.names, binding.get_outputs(), strict=True)) | kept

    def _computed_once(self, given: Mapping[str, Array]) -> dict[str, onnxruntime.OrtValue]:
        import onnxruntime as ort

        if self.once is None or self.cache.once is None:
            return {}
        values = {i.name: ort.OrtValue.ortvalue_from_numpy(given[i.name]) for i in self.once.get_inputs()}
        states = self.cache.once.flat
        with programs.crashing(self.program):
            found = self.once.run_with_ort_values([state.output for state in states], values)
        return {state.input: value for state, value in zip(states, found, strict=True)}

    def _filled(self, name: str, value: Array) -> Array:
        """An input of all positions as long as a static cache: what is not there yet is 0."""
        import numpy as np

        axis = self.cache.wide.get(name)
        if axis is None or self.cache.length is None:
            return value
        missing = [(0, 0)] * value.ndim
        missing[axis] = (0, self.cache.length - value.shape[axis])
        return np.pad(value, missing)

    def _empty(self, feeds: Mapping[str, Array]) -> dict[str, onnxruntime.OrtValue]:
        import numpy as np
        import onnxruntime as ort

        sizes = {self.cache.past: 0}
        for item in self.of.inputs:
            for axis, dim in enumerate(item.shape):
                if dim.is_symbol() and item.name in feeds:
                    sizes.setdefault(dim.symbols[0], feeds[item.name].shape[axis])
        return {
            state.input: ort.OrtValue.ortvalue_from_numpy(
                np.zeros([dim.evaluate(sizes) for dim in state.before], dtype=NUMPY[state.dtype])
            )
            for state in self.cache.flat
        }


class BufferSteps(OnnxSteps):
    """The graph of `--target genai` as onnxruntime-genai runs it: keys and values go in and come out in one buffer that
    is longer than the text and grows as it is needed.

    Shorter prompts of a batch are padded on the right, and each row goes on where its own text ends.
    """

    def _run(self, feeds: Mapping[str, Array], count: int) -> Outputs:
        import numpy as np

        assert self.cache.mask is not None
        end = self.position + count
        given = feeds.get(self.cache.mask)
        mask = given if given is not None else np.ones((next(iter(feeds.values())).shape[0], end), bool)
        self._check(mask, count)
        self._reserve(len(mask), end)
        return super()._run({**feeds, self.cache.mask: mask.astype(np.int64)}, count)

    def _check(self, mask: Array, count: int) -> None:
        """What the operator would answer wrongly, or not at all."""
        new = mask[:, self.position :]
        message = ""
        if (new[:, :-1] < new[:, 1:]).any() or not new[:, 0].all():
            message = "texts of one batch are padded on the left: this build takes padding on the right"
        elif self.position and count > 1 and len(mask) > 1:
            message = f"{count} new positions of {len(mask)} texts at once: in a batch they go on one by one"
        if message:
            raise Rejected([Diagnostic("B621", message, help="one text at a time, or a build with --cache concat")])

    def _reserve(self, batch: int, end: int) -> None:
        """Buffers for `end` positions, with what they held."""
        import numpy as np
        import onnxruntime as ort

        for state in self.cache.flat:
            held = self.kept[state.input].numpy() if state.input in self.kept else None
            before = held.shape[state.axis] if held is not None else 0
            if before >= end:
                continue
            room = max(end, 2 * before, _ROOM)
            if self.cache.room is not None:
                room = min(room, self.cache.room)
            _, heads, _, width = state.before
            buffer = np.zeros((batch, heads.evaluate({}), room, width.evaluate({})), dtype=NUMPY[state.dtype])
            if held is not None:
                buffer[:, :, :before] = held
            self.kept[state.input] = ort.OrtValue.ortvalue_from_numpy(buffer)


def in_parts(steps: Steps, plain: Interface, feeds: Mapping[str, Array], parts: Sequence[int]) -> Outputs:
    """The outputs of the plain entry for its inputs, from steps that are given so many positions each.

    An output without an axis of positions is that of the last step; one of `Cache.last` has the last position of every
    step.
    """
    import numpy as np

    steps.reset()
    found: dict[str, list[Array]] = {output.name: [] for output in plain.outputs}
    for count in parts:
        outputs = steps.step(part_of(steps, plain, feeds, steps.position, count))
        for name, values in found.items():
            values.append(outputs[name])
    axes = {
        o.name: next((a for a, d in enumerate(o.shape) if steps.cache.step in d.symbols), None) for o in plain.outputs
    }
    return {name: v[-1] if axes[name] is None else np.concatenate(v, axes[name]) for name, v in found.items()}


def part_of(steps: Steps, plain: Interface, feeds: Mapping[str, Array], start: int, count: int) -> dict[str, Array]:
    """What a step from position `start` is given of inputs for the whole: new positions, or all so far."""
    import numpy as np

    given = {}
    for item in plain.inputs:
        value, wide = feeds[item.name], steps.cache.wide.get(item.name)
        for axis, dim in enumerate(item.shape):
            before = (slice(None),) * axis
            if axis == wide:
                value = value[(*before, slice(0, start + count))]
            elif dim.is_symbol() and dim.symbols[0] == steps.cache.step:
                value = value[(*before, slice(start, start + count))]
        given[item.name] = np.ascontiguousarray(value)
    once = steps.cache.once
    fused = once.fed if once is not None and once.of is not None else ()
    return given | {name: feeds[name] for name in fused}


def open_steps(
    build: Build,
    engine: str = "onnxruntime",
    entry: str | None = None,
    device: Device = "cpu",
    *,
    quantized: bool = False,
) -> Steps:
    """A cached entry of a build, ready for its first step, on "onnxruntime" or on "torch".

    Without an entry it is the only cached one. `quantized`: with the weights in few bits of a build with `--quant`.
    Raises `Rejected`: B620 if the build has none, B660 for damaged files, G706 for a device that is not there.
    """
    cached = {name: found for name, found in build.manifest["entries"].items() if "cache" in found}
    name = entry if entry is not None else next(iter(cached), "")
    if name not in cached:
        known = (("available", ", ".join(cached)),) if cached else ()
        message = f"`{build.folder}` has no cached entry" + (f" `{name}`" if name else "")
        raise Rejected([Diagnostic("B620", message, help="build it again with  --cache concat", notes=known)])
    cache, of = Cache.from_json(cached[name]["cache"]), Interface.from_json(cached[name]["interface"])
    if engine == "torch":
        check_torch(device)
        return TorchSteps(build.module(quantized=quantized).to(device), cache, of)
    first = cache.once
    once = build.session_of(first.file, device=device, quantized=quantized) if first is not None else None
    kind = OnnxSteps if cache.mask is None else BufferSteps
    return kind(build.session(name, device=device, quantized=quantized), cache, of, once=once)
