"""The interval of every operator, against all values of small ranges."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import get_args

import pytest
from devc.compiler import intervals, ir
from devc.compiler.ir import Range

WORD = 2**64
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "addw": lambda a, b: (a + b) % WORD,
    "subw": lambda a, b: (a - b) % WORD,
    "mulw": lambda a, b: a * b % WORD,
    "div": operator.floordiv,
    "mod": operator.mod,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": operator.lshift,
    "shr": operator.rshift,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "min": min,
    "max": max,
}
SOUND_ONLY = ("addw", "subw", "mulw", "mod")


@pytest.mark.parametrize("op", get_args(ir.BinaryOp))
def test_an_operators_interval_is_what_its_values_span(op: ir.BinaryOp) -> None:
    allowed = intervals.OPERANDS[op]
    spans = [Range(lo, hi) for lo, hi in itertools.combinations_with_replacement(range(-4, 9), 2)]
    for left, right in itertools.product(spans, spans):
        if not (allowed[0].contains(left) and allowed[1].contains(right)):
            assert list(intervals.complaints(op, left, right))
            continue
        pairs = itertools.product(range(left.lo, left.hi + 1), range(right.lo, right.hi + 1))
        results = [int(OPERATIONS[op](a, b)) for a, b in pairs]
        spanned, found = Range(min(results), max(results)), intervals.result(op, left, right)
        assert found.contains(spanned) if op in SOUND_ONLY else found == spanned, (op, left, right)


@pytest.mark.parametrize("hz", [1, 3, 1000, 3_579_545, 10**9])
def test_ticks_and_nanos_of_a_range_are_those_of_its_ends(hz: int) -> None:
    assert intervals.ticks(Range(5, ir.NEVER), Range(hz, hz)) == Range(
        5 * hz // ir.SECOND, ir.NEVER * hz // ir.SECOND
    )
    late = intervals.nanos(Range(1, ir.NEVER), Range(hz, hz))
    assert late == Range(-(-ir.SECOND // hz), ir.NEVER)


def test_ticks_of_the_last_instant_at_the_greatest_frequency_fit() -> None:
    assert intervals.ticks(ir.U64, intervals.HZ).fits
