"""IR by hand, for tests of passes and backends that shall not depend on the elaborator.

The IR's text is a made-up source in which every node has a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specc.dims import Dim, Facts
from specc.ir import graph as ir
from specc.op import Pattern, operators
from specc.source import Source, Span
from specc.types import DType, Scalar, TensorType

B, T = Dim.symbol("B"), Dim.symbol("T")
S = Dim.symbol("past(T)") + T
SOURCE = Source("small.spec", "\n" * 500)


def tensor(*sizes: Dim | int, dtype: DType = DType.COMPUTE) -> TensorType:
    return TensorType(dtype, tuple(Dim.of(size) for size in sizes))


def pattern(left: Sequence[Any], right: Sequence[Any]) -> Pattern:
    """`pattern([B, T, (3, 2)], ...)`: a tuple is a product."""

    def side(axes: Sequence[Any]) -> tuple[tuple[Dim, ...], ...]:
        return tuple(tuple(map(Dim.of, axis if isinstance(axis, tuple) else (axis,))) for axis in axes)

    return Pattern(side(left), side(right))


class Body:
    """A graph under construction; every method adds a node and returns its value."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.arguments: list[ir.Argument] = []
        self.line = 0

    def span(self) -> Span:
        self.line += 1
        return Span(SOURCE, self.line, self.line + 1)

    def value(self, type_: TensorType, name: str | None = None) -> ir.Value:
        return ir.Value(name, type_, self.span())

    def input(
        self, name: str, type_: TensorType, *, optional: bool = False, given: bool = True
    ) -> ir.Value | ir.Absent:
        value = self.value(type_, name) if given else None
        self.arguments.append(ir.Argument(name, type_, optional, value, self.span()))
        return value or ir.Absent(name)

    def read(self, name: str, *sizes: int) -> ir.Value:
        value = self.value(tensor(*sizes), name)
        self.nodes.append(ir.Read((name,), value, value.span))
        return value

    def apply(self, op: str, *inputs: Any, name: str | Sequence[str | None] | None = None, **attributes: Any) -> Any:
        operator = operators()[op](**attributes)
        taken = tuple(i if isinstance(i, (ir.Value, ir.Absent, Scalar)) else Scalar(i) for i in inputs)
        types = [i.type if isinstance(i, ir.Value) else None if isinstance(i, ir.Absent) else i for i in taken]
        inferred = operator.infer(Facts.EMPTY, *types)
        results = inferred if isinstance(inferred, tuple) else (inferred,)
        names = name if isinstance(name, (list, tuple)) else [name] * len(results)
        outputs = tuple(self.value(t, n) for t, n in zip(results, names, strict=True))
        self.nodes.append(ir.Apply(operator, taken, outputs, self.span()))
        return outputs if isinstance(inferred, tuple) else outputs[0]

    def call(
        self,
        graph: ir.Graph,
        path: ir.Path,
        *inputs: Any,
        sizes: Mapping[str, Dim] | None = None,
        name: str | None = None,
    ) -> Any:
        """`sizes`: what the callee's dims are here, where they are not the caller's own."""
        outputs = tuple(
            self.value(TensorType(v.type.dtype, tuple(d.substitute(sizes or {}) for d in v.type.shape)), name)
            for _, v in graph.results
        )
        self.nodes.append(ir.Call(graph, path, tuple(inputs), outputs, self.span()))
        return outputs if len(outputs) > 1 else outputs[0]

    def graph(
        self, module: ir.Module, *results: tuple[str | None, ir.Value], dims: Sequence[str] = ("B", "T")
    ) -> ir.Graph:
        made = ir.Graph(
            module,
            "forward",
            tuple(self.arguments),
            results,
            tuple(self.nodes),
            tuple(dims),
            Facts.EMPTY,
            "",
            self.span(),
        )
        module.graphs["forward", made.present, (), ()] = made
        return made


def module(
    name: str, members: Mapping[str, Any], torch_class: str | None = None, ties: Sequence[ir.Tie] = ()
) -> ir.Module:
    span = Span(SOURCE, 0, 1)
    made: dict[str, ir.Member] = {}
    for key, member in members.items():
        if isinstance(member, TensorType):
            made[key] = ir.Parameter(key, member, None, False, span)
        elif isinstance(member, ir.Module):
            made[key] = ir.Submodule(member, (), span)
        elif isinstance(member, list):
            made[key] = ir.PartList(tuple(ir.Submodule(m, (), span) for m in member), None, None, span)
        else:
            made[key] = member
    return ir.Module(name, "small.spec", (), made, tuple(ties), (), torch_class, "", span)


def linear(inside: int, outside: int) -> ir.Module:
    made = module("Linear", {"weight": tensor(outside, inside), "bias": tensor(outside)}, "torch.nn.Linear")
    body = Body()
    x = body.input("x", tensor(Dim.symbol("...0"), Dim.symbol("...1"), inside))
    y = body.apply("linear", x, body.read("weight", outside, inside), body.read("bias", outside))
    body.graph(made, (None, y), dims=("...0", "...1"))
    return made


def forward(made: ir.Module) -> ir.Graph:
    return next(iter(made.graphs.values()))


def use(body: Body, made: ir.Module, path: ir.Path, x: ir.Value | ir.Absent, name: str | None = None) -> ir.Value:
    """Calls a part of one `[..., d]` argument, which is there."""
    assert isinstance(x, ir.Value)
    axes = {"...0": x.type.shape[0], "...1": x.type.shape[1]}
    value: ir.Value = body.call(forward(made), path, x, sizes=axes, name=name)
    return value


def model(root: ir.Module) -> ir.Model:
    graphs = {graph.present: graph for graph in root.method("forward")}
    return ir.Model("small", "specs/small.spec", None, root, {"forward": ir.Entry("forward", graphs)}, Facts.EMPTY)


def attention(dim: int, heads: int) -> ir.Module:
    """Causal self-attention with three projections, a cache and dropout; `mask` is optional."""
    parts = {part: linear(dim, dim) for part in ("q_proj", "k_proj", "v_proj", "out_proj")}
    made = module("Attention", parts)
    width = dim // heads
    for given in (True, False):
        body = Body()
        x = body.input("x", tensor(B, T, dim))
        mask = body.input("mask", tensor(B, S, dtype=DType.BOOL), optional=True, given=given)
        split = pattern([B, T, (heads, width)], [B, heads, T, width])
        q, k, v = (
            body.apply("rearrange", use(body, parts[f"{n}_proj"], (f"{n}_proj",), x), pattern=split, name=n)
            for n in "qkv"
        )
        k, v = body.apply("cached", k, v, along=T, name=("k", "v"))
        y = body.apply("sdpa", q, k, v, mask, ir.Absent(), causal=True, dropout=0.1, name="y")
        merged = body.apply("rearrange", y, pattern=pattern([B, heads, T, width], [B, T, (heads, width)]))
        out = use(body, parts["out_proj"], ("out_proj",), merged)
        body.graph(made, (None, body.apply("dropout", out, p=0.1)))
    return made


def stack(layers: int = 3, dim: int = 16, heads: int = 2) -> ir.Module:
    """`for layer in layers { x += layer.attn(x, mask) }` with a head that is tied to the first layer's q_proj."""
    part = attention(dim, heads)
    group = [
        ir.PartGroup({"attn": ir.Submodule(part, (), Span(SOURCE, 0, 1))}, Span(SOURCE, 0, 1)) for _ in range(layers)
    ]
    head = linear(dim, dim)
    span = Span(SOURCE, 0, 1)
    made = module(
        "Stack",
        {"layers": ir.PartList(tuple(group), None, None, span), "head": head},
        ties=[ir.Tie(("head", "weight"), ("layers", 0, "attn", "q_proj", "weight"), span)],
    )
    for given in (True, False):
        callee = next(g for g in part.method("forward") if bool(g.present) == given)
        body = Body()
        x = body.input("x", tensor(B, T, dim))
        mask = body.input("mask", tensor(B, S, dtype=DType.BOOL), optional=True, given=given)
        iterations = []
        outer, body.nodes = body.nodes, []
        for i in range(layers):
            y = body.call(callee, ("layers", i, "attn"), x, mask)
            x = body.apply("+", x, y, name="x")
            iterations.append(ir.Iteration(tuple(body.nodes), (("layer", ("layers", i)),)))
            body.nodes = []
        body.nodes = outer
        body.nodes.append(ir.Loop(("layer",), "layers", None, tuple(iterations), body.span()))
        body.graph(made, ("logits", use(body, head, ("head",), x)))
    return made
