"""FLOPs of an ONNX node that multiplies matrices, from the shapes of its values; a multiply-add counts as two."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from specc.dims import Dim, DimError
from specc.inspect.formulas import Formula

if TYPE_CHECKING:
    import onnx

Shape = tuple[Dim | None, ...]
"""A size that is not known is None."""

_OPERATORS: dict[type[ast.operator], Callable[[Dim, Dim], Dim]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def dim_of(dim: Any) -> Dim | None:
    """A size of a shape: a number, a name, or a formula over names such as `past + T`; None where it is anonymous."""
    if dim.HasField("dim_value"):
        return Dim.const(dim.dim_value) if dim.dim_value >= 0 else None
    if not dim.dim_param or dim.dim_param.startswith("unk__"):
        return None
    try:
        return _parsed(ast.parse(dim.dim_param.strip(), mode="eval").body)
    except (SyntaxError, DimError, KeyError, RecursionError):
        return Dim.symbol(dim.dim_param)


def _parsed(node: ast.expr) -> Dim:
    if isinstance(node, ast.Name):
        return Dim.symbol(node.id)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Dim.const(node.value)
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_parsed(node.left), _parsed(node.right))
    raise DimError("no formula of sizes")


def flops_of(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Formula:
    """None for what is no product, or has a shape that is not known."""
    rule = _RULES.get(node.op_type)
    if node.op_type == "Attention" and node.domain == "com.microsoft":
        rule = _packed_attention
    if rule is None:
        return None
    known: list[tuple[Dim, ...]] = []
    for name in (*node.input, *node.output):
        shape = shapes.get(name, (None,)) if name else ()
        known.append(tuple(size for size in shape if size is not None) if None not in shape else ())
    try:
        return rule(node, known[: len(node.input)], known[len(node.input) :])
    except (DimError, IndexError, ValueError):  # ValueError: axes that an equation does not have
        return None


Shapes = list[tuple[Dim, ...]]


def _product(sizes: tuple[Dim, ...]) -> Dim:
    found = Dim.const(1)
    for size in sizes:
        found = found * size
    return found


def _needed(*shapes: tuple[Dim, ...]) -> None:
    if not all(shapes):
        raise IndexError


def _matmul(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """By the result's shape only where both operands have axes of batches: exporters name its sizes as they like."""
    second = given[3] if node.op_type == "QLinearMatMul" else given[1]
    _needed(given[0])
    if len(second) == 2:
        return 2 * _product(given[0]) * second[-1]
    _needed(results[0])
    return 2 * _product(results[0]) * given[0][-1]


def _fused_matmul(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    _needed(given[0], given[1])
    turned = {a.name for a in node.attribute if a.name in ("transA", "transB") and a.i}
    if len(given[1]) == 2:
        return 2 * _product(given[0]) * given[1][0 if "transB" in turned else 1]
    _needed(results[0])
    return 2 * _product(results[0]) * given[0][-2 if "transA" in turned else -1]


def _gemm(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    _needed(given[0], results[0])
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * _product(results[0]) * given[0][0 if turned else 1]


def _conv(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """The kernel is [out, in/groups, ..]."""
    _needed(given[1], results[0])
    return 2 * _product(results[0]) * _product(given[1][1:])


def _conv_transpose(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    _needed(given[0], given[1])
    return 2 * _product(given[0]) * _product(given[1][1:])


def _quantised_conv(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """x, its scale and zero point come before the kernel."""
    return _conv(node, [given[0], given[3]], results)


def _recurrent(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """x [T, B, d] or [B, T, d], W [directions, gates*h, d], R [directions, gates*h, h]."""
    x, w, r = given[:3]
    _needed(x, w, r)
    return 2 * x[0] * x[1] * (_product(w) + _product(r))


def _einsum(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """Of two operands, a multiply-add for every combination of the letters."""
    equation: str = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    operands = equation.partition("->")[0].split(",")
    if len(operands) != 2 or "." in equation:
        raise IndexError
    _needed(*given)
    sizes = {
        letter: size
        for text, shape in zip(operands, given, strict=True)
        for letter, size in zip(text, shape, strict=True)
    }
    return 2 * _product(tuple(sizes.values()))


def _attention(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """q [B, H, T, d], k [B, G, S, d], v [B, G, S, e], or three axes with heads as attributes; with a past, before k."""
    q, k, v = given[:3]
    _needed(q, k, v)
    past = given[4] if len(given) > 4 and given[4] else None
    if len(q) == 4:
        keys = k[2] if past is None else k[2] + past[2]
        return 2 * q[0] * q[1] * q[2] * keys * (q[3] + v[3])
    heads: dict[str, int] = {a.name: a.i for a in node.attribute}
    keys = k[1] if past is None else k[1] + past[2]
    groups = heads.get("kv_num_heads", heads.get("q_num_heads", 1))
    wide = heads.get("q_num_heads", 1) * (v[2] // groups)
    return 2 * q[0] * q[1] * keys * (q[2] + wide)


def _bits(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """`MatMulNBits`: K and N are attributes."""
    _needed(given[0])
    sizes: dict[str, int] = {a.name: a.i for a in node.attribute}
    return 2 * _product(given[0]) * sizes["N"]


def _heads(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """`GroupQueryAttention`, `MultiHeadAttention` of [B, T, heads*d], over all keys where these are told."""
    q, k = given[:2]
    _needed(q, k)
    present = next((shape for shape in results[1:] if len(shape) == 4), None)
    keys = present[2] if present is not None else k[1]
    return 4 * q[0] * q[1] * keys * q[2]


def _packed_attention(node: onnx.NodeProto, given: Shapes, results: Shapes) -> Dim:
    """`Attention` of onnxruntime: x [B, T, d], the weights of its three projections [d, 3*h]."""
    x, w = given[:2]
    _needed(x, w)
    return 2 * x[0] * x[1] * x[2] * w[1] + 4 * x[0] * x[1] * x[1] * (w[1] // 3)


_RULES: dict[str, Callable[[Any, Shapes, Shapes], Dim]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "FusedMatMul": _fused_matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _quantised_conv,
    "ConvTranspose": _conv_transpose,
    "Attention": _attention,
    "MatMulNBits": _bits,
    "GroupQueryAttention": _heads,
    "MultiHeadAttention": _heads,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Einsum": _einsum,
}
PRODUCTS = frozenset(_RULES)
"""Operators that multiply matrices: all that FLOPs of a graph are counted of."""
