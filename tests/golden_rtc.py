"""Comparing the RTC with its recordings, within the allowances of golden/README.md.

`Programming` follows what the guest wrote, as far as it must be known whether a
flag is due and where QEMU departs from the data sheet (MC146818A). It knows no
calendar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .golden_report import UNEXPLAINED, Difference, pair
from .golden_traces import Answers, Operation, Trace

A, B, C = 10, 11, 12
WEEKDAYS, YEAR, CENTURY = 6, 9, (0x32, 0x37)
TIME = frozenset({0, 2, 4, WEEKDAYS, 7, 8, YEAR, *CENTURY})
SET, PIE, DM, H24 = 0x80, 0x40, 0x04, 0x02
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10
SECOND = 10**9
TICK = -(-SECOND // 32_768)
UPDATE = 65 * TICK
"""The chip's update: what QEMU does at a second's boundary happens at its end, ns."""
NAMES = (
    "seconds",
    "an alarm byte",
    "minutes",
    "an alarm byte",
    "hours",
    "an alarm byte",
    "day of week",
    "day",
    "month",
    "year",
    "A",
    "B",
    "C",
    "D",
)


WRITTEN = "a time byte written while the clock runs begins a second, and is carried at once"
RELEASED = "the divider's release under SET begins no half second"
STOPPED = "divider values 3 to 5 do not stop the seconds"
NOTATION = "a change of DM or 24/12 while the clock stands leaves the time bytes"
UNDER_SET = "UF and AF are set under SET"
BEFORE_1970 = "before 1970 its seconds are remainders of negative numbers"
WEEKDAY = "the day of the week follows the date"


@dataclass
class Second:
    """How far a second has gone, ns."""

    passed: int = 0
    since: int = 0
    runs: bool = True

    def at(self, t: int) -> int:
        return (self.passed + (t - self.since if self.runs else 0)) % SECOND

    def put(self, passed: int, t: int) -> None:
        self.passed, self.since = passed, t

    def run(self, runs: bool, t: int) -> None:
        self.put(self.at(t), t)
        self.runs = runs


@dataclass
class Programming:
    """Registers A and B, since when a periodic tick can be due, and how time runs here and there."""

    index: int = 0
    a: int = 0x26
    b: int = 0x02
    since: int = 0
    theirs: Second = field(default_factory=Second)
    ours: Second = field(default_factory=Second)
    offset: int = 0  # where a second begins that QEMU begins anew
    phase: str = UNEXPLAINED  # why the seconds differ
    time: str = UNEXPLAINED  # why the time does
    unset: set[int] = field(default_factory=set)  # time bytes not yet set since it differs
    year: int = 0x26
    century: int = 0x20
    lost: bool = False  # QEMU's second has been somewhere before 1970
    dated: bool = False  # a time byte was written: the day of the week may not fit the date

    @property
    def base(self) -> int:
        return self.a >> 4 & 7

    @property
    def held(self) -> bool:
        return self.base >= 6

    @property
    def runs(self) -> bool:
        """Whether the time goes on."""
        return self.base <= 2 and not self.b & SET

    @property
    def period(self) -> int:
        """Of the periodic interrupt, ns; 0 if there is none."""
        rate = self.a & 15
        if rate in (1, 2) and self.base == 2:
            rate += 7
        return (TICK << rate - 1) if rate else 0

    def ticks(self, t: int) -> bool:
        """Whether a periodic tick is due since the flag was last seen, whatever the phase."""
        return bool(self.period) and self.base <= 2 and t - self.since > self.period + TICK

    def write(self, value: int, t: int) -> None:
        before = self.a, self.b & PIE
        if self.index == A:
            self._write_a(value & 0x7F, t)
        elif self.index == B:
            self._write_b(value, t)
        elif self.index in TIME:
            self._write_time(value, t)
        if (self.a, self.b & PIE) != before:
            self.since = t
        if self.runs and self._before_1970:
            self.lost = True
            self._differs(BEFORE_1970)
        if not self.lost and abs(self.theirs.at(t) - self.ours.at(t)) <= TICK:
            self.phase = UNEXPLAINED

    @property
    def _before_1970(self) -> bool:
        if self.b & DM:
            return self.century * 100 + self.year < 1970
        return self.century << 8 | self.year < 0x1970

    def _write_a(self, value: int, t: int) -> None:
        was_held, self.a = self.held, value
        if was_held and not self.held:
            self.ours.put(SECOND // 2, t)
            if self.base <= 2 and not self.b & SET:
                self.offset = SECOND // 2
                self.theirs.put(self.offset, t)
                self.lost = False
            else:
                self._differs(RELEASED)
        self.ours.run(self.base <= 2, t)
        if 3 <= self.base <= 5:
            self._differs(STOPPED)

    def _write_b(self, value: int, t: int) -> None:
        before, stood = self.b, not self.runs
        self.b = value & ~UF if value & SET else value
        if before & SET and not self.b & SET and self.base <= 2:
            self.offset = self.theirs.at(t)
        if (before ^ self.b) & (DM | H24) and (stood or not self.runs):
            self.time_differs(NOTATION)

    def _write_time(self, value: int, t: int) -> None:
        self.dated = True
        if self.index == YEAR:
            self.year = value
        elif self.index in CENTURY:
            self.century = value
        if self.runs:
            self.theirs.put(self.offset, t)
            self._differs(WRITTEN)
            return
        self.unset.discard(min(CENTURY) if self.index in CENTURY else self.index)
        if not self.unset and self.phase == UNEXPLAINED:
            self.time = UNEXPLAINED

    def _differs(self, cause: str) -> None:
        self.phase = cause
        self.time_differs(cause)

    def time_differs(self, cause: str) -> None:
        self.time, self.unset = cause, set(TIME - {max(CENTURY), WEEKDAYS})


class _Comparison:
    def __init__(self, trace: Trace, answers: Answers) -> None:
        self.trace, self.answers = trace, answers
        self.ports = trace.meta["ports"]
        self.programming = Programming()
        self.periodic: list[bool] = []  # by operation: whether PIE is on before or after it
        self.causes: list[str] = []  # by operation: why flags may differ
        self.recent: set[str] = set()  # causes since C was read

    def run(self) -> Iterator[Difference]:
        for at, operation in enumerate(self.trace.operations):
            programming = self.programming
            periodic = bool(programming.b & PIE)
            if operation.kind == "write" and operation.address == self.ports["index"]:
                programming.index = operation.value & 0x7F
            elif operation.kind == "write" and operation.address == self.ports["data"]:
                programming.write(operation.value, operation.t)
            self.periodic.append(periodic or bool(programming.b & PIE))
            self.recent |= {programming.phase, programming.time} - {UNEXPLAINED}
            self.recent |= {UNDER_SET} if programming.b & SET else set()
            self.causes.append(min(self.recent, default=UNEXPLAINED))
            if operation.kind == "read" and operation.address in self.ports.values():
                yield from self._read(at, operation, self.answers.values[at])
        yield from self._edges()

    # --- values ---

    def _read(self, at: int, operation: Operation, ours: int) -> Iterator[Difference]:
        theirs, programming = operation.answer, self.programming
        if operation.address == self.ports["index"]:
            name, differing, cause = "index port", theirs ^ ours, UNEXPLAINED
        elif programming.index == C:
            name, differing = "C", self._flags(operation.t, theirs, ours)
            programming.since = operation.t
            cause, self.recent = self.causes[at], set()
        else:
            index = programming.index
            name = NAMES[index] if index < len(NAMES) else f"byte {index:#x}"
            differing, cause = theirs ^ ours, self._read_cause(index)
        if differing:
            yield Difference(at, f"read of {name}", theirs, ours, cause)

    def _read_cause(self, index: int) -> str:
        programming = self.programming
        if index == WEEKDAYS and programming.dated:
            return WEEKDAY
        return programming.phase if index == A else programming.time if index in TIME else UNEXPLAINED

    def _flags(self, t: int, theirs: int, ours: int) -> int:
        """Bits of C that differ beyond the allowances: PF where it must be set, with PIE on; else
        IRQF by the other flags alone."""
        enables = self.programming.b
        if enables & PIE and self.programming.ticks(t):
            return theirs ^ ours
        others = (AF | UF) & enables
        wrong = IRQF if bool(ours & IRQF) != bool(ours & enables & (PF | AF | UF)) else 0
        for side in (theirs, ours):
            wrong |= IRQF if side & others and not side & IRQF else 0
        return (theirs ^ ours) & (AF | UF) | wrong

    # --- edges ---

    def _edges(self) -> Iterator[Difference]:
        line = self.trace.meta["irq"]
        for level, late in ((1, UPDATE + TICK), (0, 0)):
            theirs = [edge for edge in self.trace.edges if edge.line == line and edge.level == level]
            ours = [edge for edge in self.answers.edges if edge.line == line and edge.level == level]
            only_there, only_here = pair(theirs, ours, late, 0)
            for side, edges in (("there", only_there), ("here", only_here)):
                for edge in edges:
                    if not self.periodic[edge.at]:
                        yield Difference.of_edge(edge, side, cause=self.causes[edge.at])


def compare(trace: Trace, answers: Answers) -> list[Difference]:
    """Every difference beyond the allowances."""
    return list(_Comparison(trace, answers).run())
