"""examples/in_kernel: a guest's writes are served in the kernel, and what they build on fits together."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from devc.compiler.driver import load
from devc.examples.in_kernel import initramfs, program, run
from elftools.elf.elffile import ELFFile

PLACE = run.PLACE
README = (PLACE / "README.md").read_text()
CC = next((name for name in ("gcc", "cc", "clang") if shutil.which(name)), None)
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler (gcc, cc or clang) is installed")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel in question is Linux")
@needs_cc
def test_a_guests_writes_are_served_in_this_kernel(tmp_path: Path) -> None:
    """The VMM checks by itself: counts, answers, states against native twins, another VM left alone."""
    try:
        built = run.serving(tmp_path)
    except initramfs.Missing as missing:
        pytest.skip(str(missing).splitlines()[0])
    done = subprocess.run([built.program, *built.objects], capture_output=True, text=True, timeout=60)
    if done.returncode == run.UNAVAILABLE:
        pytest.skip("; ".join(line for line in done.stdout.splitlines() if "not here" in line))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        line[2:38].strip(): line[38:].split() for line in done.stdout.splitlines() if line.startswith("  ")
    }
    assert set(rows["state a native twin's, at each exit"]) == {"yes"}
    assert int(rows["of them served in the kernel"][-1]) > 0
    assert [title for title in rows if f" {title} " not in README] == [], "README.md shows what is printed"


@pytest.fixture(scope="module")
def attached() -> ELFFile:
    return ELFFile(io.BytesIO(program.object_code(load(PLACE / "panel.dev"), page=True)))


def test_the_object_has_a_program_for_each_place_in_kvm(attached: ELFFile) -> None:
    symbols = attached.get_section_by_name(".symtab")
    places = {
        symbol.name: attached.get_section(symbol["st_shndx"]).name
        for symbol in symbols.iter_symbols()
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_info"]["bind"] == "STB_GLOBAL"
    }
    assert (
        places.items()
        >= {
            "panel_pio": "raw_tp/kvm_pio",
            "panel_mmio": "raw_tp/kvm_mmio",
            "panel_ioeventfd": "fentry/ioeventfd_write",
            "panel_enrol": "syscall",
        }.items()
    )


def test_no_eventfd_is_the_devices_before_the_vmm_says_so(attached: ELFFile) -> None:
    content = attached.get_section_by_name(".data.io").data()
    for number in range(program.WINDOWS):
        at = program.IO_SIZE + number * program.WINDOW_SIZE
        assert content[at : at + 4] == b"\xff" * 4, "an id that no eventfd has"


@needs_cc
def test_the_vmm_and_the_programs_have_one_layout(tmp_path: Path) -> None:
    lines = ['#include "shared.h"', "#include <stddef.h>"]
    for name, fields in (("record", program.RECORD), ("window", program.WINDOW), ("io", program.IO)):
        at = 0
        for field, size in fields:
            place = (
                f"offsetof(struct {name}, {field}) == {at} && sizeof ((struct {name} *)0)->{field} == {size}"
            )
            lines.append(f'_Static_assert({place}, "{name}.{field}");')
            at += size
    for name in ("WINDOWS", "RECORDS", "PAGE"):
        lines.append(f'_Static_assert({name} == {getattr(program, name)}, "{name}");')
    lines.append(f'_Static_assert(offsetof(struct io, windows) == {program.IO_SIZE}, "windows");')
    lines.append(f'_Static_assert(sizeof(struct window) == {program.WINDOW_SIZE}, "window");')
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines) + "\n")
    done = subprocess.run([str(CC), "-fsyntax-only", f"-I{PLACE}", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_page_stands_for_no_window_whose_reads_depend_on_time() -> None:
    with pytest.raises(program.NotStatic, match=r"i8254: a read of channel\[0\].data depends on time"):
        program.object_code(load("i8254"), page=True)


def test_modules_come_before_those_that_need_them(tmp_path: Path) -> None:
    for name, needs in (("kvm-amd", "kvm,ccp"), ("kvm", "irqbypass"), ("ccp", ""), ("irqbypass", "")):
        (tmp_path / f"{name}.ko").write_bytes(b"\0depends=" + needs.encode() + b"\0")
    assert [name for name, _ in initramfs.modules(tmp_path, "kvm-amd")] == [
        "irqbypass", "kvm", "ccp", "kvm_amd",
    ]  # fmt: skip
    (tmp_path / "ccp.ko").unlink()
    with pytest.raises(initramfs.Missing, match="no module ccp"):
        list(initramfs.modules(tmp_path, "kvm-amd"))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_initramfs_is_an_archive(tmp_path: Path) -> None:
    files = {"init": b"#!/bin/sh\n", "bin/one": bytes(range(256)), "two": b"2"}
    data = gzip.decompress(initramfs.archive(files, ("bin",)))
    subprocess.run(["cpio", "-i", "--quiet"], input=data, cwd=tmp_path, check=True)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert (tmp_path / "init").stat().st_mode & 0o111 == 0o111
