"""Comparing the HPET with its recordings, within the allowances of golden/README.md.

`Timer` follows what the guest did to each timer, as far as it must be known
where QEMU departs from the specification (the numbers are the sections of IA-PC
HPET 1.0a). It knows no counting but the main counter's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .golden_report import UNEXPLAINED, Difference, pair
from .golden_traces import Answers, Edge, Operation, Trace

CONFIG, STATUS, COUNT, TIMERS, STRIDE = 0x10, 0x20, 0xF0, 0x100, 0x20
TARGET = 8
ENABLE, LEGACY = 1, 2
ONES = 2**64 - 1
TICK = 10
LATE = 9
"""QEMU programs its timers up to a part of a tick late, ns."""


@dataclass
class Timer:
    """One timer as programmed.

    `kept`: its status bit may be set here and not there, where QEMU dropped it or
    never set it. `again`: it may be set there and not here, where QEMU's timer,
    being late or pulsing twice, set it after the acknowledgement.
    """

    number: int
    config: int = 0
    target: int = ONES
    period: int = 0
    open: int = 0  # lanes of the comparator that VAL_SET opened
    kept: bool = False
    again: bool = False
    marks: set[str] = field(default_factory=set)

    @property
    def level(self) -> bool:
        return bool(self.config & 0x2)

    @property
    def enabled(self) -> bool:
        return bool(self.config & 0x4)

    @property
    def periodic(self) -> bool:
        return bool(self.config & 0x8)

    @property
    def narrow(self) -> bool:
        return bool(self.config & 0x100)

    @property
    def route(self) -> int:
        return self.config >> 9 & 31

    def write(self, register: int, value: int) -> None:
        """A 32-bit write of a lane."""
        if register == 0:
            self.config = value
            if value & 0x40:
                self.open = ONES
        elif register in (TARGET, TARGET + 4):
            shift = 8 * (register - TARGET)
            lane = 0xFFFF_FFFF << shift
            if not self.periodic or self.open & lane:
                self.target = self.target & ~lane | value << shift
            if self.periodic:
                self.period = self.period & ~lane | value << shift
            self.open &= ~lane

    def since_match(self, count: int) -> int | None:
        """Ticks since the counter last reached the comparator; None if it did not."""
        if count < self.target:
            return None
        since = count - self.target
        return since % self.period if self.periodic and self.period else since


@dataclass
class Counter:
    """The main counter; its ticks begin where it is enabled."""

    value: int = 0
    since: int = 0
    running: bool = False

    def at(self, t: int) -> int:
        return self.value + (t - self.since) // TICK if self.running else self.value

    def run(self, running: bool, t: int) -> None:
        if running != self.running:
            self.value, self.since, self.running = self.at(t), t, running

    def write(self, lane: int, value: int) -> None:
        """A halted counter's half. One that runs keeps its value in QEMU."""
        if not self.running:
            shift = 8 * lane
            self.value = self.value & ~(0xFFFF_FFFF << shift) | value << shift


class Programming:
    """All timers and the registers they share."""

    def __init__(self, timers: int) -> None:
        self.timers = [Timer(n) for n in range(timers)]
        self.counter = Counter()
        self.legacy = False

    def line(self, timer: Timer) -> int:
        return (0, 8)[timer.number] if self.legacy and timer.number < 2 else timer.route

    def write(self, offset: int, value: int, t: int) -> None:
        """A 32-bit write of a lane."""
        if offset == CONFIG:
            self.counter.run(bool(value & ENABLE), t)
            self.legacy = bool(value & LEGACY)
        elif offset == STATUS:
            for timer in self.timers:
                if value >> timer.number & 1:
                    timer.kept, timer.again = False, self.just_matched(timer, t)
        elif offset - COUNT in (0, 4):
            self.counter.write(offset - COUNT, value)
        elif offset >= TIMERS and (offset - TIMERS) // STRIDE < len(self.timers):
            self.timers[(offset - TIMERS) // STRIDE].write((offset - TIMERS) % STRIDE, value)

    def just_matched(self, timer: Timer, t: int) -> bool:
        """Whether it matched so recently that QEMU's timer, or its second pulse, may still come."""
        since = timer.since_match(self.counter.at(t))
        return self.counter.running and since is not None and since <= 1

    @property
    def uncertain(self) -> frozenset[int]:
        """Lines of timers whose status bits may differ."""
        return frozenset(self.line(timer) for timer in self.timers if timer.kept or timer.again)

    @property
    def active(self) -> frozenset[int]:
        """Lines of timers that interrupt."""
        return frozenset(self.line(timer) for timer in self.timers if timer.enabled and self.counter.running)


class _Comparison:
    def __init__(self, trace: Trace, answers: Answers) -> None:
        self.trace, self.answers = trace, answers
        self.base = trace.meta["base"]
        self.programming = Programming(trace.meta["timers"])
        self.high = (_Levels(trace.edges), _Levels(answers.edges))
        self.rises = sorted((edge.line, edge.t) for edge in trace.edges if edge.level)
        self.uncertain: list[frozenset[int]] = []  # by operation
        self.periodic: list[frozenset[int]] = []  # by operation: lines of periodic timers
        self.stopped: list[tuple[int, int]] = []  # lines whose timer was stopped, and when

    def run(self) -> Iterator[Difference]:
        programming = self.programming
        for at, operation in enumerate(self.trace.operations):
            uncertain = programming.uncertain
            if operation.kind == "write" and operation.address >= self.base:
                self._write(at, operation)
            for timer in programming.timers:
                if timer.level and not timer.enabled and programming.counter.running:
                    timer.kept = True
            self.uncertain.append(uncertain | programming.uncertain)
            periodic = (programming.line(timer) for timer in programming.timers if timer.periodic)
            self.periodic.append(frozenset(periodic))
            if operation.kind == "read" and operation.address >= self.base:
                yield from self._read(at, operation, self.answers.values[at])
        yield from self._edges()

    def _write(self, at: int, operation: Operation) -> None:
        """Follow a write; what it disables while its line is high, QEMU forgets."""
        programming = self.programming
        active = programming.active
        pending = [
            timer.level
            and programming.line(timer) in active
            and any(levels.before(at, programming.line(timer)) for levels in self.high)
            for timer in programming.timers
        ]
        for lane in range(0, operation.width, 4):
            value = operation.value >> 8 * lane & 0xFFFF_FFFF
            programming.write(operation.address - self.base + lane, value, operation.t)
        self.stopped += [(line, operation.t) for line in active - programming.active]
        for timer, was_pending in zip(programming.timers, pending, strict=True):
            if not (timer.enabled and programming.counter.running):
                timer.kept |= was_pending
                timer.again = False

    # --- values ---

    def _read(self, at: int, operation: Operation, ours: int) -> Iterator[Difference]:
        theirs, offset = operation.answer, operation.address - self.base
        differing = theirs ^ ours
        if offset == STATUS:
            differing &= ~self._uncertain_status(operation.t, ours)
        elif offset >= TIMERS and (offset - TIMERS) % STRIDE == TARGET:
            timer = self.programming.timers[(offset - TIMERS) // STRIDE]
            if self.programming.just_matched(timer, operation.t) and ours - theirs == timer.period:
                return  # the period is added with the second pulse
        if differing:
            yield Difference(at, f"read of {_name(offset)}, {operation.width} bytes", theirs, ours)

    def _uncertain_status(self, t: int, ours: int) -> int:
        """Status bits that may differ: see `Timer`, or set there within `LATE`."""
        found = 0
        for timer in self.programming.timers:
            line = self.programming.line(timer)
            late = any(at == line and 0 <= rise - t <= LATE for at, rise in self.rises)
            set_here = ours >> timer.number & 1
            if timer.kept or late if set_here else timer.again:
                found |= 1 << timer.number
        return found

    # --- edges ---

    def _edges(self) -> Iterator[Difference]:
        for line in sorted({edge.line for edge in (*self.trace.edges, *self.answers.edges)}):
            theirs = _by_shape([edge for edge in self.trace.edges if edge.line == line])
            ours = _by_shape([edge for edge in self.answers.edges if edge.line == line])
            theirs["pulse"] = list(self._without_second_pulses(theirs["pulse"]))
            for shape in theirs:
                for side, edges in zip(
                    ("there", "here"), pair(theirs[shape], ours[shape], 0, LATE), strict=True
                ):
                    for edge in edges:
                        if line not in self.uncertain[edge.at] and not (
                            side == "here" and self._stopped(edge)
                        ):
                            yield Difference.of_edge(edge, side, f" ({shape})")

    def _stopped(self, edge: Edge) -> bool:
        """Whether its timer was stopped before QEMU's, being late, came to it."""
        return any(line == edge.line and 0 <= t - edge.t <= LATE for line, t in self.stopped)

    def _without_second_pulses(self, pulses: list[Edge]) -> Iterator[Edge]:
        """A periodic timer pulses twice in QEMU, a tick apart."""
        instants = {pulse.t for pulse in pulses}
        for pulse in pulses:
            if pulse.t - TICK not in instants or pulse.line not in self.periodic[pulse.at]:
                yield pulse


class _Levels:
    """Levels of lines as operations come and go."""

    def __init__(self, edges: tuple[Edge, ...] | list[Edge]) -> None:
        self.edges = list(edges)
        self.high: dict[int, bool] = {}
        self.next = 0

    def before(self, at: int, line: int) -> bool:
        """Whether a line is high before an operation; to be asked in order."""
        while self.next < len(self.edges) and self.edges[self.next].at < at:
            edge = self.edges[self.next]
            self.high[edge.line] = bool(edge.level)
            self.next += 1
        return self.high.get(line, False)


def _by_shape(edges: list[Edge]) -> dict[str, list[Edge]]:
    """A line's edges as pulses (up and down in one instant), rises and falls."""
    found: dict[str, list[Edge]] = {"pulse": [], "rise": [], "fall": []}
    at = 0
    while at < len(edges):
        edge, follower = edges[at], edges[at + 1] if at + 1 < len(edges) else None
        if edge.level and follower is not None and not follower.level and follower.t == edge.t:
            found["pulse"].append(edge)
            at += 2
        else:
            found["rise" if edge.level else "fall"].append(edge)
            at += 1
    return found


def _name(offset: int) -> str:
    if offset >= TIMERS:
        register = {0: "configuration", 8: "comparator", 16: "FSB route"}.get(offset % STRIDE & ~7, "gap")
        return f"timer {(offset - TIMERS) // STRIDE}'s {register}{' high' if offset & 4 else ''}"
    names = {0: "capabilities", CONFIG: "configuration", STATUS: "status", COUNT: "counter"}
    return names.get(offset & ~7, "gap") + (" high" if offset & 4 else "")


def compare(trace: Trace, answers: Answers) -> list[Difference]:
    """Every difference beyond the allowances."""
    return list(_Comparison(trace, answers).run())
