"""How the weights of a build are stored in few bits, and the names that their parts have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_BLOCK = 32
BLOCKS = (16, 32, 64, 128, 256)
"""What `MatMulNBits` takes: powers of two from 16."""


@dataclass(frozen=True)
class Scheme:
    """`bits` 8: a scale for each row of a matrix, activations rounded at run time. `bits` 4: a scale for each `block`
    of a row, with a zero point of its own unless `symmetric`.

    `head`: also the linear layers that give the entry's results; `embed`: also the tables that are looked up.
    """

    bits: int = 8
    block: int = DEFAULT_BLOCK
    symmetric: bool = True
    embed: bool = False
    head: bool = False

    @property
    def kind(self) -> str:
        """`int8` or `int4`: part of file and tensor names."""
        return f"int{self.bits}"

    @property
    def text(self) -> str:
        """As it is asked for: `int4:block=128,asym,head`; what is the default is left out."""
        options = []
        if self.bits == 4:
            options += [f"block={self.block}"] if self.block != DEFAULT_BLOCK else []
            options += [] if self.symmetric else ["asym"]
        options += [name for name in ("embed", "head") if getattr(self, name)]
        return f"{self.kind}:{','.join(options)}" if options else self.kind

    def blocks(self, width: int) -> int:
        """Scales of a row of that many elements."""
        return 1 if self.bits == 8 else -(-width // self.block)


TO_A_RESULT = frozenset(
    "Add Cast Clip Div Gather Identity Mul Neg Relu Reshape Sigmoid Slice Softmax LogSoftmax Sub Squeeze Tanh "
    "Unsqueeze".split()
)
"""What may lie between a head and the results of the graph."""

SCALE, ZERO = "scale", "zero"


def part(name: str, what: str) -> str:
    """A part of a packed tensor: no state_dict name has a colon."""
    return f"{name}:{what}"


def whole(name: str) -> tuple[str, str]:
    """(state_dict name, part) of an initializer; the part of what is stored as it is, is empty."""
    tensor, _, what = name.partition(":")
    return tensor, what


def joined(names: Sequence[str]) -> str:
    """What matrices are called that lie one below the other: `attn.{q,k,v}.weight`; one alone has its own name."""
    if len(names) == 1:
        return names[0]
    paths = [name.split(".") for name in names]
    shortest = min(map(len, paths)) - 1
    before = _alike(paths, shortest)
    after = _alike([path[::-1] for path in paths], shortest - before)
    inner = ",".join(".".join(path[before : len(path) - after]) for path in paths)
    return ".".join([*paths[0][:before], f"{{{inner}}}", *paths[0][len(paths[0]) - after :]])


def members(name: str) -> tuple[str, ...]:
    """The matrices of a `joined` name, in order."""
    before, brace, rest = name.partition("{")
    if not brace:
        return (name,)
    inner, _, after = rest.partition("}")
    return tuple(f"{before}{one}{after}" for one in inner.split(","))


def _alike(paths: Sequence[Sequence[str]], at_most: int) -> int:
    """How many segments all paths begin with."""
    count = 0
    while count < at_most and len({path[count] for path in paths}) == 1:
        count += 1
    return count
