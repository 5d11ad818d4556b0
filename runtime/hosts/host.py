"""What every host offers: a guest's memory, its registers, running it, interrupts.

A host executes guest code over a `Dispatcher`; whatever native code cannot
finish goes to `Dispatcher.attend`, and `run` goes on until something ends it.

Non-goals: devices and wiring (runtime/machine.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING

from ...compiler.ir import NEVER
from .start import Start

if TYPE_CHECKING:
    from ..dispatch import Dispatcher

PAGE = 4096
DEFAULT_MEMORY = 0xA0000
"""Bytes of RAM: a PC's conventional memory; above it, devices can claim addresses."""

LOW_MEMORY, HIGH_MEMORY = 3 << 30, 4 << 30
"""From the one to the other is a PC's place for devices; memory that does not fit
below goes on above."""
MAX_MEMORY = 64 << 30
GRACE = 50_000
"""ns that the guest gets at least between two deadlines, so that a timer with a
period of a few ns cannot keep it from running at all."""


class HostError(Exception):
    """The host cannot be set up, or was asked for what it cannot do."""


class Reason(Enum):
    """Why `run` came back.

    STOPPED         `stop` was called
    TIME            the instant given as `until` has come
    HALTED          the guest waits for an interrupt that nothing will bring:
                    none is pending, and no deadline lies ahead or the clock
                    stands still. Inject one, or move the clock, and run on
    SHUTDOWN        the guest is beyond help (a triple fault)
    FAILED_ENTRY    the processor refuses the guest's state
    INTERNAL_ERROR  the hypervisor gave up on an instruction
    UNKNOWN         an exit this host does not know; `detail` has its number
    """

    STOPPED = "stopped"
    TIME = "time"
    HALTED = "halted"
    SHUTDOWN = "shutdown"
    FAILED_ENTRY = "failed entry"
    INTERNAL_ERROR = "internal error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Exit:
    """Why the guest is not running, when (virtual ns), and what is known beyond that.

    `vcpu`: whose exit it was, where that says something.
    """

    reason: Reason
    now: int
    detail: str = ""
    vcpu: int = 0

    def __str__(self) -> str:
        who = f", vCPU {self.vcpu}" if self.vcpu else ""
        return f"{self.reason.value} at {self.now} ns{who}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class MemoryRange:
    """RAM from guest-physical `address` on: `size` bytes, from `offset` on in `Host.memory`."""

    address: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.address + self.size


def memory_ranges(size: int) -> list[MemoryRange]:
    """Where `size` bytes of RAM lie."""
    low = MemoryRange(0, 0, min(size, LOW_MEMORY))
    return [low] if size <= LOW_MEMORY else [low, MemoryRange(HIGH_MEMORY, LOW_MEMORY, size - LOW_MEMORY)]


REGISTERS = [
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rsp",
    "rbp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "rip",
    "rflags",
    "cs",
    "ds",
    "es",
    "fs",
    "gs",
    "ss",
]
INTERRUPT_FLAG = 1 << 9


@dataclass(slots=True)
class Registers:
    """The vCPU's general registers, and its segments' selectors (real mode: base = 16 * selector)."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2
    cs: int = 0
    ds: int = 0
    es: int = 0
    fs: int = 0
    gs: int = 0
    ss: int = 0


class Host(ABC):
    """One guest and its RAM, from address 0 on: one range, or two around the hole below 4 GiB.

    Use as a context manager, or `close` it. `run` belongs to one thread at a
    time; `stop` and `inject` may be called from `attend`, `stop` also from
    another thread or a signal handler. The dispatcher's `lock` is held while Python
    serves the guest; who touches what it serves while the guest runs takes it, too.
    """

    name: str
    most_memory = MAX_MEMORY

    def __init__(self, dispatcher: Dispatcher, memory: int = DEFAULT_MEMORY) -> None:
        if not PAGE <= memory <= self.most_memory or memory % PAGE:
            raise HostError(
                f"the memory's size must be a multiple of {PAGE} bytes, up to {self.most_memory >> 30} GiB, "
                f"not {memory:#x}"
            )
        self.dispatcher = dispatcher
        self.ranges = memory_ranges(memory)
        for name, base, size in dispatcher.windows():
            if any(base < ram.end and ram.address < base + size for ram in self.ranges):
                raise HostError(f"{name} lies in the guest's {memory:#x} bytes of memory; move one of them")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._ram = mmap.mmap(-1, memory, flags=flags)
        self.memory = memoryview(self._ram)
        self._size = memory
        self._closed = False
        self._running = False

    # --- memory ---

    def load(self, image: bytes, address: int) -> None:
        """Copy bytes into the guest's memory, at a guest-physical address."""
        self._place(address, len(image))[:] = image

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the guest's memory, from a guest-physical address on."""
        return bytes(self._place(address, size))

    def _place(self, address: int, size: int) -> memoryview:
        for ram in self.ranges:
            if ram.address <= address and address + size <= ram.end:
                start = address - ram.address + ram.offset
                return self.memory[start : start + size]
        raise HostError(f"{size} bytes at {address:#x} do not fit the {self._size:#x} bytes of memory")

    def rom(self, address: int, content: bytes) -> None:
        """Memory that the guest cannot write, outside of RAM, filled up to whole pages with
        ones; what it writes there is nobody's. HostError where the host has none."""
        raise HostError(f"the host {self.name} has no read-only memory; use kvm")

    # --- where the guest begins ---

    def start(self, start: Start) -> None:
        """After power-on or a reset: let the first vCPU begin there; others wait to be started,
        as a PC's do. Memory, and the devices, stay as they are."""
        if start.mode != "real":
            raise HostError(f"the host {self.name} begins in real mode only, not {start.mode}; use kvm")
        if not 0 <= start.ip < 1 << 20:
            raise HostError(f"real mode begins below 1 MiB, not at {start.ip:#x}")
        segment = 0 if start.ip < 1 << 16 else start.ip >> 4 & 0xF000
        self.registers = Registers(cs=segment, rip=start.ip - 16 * segment, **start.registers)

    def boot(self, address: int) -> None:
        """Let the vCPU begin at a physical address below 1 MiB: real mode, interrupts off,
        all other registers 0 (so the stack grows down from 64 KiB)."""
        self.start(Start("real", address))

    @property
    @abstractmethod
    def registers(self) -> Registers:
        """A copy of the registers; assign one to change them. Exact whenever `run` has returned."""

    @registers.setter
    @abstractmethod
    def registers(self, values: Registers) -> None: ...

    def run(self, until: int = NEVER) -> Exit:
        """Run the guest until something ends it, at the latest at virtual instant `until`.

        Raises what `attend` raises, and KeyboardInterrupt on Ctrl-C: the guest is
        then between two instructions and `run` may be called again.
        """
        self._require_open()
        if self._running:
            raise HostError("the guest is running already; let that `run` return first")
        self._running = True
        try:
            return self._run(until)
        finally:
            self._running = False

    @abstractmethod
    def _run(self, until: int) -> Exit: ...

    @abstractmethod
    def inject(self, vector: int) -> bool:
        """Queue an interrupt for the vCPU, delivered when it accepts one, first come first served.

        False if that vector is queued already: the two are one, as in an
        interrupt controller's request register.
        """

    @abstractmethod
    def stop(self) -> None:
        """Have `run` return STOPPED, after the instruction under way."""

    def pause(self) -> None:
        """Have all vCPUs stand between two instructions until `resume`; `run` goes on then.

        Not from a thread that serves a vCPU or holds the dispatcher's lock: they could not get there.
        HostError where the host cannot.
        """
        raise HostError(f"the host {self.name} cannot pause within a run; stop it")

    def resume(self) -> None:
        """End a `pause`."""
        raise HostError("the guest is not paused")

    def close(self) -> None:
        """Give everything back. The host cannot be used afterwards; closing again does nothing."""
        if self._closed:
            return
        if self._running:
            raise HostError("the guest is running; stop it before the host is closed")
        self._closed = True
        self._release()
        # Where the caller still holds a view of the memory, it goes with that.
        with contextlib.suppress(BufferError):
            self.memory.release()
            self._ram.close()

    def _require_open(self) -> None:
        if self._closed:
            raise HostError("the host is closed; make another")

    @abstractmethod
    def _release(self) -> None:
        """Give back what the host holds, before its memory goes."""

    def _ram_address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._ram))

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
