"""The devices wired together, engines in lock step, under programs that hypothesis and chance make.

10**4 accesses here; `python -m tests.fuzz` is the long mode.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from devc.runtime import machine
from devc.runtime.policies import Coalescer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fuzz import sabotage
from .fuzz.board import VARIANTS, WIRES, Board, Kind
from .fuzz.campaign import Explorer, replay, shrunk
from .fuzz.lockstep import Broken, Lockstep
from .fuzz.phrases import WEIGHTED, cmos, outb, wr
from .fuzz.programs import Drawn, Op

ACCESSES = 7000
EXAMPLES, PHRASES = 120, 20


# --- no invariant breaks ----------------------------------------------------------


@st.composite
def phrase(draw: Callable[[Any], Any]) -> list[Op]:
    source = Drawn(draw)
    return source.pick(WEIGHTED)(source)


@cache
def power_on(variant: int) -> tuple[Lockstep, bytes]:
    pair = Lockstep(Board(VARIANTS[variant]))
    return pair, pair.native.machine.save()


@given(variant=st.integers(0, len(VARIANTS) - 1), phrases=st.lists(phrase(), max_size=PHRASES))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_program_breaks_an_invariant(variant: int, phrases: list[list[Op]]) -> None:
    pair, image = power_on(variant)
    try:
        pair.begin(image)
        for each in phrases:
            pair.run(each)
    except BaseException:
        power_on.cache_clear()
        raise


def test_thousands_of_random_accesses_break_no_invariant() -> None:
    explorer = Explorer(seed=3)
    finding = explorer.explore(ACCESSES)
    assert finding is None, f"{finding.message}\n{shrunk(Board(VARIANTS[finding.variant]), finding).text}"
    assert sum(counts.accesses for counts in explorer.counts) >= ACCESSES
    assert sum(counts.restores for counts in explorer.counts) > 20
    assert sum(counts.jumps for counts in explorer.counts) > 50


def test_a_run_goes_on_from_where_something_new_was_reached() -> None:
    explorer = Explorer(seed=1, variants=[0])
    assert explorer.explore(400) is None
    entries = explorer.corpora[0]
    assert len(entries) > 3
    assert any(entry.program and entry.program[-1] == ("reload", "both") for entry in entries[1:])
    assert replay(Board(VARIANTS[0]), entries[-1].program) is None


# --- programs that broke one once ---------------------------------------------------

HPET_ON = wr(0x010, 4, 1)

FOUND: dict[str, tuple[int, list[Op]]] = {
    "a 32-bit one-shot wraps often in one jump": (
        0, [wr(0x100, 8, 0x104 | 16 << 9), wr(0x108, 8, 7), HPET_ON, ("probe", 10**12, (500,))],
    ),
    "the rate changes after a jump over many ticks, phase not locked": (
        2, [("step", 17 * 10**9, (500,), "native"), *cmos(10, 0x2F), ("probe", 10**9, ())],
    ),
    "a comparator 2**63 ticks ahead": (2, [HPET_ON, wr(0x108, 8, 2**63 + 5), ("probe", 10**9, ())]),
    "counting starts after 2**63 ns at 1 GHz": (
        2, [("step", 2**63, (), "native"), HPET_ON, wr(0x108, 4, 0), ("deadline", 0)],
    ),
    "days pass over the end of summer time": (
        0, [*cmos(11, 0x56), *cmos(7, 25), *cmos(8, 10), *cmos(11, 0x55),
            ("probe", 405_182_897_512_211, (509,))],
    ),
    "the 108th of February is settled in one go and in parts": (
        2, [*cmos(11, 0xD1), *cmos(7, 168), *cmos(11, 0x51),
            ("step", 517_114_743_252_406, (232,), "reference")],
    ),
    "a reset lowers a line that drives another": (1, [outb(0x43, 0x26), ("reset",)]),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_a_program_that_broke_an_invariant_once_breaks_none(what: str) -> None:
    variant, program = FOUND[what]
    assert replay(Board(VARIANTS[variant]), program) is None


# --- each invariant can break ----------------------------------------------------------

YEAR = 31_556_952 * 10**9
PM_READ = ("read", "io", 0x608, 4)
LATCHED = [outb(0x43, 0x34), outb(0x40, 9), outb(0x40, 0), ("step", 10**6, (), "native"), outb(0x43, 0)]
TICKING = [wr(0x100, 8, 0x4C | 16 << 9), wr(0x108, 8, 5000), wr(0x108, 8, 1000), HPET_ON]

BROKEN: dict[str, tuple[Callable[[], Kind], list[Op], str]] = {
    "the native engine's clock is slower": (
        lambda: sabotage.means("acpi_pm", sabotage.slow_clock, reference=False),
        [("step", 10**9, (), "native"), PM_READ], "same",
    ),
    "the reference engine's clock is slower": (
        lambda: sabotage.means("acpi_pm", sabotage.slow_clock, native=False),
        [("step", 10**9, (), "native"), PM_READ], "same",
    ),
    "instants are rounded down": (lambda: sabotage.means("hpet", sabotage.early), TICKING, "exact"),
    "instants are a nanosecond late": (lambda: sabotage.means("mc146818", sabotage.late), [], "exact"),
    "the status bit is set at the half": (
        lambda: sabotage.says("acpi_pm", "on ticks[top] toggles", "on ticks[top - 1] toggles"), [], "exact",
    ),
    "an interrupt is delivered twice in its tick": (
        lambda: sabotage.says("hpet", "pulse irq[route] by count",
                              "pulse irq[route] by count; pulse irq[route] by count"),
        [*TICKING, ("probe", 10**6, ())], "exact",
    ),
    "a counter is read a tick early": (
        lambda: sabotage.says("hpet", "u64 hot = main:", "u64 hot = wrap(main + 1):"),
        [HPET_ON, ("probe", 1000, ())], "exact",
    ),
    "a deadline stays where it is": (lambda: sabotage.means("acpi_pm", sabotage.due_now), [], "ahead"),
    "a peek has the read's effect": (
        lambda: sabotage.mediated("i8254", sabotage.PeekThatReads),
        [*LATCHED, ("read", "io", 0x40, 1)], "peek",
    ),
    "a peek is not what the read returns": (
        lambda: sabotage.mediated("acpi_pm", sabotage.PeekThatGuesses), [PM_READ], "peek",
    ),
    "an opened accumulator is not saved": (
        lambda: sabotage.means("hpet", sabotage.forgotten("timer.open")),
        [wr(0x100, 8, 0x4C), ("reload", "native")], "restore",
    ),
    "a latched count is not saved": (
        lambda: sabotage.means("i8254", sabotage.forgotten("channel.count_held")),
        [*LATCHED, ("reload", "both")], "restore",
    ),
    "a comparator advances once a settling": (
        lambda: sabotage.says("hpet", "= advance(target, max(1, interval))[top:0]",
                              "= target[62:0] + interval[62:0]"),
        [*TICKING, ("probe", 10**6, (300, 600))], "split",
    ),
    "a clock that was not looked at goes on by one second": (
        lambda: sabotage.says("mc146818", "elif not b.set: go_on(times(32_768))", "elif not b.set: go_on(1)"),
        [("step", 2 * 10**9, (), "native"), ("read", "io", 0x71, 1), ("probe", 10**10, (500,))], "split",
    ),
    "what was missed is caught up one by one": (
        lambda: sabotage.means("acpi_pm", sabotage.settling_one_by_one), [("probe", YEAR, ())], "bounded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_device_breaks_its_invariant(what: str) -> None:
    kind, program, invariant = BROKEN[what]
    broken = replay(Board().with_kind(kind()), program)
    assert broken is not None
    assert broken.invariant == invariant, str(broken)


def test_a_line_that_feeds_itself_back_is_cut_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROPAGATION", 100)
    kind = sabotage.says("hpet", "= pit and not replaced", "= not pit and not replaced")
    broken = replay(
        Board(VARIANTS[0], Board().with_kind(kind).kinds, (*WIRES, ("hpet.irq[2]", "hpet.pit"))), []
    )
    assert isinstance(broken, Broken)
    assert broken.invariant == "wires"


def test_ticks_given_back_without_a_pace_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coalescer, "_earliest", lambda self: 0)
    waiting = [outb(0x43, 0x34), outb(0x40, 0xA9), outb(0x40, 4), ("step", 10**7, (), "native")]
    broken = replay(Board(VARIANTS[1]), [*waiting, ("ack", 0), ("ack", 0)])
    assert isinstance(broken, Broken)
    assert broken.invariant == "ticks"


def test_ticks_that_are_lost_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coalescer, "_fall_due", lambda self, rises, now: setattr(self.ticks, "due", rises))
    broken = replay(Board(VARIANTS[1]), [outb(0x43, 0x36)])
    assert isinstance(broken, Broken)
    assert broken.invariant == "ticks"


def test_chance_finds_a_broken_device_and_makes_its_program_small() -> None:
    kind = sabotage.says("i8254", "drop count_held; drop status_held", "drop status_held")
    kind = Kind(Kind.shipped("i8254").module, kind.module, kind.path)  # the native engine's only
    finding = Explorer(seed=5, kinds=Board().with_kind(kind).kinds, variants=[0]).explore(5000)
    assert finding is not None
    assert finding.invariant == "same"
    small = shrunk(Board().with_kind(kind), finding)
    assert len(small.program) <= 5
    assert replay(Board().with_kind(kind), small.program) is not None


# --- the long mode -----------------------------------------------------------------------


def test_the_long_mode_ends_with_its_figures(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--accesses",
        "150",
        "--seed",
        "2",
        "--jobs",
        "2",
        "--no-kernel",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert "in 2 processes, seed 2: no difference, no broken invariant" in last
    assert int(last.split()[0]) >= 150


def test_a_program_that_was_printed_can_be_run_again(tmp_path: Path) -> None:
    saved = tmp_path / "program.json"
    saved.write_text(
        '{"variant": 1, "program": [["write", "io", 67, 1, 52], ["step", 1000, [500], "native"]]}'
    )
    command = [sys.executable, "-m", "tests.fuzz", "--no-kernel", "--replay", str(saved)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "nothing is broken\n")
