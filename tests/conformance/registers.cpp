// Registers by name, for the `in` and `out` directives.
#include <charconv>
#include <cstring>

#include "bare_machine.h"

namespace doppel::conformance {

using x86::CpuState;

namespace {

constexpr std::string_view gpr_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr std::string_view segment_names[] = {"es", "cs", "ss", "ds", "fs", "gs"};

struct Field {
    std::string_view name;
    std::uint64_t CpuState::*member;
};
constexpr Field fields[] = {
    {"rip", &CpuState::rip}, {"rflags", &CpuState::rflags}, {"cr0", &CpuState::cr0},
    {"cr2", &CpuState::cr2}, {"cr3", &CpuState::cr3}, {"cr4", &CpuState::cr4},
    {"efer", &CpuState::efer}, {"dr6", &CpuState::dr6}, {"dr7", &CpuState::dr7},
    {"xcr0", &CpuState::xcr0}, {"star", &CpuState::star}, {"lstar", &CpuState::lstar},
    {"cstar", &CpuState::cstar}, {"fmask", &CpuState::fmask},
    {"kernel_gs_base", &CpuState::kernel_gs_base}, {"sysenter_cs", &CpuState::sysenter_cs},
    {"sysenter_esp", &CpuState::sysenter_esp}, {"sysenter_eip", &CpuState::sysenter_eip},
    {"pat", &CpuState::pat}, {"tsc_aux", &CpuState::tsc_aux},
};

// A writable place of eight bytes for a name, or nullptr.
std::uint8_t* xmm_half(CpuState& state, std::string_view name)
{
    if (!name.starts_with("xmm") || name.size() < 5) return nullptr;
    const char half = name.back();
    unsigned index = 0;
    const auto* first = name.data() + 3;
    const auto parsed = std::from_chars(first, name.data() + name.size() - 1, index);
    if (parsed.ec != std::errc{} || index > 15 || (half != 'l' && half != 'h')) return nullptr;
    return state.xsave.bytes.data() + 160 + 16 * index + (half == 'h' ? 8 : 0);
}

}  // namespace

bool set_register(CpuState& state, std::string_view name, std::uint64_t value)
{
    for (std::size_t i = 0; i < 16; ++i) {
        if (name == gpr_names[i]) return state.gpr[i] = value, true;
    }
    for (const Field& field : fields) {
        if (name == field.name) return state.*field.member = value, true;
    }
    for (std::size_t i = 0; i < 6; ++i) {
        const std::string prefix{segment_names[i]};
        auto& segment = state.segments[i];
        if (name == prefix) return segment.selector = static_cast<std::uint16_t>(value), true;
        if (name == prefix + ".base") return segment.base = value, true;
        if (name == prefix + ".limit") return segment.limit = static_cast<std::uint32_t>(value), true;
        if (name == prefix + ".attributes") return segment.attributes = static_cast<std::uint32_t>(value), true;
    }
    for (std::size_t i = 0; i < 4; ++i) {
        if (name == "dr" + std::to_string(i)) return state.dr[i] = value, true;
    }
    if (std::uint8_t* place = xmm_half(state, name)) {
        std::memcpy(place, &value, sizeof value);
        return true;
    }
    if (name == "mxcsr") return std::memcpy(state.xsave.bytes.data() + 24, &value, 4), true;
    if (name == "fcw") return std::memcpy(state.xsave.bytes.data(), &value, 2), true;
    return false;
}

std::optional<std::uint64_t> get_register(const CpuState& state, std::string_view name)
{
    for (std::size_t i = 0; i < 16; ++i) {
        if (name == gpr_names[i]) return state.gpr[i];
    }
    for (const Field& field : fields) {
        if (name == field.name) return state.*field.member;
    }
    for (std::size_t i = 0; i < 6; ++i) {
        const std::string prefix{segment_names[i]};
        const auto& segment = state.segments[i];
        if (name == prefix) return segment.selector;
        if (name == prefix + ".base") return segment.base;
        if (name == prefix + ".limit") return segment.limit;
        if (name == prefix + ".attributes") return segment.attributes;
    }
    for (std::size_t i = 0; i < 4; ++i) {
        if (name == "dr" + std::to_string(i)) return state.dr[i];
    }
    CpuState copy = state;
    std::uint64_t value = 0;
    if (const std::uint8_t* place = xmm_half(copy, name)) {
        std::memcpy(&value, place, sizeof value);
        return value;
    }
    if (name == "mxcsr") return std::memcpy(&value, copy.xsave.bytes.data() + 24, 4), value;
    if (name == "fcw") return std::memcpy(&value, copy.xsave.bytes.data(), 2), value;
    if (name == "fsw") return std::memcpy(&value, copy.xsave.bytes.data() + 2, 2), value;
    if (name == "tr") return state.tr.selector;
    if (name == "ldtr") return state.ldtr.selector;
    if (name == "cpl") return state.cpl();
    if (name == "gdtr.base") return state.gdtr.base;
    if (name == "gdtr.limit") return state.gdtr.limit;
    if (name == "idtr.base") return state.idtr.base;
    if (name == "idtr.limit") return state.idtr.limit;
    return std::nullopt;
}

}  // namespace doppel::conformance
