"""What drivers and a host do with the interrupt controllers; phrases.py has the timers'.

Initialization sequences whole and cut short, commands of every kind, redirection
entries by halves, and cycles that nobody asked for.
"""

from __future__ import annotations

from .programs import Op, Source, value

PICS, ELCR, IOAPIC_BASE = (0x20, 0xA0), (0x4D0, 0x4D1), 0xFEC0_0000
VECTORS = (0x30, 0x31, 0x41, 0x52, 0xFF)
PINS = (0, 2, 8, 9, 16, 20, 23)
"""The I/O APIC's inputs that something on the board drives, and two beside."""


def outb(port: int, value: int) -> Op:
    return ("write", "io", port, 1, value & 0xFF)


def pic_initialize(source: Source) -> list[Op]:
    """ICW1 and what it asks for; here and there any bytes, or a word too few."""
    port = source.pick(PICS)
    icw1 = 0x11 if source.number(0, 3) else 0x10 | source.number(0, 15)
    words = [source.number(0, 255)]
    if not icw1 & 2:
        words.append((4 if port == 0x20 else 2) if source.number(0, 4) else source.number(0, 255))
    if icw1 & 1:
        words.append(source.pick((1, 1, 1, 3, 0x11, 0x13, source.number(0, 255))))
    if source.number(0, 9) == 0:
        words.pop()
    return [outb(port, icw1), *(outb(port + 1, word) for word in words)]


def pic_command(source: Source) -> list[Op]:
    """An end of interrupt, a rotation, a mode, a poll."""
    port = source.pick(PICS)
    ocw2 = source.pick((0x20, 0x20, 0x20, 0x60, 0xA0, 0xE0, 0xC0, 0x80, 0x00, 0x40)) | source.number(0, 7)
    ocw3 = 0x08 | source.number(0, 7) | source.pick((0, 0, 0x40, 0x60))
    if source.number(0, 2):
        return [outb(port, ocw2)]
    return [outb(port, ocw3), *[("read", "io", port + source.number(0, 1), 1)] * source.number(0, 2)]


def pic_mask(source: Source) -> list[Op]:
    port, bits = source.pick(PICS), source.number(0, 255) & source.number(0, 255)
    return [outb(port + 1, source.pick((0, 0, bits, 0xFB)))]


def pic_level(source: Source) -> list[Op]:
    return [outb(source.pick(ELCR), source.number(0, 255)), ("read", "io", ELCR[0], source.pick((1, 2)))]


def ioapic_access(index: int, value: int | None = None) -> list[Op]:
    select: Op = ("write", "mmio", IOAPIC_BASE, 4, index)
    if value is None:
        return [select, ("read", "mmio", IOAPIC_BASE + 0x10, 4)]
    return [select, ("write", "mmio", IOAPIC_BASE + 0x10, 4, value)]


def ioapic_route(source: Source) -> list[Op]:
    """An entry: edge or level, any mode now and then, masked in a third."""
    pin = source.pick((*PINS, source.number(0, 23)))
    low = source.pick(VECTORS) | source.pick((0, 0x8000, 0x8000, 0xA000, 0x2000))
    low |= source.pick((0, 0, 0x100, source.number(0, 7) << 8)) | source.pick((0, 0, 0x1_0000))
    halves = [ioapic_access(0x11 + 2 * pin, source.number(0, 255) << 24), ioapic_access(0x10 + 2 * pin, low)]
    chosen = source.pick(((0, 1), (1,), (1, 0), (1,)))
    return [op for half in chosen for op in halves[half]]


def ioapic_any(source: Source) -> list[Op]:
    index = source.pick((0, 1, 2, source.number(0x10, 0x40), source.number(0, 255)))
    return ioapic_access(index, value(source, 4) if source.number(0, 1) else None)


def cycle(source: Source) -> list[Op]:
    """The processor's INTA, with an end of interrupt mostly; a local APIC's EOI."""
    if source.number(0, 2) == 0:
        return [("eoi", source.pick((*VECTORS, source.number(0, 255))))]
    ends = [outb(0xA0, 0x20), outb(0x20, 0x20)] if source.number(0, 3) else []
    return [("inta",), *ends]
