; Memory that is none: reads are answered with a5 in every byte, writes vanish. The same
; instructions meet devices and RAM in turns, so that an engine which has learned that one accesses
; a device is wrong half of the time.

;; defaults
;; mode kernel64
;; high
;; skip emulated_kvm
; The page at 0x25000 is a device, those around it are RAM.
;; mem 0x4128 = dq 0x500067
;; mem 0x20000 = dq 0x0102030405060708

;; case device_read
;; out rax=0xa5a5a5a5a5a5a5a5 rbx=0xa5a5 rcx=0xa5
mov rsi, high + 0x25000
mov rax, [rsi]
movzx ebx, word [rsi + 0x10]
movzx ecx, byte [rsi + 0xfff]

;; case device_and_ram_in_turns_read
;; out rax=0x87a5c3e2001e3c46 rcx=0
; 30 times a5.., 30 times the RAM's, modulo 2^64
xor eax, eax
mov ecx, 60
mov rsi, high + 0x25000
mov rdi, high + 0x20000
again: add rax, [rsi]
xchg rsi, rdi
dec ecx
jnz again

;; case device_and_ram_in_turns_write
;; out rcx=0
;; expect 0x20000 = dq 0x0102030405060726
mov ecx, 60
mov rsi, high + 0x25000
mov rdi, high + 0x20000
again: inc qword [rsi]
xchg rsi, rdi
dec ecx
jnz again

;; case device_for_long_then_ram_for_long
;; out rcx=0 rbx=0 rdx=0x0102030405060708
; The same load, 40 times of the device, 200 times of RAM, 5 times over.
mov ebx, 5
outer: mov rsi, high + 0x25000
mov ecx, 40
inner: mov rdx, [rsi]
dec ecx
jnz inner
cmp rsi, high + 0x20000
je next
mov rsi, high + 0x20000
mov ecx, 200
jmp inner
next: dec ebx
jnz outer

;; case device_behind_sti
;; out rax=0xa5a5a5a5
mov rsi, high + 0x25000
mov ecx, 8
again: sti
mov eax, [rsi]
cli
dec ecx
jnz again

;; case device_string_store
;; out rcx=0 rdi=0xffffffff80025100
mov rdi, high + 0x25000
mov ecx, 0x100
mov al, 1
cld
rep stosb

;; case device_string_load
;; out rcx=0 rsi=0xffffffff80025040 rdi=0xffffffff80020040
;; expect 0x20000 = a5 a5 a5 a5 a5 a5 a5 a5
;; expect 0x20038 = a5 a5 a5 a5 a5 a5 a5 a5
mov ebx, 3
again: mov rsi, high + 0x25000
mov rdi, high + 0x20000
mov ecx, 8
cld
rep movsq
dec ebx
jnz again

;; case device_string_over_its_edges
;; out rcx=0 rsi=0xffffffff80026008 rdi=0xffffffff80025008
;; expect 0x20fe0 = 11 22 33 44 55 66 77 88 a5 a5 a5 a5 a5 a5 a5 a5
;; expect 0x20808 = a5 a5 a5 a5 a5 a5 a5 a5 99 aa
;; mem 0x24ff8 = 11 22 33 44 55 66 77 88
;; mem 0x26000 = 99 aa
; From RAM into the device's page, from there into RAM again, and RAM to the device.
mov ebx, 3
again: mov rsi, high + 0x24ff8
mov rdi, high + 0x20fe0
mov ecx, 0x20
cld
rep movsb
mov rsi, high + 0x25ff0
mov rdi, high + 0x20800
mov ecx, 0x20
rep movsb
mov rsi, high + 0x26000
mov rdi, high + 0x25000
movsq
dec ebx
jnz again

;; case device_compare_strings
;; out rcx=0
;; flags ZF
;; mem 0x20100 = dq 0xa5a5a5a5a5a5a5a5
mov ebx, 4
again: mov rsi, high + 0x25000
mov rdi, high + 0x20100
mov ecx, 8
cld
repe cmpsb
jne end
dec ebx
jnz again
xor ebx, ebx
end:

;; case device_across_pages_read
;; out rax=0xa5a5a5a500000000 rdx=0x44332211a5a5a5a5
;; mem 0x24ffc = dd 0
;; mem 0x26000 = dd 0x44332211
mov ecx, 5
mov rsi, high + 0x24ffc
again: mov rax, [rsi]
mov rdx, [rsi + 0x1000]
dec ecx
jnz again

;; case device_across_pages_write
;; out rcx=0
;; expect 0x24ffc = dd 0x05060708
;; expect 0x26000 = dd 0x01020304
mov rdi, high + 0x20000
mov rsi, high + 0x24ffc
mov rax, [rdi]
mov ecx, 5
again: mov [rsi], rax
mov [rsi + 0x1000], rax
dec ecx
jnz again

;; case device_exchange
;; out rax=0xa5a5a5a5 rbx=0xa5a5a5a5
mov ecx, 5
mov rsi, high + 0x25000
again: mov eax, 7
xchg [rsi], eax
mov ebx, 1
lock xadd [rsi + 8], ebx
dec ecx
jnz again

;; case device_through_the_stack
;; out rax=0xa5a5a5a5a5a5a5a5 rsp=0xffffffff80030800
mov ecx, 5
mov rsi, high + 0x20000
again: mov rsp, high + 0x25800
push rcx
pop rax
push qword [rsi]
mov rsp, high + 0x30800
dec ecx
jnz again

;; case device_site_that_is_written_over
;; out rax=0x77
; A load that is known to access a device becomes another instruction.
mov ecx, 10
mov rsi, high + 0x25000
lea rdi, [rel site]
again: dec ecx
js done
cmp ecx, 3
jne site
mov byte [rdi], 0xb0
mov byte [rdi + 1], 0x77
site: mov al, [rsi]
jmp again
done: movzx eax, al

;; case local_apic_in_turns
;; out rax=0 rcx=0
; Its page, at 0xfee00000 in xAPIC mode, and RAM: the task priority goes there and back.
;; mem 0x4128 = dq 0xfee00063
set_msr 0x1b, 0xfee00900
mov ecx, 40
mov rsi, high + 0x25080
mov rdi, high + 0x20080
xor edx, edx
again: mov dword [rsi], 0x20
mov eax, [rsi]
sub eax, 0x20
or edx, eax
mov dword [rsi], 0
xchg rsi, rdi
dec ecx
jnz again
mov eax, edx
