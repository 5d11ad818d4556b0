"""The reference and the native engine are one device: same answers, same bytes.

Random modules, the sample device and every shipped one; random calls of every
kind, time steps, saves, and restores of whole and of damaged images.

Long mode: DEVC_LONG=1 drives 10**6 calls over random modules and 10**6 over
each shipped device, and prints how many.
"""

from __future__ import annotations

import os
from functools import cache
from random import Random

import pytest
from devc.compiler import ir
from devc.compiler.driver import DEVICES, load
from devc.compiler.verify import verify
from hypothesis import example, given, settings
from hypothesis import strategies as st

from . import ir_random
from .engine_pair import Compiled, Pair, drive
from .ir_samples import ticker

LONG = bool(int(os.environ.get("DEVC_LONG", "0")))
MODULES, CALLS = (1000, 1000) if LONG else (24, 150)
RUNS, RUN = (2000, 500) if LONG else (10, 500)
"""Of each device: runs with parameters of their own, and the calls of one."""

SHIPPED = sorted(path.stem for path in DEVICES.glob("*.dev"))


@cache
def compiled(name: str) -> Compiled:
    return Compiled(ticker() if name == "ticker" else load(name).reference_module())


def random_params(rng: Random, module: ir.Module) -> dict[str, int]:
    return {p.name: ir_random.number(rng, p.type) for p in module.params if rng.random() < 0.5}


def run(code: Compiled, rng: Random, calls: int) -> int:
    now = rng.randrange(10**10)
    drive(code.pair(now, **random_params(rng, code.module)), rng, calls, now)
    return calls


def run_random(seed: int) -> int:
    module = ir_random.make(seed)
    verify(module)
    return run(Compiled(module), Random(seed), CALLS)


@pytest.mark.skipif(LONG, reason="the long mode runs these and more")
@pytest.mark.parametrize("seed", range(MODULES))
def test_engines_agree_byte_for_byte_on_a_random_module(seed: int) -> None:
    run_random(seed)


@pytest.mark.skipif(not LONG, reason="long mode only: set DEVC_LONG=1")
def test_engines_agree_over_a_million_calls_of_random_modules(capsys: pytest.CaptureFixture[str]) -> None:
    calls = sum(run_random(seed) for seed in range(MODULES))
    with capsys.disabled():
        print(f"\n{calls} calls on {MODULES} random modules, no difference")


@pytest.mark.parametrize("name", ["ticker", *SHIPPED])
def test_engines_agree_byte_for_byte_on_a_device(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verify(compiled(name).module)
    calls = sum(run(compiled(name), Random(seed), RUN) for seed in range(RUNS))
    if LONG:
        with capsys.disabled():
            print(f"\n{calls} calls of {name}, no difference")


# --- programs that hypothesis makes, and makes small when they fail -------------

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
PAUSE = st.one_of(st.integers(0, 2000), st.integers(0, 10**8), U64)
OFFSET, WIDTH = st.one_of(st.integers(0, 15), U32), st.one_of(st.sampled_from((1, 2, 4, 8)), U32)
VALUE = st.one_of(st.integers(0, 255), U64)
STEP = st.one_of(
    st.tuples(st.just("read"), PAUSE, st.integers(0, 3), OFFSET, WIDTH),
    st.tuples(st.just("write"), PAUSE, st.integers(0, 3), OFFSET, WIDTH, VALUE),
    st.tuples(st.just("peek"), PAUSE, st.integers(0, 3), OFFSET, WIDTH),
    st.tuples(
        st.sampled_from(("settle", "levels", "next", "commit", "reset", "resume", "save", "restore")), PAUSE
    ),
)


def play(pair: Pair, now: int, program: list[tuple[str, int, *tuple[int, ...]]]) -> None:
    regions = pair.reference.module.regions
    for kind, pause, *rest in program:
        now = min(now + pause, ir.NEVER)
        if kind == "restore":
            pair.call("restore", now, pair.call("save", now))
        elif rest:
            pair.call(kind, regions[rest[0] % len(regions)].name, now, *rest[1:])
        else:
            pair.call(kind, now)


@pytest.mark.parametrize("name", ["ticker", *SHIPPED])
@given(start=st.integers(0, 10**12), program=st.lists(STEP, max_size=40))
@example(start=2**64 - 2, program=[("settle", 1), ("read", 0, 0, 0, 4), ("restore", 5)])
@settings(max_examples=300 if LONG else 60, deadline=None)
def test_engines_agree_on_any_program(
    name: str, start: int, program: list[tuple[str, int, *tuple[int, ...]]]
) -> None:
    play(compiled(name).pair(start), start, program)


def test_a_difference_between_the_engines_is_reported_with_the_slot() -> None:
    pair = compiled("ticker").pair(0)
    pair.native.set("cells", 7, 1, 0)
    with pytest.raises(AssertionError, match=r"cells\[1, 0\]: 5 or natively 7"):
        Pair(pair.reference, pair.native)
