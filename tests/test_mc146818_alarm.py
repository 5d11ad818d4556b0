"""The MC146818's alarm, held against a search through a day's seconds; every test runs on both engines.

Alarms that daylight saving concerns are in test_mc146818_calendar.
"""

from __future__ import annotations

import random
from datetime import datetime

import pytest

from .rig_rtc import (
    AF,
    AIE,
    ANY,
    DM,
    H24,
    HOURS,
    HZ,
    MODES,
    SET,
    UF,
    B,
    C,
    Rtc,
    hour,
    number,
    seconds,
)

ALL_MODES = pytest.mark.parametrize("mode", [mode for mode, _ in MODES], ids=[name for _, name in MODES])


def clock(engine: str, moment: datetime, mode: int = H24) -> Rtc:
    rtc = Rtc(engine, moment)
    if mode != H24:
        rtc[B] = mode
    return rtc


def random_moment(rng: random.Random, first: int = 1970, last: int = 2400) -> datetime:
    span = (datetime(last, 1, 1) - datetime(first, 1, 1)).total_seconds()
    return datetime(first, 1, 1) + seconds(rng.randrange(int(span)))


def search(alarm: tuple[int, int, int], start: datetime, mode: int) -> int | None:
    """After how many seconds the alarm is next due, each second of a day tried; None if never."""
    shown = [hour(value, mode) for value in range(24)], *[[number(value, mode) for value in range(60)]] * 2
    rings = [
        [want >= ANY or want == byte for byte in bytes] for want, bytes in zip(alarm, shown, strict=True)
    ]
    now = start.hour * 3600 + start.minute * 60 + start.second
    for passed in range(1, 86_401):
        time = (now + passed) % 86_400
        if rings[2][time % 60] and rings[1][time // 60 % 60] and rings[0][time // 3600]:
            return passed
    return None


NO_TIME = (0x0A, 0x0F, 0x1A, 0x3C, 0x5F, 0x60, 0x7F, 0x80, 0x8F, 0x99, 0xB0)
"""Bytes that are no time in some format: some are in another."""


def random_alarm(rng: random.Random, start: datetime, mode: int) -> tuple[int, int, int]:
    """Wild cards of every value, valid bytes of any time, and sometimes a byte that no time has."""
    moment = start + seconds(rng.randrange(86_400))
    bytes = hour(moment.hour, mode), number(moment.minute, mode), number(moment.second, mode)

    def choose(byte: int) -> int:
        chance = rng.random()
        if chance < 0.35:
            return rng.randrange(ANY, 0x100)
        return byte if chance < 0.93 else rng.choice(NO_TIME)

    return choose(bytes[0]), choose(bytes[1]), choose(bytes[2])


@ALL_MODES
def test_an_alarm_comes_when_a_search_through_the_day_finds_it(engine: str, mode: int) -> None:
    rng = random.Random(mode + 100)
    for _ in range(60 if engine == "native" else 4):
        start = random_moment(rng)
        alarm = random_alarm(rng, start, mode)
        due = search(alarm, start, mode)
        rtc = clock(engine, start, mode)
        rtc.set_alarm(*alarm)
        if due is None:
            rtc.after_update(3 * 86_400)
            assert rtc.peek_flags() & AF == 0, (start, alarm)
            continue
        rtc.after_update(due)
        rtc.now -= 1
        assert rtc.peek_flags() & AF == 0, (start, alarm, due)
        rtc.now += 1
        assert rtc.peek_flags() & AF, (start, alarm, due)


@ALL_MODES
def test_an_enabled_alarm_raises_the_line_at_its_instant(engine: str, mode: int) -> None:
    rng = random.Random(mode + 200)
    done = 0
    while done < (20 if engine == "native" else 2):
        start = random_moment(rng)
        alarm = random_alarm(rng, start, mode)
        due = search(alarm, start, mode)
        if due is None or due > (20_000 if engine == "native" else 300):
            continue
        done += 1
        rtc = clock(engine, start, mode | AIE)
        rtc.set_alarm(*alarm)
        assert rtc.next_irq() == due * HZ + rtc.update, (start, alarm)
        rtc.now = rtc.ns(due * HZ + rtc.update)
        assert rtc[C] & AF


def test_all_wild_cards_are_an_alarm_every_second(engine: str) -> None:
    rtc = Rtc(engine, datetime(2026, 1, 1))
    rtc.set_alarm(0xC0, 0xFF, 0xE7)
    rtc[B] = H24 | AIE
    assert [tick // HZ for tick in rtc.interrupts(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("alarm", "period"),
    [((ANY, ANY, 0x05), 60), ((ANY, 0x05, 0x05), 3600), ((0x05, 0x05, 0x05), 86_400)],
)
def test_a_wild_card_makes_the_alarm_come_every_minute_or_hour(
    engine: str, alarm: tuple[int, int, int], period: int
) -> None:
    rtc = Rtc(engine, datetime(2026, 1, 1, 5, 5, 4))
    rtc.set_alarm(*alarm)
    for k in range(4):
        rtc.after_update(1 + k * period)
        rtc.now -= 1
        assert rtc[C] & AF == 0
        rtc.now += 1
        assert rtc[C] & AF


@pytest.mark.parametrize(
    ("mode", "index", "value"),
    [
        *((0, 0, 0x00), (0, 0, 0x60), (0, 0, 0x13), (DM, 0, 0), (DM, 0, 13), (DM, 0, 0x8D), (H24, 0, 0x24)),
        *((H24, 1, 0x1A), (H24, 2, 0x0F), (DM | H24, 2, 60)),
    ],
)
def test_an_alarm_byte_is_compared_as_a_byte(engine: str, mode: int, index: int, value: int) -> None:
    """What no time looks like never rings."""
    rtc = clock(engine, datetime(2026, 1, 1), mode)
    alarm = [ANY, ANY, ANY]
    alarm[index] = value
    rtc.set_alarm(*alarm)
    rtc.after_update(2 * 86_400)
    assert rtc[C] & AF == 0


def test_an_alarm_byte_between_59_and_c0_matches_no_time(engine: str) -> None:
    for value in (0x5A, 0x60, 0x99, 0xBF):
        rtc = Rtc(engine, datetime(2026, 1, 1))
        rtc.set_alarm(ANY, ANY, value)
        rtc.after_update(2 * 86_400)
        assert rtc[C] & AF == 0


def test_an_alarm_is_compared_at_an_update_not_when_it_is_written(engine: str) -> None:
    moment = datetime(2026, 1, 1, 5, 5, 4)
    rtc = Rtc(engine, moment)
    rtc.set_alarm(0x05, 0x05, 0x04)
    rtc.set_time(moment)
    assert rtc[C] & AF == 0
    rtc.after_update(1)
    assert rtc[C] & (AF | UF) == UF


def test_an_alarm_compares_pm_too(engine: str) -> None:
    for mode, twelve in ((0, 0x12), (DM, 0x0C)):
        for pm in (0, 0x80):
            rtc = Rtc(engine)
            rtc.set_time(datetime(2026, 1, 1, 23, 59, 59) if pm else datetime(2026, 1, 1, 11, 59, 59), mode)
            rtc.set_alarm(twelve | pm, ANY, ANY)
            rtc.after_update(1)
            assert rtc[HOURS] == twelve | (0x80 - pm)
            assert rtc[C] & AF == 0
            rtc.after_update(12 * 3600 + 1)
            assert rtc[C] & AF


@pytest.mark.parametrize("days", [1, 3, 4, 1000, 100_000])
def test_an_alarm_within_a_jump_leaves_its_flag(engine: str, days: int) -> None:
    for alarm, rings in (((0x05, 0x30, 0x15), True), ((0x24, ANY, ANY), False)):
        rtc = Rtc(engine, datetime(2026, 1, 1, 5, 30, 20))
        rtc.set_alarm(*alarm)
        rtc.after_update(days * 86_400)
        assert bool(rtc[C] & AF) == rings


def test_no_alarm_comes_under_set(engine: str) -> None:
    rtc = Rtc(engine, datetime(2026, 1, 1))
    rtc.set_alarm(ANY, ANY, ANY)
    rtc[B] = SET | H24 | AIE
    rtc.after_update(10)
    assert (rtc.irq, rtc[C] & AF) == (0, 0)


def test_moving_an_alarm_moves_its_deadline(engine: str) -> None:
    rtc = Rtc(engine, datetime(2026, 1, 1))
    rtc[B] = H24 | AIE
    rtc.set_alarm(0, 0, 0x30)
    rtc.at(HZ)
    rtc.set_alarm(0, 0, 0x10)
    assert rtc.next_irq() // HZ == 10
    rtc.acknowledge()
    rtc.set_alarm(0, 1, 0)
    assert rtc.next_irq() // HZ == 60
