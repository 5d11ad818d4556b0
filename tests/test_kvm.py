"""The KVM host: the kernel's layouts, its exits, and what it leaves behind in the process."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from devc.compiler.ir import NEVER
from devc.runtime.assemble import assemble
from devc.runtime.dispatch import Dispatcher
from devc.runtime.hosts import HostError, Reason, kvm, kvm_abi

from .stub_device import DELAY, STUB_PORT, Board

CODE = 0x1000
SECOND = 10**9

needs_kvm = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))


def booted(board: Board, text: str) -> kvm.KvmHost:
    host = kvm.KvmHost(board.dispatcher)
    board.host = host
    host.load(assemble(text, CODE), CODE)
    host.boot(CODE)
    return host


# --- layouts ------------------------------------------------------------------

OFFSETS = [
    ("struct kvm_run", kvm_abi.RunHead, "request_interrupt_window", "request_interrupt_window"),
    ("struct kvm_run", kvm_abi.RunHead, "immediate_exit", "immediate_exit"),
    ("struct kvm_run", kvm_abi.RunHead, "exit_reason", "exit_reason"),
    ("struct kvm_run", kvm_abi.RunHead, "ready_for_interrupt_injection", "ready_for_interrupt_injection"),
    ("struct kvm_run", kvm_abi.RunHead, "if_flag", "if_flag"),
    ("struct kvm_run", kvm_abi.RunHead, "io.direction", "io_direction"),
    ("struct kvm_run", kvm_abi.RunHead, "io.size", "io_size"),
    ("struct kvm_run", kvm_abi.RunHead, "io.port", "io_port"),
    ("struct kvm_run", kvm_abi.RunHead, "io.count", "io_count"),
    ("struct kvm_run", kvm_abi.RunHead, "io.data_offset", "io_data_offset"),
    ("struct kvm_run", kvm_abi.RunMmio, "mmio.phys_addr", "phys_addr"),
    ("struct kvm_run", kvm_abi.RunMmio, "mmio.data", "data"),
    ("struct kvm_run", kvm_abi.RunMmio, "mmio.len", "len"),
    ("struct kvm_run", kvm_abi.RunMmio, "mmio.is_write", "is_write"),
    ("struct kvm_run", kvm_abi.RunDetail, "internal.suberror", "code"),
    ("struct kvm_run", kvm_abi.RunDetail, "internal.ndata", "ndata"),
    ("struct kvm_run", kvm_abi.RunDetail, "internal.data", "data"),
    ("struct kvm_sregs", kvm_abi.Sregs, "ss", "ss"),
    ("struct kvm_sregs", kvm_abi.Sregs, "cr0", "cr0"),
    ("struct kvm_sregs", kvm_abi.Sregs, "efer", "efer"),
    ("struct kvm_regs", kvm_abi.Regs, "rflags", "rflags"),
    ("struct kvm_cpuid2", kvm_abi.Cpuid, "entries", "entries"),
    ("struct kvm_cpuid_entry2", kvm_abi.CpuidEntry, "edx", "edx"),
    ("struct kvm_enable_cap", kvm_abi.EnableCap, "args", "args"),
    ("struct kvm_msi", kvm_abi.Msi, "data", "data"),
    ("struct kvm_irq_routing", kvm_abi.Routing, "entries", "entries"),
    ("struct kvm_irq_routing_entry", kvm_abi.RoutingEntry, "u", "where"),
    ("struct kvm_coalesced_mmio_zone", kvm_abi.CoalescedZone, "pio", "pio"),
    ("struct kvm_coalesced_mmio", kvm_abi.CoalescedWrite, "data", "data"),
    ("struct kvm_coalesced_mmio_ring", kvm_abi.CoalescedRing, "coalesced_mmio", "writes"),
    ("struct kvm_msrs", kvm_abi.Msrs, "entries", "entries"),
    ("struct kvm_msr_list", kvm_abi.MsrList, "indices", "indices"),
    ("struct kvm_irqchip", kvm_abi.Irqchip, "chip", "chip"),
    ("struct kvm_clock_data", kvm_abi.ClockData, "flags", "flags"),
]
REQUESTS = [
    "GET_API_VERSION",
    "CREATE_VM",
    "GET_VCPU_MMAP_SIZE",
    "CREATE_VCPU",
    "SET_USER_MEMORY_REGION",
    "SET_TSS_ADDR",
    "SET_IDENTITY_MAP_ADDR",
    "RUN",
    "GET_REGS",
    "SET_REGS",
    "GET_SREGS",
    "SET_SREGS",
    "INTERRUPT",
    "CHECK_EXTENSION",
    "GET_SUPPORTED_CPUID",
    "SET_CPUID2",
    "CREATE_IRQCHIP",
    "IRQ_LINE",
    "SET_GSI_ROUTING",
    "SIGNAL_MSI",
    "ENABLE_CAP",
    "REGISTER_COALESCED_MMIO",
    "UNREGISTER_COALESCED_MMIO",
    "GET_MSR_INDEX_LIST",
    "GET_MSRS",
    "SET_MSRS",
    "GET_LAPIC",
    "SET_LAPIC",
    "GET_MP_STATE",
    "SET_MP_STATE",
    "GET_VCPU_EVENTS",
    "SET_VCPU_EVENTS",
    "GET_DEBUGREGS",
    "SET_DEBUGREGS",
    "GET_XSAVE",
    "SET_XSAVE",
    "GET_XCRS",
    "SET_XCRS",
    "GET_XSAVE2",
    "GET_IRQCHIP",
    "SET_IRQCHIP",
    "GET_CLOCK",
    "SET_CLOCK",
]
SIZES = [
    ("struct kvm_regs", kvm_abi.Regs),
    ("struct kvm_sregs", kvm_abi.Sregs),
    ("struct kvm_userspace_memory_region", kvm_abi.MemoryRegion),
    ("struct kvm_cpuid_entry2", kvm_abi.CpuidEntry),
    ("struct kvm_irq_routing_entry", kvm_abi.RoutingEntry),
    ("struct kvm_coalesced_mmio", kvm_abi.CoalescedWrite),
    ("struct kvm_msr_entry", kvm_abi.MsrEntry),
]


@pytest.fixture(scope="module")
def kernel_says(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Offsets, request numbers, sizes and exit numbers as the kernel's header has them."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    if not Path("/usr/include/linux/kvm.h").exists() or os.uname().machine != "x86_64":
        pytest.skip("this system has no linux/kvm.h for x86-64")
    wanted = [f"offsetof({c}, {member})" for c, _, member, _ in OFFSETS]
    wanted += [f"KVM_{name}" for name in REQUESTS]
    wanted += [f"sizeof({c})" for c, _ in SIZES]
    wanted += [f"KVM_EXIT_{item.name}" for item in kvm_abi.KernelExit]
    wanted += [f"KVM_CAP_{item.name}" for item in kvm_abi.Capability]
    wanted += [f"KVM_MP_STATE_{item.name}" for item in kvm_abi.MpState]
    lines = "".join(f'printf("%lu\\n", (unsigned long)({w}));\n' for w in wanted)
    folder = tmp_path_factory.mktemp("kvm_h")
    source = folder / "print.c"
    source.write_text(
        f"#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {{\n{lines}}}\n"
    )
    subprocess.run(["gcc", "-o", folder / "print", source], check=True)
    return [int(word) for word in subprocess.check_output([folder / "print"]).split()]


def test_layouts_and_numbers_are_the_kernels(kernel_says: list[int]) -> None:
    ours = [getattr(structure, name).offset for _, structure, _, name in OFFSETS]
    ours += [getattr(kvm_abi, name) for name in REQUESTS]
    ours += [ctypes.sizeof(structure) for _, structure in SIZES]
    ours += [int(item) for item in kvm_abi.KernelExit]
    ours += [int(item) for item in kvm_abi.Capability]
    ours += [int(item) for item in kvm_abi.MpState]
    assert ours == kernel_says


# --- exits --------------------------------------------------------------------


@needs_kvm
def test_a_triple_fault_is_a_shutdown() -> None:
    # Protected mode without a descriptor to its name: the fault's fault faults.
    text = """
        lidt empty
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ud2
        hlt
    empty: .word 0
        .long 0"""
    board = Board()
    with booted(board, text) as host:
        outcome = host.run(until=board.dispatcher.now() + SECOND)
    assert outcome.reason is Reason.SHUTDOWN, str(outcome)


@needs_kvm
def test_code_that_cannot_be_fetched_is_an_internal_error() -> None:
    board = Board()
    with booted(board, "ljmp $0xb000, $0") as host:
        outcome = host.run(until=board.dispatcher.now() + SECOND)
    assert outcome.reason is Reason.INTERNAL_ERROR, str(outcome)
    assert outcome.detail


@needs_kvm
def test_every_light_exit_is_one_run_and_no_more() -> None:
    board = Board()
    with booted(board, "mov $100, %cx\n 1: in $0x40, %al\n loop 1b\n out %al, $0xf4\n hlt") as host:
        host.run(until=board.dispatcher.now() + SECOND)
        # The exit's instruction is completed by one more run.
        assert host.runs == 102


@needs_kvm
def test_a_timer_that_is_not_moved_is_armed_once() -> None:
    board = Board()
    board.io.state.deadline = NEVER - 1
    with booted(board, "1: in $0x40, %al\n jmp 1b") as host:
        host.run(until=host.dispatcher.now() + 5_000_000)
        assert host.cpus[0].block.interrupted <= 3


@needs_kvm
def test_a_deadline_next_to_now_takes_no_signal() -> None:
    board = Board()
    text = (
        f"mov $100, %cx\n mov ${STUB_PORT + DELAY}, %dx\n 1: mov $1500, %eax\n out %eax, %dx\n loop 1b\n hlt"
    )
    with booted(board, text) as host:
        host.run(until=board.dispatcher.now() + SECOND)
        assert board.io.state.settles == 100
        assert host.cpus[0].block.interrupted < 50


@needs_kvm
def test_injected_interrupts_are_counted() -> None:
    board = Board()
    with booted(board, "sti\n 1: hlt\n jmp 1b") as host:
        host.load(assemble("iret", 0x2000), 0x2000)
        host.load(b"\x00\x20\x00\x00" * 3, 4 * 0x30)
        for vector in (0x30, 0x31, 0x32):
            host.inject(vector)
        assert host.run().reason is Reason.HALTED
        assert host.injected == 3


@needs_kvm
def test_times_add_up_to_the_runs_and_cost_nothing_unless_asked_for() -> None:
    board = Board()
    with booted(board, "sti\n 1: in $0x40, %al\n in $0xe0, %al\n jmp 1b") as host:
        host.run(until=board.dispatcher.now() + 5_000_000)
        (before,) = host.times()
        assert before.runs > 0
        assert before.guest_ns == before.host_ns == 0
        host.timed = True
        start = time.monotonic_ns()
        host.run(until=board.dispatcher.now() + 50_000_000)
        took = time.monotonic_ns() - start
        (after,) = host.times()
        assert 40_000_000 < after.guest_ns + after.host_ns <= took
        assert after.guest_ns > 0
        assert after.host_ns > 0


@needs_kvm
def test_time_asleep_is_the_hosts() -> None:
    board = Board()
    board.io.state.period = 5_000_000
    board.io.state.deadline = board.dispatcher.now() + 5_000_000
    with booted(board, "sti\n 1: hlt\n jmp 1b") as host:
        host.timed = True
        host.run(until=board.dispatcher.now() + 20_000_000)
        (times,) = host.times()
        assert times.asleep_ns > 10_000_000


# --- manners ------------------------------------------------------------------


@needs_kvm
def test_closing_gives_back_files_and_the_signal_mask() -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before, mask = files(), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for _ in range(3):
        with booted(Board(), "1: jmp 1b") as host:
            host.run(until=host.dispatcher.now() + 300_000)
    assert files() == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


@needs_kvm
def test_run_leaves_all_signals_but_its_own_deliverable() -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with booted(Board(), "cli\n hlt") as host:
        host.run()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, []) - mask
        assert len(blocked) == 1
        assert min(blocked) > signal.SIGRTMIN


@needs_kvm
def test_a_signal_that_the_caller_blocked_does_not_end_run() -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: pytest.fail("delivered"))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with booted(Board(), "1: jmp 1b") as host:
            # To this thread: one for the process may go to another test's thread that is left.
            here = threading.get_ident()
            threading.Timer(0.005, lambda: signal.pthread_kill(here, signal.SIGUSR1)).start()
            assert host.run(until=host.dispatcher.now() + 20_000_000).reason is Reason.TIME
        assert signal.sigtimedwait([signal.SIGUSR1], 1) is not None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGUSR1, previous)


@needs_kvm
def test_a_signal_blocked_between_two_runs_does_not_keep_the_guest_from_running() -> None:
    board = Board()

    def reads() -> int:
        return board.dispatcher.stats(board.io.handle)[0].light_reads

    with booted(board, "1: in $0x40, %al\n jmp 1b") as host:
        host.run(until=host.dispatcher.now() + 1_000_000)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        try:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            before = reads()
            host.run(until=host.dispatcher.now() + 20_000_000)
            assert reads() > before + 50
        finally:
            assert signal.sigtimedwait([signal.SIGUSR1], 1) is not None
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


@needs_kvm
def test_a_stop_before_run_is_not_forgotten() -> None:
    with booted(Board(), "1: jmp 1b") as host:
        host.stop()
        assert host.run(until=host.dispatcher.now() + SECOND).reason is Reason.STOPPED


def test_without_kvm_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.os.path, "exists", lambda path: False)
    reason = kvm.available.__wrapped__()
    assert reason is not None
    assert "/dev/kvm" in reason or "Linux" in reason


@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="there is no /dev/kvm")
def test_a_kvm_that_cannot_be_opened_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refused(path: str, flags: int, *more: object, **named: object) -> int:
        if path == "/dev/kvm":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(kvm.os, "open", refused)
    with pytest.raises(HostError, match="cannot be opened: Permission denied"):
        kvm.KvmHost(Dispatcher())
