"""QEMU's qtest protocol: a test drives devices access by access, with a clock only it moves.

One command a line, one reply a line: `OK`, `OK 0x…` or `FAIL …`. Edges of the
interrupt inputs being intercepted come as `IRQ raise N` and `IRQ lower N` before
the reply of the command that caused them. As QEMU's docs/devel/testing/qtest.rst
and system/qtest.c have it; where QEMU would abort on a malformed command, the
reply is FAIL and says what the command takes.

Non-goals: sockets (qtest_channels.py), options (cli/qtest.py), `rtas` and
`module_load` (they have no meaning here and FAIL as unknown).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from ..clock import LAST_INSTANT
from ..machine import Machine
from .memory import Memory

TRANSFER_LIMIT = 1 << 26
"""The most bytes that one `read`, `write` or `memset` moves."""

IOAPIC = "ioapic"
_WIDTHS = {"b": 1, "w": 2, "l": 4, "q": 8}


class CommandError(ValueError):
    """A command that cannot be carried out; the text follows FAIL."""


@dataclass(frozen=True, slots=True)
class _Command:
    """How a command is called: its arguments' names (a `?` marks an optional one)."""

    run: Callable[[Qtest, list[str]], str]
    arguments: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        return " ".join(f"[{a[:-1]}]" if a.endswith("?") else a for a in self.arguments) or "no argument"

    def check(self, name: str, given: list[str]) -> None:
        needed = sum(not a.endswith("?") for a in self.arguments)
        if not needed <= len(given) <= len(self.arguments):
            raise CommandError(f"{name} takes {self.usage}")


class Qtest:
    """One qtest session with a machine.

    `send` takes a line without its end. `interrupt` is to be wired to the
    machine's interrupt inputs. `memory` is plain RAM from address 0 on.
    """

    def __init__(self, machine: Machine, memory: Memory, send: Callable[[str], object]) -> None:
        self._machine = machine
        self._memory = memory
        self._send = send
        self._intercepted: str | None = None
        self._levels: dict[int, int] = {}
        self._wired: set[str] = set()

    def restart(self) -> None:
        """A new client: what it will be told of starts from low lines, as in QEMU."""
        self._levels.clear()

    def interrupt(self, number: int, level: int, now: int) -> None:
        """An edge of an interrupt input."""
        if self._intercepted == IOAPIC:
            self._report(number, level)

    def _report(self, number: int, level: int) -> None:
        if self._levels.get(number, 0) != level:
            self._levels[number] = level
            self._send(f"IRQ {'raise' if level else 'lower'} {number}")

    def execute(self, line: str) -> None:
        """Carry out one command and send its reply; never raises for what is in it."""
        words = line.split()
        if not words:
            return
        name, arguments = words[0], words[1:]
        command = COMMANDS.get(name)
        if command is None:
            self._send(f"FAIL Unknown command '{name}'")
            return
        try:
            command.check(name, arguments)
            reply = command.run(self, arguments)
        except CommandError as error:
            self._send(f"FAIL {error}")
            return
        self._send(f"OK {reply}".rstrip())

    # --- the commands ---

    def _port_in(self, width: int, arguments: list[str]) -> str:
        address = _number(arguments[0]) & 0xFFFF
        return f"0x{self._machine.read('io', address, width):04x}"

    def _port_out(self, width: int, arguments: list[str]) -> str:
        self._machine.write("io", _number(arguments[0]) & 0xFFFF, width, _number(arguments[1]))
        return ""

    def _memory_read(self, width: int, arguments: list[str]) -> str:
        return f"0x{self._machine.read('mmio', _number(arguments[0]), width):016x}"

    def _memory_write(self, width: int, arguments: list[str]) -> str:
        self._machine.write("mmio", _number(arguments[0]), width, _number(arguments[1]))
        return ""

    def _read(self, arguments: list[str]) -> str:
        return "0x" + self._load(arguments).hex()

    def _read_base64(self, arguments: list[str]) -> str:
        return base64.b64encode(self._load(arguments)).decode()

    def _write(self, arguments: list[str]) -> str:
        size = _size(arguments[1])
        digits = arguments[2].removeprefix("0x")
        try:
            data = bytes.fromhex(digits[: 2 * size])
        except ValueError:
            raise CommandError("DATA must be 0x and two hexadecimal digits a byte") from None
        self._store(arguments[0], data.ljust(size, b"\0"))
        return ""

    def _write_base64(self, arguments: list[str]) -> str:
        size = _size(arguments[1])
        try:
            data = base64.b64decode(arguments[2], validate=True)
        except (binascii.Error, ValueError):
            raise CommandError("DATA must be base64") from None
        if len(data) != size:
            raise CommandError(f"DATA holds {len(data)} bytes, not SIZE")
        self._store(arguments[0], data)
        return ""

    def _fill(self, arguments: list[str]) -> str:
        value = bytes([_number(arguments[2]) & 0xFF])
        self._store(arguments[0], value * _size(arguments[1]))
        return ""

    def _load(self, arguments: list[str]) -> bytes:
        address, size = _number(arguments[0]), _size(arguments[1])
        if address + size <= self._memory.size:
            return self._memory.load(address, size)
        return bytes(self._machine.read("mmio", address + i, 1) for i in range(size))

    def _store(self, where: str, data: bytes) -> None:
        address = _number(where)
        if address + len(data) <= self._memory.size:
            self._memory.store(address, data)
            return
        for i, byte in enumerate(data):
            self._machine.write("mmio", address + i, 1, byte)

    def _endianness(self, arguments: list[str]) -> str:
        return "little"

    def _step(self, arguments: list[str]) -> str:
        """Without a number: to the next deadline, or nowhere if there is none."""
        machine = self._machine
        if arguments:
            return str(machine.step(_number(arguments[0])))
        deadline = machine.deadline
        return str(machine.advance_to(deadline) if deadline <= LAST_INSTANT else machine.now)

    def _set(self, arguments: list[str]) -> str:
        return str(self._machine.advance_to(_number(arguments[0])))

    def _intercept_in(self, arguments: list[str]) -> str:
        # QEMU takes a path of its object tree; the I/O APIC is the only
        # device here whose inputs there are.
        if IOAPIC not in arguments[0].lower():
            raise CommandError("Unknown device")
        self._intercept(IOAPIC)
        return ""

    def _intercept_out(self, arguments: list[str]) -> str:
        name = arguments[0].rstrip("/").rpartition("/")[2]
        device = self._machine.devices.get(name)
        if device is None:
            raise CommandError("Unknown device")
        if name not in self._wired:
            for number, line in enumerate(device.lines):
                self._machine.wire(line.path, self._output(name, number))
            self._wired.add(name)
        self._intercept(name)
        return ""

    def _output(self, device: str, number: int) -> Callable[[int, int], None]:
        def sink(level: int, now: int) -> None:
            if self._intercepted == device:
                self._report(number, level)

        return sink

    def _intercept(self, name: str) -> None:
        """Report edges of `name` from now on; a line already high is not reported, as in QEMU."""
        if self._intercepted not in (None, name):
            raise CommandError("IRQ intercept already enabled")
        self._intercepted = name


def _number(text: str) -> int:
    """As C's strtoull with base 0 reads it, modulo 2**64."""
    digits = text.lstrip("+-")
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") and len(digits) > 1 else 10
    try:
        value = int(digits, base)
    except ValueError:
        raise CommandError(f"{text!r} is not a number") from None
    return (-value if text.startswith("-") else value) % 2**64


def _size(text: str) -> int:
    size = _number(text)
    if not 0 < size <= TRANSFER_LIMIT:
        raise CommandError(f"SIZE is 1..{TRANSFER_LIMIT}")
    return size


def _sized(
    run: Callable[[Qtest, int, list[str]], str], prefix: str, letters: str, arguments: tuple[str, ...]
) -> dict[str, _Command]:
    def bound(width: int) -> Callable[[Qtest, list[str]], str]:
        return lambda session, given: run(session, width, given)

    return {prefix + letter: _Command(bound(_WIDTHS[letter]), arguments) for letter in letters}


COMMANDS: dict[str, _Command] = {
    **_sized(Qtest._port_in, "in", "bwl", ("ADDR",)),
    **_sized(Qtest._port_out, "out", "bwl", ("ADDR", "VALUE")),
    **_sized(Qtest._memory_read, "read", "bwlq", ("ADDR",)),
    **_sized(Qtest._memory_write, "write", "bwlq", ("ADDR", "VALUE")),
    "read": _Command(Qtest._read, ("ADDR", "SIZE")),
    "write": _Command(Qtest._write, ("ADDR", "SIZE", "DATA")),
    "b64read": _Command(Qtest._read_base64, ("ADDR", "SIZE")),
    "b64write": _Command(Qtest._write_base64, ("ADDR", "SIZE", "DATA")),
    "memset": _Command(Qtest._fill, ("ADDR", "SIZE", "VALUE")),
    "endianness": _Command(Qtest._endianness),
    "clock_step": _Command(Qtest._step, ("NS?",)),
    "clock_set": _Command(Qtest._set, ("NS",)),
    "irq_intercept_in": _Command(Qtest._intercept_in, ("PATH",)),
    "irq_intercept_out": _Command(Qtest._intercept_out, ("PATH",)),
}
"""Every command, by name."""
