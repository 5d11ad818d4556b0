"""A device's functions as LLVM IR for the BPF target: what the verifier must see differs from the native.

The state is one global variable, reached by its address and never passed on.
A function that stays by itself is a *global* one: the verifier takes it by
itself, once, knowing nothing of its arguments. So every index is bounded where
it is used, behind a barrier that keeps LLVM from proving the bound superfluous:
what LLVM knows, the verifier does not.

All arguments and results are 64 bits wide; a function without a result returns
0, as older verifiers want a scalar.

Non-goals: programs, which the kernel calls (bpf_programs.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import gcd

from . import ir
from .bpf_debug import Debug, Names
from .native import FunctionText, Translator, Unit
from .native_ops import Writer

ATTRIBUTES = 'nounwind "no-jump-tables"="true" "no-builtins"'
STATE = "@state"
MOST_ARGUMENTS = 5
"""Registers for arguments of a BPF function; the instant takes one."""


PROMISES = re.compile(r" (?:nuw|nsw|nneg|inbounds)\b")


class LinedWriter(Writer):
    """A writer whose instructions bear the line of the device file that they stem from.

    It drops what is promised of results. On ways that no value takes, LLVM may see
    a promise broken, and leaves any register as it is: one with a pointer in it,
    maybe. The verifier goes those ways too.
    """

    def __init__(self, debug: Debug, function: str) -> None:
        super().__init__()
        self._debug, self._function = debug, function
        self.line = 0

    def do(self, text: str) -> None:
        text = PROMISES.sub("", text)
        super().do(f"{text}, !dbg {self._debug.location(self.line, self._function)}")


class BpfUnit(Unit):
    """What the functions of one module share.

    `unguarded`: slots whose indices are not bounded. For tests, which make a
    device unsafe past our own checker and see that the kernel refuses it.
    """

    def __init__(self, module: ir.Module, debug: Debug, unguarded: Collection[str] = ()) -> None:
        super().__init__(module, False, debug.metadata)
        self.debug = debug
        self.unguarded = frozenset(unguarded)
        self.word = debug.integer(8)
        programs = ["read", "write", "settle", "deadline", "batch"]
        programs += [f"{region.name}_{kind}" for region in module.regions for kind in ("read", "write")]
        taken = [f"{module.name}_{name}" for name in programs]
        names = Names([*taken, "state", "calls", "clock", "about", "serve", "each", "open", "close", "count"])
        self.names: Mapping[str, str] = {f.name: names.give(f.name) for f in module.functions}
        """The linkage names: C identifiers, as BTF wants them."""
        self.heads: dict[str, str] = {}
        """The debug node of each function's own line."""

    def target(self, function: str) -> str:
        return f"@{self.names[function]}"


class BpfTranslator(Translator):
    """One function."""

    unit: BpfUnit
    w: LinedWriter

    def __init__(self, unit: BpfUnit, function: ir.Function) -> None:
        params = [("now", unit.word), *((name, unit.word) for name, _ in function.params)]
        self.node = unit.debug.function(
            unit.names[function.name], params, unit.word, function.line, local=False
        )
        super().__init__(unit, function, LinedWriter(unit.debug, self.node))
        self.w.line = function.line
        unit.heads[function.name] = unit.debug.location(function.line, self.node)

    def text(self) -> FunctionText:
        self._prologue()
        self._block(self.function.body)
        self.w.end("ret i64 0")
        params = ", ".join(["i64 %now", *(f"i64 %p{n}" for n in range(len(self.function.params)))])
        memory = "readwrite" if self.function.name in self.unit.writers else "read"
        return FunctionText(
            f"i64 {self.unit.target(self.function.name)}({params})",
            f"memory({memory}) {ATTRIBUTES} !dbg {self.node}",
            "\n".join(self.w.lines),
            "dso_local",
        )

    def _prologue(self) -> None:
        """No local is without a value: one that goes into a loop's own function and gets its value
        there would be a register that is not set, which the verifier refuses."""
        super()._prologue()
        for name, place in self.places.items():
            if name not in self.values:
                self.w.do(f"store i64 0, ptr {place}")

    def _kind(self, function: ir.Function, value: ir.Range) -> str:
        return "i64"

    def _statement(self, stmt: ir.Stmt) -> None:
        before = self.w.line
        self.w.line = (stmt.line if isinstance(stmt, ir.Store) else 0) or before
        super()._statement(stmt)
        self.w.line = before

    def value(self, expr: ir.Expr) -> str:
        return super().value(_total(expr))

    def _binary(self, expr: ir.Binary) -> str:
        """LLVM knows ways to ask whether a product exceeds 64 bits, and makes one of 128 of them."""
        value = super()._binary(expr)
        match expr:
            case ir.Binary("mul" | "mulw", left, right):
                asks = not isinstance(left, ir.Const) and not isinstance(right, ir.Const)
            case ir.Binary("div", left, right):
                asks = left == ir.Const(ir.NEVER) and not isinstance(right, ir.Const)
            case _:
                asks = False
        return self._opaque(value) if asks else value

    def _opaque(self, value: str) -> str:
        """The value, of which LLVM knows nothing."""
        return self.w.op(f'call i64 asm "", "=r,0"(i64 {value}) memory(none) nounwind willreturn')

    def _return(self, value: ir.Expr | None) -> None:
        self.w.end("ret i64 0" if value is None else f"ret i64 {self.value(value)}")

    def _address(self, slot: ir.Slot, index: tuple[ir.Expr, ...]) -> str:
        offset, moving, greatest, unit = slot.offset, None, 0, 0
        for expr, (count, stride) in zip(index, slot.dims, strict=True):
            if isinstance(expr, ir.Const):
                offset += expr.value * stride
                continue
            step = self.w.op(f"mul i64 {self.value(expr)}, {stride}")
            moving = step if moving is None else self.w.op(f"add i64 {moving}, {step}")
            greatest += (count - 1) * stride
            unit = gcd(unit, stride)
        base = STATE
        if moving is not None:
            if slot.name not in self.unit.unguarded:
                moving = self._bounded(moving, greatest, unit & -unit, offset + slot.size)
            base = self.w.op(f"getelementptr i8, ptr {STATE}, i64 {moving}")
        return self.w.op(f"getelementptr i8, ptr {base}, i64 {offset}")

    def _bounded(self, moving: str, greatest: int, step: int, behind: int) -> str:
        """An offset, a multiple of `step`, held to what the verifier must see.

        A mask costs one instruction; where it would allow what lies beyond the
        state, the offset is compared instead.
        """
        moving = self._opaque(moving)
        mask = (1 << greatest.bit_length()) - 1 & -step
        if mask + behind <= self.unit.module.size:
            return self.w.op(f"and i64 {moving}, {mask}")
        inside = self.w.op(f"icmp ult i64 {moving}, {greatest}")
        return self.w.op(f"select i1 {inside}, i64 {moving}, i64 {greatest}")

    def _call(self, call: ir.Call) -> str:
        callee = self.unit.functions[call.function]
        self.unit.calls.setdefault(self.function.name, Counter())[callee.name] += 1
        if callee.name in self.unit.writers:
            self.unit.writers.add(self.function.name)
        args = ["%now" if call.now is None else self.value(call.now), *map(self.value, call.args)]
        typed = ", ".join(f"i64 {arg}" for arg in args)
        return self.w.op(f"call i64 {self.unit.target(callee.name)}({typed})\0{callee.name}\0")


def _total(expr: ir.Expr) -> ir.Expr:
    """The expression with operands that give a result whatever they are; what is in range stays the same.

    As `PROMISES`: on a way that no value takes, LLVM may see a division by zero.
    """
    match expr:
        case ir.Binary("shl" | "shr", _, right) if not isinstance(right, ir.Const):
            return replace(expr, right=ir.Binary("and", right, ir.Const(63), right.type))
        case ir.Binary("div" | "mod", _, right) if not isinstance(right, ir.Const):
            return replace(expr, right=_not_zero(right))
        case ir.Ticks(_, hz) | ir.Nanos(_, hz) if not isinstance(hz, ir.Const):
            return replace(expr, hz=_not_zero(hz))
    return expr


def _not_zero(divisor: ir.Expr) -> ir.Expr:
    """LLVM drops this where it knows as much by itself, as it does of a slot's range."""
    return ir.Binary("max", divisor, ir.Const(1), divisor.type)


def translate(unit: BpfUnit) -> None:
    """All functions of the unit's module, into its `texts`."""
    elsewhere = {upgrade.function for upgrade in unit.module.upgrades}
    for function in unit.module.functions:
        if function.name not in elsewhere:
            unit.texts[function.name] = BpfTranslator(unit, function).text()
