"""What plans have to report, one message per cause: repetitions folded, with the rule that would settle it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from specc.diagnostics import Collector, Diagnostic, Edit, Label, Severity
from specc.source import Span
from specc.weights.layout import Expr, Permute, Read, TensorInfo, show
from specc.weights.names import fold, generalize, template
from specc.weights.rules import Rule, Section, section_path

MAX_GROUPS = 8  # of one kind; the rest is counted

_T = TypeVar("_T")


@dataclass(frozen=True)
class Mismatch:
    """A model tensor that what was found for it does not fit. `problem` is empty if the shape is all."""

    names: tuple[str, ...]
    rule: Rule | None
    info: TensorInfo
    problem: str
    value: Expr | None = None


@dataclass(frozen=True)
class Findings:
    """Reports to the collector about one section (and one file, if `file` names it); of the weights that a training
    begins with, if `training`.
    """

    section: Section
    collector: Collector
    file: str = ""
    training: bool = False

    def report(
        self,
        code: str,
        message: str,
        span: Span | None,
        label: str = "",
        *,
        help: str = "",
        edits: tuple[Edit, ...] = (),
        others: tuple[Label, ...] = (),
        severity: Severity = "error",
        note: str = "",
        **notes: str,
    ) -> None:
        path = section_path(self.section.node, self.file)
        if span is None and label:  # nothing in a spec to stand beside
            notes = {**notes, "why": "; ".join(filter(None, (label, notes.get("why"))))}
        rows = tuple((key, text) for key, text in notes.items() if text)
        finding = Diagnostic(
            code, message, span, label, others, path, (), rows, help, edits if help else (), note, severity
        )
        self.collector.add(finding)

    def at(self, rule: Rule | None) -> Span | None:
        """The rule's left side; without a rule, the section's source."""
        if rule is not None:
            return rule.node.left[0].span.to(rule.node.left[-1].span)
        return self.section.node.sources[0].span if self.section.node is not None else None

    def addition(self, rule: str) -> tuple[Edit, ...]:
        """The edit that adds a line to the section, before its closing brace."""
        node = self.section.node
        if node is None:
            return ()
        text, close = node.span.source.text, node.span.end - 1
        start = text.rfind("\n", 0, close) + 1
        if text[start:close].strip() == "":
            return (Edit(Span(node.span.source, start, start), f"  {rule}\n"),)
        separator = " " if text[:close].rstrip().endswith("{") else "; "
        return (Edit(Span(node.span.source, close, close), f"{separator}{rule} "),)

    # ---- W301, W305: shapes ------------------------------------------------------------------------------------------

    def wrong_shape(self, mismatches: Iterable[Mismatch]) -> None:
        def key(m: Mismatch) -> Hashable:
            return (
                m.rule,
                template(m.names[0]),
                m.info.shape,
                m.problem and template(m.problem),
                m.value and m.value.shape,
            )

        for group in grouped(mismatches, key):
            first = group[0]
            names = ", ".join(fold(name for m in group for name in m.names))
            model = show(first.info.shape)
            if first.info.formula not in ("", model):
                model += f" = {first.info.formula}"
            if first.problem or first.value is None:
                span = first.rule.node.right.span if first.rule is not None else self.at(None)
                kind = "wrong type in the file for" if first.value is not None else "the rule does not fit"
                self.report("W301", f"{kind} {names}", span, first.problem, found=f"model {model}")
                continue
            turned = first.value.shape == first.info.shape[::-1] and len(first.info.shape) == 2
            help, edits = self._transposed(first.rule, [n for m in group for n in m.names]) if turned else ("", ())
            if self.training and not turned:
                part = first.names[0].rpartition(".")[0] or first.names[0]
                help = f'fresh = ["{part}"]  in the train section draws it anew'
            self.report(
                "W301",
                f"wrong shape in the file for {names}",
                self.at(first.rule),
                f"model {model};  file {show(first.value.shape)}",
                why="the file has the axes in reverse order, as [in, out] weights of Conv1D layers" if turned else "",
                help=help,
                edits=edits,
            )

    def _transposed(self, rule: Rule | None, names: Sequence[str]) -> tuple[str, tuple[Edit, ...]]:
        if rule is not None:
            if rule.transposes:
                return "leave `transpose` out", ()
            end = rule.node.right.span.end
            return "append  |> transpose", (Edit(Span(rule.node.span.source, end, end), " |> transpose"),)
        pattern = generalize(names)
        text = f'"{pattern}" = "{pattern}" |> transpose'
        return (text, self.addition(text)) if pattern else ("", ())

    def square(
        self, sources: Mapping[str, Expr], rules: Mapping[str, Rule | None], model: Mapping[str, TensorInfo]
    ) -> None:
        """Square matrices taken as they are, beside transposed ones (W305)."""
        turned: dict[tuple[str, ...], set[Rule | None]] = {}
        for name, source in sources.items():
            if isinstance(source, Permute) and isinstance(source.x, Read) and source.axes == (1, 0):
                turned.setdefault(_neighbourhood(name), set()).add(rules[name])
        suspects = [
            name
            for name, source in sources.items()
            if isinstance(source, Read)
            and len(source.shape) == 2
            and source.shape[0] == source.shape[1] > 1
            and _neighbourhood(name) in turned
        ]
        for group in grouped(suspects, lambda name: (rules[name], template(name))):
            name = group[0]
            count = len(turned[_neighbourhood(name)])
            self.report(
                "W305",
                f"{', '.join(fold(group))} is square; its shape cannot prove its orientation",
                self.at(rules[name]),
                show(model[name].shape),
                why=f"{count} neighbouring rule{'s are' if count > 1 else ' is'} transposed",
                help='expect hf("..") ~= torch     in a test section settles it',
                severity="warning",
            )

    # ---- W310, W311: what is left over -------------------------------------------------------------------------------

    def unused(self, tensors: Mapping[str, Read], mapped: int, total: int) -> None:
        """File tensors without a use, by the names that rules use."""
        groups = grouped(tensors, lambda name: (template(name), tensors[name].shape))
        for group in groups[:MAX_GROUPS]:
            names, count = ", ".join(fold(group)), len(group)
            pattern = generalize(group)
            help = f'ignore "{pattern}"' if pattern and self.section.node is not None else ""
            what = f"{count} file tensors have no use" if count > 1 else "a file tensor has no use"
            self.report(
                "W310",
                f"{what}: {names} {show(tensors[group[0]].shape)}",
                self.at(None),
                help=help,
                edits=self.addition(help),
                note=f"{mapped} of {total} tensors are mapped",
            )
        self._rest("W310", "file tensors have no use", groups)

    def no_source(
        self,
        missing: Sequence[tuple[str, Rule | None, str]],
        model: Mapping[str, TensorInfo],
        unused: Mapping[str, Read],
    ) -> set[str]:
        """Model tensors that nothing of the file makes: (name, rule, the name that was looked for in the file).

        Returns the unused tensors that are named as what may have been meant: nothing more is to be said of them.
        """
        named: set[str] = set()
        groups = grouped(missing, lambda m: (m[1], template(m[0]), model[m[0]].shape))
        for group in groups[:MAX_GROUPS]:
            names = [name for name, _, _ in group]
            rule, info = group[0][1], model[names[0]]
            what = f"{len(names)} model tensors have no source" if len(names) > 1 else "a model tensor has no source"
            candidates = [c for c in grouped(unused, template) if len(c) == len(names) and _fits(unused[c[0]], info)]
            named.update(name for c in candidates[:4] for name in c)
            self.report(
                "W311",
                f"{what}: {', '.join(fold(names))} {show(info.shape)}",
                self.at(rule),
                f"the file has no {', '.join(fold(want for _, _, want in group))}" if rule is not None else "",
                help=self._source_help(names, rule, info, candidates, unused),
                found=", ".join(f"{', '.join(fold(c))} {show(unused[c[0]].shape)}" for c in candidates[:4]),
            )
        self._rest("W311", "model tensors have no source", groups)
        return named

    def _source_help(
        self,
        names: Sequence[str],
        rule: Rule | None,
        info: TensorInfo,
        candidates: Sequence[Sequence[str]],
        unused: Mapping[str, Read],
    ) -> str:
        """The rule that would give these tensors one, if it can be told."""
        if self.section.node is None:
            return ""
        own = generalize(names)
        if rule is None and len(candidates) == 1 and own is not None:
            theirs = generalize(candidates[0])
            if theirs is not None and theirs.count("{") == own.count("{"):
                turn = " |> transpose" if unused[candidates[0][0]].shape != info.shape else ""
                return f'"{own}" = "{theirs}"{turn}'
        return f'fresh "{own}"     if they are to be initialised' if own is not None and not candidates else ""

    def _rest(self, code: str, what: str, groups: Sequence[Sequence[object]]) -> None:
        rest = sum(len(group) for group in groups[MAX_GROUPS:])
        if rest:
            self.report(code, f"{rest} more {what}, of {len(groups) - MAX_GROUPS} other kinds", self.at(None))

    # ---- W312: twice -------------------------------------------------------------------------------------------------

    def mapped_twice(self, first: Rule, second: Rule, names: Sequence[str]) -> None:
        self.report(
            "W312",
            f"{', '.join(fold(names))} is mapped twice",
            self.at(second),
            others=_first(self.at(first), "mapped here first"),
            help="delete one of the rules",
        )

    def used_twice(
        self, tensor: str, first: Rule | None, first_names: Sequence[str], second: Rule | None, names: Sequence[str]
    ) -> None:
        """A file tensor that two bindings read."""
        both = f"{', '.join(first_names)} and {', '.join(names)}"
        others = _first(self.at(first), "used here first") if first is not None and first is not second else ()
        self.report(
            "W312",
            f"the file's {tensor} is used twice: for {both}",
            self.at(second or first),
            others=others,
            help="a `tie` in the model, if both are one parameter",
        )

    def same_name(self, first: str, second: str, name: str) -> None:
        """Two file tensors that `rename`, `strip` or `add` give one name."""
        self.report("W312", f"the file's {first} and {second} are both {name} here", self.at(None))

    def no_such_tensor(self, rule: Rule, name: str) -> None:
        self.report("W340", f"the rule gives {name}, which the model does not have", self.at(rule))


def grouped(items: Iterable[_T], key: Callable[[_T], Hashable]) -> list[list[_T]]:
    """Items by key, in the order of first appearance."""
    groups: dict[Hashable, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _first(span: Span | None, text: str) -> tuple[Label, ...]:
    return (Label(span, text),) if span is not None else ()


def _fits(tensor: Read, info: TensorInfo) -> bool:
    return tensor.shape in (info.shape, info.shape[::-1])


def _neighbourhood(name: str) -> tuple[str, ...]:
    """The layer a tensor belongs to: its path up to the last number, or up to two segments above its own."""
    segments = name.split(".")
    numbers = [i for i, segment in enumerate(segments) if segment.isdigit()]
    return tuple(segments[: numbers[-1] + 1] if numbers else segments[:-2])
