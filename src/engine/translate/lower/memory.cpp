// Instructions that are copied, with their memory operand where guest memory is.
#include <algorithm>

#include "engine/translate/lower/liveness.h"
#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

namespace {

constexpr std::uint8_t narrow_candidates[] = {rdx, rcx, rax, rsi, rdi, rbx};
constexpr std::uint8_t wide_candidates[] = {rdx, rcx, rax, rsi, rdi, rbx, 8, 9, 10, 11, 14, 15};

std::uint8_t first_of(std::uint32_t registers, const Instruction& instruction)
{
    const auto candidates = wide_base(instruction) ? std::span<const std::uint8_t>{wide_candidates}
                                                   : std::span<const std::uint8_t>{narrow_candidates};
    for (const std::uint8_t reg : candidates) {
        if (((registers >> reg) & 1) != 0) return reg;
    }
    return no_register;
}

}  // namespace

void Lowering::displaced(std::uint32_t from, std::uint8_t reg, Displaced::Where where,
                         std::uint8_t slot)
{
    if (from != code_.size()) result_.displaced.push_back({from, code_.size(), reg, where, slot});
}

// A register that the guest no longer needs, since a later instruction overwrites it. Its value
// need not be loaded again, but is kept for who looks at it meanwhile: a handler of a fault, a
// debugger. no_register: there is none.
std::uint8_t Lowering::take_unread(std::span<const Instruction> rest)
{
    constexpr std::uint8_t first_slot = 4;
    const std::uint8_t reg = first_of(dead_registers(rest), rest.front());
    const std::span taken{unread_.registers.data(), unread_.count};
    const auto is_taken = [&](auto member, std::uint8_t value) {
        return std::any_of(taken.begin(), taken.end(),
                           [&](const auto& each) { return each.*member == value; });
    };
    if (reg == no_register || is_taken(&Unread::Register::reg, reg)) return reg;
    if (unread_.count == unread_.registers.size()) return no_register;
    std::uint8_t slot = first_slot;
    while (is_taken(&Unread::Register::slot, slot)) ++slot;
    code_.save(reg, Code::slot(slot));
    unread_.registers[unread_.count++] = {reg, slot, 0};
    return reg;
}

// The nth register borrowed at the same time. None is in `used`.
Lowering::Borrowed Lowering::borrow(std::uint32_t used, unsigned nth)
{
    Borrowed borrowed;
    for (const std::uint8_t reg : narrow_candidates) {
        if (((used >> reg) & 1) != 0) continue;
        borrowed.reg = reg;
        borrowed.slot = static_cast<std::uint8_t>(reg <= rdx ? reg : 3 + nth);
        borrowed.spilled = true;
        code_.save(reg, Code::slot(borrowed.slot));
        break;
    }
    return borrowed;
}

// To be called behind the first host instruction that changes it.
void Lowering::borrowed_changes(Borrowed& borrowed)
{
    borrowed.displaced_from = code_.size();
}

void Lowering::give_back(const Borrowed& borrowed)
{
    if (!borrowed.spilled) return;
    code_.load(borrowed.reg, Code::slot(borrowed.slot));
    displaced(borrowed.displaced_from, borrowed.reg, Displaced::Where::slot, borrowed.slot);
}

bool Lowering::place_operand(const Instruction& instruction, Rewrite& rewrite) const
{
    if (user_) {
        rewrite.segment = instruction.segment;
    } else {
        if (instruction.far_index) return false;
        if (instruction.base == rsp) {
            // Already folded; FS and GS would add their base to the fold.
            if (instruction.segment != Segment::none) return false;
        } else {
            switch (instruction.segment) {
            case Segment::none: rewrite.segment = Segment::gs; break;
            case Segment::gs: rewrite.segment = Segment::fs; break;
            case Segment::fs: return false;
            }
        }
    }
    if (instruction.base == rip_register && fits_signed_32(instruction.address)) {
        rewrite.address = Rewrite::Address::absolute;
    }
    return true;
}

bool Lowering::plain(std::span<const Instruction> rest)
{
    const Instruction& instruction = rest.front();
    if (!user_ && instruction.rsp_operand) return stack_pointer(rest);
    Rewrite rewrite;
    if (instruction.memory) {
        if (!place_operand(instruction, rewrite)) return false;
    } else if (user_) {
        // Implicit operands obey the prefix too.
        rewrite.segment = instruction.segment;
    }
    return with_address(rest, rewrite);
}

// Copies the instruction; an address relative to RIP that is out of reach goes into a register.
bool Lowering::with_address(std::span<const Instruction> rest, Rewrite rewrite)
{
    const Instruction& instruction = rest.front();
    if (instruction.base != rip_register || rewrite.address != Rewrite::Address::same) {
        return copy(instruction, rewrite, code_);
    }
    rewrite.address = Rewrite::Address::based;
    rewrite.base = user_ ? take_unread(rest) : no_register;
    if (rewrite.base != no_register) {
        code_.load_guest_address(rewrite.base, instruction.address);
        Unread::Register& taken = unread_.registers[unread_.count - 1];
        if (taken.from == 0) taken.from = code_.size();
        return copy(instruction, rewrite, code_);
    }
    Borrowed borrowed = borrow(unsigned{instruction.reads} | instruction.overwrites, 0);
    if (borrowed.reg == no_register) return false;
    rewrite.base = borrowed.reg;
    code_.load_guest_address(borrowed.reg, instruction.address);
    borrowed_changes(borrowed);
    if (!copy(instruction, rewrite, code_)) return false;
    give_back(borrowed);
    return true;
}

bool Lowering::lea(const Instruction& instruction)
{
    const unsigned to = instruction.modrm_reg();
    if (!user_ && (instruction.rsp_operand || instruction.base == rsp)) {
        return lea_stack_pointer(instruction);
    }
    if (instruction.base != rip_register) return copy(instruction, {}, code_);
    if (instruction.operand_width != 64) code_.record_relocations(nullptr);
    if (instruction.operand_width == 16) {
        code_.byte(0x66);  // mov r16, imm16
        if (to >= 8) code_.byte(0x41);
        code_.byte(0xb8 | (to & 7));
        code_.byte(instruction.address & 0xff);
        code_.byte((instruction.address >> 8) & 0xff);
        return true;
    }
    if (instruction.operand_width == 64) {
        code_.load_guest_address(to, instruction.address);
    } else {
        code_.load_immediate(to, instruction.address & 0xffffffff);
    }
    return true;
}

// Supervisor code: a segment prefix folds the source at RSI, nothing but arithmetic the
// destination at RDI.
bool Lowering::string(const Instruction& instruction)
{
    Rewrite rewrite;
    if (user_) {
        rewrite.segment = instruction.segment;
        return copy(instruction, rewrite, code_);
    }
    if (instruction.segment == Segment::fs) return false;
    if (instruction.uses(rsi)) {
        rewrite.segment = instruction.segment == Segment::gs ? Segment::fs : Segment::gs;
    }
    if (!instruction.uses(rdi)) return copy(instruction, rewrite, code_);

    Borrowed borrowed;
    borrowed.reg = rdx;
    borrowed.slot = 2;
    borrowed.spilled = true;
    code_.save(rdx, Code::slot(2));
    code_.load_immediate(rdx, fold);
    borrowed_changes(borrowed);
    code_.add_addresses(rdi, rdi, rdx);
    const std::uint32_t folded_from = code_.size();
    if (!copy(instruction, rewrite, code_)) return false;
    code_.load_immediate(rdx, 0 - fold);
    code_.add_addresses(rdi, rdi, rdx);
    displaced(folded_from, rdi, Displaced::Where::folded, 0);
    give_back(borrowed);
    return true;
}

}  // namespace doppel::engine::translate
