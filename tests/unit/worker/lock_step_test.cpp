// LockStep over an interpreter: what translated code would do is done by the interpreter's own
// steps here, and then spoiled.
#include "engine/translate/worker/lock_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "system_machine.h"

namespace doppel::engine::translate {
namespace {

using interpret::SystemMachine;
using testing::HasSubstr;
using testing::IsEmpty;
using Left = LockStep::Left;

class LockStepTest : public testing::Test {
protected:
    LockStepTest() { start(); }

    void start()
    {
        machine_.state.rip = SystemMachine::code;
        machine_.interpreter->set_state(machine_.state);
    }
    void put(std::initializer_list<unsigned> bytes, std::uint16_t instructions)
    {
        machine_.put_code(SystemMachine::code, bytes);
        block_.rip = block_.ram_offset = SystemMachine::code;
        block_.guest_bytes = static_cast<std::uint32_t>(bytes.size());
        block_.guest_count = instructions;
        block_.host = 0x1000;
        block_.hot_size = 0x100;
        block_.mode.vector = true;
        start();
        static_cast<void>(lock_step_.prepare(block_));
        lock_step_.predict();
    }
    // As right translated code does.
    void run(unsigned instructions)
    {
        for (unsigned i = 0; i < instructions; ++i) {
            auto stop = machine_.interpreter->step();
            if (stop == interpret::Interpreter::Stop::attention) stop = machine_.interpreter->step();
            ASSERT_EQ(stop, interpret::Interpreter::Stop::budget);
        }
    }
    std::string verify(Left left)
    {
        lock_step_.verify(left);
        return lock_step_.difference();
    }
    std::uint64_t counter(const std::string& name)
    {
        base::CounterList list;
        lock_step_.counters(list);
        for (const auto& [key, value] : list.values()) {
            if (key == name) return value;
        }
        ADD_FAILURE() << "no counter " << name;
        return 0;
    }
    std::uint64_t& gpr(unsigned n) { return machine_.interpreter->direct().gpr[n]; }

    SystemMachine machine_{SystemMachine::Mode::long64};
    LockStep lock_step_{{*machine_.interpreter, *machine_.memory, machine_.cpuid, 1}};
    Block block_;

    // add rax, 5; mov [data], rax; mov qword [data], 1; jmp +0
    static constexpr std::uint64_t data = SystemMachine::data;
    void put_stores()
    {
        machine_.put(data, std::uint64_t{0x1111111111111111});
        put({0x48, 0x83, 0xc0, 0x05,                                      //
             0x48, 0x89, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00,              //
             0x48, 0xc7, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00, 1, 0, 0, 0,  //
             0xeb, 0x00},
            4);
    }
};

TEST_F(LockStepTest, PredictionLeavesNothingBehind)
{
    const std::uint64_t rax = gpr(x86::RAX);
    put_stores();
    EXPECT_TRUE(lock_step_.armed());
    EXPECT_EQ(gpr(x86::RAX), rax);
    EXPECT_EQ(*machine_.interpreter->direct().rip, SystemMachine::code);
    EXPECT_EQ(machine_.word64(data), 0x1111111111111111u);
    EXPECT_EQ(machine_.interpreter->instructions(), 0u);
}

TEST_F(LockStepTest, TheSameIsNoDifference)
{
    put_stores();
    run(4);
    EXPECT_THAT(verify(Left::end), IsEmpty());
    EXPECT_FALSE(lock_step_.armed());
}

TEST_F(LockStepTest, TheMiddleIsCompared)
{
    put_stores();
    run(2);
    EXPECT_THAT(verify(Left::middle), IsEmpty());
    put_stores();
    run(2);
    machine_.put(data, std::uint64_t{1});  // as if the third had been done
    EXPECT_THAT(verify(Left::middle), HasSubstr("RAM at 0x40000"));
}

TEST_F(LockStepTest, ARegisterDiffers)
{
    put_stores();
    run(4);
    gpr(x86::R11) ^= 1;
    EXPECT_THAT(verify(Left::end), HasSubstr("r11 is"));
}

TEST_F(LockStepTest, AFlagDiffers)
{
    put_stores();
    run(4);
    machine_.interpreter->set_rflags(machine_.interpreter->rflags() ^ x86::rflags::OF);
    EXPECT_THAT(verify(Left::end), HasSubstr("rflags is"));
}

TEST_F(LockStepTest, MemoryDiffers)
{
    put_stores();
    run(4);
    machine_.put(data + 7, std::uint8_t{9});
    EXPECT_THAT(verify(Left::end), HasSubstr("RAM at 0x40007 is 0x09, not 0x00"));
}

TEST_F(LockStepTest, AnotherWayOutDiffers)
{
    put_stores();
    run(4);
    *machine_.interpreter->direct().rip += 1;
    EXPECT_THAT(verify(Left::end), HasSubstr("leads to an address"));
}

TEST_F(LockStepTest, AFaultThatTheInterpreterDoesNotHaveDiffers)
{
    put_stores();
    run(1);
    EXPECT_THAT(verify(Left::middle), IsEmpty());
    lock_step_.fault_delivered();
    EXPECT_THAT(lock_step_.difference(), HasSubstr("it faults"));
}

TEST_F(LockStepTest, AFaultThatTheInterpreterHasIsNone)
{
    put({0x48, 0xff, 0xc0, 0x48, 0xa1, 0, 0, 0, 0, 0, 0x80, 0, 0}, 2);  // inc rax; mov rax, [far]
    run(1);
    EXPECT_THAT(verify(Left::middle), IsEmpty());
    lock_step_.fault_delivered();
    EXPECT_THAT(lock_step_.difference(), IsEmpty());
}

// A fault handler sees it.
TEST_F(LockStepTest, WhatTheRestOverwritesUnreadCounts)
{
    put({0x90, 0xb9, 1, 0, 0, 0, 0x31, 0xd2}, 3);  // nop; mov ecx, 1; xor edx, edx
    run(1);
    gpr(x86::RCX) ^= 1;
    EXPECT_THAT(verify(Left::middle), HasSubstr("rcx is"));
}

TEST_F(LockStepTest, UndefinedFlagsMayBeAnything)
{
    put({0x48, 0x0f, 0xaf, 0xc3}, 1);  // imul rax, rbx: ZF is undefined, CF is not
    run(1);
    machine_.interpreter->set_rflags(machine_.interpreter->rflags() ^ x86::rflags::ZF);
    EXPECT_THAT(verify(Left::end), IsEmpty());
    put({0x48, 0x0f, 0xaf, 0xc3}, 1);
    run(1);
    machine_.interpreter->set_rflags(machine_.interpreter->rflags() ^ x86::rflags::CF);
    EXPECT_THAT(verify(Left::end), HasSubstr("rflags is"));
}

TEST_F(LockStepTest, VectorRegistersAreComparedWhenTheyAreTouched)
{
    machine_.state.cr4 |= x86::cr4::OSFXSR | x86::cr4::OSXMMEXCPT;
    put({0x0f, 0x28, 0xca}, 1);  // movaps xmm1, xmm2
    EXPECT_TRUE(lock_step_.vectors());
    run(1);
    machine_.interpreter->direct().state->xsave.bytes[160 + 16] ^= 1;
    EXPECT_THAT(verify(Left::end), HasSubstr("xmm1 is"));
}

TEST_F(LockStepTest, NothingBehindTheTimeIsCompared)
{
    put({0x0f, 0x31, 0x48, 0x89, 0xc3}, 2);  // rdtsc; mov rbx, rax
    run(2);
    EXPECT_THAT(verify(Left::end), IsEmpty());
}

// mov rax, [data]; mov [data + 8], rax: somebody writes to [data] between the trial and the run.
TEST_F(LockStepTest, MemoryThatOthersChangedMakesNoDifference)
{
    const auto put_copy = [this] {
        machine_.put(data, std::uint64_t{5});
        put({0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00,  //
             0x48, 0x89, 0x04, 0x25, 0x08, 0x00, 0x04, 0x00},
            2);
    };
    ASSERT_TRUE(lock_step_.due(block_));
    put_copy();
    machine_.put(data, std::uint64_t{6});
    run(2);
    EXPECT_THAT(verify(Left::end), IsEmpty());
    EXPECT_EQ(gpr(x86::RAX), 6u);
    EXPECT_EQ(machine_.word64(data + 8), 6u);
    EXPECT_EQ(counter("lock_step.disturbed"), 1u);

    // It counts when nobody has written there.
    put_copy();
    run(2);
    gpr(x86::RAX) = 6;
    EXPECT_THAT(verify(Left::end), HasSubstr("rax is"));
    EXPECT_EQ(counter("lock_step.disturbed"), 1u);
}

TEST_F(LockStepTest, MemoryThatOthersGoOnChangingMakesNoDifference)
{
    machine_.put(data, std::uint64_t{5});
    put({0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00}, 1);  // mov rax, [data]
    lock_step_.abandon();
    constexpr std::uint64_t forever = 60'000'000'000;
    LockStep patient{{*machine_.interpreter, *machine_.memory, machine_.cpuid, 1, forever}};
    static_cast<void>(patient.prepare(block_));
    patient.predict();
    run(1);
    gpr(x86::RAX) = 6;  // there for a moment
    std::atomic<bool> end = false;
    std::thread device{[&] {
        auto* const at = reinterpret_cast<std::uint64_t*>(machine_.memory->ram() + data);
        while (!end) std::atomic_ref{*at}.fetch_xor(3);
    }};
    patient.verify(Left::end);
    EXPECT_THAT(patient.difference(), IsEmpty());
    end = true;
    device.join();
}

// mov rax, [data]; mov qword [data], 1: what it writes itself is no disturbance.
TEST_F(LockStepTest, ItsOwnWritesAreNoDisturbance)
{
    machine_.put(data, std::uint64_t{5});
    put({0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00,  //
         0x48, 0xc7, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00, 1, 0, 0, 0},
        2);
    run(2);
    gpr(x86::RAX) ^= 1;
    EXPECT_THAT(verify(Left::end), HasSubstr("rax is"));
}

TEST_F(LockStepTest, ABranchByMemoryThatOthersChangedIsNone)
{
    machine_.put(data, std::uint8_t{0});
    // cmp byte [data], 0; je +0x10
    put({0x80, 0x3c, 0x25, 0x00, 0x00, 0x04, 0x00, 0x00, 0x74, 0x10}, 2);
    machine_.put(data, std::uint8_t{1});
    run(2);
    EXPECT_THAT(verify(Left::end), IsEmpty());
    EXPECT_EQ(counter("lock_step.disturbed"), 1u);
}

TEST_F(LockStepTest, ADisturbedBlockIsCheckedAgain)
{
    LockStep sampling{{*machine_.interpreter, *machine_.memory, machine_.cpuid, 1000}};
    machine_.put(data, std::uint64_t{5});
    put({0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00}, 1);  // mov rax, [data]
    lock_step_.abandon();
    EXPECT_TRUE(sampling.due(block_));
    EXPECT_FALSE(sampling.due(block_));
    static_cast<void>(sampling.prepare(block_));
    sampling.predict();
    machine_.put(data, std::uint64_t{6});
    run(1);
    sampling.verify(Left::end);
    EXPECT_THAT(sampling.difference(), IsEmpty());
    EXPECT_TRUE(sampling.due(block_));
    EXPECT_FALSE(sampling.due(block_));
}

// As translated code does that writes to what it should only read.
TEST_F(LockStepTest, WhatIsDisturbedEachTimeIsADifference)
{
    unsigned times = 0;
    while (lock_step_.difference().empty() && times < 100) {
        ++times;
        machine_.put(data, std::uint64_t{5});
        put({0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00}, 1);  // mov rax, [data]
        run(1);
        gpr(x86::RAX) = 6;
        machine_.put(data, std::uint64_t{6});
        static_cast<void>(verify(Left::end));
    }
    EXPECT_EQ(times, 16u);
    EXPECT_THAT(lock_step_.difference(), HasSubstr("rax is"));
}

TEST_F(LockStepTest, SamplingTakesEachNewBlockAndOneInSoMany)
{
    LockStep sampling{{*machine_.interpreter, *machine_.memory, machine_.cpuid, 3}};
    block_.host = 0x1000;
    EXPECT_TRUE(sampling.due(block_));
    EXPECT_FALSE(sampling.due(block_));
    EXPECT_FALSE(sampling.due(block_));
    EXPECT_TRUE(sampling.due(block_));
    block_.host = 0x2000;
    EXPECT_TRUE(sampling.due(block_));
}

}  // namespace
}  // namespace doppel::engine::translate
