"""Output lines: turning what a device reports into edges that sinks receive.

A device reports the level of each line and how often it rose (docs/abi.md, the
head of the state). More rises than the level shows were pulses; each is
delivered, so that an edge-triggered controller misses none.

A line may have a coalescer too, for an interrupt controller that acknowledges;
plain sinks see every edge all the same.

Non-goals: interrupt controllers; what becomes of ticks that one cannot take
(runtime/policies.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .policies import Coalescer

Sink = Callable[[int, int], object]
"""Called with (level 0 or 1, virtual ns) at each edge."""

PULSES_A_DELIVERY = 16
"""How many pulses that fell into one instant a sink receives one by one. They
can pile up only where time was jumped over; the rest is counted as merged."""

_RISES = 2**32  # `rises` counts modulo this (compiler/ir.py, Line)


@dataclass
class OutputLine:
    """A line of one device: what its sinks last saw of it.

    `missed` and `minimum` are what the device file declares (compiler/ir.py, Line).
    `edges` counts edges delivered to plain sinks, `merged` the pulses that were not
    delivered one by one.
    """

    device: str
    name: str
    bit: int
    missed: str = ""
    minimum: int = 0
    level: int = 0
    rises: int = 0
    sinks: list[Sink] = field(default_factory=list)
    edges: int = 0
    merged: int = 0
    coalescer: Coalescer | None = None

    @property
    def path(self) -> str:
        return f"{self.device}.{self.name}"

    def connect(self, sink: Sink, now: int) -> None:
        """Add a sink; if the line is high it learns so at once."""
        self.sinks.append(sink)
        if self.level:
            sink(1, now)

    def acknowledge(self, now: int) -> None:
        """The interrupt controller has taken the line's last tick (an EOI). Nothing for
        a line without a policy."""
        if self.coalescer is not None:
            self.coalescer.acknowledge(now)

    def mask(self, level: int, now: int) -> None:
        """The controller takes no ticks of the line (1), or takes them again (0)."""
        if self.coalescer is not None:
            self.coalescer.mask(level, now)

    def forget(self, now: int) -> None:
        """Drop the line's ticks that wait, as KVM does when its PIT gets a new count."""
        if self.coalescer is not None:
            self.coalescer.forget(now)

    def update(self, level: int, rises: int, now: int) -> None:
        """Deliver what happened since the last call: the level and `rises` as reported."""
        rose = (rises - self.rises) % _RISES
        if not rose and level > self.level:  # a rise the counter does not know of
            rose = 1
        self.rises = rises
        self._deliver(2 * rose + self.level - level, now)
        if self.coalescer is not None:
            self.coalescer.update(rose, level, now)

    def restart(self, level: int, rises: int, now: int) -> None:
        """After a restore: the rises are another history's, only the level is delivered."""
        self.rises = rises
        self._deliver(level ^ self.level, now)
        if self.coalescer is not None:
            self.coalescer.restart(level, now)

    def _deliver(self, toggles: int, now: int) -> None:
        limit = 2 * PULSES_A_DELIVERY + (toggles & 1)
        if toggles > limit:
            self.merged += (toggles - limit) // 2
            toggles = limit
        for _ in range(toggles):
            self.level ^= 1
            self.edges += 1
            for sink in self.sinks:
                sink(self.level, now)
