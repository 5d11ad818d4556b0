"""PCI configuration mechanism 1, as far as timers need it: functions that place a device.

On the PC's chipsets the PM timer has no address until firmware writes one into a
configuration register and enables it. Anything else of a function is read-only
identification; absent functions read as all ones.

Non-goals: BARs, interrupts, bridges, memory-mapped configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

CONFIG_ADDRESS = 0xCF8
CONFIG_SIZE = 8
_DATA = 4
_ENABLE = 1 << 31


@dataclass(frozen=True, slots=True)
class Placement:
    """A function's registers that place one device's windows.

    The base is bits `mask` of the 32-bit register `base_at`; it counts while
    `enable_bit` of byte `enable_at` is set.
    """

    device: str
    param: str
    base_at: int
    mask: int
    enable_at: int
    enable_bit: int


@dataclass(frozen=True, slots=True)
class Function:
    """A PCI function on bus 0: `slot` and `number`, identification, what it places."""

    slot: int
    number: int
    vendor: int
    device: int
    class_code: int
    placement: Placement | None = None


class _Space:
    """A function's 256 bytes of configuration."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.data = bytearray(256)
        self.writable = bytearray(256)
        self._put(0x00, 2, function.vendor)
        self._put(0x02, 2, function.device)
        self._put(0x09, 3, function.class_code)
        placement = function.placement
        if placement is not None:
            # Bit 0 of a base register says "I/O space" and is hard-wired.
            self._put(placement.base_at, 4, 1)
            self.writable[placement.base_at : placement.base_at + 4] = placement.mask.to_bytes(4, "little")
            self.writable[placement.enable_at] |= placement.enable_bit

    def _put(self, at: int, size: int, value: int) -> None:
        self.data[at : at + size] = value.to_bytes(size, "little")

    def write(self, at: int, value: int) -> None:
        mask = self.writable[at]
        self.data[at] = self.data[at] & ~mask & 0xFF | value & mask

    def base(self, placement: Placement) -> int | None:
        if not self.data[placement.enable_at] & placement.enable_bit:
            return None
        register = int.from_bytes(self.data[placement.base_at : placement.base_at + 4], "little")
        return register & placement.mask


class Configuration:
    """The ports 0xcf8..0xcff. `move(device, param, base)` is called when a base changes."""

    def __init__(
        self, functions: tuple[Function, ...], move: Callable[[str, str, int | None], object]
    ) -> None:
        self._spaces: Mapping[int, _Space] = {f.slot << 3 | f.number: _Space(f) for f in functions}
        self._move = move
        self._address = 0

    def read(self, offset: int, width: int) -> int:
        if offset < _DATA:
            # Only a 32-bit access reaches the address register (PCI 2.3, 3.2.2.3.2).
            whole = offset == 0 and width == 4
            return self._address if whole else (1 << 8 * width) - 1
        space, at = self._selected(offset)
        if space is None:
            return (1 << 8 * width) - 1
        return int.from_bytes(space.data[at : at + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        if offset < _DATA:
            if offset == 0 and width == 4:
                self._address = value & (_ENABLE | 0x00FF_FFFC)
            return
        space, at = self._selected(offset)
        if space is None:
            return
        placement = space.function.placement
        before = space.base(placement) if placement else None
        for i in range(width):
            space.write((at + i) & 0xFF, value >> 8 * i & 0xFF)
        if placement is not None and space.base(placement) != before:
            self._move(placement.device, placement.param, space.base(placement))

    def _selected(self, offset: int) -> tuple[_Space | None, int]:
        enabled = self._address & _ENABLE and not self._address >> 16 & 0xFF
        space = self._spaces.get(self._address >> 8 & 0xFF) if enabled else None
        return space, (self._address & 0xFC) + offset - _DATA
