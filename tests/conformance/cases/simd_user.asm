; Vector and floating point in 64-bit user mode.

;; defaults
;; mode user64

;; case addsd
;; in xmm0l=0x3ff0000000000000 xmm1l=0x4000000000000000
;; out xmm0l=0x4008000000000000
addsd xmm0, xmm1

;; case addsd_keeps_upper_half
;; in xmm0l=0x3ff0000000000000 xmm0h=0x1234 xmm1l=0x4000000000000000
;; out xmm0h=0x1234
addsd xmm0, xmm1

;; case movq_clears_upper
;; in xmm0h=0x1234 rax=0x99
;; out xmm0l=0x99 xmm0h=0
movq xmm0, rax

;; case movd_from_xmm
;; in xmm3l=0x1122334455667788
;; out rax=0x55667788
movd eax, xmm3

;; case paddd_memory
;; mem 0x20010 = dd 1 2 3 4
;; in xmm0l=0x0000000100000001 xmm0h=0x0000000100000001
;; out xmm0l=0x0000000300000002 xmm0h=0x0000000500000004
paddd xmm0, [0x20010]

;; case paddd_misaligned_memory_is_gp
;; skip emulated_kvm
;; fault GP error=0 rip=here
here: paddd xmm0, [0x20018]

;; case movaps_misaligned_store_is_gp
;; fault GP error=0 rip=here
here: movaps [0x20008], xmm0

;; case movups_misaligned
;; mem 0x20003 = dq 5 6
;; out xmm0l=5 xmm0h=6
movups xmm0, [0x20003]

;; case movups_crosses_into_hole
;; fault PF error=4 cr2=0x22000 rip=here
here: movups xmm0, [0x21ff8]

;; case movups_store_to_read_only
;; fault PF error=7 cr2=0x23000 rip=here
here: movups [0x23000], xmm0

;; case vpaddd_misaligned_memory_is_fine
;; mem 0x20008 = dd 1 2 3 4
;; in xmm1l=0 xmm1h=0
;; out xmm0l=0x0000000200000001 xmm0h=0x0000000400000003
vpaddd xmm0, xmm1, [0x20008]

;; case ucomisd_flags
;; in xmm0l=0x3ff0000000000000 xmm1l=0x4000000000000000 rflags=0x8d7
;; flags CF !ZF !PF !OF !SF !AF
ucomisd xmm0, xmm1

;; case ucomisd_nan
;; in xmm0l=0x7ff8000000000000 xmm1l=0x4000000000000000
;; flags CF ZF PF
ucomisd xmm0, xmm1

;; case cvttsd2si_overflow
;; in xmm0l=0x7fe0000000000000
;; out rax=0x8000000000000000
cvttsd2si rax, xmm0

;; case cvtsi2sd
;; in rax=-2
;; out xmm0l=0xc000000000000000
cvtsi2sd xmm0, rax

;; case sse_divide_by_zero_masked
;; in xmm0l=0x3ff0000000000000 xmm1l=0
;; out xmm0l=0x7ff0000000000000 mxcsr=0x1f84
divsd xmm0, xmm1

;; case sse_divide_by_zero_unmasked
;; in xmm0l=0x3ff0000000000000 xmm1l=0 mxcsr=0x1d80
;; out mxcsr=0x1d84
;; fault XM rip=here
here: divsd xmm0, xmm1

;; case ldmxcsr_reserved_is_gp
;; skip emulated_kvm
;; mem 0x20000 = dd 0x10000
;; fault GP error=0 rip=here
here: ldmxcsr [0x20000]

;; case stmxcsr
;; expect 0x20000 = 80 1f 00 00
stmxcsr [0x20000]

;; case aesenc
;; in xmm0l=0 xmm0h=0 xmm1l=0 xmm1h=0
;; out xmm0l=0x6363636363636363 xmm0h=0x6363636363636363
aesenc xmm0, xmm1

;; case pclmulqdq
;; in xmm0l=3 xmm1l=3
;; out xmm0l=5 xmm0h=0
pclmulqdq xmm0, xmm1, 0

;; case pshufb
;; in xmm0l=0x0706050403020100 xmm0h=0x0f0e0d0c0b0a0908 xmm1l=0x08090a0b0c0d0e0f xmm1h=0x8080808080808080
;; out xmm0l=0x08090a0b0c0d0e0f xmm0h=0
pshufb xmm0, xmm1

;; case pcmpistri
;; in xmm0l=0x62 xmm0h=0 xmm1l=0x646362610000 xmm1h=0 rcx=0
;; flags ZF
pcmpistri xmm0, xmm1, 0

;; case pmovmskb
;; in xmm0l=0x80ff7f0080000000 xmm0h=0xff
;; out rax=0x1c8
pmovmskb eax, xmm0

;; case vpmaskmovd_load_suppresses_faults
;; mem 0x21ff8 = dd 7 8
;; in xmm1l=0x8000000080000000 xmm1h=0
;; out xmm0l=0x0000000800000007 xmm0h=0
vpmaskmovd xmm0, xmm1, [0x21ff8]

;; case vpmaskmovd_store_suppresses_faults
;; in xmm1l=0x8000000080000000 xmm1h=0 xmm0l=0x0000000200000001
;; expect 0x21ff8 = dd 1 2
vpmaskmovd [0x21ff8], xmm1, xmm0

;; case vpgatherdd_partial_fault_keeps_progress
;; mem 0x20000 = dd 0x11
;; in xmm0l=0 xmm0h=0 xmm1l=0x0000080000000000 xmm1h=0 xmm2l=0x8000000080000000 xmm2h=0 rax=0x20000
;; out xmm2l=0xffffffff00000000
;; fault PF error=4 cr2=0x22000 rip=here
here: vpgatherdd xmm0, [rax + xmm1*4], xmm2

;; case vzeroupper_avx_state
;; in xmm0l=5
;; out xmm0l=5
vzeroupper

;; case avx512_masked_load_suppresses_faults
;; mem 0x21ff8 = dd 3 4
;; out xmm0l=0x0000000400000003 xmm0h=0
mov eax, 3
kmovw k1, eax
vmovdqu32 xmm0{k1}{z}, [0x21ff8]

;; case avx512_masked_store
;; expect 0x21ff8 = dd 1 1
mov eax, 1
vpbroadcastd zmm0, eax
mov eax, 3
kmovw k1, eax
vmovdqu32 [0x21ff8]{k1}, zmm0

;; case x87_load_store
;; mem 0x20000 = dq 0x4008000000000000
;; expect 0x20010 = dq 0x4018000000000000
fld qword [0x20000]
fadd st0, st0
fstp qword [0x20010]

;; case x87_fild_fistp
;; mem 0x20000 = dq 0xfffffffffffffff9
;; expect 0x20010 = f9 ff ff ff
fild qword [0x20000]
fistp dword [0x20010]

;; case x87_compare_flags
;; flags CF !ZF !PF
fld1
fldz
fcomip st0, st1

;; case x87_status_word
;; out rax=0x3800
xor eax, eax
fld1
fnstsw ax

;; case x87_divide_by_zero_unmasked
;; in fcw=0x37b
;; fault MF rip=here
fld1
fldz
fdivp st1, st0
here: fwait

;; case x87_80_bit
;; mem 0x20000 = 00 00 00 00 00 00 00 80 ff 3f
;; expect 0x20010 = 00 00 00 00 00 00 00 80 00 40
fld tword [0x20000]
fadd st0, st0
fstp tword [0x20010]

;; case fninit_resets
;; in fcw=0x27f
;; out fcw=0x37f
fninit

;; case mmx_add
;; out rax=3
mov eax, 1
movd mm0, eax
mov eax, 2
movd mm1, eax
paddd mm0, mm1
movd eax, mm0
emms

;; case fxsave_saves_xmm
;; in xmm5l=0x1234567890
;; expect 0x201f0 = dq 0x1234567890
fxsave [0x20100]

;; case fxsave_misaligned
;; skip emulated_kvm
;; fault GP error=0 rip=here
here: fxsave [0x20108]

;; case fxrstor_loads_xmm
;; mem 0x20100 = 7f 03
;; mem 0x20118 = dd 0x1f80
;; mem 0x201f0 = dq 0x77
;; out xmm5l=0x77
fxrstor [0x20100]

;; case fxrstor_bad_mxcsr
;; mem 0x20118 = dd 0xffff0000
;; fault GP error=0 rip=here
here: fxrstor [0x20100]

;; case xsave_xrstor_round_trip
;; in xmm7l=0xabcdef
;; out xmm7l=0xabcdef
mov eax, 3
xor edx, edx
xsave [0x20100]
pxor xmm7, xmm7
xrstor [0x20100]

;; case xsave_misaligned
;; fault GP error=0 rip=here
mov eax, 3
xor edx, edx
here: xsave [0x20110]

;; case xrstor_reserved_header_is_gp
;; mem 0x20310 = dq 1
;; fault GP error=0 rip=here
mov eax, 3
xor edx, edx
here: xrstor [0x20100]

;; case xgetbv_reads_xcr0
;; out rdx=0
xor ecx, ecx
xgetbv
and eax, 3
xor edx, edx
cmp eax, 3
je good
ud2
good:

;; case rdrand_answers
;; flags CF
again: rdrand rax
jnc again

;; case misaligned_operand_on_missing_page_is_gp
;; skip emulated_kvm
;; fault GP error=0 rip=here
here: addps xmm0, [0x22008]

;; case misaligned_non_canonical_through_ss_is_gp
;; skip emulated_kvm
;; in rbp=0x8000000000000008
;; fault GP error=0 rip=here
here: orps xmm1, [rbp]

;; case simd_exception_of_an_mmx_conversion
;; skip emulated_kvm
;; in xmm4l=0x7fc000007f800001 mxcsr=0x1f00
;; fault XM rip=here
here: cvtps2pi mm1, xmm4

; Registers that the guest has not turned on: what needs none of them runs all the same.

;; case simd_sse_without_xsave
;; skip native,emulated_kvm
;; in cr4=0x620 xmm0l=0x3ff0000000000000 xmm1l=0x4000000000000000
;; out xmm0l=0x4008000000000000
;; fault UD rip=here
addsd xmm0, xmm1
here: vaddsd xmm0, xmm0, xmm1

;; case simd_avx512_off
;; skip native,emulated_kvm
;; in xcr0=7 xmm0l=0x3ff0000000000000 xmm1l=0x4000000000000000
;; out xmm0l=0x4008000000000000
;; fault UD rip=here
vaddsd xmm0, xmm0, xmm1
here: vpaddd zmm0, zmm1, zmm2

;; case simd_mask_registers_off
;; skip native,emulated_kvm
;; in xcr0=7
;; fault UD rip=here
here: kmovw k1, eax

;; case simd_avx_off
;; skip native,emulated_kvm
;; in xcr0=3 rcx=3 rdx=5
;; out rax=4
;; fault UD rip=here
andn eax, ecx, edx
here: vpaddd ymm0, ymm1, ymm2

;; case simd_x87_without_xsave_in_32_bit_code
;; mode compat32
;; skip emulated_kvm
;; in cr4=0x620
;; expect 0x20000 = dd 0x40490fdb
fldpi
fstp dword [0x20000]
