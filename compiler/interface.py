"""A device's interface as JSON: everything of an `ir.Module` but its functions.

A cached device is then rebuilt without its source being parsed: layout,
registers, lines and parameters from here, code from the object cache. Each
record is an array of its dataclass's fields in order; what is read is checked
for shape and type, and for nothing else (an entry's digest is the cache's part).

Non-goals: functions; an exchange format, as it changes with ir.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from .ir import Field, Input, Line, Module, Param, Python, Range, Region, Register, Slot

FORMAT = 3


class InterfaceError(ValueError):
    """The text is not an interface of this version of devc."""


def dump(module: Module) -> bytes:
    """The interface; a few KB."""
    document = ["devc interface", FORMAT, MODULE.write(module)]
    return json.dumps(document, separators=(",", ":")).encode()


def load(content: bytes) -> Module:
    """The module, without functions. Raises `InterfaceError`."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InterfaceError(f"not an interface: {error}") from None
    if not isinstance(document, list) or len(document) != 3 or document[:2] != ["devc interface", FORMAT]:
        _refuse("an interface of this format", document)
    module: Module = MODULE.read(document[2])
    return module


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one type is written as JSON and read back."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _refuse(wanted: str, found: object) -> NoReturn:
    raise InterfaceError(f"not an interface: {wanted} expected, found {str(found)[:60]!r}")


def _same(value: Any) -> Any:
    return value


def _checked(wanted: str, accept: Callable[[Any], bool]) -> _Codec:
    def read(value: Any) -> Any:
        return value if accept(value) else _refuse(wanted, value)

    return _Codec(_same, read)


def _one_of(*values: Any) -> _Codec:
    types = {type(value) for value in values}
    return _checked(f"one of {values}", lambda value: type(value) in types and value in values)


def _or(codec: _Codec, wanted: type, other: _Codec) -> _Codec:
    """`codec` for values of the type `wanted`, else `other`."""

    def read(value: Any) -> Any:
        return (codec if isinstance(value, wanted) else other).read(value)

    return _Codec(_same, read)


def _many(item: _Codec) -> _Codec:
    def read(value: Any) -> Any:
        return tuple(map(item.read, value)) if isinstance(value, list) else _refuse("an array", value)

    return _Codec(lambda values: [item.write(value) for value in values], read)


def _row(*items: _Codec, build: Callable[..., Any] = lambda *cells: cells) -> _Codec:
    """An array of a fixed length with a codec for each element."""

    def read(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(items):
            _refuse(f"an array of {len(items)}", value)
        return build(*(item.read(cell) for item, cell in zip(items, value, strict=True)))

    def write(values: Any) -> list[Any]:
        return [item.write(cell) for item, cell in zip(items, values, strict=True)]

    return _Codec(write, read)


def _record(kind: type[Any], constant: dict[str, Any] | None = None, /, **items: _Codec) -> _Codec:
    """A dataclass; `constant` gives the fields that are not written."""
    constant = constant or {}
    names = [field.name for field in dataclasses.fields(kind)]
    if [*items] != [name for name in names if name not in constant] or not {*constant} <= {*names}:
        raise TypeError(f"{kind.__name__} has the fields {names}; interface.py knows {[*items, *constant]}")

    def build(*cells: Any) -> Any:
        return kind(**dict(zip(items, cells, strict=True)), **constant) if constant else kind(*cells)

    row = _row(*items.values(), build=build)
    return _Codec(lambda value: row.write([getattr(value, name) for name in items]), row.read)


INTEGER = _checked("a 64-bit integer", lambda value: type(value) is int and -(2**63) <= value < 2**64)
TEXT = _checked("a text", lambda value: isinstance(value, str))
FLAG = _checked("a truth value", lambda value: isinstance(value, bool))
NOTHING = _checked("null", lambda value: value is None)
PLACE = _or(TEXT, str, INTEGER)
RANGE = _record(Range, lo=INTEGER, hi=INTEGER)
TIER = _one_of("native", "numba", "python", "none")
NAMES = _many(_row(TEXT, TEXT, _many(INTEGER)))

SLOT = _record(
    Slot,
    name=TEXT,
    type=RANGE,
    size=_one_of(1, 2, 4, 8),
    offset=INTEGER,
    dims=_many(_row(INTEGER, INTEGER)),
    kind=_one_of("header", "param", "state", "derived"),
    reset=INTEGER,
)
FIELD = _record(Field, name=TEXT, high=INTEGER, low=INTEGER, access=TEXT, doc=TEXT)
REGISTER = _record(
    Register,
    name=TEXT,
    offset=INTEGER,
    width=INTEGER,
    access=TEXT,
    read_tier=TIER,
    write_tier=TIER,
    fields=_many(FIELD),
    doc=TEXT,
    line=INTEGER,
)
REGION = _record(
    Region,
    name=TEXT,
    space=_one_of("io", "mmio", "host"),
    base=PLACE,
    size=INTEGER,
    registers=_many(REGISTER),
    split=FLAG,
)
LINE = _record(Line, name=TEXT, doc=TEXT, missed=TEXT, minimum=INTEGER, carries=NAMES)
INPUT = _record(Input, name=TEXT, slot=TEXT, bit=INTEGER, doc=TEXT)
PARAM = _record(Param, name=TEXT, type=RANGE, default=INTEGER, slot=_or(TEXT, str, NOTHING), doc=TEXT)
PYTHON = _record(
    Python,
    name=TEXT,
    file=TEXT,
    kind=_one_of("observer", "handler"),
    why=TEXT,
    reads=NAMES,
    writes=NAMES,
    line=INTEGER,
    tier=_one_of("python", "numba"),
)
MODULE = _record(
    Module,
    {"functions": (), "upgrades": ()},
    name=TEXT,
    doc=TEXT,
    version=INTEGER,
    params=_many(PARAM),
    slots=_many(SLOT),
    size=INTEGER,
    regions=_many(REGION),
    lines=_many(LINE),
    pythons=_many(PYTHON),
    inputs=_many(INPUT),
)
