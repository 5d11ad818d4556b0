"""The verifier's rules about a module outside of its functions' bodies.

`MODULE_RULES` is the table: each rule yields complaints, and the first one
ends the verification. Kept apart from verify.py, which is about the bodies.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from .ir import EXPORTS, HEADER, HEADER_SIZE, READ, U32, WRITE, Function, Module, Range, Slot, elements
from .show import show_range

PURE = ("levels", "next")
"""The exported functions that must not change the state."""

IO_PORTS = 0x1_0000
MAX_SIZE = 2**20  # of the state: a native `peek` works on a copy on the stack
MAX_LINES = 64  # bits of the header's `lines`
MAX_OBSERVERS = 32  # bits of the header's `watch`

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class IRError(Exception):
    """A module breaks a rule of the IR: a fault of the compiler, not of a device file."""


Rule = Callable[[Module], Iterator[str]]


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what} {name} is declared {count} times"


def _identity(module: Module) -> Iterator[str]:
    if not _NAME.fullmatch(module.name):
        yield f"{module.name!r} is not a name that C can link to"
    if not U32.contains(Range(module.version, module.version)):
        yield f"version {module.version} is outside {show_range(U32)}"
    if module.size % 8 or not HEADER_SIZE <= module.size <= MAX_SIZE:
        yield f"size {module.size} is not a multiple of 8 in {HEADER_SIZE}..{MAX_SIZE}"


def _header(module: Module) -> Iterator[str]:
    if module.slots[: len(HEADER)] != HEADER:
        yield "the slots do not begin with HEADER"
    for slot in module.slots[len(HEADER) :]:
        if slot.kind == "header":
            yield f"slot {slot.name} is of kind header, but not in HEADER"


def _held(size: int, signed: bool) -> Range:
    bits = 8 * size
    return Range(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else Range(0, 2**bits - 1)


def _one_slot(slot: Slot, size: int) -> Iterator[str]:
    if slot.size not in (1, 2, 4, 8):
        yield f"has {slot.size} bytes; allowed are 1, 2, 4 and 8"
        return
    if slot.type.lo > slot.type.hi or not _held(slot.size, slot.type.signed).contains(slot.type):
        yield f"of type {show_range(slot.type)} does not fit {slot.size} bytes"
    if slot.kind == "state" and not slot.type.lo <= slot.reset <= slot.type.hi:
        yield f"resets to {slot.reset}, outside {show_range(slot.type)}"
    if slot.offset % slot.size:
        yield f"at offset {slot.offset} is not aligned to its {slot.size} bytes"
    for count, stride in slot.dims:
        if count < 1:
            yield f"has a dimension of {count} elements"
        if stride % slot.size or stride < slot.size:
            yield f"has a stride of {stride}, which is not a multiple of its {slot.size} bytes"
    last = slot.offset + sum((count - 1) * stride for count, stride in slot.dims) + slot.size
    if slot.offset < 0 or last > size:
        yield f"at bytes {slot.offset}..{last - 1} is not within the struct's {size} bytes"
    if slot.kind == "param" and slot.dims:
        yield "is a parameter and an array"


def _slots(module: Module) -> Iterator[str]:
    yield from _repeated("slot", (slot.name for slot in module.slots))
    for slot in module.slots:
        for complaint in _one_slot(slot, module.size):
            yield f"slot {slot.name} {complaint}"


def _overlap(module: Module) -> Iterator[str]:
    places = sorted((at, at + slot.size, slot.name) for slot in module.slots for _, at in elements(slot))
    for (_, end, name), (start, _, other) in itertools.pairwise(places):
        if start < end:
            yield f"slots {name} and {other} overlap at byte {start}"


def _params(module: Module) -> Iterator[str]:
    slots = {slot.name: slot for slot in module.slots}
    yield from _repeated("parameter", (param.name for param in module.params))
    yield from _repeated("the slot of parameter", (p.slot for p in module.params if p.slot is not None))
    for param in module.params:
        if not param.type.fits:
            yield f"parameter {param.name} of type {show_range(param.type)} does not fit 64 bits"
        if not param.type.lo <= param.default <= param.type.hi:
            allowed = show_range(param.type)
            yield f"parameter {param.name} has the default {param.default}, outside {allowed}"
        if param.slot is None:
            continue
        slot = slots.get(param.slot)
        if slot is None or slot.kind != "param" or slot.type != param.type:
            yield f"parameter {param.name} needs a slot {param.slot} of kind param and of its own type"
    used = {param.slot for param in module.params}
    for slot in module.slots:
        if slot.kind == "param" and slot.name not in used:
            yield f"slot {slot.name} is of kind param, but no parameter's"


def _regions(module: Module) -> Iterator[str]:
    params = {param.name for param in module.params}
    yield from _repeated("region", (region.name for region in module.regions))
    for region in module.regions:
        here = f"region {region.name}"
        if region.space not in ("io", "mmio", "host"):
            yield f"{here} is in an unknown space {region.space}"
        space = IO_PORTS if region.space == "io" else 2**64
        if region.size < 1:
            yield f"{here} has the size {region.size}"
        if isinstance(region.base, str) and region.base not in params:
            yield f"{here} has its base in {region.base}, which is no parameter"
        if isinstance(region.base, int) and not 0 <= region.base <= space - region.size:
            yield f"{here} at {region.base:#x} is not within its space"
        for register in region.registers:
            if register.offset < 0 or register.width < 1 or register.offset + register.width > region.size:
                yield f"{here}: register {register.name} is not within its {region.size} bytes"


def _lines(module: Module) -> Iterator[str]:
    # a place between the lines with a level and those without has no name
    yield from _repeated("line", (line.name for line in module.lines if line.name))
    if len(module.lines) > MAX_LINES:
        yield f"has {len(module.lines)} lines; {MAX_LINES} is the most"
    if not module.lines:
        return
    rises = next((slot for slot in module.slots if slot.name == "rises"), None)
    if rises is None or rises.type != U32 or len(rises.dims) != 1 or rises.dims[0][0] < len(module.lines):
        yield f"has lines, and so needs a slot rises of type U32 and dimension {len(module.lines)}"


def _inputs(module: Module) -> Iterator[str]:
    slots = {slot.name: slot for slot in module.slots}
    yield from _repeated("input", (given.name for given in module.inputs))
    for given in module.inputs:
        slot = slots.get(given.slot)
        if (
            slot is None
            or slot.dims
            or slot.kind != "state"
            or not slot.type.contains(Range(0, 1 << given.bit))
        ):
            yield f"input {given.name} is bit {given.bit} of {given.slot}, which stores no such bit"


def _pythons(module: Module) -> Iterator[str]:
    slots = {slot.name: slot for slot in module.slots}
    if sum(python.kind == "observer" for python in module.pythons) > MAX_OBSERVERS:
        yield f"has more than {MAX_OBSERVERS} observers"
    for python in module.pythons:
        for name, slot_name, index in (*python.reads, *python.writes):
            slot = slots.get(slot_name)
            counts = [count for count, _ in slot.dims] if slot else None
            if counts is None or len(counts) != len(index):
                yield f"python {python.name}: {name} is not an element of a slot"
            elif not all(0 <= i < count for i, count in zip(index, counts, strict=True)):
                yield f"python {python.name}: {name} is outside of slot {slot_name}"


Signature = tuple[tuple[tuple[str, Range], ...], Range | None]


def _signature(function: Function) -> Signature:
    return function.params, function.result


def _exports(module: Module) -> Iterator[str]:
    functions = {function.name: function for function in module.functions}
    required: dict[str, Signature] = dict(EXPORTS)
    for region in module.regions:
        required |= {f"{region.name}_read": READ, f"{region.name}_write": WRITE}
    for name, signature in required.items():
        if name not in functions or not functions[name].exported:
            yield f"function {name} is missing, or not exported"
        elif _signature(functions[name]) != signature:
            yield f"function {name} has not the signature that the ABI gives it"
    for name, function in functions.items():
        if function.exported and name not in required:
            yield f"function {name} is exported, but docs/abi.md has no such symbol for an IR function"


def _function_names(module: Module) -> Iterator[str]:
    for function in module.functions:
        if not _FUNCTION_NAME.fullmatch(function.name):
            yield f"function {function.name!r}: not a name"


MODULE_RULES: tuple[Rule, ...] = (
    _identity,
    _header,
    _slots,
    _overlap,
    _params,
    _regions,
    _lines,
    _inputs,
    _pythons,
    _function_names,
    _exports,
)
"""In this order: a later rule relies on the ones before it."""
