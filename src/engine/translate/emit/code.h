// Writes host code: a cursor over a CodeSpace and the few instructions translations are made
// of besides the guest's own. None of them changes flags.
//
// Room is checked in steps: `room(n)` first, then at most n bytes. When it fails, the code
// overflows and nothing more is written.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "engine/translate/block/translation.h"
#include "engine/translate/layout.h"
#include "engine/translate/link/exec_context.h"

namespace doppel::engine::translate {

// General registers by their number in instructions.
enum Register : std::uint8_t { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi };
inline constexpr std::uint8_t no_register = 16;
inline constexpr std::uint8_t rip_register = 17;

inline bool fits_signed_32(std::uint64_t value)
{
    return value + 0x80000000ull <= 0xffffffffull;
}

// What subtracts the address of RIP's page from a register: the low half, as a signed number, then
// from the exchanged halves what is left of the high one.
struct PageConstants {
    std::int32_t low, high;
};
constexpr PageConstants page_constants(std::uint64_t rip)
{
    constexpr std::uint64_t page_mask = 0xfff;
    const std::uint64_t page = rip & ~page_mask;
    const auto low = static_cast<std::int32_t>(0 - static_cast<std::uint32_t>(page));
    const auto high = static_cast<std::int32_t>(
        0 - static_cast<std::uint32_t>((page + static_cast<std::uint64_t>(std::int64_t{low})) >> 32));
    return {low, high};
}

class Code {
public:
    Code(const CodeSpace& space, bool user)
        : space_(space), context_(user ? user_context : supervisor_context), end_(space.capacity)
    {
    }

    [[nodiscard]] std::uint32_t size() const { return size_; }
    [[nodiscard]] bool overflow() const { return overflow_; }
    [[nodiscard]] std::uint64_t address() const { return space_.address + size_; }
    void roll_back(std::uint32_t size)
    {
        size_ = size;
        while (relocations_ != nullptr && !relocations_->empty() &&
               relocations_->back().offset >= size) {
            relocations_->pop_back();
        }
    }

    // The last so many bytes are one.
    void relocated_before(std::uint32_t bytes, Relocation::Kind kind)
    {
        if (relocations_ == nullptr) return;
        relocations_->push_back({size_ - bytes, kind});
    }
    // The rel32 there leads to the cold part.
    void leads_to_cold(std::uint32_t at)
    {
        if (relocations_ != nullptr) relocations_->push_back({at, Relocation::Kind::cold});
    }
    // From now on; nullptr: no more, the code has something that cannot be moved.
    void record_relocations(std::vector<Relocation>* to) { relocations_ = to; }
    [[nodiscard]] bool recorded() const { return relocations_ != nullptr; }
    // What comes next is such a place.
    void relocated(Relocation::Kind kind)
    {
        relocated_before(0, kind);
    }

    bool room(std::size_t bytes)
    {
        if (end_ - size_ < bytes) overflow_ = true;
        return !overflow_;
    }
    // What comes from now on is seldom run.
    void begin_cold()
    {
        if (space_.cold == 0) return;
        size_ = space_.cold;
        end_ = space_.cold + space_.cold_capacity;
    }

    void byte(unsigned value) { space_.write[size_++] = static_cast<std::uint8_t>(value); }
    void dword(std::uint32_t value) { put(value); }
    void qword(std::uint64_t value) { put(value); }
    void bytes(const std::uint8_t* from, std::size_t count)
    {
        std::memcpy(space_.write + size_, from, count);
        size_ += static_cast<std::uint32_t>(count);
    }
    // The rel32 at offset `at` leads to offset `to`.
    void patch(std::uint32_t at, std::uint32_t to)
    {
        const std::uint32_t displacement = to - (at + 4);
        std::memcpy(space_.write + at, &displacement, sizeof displacement);
    }
    void patch_byte(std::uint32_t at, std::uint32_t to)
    {
        space_.write[at] = static_cast<std::uint8_t>(to - (at + 1));
    }

    void load_immediate(unsigned reg, std::uint64_t value)
    {
        if (value <= 0xffffffff) {
            if (reg >= 8) byte(0x41);
            byte(0xb8 | (reg & 7));
            dword(static_cast<std::uint32_t>(value));
        } else if (fits_signed_32(value)) {
            byte(0x48 | (reg >> 3));
            byte(0xc7);
            byte(0xc0 | (reg & 7));
            dword(static_cast<std::uint32_t>(value));
        } else {
            byte(0x48 | (reg >> 3));
            byte(0xb8 | (reg & 7));
            qword(value);
        }
    }
    // One that moves with the block.
    void load_guest_address(unsigned reg, std::uint64_t value)
    {
        load_immediate(reg, value);
        relocated_before(sizeof value, Relocation::Kind::guest);
    }
    void move(unsigned to, unsigned from)
    {
        byte(0x48 | (from >> 3 << 2) | (to >> 3));
        byte(0x89);
        byte(0xc0 | ((from & 7) << 3) | (to & 7));
    }
    // 64-bit moves between a register and ExecContext.
    void save(unsigned reg, int context_offset) { context_move(0x89, reg, context_offset); }
    void load(unsigned reg, int context_offset) { context_move(0x8b, reg, context_offset); }
    // The same for a value that is kept for a few instructions, in user code with GS.base at
    // user_targets. A processor that renames memory (Intel since Golden Cove) forwards it at
    // once; relative to RIP that takes five cycles. It does not pay where many stores lead to
    // one load: the processor then guesses which.
    void save_briefly(unsigned reg, int context_offset) { gs_move(0x89, reg, context_offset); }
    void load_briefly(unsigned reg, int context_offset) { gs_move(0x8b, reg, context_offset); }
    static int slot(unsigned index) { return context_offset::slot + static_cast<int>(8 * index); }

    void store_byte(int context_offset, unsigned value)
    {
        byte(0xc6);
        byte(0x05);
        context_operand(context_offset, 1);
        byte(value);
    }
    void save_low_byte_of_rax(int context_offset)
    {
        byte(0x88);
        byte(0x05);
        context_operand(context_offset, 0);
    }
    void store_dword(int context_offset, std::uint32_t value)
    {
        byte(0xc7);
        byte(0x05);
        context_operand(context_offset, 4);
        dword(value);
    }
    void store_dword(int context_offset, std::uint32_t value, Relocation::Kind kind)
    {
        store_dword(context_offset, value);
        relocated_before(4, kind);
    }
    // [rip + ...], the instruction ending `trailing` bytes behind the displacement.
    void rip_operand(std::uint64_t target, unsigned trailing,
                     Relocation::Kind kind = Relocation::Kind::fixed)
    {
        relocated(kind);
        dword(static_cast<std::uint32_t>(target - (address() + 4 + trailing)));
    }
    void context_operand(int context_offset, unsigned trailing)
    {
        rip_operand(context_ + static_cast<std::uint64_t>(context_offset), trailing);
    }

    // lea to, [base + index + displacement]; index is not RSP.
    void add_addresses(unsigned to, unsigned base, unsigned index, std::int32_t displacement = 0)
    {
        byte(0x48 | (to >> 3 << 2) | (index >> 3 << 1) | (base >> 3));
        byte(0x8d);
        const bool none = displacement == 0 && (base & 7) != rbp;
        const bool small = displacement >= -128 && displacement <= 127;
        byte((none ? 0u : small ? 0x40u : 0x80u) | ((to & 7) << 3) | 4);
        byte(((index & 7) << 3) | (base & 7));
        displace(none, small, displacement);
    }
    // lea to, [base + displacement].
    void add_constant(unsigned to, unsigned base, std::int32_t displacement)
    {
        byte(0x48 | (to >> 3 << 2) | (base >> 3));
        byte(0x8d);
        const bool none = displacement == 0 && (base & 7) != rbp;
        const bool small = displacement >= -128 && displacement <= 127;
        byte((none ? 0u : small ? 0x40u : 0x80u) | ((to & 7) << 3) | (base & 7));
        if ((base & 7) == rsp) byte(0x24);
        displace(none, small, displacement);
    }

    // mov r32, [context + offset].
    void load_dword(unsigned reg, int offset)
    {
        if (reg >= 8) byte(0x44);
        byte(0x8b);
        byte(((reg & 7) << 3) | 5);
        context_operand(offset, 0);
    }
    // The same without REX; reg below 8.
    void load_low(unsigned reg, int offset)
    {
        byte(0x8b);
        byte(0x05 | (reg << 3));
        context_operand(offset, 0);
    }

    // movzx to, from's low 16 bits
    void low_word(unsigned to, unsigned from)
    {
        if ((to | from) >= 8) byte(0x40 | (to >> 3 << 2) | (from >> 3));
        byte(0x0f);
        byte(0xb7);
        byte(0xc0 | ((to & 7) << 3) | (from & 7));
    }

    // to = first_index(from)
    void table_index(unsigned to, unsigned from)
    {
        if (!host_has_rorx()) return low_word(to, from);
        byte(0xc4);  // rorx to, from, 2; 32 bits
        byte(0xe3u & ~(to >> 3 << 7 | from >> 3 << 5));
        byte(0x7b);
        byte(0xf0);
        byte(0xc0 | ((to & 7) << 3) | (from & 7));
        byte(2);
        low_word(to, to);
    }

    // movzx r32, word [context + offset]; reg below 8.
    void load_word(unsigned reg, int offset)
    {
        byte(0x0f);
        byte(0xb7);
        byte(0x05 | (reg << 3));
        context_operand(offset, 0);
    }

    // Says where an indirect branch comes from: ExecContext::branch.
    void note_branch()
    {
        store_dword(context_offset::branch, static_cast<std::uint32_t>(address()),
                    Relocation::Kind::here);
    }
    // jmp gs:[reg*8]; reg below 8.
    void jump_through_gs(unsigned reg)
    {
        byte(0x65);
        byte(0xff);
        byte(0x24);
        byte(0xc5 | (reg << 3));
        dword(0);
    }
    // jmp [cell]: a byte longer than the next.
    void jump_by_cell(std::uint32_t cell)
    {
        byte(0xff);
        byte(0x25);
        rip_operand(link_address(cell), 0, Relocation::Kind::cell);
    }
    // jmp rel32 to a host address.
    void jump(std::uint64_t target)
    {
        byte(0xe9);
        rip_operand(target, 0);
    }
    // jmp rel32 whose displacement is patched later: returns its offset.
    std::uint32_t jump_later()
    {
        byte(0xe9);
        dword(0);
        return size_ - 4;
    }

private:
    template <typename T>
    void put(T value)
    {
        std::memcpy(space_.write + size_, &value, sizeof value);
        size_ += static_cast<std::uint32_t>(sizeof value);
    }
    void context_move(unsigned opcode, unsigned reg, int context_offset)
    {
        byte(0x48 | (reg >> 3 << 2));
        byte(opcode);
        byte(((reg & 7) << 3) | 5);
        context_operand(context_offset, 0);
    }
    void gs_move(unsigned opcode, unsigned reg, int context_offset)
    {
        byte(0x65);
        byte(0x48 | (reg >> 3 << 2));
        byte(opcode);
        byte(((reg & 7) << 3) | 4);
        byte(0x25);
        dword(static_cast<std::uint32_t>(user_context - user_targets +
                                         static_cast<std::uint64_t>(context_offset)));
    }
    void displace(bool none, bool small, std::int32_t displacement)
    {
        if (none) return;
        if (small) {
            byte(static_cast<std::uint8_t>(displacement));
        } else {
            dword(static_cast<std::uint32_t>(displacement));
        }
    }

    CodeSpace space_;
    std::uint64_t context_;
    std::size_t end_;
    std::vector<Relocation>* relocations_ = nullptr;
    std::uint32_t size_ = 0;
    bool overflow_ = false;
};

}  // namespace doppel::engine::translate
