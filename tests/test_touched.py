"""Handlers say whether they stored anything on which lines, deadlines and observers depend."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from devc.compiler import ir
from devc.compiler.analysis import Analysis
from devc.compiler.driver import load
from devc.compiler.ir import BOOL, U8, U64, Binary, Call, Const, Do, If, Let, Return, Store, Var
from devc.compiler.reference import reference
from devc.compiler.touched import Touching, reachable
from devc.compiler.verify import verify

from .ir_samples import bare

V = Var("v", U8)
SEEN, OTHER = ir.Slot("seen", U64, 8, 0), ir.Slot("other", U64, 8, 0)


def even(value: ir.Expr) -> Binary:
    return Binary("eq", Binary("mod", value, Const(2), BOOL), Const(0), BOOL)


SAMPLES: dict[str, tuple[ir.Stmt, ...]] = {
    "stores only what nobody depends on": (Store("other", (), V),),
    "stores what others depend on": (Store("seen", (), V),),
    "stores it on one path": (If(even(V), (Store("seen", (), V),), (Store("other", (), V),)),),
    "returns before it stores": (If(Binary("lt", V, Const(9), BOOL), (Return(None),)), Store("seen", (), V)),
    "calls what stores it on one path": (Do(Call("callee", (V,), BOOL)), Store("other", (), V)),
    "calls it in a loop": (ir.Repeat(3, (Do(Call("callee", (V,), BOOL)),)),),
    "reads with an effect": (Let("r", Call("effect", (), U8)),),
    "has cases": (ir.Switch(V, (((1, 2), (Store("seen", (), V),)), ((3,), (Return(None),)))),),
}

EXPECTED = {  # for v = 0, 1, 2, 3, 12
    "stores only what nobody depends on": (0, 0, 0, 0, 0),
    "stores what others depend on": (1, 1, 1, 1, 1),
    "stores it on one path": (1, 0, 1, 0, 1),
    "returns before it stores": (0, 0, 0, 0, 1),
    "calls what stores it on one path": (1, 0, 1, 0, 1),
    "calls it in a loop": (1, 0, 1, 0, 1),
    "reads with an effect": (1, 1, 1, 1, 1),
    "has cases": (0, 1, 1, 0, 0),
}


def functions(body: tuple[ir.Stmt, ...]) -> dict[str, ir.Function]:
    on_even = If(even(V), (Store("seen", (), V),))
    made = (
        ir.Function("callee", (("v", U8),), None, (on_even,)),
        ir.Function("effect", (), U8, (Store("seen", (), Const(0)), Return(Const(1)))),
        ir.Function("write", (("v", U8),), None, body),
    )
    return {f.name: f for f in made}


@pytest.mark.parametrize("what", SAMPLES)
def test_a_handler_that(what: str) -> None:
    table = functions(SAMPLES[what])
    touching = Touching(table, Analysis(table), frozenset({"seen"}))
    name = touching.touching("write")
    module = bare(*table.values(), slots=(SEEN, OTHER))
    verify(module)
    asked = replace(module, functions=tuple(replace(f, exported=True) for f in module.functions))
    ask = reference(asked).bind(bytearray(module.size))[name]
    assert tuple(ask(0, v) for v in (0, 1, 2, 3, 12)) == EXPECTED[what]


KEPT = Let("kept", ir.Load("seen", (), U64))
ANSWERS: dict[str, tuple[ir.Stmt, ...]] = {
    "answers what is stored": (Return(ir.Load("seen", (), U64)),),
    "stores on one path": (KEPT, If(even(V), (Store("seen", (), V),)), Return(Var("kept", U64))),
    "answers what it has stored": (Store("seen", (), V), Return(ir.Load("seen", (), U64))),
    "returns what a reader returns": (Return(Call("reader", (V,), U64)),),
    "stores, and returns what a reader returns": (
        If(even(V), (Store("seen", (), Const(7)),)), Return(Call("reader", (V,), U64)),
    ),
    "reads with an effect on the way": (Let("r", Call("effect", (), U8)), Return(Const(3))),
    "returns within a case": (
        ir.Switch(V, (((1, 2), (Store("seen", (), V), Return(Const(5)))), ((3,), (Return(Const(6)),)))),
        Return(Const(8)),
    ),
}  # fmt: skip
COMMITTED = {
    # for v = 0, 1, 2, 3, 12: the answer (`seen` was 40) and what `commit` saw, 99 if it did not run
    "answers what is stored": ((40, 99),) * 5,
    "stores on one path": ((40, 0), (40, 99), (40, 2), (40, 99), (40, 12)),
    "answers what it has stored": ((0, 0), (1, 1), (2, 2), (3, 3), (12, 12)),
    "returns what a reader returns": ((40, 99), (40, 99), (40, 99), (40, 99), (40, 12)),
    "stores, and returns what a reader returns": (
        (7, 7),
        (40, 99),
        (7, 7),
        (40, 99),
        (7, 1000),
    ),  # twice, in the end
    "reads with an effect on the way": ((3, 0),) * 5,
    "returns within a case": ((8, 99), (5, 1), (5, 2), (6, 99), (8, 99)),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_a_read_that(what: str) -> None:
    """Its answer is what it was before `commit`, which changes `seen`, and which runs if it was stored."""
    large = If(Binary("lt", Const(9), V, BOOL), (Store("seen", (), V),))
    seen = ir.Load("seen", (), U64)
    commit = ir.Function("commit", (), None, (Store("other", (), seen), Store("seen", (), Const(1000))), True)
    reader = ir.Function("reader", (("v", U8),), U64, (KEPT, large, Return(Var("kept", U64))))
    read = ir.Function("read", (("v", U8),), U64, ANSWERS[what])
    table = {"commit": commit, **functions(()), "reader": reader, "read": read}
    name = Touching(table, Analysis(table), frozenset({"seen"})).committing("read")
    module = bare(*table.values(), slots=(replace(SEEN, offset=40), replace(OTHER, offset=48)))
    verify(module)
    asked = replace(module, functions=tuple(replace(f, exported=True) for f in module.functions))
    found = []
    for v in (0, 1, 2, 3, 12):
        state = bytearray(module.size)
        for slot, value in (("seen", 40), ("other", 99)):
            at = module.slot(slot).offset
            state[at : at + 8] = value.to_bytes(8, sys.byteorder)
        answer = reference(asked).bind(state)[name](0, v)
        at = module.slot("other").offset
        found.append((answer, int.from_bytes(state[at : at + 8], sys.byteorder)))
    assert tuple(found) == COMMITTED[what]


def test_register_c_commits_only_where_a_flag_was_set() -> None:
    module = load("mc146818").reference_module()
    names = {f.name for f in module.functions}
    assert {"c.read.commits", "cmos.read.commits", "data.read.commits"} <= names
    assert not any(slot.name.startswith("touched") for slot in module.slots)


def test_what_nothing_exported_calls_is_left_out() -> None:
    table = functions(SAMPLES["calls it in a loop"])
    table["write"] = ir.Function("write", (("v", U8),), None, table["write"].body, exported=True)
    assert [f.name for f in reachable(table)] == ["callee", "write"]


def test_a_latch_command_does_not_commit() -> None:
    module = load("i8254").reference_module()
    program = reference(module)
    functions = {f.name: f for f in module.functions}
    assert "control.write.touches" in functions
    state = bytearray(module.size)
    bound = program.bind(state)
    hz = module.slot("hz")
    state[hz.offset : hz.offset + hz.size] = hz.reset.to_bytes(hz.size, sys.byteorder)
    bound["reset"](0)
    settled = module.slot("settled")
    for command, commits in ((0x00, False), (0x34, True), (0xC2, False)):
        before = bytes(state[settled.offset : settled.offset + 8])
        bound["pit_write"](1_000, 3, 1, command)
        assert (before != state[settled.offset : settled.offset + 8]) == commits
        bound["reset"](0)
