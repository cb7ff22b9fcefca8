// The linked user program as bytes of whoever starts it: see link/user_program.h.
    .section .rodata
    .globl doppel_user_program, doppel_user_program_end
    .balign 16
doppel_user_program:
    .incbin DOPPEL_USER_PROGRAM
doppel_user_program_end:

    .section .note.GNU-stack, "", @progbits
