"""All benchmarks, family by family, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import compile_time, guests, handlers, kernel_cost, python_handlers, qemu, vcpus, wasm_cost
from .result import Benchmark, Report, Scale, Skipped, Unavailable, matching

BENCHMARKS: tuple[Benchmark, ...] = (
    *handlers.BENCHMARKS,
    *python_handlers.BENCHMARKS,
    *wasm_cost.BENCHMARKS,
    *guests.BENCHMARKS,
    *vcpus.BENCHMARKS,
    *qemu.BENCHMARKS,
    *kernel_cost.BENCHMARKS,
    *compile_time.BENCHMARKS,
)


def run(
    scale: Scale, only: str | None = None, starting: Callable[[Benchmark], object] = lambda benchmark: None
) -> Iterator[Report | Skipped]:
    """Run those whose name contains `only`, one by one; `starting` is told of each before."""
    for benchmark in matching(BENCHMARKS, only):
        starting(benchmark)
        try:
            yield benchmark.run(benchmark, scale)
        except Unavailable as reason:
            yield Skipped(benchmark.name, str(reason))
