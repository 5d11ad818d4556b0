"""Timers, interrupt controllers and a host's side of them on one machine."""

from __future__ import annotations

import random
from typing import Any

import pytest
from devc.runtime.interrupts import Interrupts
from devc.runtime.machine import Machine, MachineError
from devc.runtime.policies import MAPPINGS

from .rig import kind
from .rig_interrupts import LEVEL, MASK

MS = 1_000_000
EVENTS = 500
"""At most in a time step, as what is random may set timers to anything."""
IOAPIC = 0xFEC0_0000
HPET = 0xFED0_0000


class Pc:
    """A machine with both controllers and what it told its host."""

    def __init__(self, engine: str, *devices: str, **given: Any) -> None:
        self.machine = Machine(engine=engine, events_a_step=EVENTS)  # type: ignore[arg-type]
        for device in devices or ("i8259", "ioapic", "i8254"):
            self.machine.add(kind(device), **({"fsb": 1} if device == "hpet" else {}))
        self.int: list[tuple[int, int]] = []
        self.messages: list[tuple[int, int]] = []
        self.routed: list[tuple[int, int | None, int]] = []
        self.interrupts = Interrupts(
            self.machine,
            intr=lambda level, now: self.int.append((level, now)),
            message=lambda address, data, now: self.messages.append((address, data)),
            routed=lambda pin, address, data: self.routed.append((pin, address, data)),
            **given,
        )

    def outb(self, port: int, *values: int) -> None:
        for value in values:
            self.machine.write("io", port, 1, value)

    def program_pics(self, masks: int = 0) -> None:
        for port, base, cascade in ((0x20, 0x20, 4), (0xA0, 0x70, 2)):
            self.outb(port, 0x11)
            self.outb(port + 1, base, cascade, 1)
        self.outb(0x21, masks & 0xFF)
        self.outb(0xA1, masks >> 8)

    def route(self, pin: int, low: int) -> None:
        for index, value in ((0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)):
            self.machine.write("mmio", IOAPIC, 4, index)
            self.machine.write("mmio", IOAPIC + 0x10, 4, value)

    def timer(self, count: int = 1193) -> None:
        """Counter 0 in mode 2: OUT rises with the control word, and then about every ms."""
        self.outb(0x43, 0x34)
        self.outb(0x40, count & 0xFF, count >> 8)

    def take(self) -> list[tuple[int, int]]:
        messages, self.messages = self.messages, []
        return messages


# --- the 8259's side -------------------------------------------------------------------------


def test_a_timers_tick_becomes_a_vector(engine: str) -> None:
    pc = Pc(engine)
    pc.interrupts.connect("i8254.irq0", 0)
    pc.timer()
    pc.program_pics()
    pc.machine.step(3 * MS // 2)
    assert pc.interrupts.pending
    assert pc.interrupts.acknowledge() == 0x20
    assert not pc.interrupts.pending
    assert [level for level, _ in pc.int] == [1, 0]
    risen = next(now for level, now in pc.int if level)
    assert MS < risen < MS + 2000  # at the edge's own instant, not where the machine looked


def test_an_interrupt_of_the_slave_has_its_vector(engine: str) -> None:
    pc = Pc(engine, "i8259", "ioapic", "mc146818")
    pc.interrupts.wire_pc()
    pc.program_pics()
    pc.outb(0x70, 0x0B)
    pc.outb(0x71, 0x42)  # PIE
    pc.machine.step(10 * MS)
    assert pc.interrupts.acknowledge() == 0x70


def test_without_an_8259_there_is_nothing_to_acknowledge(engine: str) -> None:
    pc = Pc(engine, "ioapic")
    assert not pc.interrupts.pending
    with pytest.raises(MachineError, match="add the device i8259"):
        pc.interrupts.acknowledge()


@pytest.mark.parametrize("number", [-1, 24])
def test_an_interrupt_that_a_pc_has_not_is_refused(number: int) -> None:
    with pytest.raises(MachineError, match="a PC has 0 to 23"):
        Pc("native").interrupts.drive(number, 1)


def test_where_each_interrupt_leads() -> None:
    pc = Pc("native")
    assert pc.interrupts.inputs(0) == ("i8259.ir[0]", "ioapic.irq[2]")
    assert pc.interrupts.inputs(2) == ("ioapic.irq[2]",)
    assert pc.interrupts.inputs(9) == ("i8259.ir[9]", "ioapic.irq[9]")
    assert pc.interrupts.inputs(23) == ("ioapic.irq[23]",)


def test_several_drivers_of_one_interrupt_are_an_or(engine: str) -> None:
    pc = Pc(engine)
    pc.program_pics()
    pc.outb(0x4D0, 0x20)
    for level, source, pending in ((1, "a", True), (1, "b", True), (0, "a", True), (0, "b", False)):
        pc.interrupts.drive(5, level, source=source)
        assert pc.interrupts.pending is pending


# --- the I/O APIC's side ------------------------------------------------------------------------


def test_the_timer_is_input_2_of_the_io_apic(engine: str) -> None:
    pc = Pc(engine)
    pc.interrupts.connect("i8254.irq0", 0)
    pc.timer()
    pc.route(2, 0x31)
    pc.machine.step(3 * MS + MS // 2)
    assert pc.take() == [(0xFEE0_0000, 0x4031)] * 3


def test_a_level_is_sent_again_after_the_hosts_eoi(engine: str) -> None:
    pc = Pc(engine)
    pc.route(9, LEVEL | 0x52)
    pc.interrupts.drive(9, 1)
    assert len(pc.take()) == 1
    pc.interrupts.eoi(0x51)
    assert pc.take() == []
    pc.interrupts.eoi(0x52)
    assert len(pc.take()) == 1
    pc.interrupts.drive(9, 0)
    pc.interrupts.eoi(0x52)
    assert pc.take() == []


def test_an_hpet_timers_message_goes_out_too(engine: str) -> None:
    pc = Pc(engine, "ioapic", "hpet")
    write = pc.machine.write
    write("mmio", HPET + 0x110, 8, 0xFEE0_1000 << 32 | 0x4077)
    write("mmio", HPET + 0x100, 8, 1 << 14 | 1 << 2)
    write("mmio", HPET + 0x108, 8, 1000)
    write("mmio", HPET + 0x10, 8, 1)
    pc.machine.step(MS)
    assert pc.take() == [(0xFEE0_1000, 0x4077)]


def test_routes_are_told_when_they_change_and_once(engine: str) -> None:
    pc = Pc(engine)
    pc.route(4, MASK | 0x31)
    assert pc.routed == []
    pc.route(4, 0x31)
    pc.route(4, 0x31)
    pc.route(4, LEVEL | 0x32)
    assert pc.routed == [(4, 0xFEE0_0000, 0x4031), (4, 0xFEE0_0000, 0xC032)]
    assert pc.interrupts.routes() == {4: (0xFEE0_0000, 0xC032)}


def test_a_masked_entry_keeps_its_route_as_its_eoi_may_be_to_come(engine: str) -> None:
    pc = Pc(engine)
    pc.route(4, LEVEL | 0x31)
    pc.routed.clear()
    pc.route(4, MASK | LEVEL | 0x31)
    assert pc.routed == []
    assert pc.interrupts.routes() == {}


def test_after_a_restore_the_host_is_told_again(engine: str) -> None:
    pc = Pc(engine)
    pc.program_pics()
    pc.route(4, 0x31)
    pc.interrupts.drive(1, 1)
    image = pc.machine.save()
    other = Pc(engine)
    other.route(7, 0x33)
    other.routed.clear()
    other.machine.restore(image)
    assert other.routed == [(7, None, 0), (4, 0xFEE0_0000, 0x4031)]
    assert other.int[-1][0] == 1
    assert other.interrupts.acknowledge() == 0x21


def test_after_a_reset_no_route_is_left(engine: str) -> None:
    pc = Pc(engine)
    pc.route(4, 0x31)
    pc.routed.clear()
    pc.machine.reset()
    assert pc.routed == [(4, None, 0)]


# --- ticks under a policy -----------------------------------------------------------------------------


def ticks(pc: Pc) -> Any:
    return pc.machine.statistics.ticks["i8254.irq0"]


def coalescing(engine: str, missed: Any = "delay", **given: Any) -> Pc:
    pc = Pc(engine, **given)
    pc.interrupts.wire_pc({"i8254.irq0": missed})
    return pc


def serve(pc: Pc) -> int:
    """A handler that ends what it was called for."""
    vector = pc.interrupts.acknowledge()
    pc.outb(0x20, 0x20)
    return vector


def test_the_end_of_interrupt_of_the_8259_lets_the_next_tick_come(engine: str) -> None:
    pc = coalescing(engine)
    pc.program_pics()
    pc.timer()
    pc.machine.step(5 * MS + MS // 2)
    assert ticks(pc).delivered == 1
    assert ticks(pc).pending == 5
    assert serve(pc) == 0x20
    for delivered in (2, 3, 4):
        assert ticks(pc).delivered == delivered
        assert serve(pc) == 0x20
        assert not pc.interrupts.pending  # the next comes a period after the last
        pc.machine.step(MS)


def test_no_tick_is_lost_to_a_guest_that_is_slow_for_a_while(engine: str) -> None:
    pc = coalescing(engine, "catchup")
    pc.program_pics()
    pc.timer()
    pc.machine.step(20 * MS)
    served = 0
    while pc.machine.now < 60 * MS:
        if pc.interrupts.pending:
            served += serve(pc) == 0x20
        pc.machine.step(MS // 10)
    assert 60 <= ticks(pc).due <= served + 1
    assert ticks(pc).dropped == 0


def test_a_tick_stays_at_the_8259_until_it_is_taken_even_where_its_line_is_only_pulsed(engine: str) -> None:
    pc = Pc(engine, "i8259", "hpet")
    pc.interrupts.connect("hpet.irq[2]", 0, missed="merge", minimum=0)
    pc.program_pics()
    write = pc.machine.write
    write("mmio", HPET + 0x100, 8, 2 << 9 | 1 << 2)
    write("mmio", HPET + 0x108, 8, 1000)
    write("mmio", HPET + 0x10, 8, 1)
    pc.machine.step(MS)
    assert pc.interrupts.pending
    assert serve(pc) == 0x20


def test_ticks_wait_while_every_controller_masks_them(engine: str) -> None:
    pc = coalescing(engine)
    pc.program_pics(0x0001)
    pc.timer()
    pc.machine.step(3 * MS + MS // 2)
    assert ticks(pc).delivered == 0
    assert ticks(pc).pending == 4
    pc.route(2, 0x31)
    assert pc.take() == [(0xFEE0_0000, 0x4031)]


def test_the_end_of_a_mask_drops_what_waits_where_the_policy_says_so(engine: str) -> None:
    pc = coalescing(engine, MAPPINGS["kvm-reinject"])
    pc.program_pics()
    pc.timer()
    pc.machine.step(3 * MS + MS // 2)
    assert ticks(pc).pending == 3
    pc.outb(0x21, 0x01)
    pc.outb(0x21, 0x00)
    assert ticks(pc).pending == 0


def test_before_the_8259_is_initialized_ticks_wait(engine: str) -> None:
    pc = coalescing(engine, "merge")
    pc.timer()
    pc.machine.step(3 * MS)
    assert ticks(pc).delivered == 0
    pc.program_pics()
    assert pc.interrupts.pending


def test_an_edge_of_the_io_apic_is_acknowledged_as_it_is_sent(engine: str) -> None:
    pc = coalescing(engine)
    pc.route(2, 0x31)
    pc.timer()
    pc.machine.step(4 * MS + MS // 2)
    assert len(pc.take()) == 5
    assert ticks(pc).pending == 0


def test_where_the_host_hears_of_every_eoi_an_edge_waits_for_its_own(engine: str) -> None:
    pc = coalescing(engine, edge_eoi=True)
    pc.route(2, 0x31)
    pc.timer()
    pc.machine.step(4 * MS + MS // 2)
    assert len(pc.take()) == 1
    pc.interrupts.eoi(0x31)
    assert len(pc.take()) == 1


def test_a_snapshot_neither_loses_nor_doubles_a_tick_in_service(engine: str) -> None:
    pc = coalescing(engine)
    pc.program_pics()
    pc.timer()
    pc.machine.step(3 * MS + MS // 2)
    assert pc.interrupts.acknowledge() == 0x20
    other = coalescing(engine)
    other.machine.restore(pc.machine.save())
    assert not other.interrupts.pending
    other.outb(0x20, 0x20)
    assert other.interrupts.pending
    assert ticks(other).pending == ticks(pc).pending - 1


# --- a whole PC ------------------------------------------------------------------------------------


def anything(pc: Pc, seed: int, steps: int) -> list[Any]:
    """A guest and a host that do whatever comes to their minds; what they see."""
    pick, seen = random.Random(seed), []
    pc.program_pics()
    pc.route(2, 0x31)
    for _ in range(steps):
        match pick.randrange(8):
            case 0:
                pc.outb(pick.choice((0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1)), pick.getrandbits(8))
            case 1:
                pc.outb(pick.choice((0x40, 0x42, 0x43, 0x61, 0x70, 0x71)), pick.getrandbits(8))
            case 2:
                pc.route(pick.randrange(24), pick.getrandbits(17))
            case 3:
                offset = pick.choice((0x10, 0x20, 0x100, 0x108, 0x110, 0x120, 0x128))
                pc.machine.write("mmio", HPET + offset, pick.choice((4, 8)), pick.getrandbits(34))
            case 4:
                pc.interrupts.eoi(pick.choice((0x31, pick.getrandbits(8))))
            case 5:
                if pc.interrupts.pending:
                    seen.append(pc.interrupts.acknowledge())
                    pc.outb(0xA0, 0x20)
                    pc.outb(0x20, 0x20)
            case 6:
                pc.interrupts.drive(pick.randrange(24), pick.randrange(2), source=pick.randrange(2))
            case _:
                pc.machine.step(pick.choice((1000, 10**5, 10**7)))
    return [seen, pc.int, pc.messages, pc.routed, pc.machine.save()]


def test_both_engines_make_the_same_of_a_whole_pc() -> None:
    kinds = ("i8259", "ioapic", "i8254", "mc146818", "hpet", "acpi_pm")
    seen = 0
    for seed in range(8):
        found = []
        for engine in ("native", "reference"):
            pc = Pc(engine, *kinds)
            pc.interrupts.wire_pc({"hpet.irq[2]": "catchup", "hpet.irq[8]": "merge"} if seed % 2 else None)
            found.append(anything(pc, seed, 200))
            assert pc.machine.statistics.propagation_cut == 0
        assert found[0] == found[1]
        seen += len(found[0][0]) + len(found[0][2])
    assert seen > 50
