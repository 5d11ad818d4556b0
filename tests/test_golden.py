"""Our devices answer as the recordings say, and the comparison sees what it must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from .golden_compare import COMPARISONS, check, differences
from .golden_report import UNEXPLAINED, Difference, explain, match_edges
from .golden_traces import DEVICES, Answers, Edge, Trace, echo, recorded, replay

MANUAL = Path(__file__).parents[1] / "docs" / "qtest.md"
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
        assert not [each.cause for each in found if each.cause not in MANUAL.read_text()], (
            "the manual lists them"
        )


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
    instants = {edge.t for edge in trace.edges if edge.line == line}
    return difference.theirs is None and difference.ours is not None and difference.ours - 10 in instants


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


HPET = 0xFED0_0000


def test_an_hpet_s_counter_one_tick_off_is_seen() -> None:
    trace, answers = answers_of("common/hpet/1")
    for at in reads(trace, HPET + 0xF0)[:5]:
        answers = quiet_echo(trace)
        answers.values[at] += 1
        (found,) = COMPARISONS["hpet"](trace, answers)
        assert (found.at, found.kind) == (at, "read of counter, 4 bytes")


def quiet_echo(trace: Trace) -> Answers:
    """An HPET's recorded answers without its second pulses."""
    answers = echo(trace)
    rises = {(edge.line, edge.t) for edge in answers.edges if edge.level}
    second = {(edge.line, edge.t) for edge in answers.edges if (edge.line, edge.t - 10) in rises}
    answers.edges = [edge for edge in answers.edges if (edge.line, edge.t) not in second]
    return answers


def pulses(answers: Answers) -> list[int]:
    """Where in its edges a recording has a rise with its fall in the same instant."""
    pairs = zip(answers.edges, answers.edges[1:], strict=False)
    return [
        at
        for at, (rise, fall) in enumerate(pairs)
        if rise.level and (rise.line, rise.t) == (fall.line, fall.t)
    ]


@pytest.mark.parametrize("late", [-1, 0, 9, 10])
def test_an_hpet_s_pulse_may_be_9_ns_late_there_and_no_more(late: int) -> None:
    trace, _ = answers_of("common/hpet/1")
    for at in pulses(quiet_echo(trace))[:5]:
        answers = quiet_echo(trace)
        for edge in (at, at + 1):
            answers.edges[edge] = replace(answers.edges[edge], t=answers.edges[edge].t - late)
        assert bool(COMPARISONS["hpet"](trace, answers)) == (late not in (0, 9))


def test_an_hpet_s_missing_or_superfluous_pulse_is_seen() -> None:
    trace, _ = answers_of("common/hpet/2")
    answers = quiet_echo(trace)
    at = pulses(answers)[3]
    gone = [answers.edges.pop(at), answers.edges.pop(at)]
    (found,) = COMPARISONS["hpet"](trace, answers)
    assert found.kind == f"line {gone[0].line} rises only there (pulse)"
    answers.edges[at:at] = [*gone, *(replace(edge, t=edge.t + 10) for edge in gone)]
    (found,) = COMPARISONS["hpet"](trace, answers)
    assert found.kind == f"line {gone[0].line} rises only here (pulse)", "a second pulse is theirs alone"


def test_an_hpet_s_status_bit_may_be_kept_but_not_lost() -> None:
    trace, answers = answers_of("common/hpet/1")
    seen = [at for at in reads(trace, HPET + 0x20) if trace.operations[at].answer]
    for at in seen[:5]:
        answers = quiet_echo(trace)
        answers.values[at] = 0
        assert [found.at for found in COMPARISONS["hpet"](trace, answers)] == [at]


def register_reads(trace: Trace, index: int) -> list[int]:
    """Operations that read an RTC's register."""
    found, selected = [], 0
    for at, operation in enumerate(trace.operations):
        if operation.kind == "write" and operation.address == 0x70:
            selected = operation.value & 0x7F
        elif operation.kind == "read" and operation.address == 0x71 and selected == index:
            found.append(at)
    return found


@pytest.mark.parametrize("index", [0, 2, 4, 6, 7, 8, 9, 0x32, 10, 11])
def test_each_bit_of_an_rtc_s_registers_is_compared(index: int) -> None:
    trace, _ = answers_of("common/rtc/1")
    at = register_reads(trace, index)[-1]
    for bit in range(8):
        answers = echo(trace)
        answers.values[at] ^= 1 << bit
        assert [found.at for found in COMPARISONS["rtc"](trace, answers)] == [at]


def test_an_rtc_s_flags_are_compared_but_for_pf_without_pie() -> None:
    trace, _ = answers_of("common/rtc/1")
    at = next(at for at in register_reads(trace, 12) if trace.operations[at].answer == 0x10)
    seen = []
    for bit in range(4, 8):
        answers = echo(trace)
        answers.values[at] ^= 1 << bit
        seen.append(bool(COMPARISONS["rtc"](trace, answers)))
    assert seen == [True, True, False, True]


def test_an_rtc_s_periodic_flag_must_be_set_once_a_period_has_passed() -> None:
    found = []
    for trace in recorded("rtc", "common"):
        for at in register_reads(trace, 12):
            if trace.operations[at].answer & 0xF0 == 0xC0:
                answers = echo(trace)
                answers.values[at] = 0
                found += COMPARISONS["rtc"](trace, answers)
    assert len(found) > 50


@pytest.mark.parametrize("late", [-1, 0, 2_014_000, 2_100_000])
def test_an_rtc_s_update_may_take_the_chip_s_2_ms_and_no_more(late: int) -> None:
    trace, answers = answers_of("common/rtc/2")
    rises = [at for at, edge in enumerate(answers.edges) if edge.level and not edge.t % 500_000_000]
    for at in rises:
        answers = echo(trace)
        answers.edges[at] = replace(answers.edges[at], t=answers.edges[at].t + late)
        assert bool(COMPARISONS["rtc"](trace, answers)) == (late not in (0, 2_014_000))


def test_the_chip_s_own_update_and_phase_are_within_the_allowances() -> None:
    for trace in recorded("rtc", "common"):
        answers = replay(trace, settings={"update": 65, "locked": 1})
        assert COMPARISONS["rtc"](trace, answers) == []
