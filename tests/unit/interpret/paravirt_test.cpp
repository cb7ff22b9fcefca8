// KVM's paravirtual MSRs: what lands in guest memory, and addresses of guests with bad intent.
#include "x86/paravirt.h"

#include "system_machine.h"

namespace doppel::engine::interpret {
namespace {

using M = SystemMachine;
using namespace x86::paravirt;

constexpr std::uint64_t page = M::data;
__extension__ using Wide = unsigned __int128;

class Paravirt : public testing::Test {
protected:
    // The vector that it ends in; nothing when it retires.
    std::optional<unsigned> write(std::uint32_t index, std::uint64_t value)
    {
        return run(0x30, index, value);
    }
    std::optional<unsigned> read(std::uint32_t index, std::uint64_t& value)
    {
        const auto vector = run(0x32, index, 0);
        value = (m.state.gpr[x86::RDX] << 32) | (m.state.gpr[x86::RAX] & 0xffffffff);
        return vector;
    }
    [[nodiscard]] VcpuTime time() const { return m.get<VcpuTime>(page); }
    // As a guest computes it.
    [[nodiscard]] std::uint64_t system_time() const
    {
        const VcpuTime t = time();
        std::uint64_t delta = m.interpreter->state().tsc - t.tsc_timestamp;
        delta = t.tsc_shift >= 0 ? delta << t.tsc_shift : delta >> -t.tsc_shift;
        return t.system_time +
               static_cast<std::uint64_t>((static_cast<Wide>(delta) *
                                           t.tsc_to_system_mul) >> 32);
    }

    M m{M::Mode::long64};

private:
    std::optional<unsigned> run(unsigned opcode, std::uint32_t index, std::uint64_t value)
    {
        m.put_code(M::code, {0x0f, opcode, 0xf4});
        m.state.rip = M::code;
        m.state.gpr[x86::RSP] = 0x30000;
        m.state.events.activity = x86::Activity::running;
        m.state.gpr[x86::RCX] = index;
        m.state.gpr[x86::RAX] = value & 0xffffffff;
        m.state.gpr[x86::RDX] = value >> 32;
        m.run();
        return m.vector();
    }
};

TEST_F(Paravirt, SystemTimeFollowsTheClock)
{
    m.clock.advance(5'000'000'000);
    ASSERT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, page | 1), std::nullopt);
    EXPECT_EQ(time().version % 2, 0u);
    EXPECT_GT(time().version, 0u);
    EXPECT_EQ(time().flags, tsc_stable);
    EXPECT_EQ(system_time(), m.clock.now_ns());
    m.clock.advance(3'333'333'333);
    EXPECT_NEAR(static_cast<double>(system_time()), static_cast<double>(m.clock.now_ns()), 10);
    std::uint64_t value = 0;
    ASSERT_EQ(read(MSR_KVM_SYSTEM_TIME_NEW, value), std::nullopt);
    EXPECT_EQ(value, page | 1);
}

TEST_F(Paravirt, SystemTimeSurvivesWritesOfTheTsc)
{
    ASSERT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, page | 1), std::nullopt);
    const std::uint32_t version = time().version;
    m.clock.advance(1'000'000'000);
    ASSERT_EQ(write(0x10, 0x123456789abc), std::nullopt);
    EXPECT_GT(time().version, version);
    EXPECT_EQ(system_time(), m.clock.now_ns());
}

TEST_F(Paravirt, DisabledClockIsNotWritten)
{
    ASSERT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, page | 1), std::nullopt);
    ASSERT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, page), std::nullopt);
    m.put(page, VcpuTime{});
    ASSERT_EQ(write(0x10, 77), std::nullopt);
    EXPECT_EQ(time().version, 0u);
}

TEST_F(Paravirt, OddVersionsOfTheGuestBecomeEven)
{
    m.put(page, std::uint32_t{0xffffffff});
    ASSERT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, page | 1), std::nullopt);
    EXPECT_EQ(time().version % 2, 0u);
}

TEST_F(Paravirt, WallClockIsTheTimeAtWhichSystemTimeWasZero)
{
    m.clock.advance(1'500'000'000);
    m.environment.realtime = 1'700'000'000'250'000'000;
    ASSERT_EQ(write(MSR_KVM_WALL_CLOCK_NEW, page + 4), std::nullopt);
    const auto clock = m.get<WallClock>(page + 4);
    EXPECT_EQ(clock.version % 2, 0u);
    EXPECT_GT(clock.version, 0u);
    EXPECT_EQ(clock.seconds, 1'699'999'998u);
    EXPECT_EQ(clock.nanoseconds, 750'000'000u);
}

TEST_F(Paravirt, StealTimeIsAccumulatedFromWhenItWasAskedFor)
{
    m.environment.steal = 1000;
    m.put(page, StealTime{});
    ASSERT_EQ(write(MSR_KVM_STEAL_TIME, page | 1), std::nullopt);
    m.environment.steal = 1234;
    m.clock.advance(10'000'000);
    m.interpreter->deliver_interrupt(0x40);
    EXPECT_EQ(m.get<StealTime>(page).steal, 234u);
    EXPECT_EQ(m.get<StealTime>(page).version % 2, 0u);
    EXPECT_GT(m.get<StealTime>(page).version, 0u);
    EXPECT_EQ(write(MSR_KVM_STEAL_TIME, page | 3), 13u);
}

TEST_F(Paravirt, HostileAddresses)
{
    EXPECT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, (M::ram - 4) | 1), std::nullopt);
    EXPECT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, 0xfffffffffffffff1), std::nullopt);
    EXPECT_EQ(write(MSR_KVM_SYSTEM_TIME_NEW, 0xfee00001), std::nullopt);
    EXPECT_EQ(write(MSR_KVM_WALL_CLOCK_NEW, M::ram - 4), std::nullopt);
    EXPECT_EQ(write(MSR_KVM_WALL_CLOCK_NEW, ~std::uint64_t{0}), std::nullopt);
    EXPECT_EQ(write(MSR_KVM_STEAL_TIME, (~std::uint64_t{0} & ~std::uint64_t{0x3e})), std::nullopt);
    m.environment.steal = 99;
    m.clock.advance(10'000'000);
    m.interpreter->deliver_interrupt(0x40);
    // The first bytes were memory: nothing of it was written.
    EXPECT_EQ(m.get<std::uint32_t>(M::ram - 4), 0u);
}

TEST_F(Paravirt, TheRunningCodeMayBeOverwritten)
{
    // The structure begins right behind the WRMSR: what follows is its version and padding.
    ASSERT_NE(write(MSR_KVM_SYSTEM_TIME_NEW, ((M::code + 2) & ~std::uint64_t{1}) | 1), 13u);
    EXPECT_EQ(m.get<VcpuTime>(M::code + 2).flags, tsc_stable);
}

TEST_F(Paravirt, OtherMsrsOfKvmAreNotOffered)
{
    for (const std::uint32_t index : {0x11u, 0x12u, 0x4b564d02u, 0x4b564d04u, 0x4b564d05u}) {
        EXPECT_EQ(write(index, page | 1), 13u) << index;
    }
}

TEST(TimeScale, IsRightForAllFrequencies)
{
    for (const std::uint64_t hz : {1'000'000ull, 999'999'999ull, 1'000'000'000ull, 1'000'000'001ull,
                                   2'000'000'000ull, 2'299'995'000ull, 5'100'000'000ull}) {
        const TimeScale scale = time_scale(hz);
        const std::uint64_t delta = scale.shift >= 0 ? hz << scale.shift : hz >> -scale.shift;
        const auto ns = static_cast<double>(
            static_cast<std::uint64_t>((static_cast<Wide>(delta) * scale.multiplier) >> 32));
        EXPECT_NEAR(ns, 1e9, 5) << hz;
    }
}

}  // namespace
}  // namespace doppel::engine::interpret
