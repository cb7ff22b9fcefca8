#include "x86/check_state.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace doppel::x86 {

namespace {

constexpr std::uint64_t cr0_bits = cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE |
                                   cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;
constexpr std::uint64_t cr4_bits =
    cr4::VME | cr4::PVI | cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::MCE | cr4::PGE |
    cr4::PCE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::UMIP | cr4::LA57 | cr4::FSGSBASE |
    cr4::PCIDE | cr4::OSXSAVE | cr4::SMEP | cr4::SMAP | cr4::PKE;
constexpr std::uint64_t efer_bits = efer::SCE | efer::LME | efer::LMA | efer::NXE;
constexpr std::uint64_t rflags_bits = rflags::STATUS | rflags::RESERVED1 | rflags::TF |
                                      rflags::IF | rflags::DF | rflags::IOPL | rflags::NT |
                                      rflags::RF | rflags::VM | rflags::AC | rflags::VIF |
                                      rflags::VIP | rflags::ID;

constexpr std::size_t mxcsr_offset = 24, header_offset = 512, header_size = 64;
constexpr std::uint32_t mxcsr_bits = 0xffff;

bool control_registers_possible(const CpuState& state)
{
    const bool paging = (state.cr0 & cr0::PG) != 0;
    const bool lma = paging && (state.efer & efer::LME) != 0;
    return (state.cr0 & ~cr0_bits) == 0 && (state.cr4 & ~cr4_bits) == 0 &&
           (state.efer & ~efer_bits) == 0 && !(paging && (state.cr0 & cr0::PE) == 0) &&
           !((state.cr0 & cr0::NW) != 0 && (state.cr0 & cr0::CD) == 0) &&
           lma == ((state.efer & efer::LMA) != 0) && !(lma && (state.cr4 & cr4::PAE) == 0);
}

bool xsave_area_possible(const XsaveArea& area, std::uint64_t components)
{
    std::uint32_t mxcsr = 0;
    std::memcpy(&mxcsr, area.bytes.data() + mxcsr_offset, sizeof mxcsr);
    std::uint64_t present = 0;
    const std::uint8_t* const header = area.bytes.data() + header_offset;
    std::memcpy(&present, header, sizeof present);
    const bool rest_zero = std::all_of(header + sizeof present, header + header_size,
                                       [](std::uint8_t byte) { return byte == 0; });
    return (mxcsr & ~mxcsr_bits) == 0 && (present & ~components) == 0 && rest_zero;
}

// A bool or an enum that somebody else wrote may hold what no such object can: by its byte.
template <typename T>
unsigned byte_of(const T& value)
{
    static_assert(sizeof value == 1);
    std::uint8_t byte = 0;
    std::memcpy(&byte, &value, 1);
    return byte;
}

bool events_possible(const EventState& events)
{
    return byte_of(events.activity) <= static_cast<unsigned>(Activity::shutdown) &&
           byte_of(events.interrupt_shadow) <= 1 && byte_of(events.nmi_pending) <= 1 &&
           byte_of(events.nmi_blocked) <= 1 && byte_of(events.unhalted) <= 1;
}

}  // namespace

base::Result<void> check_state(const CpuState& state, const CpuidPolicy& cpuid)
{
    if (!control_registers_possible(state)) {
        return base::io_error("The state of the CPU has impossible control registers");
    }
    if ((state.rflags & ~rflags_bits) != 0) {
        return base::io_error("The state of the CPU has impossible RFLAGS");
    }
    if ((state.xcr0 & xcr0::X87) == 0 || (state.xcr0 & ~cpuid.xcr0_mask()) != 0 || state.xss != 0) {
        return base::io_error("The state of the CPU has an impossible XCR0 or IA32_XSS");
    }
    if (!xsave_area_possible(state.xsave, cpuid.xcr0_mask())) {
        return base::io_error("The state of the CPU has an impossible XSAVE area");
    }
    if (!events_possible(state.events)) {
        return base::io_error("The state of the CPU has impossible events");
    }
    return {};
}

}  // namespace doppel::x86
