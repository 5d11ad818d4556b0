"""Lines that native code delivers: as Python would, and without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from devc.compiler.ir import NEVER
from devc.runtime.bus import PROPAGATION
from devc.runtime.machine import Machine

from .native_board import Edges, NativeBoard, native_messages, native_sink

HPET = 0xFED00000
MS = 1_000_000


class Twin:
    """One machine that Python runs, and one that native code does."""

    def __init__(self, *devices: str | Path) -> None:
        self.machines = Machine(), Machine()
        for machine in self.machines:
            for device in devices:
                machine.add(device)
        self.heard: tuple[dict[str, Edges], dict[str, Edges]] = ({}, {})

    def listen(self, *lines: str) -> None:
        for line in lines:
            plain, native = (heard.setdefault(line, []) for heard in self.heard)
            self.machines[0].wire(line, lambda level, now, to=plain: to.append((level, now)))
            self.machines[1].wire(line, native_sink(lambda level, now, to=native: to.append((level, now))))

    def wire(self, line: str, to: str) -> None:
        for machine in self.machines:
            machine.wire(line, to)

    def start(self) -> NativeBoard:
        self.board = NativeBoard(self.machines[1])
        return self.board

    def write(self, space: str, address: int, width: int, value: int) -> None:
        plain = self.machines[0]
        plain.write(space, address, width, value)  # type: ignore[arg-type]
        self.board.write(space, address, width, value, plain.now)

    def step(self, ns: int) -> None:
        self.machines[0].step(ns)
        self.board.pass_to(self.machines[0].now)
        self.machines[1].clock.set(self.machines[0].now)

    def agree(self) -> dict[str, Edges]:
        assert self.heard[0] == self.heard[1]
        for line in self.heard[0]:
            plain, native = (machine.line(line) for machine in self.machines)
            assert (plain.level, plain.edges, plain.merged) == (native.level, native.edges, native.merged)
        return self.heard[0]


def pit(twin: Twin, mode: int, count: int) -> None:
    for port, value in ((0x43, 0x30 | mode << 1), (0x40, count & 0xFF), (0x40, count >> 8)):
        twin.write("io", port, 1, value)


def legacy(twin: Twin) -> None:
    """The HPET's timer 0, every ms, in the PIT's place."""
    for offset, value in ((0x100, 0x4C), (0x108, 100_000), (0x108, 100_000), (0x10, 3)):
        twin.write("mmio", HPET + offset, 8, value)


@pytest.mark.parametrize("mode", [0, 2, 3])
def test_a_native_sink_hears_what_a_python_sink_would_without_python(mode: int) -> None:
    twin = Twin("i8254")
    twin.listen("i8254.irq0")
    board = twin.start()
    pit(twin, mode, 1193)
    twin.step(10 * MS)
    edges = twin.agree()["i8254.irq0"]
    assert len(edges) >= (1 if mode == 0 else 16)
    assert board.attended == 0


def test_pulses_of_jumped_time_are_delivered_one_by_one_up_to_a_number_and_merged() -> None:
    heard: Edges = []
    machine = Machine()
    machine.add("i8254")
    machine.wire("i8254.irq0", native_sink(lambda level, now: heard.append((level, now))))
    board = NativeBoard(machine)
    for port, value in ((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04)):
        board.write("io", port, 1, value, 0)
    heard.clear()
    board.dispatcher.settle(100 * MS)
    line, rises = machine.line("i8254.irq0"), machine.devices["i8254"].instance.rises[0]
    assert [level for level, _ in heard] == [0, 1] * 16
    assert {now for _, now in heard} == {100 * MS}
    assert line.merged == rises - 1 - 16


def test_a_wire_leads_through_another_device_without_python() -> None:
    twin = Twin("i8254", "mc146818", "hpet")
    twin.wire("i8254.irq0", "hpet.pit")
    twin.wire("mc146818.irq8", "hpet.rtc")
    twin.listen("i8254.irq0", "hpet.irq[2]", "hpet.irq[8]")
    board = twin.start()
    pit(twin, 2, 1193)
    twin.step(5 * MS)
    legacy(twin)
    twin.step(5 * MS)
    twin.write("mmio", HPET + 0x10, 8, 1)
    twin.step(5 * MS)
    heard = twin.agree()
    assert len(heard["hpet.irq[2]"]) > 20
    assert heard["hpet.irq[2]"] != heard["i8254.irq0"]
    assert board.attended == 0


def test_wires_to_one_input_are_ored_in_native_code_too() -> None:
    twin = Twin("i8254", "hpet", "mc146818")
    twin.wire("i8254.irq0", "hpet.pit")
    twin.wire("mc146818.irq8", "hpet.pit")
    twin.listen("hpet.irq[2]")
    twin.start()
    pit(twin, 3, 2386)
    for register, value in ((0x0A, 0x26), (0x0B, 0x42)):
        twin.write("io", 0x70, 1, register)
        twin.write("io", 0x71, 1, value)
    for _ in range(40):
        twin.step(MS // 4)
        twin.write("io", 0x70, 1, 0x0C)
        assert twin.machines[0].read("io", 0x71, 1) == twin.board.read("io", 0x71, 1, twin.machines[0].now)
    machine = twin.machines[1]
    high = machine.line("i8254.irq0").level + machine.line("mc146818.irq8").level
    assert machine.input("hpet.pit").entry.high == high
    edges = len(twin.agree()["hpet.irq[2]"])
    apart = machine.line("i8254.irq0").edges, machine.line("mc146818.irq8").edges
    assert max(apart) - min(apart) < edges < sum(apart)


def test_a_line_without_sinks_costs_no_python() -> None:
    machine = Machine()
    machine.add("i8254")
    board = NativeBoard(machine)
    for port, value in ((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04)):
        board.write("io", port, 1, value, 0)
    board.pass_to(5 * MS)
    assert (board.attended, machine.line("i8254.irq0").edges > 8) == (0, True)


def test_a_python_sink_makes_a_line_pythons_and_all_its_sinks_hear_in_order() -> None:
    heard: list[str] = []
    machine = Machine()
    machine.add("i8254")
    machine.wire("i8254.irq0", native_sink(lambda level, now: heard.append(f"native {level}")))
    board = NativeBoard(machine)
    board.write("io", 0x43, 1, 0x34, 0)
    machine.wire("i8254.irq0", lambda level, now: heard.append(f"python {level}"))
    board.write("io", 0x43, 1, 0x30, 10)
    assert heard == ["native 1", "python 1", "native 0", "python 0"]
    assert board.attended == 1


def test_python_is_told_of_a_line_that_a_native_edge_changed_on_another_device() -> None:
    heard: Edges = []
    machine = Machine()
    machine.add("i8254")
    machine.add("hpet")
    machine.wire("i8254.irq0", "hpet.pit")
    machine.wire("hpet.irq[2]", lambda level, now: heard.append((level, now)))
    board = NativeBoard(machine)
    board.write("io", 0x43, 1, 0x34, 5)
    assert heard == [(1, 5)]
    assert board.attended > 0


def test_a_line_with_a_policy_is_pythons() -> None:
    machine = Machine()
    machine.add("i8254")
    machine.wire("i8254.irq0", native_sink(lambda level, now: None), missed="merge", minimum=0)
    NativeBoard(machine)
    assert not machine.line("i8254.irq0").entry.native


def test_a_message_has_the_address_and_data_of_its_line() -> None:
    sent: list[tuple[int, int]] = []
    machine = Machine()
    machine.add("hpet", fsb=1)
    function, keep = native_messages(lambda address, data: sent.append((address, data)))
    line = machine.line("hpet.msi[1]")
    machine.wire(line.path, line.messages_to(function, 0, keep))
    board = NativeBoard(machine)
    for offset, value in (
        (0x130, 0xFEE00000 << 32 | 0x41),
        (0x120, 0x4004),
        (0x128, 1000),
        (0x10, 1),
    ):
        board.write("mmio", HPET + offset, 8, value, 0)
    board.pass_to(MS)
    assert sent == [(0xFEE00000, 0x41)]
    assert board.attended == 0


def test_wires_that_trigger_each_other_for_ever_are_cut(tmp_path: Path) -> None:
    device = tmp_path / "inverter.dev"
    device.write_text(INVERTER)
    machine = Machine()
    machine.add(device)
    board = NativeBoard(machine)
    board.write("io", 0x300, 1, 1, 0)
    machine.wire("inverter.out", "inverter.back")
    board.write("io", 0x300, 1, 0, 1)
    assert board.dispatcher.bus.cut >= 1
    assert machine.line("inverter.out").edges >= PROPAGATION
    board.write("io", 0x300, 1, 1, 2)
    assert machine.line("inverter.out").level == machine.devices["inverter"].instance.lines & 1


INVERTER = """\
device inverter:
    input back "the input"
    line out "its contrary, but low while held"

    io at 0x300 size 1:
        reg hold @0 u8:
            [0] on rw reset 1

    drive out = not back and not hold.on
"""


def test_an_access_that_was_overtaken_takes_place_when_the_other_did() -> None:
    machine = Machine()
    machine.add("i8254")
    board = NativeBoard(machine)
    for port, value in ((0x43, 0x34), (0x40, 0x00), (0x40, 0x10)):
        board.write("io", port, 1, value, 5 * MS)
    settled = machine.devices["i8254"].instance.settled
    assert settled == 5 * MS
    board.write("io", 0x43, 1, 0x00, 3 * MS)
    late = board.read("io", 0x40, 1, 3 * MS) | board.read("io", 0x40, 1, 3 * MS) << 8
    board.write("io", 0x43, 1, 0x00, 5 * MS)
    assert late == board.read("io", 0x40, 1, 5 * MS) | board.read("io", 0x40, 1, 5 * MS) << 8


def test_after_a_restore_only_levels_are_told() -> None:
    heard: Edges = []
    machine = Machine()
    machine.add("i8254")
    machine.wire("i8254.irq0", native_sink(lambda level, now: heard.append((level, now))))
    board = NativeBoard(machine)
    low = machine.save()
    for port, value in ((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04)):
        board.write("io", port, 1, value, 0)
    board.pass_to(10 * MS)
    machine.clock.set(10 * MS)
    high = machine.save()
    heard.clear()
    machine.restore(low)
    assert [level for level, _ in heard] == [0]
    machine.restore(high)
    assert [level for level, _ in heard] == [0, 1]


def test_a_reset_is_no_pulse_for_who_comes_between_it_and_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may access the device before the lines were told."""
    heard: Edges = []
    machine = Machine()
    machine.add("i8254")
    machine.wire("i8254.irq0", native_sink(lambda level, now: heard.append((level, now))))
    board = NativeBoard(machine)
    for port, value in ((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04)):
        board.write("io", port, 1, value, 0)
    board.pass_to(10 * MS)
    machine.clock.set(10 * MS)
    heard.clear()
    restart = machine._restart

    def late(now: int) -> None:
        board.read("io", 0x40, 1, now)
        restart(now)

    monkeypatch.setattr(machine, "_restart", late)
    machine.reset()
    assert [level for level, _ in heard] == [0]


def test_a_quiet_read_after_a_reset_is_of_the_new_state() -> None:
    machine = Machine()
    machine.add("hpet")
    board = NativeBoard(machine)
    board.write("mmio", HPET + 0x10, 8, 1, 0)
    assert board.read("mmio", HPET + 0xF0, 8, 1000) == 100
    machine.reset()
    assert board.read("mmio", HPET + 0xF0, 8, 2000) == 0
    assert board.read("mmio", HPET + 0x10, 8, 2000) == 0


def test_closing_gives_the_machine_back_to_python() -> None:
    heard: Edges = []
    machine = Machine()
    machine.add("i8254")
    machine.wire("i8254.irq0", native_sink(lambda level, now: heard.append((level, now))))
    board = NativeBoard(machine)
    board.routing.close()
    machine.write("io", 0x43, 1, 0x34)
    assert heard == [(1, 0)]
    assert board.dispatcher.earliest() == NEVER


@pytest.mark.parametrize("recorded", [False, True])
def test_an_observer_without_anything_to_do_is_not_told(tmp_path: Path, recorded: bool) -> None:
    machine = Machine()
    options = {"speaker": {"wav": str(tmp_path / "out.wav")}} if recorded else None
    machine.add("i8254", python=options)
    board = NativeBoard(machine)
    board.attended = 0
    board.write("io", 0x61, 1, 3, 0)
    board.write("io", 0x43, 1, 0xB6, 10)
    assert bool(board.attended) == recorded
    assert machine.devices["i8254"].instance.attention == 0


ASKER = """\
device asker:
    input back "the other's output"
    state count: u8
    io at 0x310 size 1:
        reg ask @0 u8 wo "calls the host":
            write python call
    line up "the input"
    drive up = back
    python "asker.py" call:
        why "stands for a handler that reaches the machine"
        reads count
        writes count
"""
ASKER_PYTHON = """\
class call:
    def __init__(self, reach=None):
        self.reach = reach
    def write(self, view, access):
        self.reach()
        view["count"] = view["count"] + 1
"""


def test_a_handler_may_reach_devices_that_are_wired_back_to_its_own(tmp_path: Path) -> None:
    """It runs under its device's lock, so edges that it sets off wait until it is over."""
    heard: Edges = []
    (tmp_path / "inverter.dev").write_text(INVERTER)
    (tmp_path / "asker.dev").write_text(ASKER)
    (tmp_path / "asker.py").write_text(ASKER_PYTHON)
    machine = Machine()
    machine.add(tmp_path / "inverter.dev")
    reach = {"reach": lambda: machine.write("io", 0x300, 1, 0)}
    asker = machine.add(tmp_path / "asker.dev", python={"call": reach})
    machine.wire("inverter.out", "asker.back")
    machine.wire("asker.up", native_sink(lambda level, now: heard.append((level, now))))
    board = NativeBoard(machine)
    board.write("io", 0x310, 1, 1, 5)
    assert heard == [(1, 5)]
    assert (asker.instance.get("count"), asker.instance.get("back")) == (1, 1)
    assert asker.instance.state[32:36] == bytes(4), "the lock was not given back"
