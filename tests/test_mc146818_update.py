"""The MC146818's update cycle, divider, flags and interrupt line.

Update k begins when the divider has counted 32,768 k ticks. UIP is set 8 ticks (244 us)
before that; the new time and UF are there, and UIP is clear, when the update cycle has
ended, 65 ticks (1984 us) after it began. Every test runs on both engines.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

import pytest

from .rig import SECOND
from .rig_rtc import (
    AF,
    AIE,
    ANY,
    H24,
    HOLD,
    HZ,
    IRQF,
    PF,
    PIE,
    RUN,
    SECONDS,
    SET,
    SQWE,
    UF,
    UIE,
    UIP_TICKS,
    UPDATE_TICKS,
    A,
    B,
    C,
    D,
    Rtc,
    seconds,
)

START = datetime(2026, 1, 31, 23, 59, 50)
BASE_4M, BASE_1M, BASE_32K = 0x00, 0x10, 0x20
HELD = (0x60, 0x70)
STOPPED = (0x30, 0x40, 0x50)


@pytest.fixture
def rtc(engine: str) -> Rtc:
    return Rtc(engine, START)


def around(rtc: Rtc, tick: int, watch: Callable[[], object], start: int = 0) -> tuple[object, object]:
    """What is seen a nanosecond before a tick begins, and at its first instant.

    Ticks count from `start` ns: the divider's release, which its clock begins anew with.
    """
    rtc.now = start + rtc.ns(tick) - 1
    before = watch()
    rtc.now += 1
    return before, watch()


# --- UIP and the update -----------------------------------------------------------------


@pytest.mark.parametrize("update", [0, 1, 8, UPDATE_TICKS])
@pytest.mark.parametrize("second", [1, 2, 3, 86_400])
def test_uip_rises_244_us_before_the_update_to_the_nanosecond(engine: str, second: int, update: int) -> None:
    rtc = Rtc(engine, START, update)
    assert around(rtc, second * HZ - UIP_TICKS, lambda: rtc.uip) == (0, 1)


@pytest.mark.parametrize("update", [1, 8, UPDATE_TICKS])
@pytest.mark.parametrize("second", [1, 2, 3, 86_400])
def test_uip_stays_through_the_update_to_the_nanosecond(engine: str, second: int, update: int) -> None:
    rtc = Rtc(engine, START, update)
    assert around(rtc, second * HZ, lambda: rtc.uip) == (1, 1)
    assert around(rtc, second * HZ + update, lambda: rtc.uip) == (1, 0)


def test_an_update_of_no_time_ends_uip_at_the_second(engine: str) -> None:
    rtc = Rtc(engine, START, 0)
    assert around(rtc, HZ, lambda: rtc.uip) == (1, 0)
    assert rtc.shows(START + seconds(1))


def test_uip_is_set_for_2228_us_of_every_second(rtc: Rtc) -> None:
    seen = 0
    for tick in range(5 * HZ // 2, 7 * HZ // 2):
        if tick % HZ > HZ - 20 or tick % HZ < 80:
            rtc.at(tick)
            seen += rtc.uip
    assert seen == UIP_TICKS + UPDATE_TICKS


@pytest.mark.parametrize("second", [1, 2, 3, 86_400])
def test_the_time_changes_and_uf_is_set_when_the_update_ends(rtc: Rtc, second: int) -> None:
    rtc.now = rtc.ns(second * HZ) - SECOND // 2
    assert rtc[C] & UF or second == 1
    old, new = START + seconds(second - 1), START + seconds(second)
    end = second * HZ + UPDATE_TICKS
    assert around(rtc, end, lambda: (rtc.shows(old), rtc.peek_flags() & UF)) == ((True, 0), (False, UF))
    assert rtc.shows(new)


def test_the_update_is_never_seen_early_by_a_poller(rtc: Rtc) -> None:
    """Software reads within 244 us after it saw UIP clear: the time must be whole."""
    for tick in range(HZ - UIP_TICKS - 1, HZ + UPDATE_TICKS + 10):
        rtc.at(tick)
        if not rtc.uip:
            late = rtc.now + 244_000
            before = rtc[SECONDS]
            rtc.now = late
            assert rtc[SECONDS] == before


def test_the_deadline_of_an_enabled_update_interrupt_is_the_end_of_the_update(rtc: Rtc) -> None:
    rtc[B] = H24 | UIE
    assert list(rtc.interrupts(3)) == [k * HZ + UPDATE_TICKS for k in (1, 2, 3)]
    assert rtc.now == rtc.ns(3 * HZ + UPDATE_TICKS)


def test_a_hundred_years_are_settled_in_one_go(rtc: Rtc) -> None:
    rtc[B] = PIE | UIE | AIE | H24
    rtc.now = 100 * 365 * 86_400 * SECOND
    assert rtc.irq == 1
    assert rtc.device.deadline > rtc.now
    assert rtc.shows(START + seconds(100 * 365 * 86_400 - 1))  # the last update is under way


def test_the_clock_wakes_the_host_only_for_its_line(rtc: Rtc) -> None:
    """Flags whose interrupts are disabled, or that are set already, are found when somebody looks."""
    wakes = 0
    while rtc.device.deadline < 3600 * SECOND and wakes < 5000:
        rtc.run_to_deadline()
        wakes += 1
    assert wakes == 0
    rtc.now = 3600 * SECOND
    rtc[B] = H24 | PIE
    rtc.acknowledge()
    wakes, start = 0, rtc.now
    while rtc.device.deadline < start + 10 * SECOND and wakes < 5000:
        rtc.run_to_deadline()
        wakes += 1
    assert wakes == 1, "the line is up until the guest reads register C"


# --- SET ------------------------------------------------------------------------------------


def test_set_freezes_the_time(rtc: Rtc) -> None:
    rtc[B] = SET | H24
    rtc.after_update(1000)
    assert rtc.shows(START)
    assert rtc[C] & UF == 0


def test_updates_go_on_at_the_divider_s_pace_after_set(rtc: Rtc) -> None:
    rtc[B] = SET | H24
    rtc.at(10 * HZ + 20_000)
    rtc[B] = H24
    assert around(rtc, 11 * HZ + UPDATE_TICKS, lambda: rtc.shows(START)) == (True, False)
    assert rtc.shows(START + seconds(1))


def test_set_clears_uip(rtc: Rtc) -> None:
    rtc.at(HZ - 4)
    assert rtc.uip == 1
    rtc[B] = SET | H24
    assert rtc.uip == 0
    rtc.at(HZ + 10)
    assert rtc.uip == 0


@pytest.mark.parametrize("tick", [HZ - 1, HZ, HZ + UPDATE_TICKS - 1])
def test_set_aborts_an_update_in_progress(rtc: Rtc, tick: int) -> None:
    rtc.at(tick)
    rtc[B] = SET | H24
    rtc.at(HZ + 1000)
    assert rtc.shows(START)
    assert rtc.peek_flags() & UF == 0
    rtc[B] = H24
    rtc.after_update(2)
    assert rtc.shows(START + seconds(1))


@pytest.mark.parametrize("tick", [HZ, HZ + 30])
def test_an_aborted_update_does_not_come_back_when_set_is_cleared_in_its_time(rtc: Rtc, tick: int) -> None:
    """Else a time written in these 2 ms would be a second ahead at once."""
    rtc.at(tick)
    rtc.set_time(START)
    assert rtc.uip == 0
    rtc.at(HZ + UPDATE_TICKS + 1)
    assert rtc.shows(START)
    assert rtc.peek_flags() & UF == 0
    rtc.after_update(2)
    assert rtc.shows(START + seconds(1))


def test_an_update_that_set_prevented_is_not_made_up_for(rtc: Rtc) -> None:
    rtc.at(HZ - 100)
    rtc[B] = SET | H24
    rtc.at(HZ + 100)
    rtc[B] = H24
    rtc.after_update(2)
    assert rtc.shows(START + seconds(1))


def test_set_clears_the_update_enable(rtc: Rtc) -> None:
    rtc[B] = H24 | UIE | PIE
    rtc[B] = SET | H24 | UIE | PIE
    assert rtc[B] == SET | H24 | PIE
    rtc[B] = H24
    assert rtc[B] == H24


def test_set_does_not_stop_the_periodic_tick(rtc: Rtc) -> None:
    rtc[B] = SET | H24 | PIE
    ticks = list(rtc.interrupts(5))
    assert [b - a for a, b in pairwise(ticks)] == [32] * 4


def test_a_time_written_without_set_counts_on_from_there(rtc: Rtc) -> None:
    """The sheet warns of the update cycle only; outside it the written byte is the new time's."""
    rtc.at(20_000)
    rtc[SECONDS] = 0x30
    assert rtc[SECONDS] == 0x30
    assert around(rtc, HZ + UPDATE_TICKS, lambda: rtc[SECONDS]) == (0x30, 0x31)


# --- the divider ---------------------------------------------------------------------------------


@pytest.mark.parametrize("divider", HELD)
def test_a_held_divider_stops_time_uip_and_the_periodic_tick(rtc: Rtc, divider: int) -> None:
    rtc.at(1000)
    rtc[B] = H24 | PIE | UIE
    rtc.acknowledge()
    rtc[A] = divider | 6
    rtc.at(100 * HZ + 30)
    assert rtc.shows(START)
    assert (rtc.uip, rtc[C], rtc.irq) == (0, 0, 0)


@pytest.mark.parametrize("divider", HELD)
@pytest.mark.parametrize("tick", [0, 1000, HZ - 3, 5 * HZ + 17, 5 * HZ + 20_000])
def test_the_first_update_begins_half_a_second_after_the_divider_is_released(
    rtc: Rtc, divider: int, tick: int
) -> None:
    rtc.at(100)
    rtc[A] = divider | 6
    rtc.set_time(START)
    rtc.at(100 + tick)
    rtc[A] = RUN
    update, start = HZ // 2, rtc.now
    assert around(rtc, update - UIP_TICKS, lambda: rtc.uip, start) == (0, 1)
    end = update + UPDATE_TICKS
    assert around(rtc, end, lambda: (rtc.uip, rtc.shows(START)), start) == ((1, True), (0, False))
    assert rtc.shows(START + seconds(1))
    assert around(rtc, end + HZ, lambda: rtc.shows(START + seconds(2)), start) == (False, True)


@pytest.mark.parametrize("late", [0, 1, 7, 15_259, 30_517])
def test_the_half_second_is_exact_wherever_between_two_ticks_the_divider_is_released(
    engine: str, late: int
) -> None:
    rtc = Rtc(engine, START, update=0)
    rtc[A] = HELD[0] | 6
    rtc.now = rtc.ns(1000) + late
    rtc[A] = RUN
    released = rtc.now
    rtc.now = released + 500_000_000 - 244_140 - 1
    assert rtc.uip == 0
    rtc.now += 1
    assert rtc.uip == 1
    rtc.now = released + 500_000_000
    assert rtc.uip == 0
    assert rtc.shows(START + seconds(1))


@pytest.mark.parametrize("tick", [0, 10, UPDATE_TICKS])
def test_a_divider_released_right_after_power_on_updates_half_a_second_later(rtc: Rtc, tick: int) -> None:
    rtc.at(tick)
    rtc[A] = HOLD
    rtc[A] = RUN
    rtc.at(tick + HZ // 2 + UPDATE_TICKS)
    assert rtc.shows(START + seconds(1))


def test_uip_is_clear_while_the_divider_is_held_at_any_point(rtc: Rtc) -> None:
    for tick in (HZ - 4, HZ + 10, 2 * HZ - 8):
        rtc.at(tick)
        rtc[A] = HOLD
        assert rtc.uip == 0
        rtc[A] = RUN


@pytest.mark.parametrize("divider", STOPPED)
def test_the_test_settings_of_the_divider_stop_the_clock(rtc: Rtc, divider: int) -> None:
    """DV 011, 100 and 101 are not for operation; here nothing counts."""
    rtc[B] = H24 | PIE | UIE
    rtc[A] = divider | 6
    rtc.acknowledge()
    rtc.at(50 * HZ + 300)
    assert rtc.shows(START)
    assert (rtc.uip, rtc[C], rtc.irq) == (0, 0, 0)
    assert rtc[A] == divider | 6


@pytest.mark.parametrize("base", [BASE_4M, BASE_1M, BASE_32K])
def test_every_time_base_counts_seconds(rtc: Rtc, base: int) -> None:
    rtc[A] = base | 6
    rtc.at(1000 * HZ + 1000)
    assert rtc.shows(START + seconds(1000))


@pytest.mark.parametrize("base", [BASE_4M, BASE_1M])
def test_at_1_and_4_mhz_the_update_takes_248_us(rtc: Rtc, base: int) -> None:
    rtc.at(HZ // 2)
    rtc[A] = HOLD
    rtc[A] = base | 6
    half = rtc.ns(HZ)
    rtc.now = half - 244_141
    assert rtc.uip == 0
    rtc.now = half - 244_140
    assert rtc.uip == 1
    rtc.now = half + 244_000
    assert rtc.uip == 1
    rtc.now = half + 274_659  # 248 us, rounded up to ticks of the divider
    assert rtc.uip == 0
    assert rtc.shows(START + seconds(1))


# --- flags, enables, the line --------------------------------------------------------------------------


def raised(rtc: Rtc) -> Rtc:
    """All three flags set, nothing enabled."""
    rtc.set_alarm(ANY, ANY, ANY)
    rtc.after_update(1)
    return rtc


def test_pf_af_and_uf_are_set_without_their_enables(rtc: Rtc) -> None:
    raised(rtc)
    assert rtc.irq == 0
    assert rtc[C] == PF | AF | UF


def test_reading_c_clears_all_flags(rtc: Rtc) -> None:
    raised(rtc)
    assert rtc[C]
    assert rtc[C] == 0


@pytest.mark.parametrize(("enable", "flag"), [(PIE, PF), (AIE, AF), (UIE, UF)])
def test_enabling_with_a_flag_pending_raises_the_line(rtc: Rtc, enable: int, flag: int) -> None:
    raised(rtc)
    rtc[B] = H24 | enable
    assert rtc.irq == 1
    assert rtc[C] == IRQF | PF | AF | UF
    assert (rtc.irq, rtc[C]) == (0, 0)


@pytest.mark.parametrize(("enable", "flag"), [(PIE, PF), (AIE, AF), (UIE, UF)])
def test_irqf_is_any_flag_with_its_enable(engine: str, enable: int, flag: int) -> None:
    rtc = Rtc(engine, START)
    rtc[A] = BASE_32K  # no periodic tick
    rtc.set_alarm(0, 0, 0x51)
    rtc.set_time(datetime(2026, 1, 1, 0, 0, 49))
    rtc[A] = BASE_32K | (15 if flag == PF else 0)
    rtc.after_update(1)
    rtc.acknowledge()
    rtc[B] = H24 | enable
    ticks = list(rtc.interrupts(1))
    expected = {PF: None, AF: 2 * HZ + UPDATE_TICKS, UF: 2 * HZ + UPDATE_TICKS}[flag]
    assert expected is None or ticks == [expected]


def test_a_flag_whose_interrupt_is_disabled_does_not_set_irqf(rtc: Rtc) -> None:
    raised(rtc)
    assert rtc.peek_flags() & IRQF == 0


def test_disabling_lowers_the_line_and_keeps_the_flag(rtc: Rtc) -> None:
    raised(rtc)
    rtc[B] = H24 | UIE
    assert rtc.irq == 1
    rtc[B] = H24
    assert rtc.irq == 0
    assert rtc[C] & UF


def test_reading_c_lowers_the_line_until_the_next_flag(rtc: Rtc) -> None:
    rtc[B] = H24 | UIE
    for count in (1, 2, 3):
        rtc.after_update(count)
        assert rtc.irq == 1
        assert rtc[C] & (IRQF | UF) == IRQF | UF
        assert rtc.irq == 0
    assert rtc.device.get("rises", rtc.lines["irq8"]) == 3


def test_an_unacknowledged_interrupt_keeps_the_line_high(rtc: Rtc) -> None:
    rtc[B] = H24 | UIE | PIE
    rtc.after_update(10)
    assert rtc.irq == 1
    assert rtc.device.get("rises", rtc.lines["irq8"]) == 1


def test_reading_other_registers_acknowledges_nothing(rtc: Rtc) -> None:
    raised(rtc)
    rtc[B] = H24 | UIE
    for index in (*range(12), D, *range(14, 128)):
        assert 0 <= rtc[index] <= 0xFF
    assert rtc.irq == 1


def test_sqwe_changes_nothing_a_pc_can_see(rtc: Rtc) -> None:
    rtc[B] = H24 | SQWE
    rtc.after_update(5)
    assert rtc.irq == 0
    assert rtc.shows(START + seconds(5))


@pytest.mark.parametrize("extra", [PIE, AIE | UIE, PIE | AIE | UIE])
def test_splitting_a_span_of_time_changes_nothing(engine: str, extra: int) -> None:
    whole, split = Rtc(engine, START), Rtc(engine, START)
    for rtc in (whole, split):
        rtc[B] = H24 | extra
        rtc.set_alarm(ANY, ANY, 0x03)
        rtc.device.settle(0)
    end = 40 * SECOND + 123_456_789
    for now in range(0, end, 77_777_777 if engine == "native" else 777_777_777):
        split.device.settle(now)
    for rtc in (whole, split):
        rtc.now = end
        rtc.device.settle(end)
    assert whole.device.save(end) == split.device.save(end)
    assert whole.device.lines == split.device.lines
