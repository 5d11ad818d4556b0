"""A PC's interrupts, as data, and the three ways in which they reach a guest.

Interrupts are numbered as KVM numbers a PC's (GSIs): 0 to 15 are the ISA bus's, and
input n of the I/O APIC but for 0, which is input 2; 16 to 23 the I/O APIC's alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from .pins import Pin

if TYPE_CHECKING:
    from ..hosts.kvm_vm import Irqchip
    from ..machine import Machine
    from ..vmm import Vmm

HPET, PIC = "hpet", "i8259"
HPET_LINES = 24
TIMER_INPUT = 2
"""The I/O APIC's input of interrupt 0."""

LINES: tuple[tuple[str, int, str | None], ...] = (
    ("i8254.irq0", 0, "hpet.pit"),
    ("mc146818.irq8", 8, "hpet.rtc"),
    ("acpi_pm.sci", 9, None),
)
"""Line, interrupt, and the HPET's input that it goes through where there is an HPET,
which takes its place in legacy replacement (IA-PC HPET 1.0a, 2.3.5)."""


def pc_lines(machine: Machine) -> Iterator[tuple[str, int | str]]:
    """Every line of the PC's timers on the machine, and its interrupt or the input that it drives."""
    has_hpet = HPET in machine.devices
    for line, number, through in LINES:
        if line.partition(".")[0] in machine.devices:
            yield line, through if through is not None and has_hpet else number
    if has_hpet:
        for number in range(HPET_LINES):
            if number not in (0, 1):
                yield f"{HPET}.irq[{number}]", 0 if number == TIMER_INPUT else number


class Controllers(Protocol):
    """Where a machine's interrupts go."""

    def connect(self, line: str, number: int) -> None:
        """A device's line, "device.line", drives an interrupt."""

    def pin(self, number: int, source: str) -> Pin:
        """What a part of the board calls with its level; parts on one interrupt are or-ed."""


class KernelControllers:
    """KVM's 8259 pair and I/O APIC."""

    def __init__(self, vmm: Vmm) -> None:
        self._vmm = vmm

    def connect(self, line: str, number: int) -> None:
        self._vmm.irq(line, number)

    def pin(self, number: int, source: str) -> Pin:
        host = self._vmm.kvm
        sink = host.line(number)
        return lambda level: sink(level, 0)


MASTER_VECTORS, SLAVE_VECTORS = 0x20, 0x70


def vector(number: int) -> int:
    """Without a controller: the vector of an ISA interrupt, as if one were programmed."""
    return MASTER_VECTORS + number if number < 8 else SLAVE_VECTORS + (number - 8) % 8


class NoControllers:
    """Each rising edge is an interrupt at once, at a fixed vector: 0x20 on for
    interrupts 0 to 7, 0x70 on for 8 to 15. What is beyond has none."""

    def __init__(self, vmm: Vmm) -> None:
        self._vmm = vmm

    def connect(self, line: str, number: int) -> None:
        if number < 16:
            self._vmm.interrupt(line, vector(number))

    def pin(self, number: int, source: str) -> Pin:
        def drive(level: int) -> None:
            if level and number < 16:
                self._vmm.host.inject(vector(number))

        return drive


class DeviceControllers:
    """8259 pair and I/O APIC as device files. With `apics` the host has local APICs,
    which messages go to; without, there is only the 8259s' way."""

    def __init__(self, vmm: Vmm, *, apics: bool) -> None:
        from ..interrupts import Interrupts

        host = vmm.kvm
        self._interrupts = Interrupts(
            vmm.machine,
            native_message=(host.message_function, host.vm_context) if apics else None,
            routed=host.route_msi if apics else None,
        )
        if PIC in vmm.machine.devices:
            vmm.connect_pic(PIC)
        host.on_eoi.append(self._interrupts.eoi)

    def connect(self, line: str, number: int) -> None:
        self._interrupts.connect(line, number)

    def pin(self, number: int, source: str) -> Pin:
        return lambda level: self._interrupts.drive(number, level, source=source)


def controllers(vmm: Vmm, irqchip: Irqchip) -> Controllers:
    """The controllers of a host made with `irqchip`; those of the machine, if it has an 8259."""
    if irqchip == "kernel":
        return KernelControllers(vmm)
    if irqchip == "split" or PIC in vmm.machine.devices:
        return DeviceControllers(vmm, apics=irqchip == "split")
    return NoControllers(vmm)


def wire(machine: Machine, controllers: Controllers) -> None:
    """Connect the PC's timers on a machine, each line where it leads on a PC."""
    for line, target in pc_lines(machine):
        if isinstance(target, str):
            machine.wire(line, target)
        else:
            controllers.connect(line, target)
