"""The language's functions, by name in `BUILTINS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import arithmetic as a
from . import intervals, ir, timing
from .entities import TypeInfo, Value, number_of, show
from .expressions import same_unit
from .scope import Context

if TYPE_CHECKING:
    from .expressions import Expressions

Builtin = Callable[["Expressions", t.CallExpr, Context, "TypeInfo | None"], Value]


def _arguments(e: Expressions, node: t.CallExpr, ctx: Context, count: int) -> list[Value]:
    if len(node.args) != count:
        name = node.function.name if isinstance(node.function, t.Name) else "it"
        raise Reject("E103", f"'{name}' takes {number_of(count, 'value')}, not {len(node.args)}", node.span)
    return [e.value(argument, ctx) for argument in node.args]


def _target(node: t.CallExpr, expected: TypeInfo | None, name: str) -> TypeInfo:
    if expected is None:
        raise Reject("E201", f"'{name}' needs to know the type to narrow to", node.span,
                     "give the equation a type: let x: u16 = ...")  # fmt: skip
    return expected


MODULAR: dict[str, ir.BinaryOp] = {"+": "addw", "-": "subw", "*": "mulw"}


def _modular(e: Expressions, node: t.CallExpr, ctx: Context) -> Value | None:
    """A sum, difference or product modulo 2**64, which `wrap` may take although it does not fit."""
    inner = node.args[0] if len(node.args) == 1 else None
    if not isinstance(inner, t.Binary) or inner.op not in MODULAR:
        return None
    left, right = e.value(inner.left, ctx), e.value(inner.right, ctx)
    exact = intervals.result(cast(ir.BinaryOp, MODULAR[inner.op][:-1]), left.type, right.type)
    if exact.fits:
        return None
    return Value(a.binary(MODULAR[inner.op], left.expr, right.expr), 64, unit=left.unit or right.unit)


def _wrap(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    modular = _modular(e, node, ctx)
    (value,) = [modular] if modular is not None else _arguments(e, node, ctx, 1)
    target = _target(node, expected, "wrap").range
    size = target.hi.bit_length()
    if target != ir.Range(0, 2**size - 1):
        raise Reject(
            "E205",
            "'wrap' drops high bits, so it needs a type of a whole number of bits",
            node.span,
            "use sat(...), or a remainder",
        )
    return Value(a.wrap(value.expr, size), size, unit=value.unit)


def _sat(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    (value,) = _arguments(e, node, ctx, 1)
    target = _target(node, expected, "sat").range
    low = a.binary("max", value.expr, ir.Const(target.lo)) if value.type.lo < target.lo else value.expr
    return Value(
        a.binary("min", low, ir.Const(target.hi)) if low.type.hi > target.hi else low, unit=value.unit
    )


def _of_two(op: ir.BinaryOp) -> Builtin:
    def build(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
        left, right = _arguments(e, node, ctx, 2)
        return Value(a.binary(op, left.expr, right.expr, node.span), unit=same_unit(left, right, node))

    return build


def _bcd(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    """A number's decimal digits, four bits each."""
    (value,) = _arguments(e, node, ctx, 1)
    if not ir.Range(0, 10**16 - 1).contains(value.type):
        raise Reject("E201", "'bcd' takes a number of up to 16 decimal digits", node.span)
    digits = len(str(value.type.hi))
    result: ir.Expr = a.FALSE
    for i in range(digits):
        power = ir.Const(10**i)
        digit = a.binary("div", value.expr, power) if i else value.expr
        if digit.type.hi > 9:
            digit = a.binary("mod", digit, ir.Const(10))
        result = a.binary("or", a.binary("shl", digit, ir.Const(4 * i)), result)
    return Value(result, 4 * digits)


def _binary(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    """The number that BCD digits say; a digit above 9 counts as what its bits are worth."""
    (value,) = _arguments(e, node, ctx, 1)
    width = value.width or value.type.hi.bit_length()
    if value.type.lo < 0 or width > 56:
        raise Reject("E201", "'binary' takes up to 14 BCD digits", node.span)
    result: ir.Expr = a.FALSE
    for i in range((width + 3) // 4):
        digit = a.bits(value.expr, 4 * i + 3, 4 * i)
        result = a.add(a.binary("mul", digit, ir.Const(10**i)), result)
    return Value(result)


def _elapsed(e: Expressions, node: t.CallExpr, ctx: Context, name: str) -> ir.Expr:
    """Ticks from an event's own instant to the one up to which it is settled."""
    if ctx.settled is None:
        raise Reject("E103", f"'{name}' has a meaning only in an event that repeats", node.span,
                     "hand its value to the procedure")  # fmt: skip
    return timing.elapsed(ctx.settled, ir.Var("until", ir.U64))


def _period(value: Value, node: t.CallExpr) -> ir.Expr:
    if value.type.lo < 1:
        raise Reject(
            "E202", f"the period may be 0: it is {show(value.type)}", node.span, "branch on it first"
        )
    return value.expr


def _times(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    """How many times a periodic event falls due in the time that is settled, this one included."""
    (period,) = _arguments(e, node, ctx, 1)
    passed = a.binary("div", _elapsed(e, node, ctx, "times"), _period(period, node))
    return Value(a.add(a.binary("min", passed, ir.Const(2**63 - 1)), a.TRUE))


def _advance(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    """A value that grows by a period each time the event falls due, after all of them; modulo 2**64."""
    value, period = _arguments(e, node, ctx, 2)
    elapsed = _elapsed(e, node, ctx, "advance")
    whole = a.binary("subw", elapsed, a.binary("mod", elapsed, _period(period, node)))
    return Value(a.binary("addw", value.expr, a.binary("addw", whole, period.expr)), 64)


def _merge(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    """`merge(old, new, mask)`: new where the mask has ones, old elsewhere."""
    old, new, mask = _arguments(e, node, ctx, 3)
    top = max(v.type.hi for v in (old, new, mask))
    if min(v.type.lo for v in (old, new, mask)) < 0:
        raise Reject("E201", "'merge' works on bits, and a value may be negative", node.span)
    ones = ir.Const(2 ** top.bit_length() - 1)
    kept = a.binary("and", old.expr, a.binary("xor", mask.expr, ones))
    return Value(a.binary("or", kept, a.binary("and", new.expr, mask.expr)), top.bit_length())


def _lowest(e: Expressions, node: t.CallExpr, ctx: Context, expected: TypeInfo | None) -> Value:
    """The number of the lowest bit that is set: a choice for each, as no back end has an instruction."""
    (value,) = _arguments(e, node, ctx, 1)
    if value.type.lo < 1:
        raise Reject("E202", f"no bit may be set: the value is {show(value.type)}", node.span,
                     "branch on it first, or set a bit above all others: lowest(x | 0x100)")  # fmt: skip
    top = value.type.hi.bit_length() - 1
    function = f"lowest.{top + 1}"
    if function not in e.unit.functions:
        x = ir.Var("x", ir.Range(1, 2 ** (top + 1) - 1))
        steps = [
            ir.If(a.wrap(a.binary("shr", x, ir.Const(bit)), 1), (ir.Return(ir.Const(bit)),))
            for bit in range(top)
        ]
        e.unit.function(function, (("x", x.type),), ir.Range(0, top), [*steps, ir.Return(ir.Const(top))])
    return Value(ir.Call(function, (value.expr,), ir.Range(0, top)))


BUILTINS: dict[str, Builtin] = {
    "wrap": _wrap, "sat": _sat, "min": _of_two("min"), "max": _of_two("max"), "bcd": _bcd, "binary": _binary,
    "merge": _merge, "lowest": _lowest, "times": _times, "advance": _advance,
}  # fmt: skip
