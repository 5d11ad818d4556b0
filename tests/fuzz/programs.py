"""What may be done to the board: operations as plain tuples, and how they are made up.

    ("read", space, address, width)             ("write", space, address, width, value)
    ("near", address, width, delta)             write the HPET's main counter plus delta
    ("step", ns, cuts, who)                     time passes; the machine `who` goes in several
                                                steps, cut at these thousandths of the way
    ("deadline", ns)                            go to the next deadline, or ns beside it
    ("probe", ns, cuts)                         look what such a step would do, on copies
    ("reload", who)                             save; restore where `who` says
    ("ack", line)  ("mask", line, level)        the interrupt controller's, where there is one
    ("pin", level)  ("reset",)  ("move", base)  the RTC's RESET, the machine's, the PM timer's base
    ("inta",)  ("eoi", vector)                  the processor's cycles to the 8259 and the I/O APIC

Every operation is possible at any time, so a program stays one when parts of it
are taken out. A `Source` makes the choices: a seeded generator, or hypothesis,
which then knows how to make a program smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

Op = tuple[Any, ...]
T = TypeVar("T")


class Source(Protocol):
    def pick(self, options: Sequence[T]) -> T: ...

    def number(self, low: int, high: int) -> int: ...


class Seeded:
    """Choices of a pseudo-random generator."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.number = random.randint

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random.random() * len(options))]


class Drawn:
    """Choices of hypothesis: the first option and the lowest number are the simplest."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def number(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))


# --- time ------------------------------------------------------------------------

US, MS, S = 10**3, 10**6, 10**9
DAY, YEAR = 86_400 * S, 31_556_952 * S
SPANS = (
    0, 1, 9, 10, 11, 279, 280, 838, 839, 30_517, 30_518,
    (1, 2000), (1, 100 * US), (US, MS), (MS, 20 * MS), (20 * MS, S), 244_140, 1_983_642, 15_085,
    S, 999_999_999, 2_343_500_000, (S, 100 * S), 3_600 * S, DAY,
    (DAY, 40 * DAY), (40 * DAY, 2 * YEAR), (YEAR, 90 * YEAR),
)  # fmt: skip
"""Ticks of the four clocks and what is just beside, periods of the devices, and far away."""
WEIGHTS = (3, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 12, 12, 12, 10, 6, 1, 1, 1, 2, 1, 2, 3, 1, 1, 1, 1, 1)
_SPANS = tuple(span for span, weight in zip(SPANS, WEIGHTS, strict=True) for _ in range(weight))


def span(source: Source) -> int:
    """How long to wait, ns."""
    found = source.pick(_SPANS)
    return found if isinstance(found, int) else source.number(*found)


def cuts(source: Source) -> tuple[int, ...]:
    return tuple(sorted(source.number(0, 1000) for _ in range(source.pick((0, 1, 1, 2, 3)))))


def step(source: Source) -> list[Op]:
    return [("step", span(source), cuts(source), source.pick(("native", "reference")))]


def deadline(source: Source) -> list[Op]:
    return [("deadline", source.pick((0, 0, 0, 1, -1)))]


def walk(source: Source) -> list[Op]:
    return [("deadline", 0)] * source.number(2, 12)


def probe(source: Source) -> list[Op]:
    return [("probe", span(source), cuts(source))]


# --- the host ----------------------------------------------------------------------


def reload(source: Source) -> list[Op]:
    return [("reload", source.pick(("native", "reference", "both", "crosswise")))]


def controller(source: Source) -> list[Op]:
    """An interrupt controller that acknowledges, or masks for a while."""
    line = source.number(0, 3)
    return [source.pick((("ack", line), ("ack", line), ("mask", line, 1), ("mask", line, 0)))]


def rare(source: Source) -> list[Op]:
    choice = source.number(0, 9)
    if choice == 0:
        return [("reset",)]
    if choice <= 3:
        return [("move", source.pick((0x600, 0xB000, 0x40, 0xFFF8, 0x70)))]
    return [("pin", 1), ("pin", 0)] if choice < 9 else [("pin", source.number(0, 1))]


# --- numbers -----------------------------------------------------------------------

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 2**63, 2**64 - 1)
WIDTHS = (1, 1, 1, 2, 4, 8, 3, 5, 6, 7)


def value(source: Source, width: int) -> int:
    """Any value of so many bytes, often at an edge."""
    top = 2 ** (8 * width) - 1
    return source.pick(EDGES) & top if source.number(0, 2) == 0 else source.number(0, top)


def wide(source: Source) -> list[Op]:
    """Several ports in one access."""
    address = source.pick(
        (0x40, 0x40, 0x42, 0x70, 0x70, 0x72, 0x60, 0x61, 0x600, 0x608, 0x6F)
    ) + source.number(0, 2)
    width = source.pick((2, 2, 4, 3, 8))
    if source.number(0, 1):
        return [("read", "io", address, width)]
    return [("write", "io", address, width, source.number(0, 2 ** (8 * width) - 1))]


def anywhere(source: Source) -> list[Op]:
    """An access of any width at, beside and between the windows, and where nobody is."""
    spots = (
        (0x3C, 0x48), (0x5E, 0x64), (0x6C, 0x78), (0x5F8, 0x610), (0xAFFC, 0xB010), (0xFFF0, 0x1_0004),
        (0, 2**16 - 1), (0x1E, 0x24), (0x9E, 0xA4), (0x4CE, 0x4D4),
    )  # fmt: skip
    space, (low, high) = ("io", source.pick(spots))
    if source.number(0, 2) == 0:
        space, base = "mmio", 0xFED0_0000
        low, high = source.pick(
            (
                (base - 8, base + 0x40), (base + 0xE8, base + 0x168), (base, base + 0x508), (0, 2**64 - 1),
                (0xFEC0_0000, 0xFEC0_0044),
            )
        )  # fmt: skip
    address, width = source.number(low, high), source.pick((*WIDTHS, 0, 9, 16))
    if source.number(0, 1):
        return [("read", space, address, width)]
    return [("write", space, address, width, value(source, min(width, 8)))]
