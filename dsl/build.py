"""From Lark's parse tree to the syntax tree: one method a rule of grammar.lark.

The walk does not recurse, and bounds the depth of what it builds, so that
everything after may recurse over the syntax tree. Here are declarations;
what may stand inside one is built in build_code.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lark import v_args
from lark.tree import Meta

from . import tree as t
from .build_code import CodeBuilder, some
from .diagnostics import Reject
from .tokens import ident, number, span_of, text, time_unit


@t.node
class Option(t.Node):
    """A word that says more of a declaration, before it is put where it belongs."""

    kind: str
    value: Any


def chosen(options: Iterable[Option]) -> dict[str, Any]:
    """Options by kind; each may be given once (E102)."""
    result: dict[str, Any] = {}
    for option in options:
        if option.kind in result:
            raise Reject("E102", f"'{option.kind}' is given twice", option.span, help="leave one of them out")
        result[option.kind] = option.value
    return result


@v_args(meta=True)
class Builder(CodeBuilder):
    """Children of a method arrive already built."""

    def clock(self, m: Meta, c: list[Any]) -> t.Clock:
        return t.Clock(span_of(m), ident(c[0]), c[1], c[2])

    def counter(self, m: Meta, c: list[Any]) -> t.Counter:
        return t.Counter(span_of(m), ident(c[0]), c[1], ident(c[2]), c[3])

    def alarm(self, m: Meta, c: list[Any]) -> t.Alarm:
        return t.Alarm(span_of(m), ident(c[0]), ident(c[1]))

    def state(self, m: Meta, c: list[Any]) -> t.State:
        count = number(c[2]) if c[2] is not None else None
        return t.State(span_of(m), ident(c[0]), c[1], count, c[3])

    def latch(self, m: Meta, c: list[Any]) -> t.Latch:
        return t.Latch(span_of(m), ident(c[0]), c[1])

    def cycle_names(self, m: Meta, c: list[Any]) -> tuple[t.Ident, ...]:
        return tuple(ident(name) for name in c)

    def cycle(self, m: Meta, c: list[Any]) -> t.Cycle:
        return t.Cycle(span_of(m), c[0], c[1])

    def line(self, m: Meta, c: list[Any]) -> t.Line:
        name, index, count, *options, doc = c
        given = chosen(options)
        return t.Line(
            span_of(m), ident(name), ident(index) if index else None, number(count) if count else None,
            given.get("carries", ()), given.get("missed"), text(doc),
        )  # fmt: skip

    def carries(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "carries", tuple(c))

    def missed(self, m: Meta, c: list[Any]) -> Option:
        policy, amount, unit = c
        minimum = number(amount) * time_unit(unit) if amount is not None else 0
        return Option(span_of(m), "missed", t.Missed(span_of(m), ident(policy), minimum))

    def drive(self, m: Meta, c: list[Any]) -> t.Drive:
        return t.Drive(span_of(m), c[0], c[1])

    def pin(self, m: Meta, c: list[Any]) -> t.Pin:
        name, count, doc = c
        return t.Pin(span_of(m), ident(name), number(count) if count else None, text(doc))

    def checkpoint(self, m: Meta, c: list[Any]) -> t.Checkpoint:
        return t.Checkpoint(span_of(m), number(c[0]), some(c, t.Upgrade))

    def upgrade(self, m: Meta, c: list[Any]) -> t.Upgrade:
        return t.Upgrade(span_of(m), number(c[0]), some(c[1:-1], t.Former), c[-1])

    def former(self, m: Meta, c: list[Any]) -> t.Former:
        slot, name, kind, default = c
        return t.Former(span_of(m), slot, ident(name) if name else None, kind, default)

    def let(self, m: Meta, c: list[Any]) -> t.Let:
        return t.Let(span_of(m), ident(c[0]), c[1], c[2])

    def phase(self, m: Meta, c: list[Any]) -> t.Phase:
        return t.Phase(span_of(m), c[0] == "high", c[1])

    def repeating(self, m: Meta, c: list[Any]) -> t.Phases:
        return t.Phases(span_of(m), some(c, t.Phase), None)

    def once(self, m: Meta, c: list[Any]) -> t.Phases:
        return t.Phases(span_of(m), some(c, t.Phase), c[-1] == "high")

    def wave_case(self, m: Meta, c: list[Any]) -> t.WaveCase:
        return t.WaveCase(span_of(m), c[0], c[1])

    def wave_match(self, m: Meta, c: list[Any]) -> tuple[t.Expr, tuple[t.WaveCase, ...]]:
        return c[0], tuple(c[1:])

    def wave(self, m: Meta, c: list[Any]) -> t.Wave:
        name, counter, body = c
        if isinstance(body, t.Phases):
            only = t.WaveCase(body.span, (t.AnyPattern(body.span),), body)
            return t.Wave(span_of(m), ident(name), ident(counter), None, (only,))
        return t.Wave(span_of(m), ident(name), ident(counter), *body)

    def argument(self, m: Meta, c: list[Any]) -> t.Argument:
        return t.Argument(span_of(m), ident(c[0]), c[1])

    def instance(self, m: Meta, c: list[Any]) -> t.Instance:
        name, index, count, block, *arguments = c
        return t.Instance(
            span_of(m), ident(name), ident(index) if index else None,
            number(count) if count else None, ident(block), some(arguments, t.Argument),
        )  # fmt: skip

    def on(self, m: Meta, c: list[Any]) -> t.On:
        event, when, body = c
        subject, target, bits = event.value
        return t.On(span_of(m), event.kind, subject, target, bits, when, body)

    # an event's value: subject, target, name of the bits

    def rises(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "rises", (c[0], None, ident(c[1]) if c[1] else None))

    def falls(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "falls", (c[0], None, ident(c[1]) if c[1] else None))

    def toggles(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "toggles", (c[0], None, None))

    def rings(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "rings", (c[0], None, None))

    def reaches(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "reaches", (c[0], c[1], None))

    def power_on(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "power_on", (None, None, None))

    def proc(self, m: Meta, c: list[Any]) -> t.Proc:
        return t.Proc(span_of(m), ident(c[0]), some(c[1:-1], t.Input), c[-1])

    # windows and registers: options are collected as pairs

    def access(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "access", ident(c[0]))

    def lanes(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "lanes", number(c[0]))

    def reset(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "reset", c[0])

    def hot(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "hot", True)

    def split(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "split", True)

    def gaps(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "gaps", ident(c[0]))

    def window(self, m: Meta, c: list[Any]) -> t.Window:
        space, name, base, size, *rest = c
        options = chosen(some(rest, Option))
        return t.Window(
            span_of(m), str(space), ident(name) if name else None, base, number(size),
            options.get("split", False), options.get("lanes"), options.get("gaps"),
            options.get("aligned", False), some(rest, (t.Reg, t.Place)),
        )  # fmt: skip

    def host(self, m: Meta, c: list[Any]) -> t.Window:
        """A window that lies in no address space."""
        name, size, *rest = c
        return self.window(m, ["host", name, t.Number(span_of(m), 0), size, *rest])

    def place(self, m: Meta, c: list[Any]) -> t.Place:
        return t.Place(span_of(m), c[0], c[1], c[2])

    def aligned(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "aligned", True)

    def bank(self, m: Meta, c: list[Any]) -> t.Bank:
        name, size, unit, gaps, *items = c
        return t.Bank(
            span_of(m), ident(name), number(size),
            ident(unit) if unit else None, ident(gaps) if gaps else None,
            some(items, (t.Reg, t.Ram, t.Place)),
        )  # fmt: skip

    def ram(self, m: Meta, c: list[Any]) -> t.Ram:
        return t.Ram(span_of(m), ident(c[0]), number(c[1]), number(c[2]), text(c[3]))

    def through(self, m: Meta, c: list[Any]) -> t.Through:
        return t.Through(span_of(m), ident(c[0]), c[1])

    def field(self, m: Meta, c: list[Any]) -> t.Field:
        bits, name, kind, *options, value, doc = c
        others = chosen(o for o in options if o.kind != "access")
        return t.Field(
            span_of(m), bits, ident(name), kind, tuple(o.value for o in options if o.kind == "access"),
            others.get("reset"), others.get("where"), value, text(doc),
        )  # fmt: skip

    def where(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "where", c[0])

    def reg_fields(self, m: Meta, c: list[Any]) -> tuple[t.Field, ...]:
        return tuple(c)

    def reg_body(self, m: Meta, c: list[Any]) -> list[Any]:
        flat: list[Any] = []
        for item in c:
            flat += item if isinstance(item, tuple) else [item]
        return flat

    def reg(self, m: Meta, c: list[Any]) -> t.Reg:
        body = c.pop() if isinstance(c[-1], list) else []
        name, offset, kind, *options, value, doc = c
        others = chosen(o for o in options if o.kind != "access")
        handlers = some(body, t.Handler)
        chosen(Option(h.span, h.kind, h) for h in handlers)
        return t.Reg(
            span_of(m), ident(name), number(offset) if offset is not None else None, kind,
            tuple(o.value for o in options if o.kind == "access"),
            others.get("lanes"), others.get("reset"), others.get("hot", False),
            None if isinstance(value, t.Through) else value, value if isinstance(value, t.Through) else None,
            some(body, t.Field), handlers, text(doc),
        )  # fmt: skip

    def read(self, m: Meta, c: list[Any]) -> t.Handler:
        return t.Handler(span_of(m), "read", None, None, c[0], None)

    def write(self, m: Meta, c: list[Any]) -> t.Handler:
        return t.Handler(span_of(m), "write", ident(c[0]), ident(c[1]) if c[1] else None, c[2], None)

    def read_python(self, m: Meta, c: list[Any]) -> t.Handler:
        return t.Handler(span_of(m), "read", None, None, (), ident(c[0]))

    def write_python(self, m: Meta, c: list[Any]) -> t.Handler:
        return t.Handler(span_of(m), "write", None, None, (), ident(c[0]))

    def why(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "why", text(c[0]))

    def reads(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "reads", tuple(c))

    def writes(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "writes", tuple(c))

    def tier(self, m: Meta, c: list[Any]) -> Option:
        return Option(span_of(m), "tier", ident(c[0]))

    def python(self, m: Meta, c: list[Any]) -> t.Python:
        file, name, *items = c
        reads, writes = (
            tuple(reference for item in items if item.kind == kind for reference in item.value)
            for kind in ("reads", "writes")
        )
        once = chosen(item for item in items if item.kind in ("why", "tier"))
        return t.Python(
            span_of(m), text(file), ident(name), once.get("why", ""), reads, writes, once.get("tier")
        )

    # the file

    def enum(self, m: Meta, c: list[Any]) -> t.Enum:
        return t.Enum(span_of(m), ident(c[0]), tuple(ident(n) for n in c[1:]))

    def layout_field(self, m: Meta, c: list[Any]) -> t.LayoutField:
        return t.LayoutField(span_of(m), c[0], ident(c[1]), c[2])

    def layout(self, m: Meta, c: list[Any]) -> t.Layout:
        return t.Layout(span_of(m), ident(c[0]), c[1], some(c, t.LayoutField))

    def input(self, m: Meta, c: list[Any]) -> t.Input:
        return t.Input(span_of(m), ident(c[0]), c[1])

    def param(self, m: Meta, c: list[Any]) -> t.Param:
        return t.Param(span_of(m), ident(c[0]), c[1], c[2], text(c[3]))

    def members(self, m: Meta, c: list[Any]) -> tuple[str, tuple[Any, ...]]:
        return text(c[0]), tuple(c[1:])

    def block(self, m: Meta, c: list[Any]) -> t.Block:
        name, *inputs, (doc, members) = c
        return t.Block(span_of(m), ident(name), some(inputs, t.Input), doc, members)

    def device(self, m: Meta, c: list[Any]) -> t.Device:
        name, *params, (doc, members) = c
        return t.Device(span_of(m), ident(name), some(params, t.Param), doc, members)

    def start(self, m: Meta, c: list[Any]) -> t.File:
        return t.File(span_of(m), tuple(c))
