"""The 8254 by its data sheet (Intel 231164-005), and the PC's port 0x61.

Written at tick k, a count is loaded at tick k + 1: "the next CLK pulse".
Every test runs on both engines.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from .rig import Pit

LATCH, LSB, MSB, WORD = 0, 1, 2, 3


@pytest.fixture
def pit(engine: str) -> Pit:
    pit = Pit(engine)
    pit.gate2(1)
    return pit


# --- access ------------------------------------------------------------------


def test_the_default_clock_is_1193182_hz(engine: str) -> None:
    pit = Pit(engine)
    pit.at(0)
    pit.program(0, 0, 1000)
    assert pit.run_to_deadline() == 1  # the load
    assert pit.device.deadline == -(-1001 * 10**9 // 1_193_182)


def test_the_clock_is_a_parameter(engine: str) -> None:
    pit = Pit(engine, hz=1_000_000)
    pit.at(0)
    pit.program(0, 0, 1000)
    pit.run_to_deadline()
    assert pit.device.deadline == 1_001_000


def test_word_access_reads_low_byte_then_high_byte(pit: Pit) -> None:
    pit.program(0, 2, 0x1234)
    pit.wait(1)
    pit.latch(0)
    assert [pit.inb(0x40), pit.inb(0x40)] == [0x34, 0x12]


def test_read_and_write_flip_flops_are_separate(pit: Pit) -> None:
    pit.program(0, 2, 0x1234)
    pit.wait(1)
    pit.latch(0)
    assert pit.inb(0x40) == 0x34
    pit.outb(0x40, 0x78)  # the first byte of a new count does not disturb the read
    assert pit.inb(0x40) == 0x12
    pit.outb(0x40, 0x56)
    pit.wait(0x1234)
    assert pit.count(0) == 0x5678


def test_lsb_access_writes_and_reads_the_low_byte_only(pit: Pit) -> None:
    pit.control(0, 2, LSB)
    pit.outb(0x40, 0x42)
    pit.wait(1)
    assert [pit.inb(0x40), pit.inb(0x40)] == [0x42, 0x42]
    pit.wait(2)
    assert pit.inb(0x40) == 0x40


def test_msb_access_writes_and_reads_the_high_byte_only(pit: Pit) -> None:
    pit.control(0, 2, MSB)
    pit.outb(0x40, 0x42)
    pit.wait(1)
    assert pit.inb(0x40) == 0x42
    pit.wait(1)
    assert pit.inb(0x40) == 0x41


def test_a_count_latch_is_ignored_while_a_count_is_latched(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.wait(1)
    pit.latch(0)
    pit.wait(10)
    pit.latch(0)
    assert pit.read_count(0) == 1000


def test_a_count_can_be_latched_again_after_a_full_read(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.wait(1)
    assert pit.count(0) == 1000
    pit.wait(10)
    assert pit.count(0) == 990


def test_a_latch_between_the_two_bytes_of_a_latched_count_changes_nothing(pit: Pit) -> None:
    pit.program(0, 2, 0x1234)
    pit.wait(1)
    pit.latch(0)
    assert pit.inb(0x40) == 0x34
    pit.wait(0x300)
    pit.latch(0)  # still latched: ignored
    assert pit.inb(0x40) == 0x12


def test_a_latch_between_the_bytes_of_a_live_read_gives_the_high_byte_of_the_latched_count(pit: Pit) -> None:
    """Undefined on the chip; here the flip-flop stands at the high byte, and the latch holds the count."""
    pit.program(0, 2, 0x1234)
    pit.wait(1)
    assert pit.inb(0x40) == 0x34
    pit.wait(0x235)
    pit.latch(0)
    pit.wait(0x700)
    assert pit.inb(0x40) == 0x0F  # of 0x0fff


def test_an_unlatched_read_sees_the_count_go_on(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.wait(1)
    low = pit.inb(0x40)
    pit.wait(300)
    assert (low, pit.inb(0x40)) == (1000 & 0xFF, 700 >> 8)


def test_channels_are_independent(pit: Pit) -> None:
    for channel, count in enumerate((100, 200, 300)):
        pit.program(channel, 2, count)
    pit.wait(11)
    assert [pit.count(c) for c in range(3)] == [90, 190, 290]


# --- read-back -----------------------------------------------------------------


def test_read_back_latches_the_counts_of_several_channels_at_once(pit: Pit) -> None:
    for channel in range(3):
        pit.program(channel, 2, 100 * (channel + 1))
    pit.wait(11)
    pit.read_back(0, 2, count=True)
    pit.wait(5)
    assert (pit.read_count(0), pit.read_count(2)) == (90, 290)
    assert pit.read_count(1) == 185  # not selected: live


def test_read_back_status_is_returned_before_the_latched_count(pit: Pit) -> None:
    pit.program(0, 2, 0x1234)
    pit.wait(1)
    pit.read_back(0, count=True, status=True)
    assert [pit.inb(0x40) for _ in range(3)] == [0b10_11_010_0, 0x34, 0x12]


def test_a_latched_status_is_not_latched_again_until_read(pit: Pit) -> None:
    pit.program(0, 0, 5)
    pit.read_back(0, status=True)
    pit.wait(100)
    pit.read_back(0, status=True)
    assert pit.inb(0x40) >> 6 == 0b01  # OUT low and NULL COUNT, as at the first
    pit.read_back(0, status=True)
    assert pit.inb(0x40) >> 6 == 0b10


def test_read_back_with_both_bits_set_latches_nothing(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.wait(1)
    pit.read_back(0)
    pit.wait(10)
    assert pit.inb(0x40) == 990 & 0xFF


def test_null_count_is_set_by_a_control_word(pit: Pit) -> None:
    pit.program(0, 2, 100)
    pit.wait(2)
    assert pit.status(0) >> 6 & 1 == 0
    pit.control(0, 2)
    assert pit.status(0) >> 6 & 1 == 1


def test_null_count_is_set_by_a_count_until_it_is_loaded_on_the_next_clock(pit: Pit) -> None:
    pit.control(0, 0)
    pit.write_count(0, 100)
    assert pit.status(0) >> 6 & 1 == 1
    pit.wait(1)
    assert pit.status(0) >> 6 & 1 == 0


def test_null_count_stays_set_in_mode_2_until_the_period_ends(pit: Pit) -> None:
    pit.program(0, 2, 100)
    pit.wait(1)
    pit.wait(30)
    pit.write_count(0, 50)
    pit.wait(69)
    assert pit.status(0) >> 6 & 1 == 1
    pit.wait(1)
    assert pit.status(0) >> 6 & 1 == 0


@pytest.mark.parametrize("mode", range(8))
def test_status_gives_back_the_control_word_as_written(pit: Pit, mode: int) -> None:
    for access in (LSB, MSB, WORD):
        for bcd in (0, 1):
            pit.control(1, mode, access, bcd)
            assert pit.status(1) & 0x3F == access << 4 | mode << 1 | bcd


@pytest.mark.parametrize(("alias", "mode"), [(6, 2), (7, 3)])
def test_modes_6_and_7_act_as_2_and_3(engine: str, alias: int, mode: int) -> None:
    seen = []
    for written in (alias, mode):
        pit = Pit(engine)
        pit.program(0, written, 7)
        pit.wait(1)
        seen.append([(pit.out(0), pit.count(0)) for _ in range(20) if pit.wait(1) is None])
    assert seen[0] == seen[1]


# --- counts ----------------------------------------------------------------------


def test_binary_0_means_65536(pit: Pit) -> None:
    pit.program(0, 2, 0)
    pit.wait(1)
    assert pit.count(0) == 0
    pit.wait(1)
    assert pit.count(0) == 0xFFFF
    pit.wait(65_534)
    assert (pit.count(0), pit.out(0)) == (1, 0)


def test_bcd_counts_in_decimal_digits(pit: Pit) -> None:
    pit.program(0, 2, 0x1000, bcd=1)
    pit.wait(1)
    assert pit.counts(0, 3) == [0x1000, 0x0999, 0x0998]


def test_bcd_0_means_10000(pit: Pit) -> None:
    pit.program(0, 2, 0, bcd=1)
    pit.wait(1)
    assert pit.counts(0, 2) == [0x0000, 0x9999]
    pit.wait(10_000 - 3)
    assert (pit.count(0), pit.out(0)) == (0x0001, 0)


def test_bcd_wraps_to_9999_after_the_terminal_count(pit: Pit) -> None:
    pit.program(0, 0, 2, bcd=1)
    pit.wait(1)
    assert pit.counts(0, 4) == [2, 1, 0, 0x9999]


def test_bcd_digits_above_9_count_as_their_bits(pit: Pit) -> None:
    """The chip's behaviour is not documented; here digit A is ten, so 0x1A is twenty."""
    pit.program(0, 2, 0x1A, bcd=1)
    pit.wait(1)
    assert pit.count(0) == 0x20


@pytest.mark.parametrize("mode", [2, 3])
def test_the_illegal_count_of_1_acts_as_2(engine: str, mode: int) -> None:
    seen = []
    for count in (1, 2):
        pit = Pit(engine)
        pit.program(0, mode, count)
        pit.wait(1)
        seen.append(list(zip(pit.outs(0, 8), pit.counts(0, 8), strict=True)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("mode", [0, 1, 4, 5])
def test_modes_0_1_4_and_5_wrap_past_zero_and_go_on(pit: Pit, mode: int) -> None:
    pit.gate2(0)
    pit.program(2, mode, 2)
    pit.gate2(1)
    pit.wait(1)
    assert pit.counts(2, 5) == [2, 1, 0, 0xFFFF, 0xFFFE]


# --- the control word ---------------------------------------------------------------


@pytest.mark.parametrize("mode", range(6))
def test_a_control_word_sets_out_low_for_mode_0_and_high_for_the_rest(pit: Pit, mode: int) -> None:
    pit.program(0, 2 if mode == 0 else 0, 100)  # OUT is at the other level before
    pit.wait(5)
    pit.control(0, mode)
    assert pit.out(0) == (mode != 0)
    pit.wait(1000)
    assert pit.out(0) == (mode != 0)


def test_a_control_word_stops_the_counter(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.wait(100)
    pit.control(0, 2)
    before = pit.count(0)
    pit.wait(50)
    assert pit.count(0) == before


def test_a_control_word_clears_latched_count_and_status(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.wait(1)
    pit.read_back(0, count=True, status=True)
    pit.control(0, 2)
    pit.write_count(0, 500)
    pit.wait(1)
    assert pit.read_count(0) == 500


def test_a_control_word_resets_both_flip_flops(pit: Pit) -> None:
    pit.program(0, 2, 0x1234)
    pit.wait(1)
    pit.inb(0x40)
    pit.outb(0x40, 0x99)
    pit.program(0, 2, 0x5678)
    pit.wait(1)
    assert pit.count(0) == 0x5678


def test_a_control_word_cancels_a_count_not_yet_loaded(pit: Pit) -> None:
    pit.program(0, 0, 5)
    pit.control(0, 0)
    pit.wait(100)
    assert pit.status(0) >> 6 == 0b01  # OUT low, NULL COUNT


# --- mode 0: interrupt on terminal count -------------------------------------------


def test_mode_0_out_rises_n_plus_1_clocks_after_the_count_is_written(pit: Pit) -> None:
    written = pit.tick
    pit.program(0, 0, 10)
    assert pit.line() == 0
    assert pit.run_to_deadline() == written + 1  # the load
    assert pit.run_to_deadline() == written + 11
    assert pit.line() == 1


def test_mode_0_stays_high_after_the_terminal_count(pit: Pit) -> None:
    pit.program(0, 0, 3)
    assert pit.outs(0, 8) == [0, 0, 0, 0, 1, 1, 1, 1]
    pit.wait(10**9)
    assert pit.out(0) == 1


def test_mode_0_first_byte_stops_counting_and_drives_out_low_at_once(pit: Pit) -> None:
    pit.program(0, 0, 3)
    pit.wait(10)
    assert pit.line() == 1
    before = pit.count(0)
    pit.outb(0x40, 5)
    assert pit.line() == 0
    pit.wait(7)
    assert pit.count(0) == before
    pit.outb(0x40, 0)
    assert pit.outs(0, 8) == [0, 0, 0, 0, 0, 0, 1, 1]


def test_mode_0_a_new_one_byte_count_starts_over_on_the_next_clock(pit: Pit) -> None:
    pit.control(0, 0, LSB)
    pit.outb(0x40, 100)
    pit.wait(50)
    pit.outb(0x40, 3)
    assert pit.outs(0, 6) == [0, 0, 0, 0, 1, 1]


def test_mode_0_gate_low_suspends_counting_and_leaves_out(pit: Pit) -> None:
    pit.program(2, 0, 10)
    pit.wait(4)  # count 7
    pit.gate2(0)
    pit.wait(100)
    assert (pit.count(2), pit.out(2)) == (7, 0)
    pit.gate2(1)
    pit.wait(7)
    assert (pit.count(2), pit.out(2)) == (0, 1)


def test_mode_0_a_count_written_under_a_low_gate_is_loaded_and_out_rises_n_clocks_after_the_gate(
    pit: Pit,
) -> None:
    pit.gate2(0)
    pit.program(2, 0, 5)
    pit.wait(20)
    assert pit.status(2) >> 6 == 0b00  # loaded, OUT low
    pit.gate2(1)
    assert pit.outs(2, 7) == [0, 0, 0, 0, 0, 1, 1]


# --- mode 1: hardware retriggerable one-shot ---------------------------------------


def test_mode_1_waits_for_a_rising_gate(pit: Pit) -> None:
    pit.program(2, 1, 4)
    pit.wait(100)
    assert pit.out(2) == 1
    pit.gate2(0)
    pit.gate2(1)
    assert pit.outs(2, 7) == [1, 0, 0, 0, 0, 1, 1]


def test_mode_1_out_is_low_while_running(pit: Pit) -> None:
    pit.gate2(0)
    pit.program(2, 1, 3)
    pit.gate2(1)
    pit.wait(1)
    assert list(zip(pit.outs(2, 5), [3, 2, 1, 0, 0xFFFF], strict=True)) == [
        (0, 3), (0, 2), (0, 1), (1, 0), (1, 0xFFFF),
    ]  # fmt: skip


def test_mode_1_a_trigger_while_running_starts_the_pulse_anew(pit: Pit) -> None:
    pit.gate2(0)
    pit.program(2, 1, 4)
    pit.gate2(1)
    pit.wait(3)
    pit.gate2(0)
    pit.gate2(1)
    assert pit.outs(2, 6) == [0, 0, 0, 0, 0, 1]


def test_mode_1_gate_low_does_not_stop_the_pulse(pit: Pit) -> None:
    pit.gate2(0)
    pit.program(2, 1, 3)
    pit.gate2(1)
    pit.wait(2)
    pit.gate2(0)
    assert pit.outs(2, 3) == [0, 0, 1]


def test_mode_1_a_new_count_takes_effect_at_the_next_trigger(pit: Pit) -> None:
    pit.gate2(0)
    pit.program(2, 1, 3)
    pit.gate2(1)
    pit.wait(1)
    pit.write_count(2, 5)
    assert pit.outs(2, 5) == [0, 0, 0, 1, 1]
    pit.gate2(0)
    pit.gate2(1)
    assert pit.outs(2, 7) == [1, 0, 0, 0, 0, 0, 1]


def test_mode_1_a_gate_without_a_count_triggers_nothing(pit: Pit) -> None:
    pit.control(2, 1)
    pit.gate2(0)
    pit.gate2(1)
    pit.wait(100)
    assert pit.out(2) == 1


# --- mode 2: rate generator -----------------------------------------------------------


def test_mode_2_out_is_high_except_for_the_last_clock(pit: Pit) -> None:
    pit.program(0, 2, 4)
    pit.wait(1)
    seen = [(pit.out(0), pit.count(0)) for _ in range(9) if pit.wait(1) is None]
    assert seen == [(1, 3), (1, 2), (0, 1), (1, 4), (1, 3), (1, 2), (0, 1), (1, 4), (1, 3)]


def test_mode_2_a_new_count_takes_effect_at_the_end_of_the_period(pit: Pit) -> None:
    pit.program(0, 2, 5)
    pit.wait(1)
    pit.wait(1)
    pit.write_count(0, 3)
    assert pit.counts(0, 9) == [4, 3, 2, 1, 3, 2, 1, 3, 2]


def test_mode_2_of_two_new_counts_in_a_period_the_last_one_counts(pit: Pit) -> None:
    pit.program(0, 2, 5)
    pit.wait(2)
    pit.write_count(0, 3)
    pit.write_count(0, 4)
    assert pit.counts(0, 8) == [4, 3, 2, 1, 4, 3, 2, 1]


def test_mode_2_gate_low_stops_counting_and_forces_out_high_at_once(pit: Pit) -> None:
    pit.program(2, 2, 3)
    pit.wait(3)
    assert pit.out(2) == 0
    pit.gate2(0)
    assert pit.out(2) == 1
    before = pit.count(2)
    pit.wait(50)
    assert (pit.count(2), pit.out(2)) == (before, 1)


def test_mode_2_a_rising_gate_reloads_on_the_next_clock(pit: Pit) -> None:
    pit.program(2, 2, 10)
    pit.wait(5)
    pit.gate2(0)
    pit.wait(5)
    pit.gate2(1)
    pit.wait(1)
    assert pit.counts(2, 3) == [10, 9, 8]


def test_mode_2_a_count_written_under_a_low_gate_waits_for_the_gate(pit: Pit) -> None:
    pit.gate2(0)
    pit.program(2, 2, 5)
    pit.wait(20)
    assert (pit.out(2), pit.count(2)) == (1, 5)
    pit.gate2(1)
    pit.wait(1)
    assert pit.counts(2, 6) == [5, 4, 3, 2, 1, 5]


# --- mode 3: square wave ----------------------------------------------------------------


def test_mode_3_even_count_is_high_and_low_for_half_each(pit: Pit) -> None:
    pit.program(0, 3, 4)
    pit.wait(1)
    assert pit.outs(0, 8) == [1, 1, 0, 0, 1, 1, 0, 0]


def test_mode_3_odd_count_is_high_for_one_clock_more(pit: Pit) -> None:
    pit.program(0, 3, 5)
    pit.wait(1)
    assert pit.outs(0, 10) == [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]


def test_mode_3_counts_down_by_two(pit: Pit) -> None:
    pit.program(0, 3, 6)
    pit.wait(1)
    assert pit.counts(0, 7) == [6, 4, 2, 6, 4, 2, 6]


def test_mode_3_odd_count_is_loaded_less_one(pit: Pit) -> None:
    pit.program(0, 3, 5)
    pit.wait(1)
    assert pit.counts(0, 6) == [4, 2, 0, 4, 2, 4]


def test_mode_3_a_new_count_takes_effect_at_the_next_half_period(pit: Pit) -> None:
    pit.program(0, 3, 8)
    pit.wait(2)
    pit.write_count(0, 4)
    assert pit.outs(0, 10) == [1, 1, 1, 0, 0, 1, 1, 0, 0, 1]


def test_mode_3_a_new_count_in_the_low_half_takes_effect_at_the_rise(pit: Pit) -> None:
    pit.program(0, 3, 8)
    pit.wait(6)
    pit.write_count(0, 6)
    assert pit.outs(0, 10) == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1]


def test_mode_3_gate_low_forces_out_high_and_a_rising_gate_starts_high(pit: Pit) -> None:
    pit.program(2, 3, 6)
    pit.wait(5)
    assert pit.out(2) == 0
    pit.gate2(0)
    assert pit.outs(2, 3) == [1, 1, 1]
    pit.gate2(1)
    pit.wait(1)
    assert pit.outs(2, 7) == [1, 1, 1, 0, 0, 0, 1]


# --- modes 4 and 5: strobes ---------------------------------------------------------------


def test_mode_4_strobes_low_for_one_clock_n_plus_1_clocks_after_the_write(pit: Pit) -> None:
    pit.program(0, 4, 3)
    assert pit.outs(0, 8) == [1, 1, 1, 1, 0, 1, 1, 1]


def test_mode_4_strobes_once(pit: Pit) -> None:
    pit.program(0, 4, 3)
    rises = pit.device.get("rises", 0)
    pit.wait(200_000)
    pit.line()
    assert pit.device.get("rises", 0) - rises == 1


def test_mode_4_gate_low_suspends_counting(pit: Pit) -> None:
    pit.program(2, 4, 5)
    pit.wait(3)
    pit.gate2(0)
    pit.wait(50)
    assert pit.count(2) == 3
    pit.gate2(1)
    assert pit.outs(2, 5) == [1, 1, 1, 0, 1]


def test_mode_4_a_new_count_is_loaded_on_the_next_clock(pit: Pit) -> None:
    pit.program(0, 4, 50)
    pit.wait(10)
    pit.write_count(0, 2)
    assert pit.outs(0, 5) == [1, 1, 1, 0, 1]


def test_mode_5_starts_on_a_rising_gate_only_and_strobes_once(pit: Pit) -> None:
    pit.program(2, 5, 3)
    pit.wait(50)
    assert pit.out(2) == 1
    pit.gate2(0)
    pit.gate2(1)
    assert pit.outs(2, 7) == [1, 1, 1, 1, 0, 1, 1]


def test_mode_5_a_trigger_while_running_starts_anew(pit: Pit) -> None:
    pit.gate2(0)
    pit.program(2, 5, 4)
    pit.gate2(1)
    pit.wait(3)
    pit.gate2(0)
    pit.gate2(1)
    assert pit.outs(2, 7) == [1, 1, 1, 1, 1, 0, 1]


# --- the interrupt line -----------------------------------------------------------------


def test_irq0_follows_out_of_channel_0_edge_by_edge(pit: Pit) -> None:
    start = pit.tick
    pit.program(0, 2, 4)
    edges = []
    for _ in range(6):
        before = pit.device.lines
        tick = pit.run_to_deadline()
        if pit.device.lines != before:
            edges.append((tick - start, pit.device.lines))
    assert edges == [(4, 0), (5, 1), (8, 0), (9, 1), (12, 0)]


def test_rises_count_every_period_however_late_the_host_settles(pit: Pit) -> None:
    pit.program(0, 2, 4)
    pit.wait(1)
    pit.line()
    before = pit.device.get("rises", 0)
    pit.wait(4 * 1_000_000)
    pit.line()
    assert pit.device.get("rises", 0) - before == 1_000_000


def test_channels_1_and_2_set_no_deadline_once_loaded(pit: Pit) -> None:
    pit.control(0, 0)
    for channel in (1, 2):
        pit.program(channel, 2, 100)
    pit.run_to_deadline()
    assert pit.device.deadline == 2**64 - 1


# --- ports -------------------------------------------------------------------------------


def test_reading_the_control_port_has_no_effect_and_finds_the_bus_floating(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.wait(1)
    pit.latch(0)
    before = pit.device.state
    assert pit.inb(0x43) == 0xFF
    assert pit.device.state == before


def test_a_word_access_is_split_low_address_first(pit: Pit) -> None:
    pit.control(0, 2, LSB)
    pit.control(1, 2, LSB)
    pit.device.write("pit", pit.now, 0, 2, 0x3412)  # port 0x40 gets 0x12, 0x41 gets 0x34
    pit.wait(1)
    assert pit.device.read("pit", pit.now, 0, 2) == 0x3412


def test_a_dword_access_reaches_all_four_ports(pit: Pit) -> None:
    for channel in range(3):
        pit.control(channel, 2, LSB)
    pit.device.write("pit", pit.now, 0, 4, 0x00_30_20_10)  # the control word 0: latch channel 0
    pit.wait(1)
    assert pit.device.read("pit", pit.now, 0, 4) & 0xFFFF00 == 0x302000


def test_port_61_bit_0_is_the_gate_of_channel_2(pit: Pit) -> None:
    pit.program(2, 0, 100)
    pit.wait(10)
    pit.outb(0x61, 0)
    before = pit.count(2)
    pit.wait(10)
    assert pit.count(2) == before
    assert pit.inb(0x61) & 1 == 0


def test_port_61_bits_0_to_3_read_back_as_written(pit: Pit) -> None:
    for value in range(16):
        pit.outb(0x61, value)
        assert pit.inb(0x61) & 0xF == value


def test_port_61_bits_4_to_7_are_read_only(pit: Pit) -> None:
    pit.program(2, 0, 0)
    before = pit.inb(0x61)
    pit.outb(0x61, 0xF0 | before & 0xF)
    assert pit.inb(0x61) == before
    assert before >> 6 == 0


def test_port_61_bit_5_is_out_2(pit: Pit) -> None:
    pit.program(2, 3, 4)
    pit.wait(1)
    seen = []
    for _ in range(6):
        seen.append(pit.inb(0x61) >> 5 & 1)
        pit.wait(1)
    assert seen == [1, 1, 0, 0, 1, 1]


def test_port_61_bit_4_toggles_every_18_clocks_which_is_15085_ns(pit: Pit) -> None:
    levels = []
    for _ in range(18 * 20):
        levels.append(pit.inb(0x61) >> 4 & 1)
        pit.wait(1)
    edges = [i for i in range(1, len(levels)) if levels[i] != levels[i - 1]]
    assert {b - a for a, b in pairwise(edges)} == {18}
    assert round(18 * 1e9 / 1_193_182) == 15_086


def test_port_61_is_not_toggled_by_being_read(pit: Pit) -> None:
    assert len({pit.inb(0x61) for _ in range(10)}) == 1


# --- time ------------------------------------------------------------------------------


def test_a_year_is_settled_in_one_go(pit: Pit) -> None:
    pit.program(0, 2, 1193)
    pit.wait(1)
    pit.line()
    start, ticks = pit.device.get("rises", 0), pit.tick
    pit.now += 365 * 86_400 * 10**9
    pit.line()
    assert (pit.device.get("rises", 0) - start) % 2**32 == (pit.tick - ticks) // 1193 % 2**32


def test_stopping_and_starting_loses_no_tick(pit: Pit) -> None:
    pit.program(2, 0, 60_000)
    pit.wait(1)
    for _ in range(1000):
        pit.gate2(1)
        pit.wait(7)
        pit.gate2(0)
        pit.wait(3)
    assert pit.count(2) == 60_000 - 7 * 1000
