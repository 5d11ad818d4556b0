"""Windows: what of an address space a device claims, and the registers placed there.

Non-goals: the decode of an access (decode.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import ir
from .decode import gap_byte
from .entities import ADDRESSES, InstanceDef, LocalDef, ParamDef, Ref, RegDef, Value, number_of
from .placement import Layout, Placed
from .scope import Context, Scope, spell

if TYPE_CHECKING:
    from .elaborate import Unit

MAX_WINDOW = 4096


@dataclass
class Claim:
    """A window, its registers, and where it is: an address or the parameter that holds it."""

    name: str
    tree: t.Window
    layout: Layout
    base: int | str

    def region(self, unit: Unit) -> ir.Region:
        """The register map, for documentation and headers."""
        registers = tuple(_register(unit, placed) for placed in self.layout.registers)
        return ir.Region(self.name, self.tree.space, self.base, self.tree.size, registers, self.tree.split)  # type: ignore[arg-type]


def _register(unit: Unit, placed: Placed) -> ir.Register:
    reg = placed.reg
    can_read = f"{reg.function}.read" in unit.functions
    can_write = f"{reg.function}.write" in unit.functions
    read_tier = unit.pythons.tier(reg.read_python) or ("native" if can_read else "none")
    write_tier = unit.pythons.tier(reg.write_python) or ("native" if can_write else "none")
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
        self._declared: set[Span] = set()

    def declare(self, tree: t.Window, scope: Scope) -> None:
        if not 1 <= tree.size <= MAX_WINDOW:
            raise Reject("E402", f"a window has 1 to {MAX_WINDOW} bytes, not {tree.size}", tree.base.span,
                         "it is as large as what the device claims")  # fmt: skip
        gap_byte(tree)
        self._declared.add(tree.span)
        for item in tree.items:
            if isinstance(item, t.Reg):
                declare = partial(self.unit.registers.define, item, scope, tree.lanes)
                self.unit.attempt(declare, scope, item.name)

    def finish(self, tree: t.Window, scope: Scope) -> None:
        if tree.span not in self._declared:
            return
        placed: list[Placed] = []
        for item in tree.items:
            if isinstance(item, t.Reg):
                reg = scope.declared(item.name, RegDef)
                if reg is None:
                    continue
                self.unit.attempt(partial(self._build, reg, item, placed, scope))
            else:
                self.unit.attempt(partial(self._add, item, placed, scope))
        self.unit.diagnostics.placed |= {register.reg.span for register in placed}
        self.unit.attempt(partial(self._check_overlap, tree, placed))
        self.windows.append((tree, placed, self._base(tree, scope)))

    def _build(self, reg: RegDef, tree: t.Reg, placed: list[Placed], scope: Scope) -> None:
        """A register that is declared in the window."""
        if tree.offset is None:
            raise Reject(
                "E402", f"register '{reg.name}' has no offset", tree.name.span, "reg NAME @OFFSET ..."
            )
        placed.append(Placed(reg, (), tree.offset, reg.name, span=tree.name.span))
        self.unit.registers.build(reg, scope)

    def _add(self, tree: t.Place, placed: list[Placed], scope: Scope) -> None:
        placed += self.placed(tree, scope)

    def placed(self, tree: t.Place, scope: Scope) -> list[Placed]:
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
        where = self._where(tree, ctx, spell(reference), ())
        return [Placed(found.entity, found.place, offset, spell(reference), where, tree.span)]

    def _where(
        self, tree: t.Place, ctx: Context, name: str, parameters: tuple[tuple[str, ir.Range], ...]
    ) -> str | None:
        """The function that says whether the register is there."""
        if tree.where is None:
            return None
        function = f"{name}.there"
        test = self.unit.expr.truth(tree.where, ctx)
        self.unit.function(function, parameters, ir.BOOL, [ir.Return(test)], tree.span.line)
        return function

    def _placed_array(
        self, tree: t.Place, reference: t.Attribute, array: InstanceDef, index: t.Name, scope: Scope
    ) -> list[Placed]:
        result = []
        outer = Context(scope, ()).inner()
        outer.scope.define(LocalDef(index.name, index.span, Value(array.scope.place[0])))
        where = self._where(tree, outer, f"{array.name}.{reference.name.text}", array.scope.parameters)
        for i in range(array.count or 0):
            inner = Context(scope, ()).inner()
            inner.scope.define(LocalDef(index.name, index.span, Value(ir.Const(i))))
            found = self.unit.refs.resolve(reference, inner)
            if not isinstance(found, Ref) or not isinstance(found.entity, RegDef):
                raise Reject("E103", "a block's register is needed here", reference.span)
            offset = self.unit.expr.constant(tree.offset, inner)
            name = f"{array.name}[{i}].{reference.name.text}"
            result.append(Placed(found.entity, (ir.Const(i),), offset, name, where, tree.span))
        return result

    @staticmethod
    def _check_overlap(tree: t.Window, placed: list[Placed]) -> None:
        taken: dict[int, Placed] = {}
        for register in placed:
            if register.offset < 0 or register.end > tree.size:
                raise Reject(
                    "E402",
                    f"'{register.name}' at {register.offset:#x} is not in the window's {tree.size} bytes",
                    register.span,
                    f"place it at 0 to {tree.size - register.reg.width:#x}, or make the window larger",
                )
            for byte in range(register.offset, register.end):
                other = taken.setdefault(byte, register)
                if other is not register:
                    raise Reject(
                        "E401",
                        f"'{register.name}' overlaps '{other.name}' at offset {byte:#x}",
                        register.span,
                        f"'{other.name}' has {number_of(other.reg.width, 'byte')} from {other.offset:#x}",
                    )

    def _base(self, tree: t.Window, scope: Scope) -> int | str:
        if tree.space == "host":
            return 0
        kind = "port" if tree.space == "io" else "address"
        if isinstance(tree.base, t.Name):
            found = scope.find(tree.base.name, tree.base.span)
            if isinstance(found, ParamDef) and found.slot is None:
                if found.type.range != ADDRESSES[kind]:
                    raise Reject(
                        "E103",
                        f"a window of '{tree.space}' is placed by a parameter of type '{kind}'",
                        tree.base.span,
                        f"{found.name}: {kind}",
                    )
                return found.name
        base = self.unit.expr.value(tree.base, Context(scope, ())).expr
        if not isinstance(base, ir.Const):
            raise Reject("E103", "a window is placed at a constant, or by a parameter", tree.base.span,
                         f"declare it: device NAME(base: {kind} = ...)")  # fmt: skip
        if not 0 <= base.value <= ADDRESSES[kind].hi + 1 - tree.size:
            raise Reject("E402", f"the window reaches beyond {ADDRESSES[kind].hi:#x}", tree.base.span,
                         f"'{tree.space}' ends there")  # fmt: skip
        self._check_apart(tree, base.value)
        return base.value

    def _check_apart(self, tree: t.Window, base: int) -> None:
        """Two windows of one space at constant addresses do not overlap (E401)."""
        for other, _, where in self.windows:
            if not isinstance(where, int) or other.space != tree.space:
                continue
            if where < base + tree.size and base < where + other.size:
                raise Reject(
                    "E401",
                    "the window overlaps another",
                    tree.base.span,
                    f"that of line {other.span.line} is at {where:#x}, size {other.size}",
                )

    def claims(self) -> list[Claim]:
        result: list[Claim] = []
        names: set[str] = set()
        for tree, placed, base in self.windows:
            name = tree.name.text if tree.name else tree.space
            if name in names:
                at = tree.name.span if tree.name else tree.base.span
                raise Reject("E102", f"a second window '{name}'", at, f"name it: {tree.space} NAME at ...")
            names.add(name)
            result.append(Claim(name, tree, Layout(placed, tree.size), base))
        return result
