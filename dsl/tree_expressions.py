"""The syntax tree's nodes of names, types, expressions and patterns (dsl/tree.py has the rest)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, Union, dataclass_transform

from .diagnostics import Span

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, eq_default=False)
def node(cls: type[_Class]) -> type[_Class]:
    """A dataclass that the type checker holds to be frozen.

    Freezing and comparing at run time would cost each class another 0.2 ms
    whenever this module is imported, and there are many.
    """
    return dataclass(slots=True, eq=False, repr=False)(cls)


@node
class Node:
    span: Span


@node
class Ident(Node):
    """A name where it is introduced or referred to."""

    text: str


# --- types -----------------------------------------------------------------


@node
class NamedType(Node):
    name: str


@node
class IntervalType(Node):
    lo: int
    hi: int


@node
class EnumType(Node):
    """Part of an enumeration, from one member to another."""

    first: Ident
    last: Ident


Type = Union[NamedType, IntervalType, EnumType]


@node
class Bits(Node):
    high: int
    low: int


# --- expressions -----------------------------------------------------------


@node
class Number(Node):
    value: int


@node
class Truth(Node):
    value: bool


@node
class NowExpr(Node):
    pass


@node
class Name(Node):
    name: str


@node
class Attribute(Node):
    base: Expr
    name: Ident


@node
class Index(Node):
    base: Expr
    index: Expr


@node
class Slice(Node):
    base: Expr
    high: Expr
    low: Expr


@node
class CallExpr(Node):
    function: Expr
    args: tuple[Expr, ...]


@node
class Binary(Node):
    """op: or and == != < <= > >= ++ | ^ & << >> + - * / % **"""

    op: str
    left: Expr
    right: Expr


@node
class Not(Node):
    operand: Expr


@node
class Member(Node):
    value: Expr
    choices: tuple[Expr, ...]


@node
class Conditional(Node):
    then: Expr
    test: Expr
    orelse: Expr


@node
class Take(Node):
    """A latch's value, emptying it: an effect."""

    target: Expr


@node
class Step(Node):
    """A cycle's phase, moving it on: an effect."""

    target: Expr


# --- patterns --------------------------------------------------------------


@node
class RangePattern(Node):
    lo: int
    hi: int


@node
class NamePattern(Node):
    name: str


@node
class AnyPattern(Node):
    pass


Pattern = Union[RangePattern, NamePattern, AnyPattern]


@node
class ExprCase(Node):
    patterns: tuple[Pattern, ...]
    value: Expr


@node
class MatchExpr(Node):
    subject: Expr
    cases: tuple[ExprCase, ...]


Expr = Union[
    Number, Truth, NowExpr, Name, Attribute, Index, Slice, CallExpr, Binary, Not, Member,
    Conditional, Take, Step, MatchExpr,
]  # fmt: skip
