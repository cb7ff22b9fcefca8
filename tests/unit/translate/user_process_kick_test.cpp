#include "user_process_fixture.h"

namespace doppel::engine::translate
{
namespace
{

// Kicks, and how long the ways in and out take.

TEST_F(UserProcessTest, KickGetsItOutOfALoop)
{
    code().bytes({0x48, 0xff, 0xc0, 0xeb, 0xfb});  // inc rax; jmp back
    constexpr int rounds = 50;
    std::vector<std::int64_t> latencies;
    for (int i = 0; i < rounds; ++i) {
        attention_ = 0;
        context().gpr[x86::RAX] = 0;
        std::atomic<Clock::rep> set{0};
        std::thread kicker{[&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(i % 3));
            set = Clock::now().time_since_epoch().count();
            attention_ = 1;
            ::syscall(SYS_futex, &attention_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
        }};
        const auto exit = run();
        const auto now = Clock::now().time_since_epoch().count();
        kicker.join();
        latencies.push_back(now - set);
        if (exit == exit_cancelled) continue;
        ASSERT_EQ(exit, exit_kick);
        EXPECT_TRUE(context().host_rip == user_code || context().host_rip == user_code + 3);
    }
    std::sort(latencies.begin(), latencies.end());
    std::printf("kick: %lld us median, %lld us at most\n",
                static_cast<long long>(latencies[rounds / 2] / 1000),
                static_cast<long long>(latencies.back() / 1000));
}

TEST_F(UserProcessTest, AttentionBeforehandCancels)
{
    code().bytes({0x48, 0xff, 0xc0}).leave(site);
    context().gpr[x86::RAX] = 7;
    attention_ = 1;
    ASSERT_EQ(run(), exit_cancelled);
    EXPECT_EQ(process_->mapping_error(), 0);
    EXPECT_EQ(context().gpr[x86::RAX], 7u);
    // A single step goes on: it is how the caller gets to where it can attend.
    ASSERT_EQ(run(user_single_step), exit_fault);
    EXPECT_EQ(context().trap, debug_exception);
    EXPECT_EQ(context().gpr[x86::RAX], 8u);
    attention_ = 0;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 9u);
}

// Kicks at every moment: on the way in, inside, on the way out. No count is lost or made twice.
TEST_F(UserProcessTest, KicksAtAnyMomentLoseNothing)
{
    Assembler program = code();
    program.bytes({0x48, 0xff, 0xc0});                    // inc rax
    program.bytes({0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa});  // pause; dec ecx; jnz back
    program.leave(site);
    std::atomic<bool> stop{false};
    std::thread kicker{[&] {
        std::uint64_t random = 1;
        while (!stop) {
            attention_ = 1;
            ::syscall(SYS_futex, &attention_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
            random = random * 6364136223846793005u + 1;
            for (std::uint64_t i = random >> 60; i != 0; --i) __builtin_ia32_pause();
            attention_ = 0;
            std::this_thread::sleep_for(std::chrono::microseconds(random >> 57));
        }
    }};
    unsigned done = 0, kicked = 0, cancelled = 0;
    std::uint64_t at = user_code;
    context().gpr[x86::RAX] = 0;
    const auto start = Clock::now();
    while (ns_since(start) < 500'000'000 || (kicked < 20 && ns_since(start) < 10'000'000'000)) {
        if (at == user_code) context().gpr[x86::RCX] = 1 + done * 7919u % 1000;
        const auto exit = process_->enter(0, at);
        ASSERT_TRUE(exit);
        if (*exit == site) {
            ASSERT_EQ(context().gpr[x86::RCX], 0u);
            ++done;
            at = user_code;
            ASSERT_EQ(context().gpr[x86::RAX], done);
        } else if (*exit == exit_kick) {
            ++kicked;
            at = context().host_rip;
        } else {
            ASSERT_EQ(*exit, exit_cancelled);
            ++cancelled;
        }
    }
    stop = true;
    kicker.join();
    EXPECT_EQ(context().gpr[x86::RAX], done + (at == user_code ? 0 : 1));
    std::printf("%u done, %u kicked, %u cancelled\n", done, kicked, cancelled);
    EXPECT_GT(done, 0u);
    EXPECT_GT(kicked, 0u);
}

std::int64_t round_trip(UserProcess& process, int rounds)
{
    const auto start = Clock::now();
    for (int i = 0; i < rounds; ++i) {
        if (process.enter(0, user_code) != site) return -1;
    }
    return ns_since(start) / rounds;
}

TEST_F(UserProcessTest, RoundTripTimes)
{
    code().leave(site);
    const auto best = [&](int rounds) {
        std::int64_t least = 1 << 30;
        for (int i = 0; i < 20; ++i) least = std::min(least, round_trip(*process_, rounds));
        return static_cast<long long>(least);
    };
    ASSERT_EQ(run(), site);
    const long long spinning = best(2000);
    std::printf("round trip, spinning: %lld ns\n", spinning);
    EXPECT_GT(spinning, 0);
    attention_ = 1;
    const auto begin = Clock::now();
    for (int i = 0; i < 20000; ++i) ASSERT_EQ(run(), exit_cancelled);
    std::printf("hand-over without guest code: %lld ns\n",
                static_cast<long long>(ns_since(begin) / 20000));
    attention_ = 0;
    // A fill and an access to what was filled.
    code(0x100).bytes({0x48, 0x8b, 0x07}).leave(site);
    const auto fills = [&](const char* name, std::uint64_t length) {
        std::int64_t least = 1 << 30;
        for (int round = 0; round < 10; ++round) {
            constexpr int count = 100;
            process_->unmap_all();
            ASSERT_EQ(run(), site);
            const auto first = Clock::now();
            for (int i = 0; i < count; ++i) {
                context().gpr[x86::RDI] = guest + static_cast<unsigned>(i) * 2 * length;
                process_->map(mapping(context().gpr[x86::RDI], length, 0));
                ASSERT_EQ(process_->enter(0, user_code + 0x100), site);
            }
            least = std::min(least, ns_since(first) / count);
        }
        std::printf("%s: %lld ns\n", name, static_cast<long long>(least));
    };
    fills("turn with a page mapped and read", page);
    fills("turn with 16 pages mapped, one read", 16 * page);
    fills("turn with 64 pages mapped, one read", 64 * page);
    start({.spin_ns = 0});
    code().leave(site);
    ASSERT_EQ(run(), site);
    const long long sleeping = best(500);
    std::printf("round trip, sleeping: %lld ns\n", sleeping);
    EXPECT_GT(sleeping, 0);
}

}  // namespace
}  // namespace doppel::engine::translate
