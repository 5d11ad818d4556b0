"""What other monitors do with missed ticks, in our terms: their machines beside ours."""

from __future__ import annotations

from itertools import pairwise

import pytest
from devc.compiler.ir import NEVER
from devc.runtime.policies import MAPPINGS, Coalescer, Policy
from hypothesis import given, settings
from hypothesis import strategies as st

from .tick_guest import MS, Guest, KvmPit, XenTimer, qemu_slew_gaps
from .tick_sources import SOURCES, Source

PIT = SOURCES[0]
PERIOD = 840  # ns, divisible by 1..8

sources = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.label)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["due", "due", "eoi", "eoi", "mask", "count"])),
        max_size=80,
    )
)
def test_kvm_reinject_is_kvm_s_machine(events: list[tuple[int, str]]) -> None:
    kvm = KvmPit()
    coalescer = Coalescer("x", Policy("catchup", 0, True, 0, True), 0, 0)
    delivered: list[int] = []
    coalescer.sinks.append(lambda level, now: delivered.append(now) if level else None)
    now = 0
    for step, event in events:
        now += step
        if event == "due":
            kvm.expiry(now)
            coalescer.update(1, 0, now)
        elif event == "eoi":
            kvm.eoi(now)
            coalescer.acknowledge(now)
        elif event == "mask":
            coalescer.mask(1, now)
            coalescer.mask(0, now)
            kvm.reset_reinject()
        else:
            kvm.reset_reinject()
            coalescer.forget(now)
        assert delivered == kvm.delivered


def test_kvm_reinject_is_named() -> None:
    assert MAPPINGS["kvm-reinject"] == Policy("catchup", 200_000, True, 0, True)


@sources
def test_a_mask_change_or_a_new_count_drops_what_waits_under_kvm_reinject(source: Source) -> None:
    guest = Guest(source, MAPPINGS["kvm-reinject"], minimum=0)
    period = guest.start(MS)
    guest.busy = True
    guest.run(round(5.5 * period))
    assert guest.ticks.pending == 4
    guest.mask(1)
    assert guest.ticks.pending == 4
    guest.mask(0)
    assert (guest.ticks.pending, guest.ticks.dropped) == (0, 4)
    guest.run(round(3 * period))
    assert (guest.ticks.pending, guest.ticks.delivered) == (2, 2)
    source.start(guest.machine, 2 * MS)
    guest.line.forget(guest.now)
    assert guest.ticks.pending == 0
    guest.check()


def test_kvm_without_reinject_passes_each_tick_on_for_the_controller_to_merge() -> None:
    guest = Guest(PIT, MAPPINGS["kvm-discard"])
    period = guest.start(MS)
    guest.busy = True
    guest.run(round(5.5 * period))
    assert guest.delivered == guest.due
    guest.check()


@pytest.mark.parametrize("missed", [1, 2, 5, 7, 8, 20])
def test_catchup_keeps_the_pace_of_qemu_s_slew(missed: int) -> None:
    coalescer = Coalescer("x", MAPPINGS["qemu-slew"], 0, 0)
    delivered: list[int] = []
    coalescer.sinks.append(lambda level, now: delivered.append(now) if level else None)
    coalescer.update(1, 0, PERIOD)
    coalescer.acknowledge(PERIOD)
    coalescer.mask(1, PERIOD)
    for i in range(missed + 1):
        coalescer.update(1, 0, (i + 2) * PERIOD)
    coalescer.mask(0, (missed + 2) * PERIOD)
    while coalescer.deadline != NEVER or coalescer.outstanding:
        coalescer.acknowledge(delivered[-1])
        if coalescer.deadline != NEVER:
            coalescer.fire(coalescer.deadline)
    late = delivered[1:]
    assert [b - a for a, b in pairwise(late)] == qemu_slew_gaps(missed, PERIOD)


@pytest.mark.parametrize("mode", [name for name in MAPPINGS if name.startswith("xen")])
@pytest.mark.parametrize("missed", [0, 1, 2, 9])
def test_xen_s_four_timer_modes(mode: str, missed: int) -> None:
    xen = XenTimer(mode)
    guest = Guest(PIT, MAPPINGS[mode], latency=1_000)
    period = guest.start(MS)
    guest.run(round(3.5 * period))
    guest.mask(1)
    guest.run(round(missed * period))
    PIT.stop(guest.machine)
    guest.mask(0)
    guest.run(round((missed + 2) * period))
    xen.missed(missed)
    assert guest.ticks.late == xen.take_all()
    assert guest.ticks.pending == 0
    if mode == "xen-delay-for-missed-ticks":
        assert min(guest.gaps()) >= round(period) - 1, "the guest's time goes stepwise"
    elif mode == "xen-no-delay-for-missed-ticks" and missed > 1:
        assert max(guest.gaps()[3:]) == 100_000, "one after the other, no closer than Xen's least period"
    guest.check()
