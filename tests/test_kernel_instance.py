"""Devices whose accesses the running kernel serves: as native code does, and moving between the two."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from devc.compiler import bpf_kvm, ir
from devc.compiler.bpf_compile import object_code
from devc.compiler.cache import Cache
from devc.compiler.driver import DeviceType, load
from devc.compiler.jit import compile_module
from devc.dsl.diagnostics import Source
from devc.runtime import kernel_instance
from devc.runtime.bpf_object import ObjectError
from devc.runtime.bus import Space
from devc.runtime.calls import (
    BUSY,
    DEADLINE,
    NO_REGION,
    READ,
    SERVED,
    SETTLE,
    USER_SPACE,
    WRITE,
    Call,
    NativeCalls,
    let_go,
    try_hold,
)
from devc.runtime.dispatch import Dispatcher
from devc.runtime.instance import ImageError, NativeInstance
from devc.runtime.kernel_instance import KernelInstance, LockedError, Runner
from devc.runtime.machine import Machine

from . import ir_random
from .bpf_rig import ROOT, needs_bpf
from .engine_pair import Pair, drive, later

LONG = bool(int(os.environ.get("DEVC_LONG", "0")))
NAMES = ("i8254", "acpi_pm", "mc146818", "hpet")

COUNTER = '''device counter(base: port = 0x100):
    """Counts its reads."""

    state hits: u32 = 0

    io at base size 8, gaps zeros:
        reg count @0 u32 "how often it was read":
            read:
                hits = wrap(hits + 1)
                return hits
            write v: hits = v
'''


@cache
def kind(name: str) -> DeviceType:
    if name == "counter":
        return DeviceType(Path("counter.dev"), Source("counter.dev", COUNTER))
    return load(name)


@cache
def image(name: str) -> bytes:
    return kind(name).bpf()


@contextmanager
def in_kernel(name: str, now: int = 0, **params: int) -> Iterator[KernelInstance]:
    made = KernelInstance(kind(name).native(), kind(name).module, image(name), now, **params)
    try:
        yield made
    finally:
        made.close()


def natively(name: str, now: int = 0, **params: int) -> NativeInstance:
    return NativeInstance(kind(name).native(), kind(name).module, now, **params)


def bare(instance: NativeInstance) -> bytes:
    """The state without its lock and version."""
    return instance.state[: ir.LOCK_AT] + instance.state[ir.UNLOCKED_AT :]


# --- the same as native code -------------------------------------------------------------


def random_step(rng: Random, module: ir.Module, now: int) -> tuple[str, tuple[Any, ...]]:
    region = rng.choice(module.regions)
    wild = rng.random() < 0.05
    offset = rng.getrandbits(32) if wild else rng.randrange(region.size + 8)
    width = rng.getrandbits(32) if wild else rng.choice((1, 2, 4, 8))
    value = rng.choice((rng.randrange(256), rng.getrandbits(64)))
    return rng.choice(
        [
            *[("read", (region.name, now, offset, width))] * 4,
            *[("write", (region.name, now, offset, width, value))] * 4,
            ("settle", (now,)), ("next", (now,)), ("peek", (region.name, now, offset, width)),
            ("levels", (now,)), ("commit", (now,)), ("resume", (now,)), ("save", (now,)),
        ]
    )  # fmt: skip


@needs_bpf
@pytest.mark.parametrize("runs", ["kernel", "now and then"])
@pytest.mark.parametrize("name", NAMES)
def test_every_call_is_the_native_twins(name: str, runs: str) -> None:
    """Also where each call is served by whom chance chooses: that is all that moving a device takes."""
    rng, now = Random(7), 0
    with in_kernel(name) as device:
        twin = natively(name)
        for number in range(1200):
            now = later(rng, now, wild=True)
            if runs != "kernel":
                device.runs = rng.choice(("kernel", "native"))
            step, arguments = random_step(rng, device.module, now)
            answers = [getattr(each, step)(*arguments) for each in (device, twin)]
            assert answers[0] == answers[1], f"call {number}, {step}{arguments}, {device.runs}"
            if bare(device) != bare(twin):
                assert device.slots() == twin.slots(), (
                    f"after call {number}, {step}{arguments}, {device.runs}"
                )
        assert device.get("lock") == 0
        assert device.get("version") % 2 == 0


@needs_bpf
@pytest.mark.parametrize("name", NAMES)
def test_every_register_of_the_four_devices_is_served_in_the_kernel(name: str) -> None:
    with in_kernel(name) as device:
        for number, region in enumerate(device.module.regions):
            for register in region.registers:
                for what, program in ((READ, device.programs[READ]), (WRITE, device.programs[WRITE])):
                    call = Call(0, 0, register.offset, register.width, number, what)
                    program.run(call)
                    assert call.status == SERVED, f"{name}: {register.name}"


@needs_bpf
def test_parameters_and_the_instant_of_the_start_are_the_natives() -> None:
    with in_kernel("acpi_pm", 12345, wide=1) as device:
        assert bare(device) == bare(natively("acpi_pm", 12345, wide=1))
        assert device.params["wide"] == 1


@needs_bpf
def test_an_image_goes_from_native_code_into_the_kernel_and_back() -> None:
    first, last = natively("i8254"), natively("i8254")
    first.write("pit", 1000, 3, 1, 0x34)
    first.write("pit", 1000, 0, 1, 0x10)
    first.write("pit", 1000, 0, 1, 0x27)
    with in_kernel("i8254") as device:
        device.restore(50_000, first.save(50_000))
        low = device.read("pit", 60_000, 0, 1)
        last.restore(60_000, device.save(60_000))
    assert first.read("pit", 60_000, 0, 1) == low
    assert last.save(60_000) == first.save(60_000)
    assert last.read("pit", 70_000, 0, 1) == first.read("pit", 70_000, 0, 1)


@needs_bpf
def test_a_bad_image_is_refused_and_changes_nothing() -> None:
    with in_kernel("acpi_pm") as device:
        before = bare(device)
        with pytest.raises(ImageError):
            device.restore(0, b"nonsense")
        assert bare(device) == before
        assert device.get("lock") == 0


@needs_bpf
@pytest.mark.parametrize("other", ["another device", "another layout", "the patch series' shape"])
def test_an_object_that_is_not_the_devices_is_refused(other: str) -> None:
    module = kind("counter").reference_module()
    images = {
        "another device": lambda: image("acpi_pm"),
        "another layout": lambda: object_code(replace(module, version=2), None),
        "the patch series' shape": lambda: object_code(module, None, programs=bpf_kvm.build),
    }
    with pytest.raises(ObjectError, match="compile it anew"):
        KernelInstance(kind("counter").native(), module, images[other](), 0)


class Unlocked(NativeInstance):
    """Its lock and version, which a kernel's twin counts up, do not show."""

    @property
    def state(self) -> bytes:
        state = bytearray(super().state)
        state[ir.LOCK_AT : ir.UNLOCKED_AT] = bytes(ir.UNLOCKED_AT - ir.LOCK_AT)
        return bytes(state)


class UnlockedKernel(Unlocked, KernelInstance):
    pass


@needs_bpf
@pytest.mark.parametrize("seed", range(100) if LONG else (22, 34, 459, 483))
def test_random_modules_are_the_native_twins(seed: int) -> None:
    """Of every operation, with arrays, loops and calls; hundreds of calls with time steps and restores."""
    module, rng = ir_random.make(seed), Random(seed)
    code = compile_module(module, None)
    params = {p.name: ir_random.number(rng, p.type) for p in module.params}
    kernel = UnlockedKernel(code, module, object_code(module, None), 5, **params)
    drive(Pair(Unlocked(code, module, 5, **params), kernel), rng, 300, 5)
    kernel.close()


# --- records ----------------------------------------------------------------------------


def serve(device: KernelInstance, runs: Runner, **fields: int) -> tuple[int, int]:
    device.runs = runs
    call = Call(**fields)
    return device.serve(call), call.value


@needs_bpf
@pytest.mark.parametrize("runs", ["kernel", "native"])
def test_a_record_says_what_to_do_and_gets_the_answer(runs: Runner) -> None:
    with in_kernel("acpi_pm") as device:
        assert serve(device, runs, now=10**9, offset=8, width=4, what=READ) == (SERVED, 3_579_545)
        assert serve(device, runs, now=10**9, what=DEADLINE) == (SERVED, device.next(10**9))
        assert serve(device, runs, now=10**9, what=SETTLE)[0] == SERVED
        assert serve(device, runs, now=10**9, offset=2, width=2, value=1, what=WRITE)[0] == SERVED
        assert serve(device, runs, now=10**9, region=99, what=READ)[0] == NO_REGION
        assert serve(device, runs, now=10**9, region=99, what=WRITE)[0] == NO_REGION
        assert serve(device, runs, now=10**9, what=99)[0] == NO_REGION


@needs_bpf
def test_the_batch_program_serves_many_records_in_one_run() -> None:
    with in_kernel("counter") as device:
        for number in range(10):
            device.calls[number] = Call(now=number, width=4, what=READ)
        assert device.serve_all(10) == 10
        assert [device.calls[number].value for number in range(10)] == list(range(1, 11))
        assert device.serve_all(10, rounds=100) == 1000
        assert device.get("hits") == 1010
        device.calls[4].region = 9
        assert device.serve_all(10) == 4
        assert device.calls[4].status == NO_REGION
        assert device.get("hits") == 1014


@needs_bpf
def test_more_records_than_there_are_is_an_error() -> None:
    with in_kernel("counter") as device, pytest.raises(ValueError, match="257"):
        device.serve_all(257)


@needs_bpf
def test_what_only_python_can_serve_changes_nothing_and_says_so() -> None:
    scratch = load(ROOT / "examples" / "scratch.dev")
    with_kernel = KernelInstance(scratch.native(), scratch.module, scratch.bpf(), 0)
    twin = NativeInstance(scratch.native(), scratch.module, 0)
    call = Call(offset=12, width=4, what=READ)
    with_kernel.programs[READ].run(call)
    assert call.status == USER_SPACE
    assert not with_kernel.attention & ir.ATTENTION_LEAVE
    scratched: dict[str, Any] = {"leave": {}, "version": {}}  # `leave` means nothing without the attention
    assert with_kernel.slots() | scratched == twin.slots() | scratched
    assert with_kernel.read("io", 0, 12, 4) == twin.read("io", 0, 12, 4)
    assert with_kernel.attention & ir.ATTENTION_LEAVE
    assert with_kernel.leave == twin.leave
    with_kernel.write("io", 0, 0, 4, 77)  # a plain register, in the kernel
    assert with_kernel.get("scratch") == 77
    with_kernel.close()


# --- the lock ---------------------------------------------------------------------------


@needs_bpf
def test_a_held_state_is_busy_for_both() -> None:
    with in_kernel("counter") as device:
        assert try_hold(device.address)
        version = device.get("version")
        assert version % 2 == 1
        call = Call(width=4, what=READ)
        device.programs[READ].run(call)
        assert call.status == BUSY
        assert NativeCalls(device.code, device.module, device.address).serve(call) == BUSY
        device.calls[0] = call
        assert device.serve_all(1) == 0
        assert device.calls[0].status == BUSY
        assert (device.get("hits"), device.get("version")) == (0, version)
        let_go(device.address)
        assert device.read("io", 0, 0, 4) == 1


@needs_bpf
def test_a_busy_call_is_tried_again_until_the_lock_is_free() -> None:
    with in_kernel("counter") as device:
        assert try_hold(device.address)
        release = threading.Timer(0.05, let_go, (device.address,))
        release.start()
        assert device.read("io", 0, 0, 4) == 1
        assert device.retries > 0
        release.join()


@needs_bpf
def test_a_lock_that_nobody_gives_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_instance, "PATIENCE", 0.02)
    with in_kernel("counter") as device:
        assert try_hold(device.address)
        for runs in ("kernel", "native"):
            device.runs = runs  # type: ignore[assignment]
            with pytest.raises(LockedError):
                device.read("io", 0, 0, 4)
        with pytest.raises(LockedError):
            device.save(0)
        let_go(device.address)


Served = Callable[[int, int], int]


def hammer(device: KernelInstance, accesses: int) -> tuple[int, int]:
    """As many reads by the kernel as natively, at the same time; how often each side was busy."""
    busy = [0, 0]
    calls = (Call * 64)(*(Call(width=4, what=READ) for _ in range(64)))
    code = NativeCalls(device.code, device.module, device.address)
    for number in range(64):
        device.calls[number] = Call(width=4, what=READ)
    sides: tuple[Served, Served] = (
        device.serve_all,
        lambda count, rounds: code.serve_all(calls, count, rounds),
    )
    together = threading.Barrier(2)

    def work(side: int) -> None:
        left = accesses
        together.wait()
        while left:
            count, rounds = min(left, 64), max(1, min(left // 64, 500))
            done = sides[side](count, rounds)
            left -= done
            busy[side] += done < count * rounds

    threads = [threading.Thread(target=work, args=(side,)) for side in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return busy[0], busy[1]


@needs_bpf
def test_nothing_is_lost_where_both_sides_work_at_once() -> None:
    accesses, busy = 300_000, 0
    with in_kernel("counter") as device:
        for _ in range(60):
            busy += sum(hammer(device, accesses))
            assert device.get("hits") == 2 * accesses
            assert device.get("version") % 2**32 == 4 * accesses
            assert device.get("lock") == 0
            device.reset(0)
            device.set("version", 0)
            if busy > 10_000:  # they have met often enough, on cores that others use, too
                break


@needs_bpf
def test_nothing_is_lost_between_the_trap_dispatcher_and_the_kernel() -> None:
    """A vCPU's loop takes the same lock, so its exits and the kernel's programs may serve one device."""
    accesses = 30_000
    with in_kernel("counter") as device:
        read, write, settle = (
            device.code.symbol(f"counter_{name}") for name in ("io_read", "io_write", "settle")
        )
        dispatcher = Dispatcher()
        dispatcher.add_region("io", 0x100, 8, read, write, device.address)
        dispatcher.add_device(device.address, settle)
        for number in range(64):
            device.calls[number] = Call(width=4, what=READ)
        served = 0
        done = threading.Event()

        def kernel() -> None:
            nonlocal served
            while not done.is_set():
                served += device.serve_all(64)

        thread = threading.Thread(target=kernel)
        thread.start()
        answers = [dispatcher.access(Space.IO, 0x100, 4, False, now=0)[1] for _ in range(accesses)]
        done.set()
        thread.join()
        assert device.get("hits") == accesses + served
        assert served > 0
        assert answers == sorted(set(answers))


@needs_bpf
def test_two_instances_share_nothing() -> None:
    with in_kernel("counter") as one, in_kernel("counter") as other:
        one.read("io", 0, 0, 4)
        assert (one.get("hits"), other.get("hits")) == (1, 0)
        assert ctypes.c_uint32.from_address(other.address + 32).value == 0


# --- in a machine -----------------------------------------------------------------------


@needs_bpf
def test_a_machine_in_the_kernel_delivers_its_lines_and_moves_by_a_word() -> None:
    machines = {engine: Machine(engine=engine) for engine in ("kernel", "native")}  # type: ignore[arg-type]
    edges: dict[str, list[tuple[int, int]]] = {"kernel": [], "native": []}
    for engine, machine in machines.items():
        device = machine.add("i8254")
        machine.wire("i8254.irq0", lambda level, now, to=edges[engine]: to.append((level, now)))
        for value, port in ((0x34, 0x43), (0x00, 0x40), (0x10, 0x40)):
            machine.write("io", port, 1, value)
        for number in range(20):
            if engine == "kernel":
                device.instance.runs = ("kernel", "native")[number % 2]  # type: ignore[attr-defined]
            machine.step(1_000_000)
            machine.read("io", 0x40, 1)
    assert edges["kernel"] == edges["native"]
    assert len(edges["kernel"]) > 8
    images = [machine.save() for machine in machines.values()]
    assert images[0] == images[1]
    machines["kernel"].restore(images[1])


@needs_bpf
def test_python_handlers_of_a_machine_in_the_kernel_serve_what_it_leaves() -> None:
    answers = []
    for engine in ("kernel", "native"):
        machine = Machine(engine=engine)  # type: ignore[arg-type]
        machine.add(ROOT / "examples" / "scratch.dev")
        for value in b"123456789":
            machine.write("io", 0x2E4, 1, value)
        crc = machine.read("io", 0x2E8, 4)
        machine.write("io", 0x2EC, 4, 77)
        answers.append((crc, machine.read("io", 0x2EC, 4), machine.read("io", 0x2EC, 4), machine.save()))
    assert answers[0] == answers[1]
    assert answers[0][0] == 0xCBF43926  # the CRC-32 of these bytes


def test_an_object_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "counter.dev", Cache(tmp_path / "cache")
    path.write_text(COUNTER)
    first = load(path, cache).bpf()
    monkeypatch.setattr("devc.compiler.bpf_compile.object_code", lambda *arguments: b"anew")
    assert load(path, cache).bpf() == first
    path.write_text(COUNTER.replace("hits + 1", "hits + 2"))
    assert load(path, cache).bpf() == b"anew"
    assert load(path, None).bpf() == b"anew"
