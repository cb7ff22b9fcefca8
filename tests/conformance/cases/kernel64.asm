; Ring 0 in long mode: control registers, MSRs, paging, debug, transfers.

;; defaults
;; mode kernel64

;; case cr0_read
;; out rax=0x80010033
mov rax, cr0

;; case cr0_clear_paging_in_long_mode
;; fault GP error=0 rip=here
mov rax, cr0
btr eax, 31
here: mov cr0, rax

;; case cr0_nw_without_cd
;; fault GP error=0 rip=here
mov rax, cr0
bts rax, 29
here: mov cr0, rax

;; case cr0_upper_half
;; skip emulated_kvm
;; fault GP error=0 rip=here
mov rax, cr0
bts rax, 32
here: mov cr0, rax

;; case cr4_clear_pae_in_long_mode
;; fault GP error=0 rip=here
mov rax, cr4
btr eax, 5
here: mov cr4, rax

;; case cr4_reserved_bit
;; skip emulated_kvm
;; fault GP error=0 rip=here
mov rax, cr4
bts rax, 40
here: mov cr4, rax

;; case cr3_reserved_bit
;; fault GP error=0 rip=here
mov rax, cr3
bts rax, 60
here: mov cr3, rax

;; case cr3_reload
;; out rax=0x1000 rbx=0x77
;; mem 0x20000 = 77
movzx ebx, byte [0x20000]
mov rax, cr3
mov cr3, rax
movzx ebx, byte [0x20000]

;; case cr1_does_not_exist
;; fault UD rip=here
here: db 0x0f, 0x20, 0xc8

;; case cr2_write
;; out cr2=0x123456789abc
mov rax, 0x123456789abc
mov cr2, rax

;; case cr8_round_trip
;; out rbx=5
mov eax, 5
mov cr8, rax
mov rbx, cr8
xor eax, eax
mov cr8, rax

;; case cr8_reserved
;; fault GP error=0 rip=here
mov eax, 16
here: mov cr8, rax

;; case lmsw_cannot_clear_pe
;; out rbx=0x80010033
mov eax, 0x32
lmsw ax
mov rbx, cr0

;; case smsw
;; out rax=0x33
xor eax, eax
smsw ax

;; case clts
;; in cr0=0x8001003b
;; out cr0=0x80010033
clts

;; case fpu_with_ts
;; in cr0=0x8001003b
;; fault NM rip=here
here: fldz

;; case sse_with_ts
;; in cr0=0x8001003b
;; fault NM rip=here
here: addps xmm0, xmm1

;; case sse_with_em
;; in cr0=0x80010037
;; fault UD rip=here
here: addps xmm0, xmm1

;; case fpu_with_em
;; in cr0=0x80010037
;; fault NM rip=here
here: fldz

;; case sse_without_osfxsr
;; in cr4=0x40420
;; fault UD rip=here
here: addps xmm0, xmm1

;; case avx_without_osxsave
;; in cr4=0x620
;; fault UD rip=here
here: vaddps xmm0, xmm1, xmm2

;; case xgetbv_without_osxsave
;; in cr4=0x620
;; fault UD rip=here
xor ecx, ecx
here: xgetbv

;; case xsetbv_without_x87
;; fault GP error=0 rip=here
xor ecx, ecx
xor edx, edx
mov eax, 2
here: xsetbv

;; case xsetbv_avx_without_sse
;; fault GP error=0 rip=here
xor ecx, ecx
xor edx, edx
mov eax, 5
here: xsetbv

;; case xsetbv_sets
;; out xcr0=3
xor ecx, ecx
xor edx, edx
mov eax, 3
xsetbv

;; case efer_read
;; out rax=0xd01 rdx=0
mov ecx, 0xc0000080
rdmsr

;; case efer_lme_change_while_paging
;; fault GP error=0 rip=here
mov ecx, 0xc0000080
rdmsr
btr eax, 8
here: wrmsr

;; case efer_reserved
;; fault GP error=0 rip=here
mov ecx, 0xc0000080
rdmsr
bts eax, 1
here: wrmsr

;; case unknown_msr_read
;; fault GP error=0 rip=here
mov ecx, 0x12345678
here: rdmsr

;; case unknown_msr_write
;; fault GP error=0 rip=here
mov ecx, 0x12345678
here: wrmsr

;; case lstar_non_canonical
;; fault GP error=0 rip=here
mov ecx, 0xc0000082
mov edx, 0x80000000
xor eax, eax
here: wrmsr

;; case lstar_round_trip
;; out lstar=0xffffffff81000000
mov ecx, 0xc0000082
mov edx, 0xffffffff
mov eax, 0x81000000
wrmsr

;; case fs_base_msr
;; mem 0x20010 = dq 0x5566
;; out rbx=0x5566 fs.base=0x20000
mov ecx, 0xc0000100
xor edx, edx
mov eax, 0x20000
wrmsr
mov rbx, [fs:0x10]

;; case swapgs_exchanges
;; in gs.base=0x1000 kernel_gs_base=0x20000
;; mem 0x20008 = dq 0x99
;; out rax=0x99 kernel_gs_base=0x1000
swapgs
mov rax, [gs:8]

;; case pat_bad_type
;; skip emulated_kvm
;; fault GP error=0 rip=here
mov ecx, 0x277
mov edx, 0x00070106
mov eax, 0x00070102
here: wrmsr

;; case wrfsbase_without_cr4
;; skip emulated_kvm
;; fault UD rip=here
here: wrfsbase rax

;; case wrfsbase
;; in cr4=0x50620 rax=0x20000
;; out fs.base=0x20000 rbx=0x20000
wrfsbase rax
rdfsbase rbx

;; case wrgsbase_non_canonical
;; in cr4=0x50620 rax=0x800000000000
;; fault GP error=0 rip=here
here: wrgsbase rax

;; case bases_in_one_block
;; skip emulated_kvm
;; in cr4=0x50620 gs.base=0x1000 kernel_gs_base=0x20000 rax=0x21000 rcx=0x20100 rdx=0x23000
;; mem 0x20108 = dq 0x77
;; out rbx=0x1000 rsi=0x20000 rdi=0x77 r8=0x20100 r9=0x21000 fs.base=0x21000 gs.base=0x23000
;; out kernel_gs_base=0x20100
wrfsbase rax
rdgsbase rbx
swapgs
rdgsbase rsi
wrgsbase rcx
mov rdi, [gs:8]
rdgsbase r8
swapgs
wrgsbase rdx
rdfsbase r9

;; case wrfsbase_upper_half
;; skip emulated_kvm
;; in cr4=0x50620 rax=0xffff900000000000
;; out fs.base=0xffff900000000000 rbx=0xffff900000000000
wrfsbase rax
rdfsbase rbx

;; case wrfsbase_non_canonical
;; skip emulated_kvm
;; in cr4=0x50620 rcx=0x8000000000000000 rbx=1
;; out rbx=1 rcx=0x8000000000000000
;; fault GP error=0 rip=here
here: wrfsbase rcx

;; case wrgsbase_upper_half
;; skip emulated_kvm
;; in cr4=0x50620 rcx=0xffff900000000000
;; out gs.base=0xffff900000000000 rax=0xffff900000000000
wrgsbase rcx
rdgsbase rax

;; case wrgsbase_not_foldable
;; skip emulated_kvm
;; in cr4=0x50620 rcx=0x700000000000
;; out gs.base=0x700000000000 rax=0x700000000000
wrgsbase rcx
rdgsbase rax

;; case fsgsbase_cleared_again
;; skip emulated_kvm
;; in cr4=0x50620
;; fault UD rip=here
mov rdx, cr4
xor r8d, r8d
again:
test r8d, r8d
jnz here
rdfsbase rbx
inc r8d
btr rdx, 16
mov cr4, rdx
jmp again
here: rdfsbase rbx

;; case wrfsbase_of_32_bits
;; skip emulated_kvm
;; in cr4=0x50620 rax=0x1234567800020000
;; out fs.base=0x20000 rbx=0x20000
wrfsbase eax
rdfsbase rbx

;; case selectors_to_registers
;; in rax=-1 rbx=-1 rcx=-1 r9=-1 r12=-1
;; out rax=0x10 rbx=0x10 rcx=0xffffffffffff0010 r9=0xffffffffffff0010 r12=0xfffffffffffffff8
;; expect 0x20000 = 10 00
mov eax, ds
mov rbx, ss
mov r12d, cs
mov cx, es
mov r9w, ds
sub r12, rax
mov [0x20000], bx

;; case selector_follows_its_load
;; out rax=0 rbx=0
xor eax, eax
mov gs, ax
mov fs, ax
mov eax, -1
mov ebx, -1
mov eax, gs
mov rbx, fs

;; case wp_supervisor_write_to_read_only
;; fault PF error=3 cr2=0x23000 rip=here
here: mov byte [0x23000], 1

;; case no_wp_supervisor_write_to_read_only
;; in cr0=0x80000033
;; expect 0x23000 = 01
mov byte [0x23000], 1

;; case supervisor_page_access
;; expect 0x24000 = 07
mov byte [0x24000], 7

;; case accessed_bit_set_by_read
;; expect 0x4128 = 27 50 02
mov al, [0x25000]

;; case dirty_bit_set_by_write
;; expect 0x4128 = 67 50 02
mov [0x25000], al

;; case dirty_bit_after_read_then_write
;; expect 0x4128 = 67 50 02
mov al, [0x25000]
mov [0x25000], al

;; case accessed_not_set_when_refused
;; expect 0x4118 = 05 30 02
;; fault PF error=3 cr2=0x23000
mov [0x23000], al

;; case large_page_accessed_dirty
;; expect 0x3008 = e7 00 20
mov dword [0x200010], 5

;; case pte_reserved_bit
;; mem 0x4128 = dq 0x0008000000025007
;; fault PF error=9 cr2=0x25000 rip=here
here: mov al, [0x25000]

;; case pde_large_reserved_bit
;; mem 0x3008 = dq 0x202087
;; fault PF error=9 cr2=0x200000 rip=here
here: mov al, [0x200000]

;; case pml4_not_present
;; fault PF error=0 cr2=0x8000000000 rip=here
mov rax, 0x8000000000
here: mov bl, [rax]

;; case kernel_half_not_present
;; skip translate_high
;; fault PF error=2 cr2=0xffffffff80000000 rip=here
mov rax, 0xffffffff80000000
here: mov [rax], bl

;; case remap_with_invlpg
;; mem 0x20000 = 11
;; out rax=0x11
mov al, [0x25000]
mov qword [0x4128], 0x20003
invlpg [0x25000]
movzx eax, byte [0x25000]

;; case remap_with_cr3_write
;; mem 0x20000 = 12
;; out rbx=0x12
mov al, [0x25000]
mov qword [0x4128], 0x20003
mov rax, cr3
mov cr3, rax
movzx ebx, byte [0x25000]

;; case remap_seen_with_a_pcid_that_is_new
;; skip emulated_kvm
;; in cr4=0x60620
;; mem 0x20000 = 14
;; out rbx=0x14 rcx=0x14
mov rax, cr3
lea rdx, [rax + 1]
mov cr3, rdx
mov bl, [0x25000]
mov qword [0x4128], 0x20003
lea rdx, [rax + 2]
bts rdx, 63
mov cr3, rdx
movzx ebx, byte [0x25000]
mov cr3, rax
movzx ecx, byte [0x25000]

;; case smep_execute_user_page
;; in cr4=0x140620
;; fault PF error=0x11 cr2=0x10000 rip=0x10000
nop

;; case smap_read_user_page
;; in cr4=0x240620 rsp=0xcf00
;; fault PF error=1 cr2=0x20000 rip=here
here: mov al, [0x20000]

;; case smap_write_user_page
;; in cr4=0x240620 rsp=0xcf00
;; fault PF error=3 cr2=0x20000 rip=here
here: mov [0x20000], al

;; case smap_overridden_by_ac
;; skip emulated_kvm
;; in cr4=0x240620 rsp=0xcf00
;; mem 0x20000 = 44
;; out rax=0x44
stac
movzx eax, byte [0x20000]
clac

;; case smap_again_after_clac
;; skip emulated_kvm
;; in cr4=0x240620 rsp=0xcf00
;; fault PF error=1 cr2=0x20000 rip=here
stac
mov al, [0x20000]
clac
here: mov al, [0x20000]

;; case kernel_execute_no_execute_page
;; fault PF error=0x11 cr2=0x24000 rip=0x24000
;; mem 0x24000 = c3
mov eax, 0x24000
jmp rax

;; case nx_bit_is_reserved_without_nxe
;; fault PF error=9 cr2=0x20000 rip=here
mov ecx, 0xc0000080
rdmsr
btr eax, 11
wrmsr
mov rax, cr3
mov cr3, rax
mov rsp, 0xcf00
here: mov al, [0x20000]

;; case single_step
;; in rflags=0x102
;; out dr6=0xffff4ff0
;; fault DB rip=after
nop
after: nop

;; case single_step_after_popf
;; out dr6=0xffff4ff0
;; fault DB rip=after
pushfq
or dword [rsp], 0x100
popfq
nop
after: nop

;; case instruction_breakpoint
;; skip translate_high
;; in dr0=0x10002 dr7=0x402
;; out dr6=0xffff0ff1
;; fault DB rip=here
nop
nop
here: nop

;; case instruction_breakpoint_suppressed_by_rf
;; in dr0=0x10000 dr7=0x402 rflags=0x10002
;; out rax=1
mov eax, 1

;; case data_write_breakpoint
;; skip emulated_kvm
;; in dr1=0x20008 dr7=0xd00408
;; out dr6=0xffff0ff2
;; fault DB rip=after
mov eax, [0x20008]
mov dword [0x20008], 1
after: nop

;; case general_detect
;; in dr7=0x2400
;; fault DB rip=here
here: mov rax, dr0

;; case dr4_with_debug_extensions
;; in cr4=0x40628
;; fault UD rip=here
here: db 0x0f, 0x21, 0xe0

;; case dr7_upper_half
;; fault GP error=0 rip=here
mov rax, 0x100000400
here: mov dr7, rax

;; case icebp
;; fault DB rip=after
db 0xf1
after: nop

;; case int_through_gate
;; fault 0x80 rip=after
int 0x80
after: nop

;; case int3_in_kernel
;; fault BP rip=after
int3
after: nop

;; case gate_not_present
;; mem 0x9900 = 00 b9 08 00 00 0e 00 00
;; fault NP error=0x482 rip=here
here: int 0x90

;; case page_fault_gate_missing_is_double_fault
;; mem 0x90e0 = dq 0 0
;; fault DF error=0 rip=here
here: mov al, [0x22000]

;; case gp_gate_missing_is_double_fault
;; mem 0x90d0 = dq 0 0
;; fault DF error=0
mov ecx, 0x12345678
rdmsr

;; case vector_beyond_idt_limit
;; fault GP error=0x482 rip=here
lidt [rel table]
here: int 0x90
table: dw 0x8ff
dq 0x9000

;; case iretq_same_privilege
;; out rsp=0x30900 rbx=7
push 0x10
push 0x30900
push 2
push 0x08
lea rax, [rel target]
push rax
mov ebx, 7
iretq
nop
target:

;; case iretq_to_user
;; out cs=0x43 ss=0x3b rsp=0x30900
push 0x3b
push 0x30900
push 2
push 0x43
lea rax, [rel target]
push rax
iretq
nop
target:

;; case iretq_to_compatibility_mode
;; skip translate_high
;; out cs=0x33 rax=0xffffffff
push 0x3b
push 0x30900
push 2
push 0x33
lea rax, [rel target]
push rax
mov rax, -1
iretq
bits 32
target: db 0x40
dec eax

;; case iretq_non_canonical_rip
;; skip emulated_kvm
;; fault GP error=0 rip=here
push 0x10
push 0x30900
push 2
push 0x08
mov rax, 0x800000000000
push rax
here: iretq

;; case iretq_bad_selector
;; fault GP error=0x1f8 rip=here
push 0x10
push 0x30900
push 2
push 0x1f8
push 0x10000
here: iretq

;; case sysret_to_user
;; in star=0x33000800000000 rcx=0x10003 r11=0x202
;; out cs=0x43 ss=0x3b
;; flags IF
o64 sysret

;; case sysret_non_canonical
;; skip emulated_kvm
;; in star=0x33000800000000 rcx=0x800000000000 r11=2
;; fault GP error=0 rip=0x10000
o64 sysret

;; case far_return_to_compatibility
;; skip translate_high
;; out cs=0x18 rax=5
push 0x18
lea rax, [rel target]
push rax
o64 retf
bits 32
target: mov eax, 5

;; case far_jump_memory
;; mem 0x20000 = 0c 00 01 00 08 00
;; out cs=0x08 rbx=1
db 0xff, 0x2c, 0x25, 0, 0, 2, 0  ; jmp far m16:32
nop
nop
nop
nop
nop
target: mov ebx, 1

;; case far_call_non_present
;; mem 0x20000 = 00 00 01 00 60 00
;; fault GP error=0x60 rip=here
here: db 0xff, 0x1c, 0x25, 0, 0, 2, 0  ; call far m16:32

;; case load_ss_null_allowed
;; out ss=0 rax=0
xor eax, eax
mov ss, ax

;; case load_ds_not_present
;; fault NP error=0x60 rip=here
mov eax, 0x60
here: mov ds, ax

;; case load_ss_wrong_dpl
;; fault GP error=0x38 rip=here
mov eax, 0x38
here: mov ss, ax

;; case load_ds_beyond_limit
;; fault GP error=0x100 rip=here
mov eax, 0x100
here: mov ds, ax

;; case load_ds_system_segment
;; fault GP error=0x78 rip=here
mov eax, 0x78
here: mov ds, ax

;; case pop_fs
;; out fs=0x38
push 0x38
pop fs

;; case lar_lsl
;; out rax=0xcff300 rbx=0xffffffff
;; flags ZF
mov ecx, 0x38
lar eax, ecx
lsl ebx, ecx

;; case lar_bad_selector
;; out rax=5
;; flags !ZF
mov eax, 5
mov ecx, 0x1f8
lar eax, ecx

;; case verr_verw
;; flags !ZF
mov ecx, 0x68
verr cx
jnz bad
verw cx
jmp short done
bad: ud2
done:

;; case sgdt_sidt
;; expect 0x20000 = ff 00 00 80 00 00 00 00 00 00
;; expect 0x20010 = ff 0f 00 90
sgdt [0x20000]
sidt [0x20010]

;; case lgdt_round_trip
;; mem 0x20000 = 7f 00 00 80 00 00 00 00 00 00
;; out gdtr.limit=0x7f gdtr.base=0x8000
lgdt [0x20000]

;; case lidt_non_canonical
;; mem 0x20000 = ff 0f 00 00 00 00 00 00 00 80
;; fault GP error=0 rip=here
here: lidt [0x20000]

;; case str
;; out rax=0x48
xor eax, eax
str ax

;; case ltr_busy
;; fault GP error=0x48 rip=here
mov eax, 0x48
here: ltr ax

;; case ltr_available
;; mem 0x804d = 89
;; out tr=0x48
;; expect 0x804d = 8b
mov eax, 0x48
ltr ax

;; case lldt_null
;; out ldtr=0
xor eax, eax
lldt ax

;; case cpuid_hypervisor_bit
;; out rax=0x80000000
mov eax, 1
cpuid
mov eax, ecx
and eax, 0x80000000

;; case cpuid_clears_upper_halves
;; in rax=0xffffffff00000000 rcx=0
;; out r8=0
cpuid
shr rbx, 32
shr rcx, 32
shr rdx, 32
mov r8, rbx
or r8, rcx
or r8, rdx

;; case rdtsc_rises
;; flags CF
rdtsc
shl rdx, 32
or rax, rdx
mov rbx, rax
rdtsc
shl rdx, 32
or rax, rdx
cmp rbx, rax

;; case sti_sets_if
;; flags IF
sti

;; case cli_clears_if
;; in rflags=0x202
;; flags !IF
cli

;; case pushf_popf_iopl
;; out rax=0x3002
push 0x3002
popfq
pushfq
pop rax

;; case wbinvd_and_invd
;; out rax=3
wbinvd
mov eax, 3

;; case invpcid_bad_type
;; skip emulated_kvm
;; fault GP error=0 rip=here
mov eax, 4
here: invpcid rax, [0x20000]

;; case port_read
;; out rax=0xa5a5a5a5
xor eax, eax
mov dx, 0x1234
in eax, dx

;; case port_read_byte
;; out rax=0x11a5
mov eax, 0x1100
in al, 0x60

;; case rep_insb
;; in rdi=0x20000 rcx=3 rdx=0x60
;; out rdi=0x20003 rcx=0
;; expect 0x20000 = a5 a5 a5 00
rep insb

;; case rep_outsw
;; in rsi=0x20000 rcx=2 rdx=0x1234
;; out rsi=0x20004 rcx=0
rep outsw

;; case mmio_read
;; out rax=0xa5a5a5a5
;; mem 0x4128 = dq 0xd0000003
mov eax, [0x25000]

;; case mmio_read_modify_write
;; mem 0x4128 = dq 0xd0000003
;; out rax=1
mov eax, 1
add [0x25000], eax

;; case rsm_outside_smm
;; fault UD rip=here
here: rsm

;; case kernel_code_wraps_stack_pages
;; in rsp=0x31008
;; expect 0x30ff8 = dq 0x1234
push rax
push strict 0x1234
push 0x1234

;; case movs_between_kernel_pages
;; in rsi=0x24ffe rdi=0x20000 rcx=4
;; mem 0x24ffe = 01 02 03 04
;; expect 0x20000 = 01 02 03 04
rep movsb

;; case serialize_changes_nothing
;; skip kvm
;; in rax=7 rflags=0x2
;; out rax=7
;; flags !CF !ZF
db 0x0f, 0x01, 0xe8
