"""One vCPU on KVM: its run page, its registers, where it begins.

Non-goals: running it (kvm.py, kvm.ll), saving it (kvm_state.py).
"""

from __future__ import annotations

import ctypes
import mmap
import os

from . import kvm_abi as abi
from . import kvm_cpuid
from .host import HostError, Registers
from .kvm_loop import Vcpu
from .kvm_system import ioctl, signal_fd
from .kvm_vm import VirtualMachine
from .start import Start

_PROTECTION_ENABLE, _EXTENSION_TYPE = 1, 1 << 4  # CR0
_CODE, _DATA = 0xB, 0x3  # accessed: execute/read; read/write (SDM vol. 3, 3.4.5.1)


class VirtualCpu:
    """A vCPU and its record for the native loop, `block`. `close` it."""

    def __init__(self, vm: VirtualMachine, number: int, vcpus: int, *, hide_kvm: bool) -> None:
        """Raises HostError if KVM refuses."""
        self.number = number
        self._fds: list[int] = []
        self._page: mmap.mmap | None = None
        try:
            what = f"making vCPU {number}"
            self.fd = self._own(ioctl(vm.fd, abi.CREATE_VCPU, number, what))
            self._page = mmap.mmap(self.fd, ioctl(vm.kvm, abi.GET_VCPU_MMAP_SIZE))
            self.head = abi.RunHead.from_buffer(self._page)
            self.block = Vcpu(
                run=ctypes.addressof(self.head),
                fd=self.fd,
                number=number,
                signal_fd=self._own(signal_fd()),
            )
            cpuid = kvm_cpuid.for_vcpu(
                kvm_cpuid.supported(vm.kvm),
                number,
                vcpus,
                local_apic=vm.irqchip != "none",
                hide_kvm=hide_kvm,
            )
            ioctl(self.fd, abi.SET_CPUID2, cpuid, "telling the processor's features")
            self._power_on = abi.Sregs()
            ioctl(self.fd, abi.GET_SREGS, self._power_on)
        except BaseException:
            self.close()
            raise

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    @property
    def address(self) -> int:
        """Where `block` is."""
        return ctypes.addressof(self.block)

    @property
    def immediate(self) -> int:
        """Where `immediate_exit` is in the run page."""
        return int(self.block.run) + abi.RunHead.immediate_exit.offset

    def page_at(self, offset: int) -> int:
        """The address of the run page's byte `offset`."""
        return int(self.block.run) + offset

    def queue(self, vector: int) -> bool:
        """Queue a vector to be injected; False if it is queued already."""
        block = self.block
        if any(block.queue[(block.head + i) % 256] == vector for i in range(block.pending)):
            return False
        block.queue[(block.head + block.pending) % 256] = vector
        block.pending += 1
        return True

    # --- registers ---

    def start(self, start: Start) -> None:
        """Let it begin as `start` says; all else was reset."""
        sregs = abi.Sregs.from_buffer_copy(self._power_on)
        general = _general(start)
        if start.mode == "real":
            general["rip"] = _real_mode(sregs, start.ip)
        elif start.mode == "flat32":
            _flat(sregs)
            general["rip"] = start.ip
        else:
            general["rip"] = 0xFFF0
        ioctl(self.fd, abi.SET_SREGS, sregs, "setting the segments")
        ioctl(self.fd, abi.SET_REGS, abi.Regs(**general), "setting the registers")
        self.block.halted = 0

    @property
    def mp_state(self) -> int:
        """What the kernel has it do (`MpState`), where its local APIC is the kernel's."""
        state = ctypes.c_uint32()
        ioctl(self.fd, abi.GET_MP_STATE, state)
        return state.value

    @property
    def registers(self) -> Registers:
        regs, sregs = abi.Regs(), abi.Sregs()
        ioctl(self.fd, abi.GET_REGS, regs)
        ioctl(self.fd, abi.GET_SREGS, sregs)
        general = {name: getattr(regs, name) for name in abi.REGISTER_ORDER}
        return Registers(**general, **{name: getattr(sregs, name).selector for name in abi.SEGMENT_ORDER})

    @registers.setter
    def registers(self, values: Registers) -> None:
        sregs = abi.Sregs()
        ioctl(self.fd, abi.GET_SREGS, sregs)
        for name in abi.SEGMENT_ORDER:
            segment, selector = getattr(sregs, name), getattr(values, name)
            if segment.selector != selector:  # a new one is a real-mode segment's
                segment.selector, segment.base = selector, selector << 4
        regs = abi.Regs(**{name: getattr(values, name) for name in abi.REGISTER_ORDER})
        ioctl(self.fd, abi.SET_SREGS, sregs)
        ioctl(self.fd, abi.SET_REGS, regs)
        self.block.halted = 0

    def close(self) -> None:
        if self._page is not None:
            del self.head
            self._page.close()
            self._page = None
        for fd in reversed(self._fds):
            os.close(fd)
        self._fds.clear()


def _general(start: Start) -> dict[str, int]:
    general = {"rflags": 2, **start.registers}
    for name, value in general.items():
        if name not in abi.REGISTER_ORDER or name == "rip" or not 0 <= value < 1 << 64:
            names = ", ".join(n for n in abi.REGISTER_ORDER if n != "rip")
            raise HostError(f"a guest cannot begin with {name}={value:#x}; registers: {names}, 64 bits")
    return general


def _real_mode(sregs: abi.Sregs, address: int) -> int:
    """Segments for a start at a physical address; the instruction pointer."""
    if not 0 <= address < 1 << 20:
        raise HostError(f"real mode begins below 1 MiB, not at {address:#x}")
    code = 0 if address < 1 << 16 else address >> 4 & 0xF000
    for name in abi.SEGMENT_ORDER:
        segment = getattr(sregs, name)
        segment.selector = code if name == "cs" else 0
        segment.base = segment.selector << 4
    return address - 16 * code


def _flat(sregs: abi.Sregs) -> None:
    """Protected mode: every segment from 0 to 4 GiB. There is no table behind them."""
    for name in abi.SEGMENT_ORDER:
        is_code = name == "cs"
        segment = getattr(sregs, name)
        segment.base, segment.limit = 0, 0xFFFF_FFFF
        segment.selector, segment.type = (8, _CODE) if is_code else (16, _DATA)
        segment.present = segment.s = segment.db = segment.g = 1
        segment.dpl = segment.l = segment.unusable = 0
    sregs.cr0 = _EXTENSION_TYPE | _PROTECTION_ENABLE
