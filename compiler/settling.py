"""What happens by itself: events, lines, and the functions that keep them true.

An access first settles (`settle`) what fell due before it, and afterwards
commits (`commit`) what it changed: edges of inputs, counters that start or
stop, lines, the deadline, what Python observes. Each is a constant amount of
work: an event's body runs once a settling however long the guest was away, and
the edges of a wave are counted by division.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import ir, timing
from .analysis import nodes
from .scope import AlarmDef, Context, CounterDef, LineDef, Place, Ref, Scope, TypeInfo, WaveDef

if TYPE_CHECKING:
    from .elaborate import Unit

NEVER = ir.Const(ir.NEVER)


@dataclass
class Event:
    """A declared `on` that time brings about, in one scope (and all its elements)."""

    body: str  # function to run at its instant
    due: str  # slot: ns at which it is next due
    scope: Scope
    span: Span
    following: str = ""  # function: the due instant after Now; "" for an alarm, which rings once
    clock: ir.Expr | None = None
    alarm: str = ""  # slot of an alarm's tick


@dataclass
class Edge:
    """A declared `on ... rises` or `falls` of a condition over stored state."""

    condition: str  # function
    was: str  # derived slot: the condition as last seen
    scope: Scope
    span: Span
    rises: list[str] = field(default_factory=list)
    falls: list[str] = field(default_factory=list)


@dataclass
class Watch:
    """A value that a Python observer reads: seen last in `slot`."""

    slot: str
    value: ir.Expr
    observer: int | None  # None: a handler's, kept current but nobody is told


@dataclass
class Driven:
    """A line's driver, split by the one wave in it: its level for a low and a high wave."""

    line: LineDef
    low: ir.Expr
    high: ir.Expr
    wave: ir.Call | None

    @property
    def with_wave(self) -> ir.Expr:
        """BOOL: the line follows the wave."""
        return a.both(a.negate(self.low), self.high)

    @property
    def against_wave(self) -> ir.Expr:
        return a.both(self.low, a.negate(self.high))


def elements(scope: Scope) -> list[Place]:
    """Every element of a scope's block array, as constant indices."""
    if scope.index is None:
        return [()]
    return [(ir.Const(i),) for i in range(scope.index[1])]


class Settling:
    """Builds settle, commit, levels, next, reset and resume of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.events: list[Event] = []
        self.edges: list[Edge] = []
        self.watches: list[Watch] = []
        self.counters: list[tuple[CounterDef, Scope, ir.Expr | None]] = []
        self.drives: list[Driven] = []

    # --- declarations ----------------------------------------------------------

    def on(self, tree: t.On, scope: Scope) -> None:
        handle = {"rings": self._rings, "toggles": self._toggles, "rises": self._edge, "falls": self._edge}
        handle[tree.kind](tree, scope)

    def _body(self, tree: t.On, scope: Scope, name: str, prologue: list[ir.Stmt]) -> str:
        ctx = Context(scope, scope.place, pure=False, statement=True, line=tree.span.line)
        body = self.unit.statements.suite(tree.body, ctx)
        function = f"{scope.prefix}on.{name}"
        self.unit.function(function, scope.parameters, None, [*prologue, *body], tree.span.line)
        return function

    def _rings(self, tree: t.On, scope: Scope) -> None:
        found = self.unit.refs.resolve(tree.subject, Context(scope, scope.place))
        if not isinstance(found, Ref) or not isinstance(found.entity, AlarmDef):
            raise Reject(
                "E501", "this is no event that can be solved for", tree.subject.span,
                "events are: 'on ALARM', 'on COUNTER[bit] toggles', 'on CONDITION rises' and 'falls'",
            )  # fmt: skip
        alarm, place = found.entity, scope.place
        quiet: list[ir.Stmt] = [ir.Store(slot, place, NEVER) for slot in (alarm.slot, alarm.due)]
        if any(event.alarm == alarm.slot for event in self.events):
            raise Reject("E102", f"'on {alarm.name}' stands twice", tree.subject.span, "join the two bodies")
        body = self._body(tree, scope, alarm.name, quiet)
        written = self.unit.analysis.of_block(self.unit.functions[body].body[2:]).writes
        if alarm.slot in written:
            raise Reject(
                "E501",
                f"'{alarm.name}' arms itself, so a guest could make it ring for ever",
                tree.span,
                "a counter's bit toggles periodically, and is caught up by division",
            )
        self.events.append(Event(body, alarm.due, scope, tree.span, clock=alarm.clock.hz, alarm=alarm.slot))

    def _toggles(self, tree: t.On, scope: Scope) -> None:
        subject = tree.subject
        found = (
            self.unit.refs.resolve(subject.base, Context(scope, scope.place))
            if isinstance(subject, t.Index)
            else None
        )
        if not isinstance(found, Ref) or not isinstance(found.entity, CounterDef):
            raise Reject(
                "E501",
                "'toggles' takes one bit of a counter",
                subject.span,
                "write: on COUNTER[bit] toggles: ...",
            )
        assert isinstance(subject, t.Index)
        counter = found.entity
        kind = TypeInfo(ir.Range(0, counter.bits - 1))
        bit = self.unit.expr.fit(
            subject.index, Context(scope, scope.place), kind, f"a bit of '{counter.name}'"
        )
        name = f"{counter.name}.toggles.{len(self.events)}"
        due = self.unit.slot(scope, f"{name}.due", TypeInfo(ir.U64), kind="derived")
        following = f"{scope.prefix}{name}.following"
        instant = self._next_toggle(counter, scope.place, bit)
        self.unit.function(following, scope.parameters, ir.U64, [ir.Return(instant)])
        body = self._body(tree, scope, name, [])
        self.events.append(Event(body, due, scope, tree.span, following))

    @staticmethod
    def _next_toggle(counter: CounterDef, place: Place, bit: ir.Expr) -> ir.Expr:
        """The instant of the next tick in which the bits below and at `bit` carry over."""
        value = timing.counter_value(counter, place)
        period = a.binary("shl", a.TRUE, bit)
        passed = a.binary("and", value, a.binary("subw", period, a.TRUE))
        known = ir.Range(1, period.type.hi)
        distance = a.sub(period, passed)
        if not known.contains(distance.type):
            distance = ir.Narrow(
                distance, ir.Range(max(1, distance.type.lo), min(known.hi, distance.type.hi))
            )
        instant = timing.nanos(timing.after(counter.clock, distance), counter.clock)
        if counter.on is None:
            return instant
        return a.cond(ir.Load(counter.on, place, ir.BOOL), instant, NEVER)

    def _edge(self, tree: t.On, scope: Scope) -> None:
        ctx = Context(scope, scope.place)
        condition = self.unit.expr.truth(tree.subject, ctx)
        effects = self.unit.analysis.of_expr(condition)
        if effects.time:
            raise Reject(
                "E501",
                f"'{tree.kind}' takes a condition over what is stored; this one changes with time",
                tree.subject.span,
                "use an alarm, or 'on COUNTER[bit] toggles'",
            )
        for edge in self.edges:
            if edge.scope is scope and self.unit.functions[edge.condition].body == (ir.Return(condition),):
                break
        else:
            name = f"edge.{len(self.edges)}"
            function = f"{scope.prefix}{name}"
            self.unit.function(function, scope.parameters, ir.BOOL, [ir.Return(condition)])
            was = self.unit.slot(scope, f"{name}.was", TypeInfo(ir.BOOL, 1), kind="derived")
            edge = Edge(function, was, scope, tree.span)
            self.edges.append(edge)
        bodies = edge.rises if tree.kind == "rises" else edge.falls
        bodies.append(self._body(tree, scope, f"{tree.kind}.{len(bodies)}.{edge.was}", []))

    def drive(self, line: LineDef, tree: t.Drive, scope: Scope) -> None:
        """Split a line's driver by the wave in it (E501 if time comes in any other way)."""
        value = self.unit.expr.truth(tree.value, Context(scope, ()))
        self.unit.function(f"{line.name}.line", (), ir.BOOL, [ir.Return(value)])
        analysis = self.unit.analysis
        waves: set[ir.Call] = set()

        def collect(node: ir.Expr) -> ir.Expr | None:
            if isinstance(node, ir.Call) and node.function.removesuffix(".level") in self.unit.waves:
                waves.add(node)
                return node
            return None

        whole = analysis.inline(value, collect)
        if len(waves) > 1:
            raise Reject("E501", f"line '{line.name}' depends on several waves", tree.value.span,
                         "give each wave a line of its own, and join them on the board")  # fmt: skip
        wave = next(iter(waves), None)
        low, high = (
            analysis.inline(whole, lambda node, v=level: ir.Const(v) if node == wave and wave else None)  # type: ignore[misc]
            for level in (0, 1)
        )
        for part in (low, high):
            if analysis.of_expr(part).time:
                raise Reject(
                    "E501",
                    f"line '{line.name}' changes with time, but not by a wave",
                    tree.value.span,
                    "say its shape with 'wave', or set a state in an event",
                )
        self.drives.append(Driven(line, low, high, wave))

    def check_order(self) -> None:
        """A periodic event is run once for all its times, so no other may undo it between them."""
        analysis = self.unit.analysis
        for event in self.events:
            if not event.following:
                continue
            mine = analysis.of(event.body)
            due = analysis.of(event.following)
            for other in self.events:
                writes = analysis.of(other.body).writes
                rhythm = writes & due.reads or (other is not event and writes & (mine.reads | mine.writes))
                if rhythm:
                    raise Reject(
                        "E503",
                        "another event changes what this periodic one works on",
                        event.span,
                        f"'{sorted(rhythm)[0]}' is written in line {other.span.line} too",
                    )

    # --- functions -------------------------------------------------------------

    def build(self) -> None:
        self._levels()
        self._next()
        self._edges()
        self._rebase()
        self._watch()
        self._account()
        for name, refresh in (("follow", False), ("commit", True)):
            self._commit(name, refresh)
        self._settle()
        self._resume()

    def _levels(self) -> None:
        total: ir.Expr = a.FALSE
        for driven in self.drives:
            level = ir.Call(f"{driven.line.name}.line", (), ir.BOOL)
            total = a.binary("or", total, a.binary("shl", level, ir.Const(driven.line.bit)))
        self.unit.function("levels", (), ir.U32, [ir.Return(total)], exported=True)

    def _next(self) -> None:
        instants: list[ir.Expr] = [ir.Load(e.due, p, ir.U64) for e in self.events for p in elements(e.scope)]
        for driven in self.drives:
            if driven.wave is None:
                continue
            wave = self.unit.waves[driven.wave.function.removesuffix(".level")]
            edge = self.unit.functions[f"{wave.function}.edge"]
            assert edge.result is not None
            tick = ir.Call(edge.name, driven.wave.args, edge.result)
            seen = a.either(driven.with_wave, driven.against_wave)
            instants.append(a.cond(seen, timing.nanos(tick, wave.counter.clock), NEVER))
        self.unit.function("next", (), ir.U64, [ir.Return(a.least(instants))], exported=True)

    def _edges(self) -> None:
        """Run the bodies of inputs that rose or fell since they were last looked at."""
        out: list[ir.Stmt] = []
        for number, edge in enumerate(self.edges):
            for place in elements(edge.scope):
                seen = ir.Var(f"seen{number}.{self._tag(place)}", ir.BOOL)
                was = ir.Load(edge.was, place, ir.BOOL)
                rose, fell = (
                    tuple(ir.Do(ir.Call(body, place, ir.BOOL)) for body in bodies)
                    for bodies in (edge.rises, edge.falls)
                )
                out += [
                    ir.Let(seen.name, ir.Call(edge.condition, place, ir.BOOL)),
                    ir.If(
                        a.binary("ne", seen, was),
                        (ir.Store(edge.was, place, seen), ir.If(seen, rose, fell)),
                    ),
                ]
        self.unit.function("edges", (), None, out)

    @staticmethod
    def _tag(place: Place) -> str:
        return "".join(str(i.value) for i in place if isinstance(i, ir.Const))

    def _rebase(self) -> None:
        """Counters whose condition changed hold their value, or count on from it."""
        out: list[ir.Stmt] = []
        for counter, scope, condition in self.counters:
            if condition is None or counter.on is None:
                continue
            function = f"{scope.prefix}{counter.name}.while"
            self.unit.function(function, scope.parameters, ir.BOOL, [ir.Return(condition)])
            for place in elements(scope):
                counts = ir.Var(f"{counter.base}.{self._tag(place)}", ir.BOOL)
                hold = timing.set_counter(counter, place, timing.counter_value(counter, place))
                out += [
                    ir.Let(counts.name, ir.Call(function, place, ir.BOOL)),
                    ir.If(
                        a.binary("ne", counts, ir.Load(counter.on, place, ir.BOOL)),
                        (*hold, ir.Store(counter.on, place, counts)),
                    ),
                ]
        self.unit.function("rebase", (), None, out)

    def _watch(self) -> None:
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
        out: list[ir.Stmt] = []
        since = ir.Load("settled", (), ir.U64)
        for number, driven in enumerate(self.drives):
            if driven.wave is None:
                continue
            wave = self.unit.waves[driven.wave.function.removesuffix(".level")]
            later = timing.counter_value(wave.counter, driven.wave.args)
            rises, falls = (
                ir.Call(f"{wave.function}.{name}", (*driven.wave.args, later), ir.U32, since)
                for name in ("rises", "falls")
            )
            # the callee's Now is `settled`; its argument is the counter at our Now
            count = ir.Var(f"count{number}", ir.U32)
            out += [
                ir.Let(f"later{number}", later),
                ir.Let(count.name, a.FALSE),
                ir.If(driven.with_wave, (ir.Let(count.name, self._counted(rises, number, later)),)),
                ir.If(driven.against_wave, (ir.Let(count.name, self._counted(falls, number, later)),)),
                ir.If(
                    a.binary("ne", count, a.FALSE),
                    (self._add_rises(driven.line, count), attention(ir.ATTENTION_LINES)),
                ),
            ]
        out += [
            *self._store_levels(count=False),
            ir.Store("settled", (), ir.Now()),
        ]
        self.unit.function("account", (), None, out)

    @staticmethod
    def _counted(call: ir.Call, number: int, later: ir.Expr) -> ir.Call:
        return ir.Call(
            call.function, (*call.args[:-1], ir.Var(f"later{number}", later.type)), call.type, call.now
        )

    @staticmethod
    def _add_rises(line: LineDef, count: ir.Expr) -> ir.Stmt:
        place = (ir.Const(line.bit),)
        return ir.Store("rises", place, a.wrap(a.add(ir.Load("rises", place, ir.U32), count), 32))

    def _store_levels(self, count: bool) -> list[ir.Stmt]:
        """Levels at Now; with `count`, a line that rose is one more rise."""
        if not self.drives:
            return []
        levels, lines = ir.Var("levels", ir.U32), ir.Load("lines", (), ir.U32)
        changed: list[ir.Stmt] = []
        if count:
            rose = ir.Var("rose", ir.U32)
            changed.append(
                ir.Let("rose", a.binary("and", levels, a.binary("xor", lines, ir.Const(2**32 - 1))))
            )
            for driven in self.drives:
                changed.append(
                    ir.If(
                        a.bits(rose, driven.line.bit, driven.line.bit),
                        (self._add_rises(driven.line, a.TRUE),),
                    )
                )
        return [
            ir.Let("levels", self.unit.call("levels", ir.U32)),
            ir.If(
                a.binary("ne", levels, lines),
                (*changed, ir.Store("lines", (), levels), attention(ir.ATTENTION_LINES)),
            ),
        ]

    def _store_deadline(self) -> list[ir.Stmt]:
        instant = ir.Var("instant", ir.U64)
        return [
            ir.Let("instant", self.unit.call("next", ir.U64)),
            ir.If(
                a.binary("ne", instant, ir.Load("deadline", (), ir.U64)),
                (ir.Store("deadline", (), instant), attention(ir.ATTENTION_DEADLINE)),
            ),
        ]

    def _refresh(self) -> list[ir.Stmt]:
        """Periodic events are next due after Now."""
        return [
            ir.Store(e.due, p, ir.Call(e.following, p, ir.U64))
            for e in self.events
            for p in elements(e.scope)
            if e.following
        ]

    def _commit(self, name: str, refresh: bool) -> None:
        """After an access (`commit`) or an event (`follow`): all that depends on state follows it."""
        follow: list[ir.Stmt] = [ir.Do(self.unit.call(f)) for f in ("edges", "rebase", "observe")]
        out = [*follow, *self._store_levels(count=True), ir.Store("settled", (), ir.Now())]
        if refresh:
            out += [*self._refresh(), *self._store_deadline()]
        self.unit.function(name, (), None, out, exported=refresh)

    def _settle(self) -> None:
        """Run what fell due, each at its own instant; then the lines as of Now."""
        sites = [(e, p) for e in self.events for p in elements(e.scope)]
        out: list[ir.Stmt] = []
        if sites:
            due = ir.Var("due", ir.U64)
            runs: list[ir.Stmt] = []
            for event, place in sites:
                run: list[ir.Stmt] = [ir.Do(ir.Call(event.body, place, ir.BOOL, due))]
                if event.following:
                    run.append(ir.Store(event.due, place, ir.Call(event.following, place, ir.U64)))
                runs.append(ir.If(a.eq(ir.Load(event.due, place, ir.U64), due), tuple(run)))
            rounds: ir.Block = (
                ir.Let("due", a.least([ir.Load(e.due, p, ir.U64) for e, p in sites])),
                ir.If(a.either(a.binary("lt", ir.Now(), due), a.eq(due, NEVER)), (ir.Break(),)),
                ir.Do(ir.Call("account", (), ir.BOOL, due)),
                *runs,
                ir.Do(ir.Call("follow", (), ir.BOOL, due)),
            )
            # an event may bring another one nearer, once; what is left waits for the next settling
            out.append(ir.Repeat(2 * len(sites), rounds))
        out += [ir.Do(self.unit.call("account")), *self._store_deadline()]
        self.unit.function("settle", (), None, out, exported=True)

    def _resume(self) -> None:
        """Everything derived, from what is saved; then tell the host to look at all of it."""
        out: list[ir.Stmt] = []
        for edge in self.edges:
            out += [ir.Store(edge.was, p, ir.Call(edge.condition, p, ir.BOOL)) for p in elements(edge.scope)]
        for counter, scope, condition in self.counters:
            if condition is not None and counter.on is not None:
                function = f"{scope.prefix}{counter.name}.while"
                out += [ir.Store(counter.on, p, ir.Call(function, p, ir.BOOL)) for p in elements(scope)]
        for event in self.events:
            if event.alarm:
                assert event.clock is not None
                for place in elements(event.scope):
                    tick = ir.Load(event.alarm, place, ir.U64)
                    instant = a.cond(a.eq(tick, NEVER), NEVER, ir.Nanos(tick, event.clock))
                    out.append(ir.Store(event.due, place, instant))
        levels = [ir.Store("lines", (), self.unit.call("levels", ir.U32))] if self.drives else []
        out += [*levels, ir.Store("settled", (), ir.Now()), *self._refresh(), *self._store_deadline()]
        out += [ir.Do(self.unit.call("observe")), attention(ir.ATTENTION_LINES | ir.ATTENTION_DEADLINE)]
        self.unit.function("resume", (), None, out, exported=True)

    # --- questions ---------------------------------------------------------------

    def sensitive(self) -> frozenset[str]:
        """The slots on which edges, counters, lines, deadlines or observers depend."""
        analysis = self.unit.analysis
        own = {"deadline", "settled", "lines", "attention", "watch", "rises"}
        own |= {e.was for e in self.edges} | {w.slot for w in self.watches}
        return analysis.of("commit").reads - own


def attention(bits: int) -> ir.Stmt:
    flagged = a.binary("or", ir.Load("attention", (), ir.U32), ir.Const(bits))
    return ir.Store("attention", (), flagged)


__all__ = ["Driven", "Edge", "Event", "Settling", "Watch", "WaveDef", "nodes"]
