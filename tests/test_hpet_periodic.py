"""Periodic HPET timers: the accumulator, VAL_SET, and guests that want the host to loop.

IA-PC HPET 1.0a, 2.3.9 and 2.4.3.2. A write under VAL_SET sets the comparator and,
"the value last written", the period; any other write in periodic mode the period only.
VAL_SET is consumed by each half of the comparator for itself, so that it holds across a
64-bit write made as two 32-bit ones. Every test runs on both engines.
"""

from __future__ import annotations

import random

import pytest

from .rig import SECOND
from .rig_hpet import ALL_ONES, COUNTER, INT_ENB, LEVEL, MODE32, PERIODIC, ROUTE, VAL_SET, Hpet, route

YEAR = 365 * 86_400 * SECOND
SETTING = PERIODIC | VAL_SET | INT_ENB | route(ROUTE)
RUNNING = PERIODIC | INT_ENB | route(ROUTE)


@pytest.fixture
def hpet(engine: str) -> Hpet:
    return Hpet(engine)


def started(engine: str, counter: int) -> Hpet:
    hpet = Hpet(engine)
    hpet.counter = counter
    return hpet


def rises_at(hpet: Hpet, count: int) -> list[int]:
    """The ticks after tick 1000 in which the line rises."""
    return [hpet.next_rise(ROUTE) - 1000 for _ in range(count)]


# --- the accumulator ---------------------------------------------------------------


def test_a_periodic_timer_fires_again_and_again(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100)
    hpet.enable()
    assert rises_at(hpet, 5) == [300, 400, 500, 600, 700]


def test_the_comparator_shows_the_next_match(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100)
    hpet.enable()
    seen = []
    for _ in range(5):
        seen.append(hpet.comparator(0))
        hpet.wait(99)
        hpet.wait(1)
    assert seen == [300, 300, 300, 400, 500]
    assert hpet.comparator(0) == 600


def test_the_example_of_the_specification(hpet: Hpet) -> None:
    """2.3.9.1: 123h is written; the matches are at 123h, 246h, 369h."""
    hpet.configure(0, SETTING)
    hpet.compare(0, 0x123)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1000 + 0x123
    assert hpet.comparator(0) == 0x246
    assert hpet.next_rise(ROUTE) == 1000 + 0x246
    assert hpet.comparator(0) == 0x369


def test_the_usage_model_of_the_specification(hpet: Hpet) -> None:
    """2.3.9.2.2: halt, clear the counter, set VAL_SET, write the comparator, enable."""
    hpet.enable()
    hpet.wait(12_345)
    hpet.halt()
    hpet.counter = 0
    hpet.configure(0, SETTING)
    hpet.compare(0, 1000)
    hpet.at(20_000)
    hpet.enable()
    assert [hpet.next_rise(ROUTE) for _ in range(3)] == [21_000, 22_000, 23_000]


def test_no_tick_is_lost_or_added_over_many_periods(hpet: Hpet) -> None:
    hpet.periodic(0, 7, 7)
    hpet.enable()
    assert rises_at(hpet, 500) == [7 * k for k in range(1, 501)]


def test_a_periodic_timer_does_not_drift_where_ticks_are_no_whole_nanoseconds(engine: str) -> None:
    hpet = Hpet(engine, hz=14_318_180)
    hpet.at(0)
    hpet.periodic(0, 14_318, 14_318)
    hpet.enable()
    for k in range(1, 200):
        hpet.next_rise(ROUTE)
        assert hpet.now == -(-k * 14_318 * SECOND // 14_318_180)


def test_a_jump_over_many_periods_counts_each_and_keeps_the_phase(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100)
    hpet.enable()
    hpet.wait(300 + 100 * 1_000_000 + 42)
    assert hpet.rises(ROUTE) == 1_000_001
    assert hpet.comparator(0) == 300 + 100 * 1_000_001


def test_a_periodic_level_interrupt_is_set_at_each_match(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100, INT_ENB | LEVEL)
    hpet.enable()
    for k in range(5):
        hpet.at(1000 + 300 + 100 * k)
        assert (hpet.status, hpet.level(ROUTE)) == (1, 1)
        hpet.acknowledge(0)
        assert (hpet.status, hpet.level(ROUTE)) == (0, 0)
    assert hpet.rises(ROUTE) == 5


def test_periods_pass_while_the_interrupt_is_disabled(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100, bits=0)
    hpet.enable()
    hpet.wait(1050)
    assert (hpet.rises(ROUTE), hpet.comparator(0)) == (0, 1100)
    hpet.configure(0, RUNNING)
    assert hpet.next_rise(ROUTE) == 2100


def test_a_halt_stretches_the_period_by_its_length(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100)
    hpet.enable()
    hpet.wait(350)
    hpet.halt()
    hpet.wait(1_000_000)
    assert hpet.rises(ROUTE) == 1
    hpet.enable()
    assert rises_at(hpet, 2) == [1_000_400, 1_000_500]


def test_periodic_timers_of_different_periods_do_not_disturb_each_other(hpet: Hpet) -> None:
    periods = (100, 130, 170)
    for n, period in enumerate(periods):
        hpet.periodic(n, period, period, line=16 + n)
    hpet.enable()
    hpet.wait(10_000)
    assert hpet.every_rise() == {16 + n: 10_000 // period for n, period in enumerate(periods)}


# --- writes with and without VAL_SET ------------------------------------------------


def test_without_val_set_a_write_changes_the_period_only(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100)
    hpet.enable()
    hpet.wait(10)
    hpet.compare(0, 50)
    assert hpet.comparator(0) == 300
    assert rises_at(hpet, 3) == [300, 350, 400]


def test_a_new_period_is_added_at_the_next_match_not_before(hpet: Hpet) -> None:
    hpet.periodic(0, 300, 100)
    hpet.enable()
    assert rises_at(hpet, 2) == [300, 400]
    hpet.wait(20)
    hpet.compare(0, 1000)
    assert rises_at(hpet, 3) == [500, 1500, 2500]


def test_with_val_set_a_write_sets_comparator_and_period(hpet: Hpet) -> None:
    hpet.configure(0, SETTING)
    hpet.compare(0, 250)
    hpet.enable()
    assert rises_at(hpet, 3) == [250, 500, 750]


def test_val_set_clears_itself(hpet: Hpet) -> None:
    hpet.configure(0, SETTING)
    hpet.compare(0, 300)
    assert hpet.config(0) & VAL_SET == 0
    hpet.compare(0, 100)
    assert hpet.comparator(0) == 300


def test_val_set_is_not_cleared_by_other_accesses(hpet: Hpet) -> None:
    hpet.configure(0, SETTING)
    hpet.counter = 0
    hpet.comparator(0)
    hpet.config(0)
    hpet.compare(1, 77)
    hpet.compare(0, 300)
    assert hpet.comparator(0) == 300


def test_val_set_of_one_timer_does_not_concern_another(hpet: Hpet) -> None:
    hpet.periodic(1, 300, 100)
    hpet.configure(0, SETTING)
    hpet.compare(1, 50)
    assert hpet.comparator(1) == 300


@pytest.mark.parametrize("first", ["low", "high"])
def test_val_set_holds_across_the_two_halves_of_a_64_bit_write(engine: str, first: str) -> None:
    hpet = started(engine, 0x5_0000_0000)
    hpet.configure(0, SETTING)
    for high in (False, True) if first == "low" else (True, False):
        hpet.compare(0, 5 if high else 700, 4, high)
    assert hpet.comparator(0) == 0x5_0000_02BC
    hpet.enable()
    assert rises_at(hpet, 1) == [700]
    assert hpet.comparator(0) == 2 * 0x5_0000_02BC


def test_comparator_and_period_can_be_set_in_halves_one_after_the_other(engine: str) -> None:
    hpet = started(engine, 0x5_0000_0000)
    hpet.configure(0, SETTING)
    hpet.compare(0, 700, 4)
    hpet.compare(0, 5, 4, high=True)
    hpet.compare(0, 100, 4)
    hpet.compare(0, 0, 4, high=True)
    hpet.enable()
    assert rises_at(hpet, 3) == [700, 800, 900]


def test_val_set_written_before_each_half_sets_both(engine: str) -> None:
    """The sequence that chipset data sheets ask for."""
    hpet = started(engine, 0x5_0000_0000)
    hpet.configure(0, SETTING)
    hpet.compare(0, 700, 4)
    hpet.configure(0, SETTING)
    hpet.compare(0, 5, 4, high=True)
    assert hpet.comparator(0) == 0x5_0000_02BC


def test_linux_sets_comparator_and_period_by_their_lower_halves(engine: str) -> None:
    """Two 32-bit writes to the lower half after VAL_SET: the comparator, then the period."""
    hpet = started(engine, 0)
    hpet.enable()
    hpet.wait(5000)
    hpet.halt()
    hpet.configure(0, SETTING | MODE32, 4)
    hpet.compare(0, hpet.read(COUNTER, 4) + 400, 4)
    hpet.wait(100)
    hpet.compare(0, 400, 4)
    hpet.enable()
    assert [hpet.next_rise(ROUTE) for _ in range(3)] == [6500, 6900, 7300]


def test_linux_sets_the_period_of_a_64_bit_timer_in_the_same_way(engine: str) -> None:
    """Its upper half keeps the ones of reset where it was not written, so the lower halves must do."""
    hpet = started(engine, 0)
    hpet.compare(0, 0, 4, high=True)
    hpet.configure(0, SETTING, 4)
    hpet.compare(0, 0, 4, high=True)
    hpet.configure(0, SETTING, 4)
    hpet.compare(0, 300, 4)
    hpet.compare(0, 100, 4)
    hpet.enable()
    assert rises_at(hpet, 3) == [300, 400, 500]


def test_in_one_shot_mode_every_write_sets_the_comparator(hpet: Hpet) -> None:
    for value in (300, 100, 0x1234_5678_9ABC):
        hpet.compare(0, value)
        assert hpet.comparator(0) == value


def test_a_timer_turned_from_periodic_to_one_shot_keeps_its_comparator_and_fires_once_more(
    hpet: Hpet,
) -> None:
    hpet.periodic(0, 300, 100)
    hpet.enable()
    hpet.wait(350)
    hpet.configure(0, INT_ENB | route(ROUTE))
    assert hpet.comparator(0) == 400
    hpet.step(3600 * SECOND)
    assert hpet.rises(ROUTE) == 2


# --- widths --------------------------------------------------------------------------


def test_a_32_bit_accumulator_wraps_through_0(engine: str) -> None:
    """2.3.9.1: FFFF0000h and a period of 20000h give 00010000h."""
    hpet = started(engine, 0xFFFE_0000)
    hpet.periodic(0, 0xFFFF_0000, 0x2_0000, INT_ENB | MODE32)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1000 + 0x1_0000
    assert hpet.comparator(0) & 0xFFFF_FFFF == 0x0001_0000
    assert rises_at(hpet, 2) == [0x3_0000, 0x5_0000]


def test_a_64_bit_accumulator_wraps_through_0(engine: str) -> None:
    hpet = started(engine, ALL_ONES - 999)
    hpet.periodic(0, ALL_ONES - 499, 800)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1500
    assert hpet.comparator(0) == 300
    assert rises_at(hpet, 2) == [1300, 2100]


def test_a_32_bit_periodic_timer_does_not_fire_at_the_wrap_itself(engine: str) -> None:
    hpet = started(engine, 2**32 - 1000)
    hpet.periodic(0, 2**32 - 500, 800, INT_ENB | MODE32)
    hpet.enable()
    assert rises_at(hpet, 3) == [500, 1300, 2100]


def test_a_32_bit_periodic_timer_keeps_its_phase_over_many_wraps(hpet: Hpet) -> None:
    hpet.periodic(0, 1_000_003, 1_000_003, INT_ENB | MODE32)
    hpet.enable()
    ticks = 3600 * 100_000_000
    hpet.wait(ticks)
    assert hpet.rises(ROUTE) == ticks // 1_000_003
    assert hpet.comparator(0) & 0xFFFF_FFFF == (ticks // 1_000_003 + 1) * 1_000_003 % 2**32


# --- a guest cannot make the host loop --------------------------------------------------


def assert_walks_at_most_once_a_tick(hpet: Hpet, deadlines: int) -> None:
    """Settling at a deadline leaves the next one in a later tick."""
    for _ in range(deadlines):
        if hpet.device.deadline == ALL_ONES:
            return
        before = hpet.tick
        hpet.run_to_deadline()
        assert hpet.tick > before
        assert hpet.device.deadline > hpet.now


@pytest.mark.parametrize("mode", [0, LEVEL, MODE32, LEVEL | MODE32])
@pytest.mark.parametrize("period", [0, 1, 2, 3, 2**31, 2**32 - 1, 2**63, ALL_ONES])
def test_any_period_costs_at_most_one_event_a_tick_and_a_year_is_settled_in_one_go(
    engine: str, period: int, mode: int
) -> None:
    hpet = Hpet(engine)
    hpet.periodic(0, 100, period, INT_ENB | mode)
    hpet.enable()
    assert_walks_at_most_once_a_tick(hpet, 20)
    hpet.step(YEAR)
    assert hpet.device.deadline > hpet.now
    assert_walks_at_most_once_a_tick(hpet, 20)


@pytest.mark.parametrize("mode", [0, MODE32])
def test_period_0_fires_once_and_does_not_fire_without_end(engine: str, mode: int) -> None:
    """Undefined in the specification: here the accumulator stays where it is, as in a one-shot."""
    hpet = Hpet(engine)
    hpet.periodic(0, 100, 0, INT_ENB | mode)
    hpet.enable()
    hpet.wait(10_000_000)
    assert (hpet.rises(ROUTE), hpet.comparator(0) & 0xFFFF_FFFF) == (1, 100)


def test_period_1_fires_in_every_tick(hpet: Hpet) -> None:
    hpet.periodic(0, 100, 1)
    hpet.enable()
    assert rises_at(hpet, 10) == list(range(100, 110))
    hpet.wait(10**9)
    assert hpet.rises(ROUTE) == 10**9 + 10
    assert hpet.comparator(0) == hpet.counter + 1


@pytest.mark.parametrize("mode", [0, MODE32])
@pytest.mark.parametrize("counter", [2**63, ALL_ONES - 50, 2**32 - 50, 2**32 + 2**31])
@pytest.mark.parametrize("target", [0, 1, 5, 2**32 - 1, ALL_ONES])
def test_a_comparator_behind_the_counter_and_a_counter_near_its_end_cost_nothing(
    engine: str, target: int, counter: int, mode: int
) -> None:
    for kind in (0, PERIODIC):
        hpet = started(engine, counter)
        hpet.configure(0, INT_ENB | mode | kind | VAL_SET | route(ROUTE))
        hpet.compare(0, target)
        if kind:
            hpet.compare(0, 1000)
        hpet.enable()
        assert_walks_at_most_once_a_tick(hpet, 20)
        hpet.step(YEAR)
        assert hpet.device.deadline > hpet.now


def test_the_counter_written_in_every_tick_keeps_deadlines_in_the_future(hpet: Hpet) -> None:
    hpet.periodic(0, 100, 50)
    hpet.enable()
    for value in (0, 99, 100, 101, 2**32 - 1, 2**63, ALL_ONES, 100, 99):
        hpet.counter = value
        assert hpet.device.deadline > hpet.now
        hpet.wait(1)


def test_random_programs_never_pin_the_host(engine: str) -> None:
    """However the registers are set: one event a tick, and any step is settled in one go."""
    rng = random.Random(3)
    extremes = (0, 1, 2, 99, 100, 101, 2**31, 2**32 - 1, 2**32, 2**63, ALL_ONES - 1, ALL_ONES)
    offsets = (0x10, 0x20, 0xF0, 0xF4, *range(0x100, 0x160, 4))
    for _ in range(150 if engine == "native" else 15):
        hpet = Hpet(engine)
        for _ in range(40):
            value = rng.choice(extremes) if rng.random() < 0.7 else rng.getrandbits(64)
            if rng.random() < 0.3:
                hpet.configure(rng.randrange(3), rng.getrandbits(9) | route(rng.choice((2, 8, 16, 17))))
            hpet.write(rng.choice(offsets), value, rng.choice((4, 8)))
            if rng.random() < 0.5:
                hpet.enable()
            hpet.step(rng.choice((0, 1, 10, 10**6, 10**9, YEAR // 100)))
            assert hpet.device.deadline > hpet.now
        assert_walks_at_most_once_a_tick(hpet, 20)


@pytest.mark.parametrize("bits", [0, LEVEL, LEVEL | INT_ENB])
def test_a_match_that_moves_no_line_does_not_wake_the_host(hpet: Hpet, bits: int) -> None:
    """Disabled, or level with its status set: the next access finds comparator and status all the same."""
    hpet.periodic(0, 100, 2, bits)
    hpet.enable()
    wakes = 0
    while hpet.device.deadline < hpet.ns(1000 + 10**6) and wakes < 100:
        hpet.run_to_deadline()
        wakes += 1
    assert wakes <= 2
    hpet.at(1000 + 10**6)
    assert hpet.comparator(0) == 10**6 + 2
    assert hpet.status == (1 if bits & LEVEL else 0)
