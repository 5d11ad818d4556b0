"""What one device may cost to check: so that no file, however odd, takes long or nests deep.

Every limit is far above what a device needs; each is E003.
"""

from __future__ import annotations

from ..dsl.diagnostics import Reject, Span, Stop
from . import ir
from .verify import children

MAX_STEPS = 20_000
"""Expressions and statements elaborated: bodies count once for each block and each turn of a 'for'."""
MAX_NODES = 20_000
"""Of one expression's IR."""
MAX_DEPTH = 150
"""Of one expression's IR; the verifier allows a little more, for what the compiler puts around it."""
MAX_CALLS = 64
"""Of equations and procedures that use one another."""
MAX_RUN = 50_000_000
"""Steps that one call of a function may take, when everything that can happen does."""
MAX_STORED = 16_384
"""Elements of the state."""


class Budget:
    """What has been spent so far, on one device."""

    def __init__(self) -> None:
        self._steps = 0
        self._stored = 0
        self._sizes: dict[int, tuple[ir.Expr, int, int]] = {}  # by id; the expression keeps its id its own

    def step(self, span: Span) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise Stop(f"the device takes more than {MAX_STEPS:,} steps to check", span,
                       "use fewer blocks, or shorter bodies in them and in 'for'")  # fmt: skip

    def store(self, elements: int, span: Span) -> None:
        self._stored += elements
        if self._stored > MAX_STORED:
            raise Reject("E003", f"the device stores more than {MAX_STORED:,} values", span,
                         "memory belongs to the machine, not to a device")  # fmt: skip

    def size(self, expr: ir.Expr, span: Span) -> None:
        """Bound an expression, whose parts were bounded before."""
        nodes, depth = self._measure(expr)
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Reject("E003", "the expression is too large", span, "give parts of it names with 'let'")

    def _measure(self, expr: ir.Expr) -> tuple[int, int]:
        known = self._sizes.get(id(expr))
        if known is None:
            below = [self._measure(child) for child in children(expr)]
            nodes = 1 + sum(n for n, _ in below)
            depth = 1 + max((d for _, d in below), default=0)
            known = self._sizes[id(expr)] = expr, nodes, depth
        return known[1], known[2]
