"""The reference engine: exact, lazy where the IR is, and it catches a wrong interval."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from devc.compiler import ir
from devc.compiler.ir import (
    BOOL,
    NEVER,
    SECOND,
    U8,
    U32,
    U64,
    Binary,
    Break,
    Call,
    Cond,
    Const,
    Expr,
    Function,
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
    Stmt,
    Store,
    Switch,
    Ticks,
    Var,
)
from devc.compiler.reference import Reference, ReferenceFault, reference
from devc.compiler.verify import MAX_BLOCKS, MAX_DEPTH, verify
from devc.runtime.instance import ReferenceInstance
from hypothesis import given
from hypothesis import strategies as st

from .ir_samples import bare, ticker

I64 = Range(-(2**63), 2**63 - 1)
SLOTS = (
    Slot("byte", Range(0, 9), 1, 0),
    Slot("signed", I64, 8, 0),
    Slot("small", Range(-3, 3), 2, 0, dims=((2, 0), (3, 0))),
)
A = Var("a", U64)
ENGINES = pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])


class Body:
    """The statements as `f(a: U64) -> -2**63..2**64-1`, ready to be called."""

    def __init__(self, *body: Stmt, checked: bool = True, others: tuple[Function, ...] = ()) -> None:
        result = Range(-(2**63), 2**63 - 1)
        module = bare(*others, Function("f", (("a", U64),), result, body), slots=SLOTS)
        verify(module)
        self.state = bytearray(module.size)
        self.program = Reference(module, checked)
        self.functions = self.program.bind(self.state)

    def __call__(self, a: int = 0, now: int = 0) -> int:
        return self.functions["f"](now, a)


def within(expr: Expr, lo: int, hi: int) -> Expr:
    """The expression, of which the compiler claims that it is in lo..hi."""
    return Narrow(expr, Range(lo, hi))


# --- exactness -------------------------------------------------------------------


@given(ns=st.integers(0, NEVER), hz=st.integers(1, ir.MAX_HZ))
def test_ticks_and_nanos_are_exact_for_every_instant_and_frequency(ns: int, hz: int) -> None:
    ticks, nanos = TIME["ticks"](0, ns, hz), TIME["nanos"](0, ns, hz)
    assert ticks * SECOND <= ns * hz < (ticks + 1) * SECOND
    if nanos == NEVER:
        assert ns * SECOND > (NEVER - 1) * hz
    else:
        assert (nanos - 1) * hz < ns * SECOND <= nanos * hz


def _time() -> ir.Module:
    params, hz = (("a", U64), ("hz", Range(1, ir.MAX_HZ))), Var("hz", Range(1, ir.MAX_HZ))
    return bare(
        Function("ticks", params, U64, (Return(Ticks(A, hz, U64)),)),
        Function("nanos", params, U64, (Return(Nanos(A, hz)),)),
    )


TIME = reference(_time()).bind(bytearray(_time().size))


def test_nanos_beyond_64_bits_are_never() -> None:
    assert TIME["nanos"](0, 2**64 - 1, 1) == NEVER
    assert TIME["nanos"](0, 2**64 - 1, ir.MAX_HZ) == NEVER
    assert TIME["nanos"](0, 18_446_744_073, 1) == 18_446_744_073 * SECOND
    assert TIME["nanos"](0, 18_446_744_074, 1) == NEVER


@ENGINES
@pytest.mark.parametrize(
    ("op", "a", "b", "result"),
    [
        ("lt", -1, 2**63, 1),
        ("eq", -1, 2**64 - 1, 0),
        ("min", -1, 2**63, -1),
        ("max", -(2**63), 2**62, 2**62),
        ("addw", 2**64 - 1, 2, 1),
        ("subw", 1, 2, 2**64 - 1),
        ("mulw", -1, -1, 1),
        ("mulw", -1, 2, 2**64 - 2),
        ("shr", -5, 1, -3),
        ("shl", -5, 2, -20),
    ],
)
def test_operators_work_on_the_exact_values(
    op: ir.BinaryOp, a: int, b: int, result: int, checked: bool
) -> None:
    width = U64 if op.endswith("w") else Range(min(result, 0), max(result, 1))
    test = Binary("eq", Binary(op, Const(a), Const(b), width), Const(result), BOOL)
    assert Body(Return(test), checked=checked)() == 1


# --- what is evaluated -------------------------------------------------------------

LIE = Binary("add", within(A, 5, 5), Const(1), Range(6, 6))


@ENGINES
def test_only_the_chosen_arm_of_a_cond_is_evaluated(checked: bool) -> None:
    f = Body(
        Return(Cond(Binary("eq", A, Const(5), BOOL), LIE, Const(0), Range(0, 6))),
        checked=checked,
    )
    assert (f(5), f(4)) == (6, 0)


@ENGINES
def test_a_call_sees_the_instant_it_is_given(checked: bool) -> None:
    other = Function("g", (), U64, (Return(Now()),))
    now = Binary("min", Call("g", (), U64), Const(2**40), Range(0, 2**40))
    then = Binary("min", Call("g", (), U64, now=Binary("addw", Now(), A, U64)), Const(2**40), Range(0, 2**40))
    body = Body(Return(Binary("sub", then, now, Range(-(2**40), 2**40))), others=(other,), checked=checked)
    assert body(a=7, now=100) == 7


@ENGINES
def test_a_repeat_ends_at_its_break_or_its_count(checked: bool) -> None:
    count = Var("n", Range(0, 100))
    up = Binary("min", Binary("add", count, Const(1), Range(1, 101)), Const(100), Range(1, 100))
    inner = Repeat(3, (Let("n", up), If(Binary("le", A, count, BOOL), (Break(),))))
    f = Body(Let("n", Const(0)), Repeat(4, (inner,)), Return(count), checked=checked)
    assert (f(100), f(0), f(2)) == (12, 4, 5)


@ENGINES
@pytest.mark.parametrize("cases", [3, 40, 2000])
def test_a_switch_takes_the_case_that_lists_the_value_or_the_default(cases: int, checked: bool) -> None:
    arms = tuple(((2 * i, 2 * i + 1), (Return(Const(i)),)) for i in range(cases))
    f = Body(Switch(A, arms, (Return(Const(-1)),)), checked=checked)
    for i in (0, 1, cases // 2, cases - 1):
        assert (f(2 * i), f(2 * i + 1)) == (i, i)
    assert (f(2 * cases), f(2**64 - 1)) == (-1, -1)


@ENGINES
def test_a_switch_without_a_default_goes_on(checked: bool) -> None:
    f = Body(Switch(A, (((1,), (Return(Const(1)),)),)), Return(Const(7)), checked=checked)
    assert (f(1), f(2)) == (1, 7)


@ENGINES
@pytest.mark.parametrize("shape", ["then", "orelse", "or", "not"])
def test_whatever_the_verifier_lets_through_compiles_however_deep(shape: str, checked: bool) -> None:
    expr: Expr = Binary("eq", A, Const(0), BOOL)
    test = expr
    for i in range(MAX_DEPTH - 2):
        expr = {
            "then": Cond(test, expr, Const(i % 2), BOOL),
            "orelse": Cond(test, Const(i % 2), expr, BOOL),
            "or": Binary("or", expr, Binary("and", Load("byte", (), U8), Const(1), BOOL), BOOL),
            "not": Not(expr),
        }[shape]
    block: ir.Block = (Return(expr),)
    for i in range(MAX_BLOCKS):
        block = (If(test, block),) if i % 2 else (If(Not(test), (), block),)
    assert Body(*block, Return(Const(5)), checked=checked)(1) == 5
    assert Body(*block, Return(Const(5)), checked=checked)(0) in (0, 1)


# --- the state -----------------------------------------------------------------


@ENGINES
def test_slots_are_packed_in_two_s_complement_where_the_layout_says(checked: bool) -> None:
    row = Binary("and", A, Const(1), BOOL)
    f = Body(
        Store("signed", (), Const(-2)),
        Store("small", (row, Const(2)), Const(-3)),
        Store("byte", (), Const(9)),
        Return(Load("signed", (), I64)),
        checked=checked,
    )
    assert f(1) == -2
    slots = {slot.name: slot for slot in f.program.module.slots}
    expected = bytearray(len(f.state))
    struct.pack_into("=q", expected, slots["signed"].offset, -2)
    struct.pack_into("=h", expected, slots["small"].offset + 5 * 2, -3)
    expected[slots["byte"].offset] = 9
    assert f.state == expected


def test_a_state_of_another_size_is_refused() -> None:
    program = reference(ticker())
    with pytest.raises(ValueError, match=f"has {program.module.size} bytes, not 8"):
        program.bind(bytearray(8))


def test_a_module_is_translated_once() -> None:
    module = ticker()
    assert reference(module) is reference(module)
    assert reference(module) is not reference(module, checked=False)
    assert reference(module) is not reference(ticker())


def test_the_source_can_be_read() -> None:
    source = Body(Return(within(A, 0, 9))).program.source
    assert "if not 0 <= v0 <= 9: fault(0, v0)" in source
    compile(source, "source", "exec")


# --- faults ----------------------------------------------------------------------


def test_a_narrow_that_lies_is_a_fault_that_names_function_and_expression() -> None:
    f = Body(Return(within(A, 0, 9)))
    assert f(9) == 9
    with pytest.raises(ReferenceFault, match=r"bare: function f: narrow\(a, 0\.\.9\) is 10, outside 0\.\.9"):
        f(10)


def test_an_unchecked_engine_takes_the_compiler_s_word() -> None:
    assert Body(Return(within(A, 0, 9)), checked=False)(10) == 10


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Binary("add", A, Const(1), Range(0, 9)), r"\(a \+ 1\) is 11, outside 0\.\.9"),
        (Binary("sub", A, Const(1), Range(0, 8)), r"\(a - 1\) is 9, outside 0\.\.8"),
        (Binary("shr", A, Const(1), BOOL), r"\(a >> 1\) is 5, outside 0\.\.1"),
        (Binary("min", A, Const(20), Range(11, 20)), r"min\(a, 20\) is 10, outside 11\.\.20"),
        (Ticks(A, Const(ir.MAX_HZ), Range(0, 9)), r"ticks\(a, 1000000000\) is 10, outside 0\.\.9"),
        (Load("byte", (), BOOL), r"byte is 9, outside 0\.\.1"),
        (Not(Binary("and", A, Const(7), BOOL)), r"\(a & 7\) is 2, outside 0\.\.1"),
        (Binary("eq", A, Const(10), Range(0, 0)), r"\(a == 10\) is True, outside 0"),
    ],
)
def test_a_wrong_interval_is_a_fault(value: Expr, message: str) -> None:
    """What a mistaken compiler would make, past the verifier."""
    body = (Store("byte", (), Const(9)), Let("x", value), Return(Const(0)))
    module = bare(Function("f", (("a", U64),), U32, body), slots=SLOTS)
    f = Reference(module).bind(bytearray(module.size))["f"]
    with pytest.raises(ReferenceFault, match=message):
        f(0, 10)


def test_a_reset_that_forgets_a_slot_is_a_fault() -> None:
    module = bare(slots=(Slot("reload", Range(1, 65536), 4, 0, dims=((2, 0),), reset=1),))
    with pytest.raises(ReferenceFault, match=r"slot reload\[0\] holds 0, outside 1\.\.65536"):
        ReferenceInstance(module, 0)
    stores = tuple(Store("reload", (Const(i),), Const(1)) for i in range(2))
    functions = tuple(replace(f, body=stores) if f.name == "reset" else f for f in module.functions)
    ReferenceInstance(replace(module, functions=functions), 0)
