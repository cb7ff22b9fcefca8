/* What every bare guest begins with: both boot headers, a stack, a line printer for the
   first serial port and the ways to end. Both boot protocols enter at `start` in 32-bit
   protected mode, paging off, flat segments. Include it first; the guest's own code
   begins at `guest`. */

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4
/* The VM ends with (value << 1) | 1. */
#define EXIT_PASSED 0x20 /* status 65 */
#define EXIT_FAILED 0x21 /* status 67 */

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x3
#define MULTIBOOT_BOOTED 0x2badb002 /* in %eax, from a multiboot loader */

    .code32
    .section .multiboot, "a"
    .balign 4
    .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

/* XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h. */
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start

    .bss
    .balign 16
    .skip 8192
stack_top:

    .text
    .globl start
start:
    cli
    mov $stack_top, %esp
    mov %eax, boot_magic
    mov %ebx, boot_info
    jmp guest

/* %esi: text that ends in 0. Waits for the transmitter; keeps every register. */
print:
    pusha
1:  lodsb
    test %al, %al
    jz 3f
    mov %al, %ah
    mov $(COM1 + 5), %dx
2:  in (%dx), %al
    test $0x20, %al
    jz 2b
    mov $COM1, %dx
    mov %ah, %al
    out %al, (%dx)
    jmp 1b
3:  popa
    ret

/* %eax as eight hexadecimal digits. */
print_hex:
    pusha
    mov %eax, %ebx
    mov $8, %ecx
1:  rol $4, %ebx
    mov %ebx, %eax
    and $15, %eax
    mov hex_digits(%eax), %al
    mov %al, hex_text
    mov $hex_text, %esi
    call print
    loop 1b
    popa
    ret

passed:
    mov $passed_text, %esi
    call print
    mov $EXIT_PASSED, %al
    out %al, $DEBUG_EXIT
    jmp halted

/* %eax: what was found; the caller printed what was looked at. */
failed:
    push %eax
    mov $failed_text, %esi
    call print
    pop %eax
    call print_hex
    mov $newline, %esi
    call print
    mov $EXIT_FAILED, %al
    out %al, $DEBUG_EXIT
halted:
    cli
    hlt
    jmp halted

    .data
boot_magic: .long 0
boot_info: .long 0
hex_digits: .ascii "0123456789abcdef"
hex_text: .byte 0, 0
passed_text: .asciz "PASSED\n"
failed_text: .asciz "FAILED, found "
newline: .asciz "\n"

/* Names a step on the console. */
    .macro step text
    .section .rodata
9:  .asciz "\text: "
    .text
    mov $9b, %esi
    call print
    .endm
    .macro ok
    .section .rodata
8:  .asciz "ok\n"
    .text
    mov $8b, %esi
    call print
    .endm
/* Fails unless %eax equals the value. */
    .macro expect value
    cmp $(\value), %eax
    jne failed
    .endm
    .text
