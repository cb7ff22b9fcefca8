// The worker's way into translated supervisor code and back. See exec_context.h for the
// offsets and layout.h for the context's address, which fits a 32-bit displacement.
//
//   doppel_enter_supervisor():  engine ──▶ ctx.host_rip, all registers from ctx
//   doppel_supervisor_exit:     translated code or a signal handler ──▶ back to the caller
//   doppel_supervisor_cancel:   a kick between the two labels below: nothing ran

        .set CTX, 0x10000000
        .set FLAGS, CTX + 0x80
        .set HOST_RIP, CTX + 0x88
        .set EXIT, CTX + 0xd8
        .set FS_BASE, CTX + 0xe8
        .set ENGINE_RSP, CTX + 0x110
        .set ENGINE_FS, CTX + 0x118
        .set KICKED, CTX + 0x128
        .set EXIT_CANCELLED, 3
        .set TRAP_FLAG, 0x100

        .text
        .globl doppel_enter_supervisor, doppel_entry_ready, doppel_entry_end
        .type doppel_enter_supervisor, @function
doppel_enter_supervisor:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, ENGINE_RSP
doppel_entry_ready:
        cmpl    $0, KICKED
        jne     doppel_supervisor_cancel
        movq    FS_BASE, %rax
        wrfsbase %rax
        testl   $TRAP_FLAG, FLAGS
        jnz     single_step
        pushq   FLAGS
        popfq
        movq    CTX+0x00, %rax
        movq    CTX+0x08, %rcx
        movq    CTX+0x10, %rdx
        movq    CTX+0x18, %rbx
        movq    CTX+0x28, %rbp
        movq    CTX+0x30, %rsi
        movq    CTX+0x38, %rdi
        movq    CTX+0x40, %r8
        movq    CTX+0x48, %r9
        movq    CTX+0x50, %r10
        movq    CTX+0x58, %r11
        movq    CTX+0x60, %r12
        movq    CTX+0x68, %r13
        movq    CTX+0x70, %r14
        movq    CTX+0x78, %r15
        movq    CTX+0x20, %rsp
        jmp     *HOST_RIP
        # The trap of IRETQ's TF comes after the first guest instruction; that of POPFQ's would
        # come in here.
single_step:
        movl    %ss, %eax
        pushq   %rax
        pushq   CTX+0x20
        pushq   FLAGS
        movl    %cs, %eax
        pushq   %rax
        pushq   HOST_RIP
        movq    CTX+0x00, %rax
        movq    CTX+0x08, %rcx
        movq    CTX+0x10, %rdx
        movq    CTX+0x18, %rbx
        movq    CTX+0x28, %rbp
        movq    CTX+0x30, %rsi
        movq    CTX+0x38, %rdi
        movq    CTX+0x40, %r8
        movq    CTX+0x48, %r9
        movq    CTX+0x50, %r10
        movq    CTX+0x58, %r11
        movq    CTX+0x60, %r12
        movq    CTX+0x68, %r13
        movq    CTX+0x70, %r14
        movq    CTX+0x78, %r15
        iretq
doppel_entry_end:
        .size doppel_enter_supervisor, . - doppel_enter_supervisor

        .globl doppel_supervisor_exit, doppel_supervisor_cancel, doppel_exit_end
        .p2align 4
doppel_supervisor_exit:
        movq    %rax, CTX+0x00
        movq    %rcx, CTX+0x08
        movq    %rdx, CTX+0x10
        movq    %rbx, CTX+0x18
        movq    %rsp, CTX+0x20
        movq    %rbp, CTX+0x28
        movq    %rsi, CTX+0x30
        movq    %rdi, CTX+0x38
        movq    %r8, CTX+0x40
        movq    %r9, CTX+0x48
        movq    %r10, CTX+0x50
        movq    %r11, CTX+0x58
        movq    %r12, CTX+0x60
        movq    %r13, CTX+0x68
        movq    %r14, CTX+0x70
        movq    %r15, CTX+0x78
        movq    ENGINE_RSP, %rsp
        pushfq
        popq    FLAGS
leave:
        cld
        movq    ENGINE_FS, %rax
        wrfsbase %rax
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret
doppel_supervisor_cancel:
        movq    ENGINE_RSP, %rsp
        movl    $EXIT_CANCELLED, EXIT
        jmp     leave
doppel_exit_end:

        .section .note.GNU-stack,"",@progbits
