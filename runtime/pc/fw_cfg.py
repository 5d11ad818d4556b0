"""QEMU's firmware configuration device, as far as numbers go: a guest asks how much RAM
and how many vCPUs there are (docs/specs/fw_cfg of QEMU, the x86 port interface).

Non-goals: files, DMA, writing.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..machine import Machine

PORT = 0x510
SIGNATURE, IDENTITY, RAM_SIZE, VCPUS, MAX_VCPUS, DIRECTORY = 0x00, 0x01, 0x03, 0x05, 0x0F, 0x19
_TRADITIONAL_INTERFACE = 1


def numbers(memory: int, vcpus: int) -> dict[int, bytes]:
    """Items by key, little-endian; the directory of files (big-endian) is empty."""
    return {
        SIGNATURE: b"QEMU",
        IDENTITY: _TRADITIONAL_INTERFACE.to_bytes(4, "little"),
        RAM_SIZE: memory.to_bytes(8, "little"),
        VCPUS: vcpus.to_bytes(2, "little"),
        MAX_VCPUS: vcpus.to_bytes(2, "little"),
        DIRECTORY: bytes(4),
    }


class FirmwareConfiguration:
    """The selector, a word, and over its upper byte the data port: bytes one after
    the other, zeros at the end."""

    def __init__(self, items: Mapping[int, bytes]) -> None:
        self._items = items
        self._selected = b""
        self._position = 0

    def claim(self, machine: Machine) -> None:
        machine.claim("fw_cfg", "io", PORT, 2, self.read, self.write)

    def read(self, offset: int, width: int) -> int:
        return self._next() if offset == 1 else (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == 0 and width == 2:
            self._selected, self._position = self._items.get(value, b""), 0

    def _next(self) -> int:
        at, self._position = self._position, self._position + 1
        return self._selected[at] if at < len(self._selected) else 0
