"""The wired machine with the running kernel as a third engine: every access by verified eBPF too.

Long mode: DEVC_LONG=1 makes 10**5 accesses; so does `python -m tests.fuzz --kernel --accesses 100000`.
"""

from __future__ import annotations

import os

import pytest
from devc.runtime import bpf

from .bpf_rig import needs_bpf
from .fuzz import sabotage
from .fuzz.__main__ import chosen
from .fuzz.board import ENGINES, KERNEL, VARIANTS, Board, InKernel, Kind
from .fuzz.campaign import Explorer, replay, shrunk
from .fuzz.lockstep import Lockstep

LONG = bool(int(os.environ.get("DEVC_LONG", "0")))
ALL = (*ENGINES, KERNEL)


def explore(accesses: int, **choice: object) -> None:
    explorer = Explorer(engines=ALL, **choice)  # type: ignore[arg-type]
    finding = explorer.explore(accesses)
    if finding is not None:
        small = shrunk(Board(VARIANTS[finding.variant], engines=ALL), finding)
        pytest.fail(f"{finding.message}\n{small.text}")
    assert sum(counts.accesses for counts in explorer.counts) >= accesses


@needs_bpf
def test_the_kernel_agrees_with_both_engines() -> None:
    explore(500, seed=11, variants=[2])


@needs_bpf
@pytest.mark.skipif(not LONG, reason="long mode only: set DEVC_LONG=1")
def test_the_kernel_agrees_with_both_engines_for_long() -> None:
    explore(100_000, seed=5)


@needs_bpf
def test_the_third_machine_is_in_the_kernel() -> None:
    side = Lockstep(Board(engines=ALL)).sides[KERNEL]
    for device in side.devices:
        assert isinstance(device.instance, InKernel)
        assert device.instance.runs == "kernel"
        version = int.from_bytes(device.instance._memory[36:40], "little")
        device.instance.settle(side.machine.now)
        assert int.from_bytes(device.instance._memory[36:40], "little") == version + 2


@needs_bpf
def test_a_difference_in_the_kernel_is_found() -> None:
    kind = Kind.shipped("acpi_pm")
    slow = sabotage.means("acpi_pm", sabotage.slow_clock)
    mixed = Kind(kind.module, kind.module, kind.path)
    mixed.__dict__["image"] = slow.image  # the kernel's programs only
    program = [("step", 10**9, (), "native"), ("read", "io", 0x608, 4)]
    broken = replay(Board(engines=ALL).with_kind(mixed), program)
    assert broken is not None
    assert broken.invariant == "same"
    assert "in the kernel" in str(broken)


@needs_bpf
def test_the_kernel_takes_part_where_it_lets_us() -> None:
    assert chosen(None) == chosen(True) == ALL
    assert chosen(False) == ENGINES


def test_where_it_does_not_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable() -> None:
        raise bpf.BpfUnavailable("no permission", "ask for it")

    monkeypatch.setattr(bpf, "available", unavailable)
    assert chosen(None) == ENGINES
    assert "no permission; ask for it" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no permission"):
        chosen(True)
