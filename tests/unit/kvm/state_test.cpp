#include "bare_guest.h"
#include "engine/kvm/cpuid.h"

namespace doppel::engine {
namespace {

class KvmState : public BareGuest {
protected:
    // Time goes on, and everything else must be as it was set.
    void expect_same(const x86::CpuState& seen, const x86::CpuState& set)
    {
        x86::CpuState got = seen;
        EXPECT_EQ(got.gpr, set.gpr);
        EXPECT_EQ(got.rip, set.rip);
        EXPECT_EQ(got.rflags, set.rflags);
        for (std::size_t i = 0; i < 6; ++i) {
            EXPECT_EQ(got.segments[i], set.segments[i]) << "segment " << i;
        }
        EXPECT_EQ(got.ldtr, set.ldtr);
        EXPECT_EQ(got.tr, set.tr);
        EXPECT_EQ(got.gdtr, set.gdtr);
        EXPECT_EQ(got.idtr, set.idtr);
        EXPECT_EQ(got.cr0, set.cr0);
        EXPECT_EQ(got.cr2, set.cr2);
        EXPECT_EQ(got.cr3, set.cr3);
        EXPECT_EQ(got.cr4, set.cr4);
        EXPECT_EQ(got.xcr0, set.xcr0);
        EXPECT_EQ(got.dr, set.dr);
        EXPECT_EQ(got.dr6, set.dr6);
        EXPECT_EQ(got.dr7, set.dr7);
        EXPECT_EQ(got.efer, set.efer);
        EXPECT_EQ(got.star, set.star);
        EXPECT_EQ(got.lstar, set.lstar);
        EXPECT_EQ(got.cstar, set.cstar);
        EXPECT_EQ(got.fmask, set.fmask);
        EXPECT_EQ(got.kernel_gs_base, set.kernel_gs_base);
        EXPECT_EQ(got.sysenter_cs, set.sysenter_cs);
        EXPECT_EQ(got.sysenter_esp, set.sysenter_esp);
        EXPECT_EQ(got.sysenter_eip, set.sysenter_eip);
        EXPECT_EQ(got.pat, set.pat);
        EXPECT_EQ(got.apic_base, set.apic_base);
        EXPECT_EQ(got.tsc_aux, set.tsc_aux);
        EXPECT_EQ(got.misc_enable, set.misc_enable);
        EXPECT_EQ(got.spec_ctrl, set.spec_ctrl);
        EXPECT_EQ(got.tsc_deadline, set.tsc_deadline);
        EXPECT_EQ(got.tsc_adjust, set.tsc_adjust);
        EXPECT_EQ(got.xss, set.xss);
        EXPECT_EQ(got.mtrr, set.mtrr);
        EXPECT_EQ(got.events, set.events);
        EXPECT_EQ(got.xsave, set.xsave);
        EXPECT_GE(got.tsc, set.tsc);
        got.tsc = set.tsc;
        EXPECT_EQ(got, set);
    }
};

TEST_F(KvmState, ResetStateComesBack)
{
    vcpu_->set_state(x86::reset_state(true));
    expect_same(vcpu_->state(), x86::reset_state(true));
    engine_->reset();
    expect_same(vcpu_->state(), x86::reset_state(true));
}

TEST_F(KvmState, EveryFieldComesBack)
{
    x86::CpuState set = long_mode(0x6000);
    for (std::size_t i = 0; i < 16; ++i) set.gpr[i] = 0x0102030405060700 + i;
    set.rflags = x86::rflags::RESERVED1 | x86::rflags::CF | x86::rflags::IF | x86::rflags::AC;
    set.segments[x86::FS].base = 0x7fff12345678;
    set.segments[x86::GS].base = 0xffff888000001000;
    set.cr2 = 0xdeadbeef000;
    set.dr = {0x1000, 0x2000, 0x3000, 0x4000};
    set.dr7 = 0x455;
    set.star = 0x0023001000000000;
    set.lstar = 0xffffffff81000000;
    set.cstar = 0xffffffff81000010;
    set.fmask = 0x47700;
    set.kernel_gs_base = 0xffff888000002000;
    set.sysenter_cs = 0x10;
    set.sysenter_esp = 0xffff888000003000;
    set.sysenter_eip = 0xffffffff81000020;
    set.pat = 0x0407050600070106;
    set.tsc_aux = 3;
    set.tsc = 1'000'000'000'000;
    set.tsc_adjust = 0x1234;
    set.mtrr.def_type = 0xc06;
    set.mtrr.variable[0] = 0x80000000;
    set.mtrr.variable[1] = 0x3f80000800;
    set.mtrr.fixed.fill(0x0606060606060606);
    set.events.nmi_blocked = true;
    set.events.activity = x86::Activity::halted;
    // FCW and MXCSR, ST(0) and XMM7.
    set.xsave.bytes[0] = 0x7e;
    set.xsave.bytes[32] = 0x55;
    set.xsave.bytes[25] = 0x3f;
    set.xsave.bytes[160 + 7 * 16] = 0x99;
    set.xsave.bytes[512] = 3;
    vcpu_->set_state(set);
    expect_same(vcpu_->state(), set);
}

TEST_F(KvmState, RoundTripCost)
{
    vcpu_->set_state(long_mode(0x6000));
    const auto start = std::chrono::steady_clock::now();
    constexpr int rounds = 50;
    for (int i = 0; i < rounds; ++i) vcpu_->set_state(vcpu_->state());
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    RecordProperty("round_trip_us", std::to_string(took.count() / rounds));
    EXPECT_LT(took.count() / rounds, 20000.0);
}

TEST(KvmCpuid, IsThePolicyReducedToWhatKvmOffers)
{
    const auto policy = x86::CpuidPolicy::create(x86::this_host(), 1, 2'000'000'000);
    kvm::CpuidList offer;
    offer.count = 0;
    const auto add = [&offer](std::uint32_t leaf, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                              std::uint32_t d) {
        kvm_cpuid_entry2& entry = offer.entries[offer.count++];
        entry.function = leaf;
        entry.eax = a;
        entry.ebx = b;
        entry.ecx = c;
        entry.edx = d;
    };
    add(1, 0, 0, 1u << 13, 0x0f8bfbff);
    add(7, 0, 0, 0, 0);
    add(0x40000001, 0x01007efb, 0, 0, 0);
    add(0x80000001, 0, 0, 0, 1u << 29);
    const auto filtered = kvm::filter_cpuid(policy, offer);
    EXPECT_FALSE(filtered.has(1, 0, 'c', 26));   // XSAVE
    EXPECT_FALSE(filtered.has(7, 0, 'b', 20));   // SMAP
    EXPECT_TRUE(filtered.has(0x80000001, 0, 'd', 29));
    EXPECT_FALSE(filtered.has(0x80000001, 0, 'd', 20));
    EXPECT_EQ(filtered.xcr0_mask(), 0u);
    EXPECT_EQ(filtered.query(0x40000000, 0, {}).ebx, 0x4b4d564bu);
    EXPECT_EQ(filtered.query(0x40000001, 0, {}).eax, 0x01002ae9u);
    EXPECT_EQ(filtered.query(0x40000100, 0, {}).ebx, 0x70706f64u);
    EXPECT_EQ(filtered.query(0x40000100, 0, {}).eax, 0x40000110u);
    EXPECT_EQ(filtered.query(0, 0, {}).ebx, policy.query(0, 0, {}).ebx);
}

}  // namespace
}  // namespace doppel::engine
