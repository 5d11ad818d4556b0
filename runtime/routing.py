"""A machine's devices on a dispatcher, so that native code delivers what lines do.

A line is delivered in native code if all of its sinks are: functions in machine
code (`NativeSink`, `MessageSink`), and wires to inputs of devices in machine code;
and if no policy holds its ticks back. A line without a sink is, too. All other
lines are Python's, which then calls their native sinks as well, in their order.

Non-goals: regions of address spaces (runtime/vmm.py).
"""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass

from ..compiler import ir
from .bus import ROUTE_CALL, ROUTE_MESSAGE, ROUTE_WIRE, U64_MAX, LineRoute, LineTable
from .device import Device
from .device_lock import DeviceLock
from .dispatch import Dispatcher
from .inputs import Wire
from .instance import NativeInstance
from .lines import MessageSink, NativeSink, OutputLine, Sink
from .machine import Machine
from .quiet import Analysed, QuietReads


class Routing:
    """Keeps a dispatcher's devices as the machine has them.

    `devices`: by their numbers there; `numbers`: the reverse.
    """

    def __init__(self, machine: Machine, dispatcher: Dispatcher) -> None:
        self.machine = machine
        self.dispatcher = dispatcher
        self.numbers: dict[Device, int] = {}
        self.devices: dict[int, Device] = {}
        self._shared: dict[Device, SharedDevice] = {}
        dispatcher.lock = machine.lock
        machine.wired.append(self.refresh)
        for device in machine.devices.values():
            self.add(device)

    def add(self, device: Device) -> int:
        """Let native code serve a device of the machine; its number."""
        instance, settle, commit, handlers, table = device.instance, 0, 0, None, None
        watch = device.python.observers if device.python is not None else 0
        if isinstance(instance, NativeInstance):
            settle, commit = (instance.code.symbol(f"{device.module.name}_{f}") for f in ("settle", "commit"))
            if device.python is not None and device.python.compiled is not None:
                handlers = device.python.compiled.table
            table = _table(device)
        with self.machine.lock:
            number = self.dispatcher.add_device(instance.address, settle, commit, handlers, table, watch)
            self.numbers[device], self.devices[number] = number, device
            self._shared[device] = device.shared = SharedDevice(self.dispatcher, number, device, table)
            for given in device.inputs.values():
                given.entry.device = number
            self.refresh()
        return number

    def quiet(self, device: Device, region: ir.Region) -> QuietReads | None:
        """The reads of a device's window that need no lock; None if there are none."""
        return self._shared[device].quiet(region)

    def refresh(self) -> None:
        """Lines were connected, or devices added: find the lines that native code delivers."""
        for device, shared in self._shared.items():
            routes = {line: self._routes(line) for line in device.lines}
            shared.route(routes)
            # What Python did not tell a line's native sinks yet, native code tells them.
            self.machine.attend(device, self.machine.now)

    def _routes(self, line: OutputLine) -> list[LineRoute] | None:
        """The line's sinks as routes; None if Python delivers to them."""
        routes = [self._route(sink) for sink in line.sinks]
        if line.coalescer is not None or None in routes:
            return None
        return [route for route in routes if route is not None]

    def _route(self, sink: Sink) -> LineRoute | None:
        if isinstance(sink, NativeSink):
            return LineRoute(sink.function, sink.context, sink.argument & U64_MAX, ROUTE_CALL)
        if isinstance(sink, MessageSink):
            return LineRoute(sink.function, sink.context, 0, ROUTE_MESSAGE)
        if isinstance(sink, Wire):
            driven = sink.input
            if driven.device in self.numbers and isinstance(driven.device.instance, NativeInstance):
                return LineRoute(0, ctypes.addressof(driven.entry), 0, ROUTE_WIRE)
        return None

    def close(self) -> None:
        """The machine is its own again; no native code may be running."""
        if self.refresh in self.machine.wired:
            self.machine.wired.remove(self.refresh)
        for device in self._shared:
            for entry in device.entries:
                entry.native = 0
            device.shared = None


@dataclass(eq=False)
class SharedDevice:
    """What a device on a dispatcher needs of it (`device.Shared`)."""

    dispatcher: Dispatcher
    number: int
    device: Device
    table: LineTable | None

    def __post_init__(self) -> None:
        self.lock = DeviceLock(self.device.instance.address)
        # A thread may still look at an array that was replaced, never for long.
        self._kept: deque[object] = deque(maxlen=16)
        self._quiet: dict[str, QuietReads] = {}

    @property
    def held(self) -> bool:
        return self.lock.held

    @property
    def delivering(self) -> bool:
        return self.table is not None and bool(self.table.claimed)

    def attended(self, deadline: bool, lines: bool, now: int) -> None:
        if deadline:
            self.dispatcher.deadlines_moved()
        if lines and self.table is not None:
            self.dispatcher.deliver(self.number, now)

    def renewed(self) -> None:
        for quiet in self._quiet.values():
            quiet.renew()

    def quiet(self, region: ir.Region) -> QuietReads | None:
        """As `Routing.quiet`."""
        type = self.device.type
        if region.name not in self._quiet and isinstance(type, Analysed):
            self._quiet[region.name] = QuietReads(
                type.traffic, self.device.module, region, self.dispatcher.lanes
            )
        found = self._quiet.get(region.name)
        return found if found else None

    def route(self, routes: dict[OutputLine, list[LineRoute] | None]) -> None:
        """The device's lines and their routes, as `Routing` found them."""
        if self.table is None:
            return
        found = [route for some in routes.values() for route in some or ()]
        array = (LineRoute * max(len(found), 1))(*found)
        self._kept.append(array)
        first = 0
        with self.lock:
            self.table.routes = ctypes.addressof(array)
            for entry in self.device.entries:
                entry.native = 1  # that of no line has no sinks
            for line, some in routes.items():
                line.entry.native = some is not None
                line.entry.first, line.entry.route_count = first, len(some or ())
                first += len(some or ())


def _table(device: Device) -> LineTable | None:
    """The table of a device's lines, none of which native code delivers yet."""
    if not device.lines:
        return None
    return LineTable(
        lines=ctypes.addressof(device.entries),
        rises=device.instance.address + device.module.slot("rises").offset,
        count=len(device.module.lines),
    )
