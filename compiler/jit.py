"""Machine code in this process: optimise, cache, load, and say where it is.

One LLJIT serves the whole process; a compiled device is a library in it that
lives as long as its `NativeCode`.

Non-goals: files for other programs (emit.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache as once
from typing import Any, Literal

import llvmlite
import llvmlite.binding as llvm

from . import ir, native
from .cache import Cache

OBJECT_FORMAT = 1
"""Raised when what is made of the same IR text changes, e.g. the pass pipeline."""

PRESERVE_MOST = ("x86_64", "aarch64", "arm64")
"""Architectures for which LLVM implements that calling convention."""


@dataclass(frozen=True, slots=True)
class Target:
    """What machine code is made for. `features` as in `+avx,-sse4a`."""

    triple: str
    cpu: str
    features: str

    @property
    def preserve_most(self) -> bool:
        return self.triple.split("-")[0] in PRESERVE_MOST

    def machine(self, opt: int, jit: bool) -> Any:
        target = llvm.Target.from_triple(self.triple)
        return target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=opt, reloc="pic", codemodel="small", jit=jit
        )


@once
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@once
def host() -> Target:
    """This machine, with all that its CPU can do."""
    _initialise()
    return Target(llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


@once
def portable() -> Target:
    """This machine's architecture at its baseline: for files that go elsewhere."""
    _initialise()
    return Target(llvm.get_process_triple(), "", "")


def optimise(text: str, target: Target, opt: int = 2, jit: bool = False) -> tuple[Any, Any]:
    """Parse, verify and optimise LLVM IR: the llvmlite module and its target machine."""
    machine = target.machine(opt, jit)
    head = f'target datalayout = "{machine.target_data}"\ntarget triple = "{target.triple}"\n'
    # A context of its own: devices may be compiled in several threads.
    module = llvm.parse_assembly(head + text, llvm.create_context())
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=opt)
    # Handlers have no loop worth more than a compact one, and these cost a third of the time.
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


class NativeCode:
    """A compiled device in this process. Addresses hold while the object lives."""

    def __init__(self, tracker: Any, names: tuple[str, ...], size: int, cached: bool) -> None:
        self._tracker = tracker
        self.names = names
        self.object_size = size
        self.cached = cached

    def symbol(self, name: str) -> int:
        """The address of an ABI function, e.g. `pit_ports_read`. KeyError if there is none."""
        address: int = self._tracker[name]
        return address


def compile_module(
    module: ir.Module, cache: Cache | Literal["default"] | None = "default", opt: int = 2
) -> NativeCode:
    """The device's machine code for this CPU, from the cache (None: none) if it is there."""
    if cache == "default":
        cache = Cache.default()
    target = host()
    text = native.build(module, target.preserve_most)
    key = object_key(text, target, opt)
    image = cache.get("object", key) if cache else None
    cached = image is not None
    if image is None:
        optimised, machine = optimise(text, target, opt, jit=True)
        image = machine.emit_object(optimised)
        if cache:
            cache.put("object", key, image)
    return load(image, native.symbols(module), cached)


def object_key(text: str, target: Target, opt: int) -> str:
    """What an object depends on, as text; the cache hashes it."""
    parts = (OBJECT_FORMAT, llvmlite.__version__, llvm.llvm_version_info, opt, target.triple, target.cpu)
    return "\n".join((*map(str, parts), target.features, text))


def load(image: bytes, names: tuple[str, ...], cached: bool = False) -> NativeCode:
    """Link an object into this process."""
    builder = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
    for name in names:
        builder.export_symbol(name)
    return NativeCode(builder.link(_lljit(), f"devc{next(_numbers)}"), names, len(image), cached)


_numbers = itertools.count()


@once
def _lljit() -> Any:
    return llvm.create_lljit_compiler(host().machine(2, jit=True), use_jit_link=True)
