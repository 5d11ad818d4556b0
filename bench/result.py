"""What a benchmark yields, and how samples become a ratio with an interval.

Two ways are timed in interleaved pairs, so that whatever else the machine does
falls on both. The ratio is the median of the pairs' ratios; `low` and `high`
are its 95 % confidence interval from order statistics (the sign test's), which
assumes nothing of the noise but that it does not favour one side of a pair.

Non-goals: timing itself (the families), showing (cli/bench.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Sense = Literal["at most", "at least"]

CONFIDENCE_Z = 1.96
"""Standard deviations of a normal distribution that 95 % lie within."""

WARM_UP = 1
"""Pairs that are run first and not counted."""


class Unavailable(Exception):
    """Something this machine lacks; the message says what, and how to mend it."""


class Disagreement(Exception):
    """Both sides of a comparison must do the same, and they do not."""


@dataclass(frozen=True, slots=True)
class Result:
    """One comparison. `what` says what is divided by what, and which way the target goes."""

    name: str
    ratio: float
    low: float
    high: float
    target: float
    met: bool
    what: str

    def as_json(self) -> dict[str, str | float | bool]:
        """The object of `devc bench --json`; ratios with 5 significant digits."""
        ratios = {key: _rounded(getattr(self, key)) for key in ("ratio", "low", "high")}
        return {"name": self.name, **ratios, "target": self.target, "met": self.met, "what": self.what}


@dataclass(frozen=True, slots=True)
class Report:
    """A result and what a reader wants beside it: the times compared, and their limits."""

    result: Result
    ours: str
    theirs: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A benchmark that could not run here. It is shown, and left out of the JSON."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done: number of pairs, and the length of a sample against the usual one."""

    pairs: int
    length: float

    def of(self, count: int) -> int:
        return max(1, round(count * self.length))


FULL = Scale(pairs=101, length=1.0)
QUICK = Scale(pairs=15, length=0.2)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One line of the table. `run` may raise Unavailable."""

    name: str
    target: float
    sense: Sense
    what: str
    run: Callable[[Benchmark, Scale], Report] = field(repr=False)

    def judge(self, ratios: Sequence[float]) -> Result:
        """The result of the ratios of interleaved pairs."""
        ratio = median(ratios)
        low, high = interval(ratios)
        met = ratio <= self.target if self.sense == "at most" else ratio >= self.target
        return Result(
            self.name, ratio, low, high, self.target, met, f"{self.what}; {self.sense} {self.target:g}"
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Times of two ways of doing the same, taken alternately; any unit."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    def ratios(self, inverse: bool = False) -> list[float]:
        """ours / theirs of each pair; `inverse`: theirs / ours, a speed-up."""
        both = zip(self.ours, self.theirs, strict=True)
        return [b / a if inverse else a / b for a, b in both]


def interleave(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> Pairs:
    """Sample both ways `pairs` times, each going first in every other pair."""
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(-WARM_UP, pairs):
        pair = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            pair[side] = (ours, theirs)[side]()
        if number >= 0:
            for times, taken in zip(samples, pair, strict=True):
                times.append(taken)
    return Pairs(tuple(samples[0]), tuple(samples[1]))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median: the values whose ranks bound it.

    With fewer than six values no two ranks do; then it is the whole span.
    """
    ordered = sorted(values)
    count = len(ordered)
    outside = max(math.floor((count - CONFIDENCE_Z * math.sqrt(count)) / 2) - 1, 0)
    return ordered[outside], ordered[count - 1 - outside]


def matching(benchmarks: Sequence[Benchmark], pattern: str | None) -> Iterator[Benchmark]:
    """Those whose name contains the pattern, case ignored; all without one."""
    return (b for b in benchmarks if pattern is None or pattern.lower() in b.name.lower())


def nanoseconds(value: float) -> str:
    """A time in ns for people."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} ns"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
