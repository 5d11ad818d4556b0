"""The ATA disk, as a driver that polls or waits for its interrupt meets it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from devc.runtime.machine import Machine
from devc.runtime.pc.ata import AtaDisk, identification
from devc.runtime.pc.disk_image import SECTOR, DiskError, DiskImage
from devc.runtime.pc.parts import pack, unpack
from hypothesis import given, settings
from hypothesis import strategies as st

SECTORS = 2100
BUSY, READY, REQUEST, FAILED = 0x80, 0x40, 0x08, 0x01
ABORTED, NOT_FOUND = 0x04, 0x10
LBA = 0xE0
READ, READ_EXT, READ_MULTIPLE, WRITE, WRITE_EXT, WRITE_MULTIPLE = 0x20, 0x24, 0xC4, 0x30, 0x34, 0xC5


def pattern(sector: int) -> bytes:
    return (sector.to_bytes(4, "little") * (SECTOR // 4))[:SECTOR]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(pattern(n) for n in range(SECTORS)))
    return path


class Driver:
    """A guest's driver over a machine's ports."""

    def __init__(self, disk: DiskImage | None) -> None:
        self.machine = Machine()
        self.levels: list[int] = []
        self.disk = AtaDisk(disk, self.levels.append)
        self.disk.claim(self.machine)

    def inb(self, port: int) -> int:
        return self.machine.read("io", port, 1)

    def outb(self, port: int, value: int) -> None:
        self.machine.write("io", port, 1, value)

    @property
    def status(self) -> int:
        return self.inb(0x1F7)

    @property
    def alternate(self) -> int:
        return self.inb(0x3F6)

    @property
    def error(self) -> int:
        return self.inb(0x1F1)

    def command(self, code: int, sector: int = 0, count: int = 1) -> None:
        """Addressed by 28 bits, or by 48 for the EXT commands."""
        if code in (READ_EXT, WRITE_EXT, 0x29, 0x39, 0x42):
            for port, value in ((0x1F2, count), (0x1F3, sector), (0x1F4, sector >> 8), (0x1F5, sector >> 16)):
                high = value >> 8 if port == 0x1F2 else sector >> {0x1F3: 24, 0x1F4: 32, 0x1F5: 40}[port]
                self.outb(port, high & 0xFF)
                self.outb(port, value & 0xFF)
            self.outb(0x1F6, 0x40)
        else:
            for port, value in ((0x1F2, count), (0x1F3, sector), (0x1F4, sector >> 8), (0x1F5, sector >> 16)):
                self.outb(port, value & 0xFF)
            self.outb(0x1F6, LBA | sector >> 24 & 15)
        self.outb(0x1F7, code)

    def data(self, words: int = SECTOR // 2) -> bytes:
        return b"".join(self.machine.read("io", 0x1F0, 2).to_bytes(2, "little") for _ in range(words))

    def send(self, content: bytes) -> None:
        for at in range(0, len(content), 2):
            self.machine.write("io", 0x1F0, 2, int.from_bytes(content[at : at + 2], "little"))


@pytest.fixture
def driver(image: Path) -> Iterator[Driver]:
    disk = DiskImage(image, writable=True)
    yield Driver(disk)
    disk.close()


def test_identify_tells_sectors_geometry_and_name(driver: Driver) -> None:
    driver.command(0xEC)
    assert driver.status & REQUEST
    words = [int.from_bytes(driver.data(1), "little") for _ in range(256)]
    assert words[60] | words[61] << 16 == SECTORS
    assert words[100] | words[101] << 16 == SECTORS
    assert (words[1], words[3], words[6]) == (SECTORS // (16 * 63), 16, 63)
    name = b"".join(word.to_bytes(2, "big") for word in words[27:47])
    assert name.strip() == b"DEVC DISK"
    assert not driver.status & REQUEST


def test_the_identification_sums_to_zero(driver: Driver) -> None:
    disk = driver.disk.disk
    assert disk is not None
    content = identification(disk, 0)
    assert (content[510], sum(content) & 0xFF) == (0xA5, 0)


@pytest.mark.parametrize("code", [READ, READ_EXT])
@pytest.mark.parametrize("sector", [0, 1, 255, SECTORS - 1])
def test_a_sector_is_read_at_its_address(driver: Driver, code: int, sector: int) -> None:
    driver.command(code, sector)
    assert driver.data() == pattern(sector)
    assert driver.status == READY | 0x10


def test_a_sector_is_read_by_cylinder_head_and_sector(driver: Driver) -> None:
    for port, value in ((0x1F2, 1), (0x1F3, 5), (0x1F4, 1), (0x1F5, 0), (0x1F6, 0xA0 | 3), (0x1F7, READ)):
        driver.outb(port, value)
    assert driver.data() == pattern((1 * 16 + 3) * 63 + 4)


def test_wide_and_narrow_reads_of_the_data_port_take_as_many_bytes(driver: Driver) -> None:
    driver.command(READ, 7)
    first = driver.machine.read("io", 0x1F0, 4).to_bytes(4, "little")
    second = driver.machine.read("io", 0x1F0, 1).to_bytes(1, "little")
    assert first + second == pattern(7)[:5]


def test_each_sector_of_a_read_raises_the_interrupt_and_reading_the_status_ends_it(driver: Driver) -> None:
    driver.command(READ, 0, 3)
    for sector in range(3):
        assert driver.levels[-1] == 1
        assert driver.status & REQUEST
        assert driver.levels[-1] == 0
        assert driver.data() == pattern(sector)
    assert driver.levels == [1, 0] * 3


def test_the_alternate_status_leaves_the_interrupt(driver: Driver) -> None:
    driver.command(READ)
    assert driver.alternate & REQUEST
    assert driver.levels == [1]


def test_a_disabled_interrupt_comes_when_it_is_enabled(driver: Driver) -> None:
    driver.outb(0x3F6, 2)
    driver.command(READ)
    assert driver.levels == []
    driver.outb(0x3F6, 0)
    assert driver.levels == [1]


def test_multiple_reads_bring_several_sectors_at_an_interrupt(driver: Driver) -> None:
    driver.outb(0x1F2, 4)
    driver.outb(0x1F7, 0xC6)
    assert not driver.status & FAILED
    driver.levels.clear()
    driver.command(READ_MULTIPLE, 10, 6)
    assert driver.status & REQUEST
    assert driver.data(4 * 256) == b"".join(pattern(n) for n in range(10, 14))
    assert driver.status & REQUEST
    assert driver.data(2 * 256) == pattern(14) + pattern(15)
    assert not driver.status & REQUEST
    assert driver.levels == [1, 0, 1, 0]


@pytest.mark.parametrize("count", [3, 32])
def test_a_count_that_the_disk_has_not_is_refused_by_set_multiple(driver: Driver, count: int) -> None:
    driver.outb(0x1F2, count)
    driver.outb(0x1F7, 0xC6)
    assert (driver.status & FAILED, driver.error) == (FAILED, ABORTED)


def test_multiple_reads_before_set_multiple_are_refused(driver: Driver) -> None:
    driver.command(READ_MULTIPLE)
    assert (driver.status & FAILED, driver.error) == (FAILED, ABORTED)


@pytest.mark.parametrize("code", [WRITE, WRITE_EXT])
def test_sectors_are_written_to_the_image(driver: Driver, image: Path, code: int) -> None:
    driver.command(code, 2000, 2)
    assert driver.levels == []  # the first block is not asked for by an interrupt
    for fill in (b"A", b"B"):
        assert driver.status & REQUEST
        driver.send(fill * SECTOR)
        assert driver.levels[-1] == 1
    assert driver.status == READY | 0x10
    assert image.read_bytes()[2000 * SECTOR : 2002 * SECTOR] == b"A" * SECTOR + b"B" * SECTOR


def test_a_read_only_disk_refuses_writes_and_stays_as_it_is(image: Path) -> None:
    before = image.read_bytes()
    driver = Driver(DiskImage(image))
    driver.command(WRITE, 3)
    assert (driver.status & (FAILED | REQUEST), driver.error) == (FAILED, ABORTED)
    driver.send(bytes(SECTOR))
    assert image.read_bytes() == before


@pytest.mark.parametrize(("sector", "count"), [(SECTORS, 1), (SECTORS - 1, 2), (0xFFF_FFFF, 1), (2000, 0)])
def test_what_reaches_beyond_the_disk_is_not_found(driver: Driver, sector: int, count: int) -> None:
    driver.command(READ, sector, count)  # count 0: 256 sectors
    assert (driver.status & (FAILED | REQUEST), driver.error) == (FAILED, NOT_FOUND)


def test_an_unknown_command_is_aborted(driver: Driver) -> None:
    driver.command(0x06)
    assert (driver.status & FAILED, driver.error) == (FAILED, ABORTED)


def test_a_soft_reset_is_busy_until_it_ends_and_leaves_the_signature(driver: Driver) -> None:
    driver.command(READ)
    driver.outb(0x3F6, 4)
    assert driver.alternate == BUSY
    driver.outb(0x3F6, 0)
    assert driver.alternate == READY | 0x10
    assert [driver.inb(port) for port in (0x1F1, 0x1F2, 0x1F3, 0x1F4, 0x1F5)] == [1, 1, 1, 0, 0]


def test_device_1_is_absent(driver: Driver) -> None:
    driver.outb(0x1F6, 0xB0)
    assert driver.status == 0
    driver.outb(0x1F7, 0xEC)
    assert driver.levels == []
    driver.outb(0x1F6, 0xA0)
    assert driver.status == READY | 0x10


def test_the_previous_bytes_show_with_hob_and_a_write_hides_them(driver: Driver) -> None:
    driver.outb(0x1F3, 0x12)
    driver.outb(0x1F3, 0x34)
    driver.outb(0x3F6, 0x80)
    assert driver.inb(0x1F3) == 0x12
    driver.outb(0x1F2, 0)
    assert driver.inb(0x1F3) == 0x34


def test_an_empty_channel_reads_zeros() -> None:
    driver = Driver(None)
    driver.command(0xEC)
    assert (driver.status, driver.alternate, driver.levels) == (0, 0, [])


def test_the_native_maximum_is_the_last_sector(driver: Driver) -> None:
    driver.command(0xF8)
    assert driver.inb(0x1F3) | driver.inb(0x1F4) << 8 == SECTORS - 1


def test_a_last_sector_cut_short_ends_in_zeros_and_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "short.img"
    path.write_bytes(b"x" * 700)
    disk = DiskImage(path, writable=True)
    assert (disk.sectors, disk.read(1)) == (2, b"x" * 188 + bytes(324))
    driver = Driver(disk)
    driver.command(WRITE, 1)
    driver.send(bytes(SECTOR))
    assert driver.error == ABORTED
    assert path.stat().st_size == 700
    disk.close()


@pytest.mark.parametrize("kind", ["missing", "empty", "folder"])
def test_what_is_no_disk_image_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    if kind == "empty":
        path.touch()
    if kind == "folder":
        path.mkdir()
    with pytest.raises(DiskError, match="disk"):
        DiskImage(path, writable=True)


_ports = st.sampled_from([*range(0x1F0, 0x1F8), 0x3F6])
_accesses = st.lists(
    st.tuples(_ports, st.sampled_from([1, 2, 4, 8]), st.booleans(), st.integers(0, 2**64 - 1))
)


@settings(max_examples=150, deadline=None)
@given(accesses=_accesses)
def test_no_sequence_of_accesses_breaks_the_disk(
    accesses: list[tuple[int, int, bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "disk.img"
    path.write_bytes(bytes(4 * SECTOR))
    disk = DiskImage(path, writable=True)
    driver = Driver(disk)
    for port, width, write, value in accesses:
        if write:
            driver.machine.write("io", port, width, value)
        else:
            assert 0 <= driver.machine.read("io", port, width) < 1 << 8 * width
    registers = driver.disk.registers
    assert driver.disk.misfit(unpack(type(registers), pack(registers))) == ""
    assert all(a != b for a, b in zip(driver.levels, driver.levels[1:], strict=False))
    disk.close()
    assert path.stat().st_size == 4 * SECTOR


@pytest.mark.parametrize("seed", range(12))
def test_drivers_that_lose_count_leave_the_disk_in_a_state_that_it_can_have(image: Path, seed: int) -> None:
    random = Random(seed)
    disk = DiskImage(image, writable=True)
    driver = Driver(disk)
    codes = [
        READ,
        READ_EXT,
        READ_MULTIPLE,
        WRITE,
        WRITE_EXT,
        WRITE_MULTIPLE,
        0x29,
        0x39,
        0x42,
        0x90,
        0xC6,
        0xEC,
        0xF8,
    ]
    for _ in range(100):
        kind, count = random.random(), random.choice([1, 255, 256, 257, 1000])
        if kind < 0.3:
            driver.command(
                random.choice(codes), random.choice([0, 5, SECTORS - 3]), random.choice([0, 1, 3, 16])
            )
        elif kind < 0.6:
            driver.data(count)
        elif kind < 0.9:
            driver.send(bytes(2 * count))
        else:
            driver.outb(0x3F6, random.choice([0, 2, 4, 0x80]))
        registers = driver.disk.registers
        assert driver.disk.misfit(unpack(type(registers), pack(registers))) == ""
    disk.close()
    assert image.stat().st_size == SECTORS * SECTOR
