#include <gtest/gtest.h>

#include "devices/legacy/acpi_pm.h"
#include "devices/legacy/i8042.h"
#include "devices/legacy/reset_ports.h"
#include "fakes.h"

namespace doppel::devices {
namespace {

struct I8042Test : testing::Test {
    void command(std::uint8_t value) { out(controller.command_port(), 0, value); }
    void data(std::uint8_t value) { out(controller.data_port(), 0, value); }
    std::uint8_t status() { return static_cast<std::uint8_t>(in(controller.command_port(), 0)); }
    std::uint8_t get() { return static_cast<std::uint8_t>(in(controller.data_port(), 0)); }

    FakeInterrupts interrupts;
    unsigned resets = 0;
    I8042 controller{interrupts, [this] { ++resets; }};
};

TEST_F(I8042Test, SelfTestAndStatus)
{
    EXPECT_EQ(status() & 0x03, 0);
    command(0xaa);
    EXPECT_EQ(status() & 0x09, 0x09);
    EXPECT_EQ(get(), 0x55);
    EXPECT_EQ(status() & 0x01, 0);
    EXPECT_EQ(get(), 0x55) << "the last byte stays";
    command(0xab);
    EXPECT_EQ(get(), 0x00);
    command(0xa9);
    EXPECT_NE(get(), 0x00) << "no auxiliary port";
}

TEST_F(I8042Test, ConfigurationByte)
{
    command(0x60);
    data(0x41);
    command(0x20);
    EXPECT_EQ(get(), 0x61) << "the auxiliary port stays off";
    command(0xad);
    command(0x20);
    EXPECT_EQ(get() & 0x10, 0x10);
    command(0xae);
    command(0x20);
    EXPECT_EQ(get() & 0x10, 0);
}

TEST_F(I8042Test, ResetPulseAndOutputPort)
{
    command(0xff);
    EXPECT_EQ(resets, 0u);
    command(0xfe);
    EXPECT_EQ(resets, 1u);
    command(0xd0);
    EXPECT_EQ(get() & 3, 3);
    command(0xdd);
    command(0xd0);
    EXPECT_EQ(get() & 3, 1);
    command(0xdf);
    command(0xd1);
    data(0x03);
    EXPECT_EQ(resets, 1u);
    command(0xd1);
    data(0x02);
    EXPECT_EQ(resets, 2u);
}

TEST_F(I8042Test, KeyboardAnswers)
{
    command(0x60);
    data(0x01);
    data(0xff);
    EXPECT_TRUE(interrupts.lines[1]);
    EXPECT_EQ(get(), 0xfa);
    EXPECT_TRUE(interrupts.lines[1]);
    EXPECT_EQ(interrupts.rises[1], 2u) << "one edge per byte";
    EXPECT_EQ(get(), 0xaa);
    EXPECT_FALSE(interrupts.lines[1]);
    data(0xf2);
    EXPECT_EQ(get(), 0xfa);
    EXPECT_EQ(get(), 0xab);
    EXPECT_EQ(get(), 0x83);
    data(0xed);
    EXPECT_EQ(get(), 0xfa);
    data(0x07);
    EXPECT_EQ(get(), 0xfa);
    EXPECT_EQ(controller.state().leds, 7);
    data(0xf0);
    data(0x00);
    EXPECT_EQ(get(), 0xfa);
    EXPECT_EQ(get(), 0xfa);
    EXPECT_EQ(get(), 2);
    data(0x01);
    EXPECT_EQ(get(), 0xfe) << "unknown command";
    for (int i = 0; i < 100; ++i) data(0xf2);
    EXPECT_LE(controller.state().queued, I8042::queue_size);
}

TEST_F(I8042Test, SaveAndLoad)
{
    data(0xf2);
    FakeInterrupts other_interrupts;
    I8042 other{other_interrupts, [] {}};
    ASSERT_TRUE(copy_state(controller, other));
    EXPECT_EQ(in(other.data_port(), 0), 0xfau);
    I8042::State bad = controller.state();
    bad.queued = 200;
    base::StateWriter writer;
    writer.section("i8042", 1, bad);
    const auto stream = writer.finish();
    EXPECT_FALSE(other.load(*base::StateReader::open(stream)));
}

TEST(ResetPorts, RisingEdgesReset)
{
    unsigned resets = 0;
    ResetPorts ports{[&] { ++resets; }};
    EXPECT_EQ(in(ports.port_a(), 0), 2u);
    out(ports.port_a(), 0, 0);
    EXPECT_EQ(in(ports.port_a(), 0), 0u);
    out(ports.port_a(), 0, 1);
    out(ports.port_a(), 0, 3);
    EXPECT_EQ(resets, 1u);
    out(ports.reset_control(), 0, 0x02);
    EXPECT_EQ(resets, 1u);
    out(ports.reset_control(), 0, 0x06);
    EXPECT_EQ(resets, 2u);
    EXPECT_EQ(in(ports.reset_control(), 0), 6u);
    ResetPorts other{[] {}};
    ASSERT_TRUE(copy_state(ports, other));
    EXPECT_EQ(in(other.reset_control(), 0), 6u);
    ports.reset();
    EXPECT_EQ(in(ports.reset_control(), 0), 0u);
}

struct AcpiPmTest : testing::Test {
    FakeInterrupts interrupts;
    unsigned offs = 0;
    AcpiPm pm{interrupts, {9, 5}, [this] { ++offs; }};
};

TEST_F(AcpiPmTest, SleepStateFivePowersOff)
{
    EXPECT_EQ(in(pm.control_block(), 0, 2), 1u) << "ACPI mode";
    out(pm.control_block(), 0, 5u << 10, 2);
    EXPECT_EQ(offs, 0u);
    out(pm.control_block(), 0, 3u << 10 | 1u << 13, 2);
    EXPECT_EQ(offs, 0u) << "another sleep state";
    out(pm.control_block(), 0, 5u << 10 | 1u << 13, 2);
    EXPECT_EQ(offs, 1u);
    EXPECT_EQ(in(pm.control_block(), 0, 2), (5u << 10 | 1u)) << "SLP_EN reads as zero";
    out(pm.control_block(), 1, 5u << 2 | 1u << 5, 1);
    EXPECT_EQ(offs, 2u) << "by its byte";
}

TEST_F(AcpiPmTest, PowerButtonRaisesTheSci)
{
    pm.press_power_button();
    EXPECT_FALSE(interrupts.lines[9]);
    EXPECT_EQ(in(pm.event_block(), 0, 2), 0x100u);
    out(pm.event_block(), 2, 0xffff, 2);
    EXPECT_EQ(in(pm.event_block(), 2, 2), 0x720u);
    EXPECT_TRUE(interrupts.lines[9]);
    out(pm.event_block(), 0, 0x100, 2);
    EXPECT_FALSE(interrupts.lines[9]);
}

TEST_F(AcpiPmTest, GeneralPurposeEvents)
{
    out(pm.gpe0_block(), 2, 0x0204, 2);
    pm.raise_gpe(2);
    pm.raise_gpe(99);
    EXPECT_TRUE(interrupts.lines[9]);
    AcpiPm other{interrupts, {9, 5}, [] {}};
    ASSERT_TRUE(copy_state(pm, other));
    EXPECT_EQ(in(other.gpe0_block(), 0, 4), 0x02040004u);
    out(pm.gpe0_block(), 0, 0x04, 1);
    EXPECT_FALSE(interrupts.lines[9]);
    pm.reset();
    EXPECT_EQ(in(pm.gpe0_block(), 0, 4), 0u);
}

}  // namespace
}  // namespace doppel::devices
