"""The MC146818's periodic interrupt: rates, and a phase locked to the divider; on both engines."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest

from .rig import SECOND
from .rig_rtc import (
    H24,
    HOLD,
    HZ,
    PF,
    PIE,
    UF,
    UIE,
    A,
    B,
    C,
    Rtc,
)

START = datetime(2026, 1, 31, 23, 59, 50)
BASE_4M, BASE_1M, BASE_32K = 0x00, 0x10, 0x20


@pytest.fixture
def rtc(engine: str) -> Rtc:
    return Rtc(engine, START)


RATES_32K = {1: 128, 2: 256, **{rs: 1 << (rs - 1) for rs in range(3, 16)}}
RATES_MHZ = {rs: 1 << (rs - 1) for rs in range(1, 16)}
RATES = [(BASE_32K, rs, period) for rs, period in RATES_32K.items()]
RATES += [(base, rs, period) for base in (BASE_4M, BASE_1M) for rs, period in RATES_MHZ.items()]


@pytest.mark.parametrize(("base", "rs", "period"), RATES)
def test_the_periodic_rate(rtc: Rtc, base: int, rs: int, period: int) -> None:
    """At 32,768 Hz rates 1 and 2 are 256 and 128 Hz, at 1 and 4 MHz 32,768 and 16,384 Hz."""
    rtc[A] = base | rs
    rtc[B] = H24 | PIE
    ticks = list(rtc.interrupts(6))
    assert [b - a for a, b in pairwise(ticks)] == [period] * 5
    assert ticks[0] <= period


@pytest.mark.parametrize("base", [BASE_4M, BASE_1M, BASE_32K])
def test_rate_0_is_none(rtc: Rtc, base: int) -> None:
    rtc[A] = base
    rtc[B] = H24 | PIE
    rtc.at(10 * HZ + 1000)
    assert rtc[C] & PF == 0


def test_periodic_interrupts_keep_their_grid_for_hours(rtc: Rtc) -> None:
    rtc[B] = H24 | PIE
    (first,) = rtc.interrupts(1)
    rtc.now += 5 * 3600 * SECOND + 12_345
    assert rtc[C] & PF
    (later,) = rtc.interrupts(1)
    assert (later - first) % 32 == 0
    assert rtc.now == rtc.ns(later)


@pytest.mark.parametrize("excursion", [3, 9, 15])
@pytest.mark.parametrize("rs", [3, 6, 10, 15])
def test_the_phase_of_the_periodic_tick_is_locked_to_the_divider(
    engine: str, rs: int, excursion: int
) -> None:
    """It does not depend on when the rate was set, nor on when the interrupt was enabled."""
    period, phases = RATES_32K[rs], set()
    for away in (0, 1, 777, 5000, 12_345):
        rtc = Rtc(engine, START)
        rtc.at(13)
        rtc[A] = BASE_32K | rs
        rtc.wait(away)
        rtc[A] = BASE_32K | (excursion if away else rs)
        rtc.wait(2 * away)
        rtc[A] = BASE_32K | rs
        rtc.acknowledge()
        rtc.wait(away // 3)
        rtc[B] = H24 | PIE
        rtc.acknowledge()
        phases |= {tick % period for tick in rtc.interrupts(3)}
    assert len(phases) == 1


def test_the_periodic_tick_is_locked_to_the_seconds(rtc: Rtc) -> None:
    rtc[A] = BASE_32K | 15
    rtc[B] = H24 | PIE | UIE
    seen = {PF: set(), UF: set()}
    for _ in range(12):
        tick = rtc.next_irq()
        flags = rtc[C]
        for flag in (PF, UF):
            if flags & flag:
                seen[flag].add(tick % (HZ // 2))
    assert [len(phases) for phases in seen.values()] == [1, 1]


def test_releasing_the_divider_restarts_the_phase(rtc: Rtc) -> None:
    """The first tick is one period after the release, or half a period: the sheet shows both taps."""
    rtc.at(777)
    rtc[A] = HOLD
    rtc.wait(1234)
    rtc[A] = BASE_32K | 13
    rtc.acknowledge()
    rtc[B] = H24 | PIE
    (first,) = rtc.interrupts(1)
    assert first - 2011 in (2048, 4096)


def test_pf_is_set_once_a_period_however_often_it_is_read(rtc: Rtc) -> None:
    rtc[A] = BASE_32K | 13
    seen = 0
    for tick in range(0, 10 * 4096, 64):
        rtc.at(tick)
        seen += rtc[C] & PF == PF
    assert seen in (9, 10)
