# The machine sleeps (S3) until the clock's alarm, and wakes where the FACS says,
# with its memory as it was.

        .equ    VECTOR, 0x1000

        .macro  cmos index, value
        movb    $\index, %al
        outb    %al, $0x70
        movb    $\value, %al
        outb    %al, $0x71
        .endm

main:   movl    $0x50434146, %edi               # "FACP"
        call    find_table
        testq   %rax, %rax
        require nz, 1
        movl    36(%rax), %esi                  # FACS
        movl    64(%rax), %ebx                  # PM1a control block
        cmpl    $0x53434146, (%rsi)
        require e, 2
        movl    $VECTOR, 12(%rsi)
        movl    $wake, %esi
        movl    $VECTOR, %edi
        movl    $wake_end - wake, %ecx
        rep     movsb
        movl    $0x600d, 0x2000

        cmos    0x01, 0xc0                      # an alarm every second
        cmos    0x03, 0xc0
        cmos    0x05, 0xc0
        cmos    0x0b, 0x22
        movl    %ebx, %edx
        movw    $0x2400, %ax                    # \_S3, SLP_EN
        outw    %ax, %dx
1:      pause
        jmp     1b

        .code16
wake:   xorw    %ax, %ax
        movw    %ax, %ds
        movb    $0x0c, %al
        outb    %al, $0x70
        inb     $0x71, %al
        testb   $0x20, %al                      # the alarm it was
        movb    $3, %al
        jz      1f
        cmpw    $0x600d, 0x2000
        movb    $4, %al
        jne     1f
        xorb    %al, %al
1:      outb    %al, $0xf4
2:      hlt
        jmp     2b
wake_end:
        .code64
finish:
