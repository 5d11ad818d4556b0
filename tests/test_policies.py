"""Ticks that nobody can take: each policy against a guest that masks, or acknowledges late."""

from __future__ import annotations

import pytest
from devc.runtime.machine import Machine
from devc.runtime.policies import MAPPINGS, RULES, Coalescer, Policy
from hypothesis import given, settings
from hypothesis import strategies as st

from .tick_guest import MS, Guest, Model, masked_for_ten
from .tick_sources import PIT_HZ, RTC, SOURCES, Source

POLICIES = list(RULES)
PIT = SOURCES[0]

sources = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.label)
policies = pytest.mark.parametrize("missed", POLICIES)


# --- a guest that masks for a while ---------------------------------------------


@sources
@policies
def test_a_guest_that_takes_each_tick_in_time_gets_each_on_time(source: Source, missed: str) -> None:
    guest = Guest(source, missed)
    period = guest.start(MS)
    guest.run(round(50.5 * period))
    guest.check()
    assert guest.delivered == guest.due
    assert (guest.ticks.due, guest.ticks.late, guest.ticks.dropped) == (50, 0, 0)


@sources
def test_delay_keeps_what_was_masked_and_gives_it_back_at_the_normal_rate(source: Source) -> None:
    guest, period = masked_for_ten(source, "delay")
    assert (guest.ticks.pending, guest.ticks.delivered, guest.ticks.late) == (9, 6, 1)
    guest.run(round(20.1 * period))
    guest.check()
    assert min(guest.gaps()[5:]) >= round(period) - 1, "never faster than the period"
    assert guest.ticks.pending == 9, "the guest's time stays behind while the source goes on"
    assert (guest.ticks.dropped, guest.ticks.late) == (0, 21)
    source.stop(guest.machine)
    guest.run(round(12 * period))
    guest.check()
    assert guest.ticks.pending == 0
    assert guest.ticks.delivered == guest.ticks.due


@sources
def test_catchup_gives_back_what_was_masked_at_up_to_eight_times_the_rate(source: Source) -> None:
    guest, period = masked_for_ten(source, "catchup")
    guest.run(round(3.7 * period))
    guest.check()
    fast = [gap for gap in guest.gaps()[5:] if gap < 0.9 * period]
    assert min(fast) == pytest.approx(period / 8, abs=3)
    assert min(fast) >= int(period) // 8
    assert (guest.ticks.pending, guest.ticks.dropped) == (0, 0)
    assert guest.ticks.delivered == guest.ticks.due
    guest.run(round(5 * period))
    assert guest.delivered[-5:] == guest.due[-5:], "caught up, each is on time again"
    guest.check()


@sources
def test_merge_makes_one_late_tick_of_all_that_were_masked(source: Source) -> None:
    guest, period = masked_for_ten(source, "merge")
    assert guest.delivered[5:] == [guest.now]
    guest.run(round(5 * period))
    guest.check()
    assert (guest.ticks.late, guest.ticks.dropped, guest.ticks.pending) == (1, 9, 0)
    assert guest.delivered[6:] == guest.due[15:]


@sources
def test_discard_drops_what_was_masked(source: Source) -> None:
    guest, period = masked_for_ten(source, "discard")
    guest.run(round(5 * period))
    guest.check()
    assert (guest.ticks.late, guest.ticks.dropped, guest.ticks.pending) == (0, 10, 0)
    assert guest.delivered == guest.due[:5] + guest.due[15:]


# --- a guest that acknowledges late ----------------------------------------------


@sources
@pytest.mark.parametrize(
    ("missed", "delivered", "late", "dropped", "pending"),
    [("delay", 10, 5, 0, 2), ("catchup", 12, 4, 0, 0), ("merge", 10, 1, 2, 0), ("discard", 9, 0, 3, 0)],
)
def test_a_tick_acknowledged_three_periods_late(
    source: Source, missed: str, delivered: int, late: int, dropped: int, pending: int
) -> None:
    guest = Guest(source, missed)
    period = guest.start(MS)
    guest.run(round(4.5 * period))
    guest.busy = True
    guest.run(round(4 * period))
    guest.busy = False
    assert len(guest.delivered) == 5, "until it is acknowledged nothing follows"
    guest.run(round(4.1 * period))
    guest.check()
    ticks = guest.ticks
    assert ticks.due == 12
    assert (ticks.delivered, ticks.late, ticks.dropped, ticks.pending) == (delivered, late, dropped, pending)


@policies
def test_a_guest_that_never_acknowledges_gets_one_tick(missed: str) -> None:
    guest = Guest(PIT, missed)
    guest.busy = True
    guest.start(MS)
    guest.run(100 * MS)
    assert len(guest.delivered) == 1
    guest.check()


def test_an_acknowledgement_of_nothing_changes_nothing() -> None:
    guest = Guest(PIT, "delay")
    guest.start(MS)
    guest.run(MS // 2)
    for _ in range(5):
        guest.line.acknowledge(guest.now)
    guest.run(5 * MS)
    assert guest.delivered == guest.due
    guest.check()


def test_masking_twice_is_masking_once() -> None:
    guest = Guest(PIT, "catchup")
    period = guest.start(MS)
    guest.mask(0)
    guest.mask(1)
    guest.mask(1)
    guest.run(round(3.5 * period))
    guest.mask(0)
    guest.mask(0)
    assert len(guest.delivered) == 1
    guest.run(round(3 * period))
    assert guest.ticks.delivered == guest.ticks.due
    guest.check()


@policies
def test_the_rtc_s_ticks_are_its_line_s_edges_when_each_is_taken(missed: str) -> None:
    guest = Guest(RTC, missed)
    period = guest.start(976_563)
    guest.run(round(20.2 * period))
    guest.check()
    assert guest.ticks.due in (20, 21)
    assert guest.delivered == guest.due


@pytest.mark.parametrize("missed", ["delay", "catchup", "merge"])
def test_the_rtc_merges_ticks_itself_until_register_c_is_read(missed: str) -> None:
    """The chip has one flag: with it set, a periodic event is no edge, and no policy sees one."""
    guest = Guest(RTC, missed)
    period = guest.start(976_563)
    guest.mask(1)
    guest.run(round(10.2 * period))
    assert guest.ticks.due == 1
    guest.mask(0)
    guest.run(round(5 * period))
    guest.check()
    assert guest.ticks.dropped == 0
    assert guest.delivered[1:] == guest.due[1:]
    assert len(guest.due) in (5, 6)


def test_discard_leaves_a_line_that_waits_for_the_guest_waiting() -> None:
    """Why docs/coalescing.md warns of it: no interrupt, so no read of C, so no interrupt."""
    guest = Guest(RTC, "discard")
    period = guest.start(976_563)
    guest.mask(1)
    guest.run(round(2 * period))
    guest.mask(0)
    guest.run(round(10 * period))
    assert (guest.ticks.due, guest.ticks.dropped, guest.delivered) == (1, 1, [])
    RTC.take(guest.machine)
    guest.run(round(2 * period))
    assert guest.delivered


# --- what the controller's pin shows ---------------------------------------------


def test_the_line_is_high_until_the_device_lowers_it() -> None:
    guest = Guest(PIT, "delay", latency=10)
    edges: list[tuple[int, int]] = []
    plain: list[tuple[int, int]] = []
    guest.machine.wire(PIT.line, lambda level, now: edges.append((level, now)), missed="delay", minimum=0)
    guest.machine.wire(PIT.line, lambda level, now: plain.append((level, now)))
    guest.start(MS)
    edges.clear()
    plain.clear()
    guest.run(5 * MS)
    assert edges[edges.index((1, guest.due[0])) :] == plain[plain.index((1, guest.due[0])) :]


def test_a_tick_delivered_while_the_device_s_line_is_low_lasts_until_its_acknowledgement() -> None:
    source = SOURCES[1]  # mode 3: low for half a period
    guest = Guest(source, "delay", latency=20_000)
    edges: list[tuple[int, int]] = []
    guest.machine.wire(source.line, lambda level, now: edges.append((level, now)), missed="delay", minimum=0)
    period = guest.start(MS)
    edges.clear()
    guest.mask(1)
    guest.run(round(1.75 * period))
    unmasked = guest.now
    guest.mask(0)
    guest.run(100_000)
    assert [edge for edge in edges if edge[1] >= unmasked] == [(1, unmasked), (0, unmasked + 20_000)]


def test_plain_sinks_see_every_edge_whatever_the_policy() -> None:
    guest = Guest(PIT, "discard")
    guest.start(MS)
    guest.mask(1)
    guest.run(10 * MS)
    assert len(guest.due) == 10


def test_a_level_line_waits_by_itself_and_is_wired_without_a_policy() -> None:
    """An SCI: what the guest does to status and enable decides, no acknowledgement."""
    machine = Machine()
    machine.add("acpi_pm")
    edges: list[tuple[int, int]] = []
    machine.wire("acpi_pm.sci", lambda level, now: edges.append((level, now)))
    machine.write("io", 0x602, 2, 1)
    machine.step(10 * 10**9)
    line = machine.line("acpi_pm.sci")
    line.mask(1, machine.now)
    line.acknowledge(machine.now)
    line.forget(machine.now)
    assert [level for level, _ in edges] == [1]
    machine.write("io", 0x600, 2, 1)
    assert [level for level, _ in edges] == [1, 0]
    assert machine.statistics.ticks == {}


# --- the least period --------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 10, 100, 237])
@pytest.mark.parametrize("missed", POLICIES)
def test_a_guest_s_fastest_timer_cannot_storm_the_host(missed: str, count: int) -> None:
    machine = PIT.machine()
    guest = Guest(PIT, missed, minimum=200_000, latency=1_000, machine=machine)
    machine.write("io", 0x43, 1, 0x34)
    machine.write("io", 0x40, 1, count)
    machine.write("io", 0x40, 1, 0)
    guest.run(1)
    before = machine.devices["i8254"].instance.get("rises", 0)
    start, wakes = guest.now, 0
    machine.statistics.clear()
    guest.delivered.clear()
    while guest.now < start + 20 * MS:
        guest.run(max(machine.deadline - guest.now, 1))
        wakes += 1
    ticks = guest.ticks
    assert ticks.due == machine.devices["i8254"].instance.get("rises", 0) - before
    assert ticks.due == pytest.approx(0.02 * PIT_HZ / count, abs=2 + PIT_HZ // count // 5000)
    assert ticks.due == ticks.delivered + ticks.dropped + ticks.clamped + ticks.pending
    assert min(guest.gaps()) >= 200_000
    assert ticks.delivered >= 49, "and still gets what it may have"
    assert wakes <= 2 * 20 * MS // 200_000 + 4


@policies
def test_a_period_of_the_minimum_or_more_is_never_clamped(missed: str) -> None:
    guest = Guest(PIT, missed, minimum=200_000)
    assert guest.start(202_000) >= 200_000
    guest.run(50 * MS)
    guest.check()
    assert (guest.ticks.clamped, guest.ticks.late, guest.ticks.dropped) == (0, 0, 0)
    assert guest.delivered == guest.due


@sources
def test_a_period_just_below_the_minimum_is_stretched_to_it(source: Source) -> None:
    guest = Guest(source, "delay", minimum=200_000)
    assert 190_000 < guest.start(199_990) < 200_000
    guest.run(100 * MS)
    guest.check()
    assert guest.ticks.delivered >= 498
    assert min(guest.gaps()) >= 200_000


def test_a_slower_timer_after_a_storm_is_as_it_was_and_nothing_is_left_over() -> None:
    guest = Guest(PIT, "delay", minimum=200_000)
    guest.start(2_000)
    guest.run(5 * MS)
    assert guest.ticks.clamped > 1000
    assert guest.ticks.pending <= 1
    period = guest.start(MS)
    guest.run(round(10.5 * period))
    assert guest.delivered == guest.due
    assert (guest.ticks.clamped, guest.ticks.late) == (0, 0)


def test_an_edge_that_an_access_brings_is_of_that_instant() -> None:
    """Not of some instant since the last look, from which the next could follow sooner."""
    source = SOURCES[1]
    guest = Guest(source, "delay", minimum=100_000)
    guest.start(MS)
    guest.run(595_046)  # OUT is low, and a new control word raises it
    source.start(guest.machine, 5_000)
    guest.run(12_000)
    assert len(guest.delivered) == 1


def test_what_is_given_back_keeps_to_the_minimum_too() -> None:
    guest, period = masked_for_ten(PIT, "catchup", minimum=300_000)
    guest.run(round(20 * period))
    guest.check()
    assert min(guest.gaps()) >= 300_000
    assert guest.ticks.delivered == guest.ticks.due


def test_a_host_that_looks_late_costs_the_guest_no_tick() -> None:
    """Edges at unknown instants since the last look are taken to have come as early as they may."""
    coalescer = Coalescer("x", Policy("delay", 200_000), 0, 0)
    for late in (0, 50_000, 3_000, 190_000, 7, 199_999, 0):
        coalescer.update(1, 0, coalescer.ticks.due * 200_000 + 200_000 + late)
        coalescer.acknowledge(coalescer.ticks.due * 200_000 + late)
    coalescer.update(25, 0, (coalescer.ticks.due + 25) * 200_000 + 1)
    assert (coalescer.ticks.due, coalescer.ticks.clamped) == (32, 0)


@given(
    minimum=st.integers(0, 50),
    looks=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 6)), max_size=30),
)
def test_edges_of_a_late_look_are_placed_as_early_as_the_minimum_allows(
    minimum: int, looks: list[tuple[int, int]]
) -> None:
    coalescer = Coalescer("x", Policy("delay", minimum), 0, 0)
    now = before = admits = clamped = 0
    for step, rises in looks:
        now += step
        for _ in range(rises):
            place = max(admits, before)
            if minimum and place > now:
                clamped += 1
            else:
                admits = place + minimum
        before = now
        coalescer.update(rises, 0, now)
        assert coalescer.ticks.clamped == clamped


def test_a_wire_to_another_device_carries_the_protection_back_to_the_source() -> None:
    """Legacy replacement: the PIT's line goes through the HPET, whose line has the policy."""
    machine = Machine()
    machine.add("i8254")
    machine.add("hpet")
    machine.wire("i8254.irq0", "hpet.pit")
    line = machine.line("hpet.irq[2]")
    machine.wire(line.path, lambda level, now: line.acknowledge(now), missed="delay", minimum=200_000)
    PIT.start(machine, 2_000)
    wakes = 0
    while machine.now < 20 * MS:
        machine.advance_to(min(machine.deadline, 20 * MS))
        wakes += 1
    assert wakes <= 2 * 20 * MS // 200_000 + 4
    assert machine.statistics.ticks[line.path].delivered >= 98


@pytest.mark.parametrize(
    ("missed", "pending", "dropped"), [("delay", 1, 0), ("merge", 1, 0), ("discard", 0, 1)]
)
def test_two_deliveries_never_share_an_instant(missed: str, pending: int, dropped: int) -> None:
    coalescer = Coalescer("x", Policy(missed), 0, 0)
    delivered: list[int] = []

    def sink(level: int, now: int) -> None:
        if level:
            delivered.append(now)
            coalescer.acknowledge(now)

    coalescer.sinks.append(sink)
    coalescer.update(1, 0, 5)
    coalescer.update(1, 0, 5)
    assert delivered == [5]
    assert (coalescer.ticks.pending, coalescer.ticks.dropped) == (pending, dropped)
    coalescer.mask(1, 5)
    coalescer.update(1, 0, 9)
    coalescer.mask(0, 9)
    coalescer.update(1, 0, 9)
    assert delivered == [5, 9]


# --- against a model -----------------------------------------------------------------

PERIOD = 840  # divisible by 1..8


@settings(max_examples=150, deadline=None)
@given(
    missed=st.sampled_from(POLICIES),
    minimum=st.sampled_from([0, 0, 90, 500, 2000]),
    acknowledged=st.booleans(),
    gaps=st.lists(st.sampled_from([1, 3, 100, 420, PERIOD, PERIOD, PERIOD, PERIOD, 2 * PERIOD]), max_size=25),
    batches=st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 5]), min_size=25, max_size=25),
    actions=st.lists(
        st.tuples(st.integers(1, 1200), st.sampled_from(["ack", "ack", "ack", "mask", "unmask"])), max_size=40
    ),
)
def test_every_policy_does_what_a_list_of_waiting_ticks_would(
    missed: str,
    minimum: int,
    acknowledged: bool,
    gaps: list[int],
    batches: list[int],
    actions: list[tuple[int, str]],
) -> None:
    model = Model(missed, minimum, acknowledged)
    coalescer = Coalescer("x", Policy(missed, minimum, acknowledged), 0, 0)
    delivered: list[int] = []
    coalescer.sinks.append(lambda level, now: delivered.append(now) if level else None)
    rises = _instants(gaps, batches)
    acts = _instants([gap for gap, _ in actions], [act for _, act in actions])
    for now in range(1, max([*rises, *acts, 0]) + 4 * PERIOD):
        action = str(acts.get(now, ""))
        model.step(now, int(rises.get(now, 0)), action)
        if now in rises:
            coalescer.expect(now)
            coalescer.update(int(rises[now]), 0, now)
        if coalescer.deadline <= now:
            coalescer.fire(now)
            assert coalescer.deadline > now
        if action == "ack":
            coalescer.acknowledge(now)
        elif action:
            coalescer.mask(action == "mask", now)
    ticks = coalescer.ticks
    assert delivered == model.delivered
    assert (ticks.late, ticks.dropped, ticks.clamped, ticks.pending) == (
        model.late,
        model.dropped,
        model.clamped,
        len(model.waiting),
    )
    assert ticks.due == ticks.delivered + ticks.dropped + ticks.clamped + ticks.pending


def _instants(gaps: list[int], what: list[object]) -> dict[int, object]:
    instants, now = {}, 0
    for gap, item in zip(gaps, what, strict=False):
        now += gap
        instants[now] = item
    return instants


@settings(max_examples=60, deadline=None)
@given(
    source=st.sampled_from(SOURCES),
    missed=st.sampled_from([*POLICIES, *MAPPINGS.values()]),
    minimum=st.sampled_from([0, 1, 100_000, 3 * MS]),
    program=st.lists(
        st.tuples(
            st.sampled_from(["run", "run", "mask", "unmask", "busy", "free", "restart", "save", "forget"]),
            st.integers(1, 4 * MS),
        ),
        max_size=25,
    ),
)
def test_nothing_is_ever_early_or_twice_whatever_a_guest_does(
    source: Source, missed: str | Policy, minimum: int, program: list[tuple[str, int]]
) -> None:
    guest = Guest(source, missed, minimum=minimum)
    guest.start(MS)
    for action, amount in program:
        if action in ("mask", "unmask"):
            guest.mask(action == "mask")
        elif action in ("busy", "free"):
            guest.busy = action == "busy"
        elif action == "restart":
            source.start(guest.machine, amount // 4 + 2_000)
        elif action == "save":
            guest.machine.restore(guest.machine.save())
        elif action == "forget":
            guest.line.forget(guest.now)
        guest.run(amount)
        guest.check()
    allowed = guest.ticks.clamped or isinstance(missed, Policy) or not minimum
    assert allowed or not guest.gaps() or min(guest.gaps()) >= minimum


@pytest.mark.parametrize(("holds", "fell"), [(True, 30), (False, 20)])
def test_a_tick_that_is_held_keeps_the_line_up_until_it_is_acknowledged(holds: bool, fell: int) -> None:
    edges: list[tuple[int, int]] = []
    coalescer = Coalescer("a.line", Policy("merge", holds=holds), 0, 0)
    coalescer.sinks.append(lambda level, now: edges.append((level, now)))
    coalescer.update(1, 1, 10)
    coalescer.update(0, 0, 20)
    coalescer.acknowledge(30)
    assert edges == [(1, 10), (0, fell)]
