"""Windows: what of an address space a device claims, and the registers placed there.

Non-goals: the decode of an access (decode.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import ir
from .decode import Layout, Placed
from .scope import (
    ADDRESSES,
    Context,
    InstanceDef,
    LocalDef,
    ParamDef,
    Ref,
    RegDef,
    Scope,
    Value,
    spell,
)

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
        space = "io" if self.tree.space == "io" else "mmio"
        return ir.Region(self.name, space, self.base, self.tree.size, registers, self.tree.split)  # type: ignore[arg-type]


def _register(unit: Unit, placed: Placed) -> ir.Register:
    reg = placed.reg
    can_read = f"{reg.function}.read" in unit.functions
    can_write = f"{reg.function}.write" in unit.functions
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
        where = self._where(tree, ctx, spell(reference), ())
        return [Placed(found.entity, found.place, offset, spell(reference), where)]

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
            result.append(Placed(found.entity, (ir.Const(i),), offset, name, where))
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

    def claims(self) -> list[Claim]:
        result: list[Claim] = []
        names: set[str] = set()
        for tree, placed, base in self.windows:
            name = tree.name.text if tree.name else tree.space
            if name in names or name in self.unit.functions:
                raise Reject("E102", f"a second window '{name}'", tree.span, "name it: io NAME at ...")
            names.add(name)
            result.append(Claim(name, tree, Layout(placed, tree.size), base))
        return result
