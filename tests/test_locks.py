"""Lock files and upgrade steps: a layout does not change unnoticed, and older images come along."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import pytest
from devc.cli.check import check
from devc.compiler import image, locks
from devc.compiler.driver import DEVICES, DeviceType, load
from devc.compiler.locks import LockError
from devc.runtime.instance import ImageError, Instance
from devc.runtime.machine import Machine, instantiate
from devc.runtime.snapshot import SnapshotError

from .rig import ENGINES, SECOND

FIRST = """
device dial(hz: 1..1_000_000 = 1000, base: port = 0x10):
    clock osc = hz Hz
    counter n: u32 at osc while on
    alarm bell at osc
    state on: bool
    state level: u8 = 7
    state speed: u8 = 9
    state cells: u8[3] = 1
    line irq
    drive irq = level == 5
    on bell: level = 5

    io at base size 8, gaps zeros:
        reg a @0 u8:
            read: return wrap(on)
            write v: on = v[0]
        reg b @1 u8:
            read: return level
            write v: level = v
        reg c @2 u8:
            read: return speed
            write v: speed = v
        reg d @3 u8:
            read: return cells[2]
            write v: cells[2] = v; arm bell in 100
        reg e @4 u32 = n
"""
SECOND_STEP = (
    FIRST.replace("state level: u8 = 7", "state level: 0..99 = 7")
    .replace("level = v", "level = sat(v)")
    .replace("state speed: u8 = 9", "state half: u8 = 2")
    .replace("return speed", "return half")
    .replace("speed = v", "half = v")
    .replace("u8[3]", "u8[5]")
    + """
    counter fresh: u16 at osc
    state spare: u8 = 33
    checkpoint 2:
        from 1 (speed: u8, level as was: u8):
            half = speed / 2
            level = sat(was)
            if was == 200: on = false
    io more at 0x80 size 4, gaps zeros:
        reg f @0 u16 = fresh
        reg g @2 u8 = spare
"""
)
THIRD = SECOND_STEP.replace("checkpoint 2:", "checkpoint 3:") + "\n".join(
    ("    state twice: u8", "    io third at 0x90 size 1:", "        reg h @0 u8 = twice", "")
)
STOP = "            if was == 200: on = false\n"
THIRD = THIRD.replace(STOP, f"{STOP}        from 2 (half as was: u8 = 1): twice = wrap(2 * was)\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dial.dev"
    path.write_text(FIRST)
    assert check([path], lock=True) == 0
    return path


def change(path: Path, text: str) -> DeviceType:
    path.write_text(text)
    assert check([path], lock=True) == 0
    return load(path, None)


def busy(path: Path, engine: str, level: int = 150) -> tuple[Instance, bytes]:
    """A dial of the file that stands at 40 ticks, and its image at 1.04 s."""
    made = instantiate(load(path, None), engine, SECOND, {"hz": 1000})  # type: ignore[arg-type]
    for offset, value in ((0, 1), (1, level), (2, 9), (3, 77)):
        made.write("io", SECOND, offset, 1, value)
    return made, made.save(SECOND + 40_000_000)


# --- locks ------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in DEVICES.glob("*.dev")))
def test_the_shipped_devices_locks_are_current(name: str) -> None:
    path = locks.beside(DEVICES / f"{name}.dev")
    mend = f"devc check --lock {name}"
    assert path.exists(), f"devices/{name}.lock is missing; run: {mend}"
    found = locks.check(load(name, None).reference_module(), path)
    wrong = "; ".join(f"{d.message}; {d.help}" for d in found if d.severity == "error")
    assert not wrong, (
        f"devices/{name}.lock: {wrong}\n"
        f"If images of it were released, raise the checkpoint of {name}.dev, add a step, and run: {mend}\n"
        f"If none was, run: rm devices/{name}.lock && {mend}"
    )


def test_a_lock_for_every_shipped_device_and_no_other() -> None:
    assert {p.stem for p in DEVICES.glob("*.lock")} == {p.stem for p in DEVICES.glob("*.dev")}


def test_a_lock_reads_back_as_it_was_written(file: Path) -> None:
    module = load(file, None).module
    assert locks.read(locks.beside(file), "dial") == {1: image.layout(module)}
    change(file, SECOND_STEP)
    assert sorted(locks.read(locks.beside(file), "dial")) == [1, 2]


def test_a_file_without_a_lock_is_held_to_none(tmp_path: Path) -> None:
    path = tmp_path / "dial.dev"
    path.write_text(FIRST)
    assert check([path]) == 0
    assert not locks.beside(path).exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("state on: bool", "state on: bool\n    state more: u8", "'more' is new"),
        ("speed: u8", "speed: u16", "'speed' was 0..255 and is 0..65535"),
        ("cells: u8[3]", "cells: u8[4]", r"'cells' was 0..255[3] and is 0..255[4]"),
        (
            "state level: u8 = 7\n    state speed: u8 = 9",
            "state speed: u8 = 9\n    state level: u8 = 7",
            "order",
        ),
    ],
)
def test_a_changed_layout_without_a_new_checkpoint_is_an_error(
    file: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    text = FIRST.replace(old, new)
    if "u16" in new:
        text = text.replace("return speed", "return speed[7:0]")
    file.write_text(
        text + "    io more at 0x80 size 1:\n        reg z @0 u8 = more\n" if "more" in new else text
    )
    before = locks.beside(file).read_text()
    assert check([file]) == check([file], lock=True) == 1
    said = capsys.readouterr().err
    assert "E701" in said
    assert message in said
    assert "raise the checkpoint and say how an older image is upgraded, 'checkpoint 2:'" in said
    assert locks.beside(file).read_text() == before


def test_what_is_not_saved_may_change(file: Path) -> None:
    file.write_text(FIRST.replace("cells[2]", "cells[1]").replace("level == 5", "level == 6"))
    assert check([file]) == 0


def test_a_new_checkpoint_is_an_error_until_it_is_locked(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(SECOND_STEP)
    assert check([file]) == 1
    assert "E702" in (said := capsys.readouterr().err)
    assert f"'devc check --lock {file}' adds it" in said
    assert check([file], lock=True) == 0
    assert check([file]) == 0


def test_a_checkpoint_does_not_go_back(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(file, SECOND_STEP)
    file.write_text(FIRST)
    assert check([file], lock=True) == 1
    assert "this is checkpoint 1, and dial.lock records 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("formers", "message"),
    [
        ("velocity: u8", "images of checkpoint 1 hold no 'velocity'"),
        ("cells[3] as speed: u8", r"images of checkpoint 1 hold no 'cells\[3\]'"),
        ("speed: 0..9", "'speed' was 0..255 in checkpoint 1, which does not fit"),
    ],
)
def test_a_step_that_takes_what_images_do_not_hold_is_an_error(
    file: Path, capsys: pytest.CaptureFixture[str], formers: str, message: str
) -> None:
    text = SECOND_STEP.replace("(speed: u8,", f"({formers},").replace("speed / 2", "1")
    file.write_text(text)
    assert check([file], lock=True) == 1
    assert "E703" in (said := capsys.readouterr().err)
    assert message.replace("\\", "") in said


def test_a_narrowed_value_that_no_step_takes_is_warned_of(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(
        SECOND_STEP.replace(", level as was: u8", "").replace("sat(was)", "1").replace("was ==", "level ==")
    )
    check([file], lock=True)
    assert "W701" in (said := capsys.readouterr().err)
    assert "'level' was 0..255 and is 0..99" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("0  255", "0  254"), "changed by hand"),
        (lambda text: text.replace("checkpoint 1", "checkpoint 4"), "changed by hand"),
        (lambda text: text.replace("of dial, layout", "of dail, layout"), "the lock of dail, not of dial"),
        (lambda text: text + text[text.index("checkpoint 1") :], "recorded twice"),
        (lambda text: text + "something\n", "no record of a checkpoint"),
        (lambda text: text.replace("state  level   1", "state  level   3"), "no record"),
        (lambda text: text.replace("  255", "  256"), "0..256 is no range of 1 bytes"),
        (lambda text: text.replace("1  3  ", "1  3x3x3x3x3x3x3  "), "more than a device can have"),
        (lambda text: text.replace("1  3  ", "1  999999999999  "), "more than a device can have"),
    ],
)
def test_a_damaged_lock_is_an_error_with_its_line(  # type: ignore[no-untyped-def]
    file: Path, capsys: pytest.CaptureFixture[str], change, message: str
) -> None:
    path = locks.beside(file)
    damaged = change(path.read_text())
    path.write_text(damaged)
    with pytest.raises(LockError, match=r"dial.lock:\d+: "):
        locks.read(path, "dial")
    assert check([file]) == check([file], lock=True) == 1
    assert message in capsys.readouterr().err
    assert path.read_text() == damaged


def test_a_lock_that_is_no_text_is_an_error(file: Path) -> None:
    locks.beside(file).write_bytes(b"\xff\xfe\0")
    assert check([file]) == 1


# --- upgrades ---------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_an_older_image_is_carried_over_by_name_and_then_upgraded(file: Path, engine: str) -> None:
    _, saved = busy(file, engine)
    new = instantiate(change(file, SECOND_STEP), engine, 0, {"hz": 1000})  # type: ignore[arg-type]
    new.restore(SECOND + 50_000_000, saved)
    now = SECOND + 50_000_000
    assert [new.read("io", now, offset, 1) for offset in range(4)] == [1, 99, 4, 77]
    assert new.read("io", now, 4, 4) == 50  # the counter went on
    assert [new.get("cells", i) for i in range(5)] == [1, 1, 77, 1, 1]
    assert new.get("spare") == 33
    assert new.read("more", now, 0, 2) == 10  # a new counter begins at the image's instant
    assert new.deadline == SECOND + 100_000_000  # the alarm is armed still


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_run_in_order_from_the_image_s_version(file: Path, engine: str) -> None:
    _, first = busy(file, engine)
    change(file, SECOND_STEP)
    second, _ = busy(file, engine, 50)
    saved = second.save(SECOND + 40_000_000)
    type_ = change(file, THIRD)
    assert type_.module.version == 3
    now = SECOND + 40_000_000
    new = instantiate(type_, engine, 0, {"hz": 1000})  # type: ignore[arg-type]
    new.restore(now, saved)
    assert (new.get("twice"), new.get("half")) == (18, 9)
    new.restore(now, first)
    assert (new.get("twice"), new.get("half")) == (2, 4)  # version 1 had no `half`: its default


@pytest.mark.parametrize("engine", ENGINES)
def test_a_counter_that_an_upgrade_stops_holds_its_value(file: Path, engine: str) -> None:
    _, saved = busy(file, engine, 200)
    new = instantiate(change(file, SECOND_STEP), engine, 0, {"hz": 1000})  # type: ignore[arg-type]
    new.restore(2 * SECOND, saved)
    assert new.get("on") == 0
    assert new.read("io", 2 * SECOND, 4, 4) == 40


def test_a_machine_takes_an_older_snapshot(file: Path) -> None:
    machine = Machine()
    machine.add(file)
    machine.write("io", 0x12, 1, 30)
    machine.step(1_000_000)
    saved = machine.save()
    change(file, SECOND_STEP)
    new = Machine()
    new.add(file)
    new.restore(saved)
    assert new.read("io", 0x12, 1) == 15
    assert new.now == 1_000_000


def put(image_: bytes, at: int, data: bytes) -> bytes:
    return image_[:at] + data + image_[at + len(data) :]


HZ = [struct.pack("<I", hz) for hz in (1000, 1001)]
# layout of FIRST: n.tick, bell (8 bytes each), hz, n.base (4), on, level, speed, cells
REFUSED = {
    "length": (image.LENGTH, "an image of version 1 of dial has 62 bytes", lambda i: i + b"\0"),
    "layout": (image.LAYOUT, "another layout than version 1", lambda i: put(i, 16, b"\0\0")),
    "version": (image.LAYOUT, "does not say how version 0 is upgraded", lambda i: put(i, 12, b"\0")),
    "parameter": (image.PARAMETERS, "hz = 1001, this instance has 1000", lambda i: i.replace(*HZ)),
    "value": (image.VALUE, "on = 2 in the image", lambda i: put(i, 56, b"\2")),
    "tick": (image.VALUE, "n.tick = 18446744073709551615", lambda i: put(i, 32, b"\xff" * 8)),
    "instant": (image.INSTANT, "after the present instant", lambda i: put(i, 24, b"\xff" * 8)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("code", "message", "damage"), REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_older_image_is_refused_and_changes_nothing(  # type: ignore[no-untyped-def]
    file: Path, engine: str, code: int, message: str, damage
) -> None:
    _, saved = busy(file, engine)
    new = instantiate(change(file, SECOND_STEP), engine, 0, {"hz": 1000})  # type: ignore[arg-type]
    before = new.state
    with pytest.raises(ImageError, match=message) as caught:
        new.restore(3 * SECOND, damage(saved))
    assert caught.value.code == code
    assert new.state == before


def test_every_byte_of_an_older_image_may_be_hostile(file: Path) -> None:
    _, saved = busy(file, "reference")
    type_ = change(file, THIRD)
    pair = [instantiate(type_, engine, 0, {"hz": 1000}) for engine in ENGINES]  # type: ignore[arg-type]
    rng, accepted = Random(1), 0
    for at in range(len(saved)):
        for value in {0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)}:
            before = [each.state for each in pair]
            outcomes = [restored(each, 3 * SECOND, put(saved, at, bytes((value,)))) for each in pair]
            assert outcomes[0] == outcomes[1]
            assert pair[0].state == pair[1].state
            if outcomes[0] is not None:
                assert [each.state for each in pair] == before
                continue
            accepted += 1
            register = rng.randrange(4)
            for each in pair:
                each.write("io", 4 * SECOND, register, 1, value)
                each.read("more", 5 * SECOND, 0, 2)
    assert accepted > 50


def restored(instance: Instance, now: int, content: bytes) -> tuple[int, str] | None:
    try:
        instance.restore(now, content)
    except ImageError as error:
        return error.code, str(error)
    return None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("checkpoint 2:", "checkpoint 4:\n        from 3: pass\n        from 2: pass", None),
        ("checkpoint 2:", "checkpoint 3:", "does not say how version 2 is upgraded"),
    ],
)
def test_every_step_on_the_way_must_be_said(file: Path, old: str, new: str, message: str | None) -> None:
    _, saved = busy(file, "reference")
    made = instantiate(change(file, SECOND_STEP.replace(old, new)), "reference", 0, {"hz": 1000})
    if message is None:
        made.restore(2 * SECOND, saved)
        return
    with pytest.raises(ImageError, match=message):
        made.restore(2 * SECOND, saved)


def test_a_value_that_no_longer_fits_is_refused_unless_a_step_takes_it(file: Path) -> None:
    _, saved = busy(file, "native", 150)
    text = (
        SECOND_STEP.replace(", level as was: u8", "")
        .replace("sat(was)", "sat(level)")
        .replace("was ==", "level ==")
    )
    made = instantiate(change(file, text), "native", 0, {"hz": 1000})
    with pytest.raises(ImageError, match=r"level = 150 in the image is outside 0\.\.99"):
        made.restore(2 * SECOND, saved)


def test_without_a_lock_an_older_image_is_refused_by_name(file: Path) -> None:
    _, saved = busy(file, "native")
    new = instantiate(change(file, SECOND_STEP), "native", 0, {"hz": 1000})
    locks.beside(file).unlink()
    with pytest.raises(ImageError, match=r"whose layout is not recorded in dial\.lock") as caught:
        new.restore(2 * SECOND, saved)
    assert caught.value.code == image.LAYOUT


def test_a_machine_refuses_what_it_cannot_upgrade(file: Path) -> None:
    machine = Machine()
    machine.add(file)
    saved = machine.save()
    change(file, SECOND_STEP)
    locks.beside(file).write_text("nonsense")
    new = Machine()
    new.add(file)
    with pytest.raises(SnapshotError, match=r"dial\.lock:1: this is no record"):
        new.restore(saved)


def test_an_image_of_a_newer_version_is_refused(file: Path) -> None:
    _, saved = busy(file, "native")
    made = instantiate(load(file, None), "native", 0, {"hz": 1000})
    with pytest.raises(ImageError, match=r"saved by version 2 of dial, this is 1"):
        made.restore(2 * SECOND, put(saved, 12, b"\2"))


@pytest.mark.parametrize(
    ("step", "code", "message"),
    [
        ("from 2: pass", "E201", "from a version before 2, not from 2"),
        ("from 0: pass", "E201", "from a version before 2, not from 0"),
        ("from 1: pass\n        from 1: pass", "E102", "'from 1' stands twice"),
        ("from 1 (level: u8): pass", "E102", "'level' is what it is called now"),
        ("from 1 (cells[0]: u8): pass", "E103", "needs a name of one word"),
        ("from 1 (speed: u8 = level): pass", "E103", "is a constant"),
        ("from 1: level = 100", "E201", "100"),
        ("from 1: irq = true", "E301", "not stored"),
        ("from 1: return 1", "E103", "only a register's read returns"),
        ("from 1: nothing = 1", "E101", "'nothing' is not defined"),
    ],
)
def test_a_step_is_checked_like_any_statement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str, code: str, message: str
) -> None:
    path = tmp_path / "dial.dev"
    head, tail = (
        SECOND_STEP[: SECOND_STEP.index("        from 1")],
        SECOND_STEP[SECOND_STEP.index("    io more") :],
    )
    path.write_text(f"{head}        {step}\n{tail}")
    assert check([path]) == 1
    said = capsys.readouterr().err
    assert f"error[{code}]" in said
    assert message in said


def test_a_device_has_one_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dial.dev"
    path.write_text(FIRST + "    checkpoint 1\n    checkpoint 2\n")
    assert check([path]) == 1
    assert "a device has one checkpoint" in capsys.readouterr().err


def test_the_compiled_device_has_no_code_for_upgrades(file: Path) -> None:
    module = change(file, SECOND_STEP).reference_module()
    from devc.compiler import native

    assert "upgrade" not in native.build(module)


def test_the_manual_s_example_upgrades_as_it_says(tmp_path: Path) -> None:
    manual = Path(__file__).parents[1] / "docs" / "state.md"
    (present,) = (part for part in manual.read_text().split("```") if part.startswith("\ndevice dial"))
    first = present.replace("level: 0..99", "level: u8").replace("half: u8 = 2", "speed: u8 = 9")
    first = first.replace("= half", "= speed").replace("state alert: bool", "").replace("= alert", "= 0")
    first = first[: first.index("    checkpoint")] + first[first.index("    io at") :]
    path = tmp_path / "dial.dev"
    made = instantiate(change(path, first), "native", 0, {})
    made.set("level", 200)
    saved = made.save(0)
    new = instantiate(change(path, present), "native", 0, {})
    new.restore(0, saved)
    assert [new.get(name) for name in ("level", "half", "alert")] == [99, 4, 1]
