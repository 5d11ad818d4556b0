"""What happened so far on a running machine: exits, deadlines, vCPUs, as data.

    watch = Watch(vmm)
    watch.sample().registers[0].light

A sample is taken from any thread, while the guest runs. Non-goals: showing it
(cli/live.py).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .hosts.kvm import KvmHost, VcpuTimes

if TYPE_CHECKING:
    from .vmm import RegisterCount, Vmm


@dataclass(frozen=True, slots=True)
class Deadlines:
    """A device's deadlines that came: how many, and by how many ns the host was late.

    `late_median`: the upper end of the power of two that it lies in.
    """

    device: str
    settled: int
    late_median: int
    late_most: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `seconds` of the host since the watch began; `now`: virtual ns."""

    seconds: float
    now: int
    registers: tuple[RegisterCount, ...]
    deadlines: tuple[Deadlines, ...]
    vcpus: tuple[VcpuTimes, ...]
    unclaimed: tuple[int, int]

    @property
    def exits(self) -> int:
        """Accesses that stopped a vCPU; posted ones did not."""
        return sum(count.light + count.heavy for count in self.registers)

    def as_json(self) -> dict[str, Any]:
        """In JSON's terms, the field names as above."""
        return {**asdict(self), "exits": self.exits}


class Watch:
    """Looks at a machine. From then on accesses are timed, and a KVM host
    sums up where its vCPUs' time goes."""

    def __init__(self, vmm: Vmm) -> None:
        self._vmm = vmm
        self._began = time.perf_counter()
        vmm.dispatcher.timed = True
        if isinstance(vmm.host, KvmHost):
            vmm.host.timed = True

    def sample(self) -> Sample:
        vmm = self._vmm
        host = vmm.host
        with vmm.lock:
            return Sample(
                seconds=time.perf_counter() - self._began,
                now=vmm.machine.now,
                registers=tuple(vmm.counts()),
                deadlines=tuple(self._deadlines()),
                vcpus=tuple(host.times()) if isinstance(host, KvmHost) else (),
                unclaimed=vmm.dispatcher.unclaimed,
            )

    def _deadlines(self) -> list[Deadlines]:
        found = []
        for number, device in self._vmm.routing.devices.items():
            buckets, most = self._vmm.dispatcher.lateness(number)
            settled = sum(buckets)
            if settled:
                found.append(Deadlines(device.name, settled, min(median(buckets), most), most))
        return found


def median(buckets: list[int]) -> int:
    """The upper end, ns, of the bucket that holds the middle one; bucket i ends below 2 << i."""
    left = (sum(buckets) + 1) // 2
    for bucket, count in enumerate(buckets):
        left -= count
        if left <= 0:
            return (2 << bucket) - 1
    return 0


__all__ = ["Deadlines", "Sample", "Watch", "median"]
