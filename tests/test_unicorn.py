"""The Unicorn host: what is particular to an emulator."""

from __future__ import annotations

import importlib.util

import pytest
from devc.runtime.assemble import assemble
from devc.runtime.hosts import HostError, Reason, pick, unicorn

from .stub_device import Board

CODE, RESULTS = 0x1000, 0x3000

needs_unicorn = pytest.mark.skipif(unicorn.available() is not None, reason=str(unicorn.available()))


def booted(board: Board, text: str) -> unicorn.UnicornHost:
    host = unicorn.UnicornHost(board.dispatcher)
    board.host = host
    host.load(assemble(text, CODE), CODE)
    host.boot(CODE)
    return host


@needs_unicorn
def test_pick_takes_unicorn_where_there_is_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    from devc.runtime.hosts import kvm

    monkeypatch.setattr(kvm, "available", lambda: "there is no /dev/kvm")
    host, why = pick()
    assert host is unicorn.UnicornHost
    assert why == "no kvm: there is no /dev/kvm"


def test_without_unicorn_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(unicorn, "_library", unicorn._library.__wrapped__)
    assert unicorn.available.__wrapped__() == "Unicorn is not installed; `pip install unicorn`"
    with pytest.raises(HostError, match="not installed"):
        unicorn.UnicornHost(Board().dispatcher)


@needs_unicorn
def test_an_unknown_instruction_ends_run_and_says_where() -> None:
    with booted(Board(), "xor %ax, %ax\n mov %ax, 24\n mov %ax, 26\n .byte 0x0f, 0xff\n hlt") as host:
        outcome = host.run(until=host.dispatcher.now() + 10**9)
    assert outcome.reason in (Reason.INTERNAL_ERROR, Reason.TIME)


@needs_unicorn
def test_code_changed_between_two_runs_is_seen() -> None:
    board = Board()
    with booted(board, "1: mov $1, %al\n out %al, $0xf4\n jmp 1b") as host:
        assert host.run().reason is Reason.STOPPED
        assert host.registers.rax == 1
        host.load(b"\xb0\x02", CODE)
        assert host.run().reason is Reason.STOPPED
        assert host.registers.rax == 2


@needs_unicorn
@pytest.mark.parametrize(
    "shadow",
    ["sti\n sti", "sti\n mov %bx, %ss", "sti\n .byte 0x26, 0x8e, 0xd3", "push %bx\n sti\n pop %ss"],
)
def test_no_interrupt_comes_between_a_stack_switch_and_its_second_half(shadow: str) -> None:
    board = Board()
    text = f"""
        movw $handler, 0x80
        movw $0, 0x82
        xor %bx, %bx
        mov $0x5000, %sp
        {shadow}
        mov $0x4000, %sp
    1:  cmpw $0, {RESULTS}
        je 1b
        cli
        out %al, $0xf4
        hlt
    handler:
        mov %sp, {RESULTS}
        iret"""
    with booted(board, text) as host:
        host.inject(0x20)
        assert host.run(until=host.dispatcher.now() + 10**9).reason is Reason.STOPPED
        sp = int.from_bytes(bytes(host.memory[RESULTS : RESULTS + 2]), "little")
    assert sp == 0x4000 - 6


@needs_unicorn
def test_an_interrupt_saves_what_iret_restores() -> None:
    board = Board()
    text = f"""
        movw $handler, 0x80
        movw $0, 0x82
        stc
        sti
    1:  jc 1b
        hlt
    handler:
        pushfw
        popw {RESULTS}
        mov %sp, %bp
        andw $0xfffe, 4(%bp)
        iret"""
    with booted(board, text) as host:
        host.inject(0x20)
        assert host.run().reason is Reason.HALTED
        inside = int.from_bytes(bytes(host.memory[RESULTS : RESULTS + 2]), "little")
        assert inside & 0x200 == 0
        assert host.registers.rflags & 0x201 == 0x200


@needs_unicorn
def test_an_access_is_completed_even_if_python_is_gone_when_it_is_asked() -> None:
    board = Board()
    with booted(board, "mov $0xe3, %dx\n in %dx, %ax\n hlt") as host:
        listen = host._listen

        def deaf() -> None:
            listen()
            host._ears = unicorn._PYTHON(lambda what: None)
            host._state.python = unicorn._address(host._ears)

        host._listen = deaf
        assert host.run().reason is Reason.HALTED
        assert host.registers.rax == 0xFFFF
        host._listen = listen
        host.boot(CODE)
        assert host.run().reason is Reason.HALTED
        assert host.registers.rax == 0xFF00 | board.answer + 3


@needs_unicorn
def test_every_exception_before_the_guest_stops_is_told() -> None:
    board = Board()

    def broken(access: object) -> None:
        raise ValueError("broken")

    board.served = broken
    with booted(board, "in $0xe0, %al\n in $0xe1, %al\n 1: jmp 1b") as host:
        with pytest.raises(ValueError, match="broken") as raised:
            host.run()
        assert raised.value.__notes__ == ["and before the guest stopped: ValueError('broken')"]
        assert host.run(until=host.dispatcher.now() + 10**6).reason is Reason.TIME
