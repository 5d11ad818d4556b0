"""Guest files: what goes where in memory, and how the first vCPU begins.

    guest = load_guest("sieve.flat", Surroundings(memory=128 << 20))
    guest.place(host)              # copies the segments, sets the vCPU

Kinds: assembly (`.s`) and flat images, in real mode at 0x1000; multiboot kernels,
with modules and a command line; firmware at the reset vector. Files are hostile:
whatever is in them, it is a guest or a GuestError that says why not.

Non-goals: Linux's boot protocol, UEFI.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from . import multiboot
from .assemble import AssemblyError, assemble
from .hosts.start import RESET, Start
from .multiboot import Module, MultibootError, Range
from .pc.acpi import Tables

Kind = Literal["flat", "multiboot", "firmware"]

FLAT_ADDRESS = 0x1000
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
LOW_RAM = 640 * KIB
TABLES = 0xE0000
"""Where firmware would leave the ACPI tables: within the area that is searched (ACPI 6.5, 5.2.5.1)."""
BELOW_4_GIB = 3 * GIB
"""RAM that does not fit below goes on at 4 GiB: the rest of the fourth GiB is the devices'."""
MOST_BYTES = 1 * GIB
"""A guest file larger than this is taken for a mistake."""
INFORMATION = 0x10000
MOST_FIRMWARE = 256 * KIB
"""Below the image, under 4 GiB, are pages that KVM needs."""
SHADOW = 256 * KIB


class GuestError(ValueError):
    """A file that is no guest, or does not fit; the message says how to mend it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes at a guest-physical address, in RAM or read-only."""

    address: int
    content: bytes
    read_only: bool = False


class Memory(Protocol):
    """What `Guest.place` needs of a host."""

    def load(self, image: bytes, address: int) -> None: ...
    def rom(self, address: int, content: bytes) -> None: ...
    def start(self, start: Start) -> None: ...


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest ready to be placed; `name` for messages."""

    kind: Kind
    name: str
    start: Start
    segments: tuple[Segment, ...]

    def place(self, host: Memory) -> None:
        """Copy the segments into a host's memory and set its first vCPU."""
        for segment in self.segments:
            if segment.read_only:
                host.rom(segment.address, segment.content)
        self.replace(host)

    def replace(self, host: Memory) -> None:
        """As after a reset: RAM that the file fills is as in the file again, the rest stays."""
        for segment in self.segments:
            if not segment.read_only:
                host.load(segment.content, segment.address)
        host.start(self.start)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a guest finds besides itself: RAM in bytes, and for a multiboot kernel its
    command line, modules as (file, text), and the ACPI tables."""

    memory: int
    command_line: str = ""
    modules: Sequence[tuple[Path, str]] = field(default_factory=tuple)
    tables: Tables | None = None


def kind_of(path: str | Path) -> Kind:
    """What `load_guest` takes a file for. Raises GuestError."""
    return "multiboot" if _is_kernel(_image(Path(path))) else "flat"


def load_guest(path: str | Path, around: Surroundings) -> Guest:
    """The guest in a file. Raises GuestError."""
    path = Path(path)
    content = _image(path)
    if _is_kernel(content):
        return _multiboot(path, content, around)
    if around.modules or around.command_line:
        what = "modules" if around.modules else "a command line"
        raise GuestError(f"{path} is a flat image; only a multiboot kernel takes {what}")
    if not content:
        raise GuestError(f"the guest {path} is empty")
    _check_fits(path, FLAT_ADDRESS + len(content), around.memory)
    return Guest("flat", path.name, Start("real", FLAT_ADDRESS), (Segment(FLAT_ADDRESS, content),))


def load_firmware(path: str | Path, memory: int) -> Guest:
    """A firmware image: read-only below 4 GiB, and its last 256 KiB in the RAM below 1 MiB,
    as the chipset would copy it. Raises GuestError."""
    return firmware(Path(path).name, _content(Path(path), "the firmware"), memory)


def firmware(name: str, content: bytes, memory: int) -> Guest:
    """The guest that a firmware image is. Raises GuestError."""
    if not content or len(content) % PAGE or len(content) > MOST_FIRMWARE:
        raise GuestError(
            f"the firmware {name} has {len(content)} bytes; an image is a multiple of {PAGE}, "
            f"and at most {MOST_FIRMWARE >> 10} KiB. Is it SeaBIOS's bios.bin?"
        )
    if memory < MIB:
        raise GuestError(f"firmware needs at least 1 MiB of memory, not {memory >> 10} KiB")
    shadow = content[-SHADOW:]
    segments = (Segment(4 * GIB - len(content), content, read_only=True), Segment(MIB - len(shadow), shadow))
    return Guest("firmware", name, RESET, segments)


def memory_map(memory: int) -> list[Range]:
    """The RAM of a PC with `memory` bytes, and what of it is taken (types as in 3.3)."""
    below = min(memory, BELOW_4_GIB)
    ranges = [Range(0, min(below, LOW_RAM), 1)]
    if below > MIB:
        ranges += [Range(TABLES, MIB - TABLES, 2), Range(MIB, below - MIB, 1)]
    if memory > below:
        ranges.append(Range(4 * GIB, memory - below, 1))
    return ranges


# --- files --------------------------------------------------------------------------


def _content(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise GuestError(f"cannot read {what} {path}: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise GuestError(f"{what} {path} is larger than {MOST_BYTES >> 30} GiB")
    return content


def _image(path: Path) -> bytes:
    """The guest's bytes, assembled if they are text."""
    content = _content(path, "the guest")
    return _assembled(path, content) if path.suffix == ".s" else content


def _is_kernel(content: bytes) -> bool:
    return multiboot.header_at(content) is not None or content[:4] == b"\x7fELF"


def _assembled(path: Path, content: bytes) -> bytes:
    try:
        return assemble(content.decode(), FLAT_ADDRESS)
    except UnicodeDecodeError:
        raise GuestError(f"cannot assemble {path}: it is not text") from None
    except AssemblyError as error:
        raise GuestError(f"{path}: {error}") from None


def _check_fits(path: Path, end: int, memory: int) -> None:
    if end > min(memory, BELOW_4_GIB):
        raise GuestError(
            f"{path} needs memory up to {end:#x}, and there are {memory:#x} bytes; "
            f"give it more: --memory {max(-(-end // MIB), 1)}M"
        )


# --- multiboot ------------------------------------------------------------------------


def _multiboot(path: Path, content: bytes, around: Surroundings) -> Guest:
    try:
        kernel = multiboot.parse(content)
    except MultibootError as error:
        raise GuestError(f"cannot load {path}: {error}") from None
    _check_fits(path, max(kernel.end, MIB), around.memory)
    _check_apart(path, [(part.address, part.address + part.size) for part in kernel.parts])
    segments = [Segment(part.address, _padded(part)) for part in kernel.parts]
    modules, at = [], _up(max(kernel.end, MIB))
    for file, text in around.modules:
        module = Module(_content(file, "the module"), text)
        modules.append((at, module))
        segments.append(Segment(at, module.content))
        at = _up(at + len(module.content))
    _check_fits(path, at, around.memory)

    # Its first word is the kernel's own name, as GRUB legacy and QEMU have it.
    line = f"{path.name} {around.command_line}".rstrip()

    def describe(place: int) -> bytes:
        return multiboot.information(place, memory_map(around.memory), modules, line)

    information = _place(path, describe, segments, at, around.memory)
    segments.append(information)
    if around.tables is not None:
        segments.append(Segment(around.tables.address, around.tables.content))
    _check_apart(path, [(s.address, s.address + len(s.content)) for s in segments])
    registers = {"rax": multiboot.LOADED, "rbx": information.address}
    return Guest("multiboot", path.name, Start("flat32", kernel.entry, registers), tuple(segments))


def _padded(part: multiboot.Part) -> bytes:
    """With its zeros: memory may hold another guest's bytes after a reset."""
    return part.content[: part.size].ljust(part.size, b"\0")


def _up(address: int) -> int:
    return -(-address // PAGE) * PAGE


def _place(
    path: Path, describe: Callable[[int], bytes], segments: Sequence[Segment], end: int, memory: int
) -> Segment:
    """The boot information: in low memory, where kernels do not take it for free RAM, if there is room."""
    content = describe(INFORMATION)
    taken = [(s.address, s.address + len(s.content)) for s in segments]
    low_end = INFORMATION + len(content)
    if low_end <= LOW_RAM and all(b <= INFORMATION or low_end <= a for a, b in taken):
        return Segment(INFORMATION, content)
    _check_fits(path, end + len(content), memory)
    return Segment(end, describe(end))


def _check_apart(path: Path, places: Sequence[tuple[int, int]]) -> None:
    for (_, end), (start, _) in itertools.pairwise(sorted(p for p in places if p[0] < p[1])):
        if start < end:
            raise GuestError(f"cannot load {path}: two of its parts are both for {start:#x}")


__all__ = [
    "FLAT_ADDRESS",
    "Guest",
    "GuestError",
    "Memory",
    "Segment",
    "Surroundings",
    "kind_of",
    "load_firmware",
    "load_guest",
    "memory_map",
]
