"""What interrupt controllers brought into the language, by small devices on both engines:
arrays of inputs, edges of a number's bits, lines driven by a number, banks of words,
windows of the host, the lowest bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from devc.compiler.c_header import header
from devc.compiler.elaborate import elaborate
from devc.dsl.diagnostics import Source
from devc.dsl.parser import parse
from devc.runtime.machine import Machine

from .language import Bench, compiled, device

EDGES = """
device d():
    input pins[12] "inputs"
    state up: u12
    state down: u12
    state times: u8
    on pins rises as risen:
        up = up | risen
        times = wrap(times + 1)
    on pins falls as fallen: down = down | fallen
    line any
    drive any = up != 0
"""


def test_an_array_of_inputs_is_a_number_and_each_has_a_name() -> None:
    module = compiled(EDGES).module
    assert [(i.name, i.slot, i.bit) for i in module.inputs] == [(f"pins[{n}]", "pins", n) for n in range(12)]
    assert module.slot("pins").type.hi == 0xFFF


def test_a_body_is_given_the_bits_that_rose_or_fell_and_runs_once_for_all_of_them() -> None:
    bench = device(EDGES)
    bench.put("pins", 0b1010)
    assert (bench.get("up"), bench.get("down"), bench.get("times")) == (0b1010, 0, 1)
    bench.put("pins", 0b0110)
    assert (bench.get("up"), bench.get("down"), bench.get("times")) == (0b1110, 0b1000, 2)
    bench.put("pins", 0b0110)
    assert bench.get("times") == 2
    assert bench.line()


def test_what_edges_saw_last_is_found_again_after_a_restore() -> None:
    bench = device(EDGES)
    bench.put("pins", 0b11)
    other = bench.moved()
    other.put("pins", 0b111)
    assert other.get("up") == 0b111
    assert other.get("times") == 2


NUMBER = """
device d():
    state a: u5
    line many[n: 5]
    drive many = a
    io at 0 size 1:
        reg r @0 u8 wo:
            write v: a = v[4:0]
"""


def test_a_number_drives_an_array_of_lines_bit_by_bit() -> None:
    bench = device(NUMBER)
    bench.write(0, 0b10110)
    assert [bench.line(bit) for bit in range(5)] == [0, 1, 1, 0, 1]
    assert [bench.rises(bit) for bit in range(5)] == [0, 1, 1, 0, 1]


BANK = """
block Entry(n: 0..3):
    reg both u64 lanes 4:
        [7:0] low rw, [39:32] high rw, [40] flag ro rset
        write v, mask:
            store
            last = mask
    state last: u64
device d():
    entry[n: 4]: Entry(n = n)
    mmio at 0x1000 size 0x20, gaps zeros:
        reg select @0 u32: [7:0] index rw
        reg window @0x10 u32 -> words[select.index]
    bank words size 256 of u32{gaps}:
        reg one @1 u32 rw
        reg two @2 u32 = 0x1234_5678
        one @5
        entry[n].both @0x10 + 2 * n
"""


def select(bench: Bench, index: int) -> None:
    bench.write(0, index, 4, "mmio")


def test_a_bank_of_words_holds_registers_of_words_at_each_index() -> None:
    bench = device(BANK.format(gaps=""))
    select(bench, 5)
    bench.write(0x10, 0xCAFE_F00D, 4, "mmio")
    select(bench, 1)
    assert bench.read(0x10, 4, "mmio") == 0xCAFE_F00D
    select(bench, 2)
    assert bench.read(0x10, 4, "mmio") == 0x1234_5678


@pytest.mark.parametrize(("gaps", "gap"), [("", 0xFFFF_FFFF), (", gaps zeros", 0)])
def test_an_index_where_nothing_is_reads_as_a_gap_and_takes_nothing(gaps: str, gap: int) -> None:
    bench = device(BANK.format(gaps=gaps))
    select(bench, 0x18)
    bench.write(0x10, 5, 4, "mmio")
    assert bench.read(0x10, 4, "mmio") == gap


def test_a_register_of_two_words_stands_at_two_indices_lane_by_lane() -> None:
    bench = device(BANK.format(gaps=""))
    for index, value in ((0x15, 0xAB), (0x14, 0xCD)):
        select(bench, index)
        bench.write(0x10, value, 4, "mmio")
    assert (bench.get("entry.both.low", 2), bench.get("entry.both.high", 2)) == (0xCD, 0xAB)
    assert bench.get("entry.last", 2) == 0xFFFF_FFFF
    assert bench.get("entry.both.low", 1) == 0


def test_a_read_of_one_word_has_the_effects_of_its_lane_alone() -> None:
    bench = device(BANK.format(gaps=""))
    select(bench, 0x10)
    bench.read(0x10, 4, "mmio")
    assert bench.get("entry.both.flag", 0) == 0
    select(bench, 0x11)
    assert bench.read(0x10, 4, "mmio") == 0
    assert bench.get("entry.both.flag", 0) == 1


LOWEST = """
device d():
    state x: u64 = 1
    io at 0 size 16, lanes 1:
        reg a @0 u64 rw
        reg b @8 u8 = lowest(a) if a != 0 else 64
        reg c @9 u8 = lowest(a[7:0] | 0x100)
"""


def test_lowest_is_the_number_of_the_lowest_bit_that_is_set() -> None:
    bench = device(LOWEST)
    for bit in range(64):
        bench.write(0, (0xDEAD_BEEF_DEAD_BEEF | 1) << bit & (2**64 - 1), 8)
        assert bench.read(8) == bit
        assert bench.read(9) == min(bit, 8)


HOST = """
device d():
    state count: u8
    line out
    drive out = count > 2
    io at 0x100 size 1:
        reg seen @0 u8 = count
    host ack size 4: "a cycle of the machine's"
        reg take @0 u32:
            read:
                count = wrap(count + 1)
                return count
            write v: count = v[7:0]
"""


def test_a_window_of_the_host_is_accessed_by_name() -> None:
    bench = device(HOST)
    assert bench.read(0, 4, "ack") == 1
    assert bench.peek(0, 4, "ack") == 2
    bench.write(0, 9, 4, "ack")
    assert bench.read(0) == 9
    assert bench.line()


def test_no_guest_can_reach_a_window_of_the_host(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "d.dev"
    path.write_text(HOST)
    machine = Machine(engine=engine)  # type: ignore[arg-type]
    made = machine.add(path)
    assert [window.label for window in machine.windows()] == ["d.io"]
    assert machine.read("io", 0, 4) == 0xFFFF_FFFF
    assert machine.read("mmio", 0, 4) == 0xFFFF_FFFF
    assert made.cycles["ack"].read(0, 4, machine.now) == 1
    assert machine.read("io", 0x100, 1) == 1


def test_the_c_header_gives_a_window_of_the_host_no_address() -> None:
    source = Source("test.dev", HOST)
    text = header(elaborate(parse(source), source)[0])
    assert "D_ACK_BASE" not in text
    assert "D_ACK_SIZE" in text
    assert "X(io, io, D_IO_BASE, 0x1u)" in text
    assert "X(ack" not in text
    assert "uint64_t d_ack_read(" in text
