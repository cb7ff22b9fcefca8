#include "engine/translate/lower/liveness.h"
#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

namespace {

constexpr std::size_t room_for_one = 256;    // host code of one guest instruction
constexpr std::size_t room_for_cold = 48;    // one piece of the cold part

ExitKind exit_kind(Kind kind)
{
    switch (kind) {
    case Kind::syscall: return ExitKind::syscall;
    case Kind::sysret: return ExitKind::sysret;
    case Kind::iret: return ExitKind::iret;
    case Kind::swapgs: return ExitKind::swapgs;
    case Kind::vectors: return ExitKind::vectors;
    case Kind::device: return ExitKind::device;
    case Kind::stac: return ExitKind::stac;
    default: return ExitKind::interpret;
    }
}

}  // namespace

Lowering::Lowering(const Source& source, Code& code, Numbers first, std::uint64_t common_exit,
                   Translation& result)
    : source_(source), code_(code), first_(first), common_exit_(common_exit),
      result_(result), user_(source.mode.user),
      learns_(source.mode.gs_free && !source.mode.alone &&
              (fits_signed_32(source.rip) || host_has_rorx()))
{
}

bool Lowering::run(std::span<const Instruction> instructions, Follows follows)
{
    std::uint32_t done = 0;       // bytes
    Mark shadow_mark{};           // before the STI whose shadow the next instruction is in
    const Instruction* shadow = nullptr;
    bool ended = false;

    const auto end_with = [&](const Instruction& instruction, ExitKind kind) {
        restore_unread();
        catch_up_esp();
        point(instruction.offset);
        leave(kind, rip_of(instruction));
        done = instruction.offset + std::uint32_t{instruction.length};
        ended = true;
    };

    for (std::size_t i = 0; i < instructions.size() && !ended; ++i) {
        if (!code_.room(room_for_one)) return false;
        const Instruction& instruction = instructions[i];
        const Mark before = mark();
        point(instruction.offset);
        result_.points.back().shadow = shadow != nullptr;
        const Outcome outcome = lower(instructions.subspan(i));
        if (shadow != nullptr && outcome == Outcome::failed) {
            // What follows STI must run before an interrupt is taken, and it is not here.
            roll_back(shadow_mark);
            --result_.count;
            end_with(*shadow, ExitKind::interpret);
            break;
        }
        if (outcome == Outcome::failed) {
            roll_back(before);
            end_with(instruction, exit_kind(instruction.kind));
            break;
        }
        end_unread(instruction);
        ++result_.count;
        done = instruction.offset + std::uint32_t{instruction.length};
        ended = outcome == Outcome::ended;
        shadow = instruction.kind == Kind::sti ? &instruction : nullptr;
        if (shadow != nullptr) shadow_mark = before;
    }
    if (!ended && shadow != nullptr) {
        if (!code_.room(room_for_one)) return false;
        roll_back(shadow_mark);
        --result_.count;
        end_with(*shadow, ExitKind::interpret);
    }
    if (!ended) {
        if (!code_.room(room_for_one)) return false;
        catch_up_esp();
        point(done);
        if (follows == Follows::undecodable) {
            leave(ExitKind::interpret, source_.rip + done);
        } else {
            go_to(source_.rip + done, source_.mode);
        }
    }
    result_.guest_bytes = done;
    result_.hot_size = code_.size();
    if (user_ && !source_.mode.alone && done > source_.own_bytes) {
        jump_to_cold(Cold::Kind::by_cell, 0, source_.rip);
    }
    code_.begin_cold();
    result_.cold = code_.size();
    emit_cold();
    result_.size = result_.hot_size + (code_.size() - result_.cold);
    return !code_.overflow();
}

Lowering::Outcome Lowering::lower(std::span<const Instruction> rest)
{
    const Instruction& instruction = rest.front();
    const auto lowered = [](bool done) { return done ? Outcome::lowered : Outcome::failed; };
    const auto ended = [](bool done) { return done ? Outcome::ended : Outcome::failed; };
    if (source_.mode.code32) {
        if (const auto outcome = lower_code32(instruction)) return *outcome;
    }
    if (source_.mode.gs_free && instruction.segment == Segment::gs) return Outcome::failed;
    // A branch beyond the end of an address space half: it faults where it is.
    if (is_direct_branch(instruction.kind) && !x86::canonical(instruction.immediate)) {
        return Outcome::failed;
    }
    switch (instruction.kind) {
    case Kind::plain: return lowered(plain(rest));
    case Kind::nothing: return Outcome::lowered;
    case Kind::lea: return lowered(lea(instruction));
    case Kind::string: return lowered(string(instruction));
    case Kind::pushf: return lowered(push_flags(instruction));
    case Kind::popf: return lowered(pop_flags(instruction));
    case Kind::leave: return lowered(leave_frame(instruction));
    case Kind::cli:
        code_.store_byte(context_offset::system_flags + 1, 0);
        return Outcome::lowered;
    case Kind::sti:
        // With an interrupt waiting the interpreter does it, and what comes in its shadow.
        check_pending(rip_of(instruction));
        code_.store_byte(context_offset::system_flags + 1, 2);
        return Outcome::lowered;
    case Kind::read_cr2:
        if (instruction.modrm_rm() == rsp) return Outcome::failed;
        code_.load(instruction.modrm_rm(), context_offset::cr2);
        return Outcome::lowered;
    case Kind::read_selector: return lowered(read_selector(instruction));
    case Kind::read_fs_base:
        if (instruction.modrm_rm() == rsp) return Outcome::failed;
        code_.load(instruction.modrm_rm(), context_offset::guest_fs_base);
        return Outcome::lowered;
    case Kind::read_gs_base: return lowered(read_gs_base(instruction));
    case Kind::write_fs_base: case Kind::write_gs_base: return lowered(write_base(instruction));
    case Kind::swapgs: swap_gs(instruction); return Outcome::lowered;
    case Kind::rdtsc: read_tsc(); return Outcome::lowered;
    case Kind::rdtscp:
        read_tsc();
        code_.load_low(rcx, context_offset::tsc_aux);
        return Outcome::lowered;
    case Kind::jump:
        go_to(instruction.immediate, source_.mode);
        return Outcome::ended;
    case Kind::call:
        if (!push_return(instruction)) return Outcome::failed;
        go_to(instruction.immediate, source_.mode);
        return Outcome::ended;
    case Kind::conditional: {
        const bool done = conditional(instruction);
        return instruction.goes_on ? lowered(done) : ended(done);
    }
    case Kind::loop: return ended(loop(instruction));
    case Kind::jump_indirect: case Kind::call_indirect: return ended(indirect(instruction));
    case Kind::ret: return ended(ret(instruction));
    case Kind::interpret: case Kind::syscall: case Kind::sysret: case Kind::iret:
    case Kind::serialize: case Kind::clac: case Kind::vectors: case Kind::device:
    case Kind::stac: case Kind::push: case Kind::pop: case Kind::push_all: case Kind::pop_all:
        return Outcome::failed;
    }
    return Outcome::failed;
}

void Lowering::emit_cold()
{
    for (std::size_t i = 0; i < cold_count_; ++i) {
        if (!code_.room(room_for_cold)) return;
        const Cold cold = cold_[i];  // there may be more of them behind it
        if (cold.patch != 0) {
            code_.patch(cold.patch, code_.size());
            code_.leads_to_cold(cold.patch);
        }
        switch (cold.kind) {
        case Cold::Kind::stub: stub(cold.exit); break;
        case Cold::Kind::learn: {
            const std::uint32_t from = code_.size();
            code_.load(rcx, Code::slot(1));
            displaced(from, rcx, Displaced::Where::slot, 1);
            stub(cold.exit);
            break;
        }
        case Cold::Kind::by_cell:
            if (cold.patch == 0) result_.by_cell = code_.size();
            jump_by_cell(cold.value);
            break;
        case Cold::Kind::literal:
            code_.relocated(Relocation::Kind::guest);
            code_.qword(cold.value);
            break;
        }
    }
}

Lowering::Mark Lowering::mark() const
{
    return {code_.size(), result_.points.size(), result_.displaced.size(), result_.exits.size(),
            cold_count_, result_.cells, unread_, behind_};
}

void Lowering::roll_back(const Mark& mark)
{
    code_.roll_back(mark.size);
    result_.points.resize(mark.points);
    result_.displaced.resize(mark.displaced);
    result_.exits.resize(mark.exits);
    cold_count_ = mark.cold;
    result_.cells = mark.cells;
    unread_ = mark.unread;
    behind_ = mark.behind;
}

// Behind an instruction: what it has overwritten is exact again.
void Lowering::end_unread(const Instruction& instruction)
{
    unsigned left = 0;
    for (unsigned i = 0; i < unread_.count; ++i) {
        const Unread::Register& each = unread_.registers[i];
        if ((instruction.overwrites >> each.reg & 1) != 0) {
            displaced(each.from, each.reg, Displaced::Where::slot, each.slot);
        } else {
            unread_.registers[left++] = each;
        }
    }
    unread_.count = left;
    if (unread_.flags.from == 0 || !overwrites_flags(instruction) ||
        unread_.flags.from == code_.size()) {
        return;
    }
    unread_.flags.to = code_.size();
    result_.displaced.push_back(unread_.flags);
    unread_.flags = {};
}

// The block ends before they are overwritten.
void Lowering::restore_unread()
{
    for (unsigned i = 0; i < unread_.count; ++i) {
        const Unread::Register& each = unread_.registers[i];
        code_.load(each.reg, Code::slot(each.slot));
        displaced(each.from, each.reg, Displaced::Where::slot, each.slot);
    }
    unread_.count = 0;
    if (unread_.flags.from != 0) restore_flags();
}

// Of several boundaries at one host offset (a NOP has no code) the last counts.
void Lowering::point(std::uint32_t guest)
{
    const auto offset = static_cast<std::uint16_t>(guest);
    if (!result_.points.empty() && result_.points.back().host == code_.size()) {
        result_.points.back().guest = offset;
        result_.points.back().shadow = false;
    } else {
        result_.points.push_back({code_.size(), offset, false});
    }
}

std::uint64_t Lowering::rip_of(const Instruction& instruction) const
{
    return source_.rip + instruction.offset;
}

std::uint64_t Lowering::rip_behind(const Instruction& instruction) const
{
    return rip_of(instruction) + instruction.length;
}

}  // namespace doppel::engine::translate
