; Loads, stores, page faults, stack and control flow in 64-bit user mode.

;; defaults
;; mode user64

;; case load_unaligned_qword
;; mem 0x20003 = dq 0x1122334455667788
;; out rax=0x1122334455667788
mov rax, [0x20003]

;; case load_crosses_page
;; mem 0x20ffd = dq 0x1122334455667788
;; out rax=0x1122334455667788
mov rax, [0x20ffd]

;; case store_crosses_page
;; in rax=0x1122334455667788
;; expect 0x20ffd = dq 0x1122334455667788
mov [0x20ffd], rax

;; case load_crosses_into_hole
;; out rax=5
;; fault PF error=4 cr2=0x22000 rip=here
mov eax, 5
here: mov rax, [0x21ffd]

;; case store_crosses_into_hole_writes_nothing
;; in rax=-1
;; expect 0x21ffd = 00 00 00
;; fault PF error=6 cr2=0x22000 rip=here
here: mov [0x21ffd], rax

;; case load_from_hole_faults
;; fault PF error=4 cr2=0x22008 rip=here
mov rcx, 5
here: mov rax, [0x22008]

;; case store_to_hole_faults
;; fault PF error=6 cr2=0x22008 rip=here
here: mov [0x22008], rax

;; case store_to_read_only_faults
;; fault PF error=7 cr2=0x23010 rip=here
here: mov dword [0x23010], 1

;; case load_from_read_only
;; out rax=0
mov rax, [0x23010]

;; case rmw_on_read_only_faults_as_write
;; fault PF error=7 cr2=0x23010 rip=here
here: add dword [0x23010], 1

;; case load_supervisor_page
;; skip native
;; fault PF error=5 cr2=0x24000 rip=here
here: mov rax, [0x24000]

;; case store_supervisor_page
;; skip native
;; fault PF error=7 cr2=0x24ff8 rip=here
here: mov [0x24ff8], rax

;; case execute_from_hole
;; fault PF error=0x14 cr2=0x22000 rip=0x22000
mov rax, 0x22000
jmp rax

;; case execute_no_execute_page
;; skip native
;; fault PF error=0x15 cr2=0x20000 rip=0x20000
mov rax, 0x20000
jmp rax

;; case non_canonical_load
;; in rax=0x8000000000000000
;; fault GP error=0 rip=here
here: mov rbx, [rax]

;; case non_canonical_store_via_rsp_is_ss
;; in rsp=0x8000000000000000
;; skip native
;; fault SS error=0 rip=here
here: mov rbx, [rsp]

;; case canonical_boundary
;; in rax=0x7fffffffffff
;; skip native
;; fault PF error=4 cr2=0x7fffffffffff rip=here
here: mov bl, [rax]

;; case non_canonical_jump
;; in rax=0x8000000000000000
;; fault GP error=0
jmp rax

;; case mov_moffs_load
;; mem 0x20018 = dq 0xdeadbeef
;; out rax=0xdeadbeef
db 0x48, 0xa1
dq 0x20018

;; case mov_moffs_store8
;; in rax=0x42
;; expect 0x20018 = 42
db 0xa2
dq 0x20018

;; case rip_relative
;; out rax=0x99
mov eax, [rel value]
jmp short done
value: dd 0x99
done:

;; case address_size_32_wraps
;; mem 0x20000 = dq 0x77
;; in rax=0xffffffff00020000
;; out rbx=0x77
mov rbx, [eax]

;; case push_pop
;; in rax=0x1234
;; out rbx=0x1234 rsp=0x30800
;; expect 0x307f8 = dq 0x1234
push rax
pop rbx

;; case push16
;; in rax=0x1234 rsp=0x30800
;; out rsp=0x307fe
;; expect 0x307fe = 34 12
push ax

;; case push_imm8_sign_extends
;; expect 0x307f8 = dq 0xffffffffffffffff
push -1

;; case push_imm32_sign_extends
;; expect 0x307f8 = dq 0xffffffff80000000
push strict dword -0x80000000

;; case push_rsp_pushes_old_value
;; expect 0x307f8 = dq 0x30800
push rsp

;; case pop_rsp
;; mem 0x30800 = dq 0x30900
;; out rsp=0x30900
pop rsp

;; case pop_memory_uses_new_rsp
;; mem 0x30800 = dq 0x55
;; out rsp=0x30808
;; expect 0x30808 = dq 0x55
pop qword [rsp]

;; case push_memory
;; mem 0x20000 = dq 0x66
;; expect 0x307f8 = dq 0x66
push qword [0x20000]

;; case push_faults_keeps_rsp
;; in rsp=0x22008
;; out rsp=0x22008
;; fault PF error=6 cr2=0x22000 rip=here
here: push rax

;; case pop_to_read_only_keeps_rsp
;; out rsp=0x30800
;; fault PF error=7 cr2=0x23000 rip=here
here: pop qword [0x23000]

;; case pushfq_reads_flags
;; skip emulated_kvm
;; in rflags=0x8d7
;; skip native
;; expect 0x307f8 = d7 08
pushfq

;; case popfq_cannot_set_iopl_or_if
;; mem 0x30800 = dq 0x3ad5
;; skip native
;; out rsp=0x30808
;; flags CF PF AF ZF SF OF !IF
popfq

;; case call_ret
;; out rax=2 rbx=1 rsp=0x30800
xor ebx, ebx
mov eax, 1
call f
inc ebx
jmp short g
f: inc eax
ret
g:

;; case ret_imm
;; out rsp=0x30810
call f
jmp short g
f: ret 16
g:

;; case call_indirect_memory
;; out rcx=3
lea rax, [rel f]
mov [0x20000], rax
call [0x20000]
jmp short g
f: mov ecx, 3
ret
g:

;; case enter_leave
;; in rbp=0x1234
;; out rbp=0x1234 rsp=0x30800
enter 32, 0
leave

;; case enter_frame
;; in rbp=0x1234
;; out rbp=0x307f8 rsp=0x307d8
;; expect 0x307f8 = dq 0x1234
enter 32, 0

;; case enter_nested
;; in rbp=0x30900
;; mem 0x308f8 = dq 0x777
;; out rbp=0x307f8 rsp=0x307d8
;; expect 0x307f0 = dq 0x777
;; expect 0x307e8 = dq 0x307f8
enter 16, 2

;; case jcc_all_taken
;; in rflags=0x2
;; out rax=15
xor eax, eax
cmp eax, 1
jb a
jmp end
a: inc eax
cmp eax, 1
je b
jmp end
b: add eax, 14
jo end
jno c
inc eax
c:
end:

;; case loop_counts
;; in rcx=5
;; out rax=5 rcx=0
xor eax, eax
again: inc eax
loop again

;; case loopne_stops_on_zero_flag
;; in rcx=5
;; out rcx=3
xor eax, eax
again: inc eax
cmp eax, 2
loopne again

;; case jrcxz_taken
;; in rcx=0
;; out rax=1
mov eax, 1
jrcxz done
mov eax, 2
done:

;; case jecxz_uses_32_bits
;; in rcx=0xffffffff00000000
;; out rax=1
mov eax, 1
jecxz done
mov eax, 2
done:

;; case int3_traps_after
;; fault BP rip=after
int3
after: nop

;; case ud2
;; fault UD rip=here
nop
here: ud2

;; case hlt_is_privileged
;; fault GP error=0 rip=here
here: hlt
nop

;; case cli_needs_iopl
;; fault GP error=0 rip=here
here: cli

;; case in_needs_permission
;; fault GP error=0 rip=here
here: in al, 0x60

;; case mov_cr_privileged
;; fault GP error=0 rip=here
here: mov rax, cr0

;; case wrmsr_privileged
;; fault GP error=0 rip=here
here: wrmsr

;; case int_n_without_permission
;; skip emulated_kvm
;; fault GP error=0x4a2 rip=here
;; skip native
here: int 0x94

;; case too_long_instruction
;; fault GP error=0 rip=here
here: times 15 db 0x66
nop

;; case invalid_in_long_mode_aaa
;; fault UD rip=here
here: db 0x37

;; case invalid_in_long_mode_push_es
;; fault UD rip=here
here: db 0x06

;; case invalid_far_jump
;; fault UD rip=here
here: db 0xea, 0, 0, 0, 0, 0, 0

;; case xlat
;; mem 0x20005 = 99
;; in rbx=0x20000 rax=5
;; out rax=0x99
xlatb

;; case self_modifying_code
;; out rax=2
mov byte [rel patch + 1], 2
patch: mov eax, 1

;; case self_modifying_ahead_in_block
;; out rax=0x12 rcx=3
xor ecx, ecx
again: inc ecx
mov al, cl
add al, 0x0f
mov [rel patch + 1], al
patch: mov al, 0
cmp ecx, 3
jne again

;; case code_from_another_page
;; out rax=9
mov rdi, 0x11000
mov dword [rdi], 0x000009b8
mov word [rdi + 4], 0xc300
call rdi

;; case instruction_straddles_pages
;; out rax=0x01020304
mov rdi, 0x10ffe
mov dword [rdi], 0x020304b8
mov word [rdi + 4], 0xc301
jmp over
ret
over: mov byte [rdi], 0xb8
mov dword [rdi + 1], 0x01020304
mov byte [rdi + 5], 0xc3
call rdi

;; case alignment_check_off_by_default
;; out rax=0
mov eax, [0x20001]

;; case sib_base_5_is_no_base_with_rex_b
;; mem 0x20040 = dq 0x1234
;; in r13=0x22000 r10=8
;; out rax=0x1234
db 0x67, 0x4b, 0x8b, 0x04, 0xd5, 0x00, 0x00, 0x02, 0x00  ; mov rax, [r10d*8 + 0x20000]

;; case rewrites_behind_an_instruction_across_pages
; The second page has its first code by an instruction that begins in the page before.
;; out rbx=5150
mov rdi, 0x10ffe
mov rax, 0xc083000000010590
shr rax, 8
mov [rdi], rax
mov word [rdi + 7], 0xc300
xor ebx, ebx
mov ecx, 100
again: mov [rdi + 7], cl
xor eax, eax
call rdi
add ebx, eax
dec ecx
jnz again
