"""One device on a machine: its instance, windows, lines and Python tier.

A `Device` does what the ABI asks of a caller after each call into an instance
(docs/abi.md, "The head of the state"): serve what was left to Python, deliver
line edges, tell observers. The machine decides when.

Non-goals: decoding addresses (runtime/windows.py), time (runtime/machine.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..compiler import ir
from .instance import Instance, ParameterError
from .lines import OutputLine
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


class Device:
    """An instance with its place on a machine. Made by `Machine.add`.

    `feeds`: for each wire to another device, the line's bit, the device and the slot it drives.
    `cycles`: its windows in no address space, by name: the machine's accesses, no guest's.
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
        self.lines = [
            OutputLine(name, line.name, bit, line.missed, line.minimum)
            for bit, line in enumerate(self.module.lines)
            if line.name
        ]
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
        self.python: PythonTier | None = None
        self.feeds: list[tuple[int, Device, str]] = []
        self._coalescers: list[Coalescer] = []
        self._held_by: list[Coalescer] = []
        self._watch = 0

    def placements(self) -> Iterator[tuple[Window, int | str]]:
        """Each window with its fixed base or the name of the parameter that holds it."""
        bases = (region.base for region in self.module.regions if region.space != "host")
        return zip(self.windows, bases, strict=True)

    def attend(self, now: int) -> bool:
        """Deliver line edges and tell observers, once; whether more has come up meanwhile."""
        instance = self.instance
        attention, watch = instance.attention, self._watch
        if attention & ir.ATTENTION_WATCH:
            watch |= instance.watch
            instance.watch = 0
        instance.attention = 0
        self._watch = 0
        if attention & ir.ATTENTION_LINES:
            self._update_lines(OutputLine.update, now)
        if watch and self.python is not None:
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
            reached += [fed for _, fed, _ in device.feeds if fed not in reached]
        own, *others = ([line.coalescer for line in d.lines if line.coalescer] for d in reached)
        self._coalescers = own
        self._held_by = own + [coalescer for found in others for coalescer in found]

    def expect(self, now: int) -> None:
        """Before a call into the instance: none of its lines has risen up to now, or its deadline."""
        for coalescer in self._coalescers:
            coalescer.expect(min(self.instance.deadline, now))

    def settle(self, now: int) -> None:
        """Account for everything up to `now`; `attend` must follow."""
        self.expect(now)
        self.instance.settle(now)

    def drive(self, slot: str, level: int, now: int) -> None:
        """Set an input: a Boolean slot that a wire drives. `attend` must follow."""
        self.settle(now)
        self.instance.set(slot, level)
        self.absorb(Outcome(wrote=True), now)

    def align(self, now: int) -> bool:
        """After a reset or a restore: give the inputs that its lines drive their levels;
        whether one had another."""
        moved = False
        for bit, driven, slot in self.feeds:
            level = self.instance.lines >> bit & 1
            if driven.instance.get(slot) != level:
                driven.drive(slot, level, now)
                moved = True
        return moved

    def restart(self, now: int) -> None:
        """After a restore: line levels afresh, every observer told. `attend` must follow."""
        self.instance.attention = 0
        self.instance.watch = 0
        self._update_lines(OutputLine.restart, now)
        self._watch = self.python.observers if self.python is not None else 0

    def _update_lines(self, update: Callable[[OutputLine, int, int, int], None], now: int) -> None:
        levels = self.instance.lines
        for line, rises in zip(self.lines, self.instance.rises, strict=True):
            level = levels >> line.bit & 1
            if rises != line.rises or level != line.level or line.coalescer is not None:
                update(line, level, rises, now)


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
        return self.device.instance.peek(self.region.name, now, offset, width)

    def _read(self, offset: int, width: int, now: int) -> int:
        device = self.device
        device.expect(now)
        value = device.instance.read(self.region.name, now, offset, width)
        python = device.python
        heavy = bool(device.instance.attention & ir.ATTENTION_LEAVE) and python is not None
        if heavy and python is not None:
            outcome = python.read(device.instance.leave, self._access(offset, width), now)
            value = outcome.value
            device.absorb(outcome, now)
        self._finish(offset, "read", heavy, now)
        return value

    def _write(self, offset: int, width: int, value: int, now: int) -> None:
        device = self.device
        device.expect(now)
        device.instance.write(self.region.name, now, offset, width, value)
        python = device.python
        heavy = bool(device.instance.attention & ir.ATTENTION_LEAVE) and python is not None
        if heavy and python is not None:
            access = self._access(offset, width, value)
            device.absorb(python.write(device.instance.leave, access, now), now)
        self._finish(offset, "write", heavy, now)

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
