"""Writes that a guest need not stop for: those that may wait until its next exit.

The compiler says which (compiler/traffic.py). Such a write is posted where the lines
that it may change are wired to nobody; the host then hands the kernel the register's
addresses as a zone, and its loop serves the writes that wait, in order, before it
serves anything else.

Non-goals: the ring itself (hosts/kvm_accesses.ll).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from ..compiler import ir
from ..compiler.traffic import Traffic
from .bus import MAX_COUNTED
from .device import Device, RegionTarget
from .instance import NativeInstance
from .windows import Space, Window

MOST_A_DEVICE = 4
"""Registers posted of one region, the first ones: each takes the kernel a ms or more to note."""


@runtime_checkable
class Analysed(Protocol):
    """A device type of which it is known what its accesses do; others post nothing."""

    @property
    def traffic(self) -> Traffic: ...


@dataclass(frozen=True, slots=True)
class Zone:
    """Addresses to which all writes wait."""

    space: Space
    address: int
    size: int


class Poster(Protocol):
    """A host that can post writes."""

    def post(self, zones: Sequence[Zone], counters: Mapping[int, int]) -> None:
        """Let writes to these zones wait, and to no others. `counters`: for a region's handle
        the address of u64 counters of its bytes' posted writes."""
        ...


class Posting:
    """What is posted on one machine, and how often it was."""

    def __init__(self, host: Poster) -> None:
        self._host = host
        self._counters: dict[int, ctypes.Array[ctypes.c_uint64]] = {}
        self.zones: tuple[Zone, ...] = ()

    def update(self, windows: Mapping[int, Window]) -> None:
        """After a change of wires or addresses; `windows` by their regions' handles."""
        found: list[Zone] = []
        for handle, window in windows.items():
            zones = list(islice(_zones(window), MOST_A_DEVICE))
            if zones and handle not in self._counters:
                self._counters[handle] = (ctypes.c_uint64 * min(window.size, MAX_COUNTED))()
            found += zones
        chosen = tuple(found)
        if chosen != self.zones:
            self._host.post(chosen, {h: ctypes.addressof(c) for h, c in self._counters.items()})
            self.zones = chosen

    def counts(self, handle: int) -> ctypes.Array[ctypes.c_uint64] | tuple[int, ...]:
        """Posted writes so far by byte of a region; empty if there is nothing to post in it."""
        return self._counters.get(handle, ())


def _zones(window: Window) -> Iterator[Zone]:
    target = window.target
    if not isinstance(target, RegionTarget) or window.base is None:
        return
    device, region = target.device, target.region
    if not isinstance(device.instance, NativeInstance) or not isinstance(device.type, Analysed):
        return
    traffic, wired = device.type.traffic, _wired(device)
    for register in region.registers:
        lines = _lines(traffic, region, register)
        if lines is not None and not lines & wired and register.access != "ro":
            yield Zone(window.space, window.base + register.offset, register.width)


def _wired(device: Device) -> set[int]:
    """The lines that somebody would notice."""
    return {line.bit for line in device.lines if line.sinks or line.coalescer is not None}


def _lines(traffic: Traffic, region: ir.Region, register: ir.Register) -> set[int] | None:
    """The lines that a write somewhere in a register may change; None if one may not wait.

    A zone takes any write inside of it, whatever its width. In a region that splits
    accesses all are of bytes; elsewhere one that is not aligned stores parts of what
    the aligned ones do, which are asked about.
    """
    lines: set[int] = set()
    for offset, width in _aligned(register, 1 if region.split else register.width):
        posted = traffic.posted_at(region.name, offset, width)
        if posted is None:
            return None
        lines.update(posted.lines)
    return lines


def _aligned(register: ir.Register, widest: int) -> Iterable[tuple[int, int]]:
    """(offset, width) of each aligned access inside a register."""
    for width in (1, 2, 4, 8):
        if width <= widest:
            first = -(-register.offset // width) * width
            for offset in range(first, register.offset + register.width - width + 1, width):
                yield offset, width
