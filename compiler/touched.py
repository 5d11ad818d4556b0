"""Handlers that say whether they touched anything on which others depend.

After a write, lines, counters, deadlines and observers must follow (`commit`),
but not if the path taken stored nothing that they depend on: a counter latch
command changes neither. `touching` makes a variant of a handler, and of the
procedures it calls, whose result is just that; `reading` one of a handler that
returns a value, which leaves the answer in a slot.

Non-goals: whether a store changed the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from . import arithmetic as a
from . import ir
from .analysis import Analysis, expressions, nodes, walk

SUFFIX = ".touches"
FLAG = ir.Var("it touched", ir.BOOL)  # no name of the language has a space
CALLED = ir.Var("callee touched", ir.BOOL)
_SET = ir.Let(FLAG.name, a.TRUE)
NOTED = "touched by a read"
"""The slot in which a read's variant leaves whether it touched anything."""
_NOTE = ir.Store(NOTED, (), a.TRUE)


class Touching:
    """Variants of a module's functions; they are added to `functions` before their callers."""

    def __init__(self, functions: dict[str, ir.Function], analysis: Analysis, watched: frozenset[str]):
        """`watched`: the slots that matter."""
        self._functions = functions
        self._analysis = analysis
        self._watched = watched

    def touches(self, name: str) -> bool:
        """Whether a function may store a slot that matters."""
        return bool(self._analysis.of(name).writes & self._watched)

    def touching(self, name: str) -> str:
        """The variant of a function without a result; it returns a BOOL."""
        variant = name + SUFFIX
        if variant not in self._functions:
            plain = self._functions[name]
            body = (ir.Let(FLAG.name, a.FALSE), *self._block(plain.body), ir.Return(FLAG))
            self._functions[variant] = ir.Function(variant, plain.params, ir.BOOL, body, line=plain.line)
        return variant

    def reading(self, name: str) -> str:
        """The variant of a function with a result; it sets the slot NOTED where it touches."""
        variant = name + SUFFIX
        if variant not in self._functions:
            plain = self._functions[name]
            body = self._noting(plain.body)
            self._functions[variant] = ir.Function(variant, plain.params, plain.result, body, line=plain.line)
        return variant

    def _noting(self, block: ir.Block) -> ir.Block:
        return tuple(after for statement in block for after in self._noted(statement))

    def _noted(self, statement: ir.Stmt) -> Iterator[ir.Stmt]:
        match statement:
            case ir.If(test, then, orelse):
                yield ir.If(test, self._noting(then), self._noting(orelse))
            case ir.Switch(value, cases, default):
                arms = tuple((values, self._noting(body)) for values, body in cases)
                yield ir.Switch(value, arms, self._noting(default))
            case ir.Repeat(times, body):
                yield ir.Repeat(times, self._noting(body))
            case ir.Do(call) if self.touches(call.function) and self._functions[call.function].result is None:
                yield ir.Let(CALLED.name, replace(call, function=self.touching(call.function), type=ir.BOOL))
                yield ir.If(CALLED, (_NOTE,))
            case ir.Return(ir.Call() as call) if self.touches(call.function):
                yield ir.Return(replace(call, function=self.reading(call.function)))
            case ir.Let(name, ir.Call() as call) if self.touches(call.function):
                yield ir.Let(name, replace(call, function=self.reading(call.function)))
            case ir.Store(slot=slot) if slot in self._watched:
                yield statement
                yield _NOTE
            case _:
                if any(self.touches(f) for f in calls(statement)):
                    yield _NOTE
                yield statement

    def _block(self, block: ir.Block) -> ir.Block:
        return tuple(after for statement in block for after in self._statement(statement))

    def _statement(self, statement: ir.Stmt) -> Iterator[ir.Stmt]:
        match statement:
            case ir.Return():
                yield ir.Return(FLAG)
            case ir.If(test, then, orelse):
                yield ir.If(test, self._block(then), self._block(orelse))
            case ir.Switch(value, cases, default):
                arms = tuple((values, self._block(body)) for values, body in cases)
                yield ir.Switch(value, arms, self._block(default))
            case ir.Repeat(times, body):
                yield ir.Repeat(times, self._block(body))
            case ir.Do(call) if self.touches(call.function):
                yield from self._call(call)
            case ir.Store(slot=slot) if slot in self._watched:
                yield statement
                yield _SET
            case _:
                yield statement
                if any(self.touches(f) for f in calls(statement)):
                    yield _SET

    def _call(self, call: ir.Call) -> Iterator[ir.Stmt]:
        if self._functions[call.function].result is not None:
            yield ir.Do(call)
            yield _SET
            return
        yield ir.Let(CALLED.name, ir.Call(self.touching(call.function), call.args, ir.BOOL, call.now))
        yield ir.Let(FLAG.name, a.either(FLAG, CALLED))


def calls(statement: ir.Stmt) -> Iterator[str]:
    """The functions called by the expressions of a statement."""
    for expr in expressions(statement):
        yield from (node.function for node in nodes(expr) if isinstance(node, ir.Call))


def reachable(functions: dict[str, ir.Function], *roots: str) -> tuple[ir.Function, ...]:
    """The exported functions, the roots and all that they call, in order."""
    found = {name for name, function in functions.items() if function.exported} | set(roots)
    for name in reversed(functions):  # a callee stands before its callers
        if name in found:
            found.update(f for statement in walk(functions[name].body) for f in calls(statement))
    return tuple(function for name, function in functions.items() if name in found)
