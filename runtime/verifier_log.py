"""What the kernel's verifier says, read: figures of an accepted program, the reason for a refusal.

A refusal names an instruction; the loader's own line information says which
line of the device file that came from. (The log quotes lines itself, but only
newer kernels say of which file.)

Non-goals: judging: what the verifier accepts is right by definition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .bpf_object import Linked, Place

_STEP = re.compile(r"^(\d+): (\([0-9a-f]{2}\) .*?)(?:\s+;.*)?$")
_WALK = re.compile(
    r"^(?:from \d+ to \d+|\d+: R\d|\d+: frame|frame\d|R\d+(_\w+)?=|;|mark_precise|func#|Validating"
    r"|caller:|callee:|Func#)"
)
"""Lines that tell how the verifier went, not why it stopped."""
_FIGURE = {
    "microseconds": re.compile(r"^verification time (\d+) usec", re.M),
    "processed": re.compile(r"^processed (\d+) insns", re.M),
    "states": re.compile(r"total_states (\d+)"),
}
_STACK = re.compile(r"^stack depth ([\d+]+)", re.M)
_END = re.compile(r"^(verification time|stack depth|processed) ")


@dataclass(frozen=True, slots=True)
class Figures:
    """What an accepted program cost to verify. `stack`: bytes of the deepest chain of calls."""

    processed: int
    states: int
    microseconds: int
    stack: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a program was refused: the verifier's words, the instruction, and where that came from."""

    reason: str
    index: int | None = None
    instruction: str = ""
    place: Place | None = None


def figures(log: str, calls: tuple[tuple[int, ...], ...] = ()) -> Figures:
    """The totals at the log's end; `calls`: which functions of the program call which, by number."""
    numbers = {}
    for name, pattern in _FIGURE.items():
        found = pattern.search(log)
        numbers[name] = int(found[1]) if found else 0
    return Figures(**numbers, stack=deepest(depths(log), calls))


def depths(log: str) -> list[int]:
    """Each function's stack in bytes, in the order in which they stand in the program."""
    found = _STACK.search(log)
    return [int(each) for each in found[1].split("+")] if found else []


def deepest(stack: list[int], calls: tuple[tuple[int, ...], ...]) -> int:
    """The stack of the deepest chain of calls, bytes; just the sum if the calls are not known."""
    if len(stack) != len(calls):
        return sum(stack)
    known: dict[int, int] = {}

    def depth(function: int, callers: tuple[int, ...]) -> int:
        if function not in known:
            chain = (*callers, function)
            below = [depth(called, chain) for called in calls[function] if called not in chain]
            known[function] = stack[function] + max(below, default=0)
        return known[function]

    return depth(0, ()) if calls else 0


def refusal(log: str, linked: Linked | None = None) -> Refusal:
    """The reason that a log ends with, and the instruction before it."""
    lines = log.rstrip("\0\n ").splitlines()
    while lines and (_END.match(lines[-1]) or not lines[-1].strip()):
        lines.pop()
    said: list[str] = []
    for line in reversed(lines):
        step = _STEP.match(line)
        if step:
            index = int(step[1])
            place = linked.place(index) if linked else None
            return Refusal(_reason(said), index, step[2].strip(), place)
        if not _WALK.match(line.strip()):
            said.insert(0, line.strip())
    return Refusal(_reason(said))


def _reason(said: list[str]) -> str:
    """The verifier's own words: the last lines that are not part of its walk."""
    words = [line for line in said if line]
    return "; ".join(words[-2:]) if words else "the verifier gives no reason"
