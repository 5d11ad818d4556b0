"""The same statements for every element of a block array: unrolled if few, else a loop."""

from __future__ import annotations

from collections.abc import Callable

from . import arithmetic as a
from . import ir
from .entities import Place
from .scope import Scope

UNROLLED = 4
"""Arrays of up to this many elements are unrolled: their code is shorter than a loop's setup saves."""


def elements(scope: Scope) -> list[Place]:
    """Every element of a scope's block array, as constant indices."""
    if scope.index is None:
        return [()]
    return [(ir.Const(i),) for i in range(scope.index[1])]


def for_each(scope: Scope, name: str, body: Callable[[Place, str], list[ir.Stmt]]) -> list[ir.Stmt]:
    """`body(place, tag)` for each element; `tag` makes the names of its locals its own."""
    places = elements(scope)
    if len(places) <= UNROLLED:
        return [statement for i, place in enumerate(places) for statement in body(place, f"{name}.{i}")]
    return repeat(len(places), name, lambda index: body((index,), name))


def repeat(count: int, name: str, body: Callable[[ir.Expr], list[ir.Stmt]]) -> list[ir.Stmt]:
    """`body(index)` for 0 to count - 1, as a loop."""
    variable = ir.Var(f"{name}.at", ir.Range(0, count))
    index = ir.Narrow(variable, ir.Range(0, count - 1))
    step = ir.Let(variable.name, a.add(index, a.TRUE))
    return [ir.Let(variable.name, a.FALSE), ir.Repeat(count, (*body(index), step))]
