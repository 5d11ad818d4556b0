"""Which calls become part of their caller."""

from __future__ import annotations

from collections import Counter

from devc.compiler.inlining import HOT, SMALL, Inlining

LARGE = SMALL + 1


def inlining(
    weights: dict[str, int],
    calls: dict[str, dict[str, int]],
    apart: tuple[str, ...] = (),
    hot: tuple[str, ...] = (),
    exported: tuple[str, ...] = (),
) -> Inlining:
    counted = {name: Counter(callees) for name, callees in calls.items()}
    return Inlining(weights, counted, frozenset(apart), hot, frozenset(exported))


def test_a_function_called_once_becomes_part_of_its_caller_however_large() -> None:
    found = inlining({"f": 10 * HOT, "g": 1}, {"g": {"f": 1}})
    assert found.takes("g", "f")


def test_an_exported_function_called_once_stays_a_call_unless_it_is_small() -> None:
    weights, calls = {"f": LARGE, "s": SMALL, "g": 1}, {"g": {"f": 1, "s": 1}}
    found = inlining(weights, calls, exported=("f", "s"))
    assert not found.takes("g", "f")
    assert found.takes("g", "s")


def test_a_large_function_called_twice_becomes_part_only_of_what_a_guest_waits_for() -> None:
    weights = {"f": LARGE, "helper": 1, "read": 1, "write": 1}
    calls = {"helper": {"f": 1}, "read": {"helper": 1}, "write": {"f": 1}}
    found = inlining(weights, calls, hot=("read",))
    assert found.takes("helper", "f")
    assert not found.takes("write", "f")


def test_what_a_callee_takes_in_counts_as_its_own_weight() -> None:
    weights = {"f": HOT, "g": 1, "read": 1, "other": 1}
    calls = {"g": {"f": 1}, "read": {"g": 1}, "other": {"g": 1}}
    found = inlining(weights, calls, hot=("read",))
    assert found.takes("g", "f")
    assert not found.takes("read", "g")


def test_a_rare_function_stays_apart_and_what_it_calls_is_not_hot() -> None:
    weights = {"f": LARGE, "rare": 1, "read": 1, "write": 1}
    calls = {"rare": {"f": 1}, "read": {"rare": 1}, "write": {"f": 1}}
    found = inlining(weights, calls, apart=("rare",), hot=("read",))
    assert not found.takes("read", "rare")
    assert not found.takes("rare", "f")
