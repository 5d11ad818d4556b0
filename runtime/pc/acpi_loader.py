"""ACPI tables for a firmware to place: files of fw_cfg, and the script that links them.

The script is QEMU's table loader (hw/acpi/bios-linker-loader.c), which SeaBIOS and
OVMF follow: allocate each file, add the files' addresses to the pointers within, then
make every checksum right.
"""

from __future__ import annotations

import struct

from .acpi import ROOT, Description, build

RSDP, TABLES, LOADER = "etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"
_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM = 1, 2, 3
_HIGH, _F_SEGMENT = 1, 2
_ENTRY = 128
_NAME = 56


def files(about: Description) -> dict[str, bytes]:
    """The files by name; addresses in the tables count from their file's beginning."""
    made = build(about, -ROOT)
    rsdp, tables = made.content[:36], made.content[ROOT:]
    script = [_allocate(RSDP, 16, _F_SEGMENT), _allocate(TABLES, 64, _HIGH)]
    for offset, size in made.pointers:
        file, at = _within(offset)
        script.append(_entry(_ADD_POINTER, _name(file) + _name(TABLES) + struct.pack("<IB", at, size)))
    # The RSDP's own sums are over addresses too, so all sums come last.
    for offset, first, length in made.sums:
        file, at = _within(offset)
        start = _within(first)[1]
        script.append(_entry(_ADD_CHECKSUM, _name(file) + struct.pack("<III", at, start, length)))
    return {RSDP: rsdp, TABLES: tables, LOADER: b"".join(script)}


def _within(offset: int) -> tuple[str, int]:
    return (RSDP, offset) if offset < ROOT else (TABLES, offset - ROOT)


def _allocate(file: str, alignment: int, zone: int) -> bytes:
    return _entry(_ALLOCATE, _name(file) + struct.pack("<IB", alignment, zone))


def _name(file: str) -> bytes:
    return file.encode().ljust(_NAME, b"\0")


def _entry(command: int, content: bytes) -> bytes:
    return (command.to_bytes(4, "little") + content).ljust(_ENTRY, b"\0")
