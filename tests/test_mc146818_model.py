"""The MC146818 against one that counts its divider tick by tick: random programs.

The model is the sheet in the simplest form: a divider of 15 bits, an update that begins
when it wraps and ends `update` ticks later, an alarm compared byte for byte then.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from .rig_rtc import (
    AF,
    AIE,
    ANY,
    DM,
    H24,
    HOURS,
    HOURS_ALARM,
    HZ,
    IRQF,
    MINUTES,
    MINUTES_ALARM,
    PF,
    PIE,
    SECONDS,
    SECONDS_ALARM,
    SET,
    SQWE,
    UF,
    UIE,
    UIP,
    UIP_TICKS,
    UPDATE_TICKS,
    A,
    B,
    C,
    Rtc,
    encode,
    number,
    seconds,
)

START = datetime(2027, 12, 31, 23, 59, 40)
FAST_UPDATE = 8
"""248 us at 1 and 4 MHz, in whole ticks."""


@dataclass
class Model:
    update: int
    moment: datetime = START
    divider: int = 0
    updating: bool = False
    a: int = 0x26
    b: int = H24
    c: int = 0
    alarm: dict[int, int] = field(default_factory=lambda: dict.fromkeys((1, 3, 5), 0))

    @property
    def running(self) -> bool:
        return self.a >> 4 & 7 <= 2

    @property
    def length(self) -> int:
        """Of the update cycle, in ticks."""
        return self.update if self.a >> 4 & 7 == 2 else min(self.update, FAST_UPDATE)

    @property
    def period(self) -> int:
        rs = self.a & 15
        if rs == 0:
            return 0
        slow = rs <= 2 and self.a >> 4 & 7 == 2
        return 1 << (rs + 6 if slow else rs - 1)

    def tick(self) -> None:
        if not self.running:
            return
        self.divider = (self.divider + 1) % HZ
        if self.divider == 0 and not self.b & SET:
            self.updating = True
        if self.period and self.divider % self.period == 0:
            self.c |= PF
        if self.updating and self.divider == self.length:
            self.updating = False
            self.moment += seconds(1)
            self.c |= UF | (AF if self.rings else 0)

    @property
    def rings(self) -> bool:
        shown = encode(self.moment, self.b)
        pairs = ((HOURS_ALARM, HOURS), (MINUTES_ALARM, MINUTES), (SECONDS_ALARM, SECONDS))
        return all(self.alarm[a] >= ANY or self.alarm[a] == shown[t] for a, t in pairs)

    def write_a(self, value: int) -> None:
        held = self.a >> 4 & 7 >= 6
        self.a = value & 0x7F
        if held and self.a >> 4 & 7 < 6:
            self.divider, self.updating = HZ // 2, False

    def write_b(self, value: int) -> None:
        if value & SET and not self.b & SET:
            value &= ~UIE
            self.updating = False
        self.b = value

    @property
    def uip(self) -> bool:
        return self.running and not self.b & SET and (self.divider >= HZ - UIP_TICKS or self.updating)

    @property
    def flags(self) -> int:
        return self.c | (IRQF if self.c & self.b & (PF | AF | UF) else 0)


class Pair:
    def __init__(self, engine: str, update: int) -> None:
        self.rtc, self.model = Rtc(engine, START, update), Model(update)

    def wait(self, ticks: int) -> None:
        """Let ticks pass; the device's deadline must not be later than the line's first edge in them."""
        rtc, model = self.rtc, self.model
        before, first = model.flags & IRQF, None
        for passed in range(1, ticks + 1):
            model.tick()
            if first is None and model.flags & IRQF != before:
                first = rtc.ns(rtc.tick + passed)
        assert first is None or rtc.device.deadline <= first, model
        rtc.wait(ticks)

    def compare(self, history: list[str]) -> None:
        told = "; ".join(history)
        rtc, model = self.rtc, self.model
        shown = (rtc[A], rtc[B], rtc.peek_flags(), rtc.irq)
        assert shown == (model.a | (UIP if model.uip else 0), model.b, model.flags, model.flags >> 7), told
        assert rtc.bytes == encode(model.moment, model.b), told

    def act(self, rng: random.Random) -> str:
        return rng.choice(ACTIONS)(self, rng)


def _wait(pair: Pair, rng: random.Random) -> str:
    """Some ticks, often just to where something happens."""
    ticks = rng.choice((1, 5, 100, 5000, 40_000))
    if rng.random() < 0.6:
        ticks = (rng.choice((-9, -8, -1, 0, 1, 7, 8, 9, 30, 64, 65, 66)) - pair.model.divider) % HZ
    pair.wait(ticks)
    return f"wait {ticks}"


def _rate(pair: Pair, rng: random.Random) -> str:
    value = pair.model.a & 0x70 | rng.choice((0, 1, 2, 3, 4, 6, 10, 13, 15))
    return _write_a(pair, value)


def _base(pair: Pair, rng: random.Random) -> str:
    """Not within the time of an update: its length would change under way."""
    if pair.model.divider <= UPDATE_TICKS:
        return "nothing"
    return _write_a(pair, rng.choice((0, 1, 2, 2, 2, 2, 3, 5)) << 4 | pair.model.a & 15)


def _hold(pair: Pair, rng: random.Random) -> str:
    held = _write_a(pair, rng.choice((0x60, 0x70)) | pair.model.a & 15)
    waited = _wait(pair, rng)
    return f"{held}; {waited}; {_write_a(pair, 0x20 | pair.model.a & 15)}"


def _write_a(pair: Pair, value: int) -> str:
    pair.rtc[A] = value
    if pair.model.a >> 4 & 7 >= 6 > value >> 4 & 7:
        pair.rtc.epoch = pair.rtc.now  # the clock starts with a tick
    pair.model.write_a(value)
    return f"a {value:#x}"


def _enables(pair: Pair, rng: random.Random) -> str:
    value = pair.model.b & (DM | H24) | rng.choice((0, PIE, AIE, UIE, UIE | AIE, PIE | AIE | UIE, SQWE))
    return _write_b(pair, value)


def _set(pair: Pair, rng: random.Random) -> str:
    return _write_b(pair, pair.model.b ^ SET)


def _mode(pair: Pair, rng: random.Random) -> str:
    return _write_b(pair, pair.model.b & ~(DM | H24) | rng.choice((0, DM, H24, DM | H24)))


def _write_b(pair: Pair, value: int) -> str:
    pair.rtc[B] = value
    pair.model.write_b(value)
    return f"b {value:#x}"


def _acknowledge(pair: Pair, rng: random.Random) -> str:
    assert pair.rtc[C] == pair.model.flags
    pair.model.c = 0
    return "acknowledge"


def _alarm(pair: Pair, rng: random.Random) -> str:
    """Often one that is due soon."""
    soon = encode(pair.model.moment + seconds(rng.randrange(4)), pair.model.b)
    for index, time in ((HOURS_ALARM, HOURS), (MINUTES_ALARM, MINUTES), (SECONDS_ALARM, SECONDS)):
        value = rng.choice((soon[time], soon[time], ANY, 0xFF, rng.randrange(256)))
        pair.rtc[index] = pair.model.alarm[index] = value
    return f"alarm {pair.model.alarm}"


def _time(pair: Pair, rng: random.Random) -> str:
    """One byte, whenever."""
    index, name, limit = rng.choice(((SECONDS, "second", 60), (MINUTES, "minute", 60)))
    value = rng.randrange(limit)
    pair.rtc[index] = number(value, pair.model.b)
    pair.model.moment = pair.model.moment.replace(**{name: value})
    return f"{name} {value}"


ACTIONS = (
    (_wait,) * 8
    + (_rate, _base, _hold, _enables, _enables, _set, _set, _mode, _acknowledge)
    + (
        _alarm,
        _alarm,
        _time,
    )
)


@pytest.mark.parametrize("update", [0, UPDATE_TICKS])
@pytest.mark.parametrize("seed", range(4))
def test_random_programs_agree_with_a_model_that_counts_tick_by_tick(
    engine: str, seed: int, update: int
) -> None:
    rng = random.Random(seed)
    for _ in range(3 if engine == "native" else 1):
        pair = Pair(engine, update)
        history: list[str] = []
        for _ in range(60 if engine == "native" else 25):
            history.append(pair.act(rng))
            pair.compare(history)
