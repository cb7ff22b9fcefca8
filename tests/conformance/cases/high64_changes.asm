; Ring 0 in the upper half: code and translations that change, interrupts, other rings.

;; defaults
;; mode kernel64
;; high

; ---- code that changes

;; case high_rewrites_next_instruction
;; out rax=0x22
mov byte [target + 1], 0x22
target: mov al, 0x11
movzx eax, al

;; case high_rewrites_itself_in_a_loop
;; out rbx=50005000
xor ebx, ebx
mov ecx, 10000
again: mov [target + 1], ecx
target: mov eax, 0
add ebx, eax
dec ecx
jnz again

;; case high_rewrites_the_branch_behind
; The jump is taken every other time.
;; out rbx=500
xor ebx, ebx
mov ecx, 1000
mov al, 0x01
again: xor al, 0x03
mov [target + 1], al
target: jmp short skipped
skipped: nop
nop
inc ebx
dec ecx
jnz again
shr ebx, 1

;; case high_rewrites_another_page
;; mem 0x11000 = b8 00 00 00 00 c3
;; out rbx=4501500
xor ebx, ebx
mov ecx, 3000
again: mov [high + 0x11001], ecx
call high + 0x11000
add ebx, eax
dec ecx
jnz again

;; case high_rewrites_by_another_address
;; mem 0x11000 = b8 00 00 00 00 c3
;; mem 0x4128 = dq 0x11003
;; out rbx=4501500
xor ebx, ebx
mov ecx, 3000
again: mov [high + 0x25001], ecx
call high + 0x11000
add ebx, eax
dec ecx
jnz again

;; case high_rewrites_by_low_address
;; mem 0x11000 = b8 00 00 00 00 c3
;; out rbx=20100
xor ebx, ebx
mov ecx, 200
again: mov [0x11001], ecx
call high + 0x11000
add ebx, eax
dec ecx
jnz again

;; case high_rewrites_across_pages
; An instruction that lies in two pages; its second part is rewritten.
;; mem 0x10ffe = b8 01 00 00 00 c3
;; out rbx=50100
xor ebx, ebx
mov ecx, 100
again: mov [high + 0x11000], cl
call high + 0x10ffe
add ebx, eax
dec ecx
jnz again
shr ebx, 8
imul ebx, ebx, 10
sub ebx, 400

;; case high_copies_code_over_itself
;; mem 0x26000 = b8 05 00 00 00 c3
;; mem 0x11000 = b8 04 00 00 00 c3
;; out rbx=5 rax=4
call high + 0x11000
mov r8, rax
mov rsi, high + 0x26000
mov rdi, high + 0x11000
mov ecx, 6
rep movsb
call high + 0x11000
mov rbx, rax
mov rax, r8

;; case high_string_store_over_code_that_follows
; The REP fills the instruction behind it with NOPs.
;; in rax=0x90 rcx=5
;; out rbx=1
mov ebx, 1
mov rdi, target
rep stosb
target: mov ebx, 2

; ---- interrupts

;; case high_interrupt_after_sti_shadow
;; skip kvm
;; fault 0x50 rip=after
apic_on
set_msr 0x83f, 0x50
sti
nop
after: nop
nop

;; case high_sti_cli_lets_nothing_in
;; skip kvm
;; out rbx=7
;; flags !IF
apic_on
set_msr 0x83f, 0x50
mov ecx, 100
again: sti
cli
dec ecx
jnz again
mov ebx, 7

;; case high_sti_hlt
;; skip kvm
;; fault 0x50 rip=after
apic_on
set_msr 0x83f, 0x50
sti
hlt
after: nop

;; case high_sti_at_a_jump
;; skip kvm
;; fault 0x50 rip=after
apic_on
set_msr 0x83f, 0x50
sti
jmp short after
nop
after: nop

;; case high_interrupt_after_popf
;; skip kvm
;; fault 0x50 rip=after
apic_on
set_msr 0x83f, 0x50
push 0x202
popfq
after: nop
nop

;; case high_interrupt_after_iretq
;; skip kvm
;; fault 0x50 rip=after
apic_on
set_msr 0x83f, 0x50
push 0x10
push high + 0x30800
push 0x202
push 0x08
lea rax, [rel after]
push rax
iretq
nop
after: nop

;; case high_interrupt_after_self_ipi
;; skip kvm
;; in rflags=0x202
;; fault 0x50 rip=after
apic_on
set_msr 0x83f, 0x50
after: nop

;; case high_timer_in_a_loop
;; skip kvm,interpret
;; in rflags=0x202
;; fault 0x50 rip=here
apic_on
set_msr 0x83e, 0xb
set_msr 0x832, 0x50
set_msr 0x838, 200000
here: jmp short here

;; case high_timer_in_hlt
;; skip kvm,interpret
;; fault 0x50 rip=after
apic_on
set_msr 0x83e, 0xb
set_msr 0x832, 0x50
set_msr 0x838, 200000
sti
hlt
after: nop

;; case high_timer_finds_exact_state
; 200 interrupts in a loop; each handler checks what the interrupted code has done so far.
;; skip kvm,interpret
;; out r15=0
apic_on
set_gate 0x50, handler, 0x8e
set_msr 0x83e, 0xb
set_msr 0x832, 0x50
xor ebx, ebx
xor esi, esi
xor r14d, r14d
xor r15d, r15d
mov rdi, high + 0x20000
mov qword [rdi], 0
set_msr 0x838, 20000
sti
again: inc rbx
one: inc qword [rdi]
two: push rbx
three: pop rdx
four: inc rsi
five: cmp r14, 200
jb again
cli
jmp finished
handler: mov r8, [rsp]
mov r9, [rsp + 24]
inc r14
lea r10, [rel one]
xor r11d, r11d
cmp r8, r10
setae r11b
mov r12, rbx
sub r12, rsi
lea r10, [rel one]
cmp r8, r10
jb behind
lea r10, [rel five]
cmp r8, r10
jae behind
cmp r12, 1
jne wrong
lea r10, [rel one]
mov r12, rbx
sub r12, [rdi]
cmp r8, r10
je expect_one
test r12, r12
jnz wrong
jmp stack
expect_one: cmp r12, 1
jne wrong
stack: lea r10, [rel three]
mov r11, high + 0x30800
cmp r8, r10
jne even
sub r11, 8
even: cmp r9, r11
jne wrong
jmp right
behind: test r12, r12
jz right
wrong: inc r15
right: set_msr 0x838, 20000
set_msr 0x80b, 0
iretq
finished: nop

; ---- debugging

;; case high_single_step
;; in rflags=0x102
;; fault DB rip=after
nop
after: nop

;; case high_single_step_a_loop
; Fifty single steps, each with its exception.
;; out r15=50
set_gate 1, handler, 0x8e
xor r15d, r15d
mov ecx, 1000
push 0x102
popfq
again: dec ecx
jnz again
jmp finished
handler: inc r15
cmp r15, 50
jb back
btr qword [rsp + 16], 8
back: iretq
finished: nop

;; case high_instruction_breakpoint
;; fault DB rip=here
mov rax, here
mov dr0, rax
mov eax, 0x402
mov dr7, rax
mov ecx, 100
again: dec ecx
jnz again
here: nop

;; case high_data_breakpoint
;; skip emulated_kvm
;; fault DB rip=after
mov rax, high + 0x20008
mov dr0, rax
mov eax, 0xd0402
mov dr7, rax
mov ecx, 100
again: dec ecx
mov [high + 0x20000], ecx
jnz again
mov [high + 0x20008], ecx
after: nop

; ---- between the rings

;; case high_system_calls
;; skip emulated_kvm
;; in star=0x33000800000000 fmask=0x200 rsp=high+0x30800
;; out r15=1000 cs=0x43 rsp=high+0x30800
set_msr 0xc0000082, handler
mov rcx, user - high
mov r11d, 0x202
mov ebx, 1000
xor r15d, r15d
o64 sysret
handler: inc r15
o64 sysret
user: syscall
dec ebx
jnz user

;; case high_system_calls_leave_all_as_they_should
;; skip emulated_kvm
; Registers, flags and selectors of both sides are added up; RFLAGS that a system call returns to
; changes all the time, to what translated code runs with and to what it does not.
;; in star=0x33000800000000 fmask=0x40600 rsp=high+0x30800
;; out r15=0xabfda2c701786080 cs=0x43
set_msr 0xc0000082, handler
set_msr 0xc0000101, high + 0x20000
set_msr 0xc0000102, 0x20008
mov qword [high + 0x20000], 0x1111
mov qword [high + 0x20008], 0x2222
%macro add_up 1
rol r15, 7
add r15, %1
%endmacro
mov rcx, user - high
mov r11d, 0x202
mov ebx, 300
xor r15d, r15d
mov r10d, 0x123
swapgs
o64 sysret
handler: swapgs
add_up r10
inc r10
mov r8, rsp
mov rsp, high + 0x30400
add_up rcx
add_up r11
add_up r8
mov eax, cs
add_up rax
mov eax, ss
add_up rax
pushfq
pop rax
add_up rax
add_up [gs:0]
mov r11d, 0x202
mov eax, ebx
and eax, 7
cmp eax, 1
je .masked
cmp eax, 3
je .aligned
cmp eax, 5
je .privileged
cmp eax, 6
je .nested
jmp short .status
.masked: mov r11d, 0x2
jmp short .status
.aligned: mov r11d, 0x40202
jmp short .status
.privileged: mov r11d, 0x3202
jmp short .status
.nested: mov r11d, 0x4202
.status: mov eax, ebx
and eax, 0xd4
or r11d, eax
mov eax, ebx
and eax, 8
shl eax, 7
or r11d, eax
mov rsp, r8
swapgs
o64 sysret
user: add_up rsp
add_up r10
mov rsp, 0x30800
pushfq
pop rax
add_up rax
add_up [gs:0]
cld
sub rsp, rbx
xor r8d, r8d
dec ebx
jz finished
bt ebx, 1
syscall
jmp user
finished: nop

;; case high_software_interrupts
;; skip emulated_kvm
;; mem 0xa004 = dq high+0xd000
;; out r15=1000 cs=0x43 rsp=0x30800
set_gate 0x80, handler, 0xee
push 0x3b
push 0x30800
push 0x202
push 0x43
mov rax, user - high
push rax
mov ebx, 1000
xor r15d, r15d
iretq
handler: inc r15
iretq
user: int 0x80
dec ebx
jnz user

;; case high_vector_state_between_rings
;; skip emulated_kvm
; The user's registers go through system calls that use the same ones.
;; in star=0x33000800000000 fmask=0x200
;; out xmm1l=500500 xmm5l=1000 rbx=0
;; expect 0x20000 = dq 1000
set_msr 0xc0000082, handler
mov rcx, user - high
mov r11d, 0x202
mov ebx, 1000
pxor xmm1, xmm1
pxor xmm5, xmm5
fninit
fldz
o64 sysret
handler: movq xmm0, rbx
mov r8d, 1
movq xmm2, r8
paddq xmm5, xmm2
fld1
faddp
o64 sysret
user: syscall
paddq xmm1, xmm0
dec ebx
jnz user
fistp qword [0x20000]

;; case high_wide_vectors_between_rings
;; skip emulated_kvm
;; in star=0x33000800000000 fmask=0x200
;; expect 0x20000 = dq 500 500 500 500
set_msr 0xc0000082, handler
mov rcx, user - high
mov r11d, 0x202
mov ebx, 500
o64 sysret
handler: dec ebx
o64 sysret
user: mov eax, 1
movq xmm0, rax
vpbroadcastq ymm0, xmm0
vpxor ymm15, ymm15, ymm15
next: vpaddq ymm15, ymm15, ymm0
syscall
test ebx, ebx
jnz next
vmovdqu [0x20000], ymm15

;; case high_vector_state_between_address_spaces
;; skip emulated_kvm
; As above; each system call goes to the other page table.
;; in star=0x33000800000000 fmask=0x200
;; mem 0x26000 = dq 0x2007
;; mem 0x26ff8 = dq 0x2007
;; out xmm1l=500500 xmm5l=1000 rbx=0
;; expect 0x20000 = dq 1000
set_msr 0xc0000082, handler
mov rcx, user - high
mov r11d, 0x202
mov ebx, 1000
mov r14d, 0x26000
mov r15d, 0x1000
pxor xmm1, xmm1
pxor xmm5, xmm5
fninit
fldz
o64 sysret
handler: xchg r14, r15
mov cr3, r15
test ebx, 3
jnz no_vectors
movq xmm0, rbx
movq rax, xmm0
no_vectors: o64 sysret
user: syscall
movq xmm0, rbx
paddq xmm1, xmm0
mov eax, 1
movq xmm2, rax
paddq xmm5, xmm2
fld1
faddp
dec ebx
jnz user
fistp qword [0x20000]

;; case high_vector_unit_taken_away
;; skip emulated_kvm
; CR0.TS is set and cleared between system calls: #NM comes each time it is set.
;; in star=0x33000800000000 fmask=0x200
;; mem 0xa004 = dq high+0xd000
;; out r15=100 xmm1l=100
set_msr 0xc0000082, handler
set_gate 7, not_available, 0x8e
mov rcx, user - high
mov r11d, 0x202
mov ebx, 100
xor r15d, r15d
pxor xmm1, xmm1
mov eax, 1
movq xmm0, rax
o64 sysret
handler: mov rax, cr0
or eax, 8
mov cr0, rax
o64 sysret
not_available: clts
inc r15
iretq
user: syscall
call function
dec ebx
jnz user
jmp short finished
function: paddq xmm1, xmm0
ret
finished: nop

;; case high_user_sees_its_interrupt_flag
;; skip emulated_kvm
; Once with interrupts disabled, once enabled.
;; in star=0x33000800000000 fmask=0x200
;; out r14=0x202 r15=2
set_msr 0xc0000082, handler
mov rcx, user - high
mov r11d, 2
o64 sysret
handler: mov r11d, 0x202
o64 sysret
user: mov rsp, 0x30800
call show
mov r15, rax
syscall
call show
mov r14, rax
jmp short finished
show: xor eax, eax
inc eax
pushfq
pop rax
ret
finished: nop

;; case high_timer_in_user_code
;; skip kvm,interpret
;; in star=0x33000800000000
;; fault 0x50 rip=0x100a0
apic_on
set_msr 0x83e, 0xb
set_msr 0x832, 0x50
mov rcx, 0x100a0
mov r11d, 0x202
mov r8, rcx
set_msr 0x838, 200000
mov rcx, r8
mov r11d, 0x202
o64 sysret
times 0xa0 - ($ - $$) nop
user: jmp short user

;; case high_user_code_changes
;; skip emulated_kvm
; The user's page is rewritten between system calls.
;; in star=0x33000800000000 fmask=0x200
;; mem 0x11000 = b8 00 00 00 00 c3
;; out r15=5050
set_msr 0xc0000082, handler
mov rcx, user - high
mov r11d, 0x202
mov ebx, 100
xor r15d, r15d
o64 sysret
handler: mov [high + 0x11001], ebx
o64 sysret
user: mov rsp, 0x30800
next: syscall
call 0x11000 + high - high
add r15, rax
dec ebx
jnz next

;; case high_user_page_taken_away
;; skip emulated_kvm
;; in star=0x33000800000000 fmask=0x200
;; fault PF error=4 cr2=0x25000
set_msr 0xc0000082, handler
mov rcx, user - high
mov r11d, 0x202
mov qword [high + 0x4128], 0x26007
o64 sysret
handler: mov qword [high + 0x4128], 0
invlpg [0x25000]
o64 sysret
user: mov al, [0x25000]
mov [0x25000], al
syscall
here: mov al, [0x25000]

;; case high_rewrites_behind_an_instruction_across_pages
; The second page has its first code by an instruction that begins in the page before.
;; mem 0x10ffe = 05 01 00 00 00 83 c0 02 c3
;; out rbx=5150
xor ebx, ebx
mov ecx, 100
again: mov [high + 0x11005], cl
xor eax, eax
call high + 0x10ffe
add ebx, eax
dec ecx
jnz again

; ---- POPF

;; case high_popf_sets_all_that_it_may
; Each of the bits, alone and without it: what PUSHF then shows. RAX and RCX stay as they are, and RSP is
; back.
;; out rbx=0 r8=0 rax=0x1122334455667788
mov rax, 0x1122334455667788
mov r12, rsp
xor r8d, r8d
mov ebx, 1000
again: mov edx, ebx
and edx, 0x3f
bt qword [taken], rdx
setc r9b
mov r10d, 2
jnc short .without
bts r10, rdx
.without: mov rcx, 0x8877665544332211
push r10
popfq
pushfq
pop r11
push 2
popfq
xor r11, r10
or r8, r11
cmp rsp, r12
je short .level
bts r8, 63
.level: mov r11, 0x8877665544332211
cmp rcx, r11
je short .kept
bts r8, 62
.kept: dec ebx
jnz again
jmp short finished
align 8
taken: dq 0x247ed5
finished: nop

;; case high_popf_leaves_the_rest
; VM, VIF and VIP stay clear, and RF is not shown. Read back many times.
;; out r8=0 rbx=0
xor r8d, r8d
mov ebx, 200
again: push 0x1b0002
popfq
pushfq
pop rax
xor rax, 2
or r8, rax
dec ebx
jnz again

;; case high_popf_of_memory_that_is_not_there
;; fault PF error=0 cr2=high+0x25000 rip=here
mov qword [high + 0x4128], 0
invlpg [high + 0x25000]
mov rsp, high + 0x25000
mov ecx, 77
here: popfq
