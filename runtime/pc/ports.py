"""Single ports of a PC: consoles, system control port A, PCI without devices, test interrupts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..machine import Machine
from .parts import bits
from .pins import Bytewise, Pin

CONSOLES = (0x402, 0xE9)
"""SeaBIOS's and Bochs' debug consoles. Each reads as 0xe9 (Bochs) so that it is found."""
_CONSOLE_FOUND = 0xE9

SYSTEM_CONTROL = 0x92
_FAST_RESET, _A20 = 1, 2

RESET_CONTROL = 0xCF9
_RESET_NOW = 4

PCI_ADDRESS = 0xCF8

TEST_INTERRUPTS = 0x2000
"""kvm-unit-tests' own device: a byte written to 0x2000 + n is the level of interrupt n."""
TEST_INPUTS = 24

KEYBOARD_COMMAND = 0x64
_PULSE_RESET = 0xFE


def console(machine: Machine, port: int, write: Callable[[bytes], object]) -> None:
    """Bytes written to a port go to a function, strings of them one by one."""

    def take(offset: int, width: int, value: int) -> None:
        write((value & (1 << 8 * width) - 1).to_bytes(width, "little"))

    machine.claim(f"console {port:#x}", "io", port, 1, lambda offset, width: _CONSOLE_FOUND, take)


@dataclass
class ControlRegisters:
    """System control port A, but for the bit that resets."""

    a20: int = bits(2, _A20)


class SystemControl:
    """System control port A (PS/2 technical reference): A20 is never gated, bit 0 resets.

    So does the keyboard controller's pulse of its output 0; there is no keyboard.
    """

    def __init__(self, reset: Callable[[], object]) -> None:
        self._reset = reset
        self.registers = ControlRegisters()

    def claim(self, machine: Machine) -> None:
        ports = Bytewise(lambda offset: self.registers.a20, self._write)
        machine.claim("system control", "io", SYSTEM_CONTROL, 1, ports.read, ports.write)
        keyboard = Bytewise(lambda offset: 0xFF, self._pulse)
        machine.claim("keyboard command", "io", KEYBOARD_COMMAND, 1, keyboard.read, keyboard.write)

    def refresh(self) -> None:
        """A20 is never gated."""

    def misfit(self, registers: ControlRegisters) -> str:
        return "bit 0 cannot be set" if registers.a20 & _FAST_RESET else ""

    def _write(self, offset: int, value: int) -> None:
        self.registers.a20 = value & _A20
        if value & _FAST_RESET:
            self._reset()

    def _pulse(self, offset: int, value: int) -> None:
        if value == _PULSE_RESET:
            self._reset()


@dataclass
class PciRegisters:
    """CONFIG_ADDRESS, and the reset control register."""

    address: int = bits(32)
    control: int = bits(4)


class EmptyPci:
    """Configuration mechanism 1 (PCI 2.3, 3.2.2.3.2) of a bus without devices, and the
    reset control register in the middle of it (port 0xcf9, ICH9 13.7.5)."""

    def __init__(self, reset: Callable[[], object]) -> None:
        self._reset = reset
        self.registers = PciRegisters()

    def claim(self, machine: Machine) -> None:
        machine.claim("PCI configuration", "io", PCI_ADDRESS, 8, self.read, self.write)

    def refresh(self) -> None:
        """There is no device that an address selects."""

    def misfit(self, registers: PciRegisters) -> str:
        return ""

    def read(self, offset: int, width: int) -> int:
        if offset == 0 and width == 4:
            return self.registers.address
        if offset == RESET_CONTROL - PCI_ADDRESS and width == 1:
            return self.registers.control
        return (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == 0 and width == 4:
            self.registers.address = value & 0x80FF_FFFC
        elif offset == RESET_CONTROL - PCI_ADDRESS and width == 1:
            rising = value & ~self.registers.control & _RESET_NOW
            self.registers.control = value & 0x0E
            if rising:
                self._reset()


@dataclass
class InputRegisters:
    """The levels that were written."""

    levels: int = bits(TEST_INPUTS)


class TestInterrupts:
    """The ports by which kvm-unit-tests moves interrupt inputs. `pins`: where each leads."""

    __test__ = False  # it is no test of pytest's

    def __init__(self) -> None:
        self.pins: list[Pin] = []
        self.registers = InputRegisters()
        self._levels = 0

    def claim(self, machine: Machine) -> None:
        ports = Bytewise(lambda offset: 0xFF, self._write)
        machine.claim("test interrupts", "io", TEST_INTERRUPTS, TEST_INPUTS, ports.read, ports.write)

    def refresh(self) -> None:
        """The pins follow the levels."""
        changed, self._levels = self._levels ^ self.registers.levels, self.registers.levels
        for number, pin in enumerate(self.pins):
            if changed >> number & 1:
                pin(self._levels >> number & 1)

    def misfit(self, registers: InputRegisters) -> str:
        return ""

    def _write(self, offset: int, value: int) -> None:
        self.registers.levels = self.registers.levels & ~(1 << offset) | (value & 1) << offset
        self.refresh()
