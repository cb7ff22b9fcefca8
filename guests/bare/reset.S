/* Resets the machine by each way in turn; CMOS memory, which a reset keeps, says which is
   next. */
#include "bare.h"

#define CMOS_CELL 0x50

guest:
    mov $CMOS_CELL, %al
    out %al, $0x70
    xor %eax, %eax
    in $0x71, %al
    mov %eax, %ebx
    cmp $3, %al
    ja first
    inc %al
    mov %al, %ah
    mov $CMOS_CELL, %al
    out %al, $0x70
    mov %ah, %al
    out %al, $0x71
    jmp *ways(, %ebx, 4)

first:
    step "unexpected"
    jmp failed

keyboard:
    step "keyboard controller"
    mov $0xfe, %al
    out %al, $0x64
    jmp wait
fast:
    ok
    step "port 92"
    in $0x92, %al
    or $1, %al
    out %al, $0x92
    jmp wait
chipset:
    ok
    step "port cf9"
    mov $0xcf9, %dx
    mov $0x02, %al
    out %al, (%dx)
    mov $0x06, %al
    out %al, (%dx)
    jmp wait
finished:
    ok
    jmp passed

/* The reset may take effect a few instructions later. */
wait:
    mov $10000000, %ecx
1:  loop 1b
    mov $0xdead, %eax
    jmp failed

    .section .rodata
    .balign 4
ways: .long keyboard, fast, chipset, finished
