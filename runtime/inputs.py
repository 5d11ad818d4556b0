"""Inputs: levels that come to a device from outside, from several drivers or-ed.

An input is what the device file declares as one, or any Boolean state without an
index. It is driven by other devices' lines, through wires, and by the host. How many
of its drivers are high lies in an `InputEntry`, which native code shares.

Non-goals: wires in native code (runtime/routing.py, delivery.ll).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..compiler import ir
from .bus import InputEntry

if TYPE_CHECKING:
    from .device import Device
    from .lines import OutputLine


class InputLine:
    """One input of a device: bit `bit` of a slot of its state."""

    def __init__(self, device: Device, name: str, slot: ir.Slot, bit: int) -> None:
        self.device = device
        self.name = name
        self.slot = slot
        self.bit = bit
        self.wires: list[Wire] = []
        self.entry = InputEntry(place=_place(slot, bit))
        self._pulled: set[object] = set()
        self._pullers: set[object] = set()

    @property
    def path(self) -> str:
        return f"{self.device.name}.{self.name}"

    @property
    def driven(self) -> bool:
        """Whether anything drives it."""
        return bool(self.wires or self._pullers)

    @property
    def level(self) -> int:
        """As the device has it."""
        return self.device.instance.get(self.slot.name) >> self.bit & 1

    def set(self, level: int, now: int) -> None:
        """Give it a level outright, whatever its drivers say. `Device.attend` must follow."""
        slot = self.slot.name
        with self.device.held():
            others = self.device.instance.get(slot) & ~(1 << self.bit)
            self.device.change({slot: others | level << self.bit}, now)

    def change(self, level: int, now: int) -> bool:
        """One of its drivers has risen or fallen (edges alternate); whether the input did, too.
        If so, `Device.attend` must follow."""
        with self.device.held():
            self.entry.high += 1 if level else -1
            follows = bool(self.entry.high == level)
            if follows:
                self.set(level, now)
            return follows

    def pull(self, driver: object, level: int, now: int) -> bool:
        """A driver of the host's, any object that stands for it, is at `level`; as `change`."""
        self._pullers.add(driver)
        if level == (driver in self._pulled):
            return False
        (self._pulled.add if level else self._pulled.discard)(driver)
        return self.change(level, now)

    def align(self, now: int) -> bool:
        """After a reset or a restore: its drivers are counted anew, and it gets the level that
        they have now; whether it had another. Lines tell what they do not say yet afterwards."""
        pulled = len(self._pulled)
        self.entry.high = pulled + sum(wire.told for wire in self.wires)
        level = int(bool(pulled or any(wire.level for wire in self.wires)))
        if level == self.level:
            return False
        self.set(level, now)
        return True


class Wire:
    """A line's sink that drives an input. `policied`: through the line's coalescer."""

    def __init__(self, line: OutputLine, source: Device, input: InputLine, policied: bool) -> None:
        self.line = line
        self.source = source
        self.input = input
        self.policied = policied

    @property
    def level(self) -> int:
        """What the line drives it to."""
        if self.policied:
            return self.told
        return self.source.instance.lines >> self.line.bit & 1

    @property
    def told(self) -> int:
        """What it was told last."""
        if self.policied:
            return int(self.line.coalescer is not None and self.line.coalescer.high)
        return self.line.level

    def __call__(self, level: int, now: int) -> None:
        device = self.input.device
        if self.input.change(level, now):
            device.owner.attend(device, now)


def inputs_of(device: Device) -> dict[str, InputLine]:
    """Every input that a device has, by name."""
    slots = {slot.name: slot for slot in device.module.slots}
    declared = {given.slot for given in device.module.inputs}
    found = {given.name: (slots[given.slot], given.bit) for given in device.module.inputs}
    for slot in slots.values():
        if slot.type == ir.BOOL and not slot.dims and slot.kind == "state" and slot.name not in declared:
            found[slot.name] = (slot, 0)
    return {name: InputLine(device, name, slot, bit) for name, (slot, bit) in found.items()}


def _place(slot: ir.Slot, bit: int) -> int:
    """Eight times the byte in the state, and the bit in that byte."""
    byte = bit // 8 if sys.byteorder == "little" else slot.size - 1 - bit // 8
    return (slot.offset + byte) * 8 + bit % 8
