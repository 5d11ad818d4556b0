"""Random valid IR modules: every kind of expression and statement, every range.

`make(seed)` gives the same module for the same seed. A module has slots of all
sizes (signed, arrays, an array of structs), parameters, pure and effectful
internal functions, and two regions. What it computes means nothing; that both
engines compute the same is the test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal, get_args

from devc.compiler import intervals, ir
from devc.compiler.ir import BOOL, HEADER, HEADER_SIZE, U8, U16, U32, U64, Expr, Range, Slot, Stmt

I64 = Range(-(2**63), 2**63 - 1)
RANGES = (
    BOOL,
    U8,
    U16,
    U32,
    U64,
    I64,
    Range(-1, 0),
    Range(-128, 127),
    Range(-(2**31), 2**31 - 1),
    Range(-3, 2**40),
    Range(1, 65536),
    Range(5, 5),
    Range(2**63, 2**64 - 1),
    Range(2**63 - 1, 2**63),
    Range(-(2**63), -(2**63) + 9),
    Range(0, 6),
)
EDGES = (0, 1, 2, 3, 7, 63, 64, 255, 256, 65535, 10**9, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
HZ = intervals.HZ
OPS = (*get_args(ir.BinaryOp), "shr", "shr", "div")
EXACT = ("add", "sub", "mul")
CALLERS = ("lock", "version")
"""Slots that no function looks at: they are the caller's (docs/abi.md)."""
MODULO = ("addw", "subw", "mulw")
COMPARISONS = ("eq", "ne", "lt", "le")
MAX_COST = 400
"""Most calls that one access may lead to, by the loops' bounds."""

Scope = dict[str, Range]


def make(seed: int) -> ir.Module:
    """The module of this seed."""
    return _Generator(Random(seed)).module(f"random{seed}")


def number(rng: Random, range_: Range) -> int:
    """A value of the range, often one at an edge."""
    edges = [value for value in (range_.lo, range_.hi, *EDGES) if range_.lo <= value <= range_.hi]
    return rng.choice(edges) if rng.random() < 0.7 else rng.randint(range_.lo, range_.hi)


def bytes_of(range_: Range) -> list[Literal[1, 2, 4, 8]]:
    """The sizes that hold every value of the range."""
    if range_.lo < 0:
        return [s for s in (1, 2, 4, 8) if -(2 ** (8 * s - 1)) <= range_.lo and range_.hi < 2 ** (8 * s - 1)]
    return [s for s in (1, 2, 4, 8) if range_.hi < 2 ** (8 * s)]


@dataclass
class _Callee:
    function: ir.Function
    pure: bool
    cost: int


@dataclass
class _Body:
    """What is being generated: its locals' types, and what it may still do."""

    types: dict[str, Range] = field(default_factory=dict)
    params: frozenset[str] = frozenset()
    result: Range | None = None
    effects: bool = True
    weight: int = 1
    cost: int = 1
    loops: int = 0


class _Generator:
    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.slots: list[Slot] = []
        self.callees: list[_Callee] = []
        self.functions: list[ir.Function] = []
        self.body = _Body()

    # --- the module ---

    def module(self, name: str) -> ir.Module:
        params = self.lay_out()
        lines = (ir.Line("irq"),)
        for i in range(self.rng.randint(1, 3)):
            self.internal(f"pure{i}", effects=False)
        for i in range(self.rng.randint(1, 3)):
            self.internal(f"proc{i}", effects=True)
        self.exported("resume", (), None, head=self.stores("derived"))
        self.exported(
            "reset",
            (),
            None,
            head=self.stores("state") + self.stores("derived"),
            tail=self.call_statement("resume"),
        )
        self.exported("settle", (), None)
        self.exported("commit", (), None)
        self.exported("levels", (), U32, effects=False)
        self.exported("next", (), U64, effects=False)
        regions = (
            ir.Region("ports", "io", 0x40, 4, (ir.Register("r", 0, 1, "rw", "native", "native"),)),
            ir.Region("window", "mmio", "base", 0x400, ()),
        )
        for region in regions:
            self.exported(f"{region.name}_read", *ir.READ)
            self.exported(f"{region.name}_write", *ir.WRITE)
        size = max(s.offset + s.size + sum((n - 1) * d for n, d in s.dims) for s in self.slots)
        return ir.Module(
            name,
            "",
            self.rng.randint(0, 9),
            params,
            tuple(self.slots),
            -(-size // 8) * 8,
            regions,
            lines,
            (),
            tuple(self.functions),
        )

    def lay_out(self) -> tuple[ir.Param, ...]:
        self.slots = list(HEADER)
        self.end = HEADER_SIZE
        params = [ir.Param("base", U32, 0xFED0_0000, None)]
        for i, range_ in enumerate((self.rng.choice(RANGES), HZ)):
            self.place(f"p{i}", range_, "param")
            params.append(ir.Param(f"p{i}", range_, number(self.rng, range_), f"p{i}"))
        self.place("rises", U32, "state", (2,), size=4)
        for i in range(self.rng.randint(4, 9)):
            dims = self.rng.choice(((), (), (1,), (3,), (8,), (2, 3)))
            kind: Literal["state", "derived"] = self.rng.choice(("state", "state", "state", "derived"))
            self.place(f"s{i}", self.rng.choice(RANGES), kind, dims)
        self.structs(self.rng.randint(1, 4))
        return tuple(params)

    def place(
        self,
        name: str,
        range_: Range,
        kind: Literal["param", "state", "derived"],
        counts: tuple[int, ...] = (),
        size: Literal[1, 2, 4, 8] | None = None,
    ) -> None:
        size = size or self.rng.choice(bytes_of(range_))
        offset = -(-self.end // size) * size
        dims: list[tuple[int, int]] = []
        stride: int = size
        for count in reversed(counts):
            dims.insert(0, (count, stride))
            stride *= count
        self.slots.append(Slot(name, range_, size, offset, tuple(dims), kind, number(self.rng, range_)))
        self.end = offset + stride

    def structs(self, count: int) -> None:
        """An array of structs of an 8-, a 4- and a 1-byte field."""
        base = -(-self.end // 8) * 8
        for name, size, at in (("c.a", 8, 0), ("c.b", 4, 8), ("c.c", 1, 12)):
            range_ = self.rng.choice([r for r in RANGES if size in bytes_of(r)])
            reset = number(self.rng, range_)
            self.slots.append(Slot(name, range_, size, base + at, ((count, 16),), "state", reset))  # type: ignore[arg-type]
        self.end = base + 16 * count

    def stores(self, kind: str) -> list[Stmt]:
        return [
            ir.Store(slot.name, tuple(ir.Const(i) for i in index), ir.Const(slot.reset))
            for slot in self.slots
            if slot.kind == kind
            for index, _ in ir.elements(slot)
        ]

    # --- functions ---

    def internal(self, name: str, effects: bool) -> None:
        params = tuple((f"a{i}", self.rng.choice(RANGES)) for i in range(self.rng.randint(0, 3)))
        result = None if effects and self.rng.random() < 0.5 else self.rng.choice(RANGES)
        self.add(name, params, result, effects, exported=False)

    def exported(
        self,
        name: str,
        params: tuple[tuple[str, Range], ...],
        result: Range | None,
        effects: bool = True,
        head: list[Stmt] | None = None,
        tail: list[Stmt] | None = None,
    ) -> None:
        self.add(name, params, result, effects, True, head or [], tail or [])

    def add(
        self,
        name: str,
        params: tuple[tuple[str, Range], ...],
        result: Range | None,
        effects: bool,
        exported: bool,
        head: list[Stmt] | None = None,
        tail: list[Stmt] | None = None,
    ) -> None:
        self.body = _Body(dict(params), frozenset(n for n, _ in params), result, effects)
        made, scope = self.block(dict(params), 2, self.rng.randint(2, 4))
        if tail and scope is None:
            made, scope = [], dict(params)
        made = [*(head or []), *made, *(tail or [])]
        if scope is not None and result is not None:
            made.append(ir.Return(self.fitting(result, 2, scope)))
        function = ir.Function(name, params, result, tuple(made), exported)
        self.functions.append(function)
        self.callees.append(_Callee(function, not effects, self.body.cost))

    def call_statement(self, name: str) -> list[Stmt]:
        return [ir.Do(ir.Call(name, (), BOOL))]

    # --- statements ---

    def block(self, scope: Scope, depth: int, length: int) -> tuple[list[Stmt], Scope | None]:
        """Statements, and what has a value after them (None: nothing gets there)."""
        made: list[Stmt] = []
        after: Scope | None = scope
        for _ in range(length):
            if after is None:
                break
            stmts, after = self.statement(after, depth)
            made += stmts
        return made, after

    def statement(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        kinds = [self.let, self.let]
        if self.body.effects:
            kinds += [self.store, self.store, self.store, self.do]
        if depth:
            kinds += [self.if_, self.if_, self.switch, self.repeat]
        if depth < 2:
            kinds += [self.leave]
        return self.rng.choice(kinds)(scope, depth)

    def let(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        known = [name for name in self.body.types if name not in self.body.params]
        if known and self.rng.random() < 0.5:
            name = self.rng.choice(known)
        else:
            name = f"x{len(self.body.types)}"
            self.body.types[name] = self.rng.choice(RANGES)
        range_ = self.body.types[name]
        value = self.effectful(range_, scope) or self.fitting(range_, 2, scope)
        return [ir.Let(name, value)], {**scope, name: range_}

    def store(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        slot = self.rng.choice([s for s in self.slots if s.kind != "param" and s.name not in CALLERS])
        index = self.index(slot, scope)
        value = None
        if all(isinstance(i, ir.Const) for i in index):
            value = self.effectful(slot.type, scope)
        return [ir.Store(slot.name, index, value or self.fitting(slot.type, 2, scope))], scope

    def do(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        callee = self.affordable(pure=False)
        return ([ir.Do(self.call(callee, scope, 2))] if callee else []), scope

    def if_(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        test = self.test(2, scope)
        then, after = self.block(dict(scope), depth - 1, self.rng.randint(0, 3))
        orelse, other = self.block(dict(scope), depth - 1, self.rng.randint(0, 2))
        return [ir.If(test, tuple(then), tuple(orelse))], meet([after, other])

    def switch(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        range_ = self.rng.choice((BOOL, Range(0, 6), Range(-2, 2), U8, U64, I64))
        value = self.fitting(range_, 2, scope)
        kind = value.type
        drawn = {number(self.rng, kind) for _ in range(self.rng.randint(1, 10))}
        if kind.hi - kind.lo < 8 and self.rng.random() < 0.5:
            drawn = set(range(kind.lo, kind.hi + 1))
        cases = []
        paths: list[Scope | None] = []
        pending = sorted(drawn, key=lambda _: self.rng.random())
        while pending:
            count = self.rng.choice((1, 1, 1, 2, 3))
            numbers, pending = tuple(pending[:count]), pending[count:]
            made, after = self.block(dict(scope), depth - 1, self.rng.randint(0, 2))
            cases.append((numbers, tuple(made)))
            paths.append(after)
        default, after = self.block(dict(scope), depth - 1, self.rng.randint(0, 2))
        if len(drawn) != kind.hi - kind.lo + 1:
            paths.append(after)
        return [ir.Switch(value, tuple(cases), tuple(default))], meet(paths)

    def repeat(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        times = self.rng.randint(1, 5)
        body = self.body
        outer, body.weight, body.loops = body.weight, body.weight * times, body.loops + 1
        made, after = self.block(dict(scope), depth - 1, self.rng.randint(1, 3))
        body.weight, body.loops = outer, body.loops - 1
        # A Break may leave before anything new has a value.
        return [ir.Repeat(times, tuple(made))], scope if after is None else meet([after, scope])

    def leave(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope | None]:
        if self.body.loops and self.rng.random() < 0.7:
            return [ir.Break()], None
        if self.body.result is None:
            return [ir.Return()], None
        return [ir.Return(self.fitting(self.body.result, 2, scope))], None

    # --- calls ---

    def affordable(self, pure: bool) -> _Callee | None:
        body = self.body
        found = [
            c
            for c in self.callees
            if c.pure == pure and (pure or body.effects) and body.cost + c.cost * body.weight <= MAX_COST
        ]
        return self.rng.choice(found) if found else None

    def call(self, callee: _Callee, scope: Scope, depth: int) -> ir.Call:
        self.body.cost += callee.cost * self.body.weight
        function = callee.function
        args = tuple(self.fitting(range_, depth - 1, scope) for _, range_ in function.params)
        now = self.fitting(U64, 1, scope) if self.rng.random() < 0.3 else None
        return ir.Call(function.name, args, function.result or BOOL, now)

    def effectful(self, range_: Range, scope: Scope) -> Expr | None:
        """Now and then a call with effects, which stands at the head of a statement."""
        callee = self.affordable(pure=False) if self.rng.random() < 0.2 else None
        if callee is None or callee.function.result is None or not range_.contains(callee.function.result):
            return None
        return self.call(callee, scope, 2)

    # --- expressions ---

    def fitting(self, range_: Range, depth: int, scope: Scope) -> Expr:
        """An expression whose type lies within the range."""
        return self.fit(self.expr(depth, scope), range_)

    def fit(self, expr: Expr, range_: Range) -> Expr:
        if range_.contains(expr.type):
            return expr
        common = Range(max(range_.lo, expr.type.lo), min(range_.hi, expr.type.hi))
        simple = isinstance(expr, ir.Var | ir.Now | ir.Load)
        if simple and common.lo <= common.hi and self.rng.random() < 0.5:
            inside = exact(
                "and",
                exact("le", ir.Const(common.lo), expr),
                exact("le", expr, ir.Const(common.hi)),
            )
            return self.cond(inside, ir.Narrow(expr, common), ir.Const(number(self.rng, range_)))
        if expr.type.lo >= 0 and range_.lo >= 0 and range_.hi > range_.lo and self.rng.random() < 0.7:
            width = range_.hi - range_.lo + 1
            if width < 2**64:
                return exact("add", exact("mod", expr, ir.Const(width)), ir.Const(range_.lo))
        low = exact("max", expr, ir.Const(range_.lo))
        return low if range_.contains(low.type) else exact("min", low, ir.Const(range_.hi))

    def expr(self, depth: int, scope: Scope) -> Expr:
        if depth <= 0 or self.rng.random() < 0.25:
            return self.leaf(scope)
        kinds = [self.operation] * 6 + [self.choice, self.ticks, self.nanos, self.truth, self.called]
        return self.rng.choice(kinds)(depth - 1, scope)

    def leaf(self, scope: Scope) -> Expr:
        draw = self.rng.random()
        if draw < 0.3 and scope:
            name = self.rng.choice(sorted(scope))
            return ir.Var(name, self.body.types[name])
        if draw < 0.65:
            slot = self.rng.choice([s for s in self.slots if s.name not in CALLERS])
            return ir.Load(slot.name, self.index(slot, scope), slot.type)
        if draw < 0.75:
            return ir.Now()
        return ir.Const(number(self.rng, self.rng.choice(RANGES)))

    def index(self, slot: Slot, scope: Scope) -> tuple[Expr, ...]:
        """One index per dimension: a constant, or anything made to fit."""
        made: list[Expr] = []
        for count, _ in slot.dims:
            range_ = Range(0, count - 1)
            constant = self.rng.random() < 0.4
            made.append(ir.Const(number(self.rng, range_)) if constant else self.fitting(range_, 1, scope))
        return tuple(made)

    def operation(self, depth: int, scope: Scope) -> Expr:
        op: ir.BinaryOp = self.rng.choice(OPS)
        allowed = intervals.OPERANDS[op]
        left = self.fit(self.expr(depth, scope), allowed[0])
        if op == "shr" and self.rng.random() < 0.5:
            left = self.binary("sub", self.fit(left, U32), ir.Const(self.rng.choice((9, 2**31, 2**60))))
        right = self.fit(self.expr(depth, scope), allowed[1])
        if op == "shl":
            left = self.fit(left, self.rng.choice((U16, Range(-300, 500), U32)))
            right = self.fit(right, Range(0, 31))
        if op in EXACT and not intervals.result(op, left.type, right.type).fits:
            small = self.rng.choice((Range(-(2**31), 2**31), U32, Range(-9, 9)))
            left, right = self.fit(left, small), self.fit(right, small)
        return self.binary(op, left, right)

    def binary(self, op: ir.BinaryOp, left: Expr, right: Expr) -> ir.Binary:
        """With the tightest type, or now and then a wider one."""
        exact = intervals.result(op, left.type, right.type)
        if op in MODULO:
            return ir.Binary(op, left, right, U64)
        if op in COMPARISONS:
            return ir.Binary(op, left, right, self.rng.choice((exact, BOOL)))
        return ir.Binary(op, left, right, self.wider(exact))

    def wider(self, range_: Range) -> Range:
        if self.rng.random() < 0.8:
            return range_
        wide = range_.join(self.rng.choice(RANGES))
        return wide if wide.fits else range_

    def cond(self, test: Expr, then: Expr, orelse: Expr) -> ir.Cond:
        return ir.Cond(test, then, orelse, then.type.join(orelse.type))

    def choice(self, depth: int, scope: Scope) -> Expr:
        then, orelse = self.expr(depth, scope), self.expr(depth, scope)
        if not then.type.join(orelse.type).fits:
            orelse = self.fit(orelse, Range(0, 2**63 - 1))
            then = self.fit(then, Range(0, 2**63 - 1))
        return self.cond(self.test(depth, scope), then, orelse)

    def ticks(self, depth: int, scope: Scope) -> Expr:
        ns, hz = self.fitting(U64, depth, scope), self.fitting(HZ, depth, scope)
        return ir.Ticks(ns, hz, self.wider(intervals.ticks(ns.type, hz.type)))

    def nanos(self, depth: int, scope: Scope) -> Expr:
        if self.rng.random() < 0.2:  # beside the last tick that 64 bits can tell the instant of
            hz = number(self.rng, HZ)
            last = ir.NEVER * hz // ir.SECOND
            near = min(last + self.rng.randint(-1, 2), ir.NEVER)
            return ir.Nanos(ir.Const(near), ir.Const(hz))
        return ir.Nanos(self.fitting(U64, depth, scope), self.fitting(HZ, depth, scope))

    def called(self, depth: int, scope: Scope) -> Expr:
        callee = self.affordable(pure=True)
        return self.call(callee, scope, depth) if callee else self.leaf(scope)

    def truth(self, depth: int, scope: Scope) -> Expr:
        return self.test(depth, scope)

    def test(self, depth: int, scope: Scope) -> Expr:
        draw = self.rng.random()
        if draw < 0.15 or depth <= 0:
            return self.fitting(BOOL, 0, scope)
        if draw < 0.3:
            return ir.Not(self.test(depth - 1, scope))
        if draw < 0.5:
            op: ir.BinaryOp = self.rng.choice(("and", "or", "xor"))
            return ir.Binary(op, self.test(depth - 1, scope), self.test(depth - 1, scope), BOOL)
        return self.binary(
            self.rng.choice(COMPARISONS), self.expr(depth - 1, scope), self.expr(depth - 1, scope)
        )


def exact(op: ir.BinaryOp, left: Expr, right: Expr) -> ir.Binary:
    return ir.Binary(op, left, right, intervals.result(op, left.type, right.type))


def meet(paths: list[Scope | None]) -> Scope | None:
    """What has a value after all the paths that get there."""
    reached = [path for path in paths if path is not None]
    if not reached:
        return None
    return {name: range_ for name, range_ in reached[0].items() if all(name in path for path in reached)}
