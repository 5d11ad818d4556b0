"""Handlers that say whether they touched anything on which others depend.

After an access, lines, counters, deadlines and observers must follow (`commit`),
but not if the path taken stored nothing that they depend on: a counter latch
command changes neither. `touching` makes a variant of a handler, and of the
procedures it calls, whose result is just that; `committing` one of a handler
that returns a value, which commits by itself, its answer at hand, before it
returns it.

Non-goals: whether a store changed the value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

from . import arithmetic as a
from . import ir
from .analysis import Analysis, expressions, nodes, walk

SUFFIX, COMMITS = ".touches", ".commits"
FLAG = ir.Var("it touched", ir.BOOL)  # no name of the language has a space
CALLED = ir.Var("callee touched", ir.BOOL)
_CLEAR, _SET = ir.Let(FLAG.name, a.FALSE), ir.Let(FLAG.name, a.TRUE)
_COMMIT = ir.If(FLAG, (ir.Do(ir.Call("commit", (), ir.BOOL)),))

Ending = Callable[[ir.Return], Iterator[ir.Stmt]]
"""What stands for a return."""


class Touching:
    """Variants of a module's functions; they are added to `functions` before their callers."""

    def __init__(self, functions: dict[str, ir.Function], analysis: Analysis, watched: frozenset[str]):
        """`watched`: the slots that matter."""
        self._functions = functions
        self._analysis = analysis
        self._watched = watched
        self._numbers = itertools.count()

    def touches(self, name: str) -> bool:
        """Whether a function may store a slot that matters."""
        return bool(self._analysis.of(name).writes & self._watched)

    def touching(self, name: str) -> str:
        """The variant of a function without a result; it returns a BOOL."""
        variant = name + SUFFIX
        if variant not in self._functions:
            plain = self._functions[name]
            body = (_CLEAR, *self._block(plain.body, _says), ir.Return(FLAG))
            self._functions[variant] = ir.Function(variant, plain.params, ir.BOOL, body, line=plain.line)
        return variant

    def committing(self, name: str) -> str:
        """The variant of a function with a result that commits what it touched."""
        variant = name + COMMITS
        if variant not in self._functions:
            plain = self._functions[name]
            here = any(self._touched_by(s) for s in walk(plain.body) if not isinstance(s, ir.Return))
            begin, ending = ((_CLEAR,), self._answers) if here else ((), self._leaves)
            body = (*begin, *self._block(plain.body, ending))
            self._functions[variant] = replace(plain, name=variant, body=body)
        return variant

    def _answers(self, statement: ir.Return) -> Iterator[ir.Stmt]:
        """The value is evaluated before what is touched is committed."""
        for last in self._leaves(statement):
            assert last.value is not None
            answer = ir.Var(f"answer {next(self._numbers)}", last.value.type)
            yield from (ir.Let(answer.name, last.value), _COMMIT, ir.Return(answer))

    def _leaves(self, statement: ir.Return) -> Iterator[ir.Return]:
        """The function whose result is returned commits by itself."""
        match statement.value:
            case ir.Call(function=function) as call if self.touches(function):
                yield ir.Return(replace(call, function=self.committing(function)))
            case _:
                yield statement

    def _touched_by(self, statement: ir.Stmt) -> bool:
        """Whether a statement itself, not one in it, may store a slot that matters."""
        stored = isinstance(statement, ir.Store) and statement.slot in self._watched
        return stored or any(self.touches(f) for f in calls(statement))

    def _block(self, block: ir.Block, ending: Ending) -> ir.Block:
        return tuple(after for statement in block for after in self._statement(statement, ending))

    def _statement(self, statement: ir.Stmt, ending: Ending) -> Iterator[ir.Stmt]:
        match statement:
            case ir.Return():
                yield from ending(statement)
            case ir.If(test, then, orelse):
                yield ir.If(test, self._block(then, ending), self._block(orelse, ending))
            case ir.Switch(value, cases, default):
                arms = tuple((values, self._block(body, ending)) for values, body in cases)
                yield ir.Switch(value, arms, self._block(default, ending))
            case ir.Repeat(times, body):
                yield ir.Repeat(times, self._block(body, ending))
            case ir.Do(call) if self.touches(call.function):
                yield from self._call(call)
            case _:
                yield statement
                if self._touched_by(statement):
                    yield _SET

    def _call(self, call: ir.Call) -> Iterator[ir.Stmt]:
        if self._functions[call.function].result is not None:
            yield ir.Do(call)
            yield _SET
            return
        yield ir.Let(CALLED.name, ir.Call(self.touching(call.function), call.args, ir.BOOL, call.now))
        yield ir.Let(FLAG.name, a.either(FLAG, CALLED))


def _says(statement: ir.Return) -> Iterator[ir.Stmt]:
    yield ir.Return(FLAG)


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
