"""The on-disk cache of compiled objects and device interfaces.

An entry is trusted only if it is whole, says of itself that it answers this
very key, and nobody but its owner could have written it; any other is as if
absent, and is replaced. A cache that cannot be written is no error, only slow.

Entry: `MAGIC`, SHA-256 of kind and key, SHA-256 of the payload, the payload.

Non-goals: secrecy; safety from the user's own other processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

MAGIC = b"devcache1\n"
_DIGEST = 32
_HEAD = len(MAGIC) + 2 * _DIGEST
MAX_ENTRIES = 512
"""Beyond this many entries the least recently written are deleted."""


class Cache:
    """Payloads by kind and key, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @staticmethod
    def default() -> Cache | None:
        """$DEVC_CACHE, or devc's place in the user's cache directory; None if there is no home.

        An empty $DEVC_CACHE turns the cache off.
        """
        chosen = os.environ.get("DEVC_CACHE")
        if chosen is not None:
            return Cache(Path(chosen)) if chosen else None
        base = os.environ.get("XDG_CACHE_HOME")
        if base and os.path.isabs(base):
            return Cache(Path(base) / "devc")
        try:
            return Cache(Path.home() / ".cache" / "devc")
        except RuntimeError:
            return None

    def path(self, kind: str, key: str) -> Path:
        """Where the entry is, or would be."""
        return self.directory / f"{kind}-{_identity(kind, key).hex()}"

    def get(self, kind: str, key: str) -> bytes | None:
        """The payload, or None if there is no entry that can be trusted."""
        try:
            if not _trusted(os.stat(self.directory)):
                return None
            content = _read(self.path(kind, key))
        except OSError:
            return None
        payload = content[_HEAD:]
        head = MAGIC + _identity(kind, key) + hashlib.sha256(payload).digest()
        return payload if content[:_HEAD] == head else None

    def put(self, kind: str, key: str, payload: bytes) -> bool:
        """Store the payload; False if that was not possible."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _trusted(os.stat(self.directory)):
                return False
            head = MAGIC + _identity(kind, key) + hashlib.sha256(payload).digest()
            write_atomically(self.path(kind, key), head + payload)
            self._prune()
        except OSError:
            return False
        return True

    def _prune(self) -> None:
        entries = list(os.scandir(self.directory))
        if len(entries) <= MAX_ENTRIES:
            return
        entries.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
        for entry in entries[: len(entries) - MAX_ENTRIES]:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put a file in place whole: a reader sees the old one or the new one. OSError if it cannot."""
    handle, temporary = tempfile.mkstemp(prefix=".devc-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _identity(kind: str, key: str) -> bytes:
    return hashlib.sha256(f"{kind}\n{key}".encode()).digest()


def _read(path: Path) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not _trusted(status):
            raise PermissionError(f"{path} could have been written by another user")
        return file.read()


def _trusted(status: os.stat_result) -> bool:
    """Ours, and nobody else may write it. Where there are no owners, the user's profile protects it."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
