"""Missed ticks end to end: a guest on KVM, an 8259 that is a device file, and a policy between.

The guest lets 30 ms pass with interrupts off while its timer ticks every ms, takes
what comes for 30 ms, stops the timer, and halts for what is still owed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from devc.runtime.hosts import kvm
from devc.runtime.interrupts import Interrupts

from .kvm_guests import DONE, MIB, PIC, PM_TIMER, RESULTS, SECOND, Made, start, vmms

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))

MS = 3580  # of the PM timer's ticks
GUEST = f"""
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7000, %sp
    movw $tick, 4 * 8
    movw %cs, 4 * 8 + 2
    {PIC}
    mov $0x34, %al              # counter 0: mode 2, every 1193 clocks
    out %al, $0x43
    mov $0xa9, %al
    out %al, $0x40
    mov $0x04, %al
    out %al, $0x40
    mov ${30 * MS}, %ecx
    call wait
    sti
    call wait
    mov $0x30, %al              # a control word stops it
    out %al, $0x43
    movb $1, {DONE}
1:  hlt
    jmp 1b
wait:
    mov ${PM_TIMER}, %dx
    inl %dx, %eax
    mov %eax, %ebx
1:  inl %dx, %eax
    sub %ebx, %eax
    and $0xffffff, %eax
    cmp %ecx, %eax
    jb 1b
    ret
tick:
    push %ax
    incw {RESULTS}
    mov $0x20, %al
    out %al, $0x20
    pop %ax
    iret
"""


@pytest.fixture
def make() -> Iterator[Made]:
    yield from vmms()


@pytest.mark.parametrize(("missed", "owed"), [("catchup", True), ("delay", True), ("merge", False)])
def test_the_guest_counts_every_tick_that_its_policy_owes_it(make: Made, missed: str, owed: bool) -> None:
    vmm = make("i8254", "i8259", "acpi_pm", memory=MIB, irqchip="none")
    vmm.connect_pic()
    Interrupts(vmm.machine).connect("i8254.irq0", 0, missed=missed, minimum=0)
    start(vmm, GUEST)
    ticks = vmm.machine.statistics.ticks["i8254.irq0"]
    end = vmm.machine.now + 10 * SECOND
    while (vmm.host.read(DONE, 1) == b"\0" or ticks.pending) and vmm.machine.now < end:
        vmm.run(until=vmm.machine.now + SECOND // 50)
    vmm.run(until=vmm.machine.now + SECOND // 50)  # the last is delivered, and now taken
    taken = int.from_bytes(vmm.host.read(RESULTS, 2), "little")
    assert ticks.due >= 59
    assert ticks.pending == 0
    assert taken == ticks.delivered == ticks.due - ticks.dropped
    assert ticks.late > 20 if owed else ticks.late >= 1
    assert ticks.dropped == 0 if owed else ticks.dropped > 20
    # each acknowledge told the policy, and was counted in the vCPU's own row
    _, rows = vmm.kvm._inta
    assert [row.heavy_reads for row in rows] == [0, taken]  # type: ignore[union-attr]
