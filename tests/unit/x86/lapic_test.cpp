#include "x86/lapic/lapic.h"

#include <gtest/gtest.h>

#include "x86/lapic/registers.h"

namespace doppel::x86 {
namespace {

using namespace apic;

constexpr std::uint64_t tsc_hz = 2'000'000'000;
constexpr std::uint64_t EN = 1u << 11, EXTD = 1u << 10, BSP = 1u << 8;

// One APIC and a clock that the test turns.
struct Bench {
    LapicConfig config;
    LocalApic lapic;
    ApicTime time{1'000, 2'000};

    explicit Bench(std::uint32_t id = 1, bool bootstrap = false, bool suppression = false)
        : config{id, bootstrap, tsc_hz, 46, suppression}, lapic(config)
    {
    }
    void at(std::uint64_t ns) { time = {ns, ns * 2}; }
    std::uint32_t read(unsigned index)
    {
        return static_cast<std::uint32_t>(lapic.read_mmio(index << 4, 4, time));
    }
    Effects write(unsigned index, std::uint32_t value)
    {
        return lapic.write_mmio(index << 4, 4, value, time);
    }
    std::optional<std::uint64_t> rdmsr(unsigned index)
    {
        return lapic.read_msr(0x800 + index, time);
    }
    std::optional<Effects> wrmsr(unsigned index, std::uint64_t value)
    {
        return lapic.write_msr(0x800 + index, value, time);
    }
    Bench& software_enable()
    {
        write(SVR, 0x1ff);
        return *this;
    }
    Bench& to_x2apic()
    {
        EXPECT_TRUE(lapic.write_apic_base(lapic.apic_base() | EXTD, time));
        return *this;
    }
    Accepted fixed(std::uint8_t vector, bool level = false)
    {
        ApicMessage message;
        message.vector = vector;
        message.level_triggered = level;
        return lapic.accept(message);
    }
};

// ---- power-up ---------------------------------------------------------------------------

TEST(Lapic, PowerUp)
{
    Bench b;
    EXPECT_EQ(b.lapic.apic_base(), 0xfee00000u | EN);
    EXPECT_EQ(b.read(ID), 0x01000000u);
    EXPECT_EQ(b.read(VERSION), 0x00050014u);
    EXPECT_EQ(b.read(TPR), 0u);
    EXPECT_EQ(b.read(PPR), 0u);
    EXPECT_EQ(b.read(LDR), 0u);
    EXPECT_EQ(b.read(DFR), 0xffffffffu);
    EXPECT_EQ(b.read(SVR), 0xffu);
    for (unsigned i = LVT_TIMER; i <= LVT_ERROR; ++i) EXPECT_EQ(b.read(i), 0x10000u) << i;
    for (unsigned i = ISR; i < IRR + 8; ++i) EXPECT_EQ(b.read(i), 0u);
    EXPECT_EQ(b.read(ESR), 0u);
    EXPECT_EQ(b.read(ICR_LOW), 0u);
    EXPECT_EQ(b.read(INITIAL_COUNT), 0u);
    EXPECT_EQ(b.read(DIVIDE), 0u);
    EXPECT_FALSE(b.lapic.pending_interrupt());
    EXPECT_FALSE(b.lapic.next_deadline(b.time));
}

TEST(Lapic, BootstrapProcessorIsVirtualWire)
{
    Bench b{0, true};
    EXPECT_EQ(b.lapic.apic_base(), 0xfee00000u | EN | BSP);
    EXPECT_EQ(b.read(LVT_LINT0), 0x700u);
    EXPECT_EQ(b.read(LVT_LINT1), 0x400u);
    EXPECT_EQ(b.lapic.set_lint(0, true), Accepted::external);
    EXPECT_TRUE(b.lapic.external_pending());
    EXPECT_EQ(b.lapic.set_lint(1, true), Accepted::nmi);
    b.lapic.set_lint(0, false);
    EXPECT_FALSE(b.lapic.external_pending());
}

TEST(Lapic, InitKeepsBaseAndMode)
{
    Bench b;
    b.software_enable().to_x2apic();
    b.fixed(0x50);
    b.lapic.init();
    EXPECT_TRUE(b.lapic.x2apic());
    EXPECT_EQ(b.rdmsr(SVR), 0xffu);
    EXPECT_FALSE(b.lapic.pending_interrupt());
}

// ---- mmio shape ---------------------------------------------------------------------------

TEST(Lapic, MmioAccessSizes)
{
    Bench b;
    EXPECT_EQ(b.lapic.read_mmio(0x30, 1, b.time), 0x14u);
    EXPECT_EQ(b.lapic.read_mmio(0x32, 1, b.time), 0x05u);
    EXPECT_EQ(b.lapic.read_mmio(0x32, 2, b.time), 0x0005u);
    EXPECT_EQ(b.lapic.read_mmio(0x34, 4, b.time), 0u);
    EXPECT_EQ(b.lapic.read_mmio(0x30, 8, b.time), 0x00050014u);
    EXPECT_EQ(b.lapic.read_mmio(0x100000, 4, b.time), 0u);
    b.lapic.write_mmio(0x80, 1, 0x20, b.time);
    b.lapic.write_mmio(0x84, 4, 0x20, b.time);
    EXPECT_EQ(b.read(TPR), 0u);
    b.lapic.write_mmio(0x80, 8, 0xffffffff00000020, b.time);
    EXPECT_EQ(b.read(TPR), 0x20u);
    EXPECT_TRUE(b.lapic.claims(base::Gpa{0xfee00fff}));
    EXPECT_FALSE(b.lapic.claims(base::Gpa{0xfee01000}));
}

TEST(Lapic, ReadOnlyRegistersDoNotChange)
{
    Bench b;
    b.software_enable();
    b.fixed(0x41);
    const auto before = b.lapic.state();
    for (const unsigned i : {ID, VERSION, APR, PPR, RRD, CURRENT_COUNT}) b.write(i, 0xffffffff);
    for (unsigned i = ISR; i < IRR + 8; ++i) b.write(i, 0xffffffff);
    EXPECT_EQ(b.lapic.state(), before);
}

TEST(Lapic, WritableBits)
{
    Bench b;
    b.software_enable();
    const auto kept = [&](unsigned index) {
        b.write(index, 0xffffffff);
        return b.read(index);
    };
    EXPECT_EQ(kept(TPR), 0xffu);
    EXPECT_EQ(kept(LDR), 0xff000000u);
    b.write(DFR, 0);
    EXPECT_EQ(b.read(DFR), 0x0fffffffu);
    EXPECT_EQ(kept(SVR), 0x3ffu);
    EXPECT_EQ(kept(DIVIDE), 0xbu);
    EXPECT_EQ(kept(ICR_HIGH), 0xff000000u);
    EXPECT_EQ(kept(LVT_LINT0), 0x1a7ffu);
    EXPECT_EQ(kept(LVT_LINT1), 0x1a7ffu);
    EXPECT_EQ(kept(LVT_ERROR), 0x100ffu);
    EXPECT_EQ(kept(LVT_THERMAL), 0x107ffu);
    EXPECT_EQ(kept(LVT_PERFORMANCE), 0x107ffu);
    b.write(LVT_TIMER, 0xfff9ffff);  // mode 3 is reserved, so not taken
    EXPECT_EQ(b.read(LVT_TIMER), 0x100ffu);
    b.write(LVT_TIMER, 0x200ff);
    EXPECT_EQ(b.read(LVT_TIMER), 0x200ffu);
}

TEST(Lapic, SuppressionNeedsToBeOffered)
{
    Bench b{1, false, true};
    EXPECT_EQ(b.read(VERSION), 0x01050014u);
    b.write(SVR, 0xffffffff);
    EXPECT_EQ(b.read(SVR), 0x13ffu);
}

TEST(Lapic, IllegalRegistersAreReported)
{
    Bench b;
    b.software_enable();
    b.write(LVT_ERROR, 0x33);
    EXPECT_EQ(b.read(0x2f), 0u) << "no CMCI entry";
    EXPECT_EQ(b.lapic.pending_interrupt(), 0x33);
    b.lapic.acknowledge();
    b.write(0x00, 1);
    EXPECT_FALSE(b.lapic.pending_interrupt()) << "one interrupt until ESR is written";
    EXPECT_EQ(b.read(ESR), 0u);
    b.write(ESR, 0);
    EXPECT_EQ(b.read(ESR), 0x80u);
    b.write(ESR, 0);
    EXPECT_EQ(b.read(ESR), 0u);
    b.write(EOI, 0);
    b.write(SELF_IPI, 0x40);
    EXPECT_EQ(b.lapic.pending_interrupt(), 0x33) << "armed again; self-IPI is x2APIC's";
}

// ---- priorities ---------------------------------------------------------------------------

TEST(Lapic, HighestFirstAndNested)
{
    Bench b;
    b.software_enable();
    EXPECT_EQ(b.fixed(0x31), Accepted::interrupt);
    EXPECT_EQ(b.fixed(0x31), Accepted::ignored) << "already requested";
    EXPECT_EQ(b.fixed(0x52), Accepted::interrupt);
    EXPECT_EQ(b.read(IRR + 1), 1u << 0x11);
    EXPECT_EQ(b.lapic.pending_interrupt(), 0x52);
    EXPECT_EQ(b.lapic.acknowledge(), 0x52);
    EXPECT_EQ(b.read(ISR + 2), 1u << 0x12);
    EXPECT_EQ(b.read(PPR), 0x50u);
    EXPECT_FALSE(b.lapic.pending_interrupt());
    b.fixed(0x5f);
    EXPECT_FALSE(b.lapic.pending_interrupt()) << "same class";
    b.fixed(0x60);
    EXPECT_EQ(b.lapic.acknowledge(), 0x60);
    EXPECT_EQ(b.write(EOI, 0), Effects{});
    EXPECT_EQ(b.read(PPR), 0x50u);
    b.write(EOI, 0);
    EXPECT_EQ(b.lapic.acknowledge(), 0x5f);
    b.write(EOI, 0);
    EXPECT_EQ(b.lapic.acknowledge(), 0x31);
    b.write(EOI, 0);
    EXPECT_EQ(b.write(EOI, 0), Effects{}) << "an EOI too many";
    EXPECT_EQ(b.lapic.acknowledge(), 0xff) << "spurious";
}

TEST(Lapic, TaskPriority)
{
    Bench b;
    b.software_enable();
    b.fixed(0x45);
    b.lapic.set_cr8(4);
    EXPECT_EQ(b.read(TPR), 0x40u);
    EXPECT_EQ(b.lapic.cr8(), 4u);
    EXPECT_FALSE(b.lapic.pending_interrupt());
    b.write(TPR, 0x3f);
    EXPECT_EQ(b.lapic.cr8(), 3u);
    EXPECT_EQ(b.read(PPR), 0x3fu);
    EXPECT_EQ(b.lapic.pending_interrupt(), 0x45);
    b.write(TPR, 0x30);
    b.lapic.acknowledge();
    EXPECT_EQ(b.read(PPR), 0x40u);
    b.write(TPR, 0x4a);
    EXPECT_EQ(b.read(PPR), 0x4au) << "same class: TPR's low bits show";
}

TEST(Lapic, ArbitrationPriority)
{
    Bench b;
    b.software_enable();
    EXPECT_EQ(b.read(APR), 0u);
    b.write(TPR, 0x53);
    EXPECT_EQ(b.read(APR), 0x53u);
    b.fixed(0x71);
    EXPECT_EQ(b.read(APR), 0x70u);
}

TEST(Lapic, IllegalVectorReceived)
{
    Bench b;
    b.software_enable();
    EXPECT_EQ(b.fixed(15), Accepted::ignored);
    b.write(ESR, 0);
    EXPECT_EQ(b.read(ESR), 0x40u);
    EXPECT_EQ(b.fixed(16), Accepted::interrupt);
}

TEST(Lapic, LevelTriggeredEoi)
{
    Bench b;
    b.software_enable();
    b.fixed(0x61, true);
    EXPECT_EQ(b.read(TMR + 3), 2u);
    b.lapic.acknowledge();
    const Effects effects = b.write(EOI, 0);
    EXPECT_EQ(effects.end_of_interrupt, 0x61);
    EXPECT_FALSE(effects.ipi);
    b.fixed(0x61, false);
    EXPECT_EQ(b.read(TMR + 3), 0u);
    b.lapic.acknowledge();
    EXPECT_EQ(b.write(EOI, 0), Effects{});

    Bench quiet{1, false, true};
    quiet.write(SVR, 0x11ff);
    quiet.fixed(0x61, true);
    quiet.lapic.acknowledge();
    EXPECT_EQ(quiet.write(EOI, 0), Effects{});
}

// ---- enabling and disabling -------------------------------------------------------------------

TEST(Lapic, SilentEoi)
{
    Bench b;
    b.software_enable();
    EXPECT_FALSE(b.lapic.eoi_is_silent());  // nothing in service
    b.fixed(0x41);
    EXPECT_FALSE(b.lapic.eoi_is_silent());
    b.lapic.acknowledge();
    EXPECT_TRUE(b.lapic.eoi_is_silent());
    // Something waits, if only for a lower TPR.
    b.fixed(0x31);
    EXPECT_FALSE(b.lapic.eoi_is_silent());
    b.lapic.silent_eoi();
    EXPECT_EQ(b.lapic.acknowledge(), 0x31);
    EXPECT_TRUE(b.lapic.eoi_is_silent());
    // The higher of two is the one that ends.
    b.fixed(0x61);
    b.lapic.acknowledge();
    EXPECT_TRUE(b.lapic.eoi_is_silent());
    b.lapic.silent_eoi();
    EXPECT_EQ(b.read(ISR + 0x61 / 32), 0u);
    EXPECT_NE(b.read(ISR + 0x31 / 32), 0u);
    b.lapic.silent_eoi();
    EXPECT_FALSE(b.lapic.eoi_is_silent());
    b.lapic.silent_eoi();  // nothing there
    // Level-triggered: the I/O APIC must hear of it.
    b.fixed(0x51, true);
    b.lapic.acknowledge();
    EXPECT_FALSE(b.lapic.eoi_is_silent());
    EXPECT_EQ(b.write(EOI, 0).end_of_interrupt, 0x51);
}

TEST(Lapic, SoftwareDisable)
{
    Bench b;
    EXPECT_EQ(b.fixed(0x40), Accepted::ignored);
    b.write(LVT_TIMER, 0x40);
    EXPECT_EQ(b.read(LVT_TIMER), 0x10040u) << "stays masked";
    b.software_enable();
    b.write(LVT_TIMER, 0x40);
    EXPECT_EQ(b.read(LVT_TIMER), 0x40u);
    b.fixed(0x55);
    b.write(SVR, 0xff);
    EXPECT_EQ(b.read(LVT_TIMER), 0x10040u);
    EXPECT_EQ(b.lapic.pending_interrupt(), 0x55) << "what is pending stays";
    for (const auto [mode, accepted] : {std::pair{DeliveryMode::nmi, Accepted::nmi},
                                        std::pair{DeliveryMode::smi, Accepted::smi},
                                        std::pair{DeliveryMode::init, Accepted::init},
                                        std::pair{DeliveryMode::startup, Accepted::startup},
                                        std::pair{DeliveryMode::external, Accepted::ignored},
                                        std::pair{DeliveryMode::lowest_priority, Accepted::ignored},
                                        std::pair{DeliveryMode::reserved, Accepted::ignored}}) {
        ApicMessage message;
        message.mode = mode;
        message.vector = 0x40;
        EXPECT_EQ(b.lapic.accept(message), accepted);
    }
}

TEST(Lapic, HardwareDisable)
{
    Bench b;
    b.software_enable();
    b.fixed(0x55);
    EXPECT_TRUE(b.lapic.write_apic_base(0xfee00000, b.time));
    EXPECT_FALSE(b.lapic.enabled());
    EXPECT_FALSE(b.lapic.claims(base::Gpa{0xfee00000}));
    EXPECT_FALSE(b.lapic.pending_interrupt());
    EXPECT_EQ(b.fixed(0x56), Accepted::ignored);
    // The pins are INTR and NMI now.
    EXPECT_EQ(b.lapic.set_lint(0, true), Accepted::external);
    EXPECT_TRUE(b.lapic.external_pending());
    EXPECT_EQ(b.lapic.set_lint(1, true), Accepted::nmi);
    EXPECT_TRUE(b.lapic.write_apic_base(0xfee00000 | EN, b.time));
    EXPECT_EQ(b.read(SVR), 0xffu);
    EXPECT_FALSE(b.lapic.pending_interrupt());
}

TEST(Lapic, ModeTransitions)
{
    // SDM figure 11-27: from (row) to (column), in the order disabled, xAPIC, x2APIC, invalid.
    const std::uint64_t modes[] = {0, EN, EN | EXTD, EXTD};
    const bool legal[3][4] = {{true, true, false, false},
                              {true, true, true, false},
                              {true, false, true, false}};
    for (unsigned from = 0; from < 3; ++from) {
        for (unsigned to = 0; to < 4; ++to) {
            Bench b;
            b.lapic.load_apic_base(0xfee00000 | modes[from]);
            const std::uint64_t before = b.lapic.apic_base();
            EXPECT_EQ(b.lapic.write_apic_base(0xfee00000 | modes[to], b.time), legal[from][to])
                << from << to;
            EXPECT_EQ(b.lapic.apic_base(), legal[from][to] ? 0xfee00000 | modes[to] : before);
        }
    }
    Bench b;
    for (const unsigned bit : {0u, 7u, 9u, 46u, 63u}) {
        EXPECT_FALSE(b.lapic.write_apic_base(0xfee00000 | EN | std::uint64_t{1} << bit, b.time));
    }
    EXPECT_TRUE(b.lapic.write_apic_base(0x200000000000 | EN | BSP, b.time));
    EXPECT_TRUE(b.lapic.claims(base::Gpa{0x200000000030}));
    b.lapic.load_apic_base(0xfee00000 | EXTD);
    EXPECT_FALSE(b.lapic.enabled());
}

// ---- x2APIC ------------------------------------------------------------------------------------

TEST(LapicX2, OnlyInItsMode)
{
    Bench b{0x123};
    EXPECT_FALSE(b.rdmsr(ID));
    EXPECT_FALSE(b.wrmsr(TPR, 0));
    b.to_x2apic();
    EXPECT_EQ(b.rdmsr(ID), 0x123u);
    EXPECT_EQ(b.rdmsr(LDR), 0x00120008u);
    EXPECT_FALSE(b.lapic.claims(base::Gpa{0xfee00000}));
    EXPECT_FALSE(b.lapic.read_msr(0x900, b.time));
    EXPECT_FALSE(b.lapic.read_msr(0x7ff, b.time));
}

// Which registers can be read and written, and with which bits, over all 256.
TEST(LapicX2, EveryRegister)
{
    struct Row { bool read, write; std::uint64_t reserved; };
    constexpr std::uint64_t high = 0xffffffff00000000;
    for (unsigned index = 0; index < 0x100; ++index) {
        Row row{false, false, 0};
        switch (index) {
        case ID: case VERSION: case PPR: case LDR: case CURRENT_COUNT: row = {true, false, 0}; break;
        case TPR: row = {true, true, high | 0xffffff00}; break;
        case EOI: row = {false, true, ~std::uint64_t{0}}; break;
        case SVR: row = {true, true, high | 0xfffffc00}; break;
        case ESR: row = {true, true, ~std::uint64_t{0}}; break;
        case ICR_LOW: row = {true, true, 0xfff32000}; break;
        case LVT_TIMER: row = {true, true, high | 0xfff8ef00}; break;
        case LVT_THERMAL: case LVT_PERFORMANCE: row = {true, true, high | 0xfffee800}; break;
        case LVT_LINT0: case LVT_LINT1: row = {true, true, high | 0xfffe0800}; break;
        case LVT_ERROR: row = {true, true, high | 0xfffeef00}; break;
        case INITIAL_COUNT: row = {true, true, high}; break;
        case DIVIDE: row = {true, true, high | 0xfffffff4}; break;
        case SELF_IPI: row = {false, true, high | 0xffffff00}; break;
        default:
            if (index >= ISR && index < IRR + 8) row = {true, false, 0};
        }
        Bench b;
        b.software_enable().to_x2apic();
        EXPECT_EQ(b.rdmsr(index).has_value(), row.read) << index;
        EXPECT_EQ(b.wrmsr(index, 0).has_value(), row.write) << index;
        if (!row.write) continue;
        for (unsigned bit = 0; bit < 64; ++bit) {
            const bool reserved = (row.reserved >> bit & 1) != 0;
            EXPECT_EQ(b.wrmsr(index, std::uint64_t{1} << bit).has_value(), !reserved)
                << index << " bit " << bit;
        }
    }
    Bench b;
    b.to_x2apic();
    EXPECT_FALSE(b.wrmsr(LVT_TIMER, 0x60000)) << "reserved timer mode";
}

TEST(LapicX2, Icr)
{
    Bench b;
    b.software_enable().to_x2apic();
    const auto effects = b.wrmsr(ICR_LOW, 0x0000001200000841);
    ASSERT_TRUE(effects && effects->ipi);
    EXPECT_EQ(effects->ipi->destination, 0x12u);
    EXPECT_TRUE(effects->ipi->logical);
    EXPECT_EQ(effects->ipi->vector, 0x41u);
    EXPECT_EQ(b.rdmsr(ICR_LOW), 0x0000001200000841u);
    EXPECT_EQ(b.wrmsr(ICR_LOW, 0xffffffff00000041)->ipi->destination, ApicMessage::broadcast);
    EXPECT_EQ(b.wrmsr(ICR_LOW, 0x000000ff00000041)->ipi->destination, 0xffu);
}

TEST(LapicX2, SelfIpi)
{
    Bench b;
    b.software_enable().to_x2apic();
    const auto effects = b.wrmsr(SELF_IPI, 0x42);
    ASSERT_TRUE(effects && effects->ipi);
    EXPECT_TRUE(b.lapic.matches(*effects->ipi, true));
    EXPECT_FALSE(b.lapic.matches(*effects->ipi, false));
    EXPECT_EQ(b.lapic.accept(*effects->ipi), Accepted::interrupt);
    EXPECT_EQ(b.lapic.pending_interrupt(), 0x42);
    EXPECT_FALSE(b.wrmsr(SELF_IPI, 3)->ipi);
    b.wrmsr(ESR, 0);
    EXPECT_EQ(b.rdmsr(ESR), 0x20u);
}

// ---- IPIs -------------------------------------------------------------------------------------

TEST(LapicIpi, Decoding)
{
    Bench b;
    b.software_enable();
    b.write(ICR_HIGH, 0x03000000);
    auto ipi = b.write(ICR_LOW, 0x000040fd).ipi;
    ASSERT_TRUE(ipi);
    EXPECT_EQ(*ipi, (ApicMessage{DeliveryMode::fixed, 0xfd, Shorthand::none, false, false, 3}));
    EXPECT_EQ(b.read(ICR_LOW), 0x000040fdu);
    EXPECT_EQ(b.write(ICR_LOW, 0x000c4500).ipi->mode, DeliveryMode::init);
    EXPECT_EQ(b.write(ICR_LOW, 0x000c4500).ipi->shorthand, Shorthand::others);
    EXPECT_FALSE(b.write(ICR_LOW, 0x00008500).ipi) << "INIT level de-assert";
    EXPECT_EQ(b.write(ICR_LOW, 0x0000469a).ipi->vector, 0x9au);
    EXPECT_EQ(b.write(ICR_LOW, 0x00004400).ipi->mode, DeliveryMode::nmi);
    EXPECT_EQ(b.write(ICR_LOW, 0x00004941).ipi->logical, true);
    EXPECT_EQ(b.write(ICR_LOW, 0x00080041).ipi->shorthand, Shorthand::all);
    EXPECT_FALSE(b.write(ICR_LOW, 0x00000341).ipi) << "reserved mode";
    EXPECT_FALSE(b.write(ICR_LOW, 0x00000741).ipi) << "ExtINT cannot be sent";
    EXPECT_FALSE(b.write(ICR_LOW, 0x00044500).ipi) << "INIT to self";
    b.write(ICR_HIGH, 0xff000000);
    EXPECT_EQ(b.write(ICR_LOW, 0x41).ipi->destination, ApicMessage::broadcast);
    EXPECT_EQ(b.write(ICR_LOW, 0x841).ipi->destination, 0xffu) << "logical: a mask";
    EXPECT_FALSE(b.write(ICR_LOW, 0x0f).ipi);
    b.write(ESR, 0);
    EXPECT_EQ(b.read(ESR), 0x20u);
}

ApicMessage to(std::uint32_t destination, bool logical = false)
{
    ApicMessage message;
    message.destination = destination;
    message.logical = logical;
    return message;
}

TEST(LapicIpi, MatchingXapic)
{
    Bench b{5};
    EXPECT_TRUE(b.lapic.matches(to(5), false));
    EXPECT_FALSE(b.lapic.matches(to(4), false));
    EXPECT_FALSE(b.lapic.matches(to(0x105), false));
    EXPECT_TRUE(b.lapic.matches(to(ApicMessage::broadcast), false));
    b.write(LDR, 0x24000000);
    EXPECT_TRUE(b.lapic.matches(to(0x04, true), false)) << "flat";
    EXPECT_TRUE(b.lapic.matches(to(0xff, true), false));
    EXPECT_FALSE(b.lapic.matches(to(0x12, true), false));
    b.write(DFR, 0x0fffffff);
    EXPECT_TRUE(b.lapic.matches(to(0x2c, true), false)) << "cluster 2";
    EXPECT_FALSE(b.lapic.matches(to(0x14, true), false));
    EXPECT_FALSE(b.lapic.matches(to(0x22, true), false));
    EXPECT_TRUE(b.lapic.matches(to(0xff, true), false));
    b.write(DFR, 0x5fffffff);
    EXPECT_FALSE(b.lapic.matches(to(0xff, true), false)) << "reserved model";
    ApicMessage message;
    message.shorthand = Shorthand::all;
    EXPECT_TRUE(b.lapic.matches(message, true) && b.lapic.matches(message, false));
    message.shorthand = Shorthand::others;
    EXPECT_TRUE(!b.lapic.matches(message, true) && b.lapic.matches(message, false));
}

TEST(LapicIpi, MatchingX2apic)
{
    Bench b{0x25};
    b.to_x2apic();
    EXPECT_TRUE(b.lapic.matches(to(0x25), false));
    EXPECT_FALSE(b.lapic.matches(to(0xff), false));
    EXPECT_TRUE(b.lapic.matches(to(0x00020020, true), false));
    EXPECT_TRUE(b.lapic.matches(to(0x0002ffff, true), false));
    EXPECT_FALSE(b.lapic.matches(to(0x00020010, true), false));
    EXPECT_FALSE(b.lapic.matches(to(0x00030020, true), false));
    EXPECT_TRUE(b.lapic.matches(to(ApicMessage::broadcast, true), false));
}

TEST(LapicIpi, Msi)
{
    const auto plain = decode_msi(0xfee03000, 0x0041);
    ASSERT_TRUE(plain);
    EXPECT_EQ(*plain, (ApicMessage{DeliveryMode::fixed, 0x41, Shorthand::none, false, false, 3}));
    const auto hinted = decode_msi(0xfee0f00c, 0x0041);
    EXPECT_EQ(hinted->mode, DeliveryMode::lowest_priority);
    EXPECT_TRUE(hinted->logical);
    EXPECT_EQ(decode_msi(0xfeeff000, 0x41)->destination, ApicMessage::broadcast);
    EXPECT_EQ(decode_msi(0xfeeff004, 0x41)->destination, 0xffu);
    EXPECT_TRUE(decode_msi(0xfee00000, 0xc041)->level_triggered);
    EXPECT_FALSE(decode_msi(0xfee00000, 0x8041)) << "de-assert";
    EXPECT_FALSE(decode_msi(0xfed00000, 0x41));
    EXPECT_FALSE(decode_msi(0x1fee00000, 0x41));
    EXPECT_EQ(decode_msi(0xfee00000, 0x0400)->mode, DeliveryMode::nmi);
}

// ---- pins ---------------------------------------------------------------------------------------

TEST(LapicLint, EdgesAndModes)
{
    Bench b;
    b.software_enable();
    EXPECT_EQ(b.lapic.set_lint(0, true), Accepted::ignored) << "masked";
    b.lapic.set_lint(0, false);
    b.write(LVT_LINT0, 0x45);
    EXPECT_EQ(b.lapic.set_lint(0, true), Accepted::interrupt);
    EXPECT_EQ(b.lapic.set_lint(0, true), Accepted::ignored) << "no edge";
    b.lapic.set_lint(0, false);
    b.write(LVT_LINT1, 0x500);
    EXPECT_EQ(b.lapic.set_lint(1, true), Accepted::init);
    b.lapic.set_lint(1, false);
    b.write(LVT_LINT1, 0x200);
    EXPECT_EQ(b.lapic.set_lint(1, true), Accepted::smi);
    b.lapic.set_lint(1, false);
    // An ExtINT level counts as soon as the entry lets it through.
    b.write(LVT_LINT0, 0x10700);
    b.lapic.set_lint(0, true);
    EXPECT_FALSE(b.lapic.external_pending());
    b.write(LVT_LINT0, 0x700);
    EXPECT_TRUE(b.lapic.external_pending());
}

TEST(LapicLint, LevelRepeatsUntilLow)
{
    Bench b;
    b.software_enable();
    b.write(LVT_LINT0, 0x8045);
    EXPECT_EQ(b.lapic.set_lint(0, true), Accepted::interrupt);
    EXPECT_EQ(b.read(LVT_LINT0), 0xc045u) << "remote IRR";
    EXPECT_EQ(b.lapic.acknowledge(), 0x45);
    EXPECT_FALSE(b.lapic.pending_interrupt());
    b.write(EOI, 0);
    EXPECT_EQ(b.lapic.acknowledge(), 0x45) << "still high";
    b.lapic.set_lint(0, false);
    b.write(EOI, 0);
    EXPECT_EQ(b.read(LVT_LINT0), 0x8045u);
    EXPECT_FALSE(b.lapic.pending_interrupt());
}

// ---- timer ----------------------------------------------------------------------------------------

TEST(LapicTimer, Divide)
{
    const std::pair<std::uint32_t, unsigned> codes[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16},
                                                        {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    for (const auto& [code, divide] : codes) {
        Bench b;
        b.software_enable();
        b.at(0);
        b.write(DIVIDE, code);
        b.write(LVT_TIMER, 0x40);
        b.write(INITIAL_COUNT, 1000);
        EXPECT_EQ(b.lapic.next_deadline(b.time), 1000u * divide);
        b.at(10u * divide);
        EXPECT_EQ(b.read(CURRENT_COUNT), 990u);
        EXPECT_EQ(b.read(INITIAL_COUNT), 1000u);
    }
}

TEST(LapicTimer, OneShot)
{
    Bench b;
    b.software_enable();
    b.at(0);
    b.write(DIVIDE, 11);
    b.write(LVT_TIMER, 0x40);
    b.write(INITIAL_COUNT, 500);
    b.at(499);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::ignored);
    EXPECT_EQ(b.read(CURRENT_COUNT), 1u);
    b.at(500);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::interrupt);
    EXPECT_EQ(b.lapic.pending_interrupt(), 0x40);
    EXPECT_EQ(b.read(CURRENT_COUNT), 0u);
    EXPECT_FALSE(b.lapic.next_deadline(b.time));
    b.at(5000);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::ignored);
    b.write(INITIAL_COUNT, 500);
    b.write(INITIAL_COUNT, 0);
    EXPECT_FALSE(b.lapic.next_deadline(b.time)) << "zero stops it";
}

TEST(LapicTimer, Periodic)
{
    Bench b;
    b.software_enable();
    b.at(0);
    b.write(DIVIDE, 11);
    b.write(LVT_TIMER, 0x20040);
    b.write(INITIAL_COUNT, 100);
    b.at(100);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::interrupt);
    EXPECT_EQ(b.lapic.next_deadline(b.time), 200u);
    b.at(555);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::ignored) << "merged with the one pending";
    EXPECT_EQ(b.lapic.next_deadline(b.time), 600u) << "no drift";
    EXPECT_EQ(b.read(CURRENT_COUNT), 45u);
    // To one-shot in the middle: this period is the last.
    b.write(LVT_TIMER, 0x40);
    b.lapic.acknowledge();
    b.at(600);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::interrupt);
    EXPECT_FALSE(b.lapic.next_deadline(b.time));
}

TEST(LapicTimer, MaskedExpiryIsLost)
{
    Bench b;
    b.software_enable();
    b.at(0);
    b.write(DIVIDE, 11);
    b.write(LVT_TIMER, 0x10040);
    b.write(INITIAL_COUNT, 100);
    EXPECT_FALSE(b.lapic.next_deadline(b.time));
    b.at(200);
    b.write(LVT_TIMER, 0x40);
    EXPECT_FALSE(b.lapic.pending_interrupt());
    EXPECT_FALSE(b.lapic.next_deadline(b.time));
}

TEST(LapicTimer, DivideChangeKeepsTheCount)
{
    Bench b;
    b.software_enable();
    b.at(0);
    b.write(DIVIDE, 11);
    b.write(LVT_TIMER, 0x40);
    b.write(INITIAL_COUNT, 100);
    b.at(60);
    b.write(DIVIDE, 0);
    EXPECT_EQ(b.read(CURRENT_COUNT), 40u);
    EXPECT_EQ(b.lapic.next_deadline(b.time), 140u);
}

TEST(LapicTimer, TscDeadline)
{
    Bench b;
    b.software_enable();
    b.at(1000);
    b.lapic.write_tsc_deadline(5000, b.time);
    EXPECT_EQ(b.lapic.tsc_deadline(b.time), 0u) << "not in this mode";
    b.write(LVT_TIMER, 0x40041);
    b.write(INITIAL_COUNT, 77);
    EXPECT_EQ(b.read(INITIAL_COUNT), 0u);
    EXPECT_EQ(b.read(CURRENT_COUNT), 0u);
    b.lapic.write_tsc_deadline(5001, b.time);
    EXPECT_EQ(b.lapic.tsc_deadline(b.time), 5001u);
    // TSC 2000 now, at 2 GHz: 3001 ticks are 1500.5 ns, rounded up.
    EXPECT_EQ(b.lapic.next_deadline(b.time), 2501u);
    b.at(2500);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::ignored);
    b.at(2501);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::interrupt);
    EXPECT_EQ(b.lapic.tsc_deadline(b.time), 0u);
    EXPECT_FALSE(b.lapic.next_deadline(b.time));
    // In the past: at once. All ones: never, and no overflow.
    b.lapic.write_tsc_deadline(1, b.time);
    EXPECT_EQ(b.lapic.next_deadline(b.time), b.time.now_ns);
    b.lapic.write_tsc_deadline(~std::uint64_t{0}, b.time);
    EXPECT_GT(*b.lapic.next_deadline(b.time), std::uint64_t{1} << 62);
    // The guest moved its TSC.
    b.lapic.write_tsc_deadline(10'000, b.time);
    EXPECT_EQ(b.lapic.next_deadline({2501, 9'000}), 2501u + 500);
    // Another mode disarms.
    b.write(LVT_TIMER, 0x41);
    b.write(LVT_TIMER, 0x40041);
    EXPECT_EQ(b.lapic.tsc_deadline(b.time), 0u);
}

TEST(LapicTimer, AShortestPeriodDoesNotHang)
{
    Bench b;
    b.software_enable();
    b.at(0);
    b.write(DIVIDE, 11);
    b.write(LVT_TIMER, 0x20040);
    b.write(INITIAL_COUNT, 1);
    b.at(std::uint64_t{1} << 62);
    EXPECT_EQ(b.lapic.on_time(b.time), Accepted::interrupt);
    EXPECT_GT(*b.lapic.next_deadline(b.time), b.time.now_ns);
    b.at(5);  // time going backwards is the owner's bug, and harmless here
    EXPECT_EQ(b.read(CURRENT_COUNT), 1u);
}

// ---- saved state ------------------------------------------------------------------------------------

base::Result<void> load_state(LocalApic& lapic, const LocalApic::State& state)
{
    base::StateWriter writer;
    writer.section("lapic.1", 1, state);
    const auto bytes = writer.finish();
    const auto reader = TRY(base::StateReader::open(bytes));
    return lapic.load(reader);
}

TEST(LapicState, RoundTrip)
{
    Bench b;
    b.software_enable();
    b.fixed(0x45, true);
    b.write(LVT_TIMER, 0x20040);
    b.write(INITIAL_COUNT, 5000);
    base::StateWriter writer;
    b.lapic.save(writer);
    const auto bytes = writer.finish();
    const auto reader = base::StateReader::open(bytes);
    ASSERT_TRUE(reader);
    Bench other;
    ASSERT_TRUE(other.lapic.load(*reader));
    EXPECT_EQ(other.lapic.state(), b.lapic.state());
}

TEST(LapicState, HostileStreams)
{
    Bench b;
    const auto refused = [&](auto change) {
        LocalApic::State state = b.lapic.state();
        change(state);
        return !load_state(b.lapic, state).has_value();
    };
    EXPECT_FALSE(refused([](auto&) {}));
    EXPECT_TRUE(refused([](auto& s) { s.apic_base = 0xfee00000 | EXTD; }));
    EXPECT_TRUE(refused([](auto& s) { s.apic_base |= std::uint64_t{1} << 50; }));
    EXPECT_TRUE(refused([](auto& s) { s.apic_base |= 1; }));
    EXPECT_TRUE(refused([](auto& s) { s.registers[LVT_TIMER] |= 3u << 17; }));
    EXPECT_TRUE(refused([](auto& s) { s.registers[IRR] = 1; }));
    EXPECT_FALSE(refused([](auto& s) { s.lint_level = {7, 9}; }));
    EXPECT_EQ(b.lapic.state().lint_level[1], 1u);
}

}  // namespace
}  // namespace doppel::x86
