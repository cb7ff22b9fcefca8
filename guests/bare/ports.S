/* Port reads and writes of every width, the boot handover, CMOS and PCI configuration. */
#include "bare.h"

guest:
    /* Multiboot leaves its magic in EAX; PVH leaves EAX undefined and its own in memory. */
    step "handover"
    mov boot_magic, %eax
    cmp $0x2badb002, %eax
    je 1f
    mov boot_info, %ebx
    mov (%ebx), %eax
    expect 0x336ec578
1:  ok

    /* The scratch register keeps what it is given. */
    step "byte port"
    mov $(COM1 + 7), %dx
    mov $0x5a, %al
    out %al, (%dx)
    xor %eax, %eax
    in (%dx), %al
    expect 0x5a
    ok

    /* A string instruction is a row of single accesses. */
    step "string port"
    mov $(COM1 + 7), %dx
    mov $bytes, %esi
    mov $4, %ecx
    cld
    rep outsb
    xor %eax, %eax
    in (%dx), %al
    expect 0x44
    ok

    step "empty port"
    mov $0x2f0, %dx
    in (%dx), %eax
    expect 0xffffffff
    ok

    step "cmos status D"
    mov $0x0d, %al
    out %al, $0x70
    xor %eax, %eax
    in $0x71, %al
    expect 0x80
    ok

    /* Configuration address register reads back; the host bridge has a vendor. */
    step "pci configuration"
    mov $0xcf8, %dx
    mov $0x80000000, %eax
    out %eax, (%dx)
    in (%dx), %eax
    expect 0x80000000
    mov $0xcfc, %dx
    in (%dx), %eax
    cmp $0xffffffff, %eax
    je failed
    mov $0xcf8, %dx
    mov $0x80003800, %eax    /* slot 7 is empty */
    out %eax, (%dx)
    mov $0xcfc, %dx
    in (%dx), %eax
    expect 0xffffffff
    ok
    jmp passed

    .data
bytes: .byte 0x11, 0x22, 0x33, 0x44
