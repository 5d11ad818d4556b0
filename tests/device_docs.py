"""The tables in docs/devices/*.md: made from the compiled devices, and from QEMU's recordings.

    python -m tests.device_docs             names the documents that are not current
    python -m tests.device_docs --write     makes them so

A table stands between `<!-- NAME -->` and `<!-- end -->`. Parameters, registers,
inputs and lines are made from the module. In the table of differences only the counts
are made; its words are people's, one row a cause, and are kept.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from devc.compiler import ir
from devc.compiler.driver import DEVICES, load

from .golden_compare import differences
from .golden_traces import recorded

DOCS = Path(__file__).parent.parent / "docs" / "devices"
RECORDED = {"i8254": "pit", "acpi_pm": "pmtimer", "hpet": "hpet", "mc146818": "rtc"}
"""What the recordings call the devices; of others there are none."""
SHIPPED = sorted(path.stem for path in DEVICES.glob("*.dev"))

_TABLE = re.compile(r"(<!-- (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_ELEMENT = re.compile(r"^(\w+)\[(\d+)\](.*)$")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def parameters(module: ir.Module) -> str:
    return table(("parameter", "default", "takes", "meaning"), [_parameter(p) for p in module.params])


def _parameter(param: ir.Param) -> tuple[str, ...]:
    """Addresses and masks in hexadecimal."""
    is_address = param.slot is None
    show = "{:#x}" if is_address or param.type in (ir.U8, ir.U32) else "{:_}"
    default, low, high = (show.format(n) for n in (param.default, param.type.lo, param.type.hi))
    doc = param.doc or ("where its window is" if is_address else "")
    return f"`{param.name}`", default, f"{low} to {high}", doc


def registers(module: ir.Module) -> str:
    """One row a register; those of a block array in one, counted by n."""
    rows = [row for region in module.regions for row in _region(region)]
    return table(("window", "offset", "register", "bits", "access", "fields"), rows)


def _region(region: ir.Region) -> Iterator[tuple[str, ...]]:
    arrays: dict[tuple[str, str], list[ir.Register]] = {}
    for register in region.registers:
        element = _ELEMENT.match(register.name)
        key = (element[1], element[3]) if element else (register.name, "")
        arrays.setdefault(key, []).append(register)
    for (name, rest), members in arrays.items():
        first, offset, shown = members[0], f"{members[0].offset:#x}", name + rest
        if len(members) > 1:
            stride = members[1].offset - first.offset
            offset += f" + {stride:#x} n" if stride > 1 else " + n"
            shown = f"{name}[n]{rest}"
            offset += f", n = 0 to {len(members) - 1}"
        fields = ", ".join(_field(field) for field in first.fields)
        window = f"{region.space} `{region.name}`"
        yield window, offset, f"`{shown}`", str(8 * first.width), _access(first), fields or first.doc or ""


def _access(register: ir.Register) -> str:
    only_read = register.fields and all(field.access == "ro" for field in register.fields)
    return "ro" if only_read else register.access


def _field(field: ir.Field) -> str:
    bits = f"{field.high}:{field.low}" if field.high > field.low else str(field.high)
    return f"[{bits}] `{field.name}` {field.access}"


def inputs(module: ir.Module) -> str:
    """One row an input; those of an array in one."""
    arrays: dict[str, list[ir.Input]] = {}
    for given in module.inputs:
        arrays.setdefault(given.name.partition("[")[0], []).append(given)
    rows = [
        (f"`{name}`" if len(members) == 1 else f"`{name}[n]`, n = 0 to {len(members) - 1}", members[0].doc)
        for name, members in arrays.items()
    ]
    return table(("input", "meaning"), rows)


def lines(module: ir.Module) -> str:
    """One row a line; those of an array in one."""
    arrays: dict[str, list[ir.Line]] = {}
    for line in module.lines:
        if line.name:
            arrays.setdefault(line.name.partition("[")[0], []).append(line)
    rows = []
    for name, members in arrays.items():
        first = members[0]
        shown = f"`{name}`" if len(members) == 1 else f"`{name}[n]`, n = 0 to {len(members) - 1}"
        policy = first.missed + (f", at least {first.minimum:_} ns apart" if first.minimum else "")
        carried = ", ".join(f"`{carried}`" for carried, _, _ in first.carries)
        rows.append((shown, first.doc, policy or "-", carried or "-"))
    return table(("line", "meaning", "missed ticks", "carries"), rows)


def counted(device: str) -> Counter[str]:
    """How many answers differ from the `full` recordings, by cause."""
    found: Counter[str] = Counter()
    for trace in recorded(RECORDED[device], "full"):
        found.update(difference.cause for difference in differences(trace)[1])
    return found


def recounted(device: str, old: str) -> str:
    """The table of differences with its counts as they are; a new cause gets a row without words."""
    words = dict(causes(old))
    rows = [(str(n), cause, words.get(cause, "?")) for cause, n in counted(device).most_common()]
    return table(("answers", "what QEMU 7.2 does", "here, and why"), rows)


def causes(old: str) -> Iterator[tuple[str, str]]:
    """Cause and explanation of each row of a table of differences."""
    for row in old.splitlines()[2:]:
        _, cause, explanation = (cell.strip() for cell in row.strip("| ").split(" | "))
        yield cause, explanation


TABLES: dict[str, Callable[[ir.Module], str]] = {
    "parameters": parameters,
    "registers": registers,
    "inputs": inputs,
    "lines": lines,
}


def current(device: str, text: str) -> str:
    """The document with every table as it must be."""
    module = load(device).module

    def made(found: re.Match[str]) -> str:
        begin, name, old, end = found.groups()
        fresh = recounted(device, old) if name == "differences" else TABLES[name](module)
        return begin + fresh + end

    return _TABLE.sub(made, text)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.device_docs", description="Tables of the documents."
    )
    parser.add_argument("--write", action="store_true", help="write them into the documents")
    write = parser.parse_args().write
    stale = 0
    for device in SHIPPED:
        path = DOCS / f"{device}.md"
        old = path.read_text()
        fresh = current(device, old)
        if fresh != old:
            stale += 1
            print(f"{path.name} {'is written anew' if write else 'is not current: run this with --write'}")
            if write:
                path.write_text(fresh)
    return int(bool(stale) and not write)


if __name__ == "__main__":
    raise SystemExit(main())
