"""The eBPF back end: a device's typed IR as the text of an LLVM module for the kernel's verifier.

docs/bpf-object.md is the contract of the object that bpf_compile.py makes of it.

Non-goals: machine code (bpf_compile.py, in a process of its own); loading.
"""

from __future__ import annotations

import re
import struct
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ..dsl.diagnostics import Source
from . import bpf_loops, bpf_programs, ir
from .analysis import walk
from .bpf_calls import Calls
from .bpf_debug import Debug
from .bpf_functions import MOST_ARGUMENTS, BpfUnit, translate
from .image import slot_code
from .metadata import Metadata
from .native import CALLEE
from .reference import reference


@dataclass(frozen=True, slots=True)
class Origin:
    """What a function of the object stems from: a construct of the device file, and its line (0: none).

    `construct` as `channel.data.read`, `channel.on.load`, `main.value`.
    """

    construct: str
    line: int


@dataclass(frozen=True, slots=True)
class Built:
    """An object's LLVM IR text, and what its functions stem from, by symbol."""

    device: str
    text: str
    origins: Mapping[str, Origin]


def build(
    module: ir.Module,
    source: Source | None = None,
    unguarded: Collection[str] = (),
    more: Callable[[BpfUnit], str] = lambda unit: "",
    programs: Callable[[BpfUnit], str] = bpf_programs.build,
) -> Built:
    """The object's LLVM IR. `source`: the device file, for lines. `unguarded`: see `BpfUnit`.

    `programs` gives the programs' text: bpf_programs.py's or bpf_kvm.py's; `more` that of further
    programs and variables (by bpf_programs.py's `program`, `variable`, `record`).
    """
    initial = initial_state(module)
    module = bpf_loops.apart(module)
    debug = Debug(Metadata(), module.name, source)
    unit = BpfUnit(module, debug, unguarded)
    translate(unit)
    parts = [
        unit.head(),
        bpf_programs.variables(module, debug, initial),
        *_functions(unit),
        programs(unit),
        more(unit),
    ]
    named = debug.close()
    origins = {
        unit.names[f.name]: Origin(_SUFFIXES.sub("", f.name) or f.name, f.line) for f in module.functions
    }
    return Built(module.name, "\n\n".join([*parts, named, unit.metadata.text()]) + "\n", origins)


_SUFFIXES = re.compile(r"(\.(do|let|is|in|there|touches|rest|byte|loop\d+))+$")
"""What functions of the compiler's own are called by, behind the construct that they serve."""


def initial_state(module: ir.Module) -> bytes:
    """The state after `init` with default parameters at instant 0, little-endian."""
    state = bytearray(module.size)
    for param in module.params:
        if param.slot is not None:
            slot = module.slot(param.slot)
            struct.pack_into("=" + slot_code(slot), state, slot.offset, param.default)
    reference(module, checked=False).bind(state)["reset"](0)
    content = bytearray(module.size)
    for slot in module.slots:
        for _, at in ir.elements(slot):
            word = state[at : at + slot.size]
            content[at : at + slot.size] = word if sys.byteorder == "little" else word[::-1]
    return bytes(content)


def _functions(unit: BpfUnit) -> list[str]:
    """What the programs reach: functions by themselves, and those that become part of all their callers."""
    accesses = {f"{region.name}_{kind}" for region in unit.module.regions for kind in ("read", "write")}
    reached = accesses | {"settle", "next"}
    for name in reversed(unit.texts):  # a callee stands before its callers
        if name in reached:
            reached |= set(unit.calls.get(name, ()))
    names = [name for name in unit.texts if name in reached]
    plan = Calls(
        {name: unit.texts[name].body.count("\n") for name in names},
        {name: Counter(unit.calls.get(name, {})) for name in names},
        accesses=accesses,
        roots={"settle", "next"},
        apart=[name for name in names if unit.rare(name) or unit.functions[name].apart],
        loops=[n for n in names if any(isinstance(s, ir.Repeat) for s in walk(unit.functions[n].body))],
        forced=[name for name in names if len(unit.functions[name].params) >= MOST_ARGUMENTS],
    )
    return [_text(unit, name, plan) for name in names]


def _text(unit: BpfUnit, name: str, plan: Calls) -> str:
    body = CALLEE.sub(
        lambda call: " alwaysinline" if plan.takes(name, call[1]) else " noinline", unit.texts[name].body
    )
    if not plan.alone(name):
        return unit.texts[name].define(body, "internal")
    # The verifier wants every argument to be set, and LLVM sets none that is not used. Where it
    # need not optimise for size, it also makes variants of a function with less arguments.
    operands = ["i64 %now", *(f"i64 %p{n}" for n in range(len(unit.functions[name].params)))]
    constraints = ",".join("r" for _ in operands)
    keep = f'  call void asm sideeffect "", "{constraints}"({", ".join(operands)})'
    return unit.texts[name].define(f"{keep}, !dbg {unit.heads[name]}\n{body}", more="optsize ")
