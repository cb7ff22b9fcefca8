// What lock-step compares, and how it says what differs.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "engine/translate/link/futex.h"
#include "engine/translate/worker/lock_step.h"
#include "x86/decoder.h"

namespace doppel::engine::translate {

namespace {

using interpret::TrialWrite;

constexpr const char* register_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr std::size_t differences_max = 32;

// Parts of the XSAVE area (SDM volume 1 section 13.4), by the component that says whether they
// are there or in their initial configuration. The last instruction's address is not compared.
struct Part {
    const char* name;
    std::uint64_t component;
    unsigned offset, size, step, count;
    bool status = false;  // what a fault may come with: MMX code empties the x87 stack first
};
constexpr unsigned legacy_st = 32, legacy_xmm = 160, header = 512;
constexpr Part parts[] = {
    {"fcw", x86::xcr0::X87, 0, 2, 0, 1},
    {"fsw", x86::xcr0::X87, 2, 2, 0, 1, true},
    {"ftw", x86::xcr0::X87, 4, 1, 0, 1, true},
    {"st", x86::xcr0::X87, legacy_st, 10, 16, 8, true},
    {"mxcsr", 0, 24, 4, 0, 1, true},
    {"xmm", x86::xcr0::SSE, legacy_xmm, 16, 16, 16},
    {"ymm_high", x86::xcr0::AVX, x86::xsave_offset_avx, 16, 16, 16},
    {"k", x86::xcr0::OPMASK, x86::xsave_offset_opmask, 8, 8, 8},
    {"zmm_high", x86::xcr0::ZMM_HI256, x86::xsave_offset_zmm_hi256, 32, 32, 16},
    {"zmm16+", x86::xcr0::HI16_ZMM, x86::xsave_offset_hi16_zmm, 64, 64, 16},
};

std::vector<std::uint8_t> value_of(const x86::XsaveArea& area, const Part& part, unsigned index)
{
    std::uint64_t present = 0;
    std::memcpy(&present, area.bytes.data() + header, sizeof present);
    const auto* first = area.bytes.data() + part.offset + part.step * index;
    std::vector<std::uint8_t> value(first, first + part.size);
    if (part.component == 0 || (present & part.component) != 0) return value;
    std::fill(value.begin(), value.end(), std::uint8_t{0});
    if (part.offset == 0) value = {0x7f, 0x03};  // FCW
    return value;
}

template <typename Bytes>
std::string hex(const Bytes& bytes)
{
    std::string text;
    for (const auto byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
    return text;
}

}  // namespace

void LockStep::differ(std::string what)
{
    if (differences_.size() < differences_max) differences_.push_back(std::move(what));
}

void LockStep::compare_registers(const Boundary& expected, const Allowance& allowed)
{
    const auto check = [this](const char* name, std::uint64_t is, std::uint64_t should_be) {
        if (is != should_be) differ(fmt::format("{} is {:#x}, not {:#x}", name, is, should_be));
    };
    for (unsigned i = 0; i < 16; ++i) {
        check(register_names[i], registers_.gpr[i], expected.gpr[i]);
    }
    check("rflags", interpreter_.rflags() & ~allowed.flags, expected.rflags & ~allowed.flags);
    check("fs.base", registers_.state->segments[x86::FS].base, expected.fs_base);
    check("gs.base", registers_.state->segments[x86::GS].base, expected.gs_base);
    check("kernel_gs_base", registers_.state->kernel_gs_base, expected.kernel_gs_base);
}

void LockStep::compare_vectors(const x86::XsaveArea& expected, bool status)
{
    const x86::XsaveArea& actual = registers_.state->xsave;
    for (const Part& part : parts) {
        if (part.status && !status) continue;
        for (unsigned i = 0; i < part.count; ++i) {
            const auto is = value_of(actual, part, i);
            const auto should_be = value_of(expected, part, i);
            if (is == should_be) continue;
            differ(fmt::format("{}{} is {}, not {} (lowest byte first)", part.name,
                               part.count > 1 ? std::to_string(i) : "", hex(is), hex(should_be)));
        }
    }
}

// RAM as the first so many writes left it: those written, the others not.
void LockStep::compare_memory(std::size_t done)
{
    const auto& writes = interpreter_.trial_writes();
    for (std::size_t i = 0; i < writes.size(); ++i) {
        const TrialWrite& write = writes[i];
        if (write.page_table) continue;
        const std::vector<std::byte>& from = i < done ? after_ : interpreter_.trial_before();
        const std::byte* const is = memory_.ram() + write.ram_offset;
        const std::byte* const should_be = from.data() + write.before;
        if (std::memcmp(is, should_be, write.size) == 0) continue;
        for (std::uint32_t byte = 0; byte < write.size; ++byte) {
            const std::uint64_t at = write.ram_offset + byte;
            if (is[byte] == should_be[byte]) continue;
            // The last of those that were written decides, and the first of those that were not.
            if (i < done ? settled(at, i + 1, done) : settled(at, 0, i)) continue;
            differ(fmt::format("RAM at {:#x} is {:#04x}, not {:#04x}", at,
                               static_cast<unsigned>(is[byte]),
                               static_cast<unsigned>(should_be[byte])));
        }
    }
}

void LockStep::report(const Boundary* expected)
{
    if (disturbed() && ++disturbed_[due_] < disturbed_max) {
        ++counts_.disturbed;
        seen_.erase(due_);
        return;
    }
    difference_ = describe(expected);
}

bool LockStep::disturbed() const
{
    const std::uint64_t end = monotonic_ns() + watch_ns_;
    do {
        if (interpreter_.trial_disturbed()) return true;
    } while (monotonic_ns() < end);
    return false;
}

std::string LockStep::describe(const Boundary* expected) const
{
    const Boundary& first = boundaries_.front();
    std::string text = fmt::format(
        "Lock-step: translated code does something else than the interpreter.\n"
        "Block at {:#x}, {} code{}{}{}, {} instructions:\n",
        first.rip, mode_.user ? "user" : "supervisor", mode_.privileged ? ", privileged" : "",
        mode_.vector ? ", vector" : "",
        mode_.gs_free ? ", GS free" : "", instructions_.size());
    for (const Instruction& instruction : instructions_) {
        const std::span bytes{code_.data() + instruction.offset, instruction.length};
        const std::uint64_t rip = first.rip + instruction.offset;
        text += fmt::format("  {:#x}  {:<24} {}\n", rip, hex(bytes),
                            x86::disassemble(bytes, x86::CodeWidth::bits64, rip));
    }
    if (expected == nullptr) {
        text += "The interpreter came by";
        for (const Boundary& boundary : boundaries_) text += fmt::format(" {:#x}", boundary.rip);
        text += "\n";
    }
    text += fmt::format("It was left at {:#x}. Differences, translated first:\n", *registers_.rip);
    for (const std::string& difference : differences_) text += "  " + difference + "\n";
    text += "            before           interpreter      translated\n";
    const auto row = [&text, expected](const char* name, std::uint64_t before,
                                       std::uint64_t should_be, std::uint64_t is) {
        const std::string middle = expected == nullptr ? "-" : fmt::format("{:016x}", should_be);
        text += fmt::format("  {:<8}  {:016x} {:<16} {:016x}\n", name, before, middle, is);
    };
    const Boundary& middle = expected == nullptr ? first : *expected;
    for (unsigned i = 0; i < 16; ++i) {
        row(register_names[i], first.gpr[i], middle.gpr[i], registers_.gpr[i]);
    }
    row("rip", first.rip, middle.rip, *registers_.rip);
    row("rflags", first.rflags, middle.rflags, interpreter_.rflags());
    return text;
}

void LockStep::counters(base::CounterList& list) const
{
    list.add("lock_step.blocks", counts_.checked);
    list.add("lock_step.user_blocks", counts_.user);
    list.add("lock_step.instructions", counts_.instructions);
    list.add("lock_step.writes", counts_.writes);
    list.add("lock_step.partly", counts_.partly);
    list.add("lock_step.abandoned", counts_.abandoned);
    list.add("lock_step.disturbed", counts_.disturbed);
}

}  // namespace doppel::engine::translate
