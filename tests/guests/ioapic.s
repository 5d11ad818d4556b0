# Edges, levels, masks and remote IRR of the I/O APIC, its inputs moved by the ports
# 0x2000 + n.

        .equ    PIN, 14
        .equ    LINE, 0x2000 + PIN
        .equ    LEVEL, 0x8000
        .equ    MASKED, 0x10000
        .equ    REMOTE, 0x4000

        .macro  line level
        movw    $LINE, %dx
        movb    $\level, %al
        outb    %al, %dx
        .endm

        .macro  entry value
        movl    $PIN, %edi
        movl    $\value, %esi
        call    route
        .endm

        .macro  counted number, failure         # interrupts so far, after some time for them to come
        movl    $\number, %edi
        movl    $\failure, %esi
        call    expect
        .endm

main:   gate    0x50, on_edge
        gate    0x51, on_level
        movl    $1, (%r14)                      # version: 24 entries, and read-only
        movl    0x10(%r14), %eax
        shrl    $16, %eax
        cmpb    $23, %al
        require e, 1
        sti

        entry   0x50
        line    1
        line    0
        counted 1, 2
        line    1
        line    1                               # no edge
        counted 2, 3
        line    0

        entry   0x50 + MASKED                   # an edge while masked is lost
        line    1
        line    0
        entry   0x50
        counted 2, 4

        entry   0x51 + LEVEL                    # the handler lowers the line
        line    1
        counted 3, 5
        movl    $PIN, %edi
        call    entry_of
        testl   $REMOTE, %eax                   # the EOI has cleared it
        require z, 6

        entry   0x51 + LEVEL + MASKED           # a level waits while masked
        line    1
        counted 3, 7
        entry   0x51 + LEVEL
        counted 4, 8
        ret

expect: movl    $200000, %ecx                   # some time, for as many as there should be
1:      cmpl    %edi, count
        je      2f
        pause
        loop    1b
2:      movl    $3000, %ecx                     # and a little for what should not be
3:      pause
        loop    3b
        cmpl    %edi, count
        je      4f
        movl    %esi, %eax
        jmp     leave
4:      ret

on_level:
        pushq   %rax
        pushq   %rdx
        line    0
        popq    %rdx
        popq    %rax
on_edge:
        lock    incl count
        eoi
        iretq

        .balign 4
count:  .long   0
finish:
