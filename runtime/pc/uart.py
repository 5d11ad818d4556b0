"""A 16550A serial port (National Semiconductor PC16550D, 1995; section numbers are its).

    port = Uart(write=sys.stdout.buffer.write)
    port.claim(machine, 0x3F8)
    port.pin = ...            # INTRPT, gated by OUT2 as on a PC's card
    port.receive(b"hello")

Characters leave at once and arrive as fast as the guest takes them: the baud rate
is a number it may set. Non-goals: parity, framing and break, modem lines that move.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..machine import Machine
from .parts import bits, flag, octets
from .pins import Bytewise, Pin, unconnected

COM1 = 0x3F8
COM1_IRQ = 4
_PORTS = 8

_DATA, _IER, _IIR, _LCR, _MCR, _LSR, _MSR, _SCR = range(8)
_FCR = _IIR

# 8.7 Interrupt Enable Register
_RECEIVED_ENABLE, _EMPTY_ENABLE, _STATUS_ENABLE = 1, 2, 4
# 8.5 Interrupt Identification Register, by priority
_ID_STATUS, _ID_RECEIVED, _ID_TIMEOUT, _ID_EMPTY, _ID_NONE = 0x06, 0x04, 0x0C, 0x02, 0x01
_FIFOS_ON = 0xC0
# 8.4 FIFO Control Register
_ENABLE_FIFOS, _CLEAR_RECEIVED = 1, 2
_TRIGGERS = (1, 4, 8, 14)
# 8.3 Line Status Register
_DATA_READY, _OVERRUN, _EMPTY, _IDLE = 0x01, 0x02, 0x20, 0x40
_DIVISOR_ACCESS = 0x80
# 8.8 Modem Control Register
_OUT2, _LOOP = 0x08, 0x10
# 8.9 Modem Status Register: a terminal that is there and ready.
_READY = 0xB0  # DCD, DSR, CTS

FIFO = 16
QUEUE = 1 << 16
"""Characters that wait outside the chip; what comes beyond is lost."""


@dataclass
class Registers:
    """What the chip holds."""

    ier: int = bits(4)
    fcr: int = bits(8)
    lcr: int = bits(8)
    mcr: int = bits(5)
    scr: int = bits(8)
    divisor: int = bits(16, 12)  # 9600 baud from 1.8432 MHz
    overrun: bool = flag()
    empty_pending: bool = flag()  # the transmitter has become empty since IIR told so
    received: bytearray = field(default_factory=bytearray, metadata=octets(FIFO))


class Uart:
    """One port. `write` takes what the guest sends; `receive` needs the machine's lock."""

    def __init__(self, write: Callable[[bytes], object] | None = None, pin: Pin = unconnected) -> None:
        self.write_out = write
        self.pin = pin
        self.registers = Registers()
        self._level = 0
        self._waiting: deque[int] = deque(maxlen=QUEUE)

    def claim(self, machine: Machine, base: int = COM1) -> None:
        """Stand at `base`. Raises MachineError if something else does."""
        ports = Bytewise(self.read, self.write)
        machine.claim(f"serial port {base:#x}", "io", base, _PORTS, ports.read, ports.write)

    def reset(self) -> None:
        """Master reset (8.0, table I); characters outside go on waiting."""
        self.registers = Registers()
        self._update()

    def refresh(self) -> None:
        """The pin follows the registers."""
        self._update()

    def misfit(self, registers: Registers) -> str:
        return ""

    def receive(self, data: bytes) -> None:
        """Characters arrive on SIN."""
        self._waiting.extend(data)
        self._update()

    # --- the guest's side --------------------------------------------------------

    def read(self, offset: int) -> int:
        value = self._read(offset)
        self._update()
        return value

    def write(self, offset: int, value: int) -> None:
        self._write(offset, value)
        self._update()

    def _read(self, offset: int) -> int:
        r = self.registers
        if r.lcr & _DIVISOR_ACCESS and offset in (_DATA, _IER):
            return r.divisor >> 8 * offset & 0xFF
        if offset == _DATA:
            return r.received.pop(0) if r.received else 0
        if offset == _IIR:
            identity = self._identity()
            if identity == _ID_EMPTY:
                r.empty_pending = False
            return identity | (_FIFOS_ON if r.fcr & _ENABLE_FIFOS else 0)
        if offset == _LSR:
            value = _EMPTY | _IDLE | (_DATA_READY if r.received else 0) | (_OVERRUN if r.overrun else 0)
            r.overrun = False
            return value
        if offset == _MSR:
            return self._modem_status()
        return {_IER: r.ier, _LCR: r.lcr, _MCR: r.mcr, _SCR: r.scr}[offset]

    def _write(self, offset: int, value: int) -> None:
        r = self.registers
        if r.lcr & _DIVISOR_ACCESS and offset in (_DATA, _IER):
            r.divisor = r.divisor & 0xFF << 8 * (1 - offset) | value << 8 * offset
        elif offset == _DATA:
            self._send(value)
        elif offset == _IER:
            # 8.7: enabling the transmitter's interrupt while it is empty raises it.
            r.empty_pending = r.empty_pending or bool(value & ~r.ier & _EMPTY_ENABLE)
            r.ier = value & 0x0F
        elif offset == _FCR:
            # 8.4: a change of bit 0 clears the FIFOs.
            if value & _CLEAR_RECEIVED or (value ^ r.fcr) & _ENABLE_FIFOS:
                r.received.clear()
            r.fcr = value & 0xC9 if value & _ENABLE_FIFOS else 0
        elif offset == _LCR:
            r.lcr = value
        elif offset == _MCR:
            r.mcr = value & 0x1F
        elif offset == _SCR:
            r.scr = value

    def _send(self, value: int) -> None:
        r = self.registers
        r.empty_pending = True
        if r.mcr & _LOOP:
            if len(r.received) < self._depth:
                r.received.append(value)
            else:
                r.overrun = True
        elif self.write_out is not None:
            self.write_out(bytes([value]))

    @property
    def _depth(self) -> int:
        return FIFO if self.registers.fcr & _ENABLE_FIFOS else 1

    def _modem_status(self) -> int:
        r = self.registers
        if not r.mcr & _LOOP:
            return _READY
        # 8.8: DTR, RTS, OUT1 and OUT2 come back as DSR, CTS, RI and DCD.
        return (r.mcr & 1) << 5 | (r.mcr & 2) << 3 | (r.mcr & 4) << 4 | (r.mcr & 8) << 4

    def _identity(self) -> int:
        r = self.registers
        if r.ier & _STATUS_ENABLE and r.overrun:
            return _ID_STATUS
        if r.ier & _RECEIVED_ENABLE and r.received:
            trigger = _TRIGGERS[r.fcr >> 6] if r.fcr & _ENABLE_FIFOS else 1
            # Below the trigger level nothing more comes at once: the character timeout.
            return _ID_RECEIVED if len(r.received) >= trigger else _ID_TIMEOUT
        if r.ier & _EMPTY_ENABLE and r.empty_pending:
            return _ID_EMPTY
        return _ID_NONE

    def _update(self) -> None:
        """Characters that wait outside come in as far as there is room; the pin follows."""
        r = self.registers
        while self._waiting and not r.mcr & _LOOP and len(r.received) < self._depth:
            r.received.append(self._waiting.popleft())
        # In loop-back OUT2's pin is high, which disconnects the interrupt (8.8).
        level = int(self._identity() != _ID_NONE and r.mcr & (_OUT2 | _LOOP) == _OUT2)
        if level != self._level:
            self._level = level
            self.pin(level)
