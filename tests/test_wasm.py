"""The wasm32 object: valid as it is, equal to the native engine, and kept to its own bytes."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest
from devc.bench import wasm_cost
from devc.bench.result import Scale
from devc.compiler import emit, wasm
from devc.compiler.driver import load
from devc.compiler.jit import NativeCode, compile_module
from devc.runtime.instance import NativeInstance

from . import ir_random
from .engine_pair import Pair, drive, random_call
from .ir_samples import bare

wasmtime = pytest.importorskip("wasmtime", reason="wasmtime is not installed: pip install wasmtime")

from .wasm_instance import PAGE, Program, WasmInstance  # noqa: E402 (imports wasmtime)

SHIPPED = ("acpi_pm", "hpet", "i8254", "mc146818")
MANUAL = Path(__file__).parents[1] / "docs" / "wasm.md"


@cache
def compiled(name: str) -> tuple[Program, NativeCode]:
    module = load(name, None).reference_module()
    return Program(module), compile_module(module, None)


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    """wasmtime's objects are let go before the interpreter takes wasmtime itself apart."""
    yield
    compiled.cache_clear()


@pytest.mark.parametrize("name", SHIPPED)
def test_an_object_is_a_module_that_asks_for_a_memory_and_a_stack_only(name: str) -> None:
    module = compiled(name)[0].module
    assert {each.name for each in module.imports} == {"__linear_memory", "__stack_pointer"}
    assert module.imports[0].type.limits.min == 1, "the constants take one page"


@pytest.mark.parametrize("name", SHIPPED)
def test_an_object_exports_what_the_abi_lists_and_nothing_else(name: str) -> None:
    program = compiled(name)[0]
    regions = [f"{r.name}_{kind}" for r in program.device.regions for kind in ("read", "write", "peek")]
    rest = ["settle", "levels", "next", "commit", "reset", "resume", "init", "save", "restore"]
    assert sorted(each.name for each in program.module.exports) == sorted(
        f"{name}_{each}" for each in (*regions, *rest)
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_wasm_answers_as_native_code_does_byte_for_byte(name: str) -> None:
    program, native = compiled(name)
    for seed in range(4):
        rng = Random(seed)
        device = program.device
        params = {p.name: ir_random.number(rng, p.type) for p in device.params if rng.random() < 0.5}
        now = rng.randrange(10**10)
        twins = WasmInstance(program, now, **params), NativeInstance(native, device, now, **params)
        drive(Pair(*twins), rng, 400, now)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_access_changes_a_byte_outside_the_state_and_the_stack(name: str) -> None:
    device = WasmInstance(compiled(name)[0], 0)
    rng = Random(name)
    for at in range(2 * PAGE, device.place):
        device.all[at] = 0xA5
    before = bytes(device.all)
    for now in range(0, 3 * 10**9, 10**7):
        region = rng.choice(device.module.regions).name
        offset, width = rng.randrange(2**32), rng.choice((0, 1, 2, 4, 8, 2**32 - 1))
        device.read(region, now, offset, width)
        device.write(region, now, offset, width, rng.randrange(2**64))
        kind, args = random_call(rng, device.module, now)
        if kind != "save":  # which writes an image
            getattr(device, kind)(*args)
    assert bytes(device.all[:PAGE]) == before[:PAGE], "the constants"
    assert bytes(device.all[2 * PAGE : device.place]) == before[2 * PAGE : device.place]
    assert device.stack_pointer.value(device.store) == 2 * PAGE


def test_a_device_without_registers_needs_no_stack() -> None:
    module = wasmtime.Module(wasmtime.Engine(), wasm.object_code(bare()))
    assert [each.name for each in module.imports] == ["__linear_memory"]


def test_what_needs_a_library_is_refused_by_its_name() -> None:
    product = """
define dso_local i64 @"high"(i64 %a, i64 %b) {
  %x = zext i64 %a to i128
  %y = zext i64 %b to i128
  %whole = mul i128 %x, %y
  %shifted = lshr i128 %whole, 64
  %high = trunc i128 %shifted to i64
  ret i64 %high
}"""
    with pytest.raises(wasm.CompileError, match="it would call __multi3, which a wasm host does not have"):
        wasm.compiled(product)


def test_llvms_death_is_an_error_that_says_why() -> None:
    with pytest.raises(wasm.CompileError, match="back end ended with exit status 1"):
        wasm.compiled("no LLVM IR")


def test_the_file_is_emitted_under_the_devices_name(tmp_path: Path) -> None:
    module = compiled("acpi_pm")[0].device
    paths = emit.emit(module, {"wasm"}, tmp_path)
    assert paths == {"wasm": tmp_path / "acpi_pm.wasm"}
    assert paths["wasm"].read_bytes() == compiled("acpi_pm")[0].object


@pytest.mark.skipif(shutil.which("wasm-ld") is None, reason="wasm-ld is not installed (Debian: lld)")
def test_two_devices_link_into_one_module(tmp_path: Path) -> None:
    objects = [emit.emit(compiled(name)[0].device, {"wasm"}, tmp_path)["wasm"] for name in SHIPPED[:2]]
    linked = tmp_path / "timers.wasm"
    subprocess.run(["wasm-ld", "--no-entry", *objects, "-o", linked], check=True, timeout=60)
    module = wasmtime.Module(wasmtime.Engine(), linked.read_bytes())
    assert not module.imports
    assert {"memory", "acpi_pm_io_read", "hpet_mmio_read"} <= {each.name for each in module.exports}


def test_the_manuals_program_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    emit.emit(compiled("acpi_pm")[0].device, {"wasm"}, tmp_path)
    program, printed = re.findall(r"^```(?:python|text)\n(.*?)^```$", MANUAL.read_text(), re.M | re.S)
    found = io.StringIO()
    with contextlib.redirect_stdout(found):
        exec(compile(program, "wasm.md", "exec"), {})
    assert found.getvalue() == printed


def test_the_benchmark_reads_the_same_on_both_sides() -> None:
    (benchmark,) = wasm_cost.BENCHMARKS
    report = benchmark.run(benchmark, Scale(pairs=1, length=0.001))
    assert report.result.ratio > 0
