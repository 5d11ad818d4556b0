"""KVM's structures and ioctl numbers (x86-64 Linux, linux/kvm.h).

Declared once, as ctypes structures, for Python and for the loop in `kvm.ll`, and
checked against the kernel's offsets and sizes by a test.

Non-goals: the loop's own structures (kvm_loop.py).
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum

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
    IOAPIC_EOI = 26


class Capability(IntEnum):
    """KVM_CAP_ numbers."""

    IRQ_ROUTING = 25
    COALESCED_MMIO = 15
    READONLY_MEM = 81
    SPLIT_IRQCHIP = 121
    COALESCED_PIO = 162
    XSAVE2 = 208


MEM_READONLY = 1 << 1


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


class CpuidEntry(ctypes.Structure):
    """`struct kvm_cpuid_entry2`."""

    _fields_ = [
        *((name, c_uint32) for name in ("function", "index", "flags", "eax", "ebx", "ecx", "edx")),
        ("padding", c_uint32 * 3),
    ]


CPUID_ENTRIES = 256


class Cpuid(ctypes.Structure):
    """`struct kvm_cpuid2` with room for as many entries as KVM takes."""

    _fields_ = [("nent", c_uint32), ("padding", c_uint32), ("entries", CpuidEntry * CPUID_ENTRIES)]


class EnableCap(ctypes.Structure):
    """`struct kvm_enable_cap`."""

    _fields_ = [("cap", c_uint32), ("flags", c_uint32), ("args", c_uint64 * 4), ("pad", c_uint8 * 64)]


class IrqLevel(ctypes.Structure):
    """`struct kvm_irq_level`."""

    _fields_ = [("irq", c_uint32), ("level", c_uint32)]


class Msi(ctypes.Structure):
    """`struct kvm_msi`."""

    _fields_ = [
        *((name, c_uint32) for name in ("address_lo", "address_hi", "data", "flags", "devid")),
        ("pad", c_uint8 * 12),
    ]


ROUTING_IRQCHIP, ROUTING_MSI = 1, 2
PIC_MASTER, PIC_SLAVE, IOAPIC = 0, 1, 2
IOAPIC_PINS = 24


class RoutingEntry(ctypes.Structure):
    """`struct kvm_irq_routing_entry`; `where` is (chip, pin) or (address low, high, data)."""

    _fields_ = [
        *((name, c_uint32) for name in ("gsi", "type", "flags", "pad")),
        ("where", c_uint32 * 8),
    ]


class Routing(ctypes.Structure):
    """`struct kvm_irq_routing` with room for every pin of both kinds of chip."""

    _fields_ = [("nr", c_uint32), ("flags", c_uint32), ("entries", RoutingEntry * 64)]


class CoalescedZone(ctypes.Structure):
    """`struct kvm_coalesced_mmio_zone`."""

    _fields_ = [("addr", c_uint64), ("size", c_uint32), ("pio", c_uint32)]


class CoalescedWrite(ctypes.Structure):
    """`struct kvm_coalesced_mmio`: a write that waits."""

    _fields_ = [("phys_addr", c_uint64), ("len", c_uint32), ("pio", c_uint32), ("data", c_uint64)]


class CoalescedRing(ctypes.Structure):
    """`struct kvm_coalesced_mmio_ring`: the kernel writes at `last`, the loop takes from `first`."""

    _fields_ = [("first", c_uint32), ("last", c_uint32), ("writes", CoalescedWrite * 170)]


class MsrEntry(ctypes.Structure):
    """`struct kvm_msr_entry`."""

    _fields_ = [("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64)]


MOST_MSRS = 1024


class Msrs(ctypes.Structure):
    """`struct kvm_msrs`, with room for more than KVM has."""

    _fields_ = [("nmsrs", c_uint32), ("pad", c_uint32), ("entries", MsrEntry * MOST_MSRS)]


class MsrList(ctypes.Structure):
    """`struct kvm_msr_list`."""

    _fields_ = [("nmsrs", c_uint32), ("indices", c_uint32 * MOST_MSRS)]


class Irqchip(ctypes.Structure):
    """`struct kvm_irqchip`: an 8259 or the I/O APIC."""

    _fields_ = [("chip_id", c_uint32), ("pad", c_uint32), ("chip", c_uint64 * 64)]


class ClockData(ctypes.Structure):
    """`struct kvm_clock_data`: KVM's own clock, for guests that ask it for the time."""

    _fields_ = [("clock", c_uint64), ("flags", c_uint32), ("pad0", c_uint32), ("more", c_uint64 * 4)]


MP_STATE_SIZE, LAPIC_SIZE, EVENTS_SIZE, DEBUGREGS_SIZE, XCRS_SIZE, XSAVE_SIZE = 4, 1024, 64, 128, 392, 4096


class MpState(IntEnum):
    """KVM_MP_STATE_ numbers."""

    RUNNABLE = 0
    UNINITIALIZED = 1
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4


def _ioctl(number: int, size: int = 0, direction: int = 0) -> int:
    return direction << 30 | size << 16 | 0xAE << 8 | number


_TO_KERNEL, _FROM_KERNEL = 1, 2

GET_API_VERSION = _ioctl(0x00)
CREATE_VM = _ioctl(0x01)
GET_MSR_INDEX_LIST = _ioctl(0x02, 4, _TO_KERNEL | _FROM_KERNEL)
CHECK_EXTENSION = _ioctl(0x03)
GET_VCPU_MMAP_SIZE = _ioctl(0x04)
GET_SUPPORTED_CPUID = _ioctl(0x05, 8, _TO_KERNEL | _FROM_KERNEL)
CREATE_VCPU = _ioctl(0x41)
SET_USER_MEMORY_REGION = _ioctl(0x46, ctypes.sizeof(MemoryRegion), _TO_KERNEL)
SET_TSS_ADDR = _ioctl(0x47)
SET_IDENTITY_MAP_ADDR = _ioctl(0x48, 8, _TO_KERNEL)
CREATE_IRQCHIP = _ioctl(0x60)
IRQ_LINE = _ioctl(0x61, ctypes.sizeof(IrqLevel), _TO_KERNEL)
GET_IRQCHIP = _ioctl(0x62, ctypes.sizeof(Irqchip), _TO_KERNEL | _FROM_KERNEL)
SET_IRQCHIP = _ioctl(0x63, ctypes.sizeof(Irqchip), _FROM_KERNEL)  # as the kernel has it
REGISTER_COALESCED_MMIO = _ioctl(0x67, ctypes.sizeof(CoalescedZone), _TO_KERNEL)
UNREGISTER_COALESCED_MMIO = _ioctl(0x68, ctypes.sizeof(CoalescedZone), _TO_KERNEL)
SET_GSI_ROUTING = _ioctl(0x6A, 8, _TO_KERNEL)
RUN = _ioctl(0x80)
GET_REGS = _ioctl(0x81, ctypes.sizeof(Regs), _FROM_KERNEL)
SET_REGS = _ioctl(0x82, ctypes.sizeof(Regs), _TO_KERNEL)
GET_SREGS = _ioctl(0x83, ctypes.sizeof(Sregs), _FROM_KERNEL)
SET_SREGS = _ioctl(0x84, ctypes.sizeof(Sregs), _TO_KERNEL)
INTERRUPT = _ioctl(0x86, 4, _TO_KERNEL)
SET_CLOCK = _ioctl(0x7B, ctypes.sizeof(ClockData), _TO_KERNEL)
GET_CLOCK = _ioctl(0x7C, ctypes.sizeof(ClockData), _FROM_KERNEL)
GET_MSRS = _ioctl(0x88, 8, _TO_KERNEL | _FROM_KERNEL)
SET_MSRS = _ioctl(0x89, 8, _TO_KERNEL)
GET_LAPIC = _ioctl(0x8E, LAPIC_SIZE, _FROM_KERNEL)
SET_LAPIC = _ioctl(0x8F, LAPIC_SIZE, _TO_KERNEL)
SET_CPUID2 = _ioctl(0x90, 8, _TO_KERNEL)
GET_MP_STATE = _ioctl(0x98, MP_STATE_SIZE, _FROM_KERNEL)
SET_MP_STATE = _ioctl(0x99, MP_STATE_SIZE, _TO_KERNEL)
GET_VCPU_EVENTS = _ioctl(0x9F, EVENTS_SIZE, _FROM_KERNEL)
SET_VCPU_EVENTS = _ioctl(0xA0, EVENTS_SIZE, _TO_KERNEL)
GET_DEBUGREGS = _ioctl(0xA1, DEBUGREGS_SIZE, _FROM_KERNEL)
SET_DEBUGREGS = _ioctl(0xA2, DEBUGREGS_SIZE, _TO_KERNEL)
ENABLE_CAP = _ioctl(0xA3, ctypes.sizeof(EnableCap), _TO_KERNEL)
SIGNAL_MSI = _ioctl(0xA5, ctypes.sizeof(Msi), _TO_KERNEL)
GET_XSAVE = _ioctl(0xA4, XSAVE_SIZE, _FROM_KERNEL)
SET_XSAVE = _ioctl(0xA5, XSAVE_SIZE, _TO_KERNEL)
GET_XCRS = _ioctl(0xA6, XCRS_SIZE, _FROM_KERNEL)
SET_XCRS = _ioctl(0xA7, XCRS_SIZE, _TO_KERNEL)
GET_XSAVE2 = _ioctl(0xCF, XSAVE_SIZE, _FROM_KERNEL)
