"""A device written in LLVM text, and a board that puts it before a dispatcher."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from devc.compiler.ir import (
    ATTENTION_DEADLINE,
    ATTENTION_LEAVE,
    ATTENTION_LINES,
    NEVER,
)
from devc.compiler.jit import NativeCode
from devc.runtime.bus import StateHeader
from devc.runtime.dispatch import CLOCK_RUNNING, Access, Dispatcher, Outcome
from devc.runtime.native_module import compile_text, expand

SIZE = 16
DELAY, LEVEL, LEAVE, COUNT = 8, 12, 13, 14


class StubState(ctypes.Structure):
    _fields_ = [
        *StateHeader._fields_,
        ("registers", ctypes.c_uint8 * 16),
        ("period", ctypes.c_uint64),
        ("settles", ctypes.c_uint64),
    ]


@cache
def native() -> NativeCode:
    text = Path(__file__).with_name("stub_device.ll").read_text()
    constants = {
        "LINES": ATTENTION_LINES,
        "DEADLINE": ATTENTION_DEADLINE,
        "LEAVE": ATTENTION_LEAVE,
        "NEVER": -1,
    }
    return compile_text(expand(text, [StubState], constants), ("stub_read", "stub_write", "stub_settle"))


class Stub:
    """A stub device and, once placed, its region's handle."""

    def __init__(self) -> None:
        self.state = StubState(deadline=NEVER)
        self.address = ctypes.addressof(self.state)
        self.handle = 0

    def place(
        self, dispatcher: Dispatcher, space: str, base: int, *, split: bool = False, size: int = SIZE
    ) -> Stub:
        code = native()
        self.handle = dispatcher.add_region(
            space,
            base,
            size,
            code.symbol("stub_read"),
            code.symbol("stub_write"),
            self.address,
            split,
            name=f"stub at {base:#x}",
        )
        self.device = dispatcher.add_device(self.address, code.symbol("stub_settle"))
        return self


EXIT_PORT, PYTHON_PORT = 0xF4, 0xE0
STUB_PORT, STUB_MMIO = 0x40, 0xD0000


class Board:
    """A stub at ports 0x40 and another at 0xd0000, a port served in Python, and an exit port.

    `events` lists what Python was asked for; `vector`, if set, is injected into
    the host whenever a stub's line rises.
    """

    def __init__(self, *, running: bool = True) -> None:
        self.dispatcher = Dispatcher()
        if running:
            self.dispatcher.clock.mode = CLOCK_RUNNING
        self.io = Stub().place(self.dispatcher, "io", STUB_PORT)
        self.mmio = Stub().place(self.dispatcher, "mmio", STUB_MMIO)
        self.exit = self.dispatcher.add_region("io", EXIT_PORT, 1, 0, 0, 0, python=True, name="exit")
        self.python = self.dispatcher.add_region("io", PYTHON_PORT, 4, 0, 0, 0, python=True, name="python")
        self.dispatcher.attend = self.attend
        self.events: list[tuple[str, int, int]] = []
        self.vector: int | None = None
        self.host = None
        self.answer = 0xA5
        self.served: object = None

    def attend(self, access: Access) -> None:
        if access.outcome == Outcome.HEAVY:
            value = access.piece_value if access.write else -1
            self.events.append((self._place(access), access.offset, value))
            if access.entry == self.exit:
                self.host.stop()
            if callable(self.served):
                self.served(access)
            access.answer(self.answer + access.offset)
        for stub in (self.io, self.mmio):
            if stub.state.attention:
                stub.state.attention = 0
                if stub.state.lines and access.outcome != Outcome.HEAVY:
                    self.events.append(("line", stub.device, access.now))
                    if self.vector is not None:
                        self.host.inject(self.vector)

    def _place(self, access: Access) -> str:
        return {self.exit: "exit", self.python: "python"}.get(access.entry, "leave")
