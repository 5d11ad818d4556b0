"""A running machine to a saved guest and back: what `--save` writes and `--resume` reads.

    with booted.vmm.paused():
        saved_guest.write(path, taken(booted))

    with resumed(saved_guest.read(path)) as booted:
        booted.run()

Virtual time stands still between the two: no timer is lost, and none comes twice.
What is put back is checked first; only an intact guest of a machine built alike gets
in. After an error the machine is good for nothing but `close`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .boot import Booted, boot
from .clock import HostClock
from .guests import Guest, GuestError, Segment, firmware
from .hosts import HostError
from .hosts.start import Start
from .machine_file import Description, MachineFileError, from_mapping, to_mapping
from .pc import parts
from .pc.board import Output
from .pc.parts import PartError
from .saved_guest import SavedGuest, SavedGuestError
from .snapshot import SnapshotError


def taken(booted: Booted) -> SavedGuest:
    """The guest as it is. All its vCPUs must be paused, or not running."""
    host = booted.vmm.kvm
    with booted.vmm.standing():
        return SavedGuest(
            machine=to_mapping(booted.description),
            devices=booted.machine.save(),
            memory=dict(_memory(booted)),
            vcpus=tuple(host.save_vcpu(number) for number in range(booted.description.vcpus)),
            rom={s.address: s.content for s in booted.guest.segments if s.read_only},
            host=host.save_chip(),
            board={name: parts.pack(part.registers) for name, part in booted.pc.parts.items()},
        )


def _memory(booted: Booted) -> Iterator[tuple[int, memoryview]]:
    host = booted.vmm.host
    for ram in host.ranges:
        yield ram.address, host.memory[ram.offset : ram.offset + ram.size]


def description(saved: SavedGuest) -> Description:
    """How to build the machine again. Raises SavedGuestError."""
    try:
        return from_mapping(saved.machine)
    except (MachineFileError, TypeError) as error:
        raise SavedGuestError(f"its machine cannot be: {error}") from None


@contextmanager
def resumed(
    saved: SavedGuest,
    changed: Description | None = None,
    *,
    serial: Output | None = None,
    console: Output | None = None,
) -> Iterator[Booted]:
    """The saved guest's machine, built again, with the guest in it where it was.

    `changed`: the machine with another disk image, say, or another timeout. Raises
    SavedGuestError, and what `boot` does.
    """
    machine = changed or description(saved)
    with boot(machine, serial=serial, console=console, guest=_guest(saved, machine)) as booted:
        put(booted, saved)
        yield booted


def _guest(saved: SavedGuest, machine: Description) -> Guest:
    """What a reset starts again: a firmware; else there is nothing to start."""
    if machine.firmware is None:
        rom = tuple(Segment(at, bytes(content), read_only=True) for at, content in saved.rom.items())
        return Guest("flat", "a saved guest", Start("real", 0), rom)
    try:
        (content,) = saved.rom.values()
        return firmware(machine.firmware.name, bytes(content), machine.memory or 0)
    except (GuestError, ValueError) as error:
        raise SavedGuestError(f"its firmware cannot be: {error}") from None


def put(booted: Booted, saved: SavedGuest) -> None:
    """Make a freshly built machine's guest the saved one. Raises SavedGuestError.

    Virtual time stands from then on, until the guest runs.
    """
    host, own = booted.vmm.kvm, dict(_memory(booted))
    if {address: len(data) for address, data in own.items()} != {
        address: len(data) for address, data in saved.memory.items()
    }:
        raise SavedGuestError("its memory is not that of its machine")
    if len(saved.vcpus) != booted.description.vcpus:
        raise SavedGuestError("its vCPUs are not those of its machine")
    if isinstance(booted.machine.clock, HostClock):
        booted.machine.clock.stop()
    for address, data in saved.memory.items():
        own[address][:] = data
    try:
        _put_board(booted, saved)
        booted.machine.restore(saved.devices)
        for part in booted.pc.parts.values():
            part.refresh()
        # Last: what the lines said on the way is not what the controllers had seen.
        host.restore_chip(dict(saved.host))
        for number, state in enumerate(saved.vcpus):
            host.restore_vcpu(number, dict(state))
    except (SnapshotError, HostError) as error:
        raise SavedGuestError(str(error)) from None


def _put_board(booted: Booted, saved: SavedGuest) -> None:
    here = booted.pc.parts
    if here.keys() != saved.board.keys():
        raise SavedGuestError(f"its board's parts are not {', '.join(here)}")
    made = {}
    for name, part in here.items():
        try:
            made[name] = parts.unpack(type(part.registers), saved.board[name])
        except PartError as error:
            raise SavedGuestError(f"its part {name} does not fit: {error}") from None
        misfit = part.misfit(made[name])
        if misfit:
            raise SavedGuestError(f"its part {name} does not fit: {misfit}")
    for name, part in here.items():
        part.registers = made[name]


__all__ = ["description", "put", "resumed", "taken"]
