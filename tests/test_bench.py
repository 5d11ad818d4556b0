"""The benchmark's own logic: pairing, intervals, what is compared, and what comes out. Nothing of time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from devc.bench import compile_time, guests, handlers, python_handlers, suite, toolchain
from devc.bench.result import (
    Benchmark,
    Disagreement,
    Pairs,
    Report,
    Scale,
    Skipped,
    Unavailable,
    interleave,
    interval,
    matching,
)
from devc.cli.bench import FAILED, INTERRUPTED, USAGE, bench
from devc.runtime.hosts import kvm, unicorn

TINY = Scale(pairs=2, length=0.002)

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")


def fake(name: str, ratio: float, target: float = 1.0, sense: str = "at most") -> Benchmark:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        return Report(benchmark.judge([ratio] * scale.pairs), "1 ns", "2 ns", "none")

    return Benchmark(name, target, sense, "one / the other", run)  # type: ignore[arg-type]


def failing(name: str, error: BaseException) -> Benchmark:
    def run(benchmark: Benchmark, scale: Scale) -> Report:
        raise error

    return Benchmark(name, 1.0, "at most", "one / the other", run)


# --- pairs and intervals ---------------------------------------------------------


def test_samples_alternate_and_each_side_goes_first_in_turn() -> None:
    order: list[str] = []

    def side(name: str, value: float) -> float:
        order.append(name)
        return value

    pairs = interleave(lambda: side("o", 1), lambda: side("t", 2), 4)
    assert "".join(order) == "ottoottoot"
    assert pairs == Pairs((1, 1, 1, 1), (2, 2, 2, 2))


def test_a_ratio_is_ours_to_theirs_and_a_speed_up_the_inverse() -> None:
    pairs = Pairs((1.0, 2.0), (4.0, 4.0))
    assert pairs.ratios() == [0.25, 0.5]
    assert pairs.ratios(inverse=True) == [4.0, 2.0]


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # ranks from the sign test's binomial tables, counted from 1
    [(1, 1, 1), (5, 1, 5), (6, 1, 6), (15, 3, 13), (41, 14, 28), (101, 40, 62)],
)
def test_the_interval_is_that_of_the_sign_test(count: int, low: int, high: int) -> None:
    values = [float(n) for n in range(count, 0, -1)]
    found = interval(values)
    assert low - 1 <= found[0] <= low
    assert high <= found[1] <= high + 1
    assert found[0] - 1 == count - found[1]


def test_one_wild_sample_moves_neither_the_ratio_nor_its_interval() -> None:
    calm = fake("x", 1).judge([1.0 + n / 1000 for n in range(41)])
    wild = fake("x", 1).judge([1.0 + n / 1000 for n in range(40)] + [50.0])
    assert (calm.ratio, calm.high) == (wild.ratio, wild.high)


@pytest.mark.parametrize(
    ("sense", "ratio", "met"),
    [("at most", 1.0, True), ("at most", 1.01, False), ("at least", 1.0, True), ("at least", 0.99, False)],
)
def test_a_target_is_met_on_its_own_side(sense: str, ratio: float, met: bool) -> None:
    result = fake("x", ratio, 1.0, sense).judge([ratio])
    assert result.met is met
    assert result.what == f"one / the other; {sense} 1"


def test_a_result_is_an_object_of_seven_keys() -> None:
    found = fake("x", 1).judge([1.234567, 2.0, 3.0]).as_json()
    assert found == {
        "name": "x", "ratio": 2.0, "low": 1.2346, "high": 3.0, "target": 1.0, "met": False,
        "what": "one / the other; at most 1",
    }  # fmt: skip


def test_only_takes_a_part_of_the_name_in_any_case() -> None:
    assert [b.name for b in matching(suite.BENCHMARKS, "ACPI_pm")]
    assert all("acpi_pm" in b.name for b in matching(suite.BENCHMARKS, "ACPI_pm"))
    assert list(matching(suite.BENCHMARKS, None)) == list(suite.BENCHMARKS)


def test_names_are_unique_and_every_target_of_the_project_is_there() -> None:
    names = [b.name for b in suite.BENCHMARKS]
    assert len(set(names)) == len(names)
    targets = {(b.sense, b.target) for b in suite.BENCHMARKS}
    assert targets >= {
        ("at most", 1.1),
        ("at least", 50),
        ("at most", 1.0),
        ("at most", 1.02),
        ("at least", 10),
    }


# --- the suite and the command ----------------------------------------------------


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[Benchmark]:
    """Benchmarks that take no time, in place of the real ones."""
    chosen: list[Benchmark] = []
    monkeypatch.setattr(suite, "BENCHMARKS", chosen)
    return chosen


def test_what_cannot_run_here_is_shown_with_its_reason_and_left_out_of_the_json(
    stand_ins: list[Benchmark], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins += [
        fake("first", 0.5),
        failing("second", Unavailable("there is no such thing")),
        fake("third", 2),
    ]
    path = tmp_path / "results.json"
    assert bench(path, None, True) == 0
    results = json.loads(path.read_text(encoding="utf-8"))
    assert [(r["name"], r["met"]) for r in results] == [("first", True), ("third", False)]
    shown = capsys.readouterr().out
    assert "second: skipped, there is no such thing" in " ".join(shown.split())


def test_sides_that_differ_are_an_error_and_what_was_measured_is_shown(
    stand_ins: list[Benchmark], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins += [fake("first", 0.5), failing("second", Disagreement("5 is not 6")), fake("third", 2)]
    path = tmp_path / "results.json"
    assert bench(path, None, True) == FAILED
    out, err = capsys.readouterr()
    assert "5 is not 6" in err
    assert "first" in out
    assert [r["name"] for r in json.loads(path.read_text(encoding="utf-8"))] == ["first"]


def test_ctrl_c_shows_what_there_is_and_writes_nothing(
    stand_ins: list[Benchmark], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins += [fake("first", 0.5), failing("second", KeyboardInterrupt()), fake("third", 2)]
    path = tmp_path / "results.json"
    assert bench(path, None, True) == INTERRUPTED
    out, err = capsys.readouterr()
    assert "first" in out
    assert "third" not in out
    assert "interrupted" in err
    assert not path.exists()


def test_a_name_that_no_benchmark_has_lists_those_there_are(
    stand_ins: list[Benchmark], capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.append(fake("only this", 1))
    assert bench(None, "that", True) == USAGE
    assert "only this" in capsys.readouterr().err


def test_json_that_cannot_be_written_is_an_error(
    stand_ins: list[Benchmark], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.append(fake("x", 1))
    assert bench(tmp_path / "no folder" / "x.json", None, True) == FAILED
    assert "No such file" in capsys.readouterr().err


def test_the_suite_tells_of_each_before_it_runs(stand_ins: list[Benchmark]) -> None:
    stand_ins += [fake("a", 1), failing("b", Unavailable("no")), fake("c", 1)]
    told: list[str] = []
    outcomes = list(suite.run(TINY, None, lambda b: told.append(b.name)))
    assert told == ["a", "b", "c"]
    assert outcomes[1] == Skipped("b", "no")


# --- both sides do the same ---------------------------------------------------------


@needs_gcc
@pytest.mark.parametrize("device", handlers.REGIONS)
def test_the_c_twin_answers_random_accesses_as_the_device_does(device: str) -> None:
    for seed in (11, 12):
        handlers.agree(device, 1_500, seed)


@needs_gcc
def test_a_twin_that_answers_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(handlers.PARAMETER, "i8254", handlers.PARAMETER["i8254"] + 1)
    with pytest.raises(Disagreement, match="access"):
        handlers.agree("i8254", 1_500)


@needs_gcc
@pytest.mark.parametrize("benchmark", handlers.BENCHMARKS, ids=lambda b: b.name)
def test_a_native_handler_is_timed_against_c(benchmark: Benchmark) -> None:
    report = benchmark.run(benchmark, TINY)
    assert report.result.name == benchmark.name
    assert 0 < report.result.low <= report.result.ratio <= report.result.high


@pytest.mark.parametrize("subject", python_handlers.SUBJECTS, ids=lambda s: s.workload)
def test_a_python_handler_answers_as_the_device_does(subject: python_handlers.Subject) -> None:
    python_handlers.agree(subject, 500)


def test_a_python_handler_that_answers_otherwise_is_found() -> None:
    right = python_handlers.SUBJECTS[0]
    wrong = python_handlers.Subject(right.workload, python_handlers.PythonNothing)
    with pytest.raises(Disagreement):
        python_handlers.agree(wrong, 50)


@needs_gcc
@pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))
@pytest.mark.parametrize("loop", ["bench_libc_loop", "bench_syscall_loop"])
def test_the_same_guest_runs_to_its_end_in_our_loop_and_in_cs(loop: str) -> None:
    with guests.guest("kvm", guests.PM_TIMER, 4, 20) as guest:
        assert guest.ours() > 0
        assert guest.in_c(guests.exit_loop(loop)) > 0
        assert sum(count.light for count in guest.vmm.counts()) == 20


@pytest.mark.skipif(unicorn.available() is not None, reason=str(unicorn.available()))
def test_the_same_guest_runs_in_unicorn_with_either_callback() -> None:
    benchmark = next(b for b in guests.BENCHMARKS if b.name.startswith("Unicorn"))
    assert benchmark.run(benchmark, TINY).result.ratio > 0


def test_a_compilation_is_timed_in_a_process_of_its_own_and_its_origin_checked() -> None:
    with compile_time.compilations() as made:
        cache = made.fresh_cache()
        cold, cached = made.run(cache, cached=False), made.run(cache, cached=True)
        assert min(cold.wall, cold.cpu, cached.wall, cached.cpu) > 0
        with pytest.raises(Disagreement, match="expected code from the cache"):
            made.run(made.fresh_cache(), cached=True)


def test_without_gcc_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    toolchain.gcc.cache_clear()
    try:
        with pytest.raises(Unavailable, match="no gcc"):
            toolchain.gcc()
    finally:
        toolchain.gcc.cache_clear()


@needs_gcc
def test_c_that_gcc_refuses_is_said_with_its_complaint() -> None:
    with pytest.raises(Unavailable, match=r"gcc refused drive\.c"):
        toolchain.library("drive.c", "-DSTEP", "--no-such-option")
