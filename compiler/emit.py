"""Files for programs without devc: C header, object, shared library, LLVM IR, assembly, wasm, eBPF.

The object is position-independent, for this machine's architecture at its
baseline (or for one CPU if asked), and needs at run time no more than C's
memcpy and memset.

Non-goals: loading (jit.py); other architectures than the one devc runs on.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..dsl.diagnostics import Source
from . import bpf_compile, bpf_kvm, bpf_programs, c_header, ir, jit, native, wasm
from .bpf_functions import BpfUnit
from .cache import write_atomically

COMPILERS = ("cc", "gcc", "clang")
LINK_SECONDS = 60


class EmitError(Exception):
    """A file could not be made; the message says how to mend it."""


class _Output:
    """One device on its way to files; compiled once, and only if a file needs it."""

    def __init__(self, module: ir.Module, target: jit.Target, opt: int, source: Source | None = None) -> None:
        self.module = module
        self.source = source
        self.target = target
        self.opt = opt

    @cached_property
    def compiled(self) -> tuple[Any, Any]:
        text = native.build(self.module, self.target.preserve_most)
        return jit.optimise(text, self.target, self.opt)

    @cached_property
    def object(self) -> bytes:
        module, machine = self.compiled
        image: bytes = machine.emit_object(module)
        return image

    def header(self) -> bytes:
        return c_header.header(self.module).encode()

    def llvm(self) -> bytes:
        return str(self.compiled[0]).encode()

    def assembly(self) -> bytes:
        module, machine = self.compiled
        text: str = machine.emit_assembly(module)
        return text.encode()

    def wasm(self) -> bytes:
        try:
            return wasm.object_code(self.module)
        except wasm.CompileError as error:
            raise EmitError(str(error)) from None

    def bpf(self, programs: Callable[[BpfUnit], str] = bpf_programs.build) -> bytes:
        try:
            return bpf_compile.object_code(self.module, self.source, programs=programs)
        except bpf_compile.CompileError as error:
            raise EmitError(str(error)) from None

    def library(self) -> bytes:
        return link(self.object, f"lib{self.module.name}.so")


KINDS: dict[str, tuple[str, Callable[[_Output], bytes]]] = {
    "header": ("{}.h", _Output.header),
    "obj": ("{}.o", lambda output: output.object),
    "lib": ("lib{}.so", _Output.library),
    "ll": ("{}.ll", _Output.llvm),
    "asm": ("{}.s", _Output.assembly),
    "wasm": ("{}.wasm", _Output.wasm),
    "bpf": ("{}.bpf.o", _Output.bpf),
    "bpf-kvm": ("{}.kvm.bpf.o", lambda output: output.bpf(bpf_kvm.build)),
}
"""What can be emitted: the file's name and how its content is made."""


def emit(
    module: ir.Module,
    what: Collection[str],
    directory: Path,
    cpu: str | None = None,
    opt: int = 2,
    source: Source | None = None,
) -> dict[str, Path]:
    """Write the files named in `what` (see KINDS) and return their paths.

    `cpu` is None for code that runs on every machine of this architecture,
    "native" for this machine's, or a name that LLVM knows. `source`: the device file, which
    eBPF objects quote. All content is made before the first file is written; each is put in
    place whole. Raises `EmitError`.
    """
    unknown = sorted(set(what) - set(KINDS))
    if unknown:
        raise EmitError(f"cannot emit {', '.join(unknown)}; choose from {', '.join(KINDS)}")
    output = _Output(module, _target(cpu), opt, source)
    made = {kind: KINDS[kind][1](output) for kind in KINDS if kind in what}
    paths = {kind: directory / KINDS[kind][0].format(module.name) for kind in made}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for kind, path in paths.items():
            write_atomically(path, made[kind], 0o755 if kind == "lib" else 0o644)
    except OSError as error:
        raise EmitError(f"cannot write into {directory}: {error.strerror or error}") from None
    return paths


def object_code(module: ir.Module) -> bytes:
    """The object file that `emit` would write for 'obj', for looking into it."""
    return _Output(module, _target(None), 2).object


def _target(cpu: str | None) -> jit.Target:
    if cpu is None:
        return jit.portable()
    if cpu == "native":
        return jit.host()
    return replace(jit.portable(), cpu=cpu)


def link(image: bytes, soname: str) -> bytes:
    """A shared library of one object, made by the system's C compiler. Raises `EmitError`."""
    command = compiler()
    with tempfile.TemporaryDirectory(prefix="devc-") as directory:
        source, result = Path(directory, "device.o"), Path(directory, soname)
        source.write_bytes(image)
        options = ["-shared", "-o", str(result), str(source), f"-Wl,-soname,{soname}", "-Wl,-z,noexecstack"]
        try:
            run = subprocess.run(
                [*command, *options], capture_output=True, text=True, errors="replace", timeout=LINK_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmitError(f"{command[0]} did not link {soname}: {error}") from None
        if run.returncode or not result.is_file():
            raise EmitError(
                f"{shlex.join(command)} could not link {soname} (exit status {run.returncode}):\n"
                f"{run.stderr.strip()}\nIs its linker installed? Emitting 'obj' needs neither."
            )
        return result.read_bytes()


def compiler() -> list[str]:
    """The system's C compiler: $CC, or the first that is found. Raises `EmitError`."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen and shutil.which(chosen[0]):
        return chosen
    if chosen:
        raise EmitError(f"$CC is {chosen[0]!r}, which is not a program; correct it or unset it")
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise EmitError(
        f"a shared library needs a C compiler, and none of {', '.join(COMPILERS)} is installed: "
        "install one (on Debian: apt install gcc), name yours in $CC, "
        "or emit 'obj' and link that into the program"
    )
