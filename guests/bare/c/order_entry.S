/* From 32-bit mode without paging to 64-bit code, and back. */
    .text
    .globl run_64, top_table, low_table, high_table, page_table
    .code32
run_64: /* me, work, upper_half */
    push %ebp
    push %ebx
    push %esi
    push %edi
    mov 20(%esp), %edi
    mov 24(%esp), %esi
    mov 28(%esp), %ebp
    lgdt table
    mov %cr4, %eax
    or $0x20, %eax           /* PAE */
    mov %eax, %cr4
    mov $top_table, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx    /* EFER.LME */
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmp $24, $1f
    .code64
1:  mov %esp, %ebx           /* all of RSP, and kept by what is called */
    mov %ebx, %esp
    mov $order_image, %eax
    test %ebp, %ebp
    jz 2f
    mov $-0x80000000, %rcx
    add %rcx, %rax
    add %rcx, %rsp
    add %rcx, %rsi
2:  and $-16, %rsp
    call *%rax
    mov %ebx, %esp
    push $8
    mov $3f, %eax
    push %rax
    lretq
    .code32
3:  mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    and $~0x100, %eax
    wrmsr
    pop %edi
    pop %esi
    pop %ebx
    pop %ebp
    ret

    .balign 8
segments:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
table:
    .word . - segments - 1
    .long segments

    .data
    .balign 4096
order_image:
    .incbin ORDER_IMAGE

    .bss
    .balign 4096
top_table: .skip 4096
low_table: .skip 4096
high_table: .skip 4096
page_table: .skip 4096

    .section .note.GNU-stack, "", @progbits
