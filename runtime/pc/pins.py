"""Interrupt pins of the board's own parts, and ports that are bytes side by side."""

from __future__ import annotations

from collections.abc import Callable

Pin = Callable[[int], object]
"""Called with the level, 0 or 1, when it changes."""


def unconnected(level: int) -> None:
    """A pin that leads nowhere."""


class Bytewise:
    """A window of byte registers: a wider access is that many bytes, low address first.

    An ISA bus cuts an access to an 8-bit device so.
    """

    def __init__(self, read: Callable[[int], int], write: Callable[[int, int], object]) -> None:
        """`read(offset) -> byte`, `write(offset, byte)`."""
        self._read, self._write = read, write

    def read(self, offset: int, width: int) -> int:
        return sum((self._read(offset + i) & 0xFF) << 8 * i for i in range(width))

    def write(self, offset: int, width: int, value: int) -> None:
        for i in range(width):
            self._write(offset + i, value >> 8 * i & 0xFF)
