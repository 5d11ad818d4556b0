"""Interval arithmetic of the IR's operators: the tightest range each result can have.

`OPERANDS` says what an operator asks of its operands, `result` what it gives.
The bounds of `and`, `or` and `xor` are Warren's (Hacker's Delight, 4-3).

Non-goals: values known bit by bit, relations between variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from .ir import BOOL, MAX_HZ, NEVER, SECOND, U64, BinaryOp, Range
from .show import show_range

_ONES = 2**64 - 1
_BITS = tuple(1 << i for i in reversed(range(64)))


def result(op: BinaryOp, left: Range, right: Range) -> Range:
    """The smallest range with every exact result; the operands obey `OPERANDS`.

    For `and`, `or`, `xor`, `add`, `sub`, `mul`, the shifts, comparisons, `min`
    and `max` it is exact for independent operands; for `mod` it is sound. It
    may be beyond 64 bits.
    """
    return _RESULTS[op](left, right)


def ticks(ns: Range, hz: Range) -> Range:
    """The range of `Ticks` for operands that are not negative."""
    return Range(ns.lo * hz.lo // SECOND, ns.hi * hz.hi // SECOND)


def nanos(count: Range, hz: Range) -> Range:
    """The range of `Nanos` for operands that are not negative, `hz` not 0."""
    return Range(min(-(-count.lo * SECOND // hz.hi), NEVER), min(-(-count.hi * SECOND // hz.lo), NEVER))


# --- what an operator asks ---------------------------------------------------

SHIFT = Range(0, 63)
HZ = Range(1, MAX_HZ)
NATURAL = U64
POSITIVE = Range(1, 2**64 - 1)
ANY = Range(-(2**63), 2**64 - 1)

OPERANDS: dict[BinaryOp, tuple[Range, Range]] = dict.fromkeys(get_args(BinaryOp), (ANY, ANY)) | {
    "div": (NATURAL, POSITIVE),
    "mod": (NATURAL, POSITIVE),
    "and": (NATURAL, NATURAL),
    "or": (NATURAL, NATURAL),
    "xor": (NATURAL, NATURAL),
    "shl": (ANY, SHIFT),
    "shr": (ANY, SHIFT),
}
"""The widest range of the left and the right operand."""


def complaints(op: BinaryOp, left: Range, right: Range) -> Iterator[str]:
    """What is wrong with the operands' ranges, for a message."""
    for side, given, allowed in zip(("left", "right"), (left, right), OPERANDS[op], strict=True):
        if not allowed.contains(given):
            yield f"{side} operand of {op} is {show_range(given)}, outside {show_range(allowed)}"


# --- results -----------------------------------------------------------------


def _add(a: Range, b: Range) -> Range:
    return Range(a.lo + b.lo, a.hi + b.hi)


def _sub(a: Range, b: Range) -> Range:
    return Range(a.lo - b.hi, a.hi - b.lo)


def _mul(a: Range, b: Range) -> Range:
    corners = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return Range(min(corners), max(corners))


def _modular(_: Range, __: Range) -> Range:
    return U64


def _div(a: Range, b: Range) -> Range:
    return Range(a.lo // b.hi, a.hi // b.lo)


def _mod(a: Range, b: Range) -> Range:
    if a.hi < b.lo:
        return a
    if b.lo == b.hi and a.lo // b.lo == a.hi // b.lo:
        return Range(a.lo % b.lo, a.hi % b.lo)
    return Range(0, min(a.hi, b.hi - 1))


def _shl(a: Range, b: Range) -> Range:
    return _mul(a, Range(1 << b.lo, 1 << b.hi))


def _shr(a: Range, b: Range) -> Range:
    corners = [x >> y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return Range(min(corners), max(corners))


def _least_or(a: Range, b: Range) -> int:
    low, other = a.lo, b.lo
    for bit in _BITS:
        if ~low & other & bit and (raised := (low | bit) & -bit) <= a.hi:
            return raised | other
        if low & ~other & bit and (raised := (other | bit) & -bit) <= b.hi:
            return low | raised
    return low | other


def _greatest_or(a: Range, b: Range) -> int:
    high, other = a.hi, b.hi
    for bit in _BITS:
        if high & other & bit:
            if (lowered := (high - bit) | (bit - 1)) >= a.lo:
                return lowered | other
            if (lowered := (other - bit) | (bit - 1)) >= b.lo:
                return high | lowered
    return high | other


def _complement(a: Range) -> Range:
    return Range(_ONES - a.hi, _ONES - a.lo)


def _or(a: Range, b: Range) -> Range:
    return Range(_least_or(a, b), _greatest_or(a, b))


def _and(a: Range, b: Range) -> Range:
    return _complement(_or(_complement(a), _complement(b)))


def _least_xor(a: Range, b: Range) -> int:
    low, other = a.lo, b.lo
    for bit in _BITS:
        if ~low & other & bit and (raised := (low | bit) & -bit) <= a.hi:
            low = raised
        elif low & ~other & bit and (raised := (other | bit) & -bit) <= b.hi:
            other = raised
    return low ^ other


def _greatest_xor(a: Range, b: Range) -> int:
    high, other = a.hi, b.hi
    for bit in _BITS:
        if high & other & bit:
            if (lowered := (high - bit) | (bit - 1)) >= a.lo:
                high = lowered
            elif (lowered := (other - bit) | (bit - 1)) >= b.lo:
                other = lowered
    return high ^ other


def _xor(a: Range, b: Range) -> Range:
    return Range(_least_xor(a, b), _greatest_xor(a, b))


def _truth(always: bool, never: bool) -> Range:
    return Range(1, 1) if always else Range(0, 0) if never else BOOL


def _eq(a: Range, b: Range) -> Range:
    return _truth(a.lo == a.hi == b.lo == b.hi, a.hi < b.lo or b.hi < a.lo)


def _ne(a: Range, b: Range) -> Range:
    same = _eq(a, b)
    return Range(1 - same.hi, 1 - same.lo)


def _lt(a: Range, b: Range) -> Range:
    return _truth(a.hi < b.lo, a.lo >= b.hi)


def _le(a: Range, b: Range) -> Range:
    return _truth(a.hi <= b.lo, a.lo > b.hi)


def _min(a: Range, b: Range) -> Range:
    return Range(min(a.lo, b.lo), min(a.hi, b.hi))


def _max(a: Range, b: Range) -> Range:
    return Range(max(a.lo, b.lo), max(a.hi, b.hi))


_RESULTS: dict[BinaryOp, Callable[[Range, Range], Range]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "addw": _modular,
    "subw": _modular,
    "mulw": _modular,
    "div": _div,
    "mod": _mod,
    "and": _and,
    "or": _or,
    "xor": _xor,
    "shl": _shl,
    "shr": _shr,
    "eq": _eq,
    "ne": _ne,
    "lt": _lt,
    "le": _le,
    "min": _min,
    "max": _max,
}
