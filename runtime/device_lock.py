"""A device's lock, for Python: the one in its state's header (docs/threads.md).

Whoever takes it holds the machine's lock, so only one thread of Python's is ever at
it; what it waits for is native code, which never waits for Python under the lock.
"""

from __future__ import annotations

import ctypes
from types import TracebackType

from .dispatch_code import native

_LOCK = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class DeviceLock:
    """The lock of the state at an address, as a context manager that may be entered again."""

    def __init__(self, state: int) -> None:
        symbol = native().symbol
        self._hold, self._let_go = _LOCK(symbol("devc_hold")), _LOCK(symbol("devc_let_go"))
        self._state = state
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            self._hold(self._state)
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._let_go(self._state)

    @property
    def held(self) -> bool:
        """Whether Python has it."""
        return self._depth > 0
