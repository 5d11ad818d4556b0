"""Python parts: what the language cannot say, with what it reads and writes declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import Reject
from . import ir
from .scope import Context, FieldDef, PythonDef, Ref, RegDef, Scope, StateDef, TypeInfo, spell
from .settling import Watch

if TYPE_CHECKING:
    from .elaborate import Unit


class PythonParts:
    """Elaborates the Python parts of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.parts: list[ir.Python] = []

    def declare(self, tree: t.Python, scope: Scope) -> None:
        if not tree.why:
            raise Reject("E601", f"Python part '{tree.name.text}' does not say why", tree.span,
                         'why "what the language cannot say here"')  # fmt: skip
        if not tree.file.endswith(".py") or "/" in tree.file or "\\" in tree.file:
            raise Reject("E601", "a Python part is a .py file beside the device file", tree.span)
        scope.define(PythonDef(tree.name.text, tree.name.span, len(self.parts)))
        self.parts.append(ir.Python(tree.name.text, tree.file, "observer", tree.why, (), (), tree.span.line))

    def finish(self, tree: t.Python, scope: Scope) -> None:
        entity = scope.names.get(tree.name.text)
        assert isinstance(entity, PythonDef)
        serves = self._serves(tree.name.text)
        writes = tuple(self._stored(node, scope) for node in tree.writes)
        reads = tuple(self._read(node, scope, entity, serves) for node in tree.reads)
        kind = "handler" if serves else "observer"
        if not serves:
            scope.use(entity.name)
            if not reads:
                raise Reject("E601", f"observer '{entity.name}' reads nothing", tree.span, "reads NAME, ...")
        self.parts[entity.index] = ir.Python(
            entity.name, tree.file, kind, tree.why, reads, writes, tree.span.line  # type: ignore[arg-type]
        )  # fmt: skip

    def _serves(self, name: str) -> bool:
        handlers = (
            handler
            for tree, _, _ in self.unit.windows.windows
            for item in tree.items
            if isinstance(item, t.Reg)
            for handler in item.handlers
        )
        return any(h.python is not None and h.python.text == name for h in handlers)

    def _stored(self, node: t.Expr, scope: Scope) -> tuple[str, str, tuple[int, ...]]:
        found = self.unit.refs.resolve(node, Context(scope, ()))
        slot = None
        if isinstance(found, Ref):
            match found.entity:
                case StateDef() if found.entity.count is None:
                    slot = found.entity.slot
                case FieldDef():
                    slot = found.entity.slot
                case RegDef():
                    slot = found.entity.storage
        if slot is None or not isinstance(found, Ref):
            raise Reject("E601", "Python writes only what is stored: a state, a field, a register", node.span)
        index = tuple(i.value for i in found.place if isinstance(i, ir.Const))
        return spell(node), slot, index

    def _read(
        self, node: t.Expr, scope: Scope, entity: PythonDef, serves: bool
    ) -> tuple[str, str, tuple[int, ...]]:
        """A value that Python sees, kept in a slot that follows it."""
        found = self.unit.expr.value(node, Context(scope, ()))
        if self.unit.analysis.of_expr(found.expr).time:
            raise Reject("E601", "Python observes what is stored; this changes with time", node.span,
                         "read what the value depends on, and work it out there")  # fmt: skip
        name = spell(node)
        kind = TypeInfo(found.type.join(ir.BOOL))  # 0 before the first reset
        slot = self.unit.slot(scope, f"{entity.name} sees {name}", kind, kind="derived", span=node.span)
        self.unit.settling.watches.append(Watch(slot, found.expr, None if serves else entity.index))
        return name, slot, ()
