"""The structures that the native dispatcher and the hosts' loops work on.

Declared once, as ctypes structures; `native_module.declare` turns them into the
LLVM types that `dispatch.ll` and the hosts' `.ll` files use. All context is
reached through a `Bus`, never through an absolute address in code.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint16, c_uint32, c_uint64
from enum import IntEnum

from ..compiler.ir import (
    ATTENTION_DEADLINE,
    ATTENTION_LEAVE,
    ATTENTION_LINES,
    ATTENTION_WATCH,
    HEADER,
    NEVER,
)

U64_MAX = 2**64 - 1
PORTS = 1 << 16
MAX_ENTRIES = 1 << 16
"""Entry numbers fit the u16 index over the ports."""
MAX_WIDTH = 8


class Space(IntEnum):
    """An address space in which regions lie."""

    IO = 0
    MMIO = 1


class Outcome(IntEnum):
    """What became of an access. From ATTENTION on, Python is needed.

    SERVED     done in native code
    UNCLAIMED  done: nobody is there, all bits read as ones, a write is lost
    ATTENTION  this piece is done, and the device's `attention` (copied into the
               record) tells what it wants: lines to deliver, observers to tell
    HEAVY      this piece is not done, Python must serve it
    """

    SERVED = 0
    UNCLAIMED = 1
    ATTENTION = 2
    HEAVY = 3


CLOCK_FIXED = 0
CLOCK_RUNNING = 1

REGION_SPLIT = 1
REGION_PYTHON = 2

QUIET_HEAD = 64

ROUTE_CALL, ROUTE_WIRE, ROUTE_MESSAGE = range(3)

SPINS = 200
"""How often a thread looks at a lock that another holds before it lets others run."""

CLAIMED = 1 << 31
"""Beside attention bits: this thread is to deliver the device's edges."""

PULSES_A_DELIVERY = 16
"""How many pulses that fell into one instant a sink receives one by one. They
can pile up only where time was jumped over; the rest is counted as merged."""

PROPAGATION = 10_000
"""How many deliveries one access or event may set off through wires and observers that
trigger each other; then the rest waits for the next one."""

MAX_COUNTED = 4096
"""Exits are counted for each of a region's first bytes; what lies beyond is
counted with the last of them."""


class ClockBlock(ctypes.Structure):
    """Virtual time: `base` itself when fixed; when running, the host's monotonic
    clock (number `source`, asked from the function at `gettime`, libc's
    clock_gettime) plus `base`, modulo 2**64. All in ns."""

    _fields_ = [
        ("mode", c_uint32),
        ("source", c_uint32),
        ("base", c_uint64),
        ("gettime", c_uint64),
    ]


class Counters(ctypes.Structure):
    """Exits at one byte offset of a region: served natively, and by Python; and how many ns
    those took that were timed (`Bus.timed`). One cache line."""

    _fields_ = [
        ("light_reads", c_uint64),
        ("light_writes", c_uint64),
        ("heavy_reads", c_uint64),
        ("heavy_writes", c_uint64),
        ("light_read_ns", c_uint64),
        ("light_write_ns", c_uint64),
        ("heavy_read_ns", c_uint64),
        ("heavy_write_ns", c_uint64),
    ]
    light_reads: int
    light_writes: int
    heavy_reads: int
    heavy_writes: int
    light_read_ns: int
    light_write_ns: int
    heavy_read_ns: int
    heavy_write_ns: int

    def of(self, write: bool) -> tuple[int, int, int, int]:
        """Light and heavy exits of one direction, and their ns."""
        if write:
            return self.light_writes, self.heavy_writes, self.light_write_ns, self.heavy_write_ns
        return self.light_reads, self.heavy_reads, self.light_read_ns, self.heavy_read_ns


class RegionEntry(ctypes.Structure):
    """A claimed window of an address space.

    `counters` has each lane's `counted` rows, one lane after the other. `quiet`: the
    region's `QuietRegion`, or 0. A light access needs no more than the first 64 bytes.
    """

    _fields_ = [
        ("read", c_uint64),
        ("write", c_uint64),
        ("state", c_uint64),
        ("base", c_uint64),
        ("size", c_uint64),
        ("counters", c_uint64),
        ("quiet", c_uint64),
        ("counted", c_uint32),
        ("flags", c_uint32),
        ("device", c_uint32),
        ("pad", c_uint32),
    ]


class QuietRegion(ctypes.Structure):
    """Reads of a region that need no lock (quiet.py).

    `index` has for each offset below `limit` eight bytes, for the widths 1 to 8: the number of
    the `QuietSet` in `sets` on which the read depends, or 0. Set 0 is the whole state.
    `words` are offsets of u64 words in the state, `guard` is that of the instant from which
    on something is due. In `copies` each lane has `stride` bytes: the `epoch` of its copy of
    the state, and from QUIET_HEAD on the copy.
    """

    _fields_ = [
        ("index", c_uint64),
        ("sets", c_uint64),
        ("words", c_uint64),
        ("copies", c_uint64),
        ("stride", c_uint32),
        ("guard", c_uint32),
        ("limit", c_uint32),
        ("epoch", c_uint32),
    ]
    epoch: int


class QuietSet(ctypes.Structure):
    """`count` of a `QuietRegion`'s words, from number `first` on."""

    _fields_ = [("first", c_uint32), ("count", c_uint32)]


LATE_BUCKETS = 32


class Lateness(ctypes.Structure):
    """How late a device's deadlines were settled, ns: the latest, and how many there were
    in [2**i, 2**(i + 1)), the first from 0, the last without end. Under the device's lock."""

    _fields_ = [("most", c_uint64), ("counts", c_uint64 * LATE_BUCKETS)]


class DeviceEntry(ctypes.Structure):
    """A device's state (0: a free place) and its settle function (0: Python settles).

    A deadline before `floor` is taken for one at `floor`. `handlers` is an array
    of `handler_count` `HandlerEntry`s, by `leave`; `commit` makes the rest of the
    state follow what they wrote. `lines`: its `LineTable`, or 0 if Python looks
    after all of its lines. `watch`: the observers, as bits, that want to be told.
    `lateness`: its `Lateness`.
    """

    _fields_ = [
        ("state", c_uint64),
        ("settle", c_uint64),
        ("floor", c_uint64),
        ("commit", c_uint64),
        ("handlers", c_uint64),
        ("lines", c_uint64),
        ("lateness", c_uint64),
        ("handler_count", c_uint32),
        ("watch", c_uint32),
    ]


class LineTable(ctypes.Structure):
    """How a device's lines are served, and what their sinks last saw.

    `lines` is an array of `count` `LineEntry`s, by bit; `routes` one of `LineRoute`s;
    `rises` the device's counters of rising edges. All is read and written under
    the device's lock. `claimed` is not 0 while a thread delivers the device's edges,
    and `next` and `instant` belong to that thread: who comes next in its queue (device
    number + 1, or 0), and when. Nobody else delivers meanwhile, so that edges keep
    their order; that thread looks again before it lets go.
    """

    _fields_ = [
        ("lines", c_uint64),
        ("routes", c_uint64),
        ("rises", c_uint64),
        ("instant", c_uint64),
        ("count", c_uint32),
        ("claimed", c_uint32),
        ("next", c_uint32),
        ("pad", c_uint32),
    ]


class LineEntry(ctypes.Structure):
    """One output line: what its sinks last saw of it, and its routes.

    `native` 0: Python delivers to its sinks. Else its sinks are `route_count`
    routes from number `first` on. `address_at` and `data_at` are where a message's lie
    in the state: 16 times the offset and the size in bytes; 0 for a line without.
    """

    _fields_ = [
        ("rises", c_uint32),
        ("level", c_uint32),
        ("edges", c_uint64),
        ("merged", c_uint64),
        ("native", c_uint32),
        ("first", c_uint32),
        ("route_count", c_uint32),
        ("address_at", c_uint32),
        ("data_at", c_uint32),
        ("pad", c_uint32),
    ]
    rises: int
    level: int
    edges: int
    merged: int
    native: int
    first: int
    route_count: int
    address_at: int
    data_at: int


class LineRoute(ctypes.Structure):
    """A native sink, by `kind`:

    ROUTE_CALL     function(context, argument, level, now) at each edge
    ROUTE_WIRE     the input whose `InputEntry` is at `context`
    ROUTE_MESSAGE  function(context, address, data) at each rise
    """

    _fields_ = [
        ("function", c_uint64),
        ("context", c_uint64),
        ("argument", c_uint64),
        ("kind", c_uint32),
        ("pad", c_uint32),
    ]


class InputEntry(ctypes.Structure):
    """An input of device number `device`: bit `place & 7` of the byte at `place >> 3` in its
    state. `high`: how many of its sources are; under the device's lock."""

    _fields_ = [("place", c_uint64), ("device", c_uint32), ("high", c_uint32)]
    place: int
    device: int
    high: int


class HandlerEntry(ctypes.Structure):
    """The compiled handlers of one Python part (numba_tier.py); 0: the interpreter's."""

    _fields_ = [("read", c_uint64), ("write", c_uint64)]
    read: int
    write: int


HANDLER_CHANGED = 1
HANDLER_FAILED = 2
"""What a compiled handler returns, if not 0: the state is changed; nothing was done."""


class Window(ctypes.Structure):
    """One MMIO region in the array sorted by base; size 0 matches nothing.

    The array's first element has their number for its base, and size 0.
    """

    _fields_ = [
        ("base", c_uint64),
        ("size", c_uint64),
        ("entry", c_uint32),
        ("pad", c_uint32),
    ]


class StateHeader(ctypes.Structure):
    """The head of every state struct (HEADER in compiler/ir.py)."""

    _fields_ = [(slot.name, c_uint32 if slot.size == 4 else c_uint64) for slot in HEADER]
    deadline: int
    settled: int
    lines: int
    attention: int
    leave: int
    watch: int
    lock: int
    version: int


class Bus(ctypes.Structure):
    """Everything that the native dispatcher knows.

    `deadline` is the earliest of all devices' deadlines, as of the last scan;
    `moved` is not 0 when it must be found anew. `scan` is the lock of a scan, and
    `timer` one for the host that arms a timer for its result. `wanting` is not 0 if
    some device's header has attention that nobody has been told of. `cut` counts
    the times that wires triggered each other for too long. While `timed` is not 0,
    accesses are timed.
    """

    _fields_ = [
        ("clock", ClockBlock),
        ("ports", c_uint64),
        ("windows", c_uint64),
        ("entries", c_uint64),
        ("devices", c_uint64),
        ("deadline", c_uint64),
        ("unclaimed_reads", c_uint64),
        ("unclaimed_writes", c_uint64),
        ("device_count", c_uint32),
        ("moved", c_uint32),
        ("wanting", c_uint32),
        ("timed", c_uint32),
        ("cut", c_uint64),
        ("scan", c_uint32),
        ("timer", c_uint32),
    ]


class Access(ctypes.Structure):
    """One guest access on its way, or one device that settled at its deadline.

    The dispatcher stops at a piece that needs Python and is called again to go
    on after it, so a wide access over several byte-wide devices stays exact.
    While stopped: `device`, `attention` and `leave` say who wants what; if an
    access is concerned, `entry` is its region's handle (0: a deadline), and
    `offset` and `piece` are the place in the region and the width in bytes.
    `lane` says where accesses are counted: each thread has its own record and lane,
    0 being Python's. `began`: the host's ns at which it began if it is timed, else 0;
    `bus` is for what sums that up.
    """

    _fields_ = [
        ("now", c_uint64),
        ("address", c_uint64),
        ("value", c_uint64),
        ("offset", c_uint64),
        ("space", c_uint32),
        ("write", c_uint32),
        ("width", c_uint32),
        ("done", c_uint32),
        ("claimed", c_uint32),
        ("hint", c_uint32),
        ("piece", c_uint32),
        ("outcome", c_uint32),
        ("entry", c_uint32),
        ("device", c_uint32),
        ("attention", c_uint32),
        ("leave", c_uint32),
        ("lane", c_uint32),
        ("pad", c_uint32),
        ("began", c_uint64),
        ("bus", c_uint64),
    ]
    now: int
    address: int
    value: int
    offset: int
    space: int
    write: int
    width: int
    done: int
    claimed: int
    hint: int
    piece: int
    outcome: int
    entry: int
    device: int
    attention: int
    leave: int
    lane: int

    def start(self, space: int, address: int, width: int, write: bool, value: int, now: int) -> None:
        """Set up an access of `width` (1..8) bytes; all but `hint` and `lane` is overwritten."""
        self.space, self.address, self.width, self.write, self.now = space, address, width, write, now
        self.value = value & _mask(width) if write else 0
        self.done = self.claimed = 0

    @property
    def piece_value(self) -> int:
        """What the guest writes to the piece that stopped."""
        return (self.value >> (8 * self.done)) & _mask(self.piece)

    def answer(self, value: int = 0) -> None:
        """Python has served the piece; for a read, with this value (masked to its width)."""
        if not self.write:
            shift = 8 * self.done
            self.value = self.value & ~(_mask(self.piece) << shift) | (value & _mask(self.piece)) << shift
        self.done += self.piece
        self.outcome = Outcome.SERVED


def _mask(width: int) -> int:
    return (1 << (8 * width)) - 1


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    ClockBlock,
    Counters,
    RegionEntry,
    QuietRegion,
    QuietSet,
    Lateness,
    DeviceEntry,
    LineTable,
    LineEntry,
    LineRoute,
    InputEntry,
    HandlerEntry,
    Window,
    StateHeader,
    Bus,
    Access,
)

PortIndex = c_uint16 * PORTS

CONSTANTS: dict[str, int] = {
    "IO": Space.IO,
    "MMIO": Space.MMIO,
    "SERVED": Outcome.SERVED,
    "UNCLAIMED": Outcome.UNCLAIMED,
    "ATTENTION": Outcome.ATTENTION,
    "HEAVY": Outcome.HEAVY,
    "CLOCK_RUNNING": CLOCK_RUNNING,
    "LAST_BUCKET": LATE_BUCKETS - 1,
    "REGION_SPLIT": REGION_SPLIT,
    "REGION_PYTHON": REGION_PYTHON,
    "ATTENTION_DEADLINE": ATTENTION_DEADLINE,
    "ATTENTION_LEAVE": ATTENTION_LEAVE,
    "ATTENTION_LINES": ATTENTION_LINES,
    "CLAIMED": -CLAIMED,
    "NOT_CLAIMED": CLAIMED - 1,
    "NOT_WATCH": ~ATTENTION_WATCH,
    "PULSES_A_DELIVERY": PULSES_A_DELIVERY,
    "PROPAGATION": PROPAGATION,
    "HANDLER_CHANGED": HANDLER_CHANGED,
    "HANDLER_FAILED": HANDLER_FAILED,
    "NEVER": -1,
    "PORTS": PORTS,
    "SPINS": SPINS,
    "QUIET_HEAD": QUIET_HEAD,
    "ROUTE_CALL": ROUTE_CALL,
    "ROUTE_WIRE": ROUTE_WIRE,
}

assert NEVER == U64_MAX, "dispatch.ll writes NEVER as -1"
