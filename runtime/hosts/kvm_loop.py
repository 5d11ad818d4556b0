"""What the native loop (`kvm.ll` and its parts) works on besides KVM's own structures.

`Vm` is what all vCPUs of a guest share, `Vcpu` what one of them has.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_uint8, c_uint32, c_uint64
from enum import IntEnum
from functools import cache

from ...compiler.jit import NativeCode
from ..bus import CONSTANTS as BUS_CONSTANTS
from ..bus import STRUCTURES as BUS_STRUCTURES
from ..bus import Access
from ..dispatch import dispatch_text
from ..native_module import compile_text, expand, read_text
from . import kvm_abi as abi
from .kvm_system import WAKE, install_wake_handler

TEXTS = ("kvm.ll", "kvm_accesses.ll", "kvm_lines.ll", "kvm_timer.ll", "kvm_system.ll")
"""The loop first, all of it in few pages: after each exit the processor's caches are cold."""
SYMBOLS = ("devc_kvm_loop", "devc_kvm_wake", "devc_kvm_line", "devc_kvm_message", "devc_kvm_intr")


class Leave(IntEnum):
    """Why the native loop came back to Python.

    ATTEND       `access` stopped and needs Python; call the loop again afterwards
    SIGNAL       signals for Python may wait; they are handled once the loop is left
    ACKNOWLEDGE  the vCPU takes the 8259's interrupt, and Python must acknowledge it:
                 queue the vector, go on
    EOI          the interrupt of the vector in the run page ended; go on
    PAUSED       `pause` was set: the vCPU is between two instructions
    """

    ATTEND = 1
    SIGNAL = 2
    STOPPED = 3
    TIME = 4
    HALTED = 5
    EXIT = 6  # what `kvm_run.exit_reason` says
    ERROR = 7  # KVM_RUN failed with `error`
    ACKNOWLEDGE = 8
    EOI = 9
    PAUSED = 10


BREATH = 20_000_000
"""ns at most between two looks for signals that wait for Python."""
NEAR = 2_000
"""A deadline fewer ns ahead is waited for outside of the guest."""
BLIND = 500_000_000
"""ns after which the first vCPU's loop is left even without one: the kernel may have
given a signal for Python to another of its threads, which then only noted it."""

STOP_ASKED = 1
STOP_TIME = 2
STOP_OTHER = 3
"""Another vCPU has ended the run."""

GSIS = 64


class Phase(IntEnum):
    """What the native loop was in the middle of when it left."""

    RUN = 0
    ACCESS = 1
    SETTLE = 2
    POSTED = 3


class Vm(ctypes.Structure):
    """What the vCPUs of one guest share.

    until       virtual instant at which the first vCPU leaves with TIME
    armed       virtual instant for which the timer is armed, NEVER if it is not,
                0 if that is not known; under the bus's `timer`
    grace       ns that the guest gets at least between two deadlines, so that a
                timer of a few ns cannot keep it from running at all
    wake        the timer's and `stop`'s signal, as a mask; blocked in the vCPUs'
                threads but in the loop
    ring        KVM's ring of posted writes, 0 without one; `ring_lock` is held while
                one is taken out and served
    inta        a RegionEntry whose 4 bytes at 0 are the 8259's acknowledge cycle, 0 if
                Python runs it
    posted      addresses of `posted_entries` arrays by region, 0 for none: how many
                posted writes each of the region's bytes has had
    sources     by GSI, a bit for each line that is high (`devc_kvm_line`)
    """

    _fields_ = [
        ("until", c_uint64),
        ("armed", c_uint64),
        ("grace", c_uint64),
        ("wake", c_uint64),
        ("ring", c_uint64),
        ("inta", c_uint64),
        ("posted", c_uint64),
        ("posted_entries", c_uint32),
        ("fd", c_uint32),
        ("timer", c_uint32),
        ("ring_lock", c_uint32),
        ("line_lock", c_uint32),
        ("process", c_uint32),
        ("sources", c_uint64 * GSIS),
    ]


class Vcpu(ctypes.Structure):
    """What the native loop knows of one vCPU.

    data, left   of the exit under way: where the present element's bytes are, and
                 how many elements (of a string instruction) remain; 0 without one
    status       what KVM_RUN returned, while posted writes are served (POSTED)
    stop, pause  one of STOP_...; or 1 to pause: leave when the exit under
                 way is complete. They are looked at together
    looked       when the loop was entered, host ns
    timed        sum up host ns: `guest_ns` in KVM_RUN, `host_ns` between (`exited`: since
                 when; 0: not yet), `asleep_ns` of it asleep with the guest halted
    settled      deadlines were dealt with since the guest last ran
    intr         the 8259's INT is high
    thread       the kernel's number of the thread that runs the loop; 0: none
    queue        vectors to inject, a ring of `pending` from `head` on
    """

    _fields_ = [
        ("access", Access),
        # Read for each exit, hence side by side.
        ("bus", c_uint64),
        ("vm", c_uint64),
        ("run", c_uint64),
        ("runs", c_uint64),
        ("stop", c_uint32),
        ("pause", c_uint32),
        ("pending", c_uint32),
        ("intr", c_uint32),
        ("fd", c_uint32),
        ("settled", c_uint32),
        ("halted", c_uint32),
        ("timed", c_uint32),
        # The rest.
        ("data", c_uint64),
        ("status", c_int64),
        ("interrupted", c_uint64),
        ("injected", c_uint64),
        ("looked", c_uint64),
        ("exited", c_uint64),
        ("guest_ns", c_uint64),
        ("host_ns", c_uint64),
        ("asleep_ns", c_uint64),
        ("left", c_uint32),
        ("number", c_uint32),
        ("signal_fd", c_uint32),
        ("phase", c_uint32),
        ("error", c_uint32),
        ("head", c_uint32),
        ("thread", c_uint32),
        ("pad", c_uint32),
        ("queue", c_uint8 * 256),
    ]


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    *BUS_STRUCTURES,
    abi.RunHead,
    abi.RunMmio,
    abi.CoalescedWrite,
    abi.CoalescedRing,
    abi.IrqLevel,
    abi.Msi,
    Vm,
    Vcpu,
)

CONSTANTS: dict[str, int] = {
    **BUS_CONSTANTS,
    **{f"EXIT_{item.name}": item.value for item in abi.KernelExit},
    **{f"LEAVE_{item.name}": item.value for item in Leave},
    **{f"PHASE_{item.name}": item.value for item in Phase},
    "STOP_TIME": STOP_TIME,
    "KVM_RUN": abi.RUN,
    "KVM_INTERRUPT": abi.INTERRUPT,
    "KVM_IRQ_LINE": abi.IRQ_LINE,
    "KVM_SIGNAL_MSI": abi.SIGNAL_MSI,
    "RING_WRITES": abi.CoalescedRing.writes.size // ctypes.sizeof(abi.CoalescedWrite),
    "WAKE": WAKE,
    "BREATH": BREATH,
    "BLIND": BLIND,
    "NEAR": NEAR,
    "GSIS": GSIS,
}


@cache
def native() -> NativeCode:
    """The loop's code; its signal handler is installed, for all vCPUs of the process."""
    text = "".join(read_text(__package__, name) for name in TEXTS) + dispatch_text()
    code = compile_text(expand(text, STRUCTURES, CONSTANTS), SYMBOLS)
    install_wake_handler(code.symbol("devc_kvm_wake"))
    return code
