/* Sends back what it is sent. Ctrl-D powers the machine off through ACPI, `q` leaves through
   the debug exit port and goes on where there is none, `t` ends by a triple fault. */
#include "bare.h"

#define SLEEP_S5 ((5 << 10) | (1 << 13)) /* SLP_TYP of this machine's \_S5, SLP_EN */

guest:
    mov $ready, %esi
    call print
next:
    mov $(COM1 + 5), %dx
1:  in (%dx), %al
    test $1, %al
    jz 1b
    mov $COM1, %dx
    in (%dx), %al
    cmp $4, %al
    je power_off
    cmp $'q', %al
    je leave
    cmp $'t', %al
    je triple_fault
    mov %al, character
    mov $character, %esi
    call print
    jmp next

leave:
    mov $EXIT_PASSED, %al
    out %al, $DEBUG_EXIT
    jmp next

triple_fault:
    lidt empty
    ud2

/* The root pointer lies on a 16-byte boundary of the BIOS area; the FADT is one of the
   tables that the XSDT lists, and has PM1a's control port at offset 64. */
power_off:
    mov $0xe0000, %edi
1:  cmpl $0x20445352, (%edi)     /* "RSD " */
    jne 2f
    cmpl $0x20525450, 4(%edi)    /* "PTR " */
    je 3f
2:  add $16, %edi
    cmp $0x100000, %edi
    jb 1b
    jmp no_table
3:  mov 24(%edi), %edi           /* XSDT */
    mov 4(%edi), %ecx
    sub $36, %ecx
    shr $3, %ecx
    add $36, %edi
4:  mov (%edi), %ebx
    cmpl $0x50434146, (%ebx)     /* "FACP" */
    je 5f
    add $8, %edi
    loop 4b
    jmp no_table
5:  mov 64(%ebx), %edx
    mov $SLEEP_S5, %ax
    out %ax, (%dx)
    step "still on"
    jmp failed
no_table:
    step "no FADT"
    jmp failed

    .data
ready: .asciz "ready\n"
character: .byte 0, 0
empty:
    .word 0
    .long 0
