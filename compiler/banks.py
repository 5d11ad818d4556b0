"""Banks: registers and RAM behind an index register.

A bank becomes two functions, `<bank>.read(index)` and `<bank>.write(index, v)`,
that a register of a window goes through. What an index selects is a byte, or a
word of 16 or 32 bits; a wider register stands at several indices, lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import arithmetic as a
from . import ir
from .decode import GAPS
from .entities import BankDef, Place, RamDef, RegDef, TypeInfo
from .placement import Group, Placed, by_use, grouped
from .scope import Context, Scope, spell

if TYPE_CHECKING:
    from .elaborate import Unit

MAX_BANK = 256
BYTE = TypeInfo(ir.U8, 8)
UNITS = {"u8": 1, "u16": 2, "u32": 4}
"""What an index can select, in bytes."""

Serve = Callable[[Placed, Place, int], ir.Block]
"""An access of one lane (its first byte given) of a register, to its end."""


class Banks:
    """Elaborates the banks of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit

    def declare(self, tree: t.Bank, scope: Scope) -> None:
        if not 1 <= tree.size <= MAX_BANK:
            what = "bytes" if tree.unit is None else "words"
            raise Reject("E402", f"a bank has 1 to {MAX_BANK} {what}", tree.span)
        if tree.unit is not None and tree.unit.text not in UNITS:
            raise Reject("E103", f"a bank is of {', '.join(UNITS)}, not of '{tree.unit.text}'",
                         tree.unit.span, "of what one value of the index selects")  # fmt: skip
        unit = UNITS[tree.unit.text] if tree.unit else 1
        for item in tree.items:
            if isinstance(item, t.Reg):
                self.unit.attempt(partial(self.unit.registers.define, item, scope, None), scope, item.name)
            elif isinstance(item, t.Ram):
                self.unit.attempt(partial(self._ram, item, tree, scope), scope, item.name)
        function = scope.prefix + tree.name.text
        bank = BankDef(tree.name.text, tree.name.span, function, tree.size, unit, lambda: None)
        bank.elaborate = partial(self._build, bank, tree, scope)
        scope.define(bank)

    def _ram(self, tree: t.Ram, bank: t.Bank, scope: Scope) -> None:
        if bank.unit is not None and bank.unit.text != "u8":
            raise Reject("E402", "RAM is of bytes, and so is the bank that holds it", tree.span,
                         "declare registers instead")  # fmt: skip
        if tree.size < 1 or tree.offset + tree.size > bank.size:
            raise Reject(
                "E402",
                f"RAM '{tree.name.text}' does not fit the bank's {bank.size} bytes",
                tree.span,
                "make the bank larger, or the RAM smaller",
            )
        slot = self.unit.slot(scope, tree.name.text, BYTE, count=tree.size, span=tree.span)
        scope.define(RamDef(tree.name.text, tree.name.span, slot, tree.size))

    def finish(self, tree: t.Bank, scope: Scope) -> None:
        bank = scope.names.get(tree.name.text)
        if isinstance(bank, BankDef):
            self.use(bank)

    def use(self, bank: BankDef) -> None:
        """Elaborate a bank at its first use."""
        bank.progress.run(
            bank.elaborate, lambda: Reject("E104", f"bank '{bank.name}' goes through itself", bank.span)
        )

    # --- what stands where -----------------------------------------------------------

    def _build(self, bank: BankDef, tree: t.Bank, scope: Scope) -> None:
        registers: list[Placed] = []
        rams: list[tuple[RamDef, int]] = []
        taken: dict[int, str] = {}
        for item in tree.items:
            if isinstance(item, t.Ram):
                ram = scope.find(item.name.text, item.span)
                assert isinstance(ram, RamDef)
                rams.append((ram, item.offset))
                self._claim(bank, taken, ram.name, item.offset, item.size, item)
                continue
            for placed in self._placed(bank, item, scope):
                self.unit.diagnostics.placed.add(placed.reg.span)
                registers.append(placed)
                at, size = placed.offset // bank.unit, placed.reg.width // bank.unit
                self._claim(bank, taken, placed.name, at, size, item)
        gap = tree.gaps.text if tree.gaps else "ones"
        if gap not in GAPS:
            assert tree.gaps is not None
            raise Reject("E103", f"gaps are 'ones' or 'zeros', not '{gap}'", tree.gaps.span)
        self._read(bank, registers, rams, (GAPS[gap] & 1) * bank.word.hi, tree)
        self._write(bank, registers, rams, tree)

    @staticmethod
    def _claim(
        bank: BankDef, taken: dict[int, str], name: str, at: int, size: int, item: t.Reg | t.Ram | t.Place
    ) -> None:
        for place in range(at, at + size):
            if place in taken:
                raise Reject("E401", f"'{name}' overlaps '{taken[place]}' at offset {place:#x}", item.span)
            if not 0 <= place < bank.size:
                raise Reject(
                    "E402", f"'{name}' reaches beyond the bank's {bank.size} {bank.words}", item.span
                )
            taken[place] = name

    def _placed(self, bank: BankDef, item: t.Reg | t.Place, scope: Scope) -> list[Placed]:
        """The registers that an item places, their offsets in bytes."""
        bits = 8 * bank.unit
        wider = f", and wider ones with 'lanes {bank.unit}'" if bank.unit > 1 else ", and RAM"
        misfit = Reject("E402", f"a bank holds registers of {bits} bits{wider}", item.span)
        if isinstance(item, t.Place) and isinstance(item.register, t.Attribute):
            found = self.unit.windows.placed(item, scope)
        else:
            name = item.name.text if isinstance(item, t.Reg) else spell(item.register)
            reg = scope.find(name, item.span)
            if not isinstance(reg, RegDef):
                raise misfit
            found = [Placed(reg, (), self._offset(item, scope), name, span=item.span)]
        for placed in found:
            reg = placed.reg
            if reg.width < bank.unit or (reg.width > bank.unit and (bank.unit == 1 or reg.lanes > bank.unit)):
                raise misfit
            if not reg.done and not placed.place:
                self.unit.registers.build(reg, scope)
            placed.offset *= bank.unit
        return found

    def _offset(self, item: t.Reg | t.Place, scope: Scope) -> int:
        if isinstance(item, t.Place):
            return self.unit.expr.constant(item.offset, Context(scope, ()))
        if item.offset is None:
            raise Reject(
                "E402", f"register '{item.name.text}' has no offset", item.name.span, "reg NAME @OFFSET"
            )
        return item.offset

    # --- the two functions ---------------------------------------------------------

    def _cases(
        self, bank: BankDef, groups: list[Group], index: ir.Expr, serve: Serve, nothing: ir.Block
    ) -> tuple[tuple[tuple[int, ...], ir.Block], ...]:
        """What serves each index: registers that stand several times, and arrays, in one case."""
        byte = index if bank.unit == 1 else a.binary("mul", index, ir.Const(bank.unit))
        cases: dict[tuple[str, Place, int], tuple[list[int], ir.Block]] = {}
        for group in groups:
            first, place = group.members[0], group.place(byte)
            for lane in range(0, group.reg.width, bank.unit):
                body = serve(first, place, lane)
                if not body:
                    continue
                if first.where is not None:
                    body = (ir.If(ir.Call(first.where, place, ir.BOOL), body, nothing),)
                found = cases.setdefault((group.reg.function, place, lane), ([], body))
                found[0].extend(at // bank.unit for at in group.offsets(lane))
        return tuple((tuple(indices), body) for indices, body in cases.values())

    def _read(
        self, bank: BankDef, registers: list[Placed], rams: list[tuple[RamDef, int]], gap: int, tree: t.Bank
    ) -> None:
        index = ir.Var("index", ir.Range(0, bank.size - 1))
        nothing = (ir.Return(ir.Const(gap)),)

        def serve(placed: Placed, place: Place, lane: int) -> ir.Block:
            reg = placed.reg
            name = f"{reg.function}.read"
            if name not in self.unit.functions:
                return nothing
            mask = (ir.Const(bank.word.hi << 8 * lane),) if reg.masked_read else ()
            value = ir.Call(name, (*place, *mask), ir.Range(0, 2 ** (8 * reg.width) - 1))
            if reg.width == bank.unit:
                return (ir.Return(value),)
            whole = ir.Var(f"{reg.function}.whole", value.type)
            part = a.bits(whole, 8 * (lane + bank.unit) - 1, 8 * lane)
            return (ir.Let(whole.name, value), ir.Return(part))

        polled, others = by_use(registers)
        body: list[ir.Stmt] = self._switch(bank, others, index, serve, nothing)
        for ram, offset in rams:
            inside = a.sub(ir.Narrow(index, ir.Range(offset, offset + ram.count - 1)), ir.Const(offset))
            body.append(
                ir.If(_within(index, offset, ram.count), (ir.Return(ir.Load(ram.slot, (inside,), ir.U8)),))
            )
        body += nothing
        parameters, line = (("index", index.type),), tree.span.line
        if polled:
            apart = f"{bank.function}.read.others"
            self.unit.function(apart, parameters, bank.word, body, line, apart=True)
            body = self._switch(bank, polled, index, serve, nothing)
            body.append(ir.Return(ir.Call(apart, (index,), bank.word)))
        self.unit.function(f"{bank.function}.read", parameters, bank.word, body, line)

    def _switch(
        self, bank: BankDef, registers: list[Placed], index: ir.Expr, serve: Serve, nothing: ir.Block
    ) -> list[ir.Stmt]:
        cases = self._cases(bank, grouped(registers), index, serve, nothing)
        return [ir.Switch(index, cases)] if cases else []

    def _write(
        self, bank: BankDef, registers: list[Placed], rams: list[tuple[RamDef, int]], tree: t.Bank
    ) -> None:
        index, v = ir.Var("index", ir.Range(0, bank.size - 1)), ir.Var("v", bank.word)
        nothing = (ir.Return(None),)

        def serve(placed: Placed, place: Place, lane: int) -> ir.Block:
            name = f"{placed.reg.function}.write"
            if name not in self.unit.functions:
                return ()
            given = a.binary("shl", v, ir.Const(8 * lane)) if lane else v
            mask = ir.Const(bank.word.hi << 8 * lane)
            return (ir.Do(ir.Call(name, (*place, given, mask), ir.BOOL)), *nothing)

        body = self._switch(bank, registers, index, serve, nothing)
        for ram, offset in rams:
            inside = a.sub(ir.Narrow(index, ir.Range(offset, offset + ram.count - 1)), ir.Const(offset))
            stores = (ir.Store(ram.slot, (inside,), v, tree.span.line), *self.unit.pythons.touched(ram.slot))
            body.append(ir.If(_within(index, offset, ram.count), stores))
        parameters = (("index", index.type), ("v", bank.word))
        self.unit.function(f"{bank.function}.write", parameters, None, body, tree.span.line)

    # --- registers that go through a bank ---------------------------------------------

    def through(self, tree: t.Through, scope: Scope) -> tuple[BankDef, ir.Expr]:
        """The bank and the index that a register goes through."""
        bank = scope.find(tree.bank.text, tree.bank.span)
        if not isinstance(bank, BankDef):
            raise Reject("E103", f"'{tree.bank.text}' is not a bank", tree.bank.span, "bank NAME size ...:")
        index = self.unit.refs.bounded(tree.index, Context(scope, scope.place), bank.size, bank.name)
        self.use(bank)
        return bank, index


def _within(index: ir.Expr, offset: int, count: int) -> ir.Expr:
    last = a.binary("le", index, ir.Const(offset + count - 1))
    return a.both(a.binary("le", ir.Const(offset), index), last)
