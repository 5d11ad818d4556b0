"""The machine with the shipped devices: hostile guests, both engines, steps and snapshots."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest
from devc.runtime.machine import Engine, Machine
from devc.runtime.snapshot import SnapshotError

PORTS = (*range(0x3E, 0x48), 0x60, 0x61, 0x62, *range(0x5FE, 0x60E), 0xFFFF)
Edges = list[tuple[str, int, int]]


def pc(engine: Engine = "native") -> tuple[Machine, Edges]:
    """A PIT and a PM timer, and every edge of their lines."""
    machine = Machine(engine=engine)
    edges: Edges = []
    for device in ("i8254", "acpi_pm"):
        for line in machine.add(device).lines:
            machine.wire(line.path, lambda level, now, path=line.path: edges.append((path, level, now)))  # type: ignore[misc]
    return machine, edges


def guest(seed: int, length: int, longest: int = 10**7) -> Iterator[tuple[str, int, int, int]]:
    """What a hostile guest does: (kind, address or ns, width, value); steps of up to `longest` ns."""
    source = random.Random(seed)
    for _ in range(length):
        kind = source.choice(("read", "write", "write", "step"))
        if kind == "step":
            yield "step", source.choice((0, 1, 838, 5000, 10**6, longest)), 0, 0
        else:
            yield kind, source.choice(PORTS), source.choice((1, 1, 1, 2, 4, 8, 3, 7)), source.getrandbits(64)


def do(machine: Machine, kind: str, where: int, width: int, value: int) -> int:
    if kind == "step":
        return machine.step(where)
    if kind == "read":
        return machine.read("io", where, width)
    machine.write("io", where, width, value)
    return 0


def test_both_engines_give_a_hostile_guest_the_same_answers_edges_and_snapshots() -> None:
    (native, edges), (reference, others) = pc(), pc("reference")
    for machine in (native, reference):
        machine._events_a_step = 50
    for at, act in enumerate(guest(1, 700, 2**40)):
        assert do(native, *act) == do(reference, *act), (at, act)
    assert edges == others
    assert native.save() == reference.save()
    assert native.statistics.registers == reference.statistics.registers


def test_splitting_steps_changes_no_answer_and_no_edge() -> None:
    (whole, edges), (split, others) = pc(), pc()
    source = random.Random(2)
    for act in guest(3, 1500):
        if act[0] != "step":
            assert do(whole, *act) == do(split, *act)
            continue
        ns = act[1]
        whole.step(ns)
        first = source.randint(0, ns)
        split.step(first)
        split.step(ns - first)
    assert edges == others


def test_saving_and_restoring_in_the_middle_changes_nothing() -> None:
    (straight, edges), (moved, others) = pc(), pc()
    for at, act in enumerate(guest(4, 1500)):
        assert do(straight, *act) == do(moved, *act), at
        if at % 50 == 0:
            seen = list(others)
            image, (moved, others) = moved.save(), pc()
            moved.restore(image)
            others[:] = seen
    assert edges == others


def test_a_peek_tells_what_a_read_will_return_and_changes_nothing() -> None:
    machine, _ = pc()
    for act in guest(5, 1500):
        if act[0] == "read":
            before = machine.save()
            seen = machine.peek("io", act[1], act[2])
            assert machine.save() == before
            if act[2] == 1 or act[1] > 0x100:  # the bytes of a split read have effects on each other
                assert seen == machine.read("io", act[1], act[2])
        else:
            do(machine, *act)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_hostile_snapshot_is_refused_or_restored_and_never_harms(engine: Engine) -> None:
    machine, _ = pc(engine)
    for act in guest(6, 200, 10**4):
        do(machine, *act)
    body, source = machine.save()[:-32], random.Random(7)
    refused = 0
    for _ in range(400):
        hostile = bytearray(body)
        for _ in range(source.randint(1, 3)):
            hostile[source.randrange(28, len(hostile))] = source.choice((0, 0xFF, source.randrange(256)))
        before = machine.save()
        try:
            machine.restore(bytes(hostile) + hashlib.sha256(hostile).digest())
        except SnapshotError:
            refused += 1
            assert machine.save() == before
        machine.step(2000)
        machine.read("io", 0x40, 1)
    assert 100 < refused < 400
