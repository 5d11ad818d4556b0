"""The decode of an access: which registers of a window it reads or writes.

A window becomes one read and one write function. Whole registers, which is how
guests access them, are decoded first and in line, those that guests read in
loops before any other (which are then the work of `<window>.read.others`);
whatever else an access may be (bytes of a register, several registers, a split,
a gap) is the work of `<window>.<kind>.rest`, which is marked rare.

Non-goals: where windows are and what may be placed in them (windows.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import arithmetic as a
from . import ir
from .entities import Place, RegDef
from .placement import WIDTHS, Group, Layout, Part, Placed, by_use, grouped

if TYPE_CHECKING:
    from .elaborate import Unit

GAPS = {"ones": 0xFF, "zeros": 0x00}
LEAVE_SPLIT = 0xFFFF_FFFF
"""`leave` when several byte accesses, one of them Python's, must be made one by one."""

OFFSET, WIDTH, VALUE = ir.Var("offset", ir.U32), ir.Var("width", ir.U32), ir.Var("value", ir.U64)


class Decoder(ABC):
    """The read or the write function of one window."""

    kind: str
    parameters: tuple[tuple[str, ir.Range], ...]
    result: ir.Range | None

    def __init__(self, unit: Unit, name: str, tree: t.Window, layout: Layout):
        self.unit, self.name, self.tree, self.layout = unit, name, tree, layout
        self.gap = gap_byte(tree)
        self.settle = ir.If(
            a.binary("le", ir.Load(unit.settling.guard, (), ir.U64), ir.Now()), (ir.Do(unit.call("settle")),)
        )

    # --- what a read and a write do differently ---

    @abstractmethod
    def nothing(self, width: ir.Expr) -> ir.Block:
        """An access that nobody serves."""

    @abstractmethod
    def whole(self, reg: RegDef, place: Place) -> ir.Block:
        """An access of a whole register, to its end."""

    @abstractmethod
    def piece(self, reg: RegDef, place: Place, within: ir.Expr) -> ir.Block:
        """An access of `width` bytes from byte `within` of one register, to its end."""

    @abstractmethod
    def several(self, at: int, width: int, parts: list[Part]) -> ir.Block:
        """An access over registers and gaps, to its end."""

    @abstractmethod
    def bytewise(self) -> list[ir.Stmt]:
        """An access of `width` bytes, each by itself through `<window>.<kind>.byte`, to its end."""

    # --- the functions ---

    def build(self) -> None:
        """The window's function for this kind of access, and those that it calls."""
        if self.tree.split:
            whole = self._wholes((1,), self.layout.groups)
            self._function("byte", [*whole, *self._pieces(), *self.nothing(ir.Const(1))])
            self._function("rest", [*self._guards(), *self.bytewise()])
        else:
            parts = [*self._pieces(), *self._straddling(), *self.nothing(WIDTH)]
            self._function("rest", [*self._alignment(), *parts])
        widths = (1,) if self.tree.split else WIDTHS
        registers = self.layout.registers
        polled, others = by_use(registers) if self.result else ([], registers)
        body = [*self._wholes(widths, grouped(others)), *self._go_on("rest")]
        if polled:
            self._function("others", body, rare=False)
            body = [*self._wholes(widths, grouped(polled)), *self._go_on("others")]
        self.unit.function(
            f"{self.name}_{self.kind}",
            self.parameters,
            self.result,
            [self.settle, *body],
            self.tree.span.line,
            exported=True,
        )

    def _go_on(self, name: str) -> list[ir.Stmt]:
        """Leave the access to another function of this window."""
        call = ir.Call(f"{self.name}.{self.kind}.{name}", tuple(ir.Var(*p) for p in self.parameters), ir.U64)
        return [ir.Return(call)] if self.result else [ir.Do(call)]

    def _function(self, name: str, body: list[ir.Stmt], rare: bool = True) -> None:
        full = f"{self.name}.{self.kind}.{name}"
        line = self.tree.span.line
        self.unit.function(full, self.parameters, self.result, body, line, rare=rare, apart=not rare)

    def _wholes(self, widths: tuple[int, ...], groups: list[Group]) -> list[ir.Stmt]:
        """Serve an access of one of these registers as a whole; go on with any other."""
        by_width: list[tuple[tuple[int, ...], ir.Block]] = []
        for width in widths:
            # the device's own registers before those of arrays: a few comparisons before a table
            parts = ([g for g in groups if bool(g.stride) == arrays] for arrays in (False, True))
            cases = (self._whole_cases(width, part) for part in parts)
            body = tuple(ir.Switch(OFFSET, each) for each in cases if each)
            if body:
                by_width.append(((width,), body))
        return [ir.Switch(WIDTH, tuple(by_width))] if by_width else []

    def _whole_cases(self, width: int, groups: list[Group]) -> tuple[tuple[tuple[int, ...], ir.Block], ...]:
        """For each place of a whole register, or of a hot one's lane, what serves it."""
        cases = [
            (group.offsets(), self.there(group.members[0], group.place(OFFSET), self.whole))
            for group in groups
            if group.reg.width == width
        ]
        # guests of 32 bits read a 64-bit register by its lanes, in loops too
        cases += [
            (group.offsets(byte), self.there(group.members[0], group.place(OFFSET), self._lane(byte)))
            for group in groups
            if group.reg.tree.hot and group.reg.width > group.reg.lanes == width > 1
            for byte in range(0, group.reg.width, width)
        ]
        return tuple(cases)

    def _lane(self, byte: int) -> Callable[[RegDef, Place], ir.Block]:
        return partial(self.piece, within=ir.Const(byte))

    def _pieces(self) -> list[ir.Stmt]:
        """Serve an access that lies in one register; go on with any other."""
        cases: list[tuple[tuple[int, ...], ir.Block]] = []
        for group in self.layout.groups:
            reg, within = group.reg, group.within(OFFSET)
            offsets = [o for byte in range(0, reg.width, reg.lanes) for o in group.offsets(byte)]
            widths = tuple(w for w in WIDTHS if w <= reg.width and not w % reg.lanes)
            piece = partial(self.piece, within=within)
            body: ir.Block = self.there(group.members[0], group.place(OFFSET), piece)
            if reg.lanes < reg.width:
                # the register's end is a lane's, so an access within it ends at one too
                fits = a.binary("le", a.add(within, WIDTH), ir.Const(reg.width))
                body = (ir.If(fits, body),)
            cases.append((tuple(offsets), (ir.Switch(WIDTH, ((widths, body),)),)))
        return [ir.Switch(OFFSET, tuple(cases))] if cases else []

    def there(self, placed: Placed, place: Place, serve: Callable[[RegDef, Place], ir.Block]) -> ir.Block:
        """Serve an access of a register, if its `where` holds; else it is a gap."""
        body = serve(placed.reg, place)
        if placed.where is None:
            return body
        test = ir.Call(placed.where, place, ir.BOOL)
        return (ir.If(test, body, self.nothing(WIDTH)),)

    def _alignment(self) -> list[ir.Stmt]:
        """An access that is not aligned to its width is none, where the window says so."""
        if not self.tree.aligned:
            return []
        known = ir.Narrow(OFFSET, ir.Range(0, self.tree.size - 1))
        cases = tuple(
            (
                (width,),
                (
                    ir.If(
                        a.binary("ne", a.binary("mod", known, ir.Const(width)), a.FALSE), self.nothing(WIDTH)
                    ),
                ),
            )
            for width in WIDTHS[1:]
        )
        outside = a.binary("le", ir.Const(self.tree.size), OFFSET)
        return [ir.If(outside, self.nothing(WIDTH)), ir.Switch(WIDTH, cases)]

    def _straddling(self) -> list[ir.Stmt]:
        cases: dict[int, list[tuple[tuple[int, ...], ir.Block]]] = {}
        for at, width, parts in self.layout.straddling():
            if self.tree.aligned and at % width:
                continue
            cases.setdefault(at, []).append(((width,), self.several(at, width, parts)))
        by_offset = tuple(((at,), (ir.Switch(WIDTH, tuple(widths)),)) for at, widths in cases.items())
        return [ir.Switch(OFFSET, by_offset)] if by_offset else []

    def _guards(self) -> list[ir.Stmt]:
        """Before an access is split: nobody there, a width there is none of, or a byte that is Python's."""
        outside = a.binary("le", ir.Const(self.tree.size), OFFSET)
        widths = ir.Switch(WIDTH, ((WIDTHS, ()),), self.nothing(WIDTH))
        out: list[ir.Stmt] = [widths, ir.If(outside, self.nothing(WIDTH))]
        inside = ir.Narrow(OFFSET, ir.Range(0, self.tree.size - 1))
        for placed in self.layout.registers:
            index = self.python(placed.reg)
            if index is None or placed.reg.lanes > 1:  # a byte of it is no defined access
                continue
            reaches = a.binary("lt", ir.Const(placed.offset), a.add(inside, WIDTH))
            covers = a.both(a.binary("lt", inside, ir.Const(placed.end)), reaches)
            alone = a.eq(WIDTH, ir.Const(1))
            index_or_split = a.cond(alone, ir.Const(index), ir.Const(LEAVE_SPLIT))
            out.append(ir.If(covers, (*self.leave(index_or_split), *self.nothing(WIDTH))))
        return out

    # --- what both share ---

    def python(self, reg: RegDef) -> int | None:
        """The number of the Python handler that serves a register."""
        index: int | None = getattr(reg, f"{self.kind}_python")
        return index

    def leave(self, index: ir.Expr) -> list[ir.Stmt]:
        """Hand the access to Python before any effect."""
        flagged = a.binary("or", ir.Load("attention", (), ir.U32), ir.Const(ir.ATTENTION_LEAVE))
        return [ir.Store("leave", (), index), ir.Store("attention", (), flagged)]

    def python_among(self, parts: list[Part]) -> bool:
        return any(self.python(part.placed.reg) is not None for part in parts)

    def handler(self, reg: RegDef) -> str | None:
        """The function that serves a register; None if it cannot be accessed so."""
        name = f"{reg.function}.{self.kind}"
        return name if name in self.unit.functions else None

    def each_byte(self, body: list[ir.Stmt]) -> list[ir.Stmt]:
        """The body for byte `i` = 0.. of the access, which begins in the window."""
        i = ir.Var("i", ir.Range(0, 8))
        again = ir.Let("i", a.add(ir.Narrow(i, ir.Range(0, 7)), a.TRUE))
        stop = ir.If(a.binary("le", WIDTH, i), (ir.Break(),))
        return [ir.Let("i", a.FALSE), ir.Repeat(8, (stop, *body, again))]

    def byte(self) -> tuple[ir.Expr, ir.Expr]:
        """In `each_byte`: the byte's offset in the window, and its bit in the access."""
        i = ir.Narrow(ir.Var("i", ir.Range(0, 8)), ir.Range(0, 7))
        inside = ir.Narrow(OFFSET, ir.Range(0, self.tree.size - 1))
        return a.add(inside, i), a.binary("mul", i, ir.Const(8))


def gap_byte(tree: t.Window) -> int:
    """What a byte that no register claims reads as."""
    gap = tree.gaps.text if tree.gaps else "ones"
    if gap not in GAPS:
        assert tree.gaps is not None
        raise Reject("E103", f"gaps are 'ones' or 'zeros', not '{gap}'", tree.gaps.span,
                     "what reads find where there is no register")  # fmt: skip
    return GAPS[gap]


def ones(width: ir.Expr) -> ir.Expr:
    """All bits of an access of 1 to 8 bytes."""
    if isinstance(width, ir.Const):
        return ir.Const(2 ** (8 * width.value) - 1)
    bits = a.binary("mul", ir.Narrow(width, ir.Range(1, 8)), ir.Const(8))
    return a.binary("shr", ir.Const(a.ONES), a.sub(ir.Const(64), bits))


def scale(within: ir.Expr) -> ir.Expr:
    """What multiplies a value to move it up to byte `within`."""
    return a.binary("shl", a.TRUE, a.binary("mul", within, ir.Const(8)))


def lane_mask(reg: RegDef, within: ir.Expr) -> ir.Expr:
    """Ones in the bytes of a register that an access of `width` bytes from byte `within` is of."""
    return a.wrap(a.binary("mulw", ones(WIDTH), scale(within)), 8 * reg.width)


class Reading(Decoder):
    kind = "read"
    parameters, result = ir.READ

    def nothing(self, width: ir.Expr) -> ir.Block:
        return (ir.Return(self._gaps(width)),)

    def _gaps(self, width: ir.Expr) -> ir.Expr:
        """Ones or zeros in the width asked for; in all 64 bits if it is none of 1, 2, 4, 8."""
        if not self.gap:
            return a.FALSE
        full: ir.Expr = ir.Const(a.ONES)
        for size in (4, 2, 1):
            full = a.cond(a.eq(width, ir.Const(size)), ir.Const(2 ** (8 * size) - 1), full)
        return full

    def _value(
        self, reg: RegDef, place: Place, name: str, mask: ir.Expr
    ) -> tuple[list[ir.Stmt], ir.Expr | None]:
        """Read the whole register into a local; `mask` has ones in the lanes that the access is of."""
        function = self.handler(reg)
        if function is None:
            return [], None
        kind = ir.Range(0, 2 ** (8 * reg.width) - 1)
        given = (*place, mask) if reg.masked_read else place
        if self.unit.touching.touches(function):
            function = self.unit.touching.committing(function)
        return [ir.Let(name, ir.Call(function, given, kind))], ir.Var(name, kind)

    def whole(self, reg: RegDef, place: Place) -> ir.Block:
        index = self.python(reg)
        width = ir.Const(reg.width)
        if index is not None:
            return (*self.leave(ir.Const(index)), *self.nothing(width))
        out, value = self._value(reg, place, f"{reg.function}.whole", ones(width))
        return (*out, ir.Return(value)) if value is not None else self.nothing(width)

    def piece(self, reg: RegDef, place: Place, within: ir.Expr) -> ir.Block:
        index = self.python(reg)
        if index is not None:
            return (*self.leave(ir.Const(index)), *self.nothing(WIDTH))
        out, value = self._value(reg, place, f"{reg.function}.piece", lane_mask(reg, within))
        if value is None:
            return self.nothing(WIDTH)
        moved = a.binary("shr", value, a.binary("mul", within, ir.Const(8)))
        return (*out, ir.Return(a.binary("and", moved, ones(WIDTH))))

    def several(self, at: int, width: int, parts: list[Part]) -> ir.Block:
        index = self.python(parts[0].placed.reg)
        if self.python_among(parts):
            # Python serves one register at a time: with others in it, this is no defined access
            leave = self.leave(ir.Const(index)) if len(parts) == 1 and index is not None else []
            return (*leave, *self.nothing(ir.Const(width)))
        out: list[ir.Stmt] = []
        total: ir.Expr = ir.Const(self._unclaimed(parts, width))
        for i, part in enumerate(parts):
            size = 8 * (part.last - part.first)
            mask = ir.Const((2**size - 1) << (8 * part.first))
            before, value = self._value(part.placed.reg, part.placed.place, f"r{at}.{width}.{i}", mask)
            out += before
            taken: ir.Expr = ir.Const((2**size - 1) if self.gap else 0)
            if value is not None:
                taken = a.bits(value, 8 * part.last - 1, 8 * part.first)
            total = a.binary("or", total, a.binary("shl", taken, ir.Const(part.shift)))
        return (*out, ir.Return(total))

    def _unclaimed(self, parts: list[Part], width: int) -> int:
        covered = 0
        for part in parts:
            covered |= (2 ** (8 * (part.last - part.first)) - 1) << part.shift
        return (2 ** (8 * width) - 1) & ~covered if self.gap else 0

    def bytewise(self) -> list[ir.Stmt]:
        offset, bit = self.byte()
        total = ir.Var("total", ir.U64)
        byte = ir.Let("byte", ir.Call(f"{self.name}.read.byte", (offset, ir.Const(1)), ir.U64))
        known = ir.Narrow(ir.Var("byte", ir.U64), ir.U8)
        merged = ir.Let("total", a.binary("or", total, a.binary("shl", known, bit)))
        return [ir.Let("total", a.FALSE), *self.each_byte([byte, merged]), ir.Return(total)]


class Writing(Decoder):
    kind = "write"
    parameters, result = ir.WRITE

    def nothing(self, width: ir.Expr) -> ir.Block:
        return (ir.Return(None),)

    def _stored(self, reg: RegDef, place: Place, value: ir.Expr, mask: ir.Expr) -> list[ir.Stmt]:
        """Write the bits of `mask`; what it changes is in force for the next part of the access."""
        function = self.handler(reg)
        if function is None:
            return []
        given = (*place, value, mask)
        if not self.unit.touching.touches(function):
            return [ir.Do(ir.Call(function, given, ir.BOOL))]
        touched = ir.Let("touched", ir.Call(self.unit.touching.touching(function), given, ir.BOOL))
        return [touched, ir.If(ir.Var("touched", ir.BOOL), (ir.Do(self.unit.call("commit")),))]

    def whole(self, reg: RegDef, place: Place) -> ir.Block:
        index = self.python(reg)
        if index is not None:
            return (*self.leave(ir.Const(index)), ir.Return(None))
        given = a.wrap(VALUE, 8 * reg.width)
        return (*self._stored(reg, place, given, ones(ir.Const(reg.width))), ir.Return(None))

    def piece(self, reg: RegDef, place: Place, within: ir.Expr) -> ir.Block:
        index = self.python(reg)
        if index is not None:
            return (*self.leave(ir.Const(index)), ir.Return(None))
        mask = lane_mask(reg, within)
        given = a.binary("and", a.binary("mulw", VALUE, scale(within)), mask)
        return (*self._stored(reg, place, given, mask), ir.Return(None))

    def several(self, at: int, width: int, parts: list[Part]) -> ir.Block:
        index = self.python(parts[0].placed.reg)
        if self.python_among(parts):
            leave = self.leave(ir.Const(index)) if len(parts) == 1 and index is not None else []
            return (*leave, ir.Return(None))
        out: list[ir.Stmt] = []
        for part in parts:
            size = 8 * (part.last - part.first)
            given = a.bits(VALUE, part.shift + size - 1, part.shift)
            moved = a.binary("shl", given, ir.Const(8 * part.first))
            mask = ir.Const((2**size - 1) << (8 * part.first))
            out += self._stored(part.placed.reg, part.placed.place, moved, mask)
        return (*out, ir.Return(None))

    def bytewise(self) -> list[ir.Stmt]:
        offset, bit = self.byte()
        byte = a.wrap(a.binary("shr", VALUE, bit), 8)
        return self.each_byte(
            [ir.Do(ir.Call(f"{self.name}.write.byte", (offset, ir.Const(1), byte), ir.BOOL))]
        )


DECODERS: tuple[type[Decoder], ...] = (Reading, Writing)
