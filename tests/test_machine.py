"""The machine: address spaces, lines, deadlines, statistics, hostile accesses."""

from __future__ import annotations

import pytest
from devc.compiler import ir
from devc.runtime.clock import LAST_INSTANT, HostClock, SteppedClock
from devc.runtime.lines import PULSES_A_DELIVERY
from devc.runtime.machine import Machine, MachineError
from devc.runtime.statistics import GAP, UNCLAIMED_ADDRESSES

from .fake_device import COUNT, LEVEL, PERIOD, FakeType, make

Edges = list[tuple[int, int]]


def machine_with_beeper(**kwargs: object) -> Machine:
    machine = Machine(make=make, **kwargs)  # type: ignore[arg-type]
    machine.add(FakeType())
    return machine


def edges_of(machine: Machine, line: str = "beeper.out") -> Edges:
    edges: Edges = []
    machine.wire(line, lambda level, now: edges.append((level, now)))
    return edges


# --- building ---------------------------------------------------------------


def test_overlapping_windows_are_refused_and_both_are_named() -> None:
    machine = machine_with_beeper()
    with pytest.raises(
        MachineError, match=r"other\.ports at io 0x12\.\.0x15 overlaps beeper\.ports \(io 0x10"
    ):
        machine.add(FakeType(), "other", base=0x12)
    assert list(machine.devices) == ["beeper"]
    machine.add(FakeType(), "other", base=0x14)


def test_a_window_must_lie_inside_its_address_space() -> None:
    with pytest.raises(MachineError, match="does not fit at io 0xfffe"):
        machine_with_beeper().add(FakeType(), "other", base=0xFFFE)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bass": 1}, "no parameter 'bass'; it has: base, pulse"),
        ({"pulse": 2}, r"pulse takes 0\.\.1, not 2"),
        ({"pulse": None}, r"pulse takes 0\.\.1, not None"),
        ({"name": "beeper"}, "is taken"),
        ({"name": "a.b"}, "has a dot"),
        ({"python": {"x": {}}}, "no Python tier"),
    ],
)
def test_a_wrong_way_to_add_a_device_says_what_is_right(params: dict[str, object], message: str) -> None:
    machine = machine_with_beeper()
    with pytest.raises(MachineError, match=message):
        machine.add(FakeType(), **({"name": "second"} | params))  # type: ignore[arg-type]
    assert list(machine.devices) == ["beeper"]


def test_a_parameter_with_a_slot_reaches_the_instance_and_an_address_does_not() -> None:
    kind = FakeType()
    Machine(make=make).add(kind, base=0x40, pulse=1)
    assert kind.made[0].slots["pulse"] == 1
    assert "base" not in kind.made[0].slots


def test_a_moved_window_answers_at_its_new_place_only() -> None:
    machine = machine_with_beeper()
    seen = []
    machine.moved.append(lambda window: seen.append(window.base))
    machine.write("io", 0x10 + LEVEL, 1, 1)
    machine.move("beeper", "base", 0x80)
    assert machine.read("io", 0x80 + LEVEL, 1) == 1
    assert machine.read("io", 0x10 + LEVEL, 1) == 0xFF
    machine.move("beeper", "base", None)
    assert machine.read("io", 0x80 + LEVEL, 1) == 0xFF
    assert seen == [0x80, None]


def test_a_move_onto_another_window_changes_nothing() -> None:
    machine = machine_with_beeper()
    machine.add(FakeType(), "other", base=0x40)
    with pytest.raises(MachineError, match="overlaps other"):
        machine.move("beeper", "base", 0x3F)
    with pytest.raises(MachineError, match="no address parameter 'pulse'; it has: base"):
        machine.move("beeper", "pulse", 0x3F)
    assert machine.read("io", 0x10, 1) == 0


def test_unknown_devices_and_lines_are_named_with_what_there_is() -> None:
    machine = machine_with_beeper()
    with pytest.raises(MachineError, match=r"no line 'beeper\.in'; beeper has: beeper\.out"):
        machine.wire("beeper.in", lambda level, now: None)
    with pytest.raises(MachineError, match="no device 'pit' on this machine; it has: beeper"):
        machine.wire("pit.out", lambda level, now: None)


def test_a_host_window_serves_its_functions_and_has_no_peek() -> None:
    machine = machine_with_beeper()
    written: list[tuple[int, int, int]] = []
    machine.claim("exit port", "io", 0xF4, 2, lambda o, w: 0x1234, lambda o, w, v: written.append((o, w, v)))
    assert machine.read("io", 0xF4, 1) == 0x34
    assert machine.peek("io", 0xF4, 2) == 0xFFFF
    machine.write("io", 0xF5, 1, 0x1FF)
    assert written == [(1, 1, 0xFF)]
    with pytest.raises(MachineError, match="overlaps exit port"):
        machine.claim("another", "io", 0xF5, 1)


# --- accesses ---------------------------------------------------------------


def test_an_access_that_straddles_windows_falls_into_bytes_low_address_first() -> None:
    machine = machine_with_beeper()
    order: list[tuple[int, int]] = []
    machine.claim("after", "io", 0x14, 1, lambda o, w: 0x77, lambda o, w, v: order.append((w, v)))
    machine.write("io", 0x10 + COUNT, 2, 0xAB12)
    assert order == [(1, 0xAB)]
    assert machine.read("io", 0x10 + COUNT, 2) == 0x7700
    assert machine.read("io", 0x0F, 2) == 0x00FF, "the unclaimed half reads as ones"


def test_an_access_inside_a_window_reaches_it_whole() -> None:
    machine = machine_with_beeper()
    widths: list[int] = []
    machine.claim("wide", "mmio", 0x1000, 8, lambda o, w: widths.append(w) or 0)  # type: ignore[func-returns-value]
    for width in (1, 2, 4, 8):
        machine.read("mmio", 0x1000, width)
    assert widths == [1, 2, 4, 8]


def test_what_nobody_claims_reads_as_ones_and_ignores_writes() -> None:
    machine = machine_with_beeper()
    assert machine.read("io", 0x500, 4) == 0xFFFF_FFFF
    machine.write("mmio", 0x10, 8, 1)
    assert machine.statistics.unclaimed == {("io", 0x500, "read"): 1, ("mmio", 0x10, "write"): 1}


def test_any_access_of_any_width_anywhere_is_defined() -> None:
    machine = machine_with_beeper()
    addresses = (-(2**70), -1, 0, 0x0C, 0x0F, 0x10, 0x13, 0xFFFE, 0xFFFF, 2**16, 2**64 - 1, 2**64, 2**80)
    for space in ("io", "mmio"):
        for address in addresses:
            for width in (-1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 2**40):
                value = machine.read(space, address, width)  # type: ignore[arg-type]
                assert 0 <= value < 2 ** (8 * width if 0 < width <= 8 else 64)
                machine.peek(space, address, width)  # type: ignore[arg-type]
                for written in (0, 2**64 - 1, -1, 2**200):
                    machine.write(space, address, width, written)  # type: ignore[arg-type]


def test_a_peek_changes_nothing_and_is_not_counted() -> None:
    machine = machine_with_beeper()
    machine.write("io", 0x10 + PERIOD, 1, 5)
    counted = machine.statistics.light
    calls = list(machine.devices["beeper"].instance.calls)  # type: ignore[attr-defined]
    assert machine.peek("io", 0x10, 2) == 0x0005
    assert machine.statistics.light == counted
    assert machine.devices["beeper"].instance.calls == calls  # type: ignore[attr-defined]


def test_accesses_are_counted_by_register_and_direction() -> None:
    machine = machine_with_beeper()
    machine.write("io", 0x10 + PERIOD, 1, 5)
    machine.read("io", 0x10 + COUNT, 1)
    machine.read("io", 0x10 + COUNT, 1)
    machine.read("io", 0x12, 1)
    counts = {key: (c.light, c.heavy) for key, c in machine.statistics.registers.items()}
    assert counts == {
        ("beeper", "period", "write"): (1, 0),
        ("beeper", "count", "read"): (2, 0),
        ("beeper", GAP, "read"): (1, 0),
    }


def test_a_guest_cannot_fill_memory_with_unclaimed_addresses() -> None:
    machine = machine_with_beeper()
    for address in range(UNCLAIMED_ADDRESSES + 10):
        machine.read("mmio", address, 1)
    assert len(machine.statistics.unclaimed) == UNCLAIMED_ADDRESSES
    assert machine.statistics.unclaimed_elsewhere == 10


# --- lines and time ---------------------------------------------------------


def test_each_edge_in_a_step_is_delivered_at_its_own_instant() -> None:
    machine = machine_with_beeper()
    edges = edges_of(machine)
    machine.write("io", 0x10 + PERIOD, 1, 3)
    assert machine.step(10_000) == 10_000
    assert edges == [(1, 3000), (0, 6000), (1, 9000)]
    assert machine.deadline == 12_000


def test_an_event_at_the_very_end_of_a_step_is_delivered_in_it() -> None:
    machine = machine_with_beeper()
    edges = edges_of(machine)
    machine.write("io", 0x10 + PERIOD, 1, 3)
    machine.step(3000)
    assert edges == [(1, 3000)]


def test_splitting_a_step_changes_nothing() -> None:
    whole, split = machine_with_beeper(), machine_with_beeper()
    seen = [edges_of(whole), edges_of(split)]
    for machine in (whole, split):
        machine.write("io", 0x10 + PERIOD, 1, 7)
    whole.step(100_000)
    for _ in range(1000):
        split.step(100)
    assert seen[0] == seen[1]


def test_events_of_several_devices_come_in_the_order_of_time() -> None:
    machine = machine_with_beeper()
    machine.add(FakeType(), "other", base=0x40)
    order: list[tuple[str, int]] = []
    for name in ("other", "beeper"):
        machine.wire(f"{name}.out", lambda level, now, name=name: order.append((name, now)))  # type: ignore[misc]
    machine.write("io", 0x10 + PERIOD, 1, 5)
    machine.write("io", 0x40 + PERIOD, 1, 3)
    machine.step(12_000)
    assert order == [
        ("other", 3000),
        ("beeper", 5000),
        ("other", 6000),
        ("other", 9000),
        ("beeper", 10_000),
        ("other", 12_000),
    ]


def test_a_pulse_seen_only_in_the_rises_is_delivered_as_raise_and_lower() -> None:
    machine = Machine(make=make)
    machine.add(FakeType(), pulse=1)
    edges = edges_of(machine)
    machine.write("io", 0x10 + PERIOD, 1, 4)
    machine.step(8000)
    assert edges == [(1, 4000), (0, 4000), (1, 8000), (0, 8000)]


def test_a_pulse_on_a_high_line_is_delivered_as_lower_and_raise() -> None:
    machine = Machine(make=make)
    machine.add(FakeType(), pulse=1)
    machine.write("io", 0x10 + LEVEL, 1, 1)
    edges = edges_of(machine)
    machine.write("io", 0x10 + PERIOD, 1, 4)
    machine.step(4000)
    assert edges == [(1, 0), (0, 4000), (1, 4000)]


def test_a_line_that_is_high_is_delivered_to_a_new_sink_at_once() -> None:
    machine = machine_with_beeper()
    machine.write("io", 0x10 + LEVEL, 1, 1)
    assert edges_of(machine) == [(1, 0)]


def test_a_year_at_the_fastest_rate_is_jumped_over_and_counted() -> None:
    machine = Machine(make=make, events_a_step=100)
    machine.add(FakeType(), pulse=1)
    edges = edges_of(machine)
    machine.write("io", 0x10 + PERIOD, 1, 1)
    machine.step(365 * 86400 * 10**9)
    assert machine.statistics.events_jumped == 1
    assert len(edges) == 2 * (100 + PULSES_A_DELIVERY)
    assert machine.devices["beeper"].instance.get("count") == 365 * 86400 * 10**6
    line = machine.line("beeper.out")
    assert line.merged > 0
    assert machine.deadline > machine.now


def test_a_deadline_that_does_not_move_cannot_hold_the_host() -> None:
    machine = Machine(make=make, events_a_step=10**9)
    kind = FakeType()
    machine.add(kind)
    machine.write("io", 0x10 + PERIOD, 1, 1)
    kind.made[0].stuck = True
    machine.step(10_000)
    assert machine.statistics.events_jumped == 1
    assert machine.now == 10_000


def test_time_ends_without_an_error() -> None:
    machine = machine_with_beeper()
    assert machine.step(2**70) == LAST_INSTANT
    assert machine.step(1) == LAST_INSTANT
    assert machine.step(-5) == LAST_INSTANT
    machine.read("io", 0x10, 1)


def test_a_sink_may_access_the_machine_and_sees_the_edge_s_instant() -> None:
    machine = machine_with_beeper()
    seen: list[tuple[int, int, int]] = []

    def sink(level: int, now: int) -> None:
        seen.append((now, machine.now, machine.read("io", 0x10 + COUNT, 1)))
        if len(seen) == 2:
            machine.write("io", 0x10 + PERIOD, 1, 0)

    machine.wire("beeper.out", sink)
    machine.write("io", 0x10 + PERIOD, 1, 3)
    machine.step(1_000_000)
    assert seen == [(3000, 3000, 1), (6000, 6000, 2)]
    assert machine.now == 1_000_000


def test_a_sink_cannot_step_time_while_an_edge_is_delivered() -> None:
    machine = machine_with_beeper()
    seen: list[int] = []

    def sink(level: int, now: int) -> None:
        seen.append(now)
        machine.step(50_000)

    machine.wire("beeper.out", sink)
    machine.write("io", 0x10 + PERIOD, 1, 3)
    machine.step(9000)
    assert seen == [3000, 6000, 9000]
    assert machine.now == 9000


def test_a_line_wired_to_another_device_drives_its_input() -> None:
    machine = machine_with_beeper()
    machine.add(FakeType(), "other", base=0x40)
    machine.wire("beeper.out", "other.level")
    edges = edges_of(machine, "other.out")
    machine.write("io", 0x10 + PERIOD, 1, 2)
    machine.step(4000)
    assert edges == [(1, 2000), (0, 4000)]
    assert machine.read("io", 0x40 + LEVEL, 1) == 0
    with pytest.raises(MachineError, match=r"'other\.period' cannot be driven; other has: level"):
        machine.wire("beeper.out", "other.period")


def test_wires_that_trigger_each_other_for_ever_are_cut_and_counted() -> None:
    machine = machine_with_beeper()
    machine.add(FakeType(), "other", base=0x40)
    machine.wire("beeper.out", "other.level")

    def invert(level: int, now: int) -> None:
        machine.write("io", 0x10 + LEVEL, 1, 1 - level)

    machine.wire("other.out", invert)
    machine.write("io", 0x10 + LEVEL, 1, 1)
    assert machine.statistics.propagation_cut == 1
    machine.read("io", 0x10 + LEVEL, 1)


# --- clocks -----------------------------------------------------------------


class HostTime:
    def __init__(self) -> None:
        self.ns = 5_000_000

    def __call__(self) -> int:
        return self.ns


def test_a_host_clock_stops_and_starts_without_a_jump() -> None:
    host = HostTime()
    clock = HostClock(source=host)
    host.ns += 100
    assert clock.now == 100
    clock.stop()
    host.ns += 10_000
    assert clock.now == 100
    clock.stop()
    clock.start()
    clock.start()
    host.ns += 7
    assert clock.now == 107
    assert clock.now == host.ns + clock.offset


def test_a_host_clock_can_be_set_running_or_stopped() -> None:
    host = HostTime()
    clock = HostClock(now=50, source=host)
    clock.set(1000)
    host.ns += 1
    assert clock.now == 1001
    clock.stop()
    clock.set(2000)
    host.ns += 1
    assert clock.now == 2000
    clock.start()
    assert clock.now == 2000


def test_virtual_time_stays_within_64_bits() -> None:
    assert HostClock(now=2**80, source=HostTime()).now == LAST_INSTANT
    assert SteppedClock(-3).now == 0
    assert LAST_INSTANT < ir.NEVER


def test_on_a_host_clock_late_events_are_delivered_at_their_own_instants() -> None:
    host = HostTime()
    machine = machine_with_beeper(clock=HostClock(source=host))
    edges = edges_of(machine)
    machine.write("io", 0x10 + PERIOD, 1, 3)
    host.ns += 10_000
    assert machine.read("io", 0x10 + COUNT, 1) == 3
    assert edges == [(1, 3000), (0, 6000), (1, 9000)]
    host.ns += 2_000
    assert machine.service() == 15_000
    assert edges[-1] == (0, 12_000)


def test_a_clock_set_back_does_not_take_devices_back() -> None:
    clock = SteppedClock()
    machine = machine_with_beeper(clock=clock)
    machine.write("io", 0x10 + PERIOD, 1, 3)
    machine.step(10_000)
    clock.set(0)
    machine.read("io", 0x10, 1)
    calls = machine.devices["beeper"].instance.calls  # type: ignore[attr-defined]
    assert calls[-1] == ("settle", 10_000)
