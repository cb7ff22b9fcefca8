// Numbers that the program's assembly shares with its C++, which asserts them (program.cpp).
#pragma once

#define PROGRAM_GPR 0x00
#define PROGRAM_FLAGS 0x80
#define PROGRAM_FS_BASE 0xe8
#define PROGRAM_GS_BASE 0xf0

#define PROGRAM_ACTIONS 128
#define PROGRAM_HOST_RIP 136
#define PROGRAM_KICKED 152

#define PROGRAM_NEW_CODE 8
#define PROGRAM_SINGLE_STEP 64

#define PROGRAM_STACK_SIZE 16384
#define PROGRAM_SIGNAL_STACK_SIZE 65536
