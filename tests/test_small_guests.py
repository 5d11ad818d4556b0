"""Guests of our own that do what real ones do, on the whole board and on every host.

The 64-bit ones are multiboot kernels: several vCPUs, the I/O APIC, sleep. They ask the
same of the machine as kvm-unit-tests' smptest, hpet_read_test, vmexit, ioapic and s3.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from devc.runtime.assemble import assemble
from devc.runtime.boot import boot
from devc.runtime.hosts import Reason, hosts
from devc.runtime.machine_file import Description, DeviceChoice, DiskChoice
from devc.runtime.pc.board import Ending

GUESTS = Path(__file__).parent / "guests"
KERNEL_ADDRESS = 0x100000
SECONDS = 20.0

OBSTACLES = hosts()
kvm = pytest.mark.skipif(OBSTACLES["kvm"] is not None, reason=str(OBSTACLES["kvm"]))


@functools.cache
def kernel(name: str, vcpus: int) -> bytes:
    parts = (f".equ VCPUS, {vcpus}\n", *((GUESTS / f"{part}.s").read_text() for part in ("long_mode", name)))
    return assemble("".join(parts), KERNEL_ADDRESS, 64)


Run = Callable[..., Ending]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a 64-bit guest to its end."""

    def runner(name: str, irqchip: str, vcpus: int = 1) -> Ending:
        path = tmp_path / f"{name}.bin"
        path.write_bytes(kernel(name, vcpus))
        with boot(Description(guest=path, irqchip=irqchip, vcpus=vcpus)) as booted:
            ending = booted.run(SECONDS)
            assert not booted.machine.failures
            return ending

    return runner


def ended_well(ending: Ending) -> bool:
    return (ending.exit.reason, ending.request, ending.value) == (Reason.STOPPED, "exit", 0)


CHIPS = pytest.mark.parametrize("irqchip", ["kernel", "split"])


@kvm
@CHIPS
@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_every_vcpu_of_the_madt_starts_and_answers(run: Run, irqchip: str, vcpus: int) -> None:
    assert ended_well(run("smp", irqchip, vcpus))


@kvm
@CHIPS
def test_the_hpet_never_goes_back_between_two_vcpus(run: Run, irqchip: str) -> None:
    assert ended_well(run("hpet", irqchip, 2))


@kvm
@CHIPS
def test_the_pm_timer_of_the_fadt_keeps_the_hpet_s_time(run: Run, irqchip: str) -> None:
    assert ended_well(run("pm_timer", irqchip))


@kvm
def test_the_io_apic_s_edges_levels_and_masks(run: Run) -> None:
    """Of the device file; KVM's own delivers the first level twice here, to QEMU as well."""
    assert ended_well(run("ioapic", "split"))


@kvm
@CHIPS
def test_a_sleeping_machine_wakes_by_the_clock_s_alarm_where_the_facs_says(run: Run, irqchip: str) -> None:
    begun = time.monotonic()
    assert ended_well(run("sleep", irqchip))
    assert time.monotonic() - begun < 5


@kvm
@pytest.mark.parametrize(("clock", "reason"), [(True, Reason.TIME), (False, Reason.STOPPED)])
def test_sleep_ends_with_the_time_or_at_once_if_nothing_can_wake(
    tmp_path: Path, clock: bool, reason: Reason
) -> None:
    path = tmp_path / "guest.s"
    path.write_text("movw $0x60c, %dx\n movw $0x2400, %ax\n outw %ax, %dx\n hlt")
    devices = (DeviceChoice("acpi_pm"), *([DeviceChoice("mc146818")] if clock else []))
    with boot(Description(guest=path, devices=devices)) as booted:
        begun = time.monotonic()
        ending = booted.run(1.0)
    assert ending.exit.reason is reason
    assert (time.monotonic() - begun < 0.8) == (not clock)


BOARDS = {
    "kvm, no controllers": ("kvm", "none", ()),
    "kvm, an 8259 device file without local APICs": ("kvm", "none", ("i8259",)),
    "kvm, its own controllers": ("kvm", "kernel", ()),
    "kvm, split": ("kvm", "split", ("i8259", "ioapic")),
    "unicorn": ("unicorn", "none", ()),
}


@pytest.mark.parametrize("board", BOARDS)
def test_timer_serial_port_and_disk_interrupt_a_real_mode_guest(board: str, tmp_path: Path) -> None:
    host, irqchip, controllers = BOARDS[board]
    if OBSTACLES[host] is not None:
        pytest.skip(str(OBSTACLES[host]))
    image = tmp_path / "disk.img"
    image.write_bytes(b"".join(bytes([sector]) * 512 for sector in range(8)))
    sent: list[bytes] = []
    description = Description(
        guest=GUESTS / "board.s",
        host=host,
        irqchip=irqchip,
        devices=tuple(DeviceChoice(name) for name in ("i8254", *controllers)),
        disk=DiskChoice(image),
    )
    with boot(description, serial=sent.append) as booted:
        ending = booted.run(SECONDS)
    assert ended_well(ending), ending
    assert b"".join(sent) == b"!"
