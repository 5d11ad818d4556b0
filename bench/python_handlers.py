"""Native handlers against the same devices as handlers written in Python.

The handlers here are what one writes for a Python device model: the registers
that guests poll and all that a read of them depends on, with the settle check
and exact ticks. Each side is called in its own language: no exit, no
foreign-function interface. What calls from Python into native code cost is
printed beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..compiler.ir import NEVER, SECOND
from ..runtime.instance import NativeInstance
from . import handlers
from .handlers import READS, START, WORKLOADS, Side, Workload, sampler
from .result import Benchmark, Disagreement, Report, Scale, interleave, nanoseconds

PIT_HZ, PM_HZ = 1_193_182, 3_579_545
CALLS = 2_000
"""Python calls in one sample."""
T_MASK = (1 << 56) - 1


class Handler(Protocol):
    """A device in Python."""

    def read(self, now: int, offset: int, width: int) -> int: ...


LSB, MSB = 1, 2
"""Access modes; any other is both, low byte first."""


class PythonCounter:
    """What one counter of an 8254 holds."""

    __slots__ = (
        "access",
        "bcd",
        "count_held",
        "counting",
        "high_next",
        "mode",
        "reload",
        "start",
        "status_held",
        "stopped_at",
    )

    def __init__(self) -> None:
        self.mode, self.reload, self.bcd = 0, 65_536, False
        self.access = LSB | MSB
        self.counting, self.start, self.stopped_at = False, 0, 0
        self.high_next = False
        self.count_held: int | None = None
        self.status_held: int | None = None


class PythonPit:
    """The counters of an 8254 as a Python device model has them."""

    def __init__(self, now: int) -> None:
        self.deadline = NEVER
        self.counters = [PythonCounter() for _ in range(3)]

    def program(self, now: int, number: int, mode: int, count: int) -> None:
        """Load a counter; it counts from the next CLK on."""
        counter = self.counters[number]
        counter.mode, counter.reload, counter.counting = mode, count, True
        counter.start = now * PIT_HZ // SECOND + 1

    def settle(self, now: int) -> None:
        """Counters that drive no line have nothing to settle."""

    def count(self, counter: PythonCounter, now: int) -> int:
        ticks = counter.stopped_at
        if counter.counting:
            ticks = now * PIT_HZ // SECOND - counter.start & T_MASK
        reload = counter.reload
        if counter.mode == 2:
            left = reload - ticks % reload
        elif counter.mode == 3:
            position, high = ticks % reload, (reload + 1) // 2
            left = max((reload & ~1) - 2 * (position if position < high else position - high), 0)
        else:
            left = (reload - ticks) % (10_000 if counter.bcd else 65_536)
        return int(str(left % 10_000), 16) if counter.bcd else left & 0xFFFF

    def data(self, counter: PythonCounter, now: int) -> int:
        if counter.status_held is not None:
            status, counter.status_held = counter.status_held, None
            return status
        value = counter.count_held
        if value is None:
            value = self.count(counter, now)
        if counter.access == LSB:
            counter.count_held = None
            return value & 0xFF
        if counter.access == MSB:
            counter.count_held = None
            return value >> 8
        counter.high_next = not counter.high_next
        if counter.high_next:
            return value & 0xFF
        counter.count_held = None
        return value >> 8

    def read(self, now: int, offset: int, width: int) -> int:
        if now >= self.deadline:
            self.settle(now)
        if width == 1:
            return self.data(self.counters[offset], now) if offset < 3 else 0xFF
        return sum(self.read(now, offset + i, 1) << 8 * i for i in range(width))


class PythonPmTimer:
    """An ACPI PM timer as a Python device model has it."""

    def __init__(self, now: int, bits: int = 24) -> None:
        self.start = now * PM_HZ // SECOND
        self.mask: int = 2**bits - 1
        self.status = False
        self.deadline = 0
        self.settle(now)
        self.status = False

    def settle(self, now: int) -> None:
        """The top bit has toggled; when it does next."""
        self.status = True
        ticks = now * PM_HZ // SECOND
        half = (self.mask + 1) // 2
        due = ticks + half - (ticks - self.start) % half
        self.deadline = -(-due * SECOND // PM_HZ)

    def read(self, now: int, offset: int, width: int) -> int:
        if now >= self.deadline:
            self.settle(now)
        if offset == 8 and width == 4:
            return now * PM_HZ // SECOND - self.start & self.mask
        value = self.status | (now * PM_HZ // SECOND - self.start & self.mask) << 64
        return value >> 8 * offset & (1 << 8 * width) - 1


class PythonNothing:
    """What no Python handler can be faster than."""

    def read(self, now: int, offset: int, width: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A workload whose reads Python can serve, and the device in Python after its set-up."""

    workload: str
    make: Callable[[], Handler]


def _pit(number: int, mode: int, count: int) -> Callable[[], Handler]:
    def make() -> Handler:
        pit = PythonPit(START)
        work = WORKLOADS[f"i8254 count, mode {mode}"][1]
        # the high byte of the count is the last access of the set-up
        pit.program(START + len(work.setup) * work.step, number, mode, count)
        return pit

    return make


SUBJECTS = (
    Subject("i8254 count, mode 2", _pit(0, 2, 65_536)),
    Subject("i8254 count, mode 3", _pit(2, 3, 1193)),
    Subject("acpi_pm timer", lambda: PythonPmTimer(START)),
)


class Clocked:
    """A handler called from a Python loop, time going on between calls."""

    def __init__(self, handler: Handler, work: Workload) -> None:
        self.handler = handler
        self.access = work.accesses[0]
        self.step = work.step
        self.now = START + len(work.setup) * work.step

    def sample(self, calls: int) -> float:
        """ns a call."""
        read, now, step = self.handler.read, self.now, self.step
        offset, width = self.access.offset, self.access.width
        start = time.perf_counter_ns()
        for _ in range(calls):
            read(now, offset, width)
            now += step
        taken = time.perf_counter_ns() - start
        self.now = now
        return taken / calls


class FromPython:
    """The native handler, called from Python through ctypes."""

    def __init__(self, work: Workload) -> None:
        device = handlers._device(work.device)
        self.instance = NativeInstance(device.native(), device.module, START)
        self.region = work.accesses[0].region

    def read(self, now: int, offset: int, width: int) -> int:
        return self.instance.read(self.region, now, offset, width)


def agree(subject: Subject, reads: int) -> None:
    """`Disagreement` at the first read that Python answers otherwise than the device."""
    work = WORKLOADS[subject.workload][1]
    device, python = handlers.native(work.device), subject.make()
    now = _set_up(device, work)
    access = work.accesses[0]
    for number in range(reads):
        now += work.step * (1 + number * number % 5_003)
        answers = device.do(access, now), python.read(now, access.offset, access.width)
        if answers[0] != answers[1]:
            raise Disagreement(f"{subject.workload}, read {number} at {now} ns: native, Python = {answers}")


def _set_up(device: Side, work: Workload) -> int:
    now = START
    for access in work.setup:
        now += work.step
        device.do(access, now)
    return now


def compare(subject: Subject) -> Callable[[Benchmark, Scale], Report]:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        agree(subject, 2_000)
        work = WORKLOADS[subject.workload][1]
        calls = scale.of(CALLS)
        native = sampler(handlers.start(handlers.native(work.device), work, scale.of(READS)))
        python = Clocked(subject.make(), work)
        pairs = interleave(native, lambda: python.sample(calls), scale.pairs)
        nothing = Clocked(PythonNothing(), work)
        foreign = Clocked(FromPython(work), work)
        limits = (
            f"Python handler that does nothing {nanoseconds(min(nothing.sample(calls) for _ in range(5)))}, "
            f"native through ctypes {nanoseconds(min(foreign.sample(calls) for _ in range(5)))}"
        )
        return Report(
            benchmark.judge(pairs.ratios(inverse=True)),
            nanoseconds(min(pairs.ours)),
            nanoseconds(min(pairs.theirs)),
            limits,
        )

    return run


BENCHMARKS = tuple(
    Benchmark(
        f"Python/native: {subject.workload}",
        50,
        "at least",
        "time of a handler written in Python, called from Python / of the native handler, called from C: "
        + WORKLOADS[subject.workload][0],
        compare(subject),
    )
    for subject in SUBJECTS
)
