"""A disk image: a file of 512-byte sectors, read only unless asked otherwise.

Non-goals: formats other than raw, growing files.
"""

from __future__ import annotations

import os
from pathlib import Path

SECTOR = 512
MOST_SECTORS = 1 << 48
"""What 48-bit addresses reach (ATA/ATAPI-7 6.2)."""


class DiskError(ValueError):
    """A file that cannot be a disk; the message says how to mend it."""


class DiskImage:
    """A raw image. A last sector that the file does not fill ends in zeros, and cannot be written."""

    def __init__(self, path: str | Path, *, writable: bool = False) -> None:
        """Raises DiskError."""
        self.path = Path(path)
        self.writable = writable
        try:
            self._file = os.open(self.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise DiskError(f"cannot open the disk image {self.path}: {error.strerror}") from None
        try:
            self._bytes = os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            os.close(self._file)
            raise DiskError(f"{self.path} is no disk image: {error.strerror}") from None
        self.sectors = -(-self._bytes // SECTOR)
        if not 1 <= self.sectors <= MOST_SECTORS:
            os.close(self._file)
            problem = "is empty" if not self.sectors else "is larger than an ATA disk can be"
            raise DiskError(
                f"the disk image {self.path} {problem}; a disk has at least one sector of 512 bytes"
            )

    def read(self, sector: int) -> bytes:
        """One sector. Raises OSError as the host's disk does."""
        data = os.pread(self._file, SECTOR, sector * SECTOR)
        return data.ljust(SECTOR, b"\0")

    def write(self, sector: int, data: bytes) -> None:
        """Replace one sector. Raises OSError."""
        if not self.writable or (sector + 1) * SECTOR > self._bytes:
            raise PermissionError(f"sector {sector} of {self.path} cannot be written")
        os.pwrite(self._file, data, sector * SECTOR)

    def flush(self) -> None:
        """What was written is on the host's disk. Raises OSError."""
        if self.writable:
            os.fsync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
