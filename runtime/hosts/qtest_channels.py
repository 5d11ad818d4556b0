"""The qtest host's connections: stdio and unix sockets, as client or as server, and its loop.

As in QEMU, `unix:PATH` connects to a listening socket, and with `server` it
listens itself. The loop ends when the qtest client that the process was
connected to, or stdio, is gone: without it nothing can ever happen again.

Non-goals: what is said over them (qtest.py, qmp.py), TCP.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

from .qmp import Qmp, Quit
from .qtest import TRANSFER_LIMIT, Qtest

LINE_LIMIT = 2 * TRANSFER_LIMIT + 256
"""The longest command: a `write` of TRANSFER_LIMIT bytes in hexadecimal."""

_CHUNK = 1 << 16


class ChannelError(Exception):
    """A connection that cannot be made; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a channel is: `path` None means stdio."""

    path: str | None
    server: bool = False

    def __str__(self) -> str:
        return "stdio" if self.path is None else f"unix:{self.path}"


class Peer(Protocol):
    """One side of a conversation over a channel."""

    def opened(self) -> None: ...
    def feed(self, data: bytes) -> bool:
        """Take what arrived; False closes the connection."""
        ...


class QtestPeer:
    """Cuts what arrives into lines for a qtest session, and logs both directions."""

    def __init__(self, log: IO[str] | None) -> None:
        self.session: Qtest | None = None
        self.put: Callable[[bytes], object] = lambda data: None
        self._log = log
        self._start = time.monotonic()
        self._buffer = b""

    def send(self, line: str) -> None:
        """What the session says goes to the client."""
        self._note("S", line)
        self.put(line.encode() + b"\n")

    def opened(self) -> None:
        self._buffer = b""
        if self.session is not None:
            self.session.restart()

    def feed(self, data: bytes) -> bool:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").strip("\r")
            self._note("R", text)
            if self.session is not None:
                self.session.execute(text)
        if len(self._buffer) > LINE_LIMIT:
            self.send(f"FAIL a command is at most {LINE_LIMIT} bytes long")
            return False
        return True

    def _note(self, direction: str, line: str) -> None:
        if self._log is not None:
            self._log.write(f"[{direction} +{time.monotonic() - self._start:.6f}] {line}\n")
            self._log.flush()


class QmpPeer:
    """A monitor; each connection negotiates anew."""

    def __init__(self, reset: Callable[[], object]) -> None:
        self.put: Callable[[bytes], object] = lambda data: None
        self._reset = reset
        self._qmp = Qmp(self._send, reset)

    def _send(self, data: bytes) -> None:
        self.put(data)

    def opened(self) -> None:
        self._qmp = Qmp(self._send, self._reset)
        self._qmp.greet()

    def feed(self, data: bytes) -> bool:
        return self._qmp.feed(data)


class _Channel:
    """A peer at an address: at most one connection at a time."""

    def __init__(
        self, address: Address, peer: QtestPeer | QmpPeer, selector: selectors.BaseSelector, stop: int
    ) -> None:
        self.address = address
        self.peer = peer
        self._selector = selector
        self._stop = stop
        self._listener: socket.socket | None = None
        self._socket: socket.socket | None = None
        peer.put = self._put

    def start(self) -> None:
        """Listen or connect. Raises ChannelError."""
        path = self.address.path
        if path is None:
            self._selector.register(0, selectors.EVENT_READ, self._stdin)
            self.peer.opened()
            return
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.address.server:
                _remove_stale(path)
                made.bind(path)
                made.listen(1)
            else:
                made.connect(path)
        except OSError as error:
            made.close()
            verb = "listen at" if self.address.server else "connect to"
            hint = "" if self.address.server else "; something must listen there, or add ,server=on to listen"
            raise ChannelError(f"cannot {verb} {self.address}: {error.strerror or error}{hint}") from None
        if self.address.server:
            self._listener = made
            self._selector.register(made, selectors.EVENT_READ, self._accept)
        else:
            self._open(made)

    def stop(self) -> None:
        self._close()
        if self._listener is not None:
            self._listener.close()
            with suppress(OSError):
                os.unlink(self.address.path or "")

    def _accept(self) -> bool:
        """One client at a time, as in QEMU; the next waits in the kernel's queue."""
        assert self._listener is not None
        made, _ = self._listener.accept()
        self._selector.unregister(self._listener)
        self._open(made)
        return True

    def _open(self, made: socket.socket) -> None:
        self._socket = made
        self._selector.register(made, selectors.EVENT_READ, self._receive)
        self.peer.opened()

    def _close(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _stdin(self) -> bool:
        data = os.read(0, _CHUNK)
        return bool(data) and self.peer.feed(data)

    def _receive(self) -> bool:
        """Whether the loop goes on."""
        assert self._socket is not None
        try:
            data = self._socket.recv(_CHUNK)
        except ConnectionError:
            data = b""
        if data and self.peer.feed(data):
            return True
        self._close()
        if self._listener is not None:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return self.address.server or isinstance(self.peer, QmpPeer)

    def _put(self, data: bytes) -> None:
        if self.address.path is None:
            self._write(1, data)
        elif self._socket is not None:
            with suppress(ConnectionError):  # the next `recv` finds out
                self._write(self._socket.fileno(), data)

    def _write(self, descriptor: int, data: bytes) -> None:
        """All of it, in parts that do not block, so that a client that does not read
        cannot keep the process from ending."""
        while data:
            stopped, _, _ = select.select([self._stop], [descriptor], [])
            if stopped:
                raise Quit
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


def _remove_stale(path: str) -> None:
    """A socket that an earlier process left behind; never anything else."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)


def serve(channels: list[tuple[Address, QtestPeer | QmpPeer]], stop: int) -> None:
    """Talk until the qtest client is gone, a monitor says `quit`, or the descriptor `stop`
    becomes readable. Raises ChannelError."""
    with selectors.PollSelector() as selector:  # epoll refuses a regular file, which stdin may be
        selector.register(stop, selectors.EVENT_READ, lambda: False)
        started: list[_Channel] = []
        try:
            for address, peer in channels:
                channel = _Channel(address, peer, selector, stop)
                started.append(channel)
            with suppress(Quit):
                for channel in started:
                    channel.start()
                _loop(selector)
        finally:
            for channel in started:
                channel.stop()


def _loop(selector: selectors.BaseSelector) -> None:
    while True:
        for key, _ in selector.select():
            if not key.data():
                return
