"""Random programs that keep going from where something new was seen.

An `Explorer` runs program after program on the boards of one process. Where a
run reached a block of code or a kind of state for the first time, the machine
is saved there, and later runs begin from that snapshot as well as from power-on.
Each run draws its phrases from a random part of them, so that no device is
always disturbed by the others.

Non-goals: deciding what is right (lockstep.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from devc.runtime.machine import Engine

from .board import ENGINES, VARIANTS, Board, Kind, shipped
from .lockstep import Broken, Counts, Lockstep
from .phrases import PHRASES, Phrase, program
from .programs import Op, Seeded, deadline, probe, step

LENGTH = 30
"""Phrases of a run."""
CORPUS = 300
"""Snapshots kept of each board."""
FRESH = 0.3
"""Share of the runs that begin at power-on."""
LATE = 2**63
"""A run beyond this instant, ns, has too little time left to be worth going on from."""


@dataclass(frozen=True)
class Entry:
    """A place to go on from: a machine's snapshot, and the program that led there from power-on."""

    image: bytes
    program: tuple[Op, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A broken invariant and a program that shows it on board `variant`."""

    variant: int
    program: tuple[Op, ...]
    invariant: str
    message: str

    @property
    def text(self) -> str:
        """For `--replay`."""
        return json.dumps({"variant": self.variant, "program": self.program})


@dataclass
class Reached:
    """Blocks of the reference engine by device, and kinds of state."""

    blocks: set[tuple[str, int]] = field(default_factory=set)
    states: set[Any] = field(default_factory=set)

    def take(self, lockstep: Lockstep) -> bool:
        """Add what the last run reached; whether any of it is new."""
        blocks = {(kind.module.name, block) for kind in lockstep.kinds for block in kind.probe.hits}
        states = lockstep.reached
        new = bool(blocks - self.blocks or states - self.states)
        self.blocks |= blocks
        self.states |= states
        lockstep.reached = set()
        return new

    def add(self, other: Reached) -> None:
        self.blocks |= other.blocks
        self.states |= other.states


class Explorer:
    """One process's part of a campaign."""

    def __init__(
        self,
        seed: int,
        kinds: Sequence[Kind] = (),
        variants: Sequence[int] = range(len(VARIANTS)),
        engines: Sequence[Engine] = ENGINES,
    ) -> None:
        self.random = Random(seed)
        self.reached = Reached()
        self.kinds = tuple(kinds) or shipped()
        self.variants = list(variants)
        self.boards = {v: Board(VARIANTS[v], self.kinds, engines=tuple(engines)) for v in self.variants}
        self.pairs: dict[int, Lockstep] = {}
        self.corpora: dict[int, list[Entry]] = {}
        self.runs = 0

    @property
    def counts(self) -> list[Counts]:
        return [pair.counts for pair in self.pairs.values()]

    def explore(self, accesses: int, tell: Callable[[int], object] = lambda done: None) -> Finding | None:
        """Run programs until so many accesses were made, or an invariant breaks."""
        done = 0
        while done < accesses:
            variant = self.variants[self.runs % len(self.variants)]
            self.runs += 1
            finding = self._run(variant)
            if finding is not None:
                return finding
            done = sum(counts.accesses for counts in self.counts)
            tell(done)
        return None

    def _pair(self, variant: int) -> Lockstep:
        if variant not in self.pairs:
            pair = self.pairs[variant] = Lockstep(self.boards[variant])
            self.corpora[variant] = [Entry(pair.native.machine.save())]
            self._save_others(pair)
        return self.pairs[variant]

    def _run(self, variant: int) -> Finding | None:
        pair, corpus = self._pair(variant), self.corpora[variant]
        start = corpus[0] if self.random.random() < FRESH else self.random.choice(corpus)
        ops = program(Seeded(self.random), LENGTH, self._phrases())
        at = 0
        try:
            pair.begin(start.image)
            for at, op in enumerate(ops, 1):  # noqa: B007
                pair.do(op)
        except Exception as error:  # whatever it is, the program that led to it is what matters
            invariant = error.invariant if isinstance(error, Broken) else type(error).__name__
            return Finding(variant, (*start.program, *ops[:at]), invariant, str(error))
        if self.reached.take(pair) and pair.now < LATE:
            self._keep(corpus, Entry(pair.native.machine.save(), (*start.program, *ops, ("reload", "both"))))
            self._save_others(pair)
        return None

    @staticmethod
    def _save_others(pair: Lockstep) -> None:
        """Saving settles; what one machine does, all do."""
        for side in pair.sides.values():
            if side is not pair.native:
                side.machine.save()

    def _phrases(self) -> list[Phrase]:
        chosen = [phrase for phrase in PHRASES if self.random.random() < 0.5]
        chosen += [each for each in (step, deadline, probe) if each not in chosen]
        return [phrase for phrase in chosen for _ in range(PHRASES[phrase])]

    def _keep(self, corpus: list[Entry], entry: Entry) -> None:
        if len(corpus) < CORPUS:
            corpus.append(entry)
        else:
            corpus[self.random.randrange(1, CORPUS)] = entry


def replay(board: Board, ops: Sequence[Op]) -> Broken | None:
    """What breaks when a program is run from power-on."""
    try:
        Lockstep(board).run(list(ops))
    except Broken as broken:
        return broken
    except Exception as error:
        return Broken(type(error).__name__, str(error))
    return None


def shrunk(board: Board, finding: Finding, seconds: float = 60) -> Finding:
    """The finding with what its program does not need taken out, as far as the time allows."""
    ends = time.monotonic() + seconds
    best = finding
    size = max(1, len(best.program) // 2)
    while time.monotonic() < ends:
        smaller = next(_smaller(board, best, size, ends), None)
        if smaller is not None:
            best = smaller
            size = min(size, max(1, len(best.program) // 2))
        elif size == 1:
            break
        else:
            size //= 2
    return best


def _smaller(board: Board, finding: Finding, size: int, ends: float) -> Iterator[Finding]:
    """Without `size` operations somewhere, the latest ones first; still broken in the same way."""
    ops = finding.program
    for at in range(max(0, len(ops) - size), -1, -size):
        if time.monotonic() > ends:
            return
        rest = (*ops[:at], *ops[at + size :])
        broken = replay(board, rest)
        if broken is not None and broken.invariant == finding.invariant:
            yield Finding(finding.variant, rest, broken.invariant, str(broken))
