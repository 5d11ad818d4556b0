# Every vCPU that the MADT lists is started and answers a message of its own.

main:   movl    $0x43495041, %edi               # "APIC"
        call    find_table
        testq   %rax, %rax
        require nz, 1
        movl    4(%rax), %ecx
        addq    %rax, %rcx
        addq    $44, %rax
        xorl    %ebx, %ebx                      # processors, each with its number as its id
1:      cmpb    $0, (%rax)
        jne     2f
        cmpb    %bl, 3(%rax)
        require e, 2
        incl    %ebx
2:      movzbl  1(%rax), %edx
        addq    %rdx, %rax
        cmpq    %rcx, %rax
        jb      1b
        cmpl    $VCPUS, %ebx
        require e, 3

        gate    0x40, answer
        movl    $VCPUS - 1, %edi
        call    start_others
        movl    $1, %ebx
3:      cmpl    $VCPUS, %ebx
        je      5f
        movl    %ebx, %eax
        shll    $24, %eax
        movl    %eax, 0x310(%r15)
        movl    $0x4040, 0x300(%r15)
4:      pause
        cmpl    %ebx, answers
        jne     4b
        movl    who, %eax
        cmpl    %ebx, %eax
        require e, 4
        incl    %ebx
        jmp     3b
5:      ret

answer: pushq   %rax
        movl    0x20(%r15), %eax
        shrl    $24, %eax
        movl    %eax, who
        lock    incl answers
        eoi
        popq    %rax
        iretq

        .balign 4
answers: .long  0
who:     .long  0
finish:
