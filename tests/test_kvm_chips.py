"""i8259.dev and ioapic.dev against the kernel's own chips, on random programs.

The programs keep off what KVM does otherwise: docs/devices/i8259.md and ioapic.md list it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from . import kvm_chips
from .kvm_chips import TAKE, KernelIoApic, KernelPics
from .rig_interrupts import SELECT, WINDOW, IoApic, Pic

PROGRAMS = int(os.environ.get("DEVC_CHIP_PROGRAMS", "12"))
STEPS = 120

pytestmark = pytest.mark.skipif(bool(kvm_chips.missing()), reason=kvm_chips.missing() or "KVM is here")

ISA = (0, 1, 3, 4, 5, 7, 9, 10, 12, 15)
"""Inputs of the pair; not 8, which KVM treats as the clock's, and not 2."""


class BothPics:
    def __init__(self, seed: int, kernel: KernelPics) -> None:
        self.random = random.Random(seed)
        self.kernel, self.pic = kernel, Pic("native", held=1)
        self.log = [f"seed {seed}"]
        for pin in range(16):
            kernel.line(pin, 0)
        kernel.clear()
        self.start()

    def start(self) -> None:
        """Initialize both chips."""
        pick = self.random
        setup = [(0x4D0, pick.getrandbits(8) & 0xF8), (0x4D1, pick.getrandbits(8) & 0xDE)]
        for port, icw3 in ((0x20, 4), (0xA0, 2)):
            icw4 = pick.choice((1, 1, 3))
            words = [pick.randrange(32) * 8, icw3, icw4]
            setup += [(port, 0x11), *((port + 1, word) for word in words)]
        self.acts(setup)

    def acts(self, acts: list[tuple[int, int]]) -> None:
        self.log += [f"outb {port:#x} {value:#04x}" for port, value in acts]
        self.kernel.run(acts)
        for port, value in acts:
            self.pic.outb(port, value)

    def line(self) -> None:
        pin = self.random.choice(ISA)
        level = not self.pic.pins >> pin & 1
        self.log.append(f"pin {pin} {level:d}")
        self.kernel.line(pin, level)
        (self.pic.high if level else self.pic.low)(pin)

    def take(self) -> None:
        if not self.pic.int:
            return
        self.log.append("take")
        self.same("vector", [self.pic.inta()], self.kernel.run([TAKE]))

    def ocw2(self) -> None:
        command = self.random.choice((0x20, 0x20, 0x20, 0x60, 0xA0, 0xE0, 0xC0, 0x80, 0x00, 0x40))
        self.acts([(self.random.choice((0x20, 0xA0)), command | self.random.randrange(8))])

    def mask(self) -> None:
        bits = self.random.getrandbits(8) & self.random.getrandbits(8)
        self.acts([(self.random.choice((0x21, 0xA1)), bits)])

    def look(self) -> None:
        port, choice = self.random.choice((0x20, 0xA0)), self.random.choice((0x0A, 0x0B))
        self.log.append(f"read {choice:#x} of {port:#x}")
        ours = (self.pic.outb(port, choice), self.pic.inb(port), self.pic.inb(port + 1))[1:]
        self.same("status", list(ours), self.kernel.run([(port, choice), (port, None), (port + 1, None)]))

    def same(self, what: str, ours: object, theirs: object) -> None:
        assert ours == theirs, f"{what}: {ours}, KVM {theirs}, after:\n" + "\n".join(self.log)

    def step(self) -> None:
        acts = {self.line: 40, self.take: 30, self.ocw2: 20, self.mask: 6, self.look: 4}
        self.random.choices(list(acts), list(acts.values()))[0]()
        for number, port in ((kvm_chips.MASTER, 0x20), (kvm_chips.SLAVE, 0xA0)):
            irr, imr, isr = self.kernel.pic(number)
            chip = "slave" if number else "master"
            ours = (self.pic.irr(port), self.pic.inb(port + 1), self.pic.isr(port))
            self.same(f"IRR, IMR, ISR of the {chip}", ours, (irr, imr, isr))


@pytest.fixture
def fresh() -> Iterator[tuple[KernelPics, Pic]]:
    """KVM's pair and ours as a PC's firmware leaves them."""
    kernel, pic = KernelPics(), Pic("native", held=1).pc()
    for port, base, cascade in ((0x20, 0x20, 4), (0xA0, 0x70, 2)):
        kernel.run([(port, 0x11), (port + 1, base), (port + 1, cascade), (port + 1, 1)])
    yield kernel, pic
    kernel.close()


def raised(fresh: tuple[KernelPics, Pic], pin: int, take: bool) -> None:
    """An input high on both, and taken."""
    kernel, pic = fresh
    kernel.line(pin, 1)
    pic.high(pin)
    if take:
        assert kernel.run([TAKE]) == [pic.inta()]


def test_icw1_clears_isr_here_and_not_in_the_kernel(fresh: tuple[KernelPics, Pic]) -> None:
    kernel, pic = fresh
    raised(fresh, 3, take=True)
    kernel.run([(0x20, 0x11)])
    pic.outb(0x20, 0x11)
    assert (kernel.pic(kvm_chips.MASTER)[2], pic.isr()) == (0x08, 0)


def test_a_poll_sets_the_in_service_bit_here_and_not_in_the_kernel(fresh: tuple[KernelPics, Pic]) -> None:
    kernel, pic = fresh
    raised(fresh, 5, take=False)
    assert kernel.run([(0x20, 0x0C), (0x20, None)]) == [pic.poll()] == [0x85]
    assert (kernel.pic(kvm_chips.MASTER)[2], pic.isr()) == (0, 0x20)
    assert kernel.run([(0xA0, 0x0C), (0xA0, None)]) == [pic.poll(0xA0)] == [0x07]


def test_special_mask_mode_is_here_and_not_in_the_kernel(fresh: tuple[KernelPics, Pic]) -> None:
    kernel, pic = fresh
    raised(fresh, 3, take=True)
    raised(fresh, 6, take=False)
    for port, value in ((0x21, 0x08), (0x20, 0x68)):
        kernel.run([(port, value)])
        pic.outb(port, value)
    assert pic.inta() == 0x26
    with pytest.raises(TimeoutError):
        kernel.run([TAKE])


@pytest.fixture(scope="module")
def pics() -> Iterator[KernelPics]:
    kernel = KernelPics()
    yield kernel
    kernel.close()


def test_the_pair_does_what_the_kernels_does(pics: KernelPics) -> None:
    taken = 0
    for seed in range(PROGRAMS):
        both = BothPics(seed, pics)
        for _ in range(STEPS):
            both.step()
        taken += both.log.count("take")
    assert taken > 10 * PROGRAMS


# --- the I/O APIC ---------------------------------------------------------------------------

PINS = (3, 4, 9, 20, 23)
LEVEL, MASK = 1 << 15, 1 << 16


class BothIoApics:
    def __init__(self, seed: int, kernel: KernelIoApic) -> None:
        self.random = random.Random(seed)
        self.kernel, self.chip = kernel, IoApic("native", polarity=0)
        self.log = [f"seed {seed}"]
        self.sent: set[int] = set()
        for pin in PINS:
            kernel.line(pin, 0)
            self.route(pin, MASK)
        kernel.take_requests()

    def route(self, pin: int, low: int) -> None:
        self.log.append(f"entry {pin} = {low:#x}")
        index = 0x10 + 2 * pin
        self.kernel.write(index, low)
        self.chip.write(SELECT, index)
        self.chip.write(WINDOW, low)

    def write(self) -> None:
        pin = self.random.choice(PINS)
        low = 0x30 + pin | self.random.choice((0, LEVEL)) | self.random.choice((0, 0, MASK))
        self.route(pin, low | self.random.choice((0, 0, 1 << 14, 1 << 13, 1 << 12)))

    def destination(self) -> None:
        """The high half of an entry, to nobody else but processor 0."""
        pin = self.random.choice(PINS)
        self.kernel.write(0x11 + 2 * pin, 0)
        self.chip[0x11 + 2 * pin] = 0

    def line(self) -> None:
        pin = self.random.choice(PINS)
        level = not self.chip.pins >> pin & 1
        self.log.append(f"pin {pin} {level:d}")
        self.kernel.line(pin, level)
        (self.chip.high if level else self.chip.low)(pin)

    def end(self) -> None:
        """An EOI of what was sent last with the vector, so that the local APIC knows its trigger mode."""
        if not self.sent:
            return
        vector = self.random.choice(sorted(self.sent))
        self.log.append(f"eoi {vector:#x}")
        self.kernel.end(vector)
        self.chip.eoi(vector)

    def identity(self) -> None:
        value = self.random.getrandbits(32)
        self.kernel.write(0, value)
        self.chip[0] = value
        self.same("ID", self.chip[0], self.kernel.read(0))
        self.same("version", self.chip[1], self.kernel.read(1))

    def same(self, what: str, ours: object, theirs: object) -> None:
        assert ours == theirs, f"{what}: {ours}, KVM {theirs}, after:\n" + "\n".join(self.log)

    def step(self) -> None:
        acts = {self.line: 50, self.write: 25, self.end: 20, self.destination: 4, self.identity: 1}
        self.random.choices(list(acts), list(acts.values()))[0]()
        sent = {data & 0xFF for _, _, data in self.chip.take()}
        self.sent |= sent
        self.same("requests", sent, self.kernel.take_requests())
        theirs = self.kernel.entries()
        for pin in PINS:
            self.same(f"entry {pin}", self.chip.entry(pin), theirs[pin])


@pytest.fixture(scope="module")
def ioapic() -> Iterator[KernelIoApic]:
    kernel = KernelIoApic()
    yield kernel
    kernel.close()


def test_the_io_apic_does_what_the_kernels_does(ioapic: KernelIoApic) -> None:
    for seed in range(PROGRAMS):
        both = BothIoApics(seed, ioapic)
        for _ in range(STEPS):
            both.step()
