"""A device on both engines at once: every call is made on both and compared.

`Pair` works for any module. `random_call` draws one call of any kind, with
arguments at the edges; a test of a real device may draw its own.
"""

from __future__ import annotations

from random import Random
from typing import Any

from devc.compiler import ir
from devc.compiler.jit import NativeCode, compile_module
from devc.compiler.reference import Reference
from devc.runtime.instance import ImageError, Instance, NativeInstance, ReferenceInstance

from .ir_random import number

Step = tuple[str, tuple[Any, ...]]


class Compiled:
    """A module's code for both engines, made once for many pairs."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self.native: NativeCode = compile_module(module, None)
        self.reference = Reference(module)

    def pair(self, now: int, **params: int) -> Pair:
        return Pair(
            ReferenceInstance(self.reference, now, **params),
            NativeInstance(self.native, self.module, now, **params),
        )


class Pair:
    """Two instances that must never differ; AssertionError names the call and the slots."""

    def __init__(self, reference: Instance, native: Instance) -> None:
        self.reference = reference
        self.native = native
        self.steps: list[Step] = [("init", ())]
        self.compare()

    def call(self, name: str, *args: Any) -> Any:
        """Call a method of `Instance` on both."""
        self.steps.append((name, args))
        expected, found = (self._outcome(each, name, args) for each in (self.reference, self.native))
        assert expected == found, f"call {len(self.steps)}, {name}{args}: {expected} or natively {found}"
        self.compare()
        return expected

    def compare(self) -> None:
        if self.reference.state == self.native.state:
            return
        expected, found = self.reference.slots(), self.native.slots()
        differ = [
            f"{slot}{list(index)}: {value} or natively {found[slot][index]}"
            for slot, values in expected.items()
            for index, value in values.items()
            if value != found[slot][index]
        ]
        raise AssertionError(
            f"after call {len(self.steps)}, {self.steps[-1]}: {'; '.join(differ) or 'padding'}"
        )

    @staticmethod
    def _outcome(instance: Instance, name: str, args: tuple[Any, ...]) -> Any:
        try:
            return getattr(instance, name)(*args)
        except ImageError as error:
            return "ImageError", error.code, str(error)


def later(rng: Random, now: int, wild: bool) -> int:
    """The instant of the next call; `wild`: now and then anywhere, also back."""
    if wild and rng.random() < 0.05:
        return number(rng, ir.U64)
    step = rng.choice((0, 1, rng.randrange(2000), rng.randrange(10**6), rng.randrange(10**10)))
    return min(now + step, 2**64 - 1)


def random_call(rng: Random, module: ir.Module, now: int) -> Step:
    """A call of any kind, at `now`."""
    kind = rng.choice(
        ("read",) * 4 + ("write",) * 4 + ("peek", "settle", "levels", "next", "save", "commit", "resume")
    )
    if kind not in ("read", "write", "peek"):
        return ("reset" if rng.random() < 0.05 else kind), (now,)
    region = rng.choice(module.regions)
    edge = rng.random() < 0.2
    offset = number(rng, ir.U32) if edge else rng.randrange(region.size + 8)
    width = number(rng, ir.U32) if edge else rng.choice((1, 2, 4, 8))
    value = rng.randrange(256) if rng.random() < 0.7 else number(rng, ir.U64)
    values = (value,) if kind == "write" else ()
    return kind, (region.name, now, offset, width, *values)


def drive(pair: Pair, rng: Random, calls: int, now: int) -> None:
    """Random calls; every image saved is restored into both, sometimes damaged."""
    wild = rng.random() < 0.3
    for _ in range(calls):
        now = later(rng, now, wild)
        name, args = random_call(rng, pair.reference.module, now)
        answer = pair.call(name, *args)
        if name == "save":
            pair.call("restore", now, damaged(rng, answer) if rng.random() < 0.3 else answer)


def damaged(rng: Random, image: bytes) -> bytes:
    """The image with a byte changed, cut off or added."""
    at = rng.randrange(len(image))
    changed = bytes([*image[:at], rng.randrange(256), *image[at + 1 :]])
    return rng.choice((changed, changed, image[:at], image + b"\0"))
