"""A guest that takes ticks, and monitors' own machines for missed ones, in small."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from devc.runtime.lines import OutputLine
from devc.runtime.machine import Machine
from devc.runtime.policies import Policy
from devc.runtime.statistics import TickCount

from .tick_sources import Source

MS = 1_000_000


class Guest:
    """A guest whose controller takes a tick `latency` ns after it is delivered.

    `due` are the instants at which the line rose, `delivered` those at which the
    controller saw a tick. `busy`: it takes none, what is delivered stays unacknowledged.
    """

    def __init__(
        self,
        source: Source,
        missed: str | Policy,
        *,
        minimum: int | None = None,
        latency: int = 5_000,
        machine: Machine | None = None,
    ) -> None:
        self.source = source
        self.machine = machine or source.machine()
        self.latency = latency
        self.busy = False
        self.due: list[int] = []
        self.delivered: list[int] = []
        self.levels: list[int] = []
        self._takes_at: int | None = None
        if minimum is None and isinstance(missed, str):
            minimum = 0
        self.machine.wire(source.line, self._plain)
        self.machine.wire(source.line, self._controller, missed=missed, minimum=minimum)

    def _plain(self, level: int, now: int) -> None:
        if level:
            self.due.append(now)

    def _controller(self, level: int, now: int) -> None:
        self.levels.append(level)
        if level:
            self.delivered.append(now)
            self._takes_at = now + self.latency

    @property
    def now(self) -> int:
        return self.machine.now

    @property
    def line(self) -> OutputLine:
        return self.machine.line(self.source.line)

    @property
    def ticks(self) -> TickCount:
        return self.machine.statistics.ticks[self.source.line]

    def start(self, period: int) -> float:
        """Start the source; its period, ns. What the programming itself did to the line is past."""
        self.source.start(self.machine, period)
        self.run(2)
        self.line.acknowledge(self.now)
        self.line.forget(self.now)
        self.due.clear()
        self.delivered.clear()
        self.levels.clear()
        self.machine.statistics.clear()
        return self.source.exact(period)

    def run(self, ns: int) -> None:
        """Let time pass, deadline by deadline, as a host's loop does."""
        end = self.now + ns
        while self.now < end:
            wake = [end, self.machine.deadline]
            if self._takes_at is not None and not self.busy:
                wake.append(max(self._takes_at, self.now))
            self.machine.advance_to(min(wake))
            if self._takes_at is not None and not self.busy and self._takes_at <= self.now:
                self._takes_at = None
                self.source.take(self.machine)
                self.line.acknowledge(self.now)

    def mask(self, level: int) -> None:
        self.line.mask(level, self.now)

    def gaps(self) -> list[int]:
        return [b - a for a, b in pairwise(self.delivered)]

    def check(self) -> None:
        """What holds for every policy, always."""
        t = self.ticks
        assert t.due == t.delivered + t.dropped + t.clamped + t.pending
        assert t.delivered == len(self.delivered)
        assert t.late <= t.delivered
        assert all(gap > 0 for gap in self.gaps()), "two deliveries share an instant"
        assert all(a != b for a, b in pairwise(self.levels)), "an edge that is none"
        if not t.clamped:
            assert t.due == len(self.due)
        early = [d for i, d in enumerate(self.delivered) if i >= len(self.due) or d < self.due[i]]
        assert not early or t.clamped, "a tick before it was due"


def masked_for_ten(source: Source, missed: str, minimum: int = 0) -> tuple[Guest, float]:
    """Five periods as they should be, then ten and a half masked; at the end the mask is lifted."""
    guest = Guest(source, missed, minimum=minimum)
    period = guest.start(MS)
    guest.run(round(5.25 * period))
    assert len(guest.delivered) == 5
    guest.mask(1)
    guest.run(round(10 * period))
    assert len(guest.delivered) == 5, "a masked controller gets nothing"
    guest.check()
    guest.mask(0)
    return guest, period


@dataclass
class Model:
    """The policies, told nanosecond by nanosecond with a list of the ticks that wait.

    `step` is one ns: the line's rises in it, then what the controller does in it.
    """

    missed: str
    minimum: int = 0
    acknowledged: bool = True
    waiting: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    dropped: int = 0
    clamped: int = 0
    late: int = 0
    period: int = 0
    rose: int | None = None
    admits: int = 0
    spaced: int = 0
    out: bool = False
    masked: bool = False

    def step(self, now: int, rises: int, action: str) -> None:
        if rises:
            self._rise(now, rises)
        self._give_back(now)
        if action == "ack":
            self.out = False
        elif action:
            self.masked = action == "mask"
        self._give_back(now)

    def _rise(self, now: int, rises: int) -> None:
        if self.rose is not None:
            self.period = (now - self.rose) // rises
        self.rose = now
        fresh = 0
        for _ in range(rises):
            if self.minimum and now < self.admits:
                self.clamped += 1
            else:
                self.admits = now + self.minimum
                fresh += 1
        if not fresh:
            return
        free = not (self.out or self.masked or self.waiting) and now >= self.spaced
        self.waiting += [now] * fresh
        if free:
            self.late += fresh > 1
            self._deliver(now)
        keep = {"merge": 1, "discard": 0}.get(self.missed, 2**32)
        if free and self.missed == "merge":
            keep = 0  # they are one with the tick just delivered
        self.dropped += len(self.waiting[keep:])
        del self.waiting[keep:]

    def _give_back(self, now: int) -> None:
        if not self.waiting or self.out or self.masked:
            return
        pace = {
            "delay": self.period,
            "catchup": self.period // min(len(self.waiting) + 1, 8),
            "merge": 0,
            "discard": 0,
        }[self.missed]
        if now >= self.delivered[-1] + max(pace, self.minimum, 1) if self.delivered else True:
            self.late += 1
            self.spaced = now + self.minimum
            self._deliver(now)

    def _deliver(self, now: int) -> None:
        self.waiting.pop(0)
        self.delivered.append(now)
        self.out = self.acknowledged


@dataclass
class KvmPit:
    """KVM's PIT (arch/x86/kvm/i8254.c): `reinject`, as its four entry points have it."""

    pending: int = 0
    irq_ack: bool = True
    delivered: list[int] = field(default_factory=list)

    def expiry(self, now: int) -> None:
        self.pending += 1
        self._work(now)

    def _work(self, now: int) -> None:
        if self.irq_ack:
            self.irq_ack = False
            self.delivered.append(now)

    def eoi(self, now: int) -> None:
        self.irq_ack = True
        if self.pending > 0:
            self.pending -= 1
            if self.pending > 0:
                self._work(now)

    def reset_reinject(self) -> None:
        """A new count, or the end of a mask."""
        self.pending = 0
        self.irq_ack = True


def qemu_slew_gaps(coalesced: int, period: int) -> list[int]:
    """QEMU's RTC: ns from each reinjection by its coalesced timer to the next, until none is left
    (hw/rtc/mc146818rtc.c, rtc_coalesced_timer: a period "to 2 - 8 smaller intervals")."""
    gaps = []
    while coalesced:
        gaps.append(period // (min(coalesced, 7) + 1))
        coalesced -= 1
    return gaps


@dataclass
class XenTimer:
    """Xen's periodic timer (xen/arch/x86/hvm/vpt.c): how many interrupts a vCPU gets for the
    ticks missed while it could take none, by timer mode."""

    mode: str
    pending: int = 0

    def missed(self, ticks: int) -> None:
        """pt_process_missed_ticks: the mode without pending ticks keeps none of them."""
        if self.mode != "xen-no-missed-ticks-pending":
            self.pending += ticks

    def take_all(self) -> int:
        """pt_irq_fired, until nothing is pending: two of the modes collapse it."""
        taken = 0
        while self.pending:
            taken += 1
            collapses = self.mode in ("xen-one-missed-tick-pending", "xen-no-missed-ticks-pending")
            self.pending = 0 if collapses else self.pending - 1
        return taken
