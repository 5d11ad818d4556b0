"""Guests on KVM (x86-64 Linux): the exit loop is native code (`kvm.ll`).

Deadlines come by one POSIX timer a machine, whose signal is sent to the first
vCPU's thread; its handler, native code too, sets `immediate_exit`, so that none is
lost. Other signals wait until the loop looks for them, some ms at most.

Native code takes no lock but a device's; Python serves one vCPU at a time, under the
dispatcher's lock.

Non-goals: threads (kvm_threads.py), interrupts (kvm_interrupts.py), what a device does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ...compiler.ir import NEVER
from ..bus import Access, Outcome
from ..dispatch import Dispatcher, lane
from ..posted import Zone
from . import kvm_abi as abi
from . import kvm_loop, kvm_state
from .host import DEFAULT_MEMORY, GRACE, PAGE, Exit, HostError, Reason, Registers
from .kvm_interrupts import KvmInterrupts
from .kvm_loop import Leave
from .kvm_system import WAKE, create_timer, delete_timer
from .kvm_threads import Crew
from .kvm_vcpu import VirtualCpu
from .kvm_vm import IRQCHIPS, Irqchip, VirtualMachine
from .start import Start

_LOOP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)

MAX_VCPUS = 64


@cache
def available() -> str | None:
    """None if guests run on KVM here, else why not. Found out by running one."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return f"KVM guests need Linux on x86-64; this is {sys.platform} on {platform.machine()}"
    if not os.path.exists("/dev/kvm"):
        return "there is no /dev/kvm (no hardware virtualisation, or the kvm module is not loaded)"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm may not be opened; ask to be put in the group kvm"
    try:
        with KvmHost(Dispatcher()) as host:
            host.load(b"\xb8\x34\x12\xf4", 0x1000)  # mov ax, 0x1234; hlt
            host.boot(0x1000)
            outcome = host.run()
            if outcome.reason is not Reason.HALTED or host.registers.rax != 0x1234:
                return f"/dev/kvm does not run a real-mode guest here: {outcome}"
    except HostError as error:
        return str(error)
    return None


def _internal_error(detail: abi.RunDetail) -> str:
    words = list(detail.data[: min(detail.ndata, len(detail.data))])
    if detail.code == abi.INTERNAL_ERROR_EMULATION and len(words) >= 3 and words[0] & 1:
        size, *code = b"".join(word.to_bytes(8, "little") for word in words[1:3])
        return f"KVM cannot run the instruction at {bytes(code[:size]).hex(' ')}"
    return f"suberror {detail.code} {' '.join(f'{word:#x}' for word in words)}".rstrip()


@dataclass(frozen=True, slots=True)
class VcpuTimes:
    """A vCPU's loop: entries into the guest, of which signals ended `interrupted`;
    interrupts injected by us. ns inside KVM_RUN (`guest_ns`: where the local APIC is the
    kernel's, a halted guest sleeps there), between two (`host_ns`), and of that asleep
    with the guest halted (`asleep_ns`)."""

    runs: int
    interrupted: int
    injected: int
    guest_ns: int
    host_ns: int
    asleep_ns: int


class KvmHost(KvmInterrupts):
    """A guest on KVM. `run` may move from thread to thread, one at a time.

    `irqchip`: "none", vectors come by `inject`; "kernel", KVM's interrupt
    controllers; "split", only the local APICs are KVM's. More than one vCPU needs
    local APICs. `hide_kvm`: CPUID shows no hypervisor.
    """

    name = "kvm"

    def __init__(
        self,
        dispatcher: Dispatcher,
        memory: int = DEFAULT_MEMORY,
        *,
        vcpus: int = 1,
        irqchip: Irqchip = "none",
        hide_kvm: bool = False,
    ) -> None:
        _check(vcpus, irqchip)
        super().__init__(dispatcher, memory)
        self.cpus: list[VirtualCpu] = []
        self._vm: VirtualMachine | None = None
        self._crew = Crew(self.cpus)
        self._timer: int | None = None
        self._thread = 0
        self._unblock: int | None = None
        self._others_ended: list[Exit | BaseException] = []
        try:
            self._create(vcpus, irqchip, hide_kvm)
        except BaseException:
            self.close()
            raise

    def _create(self, vcpus: int, irqchip: Irqchip, hide_kvm: bool) -> None:
        self._loop = _LOOP(kvm_loop.native().symbol("devc_kvm_loop"))
        self._prepare_interrupts()
        self._vm = VirtualMachine(irqchip)
        for ram in self.ranges:
            self._vm.map(ram.address, ram.size, self._ram_address() + ram.offset)
        self._block = kvm_loop.Vm(
            until=NEVER,
            grace=GRACE,
            wake=1 << (WAKE - 1),
            fd=self._vm.fd,
            process=os.getpid(),
        )
        for number in range(vcpus):
            cpu = VirtualCpu(self._vm, number, vcpus, hide_kvm=hide_kvm)
            self.cpus.append(cpu)
            cpu.block.bus, cpu.block.vm = self.dispatcher.address, self.vm_context
            cpu.block.access.lane = lane(number)
        self.dispatcher.kick = self._crew.look
        self._power_on = [kvm_state.power_on(self._vm, cpu) for cpu in self.cpus]
        self._chip_at_power_on = kvm_state.chip_at_power_on(self._vm)

    @property
    def vm(self) -> VirtualMachine:
        assert self._vm is not None, "there is one from __init__ on"
        return self._vm

    # --- running ---

    def _run(self, until: int) -> Exit:
        first = self.cpus[0]
        self._bind()
        self._block.until, self._block.armed = until, 0
        self._others_ended.clear()
        with self._crew.others(self._run_other):
            try:
                leave = self._drive(first)
            except BaseException as error:
                self._complete(first, error)
                raise
            ended = self._exit(first, leave)
        for other in self._others_ended:
            if isinstance(other, BaseException):
                raise other
            return other
        return ended

    def _drive(self, cpu: VirtualCpu) -> Leave:
        """Run a vCPU until it leaves for good."""
        loop, where, access = self._loop, cpu.address, cpu.block.access
        cpu.block.exited = 0
        cpu.block.thread = threading.get_native_id()
        try:
            while True:
                leave = loop(where)
                if leave == Leave.ATTEND:
                    self.dispatcher.attended(access)
                elif not self._serve(cpu, leave):
                    return Leave(leave)
        finally:
            cpu.block.thread = 0

    def _serve(self, cpu: VirtualCpu, leave: int) -> bool:
        """Do what a leave other than ATTEND asks for; False if it is for good."""
        if leave == Leave.PAUSED:
            self._crew.park()
        elif leave == Leave.EOI:
            vector = abi.RunDetail.from_address(cpu.block.run).code & 0xFF
            with self.dispatcher.lock:
                for told in self.on_eoi:
                    told(vector)
        elif leave == Leave.ACKNOWLEDGE:
            with self.dispatcher.lock:
                if cpu.block.intr and self._acknowledge is not None:
                    cpu.queue(self._acknowledge() & 0xFF)
        elif leave == Leave.SIGNAL:
            return not self._sleeps_for_ever(cpu)
        else:
            return False
        return True

    def _sleeps_for_ever(self, cpu: VirtualCpu) -> bool:
        """The only vCPU is halted in the kernel, with interrupts off."""
        alone = len(self.cpus) == 1 and self.vm.irqchip != "none"
        return alone and not cpu.head.if_flag and cpu.mp_state == abi.MpState.HALTED

    def _complete(self, cpu: VirtualCpu, error: BaseException) -> None:
        """After an exception: finish the instruction under way, so that registers are exact."""
        access: Access = cpu.block.access
        leave = Leave.ATTEND if access.outcome >= Outcome.ATTENTION else Leave.SIGNAL
        while leave in (Leave.ATTEND, Leave.SIGNAL, Leave.EOI, Leave.ACKNOWLEDGE):
            try:
                if leave == Leave.ATTEND:
                    self.dispatcher.attended(access)
                else:
                    self._serve(cpu, leave)
            except Exception as another:
                error.add_note(f"while the access was completed: {another!r}")
            cpu.block.stop = kvm_loop.STOP_ASKED
            leave = Leave(self._loop(cpu.address))

    def _run_other(self, cpu: VirtualCpu) -> None:
        try:
            leave = self._drive(cpu)
            if leave is not Leave.STOPPED:
                self._others_ended.append(self._exit(cpu, leave))
        except BaseException as error:
            self._others_ended.append(error)
            self._complete(cpu, error)

    def stop(self) -> None:
        self._crew.stop(*self.cpus)

    def pause(self) -> None:
        self._crew.pause()

    def resume(self) -> None:
        self._crew.resume()

    # --- exits ---

    def _exit(self, cpu: VirtualCpu, leave: int) -> Exit:
        now = self.dispatcher.now()
        if leave in (Leave.HALTED, Leave.SIGNAL):
            return Exit(Reason.HALTED, now, "" if cpu.head.if_flag else "with interrupts off")
        if leave == Leave.ERROR:
            return Exit(Reason.INTERNAL_ERROR, now, f"KVM_RUN: {os.strerror(cpu.block.error)}", cpu.number)
        if leave == Leave.EXIT:
            return self._kernel_exit(cpu, now)
        return Exit(Reason[Leave(leave).name], now)

    def _kernel_exit(self, cpu: VirtualCpu, now: int) -> Exit:
        detail = abi.RunDetail.from_address(cpu.block.run)
        number = cpu.head.exit_reason
        reason, said = {
            abi.KernelExit.SHUTDOWN: (Reason.SHUTDOWN, "triple fault"),
            abi.KernelExit.SYSTEM_EVENT: (Reason.SHUTDOWN, f"system event {detail.code}"),
            abi.KernelExit.FAIL_ENTRY: (Reason.FAILED_ENTRY, f"hardware reason {detail.code:#x}"),
            abi.KernelExit.INTERNAL_ERROR: (Reason.INTERNAL_ERROR, _internal_error(detail)),
        }.get(number, (Reason.UNKNOWN, f"KVM exit {number}"))
        return Exit(reason, now, said, cpu.number)

    # --- posted writes ---

    def post(self, zones: Sequence[Zone], counters: Mapping[int, int]) -> None:
        """Let writes to these zones wait for the next exit; as `Poster` has it."""
        self._require_open()
        vm = self.vm
        if not vm.ring_page:
            return
        posted = {(z.address, z.size, z.space == "io") for z in zones if z.space != "io" or vm.posts_ports}
        entries = max(counters, default=0) + 1
        self._posted_counters = (ctypes.c_uint64 * entries)(*(counters.get(n, 0) for n in range(entries)))
        self._block.posted = ctypes.addressof(self._posted_counters)
        self._block.posted_entries = entries
        if posted:
            self._block.ring = self.cpus[0].page_at(vm.ring_page * PAGE)
        vm.post(posted)

    # --- the thread ---

    def _bind(self) -> None:
        """Make this thread the first vCPU's: the timer's signals go to it."""
        thread = threading.get_native_id()
        if thread == self._thread:
            return
        self._unbind()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self._unblock = None if WAKE in blocked else WAKE
        self._timer = self._block.timer = create_timer(thread, self.cpus[0].immediate)
        self._thread = thread

    def _unbind(self) -> None:
        if self._timer is not None:
            delete_timer(self._timer)
            self._timer = None
        if self._unblock is not None and self._thread == threading.get_native_id():
            while signal.sigtimedwait([self._unblock], 0):
                pass
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [self._unblock])
        self._thread = 0

    # --- memory and registers ---

    def rom(self, address: int, content: bytes) -> None:
        self._require_open()
        self.vm.rom(address, content)

    def start(self, start: Start) -> None:
        self._require_open()
        kvm_state.reset_chip(self.vm, self._chip_at_power_on)
        self._tell_lines()
        for cpu, parts in zip(self.cpus, self._power_on, strict=True):
            kvm_state.restore_vcpu(self.vm, cpu, parts)
        self.cpus[0].start(start)

    @property
    def registers(self) -> Registers:
        return self.registers_of(0)

    @registers.setter
    def registers(self, values: Registers) -> None:
        self._require_open()
        self.cpus[0].registers = values

    def _cpu(self, number: int) -> VirtualCpu:
        self._require_open()
        if not 0 <= number < len(self.cpus):
            raise HostError(f"there is no vCPU {number}; they are 0 to {len(self.cpus) - 1}")
        return self.cpus[number]

    def registers_of(self, number: int) -> Registers:
        """A copy of a vCPU's registers."""
        return self._cpu(number).registers

    # --- saving ---

    def save_vcpu(self, number: int) -> dict[str, bytes]:
        """All of a vCPU but memory, while the guest is paused or not running."""
        return kvm_state.save_vcpu(self.vm, self._cpu(number))

    def restore_vcpu(self, number: int, parts: Mapping[str, bytes]) -> None:
        """Take over what `save_vcpu` gave, after the devices and `restore_chip`. HostError says
        what does not fit; the guest is of no use then."""
        kvm_state.restore_vcpu(self.vm, self._cpu(number), parts)

    def save_chip(self) -> dict[str, bytes]:
        """KVM's own devices: interrupt controllers and clock."""
        self._require_open()
        return kvm_state.save_chip(self.vm)

    def restore_chip(self, parts: Mapping[str, bytes]) -> None:
        """Take over what `save_chip` gave, as `restore_vcpu` does."""
        self._require_open()
        kvm_state.restore_chip(self.vm, parts)

    # --- statistics ---

    @property
    def runs(self) -> int:
        """How often the guest was entered."""
        return sum(int(cpu.block.runs) for cpu in self.cpus)

    @property
    def timed(self) -> bool:
        """Whether `times` sums up times; it costs two looks at the clock an exit."""
        return bool(self.cpus[0].block.timed)

    @timed.setter
    def timed(self, timed: bool) -> None:
        for cpu in self.cpus:
            cpu.block.exited = 0
            cpu.block.timed = timed

    def times(self) -> list[VcpuTimes]:
        """What each vCPU's loop did so far; times only while `timed`."""
        blocks = (cpu.block for cpu in self.cpus)
        return [
            VcpuTimes(b.runs, b.interrupted, b.injected, b.guest_ns, b.host_ns, b.asleep_ns) for b in blocks
        ]

    @property
    def injected(self) -> int:
        """How many interrupts were injected."""
        return sum(int(cpu.block.injected) for cpu in self.cpus)

    def _release(self) -> None:
        self._unbind()
        for cpu in reversed(self.cpus):
            cpu.close()
        if self._vm is not None:
            self._vm.close()


def _check(vcpus: int, irqchip: str) -> None:
    if irqchip not in IRQCHIPS:
        raise HostError(f"irqchip is one of {', '.join(IRQCHIPS)}, not {irqchip!r}")
    if not 1 <= vcpus <= MAX_VCPUS:
        raise HostError(f"a guest has 1 to {MAX_VCPUS} vCPUs, not {vcpus}")
    if vcpus > 1 and irqchip == "none":
        raise HostError("several vCPUs need local APICs: choose irqchip='kernel' or 'split'")
