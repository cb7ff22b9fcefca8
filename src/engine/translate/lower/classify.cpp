#include "engine/translate/lower/classify.h"

#include <array>

#include "engine/interpret/thunk/allow_list.h"

namespace doppel::engine::translate {

namespace {

using interpret::thunk::Verdict;

// Unprivileged, without effects but on general registers, flags and memory. Their forms with
// other registers (segments, control registers) are told apart by operand.
constexpr ZydisMnemonic integer_mnemonics[] = {
#define M(name) ZYDIS_MNEMONIC_##name
    M(MOV), M(MOVZX), M(MOVSX), M(MOVSXD), M(ADD), M(ADC), M(SUB), M(SBB), M(AND), M(OR), M(XOR),
    M(CMP), M(TEST), M(INC), M(DEC), M(NEG), M(NOT), M(MUL), M(IMUL), M(DIV), M(IDIV), M(SHL),
    M(SHR), M(SAR), M(ROL), M(ROR), M(RCL), M(RCR), M(SHLD), M(SHRD), M(BT), M(BTS), M(BTR),
    M(BTC), M(BSF), M(BSR), M(BSWAP), M(XCHG), M(XADD), M(CMPXCHG), M(CMPXCHG8B), M(CMPXCHG16B),
    M(CBW), M(CWDE), M(CDQE), M(CWD), M(CDQ), M(CQO), M(PUSH), M(POP), M(LAHF), M(SAHF), M(CLC),
    M(STC), M(CMC), M(CLD), M(STD), M(MOVNTI), M(PAUSE), M(LFENCE), M(MFENCE), M(SFENCE),
    M(PREFETCHNTA), M(PREFETCHT0), M(PREFETCHT1), M(PREFETCHT2), M(PREFETCHW), M(PREFETCH),
    M(CMOVB), M(CMOVBE), M(CMOVL), M(CMOVLE), M(CMOVNB), M(CMOVNBE), M(CMOVNL), M(CMOVNLE),
    M(CMOVNO), M(CMOVNP), M(CMOVNS), M(CMOVNZ), M(CMOVO), M(CMOVP), M(CMOVS), M(CMOVZ),
    M(SETB), M(SETBE), M(SETL), M(SETLE), M(SETNB), M(SETNBE), M(SETNL), M(SETNLE), M(SETNO),
    M(SETNP), M(SETNS), M(SETNZ), M(SETO), M(SETP), M(SETS), M(SETZ),
};
constexpr ZydisMnemonic conditional_mnemonics[] = {
    M(JB), M(JBE), M(JL), M(JLE), M(JNB), M(JNBE), M(JNL), M(JNLE), M(JNO), M(JNP), M(JNS), M(JNZ),
    M(JO), M(JP), M(JS), M(JZ),
};
// Written out by the interpreter for its own reasons; while translated code may use vector
// registers the host's state is the guest's.
constexpr ZydisMnemonic vector_mnemonics[] = {
    M(LDMXCSR), M(STMXCSR), M(VLDMXCSR), M(VSTMXCSR), M(VZEROALL), M(VZEROUPPER), M(MASKMOVDQU),
    M(VMASKMOVDQU), M(MASKMOVQ),
};
struct Special {
    ZydisMnemonic mnemonic;
    Kind kind;
};
constexpr Special specials[] = {
    {M(SERIALIZE), Kind::serialize}, {M(NOP), Kind::nothing},     {M(LEA), Kind::lea},         {M(PUSHFQ), Kind::pushf}, {M(POPFQ), Kind::popf},
    {M(LEAVE), Kind::leave},     {M(CLI), Kind::cli},         {M(STI), Kind::sti},
    {M(CLAC), Kind::clac},       {M(STAC), Kind::stac},       {M(RDTSC), Kind::rdtsc}, {M(RDTSCP), Kind::rdtscp},
    {M(SYSCALL), Kind::syscall}, {M(SYSRET), Kind::sysret},   {M(IRETQ), Kind::iret},
    {M(SWAPGS), Kind::swapgs},
    {M(RDFSBASE), Kind::read_fs_base},   {M(RDGSBASE), Kind::read_gs_base},
    {M(WRFSBASE), Kind::write_fs_base},  {M(WRGSBASE), Kind::write_gs_base},
    {M(LOOP), Kind::loop},       {M(LOOPE), Kind::loop},
    {M(LOOPNE), Kind::loop},     {M(JRCXZ), Kind::loop},      {M(JMP), Kind::jump},
    {M(CALL), Kind::call},       {M(RET), Kind::ret},
#undef M
};

enum class Table : std::uint8_t { other, integer, vector, special };
struct Entry {
    Table table = Table::other;
    Kind kind = Kind::interpret;
};

constexpr std::array<Entry, ZYDIS_MNEMONIC_MAX_VALUE + 1> make_entries()
{
    std::array<Entry, ZYDIS_MNEMONIC_MAX_VALUE + 1> entries{};
    for (const ZydisMnemonic m : integer_mnemonics) entries[m] = {Table::integer, Kind::plain};
    for (const ZydisMnemonic m : conditional_mnemonics) {
        entries[m] = {Table::special, Kind::conditional};
    }
    for (const ZydisMnemonic m : vector_mnemonics) {
        entries[m] = {Table::vector, Kind::plain};
    }
    for (const Special& special : specials) {
        entries[special.mnemonic] = {Table::special, special.kind};
    }
    return entries;
}
constexpr auto entries = make_entries();

bool is_general(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15;
}

bool only_general_registers(const ZydisDecodedInstruction& decoded,
                            const ZydisDecodedOperand* operands)
{
    for (unsigned i = 0; i < decoded.operand_count_visible; ++i) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER && !is_general(operands[i].reg.value)) {
            return false;
        }
    }
    return true;
}

bool general_isa(const ZydisDecodedInstruction& decoded)
{
    switch (decoded.meta.isa_set) {
    case ZYDIS_ISA_SET_ADOX_ADCX: case ZYDIS_ISA_SET_BMI1: case ZYDIS_ISA_SET_BMI2:
    case ZYDIS_ISA_SET_LZCNT: case ZYDIS_ISA_SET_MOVBE: case ZYDIS_ISA_SET_MOVDIR:
    case ZYDIS_ISA_SET_POPCNT: case ZYDIS_ISA_SET_RDRAND: case ZYDIS_ISA_SET_RDSEED:
        return true;
    default:
        return decoded.mnemonic == ZYDIS_MNEMONIC_CRC32;
    }
}

bool is_vex(const ZydisDecodedInstruction& decoded)
{
    return decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ||
           decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
}

// Its registers are off: #UD.
bool is_off(const ZydisDecodedInstruction& decoded, const Mode& mode)
{
    const bool avx512 = decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
                        decoded.meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX;
    return avx512 ? mode.no_avx512 : mode.no_avx && is_vex(decoded);
}

Kind by_instruction_set(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
                        bool by_hand, const Mode& mode, const x86::CpuidPolicy& cpuid)
{
    const bool general = general_isa(decoded) && only_general_registers(decoded, operands);
    if (!general && (!mode.vector || is_off(decoded, mode))) return Kind::interpret;
    if (decoded.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && !is_vex(decoded)) {
        return Kind::interpret;
    }
    const Verdict verdict = interpret::thunk::judge(decoded, cpuid);
    return verdict == Verdict::native || (by_hand && verdict == Verdict::by_hand) ? Kind::plain
                                                                                 : Kind::interpret;
}

Kind branch(const ZydisDecodedInstruction& decoded, Kind kind)
{
    // Near branches of 16-bit operand size: processors disagree.
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0) return Kind::interpret;
    if (decoded.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT && kind != Kind::conditional) {
        return Kind::interpret;
    }
    const bool address_size = (decoded.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE) != 0;
    switch (kind) {
    case Kind::jump:
        if (decoded.opcode == 0xe9 || decoded.opcode == 0xeb) return kind;
        if (decoded.opcode != 0xff || decoded.raw.modrm.reg != 4 || address_size) break;
        return Kind::jump_indirect;
    case Kind::call:
        if (decoded.opcode == 0xe8) return kind;
        if (decoded.opcode != 0xff || decoded.raw.modrm.reg != 2 || address_size) break;
        return Kind::call_indirect;
    case Kind::ret:
        if (decoded.opcode == 0xc2 || decoded.opcode == 0xc3) return kind;
        break;
    case Kind::loop:
        if (!address_size) return kind;
        break;
    default:
        return kind;
    }
    return Kind::interpret;
}

bool host_has_bmi2()
{
    static const bool has = __builtin_cpu_supports("bmi2") != 0;
    return has;
}

Kind special(const ZydisDecodedInstruction& decoded, Kind kind, const Mode& mode,
             const x86::CpuidPolicy& cpuid)
{
    switch (kind) {
    case Kind::jump: case Kind::call: case Kind::ret: case Kind::conditional: case Kind::loop:
        return branch(decoded, kind);
    case Kind::nothing:
        return kind;
    default:
        break;
    }
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE) != 0) return Kind::interpret;
    switch (kind) {
    case Kind::sysret:  // to 64-bit code only
        return mode.user || decoded.raw.rex.W == 0 ? Kind::interpret : kind;
    case Kind::cli: case Kind::sti: case Kind::iret: case Kind::swapgs:
        return mode.user ? Kind::interpret : kind;
    case Kind::stac:
        return mode.user ? Kind::interpret : kind;
    case Kind::read_fs_base: case Kind::read_gs_base:
    case Kind::write_fs_base: case Kind::write_gs_base:
        return mode.bases && decoded.raw.rex.W != 0 && host_has_bmi2() ? kind : Kind::interpret;
    case Kind::clac:  // translated supervisor code runs with AC clear
        return mode.user || !cpuid.has(7, 0, 'b', 20) ? Kind::interpret : Kind::nothing;
    case Kind::serialize:  // whatever guest code was changed is translated anew already
        return cpuid.has(7, 0, 'd', 14) ? Kind::nothing : Kind::interpret;
    case Kind::rdtscp:
        return host_has_bmi2() && cpuid.has(0x80000001, 0, 'd', 27) ? kind : Kind::interpret;
    case Kind::rdtsc:
        return host_has_bmi2() ? kind : Kind::interpret;
    case Kind::leave:
        return (decoded.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0 ? Kind::interpret : kind;
    default:
        return kind;
    }
}

Kind string(const ZydisDecodedInstruction& decoded)
{
    switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ: case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_STOSQ: case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW: case ZYDIS_MNEMONIC_LODSD: case ZYDIS_MNEMONIC_LODSQ:
    case ZYDIS_MNEMONIC_CMPSB: case ZYDIS_MNEMONIC_CMPSW: case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ: case ZYDIS_MNEMONIC_SCASB: case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD: case ZYDIS_MNEMONIC_SCASQ:
        return Kind::string;
    default:
        return Kind::interpret;
    }
}

}  // namespace

namespace {

bool reads_cr2(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands)
{
    return decoded.mnemonic == ZYDIS_MNEMONIC_MOV && decoded.operand_count_visible == 2 &&
           operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           operands[1].reg.value == ZYDIS_REGISTER_CR2 &&
           (decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK) == 0;
}

bool reads_selector(const ZydisDecodedInstruction& decoded)
{
    return decoded.mnemonic == ZYDIS_MNEMONIC_MOV && decoded.opcode == 0x8c &&
           decoded.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && decoded.raw.modrm.mod == 3 &&
           (decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK) == 0;
}

Kind classify_for(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
                  const Mode& mode, const x86::CpuidPolicy& cpuid)
{
    if (mode.code32) {
        if (const auto kind = classify_code32(decoded, operands)) return *kind;
    }
    const bool address_size = (decoded.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE) != 0;
    if (decoded.meta.category == ZYDIS_CATEGORY_STRINGOP) {
        return address_size ? Kind::interpret : string(decoded);
    }
    const Entry& entry = entries[decoded.mnemonic];
    if (entry.table == Table::special) return special(decoded, entry.kind, mode, cpuid);
    if (address_size) return Kind::interpret;
    if (entry.table == Table::integer) {
        if (!mode.user && reads_cr2(decoded, operands)) return Kind::read_cr2;
        if (!mode.user && reads_selector(decoded)) return Kind::read_selector;
        return decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
                       only_general_registers(decoded, operands)
                   ? Kind::plain
                   : Kind::interpret;
    }
    return by_instruction_set(decoded, operands, entry.table == Table::vector, mode, cpuid);
}

}  // namespace

Kind classify(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
              const Mode& mode, const x86::CpuidPolicy& cpuid)
{
    const Kind kind = classify_for(decoded, operands, mode, cpuid);
    if (kind != Kind::interpret || mode.user || mode.vector) return kind;
    Mode with_vectors = mode;
    with_vectors.vector = true;
    return classify_for(decoded, operands, with_vectors, cpuid) == kind ? kind : Kind::vectors;
}

}  // namespace doppel::engine::translate
