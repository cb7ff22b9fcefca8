;; defaults
;; mode user64

;; case add64_carry_zero
;; in rax=0xffffffffffffffff rbx=1
;; out rax=0 rbx=1
;; flags CF ZF PF AF !OF !SF
add rax, rbx

;; case load_from_hole_faults
;; fault PF error=4 cr2=0x22008 rip=here
mov rcx, 5
here: mov rax, [0x22008]

;; case store_to_read_only_faults
;; fault PF error=7 cr2=0x23010 rip=here
here: mov dword [0x23010], 1

;; case sse_add
;; in xmm0l=0x3ff0000000000000 xmm1l=0x4000000000000000
;; out xmm0l=0x4008000000000000
addsd xmm0, xmm1

;; case div_by_zero
;; in rax=1 rdx=0 rcx=0
;; fault DE rip=here
here: div rcx

;; case memory_value
;; mem 0x20000 = dq 0x1122334455667788
;; out rax=0x44556677
;; expect 0x20010 = 77 66 55 44
mov eax, [0x20001]
mov [0x20010], eax
