"""Generating text with a cached build: prompts in, tokens and text out, in onnxruntime or in torch."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime import programs
from specc_runtime.cache import Cache
from specc_runtime.companions import SpecialTokens
from specc_runtime.decoder import decoder_of
from specc_runtime.device_steps import open_on
from specc_runtime.devices import Device
from specc_runtime.encoder import arrays, open_encoder
from specc_runtime.generation import Generation, Piece, Statistics, Text
from specc_runtime.inputs import Interface, positions_of
from specc_runtime.module import Build, no_weights, open_build
from specc_runtime.sampling import Sampler, Sampling
from specc_runtime.steps import BufferSteps
from specc_runtime.tokens import TOKENIZER, Detokenizer, Ending, check_fit, load_tokenizer, no_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    Array = np.ndarray[Any, Any]

T = TypeVar("T")
Prompt = str | Sequence[int]
MAX_NEW_TOKENS = 128


class Generator:
    """Generates with a cached entry of a build: continues prompts, or answers those that its encoder reads.

    `backend` runs it on `device`; `quantized`: with the weights in few bits of a build with `--quant`. `tokenizer`: a
    tokenizer.json or a folder that has one, where the build has none or another is wanted. Raises `Rejected`: B620 for
    a build without a cache, G705 for a model that does not continue texts, G706 for a device that is not there, G702
    and G703 for a tokenizer that is damaged or of another model.
    """

    def __init__(
        self,
        build: Build | str | Path,
        backend: Literal["onnxruntime", "torch"] = "onnxruntime",
        device: Device = "cpu",
        *,
        entry: str | None = None,
        quantized: bool = False,
        tokenizer: str | Path | None = None,
    ) -> None:
        for name, value, known in (("backend", backend, ("onnxruntime", "torch")), ("device", device, ("cpu", "cuda"))):
            if value not in known:
                raise Rejected([Diagnostic("G707", f"{name} is {value}: expected {' or '.join(known)}")])
        self.build = build if isinstance(build, Build) else open_build(build)
        if self.build.weights is None:  # torch would go on with what the class draws
            raise Rejected([no_weights(self.build.folder)])
        self.device: Device = device
        self.steps = self._opened(lambda: open_on(device, self.build, backend, entry, quantized=quantized))
        self.cache: Cache = self.steps.cache
        self.of: Interface = self.steps.of
        self.right = isinstance(self.steps, BufferSteps)  # where padding has to be
        self.decoder = decoder_of(self.of.method, self.cache, self.of)
        self.encoder = self._opened(lambda: open_encoder(self.build, self.steps, self._needed(), device, quantized))
        self.special = SpecialTokens.from_json(self.build.manifest.get("special_tokens") or SpecialTokens().to_json())
        self.tokenizer = self._tokenizer(tokenizer)

    def _opened(self, open: Callable[[], T]) -> T:
        """What onnxruntime cannot load, a graph in bf16 on the CPU for example, is told."""
        try:
            with programs.crashing(programs.OPTIMISED):
                return open()
        except programs.Crash as crash:
            message = f"`{self.build.folder}` does not run on {self.device}: {crash}"
            lacks = "NOT_IMPLEMENTED" in str(crash)  # anything else is a file that is not as it was built
            help = "--backend torch, or build it with --dtype f32" if lacks else "build it again:  specc build FILE"
            raise Rejected([Diagnostic("B660", message, help=help)]) from None

    def _needed(self) -> list[str]:
        """Inputs of a step, and of what runs once, that are neither tokens nor their masks."""
        first = self.cache.once
        once = first.inputs if first is not None and first.of is None else ()
        own = (self.decoder.tokens, *self.decoder.masks, self.decoder.positions)
        return [name for name in dict.fromkeys((*once, *self.decoder.more)) if name not in own]

    def _tokenizer(self, given: str | Path | None) -> Tokenizer | None:
        path = Path(given) if given is not None else self.build.folder / TOKENIZER
        if given is None and not path.is_file():
            return None
        found = load_tokenizer(path)
        check_fit(found, self.decoder.rows, str(path))
        return found

    # ---- prompts -------------------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, with those that the tokenizer puts around a text. Raises `Rejected` (G702-G704)."""
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise Rejected([no_tokenizer(f"`{self.build.folder}` has no tokenizer to read a text with")])
            try:
                prompt.encode()
            except UnicodeEncodeError as error:  # what a shell passed on that is not UTF-8
                message = f"the prompt is not text: {prompt[error.start]!r} is half a character"
                raise Rejected([Diagnostic("G704", message, help="write it in UTF-8")]) from None
            tokens = list(self.tokenizer.encode(prompt).ids)
        else:
            tokens = [int(token) for token in prompt]
        if not tokens and self.special.bos is not None:
            tokens = [self.special.bos]
        if not tokens:
            help = "give at least one token: the model continues something"
            message = (
                "the tokenizer makes no tokens of the prompt"
                if isinstance(prompt, str) and prompt
                else "the prompt is empty"
            )
            raise Rejected([Diagnostic("G704", message, help=help)])
        rows = self.decoder.rows
        strange = next((t for t in tokens if t < 0 or (rows is not None and t >= rows)), None)
        if strange is not None:
            message = f"token {strange} of the prompt is none of the model's {rows:,}: 0 to {(rows or 1) - 1}"
            raise Rejected([Diagnostic("G703", message)])
        return tokens

    # ---- generating ----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        inputs: Mapping[str, Array] | None = None,
    ) -> Generation:
        """Continue a prompt, or several as one batch; prompts are texts or lists of tokens.

        `inputs`: what an encoder reads that is not a text, a sound for example; the prompts are then what the decoder
        begins with. Raises `Rejected`: G701 if a prompt is longer than the context, G702 to G704 for what cannot be
        read, B660 if the build does not run.
        """
        several = not isinstance(prompt, str) and any(not _is_token(one) for one in prompt)
        prompts: Sequence[Any] = prompt if several else [prompt]
        run = self._run(prompts, max_new_tokens, sampling or Sampling(), stop, inputs or {})
        for _ in run:
            pass
        return run.generation

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> Run:
        """Continue one prompt: an iterator of pieces; `generation` of it is what there is so far.

        Raises `Rejected` as `generate` does, before the first piece.
        """
        return self._run([prompt], max_new_tokens, sampling or Sampling(), stop, {})

    def _run(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        sampling: Sampling,
        stop: Sequence[str],
        inputs: Mapping[str, Array],
    ) -> Run:
        stop = [stop] if isinstance(stop, str) else stop
        tokens = [self.encode(prompt) for prompt in prompts]
        if not _is_token(limit) or limit < 1:
            raise Rejected([Diagnostic("G707", f"max-tokens is {limit}: expected an int of at least 1")])
        if any(stop) and self.tokenizer is None:
            raise Rejected([no_tokenizer("stop strings need a tokenizer")])
        self._check_equal(tokens)
        read = self._read(tokens, inputs)
        count = sum(map(len, tokens))
        if self.encoder is not None and self.encoder.tokens is not None:
            tokens = [[self._start()] for _ in tokens]
        self._check_length(max(map(len, tokens)))
        seed = sampling.seed if sampling.seed is not None else random.SystemRandom().randrange(2**32)
        texts = [
            Text(one, limit, self.special.eos, Sampler(sampling, row, seed), self._detokenizer(one), Ending(stop))
            for row, one in enumerate(tokens)
        ]
        return Run(self, texts, seed, read, count)

    def _read(self, tokens: Sequence[Sequence[int]], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the encoder is given, if there is one."""
        if self.encoder is None:
            return arrays(replace(self.of, inputs=()), inputs, {})  # refuses all
        own = next(item for item in self.of.inputs if item.name == self.decoder.tokens)
        return self.encoder.feeds(tokens, inputs, self._pad, own.shape[0])

    def _start(self) -> int:
        """What the decoder's text begins with."""
        found = self.special.start if self.special.start is not None else self.special.bos
        if found is None:
            help = "name `decoder_start_token_id` in the checkpoint's generation_config.json, and build it again"
            raise Rejected([Diagnostic("G704", "the build does not know what a text begins with", help=help)])
        return found

    @property
    def _pad(self) -> int:
        """A token for where no text is."""
        pad, rows = self.special.pad or 0, self.decoder.rows
        return pad if rows is None or pad < rows else 0

    def _check_equal(self, tokens: Sequence[Sequence[int]]) -> None:
        """Prompts of several lengths have to be padded."""
        if len({len(t) for t in tokens}) == 1:
            return
        reads = self.encoder is not None and self.encoder.tokens is not None
        masks = self.encoder.mask if self.encoder is not None and reads else self.decoder.masks
        if not masks:
            why = "the build has no mask to tell padding by"
            help = "give them one by one, or build the model with its attention_mask"
        elif not reads and self._sees_padding():
            why = "padding changes what the model gives"
            help = (
                "give them one by one; in the spec, where(mask[:, S - T:][..., none], x, 0.0) keeps it out of a state"
            )
        else:
            return
        message = f"prompts of {min(map(len, tokens))} to {max(map(len, tokens))} tokens in one batch: {why}"
        raise Rejected([Diagnostic("G704", message, help=help)])

    def _sees_padding(self) -> bool:
        """Whether the proof found that a padded row is not what it is alone; without a proof nothing is known."""
        proof = self.build.manifest["certificate"]
        padded = proof["entries"].get(self.of.method, {}).get("padded", {}) if proof is not None else {}
        return any(found["max_abs"] > found["limit"] for found in padded.values())

    def _check_length(self, length: int) -> None:
        room = self.cache.room
        if room is None or length <= room:
            return
        static = self.cache.length == room
        message = f"the prompt has {length:,} tokens, {'the cache' if static else 'the context'} room for {room:,}"
        longer = self.cache.context is None or room < self.cache.context
        help = f"build it with a longer cache:  --cache static={length}" if static and longer else "a shorter prompt"
        raise Rejected([Diagnostic("G701", message, help=help)])

    def _detokenizer(self, prompt: Sequence[int]) -> Detokenizer | None:
        return Detokenizer(self.tokenizer, prompt) if self.tokenizer is not None else None


def _is_token(value: object) -> bool:
    return hasattr(value, "__index__") and getattr(value, "ndim", 0) == 0


class Run:
    """A generation under way: gives the pieces of its first row; done when every row is."""

    def __init__(
        self, generator: Generator, texts: list[Text], seed: int, read: Mapping[str, Array], prompts: int
    ) -> None:
        """`read`: what the encoder is given, if there is one; `prompts`: tokens of all prompts."""
        self.generator, self.texts, self.seed = generator, texts, seed
        self.read = read
        self.steps = generator.steps
        self.statistics = Statistics(prompts)
        self._pieces = self._all()

    @property
    def generation(self) -> Generation:
        """What there is so far."""
        return Generation(tuple(text.row for text in self.texts), self.statistics, self.seed)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        try:
            return next(self._pieces)
        except programs.Crash as crash:
            message = f"`{self.generator.build.folder}` does not run: {crash}"
            raise Rejected(
                [Diagnostic("B660", message, help="specc verify tells whether the build is whole")]
            ) from None

    def _all(self) -> Iterator[Piece]:
        import numpy as np

        steps, decoder, room = copy(self.generator.steps), self.generator.decoder, self.generator.cache.room
        self.generator.steps = self.steps = steps  # an earlier run, if one is under way, keeps its own
        steps.reset()
        fed, mask = self._padded()
        start = time.perf_counter()
        given = self.generator.encoder.read(self.read) if self.generator.encoder is not None else {}
        while True:
            logits = self._step(fed, mask, given)
            now = time.perf_counter()
            if not self.statistics.prefill:
                self.statistics.prefill = now - start
            else:
                self.statistics.decode += now - start
                self.statistics.steps += sum(not text.reason for text in self.texts)
                given = {name: value for name, value in given.items() if name in decoder.more}
            start = now
            active = [text for text in self.texts if not text.reason]
            last = room is not None and steps.position >= room
            pieces = {id(t): t.take(logits[n], last) for n, t in enumerate(self.texts) if not t.reason}
            if self.texts[0] in active:
                yield pieces[id(self.texts[0])]
            if all(text.reason for text in self.texts):
                return
            fed = np.array([[text.tokens[-1]] for text in self.texts], np.int64)
            mask = np.concatenate((mask, np.ones(fed.shape, bool)), 1)

    def _padded(self) -> tuple[Array, Array]:
        """The prompts side by side and their mask; padding is on the left, in a build for genai on the right."""
        import numpy as np

        width = max(len(text.prompt) for text in self.texts)
        ids = np.full((len(self.texts), width), self.generator._pad, np.int64)
        mask = np.zeros(ids.shape, bool)
        for row, text in enumerate(self.texts):
            start = 0 if self.generator.right else width - len(text.prompt)
            ids[row, start : start + len(text.prompt)] = text.prompt
            mask[row, start : start + len(text.prompt)] = True
        return ids, mask

    def _step(self, fed: Array, mask: Array, given: Mapping[str, Array]) -> Array:
        """The logits of the last position of every row's text. `mask`: which of all positions so far are text."""
        import numpy as np

        decoder, count = self.generator.decoder, fed.shape[1]
        feeds = {**given, decoder.tokens: fed}
        feeds |= {name: mask if wide else mask[:, -count:] for name, wide in decoder.masks.items()}
        if decoder.positions is not None:
            feeds[decoder.positions] = positions_of(mask)[:, -count:]
        logits: Array = self.steps.step(feeds)[decoder.logits]
        if self.generator.right and logits.shape[1] > 1:
            logits = logits[np.arange(len(fed)), mask.sum(1) - 1][:, None]
        found: Array = logits[:, -1]
        return found
