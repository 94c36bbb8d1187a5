"""`__init__`: the expressions that create parts, lists of parts, groups and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

from specc.backends.torch.labels import Known, Scope
from specc.backends.torch.leaves import Leaf, is_default, leaf_of
from specc.backends.torch.optext import InitText, torch_dtype
from specc.backends.torch.printer import constant, literal, names_in, tidy
from specc.backends.torch.statements import Block, Line, Statement, assign
from specc.backends.torch.weights import initial
from specc.initializers import HELPERS
from specc.ir.graph import Apply, Function, Member, Module, Parameter, PartGroup, PartList, Submodule
from specc.types import DType, TensorType

Variables = Mapping[str, Any]
_DICT_METHODS = frozenset({"clear", "pop", "keys", "items", "values", "update"})


class Classes(Protocol):
    """What construction must know of the other classes of the file."""

    def class_of(self, module: Module) -> str: ...

    def arguments_of(self, module: Module) -> Sequence[str]: ...

    def scope_of(self, module: Module) -> Scope: ...

    def sequential(self, parts: PartList) -> bool: ...

    def helper(self, name: str, source: str) -> str: ...


class Constructor:
    """The members of one module as statements of `__init__`."""

    def __init__(self, module: Module, scope: Scope, classes: Classes) -> None:
        self.module, self.scope, self.classes = module, scope, classes

    def statements(self) -> list[Statement]:
        done: list[Statement] = []
        for name, member in self.module.members.items():
            done += self._member(f"self.{name}", "self", name, member)
        return done

    def _member(self, target: str, owner: str, name: str, member: Member) -> list[Statement]:
        if isinstance(member, Parameter):
            return self._parameter(target, owner, name, member)
        expr = self._part(member, {}) if not isinstance(member, PartGroup) else None
        if expr is not None:
            return [assign(target, expr)]
        if isinstance(member, PartGroup):
            done: list[Statement] = [assign(target, "nn.Module()")]
            for inner, item in member.members.items():
                done += self._member(f"{target}.{inner}", target, inner, item)
            return done
        assert isinstance(member, PartList)
        count = len(member.items)
        made = assign(target, f"nn.ModuleList([nn.Module() for _ in range({count})])")
        bodies = [tuple(self._filled("group", item)) for item in member.items]
        if all(body == bodies[0] for body in bodies):
            return [made, Block(f"for group in {target}", bodies[0])]
        return [made, *(s for i, item in enumerate(member.items) for s in self._filled(f"{target}[{i}]", item))]

    def _filled(self, target: str, group: Member) -> list[Statement]:
        assert isinstance(group, PartGroup), "only groups need statements"
        return [
            s for name, member in group.members.items() for s in self._member(f"{target}.{name}", target, name, member)
        ]

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _part(self, member: Member, variables: Variables) -> str | None:
        """The part as an expression; None if it needs statements (a group that holds parameters)."""
        if isinstance(member, Submodule):
            return self._submodule(member, variables)
        if isinstance(member, Function):
            return self._function(member, variables)
        if isinstance(member, PartList):
            return self._list(member, variables)
        if isinstance(member, PartGroup):
            return self._group(member, variables)
        return None

    def _submodule(self, part: Submodule, variables: Variables) -> str:
        leaf = leaf_of(part.module)
        texts = self._texts(part, variables)
        if leaf is not None:
            return tidy(f"nn.{leaf.name}({', '.join(self._leaf_arguments(leaf, part.module, texts))})")
        arguments: list[str] = []
        by_keyword = False
        for name in self.classes.arguments_of(part.module):
            text = texts(name)
            by_keyword = by_keyword or not names_in(text)
            arguments.append(f"{name}={text}" if by_keyword else text)
        return tidy(f"{self.classes.class_of(part.module)}({', '.join(arguments)})")

    def _leaf_arguments(self, leaf: Leaf, module: Module, texts: Callable[[str], str]) -> list[str]:
        values = {h.name: h.value for h in module.hypers}
        arguments = []
        for hyper, keyword, _ in leaf.arguments:
            value = values[hyper]
            if value is None or (isinstance(value, bool) and is_default(leaf, hyper, value)):
                continue
            text = literal(value) if isinstance(value, bool) else texts(hyper)
            if keyword and is_default(leaf, hyper, value) and not names_in(text):
                continue
            arguments.append(f"{keyword}={text}" if keyword else text)
        return arguments

    def _texts(self, part: Submodule, variables: Variables) -> Callable[[str], str]:
        """How a hyper-parameter of a part is written here: by its label, as its default derives, or as a literal.

        Asked for one by one, because what is written down becomes an argument of this class.
        """
        given = {name: (value, label) for name, value, label in part.args}
        inner = self.classes.scope_of(part.module)

        def text(name: str) -> str:
            hyper = inner.hypers[name]
            value, label = given.get(name, (hyper.value, None))
            found = self.scope.init(label, value, variables)
            if found is None and hyper.label is not None:
                found = inner.over(hyper.label, hyper.value, text)
            return found if found is not None else literal(hyper.value)

        return text

    def _function(self, function: Function, variables: Variables) -> str:
        """A named function in a list. Where calls do not go through the element, it only holds the place."""
        text = None
        if function.op is not None:
            node = Apply(function.op, (), (), function.span, function.labels)
            text = function.op.module(InitText(node, self.scope, self.classes.helper, variables))
        return tidy(text or "nn.Identity()")

    def _list(self, parts: PartList, variables: Variables) -> str | None:
        sequential = self.classes.sequential(parts)
        container = "nn.Sequential" if sequential else "nn.ModuleList"
        needs = self.scope.needs()
        comprehension = self._comprehension(parts, variables)
        if comprehension is None:
            self.scope.restore(needs)
        if comprehension is not None:
            return tidy(f"{container}({'*' if sequential else ''}[{comprehension}])")
        items = [
            self._part(item, {**variables, **known})
            for item, known in zip(parts.items, self._known(parts), strict=True)
        ]
        if any(item is None for item in items):
            return None
        inner = ", ".join(_with_runs([item for item in items if item is not None]))
        return tidy(f"{container}({inner})" if sequential else f"{container}([{inner}])")

    def _known(self, parts: PartList) -> list[dict[str, Any]]:
        """For each element, the values of the loop variables of the comprehension that the spec wrote."""
        values = self.scope.values(parts.iterable)
        if parts.names is None or values is None or len(values) != len(parts.items):
            return [{}] * len(parts.items)
        unpacked = [(value,) if len(parts.names) == 1 else value for value in values]
        return [{n: Known(v) for n, v in zip(parts.names, one, strict=True)} for one in unpacked]

    def _comprehension(self, parts: PartList, variables: Variables) -> str | None:
        """`Layer(dim) for _ in range(layers)` if one text makes every element."""
        if parts.names is None or not parts.items:
            return None
        values = self.scope.values(parts.iterable)
        if values is None or len(values) != len(parts.items):
            return None
        texts = set()
        for value, item in zip(values, parts.items, strict=True):
            unpacked = (value,) if len(parts.names) == 1 else value
            inner = {**variables, **dict(zip(parts.names, unpacked, strict=True))}
            texts.add(self._part(item, inner))
        if len(texts) != 1 or None in texts:
            return None
        (text,) = texts
        iterable = self.scope.init(parts.iterable, values)
        if text is None:
            return None
        used = names_in(text)
        names = ", ".join(name if name in used else "_" for name in parts.names)
        return (
            f"{text} for {names} in {iterable or f'range({len(values)})'}"
            if iterable or not used & set(parts.names)
            else None
        )

    def _group(self, group: PartGroup, variables: Variables) -> str | None:
        items = []
        for name, member in group.members.items():
            text = self._part(member, variables)
            if text is None or name in _DICT_METHODS:
                return None
            items.append(f"{constant(name)}: {text}")
        return tidy(f"nn.ModuleDict({{{', '.join(items)}}})")

    # ---- parameters ----------------------------------------------------------------------------------------------

    def _parameter(self, target: str, owner: str, name: str, parameter: Parameter) -> list[Statement]:
        sizes = self._sizes(parameter.type)
        dtype = parameter.type.dtype
        option = "" if dtype is DType.COMPUTE else f"dtype={torch_dtype(dtype)}"
        arguments = self._initial_arguments(parameter)
        value, after = initial(parameter.init, arguments, sizes, option, target)
        if parameter.buffer:
            done: list[Statement] = [Line("", (), tidy(f"{owner}.register_buffer({constant(name)}, {value})"))]
        else:
            done = [assign(target, tidy(f"nn.Parameter({value})"))]
        return done + [Line("", (), tidy(line)) for line in after]

    def _sizes(self, type_: TensorType) -> list[str]:
        return [self.scope.init(d.label, d.value) or str(d.value) for d in type_.shape]

    def _initial_arguments(self, parameter: Parameter) -> dict[str, str]:
        if parameter.init is None:
            return {}
        if parameter.init.name in HELPERS:
            self.classes.helper(parameter.init.name, HELPERS[parameter.init.name])
        labels = parameter.init.labels
        return {k: self.scope.init(labels.get(k), v) or literal(v) for k, v in parameter.init.args.items()}


def _with_runs(items: Sequence[str]) -> list[str]:
    """The elements of a list, three and more equal ones as one comprehension."""
    done: list[str] = []
    for item, run in groupby(items):
        count = len(list(run))
        done += [f"*[{item} for _ in range({count})]"] if count > 2 else [item] * count
    return done
