"""The file of a paused guest: whole or not there, and read as hostile."""

from __future__ import annotations

import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from devc.runtime import saved_guest
from devc.runtime.saved_guest import SavedGuest, SavedGuestError, read, write

GUEST = SavedGuest(
    machine={"memory": 8192, "devices": ["i8254"]},
    devices=b"devcsnap and so on",
    memory={0: bytes(4096), 0xFFFF_F000: bytes(range(256)) * 16},
    vcpus=({"regs": b"r0", "lapic": bytes(1024)}, {"regs": b"r1"}),
    rom={0xFFFC_0000: b"\xea" * 256},
    host={"clock": b"12345678"},
    board={"disk": b"{}"},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "guest.devc"
    write(place, GUEST)
    return place


def rewrite(path: Path, change: dict[str, bytes | None], manifest: dict[str, object] | None = None) -> None:
    """The archive with members replaced, added, or (None) dropped, and fields of the manifest set."""
    with zipfile.ZipFile(path) as archive:
        members: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(members["manifest.json"] or b"")
    described.update(manifest or {})
    members["manifest.json"] = json.dumps(described).encode()
    members.update(change)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


def refused(path: Path) -> str:
    with pytest.raises(SavedGuestError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_was_written_is_read(path: Path) -> None:
    assert read(path) == GUEST


def test_nothing_is_left_beside_the_file(path: Path) -> None:
    assert os.listdir(path.parent) == [path.name]


def test_a_write_that_fails_keeps_the_older_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", broken)
    with pytest.raises(OSError, match="no space"):
        write(path, GUEST)
    assert os.listdir(path.parent) == [path.name]
    assert read(path) == GUEST


@pytest.mark.parametrize("length", [0, 1, 21, 100, 1000])
def test_a_truncated_file_is_refused(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    assert "not a whole saved guest" in refused(path)


def test_no_byte_can_be_changed_unnoticed(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with suppress(SavedGuestError):
            assert read(path) == GUEST  # dates and attributes of a member mean nothing


def test_another_archive_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme", "hello")
    assert "some other archive" in refused(other)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"format": 2}, "format 2; this version of devc reads format 1"),
        ({"machine": []}, "lacks the machine"),
        ({"parts": None}, "lacks the machine or the parts"),
        ({"vcpus": 0}, "no number of vCPUs"),
        ({"vcpus": 10**9}, "no number of vCPUs"),
        ({"vcpus": 3}, "lacks the devices, the memory or a vCPU"),
        ({"vcpus": 1}, "nothing of a guest is called 'vcpu/1/regs'"),
        ({"parts": {}}, "not those of its manifest"),
    ],
)
def test_a_manifest_that_lies_is_refused(path: Path, manifest: dict[str, object], message: str) -> None:
    rewrite(path, {}, manifest)
    with pytest.raises(SavedGuestError, match=message):
        read(path)


def test_a_part_too_many_or_too_few_is_refused(path: Path) -> None:
    rewrite(path, {"../../etc/passwd": b"x"})
    assert "not those of its manifest" in refused(path)
    write(path, GUEST)
    rewrite(path, {"devices": None})
    assert "not those of its manifest" in refused(path)


def test_a_changed_part_is_damaged(path: Path) -> None:
    rewrite(path, {"vcpu/0/regs": b"r9"})
    assert "vcpu/0/regs is damaged" in refused(path)


def test_memory_beyond_the_limit_is_refused_before_it_is_unpacked(path: Path) -> None:
    with pytest.raises(SavedGuestError, match="claims 4096 bytes, more than 1000"):
        read(path, most_memory=1000)


def test_a_part_that_unpacks_to_more_than_it_says_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_guest, "MANIFEST_LIMIT", 64)
    assert "unpacks to more than 64 bytes" in refused(path)
