"""The syntax tree of a device file, declared as data.

One class a construct of grammar.lark; every node carries its span. The tree
says what was written and nothing more: names are resolved and types found by
the compiler (compiler/elaborate*.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from .diagnostics import Span


@dataclass(frozen=True, slots=True)
class Node:
    span: Span


@dataclass(frozen=True, slots=True)
class Ident(Node):
    """A name where it is introduced or referred to."""

    text: str


# --- types -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedType(Node):
    name: str


@dataclass(frozen=True, slots=True)
class IntervalType(Node):
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class EnumType(Node):
    """Part of an enumeration, from one member to another."""

    first: Ident
    last: Ident


Type = Union[NamedType, IntervalType, EnumType]


@dataclass(frozen=True, slots=True)
class Bits(Node):
    high: int
    low: int


# --- expressions -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number(Node):
    value: int


@dataclass(frozen=True, slots=True)
class Truth(Node):
    value: bool


@dataclass(frozen=True, slots=True)
class NowExpr(Node):
    pass


@dataclass(frozen=True, slots=True)
class Name(Node):
    name: str


@dataclass(frozen=True, slots=True)
class Attribute(Node):
    base: Expr
    name: Ident


@dataclass(frozen=True, slots=True)
class Index(Node):
    base: Expr
    index: Expr


@dataclass(frozen=True, slots=True)
class Slice(Node):
    base: Expr
    high: Expr
    low: Expr


@dataclass(frozen=True, slots=True)
class CallExpr(Node):
    function: Expr
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """op: or and == != < <= > >= ++ | ^ & << >> + - * / % **"""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Not(Node):
    operand: Expr


@dataclass(frozen=True, slots=True)
class Member(Node):
    value: Expr
    choices: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    then: Expr
    test: Expr
    orelse: Expr


@dataclass(frozen=True, slots=True)
class Take(Node):
    """A latch's value, emptying it: an effect."""

    target: Expr


@dataclass(frozen=True, slots=True)
class Step(Node):
    """A cycle's phase, moving it on: an effect."""

    target: Expr


# --- patterns --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RangePattern(Node):
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class NamePattern(Node):
    name: str


@dataclass(frozen=True, slots=True)
class AnyPattern(Node):
    pass


Pattern = Union[RangePattern, NamePattern, AnyPattern]


@dataclass(frozen=True, slots=True)
class ExprCase(Node):
    patterns: tuple[Pattern, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class MatchExpr(Node):
    subject: Expr
    cases: tuple[ExprCase, ...]


Expr = Union[
    Number, Truth, NowExpr, Name, Attribute, Index, Slice, CallExpr, Binary, Not, Member,
    Conditional, Take, Step, MatchExpr,
]  # fmt: skip


# --- statements ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LetStmt(Node):
    name: Ident
    type: Type | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Assign(Node):
    target: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class Fill(Node):
    """Fill a latch if it is empty."""

    target: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class Drop(Node):
    target: Expr


@dataclass(frozen=True, slots=True)
class Arm(Node):
    target: Expr
    ticks: Expr


@dataclass(frozen=True, slots=True)
class Disarm(Node):
    target: Expr


@dataclass(frozen=True, slots=True)
class ReturnStmt(Node):
    value: Expr


@dataclass(frozen=True, slots=True)
class PassStmt(Node):
    pass


@dataclass(frozen=True, slots=True)
class CallStmt(Node):
    function: Expr
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class StepStmt(Node):
    target: Expr


@dataclass(frozen=True, slots=True)
class StoreStmt(Node):
    """In a register's write: the fields take what is written."""


@dataclass(frozen=True, slots=True)
class Pulse(Node):
    """A raise and a lower of a line, at one instant; `count` of them."""

    line: Expr
    count: Expr | None


@dataclass(frozen=True, slots=True)
class IfStmt(Node):
    test: Expr
    then: Suite
    orelse: Suite


@dataclass(frozen=True, slots=True)
class StmtCase(Node):
    patterns: tuple[Pattern, ...]
    body: Suite


@dataclass(frozen=True, slots=True)
class MatchStmt(Node):
    subject: Expr
    cases: tuple[StmtCase, ...]


@dataclass(frozen=True, slots=True)
class ForStmt(Node):
    """Unrolled over a declared array of blocks."""

    name: Ident
    over: Ident
    where: Expr | None
    body: Suite


Stmt = Union[
    LetStmt, Assign, Fill, Drop, Arm, Disarm, ReturnStmt, PassStmt, CallStmt, StepStmt, StoreStmt,
    Pulse, IfStmt,
    MatchStmt, ForStmt,
]  # fmt: skip
Suite = tuple[Stmt, ...]


# --- members ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clock(Node):
    name: Ident
    hz: Expr


@dataclass(frozen=True, slots=True)
class Counter(Node):
    name: Ident
    type: Type
    clock: Ident
    condition: Expr | None


@dataclass(frozen=True, slots=True)
class Alarm(Node):
    name: Ident
    clock: Ident


@dataclass(frozen=True, slots=True)
class State(Node):
    name: Ident
    type: Type
    count: int | None
    reset: Expr | None


@dataclass(frozen=True, slots=True)
class Latch(Node):
    name: Ident
    type: Type


@dataclass(frozen=True, slots=True)
class Cycle(Node):
    names: tuple[Ident, ...]
    phases: tuple[Ident, ...]


@dataclass(frozen=True, slots=True)
class Let(Node):
    name: Ident
    type: Type | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Phase(Node):
    level: bool
    length: Expr


@dataclass(frozen=True, slots=True)
class Phases(Node):
    """`final` None: the phases repeat; else the level after the last one."""

    phases: tuple[Phase, ...]
    final: bool | None


@dataclass(frozen=True, slots=True)
class WaveCase(Node):
    patterns: tuple[Pattern, ...]
    phases: Phases


@dataclass(frozen=True, slots=True)
class Wave(Node):
    """`subject` None: one case for all."""

    name: Ident
    counter: Ident
    subject: Expr | None
    cases: tuple[WaveCase, ...]


@dataclass(frozen=True, slots=True)
class Line(Node):
    """A line, or an array of `count`; with `carries` its edges are messages, and it has no level."""

    name: Ident
    index: Ident | None
    count: int | None
    carries: tuple[Expr, ...]
    missed: Missed | None
    doc: str


@dataclass(frozen=True, slots=True)
class Missed(Node):
    """What becomes of ticks while one is pending, and the least ns between two."""

    policy: Ident
    minimum: int


@dataclass(frozen=True, slots=True)
class Pin(Node):
    """An input of the device: a level that the board drives."""

    name: Ident
    doc: str


@dataclass(frozen=True, slots=True)
class Drive(Node):
    line: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class Argument(Node):
    name: Ident
    value: Expr


@dataclass(frozen=True, slots=True)
class Instance(Node):
    """A block, or an array of `count` with `index` naming the element."""

    name: Ident
    index: Ident | None
    count: int | None
    block: Ident
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Field(Node):
    bits: Bits
    name: Ident
    type: Type | None
    access: tuple[Ident, ...]
    reset: Expr | None
    where: Expr | None
    value: Expr | None
    doc: str


@dataclass(frozen=True, slots=True)
class Handler(Node):
    """A register's own read or write: a body, or a Python handler's name."""

    kind: str  # "read" or "write"
    name: Ident | None  # the value written
    mask: Ident | None  # ones in the lanes that are written
    body: Suite
    python: Ident | None


@dataclass(frozen=True, slots=True)
class Reg(Node):
    name: Ident
    offset: int | None
    type: Type
    access: tuple[Ident, ...]
    lanes: int | None
    reset: Expr | None
    hot: bool
    value: Expr | None
    through: Through | None
    fields: tuple[Field, ...]
    handlers: tuple[Handler, ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Through(Node):
    """A register that shows a bank's register or byte, chosen by an index."""

    bank: Ident
    index: Expr


@dataclass(frozen=True, slots=True)
class Place(Node):
    """A block's register put into a window, or a register put into a bank once more."""

    register: Expr
    offset: Expr
    where: Expr | None


@dataclass(frozen=True, slots=True)
class Ram(Node):
    name: Ident
    offset: int
    size: int
    doc: str


@dataclass(frozen=True, slots=True)
class Bank(Node):
    """Byte-wide registers and RAM behind an index register."""

    name: Ident
    size: int
    gaps: Ident | None
    items: tuple[Reg | Ram | Place, ...]


@dataclass(frozen=True, slots=True)
class Window(Node):
    space: str
    name: Ident | None
    base: Expr
    size: int
    split: bool
    lanes: int | None
    gaps: Ident | None
    aligned: bool
    items: tuple[Reg | Place, ...]


@dataclass(frozen=True, slots=True)
class Proc(Node):
    name: Ident
    inputs: tuple[Input, ...]
    body: Suite


@dataclass(frozen=True, slots=True)
class On(Node):
    """kind: rises, falls, toggles, reaches (with a target), rings, power_on (no subject)"""

    kind: str
    subject: Expr | None
    target: Expr | None
    when: Expr | None
    body: Suite


@dataclass(frozen=True, slots=True)
class Python(Node):
    file: str
    name: Ident
    why: str
    reads: tuple[Expr, ...]
    writes: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Former(Node):
    """A stored value of an older checkpoint that an upgrade takes, and its name there."""

    slot: Expr
    name: Ident | None
    type: Type
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Upgrade(Node):
    """What makes an image of checkpoint `version` one of the next."""

    version: int
    formers: tuple[Former, ...]
    body: Suite


@dataclass(frozen=True, slots=True)
class Checkpoint(Node):
    version: int
    upgrades: tuple[Upgrade, ...]


MemberDecl = Union[
    Clock, Counter, Alarm, State, Latch, Cycle, Let, Wave, Line, Drive, Instance, Window, Reg,
    Proc, On, Python, Checkpoint, Pin, Bank,
]  # fmt: skip


# --- the file --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Enum(Node):
    name: Ident
    members: tuple[Ident, ...]


@dataclass(frozen=True, slots=True)
class LayoutField(Node):
    bits: Bits
    name: Ident
    type: Type | None


@dataclass(frozen=True, slots=True)
class Layout(Node):
    name: Ident
    type: Type
    fields: tuple[LayoutField, ...]


@dataclass(frozen=True, slots=True)
class Input(Node):
    """A block's or procedure's input; a block's may be a `clock`."""

    name: Ident
    type: Type


@dataclass(frozen=True, slots=True)
class Param(Node):
    name: Ident
    type: Type
    default: Expr | None
    doc: str


@dataclass(frozen=True, slots=True)
class Block(Node):
    name: Ident
    inputs: tuple[Input, ...]
    doc: str
    members: tuple[MemberDecl, ...]


@dataclass(frozen=True, slots=True)
class Device(Node):
    name: Ident
    params: tuple[Param, ...]
    doc: str
    members: tuple[MemberDecl, ...]


@dataclass(frozen=True, slots=True)
class File(Node):
    items: tuple[Enum | Layout | Block | Device, ...]
