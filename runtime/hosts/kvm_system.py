"""System calls of the KVM host, with errors that say what failed.

Non-goals: calls on the exit path, which native code makes by itself (`kvm.ll`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

from .host import HostError

WAKE: int = getattr(signal, "SIGRTMAX", 64) - 2
"""The signal of deadlines and of `stop`, in the whole process."""

_SYS_TIMER_CREATE, _SYS_TIMER_DELETE, _SYS_TGKILL, _SYS_SIGNALFD4 = 222, 226, 234, 289
_CLOCK_MONOTONIC, _SIGEV_THREAD_ID = 1, 4
_SA_SIGINFO, _SA_RESTART = 4, 0x10000000


class _SignalEvent(ctypes.Structure):
    """`struct sigevent`, as SIGEV_THREAD_ID uses it."""

    _fields_ = [
        ("value", ctypes.c_uint64),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("pad", ctypes.c_int * 11),
    ]


class _SignalAction(ctypes.Structure):
    """glibc's `struct sigaction`."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


_libc = ctypes.CDLL(None, use_errno=True)

Argument = int | ctypes.Structure | ctypes.Array[ctypes.c_uint8] | ctypes.c_uint64 | ctypes.c_uint32


def ioctl(fd: int, request: int, argument: Argument = 0, what: str = "a KVM ioctl") -> int:
    """The result, or HostError: "`what` failed: ..."."""
    value = argument if isinstance(argument, int) else ctypes.addressof(argument)
    result = int(_libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(value)))
    if result < 0:
        raise error(what)
    return result


def _syscall(what: str, number: int, *arguments: int) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments)))
    if result < 0:
        raise error(what)
    return result


def error(what: str) -> HostError:
    """What the last call left in errno, as an error."""
    code = ctypes.get_errno()
    return HostError(f"{what} failed: {os.strerror(code)} ({errno.errorcode.get(code, code)})")


def install_wake_handler(function: int) -> None:
    """Let native code handle the wake signal, in the whole process."""
    action = _SignalAction(handler=function, flags=_SA_SIGINFO | _SA_RESTART)
    if _libc.sigaction(WAKE, ctypes.byref(action), None):
        raise error("installing the wake signal's handler")


def create_timer(thread: int, value: int) -> int:
    """A timer on CLOCK_MONOTONIC that sends the wake signal, with `value`, to a thread."""
    event = _SignalEvent(value=value, signal=WAKE, notify=_SIGEV_THREAD_ID, thread=thread)
    timer = ctypes.c_int()
    where = ctypes.addressof(event), ctypes.addressof(timer)
    _syscall("timer_create", _SYS_TIMER_CREATE, _CLOCK_MONOTONIC, *where)
    return timer.value


def delete_timer(timer: int) -> None:
    _syscall("timer_delete", _SYS_TIMER_DELETE, timer)


def signal_fd() -> int:
    """A file descriptor that is readable while the wake signal is pending."""
    mask = ctypes.c_uint64(1 << (WAKE - 1))
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    return _syscall("signalfd", _SYS_SIGNALFD4, -1, ctypes.addressof(mask), 8, flags)


def wake_thread(thread: int) -> None:
    """Send the wake signal to a thread of this process by its kernel number; nothing if it is gone."""
    _libc.syscall(
        ctypes.c_long(_SYS_TGKILL), ctypes.c_long(os.getpid()), ctypes.c_long(thread), ctypes.c_long(WAKE)
    )
