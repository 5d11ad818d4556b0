"""Multiboot kernels as bytes, made field by field: good ones, and ready to be damaged."""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAGIC = 0x1BADB002


def header(flags: int = 0, *addresses: int) -> bytes:
    """The header; five addresses with bit 16 of `flags`: header, load, load end, bss end, entry."""
    check = -(MAGIC + flags) & 0xFFFF_FFFF
    return struct.pack("<III", MAGIC, flags, check) + struct.pack(f"<{len(addresses)}I", *addresses)


def elf32(
    segments: Sequence[tuple[int, bytes, int]], entry: int, *, machine: int = 3, virtual: int = 0
) -> bytes:
    """An ELF32 file of (physical address, bytes, size in memory); virtual addresses are `virtual` higher."""
    at = 52 + 32 * len(segments)
    headers, contents = b"", b""
    for address, content, size in segments:
        headers += struct.pack(
            "<8I", 1, at + len(contents), address + virtual, address, len(content), size, 7, 4
        )
        contents += content
    head = struct.pack(
        "<16sHHIIIIIHHHHHH",
        *(b"\x7fELF\x01\x01\x01", 2, machine, 1, entry, 52, 0, 0, 52, 32, len(segments), 40, 0, 0),
    )
    return head + headers + contents


def elf64(segments: Sequence[tuple[int, bytes, int]], entry: int) -> bytes:
    """As `elf32`, in 64 bits."""
    at = 64 + 56 * len(segments)
    headers, contents = b"", b""
    for address, content, size in segments:
        place = at + len(contents)
        headers += struct.pack("<IIQQQQQQ", 1, 7, place, address, address, len(content), size, 4)
        contents += content
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, 64, 0, 0, 64, 56, len(segments), 64, 0, 0),
    )
    return head + headers + contents
