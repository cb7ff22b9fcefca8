// Every instruction that may be a thunk, run as one and run directly, on random state.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>
#include <set>

#include "base/mapped_region.h"
#include "engine/interpret/thunk/allow_list.h"
#include "thunk_machine.h"

#include <sys/mman.h>

namespace doppel::engine::interpret {
namespace {

using namespace thunk;
using x86::XsaveArea;

constexpr std::uint64_t components = x86::xcr0::SUPPORTED;

struct alignas(64) Frame {
    XsaveArea area;
    std::array<std::uint64_t, 16> gpr{};
    std::uint64_t rflags = 0;
    std::array<std::uint64_t, 3> unused{};
    XsaveArea host;
};

// Runs an instruction that leaves RSP and R15 alone between loading and storing all of a
// Frame. Faults resume at the end, as in a thunk.
class Native {
public:
    Native()
        : code_(std::move(base::MappedRegion::map(4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                                  MAP_PRIVATE | MAP_ANONYMOUS)).value())
    {
    }

    HostFault run(const Bytes& instruction, Frame& frame)
    {
        constexpr int gpr = offsetof(Frame, gpr), flags = offsetof(Frame, rflags);
        constexpr int host = offsetof(Frame, host);
        constexpr unsigned r15 = 15;
        Assembler out;
        for (const unsigned reg : {3u, 5u, 12u, 13u, 14u, 15u}) out.push(reg);
        out.move(r15, 7);
        xstate(out, 4, host);
        xstate(out, 5, 0);
        out.bytes(hex("41ffb7"));  // push [r15 + flags]
        out.dword(flags);
        out.byte(0x9d);  // popfq
        for (unsigned reg = 0; reg < 15; ++reg) {
            if (reg != 4) out.load(reg, r15, gpr + 8 * static_cast<int>(reg));
        }
        out.bytes(instruction);
        for (unsigned reg = 0; reg < 15; ++reg) {
            if (reg != 4) out.store(reg, r15, gpr + 8 * static_cast<int>(reg));
        }
        out.byte(0x9c);  // pushfq
        out.bytes(hex("418f87"));
        out.dword(flags);
        out.bytes(hex("31c0"));
        out.bytes(hex("4989c6"));  // mov r14, rax
        const std::size_t tail = out.size();
        xstate(out, 4, 0);
        xstate(out, 5, host);
        out.bytes(hex("4c89f0"));  // mov rax, r14
        for (const unsigned reg : {15u, 14u, 13u, 12u, 5u, 3u}) out.pop(reg);
        out.byte(0xc3);
        const std::size_t fault_exit = out.size();
        out.bytes(hex("4989c6"));
        out.byte(0xe9);
        out.dword(static_cast<std::int32_t>(tail) - static_cast<std::int32_t>(out.size() + 4));
        std::memcpy(code_.data(), out.code().data(), out.size());

        const auto* begin = reinterpret_cast<const std::uint8_t*>(code_.data());
        const CodeRange range{begin, begin + out.size(), begin + fault_exit};
        current_thunk = &range;
        const auto entry = reinterpret_cast<std::uint64_t (*)(Frame*)>(code_.data());
        const std::uint64_t result = entry(&frame);
        current_thunk = nullptr;
        return HostFault{result};
    }

private:
    static void xstate(Assembler& out, unsigned extension, int at)
    {
        out.byte(0xb8);
        out.dword(static_cast<std::int32_t>(components));
        out.bytes(hex("31d2"));
        out.group(0xae, extension, 15, at, true);
    }
    base::MappedRegion code_;
};

class Sweep : public ::testing::Test {
protected:
    // Values that make floating point interesting, among plain noise.
    std::uint64_t word()
    {
        static constexpr std::uint64_t special[] = {
            0, 0x3ff0000000000000, 0x7ff0000000000000, 0x7ff8000000000001, 0x8000000000000000,
            0x0000000000000001, 0x3f8000003f800000, 0x7f800000ff800000, 0x0000000180000000,
            0xffffffffffffffff, 0x4049000040490000, 0x4040404040404040};
        const std::uint64_t random = random_();
        return random % 3 == 0 ? special[random_() % std::size(special)] : random_();
    }

    void fill(XsaveArea& area)
    {
        for (unsigned at = xsave_xmm; at < xsave_header; at += 8) {
            if (at < 416) xsave_set(area, at, word());
        }
        for (unsigned at = 576; at < 832; at += 8) xsave_set(area, at, word());
        for (unsigned at = x86::xsave_offset_opmask; at < 2688; at += 8) xsave_set(area, at, word());
        for (unsigned i = 0; i < 8; ++i) {
            xsave_set(area, xsave_st + 16 * i, word());
            xsave_set(area, xsave_st + 16 * i + 8, static_cast<std::uint16_t>(0x3ff0 + random_() % 40));
            if (random_() % 2 == 0) area.bytes[xsave_st + 16 * i + 7] |= 0x80;
        }
        xsave_set<std::uint16_t>(area, xsave_fcw, 0x37f);
        xsave_set<std::uint16_t>(area, xsave_fsw, static_cast<std::uint16_t>((random_() % 8) << 11));
        area.bytes[xsave_ftw] = static_cast<std::uint8_t>(random_());
        const std::uint32_t modes[] = {0x1f80, 0x1f80, 0x3f80, 0x5fa0, 0x9fc0, 0x1fc0, 0x1e80};
        xsave_set(area, xsave_mxcsr, modes[random_() % std::size(modes)]);
        xsave_set(area, xsave_header, components);
    }

    // Components in INIT compare as their initial values; pointers of x87 differ by design.
    static XsaveArea normal(const XsaveArea& from)
    {
        XsaveArea area = from;
        initialise(area, components & ~xstate_bv(area));
        ensure_present(area, components);
        std::memset(area.bytes.data() + xsave_fop, 0, 18);
        std::memset(area.bytes.data() + xsave_mxcsr_mask, 0, 4);
        std::memset(area.bytes.data() + 416, 0, 96);
        std::memset(area.bytes.data() + 520, 0, 56);
        return area;
    }

    // True when it ran both ways and agreed or faulted both ways.
    void compare(const Bytes& bytes, const std::string& name)
    {
        Op op;
        if (!machine_.lower(bytes, op)) {
            ++refused_[name];
            return;
        }
        // Which disabled bytes MASKMOVDQU and MASKMOVQ look at is the processor's choice.
        const unsigned rounds = name.find("maskmovdqu") != std::string::npos ||
                                        name.find("maskmovq mm") != std::string::npos ? 2 : 3;
        for (unsigned round = 0; round < rounds; ++round) {
            // The last round puts the operand across the border to a page that is not there:
            // whether it faults depends on the elements that a mask enables.
            const bool edge = round == 2;
            const std::uint64_t guest = edge ? ThunkMachine::hole - 2048 : ThunkMachine::data;
            Core& core = *machine_.core;
            Frame frame;
            fill(frame.area);
            for (auto& reg : frame.gpr) reg = word();
            const std::uint64_t offset = random_() % 4 == 0 ? random_() % 64 : 64 * (random_() % 8);
            frame.rflags = 0x202 | (random_() & x86::rflags::STATUS);
            for (unsigned i = 0; i < 256; ++i) machine_.poke(guest + 8 * i, word());
            const std::span memory{edge_.data() + 2048, 2048};
            std::memcpy(memory.data(), machine_.host(guest), memory.size());
            const std::uint64_t at = edge ? 2048 - random_() % 72 : 512 + offset;

            core.state.xsave = frame.area;
            std::copy(frame.gpr.begin(), frame.gpr.end(), core.gpr.begin());
            core.set_rflags(frame.rflags);
            core.gpr[x86::RSI] = guest + at;
            core.gpr[x86::RDI] = guest + (edge ? at : 1024 + offset);
            frame.gpr[x86::RSI] = reinterpret_cast<std::uint64_t>(memory.data()) + at;
            frame.gpr[x86::RDI] = reinterpret_cast<std::uint64_t>(memory.data()) + (edge ? at : 1024 + offset);
            const HostFault native = native_.run(bytes, frame);
            const Flow flow = op.run(core, op);
            ASSERT_EQ(flow == Flow::next, native == HostFault::none) << name << " fault, round " << round;
            ++compared_;
            if (flow != Flow::next) {
                ++faulted_;
                // A conversion whose store faults may or may not have set its flags.
                if (edge) continue;
                ASSERT_EQ(xsave_get<std::uint32_t>(frame.area, xsave_mxcsr), machine_.mxcsr()) << name;
                continue;
            }
            for (unsigned reg = 0; reg < 15; ++reg) {
                if (reg == x86::RSP || reg == x86::RSI || reg == x86::RDI) continue;
                ASSERT_EQ(core.gpr[reg], frame.gpr[reg]) << name << " gpr " << reg;
            }
            ASSERT_EQ(core.rflags() & x86::rflags::STATUS, frame.rflags & x86::rflags::STATUS) << name;
            const XsaveArea ours = normal(core.state.xsave), theirs = normal(frame.area);
            for (unsigned i = 0; i < ours.bytes.size(); ++i) {
                ASSERT_EQ(ours.bytes[i], theirs.bytes[i]) << name << " xsave byte " << i;
            }
            for (unsigned i = 0; i < memory.size(); ++i) {
                ASSERT_EQ(machine_.peek<std::uint8_t>(guest + i), std::to_integer<std::uint8_t>(memory[i]))
                    << name << " memory " << i << " of operand " << i - at;
            }
        }
    }

    // Takes a candidate encoding if the allow-list knows it and this harness can run it.
    void candidate(const Bytes& bytes)
    {
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, bytes.data(), bytes.size(), &instruction,
                                                 operands))) {
            return;
        }
        Bytes exact(bytes.begin(), bytes.begin() + instruction.length);
        switch (instruction.meta.isa_set) {
        case ZYDIS_ISA_SET_RDRAND: case ZYDIS_ISA_SET_RDSEED: case ZYDIS_ISA_SET_FXSAVE:
        case ZYDIS_ISA_SET_FXSAVE64: case ZYDIS_ISA_SET_XSAVE: case ZYDIS_ISA_SET_XSAVEC:
        case ZYDIS_ISA_SET_XSAVEOPT: case ZYDIS_ISA_SET_XSAVES:
            return;
        default:
            break;
        }
        if (judge(instruction, machine_.cpuid) == Verdict::forbidden) return;
        for (unsigned i = 0; i < instruction.operand_count; ++i) {
            if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                operands[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
                return;  // random indices lead anywhere; tested by hand
            }
            if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                (operands[i].mem.base != ZYDIS_REGISTER_RSI && operands[i].mem.base != ZYDIS_REGISTER_RDI)) {
                return;
            }
            if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
            const auto reg = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
                                                              operands[i].reg.value);
            // The frame's own registers, and those that point to memory.
            if (reg == ZYDIS_REGISTER_RSP || reg == ZYDIS_REGISTER_R15 ||
                reg == ZYDIS_REGISTER_RSI || reg == ZYDIS_REGISTER_RDI) {
                return;
            }
        }
        if (instruction.mnemonic == ZYDIS_MNEMONIC_MOVDIR64B) return;
        if (!seen_.insert(exact).second) return;
        ZydisFormatter formatter;
        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        char text[128];
        ZydisFormatterFormatInstruction(&formatter, &instruction, operands,
                                        instruction.operand_count_visible, text, sizeof text, 0,
                                        nullptr);
        std::string name = text;
        name += "  ";
        for (const std::uint8_t byte : exact) {
            char digits[3];
            std::snprintf(digits, sizeof digits, "%02x", byte);
            name += digits;
        }
        compare(exact, name);
    }

    // Register form with distinct registers, and [rsi]; the reg field also over its values
    // where it is part of the opcode.
    void all_modrm(Bytes prefix, unsigned opcode)
    {
        prefix.push_back(static_cast<std::uint8_t>(opcode));
        for (const unsigned mod : {0xc0u, 0x00u}) {
            for (unsigned reg = 0; reg < 8; ++reg) {
                Bytes bytes = prefix;
                bytes.push_back(static_cast<std::uint8_t>(mod | (reg << 3) | (mod != 0 ? 2 : 6)));
                for (const unsigned immediate : {0x1bu, 0u, 0u, 0u, 0u}) {
                    bytes.push_back(static_cast<std::uint8_t>(immediate));
                }
                candidate(bytes);
                if (HasFailure()) return;
            }
        }
    }

    ThunkMachine machine_;
    Native native_;
    // A page of memory and one that is not there.
    base::MappedRegion edge_ = [] {
        auto region = std::move(base::MappedRegion::map(8192, PROT_READ | PROT_WRITE,
                                                        MAP_PRIVATE | MAP_ANONYMOUS)).value();
        EXPECT_EQ(::mprotect(region.data() + 4096, 4096, PROT_NONE), 0);
        return region;
    }();
    std::mt19937_64 random_{20240601};
    ZydisDecoder decoder_ = [] {
        ZydisDecoder made;
        ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        return made;
    }();
    std::set<Bytes> seen_;
    std::map<std::string, unsigned> refused_;
    unsigned compared_ = 0, faulted_ = 0;

    void TearDown() override
    {
        for (const auto& [name, count] : refused_) ADD_FAILURE() << "allowed but refused: " << name;
        RecordProperty("compared", static_cast<int>(compared_));
        std::printf("compared %u runs of %zu encodings, %u faulted\n", compared_, seen_.size(), faulted_);
    }
};

TEST_F(Sweep, Legacy)
{
    for (const char* prefix : {"", "66", "f2", "f3"}) {
        for (const char* rex : {"", "48", "41", "44"}) {
            for (const char* map : {"0f", "0f38", "0f3a"}) {
                for (unsigned opcode = 0; opcode < 256; ++opcode) {
                    all_modrm(hex(std::string{prefix} + rex + map), opcode);
                    if (HasFailure()) return;
                }
            }
        }
    }
}

TEST_F(Sweep, X87)
{
    for (unsigned opcode = 0xd8; opcode < 0xe0; ++opcode) {
        for (unsigned modrm = 0xc0; modrm < 0x100; ++modrm) {
            candidate({static_cast<std::uint8_t>(opcode), static_cast<std::uint8_t>(modrm)});
            if (HasFailure()) return;
        }
        all_modrm({}, opcode);
        all_modrm(hex("66"), opcode);
        if (HasFailure()) return;
    }
    candidate(hex("9b"));
}

TEST_F(Sweep, Vex)
{
    for (unsigned map = 1; map <= 3; ++map) {
        for (unsigned low = 0; low < 8; ++low) {  // pp and L
            for (unsigned w = 0; w < 2; ++w) {
                for (const unsigned vvvv : {3u, 0u}) {
                    for (unsigned opcode = 0; opcode < 256; ++opcode) {
                        all_modrm({0xc4, static_cast<std::uint8_t>(0xe0 | map),
                                   static_cast<std::uint8_t>((w << 7) | ((~vvvv & 15) << 3) | low)},
                                  opcode);
                        if (HasFailure()) return;
                    }
                }
            }
        }
    }
}

TEST_F(Sweep, Evex)
{
    if (!machine_.cpuid.has(7, 0, 'b', 30)) GTEST_SKIP() << "no AVX-512 here";
    for (const unsigned map : {1u, 2u, 3u, 5u, 6u}) {
        for (unsigned pp = 0; pp < 4; ++pp) {
            for (unsigned w = 0; w < 2; ++w) {
                // Length, mask, zeroing, broadcast or rounding, and a high register.
                for (const unsigned p2 : {0x08u, 0x28u, 0x48u, 0x4au, 0xcau, 0x5au, 0x18u, 0x2bu, 0x42u}) {
                    const unsigned vvvv = (pp & 1) != 0 ? 3 : 0;
                    for (unsigned opcode = 0; opcode < 256; ++opcode) {
                        all_modrm({0x62, static_cast<std::uint8_t>(0xf0 | map),
                                   static_cast<std::uint8_t>((w << 7) | ((~vvvv & 15) << 3) | 4 | pp),
                                   static_cast<std::uint8_t>(p2)},
                                  opcode);
                        if (HasFailure()) return;
                    }
                }
            }
        }
    }
}

}  // namespace
}  // namespace doppel::engine::interpret
