"""KVM's in-kernel PIT, by bare ioctls: its state, and what a guest reads of it.

Non-goals: running guests (devc.runtime.hosts); this is an independent witness.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from functools import cache

CREATE_VM, CREATE_IRQCHIP, CREATE_PIT2 = 0xAE01, 0xAE60, 0x4040AE77
GET_PIT2, SET_PIT2 = 0x8070AE9F, 0x4070AEA0
MMAP_SIZE, CREATE_VCPU, SET_MEMORY, RUN = 0xAE04, 0xAE41, 0x4020AE46, 0xAE80
GET_SREGS, SET_SREGS, SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
EXIT_IO = 2
CODE, ANSWERS, DONE = 0x1000, 0x2000, 0xF4
SPEAKER_PIT = struct.pack("<I60x", 1)  # KVM_PIT_SPEAKER_DUMMY: with port 0x61


class KernelPit:
    """A VM with an interrupt controller and a PIT; a vCPU only where `read` needs one."""

    def __init__(self) -> None:
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._vm = fcntl.ioctl(self._kvm, CREATE_VM, 0)
        fcntl.ioctl(self._vm, CREATE_IRQCHIP)
        fcntl.ioctl(self._vm, CREATE_PIT2, SPEAKER_PIT)
        self._vcpu: int | None = None

    def close(self) -> None:
        for descriptor in (self._vcpu, self._vm, self._kvm):
            if descriptor is not None:
                os.close(descriptor)

    @property
    def state(self) -> bytes:
        data = bytearray(112)
        fcntl.ioctl(self._vm, GET_PIT2, data)
        return bytes(data)

    @state.setter
    def state(self, data: bytes) -> None:
        fcntl.ioctl(self._vm, SET_PIT2, data)

    def run(self, accesses: Sequence[tuple[int, int | None]]) -> list[int]:
        """A guest does these accesses, (port, byte to write or None to read); what it read."""
        code, reads = b"\xbf" + struct.pack("<H", ANSWERS), 0  # mov di, ANSWERS
        for port, value in accesses:
            code += b"\xba" + struct.pack("<H", port)  # mov dx, port
            if value is None:
                code += b"\xec\x88\x05\x47"  # in al, dx; mov [di], al; inc di
                reads += 1
            else:
                code += bytes((0xB0, value, 0xEE))  # mov al, value; out dx, al
        code += bytes((0xE6, DONE))
        if self._vcpu is None:
            self._make_vcpu()
        self._memory[CODE : CODE + len(code)] = code
        registers = [0] * 18
        registers[16], registers[17] = CODE, 2
        assert self._vcpu is not None
        fcntl.ioctl(self._vcpu, SET_REGS, struct.pack("<18Q", *registers))
        for _ in range(1000):
            fcntl.ioctl(self._vcpu, RUN, 0)
            reason, port = (
                struct.unpack_from("<I", self._shared, 8)[0],
                struct.unpack_from("<H", self._shared, 34)[0],
            )
            assert reason == EXIT_IO, f"KVM exit {reason}"
            if port == DONE:
                return list(self._memory[ANSWERS : ANSWERS + reads])
        raise AssertionError("the guest did not end")

    def _make_vcpu(self) -> None:
        import ctypes

        self._memory = mmap.mmap(-1, 0x10000)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        fcntl.ioctl(self._vm, SET_MEMORY, struct.pack("<IIQQQ", 0, 0, 0, 0x10000, address))
        self._vcpu = fcntl.ioctl(self._vm, CREATE_VCPU, 0)
        size = fcntl.ioctl(self._kvm, MMAP_SIZE, 0)
        self._shared = mmap.mmap(self._vcpu, size)
        special = bytearray(0x138)
        fcntl.ioctl(self._vcpu, GET_SREGS, special)
        struct.pack_into("<QIH", special, 0, 0, 0xFFFF, 0)  # cs: base 0, selector 0
        fcntl.ioctl(self._vcpu, SET_SREGS, special)


@cache
def missing() -> str:
    """Why there is no KVM with a PIT here; "" if there is."""
    try:
        pit = KernelPit()
    except OSError as error:
        return f"no KVM with an in-kernel PIT here: {error}"
    try:
        answer = pit.run([(0x40, None)])
    except (OSError, AssertionError) as error:
        return f"KVM runs no real-mode guest here: {error}"
    finally:
        pit.close()
    assert len(answer) == 1
    return ""
