"""Where and how a guest's first vCPU begins: what a guest file asks of a host.

The other vCPUs of a machine wait for the first one to start them, as a PC's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["real", "flat32", "reset"]


@dataclass(frozen=True, slots=True)
class Start:
    """The first vCPU's state when a guest begins.

    `mode`:
      "real"    real mode, interrupts off; CS is 0 below 64 KiB, else the segment
                64 KiB-aligned below `ip`, a physical address below 1 MiB
      "flat32"  protected mode without paging, all segments 0 to 4 GiB, interrupts
                off: the multiboot specification's machine state (0.6.96, 3.2)
      "reset"   as after a reset: CS base 0xffff0000, IP 0xfff0 (SDM vol. 3,
                table 10-1); `ip` says nothing
    `ip`: the physical address of the first instruction.
    `registers`: general registers by name, 64 bits wide ("rax"); the rest are 0.
    """

    mode: Mode
    ip: int
    registers: Mapping[str, int] = field(default_factory=dict)


RESET = Start("reset", 0xFFFF_FFF0)
"""A firmware image's start."""
