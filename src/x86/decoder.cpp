#include "x86/decoder.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace doppel::x86 {

namespace {

constexpr std::size_t max_length = 15;

ZydisDecoder decoder_for(CodeWidth width)
{
    ZydisDecoder decoder;
    switch (width) {
    case CodeWidth::bits16:
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
        break;
    case CodeWidth::bits32:
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        break;
    case CodeWidth::bits64:
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        break;
    }
    return decoder;
}

}  // namespace

CodeWidth code_width(const CpuState& state)
{
    if (!state.protected_mode() || state.vm86()) {
        // Real mode keeps CS.D across a return from protected mode.
        return state.segments[CS].db() && !state.vm86() ? CodeWidth::bits32 : CodeWidth::bits16;
    }
    if (state.code64()) return CodeWidth::bits64;
    return state.segments[CS].db() ? CodeWidth::bits32 : CodeWidth::bits16;
}

unsigned instruction_length(std::span<const std::uint8_t> bytes, CodeWidth width) noexcept
{
    const ZydisDecoder decoder = decoder_for(width);
    ZydisDecodedInstruction instruction;
    const auto status = ZydisDecoderDecodeInstruction(&decoder, nullptr, bytes.data(), bytes.size(),
                                                      &instruction);
    return ZYAN_SUCCESS(status) ? instruction.length : 0;
}

std::string disassemble(std::span<const std::uint8_t> bytes, CodeWidth width, std::uint64_t rip)
{
    if (bytes.empty()) return "(no bytes)";
    const ZydisDecoder decoder = decoder_for(width);
    ZydisDecodedInstruction instruction;
    std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;
    std::array<char, 160> text{};
    ZydisFormatter formatter;
    const bool formatted =
        ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes.data(), bytes.size(), &instruction,
                                            operands.data())) &&
        ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) &&
        ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &instruction, operands.data(),
                                                     instruction.operand_count_visible, text.data(),
                                                     text.size(), rip, nullptr));
    if (formatted) return text.data();
    std::string hex = "(bad)";
    for (const std::uint8_t byte : bytes.first(std::min(bytes.size(), max_length))) {
        hex += fmt::format(" {:02x}", byte);
    }
    return hex;
}

}  // namespace doppel::x86
