# The HPET is where its table says, and no vCPU ever sees its counter go back,
# within itself or behind what another has read before.

        .equ    READS, 2000

main:   movl    $0x54455048, %edi               # "HPET"
        call    find_table
        testq   %rax, %rax
        require nz, 1
        movq    44(%rax), %rsi
        movl    36(%rax), %eax
        cmpl    %eax, (%rsi)                    # the table repeats the capabilities
        require e, 2
        movl    %esi, hpet
        orl     $1, 0x10(%rsi)

        gate    0x41, reader
        movl    $VCPUS - 1, %edi
        call    start_others
        movl    $0xc4041, 0x300(%r15)          # all but this one
        call    read
1:      pause
        cmpl    $VCPUS, done
        jne     1b
        cmpl    $0, backwards
        require e, 3
        ret

reader: eoi
        call    read
        iretq

read:   movl    hpet, %esi
        movl    $READS, %ecx
1:      movq    last, %rbx                      # whatever was read before this read begins
        movq    0xf0(%rsi), %rax
        cmpq    %rbx, %rax
        jae     2f
        lock    incl backwards
2:      movq    %rbx, %rdx                      # the later of the two becomes the last
        cmpq    %rax, %rdx
        jae     3f
        xchgq   %rax, %rdx
        pushq   %rax
        movq    %rbx, %rax
        lock    cmpxchgq %rdx, last             # lost to another that wrote: its value is later than RBX
        popq    %rax
3:      loop    1b
        lock    incl done
        ret

        .balign 8
last:      .quad 0
hpet:      .long 0
done:      .long 0
backwards: .long 0
finish:
