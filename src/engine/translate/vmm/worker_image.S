// The worker program, whole: the doppel binary stays the only file. Empty in builds that
// cannot have a worker (see CMakeLists.txt).
    .section .rodata
    .balign 16
    .globl doppel_worker_image
    .globl doppel_worker_image_end
doppel_worker_image:
#ifdef DOPPEL_WORKER_IMAGE
    .incbin DOPPEL_WORKER_IMAGE
#endif
doppel_worker_image_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
