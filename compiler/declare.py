"""Declarations: members of devices and blocks become entities, slots and functions.

In two rounds: `introduce` gives every member its name and slots, `finish`
elaborates the bodies (those that nobody used included, so that an error in
them is found).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import arithmetic as a
from . import ir, timing
from .builtins import BUILTINS
from .entities import (
    ADDRESSES,
    AlarmDef,
    BlockDef,
    ClockDef,
    ConstDef,
    CounterDef,
    CycleDef,
    EnumDef,
    LatchDef,
    LayoutDef,
    LetDef,
    LocalDef,
    ParamDef,
    ProcDef,
    RegDef,
    StateDef,
    TypeInfo,
    Value,
    WaveDef,
)
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit


MOST_INPUTS = 64
"""In an array of inputs: they are the bits of one number."""


class Declarations:
    """Elaborates the declarations of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.introduce: dict[type, Callable[[Any, Scope], None]] = {
            t.Clock: self._clock,
            t.Counter: self._counter,
            t.Alarm: self._alarm,
            t.State: self._state,
            t.Latch: self._latch,
            t.Cycle: self._cycle,
            t.Let: self._let,
            t.Wave: self._wave,
            t.Line: self.unit.lines.declare,
            t.Pin: self._pin,
            t.Bank: self.unit.banks.declare,
            t.Reg: self._reg,
            t.Proc: self._proc,
            t.Instance: self.unit.blocks.declare,
            t.Window: self.unit.windows.declare,
            t.Checkpoint: self.unit.checkpoints.declare,
            t.Python: self.unit.pythons.declare,
        }
        self.finish: dict[type, Callable[[Any, Scope], None]] = {
            t.Clock: self._finish_clock,
            t.Counter: self._finish_counter,
            t.Let: self._finish_let,
            t.Wave: self._finish_wave,
            t.Proc: self._finish_proc,
            t.Reg: self._finish_reg,
            t.On: self.unit.events.declare,
            t.Drive: self.unit.lines.drive,
            t.Bank: self.unit.banks.finish,
            t.Instance: self.unit.blocks.finish,
            t.Window: self.unit.windows.finish,
            t.Python: self.unit.pythons.finish,
            t.Checkpoint: self.unit.checkpoints.finish,
        }

    # --- the file ----------------------------------------------------------------

    def file(self, file: t.File) -> None:
        files = self.unit.files
        for item in file.items:
            if isinstance(item, t.Enum):
                self.unit.attempt(partial(self._enum, item, files), files, item.name)
        for item in file.items:
            if isinstance(item, t.Layout):
                self.unit.attempt(partial(self._layout, item, files), files, item.name)
            elif isinstance(item, t.Block):
                block = BlockDef(item.name.text, item.name.span, item)
                self.unit.attempt(partial(files.define, block), files, item.name)

    def _enum(self, tree: t.Enum, scope: Scope) -> None:
        members: dict[str, int] = {}
        for member in tree.members:
            if member.text in members:
                raise Reject("E102", f"'{member.text}' stands twice", member.span)
            members[member.text] = len(members)
        kind = EnumDef(tree.name.text, tree.name.span, members)
        scope.define(kind)
        self._members(kind, tree.members, scope)

    @staticmethod
    def _members(kind: EnumDef, names: tuple[t.Ident, ...], scope: Scope) -> None:
        for name in names:
            if name.text not in scope.names and name.text not in BUILTINS:
                value = Value(ir.Const(kind.members[name.text]), kind.width, kind)
                scope.define(ConstDef(name.text, name.span, value))

    def _layout(self, tree: t.Layout, scope: Scope) -> None:
        kind = self.type(tree.type, scope)
        if kind.width is None:
            raise Reject("E205", "a layout is laid over an exact width, such as u8", tree.type.span)
        fields: dict[str, tuple[int, int, TypeInfo]] = {}
        for field in tree.fields:
            size = field.bits.high - field.bits.low + 1
            if field.bits.high >= kind.width:
                raise Reject(
                    "E402", f"bit {field.bits.high} in a layout of {kind.width} bits", field.bits.span
                )
            if field.name.text in fields:
                raise Reject("E102", f"field '{field.name.text}' is defined already", field.name.span,
                             "choose another name")  # fmt: skip
            for other, (high, low, _) in fields.items():
                if low <= field.bits.high and field.bits.low <= high:
                    raise Reject("E401", f"field '{field.name.text}' overlaps '{other}'", field.bits.span,
                                 f"'{other}' has the bits {high}..{low}")  # fmt: skip
            inner = TypeInfo(ir.Range(0, 2**size - 1), size)
            if field.type is not None:
                inner = self.type(field.type, scope)
                if inner.width != size:
                    raise Reject(
                        "E205", f"the type has {inner.width} bits, the field {size}", field.type.span
                    )
                inner = TypeInfo(ir.Range(0, 2**size - 1), size, inner.nominal)
            fields[field.name.text] = (field.bits.high, field.bits.low, inner)
        scope.define(LayoutDef(tree.name.text, tree.name.span, kind, fields))

    def type(self, tree: t.Type, scope: Scope) -> TypeInfo:
        """A written type's interval, width and nominal type."""
        match tree:
            case t.IntervalType():
                if tree.lo > tree.hi:
                    raise Reject("E201", f"the interval {tree.lo}..{tree.hi} is empty", tree.span,
                                 f"write {tree.hi}..{tree.lo}")  # fmt: skip
                size = tree.hi.bit_length()
                exact = tree.lo == 0 and tree.hi == 2**size - 1 and size > 0
                return TypeInfo(ir.Range(tree.lo, tree.hi), size if exact else None)
            case t.EnumType():
                first, last = (scope.find(n.text, n.span) for n in (tree.first, tree.last))
                if not (isinstance(first, ConstDef) and isinstance(last, ConstDef)):
                    raise Reject("E103", "an interval of names is of members of one enum", tree.span)
                kind = first.value.nominal
                if not isinstance(kind, EnumDef) or last.value.nominal is not kind:
                    raise Reject("E103", "an interval of names is of members of one enum", tree.span)
                low, high = kind.members[tree.first.text], kind.members[tree.last.text]
                return TypeInfo(ir.Range(min(low, high), max(low, high)), kind.width, kind)
            case t.NamedType():
                return self._named(tree, scope)
        raise AssertionError(tree)

    def _named(self, tree: t.NamedType, scope: Scope) -> TypeInfo:
        if tree.name == "bool":
            return TypeInfo(ir.BOOL, 1)
        if found := re.fullmatch(r"u([1-9][0-9]?)", tree.name):
            size = int(found[1])
            if size <= 64:
                return TypeInfo(ir.Range(0, 2**size - 1), size)
        if tree.name in ADDRESSES:
            raise Reject("E103", f"'{tree.name}' is the type of a device's parameter", tree.span)
        entity = scope.find(tree.name, tree.span)
        if isinstance(entity, EnumDef):
            return TypeInfo(ir.Range(0, len(entity.members) - 1), entity.width, entity)
        if isinstance(entity, LayoutDef):
            return TypeInfo(entity.type.range, entity.type.width, entity)
        raise Reject("E103", f"'{tree.name}' is not a type", tree.span,
                     "types are bool, u1..u64, LOW..HIGH, enums and layouts")  # fmt: skip

    # --- the device ----------------------------------------------------------------

    def device(self, tree: t.Device) -> None:
        scope = self.unit.scope
        for param in tree.params:
            self.unit.attempt(partial(self._param, param, scope), scope, param.name)
        self._all(tree.members, scope)
        self.unit.lines.check()

    def _all(self, members: tuple[t.MemberDecl, ...], scope: Scope) -> None:
        for member in sorted(members, key=rank):
            if (handle := self.introduce.get(type(member))) is not None:
                self.unit.attempt(partial(handle, member, scope), scope, *names(member))
        # blocks come first, as a bank needs their registers' handlers; what an access
        # changes by itself comes last: it needs the procedures
        for member in sorted(
            members, key=lambda m: 2 * isinstance(m, (t.On, t.Drive)) - isinstance(m, t.Instance)
        ):
            if (handle := self.finish.get(type(member))) is not None:
                self.unit.attempt(partial(handle, member, scope))

    def _param(self, tree: t.Param, scope: Scope) -> None:
        name = tree.name.text
        address = (
            tree.type.name if isinstance(tree.type, t.NamedType) and tree.type.name in ADDRESSES else None
        )
        kind = TypeInfo(ADDRESSES[address]) if address else self.type(tree.type, scope)
        default = self.unit.reset_value(tree.default, kind, scope, name)
        slot = (
            None
            if address
            else self.unit.slot(scope, name, kind, kind="param", reset=default, span=tree.name.span)
        )
        scope.define(ParamDef(name, tree.name.span, kind, slot))
        self.unit.params.append(ir.Param(name, kind.range, default, slot, tree.doc))

    # --- stored things -------------------------------------------------------------

    def _clock(self, tree: t.Clock, scope: Scope) -> None:
        hz = self.unit.expr.value(tree.hz, Context(scope, scope.place))
        depends = self.unit.analysis.of_expr(hz.expr)
        if depends.time or any(self.unit.slots[slot].kind != "param" for slot in depends.reads):
            raise Reject("E501", "a clock's frequency does not change while the device runs", tree.hz.span,
                         "write a constant, or a parameter of the device")  # fmt: skip
        if not ir.Range(1, ir.MAX_HZ).contains(hz.type):
            raise Reject("E201", "a clock runs at 1 Hz to 1 GHz", tree.hz.span,
                         "a tick of less than 1 ns would fall between two instants")  # fmt: skip
        name = tree.name.text
        clock = ClockDef(name, tree.name.span, hz.expr, scope.prefix + name)
        if tree.condition is not None:
            if scope is not self.unit.scope:
                raise Reject("E103", "a clock that stands and starts belongs to the device", tree.span,
                             "give it to the block as an input: NAME: clock")  # fmt: skip
            clock.condition = tree.condition
            clock.epoch = self.unit.slot(scope, f"{name}.epoch", TypeInfo(ir.U64), span=tree.span)
            clock.on = self.unit.slot(
                scope, f"{name}.on", TypeInfo(ir.BOOL, 1), kind="derived", span=tree.span
            )
            self.unit.settling.clocks.append(clock)
        scope.define(clock)

    def _finish_clock(self, tree: t.Clock, scope: Scope) -> None:
        clock = scope.names.get(tree.name.text)
        if isinstance(clock, ClockDef) and tree.condition is not None:
            self.running(clock)

    def running(self, clock: ClockDef) -> ir.Expr:
        """The condition under which a clock runs."""
        if clock.condition is None:
            return a.TRUE
        function = f"{clock.unit}.runs"
        if function not in self.unit.functions:
            condition = self._lasting(clock.condition, self.unit.scope, "a clock runs")
            self.unit.function(function, (), ir.BOOL, [ir.Return(condition)], clock.span.line)
        return ir.Call(function, (), ir.BOOL)

    def _lasting(self, tree: t.Expr, scope: Scope, what: str) -> ir.Expr:
        """A condition over stored state: what changes with time cannot be solved for."""
        condition = self.unit.expr.truth(tree, Context(scope, scope.place))
        if self.unit.analysis.of_expr(condition).time:
            raise Reject(
                "E501",
                f"{what} while a condition over stored state holds; this changes with time",
                tree.span,
                "set a state in an event, and count while that holds",
            )
        return condition

    def _counter(self, tree: t.Counter, scope: Scope) -> None:
        clock = self.unit.refs.clock(tree.clock, Context(scope, scope.place))
        kind = self.type(tree.type, scope)
        if kind.width is None or kind.nominal is not None:
            raise Reject("E205", "a counter wraps at a whole number of bits: u1..u64", tree.type.span)
        name = tree.name.text
        base = self.unit.slot(scope, f"{name}.base", kind, span=tree.name.span)
        tick = self.unit.slot(scope, f"{name}.tick", TypeInfo(timing.ticks(clock).type), span=tree.name.span)
        on = None
        if tree.condition is not None or clock.condition is not None:
            on = self.unit.slot(
                scope, f"{name}.on", TypeInfo(ir.BOOL, 1), kind="derived", span=tree.name.span
            )
        function = f"{scope.prefix}{name}.value"
        counter = CounterDef(name, tree.name.span, base, tick, on, kind.width, clock, function)
        scope.define(counter)
        self.unit.timing.counter(counter, scope)

    def _finish_counter(self, tree: t.Counter, scope: Scope) -> None:
        counter = scope.declared(tree.name, CounterDef)
        if counter is None:
            return
        condition = None
        if tree.condition is not None:
            condition = self._lasting(tree.condition, scope, "a counter runs")
        if counter.clock.condition is not None:
            runs = self.running(counter.clock)
            condition = runs if condition is None else a.both(runs, condition)
        self.unit.settling.counters.append((counter, scope, condition))

    def _alarm(self, tree: t.Alarm, scope: Scope) -> None:
        clock = self.unit.refs.clock(tree.clock, Context(scope, scope.place))
        if clock.condition is not None:
            raise Reject(
                "E501",
                f"an alarm needs a clock that always runs; '{clock.name}' may stand",
                tree.clock.span,
                "use a counter of it, and 'on COUNTER reaches VALUE'",
            )
        kind = TypeInfo(ir.U64)
        slot = self.unit.slot(scope, tree.name.text, kind, reset=ir.NEVER, span=tree.name.span)
        due = self.unit.slot(scope, f"{tree.name.text}.due", kind, kind="derived", span=tree.name.span)
        scope.define(AlarmDef(tree.name.text, tree.name.span, slot, due, clock))

    def _state(self, tree: t.State, scope: Scope) -> None:
        kind = self.type(tree.type, scope)
        if tree.count is not None and not 1 <= tree.count <= 4096:
            raise Reject("E201", "an array has 1 to 4096 elements", tree.name.span)
        reset = self.unit.reset_value(tree.reset, kind, scope, tree.name.text)
        slot = self.unit.slot(scope, tree.name.text, kind, count=tree.count, reset=reset, span=tree.name.span)
        scope.define(StateDef(tree.name.text, tree.name.span, slot, kind, tree.count))

    def _latch(self, tree: t.Latch, scope: Scope) -> None:
        kind = self.type(tree.type, scope)
        slot = self.unit.slot(scope, tree.name.text, kind, reset=kind.range.lo, span=tree.name.span)
        full = self.unit.slot(scope, f"{tree.name.text}.full", TypeInfo(ir.BOOL, 1), span=tree.name.span)
        scope.define(LatchDef(tree.name.text, tree.name.span, slot, full, kind))

    def _cycle(self, tree: t.Cycle, scope: Scope) -> None:
        members = {phase.text: i for i, phase in enumerate(tree.phases)}
        phases = EnumDef("/".join(members), tree.phases[0].span, members, anonymous=True)
        if len(members) < 2 or len(members) != len(tree.phases):
            raise Reject("E102", "a cycle has two or more phases of different names", tree.span)
        self._members(phases, tree.phases, scope)
        for name in tree.names:
            kind = TypeInfo(ir.Range(0, len(members) - 1), phases.width)
            slot = self.unit.slot(scope, name.text, kind, span=name.span)
            scope.define(CycleDef(name.text, name.span, slot, phases))

    # --- equations -----------------------------------------------------------------

    def _let(self, tree: t.Let, scope: Scope) -> None:
        kind = self.type(tree.type, scope) if tree.type is not None else None
        function = f"{scope.prefix}{tree.name.text}.let"
        scope.define(self.unit.equation(function, tree.name, kind, tree.value, scope))

    def _finish_let(self, tree: t.Let, scope: Scope) -> None:
        entity = scope.declared(tree.name, LetDef)
        if entity is not None:
            self.unit.refs.let(entity, scope.place)

    def _wave(self, tree: t.Wave, scope: Scope) -> None:
        function = scope.prefix + tree.name.text

        def build() -> None:
            counter = scope.find(tree.counter.text, tree.counter.span)
            if not isinstance(counter, CounterDef):
                raise Reject("E103", f"'{tree.counter.text}' is not a counter", tree.counter.span)
            wave.counter = counter
            self.unit.timing.build(wave, tree, scope)

        counter = scope.names.get(tree.counter.text)
        wave = WaveDef(tree.name.text, tree.name.span, function, counter, build)  # type: ignore[arg-type]
        self.unit.waves[function] = wave
        scope.define(wave)

    def _finish_wave(self, tree: t.Wave, scope: Scope) -> None:
        wave = scope.declared(tree.name, WaveDef)
        if wave is not None:
            self.unit.timing.wave(wave)

    def _pin(self, tree: t.Pin, scope: Scope) -> None:
        """An input: a stored level that the board drives; an array of them is a number, a bit each."""
        count = 1 if tree.count is None else tree.count
        if not 1 <= count <= MOST_INPUTS:
            raise Reject("E201", f"an array of inputs has 1 to {MOST_INPUTS}", tree.span)
        name = tree.name.text
        kind = TypeInfo(ir.Range(0, 2**count - 1), count)
        slot = self.unit.slot(scope, name, kind, span=tree.span)
        scope.define(StateDef(name, tree.name.span, slot, kind))
        names = [name] if tree.count is None else [f"{name}[{bit}]" for bit in range(count)]
        self.unit.inputs += [ir.Input(each, slot, bit, tree.doc) for bit, each in enumerate(names)]

    def _proc(self, tree: t.Proc, scope: Scope) -> None:
        inputs = [(i.name, self.type(i.type, scope)) for i in tree.inputs]
        function = f"{scope.prefix}{tree.name.text}.do"

        def build() -> None:
            ctx = Context(scope, scope.place, pure=False, statement=True, line=tree.span.line).inner()
            for name, kind in inputs:
                local = Value(ir.Var(name.text, kind.range), kind.width, kind.nominal)
                ctx.scope.define(LocalDef(name.text, name.span, local))
            body = self.unit.statements.suite(tree.body, ctx)
            self.unit.warn_unused(ctx.scope)
            parameters = (*scope.parameters, *((n.text, k.range) for n, k in inputs))
            self.unit.function(function, parameters, None, body, tree.span.line)

        scope.define(ProcDef(tree.name.text, tree.name.span, function, inputs, build))

    def _finish_proc(self, tree: t.Proc, scope: Scope) -> None:
        proc = scope.declared(tree.name, ProcDef)
        if proc is not None:
            self.unit.procedure(proc)

    # --- registers of a block ----------------------------------------------------------

    def _reg(self, tree: t.Reg, scope: Scope) -> None:
        if tree.offset is not None:
            raise Reject("E402", "a block's register gets its offset where it is placed", tree.span,
                         "in the device's window: BLOCK.NAME @OFFSET")  # fmt: skip
        self.unit.registers.define(tree, scope, None)

    def _finish_reg(self, tree: t.Reg, scope: Scope) -> None:
        reg = scope.declared(tree.name, RegDef)
        if reg is not None:
            self.unit.registers.build(reg, scope)


FIRST: tuple[tuple[type, ...], ...] = ((t.Cycle, t.State, t.Pin, t.Python), (t.Clock,))
"""What others need when they are introduced, in order."""


def rank(member: t.MemberDecl) -> int:
    """When a member is introduced: a block's inputs may be the device's counters, lines and fields."""
    if isinstance(member, t.Instance):
        return len(FIRST) + 1
    return next((i for i, kinds in enumerate(FIRST) if isinstance(member, kinds)), len(FIRST))


def names(member: t.MemberDecl) -> Iterator[t.Ident]:
    """The names that a member puts into its scope; a window's is none of them."""
    if isinstance(member, t.Cycle):
        yield from member.names
    elif not isinstance(member, t.Window) and isinstance(name := getattr(member, "name", None), t.Ident):
        yield name
