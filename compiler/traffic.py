"""Which accesses may be served otherwise than one by one: posted writes and quiet reads.

A posted write may wait until the guest's next exit (KVM's coalesced ring): it
looks at no time, and nothing that happens by itself meanwhile reads or writes
what it stores. A quiet read changes nothing but by settling what is due, so it
needs no lock: a reader takes a copy of the state that is of one piece.

Both are found for accesses that lie within one register and are aligned to
their width. Any other is neither, and so is one of which nothing is known.

    found = traffic(module)
    found.posted_at("io", 0, 1)     # Posted(lines=(1,)), or None
    found.quiet_at("hpet", 0xf0, 8) # Quiet(state=((48, 8), ...)), or None

Non-goals: what depends on the value written, or on a register selected before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from . import ir
from .access_paths import Element, Paths
from .analysis import Analysis, Effects, nodes, walk

KINDS = ("read", "write")
GUARDS = ("next due", "deadline")
"""Slots that an access compares with Now before anything else; the first that a device has is its own."""


@dataclass(frozen=True, slots=True)
class Posted:
    """Writes of `width` bytes at each of `offsets` that may wait.

    `lines`: numbers of the lines of which a level, or the message that an edge
    carries, may change by it. To post it is right only where these are wired to
    nobody: they would change late.
    """

    region: str
    width: int
    offsets: tuple[int, ...]
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quiet:
    """Reads of `width` bytes at each of `offsets` that change nothing.

    `state`: the spans (byte offset, bytes) of the state struct on which the
    answer depends, but for those that only power-on, a reset or a restore set
    (parameters among them). None at all: the answer is a function of the instant.
    """

    region: str
    width: int
    offsets: tuple[int, ...]
    state: tuple[tuple[int, int], ...]


Entry = TypeVar("Entry", Posted, Quiet)


@dataclass(frozen=True)
class Traffic:
    """What is posted and what is quiet. `guard` is the byte offset of a u64: the next instant at
    which there is anything to settle; from then on no read is quiet until somebody has settled."""

    guard: int
    posted: tuple[Posted, ...]
    quiet: tuple[Quiet, ...]

    def posted_at(self, region: str, offset: int, width: int) -> Posted | None:
        """What is known of a write that may wait; None: it may not."""
        return self._posted.get((region, offset, width))

    def quiet_at(self, region: str, offset: int, width: int) -> Quiet | None:
        """What is known of a read that changes nothing; None: it may change something."""
        return self._quiet.get((region, offset, width))

    @cached_property
    def _posted(self) -> dict[tuple[str, int, int], Posted]:
        return {(e.region, offset, e.width): e for e in self.posted for offset in e.offsets}

    @cached_property
    def _quiet(self) -> dict[tuple[str, int, int], Quiet]:
        return {(e.region, offset, e.width): e for e in self.quiet for offset in e.offsets}


def traffic(module: ir.Module) -> Traffic:
    """The analysis of a whole module; its functions must be there."""
    facts = Facts(module)
    posted: dict[tuple[str, int, tuple[int, ...]], list[int]] = {}
    quiet: dict[tuple[str, int, tuple[tuple[int, int], ...]], list[int]] = {}
    for region in (r for r in module.regions if r.space != "host"):
        for offset, width in accesses(region):
            lines = facts.posted(region, offset, width)
            if lines is not None:
                posted.setdefault((region.name, width, lines), []).append(offset)
            state = facts.quiet(region, offset, width)
            if state is not None:
                quiet.setdefault((region.name, width, state), []).append(offset)
    return Traffic(
        facts.guard,
        tuple(Posted(name, width, tuple(at), lines) for (name, width, lines), at in posted.items()),
        tuple(Quiet(name, width, tuple(at), state) for (name, width, state), at in quiet.items()),
    )


def accesses(region: ir.Region) -> Iterator[tuple[int, int]]:
    """(offset, width) of every aligned access that lies in one register."""
    for register in region.registers:
        for width in (1, 2, 4, 8):
            first = -(-register.offset // width) * width
            for offset in range(first, register.offset + register.width - width + 1, width):
                yield offset, width


@dataclass
class Facts:
    """What is so of a module, whatever the access."""

    module: ir.Module
    functions: dict[str, ir.Function] = field(init=False)
    paths: Paths = field(init=False)

    def __post_init__(self) -> None:
        self.functions = {function.name: function for function in self.module.functions}
        self.paths = Paths(self.module)

    @property
    def guard(self) -> int:
        offsets = {slot.name: slot.offset for slot in self.module.slots}
        return next(offsets[name] for name in GUARDS if name in offsets)

    # --- posted writes ---------------------------------------------------------------

    def posted(self, region: ir.Region, offset: int, width: int) -> tuple[int, ...] | None:
        """The lines that a write may change; None if it may not wait."""
        done = self.paths.write(region.name, offset, width)
        if not done.writes:
            return ()
        if done.time or done.slots_written & self._others_use or done.slots_read & self._others_write:
            return None
        return tuple(number for number, line in enumerate(self._lines) if _meet(done.writes, line))

    @cached_property
    def _meanwhile(self) -> Analysis:
        """Effects where a line's level is taken to depend on nothing: lines are told apart."""
        unread = ir.Function("levels", (), ir.U32, (ir.Return(ir.Const(0)),))
        return Analysis({**self.functions, "levels": unread})

    @property
    def _alone(self) -> list[Effects]:
        """What happens by itself, or is done by the machine around the device, and not by a guest."""
        host = [f"{r.name}_{kind}" for r in self.module.regions if r.space == "host" for kind in KINDS]
        return [self._meanwhile.of(name) for name in ("settle", "commit", "next", *host)]

    @cached_property
    def _others_use(self) -> frozenset[str]:
        """What is read or written meanwhile."""
        python = {slot for part in self.module.pythons for _, slot, _ in (*part.reads, *part.writes)}
        return self._inputs.union(python, *(done.reads | done.writes for done in self._alone))

    @cached_property
    def _others_write(self) -> frozenset[str]:
        """What is written meanwhile."""
        python = {slot for part in self.module.pythons for _, slot, _ in part.writes}
        return self._inputs.union(python, *(done.writes for done in self._alone))

    @cached_property
    def _inputs(self) -> frozenset[str]:
        """Slots that a wire may drive: the inputs, and single bits that nothing but `reset` stores."""
        stored = {s for f in self.functions.values() if f.name != "reset" for s in _stored(f)}
        bits = (s for s in self.module.slots if s.kind == "state" and s.type == ir.BOOL and not s.dims)
        unstored = {slot.name for slot in bits if slot.name not in stored}
        return frozenset(unstored | {given.slot for given in self.module.inputs})

    @cached_property
    def _lines(self) -> list[set[Element]]:
        """For each line, the slots on which its level depends, and the elements that its message is of."""
        analysis = Analysis(self.functions)
        ranks = {slot.name: len(slot.dims) for slot in self.module.slots}
        found: list[set[Element]] = [
            {(slot, index) for _, slot, index in line.carries} for line in self.module.lines
        ]
        for statement in walk(self.functions["levels"].body):
            if isinstance(statement, ir.Let):
                for part, bits in _driven(statement.value):
                    depends = {(s, (None,) * ranks[s]) for s in analysis.of_expr(part).reads}
                    for bit in bits:
                        if bit < len(found):
                            found[bit] |= depends
        return found

    # --- quiet reads -----------------------------------------------------------------

    def quiet(self, region: ir.Region, offset: int, width: int) -> tuple[tuple[int, int], ...] | None:
        """The spans of state that a read depends on; None if it may change something."""
        done = self.paths.read(region.name, offset, width)
        if done.writes:
            return None
        return joined(span(self._changing[s], index) for s, index in done.reads if s in self._changing)

    @cached_property
    def _changing(self) -> dict[str, ir.Slot]:
        """The slots but those that only power-on, a reset or a restore set."""
        entries = [f"{r.name}_{kind}" for r in self.module.regions for kind in KINDS]
        analysis = Analysis(self.functions)
        changed = set(self._inputs) | self._others_write
        for name in (*entries, "settle", "commit"):
            changed |= analysis.of(name).writes
        return {
            slot.name: slot for slot in self.module.slots if slot.kind == "header" or slot.name in changed
        }


def _stored(function: ir.Function) -> set[str]:
    return {statement.slot for statement in walk(function.body) if isinstance(statement, ir.Store)}


def _driven(expr: ir.Expr) -> Iterator[tuple[ir.Expr, range]]:
    """The parts of a line word and the bits that each may set."""
    match expr:
        case ir.Binary("or", left, right):
            yield from _driven(left)
            yield from _driven(right)
        case ir.Binary("shl", left, right):
            yield expr, range(right.type.lo, right.type.hi + max(1, left.type.hi.bit_length()))
        case ir.Binary("and", left, ir.Const()):
            yield from _driven(left)
        case _ if any(isinstance(node, ir.Call | ir.Load) for node in nodes(expr)):
            yield expr, range(expr.type.hi.bit_length())


def _meet(some: set[Element], others: set[Element]) -> bool:
    """Whether an element may be in both."""
    return any(
        slot == other and all(None in pair or pair[0] == pair[1] for pair in zip(index, at, strict=True))
        for slot, index in some
        for other, at in others
    )


def span(slot: ir.Slot, index: tuple[int | None, ...]) -> tuple[int, int]:
    """The byte offset and the bytes of an element, or of those that it may be."""
    offset: int = slot.offset
    size: int = slot.size
    for at, (count, stride) in zip(index, slot.dims, strict=True):
        offset += stride * (at or 0)
        size += stride * (count - 1) * (at is None)
    return offset, size


def joined(spans: Iterator[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans in order, those that touch or overlap as one."""
    out: list[tuple[int, int]] = []
    for offset, size in sorted(spans):
        if out and offset <= sum(out[-1]):
            out[-1] = (out[-1][0], max(sum(out[-1]), offset + size) - out[-1][0])
        else:
            out.append((offset, size))
    return tuple(out)
