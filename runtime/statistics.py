"""What a guest did: light and heavy accesses per register, and unclaimed ones.

An access is light if compiled handlers served it and heavy if Python had to
(language.md, "Tiers"). The native loop keeps its own counters; a host adds
them here with `count`.

Non-goals: timing (bench/), printing (cli/).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["read", "write"]

UNCLAIMED_ADDRESSES = 1024
"""How many distinct unclaimed addresses are counted each on its own: a guest may
touch any of 2**64, and must not be able to fill the host's memory."""

GAP = "(gap)"
"""The name under which accesses inside a window but outside its registers count."""


@dataclass
class AccessCount:
    light: int = 0
    heavy: int = 0


@dataclass
class TickCount:
    """Ticks of a line under a policy: due = delivered + dropped + clamped + pending.

    `late` of the delivered were postponed; `dropped` were given up or merged
    into another, `clamped` came closer than the line's minimum period.
    """

    due: int = 0
    delivered: int = 0
    late: int = 0
    dropped: int = 0
    clamped: int = 0
    pending: int = 0

    def clear(self) -> None:
        """Count from now on; what is pending stays so, and due."""
        self.due = self.pending
        self.delivered = self.late = self.dropped = self.clamped = 0


@dataclass
class Statistics:
    """Counters since the machine was made (or `clear`)."""

    registers: dict[tuple[str, str, Direction], AccessCount] = field(default_factory=dict)
    """By (device, register, direction)."""
    unclaimed: dict[tuple[str, int, Direction], int] = field(default_factory=dict)
    """By (space, address, direction), the first UNCLAIMED_ADDRESSES of them."""
    unclaimed_elsewhere: int = 0
    ticks: dict[str, TickCount] = field(default_factory=dict)
    """By path, the lines that have a policy for missed ticks."""
    events_jumped: int = 0
    """Time steps in which more events fell due than are delivered one by one."""
    propagation_cut: int = 0
    """Deliveries after which lines and observers still went on triggering each other."""

    def count(self, device: str, register: str, direction: Direction, light: int = 0, heavy: int = 0) -> None:
        counter = self.registers.setdefault((device, register, direction), AccessCount())
        counter.light += light
        counter.heavy += heavy

    def count_unclaimed(self, space: str, address: int, direction: Direction) -> None:
        key = (space, address, direction)
        if key in self.unclaimed or len(self.unclaimed) < UNCLAIMED_ADDRESSES:
            self.unclaimed[key] = self.unclaimed.get(key, 0) + 1
        else:
            self.unclaimed_elsewhere += 1

    @property
    def light(self) -> int:
        return sum(c.light for c in self.registers.values())

    @property
    def heavy(self) -> int:
        return sum(c.heavy for c in self.registers.values())

    def clear(self) -> None:
        self.registers.clear()
        self.unclaimed.clear()
        for ticks in self.ticks.values():
            ticks.clear()
        self.unclaimed_elsewhere = self.events_jumped = self.propagation_cut = 0
