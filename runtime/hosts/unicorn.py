"""Guests in Unicorn's emulation: the default where there is no KVM.

The hooks that Unicorn calls are native code (`unicorn.ll`); Python is entered
for heavy accesses, for deadlines that want attention, and to deliver interrupts
and faults through the real-mode vector table, which Unicorn leaves to its user.

Limits of Unicorn: an MMIO access that is not aligned arrives as the aligned
accesses around it; guest code runs a block at a time, and interrupts arrive
between blocks. Non-goals: protected mode.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import struct
import threading
from collections.abc import Generator
from ctypes import c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from ...compiler.ir import NEVER
from ...compiler.jit import NativeCode
from ..bus import CLOCK_RUNNING, CONSTANTS, STRUCTURES, Access
from ..dispatch import Dispatcher, dispatch_text
from ..native_module import compile_text, expand, read_text
from .host import (
    DEFAULT_MEMORY,
    GRACE,
    INTERRUPT_FLAG,
    LOW_MEMORY,
    PAGE,
    Exit,
    Host,
    HostError,
    Reason,
    Registers,
)

# unicorn/unicorn.h, unicorn/x86.h: stable since version 2.0.
_ARCH_X86, _MODE_16 = 4, 1 << 1
_HOOK_INTR, _HOOK_INSN, _HOOK_BLOCK = 1, 2, 8
_INSN_IN, _INSN_OUT = 218, 500
_PROT_ALL = 7
_CTL_TB_FLUSH = 10 | 1 << 30

_CALL_ATTEND, _CALL_BREATHE = 0, 1
_SLICE = 64
"""Blocks between two looks at the clock."""
_BREATH = 4096
"""Slices between two calls of Python that let its signal handlers run: some ms."""
_MAX_SHADOWS = 16
_NO_TRAP = 0xFFFF_FFFF


class Emulation(ctypes.Structure):
    """What the hooks know of one guest."""

    _fields_ = [
        ("access", Access),
        ("bus", c_uint64),
        ("uc", c_uint64),
        ("python", c_uint64),
        ("emu_stop", c_uint64),
        ("reg_read", c_uint64),
        ("until", c_uint64),
        ("mmio_base", c_uint64),
        ("grace", c_uint64),
        ("settled", c_uint64),
        ("budget", c_uint32),
        ("slice", c_uint32),
        ("breath", c_uint32),
        ("leave", c_uint32),
        ("stopped", c_uint32),
        ("pending", c_uint32),
        ("stepping", c_uint32),
        ("trap", c_uint32),
    ]


_SYMBOLS = (
    "devc_uc_in",
    "devc_uc_out",
    "devc_uc_read",
    "devc_uc_write",
    "devc_uc_interrupt",
    "devc_uc_block",
)

_PYTHON = ctypes.CFUNCTYPE(None, c_uint32)


@cache
def _native(eflags: int) -> NativeCode:
    text = dispatch_text() + read_text(__package__, "unicorn.ll")
    constants = {
        **CONSTANTS,
        "CALL_ATTEND": _CALL_ATTEND,
        "CALL_BREATHE": _CALL_BREATHE,
        "BREATH": _BREATH,
        "EFLAGS": eflags,
    }
    return compile_text(expand(text, (*STRUCTURES, Emulation), constants), _SYMBOLS)


@cache
def _library() -> tuple[ctypes.CDLL, Any]:
    """Unicorn's C library and its register numbers; HostError if it is not installed."""
    try:
        spec = importlib.util.find_spec("unicorn")
        if spec is None:
            raise HostError("Unicorn is not installed; `pip install unicorn`")
        from unicorn import x86_const
    except ImportError as error:
        raise HostError(f"Unicorn does not load: {error}") from None
    for folder in spec.submodule_search_locations or ():
        for file in sorted((Path(folder) / "lib").glob("*unicorn*")):
            if file.suffix in (".2", ".so", ".dylib", ".dll"):
                return _prototyped(ctypes.CDLL(str(file))), x86_const
    raise HostError("the Unicorn package holds no shared library; reinstall it")


def _prototyped(library: ctypes.CDLL) -> ctypes.CDLL:
    handle = c_void_p
    prototypes: dict[str, list[Any]] = {
        "uc_open": [c_int32, c_int32, c_void_p],
        "uc_close": [handle],
        "uc_emu_start": [handle, c_uint64, c_uint64, c_uint64, c_size_t],
        "uc_reg_read": [handle, c_int32, c_void_p],
        "uc_reg_write": [handle, c_int32, c_void_p],
        "uc_mem_map_ptr": [handle, c_uint64, c_uint64, c_uint32, c_void_p],
        "uc_mmio_map": [handle, c_uint64, c_uint64, c_void_p, c_void_p, c_void_p, c_void_p],
        "uc_ctl": [handle, c_int32],
        "uc_hook_add": [handle, c_void_p, c_int32, c_void_p, c_void_p, c_uint64, c_uint64],
    }
    for name, arguments in prototypes.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int32
    library.uc_strerror.restype = ctypes.c_char_p
    library.uc_version.restype = c_uint32
    return library


@cache
def available() -> str | None:
    """None if guests run in Unicorn here, else why not."""
    try:
        library, _ = _library()
    except HostError as error:
        return str(error)
    except OSError as error:
        return f"Unicorn's library does not load: {error}"
    if library.uc_version(None, None) >> 24 < 2:
        return "Unicorn is older than version 2; upgrade it"
    return None


class UnicornHost(Host):
    """A guest in Unicorn."""

    name = "unicorn"
    most_memory = LOW_MEMORY

    def __init__(self, dispatcher: Dispatcher, memory: int = DEFAULT_MEMORY) -> None:
        super().__init__(dispatcher, memory)
        self._uc = c_void_p()
        self._queue: list[int] = []
        self._halted = False
        self._asked = False
        self._failure: BaseException | None = None
        self._wake = threading.Event()
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    def _create(self) -> None:
        self._lib, names = _library()
        self._numbers = {name: getattr(names, f"UC_X86_REG_{name}") for name in _REGISTERS}
        native = _native(self._numbers["EFLAGS"])
        self._check(self._lib.uc_open(_ARCH_X86, _MODE_16, ctypes.byref(self._uc)), "opening Unicorn")
        self._state = Emulation(
            bus=self.dispatcher.address,
            uc=self._uc.value,
            emu_stop=_address(self._lib.uc_emu_stop),
            reg_read=_address(self._lib.uc_reg_read),
            until=NEVER,
            mmio_base=self._size,
            grace=GRACE,
            slice=_SLICE,
            breath=_BREATH,
            trap=_NO_TRAP,
        )
        ram = self._lib.uc_mem_map_ptr(self._uc, 0, self._size, _PROT_ALL, self._ram_address())
        self._check(ram, "mapping the guest's memory")
        user = ctypes.addressof(self._state)
        # All of 32-bit space that is not memory: who is there is the dispatcher's to know.
        rest = max((1 << 32) - self._size, PAGE)
        mmio = self._lib.uc_mmio_map(
            self._uc,
            self._size,
            rest,
            native.symbol("devc_uc_read"),
            user,
            native.symbol("devc_uc_write"),
            user,
        )
        self._check(mmio, "mapping the devices' addresses")
        self._hook(_HOOK_INSN, native.symbol("devc_uc_in"), user, _INSN_IN)
        self._hook(_HOOK_INSN, native.symbol("devc_uc_out"), user, _INSN_OUT)
        self._hook(_HOOK_INTR, native.symbol("devc_uc_interrupt"), user)
        self._hook(_HOOK_BLOCK, native.symbol("devc_uc_block"), user)

    def _hook(self, kind: int, function: int, user: int, *instruction: int) -> None:
        handle = c_size_t()
        status = self._lib.uc_hook_add(
            self._uc,
            ctypes.byref(handle),
            kind,
            function,
            user,
            1,  # from 1 to 0: everywhere
            0,
            *(c_int32(i) for i in instruction),
        )
        self._check(status, "hooking the guest's instructions")

    def _check(self, status: int, what: str) -> None:
        if status:
            raise HostError(f"{what} failed: {self._reason(status)}")

    def _reason(self, status: int) -> str:
        text: bytes = self._lib.uc_strerror(c_int32(status))
        return text.decode()

    # --- what native code asks of Python ---

    def _served(self) -> Generator[None, int, None]:
        """Serve calls of native code, sent one by one.

        A generator, since an exception must not leave a callback, and a signal
        handler may raise at a function's first instruction, before any `try`;
        here every call begins inside one.
        """
        while True:
            try:
                while True:
                    if (yield) == _CALL_ATTEND:
                        self.dispatcher.attended(self._state.access)
            except GeneratorExit:
                return
            except BaseException as error:
                self._fail(error)

    def _listen(self) -> None:
        """Let native code call Python."""
        self._serving = self._served()
        next(self._serving)
        self._python = _PYTHON(self._serving.send)
        self._state.python = _address(self._python)

    def _fail(self, error: BaseException) -> None:
        """Note the first exception for `run` to raise, and stop at the next block."""
        if self._failure is None:
            self._failure = error
        else:
            self._failure.add_note(f"and before the guest stopped: {error!r}")
        self._ask_leave()

    def _ask_leave(self) -> None:
        self._state.leave = 1
        self._state.budget = 0

    # --- running ---

    def _run(self, until: int) -> Exit:
        self._state.until = until
        self._listen()
        self._drop_code()  # it may have been changed from outside
        self._settle()
        while True:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            now = self.dispatcher.now()
            if self._asked:
                self._asked = False
                return Exit(Reason.STOPPED, now)
            if now >= until:
                return Exit(Reason.TIME, now)
            ended = self._wait() if self._halted else self._slice()
            if ended is not None:
                return ended

    def _settle(self) -> None:
        now = self.dispatcher.now()
        self._state.settled = now
        self.dispatcher.settle(now)

    def _slice(self) -> Exit | None:
        """Emulate until native code or the guest stops."""
        state = self._state
        if self._queue and self._accepts():
            self._deliver(self._queue.pop(0))
            state.pending = len(self._queue)
        if self._failure is not None:
            return None
        # In this order, so that a `stop` from another thread is not lost.
        state.leave = 0
        state.leave = int(self._asked)
        state.stopped = 0
        state.budget = 0
        status = self._emulate(0)
        if state.trap != _NO_TRAP:
            vector, state.trap = state.trap, _NO_TRAP
            self._deliver(vector)
        elif status:
            return self._gave_up(status)
        elif not state.stopped:
            self._halted = True
        return None

    def _drop_code(self) -> None:
        self._check(self._lib.uc_ctl(self._uc, _CTL_TB_FLUSH), "dropping translated code")

    def _emulate(self, count: int) -> int:
        pc = 16 * self._read("CS") + self._read("EIP")
        status: int = self._lib.uc_emu_start(self._uc, pc, (1 << 64) - 1, 0, count)
        return status

    def _gave_up(self, status: int) -> Exit:
        where = f"{self._read('CS'):#x}:{self._read('EIP'):#x}"
        return Exit(
            Reason.INTERNAL_ERROR, self.dispatcher.now(), f"Unicorn at {where}: {self._reason(status)}"
        )

    def _wait(self) -> Exit | None:
        """The guest has halted: sleep until the next deadline, or be done."""
        now = self.dispatcher.now()
        accepts = bool(self._read("EFLAGS") & INTERRUPT_FLAG)
        if self._queue and accepts:
            self._halted = False
            return None
        target = min(self.dispatcher.earliest(), self._state.until)
        if target <= now != self._state.settled:
            self._settle()
            return None
        if not accepts:
            return Exit(Reason.HALTED, now, "with interrupts off")
        if target == NEVER or self.dispatcher.clock.mode != CLOCK_RUNNING:
            return Exit(Reason.HALTED, now)
        wake = max(target, self._state.settled + self._state.grace)
        self._wake.wait(min(max(wake - now, 0) / 1e9, threading.TIMEOUT_MAX))
        self._wake.clear()
        self._settle()
        return None

    def inject(self, vector: int) -> bool:
        if not 0 <= vector <= 255:
            raise HostError(f"an interrupt vector is 0 to 255, not {vector}")
        if vector in self._queue:
            return False
        self._queue.append(vector)
        self._state.pending = len(self._queue)
        self._state.budget = 0
        return True

    def stop(self) -> None:
        self._asked = True
        self._ask_leave()
        self._wake.set()

    # --- interrupts in real mode (Intel SDM vol. 3, 21.1.4) ---

    def _accepts(self) -> bool:
        """Whether the guest takes an interrupt before its next instruction.

        The instruction after STI, MOV SS and POP SS is not interrupted (SDM vol. 3,
        6.8.3). Unicorn does not tell, so where the last one may have been such,
        one instruction is run first.
        """
        if not self._read("EFLAGS") & INTERRUPT_FLAG:
            return False
        if not self._maybe_shadow():
            return True
        for _ in range(_MAX_SHADOWS):
            begins_another = self._begins_shadow()
            if not self._step():
                return False
            if not begins_another:
                break
        return bool(self._read("EFLAGS") & INTERRUPT_FLAG)

    def _step(self) -> bool:
        """Run one instruction; False if something else must be dealt with before an interrupt."""
        state = self._state
        state.stepping = 1
        # Blocks translated before do not count instructions.
        self._drop_code()
        status = self._emulate(1)
        state.stepping = 0
        if state.trap != _NO_TRAP:
            vector, state.trap = state.trap, _NO_TRAP
            self._deliver(vector)
            return False
        return status == 0 and self._failure is None

    def _code(self, offset: int, length: int) -> bytes:
        start = 16 * self._read("CS") + self._read("EIP") + offset
        return bytes(self.memory[max(start, 0) : max(start + length, 0)])

    def _maybe_shadow(self) -> bool:
        before = self._code(-8, 8)
        return before[-1:] in (b"\xfb", b"\x17") or any(
            code == 0x8E and operand >> 3 & 7 == 2 for code, operand in itertools.pairwise(before)
        )

    def _begins_shadow(self) -> bool:
        code = self._code(0, 16).lstrip(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
        return code[:1] in (b"\xfb", b"\x17") or (code[:1] == b"\x8e" and code[1] >> 3 & 7 == 2)

    def _deliver(self, vector: int) -> None:
        """Push flags, CS and IP, clear IF and TF, and go to where the vector table says."""
        flags = self._read("EFLAGS")
        sp = self._read("ESP")
        stack = 16 * self._read("SS")
        for word in (flags, self._read("CS"), self._read("EIP")):
            sp = sp & ~0xFFFF | (sp - 2) & 0xFFFF
            self._store(stack + (sp & 0xFFFF), word & 0xFFFF)
        ip, cs = struct.unpack("<HH", bytes(self.memory[4 * vector : 4 * vector + 4]))
        self._write("ESP", sp)
        self._write("EFLAGS", flags & ~(INTERRUPT_FLAG | 1 << 8))
        self._write("CS", cs)
        self._write("EIP", ip)

    def _store(self, address: int, word: int) -> None:
        if address + 2 <= self._size:
            self.memory[address : address + 2] = struct.pack("<H", word)

    # --- registers ---

    def _read(self, name: str) -> int:
        value = c_uint64()
        self._check(
            self._lib.uc_reg_read(self._uc, self._numbers[name], ctypes.byref(value)), f"reading {name}"
        )
        return value.value

    def _write(self, name: str, value: int) -> None:
        held = c_uint64(value)
        self._check(
            self._lib.uc_reg_write(self._uc, self._numbers[name], ctypes.byref(held)), f"setting {name}"
        )

    @property
    def registers(self) -> Registers:
        self._require_open()
        return Registers(**{_REGISTERS[name]: self._read(name) for name in _REGISTERS})

    @registers.setter
    def registers(self, values: Registers) -> None:
        self._require_open()
        for name, attribute in _REGISTERS.items():
            self._write(name, getattr(values, attribute))
        self._halted = False

    def _release(self) -> None:
        if self._uc:
            self._lib.uc_close(self._uc)
            self._uc = c_void_p()


# Segments first: in real mode, setting CS must not disturb what comes after.
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
_GENERAL = ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp", "ip", "flags")
_REGISTERS = {n.upper(): n for n in _SEGMENTS} | {f"E{n.upper()}": f"r{n}" for n in _GENERAL}


def _address(function: Any) -> int:
    return ctypes.cast(function, c_void_p).value or 0
