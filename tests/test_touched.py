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
