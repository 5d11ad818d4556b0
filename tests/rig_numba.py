"""A device on three ways to its registers: the native loop, the machine on either engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from devc.compiler.driver import load
from devc.compiler.ir import LOCK_AT, UNLOCKED_AT
from devc.runtime import vmm
from devc.runtime.dispatch import Dispatcher
from devc.runtime.instance import Instance
from devc.runtime.machine import Machine

EXAMPLES = Path(vmm.__file__).parent.parent / "examples"
SCRATCH = EXAMPLES / "scratch.dev"


class NoHost:
    """A host without a guest: the test is the guest."""

    name = "none"

    def __init__(self, dispatcher: Dispatcher, memory: int) -> None:
        del dispatcher, memory

    def close(self) -> None:
        pass


class Way:
    """One machine with one device, and accesses to it."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.machine = Machine(engine="reference" if name == "reference" else "native")
        self.device = self.machine.add(load(path))
        self.base = self.device.windows[0].base or 0
        self.vmm: vmm.Vmm | None = None
        if name == "loop":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(vmm, "pick", lambda host: (NoHost, "a test"))
                self.vmm = vmm.Vmm(self.machine)

    @property
    def instance(self) -> Instance:
        return self.device.instance

    def read(self, offset: int, width: int) -> int:
        if self.vmm is None:
            return self.machine.read("io", self.base + offset, width)
        return self._access(offset, width, False, 0)

    def write(self, offset: int, width: int, value: int) -> None:
        if self.vmm is None:
            self.machine.write("io", self.base + offset, width, value)
        else:
            self._access(offset, width, True, value)

    def _access(self, offset: int, width: int, write: bool, value: int) -> int:
        assert self.vmm is not None
        dispatcher = self.vmm.dispatcher
        return dispatcher.access(0, self.base + offset, width, write, value, now=self.machine.now)[1]

    def counts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Light and heavy exits by register and direction, in the loop."""
        assert self.vmm is not None
        return {(c.register, c.access): (c.light, c.heavy) for c in self.vmm.counts()}

    def failures(self) -> list[tuple[str, str, str, str, str, int]]:
        return [(f.device, f.register, f.kind, f.message, f.where, f.count) for f in self.machine.failures]


WAYS = ("loop", "native", "reference")


def own(state: bytes) -> bytes:
    """A state without what belongs to its callers: the lock, and how often it was taken."""
    return state[:LOCK_AT] + state[UNLOCKED_AT:]
