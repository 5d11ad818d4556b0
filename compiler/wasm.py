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

import llvmlite.binding as llvm

from . import ir, jit, native

TARGET = jit.Target(
    "wasm32-unknown-unknown",
    "mvp",
    # memory.copy and memory.fill stand for C's memcpy and memset, which an
    # unlinked object has not got. All three are in WebAssembly 2.0.
    "+bulk-memory,+mutable-globals,+sign-ext",
    "static",
)

_EXTERNAL = re.compile(r'^(define dso_local [^@\n]*@"([^"]+)".*) \{$', re.MULTILINE)


def build(module: ir.Module, more: str = "") -> str:
    """The device as LLVM IR text, `more` added; what docs/abi.md lists is exported under its name.

    Without that attribute only a linker would know a symbol: an unlinked object
    would export nothing.
    """
    return _EXTERNAL.sub(r'\1 "wasm-export-name"="\2" {', native.build(module) + more)


def compiled(text: str, opt: int = 2) -> bytes:
    """The wasm32 object of LLVM IR text."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    optimised, machine = jit.optimise(text, TARGET, opt)
    image: bytes = machine.emit_object(optimised)
    return image


def object_code(module: ir.Module, opt: int = 2) -> bytes:
    """The device's wasm32 object."""
    return compiled(build(module), opt)
