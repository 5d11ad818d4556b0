"""A whole PC around a machine's timers, and what becomes of it: off, reset, asleep.

    pc = Pc(machine, "kernel", vcpus=2, memory=128 << 20, disk=DiskImage("disk.img"))
    guest = load_guest("vmexit.flat", pc.surroundings("cpuid"))
    with Vmm(machine, memory=pc.memory, vcpus=2, irqchip="kernel") as vmm:
        pc.connect(vmm)
        ending = pc.run(vmm, guest)

Non-goals: a display, a keyboard, PCI devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...compiler.ir import NEVER
from ..guests import BELOW_4_GIB, TABLES, Guest, Surroundings
from ..hosts import Exit, Reason
from ..hosts.start import RESET, Start
from . import acpi, acpi_loader, cmos, ports
from .ata import IRQ as ATA_IRQ
from .ata import AtaDisk
from .disk_image import DiskImage
from .fw_cfg import FirmwareConfiguration, items
from .parts import Part
from .sleep import SleepControl
from .uart import COM1_IRQ, Uart
from .wiring import controllers, wire

if TYPE_CHECKING:
    from ..hosts.kvm_vm import Irqchip
    from ..machine import Machine
    from ..vmm import Vmm

EXIT_PORT, EXIT_PORTS = 0xF4, 4
RTC, PM_TIMER, HPET = "mc146818", "acpi_pm", "hpet"
CENTURY = 0x32
_CONTROL = 12
"""The PM1 control block stands behind the PM timer's window."""
RESET_PORT = (ports.RESET_CONTROL, 6)
_WAKING_VECTOR = 12  # ACPI 6.5, 5.2.10

LOOKS_EVERY = 500_000_000
"""ns between two looks of a sleeping machine whether it must wake, at the least."""

Output = Callable[[bytes], object]
Request = Literal["exit", "off", "reset", "sleep"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a guest's run ended: the host's exit, and what the guest asked for, if it did;
    `value` is what it wrote to the exit port."""

    exit: Exit
    request: Request | None = None
    value: int = 0


class Pc:
    """The board's parts, on windows of a machine whose devices are there already.
    `irqchip` is as its Vmm will have it.

    `serial` and `console` take the guest's bytes. `reboot`: a reset starts the guest
    again, else it ends the run.
    """

    def __init__(
        self,
        machine: Machine,
        irqchip: Irqchip = "kernel",
        *,
        memory: int,
        vcpus: int = 1,
        disk: DiskImage | None = None,
        serial: Output | None = None,
        console: Output | None = None,
        reboot: bool = False,
    ) -> None:
        """Raises MachineError if a device stands where the board's parts do."""
        self.machine, self.irqchip, self.memory = machine, irqchip, memory
        self.vcpus, self.reboot = vcpus, reboot
        self.uart = Uart(serial)
        self.disk = AtaDisk(disk)
        self._request: tuple[Request, int] | None = None
        self._stop: Callable[[], object] = lambda: None
        self._about = self._describe()
        self.tests = ports.TestInterrupts()
        reset = partial(self._ask, "reset")
        self.parts: dict[str, Part] = {
            "serial": self.uart,
            "disk": self.disk,
            "control": ports.SystemControl(reset),
            "pci": ports.EmptyPci(reset),
            "tests": self.tests,
            "fw_cfg": FirmwareConfiguration(items(memory, vcpus, acpi_loader.files(self._about))),
        }
        """What the board remembers, by the names of a saved guest's parts."""
        base = self._pm_base()
        if base is not None:
            off, sleep = partial(self._ask, "off"), partial(self._ask, "sleep")
            self.parts["sleep"] = SleepControl(base + _CONTROL, off, sleep)
        self._claim(console)
        if RTC in machine.devices:
            below = min(memory, BELOW_4_GIB)
            contents = cmos.contents(below, memory - below, vcpus=vcpus, disk=disk is not None)
            cmos.write(machine, contents, self._clock_base())

    def _claim(self, console: Output | None) -> None:
        machine = self.machine
        for part in self.parts.values():
            part.claim(machine)
        for port in ports.CONSOLES:
            ports.console(machine, port, console or (lambda data: None))
        machine.claim("exit", "io", EXIT_PORT, EXIT_PORTS, write=self._exit)

    def _pm_base(self) -> int | None:
        device = self.machine.devices.get(PM_TIMER)
        return device.bases["base"] if device is not None else None

    def _clock_base(self) -> int:
        return self.machine.devices[RTC].bases["base"] or 0x70

    # --- what the guest is told ---------------------------------------------------------

    def _describe(self) -> acpi.Description:
        devices, base = self.machine.devices, self._pm_base()
        hpet = devices[HPET].bases["base"] if HPET in devices else None
        return acpi.Description(
            vcpus=self.vcpus,
            pm_base=base,
            pm_control=None if base is None else base + _CONTROL,
            pm_wide=bool(base is not None and devices[PM_TIMER].stored.get("wide")),
            hpet=None if hpet is None else (hpet, self.machine.peek("mmio", hpet, 4)),
            apics=self.irqchip != "none",
            io_apic=acpi.IO_APIC if self._has("ioapic") else None,
            pics=self._has("i8259"),
            overrides=(acpi.Override(0, 2), acpi.Override(acpi.SCI, acpi.SCI, acpi.HIGH_LEVEL)),
            century=CENTURY if RTC in devices else 0,
            reset_port=RESET_PORT,
            legacy=acpi.LEGACY_DEVICES | acpi.NO_VGA | (0 if RTC in devices else acpi.NO_CLOCK),
        )

    def _has(self, controller: str) -> bool:
        return self.irqchip == "kernel" or controller in self.machine.devices

    @property
    def tables(self) -> acpi.Tables:
        """The ACPI tables of this machine, for where firmware would leave them."""
        return acpi.build(self._about, TABLES)

    def surroundings(self, command_line: str = "", modules: Sequence[tuple[Path, str]] = ()) -> Surroundings:
        """What `load_guest` needs to know."""
        return Surroundings(self.memory, command_line, modules, self.tables)

    # --- what the guest asks for ----------------------------------------------------------

    def _ask(self, request: Request, value: int = 0) -> None:
        if self._request is None:
            self._request = request, value
        self._stop()

    def _exit(self, offset: int, width: int, value: int) -> None:
        if offset == 0:
            self._ask("exit", value)

    # --- running ----------------------------------------------------------------------------

    def connect(self, vmm: Vmm) -> None:
        """Lead every interrupt to the guest through the controllers that there are."""
        chips = controllers(vmm, self.irqchip)
        wire(self.machine, chips)
        self.uart.pin = chips.pin(COM1_IRQ, "serial")
        self.disk.pin = chips.pin(ATA_IRQ, "disk")
        self.tests.pins = [chips.pin(number, "test") for number in range(ports.TEST_INPUTS)]
        self._stop = vmm.stop

    def run(self, vmm: Vmm, guest: Guest, until: int = NEVER) -> Ending:
        """Run a guest that was placed, through resets and sleep, to its end or to virtual instant `until`."""
        while True:
            self._request = None
            ended = vmm.run(until)
            if ended.reason is not Reason.STOPPED or self._request is None:
                return Ending(ended)
            request, value = self._request
            if request == "sleep" and self._sleep(until):
                if self.machine.now >= until:
                    return Ending(Exit(Reason.TIME, self.machine.now, "asleep"))
                if self._wake(vmm, guest):
                    continue
            elif request == "reset" and self.reboot:
                self.reset()
                guest.replace(vmm.host)
                continue
            return Ending(ended, request, value)

    def reset(self) -> None:
        """As RESET# does: all but the clock, which has a battery and a reset pin."""
        machine = self.machine
        with machine.lock:
            now = machine.now
            clock = machine.devices.get(RTC)
            image = clock.instance.save(now) if clock is not None else b""
            machine.reset()
            if clock is not None:
                clock.instance.restore(now, image)
                for level in (1, 0):
                    clock.drive("reset_pin", level, now)
                machine.attend(clock, now)
            self.uart.reset()
            self.disk.reset()

    def _sleep(self, until: int) -> bool:
        """Wait until the clock's interrupt wakes the machine, or `until`; False if nothing will."""
        if RTC not in self.machine.devices:
            return False
        clock = self.machine.devices[RTC]
        bit = 1 << next(line.bit for line in clock.lines if line.name == "irq8")
        while True:
            with self.machine.lock:
                self.machine.service()
                woken, deadline = clock.instance.lines & bit, min(clock.deadline, until)
            now = self.machine.now
            if woken or now >= until:
                return True
            if deadline == NEVER:
                return False
            time.sleep(min(max(deadline - now, 0), LOOKS_EVERY) / 1e9)

    def _wake(self, vmm: Vmm, guest: Guest) -> bool:
        """Begin again with memory as it is (ACPI 6.5, 16.3.2): a firmware looks for the waking
        vector by itself, for a kernel it is done here. False if there is none."""
        if guest.kind == "firmware":
            cmos.write(self.machine, {cmos.SHUTDOWN: cmos.WAKING}, self._clock_base())
            vmm.host.start(RESET)
            return True
        facs = self.tables.places["FACS"]
        vector = int.from_bytes(vmm.host.read(facs + _WAKING_VECTOR, 4), "little")
        if not 0 < vector < 1 << 20:
            return False
        vmm.host.start(Start("real", vector))
        return True
