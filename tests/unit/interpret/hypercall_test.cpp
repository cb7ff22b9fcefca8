// VMCALL: which vCPUs an engine is asked about, whatever the guest's registers say.
#include "x86/paravirt.h"

#include <algorithm>

#include "system_machine.h"

namespace doppel::engine::interpret {
namespace {

using M = SystemMachine;
using x86::DeliveryMode;
using x86::paravirt::Hypercall;
using x86::paravirt::KVM_EINVAL;
using x86::paravirt::KVM_ENOSYS;
using x86::paravirt::KVM_EPERM;

constexpr std::uint64_t ones = ~std::uint64_t{0};

struct Registers {
    std::uint64_t rbx = 0, rcx = 0, rdx = 0, rsi = 0;
};

class Hypercalls : public testing::TestWithParam<M::Mode> {
protected:
    // RAX afterwards.
    std::uint64_t call(std::uint64_t number, const Registers& registers)
    {
        m.put_code(m.state.rip, {0x0f, 0x01, 0xc1, 0xf4});  // vmcall; hlt
        const std::uint64_t start = m.state.rip;
        m.state.gpr[x86::RAX] = number;
        m.state.gpr[x86::RBX] = registers.rbx;
        m.state.gpr[x86::RCX] = registers.rcx;
        m.state.gpr[x86::RDX] = registers.rdx;
        m.state.gpr[x86::RSI] = registers.rsi;
        m.run(1);
        EXPECT_EQ(m.state.rip, start + 3);
        m.state.rip = start;
        return m.state.gpr[x86::RAX];
    }
    std::uint64_t call(Hypercall number, const Registers& registers)
    {
        return call(static_cast<std::uint64_t>(number), registers);
    }
    [[nodiscard]] std::uint64_t error(std::int64_t number) const
    {
        const auto wide = static_cast<std::uint64_t>(-number);
        return wide_ ? wide : wide & 0xffffffff;
    }
    std::uint64_t send(std::uint64_t low, std::uint64_t high, std::uint64_t lowest, std::uint64_t icr)
    {
        m.environment.ipis.clear();
        return call(Hypercall::SEND_IPI, {low, high, lowest, icr});
    }
    // Of the one call that there was.
    std::uint64_t asked() const
    {
        return m.environment.ipis.size() == 1 ? m.environment.ipis[0].apic_ids : 0x5e1f;
    }

    M m{GetParam()};
    bool wide_ = GetParam() == M::Mode::long64;
};

TEST_P(Hypercalls, WhatIsUnknownIsRefused)
{
    for (const std::uint64_t number : {0ull, 1ull, 4ull, 6ull, 9ull, 12ull, 0x7fffffffull}) {
        EXPECT_EQ(call(number, {}), error(KVM_ENOSYS)) << number;
    }
    EXPECT_TRUE(m.environment.kicked.empty());
}

TEST_P(Hypercalls, OnlyTheLowerHalvesCountOutside64Bits)
{
    const std::uint64_t number = std::uint64_t{7} << 32 | 5;
    EXPECT_EQ(call(number, {ones, 0xabcd00000003, ones, ones}), wide_ ? error(KVM_ENOSYS) : 0);
    EXPECT_EQ(m.environment.kicked.size(), wide_ ? 0u : 1u);
}

TEST_P(Hypercalls, AKickNamesAnApicId)
{
    EXPECT_EQ(call(Hypercall::KICK_CPU, {0, 3, ones, ones}), 0u);
    EXPECT_EQ(call(Hypercall::KICK_CPU, {0, ones, 0, 0}), 0u);
    EXPECT_EQ(m.environment.kicked, (std::vector<std::uint32_t>{3, 0xffffffff}));
    EXPECT_EQ(call(Hypercall::SCHED_YIELD, {2, ones, ones, ones}), 0u);
    EXPECT_EQ(m.environment.yielded, (std::vector<std::uint32_t>{2}));
}

TEST_P(Hypercalls, ApicIdsAreCountedFromTheLowest)
{
    m.environment.taken = 2;
    EXPECT_EQ(send(0b101, 0, 0, 0x41), 2u);
    EXPECT_EQ(asked(), 0b101u);
    EXPECT_EQ(m.environment.ipis[0].message.vector, 0x41);
    EXPECT_EQ(m.environment.ipis[0].message.mode, DeliveryMode::fixed);
    send(0b101, 0, 7, 0x41);
    EXPECT_EQ(asked(), 0b101u << 7);
    // The second word goes on where the first ends.
    send(1, 1, 3, 0x41);
    EXPECT_EQ(asked(), wide_ ? 8u : 8u | std::uint64_t{8} << 32);
    send(ones, ones, 60, 0x41);
    EXPECT_EQ(asked(), std::uint64_t{0xf} << 60);
    for (const std::uint64_t lowest : {64u, 65u, 128u, 0x80000000u, 0xffffffffu}) {
        send(ones, ones, lowest, 0x41);
        EXPECT_EQ(asked(), 0u) << lowest;
    }
}

TEST_P(Hypercalls, OnlyFixedInterruptsAndNmisAreSent)
{
    send(1, 0, 0, 0x4ff);
    EXPECT_EQ(m.environment.ipis.at(0).message.mode, DeliveryMode::nmi);
    for (const std::uint64_t icr : {
             0x00u, 0x0fu,                                         // vectors of exceptions
             0x141u, 0x241u, 0x341u, 0x541u, 0x641u, 0x741u,       // other modes
             0x841u, 0x40041u, 0x80041u, 0xc0041u, 0xc0c00u}) {    // destinations
        EXPECT_EQ(send(1, 0, 0, icr), error(KVM_EINVAL)) << icr;
        EXPECT_TRUE(m.environment.ipis.empty()) << icr;
    }
}

TEST_P(Hypercalls, ProgramsMayNot)
{
    m.enter_user();
    for (const std::uint64_t number : {5u, 10u, 11u, 4711u}) {
        EXPECT_EQ(call(number, {1, 0, 0, 0x41}), error(KVM_EPERM)) << number;
    }
    EXPECT_TRUE(m.environment.kicked.empty() && m.environment.yielded.empty() &&
                m.environment.ipis.empty());
}

TEST_P(Hypercalls, WhatCpuidDoesNotOfferIsUnknown)
{
    std::vector<x86::CpuidEntry> entries = m.cpuid.entries();
    for (x86::CpuidEntry& entry : entries) {
        if (entry.leaf == 0x40000001) entry.result.eax = 0;
    }
    m.cpuid = x86::CpuidPolicy::from_entries(std::move(entries));
    for (const auto number : {Hypercall::KICK_CPU, Hypercall::SEND_IPI, Hypercall::SCHED_YIELD}) {
        EXPECT_EQ(call(number, {1, 0, 0, 0x41}), error(KVM_ENOSYS));
    }
}

TEST_P(Hypercalls, SomebodyElsesAreLeftAlone)
{
    m.environment.elsewhere = true;
    m.put_code(M::code, {0x0f, 0x01, 0xc1});
    m.state.rip = M::code;
    m.state.gpr[x86::RAX] = 5;
    EXPECT_EQ(m.run(1), Interpreter::Stop::environment);
    EXPECT_EQ(m.state.rip, M::code);
    EXPECT_EQ(m.state.gpr[x86::RAX], 5u);
    EXPECT_TRUE(m.environment.kicked.empty());
}

INSTANTIATE_TEST_SUITE_P(Modes, Hypercalls,
                         testing::Values(M::Mode::protected32, M::Mode::long64),
                         [](const auto& info) {
                             return info.param == M::Mode::long64 ? "long64" : "protected32";
                         });

}  // namespace
}  // namespace doppel::engine::interpret
