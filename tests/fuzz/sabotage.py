"""Devices broken on purpose, to show that each invariant can fail.

A device is broken in its text (both engines follow it), in its IR, in the
native engine only, or in the instance that stands between code and machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from devc.compiler import ir
from devc.compiler.driver import DEVICES, DeviceType
from devc.dsl.diagnostics import Source
from devc.runtime.instance import Instance, NativeInstance, ReferenceInstance
from devc.runtime.machine import Engine

from .board import Kind


def rewritten(text: str, name: str, old: str, new: str) -> Kind:
    """A device whose file says something else."""
    assert old in text, f"{name}.dev no longer says {old!r}; sabotage what it says now"
    path = DEVICES / f"{name}.dev"
    module = DeviceType(path, Source(str(path), text.replace(old, new)), None).reference_module()
    return Kind(module, module, path)


def text_of(name: str) -> str:
    return (DEVICES / f"{name}.dev").read_text()


def says(name: str, old: str, new: str) -> Kind:
    return rewritten(text_of(name), name, old, new)


Change = Callable[[Any], Any]


def changed(node: Any, change: Change) -> Any:
    """The tree with `change` applied from the leaves up."""
    if isinstance(node, tuple):
        return tuple(changed(each, change) for each in node)
    if is_dataclass(node) and not isinstance(node, type | ir.Range):
        inside = {f.name: changed(getattr(node, f.name), change) for f in fields(node)}
        return change(replace(node, **inside))
    return node


def means(name: str, change: Change, native: bool = True, reference: bool = True) -> Kind:
    """A device whose IR is another, on one engine or on both."""
    kind = Kind.shipped(name)
    broken: ir.Module = changed(kind.module, change)
    return Kind(broken if reference else kind.module, broken if native else kind.module, kind.path)


@dataclass(frozen=True, eq=False)
class Mediated(Kind):
    """A device whose instances are of other classes."""

    classes: Mapping[Engine, type[Any]] | None = None

    def make(self, engine: Engine, now: int, params: Mapping[str, int]) -> Instance:
        assert self.classes is not None
        code = self.code if engine == "native" else self.probe
        made: Instance = (
            self.classes[engine](code, self.module, now, **params)
            if engine == "native"
            else self.classes[engine](code, now, **params)
        )
        return made


def mediated(name: str, mixin: type[Any]) -> Kind:
    kind = Kind.shipped(name)
    classes: dict[Engine, type[Any]] = {
        "native": type("Native", (mixin, NativeInstance), {}),
        "reference": type("ByReference", (mixin, ReferenceInstance), {}),
    }
    return Mediated(kind.module, kind.module, kind.path, classes=classes)


class PeekThatReads:
    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        return self.read(region, now, offset, width)  # type: ignore[attr-defined,no-any-return]


class PeekThatGuesses:
    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        return super().peek(region, now, offset, width) ^ 1  # type: ignore[misc,no-any-return]


# --- changes of the IR ----------------------------------------------------------------


def early(node: Any) -> Any:
    """Every instant a nanosecond before its tick begins."""
    return ir.Binary("subw", node, ir.Const(1), ir.U64) if isinstance(node, ir.Nanos) else node


def late(node: Any) -> Any:
    return ir.Binary("addw", node, ir.Const(1), ir.U64) if isinstance(node, ir.Nanos) else node


def slow_clock(node: Any) -> Any:
    """The PM timer's frequency, less one."""
    return ir.Const(3_579_544) if node == ir.Const(3_579_545) else node


def due_now(node: Any) -> Any:
    """A deadline that does not move on."""
    if isinstance(node, ir.Function) and node.name == "next":
        return replace(node, body=(ir.Return(ir.Now()),))
    return node


def forgotten(slot: str) -> Change:
    """A slot that is not saved."""

    def change(node: Any) -> Any:
        return replace(node, kind="derived") if isinstance(node, ir.Slot) and node.name == slot else node

    return change


def one_by_one(node: Any) -> Any:
    """Periodic events caught up one period at a time, as many as there are."""
    if isinstance(node, ir.Store) and node.slot.endswith(".due") and isinstance(node.value, ir.Call):
        return replace(node, value=replace(node.value, now=ir.Var("due", ir.U64)))
    return node


def settling_one_by_one(node: Any) -> Any:
    if not isinstance(node, ir.Function) or node.name != "settle":
        return node
    loops = tuple(replace(s, times=100_000) if isinstance(s, ir.Repeat) else s for s in node.body)
    return changed(replace(node, body=loops), one_by_one)
