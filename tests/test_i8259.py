"""i8259.dev against the 8259A data sheet (231468-003), by its sections, on both engines."""

from __future__ import annotations

import pytest

from .rig_interrupts import (
    ADI,
    AEOI,
    BASE,
    ELCR,
    EOI,
    ESMM,
    IC4,
    ICW1,
    LTIM,
    MASTER,
    OCW3,
    POLL,
    RIS,
    ROTATE,
    RR,
    SFNM,
    SLAVE,
    SLAVE_BASE,
    SLAVE_SPURIOUS,
    SMM,
    SNGL,
    SPECIFIC,
    SPURIOUS,
    X86,
    Pic,
)


@pytest.fixture
def pic(engine: str) -> Pic:
    return Pic(engine).pc()


# --- initialization sequence ----------------------------------------------------------


def test_a_chip_that_was_never_initialized_asks_for_nothing(engine: str) -> None:
    pic = Pic(engine)
    pic.high(1)
    assert not pic.int


def test_nothing_is_requested_until_the_sequence_is_over(engine: str) -> None:
    pic = Pic(engine)
    pic.outb(MASTER, ICW1 | LTIM | IC4)
    pic.high(1)
    for value in (BASE, 0x04):
        pic.outb(MASTER + 1, value)
        assert not pic.int
    pic.outb(MASTER + 1, X86)
    assert pic.int
    assert pic.inta() == BASE + 1


@pytest.mark.parametrize("icw1", [0, IC4, SNGL, SNGL | IC4])
def test_the_sequence_has_icw3_unless_single_and_icw4_if_it_is_asked_for(engine: str, icw1: int) -> None:
    pic = Pic(engine)
    pic.program(MASTER, BASE, 0x04, icw1)
    pic.outb(MASTER + 1, 0x5A)
    assert pic.inb(MASTER + 1) == 0x5A  # an OCW1: the sequence is over


def test_icw2_gives_the_five_high_bits_of_the_vector(engine: str) -> None:
    pic = Pic(engine)
    pic.program(MASTER, 0xFF, 0x04)
    pic.high(3)
    assert pic.inta() == 0xFB


def test_icw1_clears_imr_isr_and_edges_restores_the_priorities_and_shows_irr(pic: Pic) -> None:
    pic.outb(MASTER, ROTATE | SPECIFIC | 3)  # 3 is the lowest
    pic.outb(MASTER, OCW3 | ESMM | SMM | RR | RIS)
    pic.high(4, 5)
    pic.inta()
    pic.outb(MASTER + 1, 0xFF)
    pic.program(MASTER, BASE, 0x04)
    assert pic.inb(MASTER + 1) == 0
    assert pic.inb(MASTER) == 0
    assert pic.isr() == 0
    assert not pic.int
    pic.low(4, 5)
    pic.high(0, 4)
    assert pic.inta() == BASE  # 0 before 4 again
    pic.outb(MASTER + 1, 1)
    assert not pic.int  # 0 in service, though masked, holds 4 back: no special mask mode


def test_icw1_without_icw4_sets_all_of_its_functions_to_zero(engine: str) -> None:
    pic = Pic(engine).pc(icw4=X86 | AEOI)
    pic.program(MASTER, BASE, 0x04, 0)
    pic.high(1)
    assert pic.inta() & 0xFF == 0xCD  # a CALL: MCS-80/85
    assert pic.isr() == 0x02  # and no automatic end


def test_a_level_input_that_is_high_through_icw1_still_asks(engine: str) -> None:
    pic = Pic(engine)
    pic.outb(ELCR, 0x20)
    pic.high(5)
    pic.pc()
    assert pic.int
    assert pic.inta() == BASE + 5


def test_icw1_in_the_middle_of_a_sequence_begins_another(engine: str) -> None:
    pic = Pic(engine)
    pic.outb(MASTER, ICW1 | IC4)
    pic.outb(MASTER + 1, 0x40)
    pic.program(MASTER, BASE, 0x04)
    pic.high(0)
    assert pic.inta() == BASE


# --- MCS-80/85 ------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 3, 6])
@pytest.mark.parametrize(("interval", "shift", "kept"), [(ADI, 2, 0xE0), (0, 3, 0xC0)])
def test_a_call_has_the_address_of_icw1_and_icw2_and_the_level_every_4_or_8_bytes(
    engine: str, level: int, interval: int, shift: int, kept: int
) -> None:
    pic = Pic(engine)
    pic.program(MASTER, 0x12, 0x04, 0xE0 | interval)
    pic.high(level)
    assert pic.inta() == 0x12 << 16 | (0xE0 & kept | level << shift) << 8 | 0xCD


# --- fully nested mode ------------------------------------------------------------------


def test_the_lowest_number_has_the_highest_priority(pic: Pic) -> None:
    pic.high(7, 1, 4)
    assert pic.inta() == BASE + 1
    assert pic.isr() == 0x02
    assert pic.irr() == 0x90


def test_only_a_higher_level_interrupts_one_in_service(pic: Pic) -> None:
    pic.high(3)
    assert pic.inta() == BASE + 3
    pic.high(4)
    assert not pic.int
    pic.high(1)
    assert pic.int
    assert pic.inta() == BASE + 1
    assert pic.isr() == 0x0A


def test_an_eoi_lets_the_next_one_through(pic: Pic) -> None:
    pic.high(3, 4)
    pic.inta()
    assert not pic.int
    pic.outb(MASTER, EOI)
    assert pic.int
    assert pic.inta() == BASE + 4


def test_a_masked_level_asks_when_it_is_unmasked(pic: Pic) -> None:
    pic.outb(MASTER + 1, 0x02)
    pic.high(1)
    assert not pic.int
    assert pic.irr() == 0x02
    pic.outb(MASTER + 1, 0)
    assert pic.int


def test_a_mask_does_not_touch_what_is_of_lower_priority(pic: Pic) -> None:
    pic.outb(MASTER + 1, 0x01)
    pic.high(0, 6)
    assert pic.inta() == BASE + 6


# --- edge and level triggered modes ------------------------------------------------------


def test_an_edge_is_one_request(pic: Pic) -> None:
    pic.high(1)
    pic.inta()
    pic.outb(MASTER, EOI)
    assert not pic.int
    assert pic.irr() == 0
    pic.low(1)
    pic.high(1)
    assert pic.int


def test_an_edge_that_is_gone_before_the_acknowledge_gives_a_spurious_ir7(pic: Pic) -> None:
    pic.high(1)
    assert pic.int
    pic.low(1)
    assert not pic.int
    assert pic.irr() == 0
    assert pic.inta() == SPURIOUS
    assert pic.isr() == 0  # "the IS bit is not set"


def test_a_real_ir7_sets_its_in_service_bit_and_a_spurious_one_does_not(pic: Pic) -> None:
    pic.high(7)
    assert pic.inta() == SPURIOUS
    assert pic.isr() == 0x80


def test_a_spurious_acknowledge_while_something_is_in_service_leaves_it_so(pic: Pic) -> None:
    pic.high(3)
    pic.inta()
    assert pic.inta() == SPURIOUS
    assert pic.isr() == 0x08
    assert pic.served == 0x08


@pytest.mark.parametrize("how", ["elcr", "ltim"])
def test_a_level_asks_again_after_the_eoi_and_follows_its_input(engine: str, how: str) -> None:
    pic = Pic(engine).pc(icw1=IC4 | (LTIM if how == "ltim" else 0))
    if how == "elcr":
        pic.outb(ELCR, 0x20)
    pic.high(5)
    assert pic.inta() == BASE + 5
    assert pic.irr() & 0x20
    assert not pic.int
    pic.outb(MASTER, EOI)
    assert pic.int
    pic.low(5)
    assert not pic.int
    assert pic.irr() == 0


def test_elcr_has_no_bits_for_the_timer_the_keyboard_the_cascade_the_clock_and_the_fpu(pic: Pic) -> None:
    pic.outb(ELCR, 0xFF)
    pic.outb(ELCR + 1, 0xFF)
    assert (pic.inb(ELCR), pic.inb(ELCR + 1)) == (0xF8, 0xDE)


def test_elcr_is_not_reset_by_icw1(pic: Pic) -> None:
    pic.outb(ELCR + 1, 0x0E)
    pic.pc()
    assert pic.inb(ELCR + 1) == 0x0E


def test_an_input_made_an_edge_while_high_does_not_ask_again(pic: Pic) -> None:
    pic.outb(ELCR, 0x20)
    pic.high(5)
    pic.inta()
    pic.outb(ELCR, 0)
    pic.outb(MASTER, EOI)
    assert not pic.int


def test_held_edges_outlive_their_input(engine: str) -> None:
    pic = Pic(engine, held=1).pc()
    pic.pulse(1)
    assert pic.int
    assert pic.irr() == 0x02
    assert pic.inta() == BASE + 1


# --- end of interrupt ---------------------------------------------------------------------


def test_a_non_specific_eoi_ends_the_highest_in_service(pic: Pic) -> None:
    for pin in (6, 4, 1):
        pic.high(pin)
        pic.inta()
    for left in (0x50, 0x40, 0x00, 0x00):
        pic.outb(MASTER, EOI)
        assert pic.isr() == left


def test_a_specific_eoi_ends_just_that_level(pic: Pic) -> None:
    for pin in (6, 4, 1):
        pic.high(pin)
        pic.inta()
    pic.outb(MASTER, EOI | SPECIFIC | 4)
    assert pic.isr() == 0x42


def test_automatic_eoi_leaves_nothing_in_service(engine: str) -> None:
    pic = Pic(engine).pc(icw4=X86 | AEOI)
    pic.high(4)
    assert pic.inta() == BASE + 4
    assert pic.isr() == 0
    pic.high(6)
    assert pic.int


def test_ocw2_with_no_command_does_nothing(pic: Pic) -> None:
    pic.high(3)
    pic.inta()
    pic.outb(MASTER, SPECIFIC | 3)
    pic.low(3)
    pic.high(0, 3)
    assert pic.isr() == 0x08
    assert pic.inta() == BASE


# --- rotation -------------------------------------------------------------------------------


def test_rotation_on_a_non_specific_eoi_makes_the_served_level_the_lowest(pic: Pic) -> None:
    pic.high(4)
    pic.inta()
    pic.outb(MASTER, EOI | ROTATE)
    pic.low(4)
    pic.high(3, 4, 5)
    order = []
    for _ in range(3):
        order.append(pic.inta() - BASE)
        pic.outb(MASTER, EOI)
    assert order == [5, 3, 4]


def test_rotation_on_a_specific_eoi_makes_that_level_the_lowest(pic: Pic) -> None:
    for pin in (6, 3):
        pic.high(pin)
        pic.inta()
    pic.outb(MASTER, EOI | SPECIFIC | ROTATE | 6)
    assert pic.isr() == 0x08
    pic.high(7)
    assert pic.int  # 7 comes first now, before 3


def test_set_priority_ends_nothing(pic: Pic) -> None:
    pic.high(1)
    pic.inta()
    pic.outb(MASTER, SPECIFIC | ROTATE | 0)
    assert pic.isr() == 0x02
    pic.high(0)
    assert not pic.int  # 0 is the lowest now


def test_a_non_specific_eoi_follows_the_rotated_order(pic: Pic) -> None:
    for pin in (5, 1):
        pic.high(pin)
        pic.inta()
    pic.outb(MASTER, SPECIFIC | ROTATE | 3)  # 4 is the highest
    pic.outb(MASTER, EOI)
    assert pic.isr() == 0x02


def test_rotation_in_automatic_eoi_mode_is_switched_on_and_off(engine: str) -> None:
    pic = Pic(engine).pc(icw4=X86 | AEOI)
    pic.outb(MASTER, ROTATE)
    pic.high(0, 1)
    assert [pic.inta(), pic.inta()] == [BASE, BASE + 1]
    pic.low(0, 1)
    pic.outb(MASTER, 0)
    pic.high(0, 1)
    assert [pic.inta(), pic.inta()] == [BASE, BASE + 1]  # 2 is the highest, 0 before 1
    pic.low(0, 1)
    pic.high(1, 3)
    assert pic.inta() == BASE + 3


def test_rotation_without_anything_in_service_does_not_rotate(pic: Pic) -> None:
    pic.outb(MASTER, EOI | ROTATE)
    pic.high(0, 1)
    assert pic.inta() == BASE


# --- special mask mode --------------------------------------------------------------------------


def test_in_special_mask_mode_a_masked_service_holds_nothing_back(pic: Pic) -> None:
    pic.high(1)
    pic.inta()
    pic.high(4)
    pic.outb(MASTER + 1, 0x02)
    assert not pic.int
    pic.outb(MASTER, OCW3 | ESMM | SMM)
    assert pic.int
    assert pic.inta() == BASE + 4
    assert pic.isr() == 0x12


def test_in_special_mask_mode_a_non_specific_eoi_does_not_end_a_masked_level(pic: Pic) -> None:
    pic.high(1)
    pic.inta()
    pic.outb(MASTER + 1, 0x02)
    pic.outb(MASTER, OCW3 | ESMM | SMM)
    pic.outb(MASTER, EOI)
    assert pic.isr() == 0x02
    pic.outb(MASTER, EOI | SPECIFIC | 1)
    assert pic.isr() == 0


def test_special_mask_mode_changes_only_with_esmm(pic: Pic) -> None:
    pic.high(1)
    pic.inta()
    pic.high(4)
    pic.outb(MASTER + 1, 0x02)
    pic.outb(MASTER, OCW3 | SMM)
    assert not pic.int
    pic.outb(MASTER, OCW3 | ESMM | SMM)
    pic.outb(MASTER, OCW3)
    assert pic.int
    pic.outb(MASTER, OCW3 | ESMM)
    assert not pic.int


# --- poll command and reading status --------------------------------------------------------------


def test_a_poll_acknowledges_and_tells_the_level(pic: Pic) -> None:
    pic.high(5, 6)
    assert pic.poll() == 0x85
    assert pic.isr() == 0x20
    assert not pic.int
    assert pic.inb(MASTER) == 0x20  # only the one read was a poll


def test_a_poll_that_finds_nothing_says_so_and_serves_nothing(pic: Pic) -> None:
    assert pic.poll() == 0x07
    assert pic.isr() == 0


def test_a_poll_may_be_read_from_either_port(pic: Pic) -> None:
    pic.high(5)
    pic.outb(MASTER, OCW3 | POLL)
    assert pic.inb(MASTER + 1) == 0x85
    assert pic.inb(MASTER + 1) == 0


def test_requests_are_frozen_between_the_poll_command_and_its_read(pic: Pic) -> None:
    pic.high(5)
    pic.outb(MASTER, OCW3 | POLL)
    pic.high(1)
    assert pic.inb(MASTER) == 0x85
    assert pic.int
    assert pic.inta() == BASE + 1


def test_a_poll_overrides_a_status_read_which_is_still_selected(pic: Pic) -> None:
    pic.high(5)
    pic.outb(MASTER, OCW3 | POLL | RR | RIS)
    assert pic.inb(MASTER) == 0x85
    assert pic.inb(MASTER) == 0x20  # ISR


def test_the_selected_status_is_remembered(pic: Pic) -> None:
    pic.high(3, 5)
    pic.inta()
    pic.outb(MASTER, OCW3 | RR | RIS)
    assert (pic.inb(MASTER), pic.inb(MASTER)) == (0x08, 0x08)
    pic.outb(MASTER, OCW3 | RIS)  # without RR
    assert pic.inb(MASTER) == 0x08
    pic.outb(MASTER, OCW3 | RR)
    assert pic.inb(MASTER) == 0x20


# --- cascade ------------------------------------------------------------------------------------------


def test_a_slave_gives_the_vector_and_both_are_in_service(pic: Pic) -> None:
    pic.high(11)
    assert pic.inta() == SLAVE_BASE + 3
    assert pic.isr() == 0x04
    assert pic.isr(SLAVE) == 0x08
    assert pic.served == 0x0804


def test_slave_levels_come_between_1_and_3_of_the_master(pic: Pic) -> None:
    pic.high(3, 9)
    assert pic.inta() == SLAVE_BASE + 1
    pic.high(1)
    assert pic.inta() == BASE + 1
    pic.outb(MASTER, EOI)
    assert not pic.int


def test_a_second_request_of_the_slave_is_taken_after_both_eois(pic: Pic) -> None:
    pic.high(9, 10)
    assert pic.inta() == SLAVE_BASE + 1
    pic.outb(SLAVE, EOI)
    pic.outb(MASTER, EOI)
    assert pic.int
    assert pic.inta() == SLAVE_BASE + 2


def test_a_higher_slave_level_waits_for_the_masters_eoi_in_fully_nested_mode(pic: Pic) -> None:
    pic.high(12)
    pic.inta()
    pic.high(9)
    assert not pic.int
    pic.outb(MASTER, EOI)
    assert pic.int
    assert pic.inta() == SLAVE_BASE + 1


def test_in_special_fully_nested_mode_a_higher_slave_level_interrupts_a_lower_one(engine: str) -> None:
    pic = Pic(engine).pc(icw4=X86 | SFNM, slave_icw4=X86)
    pic.high(12)
    pic.inta()
    pic.high(13)
    assert not pic.int
    pic.high(9)
    assert pic.int
    assert pic.inta() == SLAVE_BASE + 1
    assert pic.isr() == 0x04
    assert pic.isr(SLAVE) == 0x12


def test_special_fully_nested_mode_does_not_let_lower_master_levels_pass_the_slave(engine: str) -> None:
    pic = Pic(engine).pc(icw4=X86 | SFNM, slave_icw4=X86)
    pic.high(12)
    pic.inta()
    pic.high(5)
    assert not pic.int


def test_special_fully_nested_mode_is_for_slaves_alone(engine: str) -> None:
    pic = Pic(engine).pc(icw4=X86 | SFNM, slave_icw4=X86)
    pic.high(5)
    pic.inta()
    pic.pulse(5)
    pic.high(5)
    assert not pic.int


def test_int_of_a_slave_in_automatic_eoi_mode_falls_with_each_acknowledge(engine: str) -> None:
    pic = Pic(engine).pc(slave_icw4=X86 | AEOI)
    pic.high(9, 10)
    assert pic.inta() == SLAVE_BASE + 1
    pic.outb(MASTER, EOI)
    assert pic.int
    assert pic.inta() == SLAVE_BASE + 2


def test_a_polled_slave_with_another_request_gives_the_master_another_edge(engine: str) -> None:
    pic = Pic(engine).pc(slave_icw4=X86 | AEOI)
    pic.high(9, 10)
    assert pic.poll(MASTER) == 0x82
    assert pic.poll(SLAVE) == 0x81
    pic.outb(MASTER, EOI)
    assert pic.poll(MASTER) == 0x82
    assert pic.poll(SLAVE) == 0x82


def test_a_slave_request_that_is_gone_gives_a_spurious_ir15_where_edges_are_held(engine: str) -> None:
    pic = Pic(engine, held=1).pc()
    pic.high(9)
    pic.outb(SLAVE + 1, 0xFF)
    assert pic.int  # the master has latched the slave's INT
    assert pic.inta() == SLAVE_SPURIOUS
    assert pic.isr() == 0x04
    assert pic.isr(SLAVE) == 0


def test_a_slave_request_that_is_gone_takes_its_masters_request_with_it(pic: Pic) -> None:
    pic.high(9)
    pic.low(9)
    assert not pic.int
    assert pic.inta() == SPURIOUS
    assert pic.isr() == 0


def test_where_icw3_has_no_slave_the_master_gives_its_own_vector(engine: str) -> None:
    pic = Pic(engine)
    pic.program(MASTER, BASE, 0x00)
    pic.program(SLAVE, SLAVE_BASE, 0x02)
    pic.high(9)
    assert pic.inta() == BASE + 2
    assert pic.isr(SLAVE) == 0


def test_a_single_master_has_no_slaves(engine: str) -> None:
    pic = Pic(engine)
    pic.program(MASTER, BASE, 0, SNGL | IC4)
    pic.program(SLAVE, SLAVE_BASE, 0x02)
    pic.high(9)
    assert pic.inta() == BASE + 2


@pytest.mark.parametrize(("masters", "number"), [(0x04, 0x03), (0x08, 0x02)])
def test_a_slave_that_nobody_is_leaves_the_bus_floating(engine: str, masters: int, number: int) -> None:
    pic = Pic(engine)
    pic.program(MASTER, BASE, masters)
    pic.program(SLAVE, SLAVE_BASE, number)
    pic.high(9 if masters == 0x04 else 3)
    assert pic.inta() == 0xFF


# --- what the machine sees -----------------------------------------------------------------------------


def test_the_served_lines_are_high_from_the_acknowledge_to_the_eoi(pic: Pic) -> None:
    pic.high(3)
    assert pic.served == 0
    pic.inta()
    assert pic.served == 0x08
    pic.outb(MASTER, EOI)
    assert pic.served == 0


def test_a_served_line_is_pulsed_by_an_automatic_eoi(engine: str) -> None:
    pic = Pic(engine).pc(icw4=X86 | AEOI)
    pic.high(3)
    before = pic.device.rises[1 + 3]
    pic.inta()
    assert pic.served == 0
    assert pic.device.rises[1 + 3] == before + 1


@pytest.mark.parametrize("value", [0xFF, 0x00])
def test_a_written_mask_pulses_the_line_that_tells_of_masks(pic: Pic, value: int) -> None:
    before = pic.device.rises[17]
    pic.outb(SLAVE + 1, value)
    assert pic.device.rises[17] == before + 1


def test_a_peek_at_the_acknowledge_tells_the_vector_and_changes_nothing(pic: Pic) -> None:
    pic.high(9)
    before = pic.device.state
    assert pic.device.peek("inta", pic.now, 0, 4) == SLAVE_BASE + 1
    assert pic.device.state == before


@pytest.mark.parametrize("width", [1, 2, 8])
def test_an_acknowledge_of_another_width_is_none(pic: Pic, width: int) -> None:
    pic.high(3)
    assert pic.device.read("inta", pic.now, 0, width) == 2 ** (8 * width) - 1
    assert pic.int
    assert pic.isr() == 0


def test_a_word_written_to_a_command_port_is_two_bytes(pic: Pic) -> None:
    pic.high(3)
    pic.inta()
    pic.now += 1
    pic.device.write("first", pic.now, 0, 2, 0xAB << 8 | EOI)
    assert pic.isr() == 0
    assert pic.inb(MASTER + 1) == 0xAB


def test_no_deadline_is_ever_set(pic: Pic) -> None:
    pic.high(1, 9)
    pic.inta()
    assert pic.device.deadline == 2**64 - 1


def test_a_pending_request_survives_a_save(pic: Pic, engine: str) -> None:
    pic.high(3, 9)
    pic.inta()
    image = pic.device.save(pic.now)
    other = Pic(engine)
    other.now = pic.now
    other.device.restore(other.now, image)
    assert other.isr(SLAVE) == 0x02
    assert other.irr() == 0x08
    assert other.served == pic.served
    other.outb(SLAVE, EOI)
    other.outb(MASTER, EOI)
    assert other.inta() == BASE + 3
