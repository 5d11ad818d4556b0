"""From a device to its eBPF object file, in a child process: LLVM's death becomes a diagnostic.

    object_code(device.reference_module(), device.source)      # CompileError names construct and line

Non-goals: loading the object (runtime/bpf_object.py).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from elftools.elf.elffile import ELFFile

from ..dsl.diagnostics import Source
from . import back_end, bpf, bpf_programs, ir
from .bpf import Built
from .bpf_functions import BpfUnit

TARGET = back_end.Target("bpfel", "v3")
"""32-bit subregisters and atomic exchanges: Linux 5.12."""

_ERROR = re.compile(
    r"^(?:error|LLVM ERROR|RuntimeError): "
    r"(?:[^\n:]*:(?P<line>\d+):\d+: in function (?P<function>\w+)[^:\n]*: )?"
    r"(?P<reason>[^\n]*)",
    re.MULTILINE,
)
_WHERE = re.compile(r"^In function: (\w+)", re.MULTILINE)


class CompileError(Exception):
    """A device cannot become eBPF; the message names the construct, the file and the line.

    `line`: of the device file, 0 if LLVM did not say where.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def object_code(
    module: ir.Module,
    source: Source | None = None,
    unguarded: Collection[str] = (),
    more: Callable[[BpfUnit], str] = lambda unit: "",
    programs: Callable[[BpfUnit], str] = bpf_programs.build,
) -> bytes:
    """The device's eBPF object (docs/bpf-object.md); arguments as `bpf.build`. Raises `CompileError`."""
    return compiled(bpf.build(module, source, unguarded, more, programs), source)


def compiled(built: Built, source: Source | None = None) -> bytes:
    """The object of a back end's text. Raises `CompileError`."""
    try:
        image = back_end.object_code(built.text, TARGET)
    except back_end.Died as death:
        raise _diagnosed(death, built, source) from None
    for function, symbol in undefined(image):
        raise _error(f"it needs {symbol}, which the kernel does not have", function, 0, built, source)
    return image


def undefined(image: bytes) -> Iterator[tuple[str, str]]:
    """What code refers to and the object does not define: the function, the symbol."""
    elf: Any = ELFFile(io.BytesIO(image))
    symbols = list(elf.get_section_by_name(".symtab").iter_symbols())
    for section in elf.iter_sections("SHT_REL"):
        code = elf.get_section(section["sh_info"])
        if not code["sh_flags"] & 4:  # SHF_EXECINSTR
            continue
        for relocation in section.iter_relocations():
            symbol = symbols[relocation["r_info_sym"]]
            if symbol["st_shndx"] == "SHN_UNDEF":
                yield _around(symbols, section["sh_info"], relocation["r_offset"]), symbol.name


def _around(symbols: list[Any], section: int, at: int) -> str:
    """The function that a place of a section lies in."""
    for symbol in symbols:
        inside = symbol["st_value"] <= at < symbol["st_value"] + symbol["st_size"]
        if symbol["st_shndx"] == section and inside:
            return str(symbol.name)
    return ""


def _diagnosed(death: back_end.Died, built: Built, source: Source | None) -> CompileError:
    """What LLVM said before it ended, in the device file's terms."""
    found = _ERROR.search(death.said)
    if found is None:
        return CompileError(f"{built.device}: {death}")
    where = _WHERE.search(death.said)
    function = found["function"] or (where[1] if where else "")
    return _error(found["reason"], function, int(found["line"] or 0), built, source)


def _error(reason: str, function: str, line: int, built: Built, source: Source | None) -> CompileError:
    origin = built.origins.get(function)
    line = line or (origin.line if origin else 0)
    name = source.name if source else f"{built.device}.dev"
    out = [f"{name}:{line}: " if line else f"{name}: "]
    construct = f"`{origin.construct}`" if origin else "the device"
    out.append(f"{construct} cannot be compiled for eBPF: {reason}")
    text = source.line(line).strip() if source else ""
    if text:
        out.append(f"\n  {line} | {text}")
    return CompileError("".join(out), line)
