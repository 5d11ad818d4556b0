"""Native handlers against hand-written C of the same semantics.

Both are called by one C loop through pointers of one type (drive.c), as a
dispatcher calls them. That the C twin (reference.c) answers as the device does
is checked with random accesses before anything is timed.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..compiler.driver import load
from ..runtime.instance import ALIGNMENT, NativeInstance
from .result import Benchmark, Disagreement, Report, Scale, interleave, nanoseconds
from .toolchain import library

START = 1_000_000_000
"""Virtual ns at which devices are made."""

READS = 50_000
"""Reads in one sample."""
AGREED = 4_000
"""Random accesses that both sides must answer alike."""


class Operation(ctypes.Structure):
    """`struct operation` of drive.c."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("is_write", "offset", "width", "value")]


class Run(ctypes.Structure):
    """`struct run` of drive.c."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("state", "read", "write", "operations", "count", "rounds", "now", "step", "sum")
    ]


@dataclass(frozen=True, slots=True)
class Access:
    """One access of a workload: a read if `value` is None."""

    region: str
    offset: int
    width: int = 1
    value: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What the guest does: `setup` once, then `accesses` (of one region) `step` ns apart."""

    device: str
    setup: tuple[Access, ...]
    accesses: tuple[Access, ...]
    step: int = 1_000


def _program(channel: int, mode: int, count: int) -> tuple[Access, ...]:
    """Load a channel by word access."""
    return (
        Access("pit", 3, value=channel << 6 | 0x30 | mode << 1),
        Access("pit", channel, value=count & 0xFF),
        Access("pit", channel, value=count >> 8),
    )


SOUND = (Access("b", 0, value=3), *_program(2, 3, 1193))
TICK = _program(0, 2, 0)
RUNNING = (Access("mmio", 0x10, 4, 1),)

WORKLOADS: dict[str, tuple[str, Workload]] = {
    "i8254 count, mode 2": (
        "a byte of counter 0, not latched",
        Workload("i8254", TICK, (Access("pit", 0),)),
    ),
    "i8254 count, mode 3": (
        "a byte of counter 2, not latched",
        Workload("i8254", SOUND, (Access("pit", 2),)),
    ),
    "i8254 latch and read, mode 2": (
        "latch command and both bytes of counter 0",
        Workload("i8254", TICK, (Access("pit", 3, value=0x00), Access("pit", 0), Access("pit", 0))),
    ),
    "i8254 latch and read, mode 3": (
        "latch command and both bytes of counter 2",
        Workload("i8254", SOUND, (Access("pit", 3, value=0x80), Access("pit", 2), Access("pit", 2))),
    ),
    "i8254 port 0x61": (
        "port 0x61: refresh and OUT 2",
        Workload("i8254", SOUND, (Access("b", 0),)),
    ),
    "acpi_pm timer": (
        "TMR_VAL, 4 bytes",
        Workload("acpi_pm", (), (Access("io", 8, 4),)),
    ),
    "hpet main counter, 8 bytes": (
        "the main counter",
        Workload("hpet", RUNNING, (Access("mmio", 0xF0, 8),)),
    ),
    "hpet main counter, 4 bytes": (
        "the main counter's low half",
        Workload("hpet", RUNNING, (Access("mmio", 0xF0, 4),)),
    ),
    "hpet comparator": (
        "timer 1's comparator",
        Workload("hpet", RUNNING, (Access("mmio", 0x128, 8),)),
    ),
    "mc146818 register A": (
        "register A, polled for UIP",
        Workload("mc146818", (Access("io", 0, value=0x0A),), (Access("io", 1),)),
    ),
    "mc146818 register C": (
        "register C, the flags of each 976 us cleared",
        Workload("mc146818", (Access("io", 0, value=0x0C),), (Access("io", 1),)),
    ),
}


class Side:
    """A device that C code can drive: its state and its handlers' addresses."""

    def __init__(self, state: int, symbol: Callable[[str], int], keep: object) -> None:
        """`symbol` gives the address of a function by its name without the device's."""
        self.state = state
        self.symbol = symbol
        self._keep = keep
        self.header = Header.from_address(state)

    def read(self, region: str, now: int, offset: int, width: int) -> int:
        value: int = _READ(self.symbol(f"{region}_read"))(self.state, now, offset, width)
        return value

    def write(self, region: str, now: int, offset: int, width: int, value: int) -> None:
        _WRITE(self.symbol(f"{region}_write"))(self.state, now, offset, width, value)

    def do(self, access: Access, now: int) -> int | None:
        if access.value is None:
            return self.read(access.region, now, access.offset, access.width)
        self.write(access.region, now, access.offset, access.width, access.value)
        return None


class Header(ctypes.Structure):
    """The head of the state (docs/abi.md), and the first line's rises, which both sides keep there."""

    _fields_ = [
        ("deadline", ctypes.c_uint64),
        ("settled", ctypes.c_uint64),
        ("lines", ctypes.c_uint32),
        ("attention", ctypes.c_uint32),
        ("leave", ctypes.c_uint32),
        ("watch", ctypes.c_uint32),
        ("lock", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("rises", ctypes.c_uint32),
    ]


_READ = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32)
_WRITE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64
)
_INIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
_SIZE = ctypes.CFUNCTYPE(ctypes.c_uint64)

PARAMETER = {"i8254": 1_193_182, "acpi_pm": 0, "hpet": 100_000_000, "mc146818": 0}
"""The parameter that each C twin is made with: hz, wide, hz, date."""
TWINS = {"i8254": "reference.c", "acpi_pm": "reference.c", "hpet": "timers.c", "mc146818": "timers.c"}


@cache
def _device(name: str) -> Any:
    return load(name)


def native(device: str) -> Side:
    """The compiled device."""
    kind = _device(device)
    code = kind.native()
    instance = NativeInstance(code, kind.module, START)
    return Side(instance.address, lambda name: int(code.symbol(f"{device}_{name}")), instance)


def in_c(device: str) -> Side:
    """The C twin."""
    twin = library(TWINS[device])

    def symbol(name: str) -> int:
        return ctypes.cast(twin[f"c_{device}_{name}"], ctypes.c_void_p).value or 0

    size = _SIZE(symbol("size"))()
    buffer = ctypes.create_string_buffer(size + ALIGNMENT)
    state = ctypes.addressof(buffer) + -ctypes.addressof(buffer) % ALIGNMENT
    _INIT(symbol("init"))(state, START, PARAMETER[device])
    return Side(state, symbol, buffer)


# --- do both do the same? -------------------------------------------------------

REGIONS = {"i8254": (("pit", 6), ("pit", 4), ("b", 1)), "acpi_pm": (("io", 14),)}
"""Where random accesses go: a region, and the offsets from 0 on."""
INDICES = tuple(Access("io", 0, value=index) for index in (0x0A, 0x0B, 0x0C, 0x0D))
PLACES = ((0xF0, 8), (0xF0, 4), (0xF4, 4), (0, 8), (4, 4), (0x10, 8), (0x20, 4), (0x108, 8), (0x128, 4),
          (0x100, 8), (0x110, 8), (0x160, 8), (0xF2, 4), (0xF0, 2))  # fmt: skip
POLLED: dict[str, tuple[tuple[Access, ...], tuple[Access, ...]]] = {
    "hpet": (RUNNING, tuple(Access("mmio", at, width) for at, width in PLACES)),
    "mc146818": ((), INDICES + (Access("io", 1),) * 8),
}
"""Devices of which C has the polled registers only: what is done once, and the accesses to choose from."""
WIDTHS = (1, 1, 1, 2, 4, 8, 3)
STEPS = (0, 1, 400, 838, 5_000, 60_000, 3_000_000, 90_000_000, 3_000_000_000)


def agree(device: str, accesses: int, seed: int = 1) -> None:
    """`Disagreement` at the first random access that the two sides do not answer alike."""
    chance = random.Random(seed)
    sides = (native(device), in_c(device))
    now = START
    for number in range(accesses):
        now += chance.randrange(chance.choice(STEPS) + 1)
        access = _any(device, chance, number)
        answers = [side.do(access, now) for side in sides]
        seen = [(a, s.header.lines, s.header.rises) for a, s in zip(answers, sides, strict=True)]
        if seen[0] != seen[1]:
            raise Disagreement(
                f"{device}, access {number} of seed {seed} at {now} ns: {access}: "
                f"(answer, lines, rises) native {seen[0]}, C {seen[1]}"
            )


def _any(device: str, chance: random.Random, number: int) -> Access:
    """The next access at random: any, or one of those that the C twin has."""
    if device in POLLED:
        first, then = POLLED[device]
        return first[number] if number < len(first) else chance.choice(then)
    region, size = chance.choice(REGIONS[device])
    value = chance.choice((None, None, chance.getrandbits(8), chance.getrandbits(64)))
    return Access(region, chance.randrange(size), chance.choice(WIDTHS), value)


@cache
def _agreed(device: str) -> None:
    agree(device, AGREED)


# --- timing ---------------------------------------------------------------------


def start(side: Side, work: Workload, samples: int) -> Run:
    """Set the device up, and what drive.c needs to time it. `samples`: accesses a sample."""
    now = START
    for access in work.setup:
        now += work.step
        side.do(access, now)
    region = work.accesses[0].region
    operations = (Operation * len(work.accesses))(
        *(Operation(a.value is not None, a.offset, a.width, a.value or 0) for a in work.accesses)
    )
    run = Run(
        state=side.state,
        read=side.symbol(f"{region}_read"),
        write=side.symbol(f"{region}_write"),
        operations=ctypes.addressof(operations),
        count=len(operations),
        rounds=max(1, samples // len(operations)),
        now=now,
        step=work.step,
    )
    run.keep = operations, side
    return run


def sampler(run: Run) -> Callable[[], float]:
    """A function that runs one sample and returns ns an access."""
    loops = library("drive.c")
    loop = loops.bench_read if run.count == 1 else loops.bench_sequence
    loop.restype = ctypes.c_uint64
    where = ctypes.byref(run)
    return lambda: float(loop(where)) / (run.rounds * run.count)


def empty_call() -> float:
    """ns of a call that does nothing, in the same loop."""
    loops = library("drive.c")
    nothing = ctypes.cast(loops.bench_empty, ctypes.c_void_p).value or 0
    access = Workload("i8254", (), (Access("pit", 0),))
    run = start(Side(ctypes.addressof(Run()), lambda name: nothing, None), access, READS)
    once = sampler(run)
    return min(once() for _ in range(5))


def compare(work: Workload) -> Callable[[Benchmark, Scale], Report]:
    """A benchmark's `run`: the workload on both sides."""

    def run(benchmark: Benchmark, scale: Scale) -> Report:
        _agreed(work.device)
        ours, theirs = (start(side(work.device), work, scale.of(READS)) for side in (native, in_c))
        pairs = interleave(sampler(ours), sampler(theirs), scale.pairs)
        if ours.sum != theirs.sum:
            raise Disagreement(f"{benchmark.name}: native and C read different values")
        return Report(
            benchmark.judge(pairs.ratios()),
            nanoseconds(min(pairs.ours)),
            nanoseconds(min(pairs.theirs)),
            f"empty handler {nanoseconds(empty_call())}",
        )

    return run


BENCHMARKS = tuple(
    Benchmark(
        f"native/C: {name}",
        1.1,
        "at most",
        f"time of the native handler / of hand-written C (gcc -O3), an access: {what}",
        compare(work),
    )
    for name, (what, work) in WORKLOADS.items()
)
