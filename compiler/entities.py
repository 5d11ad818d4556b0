"""What the names of a device file stand for while it is elaborated.

An entity belongs to the device or to one block; inside an array of blocks its
slots have a leading dimension, and the `Place` of a reference says which
element is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import ir

if TYPE_CHECKING:
    from .scope import Scope

ADDRESSES = {"port": ir.U16, "address": ir.U64}
"""The types of parameters that place a window, and how far they reach."""

Place = tuple[ir.Expr, ...]
"""The indices of the block element that a reference is in: () or one index."""


@dataclass(frozen=True)
class TypeInfo:
    """A declared type: its interval, its exact width if it has one, its nominal type."""

    range: ir.Range
    width: int | None = None
    nominal: EnumDef | LayoutDef | None = None


@dataclass(frozen=True)
class Value:
    """An elaborated expression."""

    expr: ir.Expr
    width: int | None = None
    nominal: EnumDef | LayoutDef | None = None
    unit: str | None = None  # a clock's name, "ns", or None for a plain number

    @property
    def type(self) -> ir.Range:
        return self.expr.type


# --- entities --------------------------------------------------------------


class Progress:
    """How far something is that is elaborated at its first use."""

    def __init__(self) -> None:
        self.stage: Literal["new", "active", "done", "failed"] = "new"

    def run(self, elaborate: Callable[[], object], cycle: Callable[[], Reject]) -> None:
        """Elaborate once; `cycle` is the error if this is being done already."""
        if self.stage == "active":
            raise cycle()
        if self.stage == "failed":
            raise Reject()
        if self.stage == "new":
            self.stage = "active"
            try:
                elaborate()
            except Reject:
                self.stage = "failed"
                raise
            self.stage = "done"


@dataclass(eq=False)
class Entity:
    name: str
    span: Span


@dataclass(eq=False)
class EnumDef(Entity):
    members: dict[str, int]
    anonymous: bool = False

    @property
    def width(self) -> int:
        return max(1, (len(self.members) - 1).bit_length())


@dataclass(eq=False)
class LayoutDef(Entity):
    type: TypeInfo
    fields: dict[str, tuple[int, int, TypeInfo]]  # name: high, low, type


@dataclass(eq=False)
class ConstDef(Entity):
    value: Value


@dataclass(eq=False)
class ClockDef(Entity):
    hz: ir.Expr
    unit: str  # its full name: that of its ticks' type
    epoch: str | None = None  # slot: the instant at which its ticks begin, if a condition starts it
    on: str | None = None  # derived slot: whether the condition held when last looked at
    condition: t.Expr | None = None


@dataclass(eq=False)
class ParamDef(Entity):
    type: TypeInfo
    slot: str | None  # None: an address


@dataclass(eq=False)
class StateDef(Entity):
    slot: str
    type: TypeInfo
    count: int | None = None


@dataclass(eq=False)
class LatchDef(Entity):
    slot: str
    full: str
    type: TypeInfo


@dataclass(eq=False)
class CycleDef(Entity):
    slot: str
    phases: EnumDef


@dataclass(eq=False)
class AlarmDef(Entity):
    slot: str  # tick at which it rings, NEVER if disarmed
    due: str  # the same in ns, derived
    clock: ClockDef


@dataclass(eq=False)
class CounterDef(Entity):
    """value = (base + ticks - tick) mod 2**bits while `on`, else base."""

    base: str
    tick: str
    on: str | None  # None: it always runs
    bits: int
    clock: ClockDef
    function: str = ""


@dataclass(eq=False)
class LetDef(Entity):
    """An equation, elaborated at its first use."""

    function: str
    elaborate: Callable[[], Value]
    value: Value | None = None  # the type of its calls
    progress: Progress = field(default_factory=lambda: Progress())


@dataclass(eq=False)
class InputDef(Entity):
    """A block's input: an equation of the device, elaborated at its first use."""

    function: str
    type: TypeInfo
    elaborate: Callable[[], None] = lambda: None
    progress: Progress = field(default_factory=lambda: Progress())


@dataclass(eq=False)
class WaveDef(Entity):
    function: str  # prefix of <function>.level, .since, .left, .edge, .rises, .falls
    counter: CounterDef
    elaborate: Callable[[], None]
    longest: int = 0
    progress: Progress = field(default_factory=lambda: Progress())


@dataclass(eq=False)
class ProcDef(Entity):
    function: str
    inputs: list[tuple[t.Ident, TypeInfo]]
    elaborate: Callable[[], None]
    progress: Progress = field(default_factory=lambda: Progress())


@dataclass(eq=False)
class FieldDef(Entity):
    high: int
    low: int
    type: TypeInfo
    slot: str | None
    value: LetDef | None
    access: AccessWords
    doc: str
    where: t.Expr | None = None


@dataclass(frozen=True)
class AccessWords:
    """What reads and writes of a field do; the words are SystemRDL's."""

    readable: bool = True
    writable: bool = False
    on_read: str = ""  # rclr, rset
    on_write: str = ""  # woclr woset wot wzc wzs wzt wclr wset

    @property
    def text(self) -> str:
        base = {(1, 1): "rw", (1, 0): "ro", (0, 1): "wo"}[(int(self.readable), int(self.writable))]
        return " ".join(w for w in (base, self.on_read, self.on_write) if w)


@dataclass(eq=False)
class RegDef(Entity):
    function: str  # prefix of <function>.value, .read, .write
    width: int  # bytes
    lanes: int  # bytes a lane
    explicit_lanes: bool
    type: TypeInfo
    fields: dict[str, FieldDef]
    storage: str | None
    access: AccessWords
    tree: t.Reg
    value: LetDef | None = None
    masked_read: bool = False  # a read changes something, and lanes of it can be read by themselves
    read_python: int | None = None
    write_python: int | None = None
    done: bool = False


@dataclass(eq=False)
class LineDef(Entity):
    """A line, or an array of `count`, from bit `bit` on."""

    bit: int
    doc: str
    count: int | None
    tree: t.Line
    driver: t.Drive | None = None
    pulsed: bool = False

    @property
    def size(self) -> int:
        return self.count or 1


@dataclass(eq=False)
class BitDef(Entity):
    """A block's input that is one bit of something stored in the device: it can be assigned."""

    slot: str
    type: ir.Range
    position: ir.Expr  # per element of the block's array


@dataclass(eq=False)
class OuterDef(Entity):
    """A block's input that is an entity of the device: a counter or a line."""

    entity: Entity


@dataclass(eq=False)
class RamDef(Entity):
    slot: str
    count: int


@dataclass(eq=False)
class BankDef(Entity):
    """Registers and RAM behind an index: functions <function>.read and .write.

    `unit`: bytes that one value of the index selects."""

    function: str
    size: int
    unit: int
    elaborate: Callable[[], None]
    progress: Progress = field(default_factory=lambda: Progress())

    @property
    def words(self) -> str:
        """What it has, for messages."""
        return "bytes" if self.unit == 1 else "words"

    @property
    def word(self) -> ir.Range:
        """What an index selects, as a number."""
        return ir.Range(0, 2 ** (8 * self.unit) - 1)


@dataclass(eq=False)
class BlockDef(Entity):
    tree: t.Block


@dataclass(eq=False)
class InstanceDef(Entity):
    """A block made part of the device, or an array of it."""

    scope: Scope
    count: int | None


@dataclass(eq=False)
class PythonDef(Entity):
    index: int


@dataclass(eq=False)
class LocalDef(Entity):
    value: Value


@dataclass(eq=False)
class ElementDef(Entity):
    """The name of a `for`: one element of an array of blocks."""

    instance: InstanceDef
    index: int


@dataclass(eq=False)
class Poisoned(Entity):
    """Its declaration was refused; uses are silent."""


@dataclass(frozen=True)
class Ref:
    """An entity and the element of the block array in which it is meant."""

    entity: Entity
    place: Place


@dataclass(frozen=True)
class LatchRef:
    """A Ref that is known to be of a latch."""

    entity: LatchDef
    place: Place


E = TypeVar("E", bound=Entity)


KINDS: dict[type[Entity], str] = {
    AlarmDef: "alarm", BlockDef: "block", ClockDef: "clock", ConstDef: "enum member", CounterDef: "counter",
    CycleDef: "cycle", ElementDef: "element", EnumDef: "enum", FieldDef: "field", InputDef: "input",
    InstanceDef: "instance", LatchDef: "latch", LayoutDef: "layout", LetDef: "equation", LineDef: "line",
    LocalDef: "local", ParamDef: "parameter", ProcDef: "procedure", PythonDef: "Python part",
    RegDef: "register", StateDef: "state", WaveDef: "wave", BitDef: "bit", RamDef: "RAM", BankDef: "bank",
}  # fmt: skip
"""How an entity is called in messages."""


def spoken(entity: Entity) -> str:
    """An entity's kind with its article, for messages."""
    kind = KINDS[type(entity)]
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def number_of(count: int, what: str) -> str:
    """`1 value`, `2 values`."""
    return f"{count} {what}{'s' * (count != 1)}"


def cyclic(entity: Entity, help: str) -> Reject:
    """The error of what is needed to elaborate itself."""
    return Reject("E104", f"{KINDS[type(entity)]} '{entity.name}' depends on itself", entity.span, help)


def show(r: ir.Range) -> str:
    """A range as the language writes it."""
    for bits in (1, 8, 16, 32, 64):
        if r == ir.Range(0, 2**bits - 1):
            return "a bool" if bits == 1 else f"u{bits}"
    return str(r.lo) if r.lo == r.hi else f"{r.lo}..{r.hi}"
