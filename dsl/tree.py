"""The syntax tree of a device file, declared as data.

One class a construct of grammar.lark; every node carries its span. The tree
says what was written and nothing more: names are resolved and types found by
the compiler (compiler/elaborate*.py). Here are the declarations; expressions and
statements stand in modules of their own, and all of them are names of this one.
"""

# ruff: noqa: F403, F405 - one name space over three files

from __future__ import annotations

from typing import Union

from .tree_expressions import *
from .tree_statements import *

# --- members ---------------------------------------------------------------


@node
class Clock(Node):
    """With a condition, the clock stands while that does not hold, and then starts a tick anew."""

    name: Ident
    hz: Expr
    condition: Expr | None


@node
class Counter(Node):
    name: Ident
    type: Type
    clock: Ident
    condition: Expr | None


@node
class Alarm(Node):
    name: Ident
    clock: Ident


@node
class State(Node):
    name: Ident
    type: Type
    count: int | None
    reset: Expr | None


@node
class Latch(Node):
    name: Ident
    type: Type


@node
class Cycle(Node):
    names: tuple[Ident, ...]
    phases: tuple[Ident, ...]


@node
class Let(Node):
    name: Ident
    type: Type | None
    value: Expr


@node
class Phase(Node):
    level: bool
    length: Expr


@node
class Phases(Node):
    """`final` None: the phases repeat; else the level after the last one."""

    phases: tuple[Phase, ...]
    final: bool | None


@node
class WaveCase(Node):
    patterns: tuple[Pattern, ...]
    phases: Phases


@node
class Wave(Node):
    """`subject` None: one case for all."""

    name: Ident
    counter: Ident
    subject: Expr | None
    cases: tuple[WaveCase, ...]


@node
class Line(Node):
    """A line, or an array of `count`; with `carries` its edges are messages, and it has no level."""

    name: Ident
    index: Ident | None
    count: int | None
    carries: tuple[Expr, ...]
    missed: Missed | None
    doc: str


@node
class Missed(Node):
    """What becomes of ticks while one is pending, and the least ns between two."""

    policy: Ident
    minimum: int


@node
class Pin(Node):
    """An input of the device, or an array of `count`: levels that the board drives."""

    name: Ident
    count: int | None
    doc: str


@node
class Drive(Node):
    line: Expr
    value: Expr


@node
class Argument(Node):
    name: Ident
    value: Expr


@node
class Instance(Node):
    """A block, or an array of `count` with `index` naming the element."""

    name: Ident
    index: Ident | None
    count: int | None
    block: Ident
    arguments: tuple[Argument, ...]


@node
class Field(Node):
    bits: Bits
    name: Ident
    type: Type | None
    access: tuple[Ident, ...]
    reset: Expr | None
    where: Expr | None
    value: Expr | None
    doc: str


@node
class Handler(Node):
    """A register's own read or write: a body, or a Python handler's name."""

    kind: str  # "read" or "write"
    name: Ident | None  # the value written
    mask: Ident | None  # ones in the lanes that are written
    body: Suite
    python: Ident | None


@node
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


@node
class Through(Node):
    """A register that shows a bank's register or byte, chosen by an index."""

    bank: Ident
    index: Expr


@node
class Place(Node):
    """A block's register put into a window, or a register put into a bank once more."""

    register: Expr
    offset: Expr
    where: Expr | None


@node
class Ram(Node):
    name: Ident
    offset: int
    size: int
    doc: str


@node
class Bank(Node):
    """Registers and RAM behind an index register; `unit` is the type of what an index selects."""

    name: Ident
    size: int
    unit: Ident | None
    gaps: Ident | None
    items: tuple[Reg | Ram | Place, ...]


@node
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


@node
class Proc(Node):
    name: Ident
    inputs: tuple[Input, ...]
    body: Suite


@node
class On(Node):
    """kind: rises, falls, toggles, reaches (with a target), rings, power_on (no subject)

    `bits`: the name that the body has for the bits of a number that rose or fell."""

    kind: str
    subject: Expr | None
    target: Expr | None
    bits: Ident | None
    when: Expr | None
    body: Suite


@node
class Python(Node):
    file: str
    name: Ident
    why: str
    reads: tuple[Expr, ...]
    writes: tuple[Expr, ...]
    tier: Ident | None  # None: the interpreter


@node
class Former(Node):
    """A stored value of an older checkpoint that an upgrade takes, and its name there."""

    slot: Expr
    name: Ident | None
    type: Type
    default: Expr | None


@node
class Upgrade(Node):
    """What makes an image of checkpoint `version` one of the next."""

    version: int
    formers: tuple[Former, ...]
    body: Suite


@node
class Checkpoint(Node):
    version: int
    upgrades: tuple[Upgrade, ...]


MemberDecl = Union[
    Clock, Counter, Alarm, State, Latch, Cycle, Let, Wave, Line, Drive, Instance, Window, Reg,
    Proc, On, Python, Checkpoint, Pin, Bank,
]  # fmt: skip


# --- the file --------------------------------------------------------------


@node
class Enum(Node):
    name: Ident
    members: tuple[Ident, ...]


@node
class LayoutField(Node):
    bits: Bits
    name: Ident
    type: Type | None


@node
class Layout(Node):
    name: Ident
    type: Type
    fields: tuple[LayoutField, ...]


@node
class Input(Node):
    """A block's or procedure's input; a block's may be a `clock`."""

    name: Ident
    type: Type


@node
class Param(Node):
    name: Ident
    type: Type
    default: Expr | None
    doc: str


@node
class Block(Node):
    name: Ident
    inputs: tuple[Input, ...]
    doc: str
    members: tuple[MemberDecl, ...]


@node
class Device(Node):
    name: Ident
    params: tuple[Param, ...]
    doc: str
    members: tuple[MemberDecl, ...]


@node
class File(Node):
    items: tuple[Enum | Layout | Block | Device, ...]
