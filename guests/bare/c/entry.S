/* In front of a bare guest in C: guest_main() says whether it passed. */
#include "bare.h"

guest:
    cld
    call guest_main
    test %eax, %eax
    jz passed
    jmp failed

    .globl command_line
command_line:
    mov boot_info, %edx
    mov 16(%edx), %eax       /* in the multiboot information ... */
    cmpl $MULTIBOOT_BOOTED, boot_magic
    je 1f
    mov 24(%edx), %eax       /* ... and in the PVH start info */
1:  ret

    .globl print_text
print_text:
    push %esi
    mov 8(%esp), %esi
    call print
    pop %esi
    ret

    .section .note.GNU-stack, "", @progbits
