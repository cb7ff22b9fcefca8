// Translates a snippet of assembly and shows the host code: shared by the translator's tests.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/translate/block/translation.h"
#include "engine/translate/layout.h"
#include "engine/translate/link/exec_context.h"
#include "x86/cpuid.h"

// The bytes of guest code, assembled with the test.
#define GUEST(text)                                                                      \
    ([] {                                                                                \
        const std::uint8_t *guest_begin, *guest_end;                                     \
        asm(".pushsection .rodata.guest,\"a\"\n.intel_syntax noprefix\n771: " text       \
            "\n772:\n.att_syntax\n.popsection\n lea 771b(%%rip),%0\n lea 772b(%%rip),%1" \
            : "=r"(guest_begin), "=r"(guest_end));                                       \
        return std::span<const std::uint8_t>{guest_begin, guest_end};                    \
    }())

namespace doppel::engine::translate::test {

inline constexpr Mode supervisor_mode{};
inline constexpr Mode user_mode{.user = true, .vector = true};

inline const x86::CpuidPolicy& host_policy()
{
    static const auto policy = x86::CpuidPolicy::create(x86::this_host(), 1, 1'000'000'000);
    return policy;
}

inline std::uint64_t code_address(const Mode& mode)
{
    return (mode.user ? user_code : supervisor_code) + 0x10000;
}
inline std::uint64_t common_exit_address(const Mode& mode)
{
    return mode.user ? user_code : supervisor_code;
}

inline constexpr std::uint32_t first_site = 1000, first_cell = 500;

struct Translated {
    Translation translation;
    std::vector<std::uint8_t> code;
    std::uint64_t address = 0;
    bool done = false;

    Translated(std::span<const std::uint8_t> guest, std::uint64_t rip, const Mode& mode,
               std::size_t capacity = 16384, std::span<const std::uint16_t> devices = {})
        : code(capacity), address(code_address(mode))
    {
        done = translate({rip, guest, guest.size(), mode, devices}, host_policy(),
                         {code.data(), address, capacity}, {first_site, first_cell}, common_exit_address(mode), translation);
    }
};

inline const ZydisDecoder& host_decoder()
{
    static const ZydisDecoder decoder = [] {
        ZydisDecoder made;
        ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        return made;
    }();
    return decoder;
}

inline void replace_all(std::string& text, const std::string& from, const std::string& to)
{
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
        text.replace(at, from.size(), to);
    }
}

// Engine addresses by name, numbers without leading zeros.
inline void name_addresses(std::string& text)
{
    for (std::size_t at = 0; (at = text.find("0x0", at)) != std::string::npos;) {
        const std::size_t digit = text.find_first_not_of('0', at + 2);
        if (digit == std::string::npos || std::isxdigit(text[digit]) == 0) {
            text.erase(at + 2, (digit == std::string::npos ? text.size() : digit) - at - 3);
            at += 3;
        } else {
            text.erase(at + 2, digit - at - 2);
            ++at;
        }
    }
    const std::pair<int, const char*> names[] = {
        {context_offset::slot, "slot0"},          {context_offset::slot + 8, "slot1"},
        {context_offset::slot + 16, "slot2"},     {context_offset::slot + 24, "slot3"},
        {context_offset::slot + 32, "slot4"},     {context_offset::slot + 40, "slot5"},
        {context_offset::system_flags, "system_flags"},
        {context_offset::system_flags + 1, "system_flags+1"},
        {context_offset::system_flags + 2, "system_flags+2"},
        {context_offset::exit, "exit"},           {context_offset::pending, "pending"},
        {context_offset::tsc_offset, "tsc_offset"}, {context_offset::target, "target"},
        {context_offset::branch, "branch"},
        {context_offset::target + 2, "target+2"}, {context_offset::slot + 56, "slot7"},
    };
    for (const std::uint64_t base : {supervisor_context, user_context}) {
        for (const auto& [offset, name] : names) {
            char number[32];
            std::snprintf(number, sizeof number, "[0x%lX]", base + static_cast<std::uint64_t>(offset));
            replace_all(text, number, std::string{"["} + name + "]");
        }
    }
}

// One instruction a line; the part of the code in [from, to).
inline std::string disassemble(const std::vector<std::uint8_t>& code, std::uint64_t address,
                               std::size_t from, std::size_t to)
{
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    std::string text;
    while (from < to) {
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&host_decoder(), code.data() + from, to - from,
                                                 &instruction, operands))) {
            return text + "(bad)\n";
        }
        char line[256];
        ZydisFormatterFormatInstruction(&formatter, &instruction, operands,
                                        instruction.operand_count_visible, line, sizeof line,
                                        address + from, nullptr);
        text += line;
        text += "\n";
        from += instruction.length;
    }
    name_addresses(text);
    return text;
}

}  // namespace doppel::engine::translate::test
