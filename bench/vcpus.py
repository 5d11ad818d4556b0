"""The KVM loop as a VMM uses it: lines, deadlines, posted writes, several vCPUs.

A sample is one run of a guest that does the same over and over; where two vCPUs are
timed, the guest takes the time itself, so that starting threads is not measured.

Non-goals: the bare loop (guests.py), other VMMs (qemu.py).
"""

from __future__ import annotations

import ctypes
import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..runtime.assemble import assemble
from ..runtime.clock import HostClock
from ..runtime.hosts import HostError, Reason
from ..runtime.hosts import kvm_abi as abi
from ..runtime.hosts.start import Start
from ..runtime.machine import Machine
from ..runtime.vmm import Vmm
from .guests import ADDRESS, KVM_PAIRS, KVM_READS, PIT, PM_TIMER, TIMERS, WHAT, Guest, calm, exit_loop, guest
from .python_handlers import PythonPit
from .result import Benchmark, Disagreement, Report, Scale, Unavailable, interleave, nanoseconds

# --- lines, deadlines and locks -----------------------------------------------------

PC_TIMERS = (*TIMERS, "mc146818", "hpet", "i8259")
TICK = 11_932
"""Counter 0's period: a deadline each 10 ms, with a line that leads to the 8259."""
PROGRAMMED = (
    *((0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xFF)),
    *((0x43, 0x34), (0x40, TICK & 0xFF), (0x40, TICK >> 8)),
)


def wire(vmm: Vmm) -> None:
    """Timers into an 8259 pair, that into the vCPU; ticks end there, masked, as the guest wants none."""
    vmm.connect_pic()
    for line, number in (("i8254.irq0", 0), ("mc146818.irq8", 8), ("acpi_pm.sci", 9)):
        vmm.machine.wire(line, f"i8259.ir[{number}]")
    for port, value in PROGRAMMED:
        vmm.machine.write("io", port, 1, value)


def wired_loop(port: int, width: int) -> Callable[[Benchmark, Scale], Report]:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        loop = exit_loop("bench_syscall_loop")
        reads = scale.of(KVM_READS)
        with guest("kvm", port, width, reads, PC_TIMERS) as ours, guest("kvm", port, width, reads) as plain:
            wire(ours.vmm)
            pairs = interleave(ours.ours, lambda: plain.in_c(loop), KVM_PAIRS * scale.pairs)
            line = ours.machine.line("i8254.irq0")
            heavy = sum(count.heavy for count in ours.vmm.counts())
        if not line.edges or heavy:
            raise Disagreement(f"{benchmark.name}: {line.edges} edges, {heavy} accesses in Python")
        limits = f"{line.edges // 2} ticks, all in native code"
        return Report(
            benchmark.judge(pairs.ratios()),
            nanoseconds(min(pairs.ours)),
            nanoseconds(min(pairs.theirs)),
            limits,
        )

    return run


# --- posted writes -------------------------------------------------------------------

RTC_READS = """
        movl    ${rounds}, %ecx
1:
        .rept   {unrolled}
        movb    $0x0d, %al
        outb    %al, $0x70
        inb     $0x71, %al
        .endr
        subl    $1, %ecx
        jnz     1b
        hlt
"""
RTC_UNROLLED = 10


class RtcGuest(Guest):
    """A guest that reads an RTC register: its index, then its data."""

    def __init__(self, reads: int, posted: bool) -> None:
        super().__init__("kvm", PIT, 1, reads, ("mc146818", "i8254"))
        text = RTC_READS.format(rounds=reads // RTC_UNROLLED, unrolled=RTC_UNROLLED)
        self.vmm.host.load(assemble(text, ADDRESS), ADDRESS)
        if not posted:
            for line in self.machine.devices["mc146818"].lines:
                # Whose level an index write may change; somebody looks at it now.
                self.machine.wire(line.path, lambda level, now: None)

    @property
    def posted(self) -> int:
        return sum(count.posted for count in self.vmm.counts())


def posted_writes(benchmark: Benchmark, scale: Scale) -> Report:
    reads = scale.of(KVM_READS)
    posting, plain = RtcGuest(reads, True), RtcGuest(reads, False)
    try:
        pairs = interleave(posting.ours, plain.ours, KVM_PAIRS * scale.pairs)
        if plain.posted or posting.posted < posting.reads:
            raise Disagreement(f"{benchmark.name}: {posting.posted} and {plain.posted} writes were posted")
    finally:
        posting.close()
        plain.close()
    return Report(
        benchmark.judge(pairs.ratios()),
        nanoseconds(min(pairs.ours)),
        nanoseconds(min(pairs.theirs)),
        f"{posting.posted} index writes posted",
    )


# --- several vCPUs -----------------------------------------------------------------------

CODE, AP_CODE, GO, DONE, TIMES = 0x10000, 0x8000, 0x9000, 0x9004, 0x9010
VCPU_READS = 2_000

# Each vCPU waits for the other, then notes the PM timer, reads it over and over, notes it again.
READER = """
        lock incl {go}
1:      cmpl    ${vcpus}, {go}
        jb      1b
        movw    ${port}, %dx
        inl     %dx, %eax
        movl    %eax, {times}
        movl    ${rounds}, %ecx
2:
        .rept   {unrolled}
        inl     %dx, %eax
        .endr
        subl    $1, %ecx
        jnz     2b
        movl    %eax, {times} + 4
        lock incl {done}
"""
# The local APIC on; INIT and a start-up message to the other vCPU.
FIRST = """
        movl    $0, {go}
        movl    $0, {done}
        movl    $0x1ff, 0xfee000f0
        movl    $0x000c4500, 0xfee00300
        movl    $0x000c4608, 0xfee00300
"""
LAST = """
3:      cmpl    ${vcpus}, {done}
        jb      3b
        outb    %al, $0xf4
        cli
        hlt
"""
PM_TIMER_HZ, HALF = 3_579_545, 1 << 23


class Readers:
    """Two vCPUs, of which one or both read the PM timer."""

    def __init__(self, reads: int) -> None:
        self.rounds = reads // 10
        self.machine = Machine(HostClock())
        self.machine.add("acpi_pm")
        try:
            self.vmm = Vmm(self.machine, "kvm", 1 << 20, vcpus=2, irqchip="kernel")
        except HostError as error:
            raise Unavailable(str(error)) from None
        self.vmm.exit_port()

    def close(self) -> None:
        self.vmm.close()

    def reads_a_second(self, vcpus: int) -> float:
        """Both vCPUs' reads together, from the first one's begin to the last one's end."""
        for number in range(2):
            self._load(number, vcpus)
        self.vmm.host.start(Start("flat32", CODE))
        ended = self.vmm.run(until=self.machine.now + 60_000_000_000)
        if ended.reason is not Reason.STOPPED:
            raise Disagreement(f"the guest should have left by its port: {ended}")
        data = self.vmm.host.read(TIMES, 8 * vcpus)
        noted = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
        # The timer has 24 bits and may have wrapped meanwhile.
        since = [(tick - noted[0] + HALF) % (2 * HALF) - HALF for tick in noted]
        return vcpus * 10 * self.rounds * PM_TIMER_HZ / (max(since) - min(since))

    def _load(self, number: int, vcpus: int) -> None:
        names = {"go": GO, "done": DONE, "port": PM_TIMER, "unrolled": 10, "rounds": self.rounds}
        reader = READER.format(**names, vcpus=vcpus, times=TIMES + 8 * number)
        if number == 0:
            text = FIRST.format(**names) + reader + LAST.format(**names, vcpus=vcpus)
            self.vmm.host.load(assemble(text, CODE, 32), CODE)
        else:
            text = "xorw %ax, %ax\n movw %ax, %ds\n" + (reader if vcpus == 2 else "") + "cli\n hlt"
            self.vmm.host.load(assemble(text, 0), AP_CODE)


def two_vcpus(benchmark: Benchmark, scale: Scale) -> Report:
    readers = Readers(scale.of(VCPU_READS))
    try:
        pairs = interleave(lambda: readers.reads_a_second(2), lambda: readers.reads_a_second(1), scale.pairs)
    finally:
        readers.close()
    both, one = max(pairs.ours), max(pairs.theirs)
    return Report(
        benchmark.judge(pairs.ratios()),
        nanoseconds(1e9 / both),
        nanoseconds(1e9 / one),
        f"{both:,.0f} and {one:,.0f} reads a second",
    )


# --- a loop in Python, beside a busy thread ---------------------------------------------------

PYTHON_READS = 1_000
"""In one sample: so many that some of them find the interpreter taken."""


class PythonLoop:
    """What one writes first: KVM_RUN, look why, call a handler, all in Python."""

    def __init__(self, running: Guest) -> None:
        cpu = running.vmm.kvm.cpus[0]
        self.guest, self.fd, self.page = running, cpu.fd, int(cpu.block.run)
        self.head = abi.RunHead.from_address(self.page)
        self.handler = PythonPit(time.monotonic_ns())
        self.handler.program(time.monotonic_ns(), 1, 2, 65_536)

    def sample(self) -> float:
        """ns a read."""
        self.guest.vmm.host.boot(ADDRESS)
        head, reads = self.head, 0
        start = time.perf_counter_ns()
        while True:
            fcntl.ioctl(self.fd, abi.RUN)
            if head.exit_reason != abi.KernelExit.IO:
                break
            value = self.handler.read(time.monotonic_ns(), head.io_port - PIT, head.io_size)
            ctypes.c_uint8.from_address(self.page + head.io_data_offset).value = value
            reads += 1
        taken = time.perf_counter_ns() - start
        if head.exit_reason != abi.KernelExit.HLT or reads != self.guest.reads:
            raise Disagreement(f"Python's loop: exit {head.exit_reason} after {reads} accesses")
        return taken / reads


@contextmanager
def busy() -> Iterator[None]:
    """Another Python thread that never rests."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def beside_a_busy_thread(benchmark: Benchmark, scale: Scale) -> Report:
    reads = scale.of(PYTHON_READS)
    with (
        guest("kvm", PIT + 1, 1, reads) as ours,
        guest("kvm", PIT + 1, 1, reads) as other,
        calm(),
    ):
        loop = PythonLoop(other)
        alone = min(loop.sample() for _ in range(5))
        with busy():
            pairs = interleave(ours.ours, loop.sample, max(6, scale.pairs // 5))
    return Report(
        benchmark.judge(pairs.ratios(inverse=True)),
        nanoseconds(min(pairs.ours)),
        nanoseconds(min(pairs.theirs)),
        f"Python's loop alone {nanoseconds(alone)}",
    )


LINES = "lines, deadlines and locks in native code"

BENCHMARKS = (
    Benchmark(
        "KVM loop with lines/inline syscall loop: i8254",
        1.03,
        "at most",
        f"{WHAT}: our loop with {LINES}, serving a counter / a C loop, handler empty",
        wired_loop(PIT + 1, 1),
    ),
    Benchmark(
        "KVM loop with lines/inline syscall loop: acpi_pm",
        1.03,
        "at most",
        f"{WHAT}: our loop with {LINES}, serving the PM timer / a C loop, handler empty",
        wired_loop(PM_TIMER, 4),
    ),
    Benchmark(
        "RTC register: posted/unposted index write",
        0.65,
        "at most",
        "time of a guest's read of an RTC register: index writes wait in KVM's ring / each is an exit",
        posted_writes,
    ),
    Benchmark(
        "PM timer reads: two vCPUs/one",
        1.8,
        "at least",
        "reads a second of two vCPUs together / of one, the other halted",
        two_vcpus,
    ),
    Benchmark(
        "Python loop/ours, beside a busy Python thread",
        10,
        "at least",
        f"{WHAT}: a loop in Python / ours, another Python thread computing",
        beside_a_busy_thread,
    ),
)
