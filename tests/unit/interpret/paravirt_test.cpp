// KVM's paravirtual MSRs: what lands in guest memory, and addresses of guests with bad intent.
#include "x86/paravirt.h"

#include <atomic>
#include <thread>

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
    for (const std::uint32_t index : {0x11u, 0x12u, 0x4b564d02u, 0x4b564d05u, 0x4b564d06u}) {
        EXPECT_EQ(write(index, page | 1), 13u) << index;
    }
}

TEST_F(Paravirt, EoiIsOfferedOnlyWhereTheGuestAskedForIt)
{
    m.put(page, std::uint32_t{0});
    m.interpreter->set_state(m.state);
    m.interpreter->offer_eoi();
    EXPECT_EQ(m.word32(page), 0u);
    ASSERT_EQ(write(MSR_KVM_PV_EOI_EN, page | 1), std::nullopt);
    std::uint64_t value = 0;
    m.state = m.interpreter->state();
    ASSERT_EQ(read(MSR_KVM_PV_EOI_EN, value), std::nullopt);
    EXPECT_EQ(value, page | 1);
    EXPECT_EQ(write(MSR_KVM_PV_EOI_EN, page | 3), 13u);
    EXPECT_EQ(write(MSR_KVM_PV_EOI_EN, (page + 2) | 1), 13u);
}

TEST_F(Paravirt, EoiThatTheGuestTakesIsReportedOnce)
{
    m.put(page, std::uint32_t{0x80000000});
    ASSERT_EQ(write(MSR_KVM_PV_EOI_EN, page | 1), std::nullopt);
    EXPECT_FALSE(m.interpreter->eoi_taken(EoiOffer::withdraw));  // nothing offered yet
    m.interpreter->offer_eoi();
    EXPECT_EQ(m.word32(page), 0x80000001u);
    EXPECT_FALSE(m.interpreter->eoi_taken(EoiOffer::keep));
    EXPECT_EQ(m.word32(page), 0x80000001u);
    m.put(page, std::uint32_t{0x80000000});
    EXPECT_TRUE(m.interpreter->eoi_taken(EoiOffer::keep));
    EXPECT_FALSE(m.interpreter->eoi_taken(EoiOffer::withdraw));
}

TEST_F(Paravirt, EoiOfferIsWithdrawn)
{
    ASSERT_EQ(write(MSR_KVM_PV_EOI_EN, page | 1), std::nullopt);
    m.interpreter->offer_eoi();
    EXPECT_FALSE(m.interpreter->eoi_taken(EoiOffer::withdraw));
    EXPECT_EQ(m.word32(page), 0u);
    EXPECT_FALSE(m.interpreter->eoi_taken(EoiOffer::withdraw));
}

TEST_F(Paravirt, EoiWordThatMovesMeanwhileIsLookedAtWhereItWas)
{
    ASSERT_EQ(write(MSR_KVM_PV_EOI_EN, page | 1), std::nullopt);
    m.interpreter->offer_eoi();
    m.interpreter->direct().state->kvm_pv_eoi = (page + 64) | 1;
    EXPECT_FALSE(m.interpreter->eoi_taken(EoiOffer::withdraw));
    EXPECT_EQ(m.word32(page), 0u);
}

TEST_F(Paravirt, HostileEoiWords)
{
    for (const std::uint64_t at : {M::ram - 2, M::ram, std::uint64_t{0xfee00000},
                                   ~std::uint64_t{0} & ~std::uint64_t{3}}) {
        ASSERT_EQ(write(MSR_KVM_PV_EOI_EN, (at & ~std::uint64_t{3}) | 1), std::nullopt);
        m.interpreter->offer_eoi();
        EXPECT_FALSE(m.interpreter->eoi_taken(EoiOffer::withdraw));
    }
}

class Preempted : public Paravirt {
protected:
    static constexpr std::uint64_t at = page + offsetof(StealTime, preempted);

    void SetUp() override
    {
        m.put(page, StealTime{});
        m.put(at, std::uint8_t{0xff});
        ASSERT_EQ(write(MSR_KVM_STEAL_TIME, page | 1), std::nullopt);
        m.interpreter->set_observer(&flushes);
    }
    [[nodiscard]] unsigned byte() const { return m.get<std::uint8_t>(at); }

    struct Flushes final : Observer {
        void tlb_flushed(bool keep_global) noexcept override { ++(keep_global ? some : all); }
        void page_flushed(std::uint64_t) noexcept override {}
        void address_space_changed(std::uint64_t, bool) noexcept override {}
        void pcid_flushed(unsigned, std::uint16_t, std::uint64_t) noexcept override {}
        void code_written(std::uint64_t) noexcept override {}
        int some = 0, all = 0;
    } flushes;
};

TEST_F(Preempted, IsZeroWhileTheVcpuRuns)
{
    EXPECT_EQ(byte(), 0u);
    m.interpreter->stops_running();
    EXPECT_EQ(byte(), vcpu_preempted);
    m.interpreter->runs_again();
    EXPECT_EQ(byte(), 0u);
    EXPECT_EQ(flushes.all, 0);
}

TEST_F(Preempted, FlushIsDoneOnceBeforeTheVcpuRuns)
{
    m.interpreter->stops_running();
    m.put(at, static_cast<std::uint8_t>(vcpu_preempted | vcpu_flush_tlb));
    m.interpreter->stops_running();
    EXPECT_EQ(flushes.all, 0);
    m.interpreter->runs_again();
    EXPECT_EQ(byte(), 0u);
    EXPECT_EQ(flushes.all, 1);
    m.interpreter->runs_again();
    EXPECT_EQ(flushes.all, 1);
}

// Another vCPU asks for flushes whenever it sees that this one does not run: each request that
// it could make is followed by a flush, and none is made while it runs.
TEST_F(Preempted, ASecondPartyNeverLosesARequest)
{
    std::atomic_ref<std::uint8_t> shared{
        *reinterpret_cast<std::uint8_t*>(m.memory->host(base::Gpa{at}))};
    std::atomic<bool> end{false};
    std::uint64_t requests = 0;
    std::thread other{[&] {
        while (!end.load()) {
            std::uint8_t seen = shared.load();
            if (seen != vcpu_preempted) continue;
            if (shared.compare_exchange_strong(
                    seen, static_cast<std::uint8_t>(vcpu_preempted | vcpu_flush_tlb))) {
                ++requests;
            }
        }
    }};
    for (int i = 0; i < 20000 || (flushes.all == 0 && i < 2'000'000); ++i) {
        m.interpreter->stops_running();
        if (i % 64 == 0) std::this_thread::yield();
        m.interpreter->runs_again();
        ASSERT_EQ(shared.load(), 0u);
    }
    end = true;
    other.join();
    EXPECT_GT(requests, 0u);
    EXPECT_EQ(static_cast<std::uint64_t>(flushes.all), requests);
}

TEST_F(Preempted, StateFromElsewhereMayBeOneThatWasStopped)
{
    m.interpreter->stops_running();
    const x86::CpuState stopped = m.interpreter->state();
    m.put(at, static_cast<std::uint8_t>(vcpu_preempted | vcpu_flush_tlb));
    m.interpreter->set_state(stopped);
    const int before = flushes.all;
    m.interpreter->runs_again();
    EXPECT_EQ(byte(), 0u);
    EXPECT_EQ(flushes.all, before + 1);
}

TEST_F(Preempted, HostileAddresses)
{
    for (const std::uint64_t where : {M::ram, std::uint64_t{0xfee00000},
                                      ~std::uint64_t{0} & ~std::uint64_t{0x3f}}) {
        ASSERT_EQ(write(MSR_KVM_STEAL_TIME, where | 1), std::nullopt);
        m.interpreter->stops_running();
        m.interpreter->runs_again();
    }
    ASSERT_EQ(write(MSR_KVM_STEAL_TIME, page), std::nullopt);  // disabled
    m.put(at, std::uint8_t{0});
    m.interpreter->stops_running();
    EXPECT_EQ(byte(), 0u);
}

TEST_F(Preempted, StealTimeLeavesItAlone)
{
    m.put(at, std::uint8_t{0x40});
    m.environment.steal = 5000;
    m.clock.advance(10'000'000);
    m.interpreter->deliver_interrupt(0x40);
    EXPECT_EQ(m.get<StealTime>(page).steal, 5000u);
    EXPECT_EQ(byte(), 0x40u);
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
