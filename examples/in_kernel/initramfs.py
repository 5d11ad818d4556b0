"""The little system that the example boots: a kernel's modules, busybox, our programs, as an initramfs."""

from __future__ import annotations

import gzip
import lzma
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


class Missing(Exception):
    """Something that the example needs is not there; the message says how to mend it."""


def modules(tree: Path, wanted: str) -> Iterator[tuple[str, bytes]]:
    """A kernel module and those it depends on, in the order in which they must be loaded."""
    files = {_plain(path.name.split(".")[0]): path for path in tree.rglob("*.ko*")}
    done: list[str] = []

    def walk(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done:
            return
        done.append(name)
        if name not in files:
            raise Missing(f"the kernel package has no module {name}")
        content = _unpacked(files[name])
        found = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in found[1].decode().split(",") if found else ():
            if other:
                yield from walk(_plain(other))
        yield name, content

    yield from walk(_plain(wanted))


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    match path.suffix:
        case ".ko":
            return content
        case ".xz":
            return lzma.decompress(content)
        case ".gz":
            return gzip.decompress(content)
    raise Missing(f"do not know how to unpack {path.name}")


def archive(files: Mapping[str, bytes], directories: Iterable[str]) -> bytes:
    """A compressed cpio archive of executable files, as a kernel unpacks it."""
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in directories]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    return gzip.compress(b"".join(_entry(number, *each) for number, each in enumerate(entries, 1)), 1)


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    """One entry in the new ASCII format: Documentation/driver-api/early-userspace/buffer-format.rst."""
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
