"""Comparing the PIT with its recordings, within the allowances of golden/README.md.

`Programming` follows what the guest did to each channel, as far as it must be
known what a read returned: a count's byte, or a status. It knows no counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .golden_report import UNEXPLAINED, Difference, match_edges
from .golden_traces import Answers, Edge, Operation, Trace

CONTROL, PORT_B = 0x43, 0x61
CHANNELS = (0x40, 0x41, 0x42)
LSB, MSB, WORD = 1, 2, 3
CHECKS, REFRESH, OUT2 = 0x0C, 0x10, 0x20
STATUS_OUT, STATUS_NULL = 0x80, 0x40


@dataclass
class Channel:
    """One counter as programmed. `count` None: none since the control word.

    `marks` are circumstances under which QEMU departs from the data sheet; they
    stay until a control word undoes what they did.
    """

    number: int
    access: int = WORD
    mode: int = 3
    bcd: bool = False
    count: int | None = 65536
    loaded: int = 0  # when the count was written, ns
    first: int | None = None  # the low byte of a half-written count
    high_next: bool = False  # the read flip-flop
    count_bytes: list[str] = field(default_factory=list)  # latched and not yet read
    count_at: int = 0  # when they were latched
    status_at: int | None = None  # when a status was latched
    kept: list[str] = field(default_factory=list)  # what QEMU holds latched: control words leave it
    gate: bool = True
    marks: set[str] = field(default_factory=lambda: {"no control word yet"})

    def command(self, value: int, t: int) -> None:
        access = value >> 4 & 3
        if access == 0:
            self.latch_count(t)
            return
        mode = value >> 1 & 7
        self.access, self.mode, self.bcd = access, mode - 4 if mode > 5 else mode, bool(value & 1)
        self.count, self.first, self.high_next = None, None, False
        self.count_bytes, self.status_at = [], None
        self.marks = set() if self.gate else {"gate was low"}
        if self.kept:
            self.marks.add("latched across a control word")
        if mode > 5:
            self.marks.add("mode 6 or 7")

    def latch_count(self, t: int) -> None:
        if not self.count_bytes:
            self.count_at = t
            if self.access == WORD and self.high_next:
                self.marks.add("latched in the middle of a read")
            self.count_bytes = {LSB: ["low"], MSB: ["high"], WORD: ["low", "high"]}[self.access]
        if not {"low", "high"} & set(self.kept):
            self.kept += self.count_bytes

    def latch_status(self, t: int) -> None:
        if self.status_at is None:
            self.status_at = t
        if "status" not in self.kept:
            self.kept.insert(0, "status")

    def write(self, value: int, t: int) -> None:
        if self.access == WORD and self.first is None:
            self.first = value
            self.marks.add("half-written")
            return
        if self.access == WORD:
            raw, self.first = value << 8 | (self.first or 0), None
        else:
            raw = value if self.access == LSB else value << 8
        if self.count is not None:
            self.marks.add("rewritten")
        self.marks.discard("half-written")
        self.count, self.loaded = self._decode(raw), t
        if self.mode in (2, 3) and self.count == 1:
            self.marks.add("count 1")
        if self.mode == 3 and self.count % 2:
            self.marks.add("odd count")

    def _decode(self, raw: int) -> int:
        if not self.bcd:
            return raw or 65536
        digits = [raw >> shift & 15 for shift in (12, 8, 4, 0)]
        if max(digits) > 9:
            self.marks.add("no decimal digits")
        return sum(digit * 10**place for digit, place in zip(digits, (3, 2, 1, 0), strict=True)) or 10000

    def take(self) -> tuple[str, bool]:
        """What the next read returns, "status", "low" or "high", and whether it was latched."""
        if self.status_at is not None:
            return "status", True
        if self.count_bytes:
            return self.count_bytes[0], True
        if self.access == WORD:
            return ("high" if self.high_next else "low"), False
        return ("low" if self.access == LSB else "high"), False

    def taken(self) -> None:
        self.kept = self.kept[1:]
        if self.status_at is not None:
            self.status_at = None
        elif self.count_bytes:
            self.count_bytes = self.count_bytes[1:]
        elif self.access == WORD:
            self.high_next = not self.high_next

    def near_edge(self, t: int, hz: int) -> bool:
        """Whether OUT changes within a tick of `t`, by the count and when it was written."""
        if self.count is None:
            return False
        tick = 10**9 / hz
        if self.mode == 3:
            half = self.count * tick / 2
            return min((t - self.loaded) % half, -(t - self.loaded) % half) <= tick + 1
        return abs(t - self.loaded - self.count * tick) <= tick + 1

    @property
    def circumstances(self) -> str:
        """The mode and what is unusual about it, for grouping differences."""
        marks = set(self.marks)
        if not self.gate:
            marks.add("gate is low")
        if self.count is None:
            marks.add("no count yet")
        if self.bcd:
            marks.add("BCD")
        return ", ".join([f"mode {self.mode}", *sorted(marks)])

    def cause(self) -> str:
        """Which of QEMU's departures is at work."""
        return next((cause for cause, applies in CAUSES if applies(self)), UNEXPLAINED)

    def cause_at(self, t: int, tick: int) -> str:
        """The same for what was read or latched at `t`."""
        if self.count is not None and t - self.loaded <= tick:
            return "a count is loaded as it is written, not on the next clock"
        return self.cause()


CAUSES: tuple[tuple[str, Callable[[Channel], bool]], ...] = (
    ("before the first control word: QEMU reads low bytes only", lambda c: "no control word yet" in c.marks),
    ("a control word leaves latches held", lambda c: "latched across a control word" in c.marks),
    ("latched in the middle of a two-byte read", lambda c: "latched in the middle of a read" in c.marks),
    ("a control word does not stop the counter nor set OUT", lambda c: c.count is None),
    ("modes 6 and 7 are not 2 and 3", lambda c: "mode 6 or 7" in c.marks),
    ("modes 1 and 5 start without a trigger, and OUT is inverted", lambda c: c.mode in (1, 5)),
    ("no BCD", lambda c: c.bcd),
    ("GATE does not stop modes 0, 2, 3 and 4", lambda c: "gate was low" in c.marks),
    (
        "mode 0: the first of two bytes does not stop the counter",
        lambda c: c.mode == 0 and "half-written" in c.marks,
    ),
    ("a new count takes effect at once", lambda c: "rewritten" in c.marks),
    ("mode 3 with an odd count", lambda c: "odd count" in c.marks),
    ("mode 4: OUT is inverted", lambda c: c.mode == 4),
)
"""QEMU's departures from the data sheet and when they show, the first that applies."""


class Programming:
    """All three channels and port 0x61's gate."""

    def __init__(self) -> None:
        self.channels = [Channel(0), Channel(1), Channel(2, gate=False)]

    def write(self, operation: Operation) -> None:
        value, t = operation.value, operation.t
        if operation.address == PORT_B:
            gate = bool(value & 1)
            if not gate:
                self.channels[2].marks.add("gate was low")
            elif not self.channels[2].gate:
                self.channels[2].marks.add("gate rose")
            self.channels[2].gate = gate
        elif operation.address in CHANNELS:
            self.channels[operation.address - CHANNELS[0]].write(value, t)
        elif operation.address == CONTROL and value >> 6 < 3:
            self.channels[value >> 6].command(value, t)
        elif operation.address == CONTROL:
            self._read_back(value, t)

    def _read_back(self, value: int, t: int) -> None:
        for channel in self.channels:
            if value >> 1 & 1 << channel.number:
                if not value & 0x20:
                    channel.latch_count(t)
                if not value & 0x10:
                    channel.latch_status(t)


@dataclass
class _Low:
    """A count's low byte, read at `t` but not yet followed by the high one."""

    t: int
    theirs: int
    ours: int


class _Comparison:
    def __init__(self, trace: Trace, answers: Answers) -> None:
        self.trace, self.answers = trace, answers
        self.hz = trace.meta["hz"]
        self.tick = -(-(10**9) // self.hz)
        self.programming = Programming()
        self.low: dict[int, _Low] = {}
        self.modes: list[tuple[int, str, str]] = []  # of channel 0: mode, circumstances, cause
        self.programmed = False  # whether this operation programs channel 0
        self.optional: set[int] = set()  # operations whose edges may differ
        self.left = (3, UNEXPLAINED, 0)  # channel 0's mode before its present one, cause, until when
        self.before = UNEXPLAINED  # the cause before this operation

    def run(self) -> Iterator[Difference]:
        channel0 = self.programming.channels[0]
        for at, operation in enumerate(self.trace.operations):
            if operation.kind == "write":
                self._write(at, operation, channel0)
            self.modes.append((channel0.mode, channel0.circumstances, self._line_cause(channel0)))
            self.programmed = False
            if operation.kind == "read":
                yield from self._read(at, operation, self.answers.values[at])
        yield from self._edges()

    def _line_cause(self, channel0: Channel) -> str:
        """What makes line 0 differ: while being programmed, it leaves a level that differed before."""
        cause = channel0.cause()
        if not self.programmed or cause != UNEXPLAINED:
            return cause
        _, left, since = self.left
        return left if channel0.loaded == since else self.before

    def _write(self, at: int, operation: Operation, channel0: Channel) -> None:
        """Follow a write; channel 0 is being programmed from its control word to its count."""
        self.before, unloaded = channel0.cause(), channel0.count is None
        left = (channel0.mode, self.before, operation.t)
        self.programming.write(operation)
        if operation.address == CONTROL and channel0.count is None and not unloaded:
            self.left = left
        programming = operation.address in (CONTROL, CHANNELS[0]) and (unloaded or channel0.count is None)
        if programming and 2 in (self.left[0], channel0.mode):
            self.optional.add(at)
        self.programmed = programming

    # --- values ---

    def _read(self, at: int, operation: Operation, ours: int) -> Iterator[Difference]:
        theirs = operation.answer
        if operation.address == PORT_B:
            yield from self._port_b(at, operation.t, theirs, ours)
        elif operation.address == CONTROL:
            if theirs != ours:
                yield Difference(at, "read", theirs, ours, "the control port reads as 0")
        else:
            channel = self.programming.channels[operation.address - CHANNELS[0]]
            yield from self._channel(at, operation.t, channel, theirs, ours)
            channel.taken()

    def _port_b(self, at: int, t: int, theirs: int, ours: int) -> Iterator[Difference]:
        channel = self.programming.channels[2]
        differing = (theirs ^ ours) & ~REFRESH
        if channel.mode == 2 or channel.near_edge(t, self.hz):
            differing &= ~OUT2
        if differing & OUT2:
            kind, cause = f"port 0x61 OUT2: {channel.circumstances}", channel.cause_at(t, self.tick)
            yield Difference(at, kind, theirs, ours, cause)
        if differing & ~OUT2:
            cause = "port 0x61 bits 2 and 3 are not kept" if not differing & ~OUT2 & ~CHECKS else UNEXPLAINED
            yield Difference(at, f"port 0x61 bits {differing & ~OUT2:#04x}", theirs, ours, cause)

    def _channel(self, at: int, t: int, channel: Channel, theirs: int, ours: int) -> Iterator[Difference]:
        what, latched = channel.take()
        if what == "status":
            yield from self._status(at, channel, theirs, ours)
            return
        how = "latched" if latched else "live"
        if what == "low" and channel.access == WORD:
            # Counts a tick apart may differ in both bytes: judge the pair.
            self.low[channel.number] = _Low(t, theirs, ours)
            return
        low = self.low.pop(channel.number, None)
        if what == "high" and low is not None and channel.access == WORD:
            theirs, ours, t = theirs << 8 | low.theirs, ours << 8 | low.ours, low.t
        elif what == "high":
            how += " high byte"
        else:
            how += " low byte"
        if not self._same_count(channel, theirs, ours, how):
            cause = channel.cause_at(channel.count_at if latched else t, self.tick)
            if cause == UNEXPLAINED and "high byte" in how and (theirs - ours) % 256 in (1, 255):
                cause = "a tick's difference, seen in the high byte alone"
            yield Difference(at, f"{how} count: {channel.circumstances}", theirs, ours, cause)

    def _status(self, at: int, channel: Channel, theirs: int, ours: int) -> Iterator[Difference]:
        differing = (theirs ^ ours) & ~STATUS_NULL
        assert channel.status_at is not None
        if channel.mode == 2 or channel.near_edge(channel.status_at, self.hz):
            differing &= ~STATUS_OUT
        if differing & STATUS_OUT:
            kind, cause = (
                f"status OUT: {channel.circumstances}",
                channel.cause_at(channel.status_at, self.tick),
            )
            yield Difference(at, kind, theirs, ours, cause)
        if differing & ~STATUS_OUT:
            bits = f"status bits {differing & ~STATUS_OUT:#04x}"
            yield Difference(at, f"{bits}: {channel.circumstances}", theirs, ours, channel.cause())

    def _same_count(self, channel: Channel, theirs: int, ours: int, how: str) -> bool:
        """Equal within a tick, on the circle of counts that the mode runs through."""
        circle = 65536
        if channel.bcd:
            theirs, ours, circle = _decimal(theirs), _decimal(ours), 10000
        step = 2 if channel.mode == 3 else 1
        if channel.mode in (2, 3) and channel.count is not None and "byte" not in how:
            circle = channel.count + (channel.count % 2 if channel.mode == 3 else 0)
        if "byte" in how:
            circle = 100 if channel.bcd else 256
            if "high" in how:
                return theirs == ours
        return (theirs - ours) % circle in (0, step, circle - step)

    # --- edges ---

    def _edges(self) -> Iterator[Difference]:
        line = self.trace.meta["irq"]
        theirs = self._relevant(_from_the_first_change(self.trace.edges, line, self.answers))
        ours = self._relevant([edge for edge in self.answers.edges if edge.line == line])
        for edge, side in match_edges(theirs, ours, self.tick, self._optional):
            _, circumstances, cause = self.modes[edge.at]
            yield Difference.of_edge(edge, side, f": {circumstances}", cause)

    def _optional(self, edge: Edge) -> bool:
        """Line 0 may differ while mode 2 is entered or left, and an edge that may
        differ by a tick may so fall behind that."""
        starts = (self.trace.operations[at].t for at in self.optional)
        return edge.at in self.optional or any(0 <= t - edge.t <= self.tick for t in starts)

    def _relevant(self, edges: list[Edge]) -> list[Edge]:
        """In mode 2 only rising edges are compared."""
        return [edge for edge in edges if edge.level or self.modes[edge.at][0] != 2]


def _from_the_first_change(edges: tuple[Edge, ...], line: int, answers: Answers) -> list[Edge]:
    """Without a first "raise" of a line that was high all along: the recording takes every
    line as low at its start, where no edge has been seen yet."""
    relevant = [edge for edge in edges if edge.line == line]
    high = bool(answers.levels.get(line))
    first_fall = next((edge.t for edge in answers.edges if edge.line == line and not edge.level), None)
    if high and relevant and relevant[0].level and (first_fall is None or relevant[0].t <= first_fall):
        return relevant[1:]
    return relevant


def _decimal(value: int) -> int:
    return sum((value >> 4 * place & 15) * 10**place for place in range(4))


def compare(trace: Trace, answers: Answers) -> list[Difference]:
    """Every difference beyond the allowances."""
    return list(_Comparison(trace, answers).run())
