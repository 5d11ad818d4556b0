"""The JIT's two modules: together they are the device, and each is whole with the other's functions."""

from __future__ import annotations

import re
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from devc.compiler import ir, jit, native, native_quick
from devc.compiler.cache import Cache
from devc.compiler.driver import load

from .ir_samples import ticker

MODULES = {"ticker": ticker(), **{n: load(n).reference_module() for n in ("i8254", "acpi_pm", "mc146818")}}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ir.Module:
    return MODULES[request.param]


def functions(text: str, visible: bool) -> set[str]:
    """The functions that a text defines for others, or all that it defines."""
    found = re.findall(r'^define (\w+) .*?@"?([^"(]+)"?\(', text, re.M)
    return {name for linkage, name in found if not visible or linkage != "internal"}


def declared(text: str) -> set[str]:
    return set(re.findall(r'^declare (?!.*@llvm\.).*?@"?([^"(]+)"?\(', text, re.M))


def test_what_one_part_lacks_the_other_defines(module: ir.Module) -> None:
    parts = native_quick.build(module)
    accesses, rest = functions(parts.accesses, True), functions(parts.rest, True)
    assert declared(parts.accesses) <= rest
    assert declared(parts.rest) <= accesses
    assert not accesses & rest


def test_both_parts_together_have_every_symbol_of_the_abi(module: ir.Module) -> None:
    parts = native_quick.build(module)
    assert set(native.symbols(module)) <= functions(parts.accesses, True) | functions(parts.rest, True)


def test_only_what_a_guest_waits_for_is_in_the_first_part(module: ir.Module) -> None:
    parts = native_quick.build(module)
    accesses = {f"{module.name}_{r.name}_{kind}" for r in module.regions for kind in ("read", "write")}
    assert functions(parts.accesses, True) == accesses
    assert not any(".rest" in name for name in functions(parts.accesses, False))


def test_what_happens_once_in_a_while_is_not_optimised() -> None:
    parts = native_quick.build(MODULES["i8254"])
    heads = {line.split("@")[1].split("(")[0].strip('"'): line for line in _defines(parts.rest)}
    dull = {name for name, head in heads.items() if "optnone" in head}
    assert {"i8254_reset", "i8254_resume", "i8254.pit.read.rest"} <= dull
    assert not dull & {"i8254_settle", "i8254_commit", "i8254_next", "i8254.account"}
    assert not any("optnone" in head for head in _defines(parts.accesses))


def _defines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("define")]


def test_no_mark_of_the_translation_is_left(module: ir.Module) -> None:
    parts = native_quick.build(module)
    assert "\0" not in parts.accesses + parts.rest + native.build(module)


def test_no_read_of_the_pit_or_the_pm_timer_makes_a_call_unless_it_settles() -> None:
    for name in ("i8254", "acpi_pm"):
        module = MODULES[name]
        parts = native_quick.build(module, jit.host().preserve_most)
        optimised, _ = jit.optimise(parts.accesses, jit.host(), jit.QUICK, jit=True)
        for region in module.regions:
            body = str(optimised.get_function(f"{name}_{region.name}_read"))
            called = set(re.findall(r'call .*?@"?([\w.]+)"?\(', body))
            called = {f for f in called if not f.startswith("llvm.")}
            assert called <= {f"{name}.settle_rarely", f"{name}.{region.name}.read.rest"}


def test_what_guests_poll_of_the_rtc_is_found_without_a_table() -> None:
    """The other registers and bytes are behind calls, and optimised none the less."""
    module = MODULES["mc146818"]
    parts = native_quick.build(module, jit.host().preserve_most)
    optimised, _ = jit.optimise(parts.accesses, jit.host(), jit.QUICK, jit=True)
    body = str(optimised.get_function("mc146818_io_read"))
    switches = re.findall(r"switch i\d+ .*?\[(.*?)\]", body, re.DOTALL)
    assert all(cases.count("label") < 4 for cases in switches)
    called = set(re.findall(r'@"?([\w.]+)"?\(', body))
    assert {"mc146818.cmos.read.others", "mc146818.io.read.others"} <= called
    heads = [head for head in _defines(parts.accesses) if ".cmos.read.others" in head]
    assert heads
    assert not any("optnone" in head or "cold" in head for head in heads)


def test_the_cache_keeps_both_parts(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    module = MODULES["ticker"]
    made = jit.compile_module(module, cache)
    again = jit.compile_module(module, cache)
    assert (made.cached, again.cached) == (False, True)
    assert made.object_size == again.object_size


@pytest.mark.parametrize("payload", [b"", b"\1", b"\0" * 8, (9).to_bytes(8, "little") + b"short"])
def test_an_entry_that_holds_no_objects_is_compiled_anew(payload: bytes, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    module = MODULES["ticker"]
    key = jit.compile_module(module, cache).key
    cache.put("object", key, payload)
    assert not jit.compile_module(module, cache).cached
    assert jit.compile_module(module, cache).cached


def test_either_part_is_valid_by_itself(module: ir.Module) -> None:
    parts = native_quick.build(module)
    for text in (parts.accesses, parts.rest):
        llvm.parse_assembly(text, llvm.create_context()).verify()
