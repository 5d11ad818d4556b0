"""A small device, written in the test that uses it, on both engines at once."""

from __future__ import annotations

from functools import cache

from devc.compiler.elaborate import elaborate
from devc.dsl.diagnostics import Source
from devc.dsl.parser import parse

from .engine_pair import Compiled, Pair

SECOND = 1_000_000_000


@cache
def compiled(text: str) -> Compiled:
    source = Source("test.dev", text)
    return Compiled(elaborate(parse(source), source)[0])


def device(text: str, **params: int) -> Bench:
    """The device of a text, made at 0 ns."""
    return Bench(compiled(text), **params)


class Bench:
    """Accesses at the instant `now`; every answer and every byte of the state is that of both engines."""

    def __init__(self, code: Compiled, **params: int) -> None:
        self.code, self.params, self.now = code, params, 0
        self.pair: Pair = code.pair(0, **params)

    def read(self, offset: int, width: int = 1, region: str = "io") -> int:
        value: int = self.pair.call("read", region, self.now, offset, width)
        return value

    def write(self, offset: int, value: int, width: int = 1, region: str = "io") -> None:
        self.pair.call("write", region, self.now, offset, width, value)

    def peek(self, offset: int, width: int = 1, region: str = "io") -> int:
        value: int = self.pair.call("peek", region, self.now, offset, width)
        return value

    def at(self, now: int) -> None:
        """Go to an instant and settle there."""
        self.now = now
        self.pair.call("settle", now)

    def wait(self, ns: int) -> None:
        self.at(self.now + ns)

    def get(self, slot: str, *index: int) -> int:
        return self.pair.reference.get(slot, *index)

    def put(self, slot: str, value: int, *index: int) -> None:
        """Change a stored value from outside, as a Python handler does."""
        self.pair.call("settle", self.now)
        self.pair.call("set", slot, value, *index)
        self.pair.call("commit", self.now)

    def line(self, bit: int = 0) -> int:
        return self.pair.reference.lines >> bit & 1

    def rises(self, bit: int = 0) -> int:
        return self.get("rises", bit)

    @property
    def deadline(self) -> int:
        return self.pair.reference.deadline

    def attention(self) -> int:
        """What was left for the machine, taken."""
        taken = self.pair.reference.attention
        self.pair.call("set", "attention", 0)
        return taken

    def moved(self) -> Bench:
        """Another instance that was restored from this one's image."""
        image = self.pair.call("save", self.now)
        other = Bench(self.code, **self.params)
        other.now = self.now
        other.pair.call("restore", self.now, image)
        return other

    def saved(self) -> dict[str, dict[tuple[int, ...], int]]:
        """What an image holds."""
        kinds = {slot.name: slot.kind for slot in self.code.module.slots}
        return {
            name: values for name, values in self.pair.reference.slots().items() if kinds[name] == "state"
        }
