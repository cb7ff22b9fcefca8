// FXSAVE and XSAVE families against the host's own.
#include <gtest/gtest.h>

#include "thunk_machine.h"

namespace doppel::engine::interpret {
namespace {

using namespace thunk;
using x86::Vector;
using x86::XsaveArea;

constexpr std::uint64_t data = ThunkMachine::data;
constexpr std::uint64_t compacted = std::uint64_t{1} << 63;

class Xsave : public ::testing::Test {
protected:
    Xsave()
    {
        m.core->gpr[x86::RSI] = data;
        request(x86::xcr0::SUPPORTED);
        XsaveArea& area = m.core->state.xsave;
        ensure_present(area, m.core->state.xcr0);
        for (unsigned i = xsave_st; i < xsave_xmm; ++i) area.bytes[i] = i % 16 < 10 ? pattern(i) : 0;
        for (unsigned i = xsave_xmm; i < 416; ++i) area.bytes[i] = pattern(i);
        for (unsigned i = 576; i < 832; ++i) area.bytes[i] = pattern(i);
        if ((m.core->state.xcr0 & x86::xcr0::OPMASK) != 0) {
            for (unsigned i = 1088; i < 2688; ++i) area.bytes[i] = pattern(i);
        }
        xsave_set<std::uint64_t>(area, xsave_fip, 0x123456789abc);
        xsave_set<std::uint32_t>(area, xsave_mxcsr, 0x1fa5);
        xsave_set<std::uint32_t>(area, xsave_mxcsr_mask, mxcsr_supported);
        original = area;
    }
    static std::uint8_t pattern(unsigned i) { return static_cast<std::uint8_t>(i * 7 + 1); }
    void request(std::uint64_t mask)
    {
        m.core->gpr[x86::RAX] = mask & 0xffffffff;
        m.core->gpr[x86::RDX] = mask >> 32;
    }
    void wipe_guest()
    {
        initialise(m.core->state.xsave, x86::xcr0::SUPPORTED);
        m.set_mxcsr(0x1f80);
    }
    void expect_original()
    {
        XsaveArea now = m.core->state.xsave;
        for (unsigned i = 0; i < 512; ++i) EXPECT_EQ(now.bytes[i], original.bytes[i]) << i;
        for (unsigned i = 576; i < 832; ++i) EXPECT_EQ(now.bytes[i], original.bytes[i]) << i;
        for (unsigned i = 1088; i < 2688; ++i) EXPECT_EQ(now.bytes[i], original.bytes[i]) << i;
        EXPECT_EQ(xstate_bv(now), xstate_bv(original));
    }
    void expect_general_protection(std::string_view text)
    {
        EXPECT_EQ(m.run(text), Flow::fault) << text;
        EXPECT_EQ(m.core->fault, x86::make_fault(Vector::GP, 0)) << text;
    }

    ThunkMachine m;
    XsaveArea original;
};

TEST_F(Xsave, StandardRoundTrip)
{
    ASSERT_EQ(m.run("480fae26"), Flow::next);  // xsave64 [rsi]
    EXPECT_EQ(m.peek<std::uint64_t>(data + 512), m.core->state.xcr0);
    wipe_guest();
    ASSERT_EQ(m.run("480fae2e"), Flow::next);  // xrstor64
    expect_original();
}

TEST_F(Xsave, CompactedRoundTrip)
{
    if (!m.cpuid.has(13, 1, 'a', 1)) GTEST_SKIP() << "XSAVEC is not offered";
    initialise(m.core->state.xsave, x86::xcr0::AVX);
    original = m.core->state.xsave;
    ASSERT_EQ(m.run("480fc726"), Flow::next);  // xsavec64
    EXPECT_EQ(m.peek<std::uint64_t>(data + 512), m.core->state.xcr0 & ~x86::xcr0::AVX);
    EXPECT_EQ(m.peek<std::uint64_t>(data + 520), m.core->state.xcr0 | compacted);
    if ((m.core->state.xcr0 & x86::xcr0::OPMASK) != 0) {
        // AVX keeps its place although nothing is written there.
        EXPECT_EQ(m.peek<std::uint8_t>(data + 576 + 256), pattern(1088));
    }
    wipe_guest();
    ASSERT_EQ(m.run("480fae2e"), Flow::next);
    expect_original();
}

TEST_F(Xsave, OptimisedFormLeavesInitialComponentsAlone)
{
    if (!m.cpuid.has(13, 1, 'a', 0)) GTEST_SKIP() << "XSAVEOPT is not offered";
    initialise(m.core->state.xsave, x86::xcr0::AVX);
    m.poke<std::uint64_t>(data + 576, 0x7777);
    m.poke<std::uint64_t>(data + 512, 0xff);
    ASSERT_EQ(m.run("480fae36"), Flow::next);  // xsaveopt64
    EXPECT_EQ(m.peek<std::uint64_t>(data + 576), 0x7777u);
    EXPECT_EQ(m.peek<std::uint64_t>(data + 512) & 7, 3u);
    ASSERT_EQ(m.run("480fae26"), Flow::next);  // xsave64 writes zeros
    EXPECT_EQ(m.peek<std::uint64_t>(data + 576), 0u);
}

TEST_F(Xsave, OnlyWhatIsAskedForChanges)
{
    ASSERT_EQ(m.run("480fae26"), Flow::next);
    m.set_vector<std::uint64_t>(3, {1, 2, 3, 4});
    request(x86::xcr0::SSE);
    ASSERT_EQ(m.run("480fae2e"), Flow::next);
    EXPECT_EQ(m.vector_element<std::uint8_t>(3, 0), pattern(xsave_xmm + 48));
    EXPECT_EQ(m.vector_element<std::uint64_t>(3, 2), 3u);
    // A component that the image lacks goes to its initial configuration.
    request(x86::xcr0::AVX);
    m.poke<std::uint64_t>(data + 512, 3);
    ASSERT_EQ(m.run("480fae2e"), Flow::next);
    EXPECT_EQ(xstate_bv(m.core->state.xsave) & x86::xcr0::AVX, 0u);
    m.set_vector<std::uint64_t>(15, {1});
    EXPECT_EQ(m.vector_element<std::uint64_t>(3, 2), 0u);
}

TEST_F(Xsave, RefusesBadImages)
{
    ASSERT_EQ(m.run("480fae26"), Flow::next);
    const auto with = [this](std::uint64_t at, std::uint64_t value) {
        const auto old = m.peek<std::uint64_t>(at);
        m.poke(at, value);
        expect_general_protection("480fae2e");
        m.poke(at, old);
    };
    with(data + 512, 1u << 9);                 // XSTATE_BV beyond XCR0
    with(data + 520, 1);                       // XCOMP_BV without bit 63
    with(data + 528, 1);                       // reserved
    with(data + 520, compacted | 1u << 9);     // format beyond XCR0
    with(data + 520, compacted | 1);           // XSTATE_BV beyond the format
    with(data + 24, 0x10000);                  // MXCSR
    m.core->gpr[x86::RSI] = data + 8;
    expect_general_protection("480fae26");
    expect_general_protection("480fae2e");
    m.core->gpr[x86::RSI] = data;
    ASSERT_EQ(m.run("480fae2e"), Flow::next);
    m.core->state.cr4 &= ~x86::cr4::OSXSAVE;
    ASSERT_EQ(m.run("480fae2e"), Flow::fault);
    EXPECT_EQ(m.core->fault.vector, Vector::UD);
}

TEST_F(Xsave, FaultLeavesMemoryAlone)
{
    m.core->gpr[x86::RSI] = ThunkMachine::hole - 64 * 10;
    ASSERT_EQ(m.run("480fae26"), Flow::fault);
    EXPECT_EQ(m.core->fault.address, ThunkMachine::hole);
    EXPECT_EQ(m.peek<std::uint64_t>(ThunkMachine::hole - 64 * 10 + 160), 0u);
}

TEST_F(Xsave, FxsaveRoundTrip)
{
    ASSERT_EQ(m.run("480fae06"), Flow::next);  // fxsave64 [rsi]
    EXPECT_EQ(m.peek<std::uint64_t>(data + 8), 0x123456789abcu);
    EXPECT_EQ(m.peek<std::uint32_t>(data + 28), 0xffffu);
    m.set_vector<std::uint64_t>(0, {0});
    ASSERT_EQ(m.run("480fae0e"), Flow::next);  // fxrstor64
    EXPECT_EQ(m.vector_element<std::uint8_t>(0, 0), pattern(160));
    EXPECT_EQ(m.mxcsr(), 0x1fa5u);
    ASSERT_EQ(m.run("0fae06"), Flow::next);  // fxsave
    EXPECT_EQ(m.peek<std::uint64_t>(data + 8), 0x56789abcu);
    m.poke<std::uint32_t>(data + 24, 0x10000);
    expect_general_protection("0fae0e");
    m.core->gpr[x86::RSI] = data + 8;
    expect_general_protection("0fae06");
    m.core->state.cr0 |= x86::cr0::TS;
    ASSERT_EQ(m.run("0fae06"), Flow::fault);
    EXPECT_EQ(m.core->fault.vector, Vector::NM);
}

TEST_F(Xsave, MxcsrByItself)
{
    m.poke<std::uint32_t>(data, 0x5f80);
    ASSERT_EQ(m.run("0fae16"), Flow::next);  // ldmxcsr [rsi]
    EXPECT_EQ(m.mxcsr(), 0x5f80u);
    ASSERT_EQ(m.run("0fae5e04"), Flow::next);  // stmxcsr [rsi+4]
    EXPECT_EQ(m.peek<std::uint32_t>(data + 4), 0x5f80u);
    m.poke<std::uint32_t>(data, 0x15f80);
    expect_general_protection("0fae16");
}

}  // namespace
}  // namespace doppel::engine::interpret
