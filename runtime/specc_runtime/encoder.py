"""The other half of an encoder-decoder: the entry that reads the prompt, or a sound, for the decoder to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim
from specc_runtime import programs
from specc_runtime.devices import Device
from specc_runtime.inputs import NUMPY, Input, Interface
from specc_runtime.module import Build
from specc_runtime.steps import Steps, TorchSteps

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_PREFIX = "encoder_"


@dataclass
class Encoder:
    """An entry whose results a decoder takes. `tokens` and `mask`: its inputs for a text, if it reads one; `passed`:
    inputs of the decoder -> the encoder's that they repeat, as `encoder_attention_mask` its `attention_mask`."""

    of: Interface
    tokens: Input | None
    mask: Input | None
    passed: Mapping[str, str]
    run: Any  # an onnxruntime session, the method of the emitted module, or None where the first step runs it
    device: Device

    @property
    def room(self) -> int | None:
        """The most tokens that it reads, None if nothing limits them."""
        if self.tokens is None:
            return None
        return min(
            (f.n for f in self.of.facts.statements() if f.kind == "le" and f.dim == self.tokens.shape[1]), default=None
        )

    def feeds(
        self, prompts: Sequence[Sequence[int]], inputs: Mapping[str, Array], pad: int, batch: Dim
    ) -> dict[str, Array]:
        """What it is given: prompts padded on the right, `inputs` of other kinds; `batch`: the size of which there are
        as many as prompts. Raises `Rejected` (G701, G704)."""
        import numpy as np

        given = arrays(self.of, inputs, {str(batch): len(prompts)} if batch.is_symbol() else {})
        if self.tokens is not None:
            width = max(map(len, prompts))
            if self.room is not None and width > self.room:
                message = f"the prompt has {width:,} tokens, the encoder room for {self.room:,}"
                raise Rejected([Diagnostic("G701", message, help="a shorter prompt")])
            given[self.tokens.name] = np.array(
                [[*prompt, *[pad] * (width - len(prompt))] for prompt in prompts], np.int64
            )
            if self.mask is not None:
                given[self.mask.name] = np.array([[n < len(prompt) for n in range(width)] for prompt in prompts])
        missing = [i.name for i in self.of.inputs if i.name not in given]
        if missing:
            message = f"the model reads {', '.join(f'`{name}`' for name in missing)}, which is not a prompt"
            help = f"Generator(..).generate(prompt, inputs={{{missing[0]!r}: array}})  of specc_runtime"
            raise Rejected([Diagnostic("G704", message, help=help)])
        return given

    def read(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """What the decoder takes of it. Raises `Crash`."""
        names = [output.name for output in self.of.outputs]
        if self.run is None:
            found = dict(given)
        elif hasattr(self.run, "get_inputs"):
            found = programs.run_session(self.run, programs.OPTIMISED, given, names)
        else:
            found = self._torch(given, names)
        return found | {name: given[source] for name, source in self.passed.items()}

    def _torch(self, given: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        import torch

        arguments = {i.argument: torch.from_numpy(given[i.name]).to(self.device) for i in self.of.inputs}
        try:
            with torch.inference_mode():
                found = self.run(**arguments)
        except programs.TORCH_ERRORS as error:
            raise programs.Crash("torch", error) from error
        results = found if isinstance(found, tuple) else (found,)
        return {name: programs.as_numpy(value) for name, value in zip(names, results, strict=True)}


def arrays(of: Interface, inputs: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Array]:
    """What an entry is given, in its types; `sizes`: those that are known. Raises `Rejected` (G704)."""
    import numpy as np

    known, found, given = {i.name: i for i in of.inputs}, dict(sizes), {}
    for name, value in inputs.items():
        item = known.get(name)
        if item is None:
            there = (("inputs", ", ".join(known)),) if known else ()
            raise Rejected([Diagnostic("G704", f"`{of.method}` reads no `{name}`", notes=there)])
        try:
            array = np.ascontiguousarray(value, NUMPY.get(item.dtype, "float32"))
        except (TypeError, ValueError) as error:
            raise Rejected([Diagnostic("G704", f"`{name}` is not an array of numbers: {error}")]) from None
        if not _fits(item.shape, array.shape, found):
            told = [
                f"{symbol} = {n}" for symbol, n in found.items() if any(symbol in dim.symbols for dim in item.shape)
            ]
            expected = f"[{', '.join(map(str, item.shape))}]" + (f" with {', '.join(told)}" if told else "")
            notes = (("expected", expected), ("found", str(list(array.shape))))
            raise Rejected([Diagnostic("G704", f"`{name}` has another shape than `{of.method}` reads", notes=notes)])
        given[name] = array
    return given


def _fits(shape: Sequence[Dim], found: Sequence[int], sizes: dict[str, int]) -> bool:
    """Whether an array has a shape; `sizes` grows by what it tells."""
    if len(shape) != len(found):
        return False
    told = {str(dim): n for dim, n in zip(shape, found, strict=True) if dim.is_symbol()}
    every = {**told, **sizes}
    exact = all(
        every.keys() >= {*dim.symbols} and dim.evaluate(every) == n for dim, n in zip(shape, found, strict=True)
    )
    sizes.update(told if exact else {})
    return exact


def open_encoder(build: Build, steps: Steps, needed: Sequence[str], device: Device, quantized: bool) -> Encoder | None:
    """The entry of a build that gives what a decoder needs; None if it needs nothing. Raises `Rejected` (G705)."""
    once = steps.cache.once
    if once is not None and once.of is not None:
        passed = {one: one.removeprefix(_PREFIX) for one in needed}
        if set(passed.values()) <= set(once.fed):
            return Encoder(once.of, *_text_inputs(once.of), passed, None, device)
    if not needed:
        return None
    for name, entry in build.manifest["entries"].items():
        if "cache" in entry:
            continue
        of = Interface.from_json(entry["interface"])
        left = set(needed) - {output.name for output in of.outputs}
        passed = {one: one.removeprefix(_PREFIX) for one in needed if one in left}
        if len(left) < len(needed) and set(passed.values()) <= {i.name for i in of.inputs}:
            method = (
                getattr(steps.module, name)
                if isinstance(steps, TorchSteps)
                else build.session(name, device=device, quantized=quantized)
            )
            return Encoder(of, *_text_inputs(of), passed, method, device)
    message = f"`{steps.of.method}` takes `{needed[0]}`, which no entry of the build gives"
    raise Rejected([Diagnostic("G705", message, help="build it with  --all-entries")])


def _text_inputs(of: Interface) -> tuple[Input | None, Input | None]:
    """The tokens, Int[B, N], and their mask, Bool[B, N]."""
    tokens = next((i for i in of.inputs if i.dtype in ("i64", "i32") and _is_text(i.shape)), None)
    if tokens is None:
        return None, None
    return tokens, next((i for i in of.inputs if i.dtype == "bool" and i.shape == tokens.shape), None)


def _is_text(shape: Sequence[Dim]) -> bool:
    return len(shape) == 2 and all(dim.is_symbol() for dim in shape)
