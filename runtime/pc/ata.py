"""An ATA disk at a PC's primary channel, by programmed input and output (PIO).

After ATA/ATAPI-7 volume 1 (INCITS 397-2005; section numbers are its). A command is done
at once: the guest never sees BSY. Device 0 only; device 1 is absent.

Non-goals: DMA, packets, security, power states that mean anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..machine import Machine
from .disk_image import SECTOR, DiskImage
from .parts import bits, flag, octets
from .pins import Pin, unconnected

COMMAND_PORTS = 0x1F0
CONTROL_PORT = 0x3F6
IRQ = 14

_DATA, _ERROR, _COUNT, _LOW, _MID, _HIGH, _DEVICE, _STATUS = range(8)
_COMMAND = _STATUS

# Status (5.13) and error (5.9) registers.
_BUSY, _READY, _SEEK_DONE, _REQUEST, _FAILED = 0x80, 0x40, 0x10, 0x08, 0x01
_ABORTED, _NOT_FOUND, _UNCORRECTABLE = 0x04, 0x10, 0x40
# Device (5.7) and device control (5.8) registers.
_USES_LBA, _SECOND = 0x40, 0x10
_FIXED_BITS = 0xA0  # obsolete, and read as ones by old software
_HIGH_ORDER, _SOFT_RESET, _NO_INTERRUPT = 0x80, 0x04, 0x02

HEADS, SECTORS_A_TRACK, MOST_CYLINDERS = 16, 63, 16383
"""The geometry that a disk too large for one shows (annex A of ATA/ATAPI-5)."""
MOST_MULTIPLE = 16
MODEL = "DEVC DISK"


@dataclass
class Registers:
    """The task file. Each of `count`, `low`, `mid` and `high` keeps the byte that was
    written before as well, in bits 15:8, for 48-bit addresses (5.2)."""

    features: int = bits(16)
    count: int = bits(16, 1)
    low: int = bits(16, 1)
    mid: int = bits(16)
    high: int = bits(16)
    device: int = bits(8)
    control: int = bits(8)
    status: int = bits(8, _READY | _SEEK_DONE)
    error: int = bits(8, 1)  # diagnostic code: passed
    multiple: int = bits(5)
    pending: bool = flag()  # INTRQ
    buffer: bytearray = field(default_factory=bytearray, metadata=octets(MOST_MULTIPLE * SECTOR))
    position: int = bits(16)
    sector: int = bits(48)  # where the transfer under way goes on
    left: int = bits(17)  # sectors of it that remain, those in the buffer among them
    block: int = bits(5, 1)  # sectors between two interrupts
    writing: bool = flag()


class AtaDisk:
    """The channel and its one disk; `disk` None: an empty channel, whose registers read as zeros."""

    def __init__(self, disk: DiskImage | None, pin: Pin = unconnected) -> None:
        self.disk = disk
        self.pin = pin
        self.registers = Registers()
        self._level = 0

    def claim(self, machine: Machine) -> None:
        """Stand at the primary channel's ports. Raises MachineError if something else does."""
        machine.claim("ATA command", "io", COMMAND_PORTS, 8, self.read, self.write)
        machine.claim("ATA control", "io", CONTROL_PORT, 1, self.read_control, self.write_control)

    def reset(self) -> None:
        """Power-on state."""
        self.registers = Registers()
        self._drive()

    def refresh(self) -> None:
        """The pin follows the registers."""
        self._drive()

    def misfit(self, registers: Registers) -> str:
        """Why the transfer under way cannot be one of this disk."""
        r = registers
        sectors = self.disk.sectors if self.disk is not None else 0
        if r.multiple > MOST_MULTIPLE or r.multiple & (r.multiple - 1) or not 1 <= r.block <= MOST_MULTIPLE:
            return "it transfers blocks of a size that there is not"
        if not r.status & _REQUEST:
            return ""
        if len(r.buffer) != min(r.block, r.left) * SECTOR or r.position >= len(r.buffer):
            return "its buffer is not that of its transfer"
        goes_on = r.writing or r.left > r.block
        if goes_on and r.sector + r.left > sectors:
            return f"its transfer leaves the disk, which has {sectors} sectors"
        return ""

    # --- the ports -----------------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        """A read of the command block; only the data register is wider than a byte."""
        if offset == _DATA:
            return self._read_data(width)
        return sum(self._read(offset + i) << 8 * i for i in range(width))

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == _DATA:
            self._write_data(width, value)
            return
        for i in range(width):
            self._write(offset + i, value >> 8 * i & 0xFF)

    def read_control(self, offset: int, width: int) -> int:
        """The alternate status register (5.4): the interrupt stays pending."""
        return self._status()

    def write_control(self, offset: int, width: int, value: int) -> None:
        """The device control register (5.8)."""
        before, self.registers.control = self.registers.control, value & 0xFF
        if value & _SOFT_RESET and not before & _SOFT_RESET:
            self.registers = Registers(control=value & 0xFF, multiple=self.registers.multiple)
        self._drive()

    def _status(self) -> int:
        r = self.registers
        if self.disk is None or r.device & _SECOND:
            return 0
        return _BUSY if r.control & _SOFT_RESET else r.status

    def _read(self, offset: int) -> int:
        r = self.registers
        if self.disk is None:
            return 0
        if offset == _STATUS:
            if not r.device & _SECOND:
                r.pending = False
                self._drive()
            return self._status()
        if offset == _ERROR:
            return r.error
        if offset == _DEVICE:
            return r.device | _FIXED_BITS
        value = (0, 0, r.count, r.low, r.mid, r.high)[offset]
        return value >> 8 & 0xFF if r.control & _HIGH_ORDER else value & 0xFF

    def _write(self, offset: int, value: int) -> None:
        r = self.registers
        r.control &= ~_HIGH_ORDER  # 5.8: any write to the command block clears HOB
        if offset == _COMMAND:
            self._command(value)
        elif offset == _DEVICE:
            r.device = value & ~_FIXED_BITS
        elif offset == _ERROR:
            r.features = value
        elif offset == _COUNT:
            r.count = r.count << 8 & 0xFF00 | value
        elif offset == _LOW:
            r.low = r.low << 8 & 0xFF00 | value
        elif offset == _MID:
            r.mid = r.mid << 8 & 0xFF00 | value
        elif offset == _HIGH:
            r.high = r.high << 8 & 0xFF00 | value

    def _drive(self) -> None:
        r = self.registers
        level = int(r.pending and not r.control & _NO_INTERRUPT and not r.device & _SECOND)
        if level != self._level:
            self._level = level
            self.pin(level)

    # --- commands --------------------------------------------------------------------

    def _command(self, code: int) -> None:
        r = self.registers
        if self.disk is None or r.control & _SOFT_RESET:
            return
        if r.device & _SECOND and code != _DIAGNOSE:
            return
        r.pending = False
        r.status, r.error = _READY | _SEEK_DONE, 0
        r.buffer, r.position, r.left = bytearray(), 0, 0
        handler = _COMMANDS.get(code, AtaDisk._abort)
        handler(self, code)
        self._drive()

    def _done(self, code: int = 0) -> None:
        self.registers.pending = True

    def _abort(self, code: int = 0) -> None:
        self._fail(_ABORTED)

    def _fail(self, error: int) -> None:
        r = self.registers
        r.status = _READY | _SEEK_DONE | _FAILED
        r.error = error
        r.buffer, r.left, r.writing = bytearray(), 0, False
        r.pending = True

    def _diagnose(self, code: int) -> None:
        """EXECUTE DEVICE DIAGNOSTIC (6.13): both devices, whichever is selected."""
        control = self.registers.control
        self.registers = Registers(control=control, pending=True)

    def _identify(self, code: int) -> None:
        r = self.registers
        assert self.disk is not None
        r.buffer = identification(self.disk, r.multiple)
        r.position, r.left, r.block, r.writing = 0, 1, 1, False
        r.status |= _REQUEST
        r.pending = True

    def _set_multiple(self, code: int) -> None:
        count = self.registers.count & 0xFF
        if count > MOST_MULTIPLE or count & (count - 1):
            self._abort()
            return
        self.registers.multiple = count
        self._done()

    def _check_power(self, code: int) -> None:
        self.registers.count = 0xFF  # active
        self._done()

    def _flush(self, code: int) -> None:
        assert self.disk is not None
        try:
            self.disk.flush()
        except OSError:
            self._abort()
        else:
            self._done()

    def _native_max(self, code: int) -> None:
        """READ NATIVE MAX ADDRESS, and EXT (6.34, 6.35)."""
        assert self.disk is not None
        extended = code == _NATIVE_MAX_EXT
        self._show_address(min(self.disk.sectors, 1 << (48 if extended else 28)) - 1, extended)
        self._done()

    # --- sectors ---------------------------------------------------------------------

    def _verify(self, code: int) -> None:
        if self._locate(code in _EXTENDED):
            self.registers.left = 0
            self._done()

    def _read_sectors(self, code: int) -> None:
        if self._begins(code):
            self.registers.writing = False
            self._load_block()

    def _write_sectors(self, code: int) -> None:
        assert self.disk is not None
        if not self._begins(code):
            return
        if not self.disk.writable:
            self._abort()
            return
        self.registers.writing = True
        # 9.6: the first block is asked for without an interrupt.
        self._await_block()

    def _begins(self, code: int) -> bool:
        """The transfer's place and block are known; False if there cannot be one."""
        r = self.registers
        if not self._locate(code in _EXTENDED):
            return False
        block = r.multiple if code in _MULTIPLE else 1
        if not block:  # before SET MULTIPLE MODE
            self._abort()
            return False
        r.block = block
        return True

    def _locate(self, extended: bool) -> bool:
        """Where the transfer begins and how many sectors it is (5.2, 6.2); fails if it leaves the disk."""
        r = self.registers
        assert self.disk is not None
        if extended:
            count = r.count & 0xFFFF or 0x10000
            low = r.low & 0xFF | (r.mid & 0xFF) << 8 | (r.high & 0xFF) << 16
            sector = low | (r.low >> 8) << 24 | (r.mid >> 8) << 32 | (r.high >> 8) << 40
        else:
            count = r.count & 0xFF or 0x100
            if r.device & _USES_LBA:
                sector = r.low & 0xFF | (r.mid & 0xFF) << 8 | (r.high & 0xFF) << 16 | (r.device & 15) << 24
            else:
                cylinder = r.mid & 0xFF | (r.high & 0xFF) << 8
                track = cylinder * HEADS + (r.device & 15)
                sector = track * SECTORS_A_TRACK + (r.low & 0xFF) - 1
                if not 1 <= r.low & 0xFF <= SECTORS_A_TRACK:
                    sector = -1
        if sector < 0 or sector + count > self.disk.sectors:
            self._fail(_NOT_FOUND)
            return False
        r.sector, r.left = sector, count
        return True

    def _show_address(self, sector: int, extended: bool) -> None:
        r = self.registers
        r.low, r.mid, r.high = (sector >> at & 0xFF | (sector >> at + 24 & 0xFF) << 8 for at in (0, 8, 16))
        if not extended:
            r.low, r.mid, r.high = r.low & 0xFF, r.mid & 0xFF, r.high & 0xFF
            r.device = r.device & ~15 | sector >> 24 & 15

    def _load_block(self) -> None:
        """The next sectors of a read are in the buffer, and the guest is told."""
        r = self.registers
        assert self.disk is not None
        size = min(r.block, r.left)
        try:
            r.buffer = bytearray(b"".join(self.disk.read(r.sector + i) for i in range(size)))
        except OSError:
            self._fail(_UNCORRECTABLE)
            return
        r.position = 0
        r.status |= _REQUEST
        r.pending = True

    def _await_block(self) -> None:
        r = self.registers
        r.buffer, r.position = bytearray(min(r.block, r.left) * SECTOR), 0
        r.status |= _REQUEST

    def _read_data(self, width: int) -> int:
        r = self.registers
        if r.writing or not r.status & _REQUEST or r.device & _SECOND or self.disk is None:
            return (1 << 8 * width) - 1
        value = int.from_bytes(r.buffer[r.position : r.position + width], "little")
        r.position += width
        if r.position >= len(r.buffer):
            self._block_read()
        return value

    def _block_read(self) -> None:
        r = self.registers
        taken = min(r.block, r.left)
        r.left -= taken
        r.sector += taken
        r.status &= ~_REQUEST
        if r.left:
            self._load_block()
            self._drive()

    def _write_data(self, width: int, value: int) -> None:
        r = self.registers
        if not r.writing or not r.status & _REQUEST or r.device & _SECOND:
            return
        room = len(r.buffer) - r.position
        r.buffer[r.position : r.position + min(width, room)] = value.to_bytes(width, "little")[:room]
        r.position += width
        if r.position >= len(r.buffer):
            self._block_written()

    def _block_written(self) -> None:
        r = self.registers
        assert self.disk is not None
        try:
            for at in range(0, len(r.buffer), SECTOR):
                self.disk.write(r.sector, bytes(r.buffer[at : at + SECTOR]))
                r.sector += 1
                r.left -= 1
        except OSError:
            self._fail(_ABORTED)
            self._drive()
            return
        r.status &= ~_REQUEST
        r.pending = True
        if r.left:
            self._await_block()
        else:
            r.writing = False
        self._drive()


Handler = Callable[[AtaDisk, int], None]

_DIAGNOSE, _NATIVE_MAX_EXT = 0x90, 0x27
_EXTENDED = {0x24, 0x29, 0x34, 0x39, 0x42}
_MULTIPLE = {0xC4, 0x29, 0xC5, 0x39}

# Table 11 of 6.0; what is not here is aborted, as 4.1 asks of an unknown command.
_COMMANDS: dict[int, Handler] = {
    **dict.fromkeys(range(0x10, 0x20), AtaDisk._done),  # RECALIBRATE
    **dict.fromkeys((0x20, 0x21, 0x24, 0xC4, 0x29), AtaDisk._read_sectors),
    **dict.fromkeys((0x30, 0x31, 0x34, 0xC5, 0x39), AtaDisk._write_sectors),
    **dict.fromkeys((0x40, 0x41, 0x42), AtaDisk._verify),
    0x70: AtaDisk._done,  # SEEK
    _DIAGNOSE: AtaDisk._diagnose,
    0x91: AtaDisk._done,  # INITIALIZE DEVICE PARAMETERS
    0xC6: AtaDisk._set_multiple,
    **dict.fromkeys((0xE0, 0xE1, 0xE2, 0xE3), AtaDisk._done),  # STANDBY, IDLE
    0xE5: AtaDisk._check_power,
    **dict.fromkeys((0xE7, 0xEA), AtaDisk._flush),
    0xEC: AtaDisk._identify,
    0xEF: AtaDisk._done,  # SET FEATURES: transfer modes, caches
    **dict.fromkeys((0xF8, _NATIVE_MAX_EXT), AtaDisk._native_max),
}


def identification(disk: DiskImage, multiple: int) -> bytearray:
    """The 256 words of IDENTIFY DEVICE (6.17)."""
    words = [0] * 256
    cylinders = min(disk.sectors // (HEADS * SECTORS_A_TRACK), MOST_CYLINDERS)
    chs = cylinders * HEADS * SECTORS_A_TRACK
    lba28 = min(disk.sectors, (1 << 28) - 1)
    words[0] = 0x0040  # fixed disk
    words[1], words[3], words[6] = cylinders, HEADS, SECTORS_A_TRACK
    _text(words, 10, 20, "1")
    _text(words, 23, 8, "1")
    _text(words, 27, 40, MODEL)
    words[47] = 0x8000 | MOST_MULTIPLE
    words[49] = 0x0200  # LBA
    words[50] = 0x4000
    words[51] = 0x0200  # PIO mode 2
    words[53] = 0x0003  # words 54 to 58 and 64 to 70 are valid
    words[54], words[55], words[56] = cylinders, HEADS, SECTORS_A_TRACK
    words[57], words[58] = chs & 0xFFFF, chs >> 16
    words[59] = 0x0100 | multiple if multiple else 0
    words[60], words[61] = lba28 & 0xFFFF, lba28 >> 16
    words[65] = words[66] = words[67] = words[68] = 240  # ns a PIO cycle
    words[80] = 0x00F0  # ATA/ATAPI-4 to 7
    words[82], words[83], words[84] = 0x4000, 0x7400, 0x4000  # NOP; 48 bits, FLUSH CACHE, EXT
    words[85], words[86], words[87] = 0x4000, 0x3400, 0x4000
    for i in range(4):
        words[100 + i] = disk.sectors >> 16 * i & 0xFFFF
    content = bytearray(b"".join(word.to_bytes(2, "little") for word in words))
    content[510] = 0xA5  # integrity word (6.17.63)
    content[511] = -sum(content) & 0xFF
    return content


def _text(words: list[int], at: int, size: int, text: str) -> None:
    """ASCII, the first character of each word in its high byte (6.17.9)."""
    padded = text.ljust(size).encode("ascii")
    for i in range(0, size, 2):
        words[at + i // 2] = padded[i] << 8 | padded[i + 1]
