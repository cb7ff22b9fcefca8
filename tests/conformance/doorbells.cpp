// Doorbells on every engine: guest writes that ring, and those that exit.
#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <thread>
#include <vector>

#include "bare_machine.h"
#include "bus/doorbell.h"

namespace doppel::conformance {

namespace {

using bus::DoorbellAddress, bus::Space;
using engine::Exit, engine::IoWriteExit, engine::MmioWriteExit;

constexpr std::uint64_t bar = 0x500000, page_of_bar = 0x25000;

// 64-bit supervisor code at `offset` of the code's pages, at low addresses and at high ones.
class Doorbells : public testing::TestWithParam<const char*> {
protected:
    void SetUp() override
    {
        const std::string engine = GetParam();
        if (engine == "translate" && !engine::translate_problem().empty()) {
            GTEST_SKIP() << engine::translate_problem();
        }
        auto made = TestEngine::create(engine, layout::memory_size);
        if (!made && engine == "kvm") GTEST_SKIP() << made.error().text();
        ASSERT_TRUE(made) << made.error().text();
        machine_ = std::move(made).value();
        for (auto& doorbell : doorbells_) {
            doorbell = std::move(machine_->engine().doorbells().create()).value();
        }
    }
    void start(std::vector<std::uint8_t> code, std::uint64_t seen_at)
    {
        Case c{};
        c.mode = Mode::kernel64;
        c.paging = Paging::level4;
        code.insert(code.end(), {0xeb, 0xfe});  // jmp .
        c.code = code;
        build_world(machine_->memory(), c, true);
        ASSERT_TRUE(machine_->memory().write_value(
            base::Gpa{layout::page_table + 8 * (page_of_bar >> 12)}, std::uint64_t{bar | 3}));
        x86::CpuState state = initial_state(c.mode, c.paging);
        state.rip += seen_at;
        state.gpr[x86::RSP] += seen_at;
        state.gpr[x86::RBX] = page_of_bar + seen_at;
        state.gpr[x86::RAX] = 0x11223344;
        state.gpr[x86::RDX] = 0x5678;
        machine_->vcpu().set_state(state);
    }
    Exit run() { return machine_->vcpu().run(); }
    bool bind(unsigned index, const DoorbellAddress& address)
    {
        return doorbells_[index]->bind(address).has_value();
    }
    [[nodiscard]] bool rung(unsigned index) const { return static_cast<bool>(doorbells_[index]->take()); }

    std::unique_ptr<TestEngine> machine_;
    std::array<std::unique_ptr<bus::Doorbell>, 3> doorbells_;
};

constexpr std::uint64_t places[] = {0, layout::high};

TEST_P(Doorbells, RingWithoutAnExit)
{
    for (const std::uint64_t place : places) {
        ASSERT_TRUE(bind(0, {Space::memory, bar + 8, 2, std::nullopt}));
        ASSERT_TRUE(bind(1, {Space::memory, bar + 12, 4, 0x11223344}));
        ASSERT_TRUE(bind(2, {Space::port, 0x5678, 1, std::nullopt}));
        // mov [rbx+8], ax; mov [rbx+12], eax; out dx, al; then those that ring nothing:
        // mov [rbx+8], al; mov [rbx+12], edx; out dx, ax
        start({0x66, 0x89, 0x43, 0x08, 0x89, 0x43, 0x0c, 0xee, 0x88, 0x43, 0x08, 0x89, 0x53, 0x0c,
               0x66, 0xef},
              place);
        EXPECT_EQ(run(), (Exit{MmioWriteExit{base::Gpa{bar + 8}, 1, 0x44}}));
        EXPECT_TRUE(rung(0));
        EXPECT_TRUE(rung(1));
        EXPECT_TRUE(rung(2));
        EXPECT_EQ(run(), (Exit{MmioWriteExit{base::Gpa{bar + 12}, 4, 0x5678}}));
        EXPECT_EQ(run(), (Exit{IoWriteExit{0x5678, 2, 0x3344}}));
        EXPECT_FALSE(rung(0) || rung(1) || rung(2));
    }
}

TEST_P(Doorbells, MoveBetweenExits)
{
    // 1: mov [rbx+8], ax; out 0x10, al; jmp 1b
    start({0x66, 0x89, 0x43, 0x08, 0xe6, 0x10, 0xeb, 0xf8}, layout::high);
    const Exit told{MmioWriteExit{base::Gpa{bar + 8}, 2, 0x3344}}, out{IoWriteExit{0x10, 1, 0x44}};
    for (unsigned round = 0; round < 20; ++round) {
        EXPECT_EQ(run(), told);
        EXPECT_EQ(run(), out);
        ASSERT_TRUE(bind(round % 3, {Space::memory, bar + 8, 2, std::nullopt}));
        EXPECT_EQ(run(), out);
        EXPECT_TRUE(rung(round % 3));
        ASSERT_TRUE(bind(round % 3, {Space::memory, bar + 10, 2, std::nullopt}));
        EXPECT_EQ(run(), told);
        EXPECT_EQ(run(), out);
        ASSERT_TRUE(bind(round % 3, {Space::memory, bar + 8, 2, std::nullopt}));
        EXPECT_EQ(run(), out);
        EXPECT_TRUE(rung(round % 3));
        doorbells_[round % 3]->unbind();
    }
}

TEST_P(Doorbells, MemoryComesFirst)
{
    // At the address of RAM: mov [rbx], ax, there; then out 0x10, al
    ASSERT_TRUE(bind(0, {Space::memory, layout::data, 2, std::nullopt}));
    start({0x66, 0x89, 0x03, 0xe6, 0x10}, layout::high);
    x86::CpuState state = machine_->vcpu().state();
    state.gpr[x86::RBX] = layout::high + layout::data;
    machine_->vcpu().set_state(state);
    EXPECT_EQ(run(), (Exit{IoWriteExit{0x10, 1, 0x44}}));
    EXPECT_FALSE(rung(0));
    std::uint16_t value = 0;
    ASSERT_TRUE(machine_->memory().read_value(base::Gpa{layout::data}, value));
    EXPECT_EQ(value, 0x3344);
}

TEST_P(Doorbells, FarAddressesHarmNobody)
{
    // What a guest may program into a BAR.
    for (const std::uint64_t address : {~std::uint64_t{0} - 1, std::uint64_t{1} << 63, std::uint64_t{0}}) {
        static_cast<void>(bind(0, {Space::memory, address, 2, std::nullopt}));
        start({0xe6, 0x10}, layout::high);
        EXPECT_EQ(run(), (Exit{IoWriteExit{0x10, 1, 0x44}}));
    }
    EXPECT_FALSE(rung(0));
}

// The guest rings in a loop, this thread waits as a device does, another binds and unbinds.
TEST_P(Doorbells, WhileTheGuestRuns)
{
    const DoorbellAddress address{Space::memory, bar + 8, 2, std::nullopt};
    ASSERT_TRUE(bind(0, address));
    start({0x66, 0x89, 0x43, 0x08, 0xeb, 0xfa}, layout::high);  // 1: mov [rbx+8], ax; jmp 1b
    std::atomic<bool> done{false};
    std::atomic<unsigned> others{0};
    std::uint64_t exits = 0;
    std::thread guest{[&] {
        while (!done) {
            const Exit exit = run();
            if (exit == Exit{MmioWriteExit{base::Gpa{bar + 8}, 2, 0x3344}}) {
                ++exits;
            } else if (!std::holds_alternative<engine::KickExit>(exit)) {
                ++others;
                break;
            }
        }
    }};
    const auto heard = [&](unsigned index) {
        pollfd event{doorbells_[index]->fd(), POLLIN, 0};
        return ::poll(&event, 1, 20'000) == 1 && rung(index);
    };
    for (unsigned round = 0; round < 50; ++round) {
        EXPECT_TRUE(heard(0)) << round;
        doorbells_[0]->unbind();
        EXPECT_TRUE(bind(1, address));
        EXPECT_TRUE(heard(1)) << round;
        doorbells_[1]->unbind();
        static_cast<void>(rung(0)), static_cast<void>(rung(1));
        EXPECT_TRUE(bind(0, address));
    }
    done = true;
    machine_->vcpu().kick();
    guest.join();
    EXPECT_EQ(others, 0u);
}

INSTANTIATE_TEST_SUITE_P(interpret, Doorbells, testing::Values("interpret"));
INSTANTIATE_TEST_SUITE_P(kvm, Doorbells, testing::Values("kvm"));
INSTANTIATE_TEST_SUITE_P(translate, Doorbells, testing::Values("translate"));

}  // namespace

}  // namespace doppel::conformance
