// The few instructions a thunk is made of besides the guest's own. Memory is always
// [base + disp32], base being a register that needs no SIB byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/assert.h"

namespace doppel::engine::interpret::thunk {

class Assembler {
public:
    [[nodiscard]] std::span<const std::uint8_t> code() const { return {bytes_.data(), size_}; }
    [[nodiscard]] std::size_t size() const { return size_; }

    void byte(unsigned value)
    {
        ASSERT(size_ < bytes_.size());
        bytes_[size_++] = static_cast<std::uint8_t>(value);
    }
    void bytes(std::span<const std::uint8_t> values)
    {
        for (const std::uint8_t value : values) byte(value);
    }
    void dword(std::int32_t value)
    {
        const auto bits = static_cast<std::uint32_t>(value);
        for (unsigned i = 0; i < 4; ++i) byte((bits >> (8 * i)) & 0xff);
    }

    void push(unsigned reg)
    {
        if (reg >= 8) byte(0x41);
        byte(0x50 + (reg & 7));
    }
    void pop(unsigned reg)
    {
        if (reg >= 8) byte(0x41);
        byte(0x58 + (reg & 7));
    }
    void move(unsigned to, unsigned from)
    {
        byte(0x48 | (from >> 3 << 2) | (to >> 3));
        byte(0x89);
        byte(0xc0 | ((from & 7) << 3) | (to & 7));
    }
    // 64-bit general registers.
    void load(unsigned reg, unsigned base, std::int32_t disp) { gpr(0x8b, reg, base, disp); }
    void store(unsigned reg, unsigned base, std::int32_t disp) { gpr(0x89, reg, base, disp); }

    // Opcode 0F xx with an opcode extension; wide sets REX.W.
    void group(unsigned opcode, unsigned extension, unsigned base, std::int32_t disp, bool wide)
    {
        rex(wide, 0, base);
        byte(0x0f);
        byte(opcode);
        memory(extension, base, disp);
    }

    // MOVUPS, legacy encoding: leaves bits 128 and up of the register alone.
    void load_xmm(unsigned reg, unsigned base, std::int32_t disp) { movups(0x10, reg, base, disp); }
    void store_xmm(unsigned reg, unsigned base, std::int32_t disp) { movups(0x11, reg, base, disp); }
    // VMOVUPS xmm: zeroes them.
    void load_xmm_vex(unsigned reg, unsigned base, std::int32_t disp)
    {
        vex(1, 0, 0, 0, reg, 0, base);
        byte(0x10);
        memory(reg, base, disp);
    }
    // VINSERTF128 reg, reg, [..], 1 and VEXTRACTF128 [..], reg, 1.
    void load_ymm_high(unsigned reg, unsigned base, std::int32_t disp)
    {
        vex(3, 1, 0, 1, reg, reg, base);
        byte(0x18);
        memory(reg, base, disp);
        byte(1);
    }
    void store_ymm_high(unsigned reg, unsigned base, std::int32_t disp)
    {
        vex(3, 1, 0, 1, reg, 0, base);
        byte(0x19);
        memory(reg, base, disp);
        byte(1);
    }
    // VINSERTF64X4 reg, reg, [..], 1 and VEXTRACTF64X4 [..], reg, 1.
    void load_zmm_high(unsigned reg, unsigned base, std::int32_t disp)
    {
        evex(3, 1, 1, reg, reg, base);
        byte(0x1a);
        memory(reg, base, disp);
        byte(1);
    }
    void store_zmm_high(unsigned reg, unsigned base, std::int32_t disp)
    {
        evex(3, 1, 1, reg, 0, base);
        byte(0x1b);
        memory(reg, base, disp);
        byte(1);
    }
    // VMOVUPS zmm.
    void load_zmm(unsigned reg, unsigned base, std::int32_t disp)
    {
        evex(1, 0, 0, reg, 0, base);
        byte(0x10);
        memory(reg, base, disp);
    }
    void store_zmm(unsigned reg, unsigned base, std::int32_t disp)
    {
        evex(1, 0, 0, reg, 0, base);
        byte(0x11);
        memory(reg, base, disp);
    }
    // KMOVQ.
    void load_mask(unsigned reg, unsigned base, std::int32_t disp)
    {
        vex(1, 0, 1, 0, reg, 0, base);
        byte(0x90);
        memory(reg, base, disp);
    }
    void store_mask(unsigned reg, unsigned base, std::int32_t disp)
    {
        vex(1, 0, 1, 0, reg, 0, base);
        byte(0x91);
        memory(reg, base, disp);
    }

private:
    void rex(bool wide, unsigned reg, unsigned base)
    {
        const unsigned value = (wide ? 8u : 0u) | (((reg >> 3) & 1) << 2) | ((base >> 3) & 1);
        if (value != 0) byte(0x40 | value);
    }
    void memory(unsigned reg, unsigned base, std::int32_t disp)
    {
        byte(0x80 | ((reg & 7) << 3) | (base & 7));
        dword(disp);
    }
    void gpr(unsigned opcode, unsigned reg, unsigned base, std::int32_t disp)
    {
        rex(true, reg, base);
        byte(opcode);
        memory(reg, base, disp);
    }
    void movups(unsigned opcode, unsigned reg, unsigned base, std::int32_t disp)
    {
        rex(false, reg, base);
        byte(0x0f);
        byte(opcode);
        memory(reg, base, disp);
    }
    void vex(unsigned map, unsigned pp, unsigned w, unsigned l, unsigned reg, unsigned vvvv,
             unsigned base)
    {
        byte(0xc4);
        byte(((~reg & 8) << 4) | 0x40 | ((~base & 8) << 2) | map);
        byte((w << 7) | ((~vvvv & 15) << 3) | (l << 2) | pp);
    }
    void evex(unsigned map, unsigned pp, unsigned w, unsigned reg, unsigned vvvv, unsigned base)
    {
        byte(0x62);
        byte(((~reg & 8) << 4) | 0x40 | ((~base & 8) << 2) | (~reg & 16) | map);
        byte((w << 7) | ((~vvvv & 15) << 3) | 4 | pp);
        byte(0x40 | ((~vvvv & 16) >> 1));
    }

    std::array<std::uint8_t, 1024> bytes_{};
    std::size_t size_ = 0;
};

}  // namespace doppel::engine::interpret::thunk
