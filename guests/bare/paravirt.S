/* KVM's end of interrupt and steal time, as a guest sees them: interrupts to itself by way of the
   local APIC, ended by clearing a bit in memory where that is offered. */
#include "bare.h"

#define LAPIC 0xfee00000
#define EOI (LAPIC + 0xb0)
#define ISR (LAPIC + 0x100)
#define ICR (LAPIC + 0x300)
#define TO_ITSELF 0x44000
#define MSR_KVM_STEAL_TIME 0x4b564d03
#define MSR_KVM_PV_EOI_EN 0x4b564d04
#define FEATURES 0x260 /* steal time, PV EOI, PV TLB flush */

guest:
    lgdt gdt_pointer
    ljmp $8, $1f
1:  mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $low_handler, %eax
    mov $0x31, %ebx
    call set_gate
    mov $handler, %eax
    mov $0x41, %ebx
    call set_gate
    mov $high_handler, %eax
    mov $0x61, %ebx
    call set_gate
    lidt idt_pointer
    movl $0x1ff, LAPIC + 0xf0        /* enabled, spurious vector 0xff */

    step "features"
    mov $0x40000000, %eax
    cpuid
    mov %ebx, %eax
    expect 0x4b4d564b                /* "KVMK" */
    mov $0x40000001, %eax
    cpuid
    and $FEATURES, %eax
    expect FEATURES
    mov $MSR_KVM_PV_EOI_EN, %ecx
    mov $(eoi_word + 1), %eax
    xor %edx, %edx
    wrmsr
    rdmsr
    expect (eoi_word + 1)
    ok
    sti

    step "three in a row"
    mov $3, %ebp
1:  movl $(TO_ITSELF + 0x41), ICR
    dec %ebp
    jnz 1b
2:  cmpl $1, counted                 /* those that wait already are one */
    jb 2b
    call nothing_in_service
    ok

    step "an offer that is not taken"
    movl $1, refuse
    movl $0, counted
    movl $(TO_ITSELF + 0x41), ICR
3:  cmpl $1, counted
    jb 3b
    call nothing_in_service
    movl $0, refuse
    ok

    step "one within the other"
    movl $1, nest
    movl $0, counted
    movl $(TO_ITSELF + 0x41), ICR
4:  cmpl $2, counted
    jb 4b
    call nothing_in_service
    movl $0, nest
    ok

    /* The first one is not silent, for the second waits for its end. */
    step "one after the other"
    cli
    movl $0, counted
    movl $0, written
    movl $(TO_ITSELF + 0x31), ICR
    movl $(TO_ITSELF + 0x41), ICR
    sti
5:  cmpl $2, counted
    jb 5b
    cli
    cmpl $0, written
    mov $0, %eax
    je failed
    call nothing_in_service
    ok

    step "not preempted while it runs"
    mov $MSR_KVM_STEAL_TIME, %ecx
    mov $(steal_time + 1), %eax
    xor %edx, %edx
    wrmsr
    movzbl steal_time + 16, %eax
    expect 0
    movl $0, counted
    movl $0x41, LAPIC + 0x320        /* one shot of the timer */
    movl $0xb, LAPIC + 0x3e0
    movl $10000000, LAPIC + 0x380
6:  sti
    hlt
    cli
    movzbl steal_time + 16, %eax
    expect 0
    cmpl $1, counted
    jb 6b
    mov steal_time + 8, %eax         /* the version is even */
    and $1, %eax
    expect 0
    ok
    jmp passed

/* Fails unless all eight words of ISR are zero. */
nothing_in_service:
    xor %eax, %eax
    mov $ISR, %esi
    mov $8, %ecx
1:  or (%esi), %eax
    add $16, %esi
    loop 1b
    expect 0
    ret

/* %eax: handler, %ebx: vector. */
set_gate:
    lea idt(, %ebx, 8), %edi
    mov %eax, %ebx
    and $0xffff, %ebx
    or $0x80000, %ebx
    mov %ebx, (%edi)
    and $0xffff0000, %eax
    or $0x8e00, %eax
    mov %eax, 4(%edi)
    ret

high_handler:
low_handler:
    call end_of_interrupt
    incl counted
    iret

handler:
    cmpl $0, nest
    je 2f
    movl $(TO_ITSELF + 0x61), ICR
    sti
1:  cmpl $1, counted
    jb 1b
    cli
2:  call end_of_interrupt
    incl counted
    iret

/* As Linux: one instruction tests and clears. */
end_of_interrupt:
    cmpl $0, refuse
    jne 1f
    btrl $0, eoi_word
    jc 2f
1:  incl written
    movl $0, EOI
2:  ret

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt
idt_pointer:
    .word 128 * 8 - 1
    .long idt
counted: .long 0
written: .long 0
refuse: .long 0
nest: .long 0
    .balign 4
eoi_word: .long 0
    .bss
    .balign 64
steal_time: .skip 64
idt: .skip 128 * 8
