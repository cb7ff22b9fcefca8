#include <gtest/gtest.h>

#include "bus/manual_clock.h"
#include "bus/ticks.h"
#include "devices/timer/pit.h"
#include "devices/timer/pm_timer.h"
#include "devices/timer/rtc.h"
#include "fakes.h"

namespace doppel::devices {
namespace {

struct PitTest : testing::Test {
    void control(std::uint8_t value) { out(pit.counter_ports(), 3, value); }
    void put(unsigned channel, std::uint8_t value) { out(pit.counter_ports(), channel, value); }
    std::uint8_t get(unsigned channel)
    {
        return static_cast<std::uint8_t>(in(pit.counter_ports(), channel));
    }
    unsigned get16(unsigned channel)
    {
        const unsigned low = get(channel);
        return low | static_cast<unsigned>(get(channel)) << 8;
    }
    // Up to the moment at which the counters have run for `ticks` in all.
    void advance_to(std::uint64_t ticks)
    {
        clock.advance(bus::ticks_to_ns(ticks, Pit::hz) - clock.now_ns());
    }

    bus::Bus bus;
    FakeInterrupts interrupts;
    bus::ManualClock clock;
    Pit pit{bus, interrupts, clock};
};

TEST_F(PitTest, RateGeneratorInterruptsEveryPeriod)
{
    control(0x34);
    put(0, 0xe8);
    put(0, 0x03);
    const unsigned before = interrupts.rises[0];
    advance_to(999);
    EXPECT_EQ(interrupts.rises[0], before);
    advance_to(1000);
    EXPECT_EQ(interrupts.rises[0], before + 1);
    advance_to(10'000);
    EXPECT_EQ(interrupts.rises[0], before + 10);
    advance_to(10'250);
    EXPECT_EQ(get16(0), 750u);
}

TEST_F(PitTest, OneShotInterruptsOnce)
{
    control(0x30);
    EXPECT_FALSE(interrupts.lines[0]);
    put(0, 100);
    put(0, 0);
    advance_to(99);
    EXPECT_FALSE(interrupts.lines[0]);
    advance_to(100);
    EXPECT_TRUE(interrupts.lines[0]);
    advance_to(103);
    EXPECT_EQ(get16(0), 0xfffdu) << "goes on below zero";
    EXPECT_EQ(clock.next_deadline(), ~std::uint64_t{0});
}

TEST_F(PitTest, LatchKeepsUntilRead)
{
    control(0x34);
    put(0, 0);
    put(0, 0x10);
    advance_to(0x100);
    control(0x00);
    advance_to(0x200);
    control(0x00);  // ignored
    EXPECT_EQ(get16(0), 0xf00u);
    EXPECT_EQ(get16(0), 0xe00u);
}

TEST_F(PitTest, ReadBackStatusThenCount)
{
    control(0x36);
    control(0xc2);
    EXPECT_EQ(get(0), 0xf6) << "out high, null count, control";
    (void)get16(0);
    put(0, 0);
    put(0, 0x10);
    control(0xc2);
    EXPECT_EQ(get(0), 0xb6);
    EXPECT_EQ(get16(0), 0x1000u);
}

TEST_F(PitTest, SquareWaveAndBcd)
{
    control(0x37);
    put(0, 0x00);
    put(0, 0x10);  // 1000 in BCD
    advance_to(100);
    EXPECT_TRUE(pit.output(0));
    EXPECT_EQ(get16(0), 0x800u);
    advance_to(600);
    EXPECT_FALSE(pit.output(0));
    advance_to(1100);
    EXPECT_TRUE(pit.output(0));
}

TEST_F(PitTest, CalibrationByChannelTwo)
{
    // As Linux does: gate on, mode 0, wait for OUT in port B.
    out(pit.port_b(), 0, 0x01);
    control(0xb0);
    put(2, 0x0a);
    put(2, 0x00);
    EXPECT_EQ(in(pit.port_b(), 0) & 0x21, 0x01u);
    advance_to(9);
    EXPECT_EQ(in(pit.port_b(), 0) & 0x20, 0u);
    advance_to(10);
    EXPECT_EQ(in(pit.port_b(), 0) & 0x20, 0x20u);
}

TEST_F(PitTest, GateHoldsTheCount)
{
    out(pit.port_b(), 0, 0x03);
    EXPECT_EQ(in(pit.port_b(), 0) & 0x03, 0x03u);
    control(0xb0);
    put(2, 100);
    put(2, 0);
    advance_to(10);
    out(pit.port_b(), 0, 0);
    advance_to(50);
    EXPECT_EQ(get16(2), 90u);
    out(pit.port_b(), 0, 1);
    advance_to(70);
    EXPECT_EQ(get16(2), 70u);
}

TEST_F(PitTest, HardwareTriggeredModesWaitForTheGate)
{
    for (const std::uint8_t mode : {1, 5}) {
        out(pit.port_b(), 0, 0);
        control(static_cast<std::uint8_t>(0x90 | mode << 1));
        put(2, 20);
        const auto start = bus::ns_to_ticks(clock.now_ns(), Pit::hz);
        advance_to(start + 50);
        EXPECT_TRUE(pit.output(2));
        out(pit.port_b(), 0, 1);
        advance_to(start + 60);
        EXPECT_EQ(pit.output(2), mode == 5);
        advance_to(start + 70);
        EXPECT_EQ(pit.output(2), mode == 1);
    }
}

TEST_F(PitTest, SoftwareStrobe)
{
    control(0x18);
    put(0, 5);
    EXPECT_TRUE(pit.output(0));
    advance_to(5);
    EXPECT_FALSE(pit.output(0));
    advance_to(6);
    EXPECT_TRUE(pit.output(0));
}

TEST_F(PitTest, SaveAndLoad)
{
    control(0x34);
    put(0, 0xe8);
    put(0, 0x03);
    advance_to(500);
    FakeInterrupts other_interrupts;
    Pit other{bus, other_interrupts, clock};
    ASSERT_TRUE(copy_state(pit, other));
    const unsigned before = other_interrupts.rises[0];
    advance_to(1000);
    EXPECT_EQ(other_interrupts.rises[0], before + 1);
    Pit::State bad = pit.state();
    bad.channels[0].count = 0;
    base::StateWriter writer;
    writer.section("pit", 1, bad);
    const auto stream = writer.finish();
    EXPECT_FALSE(other.load(*base::StateReader::open(stream)));
}

TEST(PmTimer, RunsAndWraps)
{
    bus::ManualClock clock;
    PmTimer narrow{clock, PmTimer::Width::bits_24};
    PmTimer wide{clock, PmTimer::Width::bits_32};
    clock.advance(bus::ns_per_second);
    EXPECT_EQ(in(narrow, 0, 4), 3'579'545u);
    EXPECT_EQ(in(narrow, 1), (3'579'545u >> 8) & 0xff);
    clock.advance(9 * bus::ns_per_second);
    EXPECT_EQ(in(wide, 0, 4), 35'795'450u);
    EXPECT_EQ(in(narrow, 0, 4), 35'795'450u & 0xffffff);
}

struct RtcTest : testing::Test {
    std::uint8_t get(std::uint8_t index)
    {
        out(rtc, 0, index);
        return static_cast<std::uint8_t>(in(rtc, 1));
    }
    void set(std::uint8_t index, std::uint8_t value)
    {
        out(rtc, 0, index);
        out(rtc, 1, value);
    }

    bus::Bus bus;
    FakeInterrupts interrupts;
    bus::ManualClock clock;
    // 2024-02-29 23:59:58 UTC, a Thursday
    Rtc rtc{bus, interrupts, clock, {1'709'251'198, 512u << 20, std::uint64_t{1} << 30}};
};

TEST_F(RtcTest, TimeOfDay)
{
    EXPECT_EQ(get(0), 0x58);
    EXPECT_EQ(get(2), 0x59);
    EXPECT_EQ(get(4), 0x23);
    EXPECT_EQ(get(6), 0x05);
    EXPECT_EQ(get(7), 0x29);
    EXPECT_EQ(get(8), 0x02);
    EXPECT_EQ(get(9), 0x24);
    EXPECT_EQ(get(0x32), 0x20);
    clock.advance(2 * bus::ns_per_second);
    EXPECT_EQ(get(0), 0x00);
    EXPECT_EQ(get(4), 0x00);
    EXPECT_EQ(get(7), 0x01);
    EXPECT_EQ(get(8), 0x03);
    EXPECT_EQ(in(rtc, 0), 0xffu) << "the index port is write-only";
}

TEST_F(RtcTest, BinaryAndTwelveHours)
{
    set(0x0b, 0x06);
    EXPECT_EQ(get(0), 58);
    EXPECT_EQ(get(4), 23);
    set(0x0b, 0x04);
    EXPECT_EQ(get(4), 0x80 | 11);
    clock.advance(2 * bus::ns_per_second);
    EXPECT_EQ(get(4), 12) << "midnight is 12 AM";
}

TEST_F(RtcTest, SetInAnyOrder)
{
    set(0x0b, 0x82);
    set(9, 0x31);
    set(8, 0x02);
    set(7, 0x15);
    set(4, 0x12);
    set(2, 0x30);
    set(0, 0x00);
    clock.advance(5 * bus::ns_per_second);
    EXPECT_EQ(get(0), 0x00) << "stands still while SET";
    set(0x0b, 0x02);
    clock.advance(bus::ns_per_second);
    EXPECT_EQ(get(0), 0x01);
    EXPECT_EQ(get(7), 0x15);
    EXPECT_EQ(get(8), 0x02);
    EXPECT_EQ(get(9), 0x31);
    EXPECT_EQ(get(0x32), 0x20);
}

TEST_F(RtcTest, MemorySizesAndNvram)
{
    EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
    EXPECT_EQ(get(0x17) | get(0x18) << 8, 0xffff);
    EXPECT_EQ(get(0x34) | get(0x35) << 8, (512 - 16) * 16);
    EXPECT_EQ(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, 1024 * 16);
    set(0x40, 0x5a);
    set(0x8f, 0xa5);
    EXPECT_TRUE(rtc.nmi_masked());
    rtc.reset();
    EXPECT_FALSE(rtc.nmi_masked());
    EXPECT_EQ(get(0x40), 0x5a);
    EXPECT_EQ(get(0x0f), 0xa5);
    EXPECT_EQ(get(0x0d), 0x80);
}

TEST_F(RtcTest, UpdateEndedInterrupt)
{
    EXPECT_EQ(clock.next_deadline(), ~std::uint64_t{0});
    set(0x0b, 0x12);
    clock.advance(bus::ns_per_second);
    EXPECT_TRUE(interrupts.lines[8]);
    EXPECT_EQ(get(0x0c) & 0xb0, 0x90) << "the periodic flag is set without its enable, too";
    EXPECT_FALSE(interrupts.lines[8]);
    EXPECT_EQ(get(0x0c) & 0xb0, 0);
    clock.advance(bus::ns_per_second);
    EXPECT_TRUE(interrupts.lines[8]);
}

TEST_F(RtcTest, PeriodicInterrupt)
{
    set(0x0b, 0x42);
    unsigned count = 0;
    for (unsigned i = 0; i < 1024; ++i) {
        clock.advance(bus::ns_per_second / 1024 + 1);
        if ((get(0x0c) & 0x40) != 0) ++count;
    }
    EXPECT_GE(count, 1023u);
    EXPECT_LE(interrupts.rises[8], 1025u);
    set(0x0a, 0x20);
    (void)get(0x0c);
    clock.advance(bus::ns_per_second);
    EXPECT_FALSE(interrupts.lines[8]) << "rate 0 is off";
}

TEST_F(RtcTest, AlarmInterrupt)
{
    set(1, 0x00);
    set(3, 0x30);
    set(5, 0x07);
    set(0x0b, 0x22);
    clock.advance((7 * 3600 + 30 * 60 + 1) * bus::ns_per_second);
    EXPECT_FALSE(interrupts.lines[8]);
    clock.advance(bus::ns_per_second);
    EXPECT_TRUE(interrupts.lines[8]);
    EXPECT_EQ(get(0x0c) & 0xb0, 0xb0);
    set(1, 0xff);
    set(3, 0xff);
    set(5, 0xff);
    clock.advance(bus::ns_per_second);
    EXPECT_TRUE(interrupts.lines[8]) << "every second";
}

TEST_F(RtcTest, UpdateInProgress)
{
    EXPECT_EQ(get(0x0a), 0x26);
    clock.advance(bus::ns_per_second - 100'000);
    EXPECT_EQ(get(0x0a), 0xa6);
    clock.advance(100'000);
    EXPECT_EQ(get(0x0a), 0x26);
}

TEST_F(RtcTest, SaveAndLoad)
{
    set(0x40, 0x77);
    set(0x0b, 0x12);
    FakeInterrupts other_interrupts;
    Rtc other{bus, other_interrupts, clock, {0, 0, 0}};
    ASSERT_TRUE(copy_state(rtc, other));
    clock.advance(bus::ns_per_second);
    EXPECT_TRUE(other_interrupts.lines[8]);
    out(other, 0, 0x40);
    EXPECT_EQ(in(other, 1), 0x77u);
    out(other, 0, 9);
    EXPECT_EQ(in(other, 1), 0x24u);
}

}  // namespace
}  // namespace doppel::devices
