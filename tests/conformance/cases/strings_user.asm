; String instructions: every width, direction, prefix, and faults in the middle.

;; defaults
;; mode user64

;; case movsb
;; mem 0x20000 = aa
;; in rsi=0x20000 rdi=0x20100
;; out rsi=0x20001 rdi=0x20101
;; expect 0x20100 = aa
movsb

;; case movsq_backwards
;; mem 0x20000 = dq 0x1234
;; in rsi=0x20000 rdi=0x20100
;; out rsi=0x1fff8 rdi=0x200f8
;; expect 0x20100 = dq 0x1234
std
movsq
cld

;; case rep_movsb
;; mem 0x20000 = 01 02 03 04 05 06 07
;; in rsi=0x20000 rdi=0x20100 rcx=7
;; out rsi=0x20007 rdi=0x20107 rcx=0
;; expect 0x20100 = 01 02 03 04 05 06 07 00
rep movsb

;; case rep_movsb_zero_count
;; in rsi=0x22000 rdi=0x22000 rcx=0
;; out rsi=0x22000 rdi=0x22000 rcx=0
rep movsb

;; case rep_movsb_overlapping_propagates
;; mem 0x20000 = 55
;; in rsi=0x20000 rdi=0x20001 rcx=7
;; expect 0x20000 = 55 55 55 55 55 55 55 55 00
rep movsb

;; case rep_movsb_backwards
;; mem 0x20000 = 01 02 03 04
;; in rsi=0x20003 rdi=0x20004 rcx=4 rflags=0x402
;; out rsi=0x1ffff rdi=0x20000 rcx=0
;; expect 0x20000 = 01 01 02 03 04
rep movsb

;; case rep_movsq_crosses_page
;; mem 0x20ff8 = dq 1 2
;; in rsi=0x20ff8 rdi=0x20100 rcx=2
;; expect 0x20100 = dq 1 2
rep movsq

;; case rep_movsd_faults_in_the_middle
;; mem 0x21ff8 = dd 1 2
;; in rsi=0x21ff8 rdi=0x20100 rcx=4
;; out rsi=0x22000 rdi=0x20108 rcx=2
;; expect 0x20100 = dd 1 2 0
;; fault PF error=4 cr2=0x22000 rip=here
here: rep movsd

;; case rep_stosb
;; in rdi=0x20100 rcx=5 rax=0x77
;; out rdi=0x20105 rcx=0
;; expect 0x20100 = 77 77 77 77 77 00
rep stosb

;; case rep_stosq
;; in rdi=0x20100 rcx=3 rax=0x1122334455667788
;; expect 0x20108 = dq 0x1122334455667788 0x1122334455667788 0
rep stosq

;; case rep_stosb_faults_at_read_only
;; in rdi=0x22ffc rcx=8
;; fault PF error=6 cr2=0x22ffc rip=here
here: rep stosb

;; case rep_stosw_into_hole
;; in rdi=0x21ffc rcx=8 rax=0xabcd
;; out rdi=0x22000 rcx=6
;; expect 0x21ffc = cd ab cd ab
;; fault PF error=6 cr2=0x22000 rip=here
here: rep stosw

;; case lodsb
;; mem 0x20000 = 9c
;; in rsi=0x20000 rax=0x1100
;; out rsi=0x20001 rax=0x119c
lodsb

;; case lodsd_zero_extends
;; mem 0x20000 = dd 0x80000000
;; in rsi=0x20000 rax=-1
;; out rax=0x80000000
lodsd

;; case rep_lodsw_keeps_last
;; mem 0x20000 = 01 00 02 00 03 00
;; in rsi=0x20000 rcx=3 rax=0
;; out rax=3 rcx=0
rep lodsw

;; case scasb_repne_finds
;; mem 0x20000 = 01 02 03 04
;; in rdi=0x20000 rcx=10 rax=3
;; out rdi=0x20003 rcx=7
;; flags ZF
repne scasb

;; case scasb_repne_not_found
;; in rdi=0x20000 rcx=4 rax=3
;; out rdi=0x20004 rcx=0
;; flags !ZF
repne scasb

;; case scasq_repe
;; mem 0x20000 = dq 5 5 6
;; in rdi=0x20000 rcx=9 rax=5
;; out rdi=0x20018 rcx=6
;; flags !ZF CF
repe scasq

;; case scas_zero_count_keeps_flags
;; in rdi=0x20000 rcx=0 rflags=0x8d7
;; flags ZF CF OF SF
repe scasb

;; case cmpsb_repe_differs
;; mem 0x20000 = 01 02 03
;; mem 0x20100 = 01 02 04
;; in rsi=0x20000 rdi=0x20100 rcx=8
;; out rcx=5 rsi=0x20003 rdi=0x20103
;; flags !ZF CF SF
repe cmpsb

;; case cmpsq_equal
;; mem 0x20000 = dq 1
;; mem 0x20100 = dq 1
;; in rsi=0x20000 rdi=0x20100
;; flags ZF !CF
cmpsq

;; case movsb_address_size_32
;; mem 0x20000 = 5a
;; in rsi=0xffffffff00020000 rdi=0xffffffff00020100 rcx=0xffffffff00000001
;; out rsi=0x20001 rdi=0x20101 rcx=0
;; expect 0x20100 = 5a
a32 rep movsb

;; case stosb_rep_large_crossing
;; in rdi=0x20800 rcx=0x1000 rax=0x11
;; out rdi=0x21800 rcx=0
;; expect 0x20fff = 11 11
;; expect 0x217ff = 11 00
rep stosb

;; case outsb_needs_permission
;; in rsi=0x20000 rdx=0x60
;; fault GP error=0 rip=here
here: outsb

;; case insb_checks_permission_before_memory
;; in rdi=0x22000 rdx=0x60
;; fault GP error=0 rip=here
here: insb

;; case cmps_reads_destination_first
;; skip emulated_kvm
;; in rsi=0x22000 rdi=0x22800
;; fault PF error=4 cr2=0x22800 rip=here
here: cmpsb

;; case repne_scas_fault_shows_flags_from_before
;; skip emulated_kvm
;; in rdi=0x21ffc rcx=8 rax=5 rflags=0x8d7
;; out rcx=4 rdi=0x22000
;; flags CF ZF SF OF
;; fault PF error=4 cr2=0x22000 rip=here
here: repne scasb
