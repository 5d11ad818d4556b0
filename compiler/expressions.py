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
from . import ir
from .scope import (
    Context,
    LatchDef,
    Ref,
    TypeInfo,
    Value,
    show,
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
        found = kind(node, ctx, expected) if kind else self.unit.refs.value(node, ctx, expected)
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
            seen = self.unit.refs.resolve(node, ctx)
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
        right = self.truth(node.right, ctx.knowing(self.unit.branches.facts(node.left, ctx, holds)))
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
        then = self.value(node.then, ctx.knowing(self.unit.branches.facts(node.test, ctx, True)), expected)
        orelse = self.value(
            node.orelse, ctx.knowing(self.unit.branches.facts(node.test, ctx, False)), expected
        )
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
            test: ir.Expr = a.FALSE
            for value in values or ():
                test = a.either(test, a.eq(subject.expr, ir.Const(value)))
            chosen = a.cond(test, result.expr, chosen)
        return _merged(chosen, results, node)

    def _effect(self, node: t.Take | t.Step, ctx: Context, expected: TypeInfo | None) -> Value:
        word = "take" if isinstance(node, t.Take) else "step"
        raise Reject(
            "E301",
            f"'{word}' changes state, so it stands only at the head of a statement",
            node.span,
            f"write 'let x = {word} ...' in a body first, or 'return {word} ...'",
        )

    def _latch_or(self, node: t.Binary, ctx: Context, expected: TypeInfo | None) -> Value | None:
        """`held or live`: what a latch holds, else the other value."""
        if not isinstance(node.left, (t.Name, t.Attribute, t.Index)):
            return None
        seen = self.unit.refs.resolve(node.left, ctx)
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
