; 32-bit code with flat segments: what translates otherwise than in 64-bit code. Addresses and the
; stack wrap at 4 GiB, pushes move four bytes, one-byte INC and DEC, FS and GS with bases.

;; defaults
;; mode compat32

;; case code32_push_pop
;; in rax=0x11223344 rbx=5
;; out rcx=0x11223344 rdx=0xfffffffe rsi=0x1234 rsp=0x30800
;; expect 0x307f4 = dd 0x1234 0xfffffffe 0x11223344
push eax
push byte -2
push dword 0x1234
pop esi
pop edx
pop ecx

;; case code32_push_memory
;; mem 0x20010 = dd 0xdeadbeef
;; in rbx=0x20000
;; out rax=0xdeadbeef rsp=0x30800
push dword [ebx+0x10]
pop eax

;; case code32_push_relative_to_esp
;; mem 0x30804 = dd 0x77777777
;; out rax=0x77777777
push dword [esp+4]
pop eax

;; case code32_pop_memory
;; in rbx=0x20000
;; expect 0x20020 = dd 0x55667788
;; out rsp=0x30800
push dword 0x55667788
pop dword [ebx+0x20]

;; case code32_pop_relative_to_esp
;; out rsp=0x30800
;; expect 0x30800 = dd 0x99aabbcc
push dword 0x99aabbcc
pop dword [esp]

;; case code32_push_esp
;; out rax=0x30800
push esp
pop eax

;; case code32_pop_esp
;; mem 0x30800 = dd 0x30400
;; out rsp=0x30400
pop esp

;; case code32_fault_between_pushes
;; in rax=1 rbx=2
;; fault PF error=4 cr2=0x22000 rip=here
;; out rsp=0x307f8
;; expect 0x307f8 = dd 2 1
push eax
push ebx
here: mov ecx, [0x22000]
push ecx

;; case code32_fault_at_the_third_pop
;; in rsp=0x21ff8 rcx=9
;; mem 0x21ff8 = dd 5 6
;; fault PF error=4 cr2=0x22000 rip=here
;; out rsp=0x22000 rax=5 rbx=6 rcx=9
pop eax
pop ebx
here: pop ecx

;; case code32_many_pushes
;; in rax=7
;; out rsp=0x30700 rbx=7
%rep 64
push eax
%endrep
mov ebx, [esp+252]

;; case code32_push_fault_keeps_esp
;; in rsp=0x22004
;; fault PF error=6 cr2=0x22000 rip=here
;; out rsp=0x22004
here: push eax

;; case code32_pop_fault_keeps_esp
;; in rsp=0x22000 rax=0x77
;; fault PF error=4 cr2=0x22000 rip=here
;; out rsp=0x22000 rax=0x77
here: pop eax

;; case code32_pusha
;; in rax=1 rcx=2 rdx=3 rbx=4 rbp=6 rsi=7 rdi=8
;; out rsp=0x307e0
;; expect 0x307e0 = dd 8 7 6 0x30800 4 3 2 1
pusha

;; case code32_popa
;; mem 0x30800 = dd 8 7 6 99 4 3 2 1
;; out rax=1 rcx=2 rdx=3 rbx=4 rbp=6 rsi=7 rdi=8 rsp=0x30820
popa

;; case code32_popa_faults_at_its_end
;; in rsp=0x21ff0 rax=0x11 rdi=0x22 rbx=0x33
;; fault PF error=4 cr2=0x22000 rip=here
;; out rsp=0x21ff0 rax=0x11 rdi=0x22 rbx=0x33
here: popa

;; case code32_pusha_faults_at_its_end
;; in rsp=0x23010 rax=0x11
;; fault PF error=7 cr2=0x2300c rip=here
;; out rsp=0x23010 rax=0x11
here: pusha

;; case code32_call_and_return
;; out rax=7 rsp=0x30800
;; expect 0x307fc = dd 0x10005
call function
jmp done
function: mov eax, 7
ret
done: nop

;; case code32_return_releases
;; out rsp=0x30800 rax=3
push dword 1
push dword 2
call function
jmp done
function: mov eax, [esp+4]
add eax, [esp+8]
ret 8
done: nop

;; case code32_call_register
;; out rcx=9 rsp=0x30800
mov ecx, function
call ecx
jmp done
function: mov ecx, 9
ret
done: nop

;; case code32_call_memory
;; mem 0x20040 = dd 0x1000e
;; in rdx=0x20000 rcx=0x10
;; out rbx=4 rsp=0x30800 rcx=0x10
call [edx+ecx*4]
jmp done
times 9 nop
function: mov ebx, 4
ret
done: nop

;; case code32_call_through_segment
;; mem 0x20010 = dd 0x1000f
;; in gs.base=0x20000
;; out rbx=4 rsp=0x30800
call [gs:0x10]
jmp done
times 6 nop
function: mov ebx, 4
ret
done: nop

;; case code32_jump_through_table
;; mem 0x20020 = dd 0 0x10010
;; in rcx=1
;; out rax=5
mov eax, 5
jmp [ecx*4+0x20020]
times 4 hlt
nop

;; case code32_jump_to_esp
;; in rsp=0x10004
;; out rax=2
jmp esp
hlt
hlt
mov eax, 2

;; case code32_returns_often
;; out rax=2000 rsp=0x30800
mov ecx, 1000
xor eax, eax
again: call first
dec ecx
jnz again
jmp done
first: inc eax
call second
ret
second: inc eax
ret
done: nop

;; case code32_leave
;; mem 0x30700 = dd 0x1234
;; in rbp=0x30700
;; out rbp=0x1234 rsp=0x30704
leave

;; case code32_leave_fault
;; in rbp=0x22000
;; fault PF error=4 cr2=0x22000 rip=here
;; out rbp=0x22000 rsp=0x30800
here: leave

;; case code32_enter
;; in rbp=0x4444
;; out rbp=0x307fc rsp=0x307ec
;; expect 0x307fc = dd 0x4444
enter 16, 0

;; case code32_pushf
;; in rflags=0x202
;; out rax=0x247 rsp=0x30800
xor eax, eax
stc
pushf
pop eax

;; case code32_pushf_interrupts_off
;; in rflags=0x2
;; out rax=0x2
pushf
pop eax

;; case code32_popf
;; out rax=0xcd7
push dword 0xcd5
popf
pushf
pop eax
cld
and eax, 0xcd7
or eax, 2

;; case code32_inc_dec
;; in rax=0xffffffff rbx=0 rsi=0xffff
;; out rax=0 rbx=0xffffffff rsi=0
inc eax
dec ebx
inc si

;; case code32_inc_keeps_carry
;; in rax=0xffffffff
;; flags CF ZF
stc
inc eax

;; case code32_absolute_address
;; mem 0x20000 = dd 5 7
;; out rax=5 rbx=7
;; expect 0x20008 = dd 7
mov eax, [0x20000]
mov ebx, [dword 0x20004]
mov [0x20008], ebx

;; case code32_accumulator_moves
;; mem 0x20000 = dd 0x44332211
;; out rax=0x2211
;; expect 0x20010 = dw 0x2211
xor eax, eax
mov al, [0x20001]
mov ah, [0x20000]
xchg al, ah
xchg al, ah
xchg ah, al
mov [0x20010], ax

;; case code32_address_wraps
;; mem 0x20010 = dd 0x66
;; in rbx=0xfffffff0 rcx=0x20020
;; out rax=0x66 rdx=0x66
mov eax, [ebx+ecx]
mov edx, [ecx+ebx*1]

;; case code32_negative_index
;; mem 0x20000 = dd 1 2 3
;; in rcx=0xffffffff
;; out rax=2
mov eax, [0x20008+ecx*4]

;; case code32_address_above_2_gib
;; in rbx=0x90000000
;; fault PF error=4 cr2=0x90000000 rip=here
here: mov eax, [ebx]

;; case code32_address_just_below_zero
;; in rbx=4
;; fault PF error=6 cr2=0xfffffffc rip=here
here: mov [ebx-8], eax

;; case code32_gs_small_offset
;; mem 0x20014 = dd 0xabcd
;; in gs.base=0x20000
;; out rax=0xabcd
mov eax, [gs:0x14]

;; case code32_gs_negative_offset
;; mem 0x20010 = dd 0x4321
;; in gs.base=0x20030 rbx=0xffffffe0
;; out rax=0x4321 rcx=0x4321
;; expect 0x20014 = dd 0x4321
mov eax, [gs:0xffffffe0]
mov ecx, [gs:ebx]
mov [gs:ebx+4], ecx

;; case code32_gs_base_and_index
;; mem 0x20044 = dd 0x321
;; in gs.base=0x20000 rbx=0x10 rcx=0xc
;; out rax=0x321
mov eax, [gs:ebx+ecx*4+4]

;; case code32_gs_with_esp
;; mem 0x30810 = dd 0x55
;; in gs.base=0x8 rsp=0x30800
;; out rax=0x55
mov eax, [gs:esp+8]

;; case code32_fs_read_modify_write
;; mem 0x20020 = dd 41
;; in fs.base=0x20000
;; expect 0x20020 = dd 42
inc dword [fs:0x20]

;; case code32_gs_immediate
;; in gs.base=0x20000 rbx=8
;; expect 0x20008 = dd 0x12345678
mov dword [gs:ebx], 0x12345678

;; case code32_gs_high_byte
;; in gs.base=0x20000 rax=0x1234
;; expect 0x20003 = 12
mov [gs:3], ah

;; case code32_gs_null
;; fault GP error=0 rip=here
xor eax, eax
mov gs, ax
here: mov eax, [gs:0]

;; case code32_gs_loaded_anew
;; mem 0x20000 = dd 0x1111
;; mem 0x20100 = dd 0x2222
;; in gs.base=0x20100
;; out rbx=0x2222 rcx=0x1111
mov ebx, [gs:0]
mov eax, 0x3b
mov gs, ax
mov ecx, [gs:0x20000]

;; case code32_gs_with_limit
;; mem 0x20ffc = dd 6
;; out rax=6
;; fault GP error=0 rip=here
mov eax, 0xab
mov gs, ax
mov eax, [gs:0xffc]
here: mov ebx, [gs:0xffd]

;; case code32_gs_with_limit_small_offsets
;; mem 0x20018 = dd 9
;; out rcx=10 rbx=9
;; expect 0x20ff0 = dd 10
;; fault GP error=0 rip=here
mov eax, 0xab
mov gs, ax
mov ebx, [gs:0x18]
inc dword [gs:0x18]
mov ecx, [gs:0x18]
mov [gs:0xff0], ecx
mov edx, 0x1000
here: mov [gs:edx], ecx

;; case code32_supervisor_fs_with_limit
;; mode prot32
;; paging pae
;; skip emulated_kvm
;; mem 0x20018 = dd 9
;; out rbx=9 rcx=9
mov eax, 0xab
mov fs, ax
mov ebx, [fs:0x18]
mov ecx, [fs:0x18]

;; case code32_cs_override_reads
;; out rax=0xb8
mov eax, 0x10000
movzx eax, byte [cs:eax]

;; case code32_cs_override_does_not_write
;; fault GP error=0 rip=here
mov ebx, 0x20000
here: mov [cs:ebx], al

;; case code32_string_move
;; mem 0x20000 = 01 02 03 04 05 06 07 08
;; in rsi=0x20000 rdi=0x20100 rcx=2
;; out rsi=0x20008 rdi=0x20108 rcx=0
;; expect 0x20100 = 01 02 03 04 05 06 07 08
rep movsd

;; case code32_string_fault_in_the_middle
;; in rdi=0x21ff8 rcx=5 rax=0x44444444
;; fault PF error=6 cr2=0x22000 rip=here
;; out rdi=0x22000 rcx=3
;; expect 0x21ff8 = dd 0x44444444 0x44444444
here: rep stosd

;; case code32_string_from_segment
;; mem 0x20010 = 41
;; in gs.base=0x20000 rsi=0x10
;; out rax=0x41 rsi=0x11
xor eax, eax
gs lodsb

;; case code32_string_backwards
;; mem 0x20000 = dd 1 2
;; in rsi=0x20004 rdi=0x20104 rcx=2
;; out rsi=0x1fffc rdi=0x200fc
;; expect 0x20100 = dd 1 2
std
rep movsd
cld

;; case code32_scan
;; mem 0x20000 = 61 62 63 00
;; in rdi=0x20000 rcx=0xffffffff
;; out rdi=0x20004 rcx=0xfffffffb
xor eax, eax
repne scasb

;; case code32_loops
;; out rax=5 rcx=0
xor eax, eax
mov ecx, 5
again: inc eax
loop again
jecxz done
mov eax, 99
done: nop

;; case code32_lea
;; in rbx=0xfffffff0 rcx=0x20
;; out rax=0x10 rdx=0x12345678 rsi=0x14
lea eax, [ebx+ecx]
lea edx, [0x12345678]
lea esi, [ebx+ecx+4]

;; case code32_bit_test_far
;; mem 0x20020 = 01
;; in rbx=0x20010 rcx=128
;; flags CF
bt [ebx], ecx

;; case code32_opcode_82
;; mem 0x20000 = 10
;; in rbx=0x20000
;; expect 0x20000 = 15
db 0x82, 0x03, 0x05

;; case code32_decimal
;; in rax=0x39
;; skip emulated_kvm
;; out rax=0x47
add al, 8
daa

;; case code32_sixteen_bit_address
;; fault PF error=5 cr2=0x10 rip=here
mov ebx, 0x10
here: mov eax, [bx]

;; case code32_divide_error
;; fault DE rip=here
xor edx, edx
xor ecx, ecx
here: div ecx

;; case code32_changes_itself
;; out rax=2
mov ecx, 3
again: mov eax, 1
mov byte [again+1], 2
loop again

;; case code32_vector_widths
;; skip emulated_kvm
;; mem 0x20000 = dq 0x1122334455667788 0x99aabbccddeeff00
;; in rbx=0x20000
;; out rax=0x55667788 xmm0l=0x55667788
movd xmm0, [ebx]
movd eax, xmm0

;; case code32_supervisor_stack_and_memory
;; mode prot32
;; paging pae
;; skip emulated_kvm
;; mem 0x20000 = dd 3
;; in rbx=0x20000
;; out rax=3 rcx=4 rsp=0x30800
;; expect 0x20000 = dd 4
push dword [ebx]
pop eax
inc dword [ebx]
mov ecx, [0x20000]

;; case code32_supervisor_non_pae
;; mode prot32
;; paging 32
;; skip emulated_kvm
;; mem 0x20000 = 01 02 03 04
;; in rsi=0x20000 rdi=0x20010 rcx=4
;; out rsi=0x20004 rdi=0x20014 rcx=0
;; expect 0x20010 = 01 02 03 04
rep movsb

;; case code32_supervisor_page_fault
;; mode prot32
;; paging 32
;; skip emulated_kvm
;; fault PF error=2 cr2=0x22010 rip=here
;; in rdi=0x22010 rcx=2
;; out rdi=0x22010 rcx=2
here: rep stosd

;; case code32_supervisor_respects_wp
;; mode prot32
;; paging pae
;; skip emulated_kvm
;; fault PF error=3 cr2=0x23000 rip=here
here: mov [0x23000], eax

;; case code32_supervisor_without_wp
;; mode prot32
;; paging pae
;; skip emulated_kvm
;; in cr0=0x80000031
;; expect 0x23000 = dd 0x77
mov eax, 0x77
mov [0x23000], eax

;; case code32_supervisor_smap
;; mode prot32
;; paging pae
;; skip emulated_kvm
;; in cr4=0x2006a0 rsp=0xd000
;; fault PF error=1 cr2=0x20000 rip=here
push eax
here: mov eax, [0x20000]

;; case code32_supervisor_interrupt_flag
;; mode prot32
;; paging pae
;; skip emulated_kvm
;; out rax=0x202 rbx=0x2
cli
pushf
pop ebx
and ebx, 0x202
sti
pushf
pop eax
and eax, 0x202
cli

;; case code32_supervisor_percpu
;; mode prot32
;; paging pae
;; skip emulated_kvm
;; mem 0x20020 = dd 7
;; in fs.base=0xf0020000
;; out rax=7 rcx=7 rbx=0x10000020
;; expect 0x20024 = dd 7
mov eax, [fs:0x10000020]
mov ebx, 0x10000020
mov ecx, [fs:ebx]
mov [fs:ebx+4], ecx

;; case code32_supervisor_indirect
;; mode prot32
;; paging 32
;; skip emulated_kvm
;; mem 0x20040 = dd 0x1000e
;; in rdx=0x20000 rcx=0x10
;; out rbx=4 rsp=0x30800 rcx=0x10
call [edx+ecx*4]
jmp done
times 9 nop
function: mov ebx, 4
ret
done: nop

;; case code32_supervisor_cr2
;; mode prot32
;; in cr2=0xfedcba98
;; out rax=0xfedcba98
mov eax, cr2

;; case code32_and_64_take_turns
;; mode user64
;; skip native,emulated_kvm
;; in r8=0x1122334455667788 r15=0x99aabbccddeeff00
;; out rax=600 rcx=0 rsp=0x30800 r8=0x1122334455667788 r15=0x99aabbccddeeff00
mov ecx, 200
xor eax, eax
again: add eax, 2
jmp dword far [rel there]
there: dd narrow
dw 0x33
bits 32
narrow: inc eax
push eax
call function
pop ebx
jmp 0x43:wide
function: ret
bits 64
wide: cmp eax, ebx
jne wrong
call back
dec ecx
jnz again
jmp done
back: ret
wrong: mov eax, 1
done: nop
