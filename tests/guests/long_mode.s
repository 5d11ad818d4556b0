# A multiboot kernel that goes to 64-bit mode and calls `main`; what the guests beside
# it have in common. Loaded at 1 MiB. Memory below: 0x8000 trampoline, 0x70000 page
# tables, 0x78000 interrupt descriptors, 0x90000 stacks downwards, 16 KiB a vCPU.
#
# Port 0xf4 takes 0, or the number of what failed.

        .equ    TRAMPOLINE, 0x8000
        .equ    TABLES, 0x70000
        .equ    IDT, 0x78000
        .equ    STACKS, 0x90000
        .equ    STACK, 0x4000
        .equ    APIC, 0xfee00000                # R15 all the time
        .equ    IOAPIC, 0xfec00000              # R14

        .macro  require condition, number       # or end the run
        j\condition 771f
        movl    $\number, %eax
        jmp     leave
771:
        .endm

        .macro  gate vector, handler
        movl    $\vector, %edi
        movl    $\handler, %esi
        call    set_gate
        .endm

        .macro  eoi
        movl    $0, 0xb0(%r15)
        .endm

        .code32
begin:  .long   0x1badb002, 0x10000, -(0x1badb002 + 0x10000), begin, begin, 0, finish, entry

entry:  cli
        movl    %ebx, information
        movl    $STACKS, %esp
        movl    $TABLES, %edi                   # 4 GiB, each page where it is, 2 MiB a page
        xorl    %eax, %eax
        movl    $0x6000 / 4, %ecx
        rep     stosl
        movl    $TABLES + 0x1003, TABLES
        movl    $4, %ecx
        movl    $TABLES + 0x1000, %edi
        movl    $TABLES + 0x2003, %eax
1:      movl    %eax, (%edi)
        addl    $0x1000, %eax
        addl    $8, %edi
        loop    1b
        movl    $2048, %ecx
        movl    $TABLES + 0x2000, %edi
        movl    $0x83, %eax
1:      movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    1b
        call    to_long_mode
        ljmpl   $0x18, $main64

to_long_mode:
        lgdtl   gdtr
        movl    %cr4, %eax
        orl     $0x20, %eax                     # PAE
        movl    %eax, %cr4
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx               # EFER.LME
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000001, %eax
        movl    %eax, %cr0
        ret

another32:                                      # another vCPU, from the trampoline
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $1, %eax
        lock    xaddl %eax, numbers             # 1 for the first of them
        movl    %eax, %ebx
        imull   $STACK, %eax
        movl    $STACKS, %esp
        subl    %eax, %esp
        call    to_long_mode
        ljmpl   $0x18, $another64

        .code16
trampoline:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdtl   TRAMPOLINE + (trampoline_gdtr - trampoline)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $0x08, $another32
        .balign 4
trampoline_gdtr:
        .word   gdt_end - gdt - 1
        .long   gdt
trampoline_end:

        .code64
main64: call    segments
        call    local_apic
        movb    $0xff, %al                      # the 8259s: nothing
        outb    %al, $0x21
        outb    %al, $0xa1
        call    main
        xorl    %eax, %eax
leave:  outb    %al, $0xf4
1:      hlt
        jmp     1b

another64:                                      # EBX: its number, 1 for the first
        call    segments
        call    local_apic
        lock    incl online
        sti
1:      hlt
        jmp     1b

segments:
        movw    $0x20, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        lidt    idtr
        movl    $APIC, %r15d
        movl    $IOAPIC, %r14d
        ret

local_apic:                                     # software-enabled, vector 0xff if spurious
        movl    $0x1ff, 0xf0(%r15)
        movl    $0, 0x80(%r15)
        ret

set_gate:                                       # EDI: vector, ESI: handler below 4 GiB
        shll    $4, %edi
        movw    %si, IDT(%rdi)
        movw    $0x18, IDT + 2(%rdi)
        movw    $0x8e00, IDT + 4(%rdi)
        shrl    $16, %esi
        movw    %si, IDT + 6(%rdi)
        movq    $0, IDT + 8(%rdi)
        ret

start_others:                                   # INIT and SIPI to all but this one; EDI: how many there are
        pushq   %rdi
        movl    $trampoline, %esi
        movl    $TRAMPOLINE, %edi
        movl    $trampoline_end - trampoline, %ecx
        rep     movsb
        movl    $0xc4500, 0x300(%r15)
        movl    $0xc4600 + TRAMPOLINE / 4096, 0x300(%r15)
        popq    %rdi
1:      pause
        cmpl    %edi, online
        jne     1b
        ret

find_table:                                     # EDI: signature; RAX: its address, 0 if it is not there
        movq    $0x2052545020445352, %rdx       # "RSD PTR "
        movl    $0xe0000, %eax
1:      cmpq    (%rax), %rdx
        je      2f
        addl    $16, %eax
        cmpl    $0x100000, %eax
        jb      1b
        xorl    %eax, %eax
        ret
2:      movq    24(%rax), %rsi                  # XSDT
        movl    4(%rsi), %ecx
        addq    %rsi, %rcx
        addq    $36, %rsi
3:      cmpq    %rcx, %rsi
        jae     4f
        movq    (%rsi), %rax
        cmpl    %edi, (%rax)
        je      5f
        addq    $8, %rsi
        jmp     3b
4:      xorl    %eax, %eax
5:      ret

route:                                          # EDI: pin of the I/O APIC, ESI: low word of its entry; to this vCPU
        leal    0x11(,%rdi,2), %eax
        movl    %eax, (%r14)
        movl    0x20(%r15), %edx
        andl    $0xff000000, %edx
        movl    %edx, 0x10(%r14)
        decl    %eax
        movl    %eax, (%r14)
        movl    %esi, 0x10(%r14)
        ret

entry_of:                                       # EDI: pin; EAX: low word of its entry
        leal    0x10(,%rdi,2), %eax
        movl    %eax, (%r14)
        movl    0x10(%r14), %eax
        ret

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff              # 0x08: 32-bit code
        .quad   0x00cf93000000ffff              # 0x10: data
        .quad   0x00af9b000000ffff              # 0x18: 64-bit code
        .quad   0x00cf93000000ffff              # 0x20: data
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
idtr:   .word   0xfff
        .quad   IDT
        .balign 4
information: .long 0
numbers:     .long 1
online:      .long 0
