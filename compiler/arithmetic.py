"""Building IR expressions whose ranges are right by construction.

Constants fold; every result carries the interval that intervals.py gives it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..dsl.diagnostics import Reject, Span
from . import intervals, ir

ONES = 2**64 - 1
TRUE, FALSE = ir.Const(1), ir.Const(0)

_FOLD: dict[ir.BinaryOp, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b, "mod": lambda a, b: a % b,
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b, "shr": lambda a, b: a >> b,
    "eq": lambda a, b: int(a == b), "ne": lambda a, b: int(a != b),
    "lt": lambda a, b: int(a < b), "le": lambda a, b: int(a <= b),
    "min": min, "max": max,
    "addw": lambda a, b: (a + b) & ONES, "subw": lambda a, b: (a - b) & ONES,
    "mulw": lambda a, b: (a * b) & ONES,
}  # fmt: skip


def binary(op: ir.BinaryOp, left: ir.Expr, right: ir.Expr, span: Span | None = None) -> ir.Expr:
    """`left op right`; `Reject` E204 where it may exceed 64 bits."""
    if isinstance(left, ir.Const) and isinstance(right, ir.Const):
        value = _FOLD[op](left.value, right.value)
        if not ir.Range(value, value).fits:
            raise too_wide(span)
        return ir.Const(value)
    if (op == "and" and left == FALSE) or (op == "mul" and FALSE in (left, right)):
        return FALSE
    if op in ("add", "or", "xor") and left == FALSE:
        return right
    if op in ("add", "sub", "or", "xor", "shl", "shr") and right == FALSE:
        return left
    if op == "and" and isinstance(right, ir.Const) and _covers(right.value, left.type):
        return left
    kind = intervals.result(op, left.type, right.type)
    if kind.lo == kind.hi and op in ("eq", "ne", "lt", "le"):
        return ir.Const(kind.lo)
    if not kind.fits:
        raise too_wide(span)
    return ir.Binary(op, left, right, kind)


def too_wide(span: Span | None) -> Reject:
    return Reject("E204", "the result may exceed 64 bits", span or Span(1, 1, 1, 1),
                  "narrow an operand with wrap(...), a slice, or a smaller type")  # fmt: skip


def _covers(mask: int, values: ir.Range) -> bool:
    return values.lo >= 0 and mask & (mask + 1) == 0 and values.hi <= mask


def add(a: ir.Expr, b: ir.Expr) -> ir.Expr:
    return binary("add", a, b)


def sub(a: ir.Expr, b: ir.Expr) -> ir.Expr:
    return binary("sub", a, b)


def eq(a: ir.Expr, b: ir.Expr) -> ir.Expr:
    return binary("eq", a, b)


def both(a: ir.Expr, b: ir.Expr) -> ir.Expr:
    """a and b; b is evaluated only if a holds."""
    return cond(a, b, FALSE)


def either(a: ir.Expr, b: ir.Expr) -> ir.Expr:
    return cond(a, TRUE, b)


def any_of(tests: list[ir.Expr]) -> ir.Expr:
    """Whether one of several conditions holds; as deep as the logarithm of their number."""
    if len(tests) < 2:
        return tests[0] if tests else FALSE
    middle = len(tests) // 2
    return either(any_of(tests[:middle]), any_of(tests[middle:]))


def one_of(subject: ir.Expr, values: set[int]) -> ir.Expr:
    """Whether a value is one of several constants."""
    tests, ordered = [], sorted(values)
    while ordered:
        first = last = ordered[0]
        while ordered and ordered[0] <= last + 1:
            last = ordered.pop(0)
        low, high = ir.Const(first), ir.Const(last)
        same = first == last
        tests.append(
            eq(subject, low) if same else both(binary("le", low, subject), binary("le", subject, high))
        )
    return any_of(tests)


def negate(a: ir.Expr) -> ir.Expr:
    if isinstance(a, ir.Const):
        return ir.Const(1 - a.value)
    return a.operand if isinstance(a, ir.Not) else ir.Not(a)


def cond(test: ir.Expr, then: ir.Expr, orelse: ir.Expr) -> ir.Expr:
    if isinstance(test, ir.Const):
        return then if test.value else orelse
    if then == orelse:
        return then
    if then == TRUE and orelse == FALSE:
        return test
    if then == FALSE and orelse == TRUE:
        return negate(test)
    kind = then.type.join(orelse.type)
    if not kind.fits:
        raise too_wide(None)
    return ir.Cond(test, then, orelse, kind)


def wrap(value: ir.Expr, bits: int) -> ir.Expr:
    """The low `bits` bits, of a possibly negative value too."""
    whole = ir.Range(0, 2**bits - 1)
    if whole.contains(value.type):
        return value
    if value.type.lo < 0:
        value = binary("addw", value, ir.Const(0))
        if not isinstance(value, ir.Const) and bits == 64:
            return value
    return binary("and", value, ir.Const(whole.hi))


def bits(value: ir.Expr, high: int, low: int) -> ir.Expr:
    return wrap(binary("shr", value, ir.Const(low)), high - low + 1)


def least(values: list[ir.Expr]) -> ir.Expr:
    """The earliest of several instants."""
    result: ir.Expr = ir.Const(ir.NEVER)
    for value in values:
        if value != ir.Const(ir.NEVER):
            result = value if result == ir.Const(ir.NEVER) else binary("min", result, value)
    return result
