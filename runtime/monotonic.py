"""The clock behind `time.monotonic_ns`, for native code.

Non-goals: virtual time (clock.py).
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from contextlib import suppress
from typing import Any, cast

_GetTime = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64))


def _ask_python(source: int, timespec: ctypes._Pointer[ctypes.c_int64]) -> int:
    timespec[0], timespec[1] = divmod(time.monotonic_ns(), 1_000_000_000)
    return 0


_python_gettime = _GetTime(_ask_python)


_VDSO = (("linux-vdso.so.1", "__vdso_clock_gettime"), ("linux-vdso.so.1", "__kernel_clock_gettime"))
"""Where the kernel has put clock_gettime, by architecture (vdso(7))."""


def monotonic() -> tuple[int, int]:
    """Its number, and the address of the function to ask, as clock_gettime(2).

    The vDSO's own where it is found, which spares libc's pages in cold caches; else
    libc's, which goes there; where there is no libc, Python is asked.
    """
    name = "CLOCK_UPTIME_RAW" if sys.platform == "darwin" else "CLOCK_MONOTONIC"
    source = int(getattr(time, name, 0))
    function: object = _python_gettime
    if os.name == "posix":
        function = ctypes.CDLL(None).clock_gettime
    for library, symbol in _VDSO if sys.platform.startswith("linux") else ():
        with suppress(OSError, AttributeError):
            function = getattr(ctypes.CDLL(library), symbol)
            break
    return source, ctypes.cast(cast(Any, function), ctypes.c_void_p).value or 0
