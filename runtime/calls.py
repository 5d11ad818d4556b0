"""A device's calls as records: what the kernel's programs are given, and native code may serve too.

A record says what to do (`READ`, `WRITE`, `SETTLE`, `DEADLINE`), where and when;
`value` is what is written or was read, or the deadline; `status` is the answer.
The state's lock is taken for each (docs/abi.md). Layouts as `struct devc_call`
and its companions in the objects of `devc compile --emit bpf` (docs/bpf.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ..compiler import ir
from .native_module import compile_text, expand, read_text

if TYPE_CHECKING:
    from ..compiler.jit import NativeCode

READ, WRITE, SETTLE, DEADLINE = range(4)
"""`Call.what`."""
SERVED, BUSY, USER_SPACE, NO_REGION = range(4)
"""`Call.status`: done; the lock was held by another; Python must serve it, and nothing has changed;
there is no such region, or no such `what`."""

TRIES = 1000
"""Looks at a held lock before a call gives up as busy: a few microseconds, longer than any handler."""

CAPACITY = 256
"""Calls that the kernel's `calls` map holds."""
MOST_ROUNDS = 32_768
"""How often one run of the batch program goes through them."""


class Call(ctypes.Structure):
    """`struct devc_call`: 40 bytes."""

    _fields_ = [
        ("now", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("offset", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("region", ctypes.c_uint32),
        ("what", ctypes.c_uint32),
        ("status", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


class Batch(ctypes.Structure):
    """`struct devc_batch`: `count` calls from `first` on, all of it `repeat` times; `done` were served."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("first", "count", "done", "repeat")]


class StateHead(ctypes.Structure):
    """The head of a state, docs/abi.md."""

    _fields_ = [(s.name, ctypes.c_uint64 if s.size == 8 else ctypes.c_uint32) for s in ir.HEADER]


class Handlers(ctypes.Structure):
    """A state and its native handlers, for calls.ll: read and write by the region's number."""

    _fields_ = [
        ("state", ctypes.c_void_p),
        ("settle", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("reads", ctypes.c_void_p),
        ("writes", ctypes.c_void_p),
        ("regions", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


_STRUCTURES = (Call, StateHead, Handlers)
_CONSTANTS = {
    name: globals()[name]
    for name in ("READ", "WRITE", "SETTLE", "DEADLINE", "SERVED", "BUSY", "USER_SPACE", "NO_REGION", "TRIES")
} | {"ATTENTION_LEAVE": ir.ATTENTION_LEAVE}
_SYMBOLS = ("devc_serve", "devc_serve_all", "devc_try_hold", "devc_let_go")


@cache
def _code() -> NativeCode:
    return compile_text(expand(read_text(__package__, "calls.ll"), _STRUCTURES, _CONSTANTS), _SYMBOLS)


@cache
def _function(name: str) -> Any:
    """A function of calls.ll. It gives up Python's lock while it runs, which may be long for many calls."""
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    signatures: dict[str, tuple[Any, ...]] = {
        "devc_serve": (number, pointer, pointer),
        "devc_serve_all": (ctypes.c_uint64, pointer, pointer, number, number),
        "devc_try_hold": (number, pointer, number),
        "devc_let_go": (None, pointer),
    }
    result, *arguments = signatures[name]
    kind = ctypes.CFUNCTYPE if name == "devc_serve_all" else ctypes.PYFUNCTYPE
    return kind(result, *arguments)(_code().symbol(name))


class NativeCalls:
    """Serves call records with a device's native handlers, on the state at `address`."""

    def __init__(self, code: NativeCode, module: ir.Module, address: int) -> None:
        names = [f"{module.name}_{region.name}" for region in module.regions]
        self._code = code
        self._reads, self._writes = (
            (ctypes.c_void_p * max(len(names), 1))(*(code.symbol(f"{name}_{kind}") for name in names))
            for kind in ("read", "write")
        )
        self._handlers = Handlers(
            address, code.symbol(f"{module.name}_settle"), code.symbol(f"{module.name}_next"),
            ctypes.addressof(self._reads), ctypes.addressof(self._writes), len(names),
        )  # fmt: skip
        self._where = ctypes.addressof(self._handlers)
        self._serve = _function("devc_serve")

    def serve(self, call: Call) -> int:
        """Serve one; its status."""
        status: int = self._serve(self._where, ctypes.addressof(call))
        return status

    def serve_all(self, calls: ctypes.Array[Call], count: int, rounds: int = 1) -> int:
        """Serve the first `count`, `rounds` times, up to one that is not served: how many were."""
        if not 0 <= count <= len(calls):
            raise ValueError(f"{count} calls of an array of {len(calls)}")
        done: int = _function("devc_serve_all")(self._where, ctypes.addressof(calls), count, rounds)
        return done


def try_hold(address: int, tries: int = TRIES) -> bool:
    """Take the lock of the state at `address`, if it becomes free within `tries` looks."""
    return bool(_function("devc_try_hold")(address, tries) == SERVED)


def let_go(address: int) -> None:
    """Give the lock back that `try_hold` took."""
    _function("devc_let_go")(address)


def make_calls(wanted: Sequence[Call]) -> ctypes.Array[Call]:
    """An array of call records."""
    return (Call * len(wanted))(*wanted)
