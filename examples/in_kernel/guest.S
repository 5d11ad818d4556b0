/* The guest: real mode, from GUEST_AT. It programs the PIT over and over, reads
 * a counter back now and then, and works on the panel's page. What it has done
 * is in its registers when it halts (guest.h). */
#include "guest.h"

        .section .rodata
        .globl  guest_begin, guest_end, burst_begin, burst_end
        .globl  ticks_begin, ticks_end, stranger_begin, stranger_end
        .code16
guest_begin:
        xorl    %ebx, %ebx              /* OUTs */
        xorl    %edi, %edi              /* INs */
        movl    $ROUNDS, %ecx
round:  movb    $0x34, %al              /* counter 0: low then high byte, mode 2 */
        outb    %al, $0x43
        movb    %cl, %al
        outb    %al, $0x40
        movb    $0x10, %al
        outb    %al, $0x40
        movb    $0xb6, %al              /* counter 2: mode 3 */
        outb    %al, $0x43
        movb    %cl, %al
        outb    %al, $0x42
        movb    %ch, %al
        outb    %al, $0x42
        movb    %cl, %al                /* its gate, and the speaker */
        andb    $3, %al
        outb    %al, $0x61
        addl    $7, %ebx
        testb   $15, %cl
        jnz     quiet
        movb    $0, %al                 /* latch counter 0, and read it */
        outb    %al, $0x43
        inb     $0x40, %al
        inb     $0x40, %al
        addl    $2, %edi
        movw    $0x1234, %ax            /* a word: two registers at once */
        outw    %ax, $0x41
        movw    %cx, %bp                /* a string: a control word's count, and half of the next */
        movw    $3, %cx
        movw    $(bytes - guest_begin + GUEST_AT), %si
        movw    $0x42, %dx
        rep outsb
        movw    %bp, %cx
        addl    $5, %ebx
quiet:  loopl   round

        /* The panel, through the segment whose base is its address. */
        movw    $(PANEL_AT >> 4), %ax
        movw    %ax, %ds
        xorl    %esi, %esi              /* reads that were not what the panel says */
        movl    $RINGS, %ecx
ring:   movl    %ecx, PANEL_LAMPS
        movl    %ecx, PANEL_BELL
        cmpl    $PANEL_ID, PANEL_IDENT
        je      1f
        incl    %esi
1:      cmpl    PANEL_LAMPS, %ecx
        je      2f
        incl    %esi
2:      movl    PANEL_DARK, %eax
        notl    %eax
        cmpl    %eax, %ecx
        je      3f
        incl    %esi
3:      loopl   ring
        movl    PANEL_BELL, %ebp
        hlt
        jmp     .-1
bytes:  .byte   0x21, 0x43, 0x65
guest_end:

        /* Another: nothing but counter latch commands. */
burst_begin:
        movl    $BURST, %ecx
        movb    $0, %al
1:      outb    %al, $0x43
        loopl   1b
        hlt
        jmp     .-1
burst_end:

        /* Another: it starts counter 0, and waits for its interrupts. */
ticks_begin:
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x8000, %sp
        movw    $(tick - ticks_begin + GUEST_AT), 4 * IRQ0_VECTOR
        movw    %ax, 4 * IRQ0_VECTOR + 2
        movb    $0x11, %al              /* the interrupt controller (8259A): four words, */
        outb    %al, $0x20
        movb    $IRQ0_VECTOR, %al
        outb    %al, $0x21
        movb    $4, %al
        outb    %al, $0x21
        movb    $1, %al
        outb    %al, $0x21
        movb    $0xfe, %al              /* and all inputs masked but the first */
        outb    %al, $0x21
        xorl    %ebx, %ebx              /* interrupts */
        movb    $0x34, %al
        outb    %al, $0x43
        movb    $(TICK_COUNT & 0xff), %al
        outb    %al, $0x40
        movb    $(TICK_COUNT >> 8), %al
        outb    %al, $0x40
        sti
1:      hlt
        cmpl    $TICKS, %ebx
        jb      1b
        cli
        outb    %al, $DONE_PORT
        jmp     .-1
tick:   incl    %ebx
        movb    $0x20, %al              /* end of interrupt */
        outb    %al, $0x20
        iretw
ticks_end:

        /* Another VM's guest: the same port, and none of our business. */
stranger_begin:
        movb    $0x34, %al
        outb    %al, $0x43
        hlt
        jmp     .-1
stranger_end:
        .code64
        .section .note.GNU-stack, "", @progbits
