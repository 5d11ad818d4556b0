"""A device without a device file: what the machine's tests drive.

`beeper` has four byte registers: `period` (a pulse or toggle every that many
microseconds, 0 off), `level` (drives the line), `odd` (served by Python) and
`count` (events so far). It does by hand what compiled devices do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from devc.compiler import ir
from devc.runtime.instance import ImageError

PERIOD, LEVEL, ODD, COUNT = range(4)


def _register(name: str, offset: int, tier: str = "native") -> ir.Register:
    return ir.Register(name, offset, 1, "rw", tier, tier)  # type: ignore[arg-type]


SLOTS = (
    ir.Slot("period", ir.U8, 1, 32),
    ir.Slot("level", ir.BOOL, 1, 33),
    ir.Slot("odd", ir.Range(0, 99), 1, 34),
    ir.Slot("count", ir.U32, 4, 36),
    ir.Slot("start", ir.U64, 8, 40),
    ir.Slot("rises", ir.U32, 4, 48, ((1, 4),)),
    ir.Slot("pulse", ir.BOOL, 1, 52, kind="param"),
)

MODULE = ir.Module(
    name="beeper",
    doc="",
    version=1,
    params=(
        ir.Param("base", ir.U16, 0x10, None),
        ir.Param("pulse", ir.BOOL, 0, "pulse"),
    ),
    slots=(*ir.HEADER, *SLOTS),
    size=56,
    regions=(
        ir.Region(
            "ports",
            "io",
            "base",
            4,
            (_register("period", PERIOD), _register("level", LEVEL), _register("count", COUNT)),
        ),
    ),
    lines=(ir.Line("out"),),
    pythons=(),
    functions=(),
)


def with_python(file: str = "handlers.py") -> ir.Module:
    """The beeper with `odd` served by handler 0 and observer 1 told of `level`."""
    region = MODULE.regions[0]
    region = replace(region, registers=(*region.registers, _register("odd", ODD, "python")), split=True)
    count, level, odd = ("count", "count", ()), ("level", "level", ()), ("odd", "odd", ())
    lvl = ("lvl", "level", ())
    handler = ir.Python("oddity", file, "handler", "a test", (count,), (odd, lvl), 7)
    watcher = ir.Python("watcher", file, "observer", "a test", (level,), (odd,), 9)
    return replace(MODULE, regions=(region,), pythons=(handler, watcher))


class FakeInstance:
    """The Instance protocol, for a beeper."""

    def __init__(self, module: ir.Module, now: int, params: Mapping[str, int]) -> None:
        self.module = module
        self.slots = {slot.name: 0 for slot in SLOTS} | dict(params)
        self.attention = self.leave = self.watch = self.lines = 0
        self.deadline = ir.NEVER
        self.calls: list[tuple[str, int]] = []
        self.stuck = False

    # --- the ABI ---

    def read(self, region: str, now: int, offset: int, width: int) -> int:
        self.settle(now)
        if offset == ODD and self.module.pythons and width == 1:
            self.leave = 0
            self.attention |= ir.ATTENTION_LEAVE
            return 0
        return self.peek(region, now, offset, width)

    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        names = ("period", "level", "odd", "count")
        return sum((self.slots[names[i]] & 0xFF) << 8 * (i - offset) for i in range(offset, offset + width))

    def write(self, region: str, now: int, offset: int, width: int, value: int) -> None:
        self.settle(now)
        for i in range(width):
            self._write_byte(now, offset + i, value >> 8 * i & 0xFF)

    def _write_byte(self, now: int, offset: int, value: int) -> None:
        if offset == ODD and self.module.pythons:
            self.leave = 0
            self.attention |= ir.ATTENTION_LEAVE
        elif offset == PERIOD:
            self.slots |= {"period": value, "start": now}
            self._rearm()
        elif offset == LEVEL:
            self._set_level(value & 1)

    def _set_level(self, level: int) -> None:
        if level != self.slots["level"]:
            self.slots["level"] = level
            self.slots["rises"] += level
            self.attention |= ir.ATTENTION_LINES | ir.ATTENTION_WATCH
            self.watch |= 2
        self.lines = level

    def _rearm(self) -> None:
        period = self.slots["period"] * 1000
        deadline = self.slots["start"] + period if period else ir.NEVER
        if deadline != self.deadline:
            self.deadline = deadline
            self.attention |= ir.ATTENTION_DEADLINE

    def settle(self, now: int) -> None:
        self.calls.append(("settle", now))
        if self.stuck or now < self.deadline:
            return
        period = self.slots["period"] * 1000
        events = (now - self.slots["start"]) // period
        self.slots["count"] += events
        self.slots["start"] += events * period
        if self.slots["pulse"]:
            self.slots["rises"] += events
            self.attention |= ir.ATTENTION_LINES
        else:
            rises = (events + 1 - self.slots["level"]) // 2
            self._set_level(self.slots["level"] ^ (events & 1))
            self.slots["rises"] += rises - (self.slots["level"] & events)
            self.attention |= ir.ATTENTION_LINES
        self._rearm()

    def levels(self, now: int) -> int:
        return self.slots["level"]

    def next(self, now: int) -> int:
        return self.deadline

    def reset(self, now: int) -> None:
        self.slots |= {"period": 0, "level": 0, "odd": 0, "count": 0}
        self.resume(now)

    def resume(self, now: int) -> None:
        self.lines = self.slots["level"]
        self._rearm()

    def commit(self, now: int) -> None:
        """After `set`: what changed of the line is told."""
        if self.lines != self.slots["level"]:
            self.slots["rises"] += self.slots["level"]
            self.attention |= ir.ATTENTION_LINES | ir.ATTENTION_WATCH
            self.watch |= 2
        self.resume(now)

    # --- slots and images ---

    @property
    def rises(self) -> tuple[int, ...]:
        return tuple(self.get("rises", bit) for bit in range(len(self.module.lines)))

    def get(self, slot: str, *index: int) -> int:
        return self.slots[slot]

    def set(self, slot: str, value: int, *index: int) -> None:
        self.slots[slot] = value

    def save(self, now: int) -> bytes:
        self.settle(now)
        return json.dumps(self.slots).encode()

    def restore(self, now: int, image: bytes) -> None:
        try:
            values = json.loads(image)
        except ValueError:
            raise ImageError(2, "a wrong magic") from None
        if not isinstance(values, dict) or values.keys() != self.slots.keys():
            raise ImageError(4, "another layout")
        for slot in SLOTS:
            value = values[slot.name]
            if not isinstance(value, int) or not slot.type.lo <= value <= slot.type.hi:
                raise ImageError(6, "a value outside its slot's range")
        self.slots = values
        self.resume(now)


class FakeType:
    """The DeviceType protocol; `made` lists the instances made of it."""

    def __init__(self, module: ir.Module = MODULE, path: Path | None = None) -> None:
        self.module = module
        self.path = path
        self.made: list[FakeInstance] = []

    def native(self) -> None:
        return None

    def reference_module(self) -> ir.Module:
        return self.module


def make(type: FakeType, engine: str, now: int, params: Mapping[str, int]) -> FakeInstance:
    """Give this to `Machine(make=...)`."""
    type.made.append(FakeInstance(type.module, now, params))
    return type.made[-1]
