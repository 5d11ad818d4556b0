"""i8254.dev against the data sheet's counter, simulated CLK by CLK, on random programs."""

from __future__ import annotations

import os
import random

import pytest
from devc.runtime.machine import Machine

from .chip_8254 import LSB, MSB, WORD, Chip

HZ = 1_193_182
PROGRAMS = int(os.environ.get("DEVC_CHIP_PROGRAMS", "150"))
STEPS = 120


class Both:
    """The device and the chip, doing the same; says what differs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = Machine()
        self.machine.add("i8254")
        self.chip = Chip()
        self.tick = 0
        self.log: list[str] = []
        self.loaded = [False] * 3  # a count was loaded, so there is one to read
        self.edges: list[tuple[int, int]] = []
        self.expected: list[tuple[int, int]] = []
        self.machine.wire("i8254.irq0", self._edge)
        self.edges.clear()
        self.level = self.machine.line("i8254.irq0").level  # OUT is undefined until a control word

    def _edge(self, level: int, now: int) -> None:
        self.edges.append((level, now))

    def _instant(self, tick: int) -> int:
        return -(-tick * 10**9 // HZ)

    def _follow_line(self, now: int) -> None:
        level = int(self.chip.counters[0].out)
        if level != self.level:
            self.level = level
            self.expected.append((level, now))

    def run(self, ticks: int) -> None:
        self.log.append(f"{ticks} CLKs")
        for _ in range(ticks):
            self.tick += 1
            self.chip.clk()
            self._follow_line(self._instant(self.tick))
            for n, counter in enumerate(self.chip.counters):
                self.loaded[n] |= counter.counting
        first, last = self._instant(self.tick), self._instant(self.tick + 1) - 1
        now = max(self.random.randint(first, last), self.machine.now)
        self.machine.advance_to(now)
        self.check("line 0", self.edges, self.expected)

    def outb(self, port: int, value: int) -> None:
        self.log.append(f"outb {port:#x} {value:#04x}")
        self.machine.write("io", port, 1, value)
        self.chip.outb(port, value)
        self._follow_line(self.machine.now)
        self.check("line 0", self.edges, self.expected)

    def inb(self, port: int) -> None:
        ours, theirs = self.machine.read("io", port, 1), self.chip.inb(port)
        self.log.append(f"inb {port:#x} -> {ours:#04x}")
        self.check(f"port {port:#x}", ours, theirs)

    def out2(self) -> None:
        ours = self.machine.read("io", 0x61, 1) >> 5 & 1
        self.check("OUT2", ours, int(self.chip.counters[2].out))

    def check(self, what: str, ours: object, theirs: object) -> None:
        assert ours == theirs, f"{what}: we {ours}, the chip {theirs} after\n" + "\n".join(self.log[-40:])

    # --- random programs ---

    def program(self, n: int) -> None:
        """A control word and a count; small ones, so that much happens."""
        access, m, bcd = (
            self.random.choice((LSB, MSB, WORD, WORD)),
            self.random.randrange(8),
            self.random.random() < 0.3,
        )
        self.outb(0x43, n << 6 | access << 4 | m << 1 | bcd)
        self.loaded[n] = False
        if self.random.random() < 0.2:
            self.run(self.random.randint(0, 5))
        self.count(n)

    def count(self, n: int) -> None:
        counter = self.chip.counters[n]
        value = self.random.choice((0, *range(2, 40)))
        if counter.bcd:
            value = value // 10 << 4 | value % 10
        if counter.access == MSB:
            self.outb(0x40 + n, value)
            return
        self.outb(0x40 + n, value)
        if counter.access == WORD:
            if self.random.random() < 0.3:
                self.run(self.random.randint(0, 4))
            self.outb(0x40 + n, self.random.choice((0, 0, 0, 1)))

    def read(self, n: int) -> None:
        counter = self.chip.counters[n]
        kind = self.random.choice(("count", "status", "both", "live"))
        if not self.loaded[n] or counter.low is not None:
            kind = "status"
        if kind == "count":
            self.outb(0x43, n << 6)
        elif kind != "live":
            self.outb(0x43, 0xC0 | (2 << n) | {"status": 0x20, "both": 0}[kind])
        if self.random.random() < 0.3:
            self.run(self.random.randint(0, 4))
        if kind in ("status", "both"):
            self.inb(0x40 + n)
        if kind != "status":
            self.inb(0x40 + n)
            if counter.access == WORD:
                self.inb(0x40 + n)

    def step(self) -> None:
        n = self.random.randrange(3)
        action = self.random.randrange(10)
        if action < 2:
            self.program(n)
        elif action == 2 and self.chip.counters[n].written:
            self.count(n)
        elif action < 6:
            self.read(n)
        elif action == 6 and (self.chip.counters[2].mode != 4 or self.chip.counters[2].out):
            # Whether a strobe ends while GATE is low, the data sheet does not say.
            self.outb(0x61, self.random.randrange(2))
        self.out2()
        self.run(self.random.choice((0, 1, 1, 2, 3, 7, 20, 45)))


@pytest.mark.parametrize("part", range(5))
def test_random_programs_run_as_on_the_chip(part: int) -> None:
    for seed in range(part * PROGRAMS // 5, (part + 1) * PROGRAMS // 5):
        both = Both(seed)
        for n in range(3):
            both.program(n)
        for _ in range(STEPS):
            both.step()
