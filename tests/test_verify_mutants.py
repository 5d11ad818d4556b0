"""Random valid modules with one node mutated: the verifier refuses each, and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from random import Random
from typing import Any, get_args

import pytest
from devc.compiler import intervals, ir
from devc.compiler.ir import (
    U64,
    Binary,
    Call,
    Const,
    Load,
    Nanos,
    Narrow,
    Range,
    Return,
    Store,
    Switch,
    Ticks,
    Var,
)
from devc.compiler.verify import IRError, statements, verify

from . import ir_random


def rewritten(node: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with `change` applied from the root; where it changes, no deeper."""
    made = change(node)
    if made is not node:
        return made
    if isinstance(node, tuple):
        return tuple(rewritten(each, change) for each in node)
    if is_dataclass(node) and not isinstance(node, Range):
        return replace(node, **{f.name: rewritten(getattr(node, f.name), change) for f in fields(node)})  # type: ignore[type-var]
    return node


def shrunk(e: Any) -> Any:
    """A result type that misses its greatest value."""
    if not isinstance(e, Binary) or e.op in ("addw", "subw", "mulw"):
        return e
    exact = intervals.result(e.op, e.left.type, e.right.type)
    return replace(e, type=Range(exact.lo - 1, exact.hi - 1))


def index_moved(e: Any) -> Any:
    return replace(e, index=(*e.index[:-1], Const(8))) if isinstance(e, Load | Store) and e.index else e


def divided_by_zero(e: Any) -> Any:
    return (
        replace(e, right=Binary("sub", e.right, e.right, U64))
        if isinstance(e, Binary) and e.op in ("div", "mod")
        else e
    )


def unnamed(e: Any) -> Any:
    return replace(e, name="nobody") if isinstance(e, Var) else e


def slowed(e: Any) -> Any:
    return replace(e, hz=Const(0)) if isinstance(e, Ticks | Nanos) else e


def widened(e: Any) -> Any:
    return replace(e, type=Range(e.operand.type.lo - 1, e.type.hi)) if isinstance(e, Narrow) else e


def recursive(e: Any) -> Any:
    return replace(e, function="window_write") if isinstance(e, Call) else e


def overflowing(e: Any) -> Any:
    return (
        replace(e, value=Const(2**64 - 1))
        if isinstance(e, Store) and e.slot in ("lines", "leave", "watch")
        else e
    )


def unshaped(e: Any) -> Any:
    return replace(e, cases=(*e.cases, (e.cases[0][0], ()))) if isinstance(e, Switch) else e


MUTATIONS: dict[Callable[[Any], Any], tuple[str, ...]] = {
    shrunk: ("is not within the declared type", "does not fit 64 bits"),  # the latter for a lowest lo
    index_moved: ("outside 0..",),
    divided_by_zero: ("is not within the declared type", "right operand of"),
    unnamed: ("nobody has no value", "nobody is both"),
    slowed: ("the frequency is 0",),
    widened: ("does not only narrow", "does not fit 64 bits"),
    recursive: ("window_write is not a function that stands before this one",),
    overflowing: ("outside 0..4294967295",),
    unshaped: ("a value is listed by two cases",),
}


def mutants(module: ir.Module, mutate: Callable[[Any], Any], rng: Random) -> Iterator[ir.Module]:
    """The module with one node mutated, a few times, somewhere else each time."""
    for _ in range(4):
        skip = rng.randrange(40)
        done = False

        def change(node: Any) -> Any:
            nonlocal skip, done
            made = node if done else mutate(node)
            if made is node:
                return node
            skip -= 1
            done = skip < 0
            return made if done else node

        made = replace(module, functions=rewritten(module.functions, change))
        if done:
            yield made


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda m: m.__name__)
def test_mutants_of_random_modules_are_refused(mutate: Callable[[Any], Any]) -> None:
    rng, found = Random(1), 0
    for seed in range(8):
        for mutant in mutants(ir_random.make(seed), mutate, rng):
            found += 1
            with pytest.raises(IRError) as caught:
                verify(mutant)
            assert any(message in str(caught.value) for message in MUTATIONS[mutate])
    assert found >= 5


def test_dropping_a_functions_last_return_is_refused() -> None:
    module = ir_random.make(3)
    for i, f in enumerate(module.functions):
        if f.result is not None and isinstance(f.body[-1], Return):
            cut = (*module.functions[:i], replace(f, body=f.body[:-1]), *module.functions[i + 1 :])
            with pytest.raises(IRError, match="can end without Return"):
                verify(replace(module, functions=cut))


def test_every_kind_of_node_is_in_the_random_modules() -> None:
    seen: set[type[Any]] = set()

    def note(node: Any) -> Any:
        seen.add(type(node))
        return node

    ops: set[str] = set()
    for seed in range(12):
        module = ir_random.make(seed)
        rewritten(module.functions, note)
        ops |= {str(b) for f in module.functions for s in statements(f.body) for b in _operators(s)}
    assert seen >= {*get_args(ir.Expr), *get_args(ir.Stmt)}
    assert ops == set(get_args(ir.BinaryOp))


def _operators(node: Any) -> Iterator[str]:
    if isinstance(node, Binary):
        yield node.op
    if isinstance(node, tuple):
        for each in node:
            yield from _operators(each)
    elif is_dataclass(node):
        for f in fields(node):
            yield from _operators(getattr(node, f.name))
