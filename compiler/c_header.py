"""The C header of a compiled device: docs/abi.md with this device's names and numbers.

One self-contained file a device, C99 and C++11. Everything a caller needs is a
macro, one struct type and the prototypes; two devices' headers may be included
together (what is common to all is defined alike in each).

Non-goals: accessors for the state's slots (only its head and `rises` are
documented to callers); other languages.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from . import ir
from .image import FORMAT_WRONG, INSTANT, LAYOUT, LENGTH, MAGIC_WRONG, PARAMETERS, VALUE, image_size

WIDTH = 96

ATTENTION = {
    "LINES": (ir.ATTENTION_LINES, "a level in `lines` changed, or a counter in `rises` did"),
    "DEADLINE": (ir.ATTENTION_DEADLINE, "`deadline` changed: arm the host's timer anew"),
    "LEAVE": (ir.ATTENTION_LEAVE, "the access was not served: handler number `leave` must serve it"),
    "WATCH": (ir.ATTENTION_WATCH, "observers whose bits are set in `watch` must be told"),
}
REFUSALS = {
    "LENGTH": (LENGTH, "the image has a wrong length"),
    "MAGIC": (MAGIC_WRONG, "it is no saved device"),
    "FORMAT": (FORMAT_WRONG, "another format of image"),
    "LAYOUT": (LAYOUT, "another version or layout of the device"),
    "PARAMETERS": (PARAMETERS, "parameters other than this instance's"),
    "VALUE": (VALUE, "a value outside its range"),
    "INSTANT": (INSTANT, "saved after `now`: set the clock to the image's instant first"),
}
HEAD = (
    ("uint64_t", "deadline", "ns: the device next does something by itself; DEVC_NEVER if it will not"),
    ("uint64_t", "settled", "ns: accounted for up to here"),
    ("uint32_t", "lines", "level of line i in bit i"),
    ("uint32_t", "attention", "DEVC_ATTENTION_*: set by the functions, cleared by the caller"),
    ("uint32_t", "leave", "with DEVC_ATTENTION_LEAVE: the handler to call"),
    ("uint32_t", "watch", "with DEVC_ATTENTION_WATCH: the observers to tell"),
    ("uint32_t", "lock", "0, or 1 while somebody is at work: for callers in several threads"),
    ("uint32_t", "version", "odd while the state changes under the lock"),
)
STATE, CONST_STATE = "{dev}_state *s", "const {dev}_state *s"
ACCESS = "uint32_t offset, uint32_t width"

REGION_PROTOTYPES = (
    (
        "uint64_t {dev}_{region}_read(" + STATE + ", uint64_t now, " + ACCESS + ")",
        "What the guest reads: `width` bytes (1, 2, 4, 8) at `offset` in the window `{region}`.",
    ),
    (
        "void {dev}_{region}_write(" + STATE + ", uint64_t now, " + ACCESS + ", uint64_t value)",
        "The guest writes the low `width` bytes of `value`.",
    ),
    (
        "uint64_t {dev}_{region}_peek(" + CONST_STATE + ", uint64_t now, " + ACCESS + ")",
        "What a read would return; nothing changes.",
    ),
)
PROTOTYPES = (
    (
        "void {dev}_settle(" + STATE + ", uint64_t now)",
        "Account for everything up to `now`. Reads and writes do so by themselves; call it at the deadline.",
    ),
    (
        "uint32_t {dev}_levels(" + CONST_STATE + ", uint64_t now)",
        "The level of line i in bit i at `now`; pure.",
    ),
    ("uint64_t {dev}_next(" + CONST_STATE + ", uint64_t now)", "The deadline after `now`; pure."),
    ("void {dev}_reset(" + STATE + ", uint64_t now)", "Power-on state; the parameters stay."),
    (
        "void {dev}_commit(" + STATE + ", uint64_t now)",
        "Let lines, counters and deadlines follow a change of the state made from outside; settle first.",
    ),
    ("void {dev}_resume(" + STATE + ", uint64_t now)", "Recompute what is derived from the saved slots."),
    (
        "void {dev}_save(" + STATE + ", uint64_t now, uint8_t *image)",
        "Settle, then write {DEV}_IMAGE_SIZE bytes: little-endian, the same on every machine.",
    ),
    (
        "uint32_t {dev}_restore(" + STATE + ", uint64_t now, const uint8_t *image, uint64_t length)",
        "0, or DEVC_RESTORE_*: why it is refused, and nothing has changed. Needs an initialised state.\n"
        "The state is as of the image's own instant, and is then settled to `now`.",
    ),
)


def header(module: ir.Module) -> str:
    """The text of `<device>.h`."""
    guard = f"DEVC_{_upper(module.name)}_H"
    parts = [
        _comment(
            f"{module.name}: {module.doc or 'a device'}", "Made by devc from the device file; do not edit."
        ),
        f"#ifndef {guard}\n#define {guard}\n\n#include <stddef.h>\n#include <stdint.h>",
        '#ifdef __cplusplus\nextern "C" {\n#endif',
        "\n".join(_common()),
        "\n".join(_numbers(module)),
        _state(module),
        *("\n".join(_region(module, region)) for region in module.regions),
        "\n\n".join(_prototypes(module)),
        "#ifdef __cplusplus\n}\n#endif\n\n#endif",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _upper(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()


def _plain(text: str) -> str:
    """A device's text made harmless inside a comment."""
    text = "".join(c if c.isprintable() else " " for c in text)
    while text != (text := re.sub(r"\*/|/\*|\?\?/", lambda m: f"{m[0][0]} {m[0][1:]}", text)):
        pass
    return " ".join(text.split())


def _comment(*paragraphs: str) -> str:
    lines = [line for text in paragraphs for line in textwrap.wrap(_plain(text), WIDTH - 6)]
    return "/* " + "\n * ".join(lines) + " */"


def _number(value: int) -> str:
    return f"{value:#x}u" if value < 2**32 else f"UINT64_C({value:#x})"


class _Macros:
    """`#define` lines; a name that two things share is numbered for the later ones."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def line(self, name: str, value: str, note: str = "") -> str:
        own, count = name, 1
        while own in self._used:
            count += 1
            own = f"{name}_{count}"
        self._used.add(own)
        return f"#define {own} {value}" + (f" {_comment(note)}" if _plain(note) else "")


def _common() -> Iterator[str]:
    yield _comment("Common to all devices.")
    yield f"#define DEVC_NEVER UINT64_C({ir.NEVER:#x}) /* the deadline of what will not happen */"
    for prefix, table in (("ATTENTION", ATTENTION), ("RESTORE", REFUSALS)):
        for name, (value, note) in table.items():
            yield f"#define DEVC_{prefix}_{name} {value}u {_comment(note)}"


def _numbers(module: ir.Module) -> Iterator[str]:
    dev, macros = _upper(module.name), _Macros()
    yield macros.line(f"{dev}_VERSION", f"{module.version}u", "of the saved state")
    yield macros.line(f"{dev}_STATE_SIZE", f"{module.size}u", "bytes")
    yield macros.line(f"{dev}_STATE_ALIGN", "8u", "bytes")
    yield macros.line(f"{dev}_IMAGE_SIZE", f"{image_size(module)}u", "bytes of a saved image")
    yield macros.line(f"{dev}_LINES", f"{len(module.lines)}u", "number of output lines")
    for number, line in enumerate(module.lines):
        if not line.name:
            continue
        yield macros.line(f"{dev}_LINE_{_upper(line.name)}", f"{number}u", line.doc)
    for p in module.params:
        if p.slot is not None:
            value = _number(p.default) if p.default >= 0 else f"((uint64_t)INT64_C({p.default}))"
            yield macros.line(f"{dev}_{_upper(p.name)}_DEFAULT", value, "of a parameter of init")
    for region in module.regions:
        name = f"{dev}_{_upper(region.name)}"
        if region.space != "host":
            yield macros.line(f"{name}_BASE", *_base(module, region))
        yield macros.line(f"{name}_SIZE", _number(region.size), "bytes")
    placed = [region for region in module.regions if region.space != "host"]
    rows = (f"X({r.name}, {r.space}, {dev}_{_upper(r.name)}_BASE, {r.size:#x}u)" for r in placed)
    if placed:
        yield _comment("Every window that a guest can reach: X(name, address space, base, size).")
        yield macros.line(f"{dev}_REGIONS(X)", " ".join(rows))


def _base(module: ir.Module, region: ir.Region) -> tuple[str, str]:
    if isinstance(region.base, int):
        return _number(region.base), f"address in the {region.space} space"
    default = next((p.default for p in module.params if p.name == region.base), 0)
    return _number(default), f"default of the parameter {region.base}; address in the {region.space} space"


def _state(module: ir.Module) -> str:
    """The struct: its head and `rises` by name, the rest as bytes, and a check of both."""
    dev, upper = module.name, _upper(module.name)
    members = [f"    {kind} {name}; {_comment(note)}" for kind, name, note in HEAD]
    checks = [f"sizeof({dev}_state) == {upper}_STATE_SIZE"]
    at = ir.HEADER_SIZE
    rises = next((s for s in module.slots if s.name == "rises" and len(s.dims) == 1), None)
    if rises is not None:
        count = rises.dims[0][0]
        if rises.offset > at:
            members.append(f"    uint8_t private_1[{rises.offset - at}];")
        note = "of each line: rising edges since reset, modulo 2**32"
        members.append(f"    uint32_t rises[{count}]; {_comment(note)}")
        checks.append(f"offsetof({dev}_state, rises) == {rises.offset}")
        at = rises.offset + 4 * count
    if module.size > at:
        members.append(f"    uint8_t private_2[{module.size - at}];")
    about = _comment(
        "The state of one instance. Zero it or not: `init` writes all of it. It holds no pointer."
    )
    check = f"typedef char {dev}_state_check[({' && '.join(checks)}) ? 1 : -1];"
    return "\n".join([about, f"typedef struct {dev}_state {{", *members, f"}} {dev}_state;", check])


def _region(module: ir.Module, region: ir.Region) -> Iterator[str]:
    split = "; an access that is not a byte is split, low address first" if region.split else ""
    if region.space == "host":
        split += "; at no address: for the machine around, not for its guest"
    yield _comment(f"Registers of the window {region.name}: offset, width in bytes, fields{split}.")
    macros = _Macros()
    for register in region.registers:
        name = f"{_upper(module.name)}_{_upper(region.name)}_{_upper(register.name)}"
        yield macros.line(f"{name}_OFFSET", _number(register.offset), _about(register))
        yield macros.line(f"{name}_WIDTH", f"{register.width}u")
        for field in register.fields:
            mask = (1 << field.high + 1) - (1 << field.low)
            note = f"[{field.high}:{field.low}] {field.access}{': ' if field.doc else ''}{field.doc}"
            yield macros.line(f"{name}_{_upper(field.name)}_MASK", _number(mask), note)
            yield macros.line(f"{name}_{_upper(field.name)}_SHIFT", f"{field.low}u")


def _about(register: ir.Register) -> str:
    python = [
        word
        for word, tier in (("read", register.read_tier), ("write", register.write_tier))
        if tier in ("numba", "python")
    ]
    left = f" (its {' and '.join(python)}: DEVC_ATTENTION_LEAVE)" if python else ""
    return f"{register.access}{left}{': ' if register.doc else ''}{register.doc}"


def _prototypes(module: ir.Module) -> Iterator[str]:
    names = {"dev": module.name, "DEV": _upper(module.name)}
    yield "\n".join(_init(module))
    for region in module.regions:
        for prototype, about in REGION_PROTOTYPES:
            filled = names | {"region": region.name}
            yield f"{_comment(about.format(**filled))}\n{prototype.format(**filled)};"
    for prototype, about in PROTOTYPES:
        yield f"{_comment(about.format(**names))}\n{prototype.format(**names)};"


def _init(module: ir.Module) -> Iterator[str]:
    """A parameter's C name has a prefix, as its own may be a keyword or a macro."""
    stored = [p for p in module.params if p.slot is not None]
    yield _comment(
        "Make the struct an instance, reset at `now` (virtual ns). Parameters are clamped into their ranges."
    )
    for p in stored:
        about = f": {p.doc}" if p.doc else ""
        sign = ", two's complement" if p.type.signed else ""
        yield _comment(f"p_{p.name} {p.type.lo}..{p.type.hi}{sign}, usually {p.default}{about}")
    params = "".join(f", uint64_t p_{p.name}" for p in stored)
    yield f"void {module.name}_init({module.name}_state *s, uint64_t now{params});"
