"""Weights to a safetensors file: bytes that stay the same are copied by the kernel, the rest passes a few megabytes at
a time.

What is written depends on what is asked for and nothing else: the order of the data and of the header is fixed, and
random values come from one stream per tensor, seeded by (seed, the tensor's name), so neither the number of threads nor
other tensors change a value.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.initializers import draw
from specc.ir.declared import Initializer
from specc.weights.layout import Expr, TensorInfo, reads
from specc.weights.mapping import Plan
from specc_runtime.budget import Budget
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.extents import Extent, extents
from specc_runtime.tensor_file import ITEM_SIZES, damaged

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

ALIGNMENT = 64  # of the first byte of data; the format asks for 8
THREADS = 4
MAPPED = 1 << 28  # bytes of the checkpoint that may be mapped at a time to rearrange them; or one tensor that has more
_CHUNK = 1 << 22  # bytes, where the kernel cannot copy

# What copy_file_range answers where the two files are on systems that cannot do it between them.
_CANNOT = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write: rearranged from the checkpoint's, or drawn."""

    name: str
    info: TensorInfo
    source: Expr | Initializer | None = None  # None: somebody else writes it

    @property
    def nbytes(self) -> int:
        return prod(self.info.shape) * ITEM_SIZES[self.info.dtype]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the file that was written, in bytes from its start."""

    offset: int
    nbytes: int


def new_tensors(
    model: Mapping[str, TensorInfo],
    tied: Mapping[str, str],
    initializers: Mapping[str, Initializer],
    plan: Plan | None = None,
) -> list[NewTensor]:
    """What to write for a model, in its order: by the plan, or drawn where it says so or there is none.

    A tied tensor is stored once, under the name it stands for.
    """
    sources = plan.sources if plan is not None else {}
    return [
        NewTensor(name, info, sources.get(name) or initializers[name])
        for name, info in model.items()
        if name not in tied
    ]


def check_duplicates(plan: Plan, checkpoint: Checkpoint) -> None:
    """Refuse a file that holds one tied tensor under two names with different values (W312)."""
    if not plan.duplicates:
        return
    from specc_runtime import elements

    found = [
        Diagnostic(
            "W312",
            f"{d.name} and {d.target} are one tensor of the model, but differ in the file",
            d.span,
            notes=(("why", f"the model ties {d.name} to {d.target}; the checkpoint was trained without"),),
            help="build with the tie's condition off, if the model has one",
        )
        for d in plan.duplicates
        if not elements.equal(d.source, d.target_source, checkpoint)
    ]
    if found:
        raise Rejected(found)


class Writing:
    """A new file that threads are writing; where each tensor will lie is known from the start.

    It is complete (but not synced to the disk) after `finish`. `stop` gives it up. One of the two has to be called
    before the checkpoint is closed.
    """

    def __init__(
        self, path: Path, tensors: Sequence[NewTensor], checkpoint: Checkpoint | None = None, *, seed: int = 0
    ) -> None:
        """`seed` is that of drawn tensors. Raises `OSError` if there can be no such file."""
        header, self.places = layout(tensors)
        mapped = Budget(MAPPED)
        self._out = new_file(path)
        self._pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
        self._parts = [self._pool.submit(write_at, self._out, header, 0)]
        # Larger tensors first: threads end together. Each writes at its own place, so no order shows in the file.
        for tensor in sorted(tensors, key=lambda t: -t.nbytes):
            offset = self.places[tensor.name].offset
            self._parts.append(self._pool.submit(_write_tensor, self._out, offset, tensor, checkpoint, seed, mapped))

    def finish(self) -> dict[str, Place]:
        """Wait for the file to be complete; returns where each tensor lies.

        Raises `OSError` where it cannot be written (a full disk is ENOSPC; the caller makes it B640 and sweeps the file
        away) and `Rejected` if the checkpoint changed meanwhile (W352).
        """
        try:
            for part in self._parts:
                part.result()
        finally:
            self.stop()
        return self.places

    def stop(self) -> None:
        """Leave the file as it is as soon as no thread writes to it."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._out >= 0:
            os.close(self._out)
            self._out = -1


def write_safetensors(
    path: Path, tensors: Sequence[NewTensor], checkpoint: Checkpoint | None = None, *, seed: int = 0
) -> dict[str, Place]:
    """Write a new file and wait for it; see `Writing`."""
    return Writing(path, tensors, checkpoint, seed=seed).finish()


# ---- the file --------------------------------------------------------------------------------------------------------


def layout(tensors: Sequence[NewTensor]) -> tuple[bytes, dict[str, Place]]:
    """The bytes before the data, and every tensor's place.

    Data is in the given order, larger elements first (alignment).
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    places: dict[str, Place] = {}
    for t in sorted(tensors, key=lambda t: -ITEM_SIZES[t.info.dtype]):
        places[t.name] = Place(at, t.nbytes)
        at += t.nbytes
    for t in tensors:
        begin = places[t.name].offset
        entries[t.name] = {
            "dtype": t.info.dtype,
            "shape": list(t.info.shape),
            "data_offsets": [begin, begin + t.nbytes],
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {n: Place(start + p.offset, p.nbytes) for n, p in places.items()}


def _write_tensor(
    out: int, offset: int, tensor: NewTensor, checkpoint: Checkpoint | None, seed: int, mapped: Budget
) -> int:
    """The number of bytes written."""
    source = tensor.source
    if isinstance(source, Initializer):
        blocks = _drawn(tensor, source, seed)
    else:
        assert source is not None, f"{tensor.name} is written by somebody else"
        assert checkpoint is not None, f"{tensor.name} is read from a checkpoint, and there is none"
        stretches = extents(source)
        if stretches is not None and all(checkpoint.tensors[s.name].dtype == tensor.info.dtype for s in stretches):
            return sum([_copy(s, checkpoint, out, offset + at) for s, at in _placed(stretches, tensor.info.dtype)])
        blocks = _rearranged(source, tensor.info.dtype, checkpoint, None if stretches is not None else mapped)
    done = 0
    with contextlib.closing(blocks):  # on an error too: other threads wait for what it holds
        for block in blocks:
            done += write_at(out, block.reshape(-1).data.cast("B") if block.size else b"", offset + done)
    return done


def _placed(stretches: Sequence[Extent], dtype: str) -> Iterator[tuple[Extent, int]]:
    """Each with the bytes of those before it."""
    at = 0
    for one in stretches:
        yield one, at
        at += one.count * ITEM_SIZES[dtype]


def _copy(one: Extent, checkpoint: Checkpoint, out: int, offset: int) -> int:
    entry = checkpoint.tensors[one.name]
    item = ITEM_SIZES[entry.dtype]
    start, count = entry.offset + one.start * item, one.count * item
    copy_range(checkpoint.descriptor(entry.file), start, out, offset, count, entry.file)
    return count


def _rearranged(
    source: Expr, dtype: str, checkpoint: Checkpoint, mapped: Budget | None
) -> Generator[Array, None, None]:
    from specc_runtime import elements

    leaves = list(reads(source))
    types = {leaf.dtype for leaf in leaves}
    if len(types) > 1:
        raise Rejected(
            [Diagnostic("W301", f"{', '.join(leaf.name for leaf in leaves)} are of several types in the file")]
        )
    names = {leaf.name for leaf in leaves}
    size = sum(checkpoint.tensors[name].nbytes for name in names)
    with mapped.hold(size) if mapped is not None else contextlib.nullcontext():
        for block in elements.blocks(source, checkpoint):
            yield _converted(block, leaves[0].dtype, dtype, leaves[0].name)
        for name in names:
            checkpoint.release(name)


def _drawn(tensor: NewTensor, initializer: Initializer, seed: int) -> Generator[Array, None, None]:
    rng = stream(seed, tensor.name)
    for block in draw(initializer.name, initializer.args, tensor.info.shape, rng):
        yield _converted(block, "F32", tensor.info.dtype, tensor.name)


def _converted(block: Array, source: str, target: str, name: str) -> Array:
    """As `elements.converted`; raises `Rejected` (W353) for a number that would become infinite."""
    import numpy as np

    from specc_runtime import elements

    try:
        with np.errstate(over="raise"):
            return elements.converted(block, source, target)
    except FloatingPointError:
        largest = float(np.abs(elements.converted(block, source, "F32")).max())
        raise Rejected(
            [
                Diagnostic(
                    "W353",
                    f"`{name}` has numbers that {target.lower()} cannot hold: up to {largest:.6g}",
                    notes=(("largest of f16", "65504"),) if target == "F16" else (),
                    help="--dtype bf16, which has the range of f32",
                )
            ]
        ) from None


def stream(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one parameter."""
    import numpy as np

    words = np.frombuffer(hashlib.sha256(name.encode("utf-8")).digest(), "<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *(int(word) for word in words)])))


def new_file(path: Path) -> int:
    """A descriptor of a new, empty file."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)


def write_at(out: int, data: bytes | memoryview, offset: int) -> int:
    """Write everything at an offset; the number of bytes."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(out, view[done:], offset + done)
    return done


def copy_range(source: int, start: int, out: int, offset: int, count: int, name: Path) -> None:
    """Copy bytes between files inside the kernel where it can: on some file systems no byte is moved at all."""
    end = start + count
    with contextlib.suppress(AttributeError):
        while start < end:
            try:
                done = os.copy_file_range(source, out, end - start, start, offset)
            except OSError as error:
                if error.errno in _CANNOT:
                    break
                raise
            if done == 0:
                break
            start, offset = start + done, offset + done
    while start < end:
        data = os.pread(source, min(_CHUNK, end - start), start)
        if not data:
            raise damaged(name, "it became shorter while it was read")
        start += len(data)
        offset += write_at(out, data, offset)
