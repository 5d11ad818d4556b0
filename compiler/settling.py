"""What keeps a device true: settling before an access, committing after it.

An access first settles (`settle`) what fell due before it, and afterwards
commits (`commit`) what it changed: edges of inputs, counters that start or
stop, lines, the deadline, what Python observes. Each is a constant amount of
work: an event's body runs once a settling however long the guest was away, and
the edges of a wave are counted by division.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..dsl.diagnostics import NOWHERE
from . import arithmetic as a
from . import ir, timing
from .entities import ClockDef, CounterDef, Place, TypeInfo
from .events import NEVER, Edge, Event
from .layout import SlotSpec
from .lines import attention
from .loops import elements, for_each
from .scope import Scope
from .visibility import visible

if TYPE_CHECKING:
    from .elaborate import Unit

DUE = ir.Var("due", ir.U64)


@dataclass
class Watch:
    """A value that a Python part reads: seen last in `slot`."""

    slot: str
    value: ir.Expr
    observer: int | None  # None: a handler's, kept current but nobody is told


class Settling:
    """Builds settle, commit, next, reset and resume of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.watches: list[Watch] = []
        self.rounds = 0  # that one settling takes at most
        self.clocks: list[ClockDef] = []
        self.counters: list[tuple[CounterDef, Scope, ir.Expr | None]] = []
        self.guard = "deadline"
        """The slot that an access compares with Now: the next instant that anything is due."""
        self._shows: dict[str, str] = {}

    def build(self) -> None:
        self._see()
        self.unit.lines.build_levels()
        self._next()
        self._edges()
        self._rebase()
        self._observe()
        self._account()
        for name, refresh in (("follow", False), ("commit", True)):
            self._commit(name, refresh)
        self._settle()
        self._resume()
        self._reset()

    def _see(self) -> None:
        """Find the events that do not always show; the access guard then differs from the deadline."""
        for number, event in enumerate(self._events):
            shows = visible(self.unit, event)
            if shows is not None:
                self._shows[event.due] = f"shows{number}.event"
                parameters, line = event.scope.parameters, event.span.line
                self.unit.function(self._shows[event.due], parameters, ir.BOOL, [ir.Return(shows)], line)
        if self._shows:
            kind = TypeInfo(ir.U64)
            self.guard = self.unit.slot(self.unit.scope, "next due", kind, kind="derived", span=NOWHERE)

    @property
    def _events(self) -> list[Event]:
        return self.unit.events.timed

    def _each_event(self, name: str, body: Callable[[Event, Place, str], list[ir.Stmt]]) -> list[ir.Stmt]:
        """`body(event, place, tag)` for every event of time, in every element of its scope."""
        return [
            statement
            for number, event in enumerate(self._events)
            for statement in for_each(event.scope, f"{name}{number}", partial(body, event))
        ]

    def _least(self, start: ir.Expr) -> list[ir.Stmt]:
        """`due` is the earliest instant of all events, and of `start`."""

        def one(event: Event, place: Place, tag: str) -> list[ir.Stmt]:
            return [ir.Let(DUE.name, a.binary("min", DUE, ir.Load(event.due, place, ir.U64)))]

        return [ir.Let(DUE.name, start), *self._each_event("least", one)]

    def _next(self) -> None:
        """`next`: when the host must wake; `soonest`: when there is anything to settle."""

        def one(event: Event, place: Place, tag: str) -> list[ir.Stmt]:
            due: ir.Expr = ir.Load(event.due, place, ir.U64)
            if event.due in self._shows:
                due = a.cond(ir.Call(self._shows[event.due], place, ir.BOOL), due, NEVER)
            return [ir.Let(DUE.name, a.binary("min", DUE, due))]

        edges = a.least(self.unit.lines.next_edges())
        wake = [ir.Let(DUE.name, edges), *self._each_event("wake", one), ir.Return(DUE)]
        self.unit.function("next", (), ir.U64, wake, exported=True)
        if self._shows:
            self.unit.function("soonest", (), ir.U64, [*self._least(edges), ir.Return(DUE)])

    def _edges(self) -> None:
        """Run the bodies of inputs that rose or fell since they were last looked at."""

        def one(edge: Edge, place: Place, tag: str) -> list[ir.Stmt]:
            seen, was = ir.Var(tag, edge.type), ir.Load(edge.was, place, edge.type)
            store = ir.Store(edge.was, place, seen)
            changed = (
                (*self._bits_changed(edge, place, tag), store)
                if edge.bits
                else (store, *whole(edge, place, seen))
            )
            return [
                ir.Let(seen.name, ir.Call(edge.condition, place, edge.type)),
                ir.If(a.binary("ne", seen, was), changed),
            ]

        def whole(edge: Edge, place: Place, seen: ir.Expr) -> list[ir.Stmt]:
            rose, fell = (
                tuple(ir.Do(ir.Call(body, place, ir.BOOL)) for body in bodies)
                for bodies in (edge.rises, edge.falls)
            )
            return [ir.If(seen, rose, fell)]

        out: list[ir.Stmt] = []
        for number, edge in enumerate(self.unit.events.edges):
            out += for_each(edge.scope, f"seen{number}", partial(one, edge))
        self.unit.function("edges", (), None, out)

    @staticmethod
    def _bits_changed(edge: Edge, place: Place, tag: str) -> list[ir.Stmt]:
        """Hand the bodies the bits of a number that rose, and those that fell."""
        seen, was = ir.Var(tag, edge.type), ir.Load(edge.was, place, edge.type)
        changed = a.binary("xor", seen, was)
        out: list[ir.Stmt] = []
        for bodies, side, of in ((edge.rises, "rose", seen), (edge.falls, "fell", was)):
            bits = ir.Var(f"{tag}.{side}", edge.type)
            calls = tuple(ir.Do(ir.Call(body, (*place, bits), ir.BOOL)) for body in bodies)
            if calls:
                out += [
                    ir.Let(bits.name, a.binary("and", changed, of)),
                    ir.If(a.binary("ne", bits, a.FALSE), calls),
                ]
        return out

    def _conditional(self) -> Iterator[tuple[CounterDef, str, Scope, str, ir.Expr]]:
        """Counters that run while a condition holds: its function `while`, and itself."""
        for counter, scope, condition in self.counters:
            if condition is not None and counter.on is not None:
                yield counter, counter.on, scope, f"{scope.prefix}{counter.name}.while", condition

    def _restart(self, clock: ClockDef) -> list[ir.Stmt]:
        """A clock that starts does so with a tick."""
        assert clock.on is not None
        assert clock.epoch is not None
        runs = ir.Var(f"runs {clock.unit}", ir.BOOL)
        starts = a.both(runs, a.negate(ir.Load(clock.on, (), ir.BOOL)))
        return [
            ir.Let(runs.name, self.unit.declarations.running(clock)),
            ir.If(starts, (ir.Store(clock.epoch, (), ir.Now()),)),
            ir.Store(clock.on, (), runs),
        ]

    def _rebase(self) -> None:
        """Counters whose condition changed hold their value, or count on from it."""

        def one(counter: CounterDef, on: str, function: str, place: Place, tag: str) -> list[ir.Stmt]:
            counts = ir.Var(f"counts.{tag}", ir.BOOL)
            hold = timing.set_counter(counter, place, timing.counter_value(counter, place))
            return [
                ir.Let(counts.name, ir.Call(function, place, ir.BOOL)),
                ir.If(
                    a.binary("ne", counts, ir.Load(on, place, ir.BOOL)),
                    (*hold, ir.Store(on, place, counts)),
                ),
            ]

        out: list[ir.Stmt] = [statement for clock in self.clocks for statement in self._restart(clock)]
        for counter, on, scope, function, condition in self._conditional():
            line = counter.span.line
            self.unit.function(function, scope.parameters, ir.BOOL, [ir.Return(condition)], line)
            out += for_each(scope, counter.base, partial(one, counter, on, function))
        self.unit.function("rebase", (), None, out)

    def _observe(self) -> None:
        out: list[ir.Stmt] = []
        for number, watch in enumerate(self.watches):
            kind = self.unit.slots[watch.slot].type
            seen = ir.Var(f"watch{number}", kind)
            tell: list[ir.Stmt] = [ir.Store(watch.slot, (), seen)]
            if watch.observer is not None:
                bits = a.binary("or", ir.Load("watch", (), ir.U32), ir.Const(1 << watch.observer))
                tell += [ir.Store("watch", (), bits), attention(ir.ATTENTION_WATCH)]
            out += [
                ir.Let(seen.name, watch.value),
                ir.If(a.binary("ne", seen, ir.Load(watch.slot, (), kind)), tuple(tell)),
            ]
        self.unit.function("observe", (), None, out)

    def _account(self) -> None:
        """Count the edges of lines between `settled` and Now, while no state changed."""
        lines = self.unit.lines
        out = [*lines.count_edges(), *lines.store_levels(count=False), ir.Store("settled", (), ir.Now())]
        self.unit.function("account", (), None, out)

    def _store_deadline(self) -> list[ir.Stmt]:
        instant = ir.Var("instant", ir.U64)
        guard: list[ir.Stmt] = []
        if self._shows:
            guard = [ir.Store(self.guard, (), self.unit.call("soonest", ir.U64))]
        return [
            *guard,
            ir.Let("instant", self.unit.call("next", ir.U64)),
            ir.If(
                a.binary("ne", instant, ir.Load("deadline", (), ir.U64)),
                (ir.Store("deadline", (), instant), attention(ir.ATTENTION_DEADLINE)),
            ),
        ]

    def _refresh(self) -> list[ir.Stmt]:
        """Periodic events are next due after Now."""

        def one(event: Event, place: Place, tag: str) -> list[ir.Stmt]:
            if not event.following:
                return []
            return [ir.Store(event.due, place, ir.Call(event.following, place, ir.U64))]

        return self._each_event("refresh", one)

    def _commit(self, name: str, refresh: bool) -> None:
        """After an access (`commit`) or an event (`follow`): all that depends on state follows it."""
        follow: list[ir.Stmt] = [ir.Do(self.unit.call(f)) for f in ("edges", "rebase", "observe")]
        out = [*follow, *self.unit.lines.store_levels(count=True), ir.Store("settled", (), ir.Now())]
        if refresh:
            out += [*self._refresh(), *self._store_deadline()]
        self.unit.function(name, (), None, out, exported=refresh)

    @staticmethod
    def _just_before() -> ir.Expr:
        """The ns before an event, so that an edge that its body undoes in the same tick is none."""
        settled = ir.Load("settled", (), ir.U64)
        return a.cond(a.binary("lt", settled, DUE), a.binary("subw", DUE, a.TRUE), settled)

    def _settle(self) -> None:
        """Run what fell due, each at its own instant; then the lines as of Now."""

        def run(event: Event, place: Place, tag: str) -> list[ir.Stmt]:
            return [ir.If(a.eq(ir.Load(event.due, place, ir.U64), DUE), tuple(event.run(place, DUE)))]

        out: list[ir.Stmt] = []
        if self._events:
            rounds: ir.Block = (
                *self._least(NEVER),
                ir.If(a.either(a.binary("lt", ir.Now(), DUE), a.eq(DUE, NEVER)), (ir.Break(),)),
                ir.Do(ir.Call("account", (), ir.BOOL, self._just_before())),
                *self._each_event("run", run),
                ir.Do(ir.Call("follow", (), ir.BOOL, DUE)),
            )
            # an event may bring another one nearer, once; what is left waits for the next settling
            sites = sum(len(elements(event.scope)) for event in self._events)
            out.append(ir.Repeat(max(2 * sites, self.rounds), rounds))
        out += [ir.Do(self.unit.call("account")), *self._store_deadline()]
        self.unit.function("settle", (), None, out, exported=True)

    def _resume(self) -> None:
        """Everything derived, from what is saved; then tell the host to look at all of it."""

        def look(edge: Edge, place: Place, tag: str) -> list[ir.Stmt]:
            return [ir.Store(edge.was, place, ir.Call(edge.condition, place, edge.type))]

        def count(on: str, function: str, place: Place, tag: str) -> list[ir.Stmt]:
            return [ir.Store(on, place, ir.Call(function, place, ir.BOOL))]

        out: list[ir.Stmt] = []
        for number, edge in enumerate(self.unit.events.edges):
            out += for_each(edge.scope, f"look{number}", partial(look, edge))
        for clock in self.clocks:
            assert clock.on is not None
            out.append(ir.Store(clock.on, (), self.unit.declarations.running(clock)))
        for counter, on, scope, function, _ in self._conditional():
            out += for_each(scope, f"on {counter.base}", partial(count, on, function))
        out += self._each_event("alarm", self._due)
        levels = [ir.Store("lines", (), self.unit.call("levels", ir.U32))] if self.unit.lines.drives else []
        out += [*levels, ir.Store("settled", (), ir.Now()), *self._refresh(), *self._store_deadline()]
        out += [ir.Do(self.unit.call("observe")), attention(ir.ATTENTION_LINES | ir.ATTENTION_DEADLINE)]
        self.unit.function("resume", (), None, out, exported=True)

    @staticmethod
    def _due(event: Event, place: Place, tag: str) -> list[ir.Stmt]:
        """An alarm's instant, from its tick."""
        if not event.alarm:
            return []
        assert event.clock is not None
        tick = ir.Load(event.alarm, place, ir.U64)
        instant = a.cond(a.eq(tick, NEVER), NEVER, timing.nanos(tick, event.clock))
        return [ir.Store(event.due, place, instant)]

    def _reset(self) -> None:
        """Power-on values, then what the device file says of `on reset`."""

        def start(counter: CounterDef, place: Place, tag: str) -> list[ir.Stmt]:
            return [ir.Store(counter.tick, place, timing.ticks(counter.clock))]

        def initial(spec: SlotSpec, place: Place, tag: str) -> list[ir.Stmt]:
            return spec.reset_at(place)

        def run(body: str, place: Place, tag: str) -> list[ir.Stmt]:
            return [ir.Do(ir.Call(body, place, ir.BOOL))]

        out: list[ir.Stmt] = []
        for spec in self.unit.slots.values():
            if spec.kind == "state":
                out += for_each(spec.scope, f"reset {spec.name}", partial(initial, spec))
        for clock in self.clocks:
            assert clock.epoch is not None
            out.append(ir.Store(clock.epoch, (), ir.Now()))
        for counter, scope, _ in self.counters:
            out += for_each(scope, f"start {counter.base}", partial(start, counter))
        out += self.unit.lines.clear_rises()
        for body, scope in self.unit.events.power_on:
            out += for_each(scope, f"on {body}", partial(run, body))
        out.append(ir.Do(self.unit.call("resume")))
        self.unit.function("reset", (), None, out, exported=True)

    # --- questions ---------------------------------------------------------------

    def sensitive(self) -> frozenset[str]:
        """The slots on which edges, counters, lines, deadlines or observers depend."""
        analysis = self.unit.analysis
        own = {"deadline", self.guard, "settled", "lines", "attention", "watch", "rises"}
        own |= {e.was for e in self.unit.events.edges} | {w.slot for w in self.watches}
        return analysis.of("commit").reads - own
