"""Positions in attention: rotary embeddings and ALiBi slopes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from specc.dims import Dim, Facts
from specc.op import Cost, Emitter, Handle, Op, OpError, Saved, Tensor, TorchText
from specc.ops import expect
from specc.types import DType, TensorType

if TYPE_CHECKING:
    import numpy as np

_FREQS = '''
def rope_freqs(head_dim: int, theta: float) -> torch.Tensor:
    """Rotary frequencies theta**(-2i/head_dim), computed in double precision."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    return (theta**-steps).float()
'''
_LINEAR_FREQS = '''
def linear_rope_freqs(head_dim: int, theta: float, factor: float) -> torch.Tensor:
    """Rotary frequencies of a context `factor` times as long, in double precision."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    return (theta**-steps / factor).float()
'''
_LLAMA3_FREQS = '''
def llama3_rope_freqs(
    head_dim: int, theta: float, factor: float, low: float, high: float, context: int
) -> torch.Tensor:
    """Llama 3's rotary frequencies: those that turn less than `low` times over the
    original context are divided by `factor`, those that turn more than `high` times
    are kept, the ones between are blended."""
    freqs = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turns = context * freqs / (2 * torch.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (freqs * (kept + (1 - kept) / factor)).float()
'''
_YARN_FREQS = '''
def yarn_rope_freqs(
    head_dim: int, theta: float, factor: float, low: float, high: float, context: int
) -> torch.Tensor:
    """YaRN's rotary frequencies: those that turn less than `low` times over the
    original context are divided by `factor`, those that turn more than `high` times
    are kept; between, the share of the two changes evenly from one to the next."""

    def index(turns: float) -> float:
        return head_dim * math.log(context / (2 * math.pi * turns)) / (2 * math.log(theta))

    first, last = math.floor(index(high)), math.ceil(index(low))
    first, last = max(first, 0), min(last, head_dim - 1)
    freqs = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    steps = torch.arange(head_dim // 2, dtype=torch.float64) - first
    divided = (steps / ((last - first) or 1e-3)).clamp(0, 1)
    return (freqs * (1 - divided + divided / factor)).float()
'''
_EXACT_YARN_FREQS = _YARN_FREQS.replace("yarn_rope_freqs", "exact_yarn_rope_freqs").replace(
    "math.floor(index(high)), math.ceil(index(low))", "index(high), index(low)"
)


class RopeFreqs(Op):
    """The frequencies of rotary embeddings, theta**(-2i/head_dim) for i < head_dim/2; a constant f32[head_dim/2].

    "linear" divides them by `factor`. "llama3" divides those that turn less than `low` times over `original_context`
    positions, keeps those that turn more than `high` times, and blends in between by how often they turn. "yarn" blends
    by the number of the frequency; `low` and `high` are its beta_slow and beta_fast, and `truncate` takes the bounds to
    whole numbers. `high` is 4 for "llama3" and 32 for "yarn" unless given. Computed in double precision.
    Source: RoFormer (Su et al., 2021), YaRN (Peng et al., 2023); scalings as in transformers' modeling_rope_utils.

    example: rope_freqs(8, 10_000.0) -> f32[4]
    example: rope_freqs(16, 10_000.0, scaling = "linear", factor = 4.0) -> f32[8]
    example: rope_freqs(64, 5e5, scaling = "llama3", factor = 8.0, original_context = 8192) -> f32[32]
    example: rope_freqs(64, 1e6, scaling = "yarn", factor = 4.0, original_context = 8192) -> f32[32]
    example: rope_freqs(16, 1e4, scaling = "yarn", factor = 2.0, low = 0.5, high = 3.0, original_context = 100,
                        truncate = false) -> f32[8]
    """

    name = "rope_freqs"
    head_dim: int
    theta: float
    scaling: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float | None = None
    original_context: int | None = None
    truncate: bool = True

    def infer(self, facts: Facts) -> TensorType:
        expect.setting(
            self.head_dim >= 2 and self.head_dim % 2 == 0,
            "head_dim",
            f"head_dim must be even and at least 2, found {self.head_dim}",
        )
        expect.setting(self.theta > 0, "theta", f"theta must be positive, found {self.theta}")
        expect.setting(self.factor > 0, "factor", f"factor must be positive, found {self.factor}")
        if self.scaling in ("llama3", "yarn"):
            high = self.most_turns
            expect.setting(self.low < high, "low", f"low must be less than high = {high}, found {self.low}")
            expect.setting(self.scaling != "yarn" or self.low > 0, "low", f"low must be positive, found {self.low}")
            expect.setting(self.scaling != "yarn" or self.theta != 1, "theta", "theta must not be 1")
            if self.original_context is None:
                raise OpError(
                    "E124", f'scaling = "{self.scaling}" needs `original_context`', operand="original_context"
                )
            expect.setting(self.original_context >= 1, "original_context", "original_context must be at least 1")
        return TensorType(DType.F32, (Dim.const(self.head_dim // 2),))

    def evaluate(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The constant's value."""
        import numpy as np

        freqs = float(self.theta) ** -(np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim)
        if self.scaling == "linear":
            freqs = freqs / self.factor
        elif self.scaling == "llama3":
            assert self.original_context is not None
            turns = self.original_context * freqs / (2 * np.pi)
            kept = np.clip((turns - self.low) / (self.most_turns - self.low), 0, 1)
            freqs = freqs * (kept + (1 - kept) / self.factor)
        elif self.scaling == "yarn":
            first, last = self._divided()
            divided = np.clip((np.arange(self.head_dim // 2) - first) / ((last - first) or 1e-3), 0, 1)
            freqs = freqs * (1 - divided + divided / self.factor)
        return freqs.astype(np.float32)

    @property
    def most_turns(self) -> float:
        """`high`, or what it is unless given."""
        return self.high if self.high is not None else 32.0 if self.scaling == "yarn" else 4.0

    def _divided(self) -> tuple[float, float]:
        """Between which frequencies "yarn" goes over from keeping to dividing."""
        assert self.original_context is not None
        first, last = (
            self.head_dim * math.log(self.original_context / (2 * math.pi * turns)) / (2 * math.log(self.theta))
            for turns in (self.most_turns, self.low)
        )
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        return max(first, 0), min(last, self.head_dim - 1)

    def torch(self, t: TorchText) -> str:
        given = [t.attr("head_dim"), t.attr("theta")]
        if self.scaling == "default":
            return f"{t.helper('rope_freqs', _FREQS)}({', '.join(given)})"
        given.append(t.attr("factor"))
        if self.scaling == "linear":
            return f"{t.helper('linear_rope_freqs', _LINEAR_FREQS)}({', '.join(given)})"
        high = t.attr("high") if self.high is not None else repr(self.most_turns)
        given += [t.attr("low"), high, t.attr("original_context")]
        if self.scaling == "llama3":
            return f"{t.helper('llama3_rope_freqs', _LLAMA3_FREQS)}({', '.join(given)})"
        function = ("yarn_rope_freqs", _YARN_FREQS) if self.truncate else ("exact_yarn_rope_freqs", _EXACT_YARN_FREQS)
        return f"{t.helper(*function)}({', '.join(given)})"

    def onnx(self, emit: Emitter) -> Handle:
        return emit.const(self.evaluate(), DType.F32)

    def cost(self, results: Sequence[TensorType]) -> Cost:
        return Cost(Dim.const(0))


_ROTARY_HALF = '''
def rotary(x: torch.Tensor, pos: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Rotate channel pairs (i, i + d/2) of x [B, H, T, d] by pos*freqs, in float32."""
    angles = pos[..., None, :, None] * freqs  # pos is [T] or [B, T]
    cos, sin = angles.cos(), angles.sin()
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
'''
_ROTARY_INTERLEAVED = '''
def rotary_interleaved(
    x: torch.Tensor, pos: torch.Tensor, freqs: torch.Tensor
) -> torch.Tensor:
    """Rotate channel pairs (2i, 2i + 1) of x [B, H, T, d] by pos*freqs, in float32."""
    angles = pos[..., None, :, None] * freqs  # pos is [T] or [B, T]
    cos, sin = angles.cos(), angles.sin()
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return pairs.flatten(-2).to(x.dtype)
'''


def _scaled(source: str) -> str:
    """The form of a helper above that multiplies what it turns by `scale`."""
    plain = "x: torch.Tensor, pos: torch.Tensor, freqs: torch.Tensor"
    source = re.sub(rf"def (\w+)\(\s*{plain}\s*\)", rf"def scaled_\1(\n    {plain}, scale: float\n)", source)
    source = source.replace("by pos*freqs, in", "by pos*freqs and scale them, in")
    return source.replace("angles.cos(), angles.sin()", "scale * angles.cos(), scale * angles.sin()")


class Rotary(Op):
    """Rotary position embedding: channel pairs (a, b) become (a cos - b sin, b cos + a sin) of the angle pos*freqs[i].

    Both are multiplied by `scale`, the attention factor of YaRN and LongRoPE; channels that are not turned are not.
    x [B, H, T, d], pos Int [T] or [B, T], freqs f32[r/2] with r <= d -> x's shape. The pair of frequency i is
    (i, i + r/2) in style "half" and (2i, 2i + 1) in "interleaved"; channels from r on are left alone. Computed in f32.
    Source: RoFormer (Su et al., 2021), ONNX RotaryEmbedding (opset 23).

    example: rotary(x: Tensor[B, 2, T, 8], pos: Int[B, T], freqs: f32[4], style = "half") -> Tensor[B, 2, T, 8]
    example: rotary(x: Tensor[B, 2, T, 8], pos: Int[T], freqs: f32[4], style = "interleaved") -> Tensor[B, 2, T, 8]
    example: rotary(x: Tensor[B, 2, T, 8], pos: Int[T], freqs: f32[2], style = "half") -> Tensor[B, 2, T, 8]
    example: rotary(x: Tensor[B, 2, T, 8], pos: Int[B, T], freqs: f32[3], style = "interleaved") -> Tensor[B, 2, T, 8]
    example: rotary(x: Tensor[B, 2, T, 8], pos: Int[T], freqs: f32[3], style = "half", scale = 1.5)
             -> Tensor[B, 2, T, 8]
    example: rotary(x: Tensor[B, 2, T, 8], pos: Int[B, T], freqs: f32[4], style = "interleaved", scale = 0.5)
             -> Tensor[B, 2, T, 8]
    """

    name = "rotary"
    x: ClassVar[Tensor]
    pos: ClassVar[Tensor]
    freqs: ClassVar[Tensor]
    style: Literal["half", "interleaved"]
    scale: float = 1.0

    def infer(self, facts: Facts, x: TensorType, pos: TensorType, freqs: TensorType) -> TensorType:
        expect.rank(x, ("B", "H", "T", "d"), operand=0, what="x")
        expect.floating(x, operand=0, what="x")
        expect.indices(pos, operand=1, what="pos")
        if pos.rank == 2:
            expect.shape(facts, pos, (x.shape[0], x.shape[2]), operand=1, what="pos")
        else:
            expect.shape(facts, pos, (x.shape[2],), operand=1, what="pos")
        expect.rank(freqs, ("d/2",), operand=2, what="freqs")
        expect.same_dtype(freqs, DType.F32, operand=2, what="freqs")
        proof = facts.at_least(x.shape[3] - 2 * freqs.shape[0], 0)
        if not proof:
            raise OpError(
                "S201",
                f"freqs must have at most {x.shape[3] // 2} elements, half the last axis of x; found {freqs.shape[0]}",
                operand=2,
                expected=f"f32[{x.shape[3] // 2}]",
                found=str(freqs),
                proof=proof,
            )
        return x

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        """Sines and cosines."""
        _, pos, freqs = operands
        return Saved(own=(TensorType(DType.F32, (*pos.shape, freqs.shape[0])),) * 2)

    def torch(self, t: TorchText, x: str, pos: str, freqs: str) -> str:
        x_type, freqs_type = t.operands[0], t.operands[2]
        assert isinstance(x_type, TensorType) and isinstance(freqs_type, TensorType)
        half = self.style == "half"
        name, source = ("rotary", _ROTARY_HALF) if half else ("rotary_interleaved", _ROTARY_INTERLEAVED)
        how = f"{pos}, {freqs}"
        if self.scale != 1:
            name, source, how = f"scaled_{name}", _scaled(source), f"{how}, {t.attr('scale')}"
        rotate = t.helper(name, source)
        if x_type.shape[3] == 2 * freqs_type.shape[0]:
            return f"{rotate}({x}, {how})"
        turned = 2 * freqs_type.shape[0]
        return f"torch.cat(({rotate}({x}[..., :{turned}], {how}), {x}[..., {turned}:]), dim=-1)"

    in_onnx = (("RotaryEmbedding", 23),)

    def onnx(self, emit: Emitter, x: Handle, pos: Handle, freqs: Handle) -> Handle:
        batch, _, length, channels = x.type.shape
        pairs = freqs.type.shape[0]
        grid = TensorType(DType.F32, (*pos.type.shape, pairs))
        angles = emit("Mul", emit.unsqueeze(emit.cast(pos, DType.F32), [pos.type.rank]), freqs, type=grid)
        cos, sin = emit("Cos", angles, type=grid), emit("Sin", angles, type=grid)
        if self.scale != 1:
            scale = emit.const(self.scale, DType.F32)
            cos, sin = emit("Mul", cos, scale, type=grid), emit("Mul", sin, scale, type=grid)
        x32, type32 = emit.cast(x, DType.F32), x.type.with_dtype(DType.F32)
        if emit.opset >= 23:
            if pos.type.rank == 1:  # the operator wants one row of angles per batch entry
                each, full = emit.shape((batch, length, pairs)), TensorType(DType.F32, (batch, length, pairs))
                cos, sin = emit("Expand", cos, each, type=full), emit("Expand", sin, each, type=full)
            options: dict[str, Any] = {"interleaved": 1} if self.style == "interleaved" else {}
            if channels != 2 * pairs:
                options["rotary_embedding_dim"] = _known(2 * pairs)
            return emit.cast(emit("RotaryEmbedding", x32, cos, sin, type=type32, **options), x.type.dtype)
        axis = pos.type.rank - 1  # angles [B, T, r/2] -> [B, 1, T, r/2]; [T, r/2] aligns at the right
        if axis:
            cos, sin = emit.unsqueeze(cos, [axis]), emit.unsqueeze(sin, [axis])
        return emit.cast(self._decomposed(emit, x32, cos, sin, pairs), x.type.dtype)

    def _decomposed(self, emit: Emitter, x: Handle, cos: Handle, sin: Handle, pairs: Dim) -> Handle:
        """The rotation of x (f32) in elementary operators."""
        *lead, channels = x.type.shape
        half, turned = x.type.with_shape((*lead, pairs)), x.type.with_shape((*lead, 2 * pairs))
        rest = channels - 2 * pairs
        parts: tuple[Handle, ...] = (x,)
        if rest != 0:
            split = emit.const([_known(2 * pairs), _known(rest)], DType.I64)
            parts = emit.many("Split", 2, x, split, types=(turned, x.type.with_shape((*lead, rest))), axis=3)
        if self.style == "half":
            sizes = emit.const([_known(pairs)] * 2, DType.I64)
            a, b = emit.many("Split", 2, parts[0], sizes, types=(half, half), axis=3)
        else:
            paired = emit.reshape(parts[0], (*lead, pairs, Dim.const(2)))
            a, b = (emit("Gather", paired, emit.const(i, DType.I64), type=half, axis=4) for i in (0, 1))
        first = emit("Sub", emit("Mul", a, cos, type=half), emit("Mul", b, sin, type=half), type=half)
        second = emit("Add", emit("Mul", b, cos, type=half), emit("Mul", a, sin, type=half), type=half)
        if self.style == "half":
            return emit("Concat", first, second, *parts[1:], type=x.type, axis=3)
        columns = [emit.unsqueeze(v, [4]) for v in (first, second)]
        paired = emit("Concat", *columns, type=x.type.with_shape((*lead, pairs, Dim.const(2))), axis=4)
        result = emit.reshape(paired, turned.shape)
        return emit("Concat", result, *parts[1:], type=x.type, axis=3) if rest != 0 else result

    def cost(self, results: Sequence[TensorType], x: TensorType, pos: TensorType, freqs: TensorType) -> Cost:
        batch, heads, length, _ = x.shape
        return Cost(6 * batch * heads * length * freqs.shape[0])

    def mixes(self, x: TensorType, pos: TensorType, freqs: TensorType) -> Sequence[Collection[int]]:
        return [(3,), (), (0,)]


_ALIBI_SLOPES = '''
def alibi_slopes(heads: int) -> torch.Tensor:
    """ALiBi's slopes: 2**(-8i/n) for n heads, further ones from the series of 2n."""
    n = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (i + 1) / n) for i in range(n)]
    slopes += [2.0 ** (-4 * (i + 1) / n) for i in range(0, 2 * (heads - n), 2)]
    return torch.tensor(slopes, dtype=torch.float32)
'''


class AlibiSlopes(Op):
    """The per-head slopes of ALiBi, a constant f32[heads]: 2**(-8i/n), i = 1 .. n, for n heads, n a power of two.

    Other counts take the slopes of the largest power of two below, then every second one of the next power's.
    Source: Train Short, Test Long (Press et al., 2022), its reference code.

    example: alibi_slopes(8) -> f32[8]
    example: alibi_slopes(12) -> f32[12]
    """

    name = "alibi_slopes"
    heads: int

    def infer(self, facts: Facts) -> TensorType:
        expect.setting(self.heads >= 1, "heads", f"heads must be at least 1, found {self.heads}")
        return TensorType(DType.F32, (Dim.const(self.heads),))

    def evaluate(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The constant's value."""
        import numpy as np

        n = 1 << (self.heads.bit_length() - 1)
        slopes = [2.0 ** (-8 * (i + 1) / n) for i in range(n)]
        slopes += [2.0 ** (-4 * (i + 1) / n) for i in range(0, 2 * (self.heads - n), 2)]
        return np.array(slopes, dtype=np.float32)

    def torch(self, t: TorchText) -> str:
        return f"{t.helper('alibi_slopes', _ALIBI_SLOPES)}({t.attr('heads')})"

    def onnx(self, emit: Emitter) -> Handle:
        return emit.const(self.evaluate(), DType.F32)

    def cost(self, results: Sequence[TensorType]) -> Cost:
        return Cost(Dim.const(0))


def _known(dim: Dim) -> int:
    """The value of a size that cannot be symbolic: frequencies belong to a static number of channels."""
    assert dim.value is not None, f"{dim} is not static"
    return dim.value
