// System calls without a C library. Results as the kernel gives them: negative errnos.
#pragma once

#include <asm/unistd.h>

#include <cstdint>

namespace doppel::engine::translate::program {

inline long system_call(long number, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0,
                        std::uint64_t d = 0, std::uint64_t e = 0, std::uint64_t f = 0)
{
    long result = number;
    register std::uint64_t r10 asm("r10") = d;
    register std::uint64_t r8 asm("r8") = e;
    register std::uint64_t r9 asm("r9") = f;
    asm volatile("syscall"
                 : "+a"(result)
                 : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return result;
}

[[noreturn]] inline void leave(int status)
{
    for (;;) system_call(__NR_exit_group, static_cast<std::uint64_t>(status));
}

template <typename T>
std::uint64_t address_of(T* pointer)
{
    return reinterpret_cast<std::uint64_t>(pointer);
}

}  // namespace doppel::engine::translate::program
