"""One-shot HPET timers, edge and level, 64 and 32 bits, by IA-PC HPET 1.0a; every test runs on both engines.

Enabled at tick 0 with the counter at 0, it stands at k during tick k, and a
comparator of k matches at that tick's first instant.
"""

from __future__ import annotations

import pytest

from .rig import SECOND
from .rig_hpet import (
    ALL_ONES,
    INT_ENB,
    LEVEL,
    MODE32,
    ROUTE,
    STATUS,
    Hpet,
    route,
)


@pytest.fixture
def hpet(engine: str) -> Hpet:
    return Hpet(engine)


def started(engine: str, counter: int) -> Hpet:
    """Halted before tick 1000, the counter set; `enable()` starts it."""
    hpet = Hpet(engine)
    hpet.counter = counter
    return hpet


# --- 2.4.3.1: one-shot, edge ---------------------------------------------------------


def test_a_one_shot_pulses_its_line_in_the_tick_of_the_match(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.wait(499)
    hpet.now += 9
    assert hpet.rises(ROUTE) == 0
    hpet.now += 1
    assert (hpet.rises(ROUTE), hpet.level(ROUTE)) == (1, 0)


def test_the_deadline_is_the_match_never_early(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    assert hpet.device.deadline == hpet.ns(1500)


def test_a_deadline_is_not_early_where_a_tick_is_no_whole_number_of_nanoseconds(engine: str) -> None:
    hpet = Hpet(engine, hz=14_318_180)
    hpet.at(0)
    hpet.one_shot(0, 1_000_003)
    hpet.enable()
    assert hpet.device.deadline == -(-1_000_003 * SECOND // 14_318_180)
    hpet.now = hpet.device.deadline - 1
    assert (hpet.rises(ROUTE), hpet.counter) == (0, 1_000_002)
    hpet.now += 1
    assert (hpet.rises(ROUTE), hpet.counter) == (1, 1_000_003)


def test_an_edge_interrupt_leaves_the_status_bit_0(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.wait(1000)
    assert (hpet.rises(ROUTE), hpet.status) == (1, 0)


def test_a_one_shot_fires_once(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.step(365 * 86_400 * SECOND)
    assert hpet.rises(ROUTE) == 1


def test_a_one_shot_does_not_change_its_comparator(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.wait(1000)
    assert hpet.comparator(0) == 500


def test_a_one_shot_can_be_set_again_and_again(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    for k in range(1, 20):
        assert hpet.next_rise(ROUTE) == 1000 + 500 * k
        hpet.compare(0, 500 * (k + 1))
    assert hpet.rises(ROUTE) == 19


def test_a_disabled_edge_interrupt_is_not_delivered_later(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, bits=0)
    hpet.enable()
    hpet.wait(1000)
    hpet.configure(0, INT_ENB | route(ROUTE))
    hpet.wait(1000)
    assert (hpet.every_rise(), hpet.status) == ({}, 0)


def test_a_halted_counter_matches_nothing(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.wait(499)
    hpet.halt()
    hpet.wait(10_000)
    assert hpet.rises(ROUTE) == 0
    hpet.enable()
    hpet.wait(1)
    assert hpet.rises(ROUTE) == 1


def test_moving_the_counter_moves_the_match(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.wait(100)
    hpet.counter = 495
    assert hpet.next_rise(ROUTE) == 1105


def test_a_counter_written_past_the_comparator_matches_nothing(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.wait(100)
    hpet.counter = 501
    hpet.step(86_400 * SECOND)
    assert hpet.every_rise() == {}


def test_a_one_shot_already_past_does_not_fire_before_the_counter_wraps(engine: str) -> None:
    hpet = started(engine, 1000)
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.step(365 * 86_400 * SECOND)
    assert hpet.rises(ROUTE) == 0


def test_a_one_shot_already_past_fires_after_the_counter_has_wrapped(engine: str) -> None:
    hpet = started(engine, ALL_ONES - 99)  # wraps after 100 ticks
    hpet.one_shot(0, 50)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1150
    assert hpet.counter == 50


def test_a_write_of_half_a_comparator_keeps_the_other_half(hpet: Hpet) -> None:
    hpet.compare(0, 0x1111_1111, 4)
    assert hpet.comparator(0) == 0xFFFF_FFFF_1111_1111
    hpet.compare(0, 0x2222_2222, 4, high=True)
    assert hpet.comparator(0) == 0x2222_2222_1111_1111


def test_timers_on_one_route_each_pulse_it(hpet: Hpet) -> None:
    for n in range(3):
        hpet.one_shot(n, 100 * (n + 1))
    hpet.enable()
    rises = [hpet.next_rise(ROUTE) for _ in range(3)]
    assert rises == [1100, 1200, 1300]


def test_timers_that_match_in_one_tick_all_fire(hpet: Hpet) -> None:
    for n, line in enumerate((16, 17, 18)):
        hpet.one_shot(n, 100, line=line)
    hpet.enable()
    hpet.run_to_deadline()
    assert hpet.every_rise() == {16: 1, 17: 1, 18: 1}


# --- 2.3.6: level interrupts and the status register ----------------------------------


def test_a_level_interrupt_raises_the_line_until_its_status_is_written_1(hpet: Hpet) -> None:
    hpet.one_shot(1, 500, INT_ENB | LEVEL)
    hpet.enable()
    hpet.wait(500)
    assert (hpet.status, hpet.level(ROUTE)) == (2, 1)
    hpet.wait(10_000)
    assert (hpet.status, hpet.level(ROUTE)) == (2, 1)
    hpet.acknowledge(1)
    assert (hpet.status, hpet.level(ROUTE), hpet.rises(ROUTE)) == (0, 0, 1)


@pytest.mark.parametrize("value", [0, 1, 4, 0xFFFF_FFFD])
def test_a_status_bit_is_cleared_by_a_1_in_its_own_place_only(hpet: Hpet, value: int) -> None:
    hpet.one_shot(1, 500, INT_ENB | LEVEL)
    hpet.enable()
    hpet.wait(500)
    hpet.write(STATUS, value)
    assert (hpet.status, hpet.level(ROUTE)) == (2, 1)


def test_the_upper_half_of_the_status_register_ignores_writes(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, INT_ENB | LEVEL)
    hpet.enable()
    hpet.wait(500)
    hpet.write(STATUS + 4, ALL_ONES, 4)
    assert hpet.status == 1
    hpet.write(STATUS, 1, 4)
    assert hpet.status == 0


def test_a_status_bit_cannot_be_set_by_writing_it(hpet: Hpet) -> None:
    hpet.configure(0, LEVEL | INT_ENB | route(ROUTE))
    hpet.write(STATUS, ALL_ONES)
    assert (hpet.status, hpet.levels) == (0, 0)


def test_several_status_bits_are_cleared_at_once(hpet: Hpet) -> None:
    for n in range(3):
        hpet.one_shot(n, 100 + n, INT_ENB | LEVEL, 16 + n)
    hpet.enable()
    hpet.wait(200)
    assert (hpet.status, hpet.levels) == (7, 7 << 16)
    hpet.acknowledge(0, 2)
    assert (hpet.status, hpet.levels) == (2, 2 << 16)


def test_the_status_is_set_even_if_the_interrupt_is_disabled(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL)
    hpet.enable()
    hpet.wait(500)
    assert (hpet.status, hpet.levels, hpet.every_rise()) == (1, 0, {})


def test_enabling_an_interrupt_whose_status_is_set_raises_the_line(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL)
    hpet.enable()
    hpet.wait(600)
    hpet.configure(0, LEVEL | INT_ENB | route(ROUTE))
    assert (hpet.level(ROUTE), hpet.rises(ROUTE)) == (1, 1)


def test_the_status_is_kept_by_a_disable_and_the_line_raised_again_by_an_enable(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL | INT_ENB)
    hpet.enable()
    hpet.wait(600)
    hpet.configure(0, LEVEL | route(ROUTE))
    assert (hpet.status, hpet.level(ROUTE)) == (1, 0)
    hpet.configure(0, LEVEL | INT_ENB | route(ROUTE))
    assert (hpet.status, hpet.level(ROUTE), hpet.rises(ROUTE)) == (1, 1, 2)


def test_an_acknowledged_status_does_not_raise_the_line_again(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL)
    hpet.enable()
    hpet.wait(600)
    hpet.acknowledge(0)
    hpet.configure(0, LEVEL | INT_ENB | route(ROUTE))
    assert (hpet.status, hpet.level(ROUTE)) == (0, 0)


def test_going_from_level_to_edge_lowers_the_line_and_leaves_the_status_0(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL | INT_ENB)
    hpet.enable()
    hpet.wait(600)
    assert hpet.level(ROUTE) == 1
    hpet.configure(0, INT_ENB | route(ROUTE))
    assert (hpet.status, hpet.level(ROUTE), hpet.rises(ROUTE)) == (0, 0, 1)


def test_going_from_edge_to_level_raises_nothing(hpet: Hpet) -> None:
    hpet.one_shot(0, 500)
    hpet.enable()
    hpet.wait(600)
    hpet.configure(0, LEVEL | INT_ENB | route(ROUTE))
    assert (hpet.status, hpet.level(ROUTE)) == (0, 0)


def test_level_timers_on_one_route_are_a_logical_or(hpet: Hpet) -> None:
    hpet.one_shot(0, 100, LEVEL | INT_ENB)
    hpet.one_shot(1, 200, LEVEL | INT_ENB)
    hpet.enable()
    hpet.wait(300)
    hpet.acknowledge(0)
    assert hpet.level(ROUTE) == 1
    hpet.acknowledge(1)
    assert (hpet.level(ROUTE), hpet.rises(ROUTE)) == (0, 1)


def test_a_change_of_route_moves_a_raised_line(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL | INT_ENB, 16)
    hpet.enable()
    hpet.wait(600)
    hpet.configure(0, LEVEL | INT_ENB | route(17))
    assert hpet.levels == 1 << 17


def test_the_overall_disable_keeps_the_status_for_software_to_clear(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL | INT_ENB)
    hpet.enable()
    hpet.wait(600)
    hpet.halt()
    assert hpet.status == 1
    hpet.acknowledge(0)
    assert (hpet.status, hpet.level(ROUTE)) == (0, 0)


def test_a_second_match_before_the_acknowledgement_keeps_the_line_high(hpet: Hpet) -> None:
    hpet.one_shot(0, 500, LEVEL | INT_ENB)
    hpet.enable()
    hpet.wait(500)
    hpet.compare(0, 600)
    hpet.wait(200)
    assert (hpet.status, hpet.level(ROUTE), hpet.rises(ROUTE)) == (1, 1, 1)
    hpet.acknowledge(0)
    assert hpet.level(ROUTE) == 0


# --- 2.3.8, bit 8: 32-bit mode ------------------------------------------------------------


def test_a_32_bit_timer_compares_the_lower_half_only(engine: str) -> None:
    hpet = started(engine, 5 << 32)
    hpet.one_shot(0, 700, INT_ENB | MODE32)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1700


def test_a_64_bit_timer_compares_both_halves(engine: str) -> None:
    hpet = started(engine, 5 << 32)
    hpet.one_shot(0, 700)
    hpet.enable()
    hpet.step(3600 * SECOND)
    assert hpet.rises(ROUTE) == 0


def test_a_32_bit_one_shot_also_fires_when_the_counter_wraps(engine: str) -> None:
    """1.0a, 2.4.3.1: "it will generate another interrupt when the main counter wraps around": at 0."""
    hpet = started(engine, 2**32 - 300)
    hpet.one_shot(0, 2**32 - 200, INT_ENB | MODE32)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1100
    assert hpet.next_rise(ROUTE) == 1300
    assert hpet.counter == 2**32


def test_a_32_bit_one_shot_already_past_fires_at_the_next_wrap(engine: str) -> None:
    hpet = started(engine, 2**32 - 100)
    hpet.one_shot(0, 2**32 - 200, INT_ENB | MODE32)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1100


def test_a_64_bit_one_shot_does_not_fire_when_the_lower_half_wraps(engine: str) -> None:
    hpet = started(engine, 2**32 - 300)
    hpet.one_shot(0, 2**32 - 200)
    hpet.enable()
    hpet.wait(10_000)
    assert hpet.rises(ROUTE) == 1


def test_a_32_bit_level_one_shot_sets_its_status_at_the_wrap(engine: str) -> None:
    hpet = started(engine, 2**32 - 300)
    hpet.one_shot(0, 2**32 - 200, INT_ENB | MODE32 | LEVEL)
    hpet.enable()
    hpet.wait(150)
    hpet.acknowledge(0)
    hpet.wait(149)
    assert hpet.status == 0
    hpet.wait(1)
    assert (hpet.status, hpet.level(ROUTE)) == (1, 1)


def test_a_32_bit_one_shot_at_0_fires_once_at_the_wrap(engine: str) -> None:
    """Match and wrap are the same tick, and one interrupt."""
    hpet = started(engine, 2**32 - 100)
    hpet.one_shot(0, 0, INT_ENB | MODE32)
    hpet.enable()
    hpet.wait(1000)
    assert hpet.rises(ROUTE) == 1


def test_a_timer_in_32_bit_mode_has_no_upper_half(hpet: Hpet) -> None:
    """2.4.7: "the upper 32-bits will always be 0"; what was there is gone."""
    hpet.compare(0, 0x1234_0000_5678)
    hpet.configure(0, MODE32)
    assert hpet.comparator(0) == 0x5678
    hpet.compare(0, 0x1111_0000_0042)
    hpet.compare(0, 0x2222, 4, high=True)
    assert hpet.comparator(0) == 0x42
    hpet.configure(0, 0)
    assert hpet.comparator(0) == 0x42
    hpet.compare(0, 0x2222, 4, high=True)
    assert hpet.comparator(0) == 0x2222_0000_0042


@pytest.mark.parametrize("how", ["comparator", "counter", "enable"])
def test_a_comparator_equal_to_the_counter_when_it_is_set_is_missed(engine: str, how: str) -> None:
    """2.4.3.1 warns of it; a match is the counter's arrival, and it has arrived before."""
    hpet = started(engine, 50)
    hpet.one_shot(0, 50 if how == "enable" else 5000)
    hpet.enable()
    if how == "comparator":
        hpet.compare(0, 50)
    elif how == "counter":
        hpet.counter = 5000
    hpet.wait(100_000)
    assert hpet.every_rise() == {}


def test_a_32_bit_one_shot_fires_at_each_match_and_wrap_in_steps_and_in_a_jump(engine: str) -> None:
    """The counter goes around every 42.9 s: 5 matches and 4 wraps in 200 s."""
    walker, jumper = Hpet(engine), Hpet(engine)
    for hpet in (walker, jumper):
        hpet.one_shot(0, 500, INT_ENB | MODE32)
        hpet.enable()
    jumper.step(200 * SECOND)
    while walker.device.deadline <= jumper.now:
        walker.run_to_deadline()
    assert (walker.rises(ROUTE), jumper.rises(ROUTE)) == (9, 9)
