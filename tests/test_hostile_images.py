"""Saved images and snapshots as a hostile author makes them, on both engines.

Whatever comes is refused whole, with nothing changed, or it is a state of the
device like any other: the checked reference engine then finds no value outside
its range over any accesses, and the native engine agrees byte for byte.

Long mode: DEVC_LONG=1 tries ten times as many.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

import pytest
from devc.compiler import image, ir
from devc.compiler.driver import DEVICES, load
from devc.runtime.machine import Machine
from devc.runtime.snapshot import Snapshot, SnapshotError, pack, unpack

from .engine_pair import Compiled, Pair, Step, later, random_call
from .rig import ENGINES, SECOND

LONG = bool(int(os.environ.get("DEVC_LONG", "0")))
TIMES = 10 if LONG else 1
SHIPPED = sorted(path.stem for path in DEVICES.glob("*.dev"))
NOW = 900 * SECOND
PARAMS = {"hpet": {"timers": 32, "fsb": 1}}


@cache
def compiled(name: str) -> Compiled:
    return Compiled(load(name).reference_module())


def aimed(rng: Random, module: ir.Module, now: int) -> Step:
    """Half of the calls at a whole register, with values that mean something more often."""
    if rng.random() < 0.4:
        return random_call(rng, module, now)
    region = rng.choice(module.regions)
    register = rng.choice(region.registers)
    width = min(8, register.width)
    value = rng.choice((0, 2 ** (8 * width) - 1, rng.randrange(256), rng.randrange(2 ** (8 * width))))
    if rng.random() < 0.3:
        return "read", (region.name, now, register.offset, width)
    return "write", (region.name, now, register.offset, width, value)


@cache
def busy_image(name: str, seed: int) -> bytes:
    """Of a device after random accesses, at NOW."""
    instance, rng, now = compiled(name).pair(0, **PARAMS.get(name, {})).reference, Random(seed), 0
    for _ in range(400):
        now += rng.choice((0, 1, 10**4, rng.randrange(4 * 10**8)))
        kind, args = aimed(rng, instance.module, now)
        if kind != "reset":
            getattr(instance, kind)(*args)
    assert now < NOW
    return instance.save(NOW)


def attempt(pair: Pair, content: bytes, now: int) -> bool:
    """Restore into both; whether it was accepted. Refused, it has changed nothing."""
    before = pair.reference.state
    answer = pair.call("restore", now, content)
    if answer is not None:
        assert pair.reference.state == before
    return answer is None


def live(pair: Pair, rng: Random, calls: int, now: int) -> None:
    """Random calls on both, with time that goes forward."""
    for _ in range(calls):
        now = later(rng, now, False)
        kind, args = aimed(rng, pair.reference.module, now)
        pair.call(kind, *args)


# --- damaged bytes ----------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_byte_of_an_image_may_be_hostile(name: str) -> None:
    whole = busy_image(name, 1)
    pair = compiled(name).pair(0, **PARAMS.get(name, {}))
    accepted = refused = 0
    for at, value in damages(len(whole), Random(1)):
        content = whole[:at] + bytes((whole[at] ^ value,)) + whole[at + 1 :]
        if attempt(pair, content, NOW + SECOND):
            accepted += 1
            live(pair, Random(at), 3 * TIMES, NOW + SECOND)
        else:
            refused += 1
    assert min(accepted, refused) > 10


def damages(size: int, rng: Random) -> Iterator[tuple[int, int]]:
    """Each byte with some bit changed, and with a few others."""
    places = [*range(size)] * TIMES
    if not LONG and size > 500:
        places = [*range(image.HEAD.size), *rng.sample(range(size), 500)]
    for at in places:
        yield at, 1 << rng.randrange(8)
        if rng.random() < 0.3:
            yield at, rng.choice((0x80, 0xFF, rng.randrange(1, 256)))


@pytest.mark.parametrize("name", SHIPPED)
def test_an_image_cut_off_anywhere_or_too_long_is_refused(name: str) -> None:
    whole = busy_image(name, 1)
    pair = compiled(name).pair(0, **PARAMS.get(name, {}))
    for length in (*range(0, len(whole), max(1, len(whole) // 150)), len(whole) - 1):
        assert not attempt(pair, whole[:length], NOW)
    for more in (1, 8, len(whole)):
        assert not attempt(pair, whole + bytes(more), NOW)


@pytest.mark.parametrize("name", SHIPPED)
def test_an_image_of_another_device_is_refused(name: str) -> None:
    pair = compiled(name).pair(0, **PARAMS.get(name, {}))
    mine = busy_image(name, 1)
    for other in SHIPPED:
        if other != name:
            content = busy_image(other, 1)
            assert not attempt(pair, content, NOW)
            head = image.HEAD.size  # its own head before the other's values
            body = (content[head:] + bytes(len(mine)))[: len(mine) - head]
            attempt(pair, mine[:head] + body, NOW)


def test_an_hpet_with_another_number_of_timers_is_refused() -> None:
    """CVE-2013-4527."""
    whole = busy_image("hpet", 1)
    for timers in (3, 31):
        pair = compiled("hpet").pair(0, timers=timers, fsb=1)
        answer = pair.call("restore", NOW, whole)
        assert answer[1:] == (image.PARAMETERS, f"saved with timers = 32, this instance has {timers}")


# --- values inside their ranges, which no check can refuse ---------------------


def hostile_values(module: ir.Module, content: bytes, rng: Random, count: int) -> bytes:
    """The image with `count` elements at the edges of their ranges, or those of others of their type."""
    slots = [slot for slot in image.saved(module) if slot.kind == "state"]
    chosen: dict[tuple[str, tuple[int, ...]], int] = {}
    known = image.layout(module).values(content)
    for _ in range(count):
        slot = rng.choice(slots)
        index = tuple(rng.randrange(length) for length, _ in slot.dims)
        lo, hi = slot.type.lo, slot.type.hi
        near = max(lo, min(hi, known[slot.name, index] + rng.choice((-1, 1, 2**32, -(2**32)))))
        chosen[slot.name, index] = rng.choice(
            (lo, hi, min(lo + 1, hi), max(lo, hi - 1), rng.randint(lo, hi), near)
        )
    return image.replaced(module, content, chosen)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("seed", range(3))
def test_any_values_in_their_ranges_make_a_device_that_works(name: str, seed: int) -> None:
    module, rng = compiled(name).module, Random(seed)
    pair = compiled(name).pair(0, **PARAMS.get(name, {}))
    for _ in range(100 * TIMES):
        whole = busy_image(name, rng.randrange(4))
        content = hostile_values(module, whole, rng, rng.choice((1, 2, 5, 30, 300)))
        now = NOW + rng.choice((0, 1, 10**9, 10**17))
        assert attempt(pair, content, now)
        assert_settled(pair, now)
        live(pair, rng, 12, now)


def assert_settled(pair: Pair, now: int) -> None:
    """What the header says is true: the lines are the levels, the deadline the next event's."""
    for each in (pair.reference, pair.native):
        assert each.get("settled") == now
        assert each.lines == each.levels(now)
        assert each.deadline == each.next(now) > now


@pytest.mark.parametrize("name", SHIPPED)
def test_an_image_s_own_instant_may_be_anything_up_to_the_present(name: str) -> None:
    whole = busy_image(name, 2)
    pair = compiled(name).pair(0, **PARAMS.get(name, {}))
    for since in (0, 1, NOW, 2**63, 2**64 - 2, 2**64 - 1):
        content = whole[:24] + since.to_bytes(8, "little") + whole[32:]
        for now in (0, NOW, 2**63, 2**64 - 1):
            assert attempt(pair, content, now) == (since <= now)
        live(pair, Random(since), 10, 2**64 - 1)


@pytest.mark.parametrize("name", SHIPPED)
def test_sections_of_two_images_may_be_exchanged(name: str) -> None:
    """Both are whole images of the device, so any mixture of their values is in range."""
    first, second = busy_image(name, 1), busy_image(name, 3)
    pair, rng = compiled(name).pair(0, **PARAMS.get(name, {})), Random(5)
    ends = []
    at = image.HEAD.size
    for slot in image.layout(compiled(name).module).slots:
        at += slot.size * len(list(slot.indices))
        ends.append(at)
    for _ in range(50 * TIMES):
        low, high = sorted((rng.choice(ends), rng.choice(ends)))
        assert attempt(pair, first[:low] + second[low:high] + first[high:], NOW)
        live(pair, rng, 8, NOW)


# --- whole machines ---------------------------------------------------------


def machine(engine: Any) -> Machine:
    made = Machine(engine=engine, events_a_step=50)
    for name in SHIPPED:
        made.add(name)
    return made


@cache
def snapshot(engine: str) -> bytes:
    made, rng = machine(engine), Random(7)
    for _ in range(200):
        made.step(rng.randrange(10**7))
        for address in (0x40, 0x43, 0x61, 0x70, 0x71, 0x600, 0x602):
            made.write("io", address + rng.randrange(2), 1, rng.randrange(256))
        made.write("mmio", 0xFED00000 + 8 * rng.randrange(64), 4, rng.randrange(2**32))
    return made.save()


def everything(made: Machine) -> tuple[object, ...]:
    return (
        made.now,
        [d.instance.state for d in made.devices.values()],
        [(line.level, line.rises) for d in made.devices.values() for line in d.lines],
        [(w.label, w.base) for w in made.windows()],
        [d.bases for d in made.devices.values()],
    )


def sealed(body: bytes) -> bytes:
    """With a right length and digest, as a hostile author makes it."""
    body = body[:12] + (len(body) + 32).to_bytes(8, "little") + body[20:]
    return body + hashlib.sha256(body).digest()


def use(made: Machine, rng: Random) -> None:
    for _ in range(5):
        made.step(rng.choice((1, 10**6, 10**9)))
        made.write("io", rng.choice((0x40, 0x43, 0x61, 0x70, 0x71, 0x602)), 1, rng.randrange(256))
        made.read("io", rng.choice((0x40, 0x61, 0x71, 0x608)), 1)
        made.read("mmio", 0xFED00000 + 4 * rng.randrange(256), 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hostile_snapshot_is_refused_whole_or_makes_a_machine_that_works(engine: str) -> None:
    body, made, rng = snapshot(engine)[:-32], machine(engine), Random(11)
    accepted = 0
    for _ in range((150 if engine == "native" else 60) * TIMES):
        hostile = bytearray(body)
        for _ in range(rng.choice((1, 1, 2, 8))):
            hostile[rng.randrange(20, len(body))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        before = everything(made)
        try:
            made.restore(sealed(bytes(hostile)))
        except SnapshotError:
            assert everything(made) == before
        else:
            accepted += 1
            use(made, rng)
    assert accepted > 5


@pytest.mark.parametrize("engine", ENGINES)
def test_a_snapshot_whose_devices_have_changed_places_is_refused(engine: str) -> None:
    saved = unpack(snapshot(engine))
    made = machine(engine)
    before = everything(made)
    with pytest.raises(SnapshotError, match="another machine"):
        made.restore(pack(Snapshot(saved.now, saved.devices[::-1])))
    images = [device.image for device in saved.devices]
    for turn in range(1, len(images)):
        exchanged = [
            type(device)(device.name, device.type, device.bases, images[(i + turn) % len(images)])
            for i, device in enumerate(saved.devices)
        ]
        with pytest.raises(SnapshotError, match="does not fit"):
            made.restore(pack(Snapshot(saved.now, tuple(exchanged))))
    assert everything(made) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_device_s_image_from_after_the_snapshot_is_refused(engine: str) -> None:
    saved = unpack(snapshot(engine))
    made = machine(engine)
    before = everything(made)
    with pytest.raises(SnapshotError, match="after the present instant"):
        made.restore(pack(Snapshot(saved.now - 1, saved.devices)))
    assert everything(made) == before


def test_both_engines_take_the_other_s_snapshot() -> None:
    native, reference = machine("native"), machine("reference")
    reference.restore(snapshot("native"))
    native.restore(snapshot("native"))
    assert snapshot("native") == snapshot("reference")
    assert reference.save() == native.save() == snapshot("native")
