"""The `devc` command: one module a subcommand, imported when it is called.

Exit status: 0 done, 1 a device file was refused or a run failed, 2 a command
line that makes no sense, 3 something this machine lacks, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from .. import __version__

FAILED, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="devc",
    help="Compile device files to native trap handlers, and serve guests with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Shipped devices go by name: i8254, hpet, mc146818, acpi_pm, i8259, ioapic. "
    "The manual is docs/language.md.",
)

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Device files, or names of shipped devices.")
]

Disk = Annotated[
    str | None,
    typer.Option(metavar="FILE[,writable]", help="A raw image for the ATA disk; read only unless writable."),
]
Serial = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="The serial port: stdio (both ways), none, or a file. Default: what it sends is shown.",
    ),
]
ConsoleOption = Annotated[
    str | None,
    typer.Option(metavar="WHERE", help="Ports 0xe9 and 0x402: stdio, none, or a file. Default: stdio."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show the exits.")]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Where the guest goes if Ctrl-C or the timeout stops it ('devc resume')."
    ),
]
LiveOption = Annotated[bool, typer.Option("--live", help="Show the counters on stderr while the guest runs.")]
JsonLines = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the counters twice a second, a line of JSON each time."),
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"devc {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    del version


@app.command(epilog="Examples: devc check mydevice.dev    devc check --lock mydevice.dev")
def check(
    files: Files,
    lock: Annotated[
        bool, typer.Option("--lock", help="Record the saved state's layout in NAME.lock beside NAME.dev.")
    ] = False,
) -> None:
    """Check device files: errors and warnings, each with its place and how to mend it."""
    from .check import check as command

    raise typer.Exit(command(files, lock))


@app.command(
    epilog="Examples: devc compile i8254 -o out    devc compile mydevice.dev --emit header,lib -o out"
)
def compile(
    files: Files,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where the files go.")] = Path(
        "out"
    ),
    emit: Annotated[
        str,
        typer.Option(
            metavar="KIND,...",
            help="header, obj, lib (shared library), ll (LLVM IR), asm, wasm (wasm32 object), "
            "bpf (eBPF object), bpf-kvm.",
        ),
    ] = "header,obj",
    cpu: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            metavar="NAME", help="'native', or a CPU that LLVM knows. Default: runs on every machine."
        ),
    ] = None,
) -> None:
    """Compile device files to what an embedder needs: a C header, an object or library."""
    from .compile import compile as command

    raise typer.Exit(command(files, output, emit, cpu))


@app.command(
    epilog="Examples: devc verify i8254 hpet    devc verify mydevice.dev --log    devc verify out/i8254.bpf.o"
)
def verify(
    files: Files,
    log: Annotated[bool, typer.Option("--log", help="Print what the verifier says, step by step.")] = False,
    json: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="Write the results as JSON too.")  # noqa: UP045
    ] = None,
) -> None:
    """Have the running kernel's verifier check devices as eBPF: memory and termination.

    FILE may be an object of 'compile --emit bpf', too. Exit status: 0 all accepted, 1 one was
    refused, 3 no permission for bpf(2) (root, or CAP_BPF and CAP_PERFMON), or a kernel without it.
    """
    from .verify import verify as command

    raise typer.Exit(command(files, log, json))


@app.command(epilog="Example: devc report i8254 acpi_pm")
def report(files: Files) -> None:
    """Show each register's place and tier, and the size of state and code."""
    from .report import report as command

    raise typer.Exit(command(files))


@app.command(
    epilog="Examples: devc run    devc run my.s --device my.dev    devc run kernel.elf --vcpus 2"
    "    devc run --firmware bios.bin --disk disk.img,writable --irqchip split    devc run --machine pc.toml"
)
def run(
    guest: Annotated[
        Path | None,
        typer.Argument(
            metavar="[GUEST]",
            help="Assembly (.s), a flat image, or a multiboot kernel. Default: the timers' guest.",
        ),
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A machine description in TOML; the other options change it."),
    ] = None,
    firmware: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Boot this at the reset vector instead of a guest: SeaBIOS's bios.bin."
        ),
    ] = None,
    append: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A multiboot kernel's command line.")
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[ TEXT]", help="A file beside a multiboot kernel; repeat."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="NAME", help="kvm or unicorn. Default: the best that works here.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="RAM. Default: 640K for a flat image, 128M for the others."),
    ] = None,
    vcpus: Annotated[int | None, typer.Option(metavar="N", help="Virtual CPUs. Default: 1.")] = None,
    irqchip: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="kernel: KVM's interrupt controllers; split: 8259 and I/O APIC as device files; "
            "none: interrupts at fixed vectors. Default: none for a flat image, kernel for the others.",
        ),
    ] = None,
    hide_kvm: Annotated[
        bool, typer.Option("--hide-kvm", help="Do not tell the guest by CPUID that it runs on KVM.")
    ] = False,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,PARAM=VALUE...]",
            help="A device to add, instead of the default ones; repeat. Default: i8254 and acpi_pm "
            "for a flat image; with mc146818 and hpet for the others.",
        ),
    ] = None,
    disk: Disk = None,
    serial: Serial = None,
    console: ConsoleOption = None,
    wav: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record the PC speaker into a WAV file.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            "--seconds",
            metavar="SECONDS",
            help="Stop the guest after this much of its time. Default: 30 for a flat image, else none.",
        ),
    ] = None,
    compare: Annotated[
        bool | None,
        typer.Option(help="Run it again with every handler in Python. Default: only the timers' guest."),
    ] = None,
    quiet: Quiet = False,
    save: Save = None,
    live: LiveOption = False,
    json: JsonLines = None,
) -> None:
    """Boot a guest whose timers are device files, and show what its exits cost.

    A flat image is loaded and started at 0x1000 in real mode; a multiboot kernel gets
    a PC with ACPI tables; a firmware boots the disk. Port 0xe9 prints a character, port
    0xf4 ends the run: writing 0 is success. Ctrl-C stops, and tells where.
    """
    from .run import Manner, launch

    options = {
        "guest": guest,
        "firmware": firmware,
        "append": append,
        "modules": module,
        "host": host,
        "memory": memory,
        "vcpus": vcpus,
        "irqchip": irqchip,
        "hide_kvm": hide_kvm,
        "devices": device,
        "disk": disk,
        "serial": serial,
        "console": console,
        "timeout": timeout,
    }
    raise typer.Exit(launch(machine, options, Manner(wav, compare, quiet, save, live, json)))


@app.command(
    epilog="Examples: devc resume guest.devc    devc resume guest.devc --save guest.devc --timeout 5"
)
def resume(
    saved: Annotated[Path, typer.Argument(metavar="FILE", help="A guest that 'devc run --save' saved.")],
    serial: Serial = None,
    console: ConsoleOption = None,
    disk: Disk = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop it after this much of its time.")
    ] = None,
    quiet: Quiet = False,
    save: Save = None,
    live: LiveOption = False,
    json: JsonLines = None,
) -> None:
    """Go on with a saved guest where it was: its timers neither lost nor doubled.

    The file is checked as whatever comes from elsewhere is. Its machine is built as it was;
    the disk's image is where it was, unless told otherwise.
    """
    from .run import Manner
    from .run import resume as command

    options = {"serial": serial, "console": console, "disk": disk, "timeout": timeout}
    raise typer.Exit(command(saved, options, Manner(quiet=quiet, save=save, live=live, json=json)))


@app.command(epilog="Examples: devc bench    devc bench --only pit --json bench.json")
def bench(
    json: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="Write the results as JSON too.")  # noqa: UP045
    ] = None,
    only: Annotated[
        Optional[str], typer.Option(metavar="TEXT", help="Only benchmarks whose name contains this.")  # noqa: UP045
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: a look, not a measurement.")] = False,
) -> None:
    """Measure against hand-written C, Python and bare loops, as ratios in one run."""
    from .bench import bench as command

    raise typer.Exit(command(json, only, quick))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    epilog="Example: devc qtest -qtest stdio",
)
def qtest(context: typer.Context) -> None:
    """Serve devices over QEMU's qtest protocol (options as QEMU's own; 'devc qtest -help')."""
    from .qtest import qtest as command

    raise typer.Exit(command(context.args))


def main() -> None:
    """The console script."""
    from ..dsl.diagnostics import DeviceFileError

    try:
        app()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except DeviceFileError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
