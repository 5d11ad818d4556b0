"""Banks: byte-wide registers and RAM behind an index register.

A bank becomes two functions, `<bank>.read(index)` and `<bank>.write(index, v)`,
that a register of a window goes through.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import arithmetic as a
from . import ir
from .decode import GAPS
from .entities import BankDef, RamDef, Ref, RegDef, TypeInfo
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit

MAX_BANK = 256
BYTE = TypeInfo(ir.U8, 8)


class Banks:
    """Elaborates the banks of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit

    def declare(self, tree: t.Bank, scope: Scope) -> None:
        if not 1 <= tree.size <= MAX_BANK:
            raise Reject("E402", f"a bank has 1 to {MAX_BANK} bytes", tree.span)
        for item in tree.items:
            if isinstance(item, t.Reg):
                self.unit.attempt(partial(self.unit.registers.define, item, scope, None), scope, item.name)
            elif isinstance(item, t.Ram):
                self.unit.attempt(partial(self._ram, item, tree, scope), scope, item.name)
        bank = BankDef(tree.name.text, tree.name.span, scope.prefix + tree.name.text, tree.size, lambda: None)
        bank.elaborate = partial(self._build, bank, tree, scope)
        scope.define(bank)

    def _ram(self, tree: t.Ram, bank: t.Bank, scope: Scope) -> None:
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

    # --- the two functions ---------------------------------------------------------

    def _build(self, bank: BankDef, tree: t.Bank, scope: Scope) -> None:
        registers: list[tuple[RegDef, int]] = []
        rams: list[tuple[RamDef, int]] = []
        taken: dict[int, str] = {}
        for item in tree.items:
            entity, offset, size = self._placed(item, scope)
            for byte in range(offset, offset + size):
                if byte in taken:
                    raise Reject(
                        "E401", f"'{entity.name}' overlaps '{taken[byte]}' at offset {byte:#x}", item.span
                    )
                if byte >= bank.size:
                    raise Reject(
                        "E402", f"'{entity.name}' reaches beyond the bank's {bank.size} bytes", item.span
                    )
                taken[byte] = entity.name
            if isinstance(entity, RegDef):
                self.unit.diagnostics.placed.add(entity.span)
                registers.append((entity, offset))
            else:
                rams.append((entity, offset))
        gap = tree.gaps.text if tree.gaps else "ones"
        if gap not in GAPS:
            assert tree.gaps is not None
            raise Reject("E103", f"gaps are 'ones' or 'zeros', not '{gap}'", tree.gaps.span)
        self._read(bank, registers, rams, GAPS[gap], tree)
        self._write(bank, registers, rams, tree)

    def _placed(self, item: t.Reg | t.Ram | t.Place, scope: Scope) -> tuple[RegDef | RamDef, int, int]:
        if isinstance(item, t.Ram):
            ram = scope.find(item.name.text, item.span)
            assert isinstance(ram, RamDef)
            return ram, item.offset, item.size
        if isinstance(item, t.Reg):
            offset = item.offset
            found = scope.find(item.name.text, item.span)
            if offset is None:
                raise Reject(
                    "E402", f"register '{item.name.text}' has no offset", item.name.span, "reg NAME @OFFSET"
                )
        else:
            offset = self.unit.expr.constant(item.offset, Context(scope, ()))
            seen = self.unit.refs.resolve(item.register, Context(scope, ()))
            found = seen.entity if isinstance(seen, Ref) else None  # type: ignore[assignment]
        if not isinstance(found, RegDef) or found.width != 1:
            raise Reject("E402", "a bank holds registers of 8 bits, and RAM", item.span)
        if not found.done:
            self.unit.registers.build(found, scope)
        return found, offset, 1

    def _read(
        self,
        bank: BankDef,
        registers: list[tuple[RegDef, int]],
        rams: list[tuple[RamDef, int]],
        gap: int,
        tree: t.Bank,
    ) -> None:
        index = ir.Var("index", ir.Range(0, bank.size - 1))
        body: list[ir.Stmt] = []
        # what guests poll is found by a comparison, the rest through a table
        for hot in (True, False):
            cases: dict[str, tuple[list[int], ir.Block]] = {}
            for reg, offset in registers:
                name = f"{reg.function}.read"
                value: ir.Expr = ir.Call(name, (), ir.U8) if name in self.unit.functions else ir.Const(gap)
                if reg.tree.hot == hot:
                    cases.setdefault(name, ([], (ir.Return(value),)))[0].append(offset)
            if cases:
                body.append(ir.Switch(index, tuple((tuple(o), b) for o, b in cases.values())))
        for ram, offset in rams:
            inside = a.sub(ir.Narrow(index, ir.Range(offset, offset + ram.count - 1)), ir.Const(offset))
            body.append(
                ir.If(_within(index, offset, ram.count), (ir.Return(ir.Load(ram.slot, (inside,), ir.U8)),))
            )
        body.append(ir.Return(ir.Const(gap)))
        self.unit.function(f"{bank.function}.read", (("index", index.type),), ir.U8, body, tree.span.line)

    def _write(
        self, bank: BankDef, registers: list[tuple[RegDef, int]], rams: list[tuple[RamDef, int]], tree: t.Bank
    ) -> None:
        index = ir.Var("index", ir.Range(0, bank.size - 1))
        v = ir.Var("v", ir.U8)
        cases: dict[str, tuple[list[int], ir.Block]] = {}
        for reg, offset in registers:
            name = f"{reg.function}.write"
            if name in self.unit.functions:
                call = ir.Do(ir.Call(name, (v, ir.Const(0xFF)), ir.BOOL))
                cases.setdefault(name, ([], (call, ir.Return(None))))[0].append(offset)
        body: list[ir.Stmt] = (
            [ir.Switch(index, tuple((tuple(o), b) for o, b in cases.values()))] if cases else []
        )
        for ram, offset in rams:
            inside = a.sub(ir.Narrow(index, ir.Range(offset, offset + ram.count - 1)), ir.Const(offset))
            stores = (ir.Store(ram.slot, (inside,), v, tree.span.line), *self.unit.pythons.touched(ram.slot))
            body.append(ir.If(_within(index, offset, ram.count), stores))
        self.unit.function(
            f"{bank.function}.write", (("index", index.type), ("v", ir.U8)), None, body, tree.span.line
        )

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
