"""Debug information of an eBPF object as LLVM metadata, of which LLVM makes .BTF and .BTF.ext.

The state struct's slots become named fields, functions get their parameters'
names, and every instruction the line of the device file it stems from: so that
`bpftool map dump` and the verifier's log speak the device file's language.

Non-goals: what a debugger wants (variables' places, lexical scopes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ..dsl.diagnostics import Source
from . import ir
from .metadata import Metadata

INTEGERS = {1: "char", 2: "short", 4: "int", 8: "long long"}
"""By size: C's own names, so that the types can be dumped as a header that needs no other."""
LONGEST = 100
"""Characters of an identifier; older kernels refuse type information with a name of 128."""


class Names:
    """Identifiers of C in one scope, each given once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def give(self, text: str) -> str:
        """`text` as an identifier: `channel[2].mode` becomes `channel_2_mode`."""
        name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:LONGEST] or "unnamed"
        own = name = f"_{name}" if name[0].isdigit() else name
        count = 1
        while own in self._taken:
            count += 1
            own = f"{name}_{count}"
        self._taken.add(own)
        return own


@dataclass(frozen=True, slots=True)
class Type:
    """A type's metadata node and its size in bytes."""

    node: str
    size: int


Member = tuple[str, Type, int]
"""Name, type, offset in bytes."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A slot, or what is left of it inside a block's struct."""

    name: str
    slot: ir.Slot
    offset: int
    dims: tuple[tuple[int, int], ...]

    @property
    def dense(self) -> bool:
        """Whether the elements lie one behind the other."""
        size: int = self.slot.size
        for count, stride in reversed(self.dims):
            if stride != size:
                return False
            size *= count
        return True


class Debug:
    """The debug nodes of one module. `source`: the device file, if it is known."""

    def __init__(self, metadata: Metadata, device: str, source: Source | None) -> None:
        self.metadata = metadata
        self.source = source
        name = PurePath(source.name).name if source else f"{device}.dev"
        text = f", source: {quoted(source.text)}" if source else ""
        self.file = metadata.node(f'!DIFile(filename: {quoted(name)}, directory: ""{text})')
        self.unit = metadata.reserve()
        self.head = _head_line(source)
        self._globals: list[str] = []

    def close(self) -> str:
        """The unit, when all globals are known, and the module's named metadata."""
        all_globals = self.metadata.node(f"!{{{', '.join(self._globals)}}}")
        self.metadata.define(
            self.unit,
            f"distinct !DICompileUnit(language: DW_LANG_C11, file: {self.file}, producer: \"devc\", "
            f"isOptimized: true, runtimeVersion: 0, emissionKind: FullDebug, globals: {all_globals}, "
            "nameTableKind: None)",
        )  # fmt: skip
        flags = [
            self.metadata.node(f'!{{i32 {rule}, !"{name}", i32 {value}}}')
            for rule, name, value in ((2, "Debug Info Version", 3), (7, "Dwarf Version", 5))
        ]
        return f"!llvm.dbg.cu = !{{{self.unit}}}\n!llvm.module.flags = !{{{', '.join(flags)}}}"

    # --- types ---

    def integer(self, size: int, signed: bool = False) -> Type:
        kind = "signed" if signed else "unsigned"
        text = f'!DIBasicType(name: "{kind} {INTEGERS[size]}", size: {8 * size}, encoding: DW_ATE_{kind})'
        return Type(self.metadata.node(text), size)

    def array(self, element: Type, count: int) -> Type:
        bounds = self.metadata.node(f"!{{{self.metadata.node(f'!DISubrange(count: {count})')}}}")
        size = element.size * count
        text = (
            f"!DICompositeType(tag: DW_TAG_array_type, baseType: {element.node}, size: {8 * size}, "
            f"elements: {bounds})"
        )
        return Type(self.metadata.node(text), size)

    def pointer(self, to: Type) -> Type:
        text = f"!DIDerivedType(tag: DW_TAG_pointer_type, baseType: {to.node}, size: 64)"
        return Type(self.metadata.node(text), 8)

    def struct(self, name: str, size: int, members: Iterable[Member]) -> Type:
        nodes = [
            self.metadata.node(
                f"!DIDerivedType(tag: DW_TAG_member, name: {quoted(member)}, file: {self.file}, "
                f"baseType: {kind.node}, size: {8 * kind.size}, offset: {8 * offset})"
            )
            for member, kind, offset in members
        ]
        elements = self.metadata.node(f"!{{{', '.join(nodes)}}}")
        text = (
            f"!DICompositeType(tag: DW_TAG_structure_type, name: {quoted(name)}, file: {self.file}, "
            f"line: {self.head}, size: {8 * size}, elements: {elements})"
        )
        return Type(self.metadata.node(text), size)

    def state(self, module: ir.Module) -> Type:
        """`struct DEV_state`: a field for each slot; a block is an array of structs."""
        pieces = [_Piece(slot.name, slot, slot.offset, slot.dims) for slot in module.slots]
        return self.struct(f"{module.name}_state", module.size, self._members(f"{module.name}_", pieces))

    def _members(self, prefix: str, pieces: Sequence[_Piece]) -> Iterable[Member]:
        names = Names()
        rest = list(pieces)
        while rest:
            first = rest.pop(0)
            if first.dense:
                kind = self.integer(first.slot.size, first.slot.type.signed)
                for count, _ in reversed(first.dims):
                    kind = self.array(kind, count)
                yield names.give(first.name), kind, first.offset
                continue
            count, stride = first.dims[0]
            block = [first]
            while rest and rest[0].dims[:1] == first.dims[:1] and rest[0].offset < first.offset + stride:
                block.append(rest.pop(0))
            name = names.give(first.name.split(".")[0])
            inner = [
                _Piece(p.name.partition(".")[2] or p.name, p.slot, p.offset - first.offset, p.dims[1:])
                for p in block
            ]
            kind = self.struct(prefix + name, stride, list(self._members(f"{prefix}{name}_", inner)))
            yield name, self.array(kind, count), first.offset

    # --- variables, functions, lines ---

    def variable(self, name: str, kind: Type) -> str:
        """The node of a global variable, for its definition."""
        text = (
            f"distinct !DIGlobalVariable(name: {quoted(name)}, scope: {self.file}, file: {self.file}, "
            f"line: {self.head}, type: {kind.node}, isLocal: false, isDefinition: true)"
        )
        expression = f"!DIGlobalVariableExpression(var: {self.metadata.node(text)}, expr: !DIExpression())"
        self._globals.append(self.metadata.node(expression))
        return self._globals[-1]

    def function(
        self, name: str, params: Sequence[tuple[str, Type]], result: Type, line: int, local: bool
    ) -> str:
        """The node of a function's definition. `line` 0: the compiler's own."""
        line = line or self.head
        kinds = self.metadata.node(
            f"!{{{', '.join(kind.node for kind in (result, *(k for _, k in params)))}}}"
        )
        kind = self.metadata.node(f"!DISubroutineType(types: {kinds})")
        node, names = self.metadata.reserve(), Names()
        variables = [
            self.metadata.node(
                f"!DILocalVariable(name: {quoted(names.give(each))}, arg: {number}, scope: {node}, "
                f"file: {self.file}, line: {line}, type: {k.node})"
            )
            for number, (each, k) in enumerate(params, 1)
        ]
        retained = self.metadata.node(f"!{{{', '.join(variables)}}}")
        flags = "DISPFlagLocalToUnit | " if local else ""
        self.metadata.define(
            node,
            f"distinct !DISubprogram(name: {quoted(name)}, scope: {self.file}, file: {self.file}, "
            f"line: {line}, type: {kind}, scopeLine: {line}, "
            f"spFlags: {flags}DISPFlagDefinition | DISPFlagOptimized, unit: {self.unit}, "
            f"retainedNodes: {retained})",
        )
        return node

    def location(self, line: int, function: str) -> str:
        """The node of a line within a function's node; 0: the device's head."""
        line = line or self.head
        column = self._column(line)
        return self.metadata.node(f"!DILocation(line: {line}, column: {column}, scope: {function})")

    def _column(self, line: int) -> int:
        """Where the line's text begins, 1-based."""
        text = self.source.line(line) if self.source else ""
        return min(len(text) - len(text.lstrip()), 1000) + 1


def quoted(text: str) -> str:
    """A string of LLVM's textual IR."""
    escaped = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:02X}" for b in text.encode())
    return f'"{escaped}"'


def _head_line(source: Source | None) -> int:
    """The line that begins the device: what the compiler adds by itself is said to stem from it."""
    lines = source.text.split("\n") if source else []
    return next((number for number, text in enumerate(lines, 1) if text.startswith("device ")), 1)
