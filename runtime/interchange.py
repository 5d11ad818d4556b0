"""`struct kvm_pit_state2` in and out: a PIT moves between KVM's in-kernel model and ours.

    data = pit_state2(instance, now, offset)        # for KVM_SET_PIT2
    load_pit_state2(instance, now, data, offset)    # from KVM_GET_PIT2, with kernel=True

docs/state.md has the correspondence, and what either side cannot say. The
struct is from the kernel's ABI (linux/kvm.h): three channels of 24 bytes,
flags, 36 reserved bytes.

Non-goals: the ioctls; lines (the machine restarts them, as after a restore).
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

from ..compiler.image import replaced
from ..compiler.ir import NEVER, SECOND
from .instance import Instance

SIZE = 112
HPET_LEGACY, SPEAKER_DATA_ON = 1, 2
"""Flags: the HPET drives the timer interrupt; port 0x61's speaker data bit."""

POWER_ON = 0xFF
"""The mode of a channel that was never programmed, in KVM."""

_CHANNEL = struct.Struct("<IH10Bq")
_TAIL = struct.Struct("<I36s")
_LSB, _MSB, _WORD, _HIGH = 1, 2, 3, 4
"""KVM's RW_STATE_: the byte to come, of a word the low one (3) and the high one (4)."""

_DIGITS = ((0, 1), (4, 10), (8, 100), (12, 1000), (16, 10_000))
_COUNTER = 2**56
_SIGNED = range(-(2**63), 2**63)
_U64 = 2**64 - 1


class InterchangeError(ValueError):
    """A state that cannot be taken over; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Channel:
    """`struct kvm_pit_channel_state`, in its order."""

    count: int
    latched_count: int
    count_latched: int
    status_latched: int
    status: int
    read_state: int
    write_state: int
    write_latch: int
    rw_mode: int
    mode: int
    bcd: int
    gate: int
    count_load_time: int


# --- out -----------------------------------------------------------------------


def pit_state2(instance: Instance, now: int, offset: int = 0, hpet_legacy: bool = False) -> bytes:
    """An i8254's state as of `now` (virtual ns) for KVM_SET_PIT2; the instance settles.

    `offset`: KVM's clock (CLOCK_MONOTONIC, ns) less the virtual one, for
    count_load_time. `hpet_legacy`: whether an HPET drives the interrupt instead.
    """
    _check_device(instance)
    instance.settle(now)
    channels = b"".join(_CHANNEL.pack(*astuple(_channel(instance, n, now, offset))) for n in range(3))
    flags = SPEAKER_DATA_ON * instance.get("port61.speaker") | HPET_LEGACY * hpet_legacy
    return channels + _TAIL.pack(flags, bytes(36))


def _channel(instance: Instance, n: int, now: int, offset: int) -> Channel:
    def get(slot: str) -> int:
        return instance.get(f"channel.{slot}", n)

    access, mode, held = get("access"), _effective(get("m")), get("count_held.full")
    count, elapsed = _counting(instance, n, now)
    phases = (_WORD, _HIGH) if access == _WORD else (access, access)
    # A held count is read through its own flip-flop in KVM, a running one through read_state.
    latched = held * (_MSB if access == _WORD and get("rd") else access)
    return Channel(
        count=_bcd(count) if get("bcd") else count,
        latched_count=get("count_held"),
        count_latched=latched,
        status_latched=get("status_held.full"),
        status=get("status_held"),
        read_state=phases[0] if held else phases[get("rd")],
        write_state=phases[get("wr")],
        write_latch=get("first"),
        rw_mode=access,
        mode=mode,
        bcd=get("bcd"),
        gate=instance.get("port61.gate2") if n == 2 else 1,
        count_load_time=_load_time(elapsed, now, instance.get("hz"), offset),
    )


def _counting(instance: Instance, n: int, now: int) -> tuple[int, int]:
    """The count that counts, or will, and CLKs since its load."""

    def get(slot: str) -> int:
        return instance.get(f"channel.{slot}", n)

    mode, running = _effective(get("m")), get("running")
    pending = get("load") != NEVER or not get("written")
    if pending or (mode in (1, 5) and not running):
        return get("cr"), 0
    passed = now * instance.get("hz") // SECOND - get("t.tick") if get("t.on") else 0
    return get("reload") if running else get("cr"), (get("t.base") + passed) % _COUNTER


def _load_time(elapsed: int, now: int, hz: int, offset: int) -> int:
    """The first ns of the tick `elapsed` ticks ago, on KVM's clock; not 0, which is no time there."""
    start = now * hz // SECOND - elapsed
    instant = -(-start * SECOND // hz) + offset
    if instant not in _SIGNED:
        raise InterchangeError(
            f"the load time {instant} ns is beyond what KVM's struct holds; mend the offset"
        )
    return instant or 1


def _effective(m: int) -> int:
    """ "X is don't care": modes 6 and 7 are 2 and 3."""
    return m - 4 if m > 5 else m


def _bcd(count: int) -> int:
    """KVM keeps a BCD count raw, as it was written; 10000 is 0, which it keeps as 0x10000."""
    return int(str(min(count, 10_000)), 16)


# --- in ------------------------------------------------------------------------


def load_pit_state2(
    instance: Instance, now: int, data: bytes, offset: int = 0, *, kernel: bool = False
) -> bool:
    """Take over a `struct kvm_pit_state2` at `now` (virtual ns); whether HPET_LEGACY was set in it.

    `offset` as in `pit_state2`. `kernel`: the struct is from KVM_GET_PIT2, in
    which channel 0's count_load_time means nothing; it counts from `now` then,
    as KVM_SET_PIT2 has it. As after a restore, rising edges begin at 0 and a
    machine must restart the device's lines. Raises InterchangeError, and
    changes nothing, unless all of it makes sense.
    """
    _check_device(instance)
    channels, flags = _parse(data)
    starts = [
        now if n == 0 and (kernel or not each.count_load_time) else each.count_load_time - offset
        for n, each in enumerate(channels)
    ]
    values: dict[tuple[str, tuple[int, ...]], int] = {
        ("port61.gate2", ()): channels[2].gate,
        ("port61.speaker", ()): flags >> 1 & 1,
    }
    for n, each in enumerate(channels):
        _check_channel(each, n)
        slots = _slots(each) if each.mode != POWER_ON else _power_on(instance)
        slots |= {"status_held": each.status * each.status_latched, "status_held.full": each.status_latched}
        slots |= _phase(starts[n], now, instance.get("hz"), n)
        values |= {(f"channel.{slot}", (n,)): value for slot, value in slots.items()}
    instance.restore(now, replaced(instance.module, instance.save(now), values))
    return bool(flags & HPET_LEGACY)


def _parse(data: bytes) -> tuple[list[Channel], int]:
    if len(data) != SIZE:
        raise InterchangeError(f"struct kvm_pit_state2 has {SIZE} bytes, this one has {len(data)}")
    channels = [Channel(*_CHANNEL.unpack_from(data, _CHANNEL.size * n)) for n in range(3)]
    flags, reserved = _TAIL.unpack_from(data, 3 * _CHANNEL.size)
    if flags & ~(HPET_LEGACY | SPEAKER_DATA_ON):
        raise InterchangeError(f"flags = {flags:#x}: only HPET_LEGACY (1) and SPEAKER_DATA_ON (2) are known")
    if any(reserved):
        raise InterchangeError("the reserved bytes are not 0")
    return channels, flags


_FIELDS: dict[str, tuple[range, ...]] = {
    "count": (range(1, 65_537),),  # 0 divides: CVE-2015-7513
    "count_latched": (range(_HIGH),),
    "status_latched": (range(2),),
    "rw_mode": (range(_HIGH),),
    "mode": (range(6), range(POWER_ON, POWER_ON + 1)),
    "bcd": (range(2),),
    "gate": (range(2),),
}
_STATES = {0: (0,), _LSB: (_LSB,), _MSB: (_MSB,), _WORD: (_WORD, _HIGH)}
"""By rw_mode (0: never programmed): which byte may be the next one."""


def _check_channel(each: Channel, n: int) -> None:
    for name, allowed in _FIELDS.items():
        value = getattr(each, name)
        if not any(value in part for part in allowed):
            said = " or ".join(f"{part[0]}..{part[-1]}" for part in allowed)
            raise InterchangeError(f"channel {n}: {name} = {value} is outside {said}")
    for name in ("read_state", "write_state"):
        if getattr(each, name) not in _STATES[each.rw_mode]:
            raise InterchangeError(
                f"channel {n}: {name} = {getattr(each, name)} does not go with rw_mode = {each.rw_mode}"
            )
    if each.mode == POWER_ON and each.rw_mode:
        raise InterchangeError(f"channel {n}: mode = 0xff is for a channel without a control word")
    if n != 2 and not each.gate:
        raise InterchangeError(f"channel {n}: its gate is tied high, and this says low")


def _slots(each: Channel) -> dict[str, int]:
    access = each.rw_mode or _LSB  # KVM reads and writes the low byte then
    count = _binary(each.count) if each.bcd else each.count
    if each.mode in (2, 3):
        count = max(count, 2)
    # A count latched before the last control word, which clears it on the chip but not in KVM.
    stale = each.count_latched not in ((_WORD, _MSB) if access == _WORD else (access,))
    held = bool(each.count_latched) and not stale
    high = each.count_latched == _MSB if held else each.read_state == _HIGH
    return {
        "access": access,
        "m": each.mode,
        "bcd": each.bcd,
        "cr": count,
        "reload": count,
        "null": 0,
        "written": 1,
        "running": int(bool(each.gate) or each.mode not in (2, 3)),
        "first": each.write_latch,
        "count_held": each.latched_count if held else 0,
        "count_held.full": int(held),
        "rd": int(high and access == _WORD),
        "wr": int(each.write_state == _HIGH),
        "load": NEVER,
    }


def _power_on(instance: Instance) -> dict[str, int]:
    prefix = "channel."
    slots = (slot for slot in instance.module.slots if slot.name.startswith(prefix) and slot.kind == "state")
    return {slot.name.removeprefix(prefix): slot.reset for slot in slots}


def _phase(start: int, now: int, hz: int, n: int) -> dict[str, int]:
    """The counter's value at `now`, counted from the tick of `start` (virtual ns)."""
    present = (now & _U64) * hz // SECOND
    elapsed = present - start * hz // SECOND
    if not 0 <= elapsed < _COUNTER:
        when = "after the present instant" if elapsed < 0 else "more than 2^56 CLKs ago"
        raise InterchangeError(f"channel {n}: its count was loaded {when}; mend the offset")
    return {"t.base": elapsed, "t.tick": present}


def _binary(raw: int) -> int:
    """The value of a BCD count; digits above 9 count for what they are, as in the device."""
    return sum((raw >> shift & 0xF) * weight for shift, weight in _DIGITS)


def _check_device(instance: Instance) -> None:
    if instance.module.name != "i8254":
        raise InterchangeError(f"this is about the i8254, not about {instance.module.name}")
