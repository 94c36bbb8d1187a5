"""Scaled dot-product attention (LANGUAGE 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts, Unknown
from specc.op import Cost, Emitter, Handle, Op, OpError, Saved, Step, Tensor, TorchText, numel
from specc.ops import expect
from specc.ops.attention_nodes import AttentionNodes
from specc.types import DType, Operand, TensorType


class ScaledDotProductAttention(Op):
    """softmax(q k^T * scale + bias, over the visible keys) v (Vaswani et al., 2017).

    q [B, H, T, d], k [B, G, S, d], v [B, G, S, e] -> [B, H, T, e]; query head h reads key head h // (H/G) (Ainslie et
    al., 2023). `scale` is d**-0.5 unless given. `softcap` limits the scaled scores: softcap * tanh(scores/softcap).
    `bias` ([H, T, S] or [1 | B, H, T, S]) is added. `mask` is Bool, true = may attend: [B, S] for keys,
    [1 | B, T, S], or [1 | B, 1 | H, T, S]. `causal`: query i, at p = i + S - T, sees key j if j <= p. `window = w`: and
    if j > p - w, without `causal` also j < p + w. Dropout is of the weights, in training. Rows without a visible key
    are finite and unspecified.

    example: sdpa(q: Tensor[B, 4, T, 8], k: Tensor[B, 4, S, 8], v: Tensor[B, 4, S, 6]) -> Tensor[B, 4, T, 6]
    example: sdpa(q: Tensor[B, 4, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], causal = true)
        -> Tensor[B, 4, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, S, 8], v: Tensor[B, 2, S, 8], mask: Bool[B, S])
        -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], mask: Bool[B, T],
        causal = true) -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 1, S, 8], v: Tensor[B, 1, S, 8], mask: Bool[B, T, S],
        scale = 0.5) -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], causal = true, window = 2)
        -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], mask: Bool[B, T], window = 2)
        -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], mask: Bool[1, T, T])
        -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 4, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], mask: Bool[B, T],
        causal = true, softcap = 2.0) -> Tensor[B, 4, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, S, 8], v: Tensor[B, 2, S, 8], mask: Bool[B, S],
        bias = bias: Tensor[2, T, S]) -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], bias = bias: Tensor[1, 2, T,
        T], causal = true, dropout = 0.1) -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, T + 3, 8], v: Tensor[B, 2, T + 3, 8], causal = true,
        softcap = 2.0, dropout = 0.1) -> Tensor[B, 2, T, 8]
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, S, 8], v: Tensor[B, 2, S, 8], mask: Bool[B, T]) -> error S241
    example: sdpa(q: Tensor[B, 2, T, 8], k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 8], scale = 0.0) -> error E125
    example: sdpa(q: Tensor[B, 4, T, 8], k: Tensor[B, 3, S, 8], v: Tensor[B, 3, S, 8]) -> error S240
    """

    name = "sdpa"
    like = 0
    q: ClassVar[Tensor]
    k: ClassVar[Tensor]
    v: ClassVar[Tensor]
    mask: ClassVar[Tensor | None]
    bias: ClassVar[Tensor | None]
    causal: bool = False
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    dropout: float = 0.0

    # ---- shapes ----------------------------------------------------------------------------------------------------

    def infer(
        self,
        facts: Facts,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        mask: TensorType | None,
        bias: TensorType | None,
    ) -> TensorType:
        for i, (name, operand) in enumerate((("q", q), ("k", k), ("v", v))):
            expect.floating(operand, operand=i, what=name)
            expect.same_dtype(operand, q.dtype, operand=i, what=name)
            expect.rank(operand, _AXES[name], operand=i, what=name)
        expect.size(facts, k.shape[0], q.shape[0], operand=1, what="the batch of k")
        expect.size(facts, v.shape[0], q.shape[0], operand=2, what="the batch of v")
        expect.size(facts, k.shape[3], q.shape[3], operand=1, what="the head size of k")
        expect.size(facts, v.shape[2], k.shape[2], operand=2, what="the length of v")
        expect.size(facts, v.shape[1], k.shape[1], operand=2, what="the number of heads of v", code="S240")
        self._check_heads(facts, q.shape[1], k.shape[1])
        expect.setting(
            self.window is None or self.window >= 1, "window", f"sdpa: `window` must be at least 1, found {self.window}"
        )
        expect.setting(0 <= self.dropout < 1, "dropout", f"sdpa: `dropout` must be in 0 .. 1, found {self.dropout}")
        expect.setting(
            self.softcap is None or self.softcap > 0,
            "softcap",
            f"sdpa: `softcap` must be positive, found {self.softcap}",
        )
        expect.setting(
            self.scale is None or self.scale > 0, "scale", f"sdpa: `scale` must be positive, found {self.scale}"
        )
        if mask is not None:
            self._check_mask(facts, q, k, mask)
        if bias is not None:
            self._check_bias(facts, q, k, bias)
        return q.with_shape((*q.shape[:3], v.shape[3]))

    def _check_heads(self, facts: Facts, heads: Dim, groups: Dim) -> None:
        if facts.equal(heads, groups) or (groups.value and facts.divides(groups.value, heads)):
            return
        raise OpError(
            "S240",
            f"{heads} query heads cannot share {groups} key/value heads",
            operand=1,
            expected=f"a number that divides {heads.label or heads}",
            found=groups.label or str(groups),
        )

    def _check_mask(self, facts: Facts, q: TensorType, k: TensorType, mask: TensorType) -> None:
        if mask.dtype is not DType.BOOL:
            raise OpError(
                "S301",
                f"mask must be Bool, true = may attend; found {mask}",
                operand=3,
                expected="Bool",
                found=str(mask),
                help="mask != 0",
            )
        batch, heads, queries, keys = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
        expected = {2: (batch, keys), 3: (batch, queries, keys), 4: (batch, heads, queries, keys)}.get(mask.rank)
        if expected is None:
            raise OpError(
                "S202",
                f"mask must have 2, 3 or 4 axes, found {mask}",
                operand=3,
                expected="Bool[B, S]",
                found=str(mask),
            )
        _covers(facts, mask, expected, may_be_one=range(mask.rank - 2), operand=3, what="mask")

    def _check_bias(self, facts: Facts, q: TensorType, k: TensorType, bias: TensorType) -> None:
        expect.same_dtype(bias, q.dtype, operand=4, what="bias")
        full = (*q.shape[:3], k.shape[2])
        if bias.rank not in (3, 4):
            raise OpError(
                "S202", f"bias must have 3 or 4 axes, found {bias}", operand=4, expected="[H, T, S]", found=str(bias)
            )
        _covers(facts, bias, full[-bias.rank :], may_be_one=(0,) if bias.rank == 4 else (), operand=4, what="bias")

    def stepwise(
        self,
        step: Step,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        mask: TensorType | None,
        bias: TensorType | None,
    ) -> None:
        """Keys of a fixed length, those of an encoder, are the same in every step; others are cached and causal."""
        keys = k.shape[2]
        if not step.varies(keys):
            return
        if not step.is_wide(keys):
            raise OpError(
                "D402",
                "attention over keys that are not cached mixes positions of different steps",
                operand=1,
                found=f"k: {k} has the keys of one step",
                help=f"k, v = cached(k, v, along = {step.size})",
            )
        if self.causal:
            return
        if mask is not None and mask.rank > 2 and step.varies(mask.shape[-2]):
            raise OpError(
                "D405",
                "attention over cached keys is causal only if its mask is",
                operand=3,
                found=f"mask: {mask}",
                help="causal = true, or `expect incremental ~= forward` in a test section",
            )
        message = "attention over cached keys is not causal"
        raise OpError("D404", message, operand=1, found=f"k: {k} is cached", help="causal = true")

    # ---- torch -----------------------------------------------------------------------------------------------------

    def torch_step(self, t: TorchText, step: Step, q: str, k: str, v: str, mask: str | None, bias: str | None) -> str:
        return self.torch(t, q, k, v, mask, bias)  # what is causal follows from the operands' sizes

    def torch(self, t: TorchText, q: str, k: str, v: str, mask: str | None, bias: str | None) -> str:
        if self.softcap is not None:
            return self._torch_explicit(t, q, k, v, mask, bias)
        query, key = _tensor(t.operands[0]), _tensor(t.operands[1])
        only_causal = self.causal and mask is None and bias is None and self.window is None and _square(query, key)
        arguments = [q, k, v]
        if only_causal:
            arguments.append("is_causal=True")
        else:
            attended = visible = self._torch_visible(t, q, mask)
            if bias is not None:
                attended = bias if visible is None else f"{bias}.masked_fill(~{visible}, torch.finfo({q}.dtype).min)"
            if attended is not None:
                arguments.append(f"attn_mask={attended}")
        if t.attr("dropout") != "0.0":
            arguments.append(f"dropout_p={t.attr('dropout')} if self.training else 0.0")
        if self.scale is not None:
            arguments.append(f"scale={t.attr('scale')}")
        if query.shape[1] != key.shape[1]:
            arguments.append("enable_gqa=True")
        return f"F.scaled_dot_product_attention({', '.join(arguments)})"

    def _torch_explicit(self, t: TorchText, q: str, k: str, v: str, mask: str | None, bias: str | None) -> str:
        query, key = _tensor(t.operands[0]), _tensor(t.operands[1])
        if query.shape[1] != key.shape[1]:
            share = t.dim(query.shape[1] // key.shape[1])
            k = t.bind("keys", f"{k}.repeat_interleave({share}, dim=1)")
            v = t.bind("values", f"{v}.repeat_interleave({share}, dim=1)")
        scale = t.attr("scale") if self.scale is not None else f"{t.dim(query.shape[3])} ** -0.5"
        cap = t.attr("softcap")
        scores = t.bind("scores", f"{q} @ {k}.transpose(-2, -1) * {scale}")
        scores = t.bind("capped", f"{cap} * torch.tanh({scores} / {cap})")
        if bias is not None:
            scores = t.bind("biased", f"{scores} + {bias}")
        visible = self._torch_visible(t, q, mask)
        if visible is not None:
            scores = t.bind("masked", f"{scores}.masked_fill(~{visible}, torch.finfo({scores}.dtype).min)")
        weights = t.bind("weights", f"{scores}.softmax(-1, dtype=torch.float32).type_as({q})")
        if t.attr("dropout") != "0.0":
            weights = t.bind("kept", f"F.dropout({weights}, {t.attr('dropout')}, self.training)")
        return f"{weights} @ {v}"

    def _torch_visible(self, t: TorchText, q: str, mask: str | None) -> str | None:
        """Which key each query sees, as a Bool operand that broadcasts to [B, H, T, S]; None if all."""
        parts = []
        if mask is not None:
            rank = _tensor(t.operands[3]).rank
            parts.append(mask + {2: "[:, None, None, :]", 3: "[:, None]", 4: ""}[rank])
        if self.causal or self.window is not None:
            query, key = _tensor(t.operands[0]), _tensor(t.operands[1])
            queries, keys = query.shape[2], key.shape[2]
            band = f"torch.ones({t.dims((queries, keys))}, dtype=torch.bool, device={q}.device)"
            shift = keys - queries
            before = "" if shift == 0 else t.dim(shift)
            literal = self.window is not None and t.attr("window") == str(self.window)
            if self.causal:
                band += f".tril({before})"
            elif self.window is not None:
                last = str(self.window - 1) if literal else f"{t.attr('window')} - 1"
                band += f".tril({before} + {last})" if before else f".tril({last})"
            if self.window is not None:
                first = str(1 - self.window) if literal else f"1 - {t.attr('window')}"
                band += f".triu({before} + {first})" if before else f".triu({first})"
            return t.bind("visible", " & ".join([*parts, band]))
        return parts[0] if parts else None

    # ---- ONNX ------------------------------------------------------------------------------------------------------

    in_onnx = (("Attention", 23),)

    def onnx(self, emit: Emitter, q: Handle, k: Handle, v: Handle, mask: Handle | None, bias: Handle | None) -> Handle:
        return self._nodes(emit).attended(q, k, v, mask, bias)

    def onnx_step(
        self, emit: Emitter, step: Step, q: Handle, k: Handle, v: Handle, mask: Handle | None, bias: Handle | None
    ) -> Handle:
        if step.buffer is not None and step.is_wide(k.type.shape[2]):
            return self._nodes(emit).buffered(step.buffer, q, k, v, mask, bias)
        cached = step.start is not None and k.type.shape[2] == step.past + step.size
        return self._nodes(emit).attended(q, k, v, mask, bias, step.start if cached else None)

    def _nodes(self, emit: Emitter) -> AttentionNodes:
        return AttentionNodes(emit, causal=self.causal, window=self.window, scale=self.scale, softcap=self.softcap)

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        q, k, v = (_tensor(o) for o in operands[:3])
        scores = numel(q.with_shape((*q.shape[:3], k.shape[2])))
        products = scores * (q.shape[3] * 2 + v.shape[3] * 2)
        return Cost(products + scores * 5, products)

    def backward(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Cost:
        """Each product has two gradients; the fused kernels, which keep no scores, compute them once more."""
        q, k, v = (_tensor(o) for o in operands[:3])
        scores = numel(q.with_shape((*q.shape[:3], k.shape[2])))
        again = 0 if self._explicit(needs, q, v) else 2
        products = scores * (q.shape[3] * (4 + again) + v.shape[3] * 4)
        return Cost(products + scores * 5, products)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        """The fused kernels keep one number for each row of scores, and the mask as it is added; others the scores."""
        q, k, v = (_tensor(o) for o in operands[:3])
        scores = q.with_shape((*q.shape[:3], k.shape[2]))
        mask = self._kept_mask(q, k, operands[3], operands[4] is not None)
        if self._explicit(needs, q, v):
            every = (TensorType(type_.dtype, (*q.shape[:2], *type_.shape[2:])) for type_ in (k, v))
            keys, values = every
            shared = q.shape[1] != k.shape[1]
            hidden = () if mask is None else (mask.with_dtype(DType.BOOL),)
            if self.softcap is not None:
                return Saved((0,) if shared else (0, 1, 2), own=(scores, scores, *hidden, *((keys, values) * shared)))
            if operands[4] is None:
                hidden = ()  # a mask alone is added as numbers
            return Saved(own=(q, keys, scores, *hidden, *((values,) * shared)), in_order=() if shared else (2,))
        rows = TensorType(DType.F32, q.shape[:3])
        if operands[4] is not None and mask is None:
            return Saved((0, 1, 2, 4), (0,), own=(rows,))
        added = mask if operands[4] is None else scores
        return Saved((0, 1, 2), (0,), own=(rows,) if added is None else (rows, added))

    def _kept_mask(self, q: TensorType, k: TensorType, mask: Operand, biased: bool) -> TensorType | None:
        """The type of all that hides keys, as numbers; None where nothing does, or the kernel's own causal mask."""
        one, square = Dim.const(1), (q.shape[2], k.shape[2])
        if isinstance(mask, TensorType):
            if mask.rank == 4:
                return q.with_shape(mask.shape)
            rows = q.shape[2] if mask.rank == 3 or self.causal or self.window is not None else one
            return q.with_shape((mask.shape[0], one, rows, k.shape[2]))
        own = not biased and self.softcap is None and _square(q, k)
        banded = self.window is not None or (self.causal and not own)
        return q.with_shape(square) if banded else None

    def _explicit(self, needs: Sequence[bool], q: TensorType, v: TensorType) -> bool:
        """Whether torch computes the scores: for a cap, a bias that has a gradient, values of another width."""
        return self.softcap is not None or (len(needs) > 4 and needs[4]) or q.shape[3] != v.shape[3]


_AXES = {"q": ("B", "H", "T", "d"), "k": ("B", "G", "S", "d"), "v": ("B", "G", "S", "e")}


def _covers(
    facts: Facts, type_: TensorType, expected: Sequence[Dim], *, may_be_one: Sequence[int], operand: int, what: str
) -> None:
    """S241 unless every size is the expected one, or a unit where that is allowed."""
    for axis, (found, size) in enumerate(zip(type_.shape, expected, strict=True)):
        if found.unit and axis in may_be_one:
            continue
        proof = facts.equal(found, size)
        if not proof:
            have, want = found.label or str(found), size.label or str(size)
            whole = str(type_.with_shape(tuple(expected)))
            keys = axis == type_.rank - 1
            raise OpError(
                "S221" if isinstance(proof, Unknown) else "S241",
                f"the {what} covers {have} keys, there are {want}"
                if keys
                else f"axis {axis} of {what} is {have}, not {want}",
                operand=operand,
                expected=whole,
                found=str(type_),
                help=f"{what}: {whole}",
                proof=proof,
            )


def _tensor(operand: Operand) -> TensorType:
    assert isinstance(operand, TensorType)
    return operand


def _square(q: TensorType, k: TensorType) -> bool:
    return q.shape[2] == k.shape[2]
