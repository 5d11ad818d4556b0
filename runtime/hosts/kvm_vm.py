"""One KVM virtual machine: its memory slots, interrupt chips and routes.

Non-goals: vCPUs (kvm_vcpu.py), running them (kvm.py).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from . import kvm_abi as abi
from .host import PAGE, HostError
from .kvm_system import ioctl

Irqchip = Literal["none", "kernel", "split"]
IRQCHIPS: tuple[Irqchip, ...] = ("none", "kernel", "split")

# Intel's processors without real mode need a page for the TSS and one for an
# identity map, anywhere below 4 GiB where the guest has no memory.
_TSS = 0xFEFFD000
_IDENTITY_MAP = 0xFEFFC000
_OURS = range(_IDENTITY_MAP, _TSS + 3 * PAGE)


PostedZone = tuple[int, int, bool]
"""Address, bytes, and whether it is of ports."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Guest-physical addresses that the guest reads without an exit."""

    number: int
    address: int
    size: int
    read_only: bool

    @property
    def end(self) -> int:
        return self.address + self.size


class VirtualMachine:
    """The file descriptors of /dev/kvm and of one VM. `close` it."""

    def __init__(self, irqchip: Irqchip) -> None:
        """Raises HostError if KVM refuses."""
        self.irqchip = irqchip
        self.slots: list[Slot] = []
        self._roms: list[mmap.mmap] = []
        self._posted: set[PostedZone] = set()
        self._messages: dict[int, tuple[int, int]] = {}
        self._fds: list[int] = []
        try:
            self.kvm = self._own(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise HostError(f"/dev/kvm cannot be opened: {error.strerror}") from None
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    def _create(self) -> None:
        if ioctl(self.kvm, abi.GET_API_VERSION) != abi.API_VERSION:
            raise HostError(f"/dev/kvm does not speak KVM's API version {abi.API_VERSION}")
        self.fd = self._own(ioctl(self.kvm, abi.CREATE_VM, what="making a virtual machine"))
        ioctl(self.fd, abi.SET_TSS_ADDR, _TSS)
        ioctl(self.fd, abi.SET_IDENTITY_MAP_ADDR, ctypes.c_uint64(_IDENTITY_MAP))
        if self.irqchip == "kernel":
            ioctl(self.fd, abi.CREATE_IRQCHIP, what="making KVM's interrupt controllers")
        elif self.irqchip == "split":
            self._require(abi.Capability.SPLIT_IRQCHIP, "local APICs without the other controllers")
            split = abi.EnableCap(cap=abi.Capability.SPLIT_IRQCHIP)
            split.args[0] = abi.IOAPIC_PINS
            ioctl(self.fd, abi.ENABLE_CAP, split, "making KVM's local APICs")
        if self.irqchip != "none":
            self._set_routes()

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def capability(self, number: abi.Capability) -> int:
        """What KVM says of a capability, 0: it has it not."""
        return ioctl(self.fd, abi.CHECK_EXTENSION, int(number))

    def _require(self, number: abi.Capability, what: str) -> None:
        if not self.capability(number):
            raise HostError(f"this kernel's KVM has no {what} (KVM_CAP_{number.name})")

    # --- memory ---

    def map(self, address: int, size: int, host_address: int, *, read_only: bool = False) -> Slot:
        """Let the guest have `size` bytes of ours at `address`, both in whole pages."""
        taken = next((s for s in self.slots if address < s.end and s.address < address + size), None)
        if taken is not None or (address < _OURS.stop and _OURS.start < address + size):
            who = f"memory at {taken.address:#x}" if taken else "KVM's own pages"
            raise HostError(f"{size:#x} bytes at {address:#x} overlap {who}; put them elsewhere")
        if read_only:
            self._require(abi.Capability.READONLY_MEM, "read-only memory")
        flags = abi.MEM_READONLY if read_only else 0
        region = abi.MemoryRegion(len(self.slots), flags, address, size, host_address)
        ioctl(self.fd, abi.SET_USER_MEMORY_REGION, region, f"giving the guest memory at {address:#x}")
        slot = Slot(len(self.slots), address, size, read_only)
        self.slots.append(slot)
        return slot

    def rom(self, address: int, content: bytes) -> None:
        """Read-only memory, filled up to whole pages with ones on both sides."""
        if not content or address < 0 or address + len(content) > 1 << 48:
            raise HostError(f"{len(content)} bytes at {address:#x} make no ROM")
        start = address & -PAGE
        before = address - start
        size = (before + len(content) + PAGE - 1) & -PAGE
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages[:] = b"\xff" * before + content + b"\xff" * (size - before - len(content))
        self.map(start, size, ctypes.addressof(ctypes.c_char.from_buffer(pages)), read_only=True)
        self._roms.append(pages)

    # --- posted writes ---

    @property
    def ring_page(self) -> int:
        """The page of a vCPU's mapping in which the ring of posted writes is; 0: there is none."""
        return self.capability(abi.Capability.COALESCED_MMIO)

    @property
    def posts_ports(self) -> bool:
        """Writes to ports can be posted, too."""
        return bool(self.capability(abi.Capability.COALESCED_PIO))

    def post(self, zones: Iterable[PostedZone]) -> None:
        """Let the kernel keep writes to these zones in the ring, and no others."""
        wanted = set(zones)
        for request, changed in (
            (abi.UNREGISTER_COALESCED_MMIO, self._posted - wanted),
            (abi.REGISTER_COALESCED_MMIO, wanted - self._posted),
        ):
            for address, size, by_port in sorted(changed):
                zone = abi.CoalescedZone(address, size, by_port)
                ioctl(self.fd, request, zone, f"posting writes at {address:#x}")
        self._posted = wanted

    # --- interrupts ---

    def route_message(self, pin: int, address: int | None, data: int) -> None:
        """Which message the I/O APIC's `pin` sends (None: none), so that KVM knows whose
        ends of interrupt to report."""
        self._require_irqchip("split", "I/O APIC routes")
        if not 0 <= pin < abi.IOAPIC_PINS:
            raise HostError(f"an I/O APIC has pins 0 to {abi.IOAPIC_PINS - 1}, not {pin}")
        before = dict(self._messages)
        if address is None:
            self._messages.pop(pin, None)
        else:
            self._messages[pin] = address, data
        if self._messages != before:
            self._set_routes()

    def _require_irqchip(self, irqchip: Irqchip, what: str) -> None:
        if self.irqchip != irqchip:
            raise HostError(f"{what} are for irqchip={irqchip!r}; this machine has {self.irqchip!r}")

    def _set_routes(self) -> None:
        entries = _messages(self._messages) if self.irqchip == "split" else _pc_routes()
        routing = abi.Routing(nr=len(entries))
        routing.entries[: len(entries)] = entries
        ioctl(self.fd, abi.SET_GSI_ROUTING, routing, "setting interrupt routes")

    def close(self) -> None:
        for fd in reversed(self._fds):
            os.close(fd)
        self._fds.clear()
        # The mappings go with their last reference: ctypes holds one on each.
        self._roms.clear()


def _route(gsi: int, kind: int, *where: int) -> abi.RoutingEntry:
    entry = abi.RoutingEntry(gsi=gsi, type=kind)
    entry.where[: len(where)] = where
    return entry


def _pc_routes() -> list[abi.RoutingEntry]:
    """A PC's: the 8259 pair has inputs 0 to 15 but the cascade; IRQ 0 is on the I/O
    APIC's pin 2, as every PC's MADT says (ACPI 6.4, 5.2.12.5)."""
    routes = []
    for gsi in range(abi.IOAPIC_PINS):
        if gsi < 16 and gsi != 2:
            chip = abi.PIC_MASTER if gsi < 8 else abi.PIC_SLAVE
            routes.append(_route(gsi, abi.ROUTING_IRQCHIP, chip, gsi & 7))
        if gsi != 2:
            routes.append(_route(gsi, abi.ROUTING_IRQCHIP, abi.IOAPIC, 2 if gsi == 0 else gsi))
    return routes


def _messages(messages: dict[int, tuple[int, int]]) -> list[abi.RoutingEntry]:
    return [
        _route(pin, abi.ROUTING_MSI, address & 0xFFFF_FFFF, address >> 32, data)
        for pin, (address, data) in sorted(messages.items())
    ]
