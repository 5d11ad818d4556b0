"""What QEMU's rtc-test asks of an RTC, as vectors of our own, through the ports.

The device is built as those vectors want it: an update of no time (`update = 0`), so that
the time changes at the second itself, and a periodic rate that begins anew at each tick
(`locked = false`). Every test runs on both engines.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from .rig import SECOND
from .rig_rtc import (
    AF,
    AIE,
    ANY,
    CENTURY,
    DAY,
    DM,
    H24,
    HOLD,
    HOURS,
    MINUTES,
    MONTH,
    PF,
    PIE,
    RUN,
    SECONDS,
    SECONDS_ALARM,
    SET,
    UIE,
    YEAR,
    A,
    B,
    C,
    Rtc,
    encode,
    number,
)

DATE = datetime(2026, 11, 20, 12, 34, 56)
UIP_HOLD = 244_140
"""8 ticks of 32,768 Hz in whole ns."""


@pytest.fixture
def rtc(engine: str) -> Rtc:
    return Rtc(engine, DATE, update=0, locked=False)


def step(rtc: Rtc, ns: int) -> None:
    rtc.now += ns
    rtc.device.settle(rtc.now)


def set_time(rtc: Rtc, mode: int, hours: int, minutes: int, seconds: int) -> None:
    """With the divider held; the first update is 500 ms later."""
    rtc[B] = mode
    rtc[A] = HOLD
    rtc[HOURS], rtc[MINUTES], rtc[SECONDS] = hours, minutes, seconds
    rtc[A] = RUN


def time(rtc: Rtc) -> tuple[int, int, int]:
    return rtc[HOURS], rtc[MINUTES], rtc[SECONDS]


WHEN = {HOURS: 0x02, MINUTES: 0x04, SECONDS: 0x58, DAY: 0x02, MONTH: 0x02, YEAR: 0x11, CENTURY: 0x20}


def set_when(rtc: Rtc, **changed: int) -> None:
    for index, value in WHEN.items():
        rtc[index] = value


def when(rtc: Rtc) -> dict[int, int]:
    return {index: rtc[index] for index in WHEN}


# --- check-time ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [H24, H24 | DM])
def test_check_time_bcd_and_dec(rtc: Rtc, mode: int) -> None:
    """The format is changed without writing the time again."""
    rtc[B] = mode
    assert rtc.bytes == encode(DATE, mode)
    step(rtc, 7 * SECOND)
    assert rtc.bytes == encode(DATE + timedelta(seconds=7), mode)


# --- alarms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [H24, H24 | DM])
@pytest.mark.parametrize("ahead", [1, 2, 59])
def test_alarm_time(rtc: Rtc, mode: int, ahead: int) -> None:
    rtc[B] = mode
    assert rtc.irq == 0
    rtc.acknowledge()
    rtc.set_alarm(ANY, ANY, number((DATE.second + ahead) % 60, mode))
    rtc[B] = mode | AIE
    steps = 0
    while not rtc.irq:
        step(rtc, SECOND)
        steps += 1
    assert steps == ahead
    assert rtc[C] & AF
    assert rtc[C] == 0
    assert rtc.irq == 0


def test_alarm_am_pm(rtc: Rtc) -> None:
    rtc.set_alarm(0x82, 0xC0, 0xC0)
    rtc[B] = 0
    rtc[A] = HOLD
    rtc[HOURS], rtc[MINUTES], rtc[SECONDS] = 0x81, 0x59, 0x00
    rtc.acknowledge()
    rtc[A] = RUN
    step(rtc, 60 * SECOND)
    assert rtc[HOURS] == 0x82
    assert rtc[C] & AF


@pytest.mark.parametrize(("alarm", "fires"), [(0x82, True), (0x02, False)])
def test_alarm_am_pm_after_hours(rtc: Rtc, alarm: int, fires: bool) -> None:
    """Binary, from 3 AM to 2 PM: an alarm that differs by AM and PM only stays silent."""
    rtc.set_alarm(alarm, 0xC0, 0xC0)
    rtc[B] = DM
    rtc[A] = HOLD
    rtc[HOURS], rtc[MINUTES], rtc[SECONDS] = 3, 0, 0
    rtc.acknowledge()
    rtc[A] = RUN
    step(rtc, 11 * 3600 * SECOND)
    assert rtc[HOURS] == 0x82
    assert bool(rtc[C] & AF) == fires


# --- basic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "before", "seconds", "after"),
    [
        (0, (0x81, 0x59, 0x00), 1, (0x81, 0x59, 0x01)),
        (0, (0x81, 0x59, 0x00), 60, (0x82, 0x00, 0x00)),
        (0, (0x09, 0x59, 0x59), 60, (0x10, 0x00, 0x59)),
        (0, (0x12, 0x59, 0x59), 1, (0x01, 0x00, 0x00)),
        (0, (0x92, 0x59, 0x59), 1, (0x81, 0x00, 0x00)),
        (0, (0x11, 0x59, 0x59), 1, (0x92, 0x00, 0x00)),
        (0, (0x91, 0x59, 0x59), 1, (0x12, 0x00, 0x00)),
        (DM, (0x81, 59, 0), 1, (0x81, 59, 1)),
        (DM, (0x81, 59, 0), 60, (0x82, 0, 0)),
        (DM, (0x8C, 59, 59), 1, (0x81, 0, 0)),
        (DM, (0x0C, 59, 59), 1, (0x01, 0, 0)),
        (DM, (0x0B, 59, 59), 1, (0x8C, 0, 0)),
        (DM, (0x8B, 59, 59), 1, (0x0C, 0, 0)),
        (H24, (0x09, 0x59, 0x00), 1, (0x09, 0x59, 0x01)),
        (H24, (0x09, 0x59, 0x00), 60, (0x10, 0x00, 0x00)),
        (H24, (0x23, 0x59, 0x00), 60, (0x00, 0x00, 0x00)),
        (H24 | DM, (9, 59, 0), 1, (9, 59, 1)),
        (H24 | DM, (9, 59, 0), 60, (10, 0, 0)),
        (H24 | DM, (23, 59, 0), 60, (0, 0, 0)),
    ],
)
def test_basic(
    rtc: Rtc, mode: int, before: tuple[int, int, int], seconds: int, after: tuple[int, int, int]
) -> None:
    set_time(rtc, mode, *before)
    assert time(rtc) == before
    step(rtc, seconds * SECOND)
    assert time(rtc) == after


def test_basic_in_one_session(rtc: Rtc) -> None:
    """Formats and times follow each other on one clock, as the original has it."""
    for mode, hours, expected in (
        (H24 | DM, 23, 0),
        (H24, 0x23, 0x00),
        (DM, 0x8B, 0x0C),
        (0, 0x91, 0x12),
        (H24 | DM, 9, 10),
    ):
        set_time(rtc, mode, hours, 0x59 if not mode & DM else 59, 0)
        step(rtc, 60 * SECOND)
        assert time(rtc) == (expected, 0, 0)


# --- set-year ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("year", "century"), [(0x11, 0x20), (0x80, 0x20), (0x80, 0x19), (0x00, 0x21)])
def test_set_year(rtc: Rtc, year: int, century: int) -> None:
    """2011, 2080 (beyond 2038), 1980 and 2100."""
    rtc[B] = H24
    rtc[A] = HOLD
    set_when(rtc)
    rtc[YEAR], rtc[CENTURY] = year, century
    rtc[A] = RUN
    assert when(rtc) == WHEN | {YEAR: year, CENTURY: century}
    step(rtc, 3 * SECOND)
    assert when(rtc) == WHEN | {YEAR: year, CENTURY: century, MINUTES: 0x05, SECONDS: 0x01}


def test_set_year_changes_the_year_alone(rtc: Rtc) -> None:
    rtc[A] = HOLD
    set_when(rtc)
    rtc[A] = RUN
    for year in (0x80, 0x11):
        rtc[A] = HOLD
        rtc[YEAR] = year
        rtc[A] = RUN
        assert when(rtc) == WHEN | {YEAR: year}


# --- update ---------------------------------------------------------------------------------------------


def test_register_b_set_flag(rtc: Rtc) -> None:
    assert rtc.uip == 0
    rtc[B] = H24 | SET
    set_when(rtc)
    assert when(rtc) == WHEN
    step(rtc, SECOND)
    assert when(rtc) == WHEN
    rtc[B] = rtc[B] & ~SET
    assert when(rtc) == WHEN
    step(rtc, SECOND)
    assert when(rtc) == WHEN | {SECONDS: 0x59}


def test_divider_reset(rtc: Rtc) -> None:
    rtc[B] = H24
    rtc[A] = HOLD
    set_when(rtc)
    assert when(rtc) == WHEN
    step(rtc, SECOND)
    assert when(rtc) == WHEN
    rtc[A] = RUN
    step(rtc, 500_000_000 - UIP_HOLD - 1)
    assert rtc.uip == 0
    assert when(rtc) == WHEN
    step(rtc, 1)
    assert rtc.uip == 1
    step(rtc, UIP_HOLD)
    assert rtc.uip == 0
    assert when(rtc) == WHEN | {SECONDS: 0x59}


def test_uip_stuck(rtc: Rtc) -> None:
    rtc[B] = H24
    rtc[A] = HOLD
    set_when(rtc)
    rtc[A] = RUN
    rtc.acknowledge()
    step(rtc, 500_000_000)
    assert rtc.uip == 0
    assert when(rtc) == WHEN | {SECONDS: 0x59}
    rtc.set_alarm(0x02, 0xC0, 0xC0)
    step(rtc, SECOND - UIP_HOLD // 2)
    assert rtc.uip == 1
    rtc.set_alarm(0x03, 0xC0, 0xC0)
    step(rtc, UIP_HOLD)
    assert rtc.uip == 0


# --- misc --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_fuzz_registers(engine: str, seed: int) -> None:
    rtc = Rtc(engine, DATE, update=0, locked=False)
    rng = random.Random(seed)
    for _ in range(1000 if engine == "native" else 100):
        register = rng.randrange(16)
        rtc[register] = rng.randrange(256)
        assert 0 <= rtc[register] <= 0xFF
        step(rtc, rng.choice((0, 0, 0, 1, SECOND, 86_400 * SECOND)))
        assert rtc.device.deadline > rtc.now
    rtc[A], rtc[B] = RUN, H24
    rtc.acknowledge()
    step(rtc, 2 * SECOND)
    assert rtc[SECONDS_ALARM] <= 0xFF


def test_a_fuzzed_clock_can_be_set_again(rtc: Rtc) -> None:
    rng = random.Random(11)
    for _ in range(100):
        rtc[rng.randrange(16)] = rng.randrange(256)
    rtc[B] = H24
    rtc[A] = HOLD
    set_when(rtc)
    rtc[A] = RUN
    step(rtc, SECOND)
    assert when(rtc) == WHEN | {SECONDS: 0x59}


# --- periodic ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [0x00, 0x20])
@pytest.mark.parametrize(("rs", "period"), [(13, SECOND // 8), (15, SECOND // 2)])
def test_periodic_interrupt_of_one_rate(rtc: Rtc, base: int, rs: int, period: int) -> None:
    """The divider's setting 000 runs the periodic timer, too."""
    rtc[A] = base | rs
    rtc[B] = rtc[B] & ~(PIE | AIE | UIE) | PIE
    rtc.next_irq()
    start = rtc.now
    rtc.acknowledge()
    for _ in range(50):
        rtc.next_irq()
        assert rtc[C] & PF
    assert rtc.now - start == 50 * period


def test_periodic_interrupt_of_two_rates_in_turn(rtc: Rtc) -> None:
    """Each period counts from the interrupt before it, where the chip's would keep the divider's phase."""
    rtc[B] = rtc[B] & ~(PIE | AIE | UIE)
    rtc[A] = 13
    rtc[B] = rtc[B] | PIE
    rtc.next_irq()
    start = rtc.now
    rtc.acknowledge()
    for _ in range(50):
        for rs in (13, 15):
            rtc[A] = rs
            rtc.next_irq()
            assert rtc[C] & PF
    assert abs(rtc.now - start - 50 * (SECOND // 8 + SECOND // 2)) <= SECOND // 2


@pytest.mark.parametrize(("old", "new", "due"), [(13, 15, 16_384), (13, 14, 8192), (0, 13, 1000 + 4096)])
def test_a_rate_set_between_two_ticks_counts_from_the_last_one_or_from_now_if_there_was_none(
    rtc: Rtc, old: int, new: int, due: int
) -> None:
    rtc[A] = 0x20 | 13
    rtc[B] = H24 | PIE
    start = rtc.next_irq()
    rtc.acknowledge()
    rtc[A] = 0x20 | old
    rtc.at(start + 1000)
    rtc[A] = 0x20 | new
    assert rtc.next_irq() - start == due


def test_on_the_chip_two_rates_in_turn_take_the_slower_one_s_time(engine: str) -> None:
    """Locked to the divider, an eighth of a second lies within each half."""
    rtc = Rtc(engine, DATE, update=0, locked=True)
    rtc[A] = 0x20 | 13
    rtc[B] = rtc[B] | PIE
    rtc.next_irq()
    start = rtc.now
    rtc.acknowledge()
    for _ in range(50):
        for rs in (13, 15):
            rtc[A] = 0x20 | rs
            rtc.next_irq()
            assert rtc[C] & PF
    assert abs(rtc.now - start - 50 * SECOND // 2) <= SECOND // 2
