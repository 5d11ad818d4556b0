"""Output lines: turning what a device reports into edges that sinks receive.

A device reports the level of each line and how often it rose (docs/abi.md, the
head of the state). More rises than the level shows were pulses; each is
delivered, so that an edge-triggered controller misses none.

A line may have a coalescer too, for an interrupt controller that acknowledges;
plain sinks see every edge all the same. What a line's sinks last saw lies in a
`LineEntry`, which native code shares: it delivers by itself to sinks that are
native (runtime/routing.py).

Non-goals: interrupt controllers; what becomes of ticks that one cannot take
(runtime/policies.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .bus import PULSES_A_DELIVERY, LineEntry

if TYPE_CHECKING:
    from .policies import Coalescer

Sink = Callable[[int, int], object]
"""Called with (level 0 or 1, virtual ns) at each edge."""

_RISES = 2**32  # `rises` counts modulo this (compiler/ir.py, Line)


@dataclass(frozen=True, slots=True)
class NativeSink:
    """A sink in machine code: `void function(void *context, int64_t argument, uint32_t level, uint64_t now)`.

    Called on any thread, with no lock held; for lines of one device one call at a time.
    `keep`: an object that must stay alive for it.
    """

    function: int
    context: int = 0
    argument: int = 0
    keep: object = None

    def __call__(self, level: int, now: int) -> None:
        _SINK(self.function)(self.context, self.argument, level, now)


@dataclass(frozen=True, slots=True)
class MessageSink:
    """A sink of a line that carries `address` and `data`: `void function(void *context,
    uint64_t address, uint32_t data)`, called once for each rise, as a `NativeSink`."""

    function: int
    context: int
    carried: Callable[[], tuple[int, int]]
    keep: object = None

    def __call__(self, level: int, now: int) -> None:
        if level:
            _MESSAGE(self.function)(self.context, *self.carried())


_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32)
_SINK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint64)


@dataclass(slots=True, eq=False)
class OutputLine:
    """A line of one device: what its sinks last saw of it.

    `missed` and `minimum` are what the device file declares (compiler/ir.py, Line).
    `carried` tells the address and data of the message that goes with an edge.
    """

    device: str
    name: str
    bit: int
    missed: str = ""
    minimum: int = 0
    entry: LineEntry = field(default_factory=LineEntry)
    sinks: list[Sink] = field(default_factory=list)
    coalescer: Coalescer | None = None
    carried: Callable[[], tuple[int, int]] = lambda: (0, 0)

    @property
    def path(self) -> str:
        return f"{self.device}.{self.name}"

    @property
    def level(self) -> int:
        return self.entry.level

    @property
    def rises(self) -> int:
        """The device's counter of rising edges, as it was seen last."""
        return self.entry.rises

    @rises.setter
    def rises(self, value: int) -> None:
        self.entry.rises = value

    @property
    def edges(self) -> int:
        """Edges delivered to plain sinks."""
        return self.entry.edges

    @property
    def merged(self) -> int:
        """Pulses that were not delivered one by one."""
        return self.entry.merged

    def connect(self, sink: Sink, now: int) -> None:
        """Add a sink; if the line is high it learns so at once."""
        self.sinks.append(sink)
        if self.level:
            sink(1, now)

    def messages_to(self, function: int, context: int, keep: object = None) -> MessageSink:
        """A native sink for the line's messages; see `MessageSink`. For `Machine.wire`."""
        return MessageSink(function, context, self.carried, keep)

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

    # A change is taken under the device's lock, so that native code sees it whole, and its
    # edges are delivered afterwards without.

    def update(self, level: int, rises: int) -> Edges:
        """Take what happened since the last call: the level and `rises` as reported."""
        rose = (rises - self.rises) % _RISES
        if not rose and level > self.level:  # a rise the counter does not know of
            rose = 1
        return self._take(level, rises, 2 * rose + self.level - level, rose)

    def restart(self, level: int, rises: int) -> Edges:
        """After a restore: the rises are another history's, only the level is delivered."""
        return self._take(level, rises, level ^ self.level, None)

    def _take(self, level: int, rises: int, toggles: int, rose: int | None) -> Edges:
        before, entry = self.level, self.entry
        limit = 2 * PULSES_A_DELIVERY + (toggles & 1)
        if toggles > limit:
            entry.merged += (toggles - limit) // 2
            toggles = limit
        entry.level, entry.rises = level, rises
        entry.edges += toggles
        return Edges(self, before, toggles, level, rose)


@dataclass(frozen=True, slots=True)
class Edges:
    """What a line did since its sinks last heard of it: `toggles` edges, the first from level
    `before`. `rose`: how many ticks that makes for a coalescer, None if time begins anew."""

    line: OutputLine
    before: int
    toggles: int
    level: int
    rose: int | None

    def deliver(self, now: int) -> None:
        level = self.before
        for _ in range(self.toggles):
            level ^= 1
            for sink in self.line.sinks:
                sink(level, now)
        coalescer = self.line.coalescer
        if coalescer is None:
            return
        if self.rose is None:
            coalescer.restart(self.level, now)
        else:
            coalescer.update(self.rose, self.level, now)
