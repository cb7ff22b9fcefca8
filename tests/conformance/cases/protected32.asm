; Protected mode, 32-bit: segment limits and types, gates, tasks, legacy instructions.

;; defaults
;; mode prot32

;; case limit_read_inside
;; mem 0x20ffc = dd 7
;; out rax=7
mov eax, 0xab
mov ds, ax
mov eax, [0xffc]

;; case limit_read_across
;; fault GP error=0 rip=here
mov eax, 0xab
mov ds, ax
here: mov eax, [0xffd]

;; case limit_write_outside
;; fault GP error=0 rip=here
mov eax, 0xab
mov es, ax
here: mov byte [es:0x1000], 1

;; case expand_down_inside
;; out rax=0
mov eax, 0x73
mov es, ax
mov eax, [es:0x20000]

;; case expand_down_outside
;; fault GP error=0 rip=here
mov eax, 0x73
mov es, ax
here: mov eax, [es:0x1fffc]

;; case write_to_read_only_segment
;; fault GP error=0 rip=here
mov eax, 0x6b
mov es, ax
here: mov byte [es:0x20000], 1

;; case read_from_read_only_segment
;; out rax=0
mov eax, 0x6b
mov es, ax
mov eax, [es:0x20000]

;; case write_through_cs
;; fault GP error=0 rip=here
here: mov byte [cs:0x20000], 1

;; case read_through_cs
;; mem 0x20000 = dd 9
;; out rax=9
mov eax, [cs:0x20000]

;; case load_execute_only_into_ds
;; fault GP error=0xa0 rip=here
mov eax, 0xa3
here: mov ds, ax

;; case null_segment_load_then_use
;; fault GP error=0 rip=here
xor eax, eax
mov es, ax
here: mov eax, [es:0]

;; case null_into_ss
;; fault GP error=0 rip=here
xor eax, eax
here: mov ss, ax

;; case ss_not_present
;; fault GP error=0x60 rip=here
mov eax, 0x60
here: mov ss, ax

;; case ds_not_present
;; fault NP error=0x60 rip=here
mov eax, 0x60
here: mov ds, ax

;; case mov_to_cs
;; fault UD rip=here
here: db 0x8e, 0xc8

;; case accessed_bit_is_set_on_load
;; mem 0x803d = f2
;; expect 0x803d = f3
mov eax, 0x3b
mov ds, ax

;; case lds_loads_both
;; mem 0x20000 = 78 56 34 12 10 00
;; out rbx=0x12345678 ds=0x10
lds ebx, [0x20000]

;; case les_bad_selector_keeps_register
;; mem 0x20000 = 78 56 34 12 f8 01
;; out rbx=5
;; fault GP error=0x1f8
mov ebx, 5
les ebx, [0x20000]

;; case lss
;; mem 0x20000 = 00 09 03 00 10 00
;; out rsp=0x30900 ss=0x10
lss esp, [0x20000]

;; case far_jump
;; out cs=0x18 rax=1
jmp 0x18:target
nop
target: mov eax, 1

;; case far_jump_conforming
;; out cs=0x58 cpl=0
jmp 0x58:target
target: nop

;; case far_jump_to_data
;; fault GP error=0x10 rip=here
here: jmp 0x10:0x10000

;; case far_jump_not_present_code
;; mem 0x8090 = dq 0x00cf1b000000ffff
;; fault NP error=0x90 rip=here
here: jmp 0x90:0x10000

;; case far_call_and_return
;; out rsp=0x30800 rbx=2 cs=0x18
call 0x18:f
inc ebx
jmp short done
f: mov ebx, 1
retf
done:

;; case far_call_pushes_cs_eip
;; expect 0x307f8 = 07 00 01 00 18 00
call 0x18:f
f: nop

;; case retf_imm
;; out rsp=0x30808
push 0x18
push done
add esp, 0
mov eax, done
retf 8
done:

;; case call_gate_same_privilege
;; mem 0x8088 = dq 0x00018c0000180010
;; out cs=0x18 rsp=0x307f8
call 0x88:0
times 9 nop
target: nop

;; case retf_to_outer_privilege
;; out cs=0x33 ss=0x3b rsp=0x30900
push 0x3b
push 0x30900
push 0x33
push target
retf
target: nop

;; case iret_same_privilege
;; out rsp=0x30800
;; flags CF
push 3
push 0x18
push target
iret
target: nop

;; case iret_to_user
;; out cs=0x33 ss=0x3b rsp=0x30900
push 0x3b
push 0x30900
push 2
push 0x33
push target
iret
target: nop

;; case iret_to_vm86
;; out cs=0x1000 rsp=0x500
;; fault GP error=0
;; flags VM
push 0
push 0
push 0
push 0
push 0x3000
push 0x500
push 0x20002
push 0x1000
push target - 0x10000
iret
target: nop

;; case iret_to_inner_code_fails
;; fault GP error=0x38 rip=here
push 0x38
push 0x30900
push 2
push 0x38
push 0x10000
here: iret

;; case task_switch_by_jump
;; mem 0xe01c = dd 0
;; mem 0xe020 = dd 0x10010 2
;; mem 0xe028 = dd 0x11 0x22 0x33 0x44 0x30700
;; mem 0xe048 = dd 0x10 0x18 0x10 0x10 0 0 0
;; out tr=0x98 cs=0x18 rsp=0x30700 rax=0x11 rcx=0x22
;; expect 0x804d = 89
;; expect 0x809d = 8b
jmp 0x98:0
times 9 nop
target: nop

;; case task_switch_by_call_sets_nt_and_link
;; mem 0xe01c = dd 0
;; mem 0xe020 = dd 0x10010 2
;; mem 0xe038 = dd 0x30700
;; mem 0xe048 = dd 0x10 0x18 0x10 0x10 0 0 0
;; out tr=0x98
;; flags NT
;; expect 0xe000 = 48 00
;; expect 0x804d = 8b
;; expect 0x809d = 8b
call 0x98:0
times 9 nop
target: nop

;; case task_switch_sets_ts
;; mem 0xe020 = dd 0x10010 2
;; mem 0xe038 = dd 0x30700
;; mem 0xe048 = dd 0x10 0x18 0x10 0x10 0 0 0
;; out rax=8
jmp 0x98:0
times 9 nop
target: mov eax, cr0
and eax, 8

;; case jump_to_busy_task
;; fault GP error=0x48 rip=here
here: jmp 0x48:0

;; case pusha_popa
;; in rax=1 rcx=2 rdx=3 rbx=4 rbp=6 rsi=7 rdi=8
;; out rsp=0x307e0
;; expect 0x307e0 = dd 8 7 6 0x30800 4 3 2 1
pusha

;; case popa_skips_esp
;; mem 0x30800 = dd 8 7 6 0x99999999 4 3 2 1
;; out rsp=0x30820 rax=1 rdi=8 rbp=6
popa

;; case daa
;; in rax=0x2b rflags=0x2
;; out rax=0x31
;; flags AF !CF
daa

;; case das
;; in rax=0x2e rflags=0x12
;; out rax=0x28
;; flags AF !CF
das

;; case aaa
;; in rax=0x0f
;; out rax=0x0105
;; flags CF AF
aaa

;; case aas
;; in rax=0x020b
;; out rax=0x0105
;; flags CF AF
aas

;; case aam
;; in rax=0x4f
;; out rax=0x0709
;; flags !ZF !SF PF
aam

;; case aam_zero
;; in rax=0x4f
;; fault DE rip=here
here: db 0xd4, 0

;; case aad
;; in rax=0x0709
;; out rax=0x4f
aad

;; case bound_inside
;; mem 0x20000 = dd 1 10
;; in rax=5
;; out rax=5
bound eax, [0x20000]

;; case bound_outside
;; mem 0x20000 = dd 1 10
;; in rax=11
;; fault BR rip=here
here: bound eax, [0x20000]

;; case into_taken
;; in rflags=0x802
;; fault OF rip=after
into
after: nop

;; case into_not_taken
;; in rflags=0x2 rax=0
;; out rax=1
into
inc eax

;; case arpl_adjusts
;; in rax=0x10 rbx=3
;; out rax=0x13
;; flags ZF
arpl ax, bx

;; case salc
;; in rflags=0x3 rax=0
;; out rax=0xff
db 0xd6

;; case inc_dec_short_forms
;; in rax=0xffffffff rcx=0
;; out rax=0 rcx=0xffffffff
inc eax
dec ecx

;; case address_16_wraps
;; mem 0x0f000 = dd 0x77
;; in rbx=0xf000 rsi=0x10000
;; out rax=0x77
a16 mov eax, [bx + si]

;; case push_es_pop_ds
;; out ds=0x38 rsp=0x30800
mov eax, 0x38
mov es, ax
push es
pop ds

;; case push_imm16
;; out rsp=0x307fe
o16 push 5

;; case loop_with_cx
;; in rcx=0x10002
;; out rcx=0x10000 rax=2
xor eax, eax
again: inc eax
a16 loop again

;; case jcxz_uses_cx
;; in rcx=0x10000 rax=1
;; out rax=1
a16 jecxz done
inc eax
done:

;; case paging32_read_only
;; skip emulated_kvm
;; paging 32
;; fault PF error=3 cr2=0x23000 rip=here
here: mov byte [0x23000], 1

;; case paging32_dirty
;; skip emulated_kvm
;; paging 32
;; expect 0x7094 = 67 50 02
mov byte [0x25000], 1

;; case paging32_large_page
;; skip emulated_kvm
;; paging 32
;; mem 0x6004 = dd 0x83
;; mem 0x20000 = dd 0x1234
;; in cr4=0x40610
;; out rax=0x1234
mov eax, [0x420000]

;; case paging32_large_page_without_pse_is_a_table
;; skip emulated_kvm
;; paging 32
;; mem 0x6004 = dd 0x7083
;; mem 0x20000 = dd 0x1234
;; out rax=0x1234
mov eax, [0x420000]

;; case pae_no_execute
;; skip emulated_kvm
;; paging pae
;; fault PF error=0x11 cr2=0x24000 rip=0x24000
mov eax, 0x24000
jmp eax

;; case pae_pdpte_not_present
;; skip emulated_kvm
;; paging pae
;; fault PF error=0 cr2=0x40000000 rip=here
here: mov al, [0x40000000]

;; case pae_large_page
;; skip emulated_kvm
;; paging pae
;; mem 0x200000 = dd 0x55
;; out rax=0x55
mov eax, [0x200000]

;; case enter_long_mode_paging_requires_pae
;; fault GP error=0 rip=here
mov ecx, 0xc0000080
rdmsr
or eax, 0x100
wrmsr
mov eax, cr0
bts eax, 31
here: mov cr0, eax

;; case enter_paging
;; skip emulated_kvm
;; out rax=0xe0010033
mov eax, 0x6000
mov cr3, eax
mov eax, cr0
or eax, 0x80000000
mov cr0, eax
mov eax, cr0
or eax, 0x60000000

;; case stack_limit_ss_fault
;; mode user32
;; in ss.limit=0x30fff ss.attributes=0x40f3 rsp=0x31004
;; skip emulated_kvm
;; fault SS error=0
push eax

;; case sysenter_with_null_cs
;; fault GP error=0 rip=here
here: sysenter

;; case sysenter_enters
;; in sysenter_cs=0x18 sysenter_esp=0x30900 sysenter_eip=0x10003
;; skip emulated_kvm
;; out rsp=0x30900
sysenter
nop

;; case smsw_memory
;; expect 0x20000 = 33 00 00
smsw [0x20000]

;; case code_limit_jump
;; in cs.limit=0x1ffff cs.attributes=0x409b
;; fault GP error=0
mov eax, 0x20000
jmp eax

;; case mov_esp_based_uses_ss
;; mem 0x30804 = dd 0x42
;; out rax=0x42
mov eax, [esp + 4]

;; case ebp_based_uses_ss_limit
;; in ss.limit=0x307ff ss.attributes=0x4093 rbp=0x30800
;; skip emulated_kvm
;; fault SS error=0 rip=here
here: mov eax, [ebp]
