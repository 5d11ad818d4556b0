"""The board's ports: consoles, exit, reset, sleep, CMOS contents, firmware configuration."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from devc.runtime.machine import Machine
from devc.runtime.pc import cmos
from devc.runtime.pc.board import Pc
from devc.runtime.pc.parts import pack, unpack
from devc.runtime.pc.wiring import pc_lines, vector
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 1 << 20


class Stopper:
    """As much of a Vmm as a board without interrupts needs."""

    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


def machine(*devices: str) -> Machine:
    made = Machine()
    for name in devices:
        made.add(name)
    return made


def board(made: Machine, **options: Any) -> Pc:
    pc = Pc(made, memory=options.pop("memory", 128 * MIB), **options)
    pc._stop = Stopper().stop
    return pc


def request(pc: Pc) -> tuple[str, int] | None:
    return pc._request


@pytest.mark.parametrize("port", [0xE9, 0x402])
def test_consoles_take_bytes_and_read_as_boch_s(port: int) -> None:
    said: list[bytes] = []
    made = machine()
    board(made, console=said.append)
    made.write("io", port, 1, ord("x"))
    assert (said, made.read("io", port, 1)) == ([b"x"], 0xE9)


@pytest.mark.parametrize(("width", "value"), [(1, 0x12), (2, 0x1234), (4, 0x12345678)])
def test_the_exit_port_takes_a_status_of_any_width(width: int, value: int) -> None:
    made = machine()
    pc = board(made)
    made.write("io", 0xF4, width, value)
    assert request(pc) == ("exit", value)


def test_the_first_request_counts() -> None:
    made = machine()
    pc = board(made)
    made.write("io", 0xF4, 1, 3)
    made.write("io", 0x92, 1, 1)
    assert request(pc) == ("exit", 3)


@pytest.mark.parametrize("port_and_value", [(0x92, 3), (0xCF9, 6), (0x64, 0xFE)])
def test_a_guest_resets_the_machine_in_three_ways(port_and_value: tuple[int, int]) -> None:
    made = machine()
    pc = board(made)
    port, value = port_and_value
    made.write("io", port, 1, value)
    assert request(pc) == ("reset", 0)


def test_system_control_says_that_a20_is_open() -> None:
    made = machine()
    pc = board(made)
    assert made.read("io", 0x92, 1) == 2
    made.write("io", 0x92, 1, 2)
    assert request(pc) is None


def test_the_reset_control_register_resets_at_the_rise_of_its_bit() -> None:
    made = machine()
    pc = board(made)
    made.write("io", 0xCF9, 1, 2)
    assert (request(pc), made.read("io", 0xCF9, 1)) == (None, 2)


def test_pci_is_there_and_empty() -> None:
    made = machine()
    board(made)
    made.write("io", 0xCF8, 4, 0x8000_0008)
    assert made.read("io", 0xCF8, 4) == 0x8000_0008
    assert made.read("io", 0xCFC, 4) == 0xFFFF_FFFF


@pytest.mark.parametrize(("kind", "asked"), [(0, "off"), (1, "sleep"), (5, None)])
def test_pm1_control_turns_off_or_sleeps_by_sleep_type(kind: int, asked: str | None) -> None:
    made = machine("acpi_pm")
    pc = board(made)
    made.write("io", 0x60C, 2, kind << 10)
    assert request(pc) is None
    assert made.read("io", 0x60C, 2) == kind << 10 | 1  # SCI_EN
    made.write("io", 0x60C, 2, kind << 10 | 1 << 13)
    assert request(pc) == (None if asked is None else (asked, 0))
    assert made.read("io", 0x60C, 2) == kind << 10 | 1  # SLP_EN reads 0


def test_pm1_control_stands_beside_a_moved_timer() -> None:
    made = Machine()
    made.add("acpi_pm", base=0xB000)
    pc = board(made)
    made.write("io", 0xB00C, 2, 1 << 13)
    assert request(pc) == ("off", 0)


def cmos_byte(made: Machine, index: int) -> int:
    made.write("io", 0x70, 1, index)
    return made.read("io", 0x71, 1)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (MIB, {0x15: 0x80, 0x16: 2, 0x17: 0, 0x18: 0, 0x34: 0, 0x35: 0}),
        (128 * MIB, {0x17: 0xFF, 0x18: 0xFF, 0x30: 0xFF, 0x31: 0xFF, 0x34: 0x00, 0x35: 0x07, 0x5B: 0}),
        (3072 * MIB, {0x34: 0x00, 0x35: 0xBF, 0x5B: 0, 0x5C: 0, 0x5D: 0}),
        (5120 * MIB, {0x34: 0x00, 0x35: 0xBF, 0x5B: 0x00, 0x5C: 0x80, 0x5D: 0}),
        (3 * MIB, {0x17: 0x00, 0x18: 0x08, 0x34: 0}),
    ],
)
def test_cmos_tells_how_much_memory_there_is(memory: int, expected: dict[int, int]) -> None:
    made = machine("mc146818")
    board(made, memory=memory)
    assert {index: cmos_byte(made, index) for index in expected} == expected


def test_cmos_goes_through_a_moved_clock_s_ports() -> None:
    made = Machine()
    made.add("mc146818", base=0x170 + 0x100)
    board(made, vcpus=3)
    made.write("io", 0x270, 1, 0x5F)
    assert made.read("io", 0x271, 1) == 2


def test_cmos_s_checksum_covers_the_set_up_bytes() -> None:
    contents = cmos.contents(128 * MIB, 0, disk=True)
    total = sum(contents.get(index, 0) for index in range(0x10, 0x2E))
    assert contents[0x2E] << 8 | contents[0x2F] == total


def test_the_firmware_configuration_tells_memory_and_vcpus() -> None:
    made = machine()
    board(made, memory=256 * MIB, vcpus=4)

    def item(key: int, size: int) -> bytes:
        made.write("io", 0x510, 2, key)
        return bytes(made.read("io", 0x511, 1) for _ in range(size))

    assert item(0, 6) == b"QEMU\0\0"
    assert int.from_bytes(item(3, 8), "little") == 256 * MIB
    assert item(5, 2) == b"\x04\0"
    assert item(0x7777, 2) == b"\0\0"


def test_the_firmware_configuration_lists_its_files_with_keys_and_sizes() -> None:
    made = machine("acpi_pm")
    board(made)

    def item(key: int, size: int) -> bytes:
        made.write("io", 0x510, 2, key)
        return bytes(made.read("io", 0x511, 1) for _ in range(size))

    directory = item(0x19, 4 + 3 * 64)
    assert int.from_bytes(directory[:4], "big") == 3
    found = {}
    for at in range(4, len(directory), 64):
        size, key = struct.unpack_from(">IH", directory, at)
        found[directory[at + 8 : at + 64].rstrip(b"\0").decode()] = item(key, size)
    assert list(found) == ["etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"]
    assert found["etc/acpi/rsdp"][:8] == b"RSD PTR "
    assert b"FACP" in found["etc/acpi/tables"]


def test_a_pc_s_timers_lead_through_the_hpet_where_there_is_one() -> None:
    assert dict(pc_lines(machine("i8254", "mc146818", "acpi_pm"))) == {
        "i8254.irq0": 0,
        "mc146818.irq8": 8,
        "acpi_pm.sci": 9,
    }
    lines = dict(pc_lines(machine("i8254", "mc146818", "hpet")))
    assert (lines["i8254.irq0"], lines["mc146818.irq8"]) == ("hpet.pit", "hpet.rtc")
    assert (lines["hpet.irq[2]"], lines["hpet.irq[8]"], lines["hpet.irq[23]"]) == (0, 8, 23)


def test_vectors_without_a_controller_are_those_of_dos() -> None:
    assert [vector(n) for n in (0, 7, 8, 15)] == [0x20, 0x27, 0x70, 0x77]


def test_a_reset_keeps_the_clock_running_and_the_cmos_and_clears_the_rest() -> None:
    made = machine("mc146818", "i8254", "acpi_pm")
    pc = board(made)
    made.write("io", 0x43, 1, 0x34)
    made.write("io", 0x40, 1, 1)
    made.write("io", 0x70, 1, 0x0B)
    made.write("io", 0x71, 1, 0x42)
    made.step(3_500_000_000)
    pc.reset()
    assert cmos_byte(made, 0x00) == 3
    assert cmos_byte(made, 0x35) == 7
    assert cmos_byte(made, 0x0B) & 0x70 == 0  # RESET clears the interrupts' enables
    assert made.devices["i8254"].instance.get("channel.written", 0) == 0


PORTS = [*range(0x1F0, 0x1F8), 0x3F6, *range(0x3F8, 0x400), 0x64, 0x92, 0xE9, *range(0xF4, 0xF8)]
PORTS += [0x402, 0x510, 0x511, 0x60C, 0x60D, *range(0xCF8, 0xD00), 0x2000, 0x2017]
ACCESSES = st.lists(
    st.tuples(st.sampled_from(PORTS), st.sampled_from([1, 2, 4, 8]), st.booleans(), st.integers(0, 2**64 - 1))
)


@settings(max_examples=100, deadline=None)
@given(accesses=ACCESSES)
def test_no_sequence_of_accesses_breaks_the_board(accesses: list[tuple[int, int, bool, int]]) -> None:
    made = machine("acpi_pm")
    pc = board(made, serial=len, console=len)
    pc.tests.pins = [lambda level: None] * 24
    for port, width, write, value in accesses:
        if write:
            made.write("io", port, width, value)
        else:
            assert 0 <= made.read("io", port, width) < 1 << 8 * width
    assert not made.failures
    for part in pc.parts.values():
        assert part.misfit(unpack(type(part.registers), pack(part.registers))) == ""
