"""What must be due when: from a device's declared state alone, in exact integers.

Written beside the data sheets and not beside the compiler: nothing here looks
at deadlines, bookkeeping or code. An expectation is what a settled state, left
alone from `settled` until a later instant, must have become:

    instants()        when each event comes next, ns
    shows()           when the next one comes that changes a line; a host must wake by then
    after(until)      values of slots at `until`, (slot, index) -> value
    reads(at)         what a read shows then: (region, offset, width, value)

Tick k of a clock begins at the first whole ns that is not before k / hz, counted
from when the clock began to tick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from devc.compiler import ir

SECOND = 1_000_000_000
NEVER = 2**64 - 1

Values = dict[tuple[str, tuple[int, ...]], int]


def turn(distance: int, modulus: int) -> int:
    """How far ahead, 1..modulus: what is there already comes again a whole turn later."""
    return distance % modulus or modulus


class Slots:
    """Reads slots out of a state struct's bytes."""

    def __init__(self, module: ir.Module) -> None:
        self._places = {s.name: (s.offset, s.size, *(s.dims or ((1, s.size),))[0]) for s in module.slots}

    def reader(self, state: bytes) -> Reader:
        return Reader(self._places, state)

    def guard(self, get: Reader) -> int:
        """When the device itself takes something to be due, whether or not it shows."""
        return get("next due" if "next due" in self._places else "deadline")


class Reader:
    """The slots of one state: `get(name)`, `get(name, index)`, `get.every(name)`."""

    def __init__(self, places: dict[str, tuple[int, int, int, int]], state: bytes) -> None:
        self._places, self._state = places, state

    def __call__(self, name: str, index: int = 0) -> int:
        offset, size, _, stride = self._places[name]
        at = offset + index * stride
        return int.from_bytes(self._state[at : at + size], sys.byteorder)

    def every(self, name: str) -> list[int]:
        """All elements of an array."""
        offset, size, count, stride = self._places[name]
        view = memoryview(self._state).cast({1: "B", 2: "H", 4: "I", 8: "Q"}[size])  # type: ignore[call-overload]
        first, step = offset // size, stride // size
        found: list[int] = view[first : first + count * step : step].tolist()
        return found


class Expectation:
    """One device in one settled state. `hz`: of its clock, which began to tick at `epoch`, ns."""

    hz = 1

    def __init__(self, slots: Slots, state: bytes) -> None:
        self.get = slots.reader(state)
        self.settled = self.get("settled")
        self.epoch = 0

    def instants(self) -> Iterator[int]:
        raise NotImplementedError

    def shows(self) -> int:
        return min(self.instants(), default=NEVER)

    def after(self, until: int) -> Values:
        raise NotImplementedError

    def reads(self, at: int) -> Iterator[tuple[str, int, int, int]]:
        yield from ()

    def tick(self, ns: int) -> int:
        """The tick in which an instant lies."""
        return (ns - self.epoch) * self.hz // SECOND

    def begins(self, tick: int) -> int:
        """A tick's first ns; NEVER if no clock shows it."""
        return min(self.epoch - (-tick * SECOND // self.hz), NEVER)

    def value(self, base: str, since: str, bits: int, runs: bool = True, index: int = 0) -> int:
        """A counter that had the value `base` in tick `since`."""
        gone = self.tick(self.settled) - self.get(since, index) if runs else 0
        return (self.get(base, index) + gone) % 2**bits

    def ahead(self, distance: int) -> int:
        """The instant that lies so many ticks after the present one."""
        return self.begins(self.tick(self.settled) + distance)

    def passing(self, until: int) -> int:
        """How many ticks begin until then."""
        return self.tick(until) - self.tick(self.settled)


def times(passing: int, first: int, period: int) -> int:
    """How often something happens that comes in `first` ticks and then every `period`."""
    return 1 + (passing - first) // period if passing >= first else 0


class PmTimer(Expectation):
    """ACPI 4.8.3.1: TMR_STS is set whenever the highest bit changes, either way."""

    hz = 3_579_545

    def _first(self) -> tuple[int, int]:
        half = 2**31 if self.get("wide") else 2**23
        return turn(-self.value("ticks.base", "ticks.tick", 32), half), half

    def instants(self) -> Iterator[int]:
        yield self.ahead(self._first()[0])

    def shows(self) -> int:
        return next(self.instants()) if self.get("enable.tmr") and not self.get("status.tmr") else NEVER

    def after(self, until: int) -> Values:
        toggles = times(self.passing(until), *self._first())
        status = int(self.get("status.tmr") or toggles > 0)
        line = status & self.get("enable.tmr")
        return {
            ("status.tmr", ()): status,
            ("lines", ()): line,
            ("rises", (0,)): self.get("rises") + (line and not self.get("lines")),
        }

    def reads(self, at: int) -> Iterator[tuple[str, int, int, int]]:
        count = self.value("ticks.base", "ticks.tick", 32) + self.passing(at)
        yield "io", 8, 4, count % (2**32 if self.get("wide") else 2**24)


class Hpet(Expectation):
    """IA-PC HPET 1.0a, 2.3.9.2: a match is a tick at which the counter becomes the comparator."""

    TIMERS = range(32)

    def __init__(self, slots: Slots, state: bytes) -> None:
        super().__init__(slots, state)
        self.hz, self.epoch = self.get("hz"), self.get("osc.epoch")
        self.runs = bool(self.get("config.enable"))
        self.main = self.value("main.base", "main.tick", 64, self.runs)
        self.moduli = [2**32 if narrow else 2**64 for narrow in self.get.every("timer.config.narrow")]
        self.periodic = self.get.every("timer.config.periodic")
        self.targets = self.get.every("timer.target")
        self.intervals = [
            period % modulus if repeats else 0
            for period, modulus, repeats in zip(
                self.get.every("timer.period"), self.moduli, self.periodic, strict=True
            )
        ]

    def _matches(self, n: int) -> list[tuple[int, int]]:
        """(ticks ahead, period) of everything that timer n does, no two at one tick."""
        modulus, target = self.moduli[n], self.targets[n]
        found = [(turn(target - self.main, modulus), self.intervals[n] or modulus)]
        if modulus == 2**32 and not self.periodic[n] and target % modulus != 0:
            found.append((turn(-self.main, modulus), modulus))  # 2.3.9.2.1: "and when it wraps"
        return found

    def instants(self) -> Iterator[int]:
        if self.runs:
            for n in self.TIMERS:
                for first, _ in self._matches(n):
                    yield self.ahead(first)

    def shows(self) -> int:
        get = self.get
        fired, legacy = get("status.fired"), bool(get("config.legacy"))
        found = [NEVER]
        for n in self.TIMERS if self.runs else ():
            line = self._line(n, legacy)
            waits = line is not None and line < 32 and get("timer.config.level", n) and fired >> n & 1
            if line is not None and get("timer.config.enable", n) and not waits:
                found += [self.ahead(first) for first, _ in self._matches(n)]
        return min(found)

    def after(self, until: int) -> Values:
        get, passing = self.get, self.passing(until)
        rises, status = get.every("rises"), get("status.fired")
        legacy = bool(get("config.legacy") and self.runs)
        levels = 0 if legacy else get("pit") << get("irq0") | get("rtc") << 8
        is_level, enabled = get.every("timer.config.level"), get.every("timer.config.enable")
        values: Values = {}
        for n in self.TIMERS:
            count = sum(times(passing, *match) for match in self._matches(n)) if self.runs else 0
            if count and self.intervals[n]:
                values["timer.target", (n,)] = (self.targets[n] + count * self.intervals[n]) % self.moduli[n]
            if count and is_level[n]:
                status |= 1 << n
            line = self._line(n, legacy)
            if not enabled[n] or line is None:
                continue
            if line >= 32 or not is_level[n]:
                rises[line] += count
            else:
                levels |= (status >> n & 1) << line
        rose = levels & ~get("lines")
        for i, count in enumerate(rises):
            values["rises", (i,)] = (count + (rose >> i & 1)) % 2**32
        return values | {("status.fired", ()): status, ("lines", ()): levels}

    def reads(self, at: int) -> Iterator[tuple[str, int, int, int]]:
        yield "mmio", 0xF0, 8, (self.main + (self.passing(at) if self.runs else 0)) % 2**64

    def _line(self, n: int, legacy: bool) -> int | None:
        """The input that timer n interrupts, 32 + n for a message; None if it has no way out."""
        if self.get("timer.config.fsb", n):
            return 32 + n
        if legacy and n < 2:
            return 8 if n else self.get("irq0")
        route = self.get("timer.config.route", n)
        return route if self.get("routes") >> route & 1 else None


class Pit(Expectation):
    """231164-005, "Mode Definitions". Only OUT of counter 0 leaves the chip by a line."""

    def __init__(self, slots: Slots, state: bytes) -> None:
        super().__init__(slots, state)
        self.hz = self.get("hz")
        self.mode = (0, 1, 2, 3, 4, 5, 2, 3)[self.get("channel.m")]
        self.reload = self.get("channel.reload")
        self.runs = bool(self.get("channel.running"))  # the gates of counters 0 and 1 are tied high
        self.t = self.value("channel.t.base", "channel.t.tick", 56, self.runs)
        self.loads = [self.get("channel.load", n) for n in range(3)]

    def out(self, t: int) -> int:
        """OUT, t CLKs after the count was loaded."""
        n = self.reload
        return {
            0: t >= n, 1: t >= n, 2: t % n != n - 1, 3: t % n < (n + 1) // 2, 4: t != n, 5: t != n,
        }[self.mode]  # fmt: skip

    def _corners(self) -> Iterator[int]:
        """CLKs at which OUT can change: those of this period and of the next."""
        n, start = self.reload, self.t - self.t % self.reload
        for period in (0, start, start + n, start + 2 * n):
            yield from (period, period + (n + 1) // 2, period + n - 1, period + n, period + n + 1)

    def instants(self) -> Iterator[int]:
        yield from (self.begins(load) for load in self.loads if load != NEVER)
        changes = [t for t in self._corners() if t > self.t and self.out(t) != self.out(t - 1)]
        if self.runs and changes:
            yield self.ahead(min(changes) - self.t)

    def after(self, until: int) -> Values:
        passing = self.passing(until)
        last = self.t + passing
        waits = self.loads[0] != NEVER and self.loads[0] <= self.tick(until)
        if waits or last >= 2**56:
            return {}
        rises = 0
        if self.runs:
            n = self.reload
            rises = {
                2: last // n - self.t // n, 3: last // n - self.t // n,
                0: self.t < n <= last, 1: self.t < n <= last,
                4: self.t < n + 1 <= last, 5: self.t < n + 1 <= last,
            }[self.mode]  # fmt: skip
        level = self.out(last) if self.runs else self.mode != 0
        return {("lines", ()): int(level), ("rises", (0,)): (self.get("rises") + rises) % 2**32}


class Rtc(Expectation):
    """MC146818A: "Divider", "Periodic Interrupt Selection", "Update Cycle"."""

    hz = 32_768
    FREQUENCY = (0, 256, 128, *(8192 >> i for i in range(13)))
    FAST = (0, 32_768, 16_384)
    """The two first rates, on time bases of 4 and 1 MHz."""

    def __init__(self, slots: Slots, state: bytes) -> None:
        super().__init__(slots, state)
        self.epoch = self.get("xtal.epoch")
        self.runs = self.get("a.dv") <= 2
        self.divider = self.value("divider.base", "divider.tick", 15, self.runs)
        ends = self.get("update") if self.get("a.dv") == 2 else min(self.get("update"), 8)
        self.update = turn(ends - self.divider, self.hz)

    def _periodic(self) -> tuple[int, int] | None:
        """Ticks until PF, and from one PF to the next."""
        rate = self.get("a.rs")
        if not self.runs or rate == 0:
            return None
        fast = self.get("a.dv") != 2 and rate < len(self.FAST)
        frequency = self.FAST[rate] if fast else self.FREQUENCY[rate]
        period = self.hz // frequency
        phase = self.value("phase.base", "phase.tick", 15, self.runs)
        return turn(-phase, period), period

    def instants(self) -> Iterator[int]:
        periodic = self._periodic()
        if periodic is not None:
            yield self.ahead(periodic[0])
        if self.runs:
            yield self.ahead(self.update)

    def shows(self) -> int:
        get, periodic = self.get, self._periodic()
        if get("lines") & 1:
            return NEVER
        ticks = [periodic[0]] if periodic is not None and get("b.pie") else []
        if self.runs and get("b.uie") and not get("b.set"):
            ticks.append(self.update + self.hz * get("idle"))
        return min((self.ahead(tick) for tick in ticks), default=NEVER)

    def after(self, until: int) -> Values:
        passing = self.passing(until)
        pf, uf = self.get("c.pf"), self.get("c.uf")
        periodic = self._periodic()
        if periodic is not None and times(passing, *periodic):
            pf = 1
        updates = times(passing, self.update, self.hz) if self.runs else 0
        if updates > self.get("idle") and not self.get("b.set"):
            uf = 1
        return {("c.pf", ()): pf, ("c.uf", ()): uf}


class Timeless(Expectation):
    """An interrupt controller: nothing comes by itself."""

    def instants(self) -> Iterator[int]:
        yield from ()

    def after(self, until: int) -> Values:
        return {}


EXPECTATIONS: dict[str, type[Expectation]] = {
    "acpi_pm": PmTimer, "hpet": Hpet, "i8254": Pit, "mc146818": Rtc, "i8259": Timeless, "ioapic": Timeless,
}  # fmt: skip
