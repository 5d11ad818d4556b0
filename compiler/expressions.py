"""Elaboration of expressions: names resolved, intervals found, IR built.

`value` gives the IR of an expression, `truth` that of a condition, `fit` that
of one whose value must lie in a type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import ir
from .entities import EnumDef, TypeInfo, Value, show
from .scope import Context

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
APART = frozenset({"/", "%", "<<", ">>", "**", *COMPARISONS})
"""Operators whose right operand is of no type that the result's says anything about."""

MAX_LEVELS = 90
"""Of expressions inside one another, counting the equations that are elaborated at their first use."""
MAX_CHOICES = 64
"""Of `in { }`, that are not constants."""
NARROW = "wrap(...) drops high bits, sat(...) clamps, a slice [7:0] or a branch selects"


class Expressions:
    """Expressions of one device; `unit` holds its functions and slots."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self._level = 0
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
        key = id(node), expected
        if key not in ctx.memo:
            self.unit.budget.step(node.span)
            if self._level == MAX_LEVELS:
                raise Reject("E003", "equations and expressions are nested too deeply here", node.span,
                             "let equations use those above them in the file")  # fmt: skip
            self._level += 1
            try:
                ctx.memo[key] = self._value(node, ctx, expected)
            finally:
                self._level -= 1
        return ctx.memo[key]

    def _value(self, node: t.Expr, ctx: Context, expected: TypeInfo | None) -> Value:
        kind = self._kinds.get(type(node))
        found = kind(node, ctx, expected) if kind else self.unit.refs.value(node, ctx, expected)
        self.unit.budget.size(found.expr, node.span)
        known = ctx.facts.get(found.expr) if ctx.facts else None
        if known is None or known == found.type:
            return found
        if known.lo == known.hi:
            return replace(found, expr=ir.Const(known.lo))
        return replace(found, expr=ir.Narrow(found.expr, known))

    def truth(self, node: t.Expr, ctx: Context) -> ir.Expr:
        """A condition: a truth value, or a latch (which is true when it holds something)."""
        if isinstance(node, t.Binary) and node.op in ("and", "or"):
            return self._logic(node, ctx)
        latch = self.unit.refs.latch(node, ctx)
        if latch is not None:
            return ir.Load(latch.entity.full, latch.place, ir.BOOL)
        found = self.value(node, ctx)
        if not ir.BOOL.contains(found.type):
            raise Reject("E207", f"a truth value is needed, this is {show(found.type)}", node.span,
                         "compare it with something: ... != 0")  # fmt: skip
        return found.expr

    def fit(self, node: t.Expr, ctx: Context, kind: TypeInfo, what: str) -> ir.Expr:
        """An expression whose value must lie in a type (E201)."""
        return self.fitted(self.value(node, ctx, kind), kind, node, what).expr

    def fitted(self, found: Value, kind: TypeInfo, node: t.Expr, what: str) -> Value:
        """The value, if it lies in a type (E201) and is of no other enum (E103)."""
        self.same_enum(found.nominal, kind.nominal, node.span)
        if not kind.range.contains(found.type):
            help = f"narrow it: {NARROW}" if not isinstance(found.expr, ir.Const) else ""
            raise Reject(
                "E201",
                f"{what} holds {show(kind.range)}, the value may be {show(found.type)}",
                node.span,
                help,
            )
        return found

    @staticmethod
    def same_enum(found: object, wanted: object, span: Span) -> None:
        """E103 for a value of one enum where another's is wanted; plain numbers go with any."""
        if isinstance(found, EnumDef) and isinstance(wanted, EnumDef) and found is not wanted:
            raise Reject("E103", f"this is of '{found.name}', and '{wanted.name}' is needed", span,
                         _list(f"the members of '{wanted.name}' are", wanted))  # fmt: skip

    def constant(self, node: t.Expr, ctx: Context) -> int:
        found = self.value(node, ctx).expr
        if not isinstance(found, ir.Const):
            raise Reject("E103", "a constant is needed here", node.span, "write the number out")
        return found.value

    def _effect(self, node: t.Take | t.Step, ctx: Context, expected: TypeInfo | None) -> Value:
        word = "take" if isinstance(node, t.Take) else "step"
        raise Reject(
            "E301",
            f"'{word}' changes state, so it stands only at the head of a statement",
            node.span,
            f"write 'let x = {word} ...' in a body first, or 'return {word} ...'",
        )

    # --- operators -----------------------------------------------------------

    def _logic(self, node: t.Binary, ctx: Context) -> ir.Expr:
        left = self.truth(node.left, ctx)
        holds = node.op == "and"
        right = self.truth(node.right, ctx.knowing(self.unit.branches.facts(node.left, ctx, holds)))
        return a.both(left, right) if holds else a.either(left, right)

    def _binary(self, node: t.Binary, ctx: Context, expected: TypeInfo | None) -> Value:
        if node.op in ("and", "or"):
            latch = self._latch_or(node, ctx, expected) if node.op == "or" else None
            return latch or Value(self._logic(node, ctx), 1)
        if node.op == "++":
            return self._concat(node, ctx)
        if node.op in COMPARISONS:
            return self._compare(node, ctx)
        left = self.value(node.left, ctx, expected)
        right = self.value(node.right, ctx, None if node.op in APART else expected)
        unit = same_unit(left, right, node)
        if node.op == "**":
            return self._power(left, right, node)
        return Value(self._arithmetic(node, left, right), unit=unit)

    def _arithmetic(self, node: t.Binary, left: Value, right: Value) -> ir.Expr:
        op = ARITHMETIC[node.op]
        dividend = left.expr
        if op in ("div", "mod"):
            dividend = self._divisible(op, left.expr, right.expr, node)
        elif op in ("and", "or", "xor") and min(left.type.lo, right.type.lo) < 0:
            raise Reject("E201", f"'{node.op}' works on bits, and an operand may be negative", node.span,
                         "wrap(...) it first, as 'let x: u16 = wrap(...)'")  # fmt: skip
        elif op in ("shl", "shr") and not ir.Range(0, 63).contains(right.type):
            raise Reject("E201", f"the shift may be {show(right.type)}, outside 0..63", node.right.span,
                         f"narrow it: {NARROW}")  # fmt: skip
        result = a.binary(op, dividend, right.expr, node.span)
        rest = right.expr
        if op == "sub" and isinstance(rest, ir.Binary) and rest.op == "mod" and rest.right == left.expr:
            # what is left of a period: a remainder is less than its divisor
            result = ir.Narrow(result, ir.Range(1, max(1, left.type.hi)))
        return result

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
        raise Reject("E201", "a number that may be negative is divided only by '%' and a constant", node.span,
                     "narrow it with a branch first, such as 'x / y if x >= 0 else 0'")  # fmt: skip

    def _power(self, left: Value, right: Value, node: t.Binary) -> Value:
        constants = isinstance(left.expr, ir.Const) and isinstance(right.expr, ir.Const)
        if constants and left.type.lo >= 0 and 0 <= right.type.lo <= 64:
            result = left.type.lo**right.type.lo
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
            raise Reject("E204", f"{high} and {low} bits make more than 64", node.span,
                         "take slices of them, such as x[7:0]")  # fmt: skip
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

    def pair(self, left: t.Expr, right: t.Expr, ctx: Context) -> tuple[Value, Value]:
        """Two values to be compared: a member's name is of the other's enum."""
        one = self.value(left, ctx)
        other = self.value(right, ctx, _enum_type(one) if isinstance(right, t.Name) else None)
        if isinstance(left, t.Name) and one.nominal is not other.nominal:
            one = self.value(left, ctx, _enum_type(other))
        self.same_enum(other.nominal, one.nominal, right.span)
        return one, other

    def _compare(self, node: t.Binary, ctx: Context) -> Value:
        left, right = self.pair(node.left, node.right, ctx)
        same_unit(left, right, node)
        op, swapped = COMPARISONS[node.op]
        operands = (right.expr, left.expr) if swapped else (left.expr, right.expr)
        return Value(a.binary(op, *operands, span=node.span), 1)

    def _member(self, node: t.Member, ctx: Context, expected: TypeInfo | None) -> Value:
        values: set[int] = set()
        tests: list[ir.Expr] = []
        subject = self.value(node.value, ctx)
        for choice in node.choices:
            subject, other = self.pair(node.value, choice, ctx)
            same_unit(subject, other, node)
            if isinstance(other.expr, ir.Const):
                values.add(other.expr.value)
            else:
                tests.append(a.eq(subject.expr, other.expr))
        if len(tests) > MAX_CHOICES:
            raise Reject("E003", f"more than {MAX_CHOICES} choices that are not constants", node.span)
        return Value(a.any_of([a.one_of(subject.expr, values), *tests]), 1)

    def _latch_or(self, node: t.Binary, ctx: Context, expected: TypeInfo | None) -> Value | None:
        """`held or live`: what a latch holds, else the other value."""
        latch = self.unit.refs.latch(node.left, ctx)
        if latch is None:
            return None
        kind = latch.entity.type
        other = self.value(node.right, ctx, expected)
        self.fitted(other, kind, node.right, f"latch '{latch.entity.name}'")
        held = ir.Load(latch.entity.slot, latch.place, kind.range)
        full = ir.Load(latch.entity.full, latch.place, ir.BOOL)
        return Value(a.cond(full, held, other.expr), kind.width, kind.nominal)

    # --- branches --------------------------------------------------------------

    def _conditional(self, node: t.Conditional, ctx: Context, expected: TypeInfo | None) -> Value:
        facts = self.unit.branches.facts
        test = self.truth(node.test, ctx)
        then = self.value(node.then, ctx.knowing(facts(node.test, ctx, True)), expected)
        orelse = self.value(node.orelse, ctx.knowing(facts(node.test, ctx, False)), expected)
        return _merged(a.cond(test, then.expr, orelse.expr), [then, orelse], node)

    def _match(self, node: t.MatchExpr, ctx: Context, expected: TypeInfo | None) -> Value:
        subject = self.value(node.subject, ctx)
        cases = self.unit.branches.cases(subject, [c.patterns for c in node.cases], ctx, node.span)
        results = [
            self.value(case.value, inner, expected)
            for case, (_, inner) in zip(node.cases, cases, strict=True)
        ]
        chosen = results[-1].expr
        for (values, _), result in list(zip(cases, results, strict=True))[-2::-1]:
            chosen = a.cond(a.one_of(subject.expr, set(values or ())), result.expr, chosen)
        return _merged(chosen, results, node)


def same_unit(left: Value, right: Value, node: t.Expr) -> str | None:
    """The clock whose ticks both values count; E206 if they are of two."""
    if left.unit and right.unit and left.unit != right.unit:
        raise Reject(
            "E206",
            f"times of different clocks are mixed: {left.unit} and {right.unit}",
            node.span,
            "use one clock, or store one of them first: a stored value is a plain number",
        )
    return left.unit or right.unit


def _enum_type(value: Value) -> TypeInfo | None:
    if not isinstance(value.nominal, EnumDef):
        return None
    return TypeInfo(ir.Range(0, len(value.nominal.members) - 1), value.nominal.width, value.nominal)


def _merged(expr: ir.Expr, branches: list[Value], node: t.Expr) -> Value:
    first = branches[0]
    for other in branches[1:]:
        same_unit(first, other, node)
    width = first.width if all(b.width == first.width for b in branches) else None
    nominal = first.nominal if all(b.nominal is first.nominal for b in branches) else None
    return Value(expr, width, nominal, next((b.unit for b in branches if b.unit), None))


def _list(words: str, kind: EnumDef) -> str:
    return f"{words}: {', '.join(kind.members)}"
