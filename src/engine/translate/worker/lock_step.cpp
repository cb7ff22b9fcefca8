#include "engine/translate/worker/lock_step.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/address.h"

namespace doppel::engine::translate {

namespace {

using interpret::TrialWrite;
using Tried = interpret::Interpreter::Tried;
using x86::rflags::STATUS;

// A string instruction may need several steps: 64 KiB of them.
constexpr unsigned parts_max = 4096;

// Another answer each time.
bool unpredictable(const Instruction& instruction)
{
    return instruction.kind == Kind::rdtsc || instruction.kind == Kind::rdtscp ||
           instruction.mnemonic == ZYDIS_MNEMONIC_RDRAND ||
           instruction.mnemonic == ZYDIS_MNEMONIC_RDSEED;
}

}  // namespace

LockStep::LockStep(const Parts& parts)
    : interpreter_(parts.interpreter), registers_(parts.interpreter.direct()),
      memory_(parts.memory), cpuid_(parts.cpuid), one_in_(parts.one_in), watch_ns_(parts.watch_ns),
      verified_(nowhere)
{
}

bool LockStep::due(const Block& block)
{
    ++since_;
    if (!seen_.insert(block.host).second && since_ < one_in_) return false;
    since_ = 0;
    due_ = block.host;
    return true;
}

// ---- prediction --------------------------------------------------------------------------------

void LockStep::copy_code(const Block& block)
{
    const std::byte* const ram = memory_.ram();
    const std::size_t own = std::min<std::size_t>(
        block.guest_bytes, base::page_size - (block.ram_offset & base::page_mask));
    code_.resize(block.guest_bytes);
    std::memcpy(code_.data(), ram + block.ram_offset, own);
    if (own == code_.size() || block.second_page == Block::no_page) return;
    std::memcpy(code_.data() + own, ram + block.second_page, code_.size() - own);
}

bool LockStep::prepare(const Block& block)
{
    mode_ = block.mode;
    host_ = block;
    vectors_ = false;
    copy_code(block);
    instructions_.clear();
    Mode without_vectors = mode_;
    without_vectors.vector = false;
    for (std::size_t done = 0; instructions_.size() < block.guest_count;) {
        const auto bytes = std::span{code_}.subspan(done);
        Instruction instruction;
        Instruction other;
        if (decode(bytes, block.rip + done, mode_, cpuid_, instruction) != Decoding::decoded) break;
        static_cast<void>(decode(bytes, block.rip + done, without_vectors, cpuid_, other));
        vectors_ = vectors_ || other.kind != instruction.kind;
        instruction.offset = static_cast<std::uint16_t>(done);
        done += instruction.length;
        instructions_.push_back(instruction);
    }
    return vectors_;
}

void LockStep::predict()
{
    ++counts_.checked;
    counts_.user += mode_.user ? 1 : 0;
    verified_ = nowhere;
    boundaries_.clear();
    xsave_.clear();
    after_.clear();

    state_ = *registers_.state;
    std::copy_n(registers_.gpr, 16, state_.gpr.begin());
    state_.rflags = interpreter_.rflags();

    interpreter_.begin_trial();
    push_boundary(0, true);
    std::size_t done = 0;
    while (done < instructions_.size() && boundaries_.back().inside && try_next(done)) ++done;
    whole_ = done == instructions_.size() || !boundaries_.back().inside;
    interpreter_.end_trial();

    *registers_.state = state_;
    std::copy_n(state_.gpr.begin(), 16, registers_.gpr);
    interpreter_.set_rflags(state_.rflags);
    interpreter_.mode_changed();
    counts_.instructions += done;
    counts_.writes += interpreter_.trial_writes().size();
    armed_ = true;
}

bool LockStep::try_next(std::size_t index)
{
    const Instruction& instruction = instructions_[index];
    if (unpredictable(instruction)) return false;
    const std::size_t writes = interpreter_.trial_writes().size();
    Tried tried = Tried::part;
    for (unsigned parts = 0; tried == Tried::part && parts < parts_max; ++parts) {
        tried = interpreter_.try_step();
    }
    keep_writes(writes);
    if (tried != Tried::done) return false;
    const std::uint64_t undefined =
        (boundaries_.back().undefined & ~std::uint64_t{instruction.defines_flags}) |
        instruction.undefines_flags;
    const std::uint64_t behind = boundaries_.back().rip + instruction.length;
    push_boundary(undefined, *registers_.rip == behind);
    return true;
}

// What the instruction that was tried last has left there.
void LockStep::keep_writes(std::size_t from)
{
    const auto& writes = interpreter_.trial_writes();
    for (std::size_t i = from; i < writes.size(); ++i) {
        const std::byte* at = memory_.ram() + writes[i].ram_offset;
        after_.insert(after_.end(), at, at + writes[i].size);
    }
}

void LockStep::push_boundary(std::uint64_t undefined, bool inside)
{
    Boundary boundary;
    std::copy_n(registers_.gpr, 16, boundary.gpr.begin());
    boundary.rip = *registers_.rip;
    boundary.rflags = interpreter_.rflags();
    boundary.fs_base = registers_.state->segments[x86::FS].base;
    boundary.gs_base = registers_.state->segments[x86::GS].base;
    boundary.kernel_gs_base = registers_.state->kernel_gs_base;
    boundary.undefined = undefined;
    boundary.writes = interpreter_.trial_writes().size();
    boundary.inside = inside;
    boundaries_.push_back(boundary);
    if (vectors_) xsave_.push_back(registers_.state->xsave);
}

// ---- verification ------------------------------------------------------------------------------

// A branch may lead to an address that is also that of an instruction before it.
const LockStep::Boundary* LockStep::find(Left left) const
{
    const auto here = [this](const Boundary& each) { return each.rip == *registers_.rip; };
    if (left == Left::end) {
        return whole_ && here(boundaries_.back()) ? &boundaries_.back() : nullptr;
    }
    const auto at = std::find_if(boundaries_.begin(), boundaries_.end(), here);
    return at == boundaries_.end() ? nullptr : &*at;
}

LockStep::Allowance LockStep::allowance(Left left, std::size_t index) const
{
    Allowance allowed;
    allowed.flags = boundaries_[index].undefined;
    if (left != Left::middle || index >= instructions_.size()) return allowed;
    allowed.vector_status = index + 1 == boundaries_.size();
    return allowed;
}

void LockStep::verify(Left left)
{
    verified_ = nowhere;
    if (!std::exchange(armed_, false)) return;
    differences_.clear();
    const Boundary* expected = find(left);
    if (expected == nullptr) {
        if (!whole_) {
            ++counts_.partly;
            return;
        }
        differ("it leads to an address that the interpreter does not come by");
        report(nullptr);
        return;
    }
    const auto index = static_cast<std::size_t>(expected - boundaries_.data());
    // A repeated string instruction may be left on its way: its registers say how far it came.
    const bool in_string = left == Left::middle && index < instructions_.size() &&
                           instructions_[index].kind == Kind::string;
    if (in_string) {
        ++counts_.partly;
        return;
    }
    if (left == Left::middle) verified_ = index;
    compare(*expected, allowance(left, index));
    if (!differences_.empty()) {
        report(expected);
    } else {
        disturbed_.erase(due_);
    }
}

void LockStep::fault_delivered()
{
    if (verified_ == nowhere || verified_ + 1 >= boundaries_.size()) return;
    differences_.clear();
    differ("it faults at an instruction that does not fault for the interpreter");
    report(&boundaries_[verified_]);
}

void LockStep::abandon()
{
    armed_ = false;
    ++counts_.abandoned;
}

void LockStep::compare(const Boundary& expected, const Allowance& allowed)
{
    compare_registers(expected, allowed);
    if (vectors_) {
        const auto index = static_cast<std::size_t>(&expected - boundaries_.data());
        compare_vectors(xsave_[index], !allowed.vector_status);
    }
    compare_memory(expected.writes);
}

// Bytes of a later write, or of the processor's own in page tables, say nothing here.
bool LockStep::settled(std::uint64_t byte, std::size_t from, std::size_t to) const
{
    const auto& writes = interpreter_.trial_writes();
    const auto covers = [byte](const TrialWrite& write) {
        return byte - write.ram_offset < write.size;
    };
    const auto tables = [&covers](const TrialWrite& write) {
        return write.page_table && covers(write);
    };
    return std::any_of(writes.begin() + static_cast<std::ptrdiff_t>(from),
                       writes.begin() + static_cast<std::ptrdiff_t>(to), covers) ||
           std::any_of(writes.begin(), writes.end(), tables);
}

}  // namespace doppel::engine::translate
