"""Interrupts of a guest on KVM, by any of the three arrangements (`kvm_vm.Irqchip`).

Each way has a native form, for lines that no Python is to see (runtime/lines.py).

Non-goals: the controllers (KVM's, or device files).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from ..bus import Counters, RegionEntry
from ..lines import NativeSink
from . import kvm_abi as abi
from . import kvm_loop
from .host import Host, HostError
from .kvm_system import ioctl
from .kvm_vcpu import VirtualCpu
from .kvm_vm import VirtualMachine

_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32)

_SOURCES = 64
_PYTHON = _SOURCES - 1
"""The line on each GSI that `irq_line` drives."""


class KvmInterrupts(Host):
    """The part of `KvmHost` that brings interrupts to vCPUs and controllers.

    `on_eoi`: called with the vector when an interrupt of a routed I/O APIC pin ends.
    `message_function`, with `vm_context`: void f(void *context, u64 address, u32 data).
    """

    cpus: list[VirtualCpu]
    _block: kvm_loop.Vm

    def _prepare_interrupts(self) -> None:
        symbol = kvm_loop.native().symbol
        self.line_function, self.intr_function, self.message_function = (
            symbol(f"devc_kvm_{name}") for name in ("line", "intr", "message")
        )
        self.on_eoi: list[Callable[[int], object]] = []
        self._acknowledge: Callable[[], int] | None = None
        self._lines = [0] * kvm_loop.GSIS
        self._inta: Sequence[ctypes.Structure | ctypes.Array[Counters]] = ()

    @property
    def vm(self) -> VirtualMachine:
        raise NotImplementedError

    @property
    def vm_context(self) -> int:
        """The context of `line_function` and `message_function`."""
        return ctypes.addressof(self._block)

    # --- no controller: vectors ---

    def inject(self, vector: int) -> bool:
        if not 0 <= vector <= 255:
            raise HostError(f"an interrupt vector is 0 to 255, not {vector}")
        if self.vm.irqchip != "none":
            raise HostError("vectors come from the local APIC here: drive a line or send a message")
        return self.cpus[0].queue(vector)

    # --- KVM's controllers: lines ---

    def line(self, gsi: int) -> NativeSink:
        """One more line on an input of KVM's controllers; those on one GSI are or-ed."""
        self._require_gsi(gsi)
        number = self._lines[gsi]
        if number == _PYTHON:
            raise HostError(f"GSI {gsi} has {number} lines already")
        self._lines[gsi] += 1
        return self._sink(gsi, number)

    def irq_line(self, gsi: int, level: int) -> None:
        """Drive an input of KVM's controllers, or-ed with the `line`s there."""
        self._require_gsi(gsi)
        self._sink(gsi, _PYTHON)(bool(level), 0)

    def _tell_lines(self) -> None:
        """KVM's controllers were reset: tell them which lines are high."""
        for gsi, sources in enumerate(self._block.sources):
            if sources:
                ioctl(self.vm.fd, abi.IRQ_LINE, abi.IrqLevel(gsi, 1), "driving an interrupt line")

    def _require_gsi(self, gsi: int) -> None:
        if self.vm.irqchip != "kernel":
            raise HostError(f"only irqchip='kernel' has lines into KVM; this machine has {self.vm.irqchip!r}")
        if not 0 <= gsi < abi.IOAPIC_PINS:
            raise HostError(f"KVM's controllers have GSIs 0 to {abi.IOAPIC_PINS - 1}, not {gsi}")

    def _sink(self, gsi: int, number: int) -> NativeSink:
        return NativeSink(self.line_function, self.vm_context, gsi | number << 8, keep=self)

    # --- KVM's local APICs: messages ---

    def signal_msi(self, address: int, data: int) -> None:
        """Send a message to the local APICs."""
        if self.vm.irqchip == "none":
            raise HostError("there are no local APICs with irqchip='none'")
        _MESSAGE(self.message_function)(self.vm_context, address, data)

    def route_msi(self, pin: int, address: int | None, data: int) -> None:
        """What the I/O APIC's `pin` sends; see `VirtualMachine.route_message`."""
        self.vm.route_message(pin, address, data)

    # --- an 8259 outside of KVM ---

    def connect_pic(self, acknowledge: Callable[[], int]) -> None:
        """`acknowledge` gives the vector when the first vCPU takes the 8259's interrupt;
        `pic_line` tells its INT."""
        if self.vm.irqchip == "kernel":
            raise HostError("irqchip='kernel' has an 8259 pair already")
        self._acknowledge = acknowledge

    def connect_native_pic(self, read: int, state: int, device: int) -> None:
        """As `connect_pic`, in native code: `read` is the function of the host window whose
        u32 at 0 is the acknowledge cycle, `device` the dispatcher's number for `state`."""
        self.connect_pic(lambda: 0)
        counters = (Counters * self.dispatcher.lanes)()  # each thread counts in its own
        entry = RegionEntry(
            read=read, state=state, size=4, counters=ctypes.addressof(counters), counted=1, device=device
        )
        self._inta = (entry, counters)
        self._block.inta = ctypes.addressof(entry)

    @property
    def intr_sink(self) -> NativeSink:
        """The 8259's INT goes there."""
        return NativeSink(self.intr_function, self.cpus[0].address, keep=self)

    def pic_line(self, level: int) -> None:
        """The 8259's INT is high or low. From any thread."""
        self.intr_sink(bool(level), 0)
