"""The dispatcher's use of compiled handlers: whom it calls with what, what it makes of their answers."""

from __future__ import annotations

import ctypes

import pytest
from devc.compiler.ir import ATTENTION_DEADLINE, ATTENTION_LEAVE, ATTENTION_LINES
from devc.runtime.bus import HANDLER_CHANGED, HANDLER_FAILED, Access, HandlerEntry, StateHeader
from devc.runtime.dispatch import Dispatcher, Outcome

from .stub_device import LEAVE, Stub

NUMBER = 5  # what the stub leaves for
BASE = 0x40

_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64
Handler = ctypes.CFUNCTYPE(_U32, _U64, _U64, _U32, _U32, _U64, ctypes.POINTER(_U64))
Commit = ctypes.CFUNCTYPE(None, _U64, _U64)


class Bench:
    """A stub behind a dispatcher, its handlers and its commit function in ctypes."""

    def __init__(self, entries: int = NUMBER + 1, *, missing: bool = False) -> None:
        self.dispatcher = Dispatcher()
        self.stub = Stub().place(self.dispatcher, "io", BASE)
        self.status, self.answer, self.wants = 0, 0x1122334455667788, 0
        self.calls: list[tuple[int, ...]] = []
        self.commits: list[tuple[int, int]] = []
        self.attended: list[tuple[Outcome, int]] = []
        self._read, self._write = Handler(self._handle), Handler(self._handle)
        self._commit_fn = Commit(self._commit)
        self.table = (HandlerEntry * entries)()
        if not missing:
            last = self.table[entries - 1]
            last.read, last.write = (ctypes.cast(f, ctypes.c_void_p).value for f in (self._read, self._write))
        commit = ctypes.cast(self._commit_fn, ctypes.c_void_p).value or 0
        self.dispatcher.add_device(self.stub.address, 0, commit, self.table)
        self.dispatcher.attend = self._attend

    def _handle(self, state: int, now: int, offset: int, width: int, value: int, answer: object) -> int:
        assert state == self.stub.address
        self.calls.append((now, offset, width, value))
        answer[0] = self.answer  # type: ignore[index]
        return self.status

    def _commit(self, state: int, now: int) -> None:
        self.commits.append((state, now))
        header = StateHeader.from_address(state)
        assert not header.attention & ATTENTION_LEAVE
        header.attention |= self.wants

    def _attend(self, access: Access) -> None:
        self.attended.append((Outcome(access.outcome), access.attention))
        if access.outcome == Outcome.HEAVY:
            access.answer(0x99)
        self.stub.state.attention = 0

    def read(self, width: int = 1, offset: int = LEAVE) -> int:
        return self.dispatcher.access(0, BASE + offset, width, False, now=7)[1]

    def counts(self) -> tuple[int, int, int, int]:
        c = self.dispatcher.stats(self.stub.handle)[LEAVE]
        return c.light_reads, c.light_writes, c.heavy_reads, c.heavy_writes


def test_a_compiled_handler_serves_what_is_left_and_the_exit_is_light() -> None:
    bench = Bench()
    assert bench.read() == 0x88, "masked to the width"
    assert bench.calls == [(7, LEAVE, 1, 0)]
    assert (bench.commits, bench.attended, bench.counts()) == ([], [], (1, 0, 0, 0))
    assert bench.stub.state.attention == 0


def test_a_compiled_handler_is_given_its_piece_of_a_value() -> None:
    bench = Bench()
    bench.dispatcher.access(0, BASE + LEAVE, 1, True, 0xFEDC, now=8)
    assert bench.calls == [(8, LEAVE, 1, 0xDC)]
    assert bench.counts() == (0, 1, 0, 0)


def test_what_a_compiled_handler_changed_is_committed_once() -> None:
    bench = Bench()
    bench.status = HANDLER_CHANGED
    assert bench.read() == 0x88
    assert bench.commits == [(bench.stub.address, 7)]
    assert bench.counts() == (1, 0, 0, 0)


def test_lines_that_a_commit_changed_are_attended_to() -> None:
    bench = Bench()
    bench.status, bench.wants = HANDLER_CHANGED, ATTENTION_LINES
    assert bench.read() == 0x88
    assert bench.attended == [(Outcome.ATTENTION, ATTENTION_LINES)]


def test_a_deadline_that_a_commit_moved_is_noted() -> None:
    bench = Bench()
    bench.dispatcher.earliest()
    bench.status, bench.wants = HANDLER_CHANGED, ATTENTION_DEADLINE
    bench.read()
    assert bench.dispatcher.bus.moved != 0
    assert (bench.attended, bench.stub.state.attention) == ([], 0)


@pytest.mark.parametrize("why", ["it failed", "there is none", "the table ends before"])
def test_without_a_compiled_handlers_answer_the_access_is_pythons(why: str) -> None:
    bench = Bench(NUMBER if why == "the table ends before" else NUMBER + 1, missing=why == "there is none")
    bench.status = HANDLER_FAILED
    assert bench.read() == 0x99
    assert bench.attended == [(Outcome.HEAVY, ATTENTION_LEAVE)]
    assert (bench.commits, bench.counts()) == ([], (0, 0, 1, 0))
    assert len(bench.calls) == (why == "it failed")


def test_a_region_that_is_forced_to_python_is_not_served_by_compiled_handlers() -> None:
    bench = Bench()
    bench.dispatcher.serve_in_python(bench.stub.handle, True)
    assert bench.read() == 0x99
    assert bench.calls == []
