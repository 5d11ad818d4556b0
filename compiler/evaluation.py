"""What may be evaluated whether or not it is needed, and what surely is: for back ends that choose.

Non-goals: effects of functions (analysis.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from . import ir
from .analysis import nodes

COMPARISONS = ("eq", "ne", "lt", "le")
LOGIC = 24
"""Nodes of a condition that is evaluated whole, and not step by step with branches."""


def certain(expr: ir.Expr) -> Iterator[ir.Call]:
    """The calls that are made whenever an expression is evaluated, and that depend on no other."""
    match expr:
        case ir.Call():
            yield expr
        case ir.Cond(test=test):
            yield from certain(test)
        case ir.Binary(left=left, right=right):
            yield from certain(left)
            yield from certain(right)
        case ir.Not(operand) | ir.Narrow(operand):
            yield from certain(operand)


def plain(expr: ir.Expr, most: int = LOGIC) -> bool:
    """Whether an expression is a condition of so few stored bits that all of them may be looked at."""
    found = list(nodes(expr))
    return len(found) <= most and all(
        isinstance(node, ir.Const | ir.Var)
        or (isinstance(node, ir.Load) and all(isinstance(i, ir.Const) for i in node.index))
        or (isinstance(node, ir.Cond) and bools(node, node.test))
        or (isinstance(node, ir.Not) and bools(node.operand))
        or (isinstance(node, ir.Binary) and node.op in COMPARISONS)
        for node in found
    )


def bools(*exprs: ir.Expr) -> bool:
    """Whether all of them are 0 or 1."""
    return all(ir.BOOL.contains(expr.type) for expr in exprs)


def immediate(expr: ir.Expr) -> bool:
    """Whether evaluating the expression needlessly costs nothing and is always defined."""
    return isinstance(expr, ir.Const | ir.Var | ir.Now)
