"""Windows: what of an address space a device claims, and the decode of an access.

A window becomes one read and one write function whose decode is static: for
each offset and width the registers it covers are known at compile time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import arithmetic as a
from . import ir
from .scope import (
    ADDRESSES,
    Context,
    InstanceDef,
    LocalDef,
    ParamDef,
    Place,
    Ref,
    RegDef,
    Scope,
    Value,
    spell,
)

if TYPE_CHECKING:
    from .elaborate import Unit

GAPS = {"ones": 0xFF, "zeros": 0x00}
WIDTHS = (1, 2, 4, 8)
MAX_WINDOW = 4096
LEAVE_SPLIT = 0xFFFF_FFFF
"""`leave` when several byte accesses, one of them Python's, must be made one by one."""


@dataclass
class Placed:
    """A register at a byte offset of a window, as one element of its block array."""

    reg: RegDef
    place: Place
    offset: int
    name: str


@dataclass
class Part:
    """What one access touches of one register: bytes first..last of it."""

    placed: Placed
    first: int
    last: int
    shift: int  # bits from the access's low end


class Decoder:
    """The read and write functions of one window."""

    def __init__(self, unit: Unit, name: str, tree: t.Window, registers: list[Placed]):
        self.unit, self.name, self.tree, self.registers = unit, name, tree, registers
        gap = tree.gaps.text if tree.gaps else "ones"
        if gap not in GAPS:
            assert tree.gaps is not None
            raise Reject("E103", f"gaps are 'ones' or 'zeros', not '{gap}'", tree.gaps.span)
        self.gap = GAPS[gap]

    def build(self) -> None:
        due = ir.Load("deadline", (), ir.U64)
        settle: ir.Stmt = ir.If(a.binary("le", due, ir.Now()), (ir.Do(self.unit.call("settle")),))
        offset = ir.Var("offset", ir.U32)
        for kind, (parameters, result), one in (
            ("read", ir.READ, self.read),
            ("write", ir.WRITE, self.write),
        ):
            nothing: ir.Block = (ir.Return(self.gaps(ir.Var("width", ir.U32))),) if result else ()
            cases = tuple(((at,), self._widths(at, one, nothing)) for at in range(self.tree.size))
            body: list[ir.Stmt] = [settle, ir.Switch(offset, cases, nothing)]
            if result:
                body.append(ir.Return(a.FALSE))
            self.unit.function(
                f"{self.name}_{kind}",
                parameters,
                result,
                self._ended(body, result),
                self.tree.span.line,
                exported=True,
            )

    @staticmethod
    def _ended(body: list[ir.Stmt], result: ir.Range | None) -> list[ir.Stmt]:
        # every case of the switch returns, so the read needs nothing after it
        return body[:-1] if result else body

    def _widths(self, at: int, one: Callable[[int, int], ir.Block], nothing: ir.Block) -> ir.Block:
        cases = tuple(((width,), one(at, width)) for width in WIDTHS)
        return (ir.Switch(ir.Var("width", ir.U32), cases, nothing),)

    def gaps(self, width: ir.Expr) -> ir.Expr:
        """What the unclaimed reads as: ones or zeros in the width asked for."""
        if not self.gap:
            return a.FALSE
        full: ir.Expr = ir.Const(a.ONES)
        for size in (4, 2, 1):
            full = a.cond(a.eq(width, ir.Const(size)), ir.Const(2 ** (8 * size) - 1), full)
        return full

    def parts(self, at: int, width: int) -> list[Part] | None:
        """The registers an access covers, ascending; None if it is not a defined one."""
        found = []
        for placed in self.registers:
            first = max(at, placed.offset)
            last = min(at + width, placed.offset + placed.reg.width)
            if first >= last:
                continue
            part = Part(placed, first - placed.offset, last - placed.offset, 8 * (first - at))
            if part.first % placed.reg.lanes or part.last % placed.reg.lanes:
                return None
            found.append(part)
        whole = len(found) == 1 and found[0].last - found[0].first == width
        if not whole and not all(p.placed.reg.explicit_lanes for p in found):
            return None
        return found

    def pieces(self, at: int, width: int) -> list[Part] | None:
        """As `parts`, but of a window that splits accesses: each byte by itself."""
        if not self.tree.split or width == 1:
            return self.parts(at, width)
        found = []
        for byte in range(width):
            for part in self.parts(at + byte, 1) or []:
                part.shift = 8 * byte
                found.append(part)
        return found

    def leaves(self, parts: list[Part], which: str) -> list[int]:
        indices = (getattr(p.placed.reg, f"{which}_python") for p in parts)
        return [i for i in indices if i is not None]

    def leave(self, index: int) -> list[ir.Stmt]:
        """Hand the access to Python before any effect."""
        flagged = a.binary("or", ir.Load("attention", (), ir.U32), ir.Const(ir.ATTENTION_LEAVE))
        return [ir.Store("leave", (), ir.Const(index)), ir.Store("attention", (), flagged)]

    def read(self, at: int, width: int) -> ir.Block:
        parts = self.pieces(at, width)
        gaps = self.gaps(ir.Const(width))
        if parts is None:
            return (ir.Return(gaps),)
        python = self.leaves(parts, "read")
        if python:
            index = python[0] if len(parts) == 1 else LEAVE_SPLIT
            return (*self.leave(index), ir.Return(gaps))
        fill = self._unclaimed(parts, width)
        out: list[ir.Stmt] = []
        total: ir.Expr = ir.Const(fill)
        sensitive = False
        for i, part in enumerate(parts):
            reg = part.placed.reg
            name = f"{reg.function}.read"
            if name not in self.unit.functions:
                size = 8 * (part.last - part.first)
                total = a.binary("or", total, ir.Const(((2**size - 1) if self.gap else 0) << part.shift))
                continue
            kind = ir.Range(0, 2 ** (8 * reg.width) - 1)
            name_of = f"r{at}.{width}.{i}"
            out.append(ir.Let(name_of, ir.Call(name, part.placed.place, kind)))
            taken = a.bits(ir.Var(name_of, kind), 8 * part.last - 1, 8 * part.first)
            total = a.binary("or", total, a.binary("shl", taken, ir.Const(part.shift)))
            sensitive = sensitive or self.unit.is_sensitive(name)
        if sensitive:
            out.append(ir.Do(self.unit.call("commit")))
        return (*out, ir.Return(total))

    def _unclaimed(self, parts: list[Part], width: int) -> int:
        covered = 0
        for part in parts:
            covered |= (2 ** (8 * (part.last - part.first)) - 1) << part.shift
        return (2 ** (8 * width) - 1) & ~covered if self.gap else 0

    def write(self, at: int, width: int) -> ir.Block:
        parts = self.pieces(at, width)
        if parts is None:
            return (ir.Return(None),)
        python = self.leaves(parts, "write")
        if python:
            return (*self.leave(python[0] if len(parts) == 1 else LEAVE_SPLIT), ir.Return(None))
        out: list[ir.Stmt] = []
        value = ir.Var("value", ir.U64)
        for part in parts:
            reg = part.placed.reg
            name = f"{reg.function}.write"
            if name not in self.unit.functions:
                continue
            size = 8 * (part.last - part.first)
            given = a.bits(value, part.shift + size - 1, part.shift)
            moved = a.binary("shl", given, ir.Const(8 * part.first))
            mask = ir.Const((2**size - 1) << (8 * part.first))
            out.append(ir.Do(ir.Call(name, (*part.placed.place, moved, mask), ir.BOOL)))
            # each byte of a split access is an access: what it changes is in force for the next
            if self.unit.is_sensitive(name):
                out.append(ir.Do(self.unit.call("commit")))
        return (*out, ir.Return(None))

    # --- the map, for documentation and headers -------------------------------

    def region(self, base: int | str) -> ir.Region:
        registers = tuple(self._register(p) for p in sorted(self.registers, key=lambda p: p.offset))
        space = "io" if self.tree.space == "io" else "mmio"
        return ir.Region(self.name, space, base, self.tree.size, registers, self.tree.split)  # type: ignore[arg-type]

    def _register(self, placed: Placed) -> ir.Register:
        reg = placed.reg
        can_read = f"{reg.function}.read" in self.unit.functions
        can_write = f"{reg.function}.write" in self.unit.functions
        read_tier = "python" if reg.read_python is not None else "native" if can_read else "none"
        write_tier = "python" if reg.write_python is not None else "native" if can_write else "none"
        readable, writable = read_tier != "none", write_tier != "none"
        access = "rw" if readable and writable else "wo" if writable else "ro"
        fields = tuple(ir.Field(f.name, f.high, f.low, f.access.text, f.doc) for f in reg.fields.values())
        return ir.Register(
            placed.name, placed.offset, reg.width, access, read_tier, write_tier,  # type: ignore[arg-type]
            fields, reg.tree.doc, reg.span.line,
        )  # fmt: skip


class Windows:
    """Elaborates the windows of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.windows: list[tuple[t.Window, list[Placed], int | str]] = []

    def declare(self, tree: t.Window, scope: Scope) -> None:
        if scope is not self.unit.scope:
            raise Reject(
                "E103", "windows belong to the device", tree.span, "place the block's registers there"
            )
        if not 1 <= tree.size <= MAX_WINDOW:
            raise Reject("E402", f"a window has 1 to {MAX_WINDOW} bytes", tree.span)
        for item in tree.items:
            if isinstance(item, t.Reg):
                declare = partial(self.unit.registers.define, item, scope, tree.lanes)
                self.unit.attempt(declare, scope, item.name)

    def finish(self, tree: t.Window, scope: Scope) -> None:
        placed: list[Placed] = []
        for item in tree.items:
            if isinstance(item, t.Reg):
                reg = scope.names.get(item.name.text)
                if not isinstance(reg, RegDef):
                    continue
                if item.offset is None:
                    raise Reject(
                        "E402", f"register '{reg.name}' has no offset", item.name.span, "reg NAME @OFFSET ..."
                    )
                self.unit.registers.build(reg, scope)
                placed.append(Placed(reg, (), item.offset, reg.name))
            else:
                placed += self._placed(item, scope)
        self._check_overlap(tree, placed)
        self.windows.append((tree, placed, self._base(tree, scope)))

    def _placed(self, tree: t.Place, scope: Scope) -> list[Placed]:
        """A block's register at an offset; over an array, the offset is an equation of its index."""
        reference = tree.register
        if not isinstance(reference, t.Attribute):
            raise Reject("E103", "a block's register is needed: BLOCK.REGISTER @OFFSET", tree.span)
        ctx = Context(scope, ())
        if isinstance(reference.base, t.Index) and isinstance(reference.base.index, t.Name):
            array = self.unit.refs.resolve(reference.base.base, ctx)
            if (
                isinstance(array, Ref)
                and isinstance(array.entity, InstanceDef)
                and array.entity.count is not None
            ):
                return self._placed_array(tree, reference, array.entity, reference.base.index, scope)
        found = self.unit.refs.resolve(reference, ctx)
        if not isinstance(found, Ref) or not isinstance(found.entity, RegDef):
            raise Reject("E103", "a block's register is needed here", reference.span)
        offset = self.unit.expr.constant(tree.offset, ctx)
        return [Placed(found.entity, found.place, offset, spell(reference))]

    def _placed_array(
        self, tree: t.Place, reference: t.Attribute, array: InstanceDef, index: t.Name, scope: Scope
    ) -> list[Placed]:
        result = []
        for i in range(array.count or 0):
            inner = Context(scope, ()).inner()
            inner.scope.define(LocalDef(index.name, index.span, Value(ir.Const(i))))
            found = self.unit.refs.resolve(reference, inner)
            if not isinstance(found, Ref) or not isinstance(found.entity, RegDef):
                raise Reject("E103", "a block's register is needed here", reference.span)
            offset = self.unit.expr.constant(tree.offset, inner)
            name = f"{array.name}[{i}].{reference.name.text}"
            result.append(Placed(found.entity, (ir.Const(i),), offset, name))
        return result

    @staticmethod
    def _check_overlap(tree: t.Window, placed: list[Placed]) -> None:
        taken: dict[int, Placed] = {}
        for register in placed:
            for byte in range(register.offset, register.offset + register.reg.width):
                if byte in taken:
                    raise Reject(
                        "E401",
                        f"'{register.name}' overlaps '{taken[byte].name}' at offset {byte:#x}",
                        register.reg.span,
                    )
                if byte >= tree.size:
                    raise Reject("E402", f"'{register.name}' reaches beyond the window's {tree.size} bytes",
                                 register.reg.span, "make the window larger: size ...")  # fmt: skip
                taken[byte] = register

    def _base(self, tree: t.Window, scope: Scope) -> int | str:
        limit = ADDRESSES["port" if tree.space == "io" else "address"].hi
        if isinstance(tree.base, t.Name):
            found = scope.find(tree.base.name, tree.base.span)
            if isinstance(found, ParamDef) and found.slot is None:
                return found.name
        base = self.unit.expr.constant(tree.base, Context(scope, ()))
        if base + tree.size - 1 > limit:
            raise Reject("E402", f"the window reaches beyond {limit:#x}", tree.base.span)
        return base

    def decoders(self) -> list[tuple[Decoder, int | str]]:
        result = []
        names: set[str] = set()
        for tree, placed, base in self.windows:
            name = tree.name.text if tree.name else tree.space
            if name in names or name in self.unit.functions:
                raise Reject("E102", f"a second window '{name}'", tree.span, "name it: io NAME at ...")
            names.add(name)
            result.append((Decoder(self.unit, name, tree, placed), base))
        return result
