"""One device on one engine, poked at instants counted in its own ticks.

`Pit` and `PmTimer` name what a data sheet names; tests read like it.
"""

from __future__ import annotations

from functools import cache

from devc.compiler.driver import DeviceType, load
from devc.compiler.reference import Reference
from devc.runtime.instance import Instance, NativeInstance, ReferenceInstance

SECOND = 1_000_000_000
ENGINES = ("native", "reference")


@cache
def kind(device: str) -> DeviceType:
    return load(device)


@cache
def reference(device: str) -> Reference:
    return Reference(kind(device).reference_module())


def make(device: str, engine: str, now: int = 0, **params: int) -> Instance:
    if engine == "native":
        return NativeInstance(kind(device).native(), kind(device).module, now, **params)
    return ReferenceInstance(reference(device), now, **params)


class Clocked:
    """A device whose `now` is set in ticks of `hz`: `at(k)` is tick k's first instant.

    Ticks count from `epoch` ns: where a device's clock starts anew, set it then.
    """

    def __init__(self, device: Instance, hz: int) -> None:
        self.device, self.hz, self.now = device, hz, 0
        self.epoch = 0

    def ns(self, tick: int) -> int:
        return self.epoch - (-tick * SECOND // self.hz)

    def at(self, tick: int) -> None:
        self.now = self.ns(tick)

    @property
    def tick(self) -> int:
        return (self.now - self.epoch) * self.hz // SECOND

    def wait(self, ticks: int) -> None:
        self.at(self.tick + ticks)

    def line(self, bit: int = 0) -> int:
        self.device.settle(self.now)
        return self.device.lines >> bit & 1

    def run_to_deadline(self) -> int:
        """Go to the next deadline; the tick it is in."""
        self.now = self.device.deadline
        self.device.settle(self.now)
        return self.tick


class Pit(Clocked):
    """An i8254 with port 0x61; counters run at 1,193,182 Hz."""

    def __init__(self, engine: str, hz: int = 1_193_182) -> None:
        super().__init__(make("i8254", engine, hz=hz), hz)
        self.at(1000)

    def outb(self, port: int, value: int) -> None:
        region, base = ("pit", 0x40) if port < 0x44 else ("b", 0x61)
        self.device.write(region, self.now, port - base, 1, value)

    def inb(self, port: int) -> int:
        region, base = ("pit", 0x40) if port < 0x44 else ("b", 0x61)
        return self.device.read(region, self.now, port - base, 1)

    def control(self, channel: int, mode: int, access: int = 3, bcd: int = 0) -> None:
        self.outb(0x43, channel << 6 | access << 4 | mode << 1 | bcd)

    def write_count(self, channel: int, count: int) -> None:
        """Low byte, high byte."""
        self.outb(0x40 + channel, count & 0xFF)
        self.outb(0x40 + channel, count >> 8)

    def program(self, channel: int, mode: int, count: int, bcd: int = 0) -> None:
        self.control(channel, mode, bcd=bcd)
        self.write_count(channel, count)

    def latch(self, channel: int) -> None:
        self.outb(0x43, channel << 6)

    def read_count(self, channel: int) -> int:
        low = self.inb(0x40 + channel)
        return low | self.inb(0x40 + channel) << 8

    def count(self, channel: int) -> int:
        """The count now, by latching it."""
        self.latch(channel)
        return self.read_count(channel)

    def read_back(self, *channels: int, count: bool = False, status: bool = False) -> None:
        self.outb(0x43, 0xC0 | (not count) << 5 | (not status) << 4 | sum(2 << c for c in channels))

    def status(self, channel: int) -> int:
        self.read_back(channel, status=True)
        return self.inb(0x40 + channel)

    def out(self, channel: int) -> int:
        return self.status(channel) >> 7

    def gate2(self, level: int) -> None:
        self.outb(0x61, self.inb(0x61) & 0xE | level)

    def outs(self, channel: int, ticks: int) -> list[int]:
        """OUT in this tick and the following ones."""
        levels = []
        for _ in range(ticks):
            levels.append(self.out(channel))
            self.wait(1)
        return levels

    def counts(self, channel: int, ticks: int) -> list[int]:
        values = []
        for _ in range(ticks):
            values.append(self.count(channel))
            self.wait(1)
        return values


class PmTimer(Clocked):
    """An acpi_pm; status at 0, enable at 2, the timer at 8."""

    def __init__(self, engine: str, wide: bool = False) -> None:
        super().__init__(make("acpi_pm", engine, wide=int(wide)), 3_579_545)

    def read(self, offset: int, width: int) -> int:
        return self.device.read("io", self.now, offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        self.device.write("io", self.now, offset, width, value)

    @property
    def timer(self) -> int:
        return self.read(8, 4)

    @property
    def status(self) -> int:
        return self.read(0, 2)
