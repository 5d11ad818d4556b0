"""`struct kvm_pit_state2` in and out: against itself, against hostile input, and against KVM."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from random import Random

import pytest
from devc.runtime.instance import Instance
from devc.runtime.interchange import (
    SIZE,
    Channel,
    InterchangeError,
    load_pit_state2,
    pit_state2,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from . import kvm_pit
from .engine_pair import Compiled, Pair
from .rig import ENGINES, SECOND, Pit, kind, make

FIELDS = struct.Struct("<IH10Bq")
PLAIN = Channel(1000, 0, 0, 0, 0, 3, 3, 0, 3, 2, 0, 1, 5 * SECOND)
NOW = 6 * SECOND


def packed(*channels: Channel, flags: int = 0, reserved: bytes = bytes(36)) -> bytes:
    rest = [PLAIN] * (3 - len(channels))
    values = [[getattr(c, name) for name in Channel.__slots__] for c in (*channels, *rest)]
    return b"".join(FIELDS.pack(*v) for v in values) + struct.pack("<I", flags) + reserved


def channels(data: bytes) -> list[Channel]:
    return [Channel(*FIELDS.unpack_from(data, 24 * n)) for n in range(3)]


def changed(channel: Channel = PLAIN, /, **fields: int) -> Channel:
    return Channel(**{name: fields.get(name, getattr(channel, name)) for name in Channel.__slots__})


def loaded(engine: str, *given: Channel, now: int = NOW, **options: int) -> Pit:
    """A PIT with this state at `now`; the clock is KVM's."""
    pit = Pit(engine)
    pit.now = now
    load_pit_state2(pit.device, now, packed(*given, **options))  # type: ignore[arg-type]
    return pit


# --- ours to ours -----------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_that_went_out_and_in_again_is_the_same_to_the_tick(engine: str) -> None:
    for seed in range(60 if engine == "native" else 15):
        pit = busy(engine, Random(seed))
        copy = Pit(engine)
        copy.now = pit.now
        offset = Random(seed).randrange(10**15)
        load_pit_state2(copy.device, pit.now, pit_state2(pit.device, pit.now, offset), offset)
        for step in (0, 1, 3, 500, 70_000):
            pit.wait(step)
            copy.now = pit.now
            assert visible(copy) == visible(pit), f"seed {seed}"


def busy(engine: str, rng: Random) -> Pit:
    """Counters that count, with latches and flip-flops anywhere; no load is pending."""
    pit = Pit(engine)
    pit.gate2(1)
    for channel in range(3):
        mode, access, bcd = rng.choice((0, 2, 3, 4)), rng.randint(1, 3), rng.randint(0, 1)
        pit.control(channel, mode, access, bcd)
        for _ in range(2 if access == 3 else 1):
            pit.outb(0x40 + channel, int(f"{rng.randint(1, 99):02}", 16))
    pit.wait(rng.randrange(1, 5000))
    pit.outb(0x61, 1 | rng.randint(0, 1) << 1)
    for _ in range(rng.randint(0, 8)):
        channel = rng.randrange(3)
        rng.choice((lambda: pit.latch(channel), lambda: pit.inb(0x40 + channel)))()  # noqa: B023
        if rng.random() < 0.3:
            pit.read_back(channel, status=True)
        pit.wait(rng.randrange(40))
    if rng.random() < 0.3:
        pit.outb(0x61, 0)
    pit.wait(rng.randrange(3000))
    return pit


def visible(pit: Pit) -> list[int]:
    """What a guest can find out of all counters, nothing changed."""
    before = pit.device.save(pit.now)
    found = [pit.inb(0x61) & 0x2F, pit.line()]
    for channel in range(3):
        found += [pit.inb(0x40 + channel) for _ in range(5)]
        found += [pit.status(channel), pit.count(channel)]
    pit.device.restore(pit.now, before)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_struct_says_what_the_device_holds(engine: str) -> None:
    pit = Pit(engine)
    pit.gate2(1)
    pit.program(2, 3, 4321)
    pit.wait(11)
    pit.latch(2)
    pit.inb(0x42)
    pit.outb(0x42, 0x77)
    pit.read_back(2, status=True)
    channel = channels(pit_state2(pit.device, pit.now, offset=10**12))[2]
    start = pit.ns(1001) + 10**12
    held = 4320 - 2 * 10
    assert channel == Channel(4321, held, 2, 1, 0xB6, 3, 4, 0x77, 3, 3, 0, 1, start)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bcd_count_is_raw_in_the_struct(engine: str) -> None:
    pit = Pit(engine)
    pit.program(0, 2, 0x1234, bcd=1)
    pit.program(1, 2, 0, bcd=1)
    pit.wait(5)
    one, two, three = channels(pit_state2(pit.device, pit.now))
    assert (one.count, one.bcd, two.count) == (0x1234, 1, 0x10000)
    copy = loaded(engine, one, two, three, now=pit.now)
    assert [copy.device.get("channel.cr", n) for n in range(2)] == [1234, 10_000]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pending_load_goes_out_as_if_it_had_happened(engine: str) -> None:
    pit = Pit(engine)
    pit.program(0, 2, 5000)
    pit.wait(100)
    pit.outb(0x40, 0x10)
    pit.outb(0x40, 0x27)
    channel = channels(pit_state2(pit.device, pit.now))[0]
    assert (channel.count, channel.count_load_time) == (10_000, pit.now)


def test_flags_carry_the_speaker_bit_and_the_hpet_s_legacy_routing() -> None:
    pit = Pit("native")
    pit.outb(0x61, 2)
    data = pit_state2(pit.device, pit.now, hpet_legacy=True)
    assert struct.unpack_from("<I", data, 72)[0] == 3
    copy = Pit("native")
    assert load_pit_state2(copy.device, pit.now, data) is True
    assert copy.inb(0x61) & 3 == 2
    assert load_pit_state2(copy.device, pit.now, pit_state2(copy.device, pit.now)) is False


def test_a_load_time_beyond_the_struct_is_refused() -> None:
    pit = Pit("native")
    with pytest.raises(InterchangeError, match="beyond what KVM's struct holds"):
        pit_state2(pit.device, pit.now, 2**63)


def test_another_device_is_refused() -> None:
    timer = make("acpi_pm", "native")
    for call in (lambda: pit_state2(timer, 0), lambda: load_pit_state2(timer, 0, packed())):
        with pytest.raises(InterchangeError, match="about the i8254, not about acpi_pm"):
            call()


# --- in, and what is refused ------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_running_counter_goes_on_from_its_load_time(engine: str) -> None:
    pit = loaded(engine, changed(count=10_000, count_load_time=NOW - 1_000_000))
    passed = pit.tick - (NOW - 1_000_000) * pit.hz // SECOND
    assert pit.count(0) == 10_000 - passed
    assert pit.run_to_deadline() == pit.device.get("channel.t.tick", 0) - passed + 9_999


@pytest.mark.parametrize("engine", ENGINES)
def test_of_the_kernel_s_struct_channel_0_starts_anew(engine: str) -> None:
    """Its phase is in a timer of KVM's that the struct does not show: a pending one-shot is not lost."""
    one_shot = changed(count=1000, mode=0, count_load_time=1)
    pit = Pit(engine)
    pit.now = NOW
    load_pit_state2(pit.device, NOW, packed(one_shot, one_shot), kernel=True)
    assert (pit.line(), pit.count(0)) == (0, 1000)
    assert pit.status(1) >> 7 == 1
    pit.wait(1000)
    assert pit.line() == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_channel_that_was_never_programmed_stands_as_after_power_on(engine: str) -> None:
    fresh = Channel(65_536, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0, 1, 0)
    pit = loaded(engine, fresh, fresh, changed(fresh, gate=0))
    never = Pit(engine)
    assert [pit.status(n) for n in range(3)] == [never.status(n) for n in range(3)]
    assert pit.device.deadline == 2**64 - 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_closed_gate_stops_the_counter(engine: str) -> None:
    for mode in (0, 2, 3):
        pit = loaded(engine, PLAIN, PLAIN, changed(mode=mode, gate=0, count=60_000))
        before = pit.count(2)
        pit.wait(50)
        assert pit.count(2) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_latch_from_before_the_control_word_is_dropped(engine: str) -> None:
    """KVM keeps it over a control word; on the chip the control word clears it."""
    pit = loaded(
        engine, changed(rw_mode=1, read_state=1, write_state=1, count_latched=3, latched_count=0xABCD)
    )
    assert pit.device.get("channel.count_held.full", 0) == 0


REFUSED = {
    "short": (b"", "has 112 bytes, this one has 0"),
    "long": (packed() + b"\0", "has 112 bytes, this one has 113"),
    "flags": (packed(flags=4), "flags = 0x4"),
    "reserved": (packed(reserved=bytes(35) + b"\1"), "reserved bytes are not 0"),
    "count 0": (packed(changed(count=0)), "channel 0: count = 0 is outside 1..65536"),
    "count": (packed(PLAIN, changed(count=65_537)), "channel 1: count = 65537"),
    "count_latched": (packed(changed(count_latched=4)), "count_latched = 4 is outside 0..3"),
    "status_latched": (packed(changed(status_latched=2)), "status_latched = 2"),
    "rw_mode": (packed(changed(rw_mode=4)), "rw_mode = 4 is outside 0..3"),
    "read_state": (packed(changed(read_state=5)), "read_state = 5 does not go with rw_mode = 3"),
    "write_state": (packed(changed(write_state=2)), "write_state = 2 does not go with rw_mode = 3"),
    "lsb with a word's state": (packed(changed(rw_mode=1, write_state=1)), "read_state = 3 does not go"),
    "mode": (packed(changed(mode=6)), r"mode = 6 is outside 0\.\.5 or 255\.\.255"),
    "power-on mode": (packed(changed(mode=0xFF)), "without a control word"),
    "bcd": (packed(changed(bcd=2)), "bcd = 2"),
    "gate": (packed(PLAIN, PLAIN, changed(gate=2)), "gate = 2"),
    "gate 0 low": (packed(changed(gate=0)), "channel 0: its gate is tied high"),
    "future": (packed(changed(count_load_time=NOW + 1000)), "loaded after the present instant"),
    "far future": (packed(changed(count_load_time=2**63 - 1)), "loaded after the present instant"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_struct_is_refused_whole(engine: str, data: bytes, message: str) -> None:
    pit = Pit(engine)
    pit.program(0, 2, 1000)
    pit.now = NOW
    pit.device.settle(NOW)
    before = pit.device.state
    with pytest.raises(InterchangeError, match=message):
        load_pit_state2(pit.device, NOW, data)
    assert pit.device.state == before


def test_a_load_time_so_old_that_the_counter_overflows_is_refused() -> None:
    pit = make("i8254", "native", hz=1_000_000_000)
    with pytest.raises(InterchangeError, match=r"more than 2\^56 CLKs ago"):
        load_pit_state2(pit, NOW, packed(changed(count_load_time=-(2**63))))


@given(st.binary(min_size=SIZE - 36, max_size=SIZE - 36), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_random_bytes_never_do_worse_than_be_refused(data: bytes, now: int) -> None:
    after_hostile(data + bytes(36), now)


@pytest.mark.parametrize("value", [0, 1, 4, 0x7F, 0xFF])
def test_every_byte_of_a_struct_may_be_hostile(value: int) -> None:
    word = changed(count_latched=3, status_latched=1, count_load_time=5 * SECOND)
    whole = packed(word, changed(bcd=1, mode=3, count=0x9999), changed(mode=5))
    accepted = sum(after_hostile(whole[:at] + bytes((value,)) + whole[at + 1 :], NOW) for at in range(SIZE))
    assert 10 < accepted < SIZE


PIT = Compiled(kind("i8254").reference_module())


def after_hostile(data: bytes, now: int) -> bool:
    """Whether it was accepted; both engines agree, and the checked one finds all in its range after it."""
    pair = PIT.pair(0)
    outcomes = {_load(instance, now, data) for instance in (pair.reference, pair.native)}
    assert len(outcomes) == 1
    pair.compare()
    if not (accepted := outcomes.pop()):
        return False
    rng = Random(len(data) + now)
    poke(pair, rng, now)
    return accepted


def _load(instance: Instance, now: int, data: bytes) -> bool:
    before = instance.state
    try:
        load_pit_state2(instance, now, data)
    except InterchangeError:
        assert instance.state == before
        return False
    return True


def poke(pair: Pair, rng: Random, now: int) -> None:
    for _ in range(12):
        now += rng.choice((0, 1, 900, 10**6, 10**9))
        pair.call("settle", now)
        pair.call("write", "pit", now, rng.randrange(4), 1, rng.randrange(256))
        pair.call("read", "pit", now, rng.randrange(4), 1)
        pair.call("write", "b", now, 0, 1, rng.randrange(4))


# --- KVM's own --------------------------------------------------------------

needs_kvm = pytest.mark.skipif(bool(kvm_pit.missing()), reason=kvm_pit.missing() or "KVM is here")


@pytest.fixture
def kernel() -> Iterator[kvm_pit.KernelPit]:
    pit = kvm_pit.KernelPit()
    yield pit
    pit.close()


def monotonic() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def into_kernel(kernel: kvm_pit.KernelPit, pit: Pit) -> None:
    kernel.state = pit_state2(pit.device, pit.now, monotonic() - pit.now)


def out_of_kernel(kernel: kvm_pit.KernelPit, engine: str = "native") -> Pit:
    """Our PIT with the state of KVM's; our clock is KVM's."""
    pit = Pit(engine)
    state = kernel.state
    pit.now = monotonic()
    load_pit_state2(pit.device, pit.now, state, kernel=True)
    return pit


@needs_kvm
def test_kvm_gives_back_what_it_was_given(kernel: kvm_pit.KernelPit) -> None:
    """All but the load times of channels 1 and 2, which it sets itself."""
    for seed in range(30):
        pit = busy("native", Random(seed))
        before = monotonic()
        data = pit_state2(pit.device, pit.now, before - pit.now)
        kernel.state = data
        back = kernel.state
        for n, (given_, found) in enumerate(zip(channels(data), channels(back), strict=True)):
            assert changed(found, count_load_time=0) == changed(given_, count_load_time=0), (seed, n)
            if n:
                assert before <= found.count_load_time <= monotonic()
            else:
                assert found.count_load_time == given_.count_load_time
        assert back[72:] == data[72:]


LATCHED = [(0x40 + n, None) for n in range(3) for _ in range(2)]


@needs_kvm
def test_a_guest_in_kvm_reads_the_latches_that_ours_held(kernel: kvm_pit.KernelPit) -> None:
    """Word access, all three counts and states latched; some read half way."""
    for seed in range(12):
        rng = Random(seed)
        pit = Pit("native")
        for channel in range(3):
            pit.program(channel, rng.choice((0, 2, 4)), rng.randint(2, 65_535))
        pit.wait(rng.randrange(2000))
        pit.read_back(0, 1, 2, count=True)
        for channel in range(3):
            if rng.random() < 0.4:
                pit.inb(0x40 + channel)
        pit.read_back(0, 1, 2, status=True)
        into_kernel(kernel, pit)
        half = [pit.device.get("channel.rd", n) for n in range(3)]
        reads = [(0x40 + n, None) for n in range(3) for _ in range(3 - half[n])]
        assert kernel.run(reads) == [pit.inb(port) for port, _ in reads], f"seed {seed}"


@needs_kvm
def test_a_guest_in_kvm_goes_on_writing_where_ours_stopped(kernel: kvm_pit.KernelPit) -> None:
    """The low byte was written here, the high one there: one count."""
    pit = Pit("native")
    pit.control(2, 2)
    pit.outb(0x42, 0x34)
    into_kernel(kernel, pit)
    kernel.run([(0x42, 0x12)])
    assert channels(kernel.state)[2].count == 0x1234


@needs_kvm
@pytest.mark.parametrize("engine", ENGINES)
def test_ours_goes_on_where_a_guest_in_kvm_stopped(kernel: kvm_pit.KernelPit, engine: str) -> None:
    """Latches and flip-flops as it left them, byte for byte."""
    rng = Random(3)
    for _ in range(8):
        guest: list[tuple[int, int | None]] = [(0x61, 1 | rng.randint(0, 1) << 1)]
        for n in range(3):
            guest += [(0x43, n << 6 | 0x30 | rng.choice((0, 2, 3, 4)) << 1)]
            guest += [(0x40 + n, rng.randrange(256)), (0x40 + n, rng.randrange(1, 256))]
        guest += [(0x43, 0xC0 | rng.randrange(16) << 1)]  # counts and states of some
        guest += [(0x40 + n, None) for n in range(3) if rng.random() < 0.4]
        kernel.run(guest)
        given_ = channels(kernel.state)
        pit = out_of_kernel(kernel, engine)
        for n, channel in enumerate(given_):
            if not channel.count_latched and not channel.status_latched:
                continue  # what it reads is a count that runs on
            first = bool(channel.status_latched) + {0: 0, 2: 1, 3: 2}[channel.count_latched]
            reads: list[tuple[int, int | None]] = [(0x40 + n, None)] * first
            assert [pit.inb(port) for port, _ in reads] == kernel.run(reads)
        assert pit.inb(0x61) & 3 == kernel.run([(0x61, None)])[0] & 3


@needs_kvm
def test_a_counter_taken_over_from_kvm_reads_as_it_would_have(kernel: kvm_pit.KernelPit) -> None:
    """1193181 Hz there, 1193182 Hz here: the same within the time that the guest takes to read."""
    for mode in (2, 3):
        kernel.run([(0x61, 1), (0x43, 0xB0 | mode << 1), (0x42, 0), (0x42, 0)])
        pit = out_of_kernel(kernel)
        before = monotonic()
        low, high = kernel.run([(0x43, 0x80), (0x42, None), (0x42, None)])
        after = monotonic()
        readings = []
        for pit.now in (before, after):
            readings.append(pit.count(2) or 65_536)
        newest, oldest = readings[1] - 2, readings[0] + 2
        found = low | high << 8
        assert newest <= found <= oldest or newest > oldest, (mode, found, readings)
