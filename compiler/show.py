"""The IR as short text, for messages and for reading: expressions and statements.

Non-goals: a syntax that anything parses again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .ir import Binary, BinaryOp, Call, Cond, Const, Expr, Load, Nanos, Narrow, Not, Now, Range, Ticks, Var

SIGNS: dict[BinaryOp, str] = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "mod": "%",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
}

_DEEPEST = 5


def show(expr: Expr, depth: int = _DEEPEST) -> str:
    """An expression in infix form; what is nested deeper than `depth` becomes `...`."""
    return _SHOW[type(expr)](expr, depth - 1) if depth else "..."


def show_range(range_: Range) -> str:
    """A range as messages write it."""
    return f"{range_.lo}..{range_.hi}" if range_.lo != range_.hi else str(range_.lo)


def show_place(slot: str, index: tuple[Expr, ...], depth: int = _DEEPEST) -> str:
    """A slot with its indices."""
    return slot + "".join(f"[{show(i, depth)}]" for i in index)


def _binary(e: Binary, d: int) -> str:
    left, right = show(e.left, d), show(e.right, d)
    return f"({left} {SIGNS[e.op]} {right})" if e.op in SIGNS else f"{e.op}({left}, {right})"


def _call(e: Call, d: int) -> str:
    at = [f"now={show(e.now, d)}"] if e.now else []
    return f"{e.function}({', '.join([show(a, d) for a in e.args] + at)})"


_SHOW: dict[type[Any], Callable[[Any, int], str]] = {
    Const: lambda e, d: str(e.value),
    Var: lambda e, d: str(e.name),
    Now: lambda e, d: "now",
    Load: lambda e, d: show_place(e.slot, e.index, d),
    Binary: _binary,
    Not: lambda e, d: f"not {show(e.operand, d)}",
    Cond: lambda e, d: f"({show(e.then, d)} if {show(e.test, d)} else {show(e.orelse, d)})",
    Narrow: lambda e, d: f"narrow({show(e.operand, d)}, {show_range(e.type)})",
    Ticks: lambda e, d: f"ticks({show(e.ns, d)}, {show(e.hz, d)})",
    Nanos: lambda e, d: f"nanos({show(e.ticks, d)}, {show(e.hz, d)})",
    Call: _call,
}
