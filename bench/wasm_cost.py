"""WebAssembly against native code: one read over and over, by one loop of LLVM IR.

The loop is compiled with the device, once for this machine and once for wasm32
(run in wasmtime), so that both sides do the same and neither is entered from
Python more than once a sample.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from ..compiler import ir, jit, native, wasm
from ..compiler.driver import load
from ..runtime.instance import NativeInstance
from .handlers import START, TICK, Access
from .result import Benchmark, Disagreement, Report, Scale, Unavailable, interleave, nanoseconds

DEVICE = "i8254"
READS = 200_000
"""Reads in one sample: long against the 10 us that a call from Python into wasmtime takes."""
STEP = 1_000
PAGE = 65536

LOOP = """
define dso_local i64 @"loop"(ptr %s, i64 %now, i64 %count) {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %more, %next ]
  %at = phi i64 [ %now, %entry ], [ %later, %next ]
  %sum = phi i64 [ 0, %entry ], [ %total, %next ]
  %value = call i64 @"i8254_pit_read"(ptr %s, i64 %at, i32 0, i32 1) noinline
  %total = add i64 %sum, %value
  %later = add i64 %at, 1000
  %more = add i64 %i, 1
  %done = icmp eq i64 %more, %count
  br i1 %done, label %end, label %next
end:
  ret i64 %total
}
"""


class Timed:
    """One side: `loop` is called with the instant and the number of reads, and gives their sum."""

    def __init__(self, loop: Callable[[int, int], int], reads: int) -> None:
        self.loop = loop
        self.reads = reads
        self.now = START + STEP * len(TICK)
        self.sum = 0

    def sample(self) -> float:
        """ns a read."""
        start = time.perf_counter_ns()
        self.sum += self.loop(self.now, self.reads)
        taken = time.perf_counter_ns() - start
        self.now += self.reads * STEP
        return taken / self.reads


def _setup(write: Callable[[int, Access], object]) -> None:
    for number, access in enumerate(TICK):
        write(START + STEP * number, access)


def on_native(module: ir.Module, reads: int) -> Timed:
    target = jit.host()
    optimised, machine = jit.optimise(native.build(module, target.preserve_most) + LOOP, target, jit=True)
    code = jit.load([machine.emit_object(optimised)], (*native.symbols(module), "loop"))
    device = NativeInstance(code, module, START)
    _setup(lambda now, a: device.write(a.region, now, a.offset, a.width, a.value or 0))
    number = ctypes.c_uint64
    loop = ctypes.CFUNCTYPE(number, ctypes.c_void_p, number, number)(code.symbol("loop"))
    return Timed(lambda now, count: int(loop(device.address, now, count)), reads)


def in_wasmtime(module: ir.Module, reads: int) -> Timed:
    try:
        import wasmtime
    except ImportError:
        raise Unavailable("wasmtime is not installed: pip install wasmtime") from None
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(3, 3)))
    kind = wasmtime.GlobalType(wasmtime.ValType.i32(), True)
    linker = wasmtime.Linker(engine)
    linker.define(store, "env", "__linear_memory", memory)
    linker.define(store, "env", "__stack_pointer", wasmtime.Global(store, kind, wasmtime.Val.i32(2 * PAGE)))
    image = wasm.compiled(wasm.build(module, LOOP))
    exports: Any = linker.instantiate(store, wasmtime.Module(engine, image)).exports(store)
    params = [p.default for p in module.params if p.slot is not None]
    state = 2 * PAGE
    exports[f"{DEVICE}_init"](store, state, START, *params)
    _setup(
        lambda now, a: exports[f"{DEVICE}_{a.region}_write"](store, state, now, a.offset, a.width, a.value)
    )
    loop = exports["loop"]
    return Timed(lambda now, count: int(loop(store, state, now, count)), reads)


def _run(benchmark: Benchmark, scale: Scale) -> Report:
    module = load(DEVICE).reference_module()
    sides = in_wasmtime(module, scale.of(READS)), on_native(module, scale.of(READS))
    pairs = interleave(sides[0].sample, sides[1].sample, scale.pairs)
    if sides[0].sum != sides[1].sum:
        raise Disagreement(f"{benchmark.name}: wasm and native code read different values")
    return Report(
        benchmark.judge(pairs.ratios()), nanoseconds(min(pairs.ours)), nanoseconds(min(pairs.theirs))
    )


BENCHMARKS = (
    Benchmark(
        "wasm/native: i8254 count, mode 2",
        2.0,
        "at most",
        "time of the handler in wasmtime / of the native handler, a read: a byte of counter 0, not latched",
        _run,
    ),
)
