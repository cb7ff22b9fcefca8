; Ring 3 code that reaches for the supervisor's pages and for addresses that are none.
; Cases with page tables of their own are not for software KVM, which runs ring 3 on shadow page
; tables and does not see that a test has changed the guest's from outside.

;; defaults
;; mode user64
;; seen_high

;; case user_reads_supervisor_page
;; fault PF error=5 cr2=high+0x24010 rip=here
mov rax, high + 0x24000
here: mov bl, [rax + 0x10]

;; case user_reads_supervisor_page_low
;; fault PF error=5 cr2=0x24000 rip=here
here: mov bl, [0x24000]

;; case user_writes_supervisor_page
;; fault PF error=7 cr2=high+0x24010 rip=here
;; expect 0x24010 = 00 00
mov rax, high + 0x24000
here: mov [rax + 0x10], ax

;; case user_writes_supervisor_page_low
;; fault PF error=7 cr2=0x24000 rip=here
here: mov [0x24000], bl

;; case user_modifies_supervisor_page
;; fault PF error=7 cr2=high+0x24ff8 rip=here
mov rax, high + 0x24ff8
here: add [rax], rbx

;; case user_exchanges_with_supervisor_page
;; in rbx=high+0x24000
;; out rax=0
;; fault PF error=7 cr2=high+0x24000 rip=here
here: xchg [rbx], rax

;; case user_locked_write_to_supervisor_page
;; fault PF error=7 cr2=high+0x24000 rip=here
mov rbx, high + 0x24000
here: lock cmpxchg [rbx], rcx

;; case user_missing_page_in_upper_half
;; fault PF error=4 cr2=high+0x22000 rip=here
mov rbx, high + 0x22000
here: mov cl, [rbx]

;; case user_may_use_a_user_page_in_the_upper_half
;; mem 0x20000 = dq 0x1234
;; out rcx=0x1234
;; expect 0x20008 = dq 0x1234
mov rbx, high + 0x20000
mov rcx, [rbx]
mov [rbx + 8], rcx

;; case user_supervisor_page_by_index
;; in rcx=0x4800
;; fault PF error=5 cr2=high+0x24004 rip=here
mov rax, high + 4
here: mov bl, [rax + rcx * 8]

;; case user_supervisor_page_by_absolute
;; fault PF error=5 cr2=high+0x24000 rip=here
here: mov bl, [high + 0x24000]

;; case user_supervisor_page_by_moffs
;; fault PF error=5 cr2=high+0x24000 rip=here
here: db 0xa0
dq high + 0x24000

;; case user_supervisor_page_by_moffs_store
;; fault PF error=7 cr2=high+0x24000 rip=here
here: db 0x48, 0xa3
dq high + 0x24000

;; case user_supervisor_page_by_rip
;; fault PF error=5 cr2=high+0x24000 rip=here
here: mov bl, [rel high + 0x24000]

;; case user_supervisor_page_by_fs
;; in fs.base=high
;; fault PF error=5 cr2=high+0x24000 rip=here
here: mov bl, [fs:0x24000]

;; case user_supervisor_page_by_gs
;; in gs.base=high+0x20000 rcx=0x2000
;; fault PF error=7 cr2=high+0x24000 rip=here
here: mov [gs:rcx * 2], bl

;; case user_pushes_to_supervisor_stack
;; in rsp=high+0x24010
;; out rsp=high+0x24010
;; fault PF error=7 cr2=high+0x24008 rip=here
here: push rax

;; case user_pops_from_supervisor_stack
;; in rsp=high+0x24010
;; out rsp=high+0x24010
;; fault PF error=5 cr2=high+0x24010 rip=here
here: pop rax

;; case user_calls_on_supervisor_stack
;; in rsp=high+0x24010
;; out rsp=high+0x24010
;; fault PF error=7 cr2=high+0x24008 rip=here
here: call target
target: nop

;; case user_calls_register_on_supervisor_stack
;; in rsp=high+0x24010
;; out rsp=high+0x24010
;; fault PF error=7 cr2=high+0x24008 rip=here
mov eax, target
here: call rax
target: nop

;; case user_calls_through_supervisor_page
;; fault PF error=5 cr2=high+0x24000 rip=here
mov rbx, high + 0x24000
here: call [rbx]

;; case user_returns_from_supervisor_stack
;; in rsp=high+0x24010
;; out rsp=high+0x24010
;; fault PF error=5 cr2=high+0x24010 rip=here
here: ret

;; case user_pushes_flags_to_supervisor_stack
;; in rsp=high+0x24010
;; out rsp=high+0x24010
;; fault PF error=7 cr2=high+0x24008 rip=here
here: pushfq

;; case user_leaves_frame_in_supervisor_page
;; in rbp=high+0x24010
;; out rsp=0x30800 rbp=high+0x24010
;; fault PF error=5 cr2=high+0x24010 rip=here
here: leave

;; case user_jumps_to_supervisor_page
;; fault PF error=0x15 cr2=high+0xb000 rip=0xffffffff8000b000
mov rax, high + 0xb000
jmp rax

;; case user_calls_supervisor_page
;; out rsp=0x307f8
;; fault PF error=0x15 cr2=high+0xb000 rip=0xffffffff8000b000
mov rax, high + 0xb000
call rax

;; case user_returns_to_supervisor_page
;; out rsp=0x30800
;; fault PF error=0x15 cr2=high+0xb000 rip=0xffffffff8000b000
mov rax, high + 0xb000
push rax
ret

;; case user_copies_from_supervisor_page
;; in rsi=high+0x24000 rdi=0x20000 rcx=8
;; out rsi=high+0x24000 rdi=0x20000 rcx=8
;; fault PF error=5 cr2=high+0x24000 rip=here
here: rep movsb

;; case user_copies_to_supervisor_page
;; in rsi=0x20000 rdi=high+0x24000 rcx=8
;; out rsi=0x20000 rdi=high+0x24000 rcx=8
;; fault PF error=7 cr2=high+0x24000 rip=here
here: rep movsq

;; case user_copies_into_supervisor_page
; From a user page into the supervisor's behind it.
;; in rsi=0x20000 rdi=high+0x23ff0 rcx=0x20
;; skip emulated_kvm
;; mem 0x4118 = dq 0x23067
;; out rsi=0x20010 rdi=high+0x24000 rcx=0x10
;; fault PF error=7 cr2=high+0x24000 rip=here
here: rep movsb

;; case user_stores_string_to_supervisor_page
;; in rdi=high+0x24000 rcx=8
;; out rdi=high+0x24000 rcx=8
;; fault PF error=7 cr2=high+0x24000 rip=here
here: rep stosd

;; case user_loads_string_from_supervisor_page
;; in rsi=high+0x24000
;; out rsi=high+0x24000
;; fault PF error=5 cr2=high+0x24000 rip=here
here: lodsq

;; case user_compares_supervisor_page
;; in rsi=0x20000 rdi=high+0x24000 rcx=3
;; out rcx=3
;; fault PF error=5 cr2=high+0x24000 rip=here
here: repe cmpsb

;; case user_scans_supervisor_page
;; in rdi=high+0x24000 rcx=3
;; out rcx=3
;; fault PF error=5 cr2=high+0x24000 rip=here
here: repne scasb

;; case user_gathers_from_supervisor_page
;; fault PF error=5 cr2=high+0x24008 rip=here
mov rax, high + 0x24000
pcmpeqd xmm3, xmm3
pslldq xmm3, 12
pxor xmm2, xmm2
mov ecx, 8
pinsrd xmm2, ecx, 3
here: vpgatherdd xmm1, [rax + xmm2], xmm3

;; case user_gathers_nothing_from_supervisor_page
;; out rcx=1
mov rax, high + 0x24000
pxor xmm3, xmm3
pxor xmm2, xmm2
vpgatherdd xmm1, [rax + xmm2], xmm3
mov ecx, 1

;; case user_masked_load_from_supervisor_page
;; fault PF error=5 cr2=high+0x24000 rip=here
mov rax, high + 0x24000
pcmpeqd xmm3, xmm3
here: vpmaskmovd xmm1, xmm3, [rax]

;; case user_masked_load_of_nothing
;; out rcx=1
mov rax, high + 0x24000
pxor xmm3, xmm3
vpmaskmovd xmm1, xmm3, [rax]
mov ecx, 1

;; case user_masked_store_to_supervisor_page
;; fault PF error=7 cr2=high+0x24000 rip=here
mov rax, high + 0x24000
pcmpeqd xmm3, xmm3
here: vmaskmovps [rax], xmm3, xmm1

;; case user_masked_store_of_nothing
;; out rcx=1
mov rax, high + 0x24000
pxor xmm3, xmm3
vmaskmovps [rax], xmm3, xmm1
mov ecx, 1

;; case user_masked_store_reaches_supervisor_page
; The last eight bytes of a user page are stored, what lies behind is masked.
;; skip emulated_kvm
;; mem 0x4118 = dq 0x23067
;; expect 0x23ff8 = ff ff ff ff ff ff ff ff
mov rax, high + 0x23ff8
pcmpeqd xmm1, xmm1
pcmpeqd xmm3, xmm3
psrldq xmm3, 8
vmaskmovps [rax], xmm3, xmm1

;; case user_stores_masked_bytes_to_supervisor_page
; Some processors report the upper half first.
;; in rdi=high+0x24000
;; fault PF error=7 rip=here
pcmpeqd xmm3, xmm3
here: maskmovdqu xmm1, xmm3

;; case user_wide_store_to_supervisor_page
;; fault PF error=7 cr2=high+0x24000 rip=here
mov rax, high + 0x24000
here: vmovups [rax], ymm0

;; case user_store_across_into_supervisor_page
;; skip emulated_kvm
;; mem 0x4118 = dq 0x23067
;; expect 0x23ffc = 00 00 00 00
;; fault PF error=7 cr2=high+0x24000 rip=here
mov rax, high + 0x23ffc
here: mov [rax], rbx

;; case user_fxsave_to_supervisor_page
;; fault PF error=7 rip=here
mov rax, high + 0x24000
here: fxsave64 [rax]

;; case user_fxrstor_from_supervisor_page
;; fault PF error=5 rip=here
mov rax, high + 0x24000
here: fxrstor64 [rax]

;; case user_xsave_to_supervisor_page
;; in rax=7 rdx=0 rbx=high+0x24000
;; fault PF error=7 rip=here
here: xsave64 [rbx]

;; case user_xrstor_from_supervisor_page
;; in rax=7 rdx=0 rbx=high+0x24000
;; fault PF error=5 rip=here
here: xrstor64 [rbx]

;; case user_prefetches_supervisor_page
;; in rbx=high+0x24000
;; out rcx=1
prefetcht0 [rbx]
prefetchw [rbx]
mov ecx, 1

;; case user_flushes_supervisor_line
;; in rbx=high+0x24000
;; fault PF error=5 cr2=high+0x24000 rip=here
here: clflush [rbx]

;; case user_nop_does_not_touch_supervisor_page
;; in rbx=high+0x24000
;; out rcx=1
nop dword [rbx]
mov ecx, 1

;; case user_lea_of_supervisor_page
;; in rbx=high+0x24000
;; out rcx=high+0x24008
lea rcx, [rbx + 8]

;; case user_executes_data
;; fault PF error=0x15 cr2=0x20000 rip=0x20000
mov eax, 0x20000
jmp rax

;; case user_runs_into_no_execute_page
;; skip emulated_kvm
;; mem 0x4088 = dq 0x8000000000011007
;; mem 0x10fff = 90
;; fault PF error=0x15 cr2=0x11000 rip=0x11000
mov eax, 0x10fff
jmp rax

;; case user_instruction_reaches_no_execute_page
; Its opcode lies in one page and its immediate in the next.
;; skip emulated_kvm
;; mem 0x4088 = dq 0x8000000000011007
;; mem 0x10fff = b8
;; fault PF error=0x15 cr2=0x11000 rip=0x10fff
mov eax, 0x10fff
jmp rax

;; case user_non_canonical_read
;; in rbx=0x800000000000
;; fault GP error=0 rip=here
here: mov al, [rbx]

;; case user_non_canonical_below_the_upper_half
;; in rbx=0xffff7fffffffffff
;; fault GP error=0 rip=here
here: mov [rbx], al

;; case user_non_canonical_string
;; in rdi=0x800000000000 rcx=5
;; out rcx=5
;; fault GP error=0 rip=here
here: rep stosb

;; case user_non_canonical_push
;; in rsp=0x800000000008
;; out rsp=0x800000000008
;; fault SS error=0 rip=here
here: push rax

;; case user_non_canonical_stack_operand
;; in rbp=0x900000000000
;; fault SS error=0 rip=here
here: mov al, [rbp]

;; case user_non_canonical_jump
;; fault GP error=0 rip=here
mov rax, 0x800000000000
here: jmp rax

;; case user_non_canonical_call
;; out rsp=0x30800
;; fault GP error=0 rip=here
mov rax, 0x800000000000
here: call rax

;; case user_non_canonical_return
;; out rsp=0x307f8
;; fault GP error=0 rip=here
mov rax, 0x800000000000
push rax
here: ret

;; case user_non_canonical_return_that_releases
;; out rsp=0x307f8
;; fault GP error=0 rip=here
mov rax, 0x800000000000
push rax
here: ret 0x18

;; case user_non_canonical_jump_through_memory
;; mem 0x20010 = dq 0x7fff800000000000
;; out rsp=0x30800 rcx=0x1234
;; fault GP error=0 rip=here
mov ecx, 0x1234
mov eax, 0x20000
here: jmp [rax + 0x10]

;; case user_non_canonical_call_through_memory
;; mem 0x20010 = dq 0xffff000000000000
;; out rsp=0x30800 rcx=0x20000
;; fault GP error=0 rip=here
mov ecx, 0x20000
here: call [rcx + 0x10]

; A branch that goes to this and to that before it goes nowhere.
;; case user_non_canonical_after_one_target
;; out r8=2 rsp=0x30800
;; flags CF
;; fault GP error=0 rip=here
xor r8d, r8d
again: lea rax, [rel again]
inc r8d
cmp r8d, 2
jb go
mov rax, 0x800000000000
go: stc
here: jmp rax

;; case user_non_canonical_after_many_targets
;; out r8=6 rsp=0x30800
;; fault GP error=0 rip=here
xor r8d, r8d
again: lea rax, [rel stubs]
lea rax, [rax + r8 * 8]
inc r8d
cmp r8d, 6
jb here
mov rax, 0x800000000000
here: call rax
stubs:
%rep 6
pop rcx
jmp near again
nop
nop
%endrep

;; case user_last_page
;; fault PF error=4 cr2=0x7ffffffff000 rip=here
mov rax, 0x7ffffffff000
here: mov bl, [rax]

;; case user_first_byte
;; fault PF error=5 cr2=0 rip=here
xor eax, eax
here: mov bl, [rax]
