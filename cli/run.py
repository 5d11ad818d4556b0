"""`devc run`: a guest on KVM or Unicorn whose timers are device files, and what it cost."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from ..dsl.diagnostics import DeviceFileError
from ..runtime.assemble import AssemblyError, assemble
from ..runtime.clock import HostClock
from ..runtime.device import RegionTarget
from ..runtime.hosts import Exit, HostError, Reason
from ..runtime.machine import Machine, MachineError
from ..runtime.vmm import RegisterCount, Vmm

FAILED, USAGE, MISSING = 1, 2, 3
ADDRESS = 0x1000
IRQ0 = 0x20
GUEST = Path(__file__).parent.parent / "examples" / "timers.s"
DEVICES = ["i8254", "acpi_pm"]
Engine = Literal["native", "reference"]


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


class UsageError(Exception):
    """A command line that makes no sense; the message says what would."""


@dataclass(frozen=True)
class Measured:
    """A guest's run: how it ended, its exits by register, host seconds in all."""

    exit: Exit
    counts: list[RegisterCount]
    seconds: float
    host: str
    why: str
    failures: list[str]

    @property
    def exits(self) -> int:
        return sum(count.light + count.heavy for count in self.counts)


def run(
    guest: Path | None,
    host: str | None,
    devices: list[str] | None,
    wav: Path | None,
    seconds: float,
    compare: bool,
) -> int:
    """0 if the guest ended by itself; else why not, on stderr."""
    try:
        image = load_guest(guest or GUEST)
        native = boot(image, host, devices or DEVICES, wav, seconds, "native", echo=True)
        others, prices = [], []
        if compare and native.exit.reason is Reason.STOPPED:
            others.append(boot(image, host, devices or DEVICES, None, seconds, "reference", echo=False))
            prices = costs(host, devices or DEVICES, native.counts)
    except (UsageError, AssemblyError, MachineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except DeviceFileError as error:
        print(error, file=sys.stderr)
        return FAILED
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISSING
    show(native, *others)
    show_costs(prices)
    return ended(native)


def load_guest(path: Path) -> bytes:
    """Assemble a .s file, or take a flat image as it is."""
    try:
        if path.suffix == ".s":
            return assemble(path.read_text(), ADDRESS)
        return path.read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"cannot read the guest {path}: {reason}") from None


def boot(
    image: bytes,
    host: str | None,
    devices: list[str],
    wav: Path | None,
    seconds: float,
    engine: Engine,
    echo: bool,
) -> Measured:
    """Run the guest once, from the start."""
    machine = Machine(HostClock(), engine)
    add_devices(machine, devices, wav)
    try:
        with Vmm(machine, host) as vmm:
            if "i8254" in machine.devices:
                vmm.interrupt("i8254.irq0", IRQ0)
            vmm.console(out if echo else lambda data: None)
            vmm.exit_port()
            vmm.host.load(image, ADDRESS)
            vmm.host.boot(ADDRESS)
            start = time.perf_counter()
            ended = vmm.run(until=machine.now + int(seconds * 1e9))
            took = time.perf_counter() - start
            failures = [str(failure) for failure in machine.failures]
            return Measured(ended, vmm.counts(), took, vmm.host.name, vmm.why, failures)
    finally:
        machine.close()


def out(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def add_devices(machine: Machine, devices: list[str], wav: Path | None) -> None:
    """Devices as the command line names them: NAME[,PARAM=VALUE...]."""
    for text in devices:
        name, *settings = text.split(",")
        params: dict[str, int | None] = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            try:
                params[key] = int(value, 0)
            except ValueError:
                raise UsageError(
                    f"'{setting}' is not PARAM=NUMBER{'' if equals else ', such as base=0x600'}"
                ) from None
        speaker = {"speaker": {"wav": str(wav)}} if wav is not None and Path(name).stem == "i8254" else None
        machine.add(name, None, python=speaker, **params)


def show(native: Measured, *others: Measured) -> None:
    """The exits by register, native beside Python, and what one cost."""
    table = Table(
        title=f"exits on {native.host} ({native.why})", title_justify="left", box=None, header_style="bold"
    )
    table.add_column("register")
    table.add_column("access")
    for column in ("light", "heavy", *("all in Python" for _ in others)):
        table.add_column(column, justify="right")
    seen = {(c.device, c.register, c.access): c for other in others for c in other.counts}
    for count in native.counts:
        twin = seen.get((count.device, count.register, count.access))
        extra = [f"{twin.light + twin.heavy:,}" if twin else "-"] if others else []
        name = count.register if count.device == "host" else f"{count.device}.{count.register}"
        table.add_row(name, count.access, f"{count.light:,}", f"{count.heavy:,}", *extra)
    console = Console()
    console.print()
    console.print(table)
    for label, run in (("native", native), *(("in Python", other) for other in others)):
        console.print(
            f"  {label}: {run.exits:,} exits, {run.seconds:.3f} s with the guest's waits", highlight=False
        )


@dataclass(frozen=True)
class Price:
    """ns of one exit that reads a register: compiled, in Python, and to an empty port."""

    register: str
    native: float
    python: float
    empty: float


def costs(host: str | None, devices: list[str], counts: list[RegisterCount]) -> list[Price]:
    """What a read of each port register costs that the guest read, side by side."""
    wanted = {(c.device, c.register) for c in counts if c.access == "read" and c.device != "host"}
    machine = Machine(HostClock())
    add_devices(machine, devices, None)
    ports = [
        (f"{device.name}.{register.name}", (window.base or 0) + register.offset)
        for device in machine.devices.values()
        for window in device.windows
        if isinstance(window.target, RegionTarget)
        for register in window.target.region.registers
        if window.space == "io" and (device.name, register.name) in wanted
    ]
    machine.close()
    with_code = _Reader(host, devices, "native"), _Reader(host, devices, "reference")
    try:
        return [_price(name, port, *with_code) for name, port in ports]
    finally:
        for reader in with_code:
            reader.close()


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

    def __init__(self, host: str | None, devices: list[str], engine: Engine) -> None:
        self.machine = Machine(HostClock(), engine)
        add_devices(self.machine, devices, None)
        self.vmm = Vmm(self.machine, host)
        self.vmm.exit_port()
        self.reads = FEWEST
        while self.reads < MOST and self._run(EMPTY, self.reads) < LONG_ENOUGH:
            self.reads *= 2

    def rounds(self, port: int) -> tuple[int, int]:
        """ns of `reads` exits, and of one."""
        return self._run(port, self.reads), self._run(port, 1)

    def _run(self, port: int, reads: int) -> int:
        self.vmm.host.load(assemble(COST % (port, reads), ADDRESS), ADDRESS)
        self.vmm.host.boot(ADDRESS)
        start = time.perf_counter_ns()
        self.vmm.run()
        return time.perf_counter_ns() - start

    def close(self) -> None:
        self.vmm.close()
        self.machine.close()


def show_costs(prices: list[Price]) -> None:
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


def ended(run: Measured) -> int:
    for failure in run.failures:
        print(f"error: {failure}", file=sys.stderr)
    if run.exit.reason is Reason.STOPPED:
        return FAILED if run.failures else 0
    print(f"error: the guest did not end by itself: {run.exit}", file=sys.stderr)
    return FAILED
