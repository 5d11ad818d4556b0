"""A device in the kernel against the same device in native code: hot reads, and the verifier's time.

Both sides go through the same 256 records many times in one run, so that entering
the kernel costs next to nothing an access; each access takes and gives back the
state's lock. The kernel's side is the batch program, the native one
runtime/calls.ll. The table's note has what the native handler alone costs,
without record and lock, and the ratio to that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache

from ..compiler import jit
from ..compiler.bpf_compile import CompileError
from ..compiler.driver import load
from ..runtime import bpf
from ..runtime.bpf_object import BpfObject
from ..runtime.calls import CAPACITY, READ, WRITE, Call, NativeCalls
from ..runtime.kernel_instance import KernelInstance
from ..runtime.verification import verify
from .handlers import READS, START, WORKLOADS, Workload, native, sampler, start
from .result import Benchmark, Disagreement, Report, Scale, Unavailable, interleave, nanoseconds

ROUNDS = READS // CAPACITY
AGREED = 2_000
"""Random accesses that the kernel and native code must answer alike."""
VERIFIED = 15
"""Pairs in which the verifier's time is measured."""

TARGET, VERIFYING = 4.0, 5.0


@cache
def _image(device: str) -> bytes:
    try:
        return load(device).bpf()
    except CompileError as error:
        raise Unavailable(str(error)) from None


def in_kernel(device: str) -> KernelInstance:
    """A device in the kernel. Raises Unavailable."""
    try:
        bpf.available()
    except bpf.BpfUnavailable as error:
        raise Unavailable(str(error)) from None
    kind = load(device)
    return KernelInstance(kind.native(), kind.module, _image(device), START)


@cache
def _agreed(device: str, accesses: int = AGREED, seed: int = 1) -> None:
    """Disagreement at the first random access that the kernel and native code do not serve alike."""
    chance, kind = random.Random(seed), load(device)
    one, other = in_kernel(device), in_kernel(device)
    other.runs = "native"
    now = START
    for number in range(accesses):
        now += chance.randrange(chance.choice((1, 1_000, 1_000_000, 1_000_000_000)))
        region = chance.randrange(len(kind.module.regions))
        offset = chance.randrange(kind.module.regions[region].size)
        call = Call(now, chance.getrandbits(64), offset, chance.choice((1, 2, 4, 8)), region)
        call.what = chance.choice((READ, WRITE))
        twin = Call.from_buffer_copy(call)
        answers = [(each.serve(record), record.value) for each, record in ((one, call), (other, twin))]
        if answers[0] != answers[1] or one.slots() != other.slots():
            raise Disagreement(
                f"{device}, access {number} of seed {seed}: in the kernel {answers[0]}, natively {answers[1]}"
            )
    one.close()
    other.close()


def _records(device: KernelInstance, work: Workload) -> None:
    """Set the device up, and fill the map with the read, a step apart each."""
    now = START
    for access in work.setup:
        now += work.step
        device.write(access.region, now, access.offset, access.width, access.value or 0)
    (access,) = work.accesses
    region = [each.name for each in device.module.regions].index(access.region)
    for number in range(CAPACITY):
        device.calls[number] = Call(now + number * work.step, 0, access.offset, access.width, region, READ)


def _sampler(
    device: KernelInstance, rounds: int, serve_all: Callable[[int, int], int]
) -> Callable[[], float]:
    """A function that has the records served `rounds` times, and returns ns an access."""

    def sample() -> float:
        began = time.perf_counter_ns()
        done = serve_all(CAPACITY, rounds)
        taken = time.perf_counter_ns() - began
        if done != CAPACITY * rounds:
            raise Disagreement(f"{device.module.name}: {done} of {CAPACITY * rounds} accesses were served")
        return taken / done

    return sample


def _compare(work: Workload) -> Callable[[Benchmark, Scale], Report]:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        device, rounds = in_kernel(work.device), scale.of(ROUNDS)
        _agreed(work.device)
        _records(device, work)
        calls = NativeCalls(device.code, device.module, device.address)
        ours = _sampler(device, rounds, device.serve_all)
        theirs = _sampler(device, rounds, lambda count, times: calls.serve_all(device.calls, count, times))
        pairs = interleave(ours, theirs, scale.pairs)
        device.close()
        return Report(
            benchmark.judge(pairs.ratios()), nanoseconds(min(pairs.ours)), nanoseconds(min(pairs.theirs)),
            _alone(work, rounds, min(pairs.ours)),
        )  # fmt: skip

    return run


def _alone(work: Workload, rounds: int, ours: float) -> str:
    """What the native handler alone takes, called by the C loop of the other comparisons."""
    try:
        once = sampler(start(native(work.device), work, rounds * CAPACITY))
    except Unavailable as reason:
        return f"the handler alone: {reason}"
    alone = min(once() for _ in range(9))
    return f"the native handler alone {nanoseconds(alone)}; the kernel takes {ours / alone:.1f} times that"


def _verifying(device: str) -> Callable[[Benchmark, Scale], Report]:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        in_kernel(device).close()
        module, source = load(device).reference_module(), BpfObject(_image(device), device)

        def verified() -> float:
            return 1e6 * sum(verdict.milliseconds for verdict in verify(source))

        def compiled() -> float:
            began = time.perf_counter_ns()
            jit.compile_module(module, None)
            return float(time.perf_counter_ns() - began)

        pairs = interleave(verified, compiled, min(scale.pairs, VERIFIED))
        return Report(
            benchmark.judge(pairs.ratios()), nanoseconds(min(pairs.ours)), nanoseconds(min(pairs.theirs)),
            "the verifier's own account, all programs of the device",
        )  # fmt: skip

    return run


HOT = {name: entry for name, entry in WORKLOADS.items() if len(entry[1].accesses) == 1}
DEVICES = ("i8254", "acpi_pm", "hpet", "mc146818")

BENCHMARKS = (
    *(
        Benchmark(
            f"kernel/native: {name}",
            TARGET,
            "at most",
            f"time of an access in the kernel, many a run / of the same served natively: {what}",
            _compare(work),
        )
        for name, (what, work) in HOT.items()
    ),
    *(
        Benchmark(
            f"verifier/compiler: {device}",
            VERIFYING,
            "at most",
            "time of the kernel's verifier over all programs / of native compilation from the IR",
            _verifying(device),
        )
        for device in DEVICES
    ),
)
