"""The interrupt controllers on one engine: ports, pins and acknowledges by their data sheets' names."""

from __future__ import annotations

from .rig import make

MASTER, SLAVE, ELCR = 0x20, 0xA0, 0x4D0
ICW1, LTIM, ADI, SNGL, IC4 = 0x10, 0x08, 0x04, 0x02, 0x01
SFNM, BUF, AEOI, X86 = 0x10, 0x08, 0x02, 0x01
EOI, SPECIFIC, ROTATE = 0x20, 0x40, 0x80
OCW3, ESMM, SMM, POLL, RR, RIS = 0x08, 0x40, 0x20, 0x04, 0x02, 0x01
BASE, SLAVE_BASE = 0x20, 0x70
SPURIOUS, SLAVE_SPURIOUS = BASE + 7, SLAVE_BASE + 7

REGIONS = {0x20: ("first", 0), 0x21: ("first", 1), 0xA0: ("second", 0), 0xA1: ("second", 1),
           0x4D0: ("edges", 0), 0x4D1: ("edges", 1)}  # fmt: skip


class Pic:
    """An i8259; time only counts calls."""

    def __init__(self, engine: str, **params: int) -> None:
        self.device = make("i8259", engine, **params)
        self.now = 1000
        self.pins = 0

    def outb(self, port: int, value: int) -> None:
        region, offset = REGIONS[port]
        self.now += 1
        self.device.write(region, self.now, offset, 1, value)

    def inb(self, port: int) -> int:
        region, offset = REGIONS[port]
        self.now += 1
        return self.device.read(region, self.now, offset, 1)

    def set(self, pins: int) -> None:
        """All inputs at once, input n in bit n."""
        self.now += 1
        self.pins = pins
        self.device.settle(self.now)
        self.device.set("ir", pins)
        self.device.commit(self.now)

    def high(self, *pins: int) -> None:
        self.set(self.pins | sum(1 << pin for pin in pins))

    def low(self, *pins: int) -> None:
        self.set(self.pins & ~sum(1 << pin for pin in pins))

    def pulse(self, pin: int) -> None:
        self.high(pin)
        self.low(pin)

    @property
    def int(self) -> int:
        return self.device.lines & 1

    @property
    def served(self) -> int:
        """The in-service lines of both chips."""
        return self.device.lines >> 1 & 0xFFFF

    def inta(self) -> int:
        """An INTA sequence; the vector."""
        self.now += 1
        return self.device.read("inta", self.now, 0, 4)

    def program(self, port: int, base: int, cascade: int, icw1: int = IC4, icw4: int = X86) -> None:
        """The whole initialization sequence that ICW1 asks for."""
        self.outb(port, ICW1 | icw1)
        self.outb(port + 1, base)
        if not icw1 & SNGL:
            self.outb(port + 1, cascade)
        if icw1 & IC4:
            self.outb(port + 1, icw4)

    def pc(self, icw4: int = X86, slave_icw4: int | None = None, icw1: int = IC4) -> Pic:
        """As a PC's firmware leaves them, nothing masked."""
        self.program(MASTER, BASE, 0x04, icw1, icw4)
        self.program(SLAVE, SLAVE_BASE, 0x02, icw1, icw4 if slave_icw4 is None else slave_icw4)
        return self

    def irr(self, port: int = MASTER) -> int:
        self.outb(port, OCW3 | RR)
        return self.inb(port)

    def isr(self, port: int = MASTER) -> int:
        self.outb(port, OCW3 | RR | RIS)
        return self.inb(port)

    def poll(self, port: int = MASTER) -> int:
        self.outb(port, OCW3 | POLL)
        return self.inb(port)


SELECT, WINDOW, EOI_REGISTER = 0x00, 0x10, 0x40
LOGICAL, LOW, REMOTE, LEVEL, MASK = 1 << 11, 1 << 13, 1 << 14, 1 << 15, 1 << 16
FIXED, LOWEST, SMI, NMI, INIT, EXTINT = (n << 8 for n in (0, 1, 2, 4, 5, 7))
FIRST_MESSAGE = 32


class IoApic:
    """An ioapic; `sent` collects its messages as (pin, address, data)."""

    def __init__(self, engine: str, **params: int) -> None:
        self.device = make("ioapic", engine, **params)
        self.now = 1000
        self.pins = 0
        self.sent: list[tuple[int, int, int]] = []
        self._rises = self.device.rises

    def _collect(self) -> None:
        rises = self.device.rises
        for pin in range(24):
            count = (rises[FIRST_MESSAGE + pin] - self._rises[FIRST_MESSAGE + pin]) % 2**32
            message = (pin, self.device.get("entry.address", pin), self.device.get("entry.data", pin))
            self.sent += [message] * count
        self._rises = rises

    def write(self, offset: int, value: int, width: int = 4) -> None:
        self.now += 1
        self.device.write("mmio", self.now, offset, width, value)
        self._collect()

    def read(self, offset: int, width: int = 4) -> int:
        self.now += 1
        return self.device.read("mmio", self.now, offset, width)

    def __setitem__(self, index: int, value: int) -> None:
        self.write(SELECT, index)
        self.write(WINDOW, value)

    def __getitem__(self, index: int) -> int:
        self.write(SELECT, index)
        return self.read(WINDOW)

    def route(self, pin: int, low: int, destination: int = 0) -> None:
        """A redirection entry: high half first, as the low one unmasks."""
        self[0x11 + 2 * pin] = destination << 24
        self[0x10 + 2 * pin] = low

    def entry(self, pin: int) -> int:
        return self[0x10 + 2 * pin] | self[0x11 + 2 * pin] << 32

    def set(self, pins: int) -> None:
        self.now += 1
        self.pins = pins
        self.device.settle(self.now)
        self.device.set("irq", pins)
        self.device.commit(self.now)
        self._collect()

    def high(self, *pins: int) -> None:
        self.set(self.pins | sum(1 << pin for pin in pins))

    def low(self, *pins: int) -> None:
        self.set(self.pins & ~sum(1 << pin for pin in pins))

    def eoi(self, vector: int) -> None:
        """An EOI message of a local APIC."""
        self.now += 1
        self.device.write("eoi", self.now, 0, 4, vector)
        self._collect()

    def take(self) -> list[tuple[int, int, int]]:
        sent, self.sent = self.sent, []
        return sent
