"""The 8254 as its data sheet tells it, one CLK pulse after the other.

Slow and literal, so that it can be held beside the data sheet (231164-005,
"Mode Definitions"); knows nothing of how i8254.dev derives the same from time.
What the data sheet leaves undefined is not asked of it: counts before the first
one is loaded, counts of 1 in modes 2 and 3, BCD counts of no decimal digits,
latching in the middle of a two-byte read.
"""

from __future__ import annotations

LSB, MSB, WORD = 1, 2, 3


class Counter:
    """One counter; `clk` is a CLK pulse's falling edge, where it loads and counts."""

    def __init__(self) -> None:
        self.access, self.m, self.bcd = WORD, 3, False
        self.gate = self.out = True
        self.cr = self.ce = 0
        self.null = True
        self.written = False  # a count since the control word
        self.load_next = False  # load the counting element on the next CLK
        self.counting = False
        self.low: int | None = None
        self.strobe = False  # modes 4 and 5: armed, OUT goes low once
        self.read_high = False
        self.count_latch: list[int] = []
        self.status_latch: int | None = None

    @property
    def mode(self) -> int:
        return self.m - 4 if self.m > 5 else self.m

    @property
    def modulus(self) -> int:
        return 10_000 if self.bcd else 65_536

    # --- programming ---

    def control(self, value: int) -> None:
        if value >> 4 & 3 == 0:
            self.latch_count()
            return
        self.access, self.m, self.bcd = value >> 4 & 3, value >> 1 & 7, bool(value & 1)
        self.out = self.mode != 0
        self.null, self.written, self.load_next, self.counting = True, False, False, False
        self.low, self.read_high, self.count_latch, self.status_latch = None, False, [], None

    def write(self, value: int) -> None:
        if self.access == WORD and self.low is None:
            self.low = value
            if self.mode == 0:  # "Writing the first byte disables counting. OUT is set low immediately"
                self.counting, self.load_next, self.out = False, False, False
            return
        if self.access == WORD:
            self.cr, self.low = value << 8 | (self.low or 0), None
        else:
            self.cr = value if self.access == LSB else value << 8
        self.null = True
        first, self.written = not self.written, True
        if self.mode == 0:
            self.out, self.counting = False, False
        # Modes 1 and 5 wait for the trigger; modes 2 and 3, once counting, for the end of the (half) cycle.
        if self.mode in (0, 4) or (self.mode in (2, 3) and (first or not self.counting)):
            self.load_next = True

    def set_gate(self, gate: bool) -> None:
        rose = gate and not self.gate
        self.gate = gate
        if self.mode in (2, 3) and not gate:
            self.out = True  # and the counter stands, until a trigger reloads it
        if rose and self.mode in (1, 2, 3, 5) and self.written:
            self.load_next = True

    # --- counting ---

    def _load(self) -> None:
        self.load_next, self.null, self.counting = False, False, True
        self.ce = self._value(self.cr)
        if self.mode == 3:
            self.odd, self.ce = bool(self.ce % 2), self.ce - self.ce % 2
        self.strobe = self.mode in (4, 5)

    def _value(self, raw: int) -> int:
        if not self.bcd:
            return raw or 65_536
        return sum((raw >> 4 * place & 15) * 10**place for place in range(4)) or 10_000

    def clk(self) -> None:
        if self.load_next:
            self._load()
            if self.mode == 1:
                self.out = False
            elif self.mode in (2, 3, 4, 5):
                self.out = True
            return
        if self.mode in (4, 5) and not self.out:
            self.out = True  # "OUT will strobe low for one CLK pulse"
        if not self.counting or (self.mode in (0, 2, 3, 4) and not self.gate):
            return
        {2: self._rate, 3: self._square}.get(self.mode, self._down)()

    def _down(self) -> None:
        self.ce = (self.ce - 1) % self.modulus
        if self.ce == 0 and self.mode in (0, 1):
            self.out = True
        elif self.ce == 0 and self.strobe:
            self.out, self.strobe = False, False

    def _rate(self) -> None:
        if self.ce == 1:
            self._load()
            self.out = True
            return
        self.ce -= 1
        self.out = self.ce != 1

    def _square(self) -> None:
        # Odd counts: OUT goes low one CLK after the count expired, and high as it expires.
        last = 0 if self.odd and self.out else 2
        if self.ce == last:
            self.out = not self.out
            self._load()
            return
        self.ce -= 2

    # --- reading ---

    @property
    def count(self) -> int:
        if not self.bcd:
            return self.ce % 65_536
        return sum(self.ce // 10**place % 10 << 4 * place for place in range(4))

    def latch_count(self) -> None:
        if not self.count_latch:
            low, high = self.count & 0xFF, self.count >> 8
            self.count_latch = {LSB: [low], MSB: [high], WORD: [low, high]}[self.access]

    def latch_status(self) -> None:
        if self.status_latch is None:
            bits = self.access << 4 | self.m << 1 | self.bcd
            self.status_latch = self.out << 7 | self.null << 6 | bits

    def read(self) -> int:
        if self.status_latch is not None:
            value, self.status_latch = self.status_latch, None
            return value
        if self.count_latch:
            return self.count_latch.pop(0)
        high = self.access == MSB or (self.access == WORD and self.read_high)
        if self.access == WORD:
            self.read_high = not self.read_high
        return self.count >> 8 if high else self.count & 0xFF


class Chip:
    """The three counters, ports 0x40-0x43 and what of port 0x61 concerns them."""

    def __init__(self) -> None:
        self.counters = [Counter(), Counter(), Counter()]
        self.counters[2].gate = False

    def clk(self) -> None:
        for counter in self.counters:
            counter.clk()

    def outb(self, port: int, value: int) -> None:
        if port == 0x61:
            self.counters[2].set_gate(bool(value & 1))
        elif port < 0x43:
            self.counters[port - 0x40].write(value)
        elif value >> 6 < 3:
            self.counters[value >> 6].control(value)
        else:
            for n, counter in enumerate(self.counters):
                if value >> 1 + n & 1:
                    if not value & 0x20:
                        counter.latch_count()
                    if not value & 0x10:
                        counter.latch_status()

    def inb(self, port: int) -> int:
        return self.counters[port - 0x40].read()
