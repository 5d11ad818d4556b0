"""A guest saved in the middle goes on elsewhere: nothing lost, nothing doubled, nothing believed."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from devc.runtime import pausing, saved_guest
from devc.runtime.boot import boot
from devc.runtime.hosts import kvm
from devc.runtime.machine_file import Description, DeviceChoice
from devc.runtime.saved_guest import SavedGuest, SavedGuestError

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))

PM_HZ, PIT_HZ, RELOAD, TICKS = 3_579_545, 1_193_182, 11_932, 60
PERIOD = RELOAD * PM_HZ / PIT_HZ  # PM timer ticks

COUNTS = f"""
        .code16
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x8000, %sp
        movw    $tick, 0x80         # vector 0x20
        movw    %ax, 0x82
        movb    $0x11, %al          # ICW1 to ICW4, then IRQ 0 alone
        outb    %al, $0x20
        movb    $0x20, %al
        outb    %al, $0x21
        movb    $0x04, %al
        outb    %al, $0x21
        movb    $0x01, %al
        outb    %al, $0x21
        movb    $0xfe, %al
        outb    %al, $0x21
        movb    $0x34, %al          # counter 0: mode 2, 100 Hz
        outb    %al, $0x43
        movw    ${RELOAD}, %ax
        outb    %al, $0x40
        movb    %ah, %al
        outb    %al, $0x40
        sti
1:      hlt
        cmpw    $1, count
        jb      1b
        movw    $0x608, %dx
        inl     %dx, %eax
        movl    %eax, first
2:      hlt
        cmpw    ${TICKS + 1}, count
        jb      2b
        movw    $0x608, %dx
        inl     %dx, %eax
        subl    first, %eax
        andl    $0xffffff, %eax
        movw    $0xe9, %dx
        movw    $4, %cx
3:      outb    %al, %dx
        shrl    $8, %eax
        loop    3b
        xorb    %al, %al
        outb    %al, $0xf4
tick:   incw    count
        pushw   %ax
        movb    $0x20, %al
        outb    %al, $0x20
        popw    %ax
        iret
count:  .word   0
first:  .long   0
"""
"""Counts ticks through the 8259 pair, and says how many ticks of the PM timer they took."""


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    place = tmp_path / "counts.s"
    place.write_text(COUNTS)
    return place


def devc(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "devc", *map(str, arguments)], capture_output=True, timeout=60, check=False
    )


def test_a_guest_saved_in_the_middle_goes_on_in_another_process(guest: Path) -> None:
    saved = guest.with_name("guest.devc")
    first = devc("run", guest, "--irqchip", "kernel", "--quiet", "--timeout", "0.3", "--save", saved)
    assert (first.returncode, first.stdout) == (0, b""), first.stderr
    assert f"go on with: devc resume {saved}" in first.stderr.decode()
    time.sleep(1)
    second = devc("resume", saved, "--quiet")
    assert second.returncode == 0, second.stderr
    # A tick that comes twice would make the time shorter; one that is lost, or the second
    # that the guest did not run, longer. (A host under load may keep a guest from a tick or two.)
    took = int.from_bytes(second.stdout, "little")
    assert TICKS * PERIOD * 0.999 < took < (TICKS + 10) * PERIOD


def test_a_guest_is_the_same_after_it_was_put_back(saved: SavedGuest) -> None:
    with pausing.resumed(saved) as booted:
        again = pausing.taken(booted)
    assert replace(again, devices=b"", memory={}, host={}, vcpus=()) == replace(
        saved, devices=b"", memory={}, host={}, vcpus=()
    )
    assert {at: bytes(data) for at, data in again.memory.items()} == saved.memory
    for before, after in zip(saved.vcpus, again.vcpus, strict=True):
        for part in ("regs", "sregs", "lapic", "events", "debugregs", "mp_state"):
            assert before[part] == after[part], part
    for part in ("pic0", "pic1", "ioapic"):
        assert saved.host[part] == again.host[part], part


@pytest.fixture
def saved(guest: Path) -> SavedGuest:
    """The counting guest after a quarter of a second, through the file."""
    with boot(Description(guest=guest, irqchip="kernel")) as booted:
        booted.run(0.25)
        path = guest.with_name("saved")
        saved_guest.write(path, pausing.taken(booted))
    return saved_guest.read(path)


def test_a_pc_of_two_vcpus_goes_on_at_its_own_date(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timers = tuple(DeviceChoice(name) for name in ("i8254", "acpi_pm", "hpet", "mc146818"))
    with boot(Description(guest=guest, irqchip="kernel", vcpus=2, devices=timers)) as booted:
        booted.run(0.1)
        saved = pausing.taken(booted)
        elsewhere = replace(saved, memory={at: bytes(data) for at, data in saved.memory.items()})
    a_day_later = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: a_day_later)
    with pausing.resumed(elsewhere) as booted:
        ending = booted.run(30)
        assert (ending.request, ending.value) == ("exit", 0)


def refused(saved: SavedGuest, why: str) -> None:
    with pytest.raises(SavedGuestError, match=why), pausing.resumed(saved):
        pytest.fail("it got in")


def test_what_does_not_fit_its_machine_is_refused(saved: SavedGuest) -> None:
    machine = dict(saved.machine)
    refused(replace(saved, machine={**machine, "vcpus": 2}), "its vCPUs are not those of its machine")
    refused(replace(saved, machine={**machine, "memory": 1 << 20}), "its memory is not that of its machine")
    refused(replace(saved, machine={**machine, "colour": "red"}), "its machine cannot be: .*'colour'")
    refused(replace(saved, machine={**machine, "device": [{"type": "acpi_pm"}]}), "another machine")


def test_damaged_parts_are_refused_by_name(saved: SavedGuest) -> None:
    regs = {**saved.vcpus[0], "regs": saved.vcpus[0]["regs"][:-1]}
    refused(replace(saved, vcpus=(regs,)), "regs")
    refused(replace(saved, devices=saved.devices[:-40]), "snapshot")
    refused(replace(saved, host={}), "pic0")
    refused(replace(saved, board={**saved.board, "serial": b"[]"}), "serial does not fit")
    refused(replace(saved, board={}), "its board's parts are not")
    disk = saved.board["disk"].replace(b'"status": 80', b'"status": 88')
    refused(replace(saved, board={**saved.board, "disk": disk}), "disk does not fit: its buffer")


def test_a_saved_guest_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    missing = devc("resume", nothing)
    assert (missing.returncode, missing.stdout) == (2, b"")
    assert f"cannot read the saved guest {nothing}: No such file" in missing.stderr.decode()
    nothing.write_bytes(b"PK and so on")
    assert "not a whole saved guest" in devc("resume", nothing).stderr.decode()


def test_a_guest_that_will_never_go_on_is_not_saved(tmp_path: Path) -> None:
    halts, saved = tmp_path / "halts.s", tmp_path / "guest.devc"
    halts.write_text(".code16\n cli\n hlt\n")
    saved.write_bytes(b"a good one of before")
    ran = devc("run", halts, "--irqchip", "none", "--quiet", "--save", saved, "--timeout", "5")
    assert ran.returncode == 1, ran.stderr
    assert b"did not end by itself" in ran.stderr
    assert saved.read_bytes() == b"a good one of before"
