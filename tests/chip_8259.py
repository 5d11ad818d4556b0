"""Two 8259A as the data sheet tells them, level by level: an independent witness for i8259.dev.

Nothing is computed by masks: priorities are found by walking round the levels,
and each request is an object of its own. `held` is the device's parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Request:
    """One IR input with its edge sense latch, mask and in-service bit."""

    pin: bool = False
    edge: bool = False
    masked: bool = False
    serving: bool = False


@dataclass
class Chip:
    held: bool
    levels: list[Request] = field(default_factory=lambda: [Request() for _ in range(8)])
    level_triggered: set[int] = field(default_factory=set)  # by ELCR
    queue: list[str] = field(default_factory=lambda: ["power-on"])  # what the data port expects
    icw1: int = 0
    icw2: int = 0
    icw3: int = 0
    icw4: int = 0
    last: int = 7
    rotate_in_aeoi: bool = False
    special_mask: bool = False
    show: str = "irr"
    frozen: list[bool] | None = None
    dips: int = 0  # how often INT fell in an acknowledge and rose again

    # --- inputs ---

    def set(self, n: int, pin: bool) -> None:
        request = self.levels[n]
        if pin and not request.pin:
            request.edge = True
        if not pin and request.pin and not self.held:
            request.edge = False
        request.pin = pin

    def asks(self, n: int) -> bool:
        if self.frozen is not None:
            return self.frozen[n]
        if self.icw1 & 8 or n in self.level_triggered:
            return self.levels[n].pin
        return self.levels[n].edge

    # --- the priority resolver ---

    def order(self) -> Iterator[int]:
        for step in range(1, 9):
            yield (self.last + step) % 8

    def holds_back(self, n: int) -> bool:
        """Whether a service at level n keeps itself and lower levels from interrupting."""
        request = self.levels[n]
        return request.serving and not (self.special_mask and request.masked)

    def is_slave_input(self, n: int) -> bool:
        return not self.icw1 & 2 and bool(self.icw3 >> n & 1)

    def winner(self) -> int | None:
        """The level that INT is high for."""
        if self.queue:
            return None
        for n in self.order():
            asking = self.asks(n) and not self.levels[n].masked
            if self.holds_back(n):
                passes = self.icw4 & 0x10 and self.is_slave_input(n)
                return n if asking and passes else None
            if asking:
                return n
        return None

    @property
    def int(self) -> bool:
        return self.winner() is not None

    # --- acknowledge and end ---

    def vector(self) -> int:
        level = self.winner()
        level = 7 if level is None else level
        if self.icw4 & 1:
            return self.icw2 & 0xF8 | level
        low = self.icw1 & 224 | level * 4 if self.icw1 & 4 else self.icw1 & 192 | level * 8
        return self.icw2 << 16 | low << 8 | 0xCD

    def acknowledge(self) -> None:
        level = self.winner()
        if level is not None:
            self.levels[level].edge = False
            if not self.icw4 & 2:
                self.levels[level].serving = True
            elif self.rotate_in_aeoi:
                self.last = level
        self.frozen = None
        if level is not None and self.int:
            self.dips += 1

    def poll(self) -> int:
        level = self.winner()
        self.acknowledge()
        return 7 if level is None else 0x80 | level

    def end(self, n: int, rotate: bool) -> None:
        self.levels[n].serving = False
        if rotate:
            self.last = n

    # --- ports ---

    def read(self, a0: int) -> int:
        if self.frozen is not None:
            return self.poll()
        bits = {
            "imr": [r.masked for r in self.levels],
            "isr": [r.serving for r in self.levels],
            "irr": [self.asks(n) for n in range(8)],
        }["imr" if a0 else self.show]
        return sum(1 << n for n, bit in enumerate(bits) if bit)

    def write(self, a0: int, value: int) -> None:
        if a0:
            self._data(value)
        elif value & 0x10:
            self._icw1(value)
        elif value & 0x08:
            self._ocw3(value)
        else:
            self._ocw2(value)

    def _icw1(self, value: int) -> None:
        for request in self.levels:
            request.edge = request.masked = request.serving = False
        self.icw1, self.icw3, self.last = value, 7, 7
        self.special_mask = self.rotate_in_aeoi = False
        self.show, self.frozen = "irr", None
        if not value & 1:
            self.icw4 = 0
        self.queue = ["icw2"] + ["icw3"] * (not value & 2) + ["icw4"] * (value & 1)

    def _data(self, value: int) -> None:
        if not self.queue or self.queue == ["power-on"]:
            for n, request in enumerate(self.levels):
                request.masked = bool(value >> n & 1)
            return
        setattr(self, self.queue.pop(0), value)

    def _ocw2(self, value: int) -> None:
        rotate, specific, eoi, level = value >> 7 & 1, value >> 6 & 1, value >> 5 & 1, value & 7
        if eoi and specific:
            self.end(level, bool(rotate))
        elif eoi:
            first = next((n for n in self.order() if self.holds_back(n)), None)
            if first is not None:
                self.end(first, bool(rotate))
        elif specific and rotate:
            self.last = level
        elif not specific:
            self.rotate_in_aeoi = bool(rotate)

    def _ocw3(self, value: int) -> None:
        if value & 0x40:
            self.special_mask = bool(value & 0x20)
        if value & 0x02:
            self.show = "isr" if value & 1 else "irr"
        if value & 0x04:
            self.frozen = [self.asks(n) for n in range(8)]


class Pair:
    """Master and slave, the slave's INT on the master's IR2."""

    def __init__(self, held: bool = False) -> None:
        self.master, self.slave = Chip(held), Chip(held)
        self._dips = 0

    def _follow(self) -> None:
        """The master sees INT of the slave, and each of its falls."""
        if self.slave.dips != self._dips:
            self._dips = self.slave.dips
            self.master.levels[2].edge = True
        self.master.set(2, self.slave.int)

    def set(self, pins: int) -> None:
        for n in range(16):
            chip = self.slave if n > 7 else self.master
            if n != 2:
                chip.set(n % 8, bool(pins >> n & 1))
        self._follow()

    def outb(self, port: int, value: int) -> None:
        if port in (0x4D0, 0x4D1):
            high = port & 1
            value &= 0xDE if high else 0xF8
            (self.slave if high else self.master).level_triggered = {n for n in range(8) if value >> n & 1}
        else:
            (self.slave if port & 0x80 else self.master).write(port & 1, value)
        self._follow()

    def inb(self, port: int) -> int:
        if port in (0x4D0, 0x4D1):
            chip = self.slave if port & 1 else self.master
            return sum(1 << n for n in chip.level_triggered)
        value = (self.slave if port & 0x80 else self.master).read(port & 1)
        self._follow()
        return value

    def inta(self) -> int:
        vector, level = self.master.vector(), self.master.winner()
        cascaded = level is not None and self.master.is_slave_input(level)
        self.master.acknowledge()
        if cascaded:
            vector = 0xFF
            if level == 2 and self.slave.icw3 & 7 == 2:
                vector = self.slave.vector()
                self.slave.acknowledge()
        self._follow()
        return vector

    @property
    def int(self) -> bool:
        return self.master.int

    @property
    def served(self) -> int:
        chips = (self.master, self.slave)
        return sum(
            1 << 8 * i + n for i, chip in enumerate(chips) for n, r in enumerate(chip.levels) if r.serving
        )
