"""An eBPF object file, brought into the kernel: what libbpf does, as far as devc's objects need it.

    found = BpfObject(data, "i8254.bpf.o")       # ObjectError if it is no such file
    loaded = found.load()                        # type information and maps are in the kernel
    loaded.program("i8254_read")                 # a Program; Rejected if the verifier refuses it
    loaded.maps[".data"].mapped()                # the state

A program is linked with the functions of `.text` that it reaches, each behind
it once; calls, callbacks and map addresses are filled in, and the function and
line information is moved along.

Non-goals: CO-RE, kernel symbols, map definitions other than arrays, attaching.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from . import bpf, btf

TEXT, MAPS = ".text", ".maps"

TYPES = {
    "syscall": (bpf.SYSCALL, bpf.SLEEPABLE),
    # The patch series' types are in no released kernel. This one has a context of its own, too.
    "kvm_io_read": (bpf.SYSCALL, bpf.SLEEPABLE),
    "kvm_io_write": (bpf.SYSCALL, bpf.SLEEPABLE),
    "socket": (1, 0),
    "tc": (3, 0),
    "xdp": (6, 0),
}
"""Sections that hold programs that this loader knows: the type, and flags for loading."""

WIDE, CALL = 0x18, 0x85
"""Opcodes: a 64-bit constant, a call."""
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PSEUDO_FUNC = 1, 2, 4
"""What a 64-bit constant is: a map, a place in a map, a function."""
PSEUDO_CALL = 1

LARGEST = 16 << 20
"""Bytes of an object file; a device's is a few hundred thousand at most."""

_INSTRUCTION = struct.Struct("<BBhi")

_MALFORMED = (
    ELFError, ConstructError, struct.error, LookupError, ValueError, ArithmeticError, TypeError,
    AttributeError, MemoryError, RecursionError, AssertionError,
)  # fmt: skip
"""What pyelftools and the reading here raise, depending on what is wrong."""


class ObjectError(ValueError):
    """The file is no eBPF object that this loader can load; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an instruction refers to: a symbol's name, and the section and byte it stands for."""

    name: str
    section: str
    at: int


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A piece of a section that is a program or a function: its bytes, and what they refer to, by byte."""

    name: str
    section: str
    at: int
    code: bytes
    references: dict[int, Target] = field(repr=False)

    @property
    def type(self) -> tuple[int, int] | None:
        """The kernel's program type and flags; None if the section's name means none."""
        return TYPES.get(self.section.split("/")[0])


@dataclass(frozen=True, slots=True)
class Place:
    """Where instruction `index` of a linked program came from."""

    index: int
    file: str
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Linked:
    """A program with all that it calls. `starts`: the first instruction of each function in it;
    `calls`: which of them each one calls, by number."""

    name: str
    code: bytes
    functions: bpf.Records
    lines: bpf.Records
    places: tuple[Place, ...]
    starts: dict[str, int]
    calls: tuple[tuple[int, ...], ...]

    def place(self, index: int) -> Place | None:
        """The source of an instruction: the last record up to it, in its function, that has a line."""
        begins = max((at for at in self.starts.values() if at <= index), default=0)
        places = [place for place in self.places if begins <= place.index <= index and place.line]
        return max(places, key=lambda place: place.index, default=None)


class BpfObject:
    """An object file's programs, functions, data and map definitions."""

    def __init__(self, data: bytes, name: str = "object") -> None:
        """ObjectError if `data` is no eBPF object."""
        self.name = name
        if len(data) > LARGEST:
            raise ObjectError(f"{name} is longer than {LARGEST >> 20} MiB")
        with self._reading():
            self._read(ELFFile(io.BytesIO(data)))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever a malformed file leads to is an ObjectError."""
        try:
            yield
        except ObjectError:
            raise
        except btf.BtfError as error:
            raise ObjectError(f"{self.name}: {error}") from None
        except _MALFORMED as error:
            why = str(error) or type(error).__name__
            raise ObjectError(f"{self.name} is no well-formed ELF object ({why})") from None

    def _read(self, elf: Any) -> None:
        if elf["e_machine"] != "EM_BPF":
            raise ObjectError(f"{self.name} is an ELF file for {elf['e_machine']}, not for EM_BPF")
        if not elf.little_endian:
            raise ObjectError(f"{self.name} is for a big-endian machine")
        sections = list(elf.iter_sections())
        self._names = [section.name for section in sections]
        data = [section for section in sections if section["sh_type"] in ("SHT_PROGBITS", "SHT_NOBITS")]
        if any(section["sh_size"] > LARGEST for section in data):
            raise ObjectError(f"{self.name} has a section longer than {LARGEST >> 20} MiB")
        self.data = {section.name: section.data() for section in data}
        table = elf.get_section_by_name(".symtab")
        if table is None:
            raise ObjectError(f"{self.name} has no symbols")
        self._symbols = list(table.iter_symbols())
        code = [s for s in sections if s["sh_type"] == "SHT_PROGBITS" and s["sh_flags"] & 4 and s["sh_size"]]
        references = dict(self._references(sections))
        self.functions = [
            function for section in code for function in self._functions(section.name, references)
        ]
        self._at = {(f.section, f.at): f for f in self.functions}
        self.programs = {f.name: f for f in self.functions if f.section != TEXT}
        self.license = self.data.get("license", b"").split(b"\0")[0].decode(errors="replace")
        self._read_types()

    def _references(self, sections: list[Any]) -> Iterator[tuple[str, dict[int, Target]]]:
        for section in sections:
            if section["sh_type"] != "SHT_REL":
                continue
            name = self._names[section["sh_info"]]
            yield name, {r["r_offset"]: self._target(r, name) for r in section.iter_relocations()}

    def _target(self, relocation: Any, section: str) -> Target:
        symbol = self._symbols[relocation["r_info_sym"]]
        where = symbol["st_shndx"]
        if where == "SHN_UNDEF" and not section.startswith((".debug", ".BTF")):
            raise ObjectError(f"{self.name}: {symbol.name!r} is used but not defined")
        place = self._names[where] if isinstance(where, int) else ""
        return Target(symbol.name or place, place, symbol["st_value"])

    def _functions(self, section: str, references: dict[str, dict[int, Target]]) -> Iterator[Function]:
        data, all_of_it = self.data[section], references.get(section, {})
        for symbol in self._symbols:
            where = symbol["st_shndx"]
            if symbol["st_info"]["type"] != "STT_FUNC" or not isinstance(where, int):
                continue
            if self._names[where] != section:
                continue
            at, size = symbol["st_value"], symbol["st_size"]
            if at % bpf.WORD or size % bpf.WORD or not size or at + size > len(data):
                raise ObjectError(f"{self.name}: the function {symbol.name} is not within {section}")
            inside = {place - at: t for place, t in all_of_it.items() if at <= place < at + size}
            yield Function(symbol.name, section, at, data[at : at + size], inside)

    def _read_types(self) -> None:
        if ".BTF" not in self.data:
            raise ObjectError(
                f"{self.name} has no type information (.BTF); compile it with debug information"
            )
        self.types = btf.Types(self.data[".BTF"])
        empty = btf.Table(0, {})
        extension = self.data.get(".BTF.ext")
        self.info = btf.extension(extension, self.types) if extension else (empty, empty)
        for section, data in self.data.items():
            self.types.place(
                section, len(data), {name: at for name, (at, _) in self.variables(section).items()}
            )

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """The offset and the size of each variable of a section."""
        return {
            s.name: (s["st_value"], s["st_size"])
            for s in self._symbols
            if s["st_info"]["type"] == "STT_OBJECT"
            and isinstance(s["st_shndx"], int)
            and self._names[s["st_shndx"]] == section
        }

    # --- maps ------------------------------------------------------------------------

    @cached_property
    def maps(self) -> dict[str, bpf.MapSpec]:
        """What maps to make, by the section's or the variable's name. Raises ObjectError."""
        with self._reading():
            return self._maps()

    def _maps(self) -> dict[str, bpf.MapSpec]:
        found = {}
        for section, data in self.data.items():
            kind = section.split(".")[1] if section.startswith(".") else ""
            if kind in ("data", "bss", "rodata") and data:
                flags = bpf.READ_ONLY_PROGRAM if kind == "rodata" else bpf.MMAPABLE
                name = f"{self.name.split('.')[0][:8]}{section}"
                found[section] = bpf.MapSpec(
                    name, len(data), flags=flags, value_type=self.types.section(section) or 0
                )
        number = self.types.section(MAPS)
        for variable in self.types.members(number) if number is not None else ():
            found[variable.name] = self._definition(variable)
        return found

    def _definition(self, variable: btf.Member) -> bpf.MapSpec:
        """A map defined as a structure in `.maps`: numbers are counts of arrays, types are pointers."""
        types = self.types
        structure = types.bare(types.types[variable.type].what)
        numbers = {"type": 0, "max_entries": 1, "map_flags": 0, "key_size": 4, "value_size": 0}
        kinds = {"key": 0, "value": 0}
        for member in types.members(structure):
            if member.name in numbers:
                numbers[member.name] = types.number(member.type)
            elif member.name in kinds:
                kinds[member.name] = types.types[types.bare(member.type)].what
        if kinds["value"]:
            numbers["value_size"] = types.size(kinds["value"])
        if numbers["type"] != bpf.ARRAY or numbers["key_size"] != 4:
            raise ObjectError(
                f"{self.name}: the map {variable.name} is no array; this loader makes arrays only"
            )
        return bpf.MapSpec(
            variable.name, numbers["value_size"], numbers["max_entries"], numbers["map_flags"],
            key_type=kinds["key"], value_type=kinds["value"],
        )  # fmt: skip

    # --- linking ---------------------------------------------------------------------

    def link(self, program: Function, maps: dict[str, int]) -> Linked:
        """A program and the functions that it reaches, one behind the other; `maps`: file descriptors.

        Raises ObjectError.
        """
        with self._reading():
            return self._link(program, maps)

    def _link(self, program: Function, maps: dict[str, int]) -> Linked:
        order, starts, calls = [program], {program: 0}, []
        length = 0
        for function in order:
            starts[function] = length
            length += len(function.code) // bpf.WORD
            called = list(dict.fromkeys(callee for _, callee in self._callees(function)))
            order += [callee for callee in called if callee not in order]
            calls.append(called)
        code = b"".join(self._relocated(function, starts, maps) for function in order)
        functions, lines = (self._moved(table, order, starts) for table in self.info)
        return Linked(
            program.name, code, functions, lines, tuple(self._places(lines)),
            {function.name: at for function, at in starts.items()},
            tuple(tuple(order.index(callee) for callee in called) for called in calls),
        )  # fmt: skip

    def _callees(self, function: Function) -> Iterator[tuple[int, Function]]:
        """Each place of a function that refers to another, and that one."""
        at = 0
        while at < len(function.code):
            opcode, registers, _, constant = _INSTRUCTION.unpack_from(function.code, at)
            target = function.references.get(at)
            if opcode == CALL and registers >> 4 == PSEUDO_CALL:
                if target is None:
                    yield (
                        at,
                        self._function(function.section, function.at + at + 8 * (constant + 1), function),
                    )
                else:
                    yield at, self._function(target.section, target.at + 8 * (constant + 1), function)
            elif opcode == WIDE and target is not None and self._is_code(target.section):
                yield at, self._function(target.section, target.at + constant, function)
            at += 16 if opcode == WIDE else 8

    def _is_code(self, section: str) -> bool:
        return any(function.section == section for function in self.functions)

    def _function(self, section: str, at: int, caller: Function) -> Function:
        found = self._at.get((section, at))
        if found is None:
            raise ObjectError(
                f"{self.name}: {caller.name} calls into {section} at {at:#x}, where no function begins"
            )
        return found

    def _relocated(self, function: Function, starts: dict[Function, int], maps: dict[str, int]) -> bytes:
        code = bytearray(function.code)
        for at, callee in self._callees(function):
            opcode, registers, offset, _ = _INSTRUCTION.unpack_from(code, at)
            distance = starts[callee] - (starts[function] + at // bpf.WORD) - 1
            if opcode == WIDE:
                registers = registers & 15 | PSEUDO_FUNC << 4
            _INSTRUCTION.pack_into(code, at, opcode, registers, offset, distance)
        for at, target in function.references.items():
            if code[at] == WIDE and not self._is_code(target.section):
                self._address(code, at, target, maps)
        return bytes(code)

    def _address(self, code: bytearray, at: int, target: Target, maps: dict[str, int]) -> None:
        """A 64-bit constant that is a map, or a place in one."""
        opcode, registers, offset, addend = _INSTRUCTION.unpack_from(code, at)
        is_map = target.section == MAPS
        fd = maps.get(target.name if is_map else target.section)
        if fd is None:
            raise ObjectError(f"{self.name}: {target.name!r} lies in {target.section!r}, which is no map")
        kind = PSEUDO_MAP_FD if is_map else PSEUDO_MAP_VALUE
        _INSTRUCTION.pack_into(code, at, opcode, registers & 15 | kind << 4, offset, fd)
        within = 0 if is_map else target.at + addend
        struct.pack_into("<i", code, at + 12, within)

    def _moved(self, table: btf.Table, order: list[Function], starts: dict[Function, int]) -> bpf.Records:
        """The records of the linked functions, their places counted in instructions of the program."""
        made = bytearray()
        for function in order:
            for row in table.rows.get(function.section, ()):
                if function.at <= row.at < function.at + len(function.code):
                    made += (
                        struct.pack("<I", starts[function] + (row.at - function.at) // bpf.WORD) + row.rest
                    )
        return bpf.Records(table.size, bytes(made))

    def _places(self, lines: bpf.Records) -> Iterator[Place]:
        for at in range(0, len(lines.data), lines.size or 1):
            index, file, text, where = struct.unpack_from("<IIII", lines.data, at)
            yield Place(
                index, self.types.string(file), where >> 10, where & 0x3FF, self.types.string(text).rstrip()
            )

    def load(self) -> Loaded:
        """Type information and maps into the kernel. Raises BpfError."""
        return Loaded(self)


class Loaded:
    """An object whose maps are in the kernel; its programs follow one by one."""

    def __init__(self, source: BpfObject) -> None:
        self.source = source
        self.btf = bpf.Btf.load(bytes(source.types.data))
        self.maps = {name: self._map(name, spec) for name, spec in source.maps.items()}

    def _map(self, name: str, spec: bpf.MapSpec) -> bpf.Map:
        made = bpf.Map.create(spec, self.btf)
        if (content := self.source.data.get(name)) is not None:
            made.update(0, content)
        if spec.flags & bpf.READ_ONLY_PROGRAM:
            made.freeze()
        return made

    def linked(self, name: str) -> Linked:
        """A program as it goes into the kernel; KeyError if there is none of that name."""
        return self.source.link(self.source.programs[name], {name: m.fd for name, m in self.maps.items()})

    def program(self, name: str, linked: Linked | None = None, steps: bool = False) -> bpf.Program:
        """Load a program; `steps`: its log tells each of the verifier's. Raises `bpf.Rejected`, `BpfError`,
        ObjectError for a section of no known type."""
        function, made = self.source.programs[name], linked or self.linked(name)
        if function.type is None:
            raise ObjectError(
                f"{self.source.name}: no kernel's program type is known for {function.section!r}"
            )
        kind, flags = function.type
        return bpf.Program.load(
            made.code, name, license=self.source.license, type=kind, flags=flags, btf=self.btf,
            functions=made.functions, lines=made.lines, steps=steps,
        )  # fmt: skip

    def close(self) -> None:
        """Give the maps and the type information back; loaded programs keep what they use."""
        for each in (*self.maps.values(), self.btf):
            each.close()
