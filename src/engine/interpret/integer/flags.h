// Arithmetic with the host's own flags: each operation is the host's instruction, and its
// status flags are taken with LAHF and SETO, so that even the undefined ones are what this
// processor gives.
#pragma once

#include <cstdint>

namespace doppel::engine::interpret {

using Flags = std::uint16_t;  // as Core::flags

namespace packed {
inline constexpr unsigned CF = 1u << 8, PF = 1u << 10, AF = 1u << 12, ZF = 1u << 14, SF = 1u << 15,
    OF = 1u << 0;
}

// Condition codes in encoding order (SDM volume 1 appendix B).
template <unsigned code>
inline bool condition(Flags flags)
{
    bool met = false;
    switch (code >> 1) {
    case 0: met = (flags & packed::OF) != 0; break;
    case 1: met = (flags & packed::CF) != 0; break;
    case 2: met = (flags & packed::ZF) != 0; break;
    case 3: met = (flags & (packed::CF | packed::ZF)) != 0; break;
    case 4: met = (flags & packed::SF) != 0; break;
    case 5: met = (flags & packed::PF) != 0; break;
    case 6: met = (((flags >> 15) ^ flags) & 1) != 0; break;
    case 7: met = (((flags >> 15) ^ flags) & 1) != 0 || (flags & packed::ZF) != 0; break;
    default: break;
    }
    return met != ((code & 1) != 0);
}

// AX has the guest's flags: makes them the host's. OF comes from adding 0x7f to 0 or 1.
#define DOPPEL_RESTORE_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
#define DOPPEL_TAKE_FLAGS "\n\tlahf\n\tseto %%al"

// SAFETY of all asm below: operates on registers only, AX is named as operand, "cc" clobbered.

// a = a op b, flags written whole.
#define DOPPEL_BINARY(Name, text)                                                            \
    struct Name {                                                                            \
        static constexpr bool writes = true;                                                 \
        template <typename T>                                                                \
        static T run(T a, T b, Flags& flags)                                                 \
        {                                                                                    \
            Flags f;                                                                         \
            asm(text " %[b], %[a]" DOPPEL_TAKE_FLAGS                                         \
                : [a] "+r"(a), [f] "=&a"(f)                                                  \
                : [b] "r"(b)                                                                 \
                : "cc");                                                                     \
            flags = f;                                                                       \
            return a;                                                                        \
        }                                                                                    \
    }
// a = a op b with carry in.
#define DOPPEL_BINARY_CARRY(Name, text)                                                      \
    struct Name {                                                                            \
        static constexpr bool writes = true;                                                 \
        template <typename T>                                                                \
        static T run(T a, T b, Flags& flags)                                                 \
        {                                                                                    \
            Flags f = flags;                                                                 \
            asm("btw $8, %w[f]\n\t" text " %[b], %[a]" DOPPEL_TAKE_FLAGS                     \
                : [a] "+&r"(a), [f] "+&a"(f)                                                 \
                : [b] "r"(b)                                                                 \
                : "cc");                                                                     \
            flags = f;                                                                       \
            return a;                                                                        \
        }                                                                                    \
    }
// Flags only.
#define DOPPEL_COMPARE(Name, text)                                                           \
    struct Name {                                                                            \
        static constexpr bool writes = false;                                                \
        template <typename T>                                                                \
        static T run(T a, T b, Flags& flags)                                                 \
        {                                                                                    \
            Flags f;                                                                         \
            asm(text " %[b], %[a]" DOPPEL_TAKE_FLAGS                                         \
                : [f] "=&a"(f)                                                               \
                : [a] "r"(a), [b] "r"(b)                                                     \
                : "cc");                                                                     \
            flags = f;                                                                       \
            return a;                                                                        \
        }                                                                                    \
    }
// a = op a, the flags it leaves alone kept.
#define DOPPEL_UNARY(Name, text)                                                             \
    struct Name {                                                                            \
        template <typename T>                                                                \
        static T run(T a, Flags& flags)                                                      \
        {                                                                                    \
            Flags f = flags;                                                                 \
            asm("btw $8, %w[f]\n\t" text " %[a]" DOPPEL_TAKE_FLAGS                           \
                : [a] "+&r"(a), [f] "+&a"(f)                                                 \
                :                                                                            \
                : "cc");                                                                     \
            flags = f;                                                                       \
            return a;                                                                        \
        }                                                                                    \
    }
// a = a op CL, flags restored before: a count of zero keeps them.
#define DOPPEL_SHIFT(Name, text)                                                             \
    struct Name {                                                                            \
        template <typename T>                                                                \
        static T run(T a, std::uint8_t count, Flags& flags)                                  \
        {                                                                                    \
            Flags f = flags;                                                                 \
            asm(DOPPEL_RESTORE_FLAGS text " %%cl, %[a]" DOPPEL_TAKE_FLAGS                    \
                : [a] "+&r"(a), [f] "+&a"(f)                                                 \
                : "c"(count)                                                                 \
                : "cc");                                                                     \
            flags = f;                                                                       \
            return a;                                                                        \
        }                                                                                    \
    }
// a = a op b, CL; not for bytes.
#define DOPPEL_DOUBLE_SHIFT(Name, text)                                                      \
    struct Name {                                                                            \
        template <typename T>                                                                \
        static T run(T a, T b, std::uint8_t count, Flags& flags)                             \
        {                                                                                    \
            Flags f = flags;                                                                 \
            asm(DOPPEL_RESTORE_FLAGS text " %%cl, %[b], %[a]" DOPPEL_TAKE_FLAGS              \
                : [a] "+&r"(a), [f] "+&a"(f)                                                 \
                : [b] "r"(b), "c"(count)                                                     \
                : "cc");                                                                     \
            flags = f;                                                                       \
            return a;                                                                        \
        }                                                                                    \
    }
// a = a op b with all flags restored before.
#define DOPPEL_BINARY_KEEP(Name, text)                                                       \
    struct Name {                                                                            \
        static constexpr bool writes = true;                                                 \
        template <typename T>                                                                \
        static T run(T a, T b, Flags& flags)                                                 \
        {                                                                                    \
            Flags f = flags;                                                                 \
            asm(DOPPEL_RESTORE_FLAGS text " %[b], %[a]" DOPPEL_TAKE_FLAGS                    \
                : [a] "+&r"(a), [f] "+&a"(f)                                                 \
                : [b] "r"(b)                                                                 \
                : "cc");                                                                     \
            flags = f;                                                                       \
            return a;                                                                        \
        }                                                                                    \
    }

DOPPEL_BINARY(Add, "add");
DOPPEL_BINARY(Or, "or");
DOPPEL_BINARY_CARRY(Adc, "adc");
DOPPEL_BINARY_CARRY(Sbb, "sbb");
DOPPEL_BINARY(And, "and");
DOPPEL_BINARY(Sub, "sub");
DOPPEL_BINARY(Xor, "xor");
DOPPEL_COMPARE(Cmp, "cmp");
DOPPEL_COMPARE(Test, "test");
DOPPEL_UNARY(Inc, "inc");
DOPPEL_UNARY(Dec, "dec");
DOPPEL_UNARY(Neg, "neg");
DOPPEL_SHIFT(Rol, "rol");
DOPPEL_SHIFT(Ror, "ror");
DOPPEL_SHIFT(Rcl, "rcl");
DOPPEL_SHIFT(Rcr, "rcr");
DOPPEL_SHIFT(Shl, "shl");
DOPPEL_SHIFT(Shr, "shr");
DOPPEL_SHIFT(Sar, "sar");
DOPPEL_DOUBLE_SHIFT(Shld, "shld");
DOPPEL_DOUBLE_SHIFT(Shrd, "shrd");
DOPPEL_BINARY_KEEP(Imul, "imul");
DOPPEL_BINARY_KEEP(Bt, "bt");
DOPPEL_BINARY_KEEP(Bts, "bts");
DOPPEL_BINARY_KEEP(Btr, "btr");
DOPPEL_BINARY_KEEP(Btc, "btc");
DOPPEL_BINARY_KEEP(Bsf, "bsf");
DOPPEL_BINARY_KEEP(Bsr, "bsr");
DOPPEL_BINARY_KEEP(Popcnt, "popcnt");
DOPPEL_BINARY_KEEP(Lzcnt, "lzcnt");
DOPPEL_BINARY_KEEP(Tzcnt, "tzcnt");

struct Not {
    template <typename T>
    static T run(T a, Flags&)
    {
        return static_cast<T>(~a);
    }
};

#undef DOPPEL_BINARY
#undef DOPPEL_BINARY_CARRY
#undef DOPPEL_COMPARE
#undef DOPPEL_UNARY
#undef DOPPEL_SHIFT
#undef DOPPEL_DOUBLE_SHIFT
#undef DOPPEL_BINARY_KEEP

}  // namespace doppel::engine::interpret
