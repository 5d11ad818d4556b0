"""The benchmark of devices in the kernel: what is compared, and that both sides do the same."""

from __future__ import annotations

import pytest
from devc.bench import kernel_cost
from devc.bench.kernel_cost import BENCHMARKS, CAPACITY, HOT, in_kernel
from devc.bench.result import Benchmark, Disagreement, Scale, Unavailable
from devc.runtime import bpf
from devc.runtime.calls import Call

from .bpf_rig import needs_bpf

TINY = Scale(pairs=2, length=0.005)


@needs_bpf
@pytest.mark.parametrize("name", ["kernel/native: acpi_pm timer", "verifier/compiler: acpi_pm"])
def test_a_benchmark_of_each_kind_runs(name: str) -> None:
    benchmark = next(each for each in BENCHMARKS if each.name == name)
    report = benchmark.run(benchmark, TINY)
    assert report.result.ratio > 0
    assert report.ours
    assert report.theirs


def test_every_hot_read_is_there_and_every_device_is_verified() -> None:
    names = [each.name for each in BENCHMARKS]
    assert [f"kernel/native: {name}" for name in HOT] == names[: len(HOT)]
    assert {name.split(": ")[1] for name in names[len(HOT) :]} == {"i8254", "acpi_pm", "hpet", "mc146818"}


@needs_bpf
@pytest.mark.parametrize("name", ["i8254 count, mode 2", "mc146818 register C"])
def test_the_records_are_the_reads_of_the_workload(name: str) -> None:
    work = HOT[name][1]
    device = in_kernel(work.device)
    kernel_cost._records(device, work)
    assert device.serve_all(CAPACITY) == CAPACITY
    answers = [device.calls[number].value for number in range(CAPACITY)]
    device.close()
    twin = kernel_cost.in_kernel(work.device)
    twin.runs = "native"
    kernel_cost._records(twin, work)
    for number in range(CAPACITY):
        call = Call.from_buffer_copy(twin.calls[number])
        twin.serve(call)
        assert call.value == answers[number]
    twin.close()


@needs_bpf
def test_a_kernel_that_answers_otherwise_is_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = kernel_cost.KernelInstance.serve

    def wrong(self: kernel_cost.KernelInstance, call: Call) -> int:
        status = serve(self, call)
        call.value ^= self.runs == "kernel"
        return status

    monkeypatch.setattr(kernel_cost.KernelInstance, "serve", wrong)
    with pytest.raises(Disagreement, match="in the kernel"):
        kernel_cost._agreed.__wrapped__("acpi_pm", 50)


def test_without_bpf_it_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise bpf.BpfUnavailable("no permission", "ask for it")

    monkeypatch.setattr(bpf, "available", unavailable)
    benchmark: Benchmark = BENCHMARKS[0]
    with pytest.raises(Unavailable, match="no permission; ask for it"):
        benchmark.run(benchmark, TINY)
