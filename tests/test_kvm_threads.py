"""vCPUs of a guest on KVM at the same devices: a serial replay of what they did agrees."""

from __future__ import annotations

import ctypes
import signal
import threading

import pytest
from devc.runtime.clock import HostClock
from devc.runtime.hosts import kvm
from devc.runtime.machine import Machine
from devc.runtime.vmm import Vmm

from .hammer import Event, Log, Recorder, library, needs_gcc
from .kvm_guests import DONE, MIB, run, start_two

pytestmark = [
    needs_gcc,
    pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available())),
]

DEVICES = ("i8254", "mc146818", "acpi_pm", "hpet")
WIRES = (("i8254.irq0", "hpet.pit"), ("mc146818.irq8", "hpet.rtc"))
PLACES = (
    *((port, mask) for port in (0x40, 0x41, 0x42) for mask in (None, 0x1F)),
    *((0x43, mask) for mask in (0x3F, 0xFF)),
    *((0x70, mask) for mask in (None, 0x8F, 0x0C)),
    *((0x71, mask) for mask in (None, None, 0x7F)),
    *((0x600, mask) for mask in (None, 0xFF)),
    *((0x602, mask) for mask in (None, 0xFF)),
    *((port, None) for port in (0x608, 0x609, 0x60A)),
)
"""Ports, and which bits a byte written there may have; None: it is read."""
ACCESSES = 4000


def hammering(seed: int, last: str) -> str:
    """Byte accesses to random places, numbers from a linear congruence."""
    rows = "\n".join(
        f".word {port:#x}, {0 if mask is None else mask | 0x100:#x}"
        for port, mask in (PLACES * 2)[: 1 << len(PLACES).bit_length()]
    )
    return f"""
        mov ${seed}, %esi
        mov ${ACCESSES}, %ecx
1:      imul $1103515245, %esi, %esi
        add $12345, %esi
        mov %esi, %ebx
        shr $16, %ebx
        and ${(1 << len(PLACES).bit_length()) - 1}, %ebx
        mov %cs:places(,%ebx,4), %edx
        mov %edx, %ebx
        shr $16, %ebx
        jz 2f
        mov %esi, %eax
        shr $8, %eax
        and %bl, %al
        out %al, %dx
        jmp 3f
2:      in %dx, %al
3:      dec %ecx
        jnz 1b
        {last}
places: {rows}
    """


def test_two_vcpus_python_and_snapshots_leave_a_serial_order_behind() -> None:
    recorder = Recorder()
    events = (Event * (4 * ACCESSES))()
    shared = Log.in_dll(library(), "hammer_quiet")
    ctypes.memmove(ctypes.byref(shared), ctypes.byref(Log.of(events)), ctypes.sizeof(Log))
    machine = Machine(HostClock(), make=recorder.make)
    for device in DEVICES:
        machine.add(device)
    for line, to in WIRES:
        machine.wire(line, to)
    over, images = threading.Event(), []

    def beside() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not over.wait(0.002):
            images.append(machine.save())
            machine.write("mmio", 0xFED00010, 8, len(images) % 4)
            machine.read("mmio", 0xFED000F0, 8)

    with Vmm(machine, "kvm", memory=MIB, vcpus=2, irqchip="kernel") as vmm:
        vmm.exit_port()
        recorder.begin(machine)
        first = hammering(1, f"4: cmpb $0, {DONE}\n je 4b\n outb %al, $0xf4\n cli\n hlt")
        start_two(vmm, first, hammering(2, f"incb {DONE}\n cli\n hlt"))
        thread = threading.Thread(target=beside)
        thread.start()
        try:
            run(vmm, 60)
        finally:
            over.set()
            thread.join()
        counts = vmm.counts()
    assert sum(c.light + c.heavy + c.posted for c in counts) >= 2 * ACCESSES
    recorder.quiet.append((Log.of(events, shared.count), events))
    for name in DEVICES:
        replay = recorder.replayed(machine, name)
        assert replay.agreed == replay.events > 0, name
        assert replay.quiet_agreed == replay.quiet, name
        assert replay.here == replay.there, name
    assert shared.count > ACCESSES // 10
    assert len(images) > 3
