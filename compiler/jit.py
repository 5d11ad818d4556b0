"""Machine code in this process: optimise, cache, load, and say where it is.

One LLJIT serves the whole process; a compiled device is a library in it that
lives as long as its `NativeCode`.

Non-goals: files for other programs (emit.py).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as once
from typing import Any, Literal

import llvmlite
import llvmlite.binding as llvm

from . import interface, ir, native, native_quick, traffic_json
from .cache import Cache
from .traffic import Traffic

CacheChoice = Cache | Literal["default"] | None

OBJECT_FORMAT = 3
"""Raised when what is made of the same IR text changes, e.g. the pass pipeline."""

QUICK = 1
"""LLVM's level for code made while someone waits: three quarters of level 2's time, reads as fast."""

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


def optimise(
    text: str, target: Target, opt: int = 2, jit: bool = False, care: int | None = None
) -> tuple[Any, Any]:
    """Parse, verify and optimise LLVM IR: the llvmlite module and its target machine.

    `care`: the level at which the machine makes code, if not `opt`.
    """
    machine = target.machine(opt if care is None else care, jit)
    head = f'target datalayout = "{machine.target_data}"\ntarget triple = "{target.triple}"\n'
    # In a context of its own, whose types and constants go with the module.
    module = llvm.parse_assembly(head + text, llvm.create_context())
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=opt)
    # Handlers have no loop worth more than a compact one, and these cost a third of the time.
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    if opt == QUICK:
        _optimise_once(module, builder)
    else:
        builder.getModulePassManager().run(module, builder)
    return module, machine


def _optimise_once(module: Any, builder: Any) -> None:
    """Inline the calls that say so (see inlining.py), and each function that is left goes through once."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)
    simplify = builder.getFunctionPassManager()
    for function in module.functions:
        if not function.is_declaration:
            simplify.run(function, builder)


class NativeCode:
    """A compiled device in this process. Addresses hold while the object lives."""

    def __init__(self, tracker: Any, names: tuple[str, ...], size: int, cached: bool, key: str = "") -> None:
        self._tracker = tracker
        self.names = names
        self.object_size = size
        self.cached = cached
        self.key = key

    def symbol(self, name: str) -> int:
        """The address of an ABI function, e.g. `pit_ports_read`. KeyError if there is none."""
        address: int = self._tracker[name]
        return address


def compile_module(module: ir.Module, cache: CacheChoice = "default", opt: int = QUICK) -> NativeCode:
    """The device's machine code for this CPU, from the cache (None: none) if it is there."""
    cache = _chosen(cache)
    target = host()
    texts = _texts(module, target, opt)
    key = object_key("\n".join(text for text, _ in texts), target, opt)
    kept = cache.get("object", key) if cache else None
    images = _unpacked(kept) if kept is not None else None
    cached = images is not None
    if images is None:
        images = [_compiled(text, target, opt, care) for text, care in texts]
        if cache:
            cache.put("object", key, _packed(images))
    return load(images, native.symbols(module), cached, key)


def _texts(module: ir.Module, target: Target, opt: int) -> list[tuple[str, int]]:
    """The device's LLVM modules, and the level at which each becomes machine code."""
    if opt != QUICK:
        return [(native.build(module, target.preserve_most), opt)]
    parts = native_quick.build(module, target.preserve_most)
    return [(parts.accesses, QUICK), (parts.rest, 0)]


def _compiled(text: str, target: Target, opt: int, care: int) -> bytes:
    optimised, machine = optimise(text, target, opt, jit=True, care=care)
    image: bytes = machine.emit_object(optimised)
    return image


def _packed(images: Sequence[bytes]) -> bytes:
    return b"".join(len(image).to_bytes(8, "little") + image for image in images)


def _unpacked(payload: bytes) -> list[bytes] | None:
    """The images; None if these are no such."""
    images = []
    while payload:
        length = int.from_bytes(payload[:8], "little")
        images.append(payload[8 : 8 + length])
        if len(images[-1]) != length or not length:
            return None
        payload = payload[8 + length :]
    return images or None


def object_key(text: str, target: Target, opt: int) -> str:
    """A digest of all that an object depends on: IR text, LLVM, CPU, devc's own passes."""
    return hashlib.sha256(f"{identity(target, opt)}\n{text}".encode()).hexdigest()


def identity(target: Target, opt: int) -> str:
    """What objects of this process depend on besides their IR."""
    return f"{OBJECT_FORMAT} {llvmlite.__version__} {llvm.llvm_version_info} {opt} {target}"


def load(images: Sequence[bytes], names: tuple[str, ...], cached: bool = False, key: str = "") -> NativeCode:
    """Link objects into this process, as one library."""
    builder = llvm.JITLibraryBuilder()
    for image in images:
        builder.add_object_img(image)
    builder.add_current_process()
    for name in names:
        builder.export_symbol(name)
    return NativeCode(
        builder.link(_lljit(), f"devc{next(_numbers)}"), names, sum(map(len, images)), cached, key
    )


# --- a device without its source being read ---


def remember(
    source: str, module: ir.Module, code: NativeCode, cache: CacheChoice = "default", opt: int = QUICK
) -> None:
    """Keep what `recall` needs. `source` is any text that determines the module."""
    chosen = _chosen(cache)
    if chosen and code.key:
        payload = code.key.encode() + interface.dump(module)
        chosen.put("interface", _source_key(source, opt), payload)


def recall(
    source: str, cache: CacheChoice = "default", opt: int = QUICK
) -> tuple[ir.Module, NativeCode] | None:
    """The interface (a module without functions) and the code of a remembered source, in milliseconds."""
    chosen = _chosen(cache)
    entry = chosen.get("interface", _source_key(source, opt)) if chosen else None
    if chosen is None or entry is None:
        return None
    key = entry[:_KEY_LENGTH].decode("ascii", "replace")
    kept = chosen.get("object", key)
    images = _unpacked(kept) if kept is not None else None
    if images is None:
        return None
    try:
        module = interface.load(entry[_KEY_LENGTH:])
    except interface.InterfaceError:
        return None
    return module, load(images, native.symbols(module), True, key)


def remember_traffic(source: str, traffic: Traffic, cache: CacheChoice = "default") -> None:
    """Keep what is known of the accesses of the device that `source` determines."""
    chosen = _chosen(cache)
    if chosen:
        chosen.put("traffic", source, traffic_json.dump(traffic))


def recall_traffic(source: str, cache: CacheChoice = "default") -> Traffic | None:
    """What was remembered of them."""
    chosen = _chosen(cache)
    entry = chosen.get("traffic", source) if chosen else None
    return traffic_json.load(entry) if entry is not None else None


_KEY_LENGTH = hashlib.sha256().digest_size * 2


def _source_key(source: str, opt: int) -> str:
    return f"{interface.FORMAT} {identity(host(), opt)}\n{source}"


def _chosen(cache: CacheChoice) -> Cache | None:
    return Cache.default() if cache == "default" else cache


_numbers = itertools.count()


@once
def _lljit() -> Any:
    return llvm.create_lljit_compiler(host().machine(2, jit=True), use_jit_link=True)
