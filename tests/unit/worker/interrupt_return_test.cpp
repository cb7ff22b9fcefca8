// The translate engine: IRETQ from context to context. What it does is compared in the conformance
// cases of high64_iret.asm; here, that it is done this way, and where it is not.
#include <functional>
#include <span>
#include <vector>

#include "worker_guest.h"

namespace doppel::engine {
namespace {

class InterruptReturn : public WorkerGuest {
protected:
    static constexpr std::uint64_t high = 0xffffffff80000000;

    // The first 2 MiB at the beginning of the last 2 GiB, too, and a GDT: 08 code, 10 data of ring
    // 0, 20 data and 28 code of ring 3.
    void start_high(std::initializer_list<unsigned> bytes)
    {
        const auto entry = [this](std::uint64_t where, std::uint64_t value) {
            ASSERT_TRUE(memory_->write_value(base::Gpa{where}, value));
        };
        entry(0x2ff8, 0x3007);
        entry(0x3ff0, 0x4007);
        entry(gdt + 0x08, 0x00af9b000000ffff);
        entry(gdt + 0x10, 0x00cf93000000ffff);
        entry(gdt + 0x20, 0x00cff3000000ffff);
        entry(gdt + 0x28, 0x00affb000000ffff);
        start64(0x6000, bytes);
        x86::CpuState state = vcpu_->state();
        state.rip += high;
        state.gpr[x86::RSP] += high;
        state.gdtr = {high + gdt, 0x2f, 0};
        vcpu_->set_state(state);
    }
    // RCX times from ring 0 to ring 0.
    void start_loop()
    {
        // again: mov rax, rsp; push 0x10; push rax; push 2; push 8; lea rax, [rel target];
        // push rax; iretq; target: dec ecx; jnz again; out 0x10, al
        start_high({0x48, 0x89, 0xe0, 0x6a, 0x10, 0x50, 0x6a, 0x02, 0x6a, 0x08, 0x48, 0x8d, 0x05,
                    0x03, 0x00, 0x00, 0x00, 0x50, 0x48, 0xcf, 0xff, 0xc9, 0x75, 0xe8, 0xe6, 0x10});
    }
    void run_to_the_end()
    {
        const Exit exit = vcpu_->run();
        const auto* write = std::get_if<IoWriteExit>(&exit);
        ASSERT_TRUE(write != nullptr && write->port == 0x10);
    }
    void set(const std::function<void(x86::CpuState&)>& change)
    {
        x86::CpuState state = vcpu_->state();
        change(state);
        vcpu_->set_state(state);
    }

    static constexpr std::uint64_t gdt = 0x5000;
};

TEST_F(InterruptReturn, InsideTheKernel)
{
    start_loop();
    set([](x86::CpuState& state) { state.gpr[x86::RCX] = 1000; });
    run_to_the_end();
    EXPECT_EQ(vcpu_->state().gpr[x86::RCX], 0u);
    EXPECT_EQ(vcpu_->state().gpr[x86::RSP], high + 0x8000);
    EXPECT_GE(counter("translate.exit_iret"), 990u);
    EXPECT_GE(counter("translate.crossings"), 990u);
}

// A program that makes a system call, is returned to by IRETQ, and so on a thousand times.
class InterruptReturnToAProgram : public InterruptReturn {
protected:
    void run_program(const std::vector<std::uint8_t>& program)
    {
        // mov rax, rsp; push 0x23; push 0x17000; push 0x202; push 0x2b; push 0x16800; iretq
        start_high({0x48, 0x89, 0xe0, 0x6a, 0x23, 0x68, 0x00, 0x70, 0x01, 0x00, 0x68, 0x02, 0x02, 0x00,
                    0x00, 0x6a, 0x2b, 0x68, 0x00, 0x68, 0x01, 0x00, 0x48, 0xcf});
        ASSERT_TRUE(memory_->write(base::Gpa{0x16800}, std::as_bytes(std::span{program})));
        // dec ebx; jz done; mov rsp, r9; push 0x23; push 0x17000; push 0x202; push 0x2b; push rcx;
        // iretq; done: out 0x10, al
        write(0x9000, {0xff, 0xcb, 0x74, 0x14, 0x4c, 0x89, 0xcc, 0x6a, 0x23, 0x68, 0x00, 0x70, 0x01,
                       0x00, 0x68, 0x02, 0x02, 0x00, 0x00, 0x6a, 0x2b, 0x51, 0x48, 0xcf, 0xe6, 0x10});
        set([](x86::CpuState& state) {
            state.star = std::uint64_t{0x08} << 32;
            state.lstar = high + 0x9000;
            state.fmask = x86::rflags::IF;
            state.gpr[x86::RBX] = 1000;
            state.gpr[x86::R9] = high + 0x8000;
        });
        run_to_the_end();
        EXPECT_EQ(vcpu_->state().cpl(), 0u);
        EXPECT_EQ(vcpu_->state().gpr[x86::RCX], 0x16800 + program.size() - 2);
    }
};

TEST_F(InterruptReturnToAProgram, StraightFromContextToContext)
{
    // 60 NOPs; syscall; jmp to them
    std::vector<std::uint8_t> program(60, 0x90);
    program.insert(program.end(), {0x0f, 0x05, 0xeb, 0xc0});
    run_program(program);
    // System calls and returns.
    EXPECT_GE(counter("translate.crossings"), 1970u);
    EXPECT_GE(counter("translate.stays_not_brief"), 1u);
    EXPECT_LE(counter("translate.stays_not_brief"), 4u);
}

TEST_F(InterruptReturnToAProgram, ForAFewInstructionsWithoutItsProcess)
{
    run_program({0x0f, 0x05, 0xeb, 0xfc});  // syscall; jmp back
    EXPECT_GE(counter("translate.brief_stays"), 980u);
    EXPECT_LE(counter("translate.entries_user"), 20u);
}

TEST_F(InterruptReturn, NmisAreBlockedUpToIt)
{
    start_loop();
    set([](x86::CpuState& state) {
        state.gpr[x86::RCX] = 1000;
        state.events.nmi_blocked = true;
    });
    run_to_the_end();
    EXPECT_FALSE(vcpu_->state().events.nmi_blocked);
    EXPECT_GE(counter("translate.crossings"), 980u);
}

TEST_F(InterruptReturn, UntouchedDescriptorsAreMarked)
{
    start_loop();
    ASSERT_TRUE(memory_->write_value(base::Gpa{gdt + 0x10}, std::uint64_t{0x00cf92000000ffff}));
    set([](x86::CpuState& state) { state.gpr[x86::RCX] = 3; });
    run_to_the_end();
    std::uint64_t raw = 0;
    ASSERT_TRUE(memory_->read_value(base::Gpa{gdt + 0x10}, raw));
    EXPECT_EQ(raw, 0x00cf93000000ffffu);
}

TEST_F(InterruptReturn, AKickComesThrough)
{
    start_loop();
    set([](x86::CpuState& state) { state.gpr[x86::RCX] = 0xffffffff; });
    for (int i = 0; i < 20; ++i) {
        const Exit exit = run_while([this] { vcpu_->kick(); }, std::chrono::milliseconds{1});
        EXPECT_EQ(exit, Exit{KickExit{}});
        EXPECT_EQ(vcpu_->state().cpl(), 0u);
        EXPECT_EQ(vcpu_->state().segments[x86::SS].selector, 0x10u);
    }
}

}  // namespace
}  // namespace doppel::engine
