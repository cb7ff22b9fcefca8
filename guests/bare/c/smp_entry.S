/* The way of other processors from real mode into ap_main(), and their interrupts. */
    .text
    .globl trampoline_begin, trampoline_end, on_interrupt, wait_for_interrupt, next_stack

    .code16
trampoline_begin:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl trampoline_table - trampoline_begin + 0x8000
    mov %cr0, %eax
    and $0x9fffffff, %eax    /* caches on */
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $ap_start
    .balign 8
trampoline_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
trampoline_table:
    .word . - trampoline_gdt - 1
    .long trampoline_gdt - trampoline_begin + 0x8000
trampoline_end:

    .code32
ap_start:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x4000, %esp
    lock xadd %esp, next_stack
    add $0x4000, %esp
    cld
    call ap_main
1:  hlt
    jmp 1b

on_interrupt:
    pusha
    cld
    call interrupted
    popa
    iret

wait_for_interrupt:
    sti
    hlt
    cli
    ret

    .data
    .balign 4
next_stack: .long 0

    .section .note.GNU-stack, "", @progbits
