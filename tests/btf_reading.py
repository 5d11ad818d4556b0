"""A small reading of .BTF and .BTF.ext (Documentation/bpf/btf.rst) apart from the loader's, for tests."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from elftools.elf.elffile import ELFFile

INT, PTR, ARRAY, STRUCT, FUNC, FUNC_PROTO, VAR, DATASEC = 1, 2, 3, 4, 12, 13, 14, 15
TAILS = {1: 4, 3: 12, 4: -12, 5: -12, 6: -8, 13: -8, 14: 4, 15: -12, 17: 4, 19: -12}
"""Bytes behind a type's head; negative: for each of its members."""


@dataclass(frozen=True)
class Kind:
    number: int
    name: str
    kind: int
    size: int
    """In bytes, or the type referred to."""
    rows: tuple[tuple[int, ...], ...]
    extra: int


@dataclass(frozen=True)
class Line:
    section: str
    at: int
    file: str
    text: str
    line: int


class Object:
    """An eBPF object's sections, symbols and types."""

    def __init__(self, image: bytes) -> None:
        self.elf: Any = ELFFile(io.BytesIO(image))
        self.sections = {section.name: section for section in self.elf.iter_sections()}
        self.symbols = list(self.sections[".symtab"].iter_symbols())

    def data(self, section: str) -> bytes:
        return bytes(self.sections[section].data())

    def named(self, section: str, kind: str) -> dict[str, Any]:
        """Symbols of a section by name: `STT_FUNC`, `STT_OBJECT`."""
        number = list(self.sections).index(section)
        return {s.name: s for s in self.symbols if s["st_shndx"] == number and s["st_info"]["type"] == kind}

    def relocations(self, section: str) -> Iterator[tuple[int, int, Any]]:
        """Place, type and symbol of each relocation of a section."""
        made = self.sections.get(f".rel{section}")
        for each in made.iter_relocations() if made else ():
            yield each["r_offset"], each["r_info_type"], self.symbols[each["r_info_sym"]]

    @cached_property
    def _parts(self) -> tuple[bytes, bytes]:
        data = self.data(".BTF")
        magic, version, _, head, types_at, types_size, strings_at, strings_size = struct.unpack_from(
            "<HBBIIIII", data
        )
        assert (magic, version) == (0xEB9F, 1)
        return (
            data[head + types_at : head + types_at + types_size],
            data[head + strings_at : head + strings_at + strings_size],
        )

    def string(self, at: int) -> str:
        strings = self._parts[1]
        return strings[at : strings.index(b"\0", at)].decode()

    @cached_property
    def types(self) -> list[Kind]:
        """By number; 0 is void."""
        data, at = self._parts[0], 0
        made = [Kind(0, "void", 0, 0, (), 0)]
        while at < len(data):
            name, info, size = struct.unpack_from("<III", data, at)
            kind, count, at = info >> 24 & 31, info & 0xFFFF, at + 12
            tail = TAILS.get(kind, 0)
            width, rows = abs(tail), (count if tail < 0 else 1 if tail else 0)
            cells = [struct.unpack_from(f"<{width // 4}I", data, at + width * n) for n in range(rows)]
            extra = count if kind == FUNC else 0
            made.append(Kind(len(made), self.string(name), kind, size, tuple(cells), extra))
            at += width * rows
        return made

    def type(self, name: str, kind: int) -> Kind:
        (found,) = (each for each in self.types if each.name == name and each.kind == kind)
        return found

    def leaves(self, number: int, at: int = 0, path: str = "") -> Iterator[tuple[str, int, int, bool]]:
        """Every integer in a type: its path, offset, size in bytes, and whether it is signed."""
        kind = self.types[number]
        if kind.kind == INT:
            yield path, at, kind.size, bool(kind.rows[0][0] >> 24 & 1)
        elif kind.kind == ARRAY:
            element, _, count = kind.rows[0]
            size = self.size(element)
            for i in range(count):
                yield from self.leaves(element, at + i * size, f"{path}[{i}]")
        elif kind.kind == STRUCT:
            for name, inner, bits in kind.rows:
                yield from self.leaves(inner, at + bits // 8, f"{path}.{self.string(name)}".lstrip("."))
        else:
            raise AssertionError(f"{path} is of kind {kind.kind}")

    def size(self, number: int) -> int:
        kind = self.types[number]
        if kind.kind == ARRAY:
            return self.size(kind.rows[0][0]) * kind.rows[0][2]
        return 8 if kind.kind == PTR else kind.size

    def _info(self, which: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Section and record of each entry of .BTF.ext: 0 functions, 1 lines."""
        data = self.data(".BTF.ext")
        head = struct.unpack_from("<I", data, 4)[0]
        start, length = struct.unpack_from("<II", data, 8 + 8 * which)
        at, end = head + start + 4, head + start + length
        size = struct.unpack_from("<I", data, head + start)[0]
        while at < end:
            name, count = struct.unpack_from("<II", data, at)
            at += 8
            for _ in range(count):
                yield self.string(name), struct.unpack_from(f"<{size // 4}I", data, at)
                at += size

    @cached_property
    def functions(self) -> dict[tuple[str, int], Kind]:
        """The type of the function that begins at a section's byte."""
        return {(section, at): self.types[number] for section, (at, number) in self._info(0)}

    @cached_property
    def lines(self) -> list[Line]:
        return [
            Line(section, at, self.string(file), self.string(text), place >> 10)
            for section, (at, file, text, place) in self._info(1)
        ]


def instructions(code: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Byte offset, opcode, destination, source, offset and constant of each instruction."""
    at = 0
    while at < len(code):
        opcode, registers, offset, constant = struct.unpack_from("<BBhi", code, at)
        yield at, opcode, registers & 15, registers >> 4, offset, constant
        at += 16 if opcode == 0x18 else 8
