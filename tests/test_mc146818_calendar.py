"""The MC146818's calendar and daylight saving against models as simple as can be.

The calendar's oracle is Python's (Gregorian, the century counted), daylight saving's a walk
second by second. On both engines, the
slow one with fewer cases.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from itertools import count, islice

import pytest

from .rig import SECOND
from .rig_rtc import (
    AF,
    AIE,
    ANY,
    CENTURY,
    DAY,
    DM,
    DSE,
    H24,
    HOLD,
    HOURS,
    HZ,
    MODES,
    RUN,
    SET,
    WEEKDAY,
    A,
    B,
    C,
    Rtc,
    encode,
    seconds,
)

ALL_MODES = pytest.mark.parametrize("mode", [mode for mode, _ in MODES], ids=[name for _, name in MODES])
CASES = {"native": 400, "reference": 12, "kernel": 12}


def clock(engine: str, moment: datetime, mode: int = H24) -> Rtc:
    rtc = Rtc(engine, moment)
    if mode != H24:
        rtc[B] = mode
    return rtc


# --- the calendar -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (datetime(2026, 1, 31, 23, 59, 59), datetime(2026, 2, 1)),
        (datetime(2026, 4, 30, 23, 59, 59), datetime(2026, 5, 1)),
        (datetime(2025, 12, 31, 23, 59, 59), datetime(2026, 1, 1)),
        (datetime(2023, 2, 28, 23, 59, 59), datetime(2023, 3, 1)),
        (datetime(2024, 2, 28, 23, 59, 59), datetime(2024, 2, 29)),
        (datetime(2024, 2, 29, 23, 59, 59), datetime(2024, 3, 1)),
        (datetime(2000, 2, 28, 23, 59, 59), datetime(2000, 2, 29)),
        (datetime(2100, 2, 28, 23, 59, 59), datetime(2100, 3, 1)),
        (datetime(2400, 2, 28, 23, 59, 59), datetime(2400, 2, 29)),
        (datetime(1999, 12, 31, 23, 59, 59), datetime(2000, 1, 1)),
        (datetime(2099, 12, 31, 23, 59, 59), datetime(2100, 1, 1)),
        (datetime(2038, 1, 19, 3, 14, 7), datetime(2038, 1, 19, 3, 14, 8)),
        (datetime(2106, 2, 7, 6, 28, 15), datetime(2106, 2, 7, 6, 28, 16)),
    ],
    ids=str,
)
@ALL_MODES
def test_a_second_carries_into(engine: str, before: datetime, after: datetime, mode: int) -> None:
    rtc = clock(engine, before, mode)
    assert rtc.shows(before, mode)
    rtc.after_update(1)
    assert rtc.shows(after, mode)


def test_1900_is_no_leap_year(engine: str) -> None:
    rtc = Rtc(engine)
    rtc.set_time(datetime(1900, 2, 28, 23, 59, 59))
    rtc.after_update(1)
    assert rtc.shows(datetime(1900, 3, 1))


def test_a_year_stepped_in_hours_is_a_calendar_year(engine: str) -> None:
    start = datetime(2024, 1, 1, 0, 0, 1)
    rtc = Rtc(engine, start)
    step = 3601 if engine == "native" else 86_399
    for passed in range(step, 366 * 86_400, step):
        rtc.after_update(passed)
        assert rtc.shows(start + seconds(passed))


@ALL_MODES
def test_a_day_stepped_in_seconds_around_midnight_and_noon(engine: str, mode: int) -> None:
    for start in (datetime(2027, 2, 28, 23, 58, 30), datetime(2027, 2, 28, 11, 58, 30)):
        rtc = clock(engine, start, mode)
        for passed in range(1, 180, 1 if engine == "native" else 11):
            rtc.after_update(passed)
            assert rtc.shows(start + seconds(passed), mode)


def random_moment(rng: random.Random, first: int = 1970, last: int = 2400) -> datetime:
    span = (datetime(last, 1, 1) - datetime(first, 1, 1)).total_seconds()
    return datetime(first, 1, 1) + seconds(rng.randrange(int(span)))


def random_jump(rng: random.Random) -> int:
    """1 s .. 200 years, each order of magnitude alike."""
    return int(10 ** rng.uniform(0, 9.8))


@ALL_MODES
def test_a_jump_of_any_length_leads_to_the_right_date(engine: str, mode: int) -> None:
    rng = random.Random(mode)
    for _ in range(CASES[engine]):
        start = random_moment(rng)
        rtc = clock(engine, start, mode)
        passed = 0
        for _ in range(3):
            passed += random_jump(rng)
            rtc.after_update(passed)
            assert rtc.shows(start + seconds(passed), mode), (start, passed)


def test_a_time_that_was_set_jumps_as_well_as_the_first_one(engine: str) -> None:
    rng = random.Random(7)
    rtc = Rtc(engine)
    updates = 0
    for _ in range(CASES[engine]):
        mode = rng.choice(MODES)[0]
        start = random_moment(rng, 1900, 2300)
        rtc.set_time(start, mode)
        jump = random_jump(rng) // 400 + 1
        updates += jump
        rtc.after_update(updates)
        assert rtc.shows(start + seconds(jump), mode), (start, jump)


def test_the_century_counts_to_99_and_begins_again(engine: str) -> None:
    rtc = Rtc(engine)
    rtc.set_time(datetime(9999, 12, 31, 23, 59, 59))
    rtc.after_update(1)
    shown = rtc.bytes
    assert shown | {WEEKDAY: 0} == encode(datetime(2000, 1, 1)) | {CENTURY: 0, WEEKDAY: 0}
    assert shown[WEEKDAY] == 7, "Friday is followed by Saturday"


# --- daylight saving ------------------------------------------------------------------------


@cache
def last_sunday(year: int, month: int) -> datetime:
    day = datetime(year, month + 1, 1) - timedelta(days=1)
    return day - timedelta(days=day.isoweekday() % 7)


def daylight_saving(moment: datetime) -> Iterator[datetime]:
    """The seconds that follow, each time shown by a clock with DSE set."""
    fell_back: datetime | None = None
    while True:
        if moment == last_sunday(moment.year, 4) + timedelta(hours=1, minutes=59, seconds=59):
            moment += timedelta(hours=1, seconds=1)
        elif (
            moment == last_sunday(moment.year, 10) + timedelta(hours=1, minutes=59, seconds=59)
            and fell_back != moment
        ):
            fell_back = moment
            moment -= timedelta(minutes=59, seconds=59)
        else:
            moment += seconds(1)
        yield moment


@ALL_MODES
@pytest.mark.parametrize("year", [2024, 2025, 2026, 2027, 2028, 2029, 2030])
def test_on_the_last_sunday_of_april_1_59_59_is_followed_by_3_00_00(
    engine: str, year: int, mode: int
) -> None:
    start = last_sunday(year, 4) + timedelta(hours=1, minutes=59, seconds=58)
    rtc = clock(engine, start, mode | DSE)
    rtc.after_update(1)
    assert rtc.shows(start + seconds(1), mode)
    rtc.after_update(2)
    assert rtc.shows(last_sunday(year, 4) + timedelta(hours=3), mode)


@ALL_MODES
@pytest.mark.parametrize("year", [2024, 2025, 2026, 2027, 2028, 2029, 2030])
def test_on_the_last_sunday_of_october_1_59_59_is_followed_by_1_00_00_once(
    engine: str, year: int, mode: int
) -> None:
    sunday = last_sunday(year, 10)
    rtc = clock(engine, sunday + timedelta(hours=1, minutes=59, seconds=58), mode | DSE)
    shown = [timedelta(hours=1, minutes=59, seconds=59), timedelta(hours=1)]
    for passed, time in enumerate(shown, 1):
        rtc.after_update(passed)
        assert rtc.shows(sunday + time, mode)
    rtc.after_update(2 + 3599)
    assert rtc.shows(sunday + timedelta(hours=1, minutes=59, seconds=59), mode)
    rtc.after_update(2 + 3600)
    assert rtc.shows(sunday + timedelta(hours=2), mode)


def test_a_change_of_format_in_the_repeated_hour_does_not_repeat_it_again(engine: str) -> None:
    sunday = last_sunday(2026, 10)
    rtc = clock(engine, sunday + timedelta(hours=1, minutes=59, seconds=59), H24 | DSE)
    rtc.after_update(1)
    assert rtc.shows(sunday + timedelta(hours=1))
    rtc[B] = DM | DSE
    assert rtc.shows(sunday + timedelta(hours=1), DM)
    rtc.after_update(1 + 3600)
    assert rtc.shows(sunday + timedelta(hours=2), DM)


def test_the_hour_repeats_again_in_the_next_year(engine: str) -> None:
    rtc = clock(engine, last_sunday(2026, 10), H24 | DSE)
    passed = int((last_sunday(2027, 10) - last_sunday(2026, 10)).total_seconds())
    rtc.after_update(passed + 2 * 3600 - 1)
    assert rtc.shows(last_sunday(2027, 10) + timedelta(hours=1, minutes=59, seconds=59))
    rtc.after_update(passed + 2 * 3600)
    assert rtc.shows(last_sunday(2027, 10) + timedelta(hours=1))
    rtc.after_update(passed + 3 * 3600)
    assert rtc.shows(last_sunday(2027, 10) + timedelta(hours=2))


@pytest.mark.parametrize("month", [4, 10])
def test_without_dse_no_hour_is_skipped_or_repeated(engine: str, month: int) -> None:
    start = last_sunday(2026, month) + timedelta(hours=1, minutes=59, seconds=59)
    rtc = clock(engine, start)
    rtc.after_update(1)
    assert rtc.shows(start + seconds(1))


@pytest.mark.parametrize(("month", "day"), [(4, 19), (4, 25), (4, 27), (10, 18), (10, 24), (10, 26), (3, 29)])
def test_on_any_other_day_dse_changes_nothing(engine: str, month: int, day: int) -> None:
    start = datetime(2026, month, day, 1, 59, 59)
    rtc = clock(engine, start, H24 | DSE)
    rtc.after_update(1)
    assert rtc.shows(start + seconds(1))
    rtc.after_update(7200)
    assert rtc.shows(start + seconds(7200))


def test_daylight_saving_is_the_same_in_steps_and_in_jumps(engine: str) -> None:
    for month in (4, 10):
        start = last_sunday(2026, month) + timedelta(hours=0, minutes=30)
        walk = dict(zip(range(1, 4 * 3600), daylight_saving(start), strict=False))
        rng = random.Random(month)
        rtc = clock(engine, start, H24 | DSE)
        for passed in sorted(rng.sample(sorted(walk), 300 if engine == "native" else 15)):
            rtc.after_update(passed)
            assert rtc.shows(walk[passed]), passed
        for passed in rng.sample(sorted(walk), 100 if engine == "native" else 5):
            rtc = clock(engine, start, H24 | DSE)
            rtc.after_update(passed)
            assert rtc.shows(walk[passed]), passed


def test_daylight_saving_over_a_jump_of_months_and_years(engine: str) -> None:
    """From winter, an hour is ahead in summer and none in the next winter."""
    start = datetime(2026, 1, 15, 12)
    for days, ahead in ((30, 0), (90, 0), (120, 3600), (280, 3600), (300, 0), (365, 0), (365 + 150, 3600)):
        rtc = clock(engine, start, H24 | DSE)
        rtc.after_update(days * 86_400)
        assert rtc.shows(start + seconds(days * 86_400 + ahead)), days
    rtc = clock(engine, start, H24 | DSE)
    rtc.after_update(100 * 365 * 86_400)
    assert rtc.shows(start + seconds(100 * 365 * 86_400))


def write_date(rtc: Rtc, moment: datetime, how: str) -> None:
    """Under SET, with the divider held, or byte by byte while the clock runs."""
    rtc[A] = HOLD if how == "hold" else RUN
    rtc[B] = H24 | DSE | (SET if how == "set" else 0)
    for index, value in encode(moment).items():
        rtc[index] = value
    rtc[B] = H24 | DSE
    rtc[A] = RUN


@pytest.mark.parametrize("how", ["set", "hold", "neither"])
@pytest.mark.parametrize("month", [1, 7])
@pytest.mark.parametrize("before", ["summer", "winter", "the repeated hour"])
def test_a_date_of_summer_or_winter_may_be_set_in_any_way(
    engine: str, before: str, month: int, how: str
) -> None:
    """Whatever the season was before, the clock goes on from what it shows."""
    repeated = last_sunday(2026, 10) + timedelta(hours=1, minutes=59, seconds=58)
    starts = {"summer": datetime(2026, 7, 2, 12), "winter": datetime(2026, 1, 2, 12)}
    rtc = clock(engine, starts.get(before, repeated), H24 | DSE)
    rtc.after_update(3)
    moment = datetime(2026, month, 1, 12)
    write_date(rtc, moment, how)
    rtc.now += SECOND // 4  # into the middle between two updates
    for days in (1, 10, 40):
        moment += timedelta(days=days)
        rtc.now += days * 86_400 * SECOND
        assert rtc.shows(moment)


@pytest.mark.parametrize("how", ["set", "hold"])
def test_a_time_set_in_the_hour_that_repeats_is_its_first_passing(engine: str, how: str) -> None:
    """Not specified; software that sets the clock does not know which it is."""
    sunday = last_sunday(2026, 10)
    rtc = clock(engine, sunday + timedelta(hours=1, minutes=59, seconds=58), H24 | DSE)
    rtc.after_update(10)
    assert rtc.shows(sunday + timedelta(hours=1, seconds=8))
    write_date(rtc, sunday + timedelta(hours=1, minutes=59, seconds=59), how)
    rtc.now += SECOND + SECOND // 4
    assert rtc.shows(sunday + timedelta(hours=1))


def test_a_time_set_in_the_skipped_hour_counts_as_summer_time(engine: str) -> None:
    """Not specified; counted on, whether somebody looks meanwhile or not."""
    sunday = last_sunday(2026, 4)
    for looks in ((10 * 86_400,), (1800, 2 * 86_400, 4 * 86_400, 10 * 86_400)):
        rtc = clock(engine, sunday, H24 | DSE)
        rtc.set_time(sunday + timedelta(hours=2, minutes=30), H24 | DSE)
        for passed in looks:
            rtc.after_update(passed)
            assert rtc.shows(sunday + timedelta(hours=2, minutes=30) + seconds(passed))


def test_a_day_that_no_month_has_is_its_last_and_not_the_next_summers(engine: str) -> None:
    """The 108th of February 2000, six days long, in one go and in two: found by the fuzzer."""
    for looks in ((6 * 86_400,), (86_400, 6 * 86_400)):
        rtc = clock(engine, datetime(2000, 2, 28, 12), H24 | DSE)
        rtc[DAY] = 0xA8
        for passed in looks:
            rtc.after_update(passed)
            shown = encode(datetime(2000, 3, 2, 12) + seconds(passed))
            assert rtc.bytes | {WEEKDAY: 0} == shown | {WEEKDAY: 0}


@pytest.mark.parametrize("looks", [(), (5400,)], ids=["not looked at", "looked at in the hour"])
def test_a_clock_put_back_before_october_s_hour_repeats_it_again(engine: str, looks: tuple[int, ...]) -> None:
    """Byte by byte, without SET, while the hour passes for the second time."""
    sunday = last_sunday(2026, 10)
    rtc = clock(engine, sunday + timedelta(hours=1, minutes=59, seconds=59), H24 | DSE)
    rtc.after_update(1)
    assert rtc.shows(sunday + timedelta(hours=1))
    rtc[HOURS] = 0x00
    rtc.after_update(2)
    for passed in (*looks, 2 * 3600):
        rtc.after_update(1 + passed)
    assert rtc.shows(sunday + timedelta(hours=1))


def test_a_hundred_years_of_daylight_saving_in_jumps_of_a_week(engine: str) -> None:
    """Never an hour off outside the hours of the change."""
    start = datetime(2000, 1, 2, 12)
    rtc = clock(engine, start, H24 | DSE)
    for week in range(1, 5200, 1 if engine == "native" else 57):
        rtc.after_update(week * 7 * 86_400)
        moment = start + seconds(week * 7 * 86_400)
        summer = last_sunday(moment.year, 4) <= moment < last_sunday(moment.year, 10)
        assert rtc.shows(moment + seconds(3600 * summer)), moment


@pytest.mark.parametrize(("hours", "rings"), [(0x02, False), (0x03, True)])
def test_the_alarm_is_compared_with_the_time_that_daylight_saving_shows(
    engine: str, hours: int, rings: bool
) -> None:
    start = last_sunday(2026, 4) + timedelta(hours=1, minutes=59, seconds=58)
    rtc = clock(engine, start, H24 | DSE)
    rtc.set_alarm(hours, 0, 0)
    rtc.after_update(1)
    assert rtc[C] & AF == 0
    rtc.after_update(2)
    assert bool(rtc[C] & AF) == rings


def test_daylight_saving_is_right_after_any_jump(engine: str) -> None:
    """From a winter's day, the clock is an hour ahead where summer time is."""
    rng = random.Random(17)
    start = datetime(2026, 1, 15, 12)
    for _ in range(CASES[engine]):
        near = last_sunday(rng.randrange(2026, 2060), rng.choice((4, 10))) - start
        passed = int(near.total_seconds()) + rng.randrange(-4 * 86_400, 4 * 86_400)
        standard = start + seconds(passed)
        begins = last_sunday(standard.year, 4) + timedelta(hours=2)
        ends = last_sunday(standard.year, 10) + timedelta(hours=1)
        rtc = clock(engine, start, H24 | DSE)
        rtc.after_update(passed)
        assert rtc.shows(standard + seconds(3600 * (begins <= standard < ends))), passed


@pytest.mark.parametrize("days", [1, 10])
def test_turning_daylight_saving_off_in_summer_leaves_the_time(engine: str, days: int) -> None:
    start = datetime(2026, 7, 1, 12)
    rtc = clock(engine, start, H24 | DSE)
    rtc.after_update(1)
    rtc[B] = H24
    rtc.after_update(days * 86_400)
    assert rtc.shows(start + timedelta(days=days))


def test_an_hour_skipped_has_no_alarm(engine: str) -> None:
    start = last_sunday(2026, 4) + timedelta(hours=1, minutes=59, seconds=50)
    rtc = clock(engine, start, H24 | DSE)
    rtc.set_alarm(0x02, ANY, ANY)
    rtc.after_update(7200)
    assert rtc[C] & AF == 0


def test_an_hour_repeated_has_its_alarm_twice(engine: str) -> None:
    start = last_sunday(2026, 10) + timedelta(hours=1, minutes=29, seconds=50)
    rtc = clock(engine, start, H24 | DSE)
    rtc.set_alarm(0x01, 0x30, 0x00)
    rtc[B] = H24 | DSE | AIE
    assert [tick // HZ for tick in rtc.interrupts(2)] == [10, 10 + 3600]


def test_the_model_of_daylight_saving_is_right_itself() -> None:
    """Twenty-three and twenty-five hours."""
    for month, length in ((4, 23), (10, 25)):
        start = last_sunday(2026, month)
        walk = daylight_saving(start)
        hours = next(k for k, moment in zip(count(1), walk, strict=False) if moment.day != start.day)
        assert hours == length * 3600
    assert list(islice(daylight_saving(datetime(2026, 4, 26, 1, 59, 58)), 2))[1] == datetime(2026, 4, 26, 3)
