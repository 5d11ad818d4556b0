"""What IR functions read, write and depend on; inlining of pure equations.

Non-goals: optimisation. This only answers questions the compiler asks: does a
write need the lines recomputed, which wave drives a line, is an equation a
function of stored state alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from . import arithmetic as a
from . import ir

Functions = Mapping[str, ir.Function]


@dataclass(frozen=True)
class Effects:
    """Slots read and written, transitively, and whether time is looked at."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    time: bool = False

    def __or__(self, other: Effects) -> Effects:
        return Effects(self.reads | other.reads, self.writes | other.writes, self.time or other.time)


class Analysis:
    """Effects of functions, each found once."""

    def __init__(self, functions: Functions):
        self.functions = functions
        self._known: dict[str, Effects] = {}

    def of(self, name: str) -> Effects:
        if name not in self._known:
            self._known[name] = self.of_block(self.functions[name].body)
        return self._known[name]

    def of_block(self, block: ir.Block) -> Effects:
        total = Effects()
        for statement in walk(block):
            if isinstance(statement, ir.Store):
                total |= Effects(writes=frozenset((statement.slot,)))
            for expr in expressions(statement):
                total |= self.of_expr(expr)
        return total

    def of_expr(self, expr: ir.Expr) -> Effects:
        total = Effects()
        for node in nodes(expr):
            if isinstance(node, ir.Load):
                total |= Effects(reads=frozenset((node.slot,)))
            elif isinstance(node, ir.Now):
                total |= Effects(time=True)
            elif isinstance(node, ir.Call):
                total |= self.of(node.function)
        return total

    def inline(self, expr: ir.Expr, replace: Callable[[ir.Expr], ir.Expr | None]) -> ir.Expr:
        """The expression with calls of single-return functions replaced by their bodies.

        `replace` may give another expression for a node (calls it answers are
        not entered).
        """
        return self._inline(expr, {}, replace)

    def _inline(
        self, expr: ir.Expr, names: dict[str, ir.Expr], replace: Callable[[ir.Expr], ir.Expr | None]
    ) -> ir.Expr:
        def go(e: ir.Expr) -> ir.Expr:
            return self._inline(e, names, replace)

        match expr:
            case ir.Var():
                return names.get(expr.name, expr)
            case ir.Load():
                built: ir.Expr = ir.Load(expr.slot, tuple(go(i) for i in expr.index), expr.type)
            case ir.Binary():
                built = a.binary(expr.op, go(expr.left), go(expr.right))
            case ir.Not():
                built = a.negate(go(expr.operand))
            case ir.Cond():
                built = a.cond(go(expr.test), go(expr.then), go(expr.orelse))
            case ir.Narrow():
                inner = go(expr.operand)
                built = inner if expr.type.contains(inner.type) else ir.Narrow(inner, expr.type)
            case ir.Ticks():
                built = ir.Ticks(go(expr.ns), go(expr.hz), expr.type)
            case ir.Nanos():
                built = ir.Nanos(go(expr.ticks), go(expr.hz))
            case ir.Call():
                built = ir.Call(expr.function, tuple(go(x) for x in expr.args), expr.type, expr.now)
            case _:
                built = expr
        chosen = replace(built)
        if chosen is not None:
            return chosen
        if isinstance(built, ir.Call) and built.now is None:
            function = self.functions[built.function]
            if len(function.body) == 1 and isinstance(function.body[0], ir.Return):
                value = function.body[0].value
                assert value is not None
                inner_names = dict(zip((p for p, _ in function.params), built.args, strict=True))
                return self._inline(value, inner_names, replace)
        return built


def walk(block: ir.Block) -> Iterator[ir.Stmt]:
    """Every statement of a block, nested ones too."""
    for statement in block:
        yield statement
        match statement:
            case ir.If():
                yield from walk(statement.then)
                yield from walk(statement.orelse)
            case ir.Switch():
                for _, body in statement.cases:
                    yield from walk(body)
                yield from walk(statement.default)
            case ir.Repeat():
                yield from walk(statement.body)


def expressions(statement: ir.Stmt) -> tuple[ir.Expr, ...]:
    """The expressions that stand directly in a statement."""
    match statement:
        case ir.Let():
            return (statement.value,)
        case ir.Store():
            return (*statement.index, statement.value)
        case ir.If():
            return (statement.test,)
        case ir.Switch():
            return (statement.value,)
        case ir.Return():
            return () if statement.value is None else (statement.value,)
        case ir.Do():
            return (statement.call,)
    return ()


def nodes(expr: ir.Expr) -> Iterator[ir.Expr]:
    """An expression and every expression in it."""
    yield expr
    match expr:
        case ir.Load():
            parts: tuple[ir.Expr, ...] = expr.index
        case ir.Binary():
            parts = (expr.left, expr.right)
        case ir.Not() | ir.Narrow():
            parts = (expr.operand,)
        case ir.Cond():
            parts = (expr.test, expr.then, expr.orelse)
        case ir.Ticks():
            parts = (expr.ns, expr.hz)
        case ir.Nanos():
            parts = (expr.ticks, expr.hz)
        case ir.Call():
            parts = (*expr.args, *((expr.now,) if expr.now is not None else ()))
        case _:
            parts = ()
    for part in parts:
        yield from nodes(part)
