"""Elaboration of statements: effects, branches, and what is known after them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import ir, timing
from .builtins import BUILTINS
from .entities import (
    AlarmDef,
    BitDef,
    ClockDef,
    CounterDef,
    CycleDef,
    ElementDef,
    FieldDef,
    InstanceDef,
    LatchDef,
    LocalDef,
    ProcDef,
    Ref,
    RegDef,
    StateDef,
    TypeInfo,
    Value,
    number_of,
    spoken,
)
from .lines import add_rises, attention
from .references import an_array
from .scope import Context

if TYPE_CHECKING:
    from .elaborate import Unit


class Statements:
    """Bodies of one device's registers, procedures and events."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self._locals = 0
        self._kinds: dict[type, Callable[[Any, Context], None]] = {
            t.LetStmt: self._let,
            t.Assign: self._assign,
            t.Fill: self._fill,
            t.Drop: self._drop,
            t.Arm: self._arm,
            t.Disarm: self._disarm,
            t.ReturnStmt: self._return,
            t.PassStmt: lambda node, ctx: None,
            t.CallStmt: self._call,
            t.StepStmt: lambda node, ctx: self._ignore(self._step(node.target, ctx)),
            t.StoreStmt: self._store_written,
            t.Pulse: self._pulse,
            t.IfStmt: self._if,
            t.MatchStmt: self._match,
            t.ForStmt: self._for,
        }

    @staticmethod
    def _ignore(value: Value) -> None:
        return None

    def suite(self, body: t.Suite, ctx: Context) -> list[ir.Stmt]:
        """A body's statements, in a scope of its own; each error is reported by itself."""
        inner = ctx.inner()
        failed = False
        for node in body:
            self.unit.budget.step(node.span)
            inner.line = node.span.line
            if inner.out and isinstance(inner.out[-1], ir.Return):
                raise Reject("E302", "nothing is reached after a return", node.span, "remove it")
            try:
                self._kinds[type(node)](node, inner)
            except Reject as reject:
                self.unit.diagnostics.report(reject)
                failed = True
                if isinstance(node, t.LetStmt):
                    inner.scope.poison(node.name.text, node.name.span)
        if failed:
            raise Reject()
        self.unit.warn_unused(inner.scope)
        return inner.out

    def returns(self, body: list[ir.Stmt] | ir.Block) -> bool:
        """Whether every path through a body ends in a return."""
        match body[-1] if body else None:
            case ir.Return():
                return True
            case ir.If(then=then, orelse=orelse):
                return self.returns(then) and self.returns(orelse)
            case ir.Switch(cases=cases, default=default):
                return all(self.returns(b) for _, b in cases) and self.returns(default)
        return False

    # --- heads: the only places of effects in expressions --------------------

    def head(self, node: t.Expr, ctx: Context, expected: TypeInfo | None = None) -> Value:
        """The expression at the head of a statement, where take and step may stand."""
        if isinstance(node, t.Take):
            return self._take(node, ctx)
        if isinstance(node, t.Step):
            return self._step(node.target, ctx)
        return self.unit.expr.value(node, ctx, expected)

    def _keep(self, value: Value, ctx: Context) -> Value:
        """Hold a value in a local, so that later effects do not change it."""
        if isinstance(value.expr, (ir.Const, ir.Var)):
            return value
        self._locals += 1
        name = f"local.{self._locals}"
        ctx.out.append(ir.Let(name, value.expr))
        return replace(value, expr=ir.Var(name, value.type))

    def _take(self, node: t.Take, ctx: Context) -> Value:
        latch, place = self._target(node.target, ctx, LatchDef, "a latch")
        full = ir.Load(latch.full, place, ir.BOOL)
        if ctx.facts.get(full) != ir.Range(1, 1):
            raise Reject("E301", f"'{latch.name}' may be empty here", node.span,
                         f"'if {latch.name}: ...' first, or '{latch.name} or OTHER'")  # fmt: skip
        held = ir.Load(latch.slot, place, latch.type.range)
        taken = self._keep(Value(held, latch.type.width, latch.type.nominal), ctx)
        self._store(latch.full, place, a.FALSE, ctx)
        return taken

    def _step(self, target: t.Expr, ctx: Context) -> Value:
        cycle, place = self._target(target, ctx, CycleDef, "a cycle")
        count = len(cycle.phases.members)
        kind = ir.Range(0, count - 1)
        phase = self._keep(Value(ir.Load(cycle.slot, place, kind), cycle.phases.width, cycle.phases), ctx)
        following = a.cond(
            a.eq(phase.expr, ir.Const(count - 1)),
            a.FALSE,
            ir.Narrow(a.add(phase.expr, a.TRUE), ir.Range(1, count - 1)),
        )
        self._store(cycle.slot, place, following, ctx)
        return phase

    def _target(self, node: t.Expr, ctx: Context, kind: type, what: str) -> tuple[Any, tuple[ir.Expr, ...]]:
        found = self.unit.refs.resolve(node, ctx)
        if not isinstance(found, Ref):
            raise Reject("E103", f"{what} is needed here, and this is a value", node.span)
        if not isinstance(found.entity, kind):
            is_that = f"'{found.entity.name}' is {spoken(found.entity)}"
            raise Reject("E103", f"{what} is needed here, and {is_that}", node.span)
        return found.entity, found.place

    def _store(self, slot: str, place: tuple[ir.Expr, ...], value: ir.Expr, ctx: Context) -> None:
        ctx.out.append(ir.Store(slot, place, value, ctx.line))
        self._forget(ctx, frozenset((slot,)))

    def _forget(self, ctx: Context, written: frozenset[str]) -> None:
        """What was known of values in which these slots have a part no longer holds."""
        ctx.forget(lambda expr: bool(self.unit.analysis.of_expr(expr).reads & written))

    def _writes(self, body: ir.Block) -> frozenset[str]:
        """What a body changes for those after it: nothing if it does not come to its end."""
        return frozenset() if self.returns(body) else self.unit.analysis.of_block(body).writes

    # --- simple statements -----------------------------------------------------

    def _let(self, node: t.LetStmt, ctx: Context) -> None:
        kind = self.unit.type(node.type, ctx.scope) if node.type is not None else None
        found = self.head(node.value, ctx, kind)
        if kind is not None:
            self.unit.expr.fitted(found, kind, node.value, f"'{node.name.text}'")
            found = replace(found, width=kind.width, nominal=kind.nominal)
        ctx.scope.define(LocalDef(node.name.text, node.name.span, self._keep(found, ctx)))

    def _assign(self, node: t.Assign, ctx: Context) -> None:
        if isinstance(node.target, t.Index):
            return self._assign_element(node, node.target, ctx)
        found = self.unit.refs.resolve(node.target, ctx)
        if not isinstance(found, Ref):
            raise Reject("E103", "only what is stored can be assigned, and this is a value", node.target.span,
                         "a part of a layout or of a number is changed by assigning the whole")  # fmt: skip
        entity, place, name = found.entity, found.place, found.entity.name
        fit = self.unit.expr.fit
        match entity:
            case StateDef() if entity.count is None:
                self._store(entity.slot, place, fit(node.value, ctx, entity.type, f"'{name}'"), ctx)
            case CycleDef():
                kind = TypeInfo(
                    ir.Range(0, len(entity.phases.members) - 1), entity.phases.width, entity.phases
                )
                self._store(entity.slot, place, fit(node.value, ctx, kind, f"'{name}'"), ctx)
            case CounterDef():
                kind = TypeInfo(timing.counter_range(entity), entity.bits)
                value = self.unit.expr.value(node.value, ctx, kind)
                self._same_clock(value, entity.clock, node.value.span)
                self.unit.expr.fitted(value, kind, node.value, f"counter '{name}'")
                ctx.out += timing.set_counter(entity, place, value.expr)
                self._forget(ctx, frozenset((entity.base, entity.tick)))
            case FieldDef() if entity.slot is not None:
                self._store(entity.slot, place, fit(node.value, ctx, entity.type, f"field '{name}'"), ctx)
            case RegDef() if entity.storage is not None:
                self._store(entity.storage, place, fit(node.value, ctx, entity.type, f"'{name}'"), ctx)
            case BitDef():
                kind = TypeInfo(ir.BOOL, 1)
                self._assign_bit(entity, fit(node.value, ctx, kind, f"'{name}'"), ctx)
            case LatchDef():
                self._fill_latch(entity, place, fit(node.value, ctx, entity.type, f"latch '{name}'"), ctx)
            case StateDef():
                raise an_array(name, node.target.span)
            case LocalDef():
                raise Reject("E301", f"'{name}' is a local, which keeps its value", node.target.span,
                             "give the new value a name of its own with 'let'")  # fmt: skip
            case _:
                raise Reject("E301", f"'{name}' is not stored, it cannot be assigned", node.target.span,
                             "assign what its equation depends on")  # fmt: skip
        return None

    def _assign_element(self, node: t.Assign, target: t.Index, ctx: Context) -> None:
        found = self.unit.refs.resolve(target.base, ctx)
        element = self.unit.refs.resolve(target, ctx)
        if not (
            isinstance(found, Ref) and isinstance(found.entity, StateDef) and found.entity.count is not None
        ):
            raise Reject("E103", "of all indexed things, only an element of a state array can be assigned",
                         target.span, "assign the whole, as x = x | 1 << BIT")  # fmt: skip
        assert isinstance(element, Value)
        assert isinstance(element.expr, ir.Load)
        value = self.unit.expr.fit(node.value, ctx, found.entity.type, f"'{found.entity.name}'")
        self._store(element.expr.slot, element.expr.index, value, ctx)

    def _assign_bit(self, bit: BitDef, value: ir.Expr, ctx: Context) -> None:
        """Set one bit of a stored value to a BOOL."""
        whole = ir.Load(bit.slot, (), bit.type)
        ones = ir.Const(2 ** bit.type.hi.bit_length() - 1)
        mask = a.wrap(a.binary("shl", a.TRUE, bit.position), ones.value.bit_length())
        if value == a.TRUE:
            changed = a.binary("or", whole, mask)
        else:
            cleared = a.binary("and", whole, a.binary("xor", mask, ones))
            moved = a.wrap(a.binary("shl", value, bit.position), ones.value.bit_length())
            changed = a.binary("or", cleared, moved)
        self._store(bit.slot, (), changed, ctx)

    def _store_written(self, node: t.StoreStmt, ctx: Context) -> None:
        if ctx.written is None:
            raise Reject("E103", "'store' stands in the write of a register that stores something", node.span,
                         "give the register fields, or no read of its own")  # fmt: skip
        ctx.out += ctx.written
        self._forget(ctx, self.unit.analysis.of_block(tuple(ctx.written)).writes)

    def _pulse(self, node: t.Pulse, ctx: Context) -> None:
        line, index = self.unit.lines.resolve(node.line, ctx.scope, ctx)
        line.pulsed = True
        kind = TypeInfo(ir.U64)
        count = self.unit.expr.fit(node.count, ctx, kind, "a number of pulses") if node.count else a.TRUE
        ctx.out += [add_rises(a.add(ir.Const(line.bit), index), count), attention(ir.ATTENTION_LINES)]

    def _fill_latch(self, latch: LatchDef, place: tuple[ir.Expr, ...], value: ir.Expr, ctx: Context) -> None:
        ctx.out.append(ir.Store(latch.slot, place, value, ctx.line))
        self._store(latch.full, place, a.TRUE, ctx)

    def _fill(self, node: t.Fill, ctx: Context) -> None:
        latch, place = self._target(node.target, ctx, LatchDef, "a latch")
        empty = a.negate(ir.Load(latch.full, place, ir.BOOL))
        inner = ctx.inner()
        value = self.unit.expr.fit(node.value, inner, latch.type, f"latch '{latch.name}'")
        self._fill_latch(latch, place, value, inner)
        ctx.out.append(ir.If(empty, tuple(inner.out)))
        self._forget(ctx, frozenset((latch.slot, latch.full)))

    def _drop(self, node: t.Drop, ctx: Context) -> None:
        latch, place = self._target(node.target, ctx, LatchDef, "a latch")
        self._store(latch.full, place, a.FALSE, ctx)

    def _arm(self, node: t.Arm, ctx: Context) -> None:
        alarm, place = self._target(node.target, ctx, AlarmDef, "an alarm")
        distance = self.unit.expr.value(node.ticks, ctx)
        if distance.type.lo < 1:
            raise Reject("E201", f"an alarm is armed 1 or more ticks ahead, this may be {distance.type.lo}",
                         node.ticks.span, "max(1, ...)")  # fmt: skip
        self._same_clock(distance, alarm.clock, node.ticks.span)
        tick = self._keep(Value(timing.after(alarm.clock, distance.expr)), ctx)
        ctx.out.append(ir.Store(alarm.slot, place, tick.expr, ctx.line))
        self._store(alarm.due, place, timing.nanos(tick.expr, alarm.clock), ctx)

    @staticmethod
    def _same_clock(value: Value, clock: ClockDef, span: Span) -> None:
        if value.unit not in (None, clock.unit):
            raise Reject("E206", f"ticks of {clock.unit} are needed, these are of {value.unit}", span,
                         "store them first: a stored value is a plain number")  # fmt: skip

    def _disarm(self, node: t.Disarm, ctx: Context) -> None:
        alarm, place = self._target(node.target, ctx, AlarmDef, "an alarm")
        ctx.out.append(ir.Store(alarm.slot, place, ir.Const(ir.NEVER), ctx.line))
        self._store(alarm.due, place, ir.Const(ir.NEVER), ctx)

    def _return(self, node: t.ReturnStmt, ctx: Context) -> None:
        if ctx.result is None:
            raise Reject("E103", "only a register's read returns a value", node.span)
        found = self.head(node.value, ctx, ctx.result)
        if not ctx.result.range.contains(found.type):
            self.unit.expr.fit(node.value, ctx, ctx.result, "the register")
        ctx.out.append(ir.Return(found.expr))

    def _call(self, node: t.CallStmt, ctx: Context) -> None:
        if isinstance(node.function, t.Name) and node.function.name in BUILTINS:
            raise Reject("E103", f"a procedure is needed here, and '{node.function.name}' only gives a value",
                         node.function.span, "assign it to something: x = ...")  # fmt: skip
        proc, place = self._target(node.function, ctx, ProcDef, "a procedure")
        self.unit.procedure(proc)
        if len(node.args) != len(proc.inputs):
            raise Reject(
                "E103",
                f"'{proc.name}' takes {number_of(len(proc.inputs), 'value')}, not {len(node.args)}",
                node.span,
            )
        args = [
            self.unit.expr.fit(arg, ctx, kind, f"input '{name.text}'")
            for arg, (name, kind) in zip(node.args, proc.inputs, strict=True)
        ]
        ctx.out.append(ir.Do(ir.Call(proc.function, (*place, *args), ir.BOOL)))
        self._forget(ctx, self.unit.analysis.of(proc.function).writes)

    # --- branches --------------------------------------------------------------

    def _if(self, node: t.IfStmt, ctx: Context) -> None:
        facts = self.unit.branches.facts
        test = self.unit.expr.truth(node.test, ctx)
        holds, fails = facts(node.test, ctx, True), facts(node.test, ctx, False)
        then = tuple(self.suite(node.then, ctx.knowing(holds)))
        orelse = tuple(self.suite(node.orelse, ctx.knowing(fails)))
        ctx.out.append(ir.If(test, then, orelse))
        if self.returns(then) != self.returns(orelse):
            ctx.learn(fails if self.returns(then) else holds)
        self._forget(ctx, self._writes(then) | self._writes(orelse))

    def _match(self, node: t.MatchStmt, ctx: Context) -> None:
        found = self.head(node.subject, ctx)
        subject = self._keep(found, ctx)
        patterns = [case.patterns for case in node.cases]
        source = found.expr if not isinstance(node.subject, (t.Take, t.Step)) else None
        groups = self.unit.branches.cases(subject, patterns, ctx, node.span, source)
        bodies = [
            tuple(self.suite(case.body, inner)) for case, (_, inner) in zip(node.cases, groups, strict=True)
        ]
        last, cases = bodies[-1], list(zip(groups, bodies, strict=True))[:-1]
        ctx.out.append(
            ir.Switch(subject.expr, tuple((values or (), body) for (values, _), body in cases), last)
        )
        self._forget(ctx, frozenset().union(*(self._writes(body) for body in bodies)))

    def _for(self, node: t.ForStmt, ctx: Context) -> None:
        array = ctx.scope.find(node.over.text, node.over.span)
        if not isinstance(array, InstanceDef) or array.count is None:
            raise Reject("E103", f"'{node.over.text}' is not an array of blocks", node.over.span,
                         "'for' unrolls over a declared array: NAME[n: COUNT]: Block(...)")  # fmt: skip
        for index in range(array.count):
            inner = ctx.inner()
            inner.scope.define(ElementDef(node.name.text, node.name.span, array, index))
            test = self.unit.expr.truth(node.where, inner) if node.where is not None else a.TRUE
            body = tuple(self.suite(node.body, inner))
            inner.scope.use(node.name.text)
            if ctx.out and isinstance(ctx.out[-1], ir.Return):
                raise Reject("E302", "only the first turn of this 'for' is reached: it returns", node.span)
            ctx.out += list(body) if test == a.TRUE else [ir.If(test, body)]
            self._forget(ctx, self._writes(body))
