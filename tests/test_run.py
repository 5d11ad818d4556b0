"""`devc run`: what guests say, exit statuses, Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from devc.cli.run import Manner, launch
from devc.runtime.hosts import hosts

from .real_guests import Ran, devc_run

pytestmark = pytest.mark.skipif(
    all(obstacle is not None for obstacle in hosts().values()), reason=str(hosts())
)

HELLO = "movb $'h', %al\n outb %al, $0xe9\n movw $0x3f8, %dx\n outb %al, %dx\n"
END = "movb $%d, %%al\n outb %%al, $0xf4\n"


def guest(folder: Path, text: str) -> Path:
    path = folder / "guest.s"
    path.write_text(text)
    return path


def run(
    capfd: pytest.CaptureFixture[str], path: Path, machine: Path | None = None, **options: object
) -> tuple[int, str, str]:
    """Status, stdout and stderr."""
    status = launch(machine, {"guest": path, "timeout": 5.0, **options}, Manner(quiet=True))
    output = capfd.readouterr()
    return status, output.out, output.err


def test_console_and_serial_port_are_shown_and_status_0_is_success(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, guest(tmp_path, HELLO + END % 0)) == (0, "hh", "")


def test_outputs_go_to_files_or_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "serial"
    status = run(capfd, guest(tmp_path, HELLO + END % 0), serial=str(file), console="none")
    assert status == (0, "", "")
    assert file.read_bytes() == b"h"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_takes_no_more_ends_the_run_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, error = run(capfd, guest(tmp_path, HELLO + END % 0), console="/dev/full")
    assert (status, "cannot write /dev/full: No space left" in error) == (2, True), error


def test_another_status_is_a_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capfd, guest(tmp_path, END % 7))
    assert (status, "ended with status 7" in error) == (1, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cli\n hlt", "halted"),
        ("1: jmp 1b", "time at"),
        ("movb $1, %al\n outb %al, $0x92\n hlt", "asked for a reset"),
    ],
)
def test_how_a_guest_ended_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    status, _, error = run(capfd, guest(tmp_path, text), timeout=0.2)
    assert (status, says in error) == (1, True), error


def test_a_machine_that_is_turned_off_has_ended_well(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "movw $0x60c, %dx\n movw $0x2000, %ax\n outw %ax, %dx\n hlt"
    assert run(capfd, guest(tmp_path, text))[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guest": Path("/nowhere.bin")}, "cannot read the guest"),
        ({"devices": ["i8254", "i8254"]}, "is taken"),
        ({"devices": ["i8254,colour=1"]}, "colour"),
        ({"disk": "/nowhere.img"}, "cannot open the disk image"),
        ({"serial": "/nowhere/serial"}, "cannot write"),
        ({"append": "x"}, "only a multiboot kernel"),
        ({"firmware": Path("bios.bin")}, "either a guest or a firmware"),
        ({"memory": "1K"}, "memory"),
    ],
)
def test_a_command_line_that_makes_no_sense_has_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: dict[str, object], says: str
) -> None:
    status, _, error = run(capfd, guest(tmp_path, END % 0), **options)
    assert (status, says in error) == (2, True), error


def test_what_this_machine_lacks_has_status_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capfd, guest(tmp_path, END % 0), host="unicorn", irqchip="kernel")
    assert (status, "kvm" in error) == (3, True)


def test_a_machine_file_runs_and_options_change_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guest(tmp_path, HELLO + END % 0)
    machine = tmp_path / "pc.toml"
    machine.write_text('guest = "guest.s"\nconsole = "none"\n[[device]]\ntype = "acpi_pm"\n')
    status = launch(machine, {"timeout": 5.0}, Manner(quiet=True))
    assert (status, capfd.readouterr().out) == (0, "h")
    status = launch(machine, {"timeout": 5.0, "console": "stdio"}, Manner(quiet=True))
    assert (status, capfd.readouterr().out) == (0, "hh")


def test_a_guest_reads_what_is_typed(tmp_path: Path) -> None:
    text = """
        movw    $0x3fd, %dx
1:      inb     %dx, %al
        testb   $1, %al
        jz      1b
        movw    $0x3f8, %dx
        inb     %dx, %al
        incb    %al
        outb    %al, %dx
        xorb    %al, %al
        outb    %al, $0xf4
"""
    command = [
        sys.executable,
        "-m",
        "devc",
        "run",
        "--quiet",
        "--serial",
        "stdio",
        str(guest(tmp_path, text)),
    ]
    done = subprocess.run(command, input=b"a", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"b"), done.stderr


def test_ctrl_c_stops_the_guest_and_tells_where(tmp_path: Path) -> None:
    path = guest(tmp_path, f"{HELLO} 1: inb $0x80, %al\n jmp 1b\n")
    command = [sys.executable, "-m", "devc", "run", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"h"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert b"vCPU 0 at 0x0:0x10" in error
    assert b"exits on" in output


def test_the_table_counts_exits_by_register(tmp_path: Path) -> None:
    ran: Ran = devc_run(
        str(guest(tmp_path, "inb $0x40, %al\n inb $0x40, %al\n" + END % 0)), "--device", "i8254"
    )
    assert ran.status == 0
    assert " i8254.channel[0].data" in ran.output
