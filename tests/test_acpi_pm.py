"""The ACPI power-management timer by ACPI 6.5, 4.8.3; every test runs on both engines."""

from __future__ import annotations

import pytest

from .rig import PmTimer


@pytest.fixture
def pm(engine: str) -> PmTimer:
    return PmTimer(engine)


def test_the_timer_counts_3579545_times_a_second(pm: PmTimer) -> None:
    pm.now = 10**9
    assert pm.timer == 3_579_545


@pytest.mark.parametrize(
    "ns", [0, 1, 279, 280, 999_999_999, 10**9, 184 * 10**9, 10**15 + 1, 2**63, 2**64 - 1]
)
def test_no_tick_is_truncated_however_long_it_runs(pm: PmTimer, ns: int) -> None:
    pm.now = ns
    assert pm.timer == ns * 3_579_545 // 10**9 % 2**24


def test_24_bits_by_default_and_32_by_parameter(engine: str) -> None:
    for wide, bits in ((False, 24), (True, 32)):
        pm = PmTimer(engine, wide)
        pm.at(2**bits - 1)
        assert pm.timer == 2**bits - 1
        pm.wait(1)
        assert pm.timer == 0


def test_byte_and_word_reads_return_the_right_part(pm: PmTimer) -> None:
    pm.at(0x123456)
    assert [pm.read(8 + i, 1) for i in range(4)] == [0x56, 0x34, 0x12, 0x00]
    assert [pm.read(8 + i, 2) for i in range(3)] == [0x3456, 0x1234, 0x0012]


def test_an_unaligned_word_read_returns_the_right_part(pm: PmTimer) -> None:
    pm.at(0xABCDEF)
    assert pm.read(9, 2) == 0xABCD


@pytest.mark.parametrize(("wide", "top"), [(False, 23), (True, 31)])
def test_tmr_sts_is_set_when_the_top_bit_toggles_both_ways(engine: str, wide: bool, top: int) -> None:
    pm = PmTimer(engine, wide)
    for toggle in (1, 2, 3):
        pm.at(toggle * 2**top - 1)
        assert pm.status == 0
        pm.wait(1)
        assert pm.status == 1
        pm.write(0, 2, 1)


def test_tmr_sts_is_not_set_at_reset(pm: PmTimer) -> None:
    assert pm.status == 0


def test_writing_1_clears_tmr_sts_and_writing_0_does_not(pm: PmTimer) -> None:
    pm.at(2**23)
    pm.write(0, 2, 0)
    assert pm.status == 1
    pm.write(0, 2, 0xFFFE)
    assert pm.status == 1
    pm.write(0, 2, 1)
    assert pm.status == 0


def test_tmr_sts_is_rearmed_at_the_next_toggle_only(pm: PmTimer) -> None:
    pm.at(2**23)
    pm.write(0, 2, 1)
    pm.at(2**24 - 1)
    assert pm.status == 0
    pm.wait(1)
    assert pm.status == 1


def test_the_sci_is_raised_when_tmr_en_is_set(pm: PmTimer) -> None:
    pm.write(2, 2, 1)
    assert pm.run_to_deadline() == 2**23
    assert pm.line() == 1


def test_without_tmr_en_the_status_is_set_and_the_sci_is_not(pm: PmTimer) -> None:
    pm.at(2**23)
    assert (pm.status, pm.line()) == (1, 0)


def test_enabling_with_the_status_pending_raises_the_sci_at_once(pm: PmTimer) -> None:
    pm.at(2**23 + 5)
    pm.write(2, 2, 1)
    assert pm.line() == 1


def test_clearing_the_status_lowers_the_sci(pm: PmTimer) -> None:
    pm.write(2, 2, 1)
    pm.at(2**23)
    assert pm.line() == 1
    pm.write(0, 2, 1)
    assert pm.line() == 0


def test_disabling_lowers_the_sci_and_keeps_the_status(pm: PmTimer) -> None:
    pm.write(2, 2, 1)
    pm.at(2**23)
    pm.write(2, 2, 0)
    assert (pm.line(), pm.status) == (0, 1)


def test_byte_writes_reach_status_and_enable(pm: PmTimer) -> None:
    pm.at(2**23)
    pm.write(1, 1, 0xFF)
    assert pm.status == 1
    pm.write(0, 1, 1)
    pm.write(2, 1, 1)
    assert (pm.status, pm.read(2, 2)) == (0, 1)


def test_a_dword_access_covers_status_and_enable(pm: PmTimer) -> None:
    pm.at(2**23)
    assert pm.read(0, 4) == 0x0000_0001
    pm.write(0, 4, 0x0001_0001)
    assert pm.read(0, 4) == 0x0001_0000


def test_the_timer_ignores_writes(pm: PmTimer) -> None:
    pm.at(1000)
    pm.write(8, 4, 0xFFFFFFFF)
    assert pm.timer == 1000


def test_reserved_bits_read_0_and_ignore_writes(pm: PmTimer) -> None:
    pm.write(2, 2, 0xFFFF)
    assert pm.read(2, 2) == 1


def test_the_deadline_is_the_next_toggle_never_early(pm: PmTimer) -> None:
    pm.write(2, 2, 1)
    deadline = pm.device.deadline
    assert deadline == -(-(2**23) * 10**9 // 3_579_545)
    pm.now = deadline - 1
    assert pm.timer == 2**23 - 1
    pm.now = deadline
    assert pm.timer == 2**23


def test_a_masked_toggle_wakes_nobody_and_is_seen_all_the_same(pm: PmTimer) -> None:
    assert pm.device.deadline == 2**64 - 1
    pm.at(2**23)
    assert pm.status == 1


def test_a_hundred_years_are_settled_in_one_go(pm: PmTimer) -> None:
    pm.now = 100 * 365 * 86_400 * 10**9
    assert (pm.status, pm.timer) == (1, pm.now * 3_579_545 // 10**9 % 2**24)
