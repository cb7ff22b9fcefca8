; IRETQ of ring 0 in the upper half, again and again: to itself and to ring 3, usual and not.
; Frames, descriptors and selectors change between the rounds; what code sees is added up.

;; defaults
;; mode kernel64
;; high
;; skip emulated_kvm
;; mem 0xa004 = dq high+0xd000

; ---- inside the kernel

;; case high_iretq_inside_kernel
; Another stack each time, and status flags.
;; out r15=0x572c87228896a450 rsp=high+0x30800 cs=8 ss=0x10
%macro note 1
rol r15, 7
add r15, %1
%endmacro
%macro to_program 1 ; its frame; changes RAX
push 0x3b
push 0x30800
push 0x202
push 0x43
mov rax, %1 - high
push rax
%endmacro
%macro iretq_until 1
; A program and the handler, in turns; in the fiftieth EBX is 0.
set_gate 0x80, %1, 0xee
mov ebx, 50
to_program %%user
iretq
%%user: dec ebx
int 0x80
jmp %%user
%endmacro
xor r15d, r15d
mov ebx, 400
again: mov r9, rsp
mov rax, high + 0x21000
lea rcx, [rax + rbx * 8]
push 0x10
push rcx
mov eax, ebx
and eax, 0xcd5
or eax, 2
push rax
push 8
lea rax, [rel target]
push rax
iretq
target: note rsp
mov rsp, high + 0x30800
pushfq
pop rax
note rax
mov eax, ss
note rax
mov eax, cs
note rax
cld
dec ebx
jnz again

;; case high_iretq_inside_kernel_to_a_null_stack
;; out r15=200 ss=0
xor r15d, r15d
mov ebx, 100
again: mov rax, rsp
push 0
push rax
push 2
push 8
lea rax, [rel target]
push rax
iretq
target: mov eax, ss
note rax
xor r15d, r15d
sub rsp, 8
mov [rsp], rbx
pop rax
cmp rax, rbx
jne finished
dec ebx
jnz again
mov r15d, 200
finished: nop

;; case high_iretq_frame_across_pages
;; out r15=100 rsp=high+0x20fe8
xor r15d, r15d
mov ebx, 100
again: mov rsp, high + 0x21010
push 0x10
mov rax, high + 0x20fe8
push rax
push 2
push 8
lea rax, [rel target]
push rax
iretq
target: inc r15
dec ebx
jnz again

;; case high_iretq_frame_across_a_hole
;; fault PF error=0 cr2=high+0x22000 rip=here
mov ebx, 100
mov rax, high + 0x21f00
again: lea rcx, [rel next]
mov [rax], rcx
mov qword [rax + 8], 8
mov qword [rax + 16], 2
mov [rax + 24], rax
mov qword [rax + 32], 0x10
dec ebx
jnz last
mov rax, high + 0x21ff0
mov [rax], rcx
mov qword [rax + 8], 8
last: mov rsp, rax
here: iretq
next: jmp again

;; case high_iretq_to_the_lower_half
; Ring 0 still, alternately here and there.
;; out r15=200 rsp=high+0x30800
xor r15d, r15d
mov rbx, 200
again: mov rax, rsp
push 0x10
push rax
push 2
push 8
lea rax, [rel target]
mov rcx, high
mov edx, ebx
and edx, 1
neg rdx
and rcx, rdx
sub rax, rcx
push rax
iretq
target: inc r15
mov rax, back
jmp rax
back: dec ebx
jnz again

;; case high_iretq_not_canonical_after_others
;; fault GP error=0 rip=here
mov ebx, 100
again: mov rax, rsp
push 0x10
push rax
push 2
push 8
lea rax, [rel next]
dec ebx
jnz last
btc rax, 63
last: push rax
here: iretq
next: jmp again

;; case high_iretq_with_nested_task_flag_after_others
;; fault GP error=0 rip=here
mov ebx, 100
again: mov rax, rsp
push 0x10
push rax
mov ecx, 2
dec ebx
jnz plain
mov ecx, 0x4002
plain: push rcx
push 8
lea rax, [rel next]
push rax
here: iretq
next: jmp again

;; case high_iretq_single_steps_after_others
;; fault DB rip=again
mov ebx, 100
again: mov rax, rsp
push 0x10
push rax
mov ecx, 2
dec ebx
jnz plain
mov ecx, 0x102
plain: push rcx
push 8
lea rax, [rel next]
push rax
iretq
next: jmp again

;; case high_iretq_ends_at_a_breakpoint
; RF of the frame passes over the breakpoint once; without it the fault comes.
;; fault DB rip=next
mov rax, next
mov dr0, rax
mov eax, 0x402
mov dr7, rax
mov ebx, 3
again: mov rax, rsp
push 0x10
push rax
mov ecx, 0x10002
dec ebx
jnz over
mov ecx, 2
over: push rcx
push 8
lea rax, [rel next]
push rax
iretq
next: jmp again

;; case high_iretq_and_interrupts
; One waits each time: it comes at the instruction returned to when the frame sets IF, else later.
;; skip kvm
;; out r15=100 r14=100 r13=0
apic_on
set_gate 0x50, handler, 0x8e
xor r13d, r13d
xor r14d, r14d
xor r15d, r15d
mov ebx, 200
again: set_msr 0x83f, 0x50
mov rax, rsp
push 0x10
push rax
mov eax, ebx
and eax, 1
shl eax, 9
or eax, 2
push rax
push 8
lea rax, [rel target]
push rax
mov r12d, 1
iretq
target: mov r12d, 2
sti
nop
cli
dec ebx
jnz again
jmp finished
handler: lea rax, [rel target]
cmp [rsp], rax
jne later
cmp r12d, 1
jne wrong
inc r15
jmp end
later: cmp r12d, 2
jne wrong
inc r14
jmp end
wrong: inc r13
end: set_msr 0x80b, 0
iretq
finished: nop

;; case high_iretq_ends_blocking_of_nmis
; The handler sends another one to itself, which comes when it has returned.
;; skip kvm
;; out r15=50
apic_on
set_gate 2, handler, 0x8e
xor r15d, r15d
set_msr 0x830, 0x4400
wait: cmp r15d, 50
jb wait
jmp finished
handler: inc r15d
mov r14, [rsp + 24]
cmp r14, rsp
jb on
cmp r15d, 50
jae on
mov r13, rsp
set_msr 0x830, 0x4400
mov eax, r15d
on: nop
iretq
finished: nop

; ---- to programs

;; case high_iretq_to_programs_leaves_all_as_it_should
; Registers, flags and selectors of both sides are added up; RFLAGS that is returned with changes
; all the time, to what translated code runs with and to what it does not.
;; out r15=0x1576932dd5cce706 cs=0x43
set_gate 0x80, handler, 0xee
xor eax, eax
mov gs, eax
set_msr 0xc0000101, high + 0x20000
set_msr 0xc0000102, 0x20008
mov qword [high + 0x20000], 0x1111
mov qword [high + 0x20008], 0x2222
mov ebx, 300
xor r15d, r15d
mov r10d, 0x123
to_program user
swapgs
iretq
handler: swapgs
note r10
inc r10
note [rsp]
note [rsp + 8]
note [rsp + 16]
note [rsp + 24]
note [rsp + 32]
mov eax, cs
note rax
mov eax, ss
note rax
pushfq
pop rax
note rax
note [gs:0]
mov edx, 0x202
mov eax, ebx
and eax, 15
cmp eax, 1
je .masked
cmp eax, 3
je .aligned
cmp eax, 5
je .privileged
cmp eax, 6
je .identifying
cmp eax, 7
je .resuming
cmp eax, 9
je .pending
jmp short .status
.masked: mov edx, 0x2
jmp short .status
.aligned: mov edx, 0x40202
jmp short .status
.privileged: mov edx, 0x3202
jmp short .status
.identifying: mov edx, 0x200202
jmp short .status
.resuming: mov edx, 0x10202
jmp short .status
.pending: mov edx, 0x180202
.status: mov eax, ebx
and eax, 0xcd5
or edx, eax
mov [rsp + 16], rdx
lea rax, [rbx * 8 + 0x20800]
mov [rsp + 24], rax
swapgs
iretq
user: note rsp
note r10
mov rsp, 0x30800
pushfq
pop rax
note rax
mov eax, cs
note rax
mov eax, ss
note rax
note [gs:0]
cld
sub rsp, rbx
and rsp, -8
xor r8d, r8d
dec ebx
jz finished
bt ebx, 1
int 0x80
jmp user
finished: nop

;; case high_iretq_drops_inner_segments
; DS, ES, FS and GS of ring 0 become null for a program, others stay.
;; out r15=0xf369696969696968
set_gate 0x80, handler, 0xee
mov ebx, 160
xor r15d, r15d
to_program user
iretq
handler: mov eax, 0x10
mov ecx, 0x3b
mov edx, ecx
test ebx, 1
cmovz edx, eax
mov ds, edx
mov edx, ecx
test ebx, 2
cmovz edx, eax
mov es, edx
xor edx, edx
test ebx, 0x1c
jnz fs_done
mov edx, eax
fs_done: mov fs, edx
xor edx, edx
test ebx, 0x38
jnz gs_done
mov edx, eax
gs_done: mov gs, edx
mov edx, ds
note rdx
mov edx, es
note rdx
iretq
user: mov eax, ds
note rax
mov eax, es
note rax
mov eax, fs
note rax
mov eax, gs
note rax
int 0x80
dec ebx
jnz user

;; case high_iretq_marks_descriptors_accessed
; They are made untouched before every other return.
;; out r15=0x200
;; expect 0x8045 = fb
;; expect 0x803d = f3
set_gate 0x80, handler, 0xee
mov ebx, 100
xor r15d, r15d
to_program user
iretq
handler: test byte [high + 0x8045], 1
setz al
test byte [high + 0x803d], 1
setz ah
or al, ah
movzx eax, al
shl eax, 12
add r15d, eax
test ebx, 1
jz .return
and byte [high + 0x8045], 0xfe
test ebx, 2
jz .return
and byte [high + 0x803d], 0xfe
.return: iretq
user: int 0x80
dec ebx
jnz user
add r15d, 0x200

;; case high_iretq_in_a_table_that_moves
; Programs' selectors mean 64-bit code in both tables; the kernel's stack only in one.
;; mem 0x21100 = dq 0 0x00af9b000000ffff 0x00cf93000000ffff
;; mem 0x21138 = dq 0x00cff3000000ffff 0x00affb000000ffff 0x20008b00a0001fff 0
;; mem 0x21180 = 47 01 00 11 02 80 ff ff ff ff
;; mem 0x21190 = ff 00 00 80 00 80 ff ff ff ff
;; out r15=100 cs=0x43
set_gate 0x80, handler, 0xee
mov byte [high + 0x21180], 0x47
mov byte [high + 0x21181], 0
mov rax, high + 0x21100
mov [high + 0x21182], rax
mov rax, high + 0x8000
mov [high + 0x21192], rax
mov ebx, 100
xor r15d, r15d
to_program user
iretq
handler: inc r15d
test ebx, 1
jz .other
lgdt [high + 0x21180]
iretq
.other: lgdt [high + 0x21190]
iretq
user: int 0x80
dec ebx
jnz user

;; case high_iretq_by_the_local_table
;; mem 0xf000 = dq 0x00affb000000ffff 0x00cff3000000ffff
;; out r15=100
set_gate 0x80, handler, 0xee
mov eax, 0x78
lldt ax
mov ebx, 100
xor r15d, r15d
to_program user
iretq
handler: mov r8d, 0x43
mov r9d, 0x3b
test ebx, 1
jz .return
mov r8d, 7
mov r9d, 0xf
.return: mov [rsp + 8], r8
mov [rsp + 32], r9
iretq
user: int 0x80
mov eax, cs
mov ecx, ss
cmp eax, r8d
jne .wrong
cmp ecx, r9d
jne .wrong
inc r15d
.wrong: dec ebx
jnz user

;; case high_iretq_code_goes_away
;; fault NP error=0x40 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov byte [high + 0x8045], 0x7b
here: iretq

;; case high_iretq_stack_goes_away
;; fault SS error=0x38 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov byte [high + 0x803d], 0x73
here: iretq

;; case high_iretq_stack_becomes_read_only
;; fault GP error=0x38 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov byte [high + 0x803d], 0xf1
here: iretq

;; case high_iretq_code_becomes_data
;; fault GP error=0x40 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov byte [high + 0x8045], 0xf3
here: iretq

;; case high_iretq_code_becomes_the_kernels
;; fault GP error=0x40 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov byte [high + 0x8045], 0x9b
here: iretq

;; case high_iretq_code_of_two_sizes
;; fault GP error=0x40 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
or byte [high + 0x8046], 0x40
here: iretq

;; case high_iretq_beyond_the_table
;; mem 0x21100 = 3f 00
;; fault GP error=0x40 rip=here
mov rax, high + 0x8000
mov [high + 0x21102], rax
iretq_until handler
handler: test ebx, ebx
jnz here
lgdt [high + 0x21100]
here: iretq

;; case high_iretq_null_code
;; fault GP error=0 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov qword [rsp + 8], 3
here: iretq

;; case high_iretq_null_stack_for_a_program
;; fault GP error=0 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov qword [rsp + 32], 3
here: iretq

;; case high_iretq_stack_of_another_ring
;; fault GP error=0x38 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
mov qword [rsp + 32], 0x38
here: iretq

;; case high_iretq_to_conforming_code
; Ring 3 then runs a segment of ring 0.
;; out cs=0x8b
;; mem 0x8088 = dq 0x00af9f000000ffff
iretq_until handler
handler: test ebx, ebx
jnz here
mov qword [rsp + 8], 0x8b
mov rax, finished - high
mov [rsp], rax
here: iretq
finished: nop

;; case high_iretq_to_32_bit_code
;; out cs=0x33 rax=0xffffffff
iretq_until handler
handler: test ebx, ebx
jnz here
mov qword [rsp + 8], 0x33
mov rax, finished - high
mov [rsp], rax
mov rax, -1
here: iretq
bits 32
finished: db 0x40
dec eax

;; case high_iretq_program_in_the_upper_half
;; out cs=0x43 ss=0x3b
iretq_until handler
handler: test ebx, ebx
jnz here
mov rax, finished
mov [rsp], rax
here: iretq
finished: nop

;; case high_iretq_program_nowhere
;; fault GP error=0 rip=here
iretq_until handler
handler: test ebx, ebx
jnz here
bts qword [rsp], 50
here: iretq

;; case high_iretq_steps_a_program
;; fault DB
iretq_until handler
handler: test ebx, ebx
jnz here
mov rax, finished - 1 - high
mov [rsp], rax
bts qword [rsp + 16], 8
here: iretq
nop
finished: nop

;; case high_iretq_forbids_the_time
;; fault GP error=0
iretq_until handler
handler: test ebx, ebx
jnz here
mov rax, cr4
or eax, 4
mov cr4, rax
mov rax, late - high
mov [rsp], rax
here: iretq
late: rdtsc

;; case high_iretq_checks_alignment
;; in cr0=0x80050033
;; fault AC error=0
iretq_until handler
handler: test ebx, ebx
jnz here
bts qword [rsp + 16], 18
mov rax, late - high
mov [rsp], rax
here: iretq
late: mov eax, [0x20001]

;; case high_iretq_program_is_interrupted_at_once
; An interrupt waits when the program is returned to: before its next instruction.
;; skip kvm
;; out r15=100 r14=0
apic_on
set_gate 0x80, handler, 0xee
set_gate 0x50, interrupt, 0x8e
xor r15d, r15d
xor r14d, r14d
mov ebx, 100
to_program user
iretq
handler: mov esi, ebx
set_msr 0x83f, 0x50
iretq
interrupt: mov rax, behind - high
cmp rax, [rsp]
setne al
movzx eax, al
add r14d, eax
inc r15
set_msr 0x80b, 0
iretq
user: int 0x80
behind: dec ebx
jnz user

;; case high_iretq_after_page_faults
; Each round a page is taken away, and given back by the handler of the page fault.
;; mem 0xa004 = dq high+0xd000
;; out r15=100 r14=5050
set_gate 0x80, handler, 0xee
set_gate 14, page_fault, 0x8e
xor r15d, r15d
xor r14d, r14d
mov ebx, 100
to_program user
iretq
handler: mov [high + 0x25000], rbx
btr qword [high + 0x4128], 0
mov eax, 0x25000
invlpg [rax]
iretq
page_fault: add rsp, 8
inc r15
bts qword [high + 0x4128], 0
iretq
user: int 0x80
mov rax, [0x25000]
add r14, rax
dec ebx
jnz user

;; case high_iretq_between_address_spaces
; The next page table each time, in which one page is another.
;; mem 0x26000 = dq 0x2007
;; mem 0x26ff8 = dq 0x2007
;; out r15=1000 cs=0x43
set_gate 0x80, handler, 0xee
mov r12d, 0x26000
mov r13d, 0x1000
mov ebx, 1000
xor r15d, r15d
to_program user
iretq
handler: xchg r12, r13
mov cr3, r13
iretq
user: inc r15
int 0x80
dec ebx
jnz user

;; case high_iretq_bases_of_segments
; FS.base and GS.base as the kernel left them, by MSRs and by SWAPGS.
;; out r15=5050 r14=5050
set_gate 0x80, handler, 0xee
mov ebx, 100
xor r15d, r15d
xor r14d, r14d
mov rdi, 0x20000
to_program user
iretq
handler: mov [high + 0x20000], rbx
mov [high + 0x20100 + rbx], rbx
lea rsi, [rbx + 0x20100]
set_msr 0xc0000100, rsi
set_msr 0xc0000102, rdi
swapgs
iretq
user: int 0x80
add r15, [fs:0]
add r14, [gs:0]
dec ebx
jnz user
