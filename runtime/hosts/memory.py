"""Plain guest memory that costs only what is touched.

Non-goals: memory that a guest executes from (the KVM and Unicorn hosts map theirs).
"""

from __future__ import annotations

PAGE = 1 << 16


class Memory:
    """`size` bytes from address 0 on, zero until written."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pages: dict[int, bytearray] = {}

    def load(self, address: int, size: int) -> bytes:
        """`size` bytes; all of them must lie inside."""
        blank = bytes(PAGE)
        first, last = address // PAGE, (address + size - 1) // PAGE
        whole = b"".join(self._pages.get(page, blank) for page in range(first, last + 1))
        start = address - first * PAGE
        return whole[start : start + size]

    def store(self, address: int, data: bytes) -> None:
        """Write bytes; all of them must lie inside."""
        done = 0
        while done < len(data):
            page, start = divmod(address + done, PAGE)
            count = min(PAGE - start, len(data) - done)
            self._pages.setdefault(page, bytearray(PAGE))[start : start + count] = data[done : done + count]
            done += count

    def read(self, offset: int, width: int) -> int:
        """As a window's function: little-endian."""
        return int.from_bytes(self.load(offset, width), "little")

    def write(self, offset: int, width: int, value: int) -> None:
        self.store(offset, (value & (1 << 8 * width) - 1).to_bytes(width, "little"))
