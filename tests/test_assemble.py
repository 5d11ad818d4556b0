"""The guest assembler: what is laid out where, and errors with their place."""

from __future__ import annotations

import struct

import pytest
from devc.runtime import assemble as module
from devc.runtime.assemble import AssemblyError, assemble, program


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVC_CACHE", "")


def test_both_syntaxes_give_the_same_code() -> None:
    att = assemble("mov $0x34, %al; out %al, $0x43; in $0x40, %ax", 0)
    intel = assemble(".intel_syntax noprefix\nmov al, 0x34\nout 0x43, al\nin ax, 0x40", 0)
    assert att == intel == bytes.fromhex("b034 e643 e540")


@pytest.mark.parametrize(("bits", "code"), [(16, "b80500"), (32, "66b80500"), (64, "66b80500")])
def test_code_is_as_wide_as_asked(bits: int, code: str) -> None:
    assert assemble("mov $5, %ax", 0, bits) == bytes.fromhex(code)


def test_absolute_addresses_count_from_the_base() -> None:
    assert assemble("mov $there, %si; there: nop", 0x7C00) == b"\xbe" + struct.pack("<H", 0x7C03) + b"\x90"
    assert assemble("x: .long x", 0x123456, 32) == struct.pack("<I", 0x123456)
    assert assemble("x: .quad x", 0x12_3456_789A, 64) == struct.pack("<Q", 0x12_3456_789A)


def test_jumps_reach_other_sections_and_do_not_depend_on_the_base() -> None:
    text = ".section .data\nb: .byte 7\n.text\nmov b, %al\njmp far\n.skip 200\nfar: hlt\n"
    low, high = assemble(text, 0), assemble(text, 0x8000)
    assert low[-1] == high[-1] == 7
    assert low[3:-2] == high[3:-2]
    assert struct.unpack("<H", high[1:3])[0] == 0x8000 + len(high) - 1


def test_rip_relative_addresses_are_relocated() -> None:
    image = assemble(".data\nv: .quad 5\n.text\nlea v(%rip), %rcx\n", 0x100000, 64)
    (distance,) = struct.unpack("<i", image[3:7])
    assert image[7 + distance : 15 + distance] == struct.pack("<Q", 5)


def test_code_comes_first_then_data_then_zeros() -> None:
    image = assemble(".bss\n.skip 3\n.data\n.byte 2\n.section .rodata\n.byte 1\n.text\nhlt\n", 0)
    assert image[0] == 0xF4
    assert image[-3:] == b"\0\0\0"
    assert sorted(image[1:-3].replace(b"\0", b"")) == [1, 2]


def test_sections_are_aligned_by_address_not_by_offset() -> None:
    linked = program(".text\nnop\n.data\n.balign 16\nv: .byte 1\n", 0x1008)
    assert linked.symbols["v"] % 16 == 0
    assert linked.image[linked.symbols["v"] - linked.base] == 1


def test_labels_are_told() -> None:
    linked = program("nop\nentry: nop\n.global entry", 0x500)
    assert linked.symbols["entry"] == 0x501


def test_text_may_hold_anything_that_a_string_can() -> None:
    assert assemble('.ascii "a\\"b\\\\c;#\\n"', 0) == b'a"b\\c;#\n'
    assert assemble("# \N{GREEK SMALL LETTER PI}\nnop", 0) == b"\x90"
    assert assemble("", 0) == b""


def test_an_error_has_its_place_and_its_line() -> None:
    with pytest.raises(AssemblyError) as raised:
        assemble("nop\n\tfoo %ax\nnop", 0)
    error = raised.value
    assert (error.line, error.column, error.source) == (2, 2, "\tfoo %ax")
    assert str(error) == "line 2, column 2: invalid instruction mnemonic 'foo'\n\tfoo %ax\n\t^"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mov $nowhere, %ax", "label 'nowhere' is used but not defined"),
        ("mov $x, %al\nx:", "x is at 0x1002, which does not fit the 8 bits of its use at 0x1001"),
        ("jmp .+70000", "does not fit|too large"),
        (".skip 99999999999", "gave up"),
        ("x:\nx:", "already defined"),
        (".code16\n.macro m\nbad\n.endm\nm", "invalid instruction mnemonic 'bad'"),
        ("\1", "invalid character"),
        ("call *foo@GOT(%ebx)", "flat program|not defined"),
    ],
)
def test_what_is_no_program_is_an_error_and_never_ends_the_process(text: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        assemble(text, 0x1000)


def test_an_address_beyond_16_bits_says_how_to_mend_it() -> None:
    with pytest.raises(AssemblyError, match="load the program lower"):
        assemble("mov $x, %si\nx:", 0x10000)


def test_an_assembler_that_runs_away_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIME_LIMIT", 0.2)
    with pytest.raises(AssemblyError, match=r"not done after 0\.2 s"):
        assemble(".rept 100000000\nnop\n.endr", 0)


@pytest.mark.parametrize(("bits", "base"), [(8, 0), (16, -1), (64, 1 << 64)])
def test_widths_and_bases_are_checked(bits: int, base: int) -> None:
    with pytest.raises(AssemblyError):
        assemble("nop", base, bits)


def test_a_second_time_comes_from_the_cache(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVC_CACHE", f"{tmp_path}/cache")
    first = assemble("mov $0x1234, %cx", 0)
    monkeypatch.setattr(module, "_run_assembler", lambda *_: pytest.fail("assembled again"))
    assert assemble("mov $0x1234, %cx", 0) == first
