"""Posted writes and quiet reads: what is said of an access holds when it is served that way.

The shipped devices are driven to random states; a write that may wait is then
made early and late, a quiet read is made on a copy of the spans it depends on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from devc.cli import report
from devc.compiler import ir, traffic_json
from devc.compiler.cache import Cache
from devc.compiler.driver import load
from devc.compiler.elaborate import elaborate
from devc.compiler.traffic import Posted, Quiet, Traffic, traffic
from devc.dsl.diagnostics import Source
from devc.dsl.parser import parse
from devc.runtime.instance import Instance

from .rig import SECOND, kind, make

DEVICES = ("i8254", "acpi_pm", "hpet", "mc146818")
PARAMS = {"hpet": {"fsb": 1, "timers": 32}}
EACH_DEVICE = pytest.mark.parametrize("device", DEVICES)


@cache
def known(device: str) -> Traffic:
    return traffic(kind(device).reference_module())


def of(text: str) -> tuple[ir.Module, Traffic]:
    source = Source("test.dev", text)
    module = elaborate(parse(source), source)[0]
    return module, traffic(module)


def lines(device: str, found: Posted | None) -> list[str] | None:
    """The names of the lines that a posted write may change; None if it may not wait."""
    module = kind(device).reference_module()
    return None if found is None else [module.lines[line].name for line in found.lines]


def bytes_of(found: Quiet | None) -> int:
    """How many bytes of state a quiet read depends on."""
    assert found is not None
    return sum(size for _, size in found.state)


# --- what is said of the shipped devices -----------------------------------------------


def test_the_rtc_s_index_may_wait_where_nobody_sees_the_nmi_mask() -> None:
    assert lines("mc146818", known("mc146818").posted_at("io", 0, 1)) == ["nmi_mask"]


def test_the_rtc_s_upper_index_may_wait_and_its_data_may_not() -> None:
    found = known("mc146818")
    assert lines("mc146818", found.posted_at("io", 2, 1)) == []
    assert found.posted_at("io", 1, 1) is None
    assert found.posted_at("io", 3, 1) is None, "the CMOS file's observer wants to know"


@pytest.mark.parametrize("offset", range(4))
def test_no_write_of_the_pit_may_wait(offset: int) -> None:
    """A latch command and a count both look at the time."""
    assert known("i8254").posted_at("pit", offset, 1) is None


@pytest.mark.parametrize(("offset", "name"), [(0x10, "enable"), (0x20, "status"), (0xF0, "counter")])
def test_no_write_that_moves_the_hpet_s_deadlines_may_wait(offset: int, name: str) -> None:
    assert known("hpet").posted_at("mmio", offset, 8) is None, name
    for timer in range(3):
        assert known("hpet").posted_at("mmio", 0x100 + 32 * timer, 8) is None, "configuration"
        assert known("hpet").posted_at("mmio", 0x108 + 32 * timer, 8) is None, "comparator"


def test_the_hpet_s_message_addresses_may_wait_where_nobody_takes_messages() -> None:
    for timer in (0, 5, 31):
        assert lines("hpet", known("hpet").posted_at("mmio", 0x110 + 32 * timer, 8)) == [f"msi[{timer}]"]


def test_the_pm_timer_is_a_function_of_the_instant_alone() -> None:
    found = known("acpi_pm").quiet_at("io", 8, 4)
    assert found is not None
    assert found.state == ()


def test_the_hpet_s_main_counter_is_quiet_and_depends_on_few_bytes() -> None:
    assert 0 < bytes_of(known("hpet").quiet_at("mmio", 0xF0, 8)) < 64


def test_a_comparator_depends_on_its_own_timer_only() -> None:
    slots = {slot.name: slot for slot in kind("hpet").reference_module().slots}
    target = slots["timer.target"]
    for timer in (0, 7, 31):
        found = known("hpet").quiet_at("mmio", 0x108 + 32 * timer, 8)
        assert found is not None
        assert bytes_of(found) < 64
        at = target.offset + timer * target.dims[0][1]
        assert any(start <= at and at + 8 <= start + size for start, size in found.state)


def test_a_read_that_clears_or_flips_is_not_quiet() -> None:
    assert known("mc146818").quiet_at("io", 1, 1) is None, "register C may be selected"
    assert known("i8254").quiet_at("pit", 0, 1) is None, "low byte, high byte"


def test_the_port_with_the_refresh_toggle_is_quiet_and_depends_on_one_channel() -> None:
    assert 0 < bytes_of(known("i8254").quiet_at("b", 0, 1)) < 48


# --- what is said holds ------------------------------------------------------------------


def accesses(device: str) -> list[tuple[str, int, int]]:
    regions = kind(device).reference_module().regions
    return [(r.name, register.offset, register.width) for r in regions for register in r.registers]


def to_a_random_state(instance: Instance, device: str, rng: random.Random) -> int:
    """The instant at which it is in that state."""
    now, places = 0, accesses(device)
    for _ in range(rng.randrange(25)):
        region, offset, width = rng.choice(places)
        value = rng.choice((0, 1, 2, 3, 0x0A, 0x0B, 0x34, 0x36, 0x8C, 0xFF, rng.getrandbits(8 * width)))
        instance.write(region, now, offset, width, value % 2 ** (8 * width))
        if rng.random() < 0.3:
            instance.read(region, now, offset, width)
        now += rng.choice((0, 1, 500, 10**6, SECOND // 3, 3 * SECOND))
    return now


def two(device: str, seed: int) -> tuple[Instance, Instance, int]:
    """Two instances in the same random state, and the instant."""
    one, other = (make(device, "native", **PARAMS.get(device, {})) for _ in range(2))
    now = to_a_random_state(one, device, random.Random(seed))
    assert to_a_random_state(other, device, random.Random(seed)) == now
    return one, other, now


def places_posted(found: Traffic, rng: random.Random, most: int) -> Iterator[tuple[Posted, int]]:
    for entry in found.posted:
        for offset in rng.sample(entry.offsets, min(most, len(entry.offsets))):
            yield entry, offset


@EACH_DEVICE
def test_a_posted_write_may_be_made_late(device: str) -> None:
    """Whatever falls due meanwhile: the same state, deadlines, and lines but for those named."""
    rng = random.Random(device)
    for entry, offset in (p for _ in range(6) for p in places_posted(known(device), rng, 12)):
        early, late, now = two(device, rng.randrange(10**6))
        value, hidden = rng.getrandbits(8 * entry.width), sum(1 << line for line in entry.lines)
        early.write(entry.region, now, offset, entry.width, value)
        late.settle(now)
        for pause in (0, 10**6, SECOND, 7 * SECOND):
            for instance in (early, late):
                instance.settle(now + pause)
            assert early.deadline == late.deadline, (entry, offset, value)
            assert not (early.lines ^ late.lines) & ~hidden, (entry, offset, value)
        late.write(entry.region, now + 7 * SECOND, offset, entry.width, value)
        assert early.save(now + 7 * SECOND) == late.save(now + 7 * SECOND), (entry, offset, value)
        assert early.lines == late.lines


@EACH_DEVICE
def test_a_quiet_read_changes_nothing_and_needs_no_more_than_its_spans(device: str) -> None:
    rng = random.Random(device)
    module, found = kind(device).reference_module(), known(device)
    template = make(device, "native", **PARAMS.get(device, {})).state
    for entry in (each for _ in range(3) for each in found.quiet):
        offset = rng.choice(entry.offsets)
        instance, scratch, now = two(device, rng.randrange(10**6))
        instance.settle(now)
        before = instance.state
        answer = instance.read(entry.region, now, offset, entry.width)
        assert instance.state == before, (entry, offset)
        image = bytearray(template)
        for at, size in entry.state:
            image[at : at + size] = before[at : at + size]
        image[found.guard : found.guard + 8] = ir.NEVER.to_bytes(8, "little")
        scratch._memory[:] = bytes(image)
        assert scratch.read(entry.region, now, offset, entry.width) == answer, (entry, offset)
        assert scratch.state == bytes(image)
    assert module.slots


# --- small devices -------------------------------------------------------------------------

HEAD = "device d(base: port = 0x100, p: bool = false):\n    line out\n"


def posted(rest: str, offset: int = 0) -> tuple[int, ...] | None:
    found = of(HEAD + rest)[1].posted_at("io", offset, 1)
    return None if found is None else found.lines


def test_a_byte_that_is_only_kept_may_wait() -> None:
    text = "    io at base size 1:\n        reg x @0 u8 rw\n    drive out = false\n"
    assert posted(text) == ()


def test_a_level_that_follows_a_byte_is_named() -> None:
    text = "    io at base size 1:\n        reg x @0 u8 rw\n    drive out = x[3]\n"
    assert posted(text) == (0,)


def test_a_line_that_follows_what_is_only_read_is_not_named() -> None:
    text = (
        "    state n: u8\n    io at base size 2:\n        reg x @0 u8 rw\n"
        "        reg y @1 u8 = n:\n            write v: n = x & v\n    drive out = x[3]\n"
    )
    assert posted(text, 1) == ()


def test_an_edge_of_what_is_written_may_not_wait() -> None:
    text = (
        "    state n: u8\n    io at base size 2:\n        reg x @0 u8: [0] go rw\n        reg y @1 u8 = n\n"
        "    drive out = false\n    on x.go rises: n = wrap(n + 1)\n"
    )
    assert posted(text) is None


def test_what_an_event_writes_may_not_wait() -> None:
    text = (
        "    clock c = 1000 Hz\n    counter t: u8 at c\n    io at base size 1:\n        reg x @0 u8 rw\n"
        "    drive out = false\n    on t reaches 3: x = 0\n"
    )
    assert posted(text) is None


def test_what_an_event_reads_may_not_wait() -> None:
    text = (
        "    clock c = 1000 Hz\n    counter t: u8 at c\n    state n: u8\n"
        "    io at base size 2:\n        reg x @0 u8 rw\n        reg y @1 u8 = n\n"
        "    drive out = n[0]\n    on t reaches 3: n = x\n"
    )
    assert posted(text) is None


def test_a_write_that_looks_at_the_time_may_not_wait() -> None:
    text = (
        "    clock c = 1000 Hz\n    counter t: u8 at c\n    state held: u8\n"
        "    io at base size 1:\n        reg x @0 u8 = held:\n            write v: held = t\n"
        "    drive out = false\n"
    )
    assert posted(text) is None


def test_a_write_that_stores_a_driven_input_may_not_wait() -> None:
    text = (
        "    input pin\n    state seen: bool\n"
        "    io at base size 1:\n        reg x @0 u8 = 1 if seen else 0:\n            write v: seen = pin\n"
        "    drive out = false\n"
    )
    assert posted(text) is None


def test_what_the_machine_reads_through_a_window_of_its_own_may_not_wait() -> None:
    text = (
        "    io at base size 1:\n        reg x @0 u8 rw\n"
        "    host ack size 1:\n        reg y @0 u8 = x\n    drive out = false\n"
    )
    assert posted(text) is None


def test_an_array_of_inputs_that_is_stored_to_as_well_may_not_wait() -> None:
    text = (
        "    input pins[4]\n    state seen: u4\n"
        "    io at base size 1:\n        reg x @0 u8 = seen:\n            write v: seen = pins\n"
        "    drive out = false\n"
    )
    assert posted(text) is None


def test_a_python_register_is_neither_posted_nor_quiet() -> None:
    text = (
        "    io at base size 1:\n        reg x @0 u8:\n"
        "            read python f\n            write python f\n"
        '    drive out = false\n    python "f.py" f:\n        why "a test"\n'
    )
    found = of(HEAD + text)[1]
    assert found.posted_at("io", 0, 1) is None
    assert found.quiet_at("io", 0, 1) is None


def test_what_is_read_through_an_index_may_be_any_of_its_registers() -> None:
    text = (
        "    io at base size 2:\n        reg i @0 u8: [0] sel rw\n        reg d @1 u8 -> b[i.sel]\n"
        "    bank b size 2:\n        reg x @0 u8 rw\n        reg y @1 u8: [0] f ro rclr\n"
        "    drive out = false\n"
    )
    found = of(HEAD + text)[1]
    assert found.quiet_at("io", 1, 1) is None
    assert posted(text, 0) == ()


def test_an_answer_of_parameters_depends_on_no_state() -> None:
    text = "    io at base size 1:\n        reg x @0 u8 = 1 if p else 2\n    drive out = false\n"
    found = of(HEAD + text)[1].quiet_at("io", 0, 1)
    assert found is not None
    assert found.state == ()


def test_nothing_is_known_of_an_access_over_two_registers_or_of_none() -> None:
    text = "    io at base size 4:\n        reg x @0 u8 rw\n        reg y @1 u8 rw\n    drive out = false\n"
    found = of(HEAD + text)[1]
    assert found.posted_at("io", 0, 2) is found.posted_at("io", 3, 1) is None
    assert found.quiet_at("io", 0, 2) is found.quiet_at("other", 0, 1) is None


# --- the report ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "waits", "needs_no_lock"),
    [
        ("i8254", "no write", "port61"),
        ("acpi_pm", "no write", "status, enable, timer (time alone)"),
        ("mc146818", "index (changes nmi_mask), upper_index", "upper_data"),
        (
            "hpet",
            "capabilities, timer[*].message (changes msi[*])",
            "capabilities (time alone), config, status, count, timer[*].config, timer[*].target,"
            " timer[*].message",
        ),
    ],
)
def test_the_report_lists_each_register_and_arrays_once(device: str, waits: str, needs_no_lock: str) -> None:
    module = kind(device).reference_module()
    assert report.traffic(module, known(device)) == [("may wait", waits), ("needs no lock", needs_no_lock)]


def test_the_report_of_a_file_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.report([Path("acpi_pm")]) == 0
    shown = capsys.readouterr().out
    assert "may wait       no write" in shown
    assert "needs no lock  status, enable, timer (time alone)" in shown


# --- the cache -------------------------------------------------------------------------------


@EACH_DEVICE
def test_what_is_known_survives_json(device: str) -> None:
    assert traffic_json.load(traffic_json.dump(known(device))) == known(device)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"[1,0,[],3]", b"[0,0,[],[]]", b'[1,"x",[],[]]', b"[1,0,[[1]],[]]"]
)
def test_what_is_no_such_json_is_taken_for_nothing(content: bytes) -> None:
    assert traffic_json.load(content) is None


def test_it_is_computed_once_and_then_read_without_the_source(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path_factory.mktemp("cache"))
    first = load("acpi_pm", cache).traffic
    monkeypatch.setattr("devc.compiler.driver.traffic", lambda module: pytest.fail("computed again"))
    again = load("acpi_pm", cache).traffic
    assert again == first == known("acpi_pm")
    assert isinstance(again.quiet[0], Quiet)
