// Random guest bytes: whatever they are, the host code is well-formed, touches memory only
// where guest memory or the engine's context is, and contains no instruction that could
// alter the host's state.
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "translated_code.h"

namespace doppel::engine::translate::test {

namespace {

// Categories of instructions that translations never contain.
bool is_harmless(const ZydisDecodedInstruction& host)
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
bool is_placed(const ZydisDecodedInstruction& host, const ZydisDecodedOperand& operand)
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
void check_code(const Translated& block, const Mode& mode)
{
    std::size_t at = 0;
    while (at < block.translation.hot_size) {
        ZydisDecodedInstruction host;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        ASSERT_TRUE(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&host_decoder(), block.code.data() + at,
                                                        block.translation.hot_size - at, &host,
                                                        operands)));
        const std::string text = disassemble(block.code, block.address, at, at + host.length);
        ASSERT_TRUE(is_harmless(host)) << text;
        for (unsigned i = 0; i < host.operand_count_visible && !mode.user; ++i) {
            if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
                ASSERT_TRUE(is_placed(host, operands[i])) << text;
            }
        }
        at += host.length;
    }
}

void check_records(const Translated& block, std::uint64_t rip, std::size_t guest_size)
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
        ASSERT_LE(each.to, result.hot_size);
        // Never across a boundary: state is exact there.
        for (const Point& point : result.points) {
            ASSERT_FALSE(point.host >= each.from && point.host < each.to);
        }
    }
    for (std::size_t i = 0; i < result.exits.size(); ++i) {
        const Exit& exit = result.exits[i];
        ASSERT_LT(exit.stub, result.size);
        if (exit.kind != ExitKind::direct) ASSERT_EQ(exit.patch, 0u);
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

std::vector<std::uint8_t> random_bytes(std::mt19937& random, std::size_t size)
{
    // Common opcodes, prefixes and maps more often than by chance.
    constexpr std::uint8_t frequent[] = {0x0f, 0x48, 0x66, 0xf2, 0xf3, 0xf0, 0x65, 0x64, 0x2e, 0x67,
                                         0x8b, 0x89, 0x8d, 0xc5, 0xc4, 0x62, 0x4c, 0x41, 0x83, 0xff,
                                         0x38, 0x3a, 0xa4, 0xab, 0x24, 0x05, 0xe4, 0xec, 0xfb, 0xfa};
    std::vector<std::uint8_t> bytes(size);
    for (std::uint8_t& byte : bytes) {
        const auto value = random();
        byte = (value & 0x300) == 0 ? frequent[(value >> 16) % sizeof frequent]
                                    : static_cast<std::uint8_t>(value);
    }
    return bytes;
}

}  // namespace

TEST(TranslationFuzz, HostCodeIsWellFormed)
{
    std::mt19937 random{7};
    const Mode modes[] = {supervisor_mode, user_mode};
    std::uint64_t native = 0;
    for (unsigned round = 0; round < 60000; ++round) {
        const auto bytes = random_bytes(random, 1 + random() % 40);
        std::uint64_t rip = round % 3 == 0 ? 0xffffffff81000000 : 0x7f1234567000;
        if (round % 5 == 0) rip = 0x401000;
        for (const Mode& mode : modes) {
            const Translated block{bytes, rip, mode, 8192};
            ASSERT_TRUE(block.done);
            native += block.translation.count;
            check_records(block, rip, bytes.size());
            check_code(block, mode);
            if (HasFatalFailure()) {
                FAIL() << (mode.user ? "user: " : "supervisor: ")
                       << disassemble(bytes, rip, 0, bytes.size());
            }
        }
    }
    EXPECT_GT(native, 100000u);
}

// Not a check of speed, but what it is, for whoever looks at the log.
TEST(TranslationFuzz, Rate)
{
    const auto guest = GUEST("push rbp; mov rbp,rsp; push rbx; sub rsp,0x18; mov rbx,rdi;"
                             "mov rax,[rdi+0x10]; test rax,rax; mov [rbp-0x20],rsi; mov ecx,[rax+4];"
                             "lea rdx,[rbx+rcx*4]; add rdx,[rip+0x1000]; cmp rdx,rsi; jz .+0x40");
    std::vector<std::uint8_t> code(16384);
    Translation translation;
    std::uint64_t count = 0;
    const auto begin = std::chrono::steady_clock::now();
    for (unsigned i = 0; i < 3000; ++i) {
        ASSERT_TRUE(translate({0xffffffff81000000, guest, guest.size(), supervisor_mode}, host_policy(),
                              {code.data(), code_address(supervisor_mode), code.size()}, first_site,
                              common_exit_address(supervisor_mode), translation));
        count += translation.count;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    RecordProperty("instructions_per_second", std::to_string(static_cast<double>(count) / took.count()));
    std::printf("%.2f M guest instructions translated per second\n",
                static_cast<double>(count) / took.count() / 1e6);
}

}  // namespace doppel::engine::translate::test
