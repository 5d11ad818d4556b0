"""A machine's devices behind a host's native loop: the VMM in small.

The dispatcher serves compiled handlers without entering Python; what it hands
back (edges of lines, Python handlers, the host's own ports) goes to the
machine. `Vmm` keeps the two address maps alike, and turns lines into
interrupts and two ports into a console and a way out.

Non-goals: interrupt controllers as device files (runtime/interrupts.py), firmware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compiler.ir import NEVER
from .bus import CLOCK_FIXED, CLOCK_RUNNING, Access, Outcome
from .clock import HostClock
from .device import RegionTarget
from .dispatch import Dispatcher
from .hosts import DEFAULT_MEMORY, Exit, Host, HostError, pick
from .hosts.kvm import KvmHost
from .hosts.kvm_vm import Irqchip
from .instance import NativeInstance
from .machine import Machine
from .policies import Policy
from .posted import Posting
from .routing import Routing
from .windows import Space, Window

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class RegisterCount:
    """Exits to one register: served natively (light), and by Python (heavy); and writes
    that caused no exit of their own (posted). `light_ns`, `heavy_ns`: what those took
    that came while the dispatcher was `timed`."""

    device: str
    register: str
    access: str  # "read" or "write"
    light: int
    heavy: int
    posted: int = 0
    light_ns: int = 0
    heavy_ns: int = 0


class Vmm:
    """A guest on a host, its devices on a machine.

    `host`: "kvm", "unicorn", or None for the best that works here. `memory`, `vcpus`,
    `irqchip` and `hide_kvm` as the host takes them. Use as a context manager, or
    `close` it (which leaves the machine usable).

    While the guest runs, whoever touches the machine from another thread holds `lock`,
    or has the guest `paused`.
    """

    def __init__(
        self,
        machine: Machine,
        host: str | None = None,
        memory: int = DEFAULT_MEMORY,
        *,
        vcpus: int = 1,
        irqchip: Irqchip = "none",
        hide_kvm: bool = False,
    ) -> None:
        """Raises HostError if the host does not work here, or not like that."""
        self.machine = machine
        special = vcpus != 1 or irqchip != "none" or hide_kvm
        kind, self.why = pick("kvm" if special and host is None else host)
        self.dispatcher = Dispatcher(vcpus)
        self._handles: dict[int, Window] = {}
        self._synchronise_clock()
        self._postponed = self.dispatcher.add_device(machine.coalescing.address, 0)
        self.routing = Routing(machine, self.dispatcher)
        for window in machine.windows():
            self._map(window)
        self.dispatcher.attend = self._attend
        self.lock = self.dispatcher.lock
        self._posting: Posting | None = None
        self._post_stale, self._running = True, False
        machine.moved.append(self._moved)
        machine.wired.append(self._rewired)
        self.host: Host
        try:
            if kind is KvmHost:
                self.host = KvmHost(self.dispatcher, memory, vcpus=vcpus, irqchip=irqchip, hide_kvm=hide_kvm)
                self._posting = Posting(self.host)
            elif special:
                raise HostError("vCPUs, interrupt controllers and CPUID are KVM's: choose the host kvm")
            else:
                self.host = kind(self.dispatcher, memory)
        except BaseException:
            self._leave_machine()
            raise

    @property
    def kvm(self) -> KvmHost:
        """The host, if it is KVM's; else HostError."""
        if not isinstance(self.host, KvmHost):
            raise HostError(f"interrupt controllers are KVM's: choose the host kvm, not {self.host.name}")
        return self.host

    # --- the address map ---------------------------------------------------------

    def _map(self, window: Window) -> None:
        if window.base is None:
            return
        target = window.target
        addresses, python, split, quiet = (0, 0, 0), True, False, None
        if isinstance(target, RegionTarget):
            device, region = target.device, target.region
            split = region.split
            state = device.instance.address
            addresses = (0, 0, state)
            if isinstance(device.instance, NativeInstance):
                symbol = device.instance.code.symbol
                prefix = f"{device.module.name}_{region.name}"
                addresses, python = (symbol(f"{prefix}_read"), symbol(f"{prefix}_write"), state), False
                quiet = self.routing.quiet(device, region)
        handle = self.dispatcher.add_region(
            window.space,
            window.base,
            window.size,
            *addresses,
            split,
            python=python,
            name=window.label,
            quiet=quiet,
        )
        self._handles[handle] = window

    def _moved(self, window: Window) -> None:
        """The machine moved a window: so does the loop's."""
        handle = next((handle for handle, known in self._handles.items() if known is window), None)
        if handle is None:
            self._map(window)
        elif window.base is not None:
            self.dispatcher.move(handle, window.base)
        else:
            self.dispatcher.remove(handle)
            del self._handles[handle]
        self._rewired()

    def _rewired(self) -> None:
        """Lines lead elsewhere, or registers are elsewhere: other writes may wait."""
        self._post_stale = True
        if self._running:
            self._post()

    def _post(self) -> None:
        if self._posting is not None and self._post_stale:
            self._posting.update(self._handles)
            self._post_stale = False

    # --- time ----------------------------------------------------------------------

    def _synchronise_clock(self) -> None:
        """The loop reads virtual time by itself, as the machine's clock has it."""
        clock, block = self.machine.clock, self.dispatcher.clock
        if isinstance(clock, HostClock) and clock.running:
            block.mode, block.base = CLOCK_RUNNING, clock.offset & NEVER
        else:
            block.mode, block.base = CLOCK_FIXED, clock.now

    # --- what the loop hands back ------------------------------------------------------

    def _attend(self, access: Access) -> None:
        if access.outcome == Outcome.HEAVY and access.entry:
            target = self._handles[access.entry].target
            if access.write:
                target.write(access.offset, access.piece, access.piece_value, access.now)
                access.answer()
            else:
                access.answer(target.read(access.offset, access.piece, access.now))
        elif access.device == self._postponed:
            self.machine.coalescing.fire(access.now)
        else:
            device = self.routing.devices[access.device]
            if access.outcome == Outcome.HEAVY:
                device.settle(access.now)
            self.machine.attend(device, access.now)
        self._hold_off()

    def _hold_off(self) -> None:
        """No deadline wakes the host while the ticks it would bring are clamped."""
        if self.machine.coalescing.lines:
            for number, device in self.routing.devices.items():
                self.dispatcher.hold_off(number, device.floor)

    # --- the outside --------------------------------------------------------------------

    def interrupt(
        self,
        line: str,
        vector: int,
        *,
        missed: str | Policy | None = None,
        minimum: int | None = None,
        acknowledged: bool | None = None,
    ) -> None:
        """Each rising edge of "device.line" is an interrupt with this vector.

        The rest is as for `Machine.wire`. A line whose device file declares a minimum
        period keeps to it here, where a storm would cost the host.
        """

        def sink(level: int, now: int) -> None:
            if level:
                self.host.inject(vector)

        if acknowledged is None and missed is None and self.machine.line(line).minimum:
            acknowledged = False
        self.machine.wire(line, sink, missed=missed, minimum=minimum, acknowledged=acknowledged)

    def irq(
        self,
        line: str,
        gsi: int,
        *,
        missed: str | Policy | None = None,
        minimum: int | None = None,
        acknowledged: bool | None = None,
    ) -> None:
        """Let "device.line" drive an input of KVM's interrupt controllers (irqchip "kernel"):
        GSI 0 to 15 as a PC's IRQs, 16 to 23 on the I/O APIC only. Several on one are or-ed.

        The rest is as for `interrupt`; KVM's controllers tell of no acknowledgement.
        """
        sink = self.kvm.line(gsi)
        if acknowledged is None and (missed is not None or minimum is not None):
            acknowledged = False
        self.machine.wire(line, sink, missed=missed, minimum=minimum, acknowledged=acknowledged)

    def console(self, write: Callable[[bytes], object], port: int = 0xE9) -> None:
        """Bytes written to a port go to a function (Bochs' debug console)."""
        self.claim(f"port {port:#x}", port, write=lambda offset, width, value: write(bytes([value & 0xFF])))

    def exit_port(self, port: int = 0xF4) -> list[int]:
        """A write to a port stops the guest; the list receives the values."""
        values: list[int] = []

        def leave(offset: int, width: int, value: int) -> None:
            values.append(value)
            self.host.stop()

        self.claim(f"port {port:#x}", port, write=leave)
        return values

    def connect_pic(self, name: str = "i8259") -> None:
        """Let an 8259 pair on the machine, a device file, interrupt the first vCPU (irqchip
        "none" or "split"): its line `int`, and its acknowledge cycle `inta`."""
        host, device = self.kvm, self.machine.devices[name]
        cycle = device.cycles["inta"]
        if isinstance(device.instance, NativeInstance):
            read = device.instance.code.symbol(f"{device.module.name}_{cycle.region.name}_read")
            host.connect_native_pic(read, device.instance.address, self.routing.numbers[device])
        else:
            host.connect_pic(lambda: cycle.read(0, 4, self.machine.now))
        self.machine.wire(f"{name}.int", host.intr_sink)

    def claim(
        self,
        label: str,
        base: int,
        size: int = 1,
        *,
        space: Space = "io",
        read: Callable[[int, int], int] | None = None,
        write: Callable[[int, int, int], object] | None = None,
    ) -> None:
        """Let functions of ours serve addresses; see `Machine.claim`."""
        self._map(self.machine.claim(label, space, base, size, read, write))

    def run(self, until: int = NEVER) -> Exit:
        """Run the guest; see `Host.run`. The machine's clock goes on from where it is."""
        self._synchronise_clock()
        self.dispatcher.deadlines_moved()
        self._hold_off()
        self._post()
        self._running = True
        try:
            return self.host.run(until)
        finally:
            self._running = False

    def stop(self) -> None:
        """Have `run` return; from any thread, and from what serves the guest."""
        self.host.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """All vCPUs stand between two instructions meanwhile, and virtual time stands;
        `run` goes on afterwards.

        From another thread than the vCPUs', which does not hold `lock`.
        """
        self.host.pause()
        try:
            with self.standing():
                yield
        finally:
            self.host.resume()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Virtual time stands meanwhile, if it ran. No vCPU may be running."""
        clock = self.machine.clock
        if not isinstance(clock, HostClock) or not clock.running:
            yield
            return
        clock.stop()
        try:
            yield
        finally:
            clock.start()
            self._synchronise_clock()
            self.dispatcher.deadlines_moved()

    def counts(self) -> list[RegisterCount]:
        """Accesses by register, in the order of the address map."""
        totals: dict[tuple[str, str, str], list[int]] = {}
        for handle, window in self._handles.items():
            target = window.target
            posted = self._posting.counts(handle) if self._posting is not None else ()
            for offset, counters in enumerate(self.dispatcher.stats(handle)):
                if isinstance(target, RegionTarget):
                    name = (target.device.name, target.register_at(offset))
                else:
                    name = ("host", window.label)
                for write in (False, True):
                    light, heavy, *ns = counters.of(write)
                    waited = posted[offset] if posted and write else 0
                    if light or heavy:
                        total = totals.setdefault((*name, "write" if write else "read"), [0] * 5)
                        counted = (light - waited, heavy, waited, *ns)
                        total[:] = (sum(pair) for pair in zip(total, counted, strict=True))
        return [RegisterCount(*key, *total) for key, total in totals.items()]

    def close(self) -> None:
        self.host.close()
        self._leave_machine()

    def _leave_machine(self) -> None:
        if self._moved in self.machine.moved:
            self.machine.moved.remove(self._moved)
            self.machine.wired.remove(self._rewired)
            self.routing.close()

    def __enter__(self) -> Vmm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["RegisterCount", "Vmm"]
