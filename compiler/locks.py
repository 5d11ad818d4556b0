"""Lock files: which layout the saved state had in each version of a device.

`NAME.lock` lies beside `NAME.dev` and belongs into version control. It is what
makes an image of an older version readable, and what makes a changed layout
under an unchanged version an error. A version, once recorded, is not recorded
otherwise: images of it may be out there.

Non-goals: images (image.py), upgrading them (upgrade.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from ..dsl.diagnostics import NOWHERE, Diagnostic, Span
from . import image as images
from . import ir
from .cache import write_atomically
from .image import Layout, SavedSlot, label

HEAD = """\
# What the saved images of {device} hold in each version of its checkpoint.
# Written by 'devc check --lock'; keep it beside the device file, do not edit it.
# kind  name  bytes  elements  lowest  highest
"""
MOST_SHOWN = 4
"""Differences that a message lists."""
EVERYWHERE: Mapping[int, Span] = {0: NOWHERE}
MOST_BYTES = 1 << 20
"""Of a lock file: bounds the time that any takes."""

_VERSION = re.compile(r"checkpoint ([1-9][0-9]{0,9}) of (\w+), layout (0x[0-9a-f]{16})")
_SLOT = re.compile(
    r"(param|state) +([\w.]+) +([1248]) +(-|[1-9][0-9]*(?:x[1-9][0-9]*)*) +(-?[0-9]{1,20}) +([0-9]{1,20})"
)


class LockError(ValueError):
    """A lock file that cannot be used; the message says where and why."""


def beside(device_file: Path) -> Path:
    """Where a device file's lock is, if it has one."""
    return device_file.with_suffix(".lock")


# --- the file ------------------------------------------------------------------


def render(layouts: dict[int, Layout]) -> str:
    """The lock file's text."""
    device = next(iter(layouts.values())).device
    parts = [HEAD.format(device=device)]
    for version, layout in sorted(layouts.items()):
        parts.append(f"\ncheckpoint {version} of {device}, layout {layout.hash:#018x}\n")
        cells = [(slot.kind, *slot.text.split(" ")) for slot in layout.slots]
        widths = [max(len(row[column]) for row in cells) for column in range(6)] if cells else []
        for row in cells:
            parts.append("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n")
    return "".join(parts)


def read(path: Path, device: str) -> dict[int, Layout]:
    """The layouts that a lock file records, by version; none if there is no file.

    Raises LockError unless every one of them is whole: each has a hash.
    """
    try:
        stamp = path.stat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LockError(f"{path.name} cannot be read: {error.strerror}") from None
    return dict(_read(path, device, (stamp.st_mtime_ns, stamp.st_size)))


@lru_cache(maxsize=16)
def _read(path: Path, device: str, stamp: tuple[int, int]) -> dict[int, Layout]:
    if stamp[1] > MOST_BYTES:
        raise LockError(f"{path.name} is longer than {MOST_BYTES >> 20} MiB")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LockError(f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LockError(f"{path.name} is not UTF-8 text") from None
    return parse(text, device, path.name)


def parse(text: str, device: str, name: str = "the lock file") -> dict[int, Layout]:
    """The layouts in a lock file's text. Raises LockError, with the line."""
    layouts: dict[int, Layout] = {}
    version, digest, slots, start = 0, 0, list[SavedSlot](), 0

    def finish() -> None:
        if version:
            layout = Layout(device, version, tuple(slots))
            if layout.hash != digest:
                raise LockError(
                    f"{name}:{start}: the record of checkpoint {version} has been changed by hand"
                )
            layouts[version] = layout

    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if found := _VERSION.fullmatch(line):
            finish()
            version, digest, slots, start = int(found[1]), int(found[3], 16), [], number
            if found[2] != device:
                raise LockError(f"{name}:{number}: this is the lock of {found[2]}, not of {device}")
            if version in layouts:
                raise LockError(f"{name}:{number}: checkpoint {version} is recorded twice")
        elif (row := _SLOT.fullmatch(line)) and version:
            slots.append(_slot(row, f"{name}:{number}"))
        else:
            raise LockError(f"{name}:{number}: this is no record of a checkpoint or of what one holds")
    finish()
    return layouts


def _slot(row: re.Match[str], place: str) -> SavedSlot:
    kind, name, size, counts, lo, hi = row.groups()
    allowed = ir.Range(int(lo), int(hi))
    span = 8 * int(size)
    low, high = (-(1 << span - 1), (1 << span - 1) - 1) if allowed.signed else (0, (1 << span) - 1)
    elements = tuple(map(int, counts.split("x"))) if counts != "-" else ()
    if not low <= allowed.lo <= allowed.hi <= high:
        raise LockError(f"{place}: {lo}..{hi} is no range of {size} bytes")
    if len(elements) > 3 or max(elements, default=0) > 1 << 16:
        raise LockError(f"{place}: {counts} elements are more than a device can have")
    return SavedSlot(kind, name, int(size), elements, allowed)


# --- a device against its lock -------------------------------------------------


Places = Mapping[int, Span]
"""Where the device file says its checkpoint (key 0), and the step from version N (key N)."""


def check(module: ir.Module, path: Path, places: Places = EVERYWHERE) -> list[Diagnostic]:
    """What is wrong between a device and the lock file at `path`; nothing if there is none."""
    if not path.exists():
        return []
    try:
        layouts = read(path, module.name)
    except LockError as error:
        hint = "restore it from version control; if no image was ever saved, delete it and lock anew"
        return [Diagnostic("E704", str(error), places[0], hint)]
    return [*_changed(module, layouts, path, places[0]), *_formers(module, layouts, places)]


def lock(module: ir.Module, path: Path, places: Places = EVERYWHERE) -> list[Diagnostic]:
    """Record the present version in the lock file; what stands against that, if so.

    OSError if the file cannot be written.
    """
    found = [d for d in check(module, path, places) if d.code != "E702"]
    if not any(d.severity == "error" for d in found):
        layouts = read(path, module.name)
        if layouts.get(module.version) != images.layout(module):
            layouts[module.version] = images.layout(module)
            write_atomically(path, render(layouts).encode(), 0o644)
    return found


def _changed(module: ir.Module, layouts: dict[int, Layout], path: Path, span: Span) -> Iterator[Diagnostic]:
    version, newest = module.version, max(layouts, default=0)
    present = images.layout(module)
    if version < newest:
        yield Diagnostic(
            "E701", f"this is checkpoint {version}, and {path.name} records {newest}", span,
            f"write 'checkpoint {newest}', or a higher one: images of {newest} may be out there",
        )  # fmt: skip
    elif version not in layouts:
        yield Diagnostic(
            "E702", f"{path.name} does not record checkpoint {version}", span,
            f"'devc check --lock {path.with_suffix('.dev')}' adds it",
        )  # fmt: skip
    elif layouts[version] != present:
        yield Diagnostic(
            "E701",
            f"the saved state is not that of checkpoint {version} any more: "
            f"{_differences(layouts[version], present)}",
            span,
            f"raise the checkpoint and say how an older image is upgraded, 'checkpoint {version + 1}:' with "
            f"'from {version}: ...', then 'devc check --lock' (if no image of {version} was ever saved, "
            f"delete {path.name} and lock anew)",
        )


def _differences(old: Layout, new: Layout) -> str:
    before, after = ({slot.name: slot for slot in each.slots} for each in (old, new))
    found = [f"'{name}' is new" for name in after if name not in before]
    found += [f"'{name}' is gone" for name in before if name not in after]
    for name in before.keys() & after.keys():
        was, now = before[name], after[name]
        if was != now:
            kinds = was.kind != now.kind
            found.append(f"'{name}' was {_shape(was, kinds)} and is {_shape(now, kinds)}")
    if not found:
        return "its order changed"
    more = f", and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return ", ".join(sorted(found)[:MOST_SHOWN]) + more


def _shape(slot: SavedSlot, kind: bool) -> str:
    counts = "".join(f"[{count}]" for count in slot.counts)
    return f"{'a ' + slot.kind + ' ' if kind else ''}{slot.type.lo}..{slot.type.hi}{counts}"


def _formers(module: ir.Module, layouts: dict[int, Layout], places: Places) -> Iterator[Diagnostic]:
    """Steps against the layouts that they upgrade from."""
    for step in module.upgrades:
        at = places.get(step.version, places[0])
        for former in step.formers:
            for version in range(1, step.version + 1):
                if version in layouts:
                    yield from _former(former, layouts[version], version == step.version, at)
        if step.version in layouts:
            yield from _narrowed(module, step, layouts[step.version], at)


def _former(former: ir.Former, layout: Layout, own: bool, at: Span) -> Iterator[Diagnostic]:
    name = label(former.slot, former.index)
    slot = next((s for s in layout.slots if s.name == former.slot), None)
    if slot is None or former.index not in slot.indices:
        if own or former.default is None:
            known = ", ".join(s.name for s in layout.slots if s.kind == "state")
            hint = f"it holds: {known}" if own else f"say what it is taken to be: {name}: TYPE = VALUE"
            yield Diagnostic("E703", f"images of checkpoint {layout.version} hold no '{name}'", at, hint)
    elif not former.type.contains(slot.type):
        yield Diagnostic(
            "E703",
            f"'{name}' was {slot.type.lo}..{slot.type.hi} in checkpoint {layout.version}, which does not fit",
            at, f"declare it as {name}: {slot.type.lo}..{slot.type.hi}",
        )  # fmt: skip


def _narrowed(module: ir.Module, step: ir.Upgrade, layout: Layout, at: Span) -> Iterator[Diagnostic]:
    taken = {former.slot for former in step.formers}
    present = {slot.name: slot for slot in images.layout(module).slots if slot.kind == "state"}
    for slot in layout.slots:
        now = present.get(slot.name)
        if now and slot.kind == "state" and slot.name not in taken and not now.type.contains(slot.type):
            yield Diagnostic(
                "W701",
                f"'{slot.name}' was {slot.type.lo}..{slot.type.hi} and is {now.type.lo}..{now.type.hi}: "
                "an older image with another value is refused",
                at, f"take it: from {step.version} ({slot.name} as old: ...): {slot.name} = ...",
            )  # fmt: skip
