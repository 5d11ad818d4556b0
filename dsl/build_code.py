"""From Lark's parse tree to the syntax tree: types, expressions, patterns, statements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lark import Token, v_args
from lark.tree import Meta
from lark.visitors import Transformer_NonRecursive

from . import tree as t
from .diagnostics import Reject
from .tokens import ident, number, span_of

MAX_DEPTH = 60
"""Of expressions and statements inside one another."""


def some(children: list[Any], kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    return tuple(c for c in children if isinstance(c, kind))


@v_args(meta=True)
class CodeBuilder(Transformer_NonRecursive[Token, t.File]):
    """Children of a method arrive already built."""

    def __init__(self) -> None:
        super().__init__()
        self.depth: dict[int, tuple[int, t.Node]] = {}  # by id; the node, so that its id stays its own

    def bounded(self, node: t.Node, *parts: object) -> Any:
        """Remember how deep a node is; refuse what is deeper than MAX_DEPTH."""
        depth = 1 + max((self.depth[id(p)][0] for p in parts if id(p) in self.depth), default=0)
        if depth > MAX_DEPTH:
            raise Reject(
                "E003", f"more than {MAX_DEPTH} levels inside one another", node.span,
                help="give parts of it names with 'let', or move them into a 'proc'",
            )  # fmt: skip
        self.depth[id(node)] = depth, node
        return node

    # types

    def named_type(self, m: Meta, c: list[Any]) -> t.Type:
        return t.NamedType(span_of(m), str(c[0]))

    def interval_type(self, m: Meta, c: list[Any]) -> t.Type:
        return t.IntervalType(span_of(m), number(c[0]), number(c[1]))

    def enum_type(self, m: Meta, c: list[Any]) -> t.Type:
        return t.EnumType(span_of(m), ident(c[0]), ident(c[1]))

    def bits(self, m: Meta, c: list[Any]) -> t.Bits:
        high = number(c[0])
        low = number(c[1]) if c[1] is not None else high
        if low > high:
            raise Reject("E205", f"bits [{high}:{low}] stand the wrong way round", span_of(m),
                         help=f"write the high bit first: [{low}:{high}]")  # fmt: skip
        return t.Bits(span_of(m), high, low)

    # expressions

    def _chain(self, m: Meta, c: list[Any]) -> t.Expr:
        """`a op b op c`, left to right; an operator may be a token or implied by the rule."""
        left = c[0]
        for op, right in zip(c[1::2], c[2::2], strict=True):
            span = left.span.to(right.span)
            left = self.bounded(t.Binary(span, str(op), left, right), left, right)
        return left  # type: ignore[no-any-return]

    def _same(self, op: str, c: list[Any]) -> t.Expr:
        left = c[0]
        for right in c[1:]:
            left = self.bounded(t.Binary(left.span.to(right.span), op, left, right), left, right)
        return left  # type: ignore[no-any-return]

    shift = sum = term = _chain

    def comparison(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._chain(m, c)

    def or_expr(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._same("or", c)

    def and_expr(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._same("and", c)

    def concat(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._same("++", c)

    def bit_or(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._same("|", c)

    def bit_xor(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._same("^", c)

    def bit_and(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._same("&", c)

    def power(self, m: Meta, c: list[Any]) -> t.Expr:
        return self._same("**", c)

    def negation(self, m: Meta, c: list[Any]) -> t.Expr:
        return self.bounded(t.Not(span_of(m), c[0]), c[0])  # type: ignore[no-any-return]

    def conditional(self, m: Meta, c: list[Any]) -> t.Expr:
        return self.bounded(t.Conditional(span_of(m), *c), *c)  # type: ignore[no-any-return]

    def member(self, m: Meta, c: list[Any]) -> t.Expr:
        return self.bounded(t.Member(span_of(m), c[0], tuple(c[1:])), *c)  # type: ignore[no-any-return]

    def brackets(self, m: Meta, c: list[Any]) -> t.Expr:
        """What they hold, marked with them; no level of its own."""
        whole = replace(c[0], span=span_of(m))
        depth, _ = self.depth.get(id(c[0]), (0, whole))
        self.depth[id(whole)] = depth, whole
        return whole  # type: ignore[no-any-return]

    def take(self, m: Meta, c: list[Any]) -> t.Expr:
        return t.Take(span_of(m), c[0])

    def step(self, m: Meta, c: list[Any]) -> t.Expr:
        return t.Step(span_of(m), c[0])

    def number(self, m: Meta, c: list[Any]) -> t.Expr:
        return t.Number(span_of(m), number(c[0]))

    def true(self, m: Meta, c: list[Any]) -> t.Expr:
        return t.Truth(span_of(m), True)

    def false(self, m: Meta, c: list[Any]) -> t.Expr:
        return t.Truth(span_of(m), False)

    def now(self, m: Meta, c: list[Any]) -> t.Expr:
        return t.NowExpr(span_of(m))

    def call(self, m: Meta, c: list[Any]) -> t.Expr:
        args = tuple(a for a in c[1:] if a is not None)
        return self.bounded(t.CallExpr(span_of(m), c[0], args), c[0], *args)  # type: ignore[no-any-return]

    def name(self, m: Meta, c: list[Any]) -> t.Expr:
        return t.Name(span_of(m), str(c[0]))

    def attribute(self, m: Meta, c: list[Any]) -> t.Expr:
        return self.bounded(t.Attribute(span_of(m), c[0], ident(c[1])), c[0])  # type: ignore[no-any-return]

    def index(self, m: Meta, c: list[Any]) -> t.Expr:
        return self.bounded(t.Index(span_of(m), *c), *c)  # type: ignore[no-any-return]

    def slice(self, m: Meta, c: list[Any]) -> t.Expr:
        return self.bounded(t.Slice(span_of(m), *c), *c)  # type: ignore[no-any-return]

    # patterns

    def patterns(self, m: Meta, c: list[Any]) -> tuple[t.Pattern, ...]:
        return tuple(c)

    def number_pattern(self, m: Meta, c: list[Any]) -> t.Pattern:
        return t.RangePattern(span_of(m), number(c[0]), number(c[0]))

    def range_pattern(self, m: Meta, c: list[Any]) -> t.Pattern:
        return t.RangePattern(span_of(m), number(c[0]), number(c[1]))

    def name_pattern(self, m: Meta, c: list[Any]) -> t.Pattern:
        return t.NamePattern(span_of(m), str(c[0]))

    def any_pattern(self, m: Meta, c: list[Any]) -> t.Pattern:
        return t.AnyPattern(span_of(m))

    def expr_case(self, m: Meta, c: list[Any]) -> t.ExprCase:
        return t.ExprCase(span_of(m), c[0], c[1])

    def match_expr(self, m: Meta, c: list[Any]) -> t.MatchExpr:
        return t.MatchExpr(span_of(m), c[0], tuple(c[1:]))

    # statements

    def stmt(self, m: Meta, c: list[Any]) -> tuple[t.Stmt, ...]:
        """Several statements of one line."""
        return tuple(c)

    def suite(self, m: Meta, c: list[Any]) -> t.Suite:
        return tuple(s for item in c for s in (item if isinstance(item, tuple) else (item,)))

    def let_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.LetStmt(span_of(m), ident(c[0]), c[1], c[2])

    def assign(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.Assign(span_of(m), c[0], c[1])

    def fill(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.Fill(span_of(m), c[0], c[1])

    def drop(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.Drop(span_of(m), c[0])

    def arm(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.Arm(span_of(m), c[0], c[1])

    def disarm(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.Disarm(span_of(m), c[0])

    def return_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.ReturnStmt(span_of(m), c[0])

    def pass_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.PassStmt(span_of(m))

    def call_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        if not isinstance(c[0], t.CallExpr):
            raise Reject("E002", "this is a value, not a statement", c[0].span,
                         help="assign it to something, or return it")  # fmt: skip
        return t.CallStmt(span_of(m), c[0].function, c[0].args)

    def store_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.StoreStmt(span_of(m))

    def pulse(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.Pulse(span_of(m), c[0], c[1])

    def step_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        return t.StepStmt(span_of(m), c[0])

    def elif_(self, m: Meta, c: list[Any]) -> t.IfStmt:
        return t.IfStmt(span_of(m), c[0], c[1], ())

    def if_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        test, then, *elifs, orelse = c
        tail: t.Suite = orelse or ()
        for branch in reversed(elifs):
            inner = t.IfStmt(branch.span, branch.test, branch.then, tail)
            tail = (self.bounded(inner, *branch.then, *tail),)
        return self.bounded(t.IfStmt(span_of(m), test, then, tail), *then, *tail)  # type: ignore[no-any-return]

    def stmt_case(self, m: Meta, c: list[Any]) -> t.StmtCase:
        return t.StmtCase(span_of(m), c[0], self.suite(m, c[1:]))

    def match_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        inner = [s for case in c[1:] for s in case.body]
        return self.bounded(t.MatchStmt(span_of(m), c[0], tuple(c[1:])), *inner)  # type: ignore[no-any-return]

    def for_stmt(self, m: Meta, c: list[Any]) -> t.Stmt:
        node = t.ForStmt(span_of(m), ident(c[0]), ident(c[1]), c[2], c[3])
        return self.bounded(node, *c[3])  # type: ignore[no-any-return]
