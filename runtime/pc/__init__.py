"""What stands around a PC's timers: disk, serial port, consoles, CMOS, ACPI tables.

These are functions on windows that the machine claims for its host, in Python: a
guest touches them a few thousand times, its timers millions. They know nothing of
hosts; an interrupt is a `Pin` that the board leads somewhere.
"""

from __future__ import annotations

from .pins import Pin, unconnected

__all__ = ["Pin", "unconnected"]
