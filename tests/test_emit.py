"""Emitted files: what an embedder gets compiles without a warning and drives the device alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from devc.compiler import c_header, emit, ir
from devc.compiler.driver import load
from devc.compiler.emit import EmitError
from devc.compiler.ir import SECOND

from .ir_samples import bare, ticker
from .native_calls import Device

MODULE = ticker()
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wundef", "-Wstrict-prototypes"]
CC = next((name for name in ("gcc", "cc", "clang") if shutil.which(name)), None)
CXX = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler (gcc, cc or clang) is installed")
needs_cxx = pytest.mark.skipif(CXX is None, reason="no C++ compiler (g++, c++ or clang++) is installed")
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")


def run(*command: object, **kw: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, **kw)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@needs_cc
@pytest.mark.parametrize("kind", ["obj", "lib"])
def test_a_c_program_drives_the_device_with_header_and_library_alone(tmp_path: Path, kind: str) -> None:
    paths = emit.emit(MODULE, {"header", kind}, tmp_path)
    program = tmp_path / "embed"
    source = Path(__file__).with_name("embed.c")
    run(
        CC,
        "-std=c99",
        *WARNINGS,
        "-O2",
        f"-I{tmp_path}",
        source,
        paths[kind],
        f"-Wl,-rpath,{tmp_path}",
        "-o",
        program,
    )
    answers, regions = run(program).stdout.splitlines()
    assert regions == "ports io;"

    device = Device(MODULE)
    device.ports_write(device.state, 61 * SECOND, 14, 2, 1000 - 3)
    device.ports_read(device.state, 61 * SECOND, 0, 4)
    want = [device.ports_read(device.state, 61 * SECOND, offset, 4) for offset in range(18)]
    assert answers.split() == [f"{offset}:{value}" for offset, value in enumerate(want)]


@needs_cc
def test_the_embedding_example_counts_the_pits_interrupts(tmp_path: Path) -> None:
    modules = [load(name, None).reference_module() for name in ("i8254", "acpi_pm")]
    libraries = [emit.emit(module, {"header", "lib"}, tmp_path)["lib"] for module in modules]
    source = Path(__file__).parents[1] / "examples" / "embed_pit.c"
    program = tmp_path / "embed_pit"
    rpath = f"-Wl,-rpath,{tmp_path}"
    run(CC, "-std=c99", *WARNINGS, "-O2", f"-I{tmp_path}", source, *libraries, rpath, "-o", program)
    interrupts, period = run(program).stdout.splitlines()
    # Mode 2: OUT falls for the last of 11932 clocks (10.00003 ms), and rises at the reload.
    assert interrupts == "99 interrupts in 1000 ms"
    assert period in {f"the last period took {ticks} ticks of the PM timer" for ticks in (35795, 35796)}


@needs_nm
def test_an_object_needs_no_more_than_memcpy_and_memset(tmp_path: Path) -> None:
    paths = emit.emit(MODULE, {"obj"}, tmp_path)
    undefined = run("nm", "-u", paths["obj"]).stdout.split()
    assert set(undefined) - {"U"} <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}


@needs_cc
@needs_nm
def test_a_library_exports_the_abi_and_nothing_else(tmp_path: Path) -> None:
    paths = emit.emit(MODULE, {"lib"}, tmp_path)
    names = {line.split()[-1] for line in run("nm", "-D", "--defined-only", paths["lib"]).stdout.splitlines()}
    access = {"ports_read", "ports_write", "ports_peek"}
    rest = {"settle", "levels", "next", "commit", "reset", "resume", "init", "save", "restore"}
    assert names - {"_init", "_fini"} == {f"ticker_{name}" for name in access | rest}


AWKWARD = replace(
    MODULE,
    doc="*/ int x; /* and ??/ \\\n a \x07 bell, **/ /**/ ünïcode",
    params=(
        *MODULE.params,
        ir.Param("class", ir.U8, 0, "flip", "a keyword of C++"),
        ir.Param("int", ir.U8, 0, "flip", "a keyword of C"),
    ),
    regions=(
        replace(
            MODULE.regions[0],
            registers=(
                ir.Register("a_b", 0, 8, "rw", "native", "python", (ir.Field("c", 63, 0, "rw", "*/"),)),
                ir.Register("a", 0, 8, "rw", "python", "python", (ir.Field("b_c", 40, 33, "wo"),)),
                ir.Register("ch[1].count", 8, 1, "ro", "native", "none", doc="/* nested"),
            ),
        ),
        ir.Region("high", "mmio", 0xFED0_0000_0000, 2**33, ()),
    ),
)


def _compiles(compiler: str | None, options: list[str], text: str, suffix: str, directory: Path) -> None:
    source = directory / f"main{suffix}"
    source.write_text(text)
    run(compiler, *options, f"-I{directory}", "-c", source, "-o", directory / "main.o")


TWO_HEADERS = """
#include "ticker.h"
#include "bare.h"
#include "ticker.h"
static bare_state state;
int main(void) { bare_init(&state, 0); return sizeof state == BARE_STATE_SIZE ? 0 : 1; }
"""


@needs_cc
@pytest.mark.parametrize("standard", ["c99", "c11", "c17"])
@pytest.mark.parametrize("module", [MODULE, AWKWARD], ids=["plain", "awkward"])
def test_headers_are_clean_c(tmp_path: Path, module: ir.Module, standard: str) -> None:
    for each in (module, bare()):
        emit.emit(each, {"header"}, tmp_path)
    _compiles(CC, [f"-std={standard}", *WARNINGS, "-Wconversion"], TWO_HEADERS, ".c", tmp_path)


@needs_cxx
@pytest.mark.parametrize("module", [MODULE, AWKWARD], ids=["plain", "awkward"])
def test_headers_are_clean_cxx(tmp_path: Path, module: ir.Module) -> None:
    for each in (module, bare()):
        emit.emit(each, {"header"}, tmp_path)
    options = [w for w in WARNINGS if w != "-Wstrict-prototypes"]
    _compiles(CXX, ["-std=c++11", *options], TWO_HEADERS, ".cpp", tmp_path)


def test_a_header_names_every_symbol_field_line_and_parameter() -> None:
    text = c_header.header(MODULE)
    for line in (
        "#define TICKER_VERSION 3u /* of the saved state */",
        "#define TICKER_PORTS_BASE 0x600u /* default of the parameter base; address in the io space */",
        "#define TICKER_PORTS_COUNT_VALUE_MASK 0xffffffu /* [23:0] ro: the low 24 bits */",
        "#define TICKER_LINE_OUT 0u /* bit 23 of the counter */",
        "/* p_trim -100..100, two's complement, usually -5 */",
        "void ticker_init(ticker_state *s, uint64_t now, uint64_t p_hz, uint64_t p_trim);",
    ):
        assert line in text.splitlines()
    assert "#define TICKER_PORTS_A_B_C_MASK_2 UINT64_C(0x1fe00000000)" in c_header.header(AWKWARD)


def test_llvm_ir_and_assembly_are_readable_text(tmp_path: Path) -> None:
    paths = emit.emit(MODULE, {"ll", "asm"}, tmp_path)
    assert "define dso_local" in paths["ll"].read_text()
    assert "ticker_ports_read:" in paths["asm"].read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ticker.ll", "ticker.s"]


def test_only_what_was_asked_for_is_written(tmp_path: Path) -> None:
    assert emit.emit(MODULE, {"header"}, tmp_path / "new" / "place") == {
        "header": tmp_path / "new" / "place" / "ticker.h"
    }


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        EmitError, match="cannot emit exe; choose from header, obj, lib, ll, asm, wasm, bpf, bpf-kvm"
    ):
        emit.emit(MODULE, {"exe", "obj"}, tmp_path)


def test_without_a_c_compiler_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmitError, match=r"install one .* or emit 'obj'"):
        emit.emit(MODULE, {"header", "lib"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(EmitError, match=r"\$CC is 'no-such-compiler'"):
        emit.emit(MODULE, {"lib"}, tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell script as the compiler")
def test_a_linker_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "fakecc"
    fake.write_text("#!/bin/sh\necho 'ld: out of luck' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    with pytest.raises(EmitError, match=r"(?s)exit status 3.*ld: out of luck.*'obj'"):
        emit.emit(MODULE, {"lib"}, tmp_path / "out")


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmitError, match=r"cannot write into .*file"):
        emit.emit(MODULE, {"header"}, tmp_path / "file")
