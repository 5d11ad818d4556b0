"""The Python tier: declared reads and writes, and handlers that fail."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from devc.compiler import ir
from devc.runtime.machine import Machine, MachineError
from devc.runtime.python_tier import HandlerFailure

from .fake_device import LEVEL, ODD, FakeType, make, with_python

GOOD = """
class oddity:
    def __init__(self, bias=0):
        self.bias = bias
    def read(self, view, access):
        return view.count + view.odd + self.bias + 0x100 * access.offset
    def write(self, view, access):
        view.odd = access.value

class watcher:
    seen = []
    def changed(self, view):
        watcher.seen.append((view.now, view.device, view.level))
"""


def machine_with(tmp_path: Path, source: str, **options: dict[str, object]) -> Machine:
    (tmp_path / "handlers.py").write_text(dedent(source))
    machine = Machine(make=make)
    machine.add(FakeType(with_python(), tmp_path / "beeper.dev"), python=options)
    return machine


def handler(read: str = "return 0", write: str = "pass", changed: str = "pass") -> str:
    return dedent(f"""
        class oddity:
            kept = None
            def read(self, view, access):
                {read}
            def write(self, view, access):
                {write}
        class watcher:
            def changed(self, view):
                {changed}
    """)


def seen_by_watcher(machine: Machine) -> list[tuple[int, str, int]]:
    tier = machine.devices["beeper"].python
    assert tier is not None
    return tier._handlers[1].server.seen  # type: ignore[attr-defined, no-any-return]


# --- serving ----------------------------------------------------------------


def test_a_handler_serves_the_register_it_is_declared_for(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, GOOD)
    machine.write("io", 0x10 + ODD, 1, 42)
    assert machine.devices["beeper"].instance.get("odd") == 42
    assert machine.read("io", 0x10 + ODD, 1) == 42, "masked to the access's width"
    assert machine.failures == []


def test_an_access_that_python_served_counts_as_heavy(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, GOOD)
    machine.read("io", 0x10 + ODD, 1)
    machine.read("io", 0x10 + LEVEL, 1)
    counts = {key[1]: (c.light, c.heavy) for key, c in machine.statistics.registers.items()}
    assert counts == {"odd": (0, 1), "level": (1, 0)}


def test_options_reach_the_class(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, GOOD, oddity={"bias": 5})
    assert machine.read("io", 0x10 + ODD, 1) == 5


def test_each_byte_of_a_split_access_is_served_by_its_own_tier(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, GOOD)
    machine.write("io", 0x10, 4, 0x002A_0100)
    assert machine.read("io", 0x10, 4) == 0x002A_0100


def test_an_observer_is_told_at_the_start_and_of_each_change_of_what_it_reads(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, GOOD)
    machine.step(10)
    machine.write("io", 0x10 + LEVEL, 1, 1)
    machine.read("io", 0x10 + LEVEL, 1)
    machine.write("io", 0x10 + LEVEL, 1, 1)
    machine.write("io", 0x10, 1, 5)
    machine.step(5000)
    assert seen_by_watcher(machine) == [(0, "beeper", 0), (10, "beeper", 1), (5010, "beeper", 0)]


def test_an_observer_is_told_of_what_a_handler_wrote(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, GOOD.replace("view.odd = access.value", "view.lvl = access.value"))
    edges = []
    machine.wire("beeper.out", lambda level, now: edges.append(level))
    machine.write("io", 0x10 + ODD, 1, 1)
    assert seen_by_watcher(machine)[-1] == (0, "beeper", 1)
    assert edges == [1], "a line follows what a handler writes"


def test_observers_that_trigger_themselves_for_ever_are_cut(tmp_path: Path) -> None:
    source = handler(write="view.lvl = 1", changed="view.odd = (view.odd + 1) % 50")
    module = with_python()
    watcher = replace(module.pythons[1], reads=(("level", "level", ()), ("odd2", "odd", ())))
    (tmp_path / "handlers.py").write_text(source)
    machine = Machine(make=make)
    machine.add(FakeType(replace(module, pythons=(module.pythons[0], watcher)), tmp_path / "beeper.dev"))
    assert machine.statistics.propagation_cut == 1
    machine.read("io", 0x10, 1)


def test_close_lets_a_handler_finish(tmp_path: Path) -> None:
    source = GOOD + "    def close(self, now):\n        watcher.seen.append(now)\n"
    machine = machine_with(tmp_path, source)
    machine.step(99)
    machine.close()
    assert seen_by_watcher(machine)[-1] == 99  # type: ignore[comparison-overlap]


# --- enforcement ------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("return view.level", "oddity must not read 'level'"),
        ("return view['start']", "oddity must not read 'start'.* reads odd, lvl, count; add 'start' to"),
        ("view.count = 1", r"oddity must not write 'count': its declaration \(beeper, line 7\)"),
        ("view.odd = 100", r"odd takes 0\.\.99, not 100"),
        ("view.odd = 'x'", "odd takes an integer, not str"),
        ("view.now = 3", "oddity must not write 'now'"),
        ("return 'x'", "read must return an integer, not str"),
        ("return None", "read must return an integer, not NoneType"),
        ("raise ValueError('no')", "ValueError: no"),
    ],
)
def test_what_is_not_declared_or_allowed_is_refused(tmp_path: Path, statement: str, message: str) -> None:
    machine = machine_with(tmp_path, handler(read=statement))
    assert machine.read("io", 0x10 + ODD, 1) == 0xFF
    (failure,) = machine.failures
    assert re.search(message, str(failure)), str(failure)


def test_a_view_is_good_only_during_its_call(tmp_path: Path) -> None:
    source = handler(read="oddity.kept = view; return 0", write="oddity.kept.odd = 1")
    machine = machine_with(tmp_path, source)
    machine.read("io", 0x10 + ODD, 1)
    machine.write("io", 0x10 + ODD, 1, 1)
    assert "good only during the call" in machine.failures[0].message
    assert machine.devices["beeper"].instance.get("odd") == 0


# --- failing ----------------------------------------------------------------


def test_the_writes_of_a_failed_handler_are_rolled_back(tmp_path: Path) -> None:
    source = handler(write="view.odd = 7; view.lvl = 1; assert view.odd == 7; raise RuntimeError('late')")
    machine = machine_with(tmp_path, source)
    before = dict(machine.devices["beeper"].instance.slots)  # type: ignore[arg-type]
    machine.write("io", 0x10 + ODD, 1, 1)
    assert machine.devices["beeper"].instance.slots == before  # type: ignore[comparison-overlap]
    assert machine.line("beeper.out").level == 0


def test_a_failure_is_reported_once_a_kind_with_device_and_register(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = handler(read="raise KeyError(access.width)", write="raise OSError('full')")
    machine = machine_with(tmp_path, source)
    machine.step(5)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert machine.read("io", 0x10 + ODD, 1) == 0xFF
        machine.write("io", 0x10 + ODD, 1, 1)
    assert [(f.device, f.register, f.handler, f.kind, f.count, f.at) for f in machine.failures] == [
        ("beeper", "odd", "oddity", "KeyError", 3, 5),
        ("beeper", "odd", "oddity", "OSError", 1, 5),
    ]
    assert machine.failures[0].where == "handlers.py:5"
    assert len(caplog.records) == 2
    assert "beeper: the Python handler 'oddity' failed serving odd: OSError: full" in caplog.text


def test_a_handler_that_recurses_for_ever_or_is_absent_fails_like_any_other(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, handler(read="return self.read(view, access)"))
    assert machine.read("io", 0x10 + ODD, 1) == 0xFF
    assert machine.failures[0].kind == "RecursionError"


def test_a_failing_observer_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, handler(changed="raise ValueError(view.level)"))
    machine.write("io", 0x10 + LEVEL, 1, 1)
    (failure,) = machine.failures
    assert (failure.handler, failure.count) == ("watcher", 2)
    assert machine.read("io", 0x10 + LEVEL, 1) == 1


# --- loading ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "there is no such handler file"),
        ("def", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "defines no class oddity, which beeper declares"),
        (GOOD.replace("bias=0", "bias"), "oddity in handlers.py: TypeError"),
        ("class oddity: pass\nclass watcher: pass", "is an? handler and must define `read` or `write`"),
    ],
)
def test_a_handler_file_that_cannot_be_used_is_refused_when_the_device_is_added(
    tmp_path: Path, source: str | None, message: str
) -> None:
    if source is not None:
        (tmp_path / "handlers.py").write_text(source)
    machine = Machine(make=make)
    with pytest.raises(MachineError, match=message):
        machine.add(FakeType(with_python(), tmp_path / "beeper.dev"))
    assert machine.devices == {}
    assert list(machine.windows()) == []


@pytest.mark.parametrize("file", ["../handlers.py", "/handlers.py", "sub/handlers.py"])
def test_a_handler_file_lies_beside_its_device_file(tmp_path: Path, file: str) -> None:
    machine = Machine(make=make)
    with pytest.raises(MachineError, match="give its name only"):
        machine.add(FakeType(with_python(file), tmp_path / "beeper.dev"))


def test_options_for_an_unknown_handler_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no Python handler 'spkr'; it has: oddity, watcher"):
        machine_with(tmp_path, GOOD, spkr={})


def test_a_failure_reads_as_one_sentence() -> None:
    failure = HandlerFailure("rtc", "data", "nvram", "OSError", "disk full", "cmos.py:3", 17)
    assert str(failure).startswith("rtc: the Python handler 'nvram' failed serving data: OSError: disk full")


def test_the_observers_bits_are_the_numbers_of_their_declarations() -> None:
    assert [p.kind for p in with_python().pythons] == ["handler", "observer"]
    assert ir.ATTENTION_WATCH == 8
