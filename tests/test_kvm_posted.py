"""Writes that a guest on KVM does not stop for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from devc.runtime.clock import HostClock
from devc.runtime.hosts import HostError, kvm
from devc.runtime.machine import Machine
from devc.runtime.vmm import RegisterCount, Vmm

from .kvm_guests import (
    COUNTS,
    DONE,
    MIB,
    RESULTS,
    SECOND,
    Made,
    run,
    start,
    start_two,
    vmms,
)

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))


@pytest.fixture
def make() -> Iterator[Made]:
    yield from vmms()


# --- posted writes ------------------------------------------------------------------------

# An RTC register, again and again: the index, which may wait, and the data.
RTC_READS = f"""
    xor %ax, %ax
    mov %ax, %ds
    mov $100, %cx
1:  mov $0x0d, %al
    out %al, $0x70
    mov $0x0a, %al
    out %al, $0x70
    in $0x71, %al
    mov %al, {RESULTS}
    mov $0x0d, %al
    out %al, $0x70
    in $0x71, %al
    mov %al, {RESULTS + 1}
    loop 1b
    out %al, $0xf4
"""


def test_posted_index_writes_take_no_exit_and_come_before_what_follows(make: Made) -> None:
    vmm = make("mc146818", memory=MIB)
    start(vmm, RTC_READS)
    run(vmm)
    assert vmm.host.read(RESULTS, 2).hex() == "2680"
    index = next(c for c in vmm.counts() if c.access == "write" and c.device == "mc146818")
    assert (index.posted, index.light, index.heavy) == (300, 0, 0)
    assert vmm.host.runs < 220


def test_a_write_that_may_change_a_wired_line_is_not_posted(make: Made) -> None:
    vmm = make("mc146818", memory=MIB)
    lines = vmm.machine.devices["mc146818"].lines
    for line in lines:
        vmm.machine.wire(line.path, lambda level, now: None)
    start(vmm, RTC_READS)
    run(vmm)
    assert vmm.host.read(RESULTS, 2).hex() == "2680"
    index = next(c for c in vmm.counts() if c.access == "write" and c.device == "mc146818")
    assert (index.posted, index.light, index.heavy) == (0, 300, 0)


def test_a_stop_serves_the_writes_that_wait(make: Made) -> None:
    vmm = make("mc146818", memory=MIB)
    start(vmm, "mov $0x0b, %al\n out %al, $0x70\n 1: jmp 1b")
    vmm.run(until=vmm.machine.now + SECOND // 50)
    assert vmm.machine.devices["mc146818"].instance.get("index.sel") == 0x0B


def test_more_posted_writes_than_the_ring_holds_are_all_served(make: Made) -> None:
    vmm = make("mc146818", memory=MIB)
    start(vmm, "mov $1000, %cx\n 1: mov %cl, %al\n out %al, $0x70\n loop 1b\n in $0x70, %al\n out %al, $0xf4")
    run(vmm)
    index = next(c for c in vmm.counts() if c.access == "write" and c.device == "mc146818")
    assert index.posted + index.light + index.heavy == 1000
    assert index.posted > 900
    assert vmm.machine.devices["mc146818"].instance.get("index.sel") == 1


def test_posted_writes_of_two_vcpus_come_before_each_ones_own_reads(make: Made) -> None:
    vmm = make("mc146818", memory=MIB, vcpus=2, irqchip="kernel")
    # Each vCPU has an index of its own: it looks at two cells in turn, and counts surprises.
    reads = """
        mov $300, %ecx
    1:  mov $0x40, %al
        out %al, ${index}
        in ${data}, %al
        cmp $0x11, %al
        je 2f
        incl {errors}
    2:  mov $0x7f, %al
        out %al, ${index}
        mov $0x41, %al
        out %al, ${index}
        in ${data}, %al
        cmp $0x22, %al
        je 3f
        incl {errors}
    3:  dec %ecx
        jnz 1b
        """
    for index in (0x70, 0x72):
        for cell, value in ((0x40, 0x11), (0x41, 0x22), (0x7F, 0x33)):
            vmm.machine.write("io", index, 1, cell)
            vmm.machine.write("io", index + 1, 1, value)
    first = reads.format(index=0x70, data=0x71, errors=COUNTS)
    second = reads.format(index=0x72, data=0x73, errors=COUNTS + 4)
    start_two(
        vmm,
        first + f"4: cmpb $0, {DONE}\n je 4b\n outb %al, $0xf4\n cli\n hlt",
        second + f"incb {DONE}\n cli\n hlt",
    )
    run(vmm)
    assert vmm.host.read(COUNTS, 8) == bytes(8)
    assert sum(count.posted for count in vmm.counts()) == 2 * 300 * 3


def test_a_line_wired_while_the_guest_runs_ends_the_posting_of_what_may_change_it(make: Made) -> None:
    vmm = make("mc146818", memory=MIB)
    start(vmm, f"xor %ax, %ax\n mov %ax, %ds\n incb {DONE}\n 1: mov $0x8d, %al\n out %al, $0x70\n jmp 1b")
    thread = threading.Thread(target=lambda: vmm.run(until=vmm.machine.now + 20 * SECOND))
    thread.start()
    while vmm.host.read(DONE, 1) == b"\0":
        time.sleep(0.001)

    def index() -> RegisterCount:
        return next(c for c in vmm.counts() if c.access == "write" and c.device == "mc146818")

    for line in vmm.machine.devices["mc146818"].lines:
        vmm.machine.wire(line.path, lambda level, now: None)
    with vmm.paused():
        before = index()
    time.sleep(0.05)
    with vmm.paused():
        after = index()
    vmm.stop()
    thread.join()
    assert before.posted
    assert after.posted == before.posted
    assert after.light > before.light


def test_a_vmm_that_cannot_be_made_leaves_the_machine_as_it_was() -> None:
    machine = Machine(HostClock())
    machine.add("i8254")
    with pytest.raises(HostError):
        Vmm(machine, "kvm", vcpus=2)
    assert machine.moved == []
    assert machine.wired == []
    machine.write("io", 0x43, 1, 0x34)
