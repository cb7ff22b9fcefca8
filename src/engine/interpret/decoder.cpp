#include "engine/interpret/decoder.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "engine/interpret/lower.h"

namespace doppel::engine::interpret {

namespace {

using base::page_mask;
using base::page_size;

void set_up(ZydisDecoder& decoder, ZydisMachineMode mode, ZydisStackWidth width)
{
    ASSERT(ZYAN_SUCCESS(ZydisDecoderInit(&decoder, mode, width)));
    // Neither MPX nor CET is offered to guests: their encodings are NOPs.
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
}

// The synthetic op at the end of every block.
Flow leave_block(Core& core, const Op& op) noexcept
{
    core.state.rip += op.offset;
    if (core.code_size != CodeSize::bits64) core.state.rip &= 0xffffffff;
    return Flow::leave;
}

// 8-bit registers in Zydis's order: AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B...
std::uint8_t byte_register(ZydisRegister reg)
{
    const auto n = static_cast<std::uint8_t>(reg - ZYDIS_REGISTER_AL);
    if (n < 4) return n;
    return static_cast<std::uint8_t>(n < 8 ? 16 + (n - 4) : n - 4);
}

std::uint8_t register_number(ZydisRegister reg)
{
    if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR8) return byte_register(reg);
    const ZyanI8 id = ZydisRegisterGetId(reg);
    return id < 0 ? reg_none : static_cast<std::uint8_t>(id);
}

std::uint8_t segment_number(ZydisRegister reg)
{
    if (reg < ZYDIS_REGISTER_ES || reg > ZYDIS_REGISTER_GS) return segment_none;
    return static_cast<std::uint8_t>(reg - ZYDIS_REGISTER_ES);
}

// A SIB byte with base 5 and ModRM.mod 0 has no base register but a 32-bit displacement,
// whatever REX.B says. Zydis 4.0 names r13d there when the address size is 32 bits.
bool sib_without_base(const ZydisDecodedInstruction& instruction)
{
    return (instruction.attributes & ZYDIS_ATTRIB_HAS_SIB) != 0 && instruction.raw.modrm.mod == 0 &&
           (instruction.raw.sib.base & 7) == 5;
}

void set_memory(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand& operand,
                std::uint64_t next_rip, Op& op)
{
    const auto& memory = operand.mem;
    op.memory = true;
    op.segment = segment_number(memory.segment);
    op.displacement = memory.disp.has_displacement ? memory.disp.value : 0;
    if (sib_without_base(instruction)) {
        op.displacement = instruction.raw.disp.value;
    } else if (memory.base == ZYDIS_REGISTER_RIP) {
        op.displacement += static_cast<std::int64_t>(next_rip);
    } else if (memory.base == ZYDIS_REGISTER_EIP) {
        op.displacement = (op.displacement + static_cast<std::int64_t>(next_rip)) & 0xffffffff;
    } else if (memory.base != ZYDIS_REGISTER_NONE) {
        op.base = register_number(memory.base);
    }
    // A vector index (VSIB) is the thunk's business.
    if (memory.index != ZYDIS_REGISTER_NONE && memory.type != ZYDIS_MEMOP_TYPE_VSIB) {
        op.index = register_number(memory.index);
        op.scale_shift = static_cast<std::uint8_t>(
            memory.scale == 8 ? 3 : memory.scale == 4 ? 2 : memory.scale == 2 ? 1 : 0);
    }
}

void set_immediate(const ZydisDecodedOperand& operand, const ZydisDecodedInstruction& instruction,
                   CodeSize code_size, std::uint64_t next_rip, Op& op)
{
    op.immediate = operand.imm.value.u;
    if (!operand.imm.is_relative) return;
    op.immediate += next_rip;
    if (code_size == CodeSize::bits64) return;
    op.immediate &= instruction.operand_width == 16 ? 0xffff : 0xffffffff;
}

void fill(const ZydisDecodedInstruction& instruction, std::span<const ZydisDecodedOperand> operands,
          CodeSize code_size, std::uint64_t rip, Op& op)
{
    op.length = instruction.length;
    op.operand_size = static_cast<std::uint8_t>(instruction.operand_width / 8);
    op.address_size = static_cast<std::uint8_t>(instruction.address_width / 8);
    op.lock = (instruction.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
    for (const auto& prefix : std::span{instruction.raw.prefixes}.first(instruction.raw.prefix_count)) {
        // The last of several wins.
        if (prefix.value == 0xf2) {
            op.repne = true;
            op.rep = false;
        } else if (prefix.value == 0xf3) {
            op.rep = true;
            op.repne = false;
        }
    }
    op.segment_override = (instruction.attributes & ZYDIS_ATTRIB_HAS_SEGMENT) != 0;
    bool has_immediate = false;
    const std::uint64_t next_rip = rip + instruction.length;
    for (const ZydisDecodedOperand& operand : operands) {
        if (operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) continue;
        switch (operand.type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
                op.reg = register_number(operand.reg.value);
            } else if (operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                       operand.encoding == ZYDIS_OPERAND_ENCODING_OPCODE) {
                op.rm = register_number(operand.reg.value);
            }
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (!op.memory) set_memory(instruction, operand, next_rip, op);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (!has_immediate) set_immediate(operand, instruction, code_size, next_rip, op);
            has_immediate = true;
            break;
        default:
            break;
        }
    }
}

std::uint16_t counted_opcode(const ZydisDecodedInstruction& instruction)
{
    switch (instruction.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY: break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX: return 0xc5;
    default: return 0x62;
    }
    constexpr std::uint16_t escaped = 256;
    switch (instruction.opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT: return instruction.opcode;
    case ZYDIS_OPCODE_MAP_0F38: return escaped + 0x38;
    case ZYDIS_OPCODE_MAP_0F3A: return escaped + 0x3a;
    default: return escaped + instruction.opcode;
    }
}

// After these nothing of the block would run.
bool ends(const ZydisDecodedInstruction& instruction)
{
    switch (instruction.meta.category) {
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
        return true;
    default:
        return false;
    }
}

}  // namespace

Flow raise_ud(Core& core, const Op&) noexcept
{
    return core.raise(Vector::UD);
}

Decoder::Decoder(Core& core) : core_(core)
{
    set_up(bits64_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    set_up(compat32_, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    set_up(compat16_, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
    set_up(legacy32_, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    set_up(legacy16_, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    set_up(real16_, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
}

const ZydisDecoder& Decoder::decoder() const
{
    const bool long_mode = core_.state.long_mode();
    switch (core_.code_size) {
    case CodeSize::bits64: return bits64_;
    case CodeSize::bits32: return long_mode ? compat32_ : legacy32_;
    case CodeSize::bits16: break;
    }
    if (long_mode) return compat16_;
    return core_.state.protected_mode() && !core_.state.vm86() ? legacy16_ : real16_;
}

void Decoder::lower(const ZydisDecodedInstruction& instruction,
                    std::span<const ZydisDecodedOperand> operands,
                    std::span<const std::uint8_t> bytes, std::uint64_t rip, Op& op)
{
    fill(instruction, operands, core_.code_size, rip, op);
    op.opcode = counted_opcode(instruction);
    const Decoded decoded{instruction, operands, bytes, core_.code_size, rip};
    if (lower_integer(decoded, op, core_)) return;
    if (lower_system(decoded, op, core_)) {
        op.vectors = instruction.mnemonic == ZYDIS_MNEMONIC_XGETBV ||
                     instruction.mnemonic == ZYDIS_MNEMONIC_XSETBV;
        return;
    }
    if (lower_thunk(decoded, op, core_)) {
        op.vectors = true;  // or one of the few others there: a wrong yes costs time alone
        return;
    }
    op.run = raise_ud;
}

Decoder::Outcome Decoder::decode_one(std::span<const std::uint8_t> bytes, std::uint64_t rip, Op& op,
                                     bool& ends_block)
{
    // A copy: the guest's other threads may change the bytes between two looks.
    std::array<std::uint8_t, max_length + 1> copy{};
    const std::size_t size = std::min(bytes.size(), copy.size());
    std::memcpy(copy.data(), bytes.data(), size);

    ZydisDecodedInstruction instruction;
    std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;
    const ZyanStatus status = ZydisDecoderDecodeFull(&decoder(), copy.data(), size, &instruction,
                                                     operands.data());
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ||
        (status == ZYDIS_STATUS_NO_MORE_DATA && size >= max_length)) {
        return Outcome::too_long;
    }
    if (status == ZYDIS_STATUS_NO_MORE_DATA) return Outcome::incomplete;
    if (!ZYAN_SUCCESS(status)) return Outcome::undefined;
    lower(instruction, std::span{operands}.first(instruction.operand_count),
          std::span{copy}.first(instruction.length), rip, op);
    ends_block = ends(instruction) || op.run == raise_ud;
    return Outcome::decoded;
}

Block* Decoder::decode(std::uint64_t linear, std::uint64_t ram_offset, unsigned max_ops) noexcept
{
    core_.blocks->watch(ram_offset);
    settled_ = !core_.blocks->unsettled(ram_offset);  // before the bytes are read
    const auto* page = std::bit_cast<const std::uint8_t*>(core_.memory.ram() + ram_offset);
    const std::uint64_t rip = core_.state.rip;
    std::uint64_t left = page_size - (linear & page_mask);
    bool cut = false;
    if (core_.code_size != CodeSize::bits64) {
        // The caller has checked that the first byte is within the limit.
        const std::uint64_t to_limit = core_.state.segments[x86::CS].limit - rip + 1;
        cut = to_limit < left;
        left = std::min(left, to_limit);
    }

    unsigned count = 0;
    std::uint32_t bytes = 0;
    for (bool ends_block = false; !ends_block && count < max_ops && bytes < left; ++count) {
        Op& op = ops_[count] = Op{};
        op.offset = static_cast<std::uint16_t>(bytes);
        const auto rest = std::span{page + bytes, left - bytes};
        const Outcome outcome = decode_one(rest, rip + bytes, op, ends_block);
        if (outcome == Outcome::decoded) {
            bytes += op.length;
            continue;
        }
        if (outcome == Outcome::undefined) {
            op.run = raise_ud;
            op.length = 1;
            bytes += 1;
            ++count;
            break;
        }
        if (count != 0) break;
        // The first instruction cannot be had whole.
        if (outcome == Outcome::too_long || cut) {
            core_.raise(Vector::GP);
            return nullptr;
        }
        return decode_straddling(linear, ram_offset);
    }
    return finish(ram_offset, Block::no_page, count, bytes, !cut);
}

Block* Decoder::decode_straddling(std::uint64_t linear, std::uint64_t ram_offset)
{
    const std::uint64_t first_size = page_size - (linear & page_mask);
    const std::uint64_t rip = core_.state.rip;
    std::uint64_t next = linear + first_size;
    std::uint64_t left = first_size + max_length;
    if (core_.code_size != CodeSize::bits64) {
        next &= 0xffffffff;
        left = std::min(left, core_.state.segments[x86::CS].limit - rip + 1);
    }
    std::uint64_t second_page = 0;
    if (!MemoryAccess::fetch_page(core_, next, second_page)) return nullptr;

    std::array<std::uint8_t, 2 * max_length> bytes;
    bytes.fill(0xff);
    std::memcpy(bytes.data(), core_.memory.ram() + ram_offset, first_size);
    const bool has_second = second_page != FetchEntry::no_memory;
    if (has_second) {
        core_.blocks->watch(second_page);
        settled_ = settled_ && !core_.blocks->unsettled(second_page) &&
                   !core_.blocks->unsettled(ram_offset);
        std::memcpy(bytes.data() + first_size, core_.memory.ram() + second_page, max_length);
    }
    Op& op = ops_[0] = Op{};
    bool ends_block = false;
    const Outcome outcome = decode_one(std::span{bytes}.first(left), rip, op, ends_block);
    if (outcome == Outcome::incomplete || outcome == Outcome::too_long) {
        core_.raise(Vector::GP);
        return nullptr;
    }
    if (outcome == Outcome::undefined) {
        op.run = raise_ud;
        op.length = static_cast<std::uint8_t>(first_size + 1);
    }
    return finish(ram_offset, second_page, 1, op.length, has_second && op.length > first_size);
}

Block* Decoder::finish(std::uint64_t ram_offset, std::uint64_t second_page, unsigned count,
                       std::uint32_t bytes, bool keep)
{
    Op& last = ops_[count] = Op{};
    last.run = leave_block;
    last.offset = static_cast<std::uint16_t>(bytes);

    auto block = std::make_unique<Block>();
    block->rip = core_.state.rip;
    block->mode_key = core_.mode_key;
    block->count = count;
    block->bytes = bytes;
    block->ram_offset = ram_offset;
    block->second_page = second_page;
    block->storage = std::make_unique<Op[]>(count + 1);
    std::copy_n(ops_.begin(), count + 1, block->storage.get());
    block->vectors = std::any_of(ops_.begin(), ops_.begin() + count,
                                 [](const Op& op) { return op.vectors; });
    block->ops = block->storage.get();
    if (keep && settled_) return &core_.blocks->add(std::move(block));
    transient_ = std::move(block);
    return transient_.get();
}

}  // namespace doppel::engine::interpret
