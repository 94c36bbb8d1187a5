"""Attention as nodes of a graph: ONNX's operator, its products written out, or onnxruntime's operator with buffers."""

from __future__ import annotations

from specc.dims import Dim
from specc.op import Buffer, Emitter, Handle, OpError
from specc.ops.positions import counted
from specc.ops.precision import widened
from specc.types import DType, Scalar, TensorType

LOWEST = -3.4028234663852886e38
"""The lowest finite f32: what a hidden score becomes, so that a row without a visible key stays finite."""


class AttentionNodes:
    """Writes one attention, whose attributes are those of `ScaledDotProductAttention`."""

    def __init__(
        self, emit: Emitter, *, causal: bool, window: int | None, scale: float | None, softcap: float | None
    ) -> None:
        self.emit = emit
        self.causal, self.window, self.scale, self.softcap = causal, window, scale, softcap

    def attended(
        self, q: Handle, k: Handle, v: Handle, mask: Handle | None, bias: Handle | None, start: Handle | None = None
    ) -> Handle:
        """`start`: the position of the first query among keys that are room for later ones too (a static cache)."""
        if self.emit.opset < 23:
            return self._explicit(q, k, v, mask, bias, start)
        # The kernel's own causal mask aligns query 0 with key 0: right where there are as many keys as queries.
        native = self.causal and self.window is None and q.type.shape[2] == k.type.shape[2] and start is None
        visible = self._visible(q.type.shape[2], k.type.shape[2], mask, start, band=not native)
        attended = visible
        if bias is not None:
            attended = bias if bias.type.rank == 4 else self.emit.unsqueeze(bias, (0,))
            if visible is not None:
                wide = widened(self.emit, attended)
                attended = self.emit("Where", visible, wide, self.emit.scalar(LOWEST, wide))
        elif visible is not None and mask is not None and mask.type.rank == 2 and (native or not self._banded(start)):
            attended = _all_rows(self.emit, q, k, visible)
        return self.emit(
            "Attention",
            q,
            k,
            v,
            attended,
            is_causal=int(native) or None,
            scale=None if self.scale is None else float(self.scale),
            softcap=None if self.softcap is None else float(self.softcap),
            type=_result(q, v),
        )

    def buffered(
        self, buffer: Buffer, q: Handle, k: Handle, v: Handle, mask: Handle | None, bias: Handle | None
    ) -> Handle:
        """`GroupQueryAttention` of onnxruntime: causal over the positions of each row's text; k and v are all of them,
        past and new, which the backend takes apart (`backends.onnx.buffers`). Raises `OpError` (B621)."""
        heads, groups, width = q.type.shape[1].value, k.type.shape[1].value, q.type.shape[3].value
        for wrong, what, help in (
            (bias is not None, "a bias is added to its scores", "rotary or learned positions instead of a bias"),
            (
                mask is not None and mask is not buffer.mask,
                f"its mask {mask.type if mask is not None else ''} is not the input that says which positions are text",
                "mask = attention_mask, an input Bool[B, S]",
            ),
            (not self.causal, "it is not causal", "causal = true"),
            (heads is None or groups is None or width is None, "its heads are not static", ""),
            (k.type.shape[3] != v.type.shape[3], "keys and values have different widths", ""),
            (bool(width and width % 8), f"its heads have {width} channels, no multiple of 8", ""),
        ):
            if wrong:
                raise OpError("B621", f"GroupQueryAttention cannot express this attention: {what}", help=help)
        return self.emit(
            "GroupQueryAttention",
            q,
            k,
            v,
            None,
            None,
            buffer.last,
            buffer.total,
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=groups,
            scale=None if self.scale is None else float(self.scale),
            softcap=None if self.softcap is None else float(self.softcap),
            local_window_size=self.window,
            type=_result(q, v),
        )

    def _banded(self, start: Handle | None) -> bool:
        return self.causal or self.window is not None or start is not None

    def _visible(self, queries: Dim, keys: Dim, mask: Handle | None, start: Handle | None, band: bool) -> Handle | None:
        """Which key each query sees, broadcasting to [B, H, T, S]; None if all (but for the kernel's causal mask)."""
        emit, parts = self.emit, []
        if mask is not None:
            parts.append(emit.unsqueeze(mask, {2: (1, 2), 3: (1,), 4: ()}[mask.type.rank]))
        if start is not None:
            parts.append(self._band(queries, keys, start))
        elif band and self._banded(None):
            type_ = TensorType(DType.BOOL, (queries, keys))
            visible = emit("Expand", emit.const(True, DType.BOOL), emit.shape((queries, keys)), type=type_)
            shift = keys - queries
            if self.causal:
                visible = emit("Trilu", visible, _diagonal(emit, shift), upper=0)
            elif self.window is not None:
                visible = emit("Trilu", visible, _diagonal(emit, shift + self.window - 1), upper=0)
            if self.window is not None:
                visible = emit("Trilu", visible, _diagonal(emit, shift - self.window + 1), upper=1)
            parts.append(visible)
        if len(parts) == 2:
            return emit("And", *parts)
        return parts[0] if parts else None

    def _band(self, queries: Dim, keys: Dim, start: Handle) -> Handle:
        """The keys that are written and not later than each query, nor out of its window: Bool [T, S]."""
        emit, column = self.emit, TensorType(DType.I64, (queries, Dim.const(1)))
        here = emit("Add", emit.unsqueeze(counted(emit, queries), (1,)), start, type=column)
        there = counted(emit, keys)
        last = here if self.causal else emit("Add", start, emit("Sub", emit.dim(queries), emit.const([1], DType.I64)))
        full = TensorType(DType.BOOL, (queries, keys))
        band = emit("LessOrEqual", there, last, type=full if self.causal else None)
        if self.window is not None:
            first = emit("Sub", here, emit.const(self.window, DType.I64), type=column)
            band = emit("And", band, emit("Greater", there, first, type=full), type=full)
            if not self.causal:
                beyond = emit("Add", here, emit.const(self.window, DType.I64), type=column)
                band = emit("And", band, emit("Less", there, beyond, type=full), type=full)
        whole = self.causal or self.window is not None
        return band if whole else emit("Expand", band, emit.shape(full.shape), type=full)

    def _explicit(
        self, q: Handle, k: Handle, v: Handle, mask: Handle | None, bias: Handle | None, start: Handle | None
    ) -> Handle:
        """The products and the softmax one by one, for operator sets without attention."""
        batch, heads, queries, width = q.type.shape
        groups, keys = k.type.shape[1:3]
        shared = heads != groups
        if shared:  # the query heads that share keys become rows of one product
            q = self.emit.reshape(q, (batch, groups, heads // groups * queries, width))
        scores = self.emit(
            "MatMul",
            self._scaled(q),
            self.emit.transpose(k, (0, 1, 3, 2)),
            type=q.type.with_shape((*q.type.shape[:3], keys)),
        )
        if shared:
            scores = self.emit.reshape(scores, (batch, heads, queries, keys))
        if self.softcap is not None:
            cap = self.emit.scalar(self.softcap, scores)
            scores = self.emit("Mul", self.emit("Tanh", self.emit("Div", scores, cap)), cap)
        if bias is not None:
            scores = self.emit("Add", scores, bias)
        visible = self._visible(queries, keys, mask, start, band=True)
        wide = widened(self.emit, scores)
        if visible is not None:
            full = TensorType(wide.type.dtype, (batch, heads, queries, keys))
            wide = self.emit("Where", visible, wide, self.emit.scalar(LOWEST, wide), type=full)
        weights = self.emit.cast(self.emit("Softmax", wide, axis=-1), q.type.dtype)
        if not shared:
            return self.emit("MatMul", weights, v, type=_result(q, v))
        weights = self.emit.reshape(weights, (batch, groups, heads // groups * queries, keys))
        mixed = self.emit("MatMul", weights, v, type=q.type.with_shape((*q.type.shape[:3], v.type.shape[3])))
        return self.emit.reshape(mixed, (batch, heads, queries, v.type.shape[3]))

    def _scaled(self, q: Handle) -> Handle:
        width = q.type.shape[3]
        if self.scale is not None:
            return self.emit("Mul", q, self.emit.scalar(float(self.scale), q))
        if width.value is not None:
            return self.emit("Mul", q, self.emit.scalar(width.value**-0.5, q))
        return self.emit("Div", q, self.emit("Sqrt", self.emit.scalar(Scalar(width), q)), type=q.type)


def _all_rows(emit: Emitter, q: Handle, k: Handle, visible: Handle) -> Handle:
    """[B, 1, 1, S] -> [B, 1, T, S]: onnxruntime refuses a mask that broadcasts along its last two axes."""
    one, (batch, _, queries, _) = Dim.const(1), q.type.shape
    type_ = TensorType(DType.BOOL, (batch, one, queries, k.type.shape[2]))
    return emit("Expand", visible, emit.shape((one, one, queries, one)), type=type_)


def _result(q: Handle, v: Handle) -> TensorType:
    return q.type.with_shape((*q.type.shape[:3], v.type.shape[3]))


def _diagonal(emit: Emitter, dim: Dim) -> Handle:
    return emit.scalar(Scalar(dim), emit.const(0, DType.I64))
