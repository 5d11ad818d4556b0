"""When a restored device lives: from its image's instant on, settled to the caller's."""

from __future__ import annotations

import pytest
from devc.compiler import image
from devc.runtime.instance import ImageError

from .rig import ENGINES, SECOND, Pit, PmTimer, make

pytestmark = pytest.mark.parametrize("engine", ENGINES)


def periodic(engine: str) -> Pit:
    """Counter 0 in mode 2, 1000 clocks a period, loaded in tick 1001."""
    pit = Pit(engine)
    pit.program(0, 2, 1000)
    pit.wait(10)
    return pit


def test_what_fell_due_between_the_image_and_the_restore_happens(engine: str) -> None:
    pit = periodic(engine)
    saved = pit.device.save(pit.now)
    later = pit.ns(1001 + 7 * 1000 + 500)
    copy = make("i8254", engine)
    copy.restore(later, saved)
    assert copy.get("rises", 0) == 7
    pit.device.settle(later)
    assert copy.save(later) == pit.device.save(later)
    assert (copy.deadline, copy.lines) == (pit.device.deadline, pit.device.lines)


def test_an_alarm_that_was_pending_rings_at_its_own_instant(engine: str) -> None:
    pit = Pit(engine)
    pit.program(0, 0, 100)  # loads on the next CLK, OUT rises 100 CLKs after
    saved = pit.device.save(pit.now)
    copy = make("i8254", engine)
    copy.restore(pit.ns(1000 + 51), saved)
    other = Pit(engine)
    other.device, other.now = copy, pit.ns(1000 + 51)
    assert other.count(0) == 50
    assert other.run_to_deadline() == 1101
    assert other.line() == 1


def test_a_periodic_event_that_fell_between_is_not_lost(engine: str) -> None:
    """The PM timer's top bit toggles every 2^23 ticks, 2.34 s: TMR_STS is set."""
    timer = PmTimer(engine)
    saved = timer.device.save(2 * SECOND)
    copy = make("acpi_pm", engine)
    copy.restore(2 * SECOND, saved)
    assert copy.get("status.tmr") == 0
    copy.restore(3 * SECOND, saved)
    assert copy.get("status.tmr") == 1


def test_a_restore_at_the_image_s_own_instant_changes_nothing(engine: str) -> None:
    pit = periodic(engine)
    saved = pit.device.save(pit.now)
    copy = make("i8254", engine)
    copy.restore(pit.now, saved)
    assert copy.get("rises", 0) == 0
    assert copy.save(pit.now) == saved


def test_an_image_from_the_caller_s_future_is_refused_and_changes_nothing(engine: str) -> None:
    pit = periodic(engine)
    saved = pit.device.save(pit.now)
    copy = make("i8254", engine)
    before = copy.state
    with pytest.raises(ImageError, match="after the present instant") as caught:
        copy.restore(pit.now - 1, saved)
    assert caught.value.code == image.INSTANT
    assert copy.state == before


def test_a_restore_a_year_later_takes_no_longer(engine: str) -> None:
    """Periods are counted by division: 1193 Hz for a year, modulo 2^32."""
    pit = periodic(engine)
    saved = pit.device.save(pit.now)
    year = pit.ns(1001 + 37_000_000_000 * 1000)
    copy = make("i8254", engine)
    copy.restore(year, saved)
    assert copy.get("rises", 0) == 37_000_000_000 % 2**32


def test_a_latched_but_unread_value_survives_and_so_does_half_of_one(engine: str) -> None:
    pit = periodic(engine)
    pit.latch(0)
    held = pit.inb(0x40)
    pit.read_back(1, status=True)
    copy = Pit(engine)
    pit.wait(300)
    copy.device.restore(pit.now, pit.device.save(pit.now))
    copy.now = pit.now
    assert [held | copy.inb(0x40) << 8, copy.inb(0x41)] == [991, 0x70]


def test_a_phase_is_exact_to_the_tick(engine: str) -> None:
    pit = periodic(engine)
    for _ in range(30):
        pit.wait(37)
        copy = Pit(engine)
        copy.now = pit.now
        copy.device.restore(pit.now, pit.device.save(pit.now))
        assert copy.device.deadline == pit.device.deadline
        assert copy.count(0) == pit.count(0)
        pit = copy
