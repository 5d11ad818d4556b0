"""From a syntax tree to the typed IR: one device, its blocks, its functions.

`elaborate(file, source)` is the compiler's front half. Names are declared
first, so their order in the file does not matter; equations, waves and
procedures are elaborated at their first use, which also finds cycles.
Errors are collected: one bad declaration does not hide the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..dsl import tree as t
from ..dsl.diagnostics import (
    NOWHERE,
    DeviceFileError,
    Diagnostic,
    Diagnostics,
    Reject,
    Source,
    Span,
    Stop,
)
from . import budget, ir, timing
from .analysis import Analysis
from .banks import Banks
from .blocks import Blocks
from .branches import Branches
from .checkpoint import Checkpoints
from .declare import Declarations
from .decode import DECODERS
from .entities import (
    KINDS,
    AlarmDef,
    BlockDef,
    ClockDef,
    CounterDef,
    CycleDef,
    EnumDef,
    InputDef,
    InstanceDef,
    LatchDef,
    LayoutDef,
    LetDef,
    LocalDef,
    ParamDef,
    ProcDef,
    PythonDef,
    RegDef,
    StateDef,
    TypeInfo,
    Value,
    WaveDef,
    cyclic,
)
from .events import Events
from .expressions import Expressions
from .layout import SlotSpec, lay_out
from .lines import Lines
from .order import Order
from .python_parts import PythonParts
from .references import References
from .registers import Registers
from .scope import Context, Scope
from .settling import Settling
from .statements import Statements
from .touched import Touching, reachable
from .verify import verify
from .windows import Windows

OWN_SLOTS = frozenset({*(slot.name for slot in ir.HEADER), "rises"})


def elaborate(file: t.File, source: Source) -> tuple[ir.Module, list[Diagnostic]]:
    """The file's device as a verified module, and warnings; `DeviceFileError` otherwise."""
    diagnostics = Diagnostics(source)
    unit = Unit(diagnostics)
    try:
        module = unit.file(file)
    except Stop as stop:
        raise DeviceFileError(source, [*diagnostics.errors, stop.diagnostic]) from None
    diagnostics.check()
    assert module is not None
    verify(module)
    return module, diagnostics.warnings


@dataclass
class Attempt:
    """Run a declaration; on an error report it, and poison the names it would have defined."""

    diagnostics: Diagnostics

    def __call__(self, what: Callable[[], object], scope: Scope | None = None, *names: t.Ident) -> bool:
        try:
            for name in names:
                assert scope is not None
                scope.check_free(name.text, name.span)
            what()
        except Reject as reject:
            self.diagnostics.report(reject)
            for name in names:
                assert scope is not None
                scope.poison(name.text, name.span)
            return False
        return True


class Unit:
    """One device while it is elaborated."""

    def __init__(self, diagnostics: Diagnostics):
        self.diagnostics = diagnostics
        self.attempt = Attempt(diagnostics)
        self.functions: dict[str, ir.Function] = {}
        self.slots: dict[str, SlotSpec] = {}
        self.waves: dict[str, WaveDef] = {}
        self.params: list[ir.Param] = []
        self.inputs: list[ir.Input] = []
        self.files = Scope(diagnostics)
        self.scope = Scope(diagnostics, self.files)
        self.expr = Expressions(self)
        self.refs = References(self)
        self.branches = Branches(self)
        self.statements = Statements(self)
        self.registers = Registers(self)
        self.timing = timing.Timing(self)
        self.lines = Lines(self)
        self.events = Events(self)
        self.settling = Settling(self)
        self.banks = Banks(self)
        self.windows = Windows(self)
        self.blocks = Blocks(self)
        self.pythons = PythonParts(self)
        self.checkpoints = Checkpoints(self)
        self.declarations = Declarations(self)
        self.analysis = Analysis(self.functions)
        self.touching = Touching(self.functions, self.analysis, frozenset())
        self.budget = budget.Budget()

    # --- the file ----------------------------------------------------------------

    def file(self, file: t.File) -> ir.Module | None:
        devices = [item for item in file.items if isinstance(item, t.Device)]
        if len(devices) != 1:
            where = devices[1].name.span if devices else NOWHERE
            message = "a file holds one device" if devices else "there is no device in the file"
            self.diagnostics.report(Reject("E001", message, where, "device NAME(...): ..."))
            return None
        self.declarations.file(file)
        self.declarations.device(devices[0])
        if self.diagnostics.errors:
            return None
        built: list[ir.Module] = []
        self.attempt(lambda: built.append(self._module(devices[0])))
        for scope in (self.files, self.scope, *(i.scope for i in self._instances())):
            self.warn_unused(scope)
        return built[0] if built else None

    def _instances(self) -> list[InstanceDef]:
        return [e for e in self.scope.names.values() if isinstance(e, InstanceDef)]

    def _module(self, device: t.Device) -> ir.Module:
        self.settling.rounds = Order(self).check()
        self.settling.build()
        self.touching = Touching(self.functions, self.analysis, self.settling.sensitive())
        claims = self.windows.claims()
        for claim in claims:
            for decoder in DECODERS:
                decoder(self, claim.name, claim.tree, claim.layout).build()
        slots, size = lay_out(self.slots.values(), self.lines.count)
        upgrades = self.checkpoints.build()
        return ir.Module(
            device.name.text, device.doc, self.checkpoints.version, tuple(self.params), slots, size,
            tuple(claim.region(self) for claim in claims),
            self.lines.described(),
            tuple(self.pythons.parts),
            reachable(self.functions, *(upgrade.function for upgrade in upgrades)),
            upgrades, tuple(self.inputs),
        )  # fmt: skip

    # --- what the parts of the elaboration share -----------------------------------

    def function(
        self,
        name: str,
        parameters: tuple[tuple[str, ir.Range], ...],
        result: ir.Range | None,
        body: list[ir.Stmt] | tuple[ir.Stmt, ...],
        line: int = 0,
        exported: bool = False,
        rare: bool = False,
        apart: bool = False,
    ) -> None:
        assert name not in self.functions, name
        self.functions[name] = ir.Function(name, parameters, result, tuple(body), exported, line, rare, apart)
        effects = self.analysis.of(name)
        span = Span(line or 1, 1, line or 1, 2)
        if effects.depth > budget.MAX_CALLS:
            raise Reject(
                "E003",
                f"more than {budget.MAX_CALLS} equations or procedures use one another in a row",
                span,
                "combine some of them",
            )
        if effects.steps > budget.MAX_RUN:
            raise Reject("E003", f"this may take more than {budget.MAX_RUN:,} steps at once", span,
                         "keep what several need in a local ('let' in a body), or in a state")  # fmt: skip

    def call(self, name: str, kind: ir.Range = ir.BOOL) -> ir.Call:
        return ir.Call(name, (), kind)

    def slot(
        self,
        scope: Scope,
        name: str,
        kind_of: TypeInfo,
        kind: str = "state",
        count: int | None = None,
        reset: int = 0,
        span: Span = NOWHERE,
    ) -> str:
        """Declare a slot in a scope's group of the struct; its full name."""
        full = scope.prefix + name
        if full in OWN_SLOTS:
            raise Reject("E102", f"'{full}' is what the compiled device calls something of its own", span,
                         "choose another name")  # fmt: skip
        assert full not in self.slots, full
        blocks = scope.index[1] if scope.index is not None else 1
        self.budget.store((count or 1) * blocks, span)
        self.slots[full] = SlotSpec(full, kind_of.range, kind, scope, count, reset)
        return full

    def type(self, tree: t.Type, scope: Scope) -> TypeInfo:
        return self.declarations.type(tree, scope)

    def reset_value(self, tree: t.Expr | None, kind: TypeInfo, scope: Scope, name: str) -> int:
        """A constant of the type; its least value if none is written."""
        if tree is None:
            return max(0, kind.range.lo)
        found = self.expr.fit(tree, Context(scope, scope.place), kind, f"'{name}'")
        if not isinstance(found, ir.Const):
            raise Reject(
                "E103",
                f"what '{name}' is at reset must be a constant",
                tree.span,
                "write the number out; what follows from parameters is an equation (let)",
            )
        return found.value

    def equation(
        self, function: str, name: t.Ident, kind: TypeInfo | None, tree: t.Expr, scope: Scope
    ) -> LetDef:
        """An equation as a pure function, elaborated at its first use."""

        def build() -> Value:
            ctx = Context(scope, scope.place)
            found = self.expr.value(tree, ctx, kind)
            if kind is not None:
                self.expr.fitted(found, kind, tree, f"'{name.text}'")
                found = Value(found.expr, kind.width, kind.nominal, found.unit)
            if not isinstance(found.expr, ir.Const):
                self.function(function, scope.parameters, found.type, [ir.Return(found.expr)], name.span.line)
            return found

        return LetDef(name.text, name.span, function, build)

    def procedure(self, proc: ProcDef) -> None:
        """Elaborate a procedure at its first use."""
        proc.progress.run(
            proc.elaborate, lambda: cyclic(proc, "nothing recurses, so that every handler ends")
        )

    def warn_unused(self, scope: Scope) -> None:
        """W101 for the names of a scope that nothing turns out to refer to."""
        for entity in scope.names.values():
            if isinstance(entity, RegDef):
                message = f"register '{entity.name}' is placed in no window"
                help = f"in a window of the device: BLOCK.{entity.name} @OFFSET"
                self.diagnostics.unplaced.append(Diagnostic("W102", message, entity.span, help))
            elif isinstance(entity, _UNUSED):
                message = f"{KINDS[type(entity)]} '{entity.name}' is never used"
                self.diagnostics.idle.append(Diagnostic("W101", message, entity.span, "remove it"))


_UNUSED = (
    AlarmDef,
    BlockDef,
    ClockDef,
    CounterDef,
    CycleDef,
    EnumDef,
    InputDef,
    LatchDef,
    LayoutDef,
    LetDef,
    LocalDef,
    ParamDef,
    ProcDef,
    PythonDef,
    StateDef,
    WaveDef,
)
"""What does nothing by itself."""
