"""The benchmarks of the KVM loop: what they compare does the same. Nothing of time."""

from __future__ import annotations

import shutil

import pytest
from devc.bench import qemu, vcpus
from devc.bench.result import Scale, Unavailable
from devc.runtime.hosts import kvm

TINY = Scale(pairs=2, length=0.02)

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))


@pytest.mark.parametrize("benchmark", vcpus.BENCHMARKS, ids=lambda b: b.name)
def test_both_sides_of_each_comparison_do_the_same(benchmark: vcpus.Benchmark) -> None:
    if "inline syscall" in benchmark.name and shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    # A tick comes each 10 ms, and some must have come.
    scale = Scale(pairs=2, length=1) if "lines" in benchmark.name else TINY
    assert benchmark.run(benchmark, scale).result.ratio > 0


@pytest.mark.parametrize("timer", qemu.READ)
def test_the_boot_image_reports_each_round_on_our_vmm(timer: str) -> None:
    reads = 20
    ours = qemu.Ours(qemu.firmware(timer, reads), reads)
    try:
        assert ours.sample() > 0
        served = {count.register: count.light for count in ours.vmm.counts() if count.access == "read"}
        assert sum(served.values()) == qemu.ROUNDS * reads
    finally:
        ours.vmm.close()


def test_the_same_image_runs_on_qemu() -> None:
    (benchmark,) = (b for b in qemu.BENCHMARKS if "HPET" in b.name)
    try:
        assert benchmark.run(benchmark, Scale(pairs=1, length=0.02)).result.ratio > 0
    except Unavailable as reason:
        pytest.skip(str(reason))
