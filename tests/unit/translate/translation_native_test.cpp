// User blocks run in this process, and so do the guest's own bytes: they must agree.
#include <gtest/gtest.h>

#include <algorithm>
#include "translated_code.h"
#include "translated_generator.h"
#include "translated_run.h"

namespace doppel::engine::translate::test {

namespace {

constexpr std::uint64_t program_rip = 0x555555554000;
constexpr std::uint64_t data_address = 0x555555558000;
constexpr std::uint64_t stack_address = 0x7ffe00000000;
constexpr std::size_t page = 4096;

class TranslationNative : public ::testing::Test {
protected:
    TranslationNative()
    {
        code = machine.map(program_rip, 2 * page);
        data = machine.map(data_address, 2 * page);
        stack = machine.map(stack_address, page);
        registers.rip = program_rip;
        for (unsigned i = 0; i < 16; ++i) registers.gpr[i] = 0x0123456789abcdefull * (i + 3);
        registers.gpr[3] = data_address + page;      // RBX
        registers.gpr[4] = stack_address + page / 2;  // RSP
    }
    void fill_memory(std::span<const std::uint8_t> guest)
    {
        std::memset(code, 0, 2 * page);
        std::memcpy(code, guest.data(), guest.size());
        machine.end_native(program_rip + guest.size());
        for (std::size_t i = 0; i < 2 * page; ++i) data[i] = static_cast<std::uint8_t>(i * 7 + 3);
        for (std::size_t i = 0; i < page; ++i) stack[i] = static_cast<std::uint8_t>(i * 5 + 1);
    }
    [[nodiscard]] std::vector<std::uint8_t> memory() const
    {
        std::vector<std::uint8_t> bytes(data, data + 2 * page);
        bytes.insert(bytes.end(), stack, stack + page);
        return bytes;
    }

    Machine machine{true};
    std::uint8_t *code, *data, *stack;
    Registers registers;
    Translation translation;
};

std::string describe(const Registers& registers)
{
    std::string text;
    char line[64];
    for (int i = 0; i < 16; ++i) {
        std::snprintf(line, sizeof line, "r%d=%lx ", i, registers.gpr[i]);
        text += line;
    }
    std::snprintf(line, sizeof line, "flags=%lx", registers.flags & 0xcd5);
    return text + line;
}

}  // namespace

TEST_F(TranslationNative, RandomStraightCode)
{
    Generator generator{20240117, user_mode, data_address};
    unsigned faults = 0, vectors = 0;
    for (unsigned round = 0; round < 12000; ++round) {
        std::vector<std::uint8_t> bytes;
        const unsigned count = 1 + generator.below(6);
        while (bytes.size() < 8 || (bytes.size() < 200 && generator.below(count) != 0)) {
            const auto next = generator.instruction(program_rip + bytes.size());
            bytes.insert(bytes.end(), next.begin(), next.end());
        }
        for (unsigned i = 0; i < 16; ++i) {
            if (i != 3 && i != 4) {
                registers.gpr[i] = std::uint64_t{generator.below(~0u)} * (generator.below(2) + 1) * generator.below(~0u);
            }
        }
        registers.gpr[6] = data_address + 512 + generator.below(64);
        registers.gpr[7] = data_address + 1024 + generator.below(64);
        registers.flags = 0x202 | (generator.below(0x1000) & 0x8d5);

        fill_memory(bytes);
        const Outcome native = machine.run(registers, program_rip);
        const auto native_memory = memory();

        fill_memory(bytes);
        const std::uint64_t host = machine.place(bytes, program_rip, user_mode, translation);
        const Outcome translated = machine.run(registers, host);
        const std::string text = disassemble(bytes, program_rip, 0, bytes.size()) + "--\n" +
                                 disassemble({machine.code_bytes(0x10000), machine.code_bytes(0x10000) + translation.hot_size},
                                             host, 0, translation.hot_size);

        Registers got = translated.registers;
        if (native.exit == exit_fault) {
            ++faults;
            ASSERT_EQ(translated.exit, exit_fault) << text;
            got = machine.recover(translated, translation, host);
            EXPECT_EQ(got.rip, native.registers.rip - program_rip) << text;
            EXPECT_EQ(translated.trap, native.trap) << text;
            if (native.trap == 14) EXPECT_EQ(translated.address, native.address) << text;
        } else {
            ASSERT_EQ(native.exit, exit_native_end);
            ASSERT_EQ(translated.exit, first_site) << text;
            vectors += native.vectors != translated.vectors ? 0 : 1;
        }
        unsigned differ = 0;
        for (unsigned i = 0; i < 16; ++i) {
            if (got.gpr[i] != native.registers.gpr[i]) ++differ;
        }
        if (differ != 0 || (got.flags & 0xcd5) != native.registers.flags) {
            FAIL() << text << "native " << describe(native.registers) << "\ngot    " << describe(got);
        }
        ASSERT_EQ(memory(), native_memory) << text;
        ASSERT_EQ(translated.vectors, native.vectors) << text;
    }
    // The streams do something.
    EXPECT_GT(vectors, 4000u);
    EXPECT_LT(faults, 8000u);
}

// Through the table, whatever is in GS, to entries of targets all over the address space and to
// misses at addresses that look alike.
TEST_F(TranslationNative, IndirectBranches)
{
    constexpr std::uint64_t targets[] = {
        0x401230, 0x80001230, 0xffff1230, 0x555555551230, 0x7ffff7fe1230, 0x7fff80001230, 0x1230,
        0x5555d5551230, 0x555580000000, 0x80000000, 0x7fffff30, 0x100000000, 0};
    auto& word = *reinterpret_cast<std::uint64_t*>(stack + page / 2);
    machine.context().gs_base = user_targets;
    Mode mode = user_mode;
    for (const bool free : {true, false}) {
        mode.gs_free = free;
        for (const std::uint64_t target : targets) {
            const std::uint64_t entry = machine.code_at(0x40000);
            Translation there;
            const auto size = emit_entry({machine.code_bytes(0x40000), entry, 256}, true, target, 0,
                                         machine.code_at(0x300));
            ASSERT_NE(size, 0u);
            machine.place(GUEST("mov ebp,0x1234"), target, mode, there, 0x40000 + size);
            for (const bool second : {false, true}) {
                machine.set_target(target, second ? machine.code_at(0x300) : entry);
                machine.set_second_target(target, second ? entry + size : 0);
                const std::uint64_t others[] = {target, target ^ 1ull << 32, target ^ 1ull << 31,
                                                target + 0x10000, target - (1ull << 32), ~target,
                                                target ^ 1ull << 63, target << 32 | target >> 32};
                for (const std::uint64_t to : others) {
                    const auto check = [&](std::span<const std::uint8_t> guest, std::uint64_t pops) {
                        const std::uint64_t host = machine.place(guest, program_rip, mode, translation);
                        if (free) {  // it has learned enough
                            const auto at = static_cast<std::uint32_t>(
                                host - machine.code_at(0) + translation.exits.front().compare);
                            emit_table_jump({machine.code_bytes(at), machine.code_at(at), 128});
                        }
                        registers.flags = 0x202 | ((to >> 3) & 0x8d5);
                        const Outcome outcome = machine.run(registers, host);
                        const bool hit = to == target;
                        EXPECT_EQ(outcome.exit, hit ? first_site : exit_no_target) << std::hex << to;
                        if (!hit) EXPECT_EQ(outcome.target, to);
                        for (unsigned i = 0; i < 16; ++i) {
                            std::uint64_t expected = registers.gpr[i] + (i == 4 ? pops : 0);
                            if (i == 5 && hit) expected = 0x1234;
                            EXPECT_EQ(outcome.registers.gpr[i], expected) << i;
                        }
                        EXPECT_EQ(outcome.registers.flags & 0x8d5, registers.flags & 0x8d5);
                    };
                    word = to;
                    check(GUEST("ret"), 8);
                    check(GUEST("ret 0x20"), 0x28);
                    check(GUEST("jmp [rsp]"), 0);
                    for (const unsigned reg : {0u, 1u, 14u}) {
                        const Registers saved = registers;
                        registers.gpr[reg] = to;
                        if (reg == 0) check(GUEST("jmp rax"), 0);
                        if (reg == 1) check(GUEST("call rcx"), 0 - 8ull);
                        if (reg == 14) check(GUEST("call r14"), 0 - 8ull);
                        registers = saved;
                    }
                    ASSERT_FALSE(HasFailure());
                }
            }
            machine.set_target(target, machine.code_at(0x300));
            machine.set_second_target(target, 0);
        }
    }
}

// Up to two targets in the page, learned or not, and addresses that look alike: with every
// register and flag as it was.
TEST_F(TranslationNative, LearnedBranches)
{
    auto& word = *reinterpret_cast<std::uint64_t*>(stack + page / 2);
    machine.context().gs_base = user_targets;
    Mode mode = user_mode;
    mode.gs_free = true;
    const auto put = [&](std::uint64_t host, std::uint64_t value) {
        const auto narrow = static_cast<std::uint32_t>(value);
        std::memcpy(machine.code_bytes(static_cast<std::uint32_t>(host - machine.code_at(0))),
                    &narrow, sizeof narrow);
    };
    for (const std::uint64_t rip : {0x401230ul, 0x80000230ul, 0x7fffff30ul, 0xfffff123ul, 0x100000000ul,
                                    0x555555554000ul, 0x5555d5554ff0ul, 0x7fff80000000ul,
                                    0x7ffff7fe1230ul, 0x230ul}) {
        const std::uint64_t in_page = rip & ~std::uint64_t{0xfff};
        const std::uint64_t targets[] = {in_page + 0xabc, in_page + 0x10};
        for (std::size_t learned = 0; learned <= learned_targets; ++learned) {
            const std::uint64_t others[] = {targets[0], targets[1], in_page, in_page + 1,
                targets[0] + 1, targets[1] + 0x1000, targets[0] ^ 1ull << 32, targets[1] ^ 1ull << 31,
                targets[0] ^ 1ull << 63, targets[0] << 32 | targets[0] >> 32, ~targets[0], 0};
            for (const std::uint64_t to : others) {
                const auto check = [&](std::span<const std::uint8_t> guest, std::uint64_t pops) {
                    const std::uint64_t host = machine.place(guest, rip, mode, translation);
                    std::uint64_t before = in_page;
                    std::uint32_t expected = first_site;
                    for (std::size_t i = 0; i < learned; ++i) {
                        const Exit& exit = translation.exits[1 + i];
                        put(host + exit.compare, before - targets[i]);
                        before = targets[i];
                        if (to == targets[i]) expected = first_site + 1 + static_cast<std::uint32_t>(i);
                    }
                    registers.flags = 0x202 | ((to >> 3) & 0x8d5);
                    const Outcome outcome = machine.run(registers, host);
                    if (expected != first_site) {
                        EXPECT_EQ(outcome.exit, expected) << std::hex << rip << " to " << to;
                    } else {
                        // One that has not been learned may be taken for what is not there yet.
                        EXPECT_GE(outcome.exit, first_site + (outcome.exit == first_site ? 0 : 1 + learned));
                        EXPECT_LE(outcome.exit, first_site + learned_targets);
                    }
                    EXPECT_EQ(outcome.target, to);
                    for (unsigned i = 0; i < 16; ++i) {
                        EXPECT_EQ(outcome.registers.gpr[i], registers.gpr[i] + (i == 4 ? pops : 0)) << i;
                    }
                    EXPECT_EQ(outcome.registers.flags & 0x8d5, registers.flags & 0x8d5);
                };
                word = to;
                check(GUEST("ret"), 8);
                check(GUEST("ret 0x20"), 0x28);
                check(GUEST("jmp [rsp]"), 0);
                for (const unsigned reg : {0u, 1u, 14u}) {
                    const Registers saved = registers;
                    registers.gpr[reg] = to;
                    if (reg == 0) check(GUEST("jmp rax"), 0);
                    if (reg == 1) check(GUEST("jmp rcx"), 0);
                    if (reg == 14) check(GUEST("call r14"), 0 - 8ull);
                    registers = saved;
                }
                ASSERT_FALSE(HasFailure());
            }
        }
    }
}

}  // namespace doppel::engine::translate::test
