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

;; case high_non_canonical_jump
;; out rcx=0x1234
;; flags CF
;; fault GP error=0 rip=here
mov rax, 0x800000000000
mov ecx, 0x1234
stc
here: jmp rax

;; case high_non_canonical_call_through_memory
;; out rsp=high+0x30800
;; fault GP error=0 rip=here
mov rax, 0xffff7fffffffffff
mov [high + 0x20000], rax
here: call [high + 0x20000]

;; case high_non_canonical_return
;; out rsp=high+0x307f8
;; fault GP error=0 rip=here
mov rax, 0x800000000000
push rax
here: ret

;; case high_non_canonical_return_that_releases
;; out rsp=high+0x307f8
;; fault GP error=0 rip=here
mov rax, 0x800000000000
push rax
here: ret 0x1238

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
