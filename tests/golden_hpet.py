"""Comparing the HPET with its recordings, within the allowances of golden/README.md.

`Timer` follows what the guest did to each timer, as far as it must be known
where QEMU departs from the specification (the numbers are the sections of IA-PC
HPET 1.0a). It knows no counting but the main counter's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from .golden_report import UNEXPLAINED, Difference, pair
from .golden_traces import Answers, Edge, Operation, Trace

CONFIG, STATUS, COUNT, TIMERS, STRIDE = 0x10, 0x20, 0xF0, 0x100, 0x20
TARGET = 8
ENABLE, LEGACY = 1, 2
ONES = 2**64 - 1
TICK = 10
COUNTER_WRITE = "a write to the running counter has no effect"
COUNTER_IN_NS = "the counter wraps at 2**64 ns"
PASSED = "a comparator that the counter has passed fires at once"
VAL_SET = "a 32-bit write ends VAL_SET, and one of the high half with it leaves the period alone"
CLAMPED = "a period's halves have 31 bits"
LEGACY_ALONE = "legacy replacement does not need the overall enable"
LEFT_HIGH = "a line stays high when its timer is routed elsewhere or made edge-triggered"
WRAP = "in 32-bit mode a one-shot fires a tick before the wrap"
LATE = 9
"""QEMU programs its timers up to a part of a tick late, ns."""


@dataclass
class QemuComparator:
    """What QEMU makes of writes to a comparator."""

    target: int = ONES
    period: int = 0
    val_set: bool = False

    def write(self, register: int, value: int, periodic: bool, narrow: bool) -> None:
        if register == 0:
            self.val_set = bool(value & 0x40)
        elif register in (TARGET, TARGET + 4):
            shift = 8 * (register - TARGET)
            lane = 0xFFFF_FFFF << shift
            if not periodic or self.val_set:
                self.target = self.target & ~lane | value << shift
            if periodic and (not shift or not self.val_set):
                self.period = self.period & ~lane | (value & 0x7FFF_FFFF) << shift
            self.val_set = False

    def settle(self, count: int, periodic: bool) -> None:
        """Where it stands when its timer is stopped, or started."""
        if periodic and self.period and self.target < count:
            self.target += -(-(count - self.target) // self.period) * self.period

    def passed(self, count: int, narrow: bool) -> bool:
        bits = 32 if narrow else 64
        return (count - self.target) % 2**bits < 2 ** (bits - 1)


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
    theirs: QemuComparator = field(default_factory=lambda: QemuComparator())
    passed: bool = False
    cause: str = UNEXPLAINED  # of differences now, and as long as its status bit stays
    acknowledged: bool = False
    stays: bool = False  # stopped in the tick of a match, before QEMU has added the period

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
        self.theirs.write(register, value, self.periodic, self.narrow)
        if register == 0:
            self.config = value
            if not self.level:  # "should be ignored by software", and is 0
                self.kept = self.again = False
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
            self.passed = self.stays = False
        if self.narrow:
            for comparator in (self, self.theirs):
                comparator.target &= 0xFFFF_FFFF
                comparator.period &= 0xFFFF_FFFF

    def since_match(self, count: int) -> int | None:
        """Ticks since the counter last reached the comparator; None if it did not."""
        if count < self.target:
            return None
        since = count - self.target
        return since % self.period if self.periodic and self.period else since


@dataclass
class Counter:
    """The main counter; its ticks begin where it is enabled.

    Two of QEMU's ways: `keeps`, a write while it runs has no effect (2.3.7 leaves it
    undefined); `in_ns`, it is held in ns modulo 2**64.
    """

    keeps: bool
    in_ns: bool
    value: int = 0
    since: int = 0
    running: bool = False

    def at(self, t: int) -> int:
        if not self.running:
            return self.value
        if self.in_ns:
            return (self.value * TICK + t - self.since) % 2**64 // TICK
        return (self.value + (t - self.since) // TICK) % 2**64

    def run(self, running: bool, t: int) -> None:
        if running != self.running:
            self.value, self.since, self.running = self.at(t), t, running

    def write(self, lane: int, value: int, t: int) -> None:
        """Write a half, 0 or 4."""
        if not (self.running and self.keeps):
            shift = 8 * lane
            self.value = self.at(t) & ~(0xFFFF_FFFF << shift) | value << shift
            self.since += (t - self.since) // TICK * TICK


class Programming:
    """All timers and the registers they share."""

    def __init__(self, timers: int) -> None:
        self.timers = [Timer(n) for n in range(timers)]
        self.counter = Counter(keeps=True, in_ns=True)
        self.exact = Counter(keeps=True, in_ns=False)
        self.ours = Counter(keeps=False, in_ns=False)
        self.legacy = False

    def line(self, timer: Timer) -> int:
        return (0, 8)[timer.number] if self.legacy and timer.number < 2 else timer.route

    def lines(self, timer: Timer) -> set[int]:
        """QEMU's line and ours."""
        return {self.line(timer), self.line(timer) if self.counter.running else timer.route}

    def write(self, offset: int, value: int, t: int) -> None:
        """A 32-bit write of a lane."""
        count, was_active = self.counter.at(t), [self.is_active(timer) for timer in self.timers]
        self._write(offset, value, t)
        for timer, active in zip(self.timers, was_active, strict=True):
            if active and not self.is_active(timer):
                timer.theirs.settle(count, timer.periodic)
                timer.passed = False
            elif self.is_active(timer) and (
                not active or offset & ~7 == TIMERS + STRIDE * timer.number + TARGET
            ):
                timer.passed = timer.theirs.passed(self.counter.at(t), timer.narrow)

    def is_active(self, timer: Timer) -> bool:
        return timer.enabled and self.counter.running

    def _write(self, offset: int, value: int, t: int) -> None:
        if offset == CONFIG:
            for counter in self.counters:
                counter.run(bool(value & ENABLE), t)
            self.legacy = bool(value & LEGACY)
        elif offset == STATUS:
            for timer in self.timers:
                if value >> timer.number & 1:
                    timer.kept, timer.again = False, self.just_matched(timer, t)
                    timer.acknowledged = True
        elif offset - COUNT in (0, 4):
            for counter in self.counters:
                counter.write(offset - COUNT, value, t)
        elif offset >= TIMERS and (offset - TIMERS) // STRIDE < len(self.timers):
            self.timers[(offset - TIMERS) // STRIDE].write((offset - TIMERS) % STRIDE, value)

    @property
    def counters(self) -> tuple[Counter, ...]:
        return self.counter, self.exact, self.ours

    def counter_cause(self, t: int) -> str:
        """Why the counters differ, if they do."""
        theirs, exact, ours = (counter.at(t) for counter in self.counters)
        if theirs != exact:
            return COUNTER_IN_NS
        return COUNTER_WRITE if exact != ours else UNEXPLAINED

    def find_causes(self, t: int) -> None:
        """Which of QEMU's departures makes each timer differ now."""
        of_counter = self.counter_cause(t)
        for timer in self.timers:
            cause = of_counter
            if cause == UNEXPLAINED:
                cause = self._timer_cause(timer)
            if cause != UNEXPLAINED or timer.acknowledged or not timer.level:
                timer.cause = cause
            timer.acknowledged = False

    def _timer_cause(self, timer: Timer) -> str:
        if timer.periodic and timer.theirs.period != timer.period:
            clamped = timer.period & 0x7FFF_FFFF_7FFF_FFFF
            return CLAMPED if timer.theirs.period == clamped else VAL_SET
        if timer.passed:
            return PASSED
        alone = timer.number < 2 and self.legacy and not self.counter.running
        return LEGACY_ALONE if alone else UNEXPLAINED

    def causes(self) -> dict[int, str]:
        """By line."""
        return {
            line: timer.cause
            for timer in self.timers
            for line in self.lines(timer)
            if timer.cause != UNEXPLAINED
        }

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
        return frozenset(self.line(timer) for timer in self.timers if self.is_active(timer))


class _Comparison:
    def __init__(self, trace: Trace, answers: Answers) -> None:
        self.trace, self.answers = trace, answers
        self.base = trace.meta["base"]
        self.programming = Programming(trace.meta["timers"])
        self.high = (_Levels(trace.edges), _Levels(answers.edges))
        self.rises = sorted((edge.line, edge.t) for edge in trace.edges if edge.level)
        self.causes: list[dict[int, str]] = []  # by operation: what makes a line differ
        self.counts: list[Counter] = []  # by operation: the main counter after it
        self.uncertain: list[frozenset[int]] = []  # by operation
        self.periodic: list[frozenset[int]] = []  # by operation: lines of periodic timers
        self.narrow: list[frozenset[int]] = []  # by operation: lines of 32-bit one-shots
        self.stopped: list[tuple[int, int]] = []  # lines whose timer was stopped, and when

    def run(self) -> Iterator[Difference]:
        programming = self.programming
        for at, operation in enumerate(self.trace.operations):
            uncertain, causes = programming.uncertain, programming.causes()
            if operation.kind == "write" and operation.address >= self.base:
                self._write(at, operation)
            for timer in programming.timers:
                if timer.level and not timer.enabled and programming.counter.running:
                    timer.kept = True
            self.uncertain.append(uncertain | programming.uncertain)
            periodic = (programming.line(timer) for timer in programming.timers if timer.periodic)
            self.periodic.append(frozenset(periodic))
            narrow = (timer for timer in programming.timers if timer.narrow and not timer.periodic)
            self.narrow.append(frozenset(programming.line(timer) for timer in narrow))
            programming.find_causes(operation.t)
            self.causes.append({**self._left_high(at), **causes, **programming.causes()})
            self.counts.append(replace(programming.counter))
            if operation.kind == "read" and operation.address >= self.base:
                yield from self._read(at, operation, self.answers.values[at])
        yield from self._edges()

    def _left_high(self, at: int) -> dict[int, str]:
        """Lines that are high there though no timer holds them."""
        programming = self.programming
        held = {programming.line(timer) for timer in programming.timers if timer.level and timer.enabled}
        theirs, _ = self.high
        return {line: LEFT_HIGH for line in range(32) if line not in held and theirs.before(at, line)}

    def _write(self, at: int, operation: Operation) -> None:
        """Follow a write; what it disables while its line is high, QEMU forgets."""
        programming = self.programming
        active = programming.active
        matched = [
            timer.periodic and programming.just_matched(timer, operation.t) for timer in programming.timers
        ]
        pending = [
            timer.level
            and programming.line(timer) in active
            and any(levels.before(at, programming.line(timer)) for levels in self.high)
            for timer in programming.timers
        ]
        for lane in range(0, operation.width, 4):
            value = operation.value >> 8 * lane & 0xFFFF_FFFF
            programming.write(operation.address - self.base + lane, value, operation.t)
        rewritten = {
            programming.line(timer)
            for timer in programming.timers
            if operation.address - self.base & ~7 == TIMERS + STRIDE * timer.number + TARGET
        }
        stopped = active & rewritten | active - programming.active
        self.stopped += [(line, operation.t) for line in stopped]
        for timer, was_pending, just_matched in zip(programming.timers, pending, matched, strict=True):
            if not programming.is_active(timer):
                timer.kept |= was_pending
                timer.again = False
                timer.stays |= just_matched

    # --- values ---

    def _read(self, at: int, operation: Operation, ours: int) -> Iterator[Difference]:
        theirs, offset = operation.answer, operation.address - self.base
        differing = theirs ^ ours
        if offset == STATUS:
            differing &= ~self._uncertain_status(operation.t, ours)
        elif offset >= TIMERS and (offset - TIMERS) % STRIDE == TARGET:
            timer = self.programming.timers[(offset - TIMERS) // STRIDE]
            matched = self.programming.just_matched(timer, operation.t) or timer.stays
            if matched and ours - theirs == timer.period:
                return  # the period is added with the second pulse
        if differing:
            kind = f"read of {_name(offset)}, {operation.width} bytes"
            yield Difference(at, kind, theirs, ours, self._read_cause(offset, operation, ours))

    def _read_cause(self, offset: int, operation: Operation, ours: int) -> str:
        cause = self.programming.counter_cause(operation.t)
        if offset & ~7 == COUNT:
            mask = 2 ** (8 * operation.width) - 1
            counts = (self.programming.counter, self.programming.ours)
            expected = tuple(count.at(operation.t) >> 8 * (offset & 7) & mask for count in counts)
            return cause if (operation.answer, ours) == expected else UNEXPLAINED
        if offset == STATUS:
            bits = operation.answer ^ ours
            concerned = [timer for timer in self.programming.timers if bits >> timer.number & 1]
            causes = {timer.cause for timer in concerned if not self._may_differ(timer, operation.t, ours)}
            return UNEXPLAINED if UNEXPLAINED in causes else min(causes)
        if offset >= TIMERS:
            return self.programming.timers[(offset - TIMERS) // STRIDE].cause
        return UNEXPLAINED

    def _uncertain_status(self, t: int, ours: int) -> int:
        """Status bits that may differ."""
        return sum(1 << timer.number for timer in self.programming.timers if self._may_differ(timer, t, ours))

    def _may_differ(self, timer: Timer, t: int, ours: int) -> bool:
        """See `Timer`; and there it may be set up to `LATE` later."""
        if not ours >> timer.number & 1:
            return timer.again
        line = self.programming.line(timer)
        return timer.kept or any(at == line and 0 <= rise - t <= LATE for at, rise in self.rises)

    # --- edges ---

    def _edges(self) -> Iterator[Difference]:
        for line in sorted({edge.line for edge in (*self.trace.edges, *self.answers.edges)}):
            theirs = _by_shape([edge for edge in self.trace.edges if edge.line == line])
            ours = _by_shape([edge for edge in self.answers.edges if edge.line == line])
            theirs["pulse"] = list(self._without_second_pulses(theirs["pulse"], theirs["fall"]))
            for shape in theirs:
                for side, edges in zip(
                    ("there", "here"), pair(theirs[shape], ours[shape], 0, LATE), strict=True
                ):
                    for edge in edges:
                        if line not in self.uncertain[edge.at] and not (
                            side == "here" and self._stopped(edge)
                        ):
                            yield Difference.of_edge(edge, side, f" ({shape})", self._edge_cause(edge))

    def _edge_cause(self, edge: Edge) -> str:
        count = self.counts[edge.at].at(edge.t) & 0xFFFF_FFFF
        if count in (0, 0xFFFF_FFFF) and edge.line in self.narrow[edge.at]:
            return WRAP
        return self.causes[edge.at].get(edge.line, UNEXPLAINED)

    def _stopped(self, edge: Edge) -> bool:
        """Whether its timer was stopped, or set anew, before QEMU's, being late, came to it."""
        return any(line == edge.line and 0 <= t - edge.t <= LATE for line, t in self.stopped)

    def _without_second_pulses(self, pulses: list[Edge], falls: list[Edge]) -> Iterator[Edge]:
        """A periodic timer pulses twice in QEMU, a tick apart; the first, on a line left high, is a fall."""
        instants = {pulse.t for pulse in pulses}
        instants |= {fall.t for fall in falls if self.causes[fall.at].get(fall.line) == LEFT_HIGH}
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
