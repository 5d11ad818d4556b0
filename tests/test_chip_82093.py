"""ioapic.dev against an independent model, on random programs."""

from __future__ import annotations

import os
import random

from .chip_82093 import Chip
from .rig_interrupts import EOI_REGISTER, SELECT, WINDOW, IoApic

PROGRAMS = int(os.environ.get("DEVC_CHIP_PROGRAMS", "60"))
STEPS = 150
PINS = (0, 2, 9, 23)
"""Few, so that entries meet inputs that move."""
VECTORS = (0x31, 0x41, 0x51)


class Both:
    """The device and the model, doing the same; says what differs."""

    def __init__(self, seed: int, engine: str) -> None:
        self.random = random.Random(seed)
        version = self.random.choice((0x11, 0x20))
        self.ours, self.theirs = IoApic(engine, revision=version), Chip(version)
        self.log = [f"seed {seed}, version {version:#x}"]

    def _same(self, what: str, ours: object, theirs: object) -> None:
        assert ours == theirs, f"{what}: {ours}, the model {theirs}, after:\n" + "\n".join(self.log)

    def write(self) -> None:
        pick = self.random
        pin = pick.choice(PINS)
        index = pick.choice(
            (0x10 + 2 * pin, 0x10 + 2 * pin, 0x11 + 2 * pin, pick.choice((0, 2, pick.randrange(256))))
        )
        low = (
            pick.choice(VECTORS)
            | pick.choice((0, 0, 0x100, pick.randrange(8) << 8))
            | pick.getrandbits(6) << 11
        )
        value = pick.getrandbits(32) if index % 2 or pick.random() < 0.1 else low
        self.log.append(f"[{index:#x}] = {value:#x}")
        self.ours.write(SELECT, index)
        self.ours.write(WINDOW, value)
        self.theirs.index = index
        self.theirs.write_window(value)

    def read(self) -> None:
        index = self.random.choice((0, 1, 2, self.random.randrange(0x10, 0x44)))
        self.log.append(f"[{index:#x}]")
        self.theirs.index = index
        self._same(f"register {index:#x}", self.ours[index], self.theirs.read_window())

    def wiggle(self) -> None:
        pins = self.ours.pins
        for pin in self.random.sample(PINS, self.random.randint(1, 2)):
            pins ^= 1 << pin
        self.log.append(f"pins {pins:#08x}")
        self.ours.set(pins)
        self.theirs.set(pins)

    def eoi(self) -> None:
        vector = self.random.choice(VECTORS)
        by_register = self.random.random() < 0.3
        self.log.append(f"eoi {vector:#x} {'by register' if by_register else 'by message'}")
        if by_register:
            self.ours.write(EOI_REGISTER, vector)
        else:
            self.ours.eoi(vector)
        if not by_register or self.theirs.version >= 0x20:
            self.theirs.eoi(vector)

    def step(self) -> None:
        acts = {self.write: 25, self.read: 15, self.wiggle: 35, self.eoi: 25}
        self.random.choices(list(acts), list(acts.values()))[0]()
        sent, self.theirs.sent = self.theirs.sent, []
        self._same("sent", self.ours.take(), sent)


def run(seed: int, engine: str) -> None:
    both = Both(seed, engine)
    for _ in range(STEPS):
        both.step()
    for pin in PINS:
        both._same(f"entry {pin}", both.ours.entry(pin), both.theirs.entries[pin])


def test_the_chip_does_what_the_model_does() -> None:
    for seed in range(PROGRAMS):
        run(seed, "native")


def test_the_chip_on_the_reference_engine_does_what_the_model_does() -> None:
    for seed in range(PROGRAMS // 10):
        run(seed, "reference")
