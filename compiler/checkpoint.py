"""Elaboration of `checkpoint`: the saved state's version, and the steps from older ones.

A step `from N` makes the state of version N one of N + 1. It is a function over
the present layout, in which slots of the same name hold what the image held and
new ones their reset values; what else it takes of the older image it declares.

Non-goals: older images themselves (upgrade.py), older layouts (locks.py).
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject, Span
from . import ir
from .analysis import Analysis
from .entities import LocalDef, Value
from .scope import Context, Scope, spell

if TYPE_CHECKING:
    from .elaborate import Unit


class Checkpoints:
    """The one checkpoint of a device, and its upgrade steps."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.version = 1
        self._tree: t.Checkpoint | None = None
        self._steps: list[tuple[ir.Upgrade, list[ir.Stmt], tuple[tuple[str, ir.Range], ...], Span]] = []

    def declare(self, tree: t.Checkpoint, scope: Scope) -> None:
        if not 1 <= tree.version < 2**32:
            raise Reject("E201", "a checkpoint's version is 1 or more", tree.span)
        if self._tree is not None:
            raise Reject("E102", "a device has one checkpoint", tree.span,
                         f"the other is in line {self._tree.span.line}")  # fmt: skip
        self._tree, self.version = tree, tree.version

    def finish(self, tree: t.Checkpoint, scope: Scope) -> None:
        """Elaborate the steps, which may use anything of the device."""
        seen: set[int] = set()
        for step in tree.upgrades:
            self.unit.attempt(partial(self._check, step, tree, seen))
            self.unit.attempt(partial(self._step, step, scope))

    @staticmethod
    def _check(step: t.Upgrade, tree: t.Checkpoint, seen: set[int]) -> None:
        if not 1 <= step.version < tree.version:
            raise Reject(
                "E201",
                f"a step leads from a version before {tree.version}, not from {step.version}",
                step.span,
                "the checkpoint is the version to which the last step leads",
            )
        if step.version in seen:
            raise Reject("E102", f"'from {step.version}' stands twice", step.span, "join the two")
        seen.add(step.version)

    def _step(self, tree: t.Upgrade, scope: Scope) -> None:
        ctx = Context(scope, scope.place, pure=False, statement=True, line=tree.span.line).inner()
        formers, parameters = [], []
        for former in tree.formers:
            name, declared, kind = self._former(former, scope)
            formers.append(declared)
            parameters.append((name.text, kind.type))
            ctx.scope.define(LocalDef(name.text, name.span, kind))
        body = self.unit.statements.suite(tree.body, ctx)
        self._check_effects(body, tree.span)
        upgrade = ir.Upgrade(tree.version, f"upgrade.{tree.version}", tuple(formers))
        self._steps.append((upgrade, body, tuple(parameters), tree.span))

    def _former(self, tree: t.Former, scope: Scope) -> tuple[t.Ident, ir.Former, Value]:
        path = spell(tree.slot)
        index = tuple(int(number) for number in re.findall(r"\[(\d+)\]", path))
        slot = re.sub(r"\[\d+\]", "", path)
        if "[" in slot:
            raise Reject(
                "E103", "an element of an older image is named by a number", tree.slot.span, "NAME[0]"
            )
        name = tree.name
        if name is None and isinstance(tree.slot, t.Name):
            name = t.Ident(tree.slot.span, slot)
        if name is None:
            raise Reject("E103", f"'{path}' needs a name of one word here", tree.slot.span,
                         f"{path} as NAME: ...")  # fmt: skip
        if name.text in scope.names:
            raise Reject("E102", f"'{name.text}' is what it is called now", name.span,
                         f"give the older value another name: {path} as old_{name.text}: ...")  # fmt: skip
        kind = self.unit.type(tree.type, scope)
        default: int | None = None
        if tree.default is not None:
            found = self.unit.expr.fit(tree.default, Context(scope, ()), kind, f"'{name.text}'")
            if not isinstance(found, ir.Const):
                raise Reject("E103", "what stands in for an older value is a constant", tree.default.span,
                             "write the number out")  # fmt: skip
            default = found.value
        value = Value(ir.Var(name.text, kind.range), kind.width, kind.nominal)
        declared = ir.Former(slot, index, kind.range, default)
        return name, declared, value

    def _check_effects(self, body: list[ir.Stmt], span: Span) -> None:
        """A step changes what is saved and nothing else (E301): no pulse, no edge."""
        written = Analysis(self.unit.functions).of_block(tuple(body)).writes
        own = {
            name for name, slot in self.unit.slots.items() if slot.kind == "state" or name.endswith(".due")
        }
        if written - own:
            raise Reject("E301", "an upgrade changes state only", span,
                         "lines and deadlines follow it by themselves")  # fmt: skip

    def build(self) -> tuple[ir.Upgrade, ...]:
        """The steps' functions; counters that start or stop by one go on from their value."""
        for upgrade, body, parameters, span in self._steps:
            body.append(ir.Do(self.unit.call("rebase")))
            self.unit.function(upgrade.function, parameters, None, body, span.line, rare=True)
        return tuple(sorted((step[0] for step in self._steps), key=lambda upgrade: upgrade.version))
