"""What the comparisons of all devices share: differences, matching of edges, printing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .golden_traces import Answers, Edge, Trace

UNEXPLAINED = "unexplained"
CONTEXT = 8
"""Operations shown before a difference."""


@dataclass(frozen=True, slots=True)
class Difference:
    """At operation `at`: they said one thing, we another (None: nothing).

    `kind` says what differs and under what circumstances; `cause` is why, as far
    as it is known: what they or we do otherwise.
    """

    at: int
    kind: str
    theirs: int | None
    ours: int | None
    cause: str = UNEXPLAINED

    @classmethod
    def of_edge(cls, edge: Edge, side: str, circumstances: str = "", cause: str = UNEXPLAINED) -> Difference:
        """An edge that only `side` has, "there" or "here"; its instant is the value."""
        kind = f"line {edge.line} {'rises' if edge.level else 'falls'} only {side}{circumstances}"
        theirs, ours = (edge.t, None) if side == "there" else (None, edge.t)
        return cls(edge.at, kind, theirs, ours, cause)


def match_edges(
    theirs: list[Edge], ours: list[Edge], tolerance: int, optional: Callable[[Edge], bool]
) -> Iterator[tuple[Edge, str]]:
    """Edges that only one side has, with that side, "there" or "here".

    Edges of one level match if at most `tolerance` ns apart. A pulse or gap no
    longer than that may be missing altogether: an edge may move by as much, so
    both its edges may fall together. `optional` edges need no match.
    """
    left: list[tuple[Edge, str]] = []
    for level in (0, 1):
        unmatched_there, unmatched_here = pair(
            [e for e in theirs if e.level == level],
            [e for e in ours if e.level == level],
            tolerance,
            tolerance,
        )
        left += [(edge, "there") for edge in unmatched_there]
        left += [(edge, "here") for edge in unmatched_here]
    left.sort(key=lambda found: (found[1], found[0].t))
    at = 0
    while at < len(left):
        edge, side = left[at]
        follower = left[at + 1] if at + 1 < len(left) else None
        if (
            follower is not None
            and follower[1] == side
            and follower[0].level != edge.level
            and follower[0].t - edge.t <= tolerance
        ):
            at += 2
            continue
        if not optional(edge):
            yield edge, side
        at += 1


def pair(theirs: list[Edge], ours: list[Edge], early: int, late: int) -> tuple[list[Edge], list[Edge]]:
    """The edges of each side that find none on the other, where theirs may be `early` ns before
    ours to `late` ns after; both in order of time."""
    only_there, free = [], list(ours)
    only_here: list[Edge] = []
    at = 0
    for edge in theirs:
        while at < len(free) and free[at].t < edge.t - late:
            only_here.append(free[at])
            at += 1
        if at < len(free) and free[at].t - edge.t <= early:
            at += 1
        else:
            only_there.append(edge)
    return only_there, only_here + free[at:]


def explain(trace: Trace, answers: Answers, difference: Difference) -> str:
    """A difference with what was done before it, and the edges of both sides there."""
    lines = [f"{trace.name}: operation {difference.at}: {difference.kind}"]
    lines.append(f"  they: {_show(difference.theirs)}   we: {_show(difference.ours)}")
    for at in range(max(difference.at - CONTEXT, 0), min(difference.at + 2, len(trace.operations))):
        operation = trace.operations[at]
        answer = (
            f" -> they {operation.answer:#x}, we {answers.values[at]:#x}" if operation.kind == "read" else ""
        )
        mark = ">" if at == difference.at else " "
        lines.append(f" {mark} {at:5} t={operation.t} {operation}{answer}")
        lines += [f"         they: {_show_edge(edge)}" for edge in _edges_at(trace.edges, at)]
        lines += [f"         we:   {_show_edge(edge)}" for edge in _edges_at(answers.edges, at)]
    return "\n".join(lines)


def _edges_at(edges: Iterable[Edge], at: int, most: int = 6) -> list[Edge]:
    return [edge for edge in edges if edge.at == at][:most]


def _show(value: int | None) -> str:
    return "nothing" if value is None else f"{value:#x} ({value})"


def _show_edge(edge: Edge) -> str:
    return f"line {edge.line} {'rises' if edge.level else 'falls'} at {edge.t}"


Found = tuple[Trace, Answers, Difference]


def _groups(found: Iterable[Found], key: Callable[[Difference], str]) -> list[tuple[str, list[Found]]]:
    """By key, the largest group first."""
    groups: dict[str, list[Found]] = defaultdict(list)
    for each in found:
        groups[key(each[2])].append(each)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def grouped(found: Iterable[Found], kinds: bool) -> str:
    """Differences by cause, with how many and where the first is; and by kind if asked."""
    lines = []
    for cause, members in _groups(found, lambda difference: difference.cause):
        lines.append(f"{len(members):6}  {cause}\n{_first(members)}")
        if kinds:
            for kind, same in _groups(members, lambda difference: difference.kind):
                lines.append(f"          {len(same):6}  {kind}\n{_first(same, 10)}")
    return "\n".join(lines) if lines else "no difference"


def _first(members: list[Found], indent: int = 0) -> str:
    trace, _, first = members[0]
    return (
        f"{'':{indent}}        first in {trace.name} operation {first.at}: "
        f"they {_show(first.theirs)}, we {_show(first.ours)}"
    )
