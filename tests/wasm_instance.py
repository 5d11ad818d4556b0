"""A device in wasmtime, behind the calls of every other engine's instance.

The emitted object runs as it is, without a linker. Its state lies at the very
end of the memory, so that an access one byte beyond it traps.
"""

from __future__ import annotations

import ctypes
from typing import Any

import wasmtime
from devc.compiler import image, ir, wasm
from devc.runtime.instance import ImageError, Instance, parameters

PAGE = 65536
U64 = 2**64 - 1


def signed(value: int, bits: int) -> int:
    """What the WebAssembly interface calls an i32 or i64."""
    value &= 2**bits - 1
    return value - 2**bits if value >> (bits - 1) else value


class Program:
    """A device type's object, validated and compiled by wasmtime."""

    def __init__(self, module: ir.Module) -> None:
        self.device = module
        self.object = wasm.object_code(module)
        self.engine = wasmtime.Engine()
        self.module = wasmtime.Module(self.engine, self.object)


class WasmInstance(Instance):
    """The first page holds the constants, the second the stack, the third the image and the state."""

    def __init__(self, program: Program, now: int, /, **params: int) -> None:
        module, store = program.device, wasmtime.Store(program.engine)
        values = parameters(module, params)
        self.store = store
        self.memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(3, 3)))
        top = wasmtime.Global(
            store, wasmtime.GlobalType(wasmtime.ValType.i32(), True), wasmtime.Val.i32(2 * PAGE)
        )
        linker = wasmtime.Linker(program.engine)
        linker.define(store, "env", "__linear_memory", self.memory)
        linker.define(store, "env", "__stack_pointer", top)
        self.exports = linker.instantiate(store, program.module).exports(store)
        self.stack_pointer = top
        whole = ctypes.c_char * (3 * PAGE)
        self.all = memoryview(
            whole.from_address(ctypes.addressof(self.memory.data_ptr(store).contents))
        ).cast("B")
        self.place = 3 * PAGE - module.size
        super().__init__(module, self.all[self.place :], values)
        self._image_at, self._image_size = 2 * PAGE, image.image_size(module)
        stored = [values[p.name] for p in module.params if p.slot is not None]
        self._call("init", now, *(signed(value, 64) for value in stored))

    def _call(self, name: str, now: int, *args: int) -> Any:
        function = self.exports[f"{self.module.name}_{name}"]
        return function(self.store, self.place, signed(now, 64), *args)

    def read(self, region: str, now: int, offset: int, width: int) -> int:
        return int(self._call(f"{region}_read", now, signed(offset, 32), signed(width, 32))) & U64

    def write(self, region: str, now: int, offset: int, width: int, value: int) -> None:
        self._call(f"{region}_write", now, signed(offset, 32), signed(width, 32), signed(value, 64))

    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        return int(self._call(f"{region}_peek", now, signed(offset, 32), signed(width, 32))) & U64

    def settle(self, now: int) -> None:
        self._call("settle", now)

    def levels(self, now: int) -> int:
        return int(self._call("levels", now)) & (2**32 - 1)

    def next(self, now: int) -> int:
        return int(self._call("next", now)) & U64

    def reset(self, now: int) -> None:
        self._call("reset", now)

    def commit(self, now: int) -> None:
        self._call("commit", now)

    def resume(self, now: int) -> None:
        self._call("resume", now)

    def save(self, now: int) -> bytes:
        self._call("save", now, self._image_at)
        return bytes(self.all[self._image_at : self._image_at + self._image_size])

    def restore(self, now: int, image_bytes: bytes) -> None:
        self.all[self._image_at : self._image_at + len(image_bytes)] = image_bytes
        code = self._call("restore", now, self._image_at, len(image_bytes))
        if code:
            why = image.check(self.module, self._memory, image_bytes, now & U64)
            raise ImageError(code, str(why))
