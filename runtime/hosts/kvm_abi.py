"""KVM's structures and ioctl numbers (x86-64 Linux, linux/kvm.h), and the native loop's own.

What the loop in `kvm.ll` reads and writes is declared here once, as ctypes
structures, and checked against the kernel's offsets by a test.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum

from ..bus import CONSTANTS as BUS_CONSTANTS
from ..bus import STRUCTURES as BUS_STRUCTURES
from ..bus import Access

API_VERSION = 12


class RunHead(ctypes.Structure):
    """`struct kvm_run` up to its union, and the union's first half as KVM_EXIT_IO has it."""

    _fields_ = [
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("io_direction", c_uint8),
        ("io_size", c_uint8),
        ("io_port", c_uint16),
        ("io_count", c_uint32),
        ("io_data_offset", c_uint64),
    ]


class RunMmio(ctypes.Structure):
    """`struct kvm_run` as KVM_EXIT_MMIO has it."""

    _fields_ = [
        ("head", c_uint8 * 32),
        ("phys_addr", c_uint64),
        ("data", c_uint64),
        ("len", c_uint32),
        ("is_write", c_uint8),
    ]


INTERNAL_ERROR_EMULATION = 1
"""A suberror; bit 0 of its first word says that the next two hold a length and code bytes."""


class RunDetail(ctypes.Structure):
    """`struct kvm_run` as the exits that give up have it: a code, and for an
    internal error the number of data words and the words."""

    _fields_ = [
        ("head", c_uint8 * 32),
        ("code", c_uint32),
        ("ndata", c_uint32),
        ("data", c_uint64 * 16),
    ]


class KernelExit(IntEnum):
    """KVM_EXIT_ numbers."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24


class MemoryRegion(ctypes.Structure):
    """`struct kvm_userspace_memory_region`."""

    _fields_ = [
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    ]


REGISTER_ORDER = [
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
]


class Regs(ctypes.Structure):
    """`struct kvm_regs`."""

    _fields_ = [(name, c_uint64) for name in REGISTER_ORDER]


class Segment(ctypes.Structure):
    """`struct kvm_segment`."""

    _fields_ = [
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    ]


class Table(ctypes.Structure):
    """`struct kvm_dtable`."""

    _fields_ = [("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3)]


SEGMENT_ORDER = ["cs", "ds", "es", "fs", "gs", "ss"]


class Sregs(ctypes.Structure):
    """`struct kvm_sregs`."""

    _fields_ = [
        *((name, Segment) for name in [*SEGMENT_ORDER, "tr", "ldt"]),
        ("gdt", Table),
        ("idt", Table),
        *((name, c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", c_uint64 * 4),
    ]


def _ioctl(number: int, size: int = 0, direction: int = 0) -> int:
    return direction << 30 | size << 16 | 0xAE << 8 | number


_TO_KERNEL, _FROM_KERNEL = 1, 2

GET_API_VERSION = _ioctl(0x00)
CREATE_VM = _ioctl(0x01)
GET_VCPU_MMAP_SIZE = _ioctl(0x04)
CREATE_VCPU = _ioctl(0x41)
SET_USER_MEMORY_REGION = _ioctl(0x46, ctypes.sizeof(MemoryRegion), _TO_KERNEL)
SET_TSS_ADDR = _ioctl(0x47)
SET_IDENTITY_MAP_ADDR = _ioctl(0x48, 8, _TO_KERNEL)
RUN = _ioctl(0x80)
GET_REGS = _ioctl(0x81, ctypes.sizeof(Regs), _FROM_KERNEL)
SET_REGS = _ioctl(0x82, ctypes.sizeof(Regs), _TO_KERNEL)
GET_SREGS = _ioctl(0x83, ctypes.sizeof(Sregs), _FROM_KERNEL)
SET_SREGS = _ioctl(0x84, ctypes.sizeof(Sregs), _TO_KERNEL)
INTERRUPT = _ioctl(0x86, 4, _TO_KERNEL)


class Leave(IntEnum):
    """Why the native loop came back to Python.

    ATTEND   `access` stopped and needs Python; call the loop again afterwards
    SIGNAL   signals for Python wait; they are handled once the loop is left
    """

    ATTEND = 1
    SIGNAL = 2
    STOPPED = 3
    TIME = 4
    HALTED = 5
    EXIT = 6  # what `kvm_run.exit_reason` says
    ERROR = 7  # KVM_RUN failed with `error`


BREATH = 20_000_000
"""ns at most between two looks for signals that wait for Python."""

STOP_ASKED = 1
STOP_TIME = 2


class Phase(IntEnum):
    """What the native loop was in the middle of when it left."""

    RUN = 0
    ACCESS = 1
    SETTLE = 2


class Vcpu(ctypes.Structure):
    """What the native loop knows of one vCPU.

    data, left   of the exit under way: where the present element's bytes are, and
                 how many elements (of a string instruction) remain; 0 without one
    until        virtual instant at which to leave with TIME
    armed        virtual instant for which the timer is armed, NEVER if it is not
    grace        ns that the guest gets at least between two deadlines, so that a
                 timer of a few ns cannot keep it from running at all
    settled      deadlines were dealt with since the guest last ran
    stop         STOP_ASKED or STOP_TIME: leave when the exit under way is complete
    wake         the timer's and `stop`'s signal, as a mask; blocked in this thread
                 but in the loop
    queue        vectors to inject, a ring of `pending` from `head` on
    """

    _fields_ = [
        ("access", Access),
        ("bus", c_uint64),
        ("run", c_uint64),
        ("data", c_uint64),
        ("until", c_uint64),
        ("armed", c_uint64),
        ("grace", c_uint64),
        ("wake", c_uint64),
        ("runs", c_uint64),
        ("interrupted", c_uint64),
        ("injected", c_uint64),
        ("left", c_uint32),
        ("fd", c_uint32),
        ("timer", c_uint32),
        ("signal_fd", c_uint32),
        ("phase", c_uint32),
        ("settled", c_uint32),
        ("halted", c_uint32),
        ("stop", c_uint32),
        ("error", c_uint32),
        ("head", c_uint32),
        ("pending", c_uint32),
        ("pad", c_uint32),
        ("queue", c_uint8 * 256),
    ]


STRUCTURES: tuple[type[ctypes.Structure], ...] = (*BUS_STRUCTURES, RunHead, RunMmio, Vcpu)

CONSTANTS: dict[str, int] = {
    **BUS_CONSTANTS,
    **{f"EXIT_{item.name}": item.value for item in KernelExit},
    **{f"LEAVE_{item.name}": item.value for item in Leave},
    **{f"PHASE_{item.name}": item.value for item in Phase},
    "STOP_TIME": STOP_TIME,
    "KVM_RUN": RUN,
    "KVM_INTERRUPT": INTERRUPT,
    "BREATH": BREATH,
}
