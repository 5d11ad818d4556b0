"""Registers: fields, access words, lanes.

A register becomes up to two functions, `read` (with what a read does) and
`write`, beside its value as an equation may see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import ir
from .entities import AccessWords, FieldDef, LocalDef, Place, PythonDef, Ref, RegDef, TypeInfo, Value
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit

READ_WORDS = {"rclr": 0, "rset": 1}
WRITE_WORDS: dict[str, Callable[[ir.Expr, ir.Expr, int], ir.Expr]] = {
    # the field's new value from its old one, what was written, and its mask of ones
    "woclr": lambda s, v, m: a.binary("and", s, a.binary("xor", v, ir.Const(m))),
    "woset": lambda s, v, m: a.binary("or", s, v),
    "wot": lambda s, v, m: a.binary("xor", s, v),
    "wzc": lambda s, v, m: a.binary("and", s, v),
    "wzs": lambda s, v, m: a.binary("or", s, a.binary("xor", v, ir.Const(m))),
    "wzt": lambda s, v, m: a.binary("xor", s, a.binary("xor", v, ir.Const(m))),
    "wclr": lambda s, v, m: a.FALSE,
    "wset": lambda s, v, m: ir.Const(m),
}
BASE_WORDS = {"rw": (True, True), "ro": (True, False), "wo": (False, True)}
WIDTHS = (1, 2, 4, 8)


def access_words(words: tuple[t.Ident, ...], stored: bool) -> AccessWords:
    """SystemRDL's words of a field or register, as what they do (E403)."""
    given: dict[str, t.Ident] = {}
    for word in words:
        kind = "base" if word.text in BASE_WORDS else "read" if word.text in READ_WORDS else "write"
        if kind in given:
            raise Reject("E403", f"'{given[kind].text}' and '{word.text}' say two things of one", word.span,
                         "leave one of them out")  # fmt: skip
        given[kind] = word
    base, on_read, on_write = (given[k].text if k in given else "" for k in ("base", "read", "write"))
    readable, writable = BASE_WORDS[base] if base else (True, stored)
    if not stored and (on_read or on_write or writable):
        word = next(w for w in words if w.text != "ro")
        raise Reject("E403", f"'{word.text}' applies to what is stored, and this is an equation", word.span,
                     "an equation is 'ro'; leave the word out")  # fmt: skip
    if on_write and not writable:
        raise Reject("E403", f"'{on_write}' says what a write does, but nothing can be written",
                     given["write"].span, "say 'rw' or 'wo'")  # fmt: skip
    if on_read and not readable:
        raise Reject("E403", f"'{on_read}' says what a read does, but nothing can be read",
                     given["read"].span, "say 'rw' or 'ro'")  # fmt: skip
    return AccessWords(readable, writable, on_read, on_write)


class Registers:
    """Elaborates the registers and windows of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit

    # --- a register ----------------------------------------------------------

    def define(self, tree: t.Reg, scope: Scope, window_lanes: int | None) -> None:
        scope.define(self._entity(tree, scope, window_lanes))

    def _entity(self, tree: t.Reg, scope: Scope, window_lanes: int | None) -> RegDef:
        """The register's entity, its slots and fields; bodies come at first use."""
        kind = self.unit.type(tree.type, scope)
        width = self.unit.expr.width(Value(ir.Var("", kind.range), kind.width), tree.type.span)
        if width not in (8, 16, 32, 64):
            raise Reject("E205", f"a register is 8, 16, 32 or 64 bits wide, not {width}", tree.type.span)
        lanes = tree.lanes or window_lanes
        size = width // 8
        if lanes is not None and (lanes not in WIDTHS or (lanes > size and tree.lanes)):
            raise Reject("E402", f"lanes of {lanes} bytes in a register of {size}", tree.name.span,
                         "lanes are of 1, 2, 4 or 8 bytes, and not wider than the register")  # fmt: skip
        name = tree.name.text
        has_read, has_write = (any(h.kind == kind for h in tree.handlers) for kind in ("read", "write"))
        computed = tree.value is not None or has_read
        words = access_words(tree.access, stored=not computed or has_write)
        self._one_value(tree, has_read, has_write)
        reg = RegDef(
            name, tree.name.span, scope.prefix + name, size, min(lanes or size, size), lanes is not None,
            kind, {}, None, words, tree,
        )  # fmt: skip
        if tree.value is not None:
            value = tree.value
            reg.value = self.unit.equation(f"{reg.function}.is", tree.name, kind, value, scope)
        elif tree.fields:
            self._fields(reg, scope, width)
        elif tree.through is None and not has_read and (words.readable or not has_write):
            self._holds_all(kind, words, tree.type.span, size * 8)
            reset = self.unit.reset_value(tree.reset, kind, scope, name)
            reg.storage = self.unit.slot(scope, name, kind, reset=reset, span=tree.name.span)
        effects = any(cell.access.on_read for cell in cells(reg)) and not has_read
        reg.masked_read = effects and reg.lanes < reg.width
        return reg

    @staticmethod
    def _one_value(tree: t.Reg, has_read: bool, has_write: bool) -> None:
        """A register's value comes from one place; only what is stored is reset."""
        name = tree.name.text
        if tree.through is not None:
            others = {"fields": tree.fields, "a read of its own": has_read, "a write of its own": has_write}
            if other := next((words for words, given in others.items() if given), ""):
                raise Reject("E102", f"'{name}' goes through a bank and has {other}: two values",
                             tree.through.span, "leave one of them out")  # fmt: skip
            if tree.access:
                raise Reject(
                    "E403",
                    f"'{tree.access[0].text}' applies to what is stored, and this goes through a bank",
                    tree.access[0].span,
                    "the bank's registers say what can be done with them",
                )
        if tree.value is not None and (tree.fields or has_read):
            other = "fields" if tree.fields else "a read of its own"
            raise Reject("E102", f"'{name}' has an equation and {other}: two values", tree.value.span,
                         "leave one of them out")  # fmt: skip
        computed = tree.value is not None or tree.through is not None or has_read
        if tree.reset is not None and (computed or tree.fields):
            raise Reject("E403", f"'{name}' stores nothing of its own to reset", tree.reset.span,
                         "write 'reset' after each field")  # fmt: skip

    @staticmethod
    def _holds_all(kind: TypeInfo, words: AccessWords, span: Span, bits: int) -> None:
        """What a guest writes is any pattern of bits, so the type has a value for each (E201)."""
        if words.writable and kind.range != ir.Range(0, 2**bits - 1):
            raise Reject(
                "E201",
                f"a guest may write {kind.range.hi + 1}, and the type has no such value",
                span,
                "give the enum a member for every pattern of bits, or make this 'ro'",
            )

    def _fields(self, reg: RegDef, scope: Scope, width: int) -> None:
        taken = 0
        for tree in reg.tree.fields:
            high, low = tree.bits.high, tree.bits.low
            mask = ((2 << high) - 1) & ~((1 << low) - 1)
            if high >= width:
                raise Reject("E402", f"bit {high} in a register of {width} bits", tree.bits.span,
                             f"the highest is {width - 1}")  # fmt: skip
            if taken & mask:
                other = next(f for f in reg.fields.values() if f.low <= high and low <= f.high)
                raise Reject("E401", f"field '{tree.name.text}' overlaps '{other.name}'", tree.bits.span,
                             f"'{other.name}' has the bits {other.high}..{other.low}")  # fmt: skip
            if tree.name.text in reg.fields:
                raise Reject("E102", f"field '{tree.name.text}' is defined already", tree.name.span,
                             "choose another name")  # fmt: skip
            taken |= mask
            reg.fields[tree.name.text] = self._field(reg, tree, scope)

    def _field(self, reg: RegDef, tree: t.Field, scope: Scope) -> FieldDef:
        size = tree.bits.high - tree.bits.low + 1
        kind = TypeInfo(ir.Range(0, 2**size - 1), size)
        if tree.type is not None:
            given = self.unit.type(tree.type, scope)
            if given.width != size:
                exact = f"{given.width} bits" if given.width else "no exact width"
                raise Reject("E205", f"the type has {exact}, the field {size}", tree.type.span,
                             "give the field as many bits as its type has")  # fmt: skip
            kind = given
        name = f"{reg.name}.{tree.name.text}"
        slot, value = None, None
        words = access_words(tree.access, stored=tree.value is None)
        if tree.where is not None and not words.writable:
            raise Reject(
                "E403",
                "'where' says what writes are taken, but nothing can be written",
                tree.where.span,
                "say 'rw' or 'wo'",
            )
        if tree.value is not None:
            if tree.reset is not None:
                raise Reject("E403", f"'{name}' is an equation, it stores nothing to reset", tree.reset.span,
                             "leave one of them out")  # fmt: skip
            value = self.unit.equation(
                f"{reg.function}.{tree.name.text}.is", tree.name, kind, tree.value, scope
            )
        else:
            self._holds_all(kind, words, tree.bits.span if tree.type is None else tree.type.span, size)
            reset = self.unit.reset_value(tree.reset, kind, scope, name)
            slot = self.unit.slot(scope, name, kind, reset=reset, span=tree.name.span)
        return FieldDef(
            tree.name.text, tree.name.span, tree.bits.high, tree.bits.low, kind, slot, value, words, tree.doc,
            tree.where,
        )  # fmt: skip

    def value(self, reg: RegDef, place: Place, span: Span) -> Value:
        """The register as an equation may see it: no effect of a read."""
        if reg.value is not None:
            found = self.unit.refs.let(reg.value, place)
            return Value(found.expr, reg.width * 8, reg.type.nominal)
        if reg.storage is not None:
            return Value(ir.Load(reg.storage, place, reg.type.range), reg.width * 8, reg.type.nominal)
        if not reg.fields:
            raise Reject("E301", f"register '{reg.name}' has a value only when it is read", span,
                         "name what you need with 'let', and use it in both places")  # fmt: skip
        total: ir.Expr = a.FALSE
        for field in reg.fields.values():
            if field.access.readable:
                part = self.unit.refs.load(Ref(field, place), Context(self.unit.scope, place), span)
                total = a.binary("or", total, a.binary("shl", part.expr, ir.Const(field.low)))
        return Value(total, reg.width * 8, reg.type.nominal)

    def build(self, reg: RegDef, scope: Scope) -> None:
        """The register's read and write functions."""
        if reg.tree.through is not None:
            return self._through(reg, reg.tree.through, scope)
        handlers = {h.kind: h for h in reg.tree.handlers}
        self._read(reg, scope, handlers.get("read"))
        self._write(reg, scope, handlers.get("write"))
        reg.done = True

    def _through(self, reg: RegDef, tree: t.Through, scope: Scope) -> None:
        """Reads and writes go to a bank's register or byte."""
        bank, index = self.unit.banks.through(tree, scope)
        if not bank.unit == reg.width == reg.lanes:
            what = "a byte" if bank.unit == 1 else f"{8 * bank.unit} bits"
            raise Reject("E402", f"a bank is gone through {what} at a time", reg.span,
                         f"make it u{8 * bank.unit}")  # fmt: skip
        line, word = reg.span.line, bank.word
        read = ir.Return(ir.Call(f"{bank.function}.read", (index,), word))
        self.unit.function(f"{reg.function}.read", scope.parameters, word, [read], line)
        write = ir.Do(ir.Call(f"{bank.function}.write", (index, ir.Var("v", word)), ir.BOOL))
        parameters = (*scope.parameters, ("v", word), ("mask", word))
        self.unit.function(f"{reg.function}.write", parameters, None, [write], line)
        reg.done = True

    def _read(self, reg: RegDef, scope: Scope, handler: t.Handler | None) -> None:
        if handler is not None and handler.python is not None:
            reg.read_python = self._python(reg, handler.python, scope)
            return
        if not reg.access.readable:
            return
        kind = ir.Range(0, 2 ** (reg.width * 8) - 1)
        if handler is not None:
            ctx = Context(scope, scope.place, pure=False, statement=True, line=handler.span.line)
            ctx.result = reg.type
            body = self.unit.statements.suite(handler.body, ctx)
            if not self.unit.statements.returns(body):
                raise Reject(
                    "E302", f"a path through the read of '{reg.name}' ends without a return", handler.span
                )
        else:
            value = self.value(reg, scope.place, reg.span).expr
            body = [ir.Return(value)]
            effects = self._read_effects(reg, scope)
            if effects:
                # most reads of a flag register in a loop find nothing to clear
                changes: ir.Expr = a.FALSE
                for store in effects:
                    kept = ir.Load(store.slot, scope.place, self.unit.slots[store.slot].type)
                    changes = a.either(changes, a.binary("ne", kept, store.value))
                clear = ir.If(changes, tuple(effects))
                body = [ir.Let("before", value), clear, ir.Return(ir.Var("before", value.type))]
        mask = (("mask", kind),) if reg.masked_read else ()
        self.unit.function(f"{reg.function}.read", (*scope.parameters, *mask), kind, body, reg.span.line)

    def _read_effects(self, reg: RegDef, scope: Scope) -> list[ir.Store]:
        """rclr and rset, in the lanes that are read."""
        out: list[ir.Store] = []
        for cell in cells(reg):
            if cell.access.on_read and cell.slot is not None:
                ones = cell.type.range.hi
                new: ir.Expr = ir.Const(READ_WORDS[cell.access.on_read] * ones)
                if reg.masked_read:
                    mask = a.bits(ir.Var("mask", ir.Range(0, 2 ** (8 * reg.width) - 1)), cell.high, cell.low)
                    old = ir.Load(cell.slot, scope.place, cell.type.range)
                    new = self._merge(old, new, mask, ones.bit_length())
                out.append(ir.Store(cell.slot, scope.place, new, reg.span.line))
        return out

    def _write(self, reg: RegDef, scope: Scope, handler: t.Handler | None) -> None:
        if handler is not None and handler.python is not None:
            reg.write_python = self._python(reg, handler.python, scope)
            return
        if (
            handler is None
            and not reg.access.writable
            and not any(f.access.writable for f in reg.fields.values())
        ):
            return
        whole = ir.Range(0, 2 ** (reg.width * 8) - 1)
        written, mask = ir.Var("v", whole), ir.Var("mask", whole)
        body = self._custom(reg, scope, handler) if handler else self._stores(reg, scope, written, mask)
        parameters = (*scope.parameters, ("v", whole), ("mask", whole))
        self.unit.function(f"{reg.function}.write", parameters, None, body, reg.span.line)

    def _stores(self, reg: RegDef, scope: Scope, v: ir.Expr, mask: ir.Expr) -> list[ir.Stmt]:
        out: list[ir.Stmt] = []
        for cell in cells(reg):
            if cell.slot is None or not cell.access.writable:
                continue
            ones = cell.type.range.hi
            old = ir.Load(cell.slot, scope.place, cell.type.range)
            given, covered = a.bits(v, cell.high, cell.low), a.bits(mask, cell.high, cell.low)
            rule = WRITE_WORDS.get(cell.access.on_write)
            new = rule(old, given, ones) if rule else given
            merged = self._merge(old, new, covered, ones.bit_length())
            out += self._accepted(cell, scope, ir.Store(cell.slot, scope.place, merged, reg.span.line))
        return out

    def _accepted(self, cell: FieldDef, scope: Scope, store: ir.Store) -> list[ir.Stmt]:
        """The store, where the field's `where` holds for what it would become."""
        if cell.where is None:
            return [store]
        name = f"{cell.name}.new"
        inner = Context(scope, scope.place).inner()
        value = Value(ir.Var(name, store.value.type), cell.type.width, cell.type.nominal)
        inner.scope.names[cell.name] = LocalDef(cell.name, cell.span, value)
        test = self.unit.expr.truth(cell.where, inner)
        return [ir.Let(name, store.value), ir.If(test, (replace(store, value=value.expr),))]

    @staticmethod
    def _merge(old: ir.Expr, new: ir.Expr, mask: ir.Expr, width: int) -> ir.Expr:
        """`new` in the lanes that were written, `old` in the others."""
        ones = ir.Const(2**width - 1)
        kept = a.binary("and", old, a.binary("xor", mask, ones))
        return a.binary("or", kept, a.binary("and", new, mask))

    def _custom(self, reg: RegDef, scope: Scope, handler: t.Handler) -> list[ir.Stmt]:
        assert handler.name is not None
        ctx = Context(scope, scope.place, pure=False, statement=True, line=handler.span.line).inner()
        whole = ir.Range(0, 2 ** (reg.width * 8) - 1)
        written: ir.Expr = ir.Var("v", whole)
        prologue: list[ir.Stmt] = []
        if reg.lanes < reg.width:
            if reg.value is None and reg.storage is None and not reg.fields:
                raise Reject("E402", f"'{reg.name}' has lanes, but nothing stored for those not written",
                             handler.span, f"lanes {reg.width}, or give it fields or a state")  # fmt: skip
            old = self.value(reg, scope.place, reg.span).expr
            merged = self._merge(old, written, ir.Var("mask", whole), reg.width * 8)
            prologue, written = [ir.Let("merged", merged)], ir.Var("merged", merged.type)
        if handler.mask is not None:
            ctx.scope.define(
                LocalDef(handler.mask.text, handler.mask.span, Value(ir.Var("mask", whole), reg.width * 8))
            )
        ctx.written = self._stores(reg, scope, ir.Var("v", whole), ir.Var("mask", whole)) or None
        ctx.scope.define(
            LocalDef(handler.name.text, handler.name.span, Value(written, reg.width * 8, reg.type.nominal))
        )
        return [*prologue, *self.unit.statements.suite(handler.body, ctx)]

    def _python(self, reg: RegDef, name: t.Ident, scope: Scope) -> int:
        found = scope.find(name.text, name.span)
        if not isinstance(found, PythonDef):
            raise Reject(
                "E103", f"'{name.text}' is not a Python part", name.span, 'declare it: python "FILE" NAME:'
            )
        if reg.tree.hot:
            raise Reject("E404", f"'{reg.name}' is hot, and Python serves it", name.span,
                         "drop 'hot', or say it in the language")  # fmt: skip
        return found.index


def cells(reg: RegDef) -> list[FieldDef]:
    """What a register stores: its fields, or itself as one."""
    if reg.storage is None:
        return list(reg.fields.values())
    top = 8 * reg.width - 1
    return [FieldDef(reg.name, reg.span, top, 0, reg.type, reg.storage, None, reg.access, reg.tree.doc)]
