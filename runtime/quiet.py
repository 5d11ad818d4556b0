"""Reads that need no lock: what native code must know to serve them (quiet.ll).

The compiler says which reads change nothing, and on what of the state each depends
(compiler/traffic.py). Those that depend on little are served from a copy that each
thread has of the state; the rest takes the device's lock.

Non-goals: accesses from Python, which take the lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from ..compiler import ir
from ..compiler.traffic import Traffic
from .bus import MAX_COUNTED, QUIET_HEAD, QuietRegion, QuietSet

MOST_WORDS = 16
"""A read that depends on more words of the state takes the lock: that is as fast."""
MOST_SETS = 256
_WORD = 8


@runtime_checkable
class Analysed(Protocol):
    """A device type of which it is known what its accesses do."""

    @property
    def traffic(self) -> Traffic: ...


class QuietReads:
    """The quiet reads of one window of a device. `table` is for `Dispatcher.add_region`."""

    def __init__(self, traffic: Traffic, module: ir.Module, region: ir.Region, lanes: int) -> None:
        """`lanes`: how many threads' copies there are (bus.py, Access)."""
        limit = min(region.size, MAX_COUNTED)
        self._index = (ctypes.c_uint8 * (limit * 8))()
        whole = tuple(range(0, module.size, _WORD))
        sets = [whole]
        for quiet in traffic.quiet:
            words = _words([*quiet.state, (traffic.guard, _WORD)])
            if quiet.region != region.name or len(words) > MOST_WORDS:
                continue
            if words not in sets:
                sets.append(words)
            if len(sets) <= MOST_SETS:
                for offset in (each for each in quiet.offsets if each < limit):
                    self._index[offset * 8 + quiet.width - 1] = sets.index(words)
        self._words = (ctypes.c_uint32 * sum(map(len, sets)))(*(word for words in sets for word in words))
        self._sets = (QuietSet * len(sets))()
        first = 0
        for each, words in zip(self._sets, sets, strict=True):
            each.first, each.count = first, len(words)
            first += len(words)
        stride = QUIET_HEAD + -(-module.size // QUIET_HEAD) * QUIET_HEAD
        self._copies = ctypes.create_string_buffer(stride * lanes + QUIET_HEAD)
        self.table = QuietRegion(
            index=ctypes.addressof(self._index),
            sets=ctypes.addressof(self._sets),
            words=ctypes.addressof(self._words),
            copies=-(-ctypes.addressof(self._copies) // QUIET_HEAD) * QUIET_HEAD,
            stride=stride,
            guard=traffic.guard,
            limit=limit,
            epoch=1,
        )

    def __len__(self) -> int:
        """How many (offset, width) there are."""
        return sum(map(bool, self._index))

    def renew(self) -> None:
        """Under the device's lock: it was reset or restored, so nothing of a copy is good any more."""
        self.table.epoch += 1


def _words(spans: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """The offsets of the words in which spans lie, each once."""
    found = {word for start, size in spans for word in range(start // _WORD, -(-(start + size) // _WORD))}
    return tuple(word * _WORD for word in sorted(found))
