"""Programs for KVM_DEV_TYPE_BPF: a test against the patch series' context and its rules of access.

Stock kernels do not know the program types, so the rules of the series' verifier
(kvm_bpf_is_valid_access) are applied here to the instructions, and the programs
run as SYSCALL programs, whose context may have any layout.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from functools import cache
from random import Random

import pytest
from devc.compiler import bpf_compile, bpf_kvm
from devc.compiler.driver import load
from devc.runtime import bpf
from devc.runtime.bpf_object import BpfObject, Loaded
from devc.runtime.instance import NativeInstance

from .bpf_rig import needs_bpf
from .btf_reading import STRUCT, Object, instructions

NAMES = ("i8254", "acpi_pm", "mc146818", "hpet")
EOPNOTSUPP = 95


class Context(ctypes.Structure):
    """`struct bpf_kvm_io_ctx`, include/uapi/linux/bpf.h of the series."""

    _fields_ = [
        ("buf", ctypes.c_uint64),  # __u8 buf[8]
        ("offset", ctypes.c_uint64),
        ("len", ctypes.c_uint32, 8),  # __u8, and 24 bits of padding
        ("padding", ctypes.c_uint32, 24),
        ("vcpu_id", ctypes.c_uint32),
    ]


@cache
def image(name: str) -> bytes:
    device = load(name)
    return bpf_compile.object_code(device.reference_module(), device.source, programs=bpf_kvm.build)


def programs(name: str) -> list[tuple[str, str]]:
    """Section and symbol of each program of a device."""
    return [
        (section, f"{name}_{region.name}_{kind}")
        for region in load(name).module.regions
        for kind, section in (("read", "kvm_io_read"), ("write", "kvm_io_write"))
    ]


def test_the_context_is_the_series() -> None:
    assert ctypes.sizeof(Context) == 24
    assert (Context.buf.offset, Context.offset.offset, Context.vcpu_id.offset) == (0, 8, 20)
    found = Object(image("hpet"))
    members = list(found.leaves(found.type("bpf_kvm_io_ctx", STRUCT).number))
    assert members[:8] == [(f"buf[{i}]", i, 1, False) for i in range(8)]
    assert members[8:] == [("offset", 8, 8, False), ("len", 16, 1, False), ("vcpu_id", 20, 4, False)]


@pytest.mark.parametrize("name", NAMES)
def test_each_region_has_a_read_and_a_write_program(name: str) -> None:
    found = Object(image(name))
    for section in ("kvm_io_read", "kvm_io_write"):
        wanted = {symbol for where, symbol in programs(name) if where == section}
        assert set(found.named(section, "STT_FUNC")) == wanted


def accesses(code: bytes) -> Iterator[tuple[str, int, int]]:
    """Loads and stores through the context (r1 at the start): which, offset, bytes.

    Registers and stack slots that hold it are followed in the order of the code.
    """
    registers, slots = {1}, set()
    for _, opcode, to, source, offset, _ in instructions(code):
        size = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}[opcode & 0x18]
        kind = opcode & 7
        if kind == 1:  # load
            spilled = source == 10 and offset in slots
            if source in registers:
                yield "read", offset, size
            registers.discard(to)
            if spilled:
                registers.add(to)
        elif kind in (2, 3) and to in registers:  # store
            yield "write", offset, size
        elif kind == 3 and to == 10:
            (slots.add if source in registers else slots.discard)(offset)
        elif kind in (4, 7):
            moved = opcode == 0xBF and source in registers
            assert moved or not (to in registers and opcode & 0xF0 != 0xB0), (
                "the context's address is changed"
            )
            registers.discard(to)
            if moved:
                registers.add(to)
        elif opcode == 0x18:
            registers.discard(to)
        elif opcode == 0x85:
            registers -= {1, 2, 3, 4, 5}


def allowed(section: str, what: str, offset: int, size: int) -> bool:
    """The series' kvm_bpf_is_valid_access."""
    if offset % size:
        return False
    if offset == 0:
        return what == ("write" if section == "kvm_io_read" else "read")
    whole = {8: 8, 16: 1, 20: 4}.get(offset)
    return what == "read" and whole is not None and size <= whole


@pytest.mark.parametrize("name", NAMES)
def test_programs_touch_of_the_context_what_the_series_allows(name: str) -> None:
    found = Object(image(name))
    for section, symbol in programs(name):
        place = found.named(section, "STT_FUNC")[symbol]
        code = found.data(section)[place["st_value"] : place["st_value"] + place["st_size"]]
        made = set(accesses(code))
        wanted = {("write" if section == "kvm_io_read" else "read", 0, 8), ("read", 8, 8), ("read", 16, 1)}
        assert made == wanted, symbol
        assert all(allowed(section, *each) for each in made)


class Guest:
    """A device whose regions KVM's bus would serve, loaded as SYSCALL programs."""

    def __init__(self, name: str) -> None:
        self.object = BpfObject(image(name), f"{name}.kvm.bpf.o")
        self.loaded: Loaded = self.object.load()
        self.programs = {symbol: self._program(symbol) for _, symbol in programs(name)}
        self.name = name
        self.state = self.loaded.maps[".data"].mapped()
        self.clock = ctypes.c_uint64.from_buffer(self.loaded.maps[".data.clock"].mapped())

    def _program(self, symbol: str) -> bpf.Program:
        made = self.loaded.linked(symbol)
        return bpf.Program.load(
            made.code, symbol, license=self.object.license, btf=self.loaded.btf,
            functions=made.functions, lines=made.lines,
        )  # fmt: skip

    def run(self, region: str, kind: str, offset: int, length: int, value: int = 0) -> tuple[int, int]:
        """What the program returned, and the transfer buffer."""
        context = Context(buf=value, offset=offset, len=length, vcpu_id=3)
        returned = ctypes.c_int32(self.programs[f"{self.name}_{region}_{kind}"].run(context)).value
        assert (context.offset, context.len, context.vcpu_id) == (offset, length, 3)
        return returned, context.buf

    def close(self) -> None:
        for program in self.programs.values():
            program.close()
        self.loaded.close()


@pytest.fixture
def hpet() -> Iterator[Guest]:
    made = Guest("hpet")
    yield made
    made.close()


@needs_bpf
def test_a_guests_accesses_are_served_as_natively(hpet: Guest) -> None:
    """Registers that no time changes: the counter stands, so that any clock will do."""
    device = load("hpet")
    native, rng = NativeInstance(device.native(), device.module, 0), Random(5)
    for number in range(300):
        offset = 0x100 + 0x20 * rng.randrange(3) + rng.choice((0, 4, 8, 12, 16, 20))
        length, value = rng.choice((1, 2, 4, 4, 8)), rng.getrandbits(64)
        native.write("mmio", number, offset, length, value)
        assert hpet.run("mmio", "write", offset, length, value)[0] == 0
        returned, answer = hpet.run("mmio", "read", offset, length)
        assert (returned, answer) == (0, native.read("mmio", number, offset, length))


@needs_bpf
def test_time_is_the_kernels_clock_and_an_offset() -> None:
    guest, device = Guest("acpi_pm"), load("acpi_pm")
    native = NativeInstance(device.native(), device.module, 0)
    try:
        for origin in (0, -time.monotonic_ns(), 12_345_678_901):
            guest.clock.value = origin % 2**64
            before = (time.monotonic_ns() + origin) % 2**64
            returned, answer = guest.run("io", "read", 8, 4)
            after = (time.monotonic_ns() + origin) % 2**64
            first, last = (native.peek("io", now, 8, 4) for now in (before, after))
            assert returned == 0
            assert (answer - first) % 2**24 <= (last - first) % 2**24
    finally:
        guest.close()


@needs_bpf
def test_a_held_lock_sends_the_access_on_to_user_space(hpet: Guest) -> None:
    lock = next(slot for slot in load("hpet").module.slots if slot.name == "lock")
    held = ctypes.c_uint32.from_buffer(hpet.state, lock.offset)
    held.value = 1
    before = bytes(hpet.state)
    assert hpet.run("mmio", "write", 0x10, 4, 1)[0] == -EOPNOTSUPP
    assert hpet.run("mmio", "read", 0x10, 4, 77) == (-EOPNOTSUPP, 77)
    assert bytes(hpet.state) == before
    held.value = 0
    assert hpet.run("mmio", "write", 0x10, 4, 1)[0] == 0
    assert hpet.run("mmio", "read", 0x10, 4) == (0, 1)


@needs_bpf
def test_an_offset_beyond_every_region_is_not_taken_for_a_small_one(hpet: Guest) -> None:
    assert hpet.run("mmio", "write", 2**32 + 0x10, 4, 1)[0] == -EOPNOTSUPP
    assert hpet.run("mmio", "read", 0x10, 4) == (0, 0)
