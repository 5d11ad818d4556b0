"""WebAssembly: a device as a wasm32 object, from the same IR as the native engine.

The object can be linked (wasm-ld), and is a module by itself: it validates and
runs unlinked, in any WebAssembly engine, with a memory and a stack of the
host's. It calls nothing outside itself. docs/wasm.md says how to embed it.

The state has no pointer in it, so its bytes are the native engine's; a 32-bit
pointer changes only the type of the ABI's `s` and `image`.

Non-goals: running it; 64-bit memories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import back_end, ir, native

TARGET = back_end.Target(
    "wasm32-unknown-unknown",
    "mvp",
    # memory.copy and memory.fill stand for C's memcpy and memset, which an
    # unlinked object has not got. All three are in WebAssembly 2.0.
    "+bulk-memory,+mutable-globals,+sign-ext",
)

PROVIDED = ("__linear_memory", "__stack_pointer", "__indirect_function_table")
"""What an unlinked object may ask the host for."""

_EXTERNAL = re.compile(r'^(define dso_local [^@\n]*@"([^"]+)".*) \{$', re.MULTILINE)

_HEAD = 8
"""Bytes before the first section (WebAssembly 2.0: 5.5.16)."""
_IMPORTS = 2
"""The section that lists them (5.5.5)."""
_FUNCTION, _TABLE, _, _GLOBAL = range(4)
"""Kinds of imports."""


class CompileError(Exception):
    """A device cannot become a wasm object; the message says why."""


def build(module: ir.Module, more: str = "") -> str:
    """The device as LLVM IR text, `more` added; what docs/abi.md lists is exported under its name.

    Without that attribute only a linker would know a symbol: an unlinked object
    would export nothing.
    """
    return _EXTERNAL.sub(r'\1 "wasm-export-name"="\2" {', native.build(module) + more)


def compiled(text: str) -> bytes:
    """The wasm32 object of LLVM IR text. Raises `CompileError`."""
    try:
        image = back_end.object_code(text, TARGET)
    except back_end.Died as death:
        raise CompileError(str(death)) from None
    asked = [name for name in imports(image) if name not in PROVIDED]
    if asked:
        raise CompileError(f"it would call {', '.join(asked)}, which a wasm host does not have")
    return image


def object_code(module: ir.Module) -> bytes:
    """The device's wasm32 object. Raises `CompileError`."""
    try:
        return compiled(build(module))
    except CompileError as error:
        raise CompileError(f"{module.name} cannot be compiled for WebAssembly: {error}") from None


def imports(image: bytes) -> Iterator[str]:
    """The names of what an object asks for."""
    reader = _Reader(image, _HEAD)
    while reader.at < len(image):
        section, size = reader.byte(), reader.number()
        if section != _IMPORTS:
            reader.at += size
            continue
        for _ in range(reader.number()):
            reader.name()  # of the module, always `env`
            yield reader.name()
            reader.description()


class _Reader:
    """Values of the binary format, one behind the other."""

    def __init__(self, image: bytes, at: int) -> None:
        self.image, self.at = image, at

    def byte(self) -> int:
        self.at += 1
        return self.image[self.at - 1]

    def number(self) -> int:
        """LEB128, unsigned (5.2.2)."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def name(self) -> str:
        length = self.number()
        self.at += length
        return self.image[self.at - length : self.at].decode()

    def description(self) -> None:
        """What an import is: passed over (5.5.5)."""
        kind = self.byte()
        if kind == _FUNCTION:
            self.number()  # its type
        elif kind == _GLOBAL:
            self.at += 2  # type and mutability
        else:
            self.at += kind == _TABLE  # the elements' type
            for _ in range(2 if self.byte() & 1 else 1):
                self.number()
