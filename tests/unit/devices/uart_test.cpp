#include <gtest/gtest.h>

#include "bus/manual_clock.h"
#include "devices/legacy/uart16550.h"
#include "fakes.h"

namespace doppel::devices {
namespace {

constexpr unsigned irq = 4;

struct UartTest : testing::Test {
    std::uint8_t get(unsigned offset) { return static_cast<std::uint8_t>(in(uart, offset)); }
    void set(unsigned offset, std::uint8_t value) { out(uart, offset, value); }
    void enable(std::uint8_t ier, std::uint8_t fcr = 0x01)
    {
        set(2, fcr);
        set(4, 0x0b);
        set(1, ier);
    }

    bus::Bus bus;
    FakeInterrupts interrupts;
    bus::ManualClock clock;
    FakeConsole console;
    Uart16550 uart{bus, interrupts, irq, clock, console};
};

TEST_F(UartTest, ResetValues)
{
    EXPECT_EQ(get(1), 0);
    EXPECT_EQ(get(2), 0x01);
    EXPECT_EQ(get(3), 0);
    EXPECT_EQ(get(4), 0);
    EXPECT_EQ(get(5), 0x60);
    EXPECT_EQ(get(6), 0xb0);
}

TEST_F(UartTest, ScratchDivisorAndMasks)
{
    set(7, 0xa5);
    EXPECT_EQ(get(7), 0xa5);
    set(3, 0x83);
    set(0, 0x34);
    set(1, 0x12);
    EXPECT_EQ(get(0), 0x34);
    EXPECT_EQ(get(1), 0x12);
    set(3, 0x03);
    EXPECT_EQ(get(1), 0);
    set(1, 0xff);
    EXPECT_EQ(get(1), 0x0f);
    set(4, 0xff);
    EXPECT_EQ(get(4), 0x1f);
    set(2, 0xc9);
    EXPECT_EQ(get(2) & 0xc0, 0xc0);
}

TEST_F(UartTest, TransmitsAndInterruptsOnEmpty)
{
    enable(0x02);
    EXPECT_TRUE(interrupts.lines[irq]) << "empty when enabled";
    EXPECT_EQ(get(2), 0xc2);
    EXPECT_FALSE(interrupts.lines[irq]) << "reading IIR acknowledges it";
    set(0, 'h');
    set(0, 'i');
    EXPECT_EQ(console.output, "hi");
    EXPECT_TRUE(interrupts.lines[irq]);
}

TEST_F(UartTest, HeldBackByASlowHost)
{
    enable(0x02);
    EXPECT_EQ(get(2), 0xc2);
    console.room = 3;
    for (const char c : std::string{"abcdef"}) set(0, static_cast<std::uint8_t>(c));
    EXPECT_EQ(console.output, "abc");
    EXPECT_EQ(get(5) & 0x60, 0);
    EXPECT_FALSE(interrupts.lines[irq]);
    console.room = 100;
    console.on_writable();
    EXPECT_EQ(console.output, "abcdef");
    EXPECT_EQ(get(5) & 0x60, 0x60);
    EXPECT_TRUE(interrupts.lines[irq]);
}

TEST_F(UartTest, InputWaitsUntilTheGuestListens)
{
    console.type("early");
    set(2, 0x07);
    EXPECT_EQ(get(5) & 1, 0);
    EXPECT_EQ(console.input.size(), 5u);
    set(2, 0x07);
    enable(0x01);
    std::string got;
    while ((get(5) & 1) != 0) got += static_cast<char>(get(0));
    EXPECT_EQ(got, "early");
}

TEST_F(UartTest, PolledInput)
{
    console.type("x");
    for (int i = 0; i < 31; ++i) EXPECT_EQ(get(5) & 1, 0);
    set(7, 0);  // anything else starts the count again
    for (int i = 0; i < 31; ++i) EXPECT_EQ(get(5) & 1, 0);
    EXPECT_EQ(get(5) & 1, 1);
    EXPECT_EQ(get(0), 'x');
}

TEST_F(UartTest, TriggerLevelAndTimeout)
{
    enable(0x01, 0x81);  // 8 bytes
    console.type("1234567");
    EXPECT_FALSE(interrupts.lines[irq]);
    clock.advance(10'000'000);
    EXPECT_TRUE(interrupts.lines[irq]) << "character timeout";
    EXPECT_EQ(get(2), 0xcc);
    EXPECT_EQ(get(0), '1');
    EXPECT_FALSE(interrupts.lines[irq]) << "a read ends the timeout";
    console.type("89");
    EXPECT_TRUE(interrupts.lines[irq]);
    EXPECT_EQ(get(2), 0xc4);
}

TEST_F(UartTest, MoreInputThanTheFifoHolds)
{
    enable(0x01);
    std::string sent;
    for (int i = 0; i < 100; ++i) sent += static_cast<char>('a' + i % 26);
    console.type(sent);
    std::string got;
    while ((get(5) & 1) != 0) got += static_cast<char>(get(0));
    EXPECT_EQ(got, sent);
    EXPECT_FALSE(interrupts.lines[irq]);
}

TEST_F(UartTest, LoopbackDataAndModemLines)
{
    set(2, 0x01);
    set(4, 0x10);
    get(6);
    set(4, 0x1f);
    EXPECT_EQ(get(6), 0xfb) << "RI's rising edge is not reported";
    EXPECT_EQ(get(6), 0xf0);
    set(4, 0x1b);
    EXPECT_EQ(get(6), 0xb4) << "its trailing edge is";
    console.type("outside");
    set(0, 'z');
    EXPECT_EQ(console.output, "");
    EXPECT_EQ(get(5) & 1, 1);
    EXPECT_EQ(get(0), 'z');
    EXPECT_FALSE(interrupts.lines[irq]) << "OUT2 is off in loopback";
    for (int i = 0; i < 18; ++i) set(0, 'q');
    EXPECT_EQ(get(5) & 3, 3) << "overrun";
    EXPECT_EQ(get(5) & 3, 1) << "until read";
}

TEST_F(UartTest, InterruptPriorities)
{
    set(2, 0x01);
    set(4, 0x10);
    set(1, 0x0f);
    set(4, 0x13);                                // modem lines change
    for (int i = 0; i < 17; ++i) set(0, 'q');    // data, overrun, transmitter empty
    EXPECT_EQ(get(2) & 0x0f, 0x06);
    get(5);
    EXPECT_EQ(get(2) & 0x0f, 0x04);
    set(2, 0x03);
    EXPECT_EQ(get(2) & 0x0f, 0x02);
    EXPECT_EQ(get(2) & 0x0f, 0x00);
    get(6);
    EXPECT_EQ(get(2) & 0x0f, 0x01);
}

TEST_F(UartTest, NoInterruptWithoutOut2)
{
    set(1, 0x02);
    EXPECT_FALSE(interrupts.lines[irq]);
    set(4, 0x08);
    EXPECT_TRUE(interrupts.lines[irq]);
    uart.reset();
    EXPECT_FALSE(interrupts.lines[irq]);
}

TEST_F(UartTest, SaveAndLoad)
{
    enable(0x01, 0x81);
    console.type("abc");
    FakeInterrupts other_interrupts;
    FakeConsole other_console;
    Uart16550 other{bus, other_interrupts, irq, clock, other_console};
    ASSERT_TRUE(copy_state(uart, other));
    clock.advance(10'000'000);
    EXPECT_TRUE(other_interrupts.lines[irq]);
    EXPECT_EQ(in(other, 0), 'a');
    Uart16550::State bad = uart.state();
    bad.receive_count = 17;
    base::StateWriter writer;
    writer.section("uart", 1, bad);
    const auto stream = writer.finish();
    EXPECT_FALSE(other.load(*base::StateReader::open(stream)));
}

}  // namespace
}  // namespace doppel::devices
