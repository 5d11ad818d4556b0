"""The ABI functions that follow from a layout: init, peek, save, restore; and whole devices."""

from __future__ import annotations

import struct

import pytest
from devc.compiler import image, native
from devc.compiler.ir import SECOND
from devc.compiler.reference import reference
from devc.compiler.verify import verify
from hypothesis import given, settings
from hypothesis import strategies as st

from .ir_samples import BIAS, CELL, HZ, TRIM, bare, lay_out, ticker
from .native_calls import Device

MODULE = ticker()
HEAD = image.HEAD.size


@pytest.fixture
def device() -> Device:
    return Device(MODULE, now=5)


def test_the_sample_device_is_valid_ir() -> None:
    verify(MODULE)


def test_init_clamps_parameters_into_their_ranges() -> None:
    for given_, kept in ((0, HZ.lo), (2**63, HZ.hi), (77, 77)):
        assert Device(MODULE, given_, 0).value("hz") == kept
    for given_, kept in ((-101, TRIM.lo), (101, TRIM.hi), (-100, -100), (-(2**63), TRIM.lo)):
        assert Device(MODULE, 1000, given_).value("trim") == kept


def test_init_leaves_nothing_of_what_the_memory_held(device: Device) -> None:
    clean = device.bytes
    device.state.raw = b"\xff" * MODULE.size
    device.init(device.state, 5, 3_579_545, -5 % 2**64)
    assert device.bytes == clean


def test_peek_answers_as_a_read_would_and_changes_no_byte(device: Device) -> None:
    for now in (5, SECOND, 3 * SECOND):
        for offset in range(18):
            before = device.bytes
            peeked = device.ports_peek(device.state, now, offset, 4)
            assert device.bytes == before
            assert device.ports_read(device.state, now, offset, 4) == peeked


def test_an_image_is_what_the_reference_engine_packs(device: Device) -> None:
    device.ports_write(device.state, 10, 9, 2, 321)
    device.ports_write(device.state, 10, 14, 2, 1)
    content = device.saved(20)
    assert content == image.pack(MODULE, device.bytes, 20)
    assert struct.unpack_from("<h", content, HEAD + 5 + 1 + 8)[0] == BIAS.lo + 1


def test_saving_settles_first(device: Device) -> None:
    device.saved(9 * SECOND)
    assert device.value("settled") == 9 * SECOND


def test_a_restored_device_goes_on_as_the_saved_one(device: Device) -> None:
    device.ports_read(device.state, SECOND, 4, 1)
    device.ports_write(device.state, 2 * SECOND, 13, 2, 999)
    content = device.saved(2 * SECOND)
    other = Device(MODULE, now=1)
    assert other.restored(2 * SECOND, content) == 0
    assert other.saved(2 * SECOND) == content
    for offset in range(16):
        answers = {d.ports_read(d.state, 3 * SECOND, offset, 4) for d in (device, other)}
        assert len(answers) == 1


def _with(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _damaged(content: bytes) -> dict[str, tuple[bytes, int]]:
    hz, trim, flip, bias, cells = HEAD, HEAD + 4, HEAD + 5, HEAD + 14, HEAD + 16
    bad_cell = _with(content, cells + 2 * 5, struct.pack("<H", CELL.hi + 1))
    return {
        "empty": (b"", image.LENGTH),
        "short": (content[:-1], image.LENGTH),
        "long": (content + b"\0", image.LENGTH),
        "magic": (_with(content, 7, b"V"), image.MAGIC_WRONG),
        "format": (_with(content, 8, b"\2"), image.FORMAT_WRONG),
        "version": (_with(content, 12, b"\xff"), image.LAYOUT),
        "layout": (_with(content, 23, bytes([content[23] ^ 0x80])), image.LAYOUT),
        "a parameter": (_with(content, hz, b"\1"), image.PARAMETERS),
        "a signed parameter": (_with(content, trim, b"\x7f"), image.PARAMETERS),
        "a flag": (_with(content, flip, b"\2"), image.VALUE),
        "a signed value, above": (_with(content, bias, struct.pack("<h", BIAS.hi + 1)), image.VALUE),
        "a signed value, below": (_with(content, bias, struct.pack("<h", BIAS.lo - 1)), image.VALUE),
        "a signed value, far": (_with(content, bias, struct.pack("<h", -(2**15))), image.VALUE),
        "the last cell": (bad_cell, image.VALUE),
        "both": (_with(bad_cell, trim, b"\x7f"), image.PARAMETERS),
        "all": (_with(_with(bad_cell, trim, b"\x7f"), 0, b"X" * 16), image.MAGIC_WRONG),
    }


@pytest.mark.parametrize("what", list(_damaged(bytes(200))))
def test_a_refused_image_says_why_and_changes_nothing(device: Device, what: str) -> None:
    content, code = _damaged(device.saved(7))[what]
    device.ports_write(device.state, 8, 8, 2, 44)
    before = device.bytes
    assert device.restored(9, content) == code
    assert device.bytes == before
    refused = image.check(MODULE, before, content, 9)
    assert refused is not None
    assert refused.code == code


@pytest.mark.parametrize("value", [BIAS.lo, -1, 0, BIAS.hi])
def test_a_signed_value_inside_its_range_is_restored(device: Device, value: int) -> None:
    content = _with(device.saved(7), HEAD + 14, struct.pack("<h", value))
    assert device.restored(7, content) == 0
    assert device.value("bias") == value


def test_an_image_from_after_the_present_instant_is_refused_last(device: Device) -> None:
    content = device.saved(70)
    before = device.bytes
    assert device.restored(69, content) == image.INSTANT
    assert device.restored(69, _with(content, HEAD + 25, b"\xff\xff")) == image.VALUE
    assert device.bytes == before
    assert device.restored(70, content) == 0


def test_a_restore_settles_from_the_image_s_instant_to_the_caller_s(device: Device) -> None:
    """The line is low at 1 s and high at 3 s, and what the edge was is counted."""
    content = device.saved(1 * SECOND)
    other = Device(MODULE)
    assert other.restored(3 * SECOND, content) == 0
    assert [other.value(name) for name in ("settled", "lines")] == [3 * SECOND, 1]
    assert other.value("rises", 0) == 1


def test_a_device_without_saved_slots_has_an_image_that_is_only_a_head() -> None:
    device = Device(bare())
    content = device.saved(3)
    assert len(content) == HEAD
    assert device.restored(3, content) == 0
    assert device.restored(3, content + b"\0") == image.LENGTH


def test_elements_apart_in_the_struct_are_saved_in_index_order() -> None:
    """Two arrays interleaved as the fields of a block's instances are."""
    (*head, cells, more), _ = lay_out(
        tuple(type(MODULE.slots[0])(name, CELL, 2, 0, dims=((2, 0), (3, 0))) for name in ("a", "b"))
    )
    at = cells.offset
    cells = type(cells)("a", CELL, 2, at, ((2, 20), (3, 4)))
    more = type(more)("b", CELL, 2, at + 2, ((2, 20), (3, 4)))
    plain = bare()
    module = type(plain)("mixed", "", 1, (), (*head, cells, more), 80, (), (), (), plain.functions)
    verify(module)
    device = Device(module)
    state = bytearray(module.size)
    for number in range(6):
        for slot, base in ((cells, 100), (more, 200)):
            struct.pack_into("=H", state, slot.offset + number // 3 * 20 + number % 3 * 4, base + number)
    device.state.raw = bytes(state)
    content = device.saved(1)
    assert content == image.pack(module, device.bytes, 1)
    assert struct.unpack_from("<12H", content, HEAD) == (*range(100, 106), *range(200, 206))
    device.state.raw = bytes(module.size)
    assert device.restored(1, content) == 0
    assert device.bytes == bytes(state)


steps = st.tuples(
    st.integers(0, 3 * SECOND), st.integers(0, 16), st.sampled_from([1, 2, 4, 8, 3]), st.integers(-1, 2**17)
)


@given(st.lists(steps, min_size=20, max_size=60))
@settings(max_examples=25, deadline=None)
def test_native_and_reference_states_agree_byte_for_byte(accesses: list[tuple[int, int, int, int]]) -> None:
    device = AGREEING
    device.init(device.state, 0, 3_579_545, -5 % 2**64)
    state = bytearray(device.bytes)
    oracle = reference(MODULE).bind(state)
    now = 0
    for step, offset, width, value in accesses:
        now += step
        if value < 0:
            got = device.ports_read(device.state, now, offset, width)
            assert got == oracle["ports_read"](now, offset, width)
        else:
            device.ports_write(device.state, now, offset, width, value)
            oracle["ports_write"](now, offset, width, value)
        assert device.bytes == bytes(state)
        assert device.levels(device.state, now) == oracle["levels"](now)
        assert device.next(device.state, now) == oracle["next"](now)


AGREEING = Device(MODULE)


def test_every_function_of_the_abi_is_there() -> None:
    access = {"ticker_ports_read", "ticker_ports_write", "ticker_ports_peek"}
    rest = {"settle", "levels", "next", "commit", "reset", "resume", "init", "save", "restore"}
    assert set(native.symbols(MODULE)) == access | {f"ticker_{name}" for name in rest}
    assert all(AGREEING.native.symbol(name) for name in native.symbols(MODULE))
