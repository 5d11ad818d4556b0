"""Registers as the language defines them, by small devices on both engines."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from .language import Bench, device

ONES = 0x3FF
WRITES: dict[str, Callable[[int, int], int]] = {
    # SystemRDL 2.0, 9.6: the field's new value from its old one and what is written
    "rw": lambda s, v: v,
    "rw woclr": lambda s, v: s & ~v & ONES,
    "rw woset": lambda s, v: s | v,
    "rw wot": lambda s, v: s ^ v,
    "rw wzc": lambda s, v: s & v,
    "rw wzs": lambda s, v: s | ~v & ONES,
    "rw wzt": lambda s, v: s ^ ~v & ONES,
    "rw wclr": lambda s, v: 0,
    "rw wset": lambda s, v: ONES,
}
FIELD = "device d():\n    io at 0x100 size 4, lanes 1:\n        reg r @0 u16: [12:3] f {} reset 0x155\n"


@pytest.mark.parametrize("word", WRITES)
def test_a_write_does_what_its_word_says_in_the_lanes_it_writes(word: str) -> None:
    rng = Random(word)
    bench = device(FIELD.format(word))
    assert bench.read(0, 2) == 0x155 << 3
    stored = 0x155
    for _ in range(60):
        offset, width = rng.choice(((0, 2), (0, 1), (1, 1)))
        value = rng.getrandbits(8 * width)
        mask = (2 ** (8 * width) - 1) << 8 * offset >> 3 & ONES
        new = WRITES[word](stored, value << 8 * offset >> 3 & ONES)
        stored = stored & ~mask | new & mask
        bench.write(offset, value, width)
        assert bench.get("r.f") == stored
        assert bench.read(0, 2) == stored << 3


@pytest.mark.parametrize(("word", "left"), [("ro rclr", 0), ("rw rset", ONES)])
def test_a_read_does_what_its_word_says_after_giving_the_value(word: str, left: int) -> None:
    bench = device(FIELD.format(word))
    assert bench.peek(0, 2) == bench.peek(0, 2) == 0x155 << 3
    assert bench.read(0, 1) == 0x155 << 3 & 0xFF
    low = 0x1F  # the field's bits in the lower lane
    assert bench.get("r.f") == 0x155 & ~low | left & low
    assert bench.read(0, 2) >> 3 == 0x155 & ~low | left & low
    assert bench.read(0, 2) >> 3 == left


def test_words_of_a_whole_register_work_as_those_of_a_field() -> None:
    bench = device(
        "device d():\n    io at 0 size 8:\n        reg a @0 u8 rw woclr reset 0xf0\n"
        "        reg b @1 u8 ro rclr reset 7\n        reg c @2 u16 rw wot rset lanes 1 reset 1\n"
    )
    bench.write(0, 0x30)
    assert bench.read(0) == 0xC0
    assert (bench.read(1), bench.read(1)) == (7, 0)
    bench.write(1, 5)
    assert bench.read(1) == 0
    bench.write(3, 0x81)
    assert bench.read(2, 2) == 0x8101
    assert bench.read(2, 2) == 0xFFFF


def test_what_cannot_be_read_or_written_is_as_a_gap() -> None:
    bench = device(
        "device d():\n    io at 0 size 4, gaps ones:\n"
        "        reg a @0 u8 wo reset 3\n        reg b @1 u8 ro reset 4\n"
        "        reg c @2 u8: [3:0] x wo reset 5, [7:4] y rw reset 6\n"
    )
    assert bench.read(0) == 0xFF
    bench.write(0, 9)
    bench.write(1, 9)
    assert (bench.get("a"), bench.read(1)) == (9, 4)
    assert bench.read(2) == 0x60
    bench.write(2, 0x12)
    assert (bench.get("c.x"), bench.get("c.y"), bench.read(2)) == (2, 1, 0x10)


GAPS = """device d():
    io at 0x10 size 16, gaps {}:
        reg a @2 u16: [15:0] x rw reset 0x1234
        reg b @8 u32 lanes 1: [31:0] x rw reset 0x89abcdef
"""


@pytest.mark.parametrize(("gaps", "one"), [("ones", 1), ("zeros", 0)])
def test_what_no_register_claims_reads_as_the_window_says_and_ignores_writes(gaps: str, one: int) -> None:
    bench = device(GAPS.format(gaps))
    for width in (1, 2, 4, 8):
        full = one * (2 ** (8 * width) - 1)
        for offset in (0, 6, 12, 16, 17, 1000, 2**32 - 1):
            lanes_too = offset < 12 and offset + width > 8
            if not (offset < 4 < offset + width or lanes_too or offset == 0):
                assert bench.read(offset, width) == full
                bench.write(offset, 2**64 - 1, width)
    assert bench.read(2, 1) == bench.read(3, 1) == one * 0xFF  # no part of a register without lanes
    assert bench.read(2, 4) == bench.read(0, 4) == one * 0xFFFF_FFFF
    assert bench.read(6, 4) == 0xCDEF_0000 | one * 0xFFFF  # lanes beside a gap
    bench.write(10, 0x1122_3344, 4)
    assert bench.read(8, 4) == 0x3344_CDEF
    for width in (0, 3, 5, 9, 2**32 - 1):
        assert bench.read(8, width) == one * (2**64 - 1)
        bench.write(8, 0, width)
    assert bench.read(2, 2) == 0x1234


LANES = """device d():
    state log: u64
    mmio at 0 size 32, gaps zeros{}:
        reg a @0 u64 lanes {}: [63:0] x rw
        reg b @16 u64 lanes 4:
            [63:0] x rw
            write v, lanes:
                log = lanes
                b.x = v
"""


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("aligned", [False, True])
def test_lanes_take_accesses_of_whole_lanes_only(lanes: int, aligned: bool) -> None:
    bench = device(LANES.format(", aligned" if aligned else "", lanes))
    for offset in range(8):
        for width in (1, 2, 4, 8):
            bench.put("a.x", 0)
            bench.write(offset, 2**64 - 1, width, "mmio")
            last = min(offset + width, 8)  # what lies behind the register is a gap
            taken = offset % lanes == 0 and last % lanes == 0 and not (aligned and offset % width)
            assert bench.get("a.x") == taken * ((2 ** (8 * width) - 1) << 8 * offset & 2**64 - 1)
            bench.put("a.x", 0x8877_6655_4433_2211)
            read = bench.read(offset, width, "mmio")
            assert read == taken * (0x8877_6655_4433_2211 >> 8 * offset & 2 ** (8 * width) - 1)
    for offset in (8, 100, 2**32 - 8):
        assert bench.read(offset, 8, "mmio") == 0


def test_a_write_handler_sees_the_old_value_in_the_lanes_that_are_not_written() -> None:
    bench = device(LANES.format("", 8))
    bench.write(16, 0x1111_1111_2222_2222, 8, "mmio")
    bench.write(20, 0x3333_3333, 4, "mmio")
    assert bench.get("b.x") == 0x3333_3333_2222_2222
    assert bench.get("log") == 0xFFFF_FFFF_0000_0000


SPLIT = """device d():
    state log: u32
    state next: u8 = 1
    io at 0 size 4, split, gaps ones:
        reg a @0 u8:
            read: log = log[23:0] ++ 0xa; next = wrap(next + 1); return next
            write v: log = log[23:0] ++ v
        reg b @1 u8:
            read: log = log[23:0] ++ 0xb; next = wrap(next * 2); return next
            write v: log = log[23:0] ++ v; next = v
        reg c @3 u8: [7:0] x rw
"""


def test_a_split_access_is_its_bytes_low_address_first() -> None:
    text = SPLIT.replace("++ 0xa", "++ ten").replace("++ 0xb", "++ eleven")
    text = text.replace("    io", "    let ten: u8 = 0xa\n    let eleven: u8 = 0xb\n    io", 1)
    one, other = device(text), device(text)
    one.write(0, 0x8877_6655, 4)
    for i, value in enumerate((0x55, 0x66, 0x77, 0x88)):
        other.write(i, value)
    assert one.saved() == other.saved()
    assert (one.get("log"), one.get("c.x")) == (0x5566, 0x88)
    assert one.read(0, 4) == sum(other.read(i) << 8 * i for i in range(4))
    assert one.read(1, 8) == sum(other.read(1 + i) << 8 * i for i in range(8))
    assert one.saved() == other.saved()
    assert one.get("log") & 0xFFFFFF == 0x0A0B0B


LAYOUT = """enum Kind: none, first, second, third
layout Command u8: [7:6] kind: Kind, [5:1] amount, [0] flag
device d():
    state kind: Kind
    state amount: u5
    state flag: bool
    state other: u8
    io at 0 size 4:
        reg command @0 u8 wo:
            write v:
                let c = Command(v)
                amount = c.amount
                match c.kind:
                    none -> flag = c.flag
                    first | second -> kind = c.kind
                    third -> act(c)
        reg shown @1 u8 = Command(other).kind ++ kind ++ flag ++ Command(other).amount[2:0]
        reg fields @2 u8: [1:0] kind: Kind rw reset second, [7:2] rest = amount + 1
    proc act(c: Command):
        other = c
"""


def test_layouts_name_the_bits_of_a_number() -> None:
    bench = device(LAYOUT)
    assert bench.read(2) == 2 | 1 << 2
    bench.write(0, 0b01_10101_0)
    assert (bench.get("kind"), bench.get("amount")) == (1, 0b10101)
    assert bench.read(2) == 2 | 0b10110 << 2
    bench.write(0, 0b00_00001_1)
    bench.write(0, 0b11_01110_1)
    assert bench.get("other") == 0b11_01110_1
    assert bench.read(1) == 0b11_01_1_110


BANK = """device d():
    state log: u8
    io at 0 size 4, split:
        reg index @0 u8 wo: [6:0] sel rw, [7] mask rw
        reg data @1 u8 hot -> bank_of[index.sel]
        reg lower @2 u8 -> bank_of[index.sel[3:0]]
    bank bank_of size 128, gaps zeros:
        reg first @0 u8 rw reset 0x11
        reg counting @1 u8:
            read: log = wrap(log + 1); return log
            write v: log = v
        first @2
        ram memory @0x10 size 8
"""


def test_a_bank_is_reached_through_its_index() -> None:
    bench = device(BANK)

    def through(index: int, value: int | None = None) -> int:
        bench.write(0, index)
        if value is not None:
            bench.write(1, value)
        return bench.peek(1)

    assert through(0) == 0x11
    assert through(2, 0x22) == through(0) == 0x22
    assert through(1, 8) == 9
    assert (bench.read(1), bench.read(1), bench.get("log")) == (9, 10, 10)
    assert [through(0x10 + i, 0x40 + i) for i in range(8)] == [0x40 + i for i in range(8)]
    assert bench.get("memory", 3) == 0x43
    assert through(0x18, 5) == through(0x7F, 5) == 0
    bench.write(0, 0x92)
    assert (bench.read(1), bench.read(2), bench.read(0)) == (0x42, 0x22, 0xFF)
    bench.write(0, 0x9913, 2)  # one access: the index, then the data
    assert bench.get("memory", 3) == 0x99


def test_a_field_takes_a_write_only_where_its_condition_holds_for_the_new_value() -> None:
    bench = device(
        "device d(allowed: u8 = 0b1010):\n    io at 0 size 2:\n"
        "        reg r @0 u8: [2:0] route rw where allowed[route], [3] sticky rw where not sticky\n"
    )
    for written, route in ((1, 1), (2, 1), (3, 3), (0, 3)):
        bench.write(0, written)
        assert bench.get("r.route") == route
    bench.write(0, 8)
    assert bench.get("r.sticky") == 0


def test_a_register_that_is_not_there_is_a_gap() -> None:
    bench = device(
        "block B(n: u2):\n    reg r u8: [7:0] x rw reset 7\n"
        "device d(count: 1..4 = 2):\n    b[n: 4]: B(n = n)\n"
        "    io at 0 size 4, gaps zeros:\n        b[n].r @n where n < count\n",
        count=3,
    )
    for i in range(4):
        bench.write(i, 0x21 + i)
    assert [bench.read(i) for i in range(4)] == [0x21, 0x22, 0x23, 0]
    assert bench.get("b.r.x", 3) == 7


def test_store_puts_what_is_written_into_the_fields_by_their_words() -> None:
    bench = device(
        "device d():\n    state before: u8\n    io at 0 size 2:\n        reg r @0 u8:\n"
        "            [3:0] x rw woclr reset 15, [7:4] y rw\n            write v:\n"
        "                before = r.x\n                if v != 0xff: store\n"
    )
    bench.write(0, 0x53)
    assert (bench.get("before"), bench.read(0)) == (15, 0x5C)
    bench.write(0, 0xFF)
    assert bench.read(0) == 0x5C


def test_parameters_reset_values_and_documentation_reach_the_module() -> None:
    text = (
        'device d(base: port = 0x70 "where", big: 0..9 = 3 "how much", on: bool = true):\n'
        '    """A device.\n\n    With two lines."""\n'
        '    state a: u8 = 5\n    line out "a line"\n    drive out = on and a == big\n'
        '    io at base size 2:\n        reg r @0 u8 "a register": [0] f rw "a field", [7:4] g = big\n'
    )
    bench = device(text, big=5)
    module = bench.code.module
    assert (module.doc, module.version) == ("A device.\n\nWith two lines.", 1)
    assert [(p.name, p.default, p.doc) for p in module.params] == [
        ("base", 0x70, "where"), ("big", 3, "how much"), ("on", 1, ""),
    ]  # fmt: skip
    (region,) = module.regions
    assert (region.base, region.space, region.size) == ("base", "io", 2)
    assert (region.registers[0].doc, region.registers[0].fields[0].doc) == ("a register", "a field")
    assert (region.registers[0].fields[0].access, region.registers[0].fields[1].access) == ("rw", "ro")
    assert module.lines[0].doc == "a line"
    assert (bench.line(), bench.read(0)) == (1, 0x50)
    assert device(text, big=5, on=0).line() == 0


def check_everything_agrees(bench: Bench) -> None:
    """A peek anywhere changes nothing and is what a read gives."""
    for offset in range(6):
        for width in (1, 2, 4):
            before = bench.pair.reference.state
            seen = bench.peek(offset, width)
            assert bench.pair.reference.state == before
            assert bench.read(offset, width) == seen


@pytest.mark.parametrize(
    "text", [SPLIT.replace("++ 0xa", "++ next").replace("++ 0xb", "++ next"), BANK, LAYOUT]
)
def test_a_peek_is_a_read_that_changes_nothing(text: str) -> None:
    bench = device(text)
    bench.write(0, 0x0101, 2)
    check_everything_agrees(bench)
