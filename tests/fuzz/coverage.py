"""What a program reached: blocks of the reference engine's code, and kinds of state.

`ProbedReference` notes every block that it runs, both ways of each condition
among them, and counts the iterations of loops, which is all by which the work
of a call can grow. `Features` names the kind of state that a device is in: its
small slots (modes, flags) taken together, element by element of a block array.

Non-goals: the order in which blocks are run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from devc.compiler import ir
from devc.compiler.reference import Reference, Translation

SMALL = 8
"""Slots of up to this many values say what kind of state it is; the rest are data."""


class ProbedReference(Reference):
    """The reference engine, watched. `hits` has a key for each block that was run."""

    def __init__(self, module: ir.Module) -> None:
        self.hits: dict[int, int] = {}
        self.loops = {0: 0}
        self.blocks = 0
        self._names: tuple[str, str] | None = None
        super().__init__(module)

    def translate(self, function: ir.Function, names: dict[str, str]) -> Any:
        if self._names is None:
            self._names = self.table(self.hits), self.table(self.loops)
        return _Probed(self, function, names, *self._names).definition()

    def take_loops(self) -> int:
        """Iterations of loops since the last call."""
        count, self.loops[0] = self.loops[0], 0
        return count


class _Probed(Translation):
    def __init__(
        self, program: ProbedReference, function: ir.Function, names: dict[str, str], hits: str, loops: str
    ) -> None:
        super().__init__(program, function, names)
        self.probed, self.hits, self.loops = program, hits, loops
        self.repeated: set[int] = set()

    def block(self, block: ir.Block) -> Any:
        self.repeated |= {id(stmt.body) for stmt in block if isinstance(stmt, ir.Repeat)}
        lines = [self.mark(), *super().block(block)]
        return [f"{self.loops}[0] += 1", *lines] if id(block) in self.repeated else lines

    def mark(self) -> str:
        self.probed.blocks += 1
        return f"{self.hits}[{self.probed.blocks}] = 1"


class Features:
    """Names the kind of state that a device's state struct is in."""

    def __init__(self, module: ir.Module) -> None:
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for slot in module.slots:
            if slot.kind == "state" and slot.size == 1 and slot.type.hi - slot.type.lo < SMALL:
                for index, offset in ir.elements(slot):
                    stride = slot.dims[0][1] if slot.dims else 0
                    groups[stride, index[0] if index else 0].append(offset)
        self._takers: list[tuple[int, Callable[[bytes], Any]]] = [
            (stride, itemgetter(*offsets)) for (stride, _), offsets in groups.items()
        ]

    def of(self, state: bytes) -> Iterator[tuple[int, Any]]:
        """One name a block array's element, and one for what stands alone."""
        return ((stride, take(state)) for stride, take in self._takers)
