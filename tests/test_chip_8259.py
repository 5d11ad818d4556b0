"""i8259.dev against an independent model of the data sheet's chips, on random programs."""

from __future__ import annotations

import os
import random
from collections import Counter

from .chip_8259 import Pair
from .rig_interrupts import ELCR, MASTER, SLAVE, Pic

PROGRAMS = int(os.environ.get("DEVC_CHIP_PROGRAMS", "150"))
STEPS = 150


class Both:
    """The device and the model, doing the same; says what differs."""

    def __init__(self, seed: int, engine: str) -> None:
        self.random = random.Random(seed)
        held = self.random.random() < 0.3
        self.pic, self.chips = Pic(engine, held=int(held)), Pair(held)
        self.log = [f"seed {seed}, held={held}"]
        self.pins = 0
        self.met: Counter[str] = Counter()

    def check(self) -> None:
        for what, ours, theirs in (
            ("INT", bool(self.pic.int), self.chips.int),
            ("in service", self.pic.served, self.chips.served),
        ):
            self._same(what, ours, theirs)

    def _same(self, what: str, ours: int, theirs: int) -> None:
        if ours != theirs:
            raise AssertionError(f"{what}: {ours:#x}, the model {theirs:#x}, after:\n" + "\n".join(self.log))

    def outb(self, port: int, value: int) -> None:
        self.log.append(f"outb {port:#x} {value:#04x}")
        self.pic.outb(port, value)
        self.chips.outb(port, value)

    def inb(self, port: int) -> None:
        self.log.append(f"inb {port:#x}")
        self._same(f"port {port:#x}", self.pic.inb(port), self.chips.inb(port))

    def inta(self) -> None:
        self.log.append("inta")
        level = self.chips.master.winner()
        self.met["spurious"] += level is None
        self.met["cascaded"] += level == 2 and self.chips.master.is_slave_input(2)
        self._same("vector", self.pic.inta(), self.chips.inta())

    def set(self, pins: int) -> None:
        self.log.append(f"pins {pins:#06x}")
        self.pins = pins
        self.pic.set(pins)
        self.chips.set(pins)

    # --- what software and devices do ---

    def initialize(self) -> None:
        """A whole sequence, mostly a PC's; now and then any bytes, or one cut short."""
        pick = self.random
        port = pick.choice((MASTER, SLAVE))
        usual = pick.random() < 0.8
        icw1 = 0x11 | pick.choice((0, 0, 0, 8)) if usual else 0x10 | pick.randrange(256)
        icw3 = 4 if port == MASTER else 2
        words = [icw1, pick.randrange(256)]
        if not icw1 & 2:
            words.append(icw3 if usual else pick.randrange(256))
        if icw1 & 1:
            words.append(pick.choice((1, 1, 3, 0x11, 0x13, 0)) if usual else pick.randrange(256))
        if pick.random() < 0.05:
            del words[pick.randrange(1, len(words) + 1) :]
        self.outb(port, words[0])
        for word in words[1:]:
            self.outb(port + 1, word)

    def ocw2(self) -> None:
        command = self.random.choice((0x20, 0x20, 0x20, 0x60, 0xA0, 0xE0, 0xC0, 0x80, 0x00, 0x40))
        self.outb(self.random.choice((MASTER, SLAVE)), command | self.random.randrange(8))

    def ocw3(self) -> None:
        self.outb(self.random.choice((MASTER, SLAVE)), 0x08 | self.random.randrange(8) | self.random.choice(
            (0, 0, 0x40, 0x60)))  # fmt: skip

    def mask(self) -> None:
        bits = self.random.randrange(256) & self.random.randrange(256)
        self.outb(self.random.choice((MASTER, SLAVE)) + 1, bits)

    def elcr(self) -> None:
        self.outb(ELCR + self.random.randrange(2), self.random.randrange(256))

    def wiggle(self) -> None:
        pins = self.pins
        for _ in range(self.random.randint(1, 3)):
            pins ^= 1 << self.random.randrange(16)
        self.set(pins & ~4)

    def look(self) -> None:
        self.inb(self.random.choice((MASTER, MASTER + 1, SLAVE, SLAVE + 1, ELCR, ELCR + 1)))

    def acknowledge(self) -> None:
        if self.chips.int or self.random.random() < 0.1:
            self.inta()

    def step(self) -> None:
        acts = {
            self.wiggle: 30, self.acknowledge: 25, self.look: 15, self.ocw2: 20, self.ocw3: 6, self.mask: 8,
            self.initialize: 2, self.elcr: 2,
        }  # fmt: skip
        self.random.choices(list(acts), list(acts.values()))[0]()
        self.check()


def run(seed: int, engine: str) -> Both:
    both = Both(seed, engine)
    both.initialize()
    both.initialize()
    for _ in range(STEPS):
        both.step()
    return both


def test_the_pair_does_what_the_model_does() -> None:
    for seed in range(PROGRAMS):
        run(seed, "native")


def test_the_pair_on_the_reference_engine_does_what_the_model_does() -> None:
    for seed in range(PROGRAMS // 10):
        run(seed, "reference")


def test_the_programs_reach_what_they_are_for() -> None:
    met: Counter[str] = Counter()
    for seed in range(30):
        both = run(seed, "native")
        met.update(both.met)
        met["dips"] += both.chips.slave.dips
    assert min(met[what] for what in ("spurious", "cascaded", "dips")) > 5, met
