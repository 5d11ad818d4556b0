"""Snapshots: round trips, and what is refused changes nothing."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from devc.runtime.machine import Machine
from devc.runtime.snapshot import DeviceImage, Snapshot, SnapshotError, pack, unpack

from .fake_device import COUNT, LEVEL, PERIOD, FakeType, make, with_python
from .test_python_tier import GOOD


def two_beepers() -> Machine:
    machine = Machine(make=make)
    machine.add(FakeType())
    machine.add(FakeType(), "other", base=0x40, pulse=1)
    return machine


def busy_machine() -> Machine:
    machine = two_beepers()
    machine.write("io", 0x10 + PERIOD, 1, 3)
    machine.write("io", 0x40 + PERIOD, 1, 5)
    machine.step(10_000)
    machine.move("other", "base", 0x80)
    return machine


def edges_of(machine: Machine) -> list[tuple[str, int, int]]:
    edges: list[tuple[str, int, int]] = []
    for name in machine.devices:
        machine.wire(f"{name}.out", lambda level, now, name=name: edges.append((name, level, now)))  # type: ignore[misc]
    return edges


def everything(machine: Machine) -> tuple[object, ...]:
    """All of a machine that a restore could change."""
    return (
        machine.now,
        [dict(d.instance.slots) for d in machine.devices.values()],  # type: ignore[call-overload]
        [d.instance.deadline for d in machine.devices.values()],
        [(line.level, line.rises) for d in machine.devices.values() for line in d.lines],
        [(w.label, w.base) for w in machine.windows()],
        [d.bases for d in machine.devices.values()],
    )


def sealed(body: bytes) -> bytes:
    """A body with a right length and digest: what a hostile author can do."""
    body = body[:12] + (len(body) + 32).to_bytes(8, "little") + body[20:]
    return body + hashlib.sha256(body).digest()


# --- round trips ------------------------------------------------------------


def test_a_restored_machine_goes_on_as_the_saved_one() -> None:
    machine = busy_machine()
    image = machine.save()
    copy = two_beepers()
    copy.restore(image)
    assert copy.now == 10_000
    later = [edges_of(machine), edges_of(copy)]
    for each in (machine, copy):
        each.step(20_000)
    assert later[0] == later[1]
    assert everything(machine) == everything(copy)


def test_saving_changes_nothing() -> None:
    machine = busy_machine()
    before = everything(machine)
    assert machine.save() == machine.save()
    assert everything(machine) == before


def test_a_moved_window_is_where_it_was_saved() -> None:
    image = busy_machine().save()
    copy = two_beepers()
    moved = []
    copy.moved.append(lambda window: moved.append((window.label, window.base)))
    copy.restore(image)
    assert copy.read("io", 0x80 + COUNT, 1) == 2
    assert copy.read("io", 0x40 + COUNT, 1) == 0xFF
    assert moved == [("other.ports", 0x80)]


def test_windows_that_change_places_are_restored() -> None:
    machine = two_beepers()
    image = machine.save()
    machine.move("beeper", "base", 0x20)
    machine.move("other", "base", 0x10)
    machine.move("beeper", "base", 0x40)
    machine.restore(image)
    assert [(w.label, w.base) for w in machine.windows()] == [("beeper.ports", 0x10), ("other.ports", 0x40)]


def test_an_unmapped_window_stays_unmapped() -> None:
    machine = two_beepers()
    machine.move("other", "base", None)
    copy = two_beepers()
    copy.restore(machine.save())
    assert copy.devices["other"].bases == {"base": None}


def test_a_restore_delivers_levels_that_sinks_saw_otherwise_and_no_old_pulses() -> None:
    machine = two_beepers()
    machine.write("io", 0x10 + LEVEL, 1, 1)
    machine.write("io", 0x40 + PERIOD, 1, 1)
    machine.step(100_000)
    image = machine.save()
    copy = two_beepers()
    edges = edges_of(copy)
    copy.restore(image)
    assert edges == [("beeper", 1, 100_000)]
    copy.restore(image)
    assert edges == [("beeper", 1, 100_000)]


def test_time_may_go_back_with_a_restore() -> None:
    machine = busy_machine()
    image = machine.save()
    machine.step(10**9)
    machine.restore(image)
    assert machine.now == 10_000
    edges = edges_of(machine)
    edges.clear()
    machine.step(2_000)
    assert edges == [("beeper", 0, 12_000)]


def test_observers_are_told_after_a_restore(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(GOOD)
    machine = Machine(make=make)
    machine.add(FakeType(with_python(), tmp_path / "beeper.dev"))
    machine.write("io", 0x10 + LEVEL, 1, 1)
    image = machine.save()
    machine.write("io", 0x10 + LEVEL, 1, 0)
    machine.restore(image)
    tier = machine.devices["beeper"].python
    assert tier is not None
    assert [level for _, _, level in tier._handlers[1].server.seen] == [0, 1, 0, 1]  # type: ignore[attr-defined]


# --- refusals ---------------------------------------------------------------


def refused(machine: Machine, image: bytes, message: str) -> None:
    edges = edges_of(machine)
    edges.clear()
    before = everything(machine)
    with pytest.raises(SnapshotError, match=message):
        machine.restore(image)
    assert everything(machine) == before
    assert edges == []


def test_a_truncated_snapshot_is_refused_at_every_length() -> None:
    machine, image = two_beepers(), busy_machine().save()
    before = everything(machine)
    for length in range(len(image)):
        with pytest.raises(SnapshotError):
            machine.restore(image[:length])
    assert everything(machine) == before
    refused(machine, image + b"\0", "truncated or padded")


def test_a_snapshot_with_any_bit_flipped_is_refused() -> None:
    machine, image = two_beepers(), busy_machine().save()
    before = everything(machine)
    for at in range(len(image)):
        damaged = bytearray(image)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotError):
            machine.restore(bytes(damaged))
    assert everything(machine) == before


def test_a_hostile_snapshot_with_a_right_digest_never_does_worse_than_be_refused() -> None:
    machine, body = two_beepers(), busy_machine().save()[:-32]
    source = random.Random(1)
    for _ in range(3000):
        hostile = bytearray(body)
        for _ in range(source.randint(1, 4)):
            hostile[source.randrange(24, len(body))] = source.choice(
                (0, 1, 0x7F, 0xFF, source.randrange(256))
            )
        before = everything(machine)
        try:
            machine.restore(sealed(bytes(hostile)))
        except SnapshotError:
            assert everything(machine) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"QEVM" + b[4:], "not a devc snapshot"),
        (lambda b: b[:8] + b"\3" + b[9:], "format 3; this version of devc reads formats 1 and 2"),
        (lambda b: b[:20] + b"\xff" * 8 + b[28:], "its time is out of range"),
        (lambda b: b[:28] + b"\xff" * 4 + b[32:], "malformed"),
        (lambda b: b[:28] + b"\1" + b[29:], "something follows its last device"),
        (lambda b: b + b"x", "something follows its last device"),
        (lambda b: b.replace(b"other", b"oth\xffr"), "a name is not text"),
        (lambda b: b.replace(b"other", b"otter"), "another machine: it has beeper .beeper., otter"),
        (lambda b: b.replace(b'"period": 5', b'"period":-5'), "image of other does not fit"),
    ],
)
def test_a_snapshot_that_does_not_fit_says_why(change, message: str) -> None:  # type: ignore[no-untyped-def]
    refused(two_beepers(), sealed(change(busy_machine().save()[:-32])), message)


def test_the_last_device_s_bad_image_leaves_the_first_unchanged() -> None:
    saved = unpack(busy_machine().save())
    first, second = saved.devices
    bad = Snapshot(saved.now, (first, DeviceImage(second.name, second.type, second.bases, b"{")))
    refused(two_beepers(), pack(bad), "image of other does not fit: a wrong magic")


def test_a_snapshot_whose_windows_overlap_is_refused() -> None:
    saved = unpack(busy_machine().save())
    first, second = saved.devices
    bad = Snapshot(saved.now, (first, DeviceImage(second.name, second.type, (("base", 17),), second.image)))
    refused(two_beepers(), pack(bad), "address map does not fit: other.ports .* overlaps beeper.ports")


def test_a_snapshot_may_not_cover_a_window_of_the_host() -> None:
    machine = two_beepers()
    machine.claim("exit port", "io", 0x81, 1)
    refused(machine, busy_machine().save(), "overlaps exit port")


def test_a_snapshot_of_a_machine_with_other_devices_is_refused() -> None:
    one = Machine(make=make)
    one.add(FakeType())
    refused(two_beepers(), one.save(), "another machine")
    refused(one, two_beepers().save(), "another machine")
    refused(one, Machine().save(), "no devices")


def test_the_container_round_trips_whatever_it_holds() -> None:
    saved = Snapshot(
        2**64 - 2,
        (
            DeviceImage("ü", "t", (("a", None), ("b", 2**64 - 2)), b""),
            DeviceImage("", "", (), bytes(range(256))),
        ),
    )
    assert unpack(pack(saved)) == saved
