"""Comparing the ACPI PM timer with its recordings, within the allowances of golden/README.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .golden_report import UNEXPLAINED, Difference, match_edges
from .golden_traces import Answers, Operation, Trace

REGISTERS = {0: "status", 2: "enable", 4: "control (not the timer's)", 8: "timer"}


def _register(operation: Operation, base: int) -> str:
    offset = operation.address - base
    start = max((at for at in REGISTERS if at <= offset), default=0)
    part = f" byte {offset - start}" if offset != start else ""
    return f"{REGISTERS[start]}{part}, {operation.width} bytes"


TOGGLE = 1 << 23
"""Ticks from one toggle of the 24-bit timer's top bit to the next."""


def _cause(operation: Operation, trace: Trace, ours: int) -> str:
    offset, differing = operation.address - trace.meta["pmbase"], operation.answer ^ ours
    if offset < 2 and differing == 1 and operation.answer & 1 and _before_a_toggle(operation.t, trace):
        return "TMR_STS is set a little before the counter's bit toggles"
    if offset > 8 or (offset == 8 and operation.width < 4):
        return "a part of the timer reads as its lowest bytes"
    if 2 <= offset < 4 and not differing & 1:
        return "the enable register keeps the bits of other events"
    return UNEXPLAINED


def _before_a_toggle(t: int, trace: Trace) -> bool:
    """Whether the top bit toggles within the next tick."""
    ticks = t * trace.meta["hz"] // 10**9
    return (ticks + 1) % TOGGLE == 0


def _values(trace: Trace, answers: Answers) -> Iterator[Difference]:
    base = trace.meta["pmbase"]
    for at, (operation, ours) in enumerate(zip(trace.operations, answers.values, strict=True)):
        if operation.kind == "read" and operation.address >= base and operation.answer != ours:
            kind, cause = f"read of {_register(operation, base)}", _cause(operation, trace, ours)
            yield Difference(at, kind, operation.answer, ours, cause)


def _edges(trace: Trace, answers: Answers) -> Iterator[Difference]:
    line, tick = trace.meta["irq"], -(-(10**9) // trace.meta["hz"])
    theirs = [edge for edge in trace.edges if edge.line == line]
    ours = [edge for edge in answers.edges if edge.line == line]
    for edge, side in match_edges(theirs, ours, tick, lambda edge: False):
        yield Difference.of_edge(edge, side)


def _first_clearing(trace: Trace) -> int:
    """The operation that first writes 1 to TMR_STS."""
    base = trace.meta["pmbase"]
    clearing = (
        at
        for at, operation in enumerate(trace.operations)
        if operation.kind == "write" and operation.address == base and operation.value & 1
    )
    return next(clearing, len(trace.operations))


def compare(trace: Trace, answers: Answers) -> list[Difference]:
    """Every difference beyond the allowances: edges may differ by a tick, nothing else."""
    cleared = _first_clearing(trace)
    found = [*_values(trace, answers), *_edges(trace, answers)]
    return [
        replace(each, cause="TMR_STS is set out of reset")
        if each.at <= cleared and each.cause == UNEXPLAINED
        else each
        for each in found
    ]
