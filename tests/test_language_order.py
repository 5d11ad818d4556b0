"""However time is split, a device ends in the same state: for random devices that the compiler takes.

What would not is refused (E501, E503); the last test counts that enough is taken.
"""

from __future__ import annotations

import os
from random import Random

import pytest
from devc.compiler import ir
from devc.compiler.elaborate import elaborate
from devc.dsl.diagnostics import DeviceFileError, Source
from devc.dsl.parser import parse

from .engine_pair import Compiled
from .language import Bench

LONG = bool(int(os.environ.get("DEVC_LONG", "0")))

HEAD = """device d():
    clock osc = 1000 Hz
    state a: u8
    state b: u8
    state c: u8 = 3
    state n: u16
    state count: u32
    state on_1: bool = true
    alarm first at osc
    alarm second at osc
    alarm third at osc
    counter t: u32 at osc
    counter u: u16 at osc while on_1
    line out
    line other
    line pulsed
    drive out = a == b
    drive other = n[1] and on_1
    io at 0 size 8:
        reg first_in @0 u8 wo:
            write v: arm first in v + 1
        reg second_in @1 u8 wo:
            write v: arm second in v + 2
        reg set_a @2 u8 wo:
            write v: a = v[1:0]
        reg set_b @3 u8 wo:
            write v: b = v[1:0]; if_on(v)
        reg stop @4 u8 wo:
            write v: disarm first; on_1 = v[0]
        reg set_u @5 u8 wo:
            write v: u = v
    proc if_on(v: u8):
        if v[2]: arm third in v[7:4] + 1
"""
EVENTS = (
    # (what happens, every how many ticks)
    ("first", 0), ("second", 0), ("third", 0), ("t[1] toggles", 2), ("u[2] toggles", 4),
    ("u[3:0] reaches c", 16), ("t[4:0] reaches a", 32), ("a == 1 rises", 0), ("a == b falls", 0),
    ("on_1 rises", 0), ("n[0] rises", 0), ("b[0] falls", 0), ("t[2] toggles when a != 2", 4),
    ("u[1] toggles when on_1", 2),
)  # fmt: skip
EFFECTS = (
    "a = 1", "a = b", "b = 2", "b = a & 3", "c = c & 7 | 1", "n = wrap(n + 1)", "n = 5", "on_1 = false",
    "on_1 = true", "arm first in 3", "arm second in 5", "arm third in 2", "disarm second", "u = 0",
    "pulse pulsed", "if a == 1: b = 3", "c = wrap(c + 1)", "a = n[1:0]", "n = wrap(t)",
    "if on_1: n = wrap(n + 2)", "pass", "count = wrap(count + 1)",
)  # fmt: skip
COUNTED = ("n = wrap(n + times({}))", "count = wrap(count + times({}))", "pulse pulsed by times({})")
"""What the compiler believes: that the period is right, and nothing else changes what is counted."""


def source(rng: Random) -> Source:
    """A device of a few random events; each body has one or two effects."""
    text = HEAD
    for event, period in rng.sample(EVENTS, rng.randrange(1, 5)):
        effects = [rng.choice(EFFECTS) for _ in range(rng.choice((1, 1, 2)))]
        if period and rng.random() < 0.5:
            effects = [rng.choice(COUNTED).format(period)]
        text += f"    on {event}:\n" + "".join(f"        {effect}\n" for effect in effects)
    return Source("order.dev", text + "    on reset: pulse pulsed by 0\n")


def taken(seed: int) -> ir.Module | None:
    """The device, if the compiler takes it."""
    given = source(Random(seed))
    refused: set[str] = set()
    try:
        module, _ = elaborate(parse(given), given)
    except DeviceFileError as error:
        refused = {found.code for found in error.diagnostics}
    assert refused <= {"E501", "E503", "E201"}
    return None if refused else module


def run(code: Compiled, seed: int, ticks: int) -> tuple[object, ...]:
    """The end of a random program whose time goes in steps of at most so many ticks."""
    rng, bench = Random(seed), Bench(code)
    for _ in range(12):
        target = bench.now + rng.randrange(40) * 1_000_000
        while bench.now < target:
            bench.at(min(target, bench.now + ticks * 1_000_000))
        bench.write(rng.randrange(6), rng.randrange(256))
    rises = [bench.rises(i) for i in range(3)]
    assert bench.deadline > bench.now
    return bench.saved(), bench.pair.reference.lines, rises, bench.deadline


@pytest.mark.parametrize("seed", range(3000 if LONG else 40))
def test_a_device_that_is_taken_does_not_see_how_time_is_split(seed: int) -> None:
    module = taken(seed)
    if module is not None:
        code = Compiled(module)
        for program in range(3):
            whole = run(code, program, 10**6)
            assert run(code, program, 1) == whole
            assert run(code, program, 7) == whole


def test_enough_of_the_random_devices_are_taken_and_refused() -> None:
    found = [taken(seed) is not None for seed in range(60)]
    assert 10 <= sum(found) <= 50


SAME = """block Part(osc: clock, log: bit):
    alarm bell at osc
    on bell: log = true

device d():
    clock osc = 1000 Hz
    state bits: u2
    state order: u32
    alarm first at osc
    alarm second at osc
    alarm third at osc
    part[n: 2]: Part(osc = osc, log = bits[n])
    on second: order = order[23:0] ++ two
    on first:
        order = order[23:0] ++ one
        disarm third
    on third: order = order[23:0] ++ three
    on bits == 3 rises: order = order[23:0] ++ four
    let one: u8 = 1
    let two: u8 = 2
    let three: u8 = 3
    let four: u8 = 4
    io at 0 size 1:
        reg go @0 u8 wo:
            write v:
                arm first in 5; arm second in 5; arm third in max(1, v)
                for p in part: arm p.bell in 5
"""


def test_events_of_one_instant_come_in_order_and_may_still_be_disarmed() -> None:
    given = Source("same.dev", SAME)
    code = Compiled(elaborate(parse(given), given)[0])
    for third, order in ((5, 0x020104), (4, 0x03020104), (6, 0x020104)):
        bench = Bench(code)
        bench.write(0, third)
        bench.at(10_000_000)
        assert bench.get("order") == order
