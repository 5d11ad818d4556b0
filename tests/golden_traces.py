"""Recorded answers of QEMU's device models: reading them, and asking our devices the same.

`golden/<device>.jsonl.xz` holds every recording of a device, one JSON object a
line, as golden/README.md describes; a `meta` object begins each recording.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devc.runtime.hosts import board as boards
from devc.runtime.machine import Engine, Machine

FOLDER = Path(__file__).parent / "golden"
DEVICES = ("pit", "pmtimer", "hpet", "rtc")
QUIETING = 3
"""Operations at the start of every other device's recording that quiet the PIT."""
WIDTHS = {"b": 1, "w": 2, "l": 4, "q": 8}


@dataclass(frozen=True, slots=True)
class Edge:
    """An interrupt input went to `level` at `t` ns, during operation `at`."""

    line: int
    level: int
    t: int
    at: int


@dataclass(frozen=True, slots=True)
class Operation:
    """What was done: an access (`answer`: what a read returned) or a step of `ns`.

    `t` is the virtual time at which it began.
    """

    kind: str  # "read", "write", "step"
    t: int
    space: str = ""
    address: int = 0
    width: int = 0
    value: int = 0
    answer: int = 0
    ns: int = 0

    def __str__(self) -> str:
        if self.kind == "step":
            return f"step {self.ns}"
        letter = next(letter for letter, width in WIDTHS.items() if width == self.width)
        prefix = ("in" if self.kind == "read" else "out") if self.space == "io" else self.kind
        return f"{prefix}{letter} {self.address:#x}" + (f" {self.value:#x}" if self.kind == "write" else "")


@dataclass(frozen=True, slots=True)
class Trace:
    meta: dict[str, Any]
    operations: tuple[Operation, ...]
    edges: tuple[Edge, ...]
    """Without those of the PIT's line while it is being quieted."""

    @property
    def name(self) -> str:
        return f"{self.meta['profile']}/{self.meta['device']}/{self.meta['seed']}"


@dataclass
class Answers:
    """What our devices said: by operation (0 if it was no read), and their edges."""

    values: list[int] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    levels: dict[int, int] = field(default_factory=dict)
    """Of each line before the first operation."""


def _operation(record: dict[str, Any], now: int) -> Operation:
    name = record["op"]
    if name == "clock_step":
        return Operation("step", now, ns=record["ns"])
    verb, width = name[:-1], WIDTHS[name[-1]]
    space = "io" if verb in ("in", "out") else "mmio"
    kind = "read" if verb in ("in", "read") else "write"
    value, answer = record.get("val", 0), record.get("ret", 0)
    return Operation(kind, now, space, record["addr"], width, value, answer)


def parse(lines: Iterator[str]) -> Iterator[Trace]:
    """The recordings that follow each other in JSON lines."""
    records = [json.loads(line) for line in lines if line.strip()]
    starts = [at for at, record in enumerate(records) if record["op"] == "meta"]
    for start, end in zip(starts, [*starts[1:], len(records)], strict=True):
        yield _trace(records[start:end])


def _trace(records: list[dict[str, Any]]) -> Trace:
    operations: list[Operation] = []
    edges: list[Edge] = []
    now = 0
    for record in records[1:]:
        if record["op"] == "irq":
            edge = Edge(record["line"], record["level"], record["t"], len(operations) - 1)
            if records[0]["device"] == "pit" or edge.line or edge.at > QUIETING:
                edges.append(edge)
        else:
            operations.append(_operation(record, now))
            now = record.get("now", now)
    return Trace(records[0], tuple(operations), tuple(edges))


_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}


def read(path: Path) -> list[Trace]:
    """The recordings in a file: JSON lines, plain or compressed."""
    decompress = _DECOMPRESS.get(path.suffix, bytes)
    return list(parse(iter(decompress(path.read_bytes()).decode().splitlines())))


def recorded(device: str, profile: str | None = None) -> list[Trace]:
    """The recordings kept here of a device."""
    traces = read(FOLDER / f"{device}.jsonl.xz")
    return [trace for trace in traces if profile in (None, trace.meta["profile"])]


def replay(trace: Trace, engine: Engine = "native", settings: Mapping[str, int] | None = None) -> Answers:
    """Do a trace's operations with our devices on the board it was recorded on.

    `settings` are parameters of the RTC, over the board's.

    The writes that quiet QEMU's PIT are left out where it is not the PIT that is compared:
    OUT of the mode they set is high, on the chip.
    """
    answers = Answers()

    def interrupt(line: int, level: int, now: int) -> None:
        if len(answers.values) == 0 and now == 0 and line not in answers.levels and not started:
            answers.levels[line] = level
        else:
            answers.edges.append(Edge(line, level, now, len(answers.values)))

    started = False
    machine = Machine(engine=engine)
    recorded_on = trace.meta["machine"]
    date = datetime.fromisoformat(recorded_on["rtc_base"]).replace(tzinfo=UTC)
    boards.build(
        boards.find(recorded_on["machine"]),
        machine,
        interrupt,
        hpet=recorded_on["hpet"],
        settings={"mc146818": {"date": int(date.timestamp()), **(settings or {})}},
    )
    started = True
    quieting = 0 if trace.meta["device"] == "pit" else QUIETING
    for at, operation in enumerate(trace.operations):
        answers.values.append(_perform(machine, operation) if at >= quieting else 0)
    return answers


def _perform(machine: Machine, operation: Operation) -> int:
    if operation.kind == "step":
        machine.step(operation.ns)
    elif operation.kind == "write":
        machine.write(operation.space, operation.address, operation.width, operation.value)  # type: ignore[arg-type]
    else:
        return machine.read(operation.space, operation.address, operation.width)  # type: ignore[arg-type]
    return 0


def echo(trace: Trace) -> Answers:
    """The recording's own answers, as if a device had given them: for tests of the comparison."""
    return Answers([operation.answer for operation in trace.operations], list(trace.edges))
