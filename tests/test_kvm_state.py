"""Saving a paused guest on KVM and going on with it in another virtual machine."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import pytest
from devc.runtime.assemble import assemble
from devc.runtime.clock import HostClock
from devc.runtime.hosts import HostError, Reason, kvm
from devc.runtime.hosts.start import Start
from devc.runtime.machine import Machine
from devc.runtime.vmm import Vmm

from .kvm_guests import AP_CODE, COUNTS, DONE, MIB, SECOND, START_OTHERS, TICKS

pytestmark = pytest.mark.skipif(kvm.available() is not None, reason=str(kvm.available()))

Made = Callable[..., Vmm]


@pytest.fixture
def make() -> Iterator[Made]:
    made: list[Vmm] = []

    def vmm(**options: object) -> Vmm:
        machine = Machine(HostClock())
        machine.add("i8254")
        made.append(Vmm(machine, "kvm", MIB, **options))  # type: ignore[arg-type]
        made[-1].exit_port()
        if options.get("irqchip") == "kernel":
            made[-1].irq("i8254.irq0", 0)
        return made[-1]

    yield vmm
    for vmm_made in made:
        vmm_made.close()


def moved(old: Vmm, new: Vmm) -> None:
    """Everything from one to the other."""
    host, other = old.kvm, new.kvm
    new.machine.restore(old.machine.save())
    other.memory[:] = host.memory
    other.restore_chip(host.save_chip())
    for number in range(len(host.cpus)):
        other.restore_vcpu(number, host.save_vcpu(number))


@pytest.mark.parametrize("slices", [1, 7])
def test_a_guest_goes_on_in_another_vm_and_no_tick_comes_twice(make: Made, slices: int) -> None:
    vmm = make(irqchip="kernel")
    vmm.host.load(assemble(TICKS.format(ticks=15), 0), 0x10000)
    vmm.host.start(Start("real", 0x10000))
    begin = vmm.machine.now
    for n in range(slices):
        outcome = vmm.run(until=begin + (n + 1) * SECOND // 8 // slices)
        assert outcome.reason is Reason.TIME, str(outcome)
        new = make(irqchip="kernel")
        moved(vmm, new)
        vmm = new
    outcome = vmm.run(until=vmm.machine.now + SECOND)
    assert outcome.reason is Reason.STOPPED, str(outcome)
    # The first edge is that of the mode; then one each 10 ms, or later where we are late.
    assert outcome.now - begin > 139_900_000


def test_every_register_of_two_vcpus_comes_along(make: Made) -> None:
    vmm = make(irqchip="kernel", vcpus=2)
    spin = "1: incl %s\n jmp 1b"
    vmm.host.load(
        assemble(f"xor %ax, %ax\n mov %ax, %ds\n incb {DONE + 1}\n" + spin % (COUNTS + 4), 0), AP_CODE
    )
    vmm.host.load(assemble(START_OTHERS + f"incb {DONE}\n" + spin % COUNTS, 0x10000, 32), 0x10000)
    vmm.host.start(Start("flat32", 0x10000))
    assert vmm.run(until=vmm.machine.now + SECOND // 20).reason is Reason.TIME
    assert vmm.host.read(DONE, 2) == b"\1\1"
    new = make(irqchip="kernel", vcpus=2)
    moved(vmm, new)
    for number in range(2):
        assert new.kvm.registers_of(number) == vmm.kvm.registers_of(number)
        was, now = vmm.kvm.save_vcpu(number), new.kvm.save_vcpu(number)
        # Time goes on, for the time-stamp counter and the timer.
        for name in was.keys() - {"msrs", "lapic"}:
            assert now[name] == was[name], name
    before = new.host.read(COUNTS, 8)
    assert new.run(until=new.machine.now + SECOND // 20).reason is Reason.TIME
    after = new.host.read(COUNTS, 8)
    assert after[:4] != before[:4]
    assert after[4:] != before[4:]


def test_a_halted_guest_with_queued_vectors_wakes_elsewhere(make: Made) -> None:
    vmm = make()
    vmm.host.load(assemble("hlt\n 1: sti\n hlt\n out %al, $0xf4", 0x1000), 0x1000)
    vmm.host.boot(0x1000)
    vmm.kvm.inject(0x30)
    assert vmm.run().reason is Reason.HALTED
    new = make()
    moved(vmm, new)
    assert new.run().reason is Reason.HALTED
    assert new.kvm.save_vcpu(0)["loop"] == bytes([1, 1, 0x30])


BROKEN = [
    ("regs", lambda part: part[:-1], "regs has 143 bytes, not 144"),
    ("lapic", lambda part: part + b"\0", "lapic has 1025 bytes"),
    ("msrs", lambda part: part[:-1], "msrs are"),
    ("msrs", lambda part: b"\xff" * 12, "no MSR 0xffffffff"),
    ("sregs", lambda part: b"\xff" * len(part), "restoring vCPU 0's sregs failed"),
    ("xcrs", lambda part: b"\xff" * len(part), "restoring vCPU 0's xcrs failed"),
    ("events", lambda part: b"\xff" * len(part), "restoring vCPU 0's events failed"),
    ("mp_state", lambda part: b"\xff" * 4, "restoring vCPU 0's mp_state failed"),
    ("loop", lambda part: b"", "loop part does not fit"),
    ("loop", lambda part: b"\0\2\5\5", "loop part does not fit"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BROKEN)
def test_a_vcpu_part_that_does_not_fit_is_named(
    make: Made, name: str, spoil: Callable[[bytes], bytes], message: str
) -> None:
    vmm = make(irqchip="kernel")
    parts = vmm.kvm.save_vcpu(0)
    with pytest.raises(HostError, match=message):
        vmm.kvm.restore_vcpu(0, {**parts, name: spoil(parts[name])})


def test_parts_of_another_kind_of_machine_are_refused(make: Made) -> None:
    with_chip, without = make(irqchip="kernel"), make()
    with pytest.raises(HostError, match="another kind of machine: missing lapic, mp_state, unknown nothing"):
        with_chip.kvm.restore_vcpu(0, without.kvm.save_vcpu(0))
    with pytest.raises(HostError, match="unknown ioapic, pic0, pic1"):
        without.kvm.restore_chip(with_chip.kvm.save_chip())


@pytest.mark.parametrize("seed", range(8))
def test_spoiled_parts_are_refused_or_make_a_guest_that_can_be_stopped(make: Made, seed: int) -> None:
    randomness = random.Random(seed)

    def spoilt(parts: dict[str, bytes]) -> dict[str, bytes]:
        name = randomness.choice(sorted(parts))
        data = bytearray(parts[name])
        for _ in range(randomness.choice([1, 4, 30])):
            data[randomness.randrange(len(data))] = randomness.choice([0, 0xFF, randomness.randrange(256)])
        return {**parts, name: bytes(data)}

    vmm = make(irqchip="kernel", vcpus=2)
    begin = time.monotonic()
    with contextlib.suppress(HostError):
        vmm.kvm.restore_chip(spoilt(vmm.kvm.save_chip()))
        for number in range(2):
            vmm.kvm.restore_vcpu(number, spoilt(vmm.kvm.save_vcpu(number)))
        assert vmm.run(until=vmm.machine.now + SECOND // 50).reason in Reason
    assert time.monotonic() - begin < 5
