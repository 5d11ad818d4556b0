"""The container of a machine's snapshot: versioned, with a length and a digest.

    8   b"devcsnap"
    4   format, 1; 2 if ticks follow the devices
    8   length of the whole, bytes
    8   virtual time, ns
    4   number of devices, then for each: name, type, the bases of its address
        parameters, its image (docs/abi.md, "The saved image")
    4   format 2: number of lines with a policy for missed ticks, then for each:
        path, image (runtime/policies.py)
    32  SHA-256 of everything before

Integers are little-endian and unsigned; strings and images are preceded by their
length. The digest finds damage; a hostile snapshot has a right one, so every
length is checked as well, and each device checks its own image.

Non-goals: what the images mean, applying them (runtime/machine.py).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

MAGIC = b"devcsnap"
PLAIN, WITH_TICKS = 1, 2
UNMAPPED = 2**64 - 1
"""How a base of None is written; no window can begin there."""

_DIGEST = 32
_HEAD = struct.Struct("<8sIQQI")


class SnapshotError(ValueError):
    """A snapshot that cannot be used; nothing was changed."""


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """One device's part: instance name, device type, (parameter, base) pairs, image."""

    name: str
    type: str
    bases: tuple[tuple[str, int | None], ...]
    image: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`lines`: path and image of each line that has a policy for missed ticks."""

    now: int
    devices: tuple[DeviceImage, ...]
    lines: tuple[tuple[str, bytes], ...] = ()


def _field(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _device(device: DeviceImage) -> bytes:
    bases = b"".join(
        _field(name.encode()) + struct.pack("<Q", UNMAPPED if base is None else base)
        for name, base in device.bases
    )
    head = _field(device.name.encode()) + _field(device.type.encode())
    return head + struct.pack("<I", len(device.bases)) + bases + _field(device.image)


def pack(snapshot: Snapshot) -> bytes:
    """The snapshot's bytes."""
    body = b"".join(_device(device) for device in snapshot.devices)
    if snapshot.lines:
        body += struct.pack("<I", len(snapshot.lines))
        body += b"".join(_field(path.encode()) + _field(image) for path, image in snapshot.lines)
    length = _HEAD.size + len(body) + _DIGEST
    form = WITH_TICKS if snapshot.lines else PLAIN
    whole = _HEAD.pack(MAGIC, form, length, snapshot.now, len(snapshot.devices)) + body
    return whole + hashlib.sha256(whole).digest()


class _Reader:
    """Takes fields off a body, never beyond its end."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int) -> bytes:
        data = self._body[self._at : self._at + count]
        if len(data) != count:
            raise SnapshotError("the snapshot is malformed: a field reaches beyond its end")
        self._at += count
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def field(self) -> bytes:
        return self.take(self.number(4))

    def text(self) -> str:
        try:
            return self.field().decode()
        except UnicodeDecodeError:
            raise SnapshotError("the snapshot is malformed: a name is not text") from None

    def count(self) -> int:
        """How many items follow; each takes at least 4 bytes."""
        count = self.number(4)
        if count * 4 > len(self._body) - self._at:
            raise SnapshotError("the snapshot is malformed: it announces more than it holds")
        return count

    def finish(self) -> None:
        if self._at != len(self._body):
            raise SnapshotError("the snapshot is malformed: something follows its last device or line")


def unpack(data: bytes) -> Snapshot:
    """The snapshot that bytes hold. Raises SnapshotError for anything but an intact one."""
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotError("this is not a devc snapshot")
    if len(data) < _HEAD.size + _DIGEST:
        raise SnapshotError("the snapshot is truncated: not even its head is whole")
    _, version, length, now, count = _HEAD.unpack_from(data)
    if version not in (PLAIN, WITH_TICKS):
        known = f"formats {PLAIN} and {WITH_TICKS}"
        raise SnapshotError(f"the snapshot has format {version}; this version of devc reads {known}")
    if length != len(data):
        raise SnapshotError(f"the snapshot is truncated or padded: saved {length} bytes, now {len(data)}")
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise SnapshotError("the snapshot is damaged: its digest does not match")
    if now == UNMAPPED:
        raise SnapshotError("the snapshot is malformed: its time is out of range")
    reader = _Reader(data[_HEAD.size : -_DIGEST])
    devices = tuple(_read_device(reader) for _ in range(count))
    lines = reader.count() if version == WITH_TICKS else 0
    ticks = tuple((reader.text(), reader.field()) for _ in range(lines))
    reader.finish()
    return Snapshot(now, devices, ticks)


def _read_device(reader: _Reader) -> DeviceImage:
    name, type_name = reader.text(), reader.text()
    bases = []
    for _ in range(reader.count()):
        parameter, base = reader.text(), reader.number(8)
        bases.append((parameter, None if base == UNMAPPED else base))
    return DeviceImage(name, type_name, tuple(bases), reader.field())
