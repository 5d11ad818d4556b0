"""QEMU's firmware configuration device (docs/specs/fw_cfg of QEMU, the x86 port interface):
a guest asks how much RAM and how many vCPUs there are, firmware for the ACPI tables.

Non-goals: DMA, writing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ..machine import Machine
from .parts import bits

PORT = 0x510
SIGNATURE, IDENTITY, RAM_SIZE, VCPUS, MAX_VCPUS, DIRECTORY = 0x00, 0x01, 0x03, 0x05, 0x0F, 0x19
FIRST_FILE = 0x20
IRQ0_OVERRIDE = 0x8002
"""Interrupt 0 is input 2 of the I/O APIC."""
_TRADITIONAL_INTERFACE = 1


def items(memory: int, vcpus: int, files: Mapping[str, bytes]) -> dict[int, bytes]:
    """Items by key: numbers are little-endian, the directory of files is big-endian."""
    named = sorted(files.items())
    directory = len(named).to_bytes(4, "big") + b"".join(
        struct.pack(">IHH56s", len(content), FIRST_FILE + i, 0, name.encode())
        for i, (name, content) in enumerate(named)
    )
    return {
        SIGNATURE: b"QEMU",
        IDENTITY: _TRADITIONAL_INTERFACE.to_bytes(4, "little"),
        RAM_SIZE: memory.to_bytes(8, "little"),
        VCPUS: vcpus.to_bytes(2, "little"),
        MAX_VCPUS: vcpus.to_bytes(2, "little"),
        DIRECTORY: directory,
        IRQ0_OVERRIDE: b"\x01",
        **{FIRST_FILE + i: content for i, (_, content) in enumerate(named)},
    }


@dataclass
class Registers:
    """The item's key, and the byte of it that comes next."""

    key: int = bits(16, 0xFFFF)
    position: int = bits(32)


class FirmwareConfiguration:
    """The selector, a word, and over its upper byte the data port: bytes one after
    the other, zeros at the end."""

    def __init__(self, items: Mapping[int, bytes]) -> None:
        self._items = items
        self.registers = Registers()

    def refresh(self) -> None:
        """Nothing follows from the registers."""

    def misfit(self, registers: Registers) -> str:
        return ""

    def claim(self, machine: Machine) -> None:
        machine.claim("fw_cfg", "io", PORT, 2, self.read, self.write)

    def read(self, offset: int, width: int) -> int:
        return self._next() if offset == 1 else (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == 0 and width == 2:
            self.registers = Registers(value)

    def _next(self) -> int:
        item, at = self._items.get(self.registers.key, b""), self.registers.position
        self.registers.position = min(at + 1, len(item))
        return item[at] if at < len(item) else 0
