; Ring 3 in 32-bit protected mode and in compatibility mode under long mode.

;; defaults
;; mode user32

;; case load_kernel_data_segment
;; fault GP error=0x10 rip=here
mov eax, 0x10
here: mov ds, ax

;; case load_with_higher_rpl
;; fault GP error=0x10 rip=here
mov eax, 0x13
here: mov es, ax

;; case load_conforming_code_readable
;; out ds=0x58
mov eax, 0x58
mov ds, ax

;; case far_jump_to_kernel_code
;; fault GP error=0x18 rip=here
here: jmp 0x18:0x10000

;; case far_jump_conforming_keeps_cpl
;; out cs=0x5b
jmp 0x5b:target
target: nop

;; case call_gate_to_ring0
;; skip emulated_kvm
;; mem 0x8088 = dq 0x0001ec0000180010
;; out cs=0x18 ss=0x10 rsp=0xcff0
;; expect 0xcff0 = dd 0x10007 0x33 0x30800 0x3b
call 0x8b:0
times 9 nop
target: nop

;; case call_gate_copies_parameters
;; skip emulated_kvm
;; mem 0x8088 = dq 0x0001ec0200180010
;; mem 0x30800 = dd 0xaaaa 0xbbbb
;; out rsp=0xcfe8
;; expect 0xcff0 = dd 0xaaaa 0xbbbb 0x30800 0x3b
call 0x8b:0
times 9 nop
target: nop

;; case call_gate_dpl_too_low
;; skip emulated_kvm
;; mem 0x8088 = dq 0x00018c0000180010
;; fault GP error=0x88 rip=here
here: call 0x88:0

;; case call_gate_not_present
;; skip emulated_kvm
;; mem 0x8088 = dq 0x00016c0000180010
;; fault NP error=0x88 rip=here
here: call 0x8b:0

;; case jump_through_gate_cannot_raise_privilege
;; skip emulated_kvm
;; mem 0x8088 = dq 0x0001ec0000180010
;; fault GP error=0x18 rip=here
here: jmp 0x8b:0

;; case int_0x80_switches_stack
;; skip emulated_kvm
;; fault 0x80 rip=after
int 0x80
after: nop

;; case int_gate_dpl
;; skip emulated_kvm
;; fault GP error=0x48a rip=here
here: int 0x91

;; case int3_allowed
;; skip emulated_kvm
;; fault BP rip=after
int3
after: nop

;; case cli_with_iopl3
;; in rflags=0x3202
;; flags !IF
cli
sti
cli

;; case sti_without_iopl
;; fault GP error=0 rip=here
here: sti

;; case popf_keeps_if_and_iopl
;; in rflags=0x202
;; flags IF CF
push 3
popf

;; case hlt_privileged
;; fault GP error=0 rip=here
here: hlt

;; case lgdt_privileged
;; fault GP error=0 rip=here
here: lgdt [0x20000]

;; case clts_privileged
;; fault GP error=0 rip=here
here: clts

;; case mov_dr_privileged
;; fault GP error=0 rip=here
here: mov eax, dr0

;; case retf_to_inner_privilege
;; fault GP error=0x18 rip=here
push 0x18
push 0x10000
here: retf

;; case iret_cannot_raise_privilege
;; skip emulated_kvm
;; fault GP error=0x18 rip=here
push 2
push 0x18
push 0x10000
here: iret

;; case io_bitmap_denies
;; fault GP error=0 rip=here
here: in al, 0x60

;; case io_bitmap_allows
;; mem 0xa066 = 80 00
;; out rax=0xa5
xor eax, eax
in al, 0x60

;; case user_page_fault32
;; skip emulated_kvm
;; paging 32
;; fault PF error=5 cr2=0x24000 rip=here
here: mov al, [0x24000]

;; case user_write_fault_pae
;; skip emulated_kvm
;; paging pae
;; fault PF error=7 cr2=0x23000 rip=here
here: mov [0x23000], al

;; case user_execute_nx_pae
;; skip emulated_kvm
;; paging pae
;; fault PF error=0x15 cr2=0x20000 rip=0x20000
mov eax, 0x20000
jmp eax

;; case alignment_check
;; skip emulated_kvm
;; in cr0=0x50033 rflags=0x40002
;; fault AC error=0 rip=here
here: mov eax, [0x20001]

;; case alignment_check_aligned_is_fine
;; in cr0=0x50033 rflags=0x40002
;; out rax=0
mov eax, [0x20004]

;; case sysenter_compat_null
;; mode compat32
;; fault GP error=0 rip=here
here: sysenter

;; case compat_addition_is_32_bit
;; mode compat32
;; in rax=0xffffffff
;; out rax=0
;; flags CF ZF
add eax, 1

;; case compat_inc_is_not_rex
;; mode compat32
;; in rax=1
;; out rax=3
inc eax
inc eax

;; case compat_page_fault
;; mode compat32
;; fault PF error=4 cr2=0x22000 rip=here
here: mov eax, [0x22000]

;; case compat_far_jump_to_64
;; mode compat32
;; out cs=0x43 r8=5
jmp 0x43:target
bits 64
target: mov r8d, 5

;; case compat_pusha
;; mode compat32
;; out rsp=0x307e0
pusha

;; case compat_int_0x80
;; skip emulated_kvm
;; mode compat32
;; fault 0x80 rip=after
int 0x80
after: nop

;; case compat_ds_base_applies
;; mode compat32
;; mem 0x20010 = dd 0x66
;; out rax=0x66
mov eax, 0xab
mov es, ax
mov eax, [es:0x10]

;; case compat_limit
;; mode compat32
;; fault GP error=0 rip=here
mov eax, 0xab
mov es, ax
here: mov eax, [es:0x1000]
