"""What an exit costs: reads of each port register the guest read, timed side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..runtime.assemble import assemble
from ..runtime.clock import HostClock
from ..runtime.guests import FLAT_ADDRESS
from ..runtime.machine import Engine, Machine
from ..runtime.machine_file import DeviceChoice
from ..runtime.vmm import RegisterCount, Vmm

FEWEST, MOST, LONG_ENOUGH = 1_000, 64_000, 15_000_000
"""Reads a round: doubled until a round takes long enough, in ns."""
ROUNDS = 5
EMPTY = 0x80
"""A port that nobody claims: the bare exit."""
COST = """
        movw    $%d, %%dx
        movw    $%d, %%cx
1:      inb     %%dx, %%al
        loop    1b
        outb    %%al, $0xf4
"""
"""A guest that reads one port over and over: an exit's cost, without waits."""


@dataclass(frozen=True)
class Price:
    """ns of one exit that reads a register: compiled, in Python, and to an empty port."""

    register: str
    native: float
    python: float
    empty: float


def costs(host: str | None, devices: Sequence[DeviceChoice], counts: Sequence[RegisterCount]) -> list[Price]:
    """What a read of each port register costs that the guest read, side by side."""
    wanted = {(c.device, c.register) for c in counts if c.access == "read" and c.device != "host"}
    machine = _machine(devices, "native")
    ports = [
        (f"{device.name}.{register.name}", (window.base or 0) + register.offset)
        for device in machine.devices.values()
        for region, window in zip(device.module.regions, device.windows, strict=True)
        for register in region.registers
        if region.space == "io" and (device.name, register.name) in wanted
    ]
    machine.close()
    with_code = _Reader(host, devices, "native"), _Reader(host, devices, "reference")
    try:
        return [_price(name, port, *with_code) for name, port in ports]
    finally:
        for reader in with_code:
            reader.close()


def _machine(devices: Sequence[DeviceChoice], engine: Engine) -> Machine:
    machine = Machine(HostClock(), engine)
    for choice in devices:
        machine.add(choice.type, choice.name, python=None, **choice.params)
    return machine


def _price(name: str, port: int, native: _Reader, python: _Reader) -> Price:
    """Best of ROUNDS, in turn: what else the machine does only ever adds."""
    readers = ((native, port), (python, port), (native, EMPTY))
    rounds = [[reader.rounds(at) for reader, at in readers] for _ in range(ROUNDS)]
    return Price(name, *(_one(reader, [r[i] for r in rounds]) for i, (reader, _) in enumerate(readers)))


def _one(reader: _Reader, rounds: list[tuple[int, int]]) -> float:
    """ns an exit: what many of them take more than one does."""
    many, one = (min(times) for times in zip(*rounds, strict=True))
    return float(many - one) / (reader.reads - 1)


class _Reader:
    """A guest kept for timing reads of one port."""

    def __init__(self, host: str | None, devices: Sequence[DeviceChoice], engine: Engine) -> None:
        self.machine = _machine(devices, engine)
        self.vmm = Vmm(self.machine, host)
        self.vmm.exit_port()
        self.reads = FEWEST
        while self.reads < MOST and self._run(EMPTY, self.reads) < LONG_ENOUGH:
            self.reads *= 2

    def rounds(self, port: int) -> tuple[int, int]:
        """ns of `reads` exits, and of one."""
        return self._run(port, self.reads), self._run(port, 1)

    def _run(self, port: int, reads: int) -> int:
        self.vmm.host.load(assemble(COST % (port, reads), FLAT_ADDRESS), FLAT_ADDRESS)
        self.vmm.host.boot(FLAT_ADDRESS)
        start = time.perf_counter_ns()
        self.vmm.run()
        return time.perf_counter_ns() - start

    def close(self) -> None:
        self.vmm.close()
        self.machine.close()


def show_costs(prices: Sequence[Price]) -> None:
    if not prices:
        return
    table = Table(
        title="ns an exit, the best of 5 rounds in turn", title_justify="left", box=None, header_style="bold"
    )
    table.add_column("a read of")
    for column in ("native", "in Python", "ratio", "empty port"):
        table.add_column(column, justify="right")
    for p in prices:
        table.add_row(
            p.register,
            f"{p.native:,.0f}",
            f"{p.python:,.0f}",
            f"{p.python / p.native:.1f}",
            f"{p.empty:,.0f}",
        )
    console = Console()
    console.print()
    console.print(table)
