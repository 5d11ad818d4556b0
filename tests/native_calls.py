"""Calls of compiled devices through ctypes, for the tests of the native back end."""

from __future__ import annotations

import ctypes
from typing import Any

from devc.compiler import image, ir, jit

U64, U32, I64, POINTER = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int64, ctypes.c_void_p


def c_type(value: ir.Range) -> Any:
    """The C type of an exported function's parameter or result (docs/abi.md)."""
    return I64 if value.signed else U32 if ir.U32.contains(value) else U64


class Code:
    """A compiled module's exported functions: `code.NAME(state, now, ...)`."""

    def __init__(self, module: ir.Module, opt: int = jit.QUICK) -> None:
        self.module = module
        self.native = jit.compile_module(module, None, opt)
        self.state = ctypes.create_string_buffer(module.size)

    def __getattr__(self, name: str) -> Any:
        function = next(f for f in self.module.functions if f.name == name)
        result = None if function.result is None else c_type(function.result)
        types = (POINTER, U64, *(c_type(value) for _, value in function.params))
        return self.bind(name, result, *types)

    def bind(self, name: str, result: Any, *types: Any) -> Any:
        call = ctypes.CFUNCTYPE(result, *types)(self.native.symbol(f"{self.module.name}_{name}"))
        setattr(self, name, call)
        return call

    def call(self, name: str, *args: int, now: int = 0) -> int:
        """A function of a module whose state does not matter."""
        result: int = getattr(self, name)(self.state, now, *args)
        return result


class Device(Code):
    """An instance of a module, with the ABI functions that follow from the layout."""

    def __init__(self, module: ir.Module, *params: int, now: int = 0, opt: int = jit.QUICK) -> None:
        super().__init__(module, opt)
        stored = [p for p in module.params if p.slot is not None]
        self.bind("init", None, POINTER, U64, *[U64] * len(stored))
        self.bind("save", None, POINTER, U64, POINTER)
        self.bind("restore", U32, POINTER, U64, POINTER, U64)
        for region in module.regions:
            self.bind(f"{region.name}_peek", U64, POINTER, U64, U32, U32)
        values = params or tuple(p.default for p in stored)
        self.init(self.state, now, *(value % 2**64 for value in values))

    @property
    def bytes(self) -> bytes:
        return self.state.raw

    def value(self, name: str, *index: int) -> int:
        """A slot's element."""
        slot = self.module.slot(name)
        at = slot.offset + sum(i * stride for i, (_, stride) in zip(index, slot.dims, strict=True))
        return int.from_bytes(self.state.raw[at : at + slot.size], "little", signed=slot.type.signed)

    def saved(self, now: int) -> bytes:
        buffer = ctypes.create_string_buffer(image.image_size(self.module))
        self.save(self.state, now, buffer)
        return buffer.raw

    def restored(self, now: int, content: bytes) -> int:
        code: int = self.restore(self.state, now, content, len(content))
        return code
