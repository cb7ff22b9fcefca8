/* Interrupts, each waited for with HLT: PIT through the PIC, PIT through the I/O APIC, the
   local APIC's timer, the serial port's transmitter; and one to itself, for STI's shadow. */
#include "bare.h"

#define IOAPIC 0xfec00000
#define LAPIC 0xfee00000

guest:
    lgdt gdt_pointer
    ljmp $8, $1f
1:  mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    /* Every vector counts in its own cell; 0x20 and up acknowledge the PICs, 0x40 and up
       the local APIC. */
    mov $idt, %edi
    mov $stubs, %eax
    mov $128, %ecx
2:  mov %eax, %ebx
    and $0xffff, %ebx
    or $0x80000, %ebx
    mov %ebx, (%edi)
    mov %eax, %ebx
    and $0xffff0000, %ebx
    or $0x8e00, %ebx
    mov %ebx, 4(%edi)
    add $8, %edi
    add $16, %eax
    loop 2b
    lidt idt_pointer

    step "pit through the pic"
    mov $0x11, %al           /* both PICs at 0x20 and 0x28 */
    out %al, $0x20
    out %al, $0xa0
    mov $0x20, %al
    out %al, $0x21
    mov $0x28, %al
    out %al, $0xa1
    mov $4, %al
    out %al, $0x21
    mov $2, %al
    out %al, $0xa1
    mov $1, %al
    out %al, $0x21
    out %al, $0xa1
    mov $0xfe, %al           /* line 0 alone */
    out %al, $0x21
    mov $0xff, %al
    out %al, $0xa1
    call start_pit
    mov $0x20, %ebx
    call wait_for_three
    mov $0xff, %al
    out %al, $0x21
    ok

    step "pit through the ioapic"
    movl $0x1ff, LAPIC + 0xf0        /* enabled, spurious vector 0xff */
    movl $(0x10 + 2 * 2), IOAPIC     /* ISA line 0 is pin 2 */
    movl $0x40, IOAPIC + 0x10
    movl $(0x11 + 2 * 2), IOAPIC
    movl $0, IOAPIC + 0x10
    mov $0x40, %ebx
    call wait_for_three
    movl $(0x10 + 2 * 2), IOAPIC
    movl $0x10040, IOAPIC + 0x10
    ok

    step "local apic timer"
    movl $0x3, LAPIC + 0x3e0         /* divide by 16 */
    movl $0x20041, LAPIC + 0x320     /* periodic, vector 0x41 */
    movl $20000, LAPIC + 0x380
    mov $0x41, %ebx
    call wait_for_three
    movl $0x10041, LAPIC + 0x320
    ok

    step "serial transmitter"
    movl $(0x10 + 2 * 4), IOAPIC
    movl $0x42, IOAPIC + 0x10
    movl $(0x11 + 2 * 4), IOAPIC
    movl $0, IOAPIC + 0x10
    movl $0, counts + 4 * 0x42
    mov $(COM1 + 4), %dx
    mov $0x0b, %al           /* OUT2 lets the line through */
    out %al, (%dx)
    mov $(COM1 + 1), %dx
    mov $2, %al
    out %al, (%dx)
    mov $0x42, %ebx
    mov $1, %ecx
    call wait_for_count
    xor %al, %al
    mov $(COM1 + 1), %dx
    out %al, (%dx)
    ok

    /* An interrupt that is not allowed in waits for STI, and STI's shadow covers one
       instruction. */
    step "shadow of sti"
    movl $0, counts + 4 * 0x41
    movl $0x44041, LAPIC + 0x300     /* to itself */
1:  mov LAPIC + 0x220, %eax          /* requested: vector 0x41 */
    test $2, %eax
    jz 1b
    mov counts + 4 * 0x41, %eax
    expect 0
    sti
    mov counts + 4 * 0x41, %eax      /* in the shadow: still not delivered */
    mov $10000000, %ecx              /* a KVM without hardware support takes its time */
2:  cmpl $0, counts + 4 * 0x41
    loope 2b
    cli
    expect 0
    mov counts + 4 * 0x41, %eax
    expect 1
    ok
    jmp passed

/* Channel 0, square waves, 1 ms. */
start_pit:
    mov $0x36, %al
    out %al, $0x43
    mov $(1193 & 0xff), %al
    out %al, $0x40
    mov $(1193 >> 8), %al
    out %al, $0x40
    ret

/* %ebx: vector, %ecx: how often. Returns with interrupts off. */
wait_for_three:
    mov $3, %ecx
wait_for_count:
    movl $0, counts(, %ebx, 4)
1:  cli
    cmp %ecx, counts(, %ebx, 4)
    jae 2f
    sti
    hlt
    jmp 1b
2:  ret

    .balign 16
stubs:
    .set vector, 0
    .rept 128
    .balign 16
    push %eax
    mov $vector, %eax
    jmp interrupted
    .set vector, vector + 1
    .endr

interrupted:
    incl counts(, %eax, 4)
    cmp $0x20, %eax
    jb unexpected
    cmp $0x40, %eax
    jae 1f
    mov $0x20, %al
    out %al, $0x20
    jmp 2f
1:  movl $0, LAPIC + 0xb0
2:  pop %eax
    iret
unexpected:
    step "exception"
    jmp failed

    .data
    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt
idt_pointer:
    .word 128 * 8 - 1
    .long idt
    .bss
    .balign 8
idt: .skip 128 * 8
counts: .skip 128 * 4
