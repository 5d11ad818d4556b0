"""The trap dispatcher: address spaces of one machine, served in native code.

A guest's access is looked up and handled by `dispatch.ll`. What it cannot do
alone it hands to `Dispatcher.attend`, one Python function a machine, in the
middle of the access: a piece to serve (HEAVY), or lines and observers to look
after (ATTENTION). The hosts' native loops share the same tables.

Non-goals: device instances, wiring and time's policy (the machine's work).
"""

from __future__ import annotations

import ctypes
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .bus import (
    CLOCK_FIXED,
    CLOCK_RUNNING,
    MAX_COUNTED,
    MAX_ENTRIES,
    MAX_WIDTH,
    PORTS,
    REGION_PYTHON,
    REGION_SPLIT,
    U64_MAX,
    Access,
    Bus,
    ClockBlock,
    Counters,
    DeviceEntry,
    HandlerEntry,
    Lateness,
    LineTable,
    Outcome,
    PortIndex,
    RegionEntry,
    Space,
    StateHeader,
    Window,
)
from .dispatch_code import dispatch_text, native
from .monotonic import monotonic
from .quiet import QuietReads

__all__ = [
    "CLOCK_FIXED",
    "CLOCK_RUNNING",
    "Access",
    "ClockBlock",
    "Counters",
    "DispatchError",
    "Dispatcher",
    "Outcome",
    "Space",
    "dispatch_text",
]

Attend = Callable[[Access], None]

_CALL = ctypes.PYFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p)
_ASK = ctypes.PYFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)
_DELIVER = ctypes.PYFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64)

QUARANTINE = 64
"""How many regions must be removed after one before its handle is given out again: a thread
may be about to call what it found under it."""

_COLUMNS = len(Counters._fields_)


def lane(vcpu: int) -> int:
    """Where a vCPU's accesses are counted (`Access.lane`)."""
    return vcpu + 1


class DispatchError(Exception):
    """A region cannot be where it was asked to be, or an access makes no sense."""


_Item = TypeVar("_Item", bound=ctypes.Structure)


@dataclass(slots=True)
class _Region:
    """What only Python needs to know of a region."""

    name: str
    space: Space
    base: int
    size: int
    counters: ctypes.Array[Counters]  # each lane's, one after the other
    quiet: QuietReads | None

    @property
    def end(self) -> int:
        return self.base + self.size

    def __str__(self) -> str:
        return f"{self.name} ({self.space.name.lower()} {self.base:#x}..{self.end - 1:#x})"


class Dispatcher:
    """The regions and devices of one machine, and its clock block.

    `attend` is called with the `Access` record whenever native code stops:

    HEAVY      the piece was not served. Serve it and say `access.answer(value)`;
               unanswered, a read gives ones and a write is lost. `entry` 0:
               the device has no settle function, Python must settle it.
    ATTENTION  the piece is done; `access.attention` is that of device
               `access.device`, without DEADLINE, which is dealt with here.
               Clear it in the state's header.

    A HEAVY record may carry attention bits too. What `attend` raises comes out
    of the call that led to it, with the access completed as if unanswered.

    Any number of threads may run native code over these tables, each with its own
    `Access`; `vcpus` says how many count accesses (docs/threads.md). `kick` is called when a
    deadline moved that no such thread may look at soon. `attend` is called,
    and the tables are changed, under `lock`. `lanes`: how many may have an `Access.lane`.
    """

    def __init__(self, vcpus: int = 1) -> None:
        symbol = native().symbol
        self._access_fn = _CALL(symbol("devc_access"))
        self._settle_fn = _CALL(symbol("devc_settle"))
        self._earliest_fn = _ASK(symbol("devc_earliest"))
        self._now_fn = _ASK(symbol("devc_now"))
        self._deliver_fn = _DELIVER(symbol("devc_deliver"))
        self.attend: Attend = lambda access: None
        self.kick: Callable[[], None] = lambda: None
        self.lock = threading.RLock()
        self.lanes = lane(vcpus)
        self.bus = Bus()
        self.bus.moved = 1
        self.address = ctypes.addressof(self.bus)
        self.bus.clock.source, self.bus.clock.gettime = monotonic()
        self._ports = PortIndex()
        self.bus.ports = ctypes.addressof(self._ports)
        self._kept: dict[int, tuple[object, ...]] = {}
        self._lateness: dict[int, Lateness] = {}
        # Removed regions by handle, the oldest first: see QUARANTINE.
        self._removed: dict[int, _Region] = {}
        self._unused = 1
        self._regions: dict[int, _Region] = {}
        self._mmio: list[int] = []
        # A loop in another thread may still look at an array that was replaced;
        # never for longer than one access.
        self._replaced: deque[object] = deque(maxlen=16)
        self._entries = (RegionEntry * 64)()
        self._windows = (Window * 64)()
        self._devices = (DeviceEntry * 64)()
        self.bus.entries = ctypes.addressof(self._entries)
        self.bus.windows = ctypes.addressof(self._windows)
        self.bus.devices = ctypes.addressof(self._devices)
        self._spare: Access | None = Access()

    @property
    def clock(self) -> ClockBlock:
        """Where the loops read the virtual time; see `ClockBlock`."""
        block: ClockBlock = self.bus.clock
        return block

    # --- devices ---

    def add_device(
        self,
        state_addr: int,
        settle_addr: int,
        commit_addr: int = 0,
        handlers: ctypes.Array[HandlerEntry] | None = None,
        lines: LineTable | None = None,
        watch: int = U64_MAX >> 32,
    ) -> int:
        """Watch a device's deadline (the header at `state_addr`); returns its number.

        A known state gets the new settle function. `settle_addr` 0: only
        Python can settle it. `handlers`: what serves the accesses that its
        regions leave, by `leave`; they need its commit function. `lines`: its lines
        that native code serves; without a table Python is told of every edge. `watch`:
        the observers, as bits, of which Python is told.
        """
        with self.lock:
            number = self._device(state_addr)
            device = self._devices[number]
            device.settle, device.commit, device.watch = settle_addr, commit_addr, watch
            self._kept[number] = (handlers, lines)
            device.handlers = ctypes.addressof(handlers) if handlers else 0
            device.handler_count = len(handlers) if handlers else 0
            device.lines = ctypes.addressof(lines) if lines is not None else 0
            return number

    def remove_device(self, number: int) -> None:
        """Forget a device; its regions must have been removed before."""
        state = self._devices[number].state
        users = [str(r) for h, r in self._regions.items() if self._entries[h].state == state]
        if users:
            raise DispatchError(f"device {number} still serves {', '.join(users)}; remove that first")
        self._devices[number] = DeviceEntry()
        self._kept.pop(number, None)
        self._lateness.pop(number, None)
        self.bus.moved = 1

    def hold_off(self, number: int, floor: int) -> None:
        """Let no deadline of a device before `floor` count; 0: all do."""
        if self._devices[number].floor != floor:
            self._devices[number].floor = floor
            self.bus.moved = 1

    def lateness(self, number: int) -> tuple[list[int], int]:
        """How late a device's deadlines were settled by native code: how many at
        [2**i, 2**(i + 1)) ns, and the most, ns."""
        late = self._lateness[number]
        return list(late.counts), late.most

    def deadlines_moved(self) -> None:
        """Tell that a device's deadline was changed from outside an access."""
        self.bus.moved = 1
        self.kick()

    def _device(self, state_addr: int) -> int:
        free = self.bus.device_count
        for number in range(self.bus.device_count):
            if self._devices[number].state == state_addr:
                return number
            if not self._devices[number].state:
                free = min(free, number)
        if free == len(self._devices):
            self._devices = self._grown(self._devices)
            self.bus.devices = ctypes.addressof(self._devices)
        late = self._lateness[free] = Lateness()
        self._devices[free] = DeviceEntry(state_addr, lateness=ctypes.addressof(late))
        self.bus.device_count = max(self.bus.device_count, free + 1)
        self.bus.moved = 1
        return int(free)

    # --- regions ---

    def add_region(
        self,
        space: Space | str,
        base: int,
        size: int,
        read_addr: int,
        write_addr: int,
        state_addr: int,
        split: bool = False,
        *,
        python: bool = False,
        name: str = "",
        quiet: QuietReads | None = None,
    ) -> int:
        """Claim `size` bytes at `base`; returns a handle.

        `read_addr` and `write_addr` are functions as DEV_REGION_read and
        DEV_REGION_write of docs/abi.md, called with `state_addr`, which must
        begin with the header and stay where it is. `split`: an access wider
        than a byte is made of bytes. `python`: every access is HEAVY. `quiet`: the
        reads that need no lock.
        Raises DispatchError if the place is taken or does not exist.
        """
        space = Space[space.upper()] if isinstance(space, str) else Space(space)
        handle = self._free_handle()
        counted = min(max(size, 1), MAX_COUNTED)
        counters = (Counters * (counted * self.lanes))()
        region = _Region(name or f"region {handle}", space, base, size, counters, quiet)
        self._check(region, base, handle)
        if not python and not (read_addr and write_addr and state_addr):
            raise DispatchError(f"{region} has no native handlers; add it with python=True")
        if handle >= len(self._entries):
            self._entries = self._grown(self._entries)
            self.bus.entries = ctypes.addressof(self._entries)
        self._entries[handle] = RegionEntry(
            read=read_addr,
            write=write_addr,
            state=state_addr,
            base=base,
            size=size,
            counters=ctypes.addressof(counters),
            counted=counted,
            flags=(REGION_SPLIT if split else 0) | (REGION_PYTHON if python else 0),
            device=self._device(state_addr) if state_addr else U64_MAX >> 32,
            quiet=ctypes.addressof(quiet.table) if quiet is not None else 0,
        )
        if self._removed.pop(handle, None) is None:
            self._unused += 1
        self._regions[handle] = region
        self._map(handle)
        return handle

    def move(self, handle: int, base: int) -> None:
        """Let the region begin at `base`; on DispatchError it stays where it was."""
        with self.lock:
            region = self._region(handle)
            self._check(region, base, handle)
            self._unmap(handle)
            region.base = base
            self._entries[handle].base = base
            self._map(handle)

    def remove(self, handle: int) -> None:
        """Give the region's addresses up.

        Its entry stays for the moment: a thread may have looked it up, and its device lives on.
        """
        with self.lock:
            self._unmap(handle)
            self._removed[handle] = self._regions.pop(handle)

    def serve_in_python(self, handle: int, python: bool) -> None:
        """Force the region's accesses to Python, or let native handlers serve them."""
        self._region(handle)
        entry = self._entries[handle]
        if not python and not entry.read:
            raise DispatchError(f"{self._regions[handle]} has no native handlers")
        entry.flags = entry.flags & ~REGION_PYTHON | (REGION_PYTHON if python else 0)

    def stats(self, handle: int) -> ctypes.Array[Counters]:
        """Exits so far, by a region's byte offsets (the last one counts all beyond)."""
        counters = self._region(handle).counters
        counted = self._entries[handle].counted
        flat = (ctypes.c_uint64 * (len(counters) * _COLUMNS)).from_buffer(counters)
        a_lane = counted * _COLUMNS
        lanes = (flat[first : first + a_lane] for first in range(0, len(flat), a_lane))
        total: ctypes.Array[Counters] = (Counters * counted)()
        (ctypes.c_uint64 * a_lane).from_buffer(total)[:] = list(map(sum, zip(*lanes, strict=True)))
        return total

    def windows(self) -> list[tuple[str, int, int]]:
        """The MMIO regions' (name, base, size), by base."""
        found = (self._regions[h] for h in self._mmio)
        return [(str(r), r.base, r.size) for r in found]

    @property
    def timed(self) -> bool:
        """Whether accesses are timed (`Counters`): 50 ns more for each light one."""
        return bool(self.bus.timed)

    @timed.setter
    def timed(self, value: bool) -> None:
        self.bus.timed = value

    @property
    def unclaimed(self) -> tuple[int, int]:
        """Reads and writes so far that nobody claimed."""
        return self.bus.unclaimed_reads, self.bus.unclaimed_writes

    # --- accesses and time, from Python ---

    def access(
        self, space: int, address: int, width: int, write: bool, value: int = 0, now: int | None = None
    ) -> tuple[Outcome, int]:
        """One access of `width` (1..8) bytes at `now` (the clock's time if None), to its end.

        Returns SERVED, or UNCLAIMED if nobody claims any byte of it, and the
        value read (for a write, the value written).
        """
        if not 1 <= width <= MAX_WIDTH:
            raise DispatchError(f"an access is 1 to {MAX_WIDTH} bytes wide, not {width}")
        with self.lock:
            record, self._spare = self._spare or Access(), None
            record.start(space, address, width, write, value, self.now() if now is None else now)
            try:
                outcome = self._to_the_end(self._access_fn, record)
                return outcome, record.value
            finally:
                self._spare = record

    def settle(self, now: int) -> None:
        """Settle every device whose deadline is not after `now`, each once."""
        with self.lock:
            self._to_the_end(self._settle_fn, Access(now=now))

    def deliver(self, number: int, now: int) -> None:
        """Have native code deliver a device's edges after Python called into it, at `now`."""
        with self.lock:
            if self._deliver_fn(self.address, number, now):
                self._attend_wanting(now)

    def earliest(self) -> int:
        """The earliest deadline of all devices in ns, NEVER if there is none."""
        return int(self._earliest_fn(self.address))

    def now(self) -> int:
        """The present virtual instant in ns."""
        return int(self._now_fn(self.address))

    def _to_the_end(self, function: Callable[[int, int], int], record: Access) -> Outcome:
        where = ctypes.addressof(record)
        while (outcome := function(self.address, where)) >= Outcome.ATTENTION:
            self.attended(record)
        return Outcome(outcome)

    def attended(self, record: Access) -> None:
        """Have `attend` look after a record that stopped; afterwards it can go on.

        For hosts, on any thread. Whatever `attend` raises, the piece is complete.
        """
        with self.lock:
            began = time.perf_counter_ns()
            try:
                self.attend(record)
                if self.bus.wanting:
                    self._attend_wanting(record.now)
            finally:
                self.bus.moved = 1
                if self.bus.timed and record.entry in self._regions:
                    self._count_time(record, time.perf_counter_ns() - began)
                if record.outcome == Outcome.HEAVY and record.entry:
                    record.answer(U64_MAX)
                record.outcome = Outcome.SERVED

    def _count_time(self, record: Access, ns: int) -> None:
        region = self._regions[record.entry]
        # Python's own lane, which is changed under the lock alone.
        row = region.counters[min(record.offset, self._entries[record.entry].counted - 1)]
        if record.write:
            row.heavy_write_ns += ns
        else:
            row.heavy_read_ns += ns

    def _attend_wanting(self, now: int) -> None:
        """Native edges led to devices that want something of Python."""
        self.bus.wanting = 0
        for number in range(self.bus.device_count):
            state = self._devices[number].state
            if state:
                attention = StateHeader.from_address(state).attention
                if attention:
                    asked = Access(now=now, device=number, attention=attention, outcome=Outcome.ATTENTION)
                    self.attend(asked)

    # --- the tables ---

    def _free_handle(self) -> int:
        if self._unused < MAX_ENTRIES and len(self._removed) <= QUARANTINE:
            return self._unused
        if not self._removed:
            raise DispatchError(f"a machine has at most {MAX_ENTRIES - 1} regions")
        return next(iter(self._removed))

    def _region(self, handle: int) -> _Region:
        try:
            return self._regions[handle]
        except KeyError:
            raise DispatchError(f"no region has the handle {handle}") from None

    def _check(self, region: _Region, base: int, handle: int) -> None:
        limit = PORTS if region.space is Space.IO else 1 << 64
        if region.size < 1 or base < 0 or base + region.size > limit or region.size > 1 << 32:
            raise DispatchError(
                f"{region.name} cannot take {region.size:#x} bytes at {base:#x}: "
                f"addresses in {region.space.name.lower()} space go to {limit - 1:#x}"
            )
        other = self._overlapping(region, base, handle)
        if other is not None:
            raise DispatchError(
                f"{region.name} cannot take {region.space.name.lower()} {base:#x}.."
                f"{base + region.size - 1:#x}: {other} is there; move one of them"
            )

    def _overlapping(self, region: _Region, base: int, handle: int) -> _Region | None:
        if region.space is Space.IO:
            taken = (self._ports[port] for port in range(base, base + region.size))
            found = next((n for n in taken if n not in (0, handle)), None)
            return None if found is None else self._regions[found]
        place = bisect_left(self._mmio, base, key=lambda h: self._regions[h].base)
        neighbours = (self._regions[h] for h in self._mmio[max(place - 2, 0) : place + 2] if h != handle)
        return next((r for r in neighbours if r.base < base + region.size and base < r.end), None)

    def _map(self, handle: int) -> None:
        region = self._regions[handle]
        if region.space is Space.IO:
            self._ports[region.base : region.end] = [handle] * region.size
        else:
            self._mmio.append(handle)
            self._list_windows()

    def _unmap(self, handle: int) -> None:
        region = self._region(handle)
        if region.space is Space.IO:
            self._ports[region.base : region.end] = [0] * region.size
        else:
            self._mmio.remove(handle)
            self._list_windows()

    def _list_windows(self) -> None:
        """Write the sorted windows into a new array, so that a reader sees one or the other."""
        self._mmio.sort(key=lambda h: self._regions[h].base)
        count = len(self._mmio)
        capacity = len(self._windows) * (1 if count < len(self._windows) else 2)
        fresh = (Window * capacity)()
        fresh[0].base = count
        for place, handle in enumerate(self._mmio, 1):
            region = self._regions[handle]
            fresh[place] = Window(region.base, region.size, handle)
        self._replaced.append(self._windows)
        self._windows = fresh
        self.bus.windows = ctypes.addressof(fresh)

    def _grown(self, array: ctypes.Array[_Item]) -> ctypes.Array[_Item]:
        self._replaced.append(array)
        larger = (array._type_ * (2 * len(array)))()
        ctypes.memmove(larger, array, ctypes.sizeof(array))
        return larger
