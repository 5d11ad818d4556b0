"""Parts of the board: their registers, and what a saved guest keeps of them.

    @dataclass
    class Registers:
        lcr: int = bits(8)
        received: bytearray = field(default_factory=bytearray, metadata=octets(16))

    part.registers                      # an instance; all that the part remembers
    image = pack(part.registers)
    part.registers = unpack(Registers, image)   # PartError for anything it cannot be
    part.refresh()                      # the pin follows

An image is JSON, and is read as hostile: no field may be missing, too many, or
beyond its width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from ..machine import Machine


class PartError(ValueError):
    """An image that a part cannot have written; the message says which field."""


class Part(Protocol):
    """A part of the board that remembers something."""

    registers: Any

    def claim(self, machine: Machine) -> None:
        """Stand at its place on a PC. Raises MachineError if something else does."""

    def refresh(self) -> None:
        """Let what follows from the registers, a pin say, follow them."""

    def misfit(self, registers: Any) -> str:
        """Why registers of the right widths cannot be this part's, or an empty text."""


def bits(width: int, default: int = 0) -> Any:
    """A field: a number of so many bits."""
    return field(default=default, metadata={"most": (1 << width) - 1})


def flag(default: bool = False) -> Any:
    """A field: true or false."""
    return field(default=default, metadata={"flag": True})


def octets(most: int) -> Mapping[str, int]:
    """A field's metadata: a bytearray of at most so many bytes."""
    return {"length": most}


R = TypeVar("R")


def pack(registers: object) -> bytes:
    """The image of a dataclass made of `bits`, `flag` and `octets`."""
    values = {f.name: getattr(registers, f.name) for f in fields(registers)}  # type: ignore[arg-type]
    plain = {k: v.hex() if isinstance(v, bytearray) else v for k, v in values.items()}
    return json.dumps(plain).encode()


def unpack(kind: type[R], image: bytes) -> R:
    """The registers in an image. Raises PartError."""
    try:
        values = json.loads(image)
    except (ValueError, RecursionError):
        raise PartError("it is not JSON") from None
    known = {f.name: f.metadata for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or values.keys() != known.keys():
        raise PartError(f"its fields are not {', '.join(known)}")
    return kind(**{name: _value(name, value, known[name]) for name, value in values.items()})


def _value(name: str, value: object, metadata: Any) -> int | bool | bytearray:
    if "flag" in metadata:
        if isinstance(value, bool):
            return value
    elif "most" in metadata:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= metadata["most"]:
            return value
    elif isinstance(value, str) and len(value) <= 2 * metadata["length"]:
        try:
            return bytearray.fromhex(value)
        except ValueError:
            pass
    raise PartError(f"{name} cannot be {str(value)[:40]!r}")


__all__ = ["Part", "PartError", "bits", "flag", "octets", "pack", "unpack"]
