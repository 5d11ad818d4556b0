"""The guest's characters on a terminal or in a file, and the user's to the guest.

While a guest reads the terminal, characters come as they are typed and without an
echo; Ctrl-C stays a signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from io import FileIO
from typing import BinaryIO

Output = Callable[[bytes], object]

STDIO, NONE = "stdio", "none"
_CHUNK = 256


class OutputError(ValueError):
    """A file that cannot be written."""


def opened(where: str, stack: ExitStack) -> Output | None:
    """Where bytes go: "stdio", "none", or a file that is made anew and closed with the stack."""
    if where == NONE:
        return None
    if where == STDIO:
        return _writer(sys.stdout.buffer, "the standard output")
    try:
        return _writer(stack.enter_context(open(where, "wb", buffering=0)), where)
    except OSError as error:
        raise OutputError(f"cannot write {where}: {error.strerror}") from None


def _writer(file: BinaryIO | FileIO, name: str) -> Output:
    """Each byte is seen at once. A reader that has gone away raises BrokenPipeError,
    of which the command makes a quiet end."""

    def write(data: bytes) -> None:
        try:
            file.write(data)
            file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {name}: {error.strerror}") from None

    return write


@contextmanager
def typed(take: Callable[[bytes], object]) -> Iterator[None]:
    """Meanwhile, what is typed goes to a function, on a thread of its own."""
    thread = threading.Thread(target=_pump, args=(take,), daemon=True, name="standard input")
    with _unbuffered():
        thread.start()
        yield


def _pump(take: Callable[[bytes], object]) -> None:
    # Signals are the main thread's: it pauses the guest.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with suppress(OSError, ValueError):
        while data := os.read(sys.stdin.fileno(), _CHUNK):
            take(data)


@contextmanager
def _unbuffered() -> Iterator[None]:
    """The terminal's line editing and echo are off; nothing where input is no terminal."""
    if not sys.stdin.isatty() or find_spec("termios") is None:
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    raw = termios.tcgetattr(descriptor)
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(descriptor, termios.TCSANOW, raw)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
