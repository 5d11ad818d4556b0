"""KVM's in-kernel interrupt controllers, by bare ioctls and a guest of a few instructions.

`KernelPics`: the guest is in real mode, does port accesses with interrupts off, and takes
one interrupt where it is told to; the vector it was called with is its answer.
`KernelIoApic`: the guest is in flat 32-bit mode and accesses memory-mapped registers.

Non-goals: running guests (devc.runtime.hosts); these are independent witnesses.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Iterable
from functools import cache
from types import FrameType

CREATE_VM, CREATE_IRQCHIP, MMAP_SIZE, CREATE_VCPU = 0xAE01, 0xAE60, 0xAE04, 0xAE41
SET_MEMORY, SET_TSS, RUN = 0x4020AE46, 0xAE47, 0xAE80
GET_SREGS, SET_SREGS, SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
IRQ_LINE, GET_IRQCHIP, SET_IRQCHIP = 0x4008AE61, 0xC208AE62, 0x8208AE63
GET_LAPIC, SET_LAPIC = 0x8400AE8E, 0x4400AE8F
MASTER, SLAVE, IOAPIC = 0, 1, 2
EXIT_IO = 2

MEMORY, STUBS, STUB, CODE, ANSWERS, STACK, DONE = 0x10000, 0x1000, 9, 0x2000, 0x6000, 0x8000, 0xF4
PATIENCE = 1.0
"""Seconds that a guest may take."""

TAKE = "take"
"""In place of an access: take one interrupt, which must be pending."""


class Kernel:
    """A VM with interrupt controllers, one vCPU and 64 KiB of memory."""

    def __init__(self) -> None:
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._vm = fcntl.ioctl(self._kvm, CREATE_VM, 0)
        fcntl.ioctl(self._vm, CREATE_IRQCHIP)
        self._memory = mmap.mmap(-1, MEMORY)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        fcntl.ioctl(self._vm, SET_MEMORY, struct.pack("<IIQQQ", 0, 0, 0, MEMORY, address))
        self._vcpu = fcntl.ioctl(self._vm, CREATE_VCPU, 0)
        self._shared = mmap.mmap(self._vcpu, fcntl.ioctl(self._kvm, MMAP_SIZE, 0))
        special = bytearray(0x138)
        fcntl.ioctl(self._vcpu, GET_SREGS, special)
        self._mode(special)
        fcntl.ioctl(self._vcpu, SET_SREGS, special)

    def _mode(self, special: bytearray) -> None:
        """Change the vCPU's special registers to the guest's mode."""
        struct.pack_into("<QIH", special, 0, 0, 0xFFFF, 0)  # cs: base 0, selector 0

    def close(self) -> None:
        for descriptor in (self._vcpu, self._vm, self._kvm):
            os.close(descriptor)

    def line(self, gsi: int, level: int) -> None:
        fcntl.ioctl(self._vm, IRQ_LINE, struct.pack("<II", gsi, level))

    def chip(self, number: int) -> bytes:
        """The state of MASTER, SLAVE or IOAPIC, as KVM lays it out."""
        data = bytearray(struct.pack("<II512x", number, 0))
        fcntl.ioctl(self._vm, GET_IRQCHIP, data)
        return bytes(data[8:])

    def execute(self, code: bytes) -> None:
        """Run guest code, which ends with an OUT to DONE. TimeoutError if it does not."""
        assert len(code) < ANSWERS - CODE
        self._memory[CODE : CODE + len(code)] = code
        registers = [0] * 18
        registers[6], registers[16], registers[17] = STACK, CODE, 2  # rsp, rip, rflags
        registers[5] = ANSWERS  # rdi
        fcntl.ioctl(self._vcpu, SET_REGS, struct.pack("<18Q", *registers))
        before = signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            fcntl.ioctl(self._vcpu, RUN, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        reason, port = (
            struct.unpack_from("<I", self._shared, 8)[0],
            struct.unpack_from("<H", self._shared, 34)[0],
        )
        assert (reason, port) == (EXIT_IO, DONE), f"KVM exit {reason}, port {port:#x}"


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the guest did not end")


class KernelPics(Kernel):
    """The 8259 pair. Every interrupt vector leads to a stub that notes its number."""

    def __init__(self) -> None:
        super().__init__()
        for vector in range(256):
            at = STUBS + STUB * vector
            # mov byte [di], vector; inc di; add sp, 6; jmp bp: the frame is dropped, interrupts stay off
            self._memory[at : at + STUB] = bytes((0xC6, 0x05, vector, 0x47, 0x83, 0xC4, 0x06, 0xFF, 0xE5))
            self._memory[4 * vector : 4 * vector + 4] = struct.pack("<HH", at, 0)

    def run(self, acts: Iterable[tuple[int, int | None] | str]) -> list[int]:
        """Port accesses, (port, byte to write or None to read), and TAKE; what was read or taken."""
        code, answers = b"", 0
        for act in acts:
            if isinstance(act, str):
                after = CODE + len(code) + 5
                code += b"\xbd" + struct.pack("<H", after) + b"\xfb\xf4"  # mov bp, after; sti; hlt
                answers += 1
                continue
            port, value = act
            code += b"\xba" + struct.pack("<H", port)  # mov dx, port
            if value is None:
                code += b"\xec\x88\x05\x47"  # in al, dx; mov [di], al; inc di
                answers += 1
            else:
                code += bytes((0xB0, value, 0xEE))  # mov al, value; out dx, al
        self.execute(code + bytes((0xE6, DONE)))
        return list(self._memory[ANSWERS : ANSWERS + answers])

    def clear(self) -> None:
        """Both chips as at power-on: an ICW1 leaves some of their state."""
        for number, mask in ((MASTER, 0xF8), (SLAVE, 0xDE)):
            fcntl.ioctl(self._vm, SET_IRQCHIP, struct.pack("<II15xB496x", number, 0, mask))

    def pic(self, number: int) -> tuple[int, int, int]:
        """IRR, IMR and ISR of MASTER or SLAVE."""
        _, irr, imr, isr = self.chip(number)[:4]
        return irr, imr, isr


LOCAL_APIC, IOAPIC_AT = 0xFEE0_0000, 0xFEC0_0000
EOI, SPURIOUS_VECTOR, IN_SERVICE, REQUESTS = 0xB0, 0xF0, 0x100, 0x200
FLAT_CODE = struct.pack("<QIHBBBBBBBBBB", 0, 0xFFFF_FFFF, 8, 11, 1, 0, 1, 1, 0, 1, 0, 0, 0)
FLAT_DATA = struct.pack("<QIHBBBBBBBBBB", 0, 0xFFFF_FFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
"""`struct kvm_segment`: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable."""
CR0_AT, PROTECTED = 8 * 24 + 2 * 16, 0x11


class KernelIoApic(Kernel):
    """The I/O APIC, and the requests that reach the local APIC."""

    def __init__(self) -> None:
        super().__init__()
        self.run([(LOCAL_APIC + SPURIOUS_VECTOR, 0x1FF)])  # software enable

    def _mode(self, special: bytearray) -> None:
        special[0:24] = FLAT_CODE
        for segment in range(1, 6):
            special[24 * segment : 24 * segment + 24] = FLAT_DATA
        struct.pack_into("<Q", special, CR0_AT, PROTECTED)

    def run(self, accesses: Iterable[tuple[int, int | None]]) -> list[int]:
        """32-bit accesses, (address, value to write or None to read); what was read."""
        code, answers = b"", 0
        for address, value in accesses:
            if value is None:
                code += b"\xa1" + struct.pack("<I", address) + b"\xab"  # mov eax, [address]; stosd
                answers += 1
            else:
                code += b"\xc7\x05" + struct.pack("<II", address, value)  # mov dword [address], value
        self.execute(code + bytes((0xE6, DONE)))
        return list(struct.unpack_from(f"<{answers}I", self._memory, ANSWERS))

    def write(self, index: int, value: int) -> None:
        self.run([(IOAPIC_AT, index), (IOAPIC_AT + 0x10, value)])

    def read(self, index: int) -> int:
        return self.run([(IOAPIC_AT, index), (IOAPIC_AT + 0x10, None)])[0]

    def entries(self) -> tuple[int, ...]:
        return struct.unpack_from("<24Q", self.chip(IOAPIC), 24)

    def take_requests(self) -> set[int]:
        """The vectors that the local APIC was asked for since the last call."""
        state = self._local_apic()
        words = [struct.unpack_from("<I", state, REQUESTS + 16 * i)[0] for i in range(8)]
        if any(words):
            for i in range(8):
                struct.pack_into("<I", state, REQUESTS + 16 * i, 0)
            fcntl.ioctl(self._vcpu, SET_LAPIC, state)
        return {32 * i + bit for i, word in enumerate(words) for bit in range(32) if word >> bit & 1}

    def _local_apic(self) -> bytearray:
        state = bytearray(1024)
        fcntl.ioctl(self._vcpu, GET_LAPIC, state)
        return state

    def end(self, vector: int) -> None:
        """The guest ends an interrupt: put in service, as if the processor had taken it, for
        its trigger mode is the local APIC's to remember; then an EOI."""
        state = self._local_apic()
        struct.pack_into("<I", state, IN_SERVICE + 16 * (vector // 32), 1 << vector % 32)
        fcntl.ioctl(self._vcpu, SET_LAPIC, state)
        self.run([(LOCAL_APIC + EOI, 0)])


@cache
def missing() -> str:
    """Why there are no such chips here; "" if there are."""
    try:
        pics = KernelPics()
    except OSError as error:
        return f"no KVM with interrupt controllers here: {error}"
    try:
        answer = pics.run([(0x21, 0x5A), (0x21, None)])
    except (OSError, AssertionError) as error:
        return f"KVM runs no real-mode guest here: {error}"
    finally:
        pics.close()
    return "" if answer == [0x5A] else f"KVM's 8259 answers {answer}"
