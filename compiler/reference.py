"""The reference engine: a module's functions as Python functions on exact integers.

It is the oracle of the other engines, and the proof at run time of what the
verifier takes on trust: with `checked`, every value that an interval was
computed for (and every `Narrow`) is compared with its declared range, and
`ReferenceFault` names the function and the expression that left it. Ticks and
Nanos are computed on big integers, without the splitting of the other engines.

The state is a bytearray of exactly `module.size` bytes in the host's byte
order, so it can be compared with a native one byte for byte. Each function
becomes one Python function; slots are elements of `memoryview`s cast to the
slots' sizes, which is the fastest access that CPython has (a third of
`struct`'s time).

Non-goals: arguments out of their declared ranges (runtime/instance.py masks).
"""

from __future__ import annotations

import ast
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .image import slot_code
from .ir import (
    BOOL,
    NEVER,
    SECOND,
    Binary,
    BinaryOp,
    Block,
    Break,
    Call,
    Cond,
    Const,
    Do,
    Expr,
    Function,
    If,
    Let,
    Load,
    Module,
    Nanos,
    Narrow,
    Not,
    Now,
    Repeat,
    Return,
    Stmt,
    Store,
    Switch,
    Ticks,
    Var,
    elements,
)
from .show import show, show_range


class ReferenceFault(Exception):
    """A value left its declared range: the compiler's interval analysis is wrong."""


Functions = Mapping[str, Callable[..., int]]
"""By IR name; each takes `now` and the function's parameters."""

_CACHED = 32
_programs: OrderedDict[tuple[int, bool], Reference] = OrderedDict()


def reference(module: Module, checked: bool = True) -> Reference:
    """The module's translation, made once for each module object."""
    key = id(module), checked
    program = _programs.get(key)
    if program is None:
        program = _programs[key] = Reference(module, checked)
        while len(_programs) > _CACHED:
            _programs.popitem(last=False)
    return program


class Reference:
    """A verified module, translated to Python. `bind` gives functions over a state."""

    def __init__(self, module: Module, checked: bool = True) -> None:
        self.module = module
        self.checked = checked
        self._faults: list[tuple[str, Expr]] = []
        self._tables: list[dict[int, int]] = []
        names = {function.name: f"f{number}" for number, function in enumerate(module.functions)}
        made: _Lines = [self.translate(function, names) for function in module.functions]
        exports = ", ".join(f"{function.name!r}: {names[function.name]}" for function in module.functions)
        tables = [f"d{number} = tables[{number}]" for number in range(len(self._tables))]
        body = [*tables, *made, f"return {{{exports}}}"]
        lines: _Lines = [("def bind(B, H, I, Q, b, h, i, q, tables, fault):", body, [])]
        self._lines = lines
        namespace: dict[str, Any] = {}
        tree = ast.Module(_parse(lines), [])
        exec(compile(tree, f"<reference engine of {module.name}>", "exec"), namespace)
        self._bind: Callable[..., Functions] = namespace["bind"]

    def translate(self, function: Function, names: dict[str, str]) -> _Line:
        """One function's definition; a tool that watches the engine at work has its own."""
        return Translation(self, function, names).definition()

    @property
    def source(self) -> str:
        """The Python source, for reading."""
        return "\n".join(_render(self._lines, "")) + "\n"

    def bind(self, state: bytearray) -> Functions:
        """The functions over one state, which stays `module.size` bytes long."""
        if len(state) != self.module.size:
            raise ValueError(
                f"the state of {self.module.name} has {self.module.size} bytes, not {len(state)}"
            )
        return self._bind(*(_view(state, code) for code in "BHIQbhiq"), self._tables, self._fault)

    def check_state(self, state: bytearray) -> None:
        """`ReferenceFault` if a slot holds what its type excludes."""
        for slot in self.module.slots:
            view = _view(state, slot_code(slot))
            for index, offset in elements(slot):
                value = view[offset // slot.size]
                if not slot.type.lo <= value <= slot.type.hi:
                    place = slot.name + "".join(f"[{i}]" for i in index)
                    allowed = show_range(slot.type)
                    raise ReferenceFault(f"{self.module.name}: slot {place} holds {value}, outside {allowed}")

    def fault_number(self, function: str, expr: Expr) -> int:
        self._faults.append((function, expr))
        return len(self._faults) - 1

    def table(self, numbers: dict[int, int]) -> str:
        self._tables.append(numbers)
        return f"d{len(self._tables) - 1}"

    def _fault(self, number: int, value: int) -> NoReturn:
        function, expr = self._faults[number]
        found = f"{show(expr)} is {value}, outside {show_range(expr.type)}"
        raise ReferenceFault(f"{self.module.name}: function {function}: {found}")


def _view(state: bytearray, code: str) -> Any:
    return memoryview(state).cast(code)  # type: ignore[call-overload]  # any of BHIQbhiq


# --- lines of Python -----------------------------------------------------------
# A simple statement, or a header with its block and its `else`. They become a
# syntax tree piece by piece, as CPython's own parser limits how deep text nests.

_Line = str | tuple[str, list[Any], list[Any]]
_Lines = list[_Line]


def _parse(lines: _Lines) -> list[ast.stmt]:
    made: list[ast.stmt] = []
    run: list[str] = []
    for line in lines:
        if isinstance(line, str):
            run.append(line)
            continue
        made += ast.parse("\n".join(run)).body
        run = []
        header, body, orelse = line
        node: Any = ast.parse(f"{header} pass").body[0]
        node.body = _parse(body) or node.body
        if orelse:
            node.orelse = _parse(orelse)
        made.append(node)
    return made + ast.parse("\n".join(run)).body


def _render(lines: _Lines, indent: str) -> list[str]:
    text: list[str] = []
    for line in lines:
        if isinstance(line, str):
            text.append(indent + line)
            continue
        header, body, orelse = line
        text += [indent + header, *_render(body or ["pass"], indent + "    ")]
        if orelse:
            text += [indent + "else:", *_render(orelse, indent + "    ")]
    return text


# --- one function --------------------------------------------------------------

_WORD = 2**64 - 1

_FORMS: dict[BinaryOp, str] = {
    "add": "({} + {})",
    "sub": "({} - {})",
    "mul": "({} * {})",
    "addw": f"(({{}} + {{}}) & {_WORD})",
    "subw": f"(({{}} - {{}}) & {_WORD})",
    "mulw": f"(({{}} * {{}}) & {_WORD})",
    "div": "({} // {})",
    "mod": "({} % {})",
    "and": "({} & {})",
    "or": "({} | {})",
    "xor": "({} ^ {})",
    "shl": "({} << {})",
    "shr": "({} >> {})",
    "eq": "({} == {})",
    "ne": "({} != {})",
    "lt": "({} < {})",
    "le": "({} <= {})",
}
_CHOICES: dict[BinaryOp, str] = {"min": "({0} if {0} < {1} else {1})", "max": "({1} if {0} < {1} else {0})"}
"""Operators that name an operand twice; `min` and `max` as calls take five times as long."""

_SURE = ("addw", "subw", "mulw")
_TRUTHS = ("eq", "ne", "lt", "le")

_LONGEST = 300
"""Longer texts become locals: a parenthesis is at least 6 characters, and
CPython's parser takes 200 of them in one another."""

_FEW = 6
"""Up to this many cases a Switch is a chain of tests, beyond it a table and a tree."""


class Translation:
    """One IR function on its way to a Python function."""

    def __init__(self, program: Reference, function: Function, names: dict[str, str]) -> None:
        self.program = program
        self.function = function
        self.names = names
        self.slots = {slot.name: slot for slot in program.module.slots}
        self.locals: dict[str, str] = {}
        self.temporaries = 0
        self.lines: _Lines = []

    def definition(self) -> _Line:
        params = "".join(f", {self.local(name)}" for name, _ in self.function.params)
        return f"def {self.names[self.function.name]}(now{params}):", self.block(self.function.body), []

    def local(self, name: str) -> str:
        return self.locals.setdefault(name, f"v{len(self.locals)}")

    def temporary(self) -> str:
        self.temporaries += 1
        return f"t{self.temporaries}"

    def block(self, block: Block) -> _Lines:
        outer, self.lines = self.lines, []
        for stmt in block:
            _STATEMENTS[type(stmt)](self, stmt)
        made, self.lines = self.lines, outer
        return made

    def value(self, expr: Expr) -> str:
        """The text of an expression's value, its checks emitted before it."""
        text = _EXPRESSIONS[type(expr)](self, expr)
        if self.program.checked and self.in_doubt(expr):
            text = self.atom(text)
            number = self.program.fault_number(self.function.name, expr)
            low, high = expr.type.lo, expr.type.hi
            self.lines.append(f"if not {low} <= {text} <= {high}: fault({number}, {text})")
            return text
        return self.atom(text) if len(text) > _LONGEST else text

    def in_doubt(self, expr: Expr) -> bool:
        """Whether the value is not in its range by construction or by its operands' checks."""
        if isinstance(expr, Binary):
            return expr.op not in _SURE and not (expr.op in _TRUTHS and expr.type.contains(BOOL))
        if isinstance(expr, Load):
            slot = self.slots[expr.slot]
            return slot.type.hi - slot.type.lo + 1 < 1 << 8 * slot.size
        return isinstance(expr, Narrow | Ticks)

    def atom(self, text: str) -> str:
        """The value as a name or a number, which may be written twice."""
        if text.isalnum():
            return text
        name = self.temporary()
        self.lines.append(f"{name} = {text}")
        return name

    def apart(self, expr: Expr) -> tuple[_Lines, str]:
        """An expression that may not be evaluated here: its lines and its text."""
        outer, self.lines = self.lines, []
        text = self.value(expr)
        made, self.lines = self.lines, outer
        return made, text

    def place(self, name: str, index: tuple[Expr, ...]) -> str:
        slot = self.slots[name]
        terms = [str(slot.offset // slot.size)]
        for expr, (_, stride) in zip(index, slot.dims, strict=True):
            terms.append(f"{self.value(expr)} * {stride // slot.size}")
        return f"{slot_code(slot)}[{' + '.join(terms)}]"

    def call(self, call: Call) -> str:
        args = [self.value(arg) for arg in call.args]
        now = "now" if call.now is None else self.value(call.now)
        return f"{self.names[call.function]}({', '.join([now, *args])})"


def _number(value: int) -> str:
    return str(value) if value >= 0 else f"({value})"


def _binary(t: Translation, e: Binary) -> str:
    left, right = t.value(e.left), t.value(e.right)
    if e.op in _CHOICES:
        return _CHOICES[e.op].format(t.atom(left), t.atom(right))
    return _FORMS[e.op].format(left, right)


def _cond(t: Translation, e: Cond) -> str:
    test = t.value(e.test)
    then_lines, then = t.apart(e.then)
    orelse_lines, orelse = t.apart(e.orelse)
    if not then_lines and not orelse_lines:
        return f"({then} if {test} else {orelse})"
    name = t.temporary()
    t.lines.append((f"if {test}:", [*then_lines, f"{name} = {then}"], [*orelse_lines, f"{name} = {orelse}"]))
    return name


def _nanos(t: Translation, e: Nanos) -> str:
    exact = t.atom(f"-(-{t.value(e.ticks)} * {SECOND} // {t.value(e.hz)})")
    return f"({exact} if {exact} < {NEVER} else {NEVER})"


_EXPRESSIONS: dict[type[Any], Callable[[Translation, Any], str]] = {
    Const: lambda t, e: _number(e.value),
    Var: lambda t, e: t.local(e.name),
    Now: lambda t, e: "now",
    Load: lambda t, e: t.place(e.slot, e.index),
    Binary: _binary,
    Not: lambda t, e: f"(not {t.value(e.operand)})",
    Cond: _cond,
    Narrow: lambda t, e: t.value(e.operand),
    Ticks: lambda t, e: f"({t.value(e.ns)} * {t.value(e.hz)} // {SECOND})",
    Nanos: _nanos,
    Call: lambda t, e: t.call(e),
}


# --- statements ------------------------------------------------------------------


def _let(t: Translation, s: Let) -> None:
    t.lines.append(f"{t.local(s.name)} = {t.value(s.value)}")


def _store(t: Translation, s: Store) -> None:
    value = t.value(s.value)
    t.lines.append(f"{t.place(s.slot, s.index)} = {value}")


def _if(t: Translation, s: If) -> None:
    test = t.value(s.test)
    t.lines.append((f"if {test}:", t.block(s.then), t.block(s.orelse)))


def _switch(t: Translation, s: Switch) -> None:
    value = t.atom(t.value(s.value))
    blocks = [t.block(block) for _, block in s.cases]
    default = t.block(s.default)
    if len(blocks) <= _FEW:
        for (numbers, _), block in zip(reversed(s.cases), reversed(blocks), strict=True):
            test = f"{value} == {numbers[0]}" if len(numbers) == 1 else f"{value} in {numbers}"
            default = [(f"if {test}:", block, default)]
        t.lines += default
        return
    table = t.program.table({n: arm for arm, (numbers, _) in enumerate(s.cases) for n in numbers})
    arm = t.atom(f"{table}.get({value}, {len(blocks)})")
    t.lines += _tree(arm, [*blocks, default], 0)


def _tree(arm: str, blocks: list[_Lines], first: int) -> _Lines:
    """The block of number `arm`, counted from `first`, by halving."""
    if len(blocks) == 1:
        return blocks[0]
    half = len(blocks) // 2
    low, high = _tree(arm, blocks[:half], first), _tree(arm, blocks[half:], first + half)
    return [(f"if {arm} < {first + half}:", low, high)]


def _repeat(t: Translation, s: Repeat) -> None:
    t.lines.append((f"for _ in range({s.times}):", t.block(s.body), []))


def _return(t: Translation, s: Return) -> None:
    t.lines.append("return" if s.value is None else f"return {t.value(s.value)}")


def _break(t: Translation, _: Stmt) -> None:
    t.lines.append("break")


def _do(t: Translation, s: Do) -> None:
    t.lines.append(t.call(s.call))


_STATEMENTS: dict[type[Any], Callable[[Translation, Any], None]] = {
    Let: _let,
    Store: _store,
    If: _if,
    Switch: _switch,
    Repeat: _repeat,
    Break: _break,
    Return: _return,
    Do: _do,
}
