"""The loader: objects of the compiler's in the running kernel, and files that are no such objects."""

from __future__ import annotations

import ctypes
import random
import struct
from functools import cache

import pytest
from devc.compiler.driver import load
from devc.runtime import bpf
from devc.runtime.bpf_object import CALL, PSEUDO_CALL, WIDE, BpfObject, Linked, ObjectError
from devc.runtime.calls import READ, SERVED, Call

from .bpf_rig import needs_bpf

NAMES = ("acpi_pm", "i8254")
PROGRAMS = ("read", "write", "settle", "deadline", "batch")


@cache
def image(name: str) -> bytes:
    return load(name).bpf()


def linked(name: str, program: str) -> Linked:
    found = BpfObject(image(name), name)
    return found.link(found.programs[program], dict.fromkeys(found.maps, 77))


def instructions(code: bytes) -> list[tuple[int, int, int, int, int]]:
    """Index, opcode, source register, offset and constant of each instruction."""
    found, at = [], 0
    while at < len(code):
        opcode, registers, offset, constant = struct.unpack_from("<BBhi", code, at)
        found.append((at // 8, opcode, registers >> 4, offset, constant))
        at += 16 if opcode == WIDE else 8
    return found


# --- linking, which needs no kernel ---------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_object_has_one_program_each_and_its_maps(name: str) -> None:
    found = BpfObject(image(name), name)
    assert set(found.programs) >= {f"{name}_{program}" for program in PROGRAMS}
    assert found.maps[".data"].value_size == load(name).module.size
    assert found.maps[".data.calls"].value_size == 256 * ctypes.sizeof(Call)
    assert found.maps[".rodata"].flags & bpf.READ_ONLY_PROGRAM
    assert found.license == "Dual MIT/GPL"


@pytest.mark.parametrize("program", PROGRAMS)
def test_calls_lead_to_the_beginnings_of_functions(program: str) -> None:
    made = linked("i8254", f"i8254_{program}")
    calls = [
        i + 1 + constant
        for i, op, src, _, constant in instructions(made.code)
        if op == CALL and src == PSEUDO_CALL
    ]
    assert set(calls) <= set(made.starts.values())
    assert len(made.starts) == len(made.calls)
    reached = {0} | {callee for callees in made.calls for callee in callees}
    assert reached == set(range(len(made.starts)))


def test_a_jump_does_not_leave_its_function() -> None:
    made = linked("i8254", "i8254_batch")
    ends = [*sorted(made.starts.values())[1:], len(made.code) // 8]
    for index, opcode, _, offset, _ in instructions(made.code):
        if opcode & 7 == 5 and opcode not in (CALL, 0x95):
            end = next(end for end in ends if index < end)
            begin = max(start for start in made.starts.values() if start <= index)
            assert begin <= index + 1 + offset < end


def test_each_function_has_its_record_and_lines_are_in_order() -> None:
    made = linked("i8254", "i8254_write")
    records = [
        struct.unpack_from("<I", made.functions.data, at)[0]
        for at in range(0, len(made.functions.data), made.functions.size)
    ]
    assert records == list(made.starts.values())
    order = [place.index for place in made.places]
    assert order == sorted(set(order))
    assert {place.file.rsplit("/", 1)[-1] for place in made.places} == {"i8254.dev"}
    text = load("i8254").source.text.split("\n")
    assert all(place.text == text[place.line - 1].rstrip() for place in made.places if place.line)


def test_maps_are_where_relocations_point() -> None:
    found = BpfObject(image("i8254"), "i8254")
    fds = {name: 100 + n for n, name in enumerate(found.maps)}
    made = found.link(found.programs["i8254_batch"], fds)
    used = {
        constant
        for _, opcode, source, _, constant in instructions(made.code)
        if opcode == WIDE and source == 2
    }
    assert used == {fds[".data"], fds[".data.calls"]}


# --- files that are something else ------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "well-formed"),
        (b"\x7fELF", "well-formed"),
        (b"#!/bin/sh\n", "well-formed"),
    ],
)
def test_what_is_no_elf_file_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ObjectError, match=says):
        BpfObject(data, "file.o")


def test_a_native_object_is_refused_by_its_machine() -> None:
    from devc.compiler.emit import object_code

    with pytest.raises(ObjectError, match="not for EM_BPF"):
        BpfObject(object_code(load("acpi_pm").reference_module()), "file.o")


def test_a_damaged_object_is_refused_or_loads_and_never_harms() -> None:
    whole, rng, refused = image("acpi_pm"), random.Random(1), 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3, 20))):
            data[rng.randrange(len(data) if rng.random() < 0.7 else 64)] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            found = BpfObject(bytes(data), "file.o")
            for program in found.programs.values():
                found.link(program, dict.fromkeys(found.maps, 77))
        except ObjectError:
            refused += 1
    assert refused > 20


# --- in the kernel -------------------------------------------------------------------


@needs_bpf
def test_a_program_runs_on_the_mapped_state() -> None:
    loaded = BpfObject(image("acpi_pm"), "acpi_pm").load()
    module = load("acpi_pm").module
    state = loaded.maps[".data"].mapped()
    assert loaded.maps[".data"].lookup(0) == state[: module.size]
    call = Call(now=10**9, offset=8, width=4, what=READ)
    assert loaded.program("acpi_pm_read").run(call) == 0
    assert (call.status, call.value) == (SERVED, 3_579_545)
    assert int.from_bytes(state[36:40], "little") == 2  # the version, twice
    loaded.close()


@needs_bpf
def test_constants_cannot_be_changed() -> None:
    loaded = BpfObject(image("acpi_pm"), "acpi_pm").load()
    with pytest.raises(bpf.BpfError, match="filling"):
        loaded.maps[".rodata"].update(0, bytes(loaded.maps[".rodata"].spec.value_size))


@needs_bpf
def test_the_kernel_tells_of_a_program() -> None:
    loaded = BpfObject(image("acpi_pm"), "acpi_pm").load()
    info = loaded.program("acpi_pm_settle").info
    assert info.name == b"acpi_pm_settle"
    assert info.verified_insns > 100
    assert info.xlated_prog_len > 100 * 8


@needs_bpf
def test_a_program_that_is_refused_says_each_step() -> None:
    with pytest.raises(bpf.Rejected) as caught:
        bpf.Program.load(bytes.fromhex("9500000000000000"), "empty")
    assert "R0 !read_ok" in caught.value.log
    assert "0: (95) exit" in caught.value.log


@needs_bpf
def test_what_was_loaded_is_given_back() -> None:
    def descriptors() -> int:
        import os

        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    loaded = BpfObject(image("acpi_pm"), "acpi_pm").load()
    program = loaded.program("acpi_pm_read")
    assert descriptors() > before
    program.close()
    loaded.close()
    assert descriptors() == before
