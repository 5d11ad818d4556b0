"""Time as the language defines it: counters, waves, alarms and periodic events against tick-by-tick models.

Whatever is done at the same instants ends in the same state, however time is
split between them, with peeks and saves anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from .language import SECOND, Bench, device

HZ = st.sampled_from([1, 1_000, 32_768, 333_333, 1_193_182, 999_999_937, 1_000_000_000])
QUICK = settings(max_examples=25, deadline=None)


def tick(now: int, hz: int) -> int:
    return now * hz // SECOND


def first(tick: int, hz: int) -> int:
    """The first ns of a tick."""
    return -(-tick * SECOND // hz)


# --- counters ----------------------------------------------------------------

COUNTER = """device d(hz: 1..1_000_000_000 = 1000):
    clock osc = hz Hz
    state go: bool
    counter free: u64 at osc
    counter t: u16 at osc while go
    io at 0 size 32:
        reg enable @0 u8: [0] x rw
            write v: store; go = v[0]
        reg value @2 u16 = t:
            write v: t = v
        reg all @8 u64 = free
        reg time @16 u64 = now
""".replace(
    "[0] x rw\n            write v: store; go = v[0]",
    "\n            [0] x rw\n            write v: store; go = v[0]",
)

STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5 * SECOND), st.integers(0, 0xFFFF)), min_size=1, max_size=25
)


@QUICK
@given(HZ, STEPS)
def test_a_counter_holds_and_goes_on_in_whole_ticks_without_drift(
    hz: int, steps: list[tuple[int, int, int]]
) -> None:
    bench = device(COUNTER, hz=hz)
    value, since, go = 0, 0, False
    for kind, wait, number in steps:
        bench.now += wait
        present = tick(bench.now, hz)
        value = value + (present - since) * go & 0xFFFF
        since = present
        if kind == 0:
            go = bool(number & 1)
            bench.write(0, number & 0xFF)
        elif kind == 1:
            value = number
            bench.write(2, number, 2)
        elif kind == 2:
            bench = bench.moved()
        assert bench.read(2, 2) == value
        assert bench.read(8, 8) == present
        assert bench.read(16, 8) == bench.now


# --- waves -----------------------------------------------------------------------

WAVE = """device d(hz: 1..1_000_000_000 = 1000):
    clock osc = hz Hz
    state go: bool
    state a: u4
    state b: u4
    state c: u4
    state mode: u2
    counter t: u56 at osc while go
    line out
    line inverted
    line gated
    wave w over t = match mode:
        0 -> low a, high b + 1, repeat
        1 -> high a + 1, low b, high c, low 1, repeat
        2 -> low a, high b, then low
        3 -> high a, low b, then high
    drive out = w
    drive inverted = not w and mode != 3
    drive gated = w and go
    io at 0 size 32:
        reg set @0 u16 wo:
            write v:
                mode = v[1:0]; a = v[5:2]; b = v[9:6]; c = v[13:10]; go = v[14]
                if v[15]: t = 0
        reg level @2 u8: [0] w1 = w
        reg since @8 u64 = w.since
        reg left @16 u64 = w.left
"""


class WaveModel:
    """The same, tick by tick."""

    def __init__(self) -> None:
        self.mode = self.a = self.b = self.c = self.t = 0
        self.go = False
        self.rises = [0, 0, 0]
        self.lines = self.levels()

    def phases(self) -> tuple[list[tuple[int, int]], int | None]:
        a, b, c = self.a, self.b, self.c
        return [
            ([(0, a), (1, b + 1)], None),
            ([(1, a + 1), (0, b), (1, c), (0, 1)], None),
            ([(0, a), (1, b)], 0),
            ([(1, a), (0, b)], 1),
        ][self.mode]

    def place(self) -> tuple[int, int, int]:
        """The level, since when, and until when."""
        phases, final = self.phases()
        period = sum(length for _, length in phases)
        position = self.t if final is not None else self.t % period
        start = 0
        for level, length in phases:
            if position < start + length:
                return level, position - start, start + length - position
            start += length
        assert final is not None
        return final, 0, 1

    def levels(self) -> list[int]:
        level = self.place()[0]
        return [level, int(not level and self.mode != 3), int(level and self.go)]

    def look(self) -> None:
        """Count the lines that rose since they were last looked at."""
        levels = self.levels()
        self.rises = [r + (new > old) for r, old, new in zip(self.rises, self.lines, levels, strict=True)]
        self.lines = levels

    def run(self, ticks: int) -> None:
        for _ in range(ticks * self.go):
            self.t += 1
            self.look()

    def write(self, v: int) -> None:
        self.mode, self.a, self.b, self.c = v & 3, v >> 2 & 15, v >> 6 & 15, v >> 10 & 15
        self.go = bool(v >> 14 & 1)
        self.t *= not v >> 15
        self.look()


def split(rng: Random, bench: Bench, until: int) -> Bench:
    """Go to an instant by way of others, looking, saving and restoring on the way."""
    stops = sorted(rng.randrange(bench.now, until + 1) for _ in range(rng.randrange(4)))
    for stop in stops:
        bench.now = stop
        match rng.randrange(5):
            case 0:
                bench.at(stop)
            case 1:
                bench.peek(rng.randrange(32), rng.choice((1, 2, 4, 8)))
            case 2:
                bench.read(rng.choice((2, 8, 16)), 1)
            case 3:
                bench.pair.call("levels", stop)
                bench.pair.call("next", stop)
            case _:
                bench.pair.call("save", stop)
    bench.at(until)
    return bench


@settings(max_examples=2500, deadline=None)
@given(
    HZ, st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 0xFFFF)), max_size=25)
)
def test_a_wave_rises_as_often_as_its_level_does_tick_by_tick(
    hz: int, seed: int, steps: list[tuple[int, int]]
) -> None:
    rng, model, bench = Random(seed), WaveModel(), device(WAVE, hz=hz)
    for ticks, value in steps:
        before = tick(bench.now, hz)
        target = first(before + ticks, hz)
        until = max(
            bench.now, min(target + rng.randrange(SECOND // hz + 1), first(before + ticks + 1, hz) - 1)
        )
        split(rng, bench, until)
        model.run(tick(until, hz) - before)
        assert [bench.line(i) for i in range(3)] == model.lines
        assert [bench.rises(i) for i in range(3)] == model.rises
        level, since, left = model.place()
        assert (bench.read(2), bench.read(8, 8), bench.read(16, 8)) == (level, since, left)
        assert bench.deadline > bench.now
        later = min(bench.deadline - 1, bench.now + 10 * SECOND)
        assert bench.pair.call("levels", later) == bench.pair.reference.lines  # no edge before the deadline
        bench.write(0, value, 2)
        model.write(value)
        assert [bench.line(i) for i in range(3)] == model.lines
        assert [bench.rises(i) for i in range(3)] == model.rises


def test_the_edges_of_a_wave_over_ages_are_counted_by_division() -> None:
    bench = device(WAVE, hz=1_000_000_000)
    bench.write(0, 0 | 4 << 2 | 5 << 6 | 1 << 14, 2)  # low 4, high 6
    bench.at(10**16 + 3)
    assert bench.rises(0) == 10**15 % 2**32
    bench.at(10**16 + 4)
    assert (bench.rises(0), bench.line(0)) == ((10**15 + 1) % 2**32, 1)


# --- events of time -------------------------------------------------------------------

EVENTS = """device d(hz: 1..1_000_000_000 = 1000):
    clock osc = hz Hz
    state toggled: u16
    state reached: u16
    state target: u16 = 3
    state rang: u16
    state echoed: u16
    state width: 0..15 = 7
    state on_going: bool = true
    state seen: u16
    state log: u32
    alarm bell at osc
    alarm echo at osc
    counter t: u32 at osc while on_going
    line out
    line busy
    on t[2] toggles: toggled = wrap(toggled + wrap_of_16)
    on t[width:0] reaches target when target != 9: reached = reached | 1; seen = target
    on bell:
        rang = wrap(rang + 1)
        arm echo in 3
        log = log[15:0] ++ rang
    on echo: echoed = wrap(echoed + 1)
    on rang == 3 rises: echoed = wrap(echoed + 100)
    drive out = reached == 1
    drive busy = rang != echoed
    io at 0 size 32:
        reg arm_it @0 u16 wo:
            write v: arm bell in max(1, v)
        reg stop @2 u8 wo:
            write v: disarm bell; on_going = v[0]
        reg aim @4 u16 wo:
            write v: target = v
        reg clear @6 u8 wo:
            write v: reached = 0
        reg wide @7 u8 wo:
            write v: width = v[3:0]
        reg shown @8 u16 = rang
        reg time @16 u32 = t:
            write v: t = v
""".replace("wrap(toggled + wrap_of_16)", "wrap(toggled + times(4))")


class EventsModel:
    """The same, tick by tick."""

    def __init__(self) -> None:
        self.toggled = self.reached = self.rang = self.echoed = self.seen = self.t = self.log = 0
        self.target, self.width, self.going = 3, 7, True
        self.bell: int | None = None
        self.echo: int | None = None

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.bell, self.echo = (None if a is None else a - 1 for a in (self.bell, self.echo))
            if self.going:
                self.t = self.t + 1 & 2**32 - 1
                self.toggled = self.toggled + (self.t % 4 == 0) & 0xFFFF
                mask = (2 << self.width) - 1
                if self.t & mask == self.target & mask and self.target != 9:
                    self.reached, self.seen = 1, self.target
            rang = self.rang == 3
            if self.bell == 0:
                self.rang = self.rang + 1 & 0xFFFF
                self.bell, self.echo = None, 3  # an echo that is due in this very tick is put off
                self.log = self.log << 16 & 2**32 - 1 | self.rang
            if self.echo == 0:
                self.echoed = self.echoed + 1 & 0xFFFF
                self.echo = None
            if self.rang == 3 and not rang:
                self.echoed = self.echoed + 100 & 0xFFFF

    def write(self, offset: int, value: int) -> None:
        match offset:
            case 0:
                self.bell = max(1, value)
            case 2:
                self.bell, self.going = None, bool(value & 1)
            case 4:
                self.target = value
            case 6:
                self.reached = 0
            case 7:
                self.width = value & 15
            case 16:
                self.t = value


@settings(max_examples=2500, deadline=None)
@given(
    HZ,
    st.integers(0, 2**32),
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 12), st.integers(0, 600)),
            st.sampled_from([0, 0, 0, 2, 4, 4, 6, 7, 16]),
            st.one_of(st.integers(0, 12), st.integers(0, 0xFFFF)),
        ),
        max_size=25,
    ),
)
def test_events_happen_at_their_ticks_however_time_is_split(
    hz: int, seed: int, steps: list[tuple[int, int, int]]
) -> None:
    rng, model, bench = Random(seed), EventsModel(), device(EVENTS, hz=hz)
    for ticks, offset, value in steps:
        before = tick(bench.now, hz)
        until = max(bench.now, first(before + ticks, hz))
        split(rng, bench, until)
        model.run(tick(until, hz) - before)
        names = ("toggled", "reached", "rang", "echoed", "seen", "log")
        assert {n: bench.get(n) for n in names} == {n: getattr(model, n) for n in names}
        assert bench.read(16, 4) == model.t
        assert (bench.line(0), bench.line(1)) == (model.reached == 1, model.rang != model.echoed)
        width = {0: 2, 2: 1, 4: 2, 6: 1, 7: 1, 16: 4}[offset]
        bench.write(offset, value & 2 ** (8 * width) - 1, width)
        model.write(offset, value & 2 ** (8 * width) - 1)


def test_an_alarm_rings_in_its_first_ns_and_not_before() -> None:
    bench = device(EVENTS, hz=1_193_182)
    bench.at(12_345)
    bench.write(0, 100, 2)
    due = first(tick(12_345, 1_193_182) + 100, 1_193_182)
    bench.at(due - 1)
    assert bench.get("rang") == 0
    bench.at(due)
    assert bench.get("rang") == 1


def test_an_event_far_in_the_past_costs_no_more_than_one() -> None:
    bench = device(EVENTS, hz=1_000_000_000)
    bench.at(2**63)
    assert bench.get("toggled") == (2**63 >> 2) % 2**16
    assert bench.deadline > bench.now


# --- time at its ends ----------------------------------------------------------------


def instants(rng: Random) -> Iterator[int]:
    now = 0
    while now < 2**64 - 1:
        yield now
        now = min(2**64 - 1, now + rng.choice((0, 1, 10**6, 10**9, 10**15, 2**62)))
    yield 2**64 - 1


def test_time_may_jump_as_far_as_it_goes() -> None:
    for text in (COUNTER, WAVE, EVENTS):
        for seed in range(4):
            rng = Random(seed)
            bench = device(text, hz=rng.choice((1, 1_000, 1_000_000_000)))
            for now in instants(rng):
                bench.at(now)
                bench.write(rng.choice((0, 2, 4)), rng.randrange(2**16), 2)
                bench.read(8, 8)
                assert bench.saved() == bench.moved().saved()


STANDING = """device d(hz: 1..1_000_000_000 = 1000):
    state go: bool
    clock osc = hz Hz while go
    counter t: u32 at osc
    state hits: u16
    state told: bool
    on t[2:0] reaches 5: hits = wrap(hits + times(8)); told = true
    line out
    drive out = told
    io at 0 size 16:
        reg enable @0 u8:
            [0] x rw
            write v: store; go = v[0]
        reg value @4 u32 = t:
            write v: t = v
"""


@QUICK
@given(HZ, STEPS)
def test_a_clock_that_stands_begins_a_whole_tick_when_it_starts(
    hz: int, steps: list[tuple[int, int, int]]
) -> None:
    bench = device(STANDING, hz=hz)
    value, started, hits = 0, None, 0
    for kind, wait, number in steps:
        before, bench.now = bench.now, bench.now + wait % (40 * SECOND // hz + 1)
        if started is not None:
            ticks = tick(bench.now - started, hz) - tick(before - started, hz)
            hits += sum((value + i) % 8 == 5 for i in range(1, ticks + 1))
            value = value + ticks & 2**32 - 1
        bench.at(bench.now)
        if kind == 0:
            started = started if number & 1 and started is not None else bench.now if number & 1 else None
            bench.write(0, number & 0xFF)
        elif kind == 1:
            value = number
            bench.write(4, number, 4)
        elif kind == 2:
            bench = bench.moved()
        assert bench.read(4, 4) == value
        assert (bench.get("hits"), bench.line()) == (hits & 0xFFFF, hits > 0)
