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

// In 32-bit code also over the end of the 4 GiB.
bool leads_forward(const Source& source, std::uint64_t target, std::size_t at)
{
    const std::uint64_t distance = target - (source.rip + at);
    const auto low = static_cast<std::int32_t>(distance);
    return (source.mode.code32 ? low : static_cast<std::int64_t>(distance)) > 0;
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
        if (source.mode.user && block.count != 0 && at + instruction.length > own) return;
        if (is_device(source, at)) instruction.kind = Kind::device;
        instruction.offset = static_cast<std::uint16_t>(at);
        at += instruction.length;
        ++block.count;
        // A branch back is a loop's, mostly taken.
        instruction.goes_on = instruction.kind == Kind::conditional && branches < most_branches &&
                              leads_forward(source, instruction.immediate, at);
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
               Numbers first, std::uint64_t common_exit, Translation& result)
{
    result.size = result.hot_size = result.cold = result.guest_bytes = result.count = 0;
    result.branch_rsp = 0;
    result.cells = result.by_cell = 0;
    result.points.clear();
    result.displaced.clear();
    result.exits.clear();
    result.relocations.clear();

    Decoded block;
    decode_block(source, cpuid, block);
    Code code{space, source.mode.user};
    const bool own = source.mode.user && !source.mode.privileged;
    if (own && place_for_move(source.rip, source.mode)) code.record_relocations(&result.relocations);
    Lowering lowering{source, code, first, common_exit, result};
    const bool done =
        lowering.run(std::span{block.instructions}.first(block.count), block.follows);
    result.movable = done && code.recorded();
    return done;
}

// Far from where addresses, or differences of 31 bits to them, fit in 32 bits or are not canonical.
// And constants that LEA has no shorter form for. 32-bit code has one form of everything.
bool place_for_move(std::uint64_t rip, Mode mode)
{
    if (mode.code32) return host_has_rorx();
    constexpr std::uint64_t first = std::uint64_t{1} << 40;
    constexpr std::uint64_t last = (std::uint64_t{1} << 47) - (std::uint64_t{1} << 32);
    const auto has_long_form = [](std::int32_t value) { return value < -128 || value > 127; };
    const auto [low, high] = page_constants(rip);
    return rip >= first && rip <= last && has_long_form(low) && has_long_form(high);
}

void move(std::span<const Relocation> relocations, const Move& how, std::uint8_t* code)
{
    const std::uint64_t guest = how.to_rip - how.from_rip;
    const auto all = static_cast<std::uint32_t>(how.to_host - how.from_host);
    const std::uint32_t apart = how.to_cold - how.from_cold;
    const auto [page_low, page_high] = page_constants(how.to_rip);
    for (const Relocation& each : relocations) {
        const bool cold = each.offset >= how.from_cold;
        const std::uint32_t host = cold ? all + apart : all;
        std::uint8_t* const at = code + (cold ? each.offset + apart : each.offset);
        if (each.kind == Relocation::Kind::guest) {
            std::uint64_t address;
            std::memcpy(&address, at, sizeof address);
            address += guest;
            std::memcpy(at, &address, sizeof address);
            continue;
        }
        std::uint32_t value;
        std::memcpy(&value, at, sizeof value);
        switch (each.kind) {
        case Relocation::Kind::guest: break;
        case Relocation::Kind::guest32: value += static_cast<std::uint32_t>(guest); break;
        case Relocation::Kind::fixed: value -= host; break;
        case Relocation::Kind::here: value += host; break;
        case Relocation::Kind::site: value += how.to.site - how.from.site; break;
        case Relocation::Kind::cold: value += apart; break;
        case Relocation::Kind::cell: value += (how.to.cell - how.from.cell) * 8 - host; break;
        case Relocation::Kind::page_low: value = static_cast<std::uint32_t>(page_low); break;
        case Relocation::Kind::page_high: value = static_cast<std::uint32_t>(page_high); break;
        }
        std::memcpy(at, &value, sizeof value);
    }
}

}  // namespace doppel::engine::translate
