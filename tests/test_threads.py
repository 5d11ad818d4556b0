"""Several vCPU threads over one set of devices: what they did is some serial order of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from devc.compiler.ir import NEVER
from devc.compiler.traffic import Quiet, Traffic
from devc.runtime.bus import Space
from devc.runtime.quiet import QuietReads

from .hammer import HammeredBoard, address, library, needs_gcc

pytestmark = needs_gcc

PIT, RTC, PM, PIC, HPET = 0x40, 0x70, 0x600, 0x20, 0xFED00000
DEVICES = {"i8254": {}, "mc146818": {}, "acpi_pm": {"base": PM}, "hpet": {}, "i8259": {}}
WIRES = (
    ("i8254.irq0", "hpet.pit"),
    ("mc146818.irq8", "hpet.rtc"),
    ("hpet.irq[2]", "i8259.ir[0]"),
    ("hpet.irq[8]", "i8259.ir[8]"),
    ("acpi_pm.sci", "i8259.ir[9]"),
    ("hpet.irq[0]", "i8259.ir[9]"),
)
LINES = (
    *("i8254.irq0", "mc146818.irq8", "acpi_pm.sci"),
    *("hpet.irq[0]", "hpet.irq[2]", "hpet.irq[8]", "i8259.int"),
)
ACCESSES = 60_000


def board(vcpus: int) -> HammeredBoard:
    """A PC's timers, wired through the HPET to the 8259s, every line told natively."""
    made = HammeredBoard(DEVICES, vcpus)
    for line, to in WIRES:
        made.machine.wire(line, to)
    for line in LINES:
        made.sink(line)
    made.start()
    offer = made.offer
    for counter in range(3):
        offer(Space.IO, PIT, counter, 1, 0x1F, weight=3)
    offer(Space.IO, PIT, 3, 1, 0x3F, 0xFF, weight=2)
    offer(Space.IO, PIT, 0, 2, 0xFF1F)
    offer(Space.IO, RTC, 0, 1, 0x8F, 0x0C, weight=3)
    offer(Space.IO, RTC, 1, 1, 0x7F, 0x2F, weight=6)
    offer(Space.IO, PM, 0, 2, 0xFFFF)
    offer(Space.IO, PM, 2, 2, 0xFFFF)
    offer(Space.IO, PM, 8, 4, weight=4)
    for chip in (PIC, PIC + 0x80):
        offer(Space.IO, chip, 0, 1, 0x6B, 0x20, weight=2)
        offer(Space.IO, chip, 1, 1, 0x01)
    offer(Space.MMIO, HPET, 0x10, 8, 3, weight=2)
    offer(Space.MMIO, HPET, 0x20, 4, 0xFF)
    offer(Space.MMIO, HPET, 0xF0, 8, 0xFFFF, weight=4)
    for timer in (0x100, 0x120, 0x140):
        offer(Space.MMIO, HPET, timer, 8, 0x14E, weight=2)
        offer(Space.MMIO, HPET, timer + 8, 8, 0xFFFF, weight=2)
    return made


def poke(hammered: HammeredBoard) -> Callable[[], None]:
    """The other side: Python's accesses to the same devices."""
    machine = hammered.machine

    def some() -> None:
        machine.write("io", RTC, 1, 0x0B)
        machine.read("io", RTC + 1, 1)
        machine.read("mmio", HPET + 0xF0, 8)
        machine.write("io", PIT, 1, 7)

    return some


def check_replay(hammered: HammeredBoard) -> None:
    for name in hammered.machine.devices:
        replay = hammered.replayed(hammered.machine, name)
        assert replay.events + replay.quiet > ACCESSES // 20, f"{name} was hardly called"
        assert replay.agreed == replay.events, f"{name}: an event that no serial order gives"
        assert replay.quiet_agreed == replay.quiet, f"{name}: a quiet read that no serial order gives"
        assert replay.here == replay.there, name


@pytest.mark.parametrize("vcpus", [1, 2, 3])
def test_what_threads_did_is_what_a_serial_replay_of_the_locks_order_does(vcpus: int) -> None:
    hammered = board(vcpus)
    images: list[bytes] = []
    hammered.run(ACCESSES, vcpus, [poke(hammered), lambda: images.append(hammered.machine.save())])
    hammered.settle()
    check_replay(hammered)
    assert images


def test_sinks_hear_every_edge_once_in_order_and_one_call_at_a_time() -> None:
    hammered = board(2)
    hammered.run(ACCESSES, 2, [poke(hammered)])
    hammered.settle()
    check_replay(hammered)
    for path, told in hammered.told.items():
        line = hammered.machine.line(path)
        assert line.entry.native, f"{path} is left to Python"
        assert (told.wrong, told.level, told.edges) == (0, line.level, line.edges)
        assert told.edges == 2 * (hammered.rises(path) - line.merged) - line.level
    assert hammered.told["i8254.irq0"].edges > 10
    assert hammered.told["hpet.irq[2]"].edges > 10
    for _, to in WIRES:
        driven = hammered.machine.input(to)
        high = sum(hammered.machine.line(path).level for path, other in WIRES if other == to)
        assert (driven.entry.high, driven.level) == (high, bool(high))


def test_every_access_is_counted_once() -> None:
    hammered = HammeredBoard({"acpi_pm": {"base": PM}}, 3)
    hammered.start()
    hammered.offer(Space.IO, PM, 8, 4)
    hammered.offer(Space.IO, PM, 2, 2, 0xFFFF)
    hammered.run(200_000, 3)
    (handle,) = hammered.board.targets
    counted = sum(
        row.light_reads + row.light_writes + row.heavy_reads + row.heavy_writes
        for row in hammered.dispatcher.stats(handle)
    )
    assert counted == 3 * 200_000


def test_a_snapshot_taken_while_threads_run_is_restored_and_saved_alike() -> None:
    hammered = board(2)
    images: list[bytes] = []
    hammered.run(ACCESSES, 2, [lambda: images.append(hammered.machine.save())])
    assert len(images) > 10
    for image in images[:: len(images) // 10]:
        other = board(1)
        other.machine.restore(image)
        assert other.machine.save() == image


def test_reads_without_the_lock_are_of_one_piece() -> None:
    """A device of words that are all alike: a read that sees two that differ tore the state."""
    words, size = 15, 40 + 15 * 8
    state = (ctypes.c_uint64 * (size // 8))(NEVER)
    module, region = SimpleNamespace(size=size), SimpleNamespace(name="words", size=1)
    quiet = Quiet("words", 1, (0,), ((40, 8 * words),))
    reads = QuietReads(Traffic(0, (), (quiet,)), module, region, 3)  # type: ignore[arg-type]
    made = HammeredBoard({}, 2)
    read, write = (address(getattr(library(), f"hammer_{kind}_words")) for kind in ("read", "write"))
    made.start()
    made.dispatcher.add_region("io", 0, 1, read, write, ctypes.addressof(state), quiet=reads)
    made.offer(Space.IO, 0, 0, 1, 0xFF)
    made.run(300_000, 2)
    assert ctypes.c_uint64.in_dll(library(), "hammer_torn").value == 0
