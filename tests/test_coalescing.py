"""Missed ticks on a machine: snapshots, wiring, and hosts whose native loop wakes for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from devc.compiler import ir
from devc.compiler.ir import NEVER
from devc.runtime.assemble import assemble
from devc.runtime.clock import HostClock
from devc.runtime.dispatch import Dispatcher
from devc.runtime.hosts import kvm, unicorn
from devc.runtime.machine import Machine, MachineError
from devc.runtime.policies import MAPPINGS, RULES, Policy
from devc.runtime.vmm import Vmm
from hypothesis import given, settings
from hypothesis import strategies as st

from .fake_device import MODULE, FakeType, make
from .stub_device import Stub
from .tick_guest import MS, Guest, masked_for_ten
from .tick_sources import SOURCES, Source

PIT, HPET = SOURCES[0], SOURCES[2]

sources = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.label)
policies = pytest.mark.parametrize("missed", RULES)


# --- saving and restoring ------------------------------------------------------------------


@sources
@policies
def test_a_restore_neither_loses_nor_doubles_a_tick(source: Source, missed: str) -> None:
    """Two machines, one of them saved and taken over by another in the middle, agree to the ns."""
    stays, _ = masked_for_ten(source, missed, minimum=50_000)
    moves, period = masked_for_ten(source, missed, minimum=50_000)
    for delay in (0, 100_000, 333_333, 600_000, round(period)):
        stays.run(delay)
        moves.run(delay)
        image = moves.machine.save()
        heir = Guest(source, missed, minimum=50_000)
        heir.machine.restore(image)
        heir._takes_at, heir.delivered, heir.due = moves._takes_at, moves.delivered, moves.due
        assert heir.delivered == stays.delivered, "the restore itself delivers nothing"
        assert heir.ticks.pending == stays.ticks.pending
        assert heir.machine.deadline == stays.machine.deadline
        moves = heir
    for guest in (stays, moves):
        guest.run(round(10 * period))
        guest.mask(1)
        guest.run(round(3 * period))
        guest.mask(0)
        guest.run(round(10 * period))
    assert moves.delivered == stays.delivered
    assert moves.ticks.pending == stays.ticks.pending


def waiting_machine(missed: str = "delay") -> Guest:
    guest, _ = masked_for_ten(PIT, missed)
    guest.run(100_000)
    return guest


def state_of(guest: Guest) -> tuple[object, ...]:
    coalescer = guest.line.coalescer
    assert coalescer is not None
    return coalescer.save(), coalescer.deadline, repr(coalescer.ticks), guest.machine.save(), guest.now


def test_a_snapshot_with_any_bit_of_its_ticks_flipped_is_refused_whole() -> None:
    image, heir = waiting_machine().machine.save(), Guest(PIT, "delay")
    heir.start(3 * MS)
    before = state_of(heir)
    for at in range(len(image) - 32 - 80, len(image)):
        damaged = bytearray(image)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match="snapshot"):
            heir.machine.restore(bytes(damaged))
    assert state_of(heir) == before


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 49), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_a_hostile_snapshot_s_ticks_are_refused_or_bounded(changes: list[tuple[int, int]], run: bool) -> None:
    guest = HOSTILE
    coalescer = guest.line.coalescer
    assert coalescer is not None
    image = bytearray(SAVED)
    for at, value in changes:
        image[at % len(image)] = value
    if coalescer.check(bytes(image), guest.now):
        return
    coalescer.load(bytes(image), guest.now)
    coalescer.restart(1, guest.now)
    ticks = coalescer.ticks
    assert 0 <= ticks.pending <= 2**32 - 1
    assert ticks.due == ticks.delivered + ticks.dropped + ticks.clamped + ticks.pending
    assert 0 <= coalescer.deadline <= NEVER
    coalescer.mask(0, guest.now)
    coalescer.acknowledge(guest.now)
    assert coalescer.deadline <= guest.now + max(guest.now, 200_000) or coalescer.deadline == NEVER


HOSTILE = Guest(PIT, "delay", minimum=200_000)
HOSTILE.start(MS)
HOSTILE.run(7 * MS)
SAVED = HOSTILE.machine.coalescing.lines[PIT.line].save()


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"\1", "its policy is catchup, here it is delay"),
        (0, b"\x09", "its policy is an unknown one"),
        (1, b"\x08", "a value is out of range"),
        (2, b"\xff" * 8, "a value is out of range"),
        (10, b"\xff" * 8, "an instant lies after the snapshot's"),
        (18, b"\xfe" + b"\xff" * 7, "an instant lies after the snapshot's"),
        (26, b"\xfe" + b"\xff" * 7, "an instant lies after the snapshot's"),
    ],
)
def test_what_does_not_fit_says_why(at: int, value: bytes, message: str) -> None:
    coalescer = HOSTILE.line.coalescer
    assert coalescer is not None
    assert coalescer.check(SAVED, HOSTILE.now) == ""
    image = SAVED[:at] + value + SAVED[at + len(value) :]
    assert message in coalescer.check(image, HOSTILE.now)
    assert "bytes, not" in coalescer.check(SAVED[:-1], HOSTILE.now)


def test_ticks_for_a_line_without_a_policy_are_refused_and_change_nothing() -> None:
    image = waiting_machine().machine.save()
    plain = PIT.machine()
    PIT.start(plain, MS)
    before = plain.save()
    with pytest.raises(ValueError, match=r"ticks of i8254.irq0, which has no policy here; wire it alike"):
        plain.restore(image)
    assert plain.save() == before


def test_a_snapshot_without_ticks_lets_a_line_with_a_policy_begin_afresh() -> None:
    plain = PIT.machine()
    PIT.start(plain, MS)
    plain.step(MS // 2)
    heir = waiting_machine()
    assert heir.ticks.pending
    heir.machine.restore(plain.save())
    assert heir.ticks.pending == 0
    assert heir.ticks.due == heir.ticks.delivered + heir.ticks.dropped
    heir.delivered.clear()
    heir.run(MS)
    assert len(heir.delivered) == 1


def test_a_reset_drops_what_waits() -> None:
    guest = waiting_machine()
    guest.machine.reset()
    assert guest.ticks.pending == 0
    guest.check()
    guest.delivered.clear()
    guest.run(10 * MS)
    assert guest.delivered == []


# --- wiring ---------------------------------------------------------------------------------


def test_the_device_file_s_policy_is_the_default_for_a_controller_that_acknowledges() -> None:
    machine = PIT.machine()
    line = machine.line(PIT.line)
    line.missed, line.minimum = "merge", 70_000
    machine.wire(PIT.line, lambda level, now: None, acknowledged=True)
    assert line.coalescer is not None
    assert line.coalescer.policy == Policy("merge", 70_000)


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({"missed": "delay"}, Policy("delay", 70_000)),
        ({"missed": "delay", "minimum": 0}, Policy("delay")),
        ({"minimum": 5}, Policy("merge", 5, acknowledged=False)),
        ({"acknowledged": False}, Policy("merge", 70_000, acknowledged=False)),
        ({"missed": MAPPINGS["qemu-slew"]}, MAPPINGS["qemu-slew"]),
        ({"missed": MAPPINGS["kvm-reinject"], "minimum": 7}, Policy("catchup", 7, True, 0, True)),
    ],
)
def test_what_is_given_goes_before_what_the_device_file_says(
    given: dict[str, object], policy: Policy
) -> None:
    machine = PIT.machine()
    line = machine.line(PIT.line)
    line.missed, line.minimum = "merge", 70_000
    machine.wire(PIT.line, lambda level, now: None, **given)  # type: ignore[arg-type]
    assert line.coalescer is not None
    assert line.coalescer.policy == policy


def test_what_a_device_file_declares_reaches_its_line() -> None:
    lines = (ir.Line("out", "", "discard", 3_000),)
    machine = Machine(make=make)  # type: ignore[arg-type]
    machine.add(FakeType(replace(MODULE, lines=lines)))  # type: ignore[arg-type]
    assert (machine.line("beeper.out").missed, machine.line("beeper.out").minimum) == ("discard", 3_000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"missed": "slew"}, "no policy 'slew'; there are: delay, catchup, merge, discard"),
        ({"missed": "delay", "minimum": -1}, "0 ns or more, not -1"),
        ({"missed": "delay", "minimum": 2**63}, "0 ns or more"),
        ({"acknowledged": True}, r"i8254\.irq0 declares no policy for missed ticks; give missed="),
    ],
)
def test_a_policy_that_cannot_be_says_what_can(given: dict[str, object], message: str) -> None:
    machine = PIT.machine()
    machine.line(PIT.line).missed = ""
    with pytest.raises(MachineError, match=message):
        machine.wire(PIT.line, lambda level, now: None, **given)  # type: ignore[arg-type]
    assert machine.line(PIT.line).coalescer is None


def test_a_line_has_one_policy_and_any_number_of_sinks() -> None:
    guest = Guest(PIT, "delay")
    with pytest.raises(MachineError, match="has another policy already"):
        guest.machine.wire(PIT.line, lambda level, now: None, missed="merge", minimum=0)
    with pytest.raises(MachineError, match="has another policy already"):
        guest.machine.wire(PIT.line, "i8254.port61.gate2", missed="merge", minimum=0)


def test_a_sink_may_acknowledge_at_once_and_others_see_the_edges_in_their_order() -> None:
    machine = HPET.machine()
    line = machine.line(HPET.line)
    edges: list[tuple[int, int]] = []
    machine.wire(line.path, lambda level, now: line.acknowledge(now) if level else None, missed="delay")
    machine.wire(line.path, lambda level, now: edges.append((level, now)), missed="delay")
    HPET.start(machine, MS)
    machine.step(3 * MS)
    assert edges == [(level, now * MS) for now in (1, 2, 3) for level in (1, 0)]
    assert machine.statistics.ticks[line.path].late == 0


def test_a_sink_that_fails_leaves_the_counters_right() -> None:
    machine = PIT.machine()

    def sink(level: int, now: int) -> None:
        raise RuntimeError("the controller broke")

    machine.wire(PIT.line, sink, missed="delay")
    with pytest.raises(RuntimeError):
        PIT.start(machine, MS)
    ticks = machine.statistics.ticks[PIT.line]
    assert ticks.due == ticks.delivered + ticks.pending


def test_a_year_at_the_fastest_rate_is_counted_in_no_time() -> None:
    machine = Machine(events_a_step=100)
    machine.add("i8254")
    line = machine.line(PIT.line)
    machine.wire(line.path, lambda level, now: line.acknowledge(now), missed="catchup", minimum=0)
    PIT.start(machine, 2_000)
    machine.step(365 * 86_400 * 10**9)
    ticks = machine.statistics.ticks[line.path]
    assert ticks.pending <= 2**32 - 1
    assert ticks.due == ticks.delivered + ticks.dropped + ticks.pending


# --- the native loop ---------------------------------------------------------------------------


def test_a_floor_holds_a_device_s_deadline_off_and_no_other_s() -> None:
    dispatcher = Dispatcher()
    first, second = Stub().place(dispatcher, "io", 0x40), Stub().place(dispatcher, "io", 0x80)
    first.state.deadline, second.state.deadline = 10, 40
    dispatcher.hold_off(first.device, 30)
    assert dispatcher.earliest() == 30
    dispatcher.settle(20)
    assert first.state.settles == 0
    dispatcher.settle(30)
    assert (first.state.settles, second.state.settles) == (1, 0)
    dispatcher.hold_off(first.device, 0)
    assert dispatcher.earliest() == 40


CODE, COUNTER, VECTOR = 0x1000, 0x3000, 0x20
GUEST = f"""
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x8000, %sp
        movw    $on_tick, {VECTOR * 4}
        movw    %ax, {VECTOR * 4 + 2}
        movw    %ax, {COUNTER}
        sti
1:      hlt
        jmp     1b
on_tick:
        incw    {COUNTER}
        outb    %al, $0x20
        iretw
"""


@pytest.fixture(params=["kvm", "unicorn"])
def vmm(request: pytest.FixtureRequest) -> Iterator[Vmm]:
    """A guest that counts ticks and writes an EOI for each; the PIT is the test's to program."""
    why = {"kvm": kvm, "unicorn": unicorn}[request.param].available()
    if why is not None:
        pytest.skip(why)
    machine = Machine(HostClock())
    machine.add("i8254")
    line = machine.line(PIT.line)
    machine.claim("EOI", "io", 0x20, 1, write=lambda offset, width, value: line.acknowledge(machine.now))
    with Vmm(machine, request.param) as made:
        made.host.load(assemble(GUEST, CODE), CODE)
        made.host.boot(CODE)
        yield made


def counted(vmm: Vmm) -> int:
    return int.from_bytes(vmm.host.memory[COUNTER : COUNTER + 2], "little")


def test_a_halted_guest_is_woken_for_ticks_that_wait(vmm: Vmm) -> None:
    """The source has stopped: nothing but the line's own deadline is left to wake the loop."""
    machine = vmm.machine
    line = machine.line(PIT.line)
    vmm.interrupt(PIT.line, VECTOR, missed="catchup", minimum=0)
    line.mask(1, machine.now)
    PIT.start(machine, MS)
    vmm.run(until=machine.now + 10 * MS)
    ticks = machine.statistics.ticks[PIT.line]
    assert counted(vmm) == 0
    assert ticks.pending == ticks.due >= 9
    PIT.stop(machine)
    line.mask(0, machine.now)
    assert machine.devices["i8254"].deadline > machine.now + 10 * 10**9
    vmm.run(until=machine.now + 40 * MS)
    assert counted(vmm) == ticks.delivered == ticks.late == ticks.due
    assert ticks.pending == 0
    assert machine.coalescing.deadline == NEVER


def test_a_halted_guest_is_woken_for_each_tick_though_deadlines_between_bring_none(vmm: Vmm) -> None:
    """Mode 3: the falling edge is a deadline that brings the guest no interrupt."""
    vmm.interrupt(PIT.line, VECTOR)
    SOURCES[1].start(vmm.machine, 2 * MS)
    vmm.run(until=vmm.machine.now + 40 * MS)
    assert counted(vmm) >= 10


def test_the_loop_is_not_woken_for_edges_that_would_be_clamped(vmm: Vmm) -> None:
    machine = vmm.machine
    vmm.interrupt(PIT.line, VECTOR, missed="discard", minimum=500_000)
    wakes: list[int] = []
    attend = vmm.dispatcher.attend

    def counting(access: object) -> None:
        if not access.entry:  # type: ignore[attr-defined]
            wakes.append(machine.now)
        attend(access)  # type: ignore[arg-type]

    vmm.dispatcher.attend = counting
    PIT.start(machine, 2_000)
    start = machine.now
    vmm.run(until=start + 20 * MS)
    allowed = (machine.now - start) // 500_000 + 2
    ticks = machine.statistics.ticks[PIT.line]
    assert 1 <= counted(vmm) <= ticks.delivered <= allowed
    assert ticks.due > 5_000
    assert len(wakes) <= allowed + 2


def test_a_declared_minimum_protects_a_host_that_hears_of_no_acknowledgement(vmm: Vmm) -> None:
    machine = vmm.machine
    line = machine.line(PIT.line)
    line.missed, line.minimum = "delay", 500_000
    vmm.interrupt(PIT.line, VECTOR)
    assert line.coalescer is not None
    assert line.coalescer.policy == Policy("delay", 500_000, acknowledged=False)
    PIT.start(machine, 2_000)
    start = machine.now
    vmm.run(until=start + 10 * MS)
    assert machine.statistics.ticks[PIT.line].delivered <= (machine.now - start) // 500_000 + 2


# --- the document --------------------------------------------------------------------------------


def test_the_example_of_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "docs" / "coalescing.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert f"# {capsys.readouterr().out}" in code
