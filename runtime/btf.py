"""BPF Type Format, as far as a loader reads and mends it (Linux: Documentation/bpf/btf.rst).

`.BTF` holds types; a compiler leaves the sizes and offsets of its data sections
open, which `Types.place` fills in. `.BTF.ext` says for each section where
functions begin and which source line each instruction came from.

Non-goals: CO-RE relocations; making types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = 0xEB9F

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC = range(1, 13)
FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(13, 20)

_FIXED = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
_EACH = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}
"""Bytes behind a type's head: once, and for each member."""

_TRANSPARENT = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
POINTER_SIZE = 8


class BtfError(ValueError):
    """The type information is malformed."""


@dataclass(frozen=True, slots=True)
class Type:
    """A type's head; `at` is its place in the data. `what` is a size in bytes or another type's number."""

    name: str
    kind: int
    members: int
    what: int
    at: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure (`value`: its offset), or a variable of a data section."""

    name: str
    type: int
    at: int


class Types:
    """The types of a `.BTF` section. Raises BtfError."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        try:
            magic, _, _, head, types, size, strings, length = struct.unpack_from("<HBBIIIII", data)
            if magic != MAGIC:
                raise BtfError(f"type information begins with {magic:#x}, not {MAGIC:#x}")
            self._strings = data[head + strings : head + strings + length]
            self.types = [Type("", 0, 0, 0, 0), *self._read(head + types, head + types + size)]
        except (struct.error, IndexError):
            raise BtfError("the type information is cut off") from None
        self._sections = {t.name: i for i, t in enumerate(self.types) if t.kind == DATASEC}

    def _read(self, at: int, end: int) -> Iterator[Type]:
        while at < end:
            name, info, what = struct.unpack_from("<III", self.data, at)
            kind, members = info >> 24 & 31, info & 0xFFFF
            if not INT <= kind <= ENUM64:
                raise BtfError(f"the type information has a type of an unknown kind, {kind}")
            yield Type(self.string(name), kind, members, what, at)
            at += 12 + _FIXED.get(kind, 0) + members * _EACH.get(kind, 0)

    def string(self, offset: int) -> str:
        if offset >= len(self._strings):
            raise BtfError(f"the type information has no string at {offset}")
        return self._strings[offset : self._strings.index(b"\0", offset)].decode(errors="replace")

    def members(self, number: int) -> list[Member]:
        """A structure's members, or a data section's variables."""
        type = self.types[number]
        rows = (struct.unpack_from("<III", self.data, type.at + 12 + 12 * i) for i in range(type.members))
        if type.kind == DATASEC:
            return [Member(self.types[a].name, a, type.at + 12 + 12 * i) for i, (a, _, _) in enumerate(rows)]
        return [Member(self.string(a), b, type.at + 12 + 12 * i) for i, (a, b, _) in enumerate(rows)]

    def section(self, name: str) -> int | None:
        """The number of a data section's type."""
        return self._sections.get(name)

    def bare(self, number: int) -> int:
        """The type behind names and qualifiers."""
        for _ in range(len(self.types)):
            if self.types[number].kind not in _TRANSPARENT:
                return number
            number = self.types[number].what
        raise BtfError("a type of the type information is defined by itself")

    def size(self, number: int, depth: int = 32) -> int:
        """A type's size in bytes."""
        type = self.types[self.bare(number)]
        if type.kind == PTR:
            return POINTER_SIZE
        if type.kind == ARRAY:
            element, _, count = struct.unpack_from("<III", self.data, type.at + 12)
            if not depth:
                raise BtfError("the type information nests arrays too deeply")
            return int(count) * self.size(element, depth - 1)
        if type.kind == VAR:
            return self.size(type.what, depth - 1) if depth else 0
        return type.what

    def number(self, pointer: int) -> int:
        """What a map's definition says by a pointer to an array: the array's count (`__uint`)."""
        array = self.types[self.bare(self.types[self.bare(pointer)].what)]
        if array.kind != ARRAY:
            raise BtfError("a map's definition has a number that is not the count of an array")
        return int(struct.unpack_from("<III", self.data, array.at + 12)[2])

    def place(self, section: str, size: int, offsets: dict[str, int]) -> None:
        """Fill in a data section's size, and the offsets of its variables."""
        number = self.section(section)
        if number is None:
            return
        struct.pack_into("<I", self.data, self.types[number].at + 8, size)
        for member in self.members(number):
            if member.name in offsets:
                struct.pack_into("<I", self.data, member.at + 4, offsets[member.name])


@dataclass(frozen=True, slots=True)
class Row:
    """A record about the instruction at byte `at` of a section; `rest` is the record behind that."""

    at: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class Table:
    """Records of one kind, by section; `size` bytes each."""

    size: int
    rows: dict[str, list[Row]]


def extension(data: bytes, types: Types) -> tuple[Table, Table]:
    """The function and line information of a `.BTF.ext` section. Raises BtfError."""
    try:
        magic, _, _, head, functions, flen, lines, llen = struct.unpack_from("<HBBIIIII", data)
        if magic != MAGIC:
            raise BtfError(f"line information begins with {magic:#x}, not {MAGIC:#x}")
        return (
            _table(data[head + functions : head + functions + flen], types),
            _table(data[head + lines : head + lines + llen], types),
        )
    except struct.error:
        raise BtfError("the line information is cut off") from None


def _table(data: bytes, types: Types) -> Table:
    if not data:
        return Table(0, {})
    (size,) = struct.unpack_from("<I", data)
    if size < 8:
        raise BtfError(f"records of {size} bytes in the line information")
    at, rows = 4, dict[str, list[Row]]()
    while at < len(data):
        name, count = struct.unpack_from("<II", data, at)
        at += 8
        if at + count * size > len(data):
            raise BtfError("the line information is cut off")
        found = rows.setdefault(types.string(name), [])
        for start in range(at, at + count * size, size):
            found.append(Row(struct.unpack_from("<I", data, start)[0], data[start + 4 : start + size]))
        at += count * size
    return Table(size, rows)
