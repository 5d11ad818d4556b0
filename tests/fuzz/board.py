"""The machine under test: a PC's four timers and its interrupt controllers, wired as a PC wires them.

The HPET gates the PIT's and the RTC's lines (legacy replacement); port 0x61,
the SCI and the RTC's reset pin are there too. A `Variant` says what differs
from one board to the next. A `Kind` is a device type with code for both
engines, which may be given different code, or broken code, to test the fuzzer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path

from devc.compiler import ir
from devc.compiler.bpf_compile import object_code
from devc.compiler.driver import DEVICES, DeviceType, load
from devc.compiler.jit import NativeCode, compile_module
from devc.runtime.clock import SteppedClock
from devc.runtime.instance import Instance, NativeInstance, ReferenceInstance
from devc.runtime.kernel_instance import KernelInstance
from devc.runtime.machine import Engine, Machine

from .coverage import Features, ProbedReference

NAMES = ("i8254", "acpi_pm", "hpet", "mc146818", "i8259", "ioapic")
WIRES = (
    ("i8254.irq0", "hpet.pit"), ("mc146818.irq8", "hpet.rtc"),
    ("hpet.irq[2]", "i8259.ir[0]"), ("hpet.irq[2]", "ioapic.irq[2]"), ("hpet.irq[0]", "i8259.ir[0]"),
    ("hpet.irq[8]", "i8259.ir[8]"), ("hpet.irq[8]", "ioapic.irq[8]"),
    ("acpi_pm.sci", "i8259.ir[9]"), ("acpi_pm.sci", "ioapic.irq[9]"),
    ("hpet.irq[16]", "ioapic.irq[16]"), ("hpet.irq[20]", "ioapic.irq[20]"),
)  # fmt: skip
ENGINES: tuple[Engine, Engine] = ("native", "reference")
KERNEL: Engine = "kernel"
"""The third: the running kernel's, where it lets us (tests/bpf_rig.py)."""
PM_BASE, HPET_BASE = 0x600, 0xFED0_0000
EVENTS_A_STEP = 12
"""Few, so that time is both walked and jumped; the machine's own limit is for a host to choose."""


def date(*when: int) -> int:
    """Seconds since 1970."""
    return int(datetime(*when, tzinfo=UTC).timestamp())  # type: ignore[arg-type,misc]


@dataclass(frozen=True)
class Variant:
    """Parameters of the board's devices; `start`: virtual ns at power-on; `missed`: a policy for ticks."""

    pit_hz: int = 1_193_182
    wide: bool = False
    timers: int = 3
    hz: int = 100_000_000
    routes: int = 0x00FF_0104
    fsb: bool = True
    date: int = 0
    update: int = 65
    locked: bool = True
    start: int = 0
    irq0: int = 2
    missed: str = ""
    held: bool = False

    @property
    def controlled(self) -> list[str]:
        """Lines that an interrupt controller acknowledges and masks, under the policy `missed`."""
        return [f"hpet.irq[{line}]" for line in (self.irq0, 8, 16, 20)] if self.missed else []

    @property
    def params(self) -> dict[str, dict[str, int]]:
        """By device."""
        return {
            "i8254": {"hz": self.pit_hz},
            "acpi_pm": {"base": PM_BASE, "wide": int(self.wide)},
            "hpet": {
                "base": HPET_BASE, "timers": self.timers, "hz": self.hz, "routes": self.routes,
                "fsb": int(self.fsb), "irq0": self.irq0,
            },
            "mc146818": {"date": self.date, "update": self.update, "locked": int(self.locked)},
            "i8259": {"held": int(self.held)},
            "ioapic": {"revision": 0x20 if self.held else 0x11},
        }  # fmt: skip


VARIANTS = (
    Variant(),
    Variant(timers=32, wide=True, hz=14_318_180, date=date(2099, 12, 31, 23, 59, 57),
            missed="catchup", held=True),
    Variant(
        timers=8, hz=10**9, routes=2**32 - 1, irq0=0, missed="merge",
        date=date(2000, 2, 28, 23, 59, 58), update=0, locked=False,
    ),
    Variant(
        hz=10**7, fsb=False, routes=0x10_00F0, missed="discard",
        date=date(1987, 4, 26, 1, 59, 56), start=10**18 + 7,
    ),
    Variant(
        timers=5, hz=33_333_333, pit_hz=1_193_181, missed="delay", held=True,
        date=date(1987, 10, 25, 1, 59, 56), start=838,
    ),
    Variant(pit_hz=10**9, hz=999_999_999, update=1, date=250_000_000_000),
)  # fmt: skip


class InKernel(KernelInstance):
    """Its lock's version counts calls, which other engines do not."""

    @property
    def state(self) -> bytes:
        state = bytearray(self._memory)
        state[ir.LOCK_AT : ir.UNLOCKED_AT] = bytes(ir.UNLOCKED_AT - ir.LOCK_AT)
        return bytes(state)


@dataclass(frozen=True, eq=False)
class Kind:
    """A device type with code for both engines. It stands for itself where a machine takes a type."""

    module: ir.Module
    native_module: ir.Module
    path: Path
    whole: DeviceType | None = None
    """What it is without changes, if it has none."""

    @classmethod
    def shipped(cls, name: str) -> Kind:
        whole = load(name)
        module = whole.reference_module()
        return cls(module, module, DEVICES / f"{name}.dev", whole)

    @cached_property
    def code(self) -> NativeCode:
        return compile_module(self.native_module, "default")

    @cached_property
    def image(self) -> bytes:
        """The eBPF object."""
        return self.whole.bpf() if self.whole else object_code(self.native_module, None)

    @cached_property
    def probe(self) -> ProbedReference:
        return ProbedReference(self.module)

    @cached_property
    def words(self) -> list[list[tuple[str, int, int]]]:
        """Of each 8-byte word of the state: the elements in it, with their first byte and their end."""
        found: list[list[tuple[str, int, int]]] = [[] for _ in range(self.module.size // 8)]
        for slot in self.module.slots:
            for index, at in ir.elements(slot):
                name = slot.name + "".join(f"[{i}]" for i in index)
                found[at // 8].append((name, at, at + slot.size))
        return found

    @cached_property
    def features(self) -> Features:
        return Features(self.module)

    def native(self) -> NativeCode:
        return self.code

    def reference_module(self) -> ir.Module:
        return self.module

    def make(self, engine: Engine, now: int, params: Mapping[str, int]) -> Instance:
        if engine == "native":
            return NativeInstance(self.code, self.native_module, now, **params)
        if engine == KERNEL:
            return InKernel(self.code, self.native_module, self.image, now, **params)
        return ReferenceInstance(self.probe, now, **params)

    @cached_property
    def scratch(self) -> dict[Engine, Instance]:
        """An instance on each engine, whose state may be overwritten with any other's of this type."""
        return {engine: self.make(engine, 0, {}) for engine in ENGINES}


@cache
def shipped() -> tuple[Kind, ...]:
    return tuple(Kind.shipped(name) for name in NAMES)


@dataclass(frozen=True)
class Board:
    """What to build: the devices' kinds, their parameters, and on which engines."""

    variant: Variant = VARIANTS[0]
    kinds: tuple[Kind, ...] = ()
    wires: tuple[tuple[str, str], ...] = WIRES
    engines: tuple[Engine, ...] = ENGINES

    def with_kind(self, kind: Kind) -> Board:
        """The board with another device in the place of the one of that name."""
        kinds = tuple(kind if k.module.name == kind.module.name else k for k in self.kinds or shipped())
        return replace(self, kinds=kinds)

    def build(self, engine: Engine) -> Machine:
        machine = Machine(
            SteppedClock(self.variant.start),
            engine,
            events_a_step=EVENTS_A_STEP,
            make=lambda kind, engine, now, params: kind.make(engine, now, params),  # type: ignore[attr-defined]
        )
        for kind in self.kinds or shipped():
            machine.add(kind, **self.variant.params[kind.module.name])
        for line, driven in self.wires:
            machine.wire(line, driven)
        return machine
