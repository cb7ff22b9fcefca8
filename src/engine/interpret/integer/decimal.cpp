// DAA DAS AAA AAS AAM AAD: gone from 64-bit mode, so the host cannot run them; SDM volume 2's
// pseudocode, with the undefined flags as processors of this family give them.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

constexpr std::uint8_t AH = 16;

bool flag(const Core& core, unsigned mask)
{
    return (core.flags & mask) != 0;
}

// SF, ZF and PF of a byte; OF clear; CF and AF given.
void set_result_flags(Core& core, std::uint8_t result, bool carry, bool adjust)
{
    Flags flags = 0;
    Test::run<std::uint8_t>(result, result, flags);
    unsigned packed_flags = flags & ~(packed::CF | packed::AF | packed::OF);
    if (carry) packed_flags |= packed::CF;
    if (adjust) packed_flags |= packed::AF;
    core.flags = static_cast<Flags>(packed_flags);
}

template <bool subtract>
Flow daa_das(Core& core, const Op&) noexcept
{
    const auto old = get<std::uint8_t>(core, x86::RAX);
    unsigned al = old;
    const bool old_carry = flag(core, packed::CF);
    const bool adjust = (old & 0xf) > 9 || flag(core, packed::AF);
    bool carry = false;
    if (adjust) {
        carry = old_carry || (subtract ? old < 6 : old > 0xff - 6);
        al = subtract ? al - 6 : al + 6;
    }
    if (old > 0x99 || old_carry) {
        al = subtract ? al - 0x60 : al + 0x60;
        carry = true;
    }
    const auto result = static_cast<std::uint8_t>(al);
    set(core, x86::RAX, result);
    set_result_flags(core, result, carry, adjust);
    return Flow::next;
}

template <bool subtract>
Flow aaa_aas(Core& core, const Op&) noexcept
{
    auto ax = get<std::uint16_t>(core, x86::RAX);
    const bool adjust = (ax & 0xf) > 9 || flag(core, packed::AF);
    if (adjust) ax = static_cast<std::uint16_t>(subtract ? ax - 0x106 : ax + 0x106);
    ax &= 0xff0f;
    set(core, x86::RAX, ax);
    set_result_flags(core, static_cast<std::uint8_t>(ax), adjust, adjust);
    return Flow::next;
}

Flow aam(Core& core, const Op& op) noexcept
{
    const auto base = static_cast<std::uint8_t>(op.immediate);
    if (base == 0) return core.raise(Vector::DE);
    const auto al = get<std::uint8_t>(core, x86::RAX);
    set(core, AH, static_cast<std::uint8_t>(al / base));
    const auto result = static_cast<std::uint8_t>(al % base);
    set(core, x86::RAX, result);
    set_result_flags(core, result, false, false);
    return Flow::next;
}

Flow aad(Core& core, const Op& op) noexcept
{
    const auto base = static_cast<std::uint8_t>(op.immediate);
    const unsigned sum = get<std::uint8_t>(core, x86::RAX) + get<std::uint8_t>(core, AH) * unsigned{base};
    const auto result = static_cast<std::uint8_t>(sum);
    set<std::uint16_t>(core, x86::RAX, result);
    set_result_flags(core, result, false, false);
    return Flow::next;
}

}  // namespace

Handler lower_decimal(const Decoded& decoded, Op&)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_DAA: return daa_das<false>;
    case ZYDIS_MNEMONIC_DAS: return daa_das<true>;
    case ZYDIS_MNEMONIC_AAA: return aaa_aas<false>;
    case ZYDIS_MNEMONIC_AAS: return aaa_aas<true>;
    case ZYDIS_MNEMONIC_AAM: return aam;
    case ZYDIS_MNEMONIC_AAD: return aad;
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
