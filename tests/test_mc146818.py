"""The MC146818's ports, bytes and formats by its data sheet; every test runs on both engines."""

from __future__ import annotations

from datetime import datetime

import pytest
from devc.runtime.instance import ParameterError

from .rig import make
from .rig_rtc import (
    AF,
    AIE,
    ANY,
    CENTURY,
    CENTURY_ALIAS,
    DM,
    DSE,
    H24,
    HOLD,
    HOURS,
    HOURS_ALARM,
    HZ,
    IRQF,
    MINUTES,
    MINUTES_ALARM,
    MODES,
    PF,
    PIE,
    RUN,
    SECONDS,
    SECONDS_ALARM,
    SET,
    SQWE,
    TIME_BYTES,
    UF,
    UIE,
    WEEKDAY,
    A,
    B,
    C,
    D,
    Rtc,
    encode,
    hour,
    seconds,
    seconds_since_1970,
)

NOON = datetime(2026, 1, 31, 12, 34, 56)
RAM = [*range(0x0E, 0x32), *range(0x33, 0x37), *range(0x38, 0x80)]
ALL_MODES = pytest.mark.parametrize("mode", [mode for mode, _ in MODES], ids=[name for _, name in MODES])


@pytest.fixture
def rtc(engine: str) -> Rtc:
    return Rtc(engine, NOON)


# --- power-on ----------------------------------------------------------------------


def test_at_power_on_it_shows_the_date_in_bcd_and_24_hours(rtc: Rtc) -> None:
    assert rtc[B] == H24
    assert rtc.bytes == {0: 0x56, 2: 0x34, 4: 0x12, 6: 7, 7: 0x31, 8: 1, 9: 0x26, CENTURY: 0x20}


def test_at_power_on_the_divider_runs_and_1024_hz_is_selected(rtc: Rtc) -> None:
    assert rtc[A] == 0x26


def test_at_power_on_no_interrupt_is_enabled_or_pending(rtc: Rtc) -> None:
    assert (rtc[C], rtc[D], rtc.irq, rtc.nmi_mask) == (0, 0x80, 0, 0)


@pytest.mark.parametrize(
    "date",
    [
        datetime(1970, 1, 1),
        datetime(1999, 12, 31, 23, 59, 59),
        datetime(2000, 2, 29, 0, 0, 1),
        datetime(2038, 1, 19, 3, 14, 8),
        datetime(2100, 3, 1, 5, 6, 7),
        datetime(2400, 2, 29, 12),
        datetime(9891, 12, 31, 23, 59, 58),
    ],
)
def test_it_is_powered_on_at_any_date(engine: str, date: datetime) -> None:
    assert Rtc(engine, date).shows(date)


def test_a_date_that_four_digits_do_not_hold_is_refused(engine: str) -> None:
    with pytest.raises(ParameterError):
        make("mc146818", engine, date=seconds_since_1970(datetime(9999, 12, 31)) + 86_400)


# --- ports ---------------------------------------------------------------------------


def test_the_index_port_reads_ff(rtc: Rtc) -> None:
    for value in (0, 0x0C, 0x8F):
        rtc.outb(0x70, value)
        assert rtc.inb(0x70) == 0xFF


def test_the_index_is_kept_between_accesses(rtc: Rtc) -> None:
    rtc.outb(0x70, 0x40)
    for value in (1, 2, 3):
        rtc.outb(0x71, value)
        assert rtc.inb(0x71) == value


def test_bit_7_of_the_index_port_is_the_nmi_mask(rtc: Rtc) -> None:
    rtc.outb(0x70, 0x80)
    assert rtc.nmi_mask == 1
    rtc.outb(0x70, 0x7F)
    assert rtc.nmi_mask == 0


def test_the_nmi_mask_is_no_part_of_the_index(rtc: Rtc) -> None:
    rtc[0x40] = 0x5A
    rtc.outb(0x70, 0xC0)
    assert rtc.inb(0x71) == 0x5A
    rtc.outb(0x71, 0xA5)
    assert rtc[0x40] == 0xA5


def test_the_second_index_port_does_not_touch_the_nmi_mask_or_the_first_index(rtc: Rtc) -> None:
    rtc[0x40] = 1
    rtc.outb(0x70, 0xC0)
    rtc.outb(0x72, 0x11)
    assert (rtc.nmi_mask, rtc.inb(0x71)) == (1, 1)


def test_bit_7_of_the_second_index_is_ignored(rtc: Rtc) -> None:
    rtc.set_upper(0x11, 0x77)
    assert rtc.upper(0x91) == 0x77


# --- 128 + 128 bytes --------------------------------------------------------------------


def test_the_lower_bank_has_ram_beside_the_registers(rtc: Rtc) -> None:
    for index in RAM:
        rtc[index] = index ^ 0xA5
    assert [rtc[index] for index in RAM] == [index ^ 0xA5 for index in RAM]
    assert rtc.shows(NOON)


def test_the_upper_bank_has_128_bytes_of_ram(rtc: Rtc) -> None:
    for index in range(128):
        rtc.set_upper(index, index ^ 0x5A)
    assert [rtc.upper(index) for index in range(128)] == [index ^ 0x5A for index in range(128)]
    assert rtc.shows(NOON)
    assert (rtc[A], rtc[B]) == (0x26, H24)


def test_the_two_banks_are_apart(rtc: Rtc) -> None:
    for index in RAM:
        rtc[index] = 0x11
        rtc.set_upper(index, 0x22)
    assert {rtc[index] for index in RAM} == {0x11}
    assert {rtc.upper(index) for index in RAM} == {0x22}


def test_ram_keeps_its_contents_while_time_passes(rtc: Rtc) -> None:
    for index in RAM:
        rtc[index] = index
    rtc.now = 10**9 * 86_400 * 400
    assert [rtc[index] for index in RAM] == RAM


def test_the_century_has_an_alias(rtc: Rtc) -> None:
    assert rtc[CENTURY_ALIAS] == 0x20
    rtc[CENTURY_ALIAS] = 0x21
    assert rtc[CENTURY] == 0x21
    rtc[CENTURY] = 0x19
    assert rtc[CENTURY_ALIAS] == 0x19


# --- registers A to D --------------------------------------------------------------------


def test_register_a_keeps_divider_and_rate_but_not_uip(rtc: Rtc) -> None:
    for value in (0x70, 0xF0, 0x26, 0xA6, 0x2F, 0x0D):
        rtc[A] = value
        assert rtc[A] & 0x7F == value & 0x7F
    assert rtc.uip == 0
    rtc[A] = 0x80 | RUN
    assert rtc.uip == 0


def test_register_b_is_kept(rtc: Rtc) -> None:
    for bit in (PIE, AIE, UIE, SQWE, DM, H24, DSE, SET):
        rtc[B] = bit
        assert rtc[B] == bit


def test_registers_c_and_d_ignore_writes(rtc: Rtc) -> None:
    rtc[D] = 0
    assert rtc[D] == 0x80
    rtc[D] = 0xFF
    assert rtc[D] == 0x80
    rtc[C] = 0xFF
    assert (rtc[C], rtc.irq) == (0, 0)


def test_a_write_to_register_c_clears_nothing(rtc: Rtc) -> None:
    rtc.after_update(1)
    rtc[C] = 0
    assert rtc[C] & UF


def test_the_unused_bits_of_register_c_are_0(rtc: Rtc) -> None:
    rtc[B] = H24 | PIE | UIE | AIE
    rtc.after_update(1)
    assert rtc[C] & 0x0F == 0


def test_the_alarm_bytes_are_kept_as_written(rtc: Rtc) -> None:
    for value in (0, 0x59, 0x7F, ANY, 0xFF):
        rtc.set_alarm(value, value, value)
        assert [rtc[i] for i in (HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM)] == [value] * 3


# --- formats --------------------------------------------------------------------------------


@ALL_MODES
def test_a_time_is_read_as_it_was_written(rtc: Rtc, mode: int) -> None:
    for moment in (datetime(2026, 1, 31, 23, 59, 50), datetime(1999, 12, 9, 0, 0, 9), NOON):
        rtc.set_time(moment, mode)
        assert rtc.shows(moment, mode)
        assert rtc[B] == mode


@ALL_MODES
def test_the_time_goes_on_in_each_format(rtc: Rtc, mode: int) -> None:
    moment = datetime(1999, 12, 31, 23, 59, 55)
    rtc.set_time(moment, mode)
    for count in range(1, 12):
        rtc.after_update(count)
        assert rtc.shows(moment + seconds(count), mode)


@ALL_MODES
def test_every_hour_has_its_byte(rtc: Rtc, mode: int) -> None:
    for value in range(24):
        rtc.set_time(datetime(2025, 6, 1, value, 59, 59), mode)
        assert rtc[HOURS] == hour(value, mode)
        rtc.after_update(value + 1)
        assert rtc[HOURS] == hour((value + 1) % 24, mode)


@pytest.mark.parametrize(
    ("value", "bcd", "binary"),
    [
        (0, 0x12, 0x0C),
        (1, 0x01, 0x01),
        (11, 0x11, 0x0B),
        (12, 0x92, 0x8C),
        (13, 0x81, 0x81),
        (23, 0x91, 0x8B),
    ],
)
def test_in_12_hours_midnight_and_noon_are_12_and_pm_has_bit_7(
    engine: str, value: int, bcd: int, binary: int
) -> None:
    for mode, byte in ((0, bcd), (DM, binary)):
        rtc = Rtc(engine, NOON)
        rtc.set_time(NOON.replace(hour=value), mode)
        assert rtc[HOURS] == byte


@pytest.mark.parametrize(("old", "new"), [(a, b) for a, _ in MODES for b, _ in MODES if a != b])
def test_a_change_of_format_shows_the_same_time_in_the_new_one(rtc: Rtc, old: int, new: int) -> None:
    """The sheet wants the bytes to be written again; here the clock goes on and is shown anew,
    which is what software finds that does not write them."""
    moment = datetime(2026, 12, 31, 23, 58, 57)
    rtc.set_time(moment, old)
    rtc[B] = new
    assert rtc.shows(moment, new)
    rtc.after_update(100)
    assert rtc.shows(moment + seconds(100), new)


def test_a_change_of_format_leaves_the_alarm_bytes(rtc: Rtc) -> None:
    rtc.set_alarm(0x92, 0x59, 0x58)
    rtc[B] = DM
    assert [rtc[i] for i in (HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM)] == [0x92, 0x59, 0x58]


# --- values that are none ----------------------------------------------------------------------


@ALL_MODES
@pytest.mark.parametrize("index", TIME_BYTES)
def test_no_value_of_a_time_byte_stops_the_host(engine: str, index: int, mode: int) -> None:
    """What an invalid byte counts to is not specified; the clock lives on and takes a valid time again."""
    rtc = Rtc(engine, NOON)
    for value in range(0, 256, 1 if engine == "native" else 37):
        rtc[B] = SET | mode
        rtc[index] = value
        rtc[B] = mode
        for step in (1, 100, 86_400, 366 * 86_400):
            rtc.now += step * 10**9
            rtc.device.settle(rtc.now)
            assert rtc.device.deadline > rtc.now
            assert all(0 <= byte <= 0xFF for byte in rtc.bytes.values())
    rtc.now += 10**9 // 2  # into the middle of a second
    rtc.set_time(NOON, mode)
    assert rtc.shows(NOON, mode)
    rtc.after_update(1, (rtc.tick // HZ + 1) * HZ)
    assert rtc.shows(NOON + seconds(1), mode)


@ALL_MODES
def test_all_bytes_invalid_at_once_do_no_harm(engine: str, mode: int) -> None:
    for value in (0x00, 0x0F, 0x3C, 0x7F, 0x80, 0x99, 0xC0, 0xFF):
        rtc = Rtc(engine, NOON)
        rtc[B] = SET | mode | DSE
        for index in (*TIME_BYTES, SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM):
            rtc[index] = value
        rtc[B] = mode | DSE | AIE | UIE | PIE
        rtc.now += 10**9 // 2
        for step in (1, 3600, 86_400, 400 * 86_400, 100 * 365 * 86_400):
            rtc.now += step * 10**9
            rtc.device.settle(rtc.now)
            assert rtc.device.deadline > rtc.now
            assert rtc[C] & (UF | PF | IRQF) == UF | PF | IRQF


def test_a_valid_byte_written_beside_an_invalid_one_is_read_back(rtc: Rtc) -> None:
    rtc[B] = SET | H24
    rtc[MINUTES] = 0xFF
    rtc[SECONDS] = 0x42
    assert rtc[SECONDS] == 0x42


# --- the reset pin --------------------------------------------------------------------------------


def test_the_reset_pin_clears_the_enables_and_the_flags(rtc: Rtc) -> None:
    rtc[B] = PIE | AIE | UIE | SQWE | H24
    rtc.set_alarm(ANY, ANY, ANY)
    rtc.after_update(1)
    assert rtc.irq == 1
    assert rtc.peek_flags() == IRQF | PF | AF | UF
    rtc.reset_pin(1)
    assert rtc.irq == 0
    assert (rtc[B], rtc[C]) == (H24, 0)


def test_the_reset_pin_leaves_everything_else(rtc: Rtc) -> None:
    rtc[B] = DM | DSE | SQWE
    rtc[A] = 0x2D
    rtc[0x40] = 0x5A
    rtc.set_upper(0x40, 0xA5)
    rtc.set_alarm(1, 2, 3)
    rtc.reset_pin(1)
    assert (rtc[A], rtc[B], rtc[0x40], rtc.upper(0x40)) == (0x2D, DM | DSE, 0x5A, 0xA5)
    assert [rtc[i] for i in (HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM)] == [1, 2, 3]
    assert rtc.bytes == encode(NOON, DM)


def test_the_clock_is_not_disturbed_by_the_reset_pin(rtc: Rtc) -> None:
    rtc.at(1000)
    rtc.reset_pin(1)
    rtc.at(2000)
    rtc.reset_pin(0)
    rtc.after_update(1)
    assert rtc.shows(NOON + seconds(1))
    assert rtc[C] & UF


def test_only_the_edge_of_the_reset_pin_acts_here(rtc: Rtc) -> None:
    """The chip holds the bits while RESET is low; a machine's reset is one edge."""
    rtc.reset_pin(1)
    rtc[B] = H24 | UIE
    assert rtc[B] == H24 | UIE
    rtc.reset_pin(0)
    assert rtc[B] == H24 | UIE


# --- saving, peeking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["native", "reference"])
@pytest.mark.parametrize("tick", [5, HZ - 4, HZ + 30, 3 * HZ + 70])
def test_a_restored_clock_goes_on_as_the_saved_one_on_any_engine(engine: str, reader: str, tick: int) -> None:
    rtc = Rtc(engine, NOON)
    rtc[B] = PIE | AIE | UIE | DM
    rtc[A] = 0x2A
    rtc.set_alarm(ANY, ANY, 59)
    rtc[0x40] = 0x5A
    rtc.at(tick)
    image = rtc.device.save(rtc.now)
    other = Rtc(reader, NOON)
    other.device.restore(rtc.now, image)
    other.now = rtc.now
    assert other.device.save(other.now) == image
    assert list(other.interrupts(30)) == list(rtc.interrupts(30))
    assert (other.bytes, other[A], other[0x40]) == (rtc.bytes, rtc[A], 0x5A)


def test_peeking_shows_what_a_read_returns_and_changes_nothing(rtc: Rtc) -> None:
    rtc[B] = PIE | UIE | H24
    rtc.after_update(1)
    for index in range(128):
        rtc.outb(0x70, index)
        before = rtc.device.state
        peeked = rtc.device.peek("io", rtc.now, 1, 1)
        assert rtc.device.state == before
        assert peeked == rtc.inb(0x71)


def test_every_second_is_the_weekday_s_neighbour(rtc: Rtc) -> None:
    """Sunday 1 to Saturday 7, counted on by itself: the day of the month does not correct it."""
    rtc.set_time(datetime(2026, 3, 15, 23, 59, 58))
    for start in range(1, 8):
        rtc[WEEKDAY] = start
        rtc.now += 86_400 * 10**9
        assert rtc[WEEKDAY] == start % 7 + 1


def test_the_divider_held_keeps_every_byte(rtc: Rtc) -> None:
    rtc[A] = HOLD
    rtc.now += 86_400 * 10**9
    assert rtc.shows(NOON)
