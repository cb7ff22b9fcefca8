// A vCPU in 64-bit mode over identity-mapped memory, and the same instruction run directly
// on the host, for the thunk tests.
#pragma once

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bus/manual_clock.h"
#include "engine/interpret/block_cache.h"
#include "engine/interpret/core.h"
#include "engine/interpret/lower.h"
#include "engine/interpret/thunk/assembler.h"
#include "engine/interpret/thunk/host_fault.h"
#include "engine/interpret/thunk/thunk.h"
#include "engine/interpret/thunk/vector_state.h"
#include "memory/guest_memory.h"
#include "x86/cpuid.h"

namespace doppel::engine::interpret {

using Bytes = std::vector<std::uint8_t>;

// "0f 58 c1" or "0f58c1".
inline Bytes hex(std::string_view text)
{
    Bytes bytes;
    std::string digits;
    for (const char c : text) {
        if (c == ' ') continue;
        digits.push_back(c);
        if (digits.size() == 2) {
            bytes.push_back(static_cast<std::uint8_t>(std::stoul(digits, nullptr, 16)));
            digits.clear();
        }
    }
    return bytes;
}

// Linear addresses 0 - 4 MiB map to the same guest-physical addresses, 4 KiB pages,
// supervisor, but for the page at `hole`.
class ThunkMachine {
public:
    static constexpr std::uint64_t ram = 4u << 20;
    static constexpr std::uint64_t data = 0x200000, hole = 0x210000;

    ThunkMachine()
        : memory(std::move(memory::GuestMemory::create(ram)).value()),
          cpuid(x86::CpuidPolicy::create(x86::this_host(), 1, 1'000'000'000)),
          core(std::make_unique<Core>(*memory, clock, cpuid))
    {
        EXPECT_TRUE(memory->add_slot(base::Gpa{0}, ram, 0));
        blocks = std::make_unique<BlockCache>(*core, *memory);
        core->blocks = blocks.get();
        build_page_tables();
        enter_long_mode();
    }
    ~ThunkMachine() { destroy_thunks(*core); }
    ThunkMachine(const ThunkMachine&) = delete;
    ThunkMachine& operator=(const ThunkMachine&) = delete;

    static x86::CpuState long_mode_state(std::uint64_t xcr0)
    {
        using namespace x86;
        CpuState state = reset_state(true);
        state.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::PG | cr0::WP | cr0::MP;
        state.cr3 = 0x10000;
        state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        state.efer = efer::LME | efer::LMA | efer::NXE;
        state.xcr0 = xcr0;
        for (auto& segment : state.segments) {
            segment = {};
            segment.attributes = 0x93 | segment_attributes::DB | segment_attributes::G;
            segment.limit = 0xffffffff;
        }
        state.segments[CS].attributes = 0x9b | segment_attributes::L | segment_attributes::G;
        state.rip = 0x1000;
        return state;
    }
    void enter_long_mode() { core->import_state(long_mode_state(cpuid.xcr0_mask())); }

    // Outside 64-bit mode, without paging. code_bits: 16 or 32.
    void enter_legacy_mode(unsigned code_bits, bool protected_mode)
    {
        x86::CpuState state = long_mode_state(cpuid.xcr0_mask());
        state.cr0 &= ~(x86::cr0::PG | (protected_mode ? 0 : x86::cr0::PE));
        state.efer = 0;
        state.segments[x86::CS].attributes = 0x9b | x86::segment_attributes::G;
        if (code_bits == 32) state.segments[x86::CS].attributes |= x86::segment_attributes::DB;
        core->import_state(state);
    }

    // Decodes and lowers one instruction as thunk/ sees it. False: nobody's, #UD.
    bool lower(const Bytes& bytes, Op& op)
    {
        ZydisDecoder decoder;
        const bool bits64 = core->code_size == CodeSize::bits64;
        const bool bits32 = core->code_size == CodeSize::bits32;
        ZydisDecoderInit(&decoder,
                         bits64   ? ZYDIS_MACHINE_MODE_LONG_64
                         : bits32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                  : ZYDIS_MACHINE_MODE_LEGACY_16,
                         bits64   ? ZYDIS_STACK_WIDTH_64
                         : bits32 ? ZYDIS_STACK_WIDTH_32
                                  : ZYDIS_STACK_WIDTH_16);
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes.data(), bytes.size(), &instruction,
                                                 operands))) {
            return false;
        }
        op = {};
        op.length = instruction.length;
        op.operand_size = static_cast<std::uint8_t>(instruction.operand_width / 8);
        op.address_size = static_cast<std::uint8_t>(instruction.address_width / 8);
        for (unsigned i = 0; i < instruction.operand_count_visible; ++i) {
            if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
            const auto& mem = operands[i].mem;
            op.memory = true;
            op.segment = static_cast<std::uint8_t>(mem.segment - ZYDIS_REGISTER_ES);
            op.displacement = mem.disp.has_displacement ? mem.disp.value : 0;
            if (mem.base != ZYDIS_REGISTER_NONE) {
                op.base = static_cast<std::uint8_t>(ZydisRegisterGetId(mem.base));
            }
            if (mem.index != ZYDIS_REGISTER_NONE && mem.type == ZYDIS_MEMOP_TYPE_MEM) {
                op.index = static_cast<std::uint8_t>(ZydisRegisterGetId(mem.index));
            }
        }
        const Decoded decoded{instruction,
                              {operands, instruction.operand_count},
                              {bytes.data(), instruction.length},
                              core->code_size,
                              core->state.rip};
        return lower_thunk(decoded, op, *core);
    }

    // Runs one instruction; what nobody knows is #UD.
    Flow run(const Bytes& bytes)
    {
        Op op;
        if (!lower(bytes, op)) return core->raise(x86::Vector::UD);
        return op.run(*core, op);
    }
    Flow run(std::string_view text) { return run(hex(text)); }

    [[nodiscard]] std::byte* host(std::uint64_t linear) const { return memory->ram() + linear; }
    template <typename T>
    [[nodiscard]] T peek(std::uint64_t linear) const
    {
        T value;
        std::memcpy(&value, host(linear), sizeof value);
        return value;
    }
    template <typename T>
    void poke(std::uint64_t linear, T value)
    {
        std::memcpy(host(linear), &value, sizeof value);
    }
    template <typename T>
    void set_vector(unsigned reg, std::initializer_list<T> values)
    {
        thunk::ensure_present(core->state.xsave, x86::xcr0::SUPPORTED);
        std::array<std::uint8_t, 64> bytes{};
        std::memcpy(bytes.data(), std::data(values), sizeof(T) * values.size());
        thunk::write_vector(core->state.xsave, reg, bytes);
    }
    template <typename T>
    [[nodiscard]] T vector_element(unsigned reg, unsigned index) const
    {
        std::array<std::uint8_t, 64> bytes{};
        thunk::read_vector(core->state.xsave, reg, bytes);
        T value;
        std::memcpy(&value, bytes.data() + sizeof(T) * index, sizeof value);
        return value;
    }
    void set_mask(unsigned reg, std::uint64_t value)
    {
        thunk::ensure_present(core->state.xsave, x86::xcr0::SUPPORTED);
        thunk::xsave_set(core->state.xsave, x86::xsave_offset_opmask + 8 * reg, value);
    }
    [[nodiscard]] std::uint32_t mxcsr() const
    {
        return thunk::xsave_get<std::uint32_t>(core->state.xsave, thunk::xsave_mxcsr);
    }
    void set_mxcsr(std::uint32_t value)
    {
        thunk::xsave_set(core->state.xsave, thunk::xsave_mxcsr, value);
    }

    std::unique_ptr<memory::GuestMemory> memory;
    bus::ManualClock clock;
    x86::CpuidPolicy cpuid;
    std::unique_ptr<Core> core;
    std::unique_ptr<BlockCache> blocks;

private:
    void build_page_tables()
    {
        poke<std::uint64_t>(0x10000, 0x11000 | 7);
        poke<std::uint64_t>(0x11000, 0x12000 | 7);
        for (std::uint64_t table = 0; table < 2; ++table) {
            poke<std::uint64_t>(0x12000 + 8 * table, (0x13000 + 0x1000 * table) | 7);
        }
        for (std::uint64_t page = 0; page < ram >> 12; ++page) {
            poke<std::uint64_t>(0x13000 + 8 * page, page << 12 == hole ? 0 : page << 12 | 3);
        }
    }
};

}  // namespace doppel::engine::interpret
