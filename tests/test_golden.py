"""Our devices answer as the recordings say, and the comparison sees what it must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .golden_compare import COMPARISONS, check, differences
from .golden_report import UNEXPLAINED, Difference, explain, match_edges
from .golden_traces import DEVICES, Answers, Edge, Trace, echo, recorded

TICK = 839
REFERENCE_SEEDS = (1,)
"""Recordings that the reference engine replays too; it is slow and the engines agree elsewhere."""


def names(device: str, profile: str) -> list[str]:
    return [trace.name for trace in recorded(device, profile)]


def find(name: str) -> Trace:
    return next(trace for trace in recorded(name.split("/")[1]) if trace.name == name)


@pytest.mark.parametrize("device", COMPARISONS)
def test_every_common_recording_is_answered_within_the_allowances(device: str) -> None:
    traces = recorded(device, "common")
    assert len(traces) == 8
    for trace in traces:
        check(trace)


@pytest.mark.parametrize("device", COMPARISONS)
def test_the_reference_engine_answers_within_the_allowances(device: str) -> None:
    for trace in recorded(device, "common"):
        if trace.meta["seed"] in REFERENCE_SEEDS:
            check(trace, "reference")


@pytest.mark.parametrize("device", COMPARISONS)
def test_every_difference_from_a_full_recording_has_a_known_cause(device: str) -> None:
    for trace in recorded(device, "full"):
        answers, found = differences(trace)
        unexplained = [difference for difference in found if difference.cause == UNEXPLAINED]
        assert not unexplained, explain(trace, answers, unexplained[0])


# --- the recordings ---------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_the_recordings_are_whole(device: str) -> None:
    traces = recorded(device)
    assert [trace.meta["profile"] for trace in traces] == ["common"] * 8 + ["full"] * 4
    for trace in traces:
        assert len(trace.operations) >= trace.meta["length"]
        ends = [operation.t + operation.ns for operation in trace.operations]
        for edge in trace.edges:
            assert edge.t <= ends[edge.at]


# --- the comparison ---------------------------------------------------------


def answers_of(name: str) -> tuple[Trace, Answers]:
    trace = find(name)
    return trace, echo(trace)


@pytest.mark.parametrize("device", COMPARISONS)
@pytest.mark.parametrize("profile", ["common", "full"])
def test_a_recording_does_not_differ_from_itself(device: str, profile: str) -> None:
    for trace in recorded(device, profile):
        found = COMPARISONS[device](trace, echo(trace))
        if device == "hpet":
            found = [difference for difference in found if not is_second_pulse(trace, difference)]
        assert found == []


def is_second_pulse(trace: Trace, difference: Difference) -> bool:
    """Theirs are allowed, ours are not, so a recording differs from itself in these."""
    line = int(difference.kind.removeprefix("line ").split()[0])
    rises = {edge.t for edge in trace.edges if edge.line == line and edge.level}
    return difference.theirs is None and difference.ours is not None and difference.ours - 10 in rises


def reads(trace: Trace, address: int) -> list[int]:
    return [at for at, o in enumerate(trace.operations) if o.kind == "read" and o.address == address]


def test_a_pm_timer_one_tick_off_is_seen() -> None:
    trace, answers = answers_of("common/pmtimer/1")
    at = reads(trace, 0x608)[10]
    answers.values[at] += 1
    (found,) = COMPARISONS["pmtimer"](trace, answers)
    assert (found.at, found.kind) == (at, "read of timer, 4 bytes")


def count_pairs(trace: Trace, mode: int) -> list[tuple[int, int]]:
    """Operations that read the low and high byte of a count of channel 0, latched in a mode."""
    pairs = []
    current = None
    for at, operation in enumerate(trace.operations[:-2]):
        if operation.kind == "write" and operation.address == 0x43 and operation.value >> 4 in (1, 2, 3):
            current = operation.value >> 1 & 7
        following = trace.operations[at + 1 : at + 3]
        if (
            operation.kind == "write"
            and operation.address == 0x43
            and operation.value == 0
            and current == mode
            and all(o.kind == "read" and o.address == 0x40 for o in following)
        ):
            pairs.append((at + 1, at + 2))
    return pairs


@pytest.mark.parametrize(("mode", "tick"), [(0, 1), (2, 1), (3, 2)])
def test_a_count_may_be_one_tick_off_and_no_more(mode: int, tick: int) -> None:
    trace = next(t for t in recorded("pit", "common") if count_pairs(t, mode))
    low, high = count_pairs(trace, mode)[0]
    count = trace.operations[high].answer << 8 | trace.operations[low].answer
    for offset in range(-3 * tick, 3 * tick + 1):
        answers = echo(trace)
        ours = (count + offset) & 0xFFFF
        answers.values[low], answers.values[high] = ours & 0xFF, ours >> 8
        found = COMPARISONS["pit"](trace, answers)
        assert bool(found) == (offset not in (0, tick, -tick)), (offset, found)


def test_a_status_is_compared_but_for_null_count_and_out_in_mode_2() -> None:
    trace, _ = answers_of("common/pit/3")
    at = next(at for at in reads(trace, 0x40) if trace.operations[at].answer == 0xB6)
    for bit in range(8):
        answers = echo(trace)
        answers.values[at] ^= 1 << bit
        assert bool(COMPARISONS["pit"](trace, answers)) == (bit != 6)


def test_port_0x61_is_compared_but_for_refresh() -> None:
    trace, _ = answers_of("common/pit/3")
    at = reads(trace, 0x61)[0]
    for bit in range(8):
        answers = echo(trace)
        answers.values[at] ^= 1 << bit
        assert bool(COMPARISONS["pit"](trace, answers)) == (bit != 4)


@pytest.mark.parametrize("offset", [-TICK - 1, -TICK, 0, TICK, TICK + 1])
def test_an_edge_may_be_one_tick_off_and_no_more(offset: int) -> None:
    trace, answers = answers_of("common/pit/3")
    at = next(i for i, edge in enumerate(answers.edges) if edge.t == 54925402)
    answers.edges[at] = replace(answers.edges[at], t=54925402 + offset)
    assert bool(COMPARISONS["pit"](trace, answers)) == (abs(offset) > TICK)


def test_a_missing_and_a_superfluous_edge_are_seen() -> None:
    trace, answers = answers_of("common/pit/3")
    at = next(i for i, edge in enumerate(answers.edges) if edge.t == 54925402)
    edge = answers.edges.pop(at)
    (found,) = COMPARISONS["pit"](trace, answers)
    assert found.kind == "line 0 rises only there: mode 3"
    answers.edges[at:at] = [edge, replace(edge, t=edge.t + 5000)]
    (found,) = COMPARISONS["pit"](trace, answers)
    assert found.kind == "line 0 rises only here: mode 3"


def test_only_a_pulse_shorter_than_a_tick_may_be_missing() -> None:
    def pulse(width: int) -> list[Edge]:
        return [Edge(0, 1, 1000, 0), Edge(0, 0, 1000 + width, 0)]

    assert list(match_edges(pulse(TICK), [], TICK, lambda edge: False)) == []
    assert len(list(match_edges(pulse(TICK + 1), [], TICK, lambda edge: False))) == 2
    assert len(list(match_edges([], pulse(TICK)[:1], TICK, lambda edge: False))) == 1
