"""Guests on KVM (x86-64 Linux): the exit loop is native code (`kvm.ll`).

Deadlines come by a POSIX timer whose signal is sent to the vCPU's thread; its
handler, native code too, sets `immediate_exit`, so that none is lost. Other
signals wait until the loop looks for them, some ms at most.
Interrupts are injected by KVM_INTERRUPT; there is no in-kernel interrupt chip.

Non-goals: several vCPUs, protected mode, in-kernel devices.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import sys
import threading
from functools import cache

from ...compiler.ir import NEVER
from ...compiler.jit import NativeCode
from ..bus import Access, Outcome
from ..dispatch import Dispatcher, dispatch_text
from ..native_module import compile_text, expand, read_text
from . import kvm_abi as abi
from .host import DEFAULT_MEMORY, GRACE, Exit, Host, HostError, Reason, Registers

WAKE: int = getattr(signal, "SIGRTMAX", 64) - 2
"""The signal of deadlines and of `stop`, in the whole process."""

# Intel's processors without real mode need a page for the TSS and one for an
# identity map, anywhere below 4 GiB where the guest has no memory.
_TSS = 0xFFFBD000
_IDENTITY_MAP = 0xFFFBC000

_SYS_TIMER_CREATE, _SYS_TIMER_DELETE, _SYS_SIGNALFD4 = 222, 226, 289
_CLOCK_MONOTONIC, _SIGEV_THREAD_ID = 1, 4
_SA_SIGINFO, _SA_RESTART = 4, 0x10000000

_LOOP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class _SignalEvent(ctypes.Structure):
    """`struct sigevent`, as SIGEV_THREAD_ID uses it."""

    _fields_ = [
        ("value", ctypes.c_uint64),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("pad", ctypes.c_int * 11),
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def _ioctl(fd: int, request: int, argument: int | ctypes.Structure | ctypes.c_uint64 = 0) -> int:
    value = argument if isinstance(argument, int) else ctypes.addressof(argument)
    result = int(_libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(value)))
    if result < 0:
        raise _error("a KVM ioctl")
    return result


def _syscall(what: str, number: int, *arguments: int | ctypes.c_void_p) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise _error(what)
    return result


def _error(what: str) -> HostError:
    code = ctypes.get_errno()
    return HostError(f"{what} failed: {os.strerror(code)} ({errno.errorcode.get(code, code)})")


class _SignalAction(ctypes.Structure):
    """glibc's `struct sigaction`."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


@cache
def _native() -> NativeCode:
    """The loop's code; its signal handler is installed, for all vCPUs of the process."""
    text = dispatch_text() + read_text(__package__, "kvm.ll")
    code = compile_text(expand(text, abi.STRUCTURES, abi.CONSTANTS), ("devc_kvm_loop", "devc_kvm_wake"))
    action = _SignalAction(handler=code.symbol("devc_kvm_wake"), flags=_SA_SIGINFO | _SA_RESTART)
    if _libc.sigaction(WAKE, ctypes.byref(action), None):
        raise _error("installing the wake signal's handler")
    return code


@cache
def available() -> str | None:
    """None if guests run on KVM here, else why not. Found out by running one."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return f"KVM guests need Linux on x86-64; this is {sys.platform} on {platform.machine()}"
    if not os.path.exists("/dev/kvm"):
        return "there is no /dev/kvm (no hardware virtualisation, or the kvm module is not loaded)"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm may not be opened; ask to be put in the group kvm"
    try:
        with KvmHost(Dispatcher()) as host:
            host.load(b"\xb8\x34\x12\xf4", 0x1000)  # mov ax, 0x1234; hlt
            host.boot(0x1000)
            outcome = host.run()
            if outcome.reason is not Reason.HALTED or host.registers.rax != 0x1234:
                return f"/dev/kvm does not run a real-mode guest here: {outcome}"
    except HostError as error:
        return str(error)
    return None


def _internal_error(detail: abi.RunDetail) -> str:
    words = list(detail.data[: min(detail.ndata, len(detail.data))])
    if detail.code == abi.INTERNAL_ERROR_EMULATION and len(words) >= 3 and words[0] & 1:
        size, *code = b"".join(word.to_bytes(8, "little") for word in words[1:3])
        return f"KVM cannot run the instruction at {bytes(code[:size]).hex(' ')}"
    return f"suberror {detail.code} {' '.join(f'{word:#x}' for word in words)}".rstrip()


class KvmHost(Host):
    """A guest on KVM. `run` may move from thread to thread, one at a time."""

    name = "kvm"

    def __init__(self, dispatcher: Dispatcher, memory: int = DEFAULT_MEMORY) -> None:
        super().__init__(dispatcher, memory)
        self._fds: list[int] = []
        self._page: mmap.mmap | None = None
        self._timer: int | None = None
        self._thread = 0
        self._unblock: int | None = None
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    def _create(self) -> None:
        self._loop = _LOOP(_native().symbol("devc_kvm_loop"))
        self._wake = WAKE
        try:
            kvm = self._own(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise HostError(f"/dev/kvm cannot be opened: {error.strerror}") from None
        if _ioctl(kvm, abi.GET_API_VERSION) != abi.API_VERSION:
            raise HostError(f"/dev/kvm does not speak KVM's API version {abi.API_VERSION}")
        vm = self._own(_ioctl(kvm, abi.CREATE_VM))
        _ioctl(vm, abi.SET_TSS_ADDR, _TSS)
        _ioctl(vm, abi.SET_IDENTITY_MAP_ADDR, ctypes.c_uint64(_IDENTITY_MAP))
        region = abi.MemoryRegion(0, 0, 0, self._size, self._ram_address())
        _ioctl(vm, abi.SET_USER_MEMORY_REGION, region)
        self._fd = self._own(_ioctl(vm, abi.CREATE_VCPU))
        self._page = mmap.mmap(self._fd, _ioctl(kvm, abi.GET_VCPU_MMAP_SIZE))
        self._head = abi.RunHead.from_buffer(self._page)
        wake = ctypes.c_uint64(1 << (self._wake - 1))
        signal_fd = self._own(
            _syscall("signalfd", _SYS_SIGNALFD4, -1, ctypes.addressof(wake), 8, os.O_CLOEXEC | os.O_NONBLOCK)
        )
        self._vcpu = abi.Vcpu(
            bus=self.dispatcher.address,
            run=ctypes.addressof(self._head),
            until=NEVER,
            grace=GRACE,
            wake=wake.value,
            fd=self._fd,
            signal_fd=signal_fd,
        )

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    # --- running ---

    def _run(self, until: int) -> Exit:
        self._here()
        self._vcpu.until = until
        try:
            leave = self._until_left()
        except BaseException as error:
            self._complete(error)
            raise
        return self._exit(leave)

    def _until_left(self) -> int:
        vcpu = self._vcpu
        where, access = ctypes.addressof(vcpu), vcpu.access
        while True:
            leave = self._loop(where)
            if leave == abi.Leave.ATTEND:
                self.dispatcher.attended(access)
            elif leave != abi.Leave.SIGNAL:
                return int(leave)

    def _complete(self, error: BaseException) -> None:
        """After an exception: finish the instruction under way, so that registers are exact."""
        access: Access = self._vcpu.access
        leave = abi.Leave.ATTEND if access.outcome >= Outcome.ATTENTION else abi.Leave.SIGNAL
        while leave in (abi.Leave.ATTEND, abi.Leave.SIGNAL):
            try:
                if leave == abi.Leave.ATTEND:
                    self.dispatcher.attended(access)
            except Exception as another:
                error.add_note(f"while the access was completed: {another!r}")
            self._vcpu.stop = abi.STOP_ASKED
            leave = self._loop(ctypes.addressof(self._vcpu))

    def _exit(self, leave: int) -> Exit:
        now = self.dispatcher.now()
        if leave == abi.Leave.HALTED:
            return Exit(Reason.HALTED, now, "" if self._head.if_flag else "with interrupts off")
        if leave == abi.Leave.ERROR:
            return Exit(Reason.INTERNAL_ERROR, now, f"KVM_RUN: {os.strerror(self._vcpu.error)}")
        if leave == abi.Leave.EXIT:
            return self._kernel_exit(now)
        return Exit(Reason[abi.Leave(leave).name], now)

    def _kernel_exit(self, now: int) -> Exit:
        detail = abi.RunDetail.from_address(self._vcpu.run)
        number = self._head.exit_reason
        if number == abi.KernelExit.SHUTDOWN:
            return Exit(Reason.SHUTDOWN, now, "triple fault")
        if number == abi.KernelExit.FAIL_ENTRY:
            return Exit(Reason.FAILED_ENTRY, now, f"hardware reason {detail.code:#x}")
        if number == abi.KernelExit.INTERNAL_ERROR:
            return Exit(Reason.INTERNAL_ERROR, now, _internal_error(detail))
        return Exit(Reason.UNKNOWN, now, f"KVM exit {number}")

    def inject(self, vector: int) -> bool:
        if not 0 <= vector <= 255:
            raise HostError(f"an interrupt vector is 0 to 255, not {vector}")
        vcpu = self._vcpu
        if any(vcpu.queue[(vcpu.head + i) % 256] == vector for i in range(vcpu.pending)):
            return False
        vcpu.queue[(vcpu.head + vcpu.pending) % 256] = vector
        vcpu.pending += 1
        return True

    def stop(self) -> None:
        self._vcpu.stop = abi.STOP_ASKED
        if self._running and self._thread != threading.get_native_id():
            self._head.immediate_exit = 1
            signal.pthread_kill(self._ident, self._wake)

    def _here(self) -> None:
        """Make this thread the vCPU's: the timer's signals go to it."""
        thread = threading.get_native_id()
        if thread == self._thread:
            return
        self._leave_thread()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self._unblock = None if self._wake in blocked else self._wake
        immediate = self._vcpu.run + abi.RunHead.immediate_exit.offset
        event = _SignalEvent(value=immediate, signal=self._wake, notify=_SIGEV_THREAD_ID, thread=thread)
        timer = ctypes.c_int()
        _syscall(
            "timer_create",
            _SYS_TIMER_CREATE,
            _CLOCK_MONOTONIC,
            ctypes.addressof(event),
            ctypes.addressof(timer),
        )
        self._timer = self._vcpu.timer = timer.value
        self._thread, self._ident = thread, threading.get_ident()

    def _leave_thread(self) -> None:
        if self._timer is not None:
            _syscall("timer_delete", _SYS_TIMER_DELETE, self._timer)
            self._timer = None
        if self._unblock is not None and self._thread == threading.get_native_id():
            while signal.sigtimedwait([self._unblock], 0):
                pass
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [self._unblock])
        self._thread = 0

    # --- registers ---

    @property
    def registers(self) -> Registers:
        self._require_open()
        regs, sregs = abi.Regs(), abi.Sregs()
        _ioctl(self._fd, abi.GET_REGS, regs)
        _ioctl(self._fd, abi.GET_SREGS, sregs)
        general = {name: getattr(regs, name) for name in abi.REGISTER_ORDER}
        return Registers(**general, **{name: getattr(sregs, name).selector for name in abi.SEGMENT_ORDER})

    @registers.setter
    def registers(self, values: Registers) -> None:
        self._require_open()
        sregs = abi.Sregs()
        _ioctl(self._fd, abi.GET_SREGS, sregs)
        for name in abi.SEGMENT_ORDER:
            segment, selector = getattr(sregs, name), getattr(values, name)
            segment.selector, segment.base = selector, selector << 4
        regs = abi.Regs(**{name: getattr(values, name) for name in abi.REGISTER_ORDER})
        _ioctl(self._fd, abi.SET_SREGS, sregs)
        _ioctl(self._fd, abi.SET_REGS, regs)
        self._vcpu.halted = 0

    # --- statistics ---

    @property
    def runs(self) -> int:
        """How often the guest was entered."""
        return int(self._vcpu.runs)

    @property
    def injected(self) -> int:
        """How many interrupts were injected."""
        return int(self._vcpu.injected)

    def _release(self) -> None:
        self._leave_thread()
        if self._page is not None:
            del self._head
            self._page.close()
        for fd in reversed(self._fds):
            os.close(fd)
        self._fds.clear()
