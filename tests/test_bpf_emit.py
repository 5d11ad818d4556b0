"""The eBPF object: what libbpf, bpftool and the verifier must find in it; what LLVM cannot do is reported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from devc.compiler import bpf, bpf_compile, emit, ir
from devc.compiler.analysis import walk
from devc.compiler.bpf_debug import Names
from devc.compiler.bpf_programs import ABOUT, BATCH, CALL, CALLS, about
from devc.compiler.driver import DeviceType, load
from devc.compiler.image import layout_hash
from devc.dsl.diagnostics import Source
from devc.runtime.instance import ReferenceInstance

from .bpf_rig import needs_bpf
from .btf_reading import ARRAY, DATASEC, FUNC, STRUCT, VAR, Object, instructions
from .ir_samples import ticker

NAMES = ("i8254", "acpi_pm", "mc146818", "hpet")
PROGRAMS = ("read", "write", "settle", "deadline", "batch")
CODE = ("syscall", ".text")
CC = next((name for name in ("gcc", "cc", "clang") if shutil.which(name)), None)
GLOBAL = 1
"""A function's or variable's linkage in BTF."""


@cache
def device(name: str) -> DeviceType:
    return load(name)


@cache
def image(name: str) -> Object:
    return Object(device(name).bpf())


# --- sections, symbols, relocations -------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_object_has_five_programs_and_the_license_that_their_helpers_ask_for(name: str) -> None:
    found = image(name)
    assert found.elf["e_machine"] == "EM_BPF"
    assert found.elf.little_endian
    assert set(found.named("syscall", "STT_FUNC")) == {f"{name}_{program}" for program in PROGRAMS}
    assert found.data("license") == b"Dual MIT/GPL\0"


@pytest.mark.parametrize("name", NAMES)
def test_each_map_is_one_variable_that_fills_its_section(name: str) -> None:
    found, size = image(name), device(name).module.size
    for section, variable, length in (
        (".data", "state", size),
        (".data.calls", "calls", CALLS * sum(width for _, width in CALL)),
        (".rodata", "about", sum(width for _, width in ABOUT)),
    ):
        symbols = found.named(section, "STT_OBJECT")
        assert {each: (s["st_value"], s["st_size"]) for each, s in symbols.items()} == {variable: (0, length)}
        assert len(found.data(section)) == length


@pytest.mark.parametrize("name", NAMES)
def test_code_refers_to_maps_and_functions_of_the_object_alone(name: str) -> None:
    found = image(name)
    targets = set()
    for section in CODE:
        for _, kind, symbol in found.relocations(section):
            assert kind in (1, 10), "R_BPF_64_64 and R_BPF_64_32 are what loaders apply to code"
            assert isinstance(symbol["st_shndx"], int), f"{symbol.name} is not defined"
            targets.add(list(found.sections)[symbol["st_shndx"]])
    assert targets <= {".data", ".data.calls", ".text"}
    assert list(bpf_compile.undefined(device(name).bpf())) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_is_of_the_third_version(name: str) -> None:
    """Version 4 added sign-extending loads and moves, byte swaps, signed division and long jumps."""
    for section in CODE:
        for at, opcode, _, source, offset, _ in instructions(image(name).data(section)):
            kind = opcode & 7
            place = f"{section}+{at:#x}: opcode {opcode:#x}, offset {offset}"
            assert not (kind == 1 and opcode & 0xE0 == 0x80), place
            assert not (kind in (4, 7) and opcode & 0xF0 in (0x30, 0x90, 0xB0) and offset), place
            assert opcode not in (0x06, 0xD7), place
            assert not (opcode == 0x85 and source == 2), f"{place} calls a kernel function by its type"


@pytest.mark.parametrize("name", NAMES)
def test_the_stack_of_eight_frames_suffices(name: str) -> None:
    """512 bytes in all; a frame is rounded up to 32."""
    found = image(name)
    deepest: dict[tuple[str, int], int] = {}

    def depth(section: str, at: int) -> int:
        if (section, at) not in deepest:
            symbol = next(s for s in found.named(section, "STT_FUNC").values() if s["st_value"] == at)
            code = found.data(section)[at : at + symbol["st_size"]]
            places = {place: s for place, _, s in found.relocations(section)}
            used, inner = 0, 0
            for where, opcode, to, source, offset, constant in instructions(code):
                if (opcode & 7 in (2, 3) and to == 10) or (opcode & 7 == 1 and source == 10):
                    used = max(used, -offset)
                target = places.get(at + where)
                if opcode == 0x85 and source == 1:
                    place = (
                        target["st_value"] + 8 * (constant + 1) if target else at + where + 8 * (constant + 1)
                    )
                    inner = max(inner, depth(".text", place))
                elif opcode == 0x18 and target is not None and target["st_shndx"] == _number(found, ".text"):
                    inner = max(inner, depth(".text", target["st_value"] + constant))
            deepest[section, at] = max(32, -(-used // 32) * 32) + inner
        return deepest[section, at]

    for symbol in found.named("syscall", "STT_FUNC").values():
        assert depth("syscall", symbol["st_value"]) <= 512


def _number(found: Object, section: str) -> int:
    return list(found.sections).index(section)


# --- type information ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_slot_is_a_named_field_at_its_place(name: str) -> None:
    found, module = image(name), device(name).module
    struct = found.type(f"{name}_state", STRUCT)
    assert struct.size == module.size
    leaves = list(found.leaves(struct.number))
    wanted = {(at, s.size, s.type.signed) for s in module.slots for _, at in ir.elements(s)}
    assert {leaf[1:] for leaf in leaves} == wanted
    assert len({path for path, *_ in leaves}) == len(leaves)


def test_fields_are_named_as_the_device_file_names_its_state() -> None:
    found = image("i8254")
    paths = {path: at for path, at, *_ in found.leaves(found.type("i8254_state", STRUCT).number)}
    slots = {slot.name: slot for slot in device("i8254").module.slots}
    mode = slots["channel.m"]
    assert paths["deadline"] == 0
    assert paths["channel[2].m"] == mode.offset + 2 * mode.dims[0][1]
    assert paths["port61_gate2"] == slots["port61.gate2"].offset


def test_names_stay_apart_when_they_become_identifiers() -> None:
    names = Names(["each"])
    given = [names.give(text) for text in ("a.b", "a_b", "a b", "2nd", "each", "...", "x[1].y")]
    assert given == ["a_b", "a_b_2", "a_b_3", "_2nd", "each_2", "unnamed", "x_1_y"]
    long = [names.give("n" * 300 + end) for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) < 128


@pytest.mark.parametrize(
    ("name", "fields"), [("devc_call", CALL), ("devc_batch", BATCH), ("devc_about", ABOUT)]
)
def test_the_structs_shared_with_user_space_are_laid_out_as_documented(
    name: str, fields: tuple[tuple[str, int], ...]
) -> None:
    found = image("hpet")
    at, wanted = 0, []
    for field, size in fields:
        wanted.append((field, at, size, False))
        at += size
    assert list(found.leaves(found.type(name, STRUCT).number)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_variables_have_types_so_that_maps_can_be_shown_and_mapped(name: str) -> None:
    """libbpf makes a map of a section mmapable if a variable in it is global."""
    found = image(name)
    for section, variable in ((".data", "state"), (".data.calls", "calls"), (".rodata", "about")):
        ((number, _, _),) = found.type(section, DATASEC).rows
        kind = found.types[number]
        assert (kind.kind, kind.name, kind.rows[0][0]) == (VAR, variable, GLOBAL)
    table = found.types[found.type("calls", VAR).size]
    assert table.kind == ARRAY
    assert table.rows[0][2] == CALLS


@pytest.mark.parametrize("name", NAMES)
def test_every_function_has_its_type_and_a_first_line(name: str) -> None:
    found, source = image(name), device(name).source
    begins = {(section, s["st_value"]) for section in CODE for s in found.named(section, "STT_FUNC").values()}
    assert set(found.functions) == begins
    assert begins <= {(line.section, line.at) for line in found.lines}
    for kind in found.functions.values():
        assert kind.kind == FUNC
        assert kind.name.isidentifier()
        assert kind.extra == (0 if kind.name == "each" else GLOBAL), f"{kind.name}: a callback is static"
    for line in found.lines:
        assert line.file == f"{name}.dev"
        assert line.text.strip() == source.line(line.line).strip()


@pytest.mark.parametrize("name", NAMES)
def test_lines_lead_to_each_event_of_the_device_file(name: str) -> None:
    lines = {line.line for line in image(name).lines}
    events = [
        f for f in device(name).reference_module().functions if re.match(r"(.*\.)?on\.(?!reset)", f.name)
    ]
    assert events
    for event in events:
        own = {event.line} | {s.line for s in walk(event.body) if isinstance(s, ir.Store)}
        assert own & lines, f"{event.name}, line {event.line}"


# --- the state, as it is at once -----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_that_of_a_device_just_made(name: str) -> None:
    fresh = ReferenceInstance(device(name).reference_module(), 0)
    assert image(name).data(".data") == bytes(fresh.state)


def test_about_says_which_object_and_layout_this_is() -> None:
    module = device("hpet").module
    data = image("hpet").data(".rodata")
    assert data == about(module)
    assert int.from_bytes(data[8:16], "little") == layout_hash(module)
    assert int.from_bytes(data[4:8], "little") == module.size


# --- files ---------------------------------------------------------------------------------


def test_a_module_without_a_device_file_compiles_too(tmp_path: Path) -> None:
    paths = emit.emit(ticker(), {"bpf"}, tmp_path)
    assert paths["bpf"].name == "ticker.bpf.o"
    found = Object(paths["bpf"].read_bytes())
    assert {line.file for line in found.lines} == {"ticker.dev"}


@needs_bpf
@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
def test_bpftool_reads_the_types(tmp_path: Path) -> None:
    path = tmp_path / "hpet.bpf.o"
    path.write_bytes(device("hpet").bpf())
    shown = _bpftool("btf", "dump", "file", str(path), "format", "c")
    assert "struct hpet_state {" in shown
    assert "struct hpet_timer timer[32];" in shown


PINS = Path("/sys/fs/bpf")


@needs_bpf
@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
@pytest.mark.skipif(not PINS.is_mount(), reason=f"no BPF file system is mounted at {PINS}")
def test_libbpf_loads_every_program_and_shows_the_state_by_its_names(tmp_path: Path) -> None:
    path, pins = tmp_path / "acpi_pm.bpf.o", PINS / f"devc_test_{os.getpid()}"
    path.write_bytes(device("acpi_pm").bpf())
    try:
        _bpftool("prog", "loadall", str(path), str(pins), "pinmaps", str(pins))
        assert {f"acpi_pm_{program}" for program in PROGRAMS} <= {pin.name for pin in pins.iterdir()}
        shown = json.loads(_bpftool("-j", "map", "dump", "pinned", str(pins / "acpi_pm_data")))
        state = shown[0]["formatted"]["value"][".data"][0]["state"]
        assert (state["wide"], state["enable_tmr"], state["lock"]) == (0, 0, 0)
    finally:
        shutil.rmtree(pins, ignore_errors=True)


@needs_bpf
@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
@pytest.mark.skipif(CC is None, reason="no C compiler is installed")
def test_the_manuals_c_program_reads_a_device_in_the_kernel(tmp_path: Path) -> None:
    manual = (Path(__file__).parent.parent / "docs" / "bpf-object.md").read_text()
    program, answer = re.findall(r"```(?:c|text)\n((?:#include|status).*?)```", manual, re.DOTALL)
    probe = [CC, "-x", "c", "-fsyntax-only", "-include", "bpf/bpf.h", "/dev/null"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("libbpf's headers are not installed")
    image = tmp_path / "hpet.bpf.o"
    image.write_bytes(device("hpet").bpf())
    (tmp_path / "main.c").write_text(program)
    (tmp_path / "hpet.h").write_text(_bpftool("btf", "dump", "file", str(image), "format", "c"))
    (tmp_path / "hpet.skel.h").write_text(_bpftool("gen", "skeleton", str(image)))
    subprocess.run([CC, "main.c", "-lbpf", "-o", "main"], cwd=tmp_path, check=True, timeout=60)
    ran = subprocess.run([tmp_path / "main"], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.returncode) == (answer, 0), ran.stderr


def _bpftool(*arguments: str) -> str:
    done = subprocess.run(["bpftool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_object_is_the_same_wherever_its_device_file_lies() -> None:
    module, text = device("acpi_pm").reference_module(), device("acpi_pm").source.text
    places = [Source(f"{directory}acpi_pm.dev", text) for directory in ("", "/some/where/else/")]
    images = [bpf_compile.object_code(module, place) for place in places]
    assert images[0] == images[1]
    assert b"/some/where" not in images[1]


# --- what LLVM cannot do -------------------------------------------------------------------

BODIES = {
    "ends by abort": ("fence seq_cst", "AtomicFence"),
    "ends by exit": (
        """%bad.a = zext i64 %now to i128
           %bad.b = zext i64 %p0 to i128
           %bad.c = mul i128 %bad.a, %bad.b
           %bad.d = lshr i128 %bad.c, 64
           %bad.e = trunc i128 %bad.d to i64
           store volatile i64 %bad.e, ptr @state""",
        "multi3",
    ),
    "stack": (
        """%bad = alloca [600 x i8]
           %bad.at = getelementptr i8, ptr %bad, i64 %now
           store volatile i8 1, ptr %bad.at""",
        "stack limit",
    ),
    "no such function": ("%bad = call i64 @missing()", "needs missing, which the kernel does not have"),
}


@pytest.mark.parametrize("what", BODIES)
def test_the_back_ends_death_names_the_construct_and_its_line(what: str) -> None:
    """As it would look if the compiler let through what eBPF cannot do."""
    source = device("i8254").source
    built = bpf.build(device("i8254").reference_module(), source)
    line = next(
        n for n, text in enumerate(source.text.split("\n"), 1) if "write_count(" in text and "proc" in text
    )
    inserted, says = BODIES[what]
    text = _inserted(built.text, "@channel_write_count_do_touches(", inserted)
    with pytest.raises(bpf_compile.CompileError, match=says) as error:
        bpf_compile.compiled(replace(built, text=text + "\ndeclare i64 @missing()\n"), source)
    told = str(error.value)
    assert "`channel.write_count` cannot be compiled for eBPF" in told
    assert f"i8254.dev:{line}:" in told
    assert source.line(line).strip() in told
    assert error.value.line == line


def _inserted(text: str, function: str, code: str) -> str:
    """LLVM IR with instructions at the beginning of a function, at its line."""
    lines = text.split("\n")
    start = next(n for n, each in enumerate(lines) if each.startswith("define") and function in each)
    place = next(each for each in lines[start:] if ", !dbg " in each and each.startswith("  "))
    note = ", !dbg " + place.rsplit(", !dbg ", 1)[1]
    lines[start + 2 : start + 2] = [f"  {each.strip()}{note}" for each in code.split("\n")]
    return "\n".join(lines)


def test_a_text_that_is_no_llvm_ir_is_an_error_of_ours() -> None:
    with pytest.raises(bpf_compile.CompileError, match=r"broken\.dev: .*LLVM IR parsing error"):
        bpf_compile.compiled(bpf.Built("broken", "nonsense", {}))


def test_emit_reports_it_as_an_error_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> bytes:
        raise bpf_compile.CompileError("x.dev:7: `reg` cannot be compiled for eBPF: no fence", 7)

    monkeypatch.setattr(bpf_compile, "object_code", die)
    with pytest.raises(emit.EmitError, match=r"x\.dev:7: `reg` cannot be compiled"):
        emit.emit(ticker(), {"bpf"}, tmp_path)
    assert not list(tmp_path.iterdir())
