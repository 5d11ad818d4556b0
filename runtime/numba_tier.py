"""The numba tier: handlers written in Python, compiled, and called from the native loop.

A part with `tier numba` is a file of functions (plain_functions.py says of what
form) in the subset that numba compiles without the interpreter. Each becomes a
C function over the state struct:

    uint32_t (void *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value, uint64_t *answer)

It loads the declared reads, calls the function, checks and stores what it
writes, and returns SAME, CHANGED (then `commit` is due) or FAILED: nothing has
happened, and the interpreter serves the access with the same function. So an
error is reported with its place, and what does not fit in machine integers is
still answered exactly; both at the price of a heavy exit.

A compiled handler cannot do harm: indices are checked, it allocates nothing, it
never enters the interpreter; numba's helpers are not linked to it. So an object
needs nothing but this process, and comes from devc's cache without numba being
imported. (numba's own cache would import it, half a second, and trust pickles.)

Integers are 64 bits wide: what a function computes must fit in them, or agree
with Python after `& 0xffff_ffff_ffff_ffff`; a shift is by 0 to 63.

Non-goals: handlers that finish, keep something or open files (python_tier.py).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from ..compiler import ir, jit
from ..compiler.cache import Cache
from .bus import HANDLER_CHANGED, HANDLER_FAILED, HandlerEntry
from .handler_file import PythonTierError
from .plain_functions import DIRECTIONS, Direction, PlainFunctions, is_wide

FORMAT = 1
"""Raised when what is made of the same file changes."""

SYMBOL = "devc_handler"

SAME, CHANGED, FAILED = 0, HANDLER_CHANGED, HANDLER_FAILED


@dataclass(frozen=True, slots=True)
class Cell:
    """An element of the state: its offset in the struct, its size in bytes, its values."""

    offset: int
    size: int
    type: ir.Range

    @property
    def wide(self) -> bool:
        return is_wide(self.type)


@dataclass(frozen=True, slots=True)
class Task:
    """One function to compile. `wide_value`: what is written may take all of 64 bits."""

    part: ir.Python
    direction: Direction
    reads: tuple[Cell, ...]
    writes: tuple[Cell, ...]
    state_size: int
    wide_value: bool

    @property
    def function(self) -> str:
        return f"{self.part.name}_{self.direction}"


@dataclass(frozen=True)
class Compiled:
    """Compiled handlers of one device. `table` has an entry a Python part, by its number."""

    table: ctypes.Array[HandlerEntry]
    code: tuple[jit.NativeCode, ...]


def compile_parts(module: ir.Module, plain: Mapping[int, PlainFunctions]) -> Compiled:
    """Compile the functions of the parts with these numbers. Raises PythonTierError."""
    table = (HandlerEntry * len(module.pythons))()
    kept: list[jit.NativeCode] = []
    for number, part in plain.items():
        for direction in part.functions:
            code = _compile(_task(module, module.pythons[number], direction), part.file)
            kept.append(code)
            setattr(table[number], direction, code.symbol(SYMBOL))
    return Compiled(table, tuple(kept))


def _task(module: ir.Module, part: ir.Python, direction: Direction) -> Task:
    wide = any(
        register.width == 8 and register.write_tier == "numba"
        for region in module.regions
        for register in region.registers
    )
    reads, writes = (tuple(_cells(module, places)) for places in (part.reads, part.writes))
    return Task(part, direction, reads, writes, module.size, wide)


def _cells(module: ir.Module, places: Iterable[tuple[str, str, tuple[int, ...]]]) -> Iterable[Cell]:
    for _, name, index in places:
        slot = module.slot(name)
        offset = dict(ir.elements(slot))[index]
        yield Cell(offset, slot.size, slot.type)


# --- one function ----------------------------------------------------------------

_compiled: dict[str, jit.NativeCode] = {}


def _compile(task: Task, file: ModuleType) -> jit.NativeCode:
    """Machine code: this process's, the cache's, or made now."""
    key = _key(task, file)
    if key not in _compiled:
        store = Cache.default()
        image = store.get("handler", key) if store else None
        cached = image is not None
        if image is None:
            from .numba_compiler import compile_handler  # and with it numba: 500 ms

            image = compile_handler(task, file)
            if store:
                store.put("handler", key, image)
        _compiled[key] = jit.load([image], (SYMBOL,), cached, key)
    return _compiled[key]


def _key(task: Task, file: ModuleType) -> str:
    """A digest of what the object depends on. (Not of what the file imports: that is
    a package, and is expected to have a version of its own.)"""
    text = Path(str(file.__file__)).read_bytes()
    parts = [FORMAT, _numba_version(), jit.identity(jit.host(), 2), repr(task), text.hex(), _constants(file)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _constants(file: ModuleType) -> list[str]:
    """The globals that numba compiles in as constants; they may depend on more than the text."""
    found = []
    for name, value in sorted(vars(file).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, (int, float, str, bytes, tuple)):
            found.append(f"{name} = {value!r}")
        elif hasattr(value, "tobytes") and hasattr(value, "dtype"):
            found.append(f"{name} = {value.dtype} {value.shape} {value.tobytes().hex()}")
    return found


@cache
def _numba_version() -> str:
    try:
        return metadata.version("numba")
    except metadata.PackageNotFoundError:
        raise PythonTierError("a part of tier numba needs numba: pip install numba") from None


__all__ = ["CHANGED", "DIRECTIONS", "FAILED", "SAME", "Cell", "Compiled", "Task", "compile_parts"]
