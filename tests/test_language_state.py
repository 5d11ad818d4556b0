"""State, values and statements as the language defines them, by small devices on both engines."""

from __future__ import annotations

from random import Random

import pytest

from .language import Bench, device

LATCH = """device d():
    state live: u8
    latch held: u8
    latch wide: u16
    let shown = held or live
    io at 0 size 8:
        reg live_now @0 u8 = live:
            write v: live = v
        reg fill @1 u8 wo:
            write v: held ?= v
        reg load @2 u8 wo:
            write v: held = v
        reg take_it @3 u8:
            read:
                if held: return take held
                return 0xee
        reg peeked @4 u8 = shown
        reg drop_it @5 u8 wo:
            write v: drop held
        reg full @6 u8 = 1 if held and not wide else 0
"""


def test_a_latch_is_filled_once_until_it_is_taken_or_dropped() -> None:
    bench = device(LATCH)
    bench.write(0, 7)
    assert (bench.read(3), bench.read(4), bench.read(6)) == (0xEE, 7, 0)
    bench.write(1, 20)
    bench.write(1, 30)
    assert (bench.read(4), bench.read(4), bench.read(6)) == (20, 20, 1)
    bench.write(2, 40)
    assert (bench.peek(3), bench.read(3), bench.read(3), bench.read(4)) == (40, 40, 0xEE, 7)
    bench.write(1, 50)
    bench.write(5, 0)
    assert (bench.read(4), bench.read(3)) == (7, 0xEE)


def test_a_latch_survives_save_and_restore() -> None:
    bench = device(LATCH)
    bench.write(1, 20)
    assert bench.moved().read(3) == 20


CYCLE = """device d():
    cycle rd, wr: one, two, three
    state log: u8[3]
    io at 0 size 4:
        reg next @0 u8:
            read:
                match step rd:
                    one -> return 1
                    two -> return 2
                    three -> return 3
            write v:
                match step wr:
                    one -> log[0] = v
                    two -> log[1] = v
                    three -> log[2] = v
        reg shown @1 u8 = wr ++ rd ++ rd ++ rd
        reg back @2 u8 wo:
            write v: rd = one; wr = two
        reg skip @3 u8 wo:
            write v: step rd
"""


def test_a_cycle_goes_through_its_phases_and_round_again() -> None:
    bench = device(CYCLE)
    assert [bench.read(0) for _ in range(7)] == [1, 2, 3, 1, 2, 3, 1]
    for value in (10, 20, 30, 40):
        bench.write(0, value)
    assert [bench.get("log", i) for i in range(3)] == [40, 20, 30]
    assert bench.read(1) == 0b01_01_01_01
    bench.write(3, 0)
    assert bench.read(0) == 3
    bench.write(2, 0)
    assert bench.read(1) == 0b01_00_00_00


MATCH = """enum Size: small, middle, large
device d():
    state x: u8
    state size: Size
    let by_value: u8 = match x:
        0 | 3 -> 1
        1..2 -> 2
        4..9 -> 3
        many -> many - 9
    let by_member = match size:
        large -> 30
        small | middle -> size + 1
    let nested = (match_two if x < 10 else 5) if size == small else 9
    let match_two = match x[1:0]:
        3 -> 33
        rest -> rest
    io at 0 size 8:
        reg a @0 u8 = x:
            write v:
                x = v
                match v:
                    0..9 -> size = small
                    10 -> size = middle
                    _ -> if v != 0xff: size = large
        reg b @1 u8 = by_value
        reg c @2 u8 = by_member
        reg e @3 u8 = nested
"""


def test_a_match_takes_the_one_case_of_each_value() -> None:
    bench = device(MATCH)
    for x in range(256):
        bench.write(0, x)
        assert bench.read(1) == (1 if x in (0, 3) else 2 if x < 3 else 3 if x < 10 else x - 9)
        size = 0 if x < 10 else 1 if x == 10 else 2
        assert bench.get("size") == size
        assert bench.read(2) == (30 if size == 2 else size + 1)
        assert bench.read(3) == (9 if size else 33 if x % 4 == 3 else x % 4)


VALUES = """device d():
    state a: u8
    state b: u8
    state c: u16
    state big: u64
    let sum: u9 = a + b
    let difference = a - b
    let low: u8 = wrap(a - b)
    let held: u8 = sat(a - b)
    let high: u8 = sat(a + b)
    let most = max(a, b)
    let least = min(a, b)
    let quotient = a / b if b != 0 else 255
    let rest = a % b if b > 0 else a
    let negative_rest: 0..15 = (a - b) % 16
    let bits: u8 = a & b | a ^ b
    let joined: u16 = a ++ b
    let shifted: u16 = (a ++ b) >> b[3:0]
    let up: u24 = a << b[3:0]
    let power = 2 ** a[2:0]
    let decimal: u12 = bcd(a)
    let number = binary(a)
    let bit = a[b[2:0]]
    let part = joined[11:4]
    let variable = joined[b[3:0]:0]
    let member = a in {1, 3, 5, b, 200}
    let both = a > b and b != 0 and not (a == 7)
    let merged = merge(a, b, c[7:0])
    let left_of = b - a % b if b != 0 else 0
    let whole: u64 = wrap(big * 3 - 5) if big < 2 ** 61 else big
    io at 0 size 64:
        reg set @0 u32 wo:
            write v: a = v[7:0]; b = v[15:8]; c = v[31:16]
        reg set_big @8 u64 wo:
            write v: big = v
        reg r0 @16 u16: [8:0] x = sum
        reg r1 @18 u8 = low
        reg r2 @19 u8 = held
        reg r3 @20 u8 = high
        reg r4 @21 u8 = most
        reg r5 @22 u8 = least
        reg r6 @23 u8 = quotient
        reg r7 @24 u8 = rest
        reg r8 @25 u8 = negative_rest
        reg r9 @26 u8 = bits
        reg ra @28 u16 = joined
        reg rb @30 u16 = shifted
        reg rc @32 u32: [23:0] x = up
        reg rd @36 u8 = power
        reg re @38 u16: [11:0] x = decimal
        reg rf @40 u8 = number
        reg rg @41 u8 = bit ++ member ++ both ++ (difference < 0) ++ negative_rest[3:0]
        reg rh @42 u8 = part
        reg ri @44 u16 = variable
        reg rj @46 u8 = merged
        reg rk @47 u8 = left_of
        reg rl @48 u64 = whole
"""


def expected(a: int, b: int, c: int, big: int) -> dict[int, tuple[int, int]]:
    """By offset: width and value of each register of VALUES."""
    joined, shift = a << 8 | b, b & 15
    wrapped = a - b & 0xFF
    flags = (a >> (b & 7) & 1) << 7 | (a in {1, 3, 5, b, 200}) << 6 | (a > b and b != 0 and a != 7) << 5
    return {
        16: (2, a + b), 18: (1, wrapped), 19: (1, max(0, a - b)), 20: (1, min(255, a + b)),
        21: (1, max(a, b)), 22: (1, min(a, b)), 23: (1, a // b if b else 255), 24: (1, a % b if b else a),
        25: (1, (a - b) % 16), 26: (1, a & b | a ^ b), 28: (2, joined), 30: (2, joined >> shift),
        32: (4, a << shift), 36: (1, 1 << (a & 7)), 38: (2, int(str(a), 16)),
        40: (1, (a >> 4) * 10 + (a & 15)), 41: (1, flags | (a < b) << 4 | (a - b) % 16),
        42: (1, joined >> 4 & 0xFF), 44: (2, joined & (2 << shift) - 1),
        46: (1, a & ~c & 0xFF | b & c & 0xFF), 47: (1, b - a % b if b else 0),
        48: (8, (big * 3 - 5) % 2**64 if big < 2**61 else big),
    }  # fmt: skip


def test_operators_give_what_integers_give() -> None:
    bench = device(VALUES)
    rng = Random(1)
    edges = (0, 1, 7, 9, 10, 15, 16, 99, 127, 128, 254, 255)
    for _ in range(80):
        a, b = (rng.choice((*edges, rng.randrange(256))) for _ in range(2))
        c, big = rng.randrange(2**16), rng.choice((0, 1, 2, 2**61 - 1, 2**61, 2**64 - 1, rng.getrandbits(64)))
        bench.write(0, a | b << 8 | c << 16, 4)
        bench.write(8, big, 8)
        for offset, (width, value) in expected(a, b, c, big).items():
            assert bench.read(offset, width) == value, (offset, a, b, c, big)


STATEMENTS = """block Cell(n: u3):
    state x: u8
    proc add(m: u4, twice: bool):
        x = wrap(x + m)
        if twice: x = wrap(x + m)

device d():
    cell[n: 4]: Cell(n = n)
    single: Cell(n = 7)
    state list: u16[5] = 3
    state log: u8
    io at 0 size 8:
        reg each @0 u8 wo:
            write v:
                for c in cell where v[c.n]: c.add(c.n + 1, v[7])
                single.add(1, false)
        reg put @1 u16 lanes 2 wo:
            write v:
                let i = v[2:0]
                if i < 5:
                    list[i] = v
                elif i == 5: list[0] = 0xffff
                else:
                    log = wrap(log + 1)
        reg branch @4 u8:
            read:
                let before = log
                log = 9
                if before == 9:
                    return before
                elif before > 9: log = 1
                return before + 1 if before < 255 else 0
"""


def test_statements_run_in_order_on_what_is_stored() -> None:
    bench = device(STATEMENTS.replace("@1 u16 lanes 2", "@2 u16"))
    assert [bench.get("list", i) for i in range(5)] == [3] * 5
    bench.write(0, 0b0000_1010)
    assert [bench.get("cell.x", i) for i in range(4)] == [0, 2, 0, 4]
    bench.write(0, 0b1000_1111)
    assert [bench.get("cell.x", i) for i in range(4)] == [2, 6, 6, 12]
    assert bench.get("single.x") == 2
    for value in (0x1000, 0x1003, 0x1004, 0x1007, 0x1006):
        bench.write(2, value, 2)
    assert [bench.get("list", i) for i in range(5)] == [0x1000, 3, 3, 0x1003, 0x1004]
    assert bench.get("log") == 2
    bench.write(2, 5, 2)
    assert bench.get("list", 0) == 0xFFFF
    assert (bench.read(4), bench.read(4), bench.get("log")) == (3, 9, 9)
    bench.put("log", 200)
    assert (bench.read(4), bench.get("log")) == (201, 1)


BLOCKS = """block Part(n: u2, osc: clock, main: counter, go: bool, mine: bit, out: line):
    state x: u8
    counter t: u32 at osc while go
    let doubled: u9 = 2 * x
    on go rises: mine = true; x = n
    on go falls: mine = false
    drive out[n] = doubled == 4
    reg r u8: [7:0] v = main[7:0]

device d():
    clock osc = 1_000 Hz
    counter main: u32 at osc
    state enabled: u4
    state flags: u4
    line many[k: 4]
    part[n: 4]: Part(n = n, osc = osc, main = main, go = enabled[n], mine = flags[n], out = many)
    let early = part[2].doubled
    io at 0 size 8:
        reg enable @0 u8: [3:0] x rw, [7:4] y = flags
            write v: store; enabled = v[3:0]
        part[n].r @4 + n
""".replace(
    "        reg enable @0 u8: [3:0] x rw, [7:4] y = flags\n            write v: store; enabled = v[3:0]\n",
    "        reg enable @0 u8:\n            [3:0] x rw, [7:4] y = flags\n"
    "            write v: store; enabled = v[3:0]\n        reg seen @1 u8: [7:0] x = early[7:0]\n",
)


def test_blocks_see_their_inputs_and_set_the_bits_they_are_given() -> None:
    bench = device(BLOCKS)
    bench.write(0, 0b0110)
    assert bench.read(0) == 0b0110_0110
    assert [bench.get("part.x", i) for i in range(4)] == [0, 1, 2, 0]
    assert bench.pair.reference.lines == 0b0100
    assert bench.read(1) == 4
    bench.wait(5_000_000)
    bench.write(0, 0b0001)
    bench.wait(2_000_000)
    assert bench.get("flags") == 0b0001
    assert bench.read(4) == bench.read(7) == 7
    assert [bench.get("part.t.base", i) for i in range(4)] == [0, 5, 5, 0]


NAMES = """device d():
    state settle: u8
    state x1: u8
    let levels = settle + 1
    let line_x = 3
    proc reset(x1_: u8, v: u8, mask: u8):
        let local = x1
        x1 = v
        settle = wrap(local + mask + x1_)
    proc put(commit: u8): reset(commit, commit, 1)
    io at 0 size 2:
        reg io_read @0 u8:
            read: let merged = settle; return merged
            write v: put(v)
        reg next @1 u8: [7:0] level = levels[7:0]
    line level_line
    drive level_line = line_x == levels
"""


def test_names_of_the_compiled_device_do_not_meet_those_of_the_file() -> None:
    bench = device(NAMES)
    bench.write(0, 2)
    assert (bench.get("settle"), bench.get("x1"), bench.read(1)) == (3, 2, 4)
    bench.write(0, 3)
    assert (bench.read(0), bench.line()) == (6, 0)


PIN = """device d():
    state edges: u8
    input reset_pin "RESET"
    line out
    on reset_pin rises: edges = wrap(edges + 1)
    on reset_pin falls: edges = wrap(edges + 16)
    on reset: edges = 5
    drive out = reset_pin
    io at 0 size 1:
        reg r @0 u8 = edges
"""


def test_an_input_of_the_device_has_edges_and_reset_has_a_body() -> None:
    bench = device(PIN)
    assert bench.read(0) == 5
    bench.put("reset_pin", 1)
    bench.put("reset_pin", 1)
    assert (bench.read(0), bench.line(), bench.rises()) == (6, 1, 1)
    bench.put("reset_pin", 0)
    assert (bench.read(0), bench.line()) == (22, 0)
    bench.pair.call("reset", bench.now)
    assert bench.read(0) == 5


@pytest.mark.parametrize("text", [LATCH, CYCLE, MATCH, VALUES, PIN])
def test_a_save_in_the_middle_changes_nothing(text: str) -> None:
    rng = Random(text)
    bench: Bench = device(text)
    moved = bench
    for _ in range(40):
        offset, width = rng.randrange(8), rng.choice((1, 2, 4, 8))
        value = rng.getrandbits(8 * width)
        moved = moved.moved() if rng.random() < 0.3 else moved
        for each in (bench, moved):
            each.write(offset, value, width)
        offset = rng.randrange(64)
        assert bench.read(offset, width) == moved.read(offset, width)
        assert bench.saved() == moved.saved()
