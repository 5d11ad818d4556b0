"""Our VMM against QEMU, on the same KVM, with the same boot image.

The image is firmware: it begins at the reset vector, reads a timer over and over in
flat 32-bit code, and reports the time-stamp counter's ticks that each round took on
Bochs' debug port. QEMU runs its own models of the timers in user space
(kernel-irqchip=split, as its PIT would be KVM's else).

Non-goals: QEMU's emulation without KVM.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from ..runtime.assemble import assemble
from ..runtime.clock import HostClock
from ..runtime.hosts import HostError, Reason
from ..runtime.hosts.start import RESET
from ..runtime.machine import Machine
from ..runtime.vmm import Vmm
from .guests import PIT, PM_TIMER, WHAT
from .result import Benchmark, Disagreement, Report, Scale, Unavailable, interleave, nanoseconds

QEMU = "qemu-system-x86_64"
ROM_SIZE = 1 << 16
ROM_BASE = (1 << 32) - ROM_SIZE
HPET_COUNTER = 0xFED000F0
ROUNDS, READS, UNROLLED = 8, 1_000, 10
MOST_PAIRS = 15
"""QEMU takes a good part of a second to start."""
TIME_LIMIT = 60

READ = {
    "PIT": f"inb ${PIT}, %al",
    "PM timer": "inl %dx, %eax",
    "HPET": f"movl {HPET_COUNTER:#x}, %eax",
}

# The PIIX4's PM timer goes to 0x608 (its datasheet, 7.1: PMBA at 40h, PMREGMISC at 80h);
# on our machine it is there, and PCI is not.
FIRMWARE = """
        .code16
start:  cli
        lgdtl   %cs:(table - start)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, ${base:#x} + flat - start
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
table:  .word   23
        .long   {base:#x} + gdt - start
        .code32
flat:   movw    $16, %ax
        movw    %ax, %ds
        movw    $0xcf8, %dx
        movl    $0x80000b40, %eax
        outl    %eax, %dx
        movw    $0xcfc, %dx
        movl    $0x601, %eax
        outl    %eax, %dx
        movw    $0xcf8, %dx
        movl    $0x80000b80, %eax
        outl    %eax, %dx
        movw    $0xcfc, %dx
        movb    $1, %al
        outb    %al, %dx
        movl    $1, 0xfed00010
        movb    $0x34, %al
        outb    %al, $0x43
        xorl    %eax, %eax
        outb    %al, $0x40
        outb    %al, $0x40
        movl    ${rounds}, %ebp
1:      rdtsc
        movl    %eax, %esi
        movw    ${port}, %dx
        movl    ${turns}, %ecx
2:
        .rept   {unrolled}
        {read}
        .endr
        decl    %ecx
        jnz     2b
        rdtsc
        subl    %esi, %eax
        movl    $4, %ecx
3:      outb    %al, $0xe9
        shrl    $8, %eax
        decl    %ecx
        jnz     3b
        decl    %ebp
        jnz     1b
        outb    %al, $0xf4
        cli
4:      hlt
        jmp     4b
"""


def firmware(timer: str, reads: int) -> bytes:
    """64 KiB that end with the reset vector."""
    text = FIRMWARE.format(
        base=ROM_BASE,
        rounds=ROUNDS,
        turns=max(1, reads // UNROLLED),
        unrolled=UNROLLED,
        port=PM_TIMER,
        read=READ[timer],
    )
    image = bytearray(b"\xff" * ROM_SIZE)
    code = assemble(text, 0)
    image[: len(code)] = code
    image[-16:-13] = b"\xe9" + (-(ROM_SIZE - 13) & 0xFFFF).to_bytes(2, "little")
    return bytes(image)


def ticks_a_read(output: bytes, reads: int) -> float:
    """The median round of what a guest reported."""
    if len(output) != 4 * ROUNDS:
        raise Disagreement(f"the guest reported {len(output)} bytes, not {4 * ROUNDS}: {output[:40]!r}")
    rounds = [int.from_bytes(output[at : at + 4], "little") for at in range(0, len(output), 4)]
    return median(rounds) / (max(1, reads // UNROLLED) * UNROLLED)


class Ours:
    """The image on our VMM, with QEMU's arrangement of interrupt controllers."""

    def __init__(self, image: bytes, reads: int) -> None:
        self.reads = reads
        self.output = bytearray()
        machine = Machine(HostClock())
        for device in ("i8254", "acpi_pm", "hpet"):
            machine.add(device)
        try:
            self.vmm = Vmm(machine, "kvm", 1 << 20, irqchip="split")
        except HostError as error:
            raise Unavailable(str(error)) from None
        self.vmm.host.rom(ROM_BASE, image)
        self.vmm.console(self.output.extend)
        self.vmm.exit_port()

    def sample(self) -> float:
        """TSC ticks a read."""
        self.output.clear()
        self.vmm.host.start(RESET)
        ended = self.vmm.run(until=self.vmm.machine.now + TIME_LIMIT * 10**9)
        if ended.reason is not Reason.STOPPED:
            raise Disagreement(f"the image should have left by its port: {ended}")
        return ticks_a_read(bytes(self.output), self.reads)


class Qemu:
    """The image on QEMU, a process a sample."""

    def __init__(self, image: Path, reads: int, irqchip: str) -> None:
        program = shutil.which(QEMU)
        if program is None:
            raise Unavailable(f"there is no {QEMU}; install it (Debian: qemu-system-x86)")
        self.reads = reads
        self.command = [
            *(program, "-nodefaults", "-display", "none", "-no-reboot", "-m", "16"),
            *("-machine", f"pc,accel=kvm,kernel-irqchip={irqchip},hpet=on", "-bios", str(image)),
            *("-device", "isa-debugcon,iobase=0xe9,chardev=out", "-chardev", "stdio,id=out,signal=off"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ]

    def sample(self) -> float:
        """TSC ticks a read."""
        try:
            done = subprocess.run(
                self.command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            raise Disagreement(f"{QEMU} did not end within {TIME_LIMIT} s") from None
        if not done.stdout:
            raise Unavailable(f"{QEMU} does not run the image: {done.stderr.decode(errors='replace')[:200]}")
        return ticks_a_read(done.stdout, self.reads)


def against_qemu(timer: str) -> Callable[[Benchmark, Scale], Report]:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        reads = scale.of(READS)
        image = firmware(timer, reads)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "firmware.bin"
            path.write_bytes(image)
            qemu, in_kernel = (Qemu(path, reads, irqchip) for irqchip in ("split", "on"))
            ours = Ours(image, reads)
            try:
                pairs = interleave(ours.sample, qemu.sample, min(scale.pairs, MOST_PAIRS))
                other = in_kernel.sample()
                tick = _tick(ours.sample)
            finally:
                ours.vmm.close()
        return Report(
            benchmark.judge(pairs.ratios()),
            nanoseconds(tick * min(pairs.ours)),
            nanoseconds(tick * min(pairs.theirs)),
            f"QEMU with KVM's chips {nanoseconds(tick * other)}",
        )

    return run


def _tick(sample: Callable[[], float]) -> float:
    """ns of a tick, nearly: a sample is little else than its rounds."""
    start = time.perf_counter_ns()
    ticks = sample()
    return (time.perf_counter_ns() - start) / (ticks * ROUNDS * READS)


BENCHMARKS = tuple(
    Benchmark(
        f"our VMM/QEMU: {timer}",
        1.0,
        "at most",
        f"{WHAT}: our VMM / QEMU's own models, both on KVM",
        against_qemu(timer),
    )
    for timer in READ
)
