"""Guest code from assembly text, by LLVM's own assembler: AT&T or Intel syntax.

    assemble("mov $0x34, %al; out %al, $0x43; hlt", 0x7c00) -> bytes

The sections that a program occupies in memory are laid out from `base` on, code
first, and linked there. Objects are cached like compiled devices.

Non-goals: linking several files, dynamic code, the sections of debuggers.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llvmlite
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ..compiler.cache import Cache

TRIPLES = {16: "i386-unknown-linux-gnu", 32: "i386-unknown-linux-gnu", 64: "x86_64-unknown-linux-gnu"}

TIME_LIMIT = 20
"""Seconds for the assembler; `.rept` can ask for any amount of work."""
MAX_IMAGE = 256 << 20

_CHILD = Path(__file__).with_name("assembler_child.py")
_ERROR = re.compile(
    r"^error: (?:(?P<file>[^\n]*?):(?P<line>\d+):(?P<column>\d+): )?(?P<message>[^\n]*)", re.M
)

# LLVM checks some of a program's values only by assertions.
_ASSERTION = re.compile(r'&& "([^"]*)"\' failed')

_SHF_ALLOC, _SHF_EXECINSTR = 2, 4


@dataclass(frozen=True, slots=True)
class Relocation:
    """How a relocation is applied: bytes wide, relative to its place or not, and
    which values it takes ("wrap": any, modulo its width)."""

    width: int
    relative: bool
    takes: str  # "unsigned", "signed", "either", "wrap"


_I386 = {
    1: Relocation(4, False, "wrap"),  # R_386_32
    2: Relocation(4, True, "wrap"),  # R_386_PC32
    4: Relocation(4, True, "wrap"),  # R_386_PLT32
    20: Relocation(2, False, "either"),  # R_386_16
    # IP wraps within its segment, so any distance is reached.
    21: Relocation(2, True, "wrap"),  # R_386_PC16
    22: Relocation(1, False, "either"),  # R_386_8
    23: Relocation(1, True, "signed"),  # R_386_PC8
}

_X86_64 = {
    1: Relocation(8, False, "wrap"),  # R_X86_64_64
    2: Relocation(4, True, "signed"),  # R_X86_64_PC32
    4: Relocation(4, True, "signed"),  # R_X86_64_PLT32
    10: Relocation(4, False, "unsigned"),  # R_X86_64_32
    11: Relocation(4, False, "signed"),  # R_X86_64_32S
    12: Relocation(2, False, "either"),  # R_X86_64_16
    13: Relocation(2, True, "signed"),  # R_X86_64_PC16
    14: Relocation(1, False, "either"),  # R_X86_64_8
    15: Relocation(1, True, "signed"),  # R_X86_64_PC8
    24: Relocation(8, True, "wrap"),  # R_X86_64_PC64
}

RELOCATIONS = {"EM_386": _I386, "EM_X86_64": _X86_64}


class AssemblyError(Exception):
    """The text is not a program. `line` and `column` count from 1, 0 if unknown."""

    def __init__(self, message: str, line: int = 0, column: int = 0, source: str = "") -> None:
        super().__init__(message)
        self.message, self.line, self.column, self.source = message, line, column, source

    def __str__(self) -> str:
        if not self.line:
            return self.message
        # A tab before the mark as in the line above it, so that the two stay aligned.
        blank = "".join("\t" if char == "\t" else " " for char in self.source[: max(self.column - 1, 0)])
        return f"line {self.line}, column {self.column}: {self.message}\n{self.source}\n{blank}^"


@dataclass(slots=True)
class Program:
    """A linked program: its bytes from `base` on, and where its labels are."""

    image: bytes
    base: int
    symbols: dict[str, int] = field(default_factory=dict)


def assemble(text: str, base: int, bits: int = 16) -> bytes:
    """The program's bytes, to be loaded at physical address `base`.

    `bits` is the code's width at the start: 16, 32 or 64. Absolute addresses of
    16-bit code count from 0, as with a segment register of 0. Raises AssemblyError.
    """
    return program(text, base, bits).image


def program(text: str, base: int, bits: int = 16) -> Program:
    """As `assemble`, with the addresses of the labels."""
    if bits not in TRIPLES:
        raise AssemblyError(f"code is 16, 32 or 64 bits wide, not {bits}")
    if not 0 <= base < 1 << 64:
        raise AssemblyError(f"{base:#x} is not an address")
    return _Linker(_object(text, bits), base).link()


def _object(text: str, bits: int) -> bytes:
    """The relocatable object, from the cache if the text does not pull in other files."""
    source = f".code{bits}\n{text}\n"
    triple = TRIPLES[bits]
    cache = None if re.search(r"\.inc(lude|bin)\b", text) else Cache.default()
    key = f"{llvmlite.__version__}\n{triple}\n{source}"
    known = cache.get("assembly", key) if cache else None
    if known is not None:
        return known
    made = _run_assembler(source, triple)
    if cache:
        cache.put("assembly", key, made)
    return made


def _run_assembler(source: str, triple: str) -> bytes:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        result = subprocess.run(
            [sys.executable, str(_CHILD), triple],
            input=source.encode("utf-8", "replace"),
            capture_output=True,
            timeout=TIME_LIMIT,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AssemblyError(
            f"the assembler was not done after {TIME_LIMIT} s; does a .rept run away?"
        ) from None
    if result.returncode == 0 and result.stdout:
        return result.stdout
    raise _complaint(result.stderr.decode("utf-8", "replace"), source, result.returncode)


def _complaint(output: str, source: str, status: int) -> AssemblyError:
    match = _ERROR.search(output)
    if match is None:
        failed = _ASSERTION.search(output)
        last = [failed[1]] if failed else output.strip().splitlines()[-1:]
        return AssemblyError(f"the assembler gave up: {last[0] if last else f'status {status}'}")
    message = match["message"]
    if match["file"] is None:
        return AssemblyError(message)
    line, column = int(match["line"]), int(match["column"])
    if match["file"] != "<inline asm>":
        return AssemblyError(f"{match['file']}:{line}:{column}: {message}")
    lines = source.splitlines()
    return AssemblyError(message, line - 1, column, lines[line - 1] if line <= len(lines) else "")


class _Linker:
    """Lays an object's sections out from `base` on and applies its relocations."""

    def __init__(self, content: bytes, base: int) -> None:
        self.elf: Any = ELFFile(io.BytesIO(content))
        self.base = base
        self.kinds = RELOCATIONS[self.elf["e_machine"]]
        self.placed: dict[int, int] = {}

    def link(self) -> Program:
        image = self._lay_out()
        for section in self.elf.iter_sections():
            if section["sh_type"] in ("SHT_REL", "SHT_RELA") and section["sh_info"] in self.placed:
                self._relocate(section, image)
        return Program(bytes(image), self.base, self._labels())

    def _lay_out(self) -> bytearray:
        """Code first, then data, then what is only zeros."""
        occupied = [
            (index, section)
            for index, section in enumerate(self.elf.iter_sections())
            if section["sh_flags"] & _SHF_ALLOC
        ]
        occupied.sort(
            key=lambda item: (item[1]["sh_type"] == "SHT_NOBITS", not item[1]["sh_flags"] & _SHF_EXECINSTR)
        )
        image = bytearray()
        for index, section in occupied:
            alignment = max(section["sh_addralign"], 1)
            if image:
                image += bytes(-(self.base + len(image)) % alignment)
            self.placed[index] = self.base + len(image)
            if len(image) + section["sh_size"] > MAX_IMAGE:
                raise AssemblyError(f"the program is larger than {MAX_IMAGE >> 20} MiB")
            zeros = section["sh_type"] == "SHT_NOBITS"
            image += bytes(section["sh_size"]) if zeros else section.data()
        return image

    def _labels(self) -> dict[str, int]:
        return {
            symbol.name: self._value(symbol)
            for table in self.elf.iter_sections()
            if isinstance(table, SymbolTableSection)
            for symbol in table.iter_symbols()
            if symbol.name and symbol["st_shndx"] in self.placed
        }

    def _value(self, symbol: Any) -> int:
        where = symbol["st_shndx"]
        if where == "SHN_ABS":
            return int(symbol["st_value"])
        if where not in self.placed:
            raise AssemblyError(f"the label {symbol.name!r} is used but not defined in the program")
        return int(self.placed[where] + symbol["st_value"])

    def _relocate(self, section: Any, image: bytearray) -> None:
        symbols = self.elf.get_section(section["sh_link"])
        start = self.placed[section["sh_info"]]
        for entry in section.iter_relocations():
            symbol = symbols.get_symbol(entry["r_info_sym"])
            kind = self.kinds.get(entry["r_info_type"])
            if kind is None:
                raise AssemblyError(
                    f"{symbol.name or 'a label'} is used in a way that a flat program "
                    f"cannot have (relocation {entry['r_info_type']})"
                )
            self._apply(kind, symbol, entry, start + entry["r_offset"], image)

    def _apply(self, kind: Relocation, symbol: Any, entry: Any, place: int, image: bytearray) -> None:
        at = place - self.base
        field = slice(at, at + kind.width)
        inside = int.from_bytes(image[field], "little", signed=kind.relative or kind.takes == "signed")
        target = self._value(symbol) + (entry["r_addend"] if entry.is_RELA() else inside)
        value = target - place if kind.relative else target
        span = 1 << (8 * kind.width)
        low = -span // 2 if kind.takes in ("signed", "either") else 0
        high = span // 2 if kind.takes == "signed" else span
        if kind.takes != "wrap" and not low <= value < high:
            name = next((n for n, where in self._labels().items() if where == target), "a label")
            raise AssemblyError(
                f"{name} is at {target:#x}, which does not fit the {8 * kind.width} bits of its use "
                f"at {place:#x}; load the program lower, or address it through a segment"
            )
        image[field] = (value % span).to_bytes(kind.width, "little")
