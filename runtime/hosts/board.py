"""PC boards, as data: which devices stand where and whose lines reach which interrupt.

A board is for hosts that imitate a whole PC (qtest). Interrupts are numbered as
the I/O APIC's inputs, a PC's ISA interrupt 0 being 0 (as QEMU numbers them).
Where there is an HPET, the PIT's and the RTC's lines lead through it, which gates
them in legacy replacement.

The RTC is QEMU's in two things, because boards are for what is written against
QEMU: its update takes no time, and its periodic phase starts at each tick. The
chip's 1984 us and its divider's phase are `update=65` and `locked=1`.

Non-goals: interrupt controllers, memory, firmware.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..device import Device
from ..machine import Machine, MachineError
from .pci import CONFIG_ADDRESS, CONFIG_SIZE, Configuration, Function, Placement

log = logging.getLogger("devc.runtime")

Interrupt = Callable[[int, int, int], object]
"""Called with (input, level, virtual ns)."""


Settings = Mapping[str, Mapping[str, int]]
"""Parameters by device, over those that the board gives."""

HPET = "hpet"
HPET_INPUTS = 24
"""Inputs of the PC's I/O APIC, which an HPET can have in its routing capability."""


@dataclass(frozen=True, slots=True)
class Part:
    """A device of the board.

    `lines` maps its output lines to interrupt inputs, or to the HPET's input,
    "hpet.slot", and the interrupt input where there is no HPET.
    """

    device: str
    lines: Mapping[str, int | tuple[str, int]]
    params: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Board:
    """`names`: as `-machine` knows it, the family's prefix with a trailing dash too.
    `hpet`: the HPET's parameters, None for a board that cannot have one."""

    names: tuple[str, ...]
    doc: str
    parts: tuple[Part, ...]
    functions: tuple[Function, ...] = ()
    hpet: Mapping[str, int] | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """What can stand on the board, by the names of the device files."""
        return (*(part.device for part in self.parts), *([HPET] if self.hpet is not None else []))


_PIT = Part("i8254", {"irq0": ("hpet.pit", 0)})
_RTC = Part("mc146818", {"irq8": ("hpet.rtc", 8)}, {"update": 0, "locked": 0})
_UNPLACED_PM_TIMER = Part("acpi_pm", {"sci": 9}, {"base": None})

BOARDS = (
    Board(
        ("pc", "pc-i440fx-"),
        "i440FX and PIIX4; the PM timer is placed by function 00:01.3",
        (_PIT, _RTC, _UNPLACED_PM_TIMER),
        (
            Function(0, 0, 0x8086, 0x1237, 0x060000),
            Function(1, 0, 0x8086, 0x7000, 0x060100),
            # PIIX4 (290562): PMBASE 7.2.10, PMREGMISC 7.2.16.
            Function(1, 3, 0x8086, 0x7113, 0x068000, Placement("acpi_pm", "base", 0x40, 0xFFC0, 0x80, 0x01)),
        ),
        {"irq0": 0, "routes": 0x0000_0004},
    ),
    Board(
        ("q35", "pc-q35-"),
        "Q35 and ICH9; the PM timer is placed by function 00:1f.0",
        (_PIT, _RTC, _UNPLACED_PM_TIMER),
        (
            Function(0, 0, 0x8086, 0x29C0, 0x060000),
            # ICH9 (316972): PMBASE 13.1.13, ACPI_CNTL 13.1.14.
            Function(
                0x1F, 0, 0x8086, 0x2918, 0x060100, Placement("acpi_pm", "base", 0x40, 0xFF80, 0x44, 0x80)
            ),
        ),
        {"irq0": 0, "routes": 0x00FF_0104},
    ),
    Board(("isapc",), "a PC without PCI: the PIT and the RTC", (_PIT, _RTC)),
    Board(("none",), "nothing; add devices with -device", ()),
)


class BoardError(ValueError):
    """A board that does not exist or cannot be built; the message says what can."""


def find(name: str) -> Board:
    """The board of that name. Raises BoardError."""
    for board in BOARDS:
        if any(name == known or (known.endswith("-") and name.startswith(known)) for known in board.names):
            return board
    known = ", ".join(board.names[0] for board in BOARDS)
    raise BoardError(f"there is no machine {name!r}; there are: {known}")


class Interrupts:
    """The board's interrupt inputs; several lines on one input are a logical OR."""

    def __init__(self, sink: Interrupt) -> None:
        self._sink = sink
        self._high: dict[int, set[str]] = {}

    def connect(self, machine: Machine, device: Device, lines: Mapping[str, int]) -> None:
        """Wire lines of a device to inputs."""
        for line, number in lines.items():
            self._connect(machine, f"{device.name}.{line}", number)

    def _connect(self, machine: Machine, line: str, number: int) -> None:
        high = self._high.setdefault(number, set())

        def sink(level: int, now: int) -> None:
            before = bool(high)
            if level:
                high.add(line)
            else:
                high.discard(line)
            if bool(high) != before:
                self._sink(number, level, now)

        machine.wire(line, sink)


def build(
    board: Board,
    machine: Machine,
    interrupt: Interrupt,
    *,
    hpet: bool = True,
    settings: Settings | None = None,
) -> Interrupts:
    """Put a board's devices on a machine, the HPET if `hpet` and the board can have one.

    Raises MachineError.
    """
    interrupts = Interrupts(interrupt)
    settings = settings or {}
    has_hpet = hpet and board.hpet is not None
    if has_hpet:
        timers = machine.add(HPET, None, python=None, **{**(board.hpet or {}), **settings.get(HPET, {})})
        interrupts.connect(machine, timers, {f"irq[{n}]": n for n in range(HPET_INPUTS)})
    for part in board.parts:
        params = {**part.params, **settings.get(part.device, {})}
        device = machine.add(part.device, None, python=None, **params)
        for line, target in part.lines.items():
            through, number = target if isinstance(target, tuple) else ("", target)
            if through and has_hpet:
                machine.wire(f"{device.name}.{line}", through)
            else:
                interrupts.connect(machine, device, {line: number})
    if board.functions:
        _claim_configuration(board, machine)
    return interrupts


def _claim_configuration(board: Board, machine: Machine) -> None:
    configuration = Configuration(board.functions, _mover(machine))
    machine.claim(
        "PCI configuration", "io", CONFIG_ADDRESS, CONFIG_SIZE, configuration.read, configuration.write
    )


def _mover(machine: Machine) -> Callable[[str, str, int | None], None]:
    def move(device: str, param: str, base: int | None) -> None:
        try:
            machine.move(device, param, base)
        except MachineError as error:
            # A guest asked for it, so it is no error of the host: the device
            # is nowhere until the guest thinks better of it.
            machine.move(device, param, None)
            log.warning("%s is not mapped: %s", device, error)

    return move
