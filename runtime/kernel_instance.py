"""A device whose accesses the running kernel serves, as verified eBPF programs.

The state lies in a map that is mapped into this process, so native code works on
the same bytes: init, reset, images and peeks are native, and `runs` chooses, at
any time, who serves reads, writes and settling. Both sides take the state's lock
for each call; a call that finds it held is tried again.

    device = KernelInstance(code, module, object_code(module, source), now=0)
    device.read("pit", 1000, 0, 1)          # in the kernel
    device.runs = "native"                  # the device has moved: nothing else to do

Non-goals: attaching programs to a guest's exits (examples/in_kernel).
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ..compiler import ir
from ..compiler.image import layout_hash
from .bpf_object import BpfObject, Loaded, ObjectError
from .calls import (
    BUSY,
    CAPACITY,
    DEADLINE,
    MOST_ROUNDS,
    NO_REGION,
    READ,
    SERVED,
    SETTLE,
    USER_SPACE,
    WRITE,
    Batch,
    Call,
    NativeCalls,
    let_go,
    try_hold,
)
from .instance import NativeInstance

if TYPE_CHECKING:
    from ..compiler.jit import NativeCode

Runner = Literal["kernel", "native"]

PROGRAMS = {READ: "read", WRITE: "write", SETTLE: "settle", DEADLINE: "deadline"}
"""The program that serves each kind of call, by its name behind the device's."""

FORMAT, _ABOUT = 1, struct.Struct("<IIQII")
"""Of objects that this module knows: their format, and `struct devc_about`."""

PATIENCE = 5.0
"""Seconds for which a call is tried again while another holds the lock: handlers take microseconds,
so whoever has it for longer is not coming back."""


class LockedError(RuntimeError):
    """The state's lock stayed held: who took it was ended at work."""


class KernelInstance(NativeInstance):
    """A device in the kernel and in machine code, over one state.

    `runs` says who serves; `loaded` holds the maps. `close` gives them back.
    """

    def __init__(self, code: NativeCode, module: ir.Module, image: bytes, now: int, /, **params: int) -> None:
        """`image`: the device's eBPF object. Raises ParameterError; ObjectError, if the object is not this
        module's; `bpf.Rejected`, if the verifier refuses a program; `bpf.BpfError`."""
        source = BpfObject(image, f"{module.name}.bpf.o")
        _check_fit(source, module)
        self.loaded: Loaded = source.load()
        self.runs: Runner = "kernel"
        self.retries = 0
        super().__init__(code, module, now, **params)
        self.programs = {
            what: self.loaded.program(f"{module.name}_{name}") for what, name in PROGRAMS.items()
        }
        self.batch = self.loaded.program(f"{module.name}_batch")
        self._native = NativeCalls(code, module, self.address)
        self._numbers = {region.name: number for number, region in enumerate(module.regions)}

    def _allocate(self, size: int) -> tuple[int, memoryview]:
        """The state in the map of the object's `.data`."""
        offset, _ = self.loaded.source.variables(".data")["state"]
        mapped = self.loaded.maps[".data"].mapped()
        calls = self.loaded.maps[".data.calls"].mapped()
        self.calls = (Call * CAPACITY).from_buffer(calls)
        """The records that the batch program serves."""
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        return start + offset, memoryview(mapped)[offset : offset + size]

    # --- in the kernel, or here ---

    def serve(self, call: Call) -> int:
        """Serve a call record, again while the state is busy; its status: anything but BUSY.

        USER_SPACE: nothing was changed, and `leave` in the state says which Python handler must
        serve it. Raises LockedError.
        """
        run = self._in_kernel if self.runs == "kernel" else self._native.serve
        status = run(call)
        if status == BUSY:
            status = self._again(run, call)
        if status == USER_SPACE and self.runs == "kernel":
            # Only user space can go on, and natively the state says with whom.
            status = self._again(self._native.serve, call)
        return status

    def _again(self, run: Any, call: Call) -> int:
        ends = time.monotonic() + PATIENCE
        while (status := int(run(call))) == BUSY:
            self.retries += 1
            if time.monotonic() > ends:
                raise LockedError(f"{self.module.name}: the state's lock has been held for {PATIENCE:g} s")
            os.sched_yield()
        return status

    def _in_kernel(self, call: Call) -> int:
        program = self.programs.get(call.what)
        if program is None:
            call.status = NO_REGION
        else:
            program.run(call)
        return int(call.status)

    def serve_all(self, count: int, rounds: int = 1) -> int:
        """Have the batch program serve the first `count` of `calls`, `rounds` times, in one run, up to
        the first that is not served (its `status` says why): how many were."""
        if not (0 <= count <= CAPACITY and 0 < rounds <= MOST_ROUNDS):
            raise ValueError(f"{count} calls, {rounds} times: at most {CAPACITY}, {MOST_ROUNDS} times")
        batch = Batch(0, count, 0, rounds)
        self.batch.run(batch)
        return int(batch.done)

    def read(self, region: str, now: int, offset: int, width: int) -> int:
        call = Call(now, 0, offset, width, self._numbers[region], READ)
        return int(call.value) if self.serve(call) == SERVED else 0

    def write(self, region: str, now: int, offset: int, width: int, value: int) -> None:
        self.serve(Call(now, value, offset, width, self._numbers[region], WRITE))

    def settle(self, now: int) -> None:
        self.serve(Call(now, what=SETTLE))

    def next(self, now: int) -> int:
        call = Call(now, what=DEADLINE)
        self.serve(call)
        return int(call.value)

    # --- natively, on the same bytes ---

    @contextmanager
    def held(self) -> Iterator[None]:
        """With the state's lock, so that nobody else works on it. Raises LockedError."""
        ends = time.monotonic() + PATIENCE
        while not try_hold(self.address):
            self.retries += 1
            if time.monotonic() > ends:
                raise LockedError(f"{self.module.name}: the state's lock has been held for {PATIENCE:g} s")
            os.sched_yield()
        try:
            yield
        finally:
            let_go(self.address)

    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        with self.held():
            return super().peek(region, now, offset, width)

    def levels(self, now: int) -> int:
        with self.held():
            return super().levels(now)

    def reset(self, now: int) -> None:
        with self.held():
            super().reset(now)

    def commit(self, now: int) -> None:
        with self.held():
            super().commit(now)

    def resume(self, now: int) -> None:
        with self.held():
            super().resume(now)

    def save(self, now: int) -> bytes:
        with self.held():
            return super().save(now)

    def restore(self, now: int, image: bytes) -> None:
        with self.held():
            super().restore(now, image)

    def close(self) -> None:
        """Give the programs and maps back; the instance is of no use then."""
        for program in (*self.programs.values(), self.batch):
            program.close()
        self.loaded.close()


def _check_fit(source: BpfObject, module: ir.Module) -> None:
    """ObjectError unless the object is this module's, by what its variable `about` says."""
    at, size = source.variables(".rodata").get("about", (0, 0))
    about = source.data.get(".rodata", b"")[at : at + size]
    told = _ABOUT.unpack(about) if len(about) == _ABOUT.size else ()
    if told[:3] != (FORMAT, module.size, layout_hash(module)):
        raise ObjectError(f"{source.name} was not made of this {module.name}; compile it anew")
    wanted = [*(f"{module.name}_{name}" for name in PROGRAMS.values()), f"{module.name}_batch"]
    if missing := [name for name in wanted if name not in source.programs]:
        raise ObjectError(f"{source.name} has no program {missing[0]}; compile it anew")
    if source.variables(".data").get("state", (0, 0))[1] != module.size or ".data.calls" not in source.maps:
        raise ObjectError(f"{source.name} has no state or no calls; compile it anew")
