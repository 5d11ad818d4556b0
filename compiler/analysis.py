"""What IR functions read, write and depend on; inlining of pure equations.

Non-goals: optimisation. This only answers questions the compiler asks: does a
write need the lines recomputed, which wave drives a line, is an equation a
function of stored state alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from . import arithmetic as a
from . import ir

Functions = Mapping[str, ir.Function]
Names = dict[str, ir.Expr]
Replace = Callable[[ir.Expr], "ir.Expr | None"]


@dataclass(frozen=True)
class Effects:
    """Slots read and written, transitively, whether time is looked at, how deep calls nest, and the
    most steps that it takes (expressions and statements evaluated)."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    time: bool = False
    depth: int = 0
    steps: int = 0


class Analysis:
    """Effects of functions, each found once."""

    def __init__(self, functions: Functions):
        self.functions = functions
        self._known: dict[str, Effects] = {}

    def of(self, name: str) -> Effects:
        if name not in self._known:
            inside = self.of_block(self.functions[name].body)
            self._known[name] = replace(
                inside, depth=inside.depth + 1, steps=self._steps(self.functions[name].body)
            )
        return self._known[name]

    def of_block(self, block: ir.Block) -> Effects:
        seen = list(walk(block))
        stored = frozenset(statement.slot for statement in seen if isinstance(statement, ir.Store))
        inside = self._of(
            node for statement in seen for expr in expressions(statement) for node in nodes(expr)
        )
        return replace(inside, writes=inside.writes | stored)

    def of_expr(self, expr: ir.Expr) -> Effects:
        return self._of(nodes(expr))

    def _of(self, found: Iterable[ir.Expr]) -> Effects:
        reads: set[str] = set()
        writes: set[str] = set()
        time, depth = False, 0
        for node in found:
            if isinstance(node, ir.Load):
                reads.add(node.slot)
            elif isinstance(node, ir.Now):
                time = True
            elif isinstance(node, ir.Call):
                called = self.of(node.function)
                reads |= called.reads
                writes |= called.writes
                time, depth = time or called.time, max(depth, called.depth)
        return Effects(frozenset(reads), frozenset(writes), time, depth)

    def _steps(self, block: ir.Block) -> int:
        total = 0
        for statement in block:
            for expr in expressions(statement):
                total += 1 + sum(
                    1 + self.of(node.function).steps if isinstance(node, ir.Call) else 1
                    for node in nodes(expr)
                )
            match statement:
                case ir.If():
                    total += max(self._steps(statement.then), self._steps(statement.orelse))
                case ir.Switch():
                    bodies = [statement.default, *(body for _, body in statement.cases)]
                    total += max(self._steps(body) for body in bodies)
                case ir.Repeat():
                    total += statement.times * self._steps(statement.body)
        return total

    def inline(self, expr: ir.Expr, replace: Replace) -> ir.Expr:
        """The expression with the equations that it uses put in place; see `Inliner`."""
        return Inliner(self.functions, replace)(expr)


class Inliner:
    """Replaces calls of single-return functions by their bodies.

    `replace` may give another expression for a node (calls it answers are not
    entered). Raises `TooLarge` where that leads too far.
    """

    MOST, DEEPEST = 20_000, 150

    def __init__(self, functions: Functions, replace: Replace):
        self.functions, self.replace = functions, replace
        self._nodes = self._level = 0

    def __call__(self, expr: ir.Expr) -> ir.Expr:
        return self._inline(expr, {})

    def _inline(self, expr: ir.Expr, names: Names) -> ir.Expr:
        self._nodes += 1
        self._level += 1
        if self._nodes > self.MOST or self._level > self.DEEPEST:
            raise TooLarge
        built = self._rebuilt(expr, names)
        chosen = self.replace(built)
        if chosen is None:
            chosen = self._entered(built) if isinstance(built, ir.Call) and built.now is None else built
        self._level -= 1
        return chosen

    def _entered(self, call: ir.Call) -> ir.Expr:
        function = self.functions[call.function]
        last = function.body[-1] if len(function.body) == 1 else None
        if not isinstance(last, ir.Return) or last.value is None:
            return call
        return self._inline(last.value, dict(zip((p for p, _ in function.params), call.args, strict=True)))

    def _rebuilt(self, expr: ir.Expr, names: Names) -> ir.Expr:
        def go(e: ir.Expr) -> ir.Expr:
            return self._inline(e, names)

        match expr:
            case ir.Var():
                return names.get(expr.name, expr)
            case ir.Load():
                return ir.Load(expr.slot, tuple(go(i) for i in expr.index), expr.type)
            case ir.Binary():
                return a.binary(expr.op, go(expr.left), go(expr.right))
            case ir.Not():
                return a.negate(go(expr.operand))
            case ir.Cond():
                return a.cond(go(expr.test), go(expr.then), go(expr.orelse))
            case ir.Narrow():
                inner = go(expr.operand)
                return inner if expr.type.contains(inner.type) else ir.Narrow(inner, expr.type)
            case ir.Ticks():
                return ir.Ticks(go(expr.ns), go(expr.hz), expr.type)
            case ir.Nanos():
                return ir.Nanos(go(expr.ticks), go(expr.hz))
            case ir.Call():
                return ir.Call(expr.function, tuple(go(x) for x in expr.args), expr.type, expr.now)
        return expr


class TooLarge(Exception):
    """An expression grows too large when the equations in it are put in place."""


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
