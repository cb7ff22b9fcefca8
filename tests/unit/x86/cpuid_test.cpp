#include "x86/cpuid.h"

#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "x86/cpu_state.h"
#include "x86/registers.h"

namespace doppel::x86 {
namespace {

constexpr std::uint64_t tsc_hz = 2'300'000'000;

class FakeHost final : public HostCpuid {
public:
    std::map<std::pair<std::uint32_t, std::uint32_t>, CpuidResult> leaves;

    [[nodiscard]] CpuidResult query(std::uint32_t leaf, std::uint32_t subleaf) const override
    {
        const auto found = leaves.find({leaf, subleaf});
        return found == leaves.end() ? CpuidResult{} : found->second;
    }
};

// An Intel host that has every feature there is, ours to offer or not.
FakeHost everything()
{
    FakeHost host;
    constexpr std::uint32_t ones = 0xffffffff;
    host.leaves[{0, 0}] = {0x20, 0x756e6547, 0x6c65746e, 0x49656e69};
    host.leaves[{1, 0}] = {0x000c06f2, 0x05400800, ones, ones};
    host.leaves[{4, 0}] = {0x7c004121, 0x02c0003f, 0x3f, 0};
    host.leaves[{4, 1}] = {0x7c004122, 0x01c0003f, 0x3f, 0};
    host.leaves[{4, 2}] = {0x7c004143, 0x03c0003f, 0x7ff, 0};
    host.leaves[{4, 3}] = {0x7c1fc163, 0x04c0003f, 0x1bfff, 4};
    host.leaves[{7, 0}] = {2, ones, ones, ones};
    host.leaves[{7, 1}] = {ones, ones, ones, ones};
    host.leaves[{7, 2}] = {ones, ones, ones, ones};
    host.leaves[{0xd, 0}] = {0x602e7, 0x2b00, 0x2b00, 0};
    host.leaves[{0xd, 1}] = {0x1f, 0, 0, 0};
    host.leaves[{0xd, 2}] = {256, 576, 0, 0};
    host.leaves[{0xd, 5}] = {64, 1088, 0, 0};
    host.leaves[{0xd, 6}] = {512, 1152, 0, 0};
    host.leaves[{0xd, 7}] = {1024, 1664, 0, 0};
    host.leaves[{0x80000000, 0}] = {0x80000008, 0, 0, 0};
    host.leaves[{0x80000001, 0}] = {0, 0, ones, ones};
    host.leaves[{0x80000002, 0}] = {0x65746e49, 0x2952286c, 0x6f655820, 0x2952286e};
    host.leaves[{0x80000008, 0}] = {0x3934, ones, ones, ones};
    return host;
}

FakeHost amd()
{
    FakeHost host = everything();
    host.leaves[{0, 0}] = {0x10, 0x68747541, 0x444d4163, 0x69746e65};
    host.leaves[{0xd, 5}] = {64, 832, 0, 0};
    host.leaves[{0xd, 6}] = {512, 896, 0, 0};
    host.leaves[{0xd, 7}] = {1024, 1408, 0, 0};
    return host;
}

CpuidPolicy policy_of(const HostCpuid& host, unsigned vcpus = 1)
{
    return CpuidPolicy::create(host, vcpus, tsc_hz);
}

TEST(Cpuid, VendorAndFamilyAreTheHosts)
{
    const auto policy = policy_of(everything());
    EXPECT_EQ(policy.query(0, 0, {}), (CpuidResult{0x1f, 0x756e6547, 0x6c65746e, 0x49656e69}));
    EXPECT_EQ(policy.query(1, 0, {}).eax, 0x000c06f2u);
    EXPECT_EQ(policy.query(0x80000002, 0, {}).eax, 0x65746e49u);
}

TEST(Cpuid, OffersWhatIsHonouredAndNothingElse)
{
    const auto policy = policy_of(everything());
    struct Bit { std::uint32_t leaf, subleaf; char reg; unsigned bit; };
    const Bit offered[] = {
        {1, 0, 'c', 0}, {1, 0, 'c', 13}, {1, 0, 'c', 17}, {1, 0, 'c', 21}, {1, 0, 'c', 24},
        {1, 0, 'c', 26}, {1, 0, 'c', 28}, {1, 0, 'c', 31}, {1, 0, 'd', 0}, {1, 0, 'd', 9},
        {6, 0, 'a', 2}, {7, 0, 'b', 0}, {7, 0, 'b', 7}, {7, 0, 'b', 9}, {7, 0, 'b', 10},
        {7, 0, 'b', 16}, {7, 0, 'b', 20}, {7, 0, 'b', 23}, {7, 0, 'b', 24}, {7, 0, 'c', 2},
        {7, 0, 'c', 22}, {7, 0, 'd', 14}, {7, 0, 'd', 4}, {7, 0, 'd', 29}, {7, 1, 'a', 4},
        {7, 2, 'd', 4}, {7, 2, 'd', 5}, {0xd, 1, 'a', 0},
        {0xd, 1, 'a', 1}, {0xd, 1, 'a', 2}, {0x80000001, 0, 'c', 0}, {0x80000001, 0, 'c', 5},
        {0x80000001, 0, 'd', 11}, {0x80000001, 0, 'd', 20}, {0x80000001, 0, 'd', 26},
        {0x80000001, 0, 'd', 27}, {0x80000001, 0, 'd', 29}, {0x80000007, 0, 'd', 8},
    };
    for (const Bit& b : offered) {
        EXPECT_TRUE(policy.has(b.leaf, b.subleaf, b.reg, b.bit)) << b.leaf << b.reg << b.bit;
    }
    const Bit withheld[] = {
        // MONITOR DS-CPL VMX SMX EIST TM2 PDCM DCA, OSXSAVE at reset; VME DS ACPI TM
        {1, 0, 'c', 3}, {1, 0, 'c', 4}, {1, 0, 'c', 5}, {1, 0, 'c', 6}, {1, 0, 'c', 7},
        {1, 0, 'c', 8}, {1, 0, 'c', 15}, {1, 0, 'c', 18}, {1, 0, 'c', 27}, {1, 0, 'd', 1},
        {1, 0, 'd', 21}, {1, 0, 'd', 22}, {1, 0, 'd', 28}, {1, 0, 'd', 29},
        // SGX HLE RTM RDT MPX PT; PKU WAITPKG CET LA57 KL; UINTR PCONFIG AMX
        {7, 0, 'b', 2}, {7, 0, 'b', 4}, {7, 0, 'b', 11}, {7, 0, 'b', 12}, {7, 0, 'b', 14},
        {7, 0, 'b', 25}, {7, 0, 'c', 3}, {7, 0, 'c', 5}, {7, 0, 'c', 7}, {7, 0, 'c', 16},
        {7, 0, 'c', 23}, {7, 0, 'c', 29}, {7, 0, 'd', 5}, {7, 0, 'd', 18},
        {7, 0, 'd', 20}, {7, 0, 'd', 22}, {7, 0, 'd', 24}, {7, 0, 'd', 25}, {0xd, 1, 'a', 3},
        // PSFD IPRED_CTRL RRSBA_CTRL DDPD
        {7, 2, 'd', 0}, {7, 2, 'd', 1}, {7, 2, 'd', 2}, {7, 2, 'd', 3},
        {0x80000001, 0, 'c', 2}, {0x80000001, 0, 'c', 6},
    };
    for (const Bit& b : withheld) {
        EXPECT_FALSE(policy.has(b.leaf, b.subleaf, b.reg, b.bit)) << b.leaf << b.reg << b.bit;
    }
    // Performance monitoring, AMX tiles, SGX: leaves of zeros.
    for (const std::uint32_t leaf : {5u, 0xau, 0x12u, 0x14u, 0x1du}) {
        EXPECT_EQ(policy.query(leaf, 0, {}), CpuidResult{}) << leaf;
    }
}

TEST(Cpuid, NativeInstructionsFollowTheHost)
{
    FakeHost host = everything();
    host.leaves[{7, 0}] = {0, 0, 0, 0};
    host.leaves[{1, 0}].ecx = 0x00000001;
    const auto policy = policy_of(host);
    EXPECT_FALSE(policy.has(7, 0, 'b', 5));
    EXPECT_FALSE(policy.has(1, 0, 'c', 28));
    EXPECT_FALSE(policy.has(1, 0, 'c', 26));
    EXPECT_TRUE(policy.has(7, 0, 'b', 20)) << "SMAP is our own";
    EXPECT_TRUE(policy.has(1, 0, 'c', 21)) << "x2APIC is our own";
    EXPECT_EQ(policy.xcr0_mask(), 0u);
    EXPECT_EQ(policy.cr4_mask() & cr4::OSXSAVE, 0u);
    EXPECT_EQ(policy.query(0xd, 0, {}), CpuidResult{});
}

TEST(Cpuid, DynamicInputs)
{
    const auto policy = policy_of(everything(), 4);
    CpuidInputs inputs;
    EXPECT_EQ(policy.query(1, 0, inputs).ecx >> 27 & 1, 0u);
    EXPECT_EQ(policy.query(1, 0, inputs).edx >> 9 & 1, 0u);
    inputs.cr4 = cr4::OSXSAVE;
    inputs.apic_base = 0xfee00900;
    inputs.apic_id = 3;
    EXPECT_EQ(policy.query(1, 0, inputs).ecx >> 27 & 1, 1u);
    EXPECT_EQ(policy.query(1, 0, inputs).edx >> 9 & 1, 1u);
    EXPECT_EQ(policy.query(1, 0, inputs).ebx, 0x03040800u);
    EXPECT_EQ(policy.query(0xb, 0, inputs).edx, 3u);
    // Leaves without subleaves do not look at ECX.
    EXPECT_EQ(policy.query(1, 77, inputs), policy.query(1, 0, inputs));
}

TEST(Cpuid, XsaveSizes)
{
    const auto policy = policy_of(everything());
    EXPECT_EQ(policy.xcr0_mask(), xcr0::SUPPORTED);
    const auto at = [&](std::uint32_t subleaf, std::uint64_t xcr0) {
        CpuidInputs inputs;
        inputs.xcr0 = xcr0;
        return policy.query(0xd, subleaf, inputs);
    };
    EXPECT_EQ(at(0, 1), (CpuidResult{0xe7, 576, 2688, 0}));
    EXPECT_EQ(at(0, 3).ebx, 576u);
    EXPECT_EQ(at(0, 7).ebx, 832u);
    EXPECT_EQ(at(0, 0xe7).ebx, 2688u);
    EXPECT_EQ(at(1, 7).ebx, 832u);
    EXPECT_EQ(at(1, 0xe7).ebx, 576u + 256 + 64 + 512 + 1024);
    EXPECT_EQ(at(2, 7), (CpuidResult{256, xsave_offset_avx, 0, 0}));
    EXPECT_EQ(at(7, 7), (CpuidResult{1024, xsave_offset_hi16_zmm, 0, 0}));
    EXPECT_EQ(at(3, 7), CpuidResult{});
    EXPECT_EQ(at(9, 7), CpuidResult{});
    EXPECT_EQ(at(64, 7), CpuidResult{});
}

TEST(Cpuid, Avx512NeedsTheStateAtOurOffsets)
{
    const auto policy = policy_of(amd());
    EXPECT_EQ(policy.xcr0_mask(), xcr0::X87 | xcr0::SSE | xcr0::AVX);
    EXPECT_TRUE(policy.has(7, 0, 'b', 5));
    EXPECT_FALSE(policy.has(7, 0, 'b', 16));
    EXPECT_FALSE(policy.has(7, 0, 'b', 31));
}

TEST(Cpuid, OutOfRange)
{
    const auto intel = policy_of(everything());
    CpuidInputs inputs;
    inputs.apic_id = 5;
    EXPECT_EQ(intel.query(0x20, 1, inputs), intel.query(0x1f, 1, inputs));
    EXPECT_EQ(intel.query(0x80000009, 0, inputs), intel.query(0x1f, 0, inputs));
    EXPECT_EQ(intel.query(0xffffffff, 0, inputs), intel.query(0x1f, 0, inputs));
    EXPECT_EQ(intel.query(0x40000011, 0, inputs), CpuidResult{});
    EXPECT_EQ(policy_of(amd()).query(0x12345, 0, inputs), CpuidResult{});
}

TEST(Cpuid, Topology)
{
    const auto policy = policy_of(everything(), 6);
    for (const std::uint32_t leaf : {0xbu, 0x1fu}) {
        EXPECT_EQ(policy.query(leaf, 0, {}), (CpuidResult{0, 1, 0x100, 0}));
        EXPECT_EQ(policy.query(leaf, 1, {}), (CpuidResult{3, 6, 0x201, 0}));
        EXPECT_EQ(policy.query(leaf, 2, {}), (CpuidResult{0, 0, 2, 0}));
        EXPECT_EQ(policy.query(leaf, 9, {}), (CpuidResult{0, 0, 9, 0}));
    }
    EXPECT_EQ(policy.query(1, 0, {}).ebx >> 16 & 0xff, 8u);
    EXPECT_TRUE(policy.has(1, 0, 'd', 28));
    // L2 private, L3 shared by all, eight core IDs; geometry as the host's.
    EXPECT_EQ(policy.query(4, 2, {}).eax, (7u << 26) | 0x143u);
    EXPECT_EQ(policy.query(4, 3, {}).eax, (7u << 26) | (7u << 14) | 0x163u);
    EXPECT_EQ(policy.query(4, 3, {}).ecx, 0x1bfffu);
    EXPECT_EQ(policy.query(4, 4, {}).eax, 0u);
}

TEST(Cpuid, Frequencies)
{
    for (const std::uint64_t hz : {std::uint64_t{2'300'000'000}, std::uint64_t{2'299'968'123},
                                   std::uint64_t{3'999'999'999}, std::uint64_t{2'099'998'000},
                                   std::uint64_t{2'893'202'101}, std::uint64_t{1'000'000'000}}) {
        const auto policy = CpuidPolicy::create(everything(), 1, hz);
        const CpuidResult r = policy.query(0x15, 0, {});
        ASSERT_NE(r.eax, 0u);
        // As Linux computes it, in 32 bits.
        EXPECT_LE(std::uint64_t{r.ecx / 1000} * r.ebx, 0xffffffffu);
        const double computed = static_cast<double>(r.ecx) * r.ebx / r.eax;
        EXPECT_NEAR(computed / static_cast<double>(hz), 1.0, 6e-7) << hz;
        EXPECT_NEAR(r.ecx, 1e9, 5e4) << hz;
        EXPECT_EQ(policy.query(0x40000010, 0, {}).eax, hz / 1000);
    }
    const auto policy = policy_of(everything());
    EXPECT_EQ(policy.query(0x15, 0, {}), (CpuidResult{10, 23, 1'000'000'000, 0}));
    EXPECT_EQ(policy.query(0x16, 0, {}), (CpuidResult{2300, 2300, 100, 0}));
    EXPECT_EQ(policy.query(0x40000010, 0, {}).ebx, 1'000'000u);
    EXPECT_EQ(CpuidPolicy::create(everything(), 1, 0).query(0x15, 0, {}), CpuidResult{});
}

TEST(Cpuid, Signature)
{
    const auto policy = policy_of(everything());
    EXPECT_EQ(policy.query(0x40000000, 0, {}),
              (CpuidResult{0x40000010, 0x4b4d564b, 0x564b4d56, 0x4d}));
    EXPECT_EQ(policy.query(0x40000001, 0, {}), (CpuidResult{0x01002aea, 0, 0, 0}));
    EXPECT_EQ(policy.query(0x40000100, 0, {}), (CpuidResult{0x40000110, 0x70706f64, 0x00006c65, 0}));
    EXPECT_EQ(policy.query(0x40000110, 0, {}), policy.query(0x40000010, 0, {}));
}

TEST(Cpuid, AddressSizes)
{
    EXPECT_EQ(policy_of(everything()).physical_address_bits(), 46u);
    EXPECT_EQ(policy_of(everything()).query(0x80000008, 0, {}).eax, 0x302eu);
    FakeHost narrow = everything();
    narrow.leaves[{0x80000008, 0}].eax = 0x3027;
    EXPECT_EQ(policy_of(narrow).physical_address_bits(), 39u);
    narrow.leaves[{0x80000000, 0}].eax = 0x80000004;
    EXPECT_EQ(policy_of(narrow).physical_address_bits(), 36u);
}

TEST(Cpuid, Cr4Mask)
{
    const std::uint64_t mask = policy_of(everything()).cr4_mask();
    EXPECT_EQ(mask & (cr4::LA57 | cr4::VMXE | cr4::SMXE | cr4::PKE | cr4::VME | cr4::PVI), 0u);
    EXPECT_EQ(mask & (cr4::SMAP | cr4::SMEP | cr4::PCIDE | cr4::OSXSAVE | cr4::FSGSBASE | cr4::UMIP),
              cr4::SMAP | cr4::SMEP | cr4::PCIDE | cr4::OSXSAVE | cr4::FSGSBASE | cr4::UMIP);
}

TEST(Cpuid, AmdRepeatsItsBits)
{
    const auto policy = policy_of(amd());
    EXPECT_TRUE(policy.has(0x80000001, 0, 'd', 0));
    EXPECT_EQ(policy.query(0x80000000, 0, {}).ebx, 0x68747541u);
    EXPECT_EQ(policy.query(2, 0, {}), CpuidResult{});
}

TEST(Cpuid, AnEmptyHostIsNoReasonToFail)
{
    const FakeHost nothing;
    const auto policy = policy_of(nothing, 0);
    EXPECT_TRUE(policy.has(0x80000001, 0, 'd', 29));
    EXPECT_EQ(policy.xcr0_mask(), 0u);
}

TEST(Cpuid, ThisHostAnswers)
{
    const auto policy = policy_of(this_host());
    EXPECT_TRUE(policy.has(1, 0, 'd', 26)) << "every x86-64 has SSE2";
    EXPECT_GE(policy.physical_address_bits(), 36u);
}

}  // namespace
}  // namespace doppel::x86
