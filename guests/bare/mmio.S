/* Memory-mapped registers: I/O APIC, local APIC, and an address where nothing is. */
#include "bare.h"

#define IOAPIC 0xfec00000
#define LAPIC 0xfee00000
#define NOWHERE 0xd0000000

guest:
    step "ioapic version"
    movl $1, IOAPIC
    mov IOAPIC + 0x10, %eax
    and $0xff00ff, %eax
    cmp $0x170011, %eax      /* 24 entries; version 0x11 or 0x20 */
    je 1f
    expect 0x170020
1:  ok

    /* A redirection entry keeps its vector, polarity, trigger and mask. */
    step "ioapic entry"
    movl $(0x10 + 2 * 4), IOAPIC
    movl $0x1a031, IOAPIC + 0x10
    mov IOAPIC + 0x10, %eax
    and $~0x5000, %eax       /* delivery status and remote IRR are the chip's own */
    expect 0x1a031
    ok

    step "lapic version"
    mov LAPIC + 0x30, %eax
    and $0xf0, %eax
    expect 0x10
    ok

    step "lapic task priority"
    movl $0x50, LAPIC + 0x80
    mov LAPIC + 0x80, %eax
    expect 0x50
    movl $0, LAPIC + 0x80
    ok

    step "nothing there"
    mov NOWHERE, %eax
    expect 0xffffffff
    xor %eax, %eax
    movl %eax, NOWHERE
    mov $0xff, %eax
    mov NOWHERE, %al
    expect 0xff
    ok

    /* A read-modify-write instruction on a register is a read and a write. */
    step "read modify write"
    movl $0x40, LAPIC + 0x80
    addl $0x10, LAPIC + 0x80
    mov LAPIC + 0x80, %eax
    expect 0x50
    movl $0, LAPIC + 0x80
    ok
    jmp passed
