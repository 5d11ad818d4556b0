"""Guests on KVM: making and running them, code that several tests use, and where it leaves its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from devc.runtime.assemble import assemble
from devc.runtime.clock import HostClock
from devc.runtime.hosts import Reason
from devc.runtime.hosts.start import Start
from devc.runtime.machine import Engine, Machine
from devc.runtime.vmm import Vmm

Made = Callable[..., Vmm]

SECOND = 10**9
MIB = 1 << 20
CODE, RESULTS = 0x10000, 0x8000

# The 8259 pair as a PC's BIOS sets it up: IRQ 0 to 7 at vectors 8 to 15; only IRQ 0 open.
PIC = """
    mov $0x11, %al
    out %al, $0x20
    out %al, $0xa0
    mov $8, %al
    out %al, $0x21
    mov $0x70, %al
    out %al, $0xa1
    mov $4, %al
    out %al, $0x21
    mov $2, %al
    out %al, $0xa1
    mov $1, %al
    out %al, $0x21
    out %al, $0xa1
    mov $0xfe, %al
    out %al, $0x21
    mov $0xff, %al
    out %al, $0xa1
"""
# Channel 0 in mode 2, every 11932 clocks: 10 ms. Leaves after {ticks} ticks, halting between.
TICKS = f"""
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7000, %sp
    movw $tick, 4 * 8
    movw %cs, 4 * 8 + 2
    {PIC}
    mov $0x34, %al
    out %al, $0x43
    mov $0x9c, %al
    out %al, $0x40
    mov $0x2e, %al
    out %al, $0x40
    sti
1:  hlt
    cmpw ${{ticks}}, {RESULTS}
    jb 1b
    out %al, $0xf4
    cli
    hlt
tick:
    incw {RESULTS}
    mov $0x20, %al
    out %al, $0x20
    iret
"""

AP_CODE, DONE, COUNTS = 0x8000, 0x9000, 0x9010
PM_TIMER = 0x608

# Local APIC: enabled, INIT and then a start-up message (vector 8: 0x8000) to all others.
START_OTHERS = """
    movl $0x1ff, 0xfee000f0
    movl $0x000c4500, 0xfee00300
    movl $0x000c4608, 0xfee00300
"""


def vmms() -> Iterator[Made]:
    """For a fixture: makes VMMs over machines with the devices named, with an exit by port 0xf4."""
    made: list[Vmm] = []

    def vmm(*devices: str, engine: Engine = "native", **options: object) -> Vmm:
        machine = Machine(HostClock(), engine)
        for device in devices:
            machine.add(device)
        made.append(Vmm(machine, "kvm", **options))  # type: ignore[arg-type]
        made[-1].exit_port()
        return made[-1]

    yield vmm
    for vmm_made in made:
        vmm_made.close()


def start(vmm: Vmm, text: str, bits: int = 16) -> None:
    """Load code at CODE and begin there: real mode with CS 0x1000, or flat 32 bits."""
    vmm.host.load(assemble(text, CODE if bits == 32 else 0, bits), CODE)
    vmm.host.start(Start("flat32" if bits == 32 else "real", CODE))


def run(vmm: Vmm, seconds: float = 5) -> None:
    outcome = vmm.run(until=vmm.machine.now + int(seconds * SECOND))
    assert outcome.reason is Reason.STOPPED, str(outcome)


def start_two(vmm: Vmm, first: str, second: str) -> None:
    """The first vCPU in flat 32-bit code, which starts the second in real mode (DS = 0)."""
    vmm.host.load(assemble(f"xor %ax, %ax\n mov %ax, %ds\n {second}", 0), AP_CODE)
    start(vmm, START_OTHERS + first, bits=32)
