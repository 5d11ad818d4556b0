"""The native back end: a device's typed IR as the text of an LLVM module.

All arithmetic is in i64; the state is one pointer with constant byte offsets,
so that the code holds no address and serves every instance of the device. What
the IR knows is handed on: exactness as `nuw`/`nsw`, slot ranges as `!range`
(sound because `restore` checks what it stores), distinct slots as distinct
TBAA types, a covered `Switch` as one without a default.

Text, not llvmlite.ir objects: building is a tenth of the time.

Non-goals: optimisation and machine code (jit.py); checking the IR (verify.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import ir, native_image
from . import native_ops as ops
from .evaluation import COMPARISONS, bools, certain, immediate, plain
from .metadata import Metadata
from .native_ops import Writer, literal

ATTRIBUTES = "mustprogress nofree norecurse nosync nounwind willreturn"
LINE = " align 64"
"""Guests poll these: their code's place in the cache's lines is the same in every process."""
EXACT = ("add", "sub", "mul", "shl")
MODULO = {"addw": "add", "subw": "sub", "mulw": "mul"}
DIVISIONS = {"div": "udiv", "mod": "urem"}
SETTLE, COMMIT = "settle", "commit"
CALLEE = re.compile("\0([^\0]*)\0")
"""Stands after each call until it is known whether the callee becomes part of the caller."""


def build(module: ir.Module, preserve_most: bool = False) -> str:
    """The device as LLVM IR text, with every symbol of docs/abi.md.

    `preserve_most`: the target has that calling convention; the rare call of
    `settle` then costs an access that does not settle no saved register.
    """
    unit = translate(module, preserve_most)
    parts = [unit.head()]
    parts += [text.define(CALLEE.sub("", text.body)) for text in unit.texts.values()]
    parts += unit.rare_calls(unit.texts)
    parts.append(native_image.build(module))
    parts.append(unit.metadata.text())
    return "\n\n".join(parts) + "\n"


def translate(module: ir.Module, preserve_most: bool = False) -> Unit:
    """The module's functions as texts, from which `build` and native_quick.py make modules."""
    unit = Unit(module, preserve_most)
    elsewhere = {upgrade.function for upgrade in module.upgrades}  # only the reference engine runs them
    for function in module.functions:
        if function.name not in elsewhere:
            unit.texts[function.name] = Translator(unit, function).text()
    return unit


def symbols(module: ir.Module) -> tuple[str, ...]:
    """The external symbols of a device, as docs/abi.md lists them. Needs no function bodies.

    What else is exported (for tests of single functions) follows.
    """
    names = [f"{r.name}_{kind}" for r in module.regions for kind in ("read", "write", "peek")]
    names += [*ir.EXPORTS, "init", "save", "restore"]
    names += [f.name for f in module.functions if f.exported]
    return tuple(dict.fromkeys(f"{module.name}_{name}" for name in names))


def symbol(module: ir.Module, function: ir.Function) -> str:
    """The linkage name; a dot keeps internal ones apart from every C name."""
    return f"{module.name}_{function.name}" if function.exported else f"{module.name}.{function.name}"


@dataclass(frozen=True, slots=True)
class FunctionText:
    """One function; CALLEE marks stand in its body."""

    signature: str
    attributes: str
    body: str
    linkage: str
    alignment: str = ""

    def define(self, body: str, linkage: str = "", more: str = "") -> str:
        head = f"define {linkage or self.linkage} {self.signature} {more}{self.attributes}"
        return f"{head}{self.alignment} {{\nentry:\n{body}\n}}"

    def declare(self, visibility: str = "") -> str:
        return f"declare {visibility} {self.signature} {self.attributes}"


class Unit:
    """What the functions of one module share."""

    def __init__(self, module: ir.Module, preserve_most: bool, metadata: Metadata | None = None) -> None:
        self.module = module
        self.functions = {f.name: f for f in module.functions}
        self.slots = {s.name: s for s in module.slots}
        self.metadata = metadata or Metadata()
        self.convention = "preserve_mostcc " if preserve_most else ""
        self.texts: dict[str, FunctionText] = {}
        self.calls: dict[str, Counter[str]] = {}
        self.rarely: dict[str, set[str]] = {}
        """What access functions call off their path, and which of them do."""
        self.writers: set[str] = set()
        root = self.metadata.node('!{!"devc"}')
        self._notes = {s.name: self._note(i, s, root) for i, s in enumerate(module.slots)}

    def _note(self, number: int, slot: ir.Slot, root: str) -> tuple[str, str]:
        """The metadata of a load and of a store of a slot."""
        kind = self.metadata.node(f'!{{!"slot {number}", {root}, i64 0}}')
        alias = f", !tbaa {self.metadata.node(f'!{{{kind}, {kind}, i64 0}}')}"
        bits = 8 * slot.size
        # A zeroed struct is seen by `reset` while it runs: only parameters,
        # which `init` stores first, may promise a range without 0.
        known = slot.type if slot.kind == "param" else slot.type.join(ir.Range(0, 0))
        if known.hi - known.lo + 1 >= 1 << bits:
            return alias, alias
        span = f"!{{i{bits} {literal(known.lo, bits)}, i{bits} {literal(known.hi + 1, bits)}}}"
        return f"{alias}, !range {self.metadata.node(span)}", alias

    def head(self) -> str:
        return f'source_filename = "{self.module.name}"'

    def rare(self, name: str) -> bool:
        """Whether no guest waits for the function often."""
        return name == SETTLE or self.functions[name].rare

    def notes(self, slot: ir.Slot) -> tuple[str, str]:
        return self._notes[slot.name]

    @property
    def state(self) -> str:
        return native_image.state(self.module)

    def rare_name(self, name: str) -> str:
        return f'@"{self.module.name}.{name}_rarely"'

    def rare_calls(self, callers: Iterable[str]) -> list[str]:
        """`settle`, and `commit` after reads, as access functions call them: off their path, keeping
        their registers."""
        return [
            f"define internal {self.convention}void {self.rare_name(name)}({self.state}, i64 %now)"
            f" cold noinline {ATTRIBUTES} {{\n"
            f'  call void @"{self.module.name}_{name}"(ptr %s, i64 %now)\n  ret void\n}}'
            for name, known in sorted(self.rarely.items())
            if known & set(callers)
        ]


def _type(function: ir.Function, value: ir.Range) -> str:
    """The LLVM type of a parameter or a result: C's in exported functions, else i64."""
    return "i32" if function.exported and ir.U32.contains(value) else "i64"


def _range_attribute(function: ir.Function, value: ir.Range) -> str:
    """What the IR proves of a value passed between its own functions."""
    if function.exported or value.hi - value.lo + 1 >= 2**64:
        return ""
    return f"range(i64 {literal(value.lo)}, {literal(value.hi + 1)}) "


def _locals(block: ir.Block) -> Iterator[str]:
    for stmt in block:
        match stmt:
            case ir.Let(name=name):
                yield name
            case ir.If(then=then, orelse=orelse):
                yield from _locals(then)
                yield from _locals(orelse)
            case ir.Switch(cases=cases, default=default):
                for _, body in cases:
                    yield from _locals(body)
                yield from _locals(default)
            case ir.Repeat(body=body):
                yield from _locals(body)


class Translator:
    """One function. Another target overrides how functions, state and calls look (bpf_functions.py)."""

    def __init__(self, unit: Unit, function: ir.Function, writer: Writer | None = None) -> None:
        self.unit = unit
        self.function = function
        self.w = writer or Writer()
        self.exits: list[str] = []
        self.values: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self.known: list[dict[ir.Call, str]] = [{}]

    def text(self) -> FunctionText:
        function = self.function
        params = [self.unit.state, "i64 %now"]
        for number, (_, value) in enumerate(function.params):
            kind = _type(function, value)
            params.append(f"{kind} {_range_attribute(function, value)}%p{number}")
        self._prologue()
        self._block(function.body)
        self.w.end("ret void" if function.result is None else "unreachable")
        result = "void"
        if function.result is not None:
            result = _range_attribute(function, function.result) + _type(function, function.result)
        # Called from the access functions' cold paths, and large: never a part of them.
        apart = "cold noinline " if self.unit.rare(function.name) else "noinline " if function.apart else ""
        memory = "readwrite" if function.name in self.unit.writers else "read"
        aligned = function.exported and function.name.endswith(("_read", "_write"))
        return FunctionText(
            f'{result} @"{symbol(self.unit.module, function)}"({", ".join(params)})',
            f"{apart}memory(argmem: {memory}) {ATTRIBUTES}",
            "\n".join(self.w.lines),
            "dso_local" if function.exported else "internal",
            LINE if aligned else "",
        )

    def _kind(self, function: ir.Function, value: ir.Range) -> str:
        return _type(function, value)

    def _prologue(self) -> None:
        for number, name in enumerate(dict.fromkeys(_locals(self.function.body))):
            self.places[name] = f"%l{number}"
            self.w.do(f"%l{number} = alloca i64")
        for number, (name, value) in enumerate(self.function.params):
            operand = f"%p{number}"
            if self._kind(self.function, value) == "i32":
                operand = self.w.op(f"zext i32 {operand} to i64")
            self.values[name] = operand
            if name in self.places:
                self.w.do(f"store i64 {operand}, ptr {self.places[name]}")

    # --- statements ---

    def _block(self, block: ir.Block) -> None:
        for stmt in block:
            if not self.w.open:
                return
            self._statement(stmt)

    def _statement(self, stmt: ir.Stmt) -> None:
        self.known = [{}]
        match stmt:
            case ir.Let(name, value):
                self.w.do(f"store i64 {self.value(value)}, ptr {self.places[name]}")
            case ir.Store():
                self._store(stmt)
            case ir.If():
                self._if(stmt)
            case ir.Switch():
                self._switch(stmt)
            case ir.Repeat():
                self._repeat(stmt)
            case ir.Break():
                self.w.jump(self.exits[-1])
            case ir.Return(value):
                self._return(value)
            case ir.Do(call):
                self._call(call)

    def _store(self, stmt: ir.Store) -> None:
        self.unit.writers.add(self.function.name)
        slot = self.unit.slots[stmt.slot]
        value = self.value(stmt.value)
        kind = f"i{8 * slot.size}"
        if slot.size < 8:
            value = self.w.op(f"trunc i64 {value} to {kind}")
        place = self._address(slot, stmt.index)
        self.w.do(f"store {kind} {value}, ptr {place}, align {slot.size}{self.unit.notes(slot)[1]}")

    def _if(self, stmt: ir.If) -> None:
        then, end = self.w.label(), self.w.label()
        orelse = self.w.label() if stmt.orelse else end
        self.w.branch(self.test(stmt.test), then, orelse)
        self._arm(then, stmt.then, end)
        if stmt.orelse:
            self._arm(orelse, stmt.orelse, end)
        self.w.start(end)

    def _arm(self, label: str, block: ir.Block, end: str) -> None:
        self.w.start(label)
        self._block(block)
        self.w.jump(end)

    def _switch(self, stmt: ir.Switch) -> None:
        value = self.value(stmt.value)
        default, end = self.w.label(), self.w.label()
        labels: dict[int, str] = {}
        arms = []
        for numbers, block in stmt.cases:
            label = self.w.label()
            arms.append((label, block))
            for number in numbers:
                labels.setdefault(number, label)
        table = " ".join(f"i64 {literal(number)}, label %{label}" for number, label in labels.items())
        self.w.end(f"switch i64 {value}, label %{default} [ {table} ]")
        for label, block in arms:
            self._arm(label, block, end)
        self.w.start(default)
        kind = stmt.value.type
        if kind.hi - kind.lo < len(labels) and all(n in labels for n in range(kind.lo, kind.hi + 1)):
            self.w.end("unreachable")
        self._block(stmt.default)
        self.w.jump(end)
        self.w.start(end)

    def _repeat(self, stmt: ir.Repeat) -> None:
        if stmt.times < 1:
            return
        before = self.w.block
        body, latch, end = self.w.label(), self.w.label(), self.w.label()
        self.w.jump(body)
        self.w.start(body)
        self.w.do(f"%{body}.i = phi i64 [ 0, %{before} ], [ %{latch}.i, %{latch} ]")
        self.exits.append(end)
        self._block(stmt.body)
        self.exits.pop()
        self.w.jump(latch)
        self.w.start(latch)
        self.w.do(f"%{latch}.i = add nuw nsw i64 %{body}.i, 1")
        self.w.branch(self.w.op(f"icmp ult i64 %{latch}.i, {stmt.times}"), body, end)
        self.w.start(end)

    def _return(self, value: ir.Expr | None) -> None:
        result = self.function.result
        if value is None or result is None:
            self.w.end("ret void")
            return
        operand, kind = self.value(value), _type(self.function, result)
        if kind == "i32":
            operand = self.w.op(f"trunc nuw i64 {operand} to i32")
        self.w.end(f"ret {kind} {operand}")

    # --- expressions ---

    def value(self, expr: ir.Expr) -> str:
        """The operand, an i64, that holds an expression's value."""
        match expr:
            case ir.Const(value):
                return literal(value)
            case ir.Var(name):
                if name in self.places:
                    return self.w.op(f"load i64, ptr {self.places[name]}")
                return self.values[name]
            case ir.Now():
                return "%now"
            case ir.Load():
                return self._load(expr)
            case ir.Binary():
                return self._binary(expr)
            case ir.Not():
                return self.w.bool(self.test(expr))
            case ir.Cond():
                return self._cond(expr)
            case ir.Narrow(operand):
                return self.value(operand)
            case ir.Ticks(ns, hz):
                return ops.ticks(self.w, self.value(ns), self.value(hz), ns.type, hz.type)
            case ir.Nanos(count, hz):
                return ops.nanos(self.w, self.value(count), self.value(hz), count.type, hz.type)
            case ir.Call():
                return self._called(expr)

    def _called(self, call: ir.Call) -> str:
        """The value of an equation, which does not change within a statement."""
        for known in self.known:
            if call in known:
                return known[call]
        self.known[-1][call] = value = self._call(call)
        return value

    def test(self, expr: ir.Expr) -> str:
        """The operand, an i1, that says whether an expression is not zero."""
        match expr:
            case ir.Const(value):
                return "true" if value else "false"
            case ir.Not(operand):
                return self.w.op(f"xor i1 {self.test(operand)}, true")
            case ir.Binary(op, left, right) if op in COMPARISONS:
                a, b = self.value(left), self.value(right)
                return ops.compare(self.w, op, a, b, left.type, right.type)
            case ir.Binary("and" | "or" | "xor" as op, left, right) if bools(left, right):
                a, b = self.test(left), self.test(right)
                return self.w.op(f"{op} i1 {a}, {b}")
        return self.w.op(f"icmp ne i64 {self.value(expr)}, 0")

    def _binary(self, expr: ir.Binary) -> str:
        op, left, right = expr.op, expr.left, expr.right
        if op in COMPARISONS:
            return self.w.bool(self.test(expr))
        a, b = self.value(left), self.value(right)
        if op in EXACT:
            return ops.exact(self.w, op, a, b, left.type, right.type, expr.type)
        if op in MODULO:
            return self.w.op(f"{MODULO[op]} i64 {a}, {b}")
        if op in DIVISIONS:
            return ops.divide(self.w, DIVISIONS[op], a, b, left.type, right.type)
        if op == "shr":
            return self.w.op(f"{'ashr' if left.type.signed else 'lshr'} i64 {a}, {b}")
        if op in ("min", "max"):
            return ops.extreme(self.w, op, a, b, left.type, right.type)
        return self.w.op(f"{op} i64 {a}, {b}")

    def _cond(self, expr: ir.Cond) -> str:
        if plain(expr):
            return self._logic(expr)
        test = self.test(expr.test)
        if immediate(expr.then) and immediate(expr.orelse):
            then, orelse = self.value(expr.then), self.value(expr.orelse)
            return self.w.op(f"select i1 {test}, i64 {then}, i64 {orelse}")
        labels = self.w.label(), self.w.label()
        end = self.w.label()
        orelse_calls = set(certain(expr.orelse))
        for call in certain(expr.then):
            if call in orelse_calls:
                self._called(call)
        self.w.branch(test, *labels)
        incoming = []
        for label, arm in zip(labels, (expr.then, expr.orelse), strict=True):
            self.w.start(label)
            self.known.append({})
            value = self.value(arm)
            self.known.pop()
            incoming.append(f"[ {value}, %{self.w.block} ]")
            self.w.jump(end)
        self.w.start(end)
        return self.w.op(f"phi i64 {', '.join(incoming)}")

    def _logic(self, expr: ir.Cond) -> str:
        """A condition of bits that are at hand: and, or; no branch to foretell."""
        test, then, orelse = (self.value(part) for part in (expr.test, expr.then, expr.orelse))
        if orelse == "0":
            return self.w.op(f"and i64 {test}, {then}")
        if then == "1":
            return self.w.op(f"or i64 {test}, {orelse}")
        return self.w.op(f"select i1 {self.w.op(f'icmp ne i64 {test}, 0')}, i64 {then}, i64 {orelse}")

    def _load(self, expr: ir.Load) -> str:
        slot = self.unit.slots[expr.slot]
        place = self._address(slot, expr.index)
        kind = f"i{8 * slot.size}"
        value = self.w.op(f"load {kind}, ptr {place}, align {slot.size}{self.unit.notes(slot)[0]}")
        if slot.size == 8:
            return value
        return self.w.op(f"{'sext' if slot.type.signed else 'zext'} {kind} {value} to i64")

    def _address(self, slot: ir.Slot, index: tuple[ir.Expr, ...]) -> str:
        offset, moving = slot.offset, None
        for expr, (_, stride) in zip(index, slot.dims, strict=True):
            if isinstance(expr, ir.Const):
                offset += expr.value * stride
                continue
            step = self.w.op(f"mul nuw nsw i64 {self.value(expr)}, {stride}")
            moving = step if moving is None else self.w.op(f"add nuw nsw i64 {moving}, {step}")
        base = "%s"
        if moving is not None:
            base = self.w.op(f"getelementptr inbounds nuw i8, ptr %s, i64 {moving}")
        return self.w.op(f"getelementptr inbounds nuw i8, ptr {base}, i64 {offset}")

    def _call(self, call: ir.Call) -> str:
        callee = self.unit.functions[call.function]
        self.unit.calls.setdefault(self.function.name, Counter())[callee.name] += 1
        if callee.name in self.unit.writers:
            self.unit.writers.add(self.function.name)
        args = ["ptr %s", f"i64 {'%now' if call.now is None else self.value(call.now)}"]
        for arg, (_, kind) in zip(call.args, callee.params, strict=True):
            operand = self.value(arg)
            if _type(callee, kind) == "i32":
                operand = self.w.op(f"trunc nuw i64 {operand} to i32")
            args.append(f"{_type(callee, kind)} {operand}")
        after_read = callee.name == COMMIT and self.function.result is not None
        if callee.name == SETTLE or after_read:
            self.unit.rarely.setdefault(callee.name, set()).add(self.function.name)
            name = self.unit.rare_name(callee.name)
            self.w.do(f"call {self.unit.convention}void {name}({', '.join(args)}) cold")
            return "0"
        target = f'@"{symbol(self.unit.module, callee)}"({", ".join(args)})\0{callee.name}\0'
        if callee.result is None:
            self.w.do(f"call void {target}")
            return "0"
        value = self.w.op(f"call {_type(callee, callee.result)} {target}")
        return self.w.op(f"zext i32 {value} to i64") if _type(callee, callee.result) == "i32" else value
