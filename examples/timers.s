# A guest that pokes the timers as firmware and kernels do, and prints what it
# measured: PIT latches and read-backs, a polled wait on counter 2, the PM timer,
# interrupts of counter 0 while halted, and a tone on the speaker.
#
# Real mode, loaded and started at 0x1000. Port 0xe9 prints a character, port
# 0xf4 ends the run. Interrupt 0x20 is IRQ 0.

        .equ    PIT0, 0x40
        .equ    PIT2, 0x42
        .equ    CONTROL, 0x43
        .equ    PORT_B, 0x61
        .equ    PM_TIMER, 0x608
        .equ    CONSOLE, 0xe9
        .equ    EXIT, 0xf4
        .equ    VECTOR, 0x20

        .equ    POLLS, 400
        .equ    TENTH, 11932            # counter 0: 100 interrupts a second
        .equ    INTERRUPTS, 10
        .equ    NOTE, 2712              # counter 2: 440 Hz

start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x8000, %sp
        cld
        movw    $on_tick, VECTOR * 4
        movw    %ax, VECTOR * 4 + 2

        movw    $say_hello, %si
        call    print

# --- counter 0 in mode 2, latched and read back while it runs ---------------
        movb    $0x34, %al
        outb    %al, $CONTROL
        movw    $TENTH, %ax
        outb    %al, $PIT0
        movb    %ah, %al
        outb    %al, $PIT0

        movw    $POLLS, %cx
        movl    $0, sum
        call    read_pm
        movl    %eax, began
1:      xorb    %al, %al                # counter latch command, counter 0
        outb    %al, $CONTROL
        inb     $PIT0, %al
        movb    %al, %bl
        inb     $PIT0, %al
        movb    %al, %bh
        movzwl  %bx, %eax
        addl    %eax, sum
        loop    1b
        call    read_pm
        subl    began, %eax
        xorl    %edx, %edx
        movl    $POLLS, %ebx
        divl    %ebx
        movw    $say_latch, %si
        call    print_number
        movl    sum, %eax
        xorl    %edx, %edx
        divl    %ebx
        movw    $say_mean, %si
        call    print_number

        movb    $0xc2, %al              # read-back: status and count of counter 0
        outb    %al, $CONTROL
        inb     $PIT0, %al
        movzbl  %al, %eax
        movw    $say_status, %si
        call    print_number
        inb     $PIT0, %al
        inb     $PIT0, %al

# --- the PM timer, read in a row ------------------------------------------------
        movw    $POLLS, %cx
        call    read_pm
        movl    %eax, began
1:      call    read_pm
        loop    1b
        subl    began, %eax
        xorl    %edx, %edx
        divl    %ebx
        movw    $say_pm, %si
        call    print_number

# --- counter 2 in mode 0: wait 10 ms for OUT in port 0x61 -----------------------
        inb     $PORT_B, %al
        andb    $0xfc, %al
        orb     $0x01, %al
        outb    %al, $PORT_B
        movb    $0xb0, %al
        outb    %al, $CONTROL
        movw    $TENTH, %ax
        outb    %al, $PIT2
        call    read_pm                 # the second byte starts the count
        movl    %eax, began
        movb    $TENTH / 256, %al
        outb    %al, $PIT2
1:      inb     $PORT_B, %al
        testb   $0x20, %al
        jz      1b
        call    read_pm
        subl    began, %eax
        movw    $say_wait, %si
        call    print_number

# --- interrupts of counter 0, with a tone meanwhile ------------------------------
        movb    $0xb6, %al
        outb    %al, $CONTROL
        movw    $NOTE, %ax
        outb    %al, $PIT2
        movb    %ah, %al
        outb    %al, $PIT2
        inb     $PORT_B, %al
        orb     $0x03, %al
        outb    %al, $PORT_B

        movw    $0, ticks
        sti
1:      hlt                             # the first may have waited for us; start on the second
        cmpw    $2, ticks
        jb      1b
        call    read_pm
        movl    %eax, began
1:      hlt
        cmpw    $INTERRUPTS + 2, ticks
        jb      1b
        call    read_pm
        cli
        subl    began, %eax
        movl    %eax, sum
        inb     $PORT_B, %al
        andb    $0xfc, %al
        outb    %al, $PORT_B
        movzwl  ticks, %eax
        subl    $2, %eax
        movw    $say_ticks, %si
        call    print_number
        movl    sum, %eax
        movw    $say_span, %si
        call    print_number

        xorb    %al, %al
        outb    %al, $EXIT
        cli
        hlt

on_tick:
        incw    ticks
        iretw

read_pm:
        movw    $PM_TIMER, %dx
        inl     %dx, %eax
        ret

# --- text ---------------------------------------------------------------------------
print:                                  # the string at si
        lodsb
        testb   %al, %al
        jz      1f
        outb    %al, $CONSOLE
        jmp     print
1:      ret

print_number:                           # the string at si, eax in decimal, end of line
        pushw   %cx
        pushl   %ebx
        pushl   %eax
        call    print
        popl    %eax
        movl    $10, %ebx
        xorw    %cx, %cx
1:      xorl    %edx, %edx
        divl    %ebx
        pushw   %dx
        incw    %cx
        testl   %eax, %eax
        jnz     1b
1:      popw    %ax
        addb    $'0', %al
        outb    %al, $CONSOLE
        loop    1b
        movb    $'\n', %al
        outb    %al, $CONSOLE
        popl    %ebx
        popw    %cx
        ret

say_hello:      .asciz "timers: PIT, port 0x61 and PM timer, all from device files\n"
say_latch:      .asciz "  PM ticks a latched read of counter 0        "
say_mean:       .asciz "  its mean count (of 11932 down to 1)         "
say_status:     .asciz "  its status by read-back                     "
say_pm:         .asciz "  PM ticks a read of the PM timer             "
say_wait:       .asciz "  PM ticks in 10 ms of counter 2 (35796)      "
say_ticks:      .asciz "  interrupts of counter 0                     "
say_span:       .asciz "  PM ticks they took (10 ms each: 357955)     "

        .balign 4
began:  .long   0
sum:    .long   0
ticks:  .word   0
