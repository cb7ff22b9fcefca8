#include <gtest/gtest.h>

#include "devices/irq/interrupt_controllers.h"
#include "fakes.h"

namespace doppel::devices {
namespace {

struct PicTest : testing::Test {
    PicTest() : pic([this](bool level) { intr = level; }) { initialise(0x01); }

    void initialise(std::uint8_t icw4)
    {
        out(pic.master_ports(), 0, 0x11);
        out(pic.master_ports(), 1, 0x20);
        out(pic.master_ports(), 1, 0x04);
        out(pic.master_ports(), 1, icw4);
        out(pic.slave_ports(), 0, 0x11);
        out(pic.slave_ports(), 1, 0x28);
        out(pic.slave_ports(), 1, 0x02);
        out(pic.slave_ports(), 1, icw4);
    }
    void pulse(unsigned irq)
    {
        pic.set_line(irq, false);
        pic.set_line(irq, true);
    }
    std::uint8_t irr() { return register_of(pic.master_ports(), 0x0a); }
    std::uint8_t isr() { return register_of(pic.master_ports(), 0x0b); }
    static std::uint8_t register_of(bus::BusDevice& ports, std::uint8_t ocw3)
    {
        out(ports, 0, ocw3);
        return static_cast<std::uint8_t>(in(ports, 0));
    }

    bool intr = false;
    Pic pic;
};

TEST_F(PicTest, RequestAcknowledgeAndEoi)
{
    pulse(3);
    EXPECT_TRUE(intr);
    EXPECT_EQ(irr(), 0x08);
    EXPECT_EQ(pic.acknowledge(), 0x23);
    EXPECT_FALSE(intr);
    EXPECT_EQ(irr(), 0);
    EXPECT_EQ(isr(), 0x08);
    pulse(3);
    EXPECT_FALSE(intr) << "in service blocks itself";
    pulse(1);
    EXPECT_TRUE(intr) << "a higher priority interrupts";
    EXPECT_EQ(pic.acknowledge(), 0x21);
    out(pic.master_ports(), 0, 0x20);
    EXPECT_EQ(isr(), 0x08) << "non-specific EOI ends the highest";
    out(pic.master_ports(), 0, 0x63);
    EXPECT_TRUE(intr);
    EXPECT_EQ(pic.acknowledge(), 0x23);
}

TEST_F(PicTest, MaskHoldsTheRequest)
{
    out(pic.master_ports(), 1, 0xff);
    pulse(4);
    EXPECT_FALSE(intr);
    EXPECT_EQ(in(pic.master_ports(), 1), 0xffu);
    out(pic.master_ports(), 1, 0xef);
    EXPECT_TRUE(intr);
}

TEST_F(PicTest, CascadeGivesTheSlavesVector)
{
    pulse(8);
    EXPECT_EQ(pic.acknowledge(), 0x28);
    EXPECT_EQ(isr(), 0x04);
    pulse(9);
    EXPECT_FALSE(intr) << "below IRQ 8 on the slave";
    out(pic.slave_ports(), 0, 0x20);
    EXPECT_FALSE(intr) << "the master still has the cascade in service";
    out(pic.master_ports(), 0, 0x20);
    EXPECT_TRUE(intr);
    EXPECT_EQ(pic.acknowledge(), 0x29);
}

TEST_F(PicTest, SpecialFullyNestedLetsTheSlaveInterruptItself)
{
    initialise(0x11);
    pulse(12);
    EXPECT_EQ(pic.acknowledge(), 0x2c);
    pulse(8);
    EXPECT_TRUE(intr);
    EXPECT_EQ(pic.acknowledge(), 0x28);
}

TEST_F(PicTest, SpuriousWhenTheRequestIsGone)
{
    pulse(5);
    pic.set_line(5, false);
    EXPECT_EQ(pic.acknowledge(), 0x27);
    EXPECT_EQ(isr(), 0) << "nothing comes into service";
    EXPECT_EQ(pic.spurious(), 1u);
}

TEST_F(PicTest, AutomaticEoiAndRotation)
{
    initialise(0x03);
    pulse(0);
    EXPECT_EQ(pic.acknowledge(), 0x20);
    EXPECT_EQ(isr(), 0);
    out(pic.master_ports(), 0, 0x80);  // rotate on automatic EOI
    pulse(0);
    EXPECT_EQ(pic.acknowledge(), 0x20);
    pulse(0);
    pulse(7);
    EXPECT_EQ(pic.acknowledge(), 0x27) << "0 is now the lowest";
}

TEST_F(PicTest, SetPriorityAndRotateOnEoi)
{
    out(pic.master_ports(), 0, 0xc3);  // 3 lowest: 4 highest
    pulse(0);
    pulse(4);
    EXPECT_EQ(pic.acknowledge(), 0x24);
    out(pic.master_ports(), 0, 0xa0);  // EOI, and 4 becomes the lowest
    EXPECT_EQ(pic.acknowledge(), 0x20);
}

TEST_F(PicTest, SpecialMaskLetsLowerOnesThrough)
{
    pulse(1);
    EXPECT_EQ(pic.acknowledge(), 0x21);
    pulse(6);
    EXPECT_FALSE(intr);
    out(pic.master_ports(), 1, 0x02);
    out(pic.master_ports(), 0, 0x68);
    EXPECT_TRUE(intr);
    EXPECT_EQ(pic.acknowledge(), 0x26);
}

TEST_F(PicTest, PollTakesTheInterrupt)
{
    pulse(6);
    out(pic.master_ports(), 0, 0x0c);
    EXPECT_EQ(in(pic.master_ports(), 0), 0x86u);
    EXPECT_EQ(isr(), 0x40);
    out(pic.master_ports(), 0, 0x0c);
    EXPECT_EQ(in(pic.master_ports(), 0), 0u);
}

TEST_F(PicTest, LevelTriggeredFollowsTheLine)
{
    out(pic.elcr_ports(), 0, 0xffff, 2);
    EXPECT_EQ(in(pic.elcr_ports(), 0, 2), 0xdef8u) << "0, 1, 2, 8, 13 stay edges";
    pic.set_line(5, true);
    EXPECT_EQ(pic.acknowledge(), 0x25);
    out(pic.master_ports(), 0, 0x20);
    EXPECT_TRUE(intr) << "the line is still high";
    pic.set_line(5, false);
    EXPECT_FALSE(intr);
}

TEST_F(PicTest, SaveAndLoad)
{
    pulse(3);
    static_cast<void>(pic.acknowledge());
    pulse(1);
    bool other_intr = false;
    Pic other{[&](bool level) { other_intr = level; }};
    ASSERT_TRUE(copy_state(pic, other));
    EXPECT_TRUE(other_intr);
    EXPECT_EQ(other.state(), pic.state());
    Pic::State bad = pic.state();
    bad.chips[1].lowest = 9;
    base::StateWriter writer;
    writer.section("pic", 1, bad);
    const auto stream = writer.finish();
    EXPECT_FALSE(other.load(*base::StateReader::open(stream)));
    EXPECT_EQ(other.state(), pic.state()) << "a refused load changes nothing";
}

struct IoApicTest : testing::Test {
    void select(std::uint8_t index) { out(ioapic, 0, index, 4); }
    std::uint32_t get(std::uint8_t index)
    {
        select(index);
        return static_cast<std::uint32_t>(in(ioapic, 0x10, 4));
    }
    void set(std::uint8_t index, std::uint32_t value)
    {
        select(index);
        out(ioapic, 0x10, value, 4);
    }

    FakeLocalInterrupts local;
    IoApic ioapic{local};
};

TEST_F(IoApicTest, Registers)
{
    EXPECT_EQ(get(1), 0x00170020u);
    set(0, 0xffffffff);
    EXPECT_EQ(get(0), 0x0f000000u);
    EXPECT_EQ(get(2), 0x0f000000u);
    EXPECT_EQ(get(0x10), 0x10000u) << "masked after reset";
    set(0x10, 0xffffffff);
    EXPECT_EQ(get(0x10), 0x1afffu) << "delivery status and remote IRR are read-only";
    set(0x11, 0xffffffff);
    EXPECT_EQ(get(0x11), 0xff000000u);
    EXPECT_EQ(get(0x40), 0u) << "no pin 24";
    EXPECT_EQ(in(ioapic, 0, 4), 0x40u);
}

TEST_F(IoApicTest, EdgeDeliversOncePerRise)
{
    set(0x10 + 2 * 4, 0x31);
    set(0x11 + 2 * 4, 0x02000000);
    ioapic.set_pin(4, true);
    ioapic.set_pin(4, true);
    ASSERT_EQ(local.messages.size(), 1u);
    EXPECT_EQ(local.messages[0], (bus::Msi{0xfee02000, 0x4031}));
    ioapic.set_pin(4, false);
    ioapic.set_pin(4, true);
    EXPECT_EQ(local.messages.size(), 2u);
}

TEST_F(IoApicTest, EdgeWhileMaskedIsLost)
{
    ioapic.set_pin(4, true);
    set(0x10 + 2 * 4, 0x31);
    EXPECT_TRUE(local.messages.empty());
}

TEST_F(IoApicTest, LevelWaitsForEoi)
{
    set(0x10 + 2 * 17, 0x8000 | 0x51);
    ioapic.set_pin(17, true);
    ASSERT_EQ(local.messages.size(), 1u);
    EXPECT_EQ(local.messages[0].data, 0xc051u);
    EXPECT_NE(get(0x10 + 2 * 17) & 0x4000u, 0u) << "remote IRR";
    ioapic.set_pin(17, false);
    ioapic.set_pin(17, true);
    EXPECT_EQ(local.messages.size(), 1u);
    ioapic.end_of_interrupt(0x50);
    EXPECT_EQ(local.messages.size(), 1u);
    ioapic.end_of_interrupt(0x51);
    EXPECT_EQ(local.messages.size(), 2u) << "still high";
    ioapic.set_pin(17, false);
    out(ioapic, 0x40, 0x51, 4);  // the EOI register
    EXPECT_EQ(local.messages.size(), 2u);
    EXPECT_EQ(get(0x10 + 2 * 17) & 0x4000u, 0u);
}

TEST_F(IoApicTest, LevelPendsWhileMasked)
{
    set(0x10 + 2 * 17, 0x18051);
    ioapic.set_pin(17, true);
    EXPECT_TRUE(local.messages.empty());
    set(0x10 + 2 * 17, 0x8051);
    EXPECT_EQ(local.messages.size(), 1u);
}

TEST_F(IoApicTest, DetourOverEdgeModeClearsRemoteIrr)
{
    set(0x10 + 2 * 17, 0x8051);
    ioapic.set_pin(17, true);
    ioapic.set_pin(17, false);
    set(0x10 + 2 * 17, 0x10051);
    EXPECT_EQ(get(0x10 + 2 * 17) & 0x4000u, 0u);
}

TEST(InterruptControllers, TimerGoesToPinTwoAndThePic)
{
    bus::Bus bus;
    FakeLocalInterrupts local;
    InterruptControllers controllers{bus, local};
    controllers.claim();
    const auto write = [&](bus::Space space, std::uint64_t at, std::uint32_t value,
                           std::size_t size) {
        std::array<std::byte, 4> data{};
        base::store_le(data.data(), value);
        bus.write(space, at, std::span<const std::byte>{data}.first(size));
    };
    write(bus::Space::memory, 0xfec00000, 0x14, 4);
    write(bus::Space::memory, 0xfec00010, 0x20, 4);
    write(bus::Space::port, 0x20, 0x11, 1);
    write(bus::Space::port, 0x21, 0x30, 1);
    write(bus::Space::port, 0x21, 0x04, 1);
    write(bus::Space::port, 0x21, 0x01, 1);
    {
        const auto guard = bus.lock();
        controllers.set_line(0, true);
    }
    ASSERT_EQ(local.messages.size(), 1u);
    EXPECT_TRUE(local.external);
    EXPECT_EQ(controllers.acknowledge(), 0x30);
    EXPECT_FALSE(local.external);
    controllers.end_of_interrupt(0x20);

    FakeLocalInterrupts other_local;
    InterruptControllers other{bus, other_local};
    EXPECT_TRUE(copy_state(controllers, other));
}

}  // namespace
}  // namespace doppel::devices
