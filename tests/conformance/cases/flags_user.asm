; Arithmetic, logic and shift flags at every operand size, in 64-bit user mode.

;; defaults
;; mode user64

;; case add64_carry_zero
;; in rax=0xffffffffffffffff rbx=1
;; out rax=0 rbx=1
;; flags CF ZF PF AF !OF !SF
add rax, rbx

;; case add32_clears_upper_half
;; in rax=0xffffffff80000000 rbx=0x80000000
;; out rax=0
;; flags CF ZF OF PF !SF !AF
add eax, ebx

;; case add16_keeps_upper_bits
;; in rax=0x1122334455667fff
;; out rax=0x1122334455668000
;; flags OF SF AF PF !CF !ZF
add ax, 1

;; case add8_overflow
;; in rax=0x7f
;; out rax=0x80
;; flags OF SF AF !CF !ZF !PF
add al, 1

;; case add8_high_byte
;; in rax=0x1234 rbx=0x0100
;; out rax=0x1334
;; flags !CF !OF !SF !ZF
add ah, bh

;; case add_imm8_sign_extends
;; in rax=0x10
;; out rax=0xf
;; flags CF !ZF !OF !AF
add rax, -1

;; case adc_uses_carry
;; in rax=1 rbx=2 rflags=0x3
;; out rax=4
;; flags !CF !ZF
adc rax, rbx

;; case adc_wraps_with_carry
;; in rax=0xffffffffffffffff rbx=0 rflags=0x3
;; out rax=0
;; flags CF ZF AF
adc rax, rbx

;; case sbb_same_register_carry
;; in rcx=0x1234 rflags=0x3
;; out rcx=0xffffffffffffffff
;; flags CF SF AF PF !ZF !OF
sbb rcx, rcx

;; case sbb_same_register_no_carry
;; in rcx=0x1234 rflags=0x2
;; out rcx=0
;; flags !CF ZF PF
sbb rcx, rcx

;; case sub_borrow
;; in rax=0 rbx=1
;; out rax=0xffffffffffffffff
;; flags CF SF AF PF !ZF !OF
sub rax, rbx

;; case sub8_overflow
;; in rax=0x80
;; out rax=0x7f
;; flags OF AF !CF !SF !ZF
sub al, 1

;; case cmp_equal
;; in rax=77 rbx=77
;; out rax=77
;; flags ZF PF !CF !SF !OF !AF
cmp rax, rbx

;; case cmp_below_signed_greater
;; in rax=1 rbx=0xffffffffffffffff
;; flags CF !ZF !SF !OF AF
cmp rax, rbx

;; case inc_keeps_carry
;; in rax=0xff rflags=0x3
;; out rax=0
;; flags CF ZF AF PF !OF
inc al

;; case inc_overflow
;; in rax=0x7fffffff
;; out rax=0x80000000
;; flags OF SF AF PF !ZF !CF
inc eax

;; case dec_keeps_carry_clear
;; in rax=0 rflags=0x2
;; out rax=0xffffffffffffffff
;; flags !CF SF AF PF !OF
dec rax

;; case dec_overflow16
;; in rax=0x8000
;; out rax=0x7fff
;; flags OF !SF AF PF
dec ax

;; case neg_zero
;; in rax=0
;; out rax=0
;; flags !CF ZF PF !OF
neg rax

;; case neg_min
;; in rax=0x80000000
;; out rax=0x80000000
;; flags CF OF SF PF !ZF
neg eax

;; case not_leaves_flags
;; in rax=0 rflags=0x8d7
;; out rax=0xffffffffffffffff
;; flags CF PF AF ZF SF OF
not rax

;; case and_clears_cf_of
;; in rax=0xf0f0 rbx=0x0ff0 rflags=0x803
;; out rax=0xf0
;; flags !CF !OF !SF !ZF PF
and rax, rbx

;; case and_sign
;; in rax=0x80000000
;; out rax=0x80000000
;; flags SF !ZF PF !CF !OF
and eax, eax

;; case or_zero
;; in rax=0 rbx=0
;; flags ZF PF !SF !CF !OF
or rax, rbx

;; case or_imm8_sign_extends
;; in rax=0
;; out rax=0xffffffffffffff80
;; flags SF !ZF !PF
or rax, -128

;; case xor_zeroes
;; in rax=0x1234567890
;; out rax=0
;; flags ZF PF !CF !OF !SF
xor eax, eax

;; case test_does_not_write
;; in rax=0xff00 rbx=0xff
;; out rax=0xff00 rbx=0xff
;; flags ZF PF !CF !OF
test rax, rbx

;; case test_imm8
;; in rax=0x80
;; flags SF !ZF !PF
test al, 0x80

;; case shl_by_one
;; in rax=0x4000000000000000
;; out rax=0x8000000000000000
;; flags OF SF !CF !ZF PF
shl rax, 1

;; case shl_carry_out
;; in rax=0xc000000000000000
;; out rax=0x8000000000000000
;; flags CF SF !OF
shl rax, 1

;; case shl_count_masked_to_zero_keeps_flags
;; in rax=5 rcx=64 rflags=0x8d7
;; out rax=5
;; flags CF PF AF ZF SF OF
shl rax, cl

;; case shl32_count_masked
;; in rax=1 rcx=33
;; out rax=2
;; flags !CF !ZF
shl eax, cl

;; case shl32_zero_count_clears_upper
;; in rax=0xffffffff00000001 rcx=32
;; out rax=1
shl eax, cl

;; case shr_by_one_of
;; in rax=0x8000000000000001
;; out rax=0x4000000000000000
;; flags CF OF !SF !ZF PF
shr rax, 1

;; case shr8_all_out
;; in rax=0xff rcx=8
;; out rax=0
;; flags CF ZF PF
shr al, cl

;; case sar_keeps_sign
;; in rax=0x8000000000000000
;; out rax=0xffffffffffffffff
;; flags !CF SF PF
sar rax, 63

;; case sar_one
;; in rax=3
;; out rax=1
;; flags CF !OF !ZF !SF !PF
sar rax, 1

;; case rol_one
;; in rax=0x8000000000000001 rflags=0x42
;; out rax=3
;; flags CF OF ZF
rol rax, 1

;; case rol8_by_eight
;; in rax=0x81
;; out rax=0x81
;; flags CF
rol al, 8

;; case ror_one
;; in rax=1
;; out rax=0x8000000000000000
;; flags CF OF
ror rax, 1

;; case ror16
;; in rax=0x11111234 rcx=4
;; out rax=0x11114123
;; flags !CF
ror ax, cl

;; case rcl_through_carry
;; in rax=0x8000000000000000 rflags=0x3
;; out rax=1
;; flags CF OF
rcl rax, 1

;; case rcl8_by_nine_is_identity
;; in rax=0xa5 rcx=9 rflags=0x3
;; out rax=0xa5
;; flags CF
rcl al, cl

;; case rcr_through_carry
;; in rax=1 rflags=0x2
;; out rax=0
;; flags CF !OF
rcr rax, 1

;; case rcr16_count_17
;; in rax=0x1234 rcx=17 rflags=0x3
;; out rax=0x1234
;; flags CF
rcr ax, cl

;; case shld_basic
;; in rax=0x1 rbx=0x8000000000000000
;; out rax=3
;; flags !CF
shld rax, rbx, 1

;; case shrd_basic
;; in rax=0x1 rbx=0x1
;; out rax=0x8000000000000000
;; flags CF SF OF
shrd rax, rbx, 1

;; case shld_cl_zero_keeps_flags
;; in rax=1 rbx=2 rcx=0 rflags=0x8d7
;; out rax=1
;; flags CF OF ZF SF
shld rax, rbx, cl

;; case mul_fits
;; in rax=5 rbx=6 rdx=0xffff
;; out rax=30 rdx=0
;; flags !CF !OF
mul rbx

;; case mul_overflows
;; in rax=0x8000000000000000 rbx=2
;; out rax=0 rdx=1
;; flags CF OF
mul rbx

;; case mul8_into_ax
;; in rax=0x11ff rbx=0xff
;; out rax=0xfe01
;; flags CF OF
mul bl

;; case mul32_zero_extends_both
;; in rax=0xffffffffffffffff rdx=0xffffffffffffffff rbx=0xffffffff
;; out rax=1 rdx=0xfffffffe
;; flags CF OF
mul ebx

;; case imul_two_operand
;; in rax=0xfffffffffffffffe rbx=3
;; out rax=0xfffffffffffffffa
;; flags !CF !OF
imul rax, rbx

;; case imul_overflow
;; in rax=0x4000000000000000 rbx=4
;; out rax=0
;; flags CF OF
imul rax, rbx

;; case imul_three_operand
;; in rbx=7
;; out rax=0xfffffffffffffff9
;; flags !CF !OF
imul rax, rbx, -1

;; case imul_one_operand
;; in rax=0xffffffffffffffff rbx=2
;; out rax=0xfffffffffffffffe rdx=0xffffffffffffffff
;; flags !CF !OF
imul rbx

;; case imul8_one_operand
;; in rax=0x80 rbx=2
;; out rax=0xff00
;; flags CF OF
imul bl

;; case div64
;; in rdx=1 rax=0 rbx=3
;; out rax=0x5555555555555555 rdx=1
div rbx

;; case div8
;; in rax=0x0107 rbx=0x10
;; out rax=0x0710
div bl

;; case div32_zero_extends
;; in rax=0xffffffff00000064 rdx=0xffffffff00000000 rbx=7
;; out rax=14 rdx=2
div ebx

;; case idiv_negative
;; in rax=0xfffffffffffffff9 rdx=0xffffffffffffffff rbx=2
;; out rax=0xfffffffffffffffd rdx=0xffffffffffffffff
idiv rbx

;; case div_by_zero
;; in rax=1 rdx=0 rcx=0
;; out rax=1 rdx=0
;; fault DE rip=here
here: div rcx

;; case div_overflow
;; in rax=0 rdx=5 rcx=5
;; out rax=0 rdx=5
;; fault DE rip=here
here: div rcx

;; case idiv_min_by_minus_one
;; in rax=0x80000000 rdx=0xffffffff rcx=0xffffffff
;; fault DE rip=here
here: idiv ecx

;; case idiv8_overflow
;; in rax=0x8000 rcx=1
;; fault DE rip=here
here: idiv cl

;; case bt_register
;; in rax=0x8 rbx=3
;; flags CF
bt rax, rbx

;; case bt_register_wraps
;; in rax=0x8 rbx=67
;; flags CF
bt rax, rbx

;; case bts_register
;; in rax=0 rbx=33
;; out rax=2
;; flags !CF
bts eax, ebx

;; case btr_imm
;; in rax=0xff
;; out rax=0x7f
;; flags CF
btr rax, 7

;; case btc_imm
;; in rax=0
;; out rax=0x8000000000000000
;; flags !CF
btc rax, 63

;; case bt_memory_far_bit
;; mem 0x20100 = 00 00 00 00 00 00 00 00 01
;; in rbx=64 rdi=0x20100
;; flags CF
bt [rdi], rbx

;; case bts_memory_negative_bit
;; in rbx=-1 rdi=0x20100
;; expect 0x200f8 = 00 00 00 00 00 00 00 80
;; flags !CF
bts qword [rdi], rbx

;; case btr_memory_16
;; mem 0x20100 = ff ff ff ff
;; in rbx=17 rdi=0x20100
;; expect 0x20100 = ff ff fd ff
;; flags CF
btr word [rdi], bx

;; case bsf_finds_lowest
;; in rbx=0x8010
;; out rax=4
;; flags !ZF
bsf rax, rbx

;; case bsf_zero_keeps_destination
;; in rax=0x99 rbx=0
;; out rax=0x99
;; flags ZF
bsf rax, rbx

;; case bsr_finds_highest
;; in rbx=0x8010
;; out rax=15
;; flags !ZF
bsr rax, rbx

;; case popcnt
;; in rbx=0xf0f0f0f0f0f0f0f0 rflags=0x8d7
;; out rax=32
;; flags !ZF !CF !OF !SF !PF !AF
popcnt rax, rbx

;; case tzcnt_zero
;; in rbx=0
;; out rax=64
;; flags CF !ZF
tzcnt rax, rbx

;; case lzcnt32
;; in rbx=0x10000
;; out rax=15
;; flags !CF !ZF
lzcnt eax, ebx

;; case bswap64
;; in rax=0x0102030405060708
;; out rax=0x0807060504030201
bswap rax

;; case bswap32
;; in rax=0xffffffff01020304
;; out rax=0x04030201
bswap eax

;; case movzx_byte
;; in rbx=0xfff2
;; out rax=0xf2
movzx eax, bl

;; case movzx_high_byte
;; in rbx=0xf2ff
;; out rax=0xf2
movzx eax, bh

;; case movsx_byte_16
;; in rax=0x1111111111111111 rbx=0x80
;; out rax=0x111111111111ff80
movsx ax, bl

;; case movsxd
;; in rbx=0x80000000
;; out rax=0xffffffff80000000
movsxd rax, ebx

;; case cbw_cwde_cdqe
;; in rax=0x80
;; out rax=0xffffffffffffff80
cbw
cwde
cdqe

;; case cqo
;; in rax=0x8000000000000000
;; out rdx=0xffffffffffffffff
cqo

;; case cwd
;; in rax=0x8000 rdx=0x1111111111111111
;; out rdx=0x111111111111ffff
cwd

;; case cmovcc_not_taken_clears_upper
;; in rax=0xffffffffffffffff rbx=5 rflags=0x2
;; out rax=0xffffffff
cmovz eax, ebx

;; case cmovcc_taken
;; in rax=1 rbx=5 rflags=0x42
;; out rax=5
cmovz rax, rbx

;; case setcc
;; in rax=0x1111 rflags=0x80
;; out rax=0x1101
sets al

;; case setl_uses_sf_of
;; in rax=0 rflags=0x882
;; out rax=0
setl al

;; case lahf
;; in rax=0 rflags=0xd7
;; out rax=0xd700
lahf

;; case sahf
;; in rax=0x4500 rflags=0x802
;; flags CF PF ZF OF !AF !SF
sahf

;; case clc_stc_cmc
;; in rflags=0x2
;; out rax=1
;; flags CF
mov eax, 0
stc
adc eax, eax
clc
cmc

;; case cld_std
;; flags DF
cld
std

;; case xadd
;; in rax=1 rbx=2
;; out rax=3 rbx=1
;; flags !CF !ZF PF
xadd rax, rbx

;; case xadd_same_register
;; in rax=4
;; out rax=8
xadd rax, rax

;; case cmpxchg_equal
;; in rax=5 rbx=5 rcx=9
;; out rbx=9 rax=5
;; flags ZF
cmpxchg rbx, rcx

;; case cmpxchg_differs
;; in rax=5 rbx=6 rcx=9
;; out rbx=6 rax=6
;; flags !ZF CF
cmpxchg rbx, rcx

;; case cmpxchg32_failure_zero_extends_rax
;; in rax=0xffffffff00000005 rbx=0xffffffff00000006 rcx=9
;; out rax=6
;; flags !ZF
cmpxchg ebx, ecx

;; case cmpxchg8b_equal
;; mem 0x20000 = dq 0x1111111122222222
;; in rax=0x22222222 rdx=0x11111111 rbx=0x44444444 rcx=0x33333333
;; expect 0x20000 = dq 0x3333333344444444
;; flags ZF
lock cmpxchg8b [0x20000]

;; case cmpxchg16b_differs
;; mem 0x20000 = dq 1 2
;; in rax=9 rdx=9 rbx=3 rcx=4
;; out rax=1 rdx=2
;; expect 0x20000 = dq 1 2
;; flags !ZF
lock cmpxchg16b [0x20000]

;; case cmpxchg16b_equal
;; mem 0x20000 = dq 1 2
;; in rax=1 rdx=2 rbx=3 rcx=4
;; expect 0x20000 = dq 3 4
;; flags ZF
lock cmpxchg16b [0x20000]

;; case cmpxchg16b_misaligned
;; fault GP error=0 rip=here
here: lock cmpxchg16b [0x20008]

;; case lock_add_memory
;; mem 0x20000 = dq 41
;; expect 0x20000 = dq 42
;; flags !ZF !CF
lock add qword [0x20000], 1

;; case lock_on_register_is_ud
;; fault UD rip=here
here: db 0xf0, 0x48, 0x01, 0xd8

;; case lock_on_mov_is_ud
;; fault UD rip=here
here: db 0xf0, 0x89, 0x07

;; case xchg_memory
;; mem 0x20000 = dq 7
;; in rax=8
;; out rax=7
;; expect 0x20000 = dq 8
xchg rax, [0x20000]

;; case xchg_high_low
;; in rax=0x1234
;; out rax=0x3412
xchg al, ah

;; case nop_is_not_xchg_eax
;; in rax=0xffffffffffffffff
;; out rax=0xffffffffffffffff
nop

;; case xchg_r8_eax_is_not_nop
;; in rax=1 r8=2
;; out rax=2 r8=1
xchg r8, rax

;; case lea_truncates_32
;; in rax=0xffffffff rbx=2
;; out rcx=1
lea ecx, [rax + rbx]

;; case lea_address_size_32
;; in rax=0xffffffff rbx=2
;; out rcx=1
lea rcx, [eax + ebx]

;; case lea_scaled
;; in rax=0x1000 rbx=0x10
;; out rcx=0x1083
lea rcx, [rax + rbx*8 + 3]

;; case mulx
;; in rdx=0x8000000000000000 rbx=4 rflags=0x8d7
;; out rax=2 rcx=0
;; flags CF OF ZF
mulx rax, rcx, rbx

;; case andn
;; in rax=0xff rbx=0xf0
;; out rcx=0xf00
;; flags !ZF !SF !CF !OF
mov eax, 0xff
mov ebx, 0xfff
andn rcx, rax, rbx

;; case adcx_only_carry
;; in rax=0xffffffffffffffff rbx=1 rflags=0x802
;; out rax=0
;; flags CF OF !ZF
adcx rax, rbx

;; case crc32
;; in rax=0 rbx=0x61
;; out rax=0x93ad1061
crc32 eax, bl

;; case rorx_keeps_flags
;; in rbx=1 rflags=0x8d7
;; out rax=0x8000000000000000
;; flags CF ZF SF OF
rorx rax, rbx, 1

;; case pext
;; in rax=0xabcd rbx=0xff00
;; out rcx=0xab
pext rcx, rax, rbx

;; case movbe_load
;; mem 0x20000 = 01 02 03 04
;; out rax=0x01020304
movbe eax, [0x20000]
