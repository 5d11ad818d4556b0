"""From a device file to code: what `devc compile`, the machine and the tests call.

    type = load("i8254")            # a shipped device by name, or a file by path
    type.module                     # the interface: registers, lines, layout
    type.traffic                    # which writes may wait, which reads need no lock
    type.native()                   # machine code, from the cache where it is
    type.bpf()                      # an eBPF object for the running kernel
    type.reference_module()         # the whole IR, for the reference engine

A device file that was compiled before is loaded without being parsed: the
cache is keyed by its text and by this compiler's own.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

from ..dsl.diagnostics import NOWHERE, DeviceFileError, Diagnostic, Source
from . import ir, jit
from .cache import Cache
from .traffic import Traffic, traffic

DEVICES = Path(__file__).parent.parent / "devices"
"""Where the shipped device files are."""


class DeviceType:
    """A device file, compiled as far as somebody asked for."""

    def __init__(self, path: Path, source: Source, cache: jit.CacheChoice = "default") -> None:
        self.path = path
        self.source = source
        self.cache = cache
        self._code: jit.NativeCode | None = None
        self._module: ir.Module | None = None

    @property
    def module(self) -> ir.Module:
        """The interface; its functions may be absent (see `reference_module`)."""
        if self._module is None:
            self._load()
        assert self._module is not None
        return self._module

    def native(self) -> jit.NativeCode:
        """Machine code for this CPU."""
        if self._code is None:
            self._load()
        assert self._code is not None
        return self._code

    @cached_property
    def traffic(self) -> Traffic:
        """Which accesses may wait, and which need no lock; from the cache where it is."""
        found = jit.recall_traffic(self._key, self.cache)
        if found is None:
            found = traffic(self.reference_module())
            jit.remember_traffic(self._key, found, self.cache)
        return found

    def bpf(self) -> bytes:
        """The eBPF object for the running kernel, from the cache if it is there. Raises CompileError."""
        from .bpf_compile import object_code

        kept = Cache.default() if self.cache == "default" else self.cache
        key = f"{jit.identity(jit.host(), 0)}\n{self.path.name}\n{self._key}"
        image = kept.get("bpf", key) if kept else None
        if image is None:
            image = object_code(self.reference_module(), self.source)
            if kept:
                kept.put("bpf", key, image)
        return image

    def reference_module(self) -> ir.Module:
        """The module with its functions; `DeviceFileError` if the file is refused."""
        return self._elaborated[0]

    @property
    def warnings(self) -> list[Diagnostic]:
        return self._elaborated[1]

    @property
    def _key(self) -> str:
        return f"{fingerprint()}\n{self.source.text}"

    def _load(self) -> None:
        text = self._key
        known = jit.recall(text, self.cache)
        if known is None:
            module = self.reference_module()
            known = module, jit.compile_module(module, self.cache)
            jit.remember(text, *known, self.cache)
        self._module, self._code = known

    @cached_property
    def _elaborated(self) -> tuple[ir.Module, list[Diagnostic]]:
        with _uncollected():
            # the front end is not imported where the cache has the answer
            from ..dsl.parser import parse
            from .elaborate import elaborate

            return elaborate(parse(self.source), self.source)


def load(device: str | Path, cache: jit.CacheChoice = "default") -> DeviceType:
    """A shipped device by its name, or any by its path. `DeviceFileError` if it is refused."""
    path = find(device)
    return DeviceType(path, Source.read(path), cache)


def find(device: str | Path) -> Path:
    """The path of a device file: a shipped device's name stands for its file."""
    path = Path(device)
    if path.suffix == ".dev" or path.exists():
        return path
    shipped = DEVICES / f"{path.name}.dev"
    if len(path.parts) == 1 and shipped.exists():
        return shipped
    names = ", ".join(sorted(p.stem for p in DEVICES.glob("*.dev")))
    raise DeviceFileError.single(
        Source(str(device), ""), "E001", f"there is no device file '{device}'", NOWHERE,
        help=f"give a path that ends in .dev, or one of the shipped devices: {names}",
    )  # fmt: skip


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would go through a growing tree of many small
    objects, none of them garbage, again and again: a sixth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@cache
def fingerprint() -> str:
    """A digest of the compiler's own text, so that a new compiler compiles anew."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for part in ("dsl", "compiler"):
        for path in sorted((root / part).glob("*")):
            if path.suffix in (".py", ".lark"):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
