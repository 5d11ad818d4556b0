"""Lines that drive other devices' inputs, over resets and restores."""

from __future__ import annotations

from devc.runtime.machine import Machine

Edges = list[tuple[int, int]]


def board(wired: bool = True, engine: str = "native", missed: str = "catchup") -> tuple[Machine, Edges]:
    """A PIT that drives an HPET's input, and what the interrupt controller sees of the HPET's line."""
    machine, edges = Machine(engine=engine), []  # type: ignore[arg-type,var-annotated]
    machine.add("i8254")
    machine.add("hpet")
    if wired:
        machine.wire("i8254.irq0", "hpet.pit")
    machine.wire("hpet.irq[2]", lambda level, now: edges.append((level, now)), missed=missed, minimum=0)
    return machine, edges


def raise_out(machine: Machine) -> None:
    """OUT of counter 0 is high after a control word for mode 3."""
    machine.write("io", 0x43, 1, 0x36)


def test_a_reset_makes_no_tick_of_a_line_that_a_wire_drives(engine: str) -> None:
    machine, edges = board(engine=engine)
    raise_out(machine)
    machine.step(100)
    machine.reset()
    assert edges == [(1, 0), (0, 100)]
    assert machine.statistics.ticks["hpet.irq[2]"].due == 1


def test_a_restore_makes_no_tick_of_a_line_that_a_wire_drives(engine: str) -> None:
    machine, edges = board(engine=engine)
    low = machine.save()
    raise_out(machine)
    high = machine.save()
    for image, seen in ((low, [(1, 0), (0, 0)]), (high, [(1, 0), (0, 0)])):
        machine.restore(image)
        assert edges == seen
    assert machine.devices["hpet"].instance.get("pit") == 1
    assert machine.statistics.ticks["hpet.irq[2]"].due == 1


def test_a_restore_gives_an_input_the_level_of_the_line_that_drives_it(engine: str) -> None:
    apart, _ = board(wired=False)
    raise_out(apart)
    machine, edges = board(engine=engine)
    machine.restore(apart.save())
    assert machine.devices["hpet"].instance.get("pit") == 1
    assert machine.statistics.ticks["hpet.irq[2]"].due == 0
    machine.write("io", 0x43, 1, 0x30)
    raise_out(machine)
    assert machine.statistics.ticks["hpet.irq[2]"].due == 1
    assert edges == [(1, 0)]


def test_a_tick_that_falls_due_in_the_instant_of_one_that_waited_comes_after_it(engine: str) -> None:
    machine, edges = board(engine=engine, missed="merge")
    irq = machine.line("hpet.irq[2]")
    for port, value in ((0x43, 0x34), (0x40, 0xA9), (0x40, 4)):
        machine.write("io", port, 1, value)
    machine.step(5_000_000)
    irq.acknowledge(machine.now)  # delivers what waited
    irq.acknowledge(machine.now)
    machine.write("io", 0x43, 1, 0x30)
    raise_out(machine)
    risen = [now for level, now in edges if level]
    assert risen == [0, machine.now]
    machine.step(1)
    assert [now for level, now in edges if level] == [*risen, machine.now]
