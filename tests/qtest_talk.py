"""A qtest session in this process, for tests of the protocol and of the boards."""

from __future__ import annotations

from devc.runtime.hosts import board as boards
from devc.runtime.hosts.memory import Memory
from devc.runtime.hosts.qtest import Qtest
from devc.runtime.machine import Machine


class Talk:
    """A session in this process: say a command, get all lines it caused.

    `params` are parameters of the board's RTC.
    """

    def __init__(self, board: str = "pc", ram: int = 1 << 20, hpet: bool = True, **params: int) -> None:
        self.lines: list[str] = []
        self.machine = Machine()
        memory = Memory(ram)
        self.session = Qtest(self.machine, memory, self.lines.append)
        build, settings = boards.find(board), {"mc146818": params}
        boards.build(build, self.machine, self.session.interrupt, hpet=hpet, settings=settings)
        self.machine.claim("RAM", "mmio", 0, ram, memory.read, memory.write)

    def __call__(self, line: str) -> list[str]:
        self.lines.clear()
        self.session.execute(line)
        return list(self.lines)

    def edges(self, line: str) -> list[str]:
        """The edges that a command caused."""
        return [said for said in self(line) if said.startswith("IRQ")]

    def value(self, line: str) -> int:
        """What a read returned."""
        return int(self(line)[-1].removeprefix("OK "), 0)

    def register(self, index: int, value: int | None = None) -> int:
        """Write a register of the RTC, or read it."""
        self(f"outb 0x70 {index}")
        if value is None:
            return self.value("inb 0x71")
        self(f"outb 0x71 {value}")
        return value

    def enable_pm_timer(self) -> None:
        for line in ("outl 0xcf8 0x80000b40", "outl 0xcfc 0x601", "outl 0xcf8 0x80000b80", "outb 0xcfc 1"):
            assert self(line) == ["OK"]
