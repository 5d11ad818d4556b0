"""QEMU's machine protocol, as far as a qtest client needs it: greet, negotiate, reset, quit.

Messages are JSON objects in both directions; each gets a `return` or an `error`
(QEMU's docs/interop/qmp-spec.rst).

Non-goals: out-of-band execution, introspection, anything that manages a machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

BUFFER_LIMIT = 1 << 20
"""A message longer than this ends the connection."""

_VERSION = {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "devc"}
_DECODER = json.JSONDecoder()


class Quit(Exception):
    """The client asked for the end of the process."""


class Qmp:
    """One monitor connection. `send` takes bytes; `reset` resets the machine."""

    def __init__(self, send: Callable[[bytes], object], reset: Callable[[], object]) -> None:
        self._send = send
        self._reset = reset
        self._buffer = ""
        self._running = True

    def greet(self) -> None:
        self._put({"QMP": {"version": _VERSION, "capabilities": []}})

    def feed(self, data: bytes) -> bool:
        """Take what arrived and answer whole messages. False: the connection is to be closed.

        Raises Quit after it has answered `quit`.
        """
        self._buffer += data.decode("utf-8", "replace")
        while True:
            self._buffer = self._buffer.lstrip()
            if not self._buffer:
                return True
            try:
                message, end = _DECODER.raw_decode(self._buffer)
            except (json.JSONDecodeError, RecursionError):
                return self._incomplete()
            self._buffer = self._buffer[end:]
            self._answer(message)

    def _incomplete(self) -> bool:
        """A message is sent with its line's end, so whole lines that do not parse are an error."""
        _, newline, rest = self._buffer.rpartition("\n")
        if not newline:
            return len(self._buffer) <= BUFFER_LIMIT
        self._buffer = rest
        self._error("JSON parse error", "GenericError")
        return True

    def _answer(self, message: Any) -> None:
        name = message.get("execute") if isinstance(message, dict) else None
        identity = {"id": message["id"]} if isinstance(message, dict) and "id" in message else {}
        if not isinstance(name, str):
            self._error("QMP input lacks member 'execute'", "GenericError", identity)
            return
        command = _COMMANDS.get(name)
        if command is None:
            self._error(f"The command {name} has not been found", "CommandNotFound", identity)
            return
        self._put({"return": command(self), **identity})
        if name == "system_reset":
            self._put({"event": "RESET", "data": {"guest": False, "reason": "host-qmp-system-reset"}})
        if name == "quit":
            raise Quit

    def _error(self, text: str, kind: str, identity: dict[str, Any] | None = None) -> None:
        self._put({"error": {"class": kind, "desc": text}, **(identity or {})})

    def _put(self, message: dict[str, Any]) -> None:
        self._send(json.dumps(message).encode() + b"\r\n")

    # --- the commands ---

    def _nothing(self) -> dict[str, Any]:
        return {}

    def _version(self) -> dict[str, Any]:
        return _VERSION

    def _status(self) -> dict[str, Any]:
        status = "running" if self._running else "paused"
        return {"running": self._running, "singlestep": False, "status": status}

    def _stop(self) -> dict[str, Any]:
        self._running = False
        return {}

    def _cont(self) -> dict[str, Any]:
        self._running = True
        return {}

    def _system_reset(self) -> dict[str, Any]:
        self._reset()
        return {}

    def _names(self) -> Any:
        return [{"name": name} for name in _COMMANDS]


_COMMANDS: dict[str, Callable[[Qmp], Any]] = {
    "qmp_capabilities": Qmp._nothing,
    "query-version": Qmp._version,
    "query-status": Qmp._status,
    "query-commands": Qmp._names,
    "stop": Qmp._stop,
    "cont": Qmp._cont,
    "system_reset": Qmp._system_reset,
    "quit": Qmp._nothing,
}
"""Every command, by name. `stop` and `cont` only change what `query-status` says: no
time passes here but by qtest's `clock_step`."""
