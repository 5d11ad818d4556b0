"""Events: what a device file's `on` declares, and when each falls due.

Events of time are those that can be solved for: an alarm, a counter's bit that
toggles, a counter that reaches a value. Edges of conditions over stored state
are found when an access or an event has changed it (settling.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import ir, timing
from .analysis import TooLarge, walk
from .entities import AlarmDef, ClockDef, CounterDef, LocalDef, Place, Ref, TypeInfo, Value, show
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit

NEVER = ir.Const(ir.NEVER)
UNTIL = ir.Var("until", ir.U64)
"""Parameter of a time event's body: the instant up to which it is being settled."""


@dataclass
class Event:
    """A declared `on` that time brings about, in one scope (and all its elements)."""

    body: str  # function to run at its instant
    due: str  # slot: ns at which it is next due
    scope: Scope
    span: Span
    following: str = ""  # function: the due instant after Now; "" for an alarm, which rings once
    clock: ClockDef | None = None
    alarm: str = ""  # slot of an alarm's tick
    when: ir.Expr = a.TRUE

    def run(self, place: Place, at: ir.Expr) -> list[ir.Stmt]:
        """Run the body at instant `at`; a periodic event is next due after the present."""
        run: list[ir.Stmt] = [ir.Do(ir.Call(self.body, (*place, ir.Now()), ir.BOOL, at))]
        if self.following:
            run.append(ir.Store(self.due, place, ir.Call(self.following, place, ir.U64)))
        return run


@dataclass
class Edge:
    """A declared `on ... rises` or `falls` of a condition over stored state, or of a number's bits.

    A number's bodies have a parameter more: the bits that rose or fell."""

    condition: str  # function
    was: str  # derived slot: the condition as last seen
    scope: Scope
    span: Span
    type: ir.Range = ir.BOOL
    bits: bool = False
    rises: list[str] = field(default_factory=list)
    falls: list[str] = field(default_factory=list)


class Events:
    """Elaborates the events of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.timed: list[Event] = []
        self.edges: list[Edge] = []
        self.power_on: list[tuple[str, Scope]] = []
        self._numbers = itertools.count()
        self._rung: set[str] = set()

    def declare(self, tree: t.On, scope: Scope) -> None:
        handle = {
            "rings": self._rings, "toggles": self._toggles, "reaches": self._reaches,
            "rises": self._edge, "falls": self._edge, "power_on": self._power_on,
        }  # fmt: skip
        handle[tree.kind](tree, scope)

    def _body(
        self,
        tree: t.On,
        scope: Scope,
        name: str,
        prologue: list[ir.Stmt],
        clock: ClockDef | None = None,
        bits: ir.Range | None = None,
    ) -> str:
        ctx = Context(scope, scope.place, pure=False, statement=True, line=tree.span.line)
        ctx.settled = clock if tree.kind in ("toggles", "reaches") else None  # an alarm rings once
        extra = ((UNTIL.name, ir.U64),) if clock is not None else ()
        if bits is not None and tree.bits is not None:
            ctx, extra = ctx.inner(), ((tree.bits.text, bits),)
            changed = Value(ir.Var(tree.bits.text, bits), bits.hi.bit_length())
            ctx.scope.define(LocalDef(tree.bits.text, tree.bits.span, changed))
        body = self.unit.statements.suite(tree.body, ctx)
        if bits is not None:
            self.unit.warn_unused(ctx.scope)
        function = f"{scope.prefix}on.{name}"
        self.unit.function(function, (*scope.parameters, *extra), None, [*prologue, *body], tree.span.line)
        return function

    def _when(self, tree: t.On, scope: Scope) -> ir.Expr:
        """The condition over stored state under which the event happens."""
        if tree.when is None:
            return a.TRUE
        condition = self.unit.expr.truth(tree.when, Context(scope, scope.place))
        self._stored(condition, tree.when, "'when' takes a condition over what is stored")
        return condition

    def _stored(self, condition: ir.Expr, tree: t.Expr, message: str) -> None:
        if self.unit.analysis.of_expr(condition).time:
            raise Reject("E501", f"{message}; this one changes with time", tree.span,
                         "use an alarm, or 'on COUNTER[bit] toggles'")  # fmt: skip

    def _power_on(self, tree: t.On, scope: Scope) -> None:
        if tree.when is not None:
            raise Reject("E501", "'on reset' has no 'when'", tree.when.span, "write an 'if' in its body")
        body = self._body(tree, scope, f"reset.{len(self.power_on)}", [])
        self.power_on.append((body, scope))

    # --- alarms ----------------------------------------------------------------

    def _rings(self, tree: t.On, scope: Scope) -> None:
        assert tree.subject is not None
        found = self.unit.refs.resolve(tree.subject, Context(scope, scope.place))
        if not isinstance(found, Ref) or not isinstance(found.entity, AlarmDef):
            raise Reject(
                "E501", "this is no event that can be solved for", tree.subject.span,
                "events are: 'on ALARM', 'on COUNTER[bit] toggles', 'on COUNTER reaches VALUE', "
                "'on CONDITION rises' and 'falls', 'on reset'",
            )  # fmt: skip
        alarm, place = found.entity, scope.place
        if tree.when is not None:
            raise Reject(
                "E501", "an alarm is disarmed rather than ignored", tree.when.span, "disarm it, or use 'if'"
            )
        if alarm.slot in self._rung:
            raise Reject("E102", f"'on {alarm.name}' stands twice", tree.subject.span, "join the two bodies")
        self._rung.add(alarm.slot)
        quiet: list[ir.Stmt] = [ir.Store(slot, place, NEVER) for slot in (alarm.slot, alarm.due)]
        body = self._body(tree, scope, alarm.name, quiet, alarm.clock)
        self.timed.append(Event(body, alarm.due, scope, tree.span, clock=alarm.clock, alarm=alarm.slot))

    # --- counters --------------------------------------------------------------

    def _periodic(
        self, tree: t.On, scope: Scope, counter: CounterDef, place: Place, following: list[ir.Stmt]
    ) -> None:
        """An event of a counter; `following` returns the first such instant after Now."""
        name = f"{counter.name}.{tree.kind}.{next(self._numbers)}"
        due = self.unit.slot(scope, f"{name}.due", TypeInfo(ir.U64), kind="derived", span=tree.span)
        when = happens = self._when(tree, scope)
        if counter.on is not None:
            happens = a.both(ir.Load(counter.on, place, ir.BOOL), happens)
        never = [] if happens == a.TRUE else [ir.If(a.negate(happens), (ir.Return(NEVER),))]
        function = f"{scope.prefix}{name}.following"
        self.unit.function(function, scope.parameters, ir.U64, [*never, *following], tree.span.line)
        body = self._body(tree, scope, name, [], counter.clock)
        self.timed.append(Event(body, due, scope, tree.span, function, counter.clock, when=when))

    def _counter(self, node: t.Expr | None, scope: Scope) -> tuple[CounterDef, Place] | None:
        if not isinstance(node, (t.Name, t.Attribute)):
            return None
        found = self.unit.refs.resolve(node, Context(scope, scope.place))
        if not isinstance(found, Ref) or not isinstance(found.entity, CounterDef):
            return None
        return found.entity, found.place

    def _toggles(self, tree: t.On, scope: Scope) -> None:
        subject = tree.subject
        found = self._counter(subject.base, scope) if isinstance(subject, t.Index) else None
        if found is None or not isinstance(subject, t.Index):
            assert subject is not None
            raise Reject("E501", "'toggles' takes one bit of a counter", subject.span,
                         "write: on COUNTER[bit] toggles: ...")  # fmt: skip
        counter, place = found
        kind = TypeInfo(ir.Range(0, counter.bits - 1))
        bit = self.unit.expr.fit(
            subject.index, Context(scope, scope.place), kind, f"a bit of '{counter.name}'"
        )
        value = timing.counter_value(counter, place)
        period = a.binary("shl", a.TRUE, bit)
        passed = a.binary("and", value, a.binary("subw", period, a.TRUE))
        # the bits below carry over when the rest of the period has passed
        distance = a.sub(period, passed)
        known = ir.Range(max(1, distance.type.lo), min(period.type.hi, distance.type.hi))
        if known != distance.type:
            distance = ir.Narrow(distance, known)
        instant = timing.nanos(timing.after(counter.clock, distance), counter.clock)
        self._periodic(tree, scope, counter, place, [ir.Return(instant)])

    def _reaches(self, tree: t.On, scope: Scope) -> None:
        """The low bits of a counter become those of a value; the next time after Now."""
        assert tree.subject is not None
        assert tree.target is not None
        ctx = Context(scope, scope.place)
        found = self._counter(tree.subject.base if isinstance(tree.subject, t.Slice) else tree.subject, scope)
        if found is None:
            raise Reject("E501", "'reaches' takes a counter, or its low bits", tree.subject.span,
                         "write: on COUNTER[high:0] reaches VALUE: ...")  # fmt: skip
        counter, place = found
        high: ir.Expr = ir.Const(counter.bits - 1)
        if isinstance(tree.subject, t.Slice):
            kind = TypeInfo(ir.Range(0, counter.bits - 1))
            high = self.unit.expr.fit(tree.subject.high, ctx, kind, f"a bit of '{counter.name}'")
            if self.unit.expr.constant(tree.subject.low, ctx) != 0:
                raise Reject("E501", "'reaches' compares from bit 0 up", tree.subject.span, "[high:0]")
        target = self.unit.expr.fit(tree.target, ctx, TypeInfo(ir.U64), "the value")
        self._stored(target, tree.target, "a counter reaches a value that is stored")
        value = timing.counter_value(counter, place)
        mask = a.binary("shr", ir.Const(a.ONES), a.sub(ir.Const(63), high))
        left = ir.Var("left", ir.U64)
        instant = timing.nanos(
            timing.after(counter.clock, ir.Narrow(left, ir.Range(1, 2**64 - 1))), counter.clock
        )
        following: list[ir.Stmt] = [
            ir.Let("left", a.binary("and", a.binary("subw", target, value), mask)),
            # there already: the next time is a whole turn away (0 stands for 2**64)
            ir.If(a.eq(left, a.FALSE), (ir.Let("left", a.binary("addw", mask, a.TRUE)),)),
            ir.If(a.eq(left, a.FALSE), (ir.Return(NEVER),)),
            ir.Return(instant),
        ]
        self._periodic(tree, scope, counter, place, following)

    # --- edges of stored conditions -----------------------------------------------

    def _edge(self, tree: t.On, scope: Scope) -> None:
        assert tree.subject is not None
        ctx = Context(scope, scope.place)
        if tree.bits is None:
            condition, kind = self.unit.expr.truth(tree.subject, ctx), TypeInfo(ir.BOOL, 1)
        else:
            condition, kind = self._number(tree.subject, ctx)
        self._stored(condition, tree.subject, f"'{tree.kind}' takes a condition over what is stored")
        if tree.when is not None:
            raise Reject("E501", f"'{tree.kind}' has no 'when'", tree.when.span, "write an 'if' in its body")
        for edge in self.edges:
            if edge.bits is not (tree.bits is not None):
                continue
            if edge.scope is scope and self.unit.functions[edge.condition].body == (ir.Return(condition),):
                break
        else:
            name = f"edge.{len(self.edges)}"
            function = f"{scope.prefix}{name}"
            self.unit.function(function, scope.parameters, kind.range, [ir.Return(condition)], tree.span.line)
            was = self.unit.slot(scope, f"{name}.was", kind, kind="derived", span=tree.span)
            edge = Edge(function, was, scope, tree.span, kind.range, tree.bits is not None)
            self.edges.append(edge)
        bodies = edge.rises if tree.kind == "rises" else edge.falls
        bits = kind.range if edge.bits else None
        bodies.append(self._body(tree, scope, f"{tree.kind}.{len(bodies)}.{edge.was}", [], bits=bits))

    def _number(self, tree: t.Expr, ctx: Context) -> tuple[ir.Expr, TypeInfo]:
        """A number whose bits rise and fall."""
        value = self.unit.expr.value(tree, ctx)
        width = value.width or value.type.hi.bit_length()
        if value.type.lo < 0 or not width:
            raise Reject("E201", f"bits are those of a number; this is {show(value.type)}", tree.span,
                         "leave out 'as' for a condition")  # fmt: skip
        return value.expr, TypeInfo(ir.Range(0, 2**width - 1), width)

    # --- order ----------------------------------------------------------------------

    def exclusive(self, one: Event, other: Event) -> bool:
        """Whether the `when` of two events contradict each other, and neither event changes that."""
        try:
            mine, theirs = (
                set(_conjuncts(self.unit.analysis.inline(event.when, lambda node: None)))
                for event in (one, other)
            )
        except TooLarge:
            return False
        clash = next((part for part in mine if a.negate(part) in theirs), None)
        if clash is None or one.scope is not other.scope:
            return False
        reads = self.unit.analysis.of_expr(clash).reads
        return not any(reads & self.unit.analysis.of(event.body).writes for event in (one, other))

    def stores(self, slot: str, function: str) -> list[ir.Store]:
        """Every store into a slot, by a function or those that it calls."""
        return self._stores(slot, function, set())

    def _stores(self, slot: str, function: str, seen: set[str]) -> list[ir.Store]:
        if function in seen:
            return []
        seen.add(function)
        found = []
        for statement in walk(self.unit.functions[function].body):
            if isinstance(statement, ir.Store) and statement.slot == slot:
                found.append(statement)
            elif isinstance(statement, ir.Do):
                found += self._stores(slot, statement.call.function, seen)
        return found


def _conjuncts(condition: ir.Expr) -> Iterator[ir.Expr]:
    """A condition, and every part of it that holds whenever it does."""
    yield condition
    if isinstance(condition, ir.Cond) and condition.orelse == a.FALSE:
        yield from _conjuncts(condition.test)
        yield from _conjuncts(condition.then)
