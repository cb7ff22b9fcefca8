; SYSCALL from ring 3. Not where KVM is software: there such code runs as it is, and arrives in
; the kernel with ring 3's segments.

;; defaults
;; mode user64
;; skip native,emulated_kvm
;; in star=0x800000000 lstar=0x10040 fmask=0x40700 rflags=0x40602

;; case syscall_into_the_kernel
;; out cs=8 ss=0x10 rcx=0x10002 r11=0x40602 rsp=0x30800
;; flags !IF !DF !AC
syscall
times 0x40 - 2 nop

;; case syscall_clears_rf_alone_without_a_mask
;; in fmask=0
;; out r11=0x40602
;; flags IF DF AC !RF
syscall
times 0x40 - 2 nop

;; case syscall_may_use_supervisor_pages
;; mem 0x24000 = dq 0x1234
;; out rbx=0x1234 cs=8
syscall
times 0x40 - 2 nop
mov rbx, [0x24000]

;; case syscall_ignores_the_descriptor
;; mem 0x8008 = dq 0
;; out cs=8 rcx=0x10002
syscall
times 0x40 - 2 nop

;; case syscall_switched_off
;; in efer=0xd00
;; fault UD rip=here
here: syscall
times 0x40 - 2 nop

;; case sysret_comes_back
;; in star=0x30000800000000
;; out cs=0x43 ss=0x3b rcx=0x10002 rbx=1
;; flags IF DF AC
syscall
mov ebx, 1
jmp done
times 0x40 - ($ - $$) nop
o64 sysret
done: nop
