"""Elaboration of expressions: names resolved, intervals found, IR built.

`value` gives the IR of an expression, `truth` that of a condition, `resolve`
what a reference stands for. `facts` finds what a condition's outcome says
about the values in it, so that `m - 4 if m > 5 else m` has the range it looks
like having.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import builtins, ir, timing
from .scope import (
    ClockDef,
    ConstDef,
    Context,
    CounterDef,
    CycleDef,
    ElementDef,
    Entity,
    EnumDef,
    FieldDef,
    InputDef,
    InstanceDef,
    LatchDef,
    LayoutDef,
    LetDef,
    LocalDef,
    ParamDef,
    Place,
    Ref,
    RegDef,
    Resolved,
    Scope,
    StateDef,
    TypeInfo,
    Value,
    WaveDef,
)

if TYPE_CHECKING:
    from .elaborate import Unit

ARITHMETIC: dict[str, ir.BinaryOp] = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod", "|": "or", "^": "xor", "&": "and",
    "<<": "shl", ">>": "shr",
}  # fmt: skip
COMPARISONS: dict[str, tuple[ir.BinaryOp, bool]] = {  # the IR's operator, operands swapped
    "==": ("eq", False), "!=": ("ne", False), "<": ("lt", False), "<=": ("le", False),
    ">": ("lt", True), ">=": ("le", True),
}  # fmt: skip


class Expressions:
    """Expressions of one device; `unit` holds its functions and slots."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self._kinds: dict[type, Callable[..., Value]] = {
            t.Number: lambda n, c, e: Value(ir.Const(n.value)),
            t.Truth: lambda n, c, e: Value(ir.Const(int(n.value)), 1),
            t.NowExpr: lambda n, c, e: Value(ir.Now(), 64, unit="ns"),
            t.Not: lambda n, c, e: Value(a.negate(self.truth(n.operand, c)), 1),
            t.Member: self._member,
            t.Conditional: self._conditional,
            t.MatchExpr: self._match,
            t.Binary: self._binary,
            t.Take: self._effect,
            t.Step: self._effect,
        }

    # --- values ------------------------------------------------------------

    def value(self, node: t.Expr, ctx: Context, expected: TypeInfo | None = None) -> Value:
        """An expression's IR. `expected` is the type that wrap and sat narrow to."""
        kind = self._kinds.get(type(node))
        found = kind(node, ctx, expected) if kind else self._reference_value(node, ctx, expected)
        known = ctx.facts.get(found.expr)
        if known is not None and known != found.type:
            if known.lo == known.hi:
                return replace(found, expr=ir.Const(known.lo))
            return replace(found, expr=ir.Narrow(found.expr, known))
        return found

    def truth(self, node: t.Expr, ctx: Context) -> ir.Expr:
        """A condition: a truth value, or a latch (which is true when it holds something)."""
        if isinstance(node, t.Binary) and node.op in ("and", "or"):
            return self._logic(node, ctx)
        if not isinstance(node, (t.Name, t.Attribute, t.Index)):
            found = self.value(node, ctx)
        else:
            seen = self.resolve(node, ctx)
            if isinstance(seen, Ref) and isinstance(seen.entity, LatchDef):
                return ir.Load(seen.entity.full, seen.place, ir.BOOL)
            found = self.value(node, ctx)
        if not ir.BOOL.contains(found.type):
            raise Reject("E207", f"a truth value is needed, this is {show(found.type)}", node.span,
                         "compare it with something: ... != 0")  # fmt: skip
        return found.expr

    def fit(self, node: t.Expr, ctx: Context, kind: TypeInfo, what: str) -> ir.Expr:
        """An expression whose value must lie in a type (E201)."""
        found = self.value(node, ctx, kind)
        if not kind.range.contains(found.type):
            raise Reject(
                "E201", f"{what} holds {show(kind.range)}, the value may be {show(found.type)}", node.span,
                "narrow it: wrap(...) drops high bits, sat(...) clamps, a slice [7:0] or a branch selects",
            )  # fmt: skip
        return found.expr

    def constant(self, node: t.Expr, ctx: Context) -> int:
        found = self.value(node, ctx).expr
        if not isinstance(found, ir.Const):
            raise Reject("E103", "a constant is needed here", node.span, "write the number out")
        return found.value

    def _logic(self, node: t.Binary, ctx: Context) -> ir.Expr:
        left = self.truth(node.left, ctx)
        holds = node.op == "and"
        right = self.truth(node.right, ctx.knowing(self.facts(node.left, ctx, holds)))
        return a.both(left, right) if holds else a.either(left, right)

    def _binary(self, node: t.Binary, ctx: Context, expected: TypeInfo | None) -> Value:
        if node.op in ("and", "or"):
            latch = self._latch_or(node, ctx, expected) if node.op == "or" else None
            return latch or Value(self._logic(node, ctx), 1)
        if node.op == "++":
            return self._concat(node, ctx)
        left, right = self.value(node.left, ctx, expected), self.value(node.right, ctx, expected)
        unit = _unit(left, right, node)
        if node.op in COMPARISONS:
            op, swapped = COMPARISONS[node.op]
            operands = (right.expr, left.expr) if swapped else (left.expr, right.expr)
            return Value(a.binary(op, *operands, span=node.span), 1)
        if node.op == "**":
            return self._power(left, right, node)
        op = ARITHMETIC[node.op]
        dividend = left.expr
        if op in ("div", "mod"):
            dividend = self._divisible(op, left.expr, right.expr, node)
        elif op in ("and", "or", "xor") and min(left.type.lo, right.type.lo) < 0:
            raise Reject("E201", f"'{node.op}' works on bits, and an operand may be negative", node.span)
        elif op in ("shl", "shr") and not ir.Range(0, 63).contains(right.type):
            raise Reject("E201", f"the shift may be {show(right.type)}, outside 0..63", node.right.span)
        result = a.binary(op, dividend, right.expr, node.span)
        if (
            op == "sub"
            and isinstance(right.expr, ir.Binary)
            and right.expr.op == "mod"
            and right.expr.right == left.expr
        ):
            # what is left of a period: a remainder is less than its divisor
            result = ir.Narrow(result, ir.Range(1, max(1, left.type.hi)))
        return Value(result, unit=unit)

    def _divisible(self, op: str, left: ir.Expr, right: ir.Expr, node: t.Binary) -> ir.Expr:
        if right.type.lo <= 0 <= right.type.hi:
            raise Reject("E202", f"the divisor may be 0: it is {show(right.type)}", node.right.span,
                         "give its type a low end of 1, or branch on it first")  # fmt: skip
        if left.type.lo >= 0 and right.type.lo > 0:
            return left
        if op == "mod" and isinstance(right, ir.Const) and right.value > 0:
            # the remainder is that of the next multiple up, so the IR divides unsigned only
            lift = -(left.type.lo // right.value) * right.value
            return a.binary("add", left, ir.Const(lift), node.span)
        raise Reject("E201", "a negative number is divided only by a constant, and only with '%'", node.span)

    def _power(self, left: Value, right: Value, node: t.Binary) -> Value:
        if isinstance(left.expr, ir.Const) and isinstance(right.expr, ir.Const) and right.expr.value < 64:
            result = left.expr.value**right.expr.value
            if result > a.ONES:
                raise a.too_wide(node.span)
            return Value(ir.Const(result))
        if left.expr == ir.Const(2) and ir.Range(0, 63).contains(right.type):
            return Value(a.binary("shl", a.TRUE, right.expr, node.span))
        raise Reject("E103", "'**' takes constants, or 2 and an exponent of 0..63", node.span)

    def _concat(self, node: t.Binary, ctx: Context) -> Value:
        left, right = self.value(node.left, ctx), self.value(node.right, ctx)
        high, low = self.width(left, node.left.span), self.width(right, node.right.span)
        if high + low > 64:
            raise Reject("E204", f"{high} and {low} bits make more than 64", node.span)
        shifted = a.binary("shl", left.expr, ir.Const(low), node.span)
        return Value(a.binary("or", shifted, right.expr), high + low)

    @staticmethod
    def width(value: Value, span: Span) -> int:
        """A value's exact width in bits, for `++` (E205)."""
        if value.width is not None:
            return value.width
        size = value.type.hi.bit_length()
        if value.type != ir.Range(0, 2**size - 1) or isinstance(value.expr, ir.Const):
            raise Reject("E205", f"'++' needs an exact width, this is {show(value.type)}", span,
                         "take a slice, such as x[7:0]")  # fmt: skip
        return size

    def _member(self, node: t.Member, ctx: Context, expected: TypeInfo | None) -> Value:
        subject = self.value(node.value, ctx)
        result: ir.Expr = a.FALSE
        for choice in node.choices:
            other = self.value(choice, ctx)
            _unit(subject, other, node)
            result = a.either(result, a.eq(subject.expr, other.expr))
        return Value(result, 1)

    def _conditional(self, node: t.Conditional, ctx: Context, expected: TypeInfo | None) -> Value:
        test = self.truth(node.test, ctx)
        then = self.value(node.then, ctx.knowing(self.facts(node.test, ctx, True)), expected)
        orelse = self.value(node.orelse, ctx.knowing(self.facts(node.test, ctx, False)), expected)
        return _merged(a.cond(test, then.expr, orelse.expr), [then, orelse], node)

    def _match(self, node: t.MatchExpr, ctx: Context, expected: TypeInfo | None) -> Value:
        subject = self.value(node.subject, ctx)
        cases = self.cases(subject, [c.patterns for c in node.cases], ctx, node.span)
        results = [
            self.value(case.value, inner, expected)
            for case, (_, inner) in zip(node.cases, cases, strict=True)
        ]
        chosen = results[-1].expr
        for (values, _), result in list(zip(cases, results, strict=True))[-2::-1]:
            test: ir.Expr = a.FALSE
            for value in values or ():
                test = a.either(test, a.eq(subject.expr, ir.Const(value)))
            chosen = a.cond(test, result.expr, chosen)
        return _merged(chosen, results, node)

    def cases(
        self, subject: Value, patterns: list[tuple[t.Pattern, ...]], ctx: Context, span: Span
    ) -> list[tuple[tuple[int, ...] | None, Context]]:
        """For each case the values it takes (None: all that are left) and its context.

        Every value of the subject has exactly one case (E303).
        """
        left, result = _Remaining(subject.type), []
        for group in patterns:
            inner, values, rest = ctx.inner(), [], False
            for pattern in group:
                if left.empty:
                    raise Reject("E303", "the cases above take every value already", pattern.span)
                chosen = self._pattern(pattern, subject, inner, left)
                rest = rest or chosen is None
                values += chosen or []
            known = left.range if rest else ir.Range(min(values), max(values))
            result.append((None if rest else tuple(values), inner.knowing({subject.expr: known})))
            left.take(None if rest else values)
        if not left.empty:
            missing = self._spoken(subject, left.range.lo)
            raise Reject("E303", f"no case takes {missing}", span, "add it, or '_ -> ...' for all others")
        return result

    def _pattern(
        self, pattern: t.Pattern, subject: Value, inner: Context, left: _Remaining
    ) -> list[int] | None:
        if isinstance(pattern, t.AnyPattern):
            return None
        if isinstance(pattern, t.RangePattern):
            if pattern.hi - pattern.lo > 256 or pattern.hi < pattern.lo:
                raise Reject("E303", "a case takes a range of 1 to 256 values", pattern.span)
            values = list(range(pattern.lo, pattern.hi + 1))
        else:
            member = self._member_value(pattern.name, subject, inner.scope)
            if member is None:
                local = replace(subject, expr=ir.Narrow(subject.expr, left.range))
                inner.scope.define(LocalDef(pattern.name, pattern.span, local))
                return None
            values = [member]
        fresh = [v for v in values if left.has(v)]
        if not fresh:
            raise Reject("E303", f"the subject is never {self._spoken(subject, values[0])} here", pattern.span,
                         f"it is {show(subject.type)}, less the cases above")  # fmt: skip
        return fresh

    @staticmethod
    def _member_value(name: str, subject: Value, scope: Scope) -> int | None:
        if isinstance(subject.nominal, EnumDef):
            return subject.nominal.members.get(name)
        inside: Scope | None = scope
        while inside is not None:
            found = inside.names.get(name)
            if isinstance(found, ConstDef) and isinstance(found.value.expr, ir.Const):
                inside.used.add(name)
                return found.value.expr.value
            inside = inside.parent
        return None

    @staticmethod
    def _spoken(subject: Value, value: int) -> str:
        if isinstance(subject.nominal, EnumDef):
            return next((f"'{n}'" for n, v in subject.nominal.members.items() if v == value), str(value))
        return str(value)

    def _effect(self, node: t.Take | t.Step, ctx: Context, expected: TypeInfo | None) -> Value:
        word = "take" if isinstance(node, t.Take) else "step"
        raise Reject("E301", f"'{word}' changes state, so it stands only at the head of a statement", node.span,
                     f"write 'let x = {word} ...' in a body first, or 'return {word} ...'")  # fmt: skip

    def _latch_or(self, node: t.Binary, ctx: Context, expected: TypeInfo | None) -> Value | None:
        """`held or live`: what a latch holds, else the other value."""
        if not isinstance(node.left, (t.Name, t.Attribute, t.Index)):
            return None
        seen = self.resolve(node.left, ctx)
        if not (isinstance(seen, Ref) and isinstance(seen.entity, LatchDef)):
            return None
        latch, place = seen.entity, seen.place
        other = self.value(node.right, ctx, expected)
        if not latch.type.range.contains(other.type):
            # a second latch or a condition: then 'or' is the logical one
            return None
        held = ir.Load(latch.slot, place, latch.type.range)
        full = ir.Load(latch.full, place, ir.BOOL)
        return Value(a.cond(full, held, other.expr), latch.type.width, latch.type.nominal)

    # --- references --------------------------------------------------------

    def _reference_value(self, node: t.Expr, ctx: Context, expected: TypeInfo | None) -> Value:
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
                return Value(timing.counter_value(entity, place), entity.bits, unit=entity.clock.name)
            case WaveDef():
                self.unit.timing.wave(entity)
                return Value(ir.Call(f"{entity.function}.level", place, ir.BOOL), 1)
            case LetDef():
                return self.let(entity, place)
            case InputDef():
                kind = entity.type.range
                return Value(ir.Call(entity.function, place, kind), entity.type.width, entity.type.nominal)
            case FieldDef():
                return self._field(entity, place)
            case RegDef():
                return self.unit.registers.value(entity, place, span)
            case LatchDef():
                raise Reject("E103", f"'{entity.name}' is a latch, which may be empty", span,
                             f"'{entity.name} or OTHER', 'take {entity.name}', or use it as a condition")  # fmt: skip
        raise Reject("E103", f"'{entity.name}' has no value", span)

    def let(self, entity: LetDef, place: Place) -> Value:
        """A call of an equation, which is elaborated at its first use."""
        if entity.active:
            raise Reject("E104", f"'{entity.name}' depends on itself", entity.span,
                         "an equation may use only what does not use it")  # fmt: skip
        if entity.value is None:
            entity.active = True
            try:
                entity.value = entity.elaborate()
            finally:
                entity.active = False
        found = entity.value
        if isinstance(found.expr, ir.Const):
            return found
        return replace(found, expr=ir.Call(entity.function, place, found.type))

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
                return Ref(ctx.scope.find(node.name, node.span), ctx.place)
            case t.Attribute():
                return self._attribute(node, ctx)
            case t.Index():
                return self._index(node, ctx)
            case t.Slice():
                return self._slice(node, ctx)
            case _:
                return self.value(node, ctx, expected)

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
                            "E103", f"'{base.entity.name}' is an array; say which element", node.span
                        )
                    return Ref(self._inside(base.entity.scope, node.name), base.place)
                case RegDef() if name in base.entity.fields:
                    return Ref(base.entity.fields[name], base.place)
                case RegDef() if not isinstance(base.entity.type.nominal, LayoutDef):
                    raise Reject("E101", f"register '{base.entity.name}' has no field '{name}'", node.name.span,
                                 _list("its fields are", base.entity.fields))  # fmt: skip
                case WaveDef() if name in timing.WAVE_ATTRIBUTES:
                    self.unit.timing.wave(base.entity)
                    kind = timing.attribute_range(name, base.entity)
                    call = ir.Call(f"{base.entity.function}.{name}", base.place, kind)
                    return Value(call, unit=base.entity.counter.clock.name)
        found = base if isinstance(base, Value) else self.load(base, ctx, node.base.span)
        if isinstance(found.nominal, LayoutDef):
            return self._layout_field(found, found.nominal, node)
        raise Reject("E101", f"there is no '{name}' in this", node.name.span)

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
            index = self._bounded(node.index, ctx, base.entity.count, base.entity.name)
            return Ref(base.entity, (index,))
        if isinstance(base, Ref) and isinstance(base.entity, StateDef) and base.entity.count is not None:
            index = self._bounded(node.index, ctx, base.entity.count, base.entity.name)
            kind = base.entity.type
            return Value(
                ir.Load(base.entity.slot, (*base.place, index), kind.range), kind.width, kind.nominal
            )
        found = base if isinstance(base, Value) else self.load(base, ctx, node.base.span)
        position = self.value(node.index, ctx).expr
        self._is_bits(found, position, node)
        return Value(a.wrap(a.binary("shr", found.expr, position), 1), 1)

    def _bounded(self, node: t.Expr, ctx: Context, count: int, name: str) -> ir.Expr:
        index = self.value(node, ctx).expr
        if not ir.Range(0, count - 1).contains(index.type):
            raise Reject("E203", f"'{name}' has {count} elements, the index may be {show(index.type)}", node.span,
                         "narrow the index, or branch on it first")  # fmt: skip
        return index

    @staticmethod
    def _is_bits(found: Value, position: ir.Expr, node: t.Index | t.Slice) -> None:
        if found.type.lo < 0:
            raise Reject(
                "E201", "bits are taken of a number that may be negative", node.span, "wrap(...) it first"
            )
        if not ir.Range(0, 63).contains(position.type):
            raise Reject("E203", f"the bit may be {show(position.type)}, outside 0..63", node.span)

    def _slice(self, node: t.Slice, ctx: Context) -> Value:
        base = self.resolve(node.base, ctx)
        found = base if isinstance(base, Value) else self.load(base, ctx, node.base.span)
        high = self.value(node.high, ctx).expr
        low = self.constant(node.low, ctx)
        self._is_bits(found, high, node)
        if low > high.type.lo:
            raise Reject("E205", "the high bit may be below the low one", node.span)
        if isinstance(high, ir.Const):
            if found.width is not None and high.value >= found.width:
                raise Reject("E203", f"bit {high.value} of a value of {found.width} bits", node.span)
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
                return builtins.BUILTINS[name](self, node, ctx, expected)
            found = ctx.scope.find(name, node.function.span)
            if isinstance(found, LayoutDef):
                if len(node.args) != 1:
                    raise Reject("E103", f"'{name}' takes one value", node.span)
                inner = self.fit(node.args[0], ctx, found.type, f"layout '{name}'")
                return Value(inner, found.type.width, found)
        raise Reject("E301", "a procedure gives no value, and equations have no effects", node.span,
                     "call it as a statement, or use an equation (let)")  # fmt: skip

    # --- what a condition says ----------------------------------------------

    def facts(self, node: t.Expr, ctx: Context, holds: bool) -> dict[ir.Expr, ir.Range]:
        """The ranges that values in a condition have when it `holds` (or does not)."""
        match node:
            case t.Not():
                return self.facts(node.operand, ctx, not holds)
            case t.Binary(op="and" | "or") if (node.op == "and") == holds:
                left = self.facts(node.left, ctx, holds)
                return {**left, **self.facts(node.right, ctx.knowing(left), holds)}
            case t.Binary() if node.op in COMPARISONS:
                return self._comparison_facts(node, ctx, holds)
            case t.Member() if holds:
                values = [self.value(c, ctx).type for c in node.choices]
                known = ir.Range(min(v.lo for v in values), max(v.hi for v in values))
                return {self.value(node.value, ctx).expr: known}
        return {}

    def _comparison_facts(self, node: t.Binary, ctx: Context, holds: bool) -> dict[ir.Expr, ir.Range]:
        left, right = self.value(node.left, ctx).expr, self.value(node.right, ctx).expr
        op = (
            node.op
            if holds
            else {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}[node.op]
        )
        mirrored = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}[op]
        found: dict[ir.Expr, ir.Range] = {}
        for subject, relation, other in ((left, op, right.type), (right, mirrored, left.type)):
            known = _bounded(subject.type, relation, other)
            if not isinstance(subject, ir.Const) and known.lo <= known.hi:
                found[subject] = known
        return found

    def clock(self, name: t.Ident, ctx: Context) -> ClockDef:
        found = ctx.scope.find(name.text, name.span)
        if not isinstance(found, ClockDef):
            raise Reject(
                "E103", f"'{name.text}' is not a clock", name.span, "declare it: clock NAME = ... Hz"
            )
        return found


# --- helpers ---------------------------------------------------------------


class _Remaining:
    """The values of a subject that no case has taken yet; it may be wide."""

    def __init__(self, whole: ir.Range):
        self.range = whole
        self.taken: set[int] = set()

    @property
    def empty(self) -> bool:
        return self.range.lo > self.range.hi

    def has(self, value: int) -> bool:
        return self.range.lo <= value <= self.range.hi and value not in self.taken

    def take(self, values: list[int] | None) -> None:
        if values is None:
            self.range = ir.Range(1, 0)
            return
        self.taken |= set(values)
        lo, hi = self.range.lo, self.range.hi
        while lo <= hi and lo in self.taken:
            lo += 1
        while hi >= lo and hi in self.taken:
            hi -= 1
        self.range = ir.Range(lo, hi)


def _bounded(subject: ir.Range, relation: str, other: ir.Range) -> ir.Range:
    lo, hi = subject.lo, subject.hi
    match relation:
        case "==":
            return ir.Range(max(lo, other.lo), min(hi, other.hi))
        case "!=" if other.lo == other.hi:
            return ir.Range(lo + (other.lo == lo), hi - (other.lo == hi))
        case "<":
            return ir.Range(lo, min(hi, other.hi - 1))
        case "<=":
            return ir.Range(lo, min(hi, other.hi))
        case ">":
            return ir.Range(max(lo, other.lo + 1), hi)
        case ">=":
            return ir.Range(max(lo, other.lo), hi)
    return subject


def _unit(left: Value, right: Value, node: t.Expr) -> str | None:
    if left.unit and right.unit and left.unit != right.unit:
        raise Reject("E206", f"times of different clocks are mixed: {left.unit} and {right.unit}", node.span,
                     "convert one, or use one clock")  # fmt: skip
    return left.unit or right.unit


def _merged(expr: ir.Expr, branches: list[Value], node: t.Expr) -> Value:
    first = branches[0]
    for other in branches[1:]:
        _unit(first, other, node)
    width = first.width if all(b.width == first.width for b in branches) else None
    nominal = first.nominal if all(b.nominal is first.nominal for b in branches) else None
    return Value(expr, width, nominal, next((b.unit for b in branches if b.unit), None))


def _list(
    words: str, names: dict[str, object] | dict[str, FieldDef] | dict[str, tuple[int, int, TypeInfo]]
) -> str:
    return f"{words} {', '.join(names)}" if names else ""


def show(r: ir.Range) -> str:
    """A range as the language writes it."""
    for bits in (1, 8, 16, 32, 64):
        if r == ir.Range(0, 2**bits - 1):
            return "a bool" if bits == 1 else f"u{bits}"
    return str(r.lo) if r.lo == r.hi else f"{r.lo}..{r.hi}"
