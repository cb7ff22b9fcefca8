// The run loop, decoded blocks, memory access and strings, through Interpreter.
#include <gtest/gtest.h>

#include <vector>

#include "bus/manual_clock.h"
#include "engine/interpret/interpreter.h"
#include "x86/cpuid.h"

namespace doppel::engine::interpret {
namespace {

class NoApic final : public Environment {
public:
    bool apic_read(std::uint32_t, std::uint64_t&) noexcept override { return false; }
    bool apic_write(std::uint32_t, std::uint64_t) noexcept override { return false; }
    std::uint64_t cr8() noexcept override { return 0; }
    void set_cr8(std::uint64_t) noexcept override {}
    void set_apic_base(std::uint64_t) noexcept override {}
    void set_tsc_deadline(std::uint64_t) noexcept override {}
    std::uint64_t tsc_deadline() noexcept override { return 0; }
    std::uint32_t apic_id() noexcept override { return 0; }
};

using Bytes = std::vector<std::uint8_t>;
using Stop = Interpreter::Stop;

// 64-bit code at 0x1000; linear 0-1 MiB is physical 0-1 MiB, the next MiB has no memory.
class CoreTest : public testing::Test {
protected:
    static constexpr std::uint64_t ram = 1u << 20, code = 0x1000, tables = 0x80000;

    CoreTest()
    {
        EXPECT_TRUE(memory->add_slot(base::Gpa{0}, ram, 0));
        interpreter = std::move(Interpreter::create(*memory, clock, cpuid, environment)).value();
        put(tables, std::uint64_t{tables + 0x1003});
        put(tables + 0x1000, std::uint64_t{tables + 0x2003});
        put(tables + 0x2000, std::uint64_t{0x83});
        state = x86::reset_state(true);
        state.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::WP | x86::cr0::ET | x86::cr0::NE;
        state.cr3 = tables;
        state.cr4 = x86::cr4::PAE;
        state.efer = x86::efer::LME | x86::efer::LMA | x86::efer::NXE;
        for (auto& segment : state.segments) {
            segment = {};
            segment.limit = 0xffffffff;
            segment.attributes = 0xc093;
        }
        state.segments[x86::CS].attributes = 0xa09b;
        state.rip = code;
        state.gpr[x86::RSP] = 0x70000;
    }

    template <typename T>
    void put(std::uint64_t at, T value)
    {
        ASSERT_TRUE(memory->write_value(base::Gpa{at}, value));
    }
    template <typename T>
    T get(std::uint64_t at)
    {
        T value{};
        EXPECT_TRUE(memory->read_value(base::Gpa{at}, value));
        return value;
    }
    void put_code(const Bytes& bytes, std::uint64_t at = code)
    {
        ASSERT_TRUE(memory->write(base::Gpa{at}, std::as_bytes(std::span{bytes})));
    }
    // Exactly this many instructions from `state` on.
    x86::CpuState run(std::uint64_t instructions)
    {
        interpreter->set_state(state);
        return go_on(instructions);
    }
    x86::CpuState go_on(std::uint64_t instructions)
    {
        const std::uint64_t end = interpreter->instructions() + instructions;
        Stop stop = Stop::attention;
        while (stop == Stop::attention) stop = interpreter->execute(end - interpreter->instructions());
        EXPECT_EQ(stop, Stop::budget);
        EXPECT_EQ(interpreter->instructions(), end);
        return interpreter->state();
    }

    std::unique_ptr<memory::GuestMemory> memory =
        std::move(memory::GuestMemory::create(ram)).value();
    bus::ManualClock clock;
    x86::CpuidPolicy cpuid = x86::CpuidPolicy::create(x86::this_host(), 1, 1'000'000'000);
    NoApic environment;
    std::unique_ptr<Interpreter> interpreter;
    x86::CpuState state;
};

TEST_F(CoreTest, BudgetIsExactWithinABlock)
{
    put_code({0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0xeb, 0xf5});  // inc rax x3; jmp
    EXPECT_EQ(run(2).gpr[x86::RAX], 2u);
    EXPECT_EQ(interpreter->state().rip, code + 6);
    EXPECT_EQ(go_on(6).gpr[x86::RAX], 6u);
}

TEST_F(CoreTest, FlagsOfAddition)
{
    state.gpr[x86::RAX] = 0x7fffffffffffffff;
    put_code({0x48, 0x83, 0xc0, 0x01});  // add rax, 1
    const auto after = run(1);
    EXPECT_EQ(after.gpr[x86::RAX], 0x8000000000000000u);
    using namespace x86::rflags;
    EXPECT_EQ(after.rflags & STATUS, OF | SF | AF | PF);
}

TEST_F(CoreTest, HighByteRegisters)
{
    state.gpr[x86::RBX] = 0x1234;
    put_code({0x88, 0xfc});  // mov ah, bh
    EXPECT_EQ(run(1).gpr[x86::RAX], 0x1200u);
}

TEST_F(CoreTest, StoreIntoTheRunningBlockIsSeen)
{
    // mov byte [rip+2], 0x90 over the "inc rax" that follows: NOP NOP NOP.
    put_code({0xc7, 0x05, 0, 0, 0, 0, 0x90, 0x90, 0x90, 0x90,  // mov dword [rip+0], NOPs
              0x48, 0xff, 0xc0, 0x90});
    const auto after = run(5);
    EXPECT_EQ(after.gpr[x86::RAX], 0u);
    EXPECT_EQ(after.rip, code + 14);
}

TEST_F(CoreTest, DataBesideCodeDoesNotDropIt)
{
    // add [rip+0xf8], eax (another 64-byte piece of the page); jmp back
    put_code({0x01, 0x05, 0xf8, 0, 0, 0, 0xeb, 0xf8});
    state.gpr[x86::RAX] = 1;
    run(2000);
    EXPECT_EQ(get<std::uint32_t>(code + 0xfe), 1000u);
    base::CounterList list;
    interpreter->counters(list);
    for (const auto& [name, value] : list.values()) {
        if (name == "interpreter.code_pages_dropped") EXPECT_EQ(value, 0u);
    }
}

TEST_F(CoreTest, WritesFromOutsideDropCode)
{
    put_code({0xff, 0xc0, 0xeb, 0xfc});  // inc eax; jmp
    EXPECT_EQ(run(10).gpr[x86::RAX], 5u);
    put_code({0xff, 0xc8});  // dec eax
    EXPECT_EQ(go_on(10).gpr[x86::RAX], 0u);
}

TEST_F(CoreTest, InstructionAndDataAcrossPages)
{
    state.rip = 0x1ffd;
    state.gpr[x86::RBX] = 0x4ffc;
    put(0x4ffc, std::uint64_t{0x1122334455667788});
    put_code({0x48, 0x8b, 0x83, 0, 0, 0, 0, 0x48, 0x89, 0x43, 0x10}, 0x1ffd);  // mov rax,[rbx]; mov [rbx+16],rax
    const auto after = run(2);
    EXPECT_EQ(after.gpr[x86::RAX], 0x1122334455667788u);
    EXPECT_EQ(get<std::uint64_t>(0x500c), 0x1122334455667788u);
    // The second page's part changes.
    put(0x2000, std::uint8_t{0x10});
    state.gpr[x86::RBX] -= 0x10;
    EXPECT_EQ(run(1).gpr[x86::RAX], 0x1122334455667788u);
}

TEST_F(CoreTest, DeviceReadRestartsOnce)
{
    state.gpr[x86::RBX] = 0x140000;
    state.gpr[x86::RAX] = 5;
    put_code({0x03, 0x03, 0x89, 0x03});  // add eax, [rbx]; mov [rbx], eax
    interpreter->set_state(state);
    ASSERT_EQ(interpreter->execute(2), Stop::exit);
    EXPECT_EQ(interpreter->exit(), Exit{(MmioReadExit{base::Gpa{0x140000}, 4})});
    EXPECT_FALSE(interpreter->nmi_allowed());
    interpreter->complete_read(37);
    ASSERT_EQ(interpreter->execute(2), Stop::exit);
    EXPECT_EQ(interpreter->exit(), Exit{(MmioWriteExit{base::Gpa{0x140000}, 4, 42})});
    EXPECT_EQ(interpreter->execute(1), Stop::budget);
    EXPECT_EQ(interpreter->instructions(), 2u);
}

TEST_F(CoreTest, ReadModifyWriteOfADevice)
{
    state.gpr[x86::RBX] = 0x140ffe;
    put_code({0xf0, 0xff, 0x03});  // lock inc dword [rbx], over two pages of a device
    interpreter->set_state(state);
    unsigned reads = 0, writes = 0;
    while (interpreter->execute(1) == Stop::exit) {
        if (std::holds_alternative<MmioReadExit>(interpreter->exit())) {
            ++reads;
            interpreter->complete_read(0xffff);
        } else {
            const auto* write = std::get_if<MmioWriteExit>(&interpreter->exit());
            ASSERT_NE(write, nullptr);
            EXPECT_EQ(write->value, 0u);
            ++writes;
        }
    }
    EXPECT_EQ(reads, 2u);
    EXPECT_EQ(writes, 2u);
}

TEST_F(CoreTest, RepeatedCopyInBothDirections)
{
    for (std::uint64_t i = 0; i < 10000; ++i) put(0x10000 + i, static_cast<std::uint8_t>(i * 7));
    state.gpr[x86::RSI] = 0x10000;
    state.gpr[x86::RDI] = 0x20123;
    state.gpr[x86::RCX] = 10000;
    put_code({0xf3, 0xa4});  // rep movsb
    const auto after = run(1);
    EXPECT_EQ(after.gpr[x86::RCX], 0u);
    EXPECT_EQ(after.gpr[x86::RDI], 0x20123u + 10000);
    EXPECT_EQ(get<std::uint8_t>(0x20123 + 9999), static_cast<std::uint8_t>(9999 * 7));

    state.rflags |= x86::rflags::DF;
    state.gpr[x86::RSI] = 0x10000 + 99;
    state.gpr[x86::RDI] = 0x30000 + 99;
    state.gpr[x86::RCX] = 100;
    EXPECT_EQ(run(1).gpr[x86::RSI], 0x10000u - 1);
    EXPECT_EQ(get<std::uint8_t>(0x30000 + 42), static_cast<std::uint8_t>(42 * 7));
}

TEST_F(CoreTest, OverlappingCopyRepeatsAPattern)
{
    put(0x10000, std::uint8_t{0xab});
    state.gpr[x86::RSI] = 0x10000;
    state.gpr[x86::RDI] = 0x10001;
    state.gpr[x86::RCX] = 5000;
    put_code({0xf3, 0xa4});
    run(1);
    EXPECT_EQ(get<std::uint8_t>(0x10000 + 5000), 0xab);
}

TEST_F(CoreTest, RepeatedFillOfADeviceCountsDown)
{
    state.gpr[x86::RDI] = 0x140000;
    state.gpr[x86::RCX] = 3;
    put_code({0xf3, 0xab});  // rep stosd
    interpreter->set_state(state);
    unsigned writes = 0;
    while (interpreter->execute(1) == Stop::exit) ++writes;
    EXPECT_EQ(writes, 3u);
    EXPECT_EQ(interpreter->instructions(), 1u);
    EXPECT_EQ(interpreter->state().gpr[x86::RDI], 0x14000cu);
}

TEST_F(CoreTest, NewTranslationAfterCr3)
{
    // mov rax,[rbx]; mov cr3, rdx; mov rax,[rbx]: the second table maps 2 MiB further.
    constexpr std::uint64_t other = tables + 0x8000;
    put(other, std::uint64_t{other + 0x1003});
    put(other + 0x1000, std::uint64_t{other + 0x2003});
    put(other + 0x2000, std::uint64_t{other + 0x3003});
    for (std::uint64_t i = 0; i < 512; ++i) {
        put(other + 0x3000 + 8 * i, std::uint64_t{((i == 9 ? 8 : i) << 12) | 3});
    }
    put(0x8000, std::uint64_t{8});
    put(0x9000, std::uint64_t{9});
    state.gpr[x86::RBX] = 0x9000;
    state.gpr[x86::RDX] = other;
    put_code({0x48, 0x8b, 0x03, 0x0f, 0x22, 0xda, 0x48, 0x8b, 0x0b});
    const auto after = run(3);
    EXPECT_EQ(after.gpr[x86::RAX], 9u);
    EXPECT_EQ(after.gpr[x86::RCX], 8u);
}

// More pages than are told apart: all go.
TEST_F(CoreTest, Cr3DropsAsManyTranslationsAsThereAre)
{
    constexpr std::uint64_t first = 0x200000, pages = 400, old = 0x20000, now = 0x21000;
    put(tables + 0x2008, std::uint64_t{tables + 0x3003});  // 4 KiB pages at 2 MiB
    const auto map_all = [&](std::uint64_t to) {
        for (std::uint64_t i = 0; i < pages; ++i) put(tables + 0x3000 + 8 * i, to | 3);
    };
    put(old, std::uint64_t{1});
    put(now, std::uint64_t{2});
    // Reads one of each page, then CR3, then again.
    put_code({0x48, 0x8b, 0x06, 0x48, 0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, 0x48, 0x01, 0xc3,  // sum
              0xe2, 0xf1,              // loop
              0x0f, 0x22, 0xda});      // mov cr3, rdx
    const auto read_all = [&] {
        state.gpr[x86::RSI] = first;
        state.gpr[x86::RCX] = pages;
        state.gpr[x86::RBX] = 0;
        state.gpr[x86::RDX] = tables;
        state.rip = code;
    };
    for (const std::uint64_t few : {std::uint64_t{3}, pages}) {
        map_all(old);
        read_all();
        state.gpr[x86::RCX] = few;
        EXPECT_EQ(run(4 * few).gpr[x86::RBX], few);
        map_all(now);
        go_on(1);
        auto registers = interpreter->direct();
        registers.gpr[x86::RSI] = first;
        registers.gpr[x86::RCX] = few;
        registers.gpr[x86::RBX] = 0;
        *registers.rip = code;
        EXPECT_EQ(go_on(4 * few).gpr[x86::RBX], 2 * few);
    }
}

TEST_F(CoreTest, BrieflyEndsBeforeVectorRegistersThatAreElsewhere)
{
    put_code({0x48, 0xff, 0xc0, 0xeb, 0x00,        // inc rax; jmp
              0x66, 0x0f, 0xef, 0xc0, 0xf4});      // pxor xmm0, xmm0; hlt
    state.cr4 |= x86::cr4::OSFXSR;
    state.rflags |= x86::rflags::IF;
    interpreter->set_state(state);
    interpreter->vectors_elsewhere(true);
    EXPECT_EQ(interpreter->execute_briefly(x86::rflags::IF, 40), Stop::budget);
    EXPECT_EQ(interpreter->state().rip, code + 5);
    EXPECT_EQ(interpreter->execute_briefly(x86::rflags::IF, 40), Stop::budget);
    EXPECT_EQ(interpreter->state().rip, code + 5);
    interpreter->vectors_elsewhere(false);
    EXPECT_EQ(interpreter->execute_briefly(x86::rflags::IF, 40), Stop::exit);
    EXPECT_EQ(interpreter->state().rip, code + 10);
}

TEST_F(CoreTest, BrieflyEndsWithItsFlagsAndItsInstructions)
{
    // inc rax; cli; jmp; inc rax; jmp $
    put_code({0x48, 0xff, 0xc0, 0xfa, 0xeb, 0x00, 0x48, 0xff, 0xc0, 0xeb, 0xfe});
    state.rflags |= x86::rflags::IF;
    interpreter->set_state(state);
    EXPECT_EQ(interpreter->execute_briefly(x86::rflags::IF, 40), Stop::budget);
    EXPECT_EQ(interpreter->state().gpr[x86::RAX], 1u);
    EXPECT_EQ(interpreter->execute_briefly(0, 40), Stop::budget);
    EXPECT_EQ(interpreter->instructions(), 43u);
    EXPECT_EQ(interpreter->state().gpr[x86::RAX], 2u);
}

TEST_F(CoreTest, AttentionFromOutsideStopsALoop)
{
    put_code({0xeb, 0xfe});
    interpreter->set_state(state);
    interpreter->request_attention();
    EXPECT_EQ(interpreter->execute(0), Stop::attention);
    EXPECT_EQ(interpreter->execute(7), Stop::budget);
}

}  // namespace
}  // namespace doppel::engine::interpret
