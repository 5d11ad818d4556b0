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
from ..dsl.diagnostics import NOWHERE, Reject
from . import arithmetic as a
from . import ir, timing
from .analysis import Analysis
from .builtins import BUILTINS
from .registers import Decoder, Placed
from .scope import (
    AlarmDef,
    BlockDef,
    ClockDef,
    ConstDef,
    Context,
    CounterDef,
    CycleDef,
    EnumDef,
    FieldDef,
    InputDef,
    InstanceDef,
    LatchDef,
    LayoutDef,
    LineDef,
    LocalDef,
    ParamDef,
    ProcDef,
    PythonDef,
    Ref,
    RegDef,
    Scope,
    StateDef,
    TypeInfo,
    Value,
    WaveDef,
)
from .settling import Watch

if TYPE_CHECKING:
    from .elaborate import Unit

ADDRESSES = {"port": ir.U16, "address": ir.U64}
MAX_ELEMENTS = 64
MAX_WINDOW = 4096


class Declarations:
    """Elaborates the declarations of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self._windows: list[tuple[t.Window, list[Placed], int | str]] = []
        self._introduce: dict[type, Callable[[Any, Scope], None]] = {
            t.Clock: self._clock, t.Counter: self._counter, t.Alarm: self._alarm, t.State: self._state,
            t.Latch: self._latch, t.Cycle: self._cycle, t.Let: self._let, t.Wave: self._wave,
            t.Line: self._line, t.Reg: self._reg, t.Proc: self._proc, t.Instance: self._instance,
            t.Window: self._window, t.Checkpoint: self._checkpoint, t.Python: self._python,
        }  # fmt: skip
        self._finish: dict[type, Callable[[Any, Scope], None]] = {
            t.Counter: self._finish_counter, t.Let: self._finish_let, t.Wave: self._finish_wave,
            t.Proc: self._finish_proc, t.Reg: self._finish_reg, t.On: self.unit.settling.on,
            t.Drive: self._finish_drive, t.Instance: self._finish_instance, t.Window: self._finish_window,
            t.Python: self._finish_python,
        }  # fmt: skip

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
            if any(low <= field.bits.high and field.bits.low <= high for high, low, _ in fields.values()):
                raise Reject("E401", f"field '{field.name.text}' overlaps another", field.bits.span)
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
        self.unit.attempt(self._drivers)

    def _all(self, members: tuple[t.MemberDecl, ...], scope: Scope) -> None:
        first = (
            t.Enum,
            t.Clock,
            t.Cycle,
            t.State,
            t.Python,
        )  # names that others need when they are introduced
        for member in sorted(members, key=lambda m: not isinstance(m, first)):
            if (handle := self._introduce.get(type(member))) is not None:
                self.unit.attempt(partial(handle, member, scope), scope, *_names(member))
        # what an access changes by itself comes last: it needs the procedures
        for member in sorted(members, key=lambda m: isinstance(m, (t.On, t.Drive))):
            if (handle := self._finish.get(type(member))) is not None:
                self.unit.attempt(partial(handle, member, scope))

    def _param(self, tree: t.Param, scope: Scope) -> None:
        name = tree.name.text
        address = (
            tree.type.name if isinstance(tree.type, t.NamedType) and tree.type.name in ADDRESSES else None
        )
        kind = TypeInfo(ADDRESSES[address]) if address else self.type(tree.type, scope)
        default = self.unit.reset_value(tree.default, kind, scope)
        slot = None if address else self.unit.slot(scope, name, kind, kind="param", reset=default)
        scope.define(ParamDef(name, tree.name.span, kind, slot))
        self.unit.params.append(ir.Param(name, kind.range, default, slot, tree.doc))

    def _drivers(self) -> None:
        for line in self.unit.lines:
            if line.driver is None:
                raise Reject(
                    "E502", f"nothing drives line '{line.name}'", line.span, f"drive {line.name} = ..."
                )

    def _checkpoint(self, tree: t.Checkpoint, scope: Scope) -> None:
        if not 1 <= tree.version < 2**32:
            raise Reject("E201", "a checkpoint's version is 1 or more", tree.span)
        self.unit.version = tree.version

    # --- stored things -------------------------------------------------------------

    def _clock(self, tree: t.Clock, scope: Scope) -> None:
        hz = self.unit.expr.value(tree.hz, Context(scope, ()))
        if not ir.Range(1, ir.MAX_HZ).contains(hz.type):
            raise Reject("E201", "a clock runs at 1 Hz to 1 GHz", tree.hz.span,
                         "a tick of less than 1 ns would fall between two instants")  # fmt: skip
        scope.define(ClockDef(tree.name.text, tree.name.span, hz.expr))

    def _counter(self, tree: t.Counter, scope: Scope) -> None:
        clock = self.unit.expr.clock(tree.clock, Context(scope, scope.place))
        kind = self.type(tree.type, scope)
        if kind.width is None or kind.nominal is not None:
            raise Reject("E205", "a counter wraps at a whole number of bits: u1..u64", tree.type.span)
        name = tree.name.text
        base = self.unit.slot(scope, f"{name}.base", kind)
        tick = self.unit.slot(scope, f"{name}.tick", TypeInfo(timing.ticks(clock).type))
        on = None
        if tree.condition is not None:
            on = self.unit.slot(scope, f"{name}.on", TypeInfo(ir.BOOL, 1), kind="derived")
        function = f"{scope.prefix}{name}.value"
        counter = CounterDef(name, tree.name.span, base, tick, on, kind.width, clock, function)
        scope.define(counter)
        self.unit.timing.counter(counter, scope)

    def _finish_counter(self, tree: t.Counter, scope: Scope) -> None:
        counter = scope.names[tree.name.text]
        assert isinstance(counter, CounterDef)
        condition = None
        if tree.condition is not None:
            condition = self.unit.expr.truth(tree.condition, Context(scope, scope.place))
            if Analysis(self.unit.functions).of_expr(condition).time:
                raise Reject("E501", "a counter runs while a condition over stored state holds; this changes with time",
                             tree.condition.span, "set a state in an event, and count while that holds")  # fmt: skip
        self.unit.settling.counters.append((counter, scope, condition))

    def _alarm(self, tree: t.Alarm, scope: Scope) -> None:
        clock = self.unit.expr.clock(tree.clock, Context(scope, scope.place))
        kind = TypeInfo(ir.U64)
        slot = self.unit.slot(scope, tree.name.text, kind, reset=ir.NEVER)
        due = self.unit.slot(scope, f"{tree.name.text}.due", kind, kind="derived")
        scope.define(AlarmDef(tree.name.text, tree.name.span, slot, due, clock))

    def _state(self, tree: t.State, scope: Scope) -> None:
        kind = self.type(tree.type, scope)
        if tree.count is not None and not 1 <= tree.count <= 4096:
            raise Reject("E201", "an array has 1 to 4096 elements", tree.name.span)
        reset = self.unit.reset_value(tree.reset, kind, scope)
        slot = self.unit.slot(scope, tree.name.text, kind, count=tree.count, reset=reset)
        scope.define(StateDef(tree.name.text, tree.name.span, slot, kind, tree.count))

    def _latch(self, tree: t.Latch, scope: Scope) -> None:
        kind = self.type(tree.type, scope)
        slot = self.unit.slot(scope, tree.name.text, kind, reset=kind.range.lo)
        full = self.unit.slot(scope, f"{tree.name.text}.full", TypeInfo(ir.BOOL, 1))
        scope.define(LatchDef(tree.name.text, tree.name.span, slot, full, kind))

    def _cycle(self, tree: t.Cycle, scope: Scope) -> None:
        members = {phase.text: i for i, phase in enumerate(tree.phases)}
        phases = EnumDef("/".join(members), tree.phases[0].span, members, anonymous=True)
        if len(members) < 2 or len(members) != len(tree.phases):
            raise Reject("E102", "a cycle has two or more phases of different names", tree.span)
        self._members(phases, tree.phases, scope)
        for name in tree.names:
            slot = self.unit.slot(scope, name.text, TypeInfo(ir.Range(0, len(members) - 1), phases.width))
            scope.define(CycleDef(name.text, name.span, slot, phases))

    # --- equations -----------------------------------------------------------------

    def _let(self, tree: t.Let, scope: Scope) -> None:
        kind = self.type(tree.type, scope) if tree.type is not None else None
        scope.define(self.unit.equation(scope.prefix + tree.name.text, tree.name, kind, tree.value, scope))

    def _finish_let(self, tree: t.Let, scope: Scope) -> None:
        entity = scope.names.get(tree.name.text)
        if entity is not None:
            self.unit.expr.let(entity, scope.place)  # type: ignore[arg-type]

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
        wave = scope.names.get(tree.name.text)
        if isinstance(wave, WaveDef):
            self.unit.timing.wave(wave)

    def _line(self, tree: t.Line, scope: Scope) -> None:
        if scope is not self.unit.scope:
            raise Reject(
                "E103",
                "lines belong to the device",
                tree.span,
                "declare it there, and drive it from the block",
            )
        if len(self.unit.lines) == 32:
            raise Reject("E502", "a device has at most 32 lines", tree.span)
        line = LineDef(tree.name.text, tree.name.span, len(self.unit.lines), tree.doc)
        scope.define(line)
        self.unit.lines.append(line)

    def _finish_drive(self, tree: t.Drive, scope: Scope) -> None:
        line = self.unit.scope.find(tree.line.text, tree.line.span)
        if not isinstance(line, LineDef):
            raise Reject("E103", f"'{tree.line.text}' is not a line", tree.line.span)
        if line.driver is not None:
            raise Reject("E502", f"line '{line.name}' is driven already, in line {line.driver.span.line}", tree.span,
                         "one equation drives a line; join them with 'or'")  # fmt: skip
        line.driver = tree
        self.unit.settling.drive(line, tree, scope)

    def _proc(self, tree: t.Proc, scope: Scope) -> None:
        inputs = [(i.name, self.type(i.type, scope)) for i in tree.inputs]
        function = f"{scope.prefix}{tree.name.text}"

        def build() -> None:
            ctx = Context(scope, scope.place, pure=False, statement=True, line=tree.span.line).inner()
            for name, kind in inputs:
                local = Value(ir.Var(name.text, kind.range), kind.width, kind.nominal)
                ctx.scope.define(LocalDef(name.text, name.span, local))
            body = self.unit.statements.suite(tree.body, ctx)
            parameters = (*scope.parameters, *((n.text, k.range) for n, k in inputs))
            self.unit.function(function, parameters, None, body, tree.span.line)

        scope.define(ProcDef(tree.name.text, tree.name.span, function, inputs, build))

    def _finish_proc(self, tree: t.Proc, scope: Scope) -> None:
        proc = scope.names.get(tree.name.text)
        if isinstance(proc, ProcDef):
            self.unit.procedure(proc)

    # --- registers, windows, blocks ----------------------------------------------------

    def _reg(self, tree: t.Reg, scope: Scope) -> None:
        if tree.offset is not None:
            raise Reject("E402", "a block's register gets its offset where it is placed", tree.span,
                         "in the device's window: BLOCK.NAME @OFFSET")  # fmt: skip
        scope.define(self.unit.registers.declare(tree, scope, None))

    def _finish_reg(self, tree: t.Reg, scope: Scope) -> None:
        reg = scope.names.get(tree.name.text)
        if isinstance(reg, RegDef):
            self.unit.registers.build(reg, scope)

    def _window(self, tree: t.Window, scope: Scope) -> None:
        if scope is not self.unit.scope:
            raise Reject(
                "E103", "windows belong to the device", tree.span, "place the block's registers there"
            )
        if not 1 <= tree.size <= MAX_WINDOW:
            raise Reject("E402", f"a window has 1 to {MAX_WINDOW} bytes", tree.span)
        for item in tree.items:
            if isinstance(item, t.Reg):
                declare = lambda item=item: scope.define(  # noqa: E731
                    self.unit.registers.declare(item, scope, tree.lanes)
                )
                self.unit.attempt(declare, scope, item.name)

    def _finish_window(self, tree: t.Window, scope: Scope) -> None:
        placed: list[Placed] = []
        for item in tree.items:
            if isinstance(item, t.Reg):
                reg = scope.names.get(item.name.text)
                if not isinstance(reg, RegDef):
                    continue
                if item.offset is None:
                    raise Reject(
                        "E402", f"register '{reg.name}' has no offset", item.name.span, "reg NAME @OFFSET ..."
                    )
                self.unit.registers.build(reg, scope)
                placed.append(Placed(reg, (), item.offset, reg.name))
            else:
                placed += self._placed(item, scope)
        self._check_overlap(tree, placed)
        self._windows.append((tree, placed, self._base(tree, scope)))

    def _placed(self, tree: t.Place, scope: Scope) -> list[Placed]:
        """A block's register at an offset; over an array, the offset is an equation of its index."""
        reference = tree.register
        if not isinstance(reference, t.Attribute):
            raise Reject("E103", "a block's register is needed: BLOCK.REGISTER @OFFSET", tree.span)
        ctx = Context(scope, ())
        if isinstance(reference.base, t.Index) and isinstance(reference.base.index, t.Name):
            array = self.unit.expr.resolve(reference.base.base, ctx)
            if (
                isinstance(array, Ref)
                and isinstance(array.entity, InstanceDef)
                and array.entity.count is not None
            ):
                return self._placed_array(tree, reference, array.entity, reference.base.index, scope)
        found = self.unit.expr.resolve(reference, ctx)
        if not isinstance(found, Ref) or not isinstance(found.entity, RegDef):
            raise Reject("E103", "a block's register is needed here", reference.span)
        offset = self.unit.expr.constant(tree.offset, ctx)
        return [Placed(found.entity, found.place, offset, spell(reference))]

    def _placed_array(
        self, tree: t.Place, reference: t.Attribute, array: InstanceDef, index: t.Name, scope: Scope
    ) -> list[Placed]:
        result = []
        for i in range(array.count or 0):
            inner = Context(scope, ()).inner()
            inner.scope.define(LocalDef(index.name, index.span, Value(ir.Const(i))))
            found = self.unit.expr.resolve(reference, inner)
            if not isinstance(found, Ref) or not isinstance(found.entity, RegDef):
                raise Reject("E103", "a block's register is needed here", reference.span)
            offset = self.unit.expr.constant(tree.offset, inner)
            name = f"{array.name}[{i}].{reference.name.text}"
            result.append(Placed(found.entity, (ir.Const(i),), offset, name))
        return result

    @staticmethod
    def _check_overlap(tree: t.Window, placed: list[Placed]) -> None:
        taken: dict[int, Placed] = {}
        for register in placed:
            for byte in range(register.offset, register.offset + register.reg.width):
                if byte in taken:
                    raise Reject("E401", f"'{register.name}' overlaps '{taken[byte].name}' at offset {byte:#x}",
                                 register.reg.span)  # fmt: skip
                if byte >= tree.size:
                    raise Reject("E402", f"'{register.name}' reaches beyond the window's {tree.size} bytes",
                                 register.reg.span, "make the window larger: size ...")  # fmt: skip
                taken[byte] = register

    def _base(self, tree: t.Window, scope: Scope) -> int | str:
        limit = ADDRESSES["port" if tree.space == "io" else "address"].hi
        if isinstance(tree.base, t.Name):
            found = scope.find(tree.base.name, tree.base.span)
            if isinstance(found, ParamDef) and found.slot is None:
                return found.name
        base = self.unit.expr.constant(tree.base, Context(scope, ()))
        if base + tree.size - 1 > limit:
            raise Reject("E402", f"the window reaches beyond {limit:#x}", tree.base.span)
        return base

    def decoders(self) -> list[tuple[Decoder, int | str]]:
        result = []
        names: set[str] = set()
        for tree, placed, base in self._windows:
            name = tree.name.text if tree.name else tree.space
            if name in names or name in self.unit.functions:
                raise Reject("E102", f"a second window '{name}'", tree.span, "name it: io NAME at ...")
            names.add(name)
            result.append((Decoder(self.unit, name, tree, placed), base))
        return result

    def _instance(self, tree: t.Instance, scope: Scope) -> None:
        if scope is not self.unit.scope:
            raise Reject("E103", "blocks are made part of the device, not of other blocks", tree.span)
        block = scope.find(tree.block.text, tree.block.span)
        if not isinstance(block, BlockDef):
            raise Reject("E103", f"'{tree.block.text}' is not a block", tree.block.span)
        if tree.count is not None and not 1 <= tree.count <= MAX_ELEMENTS:
            raise Reject("E201", f"an array of blocks has 1 to {MAX_ELEMENTS} elements", tree.span)
        name = tree.name.text
        index = (f"{tree.index.text}.index", tree.count) if tree.index and tree.count else None
        inner = Scope(self.unit.diagnostics, self.unit.files, index=index, prefix=f"{name}.")
        scope.define(InstanceDef(name, tree.name.span, inner, tree.count))
        self._arguments(tree, block.tree, inner, scope)
        for member in block.tree.members:
            if isinstance(member, (t.Line, t.Instance, t.Window, t.Checkpoint)):
                raise Reject("E103", "lines, windows and blocks belong to the device", member.span)
        first = (t.Clock, t.Cycle, t.State)
        for member in sorted(block.tree.members, key=lambda m: not isinstance(m, first)):
            if (handle := self._introduce.get(type(member))) is not None:
                self.unit.attempt(partial(handle, member, inner), inner, *_names(member))

    def _arguments(self, tree: t.Instance, block: t.Block, inner: Scope, scope: Scope) -> None:
        given = {argument.name.text: argument for argument in tree.arguments}
        for name in given:
            if name not in {i.name.text for i in block.inputs}:
                raise Reject("E101", f"block '{block.name.text}' has no input '{name}'", given[name].span)
        for item in block.inputs:
            name = item.name.text
            if name not in given:
                raise Reject("E103", f"input '{name}' of block '{block.name.text}' is not given", tree.span,
                             f"{tree.name.text}: {block.name.text}({name} = ...)")  # fmt: skip
            if isinstance(item.type, t.NamedType) and item.type.name == "clock":
                argument = given[name].value
                if not isinstance(argument, t.Name):
                    raise Reject("E103", "a clock's name is needed here", argument.span)
                clock = self.unit.expr.clock(t.Ident(argument.span, argument.name), Context(scope, ()))
                inner.names[name] = clock
                inner.used.add(name)
            else:
                inner.define(
                    InputDef(name, item.name.span, f"{inner.prefix}{name}", self.type(item.type, inner))
                )

    def _finish_inputs(self, tree: t.Instance, inner: Scope, scope: Scope) -> None:
        """An input is an equation of the device, with the array's index in sight."""
        for argument in tree.arguments:
            entity = inner.names.get(argument.name.text)
            if isinstance(entity, InputDef):
                outer = Context(scope, ()).inner()
                if inner.index is not None and tree.index is not None:
                    outer.scope.define(LocalDef(tree.index.text, tree.index.span, Value(inner.place[0])))
                value = self.unit.expr.fit(argument.value, outer, entity.type, f"input '{entity.name}'")
                result = entity.type.range
                self.unit.function(
                    entity.function, inner.parameters, result, [ir.Return(value)], argument.span.line
                )

    def _finish_instance(self, tree: t.Instance, scope: Scope) -> None:
        entity = scope.names.get(tree.name.text)
        if not isinstance(entity, InstanceDef):
            return
        self._finish_inputs(tree, entity.scope, scope)
        block = scope.find(tree.block.text, tree.block.span)
        assert isinstance(block, BlockDef)
        for member in sorted(block.tree.members, key=lambda m: isinstance(m, (t.On, t.Drive))):
            if (handle := self._finish.get(type(member))) is not None:
                self.unit.attempt(partial(handle, member, entity.scope))

    # --- Python --------------------------------------------------------------------

    def _python(self, tree: t.Python, scope: Scope) -> None:
        if not tree.why:
            raise Reject("E601", f"Python part '{tree.name.text}' does not say why", tree.span,
                         'why "what the language cannot say here"')  # fmt: skip
        if not tree.file.endswith(".py") or "/" in tree.file or "\\" in tree.file:
            raise Reject("E601", "a Python part is a .py file beside the device file", tree.span)
        scope.define(PythonDef(tree.name.text, tree.name.span, len(self.unit.pythons)))
        self.unit.pythons.append(
            ir.Python(tree.name.text, tree.file, "observer", tree.why, (), (), tree.span.line)
        )

    def _finish_python(self, tree: t.Python, scope: Scope) -> None:
        entity = scope.names.get(tree.name.text)
        assert isinstance(entity, PythonDef)
        serves = self._serves(tree.name.text)
        writes = tuple(self._stored(node, scope) for node in tree.writes)
        reads = tuple(self._read(node, scope, entity, serves) for node in tree.reads)
        kind = "handler" if serves else "observer"
        if not serves:
            scope.used.add(entity.name)
            if not reads:
                raise Reject("E601", f"observer '{entity.name}' reads nothing", tree.span, "reads NAME, ...")
        self.unit.pythons[entity.index] = ir.Python(
            entity.name, tree.file, kind, tree.why, reads, writes, tree.span.line  # type: ignore[arg-type]
        )  # fmt: skip

    def _serves(self, name: str) -> bool:
        handlers = (
            handler
            for tree, _, _ in self._windows
            for item in tree.items
            if isinstance(item, t.Reg)
            for handler in item.handlers
        )
        return any(h.python is not None and h.python.text == name for h in handlers)

    def _stored(self, node: t.Expr, scope: Scope) -> tuple[str, str, tuple[int, ...]]:
        found = self.unit.expr.resolve(node, Context(scope, ()))
        slot = None
        if isinstance(found, Ref):
            match found.entity:
                case StateDef() if found.entity.count is None:
                    slot = found.entity.slot
                case FieldDef():
                    slot = found.entity.slot
                case RegDef():
                    slot = found.entity.storage
        if slot is None or not isinstance(found, Ref):
            raise Reject("E601", "Python writes only what is stored: a state, a field, a register", node.span)
        index = tuple(i.value for i in found.place if isinstance(i, ir.Const))
        return spell(node), slot, index

    def _read(
        self, node: t.Expr, scope: Scope, entity: PythonDef, serves: bool
    ) -> tuple[str, str, tuple[int, ...]]:
        """A value that Python sees, kept in a slot that follows it."""
        found = self.unit.expr.value(node, Context(scope, ()))
        if Analysis(self.unit.functions).of_expr(found.expr).time:
            raise Reject("E601", "Python observes what is stored; this changes with time", node.span,
                         "read what the value depends on, and work it out there")  # fmt: skip
        name = spell(node)
        kind = TypeInfo(found.type.join(ir.BOOL))  # 0 before the first reset
        slot = self.unit.slot(scope, f"{entity.name} sees {name}", kind, kind="derived")
        self.unit.settling.watches.append(Watch(slot, found.expr, None if serves else entity.index))
        return name, slot, ()


def _names(member: t.MemberDecl) -> Iterator[t.Ident]:
    if isinstance(member, t.Cycle):
        yield from member.names
    elif isinstance(name := getattr(member, "name", None), t.Ident):
        yield name


def spell(node: t.Expr) -> str:
    """A reference as it was written."""
    match node:
        case t.Name():
            return node.name
        case t.Attribute():
            return f"{spell(node.base)}.{node.name.text}"
        case t.Index():
            index = node.index.value if isinstance(node.index, t.Number) else "?"
            return f"{spell(node.base)}[{index}]"
    raise Reject("E601", "a name is needed here", node.span)


__all__ = ["NOWHERE", "Declarations", "a"]
