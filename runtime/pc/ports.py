"""Single ports of a PC: consoles, system control port A, PCI without devices, test interrupts."""

from __future__ import annotations

from collections.abc import Callable

from ..machine import Machine
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


def system_control(machine: Machine, reset: Callable[[], object]) -> None:
    """System control port A (PS/2 technical reference): A20 is never gated, bit 0 resets.

    So do port 0xcf9 (ICH9 13.7.5) and the keyboard controller's pulse of its output 0.
    """
    a20 = [_A20]

    def write(offset: int, value: int) -> None:
        a20[0] = value & _A20
        if value & _FAST_RESET:
            reset()

    ports = Bytewise(lambda offset: a20[0], write)
    machine.claim("system control", "io", SYSTEM_CONTROL, 1, ports.read, ports.write)

    def pulse(offset: int, value: int) -> None:
        if value == _PULSE_RESET:
            reset()

    # There is no keyboard: all ones, as of a port without a device.
    keyboard = Bytewise(lambda offset: 0xFF, pulse)
    machine.claim("keyboard command", "io", KEYBOARD_COMMAND, 1, keyboard.read, keyboard.write)


class EmptyPci:
    """Configuration mechanism 1 (PCI 2.3, 3.2.2.3.2) of a bus without devices, and the
    reset control register in the middle of it."""

    def __init__(self, reset: Callable[[], object]) -> None:
        self._reset = reset
        self._address = 0
        self._control = 0

    def claim(self, machine: Machine) -> None:
        machine.claim("PCI configuration", "io", PCI_ADDRESS, 8, self.read, self.write)

    def read(self, offset: int, width: int) -> int:
        if offset == 0 and width == 4:
            return self._address
        if offset == RESET_CONTROL - PCI_ADDRESS and width == 1:
            return self._control
        return (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == 0 and width == 4:
            self._address = value & 0x80FF_FFFC
        elif offset == RESET_CONTROL - PCI_ADDRESS and width == 1:
            rising = value & ~self._control & _RESET_NOW
            self._control = value & 0x0E
            if rising:
                self._reset()


def test_interrupts(machine: Machine, pins: Callable[[int], Pin]) -> None:
    """The ports by which kvm-unit-tests moves interrupt inputs."""
    inputs = [pins(number) for number in range(TEST_INPUTS)]
    ports = Bytewise(lambda offset: 0xFF, lambda offset, value: inputs[offset](value & 1))
    machine.claim("test interrupts", "io", TEST_INTERRUPTS, TEST_INPUTS, ports.read, ports.write)
