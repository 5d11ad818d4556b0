"""Instants near the end of the 64-bit clock: exact, or never, but never wrong."""

from __future__ import annotations

from devc.compiler.ir import NEVER

from .rig import make
from .rig_hpet import INT_ENB, Hpet

GIGAHERTZ = 1_000_000_000


def test_a_comparator_more_than_half_the_counter_ahead_has_an_exact_deadline(engine: str) -> None:
    hpet = Hpet(engine, hz=GIGAHERTZ)
    hpet.enable()
    hpet.one_shot(0, hpet.counter + 2**63 + 5, INT_ENB)
    assert hpet.device.deadline == hpet.now + 2**63 + 5


def test_a_comparator_that_no_clock_reaches_is_never_due(engine: str) -> None:
    hpet = Hpet(engine, hz=GIGAHERTZ)
    hpet.enable()
    hpet.one_shot(0, hpet.counter, INT_ENB)
    assert hpet.device.deadline == NEVER


def test_an_alarm_after_300_years_at_1_ghz_rings_on_the_next_clock(engine: str) -> None:
    pit, now = make("i8254", engine, hz=GIGAHERTZ), 2**63 + 2**60
    for port, value in ((3, 0x30), (0, 100), (0, 0)):
        pit.write("pit", now, port, 1, value)
    assert pit.deadline == now + 1
    pit.settle(now + 1)
    assert pit.deadline == now + 101
