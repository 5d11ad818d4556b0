"""The 82093AA as its data sheet tells it, in bits of one 64-bit word an entry: a witness for ioapic.dev."""

from __future__ import annotations

from dataclasses import dataclass, field

Message = tuple[int, int, int]
RESERVED = 0x00FF_FFFF_FFFE_0000
READ_ONLY = 1 << 12 | 1 << 14


@dataclass
class Chip:
    """`sent` collects messages as (pin, address, data)."""

    version: int = 0x11
    index: int = 0
    id: int = 0
    arbitration: int = 0
    entries: list[int] = field(default_factory=lambda: [1 << 16] * 24)
    pins: int = 0
    sent: list[Message] = field(default_factory=list)

    def bit(self, pin: int, at: int) -> int:
        return self.entries[pin] >> at & 1

    def active(self, pin: int) -> bool:
        return bool((self.pins >> pin & 1) ^ self.bit(pin, 13))

    def is_level(self, pin: int) -> bool:
        return bool(self.bit(pin, 15)) and self.entries[pin] >> 8 & 7 in (0, 1)

    def send(self, pin: int) -> None:
        entry = self.entries[pin]
        mode = entry >> 8 & 7
        address = 0xFEE00000 + (entry >> 56) * 0x1000
        if mode == 1:
            address += 8
        if self.bit(pin, 11):
            address += 4
        data = (entry & 0xFF) + 0x100 * mode + 0x4000
        if self.is_level(pin):
            data += 0x8000
            self.entries[pin] |= 1 << 14
        self.sent.append((pin, address, data))

    def look(self, pin: int) -> None:
        """A level that asks and is not in service yet."""
        if self.is_level(pin) and self.active(pin) and not self.bit(pin, 16) and not self.bit(pin, 14):
            self.send(pin)

    def rose(self, pin: int) -> None:
        if self.is_level(pin):
            self.look(pin)
        elif not self.bit(pin, 16):
            self.send(pin)

    def set(self, pins: int) -> None:
        before = [self.active(pin) for pin in range(24)]
        self.pins = pins
        for pin in range(24):
            if self.active(pin) and not before[pin]:
                self.rose(pin)

    def write_window(self, value: int) -> None:
        if self.index == 0:
            self.id = self.arbitration = value >> 24 & 15
        pin, high = divmod(self.index - 0x10, 2)
        if not 0 <= pin < 24:
            return
        was_active = self.active(pin)
        kept = self.entries[pin] & (READ_ONLY | (0xFFFF_FFFF if high else 0xFFFF_FFFF << 32))
        given = (value << 32 if high else value) & ~(RESERVED | READ_ONLY)
        self.entries[pin] = kept | given
        if not self.is_level(pin):
            self.entries[pin] &= ~(1 << 14)
        self.look(pin)
        if self.active(pin) and not was_active and not self.is_level(pin):
            self.rose(pin)

    def read_window(self) -> int:
        if self.index in (0, 2):
            return (self.arbitration if self.index else self.id) << 24
        if self.index == 1:
            return 23 << 16 | self.version
        pin, high = divmod(self.index - 0x10, 2)
        if not 0 <= pin < 24:
            return 0
        return self.entries[pin] >> (32 if high else 0) & 0xFFFF_FFFF

    def eoi(self, vector: int) -> None:
        for pin in range(24):
            if self.entries[pin] & 0xFF == vector and self.bit(pin, 14):
                self.entries[pin] &= ~(1 << 14)
                self.look(pin)
