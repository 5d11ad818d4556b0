"""Output lines: turning what a device reports into edges that sinks receive.

A device reports the level of each line and how often it rose (docs/abi.md, the
head of the state). More rises than the level shows were pulses; each is
delivered, so that an edge-triggered controller misses none.

Non-goals: interrupt controllers, policies for ticks that nobody took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Sink = Callable[[int, int], object]
"""Called with (level 0 or 1, virtual ns) at each edge."""

PULSES_A_DELIVERY = 16
"""How many pulses that fell into one instant a sink receives one by one. They
can pile up only where time was jumped over; the rest is counted as merged."""

_RISES = 2**32  # `rises` counts modulo this (compiler/ir.py, Line)


@dataclass
class OutputLine:
    """A line of one device: what its sinks last saw of it.

    `edges` counts delivered edges, `merged` the pulses that were not delivered
    one by one.
    """

    device: str
    name: str
    bit: int
    level: int = 0
    rises: int = 0
    sinks: list[Sink] = field(default_factory=list)
    edges: int = 0
    merged: int = 0

    @property
    def path(self) -> str:
        return f"{self.device}.{self.name}"

    def connect(self, sink: Sink, now: int) -> None:
        """Add a sink; if the line is high it learns so at once."""
        self.sinks.append(sink)
        if self.level:
            sink(1, now)

    def update(self, level: int, rises: int, now: int) -> None:
        """Deliver what happened since the last call: the level and `rises` as reported."""
        toggles = 2 * ((rises - self.rises) % _RISES) + self.level - level
        if toggles < 0:  # a rise the counter does not know of: the level alone is right
            toggles = 1
        limit = 2 * PULSES_A_DELIVERY + (toggles & 1)
        if toggles > limit:
            self.merged += (toggles - limit) // 2
            toggles = limit
        self.rises = rises
        for _ in range(toggles):
            self.level ^= 1
            self.edges += 1
            for sink in self.sinks:
                sink(self.level, now)

    def restart(self, level: int, rises: int, now: int) -> None:
        """After a restore: the rises are another history's, only the level is delivered."""
        self.rises = (rises - (level & ~self.level)) % _RISES
        self.update(level, rises, now)
