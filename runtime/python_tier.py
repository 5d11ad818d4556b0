"""The Python tier: what the language cannot say, with its declared reads and writes enforced.

A device file declares `python "FILE" NAME` with a `why`, what it reads and what
it writes (compiler/ir.py, Python). FILE lies beside the device file and defines
a class NAME, made once for each device:

    class NAME:
        def __init__(self, **options): ...     # options: what the embedder gave
        # an observer
        def changed(self, view): ...           # after an access or event that changed what it reads;
                                               # once at the start and after a restore, too
        idle = True                            # set when made: there is nothing to do, so it is told nothing
        # a handler
        def read(self, view, access): ...      # -> the value; `access` is an `Access`
        def write(self, view, access): ...
        # either, if it has something to finish
        def close(self, now): ...

`view` shows exactly the declared reads, as attributes or items, and takes the
declared writes; beside these it has `now` (ns) and `device` (the instance's
name). It is good only during the call. Writes take effect together when the call
returns; a call that raises, or returns no integer where one is due, has no
effect at all.

A part that serves registers and says `tier numba` is functions instead:

    def NAME_read(now, offset, width, READ...):         # -> value, or (value, WRITE...)
    def NAME_write(now, offset, width, value, READ...): # -> (WRITE...), or None if none is declared

This is the middle tier: compiled by numba where the device is native, and called
from the native loop as a light exit (numba_tier.py). Functions of the same file
may be called; nothing may be allocated, printed or kept. Everywhere else the
functions are run as they are (plain_functions.py), and so is an access that
the compiled one could not serve: errors are reported alike, and cost a heavy
exit. Numbers are 64 bits wide, so mask what may grow beyond (`x << 13 & MASK`).
In a device with a register of 8 bytes of this tier, `value` is unsigned to numba,
as is every read that may exceed 2**63 - 1: there, +, -, *, &, |, ^, << are as in
Python after a mask, but compare, divide and shift down only what is unsigned on
both sides (numpy.uint64) or fits in 63 bits. examples/scratch.dev shows one.

Non-goals: sandboxing. The file is as trusted as the program that loads it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..compiler import ir
from .handler_file import PythonTierError, load_file
from .plain_functions import PlainFunctions

if TYPE_CHECKING:
    from .numba_tier import Compiled

log = logging.getLogger("devc.runtime")

Place = tuple[str, tuple[int, ...]]
"""An element of the state: slot and indices."""


class UndeclaredAccess(Exception):
    """Python touched something that the device file does not let it touch."""


class Slots(Protocol):
    """What the tier needs of a device instance."""

    def get(self, slot: str, *index: int) -> int: ...
    def set(self, slot: str, value: int, *index: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Access:
    """A guest's access to a register: `offset` within the region, `width` in bytes,
    `value` what is written (0 for a read)."""

    region: str
    register: str
    offset: int
    width: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call did: the value it answered, whether it wrote to the state (then what is
    derived must be recomputed), and the observers, as bits, of what it wrote."""

    value: int = 0
    wrote: bool = False
    watch: int = 0


@dataclass
class HandlerFailure:
    """A kind of failure of one Python handler; `count` says how often it happened.

    `kind` is the exception's class, `where` the file and line that raised it,
    `at` the virtual ns of the first time.
    """

    device: str
    register: str
    handler: str
    kind: str
    message: str
    where: str
    at: int
    count: int = 1

    def __str__(self) -> str:
        return (
            f"{self.device}: the Python handler {self.handler!r} failed serving {self.register}: "
            f"{self.kind}: {self.message} (at {self.where}, t = {self.at} ns); "
            "its writes were dropped and reads answer all ones"
        )


class View:
    """What a handler sees of its device during one call."""

    __slots__ = ("_declared", "_device", "_now", "_open", "_slots", "_writes")

    def __init__(self, declared: _Declared, slots: Slots, device: str, now: int) -> None:
        for name, value in (
            ("_declared", declared),
            ("_slots", slots),
            ("_device", device),
            ("_now", now),
            ("_writes", {}),
            ("_open", True),
        ):
            object.__setattr__(self, name, value)

    _declared: _Declared
    _device: str
    _now: int
    _open: bool
    _slots: Slots
    _writes: dict[Place, int]

    @property
    def now(self) -> int:
        """The instant of the access or event, virtual ns."""
        return self._now

    @property
    def device(self) -> str:
        return self._device

    def __getitem__(self, name: str) -> int:
        self._check_open()
        place = self._declared.reads.get(name)
        if place is None:
            raise UndeclaredAccess(self._declared.refusal("read", name))
        written = self._writes.get(place)
        return self._slots.get(place[0], *place[1]) if written is None else written

    def __setitem__(self, name: str, value: int) -> None:
        self._check_open()
        place = self._declared.writes.get(name)
        if place is None:
            raise UndeclaredAccess(self._declared.refusal("write", name))
        if not isinstance(value, int):
            raise TypeError(f"{name} takes an integer, not {type(value).__name__}")
        allowed = self._declared.types[place[0]]
        if not allowed.lo <= value <= allowed.hi:
            raise ValueError(f"{name} takes {allowed.lo}..{allowed.hi}, not {value}")
        self._writes[place] = int(value)

    def __getattr__(self, name: str) -> int:
        return self[name]

    def __setattr__(self, name: str, value: int) -> None:
        self[name] = value

    def _check_open(self) -> None:
        if not self._open:
            raise UndeclaredAccess(
                f"the view of {self._declared.name} is good only during the call it was given to; "
                "keep the values, not the view"
            )

    def _close(self) -> dict[Place, int]:
        object.__setattr__(self, "_open", False)
        return self._writes


class _Declared:
    """The declaration of one handler, ready to look names up in."""

    def __init__(self, python: ir.Python, module: ir.Module) -> None:
        self.name = python.name
        self.line = python.line
        self.device = module.name
        self.writes = {name: (slot, index) for name, slot, index in python.writes}
        # What may be written may be read back: the handler could have kept it anyway.
        self.reads = self.writes | {name: (slot, index) for name, slot, index in python.reads}
        self.observed = frozenset((slot, index) for _, slot, index in python.reads)
        self.types = {slot: module.slot(slot).type for slot, _ in self.writes.values()}

    def refusal(self, verb: str, name: str) -> str:
        allowed = ", ".join(self.reads if verb == "read" else self.writes) or "nothing"
        return (
            f"{self.name} must not {verb} {name!r}: its declaration ({self.device}, line {self.line}) "
            f"{verb}s {allowed}; add {name!r} to its `{verb}s` if it is needed"
        )


_METHODS: dict[str, tuple[str, ...]] = {"observer": ("changed",), "handler": ("read", "write")}
"""By kind, what the class may define; it must define one of them."""


@dataclass
class _Loaded:
    """A handler at work: its declaration and the object that serves."""

    declared: _Declared
    kind: str
    server: object
    file: str

    @property
    def watches(self) -> bool:
        """Whether it is an observer that has anything to do."""
        return self.kind == "observer" and not getattr(self.server, "idle", False)

    def method(self, name: str) -> Callable[..., object]:
        method = getattr(self.server, name, None)
        if method is None:
            raise PythonTierError(f"{self.declared.name} has no method {name!r}")
        return method  # type: ignore[no-any-return]


class PythonTier:
    """The Python handlers and observers of one device.

    `options` maps a handler's name to the keyword arguments of its class.
    `failures` is shared by all devices of a machine. Raises PythonTierError.
    """

    def __init__(
        self,
        module: ir.Module,
        slots: Slots,
        device: str,
        directory: Path | None,
        options: Mapping[str, Mapping[str, object]],
        failures: list[HandlerFailure],
    ) -> None:
        self._slots = slots
        self._device = device
        self._failures = failures
        self._seen: dict[tuple[str, str, str], HandlerFailure] = {}
        unknown = options.keys() - {python.name for python in module.pythons}
        if unknown:
            known = ", ".join(python.name for python in module.pythons) or "none"
            raise PythonTierError(f"{device} has no Python handler {sorted(unknown)[0]!r}; it has: {known}")
        self._handlers = [_load(p, module, directory, options.get(p.name, {})) for p in module.pythons]
        self._module = module
        self.compiled: Compiled | None = None

    def compile(self) -> None:
        """Compile what is of tier numba, into `compiled`. Raises PythonTierError if numba cannot."""
        plain = {n: h.server for n, h in enumerate(self._handlers) if isinstance(h.server, PlainFunctions)}
        if plain:
            from .numba_tier import compile_parts

            self.compiled = compile_parts(self._module, plain)

    @property
    def observers(self) -> int:
        """The observers that want to be told, as bits of `watch`."""
        return sum(1 << i for i, h in enumerate(self._handlers) if h.watches)

    def read(self, index: int, access: Access, now: int) -> Outcome:
        """Serve a read by handler `index`; all ones if it fails."""
        ones = (1 << 8 * access.width) - 1
        outcome = self._call(index, "read", access.register, now, access)
        return Outcome(ones) if outcome is None else replace(outcome, value=outcome.value & ones)

    def write(self, index: int, access: Access, now: int) -> Outcome:
        """Serve a write by handler `index`; nothing is written if it fails."""
        return self._call(index, "write", access.register, now, access) or Outcome()

    def observe(self, watch: int, now: int) -> Outcome:
        """Tell the observers whose bits are set."""
        told = [
            self._call(index, "changed", "(an event)", now)
            for index, handler in enumerate(self._handlers)
            if watch >> index & 1 and handler.watches
        ]
        outcomes = [outcome for outcome in told if outcome is not None]
        watch = reduce(or_, (outcome.watch for outcome in outcomes), 0)
        return Outcome(0, any(outcome.wrote for outcome in outcomes), watch)

    def close(self, now: int) -> None:
        """Let each handler finish what it has open."""
        for handler in self._handlers:
            finish = getattr(handler.server, "close", None)
            if finish is not None:
                try:
                    finish(now)
                except Exception as error:
                    self._fail(handler, "(closing)", error, now)

    def _call(self, index: int, method: str, register: str, now: int, *args: object) -> Outcome | None:
        if index >= len(self._handlers):
            return None
        handler = self._handlers[index]
        view = View(handler.declared, self._slots, self._device, now)
        try:
            result = handler.method(method)(view, *args)
            if method != "read":
                result = 0
            elif not isinstance(result, int):
                raise TypeError(f"read must return an integer, not {type(result).__name__}")
        except Exception as error:
            view._close()
            self._fail(handler, register, error, now)
            return None
        assert isinstance(result, int)
        return self._commit(result, view._close())

    def _commit(self, result: int, writes: Mapping[Place, int]) -> Outcome:
        changed = {
            (slot, index) for (slot, index), value in writes.items() if self._slots.get(slot, *index) != value
        }
        for slot, index in changed:
            self._slots.set(slot, writes[slot, index], *index)
        watch = sum(
            1 << i
            for i, h in enumerate(self._handlers)
            if h.watches and not changed.isdisjoint(h.declared.observed)
        )
        return Outcome(result, bool(changed), watch)

    def _fail(self, handler: _Loaded, register: str, error: Exception, now: int) -> None:
        name, kind = handler.declared.name, type(error).__name__
        known = self._seen.get((name, register, kind))
        if known is not None:
            known.count += 1
            return
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == handler.file
        ]
        where = f"{handler.file}:{frames[-1].lineno}" if frames else handler.file
        failure = HandlerFailure(self._device, register, name, kind, str(error), where, now)
        self._seen[name, register, kind] = failure
        self._failures.append(failure)
        log.warning("%s", failure)


def _load(
    python: ir.Python, module: ir.Module, directory: Path | None, options: Mapping[str, object]
) -> _Loaded:
    file = load_file(directory, python.file)
    if python.tier == "numba":
        if options:
            raise PythonTierError(f"{python.name} is of tier numba: functions, which take no options")
        return _Loaded(
            _Declared(python, module), python.kind, PlainFunctions(python, module, file), python.file
        )
    factory = getattr(file, python.name, None)
    if not callable(factory):
        raise PythonTierError(f"{python.file} defines no class {python.name}, which {module.name} declares")
    try:
        made = factory(**options)
    except Exception as error:
        raise PythonTierError(f"{python.name} in {python.file}: {type(error).__name__}: {error}") from error
    methods = _METHODS[python.kind]
    if not any(hasattr(made, method) for method in methods):
        wanted = " or ".join(f"`{method}`" for method in methods)
        raise PythonTierError(f"{python.name} in {python.file} is an {python.kind} and must define {wanted}")
    return _Loaded(_Declared(python, module), python.kind, made, python.file)
