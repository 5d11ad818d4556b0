"""A part of tier numba, run by the interpreter: what its functions mean.

    def NAME_read(now, offset, width, READ...):         -> value, or (value, WRITE...)
    def NAME_write(now, offset, width, value, READ...): -> (WRITE...), or None if none is declared

`now` in ns, `offset` within the window, `width` in bytes; READ and WRITE are the
declared reads and writes, in the order of their declaration. Integers all. A
write that is stored in 64 bits unsigned is taken modulo 2**64; any other must
lie in its range, or the call has failed.

Every engine and the Python tier's errors go by this; compiled code
(numba_tier.py) answers the same or leaves the access to it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from ..compiler import ir
from .handler_file import PythonTierError

if TYPE_CHECKING:
    from .python_tier import Access, View

Direction = Literal["read", "write"]
DIRECTIONS: tuple[Direction, ...] = ("read", "write")

GIVEN: Mapping[Direction, tuple[str, ...]] = {
    "read": ("now", "offset", "width"),
    "write": ("now", "offset", "width", "value"),
}
"""What a function is given before the declared reads."""

_U64 = 2**64 - 1


class PlainFunctions:
    """The functions of one part, as a server of the Python tier. Raises PythonTierError."""

    def __init__(self, python: ir.Python, module: ir.Module, file: ModuleType) -> None:
        self.python = python
        self.file = file
        self._reads = [name for name, _, _ in python.reads]
        self._writes = [name for name, _, _ in python.writes]
        self._wide = {name for name, slot, _ in python.writes if is_wide(module.slot(slot).type)}
        found = {direction: find(file, python, direction) for direction in DIRECTIONS}
        self.functions = {direction: function for direction, function in found.items() if function}
        if not self.functions:
            raise PythonTierError(
                f"{file.__file__} defines neither {python.name}_read nor {python.name}_write, "
                f"which a part of tier numba serves registers with"
            )

    def read(self, view: View, access: Access) -> int:
        result = self._function("read")(view.now, access.offset, access.width, *self._seen(view))
        if not isinstance(result, tuple):
            return operator.index(result)
        self._store(view, result, 1)
        return operator.index(result[0])

    def write(self, view: View, access: Access) -> None:
        given = view.now, access.offset, access.width, access.value
        result = self._function("write")(*given, *self._seen(view))
        if result is not None or self._writes:
            self._store(view, result, 0)

    def _function(self, direction: Direction) -> Any:
        if direction not in self.functions:
            raise PythonTierError(f"there is no function {self.python.name}_{direction}")
        return self.functions[direction]

    def _seen(self, view: View) -> list[int]:
        return [view[name] for name in self._reads]

    def _store(self, view: View, result: object, first: int) -> None:
        if not isinstance(result, tuple) or len(result) != first + len(self._writes):
            direction: Direction = "read" if first else "write"
            raise TypeError(f"{self.python.name}_{direction} must return {shape(self.python, direction)}")
        for name, value in zip(self._writes, result[first:], strict=True):
            number = operator.index(value)
            view[name] = number & _U64 if name in self._wide else number


def is_wide(kind: ir.Range) -> bool:
    """Whether a value may need all of 64 bits unsigned; else it fits in as many signed."""
    return kind.hi >= 2**63


def shape(python: ir.Python, direction: Direction) -> str:
    """What a function returns, in words."""
    writes = [name for name, _, _ in python.writes]
    if direction == "read":
        return f"an integer, or a tuple ({', '.join(['value', *writes])})" if writes else "an integer"
    return f"a tuple ({', '.join(writes)}{',' if len(writes) == 1 else ''})" if writes else "nothing"


def find(file: ModuleType, python: ir.Python, direction: Direction) -> Any:
    """The plain function for a direction, also of one that is decorated for numba; None if there is none."""
    name = f"{python.name}_{direction}"
    function = getattr(file, name, None)
    function = getattr(function, "py_func", function)
    if function is None:
        return None
    code = getattr(function, "__code__", None)
    if code is None:
        raise PythonTierError(f"{file.__file__}: {name} is not a function")
    wanted = (*GIVEN[direction], *(_parameter(name) for name, _, _ in python.reads))
    if code.co_argcount != len(wanted) or code.co_kwonlyargcount or code.co_flags & _VARIADIC:
        raise PythonTierError(
            f"{file.__file__}:{code.co_firstlineno}: {name} takes {_signature(code)}; by the declaration of "
            f"{python.name} it is: def {name}({', '.join(wanted)})"
        )
    return function


_VARIADIC = 0x04 | 0x08  # CO_VARARGS, CO_VARKEYWORDS


def _parameter(name: str) -> str:
    """A name of a parameter for a declared read, such as `list[3]` or `status.tmr`."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _signature(code: Any) -> str:
    names: Sequence[str] = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return f"({', '.join(names)}{', ...' if code.co_flags & _VARIADIC else ''})"
