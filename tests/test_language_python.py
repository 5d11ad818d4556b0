"""What the compiled device does where Python serves or observes, on both engines."""

from __future__ import annotations

import pytest
from devc.compiler.ir import ATTENTION_LEAVE, ATTENTION_LINES, ATTENTION_WATCH

from .language import Bench, device

LEAVE_SPLIT = 0xFFFF_FFFF

SERVED = """device d():
    state count: u8
    io plain at 0x10 size 8, gaps zeros, lanes 1:
        reg a @0 u8:
            read: count = wrap(count + 1); return count
            write v: count = v
        reg b @1 u8:
            read python second
            write python first
        reg c @2 u16 lanes 2:
            read python second
            write v: count = v[7:0]
    io split at 0x20 size 4, split, gaps ones:
        reg s @0 u8:
            read: count = wrap(count + 1); return count
            write v: count = v
        reg t @1 u8:
            read python first
            write python second
    python "p.py" first:
        why "an example"
        writes count
    python "p.py" second:
        why "another"
        reads count
"""


def handed_over(bench: Bench) -> int | None:
    """The handler that the last access was left to; None if it was served."""
    return bench.pair.reference.leave if bench.attention() & ATTENTION_LEAVE else None


@pytest.mark.parametrize(
    ("region", "offset", "width", "read", "write"),
    [
        ("plain", 0, 1, None, None),
        ("plain", 1, 1, 1, 0),
        ("plain", 2, 2, 1, None),
        ("plain", 6, 2, None, None),
        ("split", 0, 1, None, None),
        ("split", 1, 1, 0, 1),
        ("split", 0, 2, LEAVE_SPLIT, LEAVE_SPLIT),
        ("split", 1, 4, LEAVE_SPLIT, LEAVE_SPLIT),
        ("split", 2, 2, None, None),
    ],
)
def test_an_access_that_python_serves_is_left_before_any_effect(
    region: str, offset: int, width: int, read: int | None, write: int | None
) -> None:
    bench = device(SERVED)
    bench.attention()
    before = bench.saved()
    bench.read(offset, width, region)
    assert handed_over(bench) == read
    if read is not None:
        assert bench.saved() == before
    bench = device(SERVED)
    bench.attention()
    bench.write(offset, 2**64 - 1, width, region)
    assert handed_over(bench) == write
    if write is not None:
        assert bench.saved() == before


def test_python_serves_one_register_at_a_time() -> None:
    bench = device(SERVED)
    bench.attention()
    for access in (lambda: bench.read(0, 2, "plain"), lambda: bench.write(0, 0xFFFF, 2, "plain")):
        before = bench.saved()
        assert access() in (0, None)
        assert (handed_over(bench), bench.saved()) == (None, before)


OBSERVED = """block Part(n: u4):
    state x: u8 = 3
    let more = x + n
device d():
    clock osc = 1_000 Hz
    part[n: 2]: Part(n = n)
    state mode: u8
    state other: u8
    alarm bell at osc
    on bell: mode = 7
    line out
    drive out = mode == 7
    io at 0 size 8:
        reg set @0 u8 rw
            "written, and nothing follows"
        reg set_mode @1 u8 = mode:
            write v: mode = v
        reg set_other @2 u8 wo:
            write v: other = v
        reg set_part @3 u8 wo:
            write v: part[1].x = v
        reg ring @4 u8 wo:
            write v: arm bell in 5
    python "p.py" first:
        why "sees the mode"
        reads mode, set
    python "p.py" second:
        why "sees a part"
        reads part[1].more, part[0].x
    python "p.py" third:
        why "sees the other"
        reads other
""".replace("reg set @0 u8 rw\n            ", "reg set @0 u8 rw ")


def told(bench: Bench) -> int:
    """The observers that were told since the last time, as bits."""
    if not bench.attention() & ATTENTION_WATCH:
        return 0
    watch = bench.pair.reference.watch
    bench.pair.call("set", "watch", 0)
    return watch


def test_an_observer_is_told_of_what_it_reads_and_of_nothing_else() -> None:
    bench = device(OBSERVED)
    told(bench)
    bench.write(1, 3)
    assert told(bench) == 0b001
    bench.write(1, 3)
    assert told(bench) == 0
    bench.write(0, 9)
    assert told(bench) == 0b001
    bench.write(2, 1)
    assert told(bench) == 0b100
    bench.write(3, 8)
    assert told(bench) == 0b010
    assert bench.get("second sees part[1].more") == 9
    bench.peek(1)
    bench.read(1)
    assert told(bench) == 0


def test_an_observer_is_told_of_an_event_when_it_is_settled() -> None:
    bench = device(OBSERVED)
    bench.write(4, 0)
    told(bench)
    bench.at(4_999_999)
    assert told(bench) == 0
    bench.at(5_000_000)
    assert bench.pair.reference.attention & ATTENTION_LINES
    assert told(bench) == 0b001
    assert bench.get("first sees mode") == 7


def test_what_python_writes_is_followed_by_lines_and_observers() -> None:
    bench = device(OBSERVED)
    told(bench)
    bench.put("mode", 7)
    assert (bench.line(), bench.rises(), told(bench)) == (1, 1, 0b001)
