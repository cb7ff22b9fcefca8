; Real mode, virtual-8086 mode and 16-bit protected mode.

;; defaults
;; mode real16

;; case segment_arithmetic
;; mem 0x20010 = 34 12
;; out rax=0x1234
xor eax, eax
mov ax, [0x10]

;; case load_segment_sets_base
;; mem 0x21230 = 99
;; out rax=0x99 es=0x2100 es.base=0x21000
xor eax, eax
mov ax, 0x2100
mov es, ax
xor eax, eax
mov al, [es:0x230]

;; case word_at_ffff_faults
;; fault GP rip=here
here: mov ax, [0xffff]

;; case byte_at_ffff
;; mem 0x2ffff = 12
;; out rax=0x12
xor eax, eax
mov al, [0xffff]

;; case address_wraps_at_64k
;; mem 0x20005 = 77
;; in rbx=0xfff0 rsi=0x15
;; out rax=0x77
xor eax, eax
mov al, [bx + si]

;; case address_override_beyond_limit
;; in rbx=0x10000
;; fault GP rip=here
here: a32 mov al, [ebx]

;; case push_pop_16
;; out rsp=0x800 rbx=0x1234
;; in rbx=0 rax=0x1234
push ax
pop bx

;; case push32_in_real_mode
;; in rax=0x12345678
;; out rsp=0x7fc
;; expect 0x307fc = 78 56 34 12
push eax

;; case sp_wraps
;; in rsp=0
;; out rsp=0xfffe
;; expect 0x3fffe = 34 12
mov ax, 0x1234
push ax

;; case call_ret_near
;; out rax=3 rsp=0x800
mov eax, 1
call f
inc ax
jmp done
f: inc ax
ret
done:

;; case real16_far_jump
;; out cs=0x1001 cs.base=0x10010 rax=1
jmp 0x1001:0
times 11 nop
target: mov eax, 1

;; case far_call_pushes
;; expect 0x307fc = 05 00 00 10
call 0x1000:f
f: nop

;; case int_uses_ivt
;; fault 0x21 rip=after
int 0x21
after: nop

;; case divide_error
;; in rax=1 rdx=0 rcx=0
;; fault DE rip=here
here: div cx

;; case ud_in_real_mode
;; fault UD rip=here
here: ud2

;; case lldt_is_ud_in_real_mode
;; fault UD rip=here
here: lldt ax

;; case arpl_is_ud_in_real_mode
;; fault UD rip=here
here: db 0x63, 0xc0

;; case iret_real
;; flags CF
;; out rsp=0x800
push 3
push 0x1000
push target
iret
target: nop

;; case popf_can_set_iopl_and_if
;; out rax=0x3202
push 0x3202
popf
pushf
pop ax
movzx eax, ax

;; case lgdt_lidt_in_real_mode
;; mem 0x20000 = 7f 00 00 80 00 00
;; out gdtr.limit=0x7f gdtr.base=0x8000
lgdt [0]

;; case enter_protected_mode
;; mem 0x20000 = ff 00 00 80 00 00
;; out cs=0x18 rax=0x10
lgdt [0]
mov eax, cr0
or al, 1
mov cr0, eax
jmp dword 0x18:(target + 0x10000)
bits 32
target: mov eax, 0x10
mov ds, ax
mov ss, ax

;; case unreal_mode_keeps_limit
;; mem 0x20000 = ff 00 00 80 00 00
;; mem 0x100000 = 5a
;; out rax=0x5a es.limit=0xffffffff
lgdt [0]
mov eax, cr0
or al, 1
mov cr0, eax
mov bx, 0x10
mov es, bx
and al, 0xfe
mov cr0, eax
xor bx, bx
mov es, bx
mov ebx, 0x100000
xor eax, eax
a32 mov al, [es:ebx]

;; case movs_real
;; mem 0x20000 = 01 02 03
;; in rsi=0 rdi=0x10 rcx=3 es.base=0x20000
;; out rsi=3 rdi=0x13 rcx=0
;; expect 0x20010 = 01 02 03
cld
rep movsb

;; case stosw_wraps_di
;; in rdi=0xfffe rcx=2 rax=0x1234
;; out rdi=2 rcx=0
;; expect 0x2fffe = 34 12
rep stosw

;; case loop_uses_cx
;; in rcx=0x10003
;; out rcx=0x10000 rax=3
xor eax, eax
again: inc ax
loop again

;; case bcd_in_real_mode
;; in rax=0x1b
;; out rax=0x21
;; flags AF
daa

;; case xlat16
;; mem 0x20105 = 42
;; in rbx=0x100 rax=5
;; out rax=0x42
xlatb

;; case les_real
;; mem 0x20000 = 34 12 00 21
;; out rbx=0x1234 es=0x2100 es.base=0x21000
xor ebx, ebx
les bx, [0]

;; case shl_imm_16
;; in rax=0x8001
;; out rax=2
;; flags CF
shl ax, 1

;; case mul_16
;; in rax=0x1000 rbx=0x10 rdx=0
;; out rax=0 rdx=1
;; flags CF OF
mul bx

;; case smsw_real
;; out rax=0x32
xor eax, eax
smsw ax
and al, 0xfe

;; case cpuid_in_real_mode
;; out rbx=0
xor eax, eax
cpuid
xor ebx, ebx

;; case protected16_data_limit
;; mode prot16
;; fault GP error=0 rip=here
here: mov ax, [0xffff]

;; case protected16_read
;; mode prot16
;; mem 0x20020 = 21 43
;; out rax=0x4321
xor eax, eax
mov ax, [0x20]

;; case protected16_load_segment
;; mode prot16
;; out es=0xa8
mov ax, 0xa8
mov es, ax

;; case protected16_call
;; mode prot16
;; out rsp=0x800 rax=2
mov eax, 1
call f
jmp done
f: inc ax
ret
done:

;; case protected16_far_jump_to_32
;; mode prot16
;; out cs=0x18 rax=0x12345678
jmp dword 0x18:(target + 0x10000)
bits 32
target: mov eax, 0x12345678

;; case vm86_segment_arithmetic
;; mode vm86
;; mem 0x20010 = 34 12
;; out rax=0x1234
xor eax, eax
mov ax, [0x10]

;; case vm86_load_segment
;; skip emulated_kvm
;; mode vm86
;; mem 0x21000 = 07
;; out rax=7
mov ax, 0x2100
mov ds, ax
xor eax, eax
mov al, [0]

;; case vm86_cli_without_iopl
;; mode vm86
;; fault GP error=0 rip=here
here: cli

;; case vm86_int_without_iopl
;; skip emulated_kvm
;; mode vm86
;; fault GP error=0 rip=here
here: int 0x21

;; case vm86_pushf_without_iopl
;; skip emulated_kvm
;; mode vm86
;; fault GP error=0 rip=here
here: pushf

;; case vm86_pushf_with_iopl
;; mode vm86
;; in rflags=0x23002
;; out rsp=0x7fe
pushf

;; case vm86_hlt
;; mode vm86
;; fault GP error=0 rip=here
here: hlt

;; case vm86_mov_cr
;; mode vm86
;; fault GP error=0 rip=here
here: mov eax, cr0

;; case vm86_iret_without_iopl
;; skip emulated_kvm
;; mode vm86
;; fault GP error=0 rip=here
here: iret

;; case vm86_lldt_is_ud
;; skip emulated_kvm
;; mode vm86
;; fault UD rip=here
here: lldt ax

;; case vm86_far_jump
;; skip emulated_kvm
;; mode vm86
;; out cs=0x1001
;; fault GP error=0
jmp 0x1001:0
times 11 nop
target: nop

;; case vm86_divide_error
;; mode vm86
;; in rax=1 rdx=0 rcx=0
;; fault DE rip=here
here: div cx

;; case vm86_int3
;; skip emulated_kvm
;; mode vm86
;; in rflags=0x23002
;; fault BP rip=after
int3
after: nop

;; case vm86_word_at_ffff
;; mode vm86
;; fault GP error=0 rip=here
here: mov ax, [0xffff]
