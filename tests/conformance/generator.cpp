#include "generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "bare_machine.h"

namespace doppel::conformance {

namespace {

std::uint64_t pick(Random& random, std::uint64_t below) { return random() % below; }
// What `layout` addresses are above.
std::uint64_t base_of(Place place) { return place == Place::supervisor_high ? layout::high : 0; }
std::uint8_t any_byte(Random& random) { return static_cast<std::uint8_t>(random()); }

ZydisDecoder make_decoder(ZydisMachineMode mode, ZydisStackWidth stack)
{
    ZydisDecoder made;
    ZydisDecoderInit(&made, mode, stack);
    return made;
}

// Not for this process to run: privileged state, host state, or results that differ
// between two runs by nature.
bool excluded_category(ZydisInstructionCategory category)
{
    switch (category) {
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_RDRAND:
    case ZYDIS_CATEGORY_RDSEED:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_WAITPKG:
    case ZYDIS_CATEGORY_SGX:
    case ZYDIS_CATEGORY_UINTR:
    case ZYDIS_CATEGORY_CET:
    case ZYDIS_CATEGORY_MPX:
    case ZYDIS_CATEGORY_AMX_TILE:
    case ZYDIS_CATEGORY_KEYLOCKER:
    case ZYDIS_CATEGORY_KEYLOCKER_WIDE:
    case ZYDIS_CATEGORY_PKU:
    case ZYDIS_CATEGORY_VTX:
    case ZYDIS_CATEGORY_TSX_LDTRK:
    case ZYDIS_CATEGORY_ENQCMD:
    case ZYDIS_CATEGORY_SERIALIZE:
    case ZYDIS_CATEGORY_HRESET:
    case ZYDIS_CATEGORY_CLDEMOTE:
    case ZYDIS_CATEGORY_SMAP:
    case ZYDIS_CATEGORY_RDPID:
    case ZYDIS_CATEGORY_RDPRU:
    case ZYDIS_CATEGORY_MOVDIR:
        return true;
    default:
        return false;
    }
}

bool excluded_mnemonic(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHF: case ZYDIS_MNEMONIC_PUSHFD: case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_XBEGIN: case ZYDIS_MNEMONIC_XEND: case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XTEST: case ZYDIS_MNEMONIC_HLT: case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_MWAITX: case ZYDIS_MNEMONIC_CLZERO: case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FLDENV: case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64: case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_TDCALL: case ZYDIS_MNEMONIC_SEAMCALL: case ZYDIS_MNEMONIC_SEAMOPS:
    case ZYDIS_MNEMONIC_SEAMRET: case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_AAD:  // leaves flags undefined, and processors differ
    case ZYDIS_MNEMONIC_STAC: case ZYDIS_MNEMONIC_SWAPGS: case ZYDIS_MNEMONIC_PTWRITE:
        return true;
    default:
        return false;
    }
}

bool touches_host_registers(Place place, const ZydisDecodedOperand* operands, unsigned count)
{
    const bool segments = place == Place::supervisor32;  // FS is the case's own there
    for (unsigned i = 0; i < count; ++i) {
        const auto& operand = operands[i];
        if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) {
            switch (ZydisRegisterGetClass(operand.reg.value)) {
            case ZYDIS_REGCLASS_SEGMENT: case ZYDIS_REGCLASS_CONTROL: case ZYDIS_REGCLASS_DEBUG:
            case ZYDIS_REGCLASS_TEST: case ZYDIS_REGCLASS_TABLE: case ZYDIS_REGCLASS_TMM:
            case ZYDIS_REGCLASS_BOUND:
                return true;
            default: break;
            }
        }
        if (operand.type == ZYDIS_OPERAND_TYPE_POINTER) return true;
        if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY && !segments &&
            (operand.mem.segment == ZYDIS_REGISTER_FS || operand.mem.segment == ZYDIS_REGISTER_GS)) {
            return true;
        }
    }
    return false;
}

// OF is undefined after a rotation by more than one, and processors answer differently for
// an immediate and for CL; an interpreter that runs every rotation by CL cannot follow.
bool rotates_by_several(const ZydisDecodedInstruction& instruction)
{
    return instruction.meta.category == ZYDIS_CATEGORY_ROTATE && instruction.raw.imm[0].size != 0;
}

// When such a loop faults at once, processors differ in whether RCX's upper half is gone.
bool counts_in_ecx(Place place, const ZydisDecodedInstruction& instruction)
{
    return instruction.meta.category == ZYDIS_CATEGORY_STRINGOP && instruction.address_width == 32 &&
           !is_code32(place);
}

// Opcode bytes of a random map; most of the weight on the plain integer maps.
std::vector<std::uint8_t> random_bytes(Random& random, Place place)
{
    std::vector<std::uint8_t> bytes;
    const auto maybe_rex = [&] {
        if (pick(random, 2) != 0 || is_code32(place)) return;
        bytes.push_back(static_cast<std::uint8_t>(0x40 | pick(random, 16)));
    };
    constexpr std::array<std::uint8_t, 4> prefixes{0x66, 0xf3, 0xf2, 0xf0};
    while (pick(random, 4) == 0 && bytes.size() < 2) bytes.push_back(prefixes[pick(random, 4)]);
    if (pick(random, 30) == 0) bytes.push_back(0x67);
    if (is_code32(place) && pick(random, 30) == 0) {
        constexpr std::array<std::uint8_t, 5> segments{0x26, 0x2e, 0x36, 0x3e, 0x64};
        bytes.push_back(segments[pick(random, place == Place::user32 ? 4 : 5)]);
    }
    switch (pick(random, 10)) {
    case 0: case 1:
        bytes.clear();
        bytes.push_back(pick(random, 2) == 0 ? 0xc4 : 0xc5);
        break;
    case 2:
        bytes.clear();
        bytes.push_back(0x62);
        break;
    case 3: case 4: case 5:
        maybe_rex();
        bytes.push_back(0x0f);
        if (pick(random, 4) == 0) bytes.push_back(pick(random, 3) == 0 ? 0x3a : 0x38);
        break;
    default:
        maybe_rex();
        break;
    }
    while (bytes.size() < 15) bytes.push_back(any_byte(random));
    return bytes;
}

// Points displacement at the data pages (absolute) or keeps it near its base.
void steer_memory(Random& random, Place place, std::vector<std::uint8_t>& bytes,
                  const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands)
{
    const auto& displacement = instruction.raw.disp;
    if (displacement.size != 32) return;
    bool absolute = false;
    for (unsigned i = 0; i < instruction.operand_count; ++i) {
        const auto& operand = operands[i];
        if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
        absolute = operand.mem.base == ZYDIS_REGISTER_NONE;
        // Relative to where the code lies: near enough; the stream's length is small.
        if (operand.mem.base == ZYDIS_REGISTER_RIP) {
            const auto delta = static_cast<std::uint32_t>(layout::data - layout::code +
                                                          pick(random, 0x1e00));
            std::memcpy(bytes.data() + displacement.offset, &delta, sizeof delta);
            return;
        }
    }
    std::uint32_t value = static_cast<std::uint32_t>(pick(random, 256)) - 128;
    if (absolute) value = static_cast<std::uint32_t>(base_of(place) + layout::data + pick(random, 0x2010));
    std::memcpy(bytes.data() + displacement.offset, &value, sizeof value);
}

std::optional<Instruction> random_instruction(Random& random, Place place)
{
    std::vector<std::uint8_t> bytes = random_bytes(random, place);
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    const auto decode = [&] {
        return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_for(place), bytes.data(), bytes.size(),
                                                   &instruction, operands));
    };
    if (!decode()) return std::nullopt;
    if (excluded_category(instruction.meta.category) || excluded_mnemonic(instruction.mnemonic) ||
        touches_host_registers(place, operands, instruction.operand_count)) {
        return std::nullopt;
    }
    if (instruction.meta.isa_ext == ZYDIS_ISA_EXT_RTM || instruction.meta.isa_ext == ZYDIS_ISA_EXT_AMX_TILE ||
        instruction.meta.isa_ext == ZYDIS_ISA_EXT_PADLOCK || instruction.meta.isa_ext == ZYDIS_ISA_EXT_KNC) {
        return std::nullopt;
    }
    if (rotates_by_several(instruction) || counts_in_ecx(place, instruction)) return std::nullopt;
    Instruction result;
    if (instruction.meta.category == ZYDIS_CATEGORY_COND_BR) {
        if (instruction.raw.imm[0].size != 8) return std::nullopt;
        result.branch = true;
    }
    bytes.resize(instruction.length);
    steer_memory(random, place, bytes, instruction, operands);
    result.bytes = std::move(bytes);
    return result;
}

// mov r64, imm64; in 32-bit code mov r32, imm32
Instruction load_register(Place place, unsigned number, std::uint64_t value)
{
    Instruction instruction;
    if (is_code32(place)) {
        instruction.bytes = {static_cast<std::uint8_t>(0xb8 | (number & 7))};
        for (unsigned i = 0; i < 4; ++i) {
            instruction.bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
        }
        return instruction;
    }
    instruction.bytes = {static_cast<std::uint8_t>(0x48 | (number >> 3)),
                         static_cast<std::uint8_t>(0xb8 | (number & 7))};
    for (unsigned i = 0; i < 8; ++i) {
        instruction.bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    }
    return instruction;
}

// Instruction sets that hardly a host has beside the others: #UD at best.
bool seldom_there(const ZydisDecodedInstruction& instruction)
{
    return instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
           instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ||
           instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
           instruction.meta.isa_ext == ZYDIS_ISA_EXT_SSE4A ||
           instruction.meta.isa_ext == ZYDIS_ISA_EXT_FMA4 ||
           instruction.mnemonic == ZYDIS_MNEMONIC_UD0 || instruction.mnemonic == ZYDIS_MNEMONIC_UD1 ||
           instruction.mnemonic == ZYDIS_MNEMONIC_UD2;
}

// Adds `next`, behind what lets it run.
void add_steadily(Random& random, Stream& stream, Instruction next)
{
    const Place place = stream.place;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_for(place), next.bytes.data(), next.bytes.size(),
                                             &instruction, operands))) {
        return;
    }
    if (seldom_there(instruction) && pick(random, 50) != 0) return;
    const bool careless = pick(random, 200) == 0;
    const std::uint64_t base = base_of(stream.place);
    const ZydisRegister rax = is_code32(place) ? ZYDIS_REGISTER_EAX : ZYDIS_REGISTER_RAX;
    const auto number = [rax](ZydisRegister reg) { return static_cast<unsigned>(reg - rax) & 15; };
    const auto is_whole = [rax](ZydisRegister reg) { return reg >= rax && reg <= rax + 15; };
    for (unsigned i = 0; i < instruction.operand_count && !careless; ++i) {
        const auto& operand = operands[i];
        if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
        const ZydisRegister first = operand.mem.base;
        const ZydisRegister second = operand.mem.index;
        if (is_whole(second) && second != first) {
            stream.instructions.push_back(load_register(place, number(second), pick(random, 32)));
        }
        // In FS, which begins where the data does.
        const bool based = operand.mem.segment == ZYDIS_REGISTER_FS;
        if (first == rax + x86::RSP) {
            stream.instructions.push_back(
                load_register(place, x86::RSP, base + layout::stack - 0x400 + 8 * pick(random, 0x40)));
        } else if (is_whole(first)) {
            const std::uint64_t aligned = pick(random, 4) == 0 ? 0 : 63;
            stream.instructions.push_back(load_register(
                place, number(first), base + (based ? 0 : layout::data) + ((0x100 + pick(random, 0x1c00)) & ~aligned)));
        }
    }
    if ((instruction.mnemonic == ZYDIS_MNEMONIC_DIV || instruction.mnemonic == ZYDIS_MNEMONIC_IDIV) &&
        pick(random, 4) != 0) {
        stream.instructions.push_back(load_register(place, x86::RDX, 0));
        stream.instructions.push_back(load_register(place, x86::RAX, pick(random, 100)));
    }
    if ((instruction.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0) {
        stream.instructions.push_back(load_register(place, x86::RCX, pick(random, 20)));
    }
    stream.instructions.push_back(std::move(next));
}

std::uint64_t random_value(Random& random)
{
    constexpr std::uint64_t interesting[] = {
        0, 1, 2, 7, 8, 31, 32, 63, 64, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fffffff, 0x80000000,
        0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
        0x3ff0000000000000, 0x7ff0000000000000, 0x7ff8000000000000, 0x7ff4000000000000,
        0x0000000000000001, 0x3f8000003f800000, 0x7f8000007fc00000};
    switch (pick(random, 4)) {
    case 0: return interesting[pick(random, std::size(interesting))];
    case 1: return pick(random, 300);
    case 2: return random() >> pick(random, 64);
    default: return random();
    }
}

// Flat segments of ring 0, and data behind FS.
void make_supervisor32(x86::CpuState& state)
{
    for (x86::Segment& segment : state.segments) {
        segment.selector = 0x10;
        segment.attributes = 0xc093;
    }
    state.segments[x86::CS].selector = 0x18;
    state.segments[x86::CS].attributes = 0xc09b;
    state.segments[x86::FS].base = layout::data;
}

// Upper halves of the registers above the seventh, as 32-bit programs have them.
void clear_high_vectors(std::uint8_t* area)
{
    std::memset(area + x86::xsave_offset_avx + 128, 0, 128);
    std::memset(area + x86::xsave_offset_zmm_hi256 + 256, 0, 256);
}

x86::CpuState random_state(Random& random, Place place)
{
    const std::uint64_t base = base_of(place);
    x86::CpuState state =
        initial_state(mode_of(place), Paging::level4);
    if (place == Place::supervisor32) make_supervisor32(state);
    state.rip += base;
    state.gpr[x86::RSP] += base;
    state.cr0 |= x86::cr0::AM;
    for (std::size_t i = 0; i < (is_code32(place) ? 8 : 16); ++i) {
        if (i == x86::RSP) continue;
        switch (pick(random, 3)) {
        case 0: state.gpr[i] = base + layout::data + pick(random, 0x2040); break;
        case 1: state.gpr[i] = base + layout::data + 8 * pick(random, 0x3f0); break;
        default: state.gpr[i] = random_value(random); break;
        }
        if (is_code32(place)) state.gpr[i] &= 0xffffffff;
    }
    if (pick(random, 3) != 0) state.gpr[x86::RCX] = pick(random, 40);
    if (is_user(place)) state.rflags |= x86::rflags::IF;  // as natively
    state.rflags |= random() & x86::rflags::STATUS;
    if (pick(random, 8) == 0) state.rflags |= x86::rflags::DF;
    auto& area = state.xsave.bytes;
    const auto fill = [&](std::size_t at, std::size_t size) {
        for (std::size_t i = 0; i < size; i += 8) {
            const std::uint64_t value = random_value(random);
            std::memcpy(area.data() + at + i, &value, 8);
        }
    };
    fill(160, 256);
    std::uint64_t present = 3;
    if (pick(random, 2) == 0 && (state.xcr0 & x86::xcr0::AVX) != 0) {
        fill(x86::xsave_offset_avx, 256);
        present |= x86::xcr0::AVX;
        constexpr auto avx512 = x86::xcr0::OPMASK | x86::xcr0::ZMM_HI256 | x86::xcr0::HI16_ZMM;
        if (pick(random, 2) == 0 && (state.xcr0 & avx512) == avx512) {
            fill(x86::xsave_offset_opmask, 64);
            fill(x86::xsave_offset_zmm_hi256, 512);
            fill(x86::xsave_offset_hi16_zmm, 1024);
            present |= avx512;
        }
    }
    std::memcpy(area.data() + 512, &present, 8);
    if (is_code32(place)) clear_high_vectors(area.data());
    // Some runs with floating-point exceptions unmasked.
    if (pick(random, 6) == 0) area[24 + 0] = static_cast<std::uint8_t>(pick(random, 2) << 7);
    return state;
}

}  // namespace

const ZydisDecoder& decoder_for(Place place)
{
    static const ZydisDecoder code64 = make_decoder(ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    static const ZydisDecoder code32 =
        make_decoder(ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    return is_code32(place) ? code32 : code64;
}

std::vector<std::uint8_t> Stream::lay_out() const
{
    std::vector<std::size_t> start;
    std::vector<std::uint8_t> code;
    for (const Instruction& instruction : instructions) {
        start.push_back(code.size());
        code.insert(code.end(), instruction.bytes.begin(), instruction.bytes.end());
    }
    start.push_back(code.size());
    for (std::size_t i = 0; i < instructions.size(); ++i) {
        if (!instructions[i].branch) continue;
        const std::size_t target = i + 1 + instructions[i].bytes.front() % 3;
        const std::size_t delta = start[std::min(target, instructions.size())] - start[i + 1];
        code[start[i + 1] - 1] = static_cast<std::uint8_t>(std::min<std::size_t>(delta, 0));
        if (delta < 128) code[start[i + 1] - 1] = static_cast<std::uint8_t>(delta);
    }
    return code;
}

std::string Stream::text() const
{
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    const std::vector<std::uint8_t> code = lay_out();
    const std::uint64_t start = layout::code + base_of(place);
    std::string out;
    for (std::size_t at = 0; at < code.size();) {
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_for(place), code.data() + at, code.size() - at,
                                                 &instruction, operands))) {
            break;
        }
        char line[256];
        ZydisFormatterFormatInstruction(&formatter, &instruction, operands,
                                        instruction.operand_count_visible, line, sizeof line,
                                        start + at, nullptr);
        std::string hex;
        for (unsigned i = 0; i < instruction.length; ++i) hex += fmt::format("{:02x}", code[at + i]);
        out += fmt::format("  {:x}: {:<32} {}\n", start + at, hex, line);
        at += instruction.length;
    }
    return out;
}

Stream random_stream(Random& random, unsigned max_instructions, const Kind& kind)
{
    Stream stream;
    stream.place = kind.place;
    const std::uint64_t count = 1 + pick(random, max_instructions);
    while (stream.instructions.size() < count) {
        if (auto instruction = random_instruction(random, kind.place)) {
            if (kind.steady) {
                add_steadily(random, stream, std::move(*instruction));
            } else {
                stream.instructions.push_back(std::move(*instruction));
            }
        }
    }
    stream.state = random_state(random, kind.place);
    stream.memory.resize(0x2000);
    for (std::size_t i = 0; i < stream.memory.size(); i += 8) {
        const std::uint64_t value = random_value(random);
        std::memcpy(stream.memory.data() + i, &value, 8);
    }
    return stream;
}

}  // namespace doppel::conformance
