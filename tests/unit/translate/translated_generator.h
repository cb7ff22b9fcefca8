// Random instructions for comparing a translation with the processor.
#pragma once

#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "engine/translate/lower/instruction.h"
#include "translated_code.h"

namespace doppel::engine::translate::test {

// Random bytes that are one valid instruction, memory operands in reach: [rbx + disp8],
// [rip + disp32] into the two data pages, [rsp + disp8].
class Generator {
public:
    Generator(unsigned seed, const Mode& mode, std::uint64_t data)
        : random_(seed), mode_(mode), data_(data)
    {
    }
    unsigned below(unsigned bound)
    {
        return std::uniform_int_distribution<unsigned>{0, bound - 1}(random_);
    }
    std::uint64_t value()
    {
        return std::uint64_t{below(~0u)} * (below(2) + 1) * below(~0u);
    }

    std::vector<std::uint8_t> instruction(std::uint64_t rip)
    {
        for (;;) {
            std::vector<std::uint8_t> bytes = candidate();
            Instruction decoded;
            if (decode(bytes, rip, mode_, host_policy(), decoded) != Decoding::decoded) continue;
            if (decoded.kind != Kind::plain && decoded.kind != Kind::lea &&
                decoded.kind != Kind::string && decoded.kind != Kind::nothing) {
                continue;
            }
            if (decoded.mnemonic == ZYDIS_MNEMONIC_CLAC) continue;  // the host would not
            if (decoded.rsp_written || decoded.segment != Segment::none || unpredictable(decoded)) {
                continue;
            }
            bytes.resize(decoded.length);
            if (!mode_.user && computes_with_pointers(bytes, decoded)) continue;
            if (decoded.base == rip_register) aim(bytes, decoded, rip);
            if (decoded.memory && decoded.kind == Kind::plain && decoded.base != rip_register &&
                (decoded.index != no_register || decoded.far_index ||
                 (decoded.base != rbx && decoded.base != rsp))) {
                continue;
            }
            return bytes;
        }
    }

private:
    static bool unpredictable(const Instruction& decoded)
    {
        switch (decoded.mnemonic) {
        case ZYDIS_MNEMONIC_RDRAND: case ZYDIS_MNEMONIC_RDSEED: case ZYDIS_MNEMONIC_STD:
        case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FLDENV:
        case ZYDIS_MNEMONIC_FRSTOR:
            return true;
        case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR:
        case ZYDIS_MNEMONIC_BTC:
            // A bit number from a register reaches out to memory that is not the test's.
            return decoded.memory && decoded.opcode != 0xba;
        default:
            return decoded.kind == Kind::string && decoded.repeat != 0;
        }
    }
    // Supervisor code is compared with code at other addresses: pointers may only be followed.
    static bool computes_with_pointers(std::span<const std::uint8_t> bytes, const Instruction& decoded)
    {
        if (decoded.kind == Kind::string) return false;
        if (decoded.kind == Kind::lea) {
            return decoded.base == rip_register || decoded.uses(rbx) || decoded.uses(rsp) ||
                   decoded.uses(rsi) || decoded.uses(rdi);
        }
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecoderDecodeFull(&host_decoder(), bytes.data(), bytes.size(), &instruction, operands);
        for (unsigned i = 0; i < instruction.operand_count; ++i) {
            if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
            const bool hidden = operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
            switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
                                                     operands[i].reg.value)) {
            case ZYDIS_REGISTER_RSP:
                if (!hidden) return true;
                break;
            case ZYDIS_REGISTER_RBX: case ZYDIS_REGISTER_RSI: case ZYDIS_REGISTER_RDI:
                return true;
            default:
                break;
            }
        }
        return false;
    }
    // The displacement of a RIP-relative operand leads to the data.
    void aim(std::vector<std::uint8_t>& bytes, const Instruction& decoded, std::uint64_t rip)
    {
        const std::uint64_t target = data_ + 64 + below(126) * 64;
        const auto displacement = static_cast<std::uint32_t>(target - (rip + bytes.size()));
        std::memcpy(bytes.data() + decoded.behind_operand - 4, &displacement, 4);
    }
    std::vector<std::uint8_t> candidate()
    {
        std::vector<std::uint8_t> bytes;
        const auto put = [&bytes](unsigned value) { bytes.push_back(static_cast<std::uint8_t>(value)); };
        const auto any = [this] { return below(256); };
        if (below(6) == 0) put(0x66);
        if (below(8) == 0) put(0xf2 + below(2));
        if (below(16) == 0) put(0xf0);
        const unsigned kind = below(10);
        if (kind < 6) {
            if (below(2) != 0) put(0x40 | below(16));
            if (kind >= 3) put(0x0f);
            if (kind == 4) put(0x38);
            if (kind == 5) put(0x3a);
            put(any());
        } else if (kind == 6) {
            put(0xc5);
            put(any());
            put(any());
        } else if (kind == 7) {
            put(0xc4);
            put((any() & 0xe0) | (1 + below(3)));
            put(any());
            put(any());
        } else {
            put(0x62);
            put((any() & 0xf0) | (1 + below(3)));
            put(any() | 4);
            put(any());
            put(any());
        }
        switch (below(4)) {
        case 0: put(0xc0 | any()); break;
        case 1: put(0x05 | (any() & 0x38)); break;                      // [rip + disp32]
        case 2: put(0x43 | (any() & 0x38)); put(any() & 0x70); break;  // [rbx + disp8]
        default: put(0x44 | (any() & 0x38)); put(0x24); put(any() & 0x70); break;
        }
        while (bytes.size() < 15) put(any());
        return bytes;
    }

    std::mt19937 random_;
    Mode mode_;
    std::uint64_t data_;
};

}  // namespace doppel::engine::translate::test
