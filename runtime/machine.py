"""A machine: devices on address spaces, wired to sinks, under one virtual clock.

    machine = Machine()                        # a clock that only `step` moves
    pit = machine.add("i8254")
    machine.wire("i8254.irq0", lambda level, now: print(level, now))
    machine.write("io", 0x43, 1, 0x34)
    machine.step(1_000_000)

Time is walked from deadline to deadline, so that each edge reaches its sinks at
its own instant. Nothing that a guest does raises: any access of any width to any
address is defined. What a host does wrong raises MachineError and changes nothing.

Any thread may call it; one at a time is inside (`lock`), beside which native code
may serve the same devices on other threads (docs/threads.md).

Non-goals: vCPUs and exits (runtime/hosts/).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..compiler import ir
from . import snapshot
from .bus import PROPAGATION
from .clock import LAST_INSTANT, Clock, SteppedClock
from .device import Device, DeviceType, HostTarget, sort_params
from .engines import Engine, Make, instantiate
from .handler_file import PythonTierError
from .inputs import InputLine, Wire
from .instance import ImageError, NativeInstance, ParameterError
from .lines import OutputLine, Sink
from .placement import Placement
from .policies import Coalescing, Policy, PolicyError, choose
from .python_tier import HandlerFailure, PythonTier
from .snapshot import DeviceImage, Snapshot, SnapshotError
from .statistics import Direction, Statistics
from .windows import Piece, PlacementError, Space, Window

__all__ = ["EVENTS_A_STEP", "PROPAGATION", "Engine", "Machine", "MachineError", "instantiate"]

EVENTS_A_STEP = 100_000
"""How many deadlines one time step walks one by one. A guest chooses the rate of its
timers and a step may be a year, so beyond this the rest is jumped over: every device
settles at the step's end, in constant time, and `statistics.events_jumped` counts it."""

STILL_WITHIN = 2.0
"""How many seconds a snapshot looks for an instant at which no thread is delivering edges."""


class MachineError(ValueError):
    """The host asked for what cannot be; the message says how to mend it."""


class Machine:
    """Devices under one clock.

    `clock` defaults to a `SteppedClock` at 0. `make` turns a device type into an
    instance. `failures` lists what Python handlers did wrong, once a kind;
    `moved` holds functions to call with each window that changed its place, `wired`
    those to call when lines were connected, `restarted` after a reset or a restore.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        engine: Engine = "native",
        *,
        events_a_step: int = EVENTS_A_STEP,
        make: Make = instantiate,
    ) -> None:
        self.clock: Clock = clock if clock is not None else SteppedClock()
        self.engine = engine
        self.devices: dict[str, Device] = {}
        self.statistics = Statistics()
        self.failures: list[HandlerFailure] = []
        self.moved: list[Callable[[Window], object]] = []
        self.wired: list[Callable[[], object]] = []
        self.restarted: list[Callable[[], object]] = []
        self.lock = threading.RLock()
        self.coalescing = Coalescing()
        self._make = make
        self._events_a_step = events_a_step
        self._placement = Placement(self.moved)
        self._queue: deque[tuple[Device, int]] = deque()
        self._attending = False
        self._walking: int | None = None
        self._settled = 0

    # --- building ----------------------------------------------------------

    def add(
        self,
        type: str | Path | DeviceType,
        name: str | None = None,
        *,
        python: Mapping[str, Mapping[str, object]] | None = None,
        **params: int | None,
    ) -> Device:
        """Add a device: one of devc's own by name, a file by path, or a loaded type.

        `params` are the device file's parameters; an address parameter of None
        leaves its windows unmapped. `python` gives keyword arguments to the
        classes of the device's Python tier, by handler name. Raises MachineError,
        or what loading the file raises.
        """
        loaded = _load(type)
        module = loaded.module
        name = name or module.name
        if name in self.devices or "." in name:
            problem = "has a dot in it" if "." in name else "is taken"
            raise MachineError(f"the device name {name!r} {problem}; give another with name=...")
        try:
            stored, bases = sort_params(module, name, params)
        except ParameterError as error:
            raise MachineError(str(error)) from None
        now = self.now
        instance = self._make(loaded, self.engine, now, stored)
        device = Device(name, loaded, instance, self, stored, bases)
        if module.pythons:
            device.python = self._python_tier(device, python or {})
        elif python:
            raise MachineError(f"{name} has no Python tier, so it takes no options for one")
        try:
            self._placement.add(device)
        except PlacementError as error:
            raise MachineError(str(error)) from None
        with self.lock:
            self.devices[name] = device
            device.restart(now)
            self.attend(device, now)
        return device

    def _python_tier(self, device: Device, options: Mapping[str, Mapping[str, object]]) -> PythonTier:
        path = device.type.path
        directory = path.parent if path is not None else None
        try:
            tier = PythonTier(device.module, device.instance, device.name, directory, options, self.failures)
            if isinstance(device.instance, NativeInstance):
                tier.compile()
            return tier
        except PythonTierError as error:
            raise MachineError(str(error)) from error

    def claim(
        self,
        label: str,
        space: Space,
        base: int,
        size: int,
        read: Callable[[int, int], int] | None = None,
        write: Callable[[int, int, int], object] | None = None,
    ) -> Window:
        """Give a range of addresses to functions of the host: read(offset, width) -> value,
        write(offset, width, value). What has no function reads as all ones or is ignored."""
        window = Window(label, space, size, HostTarget(read, write))
        try:
            with self.lock:
                self._placement.claim(window, base)
        except PlacementError as error:
            raise MachineError(str(error)) from None
        return window

    def move(self, device: str, param: str, base: int | None) -> None:
        """Move the windows whose base is an address parameter; None unmaps them.

        Raises MachineError, and changes nothing, if they would overlap others.
        """
        moving = self._device(device)
        if param not in moving.bases:
            known = ", ".join(moving.bases) or "none"
            raise MachineError(f"{device} has no address parameter {param!r}; it has: {known}")
        try:
            with self.lock:
                self._placement.move(moving, param, base)
        except PlacementError as error:
            raise MachineError(str(error)) from None

    def windows(self) -> Iterator[Window]:
        """Every mapped window. Those of devices have a `RegionTarget`."""
        return iter(self._placement)

    def wire(
        self,
        line: str,
        sink: Sink | str,
        *,
        missed: str | Policy | None = None,
        minimum: int | None = None,
        acknowledged: bool | None = None,
    ) -> None:
        """Connect an output line, "device.line", to a function called as (level, now ns)
        at each edge, or to "device.input" of another device; several on one input are
        or-ed. A line that is high is delivered at once.

        With any of the rest that is an interrupt controller's: it sees ticks as
        the policy `missed` has it, no closer than `minimum` ns, the device file's where
        they are not given. Whoever knows calls `line(...).acknowledge(now)` for each, unless
        `acknowledged` is False, and `.mask(level, now)`; see docs/coalescing.md.
        """
        source = self.line(line)
        plain = missed is None and minimum is None and acknowledged is None
        device = self._device(source.device)
        with self.lock:
            if isinstance(sink, str):
                sink = Wire(source, device, self.input(sink), not plain)
            # Under the lock, so that the new sink misses no edge that native code delivers.
            with device.held():
                if plain:
                    source.connect(sink, self.now)
                else:
                    try:
                        policy = choose(source, missed, minimum, acknowledged)
                        self.statistics.ticks[line] = self.coalescing.connect(source, sink, policy, self.now)
                    except PolicyError as error:
                        raise MachineError(str(error)) from None
                if isinstance(sink, Wire):
                    sink.input.wires.append(sink)
                    device.wires.append(sink)
                for each in self.devices.values():
                    each.find_coalescers()
                for told in self.wired:
                    told()
            self.attend(device, self.now)

    def line(self, path: str) -> OutputLine:
        """The output line "device.line"."""
        device_name, _, line_name = path.partition(".")
        device = self._device(device_name)
        for line in device.lines:
            if line.name == line_name:
                return line
        known = ", ".join(line.path for line in device.lines) or "none"
        raise MachineError(f"there is no line {path!r}; {device_name} has: {known}")

    def input(self, path: str) -> InputLine:
        """The input "device.input"."""
        device_name, _, name = path.partition(".")
        inputs = self._device(device_name).inputs
        if name not in inputs:
            raise MachineError(f"{path!r} cannot be driven; {device_name} has: {', '.join(inputs) or 'none'}")
        return inputs[name]

    def pull(self, driven: InputLine, driver: object, level: int) -> None:
        """A driver of an input, any object that stands for it, is at `level` from now on."""
        with self.lock:
            now = self._arrive()
            if driven.pull(driver, level, now):
                self.attend(driven.device, now)

    def _device(self, name: str) -> Device:
        if name not in self.devices:
            known = ", ".join(self.devices) or "none"
            raise MachineError(f"there is no device {name!r} on this machine; it has: {known}")
        return self.devices[name]

    # --- accesses ----------------------------------------------------------

    def read(self, space: Space, address: int, width: int) -> int:
        """A guest's read of `width` bytes; what nobody claims reads as all ones."""
        with self.lock:
            now = self._arrive()
            value = 0
            for piece in self._pieces(space, address, width, "read"):
                if piece.window is None:
                    part = (1 << 8 * piece.width) - 1
                else:
                    part = piece.window.target.read(piece.offset, piece.width, now)
                value |= part << 8 * piece.at
            return value

    def write(self, space: Space, address: int, width: int, value: int) -> None:
        """A guest's write; what nobody claims is ignored."""
        with self.lock:
            now = self._arrive()
            for piece in self._pieces(space, address, width, "write"):
                if piece.window is not None:
                    part = value >> 8 * piece.at & (1 << 8 * piece.width) - 1
                    piece.window.target.write(piece.offset, piece.width, part, now)

    def peek(self, space: Space, address: int, width: int) -> int:
        """What a read would return, with nothing changed; host windows show all ones. Of an
        access across windows each byte is shown by itself, as if no other had been read."""
        with self.lock:
            value = 0
            for piece in self._placement.pieces(space, address, _width(width)):
                if piece.window is None:
                    part = (1 << 8 * piece.width) - 1
                else:
                    part = piece.window.target.peek(piece.offset, piece.width, self.now)
                value |= part << 8 * piece.at
            return value

    def _pieces(self, space: Space, address: int, width: int, direction: Direction) -> tuple[Piece, ...]:
        pieces = self._placement.pieces(space, address, _width(width))
        if all(piece.window is None for piece in pieces):
            self.statistics.count_unclaimed(space, address, direction)
        return pieces

    def attend(self, device: Device, now: int) -> None:
        """Have a device's edges delivered and its observers told.

        Deliveries never nest: what one sets off waits until it is over. Nor are there any
        while a device's lock is held; who holds it attends afterwards.
        """
        with self.lock:
            self._queue.append((device, now))
            if not self._attending and not self._holding:
                self._deliver()

    @property
    def _holding(self) -> bool:
        return any(d.shared is not None and d.shared.held for d in self.devices.values())

    def _deliver(self) -> None:
        self._attending = True
        try:
            for _ in range(PROPAGATION):
                if not self._queue:
                    return
                device, now = self._queue.popleft()
                if device.attend(now):
                    self._queue.append((device, now))
            self._queue.clear()
            self.statistics.propagation_cut += 1
        finally:
            self._attending = False

    # --- time --------------------------------------------------------------

    @property
    def now(self) -> int:
        """The present instant, virtual ns; while edges are delivered, theirs."""
        if self._walking is not None:
            return self._walking
        return max(self.clock.now, self._settled)

    @property
    def deadline(self) -> int:
        """The next instant at which something happens by itself, or `NEVER`."""
        devices = (device.deadline for device in self.devices.values())
        return min(self.coalescing.deadline, *devices, ir.NEVER)

    def step(self, ns: int) -> int:
        """Let `ns` of virtual time pass (a stepped clock); the instant reached."""
        return self.advance_to(self.now + max(ns, 0))

    def advance_to(self, instant: int) -> int:
        """Let time pass up to an instant, ns, each edge delivered at its own; the instant reached.

        For a stepped clock. An instant in the past changes nothing.
        """
        with self.lock:
            instant = min(max(instant, self.now), LAST_INSTANT)
            self._walk(instant)
            self.clock.set(instant)
            return instant

    def service(self) -> int:
        """Account for everything due by the clock's present instant; what `deadline` is then."""
        with self.lock:
            self._arrive()
            return self.deadline

    def _arrive(self) -> int:
        """The instant of an access, everything before it accounted for."""
        now = self.now
        if self._walking is None and self.deadline <= now:
            self._walk(now)
        return now

    def _walk(self, target: int) -> None:
        """Settle every device at each deadline up to `target`."""
        if self._walking is not None:
            return  # a sink let time pass while an edge is delivered: it cannot
        try:
            for _ in range(self._events_a_step):
                due = self.deadline
                if due > target:
                    return
                self._settle_due(max(due, self._settled))
                if self.deadline == due:
                    break
            self.statistics.events_jumped += 1
            self._settle_due(target)
        finally:
            self._walking = None
            self._settled = target

    def _settle_due(self, at: int) -> None:
        self._walking = self._settled = at
        for device in self.devices.values():
            if device.deadline <= at:
                device.settle(at)
                self.attend(device, at)
        self.coalescing.fire(at)

    def reset(self) -> None:
        """Power-on state for every device; time goes on, windows stay."""
        with self.lock:
            now = self._arrive()
            self.coalescing.reset(now)
            for device in self.devices.values():
                device.reset(now)
            self._restart(now)

    def _restart(self, now: int) -> None:
        """After a reset or a restore: no edge that a line tells on the way is another device's tick."""
        devices = list(self.devices.values())
        for _ in devices:
            moved = [device.align(now) for device in devices]
            if not any(moved):
                break
        attending, self._attending = self._attending, True
        try:
            for device in devices:
                device.restart(now)
        finally:
            self._attending = attending
        for device in devices:
            self.attend(device, now)
        for told in self.restarted:
            told()

    # --- saving and restoring ----------------------------------------------

    def save(self) -> bytes:
        """A snapshot of every device and of the clock, all as of one instant.

        MachineError if native code on other threads leaves no such instant: pause it first.
        """
        with self.lock, self._still() as now:
            images = [
                DeviceImage(d.name, d.module.name, tuple(d.bases.items()), d.instance.save(now))
                for d in self.devices.values()
            ]
            return snapshot.pack(Snapshot(now, tuple(images), self.coalescing.save()))

    @contextmanager
    def _still(self) -> Iterator[int]:
        """Every device's lock, at an instant by which all has been delivered; that instant."""
        devices = list(self.devices.values())
        until = time.monotonic() + STILL_WITHIN
        while time.monotonic() < until:
            arrived = self._arrive()
            for device in devices:
                if device.instance.attention:
                    self.attend(device, arrived)
            with ExitStack() as locks:
                for device in devices:
                    locks.enter_context(device.held())
                now = max([arrived, *(device.arrive(arrived) for device in devices)])
                if all(device.still(now) for device in devices):
                    yield now
                    return
            time.sleep(0)
        raise MachineError("the devices never come to rest; pause the guest, then save")

    def restore(self, data: bytes) -> None:
        """Take over a snapshot of a machine built like this one.

        Raises SnapshotError, and changes nothing, unless all of it fits. Lines
        that are not as their sinks last saw them are delivered. No native code may
        be serving the devices meanwhile.
        """
        saved = snapshot.unpack(data)
        with self.lock:
            self._restore(saved)

    def _restore(self, saved: Snapshot) -> None:
        self._check_devices(saved)
        for image in saved.devices:
            self._rehearse(self.devices[image.name], image, saved.now)
        bases = {image.name: dict(image.bases) for image in saved.devices}
        try:
            self._placement.check(self.devices.values(), bases)
        except PlacementError as error:
            raise SnapshotError(f"the snapshot's address map does not fit: {error}") from None
        misfit = self.coalescing.check(saved.lines, saved.now)
        if misfit:
            raise SnapshotError(misfit)
        self.clock.set(saved.now)
        self._settled = saved.now
        for image in saved.devices:
            self.devices[image.name].restore(saved.now, image.image)
        self._placement.apply(self.devices.values(), bases)
        self.coalescing.load(saved.lines, saved.now)
        self._restart(saved.now)

    def _check_devices(self, saved: Snapshot) -> None:
        theirs = [(image.name, image.type, [name for name, _ in image.bases]) for image in saved.devices]
        ours = [(d.name, d.module.name, list(d.bases)) for d in self.devices.values()]
        if theirs != ours:
            described = ", ".join(f"{name} ({type})" for name, type, _ in theirs) or "no devices"
            raise SnapshotError(
                f"the snapshot is of another machine: it has {described}; build the machine alike first"
            )

    def _rehearse(self, device: Device, image: DeviceImage, now: int) -> None:
        # The kernel's programs take no part in restoring, and would be verified for nothing.
        engine: Engine = "native" if self.engine == "kernel" else self.engine
        scratch = self._make(device.type, engine, now, device.stored)
        try:
            scratch.restore(now, image.image)
        except ImageError as error:
            raise SnapshotError(f"the snapshot's image of {device.name} does not fit: {error}") from error

    def close(self) -> None:
        """Let the Python tier finish what it has open (files)."""
        for device in self.devices.values():
            if device.python is not None:
                device.python.close(self.now)


def _width(width: int) -> int:
    """A width that an access can have: 1..8 bytes, and none for what is no width at all."""
    return width if 1 <= width <= 8 else 0


def _load(type: str | Path | DeviceType) -> DeviceType:
    if isinstance(type, (str, Path)):
        from ..compiler.driver import load  # the front end costs 50 ms: only where a file is named

        return load(type)
    return type
