"""What single tokens mean: names, numbers, units, texts, and where they stand."""

from __future__ import annotations

import inspect

from lark import Token
from lark.tree import Meta

from . import tree as t
from .diagnostics import NOWHERE, Reject, Span

MAX_NUMBER = 2**64 - 1


def span_of(item: Meta | Token) -> Span:
    line = getattr(item, "line", None)
    if line is None:
        return NOWHERE
    return Span(line, item.column or 1, item.end_line or line, item.end_column or 1)


def ident(token: Token) -> t.Ident:
    return t.Ident(span_of(token), str(token))


def number(token: Token) -> int:
    try:
        value = int(token.replace("_", ""), 0) if not token.isdigit() else int(token)
    except ValueError:
        try:
            value = int(token.replace("_", ""), 10)
        except ValueError:
            raise Reject("E002", f"{token} is not a number", span_of(token)) from None
    if value > MAX_NUMBER:
        raise Reject("E204", "the number is wider than 64 bits", span_of(token))
    return value


TIME_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


def time_unit(token: Token) -> int:
    if token not in TIME_UNITS:
        raise Reject("E103", f"'{token}' is no unit of time", span_of(token), "ns, us, ms or s")
    return TIME_UNITS[token]


def text(token: Token | None) -> str:
    if token is None:
        return ""
    if token.startswith('"""'):
        return inspect.cleandoc(token[3:-3])
    return str(token[1:-1])
