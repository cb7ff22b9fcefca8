// 32-bit code. It has eight registers, whose upper halves are zero whenever translated code runs;
// R8 to R15 are ours:
//
//   R8 .. R13   scratch within one guest instruction: nothing has to be borrowed
//   R14, R15    low halves of the guest's FS.base and GS.base
//
// User code sees its memory where it is, supervisor code through the host's GS (layout.h's
// window32). ESP is the guest's own in both. The host's PUSH and POP move eight bytes, so the stack is
// worked on with MOV. LEA adds up what several of them do to ESP, before something else needs it.
#include "engine/translate/lower/lower.h"
#include "x86/registers.h"

namespace doppel::engine::translate {

namespace {

constexpr unsigned load = 0x8b, store = 0x89;
constexpr int slot_size = 4;

}  // namespace

std::optional<Lowering::Outcome> Lowering::lower_code32(const Instruction& instruction)
{
    const auto lowered = [](bool done) { return done ? Outcome::lowered : Outcome::failed; };
    const auto ended = [](bool done) { return done ? Outcome::ended : Outcome::failed; };
    if (!leaves_esp_behind(instruction)) catch_up_esp();
    switch (instruction.kind) {
    case Kind::plain: return lowered(plain_code32(instruction));
    case Kind::lea: return lowered(copy_lea_code32(instruction, no_register, code_));
    case Kind::string: return lowered(string_code32(instruction));
    case Kind::push: return lowered(push_code32(instruction));
    case Kind::pop: return lowered(pop_code32(instruction));
    case Kind::push_all: push_all_code32(); return Outcome::lowered;
    case Kind::pop_all: pop_all_code32(); return Outcome::lowered;
    case Kind::leave: leave_code32(); return Outcome::lowered;
    case Kind::pushf: return lowered(push_flags_code32());
    case Kind::call:
        push_return_code32(instruction);
        go_to(instruction.immediate, source_.mode);
        return Outcome::ended;
    case Kind::jump_indirect: case Kind::call_indirect: return ended(indirect_code32(instruction));
    case Kind::ret: ret_code32(instruction); return Outcome::ended;
    default: return std::nullopt;
    }
}

// ---- operands ------------------------------------------------------------------------------------

void Lowering::window_prefix()
{
    if (!user_) code_.byte(0x65);
}

namespace {

bool within(const Instruction& instruction, Reach reach)
{
    constexpr std::uint32_t page = 4096, longest_operand = 64;
    if (reach != Reach::page) return reach == Reach::whole;
    return instruction.base == no_register && instruction.index == no_register &&
           static_cast<std::uint32_t>(instruction.displacement) <= page - longest_operand;
}

}  // namespace

bool Lowering::place_code32(const Instruction& instruction, Rewrite32& rewrite) const
{
    rewrite.window = !user_;
    switch (instruction.segment) {
    case Segment::none: return true;
    case Segment::fs: rewrite.base = fs_register; return within(instruction, source_.mode.fs);
    case Segment::gs: rewrite.base = gs_register; return within(instruction, source_.mode.gs);
    }
    return false;
}

bool Lowering::plain_code32(const Instruction& instruction)
{
    Rewrite32 rewrite;
    if (instruction.memory && !place_code32(instruction, rewrite)) return false;
    return copy_code32(instruction, rewrite, code_);
}

// Supervisor code: as in 64-bit code the destination at EDI takes no prefix; its upper half,
// which is the window's base meanwhile, nobody takes for the guest's.
bool Lowering::string_code32(const Instruction& instruction)
{
    if (instruction.segment != Segment::none) return false;
    const bool moves_window = !user_ && instruction.uses(rdi);
    if (moves_window) {
        code_.load_immediate(r13, window32);
        code_.add_addresses(rdi, rdi, r13);
    }
    if (user_) {
        code_.byte(0x67);
    } else {
        if (instruction.uses(rsi)) code_.byte(0x65);
    }
    if (!copy_code32(instruction, {}, code_)) return false;
    if (moves_window) {
        code_.byte(0x89);  // mov edi, edi
        code_.byte(0xff);
    }
    return true;
}

// ---- the stack -----------------------------------------------------------------------------------

// mov between `reg` and [guest's ESP + displacement], which fits a byte.
void Lowering::move_stack(unsigned opcode, unsigned reg, int displacement)
{
    displacement += behind_.offset;
    window_prefix();
    if (reg >= 8) code_.byte(0x44);
    code_.byte(opcode);
    code_.byte((displacement == 0 ? 0u : 0x40u) | (reg & 7) << 3 | 4);
    code_.byte(0x24);
    if (displacement != 0) code_.byte(static_cast<std::uint8_t>(displacement));
}

// It does not look at ESP, or knows where it is.
bool Lowering::leaves_esp_behind(const Instruction& instruction) const
{
    constexpr std::int32_t most = 64;
    if (behind_.offset < -most || behind_.offset > most) return false;
    switch (instruction.kind) {
    case Kind::plain: case Kind::lea: return !instruction.uses(rsp);
    case Kind::push: case Kind::pop:
        return instruction.memory ? instruction.base != rsp : (instruction.opcode & 0xf7) != 0x54;
    case Kind::nothing: case Kind::call: case Kind::ret: return true;
    default: return false;
    }
}

// The guest's ESP moves, the host's does not.
void Lowering::leave_esp_behind(std::int32_t by)
{
    if (behind_.offset != 0) {
        result_.displaced.push_back(
            {behind_.from, code_.size(), rsp, Displaced::Where::moved, 0, behind_.offset});
    }
    behind_ = {behind_.offset + by, code_.size()};
}

// lea esp, [rsp + by], and by all that was left behind.
void Lowering::catch_up_esp(std::int32_t by)
{
    const std::int32_t change = behind_.offset + by;
    if (change != 0) {
        const bool small = change >= -128 && change <= 127;
        code_.byte(0x8d);
        code_.byte(small ? 0x64 : 0xa4);
        code_.byte(0x24);
        if (small) {
            code_.byte(static_cast<std::uint8_t>(change));
        } else {
            code_.dword(static_cast<std::uint32_t>(change));
        }
    }
    leave_esp_behind(0);
    behind_ = {};
}

// mov [guest's ESP - 4], value
void Lowering::push_immediate(std::uint32_t value)
{
    window_prefix();
    constexpr std::uint8_t store_immediate[] = {0xc7, 0x44, 0x24};
    code_.bytes(store_immediate, sizeof store_immediate);
    code_.byte(static_cast<std::uint8_t>(behind_.offset - slot_size));
    code_.dword(value);
}

bool Lowering::push_code32(const Instruction& instruction)
{
    if (instruction.memory) {
        Rewrite32 rewrite;
        if (!place_code32(instruction, rewrite)) return false;
        rewrite.move = load;
        rewrite.reg = r13;
        if (!copy_code32(instruction, rewrite, code_)) return false;
        move_stack(store, r13, -slot_size);
    } else if ((instruction.opcode & 0xf8) == 0x50) {
        move_stack(store, instruction.opcode & 7, -slot_size);
    } else if (instruction.opcode == 0x68 || instruction.opcode == 0x6a) {
        push_immediate(static_cast<std::uint32_t>(instruction.immediate));
    } else {
        return false;
    }
    leave_esp_behind(-slot_size);
    return true;
}

bool Lowering::pop_code32(const Instruction& instruction)
{
    if (instruction.memory) {
        // An address with ESP means the one behind.
        Rewrite32 rewrite;
        if (instruction.base == rsp || !place_code32(instruction, rewrite)) return false;
        rewrite.move = store;
        rewrite.reg = r13;
        move_stack(load, r13, 0);
        if (!copy_code32(instruction, rewrite, code_)) return false;
    } else if ((instruction.opcode & 0xf8) == 0x58) {
        const unsigned to = instruction.opcode & 7;
        move_stack(load, to, 0);
        if (to == rsp) return true;  // nothing is left behind here
    } else {
        return false;
    }
    leave_esp_behind(slot_size);
    return true;
}

void Lowering::push_all_code32()
{
    for (unsigned i = 0; i < 8; ++i) move_stack(store, i, -slot_size * static_cast<int>(i + 1));
    catch_up_esp(-8 * slot_size);
}

// No register changes before the last word is there.
void Lowering::pop_all_code32()
{
    struct Word {
        std::uint8_t reg, by_way_of;
    };
    constexpr Word words[] = {{rdi, r8}, {rsi, r9}, {rbp, r10}, {rsp, no_register},
                              {rbx, r11}, {rdx, r12}, {rcx, r13}, {rax, rax}};
    int at = 0;
    for (const Word& word : words) {
        if (word.reg != rsp) move_stack(load, word.by_way_of, at);
        at += slot_size;
    }
    for (const Word& word : words) {
        if (word.reg != rsp && word.reg != rax) code_.move(word.reg, word.by_way_of);
    }
    catch_up_esp(8 * slot_size);
}

void Lowering::leave_code32()
{
    window_prefix();
    constexpr std::uint8_t leave[] = {
        0x44, 0x8b, 0x6d, 0x00,  // mov r13d, [rbp]
        0x8d, 0x65, 0x04,        // lea esp, [rbp + 4]
        0x44, 0x89, 0xed,        // mov ebp, r13d
    };
    code_.bytes(leave, sizeof leave);
}

// The host's flags by way of a stack of ours, which no signal of the host's uses: a slot of the
// context. A single step would show TF; PEXT and PDEP take out what is the guest's.
bool Lowering::push_flags_code32()
{
    constexpr std::uint32_t own = x86::rflags::STATUS | x86::rflags::DF | x86::rflags::ID;
    constexpr std::uint32_t interrupts = x86::rflags::IF | 2;
    if (!host_has_rorx() || source_.mode.privileged) return false;
    constexpr std::uint8_t lea_rsp[] = {0x48, 0x8d, 0x25};  // lea rsp, [rip + slot 6]
    constexpr std::uint8_t take[] = {
        0x9c,        // pushfq
        0x41, 0x59,  // pop r9
    };
    constexpr std::uint8_t mask[] = {
        0xc4, 0x42, 0xb2, 0xf5, 0xca,  // pext r9, r9, r10
        0xc4, 0x42, 0xb3, 0xf5, 0xca,  // pdep r9, r9, r10
    };
    code_.move(r8, rsp);
    code_.bytes(lea_rsp, sizeof lea_rsp);
    code_.context_operand(Code::slot(6), 0);
    code_.bytes(take, sizeof take);
    code_.move(rsp, r8);
    code_.load_immediate(r10, own);
    code_.bytes(mask, sizeof mask);
    if (user_) {
        code_.load_immediate(r10, source_.mode.masked ? 2 : interrupts);
    } else {
        code_.load(r10, context_offset::system_flags);
    }
    code_.add_addresses(r9, r9, r10);
    move_stack(store, r9, -slot_size);
    leave_esp_behind(-slot_size);
    return true;
}

// ---- control flow --------------------------------------------------------------------------------

void Lowering::push_return_code32(const Instruction& instruction)
{
    push_immediate(static_cast<std::uint32_t>(rip_behind(instruction)));
    code_.relocated_before(sizeof(std::uint32_t), Relocation::Kind::guest32);
    catch_up_esp(-slot_size);
}

bool Lowering::indirect_code32(const Instruction& instruction)
{
    save_target_register();
    std::uint32_t rcx_from = code_.size();
    unsigned target = instruction.modrm_rm();
    if (instruction.memory) {
        Rewrite32 rewrite;
        if (!place_code32(instruction, rewrite)) return false;
        rewrite.move = load;
        rewrite.reg = rcx;
        if (!copy_code32(instruction, rewrite, code_)) return false;
        target = rcx;
        rcx_from = code_.size();
    } else if (target == rsp) {
        code_.move(rcx, rsp);
        rcx_from = code_.size();
        target = rcx;
    }
    if (instruction.kind == Kind::call_indirect) push_return_code32(instruction);
    if (target != rcx) rcx_from = code_.size();
    dispatch(rcx_from, target);
    return true;
}

void Lowering::ret_code32(const Instruction& instruction)
{
    save_target_register();
    move_stack(load, rcx, 0);
    const std::uint32_t rcx_from = code_.size();
    const bool releases = instruction.opcode == 0xc2;
    const auto arguments = static_cast<std::int32_t>(instruction.immediate & 0xffff);
    catch_up_esp(slot_size + (releases ? arguments : 0));
    dispatch(rcx_from, rcx);
}

}  // namespace doppel::engine::translate
