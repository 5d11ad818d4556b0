"""The native trap dispatcher: who serves an access, how wide ones come apart, what is counted."""

from __future__ import annotations

import ctypes
import time

import pytest
from devc.compiler.ir import ATTENTION_LINES, HEADER, HEADER_SIZE, NEVER
from devc.runtime.bus import (
    MAX_COUNTED,
    STRUCTURES,
    U64_MAX,
    Access,
    RegionEntry,
    StateHeader,
)
from devc.runtime.dispatch import CLOCK_FIXED, CLOCK_RUNNING, Dispatcher, DispatchError, Outcome, Space
from devc.runtime.native_module import NativeModuleError, declare, expand

from .stub_device import DELAY, LEAVE, LEVEL, SIZE, STUB_MMIO, STUB_PORT, Board, Stub


def read(dispatcher: Dispatcher, address: int, width: int, space: Space = Space.IO) -> int:
    return dispatcher.access(space, address, width, False, now=0)[1]


def write(dispatcher: Dispatcher, address: int, width: int, value: int, space: Space = Space.IO) -> None:
    dispatcher.access(space, address, width, True, value, now=0)


# --- who serves ---------------------------------------------------------------


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("space", Space)
def test_an_access_that_nobody_claims_reads_as_ones_of_its_width(space: Space, width: int) -> None:
    dispatcher = Dispatcher()
    ones = (1 << 8 * width) - 1
    assert dispatcher.access(space, 0x1234, width, False, now=0) == (Outcome.UNCLAIMED, ones)
    assert dispatcher.access(space, 0x1234, width, True, 7, now=0) == (Outcome.UNCLAIMED, 7)
    assert dispatcher.unclaimed == (1, 1)


@pytest.mark.parametrize(("space", "base"), [(Space.IO, STUB_PORT), (Space.MMIO, STUB_MMIO)])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8])
def test_an_access_inside_a_region_is_one_call_of_its_handler(space: Space, base: int, width: int) -> None:
    board = Board()
    value = 0x8877665544332211 & ((1 << 8 * width) - 1)
    write(board.dispatcher, base, width, U64_MAX, space)
    write(board.dispatcher, base, width, value, space)
    assert read(board.dispatcher, base, width, space) == value
    counters = board.dispatcher.stats((board.io if space is Space.IO else board.mmio).handle)
    assert (counters[0].light_reads, counters[0].light_writes) == (1, 2)
    assert sum(c.light_reads + c.light_writes for c in counters) == 3


def test_the_spaces_do_not_see_each_other() -> None:
    board = Board()
    assert read(board.dispatcher, STUB_PORT, 1, Space.MMIO) == 0xFF
    assert board.dispatcher.access(Space.IO, STUB_MMIO, 1, False, now=0)[0] is Outcome.UNCLAIMED


def test_a_word_over_the_end_of_a_region_is_read_byte_by_byte() -> None:
    dispatcher = Dispatcher()
    low, high = Stub().place(dispatcher, "io", 0x40, size=4), Stub().place(dispatcher, "io", 0x44, size=4)
    low.state.registers[3], high.state.registers[0] = 0x11, 0x22
    assert read(dispatcher, 0x43, 2) == 0x2211
    assert read(dispatcher, 0x42, 4) == 0x00221100
    assert read(dispatcher, 0x47, 2) == 0xFF00
    assert read(dispatcher, 0x3F, 2) == 0x00FF
    write(dispatcher, 0x42, 4, 0xDDCCBBAA)
    assert list(low.state.registers[2:4]) == [0xAA, 0xBB]
    assert list(high.state.registers[:2]) == [0xCC, 0xDD]


def test_eight_bytes_over_several_mmio_regions_reach_each_of_them() -> None:
    dispatcher = Dispatcher()
    stubs = [Stub().place(dispatcher, "mmio", 0x1000 + 2 * i, size=2) for i in range(3)]
    write(dispatcher, 0x1000, 8, 0x8877665544332211, Space.MMIO)
    assert [bytes(s.state.registers[:2]).hex() for s in stubs] == ["1122", "3344", "5566"]
    assert read(dispatcher, 0x1000, 8, Space.MMIO) == 0xFFFF665544332211


def test_a_split_region_is_served_byte_by_byte_low_address_first() -> None:
    dispatcher = Dispatcher()
    stub = Stub().place(dispatcher, "io", 0x40, split=True)
    write(dispatcher, 0x40, 4, 0x44332211)
    assert read(dispatcher, 0x40, 4) == 0x44332211
    counters = dispatcher.stats(stub.handle)
    assert [(c.light_reads, c.light_writes) for c in counters[:5]] == [(1, 1)] * 4 + [(0, 0)]


def test_the_last_port_and_the_last_address_are_within_reach() -> None:
    dispatcher = Dispatcher()
    port = Stub().place(dispatcher, "io", 0xFFFF, size=1)
    top = Stub().place(dispatcher, "mmio", 2**64 - 2, size=2)
    port.state.registers[0] = 0x77
    assert read(dispatcher, 0xFFFF, 4) == 0xFFFFFF77
    top.state.registers[0], top.state.registers[1] = 0x12, 0x34
    assert read(dispatcher, 2**64 - 2, 4, Space.MMIO) == 0xFFFF3412


def test_mmio_regions_are_found_whatever_was_asked_before() -> None:
    dispatcher = Dispatcher()
    bases = [0x1000 * i * i for i in range(1, 101)]
    stubs = [Stub().place(dispatcher, "mmio", base) for base in bases]
    for i, stub in enumerate(stubs):
        stub.state.registers[0] = i
    order = [(37 * i) % 100 for i in range(100)]
    assert [read(dispatcher, bases[i], 1, Space.MMIO) for i in order] == order
    assert all(read(dispatcher, base + SIZE, 1, Space.MMIO) == 0xFF for base in bases)
    assert read(dispatcher, bases[0] - 1, 1, Space.MMIO) == 0xFF


@pytest.mark.parametrize("width", [0, 9, -1])
def test_a_width_that_is_no_access_is_refused(width: int) -> None:
    with pytest.raises(DispatchError, match="1 to 8 bytes"):
        Dispatcher().access(Space.IO, 0, width, False)


# --- regions --------------------------------------------------------------------


@pytest.mark.parametrize("space", ["io", "mmio"])
@pytest.mark.parametrize("base", [0x31, 0x40, 0x4F])
def test_an_overlap_names_both_regions_and_changes_nothing(space: str, base: int) -> None:
    dispatcher = Dispatcher()
    first = Stub().place(dispatcher, space, 0x40)
    with pytest.raises(DispatchError, match=f"stub at {base:#x} cannot take {space}.*stub at 0x40 .*move"):
        Stub().place(dispatcher, space, base)
    first.state.registers[0] = 1
    assert read(dispatcher, 0x40, 1, Space[space.upper()]) == 1
    Stub().place(dispatcher, space, 0x30)
    Stub().place(dispatcher, space, 0x50)


@pytest.mark.parametrize(
    ("space", "base", "size"),
    [
        ("io", 0x10000, 1),
        ("io", 0xFFF8, 9),
        ("io", -1, 1),
        ("io", 0, 0),
        ("mmio", 2**64 - 4, 8),
        ("mmio", 0, 2**33),
    ],
)
def test_a_region_outside_of_its_space_is_refused(space: str, base: int, size: int) -> None:
    with pytest.raises(DispatchError, match="cannot take"):
        Stub().place(Dispatcher(), space, base, size=size)


@pytest.mark.parametrize("space", ["io", "mmio"])
def test_a_region_moves_even_over_its_own_place_and_keeps_its_counters(space: str) -> None:
    dispatcher = Dispatcher()
    stub = Stub().place(dispatcher, space, 0x40)
    stub.state.registers[1] = 9
    where = Space[space.upper()]
    assert read(dispatcher, 0x41, 1, where) == 9
    dispatcher.move(stub.handle, 0x48)
    assert read(dispatcher, 0x49, 1, where) == 9
    assert read(dispatcher, 0x41, 1, where) == 0xFF
    assert dispatcher.stats(stub.handle)[1].light_reads == 2


def test_a_move_onto_another_region_leaves_both_where_they_were() -> None:
    dispatcher = Dispatcher()
    first, second = Stub().place(dispatcher, "io", 0x40), Stub().place(dispatcher, "io", 0x60)
    second.state.registers[0] = 2
    with pytest.raises(DispatchError, match="stub at 0x40 cannot take"):
        dispatcher.move(first.handle, 0x58)
    assert read(dispatcher, 0x40, 1) == 0
    assert read(dispatcher, 0x60, 1) == 2


def test_a_removed_region_is_nobodys_and_its_handle_is_unknown() -> None:
    dispatcher = Dispatcher()
    stub = Stub().place(dispatcher, "mmio", 0x40)
    with pytest.raises(DispatchError, match="still serves stub at 0x40"):
        dispatcher.remove_device(stub.device)
    dispatcher.remove(stub.handle)
    assert read(dispatcher, 0x40, 1, Space.MMIO) == 0xFF
    with pytest.raises(DispatchError, match="no region has the handle"):
        dispatcher.stats(stub.handle)
    stub.state.deadline = 5
    dispatcher.remove_device(stub.device)
    assert dispatcher.earliest() == NEVER


def test_hundreds_of_regions_and_devices_outgrow_the_first_tables() -> None:
    dispatcher = Dispatcher()
    stubs = [Stub().place(dispatcher, "io", 32 * i) for i in range(300)]
    mmio = [Stub().place(dispatcher, "mmio", 0x100 * i) for i in range(300)]
    for i, stub in enumerate([*stubs, *mmio]):
        stub.state.registers[0] = i & 0xFF
        stub.state.deadline = 1000 - i
    assert [read(dispatcher, 32 * i, 1) for i in range(300)] == [i & 0xFF for i in range(300)]
    assert [read(dispatcher, 0x100 * i, 1, Space.MMIO) for i in range(300)] == [
        (300 + i) & 0xFF for i in range(300)
    ]
    assert dispatcher.earliest() == 1000 - 599


def test_a_region_without_native_handlers_must_be_pythons() -> None:
    with pytest.raises(DispatchError, match="python=True"):
        Dispatcher().add_region("io", 0, 1, 0, 0, 0, name="lonely")


# --- what native code leaves to Python --------------------------------------------


def test_a_python_region_is_asked_piece_by_piece_and_the_answers_are_put_together() -> None:
    board = Board()
    assert read(board.dispatcher, 0xE0, 4) == 0xA5
    assert board.events == [("python", 0, -1)]
    assert read(board.dispatcher, 0xE3, 2) == 0xFFA8
    write(board.dispatcher, 0xDF, 2, 0x2211)
    assert board.events[1:] == [("python", 3, -1), ("python", 0, 0x22)]
    counters = board.dispatcher.stats(board.python)
    assert (counters[0].heavy_reads, counters[0].heavy_writes, counters[3].heavy_reads) == (1, 1, 1)


def test_a_piece_left_for_python_does_not_disturb_its_neighbours() -> None:
    board = Board()
    neighbour = Stub().place(board.dispatcher, "io", STUB_PORT + SIZE)
    neighbour.state.registers[0] = 0x99
    assert read(board.dispatcher, STUB_PORT + LEAVE, 4) == 0x99000000 | (board.answer + LEAVE)
    write(board.dispatcher, STUB_PORT + LEAVE, 4, 0x44332211)
    assert board.events == [("leave", LEAVE, -1), ("leave", LEAVE, 0x11)]
    assert neighbour.state.registers[0] == 0x44


def test_an_unanswered_heavy_read_gives_ones() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_region("io", 0x10, 2, 0, 0, 0, python=True)
    assert dispatcher.access(Space.IO, 0x10, 2, False) == (Outcome.SERVED, 0xFFFF)


def test_leaving_for_python_tells_the_handler_and_the_attention() -> None:
    board = Board()
    seen: list[tuple[int, int, int, int]] = []
    board.served = lambda a: seen.append((a.device, a.leave, a.attention, a.piece))
    assert read(board.dispatcher, STUB_PORT + LEAVE, 1) == 0xA5 + LEAVE
    assert seen == [(board.io.device, 5, 4, 1)]
    counters = board.dispatcher.stats(board.io.handle)
    assert (counters[LEAVE].heavy_reads, counters[LEAVE].light_reads) == (1, 0)


def test_a_line_that_changes_calls_attend_once_after_the_access() -> None:
    board = Board()
    write(board.dispatcher, STUB_PORT + LEVEL, 1, 1)
    assert board.events == [("line", board.io.device, 0)]
    assert board.dispatcher.stats(board.io.handle)[LEVEL].heavy_writes == 1
    write(board.dispatcher, STUB_PORT, 1, 1)
    assert len(board.events) == 1


def test_a_moved_deadline_alone_never_calls_python() -> None:
    board = Board()
    board.dispatcher.earliest()
    board.dispatcher.access(Space.IO, STUB_PORT + DELAY, 4, True, 500, now=100)
    assert board.events == []
    assert board.io.state.attention == 0
    assert board.dispatcher.bus.moved
    assert board.dispatcher.earliest() == 600


def test_attention_that_nobody_clears_is_shown_again() -> None:
    board = Board()
    seen: list[int] = []
    board.dispatcher.attend = lambda access: seen.append(access.attention)
    write(board.dispatcher, STUB_PORT + LEVEL, 1, 1)
    read(board.dispatcher, STUB_PORT, 1)
    assert seen == [ATTENTION_LINES, ATTENTION_LINES]


def test_what_attend_raises_comes_out_and_the_next_access_is_unharmed() -> None:
    board = Board()

    def broken(access: Access) -> None:
        raise RuntimeError("broken handler")

    board.served = broken
    with pytest.raises(RuntimeError, match="broken handler"):
        read(board.dispatcher, 0xE0, 1)
    board.served = None
    assert read(board.dispatcher, 0xE0, 1) == 0xA5


def test_attend_may_make_accesses_itself() -> None:
    board = Board()
    board.io.state.registers[0] = 0x42
    board.served = lambda access: write(board.dispatcher, STUB_PORT + 1, 1, 0x43)
    assert read(board.dispatcher, 0xE0, 2) == 0xA5
    assert read(board.dispatcher, STUB_PORT, 2) == 0x4342


def test_handlers_forced_to_python_are_heavy_until_released() -> None:
    board = Board()
    board.dispatcher.serve_in_python(board.io.handle, True)
    assert read(board.dispatcher, STUB_PORT, 1) == 0xA5
    board.dispatcher.serve_in_python(board.io.handle, False)
    assert read(board.dispatcher, STUB_PORT, 1) == 0
    counters = board.dispatcher.stats(board.io.handle)[0]
    assert (counters.heavy_reads, counters.light_reads) == (1, 1)


def test_exits_beyond_the_counted_bytes_are_counted_with_the_last() -> None:
    dispatcher = Dispatcher()
    handle = dispatcher.add_region("mmio", 0, 1 << 20, 0, 0, 0, python=True)
    read(dispatcher, 0xFFFFF, 1, Space.MMIO)
    read(dispatcher, MAX_COUNTED - 1, 1, Space.MMIO)
    assert len(dispatcher.stats(handle)) == MAX_COUNTED
    assert dispatcher.stats(handle)[-1].heavy_reads == 2


# --- time ---------------------------------------------------------------------------


def test_settling_reaches_each_due_device_once_and_no_other() -> None:
    board = Board()
    late = Stub().place(board.dispatcher, "io", 0x80)
    for stub, deadline in ((board.io, 10), (board.mmio, 20), (late, 21)):
        stub.state.deadline = deadline
    board.dispatcher.settle(20)
    assert board.events == [("line", board.io.device, 20), ("line", board.mmio.device, 20)]
    assert late.state.settles == 0
    assert board.dispatcher.earliest() == 21


def test_a_device_that_only_python_can_settle_is_heavy() -> None:
    dispatcher = Dispatcher()
    header = StateHeader(deadline=5)
    number = dispatcher.add_device(ctypes.addressof(header), 0)
    seen: list[tuple[int, int, int]] = []

    def attend(access: Access) -> None:
        seen.append((access.outcome, access.entry, access.device))
        header.deadline = NEVER

    dispatcher.attend = attend
    dispatcher.settle(7)
    assert seen == [(Outcome.HEAVY, 0, number)]


def test_a_deadline_that_does_not_move_on_cannot_hold_settle_up() -> None:
    dispatcher = Dispatcher()
    header = StateHeader(deadline=5)
    dispatcher.add_device(ctypes.addressof(header), 0)
    dispatcher.settle(7)
    assert dispatcher.earliest() == 5


def test_the_clock_stands_at_its_base_or_follows_the_hosts() -> None:
    dispatcher = Dispatcher()
    clock = dispatcher.clock
    clock.mode, clock.base = CLOCK_FIXED, 12345
    assert dispatcher.now() == 12345
    clock.mode, clock.base = CLOCK_RUNNING, (1000 - time.monotonic_ns()) % 2**64
    assert 1000 <= dispatcher.now() < 1000 + 10**9


def test_an_access_happens_at_the_clocks_time_unless_told() -> None:
    board = Board(running=False)
    board.dispatcher.clock.base = 77
    board.dispatcher.access(Space.IO, STUB_PORT + DELAY, 4, True, 3)
    assert board.io.state.deadline == 80


# --- layouts ----------------------------------------------------------------------


def test_the_state_header_is_the_abis() -> None:
    assert ctypes.sizeof(StateHeader) == HEADER_SIZE
    for slot in HEADER:
        field = getattr(StateHeader, slot.name)
        assert (field.offset, field.size) == (slot.offset, slot.size)


def test_accesses_are_timed_while_somebody_wants_to_know() -> None:
    board = Board()
    write(board.dispatcher, STUB_PORT, 1, 1)
    read(board.dispatcher, STUB_PORT, 1)
    board.dispatcher.timed = True
    before = time.perf_counter_ns()
    for _ in range(100):
        read(board.dispatcher, STUB_PORT, 1)
    board.served = lambda access: time.sleep(0.002)
    write(board.dispatcher, STUB_PORT + LEAVE, 1, 1)
    passed = time.perf_counter_ns() - before
    board.dispatcher.timed = False
    read(board.dispatcher, STUB_PORT, 1)
    counters = board.dispatcher.stats(board.io.handle)
    assert counters[0].of(False)[:2] == (102, 0)
    assert 0 < counters[0].light_read_ns < passed
    assert counters[0].light_write_ns == counters[0].heavy_read_ns == 0
    assert 2_000_000 <= counters[LEAVE].heavy_write_ns < passed


def test_a_light_access_needs_one_cache_line_of_a_region_entry() -> None:
    assert [name for name, *_ in RegionEntry._fields_ if getattr(RegionEntry, name).offset >= 64] == [
        "device",
        "pad",
    ]


def test_structures_are_declared_with_their_members_in_order() -> None:
    text = declare(STRUCTURES)
    assert "%ClockBlock = type { i32, i32, i64, i64 }" in text
    assert "%Bus = type { %ClockBlock, i64" in text


def test_a_place_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(NativeModuleError, match=r"\$Access\.nonsense"):
        expand("$Access.nonsense", [Access], {})


def test_a_deadline_settled_late_is_counted_by_how_late() -> None:
    board = Dispatcher()
    stub = Stub().place(board, "io", 0x40)
    for late in (0, 1, 1000, 1023, 1024, 5_000_000_000):
        stub.state.deadline = 10_000
        board.settle(10_000 + late)
    counts, most = board.lateness(stub.device)
    assert {bucket: count for bucket, count in enumerate(counts) if count} == {0: 2, 9: 2, 10: 1, 31: 1}
    assert most == 5_000_000_000


def test_a_deadline_that_is_held_off_is_late_from_when_it_counts() -> None:
    board = Dispatcher()
    stub = Stub().place(board, "io", 0x40)
    stub.state.deadline = 10_000
    board.hold_off(stub.device, 50_000)
    board.settle(50_700)
    assert board.lateness(stub.device)[1] == 700
