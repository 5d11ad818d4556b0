"""Devices hammered by native threads, what they did recorded and replayed (hammer.c)."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from ctypes import c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from devc.compiler.jit import NativeCode
from devc.runtime.bus import CLOCK_RUNNING, Access, Space
from devc.runtime.device import Device, DeviceType
from devc.runtime.dispatch import Dispatcher, lane
from devc.runtime.dispatch_code import native
from devc.runtime.instance import NativeInstance
from devc.runtime.lines import NativeSink
from devc.runtime.machine import Machine

from .native_board import NativeBoard

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")

KINDS = ("read", "write", "settle", "commit", "save")
CAPACITY = 800_000
_HEAD = slice(20, 40)
"""Of the head, what callers take and clear: attention, leave, watch, lock, version."""


class Event(ctypes.Structure):
    _fields_ = [
        ("now", c_uint64),
        ("value", c_uint64),
        ("offset", c_uint32),
        ("width", c_uint32),
        ("kind", c_uint32),
        ("region", c_uint32),
        ("version", c_uint32),
        ("device", c_uint32),
    ]
    version: int
    device: int


def room(count: int) -> ctypes.Array[Event]:
    """Zeros, which take memory only where something is written."""
    return (Event * count).from_buffer(mmap.mmap(-1, max(count, 1) * ctypes.sizeof(Event)))


class Log(ctypes.Structure):
    """Room for events, and how many there were."""

    _fields_ = [("events", c_void_p), ("capacity", c_uint64), ("count", c_uint64)]
    count: int

    @classmethod
    def of(cls, events: ctypes.Array[Event], count: int = 0) -> Log:
        return cls(ctypes.addressof(events), len(events), count)


class LoggedDevice(ctypes.Structure):
    """One device in the C file: `Device` there."""

    _fields_ = [
        ("log", Log),
        ("state", c_void_p),
        ("settle", c_void_p),
        ("commit", c_void_p),
        ("save", c_void_p),
        ("inputs", c_uint32 * 8),
        ("input_count", c_uint32),
        ("pad", c_uint32),
    ]


class LoggedRegion(ctypes.Structure):
    _fields_ = [
        ("read", c_void_p),
        ("write", c_void_p),
        ("device", c_void_p),
        ("number", c_uint32),
        ("pad", c_uint32),
    ]


class Place(ctypes.Structure):
    """Where an access may go, and what may be written there."""

    _fields_ = [
        ("address", c_uint64),
        ("values", c_uint64),
        ("space", c_uint32),
        ("width", c_uint32),
        ("write", c_uint32),
        ("weight", c_uint32),
    ]


class Thread(ctypes.Structure):
    _fields_ = [
        ("bus", c_void_p),
        ("access", c_void_p),
        ("places", c_void_p),
        ("serve", c_void_p),
        ("settle", c_void_p),
        ("earliest", c_void_p),
        ("present", c_void_p),
        ("deadline", c_void_p),
        ("moved", c_void_p),
        ("missing", c_void_p),
        ("quiet", Log),
        ("random", c_uint64),
        ("left", c_uint64),
        ("made", c_uint64),
        ("place_count", c_uint32),
        ("phase", c_uint32),
    ]


class Told(ctypes.Structure):
    """What a native sink heard: edges, and calls that were none or came during another."""

    _fields_ = [("edges", c_uint64), ("wrong", c_uint64), ("level", c_uint32), ("busy", c_uint32)]


@cache
def library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="devc-hammer-") as folder:
        built = Path(folder) / "hammer.so"
        source = Path(__file__).with_name("hammer.c")
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", str(source), "-o", str(built)], check=True
        )
        loaded = ctypes.CDLL(str(built))
    for name, result, arguments in (
        ("hammer_device", ctypes.POINTER(LoggedDevice), (c_uint32,)),
        ("hammer_region", ctypes.POINTER(LoggedRegion), (c_uint32,)),
        ("hammer_wrapper", c_void_p, (c_uint32, c_uint32)),
        ("hammer_clock", None, (c_uint64, c_uint64)),
        ("hammer_run", c_uint32, (c_void_p,)),
        ("hammer_gather", None, (c_void_p, c_void_p, c_uint32)),
        ("hammer_replay", c_uint64, (c_void_p, c_void_p, c_void_p, c_uint64, c_void_p, c_void_p, c_void_p)),
    ):
        getattr(loaded, name).restype, getattr(loaded, name).argtypes = result, arguments
    return loaded


def address(function: Any) -> int:
    return ctypes.cast(function, c_void_p).value or 0


@dataclass
class Replay:
    """Events recorded, and how many of them a serial replay agrees with up to the first that it does
    not; the same of reads without the lock; the state at the end here and there."""

    events: int
    agreed: int
    quiet: int
    quiet_agreed: int
    here: bytes
    there: bytes


class RecordedCode:
    """A device's code whose functions are the recording wrappers."""

    def __init__(self, board: Recorder, type: DeviceType) -> None:
        module, code = type.module, type.native()
        self.number = len(board.recorded)
        self.plain: NativeCode = code
        self.logged: LoggedDevice = library().hammer_device(self.number).contents
        self.events = room(CAPACITY)
        self.logged.log = Log.of(self.events)
        self.logged.input_count = 0
        self._wrapped: dict[str, int] = {}
        for kind in ("settle", "commit", "save"):
            setattr(self.logged, kind, code.symbol(f"{module.name}_{kind}"))
            self._wrap(f"{module.name}_{kind}", kind, self.number)
        self.windows = (LoggedRegion * len(module.regions))()
        for place, region in enumerate(module.regions):
            name = f"{module.name}_{region.name}"
            window = LoggedRegion(
                code.symbol(f"{name}_read"),
                code.symbol(f"{name}_write"),
                ctypes.addressof(self.logged),
                place,
            )
            self.windows[place] = window
            library().hammer_region(board.region_count)[0] = window
            self._wrap(f"{name}_read", "read", board.region_count)
            self._wrap(f"{name}_write", "write", board.region_count)
            board.region_count += 1

    def _wrap(self, name: str, kind: str, number: int) -> None:
        self._wrapped[name] = library().hammer_wrapper(KINDS.index(kind), number)

    def symbol(self, name: str) -> int:
        return self._wrapped.get(name) or self.plain.symbol(name)


class Recorder:
    """Makes a machine's instances, all of whose functions are recorded: `Machine(make=...)`."""

    def __init__(self) -> None:
        self.recorded: dict[str, RecordedCode] = {}
        self.region_count = 0
        self.quiet: list[tuple[Log, ctypes.Array[Event]]] = []
        self.begun: dict[str, bytes] = {}

    def make(self, type: DeviceType, engine: object, now: int, params: Mapping[str, int]) -> NativeInstance:
        code = RecordedCode(self, type)
        self.recorded[type.module.name] = code
        instance = NativeInstance(code, type.module, now, **params)  # type: ignore[arg-type]
        code.logged.state = instance.address
        return instance

    def begin(self, machine: Machine) -> None:
        """What happened so far is not in the logs."""
        for name, code in self.recorded.items():
            device = machine.devices[name]
            places = {given.entry.place >> 3 for given in device.inputs.values() if given.driven}
            code.logged.input_count = len(places)
            code.logged.inputs[: len(places)] = sorted(places)
            code.logged.log.count = 0
            self.begun[name] = device.instance.state

    def replayed(self, machine: Machine, name: str) -> Replay:
        """A serial replay of what a device did."""
        code, device = self.recorded[name], machine.devices[name]
        count = code.logged.log.count
        assert count <= CAPACITY, f"{name}: the log is too short for {count} events"
        reads = Log.of(events := room(sum(log.count for log, _ in self.quiet)))
        for log, _ in self.quiet:
            library().hammer_gather(ctypes.byref(reads), ctypes.byref(log), code.number)
        assert reads.count <= len(events)
        state = ctypes.create_string_buffer(self.begun[name], len(self.begun[name]))
        scratch = ctypes.create_string_buffer(2 * len(state))
        quietly = c_uint64()
        agreed = library().hammer_replay(
            ctypes.addressof(code.logged),
            ctypes.addressof(code.windows),
            state,
            len(state),
            scratch,
            ctypes.byref(reads),
            ctypes.byref(quietly),
        )
        return Replay(count, agreed, reads.count, quietly.value, _own(device.instance.state), _own(state.raw))


class HammeredBoard(Recorder):
    """Devices on a machine and a dispatcher; every call into one is in its log."""

    def __init__(self, devices: Mapping[str, Mapping[str, int]], vcpus: int, pace: int = 300) -> None:
        super().__init__()
        library().hammer_clock(1000, pace)
        self.dispatcher = Dispatcher(vcpus)
        clock = self.dispatcher.clock
        clock.mode, clock.gettime = CLOCK_RUNNING, address(library().hammer_gettime)
        self.machine = Machine(self, make=self.make)
        for name, params in devices.items():
            self.machine.add(name, **params)
        self.told: dict[str, Told] = {}
        self.places: list[Place] = []
        self.errors: list[BaseException] = []

    # A clock, as Machine takes one.
    @property
    def now(self) -> int:
        return self.dispatcher.now()

    def set(self, now: int) -> None:
        library().hammer_clock(now, 0)

    def sink(self, line: str) -> None:
        """Have a native sink listen to a line."""
        told = self.told[line] = Told()
        self.machine.wire(line, NativeSink(address(library().hammer_sink), ctypes.addressof(told), keep=told))

    def start(self) -> None:
        """Put the devices before the native dispatcher; what happened so far is not in the logs."""
        self.board = NativeBoard(self.machine, self.dispatcher)
        self.begin(self.machine)

    # --- threads ---

    def offer(self, space: Space, base: int, offset: int, width: int, *values: int, weight: int = 1) -> None:
        """Let threads read a place, or write to it what has only bits of `values`."""
        for value in (None, *values):
            place = Place(base + offset, value or 0, space, width, value is not None)
            self.places += [place] * weight

    def run(self, accesses: int, vcpus: int, beside: Sequence[Any] = ()) -> None:
        """Let `vcpus` native threads make that many accesses each, while each function of `beside`
        is called over and over by a thread of Python's."""
        places = (Place * len(self.places))(*self.places)
        over, missing = threading.Event(), c_uint32(vcpus)
        threads = [
            threading.Thread(target=self._guard, args=(self._vcpu, number, accesses, places, missing))
            for number in range(vcpus)
        ]
        helpers = [threading.Thread(target=self._guard, args=(self._repeat, what, over)) for what in beside]
        for thread in (*threads, *helpers):
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        for thread in helpers:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _guard(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:
            self.errors.append(error)

    @staticmethod
    def _repeat(what: Any, over: threading.Event) -> None:
        while not over.is_set():
            what()

    def _vcpu(self, number: int, accesses: int, places: ctypes.Array[Place], missing: c_uint32) -> None:
        access = Access(lane=lane(number))
        symbol, bus = native().symbol, self.dispatcher.bus
        thread = Thread(
            self.dispatcher.address,
            ctypes.addressof(access),
            ctypes.addressof(places),
            symbol("devc_access"),
            symbol("devc_settle"),
            symbol("devc_earliest"),
            symbol("devc_now"),
            self.dispatcher.address + type(bus).deadline.offset,
            self.dispatcher.address + type(bus).moved.offset,
            ctypes.addressof(missing),
            quiet=Log.of(quiet := room(accesses)),
            random=0x9E3779B97F4A7C15 * (number + 1) % 2**64,
            left=accesses,
            place_count=len(places),
        )
        run = library().hammer_run
        while run(ctypes.addressof(thread)):
            self.dispatcher.attended(access)
        self.quiet.append((thread.quiet, quiet))

    def settle(self) -> None:
        """Account for all that is due, and have it told."""
        self.machine.service()
        for device in self.machine.devices.values():
            self.machine.attend(device, self.machine.now)

    def rises(self, line: str) -> int:
        name, _, _ = line.partition(".")
        device: Device = self.machine.devices[name]
        return device.instance.rises[self.machine.line(line).bit]


def _own(state: bytes) -> bytes:
    """A state without attention, leave, watch, lock and version."""
    return state[: _HEAD.start] + state[_HEAD.stop :]
