"""Guests on KVM with its interrupt controllers: where they begin, interrupts, several vCPUs."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from devc.runtime.assemble import assemble
from devc.runtime.clock import HostClock
from devc.runtime.hosts import Exit, HostError, Reason, kvm
from devc.runtime.hosts.start import RESET, Start
from devc.runtime.interrupts import Interrupts
from devc.runtime.machine import Engine, Machine
from devc.runtime.vmm import Vmm

from .kvm_guests import AP_CODE, COUNTS, DONE, MIB, PIC, PM_TIMER, RESULTS, SECOND, START_OTHERS, TICKS

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))

CODE = 0x10000

Made = Callable[..., Vmm]


@pytest.fixture
def make() -> Iterator[Made]:
    """Makes VMMs over machines with the devices named; exits by port 0xf4."""
    made: list[Vmm] = []

    def vmm(*devices: str, engine: Engine = "native", **options: object) -> Vmm:
        machine = Machine(HostClock(), engine)
        for device in devices:
            machine.add(device)
        made.append(Vmm(machine, "kvm", **options))  # type: ignore[arg-type]
        made[-1].exit_port()
        return made[-1]

    yield vmm
    for vmm_made in made:
        vmm_made.close()


def start(vmm: Vmm, text: str, bits: int = 16) -> None:
    """Load code at CODE and begin there: real mode with CS 0x1000, or flat 32 bits."""
    vmm.host.load(assemble(text, CODE if bits == 32 else 0, bits), CODE)
    vmm.host.start(Start("flat32" if bits == 32 else "real", CODE))


def run(vmm: Vmm, seconds: float = 5) -> None:
    outcome = vmm.run(until=vmm.machine.now + int(seconds * SECOND))
    assert outcome.reason is Reason.STOPPED, str(outcome)


# --- where guests begin -----------------------------------------------------------


def test_flat_32_bit_code_begins_with_4_gib_segments_and_given_registers(make: Made) -> None:
    vmm = make(memory=2 * MIB)
    text = f"""
        movl %eax, {RESULTS}
        movl %ebx, {RESULTS + 4}
        movl $0x1fff00, %esp
        push $0x12345678
        outb %al, $0xf4
        hlt"""
    vmm.host.load(assemble(text, MIB, 32), MIB)
    vmm.host.start(Start("flat32", MIB, {"rax": 0x2BADB002, "rbx": 0x9500}))
    run(vmm)
    assert vmm.host.read(RESULTS, 8).hex() == "02b0ad2b" + "00950000"
    assert vmm.host.read(0x1FFEFC, 4).hex() == "78563412"


def test_a_reset_begins_in_rom_below_4_gib(make: Made) -> None:
    vmm = make(memory=MIB)
    # At ffff:fff0 of 64 KiB of ROM: a near jump to the ROM's begin, seen through CS's base.
    code = assemble(f"mov $0x5a, %al\n mov %al, {RESULTS}\n mov %cs:0x100, %al\n out %al, $0xf4\n hlt", 0)
    rom = bytearray(b"\x90" * 0x10000)
    rom[: len(code)] = code
    rom[0x100] = 0x77
    rom[0xFFF0:0xFFF3] = b"\xe9" + ((0 - 0xFFF3) & 0xFFFF).to_bytes(2, "little")
    vmm.host.rom((1 << 32) - len(rom), bytes(rom))
    values = vmm.exit_port(0xF5)
    vmm.host.start(RESET)
    run(vmm)
    assert vmm.host.read(RESULTS, 1) == b"\x5a"
    assert vmm.host.registers.rax & 0xFF == 0x77
    assert values == []


def test_a_guest_can_begin_again_after_protected_mode(make: Made) -> None:
    vmm = make(memory=MIB)
    start(vmm, "outb %al, $0xf4\n hlt", bits=32)
    run(vmm)
    start(vmm, f"mov %cs, %ax\n mov %ax, {RESULTS}\n out %al, $0xf4")
    run(vmm)
    assert vmm.host.read(RESULTS, 2).hex() == "0010"


def test_rom_reads_as_loaded_and_writes_are_lost(make: Made) -> None:
    vmm = make(memory=MIB)
    vmm.host.rom(0xE0000000, b"\x11\x22\x33\x44")
    text = f"""
        movl $0xffffffff, 0xe0000000
        movl 0xe0000000, %eax
        movl %eax, {RESULTS}
        movl 0xe0000ffc, %eax
        movl %eax, {RESULTS + 4}
        outb %al, $0xf4
        hlt"""
    start(vmm, text, bits=32)
    run(vmm)
    assert vmm.host.read(RESULTS, 8).hex() == "11223344ffffffff"


def test_memory_that_does_not_fit_below_3_gib_goes_on_above_4(make: Made) -> None:
    vmm = make(memory=(3 << 30) + 16 * MIB)
    assert [(r.address, r.size) for r in vmm.host.ranges] == [(0, 3 << 30), (4 << 30, 16 * MIB)]
    vmm.host.load(b"there", (4 << 30) + 5)
    assert vmm.host.read((4 << 30) + 5, 5) == b"there"
    with pytest.raises(HostError, match="do not fit"):
        vmm.host.load(b"x", 3 << 30)


def test_a_rom_over_memory_is_refused(make: Made) -> None:
    vmm = make(memory=MIB)
    with pytest.raises(HostError, match="overlap"):
        vmm.host.rom(MIB - 0x10000, bytes(0x10000))


# --- CPUID --------------------------------------------------------------------------

SIGNATURE = f"""
    movl $0x40000000, %eax
    cpuid
    movl %ebx, {RESULTS}
    movl $1, %eax
    cpuid
    movl %ecx, {RESULTS + 4}
    movl %ebx, {RESULTS + 8}
    outb %al, $0xf4
    hlt"""


@pytest.mark.parametrize("hidden", [False, True])
def test_cpuid_shows_a_hypervisor_unless_it_is_hidden(make: Made, hidden: bool) -> None:
    vmm = make(memory=MIB, irqchip="kernel", hide_kvm=hidden)
    start(vmm, SIGNATURE, bits=32)
    run(vmm)
    signature, features = vmm.host.read(RESULTS, 4), vmm.host.read(RESULTS + 4, 4)
    assert (signature == b"KVMK") is not hidden
    assert bool(features[3] & 0x80) is not hidden


# --- interrupts -----------------------------------------------------------------------


def test_our_pit_ticks_through_kvms_controllers(make: Made) -> None:
    vmm = make("i8254", memory=MIB, irqchip="kernel")
    vmm.irq("i8254.irq0", 0)
    start(vmm, TICKS.format(ticks=5))
    before = vmm.machine.now
    run(vmm)
    assert vmm.host.read(RESULTS, 2) == b"\x05\x00"
    # The first edge is that of OUT going high with the mode.
    assert 39_000_000 < vmm.machine.now - before < 1_000_000_000


# --- several vCPUs ----------------------------------------------------------------------


def start_two(vmm: Vmm, first: str, second: str) -> None:
    """The first vCPU in flat 32-bit code, which starts the second in real mode (DS = 0)."""
    vmm.host.load(assemble(f"xor %ax, %ax\n mov %ax, %ds\n {second}", 0), AP_CODE)
    start(vmm, START_OTHERS + first, bits=32)


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


# --- guests that mean no good ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_random_code_ends_as_some_exit_and_never_hangs_the_host(make: Made, seed: int) -> None:
    randomness = random.Random(seed)
    vmm = make(
        "i8254", "mc146818", "acpi_pm", memory=MIB, irqchip=randomness.choice(["none", "kernel", "split"])
    )
    # Many ports, string instructions and prefixes, so that it gets somewhere.
    likely = bytes.fromhex("6c6d6e6fe4e5e6e7ecedeeeff366672642434041fbf4")
    code = bytes(
        randomness.choice(likely) if randomness.random() < 0.7 else randomness.randrange(256)
        for _ in range(4096)
    )
    vmm.host.load(code, CODE)
    vmm.host.start(Start("real", CODE, {"rdx": 0x40, "rcx": 0x10, "rsp": 0x7000}))
    before = time.monotonic()
    outcome = vmm.run(until=vmm.machine.now + SECOND // 20)
    assert outcome.reason in Reason
    assert time.monotonic() - before < 5
    vmm.machine.save()
