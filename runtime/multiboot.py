"""Kernels of the Multiboot specification, version 0.6.96 (section numbers are its).

`parse` finds the header and what goes where; `information` lays out what the kernel
is told. Hostile files are refused with MultibootError before anything is copied.

Non-goals: video modes, symbols, version 2.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

MAGIC = 0x1BADB002
MAGIC_2 = 0xE85250D6
LOADED = 0x2BADB002
"""What EAX holds when the kernel begins (3.2)."""

SEARCHED = 8192
"""The header lies within the first bytes of the file (3.1)."""
_HAS_ADDRESSES = 1 << 16
_REQUIRED = 0x0000_FFFF
_PAGE_ALIGNED, _MEMORY_INFO, _VIDEO = 1 << 0, 1 << 1, 1 << 2

LOADER_NAME = b"devc"
PAGE = 4096


class MultibootError(ValueError):
    """Not a kernel that can be loaded; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of the file for a place in memory, `size` with the zeros behind them."""

    address: int
    content: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a file asks for."""

    entry: int
    parts: tuple[Part, ...]

    @property
    def end(self) -> int:
        return max(part.address + part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class Range:
    """An entry of the memory map (3.3): type 1 is RAM to use, 2 is taken."""

    address: int
    size: int
    kind: int


def header_at(content: bytes) -> int | None:
    """Where the multiboot header is: aligned to 4 bytes, its checksum right (3.1.2)."""
    for at in range(0, min(len(content), SEARCHED) - 11, 4):
        magic, flags, check = struct.unpack_from("<III", content, at)
        if magic == MAGIC and (magic + flags + check) & 0xFFFF_FFFF == 0:
            return at
    return None


def parse(content: bytes) -> Kernel:
    """The kernel in a file. Raises MultibootError."""
    at = header_at(content)
    if at is None:
        if MAGIC_2.to_bytes(4, "little") in content[: 4 * SEARCHED]:
            raise MultibootError("it is a multiboot 2 kernel; only version 1 is loaded")
        raise MultibootError(f"it has no multiboot header in its first {SEARCHED} bytes")
    flags = struct.unpack_from("<I", content, at + 4)[0]
    strange = flags & _REQUIRED & ~(_PAGE_ALIGNED | _MEMORY_INFO | _VIDEO)
    if strange:
        raise MultibootError(f"its header asks for features {strange:#x} that no loader knows")
    kernel = _by_addresses(content, at) if flags & _HAS_ADDRESSES else _by_elf(content)
    if not any(p.address <= kernel.entry < p.address + p.size for p in kernel.parts):
        raise MultibootError(f"its entry point {kernel.entry:#x} lies outside of what it loads")
    return kernel


def _by_addresses(content: bytes, at: int) -> Kernel:
    """The address fields (3.1.3): any format, loaded as one piece."""
    if len(content) < at + 32:
        raise MultibootError("its header is cut short")
    header, load, load_end, bss_end, entry = struct.unpack_from("<5I", content, at + 12)
    start = at - (header - load)
    size = load_end - load if load_end else len(content) - start
    if header < load or start < 0 or size <= 0 or start + size > len(content):
        raise MultibootError("the address fields of its header do not fit the file")
    if bss_end and bss_end < load + size:
        raise MultibootError("the address fields of its header end before what they load")
    whole = max(size, bss_end - load)
    return Kernel(entry, (Part(load, content[start : start + size], whole),))


def _by_elf(content: bytes) -> Kernel:
    try:
        elf: Any = ELFFile(io.BytesIO(content))
        machine, entry = elf["e_machine"], int(elf["e_entry"])
        segments = [s.header for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
    except (ELFError, ValueError, OverflowError, KeyError, struct.error, TypeError, AttributeError) as error:
        raise MultibootError(f"its ELF headers are damaged: {error or type(error).__name__}") from None
    if machine not in ("EM_386", "EM_X86_64"):
        raise MultibootError(f"it is for another processor ({machine}), not for x86")
    if not segments:
        raise MultibootError("its ELF headers load nothing")
    parts = []
    for segment in segments:
        offset, size, memory = segment["p_offset"], segment["p_filesz"], segment["p_memsz"]
        if size > memory or offset + size > len(content):
            raise MultibootError("an ELF segment reaches beyond the end of the file; is it cut short?")
        if segment["p_paddr"] + memory > 1 << 32:
            raise MultibootError(f"an ELF segment is for {segment['p_paddr']:#x}, beyond 4 GiB")
        parts.append(Part(segment["p_paddr"], content[offset : offset + size], memory))
    return Kernel(_physical(entry, segments), tuple(parts))


def _physical(entry: int, segments: Sequence[Any]) -> int:
    """An entry point may be a virtual address of a segment; the kernel begins at the physical one."""
    for segment in segments:
        if segment["p_vaddr"] <= entry < segment["p_vaddr"] + segment["p_memsz"]:
            return int(entry - segment["p_vaddr"] + segment["p_paddr"])
    return entry


@dataclass(frozen=True, slots=True)
class Module:
    """A file beside the kernel, and the text that goes with it."""

    content: bytes
    text: str


def information(
    address: int,
    memory: Sequence[Range],
    modules: Sequence[tuple[int, Module]],
    command_line: str,
) -> bytes:
    """The boot information structure (3.3) for `address`, with all it points to.

    `modules` come with the places that they were given. `memory` is the map, the
    RAM from 0 and from 1 MiB on as entries of it.
    """
    block = bytearray(120)

    def put(data: bytes) -> int:
        block.extend(bytes(-len(block) % 8))
        place = address + len(block)
        block.extend(data)
        return place

    line = put(command_line.encode() + b"\0")
    name = put(LOADER_NAME + b"\0")
    texts = [put(module.text.encode() + b"\0") for _, module in modules]
    listed = [
        struct.pack("<IIII", place, place + len(module.content), text, 0)
        for (place, module), text in zip(modules, texts, strict=True)
    ]
    module_list = put(b"".join(listed))
    ranges = b"".join(struct.pack("<IQQI", 20, r.address, r.size, r.kind) for r in memory)
    memory_map = put(ranges)
    flags = 1 << 0 | 1 << 2 | 1 << 6 | 1 << 9 | (1 << 3 if modules else 0)
    lower, upper = (_ram_from(memory, start) // 1024 for start in (0, 1 << 20))
    struct.pack_into("<IIIII", block, 0, flags, min(lower, 640), upper, 0, line)
    struct.pack_into("<II", block, 20, len(modules), module_list if modules else 0)
    struct.pack_into("<II", block, 44, len(ranges), memory_map)
    struct.pack_into("<I", block, 64, name)
    return bytes(block)


def _ram_from(memory: Sequence[Range], start: int) -> int:
    """mem_lower and mem_upper: bytes of RAM from an address up to its first hole."""
    return next((r.size for r in memory if r.address == start and r.kind == 1), 0)
