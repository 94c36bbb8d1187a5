"""Instances: modules with what the elaborator knows of them beyond the IR."""

from __future__ import annotations

from dataclasses import dataclass, field

from specc.diagnostics import Size
from specc.dims import Dim, Fact, Facts
from specc.elaborate.scopes import Scope
from specc.elaborate.values import BlockDecl
from specc.ir.graph import Member, Module
from specc.source import Span
from specc.syntax import ast


@dataclass(frozen=True, eq=False)
class Absence:
    """A member that this configuration does not have: what `if` left it out."""

    span: Span
    cond: Span
    sizes: tuple[Size, ...] = ()  # the names in the condition, with what they were


@dataclass(eq=False)
class Instance:
    """A module with what the elaborator knows beyond the IR: its scope, dims, methods, and what is absent."""

    decl: BlockDecl
    module: Module
    scope: Scope
    dims: dict[str, Dim]
    facts: Facts = Facts.EMPTY
    stated: dict[Fact, Span] = field(default_factory=dict)  # the facts of its `dim` lines
    members: dict[str, Member] = field(default_factory=dict)
    methods: dict[str, ast.Method] = field(default_factory=dict)
    absent: dict[str, Absence] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # members already reported
    parts: int = 1  # parts and parameters after expansion
    elements: int = 0
