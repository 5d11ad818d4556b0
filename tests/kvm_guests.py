"""Guest code for KVM with its interrupt controllers, and where it leaves its results."""

from __future__ import annotations

SECOND = 10**9
MIB = 1 << 20
RESULTS = 0x8000

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
