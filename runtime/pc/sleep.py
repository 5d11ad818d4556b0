"""The PM1 control block (ACPI 6.5, 4.8.3.2.1): a guest turns the machine off, or to sleep.

The machine is always in ACPI mode, so SCI_EN reads 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..machine import Machine
from .acpi import SLEEP_S3, SLEEP_S5
from .parts import bits
from .pins import Bytewise

_SCI_ENABLED = 1 << 0
_TYPE_AT, _TYPE_MASK = 10, 7
_ENTER = 1 << 13


@dataclass
class Registers:
    """PM1 control, without SLP_EN, which is write-only, and SCI_EN, which is constant."""

    control: int = bits(16)


class SleepControl:
    """`off` is called for S5, `sleep` for S3."""

    def __init__(self, base: int, off: Callable[[], object], sleep: Callable[[], object]) -> None:
        self._base = base
        self._states = {SLEEP_S5: off, SLEEP_S3: sleep}
        self.registers = Registers()

    def refresh(self) -> None:
        """Nothing follows from the register."""

    def misfit(self, registers: Registers) -> str:
        return "SLP_EN cannot be set" if registers.control & _ENTER else ""

    def claim(self, machine: Machine) -> None:
        """Two ports at `base`. Raises MachineError if something else is there."""
        ports = Bytewise(lambda offset: (self.registers.control | _SCI_ENABLED) >> 8 * offset, self._byte)
        machine.claim("PM1 control", "io", self._base, 2, ports.read, ports.write)

    def _byte(self, offset: int, value: int) -> None:
        kept = self.registers.control & ~(0xFF << 8 * offset) | value << 8 * offset
        self.registers.control = kept & ~_ENTER
        if kept & _ENTER:
            enter = self._states.get(kept >> _TYPE_AT & _TYPE_MASK)
            if enter is not None:
                enter()
