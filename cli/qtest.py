"""`devc qtest`: devices behind QEMU's qtest protocol, with QEMU's options where they matter.

Options have one dash, as QEMU's; two are accepted. An option that does not
matter to device tests is accepted and ignored, so that a command line written
for QEMU works; one that might be missed is noted on stderr.

Non-goals: the protocol (runtime/hosts/qtest.py).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import IO

from ..dsl.diagnostics import DeviceFileError
from ..runtime.hosts import board as boards
from ..runtime.hosts.memory import Memory
from ..runtime.hosts.qtest import Qtest
from ..runtime.hosts.qtest_channels import Address, ChannelError, QmpPeer, QtestPeer, serve
from ..runtime.machine import Machine, MachineError

HELP = """\
usage: devc qtest [-qtest CHANNEL] [-machine NAME] [-device FILE.dev[,PARAM=VALUE...]] ...

Serve devices over QEMU's qtest protocol; virtual time moves only by clock_step.

  -qtest CHANNEL      stdio (the default), unix:PATH to connect to a listening
                      socket, unix:PATH,server=on to listen, chardev:ID
  -qtest-log FILE     log the conversation (none: do not)
  -machine NAME, -M   pc (the default), q35, isapc or none; hpet=off without an HPET
  -device FILE        add a device file, or one of devc's by name; PARAM=VALUE
                      sets a parameter, LINE=N wires a line to interrupt input N
  -m SIZE[K|M|G]      plain RAM from address 0 on (128M)
  -qmp CHANNEL        a monitor: qmp_capabilities, system_reset, quit, ...
  -chardev socket,id=ID,path=PATH[,server=on]   a channel for -mon and -qtest
  -mon chardev=ID,mode=control                  a monitor on it
  -rtc base=DATE[,clock=vm]   the date at time 0: utc (the default), localtime or
                      e.g. 2026-01-31T23:59:50
  -global DEVICE.PARAM=VALUE   a parameter of one of the board's devices: i8254,
                      acpi_pm, hpet, mc146818. The RTC's update takes no time and its
                      periodic phase starts at each tick, as QEMU's; as the chip's with
                      -global mc146818.update=65 -global mc146818.locked=on
Other options of QEMU are accepted and ignored.
"""

MAX_RAM = 3 << 30
"""Above it the PC has its devices."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ON = ("on", "yes", "true")
_SWITCH = {"on": 1, "yes": 1, "true": 1, "off": 0, "no": 0, "false": 0}
_DRIVERS = {"mc146818rtc": "mc146818", "isa-pit": "i8254"}
"""Our device files by QEMU's names for the devices."""

_SUFFIXES = {"k": 10, "m": 20, "g": 30, "b": 0}


class OptionError(ValueError):
    """A command line that makes no sense; the message says what would."""


@dataclass
class Settings:
    """What the options say."""

    qtest: str | None = "stdio"
    log: str = "none"
    board: boards.Board = field(default_factory=lambda: boards.find("pc"))
    ram: int = 128 << 20
    chardevs: dict[str, Address] = field(default_factory=dict)
    monitors: list[str] = field(default_factory=list)
    devices: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    hpet: bool = True
    rtc_base: datetime | None = None
    """At time 0; None is the present moment."""
    parameters: list[tuple[str, str, str]] = field(default_factory=list)
    """Device, parameter, value."""
    notes: list[str] = field(default_factory=list)
    help: bool = False


# --- options ----------------------------------------------------------------


def _properties(text: str, implied: str) -> dict[str, str]:
    """`a,b=c,d` as QEMU reads it: a first word without `=` is `implied`, another is on."""
    found: dict[str, str] = {}
    for at, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        if equals:
            found[name] = value
        elif at == 0 and implied:
            found[implied] = part
        elif part.startswith("no"):
            found[part[2:]] = "off"
        else:
            found[part] = "on"
    return found


def _is_server(properties: dict[str, str]) -> bool:
    return properties.get("server", "off") in _ON


def _address(settings: Settings, text: str) -> Address:
    """A channel's address as `-qtest` and `-qmp` take it. Raises OptionError."""
    kind, _, rest = text.partition(":")
    if text == "stdio":
        return Address(None)
    if kind == "unix" and rest:
        properties = _properties(rest, "path")
        return Address(properties["path"], _is_server(properties))
    if kind == "chardev" and rest in settings.chardevs:
        return settings.chardevs[rest]
    known = ", ".join(settings.chardevs) or "none"
    raise OptionError(
        f"{text!r} is no channel: use stdio, unix:PATH[,server=on] or chardev:ID (IDs: {known})"
    )


def _qtest(settings: Settings, value: str) -> None:
    settings.qtest = None if value == "none" else value


def _log(settings: Settings, value: str) -> None:
    settings.log = value


def _machine(settings: Settings, value: str) -> None:
    properties = _properties(value, "type")
    if "type" in properties:
        settings.board = boards.find(properties["type"])
    if "hpet" in properties:
        settings.hpet = properties["hpet"] in _ON


def _no_hpet(settings: Settings) -> None:
    settings.hpet = False


def _memory(settings: Settings, value: str) -> None:
    text = _properties(value, "size").get("size", "128")
    digits, suffix = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "m")
    if not digits.isdigit() or suffix not in _SUFFIXES:
        raise OptionError(f"-m {value}: a size is a number with K, M or G, e.g. 128M")
    settings.ram = min(int(digits) << _SUFFIXES[suffix], MAX_RAM)


def _chardev(settings: Settings, value: str) -> None:
    properties = _properties(value, "backend")
    backend, name = properties.get("backend"), properties.get("id")
    if not name:
        raise OptionError(f"-chardev {value}: it needs an id=ID")
    if backend == "stdio":
        settings.chardevs[name] = Address(None)
    elif backend == "socket" and properties.get("path"):
        settings.chardevs[name] = Address(properties["path"], _is_server(properties))
    else:
        settings.notes.append(f"-chardev {value}: only stdio and unix sockets (path=PATH) carry anything")


def _mon(settings: Settings, value: str) -> None:
    properties = _properties(value, "chardev")
    if properties.get("mode") == "control":
        settings.monitors.append(f"chardev:{properties.get('chardev', '')}")
    else:
        settings.notes.append(f"-mon {value}: only mode=control (QMP) is served")


def _object(settings: Settings, value: str) -> None:
    """A monitor as QEMU's newest libqtest asks for it; other objects are none of ours."""
    properties = _properties(value, "qom-type")
    if properties.get("qom-type") == "monitor-qmp":
        settings.monitors.append(f"chardev:{properties.get('chardev', '')}")


def _qmp(settings: Settings, value: str) -> None:
    settings.monitors.append(value)


def _device(settings: Settings, value: str) -> None:
    properties = _properties(value, "driver")
    settings.devices.append((properties.pop("driver", ""), properties))


def _rtc(settings: Settings, value: str) -> None:
    properties = _properties(value, "base")
    if properties.get("clock", "vm") != "vm":
        settings.notes.append(f"-rtc {value}: every clock here is the virtual one, moved by clock_step")
    base = properties.get("base", "utc")
    if base == "localtime":
        settings.rtc_base = datetime.now().replace(tzinfo=UTC)
    elif base != "utc":
        settings.rtc_base = _date(base)


def _date(text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        date = _EPOCH - timedelta(1)
    if date < _EPOCH:
        raise OptionError(
            f"-rtc base={text}: a date is utc, localtime or one from 1970 on, e.g. 2026-01-31T23:59:50"
        )
    return date


def _global(settings: Settings, value: str) -> None:
    properties = _properties(value, "")
    if {"driver", "property", "value"} <= properties.keys():
        driver, name, given = (properties[key] for key in ("driver", "property", "value"))
    else:
        path, equals, given = value.partition("=")
        driver, dot, name = path.partition(".")
        if not equals or not dot:
            raise OptionError(f"-global {value}: it takes DEVICE.PARAM=VALUE, e.g. mc146818.update=65")
    settings.parameters.append((_DRIVERS.get(driver, driver), name, given))


def _help(settings: Settings) -> None:
    settings.help = True


_WITH_VALUE: dict[str, Callable[[Settings, str], None]] = {
    "qtest": _qtest,
    "qtest-log": _log,
    "machine": _machine,
    "M": _machine,
    "m": _memory,
    "chardev": _chardev,
    "mon": _mon,
    "object": _object,
    "qmp": _qmp,
    "device": _device,
    "rtc": _rtc,
    "global": _global,
}
_ALONE: dict[str, Callable[[Settings], None]] = {
    "help": _help,
    "h": _help,
    "no-hpet": _no_hpet,
}
_QUIET_WITH_VALUE = """
    accel append audio audiodev bios boot cpu d D display icount initrd k kernel L monitor msg name
    net netdev nic overcommit parallel pidfile run-with sandbox seed serial smbios smp trace usbdevice uuid
    vga vnc watchdog-action
"""
_QUIET_ALONE = """
    S daemonize enable-kvm no-acpi no-fd-bootchk no-reboot no-shutdown no-user-config nodefaults
    nographic only-migratable preconfig singlestep snapshot usb
"""
_IGNORED = frozenset(_QUIET_WITH_VALUE.split())
_IGNORED_ALONE = frozenset(_QUIET_ALONE.split())
"""Options of QEMU that change nothing about timers' registers, with a value and without."""


def parse(arguments: Sequence[str]) -> Settings:
    """The settings that a command line means. Raises OptionError or BoardError."""
    settings = Settings()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name = word.lstrip("-")
        if not word.startswith("-") or not name:
            raise OptionError(f"{word!r} is not an option; a disk image has no place here")
        if name in _ALONE:
            _ALONE[name](settings)
        elif name in _WITH_VALUE:
            if not rest:
                raise OptionError(f"-{name} needs a value")
            _WITH_VALUE[name](settings, rest.pop(0))
        elif name not in _IGNORED_ALONE:
            value = rest.pop(0) if rest and not rest[0].startswith("-") else ""
            if name not in _IGNORED:
                settings.notes.append(f"-{name} {value}".rstrip() + ": unknown here, ignored")
    return settings


# --- the command ------------------------------------------------------------


def _add_device(
    machine: Machine, interrupts: boards.Interrupts, driver: str, properties: dict[str, str]
) -> None:
    """Add what `-device` asks for. Raises MachineError, or what loading the file raises."""
    from ..compiler.driver import load

    loaded = load(driver)
    name = properties.pop("id", None)
    lines = {line.name for line in loaded.module.lines}
    numbers: dict[str, int] = {}
    for key, value in properties.items():
        numbers[key] = _number(f"-device {driver}: {key}={value}", value)
    params = {key: number for key, number in numbers.items() if key not in lines}
    device = machine.add(loaded, name, python=None, **params)
    interrupts.connect(machine, device, {key: numbers[key] for key in numbers.keys() & lines})


def _number(option: str, text: str) -> int:
    """A parameter's value. Raises OptionError."""
    try:
        return _SWITCH[text] if text in _SWITCH else int(text, 0)
    except ValueError:
        raise OptionError(f"{option} is not a number") from None


def board_settings(settings: Settings) -> dict[str, dict[str, int]]:
    """The parameters of the board's devices. Raises OptionError."""
    from ..compiler.driver import load

    found: dict[str, dict[str, int]] = {device: {} for device in settings.board.devices}
    if "mc146818" in found:
        found["mc146818"]["date"] = int((settings.rtc_base or datetime.now(UTC)).timestamp())
    elif settings.rtc_base is not None:
        _note("-rtc base: this machine has no clock to set")
    for device, name, value in settings.parameters:
        option = f"-global {device}.{name}={value}"
        if device not in found:
            continue  # of a device of QEMU's that is none of ours
        known = [param.name for param in load(device).module.params]
        if name in known:
            found[device][name] = _number(option, value)
        else:
            _note(f"{option}: {device} has no such parameter, ignored; it has: {', '.join(known)}")
    return found


def _is_ours(driver: str) -> bool:
    return driver.endswith(".dev") or files("devc.devices").joinpath(f"{driver}.dev").is_file()


@contextmanager
def _ended_by_signals() -> Iterator[int]:
    """A descriptor that becomes readable on SIGTERM and SIGINT, which end the process with
    status 0, as they end QEMU. (An exception out of a handler could strike anywhere.)"""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    wakeup = signal.set_wakeup_fd(writable)
    before = {n: signal.signal(n, lambda *_: None) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)


@contextmanager
def _open_log(path: str) -> Iterator[IO[str] | None]:
    if path in ("none", "/dev/null"):
        yield None
        return
    try:
        log = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise OptionError(f"-qtest-log {path}: {error.strerror}") from None
    with log:
        yield log


def _run(settings: Settings, stop: int) -> None:
    with _open_log(settings.log) as log:
        peer = QtestPeer(log)
        machine, memory = Machine(), Memory(settings.ram)
        session = Qtest(machine, memory, peer.send)
        interrupts = boards.build(
            settings.board,
            machine,
            session.interrupt,
            hpet=settings.hpet,
            settings=board_settings(settings),
        )
        for driver, properties in settings.devices:
            if _is_ours(driver):
                _add_device(machine, interrupts, driver, properties)
            else:
                _note(f"-device {driver}: devc has no such device, ignored")
        if settings.ram:
            machine.claim("RAM", "mmio", 0, settings.ram, memory.read, memory.write)
        peer.session = session
        channels: list[tuple[Address, QtestPeer | QmpPeer]] = []
        if settings.qtest is not None:
            channels.append((_address(settings, settings.qtest), peer))
        channels += [(_address(settings, text), QmpPeer(machine.reset)) for text in settings.monitors]
        serve(channels, stop)
        machine.close()


def _note(text: str) -> None:
    print(f"devc qtest: {text}", file=sys.stderr)


def qtest(arguments: Sequence[str]) -> int:
    """Run `devc qtest` with QEMU-style options; the exit status."""
    logging.basicConfig(format="devc qtest: %(message)s", stream=sys.stderr)
    try:
        settings = parse(arguments)
        if settings.help:
            print(HELP, end="")
            return 0
        for note in settings.notes:
            _note(note)
        with _ended_by_signals() as stop:
            _run(settings, stop)
    except BrokenPipeError:
        return 0
    except (OptionError, boards.BoardError, ChannelError, MachineError, DeviceFileError) as error:
        _note(str(error))
        return 1
    return 0
