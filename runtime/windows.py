"""Windows on address spaces: which one claims an address, and accesses that straddle them.

The spaces are `io` (64 K ports) and `mmio` (64 bits). Windows of one space never
overlap. This is the decode of hosts written in Python; the native loop has its
own table (runtime/dispatch.py), built from the same windows.

Non-goals: what an access does (the window's target), time, statistics.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Space = Literal["io", "mmio"]

SPACES: tuple[Space, ...] = get_args(Space)
SPACE_SIZE: dict[Space, int] = {"io": 2**16, "mmio": 2**64}


class PlacementError(ValueError):
    """A window that cannot be where it was asked to be."""


class Target(Protocol):
    """Who serves a window. All `width` bytes (1..8) from `offset` on are the
    window's own; `now` in virtual ns. Total: never raises."""

    def read(self, offset: int, width: int, now: int) -> int: ...
    def write(self, offset: int, width: int, value: int, now: int) -> None: ...
    def peek(self, offset: int, width: int, now: int) -> int: ...


@dataclass(eq=False)
class Window:
    """`size` addresses of `space` from `base` on; `base` None: claimed nowhere at present."""

    label: str
    space: Space
    size: int
    target: Target
    base: int | None = None

    @property
    def end(self) -> int:
        return (self.base or 0) + self.size

    def __str__(self) -> str:
        if self.base is None:
            return f"{self.label} (not mapped)"
        return f"{self.label} ({self.space} {self.base:#x}..{self.end - 1:#x})"


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of an access: bytes `at`..`at + width` of it, in `window` or, if None, unclaimed."""

    at: int
    width: int
    window: Window | None
    offset: int


class AddressMap:
    """The mapped windows of every address space, ordered by base."""

    def __init__(self) -> None:
        self._bases: dict[Space, list[int]] = {space: [] for space in SPACES}
        self._windows: dict[Space, list[Window]] = {space: [] for space in SPACES}

    def __iter__(self) -> Iterator[Window]:
        for space in SPACES:
            yield from self._windows[space]

    def place(self, window: Window, base: int | None) -> None:
        """Map a window at `base`, move it there, or unmap it (None).

        Raises PlacementError, and changes nothing, if it would leave the address
        space or overlap another window.
        """
        bases, windows = self._bases[window.space], self._windows[window.space]
        if base is not None:
            self._check(window, base)
        if window.base is not None:
            at = bisect_left(bases, window.base)
            del bases[at], windows[at]
        window.base = base
        if base is not None:
            at = bisect_left(bases, base)
            bases.insert(at, base)
            windows.insert(at, window)

    def _check(self, window: Window, base: int) -> None:
        limit = SPACE_SIZE[window.space]
        if base < 0 or base + window.size > limit:
            raise PlacementError(
                f"{window.label} does not fit at {window.space} {base:#x}: it is {window.size:#x} bytes long "
                f"and the space ends at {limit - 1:#x}"
            )
        for other in self._overlapping(window.space, base, window.size):
            if other is not window:
                raise PlacementError(
                    f"{window.label} at {window.space} {base:#x}..{base + window.size - 1:#x} overlaps "
                    f"{other}; move one of them"
                )

    def _overlapping(self, space: Space, base: int, size: int) -> list[Window]:
        first = bisect_right(self._bases[space], base) - 1
        last = bisect_left(self._bases[space], base + size)
        return [w for w in self._windows[space][max(first, 0) : last] if base < w.end]

    def find(self, space: Space, address: int) -> Window | None:
        """The window that claims the address."""
        at = bisect_right(self._bases[space], address) - 1
        if at < 0:
            return None
        window = self._windows[space][at]
        return window if address < window.end else None

    def pieces(self, space: Space, address: int, width: int) -> tuple[Piece, ...]:
        """Whose an access is, low address first.

        An access inside one window, or inside none, is one piece. One that
        straddles a border falls into bytes, as an ISA bus would cut it.
        """
        window = self.find(space, address)
        if window is not None and address + width <= window.end:
            return (Piece(0, width, window, address - (window.base or 0)),)
        if window is None and not self._overlapping(space, address, width):
            return (Piece(0, width, None, 0),)
        return tuple(self._byte(space, address, at) for at in range(width))

    def _byte(self, space: Space, address: int, at: int) -> Piece:
        window = self.find(space, address + at)
        return Piece(at, 1, window, address + at - ((window.base or 0) if window else 0))
