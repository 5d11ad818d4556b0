"""Instances and saved images: every test on both engines."""

from __future__ import annotations

import pytest
from devc.compiler import image, ir
from devc.runtime.instance import Instance, ParameterError, ReferenceInstance, SlotError

from .engine_pair import Compiled
from .ir_samples import ticker

TICKER = Compiled(ticker())


@pytest.fixture(params=["reference", "native"])
def device(request: pytest.FixtureRequest) -> Instance:
    found: Instance = getattr(TICKER.pair(1000), request.param)
    return found


def fresh(device: Instance, now: int = 1000, **params: int) -> Instance:
    pair = TICKER.pair(now, **params)
    return pair.reference if isinstance(device, ReferenceInstance) else pair.native


def test_a_peek_returns_what_a_read_would_and_changes_nothing(device: Instance) -> None:
    before = device.state
    peeked = device.peek("ports", 2000, 4, 1)
    assert device.state == before
    assert device.read("ports", 2000, 4, 1) == peeked
    assert device.peek("ports", 2000, 4, 1) != peeked


def test_a_saved_state_restores_into_another_instance(device: Instance) -> None:
    device.write("ports", 5000, 8, 2, 77)
    device.read("ports", 5000, 4, 1)
    image_ = device.save(6000)
    other = fresh(device)
    other.restore(6000, image_)
    assert other.save(6000) == image_
    assert other.get("cells", 0, 0) == 77
    assert other.read("ports", 6000, 4, 1) == device.read("ports", 6000, 4, 1)


def put(image_: bytes, at: int, data: bytes) -> bytes:
    return image_[:at] + data + image_[at + len(data) :]


def place(name: str, element: int = 0) -> int:
    """Where a slot's element is in an image of the ticker."""
    at = image.HEAD.size
    for slot in image.saved(TICKER.module):
        count = len(list(ir.elements(slot)))
        if slot.name == name:
            return at + element * slot.size
        at += count * slot.size
    raise KeyError(name)


REFUSED = {
    "shorter": (1, "bytes, this one has", lambda i: i[:-1]),
    "empty": (1, "this one has 0", lambda i: b""),
    "longer": (1, "bytes, this one has", lambda i: i + b"\0"),
    "magic": (2, "not a saved device", lambda i: put(i, 0, b"x")),
    "format": (3, "image format 2", lambda i: put(i, 8, b"\2")),
    "version": (4, "saved by version 9 of ticker", lambda i: put(i, 12, b"\x09")),
    "layout": (4, "another layout", lambda i: put(i, 16, bytes([i[16] ^ 1]))),
    "parameter": (5, "hz = 1, this instance has 3579545", lambda i: put(i, place("hz"), b"\1\0\0\0")),
    "value": (6, "flip = 2 in the image is outside 0..1", lambda i: put(i, place("flip"), b"\2")),
    "element": (
        6,
        r"cells\[1\]\[2\] = 1000 .* outside 0..999",
        lambda i: put(i, place("cells", 5), b"\xe8\3"),
    ),
    "signed": (6, "bias = -1001 .* outside -1000..1000", lambda i: put(i, place("bias"), b"\x17\xfc")),
}


@pytest.mark.parametrize(("code", "message", "damage"), REFUSED.values(), ids=REFUSED.keys())
def test_a_damaged_image_is_refused_by_name_and_changes_nothing(
    device: Instance, code: int, message: str, damage
) -> None:
    image_ = device.save(2000)
    device.write("ports", 3000, 8, 2, 5)
    before = device.state
    with pytest.raises(image.ImageError, match=message) as caught:
        device.restore(4000, damage(image_))
    assert caught.value.code == code
    assert device.state == before


def test_an_image_is_little_endian_behind_its_head(device: Instance) -> None:
    saved = device.save(0x0102030405060708)
    assert saved[:16] == b"devc-dev" + b"\1\0\0\0" + b"\3\0\0\0"
    assert saved[24:32] == bytes((8, 7, 6, 5, 4, 3, 2, 1))
    assert saved[32:37] == (3_579_545).to_bytes(4, "little") + (-5).to_bytes(1, "little", signed=True)
    assert len(saved) == image.image_size(TICKER.module)


def test_the_layout_hash_covers_what_is_saved_and_nothing_else() -> None:
    module = ticker()
    assert image.layout_text(module).startswith("ticker 3\nhz 4 - 1 1000000000\ntrim 1 - -100 100\n")
    assert "cells 2 2x3 0 999\n" in image.layout_text(module)
    assert "event" not in image.layout_text(module)
    assert image.layout_hash(module) != image.layout_hash(ticker(version=4))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hz": 0}, "hz = 0 is not an integer in 1..1000000000"),
        ({"trim": -101}, "trim = -101 is not an integer in -100..100"),
        ({"hz": "fast"}, "hz = 'fast' is not an integer in"),
        ({"speed": 1}, "no parameter speed; it has: hz, base, trim"),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(device: Instance, params, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        fresh(device, **params)


def test_parameters_are_stored_and_kept_over_a_reset(device: Instance) -> None:
    made = fresh(device, hz=123, trim=-100)
    made.reset(5)
    assert (made.get("hz"), made.get("trim"), made.params["base"]) == (123, -100, 0x600)


def test_slots_are_read_and_set_by_name_and_index(device: Instance) -> None:
    device.set("cells", 999, 1, 2)
    device.set("bias", -1000)
    assert (device.get("cells", 1, 2), device.get("cells", 1, 1), device.get("bias")) == (999, 5, -1000)
    assert device.read("ports", 1000, 13, 2) == 999


@pytest.mark.parametrize(
    ("slot", "value", "index", "message"),
    [
        ("cells", 1000, (0, 0), "cells = 1000 is outside 0..999"),
        ("bias", -1001, (), "bias = -1001 is outside -1000..1000"),
        ("cells", 1, (2, 0), r"cells is cells\[0..1\]\[0..2\]"),
        ("cells", 1, (0, -1), r"cells is cells\[0..1\]\[0..2\]"),
        ("cells", 1, (), r"cells is cells\[0..1\]\[0..2\]"),
        ("nothing", 1, (), "no slot nothing; it has: deadline"),
        ("hz", 5, (), "hz is a parameter"),
    ],
)
def test_a_set_out_of_range_is_refused_and_changes_nothing(
    device: Instance, slot: str, value: int, index: tuple[int, ...], message: str
) -> None:
    before = device.state
    with pytest.raises(SlotError, match=message):
        device.set(slot, value, *index)
    assert device.state == before


def test_offsets_widths_and_values_are_masked_as_a_c_caller_passes_them(device: Instance) -> None:
    device.write("ports", 1000, 2**32 + 8, 2**32 + 2, 2**64 + 42)
    assert device.get("cells", 0, 0) == 42
    assert device.read("ports", 1000, -(2**32) + 8, 2) == 42


def test_attention_is_taken_and_cleared(device: Instance) -> None:
    assert device.attention == ir.ATTENTION_LINES | ir.ATTENTION_DEADLINE
    device.attention = 0
    assert (device.attention, device.watch, device.leave) == (0, 0, 0)
    assert device.deadline == device.next(1000)
    assert device.lines == device.levels(1000)


def test_a_native_state_begins_on_a_cache_line() -> None:
    assert TICKER.pair(0).native.address % 64 == 0
