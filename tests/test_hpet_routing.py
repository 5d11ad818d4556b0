"""Who gets the HPET's interrupts: legacy replacement, and messages on the front-side bus.

IA-PC HPET 1.0a, 2.3.5, 2.4.2 and 2.3.10. Every test runs on both engines.
"""

from __future__ import annotations

import pytest
from devc.runtime.instance import ImageError

from .rig_hpet import (
    ALL_ONES,
    ENABLE_CNF,
    FSB_DEL_CAP,
    FSB_EN,
    INT_ENB,
    LEG_RT_CNF,
    LEVEL,
    MSI,
    ROUTE,
    Hpet,
    route,
)

LEGACY = ENABLE_CNF | LEG_RT_CNF
PIT_INPUT, RTC_INPUT = 2, 8
PINS = [("pit", PIT_INPUT), ("rtc", RTC_INPUT)]


@pytest.fixture
def hpet(engine: str) -> Hpet:
    return Hpet(engine)


@pytest.fixture
def fsb(engine: str) -> Hpet:
    return Hpet(engine, fsb=1)


# --- 2.4.2.1: legacy replacement -------------------------------------------------------


@pytest.mark.parametrize(("n", "line"), [(0, PIT_INPUT), (1, RTC_INPUT), (2, 18)])
def test_legacy_replacement_routes_timer_0_to_input_2_and_timer_1_to_input_8(
    hpet: Hpet, n: int, line: int
) -> None:
    hpet.one_shot(n, 100, line=18)
    hpet.enable(LEGACY)
    hpet.wait(200)
    assert hpet.every_rise() == {line: 1}


@pytest.mark.parametrize(("n", "line"), [(0, PIT_INPUT), (1, RTC_INPUT), (2, 18)])
def test_legacy_replacement_routes_level_interrupts_alike(hpet: Hpet, n: int, line: int) -> None:
    hpet.one_shot(n, 100, INT_ENB | LEVEL, line=18)
    hpet.enable(LEGACY)
    hpet.wait(200)
    assert (hpet.levels, hpet.status) == (1 << line, 1 << n)
    hpet.acknowledge(n)
    assert hpet.levels == 0


@pytest.mark.parametrize("irq0", [0, 2, 20])
def test_the_input_of_irq_0_is_a_parameter(engine: str, irq0: int) -> None:
    hpet = Hpet(engine, irq0=irq0)
    hpet.one_shot(0, 100)
    hpet.drive("pit", 1)
    assert hpet.levels == 1 << irq0
    hpet.enable(LEGACY)
    assert hpet.levels == 0
    hpet.wait(100)
    assert hpet.every_rise() == {irq0: 2}


def test_legacy_replacement_needs_no_route_in_the_capability(engine: str) -> None:
    """ "The individual routing bits for timers 0 and 1 will have no impact." """
    hpet = Hpet(engine, routes=1 << 20)
    for n, mode in ((0, 0), (1, LEVEL)):
        hpet.one_shot(n, 100, INT_ENB | mode, line=0)
    hpet.enable(LEGACY)
    hpet.wait(100)
    assert hpet.every_rise() == {PIT_INPUT: 1, RTC_INPUT: 1}


def test_leaving_legacy_replacement_gives_the_timers_their_routes_back(hpet: Hpet) -> None:
    hpet.one_shot(0, 100, INT_ENB | LEVEL, line=18)
    hpet.enable(LEGACY)
    hpet.wait(200)
    assert hpet.levels == 1 << PIT_INPUT
    hpet.enable()
    assert hpet.levels == 1 << 18
    hpet.enable(LEGACY)
    assert hpet.levels == 1 << PIT_INPUT


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_the_line_of_pit_and_rtc_is_passed_on_without_legacy_replacement(
    hpet: Hpet, pin: str, line: int
) -> None:
    hpet.drive(pin, 1)
    assert hpet.levels == 1 << line
    hpet.drive(pin, 0)
    assert hpet.levels == 0
    hpet.drive(pin, 1)
    assert hpet.every_rise() == {line: 2}


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_it_is_passed_on_while_the_hpet_runs_in_standard_mode(hpet: Hpet, pin: str, line: int) -> None:
    hpet.enable()
    hpet.drive(pin, 1)
    assert hpet.levels == 1 << line


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_legacy_replacement_gates_the_line_of_pit_and_rtc(hpet: Hpet, pin: str, line: int) -> None:
    hpet.enable(LEGACY)
    for level in (1, 0, 1):
        hpet.drive(pin, level)
        assert hpet.levels == 0
    assert hpet.every_rise() == {}


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_entering_legacy_replacement_lowers_a_raised_line(hpet: Hpet, pin: str, line: int) -> None:
    hpet.drive(pin, 1)
    hpet.enable(LEGACY)
    assert hpet.levels == 0


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_the_gated_level_is_remembered_and_restored_on_exit(hpet: Hpet, pin: str, line: int) -> None:
    hpet.enable(LEGACY)
    hpet.drive(pin, 1)
    hpet.enable()
    assert (hpet.levels, hpet.rises(line)) == (1 << line, 1)


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_a_line_that_fell_while_gated_is_low_on_exit(hpet: Hpet, pin: str, line: int) -> None:
    hpet.drive(pin, 1)
    hpet.enable(LEGACY)
    hpet.drive(pin, 0)
    hpet.enable()
    assert (hpet.levels, hpet.rises(line)) == (0, 1)


def test_the_two_lines_are_gated_and_given_back_together(hpet: Hpet) -> None:
    for pin, _ in PINS:
        hpet.drive(pin, 1)
    assert hpet.levels == 1 << PIT_INPUT | 1 << RTC_INPUT
    hpet.enable(LEGACY)
    assert hpet.levels == 0
    hpet.enable()
    assert hpet.levels == 1 << PIT_INPUT | 1 << RTC_INPUT


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_legacy_replacement_takes_effect_only_with_the_overall_enable(
    hpet: Hpet, pin: str, line: int
) -> None:
    """2.3.5: "if the ENABLE_CNF bit and the LEG_RT_CNF bit are both set"."""
    hpet.drive(pin, 1)
    hpet.enable(LEG_RT_CNF)
    assert hpet.levels == 1 << line
    hpet.enable(LEGACY)
    assert hpet.levels == 0


@pytest.mark.parametrize(("n", "pin", "line"), [(0, "pit", PIT_INPUT), (1, "rtc", RTC_INPUT)])
def test_a_timer_and_the_line_it_replaces_do_not_mix(hpet: Hpet, n: int, pin: str, line: int) -> None:
    hpet.one_shot(n, 100, INT_ENB | LEVEL)
    hpet.enable(LEGACY)
    hpet.drive(pin, 1)
    assert hpet.levels == 0
    hpet.wait(100)
    assert hpet.levels == 1 << line
    hpet.drive(pin, 0)
    assert hpet.levels == 1 << line
    hpet.acknowledge(n)
    assert hpet.levels == 0


@pytest.mark.parametrize(("pin", "line"), PINS)
def test_a_timer_routed_to_the_input_of_pit_or_rtc_is_a_logical_or(hpet: Hpet, pin: str, line: int) -> None:
    hpet.one_shot(2, 100, INT_ENB | LEVEL, line)
    hpet.enable()
    hpet.drive(pin, 1)
    hpet.wait(200)
    assert hpet.levels == 1 << line
    hpet.drive(pin, 0)
    assert hpet.levels == 1 << line
    hpet.acknowledge(2)
    assert hpet.levels == 0
    assert hpet.rises(line) == 1


def test_a_gated_level_survives_saving_and_restoring(engine: str) -> None:
    hpet = Hpet(engine)
    hpet.enable(LEGACY)
    hpet.drive("pit", 1)
    image = hpet.device.save(hpet.now)
    other = Hpet(engine)
    other.device.restore(hpet.now, image)
    other.now = hpet.now
    assert other.levels == 0
    other.enable()
    assert other.levels == 1 << PIT_INPUT


# --- 2.3.10: messages on the front-side bus -----------------------------------------------


def carried(hpet: Hpet, n: int) -> tuple[int, int]:
    """Address and data that go with a message of timer n."""
    line = hpet.device.module.lines[MSI + n]
    assert line.name == f"msi[{n}]"
    values = {name: hpet.device.get(slot, *index) for name, slot, index in line.carries}
    return values["address"], values["data"]


def test_without_the_capability_there_is_no_front_side_bus_delivery(hpet: Hpet) -> None:
    hpet.message(0, 0xFEE0_0000, 0x41)
    hpet.one_shot(0, 100, INT_ENB | FSB_EN)
    assert hpet.config(0) & (FSB_DEL_CAP | FSB_EN) == 0
    hpet.enable()
    hpet.wait(100)
    assert hpet.every_rise() == {ROUTE: 1}


def test_the_capability_is_a_parameter_and_the_enable_bit_is_kept(fsb: Hpet) -> None:
    for n in range(3):
        assert fsb.config(n) & (FSB_DEL_CAP | FSB_EN) == FSB_DEL_CAP
        fsb.configure(n, FSB_EN | route(ROUTE))
        assert fsb.config(n) & (FSB_DEL_CAP | FSB_EN) == FSB_DEL_CAP | FSB_EN


def test_the_message_register_is_kept_whole_and_in_halves(fsb: Hpet) -> None:
    fsb.message(1, 0xFEE0_1000, 0x4041)
    assert fsb.read(0x130) == 0xFEE0_1000_0000_4041
    fsb.write(0x130, 0x1234_5678, 4)
    fsb.write(0x134, 0x9ABC_DEF0, 4)
    assert fsb.read(0x130) == 0x9ABC_DEF0_1234_5678
    assert [fsb.read(0x110 + 0x20 * n) for n in (0, 2)] == [0, 0]


def test_a_match_is_delivered_as_a_message_and_not_by_a_line(fsb: Hpet) -> None:
    fsb.message(0, 0xFEE0_1000, 0x41)
    fsb.one_shot(0, 100, INT_ENB | FSB_EN)
    fsb.enable()
    fsb.wait(99)
    assert fsb.messages(0) == 0
    fsb.wait(1)
    assert fsb.every_rise() == {MSI: 1}
    assert carried(fsb, 0) == (0xFEE0_1000, 0x41)
    assert fsb.levels == 0


def test_each_timer_sends_its_own_message(engine: str) -> None:
    hpet = Hpet(engine, fsb=1, timers=32)
    for n in range(32):
        hpet.message(n, 0xFEE0_0000 + 0x1000 * n, 0x40 + n)
        hpet.one_shot(n, 100 + n, INT_ENB | FSB_EN)
    hpet.enable()
    hpet.wait(120)
    assert hpet.every_rise() == {MSI + n: 1 for n in range(21)}
    hpet.wait(100)
    assert hpet.every_rise() == {MSI + n: 1 for n in range(32)}
    assert [carried(hpet, n) for n in range(32)] == [(0xFEE0_0000 + 0x1000 * n, 0x40 + n) for n in range(32)]


def test_a_periodic_timer_sends_a_message_each_period(fsb: Hpet) -> None:
    fsb.periodic(0, 100, 100, INT_ENB | FSB_EN)
    fsb.enable()
    assert [fsb.next_rise(MSI) for _ in range(4)] == [1100, 1200, 1300, 1400]
    assert fsb.every_rise() == {MSI: 4}


def test_a_disabled_timer_sends_no_message(fsb: Hpet) -> None:
    fsb.one_shot(0, 100, FSB_EN)
    fsb.enable()
    fsb.wait(200)
    assert fsb.every_rise() == {}


def test_an_edge_message_leaves_the_status_bit_0(fsb: Hpet) -> None:
    fsb.one_shot(0, 100, INT_ENB | FSB_EN)
    fsb.enable()
    fsb.wait(200)
    assert (fsb.messages(0), fsb.status) == (1, 0)


def test_the_route_has_no_effect_on_messages(fsb: Hpet) -> None:
    fsb.one_shot(0, 100, INT_ENB | FSB_EN, line=3)
    fsb.enable()
    fsb.wait(100)
    assert fsb.every_rise() == {MSI: 1}


def test_messages_have_priority_over_legacy_replacement(fsb: Hpet) -> None:
    """2.4.2.3 and 3.2.2.2, note 1, against half a sentence in 2.3.5: "can be used even when
    the LegacyReplacement mapping is used", as Intel's chipsets have it."""
    fsb.one_shot(0, 100, INT_ENB | FSB_EN)
    fsb.drive("pit", 1)
    fsb.enable(LEGACY)
    fsb.wait(100)
    assert fsb.messages(0) == 1
    assert fsb.levels == 0, "the PIT's line stays gated"


def test_turning_delivery_to_messages_lowers_a_raised_line(fsb: Hpet) -> None:
    fsb.one_shot(0, 100, INT_ENB | LEVEL)
    fsb.enable()
    fsb.wait(100)
    assert fsb.level(ROUTE) == 1
    fsb.configure(0, INT_ENB | FSB_EN | route(ROUTE))
    assert fsb.levels == 0


# --- saving and restoring ------------------------------------------------------------------


def busy(engine: str) -> Hpet:
    hpet = Hpet(engine, fsb=1, timers=4)
    hpet.periodic(0, 300, 100)
    hpet.one_shot(1, 5000, INT_ENB | LEVEL, 17)
    hpet.one_shot(2, 50, LEVEL, 18)
    hpet.message(3, 0xFEE0_0000, 0x51)
    hpet.periodic(3, 70, 170, INT_ENB | FSB_EN)
    hpet.enable()
    hpet.wait(1234)
    return hpet


def history(hpet: Hpet) -> list[tuple[int, int, int, int]]:
    seen = []
    for _ in range(60):
        hpet.run_to_deadline()
        seen.append((hpet.now, hpet.levels, hpet.status, hpet.comparator(3)))
    return seen


@pytest.mark.parametrize("reader", ["native", "reference"])
def test_a_restored_hpet_goes_on_as_the_saved_one_on_any_engine(engine: str, reader: str) -> None:
    hpet = busy(engine)
    image = hpet.device.save(hpet.now)
    other = Hpet(reader, fsb=1, timers=4)
    other.device.restore(hpet.now, image)
    other.now = hpet.now
    assert other.device.save(other.now) == image
    assert history(other) == history(hpet)


def test_val_set_half_consumed_survives_saving_and_restoring(engine: str) -> None:
    hpet = Hpet(engine)
    hpet.configure(0, 0x4C | route(ROUTE))
    hpet.compare(0, 700, 4)
    other = Hpet(engine)
    other.device.restore(hpet.now, hpet.device.save(hpet.now))
    other.compare(0, 5, 4, high=True)
    assert other.comparator(0) == 0x5_0000_02BC


def test_an_image_of_another_number_of_timers_is_refused(engine: str) -> None:
    """A guest's memory was once reached through this number (CVE-2013-4527)."""
    image = Hpet(engine, timers=32).device.save(10_000)
    hpet = Hpet(engine, timers=3)
    before = hpet.device.state
    with pytest.raises(ImageError):
        hpet.device.restore(10_000, image)
    assert hpet.device.state == before


def test_peeking_shows_what_a_read_returns_and_changes_nothing(engine: str) -> None:
    hpet = busy(engine)
    hpet.wait(777)
    for offset in range(0, 0x200, 4):
        for width in (4, 8):
            before = hpet.device.state
            peeked = hpet.device.peek("mmio", hpet.now, offset, width)
            assert hpet.device.state == before
            assert peeked == hpet.read(offset, width)


def test_a_power_on_reset_forgets_everything(engine: str) -> None:
    hpet = busy(engine)
    hpet.device.reset(hpet.now)
    assert (hpet.counter, hpet.status, hpet.read(0x10), hpet.levels) == (0, 0, 0, 0)
    assert [hpet.comparator(n) for n in range(4)] == [ALL_ONES] * 4
