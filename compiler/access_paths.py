"""What one access does: the effects of the ways that it can take through its window's function.

Offset and width are known, so the decode leads to the registers that are meant,
and to their element where there is an array of them. An access's first and last
acts, settling what is due and letting lines and deadlines follow, are left out:
they happen to any access.

Non-goals: values, whether written or stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from . import arithmetic as a
from . import ir
from .analysis import walk

AROUND = ("settle", "commit")
"""Functions that an access calls before and after what it is about."""

Given = tuple[int | None, ...]
"""Arguments or indices; None: any."""
Element = tuple[str, Given]
"""A slot and its indices."""
Names = dict[str, int | None]
ON, BREAK, RETURN = "on", "break", "return"


@dataclass
class Way:
    """What was met so far."""

    reads: set[Element] = field(default_factory=set)
    writes: set[Element] = field(default_factory=set)
    time: bool = False

    def add(self, other: Way) -> None:
        self.reads |= other.reads
        self.writes |= other.writes
        self.time |= other.time

    @property
    def slots_read(self) -> set[str]:
        return {slot for slot, _ in self.reads}

    @property
    def slots_written(self) -> set[str]:
        return {slot for slot, _ in self.writes}


class Paths:
    """Accesses of one module."""

    def __init__(self, module: ir.Module) -> None:
        self.functions = {function.name: function for function in module.functions}
        self._cases: dict[int, dict[int, ir.Block]] = {}
        self._known: dict[tuple[str, Given], Way] = {}

    def read(self, region: str, offset: int, width: int) -> Way:
        """What a read does but for settling and committing."""
        return self._access(region, "read", {"offset": offset, "width": width})

    def write(self, region: str, offset: int, width: int) -> Way:
        """What a write of any value does but for settling and committing."""
        return self._access(region, "write", {"offset": offset, "width": width, "value": None})

    def _access(self, region: str, kind: str, names: Names) -> Way:
        walker = _Walker(self)
        walker.block(self.functions[f"{region}_{kind}"].body, names)
        return walker.way

    def call(self, name: str, given: Given) -> Way:
        """What a call with these arguments does."""
        if (name, given) not in self._known:
            walker = _Walker(self)
            function = self.functions[name]
            walker.block(function.body, dict(zip((p for p, _ in function.params), given, strict=True)))
            self._known[name, given] = walker.way
        return self._known[name, given]

    def case(self, switch: ir.Switch, value: int) -> ir.Block:
        """The body for a value. The functions are held, so a switch is known by where it is."""
        if id(switch) not in self._cases:
            self._cases[id(switch)] = {v: body for values, body in switch.cases for v in values}
        return self._cases[id(switch)].get(value, switch.default)


class _Walker:
    """Goes the ways through one function."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.way = Way()

    # --- statements: each gives the ways that it may go on -------------------------------

    def block(self, block: ir.Block, names: Names) -> set[str]:
        ends: set[str] = set()
        for statement in block:
            after = self._statement(statement, names)
            ends |= after - {ON}
            if ON not in after:
                return ends
        return ends | {ON}

    def _statement(self, statement: ir.Stmt, names: Names) -> set[str]:
        match statement:
            case ir.Let(name, value):
                names[name] = self._value(value, names)
            case ir.Store(slot, index, value):
                self.way.writes.add((slot, tuple(self._value(part, names) for part in index)))
                self._value(value, names)
            case ir.If(test, then, orelse):
                return self._if(test, then, orelse, names)
            case ir.Switch(value, cases, default):
                found = self._value(value, names)
                if found is None:
                    return self._any([*(body for _, body in cases), default], names)
                return self.block(self.paths.case(statement, found), names)
            case ir.Repeat(times, body):
                return self._repeat(times, body, names)
            case ir.Do(call):
                self._value(call, names)
            case ir.Return(value):
                if value is not None:
                    self._value(value, names)
                return {RETURN}
            case ir.Break():
                return {BREAK}
        return {ON}

    def _if(self, test: ir.Expr, then: ir.Block, orelse: ir.Block, names: Names) -> set[str]:
        if all(isinstance(s, ir.Do) and s.call.function in AROUND for s in then) and then and not orelse:
            return {ON}  # the test looks at time, or at what was touched, for its own sake
        known = self._value(test, names)
        return self._any([then, orelse] if known is None else [then if known else orelse], names)

    def _any(self, bodies: list[ir.Block], names: Names) -> set[str]:
        """One of several ways, not known which; names are then what they are after all of them."""
        if len(bodies) == 1:
            return self.block(bodies[0], names)
        ends: set[str] = set()
        after: list[Names] = []
        for body in bodies:
            own = dict(names)
            gone = self.block(body, own)
            ends |= gone
            if ON in gone:
                after.append(own)
        for name in {name for own in after for name in own}:
            values = {own.get(name) for own in after}
            names[name] = values.pop() if len(values) == 1 else None
        return ends

    def _repeat(self, times: int, body: ir.Block, names: Names) -> set[str]:
        for _ in range(times):
            ends = self.block(body, names)
            if len(ends) > 1:
                break
            if ends == {BREAK}:
                return {ON}
            if ends == {RETURN}:
                return ends
        else:
            return {ON}
        names |= {s.name: None for s in walk(body) if isinstance(s, ir.Let)}
        return (self.block(body, names) - {BREAK}) | {ON}

    # --- expressions -----------------------------------------------------------------

    def _value(self, expr: ir.Expr, names: Names) -> int | None:
        """A constant, or None; what it reads is noted."""
        go = partial(self._value, names=names)
        match expr:
            case ir.Const(value):
                return value
            case ir.Var(name):
                return names.get(name)
            case ir.Now():
                self.way.time = True
            case ir.Load(slot, index):
                self.way.reads.add((slot, tuple(go(part) for part in index)))
            case ir.Binary(op, left, right):
                first, second = go(left), go(right)
                if first is None or second is None or (op in ("div", "mod") and not second):
                    return None
                folded = a.binary(op, ir.Const(first), ir.Const(second))
                return folded.value if isinstance(folded, ir.Const) else None
            case ir.Not(operand):
                known = go(operand)
                return None if known is None else 1 - known
            case ir.Cond(test, then, orelse):
                known = go(test)
                if known is not None:
                    return go(then if known else orelse)
                first, second = go(then), go(orelse)
                return first if first == second else None
            case ir.Narrow(operand):
                return go(operand)
            case ir.Ticks(ns, hz):
                go(ns), go(hz)
            case ir.Nanos(ticks, hz):
                go(ticks), go(hz)
            case ir.Call():
                self._call(expr, names)
        return None

    def _call(self, call: ir.Call, names: Names) -> None:
        given = tuple(self._value(part, names) for part in call.args)
        if call.now is not None:
            self._value(call.now, names)
        if call.function not in AROUND:
            self.way.add(self.paths.call(call.function, given))
