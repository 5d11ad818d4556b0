"""The verifier accepts what is valid and names what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from devc.compiler import ir
from devc.compiler.ir import (
    BOOL,
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
from devc.compiler.verify import (
    MAX_BLOCKS,
    MAX_DEPTH,
    MAX_LOOPS,
    IRError,
    verify,
)

from . import ir_random
from .ir_samples import bare, function, ticker

SLOTS = (
    Slot("byte", U8, 1, 0),
    Slot("word", U16, 2, 0),
    Slot("signed", Range(-5, 5), 1, 0),
    Slot("array", U8, 1, 0, dims=((4, 0),)),
    Slot("grid", Range(1, 9), 2, 0, dims=((2, 0), (3, 0)), reset=1),
    Slot("p", U8, 1, 0, kind="param"),
)
PARAMS = (ir.Param("p", U8, 0, "p"),)
A, B = Var("a", U8), Var("b", Range(-5, 5))
TEST = Binary("eq", A, Const(0), BOOL)


def around(*body: Stmt, result: Range | None = None, others: tuple[Function, ...] = ()) -> ir.Module:
    """A module with the statements as the body of `f(a: U8, b: -5..5)`."""
    f = Function("f", (("a", U8), ("b", Range(-5, 5))), result, body, line=40)
    return bare(*others, f, slots=SLOTS, params=PARAMS)


def value(expr: Expr) -> ir.Module:
    return around(Let("x", expr))


def refused(module: ir.Module, message: str) -> None:
    with pytest.raises(IRError) as caught:
        verify(module)
    assert message in str(caught.value)


# --- what is accepted ----------------------------------------------------------


def test_the_sample_device_is_accepted() -> None:
    verify(ticker())


@pytest.mark.parametrize("seed", range(100, 140))
def test_random_modules_are_accepted(seed: int) -> None:
    verify(ir_random.make(seed))


ACCEPTED: dict[str, ir.Module] = {
    "a local that both arms define": around(
        If(TEST, (Let("x", Const(1)),), (Let("x", Const(2)),)), Let("y", Var("x", U8))
    ),
    "a local that the only arm to get there defines": around(
        If(TEST, (Return(),), (Let("x", Const(2)),)), Let("y", Var("x", U8))
    ),
    "a local that a Repeat defines before its Break": around(
        Repeat(3, (Let("x", Const(2)), If(TEST, (Break(),)))), Let("y", Var("x", U8))
    ),
    "a Return in every case of a covered Switch": around(
        Switch(TEST, (((0,), (Return(Const(1)),)), ((1,), (Return(Const(2)),)))), result=U8
    ),
    "a Repeat that returns": around(Repeat(2, (Return(Const(1)),)), result=U8),
    "statements after a Return": around(Return(), Let("y", Var("x", U8)), Let("x", Const(1))),
    "a value of a part of the local's range": around(Let("x", Const(1)), Let("y", Var("x", U8))),
    "a declared type wider than the result": value(Binary("add", A, Const(1), U64)),
    "the widest unsigned sum": value(Binary("add", Const(2**64 - 2), Const(1), Range(2**64 - 1, 2**64 - 1))),
    "a comparison across signs": value(Binary("lt", B, Const(2**64 - 1), BOOL)),
}


@pytest.mark.parametrize("module", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(module: ir.Module) -> None:
    verify(module)


# --- expressions -----------------------------------------------------------------

FREQUENCY = Const(1000)
REFUSED: dict[str, tuple[ir.Module, str]] = {
    "a sum beyond its type": (
        value(Binary("add", A, Const(1), U8)),
        "f, body[0] (Let x, line 40): the result 1..256 is not within the declared type 0..255, in (a + 1)",
    ),
    "a difference below its type": (
        value(Binary("sub", A, Const(1), U8)),
        "the result -1..254 is not within the declared type 0..255, in (a - 1)",
    ),
    "a product beyond 64 bits": (
        value(Binary("mul", Const(2**32), Const(2**32), Range(0, 2**64))),
        "the type 0..18446744073709551616 does not fit 64 bits",
    ),
    "a type that is signed and beyond 63 bits": (
        value(Cond(TEST, Const(-1), Const(2**63), Range(-1, 2**63))),
        "the type -1..9223372036854775808 does not fit 64 bits",
    ),
    "a constant beyond 64 bits": (value(Const(2**64)), "does not fit 64 bits"),
    "a divisor that may be 0": (
        value(Binary("div", Const(1), A, U8)),
        "right operand of div is 0..255, outside 1..18446744073709551615, in (1 / a)",
    ),
    "a remainder by what may be 0": (value(Binary("mod", A, A, U8)), "right operand of mod is 0..255"),
    "a signed dividend": (value(Binary("div", B, Const(2), U8)), "left operand of div is -5..5"),
    "a negative bit operand": (value(Binary("and", A, B, U8)), "right operand of and is -5..5"),
    "a shift by 64": (value(Binary("shr", A, Const(64), U8)), "right operand of shr is 64, outside 0..63"),
    "a shift that loses bits": (value(Binary("shl", A, Const(1), U8)), "the result 0..510 is not within"),
    "a modular sum that is not of 64 bits": (
        value(Binary("addw", A, A, U8)),
        "the result 0..18446744073709551615 is not within the declared type 0..255",
    ),
    "Not of a number": (value(Not(A)), "the operand of not is 0..255, outside 0..1"),
    "a Cond on a number": (value(Cond(A, A, A, U8)), "the test is 0..255, outside 0..1"),
    "a Cond beyond its type": (value(Cond(TEST, A, B, U8)), "the result -5..255 is not within"),
    "a Narrow that widens": (
        value(Narrow(B, Range(-5, 6))),
        "Narrow from -5..5 to -5..6 does not only narrow",
    ),
    "Ticks at 0 Hz": (value(Ticks(Now(), A, U64)), "the frequency is 0..255, outside 1..1000000000"),
    "Ticks above 1 GHz": (
        value(Ticks(Now(), Const(10**9 + 1), U64)),
        "the frequency is 1000000001, outside 1..1000000000",
    ),
    "Ticks of a negative instant": (value(Ticks(B, FREQUENCY, U64)), "the instant is -5..5"),
    "Ticks beyond their type": (
        value(Ticks(Now(), FREQUENCY, U32)),
        "the result 0..18446744073709 is not within the declared type 0..4294967295",
    ),
    "Nanos at 0 Hz": (value(Nanos(A, A)), "the frequency is 0..255"),
    "Nanos of negative ticks": (value(Nanos(B, FREQUENCY)), "the number of ticks is -5..5"),
    "an unknown slot": (value(Load("none", (), U8)), "there is no slot none"),
    "a Load below the slot's range": (
        value(Load("word", (), U8)),
        "the result 0..65535 is not within the declared type 0..255, in word",
    ),
    "an index out of bounds": (
        value(Load("array", (Const(4),), U8)),
        "index 4 of array is 4, outside 0..3, in array[4]",
    ),
    "an index that may be out of bounds": (value(Load("array", (A,), U8)), "index a of array is 0..255"),
    "a negative index": (value(Load("array", (Const(-1),), U8)), "index -1 of array is -1, outside 0..3"),
    "an inner index out of bounds": (
        value(Load("grid", (Const(1), Const(3)), Range(1, 9))),
        "index 3 of grid is 3, outside 0..2",
    ),
    "a missing index": (value(Load("grid", (Const(1),), U8)), "slot grid takes 2 indices, not 1"),
    "an index of a plain slot": (value(Load("byte", (Const(0),), U8)), "slot byte takes 0 indices, not 1"),
    "an error deep in an expression": (
        value(Binary("and", Not(Not(Binary("eq", Binary("div", A, A, U8), A, BOOL))), A, BOOL)),
        "right operand of div is 0..255",
    ),
}

CALLEE = Function("g", (("n", U8),), U8, (Return(Var("n", U8)),))
CHANGES = Function("h", (), U8, (Store("byte", (), Const(1)), Return(Const(1))))
SILENT = Function("s", (), None, ())
BODIES: dict[str, tuple[ir.Module, str]] = {
    "an unknown local": (around(Let("x", Var("y", U8))), "y has no value on some path to here, in y"),
    "a local of one arm": (
        around(If(TEST, (Let("x", Const(1)),)), Let("y", Var("x", U8))),
        "f, body[1] (Let y, line 40): x has no value on some path to here",
    ),
    "a local of one case": (
        around(Switch(A, (((1,), (Let("x", Const(1)),)),)), Let("y", Var("x", U8))),
        "x has no value on some path to here",
    ),
    "a local defined after a Break": (
        around(Repeat(2, (If(TEST, (Break(),)), Let("x", Const(1)))), Let("y", Var("x", U8))),
        "x has no value on some path to here",
    ),
    "a local of two types": (
        around(Let("x", Const(1)), Let("y", Var("x", U8)), Let("z", Var("x", U16))),
        "x is both 0..255 and 0..65535",
    ),
    "a local given more than its type": (
        around(Let("x", Const(256)), Let("y", Var("x", U8))),
        "the value 256 is 256, outside 0..255",
    ),
    "a parameter that is assigned": (around(Let("a", Const(1))), "a is a parameter, which keeps its value"),
    "a Store beyond the slot": (
        around(If(TEST, (), (Store("signed", (), A, line=17),))),
        "f, body[0].orelse[0] (Store signed, line 17): the value a for signed is 0..255, outside -5..5",
    ),
    "a Store out of bounds": (around(Store("array", (A,), Const(0))), "index a of array is 0..255"),
    "a Store to a parameter": (
        around(Store("p", (), Const(0))),
        "p is a parameter of the device, which is constant after init",
    ),
    "a Store to no slot": (around(Store("none", (), Const(0))), "there is no slot none"),
    "an If on a number": (around(If(A, ())), "the test is 0..255, outside 0..1"),
    "a case outside the value": (
        around(Switch(A, (((256,), ()),))),
        "a case is 256, outside 0..255",
    ),
    "a case listed twice": (
        around(Switch(A, (((1, 2), ()), ((2,), ())))),
        "a value is listed by two cases",
    ),
    "an error in a case": (
        around(Switch(A, (((7, 8), (Let("x", Var("y", U8)),)),))),
        "body[0].case 7[0] (Let x, line 40): y has no value",
    ),
    "a Repeat of 0 times": (around(Repeat(0, ())), "Repeat 0 times"),
    "a Break outside of a Repeat": (around(If(TEST, (Break(),))), "Break outside of a Repeat"),
    "a path without Return": (
        around(If(TEST, (Return(Const(1)),)), result=U8),
        "function f: has a result (0..255) but can end without Return",
    ),
    "a Switch that misses a Return": (
        around(Switch(A, (((1,), (Return(Const(1)),)),)), result=U8),
        "can end without Return",
    ),
    "a Repeat that may leave before its Return": (
        around(Repeat(2, (If(TEST, (Break(),)), Return(Const(1)))), result=U8),
        "can end without Return",
    ),
    "a Return beyond the result": (around(Return(Const(256)), result=U8), "256 is 256, outside 0..255"),
    "a Return without its value": (around(Return(), result=U8), "a value is missing"),
    "a Return of what is not asked": (around(Return(Const(1))), "by a function without a result"),
    "a call of nothing": (around(Do(Call("none", (), U8))), "none is not a function that stands before"),
    "a recursion": (around(Do(Call("f", (A, B), U8))), "f is not a function that stands before this one"),
    "a call of a later function": (
        bare(Function("f", (), None, (Do(Call("g", (Const(1),), U8)),)), CALLEE),
        "g is not a function that stands before this one",
    ),
    "too few arguments": (
        around(Let("x", Call("g", (), U8)), others=(CALLEE,)),
        "g takes 1 arguments, not 0",
    ),
    "an argument out of range": (
        around(Let("x", Call("g", (B,), U8)), others=(CALLEE,)),
        "argument n of g is -5..5, outside 0..255",
    ),
    "a call's type below the result": (
        around(Let("x", Call("g", (A,), BOOL)), others=(CALLEE,)),
        "the result 0..255 is not within the declared type 0..1, in g(a)",
    ),
    "a value of what has none": (around(Let("x", Call("s", (), U8)), others=(SILENT,)), "s has no result"),
    "a negative instant of a call": (
        around(Do(Call("s", (), U8, now=B)), others=(SILENT,)),
        "the instant of a call is -5..5",
    ),
    "an effect inside of an expression": (
        around(Let("x", Binary("add", Call("h", (), U8), A, U16)), others=(CHANGES,)),
        "a call with effects (h) must be the whole value of its statement",
    ),
    "an effect beside a moving index": (
        around(
            Store("array", (Binary("mod", A, Const(4), Range(0, 3)),), Call("h", (), U8)), others=(CHANGES,)
        ),
        "a call with effects (h) must be the whole value of its statement",
    ),
    "an effect in an argument": (
        around(Do(Call("g", (Call("h", (), U8),), U8)), others=(CALLEE, CHANGES)),
        "a call with effects (h) must be the whole value of its statement",
    ),
    "a function's name twice": (around(others=(SILENT, SILENT)), "function s: the name is used twice"),
    "a parameter's name twice": (
        bare(Function("f", (("a", U8), ("a", U8)), None, ())),
        "function f: a parameter's name is used twice",
    ),
    "a parameter beyond 64 bits": (
        bare(Function("f", (("a", Range(-1, 2**63)),), None, ())),
        "function f: a has the type -1..9223372036854775808, which does not fit 64 bits",
    ),
}


@pytest.mark.parametrize(
    ("module", "message"), [*REFUSED.values(), *BODIES.values()], ids=[*REFUSED, *BODIES]
)
def test_refused_in_a_body(module: ir.Module, message: str) -> None:
    refused(module, message)


def nested(depth: int, wrap: Callable[[Any], Any], core: Any) -> Any:
    for _ in range(depth):
        core = wrap(core)
    return core


def test_nesting_is_bounded_so_that_back_ends_may_recurse() -> None:
    deep = nested(MAX_DEPTH - 1, lambda e: Binary("or", e, A, U8), A)
    verify(value(deep))
    refused(value(Binary("or", deep, A, U8)), f"an expression nests deeper than {MAX_DEPTH}")
    refused(value(nested(100_000, Not, TEST)), f"an expression nests deeper than {MAX_DEPTH}")
    verify(around(nested(MAX_BLOCKS, lambda s: If(TEST, (s,)), Return())))
    refused(
        around(nested(MAX_BLOCKS + 1, lambda s: If(TEST, (), (s,)), Return())),
        f"blocks nest deeper than {MAX_BLOCKS}",
    )
    verify(around(nested(MAX_LOOPS, lambda s: Repeat(2, (s,)), Break())))
    refused(around(nested(MAX_LOOPS + 1, lambda s: Repeat(2, (s,)), Break())), "Repeats nest deeper")


# --- the module around the bodies ------------------------------------------------


def with_slot(**changes: Any) -> ir.Module:
    """The base module with its slot `word` (2 bytes at 34) changed."""
    module = around()
    slots = tuple(replace(s, **changes) if s.name == "word" else s for s in module.slots)
    return replace(module, slots=slots)


def without(name: str) -> ir.Module:
    module = ticker()
    return replace(module, functions=tuple(f for f in module.functions if f.name != name))


def changed(name: str, **changes: Any) -> ir.Module:
    module = ticker()
    made = tuple(replace(f, **changes) if f.name == name else f for f in module.functions)
    return replace(module, functions=made)


def region(**changes: Any) -> ir.Module:
    module = ticker()
    return replace(module, regions=(replace(module.regions[0], **changes),))


def python(*reads: tuple[str, str, tuple[int, ...]]) -> ir.Module:
    return replace(around(), pythons=(ir.Python("py", "f.py", "observer", "why", reads, ()),))


NO_HEADER = replace(around(), slots=around().slots[1:])
LEVELS = function("levels", (), U32, Store("byte", (), Const(1)), Return(Const(0)))
LAYOUTS: dict[str, tuple[ir.Module, str]] = {
    "a device that C cannot name": (replace(around(), name="a-b"), "'a-b' is not a name that C can link to"),
    "a version beyond 32 bits": (replace(around(), version=2**32), "version 4294967296 is outside"),
    "a size that is no multiple of 8": (replace(around(), size=60), "size 60 is not a multiple of 8"),
    "a state of a gigabyte": (
        replace(around(), size=2**30),
        "size 1073741824 is not a multiple of 8 in 40..",
    ),
    "a state without the header": (NO_HEADER, "the slots do not begin with HEADER"),
    "a second header": (with_slot(kind="header"), "slot word is of kind header, but not in HEADER"),
    "a slot's name twice": (with_slot(name="byte"), "slot byte is declared 2 times"),
    "a type too wide for the slot": (
        with_slot(type=Range(0, 65536)),
        "slot word of type 0..65536 does not fit 2 bytes",
    ),
    "a signed type too wide for the slot": (
        with_slot(type=Range(-1, 32768)),
        "slot word of type -1..32768 does not fit 2 bytes",
    ),
    "an empty type": (with_slot(type=Range(3, 2)), "slot word of type 3..2 does not fit 2 bytes"),
    "a slot of 3 bytes": (with_slot(size=3), "slot word has 3 bytes; allowed are 1, 2, 4 and 8"),
    "a reset out of range": (with_slot(reset=-1), "slot word resets to -1, outside 0..65535"),
    "an unaligned slot": (with_slot(offset=57), "slot word at offset 57 is not aligned to its 2 bytes"),
    "a slot over another": (with_slot(offset=40), "slots byte and word overlap at byte 40"),
    "a slot over the header": (with_slot(offset=30), "overlap at byte 30"),
    "a slot beyond the struct": (with_slot(offset=64), "at bytes 64..65 is not within the struct's 64 bytes"),
    "an array beyond the struct": (
        with_slot(dims=((100, 2),)),
        "slot word at bytes 42..241 is not within the struct's 64 bytes",
    ),
    "an unaligned stride": (with_slot(dims=((2, 3),)), "slot word has a stride of 3"),
    "elements over one another": (with_slot(dims=((2, 0),)), "slot word has a stride of 0"),
    "an empty array": (with_slot(dims=((0, 2),)), "slot word has a dimension of 0 elements"),
    "a parameter without a slot": (
        replace(around(), params=(*PARAMS, ir.Param("q", U8, 0, "q"))),
        "parameter q needs a slot q of kind param",
    ),
    "a parameter of another type than its slot": (
        replace(around(), params=(ir.Param("p", BOOL, 0, "p"),)),
        "parameter p needs a slot p of kind param and of its own type",
    ),
    "a parameter slot without a parameter": (
        replace(around(), params=()),
        "slot p is of kind param, but no parameter's",
    ),
    "a default out of range": (
        replace(around(), params=(ir.Param("p", U8, 256, "p"),)),
        "parameter p has the default 256, outside 0..255",
    ),
    "a base that is no parameter": (region(base="where"), "its base in where, which is no parameter"),
    "ports beyond 64 K": (region(base=0xFFF8), "region ports at 0xfff8 is not within its space"),
    "an unknown space": (region(space="sound"), "is in an unknown space sound"),
    "an empty region": (region(size=0), "has the size 0"),
    "a register beyond the region": (region(size=8), "register bias is not within its 8 bytes"),
    "lines without a place for their edges": (
        replace(around(), lines=(ir.Line("irq"),)),
        "needs a slot rises of type U32 and dimension 1",
    ),
    "an observer of no slot": (python(("x", "none", ())), "python py: x is not an element of a slot"),
    "an observer without an index": (python(("x", "array", ())), "x is not an element of a slot"),
    "an observer out of bounds": (python(("x", "array", (4,))), "python py: x is outside of slot array"),
    "no settle": (without("settle"), "function settle is missing, or not exported"),
    "no read of a region": (without("ports_read"), "function ports_read is missing, or not exported"),
    "a settle that stays internal": (changed("settle", exported=False), "function settle is missing, or not"),
    "a read without its width": (
        changed("ports_read", params=(("offset", U32),)),
        "function ports_read has not the signature that the ABI gives it",
    ),
    "a write with a result": (changed("ports_write", result=U64), "ports_write has not the signature"),
    "an export that the ABI does not know": (
        bare(function("init", (), None)),
        "function init is exported, but docs/abi.md has no such symbol",
    ),
    "levels that change the state": (
        bare(LEVELS, slots=SLOTS, params=PARAMS),
        "function levels: must be pure, but changes the state",
    ),
}


@pytest.mark.parametrize(("module", "message"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_refused_around_the_bodies(module: ir.Module, message: str) -> None:
    refused(module, message)


def test_a_function_is_impure_if_what_it_calls_is() -> None:
    inner = Function("inner", (), None, (Store("byte", (), Const(1)),))
    levels = function("levels", (), U32, Do(Call("inner", (), BOOL)), Return(Const(0)))
    module = bare(slots=SLOTS, params=PARAMS)
    rest = tuple(f for f in module.functions if f.name != "levels")
    refused(replace(module, functions=(inner, levels, *rest)), "levels: must be pure")
