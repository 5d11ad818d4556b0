"""Images of older checkpoints, rewritten to the present layout.

An element is found by its slot's name and index. New ones begin at their reset
values; then the device file's steps run in order, from the image's version to
the present one, on the reference engine. What comes out is an image like any
other, and is checked like any other.

An older image is as hostile as any: its values must lie in the ranges that its
own layout had, and fit the present slots, unless a step takes them.

Non-goals: which layouts were (locks.py), native code: this happens once an image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from . import image as images
from . import ir, locks
from .image import HEAD, ImageError, Layout, label
from .reference import Functions, reference


class Upgrader:
    """What knows the older layouts of one device, and the way from them."""

    def __init__(self, module: Callable[[], ir.Module], device_file: Path | None) -> None:
        """`module`: gives the present one with its functions; `device_file`: its lock lies beside it.

        Both are looked at when an older image comes, and not before.
        """
        self._module = module
        self._file = device_file

    def current(self, image: bytes, module: ir.Module, params: Mapping[str, int]) -> bytes:
        """The image itself, or what it is in the present layout if an older version saved it.

        `params`: the instance's, by slot. Raises ImageError; codes as `DEV_restore`'s.
        """
        if len(image) < HEAD.size:
            return image
        magic, form, version, _, _ = HEAD.unpack_from(image)
        if (magic, form) != (images.MAGIC, images.FORMAT) or version >= module.version:
            return image
        return self._upgraded(image, version, params)

    def _upgraded(self, image: bytes, version: int, params: Mapping[str, int]) -> bytes:
        module = self._module()
        steps = _steps(module, version)
        layout = self._layout(module.name, version)
        values = _values(layout, image, params)
        since: int = HEAD.unpack_from(image)[4]
        state, functions = _fresh(module, params, since)
        _carry(module, steps[0], layout, values, state)
        functions["resume"](since)
        for step in steps:
            functions[step.function](since, *(_argument(former, values) for former in step.formers))
        return images.pack(module, state, since)

    def _layout(self, device: str, version: int) -> Layout:
        path = locks.beside(self._file) if self._file is not None else None
        try:
            layouts = locks.read(path, device) if path is not None else {}
        except locks.LockError as error:
            raise ImageError(images.LAYOUT, str(error)) from None
        if version not in layouts:
            where = f"in {path.name}" if path is not None else "anywhere"
            raise ImageError(
                images.LAYOUT,
                f"saved by version {version} of {device}, whose layout is not recorded {where}",
            )
        return layouts[version]


def _steps(module: ir.Module, version: int) -> list[ir.Upgrade]:
    known = {step.version: step for step in module.upgrades}
    for each in range(version, module.version):
        if each not in known:
            raise ImageError(
                images.LAYOUT,
                f"saved by version {version} of {module.name}, this is {module.version}, and its checkpoint "
                f"does not say how version {each} is upgraded ('from {each}: ...')",
            )
    return [known[each] for each in range(version, module.version)]


def _values(layout: Layout, image: bytes, params: Mapping[str, int]) -> images.Values:
    """The older image's values, checked by its own layout and the instance's parameters."""
    version, found = HEAD.unpack_from(image)[2:4]
    if found != layout.hash:
        raise ImageError(
            images.LAYOUT, f"saved with another layout than version {version} of {layout.device} had"
        )
    if len(image) != layout.image_size:
        raise ImageError(
            images.LENGTH,
            f"an image of version {version} of {layout.device} has {layout.image_size} bytes, "
            f"this one has {len(image)}",
        )
    values = layout.values(image)
    for slot in layout.slots:
        if slot.kind == "param" and params.get(slot.name, values[slot.name, ()]) != values[slot.name, ()]:
            raise ImageError(
                images.PARAMETERS,
                f"saved with {slot.name} = {values[slot.name, ()]}, this instance has {params[slot.name]}",
            )
    for slot in layout.slots:
        for index in slot.indices:
            if not slot.type.lo <= values[slot.name, index] <= slot.type.hi:
                raise images.outside(slot.name, index, values[slot.name, index], slot.type)
    return values


def _fresh(module: ir.Module, params: Mapping[str, int], since: int) -> tuple[bytearray, Functions]:
    """A device of the present version, reset at the image's instant, and the functions over it."""
    state = bytearray(module.size)
    functions = reference(module).bind(state)
    for slot in images.saved(module):
        if slot.kind == "param":
            struct.pack_into("=" + images.slot_code(slot), state, slot.offset, params[slot.name])
    functions["reset"](since)
    return state, functions


def _carry(
    module: ir.Module, first: ir.Upgrade, layout: Layout, values: images.Values, state: bytearray
) -> None:
    """Put what the older image held over the reset values, by name and index.

    A value that does not fit any more is for the step of the image's own version to take.
    """
    taken = {(former.slot, former.index) for former in first.formers}
    kinds = {slot.name: slot.kind for slot in layout.slots}
    for slot in images.saved(module):
        if slot.kind != "state" or kinds.get(slot.name) != "state":
            continue
        for index, offset in ir.elements(slot):
            value = values.get((slot.name, index))
            if value is None:
                continue
            if slot.type.lo <= value <= slot.type.hi:
                struct.pack_into("=" + images.slot_code(slot), state, offset, value)
            elif (slot.name, index) not in taken:
                raise images.outside(slot.name, index, value, slot.type)


def _argument(former: ir.Former, values: images.Values) -> int:
    value = values.get((former.slot, former.index), former.default)
    if value is None:
        raise ImageError(
            images.LAYOUT,
            f"an upgrade takes {label(former.slot, former.index)}, which this image does not hold",
        )
    if not former.type.lo <= value <= former.type.hi:
        raise images.outside(former.slot, former.index, value, former.type)
    return value
