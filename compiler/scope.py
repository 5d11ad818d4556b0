"""Names and where they are known; what is known where an expression stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Union

from ..dsl import tree as t
from ..dsl.diagnostics import Diagnostics, Reject, Span
from . import ir
from .entities import (
    ClockDef,
    ConstDef,
    E,
    Entity,
    EnumDef,
    LocalDef,
    Place,
    Poisoned,
    Ref,
    TypeInfo,
    Value,
)


@dataclass
class Scope:
    """Names of the file, the device, a block or a body, innermost first."""

    diagnostics: Diagnostics
    parent: Scope | None = None
    names: dict[str, Entity] = field(default_factory=dict)
    index: tuple[str, int] | None = None  # of a block array: parameter name, count
    prefix: str = ""  # of slots and functions

    def define(self, entity: Entity) -> None:
        """Add a name; E102 if this scope or one around it has it."""
        self.check_free(entity.name, entity.span)
        self.names[entity.name] = entity

    def define_local(self, name: t.Ident, expr: ir.Expr) -> None:
        self.define(LocalDef(name.text, name.span, Value(expr)))

    def check_free(self, name: str, span: Span) -> None:
        """E102 if this scope or one around it has the name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                first, second = sorted((scope.names[name].span, span), key=lambda s: (s.line, s.column))
                raise Reject("E102", f"'{name}' is defined already, in line {first.line}", second,
                             "choose another name")  # fmt: skip
            scope = scope.parent

    def declared(self, name: t.Ident, kind: type[E]) -> E | None:
        """What this very declaration defined; None if it was refused."""
        entity = self.names.get(name.text)
        return entity if isinstance(entity, kind) and entity.span == name.span else None

    def find(self, name: str, span: Span) -> Entity:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                entity = scope.names[name]
                scope.diagnostics.used.add(entity.span)
                if isinstance(entity, ConstDef) and isinstance(entity.value.nominal, EnumDef):
                    scope.diagnostics.used.add(entity.value.nominal.span)
                if isinstance(entity, Poisoned):
                    raise Reject()
                return entity
            scope = scope.parent
        raise Reject("E101", f"'{name}' is not defined", span, self.suggestion(name))

    def suggestion(self, name: str) -> str:
        from difflib import get_close_matches

        known: list[str] = []
        scope: Scope | None = self
        while scope is not None:
            known += scope.names
            scope = scope.parent
        close = get_close_matches(name, known, 1)
        return f"did you mean '{close[0]}'?" if close else ""

    def poison(self, name: str, span: Span) -> None:
        """Uses of the name are silent, unless an earlier declaration has it."""
        if name not in self.names or self.names[name].span == span:
            self.names[name] = Poisoned(name, span)

    @property
    def place(self) -> Place:
        if self.index is None:
            return ()
        name, count = self.index
        return (ir.Var(name, ir.Range(0, count - 1)),)

    @property
    def parameters(self) -> tuple[tuple[str, ir.Range], ...]:
        """The index parameter of functions of this scope."""
        if self.index is None:
            return ()
        return ((self.index[0], ir.Range(0, self.index[1] - 1)),)

    def use(self, name: str) -> None:
        """The name is used, though by no reference of its own."""
        if name in self.names:
            self.diagnostics.used.add(self.names[name].span)


@dataclass
class Context:
    """Where an expression or statement stands."""

    scope: Scope
    place: Place
    pure: bool = True  # an equation: no effects, no calls of procedures
    statement: bool = False
    facts: dict[ir.Expr, ir.Range] = field(default_factory=dict)
    out: list[ir.Stmt] = field(default_factory=list)
    result: TypeInfo | None = None  # of a register's read
    settled: ClockDef | None = None  # in a time event's body: its clock
    written: list[ir.Stmt] | None = None  # in a register's write: what `store` stands for
    line: int = 0
    memo: dict[tuple[int, TypeInfo | None], Value] = field(default_factory=dict)  # of Expressions.value
    _wiser: dict[frozenset[tuple[ir.Expr, ir.Range]], Context] = field(default_factory=dict)

    def knowing(self, facts: dict[ir.Expr, ir.Range]) -> Context:
        """This context, where more is known."""
        if not facts:
            return self
        key = frozenset(facts.items())
        if key not in self._wiser:
            self._wiser[key] = replace(self, facts=self._with(facts), memo={}, _wiser={})
        return self._wiser[key]

    def learn(self, facts: dict[ir.Expr, ir.Range]) -> None:
        """More is known from here on."""
        self.facts = self._with(facts)
        self._fresh()

    def forget(self, changed: Callable[[ir.Expr], bool]) -> None:
        """What is known of values that changed no longer holds."""
        self.facts = {k: v for k, v in self.facts.items() if not changed(k)}
        self._fresh()

    def _fresh(self) -> None:
        self.memo, self._wiser = {}, {}

    def _with(self, facts: dict[ir.Expr, ir.Range]) -> dict[ir.Expr, ir.Range]:
        merged = dict(self.facts)
        for key, known in facts.items():
            old = merged.get(key, key.type)
            low, high = max(old.lo, known.lo), min(old.hi, known.hi)
            if low <= high:
                merged[key] = ir.Range(low, high)
        return merged

    def inner(self) -> Context:
        """A nested suite: its own names and statements."""
        scope = Scope(self.scope.diagnostics, self.scope, index=self.scope.index, prefix=self.scope.prefix)
        return replace(self, scope=scope, out=[], facts=dict(self.facts), memo={}, _wiser={})


Resolved = Union[Ref, Value]


def spell(node: t.Expr) -> str:
    """A reference as it was written."""
    match node:
        case t.Name():
            return node.name
        case t.Attribute():
            return f"{spell(node.base)}.{node.name.text}"
        case t.Index():
            index = node.index.value if isinstance(node.index, t.Number) else "?"
            return f"{spell(node.base)}[{index}]"
    raise Reject("E601", "a name is needed here", node.span)
