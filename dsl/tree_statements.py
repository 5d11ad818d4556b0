"""The syntax tree's nodes of statements (dsl/tree.py has the rest)."""

from __future__ import annotations

from typing import Union

from .tree_expressions import Expr, Ident, Node, Pattern, Type, node


@node
class LetStmt(Node):
    name: Ident
    type: Type | None
    value: Expr


@node
class Assign(Node):
    target: Expr
    value: Expr


@node
class Fill(Node):
    """Fill a latch if it is empty."""

    target: Expr
    value: Expr


@node
class Drop(Node):
    target: Expr


@node
class Arm(Node):
    target: Expr
    ticks: Expr


@node
class Disarm(Node):
    target: Expr


@node
class ReturnStmt(Node):
    value: Expr


@node
class PassStmt(Node):
    pass


@node
class CallStmt(Node):
    function: Expr
    args: tuple[Expr, ...]


@node
class StepStmt(Node):
    target: Expr


@node
class StoreStmt(Node):
    """In a register's write: the fields take what is written."""


@node
class Pulse(Node):
    """A raise and a lower of a line, at one instant; `count` of them."""

    line: Expr
    count: Expr | None


@node
class IfStmt(Node):
    test: Expr
    then: Suite
    orelse: Suite


@node
class StmtCase(Node):
    patterns: tuple[Pattern, ...]
    body: Suite


@node
class MatchStmt(Node):
    subject: Expr
    cases: tuple[StmtCase, ...]


@node
class ForStmt(Node):
    """Unrolled over a declared array of blocks."""

    name: Ident
    over: Ident
    where: Expr | None
    body: Suite


Stmt = Union[
    LetStmt, Assign, Fill, Drop, Arm, Disarm, ReturnStmt, PassStmt, CallStmt, StepStmt, StoreStmt,
    Pulse, IfStmt,
    MatchStmt, ForStmt,
]  # fmt: skip
Suite = tuple[Stmt, ...]
