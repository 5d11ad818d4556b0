"""A guest that reads one port over and over, on our hosts and on what they are measured against.

The same guest on the same hypervisor runs under each loop in turn, each with a
vCPU of its own. Ours serves every read by a compiled device, counts it, and asks
what time it is; the loops in C (exits.c) call a handler that does nothing.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..runtime.assemble import assemble
from ..runtime.clock import HostClock
from ..runtime.hosts import Exit, HostError, Reason
from ..runtime.machine import Machine
from ..runtime.vmm import Vmm
from .python_handlers import PythonPit
from .result import Benchmark, Disagreement, Pairs, Report, Scale, Unavailable, interleave, nanoseconds
from .toolchain import library

ADDRESS = 0x1000
PIT, PM_TIMER, NOBODY = 0x40, 0x608, 0x80
KVM_READS, UNICORN_READS = 500, 20_000
"""Reads in one sample: on KVM so few that a sample is shorter than a time slice."""
KVM_PAIRS = 3
"""As many pairs on KVM for each elsewhere: the difference looked for is small."""

GUEST = """
        movw    ${port}, %dx
        movl    ${rounds}, %ecx
1:
        .rept   {unrolled}
        {instruction}
        .endr
        subl    $1, %ecx
        jnz     1b
        hlt
"""
INSTRUCTIONS = {1: "inb %dx, %al", 4: "inl %dx, %eax"}
UNROLLED = 10
"""Reads for each turn of the guest's loop, so that it is they that are measured."""


class PlainGuest(ctypes.Structure):
    """`struct guest` of exits.c."""

    _fields_ = [
        ("fd", ctypes.c_int32),
        ("run", ctypes.c_void_p),
        ("handler", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("accesses", ctypes.c_int64),
    ]


TIMERS = ("i8254", "acpi_pm")


class Guest:
    """A machine with devices, running `reads` reads of a port on a host."""

    def __init__(self, host: str, port: int, width: int, reads: int, devices: Sequence[str] = TIMERS) -> None:
        """`Unavailable` if the host does not work here."""
        self.reads = reads - reads % UNROLLED
        self.machine = Machine(HostClock())
        for device in devices:
            self.machine.add(device)
        try:
            self.vmm = Vmm(self.machine, host)
        except HostError as error:
            raise Unavailable(str(error)) from None
        text = GUEST.format(
            port=port, rounds=self.reads // UNROLLED, unrolled=UNROLLED, instruction=INSTRUCTIONS[width]
        )
        self.image = assemble(text, ADDRESS)
        self.vmm.host.load(self.image, ADDRESS)
        # a counter that runs, and drives no line
        for address, value in ((0x61, 1), (0x43, 0x74), (0x41, 0), (0x41, 0)):
            self.machine.write("io", address, 1, value)

    def close(self) -> None:
        self.vmm.close()

    def ours(self) -> float:
        """ns a read of our loop."""
        self.vmm.host.boot(ADDRESS)
        start = time.perf_counter_ns()
        ended = self.vmm.run()
        taken = time.perf_counter_ns() - start
        self._check(ended)
        return taken / self.reads

    def in_c(self, loop: Callable[[Any], int]) -> float:
        """ns a read of a loop of exits.c."""
        host: Any = self.vmm.host
        host.boot(ADDRESS)
        nothing = ctypes.cast(library("exits.c").bench_no_handler, ctypes.c_void_p).value
        plain = PlainGuest(host.cpus[0].fd, host.cpus[0].block.run, nothing, None, 0)
        start = time.perf_counter_ns()
        status = loop(ctypes.byref(plain))
        taken = time.perf_counter_ns() - start
        if status or plain.accesses != self.reads:
            raise Disagreement(f"C's loop: status {status} after {plain.accesses} of {self.reads} accesses")
        return taken / self.reads

    def _check(self, ended: Exit) -> None:
        if ended.reason is not Reason.HALTED:
            raise Disagreement(f"the guest should have halted: {ended}")


@contextmanager
def guest(host: str, port: int, width: int, reads: int, devices: Sequence[str] = TIMERS) -> Iterator[Guest]:
    made = Guest(host, port, width, reads, devices)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def calm() -> Iterator[None]:
    """Without the garbage collector while Python is timed."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


# --- KVM ------------------------------------------------------------------------


def exit_loop(name: str) -> Callable[[Any], int]:
    """A loop of exits.c."""
    function = library("exits.c")[name]
    function.restype = ctypes.c_int64
    call: Callable[[Any], int] = function
    return call


def kvm(loop_name: str, port: int, width: int) -> Callable[[Benchmark, Scale], Report]:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        loop = exit_loop(loop_name)
        reads = scale.of(KVM_READS)
        with guest("kvm", port, width, reads) as ours, guest("kvm", port, width, reads) as plain:
            pairs = interleave(ours.ours, lambda: plain.in_c(loop), KVM_PAIRS * scale.pairs)
            served = sum(count.light for count in ours.vmm.counts() if count.access == "read")
        if served < ours.reads * scale.pairs:
            raise Disagreement(f"{benchmark.name}: {served} reads were served by compiled handlers")
        with guest("kvm", NOBODY, 1, reads) as nothing:
            bare = min(nothing.ours() for _ in range(5))
        return _report(benchmark, pairs, False, f"our loop at a port nobody claims {nanoseconds(bare)}")

    return run


def _report(benchmark: Benchmark, pairs: Pairs, inverse: bool, limits: str) -> Report:
    return Report(
        benchmark.judge(pairs.ratios(inverse)),
        nanoseconds(min(pairs.ours)),
        nanoseconds(min(pairs.theirs)),
        limits,
    )


# --- Unicorn --------------------------------------------------------------------


def python_emulator(image: bytes, reads: int, callback: Callable[..., int]) -> Callable[[], float]:
    """A function that runs the guest in Unicorn with a Python callback: ns a read."""
    unicorn: Any = importlib.import_module("unicorn")
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
    uc.mem_map(0, 0x10000)
    uc.mem_write(ADDRESS, image)
    uc.hook_add(unicorn.UC_HOOK_INSN, callback, None, 1, 0, unicorn.x86_const.UC_X86_INS_IN)

    def sample() -> float:
        start = time.perf_counter_ns()
        uc.emu_start(ADDRESS, ADDRESS + len(image) - 1)
        return (time.perf_counter_ns() - start) / reads

    return sample


def unicorn_against_python(benchmark: Benchmark, scale: Scale) -> Report:
    with guest("unicorn", PIT + 1, 1, scale.of(UNICORN_READS)) as running, calm():
        handler = PythonPit(time.monotonic_ns())
        handler.program(time.monotonic_ns(), 1, 2, 65_536)

        def serve(uc: object, port: int, size: int, data: object) -> int:
            return handler.read(time.monotonic_ns(), port - PIT, size)

        theirs = python_emulator(running.image, running.reads, serve)
        pairs = interleave(running.ours, theirs, scale.pairs)
        empty = python_emulator(running.image, running.reads, lambda uc, port, size, data: 0)
        bare = min(empty() for _ in range(3))
    return _report(benchmark, pairs, True, f"Python callback that does nothing {nanoseconds(bare)}")


WHAT = "time of a guest's read, exit and handler included"

BENCHMARKS = (
    Benchmark(
        "KVM loop/libc ioctl loop: i8254",
        1.0,
        "at most",
        f"{WHAT}: our loop serving a counter / a C loop on libc's ioctl, handler empty",
        kvm("bench_libc_loop", PIT + 1, 1),
    ),
    Benchmark(
        "KVM loop/libc ioctl loop: acpi_pm",
        1.0,
        "at most",
        f"{WHAT}: our loop serving the PM timer / a C loop on libc's ioctl, handler empty",
        kvm("bench_libc_loop", PM_TIMER, 4),
    ),
    Benchmark(
        "KVM loop/inline syscall loop: i8254",
        1.02,
        "at most",
        f"{WHAT}: our loop serving a counter / a C loop with the system call inline, handler empty",
        kvm("bench_syscall_loop", PIT + 1, 1),
    ),
    Benchmark(
        "KVM loop/inline syscall loop: acpi_pm",
        1.02,
        "at most",
        f"{WHAT}: our loop serving the PM timer / a C loop with the system call inline, handler empty",
        kvm("bench_syscall_loop", PM_TIMER, 4),
    ),
    Benchmark(
        "Unicorn: Python callback/native",
        10,
        "at least",
        f"{WHAT}: a Python callback serving a counter / ours",
        unicorn_against_python,
    ),
)
