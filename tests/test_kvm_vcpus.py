"""Several vCPUs on KVM: running, ending, pausing and stopping them together."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from devc.runtime.assemble import assemble
from devc.runtime.hosts import Exit, HostError, Reason, kvm
from devc.runtime.vmm import Vmm

from .kvm_guests import (
    AP_CODE,
    COUNTS,
    DONE,
    MIB,
    PM_TIMER,
    SECOND,
    START_OTHERS,
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


def test_two_vcpus_read_the_pm_timer_each(make: Made) -> None:
    vmm = make("acpi_pm", memory=MIB, vcpus=2, irqchip="kernel")
    reads = f"""
    mov ${PM_TIMER}, %dx
    mov $500, %ecx
1:  in %dx, %eax
    cmp %ebx, %eax
    jb 2f
    mov %eax, %ebx
    dec %ecx
    jnz 1b
2:  mov %ecx, """
    first = (
        "xor %ebx, %ebx\n" + reads + f"{COUNTS}\n 3: cmpb $0, {DONE}\n je 3b\n outb %al, $0xf4\n cli\n hlt"
    )
    second = "xor %ebx, %ebx\n" + reads + f"{COUNTS + 4}\n incb {DONE}\n cli\n hlt"
    start_two(vmm, first, second)
    run(vmm)
    assert vmm.host.read(COUNTS, 8) == bytes(8), "the timer went back"
    (count,) = [c for c in vmm.counts() if c.access == "read"]
    assert (count.light, count.heavy) == (1000, 0)


def test_python_serves_one_vcpu_at_a_time(make: Made) -> None:
    vmm = make(memory=MIB, vcpus=2, irqchip="kernel")
    inside = 0
    total = 0

    def serve(offset: int, width: int) -> int:
        nonlocal inside, total
        inside += 1
        assert inside == 1
        time.sleep(0.0002)
        inside -= 1
        total += 1
        return 0

    with vmm.lock:
        vmm.claim("slow", 0x300, 1, read=serve)
    reads = "mov $0x300, %dx\n mov $40, %ecx\n 1: in %dx, %al\n dec %ecx\n jnz 1b\n"
    first = reads + f"3: cmpb $0, {DONE}\n je 3b\n outb %al, $0xf4\n cli\n hlt"
    start_two(vmm, first, reads + f"incb {DONE}\n cli\n hlt")
    run(vmm)
    assert total == 80


def test_what_ends_one_vcpu_ends_the_run_and_says_whose(make: Made) -> None:
    vmm = make(memory=MIB, vcpus=2, irqchip="kernel")
    # Protected mode without a descriptor to its name; some KVMs do not even try to fault.
    second = "lidt %cs:empty\n mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n ud2\n empty: .word 0\n .long 0"
    start_two(vmm, "1: jmp 1b", second)
    outcome = vmm.run(until=vmm.machine.now + 5 * SECOND)
    assert outcome.reason in (Reason.SHUTDOWN, Reason.INTERNAL_ERROR), str(outcome)
    assert outcome.vcpu == 1
    assert "vCPU 1" in str(outcome)


def test_what_serving_another_vcpu_raises_comes_out_of_run(make: Made) -> None:
    vmm = make(memory=MIB, vcpus=2, irqchip="kernel")

    def broken(offset: int, width: int) -> int:
        raise ZeroDivisionError

    vmm.claim("broken", 0x300, 1, read=broken)
    start_two(vmm, "1: jmp 1b", "mov $0x300, %dx\n in %dx, %al\n incb 0x9000\n 1: jmp 1b")
    with pytest.raises(ZeroDivisionError):
        vmm.run(until=vmm.machine.now + 5 * SECOND)
    assert vmm.host.read(DONE, 1) == b"\0"
    assert vmm.run(until=vmm.machine.now + SECOND // 20).reason is Reason.TIME
    assert vmm.host.read(DONE, 1) == b"\1"


# Each vCPU counts in memory as fast as it can.
SPIN = "1: incl %s\n jmp 1b"


def spinning(make: Made) -> Vmm:
    vmm = make("i8254", memory=MIB, vcpus=2, irqchip="kernel")
    start_two(vmm, f"incb {DONE}\n" + SPIN % COUNTS, f"incb {DONE + 1}\n" + SPIN % (COUNTS + 4))
    return vmm


def started(vmm: Vmm) -> bool:
    return vmm.host.read(DONE, 2) == b"\1\1"


def in_thread(vmm: Vmm) -> tuple[threading.Thread, list[Exit]]:
    """`run` in a thread of its own."""
    ended: list[Exit] = []
    thread = threading.Thread(target=lambda: ended.append(vmm.run(until=vmm.machine.now + 20 * SECOND)))
    thread.start()
    while not started(vmm):
        time.sleep(0.001)
    return thread, ended


def test_while_paused_no_vcpu_moves_and_afterwards_all_do(make: Made) -> None:
    vmm = spinning(make)
    thread, ended = in_thread(vmm)
    try:
        for _ in range(20):
            with vmm.paused():
                before = vmm.host.read(COUNTS, 8)
                at = [vmm.host.registers_of(n).rip for n in range(2)]
                time.sleep(0.002)
                assert vmm.host.read(COUNTS, 8) == before
                assert [vmm.host.registers_of(n).rip for n in range(2)] == at
            deadline = time.monotonic() + 5
            while any(vmm.host.read(COUNTS + at, 4) == before[at : at + 4] for at in (0, 4)):
                assert time.monotonic() < deadline, "a vCPU did not go on"
    finally:
        vmm.stop()
        thread.join()
    assert ended[0].reason is Reason.STOPPED


def test_a_stop_from_another_thread_ends_all_vcpus_and_run_goes_on_later(make: Made) -> None:
    vmm = spinning(make)
    thread, ended = in_thread(vmm)
    vmm.stop()
    thread.join(5)
    assert ended[0].reason is Reason.STOPPED
    before = vmm.host.read(COUNTS, 8)
    time.sleep(0.002)
    assert vmm.host.read(COUNTS, 8) == before
    assert vmm.run(until=vmm.machine.now + SECOND // 20).reason is Reason.TIME
    after = vmm.host.read(COUNTS, 8)
    assert after[:4] != before[:4]
    assert after[4:] != before[4:]


def test_a_guest_paused_before_run_waits_for_resume(make: Made) -> None:
    vmm = spinning(make)
    vmm.host.pause()
    timer = threading.Timer(0.05, vmm.host.resume)
    before = time.monotonic()
    timer.start()
    assert vmm.run(until=vmm.machine.now + SECOND // 10).reason is Reason.TIME
    assert time.monotonic() - before > 0.045
    timer.join()


def test_a_vcpus_own_thread_cannot_pause(make: Made) -> None:
    vmm = make(memory=MIB, irqchip="kernel")

    def pause(offset: int, width: int) -> int:
        vmm.host.pause()
        return 0

    vmm.claim("pause", 0x300, 1, read=pause)
    start(vmm, "mov $0x300, %dx\n in %dx, %al\n hlt")
    with pytest.raises(HostError, match="own thread cannot pause"):
        vmm.run(until=vmm.machine.now + SECOND)


def test_ctrl_c_stops_all_vcpus_and_run_goes_on_later(make: Made) -> None:
    vmm = spinning(make)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        vmm.run(until=vmm.machine.now + 20 * SECOND)
    timer.join()
    assert started(vmm)
    before = vmm.host.read(COUNTS, 8)
    time.sleep(0.002)
    assert vmm.host.read(COUNTS, 8) == before
    assert vmm.run(until=vmm.machine.now + SECOND // 20).reason is Reason.TIME
    assert vmm.host.read(COUNTS, 8) != before


def test_several_vcpus_need_local_apics(make: Made) -> None:
    with pytest.raises(HostError, match="need local APICs"):
        make(memory=MIB, vcpus=2)


def test_a_start_after_a_run_finds_processors_and_controllers_reset(make: Made) -> None:
    vmm = make("acpi_pm", memory=MIB, vcpus=2, irqchip="kernel")
    for _ in range(3):
        vmm.host.load(bytes(32), DONE)
        # The second vCPU must wait for its start-up message each time; the 8259's mask is open again.
        first = f"""
            inb $0x21, %al
            movb %al, {COUNTS}
            movl 0xfee000f0, %eax
            movl %eax, {COUNTS + 4}
            movl $7, 0xfee000f0
            movb $0x5a, %al
            outb %al, $0x21
            movl $0x1ff, 0xfee000f0
        3:  cmpb $0, {DONE}
            je 3b
            outb %al, $0xf4
            cli
            hlt"""
        text = f"movb {DONE}, %al\n movb %al, {COUNTS + 8}\n" + first.replace("3:", START_OTHERS + "3:")
        vmm.host.load(assemble(f"xor %ax, %ax\n mov %ax, %ds\n incb {DONE}\n 1: jmp 1b", 0), AP_CODE)
        start(vmm, text, bits=32)
        run(vmm)
        assert vmm.host.read(COUNTS, 9) == bytes([0, 0, 0, 0, 0xFF, 0, 0, 0, 0])


def test_registers_and_pending_interrupts_of_the_last_run_are_gone(make: Made) -> None:
    vmm = make(memory=MIB, irqchip="none")
    start(vmm, "mov $0x55, %bl\n mov %bx, %es\n sti\n 1: jmp 1b", bits=16)
    vmm.run(until=vmm.machine.now + SECOND // 50)
    vmm.kvm.inject(0x30)
    start(vmm, "sti\n nop\n nop\n out %al, $0xf4")
    run(vmm)
    registers = vmm.host.registers
    assert (registers.rbx, registers.es) == (0, 0)
    assert vmm.kvm.injected == 0


def test_more_vcpus_than_processors_all_count_and_all_stop(make: Made) -> None:
    count = 8
    vmm = make("acpi_pm", memory=MIB, vcpus=count, irqchip="kernel")
    second = f"lock incl {COUNTS}\n mov ${PM_TIMER}, %dx\n 1: in %dx, %eax\n jmp 1b"
    start_two(vmm, f"3: cmpl ${count - 1}, {COUNTS}\n jne 3b\n outb %al, $0xf4\n 4: jmp 4b", second)
    run(vmm, 20)
    with pytest.raises(HostError, match="no vCPU 8; they are 0 to 7"):
        vmm.kvm.registers_of(count)
    assert vmm.kvm.registers_of(count - 1).cs == AP_CODE >> 4
