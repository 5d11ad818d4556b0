"""The verifier's log: figures, reasons, instructions and lines, in the words of several kernels."""

from __future__ import annotations

import pytest
from devc.runtime import bpf
from devc.runtime.bpf_object import Linked, Place
from devc.runtime.verifier_log import Refusal, deepest, depths, figures, refusal

FIGURES = """verification time 976 usec
stack depth 24+8+0
processed 51 insns (limit 1000000) max_states_per_insn 1 total_states 3 peak_states 3 mark_read 0
"""

UNBOUNDED = """0: R1=ctx() R10=fp0
; u64 x = c->offset; @ x.c:18
0: (61) r1 = *(u32 *)(r1 +16)         ; R1=scalar(smin=0,smax=umax=0xffffffff)
; return state.arr[x]; } @ x.c:19
1: (67) r1 <<= 2                      ; R1=scalar(smin=0,smax=umax=0x3fffffffc)
2: (18) r2 = 0xffffc9000170a000       ; R2=map_value(map=x.data,ks=4,vs=80)
5: (61) r0 = *(u32 *)(r2 +8)
R2 unbounded memory access, make sure to bounds check any such access
verification time 51 usec
stack depth 0
processed 5 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

OLDER = """0: R1=ctx(id=0,off=0,imm=0) R10=fp0
; return state.arr[x]; }
5: (61) r0 = *(u32 *)(r2 +8)
 R0_w=inv(id=0) R2_w=map_value(id=0,off=0,ks=4,vs=80,imm=0) R10=fp0
invalid access to map value, value_size=80 off=132 size=4
R2 max value is outside of the allowed memory range
processed 5 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

CASES = {
    "an unbounded index": (
        UNBOUNDED,
        "R2 unbounded memory access, make sure to bounds check any such access",
        5,
    ),
    "two lines of a reason, and an older kernel": (
        OLDER,
        "invalid access to map value, value_size=80 off=132 size=4;"
        " R2 max value is outside of the allowed memory range",
        5,
    ),
    "a stack too deep": (
        "combined stack size of 2 calls is 704. Too large\nverification time 208 usec\nstack depth 304+400\n",
        "combined stack size of 2 calls is 704. Too large",
        None,
    ),
    "too much work": (
        "11: (63) *(u32 *)(r5 +8) = r3\nBPF program is too large. Processed 1000001 insn\nprocessed 9 insns",
        "BPF program is too large. Processed 1000001 insn",
        11,
    ),
    "a register's type, which has an equals sign": (
        "7: (85) call bpf_loop#181\nR2 type=scalar expected=func\n",
        "R2 type=scalar expected=func",
        7,
    ),
    "nothing": ("", "the verifier gives no reason", None),
}


@pytest.mark.parametrize("what", CASES)
def test_a_refusal_is_read(what: str) -> None:
    log, reason, index = CASES[what]
    found = refusal(log)
    assert (found.reason, found.index) == (reason, index)


def linked(*places: Place) -> Linked:
    return Linked("p", b"", bpf.Records(), bpf.Records(), places, {"p": 0, "f": 4}, ((1,), ()))


def test_the_line_is_the_last_one_before_the_instruction_that_has_a_number() -> None:
    places = Place(1, "d.dev", 10, 5, "one"), Place(4, "d.dev", 12, 1, "two"), Place(5, "d.dev", 0, 0, "")
    found = refusal(UNBOUNDED, linked(*places))
    assert found == Refusal(found.reason, 5, "(61) r0 = *(u32 *)(r2 +8)", places[1])


def test_a_line_of_the_function_before_is_not_taken() -> None:
    assert refusal(UNBOUNDED, linked(Place(3, "d.dev", 10, 5, "one"))).place is None


def test_figures_are_those_at_the_end() -> None:
    found = figures("stack depth is not told here\n" + FIGURES, ((1, 2), (2,), ()))
    assert (found.processed, found.states, found.microseconds, found.stack) == (51, 3, 976, 32)


def test_figures_that_an_older_kernel_does_not_tell_are_zero() -> None:
    found = figures("processed 51 insns (limit 1000000) max_states_per_insn 1")
    assert (found.processed, found.microseconds, found.stack) == (51, 0, 0)


def test_the_stack_is_that_of_the_deepest_chain_of_calls() -> None:
    assert depths(FIGURES) == [24, 8, 0]
    assert deepest([10, 100, 60, 50], ((1, 2), (), (3,), ())) == 120
    assert deepest([10, 100], ((1,), (0,))) == 110  # recursion, which the verifier refuses, ends here too
    assert deepest([10, 20], ()) == 30
