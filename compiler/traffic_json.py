"""What is known of a device's accesses as JSON, for the cache.

Non-goals: an exchange format; it changes with traffic.py.
"""

from __future__ import annotations

import json
from typing import Any

from .traffic import Posted, Quiet, Traffic

FORMAT = 1


def dump(traffic: Traffic) -> bytes:
    """A few KB."""
    posted = [[e.region, e.width, e.offsets, e.lines] for e in traffic.posted]
    quiet = [[e.region, e.width, e.offsets, e.state] for e in traffic.quiet]
    return json.dumps([FORMAT, traffic.guard, posted, quiet], separators=(",", ":")).encode()


def load(content: bytes) -> Traffic | None:
    """The inverse of `dump`; None if it is no such thing."""
    try:
        number, guard, posted, quiet = json.loads(content)
        if number != FORMAT:
            return None
        return Traffic(
            int(guard),
            tuple(
                Posted(str(name), int(width), _integers(at), _integers(lines))
                for name, width, at, lines in posted
            ),
            tuple(
                Quiet(str(name), int(width), _integers(at), _spans(state)) for name, width, at, state in quiet
            ),
        )
    except (ValueError, TypeError, RecursionError):
        return None


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _spans(values: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(offset), int(size)) for offset, size in values)
