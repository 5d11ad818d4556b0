"""Native code from commented LLVM text (`.ll` files of this package).

The text may name the fields of ctypes structures and integer constants, so
that a layout is declared once, in Python:

    $Bus.ports      index of field `ports` in `%Bus`, for a getelementptr
    $HEAVY          the value of the constant HEAVY

and each structure handed over is declared in front of it as an LLVM type. A
host's loop is compiled together with the dispatcher's text, so that it may be
inlined.

Non-goals: code generated from a device's IR (compiler/native.py).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, cast

import llvmlite.binding as llvm

from ..compiler import jit
from ..compiler.cache import Cache
from ..compiler.jit import NativeCode

OPTIMISATION = 2

_PLACE = re.compile(r"\$(\w+)(?:\.(\w+))?")

_INTEGERS = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}


class NativeModuleError(Exception):
    """The text of a native module, or a structure that it names, is wrong."""


def llvm_type(kind: type[Any]) -> str:
    """The LLVM type with the layout of a ctypes integer, pointer, array or structure."""
    if issubclass(kind, ctypes.Structure):
        return f"%{kind.__name__}"
    if issubclass(kind, ctypes.Array):
        return f"[{kind._length_} x {llvm_type(cast(type[Any], kind._type_))}]"
    if kind is ctypes.c_void_p:
        return "ptr"
    size = ctypes.sizeof(kind)
    if not issubclass(kind, ctypes._SimpleCData) or size not in _INTEGERS:
        raise NativeModuleError(f"{kind.__name__} has no LLVM counterpart; use fixed-width integers")
    return _INTEGERS[size]


def declare(structures: Sequence[type[ctypes.Structure]]) -> str:
    """LLVM type declarations for the structures, in order."""
    lines = []
    for structure in structures:
        members = ", ".join(llvm_type(cast(type[Any], f[1])) for f in structure._fields_)
        lines.append(f"%{structure.__name__} = type {{ {members} }}")
    return "\n".join(lines) + "\n"


def expand(text: str, structures: Sequence[type[ctypes.Structure]], constants: Mapping[str, int]) -> str:
    """The text with every `$Structure.field` and `$CONSTANT` replaced by its number."""
    fields = {s.__name__: {f[0]: i for i, f in enumerate(s._fields_)} for s in structures}

    def number(match: re.Match[str]) -> str:
        name, member = match.groups()
        try:
            return str(constants[name] if member is None else fields[name][member])
        except KeyError:
            raise NativeModuleError(f"{match.group(0)} names no field and no constant") from None

    return declare(structures) + _once(_PLACE.sub(number, text))


def _once(text: str) -> str:
    """Each of the files put together declares what it calls; LLVM takes a declaration once."""
    seen: set[str] = set()
    lines = []
    for line in text.splitlines():
        if line.startswith("declare ") and line in seen:
            continue
        seen.add(line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def read_text(package: str, name: str) -> str:
    """A `.ll` file that is installed beside the modules of `package`."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def compile_text(text: str, symbols: Sequence[str]) -> NativeCode:
    """Machine code of LLVM text for this CPU, from the object cache if it is there."""
    llvm.initialize_native_asmparser()  # for inline assembly
    target, cache = jit.host(), Cache.default()
    key = jit.object_key(text, target, OPTIMISATION)
    image = cache.get("object", key) if cache else None
    cached = image is not None
    if image is None:
        try:
            module, machine = jit.optimise(text, target, OPTIMISATION, jit=True)
        except RuntimeError as error:
            raise NativeModuleError(str(error)) from None
        image = machine.emit_object(module)
        if cache:
            cache.put("object", key, image)
    return jit.load([image], tuple(symbols), cached)
