// Into guest user code and out of it. No word of this program's writable memory is trusted
// after guest code has run, for guest code can write it: all that is needed afterwards is in the
// text, in registers, or in UserCommand, which is read-only here.
//
// guest_context, guest_command: layout.h's user_context and user_command, by the linker.

#include "engine/translate/user/program.h"

#define CONTEXT(offset) guest_context + (offset)(%rip)
#define COMMAND(offset) guest_command + (offset)(%rip)
#define GPR(number) CONTEXT(PROGRAM_GPR + 8 * number)

    // Where translated code goes to leave: layout.h's user_common_exit.
    .section .text.common_exit, "ax"
    .globl common_exit
common_exit:
    mov %rax, GPR(0)
    mov %rcx, GPR(1)
    mov %rdx, GPR(2)
    mov %rbx, GPR(3)
    mov %rsp, GPR(4)
    mov %rbp, GPR(5)
    mov %rsi, GPR(6)
    mov %rdi, GPR(7)
    mov %r8, GPR(8)
    mov %r9, GPR(9)
    mov %r10, GPR(10)
    mov %r11, GPR(11)
    mov %r12, GPR(12)
    mov %r13, GPR(13)
    mov %r14, GPR(14)
    mov %r15, GPR(15)
    lea stack_top(%rip), %rsp
    pushfq
    pop %rax
    cld
    and $~0x100, %rax           // a single step that led here was stopped by its signal
    mov %rax, CONTEXT(PROGRAM_FLAGS)
    rdfsbase %rax
    mov %rax, CONTEXT(PROGRAM_FS_BASE)
    rdgsbase %rax
    mov %rax, CONTEXT(PROGRAM_GS_BASE)
    call left_guest

    .text
    .globl program_start
program_start:
    lea stack_top(%rip), %rsp
    xor %ebp, %ebp
    call zygote

    // All but RSP.
    .macro load_registers
    mov GPR(0), %rax
    mov GPR(1), %rcx
    mov GPR(2), %rdx
    mov GPR(3), %rbx
    mov GPR(5), %rbp
    mov GPR(6), %rsi
    mov GPR(7), %rdi
    mov GPR(8), %r8
    mov GPR(9), %r9
    mov GPR(10), %r10
    mov GPR(11), %r11
    mov GPR(12), %r12
    mov GPR(13), %r13
    mov GPR(14), %r14
    mov GPR(15), %r15
    .endm

    // void enter_guest(std::uint32_t turn): a kick that comes up to entry_end is acted upon by
    // going to cancel_entry instead, so nothing in ExecContext is changed before.
    .globl enter_guest, entry_end
enter_guest:
    cmp COMMAND(PROGRAM_KICKED), %edi
    je cancel_entry
    mov CONTEXT(PROGRAM_FS_BASE), %rax
    rdfsbase %rcx
    cmp %rax, %rcx
    je 1f
    wrfsbase %rax
1:  mov CONTEXT(PROGRAM_GS_BASE), %rax
    rdgsbase %rcx
    cmp %rax, %rcx
    je 1f
    wrgsbase %rax
1:  lea stack_top(%rip), %rsp
    mov CONTEXT(PROGRAM_FLAGS), %rax
    and $0x200cd5, %eax         // status flags, DF and ID
    testl $(PROGRAM_NEW_CODE | PROGRAM_SINGLE_STEP), COMMAND(PROGRAM_ACTIONS)
    jnz serialising
    push %rax
    popfq
    mov GPR(4), %rsp
    load_registers
    jmp *COMMAND(PROGRAM_HOST_RIP)

    // IRETQ serialises, and with TF in its frame the trap comes after the first guest
    // instruction (with POPFQ it would come before it).
serialising:
    testl $PROGRAM_SINGLE_STEP, COMMAND(PROGRAM_ACTIONS)
    jz 1f
    or $0x100, %eax
1:  mov %ss, %ecx
    push %rcx
    push GPR(4)
    push %rax
    mov %cs, %ecx
    push %rcx
    push COMMAND(PROGRAM_HOST_RIP)
    load_registers
    iretq
entry_end:

    .globl cancel_entry
cancel_entry:
    lea stack_top(%rip), %rsp
    cld
    call cancelled

    .globl signal_return
signal_return:
    mov $15, %eax               // rt_sigreturn
    syscall

    .bss
    .balign 4096
stack:
    .skip PROGRAM_STACK_SIZE
    .globl stack_top
stack_top:
    .globl signal_stack
signal_stack:
    .skip PROGRAM_SIGNAL_STACK_SIZE

    .section .note.GNU-stack, "", @progbits
