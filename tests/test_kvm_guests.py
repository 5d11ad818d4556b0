"""Guests on KVM: where they begin, what memory and CPUID are to them, and guests that mean no good."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devc.runtime.assemble import assemble
from devc.runtime.hosts import HostError, Reason, kvm
from devc.runtime.hosts.start import RESET, Start

from .kvm_guests import CODE, COUNTS, DONE, MIB, RESULTS, SECOND, Made, run, start, start_two, vmms

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))


@pytest.fixture
def make() -> Iterator[Made]:
    yield from vmms()


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


NUMBERS = """
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    movb %bl, {at}
    movl $0xb, %eax
    xorl %ecx, %ecx
    cpuid
    movb %dl, {at} + 1
    movl $0xb, %eax
    movl $1, %ecx
    cpuid
    movb %bl, {at} + 2
    lock incb {done}
"""


def test_each_vcpu_finds_its_number_and_how_many_there_are(make: Made) -> None:
    vmm = make(memory=MIB, irqchip="kernel", vcpus=2)
    first = (
        NUMBERS.format(at=COUNTS, done=DONE) + f"1: cmpb $2, {DONE}\n jne 1b\n outb %al, $0xf4\n cli\n hlt"
    )
    start_two(vmm, first, NUMBERS.format(at=COUNTS + 4, done=DONE) + "cli\n hlt")
    run(vmm)
    assert vmm.host.read(COUNTS, 7) == bytes([0, 0, 2, 0, 1, 1, 2])


@pytest.mark.parametrize("hidden", [False, True])
def test_cpuid_shows_a_hypervisor_unless_it_is_hidden(make: Made, hidden: bool) -> None:
    vmm = make(memory=MIB, irqchip="kernel", hide_kvm=hidden)
    start(vmm, SIGNATURE, bits=32)
    run(vmm)
    signature, features = vmm.host.read(RESULTS, 4), vmm.host.read(RESULTS + 4, 4)
    assert (signature == b"KVMK") is not hidden
    assert bool(features[3] & 0x80) is not hidden


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


# --- the manual -------------------------------------------------------------------------------------


def test_the_manuals_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    manual = (Path(__file__).parent.parent / "docs" / "kvm.md").read_text()
    _, program, *_ = manual.split("```")
    image = assemble("outb %al, $0xf4\n hlt", MIB, 32)
    exec(compile(program.removeprefix("python"), "kvm.md", "exec"), {"image": image})
    assert capsys.readouterr().out.startswith("stopped at ")
