"""A machine before the native dispatcher, as a VMM has it, without a guest."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from devc.runtime.bus import Access, Outcome, Space
from devc.runtime.device import RegionTarget
from devc.runtime.dispatch import Dispatcher
from devc.runtime.lines import NativeSink
from devc.runtime.machine import Machine
from devc.runtime.routing import Routing

Edges = list[tuple[int, int]]


class NativeBoard:
    """`attended` counts how often native code needed Python; `targets` are the regions, by handle."""

    def __init__(self, machine: Machine, dispatcher: Dispatcher | None = None) -> None:
        self.machine = machine
        self.dispatcher = dispatcher or Dispatcher()
        self.routing = Routing(machine, self.dispatcher)
        self.targets: dict[int, RegionTarget] = {}
        self.attended = 0
        for window in machine.windows():
            target = window.target
            assert isinstance(target, RegionTarget)
            assert window.base is not None
            device, region = target.device, target.region
            symbol = device.instance.code.symbol  # type: ignore[attr-defined]
            name = f"{device.module.name}_{region.name}"
            handle = self.dispatcher.add_region(
                window.space,
                window.base,
                window.size,
                symbol(f"{name}_read"),
                symbol(f"{name}_write"),
                device.instance.address,
                region.split,
                name=window.label,
                quiet=self.routing.quiet(device, region),
            )
            self.targets[handle] = target
        self.dispatcher.attend = self._attend

    def _attend(self, access: Access) -> None:
        self.attended += 1
        if access.outcome == Outcome.HEAVY and access.entry:
            target = self.targets[access.entry]
            if access.write:
                target.write(access.offset, access.piece, access.piece_value, access.now)
                access.answer()
            else:
                access.answer(target.read(access.offset, access.piece, access.now))
        else:
            self.machine.attend(self.routing.devices[access.device], access.now)

    def read(self, space: str, address: int, width: int, now: int) -> int:
        return self.dispatcher.access(Space[space.upper()], address, width, False, now=now)[1]

    def write(self, space: str, address: int, width: int, value: int, now: int) -> None:
        self.dispatcher.access(Space[space.upper()], address, width, True, value, now=now)

    def pass_to(self, now: int) -> None:
        """Walk from deadline to deadline, as a loop does that is never late."""
        while (due := self.dispatcher.earliest()) <= now:
            self.dispatcher.settle(due)


_SINK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint64)
_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32)


def native_sink(hear: Callable[[int, int], object], argument: int = 0) -> NativeSink:
    """A sink that native code may call."""
    function = _SINK(lambda context, given, level, now: hear(level, now))
    return NativeSink(ctypes.cast(function, ctypes.c_void_p).value or 0, 0, argument, keep=function)


def native_messages(hear: Callable[[int, int], object]) -> tuple[int, object]:
    """The address of a function for messages, and what keeps it alive."""
    function = _MESSAGE(lambda context, address, data: hear(address, data))
    return ctypes.cast(function, ctypes.c_void_p).value or 0, function
