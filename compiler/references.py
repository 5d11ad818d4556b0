"""References: what a name, an attribute, an index, a slice or a call stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import builtins, ir, timing
from .entities import (
    BitDef,
    ClockDef,
    ConstDef,
    CounterDef,
    CycleDef,
    ElementDef,
    Entity,
    EnumDef,
    FieldDef,
    InputDef,
    InstanceDef,
    LatchDef,
    LatchRef,
    LayoutDef,
    LetDef,
    LocalDef,
    OuterDef,
    ParamDef,
    Place,
    ProcDef,
    Ref,
    RegDef,
    StateDef,
    TypeInfo,
    Value,
    WaveDef,
    cyclic,
    show,
    spoken,
)
from .scope import Context, Resolved, Scope

if TYPE_CHECKING:
    from .elaborate import Unit


class References:
    """References of one device's expressions and statements."""

    def __init__(self, unit: Unit):
        self.unit = unit

    def value(self, node: t.Expr, ctx: Context, expected: TypeInfo | None) -> Value:
        if isinstance(node, t.CallExpr):
            return self._call(node, ctx, expected)
        seen = self.resolve(node, ctx, expected)
        if isinstance(seen, Value):
            return seen
        return self.load(seen, ctx, node.span)

    def load(self, ref: Ref, ctx: Context, span: Span) -> Value:
        """The value of an entity, where it has one."""
        entity, place = ref.entity, ref.place
        match entity:
            case LocalDef() | ConstDef():
                return entity.value
            case StateDef() if entity.count is None:
                return Value(
                    ir.Load(entity.slot, place, entity.type.range), entity.type.width, entity.type.nominal
                )
            case ParamDef() if entity.slot is not None:
                return Value(
                    ir.Load(entity.slot, (), entity.type.range), entity.type.width, entity.type.nominal
                )
            case CycleDef():
                kind = ir.Range(0, len(entity.phases.members) - 1)
                return Value(ir.Load(entity.slot, place, kind), entity.phases.width, entity.phases)
            case CounterDef():
                return Value(timing.counter_value(entity, place), entity.bits, unit=entity.clock.unit)
            case WaveDef():
                self.unit.timing.wave(entity)
                return Value(ir.Call(f"{entity.function}.level", place, ir.BOOL), 1)
            case LetDef():
                return self.let(entity, place)
            case InputDef():
                self.input(entity)
                kind = entity.type.range
                return Value(ir.Call(entity.function, place, kind), entity.type.width, entity.type.nominal)
            case FieldDef():
                return self._field(entity, place)
            case BitDef():
                whole = ir.Load(entity.slot, (), entity.type)
                return Value(a.wrap(a.binary("shr", whole, entity.position), 1), 1)
            case RegDef():
                return self.unit.registers.value(entity, place, span)
            case LatchDef():
                raise Reject(
                    "E103",
                    f"'{entity.name}' is a latch, which may be empty",
                    span,
                    f"'{entity.name} or OTHER', 'take {entity.name}', or use it as a condition",
                )
            case StateDef():
                raise an_array(entity.name, span)
        raise Reject("E103", f"'{entity.name}' is {spoken(entity)}, which has no value", span)

    def let(self, entity: LetDef, place: Place) -> Value:
        """A call of an equation, which is elaborated at its first use."""

        def elaborate() -> None:
            entity.value = entity.elaborate()

        entity.progress.run(
            elaborate, lambda: cyclic(entity, "an equation may use only what does not use it")
        )
        found = entity.value
        assert found is not None
        if isinstance(found.expr, ir.Const):
            return found
        return replace(found, expr=ir.Call(entity.function, place, found.type))

    def input(self, entity: InputDef) -> None:
        """Elaborate a block's input at its first use."""
        entity.progress.run(
            entity.elaborate, lambda: cyclic(entity, "what the block gives may not come back to it")
        )

    def latch(self, node: t.Expr, ctx: Context) -> LatchRef | None:
        """The latch that a reference stands for, if it does for one."""
        if isinstance(node, (t.Name, t.Attribute, t.Index)):
            seen = self.resolve(node, ctx)
            if isinstance(seen, Ref) and isinstance(seen.entity, LatchDef):
                return LatchRef(seen.entity, seen.place)
        return None

    def _field(self, entity: FieldDef, place: Place) -> Value:
        if entity.value is not None:
            found = self.let(entity.value, place)
            return replace(found, width=entity.type.width)
        assert entity.slot is not None
        return Value(ir.Load(entity.slot, place, entity.type.range), entity.type.width, entity.type.nominal)

    def resolve(self, node: t.Expr, ctx: Context, expected: TypeInfo | None = None) -> Resolved:
        """What a reference stands for; a value where it is computed."""
        match node:
            case t.Name():
                if expected is not None and isinstance(expected.nominal, EnumDef):
                    member = expected.nominal.members.get(node.name)
                    if member is not None:
                        return Value(ir.Const(member), expected.width, expected.nominal)
                found = ctx.scope.find(node.name, node.span)
                if isinstance(found, OuterDef):
                    return Ref(found.entity, ())
                return Ref(found, ctx.place)
            case t.Attribute():
                return self._attribute(node, ctx)
            case t.Index():
                return self._index(node, ctx)
            case t.Slice():
                return self._slice(node, ctx)
            case _:
                return self.unit.expr.value(node, ctx, expected)

    def _attribute(self, node: t.Attribute, ctx: Context) -> Resolved:
        base = self.resolve(node.base, ctx)
        name = node.name.text
        if isinstance(base, Ref):
            match base.entity:
                case ElementDef():
                    if f"{name}.index" == (base.entity.instance.scope.index or ("", 0))[0]:
                        return Value(ir.Const(base.entity.index))
                    inside = base.entity.instance.scope
                    return Ref(self._inside(inside, node.name), (ir.Const(base.entity.index),))
                case InstanceDef():
                    if base.entity.count is not None and not base.place:
                        raise Reject(
                            "E103",
                            f"'{base.entity.name}' is an array; say which element",
                            node.base.span,
                            f"{base.entity.name}[0].{name}, or 'for c in {base.entity.name}'",
                        )
                    return Ref(self._inside(base.entity.scope, node.name), base.place)
                case RegDef() if name in base.entity.fields:
                    return Ref(base.entity.fields[name], base.place)
                case RegDef() if not isinstance(base.entity.type.nominal, LayoutDef):
                    raise Reject(
                        "E101",
                        f"register '{base.entity.name}' has no field '{name}'",
                        node.name.span,
                        _list("its fields are", base.entity.fields),
                    )
                case WaveDef() if name in timing.WAVE_ATTRIBUTES:
                    self.unit.timing.wave(base.entity)
                    kind = timing.attribute_range(name, base.entity)
                    call = ir.Call(f"{base.entity.function}.{name}", base.place, kind)
                    return Value(call, unit=base.entity.counter.clock.unit)
        found = base if isinstance(base, Value) else self.load(base, ctx, node.base.span)
        if isinstance(found.nominal, LayoutDef):
            return self._layout_field(found, found.nominal, node)
        raise Reject(
            "E101",
            f"a plain number has no part '{name}'",
            node.name.span,
            "layouts, registers, blocks and waves have parts; Layout(VALUE) lays one over a number",
        )

    @staticmethod
    def _layout_field(found: Value, layout: LayoutDef, node: t.Attribute) -> Value:
        if node.name.text not in layout.fields:
            raise Reject("E101", f"layout '{layout.name}' has no field '{node.name.text}'", node.name.span,
                         _list("its fields are", layout.fields))  # fmt: skip
        high, low, kind = layout.fields[node.name.text]
        return Value(a.bits(found.expr, high, low), kind.width, kind.nominal)

    def _inside(self, scope: Scope, name: t.Ident) -> Entity:
        if name.text not in scope.names:
            raise Reject("E101", f"the block has no '{name.text}'", name.span, scope.suggestion(name.text))
        return scope.find(name.text, name.span)

    def _index(self, node: t.Index, ctx: Context) -> Resolved:
        base = self.resolve(node.base, ctx)
        if isinstance(base, Ref) and isinstance(base.entity, InstanceDef) and base.entity.count is not None:
            index = self.bounded(node.index, ctx, base.entity.count, base.entity.name)
            return Ref(base.entity, (index,))
        if isinstance(base, Ref) and isinstance(base.entity, StateDef) and base.entity.count is not None:
            index = self.bounded(node.index, ctx, base.entity.count, base.entity.name)
            kind = base.entity.type
            return Value(
                ir.Load(base.entity.slot, (*base.place, index), kind.range), kind.width, kind.nominal
            )
        found = base if isinstance(base, Value) else self.load(base, ctx, node.base.span)
        position = self.unit.expr.value(node.index, ctx).expr
        self._is_bits(found, position, node, node.index.span)
        return Value(a.wrap(a.binary("shr", found.expr, position), 1), 1)

    def bounded(self, node: t.Expr, ctx: Context, count: int, name: str) -> ir.Expr:
        index = self.unit.expr.value(node, ctx).expr
        if not ir.Range(0, count - 1).contains(index.type):
            raise Reject(
                "E203",
                f"'{name}' has {count} elements, the index may be {show(index.type)}",
                node.span,
                "narrow the index, or branch on it first",
            )
        return index

    @staticmethod
    def _is_bits(found: Value, position: ir.Expr, node: t.Index | t.Slice, at: Span) -> None:
        """Bits are of a number that is not negative, and within its width where that is exact."""
        if found.type.lo < 0:
            raise Reject("E201", "bits are taken of a number that may be negative", node.span,
                         "wrap(...) it first, as 'let x: u16 = wrap(...)'")  # fmt: skip
        width = found.width or 64
        if not ir.Range(0, width - 1).contains(position.type):
            of = f"the value has {width} bits, and " if found.width else ""
            fixed = isinstance(position, ir.Const)
            raise Reject("E203", f"{of}the bit may be {show(position.type)}, outside 0..{width - 1}", at,
                         "" if fixed else "narrow the index, or branch on it first")  # fmt: skip

    def _slice(self, node: t.Slice, ctx: Context) -> Value:
        base = self.resolve(node.base, ctx)
        found = base if isinstance(base, Value) else self.load(base, ctx, node.base.span)
        high = self.unit.expr.value(node.high, ctx).expr
        low = self.unit.expr.constant(node.low, ctx)
        self._is_bits(found, high, node, node.high.span)
        if not 0 <= low <= high.type.lo:
            raise Reject("E205", "the high bit may be below the low one", node.span,
                         "the high bit comes first: [7:0]")  # fmt: skip
        if isinstance(high, ir.Const):
            return Value(a.bits(found.expr, high.value, low), high.value - low + 1)
        mask = a.binary("shr", ir.Const(a.ONES), a.sub(ir.Const(63), high))
        # the top of the range is known by the exponent's own
        masked = a.binary("and", found.expr, mask)
        top = ir.Range(0, min(masked.type.hi, 2 ** (high.type.hi + 1) - 1))
        narrowed = masked if masked.type == top else ir.Narrow(masked, top)
        return Value(a.binary("shr", narrowed, ir.Const(low)), high.type.hi - low + 1)

    def _call(self, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
        if isinstance(node.function, t.Name):
            name = node.function.name
            if name in builtins.BUILTINS:
                return builtins.BUILTINS[name](self.unit.expr, node, ctx, expected)
            found = ctx.scope.find(name, node.function.span)
            if isinstance(found, LayoutDef):
                if len(node.args) != 1:
                    raise Reject(
                        "E103", f"layout '{name}' is laid over one value", node.span, f"{name}(VALUE)"
                    )
                inner = self.unit.expr.fit(node.args[0], ctx, found.type, f"layout '{name}'")
                return Value(inner, found.type.width, found)
            if not isinstance(found, ProcDef):
                raise Reject(
                    "E103",
                    f"'{name}' cannot be called",
                    node.function.span,
                    f"what gives a value here is a layout, or one of {', '.join(builtins.BUILTINS)}",
                )
        raise Reject("E301", "a procedure gives no value, and equations have no effects", node.span,
                     "call it as a statement, or use an equation (let)")  # fmt: skip

    def clock(self, name: t.Ident, ctx: Context) -> ClockDef:
        found = ctx.scope.find(name.text, name.span)
        if not isinstance(found, ClockDef):
            raise Reject(
                "E103", f"'{name.text}' is not a clock", name.span, "declare it: clock NAME = ... Hz"
            )
        return found


def an_array(name: str, span: Span) -> Reject:
    return Reject("E103", f"'{name}' is an array; say which element", span, f"{name}[0]")


def _list(words: str, names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"{words} {listed}" if listed else ""
