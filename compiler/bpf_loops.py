"""Loops within loops as functions of their own: the verifier goes through a loop round by round.

What an outer loop of 192 rounds and an inner one of 32 would cost it, it would
pay 6000 times over; a function it checks once. The verdict of our own verifier
and the engines' answers stay the same.

Non-goals: a loop that leaves its function, or changes two values that are used
behind it, stays where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from . import ir
from .analysis import expressions, nodes, walk

Known = frozenset[str] | None
"""Locals that have a value on every way to a place; None where no way leads."""

MOST_PARAMETERS = 4
"""With the instant, the arguments of a BPF function."""


def apart(module: ir.Module) -> ir.Module:
    """The module with each inner loop, as far as it can be, in a function `<its function>.loop<n>`."""
    functions: list[ir.Function] = []
    for function in module.functions:
        work = _Function(function)
        body = work.block(function.body, False, frozenset(name for name, _ in function.params))
        functions += [*work.made, replace(function, body=body)]
    return replace(module, functions=tuple(functions))


class _Function:
    """One function whose inner loops move out."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.made: list[ir.Function] = []
        self.reads = _reads(function.body)
        self.types = dict(function.params) | {
            node.name: node.type
            for stmt in walk(function.body)
            for expr in expressions(stmt)
            for node in nodes(expr)
            if isinstance(node, ir.Var)
        }

    def block(self, block: ir.Block, inside: bool, known: Known) -> ir.Block:
        """The block; `inside`: of a loop, `known`: what surely has a value before it."""
        made: list[ir.Stmt] = []
        fixed: dict[str, ir.Const] = {}
        for stmt in block:
            made.append(self._statement(stmt, inside, known, fixed))
            known = _flow((stmt,), known, [])[1]
            for each in walk((stmt,)):
                if isinstance(each, ir.Let):
                    fixed.pop(each.name, None)
            if isinstance(stmt, ir.Let) and isinstance(stmt.value, ir.Const):
                fixed[stmt.name] = stmt.value
        return tuple(made)

    def _statement(self, stmt: ir.Stmt, inside: bool, known: Known, fixed: Mapping[str, ir.Const]) -> ir.Stmt:
        match stmt:
            case ir.If(test, then, orelse):
                return ir.If(test, self.block(then, inside, known), self.block(orelse, inside, known))
            case ir.Switch(value, cases, default):
                arms = tuple((numbers, self.block(body, inside, known)) for numbers, body in cases)
                return ir.Switch(value, arms, self.block(default, inside, known))
            case ir.Repeat(times, body):
                loop = ir.Repeat(times, self.block(body, True, known))
                return self._moved(stmt, loop, known, fixed) if inside else loop
        return stmt

    def _moved(
        self, found: ir.Repeat, loop: ir.Repeat, known: Known, fixed: Mapping[str, ir.Const]
    ) -> ir.Stmt:
        """A call of the loop's own function; the loop itself if it must stay.

        `found`: as it was before its own inner loops moved. `fixed`: what is known of
        locals before it. A loop that counts from a constant is one whose every index
        the verifier knows.
        """
        if any(isinstance(stmt, ir.Return) for stmt in walk(loop.body)):
            return loop
        behind = (_flow((found,), known, [])[1] or frozenset()) & self._changed(found)
        carried = _flow((found,), frozenset(), [])[0] - set(fixed)  # the outer loop comes here again
        used = sorted(behind & (carried | set(self.reads - _reads(found.body))))
        if len(used) > 1:
            return loop
        result = self.types[used[0]] if used else None
        end: ir.Block = (ir.Return(ir.Var(used[0], result)),) if result is not None else ()
        needed = sorted(_flow((loop, *end), frozenset(), [])[0])
        given = [name for name in needed if name not in fixed]
        if len(given) > MOST_PARAMETERS:
            return loop
        name = f"{self.function.name}.loop{len(self.made)}"
        params = tuple((f"{each}.given", self.types[each]) for each in given)
        taken = [
            ir.Let(each, fixed.get(each) or ir.Var(f"{each}.given", self.types[each])) for each in needed
        ]
        self.made.append(
            ir.Function(name, params, result, (*taken, loop, *end), line=self.function.line, rare=True)
        )
        arguments = tuple(ir.Var(each, self.types[each]) for each in given)
        if result is None:
            return ir.Do(ir.Call(name, arguments, ir.BOOL))
        return ir.Let(used[0], ir.Call(name, arguments, result))

    @staticmethod
    def _changed(loop: ir.Repeat) -> set[str]:
        return {stmt.name for stmt in walk(loop.body) if isinstance(stmt, ir.Let)}


def _reads(block: ir.Block) -> Counter[str]:
    """How often each local is read."""
    return Counter(name for stmt in walk(block) for name in _named(stmt))


def _named(stmt: ir.Stmt) -> list[str]:
    return [node.name for e in expressions(stmt) for node in nodes(e) if isinstance(node, ir.Var)]


def _flow(block: ir.Block, known: Known, breaks: list[frozenset[str]]) -> tuple[frozenset[str], Known]:
    """What a block reads before it surely has a value; and what surely has one behind it.

    `breaks` gets what has a value at each Break of the loop that the block is in.
    """
    read: frozenset[str] = frozenset()
    for stmt in block:
        if known is None:
            break
        read |= frozenset(_named(stmt)) - known
        ways: list[tuple[frozenset[str], Known]] = []
        match stmt:
            case ir.Let(name):
                known |= {name}
            case ir.Break():
                breaks.append(known)
                known = None
            case ir.Return():
                known = None
            case ir.If(then=then, orelse=orelse):
                ways = [_flow(then, known, breaks), _flow(orelse, known, breaks)]
            case ir.Switch(value, cases, default):
                ways = [_flow(body, known, breaks) for _, body in cases]
                listed = sum(len(numbers) for numbers, _ in cases)
                if listed <= value.type.hi - value.type.lo:
                    ways.append(_flow(default, known, breaks))
            case ir.Repeat(body=body):
                inner: list[frozenset[str]] = []
                ways = [_flow(body, known, inner), *((frozenset(), each) for each in inner)]
        if ways:
            read = read.union(*(way for way, _ in ways))
            reached = [behind for _, behind in ways if behind is not None]
            known = frozenset.intersection(*reached) if reached else None
    return read, known
