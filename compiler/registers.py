"""Registers and windows: fields, access words, lanes, and the decode of an access.

A register becomes three functions: `value` (pure), `read` (with what a read
does) and `write`. A window becomes one read and one write function whose
decode is static: for each offset and width the registers it covers are known
at compile time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import ir
from .scope import (
    AccessWords,
    Context,
    FieldDef,
    LetDef,
    LocalDef,
    Place,
    PythonDef,
    Ref,
    RegDef,
    Scope,
    TypeInfo,
    Value,
)

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
GAPS = {"ones": 0xFF, "zeros": 0x00}
WIDTHS = (1, 2, 4, 8)
LEAVE_SPLIT = 0xFFFF_FFFF
"""`leave` when several byte accesses, one of them Python's, must be made one by one."""


def access_words(words: tuple[t.Ident, ...], stored: bool) -> AccessWords:
    """SystemRDL's words of a field or register, as what they do (E403)."""
    base, on_read, on_write = (True, stored), "", ""
    for word in words:
        if word.text in BASE_WORDS:
            base = BASE_WORDS[word.text]
        elif word.text in READ_WORDS:
            on_read = word.text
        else:
            on_write = word.text
            base = (base[0], True) if words[0].text not in BASE_WORDS else base
        if not stored and (on_read or on_write or base[1]):
            raise Reject("E403", f"'{word.text}' applies to what is stored, and this is an equation", word.span,
                         "an equation is 'ro'; leave the word out")  # fmt: skip
    if on_write and not base[1]:
        raise Reject("E403", f"'{on_write}' says what a write does, but nothing can be written",
                     words[-1].span, "say 'rw' or 'wo'")  # fmt: skip
    return AccessWords(*base, on_read, on_write)


class Registers:
    """Elaborates the registers and windows of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit

    # --- a register ----------------------------------------------------------

    def declare(self, tree: t.Reg, scope: Scope, window_lanes: int | None) -> RegDef:
        """The register's entity, its slots and fields; bodies come at first use."""
        kind = self.unit.type(tree.type, scope)
        width = self.unit.expr.width(Value(ir.Var("", kind.range), kind.width), tree.type.span)
        if width not in (8, 16, 32, 64):
            raise Reject("E205", f"a register is 8, 16, 32 or 64 bits wide, not {width}", tree.type.span)
        lanes = tree.lanes or window_lanes
        size = width // 8
        if lanes is not None and (lanes not in WIDTHS or lanes > size and tree.lanes):
            raise Reject("E402", f"lanes of {lanes} bytes in a register of {size}", tree.name.span,
                         "lanes are of 1, 2, 4 or 8 bytes, and not wider than the register")  # fmt: skip
        name = tree.name.text
        has_read = any(h.kind == "read" for h in tree.handlers)
        computed = tree.value is not None or has_read
        words = access_words(
            tree.access, stored=not computed or any(h.kind == "write" for h in tree.handlers)
        )
        reg = RegDef(
            name, tree.name.span, scope.prefix + name, size, min(lanes or size, size), lanes is not None,
            kind, {}, None, words, tree,
        )  # fmt: skip
        if tree.value is not None:
            value = tree.value
            reg.value = self.unit.equation(f"{reg.function}.is", tree.name, kind, value, scope)
        elif tree.fields:
            self._fields(reg, scope, width)
        elif words.readable and not has_read:
            reset = self.unit.reset_value(tree.reset, kind, scope)
            reg.storage = self.unit.slot(scope, name, kind, reset=reset)
        return reg

    def _fields(self, reg: RegDef, scope: Scope, width: int) -> None:
        taken = 0
        for tree in reg.tree.fields:
            high, low = tree.bits.high, tree.bits.low
            mask = ((2 << high) - 1) & ~((1 << low) - 1)
            if high >= width:
                raise Reject("E402", f"bit {high} in a register of {width} bits", tree.bits.span)
            if taken & mask:
                raise Reject("E401", f"field '{tree.name.text}' overlaps another", tree.bits.span)
            if tree.name.text in reg.fields:
                raise Reject("E102", f"field '{tree.name.text}' is defined already", tree.name.span)
            taken |= mask
            reg.fields[tree.name.text] = self._field(reg, tree, scope)

    def _field(self, reg: RegDef, tree: t.Field, scope: Scope) -> FieldDef:
        size = tree.bits.high - tree.bits.low + 1
        kind = TypeInfo(ir.Range(0, 2**size - 1), size)
        if tree.type is not None:
            given = self.unit.type(tree.type, scope)
            if given.width != size:
                raise Reject("E205", f"the type has {given.width} bits, the field {size}", tree.type.span)
            kind = given
        name = f"{reg.name}.{tree.name.text}"
        slot, value = None, None
        words = access_words(tree.access, stored=tree.value is None)
        if tree.value is not None:
            value = self.unit.equation(
                f"{reg.function}.{tree.name.text}.is", tree.name, kind, tree.value, scope
            )
        else:
            slot = self.unit.slot(scope, name, kind, reset=self.unit.reset_value(tree.reset, kind, scope))
        return FieldDef(
            tree.name.text, tree.name.span, tree.bits.high, tree.bits.low, kind, slot, value, words, tree.doc
        )

    def value(self, reg: RegDef, place: Place, span: Span) -> Value:
        """The register as an equation may see it: no effect of a read."""
        if reg.value is not None:
            found = self.unit.expr.let(reg.value, place)
            return Value(found.expr, reg.width * 8, reg.type.nominal)
        if reg.storage is not None:
            return Value(ir.Load(reg.storage, place, reg.type.range), reg.width * 8, reg.type.nominal)
        if not reg.fields:
            raise Reject("E301", f"register '{reg.name}' has a value only when it is read", span,
                         "name what you need with 'let', and use it in both places")  # fmt: skip
        total: ir.Expr = a.FALSE
        for field in reg.fields.values():
            if field.access.readable:
                part = self.unit.expr.load(Ref(field, place), Context(self.unit.scope, place), span)
                total = a.binary("or", total, a.binary("shl", part.expr, ir.Const(field.low)))
        return Value(total, reg.width * 8, reg.type.nominal)

    def build(self, reg: RegDef, scope: Scope) -> None:
        """The register's read and write functions."""
        handlers = {h.kind: h for h in reg.tree.handlers}
        self._read(reg, scope, handlers.get("read"))
        self._write(reg, scope, handlers.get("write"))
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
            effects = [
                ir.Store(
                    f.slot,
                    scope.place,
                    ir.Const(READ_WORDS[f.access.on_read] * f.type.range.hi),
                    reg.span.line,
                )
                for f in reg.fields.values()
                if f.access.on_read and f.slot
            ]
            body = [ir.Return(value)]
            if effects:
                body = [ir.Let("before", value), *effects, ir.Return(ir.Var("before", value.type))]
        self.unit.function(f"{reg.function}.read", scope.parameters, kind, body, reg.span.line)

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
        line = reg.span.line
        if reg.storage is not None:
            old = ir.Load(reg.storage, scope.place, reg.type.range)
            return [ir.Store(reg.storage, scope.place, self._merge(old, v, mask, reg.width * 8), line)]
        out: list[ir.Stmt] = []
        for field in reg.fields.values():
            if field.slot is None or not field.access.writable:
                continue
            ones = field.type.range.hi
            old = ir.Load(field.slot, scope.place, field.type.range)
            given = a.bits(v, field.high, field.low)
            covered = a.bits(mask, field.high, field.low)
            rule = WRITE_WORDS.get(field.access.on_write)
            new = rule(old, given, ones) if rule else given
            out.append(
                ir.Store(field.slot, scope.place, self._merge(old, new, covered, ones.bit_length()), line)
            )
        return out

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
            old = self.value(reg, scope.place, reg.span).expr
            merged = self._merge(old, written, ir.Var("mask", whole), reg.width * 8)
            prologue, written = [ir.Let("merged", merged)], ir.Var("merged", merged.type)
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


# --- windows ---------------------------------------------------------------


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


__all__ = ["LEAVE_SPLIT", "Decoder", "LetDef", "Placed", "Registers", "access_words"]
