"""Which events somebody outside can see: a masked one wakes no host.

An event that changes no line, now or through what follows it, is settled when
the guest next looks. Whether it does is an equation over stored state: a line
differs for what the event would store.

Non-goals: exactness. An event whose effects are not plain is always visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from . import arithmetic as a
from . import ir
from .analysis import TooLarge, walk
from .events import Event
from .lines import Drive

if TYPE_CHECKING:
    from .elaborate import Unit

MOST = 3
"""Stored bits of an event on which lines depend; beyond, it is always visible."""


def visible(unit: Unit, event: Event) -> ir.Expr | None:
    """A condition over stored state under which the event shows; None: always."""
    try:
        return _visible(unit, event)
    except TooLarge:
        return None


def _visible(unit: Unit, event: Event) -> ir.Expr | None:
    writes = unit.analysis.of(event.body).writes
    if writes & _others(unit, event):
        return None
    lines = [part for drive in unit.lines.drives for part in (drive.low, drive.high)]
    read = frozenset().union(*(unit.analysis.of_expr(part).reads for part in lines)) if lines else frozenset()
    stored = sorted(writes & read)
    if "rises" in writes or any(unit.slots[slot].type != ir.BOOL for slot in stored):
        return _by_paths(unit, event, stored)
    indexed = any(drive.scope.index is not None for drive in unit.lines.drives)
    plain = all(unit.slots[s].scope.index is None for s in stored)
    if stored and (indexed or not plain or len(stored) > MOST):
        return None
    seen: ir.Expr = a.FALSE
    for values in product(*(_values(unit, event, slot) for slot in stored)):
        given = dict(zip(stored, values, strict=True))
        for part in lines:
            moved = _with(unit, part, given)
            if moved != part:
                seen = a.either(seen, a.binary("ne", moved, part))
    return seen


def _by_paths(unit: Unit, event: Event, stored: list[str]) -> ir.Expr | None:
    """The conditions on the ways to the event's pulses, and to its one store that a line reads."""
    if len(stored) > 1 or any(drive.scope is not event.scope for drive in _drives(unit, stored)):
        return None
    seen: ir.Expr = a.FALSE
    for condition, store in _paths(unit, unit.functions[event.body].body, {}, a.TRUE):
        if condition is None:
            return None
        effects = unit.analysis.of_expr(condition)
        if effects.time or effects.reads & unit.analysis.of(event.body).writes:
            return None
        if store.slot in stored:
            if unit.analysis.of_expr(store.value).time or unit.slots[store.slot].scope.index is not None:
                return None
            condition = a.both(condition, _moves(unit, store))
        elif store.slot != "rises":
            continue
        seen = a.either(seen, condition)
    return seen


def _drives(unit: Unit, stored: list[str]) -> list[Drive]:
    parts = ((drive, unit.analysis.of_expr(drive.low).reads | unit.analysis.of_expr(drive.high).reads)
             for drive in unit.lines.drives)  # fmt: skip
    return [drive for drive, reads in parts if reads & set(stored)]


def _moves(unit: Unit, store: ir.Store) -> ir.Expr:
    """Whether a line of the same element is another one after the store."""

    def replace(node: ir.Expr) -> ir.Expr | None:
        return store.value if isinstance(node, ir.Load) and node.slot == store.slot else None

    moved: ir.Expr = a.FALSE
    for drive in _drives(unit, [store.slot]):
        for part in (drive.low, drive.high):
            moved = a.either(moved, a.binary("ne", unit.analysis.inline(part, replace), part))
    return moved


def _paths(
    unit: Unit, block: ir.Block, names: dict[str, ir.Expr], reached: ir.Expr
) -> Iterator[tuple[ir.Expr | None, ir.Store]]:
    """Every store of a block and its callees, with the condition to reach it (None: not known)."""

    def value(expr: ir.Expr) -> ir.Expr:
        return unit.analysis.inline(
            expr, lambda node: names.get(node.name) if isinstance(node, ir.Var) else None
        )

    for statement in block:
        match statement:
            case ir.Let():
                names = {**names, statement.name: value(statement.value)}
            case ir.Store():
                yield reached, ir.Store(statement.slot, statement.index, value(statement.value))
            case ir.If():
                test = value(statement.test)
                yield from _paths(unit, statement.then, names, a.both(reached, test))
                yield from _paths(unit, statement.orelse, names, a.both(reached, a.negate(test)))
            case ir.Do():
                callee = unit.functions[statement.call.function]
                given = (value(argument) for argument in statement.call.args)
                inner = dict(zip((name for name, _ in callee.params), given, strict=True))
                yield from _paths(unit, callee.body, inner, reached)
            case _:
                yield from ((None, store) for store in walk((statement,)) if isinstance(store, ir.Store))


def _with(unit: Unit, line: ir.Expr, given: dict[str, int]) -> ir.Expr:
    """A line's level, if these slots had these values."""

    def replace(node: ir.Expr) -> ir.Expr | None:
        known = isinstance(node, ir.Load) and node.slot in given
        return ir.Const(given[node.slot]) if known and isinstance(node, ir.Load) else None

    return unit.analysis.inline(line, replace)


def _values(unit: Unit, event: Event, slot: str) -> list[int]:
    """What the event's body may store in a bit."""
    stores = [store.value for store in unit.events.stores(slot, event.body)]
    return (
        sorted({v.value for v in stores if isinstance(v, ir.Const)})
        if all(isinstance(v, ir.Const) for v in stores)
        else [0, 1]
    )


def _others(unit: Unit, event: Event) -> frozenset[str]:
    """The slots through which the event could bring about something else."""
    analysis = unit.analysis
    found: set[str] = set()
    for edge in unit.events.edges:
        found |= analysis.of(edge.condition).reads
    for _, _, condition in unit.settling.counters:
        if condition is not None:
            found |= analysis.of_expr(condition).reads
    for watch in unit.settling.watches:
        found |= analysis.of_expr(watch.value).reads
    for other in unit.events.timed:
        if other is not event and not unit.events.exclusive(event, other):
            found |= {other.due} | (analysis.of(other.following).reads if other.following else frozenset())
    for drive in unit.lines.drives:
        if drive.wave is not None:
            found |= analysis.of(drive.wave.function).reads
    return frozenset(found)
