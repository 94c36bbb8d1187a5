"""What does not fit: refusals of shape rules and declared types, told with places, origins and counter-examples."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from specc.diagnostics import Label, Size
from specc.dims import Dim, Proof, Refuted
from specc.elaborate.access import Access
from specc.elaborate.attributes import OpCall
from specc.elaborate.signatures import Unifier
from specc.elaborate.values import Fail, show
from specc.ir.graph import (
    Argument,
    Submodule,
)
from specc.op import OpError
from specc.source import Span
from specc.types import TensorType


def counter_example(proof: Proof | None) -> str:
    """Sizes at which a claim fails; constants that differ are no news."""
    return str(proof) if isinstance(proof, Refuted) and proof.env else ""


def valued(type_: TensorType) -> str:
    """A type with the values of its static sizes: `Tensor[B, T, 768]`."""
    return str(type_.with_shape(tuple(d if d.value is None else d.plain() for d in type_.shape)))


class Mismatches(Access):
    """The part of a body's checker that holds types against each other."""

    def explained(self, call: OpCall, error: OpError, types: list[Any], span: Span) -> Fail:
        """A shape rule's refusal with places, the origins of the sizes, and the counter-example."""
        spans = call.spans
        index = error.operand if isinstance(error.operand, int) and error.operand < len(spans) else None
        primary = spans[index] if index is not None else call.places.get(str(error.operand), span)
        label = self.shown(types[index]) if index is not None else ""
        others = tuple(
            Label(s, self.shown(t))
            for i, (s, t) in enumerate(zip(spans, types, strict=False))
            if i != index and isinstance(t, TensorType) and s.start != primary.start
        )
        rows: dict[str, Size] = {}
        for type_ in types:
            if isinstance(type_, TensorType):
                rows.update((row.name, row) for row in self.size_rows(type_))
        told = error.code == "S200"  # the message and the labels say it
        return self.fail(
            error.code,
            self.named(error.message),
            primary,
            label,
            others=others[:3],
            sizes=tuple(rows.values()),
            help=self.named(error.help) or self.promise(types),
            expected="" if told else self.named(error.expected),
            found="" if told else self.named(error.found),
            counter_example=counter_example(error.proof),
        )

    def promise(self, types: list[Any]) -> str:
        """The divisibility that would make two operands fit, if there is one."""
        tensors = [t for t in types if isinstance(t, TensorType)]
        for left, right in pairwise(tensors):
            for a, b in zip(left.shape, right.shape, strict=False):
                fact = self.facts.suggestion(a, b) if a.value is None and b.value is None and a != b else None
                if fact is not None:
                    return f"promise it on the model:  dim {fact}      (checked at the entry, exported as a constraint)"
        return ""

    def shown(self, type_: Any) -> str:
        return "" if type_ is None else self.named(str(type_))

    def named(self, text: str) -> str:
        """A text with the names of defined dims: `S` for `T + past(T)`."""
        for name, dim in self.scope.dims.items():
            if dim.value is None and not dim.is_symbol():
                text = text.replace(str(dim), name)
        return text

    def hyper_rows(self, argument: Argument, axis: int, member: Submodule | None) -> tuple[Size, ...]:
        """Origin of the callee's hyper-parameter that its signature names on this axis."""
        label = argument.type.shape[axis].label
        if member is None or label is None:
            return ()
        binding = self.elab.instance_of(member.module).scope.find(label)
        return (Size(label, show(binding.value), binding.origin),) if binding is not None else ()

    def remedy(self, label: str | None, want: int, have: Dim, member: Submodule | None) -> str:
        """What was most likely meant: a part that makes one of the other and is never called, or sizes swapped."""
        if member is None or label is None:
            return ""
        bodies = " ".join(method.body.span.text for method in self.instance.methods.values()) if self.instance else ""
        for name, part in self.instance.members.items() if self.instance else ():
            sizes = {value for _, value, _ in part.args} if isinstance(part, Submodule) else set()
            if {want, have.value} <= sizes and not re.search(rf"\b{name}\b", bodies):
                return f"`{name}` is never called:  {name}: {part.span.text}   ({part.span.where})"
        written = {name: (value, text) for name, value, text in member.args if text is not None}
        other = next((name for name, (_, text) in written.items() if have.label in (text, f"self.{text}")), None)
        if other is None or label not in written:
            return ""
        first, second = sorted((label, other), key=list(written).index)
        texts = {label: written[other][1], other: written[label][1]}
        return (
            f"if its sizes are swapped:  {member.module.name}({first} = {texts[first]}, {second} = {texts[second]}, ..)"
        )

    def expected_type(self, argument: Argument, unifier: Unifier) -> TensorType:
        return argument.type.with_shape(tuple(unifier.resolve(d, {}) for d in argument.type.shape))

    def check_type(self, have: TensorType, want: TensorType, span: Span, declared: Span, *, what: str) -> None:
        """A value against a declared type of this body (S201, S202, S220, S221, S301)."""
        others = (Label(declared, "declared here"),)
        if have.rank != want.rank:
            raise self.fail(
                "S202",
                f"{what} has {have.rank} axes, {want.rank} are declared",
                span,
                str(have),
                others=others,
                expected=str(want),
                found=str(have),
            )
        if have.dtype is not want.dtype:
            message = f"{what} is {have.dtype.spec_name}, {want.dtype.spec_name} is declared"
            raise self.fail("S301", message, span, str(have), others=others, expected=str(want), found=str(have))
        for i, (a, b) in enumerate(zip(have.shape, want.shape, strict=True)):
            proof = self.facts.equal(a, b)
            if not proof:
                message = f"{what} has {a} on axis {i}, {b} is declared"
                rows = tuple(dict.fromkeys((*self.size_rows(have), *self.size_rows(want))))
                if a.value is not None and b.value is not None:
                    raise self.fail(
                        "S201", message, span, str(have), others=others, sizes=rows, expected=str(want), found=str(have)
                    )
                raise self.unequal(message, span, str(have), b, a, proof, others=others, sizes=rows)

    def unequal(
        self,
        message: str,
        span: Span,
        label: str,
        want: Dim,
        have: Dim,
        proof: Proof,
        *,
        others: tuple[Label, ...],
        sizes: tuple[Size, ...],
    ) -> Fail:
        """S220 with a counter-example, or S221 with the fact that would settle it."""
        fact = self.facts.suggestion(want, have)
        help = (
            f"promise it on the model:  dim {fact}      (checked at the entry, exported as a constraint)"
            if fact
            else ""
        )
        message, label = self.named(message), self.named(label)
        if isinstance(proof, Refuted):
            return self.fail(
                "S220", message, span, label, others=others, sizes=sizes, counter_example=str(proof), help=help
            )
        return self.fail(
            "S221",
            f"{message}: not provable",
            span,
            label,
            others=others,
            sizes=sizes,
            help=help or "state a fact: dim ..",
        )
