"""The typed IR of a device, declared as data.

A `Module` is what the front end hands to every back end: the layout of one
flat state struct, the register map, and functions over that state. It is kept
within what all back ends can do (reference engine, native code, eBPF, wasm):
no 128-bit arithmetic, no division by zero, no unbounded loop, no recursion, no
pointer, no address; unsigned division only.

Every value is an integer of at most 64 bits whose interval is known
(`Range`). An operator's result interval contains every exact result, so
nothing overflows; what is meant to wrap says so (`addw`, `subw`, `mulw`).
`compiler/verify.py` checks all of this between the passes.

Every function has two implicit arguments, the state and the present instant
(`Now`, virtual nanoseconds).

Non-goals: optimisation (LLVM's work), source text (the front end's work).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Union

NEVER = 2**64 - 1
"""The deadline of something that will not happen, in ns."""

SECOND = 1_000_000_000
MAX_HZ = 1_000_000_000
"""A clock is at most 1 GHz, so that a tick lasts at least 1 ns (an event's
instant is then inside its own tick) and `s * hz` fits in 64 bits."""


# --- types -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of integers, both ends included; always 64 bits wide at most.

    A range with a negative low end is held in two's complement and compared
    signed; any other is unsigned.
    """

    lo: int
    hi: int

    @property
    def signed(self) -> bool:
        return self.lo < 0

    @property
    def fits(self) -> bool:
        """Whether every value has a 64-bit representation."""
        return (
            self.lo <= self.hi
            and (self.hi < 2**63 if self.lo < 0 else self.hi < 2**64)
            and self.lo >= -(2**63)
        )

    def contains(self, other: Range) -> bool:
        return self.lo <= other.lo and other.hi <= self.hi

    def join(self, other: Range) -> Range:
        return Range(min(self.lo, other.lo), max(self.hi, other.hi))


BOOL = Range(0, 1)
U8 = Range(0, 2**8 - 1)
U16 = Range(0, 2**16 - 1)
U32 = Range(0, 2**32 - 1)
U64 = Range(0, 2**64 - 1)


# --- the state -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """One stored integer, or an array of them, in the flat state struct.

    `size` is 1, 2, 4 or 8 bytes; `offset` is naturally aligned, and so is
    every stride. `dims` lists (count, stride in bytes) a dimension, outermost
    first. `kind` says who owns it:

    header   the fixed head below, recomputed on restore, not saved
    param    set at init, constant afterwards, saved and compared on restore
    state    what the device file declares: saved, range-checked on restore
    derived  bookkeeping recomputed from the rest by `resume`: not saved
    """

    name: str
    type: Range
    size: Literal[1, 2, 4, 8]
    offset: int
    dims: tuple[tuple[int, int], ...] = ()
    kind: Literal["header", "param", "state", "derived"] = "state"
    reset: int = 0


HEADER = (
    Slot("deadline", U64, 8, 0, kind="header"),
    Slot("settled", U64, 8, 8, kind="header"),
    Slot("lines", U32, 4, 16, kind="header"),
    Slot("attention", U32, 4, 20, kind="header"),
    Slot("leave", U32, 4, 24, kind="header"),
    Slot("watch", U32, 4, 28, kind="header"),
    Slot("lock", U32, 4, 32, kind="header"),
    Slot("version", U32, 4, 36, kind="header"),
)
"""The head of every state struct, the contract between handlers and a loop.

deadline   the next instant (ns) at which the device does something by itself
           that shows outside: the host's timer must call `settle` then. NEVER
           if there is none. (A handler settles by itself whatever is due.)
settled    the instant up to which events and line edges are accounted for.
lines      level of line i in bit i, as of the last settle or write.
attention  bits of Attention below, set by handlers, cleared by the loop.
leave      with ATTENTION_LEAVE: index of the Python handler to call.
watch      with ATTENTION_WATCH: bit i set when what observer i reads changed.
lock       0, or 1 while somebody is at work on the state. Handlers never look at
           it: whoever calls them from more than one place takes it first (a vCPU's
           loop, a deadline, the kernel's programs).
version    odd while the state changes under the lock, so that a reader without
           it can tell whether what it read was of one piece.
"""
HEADER_SIZE = 40
LOCK_AT, UNLOCKED_AT = 32, HEADER_SIZE
"""Where `lock` and `version` lie: they belong to whoever calls the handlers, so
taking an image in leaves them alone."""

ATTENTION_LINES = 1  # a level in `lines` changed, or a `rises` counter did
ATTENTION_DEADLINE = 2  # `deadline` changed
ATTENTION_LEAVE = 4  # the access was not served: Python must serve it
ATTENTION_WATCH = 8  # a Python observer must be told


# --- expressions -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Const:
    value: int

    @property
    def type(self) -> Range:
        return Range(self.value, self.value)


@dataclass(frozen=True, slots=True)
class Var:
    """A parameter or a local of the function."""

    name: str
    type: Range


@dataclass(frozen=True, slots=True)
class Now:
    """The present instant, virtual ns."""

    @property
    def type(self) -> Range:
        return U64


@dataclass(frozen=True, slots=True)
class Load:
    """The value of a slot; one index per dimension, each within its count."""

    slot: str
    index: tuple[Expr, ...]
    type: Range


BinaryOp = Literal[
    "add", "sub", "mul",  # exact: the type contains every result
    "addw", "subw", "mulw",  # modulo 2**64, the type is U64
    "div", "mod",  # unsigned; the divisor's range excludes 0
    "and", "or", "xor",  # operands not negative
    "shl", "shr",  # amount 0..63; shl exact
    "eq", "ne", "lt", "le",  # BOOL, on the exact values
    "min", "max",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Binary:
    op: BinaryOp
    left: Expr
    right: Expr
    type: Range


@dataclass(frozen=True, slots=True)
class Not:
    """1 - operand, of a BOOL."""

    operand: Expr

    @property
    def type(self) -> Range:
        return BOOL


@dataclass(frozen=True, slots=True)
class Cond:
    """`then` if `test` else `orelse`; only the chosen one is evaluated."""

    test: Expr
    then: Expr
    orelse: Expr
    type: Range


@dataclass(frozen=True, slots=True)
class Narrow:
    """The operand, known by its context (a branch taken) to lie in `type`."""

    operand: Expr
    type: Range


@dataclass(frozen=True, slots=True)
class Ticks:
    """floor(ns * hz / 10**9): the tick in which an instant lies. 1 <= hz <= MAX_HZ."""

    ns: Expr
    hz: Expr
    type: Range


@dataclass(frozen=True, slots=True)
class Nanos:
    """ceil(ticks * 10**9 / hz): a tick's first instant; NEVER if beyond 64 bits."""

    ticks: Expr
    hz: Expr

    @property
    def type(self) -> Range:
        return U64


@dataclass(frozen=True, slots=True)
class Call:
    """A function's result. `now` replaces the present instant for the callee."""

    function: str
    args: tuple[Expr, ...]
    type: Range
    now: Expr | None = None


Expr = Union[Const, Var, Now, Load, Binary, Not, Cond, Narrow, Ticks, Nanos, Call]


# --- statements ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Let:
    """Give a local a value; a later Let of the same name and type replaces it."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    slot: str
    index: tuple[Expr, ...]
    value: Expr
    line: int = 0  # of the device file, 0 if the compiler's own


@dataclass(frozen=True, slots=True)
class If:
    test: Expr
    then: Block
    orelse: Block = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """The case that lists the value; `default` if none does."""

    value: Expr
    cases: tuple[tuple[tuple[int, ...], Block], ...]
    default: Block = ()


@dataclass(frozen=True, slots=True)
class Repeat:
    """The body at most `times` times (a constant), until a Break."""

    times: int
    body: Block


@dataclass(frozen=True, slots=True)
class Break:
    """Leave the innermost Repeat."""


@dataclass(frozen=True, slots=True)
class Return:
    value: Expr | None = None


@dataclass(frozen=True, slots=True)
class Do:
    """Call a function for its effects."""

    call: Call


Stmt = Union[Let, Store, If, Switch, Repeat, Break, Return, Do]
Block = tuple[Stmt, ...]


# --- functions and the module ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Function:
    """`result` None: no value. A function with a result returns on every path.

    `exported` functions have external linkage as `<device>_<name>`; the rest
    are internal. `rare`: no guest waits for it often, so a back end may prefer
    small code to fast. `apart`: it is not to become part of its caller, which
    does by itself what guests wait for. No recursion: a callee stands before
    its callers.
    """

    name: str
    params: tuple[tuple[str, Range], ...]
    result: Range | None
    body: Block
    exported: bool = False
    line: int = 0
    rare: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A register's field, for documentation and headers. `access` as SVD's words."""

    name: str
    high: int
    low: int
    access: str
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Register:
    """A register's place in a region: byte offset, width in bytes, tiers."""

    name: str
    offset: int
    width: int
    access: str  # "rw", "ro", "wo"
    read_tier: Literal["native", "numba", "python", "none"]
    write_tier: Literal["native", "numba", "python", "none"]
    fields: tuple[Field, ...] = ()
    doc: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """A window of an address space that the device claims.

    `base` is an address, or the name of the parameter that holds it. A region
    of the space `host` lies at no address (base 0): the machine around the
    device accesses it, a guest never does (an interrupt acknowledge, say). The
    functions `<name>_read(offset: U32, width: U32) -> U64` and
    `<name>_write(offset: U32, width: U32, value: U64)` are total: any offset,
    any width and any value have a defined answer. `split`: an access that is
    not a byte is several, low address first (ISA).
    """

    name: str
    space: Literal["io", "mmio", "host"]
    base: int | str
    size: int
    registers: tuple[Register, ...]
    split: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """An output line. Line i is element i of slot `rises` (U32, modulo 2**32:
    rising edges since reset) and, for i < 32, bit i of `lines`.

    A line from 32 on has no level, only pulses. `carries` are the slots whose
    values go with an edge, by name: a message's address and data. `missed` is
    the policy for ticks that fall due while another is pending ("": none), and
    `minimum` the least time between two, in ns.
    """

    name: str
    doc: str = ""
    missed: str = ""
    minimum: int = 0
    carries: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """A level that comes from outside: bit `bit` of a slot. Whoever changes it calls
    `settle` before and `commit` after."""

    name: str
    slot: str
    bit: int
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Param:
    """`slot` is None for an address (it belongs to the bus, not to the device)."""

    name: str
    type: Range
    default: int
    slot: str | None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Python:
    """What the language cannot say, declared.

    An observer is called after an access or an event that changed what it
    reads. A handler serves a register's read or write. `reads` and `writes`
    map the names the Python sees to slots (with their constant indices);
    anything else is refused. A handler of tier numba is functions that may be
    compiled and called from the native loop.
    """

    name: str
    file: str
    kind: Literal["observer", "handler"]
    why: str
    reads: tuple[tuple[str, str, tuple[int, ...]], ...]
    writes: tuple[tuple[str, str, tuple[int, ...]], ...]
    line: int = 0
    tier: Literal["python", "numba"] = "python"


@dataclass(frozen=True, slots=True)
class Former:
    """A slot's element of an older checkpoint's image, by the name that it had there.

    `default`: what it is taken to be in images yet older that have no such
    slot; None if there are none.
    """

    slot: str
    index: tuple[int, ...]
    type: Range
    default: int | None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What makes the state of checkpoint `version` one of the next: a function
    over the present layout, whose arguments are `formers`. Only Python calls it,
    between unpacking an older image and packing it anew (compiler/upgrade.py)."""

    version: int
    function: str
    formers: tuple[Former, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """A compiled device type. Exported functions, by name:

    <region>_read, <region>_write   an access at Now; settles first
    settle()                        account for everything up to Now
    levels() -> U32                 the lines at Now, pure
    next() -> U64                   the deadline after Now, pure
    commit()                        let everything follow a change of state at Now
                                    (after a Python handler's writes)
    reset()                         all state slots to their reset values at Now
    resume()                        recompute header and derived slots at Now
                                    (after a restore)
    """

    name: str
    doc: str
    version: int
    params: tuple[Param, ...]
    slots: tuple[Slot, ...]  # HEADER first
    size: int  # of the struct in bytes, a multiple of 8
    regions: tuple[Region, ...]
    lines: tuple[Line, ...]
    pythons: tuple[Python, ...]
    functions: tuple[Function, ...] = field(repr=False)
    upgrades: tuple[Upgrade, ...] = ()
    inputs: tuple[Input, ...] = ()

    def slot(self, name: str) -> Slot:
        return next(s for s in self.slots if s.name == name)


EXPORTS: dict[str, tuple[tuple[tuple[str, Range], ...], Range | None]] = {
    "settle": ((), None),
    "levels": ((), U32),
    "next": ((), U64),
    "commit": ((), None),
    "reset": ((), None),
    "resume": ((), None),
}
"""The signatures of the exported functions that every module has."""

READ = ((("offset", U32), ("width", U32)), U64)
WRITE = ((("offset", U32), ("width", U32), ("value", U64)), None)


def elements(slot: Slot) -> Iterator[tuple[tuple[int, ...], int]]:
    """Every element of a slot: its indices and its byte offset."""

    def walk(dims: tuple[tuple[int, int], ...], offset: int) -> Iterator[tuple[tuple[int, ...], int]]:
        if not dims:
            yield (), offset
            return
        (count, stride), rest = dims[0], dims[1:]
        for i in range(count):
            for index, at in walk(rest, offset + i * stride):
                yield (i, *index), at

    return walk(slot.dims, slot.offset)
