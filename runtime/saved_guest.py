"""The file of a paused guest: a ZIP archive that any tool can look into.

    manifest.json   format, the machine's description, every part's size and SHA-256
    devices         the devices' snapshot (runtime/snapshot.py), with the virtual time
    memory/ADDRESS  RAM from that guest-physical address (16 hexadecimal digits)
    rom/ADDRESS     what is read-only there
    vcpu/N/NAME     a part of vCPU N's state, as the host gave it
    host/NAME       a part of the host's own state (interrupt controllers, say)
    board/NAME      the state of a board device that is no device file

A file is written beside its place and moved there when it is whole, so what was
saved before is lost only to something complete. It is read as hostile: sizes are
bounded before anything is unpacked, and each part's digest is compared.

Non-goals: what the parts mean (hosts, machine, board check their own).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

FORMAT = 1
MOST_PARTS = 4096
MANIFEST_LIMIT = 1 << 20  # bytes
PART_LIMIT = 16 << 20  # bytes, of any part but memory
MEMORY_LIMIT = 64 << 30  # bytes, of all memory together
Bytes = bytes | memoryview
_MANIFEST = "manifest.json"
_DIGITS = frozenset("0123456789abcdef")
_DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError, zlib.error)
"""What zipfile raises for archives that lie: of any kind, OSError for a place before the file's beginning."""
_SPEED = 1  # zlib's fastest: RAM is mostly zeros, and somebody waits


class SavedGuestError(ValueError):
    """A file that is no whole, intact saved guest; the message says what is wrong with it."""


@dataclass(frozen=True)
class SavedGuest:
    """A paused guest.

    `machine` describes how to build the machine again, in terms of JSON; `memory`
    and `rom` map guest-physical addresses to bytes; `vcpus` is one mapping of
    named parts for each vCPU; the virtual time is inside `devices`.
    """

    machine: Mapping[str, Any]
    devices: bytes
    memory: Mapping[int, Bytes]
    vcpus: tuple[Mapping[str, bytes], ...]
    rom: Mapping[int, Bytes] = field(default_factory=dict)
    host: Mapping[str, bytes] = field(default_factory=dict)
    board: Mapping[str, bytes] = field(default_factory=dict)

    def parts(self) -> Iterator[tuple[str, Bytes]]:
        """Name and content of each part, the manifest excepted."""
        yield "devices", self.devices
        for kind, ranges in (("memory", self.memory), ("rom", self.rom)):
            for address, data in ranges.items():
                yield f"{kind}/{address:016x}", data
        for number, vcpu in enumerate(self.vcpus):
            for name, data in vcpu.items():
                yield f"vcpu/{number}/{name}", data
        for folder, group in (("host", self.host), ("board", self.board)):
            for name, data in group.items():
                yield f"{folder}/{name}", data


def write(path: Path, guest: SavedGuest) -> None:
    """Write the file; what was there before stays until the new one is whole.

    OSError if it cannot be written.
    """
    parts = dict(guest.parts())
    described = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()
    }
    manifest = {"format": FORMAT, "machine": guest.machine, "vcpus": len(guest.vcpus), "parts": described}
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_SPEED) as archive,
        ):
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
            for name, data in parts.items():
                with archive.open(name, "w", force_zip64=True) as part:
                    part.write(data)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def read(path: Path, most_memory: int = MEMORY_LIMIT) -> SavedGuest:
    """The guest in a file; `most_memory` bounds its RAM in bytes.

    SavedGuestError if it is no whole guest, OSError if there is no such file.
    """
    with path.open("rb") as file:
        manifest, contents = _opened(path, file, most_memory)
    return _sorted(manifest, contents)


def _opened(path: Path, file: BinaryIO, most_memory: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = _manifest(archive)
            return manifest, dict(_contents(archive, manifest["parts"], most_memory))
    except SavedGuestError as error:
        raise SavedGuestError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise SavedGuestError(f"{path} is not a whole saved guest: {error}") from None


def _manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        info = archive.getinfo(_MANIFEST)
    except KeyError:
        raise SavedGuestError(f"there is no {_MANIFEST} in it; it is some other archive") from None
    text = _unpacked(archive, info, MANIFEST_LIMIT)
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        raise SavedGuestError(f"its {_MANIFEST} is not JSON") from None
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise SavedGuestError(f"its {_MANIFEST} names no format")
    if manifest["format"] != FORMAT:
        raise SavedGuestError(
            f"it has format {manifest['format']}; this version of devc reads format {FORMAT}"
        )
    if not isinstance(manifest.get("machine"), dict) or not isinstance(manifest.get("parts"), dict):
        raise SavedGuestError(f"its {_MANIFEST} lacks the machine or the parts")
    if not isinstance(manifest.get("vcpus"), int) or not 1 <= manifest["vcpus"] <= MOST_PARTS:
        raise SavedGuestError(f"its {_MANIFEST} names no number of vCPUs")
    return manifest


def _contents(
    archive: zipfile.ZipFile, parts: Mapping[str, Any], most_memory: int
) -> Iterator[tuple[str, bytes]]:
    """Each part, its size bounded before and its digest compared after it is unpacked."""
    found = [info.filename for info in archive.infolist()]
    if len(found) > MOST_PARTS or sorted(found) != sorted([_MANIFEST, *parts]):
        raise SavedGuestError("its parts are not those of its manifest")
    left = most_memory
    for name, described in parts.items():
        size = described.get("size") if isinstance(described, dict) else None
        if not isinstance(size, int) or size < 0:
            raise SavedGuestError(f"its manifest gives {name} no size")
        limit = left if name.startswith("memory/") else PART_LIMIT
        if size > limit:
            raise SavedGuestError(f"its part {name} claims {size} bytes, more than {limit}")
        if name.startswith("memory/"):
            left -= size
        info = archive.getinfo(name)
        if info.file_size != size:
            raise SavedGuestError(f"its part {name} has {info.file_size} bytes, not {size}")
        data = _unpacked(archive, info, size)
        if hashlib.sha256(data).hexdigest() != described.get("sha256"):
            raise SavedGuestError(f"its part {name} is damaged: the digest does not match")
        yield name, data


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """What a member unpacks to; a member may lie about its size."""
    with archive.open(info) as member:
        data = member.read(limit + 1)
    if len(data) > limit:
        raise SavedGuestError(f"its part {info.filename} unpacks to more than {limit} bytes")
    return data


def _sorted(manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> SavedGuest:
    """The parts by what they are, from their names."""
    devices = b""
    ranges: dict[str, dict[int, bytes]] = {"memory": {}, "rom": {}}
    vcpus: tuple[dict[str, bytes], ...] = tuple({} for _ in range(manifest["vcpus"]))
    groups: dict[str, dict[str, bytes]] = {"host": {}, "board": {}}
    for name, data in contents.items():
        match name.split("/"):
            case ["devices"]:
                devices = data
            case ["memory" | "rom" as kind, address] if len(address) == 16 and set(address) <= _DIGITS:
                ranges[kind][int(address, 16)] = data
            case ["vcpu", number, part] if (
                number.isdecimal() and len(number) < 6 and int(number) < len(vcpus)
            ):
                vcpus[int(number)][part] = data
            case ["host" | "board" as group, part]:
                groups[group][part] = data
            case _:
                raise SavedGuestError(f"nothing of a guest is called {name!r}")
    if not devices or not ranges["memory"] or not all(vcpus):
        raise SavedGuestError("the file lacks the devices, the memory or a vCPU")
    return SavedGuest(
        manifest["machine"], devices, ranges["memory"], vcpus, ranges["rom"], groups["host"], groups["board"]
    )


__all__ = ["FORMAT", "SavedGuest", "SavedGuestError", "read", "write"]
