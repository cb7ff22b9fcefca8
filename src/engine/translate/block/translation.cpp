#include "engine/translate/block/translation.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/translate/emit/code.h"
#include "engine/translate/lower/instruction.h"
#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

namespace {

constexpr std::size_t most_instructions = 64;
constexpr std::size_t longest = 15;
// Conditional branches that a block goes on behind. More of them save jumps and cost the
// translation of code that is never reached, or twice.
constexpr unsigned most_branches = 3;

struct Decoded {
    // A copy: guest memory may change between two looks.
    std::array<std::uint8_t, most_instructions * longest> bytes;
    std::array<Instruction, most_instructions> instructions;
    std::size_t count = 0;
    Follows follows = Follows::nothing;
};

bool is_device(const Source& source, std::size_t at)
{
    const auto offset = static_cast<std::uint16_t>((source.rip + at) & 0xfff);
    return std::find(source.devices.begin(), source.devices.end(), offset) != source.devices.end();
}

void decode_block(const Source& source, const x86::CpuidPolicy& cpuid, Decoded& block)
{
    const std::size_t size = std::min(source.bytes.size(), block.bytes.size());
    std::memcpy(block.bytes.data(), source.bytes.data(), size);
    std::size_t at = 0;
    unsigned branches = 0;
    const std::size_t own = std::min(size, source.own_bytes);
    while (block.count < most_instructions && at < own) {
        Instruction& instruction = block.instructions[block.count] = Instruction{};
        const auto rest = std::span<const std::uint8_t>{block.bytes}.subspan(at, size - at);
        if (decode(rest, source.rip + at, source.mode, cpuid, instruction) != Decoding::decoded) {
            block.follows = Follows::undecodable;
            return;
        }
        if (source.mode.user && block.count != 0 && at + instruction.length > own) {
            block.follows = Follows::crossing;
            return;
        }
        if (is_device(source, at)) instruction.kind = Kind::device;
        instruction.offset = static_cast<std::uint16_t>(at);
        at += instruction.length;
        ++block.count;
        // A branch back is a loop's, mostly taken.
        instruction.goes_on = instruction.kind == Kind::conditional && branches < most_branches &&
                              instruction.immediate > source.rip + at;
        if (instruction.goes_on) {
            ++branches;
        } else if (ends_block(instruction.kind)) {
            return;
        }
    }
    if (own == 0) block.follows = Follows::undecodable;
}

}  // namespace

bool translate(const Source& source, const x86::CpuidPolicy& cpuid, const CodeSpace& space,
               std::uint32_t first_site, std::uint64_t common_exit, Translation& result)
{
    result.size = result.hot_size = result.guest_bytes = result.count = 0;
    result.branch_rsp = 0;
    result.points.clear();
    result.displaced.clear();
    result.exits.clear();

    Decoded block;
    decode_block(source, cpuid, block);
    Code code{space, source.mode.user};
    Lowering lowering{source, code, first_site, common_exit, result};
    return lowering.run(std::span{block.instructions}.first(block.count), block.follows);
}

}  // namespace doppel::engine::translate
