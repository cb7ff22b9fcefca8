# The script of `doppel image debian`.
        .section .rodata
        .globl doppel_debian_script, doppel_debian_script_end
doppel_debian_script:
        .incbin DOPPEL_DEBIAN_SCRIPT
doppel_debian_script_end:
        .section .note.GNU-stack,"",@progbits
