"""`devc report`: a device's registers with their tiers, its lines, what it weighs, and which of its
accesses need not be served one by one."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from rich.console import Console
from rich.table import Table

from ..compiler import ir
from ..compiler.driver import load
from ..compiler.emit import object_code
from ..compiler.image import image_size
from ..compiler.traffic import Traffic
from ..dsl.diagnostics import DeviceFileError


def report(files: list[Path]) -> int:
    """0, or 1 if a file was refused."""
    console = Console()
    status = 0
    for path in files:
        try:
            kind = load(path)
            module, known = kind.reference_module(), kind.traffic
        except DeviceFileError as error:
            print(error, end="\n\n", file=sys.stderr)
            status = 1
            continue
        console.print(
            f"[bold]{module.name}[/bold]: {module.doc.splitlines()[0] if module.doc else ''}", highlight=False
        )
        console.print(registers(module))
        sizes = code_sizes(object_code(module))
        for name, value in [*weights(module, sizes), *traffic(module, known)]:
            console.print(f"  {name:<14} {value}", highlight=False)
        console.print()
    return status


def registers(module: ir.Module) -> Table:
    """One row a register: where it is, how wide, and who serves it."""
    table = Table(box=None, pad_edge=True, header_style="bold")
    for column in ("window", "at", "register", "bits", "read", "write", "fields"):
        table.add_column(column, justify="right" if column in ("at", "bits") else "left")
    for region in module.regions:
        base = region.base if isinstance(region.base, str) else f"{region.base:#x}"
        for register in region.registers:
            table.add_row(
                f"{region.space} {region.name}", f"{base} + {register.offset:#x}", register.name,
                str(8 * register.width), register.read_tier, register.write_tier,
                ", ".join(field.name for field in register.fields),
            )  # fmt: skip
    return table


def weights(module: ir.Module, sizes: dict[str, int]) -> list[tuple[str, str]]:
    """State, image and code in bytes; lines, Python parts, parameters."""
    found = [
        ("state", f"{module.size} bytes, saved as {image_size(module)}"),
        ("code", f"{sum(sizes.values())} bytes of functions"),
    ]
    for region in module.regions:
        read, write = (sizes.get(f"{module.name}_{region.name}_{kind}", 0) for kind in ("read", "write"))
        found.append((f"  {region.name}", f"read {read}, write {write}"))
    found.append(("lines", ", ".join(line.name for line in module.lines if line.name) or "none"))
    for param in module.params:
        found.append(
            ("parameter", f"{param.name} = {param.default:#x} ({param.type.lo:#x}..{param.type.hi:#x})")
        )
    for python in module.pythons:
        kind = python.kind if python.tier == "python" else f"{python.kind} of tier {python.tier}"
        found.append(("python", f"{python.name} ({kind}, {python.file}): {python.why}"))
    return found


def traffic(module: ir.Module, known: Traffic) -> list[tuple[str, str]]:
    """Registers, accessed whole, of which writes may wait or reads need no lock."""

    def posted(region: ir.Region, register: ir.Register) -> str | None:
        found = known.posted_at(region.name, register.offset, register.width)
        if found is None or register.write_tier == "none":
            return None
        changes = ", ".join(module.lines[line].name for line in found.lines)
        return f"{register.name} (changes {changes})" if changes else register.name

    def quiet(region: ir.Region, register: ir.Register) -> str | None:
        found = known.quiet_at(region.name, register.offset, register.width)
        if found is None or register.read_tier == "none":
            return None
        return register.name if found.state else f"{register.name} (time alone)"

    return [
        ("may wait", _listed(module, posted) or "no write"),
        ("needs no lock", _listed(module, quiet) or "no read"),
    ]


def _listed(module: ir.Module, describe: Callable[[ir.Region, ir.Register], str | None]) -> str:
    """What is said of each register; the elements of an array of which the same is said as one."""
    texts = (describe(region, register) for region in module.regions for register in region.registers)
    return ", ".join(dict.fromkeys(re.sub(r"\[\d+\]", "[*]", text) for text in texts if text is not None))


def code_sizes(image: bytes) -> dict[str, int]:
    """Bytes of each function in an object file."""
    symbols: Any = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
    return {
        s.name: s["st_size"]
        for s in symbols.iter_symbols()
        if s["st_info"]["type"] == "STT_FUNC" and s["st_size"]
    }
