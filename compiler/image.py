"""The saved image of a device (docs/abi.md, "The saved image"): pack, check, unpack.

The layout of the state struct is not in the image: only the values of `param`
and `state` slots are, in layout order and little-endian, behind a hash of what
they are. The state struct itself is in the host's byte order.

Non-goals: images of older versions (upgrade.py).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod

from .ir import LOCK_AT, UNLOCKED_AT, Module, Range, Slot, elements

MAGIC = b"devc-dev"
FORMAT = 1
HEAD = struct.Struct("<8sIIQQ")
"""magic, format, the device's version, layout hash, `now` at the save."""

LENGTH, MAGIC_WRONG, FORMAT_WRONG, LAYOUT, PARAMETERS, VALUE, INSTANT = range(1, 8)
"""Why `DEV_restore` refuses an image, in the order in which it looks."""

Buffer = bytes | bytearray | memoryview
Values = Mapping[tuple[str, tuple[int, ...]], int]
"""Saved elements, by slot name and index."""

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class ImageError(Exception):
    """An image was refused; `code` is the one that `DEV_restore` returns (1..7)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# --- what an image holds -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SavedSlot:
    """A slot as an image holds it; `counts`: of elements, outermost first."""

    kind: str  # "param" or "state"
    name: str
    size: int
    counts: tuple[int, ...]
    type: Range

    @property
    def indices(self) -> Iterator[tuple[int, ...]]:
        """Of every element, in the image's order."""
        return product(*(range(count) for count in self.counts))

    @property
    def text(self) -> str:
        counts = "x".join(map(str, self.counts)) or "-"
        return f"{self.name} {self.size} {counts} {self.type.lo} {self.type.hi}"


@dataclass(frozen=True)
class Layout:
    """What the images of one version of a device hold, in their order."""

    device: str
    version: int
    slots: tuple[SavedSlot, ...]

    @property
    def text(self) -> str:
        """What the layout hash is taken over.

        `name version`, then for every saved slot `name size dims lo hi`, each line
        ended by a line feed; `dims` is the counts joined by `x`, or `-` for none.
        """
        return "".join(
            f"{line}\n" for line in (f"{self.device} {self.version}", *(s.text for s in self.slots))
        )

    @cached_property
    def hash(self) -> int:
        """The first 8 bytes of SHA-256 over `text`, as a little-endian u64."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "little")

    @cached_property
    def codec(self) -> struct.Struct:
        """The values of an image, without its head."""
        return struct.Struct("<" + "".join(_code(s.size, s.type) * prod(s.counts) for s in self.slots))

    @property
    def image_size(self) -> int:
        """Bytes of every image of this layout."""
        return HEAD.size + self.codec.size

    def values(self, image: Buffer) -> dict[tuple[str, tuple[int, ...]], int]:
        """Every element that an image of the right size holds."""
        places = ((slot.name, index) for slot in self.slots for index in slot.indices)
        return dict(zip(places, self.codec.unpack_from(image, HEAD.size), strict=True))


def layout(module: Module) -> Layout:
    """What the images of this module hold."""
    return _layout(module.name, module.version, module.slots)


@lru_cache(maxsize=64)
def _layout(name: str, version: int, slots: tuple[Slot, ...]) -> Layout:
    held = (s for s in slots if s.kind in ("param", "state"))
    return Layout(
        name,
        version,
        tuple(SavedSlot(s.kind, s.name, s.size, tuple(count for count, _ in s.dims), s.type) for s in held),
    )


def saved(module: Module) -> tuple[Slot, ...]:
    """The slots that an image holds, in its order."""
    return tuple(slot for slot in module.slots if slot.kind in ("param", "state"))


def _code(size: int, kind: Range) -> str:
    code = _CODES[size]
    return code.lower() if kind.signed else code


def slot_code(slot: Slot) -> str:
    """The `struct` and `memoryview` letter of one element."""
    return _code(slot.size, slot.type)


def image_size(module: Module) -> int:
    """`DEV_IMAGE_SIZE`: the bytes of every image of this module."""
    return layout(module).image_size


def layout_text(module: Module) -> str:
    """What the layout hash is taken over."""
    return layout(module).text


def layout_hash(module: Module) -> int:
    """The hash in the head of the module's images."""
    return layout(module).hash


def label(name: str, index: tuple[int, ...]) -> str:
    """An element as messages name it."""
    return name + "".join(f"[{i}]" for i in index)


# --- packing and unpacking -----------------------------------------------------


def pack(module: Module, state: Buffer, now: int) -> bytes:
    """The image of a settled state at the instant `now` (ns)."""
    head = HEAD.pack(MAGIC, FORMAT, module.version, layout_hash(module), now)
    return head + layout(module).codec.pack(
        *(place.code.unpack_from(state, place.offset)[0] for place in _places(module.slots))
    )


def replaced(module: Module, image: Buffer, values: Values) -> bytes:
    """An image of this module with other values at some elements; they must fit their slots' sizes."""
    known = layout(module).values(image)
    if not values.keys() <= known.keys():
        raise KeyError(next(iter(values.keys() - known.keys())))
    return bytes(image[: HEAD.size]) + layout(module).codec.pack(*(known | dict(values)).values())


def check(module: Module, state: Buffer, image: Buffer, now: int) -> ImageError | None:
    """Why `image` may not be restored at `now` into the instance that `state` belongs to, if so."""
    size = image_size(module)
    if len(image) != size:
        return ImageError(LENGTH, f"an image of {module.name} has {size} bytes, this one has {len(image)}")
    magic, form, version, found, since = HEAD.unpack_from(image)
    if magic != MAGIC:
        return ImageError(MAGIC_WRONG, f"not a saved device: it begins with {magic!r}, not {MAGIC!r}")
    if form != FORMAT:
        return ImageError(FORMAT_WRONG, f"image format {form}; this devc reads format {FORMAT}")
    if version != module.version:
        return ImageError(LAYOUT, f"saved by version {version} of {module.name}, this is {module.version}")
    if found != layout_hash(module):
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
    state[:LOCK_AT] = bytes(LOCK_AT)
    state[UNLOCKED_AT:] = bytes(len(state) - UNLOCKED_AT)
    values = layout(module).codec.unpack_from(image, HEAD.size)
    for place, value in zip(_places(module.slots), values, strict=True):
        place.code.pack_into(state, place.offset, value)
    since: int = HEAD.unpack_from(image)[4]
    return since


def outside(name: str, index: tuple[int, ...], value: int, allowed: Range) -> ImageError:
    """The refusal of a value that its slot does not allow."""
    return ImageError(
        VALUE, f"{label(name, index)} = {value} in the image is outside {allowed.lo}..{allowed.hi}"
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """One element of a saved slot, and where it is in the state struct."""

    slot: Slot
    index: tuple[int, ...]
    offset: int
    code: struct.Struct


@lru_cache(maxsize=64)
def _places(slots: tuple[Slot, ...]) -> tuple[_Place, ...]:
    made: list[_Place] = []
    for slot in slots:
        if slot.kind in ("param", "state"):
            code = struct.Struct("=" + slot_code(slot))
            made += (_Place(slot, index, offset, code) for index, offset in elements(slot))
    return tuple(made)


def _check_values(module: Module, state: Buffer, image: Buffer) -> ImageError | None:
    values = layout(module).codec.unpack_from(image, HEAD.size)
    found = list(zip(_places(module.slots), values, strict=True))
    for place, value in found:
        if place.slot.kind == "param":
            (own,) = place.code.unpack_from(state, place.offset)
            if value != own:
                name = label(place.slot.name, place.index)
                return ImageError(PARAMETERS, f"saved with {name} = {value}, this instance has {own}")
    for place, value in found:
        if not place.slot.type.lo <= value <= place.slot.type.hi:
            return outside(place.slot.name, place.index, value, place.slot.type)
    return None
