"""The 16550A, as drivers and the loop-back test meet it."""

from __future__ import annotations

import pytest
from devc.runtime.machine import Machine
from devc.runtime.pc.uart import FIFO, Uart

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(0x3F8, 0x400)
READY, OVERRUN, EMPTY, IDLE = 0x01, 0x02, 0x20, 0x40
NONE, TRANSMITTER, RECEIVED, TIMEOUT, STATUS = 0x01, 0x02, 0x04, 0x0C, 0x06


class Port:
    """A driver over a machine's ports."""

    def __init__(self) -> None:
        self.sent = b""
        self.levels: list[int] = []
        self.machine = Machine()
        self.uart = Uart(self._take, self.levels.append)
        self.uart.claim(self.machine)

    def _take(self, data: bytes) -> None:
        self.sent += data

    def __getitem__(self, port: int) -> int:
        return self.machine.read("io", port, 1)

    def __setitem__(self, port: int, value: int) -> None:
        self.machine.write("io", port, 1, value)


@pytest.fixture
def port() -> Port:
    return Port()


def test_what_is_written_leaves_at_once(port: Port) -> None:
    for byte in b"hello":
        assert port[LSR] == EMPTY | IDLE
        port[DATA] = byte
    assert port.sent == b"hello"


def test_the_divisor_is_behind_the_divisor_access_bit(port: Port) -> None:
    port[LCR] = 0x83
    port[DATA], port[IER] = 0x34, 0x12
    assert (port[DATA], port[IER]) == (0x34, 0x12)
    port[LCR] = 0x03
    assert (port[IER], port.sent) == (0, b"")


def test_the_scratch_register_keeps_what_is_written(port: Port) -> None:
    port[SCR] = 0x5A
    assert port[SCR] == 0x5A


def test_fifos_show_in_the_identification(port: Port) -> None:
    assert port[IIR] == NONE
    port[IIR] = 1
    assert port[IIR] == 0xC0 | NONE


def test_received_characters_wait_for_the_guest(port: Port) -> None:
    port.uart.receive(b"ab")
    assert port[LSR] & READY
    assert (port[DATA], port[DATA], port[LSR] & READY) == (ord("a"), ord("b"), 0)


def test_more_than_the_fifo_holds_waits_outside_and_nothing_is_lost(port: Port) -> None:
    port[IIR] = 1
    port.uart.receive(bytes(range(40)))
    assert len(port.uart.registers.received) == FIFO
    assert [port[DATA] for _ in range(40)] == list(range(40))
    assert not port[LSR] & OVERRUN


@pytest.mark.parametrize(("count", "identity"), [(3, TIMEOUT), (4, RECEIVED), (9, RECEIVED)])
def test_below_the_trigger_level_it_is_a_time_out(port: Port, count: int, identity: int) -> None:
    port[IIR], port[IER] = 0x41, 1
    port.uart.receive(bytes(count))
    assert port[IIR] == 0xC0 | identity


def test_the_pin_needs_out2(port: Port) -> None:
    port[IER] = 1
    port.uart.receive(b"x")
    assert port.levels == []
    port[MCR] = 8
    assert port.levels == [1]
    assert port[DATA] == ord("x")
    assert port.levels == [1, 0]


def test_the_transmitters_interrupt_comes_when_enabled_and_goes_when_identified(port: Port) -> None:
    port[MCR], port[IER] = 8, 2
    assert (list(port.levels), port[IIR], port[IIR]) == ([1], TRANSMITTER, NONE)
    port[DATA] = 1
    assert (list(port.levels), port[IIR]) == ([1, 0, 1], TRANSMITTER)


def test_received_data_goes_before_the_transmitter(port: Port) -> None:
    port[IER] = 3
    port.uart.receive(b"x")
    assert port[IIR] == RECEIVED
    assert port[DATA] == ord("x")
    assert port[IIR] == TRANSMITTER


def test_loop_back_returns_characters_and_modem_lines_and_sends_nothing(port: Port) -> None:
    port[MCR] = 0x1A
    assert port[MSR] & 0xF0 == 0x90
    port[DATA] = 0x55
    assert (port[DATA], port.sent, port.levels) == (0x55, b"", [])


def test_loop_back_overruns_without_a_fifo(port: Port) -> None:
    port[MCR], port[IER] = 0x10, 4
    port[DATA], port[DATA] = 1, 2
    assert port[IIR] == STATUS
    assert port[LSR] & (OVERRUN | READY) == OVERRUN | READY
    assert port[LSR] & OVERRUN == 0


def test_a_terminal_is_there_and_ready(port: Port) -> None:
    assert port[MSR] == 0xB0


def test_clearing_the_fifo_empties_it(port: Port) -> None:
    port[IIR] = 1
    port[MCR] = 0x10
    port[DATA] = 1
    port[IIR] = 3
    assert not port[LSR] & READY


def test_a_wide_access_is_bytes_side_by_side(port: Port) -> None:
    port.machine.write("io", LCR, 2, 0x0B03)
    assert (port[LCR], port[MCR]) == (3, 0x0B)
    assert port.machine.read("io", LCR, 2) == 0x0B03


def test_reset_clears_the_registers(port: Port) -> None:
    port[MCR], port[IER] = 8, 2
    port.uart.reset()
    assert (port[MCR], port[IER], port.levels[-1]) == (0, 0, 0)
