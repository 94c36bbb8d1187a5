"""Settings of a `train` section that name parts: `freeze`, `no_decay`, `fresh`, `lora` (LANGUAGE 16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Edit
from specc.elaborate.names import available, closest, counted, fold
from specc.elaborate.values import describe, show
from specc.ir.graph import Model, Module, Submodule, dotted
from specc.ir.initial import path_pattern
from specc.ir.members import aliases, parameters, walk_members
from specc.syntax import ast
from specc.syntax.unparse import unparse

if TYPE_CHECKING:
    from specc.elaborate.training import TrainChecker

ADAPTED = ("torch.nn.Linear", "torch.nn.Embedding", "torch.nn.Conv1d", "torch.nn.Conv2d")
"""Classes that LoRA has a form for."""

LORA = ("rank", "alpha", "dropout", "targets")
_PEFT = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}

_PARTS = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "c_proj",
    "query": "q_proj",
    "value": "v_proj",
}


@dataclass(frozen=True)
class Parts:
    """The parts of a model by path. `adapted`: those that LoRA can adapt; `tied`: those that it could, if their weight
    were not another one's, too.
    """

    modules: Mapping[str, Module]
    adapted: tuple[str, ...]
    tied: tuple[str, ...]

    @staticmethod
    def of(model: Model) -> Parts:
        found = {dotted(p): m.module for p, m, _ in walk_members(model.module) if isinstance(m, Submodule)}
        ties = aliases(model.module)
        shared = {name.rpartition(".")[0] for name in (*ties, *ties.values())}
        able = [path for path, module in found.items() if module.torch_class in ADAPTED]
        return Parts(found, tuple(p for p in able if p not in shared), tuple(path for path in able if path in shared))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter, or a part that it is in, has a name of one of these patterns."""
    return any(path_pattern(pattern).fullmatch(part) for pattern in patterns for part in _within(name))


def _within(name: str) -> list[str]:
    """A parameter's name, and those of all that it is in: `h`, `h.0`, `h.0.weight`."""
    pieces = name.split(".")
    return [".".join(pieces[:n]) for n in range(1, len(pieces) + 1)]


def targeted(parts: Parts, patterns: Sequence[str]) -> list[str]:
    """The parts that `lora` adapts."""
    return [path for path in parts.adapted if any(path_pattern(p).fullmatch(path) for p in patterns)]


def check_parts(checker: TrainChecker) -> None:
    """Every pattern matches something (T505), `lora` has its arguments (E120 E124 E125), `freeze` leaves it (T506)."""
    settings, parts = checker.settings, Parts.of(checker.model)
    names = list(parameters(checker.model.module))
    prefixes = list(dict.fromkeys(part for name in names for part in _within(name)))
    for kind, strings, candidates, shown in (
        ("freeze", settings.get("freeze"), prefixes, names),
        ("no_decay", keyword(settings.get("optim"), "no_decay"), prefixes, names),
        ("adamw", keyword(settings.get("optim"), "adamw"), prefixes, names),
        *(("group", patterns, prefixes, names) for patterns in _grouped(settings.get("optim"))),
        ("fresh", settings.get("fresh"), prefixes, names),
        ("targets", keyword(settings.get("lora"), "targets"), parts.adapted, parts.adapted),
    ):
        for text in strings_in(strings):
            if not any(path_pattern(text.value).fullmatch(name) for name in candidates):
                checker.elab.collector.add(_nothing(checker, kind, text, candidates, shown, parts).diagnostic)
    lora = settings.get("lora")
    if isinstance(lora, ast.Call):
        with checker.elab.collecting():
            _check_lora(checker, lora)
        _check_frozen(checker, lora, parts)


def _nothing(
    checker: TrainChecker, kind: str, text: ast.Str, candidates: Sequence[str], shown: Sequence[str], parts: Parts
) -> Any:
    """T505, with what the pattern may have meant and what it did match."""
    targets = kind == "targets"
    other = [path for path in parts.modules if targets and path_pattern(text.value).fullmatch(path)]
    why = _unfit(other, parts)
    last = text.value.rpartition(".")[2]
    guess = None if other else closest(_PARTS.get(last, last), {n.rpartition(".")[2] for n in candidates})
    fixed = f'"{text.value[: len(text.value) - len(last)]}{guess}"' if guess else ""
    what = "part" if targets else "parameter"
    total = counted(len(shown), "part" if targets else "parameter")
    return checker.place.fail(
        "T505",
        f"`{kind}` pattern matches no {what}{' that LoRA adapts' if other else ''}: {unparse(text)}",
        text.span,
        help=f"did you mean {fixed}?" if fixed else "",
        edits=(Edit(text.span, fixed),) if fixed else (),
        why=why,
        available=f"{available(fold(shown)) or 'none'} ({total}{' that LoRA adapts' if targets else ''})",
    )


def _unfit(paths: Sequence[str], parts: Parts) -> str:
    """Why LoRA adapts none of these parts."""
    if not paths:
        return ""
    tied = [path for path in paths if path in parts.tied]
    if tied:
        return f"the weight of {available(fold(tied))} is tied to another part's, which would change with it"
    kinds = ", ".join(dict.fromkeys(parts.modules[path].name for path in paths))
    classes = ", ".join(name.rpartition(".")[2] for name in ADAPTED)
    return f"{available(fold(paths))} is of {kinds}; LoRA adapts {classes}"


def _check_lora(checker: TrainChecker, call: ast.Call) -> None:
    """The arguments of `lora(..)`."""
    given: dict[str, ast.Expr] = {}
    for at, arg in enumerate(call.args):
        if not isinstance(arg, ast.Arg):
            raise checker.place.fail("E120", "`*` has nothing to pass on in a train section", arg.span)
        name = arg.name.id if arg.name is not None else LORA[at] if at < len(LORA) else ""
        if name not in LORA:
            span = arg.name.span if arg.name is not None else arg.span
            message = f"lora has no argument `{name}`" if name else f"lora takes {len(LORA)} arguments"
            raise checker.place.no_such("E120", message, span, name, LORA, meant=_PEFT.get(name))
        given[name] = arg.value
    for name in ("rank", "alpha", "targets"):
        if name not in given:
            help = 'lora(rank = 8, alpha = 16, targets = ["*.query"])'
            raise checker.place.fail("E124", f"lora needs `{name}`", call.span, help=help)
    for name, value in given.items():
        found = checker.place.value(value)
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        expected = {
            "rank": "an int of at least 1",
            "alpha": "a number above 0",
            "dropout": "a number from 0 up to, not including, 1",
            "targets": "a list of patterns",
        }[name]
        fits = {
            "rank": number and isinstance(found, int) and found >= 1,
            "alpha": number and found > 0,
            "dropout": number and 0 <= found < 1,
            "targets": isinstance(found, tuple) and bool(found) and all(isinstance(p, str) for p in found),
        }[name]
        if not fits:
            message = f"lora: `{name}` is {expected}, found {describe(found)}"
            raise checker.place.fail("E125", message, value.span, expected=expected, found=show(found))


def _check_frozen(checker: TrainChecker, lora: ast.Call, parts: Parts) -> None:
    """T506 for a pattern of `freeze` that names a part which `lora` adapts."""
    patterns = [text.value for text in strings_in(keyword(lora, "targets"))]
    adapted = targeted(parts, patterns)
    for text in strings_in(checker.settings.get("freeze")):
        both = [path for path in adapted if matches(f"{path}.weight", (text.value,))]
        if both:
            checker.elab.collector.add(
                checker.place.fail(
                    "T506",
                    f"`freeze` names what `lora` adapts: {available(fold(both))}",
                    text.span,
                    why="with `lora`, only the adapters and what is fresh are trained; the rest is frozen unasked",
                    help=f"leave {unparse(text)} out, or adapt other parts",
                ).diagnostic
            )


def keyword(expr: ast.Expr | None, name: str) -> ast.Expr | None:
    """The value of a keyword argument."""
    args = expr.args if isinstance(expr, ast.Call) else ()
    return next((a.value for a in args if isinstance(a, ast.Arg) and a.name is not None and a.name.id == name), None)


def _grouped(optimiser: ast.Expr | None) -> Iterator[ast.Expr]:
    """The patterns of an optimiser's groups."""
    groups = keyword(optimiser, "groups")
    for group in groups.elements if isinstance(groups, ast.ListExpr) else ():
        if isinstance(group, ast.Call):
            first = next((a.value for a in group.args if isinstance(a, ast.Arg) and a.name is None), None)
            found = keyword(group, "patterns") or first
            yield from () if found is None else (found,)


def strings_in(expr: ast.Expr | None) -> Iterator[ast.Str]:
    """The strings of a list, or the one that there is."""
    for item in expr.elements if isinstance(expr, ast.ListExpr) else (expr,):
        if isinstance(item, ast.Str):
            yield item
