/* An exception with no table to find its handler in, nor the one for that. */
#include "bare.h"

guest:
    step "triple fault"
    lidt empty
    ud2
    mov $0xdead, %eax
    jmp failed

    .data
empty:
    .word 0
    .long 0
