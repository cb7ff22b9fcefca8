// Guest state in the middle of a translation.
#include "engine/translate/block/recover.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/translate/layout.h"
#include "x86/cpu_state.h"

namespace doppel::engine::translate {
namespace {

using Where = Displaced::Where;

constexpr std::uint64_t compared = x86::rflags::STATUS;

struct Done {
    std::uint64_t result = 0, flags = 0;
};

// By the processor; behind the compiler's red zone.
#define DO(name)                                                                      \
    asm("lea -128(%%rsp), %%rsp\n" name " %2, %0\n pushfq\n pop %1\n"                 \
        "lea 128(%%rsp), %%rsp"                                                       \
        : "+&r"(now.result), "=&r"(now.flags) : "r"(operand) : "cc", "memory")

Done done(Where where, std::uint64_t value, std::uint64_t operand)
{
    Done now{value, 0};
    switch (where) {
    case Where::flags_of_add: DO("add"); break;
    case Where::flags_of_sub: DO("sub"); break;
    default: DO("and"); break;
    }
    return now;
}
#undef DO

TEST(Recover, FlagsOfWhatWasDoneToTheStackPointer)
{
    std::mt19937_64 random{7};
    constexpr std::uint64_t corners[] = {0, 1, 15, 16, ~0ull, ~0ull << 63, ~0ull >> 1, 0x7fffffff};
    for (unsigned i = 0; i < 30000; ++i) {
        const auto where = static_cast<Where>(static_cast<unsigned>(Where::flags_of_add) + i % 3);
        const auto operand = static_cast<std::int32_t>(random() >> (random() % 32 + 32));
        const std::uint64_t value = i % 2 != 0 ? random() : corners[random() % std::size(corners)];
        const Done now = done(where, value, static_cast<std::uint64_t>(std::int64_t{operand}));

        ExecContext context{};
        context.gpr[x86::RSP] = now.result + fold;
        context.flags = random();
        const std::uint64_t others = context.flags & ~compared;
        const Displaced displaced{10, 20, 0, where, 0, operand};
        recover({&displaced, 1}, 20, context);
        recover({&displaced, 1}, 9, context);
        EXPECT_EQ(context.flags & ~compared, others);
        recover({&displaced, 1}, 10, context);
        // AND leaves AF undefined.
        const std::uint64_t mask =
            where == Where::flags_of_and ? compared & ~x86::rflags::AF : compared;
        ASSERT_EQ(context.flags & mask, now.flags & mask)
            << static_cast<unsigned>(where) << " " << value << " " << operand;
        ASSERT_EQ(context.flags & ~compared, others);
    }
}

TEST(Recover, TheLastRecordOfARegisterCounts)
{
    ExecContext context{};
    context.slot[2] = 1;
    context.slot[4] = 2;
    context.gpr[x86::RDI] = 100 + fold;
    const Displaced displaced[] = {{5, 9, x86::RDX, Where::slot, 2},
                                   {5, 30, x86::RDX, Where::slot, 4},
                                   {5, 9, x86::RDI, Where::folded, 0}};
    recover(displaced, 5, context);
    EXPECT_EQ(context.gpr[x86::RDX], 2u);
    EXPECT_EQ(context.gpr[x86::RDI], 100u);
    context.gpr[x86::RDX] = 7;
    recover(displaced, 30, context);
    EXPECT_EQ(context.gpr[x86::RDX], 7u);
}

}  // namespace
}  // namespace doppel::engine::translate
