; VMCALL and VMMCALL as KVM's hypercalls (Linux Documentation/virt/kvm/x86/hypercalls.rst).

;; defaults
;; mode kernel64
;; skip native,emulated_kvm

;; case hypercall_unknown
;; in rbx=1 rcx=2 rdx=3 rsi=4
;; out rax=0xfffffffffffffc18 rbx=1 rcx=2 rdx=3 rsi=4
mov eax, 4711
vmcall

;; case hypercall_number_has_64_bits
;; out rax=0xfffffffffffffc18
mov rax, 0x100000005
xor ecx, ecx
vmcall

;; case hypercall_by_the_other_instruction
;; out rax=0xfffffffffffffc18
mov eax, 4711
vmmcall

;; case hypercall_unknown_in_32_bits
;; mode prot32
;; out rax=0xfffffc18
mov eax, 4711
vmcall

;; case hypercall_of_a_program
;; mode user64
;; out rax=0xffffffffffffffff
mov eax, 5
xor ecx, ecx
vmcall

;; case hypercall_of_a_32_bit_program
;; mode compat32
;; out rax=0xffffffff
mov eax, 5
xor ecx, ecx
vmcall

;; case hypercall_kick_ends_the_next_halt
;; out rax=0 rbx=0x55
mov eax, 5
xor ebx, ebx
xor ecx, ecx
vmcall
hlt
mov ebx, 0x55

;; case hypercall_kick_of_nobody
;; out rax=0
mov eax, 5
xor ebx, ebx
mov rcx, -1
vmcall

;; case hypercall_yield_to_nobody
;; out rax=0
mov eax, 11
mov rbx, -1
vmcall

;; case hypercall_ipi_for_a_disabled_apic
;; out rax=0
mov eax, 10
mov rbx, -1
mov rcx, -1
xor edx, edx
mov esi, 0x40
vmcall

;; case hypercall_ipi_beyond_all
;; out rax=0
mov eax, 10
mov rbx, -1
mov rcx, -1
mov rdx, 0xffffffff
mov esi, 0x400
vmcall

;; case hypercall_ipi_to_logical_destinations
;; out rax=0xffffffffffffffea
mov eax, 10
mov ebx, 1
xor ecx, ecx
xor edx, edx
mov esi, 0x840
vmcall

;; case hypercall_ipi_to_all
;; out rax=0xffffffffffffffea
mov eax, 10
mov ebx, 1
xor ecx, ecx
xor edx, edx
mov esi, 0x80040
vmcall
