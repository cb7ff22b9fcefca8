; Memory that is none, as in devices_high64.asm, where translated code runs in user processes.

;; defaults
;; skip native,emulated_kvm
;; mem 0x4128 = dq 0x500067
;; mem 0x20000 = dq 0x0102030405060708

;; case device_by_user_code
;; mode user64
;; out rax=0xa5a5a5a5 rdx=0x05060708
mov ecx, 20
mov rsi, 0x25000
mov rdi, 0x20000
again: mov eax, [rsi]
xchg rsi, rdi
mov edx, eax
mov eax, [rsi]
xchg rsi, rdi
xchg eax, edx
dec ecx
jnz again

;; case device_by_supervisor_code_at_low_addresses
;; mode kernel64
;; out rax=0xa5a5a5a5 rdx=0x05060708
mov ecx, 20
mov rsi, 0x25000
mov rdi, 0x20000
again: mov eax, [rsi]
xchg rsi, rdi
mov edx, eax
mov eax, [rsi]
xchg rsi, rdi
xchg eax, edx
dec ecx
jnz again

