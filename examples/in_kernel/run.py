"""Serve a guest's writes in the kernel: here, or in a stock Debian kernel under QEMU's software emulation.

    python -m devc.examples.in_kernel.run           # boots Debian's kernel; needs no privilege
    sudo python -m devc.examples.in_kernel.run --here

Exit status: 0 all was as it should be; 1 it was not; 3 something is missing here, and what.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler import bpf_compile
from ...compiler.driver import DEVICES, load
from ...compiler.emit import EmitError, compiler, emit
from .initramfs import Missing, archive, modules
from .program import object_code

PLACE = Path(__file__).resolve().parent
PANEL = PLACE / "panel.dev"
VMM = ("vmm.c", "machine.c", "device.c", "timer.c", "kernel.c", "guest.S")
ACCEPTED = ("accepted.c",)
OPTIONS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-static")
LIBRARIES = ("-lbpf", "-lelf", "-lz")
FAILED, UNAVAILABLE = 1, 3

QEMU = "qemu-system-x86_64"
MACHINE = ("-accel", "tcg", "-cpu", "EPYC", "-smp", "1", "-m", "512", "-nodefaults", "-display", "none",
           "-serial", "stdio", "-no-reboot")  # fmt: skip
"""A CPU with SVM, all emulated: kvm_amd runs the guest of the guest."""
BOOT_SECONDS = 600

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
echo "Linux $(/bin/busybox uname -r), emulated"
for module in {modules}; do /bin/busybox insmod /lib/$module.ko; done
{commands}
echo "exit status $?"
/bin/busybox poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Built:
    """A program, and the eBPF objects that it is run with."""

    program: Path
    objects: tuple[Path, ...]


def verifying(out: Path) -> Built:
    """What asks the verifier about the shipped devices."""
    objects = []
    for path in sorted(DEVICES.glob("*.dev")):
        device = load(path)
        objects.append(out / f"{path.stem}.bpf.o")
        objects[-1].write_bytes(bpf_compile.object_code(device.reference_module(), device.source))
    return Built(_program(out, "accepted", ACCEPTED), tuple(objects))


def serving(out: Path) -> Built:
    """The VMM and its two devices."""
    pit, panel = load("i8254"), load(PANEL)
    natives = [emit(each.reference_module(), {"header", "obj"}, out)["obj"] for each in (pit, panel)]
    objects = out / "i8254.attached.bpf.o", out / "panel.attached.bpf.o"
    objects[0].write_bytes(object_code(pit))
    objects[1].write_bytes(object_code(panel, page=True))
    return Built(_program(out, "vmm", VMM, natives), objects)


def _program(out: Path, name: str, sources: Sequence[str], objects: Sequence[Path] = ()) -> Path:
    """Statically linked: it runs where there is nothing else."""
    command = [*compiler(), *OPTIONS, f"-I{out}", *(str(PLACE / source) for source in sources)]
    command += [*map(str, objects), *LIBRARIES, "-o", str(out / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Missing(
            f"{name} could not be built; on Debian: apt install gcc libbpf-dev libelf-dev zlib1g-dev\n"
            f"{done.stderr}"
        )
    return out / name


def packages(out: Path) -> Path:
    """Debian's kernel and busybox, unpacked but not installed: the directory they are in."""
    tree = out / "debian"
    if tree.is_dir():
        return tree
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Missing(f"{tool} is not here: the kernel comes from Debian's packages")
    depends = _run(["apt-cache", "depends", "linux-image-amd64"], out)
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    if kernel is None:
        raise Missing("apt knows no linux-image-amd64: run apt-get update, on Debian")
    _run(["apt-get", "download", kernel[1], "busybox-static"], out)
    unfinished = out / "debian.part"
    for package in (*out.glob("linux-image-*.deb"), *out.glob("busybox-static_*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(unfinished)], out)
        package.unlink()
    return unfinished.rename(tree)


def _run(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def emulated(out: Path, runs: Sequence[Built]) -> int:
    """Boot, run the programs, and pass on what they say."""
    if shutil.which(QEMU) is None:
        raise Missing(f"{QEMU} is not installed: apt install qemu-system-x86")
    tree = packages(out)
    (kernel,) = tree.glob("boot/vmlinuz-*")
    image = out / "initramfs.gz"
    image.write_bytes(_system(tree, runs))
    boot = ["-kernel", str(kernel), "-initrd", str(image), "-append", "console=ttyS0 quiet panic=-1"]
    done = subprocess.run(
        [QEMU, *MACHINE, *boot], stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_SECONDS
    )
    said = done.stdout.decode(errors="replace").replace("\r", "")
    status = re.search(r"^exit status (\d+)$", said, re.MULTILINE)
    print(said[: status.start()] if status else f"{said}\n{done.stderr.decode(errors='replace')}", end="")
    return int(status[1]) if status else FAILED


def _system(tree: Path, runs: Sequence[Built]) -> bytes:
    """An initramfs that runs the programs one after the other, and tells how the last that ran ended."""
    chain = dict(modules(tree, "kvm-amd"))
    files = {"bin/busybox": _busybox(tree)}
    files |= {f"lib/{name}.ko": content for name, content in chain.items()}
    for run in runs:
        files |= {path.name: path.read_bytes() for path in (run.program, *run.objects)}
    commands = [" ".join(f"/{path.name}" for path in (run.program, *run.objects)) for run in runs]
    files["init"] = INIT.format(modules=" ".join(chain), commands=" && ".join(commands)).encode()
    return archive(files, ("bin", "lib", "proc", "sys", "dev"))


def _busybox(tree: Path) -> bytes:
    for place in ("bin/busybox", "usr/bin/busybox"):
        if (tree / place).is_file():
            return (tree / place).read_bytes()
    raise Missing("Debian's busybox-static has no busybox")


def here(runs: Sequence[Built]) -> int:
    """Run the programs on this machine's kernel."""
    for run in runs:
        status = subprocess.run([run.program, *run.objects]).returncode
        if status:
            return status
    return 0


def main() -> int:
    arguments = argparse.ArgumentParser(description="Serve a guest's writes in the kernel.")
    arguments.add_argument("--here", action="store_true", help="on this machine's kernel; needs root")
    arguments.add_argument("-o", "--output", type=Path, default=Path("out/in_kernel"), metavar="DIR",
                           help="where what is built and downloaded goes (%(default)s)")  # fmt: skip
    chosen = arguments.parse_args()
    out = chosen.output.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        runs = verifying(out), serving(out)
        return here(runs) if chosen.here else emulated(out, runs)
    except (Missing, EmitError, bpf_compile.CompileError, subprocess.TimeoutExpired, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
