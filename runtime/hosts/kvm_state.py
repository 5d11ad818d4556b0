"""What KVM knows of a paused guest, as named parts, to be saved and given back elsewhere.

A vCPU's parts are the kernel's structures as they are, but for `msrs` (pairs of
number and value) and `loop` (what our own loop holds for it). The kernel checks what
it is given; what does not fit is a HostError that names the part. Order of a
restore: the devices, `restore_chip`, then each vCPU; until all of it is done the
guest is in pieces, so give it up after an error.

Non-goals: memory, devices, the file (runtime/saved_guest.py).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import kvm_abi as abi
from .host import HostError
from .kvm_system import ioctl
from .kvm_vcpu import VirtualCpu
from .kvm_vm import VirtualMachine

_MSR = struct.Struct("<IQ")
_LOOP = struct.Struct("<BB")
_TSC_MSR = 0x10  # IA32_TIME_STAMP_COUNTER
_DEADLINE_MSR = 0x6E0  # IA32_TSC_DEADLINE: arms the local APIC's timer


@dataclass(frozen=True, slots=True)
class _Part:
    """A structure of a vCPU that the kernel gives and takes."""

    name: str
    get: int
    set: int
    size: int
    with_apic: bool = False


# In the order of restoring: the local APIC follows its base (sregs), events follow it.
_PARTS = (
    _Part("mp_state", abi.GET_MP_STATE, abi.SET_MP_STATE, abi.MP_STATE_SIZE, with_apic=True),
    _Part("sregs", abi.GET_SREGS, abi.SET_SREGS, ctypes.sizeof(abi.Sregs)),
    _Part("regs", abi.GET_REGS, abi.SET_REGS, ctypes.sizeof(abi.Regs)),
    _Part("xcrs", abi.GET_XCRS, abi.SET_XCRS, abi.XCRS_SIZE),
    _Part("xsave", abi.GET_XSAVE2, abi.SET_XSAVE, 0),  # as large as the processor's features need
    _Part("debugregs", abi.GET_DEBUGREGS, abi.SET_DEBUGREGS, abi.DEBUGREGS_SIZE),
    _Part("lapic", abi.GET_LAPIC, abi.SET_LAPIC, abi.LAPIC_SIZE, with_apic=True),
    _Part("events", abi.GET_VCPU_EVENTS, abi.SET_VCPU_EVENTS, abi.EVENTS_SIZE),
)
_CHIPS = {"pic0": abi.PIC_MASTER, "pic1": abi.PIC_SLAVE, "ioapic": abi.IOAPIC}


def _parts(vm: VirtualMachine) -> Iterator[tuple[_Part, int]]:
    """The parts that a vCPU of this VM has, and their sizes."""
    for part in _PARTS:
        if not part.with_apic or vm.irqchip != "none":
            yield part, part.size or max(abi.XSAVE_SIZE, vm.capability(abi.Capability.XSAVE2))


# --- vCPUs ----------------------------------------------------------------------------


def save_vcpu(vm: VirtualMachine, cpu: VirtualCpu) -> dict[str, bytes]:
    """All of a vCPU that is not running."""
    parts = {}
    for part, size in _parts(vm):
        buffer = (ctypes.c_uint8 * size)()
        ioctl(cpu.fd, part.get, buffer, f"saving vCPU {cpu.number}'s {part.name}")
        parts[part.name] = bytes(buffer)
    parts["msrs"] = b"".join(_MSR.pack(index, data) for index, data in _read_msrs(vm, cpu))
    parts["loop"] = _save_loop(cpu)
    return parts


def power_on(vm: VirtualMachine, cpu: VirtualCpu) -> dict[str, bytes]:
    """What a vCPU that never ran goes back to at a reset; its time-stamp counter goes on."""
    parts = save_vcpu(vm, cpu)
    msrs = (pair for pair in _MSR.iter_unpack(parts["msrs"]) if pair[0] != _TSC_MSR)
    return {**parts, "msrs": b"".join(_MSR.pack(*pair) for pair in msrs)}


def restore_vcpu(vm: VirtualMachine, cpu: VirtualCpu, parts: Mapping[str, bytes]) -> None:
    """Give a vCPU what `save_vcpu` gave of one of a VM made alike."""
    wanted = {part.name: size for part, size in _parts(vm)}
    _check_names(parts, {*wanted, "msrs", "loop"}, f"vCPU {cpu.number}")
    for name, size in wanted.items():
        if len(parts[name]) != size:
            raise HostError(f"vCPU {cpu.number}'s {name} has {len(parts[name])} bytes, not {size}")
    msrs = _unpack_msrs(vm, cpu, parts["msrs"])
    deadline = msrs.pop(_DEADLINE_MSR, None)
    _restore_loop(cpu, parts["loop"])
    for part, size in _parts(vm):
        if part.name == "lapic":
            _write_msrs(cpu, msrs)
        buffer = (ctypes.c_uint8 * size).from_buffer_copy(parts[part.name])
        ioctl(cpu.fd, part.set, buffer, f"restoring vCPU {cpu.number}'s {part.name}")
    if vm.irqchip == "none":
        _write_msrs(cpu, msrs)
    elif deadline is not None:
        _write_msrs(cpu, {_DEADLINE_MSR: deadline})


def _check_names(parts: Mapping[str, bytes], wanted: set[str], whose: str) -> None:
    if set(parts) != wanted:
        missing, unknown = sorted(wanted - set(parts)), sorted(set(parts) - wanted)
        raise HostError(
            f"{whose} was saved on another kind of machine: "
            f"missing {', '.join(missing) or 'nothing'}, unknown {', '.join(unknown) or 'nothing'}"
        )


# --- model-specific registers -----------------------------------------------------------


def _msr_indices(vm: VirtualMachine) -> list[int]:
    table = abi.MsrList(nmsrs=abi.MOST_MSRS)
    ioctl(vm.kvm, abi.GET_MSR_INDEX_LIST, table, "asking which MSRs there are")
    return list(table.indices[: table.nmsrs])


def _read_msrs(vm: VirtualMachine, cpu: VirtualCpu) -> Iterator[tuple[int, int]]:
    """Those that this vCPU has: the kernel lists more, and stops at the first it has not."""
    left = _msr_indices(vm)
    while left:
        table = abi.Msrs(nmsrs=len(left))
        for entry, index in zip(table.entries, left, strict=False):
            entry.index = index
        count = ioctl(cpu.fd, abi.GET_MSRS, table, "reading MSRs")
        for entry in table.entries[:count]:
            yield entry.index, entry.data
        left = left[count + 1 :]


def _unpack_msrs(vm: VirtualMachine, cpu: VirtualCpu, data: bytes) -> dict[int, int]:
    if len(data) % _MSR.size or len(data) > abi.MOST_MSRS * _MSR.size:
        raise HostError(f"vCPU {cpu.number}'s msrs are {len(data)} bytes long, which is no number of them")
    msrs = dict(_MSR.iter_unpack(data))
    unknown = sorted(set(msrs) - set(_msr_indices(vm)))
    if unknown:
        raise HostError(f"this KVM has no MSR {', '.join(f'{index:#x}' for index in unknown[:8])}")
    return msrs


def _write_msrs(cpu: VirtualCpu, msrs: Mapping[int, int]) -> None:
    """Set them. One that cannot be set may have the value already."""
    left = list(msrs.items())
    while left:
        table = abi.Msrs(nmsrs=len(left))
        for entry, (index, data) in zip(table.entries, left, strict=False):
            entry.index, entry.data = index, data
        count = ioctl(cpu.fd, abi.SET_MSRS, table, "setting MSRs")
        if count < len(left):
            _check_msr(cpu, *left[count])
        left = left[count + 1 :]


def _check_msr(cpu: VirtualCpu, index: int, data: int) -> None:
    table = abi.Msrs(nmsrs=1)
    table.entries[0].index = index
    if ioctl(cpu.fd, abi.GET_MSRS, table, "reading an MSR") != 1 or table.entries[0].data != data:
        raise HostError(f"vCPU {cpu.number}'s MSR {index:#x} cannot be {data:#x} here")


# --- our loop ------------------------------------------------------------------------------


def _save_loop(cpu: VirtualCpu) -> bytes:
    block = cpu.block
    queue = bytes(block.queue[(block.head + i) % 256] for i in range(block.pending))
    return _LOOP.pack(bool(block.halted), len(queue) & 0xFF) + queue


def _restore_loop(cpu: VirtualCpu, data: bytes) -> None:
    halted, count = _LOOP.unpack_from(data) if len(data) >= _LOOP.size else (2, 0)
    queue = data[_LOOP.size :]
    if halted > 1 or count != len(queue) or len(set(queue)) != count:
        raise HostError(f"vCPU {cpu.number}'s loop part does not fit")
    block = cpu.block
    block.halted, block.head, block.pending = halted, 0, count
    block.queue[:count] = list(queue)


# --- the chips ---------------------------------------------------------------------------


def chip_at_power_on(vm: VirtualMachine) -> dict[str, bytes]:
    """The interrupt controllers that a reset goes back to."""
    return {name: part for name, part in save_chip(vm).items() if name in _CHIPS}


def save_chip(vm: VirtualMachine) -> dict[str, bytes]:
    """KVM's interrupt controllers, where it has them, and its clock."""
    parts = {}
    for name, number in _CHIPS.items() if vm.irqchip == "kernel" else ():
        chip = abi.Irqchip(chip_id=number)
        ioctl(vm.fd, abi.GET_IRQCHIP, chip, f"saving {name}")
        parts[name] = bytes(chip)[abi.Irqchip.chip.offset :]
    clock = abi.ClockData()
    ioctl(vm.fd, abi.GET_CLOCK, clock, "saving KVM's clock")
    parts["clock"] = int(clock.clock).to_bytes(8, "little")
    return parts


def restore_chip(vm: VirtualMachine, parts: Mapping[str, bytes]) -> None:
    """Give a VM made alike what `save_chip` gave."""
    chips = _CHIPS if vm.irqchip == "kernel" else {}
    _check_names(parts, {*chips, "clock"}, "the host's part")
    sizes = {**dict.fromkeys(chips, abi.Irqchip.chip.size), "clock": 8}
    for name, size in sizes.items():
        if len(parts[name]) != size:
            raise HostError(f"the host's {name} has {len(parts[name])} bytes, not {size}")
    reset_chip(vm, {name: parts[name] for name in chips})
    clock = abi.ClockData(clock=int.from_bytes(parts["clock"], "little"))
    ioctl(vm.fd, abi.SET_CLOCK, clock, "restoring KVM's clock")


def reset_chip(vm: VirtualMachine, parts: Mapping[str, bytes]) -> None:
    """Give the interrupt controllers their state, of the right size."""
    for name, part in parts.items():
        chip = abi.Irqchip(chip_id=_CHIPS[name])
        ctypes.memmove(ctypes.addressof(chip) + abi.Irqchip.chip.offset, part, len(part))
        ioctl(vm.fd, abi.SET_IRQCHIP, chip, f"restoring {name}")
