"""What branches say: the values each case of a match takes, and what a condition's
outcome says about the values in it.

So `m - 4 if m > 5 else m` has the range it looks like having.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import ir
from .entities import ConstDef, EnumDef, LocalDef, Value, show
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit

NEGATED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

MOST_OF_RANGE = 256
"""Values of one pattern."""


class Branches:
    """Cases and conditions of one device's matches and branches."""

    def __init__(self, unit: Unit):
        self.unit = unit

    def cases(
        self,
        subject: Value,
        patterns: list[tuple[t.Pattern, ...]],
        ctx: Context,
        span: Span,
        source: ir.Expr | None = None,
    ) -> list[tuple[tuple[int, ...] | None, Context]]:
        """For each case the values it takes (None: all that are left) and its context.

        Every value of the subject has exactly one case (E303). `source` is the
        expression that the subject was copied from.
        """
        left, result = _Remaining(subject.type), []
        for group in patterns:
            self.unit.budget.step(span)
            inner = ctx.inner()
            values: list[int] = []
            rest = False
            for pattern in group:
                if left.empty or rest:
                    raise Reject("E303", "the cases above take every value already", pattern.span,
                                 "remove this case")  # fmt: skip
                chosen = self._pattern(pattern, subject, inner, left, values)
                rest = chosen is None
                values += chosen or []
            self.unit.warn_unused(inner.scope)
            known = left.range if rest else ir.Range(min(values), max(values))
            facts = {bare(expr): known for expr in (subject.expr, source) if expr is not None}
            result.append((None if rest else tuple(values), inner.knowing(facts)))
            left.take(None if rest else values)
        if not left.empty:
            missing = self._spoken(subject, left.range.lo)
            raise Reject("E303", f"no case takes {missing}", span, "add it, or '_ -> ...' for all others")
        return result

    def _pattern(
        self, pattern: t.Pattern, subject: Value, inner: Context, left: _Remaining, group: list[int]
    ) -> list[int] | None:
        """The values that a pattern takes, all of them possible and new; None for all others."""
        if isinstance(pattern, t.AnyPattern):
            return None
        if isinstance(pattern, t.RangePattern):
            if not 0 <= pattern.hi - pattern.lo < MOST_OF_RANGE:
                raise Reject("E303", f"a case takes a range of 1 to {MOST_OF_RANGE} values", pattern.span,
                             "write it LOW..HIGH; '_' takes all other values")  # fmt: skip
            values = list(range(pattern.lo, pattern.hi + 1))
        else:
            member = self._member_value(pattern.name, subject, inner.scope)
            if member is None:
                local = replace(subject, expr=ir.Narrow(subject.expr, left.range))
                inner.scope.define(LocalDef(pattern.name, pattern.span, local))
                return None
            values = [member]
        for value in values:
            if not left.has(value) or value in group:
                spoken = self._spoken(subject, value)
                twice = value in left.taken or value in group
                why = f"{spoken} has a case already" if twice else f"the subject is never {spoken} here"
                raise Reject("E303", why, pattern.span, f"it is {show(subject.type)}, less the cases above")
        return values

    @staticmethod
    def _member_value(name: str, subject: Value, scope: Scope) -> int | None:
        if isinstance(subject.nominal, EnumDef):
            return subject.nominal.members.get(name)
        inside: Scope | None = scope
        while inside is not None:
            found = inside.names.get(name)
            if isinstance(found, ConstDef) and isinstance(found.value.expr, ir.Const):
                inside.use(name)
                return found.value.expr.value
            inside = inside.parent
        return None

    @staticmethod
    def _spoken(subject: Value, value: int) -> str:
        if isinstance(subject.nominal, EnumDef):
            return next((f"'{n}'" for n, v in subject.nominal.members.items() if v == value), str(value))
        return str(value)

    def facts(self, node: t.Expr, ctx: Context, holds: bool) -> dict[ir.Expr, ir.Range]:
        """The ranges that values in a condition have when it `holds` (or does not)."""
        match node:
            case t.Not():
                return self.facts(node.operand, ctx, not holds)
            case t.Binary(op="and" | "or") if (node.op == "and") == holds:
                left = self.facts(node.left, ctx, holds)
                return {**left, **self.facts(node.right, ctx.knowing(left), holds)}
            case t.Binary() if node.op in MIRRORED:
                return self._comparison_facts(node, ctx, holds)
            case t.Name() | t.Attribute() | t.Index():
                latch = self.unit.refs.latch(node, ctx)
                if latch is not None:
                    return {ir.Load(latch.entity.full, latch.place, ir.BOOL): ir.Range(holds, holds)}
            case t.Member() if holds:
                pairs = [self.unit.expr.pair(node.value, choice, ctx) for choice in node.choices]
                kinds = [other.type for _, other in pairs]
                known = ir.Range(min(k.lo for k in kinds), max(k.hi for k in kinds))
                return {bare(pairs[0][0].expr): known}
        return {}

    def _comparison_facts(self, node: t.Binary, ctx: Context, holds: bool) -> dict[ir.Expr, ir.Range]:
        left, right = (side.expr for side in self.unit.expr.pair(node.left, node.right, ctx))
        op = node.op if holds else NEGATED[node.op]
        found: dict[ir.Expr, ir.Range] = {}
        for subject, relation, other in ((left, op, right.type), (right, MIRRORED[op], left.type)):
            known = _bounded(subject.type, relation, other)
            if not isinstance(subject, ir.Const) and known.lo <= known.hi:
                found[bare(subject)] = known
        return found


def bare(expr: ir.Expr) -> ir.Expr:
    """The expression, without what is already known of it: as facts are kept."""
    while isinstance(expr, ir.Narrow):
        expr = expr.operand
    return expr


class _Remaining:
    """The values of a subject that no case has taken yet; it may be wide."""

    def __init__(self, whole: ir.Range):
        self.range = whole
        self.taken: set[int] = set()

    @property
    def empty(self) -> bool:
        return self.range.lo > self.range.hi

    def has(self, value: int) -> bool:
        return self.range.lo <= value <= self.range.hi and value not in self.taken

    def take(self, values: list[int] | None) -> None:
        if values is None:
            self.range = ir.Range(1, 0)
            return
        self.taken |= set(values)
        lo, hi = self.range.lo, self.range.hi
        while lo <= hi and lo in self.taken:
            lo += 1
        while hi >= lo and hi in self.taken:
            hi -= 1
        self.range = ir.Range(lo, hi)


def _bounded(subject: ir.Range, relation: str, other: ir.Range) -> ir.Range:
    lo, hi = subject.lo, subject.hi
    match relation:
        case "==":
            return ir.Range(max(lo, other.lo), min(hi, other.hi))
        case "!=" if other.lo == other.hi:
            return ir.Range(lo + (other.lo == lo), hi - (other.lo == hi))
        case "<":
            return ir.Range(lo, min(hi, other.hi - 1))
        case "<=":
            return ir.Range(lo, min(hi, other.hi))
        case ">":
            return ir.Range(max(lo, other.lo + 1), hi)
        case ">=":
            return ir.Range(max(lo, other.lo), hi)
    return subject
