"""The HPET against one that counts tick by tick: random programs, every edge in its tick.

The model does what IA-PC HPET 1.0a says in the simplest way there is: in each tick the
counter is increased and compared with every comparator. Where the specification leaves
it open: the period is what was last written in periodic mode; each half of the
accumulator is opened by VAL_SET for one write of that half; messages come before legacy
replacement.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from .rig_hpet import (
    ALL_ONES,
    ENABLE_CNF,
    FSB_EN,
    INT_ENB,
    LEG_RT_CNF,
    LEVEL,
    MODE32,
    MSI,
    PERIODIC,
    ROUTES,
    VAL_SET,
    Hpet,
    route,
)

TIMERS = 3
KEPT = LEVEL | INT_ENB | PERIODIC | MODE32 | FSB_EN


@dataclass
class Timer:
    config: int = 0
    route: int = 0
    target: int = ALL_ONES
    period: int = 0
    opened: int = 0
    """Bits of the accumulator that VAL_SET opened."""

    @property
    def mask(self) -> int:
        return 2**32 - 1 if self.config & MODE32 else ALL_ONES


@dataclass
class Model:
    counter: int = 0
    config: int = 0
    status: int = 0
    pit: int = 0
    rtc: int = 0
    timers: list[Timer] = field(default_factory=lambda: [Timer() for _ in range(TIMERS)])
    rises: dict[int, int] = field(default_factory=dict)
    levels: int = 0

    # --- time ------------------------------------------------------------------

    def tick(self) -> None:
        if not self.config & ENABLE_CNF:
            return
        self.counter = self.counter + 1 & ALL_ONES
        for n, timer in enumerate(self.timers):
            matches = self.counter & timer.mask == timer.target & timer.mask
            wraps = timer.config & MODE32 and self.counter & timer.mask == 0
            if matches and timer.config & PERIODIC:
                timer.target = timer.target + timer.period & timer.mask
            if matches or (wraps and not timer.config & PERIODIC):
                self.interrupt(n)
        self.drive()

    def interrupt(self, n: int) -> None:
        timer = self.timers[n]
        if timer.config & LEVEL:
            self.status |= 1 << n
        if not timer.config & INT_ENB:
            return
        if timer.config & FSB_EN:
            self.rise(MSI + n)
        elif not timer.config & LEVEL and self.line(n) is not None:
            self.rise(self.line(n) or 0)

    def line(self, n: int) -> int | None:
        """The I/O APIC input of a timer."""
        if self.config == ENABLE_CNF | LEG_RT_CNF and n < 2:
            return (2, 8)[n]
        line = self.timers[n].route
        return line if ROUTES >> line & 1 else None

    def rise(self, line: int) -> None:
        self.rises[line] = self.rises.get(line, 0) + 1

    def drive(self) -> None:
        levels = 0
        if self.config != ENABLE_CNF | LEG_RT_CNF:
            levels |= self.pit << 2 | self.rtc << 8
        for n, timer in enumerate(self.timers):
            line = self.line(n)
            driven = timer.config & (INT_ENB | LEVEL | FSB_EN) == INT_ENB | LEVEL
            if self.status >> n & 1 and driven and line is not None:
                levels |= 1 << line
        for line in range(32):
            if levels & ~self.levels & 1 << line:
                self.rise(line)
        self.levels = levels

    # --- writes ----------------------------------------------------------------

    def configure(self, n: int, value: int) -> None:
        timer = self.timers[n]
        if timer.config & LEVEL and not value & LEVEL:
            self.status &= ~(1 << n)
        timer.config = value & KEPT
        if ROUTES >> (value >> 9 & 31) & 1:
            timer.route = value >> 9 & 31
        if value & VAL_SET:
            timer.opened = ALL_ONES
        timer.target &= timer.mask
        timer.period &= timer.mask
        self.drive()

    def compare(self, n: int, value: int, bits: int) -> None:
        """`bits`: the half, or both, that are written."""
        timer = self.timers[n]
        taken = bits & timer.opened if timer.config & PERIODIC else bits
        timer.target = (timer.target & ~taken | value & taken) & timer.mask
        if timer.config & PERIODIC:
            timer.period = (timer.period & ~bits | value & bits) & timer.mask
        timer.opened &= ~bits


class Pair:
    """The device and the model, told the same."""

    def __init__(self, engine: str) -> None:
        self.hpet, self.model = Hpet(engine, fsb=1), Model()

    def compare_all(self, history: list[str]) -> None:
        told = "; ".join(history)
        model, hpet = self.model, self.hpet
        assert (hpet.counter, hpet.status, hpet.levels) == (
            model.counter,
            model.status,
            model.levels,
        ), told
        assert [hpet.comparator(n) for n in range(TIMERS)] == [t.target for t in model.timers], told
        assert hpet.every_rise() == model.rises, told

    def step(self, ticks: int) -> None:
        """Let ticks pass; the device's deadline must not be later than the first edge in them."""
        hpet, model = self.hpet, self.model
        before = model.levels, dict(model.rises)
        first = None
        for passed in range(1, ticks + 1):
            model.tick()
            if first is None and (model.levels, model.rises) != before:
                first = hpet.ns(hpet.tick + passed)
        assert first is None or hpet.device.deadline <= first, model
        hpet.wait(ticks)

    def act(self, rng: random.Random) -> str:
        """One random access, or some time."""
        return rng.choice(ACTIONS)(self, rng)


def _wait(pair: Pair, rng: random.Random) -> str:
    ticks = rng.choice((1, 1, 2, 7, 30, 100))
    pair.step(ticks)
    return f"step {ticks}"


def _enable(pair: Pair, rng: random.Random) -> str:
    bits = rng.choice((1, 1, 1, 0, 2, 3))
    pair.hpet.enable(bits)
    pair.model.config = bits
    pair.model.drive()
    return f"enable {bits}"


def _configure(pair: Pair, rng: random.Random) -> str:
    n = rng.randrange(TIMERS)
    bits = rng.getrandbits(15) & (KEPT | VAL_SET) | route(rng.choice((2, 8, 16, 17, 3)))
    if rng.random() < 0.6:
        bits &= ~FSB_EN
    pair.hpet.configure(n, bits, rng.choice((4, 8)))
    pair.model.configure(n, bits)
    return f"configure {n} {bits:#x}"


def _compare(pair: Pair, rng: random.Random) -> str:
    n = rng.randrange(TIMERS)
    ahead = rng.choice((0, 1, 2, 5, 40, 200, 2**32, -3))
    value = pair.model.counter + ahead & ALL_ONES
    if rng.random() < 0.4:
        value = rng.choice((0, 1, 2, 3, 10, 33, 2**32 - 1, 2**32, ALL_ONES))
    width, high = rng.choice(((8, False), (4, False), (4, True)))
    part = value >> 32 if high else value & (2 ** (8 * width) - 1)
    pair.hpet.compare(n, part, width, high)
    bits = ALL_ONES if width == 8 else 0xFFFF_FFFF << 32 * high
    pair.model.compare(n, value, bits)
    return f"compare {n} {value:#x} & {bits:#x}"


def _count(pair: Pair, rng: random.Random) -> str:
    value = rng.choice((0, 5, 2**32 - 40, 2**32, 2**64 - 40, rng.getrandbits(64)))
    if rng.random() < 0.3:
        value = pair.model.timers[rng.randrange(TIMERS)].target - rng.choice((1, 2, 20)) & ALL_ONES
    pair.hpet.counter = value
    pair.model.counter = value
    return f"counter {value:#x}"


def _acknowledge(pair: Pair, rng: random.Random) -> str:
    timers = [n for n in range(TIMERS) if rng.random() < 0.7]
    pair.hpet.acknowledge(*timers)
    pair.model.status &= ~sum(1 << n for n in timers)
    pair.model.drive()
    return f"acknowledge {timers}"


def _pin(pair: Pair, rng: random.Random) -> str:
    pin, level = rng.choice(("pit", "rtc")), rng.randrange(2)
    pair.hpet.drive(pin, level)
    setattr(pair.model, pin, level)
    pair.model.drive()
    return f"{pin} {level}"


ACTIONS = (_wait,) * 6 + (_configure,) * 3 + (_compare,) * 3 + (_enable, _count, _acknowledge, _pin)


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_agree_with_a_model_that_counts_tick_by_tick(engine: str, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(12 if engine == "native" else 1):
        pair = Pair(engine)
        history: list[str] = []
        for _ in range(120):
            history.append(pair.act(rng))
            pair.compare_all(history)


def test_random_periodic_timers_agree_over_thousands_of_ticks(engine: str) -> None:
    rng = random.Random(99)
    for _ in range(20 if engine == "native" else 2):
        pair = Pair(engine)
        start = rng.choice((0, 2**32 - 500, 2**64 - 500))
        pair.hpet.counter = pair.model.counter = start
        for n in range(TIMERS):
            bits = PERIODIC | VAL_SET | INT_ENB | route(16 + n) | rng.choice((0, LEVEL, MODE32))
            pair.hpet.configure(n, bits)
            pair.model.configure(n, bits)
            for value in (start + rng.randrange(1, 400) & ALL_ONES, rng.choice((1, 2, 3, 17, 170))):
                pair.hpet.compare(n, value)
                pair.model.compare(n, value, ALL_ONES)
        pair.hpet.enable()
        pair.model.config = ENABLE_CNF
        for _ in range(8):
            pair.step(rng.randrange(1, 400))
            pair.compare_all([str(pair.model)])


def test_a_walk_from_deadline_to_deadline_and_one_jump_end_alike(engine: str) -> None:
    """Splitting a span of time changes nothing: neither edges nor state."""
    rng = random.Random(5)
    for _ in range(60 if engine == "native" else 3):
        seed = rng.getrandbits(32)
        walker, jumper = Pair(engine), Pair(engine)
        for pair in (walker, jumper):
            program = random.Random(seed)
            for _ in range(40):
                pair.act(program)
        end = walker.hpet.now + rng.randrange(10**6)
        while walker.hpet.device.deadline <= end:
            walker.hpet.run_to_deadline()
        for pair in (walker, jumper):
            pair.hpet.now = end
        assert walker.hpet.every_rise() == jumper.hpet.every_rise()
        assert walker.hpet.device.save(end) == jumper.hpet.device.save(end)


def test_saving_and_restoring_in_the_middle_changes_nothing(engine: str) -> None:
    rng = random.Random(6)
    for _ in range(30 if engine == "native" else 2):
        pair = Pair(engine)
        for _ in range(40):
            pair.act(rng)
        rises = pair.hpet.every_rise()
        other = Hpet(engine, fsb=1)
        other.device.restore(pair.hpet.now, pair.hpet.device.save(pair.hpet.now))
        pair.hpet, other.now = other, pair.hpet.now
        levels = {line: pair.model.levels >> line & 1 for line in range(32)}
        restored = {line: other.rises(line) for line in range(64)}
        lost = {line: rises.get(line, 0) - restored[line] for line in restored}
        for _ in range(40):
            pair.act(rng)
            pair.step(1)
            now = {line: count - lost[line] for line, count in pair.model.rises.items()}
            assert other.every_rise() == {line: count for line, count in now.items() if count}, levels
            assert (other.counter, other.status, other.levels) == (
                pair.model.counter,
                pair.model.status,
                pair.model.levels,
            )
