"""Guests on KVM (x86-64 Linux): the exit loop is native code (`kvm.ll`).

Deadlines come by one POSIX timer a machine, whose signal is sent to the first
vCPU's thread; its handler, native code too, sets `immediate_exit`, so that none is
lost. Other signals wait until the loop looks for them, some ms at most.

The first vCPU runs in the thread that calls `run`, each other one in a thread of
its own. Native code takes no lock but a device's; Python serves one vCPU at a time,
under the dispatcher's lock.

Non-goals: what a device or an interrupt controller does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

from ...compiler.ir import NEVER
from ..bus import Access, Counters, Outcome, RegionEntry
from ..dispatch import Dispatcher, lane
from ..lines import NativeSink
from ..posted import Zone
from . import kvm_abi as abi
from . import kvm_loop, kvm_state
from .host import DEFAULT_MEMORY, GRACE, PAGE, Exit, Host, HostError, Reason, Registers
from .kvm_loop import Leave
from .kvm_system import WAKE, create_timer, delete_timer, wake_thread
from .kvm_vcpu import VirtualCpu
from .kvm_vm import IRQCHIPS, Irqchip, VirtualMachine
from .start import Start

_LOOP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32)

MAX_VCPUS = 64
_SOURCES = 64


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


class KvmHost(Host):
    """A guest on KVM. `run` may move from thread to thread, one at a time.

    `irqchip`: "none", vectors come by `inject`; "kernel", KVM's interrupt
    controllers; "split", only the local APICs are KVM's. More than one vCPU needs
    local APICs. `hide_kvm`: CPUID shows no hypervisor. `on_eoi`: called with the
    vector when an interrupt of a routed I/O APIC pin ends.
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
        self.on_eoi: list[Callable[[int], object]] = []
        self.cpus: list[VirtualCpu] = []
        self._vm: VirtualMachine | None = None
        self._acknowledge: Callable[[], int] | None = None
        self._sources = [0] * kvm_loop.GSIS
        self._timer: int | None = None
        self._thread = 0
        self._unblock: int | None = None
        self._others_ended: list[Exit | BaseException] = []
        self._gate = threading.Condition()
        self._pausing = self._parked = self._active = 0
        try:
            self._create(vcpus, irqchip, hide_kvm)
        except BaseException:
            self.close()
            raise

    def _create(self, vcpus: int, irqchip: Irqchip, hide_kvm: bool) -> None:
        code = kvm_loop.native()
        self._loop = _LOOP(code.symbol("devc_kvm_loop"))
        self.line_function, self.intr_function, self.message_function = (
            code.symbol(f"devc_kvm_{name}") for name in ("line", "intr", "message")
        )
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
        self.dispatcher.kick = self._look

    @property
    def vm(self) -> VirtualMachine:
        assert self._vm is not None, "there is one from __init__ on"
        return self._vm

    @property
    def vm_context(self) -> int:
        """The context of `line_function` and `message_function`."""
        return ctypes.addressof(self._block)

    # --- running ---

    def _run(self, until: int) -> Exit:
        first = self.cpus[0]
        self._bind()
        self._block.until, self._block.armed = until, 0
        with self._others():
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
            self._park()
        elif leave == Leave.EOI:
            vector = abi.RunDetail.from_address(cpu.block.run).code & 0xFF
            with self.dispatcher.lock:
                for told in self.on_eoi:
                    told(vector)
        elif leave == Leave.ACKNOWLEDGE:
            with self.dispatcher.lock:
                if cpu.block.intr and self._acknowledge is not None:
                    _queue(cpu, self._acknowledge() & 0xFF)
        else:
            return leave == Leave.SIGNAL
        return True

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

    # --- the other vCPUs ---

    @contextmanager
    def _others(self) -> Iterator[None]:
        """The others run in threads of their own until this is left."""
        self._others_ended.clear()
        others = self.cpus[1:]
        with self._gate:
            self._active = len(self.cpus)
        threads = [
            threading.Thread(target=self._run_other, args=[cpu], name=f"devc vCPU {cpu.number}", daemon=True)
            for cpu in others
        ]
        try:
            for cpu, thread in zip(others, threads, strict=True):
                cpu.block.stop = 0
                thread.start()
            yield
        finally:
            self._end()
            _until_done(threads, lambda: self._ask_all(others))
            # Whoever asked the first one to stop has been obeyed, whatever came first.
            self.cpus[0].block.stop = 0

    def _run_other(self, cpu: VirtualCpu) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            leave = self._drive(cpu)
            if leave is not Leave.STOPPED:
                self._others_ended.append(self._exit(cpu, leave))
        except BaseException as error:
            self._complete(cpu, error)
            self._others_ended.append(error)
        finally:
            self._end()
            self._ask(self.cpus[0])

    def _end(self) -> None:
        with self._gate:
            self._active -= 1
            self._gate.notify_all()

    def _ask_all(self, cpus: list[VirtualCpu]) -> None:
        for cpu in cpus:
            self._ask(cpu)

    def _ask(self, cpu: VirtualCpu) -> None:
        """Have a vCPU's loop leave with STOPPED."""
        cpu.block.stop = kvm_loop.STOP_ASKED
        self._kick(cpu)

    def _look(self) -> None:
        """A thread of Python's moved a deadline: have the timer armed for it."""
        if threading.get_native_id() not in [cpu.block.thread for cpu in self.cpus]:
            self._kick(self.cpus[0])

    def _kick(self, cpu: VirtualCpu) -> None:
        """Get a vCPU out of the guest, if another thread has it there."""
        thread = cpu.block.thread
        if thread and thread != threading.get_native_id():
            cpu.head.immediate_exit = 1
            wake_thread(thread)

    # --- pausing ---

    def pause(self) -> None:
        if threading.get_native_id() in [cpu.block.thread for cpu in self.cpus]:
            raise HostError("a vCPU's own thread cannot pause the guest; stop it")
        with self._gate:
            self._pausing += 1
            for cpu in self.cpus:
                cpu.block.pause = 1
                self._kick(cpu)
            try:
                self._gate.wait_for(lambda: self._parked == self._active)
            except BaseException:
                self._resume()
                raise

    def resume(self) -> None:
        with self._gate:
            if not self._pausing:
                raise HostError("the guest is not paused")
            self._resume()

    def _resume(self) -> None:
        self._pausing -= 1
        if not self._pausing:
            for cpu in self.cpus:
                cpu.block.pause = 0
            self._gate.notify_all()

    def _park(self) -> None:
        with self._gate:
            self._parked += 1
            self._gate.notify_all()
            try:
                self._gate.wait_for(lambda: not self._pausing)
            finally:
                self._parked -= 1

    # --- exits ---

    def _exit(self, cpu: VirtualCpu, leave: int) -> Exit:
        now = self.dispatcher.now()
        if leave == Leave.HALTED:
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

    def stop(self) -> None:
        self._ask_all(self.cpus)

    # --- interrupts ---

    def inject(self, vector: int) -> bool:
        if not 0 <= vector <= 255:
            raise HostError(f"an interrupt vector is 0 to 255, not {vector}")
        if self.vm.irqchip != "none":
            raise HostError("vectors come from the local APIC here: drive a line or send a message")
        return _queue(self.cpus[0], vector)

    def source(self, gsi: int) -> int:
        """A new line on a GSI of KVM's controllers: the argument of `line_function` for it."""
        if self.vm.irqchip != "kernel" or not 0 <= gsi < abi.IOAPIC_PINS:
            raise HostError(f"only irqchip='kernel' has GSIs, 0 to {abi.IOAPIC_PINS - 1}")
        number = self._sources[gsi]
        if number == _SOURCES - 1:
            raise HostError(f"GSI {gsi} has {number} lines already")
        self._sources[gsi] += 1
        return gsi | number << 8

    def irq_line(self, gsi: int, level: int) -> None:
        """Drive a GSI of KVM's controllers, or-ed with the lines of `source`."""
        if self.vm.irqchip != "kernel" or not 0 <= gsi < abi.IOAPIC_PINS:
            raise HostError(f"only irqchip='kernel' has GSIs, 0 to {abi.IOAPIC_PINS - 1}")
        NativeSink(self.line_function, self.vm_context, gsi | (_SOURCES - 1) << 8)(bool(level), 0)

    def signal_msi(self, address: int, data: int) -> None:
        """Send a message to the local APICs."""
        if self.vm.irqchip == "none":
            raise HostError("there are no local APICs with irqchip='none'")
        _MESSAGE(self.message_function)(self.vm_context, address, data)

    def route_msi(self, pin: int, address: int | None, data: int) -> None:
        """What the I/O APIC's `pin` sends; see `VirtualMachine.route_message`."""
        self.vm.route_message(pin, address, data)

    def connect_pic(self, acknowledge: Callable[[], int]) -> None:
        """An 8259 outside of KVM: `acknowledge` gives the vector when the first vCPU takes
        its interrupt; `pic_line` tells its INT."""
        if self.vm.irqchip == "kernel":
            raise HostError("irqchip='kernel' has an 8259 pair already")
        self._acknowledge = acknowledge

    def connect_native_pic(self, read: int, state: int, device: int) -> None:
        """As `connect_pic`, in native code: `read` is the function of the host window whose
        u32 at 0 is the acknowledge cycle, `device` the dispatcher's number for `state`."""
        self.connect_pic(lambda: 0)
        self._inta_counters = Counters()
        self._inta = RegionEntry(
            read=read,
            state=state,
            size=4,
            counters=ctypes.addressof(self._inta_counters),
            counted=1,
            device=device,
        )
        self._block.inta = ctypes.addressof(self._inta)

    @property
    def intr_sink(self) -> NativeSink:
        """The 8259's INT goes there."""
        return NativeSink(self.intr_function, self.cpus[0].address, keep=self)

    def pic_line(self, level: int) -> None:
        """The 8259's INT is high or low. From any thread."""
        self.intr_sink(bool(level), 0)

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
        self.cpus[0].start(start)

    @property
    def registers(self) -> Registers:
        return self.registers_of(0)

    @registers.setter
    def registers(self, values: Registers) -> None:
        self._require_open()
        self.cpus[0].registers = values

    def registers_of(self, number: int) -> Registers:
        """A copy of a vCPU's registers."""
        self._require_open()
        return self.cpus[number].registers

    # --- saving ---

    def save_vcpu(self, number: int) -> dict[str, bytes]:
        """All of a vCPU but memory, while the guest is paused or not running."""
        self._require_open()
        return kvm_state.save_vcpu(self.vm, self.cpus[number])

    def restore_vcpu(self, number: int, parts: Mapping[str, bytes]) -> None:
        """Take over what `save_vcpu` gave, after the devices and `restore_chip`. HostError says
        what does not fit; the guest is of no use then."""
        self._require_open()
        kvm_state.restore_vcpu(self.vm, self.cpus[number], parts)

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


def _queue(cpu: VirtualCpu, vector: int) -> bool:
    """Queue a vector for a vCPU; False if it is queued already."""
    block = cpu.block
    if any(block.queue[(block.head + i) % 256] == vector for i in range(block.pending)):
        return False
    block.queue[(block.head + block.pending) % 256] = vector
    block.pending += 1
    return True


def _until_done(threads: list[threading.Thread], ask: Callable[[], object]) -> None:
    """Join threads, whatever interrupts that: asking them again each time."""
    interrupted: BaseException | None = None
    while True:
        ask()
        try:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            break
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
