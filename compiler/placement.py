"""Which registers stand where in a window or a bank, and what one access covers of them.

Non-goals: what may be placed (windows.py, banks.py); the code that serves it (decode.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..dsl.diagnostics import NOWHERE, Span
from . import arithmetic as a
from . import ir
from .entities import Place, RegDef

WIDTHS = (1, 2, 4, 8)
TABLE = 4
"""Places of one width from which on LLVM finds them through a table and an indirect jump."""


@dataclass
class Placed:
    """A register at a byte offset of a window, as one element of its block array."""

    reg: RegDef
    place: Place
    offset: int
    name: str
    where: str | None = None  # function: whether it is there
    span: Span = NOWHERE  # where it is placed

    @property
    def end(self) -> int:
        return self.offset + self.reg.width


@dataclass
class Part:
    """What one access touches of one register: bytes first..last of it."""

    placed: Placed
    first: int
    last: int
    shift: int  # bits from the access's low end


@dataclass
class Group:
    """Registers that one piece of code serves: those of a block array, evenly spaced."""

    members: list[Placed]
    stride: int = 0

    @property
    def reg(self) -> RegDef:
        return self.members[0].reg

    @property
    def first(self) -> int:
        return self.members[0].offset

    def takes(self, placed: Placed) -> bool:
        """Add the register if it is the next element, at the same distance as the others."""
        last, distance = self.members[-1], placed.offset - self.members[-1].offset
        follows = placed.reg is self.reg and _number(placed.place) == _number(last.place) + 1
        if not follows or self.stride not in (0, distance):
            return False
        self.members.append(placed)
        self.stride = distance
        return True

    def offsets(self, byte: int = 0) -> tuple[int, ...]:
        """Where byte `byte` of each member is."""
        return tuple(member.offset + byte for member in self.members)

    def _inside(self, offset: ir.Expr) -> ir.Expr:
        known = ir.Narrow(offset, ir.Range(self.first, self.members[-1].end - 1))
        return a.sub(known, ir.Const(self.first))

    def place(self, offset: ir.Expr) -> Place:
        """The indices of the member that an offset falls into."""
        if not self.stride:
            return self.members[0].place
        index = a.binary("div", self._inside(offset), ir.Const(self.stride))
        return (a.add(index, ir.Const(_number(self.members[0].place))),)

    def within(self, offset: ir.Expr) -> ir.Expr:
        """How far into its register an offset is, in bytes."""
        if not self.stride:
            return self._inside(offset)
        remainder = a.binary("mod", self._inside(offset), ir.Const(self.stride))
        return ir.Narrow(remainder, ir.Range(0, self.reg.width - 1))


def _number(place: Place) -> int:
    """The index of an element of a block array; far from any other if there is none."""
    return place[0].value if len(place) == 1 and isinstance(place[0], ir.Const) else -(2**32)


def grouped(registers: list[Placed]) -> list[Group]:
    """The registers, ascending, with the elements of block arrays together."""
    groups: list[Group] = []
    latest: dict[str, Group] = {}
    for placed in sorted(registers, key=lambda p: p.offset):
        group = latest.get(placed.reg.function)
        if group is None or not group.takes(placed):
            groups.append(Group([placed]))
            latest[placed.reg.function] = groups[-1]
    return groups


@dataclass
class Layout:
    """The registers of a window, and which of them an access covers."""

    registers: list[Placed]
    size: int
    groups: list[Group] = field(init=False)
    _ends: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.registers = sorted(self.registers, key=lambda p: p.offset)
        self.groups = grouped(self.registers)
        self._ends = [p.end for p in self.registers]

    def parts(self, at: int, width: int) -> list[Part] | None:
        """The registers an access covers, ascending; None if it is not a defined one."""
        found = []
        for placed in self.registers[bisect_right(self._ends, at) :]:
            if placed.offset >= at + width:
                break
            first, last = max(at, placed.offset), min(at + width, placed.end)
            part = Part(placed, first - placed.offset, last - placed.offset, 8 * (first - at))
            if part.first % placed.reg.lanes or part.last % placed.reg.lanes:
                return None
            found.append(part)
        whole = len(found) == 1 and found[0].last - found[0].first == width
        if not whole and not all(p.placed.reg.explicit_lanes for p in found):
            return None
        return found

    def straddling(self) -> Iterator[tuple[int, int, list[Part]]]:
        """Every defined access (offset, width) that does not lie in one register, nor wholly in gaps."""
        for at in range(self.size):
            for width in WIDTHS[1:]:
                parts = self.parts(at, width)
                if parts and (len(parts) > 1 or parts[0].last - parts[0].first < width):
                    yield at, width, parts


def by_use(registers: list[Placed]) -> tuple[list[Placed], list[Placed]]:
    """The registers that guests read in loops, if all together would be found through a table, and
    the others. Apart, the former are found by a few comparisons."""
    hot, others = ([p for p in registers if p.reg.tree.hot == hot] for hot in (True, False))
    places = Counter(p.reg.width for p in registers)
    table = max(places.values(), default=0) >= TABLE
    return (hot, others) if hot and others and table else ([], registers)
