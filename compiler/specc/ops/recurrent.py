"""Recurrent layers over [B, T, n], with torch's weights: gates stacked along axis 0 of w_ih, w_hh, b_ih and b_hh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from specc.dims import Dim, Facts
from specc.op import Cost, Emitter, Handle, Op, OpError, Saved, Step, Tensor, TorchText
from specc.ops import expect
from specc.types import DType, TensorType

_LSTM = '''
def lstm(
    x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, *biases: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One LSTM layer over x [B, T, n]: outputs [B, T, m], last h and c [B, m]."""
    if torch.compiler.is_exporting():  # where torch.lstm would be unrolled for one T
        from torch._higher_order_ops.scan import scan

        b_ih, b_hh = biases or (None, None)

        def step(
            states: tuple[torch.Tensor, ...], x: torch.Tensor
        ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
            i, f, g, o = (x + F.linear(states[0], w_hh, b_hh)).chunk(4, dim=-1)
            c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            return (h, c), h.clone()

        (h, c), ys = scan(step, (h, c), F.linear(x, w_ih, b_ih).transpose(0, 1))
        return ys.transpose(0, 1), h, c
    weights = (w_ih, w_hh, *biases)
    states = h[None], c[None]
    layers, dropout, train, both_ways, batch_first = 1, 0.0, False, False, True
    options = bool(biases), layers, dropout, train, both_ways, batch_first
    ys, h, c = torch.lstm(x, states, weights, *options)
    return ys, h[0], c[0]
'''
_GRU = '''
def gru(
    x: torch.Tensor, h: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, *biases: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One GRU layer over x [B, T, n]: outputs [B, T, m], last h [B, m]."""
    if torch.compiler.is_exporting():  # where torch.gru would be unrolled for one T
        from torch._higher_order_ops.scan import scan

        b_ih, b_hh = biases or (None, None)

        def step(h: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            xr, xz, xn = x.chunk(3, dim=-1)
            hr, hz, hn = F.linear(h, w_hh, b_hh).chunk(3, dim=-1)
            z = (xz + hz).sigmoid()
            h = (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h
            return h, h.clone()

        h, ys = scan(step, h, F.linear(x, w_ih, b_ih).transpose(0, 1))
        return ys.transpose(0, 1), h
    weights = (w_ih, w_hh, *biases)
    layers, dropout, train, both_ways, batch_first = 1, 0.0, False, False, True
    options = bool(biases), layers, dropout, train, both_ways, batch_first
    ys, h = torch.gru(x, h[None], weights, *options)
    return ys, h[0]
'''


class _Recurrent(Op):
    """What lstm and gru share. `gates`: for each gate of ONNX's order, its place in torch's."""

    gates: ClassVar[tuple[int, ...]]

    def _check(
        self,
        facts: Facts,
        along: Dim,
        x: TensorType,
        states: Sequence[TensorType],
        weights: Sequence[TensorType],
        biases: Sequence[TensorType | None],
    ) -> TensorType:
        """Returns the type of a state; S201, S202, S221, S301."""
        expect.rank(x, ("B", "T", "n"), operand=0, what="x")
        expect.floating(x, operand=0, what="x")
        expect.size(facts, x.shape[1], along, operand=0, what="axis 1 of x", code="S230")
        expect.rank(states[0], ("B", "m"), operand=1, what="h")
        hidden = states[0].shape[1]
        rows = len(self.gates) * hidden
        first = 1 + len(states)
        shapes: list[tuple[str, int, TensorType, tuple[Dim, ...]]] = []
        for place, (what, state) in enumerate(zip("hc", states, strict=False), 1):
            shapes.append((what, place, state, (x.shape[0], hidden)))
        shapes.append(("w_ih", first, weights[0], (rows, x.shape[2])))
        shapes.append(("w_hh", first + 1, weights[1], (rows, hidden)))
        if (biases[0] is None) != (biases[1] is None):
            raise OpError("S141", "b_ih and b_hh must be given both or not at all", operand=first + 3)
        for what, place, bias in zip(("b_ih", "b_hh"), (first + 2, first + 3), biases, strict=True):
            if bias is not None:
                shapes.append((what, place, bias, (rows,)))
        for what, place, type_, sizes in shapes:
            expect.shape(facts, type_, sizes, operand=place, what=what)
            expect.same_dtype(type_, x.dtype, operand=place, what=what)
        if hidden.value is None:
            raise OpError("S201", f"the state's size must be known at compile time, found {hidden}", operand=1)
        return states[0]

    def stepwise(self, step: Step, *operands: TensorType | None) -> None:
        """Along the step it goes on from its states, if they are carried."""

    def _recurrence(
        self,
        emit: Emitter,
        op_type: str,
        x: Handle,
        states: Sequence[Handle],
        weights: Sequence[Handle],
        biases: Sequence[Handle | None],
        **attributes: Any,
    ) -> tuple[Handle, ...]:
        """ONNX's operator works on [T, B, n], has an axis for directions, and wants its own order of gates."""
        batch, length, _ = x.type.shape
        size = states[0].type.shape[1]
        hidden, one = size.value, Dim.const(1)
        assert hidden is not None
        order = emit.const([[gate * hidden + i for gate in self.gates for i in range(hidden)]], DType.I64)
        w_ih, w_hh = (emit("Gather", w, order, type=w.type.with_shape((one, *w.type.shape)), axis=0) for w in weights)
        bias = None
        if biases[0] is not None and biases[1] is not None:
            rows = Dim.const(len(self.gates) * hidden)
            parts = [
                emit("Gather", b, order, type=b.type.with_shape((one, rows)), axis=0) for b in biases if b is not None
            ]
            bias = emit("Concat", *parts, type=parts[0].type.with_shape((one, 2 * rows)), axis=1)
        last = x.type.with_shape((one, batch, size))
        outputs = emit.many(
            op_type,
            1 + len(states),
            emit.transpose(x, [1, 0, 2]),
            w_ih,
            w_hh,
            bias,
            None,
            *(emit.unsqueeze(state, [0]) for state in states),
            types=(x.type.with_shape((length, one, batch, size)), *(last for _ in states)),
            hidden_size=hidden,
            **attributes,
        )
        ys = emit.transpose(emit.squeeze(outputs[0], [1]), [1, 0, 2])
        return ys, *(emit.squeeze(state, [0]) for state in outputs[1:])

    def _cost(self, x: TensorType, h: TensorType) -> Cost:
        """Two matrix products per gate and step, and about four element-wise operations."""
        batch, length, features = x.shape
        gates = len(self.gates) * batch * length * h.shape[1]
        products = gates * 2 * (features + h.shape[1])
        return Cost(products + gates * 4, products)

    def backward(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Cost:
        """Of both products two gradients, but of x and of the first state only if they have one."""
        x, h = operands[0], operands[1]
        batch, length, features = x.shape
        gates = len(self.gates) * batch * h.shape[1]
        states = length * 2 if needs[1] else length * 2 - 1
        products = gates * 2 * (length * ((2 if needs[0] else 1) * features) + states * h.shape[1])
        return Cost(products + gates * length * 4, products)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        """The gates and the states of all steps."""
        x, h = operands[0], operands[1]
        steps = x.with_shape((*x.shape[:2], (len(self.gates) + 1) * h.shape[1]))
        return Saved(operands=(0, 1), results=(0,), own=(steps,))


class LSTM(_Recurrent):
    """A long short-term memory layer along T: i, f, o = sigmoid, g = tanh of w_ih x + b_ih + w_hh h + b_hh;
    c = f*c + i*g, h = o*tanh(c).

    x [B, T, n], h and c [B, m], w_ih [4m, n], w_hh [4m, m], b_ih and b_hh [4m], gates in the order i f g o
    -> ys [B, T, m], h [B, m], c [B, m]. Source: torch.nn.LSTM, ONNX LSTM (gate order i o f c).

    example: lstm(x: Tensor[B, T, 3], h: Tensor[B, 4], c: Tensor[B, 4], w_ih: Tensor[16, 3], w_hh: Tensor[16, 4],
        along = T) -> (Tensor[B, T, 4], Tensor[B, 4], Tensor[B, 4])
    """

    name = "lstm"
    gates = (0, 3, 1, 2)
    x: ClassVar[Tensor]
    h: ClassVar[Tensor]
    c: ClassVar[Tensor]
    w_ih: ClassVar[Tensor]
    w_hh: ClassVar[Tensor]
    b_ih: ClassVar[Tensor | None]
    b_hh: ClassVar[Tensor | None]
    along: Dim

    def infer(
        self,
        facts: Facts,
        x: TensorType,
        h: TensorType,
        c: TensorType,
        w_ih: TensorType,
        w_hh: TensorType,
        b_ih: TensorType | None = None,
        b_hh: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        state = self._check(facts, self.along, x, (h, c), (w_ih, w_hh), (b_ih, b_hh))
        return x.with_shape((*x.shape[:2], state.shape[1])), state, c

    def torch(
        self,
        t: TorchText,
        x: str,
        h: str,
        c: str,
        w_ih: str,
        w_hh: str,
        b_ih: str | None = None,
        b_hh: str | None = None,
    ) -> str:
        biases = [b for b in (b_ih, b_hh) if b is not None]
        return f"{t.helper('lstm', _LSTM)}({', '.join([x, h, c, w_ih, w_hh, *biases])})"

    in_onnx = (("LSTM", 1),)

    def onnx(
        self,
        emit: Emitter,
        x: Handle,
        h: Handle,
        c: Handle,
        w_ih: Handle,
        w_hh: Handle,
        b_ih: Handle | None = None,
        b_hh: Handle | None = None,
    ) -> tuple[Handle, ...]:
        return self._recurrence(emit, "LSTM", x, (h, c), (w_ih, w_hh), (b_ih, b_hh))

    def cost(self, results: Sequence[TensorType], x: TensorType, h: TensorType, *others: TensorType | None) -> Cost:
        return self._cost(x, h)


class GRU(_Recurrent):
    """A gated recurrent layer along T: r, z = sigmoid of w_ih x + b_ih + w_hh h + b_hh;
    n = tanh(w_ih x + b_ih + r*(w_hh h + b_hh)); h = (1 - z)*n + z*h.

    x [B, T, n], h [B, m], w_ih [3m, n], w_hh [3m, m], b_ih and b_hh [3m], gates in the order r z n
    -> ys [B, T, m], h [B, m]. Source: torch.nn.GRU, ONNX GRU with linear_before_reset (gate order z r h).

    example: gru(x: Tensor[B, T, 3], h: Tensor[B, 4], w_ih: Tensor[12, 3], w_hh: Tensor[12, 4], b_ih: Tensor[12],
        b_hh: Tensor[12], along = T) -> (Tensor[B, T, 4], Tensor[B, 4])
    """

    name = "gru"
    gates = (1, 0, 2)
    x: ClassVar[Tensor]
    h: ClassVar[Tensor]
    w_ih: ClassVar[Tensor]
    w_hh: ClassVar[Tensor]
    b_ih: ClassVar[Tensor | None]
    b_hh: ClassVar[Tensor | None]
    along: Dim

    def infer(
        self,
        facts: Facts,
        x: TensorType,
        h: TensorType,
        w_ih: TensorType,
        w_hh: TensorType,
        b_ih: TensorType | None = None,
        b_hh: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        state = self._check(facts, self.along, x, (h,), (w_ih, w_hh), (b_ih, b_hh))
        return x.with_shape((*x.shape[:2], state.shape[1])), state

    def torch(
        self, t: TorchText, x: str, h: str, w_ih: str, w_hh: str, b_ih: str | None = None, b_hh: str | None = None
    ) -> str:
        biases = [b for b in (b_ih, b_hh) if b is not None]
        return f"{t.helper('gru', _GRU)}({', '.join([x, h, w_ih, w_hh, *biases])})"

    in_onnx = (("GRU", 1),)

    def onnx(
        self,
        emit: Emitter,
        x: Handle,
        h: Handle,
        w_ih: Handle,
        w_hh: Handle,
        b_ih: Handle | None = None,
        b_hh: Handle | None = None,
    ) -> tuple[Handle, ...]:
        return self._recurrence(emit, "GRU", x, (h,), (w_ih, w_hh), (b_ih, b_hh), linear_before_reset=1)

    def cost(self, results: Sequence[TensorType], x: TensorType, h: TensorType, *others: TensorType | None) -> Cost:
        return self._cost(x, h)
