# The PM timer is where the FADT says, and 2 ms of the HPET are 7,159 of its ticks.

main:   movl    $0x54455048, %edi               # "HPET"
        call    find_table
        testq   %rax, %rax
        require nz, 1
        movq    44(%rax), %rsi
        orl     $1, 0x10(%rsi)
        movl    4(%rsi), %ecx                   # femtoseconds a tick
        movq    $2000000000000, %rax
        xorl    %edx, %edx
        divq    %rcx
        movq    %rax, %r8                       # ticks in 2 ms

        movl    $0x50434146, %edi               # "FACP"
        pushq   %rsi
        call    find_table
        popq    %rsi
        testq   %rax, %rax
        require nz, 2
        cmpb    $4, 91(%rax)
        require e, 3
        movl    76(%rax), %edx

        movl    $100, %r10d                     # the host may look away: one of a hundred must fit
again:  movq    0xf0(%rsi), %rbx
        inl     %dx, %eax
        movl    %eax, %edi
        addq    %r8, %rbx
1:      cmpq    %rbx, 0xf0(%rsi)
        jb      1b
        inl     %dx, %eax
        subl    %edi, %eax
        andl    $0xffffff, %eax
        subl    $7159 - 143, %eax               # within 2 %
        cmpl    $286, %eax
        jbe     2f
        decl    %r10d
        jnz     again
        cmpl    $286, %eax
        require be, 4
2:      ret
finish:
