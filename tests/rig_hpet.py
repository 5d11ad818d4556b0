"""An HPET on one engine: registers by the names of IA-PC HPET 1.0a, time in its own ticks.

Lines are I/O APIC inputs: `level(k)`, `rises(k)`; messages by timer: `messages(n)`.
"""

from __future__ import annotations

from .rig import Clocked, make

CAPABILITIES, CONFIGURATION, STATUS, COUNTER = 0x000, 0x010, 0x020, 0x0F0
ENABLE_CNF, LEG_RT_CNF = 1, 2
INT_TYPE, INT_ENB, PERIODIC, VAL_SET, MODE32, FSB_EN = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 8, 1 << 14
PER_INT_CAP, SIZE_CAP, FSB_DEL_CAP = 1 << 4, 1 << 5, 1 << 15
LEVEL = INT_TYPE
ALL_ONES = 2**64 - 1
ROUTES = 0x00FF_0104
"""The default interrupt route capability."""
ROUTE = 16
"""An allowed route that nobody else has."""
MSI = 32
"""Line of timer 0's messages."""


def route(line: int) -> int:
    """Tn_INT_ROUTE_CNF."""
    return line << 9


class Hpet(Clocked):
    """An hpet of 100 MHz, a tick being 10 ns, unless told otherwise."""

    def __init__(self, engine: str, hz: int = 100_000_000, **params: int) -> None:
        super().__init__(make("hpet", engine, hz=hz, **params), hz)
        self.engine = engine
        self.at(1000)

    # --- registers -----------------------------------------------------------

    def read(self, offset: int, width: int = 8) -> int:
        return self.device.read("mmio", self.now, offset, width)

    def write(self, offset: int, value: int, width: int = 8) -> None:
        self.device.write("mmio", self.now, offset, width, value)

    @property
    def counter(self) -> int:
        return self.read(COUNTER)

    @counter.setter
    def counter(self, value: int) -> None:
        self.write(COUNTER, value)

    @property
    def status(self) -> int:
        return self.read(STATUS)

    def enable(self, bits: int = ENABLE_CNF) -> None:
        self.write(CONFIGURATION, bits)

    def halt(self) -> None:
        self.write(CONFIGURATION, 0)

    def acknowledge(self, *timers: int) -> None:
        self.write(STATUS, sum(1 << n for n in timers))

    def config(self, n: int) -> int:
        return self.read(0x100 + 0x20 * n)

    def configure(self, n: int, bits: int, width: int = 8) -> None:
        self.write(0x100 + 0x20 * n, bits, width)

    def comparator(self, n: int) -> int:
        return self.read(0x108 + 0x20 * n)

    def compare(self, n: int, value: int, width: int = 8, high: bool = False) -> None:
        """Write the comparator, or its upper half."""
        self.write(0x108 + 0x20 * n + 4 * high, value, width)

    def message(self, n: int, address: int, data: int) -> None:
        """Tn_FSB_ROUTE."""
        self.write(0x110 + 0x20 * n, address << 32 | data)

    def one_shot(self, n: int, target: int, bits: int = INT_ENB, line: int = ROUTE) -> None:
        self.configure(n, bits | route(line))
        self.compare(n, target)

    def periodic(self, n: int, first: int, period: int, bits: int = INT_ENB, line: int = ROUTE) -> None:
        """First match at `first`, the following ones `period` apart."""
        self.configure(n, bits | PERIODIC | VAL_SET | route(line))
        self.compare(n, first)
        self.compare(n, period)

    # --- lines ---------------------------------------------------------------

    @property
    def levels(self) -> int:
        self.device.settle(self.now)
        return self.device.lines

    def level(self, line: int) -> int:
        return self.levels >> line & 1

    def rises(self, line: int) -> int:
        """Rising edges of an input since reset, pulses among them."""
        self.device.settle(self.now)
        return self.device.get("rises", line)

    def every_rise(self) -> dict[int, int]:
        """Of each line that ever rose, how often."""
        return {line: self.rises(line) for line in range(64) if self.rises(line)}

    def messages(self, n: int) -> int:
        return self.rises(MSI + n)

    def drive(self, pin: str, level: int) -> None:
        """The PIT's or the RTC's line, "pit" or "rtc"."""
        self.device.settle(self.now)
        self.device.set(pin, level)
        self.device.commit(self.now)

    # --- time ----------------------------------------------------------------

    def step(self, ns: int) -> None:
        """Let time pass in one go, however much is due."""
        self.now += ns
        self.device.settle(self.now)

    def next_rise(self, line: int, most: int = 1000) -> int:
        """Walk from deadline to deadline until the line rises; the tick of that."""
        before = self.rises(line)
        for _ in range(most):
            assert self.device.deadline > self.now, "a deadline lies in the future"
            self.run_to_deadline()
            if self.rises(line) != before:
                return self.tick
        raise AssertionError(f"line {line} did not rise within {most} deadlines")
