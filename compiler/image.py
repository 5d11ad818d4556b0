"""The saved image of a device (docs/abi.md, "The saved image"): pack, check, unpack.

The layout of the state struct is not in the image: only the values of `param`
and `state` slots are, in layout order and little-endian, behind a hash of what
they are. The state struct itself is in the host's byte order.

Non-goals: upgrading an older version's image; which instants make sense.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from .ir import Module, Slot, elements

MAGIC = b"devc-dev"
FORMAT = 1
HEAD = struct.Struct("<8sIIQQ")
"""magic, format, the device's version, layout hash, `now` at the save."""

LENGTH, MAGIC_WRONG, FORMAT_WRONG, LAYOUT, PARAMETERS, VALUE, INSTANT = range(1, 8)
"""Why `DEV_restore` refuses an image, in the order in which it looks."""

Buffer = bytes | bytearray | memoryview

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class ImageError(Exception):
    """An image was refused; `code` is the one that `DEV_restore` returns (1..7)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def saved(module: Module) -> tuple[Slot, ...]:
    """The slots that an image holds, in its order."""
    return tuple(slot for slot in module.slots if slot.kind in ("param", "state"))


def slot_code(slot: Slot) -> str:
    """The `struct` and `memoryview` letter of one element."""
    code = _CODES[slot.size]
    return code.lower() if slot.type.signed else code


def image_size(module: Module) -> int:
    """`DEV_IMAGE_SIZE`: the bytes of every image of this module."""
    return HEAD.size + _codec(module.slots).values.size


def layout_text(module: Module) -> str:
    """What the layout hash is taken over.

    `name version`, then for every saved slot `name size dims lo hi`, each line
    ended by a line feed; `dims` is the counts joined by `x`, or `-` for none.
    """
    head = f"{module.name} {module.version}\n"
    return head + "".join(
        f"{s.name} {s.size} {'x'.join(str(count) for count, _ in s.dims) or '-'} {s.type.lo} {s.type.hi}\n"
        for s in saved(module)
    )


def layout_hash(module: Module) -> int:
    """The first 8 bytes of SHA-256 over `layout_text`, as a little-endian u64."""
    return int.from_bytes(hashlib.sha256(layout_text(module).encode()).digest()[:8], "little")


def pack(module: Module, state: Buffer, now: int) -> bytes:
    """The image of a settled state at the instant `now` (ns)."""
    codec = _codec(module.slots)
    head = HEAD.pack(MAGIC, FORMAT, module.version, layout_hash(module), now)
    return head + codec.values.pack(
        *(place.code.unpack_from(state, place.offset)[0] for place in codec.places)
    )


def check(module: Module, state: Buffer, image: Buffer, now: int) -> ImageError | None:
    """Why `image` may not be restored at `now` into the instance that `state` belongs to, if so."""
    size = image_size(module)
    if len(image) != size:
        return ImageError(LENGTH, f"an image of {module.name} has {size} bytes, this one has {len(image)}")
    magic, form, version, layout, since = HEAD.unpack_from(image)
    if magic != MAGIC:
        return ImageError(MAGIC_WRONG, f"not a saved device: it begins with {magic!r}, not {MAGIC!r}")
    if form != FORMAT:
        return ImageError(FORMAT_WRONG, f"image format {form}; this devc reads format {FORMAT}")
    if version != module.version:
        return ImageError(LAYOUT, f"saved by version {version} of {module.name}, this is {module.version}")
    if layout != layout_hash(module):
        return ImageError(LAYOUT, f"saved with another layout of the state than this {module.name} has")
    refused = _check_values(module, state, image)
    if refused is None and since > now:
        refused = ImageError(INSTANT, f"saved at {since} ns, which is after the present instant, {now} ns")
    return refused


def unpack(module: Module, state: bytearray | memoryview, image: Buffer, now: int) -> int:
    """Put a checked image into `state` and return the instant (ns) of its save.

    Everything that the image does not hold becomes 0; the caller then runs
    `resume` at that instant and settles to `now`. Raises `ImageError`, with
    nothing changed, for a refused image.
    """
    refused = check(module, state, image, now)
    if refused:
        raise refused
    codec = _codec(module.slots)
    state[:] = bytes(len(state))
    for place, value in zip(codec.places, codec.values.unpack_from(image, HEAD.size), strict=True):
        place.code.pack_into(state, place.offset, value)
    since: int = HEAD.unpack_from(image)[4]
    return since


def slot_values(module: Module, image: Buffer) -> Mapping[tuple[str, tuple[int, ...]], int]:
    """Every saved element of an image of the right length, by slot name and index."""
    codec = _codec(module.slots)
    values = codec.values.unpack_from(image, HEAD.size)
    return {(p.slot.name, p.index): value for p, value in zip(codec.places, values, strict=True)}


@dataclass(frozen=True, slots=True)
class _Place:
    """One element of a saved slot, and where it is in the state struct."""

    slot: Slot
    index: tuple[int, ...]
    offset: int
    code: struct.Struct

    @property
    def label(self) -> str:
        return self.slot.name + "".join(f"[{i}]" for i in self.index)


@dataclass(frozen=True, slots=True)
class _Codec:
    places: tuple[_Place, ...]
    values: struct.Struct


@lru_cache(maxsize=64)
def _codec(slots: tuple[Slot, ...]) -> _Codec:
    places = tuple(_places(slots))
    return _Codec(places, struct.Struct("<" + "".join(slot_code(p.slot) for p in places)))


def _places(slots: tuple[Slot, ...]) -> Iterator[_Place]:
    for slot in slots:
        if slot.kind in ("param", "state"):
            code = struct.Struct("=" + slot_code(slot))
            for index, offset in elements(slot):
                yield _Place(slot, index, offset, code)


def _check_values(module: Module, state: Buffer, image: Buffer) -> ImageError | None:
    codec = _codec(module.slots)
    found = list(zip(codec.places, codec.values.unpack_from(image, HEAD.size), strict=True))
    for place, value in found:
        if place.slot.kind == "param":
            (own,) = place.code.unpack_from(state, place.offset)
            if value != own:
                return ImageError(PARAMETERS, f"saved with {place.label} = {value}, this instance has {own}")
    for place, value in found:
        if not place.slot.type.lo <= value <= place.slot.type.hi:
            allowed = f"{place.slot.type.lo}..{place.slot.type.hi}"
            return ImageError(VALUE, f"{place.label} = {value} in the image is outside {allowed}")
    return None
