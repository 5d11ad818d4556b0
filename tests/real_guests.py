"""What the tests of real guests share: where the guests are, and runs of `devc run` and of QEMU."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devc.runtime.assemble import assemble

LONG = bool(int(os.environ.get("DEVC_LONG", "0")))
SEABIOS = Path("/usr/share/seabios/bios.bin")
GRUB = Path("/usr/lib/grub/i386-pc")
UNIT_TESTS = Path(os.environ.get("DEVC_KVM_UNIT_TESTS", ""))
"""A built kvm-unit-tests' folder x86, with its .flat files."""
QEMU = shutil.which("qemu-system-x86_64")

SECTOR = """
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    $text, %si
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, $0xe9
        jmp     1b
2:      outb    %al, $0xf4
        hlt
text:   .asciz  "the sector is running\\n"
        .org    510
        .word   0xaa55
"""
SECTOR_SAYS = "the sector is running"


def disk_with_sector(folder: Path) -> Path:
    """A disk of 1 MiB whose first sector says that it runs, and ends the run."""
    path = folder / "disk.img"
    path.write_bytes(assemble(SECTOR, 0x7C00).ljust(1 << 20, b"\0"))
    return path


def disk_with_grub(folder: Path, commands: str, modules: Sequence[str]) -> Path:
    """A disk that boots GRUB, which does some commands."""
    script, core, path = folder / "grub.cfg", folder / "core.img", folder / "grub.img"
    script.write_text(commands)
    image = shutil.which("grub-mkimage")
    assert image is not None
    arguments = ["-O", "i386-pc", "-o", str(core), "-p", "/nowhere", "-c", str(script), *modules]
    subprocess.run([image, *arguments], check=True, timeout=60)
    path.write_bytes(((GRUB / "boot.img").read_bytes() + core.read_bytes()).ljust(1 << 20, b"\0"))
    return path


@dataclass(frozen=True)
class Ran:
    """What a command wrote, and its status."""

    output: str
    status: int


def devc_run(*arguments: str, timeout: float = 120) -> Ran:
    """`devc run` in a process of its own."""
    command = [sys.executable, "-m", "devc", "run", *arguments]
    return _ran(command, timeout)


def qemu(kernel: Path, chip: str, vcpus: int, append: str, seconds: int) -> Ran:
    """A kvm-unit-test as its own runner starts it."""
    assert QEMU is not None
    command = [
        *(QEMU, "--no-reboot", "-nodefaults", "-display", "none", "-serial", "stdio"),
        *("-global", "kvm-pit.lost_tick_policy=discard", "-device", "pc-testdev"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"),
        *("-machine", f"accel=kvm,kernel-irqchip={'on' if chip == 'kernel' else chip}"),
        *("-smp", str(vcpus), "-kernel", str(kernel), "-append", append),
    ]
    return _ran(command, seconds)


def _ran(command: list[str], timeout: float) -> Ran:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        return Ran(output.decode("utf-8", "replace"), process.returncode)


def verdicts(output: str) -> list[str]:
    """A kvm-unit-test's verdicts in their order, without the numbers that it measured."""
    lines = re.findall(r"^(PASS|FAIL|SKIP): (.*)$", output, re.M)
    return [f"{verdict}: {re.sub(r'[0-9]+', 'N', text)}" for verdict, text in lines]


def tsc_mhz() -> float:
    """The frequency that KVM says a vCPU's time-stamp counter has."""
    create_vm, create_vcpu, get_tsc_khz = 0xAE01, 0xAE41, 0xAEA3
    descriptors = [os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)]
    try:
        for request in (create_vm, create_vcpu):
            descriptors.append(fcntl.ioctl(descriptors[-1], request, 0))
        return fcntl.ioctl(descriptors[-1], get_tsc_khz, 0) / 1000
    finally:
        for descriptor in reversed(descriptors):
            os.close(descriptor)
