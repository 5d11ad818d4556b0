"""Periodic sources of ticks, as a table: what the tests of missed ticks run on.

A row says how a guest starts and stops the source on a machine. To add a device,
add a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devc.runtime.machine import Machine

PIT_HZ = 1_193_182


@dataclass(frozen=True)
class Source:
    """`start(machine, period)`: begin ticking about every `period` ns. `exact(period)`: the
    period that this makes, in ns. `stop(machine)`: no tick is to come any more. `take(machine)`:
    what the guest's handler does to the device before its EOI."""

    label: str
    line: str
    devices: tuple[str, ...]
    start: Callable[[Machine, int], None]
    stop: Callable[[Machine], None]
    exact: Callable[[int], float]
    take: Callable[[Machine], object] = lambda machine: None
    params: dict[str, int] = field(default_factory=dict)

    def machine(self) -> Machine:
        machine = Machine()
        for device in self.devices:
            machine.add(device, **self.params)
        return machine


def _pit(mode: int) -> Source:
    def count(period: int) -> int:
        return max(period * PIT_HZ // 10**9, 2) & ~1

    def start(machine: Machine, period: int) -> None:
        machine.write("io", 0x43, 1, 0x30 | mode << 1)
        machine.write("io", 0x40, 1, count(period) & 0xFF)
        machine.write("io", 0x40, 1, count(period) >> 8)

    def stop(machine: Machine) -> None:
        machine.write("io", 0x43, 1, 0x30 | 4 << 1)  # mode 4 without a count: OUT stays high

    def exact(period: int) -> float:
        return count(period) * 1e9 / PIT_HZ

    return Source(f"PIT mode {mode}", "i8254.irq0", ("i8254",), start, stop, exact)


def _hpet() -> Source:
    base, timer = 0xFED0_0000, 0x100

    def start(machine: Machine, period: int) -> None:
        ticks = period // 10  # the main counter runs at 100 MHz
        machine.write("mmio", base + 0x10, 4, 0)
        machine.write("mmio", base + 0xF0, 8, 0)
        machine.write("mmio", base + timer, 4, 2 << 9 | 1 << 6 | 1 << 3 | 1 << 2)
        machine.write("mmio", base + timer + 8, 8, ticks)
        machine.write("mmio", base + 0x10, 4, 1)

    def stop(machine: Machine) -> None:
        machine.write("mmio", base + 0x10, 4, 0)

    return Source("HPET edge", "hpet.irq[2]", ("hpet",), start, stop, lambda period: period // 10 * 10)


def _rtc() -> Source:
    def write(machine: Machine, register: int, value: int) -> None:
        machine.write("io", 0x70, 1, register)
        machine.write("io", 0x71, 1, value)

    def rate(period: int) -> int:
        return max(min((period * 32_768 // 10**9).bit_length(), 15), 3)

    def start(machine: Machine, period: int) -> None:
        write(machine, 0x0A, 0x20 | rate(period))
        write(machine, 0x0B, 0x42)  # PIE, 24 hours
        take(machine)

    def take(machine: Machine) -> int:
        machine.write("io", 0x70, 1, 0x0C)
        return machine.read("io", 0x71, 1)

    def exact(period: int) -> float:
        return (1 << rate(period) - 1) * 1e9 / 32_768

    def stop(machine: Machine) -> None:
        write(machine, 0x0B, 0x02)

    return Source("RTC periodic", "mc146818.irq8", ("mc146818",), start, stop, exact, take)


SOURCES = (_pit(2), _pit(3), _hpet())
"""Sources whose line shows an edge for each tick, whatever the guest does."""

RTC = _rtc()
"""Its line stays high until the guest reads register C, so it shows no edge until then."""
