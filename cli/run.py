"""`devc run`: a guest whose timers are device files, how it ended, and what its exits cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..dsl.diagnostics import DeviceFileError
from ..runtime import pausing, saved_guest
from ..runtime.boot import Booted, boot, complete
from ..runtime.guests import GuestError, kind_of
from ..runtime.hosts import Exit, HostError, Reason
from ..runtime.hosts.kvm import KvmHost
from ..runtime.machine import Engine, MachineError
from ..runtime.machine_file import (
    Description,
    DeviceChoice,
    DiskChoice,
    MachineFileError,
    ModuleChoice,
    from_mapping,
    read,
)
from ..runtime.pc.board import Ending
from ..runtime.pc.disk_image import DiskError
from ..runtime.saved_guest import SavedGuest, SavedGuestError
from ..runtime.vmm import RegisterCount
from . import terminal
from .live import watched
from .run_costs import costs, show_costs

FAILED, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130
GUEST = Path(__file__).parent.parent / "examples" / "timers.s"
FLAT_TIMEOUT = 30.0
"""Seconds: a flat image has no operating system that may want to run for long."""


_USAGE = (GuestError, DiskError, MachineError, MachineFileError, SavedGuestError, terminal.OutputError)
"""A command line that makes no sense: each message says what would."""


@dataclass(frozen=True)
class Manner:
    """How a guest is run. `save`: where it goes if it is stopped before it ends; `live`
    and `json`: show its counters while it runs, write them."""

    wav: Path | None = None
    compare: bool | None = None
    quiet: bool = False
    save: Path | None = None
    live: bool = False
    json: Path | None = None


@dataclass(frozen=True)
class Measured:
    """A guest's run: how it ended, its exits by register, host seconds in all."""

    ending: Ending
    counts: list[RegisterCount]
    seconds: float
    host: str
    why: str
    failures: list[str]
    interrupted: bool = False
    saved: bool = False

    @property
    def exits(self) -> int:
        return sum(count.light + count.heavy for count in self.counts)


def launch(machine: Path | None, options: Mapping[str, Any], manner: Manner) -> int:
    """Run what a machine file and the command line's options say (None: not given)."""
    return _reported(lambda: run(described(machine, options), manner))


def resume(path: Path, options: Mapping[str, Any], manner: Manner) -> int:
    """Go on with a saved guest; the options change its machine's outside."""
    return _reported(lambda: _resumed(path, options, manner))


def _reported(command: Callable[[], int]) -> int:
    """The command's exit status; what goes wrong is said on stderr."""
    try:
        return command()
    except _USAGE as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except DeviceFileError as error:
        print(error, file=sys.stderr)
        return FAILED
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISSING


def run(description: Description, manner: Manner) -> int:
    """0 if the guest ended by itself and well; else why not, on stderr."""
    description = _prepared(description)
    native = measured(description, "native", manner, echo=True)
    others, prices = [], []
    if manner.compare is not False and _comparable(description, native, manner.compare):
        others.append(measured(description, "reference", Manner(), echo=False))
        prices = costs(description.host, description.devices or (), native.counts)
    if not manner.quiet:
        show(native, *others)
        show_costs(prices)
    return ended(native)


def _resumed(path: Path, options: Mapping[str, Any], manner: Manner) -> int:
    try:
        saved = saved_guest.read(path)
    except OSError as error:
        raise SavedGuestError(f"cannot read the saved guest {path}: {error.strerror}") from None
    description = replace(_over(pausing.description(saved), options), timeout=options.get("timeout"))
    native = measured(description, "native", manner, echo=True, saved=saved)
    if not manner.quiet:
        show(native)
    return ended(native)


# --- the command line ---------------------------------------------------------------------


def described(machine: Path | None, options: Mapping[str, Any]) -> Description:
    """The machine file's description, and over it what the command line gives. Raises MachineFileError."""
    return _over(read(machine) if machine is not None else Description(), options)


def _over(base: Description, options: Mapping[str, Any]) -> Description:
    given = {k: v for k, v in options.items() if v is not None and v is not False and v != []}
    # What the file and the command line write alike is checked in one place.
    alike = {key: given.pop(key) for key in _ALIKE if key in given}
    alike |= {key: str(path) for key in ("guest", "firmware") if (path := given.pop(key, None)) is not None}
    checked = from_mapping(alike)
    if checked.guest is not None:
        base = replace(base, firmware=checked.firmware)
    elif checked.firmware is not None:
        base = replace(base, guest=None)
    return replace(
        base,
        **{key: getattr(checked, key) for key in alike},
        **{key: _PARSED[key](value) for key, value in given.items()},
    )


def _device(text: str) -> DeviceChoice:
    """NAME[,PARAM=VALUE...]."""
    name, *settings = text.split(",")
    params: dict[str, int | None] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        try:
            params[key] = None if value == "nowhere" else int(value, 0)
        except ValueError:
            hint = "" if equals else ", such as base=0x600"
            raise MachineFileError(f"'{setting}' is not PARAM=NUMBER{hint}") from None
    return DeviceChoice(name, None, params)


def _disk(text: str) -> DiskChoice:
    """FILE[,writable]."""
    name, comma, option = text.rpartition(",")
    if comma and option == "writable":
        return DiskChoice(Path(name), writable=True)
    return DiskChoice(Path(text))


def _module(text: str) -> ModuleChoice:
    """FILE[ TEXT]; a file whose name has a space in it is itself."""
    name, _, rest = text.partition(" ")
    return ModuleChoice(Path(text)) if Path(text).exists() else ModuleChoice(Path(name), rest)


_ALIKE = ("append", "host", "memory", "vcpus", "irqchip", "hide_kvm", "serial", "console", "timeout")
_PARSED: dict[str, Callable[[Any], Any]] = {
    "devices": lambda texts: tuple(_device(text) for text in texts),
    "modules": lambda texts: tuple(_module(text) for text in texts),
    "disk": _disk,
}


def _prepared(description: Description) -> Description:
    """With a guest, and all that was left open chosen."""
    if description.guest is None and description.firmware is None:
        description = replace(description, guest=GUEST)
    full = complete(description)
    if full.timeout is None and full.guest is not None and kind_of(full.guest) == "flat":
        full = replace(full, timeout=FLAT_TIMEOUT)
    return full


def _comparable(description: Description, native: Measured, compare: bool | None) -> bool:
    """Whether to run it again in Python: the timers' guest, or any that it was asked for."""
    wanted = compare or description.guest == GUEST
    return bool(wanted and native.ending.request == "exit" and not native.interrupted)


# --- running --------------------------------------------------------------------------------


def measured(
    description: Description, engine: Engine, manner: Manner, *, echo: bool, saved: SavedGuest | None = None
) -> Measured:
    """Run the guest once, from the start or from where it was saved."""
    with ExitStack() as stack:
        serial, console = (
            terminal.opened(where or terminal.STDIO, stack) if echo else None
            for where in (description.serial, description.console)
        )
        machine: AbstractContextManager[Booted]
        if saved is not None:
            machine = pausing.resumed(saved, description, serial=serial, console=console)
        else:
            python = {} if manner.wav is None else {"i8254": {"speaker": {"wav": str(manner.wav)}}}
            machine = boot(description, engine=engine, serial=serial, console=console, python=python)
        booted = stack.enter_context(machine)
        if manner.save is not None:
            booted.vmm.kvm  # noqa: B018 - only KVM's guests can be saved: say so before it runs
        reads = echo and description.serial == terminal.STDIO
        start = time.perf_counter()
        with (
            terminal.typed(_receiver(booted)) if reads else nullcontext(),
            watched(booted.vmm, table=manner.live, file=manner.json),
        ):
            ending, interrupted = _run(booted)
        took = time.perf_counter() - start
        # A guest that ended by itself, or crashed, has nothing to go on with.
        kept = interrupted or (ending.request is None and ending.exit.reason is Reason.TIME)
        if manner.save is not None and kept:
            _save(booted, manner.save)
        vmm = booted.vmm
        failures = [str(failure) for failure in booted.machine.failures]
        return Measured(
            ending,
            vmm.counts(),
            took,
            vmm.host.name,
            vmm.why,
            failures,
            interrupted,
            manner.save is not None and kept,
        )


def _run(booted: Booted) -> tuple[Ending, bool]:
    """How it ended, and whether by Ctrl-C, which stops the guest between two instructions."""
    try:
        return booted.run(booted.description.timeout), False
    except KeyboardInterrupt:
        where = ", ".join(_places(booted))
        return Ending(Exit(Reason.STOPPED, booted.machine.now, f"interrupted, {where}")), True


def _places(booted: Booted) -> Iterator[str]:
    """Where each vCPU is."""
    host = booted.vmm.host
    for number in range(booted.description.vcpus):
        registers = host.registers_of(number) if isinstance(host, KvmHost) else host.registers
        yield f"vCPU {number} at {registers.cs:#x}:{registers.rip:#x}"


def _save(booted: Booted, path: Path) -> None:
    try:
        saved_guest.write(path, pausing.taken(booted))
    except OSError as error:
        raise SavedGuestError(f"cannot write {path}: {error.strerror}; the guest is lost") from None
    print(f"saved to {path}; go on with: devc resume {path}", file=sys.stderr)


def _receiver(booted: Booted) -> terminal.Output:
    def take(data: bytes) -> None:
        with booted.vmm.lock:
            booted.pc.uart.receive(data)

    return take


# --- the report -------------------------------------------------------------------------------


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


def ended(run: Measured) -> int:
    """The exit status; what went wrong goes to stderr."""
    for failure in run.failures:
        print(f"error: {failure}", file=sys.stderr)
    ending = run.ending
    if run.interrupted:
        print(ending.exit.detail, file=sys.stderr)
        return INTERRUPTED
    if run.saved:
        return FAILED if run.failures else 0
    if ending.request == "exit" and ending.value:
        print(f"error: the guest ended with status {ending.value}", file=sys.stderr)
    elif ending.request in ("exit", "off"):
        return FAILED if run.failures else 0
    elif ending.request is not None:
        what = {"reset": "asked for a reset", "sleep": "went to sleep, and nothing will wake it"}
        print(f"error: the guest {what[ending.request]}", file=sys.stderr)
    else:
        print(f"error: the guest did not end by itself: {ending.exit}", file=sys.stderr)
    return FAILED
