"""The verifier: every rule that ir.py states, checked on a whole module.

What passes cannot trap, overflow, leave its state struct or fail to end, in
any back end, as long as each `Narrow` tells the truth (the reference engine
checks that as it runs). The rules are tables: `MODULE_RULES` (verify_layout.py),
`EXPRESSIONS` and `STATEMENTS`, one entry for each kind of node.

Beyond ir.py's words it asks, so that all back ends agree and can recurse:
a call with effects is the whole value of its statement, and nesting is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from . import intervals
from .ir import (
    BOOL,
    U64,
    Binary,
    Block,
    Break,
    Call,
    Cond,
    Const,
    Do,
    Expr,
    Function,
    If,
    Let,
    Load,
    Module,
    Nanos,
    Narrow,
    Not,
    Now,
    Range,
    Repeat,
    Return,
    Slot,
    Stmt,
    Store,
    Switch,
    Ticks,
    Var,
)
from .show import show, show_place, show_range
from .verify_layout import MODULE_RULES, PURE, IRError

__all__ = [
    "MAX_BLOCKS",
    "MAX_DEPTH",
    "MAX_LOOPS",
    "IRError",
    "children",
    "statements",
    "subexpressions",
    "verify",
]

MAX_DEPTH = 200
"""Deepest nesting of an expression: back ends recurse over it."""
MAX_BLOCKS = 60
"""Deepest nesting of blocks."""
MAX_LOOPS = 8
"""Deepest nesting of Repeats: bodies run the product of their counts."""

Live = frozenset[str] | None
"""The locals that have a value on every path to here; None where no path leads."""


def verify(module: Module) -> None:
    """Check a module; `IRError` names the function and the statement at fault."""
    for rule in MODULE_RULES:
        for complaint in rule(module):
            raise IRError(f"{module.name}: {complaint}")
    slots = {slot.name: slot for slot in module.slots}
    checked: dict[str, Function] = {}
    effects: set[str] = set()
    for function in module.functions:
        scope = _Scope(module.name, function, slots, checked, effects)
        scope.check()
        if scope.has_effects:
            effects.add(function.name)
        checked[function.name] = function
    for name in PURE:
        if name in effects:
            raise IRError(f"{module.name}: function {name}: must be pure, but changes the state")


# --- walking -----------------------------------------------------------------

CHILDREN: dict[type[Any], Callable[[Any], tuple[Expr, ...]]] = {
    Const: lambda e: (),
    Var: lambda e: (),
    Now: lambda e: (),
    Load: lambda e: e.index,
    Binary: lambda e: (e.left, e.right),
    Not: lambda e: (e.operand,),
    Cond: lambda e: (e.test, e.then, e.orelse),
    Narrow: lambda e: (e.operand,),
    Ticks: lambda e: (e.ns, e.hz),
    Nanos: lambda e: (e.ticks, e.hz),
    Call: lambda e: (*e.args, *((e.now,) if e.now is not None else ())),
}

VALUES: dict[type[Any], Callable[[Any], tuple[Expr, ...]]] = {
    Let: lambda s: (s.value,),
    Store: lambda s: (*s.index, s.value),
    If: lambda s: (s.test,),
    Switch: lambda s: (s.value,),
    Repeat: lambda s: (),
    Break: lambda s: (),
    Return: lambda s: (s.value,) if s.value is not None else (),
    Do: lambda s: (s.call,),
}
"""The expressions that stand directly in a statement."""

BLOCKS: dict[type[Any], Callable[[Any], tuple[tuple[str, Block], ...]]] = {
    If: lambda s: (("then", s.then), ("orelse", s.orelse)),
    Switch: lambda s: (*((f"case {c[0]}", b) for c, b in s.cases if c), ("default", s.default)),
    Repeat: lambda s: (("body", s.body),),
}
"""The named blocks of a statement that has any."""


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct operands, in the order of evaluation."""
    return CHILDREN[type(expr)](expr)


def subexpressions(expr: Expr) -> Iterator[tuple[Expr, int]]:
    """The expression and all below it with their depth, without recursion."""
    pending = [(expr, 1)]
    while pending:
        node, depth = pending.pop()
        yield node, depth
        pending += [(child, depth + 1) for child in children(node)]


def statements(block: Block) -> Iterator[Stmt]:
    """Every statement of a block and of the blocks in it."""
    pending = list(reversed(block))
    while pending:
        stmt = pending.pop()
        yield stmt
        if type(stmt) in BLOCKS:
            for _, inner in reversed(BLOCKS[type(stmt)](stmt)):
                pending += reversed(inner)


# --- functions ---------------------------------------------------------------


class _Scope:
    """One function under check: what is known at the statement being looked at."""

    def __init__(
        self,
        device: str,
        function: Function,
        slots: dict[str, Slot],
        callees: dict[str, Function],
        effects: set[str],
    ) -> None:
        self.device = device
        self.function = function
        self.slots = slots
        self.callees = callees
        self.effects = effects
        self.has_effects = False
        self.path: list[str] = []
        self.stmt: Stmt | None = None
        self.live: frozenset[str] = frozenset()
        self.head = False
        self.breaks: list[list[Live]] = []
        self.params = dict(function.params)
        self.types: dict[str, Range] = dict(function.params)
        self.assigned: frozenset[str] = frozenset(self.params)

    def refuse(self, complaint: str) -> NoReturn:
        place = f"{self.device}: function {self.function.name}"
        if self.path:
            place += f", body{''.join(self.path)}"
        if self.stmt is not None:
            line = getattr(self.stmt, "line", 0) or self.function.line
            place += f" ({_title(self.stmt)}{f', line {line}' if line else ''})"
        raise IRError(f"{place}: {complaint}")

    def check(self) -> None:
        function = self.function
        if function.name in self.callees:
            self.refuse("the name is used twice")
        if len(self.params) != len(function.params):
            self.refuse("a parameter's name is used twice")
        for name, range_ in [*function.params, *([("result", function.result)] if function.result else [])]:
            if not range_.fits:
                self.refuse(f"{name} has the type {show_range(range_)}, which does not fit 64 bits")
        self.collect_locals()
        live = self.block(function.body, frozenset(self.params))
        self.path, self.stmt = [], None
        if function.result is not None and live is not None:
            self.refuse(f"has a result ({show_range(function.result)}) but can end without Return")

    def collect_locals(self) -> None:
        """Which locals are ever given a value, and their types: what every `Var` of one says."""
        for stmt in statements(self.function.body):
            self.stmt = stmt
            if isinstance(stmt, Let):
                self.assigned |= {stmt.name}
            for value in VALUES[type(stmt)](stmt):
                for node, _ in subexpressions(value):
                    if isinstance(node, Var) and self.types.setdefault(node.name, node.type) != node.type:
                        known = show_range(self.types[node.name])
                        self.refuse(f"{node.name} is both {known} and {show_range(node.type)}")
        self.stmt = None

    # --- blocks ---

    def block(self, block: Block, live: Live) -> Live:
        if len(self.path) > 2 * MAX_BLOCKS:
            self.refuse(f"blocks nest deeper than {MAX_BLOCKS}")
        for number, stmt in enumerate(block):
            self.path.append(f"[{number}]")
            self.stmt = stmt
            self.live = self.assigned if live is None else live
            after = STATEMENTS[type(stmt)](self, stmt)
            live = None if live is None else after
            self.path.pop()
        return live

    def inner(self, name: str, block: Block) -> Live:
        """A block of the present statement, entered with what is known before it."""
        stmt, live = self.stmt, self.live
        self.path.append(f".{name}")
        after = self.block(block, live)
        self.path.pop()
        self.stmt, self.live = stmt, live
        return after

    # --- expressions ---

    def value(self, expr: Expr, head: bool = False) -> None:
        """Check an expression of the present statement; `head`: it may have effects."""
        # From the innermost outwards: the first complaint is then the cause of the rest.
        for node, depth in reversed(list(subexpressions(expr))):
            if depth > MAX_DEPTH:
                self.refuse(f"an expression nests deeper than {MAX_DEPTH}: {show(expr)}")
            self.head = head and depth == 1
            for complaint in self.complaints(node):
                self.refuse(f"{complaint}, in {show(node)}")

    def complaints(self, node: Expr) -> Iterator[str]:
        yield from EXPRESSIONS[type(node)](self, node)
        if not node.type.fits:
            yield f"the type {show_range(node.type)} does not fit 64 bits"

    def index(self, slot: str, index: tuple[Expr, ...]) -> Iterator[str]:
        if slot not in self.slots:
            yield f"there is no slot {slot}"
            return
        dims = self.slots[slot].dims
        if len(index) != len(dims):
            yield f"slot {slot} takes {len(dims)} indices, not {len(index)}"
            return
        for expr, (count, _) in zip(index, dims, strict=True):
            if not Range(0, count - 1).contains(expr.type):
                yield f"index {show(expr)} of {slot} is {show_range(expr.type)}, outside 0..{count - 1}"

    def call(self, call: Call) -> Iterator[str]:
        """What is wrong with a call but for its result."""
        callee = self.callees.get(call.function)
        if callee is None:
            yield f"{call.function} is not a function that stands before this one (no recursion)"
            return
        if len(call.args) != len(callee.params):
            yield f"{call.function} takes {len(callee.params)} arguments, not {len(call.args)}"
            return
        for arg, (name, range_) in zip(call.args, callee.params, strict=True):
            yield from _within(f"argument {name} of {call.function}", arg.type, range_)
        if call.now is not None:
            yield from _within("the instant of a call", call.now.type, U64)
        if call.function in self.effects:
            self.has_effects = True
            if not self.head:
                yield f"a call with effects ({call.function}) must be the whole value of its statement"


def _title(stmt: Stmt) -> str:
    name = getattr(stmt, "name", None) or getattr(stmt, "slot", None)
    return type(stmt).__name__ + (f" {name}" if name else "")


def _within(what: str, given: Range, allowed: Range) -> Iterator[str]:
    if not allowed.contains(given):
        yield f"{what} is {show_range(given)}, outside {show_range(allowed)}"


def _contains(declared: Range, actual: Range) -> Iterator[str]:
    if not declared.contains(actual):
        yield f"the result {show_range(actual)} is not within the declared type {show_range(declared)}"


# --- the rules of expressions: each yields what is wrong ---------------------


def _var(scope: _Scope, e: Var) -> Iterator[str]:
    if e.name not in scope.live:
        yield f"{e.name} has no value on some path to here"


def _load(scope: _Scope, e: Load) -> Iterator[str]:
    yield from scope.index(e.slot, e.index)
    if e.slot in scope.slots:
        yield from _contains(e.type, scope.slots[e.slot].type)


def _binary(_: _Scope, e: Binary) -> Iterator[str]:
    found = list(intervals.complaints(e.op, e.left.type, e.right.type))
    yield from found
    if not found:
        yield from _contains(e.type, intervals.result(e.op, e.left.type, e.right.type))


def _not(_: _Scope, e: Not) -> Iterator[str]:
    yield from _within("the operand of not", e.operand.type, BOOL)


def _cond(_: _Scope, e: Cond) -> Iterator[str]:
    yield from _within("the test", e.test.type, BOOL)
    yield from _contains(e.type, e.then.type.join(e.orelse.type))


def _narrow(_: _Scope, e: Narrow) -> Iterator[str]:
    if not e.operand.type.contains(e.type):
        yield f"Narrow from {show_range(e.operand.type)} to {show_range(e.type)} does not only narrow"


def _ticks(_: _Scope, e: Ticks) -> Iterator[str]:
    found = [*_within("the instant", e.ns.type, U64), *_within("the frequency", e.hz.type, intervals.HZ)]
    yield from found
    if not found:
        yield from _contains(e.type, intervals.ticks(e.ns.type, e.hz.type))


def _nanos(_: _Scope, e: Nanos) -> Iterator[str]:
    yield from _within("the number of ticks", e.ticks.type, U64)
    yield from _within("the frequency", e.hz.type, intervals.HZ)


def _call(scope: _Scope, e: Call) -> Iterator[str]:
    yield from scope.call(e)
    callee = scope.callees.get(e.function)
    if callee is not None and callee.result is None:
        yield f"{e.function} has no result"
    elif callee is not None and callee.result is not None:
        yield from _contains(e.type, callee.result)


def _free(_: _Scope, __: Expr) -> Iterator[str]:
    return iter(())


EXPRESSIONS: dict[type[Any], Callable[[_Scope, Any], Iterator[str]]] = {
    Const: _free,
    Var: _var,
    Now: _free,
    Load: _load,
    Binary: _binary,
    Not: _not,
    Cond: _cond,
    Narrow: _narrow,
    Ticks: _ticks,
    Nanos: _nanos,
    Call: _call,
}


# --- the rules of statements: each gives what is live after it ---------------


def _meet(paths: list[Live]) -> Live:
    reached = [live for live in paths if live is not None]
    return frozenset.intersection(*reached) if reached else None


def _first(scope: _Scope, complaints: Iterator[str]) -> None:
    for complaint in complaints:
        scope.refuse(complaint)


def _let(scope: _Scope, s: Let) -> Live:
    scope.value(s.value, head=True)
    if s.name in scope.params:
        scope.refuse(f"{s.name} is a parameter, which keeps its value")
    declared = scope.types.get(s.name, s.value.type)  # a local that nothing reads has any type
    _first(scope, _within(f"the value {show(s.value)}", s.value.type, declared))
    return scope.live | {s.name}


def _store(scope: _Scope, s: Store) -> Live:
    for index in s.index:
        scope.value(index)
    _first(scope, scope.index(s.slot, s.index))
    # With a moving index it would matter which of the two is evaluated first.
    scope.value(s.value, head=all(isinstance(index, Const) for index in s.index))
    slot = scope.slots[s.slot]
    if slot.kind == "param":
        scope.refuse(f"{s.slot} is a parameter of the device, which is constant after init")
    place = show_place(s.slot, s.index)
    _first(scope, _within(f"the value {show(s.value)} for {place}", s.value.type, slot.type))
    scope.has_effects = True
    return scope.live


def _if(scope: _Scope, s: If) -> Live:
    scope.value(s.test, head=True)
    _first(scope, _within("the test", s.test.type, BOOL))
    return _meet([scope.inner(name, block) for name, block in BLOCKS[If](s)])


def _switch(scope: _Scope, s: Switch) -> Live:
    scope.value(s.value, head=True)
    values = [value for case, _ in s.cases for value in case]
    for value in values:
        _first(scope, _within("a case", Range(value, value), s.value.type))
    if len(set(values)) != len(values):
        scope.refuse("a value is listed by two cases")
    if not all(case for case, _ in s.cases):
        scope.refuse("a case lists no value")
    paths = [scope.inner(name, block) for name, block in BLOCKS[Switch](s)]
    covered = len(values) == s.value.type.hi - s.value.type.lo + 1
    return _meet(paths[:-1] if covered else paths)


def _repeat(scope: _Scope, s: Repeat) -> Live:
    if not 1 <= s.times < 2**31:
        scope.refuse(f"Repeat {s.times} times; allowed is 1..{2**31 - 1}")
    if len(scope.breaks) == MAX_LOOPS:
        scope.refuse(f"Repeats nest deeper than {MAX_LOOPS}")
    scope.breaks.append([])
    end = scope.inner("body", s.body)
    return _meet([end, *scope.breaks.pop()])


def _break(scope: _Scope, _: Break) -> Live:
    if not scope.breaks:
        scope.refuse("Break outside of a Repeat")
    scope.breaks[-1].append(scope.live)
    return None


def _return(scope: _Scope, s: Return) -> Live:
    result = scope.function.result
    if (s.value is None) != (result is None):
        scope.refuse(
            "a value is returned by a function without a result" if s.value else "a value is missing"
        )
    if s.value is not None and result is not None:
        scope.value(s.value, head=True)
        _first(scope, _within(f"the value {show(s.value)}", s.value.type, result))
    return None


def _do(scope: _Scope, s: Do) -> Live:
    for argument in children(s.call):
        scope.value(argument)
    scope.head = True
    _first(scope, scope.call(s.call))
    return scope.live


STATEMENTS: dict[type[Any], Callable[[_Scope, Any], Live]] = {
    Let: _let,
    Store: _store,
    If: _if,
    Switch: _switch,
    Repeat: _repeat,
    Break: _break,
    Return: _return,
    Do: _do,
}
