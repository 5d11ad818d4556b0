"""The HPET's registers, counter and routes by IA-PC HPET 1.0a; every test runs on both engines.

Enabled at tick 0 with the counter at 0, it stands at k during tick k, and a
comparator of k matches at that tick's first instant.
"""

from __future__ import annotations

import pytest

from .rig import SECOND
from .rig_hpet import (
    ALL_ONES,
    CAPABILITIES,
    CONFIGURATION,
    COUNTER,
    FSB_EN,
    INT_ENB,
    LEVEL,
    MODE32,
    PER_INT_CAP,
    PERIODIC,
    ROUTE,
    ROUTES,
    SIZE_CAP,
    STATUS,
    Hpet,
    route,
)


@pytest.fixture
def hpet(engine: str) -> Hpet:
    return Hpet(engine)


def started(engine: str, counter: int = 0, **params: int) -> Hpet:
    """Halted before tick 1000, the counter set; `enable()` starts it."""
    hpet = Hpet(engine, **params)
    hpet.counter = counter
    return hpet


# --- 2.3.4: general capabilities ---------------------------------------------


def test_the_capability_register_tells_vendor_width_legacy_routes_timers_and_revision(hpet: Hpet) -> None:
    assert hpet.read(CAPABILITIES) & 0xFFFF_FFFF == 0x8086_A201


@pytest.mark.parametrize("hz", [10_000_000, 25_000_000, 100_000_000, 1_000_000_000])
def test_the_capability_register_tells_the_period_in_femtoseconds(engine: str, hz: int) -> None:
    assert Hpet(engine, hz=hz).read(CAPABILITIES) >> 32 == 10**15 // hz


def test_a_period_that_is_no_whole_number_of_femtoseconds_is_off_by_less_than_one(engine: str) -> None:
    period = Hpet(engine, hz=14_318_180).read(CAPABILITIES) >> 32
    assert abs(period - 10**15 / 14_318_180) < 1


@pytest.mark.parametrize("timers", [3, 4, 8, 31, 32])
def test_there_are_3_to_32_timers(engine: str, timers: int) -> None:
    hpet = Hpet(engine, timers=timers)
    assert hpet.read(CAPABILITIES) >> 8 & 0x1F == timers - 1
    assert hpet.comparator(timers - 1) == ALL_ONES
    for n in range(timers, 32):
        for offset in (0x100, 0x108, 0x110):
            hpet.write(offset + 0x20 * n, ALL_ONES)
            assert hpet.read(offset + 0x20 * n) == 0


def test_the_last_of_32_timers_works(engine: str) -> None:
    hpet = Hpet(engine, timers=32)
    hpet.one_shot(31, 100, INT_ENB | LEVEL)
    hpet.enable()
    assert hpet.next_rise(ROUTE) == 1100
    assert hpet.status == 1 << 31
    hpet.acknowledge(31)
    assert (hpet.status, hpet.level(ROUTE)) == (0, 0)


@pytest.mark.parametrize("width", [4, 8])
def test_the_capability_register_ignores_writes(hpet: Hpet, width: int) -> None:
    before = hpet.read(CAPABILITIES)
    for offset in range(0, 8, width):
        for value in (0, ALL_ONES):
            hpet.write(offset, value, width)
    assert hpet.read(CAPABILITIES) == before


# --- 2.3.2: accesses -----------------------------------------------------------


def test_both_halves_of_every_register_can_be_read_alone(hpet: Hpet) -> None:
    hpet.counter = 0x1122_3344_5566_7788
    for offset in (CAPABILITIES, CONFIGURATION, STATUS, COUNTER, 0x100, 0x108, 0x110, 0x140, 0x148):
        whole = hpet.read(offset)
        assert hpet.read(offset, 4) | hpet.read(offset + 4, 4) << 32 == whole


@pytest.mark.parametrize(
    ("offset", "width"),
    [
        *((0xF0, 1), (0xF3, 1), (0xF0, 2), (0xF2, 2)),
        *((0xF1, 4), (0xF2, 4), (0xF3, 4), (0xF4, 8), (0xF1, 8), (0xEC, 8)),
        *((0xF0, 3), (0xF0, 16), (0xF0, 0)),
    ],
)
def test_an_access_of_another_size_or_unaligned_reads_0_and_has_no_effect(
    hpet: Hpet, offset: int, width: int
) -> None:
    hpet.counter = 0x1122_3344_5566_7788
    hpet.write(offset, 0, width)
    assert hpet.counter == 0x1122_3344_5566_7788
    assert hpet.read(offset, width) == 0


@pytest.mark.parametrize("width", [4, 8])
def test_what_is_between_the_registers_reads_0_and_ignores_writes(hpet: Hpet, width: int) -> None:
    used = {CAPABILITIES, CONFIGURATION, STATUS, COUNTER}
    used |= {0x100 + 0x20 * n + at for n in range(3) for at in (0, 8, 16)}
    before = {offset: hpet.read(offset) for offset in used}
    for offset in range(0, 0x400, width):
        if offset & ~7 not in used:
            hpet.write(offset, ALL_ONES, width)
            assert hpet.read(offset, width) == 0
    assert {offset: hpet.read(offset) for offset in used} == before


# --- 2.3.5: general configuration; 3.1: initial state ---------------------------


def test_after_reset_the_counter_is_halted_and_zero_and_nothing_is_enabled(hpet: Hpet) -> None:
    assert hpet.read(CONFIGURATION) == 0
    assert hpet.status == 0
    assert hpet.counter == 0
    hpet.step(SECOND)
    assert (hpet.counter, hpet.levels, hpet.every_rise()) == (0, 0, {})


def test_after_reset_the_comparators_are_all_ones(hpet: Hpet) -> None:
    assert [hpet.comparator(n) for n in range(3)] == [ALL_ONES] * 3


def test_after_reset_a_timer_shows_only_its_capabilities(hpet: Hpet) -> None:
    for n in range(3):
        assert hpet.config(n) & ~route(0x1F) == ROUTES << 32 | PER_INT_CAP | SIZE_CAP


def test_the_general_configuration_has_bits_1_and_0_only(hpet: Hpet) -> None:
    hpet.write(CONFIGURATION, ALL_ONES)
    assert hpet.read(CONFIGURATION) == 3
    hpet.write(CONFIGURATION + 4, ALL_ONES, 4)
    assert hpet.read(CONFIGURATION) == 3
    hpet.write(CONFIGURATION, 0, 4)
    assert hpet.read(CONFIGURATION) == 0


# --- 2.3.7: main counter -----------------------------------------------------------


def test_the_counter_counts_ticks_while_enabled(hpet: Hpet) -> None:
    hpet.enable()
    for ticks in (0, 1, 1, 98, 10**9):
        hpet.wait(ticks)
        assert hpet.counter == hpet.tick - 1000


def test_the_counter_changes_exactly_every_tick(hpet: Hpet) -> None:
    hpet.enable()
    start = hpet.now
    values = []
    for ns in range(40):
        hpet.now = start + ns
        values.append(hpet.counter)
    assert values == [ns // 10 for ns in range(40)]


def test_a_disable_freezes_the_counter_and_an_enable_goes_on_from_there(hpet: Hpet) -> None:
    hpet.enable()
    hpet.wait(500)
    hpet.halt()
    hpet.wait(10**9)
    assert hpet.counter == 500
    hpet.enable()
    hpet.wait(7)
    assert hpet.counter == 507


@pytest.mark.parametrize("late", [0, 1, 5, 9])
def test_ticks_begin_at_the_enabling_to_the_nanosecond(hpet: Hpet, late: int) -> None:
    """The specification allows two ticks (2.4.1); here a halted clock stands, and starts with a tick."""
    hpet.one_shot(0, 500)
    hpet.now += late
    hpet.enable()
    start = hpet.now
    for ns, count in ((9, 0), (10, 1), (19, 1), (20, 2), (4999, 499)):
        hpet.now = start + ns
        assert hpet.counter == count
    assert hpet.device.deadline == start + 5000
    assert hpet.rises(ROUTE) == 0
    hpet.now += 1
    assert (hpet.counter, hpet.rises(ROUTE)) == (500, 1)


def test_a_disable_drops_the_part_of_a_tick(hpet: Hpet) -> None:
    for expected in (1, 2, 3):
        hpet.enable()
        hpet.now += 19
        assert hpet.counter == expected
        hpet.halt()
        hpet.now += 3
        assert hpet.counter == expected


def test_enabling_what_is_enabled_starts_no_tick_anew(hpet: Hpet) -> None:
    hpet.enable()
    for _ in range(10):
        hpet.now += 7
        hpet.enable()
        hpet.enable(3)
    assert hpet.counter == 7


def test_the_counter_does_not_drift_when_it_is_halted_and_started_often(hpet: Hpet) -> None:
    for _ in range(200):
        hpet.enable()
        hpet.wait(3)
        hpet.halt()
        hpet.wait(2)
    assert hpet.counter == 600


def test_the_counter_is_64_bits_wide_and_wraps_to_0(engine: str) -> None:
    hpet = started(engine, ALL_ONES - 1)
    hpet.enable()
    seen = []
    for _ in range(4):
        seen.append(hpet.counter)
        hpet.wait(1)
    assert seen == [ALL_ONES - 1, ALL_ONES, 0, 1]


def test_a_carry_reaches_the_upper_half(engine: str) -> None:
    hpet = started(engine, 0xFFFF_FFFF)
    hpet.enable()
    hpet.wait(1)
    assert (hpet.read(COUNTER, 4), hpet.read(COUNTER + 4, 4)) == (0, 1)


def test_the_halves_of_the_halted_counter_are_written_independently(hpet: Hpet) -> None:
    hpet.write(COUNTER, 0x1111_1111, 4)
    hpet.write(COUNTER + 4, 0x2222_2222, 4)
    assert hpet.counter == 0x2222_2222_1111_1111
    hpet.write(COUNTER, 0x3333_3333, 4)
    assert hpet.counter == 0x2222_2222_3333_3333


def test_a_write_to_the_running_counter_is_stored_and_counts_on_from_there(hpet: Hpet) -> None:
    """The specification forbids it; here the counter goes on from what was written."""
    hpet.enable()
    hpet.wait(1000)
    hpet.counter = 5
    assert hpet.counter == 5
    hpet.wait(10)
    assert hpet.counter == 15


def test_a_half_written_to_the_running_counter_leaves_the_other_half_as_it_stands(hpet: Hpet) -> None:
    hpet.enable()
    hpet.wait(1000)
    hpet.write(COUNTER + 4, 7, 4)
    assert hpet.counter == 7 << 32 | 1000
    hpet.wait(10)
    hpet.write(COUNTER, 3, 4)
    assert hpet.counter == 7 << 32 | 3


def test_a_hundred_years_are_counted_exactly(hpet: Hpet) -> None:
    hpet.enable()
    hpet.step(100 * 365 * 86_400 * SECOND)
    assert hpet.counter == 100 * 365 * 86_400 * 100_000_000


def test_a_clock_whose_tick_is_no_whole_number_of_nanoseconds_is_not_truncated(engine: str) -> None:
    hpet = Hpet(engine, hz=14_318_180)
    hpet.at(0)
    hpet.enable()
    for ns in (1, 69, 70, 139, 140, 10**9 - 1, 10**9, 86_400 * 10**9 + 1):
        hpet.now = ns
        assert hpet.counter == ns * 14_318_180 // 10**9


# --- 2.3.8: timer configuration ------------------------------------------------------


def test_the_fields_of_a_timer_are_kept_and_its_reserved_bits_are_0(hpet: Hpet) -> None:
    hpet.configure(1, 0xFFFF_FFFF & ~route(0x1F) | route(ROUTE))
    kept = hpet.config(1) & ~(1 << 6)
    assert kept == ROUTES << 32 | SIZE_CAP | PER_INT_CAP | LEVEL | INT_ENB | PERIODIC | MODE32 | route(ROUTE)


def test_the_capability_half_of_a_timer_ignores_writes(hpet: Hpet) -> None:
    hpet.write(0x104, ALL_ONES, 4)
    hpet.configure(0, ALL_ONES << 32)
    assert hpet.config(0) >> 32 == ROUTES


def test_the_route_capability_is_a_parameter(engine: str) -> None:
    hpet = Hpet(engine, routes=0x00F0_0800)
    assert hpet.read(0x104, 4) == 0x00F0_0800


def test_timers_are_configured_independently(hpet: Hpet) -> None:
    hpet.configure(0, INT_ENB | route(2))
    hpet.configure(1, LEVEL | route(8))
    hpet.configure(2, MODE32 | route(16))
    fields = LEVEL | INT_ENB | PERIODIC | MODE32 | FSB_EN | route(0x1F)
    configured = [hpet.config(n) & fields for n in range(3)]
    assert configured == [INT_ENB | route(2), LEVEL | route(8), MODE32 | route(16)]


@pytest.mark.parametrize("line", [line for line in range(32) if ROUTES >> line & 1])
def test_a_timer_drives_the_input_of_its_route(hpet: Hpet, line: int) -> None:
    hpet.one_shot(2, 100, line=line)
    assert hpet.config(2) & route(0x1F) == route(line)
    hpet.enable()
    hpet.wait(200)
    assert hpet.every_rise() == {line: 1}


@pytest.mark.parametrize("line", [line for line in range(32) if not ROUTES >> line & 1])
def test_a_route_outside_the_capability_reads_back_otherwise_and_drives_nothing_there(
    engine: str, line: int
) -> None:
    """What it reads back is not specified, nor who gets the interrupt: never a line beyond the capability."""
    for mode in (0, LEVEL):
        hpet = Hpet(engine)
        hpet.one_shot(0, 100, INT_ENB | mode, line)
        if line:
            assert hpet.config(0) & route(0x1F) != route(line)
        hpet.enable()
        hpet.wait(200)
        assert all(ROUTES >> driven & 1 for driven in hpet.every_rise())
        assert hpet.levels & ~ROUTES == 0


def test_a_route_of_31_is_possible(engine: str) -> None:
    hpet = Hpet(engine, routes=1 << 31)
    hpet.one_shot(0, 100, INT_ENB | LEVEL, 31)
    hpet.enable()
    hpet.wait(100)
    assert hpet.levels == 1 << 31
