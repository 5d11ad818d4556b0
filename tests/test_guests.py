"""Guest files: where their bytes go, how they begin, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from devc.runtime.guests import (
    Guest,
    GuestError,
    Segment,
    Surroundings,
    kind_of,
    load_firmware,
    load_guest,
    memory_map,
)
from devc.runtime.hosts.start import Start
from devc.runtime.machine import Machine
from devc.runtime.pc.board import Pc
from hypothesis import given, settings
from hypothesis import strategies as st

from .multiboot_files import elf32, elf64, header

MIB, GIB = 1 << 20, 1 << 30
AROUND = Surroundings(16 * MIB)
KERNEL = elf32([(0x100000, header() + b"code", 32), (0x200000, b"data", 0x3000)], 0x10000C)


def file(folder: Path, content: bytes, name: str = "kernel.elf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


class Ram:
    """A host's memory, as far as `Guest.place` goes."""

    def __init__(self, size: int = 16 * MIB) -> None:
        self.memory = bytearray(size)
        self.roms: dict[int, bytes] = {}
        self.started: list[Start] = []

    def load(self, image: bytes, address: int) -> None:
        self.memory[address : address + len(image)] = image

    def rom(self, address: int, content: bytes) -> None:
        self.roms[address] = content

    def start(self, start: Start) -> None:
        self.started.append(start)


def placed(guest: Guest) -> Ram:
    ram = Ram()
    guest.place(ram)
    return ram


def refused(path: Path, around: Surroundings = AROUND) -> str:
    with pytest.raises(GuestError) as caught:
        load_guest(path, around)
    return str(caught.value)


# --- flat images and assembly -----------------------------------------------------------


def test_a_flat_image_begins_in_real_mode_at_0x1000(tmp_path: Path) -> None:
    guest = load_guest(file(tmp_path, b"\xf4", "g.bin"), AROUND)
    assert (guest.kind, guest.start) == ("flat", Start("real", 0x1000))
    assert guest.segments == (Segment(0x1000, b"\xf4"),)


def test_assembly_is_assembled_for_0x1000(tmp_path: Path) -> None:
    guest = load_guest(file(tmp_path, b"here: movw $here, %ax\n hlt\n", "g.s"), AROUND)
    assert guest.segments[0].content == b"\xb8\x00\x10\xf4"


def test_assembly_with_a_multiboot_header_is_a_kernel(tmp_path: Path) -> None:
    text = """
        .code32
begin:  .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000), begin, begin, 0, 0, entry
entry:  hlt
"""
    guest = load_guest(file(tmp_path, text.encode(), "g.s"), AROUND)
    assert (guest.kind, guest.start.mode, guest.start.ip) == ("multiboot", "flat32", 0x1020)


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "g.bin", "is empty"),
        (b"movw $", "g.s", "line 1"),
        (b"\xff\xfe", "g.s", "not text"),
        (bytes(17 * MIB), "g.bin", "--memory 18M"),
    ],
)
def test_what_is_no_flat_guest_is_refused(tmp_path: Path, content: bytes, name: str, says: str) -> None:
    assert says in refused(file(tmp_path, content, name))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "nowhere")
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize("around", [Surroundings(MIB, "quiet"), Surroundings(MIB, "", ((Path("x"), ""),))])
def test_a_flat_image_takes_no_command_line_and_no_modules(tmp_path: Path, around: Surroundings) -> None:
    assert "only a multiboot kernel takes" in refused(file(tmp_path, b"\xf4", "g.bin"), around)


# --- multiboot kernels ----------------------------------------------------------------------


def information(ram: Ram) -> tuple[int, tuple[int, ...]]:
    place = ram.started[0].registers["rbx"]
    return place, struct.unpack_from("<17I", ram.memory, place)


def text_at(ram: Ram, place: int) -> str:
    return bytes(ram.memory[place : ram.memory.index(0, place)]).decode()


def test_a_kernel_begins_in_flat_protected_mode_with_the_loader_s_magic(tmp_path: Path) -> None:
    path = file(tmp_path, KERNEL)
    ram = placed(load_guest(path, AROUND))
    (start,) = ram.started
    assert (kind_of(path), start.mode, start.ip) == ("multiboot", "flat32", 0x10000C)
    assert start.registers["rax"] == 0x2BADB002
    assert ram.memory[0x10000C:0x100010] == b"code"


def test_what_a_segment_has_no_bytes_for_is_zeros(tmp_path: Path) -> None:
    ram = Ram()
    ram.memory[0x200000:0x204000] = b"\xff" * 0x4000
    load_guest(file(tmp_path, KERNEL), AROUND).place(ram)
    assert ram.memory[0x200000:0x203000] == b"data".ljust(0x3000, b"\0")
    assert ram.memory[0x203000] == 0xFF


def test_an_entry_that_is_virtual_begins_at_its_physical_place(tmp_path: Path) -> None:
    content = elf32([(0x100000, header(), 64)], 0xC010000C, virtual=0xC0000000)
    assert load_guest(file(tmp_path, content), AROUND).start.ip == 0x10000C


def test_64_bit_elf_is_loaded_too(tmp_path: Path) -> None:
    guest = load_guest(file(tmp_path, elf64([(0x100000, header(), 64)], 0x10000C)), AROUND)
    assert (guest.start.mode, guest.start.ip) == ("flat32", 0x10000C)


def test_address_fields_load_any_format(tmp_path: Path) -> None:
    content = b"junk" + header(0x10000, 0x100004, 0x100000, 0x100040, 0x100080, 0x100024) + bytes(64)
    ram = placed(load_guest(file(tmp_path, content), AROUND))
    assert ram.memory[0x100000:0x100040] == content[:64]
    assert ram.started[0].ip == 0x100024


def test_the_kernel_is_told_memory_command_line_and_loader(tmp_path: Path) -> None:
    ram = placed(load_guest(file(tmp_path, KERNEL), Surroundings(16 * MIB, "one two")))
    _, fields = information(ram)
    assert fields[0] == 1 << 0 | 1 << 2 | 1 << 6 | 1 << 9
    assert (fields[1], fields[2]) == (640, 15 * 1024)
    assert text_at(ram, fields[4]) == "kernel.elf one two"
    assert text_at(ram, fields[16]) == "devc"


def test_the_memory_map_has_the_ram_and_the_tables_place(tmp_path: Path) -> None:
    ram = placed(load_guest(file(tmp_path, KERNEL), AROUND))
    _, fields = information(ram)
    length, place = fields[11], fields[12]
    found = [struct.unpack_from("<IQQI", ram.memory, place + at) for at in range(0, length, 24)]
    assert found == [(20, 0, 0xA0000, 1), (20, 0xE0000, 0x20000, 2), (20, MIB, 15 * MIB, 1)]


def test_ram_beyond_3_gib_goes_on_at_4_gib() -> None:
    last = memory_map(5 * GIB)[-2:]
    assert [(r.address, r.size, r.kind) for r in last] == [(MIB, 3 * GIB - MIB, 1), (4 * GIB, 2 * GIB, 1)]


def test_modules_are_page_aligned_behind_the_kernel_with_their_texts(tmp_path: Path) -> None:
    files = ((file(tmp_path, b"x" * 5000, "a"), "first"), (file(tmp_path, b"yy", "b"), "second one"))
    ram = placed(load_guest(file(tmp_path, KERNEL), Surroundings(16 * MIB, "", files)))
    _, fields = information(ram)
    assert fields[0] >> 3 & 1
    assert fields[5] == 2
    first, second = (struct.unpack_from("<4I", ram.memory, fields[6] + at) for at in (0, 16))
    assert (first[0], first[1]) == (0x203000, 0x203000 + 5000)
    assert (second[0], second[1]) == (0x205000, 0x205002)
    assert ram.memory[second[0] : second[1]] == b"yy"
    assert (text_at(ram, first[2]), text_at(ram, second[2])) == ("first", "second one")


def test_the_information_lies_low_unless_the_kernel_does(tmp_path: Path) -> None:
    low = elf32([(0x8000, header(), 0x80000)], 0x800C)
    assert information(placed(load_guest(file(tmp_path, KERNEL), AROUND)))[0] == 0x10000
    assert information(placed(load_guest(file(tmp_path, low), AROUND)))[0] == MIB


def test_the_acpi_tables_are_where_a_kernel_looks_for_them(tmp_path: Path) -> None:
    pc = Pc(Machine(), memory=16 * MIB)
    ram = placed(load_guest(file(tmp_path, KERNEL), pc.surroundings()))
    assert ram.memory[0xE0000:0xE0008] == b"RSD PTR "


DAMAGED = {
    "no multiboot header": elf32([(0x100000, b"code", 4)], 0x100000),
    "multiboot 2": b"\x7fELF" + bytes(60) + struct.pack("<I", 0xE85250D6) + bytes(64),
    "ELF headers are damaged": header() + bytes(100),
    "another processor": elf32([(0x100000, header(), 12)], 0x100000, machine=8),
    "load nothing": elf32([], 0) + header(),
    "beyond the end of the file": elf32([(0x100000, header() + bytes(8), 20)], 0x100000)[:-4],
    "beyond 4 GiB": elf32([(0xFFFFFF00, header(), 0x200)], 0xFFFFFF00),
    "outside of what it loads": elf32([(0x100000, header(), 12)], 0x500000),
    "no loader knows": elf32([(0x100000, header(0x8), 12)], 0x100000),
    "do not fit the file": header(0x10000, 0x100000, 0x200000, 0, 0, 0x100000),
    "end before what they load": header(0x10000, 0x100000, 0x100000, 0x100020, 0x100010, 0x100000),
    "two of its parts": elf32([(0x100000, header(), 64), (0x100010, b"x", 1)], 0x100000),
    "give it more: --memory": elf32([(0x100000, header(), 0xF000_0000)], 0x100000),
    "cut short": bytes(8) + header(0x10000, 1, 2),
}


@pytest.mark.parametrize("says", DAMAGED)
def test_a_damaged_kernel_is_refused_with_the_reason(tmp_path: Path, says: str) -> None:
    assert says in refused(file(tmp_path, DAMAGED[says]))


@pytest.mark.parametrize("says", ["larger", "module"])
def test_modules_that_do_not_fit_or_are_not_there_are_refused(tmp_path: Path, says: str) -> None:
    module = file(tmp_path, bytes(17 * MIB), "m") if says == "larger" else tmp_path / "nowhere"
    message = refused(file(tmp_path, KERNEL), Surroundings(16 * MIB, "", ((module, ""),)))
    assert ("--memory" if says == "larger" else "cannot read the module") in message


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_kernel_raises_anything_but_a_guest_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(data.draw(st.sampled_from([KERNEL, elf64([(0x100000, header(), 64)], 0x10000C)])))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "mutant.elf"
    path.write_bytes(content)
    try:
        guest = load_guest(path, AROUND)
    except GuestError:
        return
    for segment in guest.segments:
        assert segment.address + len(segment.content) <= 16 * MIB


# --- firmware -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 128, 256])
def test_firmware_is_below_4_gib_and_copied_below_1_mib(tmp_path: Path, size: int) -> None:
    content = bytes([size & 0xFF, 1]) * (size << 9)
    guest = load_firmware(file(tmp_path, content, "bios.bin"), 16 * MIB)
    ram = placed(guest)
    assert ram.roms == {4 * GIB - len(content): content}
    assert ram.memory[MIB - len(content) : MIB] == content
    assert ram.started == [Start("reset", 0xFFFF_FFF0)]


def test_a_reset_copies_the_firmware_again_and_leaves_the_rest(tmp_path: Path) -> None:
    guest = load_firmware(file(tmp_path, b"B" * 65536, "bios.bin"), 16 * MIB)
    ram = placed(guest)
    ram.memory[0x7C00] = ram.memory[MIB - 1] = 0x55
    guest.replace(ram)
    assert (ram.memory[0x7C00], ram.memory[MIB - 1], len(ram.started)) == (0x55, ord("B"), 2)


@pytest.mark.parametrize("content", [b"", bytes(1000), bytes(512 << 10)])
def test_what_is_no_firmware_image_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(GuestError, match=r"SeaBIOS's bios\.bin"):
        load_firmware(file(tmp_path, content, "bios.bin"), 16 * MIB)


def test_firmware_needs_1_mib(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="at least 1 MiB"):
        load_firmware(file(tmp_path, bytes(65536), "bios.bin"), 0xA0000)
