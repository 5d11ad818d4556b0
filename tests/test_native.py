"""The native back end computes what the IR says, on the mathematical values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

import pytest
from devc.compiler import intervals, ir, jit, native
from devc.compiler.ir import (
    BOOL,
    NEVER,
    SECOND,
    U8,
    U16,
    U32,
    U64,
    Binary,
    Break,
    Call,
    Cond,
    Const,
    Do,
    If,
    Let,
    Load,
    Nanos,
    Narrow,
    Not,
    Now,
    Range,
    Repeat,
    Return,
    Slot,
    Store,
    Switch,
    Ticks,
    Var,
)
from devc.compiler.reference import reference
from devc.compiler.show import show
from devc.compiler.verify import verify
from hypothesis import given, settings
from hypothesis import strategies as st

from .ir_samples import HZ, bare, function, masked
from .native_calls import Code

S64 = Range(-(2**63), 2**63 - 1)
EDGES = [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
words = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1))
signed_words = st.one_of(
    st.sampled_from([-(2**63), -(2**31), -1, 0, 1, 2**63 - 1]), st.integers(-(2**63), 2**63 - 1)
)
frequencies = st.one_of(st.sampled_from([1, 3, 1193182, 3579545, SECOND - 1, SECOND]), st.integers(1, SECOND))


def of(name: str, kinds: tuple[Range, ...], result: Range, make: Callable[..., ir.Expr]) -> ir.Function:
    """A function of the expression of its parameters that `make` builds."""
    params = tuple((f"p{i}", kind) for i, kind in enumerate(kinds))
    return function(name, params, result, Return(make(*(Var(*p) for p in params))))


# --- time -------------------------------------------------------------------

SMALL = Range(0, 2**30)
CLOCKS = Code(
    bare(
        of("ticks", (U64, HZ), U64, lambda ns, hz: Ticks(ns, hz, U64)),
        of("ticks_small", (SMALL, HZ), SMALL, lambda ns, hz: Ticks(ns, hz, SMALL)),
        of("ticks_fixed", (U64,), U64, lambda ns: Ticks(ns, Const(3579545), U64)),
        of("nanos", (U64, HZ), U64, lambda n, hz: Nanos(n, hz)),
        of("nanos_small", (SMALL, HZ), U64, lambda n, hz: Nanos(n, hz)),
        of("nanos_u32", (U32, HZ), U64, lambda n, hz: Nanos(n, hz)),
        of("nanos_fixed", (U64,), U64, lambda n: Nanos(n, Const(1193182))),
    )
)


def exact_nanos(count: int, hz: int) -> int:
    return min(-(-count * SECOND // hz), NEVER)


@given(words, frequencies)
@settings(max_examples=400)
def test_ticks_are_exact_for_every_instant_and_frequency(ns: int, hz: int) -> None:
    assert CLOCKS.call("ticks", ns, hz) == ns * hz // SECOND
    assert CLOCKS.call("ticks_fixed", ns) == ns * 3579545 // SECOND
    small = ns % (SMALL.hi + 1)
    assert CLOCKS.call("ticks_small", small, hz) == small * hz // SECOND


@given(words, frequencies)
@settings(max_examples=400)
def test_nanos_round_up_and_saturate_at_never(count: int, hz: int) -> None:
    assert CLOCKS.call("nanos", count, hz) == exact_nanos(count, hz)
    assert CLOCKS.call("nanos_fixed", count) == exact_nanos(count, 1193182)
    assert CLOCKS.call("nanos_small", count % 2**30, hz) == exact_nanos(count % 2**30, hz)
    assert CLOCKS.call("nanos_u32", count % 2**32, hz) == exact_nanos(count % 2**32, hz)


@given(st.integers(-3, 3), frequencies)
def test_nanos_are_exact_on_both_sides_of_the_64_bit_limit(step: int, hz: int) -> None:
    count = 2**64 * hz // SECOND + step
    assert CLOCKS.call("nanos", count % 2**64, hz) == exact_nanos(count % 2**64, hz)


# --- comparison and arithmetic ------------------------------------------------

PYTHON: dict[str, Callable[[int, int], int]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "min": min,
    "max": max,
}
SIDES = {"s": S64, "u": U64}


def _joined(op: str, left: Range, right: Range) -> Range:
    pick = PYTHON[op]
    return Range(pick(left.lo, right.lo), pick(left.hi, right.hi)) if op in ("min", "max") else BOOL


ORDERS = Code(
    bare(
        *(
            of(
                f"{op}_{a}{b}",
                (SIDES[a], SIDES[b]),
                _joined(op, SIDES[a], SIDES[b]),
                lambda x, y, op=op: Binary(op, x, y, _joined(op, x.type, y.type)),
            )
            for op in PYTHON
            for a in "su"
            for b in "su"
        )
    )
)


@given(signed_words, signed_words, words, words)
@settings(max_examples=300)
def test_comparisons_are_on_the_mathematical_values_whatever_the_signs(
    s: int, t: int, u: int, v: int
) -> None:
    for op, python in PYTHON.items():
        for name, a, b in (("ss", s, t), ("su", s, u), ("us", u, s), ("uu", u, v), ("su", s, s % 2**64)):
            assert ORDERS.call(f"{op}_{name}", a, b) == python(a, b), (op, name, a, b)


NEAR = Range(-1000, 1000)
ARITHMETIC = Code(
    bare(
        of(
            "add",
            (NEAR, U32),
            Range(-1000, U32.hi + 1000),
            lambda a, b: Binary("add", a, b, Range(-1000, U32.hi + 1000)),
        ),
        of(
            "lift",
            (Range(-5, 0), Range(10, U64.hi)),
            Range(5, U64.hi),
            lambda a, b: Binary("add", a, b, Range(5, U64.hi)),
        ),
        of(
            "sub",
            (U32, U32),
            Range(-U32.hi, U32.hi),
            lambda a, b: Binary("sub", a, b, Range(-U32.hi, U32.hi)),
        ),
        of(
            "mul",
            (NEAR, NEAR),
            Range(-(10**6), 10**6),
            lambda a, b: Binary("mul", a, b, Range(-(10**6), 10**6)),
        ),
        of(
            "shl", (NEAR, Range(0, 40)), S64, lambda a, b: Binary("shl", a, b, Range(-1000 << 40, 1000 << 40))
        ),
        of("shr", (S64, Range(0, 63)), S64, lambda a, b: Binary("shr", a, b, S64)),
        of("shru", (U64, Range(0, 63)), U64, lambda a, b: Binary("shr", a, b, U64)),
        of("addw", (U64, S64), U64, lambda a, b: Binary("addw", a, b, U64)),
        of("subw", (U64, U64), U64, lambda a, b: Binary("subw", a, b, U64)),
        of("mulw", (U64, U64), U64, lambda a, b: Binary("mulw", a, b, U64)),
        of("div", (U64, Range(1, U64.hi)), U64, lambda a, b: Binary("div", a, b, U64)),
        of("mod", (U64, Range(1, U64.hi)), U64, lambda a, b: Binary("mod", a, b, U64)),
        of("div32", (U32, Range(1, U32.hi)), U32, lambda a, b: Binary("div", a, b, U32)),
        of("mod32", (U32, Range(1, U32.hi)), U32, lambda a, b: Binary("mod", a, b, U32)),
        of(
            "bits",
            (U64, U64),
            U64,
            lambda a, b: Binary("xor", Binary("and", a, b, U64), Binary("or", a, b, U64), U64),
        ),
    )
)


@given(words, words, signed_words)
@settings(max_examples=300)
def test_arithmetic_is_exact_or_modulo_2_to_the_64_as_declared(u: int, v: int, s: int) -> None:
    call = ARITHMETIC.call
    a, b = u % 2001 - 1000, v % 2001 - 1000
    assert call("add", a, v % 2**32) == a + v % 2**32
    assert call("lift", -(u % 6), max(v, 10)) == max(v, 10) - u % 6
    assert call("sub", u % 2**32, v % 2**32) == u % 2**32 - v % 2**32
    assert call("mul", a, b) == a * b
    assert call("shl", a, v % 41) == a << (v % 41)
    assert call("shr", s, v % 64) == s >> (v % 64)
    assert call("shru", u, v % 64) == u >> (v % 64)
    assert call("addw", u, s) == (u + s) % 2**64
    assert call("subw", u, v) == (u - v) % 2**64
    assert call("mulw", u, v) == u * v % 2**64
    assert call("bits", u, v) == u ^ v
    divisor = v or 1
    assert call("div", u, divisor) == u // divisor
    assert call("mod", u, divisor) == u % divisor
    small = v % 2**32 or 1
    assert call("div32", u % 2**32, small) == u % 2**32 // small
    assert call("mod32", u % 2**32, small) == u % 2**32 % small


# --- control flow ---------------------------------------------------------------

TWO = Range(0, 3)


def _sum_until(limit: ir.Expr) -> tuple[ir.Stmt, ...]:
    total = Var("total", U64)
    one = Binary("addw", total, Const(1), U64)
    return (
        Let("total", Const(0)),
        Repeat(10, (If(Not(Binary("lt", total, limit, BOOL)), (Break(),)), Let("total", one))),
        Return(total),
    )


FLOW = Code(
    bare(
        of(
            "guarded",
            (U64, U64),
            U64,
            lambda a, b: Cond(
                Binary("ne", b, Const(0), BOOL),
                Binary("div", a, Narrow(b, Range(1, U64.hi)), U64),
                Const(7),
                U64,
            ),
        ),
        of(
            "pick",
            (BOOL, BOOL, U64),
            U64,
            lambda a, b, c: Cond(Binary("and", a, Not(b), BOOL), c, Const(9), U64),
        ),
        function(
            "covered",
            (("p", TWO),),
            U32,
            Let("r", Const(0)),
            Switch(
                Var("p", TWO), (((0, 2), (Let("r", Const(20)),)), ((1,), (Return(Const(11)),)), ((3,), ()))
            ),
            Return(Var("r", Range(0, 20))),
        ),
        function(
            "open",
            (("p", S64),),
            U32,
            Switch(Var("p", S64), (((-1, 5), (Return(Const(1)),)),), (Return(Const(2)),)),
        ),
        function("until", (("p", U64),), U64, *_sum_until(Var("p", U64))),
        function(
            "nested",
            (("p", U8),),
            U32,
            Let("n", Const(0)),
            Repeat(
                3,
                (
                    Repeat(
                        5, (If(Binary("lt", Const(200), Var("p", U8), BOOL), (Return(Const(99)),)), Break())
                    ),
                    Let("n", masked(Binary("addw", Var("n", U8), Const(1), U64), 255)),
                ),
            ),
            Return(Var("n", U8)),
        ),
        function("when", (), U64, Return(Now())),
        of("later", (U64,), U64, lambda p: Call("when", (), U64, now=p)),
        function(
            "reassigned",
            (("p", U8),),
            U32,
            If(Binary("lt", Var("p", U8), Const(10), BOOL), (Let("p", Const(77)),)),
            Return(Var("p", U8)),
        ),
    )
)


def test_only_the_chosen_arm_of_a_cond_is_evaluated() -> None:
    assert FLOW.call("guarded", 100, 0) == 7
    assert FLOW.call("guarded", 100, 7) == 14
    assert [FLOW.call("pick", a, b, 5) for a in (0, 1) for b in (0, 1)] == [9, 9, 5, 9]


def test_a_switch_takes_the_case_that_lists_the_value_or_the_default() -> None:
    assert [FLOW.call("covered", p) for p in range(4)] == [20, 11, 20, 0]
    assert [FLOW.call("open", p) for p in (-1, 5, 4, 2**63 - 1, -(2**63))] == [1, 1, 2, 2, 2]


def test_repeat_ends_at_its_count_a_break_or_a_return() -> None:
    assert [FLOW.call("until", p) for p in (0, 3, 10, 2**64 - 1)] == [0, 3, 10, 10]
    assert FLOW.call("nested", 0) == 3
    assert FLOW.call("nested", 201) == 99


def test_a_call_passes_its_own_instant_or_the_callers() -> None:
    assert FLOW.call("when", now=2**64 - 1) == 2**64 - 1
    assert FLOW.call("later", 41, now=5) == 41


def test_a_parameter_can_be_given_a_new_value() -> None:
    assert [FLOW.call("reassigned", p) for p in (9, 10)] == [77, 10]


# --- the state -------------------------------------------------------------------

SLOTS = tuple(
    Slot(f"{'s' if lo else 'u'}{8 * size}", Range(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1), size, 0)
    if lo
    else Slot(f"u{8 * size}", Range(0, 2 ** (8 * size) - 1), size, 0)
    for size in (1, 2, 4, 8)
    for lo in (0, 1)
)
GRID = Slot("grid", Range(-5, 5), 1, 0, dims=((3, 0), (4, 0)))


def _memory(opt: int = jit.QUICK) -> Code:
    functions = [
        f
        for slot in SLOTS
        for f in (
            function(
                f"set_{slot.name}", (("v", slot.type),), None, Store(slot.name, (), Var("v", slot.type))
            ),
            function(f"get_{slot.name}", (), slot.type, Return(Load(slot.name, (), slot.type))),
        )
    ]
    place = tuple(Var(n, kind) for n, kind in (("i", Range(0, 2)), ("j", Range(0, 3))))
    params = tuple((p.name, p.type) for p in place)
    functions += [
        function("set_grid", (*params, ("v", GRID.type)), None, Store("grid", place, Var("v", GRID.type))),
        function("get_grid", params, S64, Return(Load("grid", place, GRID.type))),
    ]
    return Code(bare(*functions, slots=(*SLOTS, GRID)), opt)


@pytest.mark.parametrize("opt", [0, 1, 2, 3])
def test_slots_keep_their_values_at_their_own_size_and_sign(opt: int) -> None:
    memory = _memory(opt)
    ends = {slot.name: (slot.type.lo, slot.type.hi) for slot in SLOTS}
    for which in (0, 1):
        for name, values in ends.items():
            memory.call(f"set_{name}", values[which])
        assert {name: memory.call(f"get_{name}") for name in ends} == {n: v[which] for n, v in ends.items()}


def test_array_elements_do_not_touch_their_neighbours() -> None:
    memory = _memory()
    want = {(i, j): (i * 4 + j) % 11 - 5 for i in range(3) for j in range(4)}
    for (i, j), value in want.items():
        memory.call("set_grid", i, j, value)
    assert {(i, j): memory.call("get_grid", i, j) for i, j in want} == want
    assert all(memory.call(f"get_{slot.name}") == 0 for slot in SLOTS)


# --- the text ----------------------------------------------------------------------


def test_no_value_is_wider_than_64_bits_after_optimising() -> None:
    text = native.build(CLOCKS.module)
    module, _ = jit.optimise(text, jit.host())
    assert " i128" not in str(module)


def test_a_value_used_twice_in_a_statement_is_computed_once() -> None:
    number = Call("number", (), U8)
    twice = Binary("mul", number, number, Range(0, 255 * 255))
    both_arms = Cond(Binary("lt", Now(), Const(9), BOOL), number, Binary("add", number, Const(1), U16), U16)
    module = bare(
        function("number", (), U8, Return(Load("settled", (), U8))),
        function("twice", (), U64, Return(twice)),
        function("arms", (), U64, Return(both_arms)),
    )
    text = native.build(module)
    assert {name: _body(text, name).count("call") for name in ("twice", "arms")} == {"twice": 1, "arms": 1}


def _body(text: str, name: str) -> str:
    return text.partition(f'@"bare_{name}"(')[2].partition("\n}")[0]


def test_a_value_is_computed_again_after_a_store() -> None:
    number = Call("number", (), U64)
    module = bare(
        function("number", (), U64, Return(Load("settled", (), U64))),
        function(  # reads what it has just written
            "both",
            (),
            U64,
            Store("settled", (), Const(1)),
            Let("before", number),
            Store("settled", (), Const(2)),
            Return(Binary("addw", Var("before", U64), number, U64)),
        ),
    )
    assert Code(module).call("both") == 3


def test_an_access_that_settles_calls_it_off_its_path() -> None:
    settle_first = If(Binary("le", Load("deadline", (), U64), Now(), BOOL), (Do(Call("settle", (), BOOL)),))
    module = bare(
        function("settle", (), None, Store("settled", (), Now())),
        function("touch", (), U64, settle_first, Return(Load("settled", (), U64))),
    )
    code = Code(module)
    assert code.call("touch", now=12) == 12
    assembly = (
        jit.host().machine(2, True).emit_assembly(jit.optimise(native.build(module, True), jit.host())[0])
    )
    touch = assembly.split("bare_touch:")[1].split("Lfunc_end")[0]
    hot_path = touch.split("ret")[0]
    assert "push" not in hot_path.split("call")[0], "the access saves registers for a call it rarely makes"


# --- whole expressions --------------------------------------------------------------

ARGUMENTS = (("u", U64), ("s", S64), ("b", U8), ("n", NEAR), ("w", U32))


def _binaries(pair: tuple[ir.Expr, ir.Expr]) -> list[ir.Expr]:
    """Every operator that may be applied to the two."""
    left, right = pair
    found: list[ir.Expr] = []
    for op, (a, b) in intervals.OPERANDS.items():
        if a.contains(left.type) and b.contains(right.type):
            kind = intervals.result(op, left.type, right.type)
            if kind.fits:
                found.append(Binary(op, left, right, kind))
    joined = left.type.join(right.type)
    if joined.fits:
        found.append(Cond(Binary("lt", left, right, BOOL), right, left, joined))
    if intervals.HZ.contains(right.type) and left.type.lo >= 0:
        found += [Ticks(left, right, intervals.ticks(left.type, right.type)), Nanos(left, right)]
    return found


expressions = st.recursive(
    st.one_of(
        st.sampled_from([Var(name, kind) for name, kind in ARGUMENTS]),
        st.builds(Const, st.one_of(words, st.integers(1, 100), signed_words)),
    ),
    lambda inner: st.tuples(inner, inner).map(_binaries).filter(bool).flatmap(st.sampled_from),
    max_leaves=12,
)


@given(
    st.lists(expressions, min_size=8, max_size=8),
    st.lists(st.tuples(words, signed_words), min_size=6, max_size=6),
)
@settings(max_examples=25, deadline=None)
def test_any_expression_has_the_reference_engines_value(
    bodies: list[ir.Expr], draws: list[tuple[int, int]]
) -> None:
    functions = [function(f"f{i}", ARGUMENTS, body.type, Return(body)) for i, body in enumerate(bodies)]
    module = bare(*functions)
    verify(bare(*(replace(f, exported=False) for f in functions)))
    code = Code(module)
    oracle = reference(module).bind(bytearray(module.size))
    for u, s in draws:
        args = u, s, u % 256, s % 2001 - 1000, u >> 32
        for f in functions:
            assert code.call(f.name, *args) == oracle[f.name](0, *args), show(f.body[0].value, 20)
