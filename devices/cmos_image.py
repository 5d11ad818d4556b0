"""The CMOS RAM kept in a file between runs: 114 bytes of the clock's bank, 128 of the upper one.

    machine.add("mc146818", python={"nvram": {"image": "cmos.bin"}})

The file holds the bytes in the order of their indices, 0x0e to 0x7f without
0x32 and 0x37 (the century belongs to the clock), then the upper bank. It is
replaced whole, when the machine is closed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

PARTS = (("low", 36), ("middle", 4), ("high", 72), ("upper", 128))
NAMES = [f"{part}[{i}]" for part, size in PARTS for i in range(size)]


class nvram:
    """Observer of mc146818.dev. `image`: a path, or None to keep nothing."""

    def __init__(self, image: str | None = None) -> None:
        self.path = Path(image) if image is not None else None
        self.idle = self.path is None
        self.bytes: bytes | None = None
        if self.path is not None and self.path.exists():
            self.bytes = self.path.read_bytes()
            if len(self.bytes) != len(NAMES):
                raise ValueError(
                    f"{image} holds {len(self.bytes)} bytes; a CMOS image has {len(NAMES)}. "
                    "Give another file, or remove this one to begin with zeros"
                )
        self.loaded = self.bytes is None

    def changed(self, view: Any) -> None:
        """The guest wrote to the RAM; at the start, the file is put into it."""
        if not self.loaded and self.bytes is not None:
            self.loaded = True
            for name, value in zip(NAMES, self.bytes, strict=True):
                view[name] = value
            return
        self.bytes = bytes(view[name] for name in NAMES)

    def close(self, now: int) -> None:
        """Replace the file, so that a crash leaves the old one or the new one."""
        del now
        if self.path is None or self.bytes is None:
            return
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        beside.write_bytes(self.bytes)
        beside.replace(self.path)
