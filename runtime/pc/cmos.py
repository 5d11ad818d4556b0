"""What a PC's firmware expects in CMOS RAM: memory sizes, boot order, vCPUs.

The indices are those of the IBM AT and of QEMU's PC, which SeaBIOS reads. They are
written through the clock's own ports, as a set-up program would.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..machine import Machine

_KIB, _64_KIB = 1 << 10, 1 << 16
_MIB, _16_MIB, _4_GIB = 1 << 20, 16 << 20, 4 << 30

CONVENTIONAL = 640 * _KIB
SHUTDOWN, WAKING = 0x0F, 0xFE
"""The shutdown status, and the one by which SeaBIOS knows a wake from S3."""
DISK_FIRST = 0x02
"""Boot order: nibbles from the lowest on; 1 floppy disk, 2 hard disk, 3 CD-ROM."""


def contents(below: int, above: int, *, vcpus: int = 1, disk: bool = False) -> dict[int, int]:
    """Bytes by index: `below` and `above` are the bytes of RAM below and above 4 GiB."""
    extended = min(max(below - _MIB, 0) // _KIB, 0xFFFF)
    beyond_16 = min(max(below - _16_MIB, 0) // _64_KIB, 0xFFFF)
    words = {
        0x15: min(below, CONVENTIONAL) // _KIB,
        0x17: extended,
        0x30: extended,
        0x34: beyond_16,
        0x5C: above // _64_KIB >> 8 & 0xFFFF,
    }
    cmos = {at + i: value >> 8 * i & 0xFF for at, value in words.items() for i in (0, 1)}
    cmos[0x5B] = above // _64_KIB & 0xFF
    cmos[SHUTDOWN] = 0  # a cold start
    cmos[0x10] = 0  # no floppy disk drives
    cmos[0x12] = 0xF0 if disk else 0  # drive 0 is described at 0x19
    cmos[0x14] = 0  # equipment: no display, no keyboard
    cmos[0x19] = 47 if disk else 0  # "user defined"
    cmos[0x38] = 0x01  # do not look for a boot signature on floppy disks
    cmos[0x39] = 0x01 if disk else 0  # drive 0: LBA translation
    cmos[0x3D] = DISK_FIRST
    cmos[0x5F] = vcpus - 1
    total = sum(cmos.get(index, 0) for index in range(0x10, 0x2E))
    cmos[0x2E], cmos[0x2F] = total >> 8 & 0xFF, total & 0xFF
    return cmos


def write(machine: Machine, cmos: Mapping[int, int], base: int = 0x70) -> None:
    """Put bytes into the CMOS RAM of the clock at port `base`."""
    for index, value in sorted(cmos.items()):
        machine.write("io", base, 1, index)
        machine.write("io", base + 1, 1, value)
