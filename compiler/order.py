"""What may follow from what: the checks that make a settling exact.

A settling runs each event of time once, and in the order of time; then it is
over. That ends in the same state as going through the time tick by tick only
if nothing that was run once would have made a difference the second time:

- an alarm is not armed again by what it brings about (E501);
- a periodic event does the same however often it fell due, or counts by
  `times` and `advance` (E503), and nothing that happens between undoes it;
- a condition's edge does not change that condition again (E503).

Non-goals: exactness. What cannot be shown to be in order is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dsl.diagnostics import Reject, Span
from . import ir, timing
from .analysis import expressions, nodes, walk
from .events import UNTIL, Edge, Event
from .loops import elements
from .verify import children

if TYPE_CHECKING:
    from .elaborate import Unit

ONCE = "this event runs once for all the times it fell due"
MOST_ROUNDS = 1_000
"""Of one settling: how often all alarms together may ring in it."""


@dataclass(frozen=True)
class Consequences:
    """What an event leads to: bodies that run, slots that they read and write."""

    bodies: tuple[str, ...]
    reads: frozenset[str]
    writes: frozenset[str]


class Order:
    """The checks of one device, and how many rounds its settling takes."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.analysis = unit.analysis
        self.edges = unit.events.edges
        self.alarms = {event.alarm: event for event in unit.events.timed if event.alarm}

    def check(self) -> int:
        """E501 or E503 if something is out of order; the most rounds that a settling takes."""
        self.edges[:] = self._ordered()
        for event in self.unit.events.timed:
            if event.following:
                self._check_repeats(event)
                self._check_others(event)
        return self._rounds()

    def after(self, *bodies: str) -> Consequences:
        """What bodies bring about, with the edges that they may cause, and those of these."""
        found = list(bodies)
        writes = frozenset().union(*(self.analysis.of(body).writes for body in found))
        left = list(self.edges)
        while caused := next((e for e in left if self._condition(e) & writes), None):
            left.remove(caused)
            found += [*caused.rises, *caused.falls]
            writes = writes.union(*(self.analysis.of(body).writes for body in (*caused.rises, *caused.falls)))
        reads = frozenset().union(*(self.analysis.of(body).reads for body in found))
        return Consequences(tuple(found), reads, writes)

    def _condition(self, edge: Edge) -> frozenset[str]:
        return self.analysis.of(edge.condition).reads

    # --- edges ---------------------------------------------------------------------

    def _ordered(self) -> list[Edge]:
        """The edges, each behind those that may cause it."""
        causes = {
            id(edge): [e for e in self.edges if self._condition(edge) & self._written(e)]
            for edge in self.edges
        }
        done: list[Edge] = []
        left = list(self.edges)
        while left:
            ready = next((e for e in left if all(c in done for c in causes[id(e)])), None)
            if ready is None:
                edge = next((e for e in left if e in causes[id(e)]), left[0])
                what = (
                    "changes its own condition"
                    if edge in causes[id(edge)]
                    else "comes about by what it changes"
                )
                raise Reject("E503", f"this event {what}", edge.span,
                             "change that where the access is served, in the register's write")  # fmt: skip
            left.remove(ready)
            done.append(ready)
        return done

    def _written(self, edge: Edge) -> frozenset[str]:
        return frozenset().union(*(self.analysis.of(body).writes for body in (*edge.rises, *edge.falls)))

    # --- alarms ---------------------------------------------------------------------

    def _arms(self, event: Event) -> list[Event]:
        """The alarms that an event arms, once for each statement that does."""
        stores = (s for body in self.after(event.body).bodies for s in self._stores(body))
        return [
            self.alarms[s.slot] for s in stores if s.slot in self.alarms and s.value != ir.Const(ir.NEVER)
        ]

    def _rounds(self) -> int:
        """How often all events together may run in one settling."""
        arms = {id(event): self._arms(event) for event in self.alarms.values()}
        rings: dict[int, int] = {}

        def ring(event: Event, path: tuple[str, ...]) -> int:
            if event.alarm in path:
                names = [f"'{alarm}'" for alarm in path[path.index(event.alarm) :]]
                turn = (
                    f"{' and '.join(names)} arm each other" if len(names) > 1 else f"{names[0]} arms itself"
                )
                raise Reject(
                    "E501",
                    f"{turn}, so a guest could make it ring for ever",
                    event.span,
                    "what is periodic, and caught up by division, is a counter that toggles or reaches",
                )
            if id(event) not in rings:
                by = [other for other in self.alarms.values() for armed in arms[id(other)] if armed is event]
                rings[id(event)] = 1 + sum(ring(other, (*path, event.alarm)) for other in by)
            return rings[id(event)]

        total = sum(
            (ring(event, ()) if event.alarm else 1) * len(elements(event.scope))
            for event in self.unit.events.timed
        )
        if total > MOST_ROUNDS:
            most = max(self.alarms.values(), key=lambda event: rings[id(event)])
            raise Reject("E501", f"alarms that arm alarms may ring {total} times in one settling", most.span,
                         "let fewer alarms arm others")  # fmt: skip
        return total

    # --- periodic events --------------------------------------------------------------

    def _check_repeats(self, event: Event) -> None:
        """A periodic event is run once for all its times: that must be the same."""
        after = self.after(event.body)
        for body in after.bodies:
            for statement, expr in self._looked_at(body):
                if self._looks_at_time(expr, event):
                    raise Reject(
                        "E503",
                        f"{ONCE}, and here it looks at the time",
                        _line(statement, event.span),
                        "times(PERIOD) says how often it fell due; let it set what an alarm needs",
                    )
        if any(self._is_elapsed(e, event) for body in after.bodies for e in self._expressions(body)):
            self._check_steps(event, after)
            return
        slots = {slot for body in after.bodies for slot in self._changed_from_itself(body, after)}
        if "rises" in slots:
            raise Reject("E503", f"{ONCE}, and gives one pulse", event.span,
                         "pulse LINE by times(PERIOD), which says how often it fell due")  # fmt: skip
        if slots:
            raise Reject("E503", f"{ONCE}, and '{min(slots)}' changes each time", event.span,
                         "times(PERIOD) says how often: n = wrap(n + times(PERIOD))")  # fmt: skip

    def _check_steps(self, event: Event, after: Consequences) -> None:
        """What takes several steps at once is followed by nothing that would see each of them."""
        stores = [s for body in after.bodies for s in self._stores(body) if s.slot != "rises"]
        steps = {s.slot for s in stores if not isinstance(s.value, ir.Const) and not _sets_bits(s)}
        for edge in self.edges:
            if seen := self._condition(edge) & steps:
                raise Reject("E503", f"{ONCE}, and '{min(seen)}' may take several steps at once", event.span,
                             f"the event in line {edge.span.line} would see only the last")  # fmt: skip
        for drive in self.unit.lines.drives:
            if seen := self.analysis.of(drive.function).reads & steps:
                raise Reject(
                    "E503",
                    f"{ONCE}, and '{min(seen)}' may take several steps at once",
                    event.span,
                    f"line '{drive.line.name}' would follow only the last: pulse it by times(PERIOD)",
                )

    def _check_others(self, event: Event) -> None:
        """No other event changes, between its times, what a periodic one works on."""
        mine, due = self.after(event.body), self._due(event)
        for other in self.unit.events.timed:
            if other is event or self.unit.events.exclusive(event, other):
                continue
            writes = self.after(other.body).writes
            both = {s for s in writes & mine.writes if not self._agree(s, event, other)}
            rhythm = writes & (due | mine.reads - mine.writes) | both
            if rhythm:
                raise Reject("E503", "another event changes what this periodic one works on", event.span,
                             f"'{min(rhythm)}' is written in line {other.span.line} too")  # fmt: skip

    def _due(self, event: Event) -> frozenset[str]:
        """What the instant depends on: the counter, and whether it runs."""
        reads = self.analysis.of(event.following).reads
        for counter, _, condition in self.unit.settling.counters:
            if condition is not None and counter.on in reads:
                reads |= self.analysis.of_expr(condition).reads
        return reads

    def _agree(self, slot: str, *events: Event) -> bool:
        """Whether all that events store in a slot is one constant, or a bit set, or a count up."""
        stores = [
            s
            for e in events
            for body in self.after(e.body).bodies
            for s in self.unit.events.stores(slot, body)
        ]
        values = {s.value for s in stores}
        setting = all(isinstance(v, ir.Binary) and v.op in ("or", "and", "addw") for v in values)
        return setting or (len(values) == 1 and isinstance(next(iter(values)), ir.Const))

    def _changed_from_itself(self, body: str, after: Consequences) -> Iterator[str]:
        """The slots whose new value depends on the old one: not those that only have bits set or cleared."""
        read: set[str] = set()
        for statement, expr in self._looked_at(body):
            if isinstance(statement, ir.Store) and _sets_bits(statement) and expr is statement.value:
                continue
            read |= self.analysis.of_expr(expr).reads
        yield from read & after.writes - {"attention"}

    # --- what bodies look at -------------------------------------------------------------

    def _statements(self, function: str) -> Iterator[ir.Stmt]:
        """Every statement of a function and of those that it does."""
        for statement in walk(self.unit.functions[function].body):
            yield statement
            if isinstance(statement, ir.Do):
                yield from self._statements(statement.call.function)

    def _stores(self, function: str) -> Iterator[ir.Store]:
        return (s for s in self._statements(function) if isinstance(s, ir.Store))

    def _looked_at(self, function: str) -> Iterator[tuple[ir.Stmt, ir.Expr]]:
        """Every expression that a function evaluates, but for calls of procedures themselves."""
        for statement in self._statements(function):
            if isinstance(statement, ir.Do):
                yield from ((statement, argument) for argument in statement.call.args)
            else:
                yield from ((statement, expr) for expr in expressions(statement))

    def _expressions(self, function: str) -> Iterator[ir.Expr]:
        for _, expr in self._looked_at(function):
            yield from nodes(expr)

    def _is_elapsed(self, expr: ir.Expr, event: Event) -> bool:
        return event.clock is not None and expr == timing.elapsed(event.clock, UNTIL)

    def _looks_at_time(self, expr: ir.Expr, event: Event) -> bool:
        """Whether a value depends on the instant, other than by `times` and `advance`."""
        if self._is_elapsed(expr, event) or expr == UNTIL:
            return False
        if isinstance(expr, (ir.Now, ir.Ticks)):
            return True
        if isinstance(expr, ir.Call) and self.analysis.of(expr.function).time:
            return True
        return any(self._looks_at_time(child, event) for child in children(expr))


def _sets_bits(store: ir.Store) -> bool:
    """s = s | x, or s & x: the same however often."""
    value = store.value
    if not isinstance(value, ir.Binary) or value.op not in ("or", "and"):
        return False
    old = ir.Load(store.slot, store.index, value.left.type)
    rest = [n for n in nodes(value.right) if isinstance(n, ir.Load) and n.slot == store.slot]
    return value.left == old and not rest


def _line(statement: ir.Stmt, span: Span) -> Span:
    line = statement.line if isinstance(statement, ir.Store) else 0
    return Span(line, 1, line, 2) if line else span
