"""What one elaboration shares: findings, files, the path to the instance at hand, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from specc.diagnostics import Collector, Diagnostic
from specc.dims import Dim, DimError, Fact, Facts
from specc.elaborate.blocks import Blocks
from specc.elaborate.bodies import Bodies
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import Files, FileScope, Loader
from specc.elaborate.instances import Instance
from specc.elaborate.scopes import Scope
from specc.elaborate.values import Fail, Poisoned
from specc.source import Span
from specc.syntax import ast

MAX_STEPS = 2_000_000


class Elaborator:
    """One model's elaboration. `std_home` tells which std module exports a name, for import hints."""

    def __init__(self, collector: Collector, loader: Loader, std_home: Callable[[str], str | None]) -> None:
        self.collector = collector
        self.files = Files(loader, collector)
        self.std_home = std_home
        self.blocks = Blocks(self)
        self.bodies = Bodies(self)
        self.sites: list[Span] = []  # the calls and declarations that led here
        self.trail: list[str] = []  # "GPT2", "h.0", "mlp: GPT2MLP"
        self.context = ""  # 'preset "tiny"'
        self.steps = 0
        self._lets: dict[ast.Let, Any] = {}
        self._dims: dict[str, dict[str, Dim]] = {}

    # ---- findings ------------------------------------------------------------------------------------------------

    def where(self) -> str:
        """`in GPT2 > h.0 > mlp: GPT2MLP`"""
        if not self.trail:
            return f"in {self.context}" if self.context else ""
        outer = [segment.split(": ")[0] for segment in self.trail[:-1]]
        if len(outer) > 8:
            outer[4:-2] = [".."]
        path = " > ".join(outer)
        last = self.trail[-1]
        if not path:
            last = last.split(": ")[-1]
        text = f"{path} > {last}" if path else last
        return f"in {self.context} > {text}" if self.context else f"in {text}"

    @contextmanager
    def inside(self, segment: str, site: Span | None = None) -> Iterator[None]:
        """Work on a part, which `site` declares or calls."""
        self.trail.append(segment)
        if site is not None:
            self.sites.append(site)
        try:
            yield
        finally:
            self.trail.pop()
            if site is not None:
                self.sites.pop()

    def site(self) -> Span | None:
        """The innermost place outside the standard library."""
        return next((s for s in reversed(self.sites) if not s.source.name.startswith("std/")), None)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the finding that ends this piece of work, and go on after it."""
        try:
            yield
        except Fail as fail:
            self.collector.add(fail.diagnostic)
        except Poisoned:
            pass

    def step(self, span: Span, count: int = 1) -> None:
        """Count evaluation steps (E192)."""
        before = self.steps
        self.steps += count
        if before <= MAX_STEPS < self.steps:
            raise Fail(Diagnostic("E192", f"evaluation takes more than {MAX_STEPS:,} steps", span, path=self.where()))
        if self.steps > MAX_STEPS:
            raise Poisoned

    # ---- files ---------------------------------------------------------------------------------------------------

    def file_let(self, file: FileScope, let: ast.Let) -> Any:
        """The value of a file-level `let`, evaluated once."""
        if let not in self._lets:
            self._lets[let] = _BUSY
            try:
                self._lets[let] = Evaluator(self, Scope(file, dims=self.file_dims(file))).value(let.value)
            except (Fail, Poisoned):
                self._lets[let] = _BROKEN
                raise
        value = self._lets[let]
        if value is _BUSY:
            raise Fail(Diagnostic("E150", f"`{let.name.id}` is defined by itself", let.name.span))
        if value is _BROKEN:
            raise Poisoned
        return value

    def file_dims(self, file: FileScope) -> dict[str, Dim]:
        """The runtime dims a file declares: name -> symbol, or its definition (`S = past(T) + T`)."""
        if file.key not in self._dims:
            dims: dict[str, Dim] = {}
            self._dims[file.key] = dims
            self.declare_dims(Scope(file, dims=dims), file.dim_items, dims, Facts.EMPTY, {})
        return self._dims[file.key]

    def declare_dims(
        self,
        scope: Scope,
        items: Sequence[ast.Expr | ast.DimDef],
        dims: dict[str, Dim],
        facts: Facts,
        stated: dict[Fact, Span],
    ) -> Facts:
        """Enter the items of `dim` lines into `dims`; returns the facts with those stated."""
        evaluator = Evaluator(self, scope)
        for item in items:
            with self.collecting():
                if isinstance(item, ast.DimDef):
                    dims[item.name.id] = self._definition(evaluator, item)
                elif isinstance(item, ast.Name):
                    if scope.find(item.id) is not None:
                        raise evaluator.fail(
                            "N201", f"`{item.id}` is a hyper-parameter and a dim of the same scope", item.span
                        )
                    dims[item.id] = Dim.symbol(item.id)
                else:
                    before, facts = facts, self._fact(evaluator, item, facts)
                    stated.update((f, item.span) for f in facts.statements() if f not in before.statements())
                    if facts.contradiction is not None and before.contradiction is None:
                        raise evaluator.fail(
                            "S223", f"no sizes satisfy this: {facts.contradiction}", item.span, names=item
                        )
        return facts

    def _definition(self, evaluator: Evaluator, item: ast.DimDef) -> Dim:
        value = evaluator.value(item.value)
        if isinstance(value, bool) or not isinstance(value, (int, Dim)):
            raise evaluator.fail("E112", "a dim is defined by a size", item.value.span)
        return Dim.of(value)

    def _fact(self, evaluator: Evaluator, item: ast.Expr, facts: Facts) -> Facts:
        if not isinstance(item, ast.Compare):
            raise evaluator.fail(
                "E100", "a `dim` line declares names or states facts", item.span, help="dim T <= context, Y % 32 == 0"
            )
        left: Any = item.first
        for op, right in zip(item.ops, item.rest, strict=True):
            facts = self._one_fact(evaluator, item, left, op, right, facts)
            left = right
        return facts

    def _one_fact(
        self, evaluator: Evaluator, item: ast.Expr, left: ast.Expr, op: str, right: ast.Expr, facts: Facts
    ) -> Facts:
        if isinstance(left, ast.Binary) and left.op == "%" and op == "==":
            base, n, rest = evaluator.value(left.left), evaluator.value(left.right), evaluator.value(right)
            if isinstance(base, Dim) and isinstance(n, int) and n > 0 and rest == 0:
                return facts.divisible(base, n)
            raise evaluator.fail("E100", "a divisibility fact is `D % n == 0` with an int n > 0", item.span)
        a, b = evaluator.value(left), evaluator.value(right)
        flip = {"<=": ">=", ">=": "<=", "<": ">", ">": "<", "==": "=="}
        if isinstance(a, int) and isinstance(b, Dim) and op in flip:
            a, op, b = b, flip[op], a
        if not isinstance(a, Dim) or not isinstance(b, int) or isinstance(b, bool) or op not in flip:
            raise evaluator.fail("E100", "a fact compares a dim with a compile-time int", item.span, names=item)
        low = {">=": b, ">": b + 1, "==": b}.get(op)
        high = {"<=": b, "<": b - 1, "==": b}.get(op)
        try:
            return facts.bound(a, low, high)
        except DimError as error:
            raise evaluator.fail("S223", str(error), item.span, names=item) from None

    def instance_of(self, module: object) -> Instance:
        return self.blocks.by_module[id(module)]


_BUSY = object()
_BROKEN = object()
