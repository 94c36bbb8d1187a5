"""Losses: scalars that training makes small, in `when train` and train sections only."""

from __future__ import annotations

from typing import ClassVar

from specc.dims import Facts, Refuted
from specc.op import Emitter, Handle, Op, OpError, Tensor, TorchText
from specc.ops import expect
from specc.types import DType, TensorType


class Loss(Op):
    """A scalar, hence never in a graph for inference."""

    for_training = True

    def onnx(self, emit: Emitter, *operands: Handle) -> Handle:
        raise OpError("B601", f"`{self.name}` is a loss, which a graph for inference has none of")

    def scalar(self, x: TensorType) -> TensorType:
        expect.floating(x, operand=0, what=self.params[0].name)
        return TensorType(x.dtype, ())

    def fits(self, facts: Facts, target: TensorType, want: TensorType) -> None:
        """The target has the type that the prediction asks for (S201, S202, S220, S221, S301)."""
        message = f"{self.name}: the target is {target}, expected {want}"
        expected, found = str(want), str(target)
        if target.rank != want.rank:
            raise OpError("S202", message, operand=1, expected=expected, found=found)
        if target.dtype is not want.dtype and not (target.dtype.is_float and want.dtype.is_float):
            raise OpError("S301", message, operand=1, expected=expected, found=found)
        for have, need in zip(target.shape, want.shape, strict=True):
            proof = facts.equal(have, need)
            if not proof:
                static = have.value is not None and need.value is not None
                code = "S201" if static else "S220" if isinstance(proof, Refuted) else "S221"
                raise OpError(code, message, operand=1, expected=expected, found=found, proof=proof)


class ClassLoss(Loss):
    """A loss of classes on the last axis."""

    def of_classes(self, facts: Facts, x: TensorType, target: TensorType) -> TensorType:
        if x.rank < 2:
            message = f"{self.name}: the classes are the last of at least 2 axes"
            raise OpError("S202", message, operand=0, expected="Tensor[.., C]", found=str(x))
        if target.rank == x.rank and target.dtype.is_float and self.name == "cross_entropy":
            self.fits(facts, target, x)
        else:
            self.fits(facts, target, TensorType(DType.I64, x.shape[:-1]))
        return self.scalar(x)

    def rows(self, t: TorchText, x: str, target: str) -> list[str]:
        """Predictions as [rows, classes], targets as one class (or a row of probabilities) for each."""
        types = [o for o in t.operands[:2] if isinstance(o, TensorType)]
        if types[0].rank == 2:
            return [x, target]
        return [f"{x}.flatten(0, -2)", f"{target}.flatten({'0, -2' if types[1].rank == types[0].rank else ''})"]

    def weighted(self, facts: Facts, x: TensorType, weight: TensorType | None) -> None:
        if weight is not None:
            expect.floating(weight, operand=2, what="weight")
            expect.shape(facts, weight, x.shape[-1:], operand=2, what="weight")


class CrossEntropy(ClassLoss):
    """The mean over rows of -log softmax(logits)[target]; classes on the last axis.

    The target is a class for each row, or a row of probabilities. Rows whose target is `ignore_index` do not count.
    With `weight`, one number for each class, the mean is weighted by that of the target.

    example: cross_entropy(logits: Tensor[B, 3], target: Int[B]) -> Tensor[]
    example: cross_entropy(logits: Tensor[B, T, 3], target: Int[B, T], label_smoothing = 0.1, ignore_index = 0)
        -> Tensor[]
    example: cross_entropy(logits: Tensor[B, T, 3], softmax(target: Tensor[B, T, 3], axis = -1)) -> Tensor[]
    example: cross_entropy(logits: Tensor[B, 3], target: Int[B], weight = w: Tensor[3]) -> Tensor[]
    example: cross_entropy(logits: Tensor[B, T, 3], target: Int[B]) -> error S202
    example: cross_entropy(logits: Tensor[B, 3], target: Int[T]) -> error S220
    example: cross_entropy(logits: Tensor[B, 3], target: Tensor[B]) -> error S301
    example: cross_entropy(logits: Tensor[B, 3], target: Int[B], label_smoothing = 1.5) -> error E125
    """

    name = "cross_entropy"
    logits: ClassVar[Tensor]
    target: ClassVar[Tensor]
    label_smoothing: float = 0.0
    ignore_index: int = -100
    weight: ClassVar[Tensor | None]

    def infer(
        self, facts: Facts, logits: TensorType, target: TensorType, weight: TensorType | None = None
    ) -> TensorType:
        share = self.label_smoothing
        message = f"cross_entropy: `label_smoothing` must be in 0 .. 1, found {share}"
        expect.setting(0 <= share <= 1, "label_smoothing", message)
        result = self.of_classes(facts, logits, target)
        self.weighted(facts, logits, weight)
        message = "cross_entropy: `ignore_index` is a class, the target is probabilities"
        expect.setting(self.ignore_index == -100 or not target.dtype.is_float, "ignore_index", message)
        return result

    def torch(self, t: TorchText, logits: str, target: str, weight: str | None = None) -> str:
        given = self.rows(t, logits, target)
        given += [f"{weight}.to({given[0]})" if weight is not None else ""]
        given += [f"label_smoothing={t.attr('label_smoothing')}" if self.label_smoothing else ""]
        given += [f"ignore_index={t.attr('ignore_index')}" if self.ignore_index != -100 else ""]
        return f"F.cross_entropy({', '.join(filter(None, given))})"


class Nll(ClassLoss):
    """The mean over rows of -log_probs[target]; classes on the last axis.

    example: nll(log_softmax(log_probs: Tensor[B, 3], axis = -1), target: Int[B]) -> Tensor[]
    example: nll(log_probs: Tensor[B, T, 3], target: Int[B, T], ignore_index = 1) -> Tensor[]
    example: nll(log_probs: Tensor[B, 3], target: Tensor[B, 3]) -> error S202
    """

    name = "nll"
    log_probs: ClassVar[Tensor]
    target: ClassVar[Tensor]
    ignore_index: int = -100
    weight: ClassVar[Tensor | None]

    def infer(
        self, facts: Facts, log_probs: TensorType, target: TensorType, weight: TensorType | None = None
    ) -> TensorType:
        self.weighted(facts, log_probs, weight)
        return self.of_classes(facts, log_probs, target)

    def torch(self, t: TorchText, log_probs: str, target: str, weight: str | None = None) -> str:
        given = self.rows(t, log_probs, target)
        given += [f"{weight}.to({given[0]})" if weight is not None else ""]
        given += [f"ignore_index={t.attr('ignore_index')}" if self.ignore_index != -100 else ""]
        return f"F.nll_loss({', '.join(filter(None, given))})"


class PairLoss(Loss):
    """A mean over the elements of two tensors of one type."""

    function: ClassVar[str]

    def infer(self, facts: Facts, x: TensorType, y: TensorType) -> TensorType:
        result = self.scalar(x)
        self.fits(facts, y, x)
        return result

    def torch(self, t: TorchText, x: str, y: str) -> str:
        return f"F.{self.function}({x}, {y})"


class BinaryCrossEntropy(PairLoss):
    """The mean of -y log p - (1 - y) log(1 - p), p and y in 0 .. 1.

    example: binary_cross_entropy(sigmoid(p: Tensor[B, 3]), sigmoid(y: Tensor[B, 3])) -> Tensor[]
    example: binary_cross_entropy(p: Tensor[B, 1], y: Tensor[B]) -> error S202
    """

    name = "binary_cross_entropy"
    function = "binary_cross_entropy"
    p: ClassVar[Tensor]
    y: ClassVar[Tensor]


class BinaryCrossEntropyWithLogits(PairLoss):
    """binary_cross_entropy of sigmoid(logits), computed without overflow.

    example: binary_cross_entropy_with_logits(logits: Tensor[B, 3], sigmoid(y: Tensor[B, 3])) -> Tensor[]
    """

    name = "binary_cross_entropy_with_logits"
    function = "binary_cross_entropy_with_logits"
    logits: ClassVar[Tensor]
    y: ClassVar[Tensor]


class Mse(PairLoss):
    """The mean of (x - y)**2.

    example: mse(x: Tensor[B, T], y: Tensor[B, T]) -> Tensor[]
    example: mse(x: Tensor[B, 3], y: Tensor[B, 4]) -> error S201
    example: mse(x: Tensor[B, 3], y: Int[B, 3]) -> error S301
    """

    name = "mse"
    function = "mse_loss"
    x: ClassVar[Tensor]
    y: ClassVar[Tensor]


class L1(PairLoss):
    """The mean of |x - y|.

    example: l1(x: Tensor[B, T], y: Tensor[B, T]) -> Tensor[]
    """

    name = "l1"
    function = "l1_loss"
    x: ClassVar[Tensor]
    y: ClassVar[Tensor]


class Huber(PairLoss):
    """The mean of d**2/2 where d = |x - y| is at most delta, and delta*(d - delta/2) elsewhere (Huber, 1964).

    example: huber(x: Tensor[B, T], y: Tensor[B, T], delta = 0.5) -> Tensor[]
    example: huber(x: Tensor[B, T], y: Tensor[B, T], delta = 0.0) -> error E125
    """

    name = "huber"
    x: ClassVar[Tensor]
    y: ClassVar[Tensor]
    delta: float = 1.0

    def infer(self, facts: Facts, x: TensorType, y: TensorType) -> TensorType:
        expect.setting(self.delta > 0, "delta", f"huber: `delta` must be above 0, found {self.delta}")
        return super().infer(facts, x, y)

    def torch(self, t: TorchText, x: str, y: str) -> str:
        return f"F.huber_loss({x}, {y}, delta={t.attr('delta')})"


class KlDiv(PairLoss):
    """The mean over rows of sum p log(p/q): p and q are probabilities along the last axis, the result is in nats.

    example: kl_div(softmax(p: Tensor[B, T, 3], axis = -1), softmax(q: Tensor[B, T, 3], axis = -1)) -> Tensor[]
    example: kl_div(softmax(p: Tensor[B, 3], axis = -1), softmax(q: Tensor[B, 3], axis = -1)) -> Tensor[]
    """

    name = "kl_div"
    p: ClassVar[Tensor]
    q: ClassVar[Tensor]

    def infer(self, facts: Facts, p: TensorType, q: TensorType) -> TensorType:
        if p.rank < 2:
            raise OpError("S202", "kl_div takes rows of probabilities", operand=0, found=str(p))
        return super().infer(facts, p, q)

    def torch(self, t: TorchText, p: str, q: str) -> str:
        flat = ".flatten(0, -2)" if isinstance(t.operands[0], TensorType) and t.operands[0].rank > 2 else ""
        return f'F.kl_div({q}.log(){flat}, {p}{flat}, reduction="batchmean")'


class Contrastive(Loss):
    """How well each row of square logits tells its column, and each column its row (CLIP; Radford et al., 2021).

    example: contrastive(logits: Tensor[B, B]) -> Tensor[]
    example: contrastive(logits: Tensor[B, T, T]) -> error S202
    example: contrastive(logits: Tensor[B, T]) -> error S220
    """

    name = "contrastive"
    logits: ClassVar[Tensor]

    def infer(self, facts: Facts, logits: TensorType) -> TensorType:
        expect.rank(logits, ("B", "B"), operand=0, what="logits")
        expect.size(facts, logits.shape[1], logits.shape[0], operand=0, what="the number of columns", code="S220")
        return self.scalar(logits)

    def torch(self, t: TorchText, logits: str) -> str:
        return f"{t.helper('contrastive', _CONTRASTIVE)}({logits})"


_CONTRASTIVE = '''\
def contrastive(logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of telling the column of each row and the row of each column, which have one number."""
    own = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
'''


class Ctc(Loss):
    """-log of the probability of a text of unknown alignment (Graves et al., 2006), each row divided by its length.

    `logits` are before the softmax, one row of classes for each of T frames; `target` holds texts, filled up with
    `ignore_index`; `frames` says how many frames of each row count, without it all.

    example: ctc(logits: Tensor[B, T, 4], target: Int[B, 2]) -> Tensor[]
    example: ctc(logits: Tensor[B, T, 4], target: Int[B, 2], frames = pos: Int[B], ignore_index = 0) -> Tensor[]
    example: ctc(logits: Tensor[B, T, 4], target: Int[B, 2], blank = 4) -> error E125
    example: ctc(logits: Tensor[B, T, 4], target: Int[T, 2]) -> error S220
    """

    name = "ctc"
    logits: ClassVar[Tensor]
    target: ClassVar[Tensor]
    blank: int = 0
    ignore_index: int = -100
    frames: ClassVar[Tensor | None]

    def infer(
        self, facts: Facts, logits: TensorType, target: TensorType, frames: TensorType | None = None
    ) -> TensorType:
        expect.rank(logits, ("B", "T", "C"), operand=0, what="logits")
        expect.rank(target, ("B", "N"), operand=1, what="target")
        self.fits(facts, target, TensorType(DType.I64, (logits.shape[0], target.shape[1])))
        if frames is not None:
            expect.indices(frames, operand=2, what="frames")
            expect.shape(facts, frames, logits.shape[:1], operand=2, what="frames")
        classes = logits.shape[2].value
        message = f"ctc: `blank` is one of the classes, found {self.blank}"
        expect.setting(self.blank >= 0 and (classes is None or self.blank < classes), "blank", message)
        return self.scalar(logits)

    def torch(self, t: TorchText, logits: str, target: str, frames: str | None = None) -> str:
        settings = f"{t.attr('blank')}, {t.attr('ignore_index')}"
        return f"{t.helper('ctc', _CTC)}({logits}, {target}, {frames}, {settings})"


_CTC = '''\
def ctc(
    logits: torch.Tensor, target: torch.Tensor, frames: torch.Tensor | None, blank: int, ignored: int
) -> torch.Tensor:
    """Connectionist temporal classification: the mean over rows, each divided by its length."""
    kept = target != ignored
    lengths = kept.sum(-1)
    if frames is None:
        frames = torch.full_like(lengths, logits.shape[1])
    texts, classes = target[kept], logits.shape[-1]
    if bool(((texts < 0) | (texts >= classes)).any()):  # torch would read outside of its tensors
        raise IndexError(f"a class of the texts is not within 0 .. {classes - 1}")
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, texts, frames, lengths, blank).to(logits.dtype)
'''
