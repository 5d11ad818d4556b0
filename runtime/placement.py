"""Where the windows of a machine's devices and of its host lie.

Non-goals: who is at an address (runtime/windows.py), serving it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from .windows import AddressMap, Piece, PlacementError, Space, Window

if TYPE_CHECKING:
    from .device import Device

Bases = Mapping[str, Mapping[str, int | None]]
"""By device, then by address parameter."""


class Placement:
    """The address map, and whose windows are on it. `told`: called with each window that moved.

    Whatever raises PlacementError changes nothing.
    """

    def __init__(self, told: list[Callable[[Window], object]]) -> None:
        self._map = AddressMap()
        self._host: list[Window] = []
        self._told = told

    def __iter__(self) -> Iterator[Window]:
        return iter(self._map)

    def pieces(self, space: Space, address: int, width: int) -> tuple[Piece, ...]:
        """As `AddressMap.pieces`."""
        return self._map.pieces(space, address, width)

    def add(self, device: Device) -> None:
        """Map a device's windows where its bases say."""
        try:
            for window, base in _layout(device, device.bases):
                self._map.place(window, base)
        except PlacementError:
            for window in device.windows:
                self._map.place(window, None)
            raise

    def claim(self, window: Window, base: int) -> None:
        """Map a window of the host's."""
        self._map.place(window, base)
        self._host.append(window)

    def move(self, device: Device, param: str, base: int | None) -> None:
        """Let a device's windows that an address parameter places begin at `base`; None unmaps them."""
        windows = [window for window, place in device.placements() if place == param]
        before = device.bases[param]
        try:
            for window in windows:
                self._map.place(window, base)
        except PlacementError:
            for window in windows:
                self._map.place(window, before)
            raise
        device.bases[param] = base
        self._tell(windows)

    def check(self, devices: Iterable[Device], bases: Bases) -> None:
        """PlacementError if the devices could not all lie at these bases."""
        rehearsal = AddressMap()
        for window in self._host:
            rehearsal.place(replace(window, base=None), window.base)
        for device in devices:
            for window, base in _layout(device, bases[device.name]):
                rehearsal.place(replace(window, base=None), base)

    def apply(self, devices: Iterable[Device], bases: Bases) -> None:
        """Move the devices to bases that `check` found right."""
        moves: list[tuple[Window, int | None]] = []
        for device in devices:
            moves += [each for each in _layout(device, bases[device.name]) if each[0].base != each[1]]
            device.bases = dict(bases[device.name])
        for window, _ in moves:
            self._map.place(window, None)
        for window, base in moves:
            self._map.place(window, base)
        self._tell([window for window, _ in moves])

    def _tell(self, windows: Iterable[Window]) -> None:
        for window in windows:
            for told in self._told:
                told(window)


def _layout(device: Device, bases: Mapping[str, int | None]) -> list[tuple[Window, int | None]]:
    return [
        (window, bases[place] if isinstance(place, str) else place) for window, place in device.placements()
    ]
