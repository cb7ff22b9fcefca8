// What holds for every translation, whatever the guest bytes: the host code is well-formed, touches
// memory only where guest memory or the engine's context is, and contains no instruction that
// could alter the host's state. For the random test and the fuzz target.
#pragma once

#include <gtest/gtest.h>

#include "translated_code.h"

namespace doppel::engine::translate::test {

// Categories of instructions that translations never contain.
inline bool is_harmless(const ZydisDecodedInstruction& host)
{
    switch (host.meta.category) {
    case ZYDIS_CATEGORY_SYSTEM: case ZYDIS_CATEGORY_SYSCALL: case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT: case ZYDIS_CATEGORY_IO: case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_SEGOP: case ZYDIS_CATEGORY_XSAVE: case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_RDWRFSGS: case ZYDIS_CATEGORY_PKU: case ZYDIS_CATEGORY_CET:
    case ZYDIS_CATEGORY_VTX: case ZYDIS_CATEGORY_SGX: case ZYDIS_CATEGORY_COND_BR:
        return host.mnemonic == ZYDIS_MNEMONIC_RDTSC ||
               host.meta.category == ZYDIS_CATEGORY_COND_BR;
    case ZYDIS_CATEGORY_RET: case ZYDIS_CATEGORY_CALL:
        return false;
    default:
        break;
    }
    switch (host.mnemonic) {
    case ZYDIS_MNEMONIC_POPFQ: case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI: case ZYDIS_MNEMONIC_STAC: case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_HLT: case ZYDIS_MNEMONIC_UD2: case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDPID: case ZYDIS_MNEMONIC_TPAUSE: case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_XBEGIN: case ZYDIS_MNEMONIC_XEND:
        return false;
    default:
        return (host.attributes & (ZYDIS_ATTRIB_HAS_XACQUIRE | ZYDIS_ATTRIB_HAS_XRELEASE)) == 0;
    }
}

// An explicit operand of supervisor code: folded by a prefix, by RSP, or the engine's.
inline bool is_placed(const ZydisDecodedInstruction& host, const ZydisDecodedOperand& operand)
{
    if (operand.mem.type == ZYDIS_MEMOP_TYPE_AGEN) return true;
    const auto& memory = operand.mem;
    const bool prefixed =
        (host.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)) != 0;
    if (memory.base == ZYDIS_REGISTER_RSP) return !prefixed;
    if (prefixed) return memory.base != ZYDIS_REGISTER_RIP;
    if (memory.base == ZYDIS_REGISTER_RIP) return true;
    return host.mnemonic == ZYDIS_MNEMONIC_JMP && memory.base == ZYDIS_REGISTER_NONE &&
           static_cast<std::uint64_t>(memory.disp.value) == supervisor_targets;
}

// Every instruction of the hot part; false with a message when one is not as it should be.
inline void check_code(const Translated& block, const Mode& mode)
{
    std::size_t at = 0;
    bool stack_is_context = false;  // of which alone flags are popped
    while (at < block.translation.hot_size) {
        ZydisDecodedInstruction host;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        ASSERT_TRUE(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&host_decoder(), block.code.data() + at,
                                                        block.translation.hot_size - at, &host,
                                                        operands)));
        const std::string text = disassemble(block.code, block.address, at, at + host.length);
        const bool pops_own_flags = host.mnemonic == ZYDIS_MNEMONIC_POPFQ && stack_is_context;
        ASSERT_TRUE(is_harmless(host) || pops_own_flags) << text;
        stack_is_context = host.mnemonic == ZYDIS_MNEMONIC_LEA &&
                           operands[0].reg.value == ZYDIS_REGISTER_RSP &&
                           operands[1].mem.base == ZYDIS_REGISTER_RIP;
        for (unsigned i = 0; i < host.operand_count_visible && !mode.user; ++i) {
            if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
                ASSERT_TRUE(is_placed(host, operands[i])) << text;
            }
        }
        at += host.length;
    }
}

inline void check_records(const Translated& block, std::uint64_t rip, std::size_t guest_size)
{
    const Translation& result = block.translation;
    ASSERT_LE(result.size, block.code.size());
    ASSERT_LE(result.hot_size, result.size);
    ASSERT_LE(result.guest_bytes, guest_size);
    ASSERT_FALSE(result.points.empty());
    ASSERT_EQ(result.points.front().host, 0u);
    for (std::size_t i = 0; i < result.points.size(); ++i) {
        ASSERT_LT(result.points[i].host, result.size);
        ASSERT_LE(result.points[i].guest, guest_size);
        if (i != 0) {
            ASSERT_GT(result.points[i].host, result.points[i - 1].host);
            ASSERT_GE(result.points[i].guest, result.points[i - 1].guest);
        }
    }
    for (const Displaced& each : result.displaced) {
        ASSERT_LT(each.from, each.to);
        ASSERT_LE(each.to, result.size);
        // Across a boundary only what is overwritten unread behind it.
        const bool unread = each.where != Displaced::Where::folded &&
                            (each.where != Displaced::Where::slot || each.slot >= 4);
        for (const Point& point : result.points) {
            if (unread) break;
            ASSERT_FALSE(point.host >= each.from && point.host < each.to);
        }
    }
    for (std::size_t i = 0; i < result.exits.size(); ++i) {
        const Exit& exit = result.exits[i];
        ASSERT_LT(exit.stub, result.size);
        if (exit.kind != ExitKind::direct && exit.kind != ExitKind::indirect) ASSERT_EQ(exit.patch, 0u);
        if (exit.kind == ExitKind::interpret) {
            ASSERT_GE(exit.target, rip);
            ASSERT_LE(exit.target, rip + guest_size);
        }
        // The stub says which exit it is, and the jump leads there.
        std::uint32_t site = 0;
        std::memcpy(&site, block.code.data() + exit.stub + 6, sizeof site);
        ASSERT_EQ(site, first_site + i);
        if (exit.patch != 0) {
            std::uint32_t displacement = 0;
            std::memcpy(&displacement, block.code.data() + exit.patch, sizeof displacement);
            ASSERT_EQ(exit.patch + 4 + displacement, exit.stub);
        }
    }
}

}  // namespace doppel::engine::translate::test
