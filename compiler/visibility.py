"""Which events somebody outside can see: a masked one wakes no host.

An event that changes no line, now or through what follows it, is settled when
the guest next looks. Whether it does is an equation over stored state: a line
differs for what the event would store.

Non-goals: exactness. An event whose effects are not plain is always visible.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from . import arithmetic as a
from . import ir
from .events import Event

if TYPE_CHECKING:
    from .elaborate import Unit

MOST = 3
"""Stored bits of an event on which lines depend; beyond, it is always visible."""


def visible(unit: Unit, event: Event) -> ir.Expr | None:
    """A condition over stored state under which the event shows; None: always."""
    writes = unit.analysis.of(event.body).writes
    if "rises" in writes or writes & _others(unit, event):
        return None
    lines = [part for drive in unit.lines.drives for part in (drive.low, drive.high)]
    read = frozenset().union(*(unit.analysis.of_expr(part).reads for part in lines)) if lines else frozenset()
    stored = sorted(writes & read)
    indexed = any(drive.scope.index is not None for drive in unit.lines.drives)
    plain = all(unit.slots[s].type == ir.BOOL and unit.slots[s].scope.index is None for s in stored)
    if stored and (indexed or not plain or len(stored) > MOST):
        return None
    seen: ir.Expr = a.FALSE
    for values in product(*(_values(unit, event, slot) for slot in stored)):
        given = dict(zip(stored, values, strict=True))
        for part in lines:
            seen = a.either(seen, a.binary("ne", _with(unit, part, given), part))
    return seen


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
        if other is not event:
            found |= {other.due} | (analysis.of(other.following).reads if other.following else frozenset())
    for drive in unit.lines.drives:
        if drive.wave is not None:
            found |= analysis.of(drive.wave.function).reads
    return frozenset(found)
