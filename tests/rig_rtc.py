"""An MC146818 on one engine: bytes by the sheet's names, time in ticks of its 32,768 Hz divider.

Power-on is at tick 0, the divider at 0: update k begins at tick 32,768 k and ends
`update` ticks later, when the new time can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from .rig import Clocked, make

HZ = 32_768
SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM = 1, 3, 5
A, B, C, D = 10, 11, 12, 13
CENTURY, CENTURY_ALIAS = 0x32, 0x37
TIME_BYTES = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)
UIP = 0x80
SET, PIE, AIE, UIE, SQWE, DM, H24, DSE = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10
ANY = 0xC0
"""A wild card in an alarm byte."""
HOLD, RUN = 0x76, 0x26
"""Register A with the divider held and running, 1024 Hz."""
UIP_TICKS = 8
"""244.140625 us: from UIP to the second's end."""
UPDATE_TICKS = 65
"""1984 us: the chip's update cycle."""
EPOCH = datetime(1970, 1, 1)
MODES = [(H24, "bcd-24h"), (0, "bcd-12h"), (DM | H24, "binary-24h"), (DM, "binary-12h")]


def seconds_since_1970(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp())


def number(value: int, mode: int) -> int:
    return value if mode & DM else value // 10 << 4 | value % 10


def hour(value: int, mode: int) -> int:
    """The hours byte: 12 AM is 12, PM has bit 7."""
    if mode & H24:
        return number(value, mode)
    return number((value + 11) % 12 + 1, mode) | (0x80 if value >= 12 else 0)


def weekday(moment: datetime) -> int:
    """1..7, Sunday being 1."""
    return moment.isoweekday() % 7 + 1


def encode(moment: datetime, mode: int = H24) -> dict[int, int]:
    """The bytes that show a time, by index."""
    return {
        SECONDS: number(moment.second, mode),
        MINUTES: number(moment.minute, mode),
        HOURS: hour(moment.hour, mode),
        WEEKDAY: number(weekday(moment), mode),
        DAY: number(moment.day, mode),
        MONTH: number(moment.month, mode),
        YEAR: number(moment.year % 100, mode),
        CENTURY: number(moment.year // 100, mode),
    }


def seconds(count: int) -> timedelta:
    return timedelta(seconds=count)


class Rtc(Clocked):
    """Powered on at `date`; `update` and `locked` as the device's parameters."""

    def __init__(
        self, engine: str, date: datetime = EPOCH, update: int = UPDATE_TICKS, locked: bool = True
    ) -> None:
        device = make("mc146818", engine, date=seconds_since_1970(date), update=update, locked=int(locked))
        super().__init__(device, HZ)
        self.update = update
        self.lines = {line.name: bit for bit, line in enumerate(device.module.lines)}

    # --- ports and bytes -----------------------------------------------------

    def outb(self, port: int, value: int) -> None:
        self.device.write("io", self.now, port - 0x70, 1, value)

    def inb(self, port: int) -> int:
        return self.device.read("io", self.now, port - 0x70, 1)

    def __getitem__(self, index: int) -> int:
        self.outb(0x70, index)
        return self.inb(0x71)

    def __setitem__(self, index: int, value: int) -> None:
        self.outb(0x70, index)
        self.outb(0x71, value)

    def upper(self, index: int) -> int:
        self.outb(0x72, index)
        return self.inb(0x73)

    def set_upper(self, index: int, value: int) -> None:
        self.outb(0x72, index)
        self.outb(0x73, value)

    # --- the time ------------------------------------------------------------

    @property
    def bytes(self) -> dict[int, int]:
        return {index: self[index] for index in TIME_BYTES}

    def set_time(self, moment: datetime, mode: int = H24) -> None:
        """Under SET, with register B's other bits as in `mode`."""
        self[B] = SET | mode
        for index, value in encode(moment, mode).items():
            self[index] = value
        self[B] = mode

    def shows(self, moment: datetime, mode: int = H24) -> bool:
        return self.bytes == encode(moment, mode)

    def set_alarm(self, hours: int, minutes: int, second: int) -> None:
        """Raw bytes."""
        self[HOURS_ALARM], self[MINUTES_ALARM], self[SECONDS_ALARM] = hours, minutes, second

    # --- the update cycle ----------------------------------------------------

    def after_update(self, count: int, first: int = HZ) -> None:
        """To the instant at which update `count` ends, the first one beginning at tick `first`."""
        self.at(first + HZ * (count - 1) + self.update)

    @property
    def uip(self) -> int:
        return self[A] >> 7

    def acknowledge(self) -> int:
        """Read register C, which clears it."""
        return self[C]

    def peek_flags(self) -> int:
        """Register C, nothing cleared."""
        self.outb(0x70, C)
        return self.device.peek("io", self.now, 1, 1)

    # --- lines -----------------------------------------------------------------

    @property
    def irq(self) -> int:
        return self.line(self.lines["irq8"])

    @property
    def nmi_mask(self) -> int:
        return self.line(self.lines["nmi_mask"])

    def reset_pin(self, level: int) -> None:
        self.device.settle(self.now)
        self.device.set("reset_pin", level)
        self.device.commit(self.now)

    def next_irq(self, most: int = 100_000) -> int:
        """Walk from deadline to deadline until the line is high; the tick of that."""
        for _ in range(most):
            if self.irq:
                return self.tick
            assert self.device.deadline > self.now, "a deadline lies in the future"
            self.run_to_deadline()
        raise AssertionError(f"no interrupt within {most} deadlines")

    def interrupts(self, count: int) -> Iterator[int]:
        """The ticks of the next interrupts, each acknowledged at once."""
        for _ in range(count):
            yield self.next_irq()
            assert self[C] & IRQF
