"""What drivers do with the four timers: sequences that a guest plausibly makes.

Half of them are right and half are almost right: a count of which only the low
byte is written, a comparator in two halves, an alarm of impossible digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from .board import HPET_BASE, PM_BASE
from .controllers import (
    cycle,
    ioapic_any,
    ioapic_route,
    outb,
    pic_command,
    pic_initialize,
    pic_level,
    pic_mask,
)
from .programs import Op, Source, anywhere, controller, deadline, probe, rare, reload, step, value, walk, wide

# --- the PIT -------------------------------------------------------------------------


def inb(port: int) -> Op:
    return ("read", "io", port, 1)


COUNTS = (0, 1, 2, 3, 4, 5, 0x10, 0x12, 0x99, 0xFF, 0x100, 0x101, 0x9999, 0xFFFF, 0x4A9, 0x2E9C)


def count(source: Source) -> int:
    return source.number(0, 0xFFFF) if source.number(0, 3) == 0 else source.pick(COUNTS)


def pit_program(source: Source) -> list[Op]:
    """A control word and a count, whole or in part."""
    channel, access, mode = source.number(0, 2), source.pick((3, 3, 3, 1, 2)), source.number(0, 7)
    control = channel << 6 | access << 4 | mode << 1 | (source.number(0, 3) == 0)
    n, data = count(source), 0x40 + channel
    writes = [outb(data, n)] if access == 1 else [outb(data, n >> 8)]
    if access == 3:
        writes = [outb(data, n), outb(data, n >> 8)][: source.pick((2, 2, 2, 1))]
    return [outb(0x43, control), *writes]


def pit_count(source: Source) -> list[Op]:
    """Another count, without a control word."""
    n, data = count(source), 0x40 + source.number(0, 2)
    return [outb(data, n), outb(data, n >> 8)][: source.pick((2, 2, 1))]


def pit_read(source: Source) -> list[Op]:
    """A latch or a read-back, and reads."""
    channel = source.number(0, 2)
    command = source.pick((channel << 6, channel << 6, 0xC0 | source.number(0, 0x3F), 0xC0 | 2 << channel))
    reads = [
        inb(0x40 + source.pick((channel, channel, source.number(0, 2)))) for _ in range(source.number(0, 4))
    ]
    return [outb(0x43, command), *reads]


def port_b(source: Source) -> list[Op]:
    """Gate 2, speaker, and what can be read back."""
    return [inb(0x61)] if source.number(0, 2) == 0 else [outb(0x61, source.number(0, 0x1F))]


def pit_any(source: Source) -> list[Op]:
    port = source.pick((0x40, 0x41, 0x42, 0x43))
    return [inb(port)] if source.number(0, 1) else [outb(port, source.number(0, 255))]


# --- the PM timer ------------------------------------------------------------------------


def pm(source: Source) -> list[Op]:
    """Status and enable words, the timer in parts."""
    return source.pick(
        (
            [("write", "io", PM_BASE + 2, 2, source.number(0, 1))],
            [("write", "io", PM_BASE, 2, 1)],
            [("read", "io", PM_BASE, source.pick((2, 4, 1)))],
            [("read", "io", PM_BASE + 8, 4)],
            [("read", "io", PM_BASE + source.number(8, 11), source.pick((1, 2, 3)))],
            [("write", "io", PM_BASE + source.number(0, 11), source.pick((1, 2, 4)), value(source, 4))],
        )
    )


# --- the HPET -----------------------------------------------------------------------------

Bits = tuple[int, ...]


def wr(offset: int, width: int, value: int) -> Op:
    return ("write", "mmio", HPET_BASE + offset, width, value & 2 ** (8 * width) - 1)


def halves(source: Source, offset: int, value: int) -> list[Op]:
    """A 64-bit register as drivers write it: whole, as two halves, as the low one only."""
    low, high = wr(offset, 4, value), wr(offset + 4, 4, value >> 32)
    return source.pick(([wr(offset, 8, value)], [low, high], [high, low], [low]))


def timer(source: Source) -> int:
    return source.pick((0, 0, 1, 1, 2, 2, 3, 7, 31))


def some(source: Source, *bits: int) -> int:
    return sum(bit for bit in bits if source.number(0, 1))


ROUTES = (0, 2, 8, 16, 20, 23, 4, 31, 5)


def hpet_general(source: Source) -> list[Op]:
    return [wr(0x010, source.pick((8, 4)), source.pick((1, 3, 3, 0, 2, 1)))]


def hpet_counter(source: Source) -> list[Op]:
    """Halt, set the main counter, often just before a boundary, and go on."""
    back = source.number(0, 2000)
    main = source.pick((0, 2**32 - back, 2**64 - back, 2**33 - back, value(source, 8), back))
    writes = halves(source, 0x0F0, main)
    return (
        writes if source.number(0, 3) == 0 else [wr(0x010, 4, 0), *writes, wr(0x010, 4, source.pick((1, 3)))]
    )


def hpet_config(source: Source) -> list[Op]:
    bits = some(source, 2, 4, 4, 8, 0x40, 0x100) | source.pick(ROUTES) << 9
    bits |= 0x4000 * (source.number(0, 4) == 0)
    return halves(source, 0x100 + 0x20 * timer(source), bits & 0xFFFF)


def target(source: Source, n: int) -> list[Op]:
    """A comparator: soon, or anywhere."""
    offset = 0x108 + 0x20 * n
    if source.number(0, 2):
        return [
            (
                "near",
                HPET_BASE + offset,
                source.pick((8, 4)),
                source.pick((0, 1, 2, -1, source.number(0, 10**5))),
            )
        ]
    return halves(
        source, offset, source.pick((0, 1, 0xFFFF_FFFF, 2**64 - 1, value(source, 8), source.number(0, 10**6)))
    )


def hpet_one_shot(source: Source) -> list[Op]:
    n = timer(source)
    bits = 4 | some(source, 2, 0x100) | source.pick(ROUTES) << 9
    return [wr(0x100 + 0x20 * n, 8, bits), *target(source, n)]


PERIODS = (0, 1, 2, 3, 10, 1000, 65_536, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)


def hpet_periodic(source: Source) -> list[Op]:
    """Tn_VAL_SET, the first match, and the period: 2.3.9.2.2's own order, and others."""
    n = timer(source)
    bits = 4 | 8 | 0x40 | some(source, 2, 0x100) | source.pick(ROUTES) << 9
    period = source.pick((*PERIODS, source.number(100, 10**7), source.number(100, 10**7)))
    steps = [[wr(0x100 + 0x20 * n, 8, bits)], target(source, n), halves(source, 0x108 + 0x20 * n, period)]
    if source.number(0, 4) == 0:
        steps = [steps[i] for i in source.pick(((0, 2), (0, 2, 1), (2, 0, 1), (0, 1, 0, 2)))]
    return [op for part in steps for op in part]


def hpet_status(source: Source) -> list[Op]:
    return source.pick(
        (
            [wr(0x020, 4, source.number(0, 255))],
            [wr(0x020, 8, 2**64 - 1)],
            [("read", "mmio", HPET_BASE + 0x20, 8)],
        )
    )


def hpet_read(source: Source) -> list[Op]:
    offset = source.pick((0x0F0, 0x0F0, 0x0F4, 0, 4, 0x10, 0x20, 0x100 + 8 * source.number(0, 15)))
    return [("read", "mmio", HPET_BASE + offset, source.pick((4, 8)))]


def hpet_message(source: Source) -> list[Op]:
    return halves(source, 0x110 + 0x20 * timer(source), 0xFEE0_0000 << 32 | source.number(0, 255))


# --- the RTC ---------------------------------------------------------------------------------

A, B, C, D = range(10, 14)
TIME = (0, 2, 4, 6, 7, 8, 9, 0x32)


def cmos(index: int, value: int) -> list[Op]:
    return [outb(0x70, index), outb(0x71, value)]


def bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


MOMENTS = tuple(
    datetime(*when, tzinfo=UTC)  # type: ignore[arg-type,misc]
    for when in (
        (1999, 12, 31, 23, 59, 58), (2000, 2, 28, 23, 59, 59), (2100, 2, 28, 23, 59, 57),
        (2024, 2, 29, 11, 59, 59), (2026, 4, 26, 1, 59, 58), (2026, 10, 25, 1, 59, 58),
        (2026, 10, 25, 0, 59, 58), (9999, 12, 31, 23, 59, 59), (2026, 1, 31, 12, 59, 59),
        (2026, 4, 25, 23, 59, 59), (2400, 2, 28, 23, 59, 59), (1900, 12, 31, 0, 0, 0),
    )
)  # fmt: skip


def moment(source: Source) -> datetime:
    if source.number(0, 1):
        return source.pick(MOMENTS)
    return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=source.number(0, 3_200_000_000))


def digits(source: Source, at: datetime, control: int) -> dict[int, int]:
    """The time's bytes as register B wants them."""
    show: Callable[[int], int] = (lambda n: n) if control & 4 else bcd
    hour = show(at.hour) if control & 2 else show((at.hour + 11) % 12 + 1) | (0x80 if at.hour >= 12 else 0)
    century, year = divmod(at.year, 100)
    numbers = (at.second, at.minute, 0, at.isoweekday() % 7 + 1, at.day, at.month, year, century)
    found = {index: show(number) for index, number in zip(TIME, numbers, strict=True)}
    return found | {4: hour}


def rtc_time(source: Source) -> list[Op]:
    """The time set under SET, all of it or a byte less; here and there a byte is nonsense."""
    control = source.number(0, 7) | some(source, 0x10, 0x20, 0x40)
    shown = list(digits(source, moment(source), control).items())
    if source.number(0, 3) == 0:
        index = source.pick(TIME)
        shown.append((index, source.number(0, 255)))
    ops = cmos(B, 0x80 | control)
    for index, number in shown:
        ops += cmos(index, number)
    return ops + (cmos(B, control) if source.number(0, 5) else [])


def rtc_alarm(source: Source) -> list[Op]:
    kinds = (0xC0, 0xFF, 0, 1, 2, 0x59, 59, 0x12, 0x92, 0x23, 23, 0x99, source.number(0, 255))
    ops: list[Op] = []
    for index in source.pick(((1, 3, 5), (1, 3, 5), (1,), (5,), (3,))):
        ops += cmos(index, source.pick(kinds))
    return ops


def rtc_control(source: Source) -> list[Op]:
    a = source.pick((0x26, 0x26, 0x2F, 0x21, 0x20, source.number(0, 0x7F), 0x01, 0x12, 0x76, 0x66))
    b = source.pick((0x02, 0x42, 0x12, 0x22, 0x72, source.number(0, 255), 0x03, 0x0A, 0x86))
    return source.pick((cmos(A, a), cmos(B, b), [*cmos(A, a), *cmos(B, b)], [outb(0x70, C), inb(0x71)]))


def rtc_release(source: Source) -> list[Op]:
    """The divider held and let go: the next update is half a second away."""
    hold = cmos(A, 0x76)
    return [*hold, *(step(source) if source.number(0, 1) else []), *cmos(A, source.pick((0x26, 0x2A, 0x00)))]


def rtc_poll(source: Source) -> list[Op]:
    index = source.pick((A, C, C, D, 0, 2, 4, 0x32, 0x37, source.number(0, 127), source.number(128, 255)))
    return [outb(0x70, index), *[inb(0x71)] * source.number(1, 3)]


def rtc_ram(source: Source) -> list[Op]:
    index, port = source.number(0, 255), source.pick((0x70, 0x72))
    return [outb(port, index), outb(port + 1, source.number(0, 255)), inb(port + 1)]


# --- all together ----------------------------------------------------------------------------

Phrase = Callable[[Source], list[Op]]
PHRASES: dict[Phrase, int] = {
    step: 24, deadline: 6, walk: 2, probe: 4, reload: 2, anywhere: 6, controller: 8, wide: 4,
    pit_program: 7, pit_count: 3, pit_read: 7, port_b: 5, pit_any: 3, pm: 8,
    hpet_general: 5, hpet_counter: 3, hpet_config: 4, hpet_one_shot: 5, hpet_periodic: 7,
    hpet_status: 4, hpet_read: 6, hpet_message: 1,
    rtc_time: 3, rtc_alarm: 4, rtc_control: 7, rtc_release: 1, rtc_poll: 8, rtc_ram: 2, rare: 1,
    pic_initialize: 5, pic_command: 7, pic_mask: 3, pic_level: 1, ioapic_route: 6, ioapic_any: 2, cycle: 9,
}  # fmt: skip
"""How often each is chosen."""
WEIGHTED = tuple(phrase for phrase, weight in PHRASES.items() for _ in range(weight))


def program(source: Source, length: int, phrases: Sequence[Phrase] = WEIGHTED) -> list[Op]:
    """So many phrases."""
    return [op for _ in range(length) for op in source.pick(phrases)(source)]
