"""A description made into a running machine: devices, board, host, guest.

    with boot(Description(guest=Path("vmexit.flat"), append="cpuid"), serial=print) as booted:
        ending = booted.run()

What a description leaves open is chosen by the guest's kind (`DEFAULTS`): a flat
image gets the two timers it can do with and interrupts at fixed vectors; kernels and
firmware get a whole PC.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ..compiler.ir import NEVER
from .clock import HostClock
from .guests import Guest, GuestError, Kind, kind_of, load_firmware, load_guest
from .hosts import DEFAULT_MEMORY
from .hosts.kvm_vm import Irqchip
from .machine import Engine, Machine
from .machine_file import Description, DeviceChoice
from .pc.board import RTC, Ending, Output, Pc
from .pc.disk_image import DiskImage
from .vmm import Vmm

MIB = 1 << 20
TIMERS = ("i8254", "mc146818", "hpet", "acpi_pm")
CONTROLLERS = (DeviceChoice("i8259", None, {"held": 1}), DeviceChoice("ioapic", None, {"polarity": 0}))
"""Of a split machine, as guests know them from QEMU and KVM: the HPET's edges are pulses without
length, which an 8259 that holds no edge would forget, and lines are high where they ask
(docs/devices/i8259.md, ioapic.md)."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a kind of guest gets unless told otherwise."""

    memory: int
    irqchip: str
    devices: tuple[str, ...]


_PC = Defaults(128 * MIB, "kernel", TIMERS)
DEFAULTS: Mapping[Kind, Defaults] = {
    "flat": Defaults(DEFAULT_MEMORY, "none", ("i8254", "acpi_pm")),
    "multiboot": _PC,
    "firmware": _PC,
}


def complete(description: Description) -> Description:
    """With everything chosen that was left open. Raises GuestError."""
    if description.firmware is not None and description.guest is not None:
        raise GuestError("give either a guest or a firmware: a firmware loads its guest from the disk")
    memory, irqchip, devices = description.memory, description.irqchip, description.devices
    if memory is None or irqchip is None or devices is None:
        defaults = DEFAULTS[_kind(description)]
        memory, irqchip = memory or defaults.memory, irqchip or defaults.irqchip
        if devices is None:
            controllers = CONTROLLERS if irqchip == "split" else ()
            devices = (*(DeviceChoice(name) for name in defaults.devices), *controllers)
    dated = tuple(_dated(choice) for choice in devices)
    return replace(description, memory=memory, irqchip=irqchip, devices=dated)


def _kind(description: Description) -> Kind:
    if description.firmware is not None:
        return "firmware"
    if description.guest is None:
        raise GuestError("there is no guest: give a file, or a firmware")
    return kind_of(description.guest)


def _dated(choice: DeviceChoice) -> DeviceChoice:
    """A clock begins at the host's time, as UTC; a saved guest's at what that was."""
    if choice.type != RTC or "date" in choice.params:
        return choice
    return replace(choice, params={**choice.params, "date": int(time.time())})


@dataclass(frozen=True, slots=True)
class Booted:
    """A machine with its guest in place. `description` has nothing left open."""

    description: Description
    machine: Machine
    pc: Pc
    vmm: Vmm
    guest: Guest

    def run(self, seconds: float | None = None) -> Ending:
        """Run the guest to its end, or for some seconds of its time."""
        if isinstance(self.machine.clock, HostClock):
            self.machine.clock.start()  # a guest that was put back stands until here
        until = NEVER if seconds is None else self.machine.now + int(seconds * 1e9)
        return self.pc.run(self.vmm, self.guest, until)


@contextmanager
def boot(
    description: Description,
    *,
    engine: Engine = "native",
    serial: Output | None = None,
    console: Output | None = None,
    python: Mapping[str, Mapping[str, Mapping[str, object]]] | None = None,
    guest: Guest | None = None,
) -> Iterator[Booted]:
    """Build the machine and place its guest; everything is closed at the end.

    `guest`: this one, not that of the description's files (runtime/pausing.py).

    `python`: options for the Python tiers, by device, as `Machine.add` takes them.
    Raises GuestError, DiskError, MachineError, HostError, and what
    loading a device file raises.
    """
    with ExitStack() as stack:
        full = complete(description)
        assert full.memory is not None
        assert full.devices is not None
        machine = Machine(HostClock(), engine)
        stack.callback(machine.close)
        _add_devices(machine, full.devices, python or {})
        disk = None
        if full.disk is not None:
            disk = DiskImage(full.disk.image, writable=full.disk.writable)
            stack.callback(disk.close)
        irqchip = cast(Irqchip, full.irqchip)
        pc = Pc(
            machine,
            irqchip,
            memory=full.memory,
            vcpus=full.vcpus,
            disk=disk,
            serial=serial,
            console=console,
            reboot=full.firmware is not None,
        )
        guest = guest or _guest(full, pc)
        vmm = stack.enter_context(
            Vmm(machine, full.host, full.memory, vcpus=full.vcpus, irqchip=irqchip, hide_kvm=full.hide_kvm)
        )
        pc.connect(vmm)
        guest.place(vmm.host)
        yield Booted(full, machine, pc, vmm, guest)


def _guest(description: Description, pc: Pc) -> Guest:
    if description.firmware is not None:
        return load_firmware(description.firmware, pc.memory)
    assert description.guest is not None
    modules = [(module.file, module.text) for module in description.modules]
    return load_guest(description.guest, pc.surroundings(description.append, modules))


def _add_devices(
    machine: Machine,
    devices: tuple[DeviceChoice, ...],
    python: Mapping[str, Mapping[str, Mapping[str, object]]],
) -> None:
    for choice in devices:
        options = python.get(Path(choice.type).stem)
        machine.add(choice.type, choice.name, python=options, **choice.params)
