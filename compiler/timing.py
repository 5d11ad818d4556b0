"""Counters and waves: equations over time, and the instants they are solved for.

A counter stores (base, tick); its value is derived. A wave is a sequence of
phases over a counter; from it come the level, the time since and until an
edge, the tick of the next edge, and how many edges lie between two instants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import arithmetic as a
from . import intervals, ir
from .entities import ClockDef, CounterDef, Place, TypeInfo, Value, WaveDef, cyclic
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit

WAVE_ATTRIBUTES = ("since", "left")
YEAR = 31_557_600
"""In seconds: what a wave's counter must at least take to wrap."""


def ticks(clock: ClockDef, ns: ir.Expr | None = None) -> ir.Expr:
    """The clock's tick in which an instant lies (the present one by default)."""
    instant = ns if ns is not None else ir.Now()
    if clock.epoch is not None:
        instant = a.binary("subw", instant, ir.Load(clock.epoch, (), ir.U64))
    return ir.Ticks(instant, clock.hz, intervals.ticks(instant.type, clock.hz.type))


def after(clock: ClockDef, distance: ir.Expr) -> ir.Expr:
    """The tick `distance` ticks from the present one; 2**64 - 1, which no clock reaches, if it is beyond."""
    present = ticks(clock)
    if intervals.result("add", present.type, distance.type).fits:
        return a.add(present, distance)
    total = a.binary("addw", present, distance)
    return a.cond(a.binary("lt", total, distance), ir.Const(a.ONES), total)


def elapsed(clock: ClockDef, until: ir.Expr) -> ir.Expr:
    """Ticks from an event's own instant, which is Now in its body, to a later one; 0 if it is not later."""
    first, last = ticks(clock), ticks(clock, until)
    return a.cond(a.binary("lt", last, first), a.FALSE, ir.Narrow(a.binary("subw", last, first), last.type))


def nanos(tick: ir.Expr, clock: ClockDef) -> ir.Expr:
    """A tick's first instant; NEVER if it is beyond 64 bits."""
    passed = ir.Nanos(tick, clock.hz)
    if clock.epoch is None:
        return passed
    epoch = ir.Load(clock.epoch, (), ir.U64)
    instant = a.binary("addw", passed, epoch)
    beyond = a.either(a.eq(passed, ir.Const(ir.NEVER)), a.binary("lt", instant, epoch))
    return a.cond(beyond, ir.Const(ir.NEVER), instant)


def counter_value(counter: CounterDef, place: Place) -> ir.Expr:
    return ir.Call(counter.function, place, counter_range(counter))


def counter_range(counter: CounterDef) -> ir.Range:
    return ir.Range(0, 2**counter.bits - 1)


def set_counter(counter: CounterDef, place: Place, value: ir.Expr) -> list[ir.Stmt]:
    """The counter has this value in the present tick."""
    return [
        ir.Store(counter.base, place, value),
        ir.Store(counter.tick, place, ticks(counter.clock)),
    ]


def attribute_range(name: str, wave: WaveDef) -> ir.Range:
    """since: 0..; left: 1.. (1 in a phase without end)."""
    whole = counter_range(wave.counter)
    if name == "left":
        return ir.Range(1, max(1, wave.longest))
    return ir.Range(0, whole.hi) if wave.longest == 0 else ir.Range(0, max(wave.longest - 1, 0))


class Timing:
    """Elaborates counters and waves of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit

    def counter(self, counter: CounterDef, scope: Scope) -> None:
        """The function that gives the value now, modulo 2**bits."""
        place = scope.place
        base = ir.Load(counter.base, place, counter_range(counter))
        present = ticks(counter.clock)
        start = ir.Load(counter.tick, place, present.type)
        elapsed: ir.Expr = a.binary("subw", present, start)
        if counter.on is not None:
            running = ir.Load(counter.on, place, ir.BOOL)
            value = a.cond(running, a.wrap(a.binary("addw", base, elapsed), counter.bits), base)
        else:
            value = a.wrap(a.binary("addw", base, elapsed), counter.bits)
        kind, line = counter_range(counter), counter.span.line
        self.unit.function(counter.function, scope.parameters, kind, [ir.Return(value)], line)

    def wave(self, wave: WaveDef) -> None:
        """Elaborate a wave at its first use."""
        wave.progress.run(
            wave.elaborate, lambda: cyclic(wave, "an equation may use only what does not use it")
        )

    def build(self, wave: WaveDef, tree: t.Wave, scope: Scope) -> None:
        """The wave's functions, each a switch over the cases of its `match`."""
        ctx = Context(scope, scope.place)
        self._lasts(wave.counter, tree)
        subject = self.unit.expr.value(tree.subject, ctx) if tree.subject is not None else Value(ir.Const(0))
        if tree.subject is not None and self.unit.analysis.of_expr(subject.expr).time:
            raise Reject("E501", "a wave's shape is chosen by what is stored; this changes with time",
                         tree.subject.span, "set a state in an event, and choose by that")  # fmt: skip
        groups = self.unit.branches.cases(subject, [c.patterns for c in tree.cases], ctx, tree.span)
        shapes = [
            Shape(self, wave, case.phases, inner, str(i))
            for i, (case, (_, inner)) in enumerate(zip(tree.cases, groups, strict=True))
        ]
        wave.longest = max(shape.longest for shape in shapes)

        def emit(name: str, kind: ir.Range, method: str, *extra: tuple[str, ir.Range]) -> None:
            bodies = [tuple(getattr(shape, method)()) for shape in shapes]
            body = bodies[-1]
            if len(bodies) > 1:
                cases = tuple((values or (), b) for (values, _), b in zip(groups, bodies, strict=True))
                body = (ir.Switch(subject.expr, cases[:-1], cases[-1][1]),)
            value = counter_value(wave.counter, scope.place)
            parameters, body = (*scope.parameters, *extra), (ir.Let("t", value), *body)
            self.unit.function(f"{wave.function}.{name}", parameters, kind, body, tree.span.line)

        later = ("later", counter_range(wave.counter))
        emit("level", ir.BOOL, "level")
        emit("since", attribute_range("since", wave), "since")
        emit("left", attribute_range("left", wave), "left")
        emit("ends", ir.BOOL, "ends")
        emit("rises", ir.U32, "rises", later)
        emit("falls", ir.U32, "falls", later)
        self._edge(wave, scope)

    @staticmethod
    def _lasts(counter: CounterDef, tree: t.Wave) -> None:
        """A wave's counter does not wrap in practice: where it did, there would be an edge of no phase."""
        seconds = 2**counter.bits // counter.clock.hz.type.hi
        if seconds < YEAR:
            raise Reject(
                "E501",
                f"counter '{counter.name}' wraps after {seconds:,} s, and a wave's must not",
                tree.counter.span,
                "give it more bits, such as u56",
            )

    def _edge(self, wave: WaveDef, scope: Scope) -> None:
        """The tick of the next edge; NEVER if the counter stands or the level stays."""
        place, counter = scope.place, wave.counter
        moves: ir.Expr = ir.Call(f"{wave.function}.ends", place, ir.BOOL)
        if counter.on is not None:
            moves = a.both(ir.Load(counter.on, place, ir.BOOL), moves)
        left = ir.Call(f"{wave.function}.left", place, attribute_range("left", wave))
        edge = a.cond(moves, after(counter.clock, left), ir.Const(ir.NEVER))
        name, line = f"{wave.function}.edge", wave.span.line
        self.unit.function(name, scope.parameters, edge.type, [ir.Return(edge)], line)


class Shape:
    """One case of a wave: its phases' lengths as IR, and the code that reads them."""

    def __init__(self, timing: Timing, wave: WaveDef, phases: t.Phases, ctx: Context, tag: str):
        self.final, self.tag, self.span = phases.final, tag, phases.span
        self.levels = [phase.level for phase in phases.phases]
        whole = counter_range(wave.counter)
        self.lengths = [self._length(timing.unit, phase, ctx, whole) for phase in phases.phases]
        self.ends_at = self._sums(self.lengths)
        self.counter = ir.Var("t", whole)
        self.later = ir.Var("later", whole)
        self.longest = max(length.type.hi for length in self.lengths)
        period = self.ends_at[-1]
        if self.final is None and period.type.lo < 1:
            raise Reject("E202", "the phases of a repeating wave may all be of length 0", phases.span,
                         "give one of them a length of at least 1")  # fmt: skip
        self.position: ir.Expr = self.counter
        self.prologue: list[ir.Stmt] = []
        if self.final is None:
            remainder = a.binary("mod", self.counter, period)
            self.prologue = [ir.Let(f"p{tag}", remainder)]
            self.position = ir.Var(f"p{tag}", remainder.type)

    @staticmethod
    def _length(unit: Unit, phase: t.Phase, ctx: Context, whole: ir.Range) -> ir.Expr:
        length = unit.expr.fit(phase.length, ctx, TypeInfo(whole), "a phase's length")
        if unit.analysis.of_expr(length).time:
            raise Reject(
                "E501",
                "a phase's length is a value that is stored; this one changes with time",
                phase.length.span,
                "set a state in an event, and let the phase last as long",
            )
        return length

    def _sums(self, lengths: list[ir.Expr]) -> list[ir.Expr]:
        sums, total = [], lengths[0]
        for length in lengths[1:]:
            sums.append(total)
            total = a.binary("add", total, length, self.span)
        return [*sums, total]

    def _ladder(self, values: list[ir.Expr], beyond: ir.Expr) -> list[ir.Stmt]:
        """Return the value of the phase that the position is in."""
        rungs: list[ir.Stmt] = list(self.prologue)
        for end, value in zip(self.ends_at, values, strict=True):
            rungs.append(ir.If(a.binary("lt", self.position, end), (ir.Return(value),)))
        return [*rungs, ir.Return(beyond)]

    def level(self) -> list[ir.Stmt]:
        last = self.levels[-1] if self.final is None else self.final
        return self._ladder([ir.Const(int(v)) for v in self.levels], ir.Const(int(last)))

    def since(self) -> list[ir.Stmt]:
        starts = [a.FALSE, *self.ends_at[:-1]]
        return self._ladder([self._distance(self.position, s, self.longest - 1) for s in starts], a.FALSE)

    def left(self) -> list[ir.Stmt]:
        distances = [self._distance(e, self.position, self.longest, least=1) for e in self.ends_at]
        return self._ladder(distances, a.TRUE)

    def ends(self) -> list[ir.Stmt]:
        """Whether the present phase has an end."""
        if self.final is None:
            return [ir.Return(a.TRUE)]
        return [ir.Return(a.binary("lt", self.position, self.ends_at[-1]))]

    @staticmethod
    def _distance(late: ir.Expr, early: ir.Expr, most: int, least: int = 0) -> ir.Expr:
        """late - early, both in one phase: known to be least..most (the ladder's rung says so)."""
        difference = a.sub(late, early)
        kind = difference.type
        known = ir.Range(max(least, kind.lo), min(max(most, least), kind.hi))
        return difference if known == kind else ir.Narrow(difference, known)

    def rises(self) -> list[ir.Stmt]:
        return self._edges(False, True)

    def falls(self) -> list[ir.Stmt]:
        return self._edges(True, False)

    def _edges(self, before: bool, behind: bool) -> list[ir.Stmt]:
        """How often the level goes from `before` to `behind` in (t, later]."""
        total: ir.Expr = a.FALSE
        for i, level in enumerate(self.levels):
            if level == before:
                seen = a.both(a.binary("lt", a.FALSE, self.lengths[i]), self._follows(i, behind))
                total = a.binary("addw", total, a.cond(seen, self._crossings(i), a.FALSE))
        return [ir.Return(a.wrap(total, 32))]

    def _follows(self, i: int, level: bool) -> ir.Expr:
        """Whether the first phase after i that has a length has this level."""
        after = list(zip(self.lengths[i + 1 :], self.levels[i + 1 :], strict=True))
        if self.final is None:
            after += zip(self.lengths[: i + 1], self.levels[: i + 1], strict=True)
        last = self.levels[i] if self.final is None else self.final
        found: ir.Expr = ir.Const(int(last == level))
        for length, its in reversed(after):
            found = a.cond(a.binary("lt", a.FALSE, length), ir.Const(int(its == level)), found)
        return found

    def _crossings(self, i: int) -> ir.Expr:
        """How often the end of phase i lies in (t, later]."""
        end = self.ends_at[i]
        if self.final is not None:
            return a.both(a.binary("lt", self.counter, end), a.binary("le", end, self.later))
        period = self.ends_at[-1]
        rest = self._sums(self.lengths[i + 1 :])[-1] if self.lengths[i + 1 :] else a.FALSE
        if not ir.Range(0, self.later.type.hi + rest.type.hi).fits:
            raise Reject("E204", "the counter and the phases together may exceed 64 bits", self.span,
                         "let the wave go over a counter of fewer bits, such as u56")  # fmt: skip
        later, earlier = (a.binary("div", a.add(value, rest), period) for value in (self.later, self.counter))
        return a.binary("subw", later, earlier)
