"""One device on a machine: its instance, windows, lines and Python tier.

A `Device` does what the ABI asks of a caller after each call into an instance
(docs/abi.md, "The head of the state"): serve what was left to Python, deliver
line edges, tell observers. The machine decides when.

Non-goals: decoding addresses (runtime/windows.py), time (runtime/machine.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..compiler import ir
from .bus import LineEntry
from .inputs import Wire, inputs_of
from .instance import Instance, ParameterError
from .lines import Edges, OutputLine
from .policies import Coalescer
from .python_tier import Access, Outcome, PythonTier
from .statistics import GAP, Direction, Statistics
from .windows import Window

if TYPE_CHECKING:
    from ..compiler.jit import NativeCode


class DeviceType(Protocol):
    """A compiled device file, as `devc.compiler.driver.load` returns it."""

    @property
    def module(self) -> ir.Module: ...
    @property
    def path(self) -> Path | None: ...
    def native(self) -> NativeCode: ...
    def bpf(self) -> bytes: ...
    def reference_module(self) -> ir.Module: ...


class Owner(Protocol):
    """What a device needs of its machine."""

    statistics: Statistics

    def attend(self, device: Device, now: int) -> None:
        """Have `device.attend` called, now or when the present delivery is over."""
        ...


class Shared(Protocol):
    """What a device whose state native code works on, too, needs of it (runtime/routing.py)."""

    @property
    def lock(self) -> AbstractContextManager[None]: ...

    @property
    def held(self) -> bool:
        """Whether Python has the lock."""
        ...

    @property
    def delivering(self) -> bool:
        """Under the lock: whether a thread is delivering edges of the device."""
        ...

    def renewed(self) -> None:
        """Under the lock: the state was reset or restored."""
        ...

    def attended(self, deadline: bool, lines: bool, now: int) -> None:
        """Python has taken the device's attention: its deadline may have moved, and lines that
        native code delivers may have changed."""
        ...


_NOBODY_ELSE: AbstractContextManager[None] = nullcontext()
_U32 = 2**32 - 1


class Device:
    """An instance with its place on a machine. Made by `Machine.add`.

    `wires`: those that begin at its lines. `cycles`: its windows in no address space, by
    name: the machine's accesses, no guest's.

    Where native code works on the same state, `shared` says how to get along with it.
    """

    def __init__(
        self,
        name: str,
        type: DeviceType,
        instance: Instance,
        owner: Owner,
        stored: Mapping[str, int],
        bases: Mapping[str, int | None],
    ) -> None:
        """`stored`: the parameters that its state holds; `bases`: its address parameters."""
        self.name = name
        self.type = type
        self.module = type.module
        self.instance = instance
        self.owner = owner
        self.entries = (LineEntry * max(len(self.module.lines), 1))()
        self.lines = [
            OutputLine(name, line.name, bit, line.missed, line.minimum, self.entries[bit])
            for bit, line in enumerate(self.module.lines)
            if line.name
        ]
        self._find_messages()
        self.windows = [
            Window(f"{name}.{region.name}", region.space, region.size, RegionTarget(self, region))
            for region in self.module.regions
            if region.space != "host"
        ]
        self.cycles = {
            region.name: RegionTarget(self, region)
            for region in self.module.regions
            if region.space == "host"
        }
        self.stored = dict(stored)
        self.bases = dict(bases)
        self.inputs = inputs_of(self)
        self.python: PythonTier | None = None
        self.wires: list[Wire] = []
        self.shared: Shared | None = None
        self._coalescers: list[Coalescer] = []
        self._held_by: list[Coalescer] = []
        self._watch = 0
        self._restarted = False

    def _find_messages(self) -> None:
        """Where the lines' messages lie in the state."""
        for line in self.lines:
            carried = {name: (slot, index) for name, slot, index in self.module.lines[line.bit].carries}
            if {"address", "data"} <= carried.keys():
                address, data = carried["address"], carried["data"]
                line.entry.address_at, line.entry.data_at = (
                    self._carried_at(*address),
                    self._carried_at(*data),
                )
                line.carried = partial(self._message, address, data)

    def _carried_at(self, name: str, index: tuple[int, ...]) -> int:
        slot = self.module.slot(name)
        offset = next(at for each, at in ir.elements(slot) if each == index)
        return offset << 4 | slot.size

    def _message(
        self, address: tuple[str, tuple[int, ...]], data: tuple[str, tuple[int, ...]]
    ) -> tuple[int, int]:
        get = self.instance.get
        with self.held():
            return get(address[0], *address[1]), get(data[0], *data[1])

    def placements(self) -> Iterator[tuple[Window, int | str]]:
        """Each window with its fixed base or the name of the parameter that holds it."""
        bases = (region.base for region in self.module.regions if region.space != "host")
        return zip(self.windows, bases, strict=True)

    def held(self) -> AbstractContextManager[None]:
        """The lock of its state, for whoever reads or changes it while native code runs too.

        May be taken again by who has it. The machine's lock comes first (docs/threads.md).
        """
        return _NOBODY_ELSE if self.shared is None else self.shared.lock

    def arrive(self, now: int) -> int:
        """Under the lock: the instant of an access that came at `now`. One that was overtaken on
        its way takes place when the other did."""
        return now if self.shared is None else max(now, self.instance.settled)

    def attend(self, now: int) -> bool:
        """Deliver line edges and tell observers, once; whether more has come up meanwhile."""
        instance = self.instance
        edges: list[Edges] = []
        with self.held():
            attention, watch = instance.attention, self._watch
            if attention & ir.ATTENTION_WATCH:
                watch |= instance.watch
                instance.watch = 0
            instance.attention = 0
            self._watch = 0
            lines_due = attention & ir.ATTENTION_LINES or self._restarted
            self._restarted = False
            if lines_due:
                edges = self._changed_lines(OutputLine.update)
        for line in edges:
            line.deliver(now)
        if self.shared is not None:
            self.shared.attended(bool(attention & ir.ATTENTION_DEADLINE), bool(lines_due), now)
        if watch and self.python is not None:
            with self.held():
                now = self.arrive(now)
                self.absorb(self.python.observe(watch, now), now)
        return bool(instance.attention or self._watch)

    def absorb(self, outcome: Outcome, now: int) -> None:
        """Take in what Python did to the state; `attend` must follow."""
        if outcome.wrote:
            self.instance.commit(now)
        self._watch |= outcome.watch

    @property
    def deadline(self) -> int:
        """When it must be settled, virtual ns: its own deadline, or a line's floor if that is later."""
        return max(self.instance.deadline, self.floor)

    @property
    def floor(self) -> int:
        """While ticks of a line are clamped, nobody need look before this instant; else 0."""
        return max((coalescer.floor for coalescer in self._held_by), default=0)

    def find_coalescers(self) -> None:
        """After wiring: those of its own lines, and of lines that its lines lead to."""
        reached: list[Device] = [self]
        for device in reached:
            reached += [wire.input.device for wire in device.wires if wire.input.device not in reached]
        own, *others = ([line.coalescer for line in d.lines if line.coalescer] for d in reached)
        self._coalescers = own
        self._held_by = own + [coalescer for found in others for coalescer in found]

    def expect(self, now: int) -> None:
        """Before a call into the instance: none of its lines has risen up to now, or its deadline."""
        for coalescer in self._coalescers:
            coalescer.expect(min(self.instance.deadline, now))

    def settle(self, now: int) -> None:
        """Account for everything up to `now`; `attend` must follow."""
        with self.held():
            now = self.arrive(now)
            self.expect(now)
            self.instance.settle(now)

    def still(self, now: int) -> bool:
        """Under the lock: whether all that it did up to `now` has reached everybody."""
        if self.shared is None:
            return True
        return not self.shared.delivering and not self.instance.attention and self.deadline > now

    def reset(self, now: int) -> None:
        """Power-on state. `restart` must follow."""
        with self.held():
            self.instance.reset(self.arrive(now))
            self._renewed()

    def restore(self, now: int, image: bytes) -> None:
        """Take over an image that fits. `restart` must follow."""
        with self.held():
            self.instance.restore(now, image)
            self._renewed()

    def _renewed(self) -> None:
        """Under the lock: native code knows nothing any more of the state, and its lines begin
        anew, so that no thread takes another history's rises for pulses."""
        if self.shared is not None:
            self.shared.renewed()
            levels, counted = self.instance.lines, self.instance.rises
            for line in self.lines:
                if line.entry.native:
                    rose = (levels >> line.bit & 1) > line.level
                    line.entry.rises = (counted[line.bit] - rose) & _U32

    def change(self, slots: Mapping[str, int], now: int) -> None:
        """Give slots other values from outside. `attend` must follow."""
        with self.held():
            self.settle(now)
            for slot, value in slots.items():
                self.instance.set(slot, value)
            self.absorb(Outcome(wrote=True), self.arrive(now))

    def drive(self, name: str, level: int, now: int) -> None:
        """Set an input, whatever drives it. `attend` must follow."""
        self.inputs[name].set(level, now)

    def align(self, now: int) -> bool:
        """After a reset or a restore: give its inputs the levels of what drives them;
        whether one had another."""
        moved = [given.align(now) for given in self.inputs.values() if given.driven]
        return any(moved)

    def restart(self, now: int) -> None:
        """After a restore: line levels afresh, every observer told. `attend` must follow."""
        with self.held():
            self.instance.attention = 0
            self.instance.watch = 0
            edges = self._changed_lines(OutputLine.restart)
            self._watch = self.python.observers if self.python is not None else 0
            self._restarted = True
        for line in edges:
            line.deliver(now)

    def _changed_lines(self, take: Callable[[OutputLine, int, int], Edges]) -> list[Edges]:
        """What lines that Python delivers did."""
        levels, counted, edges = self.instance.lines, self.instance.rises, []
        for line in self.lines:
            level, rises = levels >> line.bit & 1, counted[line.bit]
            moved = rises != line.rises or level != line.level or line.coalescer is not None
            if moved and not line.entry.native:
                edges.append(take(line, level, rises))
        return edges


class RegionTarget:
    """Serves a region's window: compiled handlers first, Python for what they leave."""

    def __init__(self, device: Device, region: ir.Region) -> None:
        self.device = device
        self.region = region
        self._registers = sorted(region.registers, key=lambda register: register.offset)
        self._offsets = [register.offset for register in self._registers]
        tiers = {tier for register in region.registers for tier in (register.read_tier, register.write_tier)}
        # Half of a split access may be served before the other half leaves for Python,
        # which must happen before any effect: so each byte is an access of its own.
        self._bytewise = region.split and not tiers <= {"native", "none"}

    def register_at(self, offset: int) -> str:
        """The name of the register that an offset falls into, or GAP."""
        at = bisect_right(self._offsets, offset) - 1
        if at < 0 or offset >= self._offsets[at] + self._registers[at].width:
            return GAP
        return self._registers[at].name

    def read(self, offset: int, width: int, now: int) -> int:
        if self._bytewise and width > 1:
            return sum(self._read(offset + i, 1, now) << 8 * i for i in range(width))
        return self._read(offset, width, now)

    def write(self, offset: int, width: int, value: int, now: int) -> None:
        if self._bytewise and width > 1:
            for i in range(width):
                self._write(offset + i, 1, value >> 8 * i & 0xFF, now)
        else:
            self._write(offset, width, value, now)

    def peek(self, offset: int, width: int, now: int) -> int:
        device = self.device
        with device.held():
            return device.instance.peek(self.region.name, device.arrive(now), offset, width)

    def _read(self, offset: int, width: int, now: int) -> int:
        device = self.device
        with device.held():
            now = device.arrive(now)
            device.expect(now)
            value = device.instance.read(self.region.name, now, offset, width)
            python = device.python if device.instance.attention & ir.ATTENTION_LEAVE else None
            if python is not None:
                outcome = python.read(device.instance.leave, self._access(offset, width), now)
                value = outcome.value
                device.absorb(outcome, now)
        self._finish(offset, "read", python is not None, now)
        return value

    def _write(self, offset: int, width: int, value: int, now: int) -> None:
        device = self.device
        with device.held():
            now = device.arrive(now)
            device.expect(now)
            device.instance.write(self.region.name, now, offset, width, value)
            python = device.python if device.instance.attention & ir.ATTENTION_LEAVE else None
            if python is not None:
                access = self._access(offset, width, value)
                device.absorb(python.write(device.instance.leave, access, now), now)
        self._finish(offset, "write", python is not None, now)

    def _access(self, offset: int, width: int, value: int = 0) -> Access:
        return Access(self.region.name, self.register_at(offset), offset, width, value)

    def _finish(self, offset: int, direction: Direction, heavy: bool, now: int) -> None:
        owner = self.device.owner
        owner.statistics.count(self.device.name, self.register_at(offset), direction, not heavy, heavy)
        if heavy or self.device.instance.attention:
            owner.attend(self.device, now)


class HostTarget:
    """Serves a window with two functions of the embedder: ports of the host itself."""

    def __init__(
        self,
        read: Callable[[int, int], int] | None,
        write: Callable[[int, int, int], object] | None,
    ) -> None:
        self._read = read
        self._write = write

    def read(self, offset: int, width: int, now: int) -> int:
        ones = (1 << 8 * width) - 1
        return ones if self._read is None else self._read(offset, width) & ones

    def write(self, offset: int, width: int, value: int, now: int) -> None:
        if self._write is not None:
            self._write(offset, width, value)

    def peek(self, offset: int, width: int, now: int) -> int:
        """All ones: a host's function may have effects, so it is not asked."""
        return (1 << 8 * width) - 1


def sort_params(
    module: ir.Module, name: str, params: Mapping[str, int | None]
) -> tuple[dict[str, int], dict[str, int | None]]:
    """Parameters of the device's state, and those that are addresses, defaults filled in.

    ParameterError for one that the device does not have, or a value that it does not take.
    """
    known = {param.name: param for param in module.params}
    for given, value in params.items():
        if given not in known:
            names = ", ".join(known) or "none"
            raise ParameterError(f"{name} has no parameter {given!r}; it has: {names}")
        _check_param(known[given], name, value)
    values = {param.name: params.get(param.name, param.default) for param in module.params}
    stored = {p.name: int(values[p.name] or 0) for p in module.params if p.slot is not None}
    bases = {p.name: values[p.name] for p in module.params if p.slot is None}
    return stored, bases


def _check_param(param: ir.Param, device: str, value: int | None) -> None:
    if value is None and param.slot is None:
        return
    if not isinstance(value, int) or not param.type.lo <= value <= param.type.hi:
        raise ParameterError(
            f"{device}: the parameter {param.name} takes {param.type.lo}..{param.type.hi}, not {value!r}"
        )
