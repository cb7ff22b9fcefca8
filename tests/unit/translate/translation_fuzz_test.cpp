// Random guest bytes.
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "translation_rules.h"

namespace doppel::engine::translate::test {

namespace {

std::vector<std::uint8_t> random_bytes(std::mt19937& random, std::size_t size)
{
    // Common opcodes, prefixes and maps more often than by chance.
    constexpr std::uint8_t frequent[] = {0x0f, 0x48, 0x66, 0xf2, 0xf3, 0xf0, 0x65, 0x64, 0x2e, 0x67,
                                         0x8b, 0x89, 0x8d, 0xc5, 0xc4, 0x62, 0x4c, 0x41, 0x83, 0xff,
                                         0x38, 0x3a, 0xa4, 0xab, 0x24, 0x05, 0xe4, 0xec, 0xfb, 0xfa};
    std::vector<std::uint8_t> bytes(size);
    for (std::uint8_t& byte : bytes) {
        const auto value = random();
        byte = (value & 0x300) == 0 ? frequent[(value >> 16) % sizeof frequent]
                                    : static_cast<std::uint8_t>(value);
    }
    return bytes;
}

}  // namespace

TEST(TranslationFuzz, HostCodeIsWellFormed)
{
    std::mt19937 random{7};
    const Mode modes[] = {supervisor_mode, user_mode};
    std::uint64_t native = 0;
    for (unsigned round = 0; round < 60000; ++round) {
        const auto bytes = random_bytes(random, 1 + random() % 40);
        std::uint64_t rip = round % 3 == 0 ? 0xffffffff81000000 : 0x7f1234567000;
        if (round % 5 == 0) rip = 0x401000;
        for (const Mode& mode : modes) {
            const Translated block{bytes, rip, mode, 8192};
            ASSERT_TRUE(block.done);
            native += block.translation.count;
            check_records(block, rip, bytes.size());
            check_code(block, mode);
            if (HasFatalFailure()) {
                FAIL() << (mode.user ? "user: " : "supervisor: ")
                       << disassemble(bytes, rip, 0, bytes.size());
            }
        }
    }
    EXPECT_GT(native, 100000u);
}

// Not a check of speed, but what it is, for whoever looks at the log.
TEST(TranslationFuzz, Rate)
{
    const auto guest = GUEST("push rbp; mov rbp,rsp; push rbx; sub rsp,0x18; mov rbx,rdi;"
                             "mov rax,[rdi+0x10]; test rax,rax; mov [rbp-0x20],rsi; mov ecx,[rax+4];"
                             "lea rdx,[rbx+rcx*4]; add rdx,[rip+0x1000]; cmp rdx,rsi; jz .+0x40");
    std::vector<std::uint8_t> code(16384);
    Translation translation;
    std::uint64_t count = 0;
    const auto begin = std::chrono::steady_clock::now();
    for (unsigned i = 0; i < 3000; ++i) {
        ASSERT_TRUE(translate({0xffffffff81000000, guest, guest.size(), supervisor_mode}, host_policy(),
                              {code.data(), code_address(supervisor_mode), code.size()}, {first_site, 0},
                              common_exit_address(supervisor_mode), translation));
        count += translation.count;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    RecordProperty("instructions_per_second", std::to_string(static_cast<double>(count) / took.count()));
    std::printf("%.2f M guest instructions translated per second\n",
                static_cast<double>(count) / took.count() / 1e6);
}

}  // namespace doppel::engine::translate::test
