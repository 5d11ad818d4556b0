"""ACPI tables: lengths, checksums, pointers, and what they say of the machine's devices."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from devc.runtime.machine import Machine
from devc.runtime.pc import acpi, acpi_loader
from devc.runtime.pc.board import Pc

BASE = 0xE0000


def tables(*devices: str, vcpus: int = 1, **params: int) -> acpi.Tables:
    machine = Machine()
    for name in devices:
        machine.add(name, **{k.partition("_")[2]: v for k, v in params.items() if k.startswith(name[:2])})
    return Pc(machine, memory=128 << 20, vcpus=vcpus).tables


ALL = ("i8254", "mc146818", "hpet", "acpi_pm")


def at(made: acpi.Tables, address: int, size: int) -> bytes:
    start = address - made.address
    assert 0 <= start <= start + size <= len(made.content)
    return made.content[start : start + size]


def table(made: acpi.Tables, signature: str) -> bytes:
    place = made.places[signature]
    (length,) = struct.unpack("<I", at(made, place + 4, 4))
    return at(made, place, length)


def u32(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 4], "little")


def u64(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 8], "little")


@pytest.mark.parametrize("signature", ["FACP", "DSDT", "APIC", "HPET", "RSDT", "XSDT"])
def test_each_table_sums_to_zero_and_has_its_length(signature: str) -> None:
    content = table(tables(*ALL), signature)
    assert content[:4] == signature.encode()
    assert sum(content) & 0xFF == 0


def test_the_root_pointer_is_first_with_both_its_checksums() -> None:
    made = tables(*ALL)
    root = at(made, BASE, 36)
    assert root[:8] == b"RSD PTR "
    assert (sum(root[:20]) & 0xFF, sum(root) & 0xFF) == (0, 0)
    assert (u32(root, 16), u64(root, 24)) == (made.places["RSDT"], made.places["XSDT"])
    assert (root[15], u32(root, 20)) == (2, 36)


def test_both_root_tables_name_every_table() -> None:
    made = tables(*ALL)
    rsdt, xsdt = table(made, "RSDT"), table(made, "XSDT")
    short = [u32(rsdt, i) for i in range(36, len(rsdt), 4)]
    assert short == [u64(xsdt, i) for i in range(36, len(xsdt), 8)]
    assert [at(made, place, 4) for place in short] == [b"FACP", b"APIC", b"HPET"]


def test_the_fixed_table_says_where_the_pm_timer_is() -> None:
    fadt = table(tables(*ALL), "FACP")
    assert len(fadt) == 276
    assert (u32(fadt, 76), fadt[91]) == (0x608, 4)
    assert fadt[208:220] == bytes((1, 32, 0, 3)) + (0x608).to_bytes(8, "little")
    assert (u32(fadt, 56), fadt[88]) == (0x600, 4)
    assert (u32(fadt, 64), fadt[89]) == (0x60C, 2)
    assert int.from_bytes(fadt[46:48], "little") == 9


def test_a_moved_and_wide_pm_timer_shows() -> None:
    fadt = table(tables("acpi_pm", ac_base=0xB000, ac_wide=1), "FACP")
    assert (u32(fadt, 76), u32(fadt, 112) >> 8 & 1) == (0xB008, 1)
    assert u32(table(tables("acpi_pm"), "FACP"), 112) >> 8 & 1 == 0


def test_without_a_pm_timer_there_is_no_fixed_hardware() -> None:
    fadt = table(tables("i8254"), "FACP")
    assert (u32(fadt, 56), u32(fadt, 64), u32(fadt, 76)) == (0, 0, 0)
    assert u32(fadt, 112) >> 20 & 1  # HW_REDUCED_ACPI


def test_the_clock_shows_as_century_and_boot_flag() -> None:
    with_clock, without = table(tables("mc146818"), "FACP"), table(tables("i8254"), "FACP")
    assert (with_clock[108], with_clock[109] >> 5 & 1) == (0x32, 0)
    assert (without[108], without[109] >> 5 & 1) == (0, 1)


def test_the_reset_register_is_port_cf9() -> None:
    fadt = table(tables(*ALL), "FACP")
    assert u32(fadt, 112) >> 10 & 1
    assert fadt[116:129] == bytes((1, 8, 0, 1)) + (0xCF9).to_bytes(8, "little") + b"\x06"


def test_facs_and_dsdt_are_where_the_fixed_table_says_and_aligned() -> None:
    made = tables(*ALL)
    fadt = table(made, "FACP")
    assert at(made, u32(fadt, 36), 8) == b"FACS" + (64).to_bytes(4, "little")
    assert u32(fadt, 36) % 64 == 0
    assert at(made, u32(fadt, 40), 4) == b"DSDT"
    assert u64(fadt, 140) == u32(fadt, 40)


def entries(madt: bytes) -> list[bytes]:
    found, offset = [], 44
    while offset < len(madt):
        found.append(madt[offset : offset + madt[offset + 1]])
        offset += madt[offset + 1]
    assert offset == len(madt)
    return found


@pytest.mark.parametrize("vcpus", [1, 4])
def test_the_apic_table_lists_each_vcpu_and_the_io_apic(vcpus: int) -> None:
    found = entries(table(tables(*ALL, vcpus=vcpus), "APIC"))
    processors = [e for e in found if e[0] == 0]
    assert [(e[2], e[3], u32(e, 4)) for e in processors] == [(n, n, 1) for n in range(vcpus)]
    (io_apic,) = [e for e in found if e[0] == 1]
    assert (u32(io_apic, 4), u32(io_apic, 8)) == (0xFEC0_0000, 0)


def test_without_local_apics_there_is_no_table_of_them() -> None:
    made = Pc(Machine(), "none", memory=128 << 20).tables
    assert "APIC" not in made.places
    assert len(table(made, "XSDT")) == 36 + 8


@pytest.mark.parametrize("controllers", [(), ("i8259",), ("i8259", "ioapic")])
def test_controllers_that_are_device_files_are_listed_if_they_are_there(controllers: tuple[str, ...]) -> None:
    machine = Machine()
    for name in controllers:
        machine.add(name)
    content = table(Pc(machine, "split", memory=128 << 20).tables, "APIC")
    assert u32(content, 40) == ("i8259" in controllers)  # PCAT_COMPAT: there are 8259s
    assert len([e for e in entries(content) if e[0] == 1]) == ("ioapic" in controllers)


def test_interrupt_0_is_input_2_and_the_sci_is_a_level() -> None:
    overrides = [e for e in entries(table(tables(*ALL), "APIC")) if e[0] == 2]
    assert [(e[3], u32(e, 4), e[8]) for e in overrides] == [(0, 2, 0), (9, 9, 0x0D)]


def test_the_hpet_table_repeats_the_device_s_capabilities() -> None:
    machine = Machine()
    machine.add("hpet", timers=5, base=0xFED0_1000)
    made = Pc(machine, memory=1 << 20).tables
    content = table(made, "HPET")
    assert u32(content, 36) == machine.peek("mmio", 0xFED0_1000, 4)
    assert (u32(content, 36) >> 8 & 0x1F, u64(content, 44)) == (4, 0xFED0_1000)


def test_without_an_hpet_there_is_no_table_of_it() -> None:
    assert "HPET" not in tables("i8254", "acpi_pm").places


def test_no_two_tables_overlap() -> None:
    made = tables(*ALL, vcpus=8)
    spans = sorted(
        (place, place + len(table(made, s))) for s, place in made.places.items() if s != "RSD PTR "
    )
    assert spans[0][0] >= BASE + 36
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


# --- the tables as files that a firmware links ------------------------------------------------


def linked(files: dict[str, bytes], places: dict[str, int]) -> dict[str, bytearray]:
    """What a firmware makes of the script, each file at a place of its own."""
    memory: dict[str, bytearray] = {}
    script = files[acpi_loader.LOADER]
    for at in range(0, len(script), 128):
        command, names = u32(script, at), script[at + 4 :]
        file = names[:56].rstrip(b"\0").decode()
        if command == 1:
            alignment, zone = struct.unpack_from("<IB", names, 56)
            # The root pointer is looked for below 1 MiB only: zone 2.
            assert (places[file] % alignment, zone) == (0, 2 if file == acpi_loader.RSDP else 1)
            memory[file] = bytearray(files[file])
        elif command == 2:
            source = names[56:112].rstrip(b"\0").decode()
            offset, size = struct.unpack_from("<IB", names, 112)
            value = int.from_bytes(memory[file][offset : offset + size], "little") + places[source]
            memory[file][offset : offset + size] = value.to_bytes(size, "little")
        else:
            assert command == 3
            offset, start, length = struct.unpack_from("<III", names, 56)
            memory[file][offset] = (memory[file][offset] - sum(memory[file][start : start + length])) & 0xFF
    return memory


def test_a_firmware_that_follows_the_script_gets_the_tables_as_built_there() -> None:
    about = acpi.Description(vcpus=3, pm_base=0x600, pm_control=0x60C, hpet=(0xFED0_0000, 0x8086_A201))
    places = {acpi_loader.RSDP: 0xF6780, acpi_loader.TABLES: 0x07FF_F000}
    memory = linked(acpi_loader.files(about), places)
    there = acpi.build(about, places[acpi_loader.TABLES] - acpi.ROOT)
    assert bytes(memory[acpi_loader.TABLES]) == there.content[acpi.ROOT :]
    assert bytes(memory[acpi_loader.RSDP]) == there.content[:36]
