"""Python parts: what the language cannot say, with what it reads and writes declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dsl import tree as t
from ..dsl.diagnostics import NOWHERE, Reject
from . import arithmetic as a
from . import ir
from .entities import FieldDef, PythonDef, RamDef, Ref, RegDef, StateDef, TypeInfo
from .scope import Context, Scope, spell
from .settling import Watch

if TYPE_CHECKING:
    from .elaborate import Unit


Place = tuple[str, str, tuple[int, ...]]
"""The name that Python sees, and the slot's element behind it."""


def _bytes(ram: RamDef) -> list[Place]:
    return [(f"{ram.name}[{i}]", ram.slot, (i,)) for i in range(ram.count)]


MOST = 32
"""Python parts of a device: bits of the header's `watch`."""


class PythonParts:
    """Elaborates the Python parts of one device."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.parts: list[ir.Python] = []
        self._rams: dict[str, list[int]] = {}

    def declare(self, tree: t.Python, scope: Scope) -> None:
        if not tree.why:
            raise Reject("E601", f"Python part '{tree.name.text}' does not say why", tree.span,
                         'why "what the language cannot say here"')  # fmt: skip
        if not tree.file.endswith(".py") or "/" in tree.file or "\\" in tree.file:
            raise Reject(
                "E601",
                f"'{tree.file}' is not the name of a .py file beside the device file",
                tree.span,
                'python "NAME.py" NAME:',
            )
        if len(self.parts) == MOST:
            raise Reject("E601", f"a device has at most {MOST} Python parts", tree.span, "join some of them")
        if tree.tier is not None and tree.tier.text != "numba":
            raise Reject("E602", f"'{tree.tier.text}' is no tier of a Python part", tree.tier.span,
                         "tier numba, or no 'tier': the interpreter")  # fmt: skip
        for node in (*tree.reads, *tree.writes):
            spell(node)
        self._once("reads", tree.reads)
        self._once("writes", tree.writes)
        scope.define(PythonDef(tree.name.text, tree.name.span, len(self.parts)))
        tier = "python" if tree.tier is None else "numba"
        self.parts.append(
            ir.Python(tree.name.text, tree.file, "observer", tree.why, (), (), tree.span.line, tier)  # type: ignore[arg-type]
        )

        for node in tree.reads:
            if isinstance(node, t.Name):
                self._rams.setdefault(node.name, []).append(len(self.parts) - 1)

    @staticmethod
    def _once(word: str, given: tuple[t.Expr, ...]) -> None:
        names: set[str] = set()
        for node in given:
            if spell(node) in names:
                raise Reject("E102", f"'{spell(node)}' stands twice in '{word}'", node.span, "once is enough")
            names.add(spell(node))

    def touched(self, slot: str) -> list[ir.Stmt]:
        """What follows a store into RAM that a Python part reads: its observers are told."""
        if slot not in self._rams:
            return []
        changed = self._changed(slot)
        return [ir.Store(changed, (), a.wrap(a.add(ir.Load(changed, (), ir.U32), a.TRUE), 32))]

    def _changed(self, slot: str) -> str:
        """The slot that counts stores into RAM."""
        name = f"{slot}.changed"
        if name not in self.unit.slots:
            self.unit.slot(self.unit.scope, name, TypeInfo(ir.U32, 32), kind="derived", span=NOWHERE)
        return name

    def finish(self, tree: t.Python, scope: Scope) -> None:
        entity = scope.declared(tree.name, PythonDef)
        if entity is None:
            return
        serves = self._serves(tree.name.text)
        self._single(tree, scope)
        writes = tuple(place for node in tree.writes for place in self._written(node, scope))
        reads = tuple(place for node in tree.reads for place in self._seen(node, scope, entity, serves))
        kind = "handler" if serves else "observer"
        if not serves:
            if tree.tier is not None:
                raise Reject(
                    "E602",
                    f"'{entity.name}' serves no register: it is not compiled",
                    tree.tier.span,
                    "leave 'tier numba' out, or let a register 'read python NAME'",
                )
            scope.use(entity.name)
            if not reads:
                raise Reject("E601", f"observer '{entity.name}' reads nothing", tree.span, "reads NAME, ...")
        self.parts[entity.index] = ir.Python(
            entity.name, tree.file, kind, tree.why, reads, writes, tree.span.line,  # type: ignore[arg-type]
            self.parts[entity.index].tier,
        )  # fmt: skip

    def tier(self, index: int | None) -> str | None:
        """Of the part with this number; None if there is none."""
        return None if index is None else self.parts[index].tier

    def _serves(self, name: str) -> bool:
        handlers = (
            handler
            for tree, _, _ in self.unit.windows.windows
            for item in tree.items
            if isinstance(item, t.Reg)
            for handler in item.handlers
        )
        return any(h.python is not None and h.python.text == name for h in handlers)

    def stored(
        self, node: t.Expr, ctx: Context, whose: str = "what Python writes"
    ) -> tuple[str, str, tuple[int, ...]]:
        """A stored value by its spelling: the slot, and the element."""
        found = self.unit.refs.resolve(node, ctx)
        slot, place = None, found.place if isinstance(found, Ref) else ()
        if isinstance(found, Ref):
            match found.entity:
                case StateDef() if found.entity.count is None:
                    slot = found.entity.slot
                case FieldDef():
                    slot = found.entity.slot
                case RegDef():
                    slot = found.entity.storage
        elif isinstance(found.expr, ir.Load):  # an element of a state array
            slot, place = found.expr.slot, found.expr.index
        if slot is None:
            raise Reject("E601", f"{whose} is stored: a state, a field, a register", node.span,
                         "name what the value depends on")  # fmt: skip
        index = tuple(i.value for i in place if isinstance(i, ir.Const))
        if len(index) != len(place):
            raise Reject("E601", "the element must be a constant here", node.span, "NAME[0]")
        return spell(node), slot, index

    def _ram(self, node: t.Expr, scope: Scope) -> RamDef | None:
        found = self.unit.refs.resolve(node, Context(scope, ())) if isinstance(node, t.Name) else None
        return found.entity if isinstance(found, Ref) and isinstance(found.entity, RamDef) else None

    def _single(self, tree: t.Python, scope: Scope) -> None:
        """Compiled functions take and return single values."""
        for node in (*tree.reads, *tree.writes):
            if tree.tier is not None and self._ram(node, scope) is not None:
                raise Reject(
                    "E602",
                    f"'{spell(node)}' is RAM; what is compiled takes single values",
                    node.span,
                    "leave 'tier numba' out, or keep what it needs in a state",
                )

    def _written(self, node: t.Expr, scope: Scope) -> list[Place]:
        ram = self._ram(node, scope)
        return _bytes(ram) if ram is not None else [self.stored(node, Context(scope, ()))]

    def _seen(self, node: t.Expr, scope: Scope, entity: PythonDef, serves: bool) -> list[Place]:
        ram = self._ram(node, scope)
        if ram is None:
            return [self._read(node, scope, entity, serves)]
        changed = self._changed(ram.slot)
        kind = TypeInfo(ir.U32, 32)
        slot = self.unit.slot(scope, f"{entity.name} sees {ram.name}", kind, kind="derived", span=node.span)
        observer = None if serves else entity.index
        self.unit.settling.watches.append(Watch(slot, ir.Load(changed, (), ir.U32), observer))
        return _bytes(ram)

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
