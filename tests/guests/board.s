# Timer, serial port and disk interrupt a real-mode guest: 0x20 on and 0x70 on, which
# the 8259s, if there are any, are set up for. Loaded at 0x1000.

        .equ    TIMER, 0x20
        .equ    SERIAL, 0x24
        .equ    DISK, 0x76
        .equ    BUFFER, 0x4000
        .equ    TICKS, 5

        .macro  write port, value
        movb    $\value, %al
        movw    $\port, %dx
        outb    %al, %dx
        .endm

        .macro  gate vector, handler
        movw    $\handler, \vector * 4
        movw    $0, \vector * 4 + 2
        .endm

        .macro  await counter, number, failure  # for some interrupts to have come; a while at most
        movb    $\failure, %al
        movl    $8000000, %ecx                  # a fast emulator does a million in 10 ms
773:    decl    %ecx
        jz      leave
        cmpw    $\number, \counter
        jb      773b
        .endm

begin:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x8000, %sp
        cld
        gate    TIMER, on_timer
        gate    SERIAL, on_serial
        gate    DISK, on_disk
        write   0x20, 0x11                      # the 8259s: edges, cascaded, vectors, 8086
        write   0xa0, 0x11
        write   0x21, 0x20
        write   0xa1, 0x70
        write   0x21, 0x04
        write   0xa1, 0x02
        write   0x21, 0x01
        write   0xa1, 0x01
        write   0x21, 0xea                      # open: 0, 2 and 4
        write   0xa1, 0xbf                      # 14

        write   0x43, 0x34                      # counter 0: 1 kHz
        write   0x40, 0xa9
        write   0x40, 0x04
        sti
        await   ticks, TICKS, 1
        write   0x21, 0xeb
        write   0x43, 0x30                      # mode 0, no count: no more of them

        write   0x3fc, 0x08                     # OUT2
        write   0x3f9, 0x02                     # the transmitter is empty
        await   empties, 1, 2
        write   0x3f8, 0x21
        await   empties, 2, 3

        write   0x1f6, 0xe0                     # one sector, number 5
        write   0x1f2, 1
        write   0x1f3, 5
        write   0x1f4, 0
        write   0x1f5, 0
        write   0x1f7, 0x20
        await   disks, 1, 4
        movw    $BUFFER, %di
        movw    $256, %cx
        movw    $0x1f0, %dx
        rep     insw
        movb    $5, %al
        cmpl    $0x05050505, BUFFER
        jne     leave
        cmpl    $0x05050505, BUFFER + 508
        jne     leave
        xorb    %al, %al
leave:  outb    %al, $0xf4
1:      hlt
        jmp     1b

on_timer:
        incw    ticks
        jmp     master
on_serial:
        pushw   %dx
        movw    $0x3fa, %dx
        pushw   %ax
        inb     %dx, %al
        cmpb    $2, %al
        popw    %ax
        popw    %dx
        jne     master
        incw    empties
master: pushw   %ax
        movb    $0x20, %al
        outb    %al, $0x20
        popw    %ax
        iretw
on_disk:
        pushw   %dx
        pushw   %ax
        movw    $0x1f7, %dx
        inb     %dx, %al
        incw    disks
        movb    $0x20, %al
        outb    %al, $0xa0
        outb    %al, $0x20
        popw    %ax
        popw    %dx
        iretw

        .balign 4
ticks:   .word  0
empties: .word  0
disks:   .word  0
