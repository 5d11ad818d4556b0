"""Virtual time: the one outside input of every device.

A clock counts virtual nanoseconds from 0, unsigned 64 bits. A `HostClock` runs
with the host's monotonic clock and can be stopped, started and set without the
devices seeing a jump; a `SteppedClock` moves only when its caller moves it.

Non-goals: wall-clock time (a device's parameter), arming timers (a host's work).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

LAST_INSTANT = 2**64 - 2
"""The last instant a clock can show, ns; one below `NEVER`."""


class Clock(Protocol):
    """What a machine asks of its clock."""

    @property
    def now(self) -> int:
        """The present instant, virtual ns, 0..LAST_INSTANT."""
        ...

    def set(self, now: int) -> None:
        """Make `now` the present instant (after a restore, it may lie in the past)."""
        ...


def _instant(ns: int) -> int:
    return min(max(ns, 0), LAST_INSTANT)


class SteppedClock:
    """A clock that its caller moves; between moves time stands still."""

    def __init__(self, now: int = 0) -> None:
        self._now = _instant(now)

    @property
    def now(self) -> int:
        return self._now

    def set(self, now: int) -> None:
        self._now = _instant(now)


class HostClock:
    """A clock that follows the host's CLOCK_MONOTONIC, less the time it was stopped.

    `source` gives host ns and never goes backwards. `offset` is what turns host
    ns into virtual ns while `running`; a native loop may read both.
    """

    def __init__(self, now: int = 0, source: Callable[[], int] = time.monotonic_ns) -> None:
        self._source = source
        self._stopped_at: int | None = None
        self.offset = _instant(now) - source()

    @property
    def running(self) -> bool:
        return self._stopped_at is None

    @property
    def now(self) -> int:
        if self._stopped_at is not None:
            return self._stopped_at
        return _instant(self._source() + self.offset)

    def stop(self) -> None:
        """Hold virtual time where it is; nothing if it already stands."""
        if self._stopped_at is None:
            self._stopped_at = self.now

    def start(self) -> None:
        """Go on from where `stop` held it, without a jump."""
        if self._stopped_at is not None:
            self.offset = self._stopped_at - self._source()
            self._stopped_at = None

    def set(self, now: int) -> None:
        if self._stopped_at is not None:
            self._stopped_at = _instant(now)
        else:
            self.offset = _instant(now) - self._source()
