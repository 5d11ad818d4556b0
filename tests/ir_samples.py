"""Small hand-written IR modules for the tests of the back ends.

`ticker()` is a whole device: a counter derived from the clock, a flip-flop
read, an array, signed slots, a line, parameters. `bare(...)` is the least
module around functions under test.
"""

from __future__ import annotations

from devc.compiler import ir
from devc.compiler.ir import (
    BOOL,
    HEADER,
    HEADER_SIZE,
    U8,
    U16,
    U32,
    U64,
    Binary,
    Block,
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
    Region,
    Register,
    Return,
    Slot,
    Store,
    Switch,
    Ticks,
    Var,
)

HZ = Range(1, ir.MAX_HZ)
TRIM = Range(-100, 100)
BIAS = Range(-1000, 1000)
CELL = Range(0, 999)
TOP = 23
"""The counter's bit that the line shows."""


def lay_out(slots: tuple[Slot, ...]) -> tuple[tuple[Slot, ...], int]:
    """The header and the given slots (offsets ignored), packed; and the struct's size."""
    at = HEADER_SIZE
    placed = []
    for slot in slots:
        at = -(-at // slot.size) * slot.size
        dims: list[tuple[int, int]] = []
        stride = slot.size
        for count, _ in reversed(slot.dims):
            dims.insert(0, (count, stride))
            stride *= count
        placed.append(
            Slot(slot.name, slot.type, slot.size, at, tuple(dims), kind=slot.kind, reset=slot.reset)
        )
        at += stride
    return (*HEADER, *placed), -(-at // 8) * 8


def function(
    name: str, params: tuple[tuple[str, Range], ...], result: Range | None, *body: ir.Stmt
) -> Function:
    """An exported function."""
    return Function(name, params, result, body, exported=True)


EMPTY = (
    function("settle", (), None),
    function("levels", (), U32, Return(Const(0))),
    function("next", (), U64, Return(Const(ir.NEVER))),
    function("commit", (), None),
    function("reset", (), None),
    function("resume", (), None),
)


def bare(
    *functions: Function,
    slots: tuple[Slot, ...] = (),
    params: tuple[ir.Param, ...] = (),
    name: str = "bare",
) -> Module:
    """A device without regions around the functions; those named as EMPTY's replace them."""
    placed, size = lay_out(slots)
    own = {f.name for f in functions}
    rest = tuple(f for f in EMPTY if f.name not in own)
    return Module(name, "", 1, params, placed, size, (), (), (), (*rest, *functions))


def load(slot: Slot | str, *index: Expr, type_: Range = U64) -> Load:
    return Load(slot, index, type_) if isinstance(slot, str) else Load(slot.name, index, slot.type)


def eq(left: Expr, right: Expr) -> Binary:
    return Binary("eq", left, right, BOOL)


def masked(value: Expr, mask: int) -> Binary:
    return Binary("and", value, Const(mask), Range(0, mask))


COUNT = Slot("hz", HZ, 4, 0, kind="param")
TRIM_SLOT = Slot("trim", TRIM, 1, 0, kind="param")
FLIP = Slot("flip", BOOL, 1, 0)
ORIGIN = Slot("origin", U64, 8, 0)
BIAS_SLOT = Slot("bias", BIAS, 2, 0, reset=-7)
CELLS = Slot("cells", CELL, 2, 0, dims=((2, 0), (3, 0)), reset=5)
RISES = Slot("rises", U32, 4, 0, dims=((1, 0),))
EVENT = Slot("event", U64, 8, 0, kind="derived")
TICK = Range(0, U64.hi)


def _tick() -> Expr:
    """Ticks since the origin."""
    return Binary("subw", Ticks(Now(), load(COUNT), TICK), load(ORIGIN), U64)


def _level() -> Expr:
    return masked(Binary("shr", _tick(), Const(TOP), Range(0, 2**41 - 1)), 1)


def _next() -> Expr:
    """The instant of the line's next toggle: a half period has 2**TOP ticks."""
    halves = Binary("shr", _tick(), Const(TOP), Range(0, 2**41 - 1))
    known = Binary("min", halves, Const(2**41 - 2), Range(0, 2**41 - 2))
    following = Binary("add", known, Const(1), Range(1, 2**41 - 1))
    ticks = Binary("shl", following, Const(TOP), Range(2**TOP, (2**41 - 1) << TOP))
    return Nanos(Binary("addw", load(ORIGIN), ticks, U64), load(COUNT))


def _settle() -> Block:
    """Rising edges since the last settle: half periods with an odd number, counted by division."""
    return (
        Let("level", _level()),
        If(
            Binary("lt", load("lines", type_=U32), Var("level", BOOL), BOOL),
            (
                Store(
                    "rises", (Const(0),), masked(Binary("addw", load(RISES, Const(0)), Const(1), U64), U32.hi)
                ),
            ),
        ),
        If(
            Not(eq(load("lines", type_=U32), Var("level", BOOL))),
            (Store("attention", (), Binary("or", load("attention", type_=U32), Const(1), U32)),),
        ),
        Store("lines", (), Var("level", BOOL)),
        Store("settled", (), Now()),
        Store("event", (), _next()),
        Store("deadline", (), load(EVENT)),
    )


def _settle_first() -> ir.Stmt:
    return If(Binary("le", load("deadline"), Now(), BOOL), (Do(Call("settle", (), BOOL)),))


OFFSET = Var("offset", U32)
VALUE = Var("value", U64)


def _cell() -> tuple[Expr, Expr]:
    """The indices of the cell at offset 8..13."""
    place = Binary("sub", Narrow(OFFSET, Range(8, 13)), Const(8), Range(0, 5))
    return Binary("div", place, Const(3), Range(0, 1)), Binary("mod", place, Const(3), Range(0, 2))


def _read() -> Block:
    count = masked(_tick(), 0xFFFFFF)
    toggle = Store("flip", (), Binary("xor", load(FLIP), Const(1), BOOL))
    flip = Cond(load(FLIP), Const(0xAA), Const(0x55), Range(0x55, 0xAA))
    signed = Binary("addw", load(BIAS_SLOT), load(TRIM_SLOT), U64)
    return (
        _settle_first(),
        Switch(
            OFFSET,
            (
                ((0,), (Return(Call("part", (count, Var("width", U32)), U64)),)),
                ((4,), (Let("answer", flip), toggle, Return(Var("answer", Range(0x55, 0xAA))))),
                (tuple(range(8, 14)), (Return(load(CELLS, *_cell())),)),
                ((14,), (Return(masked(signed, 0xFFFF)),)),
            ),
            (Return(Const(0)),),
        ),
    )


def _write() -> Block:
    value = masked(VALUE, 0xFFFF)
    return (
        _settle_first(),
        Switch(
            OFFSET,
            (
                ((0,), (Store("origin", (), Ticks(Now(), load(COUNT), TICK)), Do(Call("resume", (), BOOL)))),
                (
                    tuple(range(8, 14)),
                    (Store("cells", _cell(), Binary("min", value, Const(999), CELL)),),
                ),
                (
                    (14,),
                    (
                        Store(
                            "bias",
                            (),
                            Binary(
                                "sub", Binary("min", value, Const(2000), Range(0, 2000)), Const(1000), BIAS
                            ),
                        ),
                    ),
                ),
            ),
        ),
    )


def _part() -> Function:
    """An internal function: the low bytes of a value that a width asks for."""
    value, width = Var("count", Range(0, 0xFFFFFF)), Var("width", U32)
    whole = Range(0, 0xFFFFFF)
    return Function(
        "part",
        (("count", whole), ("width", U32)),
        U64,
        (
            If(eq(width, Const(1)), (Return(masked(value, 0xFF)),)),
            If(eq(width, Const(2)), (Return(masked(value, 0xFFFF)),)),
            Return(value),
        ),
    )


def ticker(name: str = "ticker", version: int = 3) -> Module:
    """The counter at 0, the flip-flop at 4, `cells` at 8..13, `bias + trim` at 14."""
    slots, size = lay_out((COUNT, TRIM_SLOT, FLIP, ORIGIN, BIAS_SLOT, CELLS, RISES, EVENT))
    cells = tuple(
        Store("cells", (Const(i), Const(j)), Const(CELLS.reset)) for i in range(2) for j in range(3)
    )
    reset = (
        Store("flip", (), Const(0)),
        Store("origin", (), Ticks(Now(), load(COUNT), TICK)),
        Store("bias", (), Const(BIAS_SLOT.reset)),
        *cells,
        Store("rises", (Const(0),), Const(0)),
        Do(Call("resume", (), BOOL)),
    )
    resume = (
        Store("lines", (), _level()),
        Store("settled", (), Now()),
        Store("event", (), _next()),
        Store("deadline", (), load(EVENT)),
        Store("attention", (), Const(ir.ATTENTION_LINES | ir.ATTENTION_DEADLINE)),
    )
    functions = (
        function("settle", (), None, *_settle()),
        function("levels", (), U32, Return(_level())),
        function("next", (), U64, Return(_next())),
        function("commit", (), None, *_settle()),
        function("resume", (), None, *resume),
        function("reset", (), None, *reset),
        _part(),
        function("ports_read", *ir.READ, *_read()),
        function("ports_write", *ir.WRITE, *_write()),
    )
    registers = (
        Register(
            "count",
            0,
            4,
            "rw",
            "native",
            "native",
            (ir.Field("value", 23, 0, "ro", "the low 24 bits"),),
            "ticks",
        ),
        Register("flip", 4, 1, "ro", "native", "none", doc="0x55 and 0xaa in turn"),
        Register("bias", 14, 2, "rw", "native", "native"),
    )
    return Module(
        name,
        "a counter and a few cells, for tests",
        version,
        (
            ir.Param("hz", HZ, 3_579_545, "hz", "the counter's frequency"),
            ir.Param("base", U16, 0x600, None, "where the window is"),
            ir.Param("trim", TRIM, -5, "trim"),
        ),
        slots,
        size,
        (Region("ports", "io", "base", 16, registers),),
        (ir.Line("out", "bit 23 of the counter"),),
        (),
        functions,
    )


__all__ = ["U8", "bare", "function", "lay_out", "ticker"]
