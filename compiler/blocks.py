"""Blocks made part of a device: instances, arrays of them, and their inputs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import ir
from .declare import names, rank
from .entities import (
    BitDef,
    BlockDef,
    CounterDef,
    Entity,
    FieldDef,
    InputDef,
    InstanceDef,
    LineDef,
    LocalDef,
    OuterDef,
    Ref,
    StateDef,
    Value,
)
from .scope import Context, Scope

if TYPE_CHECKING:
    from .elaborate import Unit

MAX_ELEMENTS = 64
OUTER: dict[str, type[Entity]] = {"counter": CounterDef, "line": LineDef}
"""Inputs that are entities of the device, by their type's name."""

ONLY_THE_DEVICES = (t.Line, t.Instance, t.Window, t.Bank, t.Checkpoint, t.Python, t.Pin)


class Blocks:
    """Elaborates the block instances of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit

    def declare(self, tree: t.Instance, scope: Scope) -> None:
        block = scope.find(tree.block.text, tree.block.span)
        if not isinstance(block, BlockDef):
            raise Reject("E103", f"'{tree.block.text}' is not a block", tree.block.span)
        if tree.count is not None and not 1 <= tree.count <= MAX_ELEMENTS:
            raise Reject("E201", f"an array of blocks has 1 to {MAX_ELEMENTS} elements", tree.span)
        name = tree.name.text
        index = (f"{tree.index.text}.index", tree.count) if tree.index and tree.count else None
        inner = Scope(self.unit.diagnostics, self.unit.files, index=index, prefix=f"{name}.")
        scope.define(InstanceDef(name, tree.name.span, inner, tree.count))
        self._arguments(tree, block.tree, inner, scope)
        for member in sorted(block.tree.members, key=rank):
            if isinstance(member, ONLY_THE_DEVICES):
                self.unit.diagnostics.report(
                    Reject(
                        "E103",
                        "lines, windows, banks, blocks, checkpoints and Python parts belong to the device",
                        member.span,
                        "a block's registers are placed in a window of the device",
                    )
                )
            elif (handle := self.unit.declarations.introduce.get(type(member))) is not None:
                self.unit.attempt(partial(handle, member, inner), inner, *names(member))

    def _arguments(self, tree: t.Instance, block: t.Block, inner: Scope, scope: Scope) -> None:
        given: dict[str, t.Argument] = {}
        for argument in tree.arguments:
            if argument.name.text in given:
                raise Reject("E102", f"input '{argument.name.text}' is given twice", argument.span,
                             "leave one of them out")  # fmt: skip
            given[argument.name.text] = argument
        for name in given:
            if name not in {i.name.text for i in block.inputs}:
                raise Reject("E101", f"block '{block.name.text}' has no input '{name}'", given[name].span)
        for item in block.inputs:
            name = item.name.text
            if name not in given:
                raise Reject("E103", f"input '{name}' of block '{block.name.text}' is not given", tree.span,
                             f"{tree.name.text}: {block.name.text}({name} = ...)")  # fmt: skip
            if isinstance(item.type, t.NamedType) and item.type.name in OUTER:
                self._outer(item, given[name].value, inner, scope)
            elif isinstance(item.type, t.NamedType) and item.type.name == "bit":
                self._bit(item, given[name].value, tree, inner, scope)
            elif isinstance(item.type, t.NamedType) and item.type.name == "clock":
                osc = given[name].value
                if not isinstance(osc, t.Name):
                    raise Reject("E103", "a clock's name is needed here", osc.span)
                clock = self.unit.refs.clock(t.Ident(osc.span, osc.name), Context(scope, ()))
                inner.names[name] = clock
                self.unit.diagnostics.used.add(item.name.span)
            else:
                function = f"{inner.prefix}{name}.in"
                entity = InputDef(name, item.name.span, function, self.unit.type(item.type, inner))
                entity.elaborate = partial(self._input, entity, given[name], tree, inner, scope)
                inner.define(entity)

    def _outer(self, item: t.Input, argument: t.Expr, inner: Scope, scope: Scope) -> None:
        """An input that is the device's own counter or line."""
        assert isinstance(item.type, t.NamedType)
        kind = OUTER[item.type.name]
        found = scope.find(argument.name, argument.span) if isinstance(argument, t.Name) else None
        if not isinstance(found, kind):
            raise Reject("E103", f"a {item.type.name}'s name is needed here", argument.span)
        inner.define(OuterDef(item.name.text, item.name.span, found))

    def _bit(self, item: t.Input, argument: t.Expr, tree: t.Instance, inner: Scope, scope: Scope) -> None:
        """An input that is one bit of something stored in the device, which the block may set."""
        if not isinstance(argument, t.Index):
            raise Reject(
                "E103", "a bit of something stored is needed here", argument.span, "REGISTER.FIELD[n]"
            )
        outer = Context(scope, ()).inner()
        if inner.index is not None and tree.index is not None:
            outer.scope.define(LocalDef(tree.index.text, tree.index.span, Value(inner.place[0])))
        found = self.unit.refs.resolve(argument.base, outer)
        entity = found.entity if isinstance(found, Ref) else None
        if not isinstance(entity, (StateDef, FieldDef)) or entity.slot is None:
            raise Reject(
                "E103", "a bit of something stored is needed here", argument.span, "REGISTER.FIELD[n]"
            )
        width = entity.type.range.hi.bit_length()
        position = self.unit.refs.bounded(argument.index, outer, width, entity.name)
        inner.define(BitDef(item.name.text, item.name.span, entity.slot, entity.type.range, position))

    def _input(
        self, entity: InputDef, argument: t.Argument, tree: t.Instance, inner: Scope, scope: Scope
    ) -> None:
        """An input is an equation of the device, with the array's index in sight."""
        outer = Context(scope, ()).inner()
        if inner.index is not None and tree.index is not None:
            outer.scope.define(LocalDef(tree.index.text, tree.index.span, Value(inner.place[0])))
        value = self.unit.expr.fit(argument.value, outer, entity.type, f"input '{entity.name}'")
        body: list[ir.Stmt] = [ir.Return(value)]
        self.unit.function(entity.function, inner.parameters, entity.type.range, body, argument.span.line)

    def finish(self, tree: t.Instance, scope: Scope) -> None:
        entity = scope.declared(tree.name, InstanceDef)
        if entity is None:
            return
        for item in entity.scope.names.values():
            if isinstance(item, InputDef):
                self.unit.attempt(partial(self.unit.refs.input, item))
        block = scope.find(tree.block.text, tree.block.span)
        assert isinstance(block, BlockDef)
        for member in sorted(block.tree.members, key=lambda m: isinstance(m, (t.On, t.Drive))):
            handle = self.unit.declarations.finish.get(type(member))
            if handle is not None and not isinstance(member, ONLY_THE_DEVICES):
                self.unit.attempt(partial(handle, member, entity.scope))
