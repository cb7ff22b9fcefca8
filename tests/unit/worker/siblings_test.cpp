// vCPUs that tell each other of code and send interrupts: here in one process, on threads.
#include "engine/translate/worker/siblings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <thread>

#include "engine/translate/link/arena.h"

namespace doppel::engine::translate {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t pages = 16384;

class SiblingsTest : public testing::Test {
protected:
    void SetUp() override
    {
        // The summons is this process's; what it makes a worker do, the tests do.
        std::signal(summons_signal(), SIG_IGN);
        std::signal(kick_signal(), SIG_IGN);
        commons_->vcpus = 3;
        for (unsigned i = 0; i < 3; ++i) commons_->workers[i] = ::getpid();
        for (unsigned i = 0; i < 3; ++i) {
            auto made = Siblings::create(*commons_, {code_.get(), lost_.get(), pages}, i);
            ASSERT_TRUE(made) << made.error().text();
            cpus_[i] = std::move(*made);
        }
    }
    void hold(unsigned cpu, std::uint64_t page) { code_[page / 4096] |= std::uint64_t{1} << cpu; }
    Siblings::Notes take(unsigned cpu)
    {
        Siblings::Notes notes;
        cpus_[cpu].take(notes);
        cpus_[cpu].taken(notes);
        return notes;
    }

    std::unique_ptr<Commons> commons_ = std::make_unique<Commons>();
    std::unique_ptr<std::atomic<std::uint64_t>[]> code_{new std::atomic<std::uint64_t>[pages]{}};
    std::unique_ptr<std::atomic<std::uint64_t>[]> lost_{new std::atomic<std::uint64_t>[pages]{}};
    std::array<Siblings, 3> cpus_;
};

TEST_F(SiblingsTest, NobodyWaitsForWhoIsOutside)
{
    hold(0, 0x5000);
    cpus_[0].announce(0x5000);
    EXPECT_FALSE(cpus_[0].pending());
    EXPECT_TRUE(cpus_[0].holds(0x5000));
    EXPECT_TRUE(cpus_[1].others_hold(0x5000));
    for (const unsigned cpu : {1u, 2u}) {
        EXPECT_TRUE(cpus_[cpu].pending());
        const Siblings::Notes notes = take(cpu);
        EXPECT_THAT(notes.watched, ElementsAre(0x5000));
        EXPECT_THAT(notes.written, IsEmpty());
        EXPECT_FALSE(notes.lost);
        EXPECT_FALSE(cpus_[cpu].pending());
    }
}

TEST_F(SiblingsTest, OnlyHoldersAreToldOfWrites)
{
    hold(2, 0x7000);
    const std::uint64_t written[] = {0x7000, 0x8000};
    cpus_[0].tell(written);
    EXPECT_FALSE(cpus_[1].pending());
    EXPECT_THAT(take(2).written, ElementsAre(0x7000));
}

TEST_F(SiblingsTest, WhoTellsWaitsForWhoIsInside)
{
    hold(1, 0x3000);
    cpus_[0].enter();
    cpus_[1].enter();
    std::atomic<bool> dropped{false};
    std::thread other{[&] {
        while (!cpus_[1].pending()) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds{5});
        Siblings::Notes notes;
        cpus_[1].take(notes);
        dropped = true;
        cpus_[1].taken(notes);
    }};
    const std::uint64_t written[] = {0x3000};
    cpus_[0].tell(written);
    EXPECT_TRUE(dropped);
    EXPECT_EQ(commons_->inside, 2u);
    other.join();
}

TEST_F(SiblingsTest, WhoLeavesIsWaitedForNoLonger)
{
    hold(1, 0x3000);
    cpus_[0].enter();
    cpus_[1].enter();
    std::thread other{[&] {
        while (!cpus_[1].pending()) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds{5});
        cpus_[1].leave();
    }};
    const std::uint64_t written[] = {0x3000};
    cpus_[0].tell(written);
    other.join();
    EXPECT_THAT(take(1).written, ElementsAre(0x3000));
}

TEST_F(SiblingsTest, TwoThatWaitForEachOtherGoOn)
{
    hold(0, 0x1000);
    hold(1, 0x2000);
    const auto run = [&](unsigned cpu, std::uint64_t page) {
        for (int i = 0; i < 1000; ++i) {
            cpus_[cpu].enter();
            while (cpus_[cpu].pending()) take(cpu);
            const std::uint64_t written[] = {page};
            cpus_[cpu].tell(written);
            while (cpus_[cpu].pending()) take(cpu);
            cpus_[cpu].leave();
        }
    };
    std::thread other{run, 1, 0x1000};
    run(0, 0x2000);
    other.join();
    EXPECT_EQ(commons_->inside, 0u);
}

TEST_F(SiblingsTest, AfterASummonsThatCameTooLateAnotherIsSent)
{
    hold(1, 0x3000);
    cpus_[1].enter();
    // Taken before the signal came.
    commons_->seats[1].summoned = 1;
    cpus_[1].heed_summons();
    EXPECT_EQ(commons_->seats[1].summoned, 0u);
}

TEST_F(SiblingsTest, NotesWithoutRoomAreFoundByPage)
{
    for (std::uint64_t i = 0; i < notes_max + 10; ++i) {
        const std::uint64_t page = i * 4096;
        hold(1, page);
        cpus_[0].tell({&page, 1});
    }
    const Siblings::Notes notes = take(1);
    EXPECT_TRUE(notes.lost);
    EXPECT_EQ(notes.written.size(), notes_max);
    EXPECT_FALSE(cpus_[1].lost_write((notes_max - 1) * 4096));
    for (std::uint64_t i = notes_max; i < notes_max + 10; ++i) {
        EXPECT_TRUE(cpus_[1].lost_write(i * 4096));
        EXPECT_FALSE(cpus_[1].lost_write(i * 4096));
    }
    EXPECT_FALSE(take(1).lost);
}

TEST_F(SiblingsTest, PagesThatAreNotThereAreNotTaken)
{
    Seat& seat = commons_->seats[1];
    seat.notes[0] = ~std::uint64_t{0xfff} | note_written;
    seat.note_count = 1;
    EXPECT_THAT(take(1).written, IsEmpty());
    seat.note_count = ~0u;
    EXPECT_TRUE(take(1).lost);
}

TEST_F(SiblingsTest, InterruptsGoWhereTheyAreFor)
{
    for (unsigned i = 0; i < 3; ++i) {
        x86::LocalApic::Address address;
        address.enabled = address.accepts = true;
        address.logical_id = 1u << i;
        address.model = 0xf;
        commons_->seats[i].apic_address = pack(address);
    }
    x86::ApicMessage message;
    message.vector = 0x83;
    message.destination = 2;
    EXPECT_FALSE(cpus_[0].mine(message));
    cpus_[0].send(message);
    EXPECT_EQ(commons_->seats[1].attention, 0u);
    EXPECT_EQ(commons_->seats[2].attention, 1u);
    EXPECT_EQ(commons_->seats[2].vectors[2], 1u << 3);

    message.shorthand = x86::Shorthand::others;
    message.mode = x86::DeliveryMode::startup;
    message.vector = 8;
    cpus_[0].send(message);
    EXPECT_EQ(commons_->seats[0].startup, 0u);
    EXPECT_EQ(commons_->seats[1].startup, startup_bit | 8);
    message.mode = x86::DeliveryMode::init;
    cpus_[0].send(message);
    EXPECT_EQ(commons_->seats[1].init, 1u);
    EXPECT_EQ(commons_->seats[1].startup, 0u);  // it came before the INIT

    // One of those, and only one, takes a lowest-priority message.
    message = {};
    message.mode = x86::DeliveryMode::lowest_priority;
    message.logical = true;
    message.destination = 0x6;
    EXPECT_EQ(destinations(*commons_, 3, message, 3), 2u);
}

TEST_F(SiblingsTest, OneCallInterruptsThoseWhoTakeIt)
{
    for (unsigned i = 0; i < 3; ++i) {
        x86::LocalApic::Address address;
        address.enabled = true;
        address.accepts = i != 2;
        commons_->seats[i].apic_address = pack(address);
    }
    x86::ApicMessage message;
    message.vector = 0x41;
    // Not to itself, nor to an APIC that software has disabled, nor to ones that are not there.
    EXPECT_EQ(cpus_[0].send(message, ~std::uint64_t{0}), 1u);
    EXPECT_EQ(commons_->seats[0].vectors[1], 0u);
    EXPECT_EQ(commons_->seats[1].vectors[1], 2u);
    EXPECT_EQ(commons_->seats[2].vectors[1], 0u);
    EXPECT_EQ(commons_->seats[1].attention, 1u);
    message.mode = x86::DeliveryMode::nmi;
    EXPECT_EQ(cpus_[0].send(message, 0b110), 2u);
    EXPECT_EQ(commons_->seats[2].nmi, 1u);
    EXPECT_EQ(cpus_[0].send(message, 0), 0u);
}

TEST_F(SiblingsTest, AKickStopsNobodyWhoRuns)
{
    commons_->seats[1].in_guest = in_guest_code;
    commons_->seats[2].in_guest = asleep_in_hlt;
    for (const std::uint32_t id : {0u, 1u, 2u, 3u, 64u, ~0u}) cpus_[0].end_halt(id);
    for (const auto& seat : {0, 1, 2}) EXPECT_EQ(commons_->seats[seat].unhalted, 1u);
    EXPECT_EQ(commons_->seats[1].attention, 0u);
    EXPECT_EQ(commons_->seats[2].attention, 1u);
    for (unsigned i = 3; i < vcpus_max; ++i) EXPECT_EQ(commons_->seats[i].unhalted, 0u);
    for (const std::uint32_t id : {0u, 1u, 2u, 3u, 64u, ~0u}) cpus_[0].yield_to(id);
}

TEST_F(SiblingsTest, AnAddressIsPackedWhole)
{
    x86::LocalApic::Address address;
    address.id = 7;
    address.logical_id = 0x10002;
    address.model = 0xf;
    for (const bool bit : {false, true}) {
        address.enabled = bit;
        address.x2apic = !bit;
        address.accepts = bit;
        EXPECT_EQ(unpack(pack(address), 7), address);
    }
}

TEST_F(SiblingsTest, NearlyTheSameTimeIsTheSame)
{
    EXPECT_EQ(cpus_[0].common_tsc_offset(1000, 500), 1000u);
    EXPECT_EQ(cpus_[1].common_tsc_offset(1400, 500), 1000u);
    EXPECT_EQ(cpus_[2].common_tsc_offset(600, 500), 1000u);
    EXPECT_EQ(cpus_[1].common_tsc_offset(2000, 500), 2000u);
}

}  // namespace
}  // namespace doppel::engine::translate
