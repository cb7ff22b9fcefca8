#include "engine/kvm/vcpu_state.h"

#include <algorithm>
#include <cstring>

#include "x86/msr.h"

namespace doppel::engine::kvm {

namespace {

using x86::Activity;
using x86::CpuState;
namespace msr = x86::msr;

struct MsrField {
    std::uint32_t index;
    std::uint64_t& (*field)(CpuState& state);
};

// The deadline comes after the time-stamp counter it is compared with.
const MsrField fields[] = {
    {msr::IA32_STAR, [](CpuState& s) -> std::uint64_t& { return s.star; }},
    {msr::IA32_LSTAR, [](CpuState& s) -> std::uint64_t& { return s.lstar; }},
    {msr::IA32_CSTAR, [](CpuState& s) -> std::uint64_t& { return s.cstar; }},
    {msr::IA32_FMASK, [](CpuState& s) -> std::uint64_t& { return s.fmask; }},
    {msr::IA32_KERNEL_GS_BASE, [](CpuState& s) -> std::uint64_t& { return s.kernel_gs_base; }},
    {msr::IA32_SYSENTER_CS, [](CpuState& s) -> std::uint64_t& { return s.sysenter_cs; }},
    {msr::IA32_SYSENTER_ESP, [](CpuState& s) -> std::uint64_t& { return s.sysenter_esp; }},
    {msr::IA32_SYSENTER_EIP, [](CpuState& s) -> std::uint64_t& { return s.sysenter_eip; }},
    {msr::IA32_PAT, [](CpuState& s) -> std::uint64_t& { return s.pat; }},
    {msr::IA32_TSC_AUX, [](CpuState& s) -> std::uint64_t& { return s.tsc_aux; }},
    {msr::IA32_MISC_ENABLE, [](CpuState& s) -> std::uint64_t& { return s.misc_enable; }},
    {msr::IA32_SPEC_CTRL, [](CpuState& s) -> std::uint64_t& { return s.spec_ctrl; }},
    {msr::IA32_XSS, [](CpuState& s) -> std::uint64_t& { return s.xss; }},
    {msr::IA32_MTRR_DEF_TYPE, [](CpuState& s) -> std::uint64_t& { return s.mtrr.def_type; }},
    {msr::IA32_MTRR_FIX64K_00000, [](CpuState& s) -> std::uint64_t& { return s.mtrr.fixed[0]; }},
    {msr::IA32_MTRR_FIX16K_80000, [](CpuState& s) -> std::uint64_t& { return s.mtrr.fixed[1]; }},
    {msr::IA32_MTRR_FIX16K_A0000, [](CpuState& s) -> std::uint64_t& { return s.mtrr.fixed[2]; }},
#define FIX4K(n) {msr::IA32_MTRR_FIX4K_C0000 + (n), \
                  [](CpuState& s) -> std::uint64_t& { return s.mtrr.fixed[3 + (n)]; }}
    FIX4K(0), FIX4K(1), FIX4K(2), FIX4K(3), FIX4K(4), FIX4K(5), FIX4K(6), FIX4K(7),
#undef FIX4K
#define VARIABLE(n) {msr::IA32_MTRR_PHYSBASE0 + (n), \
                     [](CpuState& s) -> std::uint64_t& { return s.mtrr.variable[n]; }}
    VARIABLE(0), VARIABLE(1), VARIABLE(2), VARIABLE(3), VARIABLE(4), VARIABLE(5), VARIABLE(6),
    VARIABLE(7), VARIABLE(8), VARIABLE(9), VARIABLE(10), VARIABLE(11), VARIABLE(12), VARIABLE(13),
    VARIABLE(14), VARIABLE(15),
#undef VARIABLE
    {msr::IA32_TSC_ADJUST, [](CpuState& s) -> std::uint64_t& { return s.tsc_adjust; }},
    {msr::IA32_TIME_STAMP_COUNTER, [](CpuState& s) -> std::uint64_t& { return s.tsc; }},
    {msr::IA32_TSC_DEADLINE, [](CpuState& s) -> std::uint64_t& { return s.tsc_deadline; }},
};
static_assert(std::size(fields) <= MsrList::capacity);

// The order of ModRM encoding, as CpuState has it.
__u64 kvm_regs::*const gprs[16] = {
    &kvm_regs::rax, &kvm_regs::rcx, &kvm_regs::rdx, &kvm_regs::rbx, &kvm_regs::rsp, &kvm_regs::rbp,
    &kvm_regs::rsi, &kvm_regs::rdi, &kvm_regs::r8, &kvm_regs::r9, &kvm_regs::r10, &kvm_regs::r11,
    &kvm_regs::r12, &kvm_regs::r13, &kvm_regs::r14, &kvm_regs::r15};
kvm_segment kvm_sregs::*const segments[6] = {&kvm_sregs::es, &kvm_sregs::cs, &kvm_sregs::ss,
                                             &kvm_sregs::ds, &kvm_sregs::fs, &kvm_sregs::gs};

kvm_dtable table_to_kvm(const x86::TableRegister& table)
{
    kvm_dtable to{};
    to.base = table.base;
    to.limit = static_cast<std::uint16_t>(table.limit);
    return to;
}

kvm_regs regs_of(const CpuState& state)
{
    kvm_regs regs{};
    for (std::size_t i = 0; i < 16; ++i) regs.*gprs[i] = state.gpr[i];
    regs.rip = state.rip;
    regs.rflags = state.rflags;
    return regs;
}

kvm_sregs sregs_of(const CpuState& state, std::uint64_t cr8)
{
    kvm_sregs sregs{};
    for (std::size_t i = 0; i < 6; ++i) sregs.*segments[i] = to_kvm(state.segments[i]);
    sregs.ldt = to_kvm(state.ldtr);
    sregs.tr = to_kvm(state.tr);
    sregs.gdt = table_to_kvm(state.gdtr);
    sregs.idt = table_to_kvm(state.idtr);
    sregs.cr0 = state.cr0;
    sregs.cr2 = state.cr2;
    sregs.cr3 = state.cr3;
    sregs.cr4 = state.cr4;
    sregs.cr8 = cr8;
    sregs.efer = state.efer;
    sregs.apic_base = state.apic_base;
    return sregs;
}

void read_sregs(const kvm_sregs& sregs, CpuState& state)
{
    for (std::size_t i = 0; i < 6; ++i) state.segments[i] = from_kvm(sregs.*segments[i]);
    state.ldtr = from_kvm(sregs.ldt);
    state.tr = from_kvm(sregs.tr);
    state.gdtr = {sregs.gdt.base, sregs.gdt.limit, 0};
    state.idtr = {sregs.idt.base, sregs.idt.limit, 0};
    state.cr0 = sregs.cr0;
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = sregs.cr4;
    state.efer = sregs.efer;
    state.apic_base = sregs.apic_base;
}

// The host's MXCSR mask and the bytes left to software are not the guest's state.
void clean(x86::XsaveArea& area)
{
    std::fill_n(area.bytes.begin() + 28, 4, std::uint8_t{0});
    std::fill(area.bytes.begin() + 464, area.bytes.begin() + 512, std::uint8_t{0});
}

constexpr std::size_t xstate_bv_offset = 512;

std::uint64_t xstate_bv(const std::uint8_t* area)
{
    std::uint64_t value;
    std::memcpy(&value, area + xstate_bv_offset, sizeof value);
    return value;
}

void set_xstate_bv(std::uint8_t* area, std::uint64_t value)
{
    std::memcpy(area + xstate_bv_offset, &value, sizeof value);
}

Activity activity_of(std::uint32_t mp_state)
{
    switch (mp_state) {
    case KVM_MP_STATE_HALTED: return Activity::halted;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: return Activity::wait_for_sipi;
    default: return Activity::running;
    }
}

}  // namespace

kvm_segment to_kvm(const x86::Segment& segment)
{
    kvm_segment to{};
    const std::uint32_t a = segment.attributes;
    to.base = segment.base;
    to.limit = segment.limit;
    to.selector = segment.selector;
    to.type = a & 0xf;
    to.s = a >> 4 & 1;
    to.dpl = a >> 5 & 3;
    to.present = a >> 7 & 1;
    to.avl = a >> 12 & 1;
    to.l = a >> 13 & 1;
    to.db = a >> 14 & 1;
    to.g = a >> 15 & 1;
    to.unusable = a >> 16 & 1;
    return to;
}

x86::Segment from_kvm(const kvm_segment& segment)
{
    x86::Segment to;
    to.selector = segment.selector;
    to.base = segment.base;
    to.limit = segment.limit;
    to.attributes = (segment.type & 0xfu) | (segment.s & 1u) << 4 | (segment.dpl & 3u) << 5 |
                    (segment.present & 1u) << 7 | (segment.avl & 1u) << 12 | (segment.l & 1u) << 13 |
                    (segment.db & 1u) << 14 | (segment.g & 1u) << 15 | (segment.unusable & 1u) << 16;
    return to;
}

base::Result<void> VcpuState::create()
{
    for (std::size_t i = 0; i < std::size(fields); ++i) {
        std::uint64_t value = 0;
        if (get_msr(fields[i].index, value) && set_msr(fields[i].index, value)) msrs_.push_back(i);
    }
    shadow_ = x86::reset_state(true);
    return {};
}

bool VcpuState::fail(const char* what) noexcept
{
    problem_ = base::errno_error(base::ErrorKind::host, what, errno).text();
    return false;
}

bool VcpuState::get_msr(std::uint32_t index, std::uint64_t& value) noexcept
{
    MsrList list;
    list.count = 1;
    list.entries[0].index = index;
    if (call(fd_, request::GET_MSRS, &list) != 1) return false;
    value = list.entries[0].data;
    return true;
}

bool VcpuState::set_msr(std::uint32_t index, std::uint64_t value) noexcept
{
    MsrList list;
    list.count = 1;
    list.entries[0].index = index;
    list.entries[0].data = value;
    return call(fd_, request::SET_MSRS, &list) == 1;
}

bool VcpuState::load(VcpuSnapshot& to) noexcept
{
    CpuState& state = to.state;
    state = shadow_;
    if (call(fd_, KVM_GET_REGS, &to.regs) < 0) return fail("KVM_GET_REGS");
    if (call(fd_, KVM_GET_SREGS, &to.sregs) < 0) return fail("KVM_GET_SREGS");
    if (call(fd_, KVM_GET_VCPU_EVENTS, &to.events) < 0) return fail("KVM_GET_VCPU_EVENTS");
    for (std::size_t i = 0; i < 16; ++i) state.gpr[i] = to.regs.*gprs[i];
    state.rip = to.regs.rip;
    state.rflags = to.regs.rflags;
    read_sregs(to.sregs, state);

    kvm_debugregs debug{};
    if (call(fd_, KVM_GET_DEBUGREGS, &debug) < 0) return fail("KVM_GET_DEBUGREGS");
    std::copy_n(debug.db, 4, state.dr.begin());
    state.dr6 = debug.dr6;
    state.dr7 = debug.dr7;

    XsaveRegion region;
    if (call(fd_, request::GET_XSAVE, &region) < 0) return fail("KVM_GET_XSAVE");
    std::copy_n(region.bytes.begin(), state.xsave.bytes.size(), state.xsave.bytes.begin());
    set_xstate_bv(state.xsave.bytes.data(), xstate_bv(region.bytes.data()) & x86::xcr0::SUPPORTED);
    clean(state.xsave);
    if (xcrs_) {
        kvm_xcrs xcrs{};
        if (call(fd_, KVM_GET_XCRS, &xcrs) < 0) return fail("KVM_GET_XCRS");
        if (xcrs.nr_xcrs > 0) state.xcr0 = xcrs.xcrs[0].value;
    }
    MsrList list;
    for (const std::size_t i : msrs_) list.entries[list.count++].index = fields[i].index;
    if (call(fd_, request::GET_MSRS, &list) != static_cast<int>(list.count)) {
        return fail("KVM_GET_MSRS");
    }
    for (std::size_t i = 0; i < msrs_.size(); ++i) {
        fields[msrs_[i]].field(state) = list.entries[i].data;
    }
    kvm_mp_state mp{};
    if (call(fd_, KVM_GET_MP_STATE, &mp) < 0) return fail("KVM_GET_MP_STATE");
    state.events.activity =
        shadow_.events.activity == Activity::shutdown ? Activity::shutdown : activity_of(mp.mp_state);
    state.events.interrupt_shadow = to.events.interrupt.shadow != 0;
    state.events.nmi_pending = to.events.nmi.pending != 0;
    state.events.nmi_blocked = to.events.nmi.masked != 0;
    state.events.unhalted = false;  // known to KVM alone, which counts a halt that it ends as over
    return true;
}

bool VcpuState::store_msrs(const CpuState& state, const CpuState* before) noexcept
{
    CpuState now = state;
    CpuState old = before == nullptr ? state : *before;
    MsrList list;
    for (const std::size_t i : msrs_) {
        const std::uint64_t value = fields[i].field(now);
        if (before != nullptr) {
            // The counter goes on by itself, unless the guest wrote it; the deadline is served
            // by KVM all the time.
            if (fields[i].index == msr::IA32_TIME_STAMP_COUNTER) {
                if (before->tsc_adjust == state.tsc_adjust) continue;
            } else if (fields[i].index == msr::IA32_TSC_DEADLINE ||
                       fields[i].field(old) == value) {
                continue;
            }
        }
        list.entries[list.count].index = fields[i].index;
        list.entries[list.count++].data = value;
    }
    // KVM stops at the first MSR that it refuses; the rest is still to be written.
    for (std::uint32_t done = 0; done < list.count;) {
        MsrList part;
        part.count = list.count - done;
        std::copy_n(list.entries.begin() + done, part.count, part.entries.begin());
        const int written = call(fd_, request::SET_MSRS, &part);
        if (written < 0) return fail("KVM_SET_MSRS");
        done += static_cast<std::uint32_t>(written) + 1;
    }
    return true;
}

bool VcpuState::store_xsave(const CpuState& state) noexcept
{
    XsaveRegion region;
    std::copy(state.xsave.bytes.begin(), state.xsave.bytes.end(), region.bytes.begin());
    if (call(fd_, request::SET_XSAVE, &region) == 0) return true;
    // Components that this KVM's guests do not have.
    set_xstate_bv(region.bytes.data(), xstate_bv(region.bytes.data()) & 3);
    return call(fd_, request::SET_XSAVE, &region) == 0 || fail("KVM_SET_XSAVE");
}

bool VcpuState::store_events(const CpuState& state) noexcept
{
    kvm_vcpu_events events{};
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    events.nmi.pending = state.events.nmi_pending;
    events.nmi.masked = state.events.nmi_blocked;
    events.interrupt.shadow =
        state.events.interrupt_shadow ? static_cast<std::uint8_t>(KVM_X86_SHADOW_INT_STI) : 0;
    return call(fd_, KVM_SET_VCPU_EVENTS, &events) == 0 || fail("KVM_SET_VCPU_EVENTS");
}

bool VcpuState::store_activity(const x86::EventState& events) noexcept
{
    kvm_mp_state mp{};
    switch (events.activity) {
    case Activity::halted:
        mp.mp_state = events.unhalted ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_HALTED;
        break;
    case Activity::wait_for_sipi: mp.mp_state = KVM_MP_STATE_UNINITIALIZED; break;
    case Activity::running:
    case Activity::shutdown: mp.mp_state = KVM_MP_STATE_RUNNABLE; break;
    }
    return call(fd_, KVM_SET_MP_STATE, &mp) == 0 || fail("KVM_SET_MP_STATE");
}

bool VcpuState::store_debug(const CpuState& state) noexcept
{
    kvm_debugregs debug{};
    std::copy_n(state.dr.begin(), 4, debug.db);
    debug.dr6 = state.dr6;
    debug.dr7 = state.dr7;
    return call(fd_, KVM_SET_DEBUGREGS, &debug) == 0 || fail("KVM_SET_DEBUGREGS");
}

void VcpuState::store_xcr0(std::uint64_t value) noexcept
{
    kvm_xcrs xcrs{};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = value;
    // Refused when the guest's CPUID has no XSAVE: then the shadow has it.
    xcrs_ = call(fd_, KVM_SET_XCRS, &xcrs) == 0;
}

bool VcpuState::store(const CpuState& state) noexcept
{
    shadow_ = state;
    kvm_sregs sregs = sregs_of(state, 0);
    if (call(fd_, KVM_SET_SREGS, &sregs) < 0) return fail("KVM_SET_SREGS");
    kvm_regs regs = regs_of(state);
    if (call(fd_, KVM_SET_REGS, &regs) < 0) return fail("KVM_SET_REGS");
    store_xcr0(state.xcr0);
    return store_xsave(state) && store_debug(state) && store_msrs(state, nullptr) &&
           store_events(state) && store_activity(state.events);
}

bool VcpuState::store_changes(const VcpuSnapshot& before, const CpuState& state,
                              std::uint64_t cr8) noexcept
{
    const CpuState& old = before.state;
    shadow_ = state;
    kvm_sregs sregs = sregs_of(state, cr8);
    // A change of CR0, CR3, CR4 or EFER is what makes KVM drop its translations.
    if (state.cr0 == old.cr0 && state.cr3 == old.cr3 && state.cr4 == old.cr4) {
        kvm_sregs other = sregs;
        other.cr0 ^= x86::cr0::TS;
        if (call(fd_, KVM_SET_SREGS, &other) < 0) return fail("KVM_SET_SREGS");
    }
    if (call(fd_, KVM_SET_SREGS, &sregs) < 0) return fail("KVM_SET_SREGS");
    kvm_regs regs = regs_of(state);
    if (call(fd_, KVM_SET_REGS, &regs) < 0) return fail("KVM_SET_REGS");
    if (state.xcr0 != old.xcr0) store_xcr0(state.xcr0);
    if (state.xsave != old.xsave && !store_xsave(state)) return false;
    if ((state.dr != old.dr || state.dr6 != old.dr6 || state.dr7 != old.dr7) && !store_debug(state)) {
        return false;
    }
    return store_msrs(state, &old) && store_events(state) &&
           (state.events.activity == old.events.activity || store_activity(state.events));
}

}  // namespace doppel::engine::kvm
