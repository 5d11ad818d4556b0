"""The state struct: where each slot lies.

Header, rises, then the device's own slots, then each block's; widest first
within a group, so that nothing is lost to alignment but at a group's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from . import ir
from .loops import repeat
from .scope import Scope


@dataclass(frozen=True)
class SlotSpec:
    """A slot before it has a place."""

    name: str
    type: ir.Range
    kind: str
    scope: Scope
    count: int | None
    reset: int

    @property
    def size(self) -> Literal[1, 2, 4, 8]:
        for size in (1, 2, 4):
            bits = 8 * size
            fits = (
                ir.Range(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
                if self.type.lo < 0
                else ir.Range(0, 2**bits - 1)
            )
            if fits.contains(self.type):
                return size
        return 8

    def indices(self) -> Iterator[tuple[ir.Expr, ...]]:
        """The constant indices of its own array, if it is one."""
        if self.count is None:
            yield ()
        else:
            for i in range(self.count):
                yield (ir.Const(i),)

    def reset_at(self, place: tuple[ir.Expr, ...]) -> list[ir.Stmt]:
        """Store the reset value in every element of its own array."""
        value = ir.Const(self.reset)
        if self.count is None:
            return [ir.Store(self.name, place, value)]
        return repeat(self.count, f"{self.name}.each", lambda i: [ir.Store(self.name, (*place, i), value)])


def lay_out(specs: Iterable[SlotSpec], lines: int) -> tuple[tuple[ir.Slot, ...], int]:
    """Slots with offsets, and the struct's size in bytes."""
    slots = list(ir.HEADER)
    at = ir.HEADER_SIZE
    if lines:
        slots.append(ir.Slot("rises", ir.U32, 4, at, ((lines, 4),), "derived"))
        at = _up(at + 4 * lines, 8)
    groups: dict[int, list[SlotSpec]] = {}
    for spec in specs:
        groups.setdefault(id(spec.scope), []).append(spec)
    for group in groups.values():
        scope = group[0].scope
        placed, size = _group(group)
        count = scope.index[1] if scope.index is not None else None
        stride = _up(size, 8)
        for spec, offset in placed:
            dims: tuple[tuple[int, int], ...] = ((count, stride),) if count is not None else ()
            if spec.count is not None:
                dims += ((spec.count, spec.size),)
            slots.append(
                ir.Slot(spec.name, spec.type, spec.size, at + offset, dims, spec.kind, spec.reset)  # type: ignore[arg-type]
            )
        at += stride * (count or 1)
    return tuple(slots), _up(at, 8)


def _group(specs: list[SlotSpec]) -> tuple[list[tuple[SlotSpec, int]], int]:
    at, placed = 0, []
    for spec in sorted(specs, key=lambda s: -s.size):
        placed.append((spec, at))
        at += spec.size * (spec.count or 1)
    return placed, at


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
