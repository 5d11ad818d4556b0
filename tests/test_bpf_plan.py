"""What the verifier must not meet: deep chains of calls, loops in loops, values that LLVM leaves open."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from devc.compiler import bpf_compile, bpf_loops, ir
from devc.compiler.analysis import walk
from devc.compiler.bpf_calls import FRAMES, HOT, SMALL, Calls
from devc.compiler.driver import DeviceType, load
from devc.compiler.jit import compile_module
from devc.compiler.reference import Reference
from devc.compiler.verify import verify
from devc.dsl.diagnostics import Source
from devc.runtime.bpf_object import BpfObject
from devc.runtime.calls import DEADLINE, NO_REGION, READ, SERVED, Call
from devc.runtime.instance import NativeInstance, ReferenceInstance
from devc.runtime.kernel_instance import KernelInstance

from . import ir_random
from .bpf_rig import needs_bpf
from .engine_pair import later
from .ir_samples import bare
from .ir_samples import load as loaded

# --- loops in loops --------------------------------------------------------------------------


def nested(block: ir.Block, inside: bool = False) -> bool:
    """Whether a Repeat stands in another."""
    return any(
        inside or nested(stmt.body, True)
        if isinstance(stmt, ir.Repeat)
        else any(nested(inner, inside) for inner in blocks(stmt))
        for stmt in block
    )


def blocks(stmt: ir.Stmt) -> list[ir.Block]:
    match stmt:
        case ir.If(then=then, orelse=orelse):
            return [then, orelse]
        case ir.Switch(cases=cases, default=default):
            return [*(body for _, body in cases), default]
    return []


def test_the_hpets_inner_loops_become_functions() -> None:
    module = load("hpet").reference_module()
    assert any(nested(f.body) for f in module.functions)
    moved = bpf_loops.apart(module)
    verify(moved)
    assert not any(nested(f.body) for f in moved.functions)
    assert len(moved.functions) > len(module.functions)


def test_a_device_whose_loops_moved_answers_as_before() -> None:
    module, rng, now = load("hpet").reference_module(), Random(3), 0
    pair = [ReferenceInstance(Reference(each), 0) for each in (module, bpf_loops.apart(module))]
    for _ in range(400):
        now = later(rng, now, wild=False)
        offset, value = rng.choice((0x10, 0x20, 0xF0, 0x100, 0x108, 0x120, 0x128)), rng.getrandbits(20)
        for each in pair:
            each.write("mmio", now, offset, 4, value)
            each.settle(now)
        assert pair[0].state == pair[1].state


SLOT = ir.Slot("x", ir.U64, 8, 40, ((4, 8),))
INDEX, LIMIT = ir.Var("i", ir.Range(0, 4)), ir.Var("limit", ir.U64)
AT = ir.Narrow(INDEX, ir.Range(0, 3))
STEP = ir.Let("i", ir.Binary("add", AT, ir.Const(1), ir.Range(1, 4)))
ADD = ir.Store("x", (AT,), ir.Binary("addw", loaded(SLOT, AT), LIMIT, ir.U64))
ADD_OWN = ir.Store("x", (ir.Const(0),), ir.Var("own", ir.U64))
START = (ir.Let("limit", ir.Now()), ir.Let("i", ir.Const(0)))


def work(*inner: ir.Stmt, behind: ir.Block = ()) -> ir.Module:
    """A module whose function `work` runs a loop in a loop."""
    body = (ir.Repeat(3, (*START, ir.Repeat(4, (*inner, STEP)), *behind)),)
    module = bare(ir.Function("work", (), None, body), slots=(SLOT,))
    verify(module)
    return module


def moved(*inner: ir.Stmt, behind: ir.Block = ()) -> list[str]:
    """The functions that `work` has become, after inner loops moved out."""
    made = bpf_loops.apart(work(*inner, behind=behind))
    verify(made)
    return [f.name for f in made.functions if f.name.startswith("work")]


def test_an_inner_loop_takes_what_it_reads_along() -> None:
    assert moved(ADD) == ["work.loop0", "work"]


def test_a_value_that_is_used_behind_the_loop_comes_back() -> None:
    assert moved(ADD, behind=(ir.Store("x", (AT,), ir.Const(1)),)) == ["work.loop0", "work"]


def test_a_value_that_the_loop_may_leave_alone_is_given_to_it() -> None:
    """Else what came back would be none."""
    inner = ir.If(ir.Binary("eq", AT, ir.Const(9), ir.BOOL), (ir.Let("limit", ir.Now()),))
    module = work(inner, behind=(ir.Store("x", (ir.Const(0),), LIMIT),))
    loop = next(f for f in bpf_loops.apart(module).functions if f.name == "work.loop0")
    assert [name for name, _ in loop.params] == ["limit.given"]
    assert loop.result == ir.U64


def test_a_value_that_goes_on_from_one_round_to_the_next_comes_back() -> None:
    count = ir.Var("count", ir.U64)
    more = ir.Let("count", ir.Binary("addw", count, ir.Const(1), ir.U64))
    inner = (START[1], ir.Repeat(4, (more, ir.Store("x", (AT,), count), STEP)))
    body = (ir.Let("count", ir.Const(0)), ir.Repeat(3, inner))
    module = bare(ir.Function("work", (), None, body), slots=(SLOT,))
    found = []
    for each in (module, bpf_loops.apart(module)):
        verify(each)
        state = bytearray(each.size)
        Reference(each).bind(state)["work"](0)
        found.append(memoryview(state).cast("Q").tolist()[each.slot("x").offset // 8 :])
    assert found == [[9, 10, 11, 12]] * 2


def test_a_value_of_one_round_of_the_outer_loop_alone_is_not_asked_for() -> None:
    """It has none before the loop, which gives it one only sometimes; the next loop has its own."""
    sometimes = ir.If(ir.Binary("eq", AT, ir.Const(2), ir.BOOL), (ir.Let("own", ir.Now()), ADD_OWN))
    module = bpf_loops.apart(work(sometimes, behind=(ir.Let("own", ir.Const(7)), ADD_OWN)))
    verify(module)
    loop = next(f for f in module.functions if f.name == "work.loop0")
    assert (loop.params, loop.result) == ((), None)


@pytest.mark.parametrize("seed", [*range(5), 11, 22, 76])
def test_a_random_module_whose_loops_moved_computes_as_before(seed: int) -> None:
    module, rng, now = ir_random.make(seed), Random(seed), 0
    changed = bpf_loops.apart(module)
    verify(changed)
    pair = [ReferenceInstance(Reference(each), 0) for each in (module, changed)]
    for _ in range(40):
        now = later(rng, now, wild=False)
        region, offset, value = rng.choice(module.regions).name, rng.randrange(16), rng.getrandbits(64)
        for each in pair:
            each.write(region, now, offset, 4, value)
            each.settle(now)
            each.next(now)
        assert pair[0].state == pair[1].state


def test_a_loop_counts_from_its_constant_by_itself() -> None:
    """So the verifier knows every index; of an argument it would know nothing."""
    loop = next(f for f in bpf_loops.apart(work(ADD)).functions if f.name == "work.loop0")
    assert [name for name, _ in loop.params] == ["limit.given"]
    assert ir.Let("i", ir.Const(0)) in loop.body


def test_a_loop_that_changes_two_values_used_behind_it_stays() -> None:
    double = ir.Let("limit", ir.Binary("addw", LIMIT, LIMIT, ir.U64))
    assert moved(ADD, double, behind=(ir.Store("x", (AT,), LIMIT),)) == ["work"]


def test_a_loop_that_returns_stays() -> None:
    assert moved(ADD, ir.If(ir.Binary("eq", LIMIT, ir.Const(9), ir.BOOL), (ir.Return(),))) == ["work"]


# --- chains of calls -------------------------------------------------------------------------


def plan(weights: dict[str, int], calls: dict[str, list[str]], **more: Any) -> Calls:
    given: dict[str, Any] = {
        "accesses": {"read"},
        "roots": {"settle"},
        "apart": [],
        "loops": [],
        "forced": [],
    }
    return Calls(weights, {name: Counter(each) for name, each in calls.items()}, **(given | more))


def chain(length: int, weight: int) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Functions that call one another in a row, each from two places."""
    names = [f"f{n}" for n in range(length)]
    calls = {name: [before, before] for before, name in pairwise(names)}
    return dict.fromkeys(names, weight), calls


def depth(plan: Calls, calls: dict[str, list[str]], name: str) -> int:
    inner = max((depth(plan, calls, f) - plan.takes(name, f) for f in calls.get(name, ())), default=0)
    return 1 + inner


def test_a_chain_of_calls_is_shortened_to_what_the_kernel_allows() -> None:
    weights, calls = chain(12, HOT)
    weights |= {"settle": 10, "read": 10}
    calls["settle"] = ["f11"]
    made = plan(weights, calls)
    assert depth(made, calls, "settle") <= FRAMES
    assert made.alone("settle")


def test_loops_are_called_to_the_last() -> None:
    weights, calls = chain(8, HOT)
    weights |= {"settle": 10, "read": 10}
    calls["settle"] = ["f7"]
    made = plan(weights, calls, loops=["f3", "f5"])
    assert depth(made, calls, "settle") <= FRAMES
    assert made.alone("f3")
    assert made.alone("f5")


def test_an_access_takes_small_and_hot_functions_and_calls_large_ones() -> None:
    weights = {"small": SMALL, "hot": HOT, "large": HOT + 1, "read": 5, "other": 400, "settle": 5}
    calls = {
        "other": ["small", "hot", "large"],
        "read": ["small", "hot", "large"],
        "settle": ["other", "other", "hot"],
    }
    made = plan(weights, calls)
    assert [made.takes("read", f) for f in ("small", "hot", "large")] == [True, True, False]
    assert [made.takes("other", f) for f in ("small", "hot", "large")] == [True, False, False]
    assert not made.alone("read")


def test_a_function_of_more_arguments_than_registers_is_not_called() -> None:
    weights = {"wide": 10_000, "settle": 5, "read": 5}
    calls = {"settle": ["wide"] * 3}
    assert plan(weights, calls, forced=["wide"]).takes("settle", "wide")


# --- values ----------------------------------------------------------------------------------


def without_the_lock(node: Any) -> Any:
    """A random module that leaves the header's lock and version alone, as every compiled device does."""
    if isinstance(node, tuple):
        return tuple(without_the_lock(each) for each in node)
    if not dataclasses.is_dataclass(node) or isinstance(node, ir.Range):
        return node
    if isinstance(node, ir.Load | ir.Store) and node.slot in ("lock", "version"):
        node = dataclasses.replace(node, slot="watch")
    changed = {f.name: without_the_lock(getattr(node, f.name)) for f in dataclasses.fields(node)}
    return dataclasses.replace(node, **changed)  # type: ignore[type-var]


def random_module(seed: int) -> ir.Module:
    module = ir_random.make(seed)
    return dataclasses.replace(module, functions=without_the_lock(module.functions))


CELLS = '''block Cell(n: u6, osc: clock, irq: line):
    state on: bool
    state target: u32
    state seen: bool[4]

    counter t: u32 at osc while on

    reg value u32:
        read: return t
        write v:
            target = v
            on = v != 0
    reg events u32:
        read: return seen[3] ++ seen[2] ++ seen[1] ++ seen[0]

    on t reaches target: seen[0] = true
    on t[4] toggles: seen[1] = true
    on t[7] toggles: seen[2] = true
    on t[9] toggles: seen[3] = true
    drive irq[n[4:0]] = on and seen[1]

device cells(base: port = 0x1000):
    """As many blocks as there may be, with four events each."""

    clock osc = 1_000_000 Hz
    line irq[n: 32]

    cell[n: 64]: Cell(n = n, osc = osc, irq = irq)

    io at base size 0x200, gaps zeros:
        cell[n].value  @0x000 + 8 * n
        cell[n].events @0x004 + 8 * n
'''


@needs_bpf
def test_the_largest_array_of_blocks_passes_the_verifier() -> None:
    device = DeviceType(Path("cells.dev"), Source("cells.dev", CELLS), None)
    kernel = KernelInstance(device.native(), device.module, device.bpf(), 0)
    native = NativeInstance(device.native(), device.module, 0)
    try:
        assert all(program.info.verified_insns < 300_000 for program in kernel.programs.values())
        for now, cell in ((1_000, 63), (2_000, 0), (600_000, 63), (2_000_000, 17)):
            for each in (kernel, native):
                each.write("io", now, 8 * cell, 4, 20 + cell)
            assert kernel.read("io", now + 500_000, 8 * cell, 8) == native.read(
                "io", now + 500_000, 8 * cell, 8
            )
            assert kernel.next(now + 500_000) == native.next(now + 500_000)
    finally:
        kernel.close()


PRODUCTS = '''device products(base: port = 0x1000):
    """Asks whether a product fits 64 bits, in the ways that LLVM knows."""

    state a: u64
    state b: 1..0xffff_ffff_ffff_ffff = 1

    io at base size 0x20, aligned, gaps zeros:
        reg left @0x00 u64:
            write v: a = v
        reg right @0x08 u64:
            write v:
                if v != 0: b = v
        reg back @0x10 u64:
            read:
                let product: u64 = wrap(a * b)
                return 1 if product / b != a else 0
        reg bound @0x18 u64:
            read: return 1 if 0xffff_ffff_ffff_ffff / b < a else 0
'''


@needs_bpf
def test_a_question_whether_a_product_fits_is_not_made_one_of_128_bits() -> None:
    device = DeviceType(Path("products.dev"), Source("products.dev", PRODUCTS), None)
    kernel = KernelInstance(device.native(), device.module, device.bpf(), 0)
    try:
        for a, b, beyond in ((2**32, 2**32 - 1, 0), (2**32, 2**32, 1), (2**64 - 1, 1, 0), (3, 2**63, 1)):
            kernel.write("io", 0, 0, 8, a)
            kernel.write("io", 0, 8, 8, b)
            assert [kernel.read("io", 0, at, 8) for at in (0x10, 0x18)] == [beyond, beyond]
    finally:
        kernel.close()


@needs_bpf
@pytest.mark.parametrize(
    "seed",
    [
        85,  # LLVM sees a division by zero where none can be
        685,  # and a function that is worth a variant for one of its arguments
        *range(5),
    ],
)
def test_the_kernel_computes_what_native_code_does_on_a_random_module(seed: int) -> None:
    module, rng, now = random_module(seed), Random(seed), 0
    code = compile_module(module, None)
    kernel = KernelInstance(code, module, bpf_compile.object_code(module), now)
    native = NativeInstance(code, module, now)
    try:
        for _ in range(250):
            now = later(rng, now, wild=True)
            region, offset = (
                rng.choice(module.regions).name,
                rng.choice((rng.randrange(16), rng.getrandbits(32))),
            )
            width, value = rng.choice((1, 2, 4, 8, rng.getrandbits(32))), ir_random.number(rng, ir.U64)
            name, arguments = rng.choice(
                (
                    ("read", (region, now, offset, width)),
                    ("write", (region, now, offset, width, value)),
                    ("settle", (now,)),
                    ("next", (now,)),
                )
            )
            assert getattr(kernel, name)(*arguments) == getattr(native, name)(*arguments), (name, arguments)
            assert kernel.slots() | {"version": 0} == native.slots() | {"version": 0}, (name, arguments)
    finally:
        kernel.close()


@needs_bpf
def test_a_device_without_a_window_runs_in_the_kernel_too() -> None:
    module = bare()
    image = BpfObject(bpf_compile.object_code(module), "bare.bpf.o")
    loaded_object = image.load()
    context = Call(now=5, what=DEADLINE)
    assert loaded_object.program("bare_deadline").run(context) == 0
    assert (context.status, context.value) == (SERVED, ir.NEVER)
    context = Call(now=5, what=READ)
    loaded_object.program("bare_read").run(context)
    assert context.status == NO_REGION
    loaded_object.close()


@needs_bpf
def test_every_function_with_a_loop_stays_within_the_verifiers_patience() -> None:
    """A million instructions is the limit; the HPET has 32 timers and settles 192 rounds."""
    module = load("hpet").reference_module()
    assert max(s.times for f in module.functions for s in walk(f.body) if isinstance(s, ir.Repeat)) >= 192
    kernel = KernelInstance(load("hpet").native(), module, load("hpet").bpf(), 0)
    try:
        assert all(program.info.verified_insns < 300_000 for program in kernel.programs.values())
    finally:
        kernel.close()
