"""A device's LLVM IR for the JIT: in two modules, one of which is compiled in a hurry.

The accesses that guests make, with all that they call, are optimised in full.
What a host does for them now and then (settling, commits, deadlines) is
optimised on the IR alone and its machine code made without further thought:
a tenth of the time, for some tens of ns an interrupt. What happens once in a
long while (reset, restore, odd accesses) is not optimised at all.

Non-goals: files for other programs (emit.py), which are compiled as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from . import ir, native_image
from .inlining import Inlining
from .native import CALLEE, Unit, translate

ONCE = ("reset", "resume")
"""Exported functions that nobody waits for often."""
UNOPTIMISED = "noinline optnone "


@dataclass(frozen=True, slots=True)
class Parts:
    """The two modules' texts. Each uses functions that the other defines."""

    accesses: str
    rest: str


def build(module: ir.Module, preserve_most: bool = False) -> Parts:
    """The texts; see `native.build` for `preserve_most`."""
    unit = translate(module, preserve_most)
    accesses = {f"{region.name}_{kind}" for region in module.regions for kind in ("read", "write")}
    exported = {name for name in unit.texts if unit.functions[name].exported}
    apart = {name for name in unit.texts if unit.rare(name)} | exported - accesses
    hot = _reached(unit, accesses, apart)
    called = {callee for name in hot for callee in unit.calls.get(name, ())}
    outside = called & apart
    now_and_then = _reached(unit, exported - accesses - {*ONCE}, accesses | {*ONCE})
    others = _reached(unit, exported - accesses | outside, accesses)
    image = native_image.build(module, quick=True)
    return Parts(
        _text(unit, hot, outside, accesses, set(), ""),
        _text(unit, others, accesses, exported - accesses | outside, others - now_and_then, image),
    )


def _reached(unit: Unit, roots: Iterable[str], beyond: set[str]) -> set[str]:
    """The roots and all that they call, without what lies beyond."""
    found = set(roots)
    for name in reversed(unit.texts):  # a callee stands before its callers
        if name in found:
            found |= set(unit.calls.get(name, ())) - beyond
    return found


def _text(
    unit: Unit, defined: set[str], declared: set[str], visible: set[str], dull: set[str], more: str
) -> str:
    """A module of some functions, calling others, some of them visible to the other module.

    `dull`: those that are not optimised; they and their callers stay apart.
    """
    names = [name for name in unit.texts if name in defined]
    apart = frozenset(name for name in names if unit.rare(name) or unit.functions[name].apart)
    apart |= declared | dull
    inlining = Inlining(
        {name: unit.texts[name].body.count("\n") for name in names},
        {name: Counter(unit.calls.get(name, {})) for name in names},
        apart,
        [f"{region.name}_read" for region in unit.module.regions],
        frozenset(visible),
    )
    parts = [unit.head()]
    parts += [unit.texts[name].declare(_visibility(unit, name)) for name in unit.texts if name in declared]
    for name in names:
        taken = {f for f in unit.calls.get(name, ()) if name not in dull and inlining.takes(name, f)}
        body = CALLEE.sub(
            lambda call, taken=taken: " alwaysinline" if call[1] in taken else "",  # type: ignore[misc]
            unit.texts[name].body,
        )
        linkage = _visibility(unit, name) if name in visible else ""
        parts.append(unit.texts[name].define(body, linkage, UNOPTIMISED if name in dull else ""))
    parts += unit.rare_calls(defined)
    return "\n\n".join([*parts, more, unit.metadata.text()]) + "\n"


def _visibility(unit: Unit, name: str) -> str:
    """How a function is known to the other module: as to anybody, or to this module alone."""
    return "dso_local" if unit.functions[name].exported else "hidden"
