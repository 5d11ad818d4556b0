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
from .scope import ConstDef, Context, EnumDef, LocalDef, Scope, Value, show

if TYPE_CHECKING:
    from .elaborate import Unit

NEGATED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Branches:
    """Cases and conditions of one device's matches and branches."""

    def __init__(self, unit: Unit):
        self.unit = unit

    def cases(
        self, subject: Value, patterns: list[tuple[t.Pattern, ...]], ctx: Context, span: Span
    ) -> list[tuple[tuple[int, ...] | None, Context]]:
        """For each case the values it takes (None: all that are left) and its context.

        Every value of the subject has exactly one case (E303).
        """
        left, result = _Remaining(subject.type), []
        for group in patterns:
            inner, values, rest = ctx.inner(), [], False
            for pattern in group:
                if left.empty:
                    raise Reject("E303", "the cases above take every value already", pattern.span)
                chosen = self._pattern(pattern, subject, inner, left)
                rest = rest or chosen is None
                values += chosen or []
            known = left.range if rest else ir.Range(min(values), max(values))
            result.append((None if rest else tuple(values), inner.knowing({subject.expr: known})))
            left.take(None if rest else values)
        if not left.empty:
            missing = self._spoken(subject, left.range.lo)
            raise Reject("E303", f"no case takes {missing}", span, "add it, or '_ -> ...' for all others")
        return result

    def _pattern(
        self, pattern: t.Pattern, subject: Value, inner: Context, left: _Remaining
    ) -> list[int] | None:
        if isinstance(pattern, t.AnyPattern):
            return None
        if isinstance(pattern, t.RangePattern):
            if pattern.hi - pattern.lo > 256 or pattern.hi < pattern.lo:
                raise Reject("E303", "a case takes a range of 1 to 256 values", pattern.span)
            values = list(range(pattern.lo, pattern.hi + 1))
        else:
            member = self._member_value(pattern.name, subject, inner.scope)
            if member is None:
                local = replace(subject, expr=ir.Narrow(subject.expr, left.range))
                inner.scope.define(LocalDef(pattern.name, pattern.span, local))
                return None
            values = [member]
        fresh = [v for v in values if left.has(v)]
        if not fresh:
            raise Reject(
                "E303",
                f"the subject is never {self._spoken(subject, values[0])} here",
                pattern.span,
                f"it is {show(subject.type)}, less the cases above",
            )
        return fresh

    @staticmethod
    def _member_value(name: str, subject: Value, scope: Scope) -> int | None:
        if isinstance(subject.nominal, EnumDef):
            return subject.nominal.members.get(name)
        inside: Scope | None = scope
        while inside is not None:
            found = inside.names.get(name)
            if isinstance(found, ConstDef) and isinstance(found.value.expr, ir.Const):
                inside.used.add(name)
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
            case t.Member() if holds:
                values = [self.unit.expr.value(c, ctx).type for c in node.choices]
                known = ir.Range(min(v.lo for v in values), max(v.hi for v in values))
                return {self.unit.expr.value(node.value, ctx).expr: known}
        return {}

    def _comparison_facts(self, node: t.Binary, ctx: Context, holds: bool) -> dict[ir.Expr, ir.Range]:
        left, right = self.unit.expr.value(node.left, ctx).expr, self.unit.expr.value(node.right, ctx).expr
        op = node.op if holds else NEGATED[node.op]
        found: dict[ir.Expr, ir.Range] = {}
        for subject, relation, other in ((left, op, right.type), (right, MIRRORED[op], left.type)):
            known = _bounded(subject.type, relation, other)
            if not isinstance(subject, ir.Const) and known.lo <= known.hi:
                found[subject] = known
        return found


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
