"""ioapic.dev against the 82093AA data sheet (290566), by its sections, on both engines."""

from __future__ import annotations

import pytest

from .rig_interrupts import (
    EOI_REGISTER,
    EXTINT,
    FIXED,
    INIT,
    LEVEL,
    LOGICAL,
    LOW,
    LOWEST,
    MASK,
    NMI,
    REMOTE,
    SELECT,
    SMI,
    WINDOW,
    IoApic,
)

ADDRESS, ASSERT = 0xFEE0_0000, 0x4000


@pytest.fixture
def chip(engine: str) -> IoApic:
    return IoApic(engine)


# --- registers -------------------------------------------------------------------------


def test_the_select_register_keeps_eight_bits(chip: IoApic) -> None:
    chip.write(SELECT, 0x1234_5678)
    assert chip.read(SELECT) == 0x78


def test_the_id_has_four_bits_and_the_arbitration_id_is_loaded_with_it(chip: IoApic) -> None:
    chip[0] = 0xFFFF_FFFF
    assert chip[0] == 0x0F00_0000
    assert chip[2] == 0x0F00_0000
    chip[2] = 0
    assert chip[2] == 0x0F00_0000


@pytest.mark.parametrize("revision", [0x11, 0x20])
def test_the_version_register_has_the_version_and_the_last_entry(engine: str, revision: int) -> None:
    chip = IoApic(engine, revision=revision)
    chip[1] = 0
    assert chip[1] == 0x0017_0000 | revision


def test_the_id_at_reset_is_a_parameter(engine: str) -> None:
    chip = IoApic(engine, number=9)
    assert chip[0] == chip[2] == 0x0900_0000


def test_every_entry_is_masked_at_reset_and_nothing_else(chip: IoApic) -> None:
    assert [chip.entry(pin) for pin in range(24)] == [MASK] * 24


def test_an_entry_keeps_its_fields_and_no_reserved_or_read_only_bit(chip: IoApic) -> None:
    chip.write(SELECT, 0x10 + 2 * 23)
    chip.write(WINDOW, 0xFFFF_FFFF)
    chip.write(SELECT, 0x11 + 2 * 23)
    chip.write(WINDOW, 0xFFFF_FFFF)
    assert chip.entry(23) == 0xFF00_0000_0001_AFFF
    assert chip.entry(22) == MASK


def test_each_half_of_an_entry_is_written_by_itself(chip: IoApic) -> None:
    chip[0x15] = 0x7F00_0000
    chip[0x14] = MASK | 0x41
    chip[0x15] = 0x0100_0000
    assert chip.entry(2) == 0x0100_0000_0001_0041


@pytest.mark.parametrize("index", [3, 0x0F, 0x40, 0xFF])
def test_what_is_at_no_index_reads_0_and_takes_nothing(chip: IoApic, index: int) -> None:
    chip[index] = 0xFFFF_FFFF
    assert chip[index] == 0
    assert chip[0] == 0
    assert [chip.entry(pin) for pin in range(24)] == [MASK] * 24


@pytest.mark.parametrize("width", [1, 2, 8])
def test_registers_are_accessed_by_32_bits(chip: IoApic, width: int) -> None:
    chip.write(SELECT, 1)
    assert chip.read(WINDOW, width) == 0
    chip.write(SELECT, 0, width)
    assert chip.read(SELECT) == 1


# --- messages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "address", "data"),
    [
        (FIXED | 0x31, 0xFEE2_A000, 0x31),
        (FIXED | LOGICAL | 0x31, 0xFEE2_A004, 0x31),
        (LOWEST | 0x31, 0xFEE2_A008, 0x131),
        (LOWEST | LOGICAL | 0x31, 0xFEE2_A00C, 0x131),
        (SMI, 0xFEE2_A000, 0x200),
        (NMI | 0x31, 0xFEE2_A000, 0x431),
        (INIT, 0xFEE2_A000, 0x500),
        (EXTINT | 0x31, 0xFEE2_A000, 0x731),
        (LEVEL | 0x31, 0xFEE2_A000, 0x8031),
    ],
)
def test_a_message_has_the_entrys_destination_mode_vector_and_trigger(
    chip: IoApic, low: int, address: int, data: int
) -> None:
    chip.route(7, low, 0x2A)
    chip.high(7)
    assert chip.take() == [(7, address, ASSERT | data)]


def test_every_pin_has_its_own_entry(chip: IoApic) -> None:
    for pin in range(24):
        chip.route(pin, 0x40 + pin, pin)
    chip.set(0xFF_FFFF)
    assert chip.take() == [(pin, ADDRESS | pin << 12, ASSERT | 0x40 + pin) for pin in range(24)]


# --- edges ------------------------------------------------------------------------------------


def test_an_edge_is_sent_once(chip: IoApic) -> None:
    chip.route(4, 0x31)
    chip.high(4)
    chip.eoi(0x31)
    assert len(chip.take()) == 1
    assert not chip.entry(4) & REMOTE
    chip.low(4)
    chip.high(4)
    assert len(chip.take()) == 1


def test_edges_need_no_eoi_between_them(chip: IoApic) -> None:
    chip.route(4, 0x31)
    for _ in range(3):
        chip.high(4)
        chip.low(4)
    assert len(chip.take()) == 3


def test_an_edge_while_masked_is_lost(chip: IoApic) -> None:
    chip.route(4, MASK | 0x31)
    chip.high(4)
    chip.route(4, 0x31)
    assert chip.take() == []
    chip.low(4)
    chip.high(4)
    assert len(chip.take()) == 1


@pytest.mark.parametrize("mode", [SMI, NMI, INIT, EXTINT])
def test_what_is_neither_fixed_nor_lowest_priority_is_an_edge_whatever_the_trigger_bit(
    chip: IoApic, mode: int
) -> None:
    chip.route(4, mode | LEVEL)
    chip.high(4)
    ((_, _, data),) = chip.take()
    assert not data & LEVEL
    assert not chip.entry(4) & REMOTE
    chip.low(4)
    chip.high(4)
    assert len(chip.take()) == 1


def test_an_active_low_input_has_its_edge_where_it_falls(chip: IoApic) -> None:
    chip.high(4)
    chip.route(4, LOW | 0x31)
    assert chip.take() == []
    chip.low(4)
    assert len(chip.take()) == 1


def test_without_polarity_an_input_asks_while_it_is_high(engine: str) -> None:
    chip = IoApic(engine, polarity=0)
    chip.route(4, LOW | 0x31)
    chip.route(9, LOW | LEVEL | 0x52)
    assert chip.take() == []
    chip.high(4, 9)
    assert [pin for pin, _, _ in chip.take()] == [4, 9]
    assert chip.entry(4) & LOW


# --- levels ------------------------------------------------------------------------------------


def test_a_level_sets_the_remote_irr_and_is_not_sent_again_before_the_eoi(chip: IoApic) -> None:
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    assert len(chip.take()) == 1
    assert chip.entry(9) & REMOTE
    chip.low(9)
    chip.high(9)
    assert chip.take() == []


def test_an_eoi_clears_the_remote_irr_of_its_vector_alone(chip: IoApic) -> None:
    chip.route(9, LEVEL | 0x52)
    chip.route(10, LEVEL | 0x53)
    chip.high(9, 10)
    chip.low(9, 10)
    chip.eoi(0x52)
    assert not chip.entry(9) & REMOTE
    assert chip.entry(10) & REMOTE


def test_a_level_that_still_asks_at_the_eoi_is_sent_again(chip: IoApic) -> None:
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    chip.take()
    chip.eoi(0x52)
    assert len(chip.take()) == 1
    assert chip.entry(9) & REMOTE


def test_an_eoi_ends_every_entry_with_that_vector(chip: IoApic) -> None:
    chip.route(9, LEVEL | 0x52)
    chip.route(20, LEVEL | 0x52)
    chip.high(9, 20)
    chip.take()
    chip.low(9)
    chip.eoi(0x52)
    assert [pin for pin, _, _ in chip.take()] == [20]
    assert not chip.entry(9) & REMOTE


def test_a_level_that_is_masked_waits_for_the_unmasking(chip: IoApic) -> None:
    chip.route(9, MASK | LEVEL | 0x52)
    chip.high(9)
    assert chip.take() == []
    assert not chip.entry(9) & REMOTE
    chip.route(9, LEVEL | 0x52)
    assert len(chip.take()) == 1


def test_a_level_masked_while_in_service_is_not_sent_again_by_its_eoi(chip: IoApic) -> None:
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    chip[0x22] = MASK | LEVEL | 0x52
    chip.take()
    assert chip.entry(9) & REMOTE  # masking does not end it
    chip.eoi(0x52)
    assert chip.take() == []
    assert not chip.entry(9) & REMOTE


def test_the_remote_irr_cannot_be_written(chip: IoApic) -> None:
    chip.route(9, MASK | LEVEL | REMOTE | 0x52)
    assert not chip.entry(9) & REMOTE
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    chip[0x22] = LEVEL | 0x52
    assert chip.entry(9) & REMOTE
    assert len(chip.take()) == 1


def test_an_entry_made_an_edge_loses_its_remote_irr(chip: IoApic) -> None:
    """How software ends an interrupt on a chip without the EOI register."""
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    chip.low(9)
    chip[0x22] = MASK | 0x52
    chip[0x22] = LEVEL | 0x52
    assert not chip.entry(9) & REMOTE
    chip.take()
    chip.high(9)
    assert len(chip.take()) == 1


def test_an_active_low_level_asks_while_its_input_is_low(chip: IoApic) -> None:
    chip.route(9, LEVEL | LOW | 0x52)
    assert len(chip.take()) == 1
    chip.high(9)
    chip.eoi(0x52)
    assert chip.take() == []
    chip.low(9)
    assert len(chip.take()) == 1


def test_the_vector_at_the_eoi_is_the_one_that_the_entry_has_then(chip: IoApic) -> None:
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    chip.low(9)
    chip[0x22] = LEVEL | 0x60
    chip.eoi(0x52)
    assert chip.entry(9) & REMOTE
    chip.eoi(0x60)
    assert not chip.entry(9) & REMOTE


# --- the EOI register ------------------------------------------------------------------------------


@pytest.mark.parametrize(("revision", "ended"), [(0x11, False), (0x20, True), (0x21, True)])
def test_the_eoi_register_is_there_from_version_0x20(engine: str, revision: int, ended: bool) -> None:
    chip = IoApic(engine, revision=revision)
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    chip.low(9)
    chip.write(EOI_REGISTER, 0xABCD_EF52)
    assert bool(chip.entry(9) & REMOTE) is not ended
    assert chip.read(EOI_REGISTER) == 0


# --- what the machine sees ----------------------------------------------------------------------------


def test_a_written_entry_pulses_the_line_that_tells_of_routes(chip: IoApic) -> None:
    before = chip.device.rises[0]
    chip[0x22] = 0x52
    chip[0x23] = 0
    chip[0] = 0
    assert chip.device.rises[0] == before + 2


def test_the_last_message_and_what_is_in_service_survive_a_save(chip: IoApic, engine: str) -> None:
    chip.route(9, LEVEL | 0x52, 3)
    chip.high(9)
    other = IoApic(engine)
    other.now = chip.now
    other.device.restore(other.now, chip.device.save(chip.now))
    other._rises = other.device.rises
    assert other.entry(9) == chip.entry(9)
    other.eoi(0x52)
    assert other.take() == [(9, ADDRESS | 3 << 12, ASSERT | LEVEL | 0x52)]


def test_no_deadline_is_ever_set(chip: IoApic) -> None:
    chip.route(9, LEVEL | 0x52)
    chip.high(9)
    assert chip.device.deadline == 2**64 - 1
