"""Machines built alike, one on each engine, that must never differ.

Every operation is done on all of them, and the invariants are looked at all the time;
`Broken` names the one that does not hold:

    same        the engines agree: answers, state byte for byte, lines, edges, deadlines
    exact       deadlines, lines and flags are what exact integers say; nothing is early
    ahead       a deadline lies in the future
    peek        changes nothing, and is what the read that follows returns
    restore     saving and restoring changes nothing, in either engine's hands
    split       a time step in one go or in several: the same state, the same rises
    bounded     the work of a call does not grow with the time that has passed
    ticks       all that were due are delivered, dropped, clamped or wait; no two at one instant
    wires       no delivery sets off others without end

Time is not the same for all: where the step says so, one machine takes several
steps, settling at each, for the others' one. Neither are restores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from devc.compiler import ir
from devc.runtime.clock import LAST_INSTANT
from devc.runtime.device import Device
from devc.runtime.instance import Instance
from devc.runtime.machine import Engine, Machine, MachineError

from .board import ENGINES, HPET_BASE, Board, Kind, shipped
from .exact import EXPECTATIONS, Expectation, Reader, Slots
from .programs import Op

BUDGET = {"i8254": 40, "acpi_pm": 8, "hpet": 40_000, "mc146818": 40, "i8259": 400, "ioapic": 800}
"""Iterations of loops in one call: twice what was ever seen, however long the time step.
An HPET's 32 timers may have 64 different instants, each a round over all of them."""

SETTLINGS = 64
"""Calls that one operation may make of a device: deadlines walked, cuts, reads in parts."""

HISTORY = ("rises", "changed", "touched by a read")
"""Counts of what happened since power-on or the last restore, and the last access's scratch; not
part of the device."""


BY = {"native": "natively", "reference": "by the reference engine", "kernel": "in the kernel"}


class Broken(AssertionError):
    """An invariant does not hold. `invariant` is its name."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class Side:
    """One machine, and every edge that its lines delivered: (line, level, instant)."""

    def __init__(self, board: Board, engine: Engine) -> None:
        self.engine = engine
        self.edges: list[tuple[str, int, int]] = []
        self.machine: Machine = board.build(engine)
        for device in self.machine.devices.values():
            for line in device.lines:
                line.connect(self._listener(line.path), self.machine.now)
        self.controlled = board.variant.controlled
        self.delivered: dict[str, int] = {}
        for path in self.controlled:
            self.machine.wire(path, self._controller(path), missed=board.variant.missed, minimum=0)

    def _listener(self, path: str) -> Callable[[int, int], None]:
        return lambda level, now: self.edges.append((path, level, now))

    def _controller(self, path: str) -> Callable[[int, int], None]:
        def edge(level: int, now: int) -> None:
            self.edges.append((f"{path} delivered", level, now))
            if level and self.delivered.get(path) == now:
                raise Broken("ticks", f"two ticks of {path} are delivered at {now}")
            if level:
                self.delivered[path] = now

        return edge

    def controller(self, line: int, act: Callable[[Any, int], None]) -> None:
        """What an interrupt controller does about one of its lines."""
        if self.controlled:
            path = self.controlled[line % len(self.controlled)]
            act(self.machine.line(path), self.machine.now)

    @property
    def devices(self) -> list[Device]:
        return list(self.machine.devices.values())

    @property
    def states(self) -> list[bytes]:
        return [device.instance.state for device in self.machine.devices.values()]

    def advance(self, instant: int, cuts: tuple[int, ...] = ()) -> None:
        """Let time pass, settling every device at each cut, and at the end if there are any."""
        for cut in cuts:
            self.machine.advance_to(cut)
            self.settle()
        self.machine.advance_to(instant)
        if cuts:
            self.settle()

    def settle(self) -> None:
        now = self.machine.now
        for device in self.devices:
            device.settle(now)
            self.machine.attend(device, now)

    def adopt(self, states: list[bytes]) -> None:
        """After a restore: the counts of what happened before it."""
        for device, state in zip(self.devices, states, strict=True):
            overwrite(device.instance, state)
            device.instance.attention = 0
            for line in device.lines:
                line.rises = device.instance.get("rises", line.bit)


def overwrite(instance: Instance, state: bytes) -> None:
    instance._memory[:] = state


@dataclass
class Counts:
    """What was done, for the figure at the end."""

    reads: int = 0
    writes: int = 0
    steps: int = 0
    jumps: int = 0
    probes: int = 0
    restores: int = 0
    edges: int = 0
    work: dict[str, int] = field(default_factory=dict)

    @property
    def accesses(self) -> int:
        return self.reads + self.writes


class Lockstep:
    """The board on its engines. `do` raises `Broken`."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.kinds: tuple[Kind, ...] = board.kinds or shipped()
        self.slots = [Slots(kind.module) for kind in self.kinds]
        self.sides = {engine: Side(board, engine) for engine in board.engines}
        self.counts = Counts()
        self.reached: set[Any] = set()
        self._seen: list[bytes] = [b""] * len(self.kinds)
        self._told = 0
        self.check()

    @property
    def now(self) -> int:
        return self.native.machine.now

    @property
    def native(self) -> Side:
        return self.sides["native"]

    @property
    def reference(self) -> Side:
        return self.sides["reference"]

    def run(self, program: list[Op]) -> None:
        for op in program:
            self.do(op)

    def begin(self, image: bytes) -> None:
        """Take over a snapshot of such a board on both machines."""
        for side in self.sides.values():
            side.machine.restore(image)
            side.edges.clear()
            side.delivered.clear()
        self._told = 0
        self.check()

    def do(self, op: Op) -> None:
        """One operation on every machine, and every invariant after it."""
        for kind in self.kinds:
            kind.probe.take_loops()
        _OPERATIONS[op[0]](self, *op[1:])
        self.check()

    # --- operations ------------------------------------------------------------------

    def both(self, act: Callable[[Side], Any], what: str) -> Any:
        """The same done to all, with the same answer."""
        answers = {engine: act(side) for engine, side in self.sides.items()}
        reference = answers["reference"]
        for engine, answer in answers.items():
            if answer != reference:
                raise Broken(
                    "same", f"{what} gives {answer!r} {BY[engine]}, {reference!r} by the reference engine"
                )
        return reference

    def read(self, space: Any, address: int, width: int) -> None:
        self.counts.reads += 1
        before = [side.states for side in self.sides.values()]
        seen = self.both(lambda side: side.machine.peek(space, address, width), "a peek")
        if [side.states for side in self.sides.values()] != before:
            raise Broken("peek", f"of {width} bytes at {space} {address:#x} changed the state")
        answer = self.both(lambda side: side.machine.read(space, address, width), "a read")
        if answer != seen and not self._polled(space, address, width):
            raise Broken(
                "peek", f"of {width} bytes at {space} {address:#x} is {seen:#x}, the read {answer:#x}"
            )

    def _polled(self, space: Any, address: int, width: int) -> bool:
        """Whether a read that leaves a window falls into bytes of which one may change the next:
        the machine peeks at each by itself, and an 8259 polled at one port is not at the other."""
        windows = [piece.window for piece in self.native.machine._placement.pieces(space, address, width % 9)]
        found = [w for w in windows if w is not None and w.label in ("i8259.first", "i8259.second")]
        return len(found) > len(set(found))

    def write(self, space: Any, address: int, width: int, value: int) -> None:
        self.counts.writes += 1
        self.both(lambda side: side.machine.write(space, address, width, value), "a write")

    def near(self, address: int, width: int, delta: int) -> None:
        main = self.native.machine.peek("mmio", HPET_BASE + 0xF0, 8)
        self.write("mmio", address, width, (main + delta) % 2 ** (8 * width))

    def step(self, ns: int, cuts: tuple[int, ...], who: Engine) -> None:
        self._advance(min(self.now + ns, LAST_INSTANT), cuts, who)

    def deadline(self, beside: int) -> None:
        due = self.both(lambda side: side.machine.deadline, "the deadline")
        if due != ir.NEVER:
            self._advance(min(max(due + beside, self.now), LAST_INSTANT), (), "native")

    def _advance(self, target: int, cuts: tuple[int, ...], who: Engine) -> None:
        self.counts.steps += 1
        start = self.now
        several = self.sides[who]
        others = [side for side in self.sides.values() if side is not several]
        jumped = others[0].machine.statistics.events_jumped
        for one in others:
            one.advance(target)
        if others[0].machine.statistics.events_jumped != jumped:
            # Where deadlines are jumped over, wired devices meet only at the step's end.
            self.counts.jumps += 1
            several.advance(target)
            return
        several.advance(target, tuple(start + (target - start) * cut // 1000 for cut in cuts))
        if cuts:
            for one in others:
                one.settle()

    def reload(self, who: str) -> None:
        self.counts.restores += 1
        image = self.both(lambda side: side.machine.save(), "saving")
        for engine, side in self.sides.items():
            if who in (engine, "both", "crosswise"):
                self._restore(side, image)

    def _restore(self, side: Side, image: bytes) -> None:
        before, told = side.states, len(side.edges)
        side.machine.restore(image)
        for device, was, kind in zip(side.devices, before, self.kinds, strict=True):
            differ = [name for name in differing(kind, was, device.instance.state) if not history(name)]
            if differ:
                raise Broken("restore", f"{device.name} on the {side.engine} engine differs in {differ}")
        if side.edges[told:]:
            raise Broken("restore", f"delivered edges: {side.edges[told:]}")
        side.adopt(before)

    def ack(self, line: int) -> None:
        self.both(lambda side: side.controller(line, lambda found, now: found.acknowledge(now)), "an EOI")

    def mask(self, line: int, level: int) -> None:
        self.both(lambda side: side.controller(line, lambda found, now: found.mask(level, now)), "a mask")

    def pin(self, level: int) -> None:
        def drive(side: Side) -> None:
            machine = side.machine
            machine.devices["mc146818"].drive("reset_pin", level, machine.now)
            machine.attend(machine.devices["mc146818"], machine.now)

        self.both(drive, "the reset pin")

    def inta(self) -> None:
        def acknowledge(side: Side) -> int:
            cycle = side.machine.devices["i8259"].cycles["inta"]
            return cycle.read(0, 4, side.machine.now)

        self.both(acknowledge, "an INTA sequence")

    def eoi(self, vector: int) -> None:
        def end(side: Side) -> None:
            side.machine.devices["ioapic"].cycles["eoi"].write(0, 4, vector, side.machine.now)

        self.both(end, "an EOI message")

    def reset(self) -> None:
        self.both(lambda side: side.machine.reset(), "a reset")

    def move(self, base: int) -> None:
        def move(side: Side) -> str:
            try:
                side.machine.move("acpi_pm", "base", base)
            except MachineError as error:
                return str(error)
            return ""

        self.both(move, "moving the PM timer")

    # --- copies, on which time passes ahead -------------------------------------------

    def probe(self, ns: int, cuts: tuple[int, ...]) -> None:
        """What a step would do to each device by itself, in one go and in several."""
        self.counts.probes += 1
        target = min(self.now + ns, LAST_INSTANT)
        points = [self.now + (target - self.now) * cut // 1000 for cut in cuts]
        for at, kind in enumerate(self.kinds):
            self._probe(kind, self.slots[at], self.reference.devices[at].instance.state, points, target)

    def _probe(self, kind: Kind, slots: Slots, state: bytes, points: list[int], target: int) -> None:
        name = kind.module.name
        get = slots.reader(state)
        due, shows, settled = slots.guard(get), get("deadline"), get("settled")
        several, one = (kind.scratch[engine] for engine in ENGINES)
        kind.probe.take_loops()
        overwrite(several, state)
        overwrite(one, state)
        expectation = EXPECTATIONS[name](slots, state)
        stops = {*points, *(t for t in (due - 1, due, shows - 1, shows) if settled <= t <= target)}
        for stop in sorted({*stops, target}):
            self._counters(name, expectation, several, stop)
            several.settle(stop)
            changed = differing(kind, state, several.state, but=("settled",))
            if changed and stop < due:
                raise Broken(
                    "exact", f"{name}: {changed} changed at {stop}, though nothing was due until {due}"
                )
            if stop < shows and any(line(slot) for slot in changed):
                raise Broken("exact", f"{name}: {changed} changed at {stop}, before the deadline {shows}")
        self._work(kind)
        one.settle(target)
        self._work(kind)
        both = differing(kind, several.state, one.state, but=("attention",))
        if both:
            raise Broken("split", f"{name} from {settled} to {target} by {sorted(stops)} differs in {both}")
        self._expected(name, expectation, slots.reader(one.state), target)
        if one.deadline <= target:
            raise Broken("ahead", f"{name} is settled at {target}, and its deadline is {one.deadline}")

    @staticmethod
    def _counters(name: str, expectation: Expectation, instance: Instance, at: int) -> None:
        for region, offset, width, value in expectation.reads(at):
            found = instance.peek(region, at, offset, width)
            if found != value:
                raise Broken(
                    "exact", f"{name} at {at}: {region} {offset:#x} reads {found:#x}, not {value:#x}"
                )

    @staticmethod
    def _expected(name: str, expectation: Expectation, get: Reader, target: int) -> None:
        for (slot, index), value in expectation.after(target).items():
            found = get(slot, *index)
            if found != value:
                span = f"from {expectation.settled} to {target}"
                raise Broken("exact", f"{name} {span}: {slot}{list(index)} is {found}, not {value}")

    def _work(self, kind: Kind, calls: int = 1) -> None:
        loops, name = kind.probe.take_loops(), kind.module.name
        self.counts.work[name] = max(self.counts.work.get(name, 0), loops // calls)
        if loops > BUDGET[name] * calls:
            raise Broken("bounded", f"{name}: {loops} iterations of loops in {calls} calls at most")

    # --- invariants ----------------------------------------------------------------------

    def check(self) -> None:
        """Every invariant that can be looked at where the machines stand."""
        for side in self.sides.values():
            if side.machine.statistics.propagation_cut or side.machine.failures:
                raise Broken("wires", f"{side.machine.failures or 'deliveries without end'}")
        for kind in self.kinds:
            self._work(kind, SETTLINGS)
        self.both(lambda side: side.machine.now, "the time")
        for at, device in enumerate(self.reference.devices):
            state = device.instance.state
            for side in self.sides.values():
                self._check_same(at, side, state)
            if state != self._seen[at]:
                self._check_device(at, state)
                self._seen[at] = state
        self._check_edges()
        self._check_ticks()

    def _check_same(self, at: int, side: Side, reference: bytes) -> None:
        found = side.devices[at].instance.state
        if found != reference:
            kind = self.kinds[at]
            why = explained(kind, found, reference, BY[side.engine]) or "padding"
            raise Broken("same", f"{kind.module.name}: {why}")

    def _check_device(self, at: int, reference: bytes) -> None:
        kind, slots = self.kinds[at], self.slots[at]
        name = kind.module.name
        get = slots.reader(reference)
        due, guard = get("deadline"), slots.guard(get)
        if due <= self.now:
            raise Broken("ahead", f"{name}: the deadline {due} has passed, now is {self.now}")
        expectation = EXPECTATIONS[name](slots, reference)
        instants = [*expectation.instants(), ir.NEVER]
        if guard != min(instants):
            raise Broken("exact", f"{name}: the next event is due at {guard}, it should be {min(instants)}")
        if due not in instants or due > expectation.shows():
            raise Broken(
                "exact", f"{name}: the deadline {due} should be {expectation.shows()}, of {sorted(instants)}"
            )
        for feature in kind.features.of(reference):
            self.reached.add((name, *feature))

    def _check_edges(self) -> None:
        expected = self.reference.edges[self._told :]
        for side in self.sides.values():
            if (new := side.edges[self._told :]) != expected:
                told = f"{BY[side.engine]} {new[:6]}, by the reference engine {expected[:6]}"
                raise Broken("same", f"edges: {told}")
        self.counts.edges += len(expected)
        if len(self.reference.edges) > 10_000:
            for side in self.sides.values():
                side.edges.clear()
        self._told = len(self.reference.edges)

    def _check_ticks(self) -> None:
        ticks = self.both(lambda side: side.machine.statistics.ticks, "counting ticks")
        for path, each in ticks.items():
            if each.due != each.delivered + each.dropped + each.clamped + each.pending:
                raise Broken("ticks", f"of {path} do not add up: {each}")


_OPERATIONS: dict[str, Callable[..., None]] = {
    name: getattr(Lockstep, name)
    for name in (
        "read", "write", "near", "step", "deadline", "probe", "reload", "ack", "mask", "pin", "reset", "move",
        "inta", "eoi",
    )
}  # fmt: skip


def line(slot: str) -> bool:
    return slot == "lines" or slot.startswith("rises")


def history(slot: str) -> bool:
    return slot.split("[")[0].endswith(HISTORY) or " sees " in slot


def differing(kind: Kind, one: bytes, other: bytes, but: tuple[str, ...] = ()) -> list[str]:
    """Names of the slots' elements whose bytes differ."""
    if one == other:
        return []
    return [name for name, _, _ in _differences(kind, one, other) if name not in but]


def explained(kind: Kind, found: bytes, reference: bytes, by: str) -> str:
    return "; ".join(
        f"{name} is {one:#x} {by}, {other:#x} by the reference engine"
        for name, one, other in _differences(kind, found, reference)
    )


def _differences(kind: Kind, one: bytes, other: bytes) -> Iterator[tuple[str, int, int]]:
    words = (memoryview(state).cast("Q").tolist() for state in (one, other))
    for at, (a, b) in enumerate(zip(*words, strict=True)):
        for name, start, end in kind.words[at] if a != b else ():
            x, y = (int.from_bytes(each[start:end], sys.byteorder) for each in (one, other))
            if x != y:
                yield name, x, y
