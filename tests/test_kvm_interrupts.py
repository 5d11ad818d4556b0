"""Interrupts of guests on KVM: by its own controllers, and by those that are device files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from devc.runtime.hosts import Exit, HostError, Reason, kvm
from devc.runtime.interrupts import Interrupts
from devc.runtime.machine import Engine
from devc.runtime.vmm import Vmm

from .kvm_guests import (
    DONE,
    MIB,
    PIC,
    RESULTS,
    SECOND,
    TICKS,
    Made,
    run,
    start,
    vmms,
)

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))


@pytest.fixture
def make() -> Iterator[Made]:
    yield from vmms()


def test_our_pit_ticks_through_kvms_controllers(make: Made) -> None:
    vmm = make("i8254", memory=MIB, irqchip="kernel")
    vmm.irq("i8254.irq0", 0)
    start(vmm, TICKS.format(ticks=5))
    before = vmm.machine.now
    run(vmm)
    assert vmm.host.read(RESULTS, 2) == b"\x05\x00"
    # The first edge is that of OUT going high with the mode.
    assert 39_000_000 < vmm.machine.now - before < 1_000_000_000


def test_a_deadline_that_another_thread_brings_wakes_a_halted_guest_in_time(make: Made) -> None:
    vmm = make("i8254", memory=MIB, irqchip="kernel")
    vmm.irq("i8254.irq0", 0)
    # Channel 0 one-shot: the guest sets the mode, we write the count while it sleeps.
    text = f"""
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7000, %sp
        movw $tick, 4 * 8
        movw %cs, 4 * 8 + 2
        {PIC}
        mov $0x30, %al
        out %al, $0x43
        incb {DONE}
        sti
    1:  hlt
        jmp 1b
    tick:
        out %al, $0xf4
        iret"""
    start(vmm, text)
    ended: list[Exit] = []
    thread = threading.Thread(target=lambda: ended.append(vmm.run(until=vmm.machine.now + 5 * SECOND)))
    thread.start()
    while vmm.host.read(DONE, 1) == b"\0":
        time.sleep(0.001)
    time.sleep(0.01)
    with vmm.lock:
        begin = vmm.machine.now
        vmm.machine.write("io", 0x40, 1, 0x52)
        vmm.machine.write("io", 0x40, 1, 0x00)  # 82 clocks: 69 us
    thread.join()
    assert ended[0].reason is Reason.STOPPED, str(ended[0])
    assert ended[0].now - begin < 15_000_000


# --- an 8259 pair that is a device file ------------------------------------------------------


@pytest.mark.parametrize("irqchip", ["none", "split"])
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_our_pit_ticks_through_our_8259(make: Made, irqchip: str, engine: Engine) -> None:
    vmm = make("i8254", "i8259", memory=MIB, irqchip=irqchip, engine=engine)
    vmm.connect_pic()
    vmm.machine.wire("i8254.irq0", "i8259.ir[0]")
    start(vmm, TICKS.format(ticks=5))
    before = vmm.machine.now
    run(vmm)
    assert vmm.host.read(RESULTS, 2) == b"\x05\x00"
    assert vmm.machine.now - before > 39_000_000
    if engine == "native":
        assert all(count.heavy == 0 for count in vmm.counts() if count.device != "host")


def test_a_busy_vcpu_is_interrupted_by_our_8259_from_another_thread(make: Made) -> None:
    vmm = make("i8259", memory=MIB, irqchip="split")
    vmm.connect_pic()
    text = f"""
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7000, %sp
        movw $tick, 4 * 8
        movw %cs, 4 * 8 + 2
        {PIC}
        incb {DONE}
        sti
    1:  jmp 1b
    tick:
        out %al, $0xf4
        iret"""
    start(vmm, text)
    ended: list[Exit] = []
    thread = threading.Thread(target=lambda: ended.append(vmm.run(until=vmm.machine.now + 5 * SECOND)))
    thread.start()
    while vmm.host.read(DONE, 1) == b"\0":
        time.sleep(0.001)
    with vmm.lock:
        vmm.machine.pull(vmm.machine.input("i8259.ir[0]"), vmm, 1)
    thread.join()
    assert ended[0].reason is Reason.STOPPED, str(ended[0])


# --- an I/O APIC that is a device file ------------------------------------------------------------

# x2APIC on (its registers are MSRs, so real-mode code reaches them), vector 0x31 counts and ends.
X2APIC = f"""
    xor %%ax, %%ax
    mov %%ax, %%ds
    mov %%ax, %%ss
    mov $0x7000, %%sp
    movw $tick, 4 * 0x31
    movw %%cs, 4 * 0x31 + 2
    mov $0x1b, %%ecx
    rdmsr
    or $0xc00, %%eax
    wrmsr
    mov $0x80f, %%ecx
    mov $0x1ff, %%eax
    xor %%edx, %%edx
    wrmsr
    incb {DONE}
    sti
1:  %s
    cmpw $3, {RESULTS}
    jb 1b
    out %%al, $0xf4
    cli
    hlt
tick:
    incw {RESULTS}
    mov $0x80b, %%ecx
    xor %%eax, %%eax
    xor %%edx, %%edx
    wrmsr
    iret
"""
IOAPIC, LEVEL = 0xFEC00000, 1 << 15


def redirect(vmm: Vmm, pin: int, entry: int) -> None:
    for index, value in ((0x11 + 2 * pin, entry >> 32), (0x10 + 2 * pin, entry & 0xFFFFFFFF)):
        vmm.machine.write("mmio", IOAPIC, 4, index)
        vmm.machine.write("mmio", IOAPIC + 0x10, 4, value)


def with_ioapic(make: Made, *devices: str) -> tuple[Vmm, Interrupts]:
    vmm = make("ioapic", *devices, memory=MIB, irqchip="split")
    kvm_host = vmm.kvm
    native = (kvm_host.message_function, kvm_host.vm_context)
    interrupts = Interrupts(vmm.machine, native_message=native, routed=kvm_host.route_msi)
    kvm_host.on_eoi.append(interrupts.eoi)
    return vmm, interrupts


def test_our_pit_ticks_through_our_ioapic_and_kvms_local_apic(make: Made) -> None:
    vmm, interrupts = with_ioapic(make, "i8254")
    interrupts.connect("i8254.irq0", 0)
    redirect(vmm, 2, 0x31)
    for port, value in ((0x43, 0x34), (0x40, 0x9C), (0x40, 0x2E)):
        vmm.machine.write("io", port, 1, value)
    start(vmm, X2APIC % "hlt")
    run(vmm)
    assert vmm.host.read(RESULTS, 2) == b"\3\0"


def test_the_end_of_a_level_interrupt_comes_as_an_exit_and_a_line_still_high_interrupts_again(
    make: Made,
) -> None:
    vmm, interrupts = with_ioapic(make)
    ended: list[int] = []

    def eoi(vector: int) -> None:
        ended.append(vector)
        if len(ended) == 2:
            interrupts.drive(5, 0)
            interrupts.drive(5, 1)

    vmm.kvm.on_eoi.insert(0, eoi)
    redirect(vmm, 5, 0x31 | LEVEL)
    interrupts.drive(5, 1)
    # Not halting: KVM without hardware virtualisation tells of a halted vCPU's EOI only when it wakes.
    start(vmm, X2APIC % "pause")
    # The message sent before the local APIC was on is lost: drive it anew once it is.
    thread = threading.Thread(target=run, args=[vmm])
    thread.start()
    while vmm.host.read(DONE, 1) == b"\0":
        time.sleep(0.001)
    with vmm.lock:
        interrupts.eoi(0x31)
    thread.join()
    assert vmm.host.read(RESULTS, 2) == b"\3\0"
    assert ended[:2] == [0x31, 0x31]


# --- for ever -------------------------------------------------------------------------------


@pytest.mark.parametrize("irqchip", ["none", "kernel", "split"])
def test_a_guest_that_halts_with_interrupts_off_has_halted(make: Made, irqchip: str) -> None:
    vmm = make("i8254", memory=MIB, irqchip=irqchip)
    start(vmm, "cli\n hlt")
    outcome = vmm.run(until=vmm.machine.now + 5 * SECOND)
    assert (outcome.reason, outcome.detail) == (Reason.HALTED, "with interrupts off"), str(outcome)


def test_a_guest_that_halts_and_listens_has_not_halted_for_good(make: Made) -> None:
    vmm = make("i8254", memory=MIB, irqchip="kernel")
    start(vmm, f"{PIC}\n sti\n hlt")
    assert vmm.run(until=vmm.machine.now + 7 * SECOND // 10).reason is Reason.TIME


# --- lines into KVM's controllers ------------------------------------------------------------

LAST_IRR = 0  # struct kvm_pic_state: the inputs' levels


def test_lines_on_one_gsi_are_ored(make: Made) -> None:
    vmm = make(memory=MIB, irqchip="kernel")
    first, second = vmm.kvm.line(4), vmm.kvm.line(4)

    def level() -> int:
        return vmm.kvm.save_chip()["pic0"][LAST_IRR] >> 4 & 1

    assert level() == 0
    for line, value, expected in (
        (first, 1, 1), (second, 1, 1), (first, 0, 1), (first, 0, 1), (second, 0, 0), (first, 1, 1),
    ):  # fmt: skip
        line(value, 0)
        assert level() == expected
    vmm.kvm.irq_line(4, 1)
    first(0, 0)
    assert level() == 1
    vmm.kvm.irq_line(4, 0)
    assert level() == 0


def test_gsi_0_leads_to_the_8259s_input_0_and_to_the_io_apics_2(make: Made) -> None:
    vmm = make(memory=MIB, irqchip="kernel")
    vmm.kvm.line(0)(1, 0)
    chips = vmm.kvm.save_chip()
    assert chips["pic0"][LAST_IRR] == 1
    # struct kvm_ioapic_state: base address, ioregsel, id, irr
    assert int.from_bytes(chips["ioapic"][16:20], "little") == 1 << 2


def test_a_gsi_that_there_is_not_is_an_error(make: Made) -> None:
    with pytest.raises(HostError, match="GSIs 0 to 23, not 24"):
        make(memory=MIB, irqchip="kernel").kvm.line(24)
    with pytest.raises(HostError, match="only irqchip='kernel' has lines into KVM; this machine has 'split'"):
        make(memory=MIB, irqchip="split").kvm.irq_line(4, 1)
