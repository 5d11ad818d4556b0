"""Ticks that fall due while the interrupt controller cannot take them.

A tick is a rising edge of a line. The controller says when it has taken one
(`acknowledge`) and when it takes none (`mask`); a line's policy says what
becomes of the ticks between, and how close two may come (docs/coalescing.md).
Nothing here is ever delivered before it is due, and all of it is counters: a
guest can neither fill the host's memory nor keep it busy.

Non-goals: lines whose level matters, as an SCI's (wire them without a policy:
a level waits by itself); interrupt controllers.
"""

from __future__ import annotations

import ctypes
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..compiler.ir import NEVER
from .bus import StateHeader
from .statistics import TickCount

if TYPE_CHECKING:
    from .lines import OutputLine, Sink

AT_ONCE = 0
ALL = 2**32 - 1
"""As many ticks as a policy that keeps them all can keep; no guest waits for more."""


class PolicyError(ValueError):
    """A policy that does not exist or does not fit; the message says how to mend it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`keep`: how many ticks may wait. `parts`: into how many parts a period is cut at
    most while they are given back, one tick a part; AT_ONCE: no pace is kept."""

    keep: int
    parts: int


RULES = {
    "delay": Rule(ALL, 1),
    "catchup": Rule(ALL, 8),
    "merge": Rule(1, AT_ONCE),
    "discard": Rule(0, AT_ONCE),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a line does with ticks that it cannot deliver.

    minimum         ns between two ticks; what comes closer is clamped, and 0 lets all pass
    acknowledged    a delivered tick holds back the next until it is acknowledged
    parts           another pace than the rule's
    unmasking_clears  the controller latches an edge while masked, so a mask holds
                    nothing back, but what waits when it ends is dropped
    holds           the line stays up until the tick is acknowledged, whatever the device's
                    does, for a controller that forgets a request whose line falls
    """

    missed: str
    minimum: int = 0
    acknowledged: bool = True
    parts: int | None = None
    unmasking_clears: bool = False
    holds: bool = False

    def __post_init__(self) -> None:
        if self.missed not in RULES:
            raise PolicyError(f"there is no policy {self.missed!r}; there are: {', '.join(RULES)}")
        if not isinstance(self.minimum, int) or not 0 <= self.minimum < 2**63:
            raise PolicyError(f"a minimum period is 0 ns or more, not {self.minimum!r}")

    @property
    def keep(self) -> int:
        return RULES[self.missed].keep

    def gap(self, period: int, pending: int) -> int:
        """ns from one delivery to that of a tick that waits, with `pending` waiting.

        Never 0: two deliveries never share an instant.
        """
        parts = RULES[self.missed].parts if self.parts is None else self.parts
        pace = period // min(pending + 1, parts) if parts else 0
        return max(pace, self.minimum, 1)


MAPPINGS = {
    "kvm-reinject": Policy("catchup", 200_000, parts=AT_ONCE, unmasking_clears=True),
    "kvm-discard": Policy("discard", 200_000, acknowledged=False),
    "qemu-slew": Policy("catchup"),
    "xen-delay-for-missed-ticks": Policy("delay", 100_000),
    "xen-no-delay-for-missed-ticks": Policy("catchup", 100_000, parts=AT_ONCE),
    "xen-no-missed-ticks-pending": Policy("discard", 100_000),
    "xen-one-missed-tick-pending": Policy("merge", 100_000),
}
"""What other monitors do, in these terms; docs/coalescing.md has the table."""


def choose(
    line: OutputLine, missed: str | Policy | None, minimum: int | None, acknowledged: bool | None
) -> Policy:
    """The policy that was asked for, the line's own where nothing was said. PolicyError."""
    if isinstance(missed, Policy):
        return missed if minimum is None else replace(missed, minimum=minimum)
    if acknowledged is None:
        acknowledged = missed is not None
    # Where nothing holds ticks back, only those of a host that looks late can be too many.
    named = missed or line.missed or ("" if acknowledged else "merge")
    if not named:
        raise PolicyError(
            f"{line.path} declares no policy for missed ticks; give missed= one of {', '.join(RULES)}"
        )
    return Policy(named, line.minimum if minimum is None else minimum, acknowledged)


_IMAGE = struct.Struct("<BBQQQQQQ")
_MISSED = tuple(RULES)
_NONE = NEVER
"""How an instant that is not there is written."""


class Coalescer:
    """The ticks of one line on their way to the controller's sinks.

    The sinks see a rising edge for each tick delivered. The line falls when the
    device lowers it; a tick delivered while the device's line is low lasts
    until it is acknowledged. `deadline`: when `fire` must be called.
    `floor`: while the source is too fast, nobody need look at it before.
    """

    def __init__(self, path: str, policy: Policy, level: int, now: int) -> None:
        self.path = path
        self.policy = policy
        self.sinks: list[Sink] = []
        self.ticks = TickCount()
        self.masked = False
        self.outstanding = False
        self.high = False
        self.deadline = NEVER
        self.floor = 0
        self.changed: Callable[[], object] = lambda: None
        self._level = level
        self._period = 0
        self._rose: int | None = None
        self._last: int | None = None
        self._spaced = 0
        self._admits = 0
        self._looked = now
        self._edges: deque[tuple[int, int]] = deque()
        self._emitting = False

    # --- the device's side -----------------------------------------------------

    def expect(self, instant: int) -> None:
        """The line does not rise before this instant."""
        self._looked = max(self._looked, instant)

    def update(self, rises: int, level: int, now: int) -> None:
        """The line has risen `rises` times since the last call, and is at `level`."""
        if self._level and (rises or not level) and not (self.policy.holds and self.outstanding):
            self._lower(now)
        self._level = level
        if rises:
            self._fall_due(rises, now)
        self._looked = max(self._looked, now)
        self._finish()

    def _fall_due(self, rises: int, now: int) -> None:
        ticks = self.ticks
        ticks.due += rises
        if self._rose is not None:
            self._period = max(now - self._rose, 0) // rises
        self._rose = now
        admitted = self._admit(rises, now)
        ticks.clamped += rises - admitted
        if not admitted:
            return
        if self._ready and not ticks.pending and now >= self._spaced:
            kept = min(admitted, max(self.policy.keep, 1))
            ticks.pending = kept - 1
            ticks.late += admitted > 1
            self._deliver(now)
        else:
            kept = min(admitted, self.policy.keep - ticks.pending)
            ticks.pending += kept
            self._advance(now)
        ticks.dropped += admitted - kept

    def _admit(self, rises: int, now: int) -> int:
        """How many of the edges since the last look are ticks by the minimum period.

        They came at unknown instants since; a host that looks late must not cost
        the guest a tick, so they are taken to have come as early as they may.
        """
        minimum = self.policy.minimum
        if not minimum:
            return rises
        first = max(self._admits, self._looked)
        room = (now - first) // minimum + 1 if now >= first else 0
        admitted = min(rises, room)
        if admitted:
            self._admits = first + admitted * minimum
        # Looked at sooner, a source that is too fast would only show edges to be clamped. The
        # period as measured is the minimum or a little more once it is looked at so seldom.
        fast = admitted < rises or 0 < self._period < minimum + minimum // 4
        self.floor = self._admits if fast else 0
        return admitted

    # --- the controller's side -------------------------------------------------

    def acknowledge(self, now: int) -> None:
        """The controller has taken the last tick (an EOI)."""
        self.outstanding = False
        self._release(now)
        self._advance(now)
        self._finish()

    def mask(self, level: int, now: int) -> None:
        """The controller takes ticks no more (1) or again (0)."""
        unmasked, self.masked = self.masked and not level, bool(level)
        if unmasked and self.policy.unmasking_clears:
            self._forget(now)
        self._advance(now)
        self._finish()

    def forget(self, now: int) -> None:
        """Drop what waits and wait for no acknowledgement: the source was set up anew."""
        self._forget(now)
        self._finish()

    def fire(self, now: int) -> None:
        """Deliver what `deadline` was for."""
        self._advance(now)
        self._finish()

    # --- delivery ----------------------------------------------------------------

    @property
    def _ready(self) -> bool:
        return not self.outstanding and (not self.masked or self.policy.unmasking_clears)

    def _earliest(self) -> int:
        """When the next tick that waits may be delivered."""
        if self._last is None:
            return 0
        return self._last + self.policy.gap(self._period, self.ticks.pending)

    def _advance(self, now: int) -> None:
        """Deliver a tick that waits, if it may be."""
        if self.ticks.pending and self._ready and now >= self._earliest():
            self.ticks.pending -= 1
            self.ticks.late += 1
            self._spaced = now + max(self.policy.minimum, 1)
            self._deliver(now)

    def _deliver(self, now: int) -> None:
        self._lower(now)
        self.high = True
        self._edges.append((1, now))
        self.outstanding = self.policy.acknowledged
        self._last = now
        self._spaced = max(self._spaced, now + 1)
        self.ticks.delivered += 1
        self._release(now)

    def _release(self, now: int) -> None:
        if not self._level and not self.outstanding:
            self._lower(now)

    def _lower(self, now: int) -> None:
        if self.high:
            self.high = False
            self._edges.append((0, now))

    def _forget(self, now: int) -> None:
        self.ticks.dropped += self.ticks.pending
        self.ticks.pending = 0
        self.outstanding = False
        self._release(now)

    def _finish(self) -> None:
        """Tell the deadline, then the sinks, who may call back: their edges queue up."""
        waits = self.ticks.pending and self._ready
        deadline = min(self._earliest(), NEVER) if waits else NEVER
        if deadline != self.deadline:
            self.deadline = deadline
            self.changed()
        if self._emitting:
            return
        self._emitting = True
        try:
            while self._edges:
                level, now = self._edges.popleft()
                for sink in self.sinks:
                    sink(level, now)
        finally:
            self._emitting = False

    # --- reset, saving and restoring -----------------------------------------------

    def restart(self, level: int, now: int) -> None:
        """The device's line is at `level`, and that is no tick: after a reset or a restore."""
        self._level = level
        self._looked = now
        self._release(now)
        self._finish()

    def reset(self, now: int) -> None:
        """The devices were reset, or are another history's: nothing waits.

        What is masked the controller says. Time may have gone back.
        """
        self._period, self._rose = 0, None
        self._last = None if self._last is None else min(self._last, now)
        self._bound(now)
        self.forget(now)

    def _bound(self, now: int) -> None:
        """No instant of spacing lies further ahead than the minimum."""
        self._spaced = min(self._spaced, now + max(self.policy.minimum, 1))
        self._admits = min(self._admits, now + self.policy.minimum)
        self.floor = 0

    def save(self) -> bytes:
        """What a restore needs so that no tick is lost or doubled. Instants in virtual ns."""
        flags = self.masked | self.outstanding << 1 | self.high << 2
        rose, last = (_NONE if instant is None else instant for instant in (self._rose, self._last))
        return _IMAGE.pack(
            _MISSED.index(self.policy.missed),
            flags,
            self.ticks.pending,
            self._period,
            rose,
            last,
            self._spaced,
            self._admits,
        )

    def check(self, image: bytes, now: int) -> str:
        """Why an image saved at `now` cannot be loaded here, or ""."""
        if len(image) != _IMAGE.size:
            return f"it has {len(image)} bytes, not {_IMAGE.size}"
        missed, flags, pending, period, rose, last, _, _ = _IMAGE.unpack(image)
        if missed >= len(_MISSED) or _MISSED[missed] != self.policy.missed:
            theirs = _MISSED[missed] if missed < len(_MISSED) else "an unknown one"
            return f"its policy is {theirs}, here it is {self.policy.missed}"
        if flags >> 3 or pending > self.policy.keep:
            return "a value is out of range"
        if period > now or any(instant > now and instant != _NONE for instant in (rose, last)):
            return "an instant lies after the snapshot's"
        return ""

    def load(self, image: bytes, now: int) -> None:
        """Take over an image that `check` found right. A sink sees no rising edge by it."""
        _, flags, pending, period, rose, last, spaced, admits = _IMAGE.unpack(image)
        if not flags & 4:
            self._lower(now)
        self.high = bool(flags & 4)
        self.masked = bool(flags & 1)
        self.outstanding = bool(flags & 2) and self.policy.acknowledged
        self.ticks.due += pending - self.ticks.pending
        self.ticks.pending = pending
        self._period = period
        self._rose = None if rose == _NONE else rose
        self._last = None if last == _NONE else last
        self._spaced, self._admits = spaced, admits
        self._bound(now)  # the minimum may be another here, and a hostile image's instants any


class Coalescing:
    """The coalescers of one machine, and one deadline for all of them.

    The deadline lies in a state header of its own at `address`, so that a native
    loop waits for it as for a device's.
    """

    def __init__(self) -> None:
        self.lines: dict[str, Coalescer] = {}
        self._header = StateHeader(deadline=NEVER)
        self.address = ctypes.addressof(self._header)

    @property
    def deadline(self) -> int:
        """When `fire` must be called, virtual ns, or NEVER."""
        return self._header.deadline

    def connect(self, line: OutputLine, sink: Sink, policy: Policy, now: int) -> TickCount:
        """Wire a line to a controller's sink. PolicyError if it has another policy already."""
        coalescer = line.coalescer
        if coalescer is None:
            coalescer = line.coalescer = Coalescer(line.path, policy, line.level, now)
            coalescer.changed = self._rearm
            self.lines[line.path] = coalescer
        elif coalescer.policy != policy:
            raise PolicyError(f"{line.path} has another policy already: {coalescer.policy}")
        coalescer.sinks.append(sink)
        return coalescer.ticks

    def fire(self, now: int) -> None:
        """Deliver every tick whose instant has come."""
        for coalescer in self.lines.values():
            if coalescer.deadline <= now:
                coalescer.fire(now)

    def _rearm(self) -> None:
        self._header.deadline = min(coalescer.deadline for coalescer in self.lines.values())

    def reset(self, now: int) -> None:
        for coalescer in self.lines.values():
            coalescer.reset(now)

    def save(self) -> tuple[tuple[str, bytes], ...]:
        """Each line's path and image."""
        return tuple((path, coalescer.save()) for path, coalescer in self.lines.items())

    def check(self, images: tuple[tuple[str, bytes], ...], now: int) -> str:
        """Why images saved at `now` cannot be loaded here, or ""."""
        paths = [path for path, _ in images]
        if len(set(paths)) != len(paths):
            return "the snapshot holds a line's ticks twice"
        for path, image in images:
            if path not in self.lines:
                return f"the snapshot has ticks of {path}, which has no policy here; wire it alike first"
            problem = self.lines[path].check(image, now)
            if problem:
                return f"the snapshot's ticks of {path} do not fit: {problem}"
        return ""

    def load(self, images: tuple[tuple[str, bytes], ...], now: int) -> None:
        """Take over images that `check` found right; lines without one begin afresh."""
        saved = dict(images)
        for path, coalescer in self.lines.items():
            if path in saved:
                coalescer.load(saved[path], now)
            else:
                coalescer.reset(now)
