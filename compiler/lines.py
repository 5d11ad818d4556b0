"""Output lines: who drives them, their levels, and their edges.

A line's level is an equation over stored state and at most one wave. Lines of
an array may be driven from several places (a timer routed to an input); such a
line is high while any of its drivers is. A line that carries a message has
pulses only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import arithmetic as a
from . import ir, timing
from .analysis import Replace, TooLarge
from .entities import LineDef, Ref, WaveDef, number_of
from .loops import for_each, repeat
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit

LEVELS = 32
"""Lines with a level: one bit each of the header's `lines`."""
MOST = 64
POLICIES = ("delay", "catchup", "merge", "discard")


@dataclass
class Drive:
    """One driver of a line: its level as a function; with a wave in it, the level for each of the wave's."""

    line: LineDef
    scope: Scope
    index: ir.Expr  # of the line within its array, per element of the scope
    function: str
    low: ir.Expr = a.FALSE
    high: ir.Expr = a.FALSE
    wave: ir.Call | None = None

    @property
    def with_wave(self) -> ir.Expr:
        """BOOL: the line follows the wave."""
        return a.both(a.negate(self.low), self.high)

    @property
    def against_wave(self) -> ir.Expr:
        return a.both(self.low, a.negate(self.high))


class Lines:
    """Elaborates the lines of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.lines: list[LineDef] = []
        self.drives: list[Drive] = []
        self._numbers = itertools.count()

    @property
    def count(self) -> int:
        """Elements of `rises`."""
        return max((line.bit + line.size for line in self.lines), default=0)

    # --- declarations ------------------------------------------------------------

    def declare(self, tree: t.Line, scope: Scope) -> None:
        size = tree.count or 1
        if not 1 <= size <= LEVELS:
            raise Reject("E502", f"an array of lines has 1 to {LEVELS}", tree.span)
        if tree.missed is not None and tree.missed.policy.text not in POLICIES:
            raise Reject("E103", f"'{tree.missed.policy.text}' is no policy for missed ticks",
                         tree.missed.policy.span, f"choose from {', '.join(POLICIES)}")  # fmt: skip
        pulses = bool(tree.carries)
        taken = [line.bit + line.size for line in self.lines if (line.bit >= LEVELS) == pulses]
        bit = max(taken, default=LEVELS if pulses else 0)
        if bit + size > (MOST if pulses else LEVELS):
            raise Reject(
                "E502",
                f"a device has at most {LEVELS} lines, and {MOST - LEVELS} that carry messages",
                tree.span,
            )
        line = LineDef(tree.name.text, tree.name.span, bit, tree.doc, tree.count, tree)
        scope.define(line)
        self.lines.append(line)

    def described(self) -> tuple[ir.Line, ...]:
        """Every line of the module, one an element; places that have none are named ''."""
        found = {line.bit + i: self._described(line, i) for line in self.lines for i in range(line.size)}
        return tuple(found.get(i, ir.Line("")) for i in range(self.count))

    def _described(self, line: LineDef, element: int) -> ir.Line:
        name = line.name if line.count is None else f"{line.name}[{element}]"
        missed = line.tree.missed
        carries = []
        for node in line.tree.carries:
            inner = Context(self.unit.scope, ()).inner()
            if line.tree.index is not None:
                inner.scope.define_local(line.tree.index, ir.Const(element))
            spelled, slot, index = self.unit.pythons.stored(node, inner, "what a message carries")
            carries.append((spelled.rpartition(".")[2], slot, index))
        policy, minimum = (missed.policy.text, missed.minimum) if missed else ("", 0)
        return ir.Line(name, line.doc, policy, minimum, tuple(carries))

    def resolve(self, node: t.Expr, scope: Scope, where: Context | None = None) -> tuple[LineDef, ir.Expr]:
        """The line that a reference names: its array, and the index within it."""
        ctx = where or Context(scope, scope.place)
        base = node.base if isinstance(node, t.Index) else node
        found = self.unit.refs.resolve(base, ctx)
        line = found.entity if isinstance(found, Ref) else None
        if not isinstance(line, LineDef):
            raise Reject("E103", "a line is needed here", node.span)
        if (line.count is not None) != isinstance(node, t.Index):
            hint = f"{line.name}[...]" if line.count is not None else line.name
            raise Reject(
                "E103",
                "say which line of the array" if line.count else "this is one line, no array",
                node.span,
                hint,
            )
        if not isinstance(node, t.Index):
            return line, a.FALSE
        return line, self.unit.refs.bounded(node.index, ctx, line.size, line.name)

    def drive(self, tree: t.Drive, scope: Scope) -> None:
        """Add a driver (E501 if time comes into it in any other way than one wave)."""
        line, index = self._driven(tree.line, scope)
        if line.bit >= LEVELS:
            raise Reject("E502", f"'{line.name}' carries messages, so it has pulses and no level", tree.span,
                         f"pulse {line.name}[...] in an event")  # fmt: skip
        if line.driver is not None and line.count is None:
            raise Reject("E502", f"line '{line.name}' is driven already, in line {line.driver.span.line}",
                         tree.span, "one equation drives a line; join them with 'or'")  # fmt: skip
        line.driver = tree
        ctx = Context(scope, scope.place)
        if index is not None:
            self._drive(Drive(line, scope, index, ""), self.unit.expr.truth(tree.value, ctx), tree)
            return
        number = self.unit.expr.value(tree.value, ctx)
        if number.width != line.size:
            exact = number_of(number.width, "bit") if number.width else "no exact width"
            raise Reject(
                "E205",
                f"'{line.name}' has {line.size} lines, and this has {exact}",
                tree.value.span,
                f"drive one of them, {line.name}[...], or all by a number of {line.size} bits",
            )
        for bit in range(line.size):
            value = a.wrap(a.binary("shr", number.expr, ir.Const(bit)), 1)
            self._drive(Drive(line, scope, ir.Const(bit), ""), value, tree)

    def _driven(self, node: t.Expr, scope: Scope) -> tuple[LineDef, ir.Expr | None]:
        """The line that is driven; without an index, a whole array: a number's bits are its levels."""
        if isinstance(node, t.Name):
            found = self.unit.refs.resolve(node, Context(scope, scope.place))
            line = found.entity if isinstance(found, Ref) else None
            if isinstance(line, LineDef) and line.count is not None:
                return line, None
        return self.resolve(node, scope)

    def _drive(self, drive: Drive, value: ir.Expr, tree: t.Drive) -> None:
        scope = drive.scope
        drive.function = f"{scope.prefix}drive.{next(self._numbers)}"
        self.unit.function(drive.function, scope.parameters, ir.BOOL, [ir.Return(value)])
        self._split(drive, value, tree)
        self.drives.append(drive)

    def _split(self, drive: Drive, value: ir.Expr, tree: t.Drive) -> None:
        analysis = self.unit.analysis
        waves: set[ir.Call] = set()

        def collect(node: ir.Expr) -> ir.Expr | None:
            if isinstance(node, ir.Call) and node.function.removesuffix(".level") in self.unit.waves:
                waves.add(node)
                return node
            return None

        whole = self._inlined(value, collect, tree.value.span)
        if len(waves) > 1:
            raise Reject("E501", f"line '{drive.line.name}' depends on several waves", tree.value.span,
                         "give each wave a line of its own, and join them on the board")  # fmt: skip
        wave = next(iter(waves), None)
        if wave is not None and (drive.line.count is not None or drive.scope.index is not None):
            raise Reject("E501", "a wave drives a line of its own, not one of an array", tree.value.span,
                         "declare a line for it")  # fmt: skip

        def given(level: int) -> ir.Expr:
            constant = ir.Const(level)
            return self._inlined(
                whole, lambda node: constant if wave and node == wave else None, tree.value.span
            )

        drive.low, drive.high, drive.wave = given(0), given(1), wave
        for part in (drive.low, drive.high):
            if analysis.of_expr(part).time:
                raise Reject(
                    "E501",
                    f"line '{drive.line.name}' changes with time, but not by a wave",
                    tree.value.span,
                    "say its shape with 'wave', or set a state in an event",
                )

    def _inlined(self, expr: ir.Expr, replace: Replace, span: Span) -> ir.Expr:
        """The expression with the equations that it uses put in place."""
        try:
            found = self.unit.analysis.inline(expr, replace)
        except TooLarge:
            raise Reject("E003", "the equations behind this line are too large together", span,
                         "store part of it in a state that events set") from None  # fmt: skip
        self.unit.budget.size(found, span)
        return found

    def check(self) -> None:
        """Every line has a driver, or carries messages, or is pulsed."""
        for line in self.lines:
            self.unit.attempt(partial(self._check, line))

    def _check(self, line: LineDef) -> None:
        for element in range(line.size):
            self._described(line, element)
        if line.driver is None and line.bit < LEVELS and not line.pulsed:
            raise Reject("E502", f"nothing drives line '{line.name}'", line.span,
                         f"drive {line.name}{'[...]' if line.count else ''} = ...")  # fmt: skip

    # --- functions ------------------------------------------------------------------

    def build_levels(self) -> None:
        """`levels`: the line bits at Now."""
        total = ir.Var("total", ir.U32)
        out: list[ir.Stmt] = [ir.Let("total", a.FALSE)]
        for number, drive in enumerate(self.drives):

            def one(place: tuple[ir.Expr, ...], tag: str, drive: Drive = drive) -> list[ir.Stmt]:
                level = ir.Call(drive.function, place, ir.BOOL)
                index = self.at(drive, place)
                shifted = a.wrap(a.binary("shl", level, a.add(ir.Const(drive.line.bit), index)), LEVELS)
                return [ir.Let("total", a.binary("or", total, shifted))]

            out += for_each(drive.scope, f"drive{number}", one)
        self.unit.function("levels", (), ir.U32, [*out, ir.Return(total)], exported=True)

    def at(self, drive: Drive, place: tuple[ir.Expr, ...]) -> ir.Expr:
        """The driver's index within its array, for an element of its block array."""
        if isinstance(drive.index, ir.Const):
            return drive.index
        function = f"{drive.function}.at"
        if function not in self.unit.functions:
            self.unit.function(function, drive.scope.parameters, drive.index.type, [ir.Return(drive.index)])
        return ir.Call(function, place, drive.index.type)

    def next_edges(self) -> list[ir.Expr]:
        """The instants at which lines next change by a wave."""
        found = []
        for drive in self.drives:
            if drive.wave is not None:
                wave = self.wave(drive.wave)
                edge = self.unit.functions[f"{wave.function}.edge"]
                assert edge.result is not None
                tick = ir.Call(edge.name, drive.wave.args, edge.result)
                seen = a.either(drive.with_wave, drive.against_wave)
                found.append(a.cond(seen, timing.nanos(tick, wave.counter.clock), ir.Const(ir.NEVER)))
        return found

    def wave(self, level: ir.Call) -> WaveDef:
        return self.unit.waves[level.function.removesuffix(".level")]

    def count_edges(self) -> list[ir.Stmt]:
        """Add the rises between `settled` and Now, while no state changed."""
        out: list[ir.Stmt] = []
        since = ir.Load("settled", (), ir.U64)
        for number, drive in enumerate(self.drives):
            if drive.wave is None:
                continue
            wave = self.wave(drive.wave)
            now = timing.counter_value(wave.counter, drive.wave.args)
            later, count = ir.Var(f"later{number}", now.type), ir.Var(f"count{number}", ir.U32)
            # the callee's Now is `settled`; its argument is the counter at ours
            rises, falls = (
                ir.Call(f"{wave.function}.{name}", (*drive.wave.args, later), ir.U32, since)
                for name in ("rises", "falls")
            )
            out += [
                ir.Let(later.name, now),
                ir.Let(count.name, a.FALSE),
                ir.If(drive.with_wave, (ir.Let(count.name, rises),)),
                ir.If(drive.against_wave, (ir.Let(count.name, falls),)),
                ir.If(
                    a.binary("ne", count, a.FALSE),
                    (add_rises(ir.Const(drive.line.bit), count), attention(ir.ATTENTION_LINES)),
                ),
            ]
        return out

    def clear_rises(self) -> list[ir.Stmt]:
        if not self.lines:
            return []
        return repeat(self.count, "rises", lambda bit: [ir.Store("rises", (bit,), a.FALSE)])

    def store_levels(self, count: bool) -> list[ir.Stmt]:
        """Levels at Now; with `count`, a line that rose is one more rise."""
        if not self.drives:
            return []
        levels, lines = ir.Var("levels", ir.U32), ir.Load("lines", (), ir.U32)
        changed = self._count_rises(levels, lines) if count else []
        return [
            ir.Let("levels", self.unit.call("levels", ir.U32)),
            ir.If(
                a.binary("ne", levels, lines),
                (*changed, ir.Store("lines", (), levels), attention(ir.ATTENTION_LINES)),
            ),
        ]

    def _count_rises(self, levels: ir.Expr, lines: ir.Expr) -> list[ir.Stmt]:
        rose = ir.Var("rose", ir.U32)
        out: list[ir.Stmt] = [
            ir.Let("rose", a.binary("and", levels, a.binary("xor", lines, ir.Const(2**LEVELS - 1))))
        ]
        bits = sorted({line.bit + i for line in self.lines if line.bit < LEVELS for i in range(line.size)})

        def one(bit: ir.Expr) -> list[ir.Stmt]:
            return [ir.If(a.wrap(a.binary("shr", rose, bit), 1), (add_rises(bit, a.TRUE),))]

        if len(bits) > 4:
            return [*out, *repeat(len(bits), "line", one)]
        return [*out, *(statement for bit in bits for statement in one(ir.Const(bit)))]


def add_rises(bit: ir.Expr, count: ir.Expr) -> ir.Stmt:
    """Line `bit` rose `count` times."""
    total = a.binary("addw", ir.Load("rises", (bit,), ir.U32), count)
    return ir.Store("rises", (bit,), a.wrap(total, 32))


def attention(bits: int) -> ir.Stmt:
    flagged = a.binary("or", ir.Load("attention", (), ir.U32), ir.Const(bits))
    return ir.Store("attention", (), flagged)
