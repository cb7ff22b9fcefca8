; Ring 0 in the upper half.

;; defaults
;; mode kernel64
;; high

; ---- addressing

;; case high_mov_twice_base
;; in rbp=high+0x216f0
;; fault PF error=2 cr2=0xffffffff00042dda rip=here
here: mov [rbp + rbp - 6], eax

;; case high_mov_unmapped
;; in rbp=0xffffffff00042dda
;; fault PF error=2 cr2=0xffffffff00042dda rip=here
here: mov [rbp], eax

;; case high_absolute
;; mem 0x20000 = dq 0x1122334455667788
;; out rbx=0x1122334455667788
;; expect 0x20008 = dq 0x1122334455667788
mov rbx, [high + 0x20000]
mov [high + 0x20008], rbx

;; case high_moffs
;; mem 0x20000 = dq 0x1122334455667788
;; out rax=0x1122334455667788
;; expect 0x20010 = 88 77 66 55
db 0x48, 0xa1
dq high + 0x20000
db 0xa3
dq high + 0x20010

;; case high_relative
;; mem 0x20000 = dq 77
;; out rbx=77
mov rbx, [rel high + 0x20000]

;; case high_scaled_index
;; in rdi=high+0x20000 rcx=3
;; mem 0x2001c = dd 0x12345678
;; out rbx=0x12345678
mov ebx, [rdi + rcx * 8 + 4]

;; case high_index_wraps
;; in rdi=0x20000 rcx=high
;; mem 0x20004 = 99
;; out rbx=0x99
movzx ebx, byte [rdi + rcx + 4]

;; case high_by_gs
;; in gs.base=high+0x20000 rcx=8
;; mem 0x20008 = dq 5
;; mem 0x20010 = dq 6
;; out rax=5 rbx=6
;; expect 0x20018 = dq 6
mov rax, [gs:8]
mov rbx, [gs:rcx + 8]
mov [gs:rcx * 2 + 8], rbx

;; case high_by_gs_with_user_base
;; in gs.base=0x20000
;; mem 0x20008 = dq 5
;; out rax=5
mov rax, [gs:8]

;; case high_by_fs
;; in fs.base=high+0x20000
;; mem 0x20008 = dq 5
;; out rax=5
mov rax, [fs:8]

;; case high_low_address
;; mem 0x20008 = dq 5
;; out rax=5
;; expect 0x20010 = dq 5
mov rax, [0x20008]
mov ebx, 0x20000
mov [rbx + 0x10], rax

;; case high_null_pointer
;; mem 0x4000 = dq 0
;; fault PF error=0 cr2=8 rip=here
xor eax, eax
here: mov rbx, [rax + 8]

;; case high_below_two_megabytes
;; mem 0x4ff8 = dq 0
;; fault PF error=2 cr2=0x1ff000 rip=here
mov eax, 0x1ff000
here: mov [rax], bl

;; case high_other_low_addresses
;; fault PF error=0 cr2=0x7fffffffe000 rip=here
mov rax, 0x7fffffffe000
here: mov bl, [rax]

;; case high_non_canonical
;; fault GP error=0 rip=here
mov rax, 0x800000000000
here: mov bl, [rax]

;; case high_upper_half_not_present
;; fault PF error=2 cr2=0xffff888000000000 rip=here
mov rax, 0xffff888000000000
here: mov [rax], rbx

;; case high_hole
;; fault PF error=0 cr2=high+0x22ff8 rip=here
here: mov rbx, [high + 0x22ff8]

;; case high_write_across_into_hole
;; skip emulated_kvm
;; expect 0x21ffc = 00 00 00 00
;; fault PF error=2 cr2=high+0x22000 rip=here
here: mov [high + 0x21ffc], rbx

;; case high_modify_across_pages
;; mem 0x20ffc = dq 0x00000001ffffffff
;; expect 0x20ffc = dq 0x0000000200000000
inc qword [high + 0x20ffc]

;; case high_locked
;; in rax=1 rcx=5
;; mem 0x20000 = dq 1 10
;; out rax=1 rcx=10
;; expect 0x20000 = dq 5 15
lock cmpxchg [high + 0x20000], rcx
lock xadd [high + 0x20008], rcx

;; case high_cmpxchg16b
;; in rax=1 rdx=2 rbx=3 rcx=4
;; mem 0x20000 = dq 1 2
;; expect 0x20000 = dq 3 4
;; flags ZF
lock cmpxchg16b [high + 0x20000]

; ---- the stack

;; case high_stack_pointer_is_seen_as_it_is
;; out rax=high+0x30800 rbx=high+0x30808 rcx=high+0x307f8
;; expect 0x307f8 = dq high+0x30800
mov rax, rsp
lea rbx, [rsp + 8]
push rsp
mov rcx, rsp
pop rdx

;; case high_stack_pointer_arithmetic
;; out rax=high+0x30000 rbx=0x800 rsp=high+0x30800
mov rbx, rsp
mov rdx, rsp
and rsp, -0x1000
mov rax, rsp
sub rbx, rsp
xchg rsp, rdx

;; case high_stack_pointer_flags
;; in rsp=high+8
;; out rsp=high
;; flags !CF !ZF SF
sub rsp, 8

;; case high_stack_pointer_compare
;; in rbx=high+0x30800
;; flags ZF !CF
cmp rsp, rbx

;; case high_push_memory_by_rsp
;; expect 0x307e8 = dq 0x55 0x66 0x55
push 0x55
push 0x66
push qword [rsp + 8]

;; case high_pop_memory_by_rsp
;; expect 0x307f8 = dq 0x66
push 0x55
push 0x66
pop qword [rsp]

;; case high_call_and_return
;; out rax=3 rsp=high+0x30800
mov ebx, 1
call first
jmp short done
first: lea rdx, [rel second]
call rdx
inc ebx
ret
second: inc ebx
ret
done: mov eax, ebx

;; case high_return_releases
;; out rsp=high+0x30800
push 1
push 2
call function
jmp short done
function: ret 16
done:

;; case high_enter_leave
;; in rbp=high+0x20000
;; out rbp=high+0x20000 rsp=high+0x30800 rax=0x30
enter 0x30, 0
mov rax, rbp
sub rax, rsp
leave

;; case high_leave_faults
;; in rbp=high+0x22000
;; out rbp=high+0x22000 rsp=high+0x30800
;; fault PF error=0 cr2=high+0x22000 rip=here
here: leave

;; case high_push_faults
;; in rsp=high+0x23000
;; mem 0xa024 = dq 0xd000
;; mem 0x90e4 = 01
;; out rsp=high+0x23000
;; fault PF error=2 cr2=high+0x22ff8 rip=here
here: push rax

;; case high_call_pushes_nothing_when_it_faults
;; in rsp=high+0x23000
;; mem 0xa024 = dq 0xd000
;; mem 0x90e4 = 01
;; out rsp=high+0x23000
;; fault PF error=2 cr2=high+0x22ff8 rip=here
mov rax, target
here: call rax
target: nop

;; case high_pushf_shows_all
;; in rflags=0x3202
;; out rax=0x3206
cmp al, al
or al, 3
pushfq
pop rax

;; case high_pushf_after_cli
;; in rflags=0x202
;; out rax=2 rbx=0x202
mov ecx, 1
test ecx, ecx
pushfq
pop rbx
cli
test ecx, ecx
pushfq
pop rax

; ---- string instructions

;; case high_copy_across_pages
;; in rsi=high+0x20ff8 rdi=high+0x30ff0 rcx=0x10
;; mem 0x4180 = dq 0x30003
;; mem 0x4188 = dq 0x31003
;; mem 0x20ff8 = dq 1 2 3
;; out rsi=high+0x21008 rdi=high+0x31000 rcx=0
;; expect 0x30ff0 = dq 1 2
rep movsb

;; case high_copy_source_ends
;; in rsi=high+0x21ff0 rdi=high+0x20000 rcx=0x20 rdx=0x1234
;; mem 0x21ff0 = dq 1 2
;; out rsi=high+0x22000 rdi=high+0x20010 rcx=0x10 rdx=0x1234
;; expect 0x20000 = dq 1 2 0
;; fault PF error=0 cr2=high+0x22000 rip=here
here: rep movsb

;; case high_copy_destination_ends
;; in rsi=high+0x20000 rdi=high+0x21ff0 rcx=0x20 rdx=0x1234
;; mem 0x20000 = dq 1 2
;; out rsi=high+0x20010 rdi=high+0x22000 rcx=0x1e rdx=0x1234
;; expect 0x21ff0 = dq 1 2
;; fault PF error=2 cr2=high+0x22000 rip=here
here: rep movsq

;; case high_copy_downwards_ends
;; in rsi=high+0x20020 rdi=high+0x23008 rcx=4 rflags=0x402
;; mem 0x4118 = dq 0x23003
;; mem 0x20018 = dq 1 2
;; out rsi=high+0x20010 rdi=high+0x22ff8 rcx=2
;; expect 0x23000 = dq 1 2
;; fault PF error=2 cr2=high+0x22ff8 rip=here
here: rep movsq

;; case high_copy_from_low_addresses
;; in rsi=0x20000 rdi=high+0x20010 rcx=2
;; mem 0x20000 = dq 1 2
;; out rsi=0x20010 rdi=high+0x20020 rcx=0
;; expect 0x20010 = dq 1 2
rep movsq

;; case high_fill
;; in rax=0x5a rdi=high+0x20ff0 rcx=0x20 rdx=7
;; out rdi=high+0x21010 rcx=0 rdx=7
;; expect 0x2100f = 5a 00
rep stosb

;; case high_scan
;; in rax=3 rdi=high+0x20ffe rcx=0x20
;; mem 0x20ffe = 01 02 03
;; out rdi=high+0x21001 rcx=0x1d
;; flags ZF
repne scasb

;; case high_compare_strings
;; in rsi=high+0x20000 rdi=high+0x20ffd rcx=5
;; mem 0x20000 = 01 02 03 04 05
;; mem 0x20ffd = 01 02 03 04 06
;; out rsi=high+0x20005 rdi=high+0x21002 rcx=0
;; flags !ZF CF
repe cmpsb

;; case high_load_string
;; in rsi=high+0x20000
;; mem 0x20000 = dq 0x77
;; out rax=0x77 rsi=high+0x20008
lodsq

; ---- rights

;; case high_write_protected
;; fault PF error=3 cr2=high+0x23000 rip=here
mov al, [high + 0x23000]
here: mov [high + 0x23000], al

;; case high_write_protection_comes_back
;; in cr0=0x80000033
;; fault PF error=3 cr2=high+0x23000 rip=here
mov byte [high + 0x23000], 9
mov rax, cr0
bts eax, 16
mov cr0, rax
here: mov byte [high + 0x23000], 8

;; case high_write_protection_is_lifted
;; expect 0x23000 = 09
mov al, [high + 0x23000]
mov rax, cr0
btr eax, 16
mov cr0, rax
mov byte [high + 0x23000], 9

;; case high_page_becomes_read_only
;; fault PF error=3 cr2=high+0x25000 rip=here
mov byte [high + 0x25000], 1
mov qword [high + 0x4128], 0x25061
invlpg [high + 0x25000]
here: mov byte [high + 0x25000], 2

;; case high_page_becomes_writable
;; mem 0x4128 = dq 0x25001
;; expect 0x25000 = 02
mov al, [high + 0x25000]
mov qword [high + 0x4128], 0x25003
mov byte [high + 0x25000], 2

;; case high_no_execute
;; fault PF error=0x11 cr2=high+0x20000 rip=0xffffffff80020000
mov rax, high + 0x20000
jmp rax

;; case high_smep
;; in cr4=0x140620
;; fault PF error=0x11 cr2=high+0x10000 rip=0xffffffff80010000
nop

;; case high_smap_low_read
;; in cr4=0x240620 rsp=0xcf00
;; fault PF error=1 cr2=0x20000 rip=here
here: mov al, [0x20000]

;; case high_smap_read
;; in cr4=0x240620 rsp=0xcf00
;; fault PF error=1 cr2=high+0x20000 rip=here
here: mov al, [high + 0x20000]

;; case high_smap_write_by_stack
;; in cr4=0x240620
;; mem 0xa024 = dq 0xd000
;; mem 0x90e4 = 01
;; fault PF error=3 cr2=high+0x307f8 rip=here
here: push rax

;; case high_smap_between_stac_and_clac
;; skip emulated_kvm
;; in cr4=0x240620 rsp=0xcf00 rdi=0x20010 rcx=2 rsi=high+0x20000
;; mem 0x20000 = dq 0x44 0x55
;; out rax=0x44 rbx=0x55
;; expect 0x20010 = dq 0x44 0x55
stac
mov rax, [0x20000]
mov rbx, [high + 0x20008]
rep movsq
clac

;; case high_smap_stack_between_stac_and_clac
;; skip emulated_kvm
;; in cr4=0x240620
;; mem 0xa024 = dq 0xd000
;; mem 0x90e4 = 01
;; fault PF error=3 cr2=high+0x307f8 rip=here
stac
push 7
pop rax
clac
here: push rax

;; case high_smap_after_stac_elsewhere
;; skip emulated_kvm
;; in cr4=0x240620 rsp=0xcf00
;; fault PF error=1 cr2=high+0x20008 rip=here
mov ecx, 1000
again: stac
mov al, [high + 0x20000]
clac
dec ecx
jnz again
here: mov al, [high + 0x20008]

;; case high_smap_by_popf
;; in cr4=0x240620 rsp=0xcf00
;; mem 0x20000 = 44
;; out rax=0x44
push 0x40002
popfq
movzx eax, byte [high + 0x20000]

;; case high_smap_turned_on
;; in rsp=0xcf00
;; fault PF error=1 cr2=high+0x20000 rip=here
mov al, [high + 0x20000]
mov rax, cr4
bts eax, 21
mov cr4, rax
here: mov al, [high + 0x20000]

; ---- accessed and dirty

;; case high_read_sets_accessed
;; expect 0x4128 = 27 50 02
mov al, [high + 0x25000]

;; case high_write_sets_dirty
;; expect 0x4128 = 67 50 02
mov al, [high + 0x25000]
mov [high + 0x25000], al

;; case high_accessed_is_set_again
;; expect 0x4128 = 23 50 02
mov al, [high + 0x25000]
mov qword [high + 0x4128], 0x25003
invlpg [high + 0x25000]
mov al, [high + 0x25000]

;; case high_dirty_is_not_set_by_reading
;; expect 0x4128 = 23 50 02
mov [high + 0x25000], al
mov qword [high + 0x4128], 0x25003
invlpg [high + 0x25000]
mov al, [high + 0x25000]

;; case high_dirty_in_a_loop
;; out rbx=100
xor ebx, ebx
mov ecx, 100
again: mov qword [high + 0x4128], 0x25003
invlpg [high + 0x25000]
mov al, [high + 0x25000]
test byte [high + 0x4128], 0x40
jnz bad
mov [high + 0x25000], al
test byte [high + 0x4128], 0x40
jz bad
inc ebx
bad: dec ecx
jnz again

;; case high_accessed_by_execution
;; mem 0x4128 = dq 0x26003
;; mem 0x26000 = b8 01 00 00 00 c3
;; expect 0x4128 = 23 60 02
mov rdx, high + 0x25000
call rdx
mov qword [high + 0x4128], 0x26003
invlpg [high + 0x25000]
mov rdx, high + 0x25000
call rdx

; ---- page tables that change

;; case high_data_page_moves_invlpg
;; mem 0x26000 = 01
;; mem 0x27000 = 02
;; out rbx=300
xor ebx, ebx
mov ecx, 100
again: mov qword [high + 0x4128], 0x26003
invlpg [high + 0x25000]
movzx eax, byte [high + 0x25000]
add ebx, eax
mov qword [high + 0x4128], 0x27003
invlpg [high + 0x25000]
movzx eax, byte [high + 0x25000]
add ebx, eax
dec ecx
jnz again

;; case high_code_page_moves_invlpg
;; mem 0x26000 = b8 01 00 00 00 c3
;; mem 0x27000 = b8 02 00 00 00 c3
;; out rbx=300
xor ebx, ebx
mov ecx, 100
again: mov qword [high + 0x4128], 0x26003
invlpg [high + 0x25000]
call high + 0x25000
add ebx, eax
mov qword [high + 0x4128], 0x27003
invlpg [high + 0x25000]
mov rdx, high + 0x25000
call rdx
add ebx, eax
dec ecx
jnz again

;; case high_code_page_moves_cr3
;; mem 0x26000 = b8 01 00 00 00 c3
;; mem 0x27000 = b8 02 00 00 00 c3
;; out rbx=300
xor ebx, ebx
mov ecx, 100
again: mov qword [high + 0x4128], 0x26003
mov rax, cr3
mov cr3, rax
call high + 0x25000
add ebx, eax
mov qword [high + 0x4128], 0x27003
mov rax, cr3
mov cr3, rax
mov rdx, high + 0x25000
call rdx
add ebx, eax
dec ecx
jnz again

;; case high_pages_move_invpcid
;; skip emulated_kvm
;; mem 0x26000 = b8 01 00 00 00 c3
;; mem 0x27000 = b8 02 00 00 00 c3
;; mem 0x20000 = dq 0 high+0x25000
;; out rbx=30 rsi=30
xor ebx, ebx
xor esi, esi
mov ecx, 10
again: mov qword [high + 0x4128], 0x26003
xor eax, eax
invpcid rax, [high + 0x20000]
call high + 0x25000
add ebx, eax
movzx eax, byte [high + 0x25001]
add esi, eax
mov qword [high + 0x4128], 0x27003
mov eax, 2
invpcid rax, [high + 0x20000]
call high + 0x25000
add ebx, eax
movzx eax, byte [high + 0x25001]
add esi, eax
dec ecx
jnz again

;; case high_two_address_spaces
; Two page tables whose upper halves show different pages at one address.
;; mem 0x26000 = b8 01 00 00 00 c3
;; mem 0x27000 = b8 02 00 00 00 c3
;; mem 0x28000 = dq 0x2007
;; mem 0x28ff8 = dq 0x29007
;; mem 0x29ff0 = dq 0x2a007
;; mem 0x2a000 = dq 0x2b007
;; out rbx=300
cld
mov rsi, high + 0x4000
mov rdi, high + 0x2b000
mov ecx, 512
rep movsq
mov qword [high + 0x4128], 0x26003
mov qword [high + 0x2b128], 0x27003
xor ebx, ebx
mov ecx, 100
again: mov eax, 0x1000
mov cr3, rax
call high + 0x25000
add ebx, eax
mov eax, 0x28000
mov cr3, rax
call high + 0x25000
add ebx, eax
dec ecx
jnz again

;; case high_code_page_goes_away
;; mem 0x4128 = dq 0x26003
;; mem 0x26000 = b8 01 00 00 00 c3
;; fault PF error=0x10 cr2=high+0x25000 rip=0xffffffff80025000
call high + 0x25000
mov qword [high + 0x4128], 0
invlpg [high + 0x25000]
call high + 0x25000

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
;; out r15=0 r14=200
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
