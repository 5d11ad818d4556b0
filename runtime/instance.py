"""One device in memory, on either engine: access, time, lines, save and restore.

The engines are interchangeable: the same calls leave the same bytes in
`state`. An instance does what docs/abi.md says and no more; what a caller owes
after each call (lines, deadline, Python handlers) is the machine's work.

`offset` and `width` are taken modulo 2**32, `now` and `value` modulo 2**64, as
a C caller's arguments are.
"""

from __future__ import annotations

import ctypes
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..compiler.image import ImageError, check, image_size, pack, slot_code, unpack
from ..compiler.ir import EXPORTS, HEADER, Module, Slot, elements
from ..compiler.reference import Reference, reference
from ..compiler.show import show_range

if TYPE_CHECKING:
    from ..compiler.jit import NativeCode
    from ..compiler.upgrade import Upgrader

__all__ = [
    "ImageError",
    "Instance",
    "NativeInstance",
    "ParameterError",
    "ReferenceInstance",
    "SlotError",
    "parameters",
]

ALIGNMENT = 64
"""A state begins on a cache line of its own, so that devices do not share one."""

_U32 = 2**32 - 1
_U64 = 2**64 - 1


class ParameterError(ValueError):
    """A parameter that the device does not have, or a value that it does not allow."""


class SlotError(ValueError):
    """A slot, index or value that the device's state does not have."""


def parameters(module: Module, given: Mapping[str, int]) -> dict[str, int]:
    """Every parameter's value, from `given` or its default; ParameterError for a bad one."""
    known = {param.name: param for param in module.params}
    for name, value in given.items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise ParameterError(f"{module.name} has no parameter {name}; it has: {names}")
        allowed = known[name].type
        if not isinstance(value, int) or not allowed.lo <= value <= allowed.hi:
            raise ParameterError(
                f"{module.name}: {name} = {value!r} is not an integer in {show_range(allowed)}"
            )
    return {name: int(given.get(name, param.default)) for name, param in known.items()}


class Instance(ABC):
    """A device's state and the functions over it. `now` is virtual time in ns.

    `address` is where the state struct lies, its header in sight of a native loop.
    """

    address: int
    upgrader: Upgrader | None = None
    """What turns images of older checkpoints into present ones; None refuses them."""

    def __init__(self, module: Module, memory: memoryview, params: Mapping[str, int]) -> None:
        """`memory`: the state struct's bytes. `params`: as `parameters` gives them."""
        self.module = module
        self.params = dict(params)
        self._memory = memory
        self._slots = {slot.name: slot for slot in module.slots}
        self._codes = {slot.name: struct.Struct("=" + slot_code(slot)) for slot in module.slots}
        self._rises = struct.Struct(f"={len(module.lines)}I")
        self._rises_at = self._slots["rises"].offset if module.lines else 0

    # --- the guest's side ---

    @abstractmethod
    def read(self, region: str, now: int, offset: int, width: int) -> int:
        """What a read of `width` bytes at `offset` in the region returns."""

    @abstractmethod
    def write(self, region: str, now: int, offset: int, width: int, value: int) -> None:
        """A write of `width` bytes."""

    @abstractmethod
    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        """What `read` would return, with nothing changed."""

    # --- the machine's side ---

    @abstractmethod
    def settle(self, now: int) -> None:
        """Account for everything up to `now`."""

    @abstractmethod
    def levels(self, now: int) -> int:
        """The level of line i in bit i; changes nothing."""

    @abstractmethod
    def next(self, now: int) -> int:
        """The next instant after `now` at which the device does something; NEVER if none."""

    @abstractmethod
    def reset(self, now: int) -> None:
        """Power-on state; parameters stay."""

    @abstractmethod
    def commit(self, now: int) -> None:
        """Let lines, counters and deadlines follow what `set` changed; `settle` comes before the `set`."""

    @abstractmethod
    def resume(self, now: int) -> None:
        """Recompute header and derived slots."""

    @abstractmethod
    def save(self, now: int) -> bytes:
        """Settle, and return the image."""

    @abstractmethod
    def restore(self, now: int, image: bytes) -> None:
        """Take over an image's state as of its own instant, and settle to `now`.

        ImageError, and nothing changed, if it is refused; one from after `now` is.
        """

    def _current(self, image: bytes) -> bytes:
        """The image in the present layout. ImageError if an older one cannot be brought there."""
        if self.upgrader is None:
            return image
        stored = {p.slot: self.params[p.name] for p in self.module.params if p.slot is not None}
        return self.upgrader.current(image, self.module, stored)

    # --- the state ---

    @property
    def state(self) -> bytes:
        """The state struct, in the host's byte order."""
        return bytes(self._memory)

    def get(self, slot: str, *index: int) -> int:
        """The value of a slot's element. SlotError if there is none."""
        place = self._place(slot, index)
        value: int = self._codes[slot].unpack_from(self._memory, place)[0]
        return value

    def set(self, slot: str, value: int, *index: int) -> None:
        """Give a slot's element a value; `commit` must follow. SlotError if it is not allowed."""
        place = self._place(slot, index)
        allowed = self._slots[slot].type
        if self._slots[slot].kind == "param":
            raise SlotError(f"{self.module.name}: {slot} is a parameter; it is given when the device is made")
        if not allowed.lo <= value <= allowed.hi:
            raise SlotError(f"{self.module.name}: {slot} = {value} is outside {show_range(allowed)}")
        self._codes[slot].pack_into(self._memory, place, value)

    def slots(self) -> dict[str, dict[tuple[int, ...], int]]:
        """Every element's value, by slot and index: for inspection and messages."""
        return {
            slot.name: {
                index: self._codes[slot.name].unpack_from(self._memory, at)[0] for index, at in elements(slot)
            }
            for slot in self.module.slots
        }

    def _place(self, name: str, index: tuple[int, ...]) -> int:
        slot = self._slots.get(name)
        if slot is None:
            raise SlotError(f"{self.module.name} has no slot {name}; it has: {', '.join(self._slots)}")
        if len(index) == len(slot.dims):
            offset = slot.offset
            for i, (count, stride) in zip(index, slot.dims, strict=True):
                if not 0 <= i < count:
                    break
                offset += i * stride
            else:
                return offset
        shape = "".join(f"[0..{count - 1}]" for count, _ in slot.dims) or " (no index)"
        raise SlotError(f"{self.module.name}: {name} is {name}{shape}, not {name}{list(index)}")

    # --- the head of the state ---

    @property
    def deadline(self) -> int:
        """The next instant (ns) at which `settle` must be called."""
        return self._head(_DEADLINE)

    @property
    def settled(self) -> int:
        """The instant (ns) up to which events and edges are accounted for."""
        return self._head(_SETTLED)

    @property
    def lines(self) -> int:
        """The level of line i in bit i, as of the last settle or write."""
        return self._head(_LINES)

    @property
    def rises(self) -> tuple[int, ...]:
        """How often each line has risen since reset, modulo 2**32."""
        return self._rises.unpack_from(self._memory, self._rises_at) if self._rises.size else ()

    @property
    def attention(self) -> int:
        """What the last calls left for the machine to do: bits ATTENTION_*."""
        return self._head(_ATTENTION)

    @attention.setter
    def attention(self, value: int) -> None:
        self.set("attention", value)

    @property
    def leave(self) -> int:
        """With ATTENTION_LEAVE: the number of the Python handler to call."""
        return self._head(_LEAVE)

    @property
    def watch(self) -> int:
        """With ATTENTION_WATCH: bit i set for observer i."""
        return self._head(_WATCH)

    @watch.setter
    def watch(self, value: int) -> None:
        self.set("watch", value)

    def _head(self, slot: Slot) -> int:
        return int(self._codes[slot.name].unpack_from(self._memory, slot.offset)[0])


_DEADLINE, _SETTLED, _LINES, _ATTENTION, _LEAVE, _WATCH, _, _ = HEADER


class ReferenceInstance(Instance):
    """A device on the reference engine. `ReferenceFault` if an interval proves wrong."""

    def __init__(self, module: Module | Reference, now: int, /, **params: int) -> None:
        """ParameterError for parameters that the device does not have or allow."""
        program = module if isinstance(module, Reference) else reference(module)
        self._bytes = bytearray(program.module.size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))
        super().__init__(program.module, memoryview(self._bytes), parameters(program.module, params))
        self.program = program
        functions = program.bind(self._bytes)
        self._functions = functions
        regions = program.module.regions
        self._reads = {region.name: functions[f"{region.name}_read"] for region in regions}
        self._writes = {region.name: functions[f"{region.name}_write"] for region in regions}
        for param in self.module.params:
            if param.slot is not None:
                place = self._place(param.slot, ())
                self._codes[param.slot].pack_into(self._memory, place, self.params[param.name])
        self.reset(now)

    def read(self, region: str, now: int, offset: int, width: int) -> int:
        return int(self._reads[region](now & _U64, offset & _U32, width & _U32))

    def write(self, region: str, now: int, offset: int, width: int, value: int) -> None:
        self._writes[region](now & _U64, offset & _U32, width & _U32, value & _U64)

    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        before = bytes(self._bytes)
        try:
            return self.read(region, now, offset, width)
        finally:
            self._bytes[:] = before

    def settle(self, now: int) -> None:
        self._functions["settle"](now & _U64)

    def levels(self, now: int) -> int:
        return int(self._functions["levels"](now & _U64))

    def next(self, now: int) -> int:
        return int(self._functions["next"](now & _U64))

    def reset(self, now: int) -> None:
        self._functions["reset"](now & _U64)
        self._check()

    def commit(self, now: int) -> None:
        self._functions["commit"](now & _U64)

    def resume(self, now: int) -> None:
        self._functions["resume"](now & _U64)
        self._check()

    def save(self, now: int) -> bytes:
        self.settle(now)
        return pack(self.module, self._bytes, now & _U64)

    def restore(self, now: int, image: bytes) -> None:
        self.resume(unpack(self.module, self._bytes, self._current(image), now & _U64))
        self.settle(now)

    def _check(self) -> None:
        """Nothing was left as the zeroed struct had it, if 0 is not of its type."""
        if self.program.checked:
            self.program.check_state(self._bytes)


_NUMBER, _PLACE = ctypes.c_uint64, ctypes.c_uint32
_ABI: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "read": (_NUMBER, (_PLACE, _PLACE)),
    "write": (None, (_PLACE, _PLACE, _NUMBER)),
    "peek": (_NUMBER, (_PLACE, _PLACE)),
    "settle": (None, ()),
    "levels": (_PLACE, ()),
    "next": (_NUMBER, ()),
    "commit": (None, ()),
    "reset": (None, ()),
    "resume": (None, ()),
    "save": (None, (ctypes.c_void_p,)),
    "restore": (_PLACE, (ctypes.c_char_p, _NUMBER)),
}
"""Result and further arguments after the state and the instant (docs/abi.md)."""


class NativeInstance(Instance):
    """A device in machine code. `address` is its state's, for native callers."""

    def __init__(self, code: NativeCode, module: Module, now: int, /, **params: int) -> None:
        """ParameterError for parameters that the device does not have or allow."""
        values = parameters(module, params)
        self.address, memory = self._allocate(module.size)
        super().__init__(module, memory, values)
        self.code = code
        self._image_size = image_size(module)
        self._state = ctypes.c_void_p(self.address)
        regions = [region.name for region in module.regions]
        self._reads = {region: self._function("read", f"{region}_") for region in regions}
        self._writes = {region: self._function("write", f"{region}_") for region in regions}
        self._peeks = {region: self._function("peek", f"{region}_") for region in regions}
        self._functions = {name: self._function(name) for name in (*EXPORTS, "save", "restore")}
        stored = [param for param in module.params if param.slot is not None]
        init = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _NUMBER, *[_NUMBER] * len(stored))
        address = code.symbol(f"{module.name}_init")
        init(address)(self._state, now, *(values[param.name] & _U64 for param in stored))

    def _allocate(self, size: int) -> tuple[int, memoryview]:
        """Memory for the state: its address, and its bytes, which keep it alive."""
        buffer = ctypes.create_string_buffer(size + ALIGNMENT)
        start = -ctypes.addressof(buffer) % ALIGNMENT
        return ctypes.addressof(buffer) + start, memoryview(buffer).cast("B")[start : start + size]

    def _function(self, kind: str, prefix: str = "") -> Any:
        result, arguments = _ABI[kind]
        made = ctypes.PYFUNCTYPE(result, ctypes.c_void_p, _NUMBER, *arguments)
        return made(self.code.symbol(f"{self.module.name}_{prefix}{kind}"))

    def read(self, region: str, now: int, offset: int, width: int) -> int:
        value: int = self._reads[region](self._state, now, offset, width)
        return value

    def write(self, region: str, now: int, offset: int, width: int, value: int) -> None:
        self._writes[region](self._state, now, offset, width, value)

    def peek(self, region: str, now: int, offset: int, width: int) -> int:
        value: int = self._peeks[region](self._state, now, offset, width)
        return value

    def settle(self, now: int) -> None:
        self._functions["settle"](self._state, now)

    def levels(self, now: int) -> int:
        value: int = self._functions["levels"](self._state, now)
        return value

    def next(self, now: int) -> int:
        value: int = self._functions["next"](self._state, now)
        return value

    def reset(self, now: int) -> None:
        self._functions["reset"](self._state, now)

    def commit(self, now: int) -> None:
        self._functions["commit"](self._state, now)

    def resume(self, now: int) -> None:
        self._functions["resume"](self._state, now)

    def save(self, now: int) -> bytes:
        image = ctypes.create_string_buffer(self._image_size)
        self._functions["save"](self._state, now, image)
        return image.raw

    def restore(self, now: int, image: bytes) -> None:
        image = self._current(bytes(image))
        code = self._functions["restore"](self._state, now, image, len(image))
        if code:
            why = check(self.module, self._memory, image, now & _U64)
            raise ImageError(
                code, str(why) if why else f"{self.module.name} refused the image with code {code}"
            )
